"""Heads that turn, in AFLW's three layouts, with the oddities of the original."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from partbook.core import generator
from partbook.readers.aflw import (
    CLICK,
    EARS,
    FEATURES,
    FIVE,
    _fill_database,
    _save,
    head_landmarks,
    photograph_split,
)


@dataclass
class _Face:
    "A drawn face: what the annotators of AFLW would note of it."

    middle: tuple[float, float]
    size: float  # pixels
    yaw: float  # degrees
    points: np.ndarray  # (21,2) pixels
    seen: np.ndarray  # (21,) bool
    box: tuple[float, float, float, float]


def _pose_face(middle: tuple[float, float], size: float, yaw: float, W: int, H: int) -> _Face:
    points, near = head_landmarks(yaw)
    points = np.round(points * size + middle, 2)
    reach = np.where(np.isin(FEATURES, EARS), -0.2, 0.05)  # ears stand out
    inside = ((points > 0) & (points < (W, H))).all(1)
    return _Face(
        middle,
        size,
        yaw,
        points,
        (near > reach) & inside,
        (middle[0] - 0.46 * size, middle[1] - 0.46 * size, 0.92 * size, 0.98 * size),
    )


def _paint_face(image: Tensor, face: _Face, r: Sequence[float]) -> Tensor:
    "The face on a (3,H,W) ground; r holds four numbers in [0,1] for its colours."
    H, W = image.shape[1:]
    y, x = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    points, near = head_landmarks(face.yaw)
    skin = torch.tensor([0.95, 0.76, 0.62]) * (0.45 + 0.55 * r[0])
    hair = torch.tensor([0.5, 0.34, 0.2]) * (0.3 + r[1])

    def dab(image, at, half, colour):
        u = (x - face.middle[0] - at[0] * face.size) / (half[0] * face.size)
        v = (y - face.middle[1] - at[1] * face.size) / (half[1] * face.size)
        return torch.where(u**2 + v**2 < 1, colour[:, None, None], image)

    place = {name: (points[n], float(near[n])) for n, name in enumerate(FEATURES)}
    image = dab(image, (-0.1 * math.sin(math.radians(face.yaw)), -0.08), (0.47, 0.52), hair)
    for name in EARS:
        image = dab(image, place[name][0], (0.07, 0.11), skin * 0.85)
    image = dab(image, (0, 0.03), (0.38, 0.5), skin)
    marks = [
        (f"{side}{what}Center", half, colour)
        for side in ("Left", "Right")
        for what, half, colour in (
            ("Brow", (0.11, 0.022), hair),
            ("Eye", (0.075, 0.04), torch.ones(3)),
            ("Eye", (0.032, 0.036), torch.tensor([0.1, 0.15 + 0.3 * r[2], 0.25])),
        )
    ]
    marks += [
        ("NoseCenter", (0.06, 0.1), skin * 0.82),
        ("MouthCenter", (0.15, 0.04), torch.tensor([0.7, 0.2 + 0.15 * r[3], 0.22])),
    ]
    for name, (a, b), colour in marks:
        at, z = place[name]
        if z > 0.05:
            image = dab(image, at, (a * max(z, 0.25), b), colour)
    return image


def _draw_photograph(g: torch.Generator, faces: int, close: bool) -> tuple[Tensor, list[_Face]]:
    "A photograph with one or two heads over a blurred ground; `close` fills it with one."
    H = 120
    W = 160
    image = (
        torch.nn.functional.interpolate(
            torch.rand(1, 3, 3, 4, generator=g), (H, W), mode="bicubic"
        ).clamp(0, 1)[0]
        * 0.4
        + 0.3
    )
    image = 0.5 * image + 0.5 * image.mean(0)
    found = []
    for k in range(faces):
        r = torch.rand(8, generator=g).tolist()
        size = 105 if close else 58 + 14 * r[0]
        middle = (
            W * (0.5 if faces == 1 else 0.27 + 0.46 * k) + 8 * r[1] - 4,
            H * (0.46 + 0.08 * r[2]),
        )
        found.append(
            _pose_face(middle, size, 150 * r[3] - 75 if not close else 12 * r[3] - 6, W, H)
        )
        image = _paint_face(image, found[-1], r[4:])
    return image.clamp(0, 1), found


def _write_database(path: Path, photographs: Sequence[tuple[str, Tensor, list[_Face]]]) -> None:
    rows = {name: [] for name in ("FaceImages", "Faces", "FaceRect", "FacePose", "FeatureCoords")}
    face_id = 39341
    for n, (file, image, faces) in enumerate(photographs, 1):
        rows["FaceImages"].append(
            (n, "aflw", PurePosixPath(file).name, file, 0, image.shape[2], image.shape[1])
        )
        for f in faces:
            rows["Faces"].append((face_id, PurePosixPath(file).name, "aflw"))
            rows["FaceRect"].append((face_id, *(round(v) for v in f.box), 4))
            rows["FacePose"].append((face_id, 0.0, 0.0, math.radians(f.yaw), 1))
            rows["FeatureCoords"] += [
                (face_id, k + 1, *f.points[k].tolist(), 4)
                for k in range(len(FEATURES))
                if f.seen[k]
            ]
            face_id += 1
    rows["FaceRect"].append((39341, 1, 1, 20, 20, 5))
    rows["Faces"].append((face_id, rows["Faces"][0][1], "aflw"))
    _fill_database(path, rows)


def _write_nineteen(
    path: Path, photographs: Sequence[tuple[str, Tensor, list[_Face]]], g: torch.Generator
) -> None:
    from scipy.io import savemat

    keep = [f not in EARS for f in FEATURES]
    faces = [(file, f) for file, _, found in photographs for f in found]
    names = np.empty((len(faces), 1), dtype=object)
    names[:, 0] = [file for file, _ in faces]
    x, y, w, h = np.array([f.box for _, f in faces]).round().T
    savemat(
        path,
        {
            "nameList": names,
            "bbox": np.stack([x, x + w, y, y + h], 1),
            "data": np.stack([f.points[keep].T.reshape(-1) for _, f in faces]),
            "mask_new": np.stack([f.seen[keep] for _, f in faces]).astype(np.uint8),
            "ra": (torch.randperm(len(faces), generator=g) + 1).numpy()[None],
        },
        do_compression=True,
    )


def _write_recropped(folder: Path, photographs: Sequence[tuple[str, Tensor, list[_Face]]]) -> None:
    from scipy.io import savemat

    five = [FEATURES.index(name) for name in FIVE.values()]
    crops = []
    for _, image, faces in photographs:
        for f in (f for f in faces if f.seen[five].all()):
            left = max(round(f.middle[0] - 0.5 * f.size), 0)
            top = max(round(f.middle[1] - 0.5 * f.size), 0)
            crops.append(
                (
                    image[:, top : top + round(f.size), left : left + round(f.size)],
                    (f.points[five] - (left, top))[:, ::-1],
                )
            )
    for word, chosen in (("train", crops[: -len(crops) // 3]), ("test", crops[-len(crops) // 3 :])):
        lines = [f"{word}/{n:05d}.jpg" for n in range(len(chosen))]
        for line, (image, _) in zip(lines, chosen):
            _save(folder / "output" / line, image)
        (folder / f"aflw_{word}_images.txt").write_text("\n".join(lines) + "\n")
        truth = np.stack([p for _, p in chosen]) - CLICK  # the numbers of pixels
        sizes = np.array([i.shape[1:] for i, _ in chosen])
        savemat(folder / f"aflw_{word}_keypoints.mat", {"gt": truth, "hw": sizes})


def write_aflw_fixture(
    folder: str | Path,
    # how many photographs; number 2 has two faces, number
    # 3 is greyscale, every third is filled by a face
    n: int = 12,
    seed: int = 0,
) -> Path:
    """Draw a few heads and write them in AFLW's three layouts
    (`recrop/` below the folder holds the third); returns the folder."""
    folder, g = Path(folder), generator(seed)
    photographs = []
    number = 1
    for k in range(1, n + 1):
        file = f"{(0, 2, 3)[k % 3]}/image{number:05d}.jpg"
        while photograph_split([file])[0] != (
            k % 4 < 2
        ):  # numbers are chosen so that both halves get some
            number += 1
            file = f"{(0, 2, 3)[k % 3]}/image{number:05d}.jpg"
        number += 1
        image, faces = _draw_photograph(g, 2 if k == 2 else 1, k % 3 == 0)
        _save(folder / "data" / "flickr" / file, image, k == 3)
        photographs.append((file, image, faces))
    _write_database(folder / "data" / "aflw.sqlite", photographs)
    _write_nineteen(folder / "AFLWinfo_release.mat", photographs, g)
    (folder / "recrop").mkdir()
    _write_recropped(folder / "recrop", photographs)
    return folder
