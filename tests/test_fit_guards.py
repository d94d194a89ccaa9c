"""What the chapter on training claims, in the corners that its worked examples leave out."""

import io
import json
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from partbook.core import InputError
from partbook.data.sample import Kept, View, collections
from partbook.evaluation.census import Census
from partbook.evaluation.results import read_rows
from partbook.files import read_json
from partbook.methods.method import Method, Trained, TrainSettings
from partbook.training.checkpoint import changing
from partbook.training.fit import (
    Run,
    check_run,
    fit,
    live_parts,
    make_optimiser,
    one_pass,
    pictures_of_step,
    poly,
    validate,
)
from partbook.training.log import Log, columns_of, read_log
from partbook.training.look import Lookout, advice, undisturbed


class Tiny(Trained):
    "K parts by brightness, learned."

    registered_name = "tiny"

    def __init__(self, settings):
        super().__init__(settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.layer = nn.Conv2d(3, settings.parts, 1)

    def logits(self, images):
        return self.layer(images)

    def losses(self, batch, step):
        stream = step.stream("noise", batch.images.device)
        everyone = len(batch) * step.world
        noise = step.mine(torch.rand(everyone, 1, 1, 1, generator=stream), len(batch))
        order = batch.images.mean(1).flatten(1).argsort(1).argsort(1)
        order = order.view(-1, *batch.images.shape[-2:])
        target = order * self.parts // order[0].numel()
        return {"L_t": nn.functional.cross_entropy(self.logits(batch.images + 0.1 * noise), target)}


class Grouped(Tiny):
    registered_name = "grouped"
    groups = {"bias": (0.5,), "weight": (1.0, 0.0)}

    def parameter_groups(self):
        return {name: ([getattr(self.layer, name)], *how) for name, how in self.groups.items()}


class Frozen(Grouped):
    groups = {"bias": (1.0,), "weight": (0.0,)}


SETTINGS = TrainSettings(parts=3, size=16, steps=12, batch_size=4, lr=0.1)
BY_SGD = TrainSettings(
    parts=3,
    size=16,
    steps=5,
    batch_size=4,
    lr=0.2,
    optimiser="sgd",
    momentum=0.8,
    weight_decay=0.3,
    grad_clip=0.05,
    seed=7,
)


@pytest.fixture(scope="module")
def birds():
    return Kept(View(collections["birds"].open(split="train", size=16), indices=range(30)))


@pytest.fixture(scope="module")
def val():
    return View(collections["birds"].open(split="val", size=16), indices=range(4))


def stop_at(number):
    def watch(step, method, row):
        if step == number:
            raise KeyboardInterrupt

    return watch


def test_pictures_of_a_step():
    drawn = sum((pictures_of_step(t, 4, 10, seed=3) for t in range(5)), [])
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]
    assert pictures_of_step(3, 4, 10, seed=3) == drawn[12:16]
    assert pictures_of_step(3, 4, 10, seed=4) != drawn[12:16]
    assert len(pictures_of_step(0, 25, 10)) == 25  # several passes in a step
    assert one_pass(1, 10, seed=3) != one_pass(0, 10, seed=4)  # no run follows another's steps


def test_poly():
    assert poly(0, 100) == 1
    assert poly(50, 100, power=1) == 0.5
    assert poly(99, 100) == pytest.approx(0.01**0.9)
    assert poly(70, 100, power=0) == 1


def test_optimiser_of_one_group():
    optimiser = make_optimiser(Tiny(SETTINGS))
    (group,) = optimiser.param_groups
    assert group["name"] == "all" and group["lr"] == 0.1
    assert isinstance(optimiser, torch.optim.AdamW)
    assert group["weight_decay"] == SETTINGS.weight_decay != 0.01


def test_optimiser_of_two_groups_and_of_a_frozen_one():
    asked = ("name", "lr", "first", "power", "momentum", "weight_decay")
    found = [[g[k] for k in asked] for g in make_optimiser(Grouped(BY_SGD)).param_groups]
    assert found == [["bias", 0.1, 0.1, 0.9, 0.8, 0.3], ["weight", 0.2, 0.2, 0.0, 0.8, 0.3]]
    half = Frozen(SETTINGS)
    assert [g["name"] for g in make_optimiser(half).param_groups] == ["bias"]
    assert not half.layer.weight.requires_grad
    assert list(changing(half)) == ["layer.bias"]
    assert list(changing(Tiny(SETTINGS))) == ["layer.weight", "layer.bias"]


class Twice(Tiny):
    def parameter_groups(self):
        return {"all": (list(self.parameters()), 1.0), "bias": ([self.layer.bias], 0.1)}


class Idle(Tiny):
    def parameter_groups(self):
        return {"all": (list(self.parameters()), 0.0)}


@pytest.mark.parametrize(
    "wrong, sentence",
    [(Twice, "lists a parameter twice"), (Idle, "no parameter that learns")],
)
def test_groups_that_cannot_be(wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        make_optimiser(wrong(SETTINGS))


def test_a_log_is_cut_back(tmp_path):
    log = Log(tmp_path / "log.csv")
    for t in range(3):
        log.add(t, {"L_f": torch.tensor(1.0 / (t + 1))}, [f"bird {t}"], 0.1)
        log.flush()
    log.path.write_text(log.path.read_text() + "3,0.2")  # killed while it wrote
    again = Log(log.path)
    again.cut_back(4)
    assert again.rows == log.rows  # the torn line is gone, though step 3 comes before step 4
    again.cut_back(2)
    assert again.rows == log.rows[:2]
    lines = ["step,L_f,lr,alive,effective,dead", "0,1.0,0.1,,,", "1,0.5,0.1,,,"]
    assert log.path.read_text().splitlines() == lines
    log.path.write_text("step,L_f,lr\n0,1.0,0.1\n1,0.5,0.1\n")  # as before there were looks
    again.cut_back(2)
    assert again.rows == log.rows[:2]
    log.add(3, {"L_f": torch.tensor(float("nan"))}, ["bird 3", "bird 4"], 0.1)
    sentence = "Step 3: L_f is not finite any more, on the pictures bird 3, bird 4;"
    with pytest.raises(InputError, match=sentence):
        log.flush()
    again.cut_back(0)
    assert again.rows == [] and not log.path.exists()


def test_a_gradient_may_be_infinite():
    log = Log()
    values = {"L_f": torch.tensor(1.0), "gradient": torch.tensor(torch.inf)}
    log.add(0, values, ["bird"], 0.1)
    log.flush()
    row = {"step": 0, "L_f": 1.0, "gradient": torch.inf, "lr": 0.1}
    assert log.rows == [row | {"alive": None, "effective": None, "dead": None}]


@pytest.mark.parametrize(
    "names, shown",
    [("abcdefgh", "a, b, c, d, e, f, g, h;"), ("abcdefghi", "a, b, c, d, e, f, g, h, ...;")],
)
def test_of_many_pictures_the_first_eight_are_named(names, shown):
    log = Log()
    log.add(0, {"L_f": torch.tensor(torch.inf)}, list(names), 0.1)
    with pytest.raises(InputError, match=f"on the pictures {shown} look"):
        log.flush()


def test_a_lookout_sees_pictures_from_all_over_and_loads_them_once(birds):
    lookout = Lookout(Tiny(SETTINGS), birds, torch.device("cpu"), every=5, pictures=4)
    found = lookout.look()
    first = lookout.batches
    assert [n for b in first for n in b.names] == [birds[i].name for i in (0, 10, 19, 29)]
    assert lookout.look().seen == found.seen == 4 and lookout.batches is first
    assert [done for done in range(1, 13) if lookout.due(done)] == [5, 10, 12]


def test_a_method_is_found_as_it_was_left_even_if_looking_fails():
    looked = Tiny(SETTINGS)
    numbers = torch.get_rng_state()
    looked.layer.eval()
    with pytest.raises(ZeroDivisionError), undisturbed(looked) as seen:
        assert not seen.training and not torch.is_grad_enabled() and torch.rand(3).sum() > 0
        raise ZeroDivisionError
    assert looked.training and not looked.layer.training
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), numbers)


def heard_of(counts, end=250):
    "A log of looks at three parts in 16 pictures, and what is said at each."
    log, heard = Log(), []
    for t, pixels in enumerate(counts, 1):
        census = Census(3)
        census.pixels += torch.tensor(pixels)
        census.pictures += 16 * (census.pixels > 0)
        census.seen = 16
        log.rows.append({"step": 50 * t - 1, **columns_of(census)})
        heard.append(log.news(census, last=50 * t == end))
    return log, heard


def test_what_is_said_of_parts_that_go_and_come_back():
    log, heard = heard_of([(4, 2, 0), (2, 4, 0), (0, 6, 0), (0, 6, 0), (1, 9, 0)])
    assert heard[0] == heard[2] == ""
    assert heard[1] == (
        "Step 100: part 3 occurs in none of 16 pictures since step 50; 2 of 3 parts are left, "
        "worth 1.9 equal ones."
    )
    both = "part 1 occurs in none of 16 pictures since step 150; part 2 has 100 % of the pixels"
    assert both in heard[3] and "part 3" not in heard[3]
    assert heard[4].startswith(
        "Step 250: part 3 occurs in none of 16 pictures since step 50; part 2 has 90 % of the "
        "pixels, and nearly that since step 150;"
    )
    assert log.dead == [3]
    assert log.last_since(lambda dead, _: 1 in dead) == []
    assert log.last_since(lambda dead, _: 3 in dead) == [50, 100, 150, 200, 250]
    assert [r["alive"] for r in log.rows] == [2, 2, 1, 1, 2]
    assert [r["dead"] for r in log.rows] == ["3", "3", "1 3", "1 3", "3"]


def test_a_look_that_finds_nothing_is_not_one_at_a_part_with_everything():
    _, heard = heard_of([(0, 0, 0), (0, 6, 0), (0, 6, 0), (0, 6, 0)])
    assert heard[0] == heard[3] == ""
    assert heard[1] == (
        "Step 100: parts 1 and 3 occur in none of 16 pictures since step 50; 1 of 3 parts is "
        "left, worth 1.0 equal ones."
    )
    assert heard[2] == (
        "Step 150: part 2 has 100 % of the pixels, and nearly that since step 100; 1 of 3 parts "
        "is left, worth 1.0 equal ones."
    )


def as_rank(rank, world):
    return SimpleNamespace(process_index=rank, num_processes=world)


def test_processes_share_the_pictures_of_a_step_in_the_order_of_ranks(birds):
    sown = replace(SETTINGS, seed=5)
    alone, *shared = (
        Run(Tiny(sown), None, None, birds, as_rank(*w), torch.device("cpu")).batch(3).names
        for w in ((0, 1), (0, 2), (1, 2))
    )
    assert shared[0] + shared[1] == alone and len(shared[0]) == 2
    assert alone == [birds[i].name for i in pictures_of_step(3, 4, 30, seed=5)]


class Plain(Method):
    registered_name = "plain"


def test_runs_that_cannot_be(birds):
    none = View(birds, indices=[])
    for method, pictures, world, sentence in (
        (Tiny, birds, 3, "4 pictures cannot be shared by 3"),
        (Plain, birds, 1, "call its own fit"),
        (Tiny, none, 1, "is empty"),
    ):
        with pytest.raises(InputError, match=sentence):
            check_run(method(SETTINGS), pictures, as_rank(0, world))


def test_a_log_has_its_columns_and_the_same_seed_gives_it_again(birds):
    log = fit(Tiny(SETTINGS), birds, device="cpu")
    assert log.rows == fit(Tiny(SETTINGS), birds, device="cpu").rows and len(log.rows) == 12
    columns = ["step", "L_t", "L", "gradient", "lr", "alive", "effective", "dead"]
    assert list(log.rows[0]) == columns
    assert log.rows[-1]["L_t"] < log.rows[0]["L_t"]
    assert log.rows[6]["lr"] == pytest.approx(0.1 * 0.5**0.9)
    assert all(row["gradient"] > 0 for row in log.rows)


def test_a_method_learns_in_training_mode_and_rows_come_in_tens(birds):
    modes, heard = [], []
    learned = Tiny(SETTINGS).eval()

    def watch(step, method, row):
        modes.append(method.training)
        heard.append(row.get("step"))

    fit(learned, birds, device="cpu", look=0, watch=watch)
    assert modes == [True] * 12 and not learned.training
    assert heard == [None] * 9 + [9, 9, 11]


def test_a_resumed_run_ends_with_the_same_tensors_and_files(birds, tmp_path):
    whole = Tiny(SETTINGS)
    log = fit(whole, birds, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        fit(Tiny(SETTINGS), birds, tmp_path, "cpu", every=3, watch=stop_at(7))
    resumed = Tiny(SETTINGS)
    later = fit(resumed, birds, tmp_path, "cpu", every=3, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value)
    assert later.rows == log.rows
    files = sorted(p.name for p in Path(tmp_path, "checkpoint").iterdir())
    assert files == ["checkpoint.json", "run.json", "state-0000012.safetensors"]
    sentence = "checkpoint.json is of a run with lr = 0.1, not 0.2; resume with the same options"
    with pytest.raises(InputError, match=sentence):
        fit(Tiny(replace(SETTINGS, lr=0.2)), birds, tmp_path, "cpu", resume=True)


def test_refusing_to_resume_changes_nothing(birds, tmp_path):
    fit(Tiny(SETTINGS), birds, tmp_path, "cpu", every=12)
    record = tmp_path / "checkpoint" / "checkpoint.json"
    wrong = json.loads(record.read_text())
    wrong["tensors"]["hash"] = "0" * 32
    record.write_text(json.dumps(wrong))
    for place in (tmp_path / "typo", tmp_path):
        with pytest.raises(InputError):
            fit(Tiny(SETTINGS), birds, place, "cpu", resume=True)
    assert not (tmp_path / "typo").exists()
    assert len(read_log(tmp_path / "log.csv")) == 12


class Measured(Tiny):
    "Counts how often it was prepared."

    prepared = 0

    def prepare(self, collection, device="cpu"):
        self.prepared += 1


def test_another_run_is_refused_or_replaced_and_measures_once(birds, tmp_path):
    few = View(birds, indices=range(20))
    guessed = View(birds)
    guessed.foreground = "a guess"
    first, second, third = (Measured(SETTINGS) for _ in range(3))
    fit(first, birds, tmp_path, "cpu", every=5)
    assert read_json(tmp_path / "checkpoint" / "checkpoint.json")["step"] == 12
    for method, pictures, what in (
        (first, few, "the photographs differ: there were 30, and now 20"),
        (first, guessed, "foreground = 'true masks', not 'a guess'"),
        (Grouped(SETTINGS), birds, "method = 'tiny', not 'grouped'"),
    ):
        with pytest.raises(InputError, match=what):
            fit(method, pictures, tmp_path, "cpu", resume=True)
    fit(second, birds, tmp_path, "cpu", resume=True)
    fit(third, few, tmp_path, "cpu")
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + 12
    assert [m.prepared for m in (first, second, third)] == [1, 0, 1]
    assert torch.equal(first.layer.bias, second.layer.bias)


class Starved(Tiny):
    "Part 2 is pushed out of every picture."

    cures = ("a smaller --set hunger",)

    def losses(self, batch, step):
        return super().losses(batch, step) | {"L_h": 20 * self.layer.bias[1]}


def test_a_dead_part_is_said_the_same_after_an_interruption(birds, tmp_path):
    hungry = TrainSettings(parts=4, size=16, steps=12, batch_size=4, lr=0.2)
    log = fit(Starved(hungry), birds, device="cpu", look=3)
    looks = [(done, dead) for done, dead, _ in log.looks()]
    assert log.dead == [2] and looks == [(3, set()), (6, {2}), (9, {2}), (12, {2})]
    cure = "Try fewer --parts, a smaller --set hunger or another --seed."
    assert advice(Starved(hungry)) == cure
    with redirect_stdout(io.StringIO()) as said:
        with pytest.raises(KeyboardInterrupt):
            fit(Starved(hungry), birds, tmp_path, "cpu", every=2, look=3, watch=stop_at(6))
        assert said.getvalue() == ""  # missing at one look only
        later = fit(Starved(hungry), birds, tmp_path, "cpu", every=2, look=3, resume=True)
        assert later.rows == log.rows
        nine = "Step 9: part 2 occurs in none of 16 pictures since step 6; 3 of 4 parts are left"
        assert nine in said.getvalue()
        whole = Log(tmp_path / "whole.csv", log.rows)
        whole.write(log.rows)
        assert whole.path.read_text() == (tmp_path / "log.csv").read_text()
        fit(Starved(hungry), birds, device="cpu", look=12)  # one look, the last
        assert "Step 12: part 2 occurs in none of 16 pictures since step 12;" in said.getvalue()


def test_looking_changes_no_mode(birds):
    blind, seen = Tiny(SETTINGS), Tiny(SETTINGS)
    fit(blind, birds, device="cpu", look=0)
    fit(seen, birds, device="cpu", look=4)
    for name, value in blind.state_dict().items():
        assert torch.equal(seen.state_dict()[name], value)
    assert blind.training is seen.training is False


class Broken(Tiny):
    def losses(self, batch, step):
        return {k: v / (step.number != 5) for k, v in super().losses(batch, step).items()}


def test_a_loss_that_is_no_number_names_step_and_pictures(birds):
    sentence = "Step 5: L_t is not finite any more, on the pictures bird 0-train-"
    with pytest.raises(InputError, match=sentence):
        fit(Broken(SETTINGS), birds, device="cpu")


class Watched(Tiny):
    def __init__(self, settings):
        super().__init__(settings)
        self.asked = []

    def logits(self, images):
        if not torch.is_grad_enabled():
            self.asked.append(self.training)
        return super().logits(images)


def test_live_parts_draw_in_one_place_and_leave_the_method_learning(birds, monkeypatch):
    drawn, modes = [], []
    place = SimpleNamespace(update=lambda shown: drawn.append("again"))

    def display(shown, display_id):
        drawn.append("new")
        return place

    monkeypatch.setattr("IPython.display.display", display)
    watch = live_parts(birds.batch(range(2)), every=5)

    def both(step, method, row):
        watch(step, method, row)
        modes.append((method.training, len(drawn)))

    method = Watched(SETTINGS)
    fit(method, birds, device="cpu", look=0, watch=both)
    assert drawn == ["new", "again", "again", "again"]
    assert modes == [(True, n) for n in [1] * 5 + [2] * 5 + [3, 4]]
    assert method.asked == [False] * 4


def test_validation_comes_after_the_last_step_and_is_taken_up(birds, val, tmp_path):
    modes = []
    path = tmp_path / "validation.csv"
    watch, rows = validate(val, every=5, path=path)

    def both(step, method, row):
        watch(step, method, row)
        modes.append(method.training)

    method = Watched(SETTINGS)
    fit(method, birds, device="cpu", look=0, watch=both)
    assert [r["step"] for r in rows] == [5, 10, 12] and rows == read_rows(path)
    assert all(0 <= r["fg_nmi"] <= 100 for r in rows)
    assert all(modes) and method.asked == [False] * 3
    watch, more = validate(val, every=5, path=path, resume=True)
    assert more == rows and validate(val, every=5, path=path)[1] == []
    watch(9, Tiny(SETTINGS), {})
    assert [r["step"] for r in more] == [5, 10]


def test_pictures_without_truth_validate_nothing(birds):
    bare = View(birds, lambda s: replace(s, parts=None, landmarks=None, visible=None))
    with pytest.raises(InputError, match="neither true parts nor landmarks"):
        validate(bare, every=5)
