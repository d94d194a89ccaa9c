"""What the chapter on CUB promises, on drawn birds: every case that a reader need not see."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from painters.cub import _draw_bird, write_cub_fixture
from PIL import Image

from partbook.core import InputError, generator
from partbook.data.sample import Sample, batches, collections, cropped, resized
from partbook.readers import cub as module
from partbook.readers.cub import (
    CUB,
    HEIGHT,
    IMAGE,
    LANDMARKS,
    WIDTH,
    X,
    Y,
    missing_files,
    read_list,
    write_cub,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_cub_fixture(tmp_path_factory.mktemp("cub") / "CUB_200_2011", masks=True)


@pytest.fixture(scope="module")
def cub(root):
    return CUB.open(root, "all")


def test_one_list(tmp_path):
    "Byte-order marks and blank lines change nothing; anything else is told with its line."
    listing = tmp_path / "boxes.txt"
    listing.write_bytes(b"\xef\xbb\xbf1 60.0 27.0 325.0 304.0\r\n\r\n2 139 30 153 264")
    boxes = read_list(listing, [IMAGE, X, Y, WIDTH, HEIGHT])
    assert boxes == {1: (1, 60.0, 27.0, 325.0, 304.0), 2: (3, 139.0, 30.0, 153.0, 264.0)}
    for text, message in [
        (
            "1 60 27 325",
            "line 1: '1 60 27 325' has 4 fields, not the 5 of <image id> <x> <y> <width> <height>",
        ),
        ("\n1 60 27 x 304", "line 2: <width> is 'x', not a positive number"),
        ("1 60 nan 325 304", "<y> is 'nan', not a number"),
        ("1 60 27 -325 304", "<width> is '-325', not a positive number"),
        (
            "1 60 27 5 5\n1 60 27 5 5",
            "line 2: image id 1 stands here for the second time, first in line 1",
        ),
        ("  \n", "holds no line"),
    ]:
        listing.write_text(text)
        with pytest.raises(InputError, match=message):
            read_list(listing, [IMAGE, X, Y, WIDTH, HEIGHT])


def test_missing_files(root):
    assert missing_files(
        root, ["images.txt", "parts/parts.txt", "parts/none.txt", "nowhere/a.txt"]
    ) == ["parts/none.txt", "nowhere/a.txt"]


def test_whole_data_set_is_split_as_published(cub, monkeypatch):
    monkeypatch.setattr(module, "FULL", {"train": 5, "test": len(cub) - 5})
    with pytest.raises(
        InputError, match="train_test_split.txt: expected 5 photographs for training"
    ):
        cub.counts()


def test_splits_parents_and_categories(root, cub):
    train, test = (CUB.open(root.parent, split) for split in ("train", "test"))
    assert len(train) + len(test) == len(cub) == 8
    assert {s.name for s in train}.isdisjoint(s.name for s in test)
    assert cub.category_names == ("001.Drawn_Albatross", "002.Drawn_Gull", "003.Drawn_Petrel")
    only = CUB.open(root, "all", categories=(3,))
    assert (
        only.category_names == ("003.Drawn_Petrel",)
        and {s.category for s in only} == {0}
        and len(only) == 2
    )
    assert (
        CUB.present(root.parent)
        and not CUB.present(root.parent / "elsewhere")
        and CUB.open(root).split == "train"
    )
    with pytest.MonkeyPatch.context() as variables:
        variables.setenv("PARTBOOK_CUB", str(root))
        assert len(CUB.open(split="all")) == 8


def test_round_trip_of_odd_birds(cub, tmp_path):
    "A greyscale file, a box one pixel beyond the border, every other bird for training."
    g = generator(0)
    drawn = [_draw_bird(f"bird_{i:04d}", (i - 1) % 3, g, i == 2, i == 3) for i in range(1, 9)]
    for s, t in zip(drawn, cub):
        assert (
            torch.equal(s.landmarks, t.landmarks)
            and torch.equal(s.visible, t.visible)
            and torch.equal(s.mask, t.mask)
        )
        assert (s.image - t.image).abs().mean() < 0.02 and s.category == t.category
    assert torch.equal(cub[1].image[0], cub[1].image[2])
    H, W = cub[2].size
    assert drawn[2].box[0] + drawn[2].box[2] == W + 1 and cub[2].box[0] + cub[2].box[2] == W
    assert (
        cub[2].visible[LANDMARKS.index("right wing")]
        and not cub[2].visible[LANDMARKS.index("left wing")]
    )  # it looks to the right
    written = write_cub(tmp_path / "halves" / "CUB_200_2011", drawn, cub.category_names)
    halves = [CUB.open(written, split) for split in ("train", "test")]
    assert [s.name[-5] for half in halves for s in half] == [
        "1",
        "3",
        "5",
        "7",
        "2",
        "4",
        "6",
        "8",
    ]  # every other, if not told


def test_landmarks_lie_on_the_bird(root, cub):
    for collection in (
        cub,
        CUB.open(root, "all", size=64),
        resized(cropped(cub, pad=0.05, square=True), 64),
    ):
        for s in collection:
            x, y = s.landmarks[s.visible].long().T
            assert s.mask[y, x].float().mean() > 0.9, s.name
    batch = next(batches(resized(cub, 48), 8))
    assert (
        batch.images.shape == (8, 3, 48, 48)
        and batch.landmarks.shape == (8, 15, 2)
        and batch.masks.any((1, 2)).all()
    )


def test_choosing(root, cub):
    seen = [int(s.visible.sum()) for s in cub]
    strict = CUB.open(root, "all", min_visible=6)
    assert [s.name for s in strict] == [s.name for s, v in zip(cub, seen) if v >= 6] and len(
        strict
    ) < len(cub)
    assert len(CUB.open(root, "all", min_visible=12)) == seen.count(12)  # at least, not more than
    with pytest.raises(InputError, match="holds no image of split 'all'.*ask for less"):
        CUB.open(root, "all", min_visible=15)
    with pytest.raises(
        InputError, match="lists no image of category 4; there are images of: 1, 2, 3"
    ):
        CUB.open(root, categories=(1, 4))
    with pytest.raises(InputError, match="no split 'val'; choose one of: train, test, all"):
        CUB.open(root, "val")


def damaged(root: Path, name: str, change: Callable[[str], str] | None) -> Path:
    "A fresh copy of the folder with one list changed (or removed)."
    copy = Path(tempfile.mkdtemp()) / "CUB_200_2011"
    shutil.copytree(root, copy)
    text = (copy / name).read_text() if change else None
    (copy / name).unlink() if change is None else (copy / name).write_text(change(text))
    return copy


FIRST = "images/001.Drawn_Albatross/bird_0001.jpg"


def test_damaged_lists(root):
    for name, change, message in [
        (
            "bounding_boxes.txt",
            None,
            "bounding_boxes.txt is missing; it belongs to the CUB_200_2011 folder",
        ),
        (
            "image_class_labels.txt",
            lambda t: t.replace("1 1\n", "1 900\n", 1),
            "line 1: class id 900 is not in classes.txt",
        ),
        (
            "train_test_split.txt",
            lambda t: t.replace("3 0\n", ""),
            "no line for image 3 \\(003.Drawn_Petrel/bird_0003.jpg\\)",
        ),
        (
            "parts/part_locs.txt",
            lambda t: t.replace("2 15 ", "2 16 "),
            "line 30: part id 16 is not in parts.txt",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            CUB.open(damaged(root, name, change), "all")
    copy = damaged(root, "images.txt", lambda t: t)
    (copy / FIRST).unlink()
    with pytest.raises(
        InputError,
        match="lacks 1 of the 8 photographs that images.txt lists, the first is "
        "001.Drawn_Albatross/bird_0001.jpg",
    ):
        CUB.open(copy)


def test_landmarks_outside(root):
    far = CUB.open(
        damaged(
            root,
            "parts/part_locs.txt",
            lambda t: t.replace(t.splitlines()[4], "1 5 600.0 20.0 1", 1),
        ),
        "all",
    )
    with pytest.raises(
        InputError,
        match="part 5 \\(crown\\) of image 1 .* is marked visible at \\(600, 20\\), outside the "
        "picture",
    ):
        far.counts()
    with pytest.raises(InputError, match="outside the picture; correct it, or mark it hidden"):
        far[0]


def test_clipped_box_and_turned_photograph(root, cub):
    copy = damaged(
        root,
        "bounding_boxes.txt",
        lambda t: t.replace(t.splitlines()[0], "1 -3.0 2.0 40.0 30.0", 1),
    )
    note = Image.Exif()
    note[0x0112] = 6
    with Image.open(copy / FIRST) as image:
        image.copy().save(copy / FIRST, exif=note)
    odd = CUB.open(copy, "all")
    assert (
        odd[0].box.tolist() == [0, 2, 37, 30]
        and odd[0].size == cub[0].size
        and odd.counts()["images"] == 8
    )


def test_lines_of_other_images(root):
    part = CUB.open(damaged(root, "images.txt", lambda t: t.splitlines()[1] + "\n"), "all")
    assert len(part) == 1 and part.counts()["lines of other images, ignored"] == 7 * (3 + 15)
    assert (part.counts()["train"], part.counts()["test"]) == (1, 0)


def test_writer_reads_back_equal(tmp_path):
    "Masks, landmarks, boxes, categories to the last digit; colours but for JPEG's loss."
    drawn = collections["birds"].open(split="test", size=64)
    birds = drawn.take(range(6))
    back = CUB.open(write_cub(tmp_path / "own", birds, drawn.category_names), "all")
    assert len(back) == 6 and back.counts()["masks"] == 6
    for s, t in zip(birds, back):
        assert torch.equal(s.mask, t.mask) and torch.equal(s.visible, t.visible)
        assert torch.equal(s.landmarks[s.visible], t.landmarks[t.visible])
        assert torch.equal(s.box, t.box) and (s.image - t.image).abs().mean() < 0.03
        assert drawn.category_names[s.category] == back.category_names[t.category]
        assert Path(t.name).stem == s.name


def test_writer_overwrites_nothing(tmp_path, cub):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty; give a new folder"):
        write_cub(tmp_path, cub.take([0]), cub.category_names)
    with pytest.raises(InputError, match="mine.txt is a file, not a folder"):
        write_cub(tmp_path / "mine.txt", cub.take([0]), cub.category_names)
    with pytest.raises(InputError, match="Sample 'bare' lacks a box"):
        write_cub(tmp_path / "new", [Sample(torch.rand(3, 4, 4), "bare")], cub.category_names)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
