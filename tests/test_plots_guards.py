"""What pictures of parts must never do, case by case (the chapter shows the examples)."""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from partbook.core import InputError, generator
from partbook.files import is_marked_png
from partbook.parts.plots import (
    Sheet,
    _place,
    _row_tops,
    _runs,
    _screen_pixels,
    as_bytes,
    as_picture,
    boundaries,
    contours,
    draw_landmarks,
    draw_picture,
    overlay,
    part_colours,
    part_sheet,
    picture_grid,
    read_palette_png,
    write_palette_png,
    write_picture,
)

DEUTERANOPIA = np.array(
    [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
)
PROTANOPIA = np.array(
    [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]
)
XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def linear(rgb):
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def seen(rgb, eye):
    "Linear light as an eye with two kinds of cones sees it."
    return np.clip(linear(rgb) @ eye.T, 0, 1)


def lab(light):
    x = light @ XYZ.T / XYZ.sum(1)  # the white of the screen is (1, 1, 1)
    f = np.where(x > (6 / 29) ** 3, np.cbrt(x), x / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack(
        [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1
    )


def smallest_distance(colours, eye=None):
    values = lab(linear(colours) if eye is None else seen(colours, eye))
    distances = np.linalg.norm(values[:, None] - values[None], axis=-1)
    return (distances + 1e3 * np.eye(len(colours))).min()


def toy_bird(S=64, face=1, hue=0.0, seed=0):
    "An image (3,S,S), its labels (S,S) and three landmarks (3,2)."
    y, x = torch.meshgrid((torch.arange(S) + 0.5) / S, (torch.arange(S) + 0.5) / S, indexing="ij")
    x = x if face > 0 else 1 - x

    def oval(cx, cy, rx, ry, t=0.0):
        c, s = np.cos(t), np.sin(t)
        return (((x - cx) * c + (y - cy) * s) / rx) ** 2 + (
            ((y - cy) * c - (x - cx) * s) / ry
        ) ** 2 < 1

    r = torch.rand(7, 5, generator=generator(seed))
    image = torch.tensor([0.5, 0.6, 0.45])[:, None, None].expand(3, S, S).clone()
    for cx, cy, size, green, light in r.tolist():
        leaf = torch.tensor([0.5 - 0.2 * green, 0.55, 0.5 - 0.3 * green]) * (0.7 + 0.5 * light)
        image[:, oval(cx, cy, 0.1 + 0.2 * size, 0.1 + 0.15 * size)] = leaf[:, None]
    beak = (x > 0.8) & (x < 0.95) & ((y - 0.3).abs() < (0.95 - x) / 3)
    legs = (y > 0.68) & (y < 0.86) & (((x - 0.45).abs() < 0.015) | ((x - 0.53).abs() < 0.015))
    shapes = [
        (4, oval(0.17, 0.66, 0.14, 0.06, -0.5)),
        (1, oval(0.45, 0.55, 0.25, 0.17, -0.25)),
        (3, beak),
        (2, oval(0.74, 0.31, 0.12, 0.115)),
        (5, oval(0.4, 0.53, 0.17, 0.075, -0.3)),
        (6, legs),
    ]
    labels = torch.zeros(S, S, dtype=torch.int64)
    shade = 1.2 - 0.125 * (5 * y).floor()
    for k, shape in shapes:
        labels[shape] = k
        tone = torch.tensor(plt.get_cmap("hsv")((hue + 0.09 * k) % 1)[:3]).float() * 0.5 + 0.2
        image[:, shape] = (tone[:, None] * shade[shape]).clamp(0, 1)
    points = torch.tensor([[0.93, 0.3], [0.77, 0.28], [0.06, 0.72]]) * S
    points[:, 0] = points[:, 0] if face > 0 else S - points[:, 0]
    return image, labels, points


image = torch.rand(3, 5, 4, generator=generator(0))
corner = np.array([[0, 0, 0], [0, 0, 0], [0, 0, 1]])
birds = [toy_bird(64, face=1 if i % 2 else -1, hue=i / 7, seed=i) for i in range(6)]


def test_colours_do_not_depend_on_K():
    for K in (0, 1, 4, 8, 24, 64, 512):
        assert part_colours(K).shape == (K + 1, 3)
        assert np.array_equal(part_colours(K), part_colours(600)[: K + 1])  # rule 1
    assert len(np.unique(part_colours(120).round(6), axis=0)) == 121


def test_known_colours():
    np.testing.assert_allclose(
        lab(np.array([[1.0, 1, 1], [0, 0, 0]])), [[100, 0, 0], [0, 0, 0]], atol=1e-6
    )
    np.testing.assert_allclose(lab(linear(np.array([1.0, 0, 0]))), [53.24, 80.09, 67.20], atol=0.01)
    np.testing.assert_allclose(DEUTERANOPIA.sum(1), 1, atol=1e-5)  # greys stay grey


def test_colours_keep_apart_for_three_eyes():
    for eye in (None, DEUTERANOPIA, PROTANOPIA):
        assert smallest_distance(part_colours(8)[1:], eye) > 25  # rule 2
        assert (
            smallest_distance(part_colours(8), eye) > 25
        )  # and none of them is near the black of the background
    rainbow = plt.get_cmap("tab10").colors[:8]  # matplotlib's own, for comparison
    assert smallest_distance(np.array(rainbow), DEUTERANOPIA) < 10
    assert smallest_distance(part_colours(64)[1:]) > 10


def test_anything_as_a_picture():
    image = torch.rand(3, 5, 4, generator=generator(0))
    assert np.array_equal(as_picture(image), image.permute(1, 2, 0).double().numpy())
    assert np.array_equal(as_picture(torch.tensor([[0, 2]])), part_colours(2)[[[0, 2]]])
    assert np.array_equal(as_picture(np.array([[True, False]])), [[[1, 1, 1], [0, 0, 0]]])
    assert as_picture(torch.zeros(3, 7, 3)).shape == (7, 3, 3) and as_picture(
        np.ones((3, 3, 3))
    ).shape == (3, 3, 3)
    with pytest.raises(InputError, match=r"shape \(4, 3, 5, 4\) cannot be drawn"):
        as_picture(image.expand(4, 3, 5, 4))
    stored = as_bytes(image)
    assert np.abs(as_picture(stored) - as_picture(image)).max() <= 0.5 / 255 + 1e-9
    assert as_bytes(stored) is stored and as_bytes(np.array([[0.2, 1.0]])).tolist() == [[51, 255]]
    assert np.array_equal(
        as_bytes(torch.tensor([[0, 2]])), as_bytes(as_picture(torch.tensor([[0, 2]])))
    )


def test_pictures_are_drawn_in_pixels():
    ax = Figure().subplots()
    draw_picture(ax, image, size=(50, 40))
    assert (
        tuple(ax.images[0].get_extent()) == (0, 40, 50, 0)
        and ax.get_xlim() == (0, 40)
        and ax.get_ylim() == (50, 0)
    )


def test_boundaries():
    assert (
        boundaries(np.array([[0, 1, 1, 2], [0, 1, 1, 2]])).tolist()
        == [[False, True, True, False]] * 2
    )
    assert boundaries(np.array([[0, 0], [1, 1], [1, 1], [0, 0]])).tolist() == [
        [False] * 2,
        [True] * 2,
        [True] * 2,
        [False] * 2,
    ]


def test_overlay():
    grey, red = (
        torch.full((3, 1, 2), 0.5),
        torch.tensor([0.5, 0.0, 0.0])[:, None, None].expand(3, 1, 2),
    )
    labels = torch.tensor([[0, 1]])
    result = overlay(grey, labels, alpha=0.4)
    np.testing.assert_allclose(result[0, 0], 0.5)  # a grey background stays as it is
    np.testing.assert_allclose(result[0, 1], 0.4 * part_colours(1)[1] + 0.6 * (0.2 + 0.8 * 0.5))
    np.testing.assert_allclose(overlay(red, labels, mute=0)[0, 0], [0.5, 0, 0])
    np.testing.assert_allclose(
        overlay(red, labels, mute=0.6)[0, 0], 0.6 * 0.299 * 0.5 + 0.4 * np.array([0.5, 0, 0])
    )
    same_grey = torch.full((3, 1, 2), 0.299 * 0.5)
    np.testing.assert_allclose(
        overlay(red, labels)[0, 1], overlay(same_grey, labels)[0, 1]
    )  # rule 3
    outlined = overlay(grey, labels, alpha=0.4, outline=True)
    assert np.array_equal(outlined[0, 0], result[0, 0]) and np.allclose(
        outlined[0, 1], 0.35 * result[0, 1]
    )
    with pytest.raises(
        InputError, match=r"picture's size \(5, 4\), not int64 of shape \(2, 2\); upsample"
    ):
        overlay(image, torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(InputError, match="must be integers"):
        overlay(image, torch.zeros(5, 4))


def test_runs():
    corner = np.array([[0, 0, 0], [0, 0, 0], [0, 0, 1]])
    assert _runs(corner).tolist() == [[[2, 2], [2, 3]]] and _runs(corner.T)[..., ::-1].tolist() == [
        [[2, 2], [3, 2]]
    ]
    assert _runs(np.array([[0, 1]] * 4)).tolist() == [[[1, 0], [1, 4]]]  # four edges, one line
    assert len(_runs(np.zeros((4, 4), int))) == 0
    labels = torch.randint(0, 3, (20, 30), generator=generator(1)).numpy()
    runs = np.concatenate([_runs(labels), _runs(labels.T)])
    differing = (labels[:, 1:] != labels[:, :-1]).sum() + (labels[1:] != labels[:-1]).sum()
    assert np.abs(runs[:, 1] - runs[:, 0]).sum() == differing


def test_contours():
    lines = contours(Figure().subplots(), corner, size=(30, 60))
    assert [s.tolist() for s in lines.get_segments()] == [
        [[40, 20], [40, 30]],
        [[40, 20], [60, 20]],
    ]  # cells of 10 by 20 pixels


def test_landmarks():
    ax = Figure().subplots()
    draw_landmarks(
        ax,
        torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
        torch.tensor([False, True, True]),
        ["a", "b", "c"],
    )
    dots = ax.collections[0]
    assert dots.get_offsets().tolist() == [[3, 4], [5, 6]] and [t.get_text() for t in ax.texts] == [
        "b",
        "c",
    ]
    np.testing.assert_allclose(
        dots.get_facecolors()[:, :3], part_colours(3)[2:]
    )  # the colour belongs to the landmark


def test_layout():
    assert (
        _screen_pixels(64, 110),
        _screen_pixels(48, 128),
        _screen_pixels(150, 110),
        _screen_pixels(300, 110),
    ) == (128, 144, 150, 110)
    box = _place(Sheet(200, 100), 10, 20, 50, 30).get_window_extent()
    np.testing.assert_allclose([box.x0, box.y0, box.width, box.height], [10, 50, 50, 30])
    assert _row_tops([True, False], tall=100, gap=4) == [
        18,
        122,
        226,
    ]  # 4 + 14; 18 + 100 + 4; and so on
    grid = picture_grid(
        [torch.zeros(3, 8, 8), torch.zeros(6, 12, dtype=torch.int64)], titles=["a", "b"]
    )
    assert [ax.get_title() for ax in grid.axes] == ["a", "b"]
    with pytest.raises(InputError, match="no pictures"):
        picture_grid([])


def test_part_sheet():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "parts.png"
        sheet = part_sheet([b[0] for b in birds], [b[1] for b in birds], K=6, path=path)
        with Image.open(path) as saved:
            assert (
                saved.format == "PNG"
                and saved.size == (6 * 132 + 4, 2 * 128 + 12 + 30)
                and saved.mode == "P"
            )
            print(
                saved.info["Software"].split()[0], f"drew it, in {path.stat().st_size // 1000} kB"
            )
        assert path.stat().st_size < 150_000 and is_marked_png(path)
    above, below, *_, legend = sheet.axes
    assert np.array_equal(above.images[0].get_array(), as_picture(birds[0][0])) and np.array_equal(
        below.images[0].get_array(), overlay(*birds[0][:2])
    )
    assert (
        above.get_position().y0
        > below.get_position().y1
        > below.get_position().y0
        > legend.get_position().y1
    )
    assert np.array_equal(legend.images[0].get_array(), part_colours(6)[None, 1:]) and [
        t.get_text() for t in legend.texts
    ] == list("123456")
    with tempfile.TemporaryDirectory() as folder:
        part_sheet(
            torch.rand(1, 3, 200, 200, generator=generator(0)),
            torch.zeros(1, 200, 200, dtype=torch.int64),
            K=2,
            path=Path(folder) / "noise.png",
        )
        with Image.open(Path(folder) / "noise.png") as saved:
            assert saved.mode == "RGB"
    with pytest.raises(InputError, match="found 2 images and 1 label maps"):
        part_sheet(torch.zeros(2, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.int64), K=4)
    assert part_sheet(
        torch.zeros(1, 3, 20, 30), torch.ones(1, 20, 30, dtype=torch.int64), K=100, contours=False
    ).axes


def test_labels_as_files():
    labels = torch.randint(0, 201, (37, 53), generator=generator(2))
    with tempfile.TemporaryDirectory() as folder:
        path = write_palette_png(Path(folder) / "labels.png", labels, K=200)
        assert torch.equal(read_palette_png(path), labels)
        with Image.open(path) as picture:
            colours = np.asarray(picture.convert("RGB")) / 255
        assert np.abs(colours - as_picture(labels)).max() <= 0.5 / 255 + 1e-9

        assert is_marked_png(path)
        path.write_bytes(path.read_bytes()[:300])
        with pytest.raises(InputError, match="cannot be read as an image"):
            read_palette_png(path)
        picture = write_picture(Path(folder) / "bird.png", overlay(*birds[0][:2], outline=True))
        with Image.open(picture) as saved:
            assert (
                np.abs(np.asarray(saved) / 255 - overlay(*birds[0][:2], outline=True)).max()
                <= 0.5 / 255 + 1e-9
            )
        with pytest.raises(InputError, match="PNG image of mode RGB, not an indexed PNG"):
            read_palette_png(picture)
        with pytest.raises(InputError, match="does not end in .png or .jpg"):
            write_picture(Path(folder) / "bird.tiff", birds[0][0])
        with pytest.raises(InputError, match="no label file"):
            read_palette_png(Path(folder) / "absent.png")
    for wrong, K, sentence in [
        (labels, 100, "must lie in 0..100"),
        (labels, 256, "1 to 255 parts"),
        (labels.float(), 200, "must be integers"),
        (labels - 1, 200, "run from -1"),
    ]:
        with pytest.raises(InputError, match=sentence):
            write_palette_png("labels.png", wrong, K)
