"""DeepFashion, on drawn figures in its layout: what is read, and one sentence for each damage.

No real file of it was at hand.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import message
from painters.deepfashion import write_deepfashion_fixture
from PIL import Image

from partbook.core import InputError
from partbook.data.sample import Sample, batches, collections
from partbook.readers import deepfashion as module
from partbook.readers.deepfashion import (
    COLOURS,
    GROUPS,
    NAMES,
    STATUS,
    DeepFashion,
    fitted,
    labels_of,
    read_items,
    read_parsing,
    read_partition,
    segment_name,
    view_of,
)

PALETTE = np.array(list(COLOURS.values()), dtype=np.uint8)
LIST, ITEMS = "Eval/list_eval_partition.txt", "Anno/list_item_inshop.txt"
COCO = "Anno/segmentation/DeepFashion_segmentation_{}.json".format
IMAGES = "Anno/segmentation/img_highres"


@pytest.fixture(scope="module")
def figures(tmp_path_factory) -> Path:
    return write_deepfashion_fixture(tmp_path_factory.mktemp("figures") / "In-shop")


@pytest.fixture
def root(figures, tmp_path) -> Path:
    "A copy, to be damaged."
    return Path(shutil.copytree(figures, tmp_path / "In-shop"))


@pytest.fixture
def plain(root) -> Path:
    "A copy without the COCO files, so that the partition tells what was parsed."
    for status in STATUS:
        (root / COCO(status)).unlink()
    return root


def first(root: Path) -> Path:
    "The first photograph."
    return root / IMAGES / DeepFashion.open(root, "all").entries[0].path


# ------------------------------------------------------------------------------------------ colours


def test_the_published_table():
    assert collections["deepfashion"] is DeepFashion and len(COLOURS) == 16 == len(
        set(COLOURS.values())
    )
    assert (COLOURS["top"], COLOURS["pants"], COLOURS["hair"], COLOURS["face"]) == (
        (255, 250, 250),
        (255, 140, 0),
        (211, 211, 211),
        (245, 222, 179),
    )
    assert (NAMES[0], NAMES[4], NAMES[14]) == ("background", "dress", "skin")
    table = (
        "0-0-0 255-250-250 250-235-215 70-130-180 16-78-139 255-250-205 255-140-0 50-205-50 "
        "220-220-220 255-0-0 127-255-212 0-100-0 255-255-0"
    )
    assert [
        "-".join(map(str, c)) for c in COLOURS.values()
    ] == f"{table} 211-211-211 144-238-144 245-222-179".split()


def test_every_colour_has_its_label():
    picture = np.random.default_rng(0).integers(0, 16, (9, 7))
    assert (
        np.array_equal(labels_of(PALETTE[picture]), picture)
        and labels_of(PALETTE[picture]).dtype == np.int64
    )


@pytest.mark.parametrize(
    "colour, near, expected",
    [
        (
            (0, 0, 1),
            0,
            "pixel (2, 1) has colour (0, 0, 1), which is none of the sixteen; "
            "the nearest is background (0, 0, 0) at a distance of 1",
        ),
        (
            (0, 0, 255),
            0,
            "has colour (0, 0, 255), which is none of the sixteen; the nearest is dress",
        ),
        ((210, 211, 211), 0, "the nearest is hair (211, 211, 211) at a distance of 1"),
        (
            (221, 220, 220),
            0.9,
            "at a distance of 1, so fetch the original PNG again, or allow more than near=0.9",
        ),
        ((128, 125, 125), 50, "none of the sixteen"),
    ],
)
def test_unknown_colours(colour, near, expected):
    picture = PALETTE[np.full((3, 4), 2)]
    picture[1, 2] = colour
    with pytest.raises(InputError) as error:
        labels_of(picture, near, "a.png")
    assert expected in message(error) and str(error.value).startswith("a.png: pixel (2, 1)")


def test_several_unknown_colours_are_counted():
    picture = PALETTE[np.zeros((4, 4), dtype=int)]
    picture[3, 1:] = (1, 2, 3)
    picture[2, 3] = (9, 9, 9)
    with pytest.raises(
        InputError, match=r"pixel \(3, 2\) has colour \(9, 9, 9\).*\(2 such colours on 4 pixels\)"
    ):
        labels_of(picture)
    with pytest.raises(
        InputError,
        match=(
            r"pixel \(3, 2\) has colour \(9, 9, 9\), which is none of the sixteen; "
            r".* at a distance of 16"
        ),
    ):
        labels_of(picture, near=4)
    assert not labels_of(picture, near=16).any()


def test_near_takes_the_nearest():
    noise = np.random.default_rng(1).integers(-4, 5, (16, 3))
    assert np.array_equal(
        labels_of((PALETTE.astype(int) + noise).clip(0, 255).astype(np.uint8)[None], near=7)[0],
        np.arange(16),
    )
    greys = np.array([[[215, 215, 215], [216, 216, 216]]], dtype=np.uint8)
    assert labels_of(greys, near=9).tolist() == [[NAMES.index("hair"), NAMES.index("neckwear")]]


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_kinds_of_png(tmp_path, mode):
    labels = np.arange(16).repeat(6).reshape(8, 12)
    picture = Image.fromarray(PALETTE[labels])
    (picture.quantize(16, dither=Image.Dither.NONE) if mode == "P" else picture.convert(mode)).save(
        tmp_path / "a.png"
    )
    assert np.array_equal(read_parsing(tmp_path / "a.png"), labels)


def spoil(how):
    "A change to a parsing's file."

    def change(path: Path) -> None:
        with Image.open(path) as image:
            picture = image.convert("RGB")
        how(path, picture)

    return change


def transparent(path, picture):
    picture.putalpha(
        Image.fromarray(
            (np.arange(picture.width * picture.height).reshape(picture.height, -1) > 2).astype(
                np.uint8
            )
            * 255
        )
    )
    picture.save(path)


def lossy(path, picture):
    picture.save(path.with_suffix(".jpg"), quality=80)
    Image.open(path.with_suffix(".jpg")).save(path)


PARSINGS = [
    (
        "truncated",
        lambda p: p.write_bytes(p.read_bytes()[:200]),
        "the file is truncated or damaged",
    ),
    ("empty", lambda p: p.write_bytes(b""), "the file is empty (0 bytes)"),
    ("page", lambda p: p.write_bytes(b"<html>"), "it is a web page or a drawing"),
    ("lossy", spoil(lossy), "which is none of the sixteen"),
    ("transparent", spoil(transparent), "is transparent at 3 pixels"),
    (
        "labels",
        spoil(lambda p, i: Image.fromarray(np.full(i.size[::-1], 7, dtype=np.uint8)).save(p)),
        "has colour (7, 7, 7), which is none of the sixteen",
    ),
    (
        "deep",
        spoil(lambda p, i: Image.fromarray(np.full(i.size[::-1], 700, dtype=np.uint16)).save(p)),
        "holds numbers of kind I;16, not colours",
    ),
    (
        "smaller",
        spoil(lambda p, i: i.resize((54, 80), Image.Resampling.NEAREST).save(p)),
        "is 54x80 pixels, but its photograph is 108x160; take both from img_highres_seg.zip",
    ),
    (
        "smoothed",
        spoil(lambda p, i: i.resize((54, 80)).resize(i.size).save(p)),
        "which is none of the sixteen",
    ),
]


@pytest.mark.parametrize(
    "damage, expected", [row[1:] for row in PARSINGS], ids=[row[0] for row in PARSINGS]
)
def test_damaged_parsings(root, damage, expected):
    damage(root / IMAGES / segment_name(DeepFashion.open(root, "all").entries[0].path))
    figures = DeepFashion.open(root, "all")
    with pytest.raises(InputError) as error:
        figures[0]
    assert expected in message(error) and "01_1_front_segment.png" in str(error.value)
    if "transparent" not in expected:
        with pytest.raises(InputError):
            figures.counts()


# ------------------------------------------------------------------------------------- what is read


def test_splits(figures):
    sizes = {split: len(DeepFashion.open(figures, split)) for split in DeepFashion.splits}
    assert sizes == {"train": 3, "test": 6, "query": 3, "gallery": 3, "all": 9}
    test = DeepFashion.open(figures, "test")
    assert {test.entries[n].status for n in test.rows} == {"query", "gallery"}
    items = {status: {e.item for e in test.entries if e.status == status} for status in STATUS}
    assert (
        items["train"].isdisjoint(items["query"] | items["gallery"])
        and items["query"] == items["gallery"]
    )


def test_counts(figures):
    counts = DeepFashion.open(figures, "train").counts()
    assert (
        counts["parsed images"] == 9
        and counts["test"] == 6
        and counts["test, published"] == 6922
        and counts["parts"] == 15
    )
    assert (
        counts["train, listed (of 25882)"] == 4
        and counts["query, listed (of 14218)"] == counts["gallery, listed (of 12612)"] == 3
    )
    assert (
        counts["items"] == 4
        and counts["parsings without foreground"] == 0
        and counts["kinds of garment"] == 3
    )
    assert DeepFashion.open(figures, "train", parts="four").counts()["parts"] == 4


def test_the_published_numbers():
    assert module.EXPECTED == {
        "train": 25882,
        "query": 14218,
        "gallery": 12612,
        "test, parsed": 6922,
    }


def test_a_full_partition_is_held_against_them(figures, monkeypatch):
    monkeypatch.setattr(
        module, "EXPECTED", {"train": 4, "query": 3, "gallery": 3, "test, parsed": 6}
    )
    DeepFashion.open(figures).counts()
    monkeypatch.setattr(
        module, "EXPECTED", {"train": 3, "query": 4, "gallery": 3, "test, parsed": 6}
    )
    with pytest.raises(InputError, match="expected .*'query': 4.*, found .*'query': 3"):
        DeepFashion.open(figures).counts()


def test_samples(figures):
    kinds = set()
    for s in DeepFashion.open(figures, "all"):
        assert (
            s.image.shape[1:] == s.parts.shape == s.mask.shape
            and torch.equal(s.mask, s.parts > 0)
            and s.mask.any()
            and not s.mask.all()
        )
        assert s.landmarks is None and s.box is None and int(s.parts.max()) <= 15
        kinds |= set(s.parts.unique().tolist())
    assert (
        len(kinds) >= 9
        and {0, NAMES.index("face"), NAMES.index("skin"), NAMES.index("footwear")} <= kinds
    )


def test_four_groups(figures):
    fifteen, four = DeepFashion.open(figures, "all"), DeepFashion.open(figures, "all", parts="four")
    assert four.part_names == tuple(GROUPS) and fifteen.part_names == NAMES[1:]
    for s, t in zip(fifteen, four):
        assert torch.equal(s.mask, t.mask)
        for g, names in enumerate(GROUPS.values(), 1):
            assert torch.equal(
                t.parts == g, torch.isin(s.parts, torch.tensor([NAMES.index(n) for n in names]))
            )
    assert (
        GROUPS["skin"] == ("face", "skin")
        and "dress" in GROUPS["upper garment"]
        and "skirt" in GROUPS["lower garment"]
    )


def test_both_ways_to_know_what_was_parsed(figures, plain):
    listed, partition = DeepFashion.open(figures, "all"), DeepFashion.open(plain, "all")
    assert (
        set(listed.entries) == set(partition.entries)
        and listed.lists == "the COCO files"
        and "01_6_flat" not in str(partition.entries)
    )


def test_predicted_masks(figures, root):
    true, predicted = (
        DeepFashion.open(figures, "all"),
        DeepFashion.open(figures, "all", masks="predicted"),
    )
    assert (
        true.foreground == "true masks (the parsing)"
        and predicted.foreground == "predicted masks (supervisedlabels/)"
    )
    for s, t in zip(true, predicted):
        assert (
            torch.equal(s.parts, t.parts)
            and 0 < t.mask.sum() < s.mask.sum()
            and not (t.mask & ~s.mask).any()
        )
    path = root / "supervisedlabels" / "img_highres" / f"{true.entries[0].path}.png"
    Image.new("L", (10, 10)).save(path)
    for run in (
        lambda: DeepFashion.open(root, "all", masks="predicted")[0],
        lambda: DeepFashion.open(root, "all", masks="predicted").counts(),
    ):
        with pytest.raises(InputError, match="is 10x10 pixels"):
            run()
    path.unlink()
    with pytest.raises(InputError, match="lacks 1 of the 9 predicted masks"):
        DeepFashion.open(root, "all", masks="predicted")
    assert len(DeepFashion.open(root, "all")) == 9


def test_views(figures):
    assert (
        view_of("MEN/Denim/id_1/02_4_full.jpg") == "full"
        and view_of("a/02_7_additional.jpg") == "additional"
    )
    full = DeepFashion.open(figures, "all", views="full")
    others = DeepFashion.open(figures, "all", views=["front", "side", "back", "additional"])
    assert {view_of(s.name) for s in full} == {"full"} and len(full) + len(others) == 9
    with pytest.raises(
        InputError,
        match="no photograph with view 'flat'; there are: additional, back, front, full, side",
    ):
        DeepFashion.open(figures, views=("flat",))


def test_categories(figures):
    figures = DeepFashion.open(figures, "all")
    for s in figures:
        assert s.name.startswith(figures.category_names[s.category] + "/")


def test_an_empty_parsing_is_counted(root):
    path = root / IMAGES / segment_name(DeepFashion.open(root, "all").entries[0].path)
    Image.new("RGB", (108, 160)).save(path)
    figures = DeepFashion.open(root, "all")
    assert figures.counts()["parsings without foreground"] == 1 and not figures[0].mask.any()


def test_near_for_a_whole_collection(root):
    path = root / IMAGES / segment_name(DeepFashion.open(root, "all").entries[0].path)
    original = read_parsing(path)
    Image.fromarray((PALETTE[original.numpy()].astype(int) + 2).clip(0, 255).astype(np.uint8)).save(
        path
    )
    with pytest.raises(InputError, match="none of the sixteen"):
        DeepFashion.open(root, "all")[0]
    repaired = DeepFashion.open(root, "all", near=5)
    assert torch.equal(repaired[0].parts, original) and repaired.counts()["parsed images"] == 9


# ----------------------------------------------------------------------------------------- geometry


def ramp(H, W) -> Sample:
    parts = torch.zeros(H, W, dtype=torch.int64)
    parts[:, W // 2 :] = 3
    return Sample(
        torch.arange(W).div(W).expand(3, H, W).contiguous(), "ramp", parts=parts, mask=parts > 0
    )


@pytest.mark.parametrize(
    "H, W, size, h, w",
    [
        (160, 108, 64, 64, 43),
        (108, 160, 64, 43, 64),
        (50, 50, 64, 64, 64),
        (1101, 750, 256, 256, 174),
        (3, 900, 64, 1, 64),
    ],
)
def test_padding(H, W, size, h, w):
    s = fitted(ramp(H, W), size)
    top, left = (size - h) // 2, (size - w) // 2
    assert s.size == (size, size) and s.parts.shape == s.mask.shape == (size, size)
    inner = torch.zeros(size, size, dtype=torch.bool)
    inner[top : top + h, left : left + w] = True
    assert (
        not s.parts[~inner].any() and not s.mask[~inner].any() and torch.equal(s.mask, s.parts > 0)
    )
    assert int((s.parts[top] > 0).sum()) in (w - w // 2, w // 2)
    assert torch.equal(s.image[:, :, 0], s.image[:, :, left]) and torch.equal(
        s.image[:, 0], s.image[:, top]
    )
    assert torch.equal(s.image[:, -1], s.image[:, top + h - 1])


def test_other_fits(figures):
    assert fitted(ramp(160, 108), 54, "short").size == (80, 54) and fitted(
        ramp(108, 160), 54, "short"
    ).size == (54, 80)
    assert (
        fitted(ramp(160, 108), 54, "stretch").size == (54, 54)
        and (fitted(ramp(160, 108), 54, "stretch").parts > 0).sum() == 54 * 27
    )
    batch = next(batches(DeepFashion.open(figures, "all", size=48), 9))
    assert (
        batch.images.shape == (9, 3, 48, 48)
        and batch.parts.shape == (9, 48, 48)
        and batch.categories.shape == (9,)
    )


# -------------------------------------------------------------------------------------------- lists


def line(number, text):
    def change(content):
        lines = content.splitlines()
        lines[number - 1 : number] = [] if text is None else [text]
        return "\n".join(lines) + "\n"

    return change


FORM = "fields, not the 3 of <image name> <item id> <train, query or gallery>"
LISTS = [
    (
        LIST,
        line(1, "image_name item_id"),
        "line 1: 'image_name item_id' should be the number of images",
    ),
    (LIST, line(1, "11"), "announces 11 images in line 1, but lists 10"),
    (
        LIST,
        line(2, "image item status"),
        "line 2: should read 'image_name item_id evaluation_status'",
    ),
    (LIST, line(3, "img/WOMEN/a.jpg id_1"), "line 3: 'img/WOMEN/a.jpg id_1' has 2 " + FORM),
    (
        LIST,
        line(3, "img/WOMEN/a b.jpg id_1 train"),
        "line 3: 'img/WOMEN/a b.jpg id_1 train' has 4 " + FORM,
    ),
    (LIST, line(3, "img/WOMEN/a.jpg id_1 val"), "line 3: 'val' is not train, query or gallery"),
    (
        LIST,
        line(3, "../WOMEN/a.jpg id_1 train"),
        "line 3: '../WOMEN/a.jpg' is not a photograph below img/ or img_highres/",
    ),
    (
        LIST,
        line(3, "img/../../a.jpg id_1 train"),
        "line 3: 'img/../../a.jpg' is not a photograph below",
    ),
    (LIST, line(3, "/img/a.jpg id_1 train"), "'/img/a.jpg' is not a photograph below"),
    (LIST, line(3, "img/a.png id_1 train"), "'img/a.png' is not a photograph below"),
    (
        LIST,
        lambda t: line(3, t.splitlines()[3])(t),
        "stands here for the second time, first in line 3; remove one of the two",
    ),
    (
        LIST,
        lambda t: line(3, t.splitlines()[2].replace("id_00000001 ", "id_00000002 "))(t),
        "is in train and in query",
    ),
    (LIST, lambda t: "", "line 1: '' should be the number of images"),
    (
        LIST,
        lambda t: "3\nimage_name item_id evaluation_status\n",
        "announces 3 images in line 1, but lists 0",
    ),
    (
        LIST,
        None,
        "list_eval_partition.txt is missing; it belongs to DeepFashion's in-shop benchmark",
    ),
    (LIST, b"\xff\xfe1\x00", "is not a text file (byte 0 is not UTF-8)"),
]


@pytest.mark.parametrize(
    "name, change, expected", LISTS, ids=[f"{n:02d}" for n in range(len(LISTS))]
)
def test_damaged_partition(plain, name, change, expected):
    path = plain / name
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change if isinstance(change, bytes) else change(path.read_text()).encode())
    with pytest.raises(InputError) as error:
        DeepFashion.open(plain, "all")
    assert expected in message(error)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace("\n", "\r\n"),
        lambda t: t.rstrip(),
        lambda t: "\ufeff" + t,
        lambda t: t + "\n  \n",
        lambda t: t.replace(" ", "\t"),
    ],
    ids=["windows", "no last end", "mark", "blank", "tabs"],
)
def test_harmless_partition(figures, plain, change):
    path = plain / LIST
    path.write_bytes(change(path.read_text()).encode())
    assert set(DeepFashion.open(plain, "all").entries) == set(
        DeepFashion.open(figures, "all").entries
    )


JSON = [
    ("train", lambda t: t[: len(t) // 2], "is not a JSON file"),
    ("query", lambda t: "", "is not a JSON file"),
    ("gallery", lambda t: "[]", "has no list 'images'"),
    ("train", lambda t: t.replace('"images"', '"pictures"'), "has no list 'images'"),
    ("train", lambda t: '{"images": []}', "has no list 'images'"),
    (
        "train",
        lambda t: t.replace('"file_name"', '"name"', 1),
        "image 0 of 'images' has no file_name",
    ),
    ("train", lambda t: '{"images": [5]}', "image 0 of 'images' has no file_name"),
    ("train", lambda t: t.replace("img_highres/", "/", 1), "is not a photograph below"),
    (
        "train",
        lambda t: t.replace("img_highres/", "img_highres/../", 1),
        "is not a photograph below",
    ),
    (
        "train",
        lambda t: json.dumps({"images": json.loads(t)["images"][:1] * 2}),
        "an image stands there twice",
    ),
    (
        "train",
        lambda t: t.replace("/01_1_front", "/77_1_front"),
        "lacks 1 of the 9 photographs of the COCO files, the first is "
        "WOMEN/Dresses/id_00000001/77_1_front.jpg",
    ),
    (
        "query",
        lambda t: t.replace("id_00000002", "id_00000001"),
        "item id_00000001 is in train and in query",
    ),
    ("train", lambda t: '{"a":' * 100000, "is not a JSON file"),
]


@pytest.mark.parametrize(
    "status, change, expected", JSON, ids=[f"{n:02d}" for n in range(len(JSON))]
)
def test_damaged_coco(root, status, change, expected):
    path = root / COCO(status)
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError) as error:
        DeepFashion.open(root, "all")
    assert expected in message(error)


@pytest.mark.parametrize(
    "name, change, expected",
    [
        (ITEMS, line(1, "many"), "line 1: 'many' should be the number of items"),
        (ITEMS, line(1, "9"), "announces 9 items in line 1, but lists 5"),
        (
            ITEMS,
            lambda t: t.replace("id_00000099", "id_00000098"),
            "item id_00000099 is not in list_item_inshop.txt",
        ),
        (
            LIST,
            lambda t: t.replace(" query", " gallery", 1),
            "in gallery, but the COCO files in query",
        ),
        (
            LIST,
            line(3, "img/MEN/Denim/id_00000001/x.jpg id_00000001 train"),
            "in no split, but the COCO files in train",
        ),
    ],
)
def test_lists_that_disagree(root, name, change, expected):
    path = root / name
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError) as error:
        DeepFashion.open(root, "all").counts()
    assert expected in message(error)


def test_lists_that_are_not_there_are_not_needed(root):
    (root / ITEMS).unlink()
    (root / LIST).unlink()
    counts = DeepFashion.open(root, "all").counts()
    assert counts["parsed images"] == 9 and not any("listed" in what for what in counts)


def test_small_readers(figures):
    assert (
        read_items(figures / ITEMS) == sorted({e.item for e in read_partition(figures / LIST)})
        and len(read_partition(figures / LIST)) == 10
    )
    assert segment_name("MEN/a.b/02_1_front.jpg") == "MEN/a.b/02_1_front_segment.png"


# -------------------------------------------------------------------------------- files and options


def test_missing_files(root):
    path = first(root)
    path.unlink()
    with pytest.raises(InputError, match="lacks 1 of the 9 photographs"):
        DeepFashion.open(root)
    shutil.rmtree(root / IMAGES)
    with pytest.raises(InputError) as error:
        DeepFashion.open(root)
    assert "has no folder Anno/segmentation/img_highres" in message(
        error
    ) and "img_highres_seg.zip" in str(error.value)


def test_a_missing_parsing(root):
    path = root / IMAGES / segment_name(DeepFashion.open(root, "all").entries[0].path)
    path.unlink()
    with pytest.raises(InputError, match="lacks 1 of the 9 parsings"):
        DeepFashion.open(root)
    for status in STATUS:
        (root / COCO(status)).unlink()
    assert len(DeepFashion.open(root, "all")) == 8  # by the partition, it was never parsed


def test_a_small_photograph(root):
    path = first(root)
    Image.open(path).resize((54, 80)).save(path)
    figures = DeepFashion.open(root, "all")
    for run in (lambda: figures[0], figures.counts):
        with pytest.raises(
            InputError, match="take both from img_highres_seg.zip, not the photographs from img.zip"
        ):
            run()


@pytest.mark.parametrize(
    "options, expected",
    [
        (
            {"split": "val"},
            "DeepFashion has no split 'val'; choose one of: train, test, query, gallery, all",
        ),
        ({"size": 0}, "The size is 0"),
        ({"fit": "crop"}, "There is no fit 'crop'; choose one of: pad, short, stretch"),
        ({"parts": "five"}, "There are no 'five' parts"),
        ({"masks": "soft"}, "There are no 'soft' masks"),
        ({"near": -1}, "near is -1"),
        ({"near": 500}, "near is 500"),
    ],
)
def test_options_out_of_range(figures, options, expected):
    with pytest.raises(InputError) as error:
        DeepFashion.open(figures, **options)
    assert expected in message(error)


def test_where_it_looks(figures, tmp_path, monkeypatch):
    monkeypatch.delenv("PARTBOOK_DEEPFASHION", raising=False)
    with pytest.raises(InputError) as error:
        DeepFashion.open()
    assert (
        "DeepFashion's photographs are not part of this book; fetch from DeepFashion's page"
        in message(error)
        and not DeepFashion.present()
    )
    none = "holds neither Eval/list_eval_partition.txt nor"
    for place, what in (
        (tmp_path / "none", "is not there"),
        (figures / LIST, "is a file"),
        (tmp_path, none),
    ):
        with pytest.raises(InputError) as error:
            DeepFashion.open(place)
        assert what in message(error) and not DeepFashion.present(place)
    monkeypatch.setenv("PARTBOOK_DEEPFASHION", str(figures))
    assert DeepFashion.present() and len(DeepFashion.open(split="all")) == 9 == len(
        DeepFashion.open(figures.parent, "all")
    )


def test_other_places_of_the_photographs(root):
    (root / "Img").mkdir()
    (root / IMAGES).rename(root / "Img" / "img_highres")
    assert len(DeepFashion.open(root, "all")) == 9


def test_the_same_seed_draws_the_same(figures, tmp_path):
    again = DeepFashion.open(write_deepfashion_fixture(tmp_path / "again"), "all")
    for s, t in zip(DeepFashion.open(figures, "all"), again, strict=True):
        assert torch.equal(s.image, t.image) and torch.equal(s.parts, t.parts) and s.name == t.name
    other = DeepFashion.open(write_deepfashion_fixture(tmp_path / "other", seed=1), "all")
    assert not torch.equal(other[0].parts, again[0].parts)


def test_some_of_the_three_lists_are_not_enough(tmp_path):
    root = write_deepfashion_fixture(tmp_path / "shop")
    lists = sorted((root / "Anno" / "segmentation").glob("*.json"))
    assert len(lists) == 3
    lists[0].unlink()
    with pytest.raises(
        InputError, match=f"{lists[0].name} is missing, though .* fetch all three again"
    ):
        DeepFashion.open(root)
    for path in lists[1:]:
        path.unlink()
    assert len(DeepFashion.open(root)) > 0  # by the partition list
