"""RANSAC: closed forms against trusted references, the fast count against the literal one."""

import numpy as np
import pytest
import torch

from partbook.core import InputError, generator
from partbook.data.sample import Kept, View, collections
from partbook.methods.alignment import Alignment, AlignmentSettings
from partbook.parts.ransac import (
    SAMPLES,
    Matches,
    canvas_places,
    count_inliers,
    distinct_draws,
    fit_transform,
    homogeneous,
    literal_inliers,
    moved,
    plausible,
    ransac,
)
from partbook.parts.warps import read_pictures
from partbook.training.fit import fit

TURN = torch.tensor([[0.85, -0.31, 4.0], [0.31, 0.85, -2.0], [0.0, 0.0, 1.0]])


def problems(P=3, M=120, good=40, seed=0):
    "P problems with some good pairs each, and differently many pairs."
    g = generator(seed)
    source = 16 * torch.rand(P, M, 2, generator=g)
    target = 16 * torch.rand(P, M, 2, generator=g)
    target[:, :good] = moved(TURN[None], source[:, :good])
    there = torch.arange(M) < M - 10 * torch.arange(P)[:, None]
    return Matches(source, target, there)


@pytest.mark.filterwarnings("ignore:.*estimate.*:FutureWarning")
def test_fits_are_scikit_images():
    transform = pytest.importorskip("skimage.transform", reason="no scikit-image here")
    p = 10 * torch.rand(9, 2, generator=generator(1)).double()
    noise = torch.randn(9, 2, generator=generator(2)) * 0.3
    for kind, cls, q in (
        ("similarity", transform.SimilarityTransform, moved(TURN.double(), p) + noise),
        # with noise these minimise something else there: the algebraic error
        ("affine", transform.AffineTransform, moved(TURN.double(), p)),
        ("homography", transform.ProjectiveTransform, moved(TURN.double(), p)),
    ):
        theirs = cls()
        assert theirs.estimate(p.numpy(), q.numpy())
        ours = fit_transform(kind, p[None], q[None])[0]
        assert np.allclose(ours.numpy(), theirs.params / theirs.params[2, 2], atol=1e-4), kind


def test_the_same_inliers_as_scikit_image():
    measure = pytest.importorskip("skimage.measure", reason="no scikit-image here")
    transform = pytest.importorskip("skimage.transform")
    m = problems(P=1, M=200, good=60)
    _, theirs = measure.ransac(
        (m.source[0].numpy(), m.target[0].numpy()),
        transform.AffineTransform,
        3,
        1.0,
        max_trials=300,
        rng=0,
    )
    ours = ransac(m, "affine", generator(0)).inliers[0].numpy()
    assert ours[:60].all() and theirs[:60].all()
    assert (ours != theirs).sum() <= 3


@pytest.mark.parametrize("kind", [k for k in SAMPLES if k != "none"])
def test_counts_are_the_literal_ones(kind):
    m = problems()
    draws = distinct_draws(m.count, 100, SAMPLES[kind], generator(2))
    rows = torch.arange(3)[:, None, None]
    T = fit_transform(kind, m.source[rows, draws], m.target[rows, draws])
    one, other = literal_inliers(T, m).sum(-1), count_inliers(T, m, kind)
    assert (one - other).abs().max() <= 1 and (one != other).float().mean() < 0.02


def test_padding_is_no_pair():
    m = problems()
    m.source[2, 100:] = m.target[2, 100:] = 5.0  # would be inliers of nearly everything
    found = ransac(m, "translation", generator(0), least=1)
    assert not found.inliers[2, 100:].any()


@pytest.mark.parametrize("kind", ["similarity", "affine", "homography"])
def test_the_movement_is_found_and_undone(kind):
    found = ransac(problems(), kind, generator(0))
    assert found.kind == [kind] * 3
    p = 16 * torch.rand(3, 50, 2, generator=generator(1))
    assert (moved(found.T, p) - moved(TURN, p)).norm(dim=-1).max() < 0.5  # cells
    assert torch.allclose(moved(torch.linalg.inv(found.T), moved(found.T, p)), p, atol=1e-4)


def test_too_few_pairs_move_nothing():
    m = Matches(torch.rand(2, 4, 2), torch.rand(2, 4, 2) * 9, torch.ones(2, 4, dtype=torch.bool))
    found = ransac(m, "affine", generator(0), least=6)
    assert found.kind == ["none", "none"] and torch.equal(found.T, torch.eye(3).expand(2, 3, 3))
    none = Matches(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.bool))
    assert ransac(none, "affine", generator(0)).kind == ["none"]


def test_nothing_is_turned_inside_out():
    g = generator(3)
    source = 16 * torch.rand(1, 50, 2, generator=g)
    mirrored = Matches(source, source * torch.tensor([-1.0, 1.0]), torch.ones(1, 50) > 0)
    assert ransac(mirrored, "affine", generator(0), least=40).kind == ["none"]


def test_draws_are_distinct_for_few():
    draws = distinct_draws(torch.tensor([4, 5]), 200, 4, generator(0))
    assert (draws.sort(-1).values.diff(dim=-1) > 0).all()
    assert draws[0].max() == 3 and draws[1].max() == 4


def test_a_map_moves_as_its_points_do():
    spot = torch.zeros(1, 1, 12, 12)
    spot[0, 0, 3, 4] = 1.0
    T = torch.tensor([[[1.0, 0.0, 2.0], [0.0, 1.0, 5.0], [0.0, 0.0, 1.0]]])
    seen = read_pictures(spot, canvas_places(T, (12, 12), (12, 12)))
    assert seen[0, 0, 8, 6].item() == pytest.approx(1.0, abs=1e-4)


def test_bad_numbers_are_refused():
    m = problems()
    for change in ({"kind": "bend"}, {"trials": 0}, {"tolerance": 0.0}, {"least": 0}):
        with pytest.raises(InputError):
            ransac(m, **({"kind": "affine", "g": generator(0)} | change))


@pytest.mark.parametrize("fallback", ["translation", "similarity", "none"])
def test_nothing_moves_where_no_movement_was_asked_for(fallback):
    source = torch.rand(3, 40, 2, generator=generator(0)) * 14
    there = torch.ones(3, 40, dtype=torch.bool)
    matches = Matches(source, source + torch.tensor([2.3, -1.7]), there)
    found = ransac(matches, "none", generator(0), fallback=fallback)
    assert torch.equal(found.T, torch.eye(3).expand(3, 3, 3))
    assert not found.inliers.any() and found.which.tolist() == [0, 0, 0]
    other = ransac(matches, "translation", generator(0), fallback=fallback)
    assert torch.allclose(other.T[:, :2, 2], torch.tensor([2.3, -1.7]), atol=1e-4)


def test_a_horizon_in_the_picture_reads_nothing_and_breaks_nothing():
    g = generator(0)
    T = torch.eye(3).repeat(500, 1, 1) + 0.3 * torch.randn(500, 3, 3, generator=g)
    T[:, 2, 2] = 1
    T[:50, 2, :2] = torch.tensor([-1 / 4.5, 0.0])  # a horizon through centres of cells
    T = T[torch.linalg.det(T).abs() > 1e-3]
    canvas = (14, 18)
    maps = torch.ones(len(T), 1, *canvas)
    places = canvas_places(T, canvas, canvas)
    seen = read_pictures(maps, places)
    assert places.isfinite().all() and seen.isfinite().all()
    cells = torch.cartesian_prod(torch.arange(14) + 0.5, torch.arange(18) + 0.5).flip(-1)
    third = (homogeneous(cells)[None] @ torch.linalg.inv(T).mT)[..., 2].unflatten(1, canvas)
    assert (third < 0).any() and seen[:, 0][third < 0].abs().max() == 0


def test_a_homography_that_flattens_the_picture_is_not_plausible():
    flat = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    assert not plausible(flat, 0.4, 2.5) and plausible(torch.eye(3), 0.4, 2.5)
    flat[2, 2] = 1e-6
    assert not plausible(flat, 0.4, 2.5)
    assert not plausible(torch.full((3, 3), float("nan")), 0.4, 2.5)


@pytest.mark.parametrize("kind", ["affine", "homography"])
def test_training_stays_finite_whatever_the_movement(kind):
    drawn = collections["vehicles"].open(split="train", size=64, categories="aeroplane")
    train = Kept(View(drawn, indices=range(40)))
    settings = AlignmentSettings(parts=24, steps=6, pool=5, transform=kind, trials=60)
    method = Alignment.build(settings)
    fit(method, train, look=0)
    assert method.kernels.isfinite().all()
