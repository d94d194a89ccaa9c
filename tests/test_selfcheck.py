"The self-check: known answers on label maps made by hand, drawn collections, real photographs."

import json

import pytest
import torch
from sklearn.metrics import cohen_kappa_score

import partbook as pb
from partbook.cli import main
from partbook.core import InputError, generator
from partbook.data.folder import WHOLE
from partbook.data.sample import Collection, Kept, Sample, View, collections
from partbook.evaluation.selfcheck import (
    GRID,
    SHIFT,
    VIEW,
    Reservoir,
    Setup,
    Tally,
    distances,
    from_median,
    judged,
    kappa,
    pair_counts,
    place_agreement,
    place_table,
    same_content,
    selfcheck,
    take_tally,
    windows,
)
from partbook.features.extractor import load_extractor
from partbook.methods.kmeans import KMeans, KMeansSettings
from partbook.methods.method import Method, Settings
from partbook.parts.plots import write_picture

SETUP = Setup("kmeans", "lite0", 4, background=True, foreground="clusters")


class Noise(Collection):
    "Pictures of 64 pixels with four smooth colours that lie somewhere else on each."

    foreground = WHOLE

    def __init__(self, count, seed=0):
        self.count = count
        self.seed = seed

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        coarse = torch.rand(1, 3, 5, 5, generator=generator(1000 * self.seed + i))
        image = torch.nn.functional.interpolate(coarse, (64, 64), mode="bilinear")[0]
        return Sample(image, name=f"{i}.jpg")


class Painter(Method):
    "Four parts, by a function of the pictures; `background`: nothing where they are dark."

    registered_name = "painter"

    def __init__(self, scores, background=False):
        super().__init__(Settings(parts=4, size=64))
        self.scores = scores
        self.has_background = background

    def logits(self, images):
        return self.scores(images)


def quadrants(images):
    "The same four quadrants on every picture."
    one = torch.tensor([[0, 1], [2, 3]]).repeat_interleave(32, 0).repeat_interleave(32, 1)
    return 9 * torch.nn.functional.one_hot(one, 4).movedim(-1, 0).float().expand(
        len(images), 4, 64, 64
    )


def colours(images):
    "Two bits: whether red and whether green are strong."
    red, green = ((images[:, c] > 0.5).long() for c in (0, 1))
    return 9 * torch.nn.functional.one_hot(2 * red + green, 4).movedim(-1, 1).float()


def test_a_painter_of_quadrants_keeps_to_the_frame():
    found = selfcheck(Painter(quadrants), Noise(20))
    numbers = found.numbers
    assert numbers["agreement"] == 1 and numbers["stay"] == 1
    assert numbers["agreement_chance"] == 0.25 and numbers["follow"] < 0.2
    position = found.findings[0]
    assert position.severity == "trouble" and "100 %" in position.sentence


def test_labels_by_colour_follow_the_picture():
    found = selfcheck(Painter(colours), Noise(20))
    numbers = found.numbers
    assert numbers["follow"] > 0.8 and numbers["follow"] > numbers["stay"] + 0.5
    assert abs(numbers["place"]) < 0.1
    assert found.findings[0].severity == "good"


def test_random_labels_agree_by_chance():
    labels = torch.randint(0, 5, (30, GRID, GRID), generator=generator(0))
    assert abs(place_agreement(place_table(labels, 4)) - 0.2) < 0.01
    pairs = pair_counts(labels[:15], labels[15:], 4)
    assert abs(kappa(pairs)) < 0.02


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_agreement_is_the_game_with_one_photograph_hidden(count):
    labels = torch.randint(0, 4, (count, 7, 7), generator=generator(count))
    points = 0.0
    for i, hidden in enumerate(labels):
        others = torch.cat([labels[:i], labels[i + 1 :]])
        counts = torch.stack([(others == k).sum(0) for k in range(4)])
        best = counts == counts.amax(0)
        points += float((best.gather(0, hidden[None])[0] / best.sum(0)).sum())
    ours = place_agreement(place_table(labels, 3))
    assert ours == pytest.approx(points / labels.numel())


def test_kappa_is_cohens():
    one, other = torch.randint(0, 3, (2, 4, 9, 9), generator=generator(1))
    other = torch.where(torch.rand(one.shape, generator=generator(2)) < 0.4, one, other)
    theirs = cohen_kappa_score(one.flatten(), other.flatten())
    assert kappa(pair_counts(one, other, 2)) == pytest.approx(theirs)
    assert kappa(torch.tensor([[9, 0], [0, 0]])) == 0
    assert kappa(torch.zeros(3, 3)) == 0


def test_windows_show_the_same_cells():
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    images = torch.stack([x, y, x + y])[None] / 256
    cells = [torch.nn.functional.adaptive_avg_pool2d(w, (VIEW, VIEW)) for w in windows(images)]
    first, second = same_content(cells[0].squeeze(0), cells[1].squeeze(0))
    assert torch.allclose(first, second, atol=2e-2)
    assert not torch.allclose(cells[0], cells[1], atol=0.1)
    assert first.shape[-1] == VIEW - SHIFT


def test_a_reservoir_is_bounded_and_fair():
    kept = Reservoir(50)
    for i in range(5000):
        kept.add(i)
    assert len(kept.items) == len(set(kept.items)) == 50 and kept.seen == 5000
    assert 1800 < sum(kept.items) / 50 < 3200


def numbers_held(tally):
    "How many numbers and names a tally remembers."
    tensors = (tally.table, tally.follow, tally.stay, tally.census.pixels, tally.census.pictures)
    vectors = sum(vector.numel() for _, _, vector in tally.kept.items)
    return sum(t.numel() for t in tensors) + vectors + sum(map(len, tally.names.values()))


def test_memory_does_not_grow_with_the_photographs():
    method = Painter(quadrants)
    few, many = (take_tally(method, Noise(n), sample=20) for n in (40, 200))
    assert many.census.seen == 200 and numbers_held(few) == numbers_held(many)
    assert many.counts["full"] == 200 and len(many.names["full"]) == 20


def test_batches_do_not_matter():
    method = Painter(colours)
    one, other = (selfcheck(method, Noise(18), batch_size=n).record() for n in (4, 18))
    assert one == other


def test_few_photographs_are_enough_to_say_something():
    found = selfcheck(Painter(quadrants), Noise(1))
    assert found.findings[0].severity == "trouble" and found.names["unlike"] == []
    with pytest.raises(InputError, match="needs photographs"):
        selfcheck(Painter(quadrants), Noise(0))


def test_deviations_are_counted_from_the_median():
    z = from_median(torch.tensor([1.0, 2.0, 3.0, 4.0, 50.0]))
    assert z[2] == 0 and z[4] == pytest.approx(47 / 1.4826)
    assert from_median(torch.ones(5)).tolist() == [0] * 5
    away = distances(torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]]))
    assert away.tolist() == [0, 0, 5]


def told(labels, described=None, setup=SETUP, K=4):
    "What is found in label maps, without windows."
    tally = Tally(K)
    names = [f"{i}.jpg" for i in range(len(labels))]
    tally.add(labels, None, names)
    tally.keep(labels, described, names)
    return judged(tally, setup)


def field(count=12, part=1):
    "Label maps with an even field of three parts, and background around it."
    labels = torch.zeros(count, GRID, GRID, dtype=torch.int64)
    for k in range(4):
        labels[:, 8 + 4 * k : 12 + 4 * k, 8:24] = k + 1
    return labels


def of(found, check):
    return [f for f in found.findings if f.check == check and f.severity != "good"]


def test_even_parts_on_every_photograph_are_no_finding():
    found = told(field())
    assert not of(found, "parts") and not of(found, "foreground") and not of(found, "photographs")


def test_parts_that_are_missing_tiny_or_everything_are_named():
    missing = field()
    missing[missing == 3] = 0
    (finding,) = of(told(missing), "parts")
    assert "Part 3 is on almost no photograph" in finding.sentence and finding.next == "--parts 3"
    tiny = field()
    tiny[tiny == 2] = 1
    tiny[:, 12, 8:10] = 2
    assert any("Part 2 covers only" in f.sentence for f in of(told(tiny), "parts"))
    one = field()
    one[one > 0] = 4
    one[:, 8, 8:12] = 1
    worst = of(told(one), "parts")[0]
    assert worst.severity == "trouble" and worst.sentence.startswith("Part 4 has 98 %")
    assert worst.next == "--method dff"


def test_photographs_without_or_full_of_parts_are_named():
    labels = field()
    labels[:3] = 0
    labels[5:8] = labels[5:8].clamp(min=1)
    findings = of(told(labels), "foreground")
    said = " ".join(f.sentence for f in findings)
    assert "Nothing is painted on 3 of 12 photographs (0.jpg, 1.jpg, 2.jpg)" in said
    assert "All is painted on 3 of 12" in said
    assert {f.next for f in findings} == {"--foreground component"}


def test_a_method_that_paints_everything_is_told_so():
    setup = Setup("kmeans", "lite0", 4, background=False)
    (finding,) = of(told(field().clamp(min=1), setup=setup), "foreground")
    assert "whole of almost every photograph" in finding.sentence
    assert finding.next == "--foreground clusters"


def test_a_stranger_is_named():
    described = torch.randn(12, 6, generator=generator(3))
    described[4] += 40
    found = told(field(), described)
    (finding,) = of(found, "photographs")
    assert found.names["unlike"] == ["4.jpg"] and finding.sentence.startswith("4.jpg is unlike")
    assert not of(told(field(), torch.randn(12, 6, generator=generator(3))), "photographs")


def test_advice_fits_the_model():
    assert Setup("kmeans", "equivariant", 6, False).stronger() == "--features lite0"
    assert Setup("kmeans", "lite0", 6, False).stronger() == "--foreground clusters"
    assert Setup("kmeans", "lite0", 6, True).stronger() == "--method dff"
    assert Setup("kmeans", "lite0", 6, True, "clusters").outline() == "--foreground component"
    assert Setup("kmeans", "lite0", 6, True).fewer(1) == "--parts 2"


def test_a_record_is_plain_json():
    for method in (Painter(quadrants), Painter(colours)):
        record = selfcheck(method, Noise(9)).record()
        assert json.loads(json.dumps(record, allow_nan=False)) == record


# drawn collections -------------------------------------------------------------------------------


def clustered(features, name, count=40):
    "A model and the drawn pictures it learned from."
    pictures = Kept(View(collections[name].open(split="train", size=64), indices=range(count)))
    settings = KMeansSettings(parts=6, size=64, features=features)
    return KMeans(settings, load_extractor(features)).fit(pictures), pictures


@pytest.mark.parametrize("name", ["birds", "faces", "vehicles", "figures"])
def test_places_are_told_from_parts_on_drawings(name):
    position = selfcheck(*clustered("position", name))
    assert position.findings[0].severity == "trouble" and position.numbers["stay"] == 1


def test_the_descriptor_knows_the_birds_that_it_has_seen():
    birds = selfcheck(*clustered("equivariant", "birds"))
    assert birds.numbers["follow"] > birds.numbers["stay"] + 0.1
    assert birds.findings[0].severity == "good"
    assert selfcheck(*clustered("equivariant", "faces")).findings[0].severity == "trouble"


# the command -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    "A folder of ten pictures."
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(10):
        write_picture(folder / f"{i}.png", (Noise(10)[i].image * 255).byte())
    return folder


@pytest.fixture(scope="module")
def trained(photographs, tmp_path_factory):
    "A run on that folder that paints the frame."
    out = tmp_path_factory.mktemp("run") / "out"
    lines = []
    run = pb.discover(
        photographs,
        features="position",
        foreground="none",
        size=64,
        parts=4,
        out=str(out),
        say=lines.append,
    )
    return run, out, lines


def test_a_run_on_photographs_speaks_by_itself(trained):
    run, out, lines = trained
    assert any("places in the frame" in line for line in lines)
    kept = json.loads((out / "metrics.json").read_text())["self_check"]
    assert kept["severity"] == "trouble" and kept == run.self_check
    assert pb.load(out).self_check == kept


def test_a_drawn_collection_has_scores_and_is_not_asked():
    lines = []
    run = pb.discover("birds", limit=8, baselines=False, say=lines.append)
    assert run.self_check is None and not any("painted" in line for line in lines)


def test_check_prints_and_writes(trained, photographs, tmp_path, capsys):
    _, out, _ = trained
    words = ["check", str(out / "model"), str(photographs)]
    report = tmp_path / "check.json"
    table = tmp_path / "rows.csv"
    assert main([*words, "--dry-run", "--out", str(report)]) == 0
    assert "Nothing was written" in capsys.readouterr().out and not report.exists()
    assert main([*words, "--out", str(report), "--record", str(table)]) == 0
    assert capsys.readouterr().out.startswith("trouble: ")
    written = json.loads(report.read_text())
    assert written["severity"] == "trouble" and written["method"] == "kmeans"
    assert table.read_text().count("\n") == 2
    assert pb.check(out, photographs, limit=5).photographs == 5


@pytest.mark.parametrize("what", ["model", "photographs", "report"])
def test_check_refuses_in_one_sentence(what, trained, photographs, tmp_path, capsys):
    _, out, _ = trained
    model, folder, report = str(out / "model"), str(photographs), str(tmp_path / "check.json")
    if what == "model":
        model = str(tmp_path / "none")
    elif what == "photographs":
        folder = str(tmp_path / "none")
    else:
        (tmp_path / "check.json").write_text('{"my": "own"}')
    assert main(["check", model, folder, "--out", report]) == 2
    error = capsys.readouterr().err
    assert error.startswith("partbook: ") and error.count("\n") == 1
    if what == "report":
        assert json.loads((tmp_path / "check.json").read_text()) == {"my": "own"}


# real photographs --------------------------------------------------------------------------------

quiet = lambda sentence="": None
FOLDERS = {
    "raccoons": "data/photos/raccoons",
    "cats": "data/photos/cats",
    "cars": "data/car_parts/JPEGImages",
    "faces": "data/celeba_aligned_half/img_align_celeba",
}


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_drawn_birds_descriptor_is_seen_through(folder, shared_path):
    place = shared_path(FOLDERS[folder])
    options = {"features": "equivariant", "foreground": "none", "limit": 24, "say": quiet}
    run = pb.discover(place, **options)
    assert run.self_check["findings"][0]["severity"] == "trouble"
    assert run.self_check["numbers"]["follow"] < 0.15 < run.self_check["numbers"]["stay"]
    elsewhere = pb.check(run, shared_path(FOLDERS["cars"]), limit=24, say=quiet)
    assert elsewhere.findings[0].severity == "trouble"


@pytest.mark.parametrize("folder", ["cars", "faces"])
def test_photographs_with_features_for_photographs_are_good(folder, shared_path):
    run = pb.discover(shared_path(FOLDERS[folder]), limit=24, say=quiet)
    found = run.self_check["findings"]
    assert {f["severity"] for f in found if f["check"] != "photographs"} == {"good"}
    assert run.self_check["numbers"]["follow"] > 0.35 + run.self_check["numbers"]["stay"]


def test_cats_among_cars_are_named(shared_path, tmp_path):
    cars = sorted(shared_path(FOLDERS["cars"]).iterdir())[:20]
    cats = sorted(shared_path(FOLDERS["cats"]).iterdir())[5:7]
    for path in (*cars, *cats):
        (tmp_path / path.name).symlink_to(path)
    run = pb.discover(tmp_path, say=quiet)
    assert {path.name for path in cats} <= set(run.self_check["names"]["unlike"])
    assert len(run.self_check["names"]["unlike"]) <= 3
