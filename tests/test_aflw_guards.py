"""What the chapter on AFLW promises, on heads drawn in its three layouts."""

import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from painters.aflw import write_aflw_fixture

from partbook.core import InputError
from partbook.data.sample import Sample, batches, collections, cropped, resized
from partbook.readers.aflw import (
    AFLW,
    FEATURES,
    FIVE,
    LANDMARKS,
    _clip_points,
    _places,
    _training_of,
    chosen_landmarks,
    find_aflw,
    head_landmarks,
    opened_database,
    photograph_split,
    read_recropped,
    write_aflw,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_aflw_fixture(tmp_path_factory.mktemp("heads") / "aflw")


@pytest.fixture(scope="module")
def aflw(root):
    return AFLW.open(root, "all")


def test_landmarks_by_name():
    assert [len(v) for v in LANDMARKS.values()] == [21, 19, 5]
    assert LANDMARKS[21][0] == "left brow left corner" and LANDMARKS[19][12:15] == (
        "nose left",
        "nose center",
        "nose right",
    )


def test_nothing_that_a_file_brings_is_run(tmp_path):
    trap = tmp_path / "trap.sqlite"
    with closing(sqlite3.connect(trap)) as made:
        made.executescript(
            "CREATE TABLE t (a); INSERT INTO t VALUES (1);"
            "CREATE VIEW v AS SELECT hex(a) AS a FROM t"
        )
    with opened_database(trap) as connection:
        assert connection.execute("SELECT a FROM t").fetchall() == [(1,)]
    for query in (
        "SELECT * FROM v",
        "DELETE FROM t",
        "PRAGMA user_version = 3",
        "ATTACH 'x' AS x",
        "SELECT abs(a) FROM t",
    ):
        with (
            pytest.raises(InputError, match="cannot be read as AFLW's database"),
            opened_database(trap) as connection,
        ):
            connection.execute(query).fetchall()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["trap.sqlite"]


def test_places_clips_splits():
    assert _places(np.array([7, 3, 7, 5]), np.array([5, 7, 4, 9, 3])).tolist() == [3, 0, -1, -1, 1]
    p, v = _clip_points(
        np.array([[-1.0, 5.0], [30.0, 8.0], [33.0, 8.0]]),
        np.ones(3, dtype=bool),
        np.array([30.0, 20.0]),
    )
    assert p.tolist() == [[0, 5], [30, 8], [33, 8]] and v.tolist() == [True, True, False]
    drawn = photograph_split([f"0/image{i:05d}.jpg" for i in range(20000)])
    assert abs(drawn.mean() - 0.9) < 0.01 and photograph_split(
        ["2/image00013.jpg"] * 3
    ).tolist() in (
        [True] * 3,
        [False] * 3,
    )
    split = _training_of(Path("x.mat"), np.array([[3, 1, 2, 6, 5, 4]]), 6)
    assert split.tolist() == [
        True,
        True,
        True,
        False,
        True,
        True,
    ]  # 5 of 6; the fourth face comes last in the permutation
    order = np.random.default_rng(0).permutation(24386) + 1
    assert (
        _training_of(Path("x.mat"), order, 24386).sum() == 20000
        and _training_of(Path("x.mat"), order, 24386)[order[19999] - 1]
    )
    assert not _training_of(Path("x.mat"), order, 24386)[order[20000] - 1]


def test_recropped_by_hand(tmp_path):
    from scipy.io import savemat

    by_hand = tmp_path / "by hand"
    by_hand.mkdir()
    eyes_and_mouth = np.array([[[0, 0], [0, 9], [4, 5], [7, 2], [7, 8]]])  # (row, column)
    truth = np.concatenate([eyes_and_mouth, eyes_and_mouth + 1, eyes_and_mouth * 0])
    for word in ("train", "test"):
        (by_hand / f"aflw_{word}_images.txt").write_text("a.jpg\nb.jpg\nc.jpg\n")
        savemat(
            by_hand / f"aflw_{word}_keypoints.mat", {"gt": truth, "hw": np.array([[10, 12]] * 3)}
        )
    three = read_recropped(by_hand)
    assert three.points[0, 1].tolist() == [9.5, 0.5] and not three.visible[2].any()
    assert three.dropped["faces whose landmarks are all zero, hidden"] == 2


def test_a_head_turns():
    front, near = head_landmarks(0)
    eye, other, nose = (
        FEATURES.index(f) for f in ("LeftEyeCenter", "RightEyeCenter", "NoseCenter")
    )
    assert np.allclose(front[eye] * [-1, 1], front[other]) and np.isclose(front[nose, 0], 0)
    profile, turned = head_landmarks(90)
    assert (
        turned[eye] > 0 > turned[other] and profile[nose, 0] > 0.39
    )  # the nose points to the right, the right eye is gone
    assert near[[eye, other, nose]].min() > 0.8


def test_where_a_release_is_unpacked(root, tmp_path):
    where = tmp_path / "unpacked" / "data" / "aflw" / "aflw_release-2"
    shutil.copytree(root / "recrop", where)
    assert find_aflw(tmp_path / "unpacked").source == "recrop"


def test_chosen_landmarks():
    assert chosen_landmarks(21, 5) == [7, 10, 14, 17, 19] and chosen_landmarks(19, 5) == [
        7,
        10,
        13,
        15,
        17,
    ]
    assert chosen_landmarks(21, 19) == [
        n for n in range(21) if n not in (12, 16)
    ] and chosen_landmarks(5, None) == [0, 1, 2, 3, 4]


def test_splits_and_left_out(root, aflw):
    faces = [AFLW.open(root, "all", both_eyes=False), aflw]
    assert [len(c) for c in faces] == [13, 13 - aflw.left_out["faces without both eyes"]] and len(
        faces[1]
    ) < 13
    train, test = (AFLW.open(root, split) for split in ("train", "test"))
    assert sorted([*train.rows, *test.rows]) == aflw.rows.tolist()
    assert {s.name.split("-")[0] for s in train}.isdisjoint(s.name.split("-")[0] for s in test)
    assert (
        aflw.landmark_names[7] == "left eye center"
        and aflw.landmark_names[10] == "right eye center"
        and aflw.eyes == (7, 10)
    )
    assert (
        AFLW.present(root)
        and AFLW.present(root.parent)
        and not AFLW.present(root.parent / "elsewhere")
    )


def test_the_same_faces_three_ways(root):
    database, listed = (
        AFLW.open(root, "all", source=s, landmarks=19, both_eyes=False)
        for s in ("sqlite", "aflw-19")
    )
    assert (
        database.foreground == listed.foreground == "inside the true box"
        and len(database) == len(listed) == 13
    )
    for s, t in zip(database, listed):
        assert (
            torch.equal(s.box, t.box)
            and torch.equal(s.visible, t.visible)
            and torch.equal(s.image, t.image)
        )
        assert torch.allclose(s.landmarks[s.visible], t.landmarks[t.visible])
    assert not any(s.landmarks[~s.visible].any() for s in database) and any(
        t.landmarks[~t.visible].all() for t in listed
    )
    nineteen = AFLW.open(root, "all", source="aflw-19")
    assert len(nineteen) == 13 and AFLW.open(root, source="aflw-19").rows.size == round(
        13 * 20000 / 24386
    )
    assert (
        len(AFLW.open(root, "frontal", source="aflw-19"))
        <= len(AFLW.open(root, "test", source="aflw-19"))
        == 2
    )
    crops = [AFLW.open(root / "recrop", split) for split in ("train", "test", "all")]
    assert [len(c) for c in crops[:2]] == [len(crops[2]) - len(crops[1]), len(crops[1])] and crops[
        0
    ].place.source == "recrop"
    assert crops[0].landmark_names == (
        "left eye",
        "right eye",
        "nose",
        "left mouth corner",
        "right mouth corner",
    ) and crops[0].eyes == (0, 1)
    assert (
        crops[0].foreground == "the whole crop"
        and not crops[0].crop_to_box
        and all(s.visible.all() for s in crops[2])
    )
    five = next(batches(AFLW.open(root / "recrop", "train", size=48), 4))
    left, right, nose, *mouth = five.landmarks.unbind(1)
    assert (left[:, 0] < right[:, 0]).all() and (
        nose[:, 1] > left[:, 1]
    ).all()  # x and y are not swapped
    assert all((m[:, 1] > nose[:, 1]).all() for m in mouth)


def test_landmarks_lie_on_the_face(aflw):
    for collection in (aflw, resized(cropped(aflw, pad=0.1, square=True), 64)):
        for i, s in enumerate(collection):
            inside = (s.landmarks[s.visible] >= s.box[:2] - 1) & (
                s.landmarks[s.visible] <= s.box[:2] + s.box[2:] + 1
            )
            assert inside.float().mean() > 0.9, s.name
            x, y = s.landmarks[list(aflw.eyes)].long().T
            if s.size == (120, 160) and abs(aflw.faces.yaw[aflw.rows[i]]) < 40:
                assert (s.image[2, y, x] < 0.55).all(), s.name


def test_filters(root):
    faces = [AFLW.open(root, "all", both_eyes=False)]
    yaw = np.abs(faces[0].faces.yaw[faces[0].rows])
    for limit in (30, 60):
        chosen = AFLW.open(root, "all", both_eyes=False, max_yaw=limit)
        assert (
            len(chosen) == (yaw <= limit).sum()
            and np.abs(chosen.faces.yaw[chosen.rows]).max() <= limit
        )
    close = AFLW.open(root, "all", min_face=0.3)
    assert len(close) == 4 and all(
        (s.box[2:].prod() / (s.size[0] * s.size[1])) >= 0.3 for s in close
    )
    assert [len(AFLW.open(root, "all", source="aflw-19", min_face=0.3))] == [
        4
    ]  # sizes come from the headers there
    assert len(AFLW.open(root, "all", landmarks=5, min_visible=5)) == sum(
        bool(s.visible.all()) for s in AFLW.open(root, "all", landmarks=5)
    )


def damaged(root: Path, sql: str) -> Path:
    "A fresh copy of the folder with the database changed."
    copy = Path(tempfile.mkdtemp()) / "aflw"
    shutil.copytree(root, copy)
    with closing(sqlite3.connect(copy / "data" / "aflw.sqlite")) as connection:
        connection.executescript(sql)
        connection.commit()
    return copy


def test_damaged_databases(root):
    for sql, message in [
        ("DROP TABLE FacePose", "has no table FacePose"),
        (
            "UPDATE FeatureCoords SET x = 'near the eye' WHERE face_id = 39341 AND feature_id = 8",
            "FeatureCoords, face_id 39341 and feature_id 8: x is 'near the eye', not a number",
        ),
        (
            "UPDATE FaceRect SET w = 0 WHERE face_id = 39343",
            "of face_id 39343 has no positive width and height",
        ),
        (
            "UPDATE FacePose SET yaw = 45.0 WHERE face_id = 39341",
            "no angle in radians; convert degrees to radians",
        ),
        (
            "UPDATE FaceImages SET filepath = '../../secret.jpg' WHERE image_id = 1",
            "which is not a path below its folder",
        ),
        (
            "ALTER TABLE Faces RENAME TO F; CREATE VIEW Faces AS SELECT * FROM F",
            "Faces is a view, not a plain table; nothing that a file brings is run here",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            AFLW.open(damaged(root, sql), "all")


def test_a_landmark_far_outside(root, aflw):
    odd = AFLW.open(
        damaged(
            root, "UPDATE FeatureCoords SET x = 5000 WHERE face_id = 39341 AND feature_id = 21"
        ),
        "all",
    )
    assert (
        odd.left_out["landmarks outside, hidden"] == 1
        and aflw.left_out["landmarks outside, hidden"] == 0
    )
    assert not odd[0].visible[20] and aflw[0].visible[20]


def test_both_eyes_is_a_filter_on_yaw(aflw):
    lost = min(
        psi for psi in range(0, 90) if head_landmarks(psi)[1][FEATURES.index("RightEyeCenter")] < 0
    )
    assert lost == 61
    assert all(np.abs(aflw.faces.yaw[n]) < 61 for n in aflw.rows)


def test_writer_reads_back_equal(tmp_path):
    drawn = collections["faces"].open(split="train", size=64)
    samples = drawn.take(range(8))
    root = write_aflw(tmp_path / "own", samples)
    back = AFLW.open(root, "all", landmarks=5, both_eyes=False)
    assert back.landmark_names == tuple(FIVE) == drawn.landmark_names and len(back) == 8
    for s, t in zip(samples, back):
        assert torch.equal(s.visible, t.visible) and torch.equal(s.box, t.box)
        assert torch.equal(s.landmarks[s.visible], t.landmarks[t.visible])
        assert (s.image - t.image).abs().mean() < 0.03
    assert not back.faces.yaw.any() and back.counts()["faces"] == 8
    turned = write_aflw(tmp_path / "turned", samples, yaws=[30.0] * 8)
    assert AFLW.open(turned, "all", both_eyes=False).faces.yaw == pytest.approx(30)
    again = AFLW.open(write_aflw(tmp_path / "more", list(back), back.landmark_names), "all")
    assert len(again.landmark_names) == 21


def test_writer_refuses(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    samples = collections["faces"].open(split="train", size=64).take([0])
    with pytest.raises(InputError, match="is not empty; give a new folder"):
        write_aflw(tmp_path, samples)
    with pytest.raises(InputError, match="'left cheek' is none of AFLW's landmarks"):
        write_aflw(tmp_path / "new", samples, ("left cheek",) * 5)
    with pytest.raises(InputError, match="Sample 'bare' lacks a box or landmarks"):
        write_aflw(tmp_path / "new", [Sample(torch.rand(3, 4, 4), "bare")])
    with pytest.raises(InputError, match="has 5 landmarks, but 1 names"):
        write_aflw(tmp_path / "new", samples, ("nose",))
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
