"""The type checker finds nothing wrong in methods and in all that they stand on."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT

from partbook.reading import CHECKED

pytest.importorskip("mypy", reason="no mypy here (pip install mypy)")


def test_types(tmp_path):
    command = [sys.executable, "-m", "mypy", "--ignore-missing-imports", "partbook"]
    cache = ["--cache-dir", str(tmp_path)]
    done = subprocess.run(command + cache, cwd=ROOT, capture_output=True, text=True)
    wrong = re.findall(r"^partbook/([\w/.]+):\d+: error: .*", done.stdout, flags=re.M)
    assert re.search(r"checked \d+ source files|no issues found", done.stdout), done.stdout[-2000:]
    lines = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(lines) == len(wrong)
    counted = [w for name, w in zip(wrong, lines) if name.partition("/")[0] in CHECKED]
    assert not counted, "\n".join(counted)
