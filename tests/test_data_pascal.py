"""PASCAL: a drawn folder in the original layout, damage, and real photographs where they are."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from painters.pascal import write_pascal_fixture
from PIL import Image

from partbook.core import InputError
from partbook.data.sample import batches, cropped, resized
from partbook.readers.pascal import (
    CLASSES,
    COARSE,
    CONTRASTIVE,
    EXPECTED,
    PARTS,
    PASCAL,
    SCOPS,
    VOID,
    PascalObject,
    PascalPicture,
    box_iou,
    find_pascal,
    mask_box,
    part_labels,
    read_flags,
    read_indices,
    read_mat,
    read_names,
    read_segmentation,
    read_xml,
    stem,
    voc_palette,
    write_indices,
    write_mat,
    write_pascal,
)

NAME = "2008_000001"
MAT, XML, JPG = f"Annotations_Part/{NAME}.mat", f"Annotations/{NAME}.xml", f"JPEGImages/{NAME}.jpg"
KLASS, THING, TRAIN = (
    f"SegmentationClass/{NAME}.png",
    f"SegmentationObject/{NAME}.png",
    "ImageSets/Main/train.txt",
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    "Eight drawn pictures in VOC's layout; to be copied before they are damaged."
    return write_pascal_fixture(tmp_path_factory.mktemp("pascal") / "VOC2010")


@pytest.fixture
def root(drawn, tmp_path) -> Path:
    "A copy of them."
    return Path(shutil.copytree(drawn, tmp_path / "VOC2010"))


# -------------------------------------------------------------------------- damage and its sentence


def content(value: bytes | str):
    return lambda path: path.write_bytes(value.encode() if isinstance(value, str) else value)


def cut(keep: int):
    return lambda path: path.write_bytes(path.read_bytes()[:keep])


def text(change):
    return lambda path: path.write_text(change(path.read_text()))


def gone(path: Path) -> None:
    path.unlink()


def saved(**variables):
    "A .mat file with these variables instead."
    return lambda path: scipy.io.savemat(path, variables)


def edited(change):
    "A change to the first object's record (a structure of arrays), written back."

    def edit(path: Path) -> None:
        anno = scipy.io.loadmat(path)["anno"]
        record = anno["objects"][0, 0][0, 0]
        values = {f: record[f] for f in record.dtype.names}
        scipy.io.savemat(
            path,
            {
                "anno": {
                    "imname": NAME,
                    "objects": {k: v for k, v in change(values).items() if v is not None},
                }
            },
        )

    return edit


def with_part(**fields):
    return edited(lambda o: o | {"parts": fields})


def pixels(change):
    "A change to the indices of a palette image."

    def edit(path: Path) -> None:
        indices = np.array(Image.open(path))
        write_indices(path, change(indices))

    return edit


def second_object(path: Path) -> None:
    one = read_mat(path)[0]
    write_mat(path, NAME, [one, PascalObject("cow", np.ones((20, 30), bool))])


def only_empty(path: Path) -> None:
    write_mat(path, NAME, [PascalObject("horse", np.zeros((96, 128), bool))])


def as_colours(path: Path) -> None:
    Image.open(path).convert("RGB").save(path)


def smaller(path: Path) -> None:
    Image.open(path).resize((64, 48), Image.NEAREST).save(path)


def put(field, value):
    return edited(lambda o: o | {field: value})


MASK = np.zeros((96, 128), np.uint8)
MASK[10:90, 10:120] = 1
V73 = (
    b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124, b" ")
    + b"\x00\x02IM"
    + b"\x89HDF\r\n\x1a\n"
    + bytes(512)
)
MASKED, ALL, FLAGS = dict(mask="object"), dict(split="all"), "ImageSets/Main/horse_train.txt"
VOC = dict(source="voc", lists="Segmentation")
NOT_OCCLUDED = dict(without="occluded")

BAD = [  # (what, file, damage, options, the sentence; a * stands for words of another library)
    (
        "mat missing",
        MAT,
        gone,
        {},
        "{root}/Annotations_Part lacks 1 of 2 part files that are needed, "
        "the first is 2008_000001.mat; unpack PASCAL-Part again, or shorten the lists.",
    ),
    (
        "mat empty",
        MAT,
        content(b""),
        {},
        "{file} cannot be read as a MATLAB file (it is empty, 0 bytes){part}",
    ),
    (
        "mat of the header only",
        MAT,
        cut(100),
        {},
        "{file} cannot be read as a MATLAB file (*); it is truncated or something else, "
        "so unpack PASCAL-Part again.",
    ),
    (
        "mat cut after the header",
        MAT,
        cut(128),
        {},
        "{file} has no variable 'anno'; it is another file, or damaged, "
        "so unpack PASCAL-Part again.",
    ),
    (
        "mat cut early",
        MAT,
        cut(300),
        {},
        "{file} cannot be read as a MATLAB file (*); it is truncated or something else, "
        "so unpack PASCAL-Part again.",
    ),
    (
        "mat cut in the middle",
        MAT,
        lambda path: cut(path.stat().st_size // 2)(path),
        {},
        "{file} cannot be read as a MATLAB file (*); it is truncated or something else, "
        "so unpack PASCAL-Part again.",
    ),
    (
        "mat cut at the end",
        MAT,
        lambda path: cut(path.stat().st_size - 9)(path),
        {},
        "{file} cannot be read as a MATLAB file (*); it is truncated or something else, "
        "so unpack PASCAL-Part again.",
    ),
    (
        "mat is text",
        MAT,
        content("see the other folder\n" * 20),
        {},
        "{file} cannot be read as a MATLAB file (*); it is truncated or something else, "
        "so unpack PASCAL-Part again.",
    ),
    (
        "mat is a web page",
        MAT,
        content("<html>404</html>"),
        {},
        "{file} cannot be read as a MATLAB file (*); it is truncated or something else, "
        "so unpack PASCAL-Part again.",
    ),
    (
        "mat in format 7.3",
        MAT,
        content(V73),
        {},
        "{file} is a MATLAB file of version 7.3, not 5 to 7; save it again with MATLAB's "
        "option '-v7'.",
    ),
    (
        "mat without anno",
        MAT,
        saved(objects=1),
        {},
        "{file} has no variable 'anno'; it is another file, or damaged, "
        "so unpack PASCAL-Part again.",
    ),
    (
        "anno is a number",
        MAT,
        saved(anno=3.0),
        {},
        "{file}: anno is an array 1x1 of float64, not a structure with fields imname, "
        "objects{part}",
    ),
    (
        "anno is text",
        MAT,
        saved(anno="horse"),
        {},
        "{file}: anno is text, not a structure with fields imname, objects{part}",
    ),
    (
        "anno without objects",
        MAT,
        saved(anno={"imname": NAME}),
        {},
        "{file}: anno has no field objects; it needs imname, objects, so unpack PASCAL-Part again.",
    ),
    (
        "anno twice",
        MAT,
        lambda path: scipy.io.savemat(path, {"anno": scipy.io.loadmat(path)["anno"].repeat(2, 1)}),
        {},
        "{file}: anno holds 2 structures, not one{part}",
    ),
    (
        "another image's name",
        MAT,
        saved(anno={"imname": "2008_000002", "objects": []}),
        {},
        "{file} tells of image 2008_000002, not of 2008_000001; it was renamed or mixed up, "
        "so unpack PASCAL-Part again.",
    ),
    (
        "image's name is a number",
        MAT,
        saved(anno={"imname": 2008.0, "objects": []}),
        {},
        "{file}: anno.imname is 2008.0, not a name{part}",
    ),
    (
        "objects are numbers",
        MAT,
        saved(anno={"imname": NAME, "objects": [1.0, 2.0]}),
        {},
        "{file}: anno.objects is an array 1x2 of float64, not a structure with fields class, "
        "class_ind, mask, parts{part}",
    ),
    (
        "unknown class",
        MAT,
        put("class", "zebra"),
        {},
        "{file}, object 1: 'zebra' is not a class of PASCAL VOC; the classes are {classes}.",
    ),
    (
        "class in capitals",
        MAT,
        put("class", "Horse"),
        {},
        "{file}, object 1: 'Horse' is not a class of PASCAL VOC; the classes are {classes}.",
    ),
    (
        "class is a number",
        MAT,
        put("class", 13.0),
        {},
        "{file}, object 1: class is 13.0, not a name{part}",
    ),
    (
        "class counted from zero",
        MAT,
        put("class_ind", 12.0),
        {},
        "{file}, object 1: class_ind is 12, but horse is class 13 (classes are counted from 1, "
        "not from 0){part}",
    ),
    (
        "another class's number",
        MAT,
        put("class_ind", 17.0),
        {},
        "{file}, object 1: class_ind is 17, but horse is class 13{part}",
    ),
    (
        "class number is text",
        MAT,
        put("class_ind", "13"),
        {},
        "{file}, object 1: class_ind is text, not one number{part}",
    ),
    (
        "class number twice",
        MAT,
        put("class_ind", [13.0, 13.0]),
        {},
        "{file}, object 1: class_ind is an array 1x2 of float64, not one number{part}",
    ),
    (
        "no mask",
        MAT,
        put("mask", None),
        {},
        "{file}: anno.objects has no field mask; it needs class, class_ind, mask, parts, "
        "so unpack PASCAL-Part again.",
    ),
    (
        "no parts field",
        MAT,
        put("parts", None),
        {},
        "{file}: anno.objects has no field parts; it needs class, class_ind, mask, parts, "
        "so unpack PASCAL-Part again.",
    ),
    (
        "mask is empty",
        MAT,
        put("mask", np.zeros((0, 0))),
        {},
        "{file}, object 1: the mask is an array 0x0 of float64, not an array of zeros and ones "
        "of the photograph's size{part}",
    ),
    (
        "mask turned",
        MAT,
        edited(lambda o: o | {"mask": MASK.T, "parts": []}),
        MASKED,
        "{root}/JPEGImages/2008_000001.jpg is 128x96 pixels, but its masks are 96x128 (it is "
        "turned on its side){both}",
    ),
    (
        "mask of another size",
        MAT,
        edited(lambda o: o | {"mask": MASK[:48, :64], "parts": []}),
        MASKED,
        "{root}/JPEGImages/2008_000001.jpg is 128x96 pixels, but its masks are 64x48{both}",
    ),
    (
        "masks of two sizes",
        MAT,
        second_object,
        {},
        "{file}, object 2: the mask is 30x20 pixels, but others of the file 128x96{part}",
    ),
    (
        "mask of colours",
        MAT,
        put("mask", np.ones((96, 128, 3))),
        {},
        "{file}, object 1: the mask is an array 96x128x3 of float64, not an array of zeros and "
        "ones of the photograph's size{part}",
    ),
    (
        "mask with a two",
        MAT,
        put("mask", MASK * 2),
        {},
        "{file}, object 1: the mask holds 2, but should hold only 0 and 1{part}",
    ),
    (
        "mask up to 255",
        MAT,
        put("mask", MASK * 255),
        {},
        "{file}, object 1: the mask holds 255, but should hold only 0 and 1{part}",
    ),
    (
        "mask with nan",
        MAT,
        put("mask", np.where(MASK, np.nan, 0)),
        {},
        "{file}, object 1: the mask holds nan, but should hold only 0 and 1{part}",
    ),
    (
        "mask is text",
        MAT,
        put("mask", "ones"),
        {},
        "{file}, object 1: the mask is text, not an array of zeros and ones of the "
        "photograph's size{part}",
    ),
    (
        "another class's part",
        MAT,
        with_part(part_name="wheel_1", mask=MASK),
        {},
        "{file}, object 1 (horse), part 1: 'wheel_1' is not a part of a horse; "
        "its parts are {horse}.",
    ),
    (
        "part in capitals",
        MAT,
        with_part(part_name="Head", mask=MASK),
        {},
        "{file}, object 1 (horse), part 1: 'Head' is not a part of a horse; its parts are {horse}.",
    ),
    (
        "part without name",
        MAT,
        with_part(mask=MASK),
        {},
        "{file}, object 1 (horse): parts has no field part_name; it needs part_name, mask, "
        "so unpack PASCAL-Part again.",
    ),
    (
        "part's name is a number",
        MAT,
        with_part(part_name=1.0, mask=MASK),
        {},
        "{file}, object 1 (horse), part 1: part_name is 1.0, not a name{part}",
    ),
    (
        "part without mask",
        MAT,
        with_part(part_name="head"),
        {},
        "{file}, object 1 (horse): parts has no field mask; it needs part_name, mask, "
        "so unpack PASCAL-Part again.",
    ),
    (
        "part's mask turned",
        MAT,
        with_part(part_name="head", mask=MASK.T),
        {},
        "{file}, object 1 (horse), part head: the mask is 96x128 pixels, "
        "but others of the file 128x96 (it is turned on its side){part}",
    ),
    (
        "part's mask of another size",
        MAT,
        with_part(part_name="head", mask=MASK[1:]),
        {},
        "{file}, object 1 (horse), part head: the mask is 128x95 pixels, "
        "but others of the file 128x96{part}",
    ),
    (
        "part of a chair",
        MAT,
        edited(lambda o: o | {"class": "chair", "class_ind": 9.0}),
        {},
        "{file}, object 1 (chair), part 1: 'head' is not a part of a chair; its parts are none.",
    ),
    (
        "list missing",
        TRAIN,
        gone,
        {},
        "{file} is missing, which split 'train' needs; the lists that are there: "
        "Main/trainval, Main/val, Segmentation/train, Segmentation/trainval, Segmentation/val, "
        "so choose lists and split among them, or unpack the archive again.",
    ),
    ("list without a line", TRAIN, content("\n  \n"), {}, "{file} holds no image name{voc}"),
    (
        "list is binary",
        TRAIN,
        content(b"\xff\xfe2\x00"),
        {},
        "{file} is not a text file (byte 0 is not UTF-8){voc}",
    ),
    (
        "name twice",
        TRAIN,
        text(lambda t: t + NAME),
        {},
        "{file}, line 5: 2008_000001 stands here for the second time, first in line 1; "
        "remove one of the two.",
    ),
    (
        "two names in a line",
        TRAIN,
        text(lambda t: t.replace("\n", " ", 1)),
        {},
        "{file}, line 1: '2008_000001 2008_000002' has 2 fields, not one image name; "
        "a class's list (horse_train.txt) is no list of images.",
    ),
    (
        "a class's list",
        TRAIN,
        content(f"{NAME} -1\n"),
        {},
        "{file}, line 1: '2008_000001 -1' has 2 fields, not one image name; "
        "a class's list (horse_train.txt) is no list of images.",
    ),
    (
        "name with an ending",
        TRAIN,
        text(lambda t: t.replace("\n", ".jpg\n", 1)),
        {},
        "{file}, line 1: '2008_000001.jpg' has an ending, but lists hold bare names like "
        "2008_000008; remove the ending.",
    ),
    (
        "name is a path",
        TRAIN,
        text(lambda t: "../../secret\n" + t),
        {},
        "{file}, line 1: '../../secret' is a path, not the name of an image; remove the line.",
    ),
    (
        "name is a path of another system",
        TRAIN,
        text(lambda t: t + "..\\..\\secret\n"),
        {},
        "{file}, line 5: '..\\\\..\\\\secret' is a path, not the name of an image; "
        "remove the line.",
    ),
    (
        "name is dots",
        TRAIN,
        text(lambda t: "..\n" + t),
        {},
        "{file}, line 1: '..' is a path, not the name of an image; remove the line.",
    ),
    (
        "name in both lists",
        TRAIN,
        text(lambda t: t + "2010_000007\n"),
        ALL,
        "{root}/ImageSets/Main: 2010_000007 is both in train.txt and in val.txt; "
        "remove it from one of the two.",
    ),
    (
        "unknown image",
        TRAIN,
        text(lambda t: t + "2011_000001\n"),
        {},
        "{root}/Annotations_Part lacks 1 of 3 part files that are needed, "
        "the first is 2011_000001.mat; unpack PASCAL-Part again, or shorten the lists.",
    ),
    (
        "flag of two",
        FLAGS,
        text(lambda t: t.replace(" 1", " 2", 1)),
        {},
        "{file}, line 1: '2008_000001 2' does not read <image name> <1, 0 or -1>{voc}",
    ),
    (
        "flag forgotten",
        FLAGS,
        text(lambda t: t.replace(" -1", "", 1)),
        {},
        "{file}, line 3: '2008_000003' does not read <image name> <1, 0 or -1>{voc}",
    ),
    (
        "flag twice",
        FLAGS,
        text(lambda t: t + f"{NAME} 1"),
        {},
        "{file}, line 5: 2008_000001 stands here for the second time; remove one of the two.",
    ),
    (
        "photograph missing",
        JPG,
        gone,
        {},
        "{root}/JPEGImages lacks 1 of the photographs that are needed, "
        "the first is 2008_000001.jpg; unpack the archive again, or shorten the lists.",
    ),
    (
        "photograph of another size",
        JPG,
        smaller,
        {},
        "{file} is 64x48 pixels, but its masks are 128x96{both}",
    ),
    (
        "photograph truncated",
        JPG,
        cut(700),
        {},
        "{file} cannot be read as a picture: the file is truncated or damaged; copy it again.",
    ),
    (
        "photograph is text",
        JPG,
        content("not here"),
        {},
        "{file} cannot be read as a picture: it is a text file.",
    ),
    (
        "xml missing",
        XML,
        gone,
        NOT_OCCLUDED,
        "{file} is missing; fetch the archive of VOC with its folder Annotations, "
        "or do not ask for marks (without).",
    ),
    ("xml empty", XML, content(""), NOT_OCCLUDED, "{file} is not well-formed XML (*){voc}"),
    ("xml cut", XML, cut(200), NOT_OCCLUDED, "{file} is not well-formed XML (*){voc}"),
    (
        "xml of something else",
        XML,
        content("<svg><size/></svg>"),
        NOT_OCCLUDED,
        "{file} has no <size> inside an <annotation>, so it is not an annotation of VOC{voc}",
    ),
    (
        "xml without size",
        XML,
        content("<annotation></annotation>"),
        NOT_OCCLUDED,
        "{file} has no <size> inside an <annotation>, so it is not an annotation of VOC{voc}",
    ),
    (
        "xml with a width in words",
        XML,
        text(lambda t: t.replace("<width>128", "<width>wide")),
        NOT_OCCLUDED,
        "{file}: <size>: <width> is 'wide', not a number{voc}",
    ),
    (
        "xml with an unknown class",
        XML,
        text(lambda t: t.replace(">horse<", ">zebra<")),
        NOT_OCCLUDED,
        "{file}, object 1: 'zebra' is not a class of PASCAL VOC; the classes are {classes}.",
    ),
    (
        "xml without a box",
        XML,
        text(lambda t: t.replace("bndbox", "box")),
        NOT_OCCLUDED,
        "{file}, object 1 (horse) has no <bndbox>{voc}",
    ),
    (
        "box without a side",
        XML,
        text(lambda t: t.replace("ymax", "bottom")),
        NOT_OCCLUDED,
        "{file}, object 1 (horse): <ymax> is '', not a number{voc}",
    ),
    (
        "box with nan",
        XML,
        text(lambda t: t.replace("<ymax>94", "<ymax>nan")),
        NOT_OCCLUDED,
        "{file}, object 1 (horse): <ymax> is 'nan', not a number{voc}",
    ),
    (
        "box the wrong way round",
        XML,
        text(lambda t: t.replace("<xmax>113", "<xmax>3")),
        NOT_OCCLUDED,
        "{file}, object 1 (horse): the box from (12, 7) to (3, 94) does not lie in the 128x96 "
        "image; correct it.",
    ),
    (
        "box beyond the picture",
        XML,
        text(lambda t: t.replace("<ymax>94", "<ymax>98")),
        NOT_OCCLUDED,
        "{file}, object 1 (horse): the box from (12, 7) to (113, 98) does not lie in the "
        "128x96 image; correct it.",
    ),
    (
        "box before the picture",
        XML,
        text(lambda t: t.replace("<ymin>7", "<ymin>-1")),
        NOT_OCCLUDED,
        "{file}, object 1 (horse): the box from (12, -1) to (113, 94) does not lie in the "
        "128x96 image; correct it.",
    ),
    (
        "palette missing",
        KLASS,
        gone,
        VOC,
        "{file} is missing; only images of ImageSets/Segmentation have masks, "
        "so use those lists (lists=Segmentation), or unpack the archive again.",
    ),
    (
        "palette lost",
        KLASS,
        as_colours,
        VOC,
        "{file} holds colours (mode RGB), but masks of VOC are palette images{voc}",
    ),
    (
        "class 21",
        KLASS,
        pixels(lambda p: np.where(p == 13, 21, p)),
        VOC,
        "{file} holds index 21, but classes are 1 to 20, background is 0 and void 255{voc}",
    ),
    (
        "palette cut",
        KLASS,
        cut(90),
        VOC,
        "{file} cannot be read as a picture: the file is truncated or damaged; copy it again.",
    ),
    (
        "twin of another size",
        THING,
        pixels(lambda p: p[:48]),
        VOC,
        "{file} is 128x48 pixels, but its twin in SegmentationClass is 128x96{voc}",
    ),
    (
        "both of another size",
        KLASS,
        lambda path: [pixels(lambda p: p.T)(path.parents[1] / f) for f in (KLASS, THING)],
        VOC,
        "{root}/JPEGImages/2008_000001.jpg is 128x96 pixels, but its masks are 96x128 (it is "
        "turned on its side){both}",
    ),
    (
        "object of two classes",
        KLASS,
        pixels(lambda p: np.where((p == 13) & (np.arange(128) > 60), 10, p)),
        VOC,
        "{root}/SegmentationObject/2008_000001.png: object 1 covers classes [10, "
        "13] of SegmentationClass, not exactly one{voc}",
    ),
    (
        "object of no class",
        KLASS,
        pixels(lambda p: np.where(p == 13, 0, p)),
        VOC,
        "{root}/SegmentationObject/2008_000001.png: object 1 covers classes [0] of "
        "SegmentationClass, not exactly one{voc}",
    ),
    (
        "object all void",
        KLASS,
        pixels(lambda p: np.where(p == 13, 255, p)),
        VOC,
        "{root}/SegmentationObject/2008_000001.png: object 1 covers classes [] of "
        "SegmentationClass, not exactly one{voc}",
    ),
]


def check(error: pytest.ExceptionInfo, expected: str, **names) -> None:
    "The message is exactly the expected sentence, and one sentence it is."
    message = str(error.value)
    expected = expected.format(
        classes=", ".join(CLASSES),
        horse=", ".join(PARTS["horse"]),
        part="; unpack PASCAL-Part again.",
        voc="; unpack the archive again.",
        both="; unpack the archives again.",
        **names,
    )
    begin, star, end = expected.partition("*")
    assert (
        message == expected if not star else message.startswith(begin) and message.endswith(end)
    ), message
    assert "\n" not in message and message.endswith(".") and ". " not in message


@pytest.mark.parametrize(
    "name, file, damage, options, expected", BAD, ids=[row[0].replace(" ", "-") for row in BAD]
)
def test_damage(root, name, file, damage, options, expected):
    damage(root / file)
    with pytest.raises(InputError) as error:
        horses = PASCAL.open(root, **{"categories": "horse"} | options)
        horses.counts()
        horses[0]
    check(error, expected, root=root, file=root / file)


def test_damage_is_seen_by_counts_without_decoding(root):
    smaller(root / JPG)
    horses = PASCAL.open(root, categories="horse")
    with pytest.raises(InputError, match="is 64x48 pixels, but its masks are 128x96"):
        horses.counts()
    with pytest.raises(InputError, match="is 64x48 pixels, but its masks are 128x96"):
        horses[0]


FETCH = (
    "; fetch VOCtrainval_03-May-2010.tar of PASCAL VOC 2010, unpack it, "
    "and give its folder VOC2010 as --root or in PARTBOOK_PASCAL."
)
WRONG = [  # (options, the sentence)
    (
        dict(split="val"),
        "PASCAL has no split 'val'; choose one of: train, test, all (test is VOC's val).",
    ),
    (dict(size=0), "The size is 0; it must be at least one pixel."),
    (
        dict(categories="horse,unicorn"),
        "categories: 'unicorn' is not a class of PASCAL VOC; the classes are {classes}.",
    ),
    (
        dict(categories=()),
        "No class is asked for; name one or several, or scops, contrastive or all.",
    ),
    (dict(unit="objects"), "unit is 'objects'; it must be one of: object, image."),
    (dict(overlap="smallest"), "overlap is 'smallest'; it must be one of: first, last."),
    (dict(mask="box"), "mask is 'box'; it must be one of: parts, object."),
    (dict(source="xml"), "source is 'xml'; it must be one of: parts, voc."),
    (dict(lists="Layout"), "lists is 'Layout'; it must be one of: Main, Segmentation."),
    (dict(area=20), "area is 20; it must be a share of the image, from 0 to below 1."),
    (dict(area=-0.1), "area is -0.1; it must be a share of the image, from 0 to below 1."),
    (
        dict(without="hidden"),
        "without is 'hidden'; it must be among: truncated, occluded, difficult.",
    ),
    (
        dict(groups="rough"),
        "groups is 'rough'; it must be fine, coarse, or a mapping from group names to parts.",
    ),
    (
        dict(categories="car", groups={"eye": ["leye"]}),
        "groups: 'leye' in 'eye' is not a part of a car; its parts are "
        + ", ".join(PARTS["car"])
        + ".",
    ),
    (
        dict(mask="parts", **VOC),
        "VOC's own masks have no parts; ask for mask=object, or for source=parts.",
    ),
    (
        dict(min_parts=2, **VOC),
        "VOC's own masks have no parts; leave min_parts out, or ask for source=parts.",
    ),
    (dict(year=2011), "The year is 2011; it must be one of: 2010, 2012."),
    (
        dict(categories="boat"),
        "{root} holds no sample of boat in split 'train' (no object at all); ask for less, "
        "or for other classes.",
    ),
    (
        dict(categories="chair"),
        "{root} holds no sample of chair in split 'train' (1 objects of these classes; "
        "1 too small, left out); ask for less, or for other classes.",
    ),
    (
        dict(categories="chair", area=0.01),
        "{root} holds no sample of chair in split 'train' (1 objects of these classes; "
        "1 too few parts, left out); ask for less, or for other classes.",
    ),
]


@pytest.mark.parametrize(
    "options, expected",
    WRONG,
    ids=[next(reversed(o)) + "-" + str(i) for i, (o, _) in enumerate(WRONG)],
)
def test_wrong_options(drawn, options, expected):
    with pytest.raises(InputError) as error:
        PASCAL.open(drawn, **options)
    check(error, expected, root=drawn)


def test_missing_folders_say_what_to_fetch(root, tmp_path, monkeypatch):
    monkeypatch.delenv("PARTBOOK_PASCAL", raising=False)
    (tmp_path / "file").write_text("")
    for place, expected in [
        (None, "PASCAL's photographs are not part of this book" + FETCH),
        (
            tmp_path / "gone",
            f"{tmp_path / 'gone'} is not there, but should be the folder VOC2010" + FETCH,
        ),
        (
            tmp_path / "file",
            f"{tmp_path / 'file'} is a file, but should be the folder VOC2010" + FETCH,
        ),
        (
            root / "ImageSets",
            f"{root / 'ImageSets'} holds no JPEGImages, so it is not the folder VOC2010" + FETCH,
        ),
    ]:
        with pytest.raises(InputError) as error:
            find_pascal(place)
        assert str(error.value) == expected
    with pytest.raises(InputError, match="VOCtrainval_11-May-2012.tar of PASCAL VOC 2012"):
        find_pascal(None, 2012)
    shutil.rmtree(root / "Annotations_Part")
    with pytest.raises(
        InputError,
        match=(
            "Annotations_Part is missing; fetch trainval.tar.gz of PASCAL-Part .* or use VOC's "
            "own masks"
        ),
    ):
        PASCAL.open(root)
    assert len(PASCAL.open(root, "all", categories="horse", **VOC)) == 4


# ---------------------------------------------------------------------- what is read without a word


def columns(value):
    "The structure array as a column."
    return value.T


def cells(value):
    "The structure array as a cell array of single structures."
    out = np.empty((1, value.size), object)
    for n, v in enumerate(value.ravel()):
        out[0, n] = {f: v[f] for f in v.dtype.names}
    return out


def single(value):
    "One structure instead of an array of one."
    v = value.ravel()[0]
    return {f: v[f] for f in v.dtype.names}


@pytest.mark.parametrize("shape", [columns, cells, single])
def test_shapes_of_structures(root, shape):
    before = read_mat(root / MAT)
    objects = scipy.io.loadmat(root / MAT)["anno"]["objects"][0, 0]
    parts = objects[0, 0]["parts"]
    objects[0, 0]["parts"] = shape(parts if shape is not single else parts[:, :1])
    scipy.io.savemat(root / MAT, {"anno": {"imname": NAME, "objects": shape(objects)}})
    after = read_mat(root / MAT)
    assert (
        len(after) == 1
        and after[0].kind == "horse"
        and np.array_equal(after[0].mask, before[0].mask)
    )
    wanted = before[0].parts if shape is not single else before[0].parts[:1]
    assert [n for n, _ in after[0].parts] == [n for n, _ in wanted]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(after[0].parts, wanted))


def test_nothing_and_empty_objects(root):
    scipy.io.savemat(root / MAT, {"anno": {"imname": NAME, "objects": np.empty((0, 0))}})
    assert read_mat(root / MAT) == []
    horses = PASCAL.open(root, categories="horse")
    assert [s.name for s in horses] == ["2008_000002_3"]
    blank = PascalObject("horse", np.zeros((96, 128), bool))
    write_mat(root / MAT, NAME, [blank])
    horses = PASCAL.open(root, categories="horse")
    assert [s.name for s in horses] == ["2008_000002_3"] and horses.counts()[
        "objects without a pixel, left out"
    ] == 1
    assert read_mat(root / MAT)[0].parts == []


def test_masks_of_other_number_types(root):
    for kind in (bool, np.uint8, np.float64, np.int16):
        edited(lambda o, kind=kind: o | {"mask": o["mask"].astype(kind)})(root / MAT)
        assert (
            read_mat(root / MAT)[0].mask.dtype == bool
            and read_mat(root / MAT)[0].mask.sum() == 3573
        )


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace("\n", "\r\n"),
        str.strip,
        lambda t: "\ufeff" + t,
        lambda t: "\n" + t.replace("\n", "\n\n"),
        lambda t: t.replace("\n", "  \n"),
    ],
    ids=["windows", "no-last-end", "mark", "blank-lines", "spaces"],
)
def test_lists_of_other_systems(root, drawn, change):
    for path in (root / "ImageSets" / "Main").glob("*.txt"):
        path.write_bytes(change(path.read_text()).encode())
    assert PASCAL.open(root, "all").rows == PASCAL.open(drawn, "all").rows
    assert read_names(root / TRAIN) == ["2008_000001", "2008_000002", "2008_000003", "2009_000004"]
    assert read_flags(root / FLAGS) == {
        "2008_000001": 1,
        "2008_000002": 1,
        "2008_000003": -1,
        "2009_000004": -1,
    }


def test_boxes_are_counted_from_one_and_clipped(root):
    path = root / XML
    (H, W), (horse,) = read_xml(path)
    assert (
        (H, W) == (96, 128)
        and horse.box == mask_box(read_mat(root / MAT)[0].mask) == (11, 6, 102, 88)
        and horse.marks == set()
    )
    text(
        lambda t: (
            t.replace("<ymin>7", "<ymin>0")
            .replace("<ymax>94", "<ymax>97")
            .replace("<difficult>0", "<difficult>1")
        )
    )(path)
    (horse,) = read_xml(path)[1]
    assert horse.box == (11, 0, 102, 96) and horse.marks == {"difficult"}
    text(lambda t: t.replace("<name>", "<part><name>head</name><bndbox/></part><name>"))(
        path
    )  # parts of persons are no objects
    assert len(read_xml(path)[1]) == 1
    assert read_xml(root / "Annotations" / "2009_000006.xml")[1][0].kind == "diningtable"


def test_class_flags_spare_reading_and_mean_difficult(root):
    (root / "Annotations_Part" / "2009_000004.mat").write_bytes(b"")
    assert len(PASCAL.open(root, categories="horse")) == 2  # flagged -1, so not opened
    with pytest.raises(InputError, match="2009_000004.mat cannot be read as a MATLAB file"):
        PASCAL.open(root, categories="horse", flags=False)
    text(lambda t: t.replace(" 1", " 0"))(root / FLAGS)
    assert (
        len(PASCAL.open(root, categories="horse")) == 2
    )  # only difficult ones: still read, as in the contrastive paper's code
    pictures = [
        PascalPicture(
            "a",
            torch.zeros(3, 8, 8),
            [PascalObject("cow", np.ones((8, 8), bool), marks=frozenset({"difficult"}))],
        )
    ]
    assert read_flags(
        write_pascal(root / "own", pictures) / "ImageSets" / "Main" / "cow_train.txt"
    ) == {"a": 0}


def test_part_files_beside_the_folder(root):
    (root / "Annotations_Part").rename(root.parent / "Annotations_Part")
    assert len(PASCAL.open(root.parent, categories="horse")) == 2


def test_the_lists_of_2012_may_name_images_without_part_file(root, tmp_path):
    newer = root.rename(tmp_path / "VOC2012")
    (newer / MAT).unlink()
    horses = PASCAL.open(newer, categories="horse")
    assert [s.name for s in horses] == ["2008_000002_3"]
    assert (
        horses.counts()["images without a part file, passed over"] == 1
        and horses.counts()["images in the full set's list"] == 5717
    )
    assert len(PASCAL.open(tmp_path, categories="horse", year=2012)) == 1


# --------------------------------------------------------------------------------- what samples are


def test_the_papers_classes():
    "SCOPS, Table 4, and the contrastive paper, Table 5, in their order."
    assert SCOPS == ("horse", "cow", "sheep", "aeroplane", "bus", "car", "motorbike")
    assert CONTRASTIVE == (
        "sheep",
        "horse",
        "cow",
        "motorbike",
        "aeroplane",
        "bus",
        "car",
        "bicycle",
        "dog",
        "cat",
    )
    assert [
        CLASSES.index(c) + 1
        for c in ("aeroplane", "bird", "car", "diningtable", "horse", "person", "tvmonitor")
    ] == [1, 3, 7, 11, 13, 15, 20]
    assert (
        EXPECTED["Annotations_Part"]
        == EXPECTED[2010]["Main/trainval"]
        == EXPECTED[2010]["Main/train"] + EXPECTED[2010]["Main/val"]
        == 10103
    )
    assert (
        EXPECTED[2012]["Main/trainval"]
        == EXPECTED[2012]["Main/train"] + EXPECTED[2012]["Main/val"]
        == 11540
    )
    assert all(
        e["Segmentation/trainval"] == e["Segmentation/train"] + e["Segmentation/val"]
        for e in (EXPECTED[2010], EXPECTED[2012])
    )


def test_every_part_has_one_coarse_group():
    for kind, groups in COARSE.items():
        parts = [p for group in groups.values() for p in group]
        assert len(parts) == len(set(parts)) and set(parts) == set(PARTS[kind]), kind
        assert all(p.islower() and p.isalpha() for p in parts), kind
    assert (
        "lfho" in PARTS["horse"]
        and "lfho" not in PARTS["sheep"]
        and "lhorn" in PARTS["sheep"]
        and "nose" not in PARTS["horse"]
    )
    assert (
        "muzzle" in PARTS["dog"]
        and "muzzle" not in PARTS["cat"]
        and PARTS["bus"] == PARTS["car"]
        and "chainwheel" not in PARTS["motorbike"]
    )


def test_counts_and_splits(drawn):
    nothing = {f"samples of {kind}": 0 for kind in CONTRASTIVE} | {
        "images without a part file, passed over": 0,
        "objects without a pixel, left out": 0,
        "too few parts, left out": 0,
        "parts": 138,
    }
    train, test, both = (PASCAL.open(drawn, split).counts() for split in ("train", "test", "all"))
    assert train == nothing | {
        "samples": 5,
        "images listed": 4,
        "images in the full set's list": 4998,
        "images with samples": 4,
        "samples of sheep": 2,
        "samples of horse": 2,
        "samples of car": 1,
        "objects of these classes": 6,
        "too small, left out": 1,
    }
    assert test == nothing | {
        "samples": 3,
        "images listed": 4,
        "images in the full set's list": 5105,
        "images with samples": 3,
        "samples of horse": 2,
        "samples of car": 1,
        "objects of these classes": 5,
        "too small, left out": 2,
    }
    assert (
        both["samples"] == 9
        and both["images in the full set's list"] == 10103
        and both["samples of cow"] == 1
    )  # 13 %: enough for training only


def test_full_part_files_need_full_lists(drawn, monkeypatch):
    horses = PASCAL.open(drawn, categories="horse")
    monkeypatch.setitem(EXPECTED, "Annotations_Part", 8)
    with pytest.raises(InputError) as error:
        horses.counts()
    assert (
        str(error.value)
        == f"{drawn / TRAIN} lists 4 images, but the full set has 4998; unpack the archive again."
    )
    monkeypatch.setitem(EXPECTED[2010], "Main/train", 4)
    assert horses.counts()["images in the full set's list"] == 4
    monkeypatch.setitem(EXPECTED[2010], "Main/train", 4998)
    monkeypatch.setitem(EXPECTED, "Annotations_Part", 9)
    assert horses.counts()["images in the full set's list"] == 4998  # a partial copy is no error


def block(h: int, w: int, H: int = 40, W: int = 50) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[2 : 2 + h, 3 : 3 + w] = True
    return mask


def test_area_thresholds_to_the_pixel(tmp_path):
    "Contrastive: (x1 - x0)(y1 - y0) strictly above the share. SCOPS: box area at least the share."
    sizes = {
        "a": (21, 11),
        "b": (21, 12),
        "c": (20, 20),
        "d": (21, 21),
        "e": (19, 21),
    }  # of 2000 pixels: 200, 220, 361, 400, 360; boxes: 400, 441, 399
    pictures = [
        PascalPicture(
            n,
            torch.full((3, 40, 50), 0.5),
            [PascalObject("cow", block(*s), [("torso", block(*s))])],
        )
        for n, s in sizes.items()
    ]
    train = write_pascal(tmp_path / "VOC2010", pictures)
    shutil.copy(train / TRAIN, train / "ImageSets" / "Main" / "val.txt")
    (train / "ImageSets" / "Main" / "cow_val.txt").unlink()

    def names(split, **options):
        return "".join(s.name[0] for s in PASCAL.open(train, split, categories="cow", **options))

    assert names("train") == "bcde" and names("train", area=0.09) == "abcde"
    assert names("test", area=0.18) == "cd" and names("test", area=0.199) == "d"
    with pytest.raises(InputError, match="5 too small, left out"):
        names("test")
    assert names("train", unit="image") == "cd" == names("test", unit="image")


def test_image_unit_takes_the_largest_object_and_all_objects(tmp_path):
    small, large = np.zeros((40, 50), bool), np.zeros((40, 50), bool)
    small[0:4, 0:4], large[10:35, 10:40] = True, True
    objects = [
        PascalObject("cow", small, [("head", small)]),
        PascalObject("cow", large, [("torso", large)]),
        PascalObject("sheep", ~(small | large), []),
    ]
    root = write_pascal(
        tmp_path / "VOC2010", [PascalPicture("one", torch.full((3, 40, 50), 0.5), objects)]
    )
    (s,) = PASCAL.open(root, categories="cow", unit="image")
    assert (
        s.name == "one"
        and s.box.tolist() == [0, 0, 40, 35]
        and torch.equal(s.mask, torch.from_numpy(small | large))
    )
    assert s.parts.unique().tolist() == [
        0,
        1 + PARTS["cow"].index("head"),
        1 + PARTS["cow"].index("torso"),
    ]
    assert [x.name for x in PASCAL.open(root, categories="cow", area=0.0)] == ["one_1", "one_2"]
    assert [x.name for x in PASCAL.open(root, categories="sheep,cow", unit="image", area=0.0)] == [
        "one_sheep",
        "one_cow",
    ]
    assert len(PASCAL.open(root, categories="cow", unit="image", min_parts=2)) == 1
    with pytest.raises(InputError, match="1 too few parts"):
        PASCAL.open(root, categories="cow", unit="image", min_parts=3)
    with pytest.raises(InputError, match="2 too few parts"):
        PASCAL.open(root, categories="cow", area=0.0, min_parts=2)


def test_numbered_parts_are_one_part(drawn):
    car = PASCAL.open(drawn, categories="car", overlap="last")[0]
    names = dict(read_mat(drawn / "Annotations_Part" / "2009_000004.mat")[0].parts)
    wheel = 1 + PARTS["car"].index("wheel")
    assert {"wheel_1", "wheel_2"} <= set(names) and np.array_equal(
        (car.parts == wheel).numpy(), names["wheel_1"] | names["wheel_2"]
    )
    assert stem("wheel_10") == "wheel"


def test_several_classes_number_their_parts_one_after_the_other(drawn):
    both = PASCAL.open(drawn, "all", categories=("sheep", "horse"))
    assert both.part_names == tuple(f"sheep {p}" for p in PARTS["sheep"]) + tuple(
        f"horse {p}" for p in PARTS["horse"]
    )
    alone = {name: PASCAL.open(drawn, "all", categories=name) for name in ("sheep", "horse")}
    for s in both:
        kind = both.category_names[s.category]
        twin = next(t for t in alone[kind] if t.name == s.name)
        assert torch.equal(
            s.parts,
            torch.where(
                twin.parts > 0, twin.parts + (len(PARTS["sheep"]) if kind == "horse" else 0), 0
            ),
        )
    assert {s.category for s in both} == {0, 1}


@pytest.mark.parametrize("overlap", ["first", "last"])
@pytest.mark.parametrize("groups", ["fine", "coarse", {"front": ["head", "neck"]}])
def test_labels_by_painting(drawn, groups, overlap):
    "The rule as a painter would write it: last to first, so the first stays on top (or reversed)."
    horses = PASCAL.open(
        drawn, "all", categories="horse", groups=groups, overlap=overlap, mask="object", min_parts=0
    )
    for row, s in zip(horses.rows, horses):
        thing = read_mat(drawn / "Annotations_Part" / f"{row.name}.mat")[row.members[0]]
        canvas = np.zeros(thing.mask.shape, np.int64)
        for name, mask in thing.parts[::-1] if overlap == "first" else thing.parts:
            label = horses.number.get(("horse", stem(name)), 0)
            canvas[mask & (label > 0)] = label
        assert np.array_equal(s.parts.numpy(), canvas), s.name
        assert np.array_equal(s.mask.numpy(), thing.mask)
    assert horses.foreground == "true masks (objects of PASCAL-Part)"


def test_neighbours_are_background(drawn):
    first, second = PASCAL.open(drawn, categories="sheep", mask="object")
    assert not (first.mask & second.mask).any() and torch.equal(first.image, second.image)


def test_sizes_batches_and_determinism(drawn):
    every = PASCAL.open(drawn, "all", size=40)
    again = next(batches(resized(PASCAL.open(drawn, "all"), 40), 32))
    batch = next(batches(every, 32))
    assert batch.images.shape == (9, 3, 40, 40) and all(
        torch.equal(getattr(batch, f), getattr(again, f))
        for f in ("images", "masks", "parts", "boxes", "categories")
    )
    tight = next(batches(resized(cropped(every, pad=0.05, square=True), 32), 16))
    assert tight.masks.float().mean() > batch.masks.float().mean()
    loader = torch.utils.data.DataLoader(every, batch_size=None, num_workers=2)
    assert all(
        torch.equal(a.parts, b.parts) and torch.equal(a.image, b.image) and a.name == b.name
        for a, b in zip(loader, every)
    )


def test_a_photograph_stays_as_stored(root, drawn):
    "Annotators drew on pixels as stored, so a note to turn the picture is not obeyed."
    note = Image.Exif()
    note[0x0112] = 6
    with Image.open(root / JPG) as image:
        image.copy().save(root / JPG, exif=note)
    turned = PASCAL.open(root, categories="horse")
    assert (
        turned.counts()["samples"] == 2
        and turned[0].size == (96, 128)
        and torch.equal(turned[0].parts, PASCAL.open(drawn, categories="horse")[0].parts)
    )


def test_fixture_depends_on_its_seed_alone(tmp_path, drawn):
    again, other = (
        write_pascal_fixture(tmp_path / "a"),
        write_pascal_fixture(tmp_path / "b", seed=1),
    )
    assert (again / JPG).read_bytes() == (drawn / JPG).read_bytes() != (other / JPG).read_bytes()


def test_void_is_at_the_border_of_objects(drawn):
    voc = read_segmentation(drawn, "2010_000007")
    void = read_indices(drawn / "SegmentationClass" / "2010_000007.png") == VOID
    assert [o.kind for o in voc] == ["car", "car", "tvmonitor"] and not any(
        (o.mask & void).any() for o in voc
    )
    whole = read_mat(drawn / "Annotations_Part" / "2010_000007.mat")
    for a, b in zip(voc, whole):
        assert (
            not (a.mask & ~b.mask).any()
            and (b.mask & ~a.mask).any()
            and not (b.mask & ~a.mask & ~void).any()
        )
    with Image.open(drawn / "SegmentationClass" / "2010_000007.png") as image:
        assert (
            image.mode == "P"
            and image.getpalette()[21:24] == [128, 128, 128] == voc_palette()[7].tolist()
        )


def test_palette_without_highest_takes_any_number(tmp_path):
    write_indices(tmp_path / "a.png", np.array([[0, 77, 255]]))
    assert read_indices(tmp_path / "a.png").tolist() == [[0, 77, 255]]
    Image.fromarray(np.array([[0, 13, 255]], np.uint8)).save(tmp_path / "grey.png")
    assert read_indices(tmp_path / "grey.png", 20).tolist() == [
        [0, 13, 255]
    ]  # a palette saved as its indices


def test_part_labels_of_nothing():
    assert part_labels([PascalObject("chair", np.ones((2, 3), bool))], {}).tolist() == [
        [0, 0, 0],
        [0, 0, 0],
    ]
    assert box_iou(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 1, 2, 2]]))[0, 0] == pytest.approx(
        1 / 7
    )


def test_a_match_needs_half_an_overlap(root):
    text(lambda t: t.replace("<occluded>0", "<occluded>1"))(root / XML)
    assert len(PASCAL.open(root, categories="horse", without="occluded")) == 1
    text(lambda t: t.replace("<xmin>12", "<xmin>63"))(
        root / XML
    )  # exactly half of the width is left: still the same object
    assert len(PASCAL.open(root, categories="horse", without="occluded")) == 1
    text(lambda t: t.replace("<xmin>63", "<xmin>64"))(root / XML)
    assert len(PASCAL.open(root, categories="horse", without="occluded")) == 2


def test_a_box_of_another_class_is_no_match(root):
    text(lambda t: t.replace("<name>horse", "<name>cow").replace("<occluded>0", "<occluded>1"))(
        root / XML
    )
    assert len(PASCAL.open(root, categories="horse", without="occluded")) == 2


# --------------------------------------------------------------------------------- real photographs

REAL = dict(lists="Segmentation", area=0.0)


@pytest.fixture(scope="module")
def real(shared_path) -> Path:
    return shared_path("data/VOCdevkit/VOC2010")


@pytest.fixture(scope="module")
def real_objects(real) -> dict[str, list[PascalObject]]:
    return {
        name: read_mat(real / "Annotations_Part" / f"{name}.mat")
        for name in read_names(real / "ImageSets" / "Segmentation" / "trainval.txt")
    }


def test_real_files(real, real_objects):
    every = [o for objects in real_objects.values() for o in objects]
    assert len(real_objects) == 14 and len(every) == 48
    assert sum(not o.parts for o in every) == 9 and sum(o.kind == "diningtable" for o in every) == 1
    assert sum(len(o.parts) for o in every) == 372 and {
        len(objects) for objects in real_objects.values()
    } >= {1, 11}
    for o in every:
        assert not any((mask & ~o.mask).any() for _, mask in o.parts) and all(
            mask.any() for _, mask in o.parts
        )


def test_real_samples(real):
    objects = PASCAL.open(real, "all", categories="all", mask="object", **REAL)
    assert (
        len(objects) == objects.counts()["samples"] == 48
        and objects.counts()["images in the full set's list"] == 1928
    )
    assert objects.counts()["samples of person"] == 16 and objects.counts()["samples of dog"] == 6
    for s in objects:
        assert s.mask.any() and not (s.parts > 0)[~s.mask].any()
        x, y, w, h = (int(v) for v in s.box)
        assert (
            s.mask[y : y + h, x : x + w].sum() == s.mask.sum()
            and s.mask[y].any()
            and s.mask[:, x].any()
        )
    parts = PASCAL.open(real, "all", categories="all", **REAL)
    assert len(parts) == 39 and parts.counts()["too few parts, left out"] == 9
    papers = PASCAL.open(real, "all", lists="Segmentation")  # the ten classes, boxes above 10 %
    assert {s.name: papers.category_names[s.category] for s in papers} == {
        "2008_000008_2": "horse",
        "2008_000019_2": "dog",
        "2008_000019_3": "dog",
        "2008_000019_1": "dog",
        "2008_005643_1": "dog",
        "2010_003057_5": "bus",
    }
    batch = next(batches(resized(cropped(papers, pad=0.05, square=True), 64), 8))
    assert batch.masks.float().mean((1, 2)).min() > 0.1
    assert (
        len(PASCAL.open(real, "all", categories="scops", unit="image", lists="Segmentation")) == 2
    )


def test_real_masks_against_vocs(real, real_objects):
    "PASCAL-Part's masks, joined by class, and VOC's, where VOC is decided."
    iou, decided = {}, {}
    for name, objects in real_objects.items():
        indices = read_indices(real / "SegmentationClass" / f"{name}.png", 20)
        assert indices.shape == objects[0].mask.shape
        assert {CLASSES[k - 1] for k in np.setdiff1d(indices, (0, VOID))} == {
            o.kind for o in objects
        }
        for kind in {o.kind for o in objects}:
            ours = np.any([o.mask for o in objects if o.kind == kind], 0)[indices != VOID]
            theirs = indices[indices != VOID] == CLASSES.index(kind) + 1
            iou[name, kind] = (ours & theirs).sum() / (ours | theirs).sum()
            if (indices == VOID).any():
                decided[name, kind] = iou[name, kind]
    assert len(iou) == 23 and np.median(list(iou.values())) == pytest.approx(0.89, abs=0.01)
    assert sorted(decided.values()) == pytest.approx([0.945, 0.988], abs=0.001)
    assert sorted(iou, key=iou.get)[:3] == [
        ("2008_000726", "person"),
        ("2010_005243", "chair"),
        ("2008_000008", "horse"),
    ]


def test_real_parts_hidden_by_the_first(real_objects):
    "The chapter's table: pixels annotated, seen with the file's first on top, and with the last."
    table = {}
    for objects in real_objects.values():
        for o in (o for o in objects if o.parts):
            names = sorted({stem(n) for n, _ in o.parts})
            number = {(o.kind, n): k for k, n in enumerate(names, 1)}
            first, last = (part_labels([o], number, how) for how in ("first", "last"))
            for k, n in enumerate(names, 1):
                claimed = sum(int(mask.sum()) for m, mask in o.parts if stem(m) == n)
                table[n] = table.get(n, np.zeros(3, int)) + [
                    claimed,
                    (first == k).sum(),
                    (last == k).sum(),
                ]
    assert table["head"].tolist() == [100693, 100693, 54305] and table["nose"].tolist() == [
        3613,
        1,
        3613,
    ]
    assert table["muzzle"].tolist() == [9185, 131, 8102] and table["window"].tolist() == [
        29851,
        24,
        29851,
    ]
    assert table["lear"].tolist() == [4724, 129, 4599] and table["neck"].tolist() == [
        25739,
        5172,
        25707,
    ]
    assert table["frontside"].tolist() == [61535, 60963, 32895] and table["headlight"].tolist() == [
        603,
        0,
        603,
    ]


def test_real_objects_without_a_part_on_every_pixel(real_objects):
    bare = {}
    for name, objects in real_objects.items():
        for n, o in enumerate(objects, 1):
            if o.parts:
                bare[name, n, o.kind] = (
                    1 - np.any([mask for _, mask in o.parts], 0).sum() / o.mask.sum()
                )
    assert 0.05 < max(v for (_, _, kind), v in bare.items() if kind in CONTRASTIVE) < 0.085
    assert max(bare.values()) == pytest.approx(0.551, abs=0.001)
