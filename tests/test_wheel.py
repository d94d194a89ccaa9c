"""The built wheel, installed away from the checkout, is complete: modules, weights, the command."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    "The package installed from its wheel into an empty folder; pip needs no network for it."
    work = tmp_path_factory.mktemp("wheel")
    source = work / "source"
    leave = shutil.ignore_patterns(
        ".*",
        "*.egg-info",
        "build",
        "dist",
        "__pycache__",
        "nbs",
        "tests",
        "results",
        "partbook-out",
    )
    shutil.copytree(ROOT, source, ignore=leave)
    environment = {**os.environ, "HOME": str(work), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    pip = [sys.executable, "-m", "pip", "--quiet"]

    def run(*words):
        done = subprocess.run(
            [*pip, *words],
            env=environment,
            cwd=work,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr[-3000:]

    run(
        "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(work / "dist"), str(source)
    )
    (wheel,) = (work / "dist").glob("partbook-*.whl")
    run("install", "--no-deps", "--no-index", "--target", str(work / "site"), str(wheel))
    shutil.rmtree(source)
    return work / "site"


def python(site, code):
    "Run code that sees the installed copy and not the checkout."
    environment = {
        k: v for k, v in os.environ.items() if k not in ("IN_TEST", "PARTBOOK_SMALL")
    } | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=site.parent,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_module_imports(installed):
    names = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts)
        for p in sorted((ROOT / "partbook").rglob("*.py"))
        if p.name != "__init__.py"
    ]
    code = (
        "import importlib, partbook\n"
        f"for n in {names}: importlib.import_module(n)\n"
        "print(partbook.__file__)"
    )
    assert python(installed, code).strip().startswith(str(installed))


def test_shipped_weights_are_in_it(installed):
    ours = {
        p.relative_to(ROOT).as_posix(): p.read_bytes()
        for p in (ROOT / "partbook").rglob("*.safetensors")
    }
    assert ours, "the package ships no weights"
    assert {name: (installed / name).read_bytes() for name in ours} == ours
    assert sum(map(len, ours.values())) < 2_000_000


def test_the_command_is_there(installed):
    code = (
        "from importlib.metadata import distribution as d\nprint([(e.name, "
        "e.value) for e in d('partbook').entry_points if e.group == 'console_scripts'])"
    )
    assert python(installed, code).strip() == "[('partbook', 'partbook.start:main')]"
    assert (installed / "bin" / "partbook").exists() or (
        installed / "Scripts" / "partbook.exe"
    ).exists()


def test_the_command_helps(installed):
    out = python(
        installed,
        "import sys\n"
        "sys.argv = ['partbook', '--help']\n"
        "from partbook.start import main\n"
        "sys.exit(main())",
    )
    assert all(word in out for word in ("discover", "segment", "data"))


def test_metadata(installed):
    code = (
        "from importlib.metadata import metadata as m\n"
        "x = m('partbook')\n"
        "print(x['License-Expression'] or x['License'], x['Requires-Python'], "
        "x.get_all('Provides-Extra'))"
    )
    assert python(installed, code).strip() == "Apache-2.0 >=3.11 ['dev', 'app', 'cluster', 'site']"
    assert list(installed.glob("partbook-*.dist-info/**/LICENSE"))


def test_what_makes_tables_comes_with_it(installed):
    "Pandas is an ordinary dependency."
    code = "from importlib.metadata import requires; print(*requires('partbook'), sep='\\n')"
    needs = [line for line in python(installed, code).splitlines() if "extra ==" not in line]
    assert any(line.startswith("pandas>=") for line in needs)
