"""A folder of one's own: whose mask is whose, what is no photograph, and that all of it is said."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from painters.cub import write_cub_fixture
from painters.deepfashion import write_deepfashion_fixture
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from partbook.core import InputError
from partbook.data import folder as chapter
from partbook.data.folder import BESIDE, WHOLE, Folder, find_pictures
from partbook.readers.cub import CUB
from partbook.readers.deepfashion import DeepFashion

W, H = 64, 48


def pair(n: int) -> tuple[Image.Image, Image.Image]:
    "A photograph of a disc, and its mask; each n has another place."
    ground = np.random.default_rng(n).integers(40, 120, (6, 8, 3)).astype(np.uint8)
    image = Image.fromarray(ground).resize((W, H), Image.Resampling.BICUBIC)
    mask = Image.new("L", (W, H), 0)
    box = (6 + 4 * n, 8, 30 + 4 * n, 36)
    ImageDraw.Draw(image).ellipse(box, fill=(230, 60, 40))
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    return image, mask


def fill(root: Path, photograph: str = "p{}.jpg", mask: str = "", count: int = 4) -> Path:
    for n in range(count):
        for name, image in zip((photograph, mask), pair(n)):
            path = root / name.format(n)
            if name:
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
    return root


def fits(folder: Folder) -> bool:
    "Whether each photograph has the mask that was drawn for it."
    places = [int("".join(c for c in Path(s.name).stem if c.isdigit())) for s in folder]
    truths = [np.asarray(pair(n)[1]) > 127 for n in places]
    return all((s.mask.numpy() == truth).mean() > 0.99 for s, truth in zip(folder, truths))


E_ONE = unicodedata.normalize("NFC", "ente\u0301")
E_TWO = unicodedata.normalize("NFD", "ente\u0301")
NAMES = {  # how masks are called: (photograph, mask)
    "capital ending": ("p{}.jpg", "masks/p{}.PNG"),
    "capital name": ("P{}.JPG", "masks/p{}.png"),
    "capital folder": ("p{}.jpg", "Masks/p{}.png"),
    "shouted folder": ("p{}.jpg", "MASKS/p{}.png"),
    "one mask": ("p{}.jpg", "mask/p{}.png"),
    "segmentations": ("p{}.jpg", "segmentations/p{}.png"),
    "voc": ("JPEGImages/p{}.jpg", "SegmentationClass/p{}.png"),
    "images and masks": ("images/p{}.jpg", "masks/p{}.png"),
    "a split of images and masks": ("train/images/p{}.jpg", "train/masks/p{}.png"),
    "masks in a sub-folder": ("birds/p{}.jpg", "birds/masks/p{}.png"),
    "_mask": ("p{}.jpg", "masks/p{}_mask.png"),
    "-mask": ("p{}.jpg", "masks/p{}-mask.png"),
    "_Masks": ("p{}.jpg", "masks/p{}_Masks.png"),
    "_seg": ("p{}.jpg", "masks/p{}_seg.png"),
    "two endings": ("p{}.jpg", "masks/p{}.jpg.png"),
    "jpeg": ("p{}.png", "masks/p{}.jpg"),
    "bmp": ("p{}.jpg", "masks/p{}.bmp"),
    "tif": ("p{}.jpg", "masks/p{}.tif"),
    "gif": ("p{}.jpg", "masks/p{}.gif"),
    "beside": ("p{}.jpg", "p{}_mask.png"),
    "beside, in sub-folders": ("a/p{}.jpg", "a/p{}-mask.png"),
    "beside, png and png": ("p{}.png", "p{}_mask.png"),
    "twins": ("p{}.jpg", "p{}.png"),
    "accents": (E_ONE + "{}.jpg", f"masks/{E_TWO}{{}}.png"),
    "accents, the other way": (E_TWO + "{}.jpg", f"masks/{E_ONE}{{}}_mask.PNG"),
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("size", [None, 24])
def test_a_mask_is_found_where_it_is_meant(tmp_path, names, size):
    folder = Folder.open(fill(tmp_path, *names), size=size)
    assert len(folder) == 4 and folder.foreground == BESIDE and not folder.skipped
    assert fits(Folder.open(tmp_path))
    (line,) = folder.remarks()
    assert (
        "masks of 4 photographs have other names than masks/NAME.png" in line and "\n" not in line
    )
    assert folder.report().endswith(line)
    assert [p.name for p in folder.files()] == [
        Path(n.format(k)).name for n in names for k in range(4)
    ]
    assert (
        Folder.open(tmp_path, masks=False).foreground == WHOLE
        and len(Folder.open(tmp_path, masks=False)) == 4
    )


def test_the_documented_name_needs_no_word(tmp_path):
    for root in (
        fill(tmp_path / "a", "p{}.jpg", "masks/p{}.png"),
        fill(tmp_path / "b", "deep/p{}.jpg", "masks/deep/p{}.png"),
    ):
        folder = Folder.open(root)
        assert fits(folder) and folder.remarks() == [] and folder.report().count("\n") == 0
        assert folder.files() == [root / n for n in folder.names] + [
            (root / "masks" / n).with_suffix(".png") for n in folder.names
        ]


def test_the_plainest_name_wins(tmp_path):
    fill(tmp_path, "p{}.jpg", "masks/p{}.png")
    for n in range(4):
        wrong = pair(3 - n)[1]
        for name in (f"p{n}_mask.png", f"P{n}.PNG", f"p{n}.bmp", f"p{n}.jpg.png"):
            wrong.save(tmp_path / "masks" / name)
    folder = Folder.open(tmp_path)
    assert fits(folder) and folder.remarks() == [
        "masks/: 16 pictures are the mask of no photograph (the first is masks/p0.bmp)."
    ]


def test_names_that_differ_in_case_only(tmp_path):
    if (tmp_path / "A").mkdir() or (tmp_path / "a").exists():
        pytest.skip("this file system does not tell cases apart")
    for n, letter in enumerate("pP"):
        image, mask = pair(n)
        image.save(tmp_path / f"{letter}.jpg")
        (tmp_path / "masks").mkdir(exist_ok=True)
        mask.save(tmp_path / "masks" / f"{letter}.PNG")
    masks = {s.name: s.mask.numpy() for s in Folder.open(tmp_path)}
    for n, letter in enumerate("pP"):
        assert (masks[f"{letter}.jpg"] == (np.asarray(pair(n)[1]) > 127)).all()


def test_masks_of_photographs_that_share_a_stem(tmp_path):
    for n, ending in enumerate(("jpg", "png")):
        image, mask = pair(n)
        image.save(tmp_path / f"cat.{ending}")
        (tmp_path / "masks").mkdir(exist_ok=True)
        mask.save(tmp_path / "masks" / f"cat.{ending}.png")
    first, second = Folder.open(tmp_path)
    assert (first.mask.numpy() == (np.asarray(pair(0)[1]) > 127)).all() and (
        second.mask.numpy() == (np.asarray(pair(1)[1]) > 127)
    ).all()


def test_what_is_not_plain_is_refused(tmp_path):
    fill(tmp_path, "p{}.jpg", "masks/p{}.gif")
    pair(1)[1].save(tmp_path / "masks" / "p1.bmp")
    with pytest.raises(
        InputError, match=r"has 2 masks for p1.jpg: masks/p1.\w+ and masks/p1.\w+; keep one.$"
    ):
        Folder.open(tmp_path)


@pytest.mark.parametrize(
    "mask, wanted",
    [
        ("Masks/p{}.png", "Masks/p3.png"),
        ("p{}_mask.png", "p3_mask.png"),
        ("masks/p{}_mask.png", "masks/p3.png"),
    ],
)
def test_masks_for_some_are_refused(tmp_path, mask, wanted):
    fill(tmp_path, "p{}.jpg", mask)
    (tmp_path / mask.format(3)).unlink()
    with pytest.raises(
        InputError,
        match=f"for 3 of 4 photographs; the first without one is p3.jpg, so add .*/{wanted}",
    ):
        Folder.open(tmp_path)


def test_masks_of_other_photographs_are_mentioned(tmp_path):
    fill(tmp_path, "p{}.jpg", "masks/q{}.png")
    folder = Folder.open(tmp_path)
    assert folder.foreground == WHOLE and len(folder) == 4
    assert folder.remarks() == [
        "masks/ holds no PNG with the name of a photograph, or was left unread: there are no masks"
    ]
    fill(tmp_path / "own", "p{}.jpg", "masks/p{}.png")
    pair(0)[1].save(tmp_path / "own" / "masks" / "lost.png")
    assert Folder.open(tmp_path / "own").remarks() == [
        "masks/: 1 picture is the mask of no photograph (the first is masks/lost.png)."
    ]


def test_pictures_of_masks_are_photographs(tmp_path):
    "A name alone makes no mask: a photograph of carnival is one, with and without its twin."
    fill(tmp_path / "a")
    pair(2)[0].save(tmp_path / "a" / "p0_mask.jpg")
    pair(3)[0].save(tmp_path / "a" / "venice_mask.png")
    pair(1)[0].save(tmp_path / "a" / "p1.png")
    assert len(Folder.open(tmp_path / "a")) == 7 and Folder.open(tmp_path / "a").remarks() == []
    fill(tmp_path / "b", "Mask/p{}.jpg")
    folder = Folder.open(tmp_path / "b")
    assert len(folder) == 4 and folder.remarks() == [
        "Mask/ fits no photograph, so its 4 pictures are taken for photographs."
    ]
    fill(tmp_path / "c", "p{}.jpg", "segmentation/q{}.png")
    folder = Folder.open(tmp_path / "c")
    assert (
        len(folder) == 4
        and "segmentation/ holds no PNG with the name of a photograph" in folder.remarks()[0]
    )


def test_two_folders_of_masks(tmp_path):
    fill(tmp_path, "JPEGImages/p{}.jpg", "SegmentationClass/p{}.png")
    fill(tmp_path, "", "SegmentationObject/p{}.png")
    folder = Folder.open(tmp_path)
    assert (
        fits(folder)
        and folder.remarks()[0]
        == "SegmentationObject/ is left aside: the masks are taken from SegmentationClass."
    )


def shown(tmp_path: Path, change) -> list[str]:
    fill(tmp_path, "p{}.jpg", "masks/p{}.png")
    for n in range(4):
        path = tmp_path / "masks" / f"p{n}.png"
        change(n, Image.open(path)).save(path)
    return Folder.open(tmp_path, size=24).remarks()


def constant(value: int):
    return lambda n, mask: Image.new("L", mask.size, value)


def test_useless_masks_are_said(tmp_path):
    assert shown(tmp_path / "white", constant(255)) == [
        "masks/: all masks cover the whole picture everywhere."
    ]
    assert (
        "masks/: 1 of 4 masks is empty (black)"
        in shown(tmp_path / "one", lambda n, m: m if n else constant(0)(n, m))[0]
    )
    (line,) = shown(
        tmp_path / "pets",
        lambda n, m: Image.fromarray(np.where(np.array(m) > 0, 1, 2).astype(np.uint8)),
    )
    assert line.startswith("masks/: all masks are trimaps") and fits(Folder.open(tmp_path / "pets"))
    (line,) = shown(
        tmp_path / "photographs", lambda n, m: pair(n)[0].resize((W, H)).effect_spread(9)
    )
    assert line == "masks/: all masks look like photographs."
    with pytest.raises(
        InputError,
        match=r"masks: all 4 masks are empty \(black\), so no photograph has an object; draw",
    ):
        shown(tmp_path / "black", constant(0))


UNREAD = [
    (["a.HEIC"] * 1, ["1 HEIC file was not read: export it as JPEG."]),
    (
        ["a.heic", "b.HEIC", "c.avif"],
        ["1 AVIF and 2 HEIC files were not read: export them as JPEG."],
    ),
    (
        ["a.NEF", "b.cr2", "c.dng"],
        ["1 CR2, 1 DNG and 1 NEF files were not read: develop them as JPEG."],
    ),
    (
        ["a.pdf", "b.mov"],
        [
            "1 PDF file was not read: export its pages as PNG.",
            "1 MOV file was not read: save frames of it as PNG.",
        ],
    ),
    (["notes.txt", "x.json", "noending"], []),
    (
        ["@eaDir/p0.jpg/THUMB_M.jpg", "__MACOSX/._p0.jpg", "._p1.jpg", ".thumbnails/large/1.png"],
        ["4 thumbnails or system's copies of pictures left out (the first is ._p1.jpg)."],
    ),
    (["@eaDir/p0.jpg/index.xml", "Thumbs.db", ".DS_Store"], []),
]


@pytest.mark.parametrize("names, lines", UNREAD)
def test_photographs_that_are_passed_over_are_counted(tmp_path, names, lines):
    fill(tmp_path)
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic")
    folder = Folder.open(tmp_path)
    assert sorted(folder.remarks()) == sorted(lines) and len(folder) == 4 and not folder.skipped
    assert find_pictures(tmp_path).remarks() == folder.remarks()


def test_a_folder_of_nothing_but_heic(tmp_path):
    for n in range(3):
        (tmp_path / f"IMG_{n}.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(
        InputError,
        match=(
            "holds no photograph; looked for .*; 3 HEIC files were not read: export them as JPEG.$"
        ),
    ):
        Folder.open(tmp_path)


def test_pictures_of_this_book_are_no_photographs(tmp_path):
    fill(tmp_path, "p{}.png")
    about = PngInfo()
    about.add_text("Software", "partbook 0.1")
    for name in ("parts.png", "out/p0_overlay.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pair(0)[0].save(tmp_path / name, pnginfo=about)
    folder = Folder.open(tmp_path)
    assert folder.names == [f"p{n}.png" for n in range(4)]
    assert folder.remarks() == [
        "2 pictures made by partbook left out (the first is out/p0_overlay.png)."
    ]
    fill(tmp_path, "", "masks/p{}.png")  # masks may well be of its making
    for path in (tmp_path / "masks").iterdir():
        Image.open(path).save(path, pnginfo=about)
    assert fits(Folder.open(tmp_path))


def test_masks_keep_to_the_photographs_header(tmp_path, monkeypatch):
    "A mask of another size is refused before anything of it is decoded."
    fill(tmp_path, "p{}.jpg", "masks/p{}.png")
    Image.new("L", (W + 1, H), 255).save(tmp_path / "masks" / "p0.png")
    monkeypatch.setattr(chapter, "seen_mask", lambda *a, **k: 1 / 0)
    with pytest.raises(
        InputError, match="p0.png is 65x48 pixels, but its photograph p0.jpg is 64x48"
    ):
        Folder.open(tmp_path)


def test_a_lying_photograph_has_a_lying_mask(tmp_path):
    note = Image.Exif()
    note[0x0112] = 8
    (tmp_path / "masks").mkdir()
    image, mask = pair(1)
    image.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "p1.jpg", exif=note)
    mask.save(tmp_path / "masks" / "p1.png")
    assert fits(Folder.open(tmp_path))
    mask.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "masks" / "p1.png", exif=note)
    assert fits(Folder.open(tmp_path))


def test_soft_maps_with_other_names(tmp_path):
    fill(tmp_path, "p{}.jpg", "Saliency/p{}.PNG")
    folder = Folder.open(tmp_path)
    assert folder.foreground == "saliency beside the photographs" and fits(folder)
    assert (
        "soft maps of 4 photographs have other names than saliency/NAME.png" in folder.remarks()[0]
    )


@pytest.mark.parametrize(
    "root, said",
    [
        ("", "is empty"),
        ("x" * 300, "cannot be looked at"),
        ("a\0b", "zero byte"),
        ("~nobody-of-this-name/a", "no such user"),
    ],
)
def test_roots_that_are_no_paths(root, said):
    for entry in (Folder.open, find_pictures):
        with pytest.raises(InputError, match=said):
            entry(root)
    assert not Folder.present(root)


def test_names_in_odd_bytes_are_shown(tmp_path):
    odd = os.fsdecode(b"\xff")
    try:
        fill(tmp_path / odd, "p{}.jpg", "masks/p{}.png", 2)
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    (tmp_path / odd / f"{odd}.jpg").write_text("no picture")
    folder = Folder.open(tmp_path / odd)
    assert fits(folder) and r"skipped \xff.jpg: it is a text file" in folder.report()
    pair(0)[0].save(tmp_path / odd / f"{odd}.jpg")
    with pytest.raises(InputError, match=r"the first without one is \\xff.jpg"):
        Folder.open(tmp_path / odd)


def test_files_of_cub(tmp_path):
    root = write_cub_fixture(tmp_path / "CUB_200_2011", masks=True)
    cub = CUB.open(root, "test")
    files = cub.files()
    assert all(path.is_file() for path in files) and len(files) == 2 * len(cub) + 7
    assert (
        [p.stem for p in files[: len(cub)]]
        == [p.stem for p in files[len(cub) : 2 * len(cub)]]
        == [Path(s.name).stem for s in cub]
    )
    assert cub.remarks() == [] and len(CUB.open(root, "all").files()) == 2 * 8 + 7
    for path in files[len(cub) : 2 * len(cub)]:
        Image.new("L", Image.open(path).size, 0).save(path)
    assert (
        cub.remarks() == ["segmentations/: all masks are empty (black): they have no object."]
        and not cub[0].mask.any()
    )


def test_masks_of_one_in_cub(tmp_path):
    "Masks of another program are 0 and 1, or cut out; a majority of white means the same there."
    root = write_cub_fixture(tmp_path / "CUB_200_2011", masks=True)
    cub = CUB.open(root, "all")
    for n, path in enumerate(cub.files()[len(cub) : 2 * len(cub)]):
        before = cub[n].mask
        Image.fromarray(before.numpy().astype(np.uint8)).save(path)
        assert torch.equal(cub[n].mask, before) and before.any()
        Image.fromarray((~before).numpy()).convert("RGB").quantize(2).save(path)
        assert torch.equal(cub[n].mask, ~before)


def test_files_of_deepfashion(tmp_path):
    root = write_deepfashion_fixture(tmp_path / "In-shop")
    plain, predicted = (
        DeepFashion.open(root, "query"),
        DeepFashion.open(root, "query", masks="predicted"),
    )
    for collection, kinds in ((plain, 2), (predicted, 3)):
        files = collection.files()
        assert len(files) == kinds * len(collection) + 3 and all(path.is_file() for path in files)
        assert [str(p).endswith(s.name) for p, s in zip(files, collection)] == [True] * len(
            collection
        )
    assert plain.remarks() == predicted.remarks() == []
    masks = predicted.files()[2 * len(predicted) : 3 * len(predicted)]
    before = [s.mask for s in predicted]
    for path in masks:
        Image.open(path).point(lambda v: v // 255).save(path)
    assert all(torch.equal(s.mask, mask) for s, mask in zip(predicted, before))
    for path in masks:
        Image.new("L", Image.open(path).size, 255).save(path)
    assert predicted.remarks() == [
        "supervisedlabels/: all masks cover the whole picture everywhere."
    ]
