"""What the chapter on deep feature factorisation claims beyond its worked examples."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.decomposition import non_negative_factorization

from partbook.core import InputError, generator
from partbook.data.sample import Kept, View, collections
from partbook.features.extractor import load_extractor
from partbook.methods.dff import (
    DFF,
    DFFSettings,
    as_amounts,
    draw_start,
    factorise,
    match_factors,
    project,
    squared_error,
    suggest_rank,
    sweep,
)
from partbook.parts.maps import label_rule, upsample


def uniform(*shape, seed=0, dtype=torch.float64):
    return torch.rand(shape, generator=generator(seed), dtype=dtype)


def hidden():
    "Four factors with separate support, and activations of them."
    H = torch.block_diag(*[uniform(1, 5, seed=k) + 0.2 for k in range(4)])
    W = uniform(200, 4, seed=9) * (uniform(200, 4, seed=8) < 0.5)
    return W, H


@pytest.fixture(scope="module")
def train():
    birds = collections["birds"].open(split="train", size=64)
    return Kept(View(birds, indices=range(32)))


SETTINGS = dict(parts=6, sample=1_500, iterations=20, restarts=1)


@pytest.fixture(scope="module")
def method(train):
    return DFF(DFFSettings(**SETTINGS), load_extractor("equivariant")).fit(train)


def test_scikit_learn_arrives_at_the_same_matrices():
    V, start = uniform(60, 20), draw_start(uniform(60, 20), 4, generator(3))
    ours = factorise(V, *start, iterations=100, tolerance=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn says that 100 iterations did not converge
        options = dict(n_components=4, init="custom", solver="mu", beta_loss="frobenius")
        W, H, _ = non_negative_factorization(
            V.numpy(), *(s.numpy().copy() for s in start), max_iter=100, tol=0, **options
        )
    assert np.allclose(ours.W, W, rtol=1e-8) and np.allclose(ours.H, H, rtol=1e-8)

    ours = factorise(V, *start, iterations=2000, tolerance=1e-3)
    W, H, rounds = non_negative_factorization(
        V.numpy(), *(s.numpy().copy() for s in start), max_iter=2000, tol=1e-3, **options
    )
    assert (
        ours.iterations == rounds < 2000
        and len(ours.errors) == 1 + rounds // 10
        and np.allclose(ours.H, H, rtol=1e-8)
    )
    assert np.isclose(float(start[1].square().mean() * 4 / V.mean()), 1, atol=0.5) and np.isclose(
        float(start[0].square().mean() * 4 / V.mean()), 1, atol=0.3
    )


def test_the_end_satisfies_the_conditions_of_karush_kuhn_and_tucker():
    V = uniform(20, 8)
    end = factorise(V, *draw_start(V, 2, generator(3)), iterations=3000, tolerance=0)
    error = end.W @ end.H - V
    for x, slope in ((end.W, error @ end.H.T), (end.H, end.W.T @ error)):
        assert (x * slope).abs().max() < 1e-8 and slope.min() > -1e-7 and slope.max() > 0.01


def test_hidden_factors_come_back_with_their_activations():
    hidden_W, hidden_H = hidden()
    V = hidden_W @ hidden_H
    found = factorise(V, *draw_start(V, 4, generator(0)), iterations=1000, tolerance=0)
    order, cosines = match_factors(hidden_H, found.H)
    assert found.errors[-1] < 1e-3 and cosines.min() > 0.9999 and sorted(order) == [0, 1, 2, 3]
    scale = hidden_H.norm(dim=1) / found.H[order].norm(dim=1)
    assert torch.allclose(found.W[:, order] / scale, hidden_W, atol=5e-3)


def test_projection_is_the_non_negative_least_squares():
    V, H = uniform(30, 12), uniform(4, 12, seed=5)
    exact = torch.tensor(np.stack([nnls(H.T.numpy(), v)[0] for v in V.numpy()]))
    assert torch.allclose(project(V, H, iterations=3000), exact, atol=1e-3)
    assert (project(V, H, iterations=0) >= exact - 1e-12).all()
    assert 1 <= squared_error(V, project(V, H), H) / squared_error(V, exact, H) < 1.002
    assert torch.allclose(
        project(V[3:4], H), project(V, H)[3:4], rtol=1e-10
    )  # whatever else is in the batch


def test_sums_do_not_care_how_the_data_were_cut():
    V = uniform(120, 12)
    H = draw_start(V, 3, generator(0))[1]
    whole, parts = sweep([V], H), sweep(V.split(17), H)
    assert torch.allclose(whole.WtV, parts.WtV) and np.isclose(whole.error(H), parts.error(H))
    expected = (squared_error(V, project(V, H), H) / V.square().sum()).sqrt()
    assert np.isclose(whole.error(H), float(expected))


def test_signs_as_amounts():
    f = torch.randn(50, 8, generator=generator(0))
    zero = torch.zeros(8)
    positive, negative = as_amounts(f, "split", zero).chunk(2, 1)
    assert (
        torch.equal(positive - negative, f)
        and positive.min() >= 0
        and not (positive * negative).any()
    )
    assert torch.equal(as_amounts(f, "shift", f.amin(0)), f - f.amin(0)) and torch.equal(
        as_amounts(f.abs(), "none", zero), f.abs()
    )
    assert torch.equal(
        as_amounts(f, "split", f.mean(0)), as_amounts(f - f.mean(0), "split", zero)
    ) and torch.equal(as_amounts(f, "relu", zero), f.clamp(min=0))


def test_cells_outside_the_foreground_change_nothing():
    V, W, H = uniform(40, 12), uniform(40, 3, seed=1), uniform(3, 12, seed=2)
    D = (uniform(40, 1, seed=3) < 0.6).double()
    inside = D[:, 0] > 0
    every, some = factorise(D * V, W, H, 30, 0), factorise(V[inside], W[inside], H, 30, 0)
    assert (
        torch.allclose(every.H, some.H)
        and torch.allclose(every.W[inside], some.W)
        and not every.W[~inside].any()
    )


def test_settings_that_make_no_sense():
    for wrong, sentence in (
        (dict(signs="abs"), "no way 'abs'"),
        (dict(peak="mean"), "scaled by 'mean'"),
        (dict(restarts=0), "at least 1"),
        (dict(passes=-1), "passes 0 or more"),
        (dict(tolerance=-1.0), "not be negative"),
        (dict(background=1.0), r"lie in \[0,1\)"),
    ):
        with pytest.raises(InputError, match=sentence):
            DFFSettings(**wrong)


def test_one_seed_one_result_and_maps_are_shares(method, train):
    settings = SETTINGS
    batch = collections["birds"].open(split="test", size=64).batch(range(8))
    again = DFF(DFFSettings(**settings), load_extractor("equivariant")).fit(train)
    assert torch.equal(again.factors, method.factors) and again.settings.mean_off == "collection"
    maps = method.part_maps(batch.images)
    assert maps.shape == (8, 7, 64, 64) and torch.allclose(
        maps.sum(1), torch.ones(8, 64, 64), atol=1e-5
    )
    enlarged = upsample(method.activations(batch.images), (64, 64))
    assert torch.allclose(maps[:, 1:], enlarged / (enlarged.sum(1, keepdim=True) + 0.1), atol=1e-4)
    assert torch.allclose(maps[:, 0], 0.1 / (enlarged.sum(1) + 0.1), atol=1e-4)

    by_picture = replace(method.settings, peak="picture")
    method.settings, kept = by_picture, method.settings
    assert torch.equal(method.labels(batch.images), label_rule(enlarged, background=0.1))
    method.settings = kept


def test_stability_tells_hidden_factors():
    hidden_W, hidden_H = hidden()
    noisy = hidden_W @ hidden_H + 0.05 * uniform(200, 20, seed=4)
    rows = {r["K"]: r for r in suggest_rank(noisy, range(2, 7))}
    assert (
        min(rows[K]["stability"] for K in (2, 3, 4))
        > 0.99
        > 0.9
        > max(rows[K]["stability"] for K in (5, 6))
    )
    assert (
        rows[4]["explained"] > 0.995 > 0.95 > rows[3]["explained"]
        and rows[6]["explained"] - rows[4]["explained"] < 0.005
    )


def test_wrong_input(train):
    phi = load_extractor("equivariant")
    hidden_W, hidden_H = hidden()
    noisy = hidden_W @ hidden_H
    for bad, sentence in (
        (torch.randn(30, 4, generator=generator(0)), "not negative; use a layer after a ReLU"),
        (torch.zeros(30, 4), "there is nothing to factorise"),
        (torch.full((30, 4), torch.inf), "largest feature is inf"),
        (torch.rand(2, 4, generator=generator(0)), "only 2 descriptors"),
    ):
        with pytest.raises(InputError, match=sentence):
            draw_start(bad, 3, generator(0))
    with pytest.raises(InputError, match="not negative"):
        DFF(DFFSettings(signs="none", sample=500), phi).fit(train)
    with pytest.raises(InputError, match="at least 2 restarts"):
        suggest_rank(noisy, [2], restarts=1)


def test_fewer_factors_find_theirs_among_more():
    "So that a factor keeps its number, and its colour, when there is one more."
    more = torch.eye(5, 8) + 0.01
    fewer = more[[3, 0, 4]] * 7
    order, cosines = match_factors(fewer, more)
    assert order == [3, 0, 4] and cosines.min() > 0.999
