"""What the chapter on outlined parts promises, on drawn cars and birds."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from painters.coco import CAR_PARTS, write_coco_fixture
from PIL import Image

from partbook.core import InputError, generator
from partbook.data.sample import Sample, batches, collections
from partbook.readers.coco import (
    CocoParts,
    compress_runs,
    decode_runs,
    encode_runs,
    expand_runs,
    fill_polygon,
    group_names,
    is_for_testing,
    outline_mask,
    read_coco,
    write_coco,
)


def rows(mask: np.ndarray) -> list[str]:
    return ["".join(".#"[int(v)] for v in row) for row in mask]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_coco_fixture(tmp_path_factory.mktemp("cars") / "cars")


@pytest.fixture
def copy(root, tmp_path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "copy"))


@pytest.fixture(scope="module")
def a(root):
    return read_coco(root / "annotations.json")


@pytest.fixture(scope="module")
def cars(root):
    return CocoParts.open(root, "all")


def test_polygons_by_hand():
    assert rows(fill_polygon([(1, 1), (2, 1), (2, 2), (1, 2)], (3, 3))) == ["...", ".#.", "..."]
    assert rows(fill_polygon([(0, 0), (4, 0), (0, 4)], (4, 4))) == ["###.", "##..", "#...", "...."]
    assert rows(fill_polygon([(0, 0), (6, 4), (6, 0), (0, 4)], (4, 6))) == [
        "#....#",
        "##..##",
        "##..##",
        "#....#",
    ]
    frame = [(0, 0), (5, 0), (5, 5), (0, 5), (0, 0), (1, 1), (4, 1), (4, 4), (1, 4), (1, 1)]
    assert (
        fill_polygon(frame, (5, 5)).sum() == 16 and not fill_polygon(frame, (5, 5))[1:4, 1:4].any()
    )


def test_an_outline_cut_in_two():
    "The pieces share no pixel and together own the pixels of the whole."
    angles = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    radii = torch.rand(14, generator=generator(1)).numpy() * 12 + 6
    star = np.stack([24 + radii * np.cos(angles), 20 + radii * np.sin(angles)], 1)
    pieces = [
        fill_polygon(np.concatenate([star[:8], [[24, 20]]]), (40, 48)),
        fill_polygon(np.concatenate([star[7:], star[:1], [[24, 20]]]), (40, 48)),
    ]
    assert not (pieces[0] & pieces[1]).any() and np.array_equal(
        pieces[0] | pieces[1], fill_polygon(star, (40, 48))
    )


def test_runs_of_masks():
    assert encode_runs(np.array([[0, 1], [0, 1], [1, 0]])) == [2, 3, 1] and encode_runs(
        np.ones((2, 2))
    ) == [0, 4]
    assert np.array_equal(decode_runs([2, 3, 1], (3, 2)), [[0, 1], [0, 1], [1, 0]])
    assert (
        compress_runs([2, 3, 1]) == "231"
        and compress_runs([40, 3, 1]) == "X131"
        and expand_runs("X131") == [40, 3, 1]
    )
    for mask in (
        torch.rand(40, 48, generator=generator(2)).numpy() > 0.5,
        np.zeros((3, 5), bool),
        np.ones((3, 5), bool),
    ):
        runs = encode_runs(mask)
        assert (
            sum(runs) == mask.size
            and np.array_equal(decode_runs(runs, mask.shape), mask)
            and expand_runs(compress_runs(runs)) == runs
        )


def test_what_the_file_of_cars_holds(a):
    assert (len(a.files), len(a.outlines), a.empty, len(a.names)) == (
        9,
        96,
        1,
        len(CAR_PARTS),
    ) and a.names[0] == "_background_"
    sizes = [outline_mask(o, tuple(a.sizes[n])).sum() for o, n in zip(a.outlines, a.pictures)]
    assert np.allclose(sizes, a.areas, rtol=0.15, atol=6)  # middles inside, against shoelaces


def test_groups():
    names, numbers = group_names(CAR_PARTS, "mirrored")
    assert (
        numbers[0] == -1
        and numbers[CAR_PARTS.index("front_left_door")]
        == numbers[CAR_PARTS.index("front_right_door")]
        > 0
    )
    some, numbers = group_names(
        ("roof", "left wheel", "right wheel", "car"),
        {"wheel": ["left wheel", "right wheel"]},
        whole=["car"],
    )
    assert some == ("roof", "wheel") and numbers.tolist() == [1, 2, 2, 0]
    assert group_names(("roof", "left wheel", "Right_Wheel"), "mirrored")[0] == (
        "roof",
        "wheel",
        "Wheel",
    )


def test_splitting_by_name():
    assert (
        is_for_testing("JPEGImages/car32.jpg")
        and is_for_testing("elsewhere/car32.png")
        and not is_for_testing("JPEGImages/car10.jpg")
    )
    share = np.mean([is_for_testing(f"photo_{i}.jpg") for i in range(4000)])
    assert (
        abs(share - 0.25) < 3 * math.sqrt(0.25 * 0.75 / 4000)
        and not is_for_testing("x", 0.0)
        and is_for_testing("x", 1.0)
    )


def test_labels_are_the_truth_that_was_drawn(cars, a):
    for i, s in enumerate(cars):
        assert torch.equal(s.mask, s.parts > 0) and torch.equal(
            s.box[:2], s.part_boxes[:, :2].amin(0)
        )
        assert torch.equal(
            s.box[:2] + s.box[2:], (s.part_boxes[:, :2] + s.part_boxes[:, 2:]).amax(0)
        )
        mine = [
            (cars.part_names.index(a.names[c]) + 1, outline_mask(o, s.size))
            for n, c, o in zip(a.pictures, a.categories, a.outlines)
            if n == i
        ]
        for part, own in mine:
            smaller = sum((m for p, m in mine if m.sum() < own.sum()), np.zeros(s.size, bool))
            assert (s.parts.numpy()[own & ~smaller] == part).all()


def test_writer_reads_back_equal(tmp_path):
    drawn = collections["birds"].open(split="train", size=48)
    birds = drawn.take(range(3))
    back = CocoParts.open(write_coco(tmp_path / "birds", birds, drawn.part_names), "all")
    assert back.part_names == drawn.part_names
    for s, t in zip(birds, back):
        assert (
            torch.equal(s.parts, t.parts)
            and torch.equal(t.mask, s.parts > 0)
            and (s.image - t.image).abs().max() <= 0.5 / 255 + 1e-6
        )
    batch = next(batches(CocoParts.open(tmp_path / "birds", "all", size=32), len(birds)))
    assert (
        batch.parts.shape == (len(birds), 32, 32)
        and batch.part_boxes.shape[:2] == batch.box_parts.shape
    )
    for s, t in zip(birds, back):
        assert torch.equal(s.box, t.box)


def test_writer_overwrites_nothing(tmp_path):
    (tmp_path / "annotations.json").write_text("mine")
    sample = Sample(torch.rand(3, 4, 4), "one", parts=torch.ones(4, 4, dtype=torch.int64))
    with pytest.raises(InputError, match="is not empty; give a new folder"):
        write_coco(tmp_path, [sample], ("a",))
    with pytest.raises(InputError, match="Sample 'one' has part 1, but only 0 parts have names"):
        write_coco(tmp_path / "new", [sample], ())
    assert (tmp_path / "annotations.json").read_text() == "mine"


def test_choosing(root, cars, a):
    merged = CocoParts.open(root, "all", groups="mirrored")
    assert len(merged.part_names) == 11 and "left" not in " ".join(merged.part_names)
    bare = CocoParts.open(root, "all", min_part=80)
    assert bare.left_out["outlines too small"] == (a.areas < 80).sum() > 0 and all(
        len(s.part_boxes) < len(t.part_boxes) for s, t in zip(bare, cars)
    )
    shares = [float(s.box[2] * s.box[3]) / (s.size[0] * s.size[1]) for s in cars]
    large = CocoParts.open(root, "all", min_box=sorted(shares)[4] - 0.01)
    assert 4 <= len(large) <= 6 and large.left_out["objects too small"] == 8 - len(large)
    outlined = CocoParts.open(
        root, "all", whole="hood, trunk"
    )  # as if these two outlined whole cars
    assert len(outlined.part_names) == len(cars.part_names) - 2
    assert outlined.foreground == "outlined by hand" and bool(
        (outlined[0].mask & (outlined[0].parts == 0)).any()
    )


def test_splits_and_folders(root, tmp_path):
    train, test = (CocoParts.open(root, split, test_share=0.4) for split in ("train", "test"))
    assert len(train) + len(test) == 8 and {s.name for s in train}.isdisjoint(s.name for s in test)
    for name in ("trainingset", "testset"):
        shutil.copytree(root, tmp_path / "both" / name)
    both = CocoParts.open(tmp_path / "both", "all")
    assert (
        len(both) == 16
        and len(CocoParts.open(tmp_path / "both", "test")) == 8
        and both.sources["test"].path.parent.name == "testset"
    )
    with pytest.MonkeyPatch.context() as variables:
        variables.setenv("PARTBOOK_COCO", str(root / "annotations.json"))
        assert (
            len(CocoParts.open(split="all")) == 8
            and CocoParts.present()
            and not CocoParts.present(tmp_path / "elsewhere")
        )


def damaged(root: Path, change) -> Path:
    "A copy of the fixture's file beside the pictures, after `change` was applied to what it holds."
    data = json.loads((root / "annotations.json").read_text())
    change(data)
    (root / "damaged.json").write_text(json.dumps(data))
    return root / "damaged.json"


def test_damaged_files(copy):
    for change, message in [
        (
            lambda d: d["annotations"][0]["segmentation"][0].pop(),
            "annotation 1: polygon 0 has 7 numbers; an x or a y is missing",
        ),
        (
            lambda d: d["annotations"][0]["segmentation"][0].__setitem__(0, 900.0),
            "annotation 1: polygon 0 has a corner at \\(900, ",
        ),
        (
            lambda d: d["annotations"][0].update(category_id=99),
            "annotation 1: there is no category with id 99",
        ),
        (
            lambda d: d["images"][1].update(id=401),
            "images\\[1\\]: id 401 stands here for the second time",
        ),
        (
            lambda d: d["images"][0].update(file_name="../car1.jpg"),
            "image 401: file_name '../car1.jpg' leads out of the folder",
        ),
        (
            lambda d: d["images"][0].update(file_name="JPEGImages/car99.jpg"),
            "lacks 1 of the 8 photographs .* the first is JPEGImages/car99.jpg",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            CocoParts.open(damaged(copy, change), "all")


def test_turning(root, cars, copy, tmp_path):
    resized = CocoParts.open(
        damaged(copy, lambda d: d["images"][0].update(width=d["images"][0]["width"] + 40)), "all"
    )
    with pytest.raises(
        InputError,
        match="pixels, but damaged.json was written for .* put the annotated picture there",
    ):
        resized.counts()
    turned = shutil.copytree(root, tmp_path / "turned")
    note = Image.Exif()
    note[0x0112] = 6  # turn by a quarter
    with Image.open(turned / "JPEGImages" / "car1.jpg") as image:
        image.transpose(Image.Transpose.ROTATE_90).save(
            turned / "JPEGImages" / "car1.jpg", exif=note, quality=95
        )
    again = CocoParts.open(turned, "all")
    assert again[0].size == cars[0].size and (again[0].image - cars[0].image).abs().mean() < 0.02
    assert again.turnings["all"].votes == {True}
    note[0x0112] = 3  # turn by half
    with Image.open(turned / "JPEGImages" / "car2.jpg") as image:
        image.rotate(180).save(turned / "JPEGImages" / "car2.jpg", exif=note, quality=95)
    alone = shutil.copytree(turned, tmp_path / "alone")
    shutil.copy(root / "JPEGImages" / "car1.jpg", alone / "JPEGImages")
    assert (CocoParts.open(turned, "all")[1].image - cars[1].image).abs().mean() < 0.02
    assert "turn" in CocoParts.open(alone, "all").remarks()[0]
