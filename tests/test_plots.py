"""Pictures are made without a display and without pyplot's global state."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from partbook.core import InputError
from partbook.methods.method import methods
from partbook.parts.plots import (
    METHODS,
    SPARE,
    as_bytes,
    method_colour,
    number_places,
    overlay,
    part_colours,
    part_sheet,
    write_palette_png,
)

HEADLESS = """
import sys, torch
from partbook.parts.plots import part_sheet
part_sheet(torch.rand(3, 3, 64, 64), torch.randint(0, 5, (3, 64, 64)), K=4, path=sys.argv[1])
assert "matplotlib.pyplot" not in sys.modules
"""


def test_part_sheet_needs_no_display(tmp_path, environment, root):
    path = tmp_path / "new" / "parts.png"
    kept = {k: v for k, v in environment.items() if k not in ("DISPLAY", "MPLBACKEND")}
    subprocess.run([sys.executable, "-c", HEADLESS, str(path)], check=True, cwd=root, env=kept)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_sheet_of_photographs_is_no_large_file(tmp_path):
    y, x = torch.meshgrid(torch.arange(300.0), torch.arange(400.0), indexing="ij")
    noise = 0.05 * torch.randn(16, 3, 300, 400, generator=torch.Generator().manual_seed(0))
    images = (0.5 + 0.3 * torch.sin(x / 30) * torch.cos(y / 40) + noise).clamp(0, 1)
    part_sheet(images, (x // 50).long().expand(16, -1, -1), K=8, path=tmp_path / "parts.png")
    assert (tmp_path / "parts.png").stat().st_size < 1_200_000


@pytest.mark.parametrize(
    "write",
    [
        lambda path: part_sheet(
            torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.int64), K=2, path=path
        ),
        lambda path: write_palette_png(path, torch.zeros(8, 8, dtype=torch.int64), K=2),
    ],
)
def test_a_folder_in_the_way_is_one_sentence(tmp_path, write):
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / "taken" / "parts.png")


# ---------------------------------------------------------------- colours of methods

EYES = {  # Machado, Oliveira and Fernandes 2009, for linear light
    "all cones": np.eye(3),
    "no green": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no red": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no blue": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def looks(rgb, eye):
    "CIE-LAB of colours as an eye sees them."
    rgb = np.atleast_2d(rgb)
    light = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x = np.clip(light @ np.array(eye).T, 0, 1) @ XYZ.T / XYZ.sum(1)
    f = np.where(x > (6 / 29) ** 3, np.cbrt(x), x / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], -1)


def test_a_method_has_one_colour_and_it_is_no_parts():
    for name in methods.names():
        assert name in METHODS, f"{name} has no colour of its own in plots.METHODS"
    assert len({*METHODS.values(), *SPARE}) == len(METHODS) + len(SPARE)
    rgb = [to_rgb(colour) for colour in (*METHODS.values(), *SPARE)]
    for colour in rgb:
        away = looks(part_colours(8)[1:], np.eye(3)) - looks(colour, np.eye(3))
        assert np.linalg.norm(away, axis=1).min() > 8
    assert method_colour("mine") == method_colour("mine") in SPARE


@pytest.mark.parametrize("eye", EYES)
def test_methods_are_told_apart_by_every_eye(eye):
    "Those that have results, and the trivial ones."
    names = ("kmeans", "contrastive", "scops", "dff", "uld", "rgb", "position")
    seen = looks([to_rgb(method_colour(name)) for name in names], EYES[eye])
    distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + 1e3 * np.eye(len(names))
    assert distances.min() > 15


def test_two_part_colours_are_close_without_blue():
    "Why parts carry numbers: not even the first eight are safe for every eye."
    one, eight = looks(part_colours(8)[[1, 8]], EYES["no blue"])
    assert np.linalg.norm(one - eight) < 15


# ---------------------------------------------------------------- numbers on parts


def written(figure):
    "The texts on each of a sheet's pictures."
    return [sorted(int(t.get_text()) for t in ax.texts) for ax in figure.axes]


def blocks(K, side=64):
    "K upright bands."
    return (torch.arange(side) * K // side + 1).expand(side, side)


@pytest.mark.parametrize("K, shown", [(8, []), (9, list(range(1, 10)))])
def test_sheets_number_parts_above_eight(K, shown):
    images = torch.full((2, 3, 64, 64), 0.5)
    assert written(part_sheet(images, blocks(K).expand(2, -1, -1), K)) == [
        [],
        shown,
        [],
        shown,
        list(range(1, K + 1)),
    ]
    assert written(part_sheet(images[:1], blocks(2)[None], K, numbers=False))[1] == []
    assert written(part_sheet(images[:1], blocks(2)[None], 4, numbers=True))[1] == [1, 2]


def test_a_number_lies_deep_inside_its_part():
    labels = np.zeros((90, 120), int)
    labels[10:80, 10:20] = labels[70:80, 10:110] = 3  # bent: its centre is outside
    labels[20:40, 60:100] = 12
    places = number_places(labels)
    assert places.keys() == {3, 12} and places[12][:2] == pytest.approx((80, 30), abs=11)
    for k, (x, y, depth) in places.items():
        assert labels[int(y), int(x)] == k and 4 <= depth <= 11
    large = number_places(np.kron(labels, np.ones((10, 10), int)))
    for k, (x, y, depth) in large.items():
        assert np.kron(labels, np.ones((10, 10), int))[int(y), int(x)] == k and depth > 30
    assert number_places(np.zeros((5, 5), int)) == {}


def test_overlays_are_numbered_where_a_part_above_eight_is_seen():
    for image in (
        torch.full((3, 240, 300), 0.5),
        torch.full((3, 240, 300), 128, dtype=torch.uint8),
    ):
        few, many = blocks(8, 300)[:240], blocks(9, 300)[:240]
        assert np.array_equal(overlay(image, few), overlay(image, few, numbers=False))
        plain = as_bytes(overlay(image, many, numbers=False))
        numbered = as_bytes(overlay(image, many))
        differs = (plain != numbered).any(-1)
        for k, (x, y, _) in number_places(many).items():
            near = differs[int(y) - 8 : int(y) + 8, int(x) - 8 : int(x) + 8]
            assert (
                near.any()
                and numbered[int(y) - 8 : int(y) + 8, int(x) - 8 : int(x) + 8].max() > 240
            ), k
        assert 0.005 < differs.mean() < 0.1
    small = torch.full((3, 64, 64), 0.5)  # no room for digits
    assert np.array_equal(overlay(small, blocks(9)), overlay(small, blocks(9), numbers=False))
