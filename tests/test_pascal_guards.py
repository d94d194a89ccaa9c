"""What the chapter on PASCAL promises, on things drawn in its layout."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from painters.pascal import _mirrored, write_pascal_fixture
from torch import Tensor

from partbook.core import InputError
from partbook.data.sample import Sample, batches, collections, cropped, resized
from partbook.readers.pascal import (
    _HOOVES,
    CLASSES,
    COARSE,
    CONTRASTIVE,
    PARTS,
    PASCAL,
    SCOPS,
    VOID,
    PascalObject,
    VOCObject,
    _candidates,
    _with_void,
    box_iou,
    chosen_classes,
    marks_of,
    mask_box,
    part_groups,
    part_labels,
    pascal_pictures,
    read_indices,
    read_mat,
    read_segmentation,
    read_xml,
    stem,
    voc_palette,
    write_mat,
    write_pascal,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_pascal_fixture(tmp_path_factory.mktemp("voc") / "VOCdevkit" / "VOC2010")


def test_classes():
    assert (
        len(CLASSES) == 20
        and len(SCOPS) == 7
        and len(CONTRASTIVE) == 10
        and set(SCOPS) < set(CONTRASTIVE) < set(CLASSES)
    )
    assert (
        chosen_classes("horse, bike")
        == ("horse", "bicycle")
        == chosen_classes(["horse", "bicycle", "horse"])
    )
    assert (
        chosen_classes("table") == ("diningtable",)
        and chosen_classes("scops") == SCOPS
        and chosen_classes("all") == CLASSES
    )
    with pytest.raises(
        InputError,
        match="categories: 'zebra' is not a class of PASCAL VOC; the classes are aeroplane, ",
    ):
        chosen_classes("zebra")


def test_parts_of_classes():
    assert set(COARSE) == set(CLASSES) and all(len(set(p)) == len(p) for p in PARTS.values())
    assert {kind: len(PARTS[kind]) for kind in CONTRASTIVE} == {
        "sheep": 19,
        "horse": 21,
        "cow": 19,
        "motorbike": 5,
        "aeroplane": 7,
        "bus": 13,
        "car": 13,
        "bicycle": 6,
        "dog": 18,
        "cat": 17,
    }
    assert (
        len(PARTS["person"]) == 24
        and len(PARTS["bird"]) == 13
        and len(PARTS["train"]) == 13
        and not PARTS["chair"]
    )
    assert list(COARSE["horse"]) == list(COARSE["cat"]) == ["head", "torso", "legs", "tail"]


def test_groups():
    assert stem("wheel_2") == "wheel" and stem("head") == "head"
    assert part_groups("car")["wheel"] == ("wheel",) and part_groups("car", "coarse")["front"] == (
        "frontside",
        "fliplate",
        "headlight",
    )
    mine = {"front": ["head", "neck"]}
    assert (
        part_groups("horse", mine)
        == part_groups("horse", {"horse": mine})
        == {"front": ("head", "neck")}
    )
    for groups, message in [
        ({"front": ["trunk"]}, "'trunk' in 'front' is not a part of a horse"),
        ("rough", "groups is 'rough'; it must be fine"),
    ]:
        with pytest.raises(InputError, match=message):
            part_groups("horse", groups)


def row(*columns: int) -> np.ndarray:
    return np.isin(np.arange(6), columns)[None]


def test_labels_and_boxes_by_hand():
    horse = PascalObject(
        "horse", row(0, 1, 2, 3, 4), [("head", row(0, 1)), ("leye", row(1)), ("torso", row(2, 3))]
    )
    number = {("horse", "head"): 1, ("horse", "leye"): 2, ("horse", "torso"): 3}
    assert part_labels([horse], number).tolist() == [[1, 1, 3, 3, 0, 0]]
    assert part_labels([horse], number, "last").tolist() == [[1, 2, 3, 3, 0, 0]]
    assert (
        part_labels([horse], {("horse", "torso"): 1}).tolist() == [[0, 0, 1, 1, 0, 0]]
        and not part_labels([horse], {}).any()
    )
    assert mask_box(horse.mask) == (0, 0, 5, 1) and mask_box(
        np.pad(row(1, 3), ((2, 1), (0, 0)))
    ) == (
        1,
        2,
        3,
        1,
    )


def test_marks_go_to_the_object_they_fit():
    horse = PascalObject(
        "horse", row(0, 1, 2, 3, 4), [("head", row(0, 1)), ("leye", row(1)), ("torso", row(2, 3))]
    )
    boxes = [
        VOCObject("horse", (0.0, 0.0, 6.0, 1.0), frozenset({"occluded"})),
        VOCObject("cow", (0.0, 0.0, 5.0, 1.0), frozenset({"truncated"})),
    ]
    assert box_iou(
        np.array([[0.0, 0, 5, 1]]), np.array([[0.0, 0, 6, 1], [4.0, 0, 2, 1], [7.0, 0, 1, 1]])
    ) == pytest.approx(np.array([[5 / 6, 1 / 6, 0]]))
    assert marks_of([horse], boxes) == [
        {"occluded"}
    ]  # the cow's box fits better, but a horse is no cow
    assert marks_of([horse], boxes[1:]) == [frozenset()] == marks_of([horse], [])


def test_palette_and_void():
    palette = voc_palette()
    assert palette[[0, 1, 2, 13, 20, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [192, 0, 128],
        [0, 64, 128],
        [224, 224, 192],
    ]
    assert len(np.unique(palette, axis=0)) == 256
    assert _with_void(np.array([[0, 0, 1, 1, 1]])).tolist() == [[0, 255, 255, 1, 1]]


def test_mirrored_names():
    assert (
        _mirrored("rightside") == "leftside"
        and _mirrored("leftmirror") == "rightmirror"
        and _mirrored("roofside") == "roofside"
    )
    assert (
        _mirrored("rear") == "lear"
        and _mirrored("lfuleg") == "rfuleg"
        and _mirrored("reye") == "leye"
        and _mirrored("tail") == "tail"
    )


def test_three_accounts_of_one_object(root):
    for path in sorted((root / "Annotations_Part").glob("*.mat")):
        parts, voc = read_mat(path), read_segmentation(root, path.stem)
        (H, W), boxes = read_xml(root / "Annotations" / f"{path.stem}.xml")
        void = read_indices(root / "SegmentationClass" / f"{path.stem}.png") == VOID
        assert (
            [o.kind for o in parts] == [o.kind for o in voc] == [b.kind for b in boxes]
            and void.any()
            and void.shape == (H, W)
        )
        for a, b, c in zip(parts, voc, boxes):
            assert np.array_equal(a.mask & ~void, b.mask) and mask_box(a.mask) == c.box
            assert all(
                (mask & ~a.mask).sum() == 0 for _, mask in a.parts
            )  # parts lie in their object
            assert set(map(stem, dict(a.parts))) <= set(PARTS[a.kind]) and bool(a.parts) == bool(
                PARTS[a.kind]
            )


def test_splits_and_folders(root):
    horses = PASCAL.open(root, "all", categories="horse")
    train, test = (
        PASCAL.open(root.parent.parent, split, categories="horse", area=0.1)
        for split in ("train", "test")
    )
    assert [s.name for s in train] + [s.name for s in test] == [s.name for s in horses]
    assert [s.name for s in horses] == [
        "2008_000001_1",
        "2008_000002_3",
        "2009_000005_1",
        "2010_000008_2",
    ]
    assert (
        {s.category for s in horses} == {0}
        and horses.category_names == ("horse",)
        and horses.part_names == PARTS["horse"]
    )
    assert (
        len(PASCAL.open(root.parent, "all", categories="horse")) == 4
        and PASCAL.open(root, categories="horse").split == "train"
    )
    assert (
        PASCAL.present(root)
        and not PASCAL.present(root.parent.parent / "elsewhere")
        and horses.foreground == "union of the true parts (PASCAL-Part)"
    )
    with pytest.MonkeyPatch.context() as variables:
        variables.setenv("PARTBOOK_PASCAL", str(root))
        assert len(PASCAL.open(split="all", categories="horse")) == 4


def test_round_trip_of_overlapping_parts(root):
    horses = PASCAL.open(root, "all", categories="horse")
    path = root / "Annotations_Part" / "2008_000001.mat"
    thing, s = read_mat(path)[0], horses[0]
    assert (
        torch.equal(s.mask, s.parts > 0)
        and s.size == thing.mask.shape
        and s.box.tolist() == list(mask_box(thing.mask))
    )
    taken = np.zeros(thing.mask.shape, bool)
    for name, mask in thing.parts:
        assert (s.parts.numpy()[mask & ~taken] == 1 + PARTS["horse"].index(name)).all()
        taken |= mask
    assert np.array_equal(s.mask.numpy(), taken) and (thing.mask & ~taken).sum() > 0  # the mane
    whole = PASCAL.open(root, "all", categories="horse", mask="object")
    assert np.array_equal(whole[0].mask.numpy(), thing.mask) and torch.equal(
        whole[0].parts, s.parts
    )
    assert whole.foreground == "true masks (objects of PASCAL-Part)"


def test_grey_and_batches(root):
    grey = PASCAL.open(root, "all", categories="cow")[0]
    assert torch.equal(grey.image[0], grey.image[2]) and grey.parts.any()
    batch = next(batches(resized(cropped(PASCAL.open(root, "all"), pad=0.05, square=True), 48), 16))
    assert batch.images.shape[1:] == (3, 48, 48) and batch.parts.dtype == torch.int64
    assert batch.masks.any((1, 2)).all() and torch.equal(batch.masks, batch.parts > 0)


def test_first_or_last(root):
    horses = PASCAL.open(root, "all", categories="horse")
    hidden = {"leye", "reye", "lear", "rear", "muzzle", *_HOOVES}
    labels = {
        how: PASCAL.open(root, "train", categories="horse", overlap=how)[0].parts
        for how in ("first", "last")
    }
    left_over = {
        how: {horses.part_names[k - 1] for k in found.unique().tolist() if k}
        for how, found in labels.items()
    }
    assert (
        left_over["last"] - left_over["first"] == hidden & left_over["last"]
        and {"head", "torso", "neck"} <= left_over["first"]
    )
    coarse = PASCAL.open(root, "train", categories="horse", groups="coarse")
    assert coarse.part_names == ("head", "torso", "legs", "tail")
    last = PASCAL.open(root, "train", categories="horse", groups="coarse", overlap="last")
    moved = [float((a.parts != b.parts)[a.mask].float().mean()) for a, b in zip(coarse, last)]
    fine = [
        PASCAL.open(root, "train", categories="horse", overlap=how) for how in ("first", "last")
    ]
    moved_fine = [float((a.parts != b.parts)[a.mask].float().mean()) for a, b in zip(*fine)]
    assert all(a < b for a, b in zip(moved, moved_fine))

    def bits(labels: Tensor) -> float:
        shares = labels[labels > 0].bincount().float()
        shares = shares[shares > 0] / shares.sum()
        return float(-(shares * shares.log2()).sum())

    first_wins, last_wins = (bits(collection[0].parts) for collection in fine)
    assert first_wins < last_wins


def test_shares(root):
    shares = {
        s.name: (s.box[2] - 1) * (s.box[3] - 1) / (s.size[0] * s.size[1])
        for s in PASCAL.open(root, "all", area=0.0, min_parts=0)
    }
    for split, least in (("train", 0.1), ("test", 0.2)):
        kept, every = PASCAL.open(root, split), PASCAL.open(root, split, area=0.0)
        assert [s.name for s in kept] == [s.name for s in every if shares[s.name] > least] and len(
            kept
        ) < len(every)
    with pytest.raises(
        InputError,
        match="holds no sample of cow in split 'test' \\(1 objects of these classes; 1 too small, "
        "left out\\); ask for less",
    ):
        PASCAL.open(root, "test", categories="cow")


def test_units(root):
    pair, each = (
        PASCAL.open(root, categories="sheep", unit="image"),
        PASCAL.open(root, categories="sheep"),
    )
    assert [s.name for s in pair] == ["2008_000003"] and len(each) == 2
    assert torch.equal(
        pair[0].mask,
        torch.stack([s.mask for s in PASCAL.open(root, categories="sheep", mask="object")]).any(0),
    )
    assert (
        pair.foreground == "true masks (objects of PASCAL-Part)"
        and not pair.crop_to_box
        and each.crop_to_box
    )
    assert (
        pair.options["area"] == 0.2
        and each.options["area"] == 0.1
        and PASCAL.open(root, "test", categories="horse").options["area"] == 0.2
    )


def test_marks_void_and_classes_without_parts(root):
    whole = PASCAL.open(root, "all", categories="horse", mask="object")
    assert [s.name for s in PASCAL.open(root, categories="sheep", without="occluded")] == [
        "2008_000003_2"
    ]
    assert [
        s.name for s in PASCAL.open(root, "test", categories="horse", without=("truncated",))
    ] == ["2009_000005_1"]
    chairs = PASCAL.open(root, "all", categories="chair,table", mask="object", area=0.02)
    assert (
        chairs.category_names == ("chair", "diningtable")
        and len(chairs) == 3
        and not any(s.parts.any() for s in chairs)
        and chairs.part_names == ()
    )
    voc = PASCAL.open(root, "all", categories="horse", source="voc", lists="Segmentation")
    assert (
        [s.name for s in voc] == [s.name for s in whole]
        and voc[0].parts is None
        and voc.foreground == "true masks (objects of VOC's segmentation)"
    )
    for i, (a, b) in enumerate(zip(voc, whole)):
        void = voc.void(i)
        assert (
            torch.equal(a.mask, b.mask & ~void) and void.any() and torch.equal(void, whole.void(i))
        )


def test_flags_spare_reading(root):
    fast, slow = (
        PASCAL.open(root, "all", categories="sheep", flags=flags) for flags in (True, False)
    )
    assert fast.rows == slow.rows and len(_candidates(fast)) == 2 and len(_candidates(slow)) == 8


MATS = "Annotations_Part/2008_000001.mat"


def damaged(root: Path, change: Callable[[Path], object]) -> Path:
    "A fresh copy of the folder, changed."
    copy = Path(shutil.copytree(root, Path(tempfile.mkdtemp()) / "VOC2010"))
    change(copy)
    return copy


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def test_damaged_folders(root):
    mask = read_mat(root / MATS)[0].mask
    turned, driven = PascalObject("horse", mask.T), PascalObject("horse", mask, [("wheel_1", mask)])
    for change, message in [
        (lambda r: cut(r / MATS), "2008_000001.mat cannot be read as a MATLAB file"),
        (
            lambda r: write_mat(r / MATS, "2008_000001", [turned]),
            "is 128x96 pixels, but its masks are 96x128 \\(it is turned on its side\\)",
        ),
        (
            lambda r: write_mat(r / MATS, "2008_000001", [driven]),
            "'wheel_1' is not a part of a horse",
        ),
        (
            lambda r: (r / MATS).unlink(),
            "lacks 1 of 2 part files that are needed, the first is 2008_000001.mat",
        ),
        (
            lambda r: (r / "JPEGImages/2008_000001.jpg").unlink(),
            "lacks 1 of the photographs that are needed, the first is 2008_000001.jpg",
        ),
        (
            lambda r: (r / "ImageSets/Main/train.txt").unlink(),
            "train.txt is missing.*lists that are there: Main/trainval, Main/val, ",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            PASCAL.open(damaged(root, change), categories="horse", min_parts=0, mask="object")[0]


def loosely(copy: Path) -> None:
    anno = scipy.io.loadmat(copy / MATS)["anno"]
    one = anno["objects"][0, 0]
    scipy.io.savemat(
        copy / MATS,
        {"anno": {"imname": "2008_000001", "objects": {f: one[f][0, 0] for f in one.dtype.names}}},
    )
    sheep = copy / "Annotations_Part" / "2008_000003.mat"
    scipy.io.savemat(
        sheep,
        {
            "anno": {
                "imname": "2008_000003",
                "objects": scipy.io.loadmat(sheep)["anno"]["objects"][0, 0].T,
            }
        },
    )
    scipy.io.savemat(
        copy / "Annotations_Part" / "2009_000004.mat",
        {"anno": {"imname": "2009_000004", "objects": np.empty((0, 0))}},
    )
    for listing in (copy / "ImageSets" / "Main").glob("*.txt"):
        listing.write_bytes(b"\xef\xbb\xbf" + listing.read_bytes().strip().replace(b"\n", b"\r\n"))


def test_what_is_nobodys_fault(root):
    loose = PASCAL.open(damaged(root, loosely), "all", flags=False)
    strict = PASCAL.open(root, "all", flags=False)
    assert [r for r in strict.rows if r.name != "2009_000004"] == loose.rows and torch.equal(
        loose[0].parts, strict[0].parts
    )


BIRD = ("beak", "head", "torso", "lwing", "tail", "lleg")


def test_writer_reads_back_equal(tmp_path):
    birds = collections["birds"].open(split="train", size=64).take(range(6))
    pictures = pascal_pictures(birds, "bird", BIRD)
    assert [p.training for p in pictures] == [True, False] * 3
    root = write_pascal(tmp_path / "own", pictures)
    options = {"categories": "bird", "area": 0.0, "mask": "object", "min_parts": 0}
    back = [s for split in ("train", "test") for s in PASCAL.open(root, split, **options)]
    numbers = torch.tensor([0, *(1 + PARTS["bird"].index(name) for name in BIRD)])
    for s, t in zip([*birds[::2], *birds[1::2]], back, strict=True):
        assert torch.equal(s.mask, t.mask) and torch.equal(numbers[s.parts], t.parts)
        assert t.box.tolist() == list(mask_box(s.mask.numpy()))
        assert (s.image - t.image).abs().mean() < 0.03


def test_writer_refuses(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    birds = collections["birds"].open(split="train", size=64).take([0])
    with pytest.raises(InputError, match="is not empty; give a new folder"):
        write_pascal(tmp_path, pascal_pictures(birds, "bird", BIRD))
    with pytest.raises(InputError, match="'wheel' is not a part of a bird"):
        pascal_pictures(birds, "bird", ("wheel",) * 6)
    with pytest.raises(InputError, match="has part 6, but only 1 parts have names"):
        pascal_pictures(birds, "bird", ("head",))
    with pytest.raises(InputError, match="Sample 'bare' lacks a mask or part labels"):
        pascal_pictures([Sample(torch.rand(3, 4, 4), "bare")], "bird", BIRD)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
