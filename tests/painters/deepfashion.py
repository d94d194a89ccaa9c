"""Figures of ellipses in DeepFashion's layout, with an image that was never parsed."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from partbook.core import generator
from partbook.readers.deepfashion import (
    NAMES,
    STATUS,
    Entry,
    _write_lists,
    _write_parsed,
    _write_photograph,
)


def _shape(
    x: Tensor,
    y: Tensor,
    at: Sequence[float],
    half: Sequence[float],
    taper: float = 0.0,
    square: float = 2.0,
) -> Tensor:
    """A rounded blob around `at`: an ellipse for square=2, boxier above;
    `taper` widens it downwards."""
    v = (y - at[1]) / half[1]
    u = (x - at[0]) / (half[0] * (1 + taper * v))
    return u.abs().pow(square) + v.abs().pow(square) < 1


def _layers(
    r: Sequence[float],
) -> list[tuple[str, tuple[float, float], tuple[float, float], float, float]]:
    """(part, centre, half axes, taper, squareness) from back to
    front, in a frame 1 high with the figure around x = 0."""
    lean = 0.03 * (r[0] - 0.5)
    spread = 0.095 + 0.02 * r[1]
    stride = 0.035 + 0.02 * r[2]
    outfit = int(r[3] * 4)
    layers = [("hair", (lean, 0.12), (0.075, 0.09 + 0.08 * r[4]), 0.2, 2.0)] if r[5] > 0.15 else []
    for s in (-1, 1):
        layers += [
            ("skin", (s * spread, 0.385), (0.026, 0.16), -0.15, 2.5),
            ("skin", (s * stride, 0.73), (0.032, 0.23), -0.3, 3.0),
            ("footwear", (s * (stride + 0.012), 0.955), (0.036, 0.022), 0.0, 2.5),
        ]
    if outfit == 0:
        layers += [("dress", (0, 0.46), (0.095, 0.24), 0.35, 3.5)]
    else:
        if outfit == 1:
            layers += [("skirt", (0, 0.58), (0.095, 0.12), 0.3, 4.0)]
        else:
            name, width = ("pants", 0.046) if outfit == 2 else ("leggings", 0.038)
            layers += [(name, (s * stride, 0.7), (width, 0.24), -0.2, 4.0) for s in (-1, 1)]
        layers += [("top", (0, 0.36), (0.088, 0.135), -0.08, 3.5)]
        if r[6] > 0.5:
            layers += [("outer", (s * 0.072, 0.38), (0.034, 0.19), 0.1, 3.5) for s in (-1, 1)]
        layers += [("belt", (0, 0.485), (0.078, 0.012), 0.0, 4.0)]
    layers += [
        ("skin", (lean * 0.5, 0.215), (0.026, 0.04), 0.0, 2.0),
        ("face", (lean, 0.125), (0.05, 0.072), -0.15, 2.0),
    ]
    layers += [("hair", (lean, 0.065), (0.056, 0.028), 0.0, 2.0)] if r[5] > 0.15 else []
    layers += [("headwear", (lean, 0.06), (0.075, 0.03), 0.3, 2.5)] if r[7] > 0.75 else []
    layers += [("eyeglass", (lean, 0.115), (0.042, 0.012), 0.0, 3.0)] if r[7] < 0.2 else []
    layers += [("neckwear", (lean * 0.5, 0.24), (0.05, 0.02), 0.0, 2.0)] if 0.3 < r[7] < 0.5 else []
    return layers + (
        [("bag", (spread + 0.03, 0.56), (0.045, 0.06), 0.2, 3.0)] if r[8] > 0.6 else []
    )


def _draw_figure(g: torch.Generator, H: int, W: int) -> tuple[Tensor, Tensor]:
    "A figure on a pale ground, (3,H,W), and its labels (H,W)."
    r = torch.rand(12, generator=g).tolist()
    y, x = torch.meshgrid(
        (torch.arange(H) + 0.5) / H, (torch.arange(W) + 0.5 - W / 2) / H, indexing="ij"
    )
    x = x - 0.04 * (r[9] - 0.5)
    labels = torch.zeros(H, W, dtype=torch.int64)
    image = (0.97 - 0.12 * y).expand(3, H, W).clone()
    colours = torch.rand(16, 3, generator=g) * 0.75 + 0.1
    skin = torch.tensor([0.93, 0.75, 0.62]) * (0.5 + 0.5 * r[10])
    for part, colour in (
        ("skin", skin),
        ("face", skin),
        ("hair", torch.tensor([0.35, 0.24, 0.16]) * (0.4 + 1.4 * r[11])),
    ):
        colours[NAMES.index(part)] = colour
    shade = 1 - 0.5 * (x * 4).abs().clamp(max=0.5)
    for part, *how in _layers(r):
        inside = _shape(x, y, *how)
        labels[inside] = NAMES.index(part)
        image = torch.where(inside, colours[NAMES.index(part)][:, None, None] * shade, image)
    return image.clamp(0, 1), labels


_KINDS = ("WOMEN/Dresses", "MEN/Denim", "WOMEN/Tees_Tanks")
_VIEWS = ("1_front", "2_side", "3_back", "4_full", "7_additional")


def write_deepfashion_fixture(
    folder: str | Path,
    n: int = 9,  # parsed images, in turn train, query and gallery; two of an item
    seed: int = 0,
    coco: bool = True,  # whether the three JSON files are written
    # whether supervisedlabels/ is written, masks that are a little too small
    predicted: bool = True,
) -> Path:
    """Draw a few figures and write them in the layout of DeepFashion's in-shop benchmark,
    with one image in the partition that was never parsed; returns the folder."""
    folder = Path(folder)
    g = generator(seed)
    entries = []
    for k in range(n):
        item = f"id_{k // 6 * 6 + (k % 3 > 0) + 1:08d}"
        name = (
            f"{_KINDS[(k // 6 * 2 + (k % 3 > 0)) % 3]}/{item}/{k // 3 + 1:02d}_{_VIEWS[k % 5]}.jpg"
        )
        image, labels = _draw_figure(g, 160 if k != 4 else 110, 108 if k != 4 else 150)
        entries.append(Entry(name, item, STATUS[k % 3]))
        _write_photograph(folder, name, image, labels)
        if predicted:
            mask = -F.max_pool2d(-(labels > 0).float()[None], 3, 1, 1)[0]
            path = folder / "supervisedlabels" / "img_highres" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((mask * 255).byte().numpy()).save(path)
    unparsed = Entry("WOMEN/Dresses/id_00000099/01_6_flat.jpg", "id_00000099", "train")
    _write_lists(folder, [*entries, unparsed])
    if coco:
        _write_parsed(folder, entries)
    return folder
