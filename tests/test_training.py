"""Training as users meet it: real processes, killed and resumed, and the numbers they leave."""

import argparse
import csv
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from partbook.cli import main
from partbook.core import InputError
from partbook.data.sample import Collection, Kept, Sample, View, collections, identity
from partbook.evaluation.census import Census, census
from partbook.evaluation.results import read_rows
from partbook.methods.method import Trained, TrainSettings, methods, seal_of
from partbook.training import benchmarks
from partbook.training import fit as training
from partbook.training.fit import fit, validate
from partbook.training.log import LOOK, Log, columns_of, read_log
from partbook.training.look import undisturbed
from partbook.weights import load_tensors

STEPS = 40
TINY = [
    "--method",
    "contrastive",
    "--size",
    "32",
    "--parts",
    "3",
    "--steps",
    str(STEPS),
    "--set",
    "batch_size=4",
    "--seed",
    "3",
    "--device",
    "cpu",
    "--no-baselines",
    "--checkpoint-every",
    "5",
]
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
    subprocess.run(
        [*PROGRAM, "discover", *TINY, "--eval-every", "30", "--out", str(out)],
        check=True,
        env=environment(),
        capture_output=True,
    )
    return out


def test_the_run_leaves_what_it_should(alone):
    assert {p.name for p in alone.iterdir()} == {
        "checkpoint",
        "log.csv",
        "metrics.json",
        "model",
        "parts.png",
        "validation.csv",
    }
    log = rows(alone)
    assert [int(r["step"]) for r in log] == list(range(STEPS)) and {
        "L_f",
        "L_c",
        "L_v",
        "L_e",
        "L",
        "gradient",
        "lr",
    } <= set(log[0])
    for r in log:
        assert float(r["L"]) == pytest.approx(
            sum(float(r[k]) for k in ("L_f", "L_c", "L_v", "L_e")), rel=1e-5
        )
    assert [r["alive"] != "" for r in log] == [False] * (STEPS - 1) + [True] and 1 <= float(
        log[-1]["effective"]
    ) <= 3
    assert len(log[-1]["dead"].split()) == 3 - int(log[-1]["alive"])
    with open(alone / "validation.csv", newline="") as file:
        assert [int(r["step"]) for r in csv.DictReader(file)] == [30, STEPS]
    state = load_tensors(next((alone / "checkpoint").glob("*.safetensors")))
    assert not [
        k for k in state if "extractor" in k and "weight" in k
    ]  # what is frozen is not written again and again


@pytest.mark.parametrize("workers", ["0", "5"])
def test_the_number_of_workers_changes_nothing(alone, tmp_path, workers):
    subprocess.run(
        [*PROGRAM, "discover", *TINY, "--workers", workers, "--out", str(tmp_path)],
        check=True,
        env=environment(),
        capture_output=True,
    )
    assert rows(tmp_path) == rows(alone)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (
        alone / "model" / "model.safetensors"
    ).read_bytes()


def test_its_model_labels_new_pictures(alone, tmp_path):
    picture = Image.open(alone / "parts.png")
    assert (
        main(["segment", str(alone / "model"), str(alone / "parts.png"), "--out", str(tmp_path)])
        == 0
    )
    labels = Image.open(tmp_path / "parts.png")
    assert labels.size == picture.size and labels.mode == "P" and labels.getextrema()[1] <= 3


@pytest.mark.parametrize("after", [3, 17])
def test_a_killed_run_resumes_to_the_same_bits(alone, tmp_path, after):
    "SIGKILL once `after` steps are in the log; the resumed run ends as the undisturbed one did."
    run = subprocess.Popen(
        [*PROGRAM, "discover", *TINY, "--out", str(tmp_path)],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = tmp_path / "log.csv"
    deadline = time.monotonic() + 120
    while (
        not (log.exists() and log.read_text().count("\n") > after)
        and run.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    assert run.poll() is None, "the run ended before it could be killed"
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (tmp_path / "metrics.json").exists()
    subprocess.run(
        [*PROGRAM, "discover", *TINY, "--out", str(tmp_path), "--resume"],
        check=True,
        env=environment(),
        capture_output=True,
    )
    one, two = (load_tensors(out / "model" / "model.safetensors") for out in (alone, tmp_path))
    assert set(one) == set(two) and all(torch.equal(one[k], two[k]) for k in one)
    assert rows(alone) == rows(tmp_path)


def test_resuming_another_run_is_refused(alone, capsys):
    assert main(["discover", *TINY, "--out", str(alone), "--resume", "--set", "visual=3"]) == 2
    assert "is of a run with visual = " in capsys.readouterr().err


def test_two_processes_train_as_one_does(tmp_path):
    "Two processes share one global batch: the same loss curve, until rounding has grown."
    words = [*TINY, "--steps", "12"]
    subprocess.run(
        [*PROGRAM, "discover", *words, "--out", str(tmp_path / "one")],
        check=True,
        env=environment(),
        capture_output=True,
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        str(port),
        "--module",
        "partbook.cli",
    ]
    done = subprocess.run(
        [*launch, "discover", *words, "--out", str(tmp_path / "two")],
        env={**environment(), "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
    )  # its --cpu starts one process only; this way it is gloo
    assert done.returncode == 0, done.stderr[
        -8000:
    ]  # the launcher's summary comes last and is long
    assert (
        json.loads((tmp_path / "two" / "checkpoint" / "checkpoint.json").read_text())["processes"]
        == 2
    )
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(one) == len(two) == 12
    for a, b in zip(one, two):
        for name in ("L_f", "L_c", "L_v", "L_e", "L"):
            assert float(b[name]) == pytest.approx(float(a[name]), rel=1e-5, abs=1e-5), (
                a["step"],
                name,
            )
    assert (
        two[-1]["alive"] == one[-1]["alive"] != "" and two[-1]["dead"] == one[-1]["dead"]
    )  # one of the two looked
    assert float(two[-1]["effective"]) == pytest.approx(float(one[-1]["effective"]), rel=0.02)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_training_on_a_gpu(tmp_path):
    arguments = [a if a != "cpu" else "cuda" for a in TINY]
    assert main(["discover", *arguments, "--out", str(tmp_path)]) == 0
    assert len(rows(tmp_path)) == STEPS


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--set", "visual"], "must be NAME=VALUE"),
        (["--set", "vision=3"], "has no such setting"),
        (["--set", "visual=much"], "expected a value of type float"),
        (["--set", "batch_size=2.5"], "expected a value of type int"),
        (["--set", "symmetrised=1"], "expected a value of type bool"),
        (["--set", "visual=-1"], "none may be negative"),
        (["--set", "network=unet"], "no network named 'unet'"),
        (["--set", "compare=all"], "choose pictures, l2 or views"),
        (["--set", "batch_size=1"], "it needs a batch of at least 2"),
        (["--method", "kmeans", "--resume"], "nothing to take up"),
        (["--method", "kmeans", "--eval-every", "5"], "is not trained step by step"),
    ],
)
def test_wrong_options_get_a_sentence(words, sentence, tmp_path, capsys):
    assert (
        main(
            [
                "discover",
                "--method",
                "contrastive",
                "--size",
                "32",
                "--out",
                str(tmp_path / "new"),
                *words,
            ]
        )
        == 2
    )
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1 and not (tmp_path / "new").exists()


# ---------------------------------------------------------------- parts that die


class Layers(Trained):
    """A network with all that a look could disturb.

    That is: batch statistics, dropout, a module that never trains, the global random numbers. Its
    parts are the pixels of about one brightness, each of one size; `gone` says during which steps
    a part's bias is minus infinity, or nearly.
    """

    registered_name = "layers"
    cures = ("a smaller --set hunger",)

    def __init__(self, settings, gone=None):
        super().__init__(settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.body = nn.Sequential(
                nn.Conv2d(3, 8, 1),
                nn.BatchNorm2d(8),
                nn.Dropout(0.2),
                nn.Conv2d(8, settings.parts, 1),
            )
        self.frozen, self.gone, self.seen = nn.BatchNorm2d(3), gone or {}, []
        self.register_buffer("shift", torch.zeros(settings.parts, 1, 1))

    def train(self, mode=True):
        super().train(mode)
        self.frozen.eval()
        return self

    def logits(self, images):
        torch.rand(1), random.random()
        self.seen.append((len(images), [m.training for m in self.body], torch.is_grad_enabled()))
        rank = (
            images.mean(1)
            .flatten(1)
            .argsort(dim=1, stable=True)
            .argsort(1)
            .view(-1, *images.shape[-2:])
        )
        parts = nn.functional.one_hot(rank * self.parts // rank[0].numel(), self.parts).movedim(
            -1, 1
        )
        return 20 * parts + 0.01 * self.body(self.frozen(images)) + self.shift

    def losses(self, batch, step):
        for k, steps in self.gone.items():
            self.shift[k - 1] = -1e4 * (step.number in steps)
        return {
            "L_t": self.body(self.frozen(batch.images)).square().mean()
            + 0 * self.logits(batch.images).mean()
        }


LAYERS = TrainSettings(parts=5, size=16, steps=14, batch_size=4, lr=0.2)


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
    assert all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values())
    )
    assert [done for done, *_ in seen.looks()] == sorted({*range(look, 15, look), 14})


def test_a_look_is_cheap_and_in_evaluation_mode(little):
    _, method = train(little, look=7)
    looks = [s for s in method.seen if not s[2]]
    assert [n for n, *_ in looks] == [8, 8] * 2 and not any(
        any(modes) for _, modes, _ in looks
    )  # sixteen pictures, twice
    assert len(method.seen) - len(looks) == 14 and any(all(modes) for _, modes, _ in method.seen)


def test_every_module_gets_its_own_mode_back(little):
    method = Layers(LAYERS).train()
    method.body[2].eval()
    before = [m.training for m in method.modules()]
    with pytest.raises(KeyError), undisturbed(method):
        assert not any(m.training for m in method.modules()) and not torch.is_grad_enabled()
        torch.rand(3)
        raise KeyError
    assert (
        [m.training for m in method.modules()] == before
        and torch.is_grad_enabled()
        and True in before
        and before.count(False) == 2
    )


def test_a_dead_part_is_noticed_named_and_counted(little, tmp_path, capsys):
    log, _ = train(little, tmp_path, method=Layers(LAYERS, {2: range(4, 99)}), look=3)
    named = capsys.readouterr().out.splitlines()
    assert log.dead == [2] and [(done, dead) for done, dead, _ in log.looks()] == [
        (3, set()),
        (6, {2}),
        (9, {2}),
        (12, {2}),
        (14, {2}),
    ]
    assert [line.split(":")[0] for line in named] == [
        "Step 9",
        "Step 14",
    ]  # at the second look in a row, and at the end
    assert all(
        ": part 2 occurs in none of 16 pictures since step 6; 4 of 5 parts are left, worth " in line
        for line in named
    )
    assert named[-1].endswith("Try fewer --parts, a smaller --set hunger or another --seed.")
    looked = {int(r["step"]): (r["alive"], r["dead"]) for r in rows(tmp_path) if r["alive"]}
    assert looked == {2: ("5", ""), 5: ("4", "2"), 8: ("4", "2"), 11: ("4", "2"), 13: ("4", "2")}
    assert (
        float(rows(tmp_path)[2]["effective"]) > float(rows(tmp_path)[13]["effective"]) > 2
        and rows(tmp_path)[3]["effective"] == ""
    )


def test_the_sentence_names_several(little, capsys):
    log, _ = train(
        little,
        method=Layers(LAYERS, {1: range(99), 2: range(99), 3: range(5, 99), 5: range(5, 99)}),
        look=2,
    )
    said = capsys.readouterr().out.splitlines()
    assert log.dead == [1, 2, 3, 5] and [line.split(":")[0] for line in said] == [
        "Step 4",
        "Step 8",
        "Step 14",
    ]
    assert (
        "Step 4: parts 1 and 2 occur in none of 16 pictures since step 2; 3 of 5 parts are left"
        in said[0]
    )
    assert (
        "Step 8: parts 3 and 5 occur in none of 16 pictures since step 6; "
        "part 4 has 100 % of the pixels, and nearly that since step 6; 1 of 5 parts is left"
        in said[1]
    )
    assert (
        "parts 1, 2, 3 and 5 occur in none of 16 pictures since step 2 and 6; "
        "part 4 has 100 % of the pixels, and nearly that since step 6; 1 of 5" in said[2]
    )


@pytest.mark.parametrize("gone", [{}, {3: range(4, 8)}, {1: range(3, 6), 2: range(6, 9)}])
def test_nothing_is_said_of_parts_that_come_back(little, capsys, gone):
    log, _ = train(little, method=Layers(LAYERS, gone), look=3)
    assert log.dead == [] and capsys.readouterr().out == ""
    assert [dead for _, dead, _ in log.looks()] == [
        {k for k, steps in gone.items() if done - 1 in steps} for done in (3, 6, 9, 12, 14)
    ]


@pytest.mark.parametrize("stop", [1, 5, 8, 12])
def test_a_resumed_run_has_the_same_looks_and_sentences(little, tmp_path, stop, capsys):
    def watch(number, *_):
        if number == stop:
            raise KeyboardInterrupt

    def starved():
        method = Layers(LAYERS, {2: range(4, 99)})
        method.body[
            2
        ].p = 0.0  # the global random numbers of an interrupted run are not those of another
        return method

    whole, _ = train(little, tmp_path / "whole", method=starved(), look=3, every=2)
    heard = capsys.readouterr().out
    with pytest.raises(KeyboardInterrupt):
        train(little, tmp_path / "cut", method=starved(), look=3, every=2, watch=watch)
    again, _ = train(little, tmp_path / "cut", method=starved(), look=3, every=2, resume=True)
    assert again.rows == whole.rows and again.dead == whole.dead == [2]
    assert (tmp_path / "cut" / "log.csv").read_bytes() == (
        tmp_path / "whole" / "log.csv"
    ).read_bytes()
    later = capsys.readouterr().out
    assert (
        set(later.splitlines()) == set(heard.splitlines())
        and later.splitlines()[-1] == heard.splitlines()[-1]
    )


def test_a_log_from_before_there_were_looks_goes_on(little, tmp_path):
    def watch(number, *_):
        if number == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(little, tmp_path, look=0, every=2, watch=watch)
    old = [
        ",".join(line.split(",")[:-3]) for line in (tmp_path / "log.csv").read_text().splitlines()
    ]
    (tmp_path / "log.csv").write_text("\n".join(old) + "\n")
    log, _ = train(little, tmp_path, look=7, every=2, resume=True)
    assert (
        [done for done, *_ in log.looks()] == [7, 14]
        and len(rows(tmp_path)) == 14
        and rows(tmp_path)[0]["alive"] == ""
    )


def test_a_part_that_was_back_is_named_again(capsys):
    log, said = Log(), []
    for t, pixels in enumerate([(5, 0), (5, 0), (5, 0), (5, 4), (5, 0), (5, 0)], 1):
        c = Census(2)
        c.pixels += torch.tensor(pixels)
        c.pictures += 16 * (c.pixels > 0)
        c.seen = 16
        log.rows.append({"step": t - 1, **columns_of(c)})
        said.append(log.news(c))
    assert (
        [bool(s) for s in said] == [False, True, False, False, False, True]
        and "since step 1;" in said[1]
        and "since step 5;" in said[5]
    )


@pytest.mark.parametrize("shift, labelled", [(-9.0, True), (-1e4, False)])
def test_the_rule_of_scops_does_not_hide_the_dead(little, shift, labelled):
    "A channel of mere noise is labelled all over the picture (Sec. 3.1), and dead all the same."
    method = methods["scops"].build(methods["scops"].Settings(parts=4, size=16)).eval()
    scores = 5 * torch.randn(40, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    method.logits = lambda images: scores
    assert census(method, little, batch_size=40).dead == []
    scores[:, 3] = scores[:, 3] / 100 + shift
    labels = method.labels(little.batch(range(40)).images)
    assert bool((labels == 3).flatten(1).any(1).all()) == labelled
    found = census(method, little, batch_size=40)
    assert found.dead == [3] and found.shares[2] == 0 and found.pictures[2] == 0


# ---------------------------------------------------------------- whose run is this?


class Plain(Trained):
    "A linear layer on colours, and one that is frozen."

    registered_name = "plain"

    def __init__(self, settings, frozen=1.0):
        super().__init__(settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.layer = nn.Conv2d(3, settings.parts, 1)
        self.kept = nn.Parameter(torch.full((3, 1, 1), frozen), requires_grad=False)

    def logits(self, images):
        return self.layer(images * self.kept)

    def losses(self, batch, step):
        noise = torch.rand(len(batch), 1, 1, 1, generator=step.stream("noise"))
        return {"L_t": (self.logits(batch.images + noise) - 1).square().mean()}


class Album(Collection):
    "Text files are the pictures: each holds a brightness."

    def __init__(self, root, least=0):
        self.root, self.least = Path(root), least

    @classmethod
    def open(cls, root=None, split="train", size=None, seed=0, least=0):
        return cls(root, least)

    def files(self):
        return sorted(self.root.glob("*.txt"))

    def __len__(self):
        return len(self.files())

    def __getitem__(self, i):
        return Sample(
            torch.full((3, 16, 16), float(self.files()[i].read_text())), self.files()[i].name
        )


PLAIN = TrainSettings(parts=2, size=16, steps=12, batch_size=3, lr=0.1)


@pytest.fixture
def album(tmp_path):
    folder = tmp_path / "album"
    folder.mkdir()
    for i in range(6):
        (folder / f"p{i}.txt").write_text(f"{i / 10}")
    return folder


def stop_at(number):
    def watch(step, *_):
        if step == number:
            raise KeyboardInterrupt

    return watch


def learn(pictures, out, settings=PLAIN, method=None, **options):
    "A run of the plain method: its log, and the method."
    method = Plain(settings) if method is None else method
    return fit(method, pictures, out, "cpu", look=0, **options), method


def stopped(pictures, out, after=7, every=5, **options):
    with pytest.raises(KeyboardInterrupt):
        learn(pictures, out, every=every, watch=stop_at(after), **options)


def tree(folder):
    "What is in a folder, hidden files too: names and hashes."
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        if p.is_file()
        else None
        for p in sorted(Path(folder).rglob("*"))
    }


def refused(pictures, out, **options):
    "The sentence of a run that has to be refused, and leaves everything as it was."
    before = tree(out) if Path(out).exists() else None
    with pytest.raises(InputError) as error:
        learn(pictures, out, **options)
    assert (tree(out) if Path(out).exists() else None) == before
    said = str(error.value)
    assert said.endswith(".") and "\n" not in said
    return said


@pytest.fixture
def whole(album, tmp_path):
    "Rows and tensors of a run that nobody disturbed."
    log, method = learn(Album(album), tmp_path / "whole", every=5)
    return log.rows, {k: v.clone() for k, v in method.state_dict().items()}


def same_as(whole, log, method):
    rows, tensors = whole
    return log.rows == rows and all(
        torch.equal(method.state_dict()[k], v) for k, v in tensors.items()
    )


def test_the_same_photographs_elsewhere_are_the_same_run(album, whole, tmp_path):
    stopped(Album(album), tmp_path / "out")
    moved = album.rename(tmp_path / "moved")
    assert json.loads((tmp_path / "out" / "checkpoint" / "checkpoint.json").read_text())[
        "identity"
    ] == identity(Album(moved))
    again = learn(Kept(View(Album(moved))), tmp_path / "out", every=5, resume=True)
    assert (
        same_as(whole, *again)
        and (tmp_path / "out" / "log.csv").read_bytes()
        == (tmp_path / "whole" / "log.csv").read_bytes()
    )


@pytest.mark.parametrize(
    "change, words",
    [
        (
            lambda root: [(root / f"p{i}.txt").rename(root / f"q{i}.txt") for i in range(6)],
            "the photographs differ: the first was 'p0.txt', and is now 'q0.txt'",
        ),
        (
            lambda root: (root / "p4.txt").write_text("0.9"),
            "the photographs differ: their names are the same",
        ),
        (
            lambda root: (root / "p6.txt").write_text("0.9"),
            "the photographs differ: there were 6, and now 7",
        ),
    ],
)
def test_other_photographs_are_refused(album, tmp_path, change, words):
    stopped(Album(album), tmp_path / "out")
    change(album)
    said = refused(Album(album), tmp_path / "out", every=5, resume=True)
    assert words in said and "checkpoint.json" in said


def test_other_options_methods_and_weights_are_refused(album, tmp_path):
    stopped(Album(album), tmp_path / "out")
    asked = {"every": 5, "resume": True}
    assert "the option least was 0, and is now 2" in refused(
        Album(album, least=2), tmp_path / "out", **asked
    )
    assert "the photographs differ: there were 6, and now 5" in refused(
        View(Album(album), indices=range(5)), tmp_path / "out", **asked
    )
    assert "frozen layers had other weights" in refused(
        Album(album), tmp_path / "out", method=Plain(PLAIN, 0.5), **asked
    )
    assert "precision = 'no', not 'bf16'" in refused(
        Album(album), tmp_path / "out", precision="bf16", **asked
    )
    guessed = View(Album(album))
    guessed.foreground = "a guess"
    assert "foreground = 'true masks', not 'a guess'" in refused(guessed, tmp_path / "out", **asked)
    record = tmp_path / "out" / "checkpoint" / "checkpoint.json"
    now = record.read_text()
    record.write_text(now.replace('"batch_size": 3', '"batch": 3'))  # an old name
    old = "has the setting ['batch'], which this version of partbook does not know"
    assert old in refused(Album(album), tmp_path / "out", **asked)
    record.write_text(now)
    assert "of a run with batch_size = 3, not 4" in refused(
        Album(album),
        tmp_path / "out",
        settings=TrainSettings(parts=2, size=16, steps=12, batch_size=4, lr=0.1),
        **asked,
    )


@dataclass
class Inside(TrainSettings):
    "A setting that has the name of a fact about the run."

    foreground: bool = False
    precision: float = 0.5


def test_a_setting_may_have_the_name_of_a_fact(album, tmp_path):
    given = {"parts": 2, "size": 16, "steps": 12, "batch_size": 3, "lr": 0.1}
    alone, _ = learn(Album(album), tmp_path / "alone", settings=Inside(**given), every=5)
    stopped(Album(album), tmp_path / "out", settings=Inside(**given))
    asked = {"every": 5, "resume": True}
    assert "foreground = False, not True" in refused(
        Album(album), tmp_path / "out", settings=Inside(foreground=True, **given), **asked
    )
    guessed = View(Album(album))
    guessed.foreground = "a guess"
    assert "foreground = 'true masks', not 'a guess'" in refused(
        guessed, tmp_path / "out", settings=Inside(**given), **asked
    )
    assert (
        learn(Album(album), tmp_path / "out", settings=Inside(**given), **asked)[0].rows
        == alone.rows
    )


def test_nothing_to_take_up(album, tmp_path):
    said = refused(Album(album), tmp_path / "typo", resume=True)
    assert (
        f"no checkpoint in {tmp_path / 'typo' / 'checkpoint'}" in said
        and "nothing to take up" in said
        and not (tmp_path / "typo").exists()
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    assert "other holds notes.txt)" in refused(Album(album), tmp_path / "other", resume=True)


@pytest.mark.parametrize("after", [0, 3])
def test_stopped_before_its_first_checkpoint(album, whole, tmp_path, after, capsys):
    stopped(Album(album), tmp_path / "out", after)
    assert [p.name for p in (tmp_path / "out" / "checkpoint").iterdir()] == ["run.json"]
    other = TrainSettings(parts=3, size=16, steps=12, batch_size=3, lr=0.1)
    assert "run.json is of a run with parts = 2, not 3" in refused(
        Album(album), tmp_path / "out", resume=True, settings=other
    )
    capsys.readouterr()
    assert same_as(whole, *learn(Album(album), tmp_path / "out", every=5, resume=True))
    assert (
        "stopped before its first checkpoint; it starts from the beginning"
        in capsys.readouterr().out
    )


def test_a_new_run_takes_the_place_of_an_old_one_at_once(album, whole, tmp_path):
    "What is taken up later is the new run, never the checkpoint of the old one."
    other = TrainSettings(parts=2, size=16, steps=12, batch_size=3, lr=0.3)
    learn(Album(album), tmp_path / "out", settings=other, every=5)
    stopped(Album(album), tmp_path / "out", 2)
    assert not list((tmp_path / "out" / "checkpoint").glob("state-*"))
    assert same_as(whole, *learn(Album(album), tmp_path / "out", every=5, resume=True))


# ---------------------------------------------------------------- what is in a checkpoint


class Killed(BaseException):
    "The machine stops."


@pytest.mark.parametrize("moment", range(1, 19))
def test_a_checkpoint_survives_a_stop_at_any_moment(album, whole, tmp_path, monkeypatch, moment):
    "The process dies before its `moment`-th change of the disk; resumed, it ends undisturbed."
    count = 0

    def dying(act):
        def maybe(*arguments, **options):
            nonlocal count
            if "partbook-lock" not in str(arguments[0]):
                count += 1
                if count == moment:
                    raise Killed
            return act(*arguments, **options)

        return maybe

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", dying(os.replace))
        patched.setattr(Path, "unlink", dying(Path.unlink))
        try:
            learn(Album(album), tmp_path / "out", every=3)
            assert moment > 12, "too few changes: the test looks at nothing"
        except Killed:
            pass
    begun = list((tmp_path / "out" / "checkpoint").glob("*.json"))
    again = learn(Album(album), tmp_path / "out", every=3, resume=bool(begun))
    assert (
        same_as(whole, *again) and len(list((tmp_path / "out" / "checkpoint").glob("state-*"))) == 1
    )
    assert (tmp_path / "out" / "log.csv").read_bytes() == (
        tmp_path / "whole" / "log.csv"
    ).read_bytes()


def in_record(**changes):
    def change(folder):
        path = folder / "checkpoint.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def in_state(change, sealed=True):
    "Rewrite the tensors; `sealed` also writes their new hash down, as a careful forger would."

    def rewrite(folder):
        path = folder / "state-0000005.safetensors"
        tensors = load_tensors(path)
        tensors = change(tensors) or tensors
        save_file(tensors, path)
        if sealed:
            in_record(tensors={"count": len(tensors), **seal_of(path)})(folder)

    return rewrite


def without(*words):
    return lambda tensors: {k: v for k, v in tensors.items() if not any(w in k for w in words)}


def put(key, value):
    return lambda tensors: {**tensors, key: value(tensors.get(key))}


def halved(folder):
    path = folder / "state-0000005.safetensors"
    path.write_bytes(path.read_bytes()[:300])


def text(content):
    return lambda folder: (folder / "checkpoint.json").write_text(content)


def piped(folder):
    (folder / "checkpoint.json").unlink()
    os.mkfifo(folder / "checkpoint.json")


DAMAGE = {
    "state null": (in_record(state=None), "state is None; it must be 'state-0000005.safetensors'"),
    "state above": (in_record(state="../../x"), "state is '../../x'"),
    "state absolute": (in_record(state="/etc/passwd"), "state is '/etc/passwd'"),
    "state a list": (in_record(state=["a"]), "state is ['a']"),
    "step text": (in_record(step="1"), "step is '1'; it must be a whole number from 1 to 12"),
    "step true": (in_record(step=True), "step is True"),
    "step negative": (in_record(step=-5), "step is -5"),
    "step beyond": (in_record(step=13, state="state-0000013.safetensors"), "step is 13"),
    "step half": (in_record(step=2.5), "step is 2.5"),
    "step another": (
        in_record(step=6, state="state-0000006.safetensors"),
        "no checkpoint's tensors",
    ),
    "settings a list": (in_record(settings=[1]), "its settings are no object"),
    "settings null": (in_record(settings=None), "its settings are no object"),
    "identity gone": (
        in_record(identity=None),
        "does not say which photographs its run learned from, as records of older versions do not",
    ),
    "identity a list": (in_record(identity=[]), "does not say which photographs"),
    "options a list": (
        in_record(identity={"collection": "Album", "options": [1]}),
        "the option least was None, and is now 0",
    ),
    "tensors null": (in_record(tensors=None), "does not say what state-0000005.safetensors holds"),
    "hash of another": (
        in_record(tensors={"count": 8, "bytes": 3, "hash": "0"}),
        "is not the file that checkpoint.json was written with",
    ),
    "record a list": (text("[]"), "was not written by a training run"),
    "record nested": (text('{"step":' + "[" * 100_000), "nested too deep"),
    "record halved": (text('{"step": 5,'), "is not a JSON file"),
    "record a pipe": (piped, "is a pipe or a device"),
    "no memory": (in_state(without("optimiser.")), "holds nothing that the optimiser remembers"),
    "no memory of one": (
        in_state(without("optimiser.0"), sealed=False),
        "is not the file that checkpoint.json was written with",
    ),
    "half a memory": (
        in_state(without("optimiser.0.exp_avg_sq")),
        "lacks 'optimiser.0.exp_avg_sq'",
    ),
    "nan moment": (
        in_state(put("optimiser.1.exp_avg", lambda v: v * torch.nan)),
        "values in 'optimiser.1.exp_avg' that no training leaves there",
    ),
    "infinite moment": (
        in_state(put("optimiser.1.exp_avg", lambda v: v + torch.inf)),
        "values in 'optimiser.1.exp_avg'",
    ),
    "negative square": (
        in_state(put("optimiser.0.exp_avg_sq", lambda v: -v - 1)),
        "values in 'optimiser.0.exp_avg_sq'",
    ),
    "moment of another shape": (
        in_state(put("optimiser.0.exp_avg", lambda v: v[:1])),
        "has shape (1, 3, 1, 1) and type torch.float32 for 'optimiser.0.exp_avg'",
    ),
    "whole moment": (in_state(put("optimiser.0.exp_avg", lambda v: v.long())), "type torch.int64"),
    "memory of nobody": (
        in_state(put("optimiser.7.exp_avg", lambda _: torch.zeros(1))),
        "'optimiser.7.exp_avg', which is nothing this optimiser remembers",
    ),
    "memory of another optimiser": (
        in_state(put("optimiser.0.momentum_buffer", lambda _: torch.zeros(1))),
        "'optimiser.0.momentum_buffer', which is nothing",
    ),
    "stray tensor": (in_state(put("hello", lambda _: torch.zeros(1))), "'hello', which is nothing"),
    "parameter missing": (
        in_state(without("method.layer.bias")),
        "lacks 'method.layer.bias', which this method learns",
    ),
    "parameter too many": (
        in_state(put("method.kept", lambda _: torch.zeros(3, 1, 1))),
        "has 'method.kept', which this method does not learn",
    ),
    "parameter nan": (
        in_state(put("method.layer.bias", lambda v: v * torch.nan)),
        "not finite in 'layer.bias'",
    ),
    "another value": (
        in_state(put("method.layer.bias", lambda v: v + 1), sealed=False),
        "is not the file that checkpoint.json was written with",
    ),
    "state halved": (halved, "not a complete safetensors file"),
    "state gone": (
        lambda folder: (folder / "state-0000005.safetensors").unlink(),
        "There is no checkpoint's tensors",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_refused_by_name(album, tmp_path, kind):
    change, words = DAMAGE[kind]
    stopped(Album(album), tmp_path / "out")
    change(tmp_path / "out" / "checkpoint")
    before = tree(tmp_path / "out") if kind != "record a pipe" else None
    method = Plain(PLAIN)
    with pytest.raises(InputError) as error:
        learn(Album(album), tmp_path / "out", method=method, every=5, resume=True)
    said = str(error.value)
    assert words in said and said.endswith(".") and "\n" not in said, said
    assert before is None or tree(tmp_path / "out") == before
    assert all(
        torch.equal(a, b)
        for a, b in zip(method.state_dict().values(), Plain(PLAIN).state_dict().values())
    )


def test_the_record_of_one_run_with_the_tensors_of_another(album, tmp_path):
    stopped(Album(album), tmp_path / "out")
    stopped(
        Album(album),
        tmp_path / "other",
        settings=TrainSettings(parts=2, size=16, steps=12, batch_size=3, lr=0.1, seed=1),
    )
    shutil.copy(
        tmp_path / "other" / "checkpoint" / "state-0000005.safetensors",
        tmp_path / "out" / "checkpoint",
    )
    assert "the two are of different checkpoints" in refused(
        Album(album), tmp_path / "out", every=5, resume=True
    )


@pytest.mark.parametrize(
    "optimiser, momentum, remembered", [("adamw", 0.9, 6), ("sgd", 0.9, 2), ("sgd", 0.0, 0)]
)
def test_what_each_optimiser_remembers_is_taken_up(
    album, tmp_path, optimiser, momentum, remembered
):
    settings = TrainSettings(
        parts=2, size=16, steps=12, batch_size=3, lr=0.1, optimiser=optimiser, momentum=momentum
    )
    alone = learn(Album(album), tmp_path / "alone", settings=settings, every=5)
    stopped(Album(album), tmp_path / "out", settings=settings)
    record = json.loads((tmp_path / "out" / "checkpoint" / "checkpoint.json").read_text())
    assert record["tensors"]["count"] == 2 + remembered and record["step"] == 5
    again = learn(Album(album), tmp_path / "out", settings=settings, every=5, resume=True)
    assert again[0].rows == alone[0].rows and torch.equal(
        again[1].layer.weight, alone[1].layer.weight
    )


# ---------------------------------------------------------------- the log and its neighbours


@pytest.mark.parametrize(
    "mark, end, start", [(";", "\r\n", "\ufeff"), ("\t", "\n", ""), (",", "\r\n", "\ufeff")]
)
def test_a_log_that_a_spreadsheet_saved_goes_on(album, whole, tmp_path, mark, end, start):
    stopped(Album(album), tmp_path / "out")
    path = tmp_path / "out" / "log.csv"
    path.write_text(start + path.read_text().replace(",", mark).replace("\n", end), newline="")
    assert same_as(whole, *learn(Album(album), tmp_path / "out", every=5, resume=True))
    assert path.read_bytes() == (tmp_path / "whole" / "log.csv").read_bytes()


@pytest.mark.parametrize(
    "content, words",
    [
        ("day,weight\n1,80\n", "it begins with 'day,weight'"),
        ("step,weight\n1,80\n", "it begins with 'step,weight'"),
        ("my notes", "it begins with 'my notes'"),
        (
            "step,L_t,L,gradient,lr,alive,effective,dead\n0,a,1,1,1,,,\n1,1,1,1,1,,,\n",
            "line 2: '0,a,1,1,1,,,' is not a row of this log",
        ),
        (
            "step,L_t,L,gradient,lr,alive,effective,dead\n0,1,1,1,1,,,\n2,1,1,1,1,,,\n",
            "line 3: '2,1,1,1,1,,,' is not the next step",
        ),
        (
            "step,L_t,L,gradient,lr,alive,effective,dead\n0,1,1\n1,1,1,1,1,,,\n",
            "line 2: '0,1,1' is not a row",
        ),
        (
            "step;L_t;L;gradient;lr;alive;effective;dead\n0;1,5;1,5;1;0,1;;;\n",
            "line 2: '0;1,5;1,5;1;0,1;;;' is not a row",
        ),
        (b"step,L_t,lr\n0,\xff,1\n", "is not text in UTF-8 (byte 14)"),
    ],
)
def test_a_log_that_is_none_stays_as_it_is(album, tmp_path, content, words):
    stopped(Album(album), tmp_path / "out")
    path = tmp_path / "out" / "log.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert words in refused(Album(album), tmp_path / "out", every=5, resume=True)


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("log.csv", "day,weight\n1,80\n", "is not the log of a training run"),
        ("checkpoint", "mine", "is no folder, so no checkpoint can be written"),
        ("checkpoint/checkpoint.json", '{"mine": 1}', "was not written by a training run"),
        ("checkpoint/run.json", "[1, 2]", "was not written by a training run"),
        ("checkpoint/checkpoint.json", "my notes", "is not a JSON file"),
    ],
)
def test_a_new_run_leaves_files_of_ones_own_alone(album, tmp_path, name, content, words):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert words in refused(Album(album), tmp_path / "out")


def test_a_new_run_removes_nothing_but_its_own_kind(album, tmp_path):
    folder = tmp_path / "out" / "checkpoint"
    folder.mkdir(parents=True)
    for name in ("state-of-affairs.safetensors", "notes.txt", "state-0000001.safetensors.bak"):
        (folder / name).write_text(name)
    learn(Album(album), tmp_path / "out", every=4)
    for name in ("state-of-affairs.safetensors", "notes.txt", "state-0000001.safetensors.bak"):
        assert (folder / name).read_text() == name


def test_a_disk_that_fills_up_while_the_log_grows(album, whole, tmp_path):
    "The rows that were there stay, and the run goes on from its checkpoint."
    stopped(Album(album), tmp_path / "out")
    long = {
        "settings": TrainSettings(parts=2, size=16, steps=200, batch_size=3, lr=0.1),
        "every": 1000,
    }
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))
    try:
        with pytest.raises(InputError) as error:
            learn(Album(album), tmp_path / "long", **long)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = str(error.value)
    assert "log.csv cannot be written (" in said and said.endswith(".") and "\n" not in said
    there = read_log(tmp_path / "long" / "log.csv")
    assert (
        40 < len(there) < 190
        and [r["step"] for r in there] == list(range(len(there)))
        and len(there) % 10 == 0
    )
    assert (tmp_path / "long" / "log.csv").read_text().endswith("\n")
    again, _ = learn(Album(album), tmp_path / "long", resume=True, **long)
    assert again.rows[: len(there)] == there and len(again.rows) == 200


def test_a_lost_log_is_said(album, tmp_path, capsys):
    stopped(Album(album), tmp_path / "out")
    (tmp_path / "out" / "log.csv").unlink()
    log, _ = learn(Album(album), tmp_path / "out", every=5, resume=True)
    assert "log.csv lacks 5 of the first 5 steps" in capsys.readouterr().out and [
        r["step"] for r in log.rows
    ] == list(range(5, 12))


def test_two_runs_in_one_folder(album, whole, tmp_path):
    lines = [
        "import sys",
        "from partbook.files import only_run",
        "with only_run(sys.argv[1], 'another'):",
    ]
    lines += ["    print('held', flush=True)", "    sys.stdin.read()"]
    words = [sys.executable, "-c", "\n".join(lines), str(tmp_path / "out")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(
            InputError, match=f"Another run is writing to .*out .process {other.pid}: another"
        ):
            learn(Album(album), tmp_path / "out", every=5)
        other.stdin.close()
    assert same_as(whole, *learn(Album(album), tmp_path / "out", every=5))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["checkpoint", "log.csv"]


def test_bars_are_closed_before_anything_is_said(album, tmp_path, monkeypatch, capsys):
    closed = []

    class Bar(training.tqdm):
        def close(self):
            closed.append(True)
            super().close()

    monkeypatch.setattr(training, "tqdm", Bar)
    monkeypatch.setattr(training, "nobody_watches", lambda: False)
    stopped(Album(album), tmp_path / "out")
    assert closed


@pytest.mark.parametrize(
    "options, words",
    [
        ({"every": 0}, "between checkpoints is 0; it must be at least 1"),
        ({"every": -1}, "is -1"),
        ({"every": True}, "is True"),
        ({"workers": 10**6}, "at most 256 threads"),
        ({"workers": -1}, "cannot be negative"),
        ({"out": ""}, "The folder of the run is empty"),
    ],
)
def test_numbers_that_mean_nothing(album, tmp_path, options, words):
    given = {"out": tmp_path / "out", **options}
    with pytest.raises(InputError, match=words):
        learn(Album(album), given.pop("out"), **given)
    assert not (tmp_path / "out" / "log.csv").exists()


def test_the_largest_seed_has_its_order():
    order = training.one_pass(3, 10, 2**63 - 1)
    assert sorted(order) == list(range(10)) and order != training.one_pass(4, 10, 2**63 - 1)
    assert (
        training.one_pass(3, 10, 5)
        == torch.randperm(10, generator=torch.Generator().manual_seed((5 << 20) + 3)).tolist()
    )


@pytest.mark.parametrize(
    "content, words",
    [
        ("day,weight\n1,80\n", "line 2: this is not a row of a validation"),
        ("step,fg_nmi\n5,1\nfive,2\n", "line 3: this is not"),
        ("step;fg_nmi\n5;1\n", "has semicolons"),
        ("", "is empty"),
    ],
)
@pytest.mark.parametrize("resume", [False, True])
def test_a_validation_file_of_ones_own(tmp_path, content, words, resume):
    path = tmp_path / "validation.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=words):
        validate(collections["birds"].open(split="val", size=16), 5, path, resume=resume)
    assert path.read_text() == content


# ---------------------------------------------------------------- how fast it is


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["losses", "--method", "scops"], "leave --method scops out"),
        (["memory", "--method", "scops"], "leave --method scops out"),
        (["step", "--method", "kmeans"], "no published settings to measure"),
        (["step", "--method", "taste"], "no method named 'taste'"),
    ],
)
def test_benchmarks_that_cannot_be(words, sentence, capsys):
    assert benchmarks.main(words) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


@pytest.mark.parametrize("method", ["contrastive", "scops"])
def test_a_step_is_measured_for_every_method(method, tmp_path, monkeypatch):
    monkeypatch.setattr(
        benchmarks,
        "settings_of",
        lambda given: methods[given.method].Settings(size=32, batch_size=2, parts=2),
    )
    monkeypatch.setattr(
        benchmarks,
        "run_benchmark",
        lambda given: benchmarks.look_benchmark(benchmarks.settings_of(given), None, 1),
    )
    assert (
        benchmarks.main(
            ["look", "--method", method, "--repeats", "1", "--write", "--results", str(tmp_path)]
        )
        == 0
    )
    (row,) = read_rows(tmp_path / "training.csv")
    assert (row["method"], row["network"], row["size"], row["pictures"], row["every"]) == (
        method,
        "Light",
        32,
        16,
        50,
    )
    assert row["ratio"] == row["seconds_look"] / (50 * row["seconds_step"])
    assert row["command"] == (
        f"python -m partbook.training.benchmarks look --method {method} --repeats 1 --write "
        "--results FOLDER"
    )


def test_the_paper_sizes_of_each_method():
    given = argparse.Namespace(what="step", method="scops", light=False, batch_size=6, fresh=True)
    scops = benchmarks.settings_of(given)
    assert (scops.parts, scops.size, scops.batch_size, scops.network_weights, scops.once) == (
        8,
        256,
        6,
        "random",
        False,
    )
    given.method = "contrastive"
    assert benchmarks.settings_of(given) == methods["contrastive"].Settings.published(
        batch_size=6, network_weights="random"
    )
    given.light = True
    assert benchmarks.settings_of(given) == methods["contrastive"].Settings(size=96, batch_size=6)


def test_scops_resumes_in_the_middle_of_a_pass(tmp_path):
    "What is kept of a picture depends on it alone: its company differs after a stop."
    from partbook.data.folder import Folder
    from partbook.features.foreground import learn_inside

    for i in range(6):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.effect_noise((40, 32), 40 + 10 * i).convert("RGB").save(
            tmp_path / "photos" / f"{i}.png"
        )

    def trained(out, stop=None, resume=False):
        cls = methods["scops"]
        method = cls.build(cls.Settings(parts=2, size=32, steps=6, batch_size=2))
        pictures = learn_inside(
            Folder.open(tmp_path / "photos", size=32), method.foreground, method.extractor
        )

        def watch(step, *_):
            if step == stop:
                raise KeyboardInterrupt

        fit(method, pictures, out, "cpu", resume, every=1, watch=watch)
        return method.state_dict()

    whole = trained(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "stopped", stop=1)
    again = trained(tmp_path / "stopped", resume=True)
    assert all(torch.equal(whole[k], again[k]) for k in whole)
