"Where the readers look, what they count, and which files they name as theirs."

import hashlib
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import message, run
from painters.aflw import write_aflw_fixture
from painters.celeba import write_celeba_fixture
from painters.coco import write_coco_fixture
from painters.pascal import write_pascal_fixture
from painters.vehiclepart import write_vehiclepart_fixture
from PIL import Image
from scipy.io import loadmat, savemat

from partbook.core import InputError
from partbook.readers.aflw import AFLW, find_aflw
from partbook.readers.celeba import CelebA
from partbook.readers.coco import (
    CocoParts,
    _measure,
    decode_runs,
    encode_runs,
    fill_polygon,
    read_coco,
)
from partbook.readers.pascal import PASCAL
from partbook.readers.vehiclepart import VehiclePart

WRITERS = {
    "celeba": (CelebA, write_celeba_fixture, {"min_face": 0.0}),
    "aflw": (AFLW, write_aflw_fixture, {"both_eyes": False}),
    "pascal": (PASCAL, write_pascal_fixture, {"categories": "horse"}),
    "vehiclepart": (VehiclePart, write_vehiclepart_fixture, {}),
    "coco-parts": (CocoParts, write_coco_fixture, {}),
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("drawn")
    return {name: write(folder / name) for name, (_, write, _) in WRITERS.items()}


@pytest.fixture(params=WRITERS)
def place(request, drawn, tmp_path) -> tuple[type, Path, dict]:
    "A collection's class, a copy of its fixture to be damaged, and its options."
    cls, _, options = WRITERS[request.param]
    return cls, Path(shutil.copytree(drawn[request.param], tmp_path / request.param)), options


# ------------------------------------------------------------------------------- files


def test_files_are_there_and_in_order(place):
    cls, root, options = place
    collection = cls.open(root, "all", **options)
    files = collection.files()
    assert len(files) == len(set(files)) and all(path.is_file() for path in files)
    pictures = [p for p in files if p.suffix.lower() in (".jpg", ".jpeg")]
    assert files[: len(pictures)] == pictures  # photographs come first
    first = [
        next(p for p in pictures if Path(s.name).stem[:10] in str(p)) for s in collection.take([0])
    ]
    assert first == pictures[:1]


def test_nothing_but_its_files_is_needed(place, tmp_path):
    "A folder with these files alone gives the same samples."
    cls, root, options = place
    collection = cls.open(root, "all", **options)
    copy = tmp_path / "copy"
    for path in collection.files():
        (copy / path.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy / path.relative_to(root))
    again = cls.open(copy, "all", **options)
    assert len(again) == len(collection) > 0
    for k in range(len(again)):
        s, t = collection[k], again[k]
        assert s.name == t.name and torch.equal(s.image, t.image)
        for field in ("mask", "parts", "landmarks", "part_boxes"):
            a, b = getattr(s, field), getattr(t, field)
            assert (a is None) == (b is None) and (a is None or torch.equal(a, b))


def content(collection) -> str:
    files = [path.read_bytes() for path in collection.files()]
    return hashlib.sha256(b"".join(files)).hexdigest()


def test_files_tell_one_content_from_another(place):
    "What a sample is read from changes the hash of the files; a file beside them does not."
    cls, root, options = place
    before = content(cls.open(root, "all", **options))
    (root / "notes.txt").write_text("mine")
    assert content(cls.open(root, "all", **options)) == before
    path = cls.open(root, "all", **options).files()[0]
    Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    assert content(cls.open(root, "all", **options)) != before


def test_files_of_a_split_are_those_of_its_rows(drawn):
    train, test = (CelebA.open(drawn["celeba"], split) for split in ("train", "test"))
    names = [{p.name for p in c.files() if p.suffix == ".jpg"} for c in (train, test)]
    assert not names[0] & names[1] and len(names[0]) == len(train) and len(names[1]) == len(test)
    voc = PASCAL.open(
        drawn["pascal"], "all", categories="horse", source="voc", lists="Segmentation"
    )
    assert {p.parent.name for p in voc.files()} == {
        "JPEGImages",
        "SegmentationClass",
        "SegmentationObject",
        "Segmentation",
        "Main",
    }


# ------------------------------------------------------------------------------- odd paths


def test_pipes_are_refused_at_once(place):
    "Each file in turn is a pipe; nobody waits for what never comes."
    cls, root, options = place
    files = cls.open(root, "all", **options).files()
    kinds = {path.suffix + path.parent.name: path for path in reversed(files)}
    for path in kinds.values():
        kept = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        said = []

        def act(said=said):
            try:
                collection = cls.open(root, "all", **options)
                collection.counts()
                said.append("nothing was wrong")
            except InputError as error:
                said.append(str(error))

        thread = threading.Thread(target=act, daemon=True)
        thread.start()
        thread.join(20)
        assert said and ("is a pipe or a device" in said[0] or "is missing" in said[0]), (
            path,
            said,
        )
        path.unlink()
        path.write_bytes(kept)


def test_long_names_and_empty_ones(place, monkeypatch, tmp_path):
    cls, root, options = place
    for wrong, expected in (
        (root / ("x" * 300), "cannot be looked at (File name too long)"),
        ("", "is empty; name a file or folder"),
        ("a\0b", "holds a zero byte"),
        (tmp_path / "gone", "is not there"),
    ):
        with pytest.raises(InputError) as error:
            cls.open(wrong, **options)
        assert expected in message(error) and not cls.present(wrong)
    monkeypatch.setenv("HOME", str(root.parent))
    assert len(cls.open(f"~/{root.name}", "all", **options)) > 0


def test_a_closed_folder_is_a_sentence(place, monkeypatch):
    "As a normal user would see it; root may enter everything, so the system's answer is replaced."
    cls, root, options = place
    own = os.stat

    def closed(path, *args, **how):
        if str(path).startswith(str(root) + os.sep):
            raise PermissionError(13, "Permission denied", str(path))
        return own(path, *args, **how)

    monkeypatch.setattr(os, "stat", closed)
    with pytest.raises(InputError, match="cannot be looked at .Permission denied."):
        cls.open(root, "all", **options)


def test_names_that_are_not_utf8(place, tmp_path, capsys):
    cls, root, options = place
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.move(root, odd)
    collection = cls.open(odd, "all", **options)
    assert len(collection) > 0 and collection[0].image.shape[0] == 3
    with pytest.raises(InputError) as error:
        cls.open(odd / "gone")
    assert r"caf\xe9" in message(error) and str(error.value).isprintable()


# ------------------------------------------------------------------------------- AFLW


@pytest.mark.parametrize("below", ["", "aflw_release-2", "data/aflw/aflw_release-2"])
@pytest.mark.parametrize("source", ["auto", "recrop"])
def test_the_crops_are_found_where_they_unpack_to(drawn, tmp_path, below, source):
    shutil.copytree(drawn["aflw"] / "recrop", tmp_path / "unpacked" / below, dirs_exist_ok=True)
    found = find_aflw(tmp_path / "unpacked", source)
    assert found.source == "recrop"
    assert found.file == tmp_path / "unpacked" / below / "aflw_train_images.txt"
    crops = AFLW.open(tmp_path / "unpacked", "all")
    plain = AFLW.open(drawn["aflw"] / "recrop", "all")
    assert len(crops) == len(plain) and torch.equal(crops[0].image, plain[0].image)


def test_what_to_fetch_for_the_crops_is_named(drawn, tmp_path):
    with pytest.raises(InputError) as error:
        AFLW.open(tmp_path, source="recrop")
    said = message(error)
    for word in (
        "aflw_release-2.zip (1.1 GB",
        "aflw-recrop.tar.gz",
        "Zhang et al. 2018",
        "939fdce0e6262a14159832c71d4f84a9d516de5e",
    ):
        assert word in said
    assert "Thewlis et al. 2017" not in said


def change_truth(root: Path, change) -> None:
    path = root / "recrop" / "aflw_train_keypoints.mat"
    values = loadmat(path)
    change(values["gt"])
    savemat(path, {"gt": values["gt"], "hw": values["hw"]})


@pytest.fixture
def heads(drawn, tmp_path) -> Path:
    return Path(shutil.copytree(drawn["aflw"], tmp_path / "aflw"))


def test_faces_without_any_truth_are_hidden_and_counted(heads):
    before = AFLW.open(heads / "recrop", "train")

    def blank(truth):
        truth[1] = 0

    change_truth(heads, blank)
    faces = AFLW.open(heads / "recrop", "train", both_eyes=False)
    counts = faces.counts()
    assert counts["left out: faces whose landmarks are all zero, hidden"] == 1
    assert counts["left out: landmarks outside, hidden"] == 0
    assert len(faces) == len(before) and not faces[1].visible.any()
    assert faces[1].landmarks.tolist() == [[0, 0]] * 5
    assert counts["visible landmarks"] == 5 * (counts["faces"] - 1)
    assert len(AFLW.open(heads / "recrop", "train")) == len(before) - 1  # as the crops' authors do
    for s, t in zip((faces[0], faces[2]), (before[0], before[2]), strict=True):
        assert torch.equal(s.landmarks, t.landmarks) and s.visible.all()


def test_one_landmark_in_the_corner_is_a_landmark(heads):
    def corner(truth):
        truth[0, 3] = 0

    change_truth(heads, corner)
    s = AFLW.open(heads / "recrop", "train")[0]
    assert s.visible.all() and s.landmarks[3].tolist() == [0.5, 0.5]


def test_numbers_of_pixels_become_their_middles(heads):
    "The same face from the database and from its crop: half a pixel would show."
    crops = AFLW.open(heads / "recrop", "all")
    for k, s in enumerate(crops):
        x, y = s.landmarks[:2].T
        assert (s.landmarks >= 0.0).all(), k
        dark = s.image[2, y.long(), x.long()]
        assert (dark < 0.6).all()
    values = loadmat(heads / "recrop" / "aflw_train_keypoints.mat")["gt"]
    truth = torch.tensor(values[..., ::-1].copy()).float() + 0.5
    train = AFLW.open(heads / "recrop", "train")
    assert all(torch.allclose(s.landmarks, t, atol=1e-4) for s, t in zip(train, truth, strict=True))


# ------------------------------------------------------------------------------- VehiclePart


def bare(root: Path, *names: str) -> None:
    "Take all part boxes of some cars away, each in another way."
    for k, name in enumerate(names):
        path = root / f"PASCAL3D+_sp/car_imagenet/transfered/n02814533_{name}.mat"
        anno = loadmat(path)["anno"]
        tables = anno[0, 1]
        for p in range(tables.size):
            table = [np.zeros((0, 0)), np.ones((2, 4)), np.full((3, 9), 99.0)][k]
            tables[p, 0] = table
        savemat(path, {"anno": anno})


def test_objects_without_part_boxes(drawn, tmp_path):
    "Nothing marked, tables of four columns, boxes under another part's number: no box is left."
    root = Path(shutil.copytree(drawn["vehiclepart"], tmp_path / "v"))
    plain = VehiclePart.open(root, "all").counts()
    bare(root, "10001", "10004", "10007")
    kept = VehiclePart.open(root, "all")
    counts = kept.counts()
    assert counts["objects"] == 8 and counts["objects without a part box"] == 3
    assert [len(s.part_boxes) for s in kept].count(0) == 3
    dropped = {
        split: VehiclePart.open(root, split, without_boxes="drop") for split in ("train", "test")
    }
    names = [row.name[-5:] for c in dropped.values() for row in c.rows]
    assert names == ["10002", "10003", "10005", "10006", "10008"]
    counts = dropped["test"].counts()
    assert counts["objects without a part box, left out"] == 3 and counts["test"] == 1
    assert counts["part boxes"] < plain["part boxes"]
    assert "objects without a part box" not in plain


def test_the_choice_about_them(drawn, tmp_path):
    for wrong in ("dropp", "", "no"):
        with pytest.raises(InputError) as error:
            VehiclePart.open(drawn["vehiclepart"], without_boxes=wrong)
        assert f"without_boxes is {wrong!r}; it must be keep or drop" in message(error)
    root = Path(shutil.copytree(drawn["vehiclepart"], tmp_path / "v"))
    for k in range(1, 9):
        if k % 4 == 0:
            bare(root, f"{10000 + k}")
    with pytest.raises(InputError, match="No object of split 'test' has a part box; open with"):
        VehiclePart.open(root, "test", without_boxes="drop")
    command = ["data", "vehiclepart", "--root", root, "--option", "without_boxes=drop"]
    assert run(*command) == 0


# ------------------------------------------------------------------------------- COCO


def test_extents_of_runs_are_those_of_their_masks():
    g = np.random.default_rng(0)
    for _ in range(300):
        H, W = g.integers(1, 9, 2)
        mask = g.random((H, W)) < g.random()
        if not mask.any():
            continue
        runs = np.array(encode_runs(mask))
        area, extent = _measure(runs, (H, W))
        ys, xs = np.nonzero(decode_runs(runs, (H, W)))
        assert area == mask.sum()
        assert extent == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_filling_in_steps_is_filling_at_once(monkeypatch):
    from partbook.readers import coco

    g = np.random.default_rng(1)
    for _ in range(20):
        corners = g.uniform(-3, 40, (int(g.integers(3, 60)), 2))
        whole = fill_polygon(corners, (30, 35))
        monkeypatch.setattr(coco, "EDGES_AT_ONCE", 64)
        assert np.array_equal(fill_polygon(corners, (30, 35)), whole)
        monkeypatch.undo()


ODD = [  # (where, value, what is said; None: it is read)
    (("images", 0, "id"), -7, "there is no image with id 401"),
    (("images", 0, "id"), 10**30, "has too many digits"),
    (("images", 0, "id"), True, "id is True, not a whole number"),
    (("images", 0, "width"), 10**12, "no picture is 1000000000000 pixels wide or high"),
    (("images", 0, "height"), 2.0, "height is 2.0, not a positive whole number"),
    (("images", 0, "file_name"), "a\0b.jpg", "holds a zero byte"),
    (("images", 0, "file_name"), "x" * 300, "lacks 1 of the 3 photographs"),
    (("images", 0, "file_name"), "\ud800.jpg", "lacks 1 of the 3 photographs"),
    (("images", 0, "file_name"), "a\nb.jpg", r"the first is a\nb.jpg"),
    (("annotations", 0, "id"), -1, None),
    (("annotations", 0, "id"), 2**63, "has too many digits"),
    (("annotations", 0, "image_id"), 10**40, "there is no image with id 1000"),
    (("annotations", 0, "segmentation"), [[10**400, 1, 2, 2, 3, 3]], "is not a number"),
    (("annotations", 0, "segmentation"), [[1e308, 1, 2, 2, 3, 3]], "has a corner at (1e+308, 1)"),
    (("annotations", 0, "segmentation"), [[float("nan"), 1, 2, 2, 3, 3]], "is not a number"),
    (("annotations", 0, "segmentation"), {"size": [1, 1], "counts": [10**40]}, "for size [1, 1]"),
    (("annotations", 0, "category_id"), {"a": []}, "category_id is {'a': []}, not a whole number"),
    (("categories", 0, "name"), ["hood"], "name is ['hood'], not a name"),
]


@pytest.mark.parametrize("where, value, expected", ODD, ids=range(len(ODD)))
def test_odd_numbers_and_types(drawn, tmp_path, where, value, expected):
    root = Path(shutil.copytree(drawn["coco-parts"], tmp_path / "c"))
    path = root / "annotations.json"
    data = json.loads(path.read_text())
    data["images"] = data["images"][:3]
    data["annotations"] = [
        a for a in data["annotations"] if a["image_id"] <= 403 and a["image_id"] > 400
    ]
    first, k, key = where
    data[first][k][key] = value
    path.write_text(json.dumps(data))
    if expected is None:
        assert read_coco(path).ids[0] == value and len(CocoParts.open(root, "all")) == 3
        return
    with pytest.raises(InputError) as error:
        CocoParts.open(root, "all").counts()
    said = message(error)
    assert expected in said and said.isprintable()


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"[" * 100_000, "is nested too deep"),
        (b'{"images": ' + b"[" * 300 + b"]" * 300 + b"}", "images[0] is [[[["),
        (b'{"images": [' + b"9" * 5000 + b"]}", "is not a JSON file"),
        ("[]".encode("utf-16"), "is not a JSON file in UTF-8"),
        (b"\xef\xbb\xbf", "is not a JSON file"),
        (
            b'{"images": [{"id": 1, "file_name": "caf\xe9.jpg"}]}',
            "is not a JSON file in UTF-8 (byte",
        ),
    ],
    ids=["deep", "list", "digits", "utf-16", "mark only", "latin-1"],
)
def test_files_that_are_no_annotations(tmp_path, content, expected):
    (tmp_path / "annotations.json").write_bytes(content)
    with pytest.raises(InputError) as error:
        CocoParts.open(tmp_path)
    assert expected in message(error)


@pytest.mark.parametrize(
    "text", ['{"a": [["hood"]]}', '{"a": [3]}', '["hood"]', '{"a": "hood"}', "3"]
)
def test_groupings_that_are_none(drawn, tmp_path, text):
    (tmp_path / "groups.json").write_text(text)
    with pytest.raises(InputError, match="A grouping maps each new name to a list of names"):
        CocoParts.open(drawn["coco-parts"], "all", groups=str(tmp_path / "groups.json"))


def test_groupings_with_a_mark(drawn, tmp_path):
    text = json.dumps({"glass": ["front_glass", "back_glass"]}).encode()
    (tmp_path / "groups.json").write_bytes(b"\xef\xbb\xbf" + text)
    cars = CocoParts.open(drawn["coco-parts"], "all", groups=str(tmp_path / "groups.json"))
    assert "glass" in cars.part_names and len(cars.part_names) == 14


# ------------------------------------------------------------------------------- what to fetch


FETCHED = {
    "celeba": (["img_celeba.7z", "10.2 GB", "img_align_celeba.zip", "1.44 GB"], CelebA),
    "aflw": (["aflw-db.tar.gz", "aflw-images-", "AFLWinfo_release.mat"], AFLW),
    "vehiclepart": (["PASCAL3D+_release1.1.zip", "28c2d7dac539cf5f2592cbc06299f895"], VehiclePart),
    "pascal": (["VOCtrainval_03-May-2010.tar"], PASCAL),
    "coco-parts": (["dsmlr/Car-Parts-Segmentation", "annotations.json"], CocoParts),
}


@pytest.mark.parametrize("name", FETCHED)
def test_what_to_fetch_names_files(name, monkeypatch):
    monkeypatch.delenv(f"PARTBOOK_{name.upper().replace('-PARTS', '')}", raising=False)
    words, cls = FETCHED[name]
    with pytest.raises(InputError) as error:
        cls.open()
    assert all(word in message(error) for word in words)
    assert "1.3 GB" in PASCAL.needs and "da459979d0c395079b5c75ee67908abb" in PASCAL.needs


@pytest.mark.parametrize("variant, sum_", [("aligned", "00d2c5bc6d35e252742224ab0c1e8fcb")])
def test_missing_pictures_name_their_archive(drawn, tmp_path, variant, sum_):
    root = Path(shutil.copytree(drawn["celeba"], tmp_path / "CelebA"))
    shutil.rmtree(root / "Img")
    with pytest.raises(InputError) as error:
        CelebA.open(root, variant=variant)
    assert sum_ in message(error) and "img_align_celeba.zip" in str(error.value)
