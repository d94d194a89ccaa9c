"""Runs killed at random moments: nothing half-written is taken for whole, the next run ends right.

    python tests/kills.py [--kills N] [--seed S] [--job J] [--record CSV]

This process imports everything once. Each trial forks it, runs a command in the child and sends
SIGKILL at a random moment of the run. Then every file is opened, the command runs again (trained
methods with --resume), and the result has to be bit-equal to that of a run that nobody disturbed.
"""

import argparse
import csv
import json
import os
import re
import shutil
import signal
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import numpy as np  # noqa: E402
from hostile_kit import drawn, encoded, photographs, put, run, small_and_alone  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from partbook.cli import main as partbook  # noqa: E402
from partbook.evaluation.results import append_row, print_table, read_rows  # noqa: E402
from partbook.files import LOCK, TEMPORARY  # noqa: E402

TRAIN = (
    "--size",
    32,
    "--parts",
    3,
    "--steps",
    12,
    "--set",
    "batch_size=2",
    "--checkpoint-every",
    2,
    "--no-baselines",
)
CLOSED = ("--size", 32, "--parts", 3, "--no-baselines")
VARIES = ("seconds", "command", "date", "hardware")  # of a record, from run to run


REFUSED = (
    "Invalid thread pool"  # what PyTorch now and then says in a forked process: one crash more
)


@dataclass
class Job:
    "A command that writes below `out`, and how it is taken up again."

    name: str
    words: Callable[[Path], list]
    resume: tuple[str, ...] = ()
    times: int = 1  # how often it is called in a run
    grows: bool = False  # each call adds to what is there


class Stage:
    "What all jobs read, and the jobs."

    def __init__(self, folder: Path):
        self.folder = folder
        self.photos = photographs(folder / "photos", 8)
        for k in range(8, 14):
            put(folder / "more" / f"p{k}.jpg", encoded(drawn(k, (160, 120))[0], "JPEG"))
        quick = ("--features", "rgb", "--size", 16, "--parts", 3, "--steps", 1, "--no-baselines")
        assert run("discover", "--data", self.photos, *quick, "--out", folder / "m") == 0
        with tarfile.open(folder / "a.tar.gz", "w:gz") as archive:
            for k in range(400):
                path = put(folder / "files" / f"d{k % 20}" / f"{k}.bin", bytes([k % 256]) * 3000)
                archive.add(path, path.relative_to(folder))
        self.jobs = {job.name: job for job in self._jobs()}

    def _discover(self, method: str, *words) -> Callable[[Path], list]:
        start = ["discover", "--data", self.photos, "--method", method, *words]
        return lambda out: [*start, "--out", out]

    def _jobs(self) -> list[Job]:
        model, resume = self.folder / "m" / "model", ("--resume",)
        return [
            Job("kmeans", self._discover("kmeans", *CLOSED)),
            Job("dff", self._discover("dff", *CLOSED)),
            Job("contrastive", self._discover("contrastive", *TRAIN), resume),
            Job("scops", self._discover("scops", *TRAIN), resume),
            Job(
                "cache", lambda out: [*self._discover("kmeans", *CLOSED)(out), "--cache", out / "c"]
            ),
            Job(
                "segment",
                lambda out: ["segment", model, self.photos, self.folder / "more", "--out", out],
            ),
            Job(
                "saliency",
                lambda out: ["saliency", self.folder / "more", "--patches", 60, "--out", out],
            ),
            Job("unpack", lambda out: ["unpack", self.folder / "a.tar.gz", "--out", out]),
            Job(
                "record",
                lambda out: ["evaluate", model, "--root", self.photos, "--record", out / "r.csv"],
                times=6,
                grows=True,
            ),
        ]


# ----------------------------------------------------------------------------------------- running


def start(words: list, times: int, said: Path) -> int:
    "Run a command in a fork of this process, its words in a file; the child's number."
    child = os.fork()
    if child:
        return child
    status = 3
    try:
        handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
        for _ in range(times):
            status = partbook([os.fspath(w) if isinstance(w, Path) else str(w) for w in words])
        sys.stdout.flush()
        sys.stderr.flush()
    except SystemExit as stop:
        status = stop.code
    except BaseException as error:
        print(f"Traceback: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def end(child: int) -> int:
    "The exit status of a child; negative when a signal ended it."
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed(words: list, times: int, after: float, said: Path) -> bool:
    "Start a command and kill it; whether it was still running."
    child = start(words, times, said)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    return end(child) == -signal.SIGKILL


# ----------------------------------------------------------------------------------------- judging


def is_temporary(name: str) -> bool:
    return bool(TEMPORARY.match(name)) or name.startswith((".unpacking-", ".partbook-", ".parts-"))


def paths(out: Path) -> list[Path]:
    "Everything below a folder that is no temporary file, nor in one."
    found = []
    for place, folders, files in os.walk(out):
        folders[:] = [f for f in folders if not is_temporary(f)]
        found += [Path(place) / f for f in files if not is_temporary(f)]
    return sorted(found)


def broken(out: Path) -> list[str]:
    "Files that cannot be opened as what they are called."
    found = []
    for path in paths(out):
        try:
            if path.suffix == ".png":
                Image.open(path).load()
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".csv":
                with path.open(newline="") as file:
                    widths = {len(row) for row in csv.reader(file, strict=True)}
                assert len(widths) == 1, f"rows of {widths} fields"
            elif path.suffix == ".safetensors":
                load_file(path)
            elif path.suffix == ".npy":
                np.load(path)
        except Exception as error:
            found.append(f"{path.relative_to(out)} is taken for whole ({error})")
    return found


def left(out: Path) -> list[str]:
    "Temporary files and locks that are still there."
    found = [f for place in os.walk(out) for f in (*place[1], *place[2])]
    return [f"left {f} behind" for f in found if is_temporary(f) or f == LOCK]


def _without(record: Any, names: tuple[str, ...]) -> Any:
    if isinstance(record, dict):
        return {k: _without(v, names) for k, v in record.items() if k not in names}
    return record


def result(job: Job, out: Path) -> dict[str, Any]:
    "What a job leaves, without what differs from run to run."
    found: dict[str, Any] = {}
    for path in paths(out):
        name = path.relative_to(out).as_posix()
        if path.suffix == ".json":
            found[name] = _without(json.loads(path.read_text()), VARIES)
        elif job.grows:
            found[name] = [_without(row, VARIES) for row in read_rows(path)]
        elif path.suffix == ".html":  # it prints the command, which ends in --resume after a kill
            found[name] = re.sub(rb"<pre.*?</pre>", b"", path.read_bytes(), flags=re.S)
        else:
            found[name] = path.read_bytes()
    return found


def differs(job: Job, out: Path, expected: dict[str, Any]) -> list[str]:
    "Where a job's result is another than that of an undisturbed run."
    try:
        found = result(job, out)
    except Exception as error:
        return [f"the result cannot be read: {error}"]
    names = sorted({*found, *expected})
    return [
        f"{n} differs from the undisturbed run" for n in names if found.get(n) != expected.get(n)
    ]


@dataclass
class Tally:
    kills: int = 0
    again: int = 0  # runs that ended by themselves before their kill
    seconds: float = 0.0  # of an undisturbed run
    failures: list[str] = field(default_factory=list)


class Trials:
    "Undisturbed runs, and disturbed ones held against them."

    def __init__(self, stage: Stage, seed: int, tell: Callable[[str], None] = lambda line: None):
        self.stage, self.tell = stage, tell
        self.rng = np.random.default_rng(seed)
        self.tallies: dict[str, Tally] = {}
        self.expected: dict[str, dict[str, Any]] = {}
        self.count = 0

    def undisturbed(self, job: Job) -> None:
        "Run a job twice, here and in a child: what it leaves, and how long it takes."
        if job.name in self.expected:
            return
        tally = self.tallies[job.name] = Tally()
        here, there = (self.stage.folder / f"{job.name}-{k}" for k in ("here", "there"))
        for _ in range(job.times):
            assert run(*job.words(here)) == 0, job.name
        begun = time.perf_counter()
        assert end(start(job.words(there), job.times, self.stage.folder / "said")) == 0, job.name
        tally.seconds = time.perf_counter() - begun
        os.environ.pop("PARTBOOK_CACHE", None)
        self.expected[job.name] = result(job, here)
        tally.failures += [f"{job.name}: {d}" for d in differs(job, there, self.expected[job.name])]

    def fail(self, job: Job, wrong: list[str], what: str) -> None:
        for sentence in wrong[:2]:
            self.tallies[job.name].failures.append(f"{job.name}, {what}: {sentence}")
            self.tell(self.tallies[job.name].failures[-1])

    def folder(self, job: Job) -> Path:
        self.count += 1
        return self.stage.folder / f"{job.name}-{self.count}"

    def disturb(self, job: Job) -> int:
        "One trial: up to two kills, then the run that has to end right; how many kills."
        self.undisturbed(job)
        tally, out, said = self.tallies[job.name], self.folder(job), self.stage.folder / "said"
        kills, moments = 0, []
        for k in range(1 + int(self.rng.random() < 0.3)):
            after = float(self.rng.uniform(0, tally.seconds))
            words = job.words(out) if k == 0 else self.words_again(job, out)
            if killed(words, job.times, after, said):
                kills += 1
                moments.append(f"{after:.3f} s")
            else:
                tally.again += 1
            self.fail(job, broken(out), f"killed after {after:.3f} s")
        what = f"killed after {' and '.join(moments) or 'its end'}"
        if job.grows:
            self.fail(job, self.grown(job, out), what)
        else:
            self.fail(job, self.ended(job, out), what)
        self.fail(job, left(out), what)
        tally.kills += kills
        shutil.rmtree(out, ignore_errors=True)
        return kills

    def words_again(self, job: Job, out: Path) -> list:
        "The command that takes a job up: without --resume where there is nothing to resume."
        there = (out / "checkpoint" / "checkpoint.json").exists()
        return [*job.words(out), *(job.resume if there else ())]

    def ended(self, job: Job, out: Path) -> list[str]:
        "Run a job to its end; what is wrong with that."
        said = self.stage.folder / "said"
        for _ in range(3):
            status = end(start(self.words_again(job, out), 1, said))
            if REFUSED not in said.read_text(errors="replace"):
                break
        wrong = differs(job, out, self.expected[job.name])
        if status == 0 or job.name == "unpack" and status == 2 and not wrong:
            return wrong  # an archive that was unpacked already may be refused
        last = said.read_text(errors="replace").strip().splitlines()[-1:]
        return [f"running again ends with {status}: {''.join(last)[:200]}"]

    def grown(self, job: Job, out: Path) -> list[str]:
        "One more call adds one row and leaves the others as they were."
        table = out / "r.csv"
        before = table.read_text().splitlines() if table.exists() else []
        status = end(start(job.words(out), 1, self.stage.folder / "said"))
        after = table.read_text().splitlines() if table.exists() else []
        if status != 0:
            return [f"a further row ends with {status}"]
        if after[: len(before)] != before or len(after) != max(2, len(before) + 1):
            return [f"{len(before)} lines became {len(after)}"]
        return []

    def together(self, job: Job, kill: bool) -> int:
        "Two runs at once in one folder, one of them perhaps killed; how many kills."
        self.undisturbed(job)
        tally, out = self.tallies[job.name], self.folder(job)
        said = [self.stage.folder / f"said{k}" for k in range(2)]
        one = start(job.words(out), job.times, said[0])
        time.sleep(float(self.rng.uniform(0, tally.seconds / 2)))
        two = start(job.words(out), job.times, said[1])
        if kill:
            time.sleep(float(self.rng.uniform(0, tally.seconds / 2)))
            os.kill(one, signal.SIGKILL)
        statuses = end(one), end(two)
        kills = int(statuses[0] == -signal.SIGKILL)
        what = f"two at once ({statuses[0]}, {statuses[1]})"
        wrong = broken(out)
        for status, text in zip(statuses, said, strict=True):
            lines = text.read_text(errors="replace").strip().splitlines()[-1:]
            if (
                status not in (0, 2, -signal.SIGKILL)
                or status == 2
                and "partbook: " not in lines[0]
            ):
                wrong.append(f"one ends with {status}: {''.join(lines)[:200]}")
        if not kills and 0 not in statuses:
            wrong.append("neither ended well")
        if job.grows:
            rows = len(read_rows(out / "r.csv"))
            least = job.times * (2 - kills) if statuses[1] == 0 else 0
            wrong += [f"{rows} rows, not {least}"] if rows < least else []
        elif kills:
            wrong += self.ended(job, out)
        else:
            wrong += differs(job, out, self.expected[job.name])
        self.fail(job, [*wrong, *left(out)], what)
        tally.kills += kills
        shutil.rmtree(out, ignore_errors=True)
        return kills


PAIRS = ("contrastive", "kmeans", "segment", "saliency", "unpack", "record")


def kill(
    kills: int = 60,
    seed: int = 0,
    names: list[str] | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Tally]:
    "Kill runs until there were so many kills; what came of it, by job."
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    try:
        with small_and_alone():
            return _trials(folder, kills, seed, names, tell)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _trials(folder: Path, kills: int, seed: int, names: list[str] | None, tell: Callable):
    stage = Stage(folder)
    trials, done, turn = Trials(stage, seed, tell), 0, 0
    chosen = names or list(stage.jobs)
    while done < kills:
        job = stage.jobs[chosen[turn % len(chosen)]]
        lap = turn // len(chosen)
        done += trials.disturb(job)
        if job.name in PAIRS and lap and done < kills:
            done += trials.together(job, kill=lap % 2 == 0)
        turn += 1
    return trials.tallies


def record(path: str, tallies: dict[str, Tally], seed: int, seconds: float) -> None:
    "A row of the counts."
    row = {"benchmark": "random kills", "kills": sum(t.kills for t in tallies.values())}
    row["failures"] = sum(len(t.failures) for t in tallies.values())
    row |= {f"{name}.kills": t.kills for name, t in tallies.items()}
    command = " ".join(["python", "tests/kills.py", *sys.argv[1:]])
    append_row(path, row, seed=seed, seconds=seconds, command=command)


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--kills", type=int, default=60, help="how many (default: 60)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--job", action="append", help="only this job; may be repeated")
    p.add_argument("--record", metavar="CSV", help="append the counts as a row")
    args = p.parse_args()
    begun = time.perf_counter()
    tallies = kill(args.kills, args.seed, args.job, lambda line: print(line, flush=True))
    print_table(
        [
            {
                "job": n,
                "kills": t.kills,
                "ended before": t.again,
                "undisturbed": t.seconds,
                "failures": len(t.failures),
            }
            for n, t in tallies.items()
        ],
        digits=2,
    )
    if args.record:
        record(args.record, tallies, args.seed, time.perf_counter() - begun)
    print(f"{sum(t.kills for t in tallies.values())} kills in {time.perf_counter() - begun:.0f} s")
    return int(any(t.failures for t in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
