"Hostile masks, pictures and folders of photographs; each with the truth it is judged by."

import io
import os
import re
import socket
import struct
import unicodedata
import zlib
from functools import partial
from pathlib import Path

import numpy as np
from hostile_judge import Answer, Case, kind
from hostile_kit import QUICK, SIZE, Kit, device, drawn, encoded, iou, photographs, put, run
from PIL import Image, ImageCms, ImageFilter, PngImagePlugin

from partbook.core import InputError
from partbook.data.folder import Folder
from partbook.data.pictures import UPRIGHT, read_image

WIDTH, HEIGHT = SIZE

# ------------------------------------------------------------------------------------------- masks


def _grey(truth: np.ndarray, low: int = 0, high: int = 255) -> Image.Image:
    return Image.fromarray(np.where(truth, high, low).astype(np.uint8))


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    "The picture after it went through JPEG."
    return Image.open(io.BytesIO(encoded(image, "JPEG", quality=quality)))


def _palette(truth: np.ndarray, rng, colours: int = 2) -> Image.Image:
    "White object on black, by a palette whose order, unused colours and doubles are random."
    places = rng.permutation(max(2, colours))
    values = rng.integers(0, 256, (len(places), 3))
    values[places[0]] = (0, 0, 0)
    values[places[1]] = (255, 255, 255)
    image = Image.fromarray(np.where(truth, places[1], places[0]).astype(np.uint8), "P")
    image.putpalette([int(v) for v in values.ravel()])
    return image


def _classes(truth: np.ndarray, rng) -> Image.Image:
    "VOC's way: index 0 is black, the class has a colour of its own, 255 is unused."
    number = int(rng.integers(1, 21))
    palette = [0] * 768
    for k in range(256):
        for bit in range(8):
            for c in range(3):
                palette[3 * k + c] |= ((k >> (3 * bit + c)) & 1) << (7 - bit)
    image = Image.fromarray(np.where(truth, number, 0).astype(np.uint8), "P")
    image.putpalette(palette)
    return image


def _alpha(truth: np.ndarray, rng, colour: tuple[int, int, int] | None) -> Image.Image:
    "The object is what is opaque; `colour` of all pixels, or a photograph's."
    base = drawn(int(rng.integers(99)))[0] if colour is None else Image.new("RGB", SIZE, colour)
    base.putalpha(_grey(truth))
    return base


def _sixteen(truth: np.ndarray, high: int) -> Image.Image:
    return Image.fromarray(np.where(truth, high, 0).astype(np.uint16))


def _soft(truth: np.ndarray, radius: float) -> Image.Image:
    return _grey(truth).filter(ImageFilter.GaussianBlur(radius))


LOOKS = {  # how a white object on black may be stored: each has to be read as the object
    "grey 0 and 255": lambda t, r: _grey(t),
    "grey 0 and 1": lambda t, r: _grey(t, 0, 1),
    "grey of another height": lambda t, r: _grey(t, 0, int(r.integers(2, 255))),
    "ground not quite black": lambda t, r: _grey(t, int(r.integers(1, 30)), 250),
    "through JPEG": lambda t, r: _jpeg(_grey(t), int(r.integers(35, 96))),
    "coloured JPEG": lambda t, r: _jpeg(_grey(t).convert("RGB"), int(r.integers(50, 96))),
    "soft edges": lambda t, r: _soft(t, float(r.uniform(0.5, 1.5))),
    "one bit": lambda t, r: _grey(t).convert("1"),
    "three channels": lambda t, r: _grey(t).convert("RGB"),
    "opaque alpha": lambda t, r: _grey(t).convert("RGBA"),
    "grey and opaque alpha": lambda t, r: _grey(t).convert("LA"),
    "two colours in any order": lambda t, r: _palette(t, r),
    "many colours in any order": lambda t, r: _palette(t, r, int(r.integers(3, 200))),
    "quantised": lambda t, r: _grey(t).convert("RGB").quantize(2),
    "quantised soft": lambda t, r: _soft(t, 1).convert("RGB").quantize(int(r.integers(3, 64))),
    "web palette": lambda t, r: _grey(t).convert("P", palette=Image.Palette.WEB),
    "adaptive palette": lambda t, r: (
        _grey(t).convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    ),
    "a class of VOC": _classes,
    "one colour on black": lambda t, r: Image.fromarray(
        t[..., None].astype(np.uint8)
        * r.permutation([255, int(r.integers(0, 255)), 0]).astype(np.uint8)
    ),
    "photograph cut out": lambda t, r: _alpha(t, r, None),
    "black cut out": lambda t, r: _alpha(t, r, (0, 0, 0)),
    "white cut out": lambda t, r: _alpha(t, r, (255, 255, 255)),
    "sixteen bits": lambda t, r: _sixteen(t, 65535),
    "eight bits in sixteen": lambda t, r: _sixteen(t, 255),
    "one in sixteen bits": lambda t, r: _sixteen(t, 1),
    "twelve bits in sixteen": lambda t, r: _sixteen(t, 4095),
}


def _truths(count: int = 3) -> list[np.ndarray]:
    return [drawn(i)[1] for i in range(count)]


def _read_masks(folder: Path) -> list[np.ndarray] | None:
    "The masks that a folder's samples carry; None where they carry none."
    found = [s.mask for s in Folder.open(folder)]
    return None if any(m is None for m in found) else [m.numpy() for m in found]


def _as_the_truth(folder: Path, lowest: float = 0.95):
    "A check that each mask is the thing that was drawn."

    def check(answer: Answer) -> str:
        found = answer.value if answer.value is not None else _read_masks(folder)
        if found is None:
            return "the masks are not used"
        worst = min(iou(m, t) for m, t in zip(found, _truths(), strict=True))
        return "" if worst >= lowest else f"IoU with the truth {worst:.2f}"

    return check


def _stored_masks(index: int, rng, folder: Path) -> Case:
    label = list(LOOKS)[index % len(LOOKS)]
    ph = photographs(folder / "ph")
    for i, truth in enumerate(_truths()):
        put(ph / "masks" / f"p{i}.png", encoded(LOOKS[label](truth, rng)))
    lowest = 0.9 if "soft" in label else 0.95
    check = _as_the_truth(ph, lowest)
    return Case(label, call=lambda: _read_masks(ph), must="right", check=check)


def _used_or_said(ph: Path, place: str = "masks/", word: str = "mask"):
    "A check that masks are the truth, or that a line says what became of them."

    def check(answer: Answer) -> str:
        try:
            found = Folder.open(ph)
        except InputError:
            return ""
        if len(found) != 3 and not re.search(f"{word}|{place}", answer.said, re.I):
            return f"{len(found)} photographs, not 3: masks are taken for some, unsaid"
        masks = [s.mask for s in found]
        if len(found) == 3 and all(m is not None for m in masks):
            worst = min(iou(m.numpy(), t) for m, t in zip(masks, _truths(), strict=True))
            return "" if worst >= 0.9 else f"IoU with the truth {worst:.2f}"
        lines = [k for k in answer.said.splitlines() if not re.search(r"\smasks\s+\d+$", k)]
        said = any(word in line.lower() for line in lines)
        return "" if said else "the masks are not used, and no line says so"

    return check


NAMES = (  # where the mask of photograph pI.jpg may lie
    "masks/p{}.png",
    "masks/p{}.PNG",
    "masks/P{}.png",
    "masks/p{}_mask.png",
    "masks/p{}-mask.png",
    "masks/p{}.jpg.png",
    "masks/p{}.jpg",
    "masks/p{}.bmp",
    "masks/p{}.tif",
    "masks/p{}.gif",
    "masks/p{}_segmentation.png",
    "masks/p{}_seg.png",
    "masks/p{}.mask.png",
    "masks/mask_p{}.png",
    "Masks/p{}.png",
    "MASKS/p{}.png",
    "mask/p{}.png",
    "Mask/p{}.PNG",
    "segmentations/p{}.png",
    "SegmentationClass/p{}.png",
    "SegmentationObject/p{}.png",
    "annotations/p{}.png",
    "p{}_mask.png",
    "p{}-mask.png",
    "p{}.mask.png",
    "p{}_mask.PNG",
    "labels/p{}.png",
    "groundtruth/p{}.png",
    "masks/sub/p{}.png",
    "masks/other{}.png",
)


def _named_masks(index: int, rng, folder: Path) -> Case:
    pattern = NAMES[index % len(NAMES)]
    ph = photographs(folder / "ph", ending="jpg")
    for i, truth in enumerate(_truths()):
        path = ph / pattern.format(i)
        how = {".jpg": "JPEG", ".tif": "TIFF"}.get(path.suffix.lower(), path.suffix[1:].upper())
        put(path, encoded(_grey(truth), how))
    place = os.path.dirname(pattern) or "mask"
    return Case(f"called {pattern}", ["data", ph], check=_used_or_said(ph, place))


def _odd_named_masks(index: int, rng, folder: Path) -> Case:
    forms = [("NFC", "NFD"), ("NFD", "NFC"), ("NFKC", "NFKD")]
    form, other = forms[index % len(forms)]
    word = ("café", "Zürich", "Ångström")[int(rng.integers(3))]
    ph = folder / "ph"
    for i, truth in enumerate(_truths()):
        put(ph / f"{unicodedata.normalize(form, word)}{i}.jpg", encoded(drawn(i)[0], "JPEG"))
        put(ph / "masks" / f"{unicodedata.normalize(other, word)}{i}.png", encoded(_grey(truth)))
    return Case(f"{word} in {form}, masks in {other}", ["data", ph], check=_used_or_said(ph))


def _latin_masks(index: int, rng, folder: Path) -> Case:
    ph = folder / "ph"
    for i, truth in enumerate(_truths()):
        name = os.fsdecode(b"caf\xe9") + str(i)
        put(ph / "below" / f"{name}.jpg", encoded(drawn(i)[0], "JPEG"))
        put(ph / "masks" / "below" / f"{name}.png", encoded(_grey(truth)))
    encoding = ("utf-8", "ascii", "latin-1")[int(rng.integers(3))]
    check = _used_or_said(ph)
    return Case(f"Latin-1 names, {encoding}", ["data", ph], check=check, encoding=encoding)


def _useless(truth: np.ndarray, what: int, rng) -> Image.Image:
    ring = truth ^ np.asarray(_grey(truth).filter(ImageFilter.MaxFilter(3))).astype(bool)
    return {
        0: _grey(truth & False),
        1: _grey(truth | True),
        2: _grey(truth | True, 0, 1),
        3: Image.fromarray(np.where(ring, 3, np.where(truth, 1, 2)).astype(np.uint8)),
        4: Image.new("RGBA", SIZE, (0, 0, 0, 255)),
        5: Image.new("1", SIZE, 0),
        6: _grey(truth | True, 0, 7).quantize(2),
        7: Image.new("LA", SIZE, (0, 0)),
    }[what]


def _useless_masks(index: int, rng, folder: Path) -> Case:
    "Masks that are empty or everything, or Oxford's trimaps: used rightly, or said."
    what = index % 8
    ph = photographs(folder / "ph")
    for i, truth in enumerate(_truths()):
        all_of_them = index // 8 % 2 == 0 or i == 1
        image = _useless(truth, what, rng) if all_of_them else _grey(truth)
        put(ph / "masks" / f"p{i}.png", encoded(image))
    hint = r"masks?\b.*(empty|black|nothing|no foreground|no object|whole|every|cover|all of)"
    back = r"(empty|black|whole|everywhere|trimap|covers?).*\bmask"

    def check(answer: Answer) -> str:
        if re.search(f"{hint}|{back}", answer.said, re.I) or not _as_the_truth(ph)(answer):
            return ""
        return "not a word about masks that are empty or everything"

    words = ["discover", "--data", ph, "--features", "rgb", "--size", 16, "--parts", 3]
    words = [*words, "--steps", 1, "--no-baselines", "--out", folder / "o"]
    words = words if index % 2 else ["data", ph]
    label = f"useless masks {what}, {'all' if index // 8 % 2 == 0 else 'one'}"
    return Case(label, words, check=check, says="mask", writes=("o",))


def _trimaps(index: int, rng, folder: Path) -> Case:
    "Ground 0, border 128, object 255: the object, with or without its border."
    ph = photographs(folder / "ph")
    wide = [np.asarray(_grey(t).filter(ImageFilter.MaxFilter(3))) > 0 for t in _truths()]
    for i, truth in enumerate(_truths()):
        values = np.where(truth, 255, np.where(wide[i], int(rng.choice([64, 127, 128, 200])), 0))
        put(ph / "masks" / f"p{i}.png", encoded(Image.fromarray(values.astype(np.uint8))))

    def check(answer: Answer) -> str:
        pairs = zip(answer.value, _truths(), wide, strict=True)
        worst = min(max(iou(m, t), iou(m, w)) for m, t, w in pairs)
        return "" if worst >= 0.95 else f"IoU with the object {worst:.2f}"

    return Case("grey trimap", call=lambda: _read_masks(ph), check=check, says="mask")


def _broken_masks(index: int, rng, folder: Path) -> Case:
    "One mask of three is no mask of its photograph: said by its name."
    truth = _truths()[1]
    good = encoded(_grey(truth))
    resized = [(WIDTH + 1, HEIGHT), (HEIGHT, WIDTH), (WIDTH // 2, HEIGHT // 2), (1, 1)]
    size = resized[int(rng.integers(4))]
    damage = {
        "of another size": encoded(_grey(truth).resize(size)),
        "truncated": good[: int(len(good) * rng.uniform(0.3, 0.8))],
        "text": b"not a mask",
        "empty": b"",
        "a web page": b"<html>mask</html>",
        "without palette": png(WIDTH, HEIGHT, 8, 3, bytes((WIDTH + 1) * HEIGHT)),
        "claiming much": png(30000, 30000, 1, 0, b"\0"),
    }
    label = list(damage)[index % len(damage)]
    ph = photographs(folder / "ph")
    for i, t in enumerate(_truths()):
        put(ph / "masks" / f"p{i}.png", damage[label] if i == 1 else encoded(_grey(t)))
    words = ["data", ph] if index % 2 else ["saliency", ph, "--patches", 8, "--size", 32]

    def check(answer: Answer) -> str:
        if label == "without palette":  # read as black, or said
            return ""
        return "" if index % 2 == 0 else "a mask that is none is accepted"

    return Case(f"mask {label}", words, check=check, says=r"p1\.png")


def _turned(index: int, rng, folder: Path) -> Case:
    "EXIF turns the photograph; its mask is drawn as one sees it, or as it is stored."
    ph = folder / "ph"
    turn = int(rng.integers(2, 9))
    for i, truth in enumerate(_truths()):
        put(ph / f"p{i}.jpg", turned(drawn(i)[0], turn, "JPEG"))
        put(ph / "masks" / f"p{i}.png", encoded(_grey(truth)))
    check = _as_the_truth(ph)
    return Case(f"EXIF {turn}", call=lambda: _read_masks(ph), must="right", check=check)


MASKS = (
    [_stored_masks] * 5
    + [_named_masks] * 4
    + [_useless_masks] * 2
    + [_broken_masks] * 2
    + [_odd_named_masks, _latin_masks, _trimaps, _turned]
)


@kind("masks", 170)
def masks(index: int, rng, folder: Path, kit: Kit) -> Case:
    make = MASKS[index % len(MASKS)]
    before = sum(MASKS[k % len(MASKS)] is make for k in range(index))
    return make(before, rng, folder)


# ---------------------------------------------------------------------------------------- pictures


def png(width: int, height: int, depth: int, colour: int, raw: bytes, *chunks) -> bytes:
    "A PNG file made by hand: anything may be claimed."

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", head), *(chunk(*c) for c in chunks), chunk(b"IDAT", zlib.compress(raw))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


BACK = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


def turned(image: Image.Image, turn: int, kind_: str, **how) -> bytes:
    "A file whose EXIF says how to turn it, so that it looks like `image`."
    stored = image.transpose(BACK.get(turn, UPRIGHT[turn])) if turn in UPRIGHT else image
    exif = Image.Exif()
    exif[0x0112] = turn
    return encoded(stored, kind_, exif=exif, **how)


def _array(image: Image.Image) -> np.ndarray:  # (H,W,3) in [0,1]
    return np.asarray(image.convert("RGB")).astype(np.float32) / 255


def _grey_array(image: Image.Image) -> np.ndarray:
    grey = np.asarray(image.convert("L")).astype(np.float32) / 255
    return np.repeat(grey[..., None], 3, 2)


def _like(expected: np.ndarray, tolerance: float):
    "A check that what was read is the picture, on average within a tolerance."

    def check(answer: Answer) -> str:
        found = answer.value.permute(1, 2, 0).numpy()
        if found.shape != expected.shape:
            return f"it has shape {found.shape}, not {expected.shape}"
        away = float(np.abs(found - expected).mean())
        return "" if away <= tolerance else f"it differs by {away:.3f} on average"

    return check


LOSSY = {"JPEG": 0.04, "WEBP": 0.04, "GIF": 0.05}
MODES = {  # which format may hold which mode
    "PNG": ("RGB", "L", "P", "1", "LA", "RGBA"),
    "JPEG": ("RGB", "L", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("RGB", "L", "P", "1", "RGBA"),
    "TIFF": ("RGB", "L", "P", "1", "LA", "RGBA", "CMYK", "LAB", "YCbCr"),
    "GIF": ("P", "L", "1"),
}
VALID = [(form, mode) for form, modes in MODES.items() for mode in modes]
ENDING = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "BMP": "bmp", "TIFF": "tif", "GIF": "gif"}


def _valid(index: int, rng, folder: Path) -> Case:
    "A picture in a usual format and an unusual mode, perhaps by another format's ending."
    form, mode = VALID[index % len(VALID)]
    image = drawn(int(rng.integers(99)))[0]
    if mode == "LAB":
        stored = ImageCms.profileToProfile(
            image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
    else:
        stored = image.quantize(64) if mode == "P" else image.convert(mode)
    expected = _array(stored if mode != "LAB" else image)
    ending = ENDING[form] if rng.random() < 0.6 else str(rng.choice(["jpg", "PNG", "tiff", "gif"]))
    path = put(folder / f"a.{ending}", encoded(stored, form))
    tolerance = LOSSY.get(form, 0.004) if mode not in ("YCbCr", "LAB") else 0.06
    must = "either" if mode in ("LAB", "YCbCr") else "right"
    call = partial(read_image, path)
    return Case(f"{form} {mode}.{ending}", call=call, must=must, check=_like(expected, tolerance))


def _turned_picture(index: int, rng, folder: Path) -> Case:
    "EXIF orientations, sensible and not."
    form = ("JPEG", "PNG", "WEBP", "TIFF")[index % 4]
    turn = int(rng.choice([1, 2, 3, 4, 5, 6, 7, 8, 8, 6, 0, 9, 255, 65535]))
    image = drawn(index)[0]
    path = put(folder / f"a.{ENDING[form]}", turned(image, turn, form))
    check = _like(_array(image), LOSSY.get(form, 0.004))
    call = partial(read_image, path)
    return Case(f"{form}, EXIF {turn}", call=call, must="right", check=check)


def _odd_texts(index: int, rng, folder: Path) -> tuple[str, bytes]:
    "Metadata that no reader of pixels needs."
    image = drawn(7)[0]
    info = PngImagePlugin.PngInfo()
    noise = rng.integers(0, 256, 300).astype(np.uint8).tobytes()
    what = (
        "ICC noise",
        "ICC huge",
        "long comment",
        "many texts",
        "EXIF noise",
        "zTXt bomb",
        "gamma of zero",
        "resolution",
        "XMP",
        "JPEG comment",
    )[index % 10]
    if what == "ICC noise":
        return what, encoded(image, ("PNG", "JPEG", "TIFF")[index // 10 % 3], icc_profile=noise)
    if what == "ICC huge":
        return what, encoded(image, "JPEG", icc_profile=bytes(200_000))
    if what == "EXIF noise":
        return what, encoded(image, ("PNG", "JPEG")[index // 10 % 2], exif=b"Exif\0\0" + noise)
    if what == "JPEG comment":
        return what, encoded(image, "JPEG", comment=noise)
    if what == "resolution":
        return what, encoded(image, "JPEG", dpi=(0, 65535))
    if what == "long comment":
        info.add_text("Comment", "x" * 500_000)
    elif what == "many texts":
        for k in range(3000):
            info.add_text(f"k{k}", "v")
    elif what == "zTXt bomb":
        info.add_text("Comment", "x" * 30_000_000, zip=True)
    elif what == "gamma of zero":
        info.add(b"gAMA", bytes(4))
    else:
        info.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta>" * 1000)
    return what, encoded(image, "PNG", pnginfo=info)


def _metadata(index: int, rng, folder: Path) -> Case:
    what, content = _odd_texts(index, rng, folder)
    path = put(folder / "a.png", content)
    check = _like(_array(drawn(7)[0]), 0.04)
    must = "either" if "bomb" in what or "noise" in what else "right"
    return Case(f"metadata: {what}", call=partial(read_image, path), must=must, check=check)


def _moving(index: int, rng, folder: Path) -> Case:
    "The first of several frames or pages is the picture."
    form = ("GIF", "WEBP", "PNG", "TIFF")[index % 4]
    frames = [drawn(k)[0] for k in range(3)]
    content = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    path = put(folder / f"a.{ENDING[form]}", content)
    check = _like(_array(frames[0]), 0.06)
    call = partial(read_image, path)
    return Case(f"{form} of three frames", call=call, must="right", check=check)


def _deep_file(what: str, grey: np.ndarray) -> tuple[str, bytes]:
    "A grey picture of 8 bits, stored deeper."
    values = {
        "16 bits": (grey.astype(np.uint16) * 257, "PNG"),
        "12 in 16": (grey * np.uint16(16), "PNG"),
        "10 in 16": (grey * np.uint16(4), "PNG"),
        "14 in 16": (grey * np.uint16(64), "PNG"),
        "8 in 16": (grey.astype(np.uint16), "PNG"),
        "16 bits TIFF": (grey * np.uint16(257), "TIFF"),
        "12 in 16 TIFF": (grey * np.uint16(16), "TIFF"),
        "8 in 32": (grey.astype(np.int32), "TIFF"),
        "16 in 32": (grey.astype(np.int32) * 257, "TIFF"),
        "float to 1": (grey.astype(np.float32) / 255, "TIFF"),
        "float to 255": (grey.astype(np.float32), "TIFF"),
        "float to 65535": (grey.astype(np.float32) * 257, "TIFF"),
        "negative": (grey.astype(np.int32) - 300, "TIFF"),
        "24 in 32": (grey.astype(np.int32) * 65793, "TIFF"),
        "NaN": (np.where(grey > 99, np.nan, grey / 255).astype(np.float32), "TIFF"),
        "infinite": (np.where(grey > 99, np.inf, grey / 255).astype(np.float32), "TIFF"),
    }
    array, form = values[what]
    return form, encoded(Image.fromarray(array), form)


DEEP = (
    "16 bits",
    "12 in 16",
    "10 in 16",
    "14 in 16",
    "8 in 16",
    "16 bits TIFF",
    "12 in 16 TIFF",
    "8 in 32",
    "16 in 32",
    "float to 1",
    "float to 255",
    "float to 65535",
    "negative",
    "24 in 32",
    "NaN",
    "infinite",
)


def _deep_picture(index: int, rng, folder: Path) -> Case:
    "More bits of grey than eight: as light as it is, or said."
    what = DEEP[index % len(DEEP)]
    grey = np.asarray(drawn(index)[0].convert("L")).copy()
    grey[0, 0] = 255  # all of its range is used
    form, content = _deep_file(what, grey)
    path = put(folder / f"a.{ENDING[form]}", content)
    expected = np.repeat(grey[..., None].astype(np.float32) / 255, 3, 2)

    def check(answer: Answer) -> str:
        if what in ("negative", "NaN", "infinite"):
            return "values that are no greys are accepted"
        return _like(expected, 0.01)(answer)

    must = "right" if what in ("16 bits", "16 bits TIFF", "float to 1") else "either"
    return Case(f"deep grey: {what}", call=partial(read_image, path), must=must, check=check)


def _bitten(content: bytes, rng) -> tuple[str, bytes]:
    "A file's content with something gone wrong on its way."
    n = len(content)
    how = int(rng.integers(7))
    if how == 0:
        return "cut", content[: int(n * rng.random())]
    if how == 1:
        damaged = bytearray(content)
        for place in rng.integers(0, n, int(rng.integers(1, 30))):
            damaged[place] ^= 1 << int(rng.integers(8))
        return "bits flipped", bytes(damaged)
    if how == 2:
        damaged = bytearray(content)
        for place in rng.integers(0, min(n, 60), int(rng.integers(1, 6))):
            damaged[place] = int(rng.integers(256))
        return "head damaged", bytes(damaged)
    if how == 3:
        at = int(rng.integers(n))
        return "a hole", content[:at] + bytes(min(200, n - at)) + content[at + 200 :]
    if how == 4:
        return "line ends", content.replace(b"\n", b"\r\n")
    if how == 5:
        return "a tail", content + rng.integers(0, 256, 999).astype(np.uint8).tobytes()
    return "a mark before", b"\xef\xbb\xbf" + content


def _finite(answer: Answer) -> str:
    "A check of a picture that nobody knows: it is one."
    value = answer.value
    if value.ndim != 3 or value.shape[0] != 3:
        return f"its shape is {tuple(value.shape)}"
    low, high = float(value.min()), float(value.max())
    return "" if 0 <= low <= high <= 1 else f"its values lie in [{low}, {high}]"


def _damaged_picture(index: int, rng, folder: Path) -> Case:
    form, mode = VALID[int(rng.integers(len(VALID)))]
    image = drawn(index)[0]
    stored = image.quantize(64) if mode == "P" else image.convert("RGB" if mode == "LAB" else mode)
    how, content = _bitten(encoded(stored, form), rng)
    path = put(folder / f"a.{ENDING[form]}", content)
    return Case(f"{form} {mode}, {how}", call=partial(read_image, path), check=_finite)


def _with_palette_trouble(index: int) -> bytes:
    "Small PNG files by hand whose headers and pixels do not agree."
    rows = (WIDTH + 1) * HEIGHT
    return (
        png(WIDTH, HEIGHT, 8, 3, bytes(rows)),  # no palette
        png(1, 1, 8, 3, b"\0\0"),
        png(WIDTH, HEIGHT, 8, 3, b"\x09" * rows, (b"PLTE", bytes(3))),  # indices beyond it
        png(WIDTH, HEIGHT, 8, 3, bytes(rows), (b"PLTE", b"")),
        png(WIDTH, HEIGHT, 8, 3, bytes(rows), (b"tRNS", bytes(300))),
        png(WIDTH, HEIGHT, 16, 2, bytes((6 * WIDTH + 1) * HEIGHT)),
        png(WIDTH, HEIGHT, 3, 7, bytes(rows)),  # no such colour type
        png(0, 0, 8, 2, b""),
        png(2**31 - 1, 1, 8, 0, b"\0"),
        png(WIDTH, HEIGHT, 8, 0, b""),
        png(WIDTH, HEIGHT, 8, 4, bytes((2 * WIDTH + 1) * HEIGHT), (b"tRNS", b"\0\1")),
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a" + struct.pack("<HHBBB", 9, 9, 0, 0, 0) + b",\0\0\0\0\x09\0\x09\0\0\x02\0;",
        b"BM" + bytes(60),
        b"II*\0\x08\0\0\0\0\0",
        b"RIFF\x10\0\0\0WEBPVP8 ",
        b"\xff\xd8\xff",
    )[index % 17]


def _rest_is_read(index: int, rng, folder: Path, kit: Kit) -> Case:
    "One odd file among three photographs: the three are read, whatever the command."
    ph = photographs(folder / "ph")
    if index % 3 == 0:
        how, content = _bitten(encoded(drawn(5)[0], str(rng.choice(list(ENDING)))), rng)
    elif index % 3 == 1:
        how, content = f"by hand {index // 3 % 17}", _with_palette_trouble(index // 3)
    else:
        what = DEEP[index // 3 % len(DEEP)]
        how, content = what, _deep_file(what, np.asarray(drawn(5)[0].convert("L")))[1]
    name = ("odd.png", "p00.png", "z.jpg")[int(rng.integers(3))]
    put(ph / name, content)
    return _counted(index, ph, kit, f"among others: {how}", {3, 4})


def _counted(index: int, ph: Path, kit: Kit, label: str, counts: set[int], **more) -> Case:
    "Any of the four commands on a folder, with the number of photographs it has to find."
    name = ("data", "segment", "saliency", "discover")[index % 4]
    o = ph.parent / "o"
    words, pattern = {
        "data": (["data", ph], r"photographs\s+(\d+)"),
        "segment": (["segment", kit.model, ph, "--out", o], r"(\d+) images? segmented"),
        "saliency": (["saliency", ph, "--size", 32, "--patches", 8, "--out", o], r"(\d+) written"),
        "discover": (["discover", "--data", ph, *QUICK, "--out", o], r"(\d+) pictures? to learn"),
    }[name]

    def check(answer: Answer) -> str:
        found = re.search(pattern, answer.out)
        if not found:
            return f"{name} does not say how many there were"
        if int(found[1]) not in counts:
            return f"{name} found {found[1]} photographs, not {' or '.join(map(str, counts))}"
        return _outputs(name, o, int(found[1]))

    more = {"must": "right", "writes": ("o",)} | more
    return Case(f"{name}, {label}", words, check=check, **more)


def _outputs(name: str, out: Path, count: int) -> str:
    "What is missing or unreadable among what a command wrote; empty if nothing is."
    files = [p for p in out.rglob("*.png")] if out.exists() else []
    expected = {"data": 0, "segment": 2 * count, "saliency": count, "discover": 1}[name]
    if len(files) != expected:
        return f"{len(files)} pictures were written, not {expected}"
    for path in files:
        with Image.open(path) as image:
            image.load()
    return ""


def _claims(index: int, rng, folder: Path) -> Case:
    "Headers that claim much, in small files; and one that holds it."
    what = index % 9
    side = (12000, 13000, 30000, 65500)[index // 9 % 4]
    if what == 0:
        content = _resized_jpeg(side)
    elif what in (1, 2):
        content = png(side, side, 8, (0, 2)[what - 1], bytes(1000))
    elif what == 3:
        content = png(min(side, 13000), min(side, 13000), 1, 0, bytes(1626 * min(side, 13000)))
    elif what == 4:
        head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
        content = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head
    elif what == 5:
        image = encoded(drawn(0)[0], "GIF")
        content = image[:6] + struct.pack("<HH", side % 65536, side % 65536) + image[10:]
    elif what == 6:
        content = _tiff_claim(side)
    elif what == 7:
        content = encoded(drawn(0)[0], "WEBP", lossless=True)
        content = content[:21] + struct.pack("<I", 0x3FFF | 0x3FFF << 14) + content[25:]
    else:
        content = png(20000, 20000, 8, 6, b"")
    path = put(folder / "a.png", content)
    return Case(f"claims {side}: {what}", call=partial(read_image, path), check=_finite, limit=6)


def _resized_jpeg(side: int) -> bytes:
    "A JPEG of few bytes whose frame header claims `side` pixels each way."
    content = bytearray(encoded(drawn(0)[0], "JPEG"))
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(content)


def _tiff_claim(side: int) -> bytes:
    tags = (
        (256, side),
        (257, side),
        (258, 8),
        (259, 1),
        (262, 1),
        (273, 200),
        (277, 1),
        (278, side),
        (279, 99),
    )
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(200)


def _by_hand(index: int, rng, folder: Path) -> Case:
    path = put(folder / "a.png", _with_palette_trouble(index))
    return Case(f"by hand {index % 17}", call=partial(read_image, path), check=_finite)


PICTURES = (
    _valid,
    _damaged_picture,
    _rest_is_read,
    _deep_picture,
    _turned_picture,
    _damaged_picture,
    _rest_is_read,
    _valid,
    _metadata,
    _by_hand,
    _damaged_picture,
    _claims,
    _moving,
    _rest_is_read,
    _damaged_picture,
)


@kind("pictures", 190)
def pictures(index: int, rng, folder: Path, kit: Kit) -> Case:
    make = PICTURES[index % len(PICTURES)]
    before = sum(PICTURES[k % len(PICTURES)] is make for k in range(index))
    return make(before, rng, folder, kit) if make is _rest_is_read else make(before, rng, folder)


# ----------------------------------------------------------------------------------------- folders


def _own_results(ph: Path, kit: Kit, rng) -> set[int]:
    kit.copy(kit.out, ph / str(rng.choice(["partbook-out", "o2", "results/a"])))
    return {3}


def _own_labels(ph: Path, kit: Kit, rng) -> set[int]:
    run("segment", kit.model, ph, "--out", ph.parent / "labelled")
    kit.copy(ph.parent / "labelled", ph / "labelled")
    return {3}


def _thumbnails(ph: Path, kit: Kit, rng) -> set[int]:
    for i in range(3):
        small = encoded(drawn(i)[0].resize((24, 20)), "JPEG")
        put(ph / "@eaDir" / f"p{i}.png" / "SYNOPHOTO_THUMB_M.jpg", small)
    return {3}


def _mac(ph: Path, kit: Kit, rng) -> set[int]:
    put(ph / "__MACOSX" / "._p0.png", b"\0\5\x16\7" + bytes(50))
    put(ph / "._p1.png", b"\0\5\x16\7" + bytes(50))
    put(ph / ".DS_Store", b"\0\0\0\1Bud1")
    put(ph / "Thumbs.db", b"\xd0\xcf\x11\xe0")
    put(ph / ".thumbnails" / "p0.png", encoded(drawn(0)[0]))
    return {3}


def _deep(ph: Path, kit: Kit, rng) -> set[int]:
    put(ph.joinpath(*[f"d{k}" for k in range(40)]) / "x.png", encoded(drawn(4)[0]))
    return {4}


def _links(ph: Path, kit: Kit, rng) -> set[int]:
    (ph / "deep").mkdir()
    (ph / "deep" / "up").symlink_to(ph)
    (ph / "self").symlink_to("self")
    (ph / "lost.png").symlink_to("nowhere.png")
    (ph / "loop.png").symlink_to("loop.png")
    (ph / "again").symlink_to("deep")
    return {3}


def _devices(ph: Path, kit: Kit, rng) -> set[int]:
    os.mkfifo(ph / "pipe.jpg")
    (ph / "zero.png").symlink_to(device(ph.parent, "zero"))
    (ph / "full.jpg").symlink_to(device(ph.parent, "full"))
    (ph / "p9.png").mkdir()
    with socket.socket(socket.AF_UNIX) as s:
        place = os.getcwd()
        os.chdir(ph)
        s.bind("socket.png")
        os.chdir(place)
    return {3}


def _odd_names(ph: Path, kit: Kit, rng) -> set[int]:
    names = (
        b"caf\xe9.png",
        b"a\nb.png",
        b"-x.png",
        b"a b.png",
        "🦜.png".encode(),
        b"%d%s.png",
        b"'q\".png",
        b"a,b;c.png",
        b"CON.png",
        b"x..png",
        b"\xff.png",
        b"$(id).png",
        b"#1.png",
        b"\x1b[31m.png",
        b"a\rb.png",
        b"\xe2\x80\xae.png",
        b"n" * 240 + b".png",
    )
    for name in rng.choice(len(names), 2, replace=False):
        put(ph / os.fsdecode(names[name]), encoded(drawn(5)[0]))
    return {5}


def _odd_unreadable(ph: Path, kit: Kit, rng) -> set[int]:
    for name in (b"br\xfck.jpg", b"x\ny.png", "é.png".encode()):
        put(ph / os.fsdecode(name), b"no picture")
    return {3}


def _odd_folder_names(ph: Path, kit: Kit, rng) -> set[int]:
    names = (b"caf\xe9", b"a\nb", b"-x", b"with space", b"masks2", b"..dots", b"n" * 250, b"~")
    put(ph / os.fsdecode(names[int(rng.integers(len(names)))]) / "a.png", encoded(drawn(5)[0]))
    return {4}


FOLDERS = {
    "own results": _own_results,
    "own labels": _own_labels,
    "thumbnails": _thumbnails,
    "of a Macintosh": _mac,
    "deep": _deep,
    "links": _links,
    "devices": _devices,
    "odd names": _odd_names,
    "unreadable odd names": _odd_unreadable,
    "odd folder names": _odd_folder_names,
}


def _filled(index: int, rng, folder: Path, kit: Kit) -> Case:
    label = list(FOLDERS)[index // 4 % len(FOLDERS)]
    ph = photographs(folder / "ph")
    counts = FOLDERS[label](ph, kit, rng)
    writes = ("o", "labelled")
    encoding = str(rng.choice(["utf-8", "ascii", "latin-1"])) if "names" in label else "utf-8"
    case = _counted(index, ph, kit, label, counts, writes=writes, encoding=encoding)
    return case


def _phone(index: int, rng, folder: Path, kit: Kit) -> Case:
    "Most of a phone's photographs are of a kind that is not read: said."
    ph = photographs(folder / "ph")
    ending = ("HEIC", "heif", "avif", "CR2", "NEF", "dng", "jxl", "JP2")[index % 8]
    for i in range(20):
        put(ph / f"IMG_{i}.{ending}", b"\0\0\0\x18ftypheic" + bytes(99))
    case = _counted(index // 8, ph, kit, f"20 {ending} beside 3 PNG", {3})
    count = case.check

    def check(answer: Answer) -> str:
        said = re.search(ending, answer.out, re.I) or re.search(
            "20.{1,40}(ignored|other)|other.{1,40}20", answer.out
        )
        return count(answer) or ("" if said else f"not a word about 20 {ending} files")

    case.check = check
    return case


def _called(index: int, rng, folder: Path, kit: Kit) -> Case:
    "A folder of photographs called like a collection: never the drawn ones in silence."
    name = ("birds", "faces", "figures", "vehicles", "cub", "folder", "celeba")[index % 7]
    photographs(folder / name)
    words = ["data", name if index % 2 else f"{name}/"]

    def check(answer: Answer) -> str:
        own = re.search(r"photographs\s+3", answer.out) or re.search(
            rf"\./{name}|{name}/|folder", answer.out
        )
        return "" if own else f"the collection {name} was taken, not a word about ./{name}"

    return Case(f"folder called {name}", words, check=check)


def _nothing(index: int, rng, folder: Path, kit: Kit) -> Case:
    "Paths that lead to no photographs at all."
    (folder / "empty").mkdir()
    (folder / "texts").mkdir()
    put(folder / "texts" / "a.txt", "a")
    put(folder / "file.png", encoded(drawn(0)[0]))
    os.mkfifo(folder / "pipe")
    (folder / "lost").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    device(folder, "null")
    device(folder, "zero")
    paths = (
        "empty",
        "texts",
        "file.png",
        "pipe",
        "lost",
        "loop",
        "",
        " ",
        "n" * 300,
        "d/" * 3000,
        "a\0b",
        "~nosuchuser/x",
        "file.png/x",
        os.fsdecode(b"\xff\xfe"),
        "null",
        "-",
        "zero",
        "nowhere",
    )
    path = paths[index % len(paths)]
    command = ("data", "segment", "saliency", "discover", "image")[index // len(paths) % 5]
    words = {
        "data": ["data", path],
        "segment": ["segment", kit.model, path, "--out", "o"],
        "saliency": ["saliency", path],
        "discover": ["discover", "--data", path, "--out", "o"],
        "image": ["segment", kit.model, folder / "file.png", path, "--out", "o"],
    }[command]
    fine = command in ("segment", "image") and path == "file.png"
    must, writes = ("either", ("o",)) if fine else ("refused", ())
    limit = 4.0 if path in ("pipe", "zero", "null") else None
    return Case(f"{command} {path[:20]!r}", words, must=must, writes=writes, limit=limit)


def _closed(index: int, rng, folder: Path, kit: Kit) -> Case:
    "Folders and files that may not be entered or read."
    ph = photographs(folder / "ph")
    what = ("picture", "sub-folder", "folder", "above", "masks", "unwritable")[index % 6]
    put(ph / "sub" / "x.png", encoded(drawn(4)[0]))
    shut = {
        "picture": ph / "p1.png",
        "sub-folder": ph / "sub",
        "folder": ph,
        "above": folder / "a",
        "masks": ph / "masks",
        "unwritable": folder / "o",
    }[what]
    if what == "above":
        photographs(folder / "a" / "ph")
        ph = folder / "a" / "ph"
    shut.mkdir(exist_ok=True) if what in ("masks", "unwritable") else None
    case = _counted(index // 6 + index, ph, kit, f"closed: {what}", {2, 3, 4})
    shut.chmod(0o555 if what == "unwritable" else 0)
    case.nobody = True
    case.must = "either" if what in ("picture", "sub-folder", "masks", "unwritable") else "refused"
    return case


FOLDER_CASES = (_filled, _nothing, _filled, _phone, _filled, _nothing, _closed, _called, _nothing)


@kind("folders", 130)
def folders(index: int, rng, folder: Path, kit: Kit) -> Case:
    make = FOLDER_CASES[index % len(FOLDER_CASES)]
    before = sum(FOLDER_CASES[k % len(FOLDER_CASES)] is make for k in range(index))
    return make(before, rng, folder, kit)
