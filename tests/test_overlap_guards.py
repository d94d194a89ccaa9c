"""Overlap metrics against mutations: limit cases, errors that leave the table alone, reading."""

import math
from collections import Counter
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics as sk

from partbook.core import InputError, generator
from partbook.evaluation.overlap import (
    BLOCK,
    Contingency,
    _histogram,
    _nearest,
    ari,
    entropy,
    keypoint_labels,
    labels_at,
    maps_at,
    nmi,
    purity,
    update_from_keypoints,
    update_from_pixels,
)

PRED = torch.tensor([1, 1, 1, 2, 2, 2])
TRUE = torch.tensor([1, 1, 2, 2, 3, 3])
ONE = torch.zeros(8, dtype=torch.long)
EACH = torch.arange(8)
QUARTERS = torch.tensor([[[1, 2], [3, 4]]])


def check(p, t):
    "A table of both, which scikit-learn agrees with."
    table = Contingency(int(p.max()) + 1, int(t.max()) + 1).update(p, t)
    assert abs(table.nmi() - sk.normalized_mutual_info_score(t, p)) < 1e-10
    assert abs(table.ari() - sk.adjusted_rand_score(t, p)) < 1e-10
    return table


def random_labels(seed, *sizes, shape):
    g = generator(seed)
    return [torch.randint(0, n, shape, generator=g) for n in sizes]


def test_histogram_leaves_void_out():
    pred, true = torch.tensor([0, 1, 1, 1]), torch.tensor([2, 0, 0, 255])
    assert _histogram(pred, true, true < 3, 2, 3).tolist() == [[0, 0, 1], [2, 0, 0]]


def test_says_what_it_holds():
    table = Contingency(3, 4).update(PRED, TRUE)
    assert repr(table) == "Contingency(3 predicted x 4 true labels, 6 points)"


BAD = [
    (PRED.float(), TRUE, "argmax of part maps"),
    (PRED[:5], TRUE, "must have one shape"),
    (PRED, TRUE + 1, "span 2..4, but the table has room for 0..3"),
    (PRED - 2, TRUE, "span -1..0"),
    (
        torch.arange(2 * BLOCK + 1) // (2 * BLOCK) * 3,  # wrong in the last of many blocks
        torch.ones(2 * BLOCK + 1, dtype=torch.long),
        "span 3..3",
    ),
]


@pytest.mark.parametrize("pred, true, words", BAD, ids=[words for *_, words in BAD])
def test_an_error_leaves_the_table_as_it_was(pred, true, words):
    table = Contingency(3, 4).update(PRED, TRUE)
    before = table.table.clone()
    with pytest.raises(InputError, match=words):
        table.update(pred, true)
    assert torch.equal(table.table, before) and len(table) == 6


def test_streaming_is_exact():
    p, t = random_labels(0, 5, 7, shape=(40, 30, 20))
    whole = Contingency(5, 7).update(p, t).table
    parts = [Contingency(5, 7).update(a, b) for a, b in zip(p.split(9), t.split(9))]
    merged = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3]).merge(parts[4])
    assert torch.equal(merged.table, whole)
    assert torch.equal(Contingency(5, 7).update(p[:11], t[:11]).update(p[11:], t[11:]).table, whole)
    counted = p > 1
    void = torch.where(counted, t, 255)
    assert torch.equal(Contingency(5, 7).update(p, void, where=counted).table[2:], whole[2:])
    assert Counter(zip(p.flatten().tolist(), t.flatten().tolist())) == {
        (i, j): n for i, r in enumerate(whole.tolist()) for j, n in enumerate(r) if n
    }


def test_points_laid_out_in_any_way():
    p, t = random_labels(1, 5, 7, shape=(60, 50))
    whole = Contingency(5, 7).update(p, t).table
    assert torch.equal(Contingency(5, 7).update(p.T, t.T, (p >= 0).T).table, whole)


def test_foreground_is_a_copy():
    copy = Contingency.from_table([[1, 2], [3, 4]])
    assert copy.foreground().table.tolist() == [[0, 2], [0, 4]]
    assert copy.foreground(prediction=True).table.tolist() == [[0, 0], [0, 4]]
    assert copy.table.tolist() == [[1, 2], [3, 4]] and len(copy) == 10


def test_entropy_by_hand():
    assert math.isclose(entropy(np.array([3, 3])), math.log(2)) and entropy(np.array([5, 0])) == 0


def ari_by_pairs(pred, true):
    "Hubert and Arabie's index, pair by pair."
    pairs = [(pred[i] == pred[j], true[i] == true[j]) for i, j in combinations(range(len(pred)), 2)]
    S, A, B = (sum(c) for c in zip(*[(x and y, x, y) for x, y in pairs]))
    expected = Fraction(A * B, len(pairs))
    return (S - expected) / (Fraction(A + B, 2) - expected)


@pytest.mark.parametrize("seed", range(5))
def test_ari_is_its_definition(seed):
    p, t = (torch.randint(0, 4, (40,), generator=generator(seed + s)) for s in (0, 100))
    assert Contingency(4, 4).update(p, t).ari() == float(ari_by_pairs(p.tolist(), t.tolist()))


def test_one_picture_overflows_64_bits():
    n = 300 * 300
    M = n * (n - 1) // 2
    assert M * M > 2**63 - 1


def test_scores_are_percent_with_a_prefix():
    table = Contingency(3, 4).update(PRED, TRUE)
    assert table.scores("fg_") == {
        "fg_nmi": 100 * table.nmi(),
        "fg_ari": 100 * table.ari(),
        "fg_purity": 100 * table.purity(),
    }


@pytest.mark.parametrize("seed", range(10))
def test_random_and_correlated_partitions(seed):
    g = generator(seed)
    p = torch.randint(0, 2 + seed, (500,), generator=g)
    t = torch.randint(0, 6, (500,), generator=g)
    check(p, t)
    check(torch.where(torch.rand(500, generator=g) < 0.7, t, p), t)


def test_limit_cases():
    for p, t in [
        (ONE, ONE),
        (EACH, EACH),
        (ONE, EACH),
        (EACH, ONE),
        (ONE, EACH // 4),
        (EACH % 2, EACH // 2),
        (ONE[:1], ONE[:1]),
    ]:
        check(p, t)
    assert check(EACH % 2, EACH // 4).nmi() == 0  # independent
    worse_than_chance = check(torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1]))
    assert worse_than_chance.ari() == -0.5


def test_names_do_not_count_and_only_purity_has_a_direction():
    g = generator(1)
    p, t = torch.randint(0, 4, (300,), generator=g), torch.randint(0, 6, (300,), generator=g)
    table = check(p, t).table
    renamed = table[torch.randperm(len(table), generator=g)]
    for f in (nmi, ari):
        assert math.isclose(f(table), f(renamed), abs_tol=1e-14)
        assert math.isclose(f(table), f(table.T), abs_tol=1e-14)
    assert purity(table) == purity(renamed) != purity(table.T)


def ari_exact(table):
    n = [[int(v) for v in row] for row in table.tolist()]
    two = lambda v: v * (v - 1) // 2
    rows, columns = [sum(r) for r in n], [sum(c) for c in zip(*n)]
    S, A, B = (sum(map(two, v)) for v in (sum(n, []), rows, columns))
    expected = Fraction(A * B, two(sum(rows)))
    return float((S - expected) / (Fraction(A + B, 2) - expected))


@pytest.mark.parametrize("total", [10**10, 10**12])
def test_repeated_points(total):
    table = Contingency(4, 6).update(*random_labels(1, 4, 6, shape=(300,)))
    big = table.table * (total // len(table))
    assert math.isclose(nmi(big), table.nmi(), rel_tol=1e-12) and ari(big) == ari_exact(big)
    assert purity(big) == table.purity()


@pytest.mark.parametrize("metric", [nmi, ari, purity])
def test_an_empty_table_has_no_score(metric):
    with pytest.raises(InputError, match="no point was counted"):
        metric(Contingency(3, 3).table)


def test_what_each_metric_rewards():
    truth = torch.tensor([1] * 8 + [2] * 4 + [3] * 2 + [4] * 2)
    guesses = (
        torch.tensor([1] * 4 + [2] * 4 + [3] * 2 + [4] * 2 + [5, 6, 7, 8]),
        torch.tensor([1] * 8 + [2] * 8),
    )
    split, merged = (Contingency(9, 5).update(g, truth).scores() for g in guesses)
    assert split["purity"] == 100
    assert split["nmi"] > merged["nmi"] and split["ari"] < merged["ari"]


def test_nearest_cells():
    cells = [_nearest(torch.arange(N), n, N).tolist() for n, N in ((2, 4), (2, 3), (3, 2))]
    assert cells == [[0, 0, 1, 1], [0, 1, 1], [0, 2]]


def test_reading_is_enlarging():
    g = generator(2)
    H, W = 96, 128
    points = torch.rand(4, 15, 2, generator=generator(3)) * torch.tensor([140.0, 104.0]) - 4
    maps = torch.rand(4, 6, 12, 16, generator=g)
    labels = torch.randint(0, 7, (4, 24, 40), generator=g)
    x = points[..., 0].floor().long().clamp(0, W - 1)
    y = points[..., 1].floor().long().clamp(0, H - 1)
    b = torch.arange(4)[:, None]
    enlarged = F.interpolate(maps, (H, W), mode="bilinear", align_corners=False)
    assert torch.allclose(maps_at(maps, points, (H, W)), enlarged[b, :, y, x], atol=1e-6)
    enlarged = F.interpolate(labels[:, None].double(), (H, W), mode="nearest-exact")[:, 0].long()
    assert torch.equal(labels_at(labels, points, (H, W)), enlarged[b, y, x])


def test_points_of_the_keypoint_form():
    points = torch.tensor([[[1.9, 0.2], [4.0, 3.5], [0.0, 0.0]]])
    visible = torch.tensor([[True, True, False]])
    found, number = keypoint_labels(QUARTERS, points, visible, size=(4, 4))
    assert found.tolist() == [1, 4] and number.tolist() == [1, 2]
    table = update_from_keypoints(Contingency(5, 4), QUARTERS, points, visible, size=(4, 4))
    assert table.table.nonzero().tolist() == [[1, 1], [4, 2]]


def test_pixels_at_the_resolution_of_the_truth():
    parts = torch.tensor([[[0, 1, 2, 2], [1, 1, 2, 0], [3, 3, 4, 4], [0, 3, 0, 4]]])
    table = update_from_pixels(Contingency(5, 5), QUARTERS, parts)
    assert len(table) == 16 and table.purity() == 12 / 16
    assert table.foreground().nmi() == 1.0 and len(table.foreground()) == 12
    masked = update_from_pixels(Contingency(5, 5), QUARTERS, parts, mask=parts > 0)
    assert torch.equal(table.foreground().table, masked.table)


def test_the_two_ways_of_leaving_background_out():
    g = generator(5)
    truth = torch.randint(1, 5, (4000,), generator=g)
    right = torch.rand(4000, generator=g) < 0.8
    best = torch.where(right, truth, torch.randint(1, 5, (4000,), generator=g))
    labels = torch.where(torch.rand(4000, generator=g) < 0.7, best, 0)
    asked = Contingency(5, 5).update(best, truth)
    kept = Contingency(5, 5).update(labels, truth).foreground()
    assert kept.ari() < asked.ari() and kept.nmi() < asked.nmi()
    assert len(kept) == len(asked) == 4000
