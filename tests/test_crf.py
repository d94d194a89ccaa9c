"""The dense CRF: what it refuses, the program it is compared with, and real photographs."""

import math
from dataclasses import replace

import pytest
import torch

from partbook.core import InputError, generator
from partbook.data.sample import View, collections, resize
from partbook.evaluation.protocols import CoSegmentation, mask_baselines, mask_iou, protocols
from partbook.evaluation.refinement import coarse_maps, main
from partbook.features.extractor import load_extractor
from partbook.methods.kmeans import KMeans, KMeansSettings
from partbook.parts.crf import CRFSettings, refine, unary_energy
from partbook.parts.filters import (
    Lattice,
    bilateral_features,
    gaussian_kernel,
    normalised,
)
from partbook.parts.maps import argmax_labels
from partbook.readers.pascal import PASCAL

GOOD = torch.full((2, 3, 8, 9), 1 / 3)
PICTURES = torch.rand(2, 3, 8, 9, generator=generator(0))
BAD_MAPS = {
    "a picture without its batch": (GOOD[0], "at least two labels, not (3, 8, 9)"),
    "one label": (torch.ones(2, 1, 8, 9), "at least two labels, not (2, 1, 8, 9)"),
    "no pictures": (GOOD[:0], "at least two labels, not (0, 3, 8, 9)"),
    "labels": (torch.ones(2, 3, 8, 9, dtype=torch.int64), "not torch.int64"),
    "scores": (torch.randn(2, 3, 8, 9, generator=generator(0)), "sum to one at each pixel"),
    "negative shares": (GOOD + torch.tensor([-0.5, 0.5, 0]).view(3, 1, 1), "the least is -0.167"),
    "not numbers": (GOOD * math.nan, "sum to one at each pixel"),
    "a list": ([[0.5, 0.5]], "not list"),
}
BAD_PICTURES = {
    "another size": (PICTURES[..., :8], "(2, 3, 8, 9), not (2, 3, 8, 8)"),
    "another batch": (PICTURES[:1], "(2, 3, 8, 9), not (1, 3, 8, 9)"),
    "grey": (PICTURES[:, :1], "(2, 3, 8, 9), not (2, 1, 8, 9)"),
    "an array": (PICTURES.numpy(), "not ndarray"),
}
BAD_SETTINGS = {
    "no width": (dict(position=0), "width position is 0"),
    "negative width": (dict(bilateral=-1.0), "width bilateral is -1"),
    "infinite width": (dict(colour=math.inf), "width colour is inf"),
    "width not a number": (dict(colour=math.nan), "width colour is nan"),
    "negative weight": (dict(bilateral_weight=-1), "bilateral_weight is -1"),
    "weight not a number": (dict(position_weight=math.nan), "position_weight is nan"),
    "negative updates": (dict(iterations=-1), "-1 updates"),
    "no size": (dict(side=0), "pictures of 0 pixels"),
    "normalisation": (dict(normalisation="both"), "none, before, after, symmetric"),
    "form": (dict(form="quick"), "fast or exact"),
}


@pytest.mark.parametrize("maps, says", BAD_MAPS.values(), ids=BAD_MAPS)
def test_bad_maps(maps, says):
    with pytest.raises(InputError) as error:
        refine(maps, PICTURES)
    assert says in str(error.value) and str(error.value).count("\n") == 0


@pytest.mark.parametrize("pictures, says", BAD_PICTURES.values(), ids=BAD_PICTURES)
def test_bad_pictures(pictures, says):
    with pytest.raises(InputError) as error:
        refine(GOOD, pictures)
    assert says in str(error.value) and "upsample" in str(error.value)


@pytest.mark.parametrize("settings, says", BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_bad_settings(settings, says):
    with pytest.raises(InputError) as error:
        CRFSettings(**settings)
    assert says in str(error.value)


def test_other_bad_input():
    with pytest.raises(InputError, match="matrix for 3 labels, not \\(2, 2\\)"):
        refine(GOOD, PICTURES, compatibility=torch.ones(2, 2))
    with pytest.raises(InputError, match="must lie between 0 and 1"):
        unary_energy(GOOD, certainty=0)
    with pytest.raises(InputError, match="too narrow for its lattice"):
        refine(GOOD, PICTURES, CRFSettings(colour=1e-6))
    refine(GOOD, PICTURES, CRFSettings(colour=1e-6, form="exact"))


def test_types_and_gradients_pass_through():
    "Double precision stays double, and both forms carry gradients to the maps."
    for form in ("fast", "exact"):
        scores = torch.randn(
            2, 3, 8, 9, generator=generator(1), dtype=torch.float64
        ).requires_grad_()
        q = refine(scores.softmax(1), PICTURES, CRFSettings(form=form).at(9))
        q[:, 0].sum().backward()
        assert (
            q.dtype == torch.float64
            and scores.grad.abs().sum() > 0
            and scores.grad.isfinite().all()
        )


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (33, 20)])
def test_any_size(size):
    pictures = torch.rand(1, 3, *size, generator=generator(2))
    maps = torch.rand(1, 2, *size, generator=generator(3)).softmax(1)
    for form in ("fast", "exact"):
        q = refine(maps, pictures, CRFSettings(form=form))
        assert q.shape == maps.shape and torch.allclose(q.sum(1), torch.ones(1, *size))


def birds(size, count=1):
    batch = collections["birds"].open(split="test", size=size).batch(range(count))
    return batch, coarse_maps(batch.parts, 6)


def test_fast_and_exact_on_a_bird():
    "At 64 pixels here; at 256 in the results, by `python -m partbook.evaluation.refinement`."
    batch, maps = birds(64)
    settings = CRFSettings().at(64)
    exact, fast = (
        refine(maps, batch.images, replace(settings, form=form)).argmax(1)
        for form in ("exact", "fast")
    )
    assert (exact == fast).float().mean() > 0.98 and (exact != maps.argmax(1)).float().mean() > 0.01


def test_every_normalisation_on_a_bird():
    "All but none agree with the exact form; with none the lattice's height is right to a third."
    batch, maps = birds(48)
    f = bilateral_features(batch.images, 8.0, 13 / 255)
    ones = torch.ones(1, 1, 48, 48)
    for kind in ("before", "after", "symmetric"):
        s = CRFSettings(normalisation=kind).at(48)
        a, b = (
            refine(maps, batch.images, replace(s, form=form)).argmax(1)
            for form in ("fast", "exact")
        )
        assert (a == b).float().mean() > 0.96
    assert 0.6 < float(Lattice(f)(ones).mean() / gaussian_kernel(f).sum(2).mean()) < 1.4
    assert torch.allclose(normalised(Lattice(f), ones, "after")(ones), ones, atol=1e-4)


def test_against_pydensecrf():
    "The authors' program behind its usual wrapper: the same lattice, so nearly the same labels."
    wrapper = pytest.importorskip(
        "pydensecrf.densecrf", reason="pydensecrf2 is not installed (it builds on Python 3.11 only)"
    )
    import numpy as np

    batch, maps = birds(128, 3)
    for settings, colours in (
        (CRFSettings().at(128), True),
        (CRFSettings.position_only().at(128), False),
    ):
        ours = refine(maps, batch.images, settings).argmax(1)
        for image, unary, labels in zip(batch.images, unary_energy(maps), ours):
            theirs = wrapper.DenseCRF2D(128, 128, 7)
            theirs.setUnaryEnergy(unary.flatten(1).numpy().copy())
            theirs.addPairwiseGaussian(sxy=settings.position, compat=settings.position_weight)
            if colours:
                pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8).copy()
                theirs.addPairwiseBilateral(
                    sxy=settings.bilateral, srgb=13, rgbim=pixels, compat=settings.bilateral_weight
                )
            found = torch.from_numpy(np.array(theirs.inference(5)).argmax(0)).view(128, 128)
            agreement = float((found == labels).float().mean())
            print(
                f"agreement with pydensecrf: {100 * agreement:.2f} % "
                f"{'full' if colours else 'position only'}"
            )
            assert agreement > 0.99


def test_real_photographs(shared_path):
    "Spoilt masks of PASCAL: both forms agree; gently chosen, a CRF helps (usual weights do not)."
    album = PASCAL.open(
        shared_path("data/VOCdevkit"),
        "all",
        lists="Segmentation",
        categories="all",
        unit="image",
        area=0.1,
        min_parts=0,
        mask="object",
    )
    compared = {}
    for size in (40, 128):
        samples = [resize(s, size) for s in album]
        images, masks = (
            torch.stack([s.image for s in samples]),
            torch.stack([s.mask for s in samples]),
        )
        maps = coarse_maps(masks.long(), 1)
        gentle = CRFSettings(
            position=1.0, position_weight=1.0, bilateral=10.0, colour=10 / 255, bilateral_weight=4.0
        )
        answers = {
            "before": maps,
            "as usual": refine(maps, images, CRFSettings().at(size)),
            "gentle": refine(maps, images, gentle),
        }
        if size == 40:
            exact = refine(maps, images, CRFSettings(form="exact").at(size)).argmax(1)
            assert (exact == answers["as usual"].argmax(1)).float().mean() > 0.98 and (
                exact != maps.argmax(1)
            ).float().mean() > 0.01
        compared = {
            name: float(mask_iou(argmax_labels(m, has_background=True) > 0, masks).mean())
            for name, m in answers.items()
        }
    print(
        f"{len(images)} photographs at 128 pixels, IoU: "
        + ", ".join(f"{name} {value:.1f}" for name, value in compared.items())
    )
    assert compared["gentle"] > compared["before"] + 1


def test_trivial_baselines_on_real_photographs(shared_path):
    album = PASCAL.open(
        shared_path("data/VOCdevkit"),
        "all",
        lists="Segmentation",
        categories="all",
        unit="image",
        area=0.1,
        min_parts=0,
        mask="object",
    )
    found = {name: v["iou"] for name, v in mask_baselines(album, 96).items()}
    print(found)
    assert (
        set(found) == {"everything", "centre box", "Otsu on grey"}
        and found["centre box"] > found["everything"] > 10
    )


def test_a_method_without_background_has_nothing_to_refine():
    few = View(collections["birds"].open(split="test", size=32), indices=range(8))
    method = KMeans(
        KMeansSettings(parts=3, features="position", size=32, steps=1), load_extractor("position")
    ).fit(few)
    found = CoSegmentation().evaluate(method, few, few)
    assert (
        found["iou"] == found["iou_crf"] == found["iou_everything"]
        and protocols["co-segmentation"] is CoSegmentation
    )


@pytest.mark.parametrize(
    "words",
    [
        ["speed", "--repeats", "0"],
        ["agreement", "--count", "0"],
        ["speed", "--size", "4"],
        ["agreement", "--photographs", "/nowhere"],
    ],
)
def test_benchmark_says_what_is_wrong(words, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1
