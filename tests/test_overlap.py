"""Overlap metrics: huge counts, every integer type, other devices, wrong input."""

from fractions import Fraction

import pytest
import torch
from sklearn import metrics as sk

from partbook.core import InputError, generator
from partbook.evaluation.overlap import (
    Contingency,
    ari,
    keypoint_labels,
    labels_at,
    maps_at,
    nmi,
    purity,
    update_from_keypoints,
    update_from_pixels,
)


def exact_ari(table) -> Fraction:
    "The definition, in fractions."
    n = [[int(v) for v in row] for row in table.tolist()]
    two = lambda v: v * (v - 1) // 2
    S, A, B = (
        sum(map(two, v)) for v in (sum(n, []), [sum(r) for r in n], [sum(c) for c in zip(*n)])
    )
    expected = Fraction(A * B, two(sum(map(sum, n))))
    return (S - expected) / (Fraction(A + B, 2) - expected)


@pytest.mark.parametrize("total", [10**4, 10**7, 10**10, 10**12, 4 * 10**18])
def test_no_count_overflows(total):
    table = torch.randint(1, 100, (9, 16), generator=generator(0))
    big = table * (total // int(table.sum()))
    assert ari(big) == float(exact_ari(big))
    assert nmi(big) == pytest.approx(nmi(table), rel=1e-12) and purity(big) == purity(table)


def test_counts_add_up_beyond_32_bits():
    "A table of ten thousand million pixels, made of the tables of many pictures."
    one = Contingency(3, 3).update(
        torch.randint(0, 3, (1000,), generator=generator(1)),
        torch.randint(0, 3, (1000,), generator=generator(2)),
    )
    whole = Contingency.from_table(one.table * 10**7)
    before = whole.table.clone()
    whole.merge(one)
    assert len(whole) == 10**10 + 1000 and torch.equal(whole.table - before, one.table)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_equals_scikit_learn_for_every_integer_type(dtype):
    g = generator(3)
    true = torch.randint(0, 15, (300_000,), generator=g)
    pred = torch.where(
        torch.rand(len(true), generator=g) < 0.4,
        true % 8,
        torch.randint(0, 8, (len(true),), generator=g),
    )
    table = Contingency(8, 15).update(pred.to(dtype), true.to(dtype))
    assert abs(table.nmi() - sk.normalized_mutual_info_score(true, pred)) < 1e-10
    assert abs(table.ari() - sk.adjusted_rand_score(true, pred)) < 1e-10


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_same_counts_on_a_gpu():
    g = generator(4)
    labels, parts = (
        torch.randint(0, 9, (4, 16, 16), generator=g),
        torch.randint(0, 6, (4, 64, 64), generator=g),
    )
    points, visible = 64 * torch.rand(4, 15, 2, generator=g), torch.rand(4, 15, generator=g) < 0.7
    for fill in (
        lambda d: update_from_pixels(
            Contingency(9, 6, d), labels.to(d), parts.to(d), (parts > 0).to(d)
        ),
        lambda d: update_from_keypoints(
            Contingency(9, 16, d), labels.to(d), points.to(d), visible.to(d), (64, 64)
        ),
    ):
        assert torch.equal(fill("cpu").table, fill("cuda").table.cpu())


def test_masked_points_may_hold_anything():
    labels, parts = torch.full((1, 4, 4), 250), torch.full((1, 4, 4), -7)
    labels[0, 0, 0], parts[0, 0, 0] = 1, 2
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 0, 0] = True
    assert update_from_pixels(Contingency(3, 3), labels, parts, mask).table.nonzero().tolist() == [
        [1, 2]
    ]


def test_hidden_landmarks_may_be_nan():
    points, visible = (
        torch.tensor([[[torch.nan, torch.nan], [3.0, 0.0]]]),
        torch.tensor([[False, True]]),
    )
    assert [
        v.tolist() for v in keypoint_labels(torch.arange(4).view(1, 1, 4), points, visible)
    ] == [[3], [2]]


labels, parts = torch.ones(2, 4, 4, dtype=torch.long), torch.ones(2, 4, 4, dtype=torch.long)
points, visible = torch.ones(2, 3, 2), torch.ones(2, 3, dtype=torch.bool)
new = lambda: Contingency(3, 4)
BAD = {
    "at least one label on each side": lambda: Contingency(0, 4),
    "must be a tensor of integers, not torch.float32": lambda: new().update(labels.float(), parts),
    "true labels must be a tensor of integers, not torch.bool": lambda: new().update(
        labels, parts > 0
    ),
    "must be a tensor of integers, not list": lambda: new().update([1, 2], parts),
    "must have one shape": lambda: new().update(labels, parts[:1]),
    "predicted labels span 3..3, but the table has room for 0..2": lambda: new().update(
        labels + 2, parts
    ),
    "true labels span -1..-1": lambda: new().update(labels, parts - 2),
    "mask of counted points must be boolean": lambda: new().update(labels, parts, where=parts),
    "cannot be merged": lambda: new().merge(Contingency(4, 4)),
    "has two dimensions": lambda: nmi(torch.ones(3, dtype=torch.long)),
    "holds integer counts": lambda: ari(torch.ones(3, 3)),
    "some are negative": lambda: purity(torch.tensor([[1, -1]])),
    "no point was counted": lambda: new().scores(),
    "no point was counted; check": lambda: update_from_pixels(
        new(), labels, parts, parts > 1
    ).nmi(),
    "of the same B": lambda: update_from_pixels(new(), labels[:1], parts),
    r"must have shape \(2,L,2\)": lambda: update_from_keypoints(
        new(), labels, points[:, :, :1], visible
    ),
    "one set for each of 2 pictures": lambda: update_from_keypoints(
        new(), labels, points[:1], visible[:1]
    ),
    "Visibility must be boolean": lambda: update_from_keypoints(
        new(), labels, points, visible.float()
    ),
    "true labels span 1..3, but the table has room for 0..1": lambda: update_from_keypoints(
        Contingency(3, 2), labels, points, visible
    ),
    r"Label maps must have shape \(B,h,w\)": lambda: labels_at(labels[:, None], points),
    r"Part maps must have shape \(B,K,h,w\)": lambda: maps_at(labels.float(), points, (4, 4)),
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input(words):
    with pytest.raises(InputError, match=words) as error:
        BAD[words]()
    assert "\n" not in str(error.value)
