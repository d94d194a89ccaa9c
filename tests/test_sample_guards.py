"""What the chapter on the sample claims, in the corners that its worked examples leave out."""

from dataclasses import replace

import pytest
import torch

from partbook.core import InputError
from partbook.data.sample import (
    Collection,
    Kept,
    Sample,
    View,
    batches,
    collate,
    crop,
    cropped,
    resize,
    resized,
)

TINY = Sample(
    image=torch.full((3, 2, 4), 0.5),
    name="tiny",
    mask=torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1]], dtype=torch.bool),
    landmarks=torch.tensor([[3.5, 0.5], [0.0, 0.0]]),
    visible=torch.tensor([True, False]),
    box=torch.tensor([2.0, 0.0, 2.0, 2.0]),
)
WHEELS = replace(
    TINY,
    part_boxes=torch.tensor([[0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 2.0, 2.0]]),
    box_parts=torch.tensor([1, 2]),
)
SOFT = replace(TINY, saliency=torch.tensor([[0.0, 0.25, 1.0, 1.0], [0.0, 0.25, 1.0, 0.5]]))
BIG = resize(TINY, (4, 8))
OUTSIDE = torch.tensor([[9.0, 0.0], [0.0, 0.0]])
ONE = torch.tensor([1])


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(image=torch.zeros(2, 4)), r"shape \(3,H,W\), not \(2, 4\)"),
        (dict(image=torch.zeros(3, 2, 4, dtype=torch.uint8)), "divide bytes by 255"),
        (dict(image=torch.full((3, 2, 4), 200.0)), r"must lie in \[0,1\]"),
        (dict(mask=torch.zeros(4, 2, dtype=torch.bool)), r"mask must have .* size \(2, 4\)"),
        (dict(mask=torch.zeros(2, 4)), "mask must be boolean"),
        (dict(parts=torch.zeros(2, 4)), "parts must be int64"),
        (dict(saliency=torch.zeros(4, 2)), r"saliency must have the image's size \(2, 4\)"),
        (dict(saliency=torch.ones(2, 4, dtype=torch.bool)), "a hard one is a mask"),
        (
            dict(saliency=torch.full((2, 4), 1.01)),
            r"saliency must lie in \[0,1\], found \[1.01, 1.01\]",
        ),
        (dict(saliency=torch.full((2, 4), -0.01)), "saliency must lie in"),
        (dict(saliency=torch.full((2, 4), float("nan"))), "saliency must lie in"),
        (dict(landmarks=torch.zeros(2, 3)), r"shape \(L,2\)"),
        (dict(landmarks=OUTSIDE), r"landmark 0 at \(9, 0\) is marked visible but lies outside"),
        (dict(visible=torch.ones(3, dtype=torch.bool)), "one for each landmark"),
        (dict(box=torch.tensor([0.0, 0.0, 0.0, 2.0])), "positive width and height"),
        (dict(box_parts=ONE), "part_boxes and box_parts go together"),
        (dict(part_boxes=torch.ones(1, 3), box_parts=ONE), r"shape \(N,4\)"),
        (dict(part_boxes=torch.ones(2, 4), box_parts=ONE), "one for each box"),
        (dict(part_boxes=torch.ones(1, 4), box_parts=0 * ONE), "parts counted from 1"),
    ],
)
def test_each_field_has_its_own_complaint(change, message):
    with pytest.raises(InputError, match=message):
        replace(TINY, **change)


def test_cropping_and_resizing():
    cut = crop(TINY)
    assert cut.size == (2, 2) and cut.mask.all() and cut.landmarks[0].tolist() == [1.5, 0.5]
    assert cut.box.tolist() == [0, 0, 2, 2]
    assert BIG.landmarks[0].tolist() == [7.0, 1.0] and BIG.box.tolist() == [4, 0, 4, 4]
    assert torch.equal(BIG.mask[::2, ::2], TINY.mask)
    padded = crop(TINY, pad=0.5)
    assert padded.size == (4, 4) and padded.mask.sum() == 4 and not padded.mask[:, -1].any()
    assert padded.image[0, 0, 0] == 0.5


def test_part_boxes_go_the_same_way():
    assert crop(WHEELS).part_boxes.tolist() == [[0, 0, 2, 2]]
    assert crop(WHEELS).box_parts.tolist() == [2]
    assert resize(WHEELS, (4, 8)).part_boxes.tolist() == [[0, 0, 2, 2], [4, 0, 4, 4]]


def test_saliency_is_cut_like_a_mask_and_resized_like_an_image():
    assert crop(SOFT).saliency.tolist() == [[1, 1], [1, 0.5]]
    assert crop(SOFT, pad=0.5).saliency.sum() == 4
    as_image = replace(SOFT, image=SOFT.saliency.expand(3, -1, -1))
    assert torch.equal(resize(SOFT, (1, 2)).saliency, resize(as_image, (1, 2)).image[0])
    between = resize(SOFT, (4, 8)).saliency
    assert between.shape == (4, 8) and between.max() == 1
    assert 0 < between[0, 1] < 0.25  # bilinear, not nearest


def test_batches_are_taken_apart_again():
    batch = collate([TINY, TINY])
    assert batch.images.shape == (2, 3, 2, 4) and batch.parts is None and len(batch) == 2
    back = batch.samples()[1]
    assert torch.equal(back.image, TINY.image) and back.name == "tiny"
    assert torch.equal(back.landmarks, TINY.landmarks)
    without = replace(WHEELS, part_boxes=WHEELS.part_boxes[:0], box_parts=WHEELS.box_parts[:0])
    pair = collate([WHEELS, without])
    assert pair.part_boxes.shape == (2, 2, 4) and pair.box_parts.tolist() == [[1, 2], [0, 0]]
    assert torch.equal(pair.samples()[0].part_boxes, WHEELS.part_boxes)
    assert len(pair.samples()[1].box_parts) == 0
    soft = collate([SOFT, SOFT]).to("cpu").samples()[1]
    assert batch.saliency is None and torch.equal(soft.saliency, SOFT.saliency)
    numbered = collate([replace(TINY, category=i) for i in (3, 1)])
    assert numbered.categories.tolist() == [3, 1] and numbered.samples()[0].category == 3


@pytest.mark.parametrize(
    "pair, sentence",
    [
        ((TINY, BIG), "resize them to one size"),
        ((TINY, replace(TINY, mask=None)), "only one has a mask"),
        ((TINY, SOFT), "only one has a saliency"),
    ],
)
def test_samples_that_make_no_batch(pair, sentence):
    with pytest.raises(InputError, match=sentence):
        collate(pair)


class Tiny(Collection):
    def __init__(self):
        self.made = []

    def __len__(self):
        return 5

    def __getitem__(self, i):
        self.made.append(i)
        return replace(TINY, name=f"tiny {i}")


def test_the_order_is_the_seeds_alone():
    two, three = (
        [n for b in batches(Tiny(), size, shuffle=True, seed=3) for n in b.names] for size in (2, 3)
    )
    assert sorted(two) == [f"tiny {i}" for i in range(5)] and two == three
    assert next(batches(resized(cropped(Tiny()), 8), 4)).images.shape == (4, 3, 8, 8)
    assert View(Tiny(), indices=[4])[0].name == "tiny 4"


@pytest.mark.parametrize("room, times", [(1, 1), (0, 3)])
def test_kept_samples_are_made_once_if_there_is_room(room, times):
    made = Tiny()
    kept = Kept(made, mebibytes=room)
    runs = [[n for b in batches(kept, 2) for n in b.names] for _ in range(3)]
    assert runs[0] == runs[1] == runs[2] == [f"tiny {i}" for i in range(5)]
    assert len(made.made) == 5 * times
