"""Protocols against mutations: cheating methods, tables by hand, views, units, the CRF's start."""

from dataclasses import replace

import pytest
import torch

from partbook.core import InputError, generator
from partbook.data.saliency import centre_box
from partbook.data.sample import Batch, Collection, Kept, Sample, View, collections
from partbook.evaluation.landmarks import LandmarkRegression
from partbook.evaluation.overlap import Contingency
from partbook.evaluation.protocols import (
    CoSegmentation,
    LandmarkError,
    LandmarkOverlap,
    PixelOverlap,
    RegionGrouping,
    annotation_baselines,
    centres_in_view,
    default_protocols,
    frame_of,
    inside_box,
    mask_baselines,
    mask_iou,
    method_labels,
    object_view,
    protocols,
    refined_labels,
    whole_view,
)
from partbook.methods.method import Method, Settings
from partbook.parts.crf import CRFSettings, refine
from partbook.parts.maps import argmax_labels, label_rule, one_hot_maps


def test_inside_box():
    assert inside_box(torch.tensor([1.0, 0.0, 2.0, 1.0]), (2, 4)).tolist() == [
        [False, True, True, False],
        [False] * 4,
    ]
    assert inside_box(torch.tensor([0.4, 0.4, 2.0, 1.0]), (3, 4)).nonzero().tolist() == [
        [0, 0],
        [0, 1],
    ]  # a pixel's centre decides
    assert inside_box(torch.tensor([0.5, 0.5, 1.0, 1.0]), (3, 3)).nonzero().tolist() == [
        [0, 0]
    ]  # neighbouring boxes share no pixel


class Framed(Collection):
    "One picture with a box."

    crop_to_box, mask = True, None

    def __len__(self):
        return 1

    def __getitem__(self, i):
        return Sample(
            (torch.arange(8) / 10).expand(3, 8, 8),
            "columns",
            self.mask,
            box=torch.tensor([2.0, 0, 4, 4]),
        )


def test_views():
    framed = Framed()
    assert torch.allclose(
        object_view(framed, 4)[0].image[0], torch.tensor([0.2, 0.3, 0.4, 0.5]).expand(4, 4)
    )
    framed.crop_to_box = False
    assert torch.allclose(object_view(framed, 8)[0].image[0], torch.arange(8) / 10)
    assert whole_view(framed, 4)[0].mask.nonzero().tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    framed.mask = torch.ones(8, 8, dtype=torch.bool)
    assert whole_view(framed, 4)[0].mask.all()


class Oracle(Method):
    "Reads the true parts, or forgets them all."

    def __init__(self, batch, forget=False):
        super().__init__(Settings(parts=6, size=64))
        self.batch, self.forget = batch, forget

    def logits(self, images):
        which = [
            int((self.batch.images == image).flatten(1).all(1).nonzero()[0]) for image in images
        ]
        labels = self.batch.parts[which]
        return 9 * one_hot_maps(torch.ones_like(labels) if self.forget else labels, 6)


train, test = (collections["birds"].open(split=s, size=64) for s in ("train", "test"))
few = Kept(View(test, indices=range(24)))
everything = few.batch(range(24))
perfect = PixelOverlap().evaluate(Oracle(everything), train, few)


def test_the_two_ends_of_the_scale():
    assert all(abs(v - 100) < 1e-9 for v in perfect.values())
    nothing = PixelOverlap().evaluate(Oracle(everything, forget=True), train, few)
    assert (
        nothing["fg_nmi"] == 0 and nothing["fg_ari"] == 0 and nothing["nmi"] > 20
    )  # the mask alone earns that much
    sizes = everything.parts.flatten().bincount()[1:]
    assert nothing["ari"] > 5 and nothing["purity"] == pytest.approx(
        float(100 * sizes.max() / sizes.sum())
    )


def inset(s):
    "The sample in the middle of a picture twice as large."
    H, W = s.size
    by = (W // 2, W - W // 2, H // 2, H - H // 2)
    grown = {
        f: torch.nn.functional.pad(v, by)
        for f in ("image", "mask", "parts")
        if (v := getattr(s, f)) is not None
    }
    corner = torch.tensor([W // 2, H // 2], dtype=torch.float32)
    return replace(
        s,
        **grown,
        landmarks=None if s.landmarks is None else s.landmarks + corner,
        box=torch.cat([corner, torch.tensor([W, H])]),
    )


def in_landscape(collection):
    wide = Kept(View(collection, inset))
    wide.crop_to_box = True
    return wide


def test_a_landscape_around_the_object_changes_nothing():
    assert PixelOverlap().evaluate(Oracle(everything), train, in_landscape(few)) == perfect


class Halves(Method):
    "Part 1 left, part 2 right, whatever the picture shows."

    def logits(self, images):
        left = (
            (torch.arange(images.shape[-1]) < images.shape[-1] / 2)
            .float()
            .expand(images[:, 0].shape)
        )
        return torch.stack([left, 1 - left], 1)


class Corner(Collection):
    "Twenty pictures with a box near the left border."

    landmark_names = ("a", "b")

    def __len__(self):
        return 20

    def __getitem__(self, i):
        where = torch.tensor([[3.0, 5.0], [9.0, 5.0]])
        return Sample(
            torch.zeros(3, 32, 32),
            "",
            None,
            None,
            where,
            torch.ones(2, dtype=torch.bool),
            torch.tensor([2.0, 2, 8, 8]),
        )


def test_box_and_picture_are_told_apart():
    found = LandmarkOverlap().evaluate(Halves(Settings(parts=2, size=16)), Corner(), Corner())
    assert (
        found["fg_nmi"] == found["fg_ari"] == found["purity"] == 100
        and found["nmi"] == found["ari"] == 0
    )


class Shy(Halves):
    "Halves, and background on the right."

    has_background = True

    def logits(self, images):
        right = (torch.arange(images.shape[-1]) >= 0.85 * images.shape[-1]).expand(
            images[:, :1].shape
        )
        return torch.cat([2.0 * right, super().logits(images)], 1)


class Right(Corner):
    "Twenty pictures with a box in the right half."

    landmark_names = ("a", "b", "c", "d", "below")

    def __getitem__(self, i):
        where = torch.tensor([[18.0, 8], [22, 8], [26, 8], [30, 8], [20, 28]])
        return Sample(
            torch.zeros(3, 32, 32),
            "",
            None,
            None,
            where,
            torch.ones(5, dtype=torch.bool),
            torch.tensor([16.0, 0, 16, 24]),
        )


def by_hand(*labels):
    "NMI, ARI and purity when the landmarks get these labels in each of twenty pictures."
    return (
        Contingency(3, 6)
        .update(torch.tensor(labels).repeat(20, 1), torch.arange(1, len(labels) + 1).repeat(20, 1))
        .scores()
    )


two = Settings(parts=2, size=16)
boxed, asked, own, given = (
    by_hand(1, 1, 2, 2),
    by_hand(1, 1, 2, 0),
    by_hand(2, 2, 2, 0, 2),
    by_hand(2, 2, 2, 2, 0),
)


def test_three_tables_by_hand():
    expected = {
        "fg_nmi": boxed["nmi"],
        "fg_ari": boxed["ari"],
        "nmi": own["nmi"],
        "ari": own["ari"],
        "purity": boxed["purity"],
    }
    assert LandmarkOverlap().evaluate(Shy(two), Right(), Right()) == expected | {
        "fg_ari_inclusive": asked["ari"]
    }
    found = LandmarkOverlap().evaluate(Halves(two), Right(), Right())
    assert found == expected | {
        "nmi": given["nmi"],
        "ari": given["ari"],
        "fg_ari_inclusive": boxed["ari"],
    }
    assert len({round(t["ari"], 3) for t in (boxed, asked, own)}) == 3


def test_own_background_on_pixels():
    shy, bold = (PixelOverlap().evaluate(m(two), train, few) for m in (Shy, Halves))
    assert (
        all(shy[m] == bold[m] for m in ("fg_nmi", "fg_ari", "purity"))
        and abs(shy["nmi"] - bold["nmi"]) > 5
    )


class Placed(Method):
    "Always the same maps."

    has_background = True

    def part_maps(self, images):
        maps = torch.zeros(len(images), 3, 4, 4)
        maps[:, 0, 3], maps[:, 1, 1, [0, 3]], maps[:, 2, 3, 2], maps[:, 2, 0, 0] = (
            1.0,
            1.0,
            0.05,
            1e-8,
        )
        return maps


def test_centres_in_the_mask():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[..., [0, 1, 2, 3, 6]] = True
    pictures, placed = torch.zeros(1, 3, 8, 8), Placed(Settings(parts=2, size=16))
    assert torch.allclose(
        centres_in_view(placed, Batch(pictures, ["p"])), torch.tensor([[[4.0, 3], [5, 7]]])
    )
    inside = centres_in_view(placed, Batch(pictures, ["p"], mask))[0]
    assert torch.allclose(inside[0], torch.tensor([3.0, 3])) and inside[1].isnan().all()


def test_frame():
    picture = Batch(
        torch.zeros(1, 3, 8, 12),
        ["p"],
        landmarks=torch.tensor([[[2.0, 1], [5, 5]]]),
        boxes=torch.tensor([[1.0, 1, 6, 4]]),
    )
    view, unit = frame_of(picture, None)
    assert (
        view.tolist() == [[12, 8]]
        and unit.tolist() == [[6, 4]]
        and frame_of(picture, (0, 1))[1].tolist() == [5]
    )


class Spikes(Method):
    "Part maps with all their mass where the annotations say."

    def __init__(self, centres):
        super().__init__(Settings(parts=centres.shape[1], size=16))
        self.centres = centres

    def part_maps(self, images):
        index = (images[:, 0, 0, 0] * 100).round().long()  # the picture's number is its colour
        x, y = self.centres[index].unbind(-1)
        maps = torch.zeros(len(images), self.parts, 16, 16)
        return maps.index_put(
            torch.meshgrid(torch.arange(len(images)), torch.arange(self.parts), indexing="ij")
            + (y.long(), x.long()),
            torch.ones(()),
        )


points = torch.randint(0, 16, (60, 3, 2), generator=generator(0)) + 0.5


class Dots(Collection):
    "Three landmarks, the third in the middle of the first two."

    landmark_names = ("a", "b", "middle")

    def __init__(self, numbers):
        self.numbers = numbers

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, i):
        n = self.numbers[i]
        where = torch.cat([points[n, :2], points[n, :2].mean(0, keepdim=True)])
        return Sample(
            torch.full((3, 16, 16), n / 100),
            f"dots {n}",
            None,
            None,
            where,
            torch.ones(3, dtype=torch.bool),
            torch.tensor([0.0, 0, 16, 16]),
        )


class NoUnit(Dots):
    "The same without a box: there is nothing to measure errors in."

    def __getitem__(self, i):
        return replace(super().__getitem__(i), box=None)


def test_no_unit_then_eyes():
    with pytest.raises(InputError, match="does not fit the collection.*inter-ocular"):
        LandmarkError().evaluate(Spikes(points[:, :2]), NoUnit(range(9)), NoUnit(range(9)))
    eyed = type("Eyed", (NoUnit,), {"eyes": (0, 1)})
    assert (
        LandmarkError().evaluate(Spikes(points[:, :2]), eyed(range(40)), eyed(range(40, 60)))[
            "landmark_error"
        ]
        < 1e-3
    )
    cheat = LandmarkError().evaluate(Spikes(points[:, :2]), Dots(range(40)), Dots(range(40, 60)))
    honest = LandmarkError().evaluate(
        Spikes(points[:, 2:].repeat(1, 2, 1)), Dots(range(40)), Dots(range(40, 60))
    )
    assert cheat["landmark_error"] < 1e-3 < 20 < honest["landmark_error"]


gone = points.clone()
gone[::2, 0] = 8.0
gone[:, 2] = gone[:, :2].mean(1)


class Gone(Dots):
    "Landmark a is in the middle of every second picture."

    def __getitem__(self, i):
        return replace(super().__getitem__(i), landmarks=gone[self.numbers[i]])


class Gaps(Spikes):
    "No part where the landmark is in the middle."

    def part_maps(self, images):
        absent = (self.centres[(images[:, 0, 0, 0] * 100).round().long()] == 8).all(-1)
        return super().part_maps(images).masked_fill(absent[..., None, None], 0)


def test_absent_parts_are_in_the_middle():
    assert (
        LandmarkError().evaluate(Gaps(gone[:, :2]), Gone(range(40)), Gone(range(40, 60)))[
            "landmark_error"
        ]
        < 1e-3
    )


class Still(Dots):
    def __getitem__(self, i):
        return replace(super().__getitem__(i), landmarks=torch.full((3, 2), 8.0))


def test_fitted_on_one_split_measured_on_the_other():
    eyed = type("Eyed", (NoUnit,), {"eyes": (0, 1)})
    spikes, learn, new = Spikes(points[:, :2]), Dots(range(40)), Dots(range(40, 60))
    distance = (new.batch(range(20)).landmarks - 8).norm(dim=-1).mean() / 16
    assert LandmarkError().evaluate(spikes, Still(range(40)), new)[
        "landmark_error"
    ] == pytest.approx(float(100 * distance), rel=1e-5)
    assert (
        LandmarkError().evaluate(spikes, in_landscape(learn), in_landscape(new))["landmark_error"]
        < 1e-3
    )
    with pytest.raises(InputError, match="needs box annotations.*choose from: landmark-regression"):
        LandmarkOverlap().evaluate(spikes, eyed(range(9)), eyed(range(9)))


class Hidden(Dots):
    "Landmark b is seen in every second picture."

    def __getitem__(self, i):
        return replace(
            super().__getitem__(i), visible=torch.tensor([True, self.numbers[i] % 2 == 0, True])
        )


def guesses(landmarks, visible):
    seen = visible[..., None].float()
    return {
        "image midpoint": torch.full_like(landmarks[:, :1], 8.0),
        "mean of true landmarks": (landmarks * seen).sum(1, keepdim=True)
        / seen.sum(1, keepdim=True),
        "true b alone": landmarks[:, 1:2].where(visible[:, 1:2, None], 8.0),
        "true middle alone": landmarks[:, 2:],
    }


def test_annotation_baselines():
    learn, new = Hidden(range(40)), Hidden(range(40, 60))
    (x, seen), (y, shown) = (
        (b.landmarks, b.visible) for b in (learn.batch(range(40)), new.batch(range(20)))
    )
    table = (
        annotation_baselines(learn, new, landmark="b"),
        annotation_baselines(in_landscape(learn), in_landscape(new), landmark="tail"),
    )
    for row in table:
        for name, errors in row.items():
            predicted = (
                LandmarkRegression()
                .fit(guesses(x, seen)[name], x, seen)
                .predict(guesses(y, shown)[name])
            )
            expected = 100 * ((predicted - y) / 16).norm(dim=-1)[shown].mean()
            assert errors["landmark_error"] == pytest.approx(float(expected), rel=1e-4)
    assert set(row) == {
        "image midpoint",
        "mean of true landmarks",
        "true middle alone",
    }  # without a tail, the last is given away


def test_mask_iou():
    a = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]]).bool()[:, None]
    b = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0]]).bool()[:, None]
    assert (
        torch.allclose(mask_iou(a, b), torch.tensor([100 / 3, 100.0]))
        and (mask_iou(a, a) == 100).all()
        and mask_iou(~a[1:], a[1:]) == 0
    )
    assert (
        mask_iou(a[1:], torch.tensor([[[1, 0, 0, 0]]]).bool()) == 0
    )  # one pixel is missed, and it was the only one


class Complete(Oracle):
    "The oracle with a background."

    has_background = True

    def logits(self, images):
        parts = super().logits(images)
        return torch.cat([9 * (parts.amax(1, keepdim=True) == 0), parts], 1)


share = 100 * everything.masks.float().mean((1, 2)).mean()


def test_co_segmentation_of_oracles():
    for oracle, expected in (
        (Complete(everything), 100),
        (Oracle(everything, forget=True), float(share)),
    ):
        found = CoSegmentation().evaluate(oracle, train, few)
        assert found["iou"] == pytest.approx(expected, abs=1e-3) and found[
            "iou_everything"
        ] == pytest.approx(float(share), abs=1e-3)
        assert (found["iou_crf"] == found["iou"]) == (not oracle.has_background) and found[
            "iou_crf"
        ] > 0.8 * expected
    small_batches = CoSegmentation().evaluate(
        Oracle(everything), train, in_landscape(few), batch_size=7
    )
    assert (
        small_batches["iou"]
        == small_batches["iou_everything"]
        == pytest.approx(float(share), abs=1e-3)
    )


class Noisy(Method):
    "A bright thing on a dark ground, seen through noise."

    has_background = True

    def logits(self, images):
        bright = images.mean(1, keepdim=True)
        noise = torch.randn(len(images), 3, *images.shape[-2:], generator=generator(3))
        return torch.cat([1 - bright, bright, bright - 0.5], 1) * 2 + noise


class ByRule(Noisy):
    "The same, read by SCOPS' rule."

    def read_labels(self, logits, masks=None, background=True):
        return label_rule(logits.softmax(1)[:, 1:], 0.1 if background else 0.0)

    def shares(self, logits):
        R = logits.softmax(1)[:, 1:]
        return torch.nn.functional.normalize(
            torch.nn.functional.pad(
                R / R.amax((2, 3), keepdim=True), (0, 0, 0, 0, 1, 0), value=0.1
            ),
            p=1,
            dim=1,
        )


class Squares(Collection):
    "Bright squares."

    def __len__(self):
        return 3

    def __getitem__(self, i):
        mask = torch.zeros(32, 32, dtype=torch.bool)
        mask[8:24, 6 + i : 24 + i] = True
        return Sample(mask.float().expand(3, -1, -1), f"square {i}", mask)


class NoUpdate(CoSegmentation):
    crf = CRFSettings(iterations=0)


squares = Squares().batch(range(3))


def test_two_ways_to_read_labels():
    for kind in (Noisy, ByRule):
        method = kind(Settings(parts=2, size=32))
        shares = method.shares(method.logits(squares.images))
        assert torch.allclose(shares.sum(1), torch.ones(3, 32, 32)) and torch.equal(
            argmax_labels(shares, has_background=True), method.labels(squares.images)
        )
        still, moved = (
            p().evaluate(method, Squares(), Squares()) for p in (NoUpdate, CoSegmentation)
        )
        assert still["iou_crf"] == still["iou"] == moved["iou"]
        print({k: round(v, 1) for k, v in moved.items()})
        assert (moved["iou_crf"] > moved["iou"] + 5) == (kind is Noisy)
    assert (
        CoSegmentation().evaluate(Noisy(Settings(parts=2, size=32)), Squares(), Squares())[
            "iou_crf"
        ]
        > 90
    )
    foreground, whole = method_labels(Noisy(Settings(parts=2, size=32)), squares)
    assert (
        foreground.min() == 1
        and whole.min() == 0
        and torch.equal(whole, Noisy(Settings(parts=2, size=32)).labels(squares.images))
    )


def test_widths_are_carried_to_the_size():
    method = ByRule(Settings(parts=2, size=32))
    logits = method.logits(squares.images)
    narrow, wide = (
        refine(method.shares(logits), squares.images, crf).argmax(1)
        for crf in (CRFSettings(position=0.192, bilateral=5.12), CRFSettings())
    )
    assert torch.equal(
        refined_labels(method, logits, squares.images, CRFSettings()), narrow
    ) and not torch.equal(narrow, wide)


def test_mask_baselines():
    trivial = mask_baselines(few)
    assert (
        trivial["everything"]["iou"] == pytest.approx(float(share), abs=1e-3)
        and mask_baselines(Dots(range(4))) == {}
    )
    assert mask_baselines(Squares(), 32)["Otsu on grey"]["iou"] == 100
    assert trivial["centre box"]["iou"] == pytest.approx(
        float(mask_iou(centre_box(everything.images), everything.masks).mean())
    )
    assert mask_baselines(in_landscape(few)) == trivial


class Corners(Halves):
    "Part 1 in the left fifth, part 2 nowhere, background elsewhere."

    has_background = True

    def logits(self, images):
        x = torch.arange(images.shape[-1]) / images.shape[-1]
        left = (x < 0.2).float().expand(images[:, 0].shape)
        return torch.stack([0.5 * torch.ones_like(left), left, torch.zeros_like(left)], 1)


def test_region_grouping():
    assert RegionGrouping().evaluate(Halves(two), Corner(), Corner()) == {
        "nmi_own": 0,
        "ari_own": 0,
    }
    assert RegionGrouping().evaluate(Corners(two), Corner(), Corner()) == {
        "nmi_own": 100,
        "ari_own": 100,
    }
    right = Right()
    right.crop_to_box = True  # whole pictures all the same
    assert RegionGrouping().evaluate(Shy(two), right, right) == {
        "nmi_own": own["nmi"],
        "ari_own": own["ari"],
    }


def test_every_protocol_says_what_it_does():
    for name in protocols.names():
        for field in ("crop", "points", "units", "source"):
            assert getattr(protocols[name], field), (name, field)


def test_which_protocols_fit():
    chosen = lambda c: [name for name in default_protocols(c) if name != "census"]  # fits all
    bare = View(few, lambda s: replace(s, parts=None))
    assert chosen(few) == ["pixels", "landmark-regression"]
    assert chosen(bare) == ["landmark-overlap", "landmark-regression"]
    assert chosen(Squares()) == []
    assert all(
        protocols[n]().fits(few) for n in ("co-segmentation", "region-grouping")
    )  # on request
    assert not LandmarkError().fits(
        View(few, lambda s: replace(s, landmarks=None, visible=None))
    )  # a box alone is nothing to predict


def test_what_is_missing_is_named():
    method = Halves(two)
    with pytest.raises(InputError, match="needs parts annotations"):
        PixelOverlap().evaluate(method, Dots(range(4)), Dots(range(4)))
