"VOC's masks as programs save them again: the same objects, or one sentence."

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import message
from painters.pascal import write_pascal_fixture
from PIL import Image

from partbook.core import InputError
from partbook.readers.pascal import (
    CLASSES,
    PASCAL,
    VOID,
    PascalObject,
    PascalPicture,
    read_indices,
    read_segmentation,
    voc_greys,
    voc_palette,
    write_pascal,
)

FOLDERS = ("SegmentationClass", "SegmentationObject")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return write_pascal_fixture(tmp_path_factory.mktemp("voc") / "VOC2010")


@pytest.fixture
def root(drawn, tmp_path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "VOC2010"))


def as_grey(path: Path) -> None:
    Image.open(path).convert("RGB").convert("L").save(path)


def as_numbers(path: Path) -> None:
    Image.fromarray(np.array(Image.open(path))).save(path)  # mode L, the indices themselves


def sorted_palette(path: Path) -> None:
    "As optimisers do: the most frequent colour first, the palette as short as possible."
    indices = np.array(Image.open(path))
    used, counts = np.unique(indices, return_counts=True)
    order = used[np.argsort(-counts, kind="stable")]
    table = np.zeros(256, np.uint8)
    table[order] = np.arange(len(order))
    image = Image.fromarray(table[indices]).convert("P")
    image.putpalette(voc_palette()[order].ravel().tolist())
    image.save(path)


def other_palette(path: Path) -> None:
    "The same indices under colours of one's own."
    image = Image.fromarray(np.array(Image.open(path))).convert("P")
    image.putpalette([v for k in range(256) for v in (k, 255 - k, 40)])
    image.save(path)


def quantised(path: Path) -> None:
    "Saved as colours and made a palette image again by another program."
    image = Image.open(path).convert("RGB")
    image.quantize(len(image.getcolors()), dither=Image.Dither.NONE).save(path)


@pytest.mark.parametrize("change", [as_grey, as_numbers, sorted_palette, other_palette, quantised])
def test_the_same_objects_come_back(drawn, root, change):
    for path in [p for folder in FOLDERS for p in sorted((root / folder).iterdir())]:
        change(path)
    seen = 0
    for path in sorted((drawn / FOLDERS[0]).iterdir()):
        before = read_segmentation(drawn, path.stem)
        after = read_segmentation(root, path.stem)
        assert [o.kind for o in before] == [o.kind for o in after]
        assert all(np.array_equal(a.mask, b.mask) for a, b in zip(before, after, strict=True))
        seen += len(after)
    assert seen == 15
    horses, again = (
        PASCAL.open(place, "all", categories="horse", source="voc", lists="Segmentation")
        for place in (drawn, root)
    )
    assert [s.name for s in horses] == [s.name for s in again] and len(again) == 4
    for k in range(4):
        assert (horses[k].mask == again[k].mask).all() and (horses.void(k) == again.void(k)).all()


def alone(folder: Path, *kinds: str) -> Path:
    "One picture with an object of each kind side by side, and no void pixel."
    objects = []
    for k, kind in enumerate(kinds):
        mask = np.zeros((30, 60), bool)
        mask[5:25, 4 + 18 * k : 16 + 18 * k] = True
        objects.append(PascalObject(kind, mask))
    picture = PascalPicture("one", torch.zeros(3, 30, 60), objects)
    root = write_pascal(folder, [picture])
    for name in FOLDERS:
        path = root / name / "one.png"
        indices = np.zeros((30, 60), np.uint8)
        for n, o in enumerate(objects, 1):
            number = n if name == "SegmentationObject" else CLASSES.index(o.kind) + 1
            indices[o.mask] = number
        picture = Image.fromarray(indices).convert("P")
        picture.putpalette(voc_palette().ravel().tolist())
        picture.save(path)
    return root


@pytest.mark.parametrize(
    "kinds", [("boat",), ("chair",), ("boat", "chair"), ("person",), ("train", "person")]
)
@pytest.mark.parametrize("change", [as_grey, as_numbers])
def test_a_grey_that_could_be_two_classes(tmp_path, kinds, change):
    "15 is a person's number and a boat's brightness; the twin of the objects tells which."
    root = alone(tmp_path / "VOC2010", *kinds)
    before = read_segmentation(root, "one")
    for name in FOLDERS:
        change(root / name / "one.png")
    after = read_segmentation(root, "one")
    assert [o.kind for o in after] == [o.kind for o in before] == list(kinds)
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("kind, grey", [("aeroplane", 38), ("pottedplant", 38), ("sofa", 113)])
def test_greys_of_two_classes_are_refused(tmp_path, kind, grey):
    root = alone(tmp_path / "VOC2010", kind)
    for name in FOLDERS:
        as_grey(root / name / "one.png")
    with pytest.raises(InputError) as error:
        read_segmentation(root, "one")
    assert f"was saved as grey, and grey {grey} is the brightness of two classes" in message(error)


def test_colours_are_refused_by_name(root):
    for mode, name in (("RGB", "2008_000001"), ("RGBA", "2008_000002"), ("I;16", "2008_000003")):
        path = root / FOLDERS[0] / f"{name}.png"
        image = Image.open(path).convert("RGB" if mode == "I;16" else mode)
        if mode == "I;16":
            image = Image.fromarray(np.array(image.convert("L")).astype(np.uint16) * 257)
        image.save(path)
        with pytest.raises(InputError) as error:
            read_segmentation(root, name)
        held = "deep greys" if mode == "I;16" else "colours"
        assert f"holds {held} (mode {mode}), but masks of VOC are palette" in message(error)


def test_a_jpeg_is_no_mask(root):
    path = root / FOLDERS[0] / "2008_000001.png"
    buffer = io.BytesIO()
    Image.open(path).convert("L").save(buffer, "JPEG")
    path.write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match="is a JPEG, which blurs the borders of a mask"):
        read_segmentation(root, "2008_000001")


def test_indices_with_gaps_are_no_sorted_palette(tmp_path):
    "Index 2 in the colour of index 1 is taken by its number: nobody sorted this palette."
    indices = np.array([[0, 2, 2, 5]], np.uint8)
    image = Image.fromarray(indices).convert("P")
    colours = voc_palette()
    colours[2] = voc_palette()[1]
    image.putpalette(colours.ravel().tolist())
    image.save(tmp_path / "a.png")
    assert read_indices(tmp_path / "a.png", 20).tolist() == indices.tolist()


def test_brightness_is_pillows():
    bright = voc_greys()
    assert bright[[0, 1, 4, 13, 15, 16, VOID]].tolist() == [0, 38, 15, 72, 147, 38, 220]
