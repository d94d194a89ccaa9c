"""Deep feature factorisation from the command line, on real photographs, and its benchmark."""

import json
from dataclasses import replace

import pytest
import torch
from helpers import run

from partbook.core import InputError
from partbook.data.sample import Batch, Kept, View, collections
from partbook.evaluation import speed as benchmarks
from partbook.evaluation.protocols import CoSegmentation, object_view
from partbook.evaluation.results import read_rows
from partbook.features.extractor import load_extractor
from partbook.features.foreground import learn_inside
from partbook.methods.dff import DFF, DFFSettings, foreground_weights, project
from partbook.methods.method import load_method, save_method
from partbook.readers.cub import CUB

QUICK = ["--set", "sample=600", "--set", "iterations=20", "--set", "restarts=1", "--no-baselines"]


@pytest.fixture
def few_birds(monkeypatch):
    monkeypatch.setattr(collections["birds"], "__len__", lambda self: 24)


def test_discover_segment_evaluate(few_birds, tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        run(
            "discover",
            "--method",
            "dff",
            "--parts",
            3,
            *QUICK,
            "--out",
            out,
            "--record",
            tmp_path / "rows.csv",
        )
        == 0
    )
    record = json.loads((out / "metrics.json").read_text())
    assert (
        record["settings"]["mean_off"] == "collection" and record["settings"]["background"] == 0.1
    )
    (row,) = read_rows(tmp_path / "rows.csv")
    assert (
        row["method"] == "dff"
        and row["settings.mean_off"] == "collection"
        and row["fg_nmi"] == record["fg_nmi"] > 1
    )
    assert (
        run("evaluate", out / "model", "--protocol", "co-segmentation", "--protocol", "pixels") == 0
    )
    said = capsys.readouterr().out
    assert "iou" in said and f"{record['fg_nmi']:.1f}" in said
    assert run("segment", out / "model", out / "parts.png", "--out", tmp_path / "labels") == 0
    assert (tmp_path / "labels" / "parts.png").exists()


WRONG = {
    "signs": (["--set", "signs=abs"], "no way 'abs' to treat signs; choose one of: auto"),
    "peak": (["--set", "peak=median"], "cannot be scaled by 'median'"),
    "background": (["--set", "background=1"], "background is 1.0; it must lie in [0,1)"),
    "negative background": (["--set", "background=-0.1"], "background is -0.1"),
    "no descriptors": (["--set", "sample=0"], "must be at least 1"),
    "no iterations": (["--set", "iterations=0"], "must be at least 1"),
    "negative passes": (["--set", "passes=-1"], "passes 0 or more"),
    "negative tolerance": (["--set", "tolerance=-0.5"], "tolerance is -0.5"),
    "no such setting": (["--set", "rank=4"], "has no such setting; it has: parts, features"),
    "steps": (["--steps", "5"], "--steps means nothing to the method 'dff'"),
    "words": (["--set", "iterations=many"], "expected a value of type int"),
    "signed features as they are": (
        ["--set", "signs=none", "--set", "sample=200"],
        "features that are not negative",
    ),
    "validate": (["--eval-every", "5"], "not trained step by step"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings_are_told_in_one_sentence(case, few_birds, tmp_path, capsys):
    words, sentence = WRONG[case]
    assert run("discover", "--method", "dff", "--out", tmp_path / "o", *words) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("partbook") and sentence in said and "Traceback" not in said


@pytest.fixture(scope="module")
def birds():
    return Kept(collections["birds"].open(split="train", size=64))


def fitted(collection, **changes):
    return DFF(
        DFFSettings(
            **{**dict(parts=3, sample=800, iterations=30, restarts=1, features="rgb"), **changes}
        ),
        load_extractor("rgb"),
    ).fit(collection)


def first(collection, count=12):
    return View(collection, indices=range(count))


def test_saved_and_loaded(birds, tmp_path):
    method = fitted(first(birds), signs="split")
    save_method(method, tmp_path / "model")
    again, _ = load_method(tmp_path / "model")
    images = birds.batch(range(2)).images
    assert torch.equal(again.part_maps(images), method.part_maps(images)) and again.has_background
    assert again.factors.shape == (3, 6)  # colours, both signs


def test_colours_need_no_signs(birds):
    method = fitted(first(birds))
    assert (
        method.settings.signs == "none"
        and method.factors.shape == (3, 3)
        and not method.offset.any()
    )


def test_a_model_of_another_kind_of_signs_does_not_load(birds, tmp_path):
    save_method(fitted(first(birds)), tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    path.write_text(path.read_text().replace('"signs": "none"', '"signs": "split"'))
    with pytest.raises(InputError, match="factors"):
        load_method(tmp_path / "model")


def test_background_is_a_setting(birds):
    images = birds.batch(range(2)).images
    without, with_ = fitted(first(birds), background=0.0), fitted(first(birds), background=0.3)
    assert (
        not without.has_background
        and without.part_maps(images).shape[1] == 3
        and without.labels(images).min() >= 1
    )
    maps = with_.part_maps(images)
    M = with_.activations(images)
    assert maps.shape[1] == 4 and torch.allclose(maps[:, 0], 0.3 / (0.3 + M.sum(1)), atol=1e-4)
    assert torch.equal(with_.labels(images) == 0, M.amax(1) < 0.3)


def test_saliency_goes_before_masks():
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[0, :2, :3] = True
    batch = Batch(
        torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)), ["x"], masks=masks
    )
    assert foreground_weights(batch, (2, 2)).tolist() == [[[1.0, 0.5], [0.0, 0.0]]]
    batch.saliency = torch.full((1, 4, 4), 0.25)
    assert foreground_weights(batch, (2, 2)).eq(0.25).all()
    batch.masks = batch.saliency = None
    assert foreground_weights(batch, (2, 2)) is None


def test_soft_saliency_weighs_descriptors(birds):
    "Twice the saliency of everything is the same factorisation with activations twice as large."
    some = first(birds)
    half, full = (
        View(some, lambda s, v=v: replace(s, saliency=torch.full(s.image.shape[1:], v)))
        for v in (0.5, 1.0)
    )
    a, b = fitted(half), fitted(full)
    assert torch.allclose(
        a.activations(birds.batch([0]).images),
        2 * b.activations(birds.batch([0]).images),
        rtol=1e-2,
        atol=1e-2,
    )


def test_masks_without_foreground(birds):
    empty = View(first(birds), lambda s: replace(s, mask=torch.zeros_like(s.mask)))
    with pytest.raises(InputError, match="No descriptor lies in the foreground"):
        fitted(empty)
    assert fitted(empty, inside=False).factors.max() > 0


def test_passes_lower_the_error(birds):
    some = first(birds, 24)
    errors = []
    for passes in (0, 3):
        method = fitted(some, sample=64, passes=passes, background=0.0)
        V = torch.cat(list(method.stream(some, "cpu")))
        errors.append(float((V - project(V, method.factors, 500) @ method.factors).norm()))
    assert errors[1] < errors[0]


def test_a_dead_factor_stays_silent(birds):
    method = fitted(first(birds))
    method.factors[1] = 0
    M = method.activations(birds.batch([0]).images)
    assert (
        M.isfinite().all()
        and not M[:, 1].any()
        and method.part_maps(birds.batch([0]).images).isfinite().all()
    )


def test_black_pictures(birds):
    method = fitted(first(birds))
    black = torch.zeros(1, 3, 64, 64)
    assert method.labels(black).eq(0).all() and method.part_maps(black).isfinite().all()


def test_on_real_birds(shared_path):
    "SqueezeNet's parts are not negative; inside the guess their union beats labelling everything."
    phi = load_extractor("squeezenet1_1", shared_path("weights/squeezenet1_1_features.safetensors"))
    view = object_view(CUB.open(shared_path("data/CUB_200_2011"), "train"), 192)
    pictures = Kept(learn_inside(Kept(first(view, min(20, len(view)))), "component", phi))
    method = DFF(
        DFFSettings(
            parts=4,
            features="squeezenet1_1",
            size=192,
            sample=3000,
            iterations=60,
            restarts=1,
            peak="picture",
        ),
        phi,
    ).fit(pictures)
    assert method.settings.signs == "none" and method.factors.shape == (4, phi.dim)
    found = CoSegmentation().evaluate(method, None, pictures)
    assert found["iou"] > found["iou_everything"]


def test_benchmark_says_what_is_wrong(capsys):
    assert benchmarks.main(["nmf", "--repeats", "0"]) == 2
    assert "the smallest found is 0" in capsys.readouterr().err
    assert benchmarks.main(["nmf", "--device", "abacus"]) == 2
    assert "device 'abacus' cannot be used" in capsys.readouterr().err
    assert benchmarks.main("nmf --vectors 2 --channels 4 --parts 3 --repeats 1".split()) == 2
    assert "only 2 descriptors" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        benchmarks.main(["dance"])
    assert "invalid choice" in capsys.readouterr().err
