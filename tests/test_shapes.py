"""The hook that reads shape comments, tried on comments that are true and on some that are not."""

import sys

import pytest
import shapes
import torch

SMALL = """
from dataclasses import dataclass
from torch import Tensor

def softened(
    maps: Tensor,  # (B,K,h,w) scores
    masks: Tensor | None = None,  # (B,h,w) or (h,w)
) -> Tensor:  # (B,K+1,h,w)
    return maps if masks is None else maps.new_zeros(
        (maps.shape[0], maps.shape[1] + 1, *maps.shape[2:]))

def centres(
    maps: Tensor,  # (B,K,h,w)
) -> tuple[Tensor, Tensor]:  # (B,K,2) points (x,y), (B,K) their mass
    return maps.new_zeros(maps.shape[:2] + (2,)), maps.sum((2, 3))

def layers(
    levels: list[Tensor],  # features (B,C,h,w), each on its own grid
    mass: Tensor,  # (B,)
) -> Tensor:  # scalar
    return sum(level.mean() for level in levels)

def divide(J: Tensor, d: Tensor) -> Tensor:  # (...,2,2), (...,2) -> (...,2)
    return torch.linalg.solve(J, d)

def refuses(
    image: Tensor,  # (3,H,W)
) -> Tensor:  # (H,W)
    if image.ndim != 3:
        raise ValueError("one picture")
    return image.sum(0)

@dataclass
class Warp:
    affine: Tensor  # (B,2,3) A and t
    weights: Tensor | None = None  # (B,P,2)

class Layer:
    def at(self, positions: Tensor) -> Tensor:  # (B,L,2) v to (B,L,2,2)
        return positions[..., None].expand(*positions.shape, 2)

    def flat(
        self,
        x: Tensor,  # (B,C,H,W)
    ) -> Tensor:  # (B,C,H*W)
        return x.flatten(2)
"""


@pytest.fixture(scope="module")
def small():
    "The functions above, checked."
    names: dict = {"torch": torch, "__name__": "small"}
    sys.modules["small"] = type(sys)("small")
    exec(shapes.transformed(SMALL), names)
    yield type("Small", (), {k: staticmethod(v) if callable(v) else v for k, v in names.items()})
    del sys.modules["small"]


@pytest.mark.parametrize(
    "comment, meant",
    [
        ("(B,K,h,w) scores, any real numbers", [("B", "K", "h", "w")]),
        ("(B,K[+1],h,w)", [("B", "K", "h", "w"), ("B", "K+1", "h", "w")]),
        ("(B,H,W) bool, or (H,W)", [("B", "H", "W"), ("H", "W")]),
        ("(B,)", [("B",)]),
        ("(B,2C,...)", [("B", "2*C", "...")]),
        ("scalar", [()]),
        ("features (B,C_l,h,w) of each layer", [("B", "C_l", "h", "w")]),
        ("the point (x,y) in pixels", []),
        ("(x,y,w,h) in pixels", []),
        ("each (H,W) int", [("H", "W"), ("...", "H", "W")]),
        ("in [0,1]", []),
    ],
)
def test_what_a_comment_means(comment, meant):
    assert shapes.alternatives(comment) == meant


@pytest.mark.parametrize(
    "shape, dimensions, sizes",
    [
        ((2, 5), ("B", "K+1"), {"B": 2, "K": 4}),
        ((2, 12), ("B", "H*W"), {"B": 2}),
        ((7, 2, 3), ("...", "2", "3"), {}),
        ((2, 3), ("...", "2", "3"), {}),
        ((4, 9, 2), ("N", "...", "2"), {"N": 4}),
    ],
)
def test_sizes_follow_from_a_shape(shape, dimensions, sizes):
    assert shapes.fit(shape, dimensions, {}) == sizes


@pytest.mark.parametrize(
    "shape, dimensions",
    [((2, 3), ("B", "K", "h")), ((3,), ("...", "2", "3")), ((2, 3), ("B", "B")), ((1,), ("K+2",))],
)
def test_shapes_that_do_not_fit(shape, dimensions):
    assert shapes.fit(shape, dimensions, {}) is None


def test_products_are_known_from_their_factors():
    asked = [((2, 12), [("B", "H*W")]), ((2, 3, 4), [("B", "H", "W")])]
    assert shapes.consistent(asked[::-1], {}) == {"B": 2, "H": 3, "W": 4}
    assert (
        shapes.consistent([((2, 3, 4), [("B", "H", "W")]), ((2, 13), [("B", "H*W")])], {}) is None
    )


def test_true_comments_pass(small):
    maps = torch.zeros(2, 3, 4, 5)
    small.softened(maps, torch.zeros(2, 4, 5))
    small.softened(maps, torch.zeros(4, 5))
    small.centres(maps)
    small.layers([maps, torch.zeros(2, 7, 9, 9)], torch.zeros(2))
    small.divide(torch.eye(2).expand(6, 2, 2), torch.zeros(6, 2))
    small.Warp(torch.zeros(2, 2, 3), torch.zeros(2, 5, 2))
    small.Layer().at(torch.zeros(2, 3, 2))
    small.Layer().flat(maps)


def test_false_comments_are_named(small):
    maps = torch.zeros(2, 3, 4, 5)
    with pytest.raises(shapes.WrongShape, match=r"softened.*return \(2, 3, 4, 5\).*\(B,K\+1,h,w\)"):
        small.softened(maps)
    with pytest.raises(shapes.WrongShape, match=r"masks \(4, 4\)"):
        small.softened(maps, torch.zeros(4, 4))
    with pytest.raises(shapes.WrongShape, match=r"levels\[1\] \(3, 7, 9, 9\)"):
        small.layers([maps, torch.zeros(3, 7, 9, 9)], torch.zeros(2))
    with pytest.raises(shapes.WrongShape, match=r"weights \(3, 5, 2\)"):
        small.Warp(torch.zeros(2, 2, 3), torch.zeros(3, 5, 2))


def test_what_a_function_refuses_itself_is_not_checked(small):
    with pytest.raises(ValueError, match="one picture"):
        small.refuses(torch.zeros(2, 2))


def test_the_package_is_checked_in_these_tests():
    from partbook.parts.maps import argmax_labels

    before = sum(shapes.COUNTS.values())
    argmax_labels(torch.rand(2, 3, 4, 4))
    assert sum(shapes.COUNTS.values()) == before + 2
