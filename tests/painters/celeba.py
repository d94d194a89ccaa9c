"""Simple faces in CelebA's layout, in the wild and aligned, with every oddity of the original."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from partbook.core import generator
from partbook.readers.celeba import (
    BOXES,
    FRAME,
    IDENTITIES,
    LANDMARK_LISTS,
    MAFL,
    PARTITIONS,
    _save,
    _write_list,
    find_list,
)

# layers from back to front: centre (u,v) and half
# axes, in distances between the eyes; v points down
_FACE = {
    "hair": (0.0, 0.32, 1.10, 1.60),
    "ears": (0.0, 0.35, 1.02, 0.28),
    "head": (0.0, 0.55, 0.90, 1.30),
    "left white": (-0.5, 0.0, 0.22, 0.13),
    "right white": (0.5, 0.0, 0.22, 0.13),
    "left eye": (-0.5, 0.0, 0.10, 0.10),
    "right eye": (0.5, 0.0, 0.10, 0.10),
    "left brow": (-0.5, -0.27, 0.27, 0.06),
    "right brow": (0.5, -0.27, 0.27, 0.06),
    "nose": (0.0, 0.45, 0.13, 0.30),
    "mouth": (0.0, 1.07, 0.45, 0.12),
}
_POINTS = ((-0.5, 0.0), (0.5, 0.0), (0.0, 0.62), (-0.42, 1.07), (0.42, 1.07))
_BOX = (
    -0.95,
    -0.75,
    0.95,
    1.85,
)  # left, top, right, bottom of the face as a box is drawn around it
_ALIGNED = (38.25, 88.5 + 111.2j)  # a and b of the aligned frame, as measured on real faces


def _paint_face(
    ground: Tensor, a: complex, b: complex, look: Tensor
) -> Tensor:  # (3,H,W) -> (3,H,W)
    """A face on a ground; `look` (5,):
    skin, hair, lips, and how far nose and mouth have turned to the side and down."""
    H, W = ground.shape[1:]
    y, x = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    z = (torch.complex(x, y) - b) / a
    skin, hair, lips, yaw, _ = look.tolist()
    skin, hair = (
        torch.tensor([0.55, 0.38, 0.30]) + 0.4 * skin * torch.tensor([1.0, 1.0, 0.9]),
        torch.tensor([0.15, 0.1, 0.07]) + 0.55 * hair * torch.tensor([1.0, 0.8, 0.45]),
    )
    colours = {
        "hair": hair,
        "brow": hair * 0.6,
        "white": torch.tensor([0.95, 0.95, 0.95]),
        "eye": torch.tensor([0.08, 0.06, 0.05]),
        "mouth": torch.tensor([0.6 + 0.3 * lips, 0.2, 0.25]),
        "nose": skin * 0.8,
        "ears": skin * 0.9,
        "head": skin,
    }
    image = ground
    for layer, (u, v, p, q) in _FACE.items():
        u = u + (0.35 * yaw if layer in ("nose", "mouth") else 0)
        inside = ((z.real - u) / p) ** 2 + ((z.imag - v) / q) ** 2 < 1
        image = torch.where(inside, colours[layer.split()[-1]][:, None, None], image)
    return image


def _carry(
    points: Sequence[tuple[float, float]], a: complex, b: complex
) -> np.ndarray:  # (L,2) -> (L,2)
    w = np.array(points) @ [1, 1j] * a + b
    return np.stack([w.real, w.imag], 1)


def _draw_face(
    n: int, g: torch.Generator
) -> tuple[Tensor, Tensor, np.ndarray, np.ndarray, list[int]]:
    "Picture n in the wild and aligned, its two rows of landmarks, and its box."
    r = torch.rand(8, generator=g).tolist()
    look = torch.rand(5, generator=g)
    look[3] -= 0.5
    W = int(84 + 24 * r[0])
    H = int(100 + 30 * r[1])
    share = 0.15 if n % 4 == 0 else 0.33 + 0.15 * r[2]
    a = math.sqrt(share * W * H / (1.9 * 2.6)) * np.exp(1j * math.radians(40 * r[3] - 20))
    b = W * (0.35 + 0.3 * r[4]) + 1j * H * (0.36 + 0.08 * r[5])
    b = {3: 0.2 * W + 0.4j * H, 6: 0.92 * W + 0.4j * H}.get(n, b)
    points = [(u + 0.35 * float(look[3]) * (k > 1), v) for k, (u, v) in enumerate(_POINTS)]
    ground = torch.nn.functional.interpolate(
        torch.rand(1, 3, 5, 4, generator=g), (H, W), mode="bicubic"
    ).clamp(0, 1)[0]
    ground = 0.15 * ground + 0.25 * ground.mean(0) + torch.tensor([0.25, 0.3, 0.35])[:, None, None]
    back = torch.nn.functional.interpolate(ground[None], FRAME[::-1], mode="bilinear")[0]
    x, y = _carry(
        [(_BOX[0], _BOX[1]), (_BOX[2], _BOX[1]), (_BOX[0], _BOX[3]), (_BOX[2], _BOX[3])], abs(a), b
    ).T
    box = [math.floor(x.min()), math.floor(y.min()), round(np.ptp(x)), round(np.ptp(y))]
    box = [320, 828, 0, 0] if n == 5 else box
    faces = [_paint_face(ground, a, b, look), _paint_face(back, *_ALIGNED, look)]
    if n == 2:
        faces = [f.mean(0, keepdim=True).expand(3, -1, -1) for f in faces]
    return (
        faces[0],
        faces[1],
        np.floor(_carry(points, a, b)).astype(int),
        np.floor(_carry(points, *_ALIGNED)).astype(int),
        box,
    )


def _scaled(picture: Tensor, scale: float) -> Tensor:
    size = [round(s * scale) for s in FRAME[::-1]]
    resized = torch.nn.functional.interpolate(picture[None], size, mode="bilinear", antialias=True)
    return resized[0].clamp(0, 1)


def write_celeba_fixture(
    folder: str | Path,
    n: int = 16,  # how many faces, at least 8
    seed: int = 0,
    # size of the aligned pictures, in sizes of the original's; landmarks stay in its frame
    scale: float = 1.0,
) -> Path:
    """Draw a few faces and write them in CelebA's layout, in the
    wild and aligned, with MAFL's lists; returns the folder."""
    folder = Path(folder)
    g = generator(seed)
    names = [f"{i:06d}.jpg" for i in range(1, n + 1)]
    wild = []
    aligned = []
    boxes = []
    for i, name in enumerate(names, 1):
        picture, straight, points, moved, box = _draw_face(i, g)
        _save(folder / "Img" / "img_celeba" / name, picture)
        _save(folder / "Img" / "img_align_celeba" / name, _scaled(straight, scale))
        wild.append(points.ravel())
        aligned.append(moved.ravel())
        boxes.append(box)
    kinds = (LANDMARK_LISTS["wild"], LANDMARK_LISTS["aligned"], BOXES)
    for kind, rows in zip(kinds, (wild, aligned, boxes)):
        _write_list(folder / "Anno" / kind.file, kind, names, rows)
    people = [[1 + i // 2] for i in range(n)]
    _write_list(folder / "Anno" / IDENTITIES.file, IDENTITIES, names, people, header=False)
    partition = [[int(i >= 0.7 * n) + int(i >= 0.85 * n)] for i in range(n)]
    _write_list(folder / "Eval" / PARTITIONS.file, PARTITIONS, names, partition, header=False)
    for kind, chosen in zip(MAFL, (names[::3], names[1::6])):
        _write_list(find_list(folder, kind), kind, chosen, [[]] * len(chosen), header=False)
    return folder
