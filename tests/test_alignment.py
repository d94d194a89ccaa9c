"""Feature alignment: Algorithm 1 literal and fast, pools, the loss, training, and its guards."""

import math
import shlex
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from partbook.core import InputError, generator
from partbook.data.sample import Batch, Kept, View, collections
from partbook.evaluation.alignment_tables import (
    TITLES,
    TWIN,
    Detections,
    one_look,
    paper_table,
    ridge_error,
    rows_of,
    told,
    told_commands,
)
from partbook.evaluation.detection import LandmarkDetection, PartDetection, Together, framed
from partbook.evaluation.protocols import pictures_of
from partbook.evaluation.results import read_rows
from partbook.evaluation.tables import beside, commands, key_of, printed_number, tables, typed
from partbook.methods import alignment
from partbook.methods.alignment import (
    Alignment,
    AlignmentSettings,
    aligned_feature_map,
    averaged_map,
    coherence,
    literal_pseudo_ground_truth,
    literal_similarity,
    log_likelihood_loss,
    matched_pairs,
    part_layer,
    pseudo_ground_truth,
    similar_image_pool,
    similarity,
    spatial_transformation,
    strongest_cells,
)
from partbook.methods.dictionary import Dictionary, DictionarySettings, fit_mixture
from partbook.methods.maskreg import MaskReg, MaskRegSettings, filter_loss, part_templates
from partbook.methods.method import Step, methods
from partbook.methods.region_grouping import RegionGrouping, RegionGroupingSettings, occurrences
from partbook.parts import ransac as transformations
from partbook.training.fit import fit

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"parts": 24, "steps": 6, "pool": 4, "subset": 40, "pictures": 40}


def cars(split="train", count=40):
    return Kept(View(collections["vehicles"].open(split=split, size=64), indices=range(count)))


@pytest.fixture(scope="module")
def train():
    return cars()


@pytest.fixture(scope="module")
def trained(train):
    method = Alignment.build(AlignmentSettings(**SMALL))
    return method, fit(method, train, look=0)


# --- Algorithm 1 ------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [0, 1, 2])
@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_algorithm_1_is_the_same_fast(most, radius):
    g = generator(10 * most + radius)
    for maps in (
        torch.rand(4, 9, 6, 8, generator=g),
        torch.randint(0, 3, (4, 9, 6, 8), generator=g).float(),  # full of ties
        torch.rand(4, 3, 6, 8, generator=g),  # fewer places than cells
    ):
        one = torch.stack([literal_pseudo_ground_truth(m, most, radius) for m in maps])
        assert torch.equal(one, pseudo_ground_truth(maps, most, radius))


def test_no_channel_but_the_background_has_more_than_its_share():
    truth = pseudo_ground_truth(torch.rand(2, 5, 8, 8, generator=generator(0)), 3)
    counts = torch.stack([(truth == k).sum((1, 2)) for k in range(5)])
    assert (counts[1:] <= 3).all() and (counts[0] >= 64 - 12).all()


def test_one_image_does_not_change_another():
    maps = torch.rand(3, 9, 6, 8, generator=generator(1))
    together = pseudo_ground_truth(maps)
    assert torch.equal(together, torch.cat([pseudo_ground_truth(m[None]) for m in maps]))


@pytest.mark.parametrize("radius", [0, 1, 2])
def test_algorithm_1_is_the_same_on_other_devices(monkeypatch, radius):
    monkeypatch.setattr(alignment, "free_to_ask", lambda device: False)
    g = generator(radius)
    for maps in (
        torch.rand(4, 9, 6, 8, generator=g),
        torch.randint(0, 3, (4, 9, 6, 8), generator=g).float(),  # full of ties
        torch.rand(4, 3, 6, 8, generator=g),  # fewer places than cells
        torch.rand(1, 2, 12, 12, generator=g),  # many rounds
    ):
        for most in (1, 2, 3, 7):
            one = torch.stack([literal_pseudo_ground_truth(m, most, radius) for m in maps])
            assert torch.equal(one, pseudo_ground_truth(maps, most, radius))


class Waits(TorchDispatchMode):
    "Counts what a program on another device would have to wait for."

    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        self.number += any(word in name for word in ("_local_scalar_dense", "nonzero", "unique"))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "change,most",
    [({}, 1), ({"suppress": 1}, 2), ({"pairs": "all", "transform": "affine"}, 1)],
)
def test_a_step_does_not_wait_for_the_device(monkeypatch, train, change, most):
    method = Alignment.build(AlignmentSettings(**SMALL, **change))
    method.prepare(train)
    method.attend(train)
    batch = train.batch([0, 1, 2, 3])
    here = method.losses(batch, Step(1))["L"]
    for module in (alignment, transformations):
        monkeypatch.setattr(module, "free_to_ask", lambda device: False)
    with Waits() as waits:
        there = method.losses(batch, Step(1))["L"]
        there.backward()
    assert waits.number <= most  # Algorithm 1 asks every eighth round
    assert there.item() == pytest.approx(here.item(), rel=1e-5)


def test_all_pairs_at_once_diverge_as_one_by_one():
    O = (4 * torch.randn(6, 7, 3, 3, generator=generator(0))).softmax(1)
    assert torch.equal(similarity(O, O), torch.cat([similarity(o[None], O) for o in O]))


# --- similar images and the loss --------------------------------------------------------------


def test_divergence_is_a_symmetric_distance_up_to_log_2():
    O = (4 * torch.randn(5, 7, 3, 3, generator=generator(0))).softmax(1)
    s = similarity(O, O)
    assert torch.allclose(s, s.T, atol=1e-6) and s.max() <= math.log(2)
    assert s.diagonal().abs().max() < 1e-6
    assert s[1, 3].item() == pytest.approx(literal_similarity(O[1], O[3]).item(), abs=1e-6)


def test_a_pool_never_holds_the_image_itself():
    s = torch.rand(6, 6, generator=generator(0)).fill_diagonal_(-1)
    pool = similar_image_pool(s, torch.arange(6), 3)
    assert (pool != torch.arange(6)[:, None]).all()
    assert torch.equal(pool[:, 0], s.fill_diagonal_(9).argmin(1))
    with pytest.raises(InputError, match="smaller pool"):
        similar_image_pool(s, torch.arange(6), 6)


def test_the_loss_is_torchs_and_its_gradient_reaches_all_images():
    kernels = torch.randn(5, 6, generator=generator(0))
    f = torch.randn(1, 3, 6, 4, 4, generator=generator(1)).requires_grad_()
    O = part_layer(f.flatten(0, 1), kernels, 5.0).unflatten(0, (1, 3))
    covered = torch.ones(1, 2, 1, 4, 4)
    highest = O[:, 1:].detach().amax((3, 4), keepdim=True)
    loss, truth = coherence(O[:, 0], O[:, 1:], covered, highest)
    reference = F.nll_loss(O.mean(1).log(), truth)
    assert loss.item() == pytest.approx(reference.item(), rel=1e-5)
    loss.backward()
    assert (f.grad.flatten(2).norm(dim=2) > 0).all()


def test_the_training_image_alone_where_asked():
    O = torch.rand(1, 3, 5, 4, 4, generator=generator(0)).softmax(2)
    highest = O[:, 1:].amax((3, 4), keepdim=True)
    covered = torch.ones(1, 2, 1, 4, 4)
    loss, truth = coherence(O[:, 0], O[:, 1:], covered, highest, own=True)
    assert loss.item() == pytest.approx(F.nll_loss(O[:, 0].log(), truth).item(), rel=1e-5)


def test_cells_that_nobody_covers_do_not_count():
    maps = torch.stack([torch.full((1, 2, 2, 2), 0.4), torch.zeros(1, 2, 2, 2)], 1)
    covered = torch.stack([torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)], 1)
    assert averaged_map(maps, covered).unique().item() == pytest.approx(0.4)
    assert averaged_map(maps, covered, "zeros").unique().item() == pytest.approx(0.2)


def test_the_background_can_weigh_less():
    mean = torch.tensor([0.5, 0.5]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    truth = torch.tensor([[[0, 1]]])
    mean = torch.cat([mean[..., :1] * torch.tensor([0.2, 1.8]).view(1, 2, 1, 1), mean[..., 1:]], 3)
    bare = log_likelihood_loss(mean, truth, ground=0.0)
    assert bare.item() == pytest.approx(-math.log(0.5))


@pytest.mark.parametrize("times", [2, 4, 8])
@pytest.mark.parametrize("sides", [(1, 1), (1, 9), (7, 12), (20, 20)])
def test_the_strongest_cell_needs_no_enlarged_map(sides, times):
    maps = torch.rand(10, 12, *sides, generator=generator(5)).mul(9).softmax(1)
    large = F.interpolate(maps, scale_factor=times, mode="bilinear", align_corners=False)
    sizes = torch.tensor([large.shape[3], large.shape[2]])
    x, y = (strongest_cells(maps, times) * sizes).long().unbind(-1)
    found = large.flatten(2).gather(2, (y * sizes[0] + x)[..., None])[..., 0]
    torch.testing.assert_close(found, large.amax((2, 3)), rtol=1e-6, atol=0)


def test_the_first_of_equal_cells_is_the_strongest():
    assert (strongest_cells(torch.ones(1, 1, 5, 8)) == torch.tensor([0.5 / 32, 0.5 / 20])).all()


def test_identity_movement_changes_no_map():
    O = torch.rand(2, 5, 6, 7, generator=generator(0))
    moved, covered = aligned_feature_map(O, torch.eye(3).expand(2, 3, 3), (6, 7))
    assert torch.allclose(moved, O, atol=1e-5) and torch.allclose(covered, torch.ones(2, 1, 6, 7))


def test_all_pairs_are_those_above_the_threshold():
    c = torch.rand(2, 12, 12, generator=generator(0))
    m = matched_pairs(c, (3, 4), (3, 4), 0.7, "all", generator(0))
    assert torch.equal(m.count, (c > 0.7).sum((1, 2)))
    few = matched_pairs(c, (3, 4), (3, 4), 0.7, "all", generator(0), most=5)
    assert few.count.tolist() == [5, 5]


# --- the method -------------------------------------------------------------------------------


def test_it_starts_from_the_dictionary(train):
    s = AlignmentSettings(**SMALL)
    method = Alignment.build(s)
    method.prepare(train)
    words = Dictionary.build(s.dictionary()).fit(train)
    assert torch.equal(method.kernels[1:], words.centres)
    images = train.batch([0, 1]).images
    assert torch.allclose(method.logits(images)[:, 1:], words.logits(images), atol=1e-4)


def test_training_makes_the_pool_agree(trained):
    method, log = trained
    assert log.rows[-1]["L"] < log.rows[0]["L"]
    assert not torch.equal(method.kernels, method.seen)


def test_a_run_taken_up_again_ends_the_same(train, trained, tmp_path):
    method, _ = trained

    class Killed(Exception):
        pass

    def kill(step, *_):
        if step == 3:
            raise Killed

    again = Alignment.build(AlignmentSettings(**SMALL))
    with pytest.raises(Killed):
        fit(again, train, tmp_path, every=2, look=0, watch=kill)
    again = Alignment.build(AlignmentSettings(**SMALL))
    fit(again, train, tmp_path, every=2, look=0, resume=True)
    assert torch.equal(again.kernels, method.kernels)


def test_pools_are_sought_again_where_asked(train):
    method = Alignment.build(AlignmentSettings(**SMALL, renew=3))
    fit(method, train, look=0)
    first = Alignment.build(AlignmentSettings(**SMALL))
    first.prepare(train)
    assert not torch.equal(method.seen, first.seen)
    assert torch.equal(method.around.kernels, method.seen)


def test_training_stops_where_all_is_background(train):
    s = AlignmentSettings(**(SMALL | {"steps": 60, "parts": 96}), stop_at=0.01)
    log = fit(Alignment.build(s), train, look=0)
    assert len(log.rows) == 10


def test_background_that_is_forced_stops_no_training(train):
    s = AlignmentSettings(**(SMALL | {"steps": 20, "parts": 4}), stop_at=0.9)
    method = Alignment.build(s)
    log = fit(method, train, look=0)
    assert method.forced == 1 - 3 * 4 / 256 <= float(method.background)
    assert len(log.rows) == 20 and method.halted() is None
    method.background.fill_(1.0)
    assert "all parts are dying" in method.halted()


@pytest.mark.parametrize("name", ["maskreg", "region-grouping"])
def test_too_few_classes_are_named_before_the_first_step(name, train):
    cls = methods[name]
    few = cls.Settings(parts=4, steps=1, labels="categories", classes=2)
    with pytest.raises(InputError, match="6 categories, and classes is 2; give --set classes=6"):
        cls.build(few).prepare(train)


def test_small_maps_have_occurrences():
    q = torch.rand(2, 3, 4, 4, generator=generator(0)).softmax(1)
    found = occurrences(q)
    assert found.shape == (2, 3) and (found <= q.amax((2, 3)) + 1e-6).all()


def test_losses_need_the_pictures():
    method = Alignment.build(AlignmentSettings(**SMALL))
    with pytest.raises(InputError, match="attend"):
        method.losses(Batch(images=torch.rand(1, 3, 64, 64), names=["a"]), Step(0))


@pytest.mark.parametrize(
    "change",
    [
        {"pairs": "some"},
        {"transform": "bend"},
        {"pool": 0},
        {"kappa": 0.0},
        {"stop_at": 0.0},
        {"suppress": -1},
        {"lr_decay": -0.1},
    ],
)
def test_settings_that_mean_nothing(change):
    with pytest.raises(InputError):
        AlignmentSettings(**change)


def test_the_papers_configuration():
    s = AlignmentSettings.published()
    assert (s.parts, s.features, s.layers, s.pool, s.lr) == (512, "vgg16", ("pool4",), 15, 5e-3)
    assert (s.transform, s.pairs, s.threshold, s.lr_decay) == ("affine", "all", 0.6, 0.1)


# --- its company ------------------------------------------------------------------------------


def test_a_mixture_needs_enough_descriptors():
    with pytest.raises(InputError, match="fewer parts"):
        fit_mixture(F.normalize(torch.randn(5, 3), dim=1), 6, generator(0))
    with pytest.raises(InputError, match="different"):
        fit_mixture(torch.tensor([[1.0, 0.0]]).expand(9, 2), 3, generator(0))


def test_words_are_the_same_for_one_seed(train):
    one, two = (Dictionary.build(DictionarySettings(parts=12)).fit(train) for _ in range(2))
    assert torch.equal(one.centres, two.centres)
    assert torch.allclose(one.centres.norm(dim=1), torch.ones(12), atol=1e-5)


def test_a_dictionary_may_have_more_words_than_labels():
    assert DictionarySettings(parts=512).parts == 512
    with pytest.raises(InputError, match="4096"):
        DictionarySettings(parts=5000)


@pytest.mark.parametrize(
    "cls,settings",
    [
        (MaskReg, MaskRegSettings(parts=8, steps=8)),
        (RegionGrouping, RegionGroupingSettings(parts=4, steps=8)),
    ],
)
def test_methods_with_labels_learn(cls, settings, train):
    log = fit(cls.build(settings), train, look=0)
    terms = {k for k in log.rows[0] if k.startswith("L_")}
    assert len(terms) == 2 and all(math.isfinite(r["L"]) for r in log.rows)


def test_categories_where_they_are_asked_for(train):
    settings = RegionGroupingSettings(labels="categories", classes=6, steps=2)
    fit(RegionGrouping.build(settings), train, look=0)
    method = MaskReg.build(MaskRegSettings(parts=4, labels="categories"))
    with pytest.raises(InputError, match="no categories"):
        method.losses(Batch(images=torch.rand(2, 3, 64, 64), names=["a", "b"]), Step(0))


def test_filter_loss_is_lowest_for_one_moving_peak():
    peaks = torch.zeros(6, 1, 6, 6)
    peaks[range(6), 0, range(6), range(6)] = 300.0
    low = filter_loss(peaks, part_templates(6))
    still = torch.zeros(6, 1, 6, 6)
    still[:, 0, 2, 2] = 300.0
    assert low < filter_loss(peaks / 10, part_templates(6)) < filter_loss(still, part_templates(6))
    assert -math.log(6) <= low.item() < 0  # mutual information is at most the entropy of images


# --- pictures of detections, and one look for all protocols -----------------------------------


def test_one_look_finds_what_each_protocol_finds_alone(train, trained):
    method, test = trained[0], cars("test", 24)
    protocol = Detections()
    found = protocol.evaluate(method, train, test)
    alone = {
        n: k.measure(k.detector(method), train, test, 64) for n, k in protocol.kinds(test).items()
    }
    assert found == {n: f.mean for n, f in alone.items()} | {
        "landmark_error": ridge_error(method, train, test)
    }


def test_one_look_names_channels_on_some_pictures_and_fits_landmarks_on_others(trained):
    method, many, test = trained[0], cars("train", 72), cars("test", 16)
    kind = LandmarkDetection(foreground=False, pictures=24)  # every third
    found, error = one_look({"map_l2": kind}, method, many, test, batch_size=8, pictures=48)
    alone = kind.measure(kind.detector(method), many, test, 64, batch_size=8)
    assert (
        torch.equal(alone.channel, found["map_l2"].channel) and alone.mean == found["map_l2"].mean
    )
    assert error == pytest.approx(ridge_error(method, many, test, pictures=48), rel=0.02)


def test_peaks_are_shared_only_where_they_are_the_same(train):
    batch, frame = next(framed(train, 64, 8))
    maps = torch.rand(8, 5, 8, 8, generator=generator(0))
    kinds = {
        "few": PartDetection(most=2),
        "boxes": PartDetection(most=4),
        "wide": PartDetection(side=60.0, most=2),
        "point": LandmarkDetection(),
        "smooth": LandmarkDetection(window=0.5),
        "points": LandmarkDetection(most=2),
    }
    together = Together(kinds, train)
    together.update(maps, batch, frame)
    for name, kind in kinds.items():
        scores, hits = together.kept[name].collected()
        own, points = kind.peaks(maps, frame)
        assert torch.equal(scores, own.movedim(1, 0).flatten(1))
        right = kind.match(points, batch, frame, train)[0]
        assert torch.equal(hits, right.movedim(1, 0).flatten(1, 2))


def test_a_protocol_draws_what_it_found_without_measuring_again(train, trained, monkeypatch):
    method, test = trained[0], cars("test", 16)
    protocol = PartDetection(foreground=False)
    protocol.evaluate(method, train, test)
    monkeypatch.setattr(PartDetection, "measure", None)
    sheet = protocol.picture(method, train, test)
    names = [text.get_text() for text in sheet.legends[0].get_texts()]
    assert len(names) == 4 + 2 and names[-2:] == ["right", "wrong"]


def test_pictures_of_protocols_have_names_of_their_own():
    named = pictures_of(["census", "part-detection", "landmark-detection"])
    assert named == {
        "part-detection": "detections.png",
        "landmark-detection": "detections-landmark-detection.png",
    }


def test_detections_are_drawn_from_the_command_line(tmp_path, capsys):
    from partbook.cli import main

    small = ["--limit", "12", "--parts", "8", "--protocol", "part-detection", "--no-baselines"]
    out, record = tmp_path / "run", tmp_path / "found.json"
    words = ["discover", "--method", "dictionary", "--data", "vehicles", *small, "--out", str(out)]
    assert main([*words, "--dry-run"]) == 0 and not out.exists()
    assert "detections.png (new)" in capsys.readouterr().out
    assert main(words) == 0
    said = capsys.readouterr().out
    assert f"Picture of part-detection: {out / 'detections.png'}" in said
    assert (out / "detections.png").stat().st_size > 10_000
    again = ["evaluate", str(out), "--protocol", "part-detection", "--limit", "12"]
    again += ["--out", str(record)]
    (tmp_path / "found-detections.png").write_bytes(b"mine")
    assert main(again) == 2 and not record.exists()
    (tmp_path / "found-detections.png").unlink()
    assert main(again) == 0 and "found-detections.png" in capsys.readouterr().out
    assert main([*again[:-1], str(tmp_path)]) == 0
    made = {"evaluation.json", "evaluation-detections.png", "found.json", "found-detections.png"}
    assert {p.name for p in tmp_path.iterdir()} == made | {"run"}


def test_mafls_line_learns_from_fewer_pictures_and_other_faces_are_those_of_the_paper():
    rows = {(e.printed, e.column): e for e in tables["alignment-8"]().entries}
    real = {key: typed(e, 0, "CelebA", "paper") for key, e in rows.items()}
    for (name, column), words in real.items():
        assert ("--option=leave_out=rest" in words) == (name == "MAFL")
        assert ("--option=min_face=0.0" in words) == (column == "unalign")
    twins = {key_of(typed(e)) for e in rows.values()}
    assert len(twins) == 4


# --- tables -----------------------------------------------------------------------------------


def test_every_row_has_its_printed_number_and_a_command_that_parses():
    from partbook.cli import build_parser

    published = read_rows(ROOT / "results" / "published.csv")
    made = [paper_table(number) for number in TITLES]
    pairs = [(e, t) for t in made for e in t.entries if not e.trivial]
    assert [e for e, t in pairs if printed_number(e, t, published) is None] == []
    assert {e.method for e, _ in pairs} <= set(methods.names())
    for table in made:
        real = commands(table, [1], root="FOLDER", budget="paper")
        for line in commands(table, [0]) + real:
            build_parser().parse_args(shlex.split(line)[1:])


def test_rows_with_labels_say_so_and_are_not_mixed_with_the_others():
    run = {"method": "maskreg", "collection": "vehicles", "option.categories": "bus"}
    with_labels = run | {"settings.labels": "categories", "settings.classes": 6}
    assert told(with_labels) and not told(run | {"settings.labels": "pretext"})
    assert not told(with_labels | {"option.categories": "all"})
    lines = told_commands()
    assert len(lines) == 1 + 6 and "--option=categories=all" in lines[0]
    assert all(line.startswith("partbook evaluate") for line in lines[1:])
    (bare,) = [e for e in paper_table(1).entries if (e.method, e.column) == ("maskreg", "bus")]
    assert "labels" not in bare.change and key_of(lines[0]) != key_of(typed(bare))


def test_aligned_faces_are_another_column():
    made = paper_table(2)
    plain, aligned = [
        next(e for e in made.entries if (e.printed, e.column) == ("Clustering", column))
        for column in ("unalign", "align")
    ]
    for entry in (plain, aligned):
        run = {"command": shlex.join(["partbook", *typed(entry)]), "map_l2": 1.0}
        lines = beside(made, [run], [])
        assert list(lines.loc[lines["runs"] > 0, "column"]) == [entry.column]


@pytest.mark.parametrize("data,classes", [("faces", 250), ("birds", 8)])
def test_labels_of_region_grouping_fit_the_drawn_collection(data, classes):
    assert (
        int(collections[data].open(split="train", size=16).batch(range(400)).categories.max())
        < classes
    )
    rows = [r for r in rows_of() if r.method == "region-grouping" and TWIN[r.data] == data]
    assert {r.change["classes"] for r in rows} == {classes}


def test_averages_of_the_printed_tables():
    published = read_rows(ROOT / "results" / "published.csv")
    off = {}
    for table in (1, 7):
        for line in (r for r in published if r["source"] == f"alignment, Table {table}"):
            kinds = [float(line[k]) for k in {r.column for r in rows_of(table)}]
            off[line["method"]] = abs(sum(kinds) / 6 - float(line["average"]))
    wrong = {name for name, value in off.items() if value > 0.1}
    assert wrong == {"Clustering"}  # printed as 29.7; its six numbers give 30.3


# --- networks that learned without labels -----------------------------------------------------


def test_deepclusters_file_in_its_own_layout(tmp_path):
    import torchvision

    from partbook.features.extractor import load_extractor
    from partbook.features.selfsupervised import sobel

    torch.manual_seed(0)
    plain = torchvision.models.vgg16_bn(weights=None).features.eval()
    plain[0] = torch.nn.Conv2d(2, 64, 3, padding=1)
    tensors = {f"features.module.{k}": v for k, v in plain.state_dict().items()}
    tensors |= {"classifier.1.weight": torch.zeros(2, 2), "top_layer.weight": torch.zeros(3, 2)}
    tensors |= {"sobel.0.weight": torch.zeros(1, 3, 1, 1)}
    torch.save({"epoch": 1, "arch": "vgg16", "state_dict": tensors}, tmp_path / "deep.pth")
    loaded = load_extractor("deepcluster", tmp_path / "deep.pth", ("relu3_3",), "cpu")
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(loaded(images), plain[:23](sobel(images)), atol=1e-4)
    assert (loaded.dim, loaded.stride) == (256, 4)


def test_self_supervised_networks_say_what_they_need():
    from partbook.features.extractor import load_extractor

    with pytest.raises(InputError, match="authors"):
        load_extractor("swav")
    with pytest.raises(InputError, match="no layer"):
        load_extractor("swav", "random", ("layer9",))


def test_maps_that_only_moved_are_moved_back():
    O = (3 * torch.randn(1, 40, 12, 12, generator=generator(0))).softmax(1)
    shifted = O.roll((2, -3), (2, 3))  # two cells down, three to the left
    aligned, covered, found = spatial_transformation(O[0], shifted, "translation", 0.3)
    assert found.kind == ["translation"]
    assert torch.allclose(aligned[0, :, :10, 3:], O[0, :, :10, 3:], atol=1e-3)
    assert covered[0, 0, :10, 3:].min() > 0.99
