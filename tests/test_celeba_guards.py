"""What the chapter on CelebA promises, on faces drawn in its layout."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from painters.celeba import write_celeba_fixture

from partbook.core import InputError
from partbook.data.sample import Sample, collections, resize
from partbook.readers.celeba import (
    BOXES,
    EXPECTED,
    FULL,
    LANDMARK_LISTS,
    PARTITIONS,
    POINTS,
    CelebA,
    Faces,
    _body,
    _choose,
    _partition,
    _slow,
    fields_per_line,
    place,
    read_table,
    rows_of,
    similarity,
    write_celeba,
    write_sizes,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_celeba_fixture(tmp_path_factory.mktemp("faces") / "CelebA")


@pytest.fixture(scope="module")
def wild(root):
    return CelebA.open(root, "all", variant="wild", min_face=0)


@pytest.fixture(scope="module")
def straight(root):
    return CelebA.open(root, "all", variant="aligned", min_face=0)


def test_fields():
    assert (
        LANDMARK_LISTS["wild"].form().startswith("<picture> <lefteye_x> <lefteye_y> <righteye_x>")
    )
    assert (
        BOXES.fields[2].fits("0")
        and not BOXES.fields[2].fits("-1")
        and not BOXES.fields[0].fits("nan")
        and BOXES.fields[0].fits("-3")
    )
    assert PARTITIONS.fields[0].form() == "a whole number from 0 to 2" and not PARTITIONS.fields[
        0
    ].fits("1.5")


def test_one_list(tmp_path):
    listing = tmp_path / BOXES.file
    listing.write_bytes(
        b"\xef\xbb\xbf2\r\nimage_id x_1 y_1 width height\r\n000001.jpg    95  71 226 "
        b"313\r\n\r\n101283.jpg   320 828   0   0"
    )
    names, values = read_table(listing, BOXES)
    assert names.tolist() == ["000001.jpg", "101283.jpg"] and values.tolist() == [
        [95, 71, 226, 313],
        [320, 828, 0, 0],
    ]
    for text, message in [
        (
            "2\nimage_id x_1 y_1 width height\n000001.jpg 95 71 226 313\n",
            "announces 2 lines, but holds 1",
        ),
        (
            "000001.jpg 95 71 226\n",
            "line 1: '000001.jpg 95 71 226' has 4 fields, not 5; each line reads <picture> <x_1> "
            "<y_1> <width> <height>",
        ),
        (
            "1\nimage_id x_1 y_1 x_2 y_2\n000001.jpg 95 71 321 384\n",
            "line 2: the columns are x_1 y_1 x_2 y_2, not x_1 y_1 width height",
        ),
        ("\n000001.jpg 95 71 -226 313\n", "line 2: <width> is '-226', not a number from 0"),
        (
            "000001.jpg 95 71 226 313\n000001.jpg 95 71 226 313\n",
            "line 2: 000001.jpg stands here for the second time, first in line 1",
        ),
        ("../000001.jpg 95 71 226 313\n", "is not the name of a picture in the folder of pictures"),
    ]:
        listing.write_text(text)
        with pytest.raises(InputError, match=message):
            read_table(listing, BOXES)


def test_both_ways_of_reading_agree(tmp_path):
    assert fields_per_line("a.jpg 1  2\n\nb.jpg\t-3 4 \n  c").tolist() == [3, 0, 3, 1]
    n = 2000
    rng = np.random.default_rng(0)
    points = np.resize(rng.integers(-5, 2000, (997, 10)), (n, 10))
    listing = tmp_path / LANDMARK_LISTS["wild"].file
    header = f"{n}\n{' '.join(f.name for f in POINTS)}\n"
    rows = [" ".join(map(str, row)) for row in points[:997].tolist()]
    listing.write_text(
        header + "".join(f"{i:06d}.jpg {rows[(i - 1) % 997]}\n" for i in range(1, n + 1))
    )
    table = read_table(listing, LANDMARK_LISTS["wild"])
    assert (table.values == points).all()
    lines, at = _body(listing, LANDMARK_LISTS["wild"])
    assert np.array_equal(
        _slow(listing, lines[:200], at, LANDMARK_LISTS["wild"]), table.values[:200]
    )


def test_rows_of():
    assert rows_of(np.array(["c", "a", "b"]), np.array(["a", "b", "d", "c", "aa"])).tolist() == [
        1,
        2,
        -1,
        0,
        -1,
    ]


def test_partition_without_its_list(tmp_path):
    numbered = np.array([f"{n:06d}.jpg" for n in (1, 162_770, 162_771, 182_637, 182_638)])
    assert _partition(tmp_path, numbered, "").tolist() == [0, 0, 1, 1, 2]


def test_placing():
    two = Faces(
        np.array(["a.jpg", "b.jpg"]),
        np.array([[[0, 0], [99, 9], [101, 4], [-3, 4], [-2, 5]]] * 2, np.float32),
        np.array([[-4, 2, 20, 30], [100, 0, 5, 5]], np.float32),
        None,
        None,
        None,
        0,
        False,
    )
    placed = place(two, np.arange(2), np.array([[10, 100]] * 2))  # ten pixels high, a hundred wide
    assert placed.points[0].tolist() == [[0.5, 0.5], [99.5, 9.5], [100, 4.5], [-2.5, 4.5], [0, 5.5]]
    assert placed.visible[0].tolist() == [
        True,
        True,
        True,
        False,
        True,
    ]  # one and a half pixels out is rounding, two and a half is not
    assert placed.boxes.tolist() == [
        [0, 2, 16, 8],
        [0, 0, 100, 10],
    ] and placed.unknown.tolist() == [
        False,
        True,
    ]
    two.boxes = None
    with pytest.raises(
        InputError,
        match="a.jpg is 178x178 pixels, but aligned pictures are 178x218 or that frame resized as "
        "a whole",
    ):
        place(two, np.arange(2), np.array([[178, 178]] * 2))


def test_landmarks_lie_on_eyes(root, wild, straight):
    for collection in (
        wild,
        straight,
        CelebA.open(root, "all", 64, min_face=0),
        CelebA.open(root, "all", 64, variant="aligned"),
    ):
        for s in collection:
            x, y = s.landmarks[:2][s.visible[:2]].floor().long().T
            assert s.image.mean(0)[y, x].max() < 0.35, s.name
    for z, w in zip(wild.faces.points, straight.faces.points):
        assert similarity(z, w)[2].max() < 2  # rounding down, and a scale of about two
    assert all(s.box is None for s in straight) and wild[4].box.tolist() == [
        0,
        0,
        *wild[4].size[::-1],
    ]
    assert wild[5].visible.tolist() != [True] * 5 and wild[1].image[0].equal(wild[1].image[2])


def test_half_size_pictures(straight, tmp_path):
    half_root = write_celeba_fixture(tmp_path / "half", scale=0.5)
    half = CelebA.open(half_root, "all", variant="aligned")
    assert half[0].size == (109, 89) and straight[0].size == (218, 178)
    for s, t in zip(half, straight):
        assert (
            torch.allclose(2 * s.landmarks, t.landmarks)
            and (s.image - resize(t, (109, 89)).image).abs().mean() < 0.03
        )
    assert half.counts()["pictures of another size than 178x218"] == len(
        np.unique(np.concatenate([_choose(half, s) for s in ("train", "fit", "test")]))
    )


def test_the_splits(root, wild):
    shares = wild.face_shares(wild.rows)

    def names(split: str, **options) -> set[str]:
        c = CelebA.open(root, split, **options)
        return set(c.faces.names[c.rows].tolist())

    everything = dict(min_face=0)
    train, fit, test = (names(split, **everything) for split in ("train", "fit", "test"))
    assert test == {"000002.jpg", "000008.jpg", "000014.jpg"} and fit == {
        f"{n:06d}.jpg" for n in (1, 4, 7, 10, 13, 16)
    }
    assert train == {f"{n:06d}.jpg" for n in range(1, 13)} - test  # of a partition of twelve
    assert names("train", leave_out="all", **everything) == train - fit
    big = {n for n, share in zip(wild.faces.names.tolist(), shares) if share >= 0.3}
    assert (
        names("train") == train & big
        and names("fit") == fit & big
        and names("test") == test & big
        and len(big) == 11
    )
    assert (
        names("train", variant="aligned") == train
        and CelebA.fitting == "fit"
        and CelebA.eyes == (0, 1)
    )
    people = CelebA.open(root, "all", variant="aligned", identities=True)
    assert [people[i].category for i in (0, 1, 2, 15)] == [0, 0, 1, 7] and people.category_names[
        7
    ] == "person 8"


def test_at_least_so_large(root, wild):
    shares = wild.face_shares(wild.rows)
    third = shares[2]
    assert (
        len(CelebA.open(root, "all", min_face=third))
        == (shares >= third).sum()
        == len(CelebA.open(root, "all", min_face=third + 1e-9)) + 1
    )


def test_are_these_the_papers_pictures(root):
    with pytest.MonkeyPatch.context() as settings:
        (
            settings.setitem(FULL, "pictures", 16),
            settings.setitem(FULL, "MAFL training", 6),
            settings.setitem(FULL, "MAFL testing", 3),
        )
        with pytest.raises(
            InputError,
            match=r"expected 45609 pictures in split 'train' \(Hung et al. 2019, .*\), found 7",
        ):
            CelebA.open(root).counts()
        settings.setitem(
            EXPECTED, ("wild", 0.3, "test"), (dict(train=7, fit=4, test=2), "this chapter")
        )
        assert CelebA.open(root).counts()["the full set (1) or a part (0)"] == 1


def test_measuring_once(root, tmp_path):
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    write_sizes(copy)
    with pytest.MonkeyPatch.context() as without:
        without.setattr(CelebA, "measure", None)  # nothing is measured any more
        again = CelebA.open(copy)
        assert np.array_equal(again.rows, CelebA.open(copy).rows)
    assert np.array_equal(again.rows, CelebA.open(root).rows)


def damaged(root: Path, name: str, change=None) -> Path:
    "A fresh copy of the folder with one list changed (or removed)."
    copy = Path(tempfile.mkdtemp()) / "CelebA"
    shutil.copytree(root, copy)
    text = (copy / name).read_text() if change else None
    shutil.rmtree(copy / name) if (copy / name).is_dir() else (copy / name).unlink()
    if change:
        (copy / name).write_text(change(text))
    return copy


def test_damaged_files(root):
    for name, change, message in [
        (
            "Anno/list_landmarks_celeba.txt",
            None,
            "is missing, but the aligned variant's list is there; open it with variant=aligned",
        ),
        (
            "Anno/list_bbox_celeba.txt",
            None,
            "list_bbox_celeba.txt is missing; fetch list_bbox_celeba.txt from CelebA's page",
        ),
        (
            "MAFL/testing.txt",
            None,
            "testing.txt is missing; fetch testing.txt from the page of MAFL",
        ),
        (
            "Img/img_celeba",
            None,
            "img_celeba is missing; fetch img_celeba.7z \\(folder Img of CelebA's page\\)",
        ),
        (
            "Img/img_celeba/000007.jpg",
            None,
            "img_celeba lacks 1 of the 10 pictures of split 'train', the first is 000007.jpg",
        ),
        ("Anno/list_landmarks_celeba.txt", lambda t: t[:400], "announces 16 lines, but holds"),
        ("MAFL/testing.txt", lambda t: t + "000001.jpg\n", "000001.jpg is in training.txt as well"),
    ]:
        with pytest.raises(InputError, match=message):
            CelebA.open(damaged(root, name, change))


def test_a_part_of_celeba(root):
    part = damaged(
        root,
        "Anno/list_landmarks_celeba.txt",
        lambda t: "\n".join(["5", *t.splitlines()[1:7]]) + "\n",
    )
    (part / "Eval" / "list_eval_partition.txt").unlink()
    found = CelebA.open(part).counts()
    assert (
        found["pictures listed"] == 5
        and found["MAFL's names that are not listed, ignored"] == 6
        and found["the full set (1) or a part (0)"] == 0
    )


def test_writer_reads_back_equal(tmp_path):
    faces = collections["faces"].open(split="train", size=64).take(range(9))
    root = write_celeba(tmp_path / "own", faces)
    for split, start in (("train", 0), ("fit", 1), ("test", 2)):
        back = CelebA.open(root, split, min_face=0, identities=True)
        if split == "train":
            back.rows = [n for n in back.rows if n % 3 == 0]  # MAFL's training pictures are too
        for s, t in zip(faces[start::3], back, strict=True):
            assert torch.allclose(s.landmarks[t.visible], t.landmarks[t.visible], atol=1e-4)
            assert torch.allclose(s.box, t.box) and (s.image - t.image).abs().mean() < 0.03
            assert back.category_names[t.category] == f"person {s.category + 1}"
    assert CelebA.open(root, "all", min_face=0).counts()["pictures listed"] == 9


def test_writer_refuses(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    faces = collections["faces"].open(split="train", size=64).take(range(3))
    with pytest.raises(InputError, match="is not empty; give a new folder"):
        write_celeba(tmp_path, faces)
    with pytest.raises(InputError, match="'val' is not train, fit or test"):
        write_celeba(tmp_path / "new", faces, ["train", "fit", "val"])
    with pytest.raises(InputError, match="at least one face for fit and one for test"):
        write_celeba(tmp_path / "new", faces, ["train"] * 3)
    with pytest.raises(InputError, match="Sample 'bare' lacks a box or the five landmarks"):
        write_celeba(tmp_path / "new", [Sample(torch.rand(3, 4, 4), "bare")] * 3)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
