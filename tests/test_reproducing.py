"""`partbook reproduce`: finished runs stay, stopped ones go on, several processes lose no row."""

import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import run

import partbook as pb
from partbook.cli import request_from
from partbook.core import InputError
from partbook.evaluation.results import append_row, read_rows
from partbook.evaluation.tables import (
    Entry,
    all_rows,
    at_quick_settings,
    paper_settings,
    seconds_for,
    tables,
)
from partbook.reproducing import (
    Asked,
    Job,
    carry_out_all,
    carry_out_on_cluster,
    in_hours,
    jobs_of,
    minutes_for,
    submit,
)

ROOT = Path(__file__).resolve().parents[1]
TINY = """
from partbook.evaluation.tables import Entry, PaperTable, tables

NAMED = {"limit": 16, "size": 32, "steps": 12, "batch-size": 4}


@tables.register("tiny-1")
def tiny():
    "One trained run and one that is not, on a few faces."
    how = {"protocol": ("unmasked", "census")}
    error = ("landmark_error", "landmark_error_bare")
    trained = Entry("trained", *error, "contrastive", 3, "celeba", "faces", named=NAMED, **how)
    few = {"limit": 16, "size": 32}
    colours = dict(few, features="rgb")
    plain = Entry("colours", *error, "kmeans", 3, "celeba", "faces", named=colours, **how)
    return PaperTable("tiny, Table 1", "A tiny table", (trained, plain))
"""


HOLDER = """
import sys
from partbook.files import only_run
with only_run(sys.argv[1], "somebody else"):
    print("held", flush=True)
    input()
"""


@pytest.fixture
def tell(capsys):
    "The status of a command, and what it printed on both streams."

    def told(*words):
        capsys.readouterr()
        status = run(*words)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return told


@pytest.fixture(autouse=True)
def as_many_threads(monkeypatch):
    "Programs that a test starts have its number of threads: sums depend on it in the last digits."
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("module") / "tiny_tables.py"
    path.write_text(TINY)
    return path


def words_of(tmp_path, tiny, name="a", *more):
    words = ["--plugin", str(tiny), "reproduce", "tiny-1", "--embedded", "--seeds", "1"]
    words += ["--out", str(tmp_path / name), "--results", str(tmp_path / f"{name}-results")]
    return [*words, "--device", "cpu", "--checkpoint-every", "3", *more]


def numbers(folder):
    rows = read_rows(folder / "tables.csv")
    kept = ("method", "landmark_error", "landmark_error_bare", "iou", "painted", "parts_alive")
    return sorted(tuple(str(row[name]) for name in kept) for row in rows)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, tiny):
    place = tmp_path_factory.mktemp("undisturbed")
    assert run(*words_of(place, tiny, "whole")) == 0
    return numbers(place / "whole-results")


def start(tmp_path, tiny, name):
    command = [sys.executable, "-m", "partbook.cli", *words_of(tmp_path, tiny, name)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL)


def test_a_run_that_is_killed_twice_ends_with_the_same_table(tmp_path, tiny, undisturbed, tell):
    for least in (3, 6):
        process = start(tmp_path, tiny, "killed")
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and process.poll() is None:
            states = list((tmp_path / "killed").glob("runs/contrastive-*/checkpoint/state-*"))
            steps = [int("".join(filter(str.isdigit, p.name)) or 0) for p in states]
            if steps and max(steps) >= least:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    status, out, err = tell(*words_of(tmp_path, tiny, "killed"))
    assert status == 0, err
    assert numbers(tmp_path / "killed-results") == undisturbed
    status, out, _ = tell(*words_of(tmp_path, tiny, "killed"))
    assert status == 0 and "nothing left to run" in out
    assert len(read_rows(tmp_path / "killed-results" / "tables.csv")) == 2


def test_dry_run_prints_commands_and_writes_nothing(tmp_path, tiny, tell):
    status, out, _ = tell(*words_of(tmp_path, tiny, "dry", "--dry-run"))
    assert status == 0 and out.count("open   partbook discover") == 2
    assert "no row says how long" in out
    assert not (tmp_path / "dry").exists() and not (tmp_path / "dry-results").exists()


def test_the_printed_command_makes_the_same_row(tmp_path, tiny, undisturbed, tell):
    _, out, _ = tell(*words_of(tmp_path, tiny, "typed", "--dry-run"))
    for line in out.splitlines():
        if line.startswith("open"):
            assert run(*shlex.split(line)[2:]) == 0
    assert numbers(tmp_path / "typed-results") == undisturbed


def _record(path, who):
    for n in range(100):
        append_row(path, {"who": who, "n": n}, {"parts": 1}, 0, 1.0, f"partbook {who} {n}")


def test_two_processes_with_a_hundred_rows_each_leave_two_hundred(tmp_path):
    path = tmp_path / "rows.csv"
    both = [
        multiprocessing.get_context("fork").Process(target=_record, args=(path, who))
        for who in ("a", "b")
    ]
    for process in both:
        process.start()
    for process in both:
        process.join()
    rows = read_rows(path)
    assert sorted((r["who"], r["n"]) for r in rows) == sorted(
        (who, n) for who in ("a", "b") for n in range(100)
    )


def test_a_run_that_another_process_is_busy_with_is_passed_over(tmp_path, tiny):
    from partbook.contract import plugin

    plugin(str(tiny))
    asked = Asked(
        ("tiny-1",), True, seeds=(0,), out=tmp_path / "b", results=tmp_path / "r", read=request_from
    )
    jobs, missing = jobs_of(asked)
    assert missing == [] and len(jobs) == 2
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(jobs[0].folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"held\n"
    failed = carry_out_all(jobs, asked, lambda *_: None)
    holder.communicate(b"\n")
    assert len(failed) == 1 and jobs[0].folder.name in failed[0]
    assert [row["method"] for row in read_rows(tmp_path / "r" / "tables.csv")] == ["kmeans"]


def test_runs_on_submitit_make_the_same_rows(tmp_path, tiny, undisturbed):
    pytest.importorskip("submitit")
    from partbook.contract import plugin

    plugin(str(tiny))
    places = {"out": tmp_path / "c", "results": tmp_path / "c-results"}
    asked = Asked(
        ("tiny-1",),
        True,
        seeds=(0,),
        read=request_from,
        device="cpu",
        plugins=(str(tiny),),
        **places,
    )
    jobs, _ = jobs_of(asked)
    handles = submit(jobs, asked, cluster="local")
    assert len([handle.result() for handle in handles]) == 2
    assert numbers(tmp_path / "c-results") == undisturbed
    assert all(job.done for job in jobs_of(asked)[0])


def test_what_is_missing_is_said_by_name(tmp_path, tiny, tell):
    words = [w for w in words_of(tmp_path, tiny, "real") if w != "--embedded"]
    status, out, _ = tell(*words)
    assert status == 0
    assert "celeba is not here: it needs the folder CelebA" in out
    assert "0 runs" in out and "give --root NAME=PATH, or --embedded" in out
    assert out.count("not run here") == 3  # the sentence, and both rows of the table
    assert not (tmp_path / "real-results").exists()


def test_a_run_that_cannot_be_made_is_said_and_the_others_are_made(tmp_path, tiny, tell):
    text = TINY.replace('"steps": 12', '"steps": -1')
    path = tmp_path / "broken_tables.py"
    path.write_text(text.replace("tiny", "broken"))
    words = [w.replace("tiny-1", "broken-1") for w in words_of(tmp_path, path, "some")]
    status, _, err = tell(*words)
    assert status == 2 and "1 of 2 runs could not be made" in err
    (row,) = read_rows(tmp_path / "some-results" / "tables.csv")
    assert row["method"] == "kmeans"


def test_a_file_of_somebody_else_stays(tmp_path, tiny, tell):
    place = tmp_path / "mine"
    place.mkdir()
    (place / "tiny-1.txt").write_text("my notes\n")
    status, out, _ = tell(*words_of(tmp_path, tiny, "mine"))
    assert status == 0 and "no table of ours" in out
    assert (place / "tiny-1.txt").read_text() == "my notes\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["reproduce", "scops-9", "--embedded"], "no table named 'scops-9'"),
        (["reproduce", "--embedded"], "at least one table"),
        (["reproduce", "scops-1", "--root", "celeba"], "must be NAME=PATH"),
        (["reproduce", "scops-1", "--root", "moon=x"], "no collection named 'moon'"),
        (["reproduce", "scops-1", "--embedded", "--root", "celeba=x"], "exclude each other"),
        (["reproduce", "scops-1", "--embedded", "--seeds", "0"], "between 1 and"),
    ],
)
def test_wrong_words_get_a_sentence(words, told, tell):
    status, _, err = tell(*words)
    assert status == 2 and told in err


def test_from_python_it_is_one_call(tmp_path, tiny, undisturbed):
    pb.plugin(str(tiny))
    places = {"out": tmp_path / "p", "results": tmp_path / "p-results"}
    found = pb.reproduce("tiny-1", embedded=True, seeds=(0,), device="cpu", **places)
    assert "A tiny table" in found["tiny-1"]
    assert numbers(tmp_path / "p-results") == undisturbed


def test_the_list_has_all_tables(tell):
    status, out, _ = tell("reproduce", "--list")
    assert status == 0
    assert all(name in out for name in tables.names())


def test_time_is_that_of_the_runs_most_like_it():
    row = {"method": "kmeans", "collection": "faces", "settings.parts": 3, "landmark_error": 9.0}
    slow = row | {"settings.features": "rgb", "settings.size": 32, "seconds": 90.0}
    quick = row | {"settings.features": "position", "settings.size": 32, "seconds": 2.0}
    other = slow | {"collection": "birds", "seconds": 5.0}
    bare = {"method": "kmeans", "settings.features": "rgb", "seconds": 7.0}
    entry = Entry("a", "b", "landmark_error", "kmeans", 3, "celeba", "faces")
    on_colours = replace(entry, named={"features": "rgb", "size": 32})
    rows = [slow, quick, other, bare]
    assert seconds_for(on_colours, rows) == 90 and seconds_for(on_colours, [bare, quick]) == 2
    assert seconds_for(entry, rows) == (90 + 2) / 2
    assert seconds_for(replace(entry, method="scops"), rows) is None


def test_a_long_run_is_not_priced_by_short_ones():
    rows = all_rows(ROOT / "results")
    entry = next(e for e in tables["scops-1"]().entries if e.method == "scops")
    assert paper_settings(entry) == {"steps": 100_000, "size": 256}
    assert seconds_for(entry, rows) and seconds_for(entry, rows, "CelebA", "paper") is None
    long = {"method": "scops", "seconds": 9e4, "settings.steps": 100_000, "settings.size": 256}
    assert seconds_for(entry, [*rows, long], "CelebA", "paper") == 9e4
    assert seconds_for(entry, [{"method": "scops", "seconds": "x"}]) is None
    unknown = [Job(("discover",), "k", Path("f"), Path("r.csv"))]
    with pytest.raises(InputError, match="timeout_min=MINUTES"):
        minutes_for(unknown)
    assert minutes_for([replace(unknown[0], seconds=7200.0)]) == 360


def test_lines_without_their_papers_length_are_named():
    assert at_quick_settings(tables["alignment-1"]()) == ["MaskReg"]
    assert at_quick_settings(tables["disentangling-1"]()) == []
    rivals = [e for e in tables["disentangling-1"]().entries if e.method == "zhang"]
    assert paper_settings(rivals[0]) == {"steps": 300_000, "size": 80}


def test_a_cluster_that_is_not_there_is_said(tmp_path, tiny, monkeypatch, tell):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    words = [*words_of(tmp_path, tiny, "c"), "--cluster", "slurm"]
    status, _, err = tell(*words, "--cluster-option", "timeout_min=5")
    assert status == 2 and "The cluster slurm takes no runs" in err and "sbatch" in err


def test_a_run_that_was_handed_over_twice_is_made_once(tmp_path, tiny):
    pb.plugin(str(tiny))
    places = {"out": tmp_path / "o", "results": tmp_path / "r"}
    asked = Asked(("tiny-1",), True, seeds=(0,), read=request_from, device="cpu", **places)
    job = min(jobs_of(asked)[0], key=lambda job: "contrastive" in job.words)
    how = (request_from, asked.results, "cpu", 3)
    assert carry_out_on_cluster(job, *how) and carry_out_on_cluster(job, *how) == {}
    assert len(read_rows(asked.results / "tables.csv")) == 1


def test_a_folder_without_the_pictures_is_said_before_any_run(tmp_path, tell):
    words = ["reproduce", "scops-1", "--root", f"celeba={tmp_path}", "--dry-run"]
    status, out, _ = tell(*words)
    assert status == 0 and "not run here" in out and "0 runs" in out


def test_time_that_nobody_knows_is_said():
    job = Job(("discover",), "k", Path("f"), Path("r.csv"), 1800.0)
    assert "about 60 minutes" in in_hours([job, job])
    short = Job(("discover",), "k", Path("f"), Path("r.csv"), 1.0)
    assert "about 1 minute one" in in_hours([short])
    assert in_hours([Job(("discover",), "k", Path("f"), Path("r"), 1.0, True)]) == (
        "nothing left to run"
    )
    with pytest.raises(InputError, match="at least one seed"):
        Asked(("scops-1",), seeds=())


def test_tests_side_by_side_have_the_threads_they_were_given():
    if "PYTEST_XDIST_WORKER" not in os.environ:
        pytest.skip("these tests run one after the other")
    workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    assert torch.get_num_threads() <= max(1, os.cpu_count() // workers)
