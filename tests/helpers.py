"What several test modules call: the command, and the one sentence that a refusal has to be."

import pytest

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
