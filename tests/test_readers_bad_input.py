"""Bad input to the readers of photographs: a row is one damage and the sentence that tells it."""

import io
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from painters.cub import write_cub_fixture
from PIL import Image

from partbook.core import InputError
from partbook.data.folder import Folder
from partbook.data.masks import read_mask
from partbook.data.pictures import image_size, read_image
from partbook.readers.cub import CUB

ROOT_USER = hasattr(os, "geteuid") and os.geteuid() == 0
LINKS = hasattr(os, "symlink") and os.name != "nt"


def encoded(kind="PNG", size=(60, 40), mode="RGB", **how) -> bytes:
    "A picture file's content: a soft ramp."
    ramp = Image.fromarray((np.indices(size[::-1]).sum(0) * 2 % 256).astype(np.uint8))
    buffer = io.BytesIO()
    ramp.convert(mode).save(buffer, kind, **how)
    return buffer.getvalue()


def check(error: pytest.ExceptionInfo, expected: str, **names) -> None:
    "The message is exactly the expected sentence, and one sentence it is."
    message = str(error.value)
    assert message == expected.format(**names)
    assert "\n" not in message and message.endswith(".") and ". " not in message


# --------------------------------------------------------------------------------------- CUB: lists

AGAIN = "correct it, or unpack the archive again."
FETCH = (
    "fetch the archive CUB_200_2011.tgz of Caltech-UCSD Birds-200-2011 (1.2 GB), unpack it, "
    "and give its folder as --root or in PARTBOOK_CUB."
)
BOX = "<image id> <x> <y> <width> <height>"
LOC = "<image id> <part id> <x> <y> <visible>"


@pytest.fixture(scope="module")
def birds(tmp_path_factory) -> Path:
    "Four drawn birds in CUB's layout, with masks; to be copied before they are damaged."
    return write_cub_fixture(tmp_path_factory.mktemp("birds") / "CUB_200_2011", n=4, masks=True)


@pytest.fixture
def root(birds, tmp_path) -> Path:
    "A copy of the four birds."
    return Path(shutil.copytree(birds, tmp_path / "CUB_200_2011"))


def line(number: int, text: str | None):
    "A change to a list: line `number` becomes `text`, or goes."

    def change(content: str) -> str:
        lines = content.splitlines()
        lines[number - 1 : number] = [] if text is None else [text]
        return "\n".join(lines) + "\n"

    return change


def append(text: str):
    return lambda content: content + text


LISTS = [  # (file, change or None to remove it, the sentence)
    (
        "images.txt",
        None,
        "{root} holds no images.txt, so it is not the CUB_200_2011 folder; " + FETCH,
    ),
    (
        "classes.txt",
        None,
        "{file} is missing; it belongs to the CUB_200_2011 folder, so unpack the archive again.",
    ),
    (
        "parts/part_locs.txt",
        None,
        "{file} is missing; it belongs to the CUB_200_2011 folder, so unpack the archive again.",
    ),
    (
        "parts/parts.txt",
        None,
        "{file} is missing; it belongs to the CUB_200_2011 folder, so unpack the archive again.",
    ),
    (
        "bounding_boxes.txt",
        None,
        "{file} is missing; it belongs to the CUB_200_2011 folder, so unpack the archive again.",
    ),
    (
        "images.txt",
        line(2, "2"),
        "{file}, line 2: '2' has 1 field, not the 2 of <image id> <path>; " + AGAIN,
    ),
    (
        "images.txt",
        line(2, "two 002.Drawn_Gull/bird_0002.jpg"),
        "{file}, line 2: <image id> is 'two', not a whole number from 1; "
        "each line reads <image id> <path>, so " + AGAIN,
    ),
    (
        "images.txt",
        line(2, "1 002.Drawn_Gull/bird_0002.jpg"),
        "{file}, line 2: image id 1 stands here for the second time, first in line 1; "
        "remove one of the two.",
    ),
    (
        "images.txt",
        lambda text: "\n \n",
        "{file} holds no line; each should read <image id> <path>, so unpack the archive again.",
    ),
    (
        "images.txt",
        line(3, "3 003.Drawn_Petrel/bird_0009.jpg"),
        "{root}/images lacks 1 of the 4 photographs that images.txt lists, "
        "the first is 003.Drawn_Petrel/bird_0009.jpg; "
        "unpack the archive again, shorten images.txt, or choose categories that are there.",
    ),
    (
        "images.txt",
        line(3, "3 009.No_Bird/bird_0003.jpg"),
        "{root}/images lacks 1 of the 4 photographs that images.txt lists, "
        "the first is 009.No_Bird/bird_0003.jpg; "
        "unpack the archive again, shorten images.txt, or choose categories that are there.",
    ),
    (
        "classes.txt",
        line(1, "0 001.Drawn_Albatross"),
        "{file}, line 1: <class id> is '0', not a whole number from 1; "
        "each line reads <class id> <class name>, so " + AGAIN,
    ),
    (
        "image_class_labels.txt",
        line(4, "4 77"),
        "{file}, line 4: class id 77 is not in classes.txt; correct it, or add the class.",
    ),
    (
        "image_class_labels.txt",
        line(4, "4 1 1"),
        "{file}, line 4: '4 1 1' has 3 fields, not the 2 of <image id> <class id>; " + AGAIN,
    ),
    (
        "image_class_labels.txt",
        line(4, None),
        "{file} has no line for image 4 (001.Drawn_Albatross/bird_0004.jpg); add it, "
        "or take the image out of images.txt.",
    ),
    (
        "train_test_split.txt",
        line(1, "1 2"),
        "{file}, line 1: <training> is '2', not 0 or 1; each line reads <image id> <training>, so "
        + AGAIN,
    ),
    (
        "train_test_split.txt",
        line(1, None),
        "{file} has no line for image 1 (001.Drawn_Albatross/bird_0001.jpg); add it, "
        "or take the image out of images.txt.",
    ),
    (
        "bounding_boxes.txt",
        line(2, None),
        "{file} has no line for image 2 (002.Drawn_Gull/bird_0002.jpg); add it, "
        "or take the image out of images.txt.",
    ),
    (
        "bounding_boxes.txt",
        line(2, "2 10.0 10.0 40.0"),
        "{file}, line 2: '2 10.0 10.0 40.0' has 4 fields, not the 5 of " + BOX + "; " + AGAIN,
    ),
    (
        "bounding_boxes.txt",
        line(2, "2 10.0 ten 40.0 30.0"),
        "{file}, line 2: <y> is 'ten', not a number; each line reads " + BOX + ", so " + AGAIN,
    ),
    (
        "bounding_boxes.txt",
        line(2, "2 10.0 inf 40.0 30.0"),
        "{file}, line 2: <y> is 'inf', not a number; each line reads " + BOX + ", so " + AGAIN,
    ),
    (
        "bounding_boxes.txt",
        line(2, "2 10.0 10.0 -40.0 30.0"),
        "{file}, line 2: <width> is '-40.0', not a positive number; each line reads "
        + BOX
        + ", so "
        + AGAIN,
    ),
    (
        "bounding_boxes.txt",
        append("2 1 1 5 5"),
        "{file}, line 5: image id 2 stands here for the second time, first in line 2; "
        "remove one of the two.",
    ),
    (
        "bounding_boxes.txt",
        line(2, "2 900.0 10.0 40.0 30.0"),
        "{file}: the box (900, 10, 40, 30) of image 2 (002.Drawn_Gull/bird_0002.jpg, "
        "149x114 pixels) lies outside the picture; correct it.",
    ),
    (
        "bounding_boxes.txt",
        line(2, "2 -90.0 10.0 40.0 30.0"),
        "{file}: the box (-90, 10, 40, 30) of image 2 (002.Drawn_Gull/bird_0002.jpg, "
        "149x114 pixels) lies outside the picture; correct it.",
    ),
    (
        "parts/parts.txt",
        line(2, "b beak"),
        "{file}, line 2: <part id> is 'b', not a whole number from 1; each line reads <part "
        "id> <part name>, so " + AGAIN,
    ),
    (
        "parts/part_locs.txt",
        line(17, "2 2 1.0 nan 1"),
        "{file}, line 17: <y> is 'nan', not a number; each line reads " + LOC + ", so " + AGAIN,
    ),
    (
        "parts/part_locs.txt",
        line(17, "2 2 1.0 1.0 yes"),
        "{file}, line 17: <visible> is 'yes', not 0 or 1; each line reads " + LOC + ", so " + AGAIN,
    ),
    (
        "parts/part_locs.txt",
        line(17, "2 2 1.0 1.0"),
        "{file}, line 17: '2 2 1.0 1.0' has 4 fields, not the 5 of " + LOC + "; " + AGAIN,
    ),
    (
        "parts/part_locs.txt",
        line(17, "2 16 1.0 1.0 1"),
        "{file}, line 17: part id 16 is not in parts.txt; correct it, or add the part.",
    ),
    (
        "parts/part_locs.txt",
        line(17, "2 1 1.0 1.0 1"),
        "{file}, line 17: image id 2 and part id 1 stands here for the second time, "
        "first in line 16; remove one of the two.",
    ),
    (
        "parts/part_locs.txt",
        line(17, None),
        "{file} has no line for image 2 and part 2 (beak); add it (with visible 0 if the part "
        "is hidden), or unpack the archive again.",
    ),
    (
        "parts/part_locs.txt",
        line(17, "2 2 148.0 200.0 1"),
        "{file}: part 2 (beak) of image 2 (002.Drawn_Gull/bird_0002.jpg, "
        "149x114 pixels) is marked visible at (148, 200), outside the picture; "
        "correct it, or mark it hidden.",
    ),
    (
        "parts/part_locs.txt",
        line(17, "2 2 -4.0 20.0 1"),
        "{file}: part 2 (beak) of image 2 (002.Drawn_Gull/bird_0002.jpg, "
        "149x114 pixels) is marked visible at (-4, 20), outside the picture; "
        "correct it, or mark it hidden.",
    ),
]


@pytest.mark.parametrize(
    "name, change, expected",
    LISTS,
    ids=[f"{i:02d}-{row[0].split('/')[-1]}" for i, row in enumerate(LISTS)],
)
def test_cub_list(root, name, change, expected):
    path = root / name
    path.unlink() if change is None else path.write_text(change(path.read_text()))
    with pytest.raises(InputError) as error:
        CUB.open(root, "all").counts()
    check(error, expected, root=root, file=path)


def binary(root):
    (root / "classes.txt").write_bytes(b"1 \xff\xfe\n")


def folder_for_list(root):
    (root / "classes.txt").unlink()
    (root / "classes.txt").mkdir()


def cut_photograph(root):
    path = root / "images" / "001.Drawn_Albatross" / "bird_0001.jpg"
    path.write_bytes(path.read_bytes()[:1200])


def other_mask(root):
    path = root / "segmentations" / "001.Drawn_Albatross" / "bird_0001.png"
    Image.new("L", (5, 4), 255).save(path)


PHOTO = "images/001.Drawn_Albatross/bird_0001.jpg"
MASK = "segmentations/001.Drawn_Albatross/bird_0001.png"
WHOLE_FOLDER = [  # (what happened to the folder, how it is opened, the sentence)
    (
        "not UTF-8",
        binary,
        {},
        "{root}/classes.txt is not a text file (byte 2 is not UTF-8); unpack the archive again.",
    ),
    (
        "folder instead of list",
        folder_for_list,
        {},
        "{root}/classes.txt is missing; it belongs to the CUB_200_2011 folder, "
        "so unpack the archive again.",
    ),
    (
        "truncated photograph",
        cut_photograph,
        {},
        "{root}/"
        + PHOTO
        + " cannot be read as a picture: the file is truncated or damaged; copy it again.",
    ),
    (
        "mask of another size",
        other_mask,
        {},
        "{root}/"
        + MASK
        + (
            " is 5x4 pixels, but its photograph is 140x104; fetch the segmentations again, "
            "or remove the folder."
        ),
    ),
    (
        "unknown split",
        None,
        {"split": "validation"},
        "CUB has no split 'validation'; choose one of: train, test, all.",
    ),
    ("size 0", None, {"size": 0}, "The size is 0; it must be at least one pixel."),
    (
        "unknown category",
        None,
        {"categories": (1, 200)},
        "{root}/images.txt lists no image of category 200; there are images of: 1, 2, 3.",
    ),
    (
        "too strict",
        None,
        {"min_visible": 15},
        "{root} holds no image of split 'all' with the categories and visibility asked for; "
        "ask for less.",
    ),
]


@pytest.mark.parametrize(
    "damage, how, expected", [row[1:] for row in WHOLE_FOLDER], ids=[row[0] for row in WHOLE_FOLDER]
)
def test_cub_folder(root, damage, how, expected):
    if damage:
        damage(root)
    with pytest.raises(InputError) as error:
        cub = CUB.open(root, **{"split": "all", **how})
        list(cub)
    check(error, expected, root=root)


def test_cub_root(tmp_path, monkeypatch):
    monkeypatch.delenv("PARTBOOK_CUB", raising=False)
    (tmp_path / "a file").write_text("")
    for root, expected in [
        (None, "CUB's photographs are not part of this book; " + FETCH),
        (
            tmp_path / "nowhere",
            f"{tmp_path}/nowhere is not there, but should be the CUB_200_2011 folder; " + FETCH,
        ),
        (
            tmp_path / "a file",
            f"{tmp_path}/a file is a file, but should be the CUB_200_2011 folder; " + FETCH,
        ),
        (
            tmp_path,
            f"{tmp_path} holds no images.txt, so it is not the CUB_200_2011 folder; " + FETCH,
        ),
    ]:
        with pytest.raises(InputError) as error:
            CUB.open(root)
        assert str(error.value) == expected and not CUB.present(root)


def test_cub_tolerates_what_is_nobodys_fault(root, tmp_path):
    "Other line ends, blank lines, a byte-order mark, other images, a landmark just outside."
    plain = list(CUB.open(root, "all"))
    for path in root.rglob("*.txt"):
        path.write_bytes(
            b"\xef\xbb\xbf" + path.read_text().strip().replace("\n", "\r\n\r\n").encode()
        )
    with open(root / "bounding_boxes.txt", "a") as file:
        file.write("\n99 1 1 5 5\n")
    locations = root / "parts" / "part_locs.txt"
    locations.write_text(
        locations.read_text().replace(locations.read_text().split("\n\n")[1], "1 2 141.0 104.5 1")
    )
    odd = CUB.open(tmp_path, "all")
    assert odd.counts()["lines of other images, ignored"] == 1
    for i, (s, t) in enumerate(zip(plain, odd)):
        assert (
            torch.equal(s.box, t.box) and torch.equal(s.image, t.image) and s.category == t.category
        )
        keep = [p for p in range(15) if (i, p) != (0, 1)]
        assert torch.equal(s.landmarks[keep], t.landmarks[keep])
    assert odd[0].size == (104, 140) and odd[0].landmarks[1].tolist() == [
        140,
        104,
    ]  # put onto the border


# ----------------------------------------------------------------- folders of one's own photographs


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "a")
    return buffer.getvalue()


def bomb() -> bytes:
    "A small PNG whose header promises 400 million pixels."
    import struct
    import zlib

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 20000, 20000, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", b"")
        + chunk(b"IEND", b"")
    )


SKIPPED = [  # (name, content, why it is skipped)
    ("empty.jpg", b"", "the file is empty (0 bytes); copy it again"),
    ("half.jpg", encoded("JPEG")[:500], "the file is truncated or damaged; copy it again"),
    ("half.png", encoded("PNG")[:60], "the file is truncated or damaged; copy it again"),
    ("half.webp", encoded("WEBP")[:60], "the file is truncated or damaged; copy it again"),
    ("head only.png", encoded("PNG")[:16], "the file is truncated or damaged; copy it again"),
    ("letter.jpg", b"Dear reader,\n", "it is a text file"),
    (
        "page.png",
        b"<!DOCTYPE html><html>",
        "it is a web page or a drawing (SVG), not pixels; save the picture itself",
    ),
    ("archive.png", zipped(), "it is a zip archive; unpack it first"),
    ("paper.jpg", b"%PDF-1.7\n\xe2\xe3", "it is a PDF; export its pages as PNG"),
    (
        "phone.jpg",
        b"\x00\x00\x00\x18ftypheic" + bytes(40),
        "it is a film or a HEIC/AVIF photograph; export it as JPEG",
    ),
    (
        "pointer.png",
        b"version https://git-lfs.github.com/spec/v1\n",
        "it is a Git LFS pointer; run `git lfs pull`",
    ),
    (
        "noise.tif",
        bytes(range(128, 256)),
        "it is not an image of a kind read here (JPEG, PNG, WebP, BMP, TIFF, GIF)",
    ),
    ("bomb.png", bomb(), "it has more than 178 million pixels; scale it down first"),
    (
        "heights.tif",
        encoded("TIFF", mode="F"),
        "its values lie in [0, 196], but float pictures are read in [0, 1]; "
        "save it again as 8-bit PNG",
    ),
]


@pytest.mark.parametrize("size", [None, 16])
@pytest.mark.parametrize("name, content, reason", SKIPPED, ids=[row[0] for row in SKIPPED])
def test_folder_skips_and_says_why(tmp_path, name, content, reason, size):
    (tmp_path / "good.png").write_bytes(encoded())
    (tmp_path / name).write_bytes(content)
    folder = Folder.open(tmp_path, size=size)
    assert folder.names == ["good.png"] and folder.skipped == [(name, reason)]
    assert folder.report().splitlines() == [
        f"1 photograph in {tmp_path}, 1 skipped, 0 other files ignored",
        f"  skipped {name}: {reason}",
    ]
    with pytest.raises(InputError) as error:
        read_image(tmp_path / name)
    check(
        error, "{path} cannot be read as a picture: {reason}.", path=tmp_path / name, reason=reason
    )


HANDLED = [  # odd, but pictures: (name, content, the (H,W) they come out in)
    ("four inks.jpg", encoded("JPEG", mode="CMYK"), (40, 60)),
    ("grey.jpg", encoded("JPEG", mode="L"), (40, 60)),
    ("bits.png", encoded("PNG", mode="1"), (40, 60)),
    ("palette.gif", encoded("GIF", mode="P"), (40, 60)),
    ("alpha.webp", encoded("WEBP", mode="RGBA"), (40, 60)),
    ("grey and alpha.png", encoded("PNG", mode="LA"), (40, 60)),
    ("SHOUTED.JPEG", encoded("JPEG"), (40, 60)),
    ("a png.jpg", encoded("PNG"), (40, 60)),
    ("one pixel.bmp", encoded("BMP", size=(1, 1)), (1, 1)),
    ("sixteen bits.png", encoded("PNG", mode="I;16"), (40, 60)),
    ("ink.tiff", encoded("TIFF", mode="CMYK"), (40, 60)),
]


@pytest.mark.parametrize("name, content, size", HANDLED, ids=[row[0] for row in HANDLED])
def test_folder_handles(tmp_path, name, content, size):
    (tmp_path / name).write_bytes(content)
    (sample,) = Folder.open(tmp_path)
    assert sample.size == size == image_size(tmp_path / name) and sample.image.shape[0] == 3
    (square,) = Folder.open(tmp_path, size=8)
    assert square.size == (8, 8)


def masks(folder: Path, **sizes) -> None:
    (folder / "masks").mkdir()
    for stem, size in sizes.items():
        Image.new("L", size, 255).save(folder / "masks" / f"{stem}.png")


def two(folder: Path) -> None:
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(encoded())


def some_masks(folder):
    two(folder), masks(folder, a=(60, 40))


def turned_mask(folder):
    two(folder), masks(folder, a=(60, 40), b=(40, 60))


def broken_mask(folder):
    two(folder), masks(folder, a=(60, 40), b=(60, 40))
    (folder / "masks" / "b.png").write_text("no mask")


def only_text(folder):
    (folder / "notes.txt").write_text("no pictures")


def only_hidden(folder):
    (folder / ".a.png").write_bytes(encoded())


def only_broken(folder):
    (folder / "a.jpg").write_bytes(b""), (folder / "b.jpg").write_text("b")


NOTHING = (
    "{root} holds no photograph; looked for files ending in .jpg, .jpeg, .png, .webp, .bmp, "
    ".tif, .tiff, .gif there and in its sub-folders."
)
FOLDERS = [
    ("empty", lambda folder: None, {}, NOTHING),
    ("no pictures", only_text, {}, NOTHING),
    ("only hidden ones", only_hidden, {}, NOTHING),
    (
        "only broken ones",
        only_broken,
        {},
        "No picture in {root} can be read (2 tried), the last being b.jpg: it is a text file.",
    ),
    (
        "masks for some",
        some_masks,
        {},
        "{root}/masks has masks for 1 of 2 photographs; the first without one is b.png, "
        "so add {root}/masks/b.png (`partbook saliency` makes those that lack), "
        "or move the folder masks away.",
    ),
    (
        "mask of another size",
        turned_mask,
        {},
        "{root}/masks/b.png is 40x60 pixels, but its photograph b.png is 60x40 (upright); "
        "save it in the photograph's size.",
    ),
    (
        "mask that is none",
        broken_mask,
        {},
        "{root}/masks/b.png cannot be read as a picture: it is a text file.",
    ),
    (
        "unknown split",
        two,
        {"split": "val"},
        "A folder has no split 'val'; choose one of: all, train, test (all are the same).",
    ),
    ("size -1", two, {"size": -1}, "The size is -1; it must be at least one pixel."),
]


@pytest.mark.parametrize(
    "fill, how, expected", [row[1:] for row in FOLDERS], ids=[row[0] for row in FOLDERS]
)
def test_folder(tmp_path, fill, how, expected):
    fill(tmp_path)
    with pytest.raises(InputError) as error:
        Folder.open(tmp_path, **how)
    check(error, expected, root=tmp_path)


def test_folder_that_is_none(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded())
    for root, expected in [
        (None, "A folder of photographs has no default place; give it as --data DIR."),
        (tmp_path / "nowhere", f"There is no folder {tmp_path}/nowhere; check the path."),
        (
            tmp_path / "a.png",
            f"{tmp_path}/a.png is a file, not a folder; give the folder that holds the "
            "photographs.",
        ),
    ]:
        with pytest.raises(InputError) as error:
            Folder.open(root)
        check(error, expected)
        assert not Folder.present(root)
    assert Folder.present(tmp_path)


@pytest.mark.skipif(not LINKS, reason="no symbolic links here")
def test_links_and_pipes(tmp_path):
    "Loops end, links are followed once, broken ones skipped, and a pipe is never opened."
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "a.png").write_bytes(encoded())
    (tmp_path / "deep" / "er" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "again").symlink_to("deep", target_is_directory=True)
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "lost.png").symlink_to("nowhere.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pipe.jpg")
    folder = Folder.open(tmp_path)
    assert folder.names == ["deep/a.png"] and folder.ignored == 1
    assert folder.skipped == [
        ("loop.png", "it is a link that leads nowhere"),
        ("lost.png", "it is a link that leads nowhere"),
        ("pipe.jpg", "it is not a regular file"),
    ]


@pytest.mark.skipif(ROOT_USER or os.name == "nt", reason="the administrator may read every file")
def test_permissions(root, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    two(own)
    (own / "a.png").chmod(0)
    folder = Folder.open(own)
    assert folder.names == ["b.png"] and folder.skipped == [
        ("a.png", "there is no permission to read it; change its permissions")
    ]
    (root / "classes.txt").chmod(0)
    with pytest.raises(InputError) as error:
        CUB.open(root)
    check(
        error,
        "{root}/classes.txt cannot be read (Permission denied); check its permissions.",
        root=root,
    )


def test_many_skipped_are_cut_short(tmp_path):
    (tmp_path / "good.png").write_bytes(encoded())
    for i in range(30):
        (tmp_path / f"bad{i}.jpg").write_bytes(b"")
    lines = Folder.open(tmp_path).report().splitlines()
    assert (
        len(lines) == 22
        and lines[-1] == "  ... and 10 more"
        and lines[3].startswith("  skipped bad2.jpg")
    )  # natural order


def test_masks_with_other_names_are_mentioned(tmp_path):
    two(tmp_path)
    masks(tmp_path, c=(60, 40))
    folder = Folder.open(tmp_path)
    assert folder.foreground == "the whole picture" and folder[0].mask is None
    assert folder.report().endswith(
        "masks/ holds no PNG with the name of a photograph, or was left unread: there are no masks"
    )


def test_mask_reader(tmp_path):
    (tmp_path / "m.png").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError) as error:
        read_mask(tmp_path / "m.png")
    check(
        error,
        "{path} cannot be read as a picture: it is a zip archive; unpack it first.",
        path=tmp_path / "m.png",
    )
    with pytest.raises(InputError) as error:
        read_mask(tmp_path / "m.png", threshold=2)
    check(error, "The mask threshold is 2; it must lie in [0, 1).")
    with pytest.raises(InputError) as error:
        read_image(tmp_path)
    check(error, "{path} cannot be read as a picture: it is a folder, not a file.", path=tmp_path)
