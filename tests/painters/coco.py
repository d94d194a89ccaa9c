"""Cars of polygons in COCO's format, as real files are: runs, gaps, a door in two pieces."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from partbook.core import generator
from partbook.files import write_json
from partbook.readers.coco import _entry, compress_runs, encode_runs, fill_polygon

_CAR = {  # corners in car lengths, front to the left; painted and annotated in this order
    "back_bumper": [(0.93, 0.30), (1.0, 0.30), (1.0, 0.37), (0.90, 0.37)],
    "front_bumper": [(0.0, 0.30), (0.09, 0.30), (0.11, 0.38), (0.01, 0.38)],
    "hood": [(0.01, 0.30), (0.03, 0.22), (0.27, 0.18), (0.29, 0.30)],
    "front_left_door": [(0.29, 0.18), (0.50, 0.18), (0.50, 0.37), (0.31, 0.37), (0.29, 0.30)],
    "back_left_door": [(0.50, 0.18), (0.71, 0.18), (0.72, 0.30), (0.68, 0.37), (0.50, 0.37)],
    "trunk": [(0.79, 0.18), (0.98, 0.20), (0.99, 0.30), (0.72, 0.30), (0.71, 0.18)],
    "front_glass": [(0.27, 0.18), (0.37, 0.04), (0.41, 0.04), (0.33, 0.18)],
    "back_glass": [(0.66, 0.04), (0.70, 0.04), (0.79, 0.18), (0.72, 0.18)],
    "front_left_light": [(0.02, 0.25), (0.07, 0.24), (0.07, 0.28), (0.015, 0.28)],
    "left_mirror": [(0.315, 0.145), (0.345, 0.145), (0.355, 0.19), (0.32, 0.19)],
}
_WHEELS = ((0.19, 0.37), (0.81, 0.37))  # their hubs
_DARK = {
    "front_glass": 0.25,
    "back_glass": 0.25,
    "wheel": 0.12,
    "front_bumper": 0.7,
    "back_bumper": 0.7,
}
CAR_PARTS = ("_background_", *sorted({*_CAR, *(n.replace("left", "right") for n in _CAR), "wheel"}))


def _car_outlines(
    frame: tuple[float, float, float, bool],
) -> list[tuple[str, np.ndarray]]:  # left, top, length, whether it faces right
    "Names and corners of one car's parts."
    left, top, length, right = frame
    turn = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    shapes = [(name, np.array(corners)) for name, corners in _CAR.items()]
    shapes += [
        ("wheel", np.array(hub) + 0.075 * np.stack([np.cos(turn), np.sin(turn)], 1))
        for hub in _WHEELS
    ]
    if right:
        shapes = [
            (name.replace("left", "right"), corners * [-1, 1] + [1, 0]) for name, corners in shapes
        ]
    return [(name, (corners * length + [left, top]).round(1)) for name, corners in shapes]


def _draw_car(
    g: torch.Generator,
) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]]:  # (H,W,3) bytes, outlines
    "A car on a blurred ground."
    r = torch.rand(9, generator=g).tolist()
    H = 84 + int(24 * r[0])
    W = 130 + int(40 * r[1])
    length = (0.7 + 0.2 * r[2]) * W
    outlines = _car_outlines(
        ((W - length) * r[3], 0.35 * H - 0.15 * length + 8 * r[4], length, r[5] < 0.5)
    )
    ground = torch.nn.functional.interpolate(
        torch.rand(1, 3, 3, 5, generator=g), (H, W), mode="bicubic"
    ).clamp(0, 1)[0]
    picture = (0.2 * ground + 0.15 * ground.mean(0) + 0.4).permute(1, 2, 0).numpy()
    body = fill_polygon(np.array(_body(outlines)), (H, W))
    paint = 0.25 + 0.6 * np.array(r[6:9])
    picture[body] = paint * 0.8
    for name, corners in outlines:
        picture[fill_polygon(corners, (H, W))] = paint * 0.9 if name not in _DARK else _DARK[name]
    return (picture.clip(0, 1) * 255).round().astype(np.uint8), outlines


def _body(outlines: list[tuple[str, np.ndarray]]) -> list[np.ndarray]:
    "Roof and sides as one polygon, from corners of the parts."
    at = {name.replace("right", "left"): corners for name, corners in outlines}
    return [
        at["front_bumper"][0],
        at["hood"][1],
        at["front_glass"][0],
        at["front_glass"][1],
        at["back_glass"][1],
        at["back_glass"][2],
        at["trunk"][1],
        at["back_bumper"][1],
        at["back_bumper"][2],
        at["front_bumper"][3],
    ]


def _segmentation(name: str, corners: np.ndarray, n: int, size: tuple[int, int]) -> Any:
    "What car n notes for a part: mostly its polygon."
    if (
        n == 2 and name.startswith("front") and name.endswith("door")
    ):  # a post stands before this door
        left = corners[:, 0].min()
        right = corners[:, 0].max()
        low = left + 0.45 * (right - left)
        high = left + 0.6 * (right - left)
        top = corners[:, 1].min()
        bottom = corners[:, 1].max()
        return [
            [left, top, low, top, low, bottom, left, bottom],
            [high, top, right, top, right, bottom, high, bottom],
        ]
    if name == "wheel" and n in (3, 4):
        runs = encode_runs(fill_polygon(corners, size))
        return {"size": list(size), "counts": runs if n == 3 else compress_runs(runs)}
    return [corners.ravel().tolist()]


def _picture(number: int, name: str, size: tuple[int, int]) -> dict:
    file = f"JPEGImages/{name}.jpg"
    return {"id": number, "file_name": file, "height": size[0], "width": size[1]}


def write_coco_fixture(
    folder: str | Path,
    n: int = 8,  # how many cars
    seed: int = 0,
) -> Path:
    "Draw a few cars and write them with annotations.json in COCO's format; returns the folder."
    folder = Path(folder)
    g = generator(seed)
    (folder / "JPEGImages").mkdir(parents=True, exist_ok=True)
    ids = {name: 2 * k + 1 for k, name in enumerate(CAR_PARTS)}
    images = []
    annotations = []
    for i in range(1, n + 1):
        picture, outlines = _draw_car(g)
        size = picture.shape[:2]
        Image.fromarray(picture).save(folder / "JPEGImages" / f"car{i}.jpg", quality=95)
        images.append(_picture(400 + i, f"car{i}", size))
        for name, corners in outlines:
            outline = _segmentation(name, corners, i, size)
            inside = fill_polygon(corners, size)
            annotations.append(_entry(len(annotations) + 1, 400 + i, ids[name], outline, inside))
    Image.fromarray(picture).save(folder / "JPEGImages" / "unlabelled.jpg")
    images.append(_picture(400, "unlabelled", size))
    flat = {"id": len(annotations) + 1, "segmentation": [[3.0, 4.0, 9.0, 4.0]], "area": 0}
    annotations.append(annotations[-1] | flat)
    categories = [{"id": number, "name": name, "supercategory": ""} for name, number in ids.items()]
    write_json(
        folder / "annotations.json",
        {"images": images, "categories": categories, "annotations": annotations},
    )
    return folder
