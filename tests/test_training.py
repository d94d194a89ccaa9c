"""Training as its users meet it: real processes, killed and resumed, one or two of them, and the numbers they leave behind."""

import argparse
import csv
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from partbook.cli import main
from partbook.data.sample import Kept, View, collections
from partbook.evaluation.census import Census, census
from partbook.evaluation.results import read_rows
from partbook.methods.method import Trained, TrainSettings, methods
from partbook.training import benchmarks
from partbook.training.fit import LOOK, Log, columns_of, fit, undisturbed
from partbook.weights import load_tensors

STEPS = 40
TINY = ["--method", "contrastive", "--size", "32", "--parts", "3", "--steps", str(STEPS), "--set", "batch=4", "--seed", "3", "--device", "cpu",
        "--no-baselines", "--every", "5"]
PROGRAM = [sys.executable, "-c", "import sys; from partbook.cli import main; sys.exit(main())"]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PARTBOOK_SMALL": "1"}


def rows(out):
    with open(Path(out) / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    "The folder of a run that nobody disturbed."
    out = tmp_path_factory.mktemp("alone")
    subprocess.run([*PROGRAM, "discover", *TINY, "--validate", "30", "--out", str(out)], check=True, env=environment(), capture_output=True)
    return out


def test_the_run_leaves_what_it_should(alone):
    assert {p.name for p in alone.iterdir()} == {"checkpoint", "log.csv", "metrics.json", "model", "parts.png", "validation.csv"}
    log = rows(alone)
    assert [int(r["step"]) for r in log] == list(range(STEPS)) and {"L_f", "L_c", "L_v", "L_e", "L", "gradient", "rate"} <= set(log[0])
    for r in log:
        assert float(r["L"]) == pytest.approx(sum(float(r[k]) for k in ("L_f", "L_c", "L_v", "L_e")), rel=1e-5)
    assert [r["alive"] != "" for r in log] == [False] * (STEPS - 1) + [True] and 1 <= float(log[-1]["effective"]) <= 3
    assert len(log[-1]["dead"].split()) == 3 - int(log[-1]["alive"])
    with open(alone / "validation.csv", newline="") as file:
        assert [int(r["step"]) for r in csv.DictReader(file)] == [30, STEPS]
    state = load_tensors(next((alone / "checkpoint").glob("*.safetensors")))
    assert not [k for k in state if "extractor" in k and "weight" in k]  # what is frozen is not written again and again


@pytest.mark.parametrize("workers", ["0", "5"])
def test_the_number_of_workers_changes_nothing(alone, tmp_path, workers):
    subprocess.run([*PROGRAM, "discover", *TINY, "--workers", workers, "--out", str(tmp_path)], check=True, env=environment(), capture_output=True)
    assert rows(tmp_path) == rows(alone)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (alone / "model" / "model.safetensors").read_bytes()


def test_its_model_labels_new_pictures(alone, tmp_path):
    picture = Image.open(alone / "parts.png")
    assert main(["segment", str(alone / "model"), str(alone / "parts.png"), "--out", str(tmp_path)]) == 0
    labels = Image.open(tmp_path / "parts.png")
    assert labels.size == picture.size and labels.mode == "P" and labels.getextrema()[1] <= 3


@pytest.mark.parametrize("after", [3, 17])
def test_a_killed_run_resumes_to_the_same_bits(alone, tmp_path, after):
    "SIGKILL as soon as `after` steps are in the log; the resumed run ends as the undisturbed one did."
    run = subprocess.Popen([*PROGRAM, "discover", *TINY, "--out", str(tmp_path)], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = tmp_path / "log.csv"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text().count("\n") > after) and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert run.poll() is None, "the run ended before it could be killed"
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (tmp_path / "metrics.json").exists()
    subprocess.run([*PROGRAM, "discover", *TINY, "--out", str(tmp_path), "--resume"], check=True, env=environment(), capture_output=True)
    one, two = (load_tensors(out / "model" / "model.safetensors") for out in (alone, tmp_path))
    assert set(one) == set(two) and all(torch.equal(one[k], two[k]) for k in one)
    assert rows(alone) == rows(tmp_path)


def test_resuming_another_run_is_refused(alone, capsys):
    assert main(["discover", *TINY, "--out", str(alone), "--resume", "--set", "visual=3"]) == 2
    assert "is of a run with visual = " in capsys.readouterr().err


def test_two_processes_train_as_one_does(tmp_path):
    "The same global batch, shared by two processes: the same loss curve, until rounding has had time to grow."
    words = [*TINY, "--steps", "12"]
    subprocess.run([*PROGRAM, "discover", *words, "--out", str(tmp_path / "one")], check=True, env=environment(), capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
              "--dynamo_backend", "no", "--main_process_port", str(port), "--module", "partbook.cli"]
    done = subprocess.run([*launch, "discover", *words, "--out", str(tmp_path / "two")], env={**environment(), "ACCELERATE_USE_CPU": "true"},
                          capture_output=True, text=True)  # its --cpu starts one process only; this way it is gloo
    assert done.returncode == 0, done.stderr[-8000:]  # the launcher's summary comes last and is long
    assert json.loads((tmp_path / "two" / "checkpoint" / "checkpoint.json").read_text())["processes"] == 2
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(one) == len(two) == 12
    for a, b in zip(one, two):
        for name in ("L_f", "L_c", "L_v", "L_e", "L"):
            assert float(b[name]) == pytest.approx(float(a[name]), rel=1e-5, abs=1e-5), (a["step"], name)
    assert two[-1]["alive"] == one[-1]["alive"] != "" and two[-1]["dead"] == one[-1]["dead"]  # one of the two looked
    assert float(two[-1]["effective"]) == pytest.approx(float(one[-1]["effective"]), rel=0.02)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_training_on_a_gpu(tmp_path):
    arguments = [a if a != "cpu" else "cuda" for a in TINY]
    assert main(["discover", *arguments, "--out", str(tmp_path)]) == 0
    assert len(rows(tmp_path)) == STEPS


@pytest.mark.parametrize("words, sentence", [
    (["--set", "visual"], "must be NAME=VALUE"),
    (["--set", "vision=3"], "has no such setting"),
    (["--set", "visual=much"], "expected a value of type float"),
    (["--set", "batch=2.5"], "expected a value of type int"),
    (["--set", "symmetrised=1"], "expected a value of type bool"),
    (["--set", "visual=-1"], "none may be negative"),
    (["--set", "network=unet"], "no network named 'unet'"),
    (["--set", "compare=all"], "choose pictures, l2 or views"),
    (["--set", "batch=1"], "it needs a batch of at least 2"),
    (["--method", "kmeans", "--resume"], "nothing to take up"),
    (["--method", "kmeans", "--validate", "5"], "is not trained step by step"),
])
def test_wrong_options_get_a_sentence(words, sentence, tmp_path, capsys):
    assert main(["discover", "--method", "contrastive", "--size", "32", "--out", str(tmp_path / "new"), *words]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1 and not (tmp_path / "new").exists()


# ---------------------------------------------------------------- parts that die

class Layers(Trained):
    """A network with everything that a look could disturb: batch statistics, dropout, a module that never trains, the global random numbers.
    Its parts are the pixels of about one brightness, each of one size; `gone` says during which steps a part's bias is minus infinity, or nearly."""

    registered_name = "layers"
    cures = ("a smaller --set hunger",)

    def __init__(self, settings, gone=None):
        super().__init__(settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.body = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Dropout(0.2), nn.Conv2d(8, settings.parts, 1))
        self.frozen, self.gone, self.seen = nn.BatchNorm2d(3), gone or {}, []
        self.register_buffer("shift", torch.zeros(settings.parts, 1, 1))

    def train(self, mode=True):
        super().train(mode)
        self.frozen.eval()
        return self

    def logits(self, images):
        torch.rand(1), random.random()
        self.seen.append((len(images), [m.training for m in self.body], torch.is_grad_enabled()))
        rank = images.mean(1).flatten(1).argsort(dim=1, stable=True).argsort(1).view(-1, *images.shape[-2:])
        parts = nn.functional.one_hot(rank * self.parts // rank[0].numel(), self.parts).movedim(-1, 1)
        return 20 * parts + 0.01 * self.body(self.frozen(images)) + self.shift

    def losses(self, batch, step):
        for k, steps in self.gone.items():
            self.shift[k - 1] = -1e4 * (step.number in steps)
        return {"L_t": self.body(self.frozen(batch.images)).square().mean() + 0 * self.logits(batch.images).mean()}


LAYERS = TrainSettings(parts=5, size=16, steps=14, batch=4, rate=0.2)


@pytest.fixture(scope="module")
def little():
    return Kept(View(collections["birds"].open(split="train", size=16), indices=range(40)))


def plain(rows):
    return [{k: v for k, v in row.items() if k not in LOOK} for row in rows]


def train(little, *arguments, method=None, settings=LAYERS, **options):
    method = Layers(settings) if method is None else method
    torch.manual_seed(11)  # dropout
    return fit(method, little, *arguments, device="cpu", **options), method


@pytest.mark.parametrize("look", [1, 4, 50])
def test_looking_leaves_no_trace(little, look):
    (blind, one), (seen, two) = train(little, look=0), train(little, look=look)
    assert plain(seen.rows) == plain(blind.rows) and not blind.looks() and blind.dead == []
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))
    assert [done for done, *_ in seen.looks()] == sorted({*range(look, 15, look), 14})


def test_a_look_is_cheap_and_in_evaluation_mode(little):
    _, method = train(little, look=7)
    looks = [s for s in method.seen if not s[2]]
    assert [n for n, *_ in looks] == [8, 8] * 2 and not any(any(modes) for _, modes, _ in looks)  # sixteen pictures, twice
    assert len(method.seen) - len(looks) == 14 and any(all(modes) for _, modes, _ in method.seen)


def test_every_module_gets_its_own_mode_back(little):
    method = Layers(LAYERS).train()
    method.body[2].eval()
    before = [m.training for m in method.modules()]
    with pytest.raises(KeyError), undisturbed(method):
        assert not any(m.training for m in method.modules()) and not torch.is_grad_enabled()
        torch.rand(3)
        raise KeyError
    assert [m.training for m in method.modules()] == before and torch.is_grad_enabled() and True in before and before.count(False) == 2


def test_a_dead_part_is_noticed_named_and_counted(little, tmp_path, capsys):
    log, _ = train(little, tmp_path, method=Layers(LAYERS, {2: range(4, 99)}), look=3)
    named = capsys.readouterr().out.splitlines()
    assert log.dead == [2] and [(done, dead) for done, dead, _ in log.looks()] == [(3, set()), (6, {2}), (9, {2}), (12, {2}), (14, {2})]
    assert [line.split(":")[0] for line in named] == ["Step 9", "Step 14"]  # at the second look in a row, and at the end
    assert all(": part 2 occurs in none of 16 pictures since step 6; 4 of 5 parts are left, worth " in line for line in named)
    assert named[-1].endswith("Try fewer --parts, a smaller --set hunger or another --seed.")
    looked = {int(r["step"]): (r["alive"], r["dead"]) for r in rows(tmp_path) if r["alive"]}
    assert looked == {2: ("5", ""), 5: ("4", "2"), 8: ("4", "2"), 11: ("4", "2"), 13: ("4", "2")}
    assert float(rows(tmp_path)[2]["effective"]) > float(rows(tmp_path)[13]["effective"]) > 2 and rows(tmp_path)[3]["effective"] == ""


def test_the_sentence_names_several(little, capsys):
    log, _ = train(little, method=Layers(LAYERS, {1: range(99), 2: range(99), 3: range(5, 99), 5: range(5, 99)}), look=2)
    said = capsys.readouterr().out.splitlines()
    assert log.dead == [1, 2, 3, 5] and [line.split(":")[0] for line in said] == ["Step 4", "Step 8", "Step 14"]
    assert "Step 4: parts 1 and 2 occur in none of 16 pictures since step 2; 3 of 5 parts are left" in said[0]
    assert "Step 8: parts 3 and 5 occur in none of 16 pictures since step 6; part 4 has 100 % of the pixels, and nearly that since step 6; 1 of 5 parts is left" in said[1]
    assert "parts 1, 2, 3 and 5 occur in none of 16 pictures since step 2 and 6; part 4 has 100 % of the pixels, and nearly that since step 6; 1 of 5" in said[2]


@pytest.mark.parametrize("gone", [{}, {3: range(4, 8)}, {1: range(3, 6), 2: range(6, 9)}])
def test_nothing_is_said_of_parts_that_come_back(little, capsys, gone):
    log, _ = train(little, method=Layers(LAYERS, gone), look=3)
    assert log.dead == [] and capsys.readouterr().out == ""
    assert [dead for _, dead, _ in log.looks()] == [{k for k, steps in gone.items() if done - 1 in steps} for done in (3, 6, 9, 12, 14)]


@pytest.mark.parametrize("stop", [1, 5, 8, 12])
def test_a_resumed_run_has_the_same_looks_and_sentences(little, tmp_path, stop, capsys):
    def watch(number, *_):
        if number == stop:
            raise KeyboardInterrupt

    def starved():
        method = Layers(LAYERS, {2: range(4, 99)})
        method.body[2].p = 0.0  # the global random numbers of an interrupted run are not those of another
        return method

    whole, _ = train(little, tmp_path / "whole", method=starved(), look=3, every=2)
    heard = capsys.readouterr().out
    with pytest.raises(KeyboardInterrupt):
        train(little, tmp_path / "cut", method=starved(), look=3, every=2, watch=watch)
    again, _ = train(little, tmp_path / "cut", method=starved(), look=3, every=2, resume=True)
    assert again.rows == whole.rows and again.dead == whole.dead == [2]
    assert (tmp_path / "cut" / "log.csv").read_bytes() == (tmp_path / "whole" / "log.csv").read_bytes()
    later = capsys.readouterr().out
    assert set(later.splitlines()) == set(heard.splitlines()) and later.splitlines()[-1] == heard.splitlines()[-1]


def test_a_log_from_before_there_were_looks_goes_on(little, tmp_path):
    def watch(number, *_):
        if number == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(little, tmp_path, look=0, every=2, watch=watch)
    old = [",".join(line.split(",")[:-3]) for line in (tmp_path / "log.csv").read_text().splitlines()]
    (tmp_path / "log.csv").write_text("\n".join(old) + "\n")
    log, _ = train(little, tmp_path, look=7, every=2, resume=True)
    assert [done for done, *_ in log.looks()] == [7, 14] and len(rows(tmp_path)) == 14 and rows(tmp_path)[0]["alive"] == ""


def test_a_part_that_was_back_is_named_again(capsys):
    log, said = Log(), []
    for t, pixels in enumerate([(5, 0), (5, 0), (5, 0), (5, 4), (5, 0), (5, 0)], 1):
        c = Census(2)
        c.pixels += torch.tensor(pixels)
        c.pictures += 16 * (c.pixels > 0)
        c.seen = 16
        log.rows.append({"step": t - 1, **columns_of(c)})
        said.append(log.news(c))
    assert [bool(s) for s in said] == [False, True, False, False, False, True] and "since step 1;" in said[1] and "since step 5;" in said[5]


@pytest.mark.parametrize("shift, labelled", [(-9.0, True), (-1e4, False)])
def test_the_rule_of_scops_does_not_hide_the_dead(little, shift, labelled):
    "A channel of which nothing is left but a little noise is labelled all over the picture (Sec. 3.1), and dead all the same."
    method = methods["scops"].build(methods["scops"].Settings(parts=4, size=16)).eval()
    scores = 5 * torch.randn(40, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    method.logits = lambda images: scores
    assert census(method, little, batch_size=40).dead == []
    scores[:, 3] = scores[:, 3] / 100 + shift
    labels = method.labels(little.batch(range(40)).images)
    assert bool((labels == 3).flatten(1).any(1).all()) == labelled
    found = census(method, little, batch_size=40)
    assert found.dead == [3] and found.shares[2] == 0 and found.pictures[2] == 0


# ---------------------------------------------------------------- how fast it is

@pytest.mark.parametrize("words, sentence", [
    (["losses", "--method", "scops"], "leave --method scops out"),
    (["memory", "--method", "scops"], "leave --method scops out"),
    (["step", "--method", "kmeans"], "no published settings to measure"),
    (["step", "--method", "taste"], "no method named 'taste'"),
])
def test_benchmarks_that_cannot_be(words, sentence, capsys):
    assert benchmarks.main(words) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


@pytest.mark.parametrize("method", ["contrastive", "scops"])
def test_a_step_is_measured_for_every_method(method, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "settings_of", lambda given: methods[given.method].Settings(size=32, batch=2, parts=2))
    monkeypatch.setattr(benchmarks, "run_benchmark", lambda given: benchmarks.look_benchmark(benchmarks.settings_of(given), None, 1))
    assert benchmarks.main(["look", "--method", method, "--repeats", "1", "--write", "--results", str(tmp_path)]) == 0
    row, = read_rows(tmp_path / "training.csv")
    assert (row["method"], row["network"], row["size"], row["pictures"], row["every"]) == (method, "Light", 32, 16, 50)
    assert row["ratio"] == row["seconds_look"] / (50 * row["seconds_step"])
    assert row["command"] == f"python -m partbook.training.benchmarks look --method {method} --repeats 1 --write --results FOLDER"


def test_the_paper_sizes_of_each_method():
    given = argparse.Namespace(what="step", method="scops", light=False, batch=6, fresh=True)
    scops = benchmarks.settings_of(given)
    assert (scops.parts, scops.size, scops.batch, scops.network_weights, scops.once) == (8, 256, 6, "random", False)
    given.method = "contrastive"
    assert benchmarks.settings_of(given) == methods["contrastive"].Settings.published(batch=6, network_weights="random")
    given.light = True
    assert benchmarks.settings_of(given) == methods["contrastive"].Settings(size=96, batch=6)
