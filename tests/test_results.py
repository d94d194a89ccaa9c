"""Results files that were edited by hand, folders that cannot be written to, several processes at once."""
import os
import shutil
import subprocess
import sys

import pytest

from partbook.core import InputError
from partbook.evaluation.results import append_row, as_table, find_results, mean_std, read_rows, revision, write_rows

BROKEN = {
    "is empty": b"",
    "line 1: column names must be distinct and not empty": b"a,b,a\n1,2,3\n",
    "line 1: column names": b"a,,b\n1,2,3\n",
    "line 3: 3 fields where the first line names 2": b"a,b\n1,2\n1,2,3\n",
    "line 2: 1 fields": b"a,b\n1\n",
    "is not a CSV file in UTF-8": b"a,b\n\xff\xfe,2\n",
    "is not a CSV file in UTF-8 \\(unexpected end": b'a,b\n1,"2\n',
}


@pytest.mark.parametrize("words", BROKEN)
def test_broken_file_is_named_and_left_alone(words, tmp_path):
    path = tmp_path / "runs.csv"
    path.write_bytes(BROKEN[words])
    with pytest.raises(InputError, match=words) as error:
        append_row(path, {"nmi": 1.0})
    assert "runs.csv" in str(error.value) and path.read_bytes() == BROKEN[words]


def test_wrong_use(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_rows(tmp_path)
    with pytest.raises(InputError, match="nothing to write"):
        write_rows(tmp_path / "a.csv", [])
    with pytest.raises(InputError, match="not a number"):
        mean_std([{"method": "a", "nmi": "high"}], "method", ["nmi"])
    with pytest.raises(InputError, match="at least one column"):
        as_table([])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        append_row(tmp_path / "file" / "runs.csv", {"nmi": 1.0})


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="the superuser may write anywhere")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written"):
        append_row(tmp_path / "runs.csv", {"nmi": 1.0})


def test_text_stays_text(tmp_path):
    row = {"revision": "12e4567", "versions.python": "3.10", "method": "007", "K": 4, "lr": 1e-5, "note": "a, \"b\"\nc", "nan": float("nan")}
    back = read_rows(write_rows(tmp_path / "a.csv", [row]))[0]
    assert {k: v for k, v in back.items() if k != "nan"} == {k: v for k, v in row.items() if k != "nan"} and back["nan"] != back["nan"]


@pytest.mark.skipif(sys.platform == "win32", reason="no folder locks there")
def test_processes_may_append_at_once(tmp_path):
    path = tmp_path / "runs.csv"
    script = "import sys; from partbook.evaluation.results import append_row; append_row(sys.argv[1], {'nmi': 1.0}, seed=int(sys.argv[2]))"
    runs = [subprocess.Popen([sys.executable, "-c", script, str(path), str(seed)]) for seed in range(2)]
    assert [r.wait(timeout=120) for r in runs] == [0, 0]
    assert sorted(r["seed"] for r in read_rows(path)) == [0, 1]


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_revision_says_when_files_were_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert revision(tmp_path) is None
    (tmp_path / "a.py").write_text("1")
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    for words in (("init", "-q"), ("add", "a.py"), (*who, "commit", "-q", "-m", "first")):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    clean = revision(tmp_path)
    assert len(clean) == 12 and int(clean, 16) >= 0
    (tmp_path / "new.py").write_text("not tracked")
    assert revision(tmp_path) == clean
    (tmp_path / "a.py").write_text("2")
    assert revision(tmp_path) == clean + "+"


def test_results_are_found_from_below(tmp_path, monkeypatch):
    monkeypatch.delenv("PARTBOOK_RESULTS", raising=False)
    write_rows(tmp_path / "results" / "toy.csv", [{"a": 1}])
    (tmp_path / "nbs" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "nbs" / "deep")
    assert find_results("toy.csv") == tmp_path / "results" / "toy.csv"
    monkeypatch.setenv("PARTBOOK_RESULTS", str(tmp_path / "elsewhere"))
    assert find_results("toy.csv") == tmp_path / "elsewhere" / "toy.csv"
