"What hostile inputs are made from: drawn photographs, their masks, and models, all made once."

import io
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.optim.optimizer import register_optimizer_step_post_hook

from partbook.cli import main

SIZE = (48, 40)  # width and height of the drawn photographs
QUICK = ("--features", "rgb", "--size", 16, "--parts", 3, "--steps", 1, "--no-baselines")
TRAIN = (
    "--method",
    "contrastive",
    "--size",
    32,
    "--parts",
    3,
    "--steps",
    4,
    "--set",
    "batch_size=2",
)
TRAIN = (*TRAIN, "--checkpoint-every", 2, "--no-baselines")


def drawn(seed: int, size: tuple[int, int] = SIZE) -> tuple[Image.Image, np.ndarray]:
    "A photograph of a thing on a textured ground, and where the thing is, (H,W) bool."
    r = np.random.default_rng(seed)
    W, H = size
    ground = r.integers(60, 120, (5, 5, 3)).astype(np.uint8)
    image = Image.fromarray(ground).resize(size, Image.Resampling.BICUBIC)
    mask = Image.new("L", size, 0)
    x, y = W * (0.42 + 0.16 * r.random()), H * (0.48 + 0.1 * r.random())
    a, b = W * 0.24, H * 0.26
    body, head = (x - a, y - b, x + a, y + b), (x - a / 2, y - 1.6 * b, x + a / 2, y - b / 2)
    for shape, colour in ((body, (200, 60, 40)), (head, (240, 220, 60))):
        ImageDraw.Draw(image).ellipse(shape, fill=colour)
        ImageDraw.Draw(mask).ellipse(shape, fill=255)
    return image, np.asarray(mask) > 0


def encoded(image: Image.Image, kind: str = "PNG", **how) -> bytes:
    "A picture file's content."
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def put(path: Path, content: bytes | str) -> Path:
    "Write a file, with the folders above it."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def photographs(folder: Path, count: int = 3, ending: str = "png", stem: str = "p") -> Path:
    "A folder of drawn photographs p0, p1, ..."
    for i in range(count):
        kind = {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper())
        put(folder / f"{stem}{i}.{ending}", encoded(drawn(i)[0], kind))
    return folder


DEVICES = {"null": 3, "zero": 5, "full": 7}  # their minor numbers


def device(folder: Path, name: str) -> str:
    """The path of a device of the case's own, which a wrong program may replace without harm.

    The system's devices are never given to what writes: whoever may make devices may lose them.
    Where none can be made, a pipe stands for it.
    """
    path = folder / name
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, DEVICES[name]))
    except OSError:
        os.mkfifo(path)
    return str(path)


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    "Intersection over union; 0 for masks of different sizes."
    if found.shape != truth.shape:
        return 0.0
    return float((found & truth).sum() / max(1, (found | truth).sum()))


@contextmanager
def small_and_alone() -> Iterator[None]:
    "Small sizes for now, and one thread from now on, so that this process can be forked."
    before = os.environ.get("PARTBOOK_SMALL")
    os.environ["PARTBOOK_SMALL"] = "1"
    torch.set_num_threads(1)  # for good: MKL may wait for ever after a change back to several
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("PARTBOOK_SMALL")
        else:
            os.environ["PARTBOOK_SMALL"] = before


class Stopped(KeyboardInterrupt):
    "Ctrl-C, in the kit's own run."


def run(*words) -> int:
    "The exit status of a command that belongs to the kit, whose words go nowhere."
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        return main([str(w) for w in words])


def interrupted(step: int, *words) -> int:
    "The same, stopped as Ctrl-C would after `step` steps of the optimiser."
    taken = []

    def count(*_):
        taken.append(1)
        if len(taken) == step:
            raise Stopped()

    hook = register_optimizer_step_post_hook(count)
    try:
        return run(*words)
    finally:
        hook.remove()


class Kit:
    "Things made once in `folder`; each at its first use."

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True)

    @cached_property
    def photos(self) -> Path:
        return photographs(self.folder / "photos")

    @cached_property
    def out(self) -> Path:
        "What `discover` leaves, of k-means over colours."
        assert run("discover", "--data", self.photos, *QUICK, "--out", self.folder / "out") == 0
        return self.folder / "out"

    @property
    def model(self) -> Path:
        return self.out / "model"

    @cached_property
    def whole(self) -> Path:
        "What four undisturbed steps of training leave."
        out = self.folder / "whole"
        assert run("discover", "--data", self.photos, *TRAIN, "--out", out) == 0
        return out

    @cached_property
    def half(self) -> Path:
        "What the same training leaves when it is stopped in its third step."
        out = self.folder / "half"
        assert interrupted(3, "discover", "--data", self.photos, *TRAIN, "--out", out) == 130
        return out

    def fixture(self, name: str) -> Path:
        "A tiny data set in the layout of a public one."
        from painters import aflw, celeba, coco, cub, deepfashion, pascal, vehiclepart

        folder = self.folder / "data" / name
        if not folder.exists():
            small = folder / {"cub": "CUB_200_2011", "pascal": "VOC2010"}.get(name, "")
            {
                "cub": lambda: cub.write_cub_fixture(small, n=4, masks=True),
                "celeba": lambda: celeba.write_celeba_fixture(small, n=8),
                "coco-parts": lambda: coco.write_coco_fixture(small, n=4),
                "aflw": lambda: aflw.write_aflw_fixture(small, n=6),
                "deepfashion": lambda: deepfashion.write_deepfashion_fixture(small),
                "pascal": lambda: pascal.write_pascal_fixture(small),
                "vehiclepart": lambda: vehiclepart.write_vehiclepart_fixture(small, n=6),
            }[name]()
        return folder

    def copy(self, source: Path, target: Path) -> Path:
        "A copy of something of the kit, to be damaged."
        if source.is_dir():
            return Path(shutil.copytree(source, target, symlinks=True))
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(source, target))
