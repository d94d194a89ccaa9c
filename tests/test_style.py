"""Notebooks and tests are formatted and linted by ruff, without exemption."""

import importlib.util
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


def test_everything_is_formatted():
    done = ruff("format", "--check", "nbs", "tests")
    assert done.returncode == 0, f"run: ruff format nbs tests\n{done.stdout}"


def test_everything_is_linted():
    done = ruff("check", "nbs", "tests", "--output-format", "concise")
    assert done.returncode == 0, done.stdout


def test_no_file_is_exempt():
    settings = tomllib.loads((ROOT / "ruff.toml").read_text(encoding="utf-8"))
    listed = [name for name in settings["lint"] if "per-file-ignores" in name]
    assert not listed, "mend the file instead of exempting it"


def test_a_long_line_would_be_noticed(tmp_path):
    shutil.copy(ROOT / "ruff.toml", tmp_path)
    (tmp_path / "long.py").write_text(f"x = {'1 + ' * 40}1\n", encoding="utf-8")
    done = ruff("check", "long.py", cwd=tmp_path)
    assert done.returncode == 1 and "E501" in done.stdout


def test_an_unformatted_cell_would_be_noticed(tmp_path):
    shutil.copy(ROOT / "ruff.toml", tmp_path)
    (tmp_path / "rough.py").write_text("x = {  'a':1 }\n", encoding="utf-8")
    assert ruff("format", "--check", "rough.py", cwd=tmp_path).returncode == 1
