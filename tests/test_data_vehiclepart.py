"""VehicleSemanticPart on the fixture (no original was at hand); every damage has its sentence."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from painters.vehiclepart import write_vehiclepart_fixture
from PIL import Image
from scipy.io import loadmat, savemat

from partbook.core import InputError
from partbook.data.sample import batches
from partbook.evaluation.detection import best_iou
from partbook.readers.vehiclepart import (
    VEHICLES,
    VehiclePart,
    corners_to_boxes,
    crop_scale,
    crop_window,
    photo_to_crop,
    read_object,
    read_parts,
)

LIST = "PASCAL3D+_sp/file_list/train_list/car_train.txt"
PARTS = "PASCAL3D+_sp/car_imagenet/transfered/n02814533_10005.mat"
OBJECT = "PASCAL3D+_release1.1/Annotations/car_imagenet/n02814533_10005.mat"
PHOTO = "PASCAL3D+_release1.1/Images/car_imagenet/n02814533_10005.JPEG"
AGAIN = "correct it, or unpack the archive again."
FORM = "<photograph> <object>"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return write_vehiclepart_fixture(tmp_path_factory.mktemp("drawn"), n=6)


@pytest.fixture
def root(drawn, tmp_path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "vehicles"))


def line(number, text):
    def change(root):
        lines = (root / LIST).read_text().splitlines()
        lines[number - 1] = text
        (root / LIST).write_text("\n".join(lines))

    return change


def remove(name):
    return lambda root: (
        shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()
    )


def write(name, content):
    return lambda root: (root / name).write_bytes(content)


def cut(name, keep):
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:keep])


def save(name, **variables):
    return lambda root: savemat(root / name, variables)


def objects(*, name="car", box=(10.0, 20.0, 90.0, 60.0), n=1, **fields):
    table = np.zeros((1, n), dtype=[("class", object), ("bbox", object)])
    for k in range(n):
        table[0, k] = (name, np.array([box]))
    return {"objects": table, **fields}


def cells(*tables):
    anno = np.empty((1, 2), dtype=object)
    parts = np.empty((len(tables), 1), dtype=object)
    for k, table in enumerate(tables):
        parts[k, 0] = np.array(table)
    anno[0, 0], anno[0, 1] = np.zeros((1, 4)), parts
    return anno


DAMAGES = [  # (what is done to the folder, part of the sentence)
    (
        remove("PASCAL3D+_sp"),
        "{root} has no folder PASCAL3D+_sp; fetch PASCAL3D+_release1.1.zip from the PASCAL3D+ page",
    ),
    (
        remove("PASCAL3D+_release1.1"),
        "{root} has no folder PASCAL3D+_release1.1; fetch PASCAL3D+_release1.1.zip",
    ),
    (remove(LIST), "{root}/" + LIST + " is missing; fetch PASCAL3D+_release1.1.zip"),
    (write(LIST, b"\n\n"), "car_train.txt holds no line; each should read " + FORM),
    (write(LIST, b"\xff\xfe1"), "car_train.txt is not a text file"),
    (
        line(2, "n02814533_10002"),
        "car_train.txt, line 2: 'n02814533_10002' has 1 field, not the 2 of " + FORM + "; " + AGAIN,
    ),
    (
        line(2, "n02814533_10002 0"),
        "car_train.txt, line 2: <object> is '0', not a whole number from 1; each line reads "
        + FORM,
    ),
    (
        line(2, "n02814533_10002 one"),
        "car_train.txt, line 2: <object> is 'one', not a whole number from 1",
    ),
    (
        line(2, "../n02814533_10002 1"),
        "car_train.txt, line 2: <photograph> is '../n02814533_10002', not a name without a path",
    ),
    (
        line(2, "n02814533_10001 1"),
        "car_train.txt, line 2: photograph n02814533_10001 and object 1 stands here for the "
        "second time, first in line 1",
    ),
    (
        line(2, "n02814533_10004 1"),
        "car_test.txt and the list for training both name n02814533_10004; "
        "take it out of one of them.",
    ),
    (
        line(2, "n02814533_77777 1"),
        "Images/car_imagenet lacks 1 of the 6 files that the lists of the car name, "
        "the first is n02814533_77777.JPEG; unpack",
    ),
    (
        line(2, "n02814533_10002 3"),
        "Annotations/car_imagenet/n02814533_10002.mat tells of 1 object, "
        "but the list names number 3; objects are counted from 1",
    ),
    (
        remove(PHOTO),
        "Images/car_imagenet lacks 1 of the 6 files that the lists of the car name, "
        "the first is n02814533_10005.JPEG; unpack",
    ),
    (
        remove(OBJECT),
        "Annotations/car_imagenet lacks 1 of the 6 files that the lists of the car name, "
        "the first is n02814533_10005.mat; unpack",
    ),
    (
        remove(PARTS),
        "car_imagenet/transfered lacks 1 of the 6 files that the lists of the car name, "
        "the first is n02814533_10005.mat; unpack",
    ),
    (
        remove("PASCAL3D+_sp/car_imagenet"),
        "car_imagenet/transfered lacks 6 of the 6 files that the lists of the car name",
    ),
    (write(PARTS, b""), PARTS + " cannot be read as a MATLAB file ("),
    (write(PARTS, b"<html>not found</html>" * 20), PARTS + " cannot be read as a MATLAB file ("),
    (cut(PARTS, 200), PARTS + " cannot be read as a MATLAB file ("),
    (cut(OBJECT, 260), OBJECT + " cannot be read as a MATLAB file ("),
    (
        write(PARTS, b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF" * 30),
        PARTS
        + " is a MATLAB file of version 7.3, not 5 to 7; save it again with MATLAB's option '-v7'.",
    ),
    (
        save(PARTS, annotation=1),
        PARTS + " has no variable 'anno'; it is another file, or damaged, so copy it again.",
    ),
    (
        save(OBJECT, anno=1),
        OBJECT + " has no variable 'record'; it is another file, or damaged, so copy it again.",
    ),
    (
        save(PARTS, anno=np.eye(3)),
        PARTS
        + (
            ": anno is a float64 table of shape (3, 3), not a cell array with a row for each "
            "object and two columns; copy the file again."
        ),
    ),
    (
        save(PARTS, anno=cells(np.zeros((1, 9)))[:, :1]),
        PARTS + ": anno is a object table of shape (1, 1), not a cell array",
    ),
    (
        save(PARTS, anno=cells(*[np.zeros((0, 0))] * 4)),
        PARTS + " has 4 parts, but n02814533_10001.mat has 6; copy it again.",
    ),
    (
        save(OBJECT, record={"source": "x"}),
        OBJECT
        + ": record has no field 'objects'; it is not PASCAL3D+'s format, so copy the file again.",
    ),
    (
        save(OBJECT, record=3),
        OBJECT + ": record has no field 'objects'; it is not PASCAL3D+'s format",
    ),
    (
        save(OBJECT, record={"objects": np.zeros((0, 0))}),
        OBJECT + " tells of 0 objects, but the list names number 1",
    ),
    (
        save(OBJECT, record=objects(name="boat")),
        OBJECT + ": object 1 is a boat, not a car; correct the list.",
    ),
    (
        save(OBJECT, record=objects(box=(10.0, 20.0, 90.0))),
        OBJECT + ": object 1: bbox is [10, 20, 90], not 4 finite numbers; copy the file again.",
    ),
    (
        save(OBJECT, record=objects(box=(10.0, np.nan, 90.0, 60.0))),
        OBJECT + ": object 1: bbox is [10, nan, 90, 60], not 4 finite numbers",
    ),
    (
        save(OBJECT, record=objects(box=(90.0, 20.0, 10.0, 60.0))),
        OBJECT + ": object 1: bbox [90, 20, 10, 60] has no inside (x1, y1, x2, y2 are expected)",
    ),
    (
        save(OBJECT, record=objects(box=(900.0, 20.0, 990.0, 60.0))),
        OBJECT + ": bbox [900, 20, 990, 60] of object 1 lies outside its ",
    ),
    (
        save(OBJECT, record=objects(box="ten")),
        OBJECT + ": object 1: bbox is not made of numbers; copy the file again.",
    ),
    (
        save(OBJECT, record=objects(size={"width": 9, "height": 7})),
        "pixels, but n02814533_10005.mat was written for 9x7; put the annotated picture there, "
        "not a resized one.",
    ),
    (
        save(OBJECT, record=objects(size={"width": 9})),
        OBJECT + ": size has no field 'height'; it is not PASCAL3D+'s format",
    ),
    (
        write(PHOTO, b""),
        PHOTO + " cannot be read as a picture: the file is empty (0 bytes); copy it again.",
    ),
]


@pytest.mark.parametrize("change, sentence", DAMAGES, ids=range(len(DAMAGES)))
def test_damaged(root, change, sentence):
    change(root)
    with pytest.raises(InputError) as error:
        VehiclePart.open(root, "all").counts()
    assert sentence.replace("{root}", str(root)) in str(error.value)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


OPTIONS = [
    (dict(split="val"), "VehiclePart has no split 'val'; choose one of: train, test, all."),
    (dict(size=0), "The size is 0; it must be at least one pixel."),
    (
        dict(categories="boat"),
        "VehiclePart has no vehicle 'boat'; choose among: aeroplane, bicycle, bus, car, "
        "motorbike, train, or all.",
    ),
    (dict(categories="car,car"), "A vehicle is named twice in 'car,car'; name each once."),
    (
        dict(categories="all"),
        "{root}/PASCAL3D+_sp/file_list/train_list/aeroplane_train.txt is missing; fetch",
    ),
]


@pytest.mark.parametrize("options, sentence", OPTIONS, ids=range(len(OPTIONS)))
def test_impossible_options(drawn, options, sentence):
    with pytest.raises(InputError) as error:
        VehiclePart.open(drawn, **options)
    assert str(error.value).startswith(sentence.replace("{root}", str(drawn)))


def test_without_a_folder(monkeypatch, tmp_path, drawn):
    monkeypatch.delenv("PARTBOOK_VEHICLEPART", raising=False)
    with pytest.raises(
        InputError, match="not part of this book; fetch PASCAL3D.*PARTBOOK_VEHICLEPART"
    ):
        VehiclePart.open()
    with pytest.raises(InputError, match="is not there, but should be the folder with PASCAL3D"):
        VehiclePart.open(tmp_path / "none")
    assert (
        not VehiclePart.present()
        and not VehiclePart.present(tmp_path)
        and VehiclePart.present(drawn)
    )
    monkeypatch.setenv("PARTBOOK_VEHICLEPART", str(drawn))
    assert len(VehiclePart.open(split="all")) == 6


def test_what_is_no_error(root):
    "Windows line ends, blank lines, no last line end, no size, small integers, cells lying down."
    (root / LIST).write_bytes((root / LIST).read_bytes().strip().replace(b"\n", b"\r\n\r\n"))
    savemat(root / OBJECT, {"record": objects(box=(11.0, 21.0, 120.0, 130.0))})
    table = np.array(
        [[0, 0, 10, 10, 11, 21, 20, 30, 1], [5, 5, 100, 100, 1, 1, 2, 2, 1]], dtype=np.uint8
    )  # 0 - 1 would be 255
    anno = cells(table, *[np.zeros((0, 0))] * 5)
    anno[0, 1] = anno[0, 1].T
    savemat(root / PARTS, {"anno": anno})
    cars = VehiclePart.open(root, "train")
    s = cars[[row.name for row in cars.rows].index("n02814533_10005")]
    assert (
        s.size == (224, 224)
        and s.part_boxes.tolist() == [[0, 0, 10, 10], [4, 4, 96, 96]]
        and s.box_parts.tolist() == [1, 1]
    )
    counts = cars.counts()
    assert (
        len(cars) == 5
        and counts["boxes cut at the border"] == 1
        and counts["boxes whose two versions disagree"] == 2
    )


def test_counts(drawn):
    cars = VehiclePart.open(drawn, "all")
    counts = cars.counts()
    assert counts == {
        "objects": 6,
        "train": 5,
        "test": 1,
        "vehicles": 1,
        "parts": 6,
        "part boxes": 40,
        "entries left out": 2,
        "boxes without an inside, left out": 0,
        "boxes cut at the border": 1,
        "boxes whose two versions disagree": 0,
    }
    assert (
        sum(len(s.part_boxes) for s in cars) == 40
        and "so this is a part of the data set" in cars.compare_with_paper()
    )
    assert (len(VehiclePart.open(drawn)), len(VehiclePart.open(drawn, "test"))) == (5, 1)
    both = VehiclePart.open(drawn, "all", categories="car,bus")
    assert (
        both.part_names == (*(f"car {k}" for k in range(1, 7)), *(f"bus {k}" for k in range(1, 5)))
        and both.counts()["vehicles"] == 2
    )
    assert both[6].category == VEHICLES.index("bus") and set(both[6].box_parts.tolist()) <= {
        7,
        8,
        9,
        10,
    }


def test_the_object_is_the_one_named(drawn):
    "Photograph 3 shows two cars; the list names the second, further right and facing right."
    first, second = (
        read_object(drawn / OBJECT.replace("10005", "10003"), k, "car") for k in (1, 2)
    )
    assert first.corners[2] < second.corners[2]
    cars = VehiclePart.open(drawn, "all")
    s = cars[2]
    assert (
        s.name == "car/n02814533_10003_2"
        and float(s.part_boxes[s.box_parts == 3][0, 0]) > s.size[1] / 2
    )  # its light is on the right
    whole = VehiclePart.open(drawn, "all", crop=False)[2]
    assert np.allclose(whole.box.numpy()[:2], np.round(second.corners[:2] - 0.5), atol=1)


def test_boxes_lie_where_they_were_drawn(drawn):
    for cropped, whole in zip(
        VehiclePart.open(drawn, "all", categories="bus"),
        VehiclePart.open(drawn, "all", categories="bus", crop=False),
    ):
        for s in (cropped, whole):
            wheels = s.part_boxes[s.box_parts == 1].round().int().tolist()
            assert len(wheels) == 3
            for x, y, w, h in wheels:
                assert float(s.image[:, y + min(h, w) // 2, x + w // 2].max()) < 0.3, (
                    s.name
                )  # one box reaches further down


def test_every_sample_and_a_batch(drawn):
    cars = VehiclePart.open(drawn, "all")
    for s in cars:
        H, W = s.size
        assert (
            min(H, W) == 224
            and s.mask is None
            and (s.part_boxes[:, :2] + s.part_boxes[:, 2:] <= torch.tensor([W, H])).all()
        )
        assert torch.equal(s.part_boxes, s.part_boxes.round()) and (s.part_boxes[:, 2:] >= 1).all()
    assert torch.equal(cars[1].image[0], cars[1].image[2])  # the greyscale file
    batch = next(batches(VehiclePart.open(drawn, "all", size=48), 6))
    assert (
        batch.part_boxes.shape[:2] == batch.box_parts.shape
        and batch.boxes.tolist() == [[0, 0, 48, 48]] * 6
    )


def test_same_samples_each_time(drawn, tmp_path):
    again = write_vehiclepart_fixture(tmp_path, n=6)
    for s, t in zip(VehiclePart.open(drawn, "all"), VehiclePart.open(again, "all")):
        assert torch.equal(s.image, t.image) and torch.equal(s.part_boxes, t.part_boxes)


def test_odd_entries(drawn):
    first = read_parts(drawn / PARTS.replace("10005", "10001"), 1)
    second = read_parts(drawn / PARTS.replace("10005", "10002"), 1)
    assert first.odd == 1 and 3 not in first.numbers and first.parts == 6
    assert second.odd == 1 and (second.numbers == 2).sum() == 1 and (second.numbers == 1).sum() == 2
    raw = loadmat(drawn / PARTS)["anno"][0, 1][0, 0]
    assert raw.dtype.kind == "u"  # whole numbers come back as small integers


def test_rounding_is_the_evaluations():
    boxes, inside = corners_to_boxes(
        np.array([[1.2, 2.0, 9.8, 8.0], [0.2, -3, 50, 50], [4.1, 4.1, 4.9, 9], [3, 3, 3, 3]]),
        (20, 30),
    )
    assert (
        boxes[:2].tolist() == [[1, 1, 8, 7], [0, 0, 30, 20]]
        and inside.tolist() == [True, True, False, True]
        and boxes[3].tolist() == [2, 2, 1, 1]
    )
    window = crop_window(np.array([3.0, 4, 52.7, 103.2]), (80, 200))
    assert window == (2, 4, 52, 80) and crop_scale(window) == 224 / 50
    assert photo_to_crop(np.array([[3.0, 5, 28, 55]]), window).tolist() == [
        [1, 1, 1 + 25 * 4.48, 1 + 50 * 4.48]
    ]


def test_ceiling_of_fixed_boxes():
    boxes = torch.tensor([[5, 5, 70, 70], [5, 5, 71, 71], [0, 0, 141, 141], [0, 0, 142, 142.0]])
    assert (best_iou(boxes) > 0.5).tolist() == [False, True, True, False]
    assert torch.equal(best_iou(boxes, 70.0)[:1], torch.ones(1))


def test_a_photograph_that_lies(drawn, tmp_path):
    path = drawn / PHOTO.replace("10005", "10006")
    with Image.open(path) as image:
        assert image.getexif()[0x0112] == 6 and image.size[0] < image.size[1]
    cars = VehiclePart.open(drawn, "all", crop=False)
    assert cars[5].size[0] < cars[5].size[1]


def test_originals(shared):
    folder = shared / "data" / "VehiclePart"
    if not folder.is_dir():
        pytest.skip(f"no original files of VehicleSemanticPart: {folder} does not exist")
    for vehicle in VEHICLES:
        counts = VehiclePart.open(folder, "all", categories=vehicle).counts()
        assert counts["boxes whose two versions disagree"] <= 0.02 * counts["part boxes"]
        assert counts["entries left out"] <= 0.02 * counts["part boxes"]
