"""Landmark regression against mutations: moments, streaming, references, units, wrong input."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import StandardScaler

from partbook.core import InputError, generator
from partbook.evaluation.landmarks import (
    LandmarkErrors,
    LandmarkRegression,
    _batch_moments,
    _merge_moments,
    box_frame,
    box_scale,
    fill_absent,
    interocular,
    landmark_error,
    mean_landmark,
    midpoint,
    one_landmark,
)


def test_moments_of_two_halves():
    g = generator(0)
    x, y = torch.randn(30, 6, generator=g).double() + 5, torch.randn(30, 2, 2, generator=g).double()
    v = (torch.rand(30, 2, generator=g) < 0.7).double()
    v[:12, 1] = 0
    halves = [_batch_moments(x[rows], y[rows], v[rows]) for rows in (slice(12), slice(12, None))]
    for merged, whole in zip(_merge_moments(*halves), _batch_moments(x, y, v)):
        assert torch.allclose(merged, whole)
    by_hand = x[v[:, 0] > 0]
    moments = by_hand.T.cov(correction=0) * len(by_hand)
    assert torch.allclose(_batch_moments(x, y, v)[3][0], moments)


def test_absent_parts_are_put_in_the_middle():
    centres = torch.tensor([[[1.0, 2.0], [torch.nan, torch.nan]], [[torch.inf, 0.0], [3.0, 4.0]]])
    filled = fill_absent(centres, torch.tensor([5.0, 6.0]))
    assert filled.tolist() == [[[1, 2], [5, 6]], [[5, 6], [3, 4]]]
    filled = fill_absent(centres, torch.tensor([[5.0, 6.0], [7.0, 8.0]]))
    assert filled[1, 0].tolist() == [7, 8]


CENTRES = torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]])
FITTED = LandmarkRegression().fit(CENTRES, 2 * CENTRES + torch.tensor([0.0, 3.0]))


def test_three_pictures_determine_the_map():
    new = torch.tensor([[[5.0, 7.0]], [[torch.nan, torch.nan]]])
    predicted = FITTED.predict(new, midpoint=torch.tensor([0.5, 0.5]))
    assert torch.allclose(predicted, torch.tensor([[[10.0, 17.0]], [[1.0, 4.0]]]).double())
    with pytest.raises(InputError, match="1 part centres are absent .* give the image midpoint"):
        FITTED.predict(new)


def sample(N, K=5, L=4, seed=0, spread=20.0):
    "Centres around (60, 60), landmarks affine in them up to noise, a fifth of them hidden."
    g = generator(seed)
    c = 60 + spread * torch.randn(N, K, 2, generator=g, dtype=torch.float64)
    A = torch.randn(2 * K, L * 2, generator=generator(99), dtype=torch.float64) / K
    noise = torch.randn(N, L, 2, generator=g, dtype=torch.float64)
    l = (c.flatten(1) @ A).view(N, L, 2) + 30 + noise
    return c, l, torch.rand(N, L, generator=g) > 0.2


def sklearn_predict(c, l, v, new, standardise=False, **options):
    out = []
    for i in range(l.shape[1]):
        x, y = c[v[:, i]].flatten(1).numpy(), l[v[:, i], i].numpy()
        sx, sy = (
            StandardScaler(with_mean=standardise, with_std=standardise).fit(a) for a in (x, y)
        )
        model = LinearRegression(**options).fit(sx.transform(x), sy.transform(y))
        scaled = model.predict(sx.transform(new.flatten(1).numpy()))
        out.append(torch.from_numpy(sy.inverse_transform(scaled)))
    return torch.stack(out, 1)


C, L, V = sample(300)
NEW = sample(50, seed=1)[0]
AFFINE = LandmarkRegression().fit(C, L, V).predict(NEW)


def test_equals_scikit_learn_in_three_forms():
    theirs = sklearn_predict(C, L, V, NEW, fit_intercept=True)
    assert torch.allclose(AFFINE, theirs, atol=1e-8)
    theirs = sklearn_predict(C, L, V, NEW, standardise=True, fit_intercept=False)
    assert torch.allclose(AFFINE, theirs, atol=1e-8)
    through = LandmarkRegression(standardise=False).fit(C, L, V).predict(NEW)
    assert torch.allclose(through, sklearn_predict(C, L, V, NEW, fit_intercept=False), atol=1e-8)
    assert not torch.allclose(through, AFFINE, atol=0.1)


def test_streaming_is_exact_and_hidden_landmarks_are_not_looked_at():
    stream = LandmarkRegression()
    for rows in torch.randperm(300, generator=generator(2)).split(70):
        stream.update(C[rows], torch.where(V[rows][..., None], L[rows], torch.nan), V[rows])
        stream.predict(NEW)  # asking in between changes nothing
    assert torch.allclose(stream.predict(NEW), AFFINE, atol=1e-9)
    assert torch.equal(stream.seen, V.sum(0))
    again = stream.fit(C[:100], L[:100], V[:100])
    assert torch.equal(again.seen, V[:100].sum(0))  # fitting starts anew


def test_parts_that_coincide_do_no_harm():
    twice, new_twice = torch.cat([C, C[:, :1]], 1), torch.cat([NEW, NEW[:, :1]], 1)
    predicted = LandmarkRegression().fit(twice, L, V).predict(new_twice)
    assert torch.allclose(predicted, AFFINE, atol=1e-7)


def test_a_centre_that_never_moves_predicts_the_mean():
    still = torch.full((300, 1, 2), 64.0)
    mean = torch.stack([L[V[:, i], i].mean(0) for i in range(4)])
    assert torch.allclose(LandmarkRegression().fit(still, L, V).predict(still[:1])[0], mean)


def test_standardising_landmarks_changes_nothing():
    (c, l, v), (new, _, _) = sample(200), sample(20, seed=4)
    sigma = torch.tensor([3.0, 0.2]).double()
    scaled = LandmarkRegression().fit(c, l / sigma, v).predict(new) * sigma
    assert torch.allclose(scaled, LandmarkRegression().fit(c, l, v).predict(new), atol=1e-9)


def test_scaling_centres_changes_nothing_even_through_the_origin():
    own = torch.tensor([1.0, 2, 3, 4, 5]).double()[:, None]
    through = LandmarkRegression(standardise=False)
    scaled = through.fit(C * own, L, V).predict(NEW * own)
    assert torch.allclose(scaled, through.fit(C, L, V).predict(NEW))


TRUE = torch.tensor([[[0.0, 0.0], [4.0, 0.0], [2.0, 3.0]], [[0.0, 0.0], [10.0, 0.0], [5.0, 9.0]]])
PRED = TRUE + torch.tensor(
    [[[0.0, 0.0], [0.0, 0.0], [0.0, 2.0]], [[3.0, 4.0], [0.0, 0.0], [99.0, 99.0]]]
)
VISIBLE = torch.tensor([[True, True, True], [True, True, False]])


def test_two_faces_by_hand():
    eyes = interocular(TRUE, 0, 1)
    assert eyes.tolist() == [4, 10]
    assert np.isclose(landmark_error(PRED, TRUE, VISIBLE, eyes), 100 * (0.5 + 0.5) / 5)
    boxes = torch.tensor([[0.0, 0, 8, 4], [0, 0, 6, 16]])
    expected = 100 * (0.5 + (0.5**2 + 0.25**2) ** 0.5) / 5
    assert np.isclose(landmark_error(PRED, TRUE, VISIBLE, box_scale(boxes)), expected)


def test_face_by_face():
    errors = LandmarkErrors()
    for n in range(2):
        face = slice(n, n + 1)
        errors.update(PRED[face], TRUE[face], VISIBLE[face], interocular(TRUE, 0, 1)[face])
    assert np.isclose(errors.percent(), 20) and errors.per_landmark().tolist() == [25, 0, 50]


def moved_error(shift, factor, standardise):
    (c, l, v), (d, m, w) = sample(300), sample(80, seed=3)
    move = lambda p: factor * p + shift
    fitted = LandmarkRegression(standardise).fit(move(c), move(l), v)
    return landmark_error(fitted.predict(move(d)), move(m), w, factor * interocular(m, 0, 1))


def test_the_affine_fit_moves_with_its_coordinates():
    assert np.isclose(moved_error(0, 1, True), moved_error(-500, 3, True), rtol=1e-9)
    assert moved_error(0, 1, False) > moved_error(0, 1, True)
    assert not np.isclose(moved_error(0, 1, False), moved_error(-60, 1, False), rtol=1e-3)


BAD = {
    "eyes coincide or its box is empty": lambda: landmark_error(
        PRED, TRUE, VISIBLE, torch.tensor([1.0, 0.0])
    ),
    "No visible landmark": lambda: landmark_error(PRED, TRUE, torch.zeros_like(VISIBLE)),
    "never visible in training": lambda: landmark_error(
        LandmarkRegression()
        .fit(TRUE[:, :1], TRUE, VISIBLE & torch.tensor([True, True, False]))
        .predict(TRUE[:, :1]),
        TRUE,
        VISIBLE,
    ),
    "call fit or update first": lambda: LandmarkRegression().predict(CENTRES),
    "fitted on 1 parts, not on 3": lambda: FITTED.predict(TRUE),
}


@pytest.mark.parametrize("words", BAD)
def test_wrong_input(words):
    with pytest.raises(InputError, match=words):
        BAD[words]()


def test_box_frame():
    points = torch.tensor([[[10.0, 20.0], [40.0, 20.0], [25.0, 50.0]]])
    framed = box_frame(points, torch.tensor([[10.0, 20.0, 30.0, 60.0]]))
    assert framed.tolist() == [[[0.0, 0.0], [1.0, 0.0], [0.5, 0.5]]]


def test_trivial_baselines():
    l = torch.tensor([[[2.0, 4.0], [7.0, 8.0], [50.0, 50.0]]])
    v = torch.tensor([[True, True, False]])
    assert mean_landmark(l, v).tolist() == [[[4.5, 6.0]]]
    assert mean_landmark(l, v, as_published=True).tolist() == [[[3.0, 4.0]]]
    assert one_landmark(l, v, 1).tolist() == [[[7.0, 8.0]]]
    assert one_landmark(l, v, 2).isnan().all()
    assert one_landmark(l, v, 2, as_published=True).tolist() == [[[0.0, 0.0]]]
    assert midpoint(torch.tensor([[30.0, 40.0]])).tolist() == [[[20.0, 15.0]]]
    assert midpoint(torch.tensor([[30.0, 40.0]]), as_published=True).tolist() == [[[15.0, 20.0]]]
