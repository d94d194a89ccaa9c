"""Pictures: deep greys, odd files, bounds, bytes beside floats, and what a check costs."""

import io
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from partbook.core import InputError
from partbook.data import pictures
from partbook.data.folder import Folder
from partbook.data.masks import read_mask, read_soft_map
from partbook.data.pictures import (
    MAX_PIXELS,
    UnreadablePicture,
    check_picture,
    image_size,
    read_header,
    read_image,
    read_pixels,
)

READERS = (read_image, read_pixels, check_picture, read_header, read_mask, read_soft_map)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, colour: int, data: bytes, bits: int = 8) -> bytes:
    "A PNG of any header around packed rows."
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def blob(height: int = 40, width: int = 60) -> np.ndarray:
    "(H,W,3) bytes: a smooth picture in which no two corners are alike."
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / (width - 1), 255 * y / (height - 1), 127 + 0 * x], -1).astype(
        np.uint8
    )


GREY = np.linspace(20, 250, 64).round().astype(np.uint16)[None].repeat(16, 0)
DEEP = {  # name: (array, mean of the picture)
    "8 in 16.png": (GREY, GREY.mean() / 255),
    "10 in 16.png": (GREY * 4, GREY.mean() * 4 / 1023),
    "12 in 16.png": (GREY * 16, GREY.mean() * 16 / 4095),
    "14 in 16.png": (GREY * 64, GREY.mean() * 64 / 16383),
    "16.png": (GREY * 257, GREY.mean() / 255),
    "12 moved up.png": ((GREY * 16 << 4).astype(np.uint16), GREY.mean() * 256 / 65535),
    "8 in 32.tif": (GREY.astype(np.int32), GREY.mean() / 255),
    "12 in 32.tif": (GREY.astype(np.int32) * 16, GREY.mean() * 16 / 4095),
    "floats.tif": ((GREY / 255).astype(np.float32), GREY.mean() / 255),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_greys_are_scaled_by_their_bits(tmp_path, name):
    values, mean = DEEP[name]
    Image.fromarray(values).save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert float(image.mean()) == pytest.approx(mean, abs=1e-4) and 0.3 < mean < 0.6
    assert torch.equal(image[0], image[2])
    pixels = read_pixels(tmp_path / name)
    assert (
        pixels.dtype == torch.uint8
        and (pixels.float() / 255 - image).abs().max() <= 0.5 / 255 + 1e-6
    )
    small = read_image(tmp_path / name, at_least=4)
    assert float(small.mean()) == pytest.approx(mean, abs=1e-4) and small.shape == (3, 4, 16)


@pytest.mark.parametrize(
    "values, text",
    [
        (np.array([[0, 70000]], np.int32), r"\[0, 70000\], but sixteen bits end at 65535"),
        (np.array([[-5, 70]], np.int32), r"\[-5, 70\], but sixteen bits"),
        (np.array([[0, 1.5]], np.float32), r"\[0, 1.5\], but float pictures are read in \[0, 1\]"),
        (np.array([[0, np.nan]], np.float32), r"float pictures are read in \[0, 1\]"),
        (np.array([[0, np.inf]], np.float32), r"float pictures are read in \[0, 1\]"),
    ],
)
def test_greys_out_of_range_are_a_sentence(tmp_path, values, text):
    Image.fromarray(values).save(tmp_path / "a.tif")
    for reader in (read_image, read_pixels, check_picture):
        with pytest.raises(UnreadablePicture, match=text):
            reader(tmp_path / "a.tif")


def test_a_folder_of_several_depths_says_so(tmp_path):
    for n, (values, _) in enumerate(list(DEEP.values())[1:4]):
        Image.fromarray(values).save(tmp_path / f"{n}.png")
    for size in (None, 8):
        (line,) = Folder.open(tmp_path, size=size).remarks()
        assert "1 of 10, 1 of 12 and 1 of 14 bits" in line
    for n in range(3):
        Image.fromarray(GREY * 257).save(tmp_path / f"{n}.png")
    assert Folder.open(tmp_path).remarks() == []


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA", "CMYK", "I;16"])
@pytest.mark.parametrize("turn", [1, 3, 5, 6, 8])
def test_bands_join_to_the_whole(tmp_path, monkeypatch, mode, turn):
    "However high a band is, whichever way the picture lies and however it is shrunk."
    ending = "tif" if mode == "CMYK" else "png"
    turn = 1 if ending == "tif" else turn
    picture = Image.fromarray(blob(37, 53))
    if mode in ("RGBA", "LA"):
        picture.putalpha(Image.fromarray(blob(37, 53)[..., 0]))
    picture = (
        Image.fromarray(blob(37, 53)[..., 0].astype(np.uint16) * 257)
        if mode == "I;16"
        else picture.convert(mode)
    )
    note = Image.Exif()
    note[0x0112] = turn
    picture.save(tmp_path / f"a.{ending}", exif=note)
    whole = [read_image(tmp_path / f"a.{ending}", at_least=n) for n in (None, 5)]
    monkeypatch.setattr(pictures, "BAND", 200)
    for first, n in zip(whole, (None, 5)):
        assert torch.equal(read_image(tmp_path / f"a.{ending}", at_least=n), first)
        bytes_ = read_pixels(tmp_path / f"a.{ending}", at_least=n)
        assert bytes_.shape == first.shape and torch.equal(bytes_, (first * 255).round().byte())
    assert image_size(tmp_path / f"a.{ending}") == tuple(whole[0].shape[1:])


def test_transparent_pixels_lie_on_white_before_they_are_shrunk(tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:, ::2] = (0, 0, 0, 255)
    pixels[:, 1::2] = (255, 0, 0, 0)  # hidden red
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_pixels(tmp_path / "a.png", at_least=2).unique().tolist() == [128]


ODD = {
    "palette missing.png": png(4, 4, 3, b"\0\0\1\2\3" * 4),
    "no pixels.png": png(0, 4, 0, b""),
    "no stream.png": b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0))
    + chunk(b"IEND", b""),
    "odd bits.png": png(4, 4, 2, b"\0" * 52, bits=3),
    "only a start.jpg": b"\xff\xd8\xff",
    "no tables.jpg": b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x04\x00\x04\x01\x01\x11\x00\xff\xd9",
    "a riff.webp": b"RIFF\x10\x00\x00\x00WEBPVP8 \x04\x00\x00\x00\x00\x00\x00\x00",
    "no tags.tif": b"II*\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    "wild offset.tif": b"II*\x00\xf0\xff\xff\xff",
    "a head.bmp": b"BM" + bytes(24),
    "a head.gif": b"GIF89a\x04\x00\x04\x00\x80\x00\x00",
}


@pytest.mark.parametrize("name", ODD)
def test_one_odd_picture_does_not_end_the_others(tmp_path, name):
    (tmp_path / name).write_bytes(ODD[name])
    for n in range(2):
        Image.fromarray(blob()).save(tmp_path / f"{n}.png")
    for size in (None, 16):
        folder = Folder.open(tmp_path, size=size)
        assert folder.names == ["0.png", "1.png"] and [n for n, _ in folder.skipped] == [name]
    for reader in READERS:
        if reader is read_header and name in ("no stream.png", "no tables.jpg", "a riff.webp"):
            continue  # the header is all right
        with pytest.raises(UnreadablePicture) as error:
            reader(tmp_path / name)
        assert str(error.value).endswith(".") and "\n" not in str(error.value)


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(blob(24, 32)).convert("P" if kind == "GIF" else "RGB").save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_damaged_bytes_are_pictures_or_sentences(tmp_path, kind):
    "And what passes the check can be read."
    random, content, path = np.random.default_rng(0), encoded(kind), tmp_path / "a.png"
    verdicts = set()
    for n in range(40):
        damaged = bytearray(content)
        for place in random.integers(0, min(len(content), 200 if n % 2 else 10**6), 1 + n % 5):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged[: random.integers(20, len(content))] if n % 4 == 0 else damaged)
        results = []
        for reader in READERS:
            try:
                reader(path)
                results.append(True)
            except UnreadablePicture as error:
                assert "\n" not in str(error)
                results.append(False)
        assert results[0] == results[1] and (results[0] or not results[2]), n
        verdicts.add(results[0])
    assert verdicts == {True, False} or kind in ("BMP", "GIF")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_devices_and_long_names(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    places = {
        tmp_path / "pipe.png": "a pipe or a device",
        Path("/dev/zero"): "a pipe or a device",
        tmp_path / ("x" * 300): "the name is too long",
        tmp_path: "a folder, not a file",
        tmp_path / "gone.png": "no such file",
    }
    for cached in (False, True):
        if cached:
            monkeypatch.setenv("PARTBOOK_CACHE", str(tmp_path / "cache"))
        for place, reason in places.items():
            for reader in READERS:
                with pytest.raises(UnreadablePicture, match=reason):
                    reader(place)


def test_names_in_odd_bytes(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        (tmp_path / name).write_bytes(b"no picture")
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    with pytest.raises(UnreadablePicture, match=r"caf\\xe9.png cannot be read"):
        read_image(tmp_path / name)
    Image.fromarray(blob()).save(tmp_path / name)
    Image.fromarray(blob()).save(tmp_path / "b.png")
    folder = Folder.open(tmp_path, size=16)
    assert len(folder) == 2 and torch.equal(folder[0].image, folder[1].image)


def test_files_that_claim_more_than_they_hold(tmp_path):
    side = 6000  # 36 million pixels
    (tmp_path / "empty.png").write_bytes(png(side, side, 0, bytes((side + 1) * side)))
    (tmp_path / "too many.png").write_bytes(png(20000, 20000, 0, b""))
    jpeg = io.BytesIO()
    Image.fromarray(blob()).save(jpeg, "JPEG")
    content = bytearray(jpeg.getvalue())
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = struct.pack(">HH", 12000, 12000)
    (tmp_path / "claim.jpg").write_bytes(content)
    Image.fromarray(blob()).save(tmp_path / "good.png")
    begun = time.perf_counter()
    folder = Folder.open(tmp_path)
    assert time.perf_counter() - begun < 2 and folder.names == ["good.png"]
    why = dict(folder.skipped)
    assert why["empty.png"].startswith("it claims 6000x6000 pixels in 35") and why[
        "empty.png"
    ].endswith("scale it down first")
    assert (
        "12000x12000" in why["claim.jpg"]
        and f"{MAX_PIXELS // 10**6} million" in why["too many.png"]
    )


def test_a_large_empty_mask_is_a_mask(tmp_path):
    side = 6000
    rows = bytearray((side + 1) * side)
    rows[3000 * (side + 1) :] = (b"\0" + b"\xff" * side) * 3000
    (tmp_path / "half.png").write_bytes(png(side, side, 0, bytes(rows)))
    assert os.path.getsize(tmp_path / "half.png") < 60_000
    assert float(read_mask(tmp_path / "half.png").float().mean()) == 0.5
    assert image_size(tmp_path / "half.png", drawn=True) == (side, side)
    with pytest.raises(UnreadablePicture, match="more than 100 for each byte"):
        read_image(tmp_path / "half.png")


def camera(path: Path, width: int, height: int, **how) -> None:
    "A photograph of many pixels: grain on a blur."
    random = np.random.default_rng(0)
    base = Image.fromarray(
        random.integers(0, 255, (height // 100, width // 100, 3), dtype=np.uint8)
    )
    values = np.asarray(base.resize((width, height), Image.Resampling.BICUBIC)) // 2
    values = values + random.integers(0, 9, (height, width, 1), dtype=np.uint8)
    Image.fromarray(values).save(path, **how)


MEASURE = """
import resource, sys
from partbook.data import pictures
unit = 1 if sys.platform == "darwin" else 1024
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
pictures.read_image(sys.argv[2] + ".small.jpg")
before = peak()
result = getattr(pictures, sys.argv[1])(sys.argv[2])
print((peak() - before) / (4000 * 3000))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
@pytest.mark.parametrize(
    "reader, most", [("read_image", 16.5), ("read_pixels", 9), ("check_picture", 2)]
)
def test_bytes_a_pixel(tmp_path, root, reader, most):
    path = tmp_path / "a.jpg"
    camera(path, 4000, 3000, quality=85)
    Image.fromarray(blob()).save(tmp_path / "a.jpg.small.jpg")
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, reader, path],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(run.stdout) < most


def test_a_check_finds_what_reading_would(tmp_path):
    "Truncated photographs of every format, large enough not to be decoded in full."
    for ending in ("jpg", "png", "webp", "tif"):
        camera(tmp_path / f"whole.{ending}", 1600, 1200)
        content = (tmp_path / f"whole.{ending}").read_bytes()
        for share in (0.3, 0.9):
            (tmp_path / f"cut{share}.{ending}").write_bytes(content[: int(share * len(content))])
            with pytest.raises(UnreadablePicture, match="truncated or damaged"):
                check_picture(tmp_path / f"cut{share}.{ending}")
        header, bits = check_picture(tmp_path / f"whole.{ending}")
        assert (header.height, header.width, bits) == (1200, 1600, 8)
    damaged = bytearray((tmp_path / "whole.png").read_bytes())
    damaged[len(damaged) // 2] ^= 255
    (tmp_path / "flipped.png").write_bytes(damaged)
    with pytest.raises(UnreadablePicture):
        check_picture(tmp_path / "flipped.png")


def test_sizes_of_turned_tiffs_come_from_the_header(tmp_path, monkeypatch):
    for turn in (1, 3, 6, 8):
        note = Image.Exif()
        note[0x0112] = turn
        Image.fromarray(blob(20, 30)).save(tmp_path / "a.tif", exif=note)
        expected = tuple(read_image(tmp_path / "a.tif").shape[1:])
        with monkeypatch.context() as patch:
            patch.setattr(Image.Image, "load", lambda self: 1 / 0)
            assert (
                image_size(tmp_path / "a.tif") == expected == ((30, 20) if turn > 4 else (20, 30))
            )


@pytest.mark.parametrize(
    "entry",
    [
        np.zeros((2, 2), np.int64),
        np.zeros((2, 2, 4), np.uint8),
        np.zeros(3, np.float32),
        np.zeros((2, 2, 3, 1), np.uint8),
    ],
)
def test_cache_entries_of_another_kind_are_made_again(tmp_path, monkeypatch, entry):
    Image.fromarray(blob()).save(tmp_path / "a.png")
    plain = read_image(tmp_path / "a.png")
    monkeypatch.setenv("PARTBOOK_CACHE", str(tmp_path / "cache"))
    read_image(tmp_path / "a.png")
    (path,) = (tmp_path / "cache").rglob("*.npy")
    np.save(path, entry)
    assert torch.equal(read_image(tmp_path / "a.png"), plain) and torch.equal(
        read_pixels(tmp_path / "a.png"), (plain * 255).round().byte()
    )


def test_an_unreadable_picture_is_wrong_input():
    assert issubclass(UnreadablePicture, InputError)


def test_lab_is_that_of_scikit_image():
    rgb2lab = pytest.importorskip("skimage.color", reason="no scikit-image here").rgb2lab
    picture = torch.rand(2, 3, 40, 28, generator=torch.Generator().manual_seed(3))
    reference = rgb2lab(picture.movedim(1, -1).numpy())
    assert np.allclose(100 * pictures.lab(picture).movedim(1, -1).numpy(), reference, atol=0.02)
