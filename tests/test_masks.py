"""Masks: one drawing in many files, held against it; and what is said of masks of no use."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

from partbook.core import InputError
from partbook.data.masks import (
    look_at_mask,
    read_mask,
    read_soft_map,
    sampled_looks,
    seen_mask,
    verdicts_said,
)
from partbook.data.pictures import UnreadablePicture
from partbook.parts.plots import write_palette_png

W, H = 128, 96


def drawing() -> Image.Image:
    "A bird of three ellipses, white on black."
    image = Image.new("L", (W, H), 0)
    pen = ImageDraw.Draw(image)
    for box in [(30, 30, 90, 80), (75, 14, 105, 44), (15, 45, 40, 58)]:
        pen.ellipse(box, fill=255)
    return image


BIRD = drawing()
TRUTH = np.asarray(BIRD) > 127
RANDOM = np.random.default_rng(0)
PHOTOGRAPH = np.asarray(
    Image.fromarray(RANDOM.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
        (W, H), Image.Resampling.BICUBIC
    )
)


def grey(white: int = 255, black: int = 0, kind: type = np.uint8) -> Image.Image:
    return Image.fromarray(np.where(TRUTH, white, black).astype(kind))


def through_jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def painted(ink: tuple, ground: tuple) -> Image.Image:
    return Image.fromarray(np.where(TRUTH[..., None], ink, ground).astype(np.uint8))


def palette(colours: list[int], indices: np.ndarray) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(colours)
    return image


def cut_out(colour: np.ndarray, opacity: np.ndarray | None = None) -> Image.Image:
    return Image.fromarray(
        np.dstack([colour, 255 * TRUTH if opacity is None else opacity]).astype(np.uint8)
    )


def with_clear_index() -> Image.Image:
    image = palette([0, 0, 0, 255, 255, 255], TRUTH)
    image.info["transparency"] = 0
    return image


LEFT = np.zeros_like(TRUTH)
LEFT[:, : W // 2] = True
PARTS = np.where(TRUTH, np.where(LEFT, 1, 2), 0)
VOID = np.asarray(BIRD.filter(ImageFilter.MaxFilter(5))) > np.asarray(BIRD)
FULL = np.full((H, W, 3), 255)

FILES = {  # name: (picture, how it is saved, the least overlap with the drawing, kind)
    "0 and 255.png": (BIRD, {}, 1, "two levels"),
    "0 and 1.png": (grey(1), {}, 1, "two levels"),
    "0 and 128.png": (grey(128), {}, 1, "two levels"),
    "0 and 12.png": (grey(12), {}, 1, "two levels"),
    "1 and 255.png": (grey(255, 1), {}, 1, "two levels"),
    "60 and 200.png": (grey(200, 60), {}, 1, "two levels"),
    "120 and 200.png": (grey(200, 120), {}, 1, "two levels"),
    "one bit.png": (BIRD.convert("1"), {}, 1, "two levels"),
    "one bit.tif": (BIRD.convert("1"), {"compression": "group4"}, 1, "two levels"),
    "16 bits, 1.png": (grey(1, 0, np.uint16), {}, 1, "two levels"),
    "16 bits, 255.png": (grey(255, 0, np.uint16), {}, 1, "two levels"),
    "16 bits, 4095.png": (grey(4095, 0, np.uint16), {}, 1, "two levels"),
    "16 bits, 65535.png": (grey(65535, 0, np.uint16), {}, 1, "two levels"),
    "32 bits.tif": (grey(1, 0, np.int32), {}, 1, "two levels"),
    "32 bits, huge.tif": (grey(10**6, 0, np.int32), {}, 1, "two levels"),
    "minus one.tif": (grey(1, -1, np.int32), {}, 1, "two levels"),
    "floats, 1.tif": (grey(1, 0, np.float32), {}, 1, "two levels"),
    "floats, 255.tif": (grey(255, 0, np.float32), {}, 1, "two levels"),
    "soft floats.tif": (
        Image.fromarray(np.asarray(BIRD.filter(ImageFilter.GaussianBlur(1)), np.float32) / 255),
        {},
        0.97,
        "soft",
    ),
    "jpeg 95.jpg": (BIRD, {"quality": 95}, 0.99, "soft"),
    "jpeg 40.jpg": (BIRD, {"quality": 40}, 0.97, "soft"),
    "jpeg 10.jpg": (BIRD, {"quality": 10}, 0.95, "soft"),
    "dim jpeg.jpg": (grey(90), {"quality": 60}, 0.97, "soft"),
    "colour jpeg of greys.jpg": (BIRD.convert("RGB"), {"quality": 50}, 0.97, "soft"),
    "a jpeg in a png.png": (through_jpeg(BIRD, 60), {}, 0.98, "soft"),
    "a jpeg, 256 colours.gif": (through_jpeg(BIRD, 60).convert("P"), {}, 0.98, "soft"),
    "blurred.png": (BIRD.filter(ImageFilter.GaussianBlur(2)), {}, 0.97, "soft"),
    "lossy.webp": (BIRD.convert("RGB"), {"quality": 50}, 0.97, "soft"),
    "gif.gif": (BIRD, {}, 1, "two levels"),
    "bmp.bmp": (BIRD.convert("1"), {}, 1, "two levels"),
    "palette, white first.png": (palette([255] * 3 + [0] * 3, ~TRUTH), {}, 1, "two levels"),
    "palette, black first.png": (palette([0] * 3 + [255] * 3, TRUTH), {}, 1, "two levels"),
    "quantised.png": (BIRD.convert("RGB").quantize(2), {}, 1, "two levels"),
    "quantised, soft.png": (
        BIRD.filter(ImageFilter.GaussianBlur(1)).convert("RGB").quantize(16),
        {},
        0.95,
        "soft",
    ),
    "palette of 0 and 1.png": (palette([0] * 3 + [1] * 3, TRUTH), {}, 1, "two levels"),
    "voc, a chair.png": (palette([0, 0, 0, 192, 0, 0], TRUTH), {}, 1, "colours"),
    "voc, dark plant, pale border.png": (
        palette([0, 0, 0, 0, 64, 0, 224, 224, 192], PARTS),
        {},
        1,
        "colours",
    ),
    "black is third.png": (
        palette([255, 0, 0, 0, 255, 0, 0, 0, 0], np.where(TRUTH, PARTS - 1, 2)),
        {},
        1,
        "colours",
    ),
    "red on black.png": (painted((255, 0, 0), (0, 0, 0)), {}, 1, "colours"),
    "dark blue on black.png": (painted((0, 0, 90), (0, 0, 0)), {}, 1, "colours"),
    "yellow on purple.png": (painted((253, 231, 37), (68, 1, 84)), {}, 1, "colours"),
    "white on blue.png": (painted((255, 255, 255), (0, 0, 200)), {}, 1, "colours"),
    "red jpeg.jpg": (painted((200, 20, 10), (0, 0, 0)), {"quality": 60}, 0.95, "colours"),
    "labels.png": (Image.fromarray(PARTS.astype(np.uint8)), {}, 1, "labels"),
    "labels in 16 bits.png": (Image.fromarray((7 * PARTS).astype(np.uint16)), {}, 1, "labels"),
    "clear ground, white.png": (cut_out(FULL), {}, 1, "two levels"),
    "clear ground, black.png": (cut_out(0 * FULL), {}, 1, "two levels"),
    "clear ground, photograph.png": (cut_out(PHOTOGRAPH), {}, 1, "two levels"),
    "clear ground, photograph.webp": (cut_out(PHOTOGRAPH), {"lossless": True}, 1, "two levels"),
    "soft opacity.png": (
        cut_out(PHOTOGRAPH, np.asarray(BIRD.filter(ImageFilter.GaussianBlur(1)))),
        {},
        0.97,
        "soft",
    ),
    "opaque, black and white.png": (
        cut_out(255 * np.dstack([TRUTH] * 3), FULL[..., 0]),
        {},
        1,
        "two levels",
    ),
    "almost opaque.png": (
        cut_out(255 * np.dstack([TRUTH] * 3), FULL[..., 0] - 1),
        {},
        1,
        "two levels",
    ),
    "a hole in a mask.png": (
        cut_out(255 * np.dstack([TRUTH] * 3), np.where(LEFT & ~TRUTH, 0, 255)),
        {},
        1,
        "two levels",
    ),
    "grey and opacity.png": (
        Image.merge("LA", [Image.new("L", (W, H), 30), BIRD]),
        {},
        1,
        "two levels",
    ),
    "clear index.png": (with_clear_index(), {"transparency": 0}, 1, "two levels"),
    "clear black.gif": (palette([0] * 3 + [255] * 3, TRUTH), {"transparency": 0}, 1, "two levels"),
    "trimap 1, 2.png": (grey(1, 2), {}, 1, "trimap"),
    "trimap 1, 2, 3.png": (
        Image.fromarray(np.where(VOID, 3, np.where(TRUTH, 1, 2)).astype(np.uint8)),
        {},
        1,
        "trimap",
    ),
    "trimap, palette.png": (
        palette([0] * 3 + [1] * 3 + [2] * 3 + [3] * 3, np.where(TRUTH, 1, 2)),
        {},
        1,
        "trimap",
    ),
}


def overlap(found: torch.Tensor) -> float:
    mask = found.numpy()
    return (mask & TRUTH).sum() / (mask | TRUTH).sum()


@pytest.mark.parametrize("name", FILES)
def test_a_mask_is_read_as_it_looks(tmp_path, name):
    image, how, least, kind = FILES[name]
    path = tmp_path / f"m.{name.rpartition('.')[2]}"
    image.save(path, **how)
    mask, look = seen_mask(path)
    assert (
        mask.dtype == torch.bool and overlap(mask) >= least and torch.equal(mask, read_mask(path))
    )
    assert (
        look == look_at_mask(path)
        and look.kind == kind
        and look.share == pytest.approx(float(mask.float().mean()))
    )
    assert look.verdict == ("trimap" if kind == "trimap" else "")


def test_voc_with_a_border(tmp_path):
    "In colours as in bare class numbers, the border of 255 belongs to what is not black."
    colours = [0, 0, 0, 0, 64, 0] + [0] * 3 * 253 + [224, 224, 192]
    for n, image in enumerate(
        [
            palette(colours, np.where(VOID, 255, TRUTH)),
            Image.fromarray(np.where(VOID, 255, 15 * TRUTH).astype(np.uint8)),
        ]
    ):
        image.save(tmp_path / f"{n}.png")
        assert (read_mask(tmp_path / f"{n}.png").numpy() == (TRUTH | VOID)).all()


def test_this_books_own_labels_are_masks(tmp_path):
    for parts in (2, 5, 30):
        labels = torch.from_numpy(PARTS).clone()
        labels[labels == 2] = parts
        write_palette_png(tmp_path / "labels.png", labels, parts)
        assert overlap(read_mask(tmp_path / "labels.png")) == 1


def flat(value, kind=np.uint8) -> Image.Image:
    return Image.fromarray(np.full((H, W), value, kind))


USELESS = {
    "black.png": (flat(0), "empty"),
    "black.jpg": (flat(0), "empty"),
    "black, 16 bits.png": (flat(0, np.uint16), "empty"),
    "black palette.png": (palette([0] * 6, TRUTH), "empty"),
    "all clear.png": (cut_out(FULL, 0 * FULL[..., 0]), "empty"),
    "mist.png": (Image.fromarray(RANDOM.integers(0, 12, (H, W)).astype(np.uint8)), "empty"),
    "white.png": (flat(255), "whole"),
    "all ones.png": (flat(1), "whole"),
    "white, 16 bits.png": (flat(65535, np.uint16), "whole"),
    "almost white.png": (
        Image.fromarray(RANDOM.integers(240, 256, (H, W)).astype(np.uint8)),
        "whole",
    ),
    "white palette.png": (palette([255] * 6, TRUTH), "whole"),
    "red.png": (Image.new("RGB", (W, H), "red"), "whole"),
    "trimap.png": (grey(1, 2), "trimap"),
    "photograph.png": (Image.fromarray(PHOTOGRAPH), "photograph"),
    "photograph.jpg": (Image.fromarray(PHOTOGRAPH), "photograph"),
    "grey photograph.png": (Image.fromarray(PHOTOGRAPH).convert("L"), "photograph"),
}


@pytest.mark.parametrize("name", USELESS)
def test_masks_of_no_use_are_called_by_name(tmp_path, name):
    image, verdict = USELESS[name]
    path = tmp_path / f"m.{name.rpartition('.')[2]}"
    image.save(path)
    look = look_at_mask(path)
    assert look.verdict == verdict and (
        verdict not in ("empty", "whole") or look.share == (verdict == "whole")
    )
    (line,) = verdicts_said({"m": look}, "masks/")
    assert line.startswith("masks/: 1 of 1 mask ") and line.endswith(".")


def test_one_line_for_each_thing_that_is_wrong(tmp_path):
    for n in range(12):
        (BIRD if n % 4 else flat(0) if n < 8 else flat(255)).save(tmp_path / f"{n}.png")
    looks = {f"{n}.png": look_at_mask(tmp_path / f"{n}.png") for n in range(12)}
    assert verdicts_said(looks, "masks/") == [
        "masks/: 2 of 12 masks are empty (black): they have no object (the first is 0.png).",
        "masks/: 1 of 12 masks covers the whole picture everywhere (the first is 8.png).",
    ]
    assert verdicts_said({n: look for n, look in looks.items() if look.share == 0}) == [
        "masks: all masks are empty (black): they have no object."
    ]
    paths = [tmp_path / f"{n}.png" for n in range(12)]
    assert (
        list(sampled_looks(paths, most=3)) == ["0.png", "4.png", "8.png"]
        and len(sampled_looks(paths)) == 12
    )
    paths[4].write_text("no mask")
    assert list(sampled_looks(paths, most=3)) == ["0.png", "8.png"] and sampled_looks([]) == {}


def test_a_threshold_is_a_share_of_white(tmp_path):
    "Votes of annotators: two of five are no majority, even where nobody got more."
    votes = np.where(TRUTH, 102, np.where(LEFT, 51, 0)).astype(np.uint8)
    for name, image in {
        "8.png": Image.fromarray(votes),
        "16.png": Image.fromarray(votes.astype(np.uint16) * 257),
        "p.png": Image.fromarray(votes).convert("P"),
    }.items():
        image.save(tmp_path / name)
        assert not read_mask(tmp_path / name, 0.5).any()
        assert (read_mask(tmp_path / name, 0.3).numpy() == TRUTH).all()
        assert (read_mask(tmp_path / name, 0.0).numpy() == (votes > 0)).all()
    grey(1).save(tmp_path / "one.png")
    assert overlap(read_mask(tmp_path / "one.png", 0.5)) == 1
    for threshold in (1, -0.1, float("nan")):
        with pytest.raises(InputError, match="must lie in"):
            read_mask(tmp_path / "one.png", threshold)


def test_a_mask_may_lie_on_its_side(tmp_path):
    note = Image.Exif()
    note[0x0112] = 6
    BIRD.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "m.png", exif=note)
    assert overlap(seen_mask(tmp_path / "m.png", upright=True)[0]) == 1
    assert read_mask(tmp_path / "m.png").shape == (W, H)


def test_values_that_are_no_numbers(tmp_path):
    for value in (np.nan, np.inf):
        values = TRUTH.astype(np.float32)
        values[0, 0] = value
        Image.fromarray(values).save(tmp_path / "m.tif")
        with pytest.raises(
            UnreadablePicture,
            match="m.tif cannot be read as a picture: some of its values are no numbers",
        ):
            read_mask(tmp_path / "m.tif")


def test_soft_maps(tmp_path):
    ramp = np.linspace(0, 255, W).round().astype(np.uint8)[None].repeat(H, 0)
    files = {
        "grey.png": Image.fromarray(ramp),
        "colour.png": Image.fromarray(np.dstack([ramp] * 3)),
        "palette.png": Image.fromarray(ramp).convert("P"),
        "deep.png": Image.fromarray(ramp.astype(np.uint16) * 257),
        "white, clear.png": cut_out(FULL, ramp),
        "black, clear.png": cut_out(0 * FULL, ramp),
        "float.tif": Image.fromarray((ramp / 255).astype(np.float32)),
    }
    for name, image in files.items():
        image.save(tmp_path / name)
        assert (read_soft_map(tmp_path / name).numpy() == ramp).all(), name
    grey(1).save(tmp_path / "hard.png")
    assert (read_soft_map(tmp_path / "hard.png").numpy() == 255 * TRUTH).all()
    dim = Image.fromarray((ramp // 4).astype(np.uint8))
    dim.save(tmp_path / "dim.png")
    assert read_soft_map(tmp_path / "dim.png").max() == 63  # unsure is not the same as dark
