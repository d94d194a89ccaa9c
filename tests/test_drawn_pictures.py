"""Every drawn picture is what it always was: digests of pictures, labels, landmarks and boxes.

Processors round the last bit of an exponential or a sine differently, so there is a file of digests
for each kind of processor that drew them; all of a picture has to be as on one of them."""

import hashlib
import importlib
import json
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from partbook.data.sample import Sample, collections

HERE = Path(__file__).parent
COMMITTED = sorted(HERE.glob("drawn_pictures*.json"))  # a file for each kind of processor
OPTIONS = [  # collection, options; each picture of INDICES in each
    *[
        (name, {"split": split, "size": size, "seed": seed})
        for name in ("birds", "faces", "vehicles", "figures")
        for split, size, seed in (("train", None, 0), ("val", 48, 0), ("test", 96, 3))
    ],
    ("faces", {"aligned": True}),
    ("vehicles", {"categories": "all", "size": 32}),
    *[
        ("vehicles", {"categories": kind})
        for kind in ("aeroplane", "bicycle", "bus", "motorbike", "train")
    ],
]
INDICES = (0, 1, 2, 7, 19, 254)
POSED = {  # collection: the function that poses one, and what it is told
    "birds": (
        "pose_bird",
        [{}, {"species": "heron", "facing": "left", "wing": 1.0, "plain": True}],
    ),
    "faces": ("pose_face", [{}, {"person": 24, "yaw": 0.5, "hand": 1.0, "plain": True}]),
    "vehicles": (
        "pose_vehicle",
        [{}, {"kind": "aeroplane", "facing": "left", "palette": 3, "plain": True}],
    ),
    "figures": ("pose_figure", [{}, {"size": 96, "plain": True, "seed": 5}]),
}


def digest(sample: Sample) -> str:
    "A few letters that change with any bit of anything the sample holds."
    told = hashlib.sha256()
    for field in fields(Sample):
        value = getattr(sample, field.name)
        if isinstance(value, torch.Tensor):
            told.update(f"{field.name} {value.dtype} {tuple(value.shape)} ".encode())
            told.update(value.contiguous().cpu().numpy().tobytes())
        else:
            told.update(f"{field.name} {value!r} ".encode())
    return told.hexdigest()[:16]


def drawn(name: str, options: dict) -> list[str]:
    return [digest(sample) for sample in collections[name].open(**options).take(INDICES)]


def posed(name: str) -> list[str]:
    word, settings = POSED[name]
    pose = getattr(importlib.import_module(collections[name].__module__), word)
    return [digest(pose(**one)) for one in settings]


def label(name: str, options: dict) -> str:
    return " ".join([name, *(f"{k}={v}" for k, v in options.items())])


def found() -> dict[str, list[str]]:
    "All digests of the code as it is."
    pictures = {label(name, options): drawn(name, options) for name, options in OPTIONS}
    return pictures | {f"{name} posed": posed(name) for name in POSED}


@pytest.fixture(scope="module")
def committed():
    return [json.loads(path.read_text()) for path in COMMITTED]


@pytest.mark.parametrize("name, options", OPTIONS, ids=[label(*one) for one in OPTIONS])
def test_drawn_to_the_bit(name, options, committed):
    assert drawn(name, options) in [known[label(name, options)] for known in committed]


@pytest.mark.parametrize("name", POSED)
def test_posed_to_the_bit(name, committed):
    assert posed(name) in [known[f"{name} posed"] for known in committed]


def test_every_digest_is_compared(committed):
    names = {label(*one) for one in OPTIONS} | {f"{name} posed" for name in POSED}
    for known in committed:
        assert set(known) == names
        digests = [d for row in known.values() for d in row]
        assert len(digests) == len(OPTIONS) * len(INDICES) + sum(len(s) for _, s in POSED.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("name, options", OPTIONS, ids=[label(*one) for one in OPTIONS])
def test_a_gpu_draws_the_same(name, options):
    class There(type(collections[name].open())):
        def stream(self, indices):
            stream = super().stream(indices)
            stream.state = stream.state.to("cuda")
            stream.device = stream.state.device
            return stream

    here, there = (c.open(**options).batch(INDICES) for c in (collections[name], There))
    assert (there.parts.cpu() == here.parts).float().mean() > 0.999
    torch.testing.assert_close(there.images.cpu(), here.images, atol=0.02, rtol=0)


if __name__ == "__main__":  # on purpose only: python tests/test_drawn_pictures.py FILE
    (HERE / sys.argv[1]).write_text(json.dumps(found(), indent=1) + "\n")
