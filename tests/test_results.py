"""Results files edited by hand, folders that cannot be written to, several processes at once."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from partbook.core import InputError
from partbook.evaluation.results import (
    EACH,
    append_row,
    as_table,
    find_results,
    frame,
    mean_std,
    ranked,
    read_frame,
    read_rows,
    recorded,
    revision,
    table,
    write_rows,
)

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


@pytest.mark.skipif(
    hasattr(os, "geteuid") and os.geteuid() == 0, reason="the superuser may write anywhere"
)
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written"):
        append_row(tmp_path / "runs.csv", {"nmi": 1.0})


def test_text_stays_text(tmp_path):
    row = {
        "revision": "12e4567",
        "versions.python": "3.10",
        "method": "007",
        "K": 4,
        "lr": 1e-5,
        "note": 'a, "b"\nc',
        "nan": float("nan"),
    }
    back = read_rows(write_rows(tmp_path / "a.csv", [row]))[0]
    assert {k: v for k, v in back.items() if k != "nan"} == {
        k: v for k, v in row.items() if k != "nan"
    } and back["nan"] != back["nan"]


@pytest.mark.skipif(sys.platform == "win32", reason="no folder locks there")
def test_processes_may_append_at_once(tmp_path):
    path = tmp_path / "runs.csv"
    script = (
        "import sys; from partbook.evaluation.results import append_row; "
        "append_row(sys.argv[1], {'nmi': 1.0}, seed=int(sys.argv[2]))"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", script, str(path), str(seed)]) for seed in range(2)
    ]
    assert [r.wait(timeout=120) for r in runs] == [0, 0]
    assert sorted(r["seed"] for r in read_rows(path)) == [0, 1]


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_revision_says_when_files_were_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert revision(tmp_path) is None
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "runs.csv").write_text("method\n")
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    for words in (("init", "-q"), ("add", "."), (*who, "commit", "-q", "-m", "first")):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    clean = revision(tmp_path)
    assert len(clean) == 12 and int(clean, 16) >= 0
    (tmp_path / "new.py").write_text("not tracked")
    (tmp_path / "results" / "runs.csv").write_text("method\nkmeans\n")  # a row is no change
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


# ----------------------------------------------------------- files of one's own, odd names, devices

ROW = {"method": "kmeans", "nmi": 41.25}


def refused(path, words):
    "The sentence for a row that cannot be added; the folder stays as it was."
    before = (
        {p.name: p.read_bytes() for p in path.parent.iterdir() if p.is_file()}
        if path.parent.is_dir()
        else None
    )
    with pytest.raises(InputError, match=words) as error:
        append_row(path, ROW, command="")
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    assert (
        before is None
        or {p.name: p.read_bytes() for p in path.parent.iterdir() if p.is_file()} == before
    )
    return str(error.value)


@pytest.mark.parametrize(
    "content, words",
    [
        ("day,weight\n1,80.5\n", "a table with the columns day, weight, not a results file"),
        ("name\nbird\n", "a table with the columns name, not a results file"),
        ("day,weight\n", "a table with the columns day, weight"),
        ("\ufeffday,weight\r\n1,80.5\r\n", "a table with the columns day, weight"),
        ("day;weight\n1;80,5\n", "has semicolons between its columns"),
        ("day\tweight\n1\t80\n", "has tabs between its columns"),
        (
            "nmi;versions.partbook\n1;0.1\n",
            "has semicolons between its columns, as spreadsheets write them; "
            "save it as CSV with commas",
        ),
    ],
)
def test_a_table_of_ones_own_gets_no_row(tmp_path, content, words):
    path = tmp_path / "mine.csv"
    path.write_text(content, newline="", encoding="utf-8")
    assert "mine.csv" in refused(path, words)


def test_a_file_that_a_spreadsheet_saved_with_commas_goes_on(tmp_path):
    path = tmp_path / "runs.csv"
    append_row(path, ROW, seed=1, command="one")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    append_row(path, ROW, seed=2, command="two")
    rows = read_rows(path)
    assert (
        [r["command"] for r in rows] == ["one", "two"]
        and [r["nmi"] for r in rows] == [41.25, 41.25]
        and list(rows[0])[0] == "method"
    )
    assert not path.read_bytes().startswith(b"\xef\xbb\xbf") and b"\r" not in path.read_bytes()


@pytest.mark.parametrize("name", ["caf\udce9", "\ud800", "a\udcff\nb"])
def test_names_that_are_not_utf8_are_spelt_out(tmp_path, name):
    path = tmp_path / "runs.csv"
    append_row(
        path,
        {"method": name, f"option.{name}": [name], "nmi": 1.0},
        command=f"partbook discover --data {name}",
    )
    append_row(path, ROW, command="")
    row, other = read_rows(path)
    assert (
        row["nmi"] == 1
        and other["nmi"] == 41.25
        and row["method"].isprintable()
        and "\\" in row["method"]
    )
    if name == "caf\udce9":
        assert (
            row["method"] == "caf\\xe9"
            and row["command"].endswith("--data caf\\xe9")
            and row["option.caf\\xe9"] == '["caf\\xe9"]'
        )


def test_a_file_with_an_odd_name(tmp_path):
    path = tmp_path / os.fsdecode(b"r\xe9sults.csv")
    append_row(path, ROW, command="")
    assert read_rows(path)[0]["nmi"] == 41.25
    path.write_text("a,b\n1\n")
    assert "r\\xe9sults.csv, line 2: 1 fields" in refused(path, "line 2")


@pytest.mark.skipif(sys.platform == "win32", reason="no such devices there")
def test_devices_and_pipes(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    refused(tmp_path / "pipe.csv", "is a pipe or a device")
    (tmp_path / "device.csv").symlink_to("/dev/zero")
    refused(tmp_path / "device.csv", "device.csv is a pipe or a device")
    with pytest.raises(InputError, match="/dev/zero is a pipe or a device"):
        read_rows("/dev/zero")
    refused(tmp_path / ("x" * 300 + ".csv"), "cannot be looked at")
    (tmp_path / "folder.csv").mkdir()
    refused(tmp_path / "folder.csv", "for it is a folder")


@pytest.mark.skipif(
    not hasattr(os, "seteuid") or os.geteuid() != 0, reason="needs a user to become another one"
)
@pytest.mark.parametrize(
    "mode, words",
    [
        (0o000, "cannot be looked at|cannot be opened"),
        (0o300, "cannot be opened"),
        (0o555, "cannot be written"),
    ],
)
def test_closed_folders(tmp_path, mode, words):
    place = tmp_path / "closed"
    place.mkdir()
    path = place / "runs.csv"
    append_row(path, ROW, command="")
    before = path.read_bytes()
    outer = [p for p in tmp_path.parents if p.stat().st_mode & 0o005 != 0o005]
    modes = {p: p.stat().st_mode for p in (tmp_path, *outer)}
    try:
        for p in modes:
            p.chmod(0o755)
        os.chown(place, 65534, 65534)
        place.chmod(mode)
        os.seteuid(65534)
        with pytest.raises(InputError, match=words) as error:
            append_row(path, ROW, command="")
    finally:
        os.seteuid(0)
        place.chmod(0o755)
        for p, old in modes.items():
            p.chmod(old)
    assert (
        "\n" not in str(error.value)
        and path.read_bytes() == before
        and len(list(place.iterdir())) == 1
    )


def test_a_full_disk_loses_no_row(tmp_path):
    import resource

    path = tmp_path / "runs.csv"
    append_row(path, ROW, seed=0, command="")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
    try:
        refused(path, "runs.csv cannot be written")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    append_row(path, ROW, seed=1, command="")
    assert [r["seed"] for r in read_rows(path)] == [0, 1] and [
        p.name for p in tmp_path.iterdir()
    ] == ["runs.csv"]


@pytest.mark.skipif(sys.platform == "win32", reason="no folder locks there")
def test_killed_appenders_lose_nothing(tmp_path):
    "Four processes append, two are killed: every finished row is there once, all lines are whole."
    path = tmp_path / "runs.csv"
    script = (
        "import sys; from partbook.evaluation import results; results.revision = lambda _: 'x'\n"
        "for n in range(20): results.append_row(sys.argv[1], {'who': int(sys.argv[2]), 'n': "
        "n}, command=''); print(n, flush=True)"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(path), str(who)], stdout=subprocess.PIPE, text=True
        )
        for who in range(3)
    ]
    for run in runs[:2]:
        for _ in range(4):
            run.stdout.readline()
        run.kill()
    done = [
        4 + len(run.communicate()[0].split())
        if run in runs[:2]
        else len(run.communicate()[0].split())
        for run in runs
    ]
    assert done[2] == 20 and runs[2].returncode == 0
    found = [(r["who"], r["n"]) for r in read_rows(path)]
    assert len(found) == len(set(found))
    for who, count in enumerate(done):
        mine = sorted(n for w, n in found if w == who)
        assert mine in (list(range(count)), list(range(count + 1)))
    append_row(path, {"who": 9, "n": 0}, command="")
    assert read_rows(path)[-1]["who"] == 9 and [p.name for p in tmp_path.iterdir()] == ["runs.csv"]


# ---------------------------------------------------------------- tables of pandas

METRICS = ("fg_nmi", "fg_ari", "nmi", "ari", "purity", "landmark_error")


def test_statistics_are_those_of_numpy_to_the_last_digit():
    runs = recorded(ROOT / "results")
    averaged = mean_std(runs, list(EACH), METRICS)
    groups = {}
    for row in runs.to_dict("records"):
        groups.setdefault(tuple(str(row[c]) for c in EACH), []).append(row)
    assert len(averaged) == len(groups) > 20 and averaged["runs"].sum() == len(runs)
    for line, rows in zip(averaged.to_dict("records"), groups.values()):
        assert [line[c] for c in EACH] == [rows[0][c] for c in EACH] and line["runs"] == len(rows)
        for metric in METRICS:
            values = [row[metric] for row in rows if row[metric] is not None]
            wanted = (np.mean(values), np.std(values, ddof=1) if len(values) > 1 else np.nan)
            assert np.array_equal((line[metric], line[f"{metric}_std"]), wanted, equal_nan=True)


def test_what_was_not_measured_is_left_out_and_not_a_number_is_not():
    rows = [{"m": "a", "x": 1.0}, {"m": "a", "x": None}, {"m": "a"}, {"m": "b", "x": float("nan")}]
    assert mean_std(rows, "m", ["x"])["x"].tolist()[0] == 1.0
    nothing = mean_std(rows + [{"m": "b", "x": 2.0}, {"m": "c", "x": None}], "m", ["x"])["x"]
    assert nothing.isna().tolist() == [False, True, True]
    assert as_table(mean_std(rows, "m", ["x"])).endswith("| b | 1 | - |")


def test_groups_are_of_any_values_and_in_order_of_appearance():
    rows = [{"zoom": z, "x": float(i)} for i, z in enumerate([[2, 1], None, True, [2, 1], 1])]
    found = mean_std(rows, "zoom", ["x"])
    assert found["zoom"].tolist() == [[2, 1], None, True, 1] and found["x"].tolist()[0] == 1.5


def test_the_best_stands_first_and_who_did_not_measure_last():
    rows = [{"m": m, "x": x} for m, x in zip("abcd", (1.0, None, 3.0, 3.0))]
    assert ranked(rows, "x")[["rank", "m"]].values.tolist() == [
        [1, "c"],
        [1, "d"],
        [3, "a"],
        [None, "b"],
    ]
    assert ranked(rows, "x", lower=True)["m"].tolist() == ["a", "c", "d", "b"]
    with pytest.raises(InputError, match="no column 'y'"):
        ranked(rows, "y")


def test_a_table_is_for_reading():
    rows = [{"method": "a", "K": 6, "x": 42.04, "x_std": 2.96}, {"method": "b", "K": 4, "x": None}]
    shown = table(rows, {"method": "method", "K": "K", "x": "FG-NMI"})
    assert shown.index.tolist() == ["a", "b"] and list(shown.columns) == ["K", "FG-NMI"]
    assert shown["FG-NMI"].tolist() == ["42.0 ± 3.0", "-"] and shown["K"].tolist() == ["6", "4"]
    assert len(shown.to_html()) < 1000


def test_frames_keep_values_as_they_are(tmp_path):
    rows = [{"K": 6, "a": "x", "l": [1]}, {"K": None, "b": True}]
    whole = [{c: row.get(c) for c in ("K", "a", "l", "b")} for row in rows]
    assert frame(rows).to_dict("records") == whole and type(frame(rows)["K"][0]) is int
    assert read_frame(write_rows(tmp_path / "a.csv", rows)).to_dict("records") == whole
    assert as_table(pd.DataFrame({"x": [1.5, np.nan]})) == as_table([{"x": 1.5}, {"x": None}])
    assert read_frame(tmp_path / "missing.csv").empty and mean_std([], "m", ["x"]).empty


def test_a_bad_field_is_named_with_its_file_and_line(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text('method,note,nmi\na,"two\nlines",1.5\nb,,\nc,,"4,8"\n')
    assert len(read_frame(path, ["note"][1:])) == 3
    with pytest.raises(InputError, match="runs.csv, line 5, field 'nmi' holds '4,8', which is not"):
        read_frame(path, ["nmi"])


@pytest.mark.parametrize("module", ["partbook", "partbook.evaluation.results", "partbook.cli"])
def test_pandas_waits_until_there_is_a_table(module):
    code = f"import sys, {module}; print('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_no_row_names_a_place_of_one_machine():
    "Commands are typed in a checkout: what they write lies below it."
    for path in sorted((ROOT / "results").glob("*.csv")):
        for row in read_rows(path):
            words = shlex.split(str(row.get("command") or ""))
            values = [word.partition("=")[2] if "=" in word else word for word in words]
            assert not any(Path(value).is_absolute() for value in values), (
                path.name,
                row["command"],
            )
