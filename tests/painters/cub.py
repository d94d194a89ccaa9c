"""Birds of a few ellipses in CUB's layout: one of them grey, one cut off by the border."""

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from partbook.core import generator
from partbook.data.sample import Sample
from partbook.readers.cub import CLICK, LANDMARKS, write_cub

_BIRD = {  # layers from back to front: centre (u,v), half axes, angle; all in body lengths
    "tail": (-0.62, 0.06, 0.30, 0.09, -0.15),
    "far leg": (0.10, 0.36, 0.04, 0.22, 0.0),
    "near leg": (-0.06, 0.38, 0.04, 0.22, 0.0),
    "body": (0.0, 0.0, 0.46, 0.26, -0.25),
    "wing": (-0.12, -0.01, 0.34, 0.15, 0.02),
    "beak": (0.74, -0.26, 0.16, 0.06, 0.1),
    "head": (0.47, -0.30, 0.19, 0.17, 0.0),
    "eye": (0.53, -0.34, 0.035, 0.035, 0.0),
}
_POINTS = {  # the fifteen landmarks in the same frame
    "back": (-0.08, -0.18),
    "beak": (0.77, -0.26),
    "belly": (0.0, 0.2),
    "breast": (0.33, 0.02),
    "crown": (0.46, -0.43),
    "forehead": (0.6, -0.37),
    "left eye": (0.53, -0.34),
    "left leg": (-0.06, 0.45),
    "left wing": (-0.12, 0.0),
    "nape": (0.3, -0.27),
    "right eye": (0.53, -0.34),
    "right leg": (-0.06, 0.45),
    "right wing": (-0.12, 0.0),
    "tail": (-0.78, 0.08),
    "throat": (0.5, -0.16),
}
_PALETTES = torch.tensor(
    [
        [[0.28, 0.24, 0.22], [0.20, 0.17, 0.16]],
        [[0.90, 0.88, 0.84], [0.35, 0.34, 0.36]],
        [[0.45, 0.42, 0.40], [0.30, 0.28, 0.30]],
    ]
)


def _paint_bird(
    image: Tensor, frame: Tensor, centre: Tensor, category: int
) -> tuple[Tensor, Tensor]:
    """The bird on a (3,H,W) ground, and its (H,W) mask;
    `frame` (2,2) carries (u,v) to pixels around the centre (2,)."""
    H, W = image.shape[1:]
    y, x = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    u, v = torch.linalg.inv(frame) @ (torch.stack([x, y]) - centre[:, None, None]).flatten(1)
    mask = torch.zeros(H, W, dtype=torch.bool)
    body, wing = _PALETTES[category]
    colours = {
        "body": body,
        "tail": wing,
        "wing": wing,
        "head": body * 0.9,
        "eye": body * 0,
        "beak": torch.tensor([0.85, 0.6, 0.25]),
    }
    for layer, (cu, cv, a, b, t) in _BIRD.items():
        p = u - cu
        q = v - cv
        p, q = p * math.cos(t) + q * math.sin(t), q * math.cos(t) - p * math.sin(t)
        inside = ((p / a) ** 2 + (q / b) ** 2 < 1).view(H, W)
        image = torch.where(
            inside, colours.get(layer, torch.tensor([0.5, 0.35, 0.25]))[:, None, None], image
        )
        mask = mask | inside
    return image, mask


def _mark_bird(
    frame: Tensor, centre: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:  # (H,W) -> (15,2) and (15,)
    points = (
        (torch.tensor([_POINTS[name] for name in LANDMARKS]) @ frame.T) + centre
    ).floor() + CLICK
    far = (
        "left" if torch.linalg.det(frame) > 0 else "right"
    )  # a bird that looks to the right of the picture shows its right side
    seen = torch.tensor([not name.startswith(far) for name in LANDMARKS])
    seen = seen & ((points > 0) & (points < torch.tensor(size[::-1]))).all(1)
    return points * seen[:, None], seen


def _corners(mask: Tensor) -> Tensor:
    ys = mask.any(1).nonzero()
    xs = mask.any(0).nonzero()
    return torch.stack([xs.min(), ys.min(), xs.max() - xs.min(), ys.max() - ys.min()]).float()


def _draw_bird(name: str, category: int, g: torch.Generator, grey: bool, at_border: bool) -> Sample:
    "A bird of one of three species on a blurred ground, with mask, landmarks and box."
    r = torch.rand(8, generator=g).tolist()
    H = int(90 + 30 * r[0])
    W = int(110 + 40 * r[1])
    facing = 1 if at_border or r[2] < 0.5 else -1
    scale = (0.48 + 0.08 * r[3]) * min(H, W)
    angle = 0.5 * r[4] - 0.3
    centre = torch.tensor(
        [W * (0.98 if at_border else 0.45 + 0.1 * r[5]), H * (0.48 + 0.08 * r[6])]
    )
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    frame = (
        torch.diag(torch.tensor([float(facing), 1.0])) @ turn * scale
    )  # (u,v) -> pixels around the centre
    ground = torch.nn.functional.interpolate(
        torch.rand(1, 3, 4, 5, generator=g), (H, W), mode="bicubic"
    ).clamp(0, 1)[0]
    ground = 0.2 * ground + 0.15 * ground.mean(0) + torch.tensor([0.3, 0.42, 0.4])[:, None, None]
    image, mask = _paint_bird(ground, frame, centre, category)
    points, seen = _mark_bird(frame, centre, (H, W))
    box = _corners(mask)
    if at_border:
        box[2] = W + 1 - box[0]  # as in the original, where a few boxes reach one pixel beyond
    if grey:
        image = image.mean(0, keepdim=True).expand(3, -1, -1)
    return Sample(image.clamp(0, 1).contiguous(), name, mask, None, points, seen, box, category)


def write_cub_fixture(
    folder: str | Path,
    n: int = 8,  # how many birds; number 2 is greyscale, number 3 is cut off by the border
    seed: int = 0,
    masks: bool = False,  # whether segmentations/ is written as well
) -> Path:
    "Draw a few birds of three species and write them in CUB's layout; returns the folder."
    g = generator(seed)
    birds = [_draw_bird(f"bird_{i:04d}", (i - 1) % 3, g, i == 2, i == 3) for i in range(1, n + 1)]
    classes = (
        "001.Drawn_Albatross",
        "002.Drawn_Gull",
        "003.Drawn_Petrel",
        "004.Unused_Auk",
        "005.Unused_Tern",
    )
    return write_cub(
        folder,
        birds if masks else [replace(s, mask=None) for s in birds],
        classes,
        training=[i % 4 < 2 for i in range(n)],
    )
