"""AFLW, on drawn heads in its three layouts: what is read, and one sentence for each damage.

No real file of it was at hand.
"""

import math
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import message
from painters.aflw import write_aflw_fixture
from PIL import Image
from scipy.io import loadmat, savemat

from partbook.core import InputError
from partbook.data.sample import batches, collections, cropped, resized
from partbook.readers import aflw as module
from partbook.readers.aflw import (
    AFLW,
    EARS,
    FEATURES,
    FIVE,
    LANDMARKS,
    head_landmarks,
    photograph_split,
)


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> Path:
    return write_aflw_fixture(tmp_path_factory.mktemp("heads") / "aflw")


@pytest.fixture
def root(heads, tmp_path) -> Path:
    "A copy, to be damaged."
    return Path(shutil.copytree(heads, tmp_path / "aflw"))


def change_database(root: Path, sql: str) -> None:
    with closing(sqlite3.connect(root / "data" / "aflw.sqlite")) as connection:
        connection.executescript(sql)
        connection.commit()


def change_mat(path: Path, change) -> None:
    values = {k: v for k, v in loadmat(path).items() if not k.startswith("__")}
    savemat(path, change(values))


# ------------------------------------------------------------------------------------- what is read


def test_registered_with_fields(heads):
    assert collections["aflw"] is AFLW
    everything = AFLW.open(heads, "all", both_eyes=False)
    assert (
        len(everything) == 13
        and everything.fitting == "train"
        and everything.place.source == "sqlite"
    )
    for s in everything:
        H, W = s.size
        x, y, w, h = s.box.tolist()
        assert (H, W) == (120, 160) and 0 <= x < x + w <= W and 0 <= y < y + h <= H
        assert (
            s.landmarks.shape == (21, 2)
            and not s.landmarks[~s.visible].any()
            and 10 <= s.visible.sum() <= 21
        )
        assert s.mask is None and s.parts is None and s.category is None


def test_counts_of_the_fixture(heads):
    counts = AFLW.open(heads, "train").counts()
    assert counts == AFLW.open(heads, "all").counts()
    assert (
        counts["photographs"],
        counts["faces"],
        counts["train"],
        counts["test"],
        counts["frontal"],
    ) == (11, 11, 5, 6, 2)
    assert (counts["landmarks"], counts["visible landmarks"], counts["greyscale photographs"]) == (
        21,
        220,
        1,
    )
    left = [
        counts[f"left out: {what}"]
        for what in ("faces without both eyes", "faces without a rectangle", "further rectangles")
    ]
    assert left == [2, 1, 1]


def test_landmarks_and_boxes_are_those_drawn(heads):
    with closing(sqlite3.connect(heads / "data" / "aflw.sqlite")) as connection:
        rows = connection.execute(
            "SELECT f.face_id, t.descr, c.x, c.y FROM Faces f JOIN FeatureCoords c ON "
            "c.face_id = f.face_id "
            "JOIN FeatureCoordTypes t ON t.feature_id = c.feature_id"
        ).fetchall()
        boxes = dict(
            (r[0], r[1:])
            for r in reversed(
                connection.execute("SELECT face_id, x, y, w, h FROM FaceRect").fetchall()
            )
        )
    everything = AFLW.open(heads, "all", both_eyes=False)
    by_id = {int(s.name.split("-")[-1].removesuffix(".jpg")): s for s in everything}
    assert sum(int(s.visible.sum()) for s in by_id.values()) == len(rows)
    for face, name, x, y in rows:
        k = FEATURES.index(name)
        assert by_id[face].visible[k] and by_id[face].landmarks[k].tolist() == pytest.approx(
            [x, y], abs=1e-4
        )
    for face, s in by_id.items():
        x, y, w, h = boxes[face]
        assert s.box.tolist() == [
            max(x, 0),
            max(y, 0),
            min(x + w, 160) - max(x, 0),
            min(y + h, 120) - max(y, 0),
        ]


def test_sets_of_landmarks():
    assert (
        LANDMARKS[5] == ("left eye", "right eye", "nose", "left mouth corner", "right mouth corner")
        and len(FEATURES) == 21
    )
    assert (
        [n for n in LANDMARKS[21] if n not in LANDMARKS[19]]
        == ["left ear", "right ear"]
        == [f"{e[:-3]} ear".lower() for e in EARS]
    )
    assert {FEATURES.index(f) for f in FIVE.values()} == {7, 10, 14, 17, 19}


@pytest.mark.parametrize(
    "count, eyes", [(None, (7, 10)), (21, (7, 10)), (19, (7, 10)), (5, (0, 1))]
)
def test_eyes_are_the_eyes(heads, count, eyes):
    faces = AFLW.open(heads, "all", landmarks=count)
    assert (
        faces.eyes == eyes
        and "left eye" in faces.landmark_names[eyes[0]]
        and "right eye" in faces.landmark_names[eyes[1]]
    )
    for s in faces:
        left, right = s.landmarks[list(eyes)]
        assert left[0] < right[0] and s.visible[list(eyes)].all()


def test_the_yaw_of_the_database_is_in_degrees_and_filters(heads):
    everything = AFLW.open(heads, "all", both_eyes=False)
    yaw = everything.faces.yaw[everything.rows]
    assert 40 < np.abs(yaw).max() < 76
    for limit in (0, 15, 45, 180):
        if (np.abs(yaw) <= limit).any():
            assert (
                len(AFLW.open(heads, "all", both_eyes=False, max_yaw=limit))
                == (np.abs(yaw) <= limit).sum()
            )
    with pytest.raises(
        InputError,
        match=(
            "holds no face of split 'all' after the filters .*13 faces turned by more than 0 "
            "degrees"
        ),
    ):
        AFLW.open(heads, "all", both_eyes=False, max_yaw=0)


def test_share_of_the_photograph(heads):
    close = AFLW.open(heads, "all", min_face=0.3)
    shares = [float(s.box[2:].prod()) / (120 * 160) for s in AFLW.open(heads, "all")]
    assert len(close) == sum(v >= 0.3 for v in shares) == 4 and len(
        AFLW.open(heads, "all", min_face=min(shares))
    ) == len(shares)
    listed = AFLW.open(heads, "all", source="aflw-19", min_face=0.3)
    assert [s.box.tolist() for s in listed] == [s.box.tolist() for s in close]


def test_minimum_of_visible_landmarks(heads):
    seen = [int(s.visible.sum()) for s in AFLW.open(heads, "all", both_eyes=False)]
    for least in (16, 18, 21):
        assert len(AFLW.open(heads, "all", both_eyes=False, min_visible=least)) == sum(
            v >= least for v in seen
        )


def test_splits_are_by_photograph(heads):
    train, test = (AFLW.open(heads, s, both_eyes=False) for s in ("train", "test"))
    assert len(train) + len(test) == 13 and set(train.faces.files[train.rows]).isdisjoint(
        test.faces.files[test.rows]
    )
    assert set(AFLW.open(heads, "train", min_face=0.3).faces.files) <= set(train.faces.files)
    assert (
        photograph_split(["0/image00002.jpg", "2/image00013.jpg"]).tolist()
        == photograph_split(["0/image00002.jpg", "2/image00013.jpg"]).tolist()
    )
    frontal = AFLW.open(heads, "frontal", both_eyes=False)
    assert all(s.visible.all() for s in frontal) and set(frontal.rows) == {
        n for n, s in zip(test.rows, test) if s.visible.all()
    }


def test_batches_at_one_size(heads):
    batch = next(batches(AFLW.open(heads, "all", size=40), 11))
    assert (
        batch.images.shape == (11, 3, 40, 40)
        and batch.landmarks.shape == (11, 21, 2)
        and batch.boxes.shape == (11, 4)
    )
    faces = next(batches(resized(cropped(AFLW.open(heads, "all"), pad=0.1, square=True), 32), 11))
    assert faces.images.shape == (11, 3, 32, 32) and (faces.landmarks[faces.visible] <= 33).all()


def test_nineteen_keeps_hidden_positions(heads):
    listed, database = (
        AFLW.open(heads, "all", source="aflw-19"),
        AFLW.open(heads, "all", landmarks=19, both_eyes=False),
    )
    assert (
        len(listed) == len(database) == 13
        and listed.landmark_names == database.landmark_names == LANDMARKS[19]
    )
    for s, t in zip(listed, database):
        assert (
            torch.equal(s.visible, t.visible)
            and torch.equal(s.box, t.box)
            and torch.allclose(s.landmarks[s.visible], t.landmarks[t.visible])
        )
        assert s.landmarks.any(1).all()
    train = AFLW.open(heads, "train", source="aflw-19")
    order = loadmat(heads / "AFLWinfo_release.mat")["ra"][0]
    assert sorted(train.rows.tolist()) == sorted((order[:11] - 1).tolist())


def test_recropped(heads):
    train, test = (AFLW.open(heads / "recrop", s) for s in ("train", "test"))
    lines = [
        (heads / "recrop" / f"aflw_{w}_images.txt").read_text().split() for w in ("train", "test")
    ]
    assert [len(train), len(test)] == [len(x) for x in lines] and len(
        {s.name for half in (train, test) for s in half}
    ) == len(train) + len(test)
    for collection, word in ((train, "train"), (test, "test")):
        values = loadmat(heads / "recrop" / f"aflw_{word}_keypoints.mat")
        for n, s in enumerate(collection):
            assert s.size == tuple(values["hw"][n]) and s.box.tolist() == [
                0,
                0,
                s.size[1],
                s.size[0],
            ]
            assert s.landmarks.numpy() == pytest.approx(
                values["gt"][n][:, ::-1] + 0.5, abs=1e-4
            )  # pixel numbers from 0


def test_published_counts_are_held_against_a_full_set(heads, monkeypatch):
    assert (
        AFLW.open(heads, source="aflw-19").counts()["train, published (all faces, no filter)"]
        == 20000
    )
    monkeypatch.setitem(module.EXPECTED, "aflw-19", {"train": 10, "test": 3})
    faces = AFLW.open(heads, "all", source="aflw-19")
    assert faces.counts()["train"] == 10
    monkeypatch.setitem(module.EXPECTED, "aflw-19", {"train": 9, "test": 4})
    with pytest.raises(InputError, match="expected 9 faces for training, found 10"):
        faces.counts()


def test_the_published_numbers():
    assert module.EXPECTED == {
        "aflw-19": {"train": 20000, "test": 4386},
        "recrop": {"train": 10122, "test": 2991},
    }


def test_head_model():
    front, near = head_landmarks(0)
    assert front[FEATURES.index("ChinCenter")].tolist() == pytest.approx(
        [0, 0.52 * math.sin(math.radians(64))]
    )
    assert front[FEATURES.index("LeftEar"), 0] < -0.39 and near[FEATURES.index("LeftEar")] < 0
    for yaw in (20, -50):
        points, z = head_landmarks(yaw)
        assert points[FEATURES.index("NoseCenter"), 0] == pytest.approx(
            0.4 * math.cos(math.radians(9)) * math.sin(math.radians(yaw))
        )
        mirrored, _ = head_landmarks(-yaw)
        assert mirrored[FEATURES.index("LeftEyeCenter"), 0] == pytest.approx(
            -points[FEATURES.index("RightEyeCenter"), 0]
        )


def test_the_same_seed_draws_the_same(heads, tmp_path):
    again = write_aflw_fixture(tmp_path / "again")
    for s, t in zip(AFLW.open(heads, "all"), AFLW.open(again, "all"), strict=True):
        assert (
            torch.equal(s.image, t.image)
            and torch.equal(s.landmarks, t.landmarks)
            and s.name == t.name
        )
    other = AFLW.open(write_aflw_fixture(tmp_path / "other", seed=1), "all", both_eyes=False)
    assert not torch.equal(other[0].image, AFLW.open(heads, "all", both_eyes=False)[0].image)


# ------------------------------------------------------------------------------------- the database

UNPACK = "unpack the archive aflw-db again"
DATABASE = [  # (sql, piece of the sentence)
    (
        "DROP TABLE FacePose",
        "has no table FacePose; it is not AFLW's database, or damaged, so " + UNPACK,
    ),
    ("DELETE FROM FeatureCoords", "table FeatureCoords is empty; " + UNPACK),
    (
        "ALTER TABLE FaceRect RENAME COLUMN w TO width",
        "table FaceRect has no column w, only face_id, x, y, width, h, annot_type_id; ",
    ),
    (
        "ALTER TABLE Faces RENAME TO F; CREATE VIEW Faces AS SELECT * FROM F",
        "Faces is a view, not a plain table; nothing that a file brings is run here",
    ),
    (
        "DROP TABLE FacePose; CREATE TABLE FacePose (face_id, roll, pitch, yaw AS (hex(roll)))",
        "FacePose is a table with computed columns, not a plain table",
    ),
    (
        "DROP TABLE FacePose; CREATE VIRTUAL TABLE FacePose USING fts5(face_id, roll, pitch, yaw)",
        "FacePose is a virtual table, not a plain table",
    ),
    (
        "UPDATE FeatureCoords SET x = 'left of it' WHERE face_id = 39341 AND feature_id = 8",
        "table FeatureCoords, face_id 39341 and feature_id 8: x is 'left of it', not a number; ",
    ),
    (
        "UPDATE FeatureCoords SET y = NULL WHERE face_id = 39341 AND feature_id = 8",
        "face_id 39341 and feature_id 8: y is NULL, not a number",
    ),
    (
        "UPDATE FeatureCoords SET y = 9e999 WHERE face_id = 39341 AND feature_id = 8",
        "face_id 39341 and feature_id 8: y is inf, not a number",
    ),
    (
        "UPDATE FeatureCoords SET feature_id = 8.5 WHERE face_id = 39341 AND feature_id = 8",
        "face_id 39341: feature_id is 8.5, not a whole number",
    ),
    (
        "UPDATE FacePose SET yaw = x'00ff' WHERE face_id = 39344",
        "table FacePose, face_id 39344: yaw is b'\\x00\\xff', not a number",
    ),
    (
        "UPDATE FacePose SET yaw = 45.0 WHERE face_id = 39344",
        "a yaw of [45.0] is no angle in radians; convert degrees to radians",
    ),
    (
        "UPDATE FaceImages SET filepath = NULL WHERE image_id = 2",
        "table FaceImages, file_id image00003.jpg: filepath is NULL, not text",
    ),
    ("UPDATE FaceImages SET filepath = '' WHERE image_id = 2", "filepath is '', not text"),
    (
        "UPDATE FaceImages SET filepath = '../../etc/passwd' WHERE image_id = 2",
        "names the photograph '../../etc/passwd', which is not a path below its folder",
    ),
    (
        "UPDATE FaceImages SET filepath = '/etc/passwd' WHERE image_id = 2",
        "names the photograph '/etc/passwd', which is not a path below its folder",
    ),
    (
        "UPDATE FaceImages SET filepath = '3\\image00003.jpg' WHERE image_id = 2",
        "which is not a path below its folder",
    ),
    (
        "UPDATE FaceImages SET width = 0 WHERE image_id = 2",
        "table FaceImages says that 3/image00003.jpg is 0x120 pixels; correct width and height",
    ),
    (
        "DELETE FROM FaceImages WHERE image_id = 2",
        "table Faces, face_id 39342: file_id 'image00003.jpg' is not in FaceImages",
    ),
    (
        "DELETE FROM FeatureCoordTypes WHERE descr = 'NoseCenter'",
        "table FeatureCoordTypes has no landmark NoseCenter",
    ),
    (
        "INSERT INTO FeatureCoords VALUES (39341, 1, 5.0, 5.0, 4)",
        "table FeatureCoords has 2 rows for face_id 39341 and LeftBrowLeftCorner; "
        "remove all but one",
    ),
    (
        "CREATE TABLE G AS SELECT * FROM Faces; DROP TABLE Faces; CREATE TABLE Faces AS SELECT "
        "* FROM G UNION ALL SELECT * FROM G WHERE face_id = 39345",
        "table Faces has face_id 39345 more than once",
    ),
    ("UPDATE FaceRect SET w = -4 WHERE face_id = 39346", "the rectangle ("),
    (
        "UPDATE FaceRect SET h = 0 WHERE face_id = 39346",
        "of face_id 39346 has no positive width and height",
    ),
    (
        "UPDATE FaceRect SET x = 400 WHERE face_id = 39346",
        "of face_id 39346 lies outside its 160x120 photograph",
    ),
    ("UPDATE FaceRect SET y = -400 WHERE face_id = 39346", "lies outside its 160x120 photograph"),
    ("UPDATE FaceRect SET face_id = 7", "no face of table Faces has a row in FaceRect"),
    (
        "UPDATE FaceImages SET filepath = '3/elsewhere.jpg' WHERE image_id = 2",
        "lacks 1 of the 12 photographs that aflw.sqlite names, the first is 3/elsewhere.jpg",
    ),
]


@pytest.mark.parametrize("sql, expected", DATABASE, ids=[f"{n:02d}" for n in range(len(DATABASE))])
def test_damaged_database(root, sql, expected):
    change_database(root, sql)
    with pytest.raises(InputError) as error:
        AFLW.open(root, "all", both_eyes=False)
    assert expected in message(error)
    assert not list(root.glob("data/*-journal")) and not list(root.glob("data/*-wal"))


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"", "has no table FaceImages"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n" * 9,
            "file is not a database",
        ),
        (None, "holds no data/aflw.sqlite"),
    ],
    ids=["empty", "pointer", "missing"],
)
def test_no_database(root, content, expected):
    path = root / "data" / "aflw.sqlite"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InputError) as error:
        AFLW.open(root, source="sqlite")
    assert expected in message(error)


def test_truncated_database(root):
    path = root / "data" / "aflw.sqlite"
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(InputError, match="cannot be read as AFLW's database|has no table"):
        AFLW.open(root)


HANDLED = [  # (sql, which count, by how much it differs)
    (
        "UPDATE FeatureCoords SET x = 5000 WHERE face_id = 39341 AND feature_id = 21",
        "left out: landmarks outside, hidden",
        1,
    ),
    (
        "UPDATE FeatureCoords SET x = -1.9, y = 121.9 WHERE face_id = 39341 AND feature_id = 21",
        "left out: landmarks outside, hidden",
        0,
    ),
    (
        "UPDATE FeatureCoords SET x = -2.1 WHERE face_id = 39341 AND feature_id = 21",
        "left out: landmarks outside, hidden",
        1,
    ),
    (
        "UPDATE FeatureCoords SET x = -1, y = -1 WHERE face_id = 39341 AND feature_id = 21",
        "visible landmarks",
        -1,
    ),
    (
        "DELETE FROM FeatureCoords WHERE face_id = 39341 AND feature_id = 8",
        "left out: faces without both eyes",
        1,
    ),
    ("INSERT INTO FeatureCoords VALUES (77, 1, 5.0, 5.0, 4)", "left out: landmarks of no face", 1),
    ("INSERT INTO FeatureCoords VALUES (39341, 22, 5.0, 5.0, 4)", "visible landmarks", 0),
    ("INSERT INTO FacePose VALUES (39341, 0, 0, 3.0, 9)", "faces", 0),
    ("DELETE FROM FacePose WHERE face_id = 39341", "left out: faces without a pose", 1),
    ("DELETE FROM FaceRect WHERE face_id = 39345", "left out: faces without a rectangle", 1),
    ("DROP TABLE FaceEllipse; DROP TABLE FaceMetaData; DROP TABLE Databases", "faces", 0),
    ("CREATE TRIGGER t AFTER INSERT ON Faces BEGIN DELETE FROM FaceRect; END", "faces", 0),
]


@pytest.mark.parametrize(
    "sql, what, difference", HANDLED, ids=[f"{n:02d}" for n in range(len(HANDLED))]
)
def test_handled_oddities_of_the_database(heads, root, sql, what, difference):
    before = AFLW.open(heads, "all").counts()[what]
    change_database(root, sql)
    assert AFLW.open(root, "all").counts()[what] == before + difference


def test_border_clicks_are_put_onto_the_border(root):
    change_database(
        root,
        "UPDATE FeatureCoords SET x = -1.5, y = 121.5 WHERE face_id = 39341 AND feature_id = 21",
    )
    assert AFLW.open(root, "all", both_eyes=False)[0].landmarks[20].tolist() == [0, 120]


def test_a_face_without_pose_passes_no_yaw_filter(root):
    change_database(root, "DELETE FROM FacePose WHERE face_id = 39341")
    assert (
        39341 not in [int(s.name[-9:-4]) for s in AFLW.open(root, "all", max_yaw=180)]
        and len(AFLW.open(root, "all")) == 11
    )


def test_a_photograph_of_another_size(root):
    faces = AFLW.open(root, "all")
    path = root / "data" / "flickr" / faces.faces.files[faces.rows[0]]
    Image.open(path).resize((80, 60)).save(path)
    for run in (lambda: AFLW.open(root, "all")[0], AFLW.open(root, "all").counts):
        with pytest.raises(InputError) as error:
            run()
        assert (
            "is 80x60 pixels, but aflw.sqlite says 160x120; fetch AFLW's own photograph, unscaled"
            in message(error)
        )


# ----------------------------------------------------------------------------- the list of nineteen


def put(name, index, value):
    def change(values):
        values[name] = values[name].astype(float) if values[name].dtype != object else values[name]
        values[name][index] = value
        return values

    return change


def cell(row, value):
    def change(values):
        values["nameList"][row, 0] = value
        return values

    return change


NINETEEN = [
    (
        lambda v: v | {"ra": v["ra"] - 1},
        "ra counts from 0, not from 1; it must be a permutation of 1 to 13",
    ),
    (lambda v: v | {"ra": v["ra"][:, :-1]}, "ra has 12 numbers for 13 faces"),
    (put("ra", (0, 0), 5), "ra repeats or skips a number"),
    (lambda v: v | {"data": v["data"][:, :36]}, "data is 13x36 of type float64, not 13x38 numbers"),
    (lambda v: v | {"data": v["data"].T}, "data is 38x13"),
    (put("data", (4, 2), np.nan), "data has 1 values that are not finite, the first in row 5"),
    (put("mask_new", (0, 0), 2), "mask_new holds [2.0], but should be 0 or 1"),
    (lambda v: v | {"mask_new": v["mask_new"][:5]}, "mask_new is 5x19"),
    (lambda v: {k: x for k, x in v.items() if k != "bbox"}, "has no variable 'bbox'"),
    (put("bbox", (3, 1), 0), "has no positive width and height"),
    (
        cell(2, "../../a.jpg"),
        "names the photograph '../../a.jpg', which is not a path below its folder",
    ),
    (cell(2, np.zeros((2, 2))), "nameList, row 3 is"),
    (cell(2, "2/none.jpg"), "photographs that AFLWinfo_release.mat names, the first is 2/none.jpg"),
]


@pytest.mark.parametrize(
    "change, expected", NINETEEN, ids=[f"{n:02d}" for n in range(len(NINETEEN))]
)
def test_damaged_list(root, change, expected):
    change_mat(root / "AFLWinfo_release.mat", change)
    with pytest.raises(InputError) as error:
        AFLW.open(root, "all", source="aflw-19")
    assert expected in message(error)


@pytest.mark.parametrize(
    "content, expected",
    [
        (lambda b: b[: len(b) // 2], "cannot be read as a MATLAB file"),
        (lambda b: b"", "cannot be read as a MATLAB file"),
        (lambda b: b"<html>" * 90, "cannot be read as a MATLAB file"),
        (
            lambda b: (
                b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM" + b[128:]
            ),
            "is a MATLAB file of version 7.3, not 5 to 7",
        ),
        (lambda b: b[:200] + bytes(40) + b[240:], "cannot be read as a MATLAB file"),
    ],
    ids=["truncated", "empty", "page", "7.3", "zeros"],
)
def test_no_mat(root, content, expected):
    path = root / "AFLWinfo_release.mat"
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(InputError) as error:
        AFLW.open(root, source="aflw-19")
    assert expected in message(error)


def test_a_visible_landmark_outside_is_hidden(root):
    change_mat(root / "AFLWinfo_release.mat", put("data", (0, 18), 9999))
    faces = AFLW.open(root, "all", source="aflw-19")
    assert (
        faces.faces.visible[0, 18]
        and not faces[0].visible[18]
        and faces[1].visible[18] == faces.faces.visible[1, 18]
    )


def test_a_rectangle_outside_its_photograph_is_told_by_counts(root):
    change_mat(root / "AFLWinfo_release.mat", put("bbox", (0, slice(None)), [500, 600, 10, 90]))
    with pytest.raises(InputError) as error:
        AFLW.open(root, "all", source="aflw-19").counts()
    assert "lies outside its photograph" in message(error) and "160x120" in str(error.value)


# ---------------------------------------------------------------------------- the recropped release

RECROP = [
    ("aflw_test_images.txt", lambda t: "", "holds no line; unpack the release again"),
    ("aflw_test_images.txt", lambda t: t + "test/99999.jpg\n", "gt has"),
    (
        "aflw_train_images.txt",
        lambda t: t.replace("train/00000.jpg", "train/99999.jpg"),
        "lacks 1 of the",
    ),
    (
        "aflw_train_images.txt",
        lambda t: t.replace("train/00000.jpg", "../00000.jpg"),
        "which is not a path below its folder",
    ),
    ("aflw_test_images.txt", None, "is missing; it belongs to the recropped release of AFLW"),
    ("aflw_test_keypoints.mat", None, "aflw_test_keypoints.mat is missing; fetch it again"),
    ("aflw_train_images.txt", lambda t: t.replace("\n", "\r\n").rstrip(), None),
    ("aflw_train_images.txt", lambda t: "\ufeff" + t + "\n\n", None),
]


@pytest.mark.parametrize(
    "name, change, expected", RECROP, ids=[f"{n:02d}" for n in range(len(RECROP))]
)
def test_damaged_release(heads, root, name, change, expected):
    path = root / "recrop" / name
    path.unlink() if change is None else path.write_bytes(change(path.read_text()).encode())
    if expected is None:
        assert [s.name for s in AFLW.open(root / "recrop", "all")] == [
            s.name for s in AFLW.open(heads / "recrop", "all")
        ]
        return
    with pytest.raises(InputError) as error:
        AFLW.open(root / "recrop", "all")
    assert expected in message(error)


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda v: v | {"gt": v["gt"][:, :4]}, "x4x2 of type"),
        (lambda v: v | {"hw": v["hw"] * 0}, "is 0x0 pixels"),
        (lambda v: {"hw": v["hw"]}, "has no variable 'gt'"),
    ],
)
def test_damaged_keypoints(root, change, expected):
    change_mat(root / "recrop" / "aflw_train_keypoints.mat", change)
    with pytest.raises(InputError) as error:
        AFLW.open(root / "recrop", "all")
    assert expected in message(error)


# ------------------------------------------------------------------------------- options and places


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"split": "val"}, "AFLW has no split 'val'; choose one of: train, test, frontal, all"),
        ({"size": 0}, "The size is 0"),
        (
            {"source": "csv"},
            "AFLW has no source 'csv'; choose one of: auto, sqlite, aflw-19, recrop",
        ),
        ({"landmarks": 7}, "sets of 21, 19 and 5 landmarks, not of 7"),
        ({"source": "aflw-19", "landmarks": 21}, "has 19 landmarks, so 21 cannot be had from it"),
        ({"source": "aflw-19", "max_yaw": 30}, "'aflw-19' of AFLW knows no yaw"),
        ({"max_yaw": -1}, "max_yaw is -1"),
        ({"max_yaw": 300}, "max_yaw is 300"),
        ({"min_face": 30}, "min_face is 30; it is a share"),
        ({"source": "recrop"}, "holds no aflw_train_images.txt"),
        ({"min_visible": 22}, "holds no face of split 'train' after the filters"),
    ],
)
def test_options_out_of_range(heads, options, expected):
    with pytest.raises(InputError) as error:
        AFLW.open(heads, **options)
    assert expected in message(error)


def test_recrop_has_no_rectangles_to_filter_by(heads):
    for options in ({"min_face": 0.3}, {"max_yaw": 30}):
        with pytest.raises(InputError, match="has no face rectangles|knows no yaw"):
            AFLW.open(heads / "recrop", **options)


def test_where_it_looks(heads, tmp_path, monkeypatch):
    monkeypatch.delenv("PARTBOOK_AFLW", raising=False)
    with pytest.raises(InputError) as error:
        AFLW.open()
    assert (
        "not part of this book; ask for AFLW on its page at TU Graz" in message(error)
        and not AFLW.present()
    )
    file = heads / "data" / "aflw.sqlite"
    for place, what in (
        (tmp_path / "none", "is not there"),
        (file, "is a file"),
        (tmp_path, "holds no data/aflw.sqlite or"),
    ):
        with pytest.raises(InputError) as error:
            AFLW.open(place)
        assert what in message(error) and not AFLW.present(place)
    monkeypatch.setenv("PARTBOOK_AFLW", str(heads))
    assert AFLW.present() and len(AFLW.open(split="all")) == 11
    assert len(AFLW.open(heads.parent, "all")) == len(AFLW.open(heads / "data", "all")) == 11


def test_only_the_photographs_that_are_kept_must_be_there(root):
    faces = AFLW.open(root, "all", max_yaw=30)
    used = set(faces.faces.files[faces.kept].tolist())
    for file in set(faces.faces.files.tolist()) - used:
        (root / "data" / "flickr" / file).unlink()
    assert len(AFLW.open(root, "all", max_yaw=30)) == len(faces)
    with pytest.raises(InputError, match="lacks"):
        AFLW.open(root, "all", both_eyes=False)
    rest = AFLW.open(root, "all", both_eyes=False, skip_missing=True)
    assert (
        len(rest) == 13 - rest.counts()["left out: faces whose photograph is missing"] >= len(faces)
    )
    shutil.rmtree(root / "data" / "flickr")
    with pytest.raises(InputError, match="lacks 12 of the 12"):
        AFLW.open(root, "all", both_eyes=False, skip_missing=True)
