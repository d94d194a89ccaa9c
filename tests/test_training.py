"""Training as its users meet it: real processes, killed and resumed, one or two of them, and the numbers they leave behind."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from partbook.cli import main
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
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "two" / "checkpoint" / "checkpoint.json").read_text())["processes"] == 2
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(one) == len(two) == 12
    for a, b in zip(one, two):
        for name in ("L_f", "L_c", "L_v", "L_e", "L"):
            assert float(b[name]) == pytest.approx(float(a[name]), rel=1e-5, abs=1e-5), (a["step"], name)


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
