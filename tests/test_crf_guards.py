"""The dense CRF: what a changed line of the chapter would break."""

import importlib.util
import math
from dataclasses import replace

import pytest
import torch

from partbook.core import InputError, generator
from partbook.data.sample import collections
from partbook.parts.crf import CRFSettings, refine, unary_energy
from partbook.parts.filters import (
    NORMALISATIONS,
    Exact,
    Lattice,
    Separable,
    bilateral_features,
    elevate,
    gaussian_kernel,
    normalised,
    position_features,
    simplex,
)
from partbook.parts.maps import one_hot_maps, softmax_maps, upsample


@pytest.fixture
def g():
    return generator(0)


@pytest.fixture(scope="module")
def images():
    return collections["birds"].open(split="test", size=20).batch(range(2)).images


@pytest.fixture(scope="module")
def noisy():
    return softmax_maps(upsample(2 * torch.randn(2, 4, 5, 5, generator=generator(2)), (20, 20)))


SETTINGS = CRFSettings(position=1.5, bilateral=8, colour=0.1, bilateral_weight=4, form="exact")


def test_unary_energy():
    even = unary_energy(torch.tensor([0.5, 0.5]).view(1, 2, 1, 1))
    assert even.flatten().tolist() == pytest.approx([math.log(2)] * 2)
    sure = unary_energy(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
    assert sure.flatten().tolist() == pytest.approx([0, 5 * math.log(10)])
    with pytest.raises(InputError, match="sums run from 2 to 2"):
        unary_energy(torch.ones(1, 2, 4, 4))
    with pytest.raises(InputError, match="at least two labels"):
        unary_energy(torch.ones(1, 1, 4, 4))


def test_kernels(g):
    two = torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2)
    row = gaussian_kernel(position_features((1, 3), 2.0, two))[0, 0]
    assert torch.allclose(row, torch.tensor([1, math.exp(-1 / 8), math.exp(-0.5)]))
    f = torch.randn(2, 7, 5, generator=g)
    assert torch.allclose(gaussian_kernel(f), (-0.5 * torch.cdist(f, f).square()).exp(), atol=1e-6)
    assert torch.allclose(gaussian_kernel(f, f[:, :3]), gaussian_kernel(f)[..., :3], atol=1e-6)


def test_normalisations(g):
    picture = torch.rand(1, 3, 4, 5, generator=g, dtype=torch.float64)
    k = gaussian_kernel(bilateral_features(picture, 2.0, 0.2))
    q = torch.rand(1, 2, 4, 5, generator=g, dtype=torch.float64)

    def exactly(x):
        return (x.flatten(2) @ k).view_as(x)

    def matrix_of(message):
        units = torch.eye(20, dtype=torch.float64)
        return torch.stack([message(e.view(1, 1, 4, 5)).flatten() for e in units], 1)

    matrices = {kind: matrix_of(normalised(exactly, q, kind)) for kind in NORMALISATIONS}
    one = torch.ones(20, dtype=torch.float64)
    assert torch.allclose(matrices["none"], k[0])
    assert torch.allclose(matrices["after"].sum(1), one)
    assert torch.allclose(matrices["before"].sum(0), one)
    values = torch.linalg.eigvalsh(matrices["symmetric"])
    assert torch.allclose(matrices["symmetric"], matrices["symmetric"].T)
    assert values.min() > -1e-12 and values.max() == pytest.approx(1)
    for kind in NORMALISATIONS:
        alone = matrix_of(normalised(exactly, q, kind, itself=False))
        assert torch.allclose(alone, matrices[kind] - torch.diag(matrices[kind].diag()))
    with pytest.raises(InputError, match="none, before, after, symmetric"):
        normalised(exactly, q, "both")


def test_exact_filter_block_by_block(g):
    x = torch.rand(2, 3, 6, 9, generator=g)
    pictures = torch.rand(2, 3, 6, 9, generator=g)
    places = position_features((6, 9), 2.0, x).expand(2, -1, -1)
    assert torch.allclose(Separable((6, 9), 2.0, x)(x), Exact(places)(x), atol=1e-5)
    f = bilateral_features(pictures, 4.0, 0.3)
    assert torch.allclose(Exact(f)(x), Exact(f, room=0, block=200)(x), atol=1e-5)
    assert Exact(f, room=0, block=200).rows == 1 and Exact(f, room=0, block=10**6).rows > 54


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_simplex(g, d):
    f = 3 * torch.randn(500, d, generator=g, dtype=torch.float64)
    y = elevate(f)
    corners, weights = simplex(y)
    assert y.sum(1).abs().max() < 1e-9
    assert torch.allclose(torch.pdist(y), (d + 1) * math.sqrt(2 / 3) * torch.pdist(f))
    assert (corners.sum(2) == 0).all()
    assert (corners % (d + 1) == torch.arange(d + 1)[:, None]).all()
    assert weights.min() > -1e-9
    assert torch.allclose(weights.sum(1), torch.ones(500, dtype=torch.float64))
    assert torch.allclose((weights[..., None] * corners).sum(1), y)


def test_lattice_by_hand():
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    lonely = Lattice(torch.zeros(1, 1, 1, dtype=torch.float64))  # its simplex has one more point
    assert float(lonely(one) / lonely.scale) == pytest.approx(1.25)
    wide = torch.ones(1, 1, 48, 48)
    middle = Lattice(position_features((48, 48), 4.0, wide))(wide)[0, 0, 24, 24]
    assert middle == pytest.approx(2 * math.pi * 16, rel=0.01)


def test_lattice_in_five_dimensions():
    batch = collections["birds"].open(split="test", size=24).batch(range(3))
    f = bilateral_features(batch.images, 24 / 6, 0.05)
    x = one_hot_maps(batch.parts, 6)
    alone = Lattice(f[1:2])(x[1:2])
    assert torch.allclose(alone, Lattice(f)(x)[1:2], rtol=1e-4, atol=1e-3)
    with pytest.raises(InputError, match="larger widths, or form='exact'"):
        Lattice(1e4 * f)


def test_settings():
    usual = CRFSettings()
    assert usual == CRFSettings(3.0, 3.0, 80.0, 13 / 255, 10.0, 5, "symmetric", True, "fast", 500)
    half = usual.at(250)
    assert (half.position, half.bilateral, half.side) == (1.5, 40, 250)
    assert half.colour == usual.colour and half.at(500) == usual
    only = CRFSettings(position_weight=5.0, bilateral_weight=0.0, side=256)
    assert CRFSettings.position_only() == only
    assert CRFSettings.position_only(iterations=2) == replace(only, iterations=2)
    with pytest.raises(InputError, match="width colour is 0"):
        CRFSettings(colour=0)


def test_what_must_not_change(images, noisy):
    plain = refine(noisy, images, SETTINGS)
    assert (plain - noisy).abs().max() > 0.2
    assert torch.allclose(plain.sum(1), torch.ones(2, 20, 20))
    for change in (dict(position_weight=0, bilateral_weight=0), dict(iterations=0)):
        assert torch.allclose(refine(noisy, images, replace(SETTINGS, **change)), noisy, atol=1e-4)
    for form in ("exact", "fast"):
        even = torch.full_like(noisy, 0.25)
        assert torch.allclose(refine(even, images, replace(SETTINGS, form=form)), even, atol=1e-5)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(refine(noisy[:, order], images, SETTINGS), plain[:, order], atol=1e-5)
    mirrored = refine(noisy.flip(3), images.flip(3), SETTINGS).flip(3)
    assert torch.allclose(mirrored, plain, atol=1e-4)
    lit = refine(noisy, 0.5 * images + 0.2, replace(SETTINGS, colour=0.05))
    assert torch.allclose(lit, plain, atol=1e-4)


def test_a_picture_of_one_colour_makes_the_bilateral_kernel_a_position_kernel(images, noisy):
    grey = torch.full_like(images, 0.3)
    lone = replace(SETTINGS, position_weight=0, bilateral=2.0)
    places = replace(lone, position=2.0, position_weight=4, bilateral_weight=0)
    assert torch.allclose(refine(noisy, grey, lone), refine(noisy, grey, places), atol=1e-5)


def test_a_narrow_kernel_hears_nobody(images, noisy):
    alone = CRFSettings(1.0, 1.0, bilateral=8.0, bilateral_weight=4.0, itself=False)
    deaf = refine(noisy, images, replace(alone, colour=1e-3))
    none = refine(noisy, images, replace(alone, bilateral_weight=0))
    assert (deaf - none).abs().mean() < 0.01


@pytest.mark.skipif(not importlib.util.find_spec("pydensecrf"), reason="pydensecrf is not here")
def test_the_program_behind_pydensecrf(images, noisy):
    import numpy as np
    from pydensecrf.densecrf import DenseCRF2D

    quick = refine(noisy, images, replace(SETTINGS, form="fast"))
    wrapped = DenseCRF2D(20, 20, 4)
    wrapped.setUnaryEnergy(unary_energy(noisy[:1])[0].flatten(1).numpy().copy())
    wrapped.addPairwiseGaussian(sxy=1.5, compat=3)
    as_bytes = (images[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8).copy()
    wrapped.addPairwiseBilateral(sxy=8, srgb=25.5, rgbim=as_bytes, compat=4)
    theirs = torch.from_numpy(np.array(wrapped.inference(5)).argmax(0)).view(20, 20)
    assert (theirs == quick[0].argmax(0)).float().mean() > 0.95
