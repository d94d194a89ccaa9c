"""Animals, chairs and cars of rounded shapes in the layout of VOC and PASCAL-Part."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from partbook.core import generator
from partbook.readers.pascal import PascalObject, PascalPicture, mask_box, write_pascal


def _leg(place: str, u: float, hoof: bool) -> dict:
    leg = {
        f"{place}uleg": (u, 0.30, 0.075, 0.16, 0, 2),
        f"{place}lleg": (u - 0.01, 0.53, 0.045, 0.14, 0, 2),
    }
    return leg | ({f"{place}ho": (u, 0.66, 0.055, 0.035, 0, 4)} if hoof else {})


def _animal(hoof: bool = False, mane: bool = False, horn: bool = False) -> dict:
    """Layers from back to front: centre (u,v), half axes, angle, exponent.
    Facing right, it shows its right side."""
    return {
        "tail": (-0.57, 0.12, 0.07, 0.24, 0.35, 2),
        **_leg("lb", -0.28, hoof),
        **_leg("lf", 0.34, hoof),
        **_leg("rb", -0.40, hoof),
        **_leg("rf", 0.24, hoof),
        "neck": (0.47, -0.24, 0.24, 0.13, -0.9, 2),
        "torso": (0, 0, 0.50, 0.23, 0, 2.5),
        **({"-mane": (0.36, -0.33, 0.23, 0.05, -0.9, 2)} if mane else {}),
        **({"rhorn": (0.55, -0.62, 0.03, 0.11, 0.3, 2)} if horn else {}),
        "head": (0.66, -0.42, 0.19, 0.11, 0.55, 2),
        "rear": (0.55, -0.56, 0.035, 0.08, -0.2, 2),
        "muzzle": (0.78, -0.34, 0.08, 0.075, 0.55, 2),
        "reye": (0.66, -0.46, 0.024, 0.024, 0, 2),
    }


_THINGS = {
    "horse": _animal(hoof=True, mane=True),
    "cow": _animal(horn=True),
    "sheep": _animal(),
    "car": {
        "rightside": (0, 0.05, 0.56, 0.17, 0, 5),
        "roofside": (-0.04, -0.22, 0.32, 0.05, 0, 4),
        "-frame": (-0.04, -0.14, 0.35, 0.09, 0, 6),
        "door_1": (-0.02, 0.05, 0.14, 0.13, 0, 8),
        "window_1": (-0.20, -0.13, 0.13, 0.075, 0, 6),
        "window_2": (0.12, -0.13, 0.14, 0.075, 0, 6),
        "rightmirror": (0.26, -0.05, 0.03, 0.03, 0, 3),
        "headlight_1": (0.52, 0.02, 0.035, 0.03, 0, 2),
        "wheel_1": (-0.34, 0.21, 0.13, 0.13, 0, 2),
        "wheel_2": (0.33, 0.21, 0.13, 0.13, 0, 2),
    },
    "chair": {
        "-back": (-0.25, -0.3, 0.07, 0.5, 0, 6),
        "-seat": (0, 0.15, 0.33, 0.07, 0, 6),
        "-legs": (0.24, 0.45, 0.05, 0.3, 0, 6),
        "-leg": (-0.25, 0.45, 0.05, 0.3, 0, 6),
    },
    "diningtable": {
        "-top": (0, -0.15, 0.6, 0.07, 0, 8),
        "-left": (-0.48, 0.2, 0.05, 0.3, 0, 8),
        "-right": (0.48, 0.2, 0.05, 0.3, 0, 8),
    },
    "tvmonitor": {"-case": (0, 0, 0.5, 0.36, 0, 10), "screen": (0, -0.03, 0.43, 0.27, 0, 10)},
}


_HOLDS = {
    "head": ("rear", "muzzle", "reye"),
    "rightside": ("door_1",),
    "roofside": ("window_1", "window_2"),
} | {f"{leg}lleg": (f"{leg}ho",) for leg in ("lb", "lf", "rb", "rf")}


_COLOURS = {
    "horse": (0.45, 0.28, 0.15),
    "cow": (0.62, 0.48, 0.36),
    "sheep": (0.86, 0.83, 0.76),
    "car": (0.72, 0.16, 0.13),
    "chair": (0.55, 0.38, 0.2),
    "diningtable": (0.38, 0.25, 0.14),
    "tvmonitor": (0.2, 0.2, 0.22),
    "wheel_1": (0.1, 0.1, 0.1),
    "wheel_2": (0.1, 0.1, 0.1),
    "window_1": (0.6, 0.75, 0.85),
    "window_2": (0.6, 0.75, 0.85),
    "reye": (0.03, 0.03, 0.03),
    "-mane": (0.15, 0.1, 0.08),
    "screen": (0.35, 0.55, 0.75),
    "headlight_1": (0.95, 0.95, 0.7),
}


def _mirrored(part: str) -> str:
    if part.startswith(("right", "left")):
        return part.replace("right", "LEFT").replace("left", "right").lower()
    sided = part[1:] in ("ear", "eye", "horn") or part[1:2] in ("f", "b") and part[:1] in "lr"
    return {"l": "r", "r": "l"}[part[0]] + part[1:] if sided else part


_FIRST = (
    "head",
    "rear",
    "reye",
    "muzzle",
    "torso",
    "neck",
    "rightside",
    "roofside",
)  # large parts come first, as in PASCAL-Part


def _draw_thing(
    image: Tensor,  # (3,H,W), to paint on
    kind: str,
    at: tuple[float, float],  # its middle, in shares of the image's width and height
    scale: float,  # the length of its body, in shares of the image's width
    g: torch.Generator,
    flip: bool = False,
) -> tuple[Tensor, PascalObject]:
    "A thing painted onto an image, and its masks."
    H, W = image.shape[1:]
    y, x = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    u = (x - at[0] * W) / (scale * W) * (-1 if flip else 1)
    v = (y - at[1] * H) / (scale * W)
    coat = 0.06 * (torch.rand(1, H, W, generator=g) - 0.5)
    base = torch.tensor(_COLOURS[kind])
    areas = {}
    for n, (layer, (cu, cv, a, b, turn, power)) in enumerate(_THINGS[kind].items()):
        p = u - cu
        q = v - cv
        turn = torch.tensor(float(turn))
        p, q = p * turn.cos() + q * turn.sin(), q * turn.cos() - p * turn.sin()
        areas[layer] = (p / a).abs() ** power + (q / b).abs() ** power < 1
        own = torch.tensor(_COLOURS.get(layer, (0.0, 0.0, 0.0)))
        colour = own if layer in _COLOURS else base * (0.85 + 0.05 * (n % 5))
        image = torch.where(areas[layer], (colour[:, None, None] + coat).clamp(0, 1), image)
    order = {name: n for n, name in enumerate(_FIRST)}
    names = [n for n in areas if n[0] != "-"]
    names.sort(key=lambda n: order.get(n, len(order)))
    parts = [
        (
            _mirrored(n) if flip else n,
            torch.stack([areas[k] for k in (n, *_HOLDS.get(n, ())) if k in areas]).any(0).numpy(),
        )
        for n in names
    ]
    whole = torch.stack(list(areas.values())).any(0).numpy()
    return image, PascalObject(kind, whole, [(n, m) for n, m in parts if m.any()])


def _scene(
    name: str,
    things: Sequence[tuple],  # (kind, at, scale[, flip]), back to front
    g: torch.Generator,
    training: bool = True,
    size: tuple[int, int] = (96, 128),
    grey: bool = False,
) -> PascalPicture:
    "Things painted on a blurred ground."
    ground = torch.nn.functional.interpolate(
        torch.rand(1, 3, 3, 4, generator=g), size, mode="bicubic"
    ).clamp(0, 1)[0]
    image = 0.25 * ground + 0.15 * ground.mean(0) + torch.tensor([0.30, 0.42, 0.28])[:, None, None]
    objects: list[PascalObject] = []
    for kind, at, scale, *flip in things:
        image, thing = _draw_thing(image, kind, at, scale, g, *flip)
        for behind in objects:
            if (behind.mask & thing.mask).any():
                behind.marks |= {"occluded"}
                behind.mask = behind.mask & ~thing.mask
                behind.parts = [
                    (n, m & ~thing.mask) for n, m in behind.parts if (m & ~thing.mask).any()
                ]
        objects.append(thing)
    for thing in objects:
        x, y, w, h = mask_box(thing.mask)
        if x == 0 or y == 0 or x + w == size[1] or y + h == size[0]:
            thing.marks |= {"truncated"}
    if grey:
        image = image.mean(0, keepdim=True).expand(3, -1, -1)
    return PascalPicture(name, image.clamp(0, 1).contiguous(), objects, training)


_LATER = {"training": False}
_SCENES = [
    # one object
    ("2008_000001", [("horse", (0.44, 0.50), 0.52)], {}),
    # no parts; a small one
    (
        "2008_000002",
        [
            ("chair", (0.86, 0.60), 0.22),
            ("sheep", (0.12, 0.76), 0.14),
            ("horse", (0.56, 0.46), 0.44, True),
        ],
        {},
    ),
    # one in front of the other
    ("2008_000003", [("sheep", (0.33, 0.42), 0.40), ("sheep", (0.66, 0.62), 0.40, True)], {}),
    ("2009_000004", [("car", (0.50, 0.55), 0.66)], {"size": (90, 120)}),
    ("2009_000005", [("horse", (0.56, 0.50), 0.56, True)], _LATER | {"size": (110, 130)}),
    # "table"; a greyscale file
    (
        "2009_000006",
        [("diningtable", (0.80, 0.70), 0.28), ("cow", (0.35, 0.46), 0.22)],
        _LATER | {"grey": True},
    ),
    # one part
    (
        "2010_000007",
        [
            ("car", (0.18, 0.32), 0.24),
            ("car", (0.54, 0.62), 0.74, True),
            ("tvmonitor", (0.86, 0.18), 0.22),
        ],
        _LATER,
    ),
    # cut off by the border
    ("2010_000008", [("chair", (0.22, 0.55), 0.30), ("horse", (0.95, 0.48), 0.54)], _LATER),
]


def write_pascal_fixture(
    folder: str | Path,  # becomes VOC2010
    seed: int = 0,
) -> Path:
    """Draw eight pictures with the odd cases of PASCAL-Part and write them in its layout;
    returns the folder."""
    g = generator(seed)
    pictures = [_scene(name, things, g, **more) for name, things, more in _SCENES]
    return write_pascal(folder, pictures)
