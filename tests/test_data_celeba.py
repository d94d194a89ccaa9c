"""CelebA: on drawn faces in its layout, always; real lists and 620 real faces, where they are."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from painters.celeba import write_celeba_fixture
from PIL import Image

from partbook.core import InputError
from partbook.data.sample import batches, collections
from partbook.readers import celeba
from partbook.readers.celeba import (
    BORDER,
    BOXES,
    CLICK,
    FRAME,
    IDENTITIES,
    LANDMARK_LISTS,
    MAFL,
    PARTITIONS,
    POINTS,
    SIZES,
    CelebA,
    find_list,
    read_faces,
    read_table,
    similarity,
    write_sizes,
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return write_celeba_fixture(tmp_path_factory.mktemp("faces") / "CelebA")


@pytest.fixture
def root(drawn, tmp_path) -> Path:
    "A copy, to be damaged."
    return Path(shutil.copytree(drawn, tmp_path / "CelebA"))


def numbers(collection: CelebA) -> list[int]:
    return [int(name[:6]) for name in collection.faces.names[collection.rows]]


# ------------------------------------------------------------------------------- splits and filters

SPLITS = [  # (split, options, the pictures)
    ("train", {}, [1, 3, 6, 7, 9, 10, 11]),
    ("train", {"min_face": 0}, [1, 3, 4, 5, 6, 7, 9, 10, 11, 12]),
    ("train", {"variant": "aligned"}, [1, 3, 4, 5, 6, 7, 9, 10, 11, 12]),
    ("train", {"leave_out": "all"}, [3, 6, 9, 11]),
    ("train", {"leave_out": "all", "variant": "aligned"}, [3, 5, 6, 9, 11, 12]),
    ("train", {"leave_out": "rest", "min_face": 0.0}, [1, 4, 7, 10, 13, 16]),
    ("fit", {}, [1, 7, 10, 13]),
    ("fit", {"min_face": 0.0}, [1, 4, 7, 10, 13, 16]),
    ("test", {}, [2, 14]),
    ("test", {"variant": "aligned"}, [2, 8, 14]),
    ("all", {"min_face": 0.1}, [n for n in range(1, 17) if n != 5]),  # the empty box fills nothing
    ("all", {"min_face": 0.4}, [2, 9, 10, 15]),
]


@pytest.mark.parametrize(
    "split, options, expected",
    SPLITS,
    ids=[f"{s}-{'-'.join(f'{k}={v}' for k, v in o.items())}" for s, o, _ in SPLITS],
)
def test_splits(drawn, split, options, expected):
    assert numbers(CelebA.open(drawn, split, **options)) == expected


def test_the_papers_numbers():
    "Constants no fixture vouches for (SCOPS, Sec. 4.1; alignment paper, Sec. 4.2; the readmes)."
    assert celeba.EXPECTED[("wild", 0.3, "test")][0] == {"train": 45609, "fit": 5379, "test": 283}
    assert (
        celeba.EXPECTED[("wild", 0.0, "test")][0]
        == celeba.EXPECTED[("aligned", 0.0, "test")][0]
        == {"train": 161962, "fit": 19000, "test": 1000}
    )
    assert celeba.FULL == {"pictures": 202599, "MAFL training": 19000, "MAFL testing": 1000}
    assert (celeba.TRAINING_ENDS, celeba.VALIDATION_ENDS) == (
        162770,
        162770 + 19867,
    ) and celeba.VALIDATION_ENDS + 19962 == 202599
    assert FRAME == (178, 218) and CLICK == 0.5 and BORDER == 2


def test_registered(drawn):
    cls = collections["celeba"]
    c = cls.open(drawn)
    assert (
        c.fitting == "fit"
        and c.eyes == (0, 1)
        and c.splits == ("train", "fit", "test", "all")
        and not c.crop_to_box
        and c.held_out
    )
    assert c.landmark_names[:2] == ("left eye", "right eye") and len(c.landmark_names) == 5
    assert (c.variant, c.min_face, c.leave_out) == (
        "wild",
        0.3,
        "test",
    ) and c.foreground == "inside the true box"
    assert cls.open(drawn, variant="aligned").foreground == "the whole picture"


@pytest.mark.parametrize(
    "options, expected",
    [
        (
            {},
            {
                "pictures listed": 16,
                "train": 7,
                "fit": 4,
                "test": 2,
                "landmarks outside the picture": 2,
                "boxes clipped to the picture": 2,
                "boxes of which nothing is known": 0,
                "MAFL's names that are not listed, ignored": 0,
                "the full set (1) or a part (0)": 0,
            },
        ),
        (
            {"min_face": 0},
            {
                "pictures listed": 16,
                "train": 10,
                "fit": 6,
                "test": 3,
                "landmarks outside the picture": 2,
                "boxes clipped to the picture": 2,
                "boxes of which nothing is known": 1,
                "MAFL's names that are not listed, ignored": 0,
                "the full set (1) or a part (0)": 0,
            },
        ),
        (
            {"variant": "aligned"},
            {
                "pictures listed": 16,
                "train": 10,
                "fit": 6,
                "test": 3,
                "landmarks outside the picture": 0,
                "pictures of another size than 178x218": 0,
                "MAFL's names that are not listed, ignored": 0,
                "the full set (1) or a part (0)": 0,
            },
        ),
    ],
)
def test_counts(drawn, options, expected):
    assert CelebA.open(drawn, **options).counts() == expected


def test_the_full_set_is_held_against_the_papers(drawn, monkeypatch):
    for key, number in zip(list(celeba.FULL), (16, 6, 3)):
        monkeypatch.setitem(celeba.FULL, key, number)
    for options, found in (({}, 7), ({"min_face": 0}, 10), ({"variant": "aligned"}, 10)):
        with pytest.raises(
            InputError, match=f"expected [0-9]+ pictures in split 'train' .*, found {found};"
        ):
            CelebA.open(drawn, **options).counts()
    assert (
        CelebA.open(drawn, min_face=0.2).counts()["the full set (1) or a part (0)"] == 1
    )  # no paper has these options
    with monkeypatch.context() as part:
        part.setitem(celeba.FULL, "MAFL testing", 4)
        assert (
            CelebA.open(drawn).counts()["the full set (1) or a part (0)"] == 0
        )  # all of CelebA, but not all of MAFL
    monkeypatch.setitem(
        celeba.EXPECTED, ("wild", 0.3, "test"), ({"train": 7, "fit": 4, "test": 3}, "nobody")
    )
    with pytest.raises(
        InputError, match=r"expected 3 pictures in split 'test' \(nobody\), found 2;"
    ):
        CelebA.open(drawn).counts()


def test_identities(drawn):
    c = CelebA.open(drawn, "fit", min_face=0, identities=True)
    assert (
        [s.category for s in c] == [0, 1, 3, 4, 6, 7]
        and len(c.category_names) == 8
        and c.category_names[0] == "person 1"
    )
    assert CelebA.open(drawn)[0].category is None and CelebA.open(drawn).category_names == ()


# ------------------------------------------------------------------------------------------ samples


def test_samples(drawn):
    for variant in ("wild", "aligned"):
        c = CelebA.open(drawn, "all", variant=variant, min_face=0)
        for n, s in enumerate(c):
            assert s.name == f"{n + 1:06d}.jpg" and s.landmarks.shape == (5, 2)
            H, W = s.size
            assert (s.box is None) == (variant == "aligned")
            if s.box is not None:
                x, y, w, h = s.box.tolist()
                assert 0 <= x < x + w <= W and 0 <= y < y + h <= H
            left, right = s.landmarks[:2]
            assert left[0] < right[0]  # the viewer's left
            published = torch.tensor(c.faces.points[n]) + 0.5
            limit = torch.tensor([W, H])
            assert torch.equal(
                s.landmarks[s.visible], published.minimum(limit)[s.visible]
            )  # by two pixels outside: on the border
            assert torch.equal(
                s.landmarks[~s.visible], published[~s.visible]
            )  # farther: hidden, and keeps its place
            assert torch.equal(s.visible, (published <= limit + 2).all(1))
    s = CelebA.open(drawn, "all", min_face=0)[5]
    assert s.visible.tolist() == [True, False, True, True, False] and s.landmarks[2, 0] == s.size[1]


def test_landmarks_beyond_the_border():
    "Rounding is put onto the border, on all four sides; what lies farther out is hidden and stays."
    points = np.array(
        [
            [[-2, 50], [-3, 50], [50, -2], [50, -3], [50, 50]],
            [[101, 50], [102, 50], [50, 101], [50, 102], [99, 99]],
        ],
        np.float32,
    )
    faces = celeba.Faces(
        np.array(["a.jpg", "b.jpg"]),
        points,
        np.array([[0, 0, 9, 9]] * 2, np.float32),
        None,
        None,
        None,
        0,
        False,
    )
    placed = celeba.place(faces, np.arange(2), np.array([[100, 100]] * 2))
    assert placed.visible.tolist() == [[True, False, True, False, True]] * 2
    assert placed.points.tolist() == [
        [[0, 50.5], [-2.5, 50.5], [50.5, 0], [50.5, -2.5], [50.5, 50.5]],
        [[100, 50.5], [102.5, 50.5], [50.5, 100], [50.5, 102.5], [99.5, 99.5]],
    ]
    points[1, :4] += [[78, 0], [78, 0], [0, 118], [0, 118]]
    faces.points, faces.boxes = points, None  # the aligned frame, at half its size
    placed = celeba.place(faces, np.arange(2), np.array([[109, 89]] * 2))
    assert (
        placed.visible.tolist() == [[True, False, True, False, True]] * 2 and placed.boxes is None
    )
    assert placed.points[:, 0].tolist() == [[0, 25.25], [89, 25.25]]


def test_boxes_are_clipped():
    boxes = np.array(
        [[50, 50, 0, 0], [-4, 2, 20, 300], [100, 0, 5, 5], [10, 20, 30, 40], [-9, -9, 9, 20]],
        np.float32,
    )
    faces = celeba.Faces(
        np.array(list("abcde")), np.zeros((5, 5, 2), np.float32), boxes, None, None, None, 0, False
    )
    placed = celeba.place(faces, np.arange(5), np.array([[80, 100]] * 5))
    assert placed.boxes.tolist() == [
        [0, 0, 100, 80],
        [0, 2, 16, 78],
        [0, 0, 100, 80],
        [10, 20, 30, 40],
        [0, 0, 100, 80],
    ]
    assert placed.unknown.tolist() == [True, False, True, False, True]


def test_pictures_stay_as_stored(root):
    "A note to turn the picture is not obeyed: the lists count pixels as stored."
    path, note = root / "Img" / "img_celeba" / "000001.jpg", Image.Exif()
    note[0x0112] = 6
    plain = CelebA.open(root)[0]
    with Image.open(path) as image:
        image.copy().save(path, exif=note)
    c = CelebA.open(root)
    assert c[0].size == plain.size == tuple(c.measure(c.rows[:1])[0]) and torch.equal(
        c[0].landmarks, plain.landmarks
    )


def test_one_batch(drawn):
    batch = next(batches(CelebA.open(drawn, "all", 32, min_face=0), 16))
    assert (
        batch.images.shape == (16, 3, 32, 32)
        and batch.boxes.shape == (16, 4)
        and batch.landmarks.shape == (16, 5, 2)
        and batch.masks is None
    )
    assert batch.boxes[4].tolist() == [
        0,
        0,
        32,
        32,
    ]  # the empty box says nothing, so it is the whole picture


def test_half_size_is_recognised(drawn, tmp_path):
    half = CelebA.open(write_celeba_fixture(tmp_path, n=8, scale=0.5), "all", variant="aligned")
    full = CelebA.open(drawn, "all", variant="aligned")
    assert half[0].size == (109, 89)
    assert torch.allclose(half[3].landmarks * 2, full[3].landmarks)
    assert torch.equal(full[3].landmarks, torch.tensor(full.faces.points[3]) + 0.5)


def test_the_share_is_of_the_box_as_published(root):
    "Of a box half outside the picture, the outer half counts too: so SCOPS' code has it."
    boxes, c = root / "Anno" / BOXES.file, CelebA.open(root, "all", min_face=0)
    H, W = c[3].size
    boxes.write_text(
        boxes.read_text().replace(
            boxes.read_text().splitlines()[5], f"000004.jpg {W // 2} 0 {W} {H}"
        )
    )
    c = CelebA.open(root, "all", min_face=1.0)
    assert numbers(c) == [4] and c[0].box.tolist() == [W // 2, 0, W - W // 2, H]


def test_sizes_are_taken_from_the_list(root, monkeypatch):
    rows = CelebA.open(root).rows
    path = write_sizes(root)
    assert path == root / "Anno" / "list_imsize_celeba.txt"
    names, sizes = read_table(path, SIZES)
    assert sizes.tolist() == [
        list(Image.open(root / "Img" / "img_celeba" / n).size[::-1]) for n in names
    ]
    monkeypatch.setattr(celeba, "read_header", None)
    assert np.array_equal(CelebA.open(root).rows, rows)
    path.write_text(
        path.read_text().replace(path.read_text().splitlines()[2], "000001.jpg 9999 9999")
    )
    assert numbers(CelebA.open(root)) == [3, 6, 7, 9, 10, 11]


def test_each_picture_is_measured_once(drawn, monkeypatch):
    read, header = [], celeba.read_header
    monkeypatch.setattr(
        celeba, "read_header", lambda path, upright: read.append(path.name) or header(path, upright)
    )
    c = CelebA.open(drawn)
    c.counts()
    assert (
        len(read) == len(set(read)) == 16 - 1
    )  # all but one (validation, not in MAFL) are in one of the splits


def test_flat_layout_and_parent(root, monkeypatch):
    for folder in ("Anno", "Eval", "Img"):
        for path in (root / folder).iterdir():
            path.rename(root / path.name)
        (root / folder).rmdir()
    assert numbers(CelebA.open(root)) == SPLITS[0][2] == numbers(CelebA.open(root.parent))
    monkeypatch.setenv("PARTBOOK_CELEBA", str(root))
    assert len(CelebA.open()) == 7 and CelebA.present()
    monkeypatch.delenv("PARTBOOK_CELEBA")
    assert not CelebA.present()


def test_deterministic(drawn, tmp_path):
    again = write_celeba_fixture(tmp_path / "again")
    for path in sorted(p for p in drawn.rglob("*") if p.is_file()):
        assert path.read_bytes() == (again / path.relative_to(drawn)).read_bytes(), path
    other = write_celeba_fixture(tmp_path / "other", seed=1)
    assert (other / "Anno" / BOXES.file).read_text() != (drawn / "Anno" / BOXES.file).read_text()


# ---------------------------------------------------------------------------------------- bad input

LANDMARKS, BOX, PART, TRAIN, TEST = (
    "Anno/list_landmarks_celeba.txt",
    "Anno/list_bbox_celeba.txt",
    "Eval/list_eval_partition.txt",
    "MAFL/training.txt",
    "MAFL/testing.txt",
)
READS = (
    "each line reads <picture> <x_1> <y_1> <width> <height>, so correct it, "
    "or fetch list_bbox_celeba.txt again."
)
PAGE = "CelebA's page (Large-scale CelebFaces Attributes Dataset, MMLAB)"


def line(number: int, text: str | None):
    "Line `number` becomes `text`, or goes."

    def change(content: str) -> str:
        lines = content.splitlines()
        lines[number - 1 : number] = [] if text is None else [text]
        return "\n".join(lines) + "\n"

    return change


def shorter(content: str) -> str:
    "Without its last line, which the first one knows."
    lines = content.splitlines()
    return "\n".join([str(int(lines[0]) - 1), *lines[1:-1]]) + "\n"


BAD = [  # (list, change or None to remove it, the sentence)
    (
        LANDMARKS,
        None,
        "{root}/Anno/list_landmarks_celeba.txt is missing, but the aligned variant's list is "
        "there; open it with variant=aligned, "
        f"or fetch list_landmarks_celeba.txt from {PAGE}.",
    ),
    (
        BOX,
        None,
        f"{{root}}/Anno/list_bbox_celeba.txt is missing; fetch list_bbox_celeba.txt from {PAGE} "
        "and put it there.",
    ),
    (
        TRAIN,
        None,
        "{file} is missing; fetch training.txt from the page of MAFL (folder MAFL of the TCDCN "
        "project of Zhang et al.) and put it there.",
    ),
    (
        BOX,
        lambda t: t[:200],
        "{file} announces 16 lines, but holds 6; fetch it again, or correct the first line.",
    ),
    (
        BOX,
        line(1, "17"),
        "{file} announces 17 lines, but holds 16; fetch it again, or correct the first line.",
    ),
    (
        BOX,
        line(1, "15"),
        "{file} announces 15 lines, but holds 16; fetch it again, or correct the first line.",
    ),
    (
        BOX,
        line(2, "image_id x_1 y_1 x_2 y_2"),
        "{file}, line 2: the columns are x_1 y_1 x_2 y_2, not x_1 y_1 width height; "
        "it seems to be another list, so fetch list_bbox_celeba.txt again.",
    ),
    (
        LANDMARKS,
        lambda t: (
            "1\n"
            "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald\n"
            "000001.jpg -1 1 1 -1 -1\n"
        ),
        "{file}, line 2: the columns are 5_o_Clock_Shadow Arched_Eyebrows Attractive "
        "Bags_Under_Eyes ... (5), not lefteye_x lefteye_y righteye_x righteye_y ... (10); "
        "it seems to be another list, so fetch list_landmarks_celeba.txt again.",
    ),
    (
        BOX,
        lambda t: "",
        "{file} holds no line about a picture; each should read <picture> <x_1> <y_1> <width> "
        "<height>, so fetch list_bbox_celeba.txt again.",
    ),
    (
        BOX,
        lambda t: "0\nimage_id x_1 y_1 width height\n",
        "{file} holds no line about a picture; each should read <picture> <x_1> <y_1> <width> "
        "<height>, "
        "so fetch list_bbox_celeba.txt again.",
    ),
    (
        BOX,
        lambda t: "<!DOCTYPE html><html>quota exceeded",
        f"{{file}} is a web page, as a refused download leaves it; fetch list_bbox_celeba.txt "
        f"again from {PAGE}.",
    ),
    (
        BOX,
        lambda t: "image_id,x_1,y_1,width,height\n000001.jpg,95,71,226,313\n",
        f"{{file}} is a table with commas, as others than the authors distribute it; "
        f"fetch list_bbox_celeba.txt from {PAGE}.",
    ),
    (
        BOX,
        line(4, "000002.jpg 1 2 3"),
        "{file}, line 4: '000002.jpg 1 2 3' has 4 fields, not 5; " + READS,
    ),
    (
        BOX,
        line(4, "000002.jpg 1 2 3 4 5"),
        "{file}, line 4: '000002.jpg 1 2 3 4 5' has 6 fields, not 5; " + READS,
    ),
    (
        BOX,
        lambda t: line(5, "000003.jpg 1 2 3 4 5")(line(4, "000002.jpg 1 2 3")(t)),
        "{file}, line 4: '000002.jpg 1 2 3' has 4 fields, not 5; " + READS,
    ),
    (BOX, line(4, "000002.jpg"), "{file}, line 4: '000002.jpg' has 1 field, not 5; " + READS),
    (
        BOX,
        line(4, "000002.jpg 1 two 3 4"),
        "{file}, line 4: <y_1> is 'two', not a number; " + READS,
    ),
    (
        BOX,
        line(4, "000002.jpg 1 nan 3 4"),
        "{file}, line 4: <y_1> is 'nan', not a number; " + READS,
    ),
    (
        BOX,
        line(4, "000002.jpg 1 2 inf 4"),
        "{file}, line 4: <width> is 'inf', not a number from 0; " + READS,
    ),
    (
        BOX,
        line(4, "000002.jpg 1 2 3 -4"),
        "{file}, line 4: <height> is '-4', not a number from 0; " + READS,
    ),
    (
        BOX,
        line(18, "000015.jpg 1 2 3 4"),
        "{file}, line 18: 000015.jpg stands here for the second time, first in line 17; "
        "remove one of the two.",
    ),
    (
        BOX,
        line(18, "000003.jpg 1 2 3 4"),
        "{file}, line 18: 000003.jpg stands here for the second time, first in line 5; "
        "remove one of the two.",
    ),
    (
        BOX,
        line(4, "../000002.jpg 1 2 3 4"),
        "{file}, line 4: '../000002.jpg' is not the name of a picture in the folder of "
        "pictures; give a plain name such as 000001.jpg.",
    ),
    (
        BOX,
        line(4, "C:\\000002.jpg 1 2 3 4"),
        "{file}, line 4: 'C:\\\\000002.jpg' is not the name of a picture in the folder of "
        "pictures; give a plain name such as 000001.jpg.",
    ),
    (
        BOX,
        line(4, "000002 1 2 3 4"),
        "{file}, line 4: '000002' is not the name of a picture in the folder of pictures; "
        "give a plain name such as 000001.jpg.",
    ),
    (
        BOX,
        shorter,
        "{file} has no line for 000016.jpg, but list_landmarks_celeba.txt has; "
        "fetch both lists again, or shorten the latter.",
    ),
    (
        BOX,
        lambda t: shorter(shorter(t)),
        "{file} has no line for 000015.jpg and 1 others, but list_landmarks_celeba.txt has; "
        "fetch both lists again, or shorten the latter.",
    ),
    (
        PART,
        line(2, None),
        "{file} has no line for 000002.jpg, but list_landmarks_celeba.txt has; "
        "fetch both lists again, or shorten the latter.",
    ),
    (
        PART,
        line(2, "000002.jpg 3"),
        "{file}, line 2: <partition> is '3', not a whole number from 0 to 2; "
        "each line reads <picture> <partition>, "
        "so correct it, or fetch list_eval_partition.txt again.",
    ),
    (
        PART,
        line(2, "000002.jpg 0.5"),
        "{file}, line 2: <partition> is '0.5', not a whole number from 0 to 2; "
        "each line reads <picture> <partition>, "
        "so correct it, or fetch list_eval_partition.txt again.",
    ),
    (
        TEST,
        lambda t: t + "000007.jpg\n",
        "{file}: 000007.jpg is in training.txt as well; a picture is for fitting or for "
        "testing, so fetch both lists again.",
    ),
    (
        TEST,
        lambda t: t + "000014.jpg\n",
        "{file}, line 4: 000014.jpg stands here for the second time, first in line 3; "
        "remove one of the two.",
    ),
    (
        TEST,
        lambda t: t + "000015.jpg 1\n",
        "{file}, line 4: '000015.jpg 1' has 2 fields, not 1; each line reads <picture>, "
        "so correct it, or fetch testing.txt again.",
    ),
    (
        LANDMARKS,
        lambda t: t.replace("000003.jpg", "000020.jpg"),
        "{root}/Anno/list_bbox_celeba.txt has no line for 000020.jpg, but "
        "list_landmarks_celeba.txt has; fetch both lists again, or shorten the latter.",
    ),
]


@pytest.mark.parametrize(
    "name, change, expected",
    BAD,
    ids=[f"{i:02d}-{row[0].split('/')[-1]}" for i, row in enumerate(BAD)],
)
def test_bad_list(root, name, change, expected):
    path = root / name
    path.unlink() if change is None else path.write_text(change(path.read_text()))
    with pytest.raises(InputError) as error:
        CelebA.open(root)
    message = str(error.value)
    assert message == expected.format(root=root, file=path)
    assert "\n" not in message and message.endswith(".")


FETCH = "fetch the folders Anno, Eval and Img from CelebA's page"


@pytest.mark.parametrize(
    "damage, options, expected",
    [
        (lambda r: shutil.rmtree(r), {}, f"is not there, but should be the CelebA folder; {FETCH}"),
        (
            lambda r: shutil.rmtree(r / "Anno"),
            {},
            f"holds no list of CelebA's landmarks .* so it is not the CelebA folder; {FETCH}",
        ),
        (
            lambda r: shutil.rmtree(r / "Img" / "img_celeba"),
            {},
            r"Img/img_celeba is missing; fetch img_celeba.7z \(folder Img of CelebA's page\) "
            r"and unpack it there.",
        ),
        (
            lambda r: shutil.rmtree(r / "Img"),
            {"variant": "aligned"},
            "Img/img_align_celeba is missing; fetch img_align_celeba.zip",
        ),
        (
            lambda r: (r / "Img" / "img_celeba" / "000003.jpg").unlink(),
            {},
            "img_celeba lacks 1 of the 10 pictures of split 'train', the first is 000003.jpg; "
            "unpack img_celeba.7z",
        ),
        (
            lambda r: (r / "Img" / "img_celeba" / "000003.jpg").write_bytes(b""),
            {},
            "000003.jpg cannot be read as a picture: the file is empty",
        ),
        (
            lambda r: (r / "Anno" / BOXES.file).write_bytes(b"PK\x03\x04\xff\xfe\x00"),
            {},
            "is not a text list: it is a zip archive; unpack it first",
        ),
        (
            lambda r: (r / "Anno" / LANDMARK_LISTS["aligned"].file).unlink(),
            {"variant": "aligned"},
            "is missing, but the wild variant's list is there; open it with variant=wild",
        ),
        (
            lambda r: (r / "MAFL" / "testing.txt").write_text("999999.jpg\n"),
            {"split": "test"},
            "holds no picture of split 'test' with min_face=0.3; ask for less",
        ),
        (
            lambda r: None,
            {"split": "val"},
            "CelebA has no split 'val'; choose one of: train, fit, test, all",
        ),
        (
            lambda r: None,
            {"variant": "cropped"},
            "CelebA has no variant 'cropped'; choose one of: wild, aligned",
        ),
        (lambda r: None, {"min_face": 30}, "min_face is 30; it is the share"),
        (lambda r: None, {"min_face": -0.1}, "min_face is -0.1; it is the share"),
        (lambda r: None, {"leave_out": "none"}, "leave_out is 'none'; choose test or all"),
        (lambda r: None, {"size": 0}, "The size is 0; it must be at least one pixel"),
        (
            lambda r: (r / "Anno" / IDENTITIES.file).unlink(),
            {"identities": True},
            "identity_CelebA.txt is missing; fetch identity_CelebA.txt",
        ),
        (
            lambda r: (r / "Anno" / IDENTITIES.file).write_text("000001.jpg 0\n"),
            {"identities": True},
            "<identity> is '0', not a whole number from 1;",
        ),
    ],
    ids=lambda v: v[:30] if isinstance(v, str) else "",
)
def test_bad_folder(root, damage, options, expected):
    damage(root)
    with pytest.raises(InputError, match=expected):
        CelebA.open(root, **options)


def test_symlink_loop(root):
    path = root / "Anno" / BOXES.file
    path.unlink()
    try:
        path.symlink_to(path)
    except OSError:
        pytest.skip("no symbolic links here")
    with pytest.raises(InputError, match="list_bbox_celeba.txt is missing"):
        CelebA.open(root)


def test_a_crop_of_an_aligned_picture_has_lost_its_landmarks(root):
    path = root / "Img" / "img_align_celeba" / "000001.jpg"
    Image.open(path).crop((0, 20, 178, 198)).save(path)
    c = CelebA.open(root, variant="aligned")
    for act in (lambda: c[0], c.counts):
        with pytest.raises(
            InputError,
            match=(
                "000001.jpg is 178x178 pixels, but aligned pictures are 178x218 or that frame "
                "resized as a whole"
            ),
        ):
            act()


def test_aligned_pictures_in_the_place_of_wild_ones(root):
    "Landmarks of large photographs, pictures of small ones: each may be odd, most cannot."
    path = root / "Anno" / LANDMARK_LISTS["wild"].file
    faces = read_faces(root)
    celeba._write_list(
        path, LANDMARK_LISTS["wild"], faces.names, (faces.points.reshape(-1, 10) * 4).astype(int)
    )
    with pytest.raises(
        InputError,
        match=(
            r"of 75 landmarks lie outside their pictures; .*img_celeba seems to hold other "
            r"pictures"
        ),
    ):
        CelebA.open(root, min_face=0).counts()


HARMLESS = [  # (list, change): read as if nothing had happened
    (BOX, lambda b: b.replace(b"\n", b"\r\n")),
    (BOX, lambda b: b.replace(b"\n", b"\r")),
    (BOX, lambda b: b.rstrip(b"\n")),
    (BOX, lambda b: b"\xef\xbb\xbf" + b),
    (BOX, lambda b: b.replace(b"\n", b"\n\n")),
    (BOX, lambda b: b.replace(b" ", b"\t")),
    (
        BOX,
        lambda b: b"\n".join(b.split(b"\n")[2:]),
    ),  # no header, as in copies that are passed around
    (
        BOX,
        lambda b: b"\n".join([*b.split(b"\n")[:2], *b.split(b"\n")[-2:1:-1]]),
    ),  # in another order
    (PART, lambda b: b + b"999999.jpg 2\n"),  # knows more pictures
    (TRAIN, lambda b: b + b"999999.jpg\n"),
    (LANDMARKS, lambda b: b.replace(b" ", b"   ")),
]


@pytest.mark.parametrize("name, change", HARMLESS, ids=[f"{i:02d}" for i in range(len(HARMLESS))])
def test_harmless(drawn, root, name, change):
    (root / name).write_bytes(change((root / name).read_bytes()))
    plain, odd = read_faces(drawn), read_faces(root)
    for field in ("names", "points", "boxes", "partition", "mafl"):
        assert np.array_equal(getattr(plain, field), getattr(odd, field)), field
    assert odd.ignored == (name == TRAIN) and not odd.full


def test_a_part_needs_only_its_landmarks_shortened(root):
    path = root / LANDMARKS
    path.write_text("\n".join(["5", *path.read_text().splitlines()[1:7]]) + "\n")
    (root / PART).unlink()  # then the numbers tell the partition
    c = CelebA.open(root, min_face=0)
    assert numbers(c) == [1, 3, 4, 5]
    found = c.counts()
    assert (
        found["pictures listed"] == 5
        and found["MAFL's names that are not listed, ignored"] == 6
        and found["the full set (1) or a part (0)"] == 0
    )
    path.write_text(path.read_text().replace("000005", "my_face"))
    box = root / BOX
    box.write_text(box.read_text().replace("000005", "my_face"))
    with pytest.raises(InputError, match="list_eval_partition.txt is missing"):
        CelebA.open(root, min_face=0)


# --------------------------------------------------------------------------------- the largest list


def test_two_hundred_thousand_lines(tmp_path):
    "About a second on a free core; the bound allows for busy ones."
    n = 202_599
    points = np.resize(np.random.default_rng(0).integers(-5, 2000, (997, 10)), (n, 10))
    rows = [" ".join(map(str, row)) for row in points[:997].tolist()]
    path = tmp_path / LANDMARK_LISTS["wild"].file
    path.write_text(
        f"{n}\n{' '.join(f.name for f in POINTS)}\n"
        + "".join(f"{i:06d}.jpg {rows[(i - 1) % 997]}\n" for i in range(1, n + 1))
    )
    start = time.process_time()
    names, values = read_table(path, LANDMARK_LISTS["wild"])
    assert time.process_time() - start < 4
    assert (values == points).all() and names[162_769] == "162770.jpg"


# ----------------------------------------------------------------------------------- the real files


def test_real_headers(shared_path):
    wild, aligned = (
        shared_path(f"data/celeba_first5/{name}/dataset")
        for name in ("celeba_dataset", "align_celeba_dataset")
    )
    points = read_table(find_list(wild, LANDMARK_LISTS["wild"]), LANDMARK_LISTS["wild"])
    assert points.names.tolist() == [f"{i:06d}.jpg" for i in range(1, 6)] and points.values[
        0
    ].tolist() == [165, 184, 244, 176, 196, 249, 194, 271, 266, 260]
    moved = read_table(find_list(aligned, LANDMARK_LISTS["aligned"]), LANDMARK_LISTS["aligned"])
    assert moved.values[0].tolist() == [69, 109, 106, 113, 77, 142, 73, 152, 108, 154]
    boxes = read_table(find_list(wild, BOXES), BOXES)
    assert boxes.values[0].tolist() == [95, 71, 226, 313] and boxes.values.shape == (5, 4)
    assert read_table(find_list(wild, PARTITIONS), PARTITIONS).values.shape == (5, 1)
    assert read_table(find_list(wild, IDENTITIES), IDENTITIES).values[:, 0].tolist() == [
        12,
        5,
        2,
        10,
        7,
    ]
    with pytest.raises(InputError, match="the columns are 5_o_Clock_Shadow Arched_Eyebrows"):
        read_table(
            find_list(wild, LANDMARK_LISTS["wild"]).parent / "list_attr_celeba.txt",
            LANDMARK_LISTS["wild"],
        )
    for z, w in zip(
        points.values, moved.values
    ):  # the second list is the first, carried by a similarity and rounded
        assert similarity(z.reshape(5, 2), w.reshape(5, 2))[2].max() < 0.75


def test_real_lists_join(shared_path, tmp_path):
    "The real wild lists, with MAFL's lists put beside them, as `read_faces` wants them."
    root = Path(
        shutil.copytree(
            shared_path("data/celeba_first5/celeba_dataset/dataset"), tmp_path / "CelebA"
        )
    )
    (root / "MAFL").mkdir()
    for kind, name in zip(MAFL, ("000003.jpg", "000005.jpg")):
        (root / "MAFL" / kind.file).write_text(name + "\n")
    faces = read_faces(root, identities=True)
    assert (
        faces.mafl.tolist() == [0, 0, 1, 0, 2]
        and faces.boxes[3].tolist() == [622, 257, 564, 781]
        and faces.identity.tolist() == [12, 5, 2, 10, 7]
    )
    inside = (faces.points > faces.boxes[:, None, :2]) & (
        faces.points < faces.boxes[:, None, :2] + faces.boxes[:, None, 2:]
    )
    assert inside.all()  # boxes and landmarks count in the same pixels


LISTS = {
    "train": ("celebA_training.txt", 45_609),
    "fit": ("MAFL_training.txt", 5_379),
    "test": ("MAFL_testing.txt", 283),
}


@pytest.fixture(scope="module")
def wild_lists(request) -> dict[str, tuple[list[str], np.ndarray]]:
    "Split -> names and landmarks (N,5,2) of real wild pictures, filtered by SCOPS' rule elsewhere."
    folder = request.getfixturevalue("shared_path")("data/celeba_wild_lists")
    found = {}
    for split, (name, _) in LISTS.items():
        lines = [line.split(",") for line in (folder / name).read_text().split()]
        found[split] = (
            [line[0] for line in lines],
            np.array([line[1:] for line in lines], float).reshape(-1, 5, 2),
        )
    return found


def with_others(names: list[str], others: list[str]) -> list[str]:
    "The names in their order, strangers among them."
    step = len(names) // (len(others) + 1)
    return [
        name
        for k in range(len(others) + 1)
        for name in (
            *others[k - 1 : k],
            *names[k * step : (k + 1) * step if k < len(others) else None],
        )
    ]


@pytest.fixture(scope="module")
def wild_root(wild_lists, tmp_path_factory) -> Path:
    "Lists laid out as CelebA's, with 300 pictures whose box is just too small for the filter."
    root = tmp_path_factory.mktemp("wild") / "CelebA"
    points = {name: p for names, places in wild_lists.values() for name, p in zip(names, places)}
    small = [f"{n:06d}.jpg" for n in range(2, 162_000, 300) if f"{n:06d}.jpg" not in points][:300]
    everyone = sorted([*points, *small])
    nowhere = np.arange(10).reshape(5, 2) + 50
    celeba._write_list(
        root / "Anno" / LANDMARK_LISTS["wild"].file,
        LANDMARK_LISTS["wild"],
        everyone,
        [points.get(n, nowhere).astype(int).ravel() for n in everyone],
    )
    celeba._write_list(
        root / "Anno" / BOXES.file,
        BOXES,
        everyone,
        [[0, 0, 600, 500 if n in points else 499] for n in everyone],
    )
    celeba._write_list(root / "Anno" / SIZES.file, SIZES, everyone, [[1000, 1000]] * len(everyone))
    for kind, split, some in zip(MAFL, ("fit", "test"), (small[:50], small[50:60])):
        names = with_others(wild_lists[split][0], some)
        celeba._write_list(root / "MAFL" / kind.file, kind, names, [[]] * len(names), header=False)
    (root / "Img" / "img_celeba").mkdir(parents=True)
    return root


@pytest.mark.parametrize("split", LISTS)
def test_real_wild_splits_have_the_same_names_in_the_same_order(
    wild_lists, wild_root, split, monkeypatch
):
    "SCOPS' and the disentangling paper's pictures: 45 609, 5 379, 283, as publicly listed."
    monkeypatch.setattr(
        celeba, "missing_files", lambda folder, names: []
    )  # the pictures themselves are not at hand
    c = CelebA.open(wild_root, split)
    names, points = wild_lists[split]
    assert len(c) == LISTS[split][1] and c.faces.names[c.rows].tolist() == names
    assert np.array_equal(c.faces.points[c.rows], points)
    placed = celeba.place(c.faces, c.rows, np.array([[5000, 5000]] * len(c)))
    assert placed.visible.all() and np.array_equal(placed.points, points + 0.5)


def test_real_wild_training_pictures_of_mafl_stay(wild_lists, wild_root, monkeypatch):
    "MAFL's test pictures are left out of training; its training pictures only if one asks for it."
    monkeypatch.setattr(celeba, "missing_files", lambda folder, names: [])
    names = {split: set(rows[0]) for split, rows in wild_lists.items()}
    assert not names["train"] & names["test"] and len(names["train"] & names["fit"]) == 4_394
    assert len(CelebA.open(wild_root, "train", leave_out="all")) == 45_609 - 4_394
    assert (
        len(CelebA.open(wild_root, "train", min_face=0.2994)) == 45_609 + 300 - 10
    )  # of the strangers ten are MAFL's for testing
    early = sum(int(name[:6]) <= celeba.TRAINING_ENDS for name in names["test"])
    assert 200 < early < 283  # so leaving them out matters


def test_real_wild_faces_are_whole(wild_lists):
    "The filter leaves no odd face: no landmark at the border, eyes apart."
    for (_, points), apart in zip(wild_lists.values(), (5.4, 9.0, 16.0)):
        eyes = np.linalg.norm(points[:, 0] - points[:, 1], axis=1)
        assert points.min() >= 5 and round(eyes.min(), 1) == apart
        assert (points[:, 0, 0] < points[:, 1, 0]).mean() > 0.99  # the viewer's left and right


def test_real_wild_floor(wild_lists, shared_path):
    "The mean of MAFL's training landmarks, in stretched pictures: what a method has to beat."
    sizes = read_table(shared_path(f"data/celeba_wild_lists/{SIZES.file}"), SIZES)
    scale = {name: size[::-1] for name, size in zip(sizes.names.tolist(), sizes.values)}
    stretched = {
        split: (points + 0.5) / np.array([scale[n] for n in names])[:, None]
        for split, (names, points) in wild_lists.items()
        if split != "train"
    }
    gap = stretched["test"] - stretched["fit"].mean(0)
    error = np.linalg.norm(gap, axis=2).mean(1) / np.linalg.norm(
        stretched["test"][:, 0] - stretched["test"][:, 1], axis=1
    )
    assert 100 * error.mean() == pytest.approx(54.7, abs=0.05)


@pytest.fixture(scope="module")
def real(request):
    return request.getfixturevalue("shared_path")("data/celeba_aligned_half")


def test_real_aligned_halves(real):
    fit, test, train, everything = (
        CelebA.open(real, split, variant="aligned") for split in ("fit", "test", "train", "all")
    )
    assert (len(fit), len(test), len(train), len(everything)) == (600, 20, 600, 620)
    assert fit.counts() == {
        "pictures listed": 620,
        "train": 600,
        "fit": 600,
        "test": 20,
        "landmarks outside the picture": 0,
        "pictures of another size than 178x218": 620,
        "MAFL's names that are not listed, ignored": 0,
        "the full set (1) or a part (0)": 0,
    }
    with pytest.raises(
        InputError,
        match=(
            "list_landmarks_celeba.txt is missing, but the aligned variant's list is there; "
            "open it with variant=aligned"
        ),
    ):
        CelebA.open(real)
    batch = next(batches(everything, 620))
    assert batch.images.shape == (620, 3, 109, 89) and batch.visible.all() and batch.boxes is None
    eyes = batch.landmarks[:, :2]
    assert (eyes[:, 0, 0] < eyes[:, 1, 0]).all()
    mean = eyes.mean(0)
    assert torch.allclose(
        mean, torch.tensor([[34.925, 55.841], [54.053, 55.825]]), atol=0.02
    )  # half of the frame's (69.35, 111.18) and (107.6, 111.15), plus 1/4
    distances = (eyes[:, 0] - eyes[:, 1]).norm(dim=-1)
    assert 19 < distances.mean() < 19.3 and distances.std() < 1.7


def test_real_landmarks_are_counted_from_zero(real):
    "Averaged over both eyes, the dark disc lies half a pixel right of the published x."
    samples = list(CelebA.open(real, "all", variant="aligned"))
    images = torch.stack([s.image.mean(0) for s in samples])
    points = torch.stack([s.landmarks[:2] for s in samples])
    steps, shifts = (
        torch.arange(-3.0, 4),
        torch.arange(-0.75, 0.76, 0.25),
    )  # in pixels of the halves
    size = torch.tensor([89.0, 109.0])
    means = []
    for shift in shifts:
        at = points[..., None, None, :] + torch.stack(
            torch.meshgrid(steps + shift, steps, indexing="xy"), -1
        )  # (N,2,7,7,2)
        window = torch.nn.functional.grid_sample(
            images[:, None], (2 * at / size - 1).flatten(1, 2), align_corners=False
        ).unflatten(2, (2, 7))[:, 0]
        dark = (window.mean((-1, -2), keepdim=True) - window).clamp(min=0) ** 2
        means.append(float(((dark.sum(-2) * steps).sum(-1) / dark.sum((-1, -2))).mean()))
    slope, middle = np.polyfit(shifts, means, 1)
    offset = 2 * -middle / slope  # in pixels of the frame
    assert slope < -0.2 and abs(offset) < 0.35, (
        offset
    )  # were pixels counted from one, it would be -1
