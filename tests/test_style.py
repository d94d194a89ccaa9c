"""Notebooks and tests are formatted and linted by ruff; files still exempt are listed."""

import importlib.util
import json
import shutil
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ruff") is None,
    reason="ruff is not installed (pip install -e '.[dev]')",
)


def ruff(*words, cwd=ROOT):
    "Run ruff; returns the finished process."
    command = [sys.executable, "-m", "ruff", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def exempt():
    "What each file of ruff.toml's list may still do wrong."
    settings = tomllib.loads((ROOT / "ruff.toml").read_text(encoding="utf-8"))
    listed = settings["lint"]["per-file-ignores"]
    return {name: sorted(codes) for name, codes in listed.items() if "*" not in name}


def wrong():
    "What each file does wrong when nothing is exempt."
    settings = "lint.per-file-ignores={'nbs/**' = ['F811']}"
    done = ruff("check", "nbs", "tests", "--config", settings, "--output-format", "json")
    found = {}
    for one in json.loads(done.stdout):
        name = one["filename"].replace("\\", "/").removeprefix(ROOT.as_posix() + "/")
        found.setdefault(name, set()).add(one["code"])
    return {name: sorted(codes) for name, codes in sorted(found.items())}


def as_toml(files):
    return "\n".join(f'"{name}" = {json.dumps(codes)}' for name, codes in files.items())


def test_everything_is_formatted():
    done = ruff("format", "--check", "nbs", "tests")
    assert done.returncode == 0, f"run: ruff format nbs tests\n{done.stdout}"


def test_everything_is_linted():
    done = ruff("check", "nbs", "tests", "--output-format", "concise")
    assert done.returncode == 0, done.stdout


def test_no_file_is_exempt_that_needs_not_be():
    left = {name: codes for name, codes in wrong().items() if name in exempt()}
    assert exempt() == left, f"what is left of ruff.toml's list:\n{as_toml(left)}"


def test_a_long_line_would_be_noticed(tmp_path):
    shutil.copy(ROOT / "ruff.toml", tmp_path)
    (tmp_path / "long.py").write_text(f"x = {'1 + ' * 40}1\n", encoding="utf-8")
    done = ruff("check", "long.py", cwd=tmp_path)
    assert done.returncode == 1 and "E501" in done.stdout


def test_an_unformatted_cell_would_be_noticed(tmp_path):
    shutil.copy(ROOT / "ruff.toml", tmp_path)
    (tmp_path / "rough.py").write_text("x = {  'a':1 }\n", encoding="utf-8")
    assert ruff("format", "--check", "rough.py", cwd=tmp_path).returncode == 1
