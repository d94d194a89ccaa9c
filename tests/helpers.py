"What several test modules call: the command, small pictures for it, and what a refusal has to be."

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from partbook.cli import main


def run(*words) -> int:
    "The exit status of `partbook WORDS`, run in this process."
    try:
        return main([str(w) for w in words])
    except SystemExit as stop:
        return stop.code


def sentence(capsys, *words) -> str:
    "What is said on the error stream of a run that has to fail."
    capsys.readouterr()
    assert run(*words) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("partbook") and "\n" not in said and "Traceback" not in said
    return said


def message(error: pytest.ExceptionInfo) -> str:
    "The text of an error, which has to be one sentence."
    said = str(error.value)
    assert "\n" not in said and said.endswith("."), said
    return said


def noise(path: Path, seed: int = 0, size: tuple[int, int] = (40, 32)) -> Path:
    "A picture of noise, of so many rows and columns, in a folder that is made for it."
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def quick(data, out, *more, size: int = 16, parts: int = 2) -> list:
    "The words of a `discover` that takes a moment: colours, tiny pictures, few parts."
    words = ["discover", "--data", data, "--features", "rgb", "--size", size, "--parts", parts]
    return [*words, "--out", out, *more]


# of a browser that asks nobody but the page it was given
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
