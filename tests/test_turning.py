"Photographs with a note to turn them: outlines must fall on what was drawn, whatever the note."

import json
from pathlib import Path

import numpy as np
import pytest
from painters.vehiclepart import write_vehiclepart_fixture
from PIL import Image
from scipy.io import loadmat, savemat

from partbook.core import InputError
from partbook.readers import vehiclepart
from partbook.readers.coco import CocoParts
from partbook.readers.vehiclepart import (
    Stored,
    VehiclePart,
    turned_by_size,
)

LYING = {  # how an upright picture is stored so that the note turns it back
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
CORNERS = [(10, 8), (50, 8), (50, 20), (22, 20), (22, 40), (10, 40)]  # an L: no symmetry


def draw(size: tuple[int, int]) -> Image.Image:
    "A dark L on a light ground; `size` is (width, height)."
    pixels = np.full((size[1], size[0], 3), 230, np.uint8)
    pixels[8:20, 10:50] = 20
    pixels[8:40, 10:22] = 20
    return Image.fromarray(pixels)


def save(path: Path, picture: Image.Image, note: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = note
    stored = picture if LYING[note] is None else picture.transpose(LYING[note])
    stored.save(path, exif=exif, quality=95)


def album(folder: Path, pictures, bom: bool = False) -> Path:
    "Photographs and annotations.json; each row is (name, note, size, whether outlined upright)."
    folder.mkdir(exist_ok=True)
    images, annotations = [], []
    for k, (name, note, size, upright) in enumerate(pictures, 1):
        picture = draw(size)
        if upright:
            save(folder / name, picture, note)
        else:  # the outlines are for the pixels as stored
            exif = Image.Exif()
            exif[0x0112] = note
            picture.save(folder / name, exif=exif, quality=95)
        images.append({"id": k, "file_name": name, "width": size[0], "height": size[1]})
        outline = [v for corner in CORNERS for v in corner]
        annotations.append({"id": k, "image_id": k, "category_id": 1, "segmentation": [outline]})
    data = {"images": images, "categories": [{"id": 1, "name": "L"}], "annotations": annotations}
    text = json.dumps(data).encode()
    (folder / "annotations.json").write_bytes(b"\xef\xbb\xbf" * bom + text)
    return folder


def overlap(sample) -> float:
    "Intersection over union of the outlined mask and the dark pixels."
    dark = sample.image.mean(0) < 0.5
    return float((dark & sample.mask).sum() / (dark | sample.mask).sum())


def overlaps(folder: Path) -> dict[str, float]:
    return {s.name: overlap(s) for s in CocoParts.open(folder, "all")}


WIDE, SQUARE = (80, 60), (64, 64)


@pytest.mark.parametrize("note", range(1, 9))
@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("size", [WIDE, SQUARE], ids=["wide", "square"])
def test_the_others_tell(tmp_path, note, upright, size):
    "One photograph whose size tells decides for a half turn, a mirror image and a square."
    rows = [("a.jpg", 6, WIDE, upright), ("b.jpg", note, size, upright)]
    folder = album(tmp_path, rows)
    assert min(overlaps(folder).values()) > 0.97
    cars = CocoParts.open(folder, "all")
    assert cars.remarks() == []
    open_question = note != 1 and (note < 5 or size == SQUARE)
    counted = cars.counts().get("photographs whose note to turn no size confirms", 0)
    assert counted == int(open_question)


@pytest.mark.parametrize("note", [5, 6, 7, 8])
@pytest.mark.parametrize("upright", [True, False])
def test_a_quarter_turn_tells_by_itself(tmp_path, note, upright):
    folder = album(tmp_path, [("a.jpg", note, WIDE, upright)])
    assert min(overlaps(folder).values()) > 0.97 and CocoParts.open(folder, "all").remarks() == []


@pytest.mark.parametrize("note, size", [(2, WIDE), (3, WIDE), (4, WIDE), (6, SQUARE), (8, SQUARE)])
def test_alone_it_is_read_as_stored_and_said(tmp_path, note, size):
    folder = album(tmp_path, [("a.jpg", 1, WIDE, True), ("b.jpg", note, size, False)])
    assert min(overlaps(folder).values()) > 0.97
    cars = CocoParts.open(folder, "all")
    (said,) = cars.remarks()
    assert said.startswith(
        "In annotations.json 1 photograph has a note to turn that no size confirms"
    )
    assert "b.jpg" in said and "the others do not tell" in said and said.endswith(".")
    assert "\n" not in said
    assert cars.counts()["photographs whose note to turn no size confirms"] == 1


def test_a_mixed_file_decides_nothing(tmp_path):
    rows = [
        ("a.jpg", 6, WIDE, True),
        ("b.jpg", 8, WIDE, False),
        ("c.jpg", 3, WIDE, False),
        ("d.jpg", 6, SQUARE, False),
    ]
    folder = album(tmp_path, rows)
    assert min(overlaps(folder).values()) > 0.97  # a and b by their size, c and d as stored
    (said,) = CocoParts.open(folder, "all").remarks()
    assert (
        said.startswith("In annotations.json 2 photographs have a note")
        and "the others disagree" in said
    )


def test_pictures_that_tell_need_no_outline_of_their_own(tmp_path):
    "A photograph that is filtered out, or in the other split, is evidence all the same."
    folder = album(tmp_path, [("a.jpg", 6, WIDE, True), ("b.jpg", 3, WIDE, True)])
    path = folder / "annotations.json"
    data = json.loads(path.read_text())
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] == 2]
    path.write_text(json.dumps(data))
    cars = CocoParts.open(folder, "all")
    assert len(cars) == 1 and overlap(cars[0]) > 0.97


def test_a_photograph_that_is_gone_or_another_says_nothing(tmp_path):
    rows = [("a.jpg", 6, WIDE, True), ("b.jpg", 6, WIDE, True), ("c.jpg", 3, WIDE, False)]
    folder = album(tmp_path, rows)
    path = folder / "annotations.json"
    data = json.loads(path.read_text())
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] == 3]
    path.write_text(json.dumps(data))
    (folder / "a.jpg").unlink()
    Image.new("RGB", (31, 17)).save(folder / "b.jpg")
    cars = CocoParts.open(folder, "all")
    assert overlap(cars[0]) > 0.97 and len(cars.remarks()) == 1


def test_another_size_is_refused(tmp_path):
    folder = album(tmp_path, [("a.jpg", 6, WIDE, True)])
    Image.new("RGB", (33, 44)).save(folder / "a.jpg")
    with pytest.raises(InputError, match="a.jpg is 33x44 pixels, but annotations.json was written"):
        CocoParts.open(folder, "all")[0]


def test_a_mark_at_the_start_of_the_file(tmp_path):
    folder = album(tmp_path, [("a.jpg", 1, WIDE, True)], bom=True)
    assert min(overlaps(folder).values()) > 0.97


@pytest.mark.parametrize("note", range(1, 9))
def test_what_the_size_says(note):
    wide = Stored((60, 80), note)
    expected = [False, False] if note == 1 else [None, None] if note < 5 else [False, True]
    assert [turned_by_size(wide, size) for size in ((60, 80), (80, 60))] == expected
    assert turned_by_size(wide, None) is (False if note == 1 else None)


def test_headers_are_read_once_and_only_if_needed(tmp_path, monkeypatch):
    rows = [(f"{k}.jpg", 6, WIDE, True) for k in range(5)] + [("half.jpg", 3, WIDE, True)]
    folder = album(tmp_path, rows)
    cars = CocoParts.open(folder, "all")
    asked = []
    own = vehiclepart._vote
    vote = lambda path, stated: asked.append(path) or own(path, stated)  # noqa: E731
    monkeypatch.setattr(vehiclepart, "_vote", vote)
    assert cars[0].size == (60, 80) and asked == []
    for _ in range(3):
        assert overlap(cars[5]) > 0.97
    assert len(asked) == 6


# ------------------------------------------------------------------------------- VehiclePart


IMAGES = "PASCAL3D+_release1.1/Images/car_imagenet"
OBJECTS = "PASCAL3D+_release1.1/Annotations/car_imagenet"


def light(cars: VehiclePart) -> float:
    "How bright the light of photograph 5 is inside its box; it was drawn in yellowish white."
    s = next(s for s in cars if "10005" in s.name)
    boxes = s.part_boxes[s.box_parts == 3].int().tolist()
    patches = [s.image[:2, y + 1 : y + h - 1, x + 1 : x + w - 1] for x, y, w, h in boxes]
    return float(np.mean([patch.mean() for patch in patches]))


def store(root: Path, number: int, note: int) -> None:
    "Store a photograph of the fixture lying, with the note that turns it back."
    path = root / IMAGES / f"n02814533_{10000 + number}.JPEG"
    with Image.open(path) as image:
        picture = image.copy()
    save(path, picture, note)


@pytest.mark.parametrize("note", [2, 3, 4, 5, 6, 7, 8])
def test_vehicles_follow_the_one_that_tells(tmp_path, note):
    "Photograph 6 of the fixture lies on its side and its size tells that it was seen upright."
    root = write_vehiclepart_fixture(tmp_path, n=6, vehicles=["car"])
    store(root, 5, note)
    cars = VehiclePart.open(root, "all")
    assert light(cars) > 0.85 and cars.turnings["car"].votes == {True} and cars.remarks() == []
    assert cars.counts()["boxes whose two versions disagree"] == 0


def test_vehicles_alone_are_read_as_stored_and_said(tmp_path):
    root = write_vehiclepart_fixture(tmp_path, n=6, vehicles=["car"])
    path = root / IMAGES / "n02814533_10006.JPEG"
    with Image.open(path) as image:
        image.transpose(Image.Transpose.ROTATE_270).save(path, quality=95)  # upright, no note
    store(root, 5, 3)
    cars = VehiclePart.open(root, "all")
    (said,) = cars.remarks()
    assert said.startswith("In the car list 1 photograph has a note") and "10005.JPEG" in said
    assert light(cars) < 0.85
    assert VehiclePart.open(root, "test").remarks() == []  # photograph 5 is for training


def test_vehicles_without_a_noted_size_follow(tmp_path):
    root = write_vehiclepart_fixture(tmp_path, n=6, vehicles=["car"])
    store(root, 5, 8)
    path = root / OBJECTS / "n02814533_10005.mat"
    record = loadmat(path)["record"]
    savemat(path, {"record": {"objects": record["objects"][0, 0]}})
    cars = VehiclePart.open(root, "all")
    assert light(cars) > 0.85 and cars.remarks() == []
