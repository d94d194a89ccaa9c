"""Cars and buses of rectangles in the layout of PASCAL3D+, with the oddities of real files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from partbook.core import generator
from partbook.readers.vehiclepart import (
    _PLACES,
    _cell,
    _list_path,
    _matlab,
    crop_window,
    photo_to_crop,
)

# parts of a vehicle seen from the side, facing left: u, v,
# width, height in vehicle lengths, from the front and the top
_SIDE = {
    "car": {
        1: [(0.10, 0.25, 0.16, 0.16), (0.74, 0.25, 0.16, 0.16)],
        2: [(0.28, 0.03, 0.18, 0.13), (0.50, 0.03, 0.18, 0.13)],
        3: [(0.00, 0.19, 0.06, 0.05)],
        4: [(0.95, 0.19, 0.05, 0.05)],
        5: [(0.32, 0.19, 0.06, 0.02)],
        6: [],
    },
    "bus": {
        1: [(0.10, 0.40, 0.12, 0.12), (0.55, 0.40, 0.12, 0.12), (0.72, 0.40, 0.12, 0.12)],
        2: [(0.08 + 0.22 * k, 0.04, 0.2, 0.25) for k in range(4)],
        3: [(0.00, 0.36, 0.04, 0.06)],
        4: [],
    },
}


_BODY = {
    "car": [(0.00, 0.17, 1.0, 0.18), (0.22, 0.00, 0.52, 0.18)],
    "bus": [(0.00, 0.00, 1.0, 0.47)],
}


_SYNSETS = {"car": "n02814533", "bus": "n02924116"}


def _place(
    r: list[float], H: int, W: int
) -> tuple[float, float, float, bool]:  # left, top, length in pixels, whether it faces right
    length = (0.55 + 0.2 * r[0]) * W
    return (W - length) * r[1], (H - 0.55 * length) * (0.3 + 0.4 * r[2]), length, r[3] < 0.5


def _in_photo(box: tuple, place: tuple) -> np.ndarray:  # (4,) x1, y1, x2, y2, counted from one
    u, v, w, h = box
    left, top, length, right = place
    u = 1 - u - w if right else u
    return np.round(
        [
            left + u * length + 1,
            top + v * length + 1,
            left + (u + w) * length,
            top + (v + h) * length,
        ],
        1,
    )


def _paint(picture: np.ndarray, vehicle: str, place: tuple, colour: np.ndarray) -> None:
    "A vehicle onto (H,W,3), in place: body, windows and lights as rectangles, wheels as discs."
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]] + 1
    layers = [(0, box) for box in _BODY[vehicle]] + [
        (part, box) for part, boxes in _SIDE[vehicle].items() for box in boxes
    ]
    for part, box in layers:
        x1, y1, x2, y2 = _in_photo(box, place)
        inside = (x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)
        if part == 1:
            inside = ((x - (x1 + x2) / 2) / (x2 - x1)) ** 2 + (
                (y - (y1 + y2) / 2) / (y2 - y1)
            ) ** 2 < 0.25
        picture[inside] = {
            0: colour,
            1: 0.1,
            2: (0.75, 0.85, 0.9),
            3: (1, 0.95, 0.6),
            4: (0.8, 0.1, 0.1),
        }.get(part, colour * 0.6)


def _photo(
    vehicle: str, number: int, g: torch.Generator
) -> tuple[np.ndarray, list[tuple]]:  # (H,W,3) bytes, places
    "A photograph of one vehicle; the third is of two."
    r = torch.rand(14, generator=g).tolist()
    H = 150 + int(40 * r[0])
    W = 200 + int(60 * r[1])
    ground = torch.nn.functional.interpolate(
        torch.rand(1, 3, 3, 5, generator=g), (H, W), mode="bicubic"
    ).clamp(0, 1)[0]
    picture = (0.2 * ground + 0.15 * ground.mean(0) + 0.35).permute(1, 2, 0).numpy()
    places = [_place(r[2:6], H, W)]
    if number == 3:
        places = [(4.0, 6.0, 0.4 * W, False), (0.45 * W, 0.35 * H, 0.5 * W, True)]
    for place, colour in zip(places, (np.array(r[6:9]), np.array(r[9:12]))):
        _paint(picture, vehicle, place, 0.25 + 0.6 * colour)
    if number == 2:
        picture = picture.mean(2, keepdims=True)
    return (picture.squeeze().clip(0, 1) * 255).round().astype(np.uint8), places


def _part_cells(
    vehicle: str, place: tuple, corners: np.ndarray, size: tuple[int, int], number: int
) -> np.ndarray:
    "The tables of all parts of one vehicle, with the oddities of photograph `number`."
    window = crop_window(corners, size)
    cells = []
    for part, boxes in _SIDE[vehicle].items():
        photo = np.array([_in_photo(box, place) for box in boxes]).reshape(-1, 4)
        if number == 4 and part == 1:
            photo[0, 3] += 30  # reaches beyond the crop
        table = np.concatenate(
            [photo_to_crop(photo, window).round(1), photo, np.full((len(photo), 1), part)], 1
        )
        if number == 1 and part == 3:
            table = table[:, :4]  # another number of columns
        if number == 2 and part == 2:
            table[0, 8] = 1  # another part's number
        cells.append(
            _matlab(table.round() if number == 5 else table) if len(table) else np.zeros((0, 0))
        )
    return _cell(cells, (len(cells), 1))


def _object_boxes(vehicle: str, places: Sequence) -> list[np.ndarray]:
    "The box of each object of a photograph, a little wider than its body."
    bodies = [np.array([_in_photo(box, place) for box in _BODY[vehicle]]) for place in places]
    return [
        np.concatenate([b[:, :2].min(0) - 2.3, b[:, 2:].max(0) + [2.3, 2.3 + 0.06 * p[2]]])
        for b, p in zip(bodies, places)
    ]


def _write_one(root: Path, vehicle: str, number: int, g: torch.Generator) -> str:
    "Photograph `number` of a vehicle and its two MATLAB files; returns its line of the list."
    from scipy.io import savemat

    picture, places = _photo(vehicle, number, g)
    name = f"{_SYNSETS[vehicle]}_{10000 + number}"
    size = picture.shape[:2]
    image = Image.fromarray(picture)
    photo = root / "PASCAL3D+_release1.1" / "Images" / f"{vehicle}_imagenet" / f"{name}.JPEG"
    note = Image.Exif()
    if number == 6:  # stored lying on its side
        note[0x0112] = 6
        image = image.transpose(Image.Transpose.ROTATE_90)
    image.save(photo, quality=95, exif=note)
    corners = _object_boxes(vehicle, places)
    objects = np.zeros((1, len(places)), dtype=[("class", object), ("bbox", object)])
    for k, box in enumerate(corners):
        objects[0, k] = (vehicle, box.reshape(1, 4))
    record = {
        "filename": f"{name}.JPEG",
        "size": {"width": size[1], "height": size[0], "depth": 3},
        "objects": objects,
    }
    savemat(
        root / "PASCAL3D+_release1.1" / "Annotations" / f"{vehicle}_imagenet" / f"{name}.mat",
        {"record": record},
        do_compression=True,
    )
    cells = [
        item
        for place, box in zip(places, corners)
        for item in (box.reshape(1, 4), _part_cells(vehicle, place, box, size, number))
    ]
    path = root / "PASCAL3D+_sp" / f"{vehicle}_imagenet" / "transfered" / f"{name}.mat"
    savemat(path, {"anno": _cell(cells, (len(places), 2))}, do_compression=True)
    return f"{name} {len(places)}"


def write_vehiclepart_fixture(
    folder: str | Path,
    n: int = 8,  # photographs of each vehicle, at least 6; every fourth is for testing
    vehicles: Sequence[str] = ("car", "bus"),
    seed: int = 0,
) -> Path:
    """Draw a few vehicles and write them in the layout of PASCAL3D+ and VehicleSemanticPart;
    returns the folder of both."""
    folder, g = Path(folder), generator(seed)
    for vehicle in vehicles:
        for below, _ in _PLACES.values():
            (folder / below.format(vehicle)).mkdir(parents=True, exist_ok=True)
        lines = [_write_one(folder, vehicle, number, g) for number in range(1, n + 1)]
        for split in ("train", "test"):
            path = _list_path(folder, vehicle, split)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                "".join(
                    f"{line}\n" for k, line in enumerate(lines) if (k % 4 == 3) == (split == "test")
                )
            )
    return folder
