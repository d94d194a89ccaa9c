"""Saliency from the background: what a changed line of the chapter would break."""

import pytest
import torch

from partbook.core import InputError, generator
from partbook.data.saliency import (
    background_weight,
    boundary_connectivity,
    centre_box,
    edge_lengths,
    grey_guess,
    optimise,
    saliency,
    smoothness,
    weighted_contrast,
)
from partbook.data.superpixels import (
    colour_and_place,
    geodesic,
    grid_of,
    patch_graph,
    patch_means,
    patch_sizes,
    slots,
    superpixels,
)


def scene(top, left, height, width, size=64):
    "A red box on green, and its mask."
    truth = torch.zeros(size, size, dtype=torch.bool)
    truth[top : top + height, left : left + width] = True
    picture = torch.tensor([0.2, 0.5, 0.3])[:, None, None].expand(3, size, size).clone()
    picture[:, truth] = torch.tensor([0.8, 0.3, 0.2])[:, None]
    return picture, truth


def test_grid_and_slots():
    assert slots(torch.tensor([0, 1, 0, 2, 0]), 3)[0].tolist() == [0, 3, 1, 6, 2]
    cell, near, side = grid_of(4, 6, 6)
    assert cell.view(4, 6)[[0, 3]].tolist() == [[0, 0, 1, 1, 2, 2], [3, 3, 4, 4, 5, 5]]
    assert near[4].tolist() == [0, 1, 2, 3, 4, 5, 3, 4, 5] and side == 2
    assert len(grid_of(5, 7, 6)[1]) == 6  # 2.07 rows by 2.90 columns: two and three
    assert len(grid_of(4, 4, 100)[1]) == 16 and grid_of(4, 4, 100)[2] == 1  # a pixel at least


def test_patches_keep_to_an_edge():
    edge = torch.zeros(1, 3, 48, 64)
    edge[..., 27:] = 1.0
    labels, N = superpixels(edge, count=48)
    white = patch_means(edge.flatten(2), labels.flatten(1), N)[0, 0]
    assert N == 48 and ((white < 0.02) | (white > 0.98)).all()
    assert patch_sizes(labels.flatten(1), N).sum() == 48 * 64
    assert superpixels(edge)[1] == 12 * 16  # about 200
    # the fourth pixel of the second row, two units a pixel
    assert colour_and_place(edge, 2.0)[0, 3:, 64 + 3].tolist() == [6, 2]


def test_graph_of_one_colour():
    p = patch_graph(torch.full((1, 3, 16, 16), 0.4), 16)
    neighbours = p.touch[0].sum(1).view(4, 4)
    assert p.border[0].view(4, 4).sum() == 12
    assert neighbours[0].tolist() == [11, 12, 12, 11] and neighbours[1].tolist() == [12, 4, 4, 12]
    assert torch.equal(p.touch, p.touch.mT)
    assert torch.allclose(p.centre[0, 6], torch.tensor([0.625, 0.375]))


def test_connectivity_of_two_patches_and_of_a_third_without_a_pixel():
    apart = torch.tensor([[[0.0, 200.0**0.5], [200.0**0.5, 0.0]]])
    border = torch.tensor([[True, False]])
    at = boundary_connectivity(apart, border, torch.ones(1, 2, dtype=torch.bool), sigma=10.0)[0]
    e = torch.exp(torch.tensor(-1.0))
    assert torch.allclose(at, torch.stack([1 / (1 + e).sqrt(), e / (1 + e).sqrt()]))
    also = torch.nn.functional.pad(apart, (0, 1, 0, 1))  # on the spot, and does not count
    there = torch.tensor([[True, True, False]])
    found = boundary_connectivity(also, torch.tensor([[True, False, True]]), there)
    assert torch.equal(found[0, :2], at)  # σ is 10 unless one asks


def test_contrast_by_hand():
    colours = [[0.0, 30, 30, 0], [30, 0, 0, 30], [30, 0, 0, 30], [0, 30, 30, 0]]
    where = torch.tensor([[0.5, 0.5], [0.25, 0.5], [0.75, 0.5], [0.5, 0.75]])[None]
    w = torch.tensor([[0.0, 1, 1, 0]])
    contrast = weighted_contrast(torch.tensor(colours)[None], torch.cdist(where, where), w)[0]
    far = torch.exp(torch.tensor(-(0.25**2 + 0.25**2) / (2 * 0.25**2)))
    fourth = far / torch.exp(torch.tensor(-0.5))
    assert torch.allclose(contrast, torch.stack([torch.tensor(1.0), *torch.zeros(2), fourth]))
    weights = background_weight(torch.tensor([0.0, 1, 2]))
    assert torch.allclose(weights, torch.tensor([0.0, 0.393469, 0.864665]), atol=1e-5)


def test_edges_and_smoothness():
    row = torch.tensor([[0.0, 3, 15], [3, 0, 12], [15, 12, 0]])[None]
    beside = torch.tensor([[False, True, False], [True, False, True], [False, True, False]])[None]
    assert geodesic(edge_lengths(row, beside))[0, 0].tolist() == [0, 3, 15]
    assert geodesic(edge_lengths(row, beside, grain=5.0))[0, 0].tolist() == [0, 0, 7]
    w = smoothness(row, beside, sigma=10.0, mu=0.1)[0]
    expected = torch.tensor([0.1 + 0.955997, 0.0, 0.1 + 0.486752])
    assert torch.allclose(w[1], expected, atol=1e-5)
    assert w[0, 2] == 0 and torch.equal(w, w.T)
    assert torch.equal(smoothness(row, beside)[0], w)


def test_saliency_of_plain_scenes_and_what_it_refuses():
    for (picture, truth), share in ((scene(20, 20, 24, 24), 1.0), (scene(40, 24, 24, 16), 0.8)):
        found = saliency(picture[None])[0] > 0.5
        assert not (found & ~truth).any() and (found & truth).sum() / truth.sum() >= share
    with pytest.raises(InputError, match="at least 16 pixels"):
        saliency(torch.zeros(1, 3, 8, 8))
    with pytest.raises(InputError, match="sigma > 0, mu and grain >= 0"):
        saliency(torch.zeros(1, 3, 32, 32), grain=-1.0)
    assert saliency(torch.full((1, 3, 32, 32), 0.4)).isfinite().all()
    assert saliency(torch.full((1, 3, 16, 16), 0.4)).shape == (1, 16, 16)


def literal_saliency(image, sigma, mu, grain):
    "Zhu et al. 2014 on a graph without empty patches, and how many were empty."
    p = patch_graph(image[None], 200)
    there = p.exists[0]
    colour, centre, border = p.colour[:, there], p.centre[:, there], p.border[:, there]
    touch = p.touch[:, there][:, :, there]
    apart = (colour[0][:, None] - colour[0]).norm(dim=-1)[None]
    space = (centre[0][:, None] - centre[0]).norm(dim=-1)[None]
    distance = geodesic(edge_lengths(apart, touch, grain))
    connected = boundary_connectivity(distance, border, torch.ones_like(border), sigma)
    background = background_weight(connected)
    contrast = weighted_contrast(apart, space, background)
    s = optimise(background, contrast, smoothness(apart, touch, sigma, mu))[0]
    scaled = (s - s.min()) / (s.max() - s.min())
    return scaled[(there.cumsum(0) - 1)[p.labels[0]]], int((~there).sum())


def test_patches_without_a_pixel_have_no_say():
    white = torch.ones(3, 64, 64)
    white[:, 7:-7, 7:-7] = torch.tensor([0.6, 0.9, 0.6])[:, None, None]
    noise = 0.1 * torch.rand(3, 64, 64, generator=generator(4))
    rough = (scene(40, 24, 24, 16)[0] + noise).clamp(0, 1)
    for picture in (white, rough):
        for options in ((10.0, 0.1, 0.0), (1.0, 0.3, 0.2)):
            expected, empty = literal_saliency(picture, *options)
            found = saliency(picture[None], 200, *options)[0]
            assert empty > 5 and torch.allclose(found, expected, atol=1e-4)
        usual = saliency(picture[None], 200, 10.0, 0.1, 0.0)
        assert torch.equal(saliency(picture[None]), usual)


def test_alone_or_in_a_batch():
    noise = 0.02 * torch.rand(2, 3, 64, 64, generator=generator(3))
    pair = torch.stack([scene(20, 20, 24, 24)[0], scene(8, 30, 30, 20)[0]]) + noise
    together = saliency(pair.clamp(0, 1))
    assert torch.allclose(together[1], saliency(pair[1:].clamp(0, 1))[0], atol=1e-5)


def test_guesses_to_compare_with():
    dark = torch.full((1, 3, 16, 16), 0.9)
    dark[:, :, 5:11, 5:11] = 0.1
    assert grey_guess(dark).sum() == 36 and grey_guess(dark)[0, 5, 5]
    assert torch.equal(grey_guess(dark), grey_guess(1 - dark))
    assert centre_box(dark).sum() == 64 and centre_box(dark)[0, 4:12, 4:12].all()
    wide = centre_box(torch.zeros(1, 3, 8, 16))
    assert wide.sum() == 32 and wide[0, 2:6, 4:12].all()


def test_grey_guess_of_a_band_of_a_spot_and_of_close_greys():
    band = torch.full((1, 3, 16, 16), 0.9)
    band[:, :, :4] = 0.1  # all of one side and a little of two others, and still the rarer
    assert grey_guess(band)[0, :4].all() and not grey_guess(band)[0, 4:].any()
    for ground, thing, spot in ((0.3, 0.6, 1.0), (0.52, 0.57, 0.57)):
        picture = torch.full((1, 3, 16, 16), ground)
        picture[:, :, 5:11, 5:11] = thing
        picture[:, :, 8, 8] = spot
        assert grey_guess(picture).sum() == 36 and grey_guess(picture)[0, 5:11, 5:11].all()
