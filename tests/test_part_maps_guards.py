"""What part maps must never do, case by case (the chapter shows the examples)."""

import pytest
import torch

from partbook.core import InputError, generator
from partbook.parts.maps import (
    adjoint,
    argmax_labels,
    corner_coordinates,
    divergence,
    label_rule,
    one_hot_maps,
    part_centres,
    relative_maps,
    softmax_maps,
    upsample,
)

TABLE = torch.tensor([[0.8, 0.6, 0.3, 0.04], [0.0, 0.1, 0.2, 0.01]]).view(1, 2, 1, 4)


def test_each_part_is_measured_by_its_own_peak():
    relative = relative_maps(TABLE)[0, :, 0]
    expected = torch.tensor([[0.1, 0.1, 0.1, 0.1], [1, 0.75, 0.375, 0.05], [0, 0.5, 1, 0.05]])
    assert torch.allclose(relative, expected)
    assert label_rule(TABLE).tolist() == [[[1, 1, 2, 0]]]


def test_argmax_labels_takes_the_strongest_channel_inside_the_mask():
    mask = torch.tensor([[[True, True, True, False]]])
    assert argmax_labels(TABLE).tolist() == [[[1, 1, 1, 1]]]
    assert argmax_labels(TABLE, mask).tolist() == [[[1, 1, 1, 0]]]


def test_a_missing_batch_axis_is_named():
    with pytest.raises(InputError, match=r"not \(4, 8, 8\); add the batch axis"):
        softmax_maps(torch.zeros(4, 8, 8))


def test_enlarging_leaves_constants_alone():
    ones = torch.ones(1, 1, 6, 7)
    torch.testing.assert_close(upsample(ones, (24, 35)), torch.ones(1, 1, 24, 35))


def test_a_tie_goes_to_the_first_part_and_silence_to_background():
    assert label_rule(TABLE, background=0.0).tolist() == [[[1, 1, 2, 1]]]  # a tie of 0.05 : 0.05
    assert label_rule(torch.zeros(1, 2, 1, 4)).sum() == 0  # not a division by zero


def test_argmax_labels_trusts_a_background_channel_and_refuses_masks_of_another_size():
    assert argmax_labels(TABLE, has_background=True).tolist() == [[[0, 0, 0, 0]]]
    with pytest.raises(InputError, match=r"batch and size \(1, 1, 4\), not \(1, 4\)"):
        argmax_labels(TABLE, torch.ones(1, 4))


def test_labels_through_maps_and_back_are_the_same_labels():
    labels = torch.randint(0, 4, (3, 9, 7), generator=generator(1))
    hard = one_hot_maps(labels, 3)
    assert torch.equal(label_rule(hard), labels)
    assert torch.equal(argmax_labels(hard, labels > 0), labels)


def test_divergence_sees_differences_only_and_is_not_symmetric():
    p, q = (torch.randn(2, 3, 4, 5, generator=generator(i)) for i in range(2))
    assert divergence(p, p + 7.0).abs().max() < 1e-6
    assert (divergence(p, q) > 0).all()
    assert not torch.allclose(divergence(p, q), divergence(q, p))


def test_the_transpose_of_upsample_is_what_autograd_finds_and_keeps_the_mass():
    M = torch.rand(1, 1, 24, 35, generator=generator(10))
    f = torch.randn(1, 64, 6, 7, generator=generator(11))
    grid = torch.zeros(1, 1, 6, 7, requires_grad=True)
    (found,) = torch.autograd.grad(upsample(grid, (24, 35)), grid, M)
    torch.testing.assert_close(found, adjoint(M, (6, 7)))
    torch.testing.assert_close((M * upsample(f, (24, 35))).sum((2, 3)), (found * f).sum((2, 3)))
    torch.testing.assert_close(found.sum(), M.sum())


def test_centres_of_mass_and_their_corners():
    maps = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 3.0, 0.0]]).view(1, 1, 2, 4)
    assert part_centres(maps, size=(20, 40)).tolist() == [[[20.0, 12.5]]]
    assert corner_coordinates(torch.tensor([[3.5, 1.5]]), (2, 4)).tolist() == [[0.5, 0.0]]
