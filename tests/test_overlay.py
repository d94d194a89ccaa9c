"""Pictures in bytes: what the equations say, within a step; marked as drawn; in little memory."""

import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from partbook.core import InputError
from partbook.files import is_marked_png, is_ours
from partbook.parts import plots
from partbook.parts.plots import (
    as_bytes,
    as_picture,
    overlay,
    part_sheet,
    read_palette_png,
    write_palette_png,
    write_picture,
)


def random_picture(H, W, K, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (H, W, 3), dtype=np.uint8), rng.integers(0, K + 1, (H, W))


@pytest.mark.parametrize(
    "H, W, K", [(1, 1, 1), (3, 3, 2), (700, 5, 6), (257, 40, 255), (2, 900, 24), (256, 3, 3)]
)
@pytest.mark.parametrize("alpha, mute", [(0.65, 0.7), (0.0, 1.0), (1.0, 0.0), (0.4, 0.123)])
def test_bytes_are_blended_as_the_equations_say(H, W, K, alpha, mute):
    picture, labels = random_picture(H, W, K, H + W)
    for outline in (False, True):
        fast = overlay(picture, labels.astype(np.uint8), alpha, mute, outline)
        literal = (overlay(picture / 255, labels, alpha, mute, outline) * 255).round()
        assert fast.dtype == np.uint8 and fast.shape == (H, W, 3)
        assert np.abs(fast.astype(int) - literal).max() <= 1


def test_an_outline_crosses_bands_of_rows():
    labels = np.zeros((600, 4), int)
    labels[200:512] = 1
    labels[512:] = 2
    edges = overlay(np.full((600, 4, 3), 0.5), labels, outline=True)
    plain = overlay(np.full((600, 4, 3), 0.5), labels)
    darker = np.flatnonzero((edges != plain).any((1, 2)))
    assert darker.tolist() == [200, 511] and plots.boundaries(labels).any(1).nonzero()[
        0
    ].tolist() == [200, 511]


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int64])
def test_a_tensor_and_an_array_give_one_overlay(kind):
    picture, labels = random_picture(30, 20, 5)
    image = torch.from_numpy(picture).permute(2, 0, 1)
    assert np.array_equal(
        overlay(image, torch.from_numpy(labels).to(kind)), overlay(picture, labels)
    )
    assert np.array_equal(overlay(image.contiguous(), labels), overlay(picture, labels))


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_shares_beyond_the_whole_are_refused(share):
    picture, labels = random_picture(4, 4, 2)
    with pytest.raises(InputError, match="are shares, from 0 to 1"):
        overlay(picture, labels, alpha=share)
    with pytest.raises(InputError, match="are shares, from 0 to 1"):
        overlay(picture, labels, mute=share)


def test_bytes_are_the_picture_rounded():
    rng = np.random.default_rng(1)
    for value in (
        rng.random((300, 7, 3)),
        torch.from_numpy(rng.random((3, 9, 8))).float(),
        rng.random((270, 5)) * 3 - 1,
        rng.random((6, 5)) > 0.5,
        rng.integers(0, 40, (9, 9)),
        rng.integers(0, 40, (9, 9), dtype=np.uint8),  # two axes of whole numbers are labels
    ):
        expected = (as_picture(value) * 255).round()
        found = as_bytes(value)
        assert np.array_equal(
            found if found.ndim == 3 else found[..., None].repeat(3, -1), expected
        )


def test_a_photograph_in_bytes_is_not_white():
    assert as_picture(np.full((2, 2, 3), 51, np.uint8)).max() == pytest.approx(0.2)
    assert as_picture(torch.full((3, 2, 2), 255, dtype=torch.uint8)).min() == 1


def test_results_are_marked_and_photographs_are_not(tmp_path):
    picture, labels = random_picture(20, 30, 3)
    sheet = part_sheet(torch.rand(1, 3, 16, 16), torch.ones(1, 16, 16, dtype=torch.int64), K=2)
    plots.write_figure(tmp_path / "sheet.png", sheet)
    write_palette_png(tmp_path / "labels.png", labels, 3)
    write_picture(tmp_path / "overlay.png", picture, made_by="partbook segment")
    write_picture(tmp_path / "photograph.png", picture)
    for name, ours in {"sheet": 1, "labels": 1, "overlay": 1, "photograph": 0}.items():
        assert is_marked_png(tmp_path / f"{name}.png") == is_ours(tmp_path / f"{name}.png") == ours
    for name in ("overlay", "photograph"):
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"{name}.png")), picture)
    assert torch.equal(read_palette_png(tmp_path / "labels.png"), torch.from_numpy(labels))
    write_picture(tmp_path / "o.jpg", picture, made_by="partbook segment")
    assert Image.open(tmp_path / "o.jpg").info["comment"].startswith(b"partbook")
    write_picture(tmp_path / "p.jpg", picture)
    assert "comment" not in Image.open(tmp_path / "p.jpg").info


def test_somebody_who_saves_a_result_again_owns_it(tmp_path):
    _, labels = random_picture(9, 9, 3)
    path = write_palette_png(tmp_path / "labels.png", labels, 3)
    with Image.open(path) as picture:
        picture.rotate(180).save(path)
    assert not is_ours(path)


@pytest.mark.parametrize("limit", [0, 10**9])
def test_a_large_picture_is_packed_otherwise_and_reads_the_same(limit, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "LARGE", limit)
    picture, _ = random_picture(40, 50, 1)
    for name, value in {"colour": picture, "map": np.linspace(0, 1, 600).reshape(20, 30)}.items():
        path = write_picture(tmp_path / f"{name}.png", value, made_by="x")
        assert np.array_equal(np.asarray(Image.open(path)), as_bytes(value)) and is_marked_png(path)
    assert Image.open(tmp_path / "map.png").mode == "L"


def test_an_overlay_of_six_million_pixels_takes_few_bytes_for_each():
    picture, labels = random_picture(2000, 3000, 8)
    labels = labels.astype(np.uint8)
    tracemalloc.start()
    overlay(picture, labels)
    peak = tracemalloc.get_traced_memory()[1] / labels.size
    tracemalloc.stop()
    assert peak < 10  # three of them the result


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"no picture"])
def test_a_label_file_that_is_none_is_one_sentence(content, tmp_path):
    (tmp_path / "l.png").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as an image") as error:
        read_palette_png(tmp_path / "l.png")
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="is a folder, not a label file"):
        read_palette_png(tmp_path)
