"""The equivariant descriptor: what a changed line of the chapter would break."""

import pytest
import torch

from partbook.core import generator
from partbook.features.equivariant import random_warp


@pytest.mark.parametrize("zoom, step", [(1, 2 / 8), (2, 1 / 8)])
def test_a_turn_is_a_turn(zoom, step):
    "Without bend, places keep their distances, also through a mirror; a zoom of two halves them."
    turned = random_warp(3, 8, generator(4), rotation=90, zoom=(zoom, zoom), bend=0)
    for found in (turned.diff(dim=2), turned.diff(dim=1)):
        assert torch.allclose(found.norm(dim=-1), torch.tensor(step), atol=1e-5)
    across = turned[:, 0, 1] - turned[:, 0, 0]
    down = turned[:, 1, 0] - turned[:, 0, 0]
    assert (across * down).sum(-1).abs().max() < 1e-5  # cells stay squares
