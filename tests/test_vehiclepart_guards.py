"""What the chapter on vehicles' part boxes promises, on vehicles drawn in its layout."""

import math
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from painters.vehiclepart import write_vehiclepart_fixture

from partbook.core import InputError
from partbook.data.sample import Sample, batches, collections
from partbook.evaluation.detection import best_iou
from partbook.readers.vehiclepart import (
    AGREE,
    VEHICLES,
    Stored,
    VehiclePart,
    _annotation,
    _cell,
    _list_path,
    _path,
    corners_to_boxes,
    crop_scale,
    crop_size,
    crop_window,
    photo_to_crop,
    read_parts,
    stored_picture,
    turned_by_size,
    write_vehiclepart,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_vehiclepart_fixture(tmp_path_factory.mktemp("vehicles") / "vehicles")


@pytest.fixture(scope="module")
def cars(root):
    return VehiclePart.open(root, "all")


def test_boxes_are_cut_inwards():
    boxes, inside = corners_to_boxes(
        np.array(
            [[1, 1, 10, 5], [2.4, 1, 9.9, 5], [-3, 2, 400, 3], [7, 7, 6, 9], [8.2, 1, 8.9, 9]]
        ),
        (5, 10),
    )
    assert boxes[0].tolist() == [0, 0, 10, 5]  # the whole picture
    assert boxes[1].tolist() == [2, 0, 7, 5] and boxes[2].tolist() == [0, 1, 10, 2]
    assert inside.tolist() == [True, True, True, False, False]


def test_crops():
    assert crop_window(np.array([11.5, 21.5, 60.5, 140.5]), (200, 300)) == (11, 21, 60, 140)
    assert crop_window(np.array([-4.0, 1, 900, 200]), (200, 300)) == (0, 0, 300, 200)
    assert crop_window(np.array([10.0, 11, 20, 21]), (200, 300)) == (
        10,
        10,
        20,
        20,
    )  # halves go to the even number
    window = (11, 21, 60, 140)
    assert crop_size(window) == (int(119 * 224 / 49), 224) and all(
        min(crop_size((0, 0, n, n + 9))) == 224 for n in range(1, 400)
    )  # 55 * (224 / 55) < 224
    assert crop_scale(window) == 224 / 49 and photo_to_crop(
        np.array([12, 22, 12 + 49, 22]), window
    ).tolist() == [1, 1, 225, 1]


def test_one_file_of_parts(root):
    path = root / "PASCAL3D+_sp/car_imagenet/transfered/n02814533_10003.mat"
    parts = read_parts(path, 2)
    assert parts.parts == 6 and parts.numbers.tolist() == [1, 1, 2, 2, 3, 4, 5] and parts.odd == 0


def test_size_tells_what_was_turned():
    for note in (1, 3, 6):
        verdicts = [
            turned_by_size(Stored((300, 400), note), stated) for stated in ((400, 300), (300, 400))
        ]
    assert verdicts == [True, False]
    assert turned_by_size(Stored((300, 400), 3), (300, 400)) is None  # upside down: same size
    assert turned_by_size(Stored((300, 300), 6), (300, 300)) is None  # square: same size


def test_best_box_of_fixed_size():
    boxes = torch.tensor(
        [[0, 0, 100, 100], [0, 0, 50, 100], [0, 0, 200, 100], [0, 0, 40, 40], [0, 0, 10, 10.0]]
    )
    assert torch.allclose(best_iou(boxes), torch.tensor([1, 0.5, 0.5, 0.16, 0.01]))
    edge = torch.tensor([[0, 0, 1, 1.0]]) * 100 * math.sqrt(0.5)
    assert torch.allclose(best_iou(edge), torch.tensor([0.5])) and torch.allclose(
        best_iou(edge * 2), torch.tensor([0.5])
    )


def test_no_place_is_better_than_the_middle():
    def overlap(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        low, high = (
            torch.maximum(a[:, :2], b[:, :2]),
            torch.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:]),
        )
        shared = (high - low).clamp(min=0).prod(1)
        return shared / (a[:, 2:].prod(1) + b[:, 2:].prod(1) - shared)

    for w, h in ((130, 60), (80, 210), (37, 37)):
        true = torch.tensor([[0, 0, w, h]]).float()
        places = torch.stack(
            torch.meshgrid(torch.arange(-100, w + 1.0), torch.arange(-100, h + 1.0), indexing="ij"),
            -1,
        ).reshape(-1, 2)
        found = overlap(
            torch.cat([places, torch.full_like(places, 100)], 1), true.expand(len(places), 4)
        ).max()
        assert found <= best_iou(true) + 1e-6 and found > best_iou(true) - 0.02


def damaged(root: Path, change) -> Path:
    copy = Path(shutil.copytree(root, tempfile.mkdtemp(), dirs_exist_ok=True))
    change(copy)
    return copy


def edit_list(old: str, new: str):
    def change(copy: Path) -> None:
        path = _list_path(copy, "car", "train")
        path.write_text(path.read_text().replace(old, new))

    return change


def shorten(name: str):
    def change(copy: Path) -> None:
        path = next(copy.rglob(name))
        path.write_bytes(path.read_bytes()[:300])

    return change


def test_damaged_files(root):
    for change, message in [
        (edit_list("10003 2", "10003 0"), "line 3: <object> is '0', not a whole number from 1"),
        (
            edit_list("10003 2", "10003 7"),
            "tells of 2 objects, but the list names number 7; objects are counted from 1",
        ),
        (
            edit_list("n02814533_10002", "n02814533_99"),
            "lacks 1 of the 8 files that the lists of the car name, the first is n02814533_99.JPEG",
        ),
        (
            shorten("n02814533_10005.mat"),
            "n02814533_10005.mat cannot be read as a MATLAB file .* copy it again",
        ),
        (
            lambda copy: shutil.rmtree(copy / "PASCAL3D+_sp"),
            "has no folder PASCAL3D\\+_sp; fetch PASCAL3D\\+_release1.1.zip",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            VehiclePart.open(damaged(root, change)).counts()


def test_the_photograph_on_its_side(cars):
    lying = next(row for row in cars.rows if row.name.endswith("10006"))
    path = _path(cars, lying, "photo")
    picture = stored_picture(path)
    assert turned_by_size(picture, picture.turned()) and not turned_by_size(picture, picture.size)
    assert cars.turnings["car"].votes == {True} and cars.remarks() == []


def test_objects_without_boxes(root):
    def emptied(name: str) -> Path:
        "A copy of the fixture in which one object has lost all of its part boxes."
        from scipy.io import loadmat, savemat

        copy = Path(shutil.copytree(root, tempfile.mkdtemp(), dirs_exist_ok=True))
        path = copy / f"PASCAL3D+_sp/car_imagenet/transfered/{name}.mat"
        anno = loadmat(path)["anno"]
        anno[0, 1] = _cell([np.zeros((0, 0))] * anno[0, 1].size, anno[0, 1].shape)
        savemat(path, {"anno": anno})
        return copy

    fewer = emptied("n02814533_10004")
    for choice in ("keep", "drop"):
        found = VehiclePart.open(fewer, "all", without_boxes=choice).counts()
    assert found["objects"] == 7 and found["objects without a part box, left out"] == 1


def test_boxes_lie_on_what_was_painted(root, cars):
    light = np.array([1, 0.95, 0.6])
    for collection in (cars, VehiclePart.open(root, "all", crop=False)):
        for s in collection:
            for x, y, w, h in s.part_boxes[s.box_parts == 3].int().tolist():
                colour = (
                    s.image[:, y + h // 4 : y + h - h // 4, x + w // 4 : x + w - w // 4]
                    .mean((1, 2))
                    .numpy()
                )
                assert (
                    np.abs(
                        colour - (light if s.name != "car/n02814533_10002_1" else light.mean())
                    ).max()
                    < 0.15
                ), (s.name, colour)
            assert s.part_boxes.shape == (len(s.box_parts), 4) and (s.part_boxes[:, :2] >= 0).all()


def test_crops_and_categories(root, cars):
    assert all(min(s.size) == 224 and s.box.tolist() == [0, 0, s.size[1], s.size[0]] for s in cars)
    both = VehiclePart.open(root, "all", categories="bus, car")
    assert both.part_names[:5] == ("bus 1", "bus 2", "bus 3", "bus 4", "car 1") and len(both) == 16
    assert {s.category for s in both} == {VEHICLES.index("bus"), VEHICLES.index("car")} and max(
        int(s.box_parts.max()) for s in both
    ) == 4 + 5
    whole = VehiclePart.open(root, "all", crop=False)
    assert [s.size for s in whole] != [s.size for s in cars]
    assert all(
        torch.equal(s.box_parts, t.box_parts) for s, t in zip(whole, cars) if "10004" not in s.name
    )
    batch = next(batches(VehiclePart.open(root, size=64), 6))
    assert (
        batch.images.shape == (6, 3, 64, 64)
        and (batch.box_parts == 0).any()
        and batch.masks is None
    )


def test_both_versions_of_a_box_agree(cars):
    for row in cars.all_rows:
        a = _annotation(cars, row)
        gap = np.abs(a.table.in_crop - photo_to_crop(a.table.in_photo, a.window)).max()
        assert gap < (
            AGREE if row.name.endswith("5") else 0.06
        )  # photograph 5's were rounded to whole numbers


def of_kinds(kinds: tuple[str, ...], count: int, size: int = 224) -> tuple[list[Sample], tuple]:
    "So many drawn vehicles of each kind, and the names of the categories."
    albums = [
        collections["vehicles"].open(split="train", size=size, categories=kind) for kind in kinds
    ]
    samples = [s for album in albums for s in album.take(range(count))]
    return samples, albums[0].category_names


def test_writer_reads_back_equal(tmp_path):
    "Whole pictures with a short side of 224 need no scaling: every box is back to the pixel."
    samples, names = of_kinds(("car", "bus"), 4)
    samples = [replace(s, box=None) for s in samples]
    root = write_vehiclepart(tmp_path / "own", samples, names)
    back = VehiclePart.open(root, "all", categories="bus, car")
    assert len(back) == len(samples)
    for t in back:
        s = samples[int(t.name.split("_")[1]) - 1]
        assert names[s.category] == t.name.split("/")[0] == VEHICLES[t.category]
        assert torch.equal(s.part_boxes, t.part_boxes)
        words = [back.part_names[p - 1] for p in t.box_parts.tolist()]
        assert words == [f"{names[s.category]} {p}" for p in s.box_parts.tolist()]
        assert (s.image - t.image).abs().mean() < 0.03
    assert back.counts()["boxes whose two versions disagree"] == 0


def test_writer_notes_where_the_object_is(tmp_path):
    "In the photograph boxes are back to the pixel, in the crop to what its scale makes of one."
    samples, names = of_kinds(("car",), 4, 160)
    root = write_vehiclepart(tmp_path / "own", samples, names, [True, False, True, False])
    for crop in (False, True):
        for t in VehiclePart.open(root, "all", crop=crop):
            s = samples[int(t.name.split("_")[1]) - 1]
            if not crop:
                assert torch.equal(s.box, t.box) and torch.equal(s.part_boxes, t.part_boxes)
            else:
                scale = 224 / float(s.box[2:].min())
                shifted = torch.cat([s.part_boxes[:, :2] - s.box[:2], s.part_boxes[:, 2:]], 1)
                assert (shifted * scale - t.part_boxes).abs().max() <= scale + 2


def test_writer_refuses(tmp_path):
    samples, names = of_kinds(("car",), 2)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty; give a new folder"):
        write_vehiclepart(tmp_path, samples, names)
    with pytest.raises(InputError, match="'boat' is not among the vehicles"):
        write_vehiclepart(tmp_path / "new", samples, ("boat",) * 6)
    with pytest.raises(InputError, match="needs pictures for training and for testing"):
        write_vehiclepart(tmp_path / "new", samples, names, [True, True])
    with pytest.raises(InputError, match="lacks part boxes or a category"):
        write_vehiclepart(tmp_path / "new", [Sample(torch.rand(3, 4, 4), "bare")], names)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
