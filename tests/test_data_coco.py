"""Outlined parts: on drawn cars always, on sixty real cars where they are; each damage is told."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from painters.coco import CAR_PARTS, write_coco_fixture
from PIL import Image

from partbook.core import InputError
from partbook.data.sample import Sample, batches, resized
from partbook.readers.coco import (
    CocoParts,
    compress_runs,
    decode_runs,
    encode_runs,
    expand_runs,
    fill_polygon,
    find_coco,
    group_names,
    is_for_testing,
    outline_mask,
    read_coco,
    write_coco,
)

CURE = "; correct it in the tool that wrote the file."


@pytest.fixture(scope="module")
def cars(tmp_path_factory) -> Path:
    return write_coco_fixture(tmp_path_factory.mktemp("cars"), n=5)


@pytest.fixture
def root(cars, tmp_path) -> Path:
    return Path(shutil.copytree(cars, tmp_path / "cars"))


def entry(data, key, number):
    return next(e for e in data[key] if e["id"] == number)


def put(key, number, **fields):
    return lambda data: entry(data, key, number).update(fields)


def drop(key, number, field):
    return lambda data: entry(data, key, number).pop(field)


def polygon(*numbers):
    return put("annotations", 1, segmentation=[list(numbers)])


def runs(counts, size=None):
    def change(data):
        own = [entry(data, "images", 401)[k] for k in ("height", "width")]
        entry(data, "annotations", 1).update(segmentation={"counts": counts, "size": size or own})

    return change


DAMAGES = [  # (what is done to the file's content, the sentence after the file's name)
    (
        lambda d: d.clear(),
        " has no list 'images', or an empty one; COCO's format needs images, "
        "categories and annotations.",
    ),
    (
        lambda d: d.pop("annotations"),
        " has no list 'annotations', or an empty one; COCO's format needs images, "
        "categories and annotations.",
    ),
    (
        lambda d: d.update(images=[]),
        " has no list 'images', or an empty one; COCO's format needs images, "
        "categories and annotations.",
    ),
    (
        lambda d: d.update(categories={"id": 1}),
        " has no list 'categories', or an empty one; COCO's format needs images, "
        "categories and annotations.",
    ),
    (
        lambda d: d["images"].insert(0, "car1.jpg"),
        ", images[0] is 'car1.jpg', not an object with an id" + CURE,
    ),
    (lambda d: d["images"][2].pop("id"), ", images[2] has no id" + CURE),
    (
        lambda d: d["images"][2].update(id="403"),
        ", images[2]: id is '403', not a whole number" + CURE,
    ),
    (
        lambda d: d["images"][2].update(id=True),
        ", images[2]: id is True, not a whole number" + CURE,
    ),
    (
        lambda d: d["images"][2].update(id=401),
        ", images[2]: id 401 stands here for the second time" + CURE,
    ),
    (
        lambda d: d["annotations"][3].update(id=1),
        ", annotations[3]: id 1 stands here for the second time" + CURE,
    ),
    (
        lambda d: d["categories"][3].update(id=1),
        ", categories[3]: id 1 stands here for the second time" + CURE,
    ),
    (
        put("categories", 3, name="wheel"),
        ", category 31: the name 'wheel' belongs to another category as well; rename one of them.",
    ),
    (put("categories", 3, name=" "), ", category 3: name is ' ', not a name" + CURE),
    (drop("categories", 3, "name"), ", category 3 has no name" + CURE),
    (drop("images", 401, "file_name"), ", image 401 has no file_name" + CURE),
    (put("images", 401, file_name=7), ", image 401: file_name is 7, not a file name" + CURE),
    (
        put("images", 401, file_name="/etc/car1.jpg"),
        ", image 401: file_name '/etc/car1.jpg' leads out of the folder; "
        "name files relative to the one that holds annotations.json.",
    ),
    (
        put("images", 401, file_name="a\\..\\..\\car1.jpg"),
        ", image 401: file_name 'a/../../car1.jpg' leads out of the folder; "
        "name files relative to the one that holds annotations.json.",
    ),
    (
        put("images", 401, file_name="C:\\car1.jpg"),
        ", image 401: file_name 'C:/car1.jpg' leads out of the folder; "
        "name files relative to the one that holds annotations.json.",
    ),
    (
        put("images", 402, file_name="JPEGImages/car1.jpg"),
        ", image 402: file_name 'JPEGImages/car1.jpg' belongs to image 401 as well" + CURE,
    ),
    (put("images", 401, width=0), ", image 401: width is 0, not a positive whole number" + CURE),
    (
        put("images", 401, height="90"),
        ", image 401: height is '90', not a positive whole number" + CURE,
    ),
    (drop("images", 401, "height"), ", image 401 has no height" + CURE),
    (put("annotations", 1, image_id=9), ", annotation 1: there is no image with id 9" + CURE),
    (
        put("annotations", 1, image_id="401"),
        ", annotation 1: image_id is '401', not a whole number" + CURE,
    ),
    (put("annotations", 1, category_id=2), ", annotation 1: there is no category with id 2" + CURE),
    (drop("annotations", 1, "category_id"), ", annotation 1 has no category_id" + CURE),
    (drop("annotations", 1, "segmentation"), ", annotation 1 has no segmentation" + CURE),
    (
        put("annotations", 1, segmentation=None),
        ", annotation 1: segmentation is None, not a list of polygons or run lengths" + CURE,
    ),
    (
        put("annotations", 1, segmentation=[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]),
        ", annotation 1: segmentation holds 1.0 where a polygon [x1, y1, ...] should be; "
        "put brackets around it.",
    ),
    (
        polygon(1, 1, 9, 1, 9),
        ", annotation 1: polygon 0 has 5 numbers; an x or a y is missing, "
        "so correct it in the tool that wrote the file.",
    ),
    (
        polygon(1, 1, 9, 1, "9", 9),
        ", annotation 1: polygon 0 holds something that is not a number" + CURE,
    ),
    (
        polygon(1, 1, 9, None, 9, 9),
        ", annotation 1: polygon 0 holds something that is not a number" + CURE,
    ),
    (
        polygon(1, 1, 9, [1], 9, 9),
        ", annotation 1: polygon 0 holds something that is not a number" + CURE,
    ),
    (
        polygon([1, 1], [9, 1], [9, 9]),
        ", annotation 1: polygon 0 holds something that is not a number" + CURE,
    ),
    (
        polygon(1, 1, 9, float("nan"), 9, 9),
        ", annotation 1: polygon 0 holds something that is not a number" + CURE,
    ),
    (
        polygon(1, 1, 9, float("inf"), 9, 9),
        ", annotation 1: polygon 0 holds something that is not a number" + CURE,
    ),
    (
        polygon(1, 1, 9, -2.5, 9, 9),
        ", annotation 1: polygon 0 has a corner at (9, -2.5), outside its {W}x{H} image" + CURE,
    ),
    (
        polygon(1, 1, 999, 1, 9, 9),
        ", annotation 1: polygon 0 has a corner at (999, 1), outside its {W}x{H} image" + CURE,
    ),
    (
        lambda d: entry(d, "annotations", 1).update(
            segmentation=[[1, 1, 9, 1, 9, entry(d, "images", 401)["height"] + 3]]
        ),
        ", annotation 1: polygon 0 has a corner at (9, {below}), outside its {W}x{H} image" + CURE,
    ),
    (
        runs([4, 4], [9, 9]),
        ", annotation 1: its run lengths are for size [9, 9], "
        "but the image is [{H}, {W}] (height, width)" + CURE,
    ),
    (
        runs([4, 4]),
        ", annotation 1: its run lengths add up to 8, not to the {area} pixels of the image" + CURE,
    ),
    (runs([4, -4]), ", annotation 1: counts is [4, -4], not a list of run lengths" + CURE),
    (runs(None), ", annotation 1: counts is None, not a list of run lengths" + CURE),
    (runs("0 7"), ", annotation 1: counts '0 7' is not COCO's text for run lengths" + CURE),
    (runs("231X"), ", annotation 1: counts '231X' is not COCO's text for run lengths" + CURE),
    (
        lambda d: [a.update(segmentation=[]) for a in d["annotations"]],
        " has no annotation with an outline; outline some parts first.",
    ),
]


@pytest.mark.parametrize("change, sentence", DAMAGES, ids=range(len(DAMAGES)))
def test_damaged_content(root, change, sentence):
    path = root / "annotations.json"
    data = json.loads(path.read_text())
    H, W = (entry(data, "images", 401)[k] for k in ("height", "width"))
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(InputError) as error:
        CocoParts.open(root, "all")
    for name, value in {"W": W, "H": H, "area": H * W, "below": H + 3}.items():
        sentence = sentence.replace(f"{{{name}}}", str(value))
    assert str(error.value) == f"{path}{sentence}"
    assert "\n" not in str(error.value)


FILES = [  # (what is done to the folder, part of the sentence)
    (
        lambda r: (r / "annotations.json").write_text('{"images": ['),
        "annotations.json is not a JSON file",
    ),
    (
        lambda r: (r / "annotations.json").write_text((r / "annotations.json").read_text()[:-400]),
        "annotations.json is not a JSON file",
    ),
    (
        lambda r: (r / "annotations.json").write_text("[]"),
        "annotations.json holds a list, not COCO's object with images, "
        "categories and annotations; give another file.",
    ),
    (
        lambda r: (r / "annotations.json").write_bytes(b"\xff\xfe\x00"),
        "annotations.json is not a JSON file",
    ),
    (
        lambda r: (r / "annotations.json").unlink(),
        "holds none of annotations.json, _annotations.coco.json, nor do folders named train or "
        "test in it; the car parts",
    ),
    (
        lambda r: shutil.rmtree(r),
        "is not there; the car parts used in this book are in the repository "
        "dsmlr/Car-Parts-Segmentation",
    ),
    (
        lambda r: (r / "JPEGImages" / "car2.jpg").unlink(),
        "lacks 1 of the 5 photographs that annotations.json annotates, "
        "the first is JPEGImages/car2.jpg; copy them there",
    ),
    (
        lambda r: shutil.rmtree(r / "JPEGImages"),
        "lacks 5 of the 5 photographs that annotations.json annotates, "
        "the first is JPEGImages/car1.jpg; copy them there",
    ),
    (
        lambda r: (r / "JPEGImages" / "car1.jpg").write_bytes(b""),
        "car1.jpg cannot be read as a picture: the file is empty (0 bytes); copy it again.",
    ),
    (
        lambda r: Image.new("RGB", (50, 40)).save(r / "JPEGImages" / "car1.jpg"),
        "car1.jpg is 50x40 pixels, but annotations.json was written for",
    ),
]


@pytest.mark.parametrize("change, sentence", FILES, ids=range(len(FILES)))
def test_damaged_folder(root, change, sentence):
    change(root)
    with pytest.raises(InputError) as error:
        CocoParts.open(root, "all").counts()
    assert sentence in str(error.value) and "\n" not in str(error.value)


OPTIONS = [
    (dict(split="val"), "This collection has no split 'val'; choose one of: train, test, all."),
    (dict(size=0), "The size is 0; it must be at least one pixel."),
    (
        dict(groups="sides"),
        "There is no grouping 'sides'; choose none, mirrored, or a JSON file with {new name: "
        "[names]}.",
    ),
    (
        dict(groups={"door": ["door"]}),
        "The grouping 'door' names 'door', which is no category; choose among: _background_, ",
    ),
    (
        dict(groups={"a": ["hood"], "b": ["hood"]}),
        "The category 'hood' is in two groups, 'a' and 'b'; take it out of one.",
    ),
    (
        dict(groups={"a": "hood"}),
        "A grouping maps each new name to a list of names, found {'a': 'hood'}.",
    ),
    (
        dict(whole="car"),
        "There is no category 'car' to outline the whole object; choose among: _background_, ",
    ),
    (
        dict(min_part=-1),
        "min_part (-1) must not be negative; min_box (0.0) and test_share (0.25) are shares in "
        "[0, 1].",
    ),
    (
        dict(min_box=1.2),
        "min_part (0.0) must not be negative; min_box (1.2) and test_share (0.25) are shares "
        "in [0, 1].",
    ),
    (
        dict(test_share=2),
        "min_part (0.0) must not be negative; min_box (0.0) and test_share (2) are shares in "
        "[0, 1].",
    ),
    (
        dict(min_part=1e6),
        "No picture is left in split 'all': 0 in all splits, 60 outlines too small, "
        "6 pictures without outlines, 0 objects too small; ask for less",
    ),
    (dict(split="test", test_share=0.0), "No picture is left in split 'test': 5 in all splits"),
]


@pytest.mark.parametrize("options, sentence", OPTIONS, ids=range(len(OPTIONS)))
def test_impossible_options(cars, options, sentence):
    with pytest.raises(InputError) as error:
        CocoParts.open(cars, **{"split": "all", **options})
    assert str(error.value).startswith(sentence)


def test_without_a_folder(monkeypatch):
    monkeypatch.delenv("PARTBOOK_COCO", raising=False)
    with pytest.raises(
        InputError,
        match=(
            "not part of this book; the car parts .* in the repository "
            "dsmlr/Car-Parts-Segmentation .*PARTBOOK_COCO"
        ),
    ):
        CocoParts.open()
    assert not CocoParts.present()


def test_what_is_no_error(root):
    "Windows slashes, ids in any order, corners outside, flat polygons, True for one, blanks."
    path = root / "annotations.json"
    data = json.loads(path.read_text())
    for image in data["images"]:
        image["file_name"] = image["file_name"].replace("/", "\\")
    data["annotations"].reverse()
    data["annotations"][-1]["segmentation"] = [
        [-1, -2, 30, -1, 30, 20, -1.5, 20],
        [5, 5, 9, 9],
        [1, 1, 9, 1, 5, 1],
        [],
    ]
    data["annotations"][-1]["iscrowd"] = True
    data["categories"].reverse()
    data["categories"][0]["name"] += " "
    path.write_text(json.dumps(data).replace(", ", ",\r\n"))
    s = CocoParts.open(root, "all")[0]
    own = s.part_boxes[(s.part_boxes == torch.tensor([0.0, 0, 30, 20])).all(1)]
    assert (
        len(own) == 1
        and CocoParts.open(root).part_names == CocoParts.open(root / "annotations.json").part_names
    )
    assert len(CocoParts.open(root).part_names) == 15


def test_run_lengths_with_nothing_in_them(root):
    path = root / "annotations.json"
    data = json.loads(path.read_text())
    H, W = size = [entry(data, "images", 401)[k] for k in ("height", "width")]
    for number, counts in ((1, [H * W]), (2, [H * W - 3, 0, 3]), (3, [5, 0, 0, 3, H * W - 8])):
        entry(data, "annotations", number)["segmentation"] = {"counts": counts, "size": size}
    path.write_text(json.dumps(data))
    a = read_coco(path)
    assert (
        a.empty == 1 + 2
        and a.ids[:2].tolist() == [3, 4]
        and a.areas[0] == 3
        and a.extents[0].tolist() == [0, 5, 1, 8]
    )


def test_splits_of_two_folders(cars, tmp_path):
    for name in ("train", "test"):
        shutil.copytree(cars, tmp_path / "two" / name)
    os.rename(
        tmp_path / "two" / "test" / "annotations.json",
        tmp_path / "two" / "test" / "_annotations.coco.json",
    )
    two = tmp_path / "two"
    assert {k: v.parent.name for k, v in find_coco(two).items()} == {
        "train": "train",
        "test": "test",
    }
    train, test = (CocoParts.open(two, split) for split in ("train", "test"))
    assert (
        len(train) == len(test) == 5
        and [s.name for s in train] == [s.name for s in test]
        and train.counts()["images"] == 10
    )
    assert {row[0] for row in train.rows} == {"train"} and {row[0] for row in test.rows} == {"test"}
    path = two / "train" / "annotations.json"
    text = path.read_text()
    path.write_text(text.replace("hood", "bonnet"))
    with pytest.raises(
        InputError,
        match=(
            "has other categories than .*annotations.json; give both files the same list of "
            "categories"
        ),
    ):
        CocoParts.open(two)
    path.unlink()
    with pytest.raises(
        InputError,
        match=(
            "has annotations for only one split, test; add those for train, "
            "or give the one folder itself"
        ),
    ):
        CocoParts.open(two)


def test_the_split_depends_on_the_name_alone(cars):
    names = [f"JPEGImages/car{i}.jpg" for i in range(1, 2000)]
    share = np.mean([is_for_testing(n) for n in names])
    assert abs(share - 0.25) < 0.03 and [is_for_testing(n) for n in names] == [
        is_for_testing(Path(n).stem + ".png") for n in names
    ]
    assert [is_for_testing(f"car{i}.jpg") for i in (10, 32, 6, 118)] == [
        False,
        True,
        True,
        False,
    ]  # published: must not change
    test = {s.name for s in CocoParts.open(cars, "test", test_share=0.5)}
    assert test == {s.name for s in CocoParts.open(cars, "all") if is_for_testing(s.name, 0.5)}


def test_filling_against_points():
    from matplotlib.path import Path as Curve

    g = np.random.default_rng(0)
    centres = np.stack(np.meshgrid(np.arange(30) + 0.5, np.arange(20) + 0.5), -1).reshape(-1, 2)
    for _ in range(30):
        angles = np.sort(g.uniform(0, 2 * np.pi, g.integers(3, 12)))
        corners = np.stack(
            [15 + 20 * g.uniform(0.2, 1, len(angles)) * np.cos(angles), 10 + 12 * np.sin(angles)], 1
        )
        assert np.array_equal(
            fill_polygon(corners, (20, 30)), Curve(corners).contains_points(centres).reshape(20, 30)
        )
        assert np.array_equal(
            fill_polygon(corners[::-1], (20, 30)), fill_polygon(corners, (20, 30))
        )  # either way round


def test_runs_against_the_original():
    masks = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    g = np.random.default_rng(1)
    for _ in range(20):
        mask = g.random((17, 40)) < g.random()
        mask[:, :30] &= g.random() < 0.5
        theirs = masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        assert compress_runs(encode_runs(mask)) == theirs and expand_runs(theirs) == encode_runs(
            mask
        )
        assert np.array_equal(decode_runs(expand_runs(theirs), mask.shape), mask)


def test_texts_that_are_no_runs():
    for text in ("", "X", "p0", "o", "\x00", "é"):
        with pytest.raises(ValueError):
            expand_runs(text)
    assert (
        expand_runs("0") == [0] and compress_runs([0, 5, 100000, 2, 3]) == "05PeQ3MS[nL"
    )  # as pycocotools writes it


def test_smaller_outlines_win_and_whole_objects_are_masks(tmp_path):
    Image.new("RGB", (20, 10), "grey").save(tmp_path / "a.png")

    def box(x, y, w, h):
        return [[x, y, x + w, y, x + w, y + h, x, y + h]]

    data = {
        "images": [{"id": 1, "file_name": "a.png", "height": 10, "width": 20}],
        "categories": [
            {"id": 5, "name": "left door"},
            {"id": 7, "name": "car"},
            {"id": 2, "name": "Background"},
            {"id": 9, "name": "right door"},
        ],
        "annotations": [
            {"id": k, "image_id": 1, "category_id": c, "segmentation": s}
            for k, c, s in [
                (1, 5, box(3, 2, 4, 4)),
                (2, 9, box(2, 1, 10, 8)),
                (3, 7, box(1, 0, 18, 10)),
                (4, 2, box(0, 0, 20, 10)),
                (5, 5, box(14, 2, 2, 2)),
            ]
        ],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(data))
    s = CocoParts.open(tmp_path, "all", whole=["car"])[0]
    assert s.box.tolist() == [1, 0, 18, 10] and s.mask.sum() == 180
    assert (s.parts == 1).sum() == 16 + 4 and (s.parts == 2).sum() == 80 - 16
    assert s.part_boxes.tolist() == [
        [2, 1, 10, 8],
        [3, 2, 4, 4],
        [14, 2, 2, 2],
    ] and s.box_parts.tolist() == [2, 1, 1]
    merged = CocoParts.open(tmp_path, "all", whole="car", groups="mirrored")
    assert (
        merged.part_names == ("door",)
        and merged[0].parts.max() == 1
        and (merged[0].parts == 1).sum() == 84
    )
    assert (
        merged.foreground == "outlined by hand"
        and CocoParts.open(tmp_path, "all").foreground == "union of the outlined parts"
    )
    assert CocoParts.open(tmp_path, "all", min_part=16.5)[0].box_parts.tolist() == [
        2,
        3,
    ]  # the car is part 2 here
    with pytest.raises(InputError, match="1 objects too small"):
        CocoParts.open(tmp_path, "all", whole="car", min_box=0.91)
    assert len(CocoParts.open(tmp_path, "all", whole="car", min_box=0.89)) == 1


def test_an_outline_between_pixels(tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    data = {
        "images": [{"id": 1, "file_name": "a.png", "height": 10, "width": 20}],
        "categories": [{"id": 1, "name": "wire"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "segmentation": [[2.6, 1, 3.4, 1, 3.4, 9, 2.6, 9]],
            }
        ],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(data))
    with pytest.raises(
        InputError, match="no outline of a.png owns a pixel; leave them out with min_part=1"
    ):
        CocoParts.open(tmp_path, "all")[0]


def test_groups_from_a_file(cars, tmp_path):
    path = tmp_path / "groups.json"
    path.write_text(json.dumps({"glass": ["front_glass", "back_glass"]}))
    assert "glass" in CocoParts.open(cars, groups=str(path)).part_names
    assert group_names(CAR_PARTS, {"glass": ["front_glass", "back_glass"]})[0].count("glass") == 1


def test_same_samples_each_time(cars, tmp_path):
    again = write_coco_fixture(tmp_path / "again", n=5)
    assert (again / "annotations.json").read_bytes() == (cars / "annotations.json").read_bytes()
    for s, t in zip(CocoParts.open(cars, "all"), CocoParts.open(again, "all")):
        assert torch.equal(s.image, t.image) and torch.equal(s.parts, t.parts)


def test_written_labels_come_back(tmp_path):
    g = torch.Generator().manual_seed(3)
    samples = [
        Sample(
            torch.rand(3, 9, 12, generator=g),
            str(k),
            parts=torch.randint(0, 4, (9, 12), generator=g),
        )
        for k in range(3)
    ]
    back = CocoParts.open(write_coco(tmp_path, samples, ("a", "b", "c")), "all")
    assert (
        all(torch.equal(s.parts, t.parts) for s, t in zip(samples, back))
        and back.counts()["outlines as runs"] == 9
    )
    with pytest.raises(InputError, match="has no part labels"):
        write_coco(tmp_path, [Sample(torch.rand(3, 4, 4), "bare")], ("a",))


# ------------------------------------------------------------------------------------ the real cars


@pytest.fixture(scope="module")
def photographs(request) -> Path:
    return request.getfixturevalue("shared_path")("data/car_parts")


def test_real_counts(photographs):
    cars = CocoParts.open(photographs, "all")
    assert cars.counts() == {
        "images": 60,
        "train": 45,
        "test": 15,
        "parts": 18,
        "outlines": 482,
        "outlines as runs": 0,
        "outlines in several pieces": 29,
        "annotations without area, left out": 0,
        "outlines too small, left out": 0,
        "pictures without outlines, left out": 0,
        "objects too small, left out": 0,
    }
    assert cars.compare_with_paper() == (
        "60 photographs; the car parts data set has 400 for training and 100 for testing, "
        "so this is a part of it, or another"
    )
    seen = np.bincount(cars.numbers[cars.sources["all"].categories], minlength=19)[1:]
    assert dict(zip(cars.part_names, seen.tolist()))["wheel"] == 60
    assert seen.tolist() == [14, 16, 18, 14, 21, 16, 42, 42, 20, 35, 24, 39, 41, 31, 33, 5, 11, 60]
    assert len(CocoParts.open(photographs, groups="mirrored").part_names) == 13


def test_real_areas_and_boxes(photographs):
    "The file states areas and boxes, measured by the original tool; ours agree."
    data = json.loads((photographs / "annotations.json").read_text())
    a = read_coco(photographs / "annotations.json")
    stated = {e["id"]: e for e in data["annotations"]}
    area, gap = [], []
    for k, number in enumerate(a.ids.tolist()):
        mask = outline_mask(a.outlines[k], tuple(a.sizes[a.pictures[k]]))
        ys, xs = np.nonzero(mask)
        area.append(mask.sum() / stated[number]["area"] - 1)
        x, y, w, h = stated[number]["bbox"]
        gap.append(
            max(
                abs(xs.min() - x),
                abs(ys.min() - y),
                abs(xs.max() + 1 - x - w),
                abs(ys.max() + 1 - y - h),
            )
        )
    assert abs(np.mean(area)) < 2e-4 and np.abs(area).max() < 0.02 and max(gap) <= 2


def test_real_pixels_against_the_original(photographs):
    masks = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    a = read_coco(photographs / "annotations.json")
    overlap = []
    for outline, n in zip(a.outlines, a.pictures):
        H, W = a.sizes[n].tolist()
        theirs = masks.decode(
            masks.merge(masks.frPyObjects([p.ravel().tolist() for p in outline], H, W))
        ).astype(bool)
        ours = outline_mask(outline, (H, W))
        overlap.append((ours & theirs).sum() / (ours | theirs).sum())
    assert np.mean(overlap) > 0.996 and min(overlap) > 0.97


def test_real_samples(photographs):
    cars = CocoParts.open(photographs, "test", groups="mirrored", size=96)
    for batch in batches(cars, 5):
        assert batch.images.shape[1:] == (3, 96, 96) and torch.equal(batch.masks, batch.parts > 0)
        share = batch.masks.float().mean((1, 2))
        assert (share > 0.05).all() and (share < 0.95).all() and batch.parts.max() <= 13
    s = resized(cars, 32)[0]
    assert (
        s.part_boxes[:, :2].min() >= 0
        and (s.part_boxes[:, :2] + s.part_boxes[:, 2:]).max() <= 32 + 1e-4
    )
