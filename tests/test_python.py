"""The same names in Python as on the command line; and nothing slow before it is needed."""

import inspect
import io
import re
import subprocess
import sys
from contextlib import redirect_stdout

import pytest
from conftest import ROOT
from helpers import noise, run, sentence

import partbook as pb
from partbook import commands
from partbook.commands import COMMANDS
from partbook.core import InputError
from partbook.data.sample import collections, identity, limited, spread
from partbook.evaluation.results import read_rows
from partbook.files import read_json

QUICK = dict(features="rgb", size=16, parts=2, steps=1, baselines=False, say=lambda line: None)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(collections["birds"], "__len__", lambda self: 12)


@pytest.fixture
def album(tmp_path):
    "Five photographs."
    folder = tmp_path / "album"
    for i in range(5):
        noise(folder / f"{i}.png", i, (24, 20))
    return folder


def printed_python():
    "The first block of Python under *In Python* in the README."
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## In Python")[2]
    return re.search(r"^```python\n(.*?)^```", text, flags=re.M | re.S)[1]


def test_the_readme_s_lines_work_as_printed(few):
    lines = [line for line in printed_python().splitlines() if line.strip()]
    assert len(lines) == 3
    names = {}
    exec("\n".join(lines), names)
    assert names["run"].metrics["fg_nmi"] > 0 and names["sheet"] is not None


@pytest.mark.parametrize("name", ["discover", "evaluate", "segment", "saliency"])
def test_arguments_have_the_names_of_the_options(name):
    "In both directions, but for what only a terminal or only Python has."
    with redirect_stdout(io.StringIO()) as out:
        assert run(name, "--help") == 0
    options = {o.replace("-", "_") for o in re.findall(r"^  --([\w-]+)", out.getvalue(), re.M)}
    options |= {o.replace("-", "_") for o in re.findall(r"^  -h, --(help)", out.getvalue(), re.M)}
    arguments = set(inspect.signature(getattr(pb, name)).parameters)
    terminal = {"help", "dry_run", "plugin", "no_baselines"}
    python = {"say", "plugins", "baselines", "command"} | {"run", "images", "folder"}
    assert options - terminal == arguments - python


def test_every_argument_is_typed():
    for name in ("evaluate", "segment", "saliency", "load", "plugin", "discover"):
        signature = inspect.signature(getattr(pb, name))
        untyped = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
        assert not untyped and signature.return_annotation is not inspect.Signature.empty, name


def test_nothing_below_the_command_knows_argparse():
    "Only commands do: `partbook`, and the measurements that have a `main` of their own."
    texts = {p.name: p.read_text("utf-8") for p in (ROOT / "partbook").rglob("*.py")}
    knows = {name for name, text in texts.items() if "argparse" in text and "def main(" not in text}
    assert knows == {"commands.py"}
    assert not {"run.py", "photographs.py", "contract.py", "plugins.py", "fit.py"} & knows


def test_a_folder_of_a_run_is_as_good_as_the_run(few, tmp_path):
    made = pb.discover("birds", **QUICK)
    made.save(tmp_path / "run")
    found = pb.evaluate(made, protocol="pixels")
    assert pb.evaluate(tmp_path / "run", protocol=["pixels"]) == found
    table = tmp_path / "rows.csv"
    pb.evaluate(tmp_path / "run" / "model", record=table, out=tmp_path / "all.json")
    assert read_json(tmp_path / "all.json")["protocols"]["pixels"] == found["pixels"]
    assert "pixels" in [row["protocol"] for row in read_rows(table)]


def test_a_limit_is_spread_over_the_pictures():
    assert spread(10, 4) == [0, 2, 5, 7] and spread(4) == spread(4, 9) == [0, 1, 2, 3]
    birds = collections["birds"].open(split="test", size=16)
    some = limited(birds, 5)
    assert len(some) == 5 and some[1].name == birds[len(birds) // 5].name
    assert limited(birds) is birds and limited(birds, len(birds)) is birds
    keys = {identity(c)["key"] for c in (birds, some, limited(birds, 6))}
    assert len(keys) == 3 and identity(some)["pictures"] == 5
    for wrong in (0, -3):
        with pytest.raises(InputError, match="must be 1 or more"):
            spread(10, wrong)


def test_a_limited_run_says_so(few, tmp_path, capsys):
    table = tmp_path / "rows.csv"
    words = ["--features", "rgb", "--size", 16, "--parts", 2, "--steps", 1, "--no-baselines"]
    words = ["discover", *words, "--out", tmp_path / "o", "--record", table]
    assert run(*words, "--limit", 5) == 0
    assert "5 pictures to learn from, 5 to test on" in capsys.readouterr().out
    assert run(*words) == 0
    one, other = read_rows(table)
    assert one["limit"] == 5 and other["limit"] is None and one["identity"] != other["identity"]
    model = tmp_path / "o" / "model"
    assert run("evaluate", model, "--limit", 4, "--record", tmp_path / "m.csv") == 0
    assert "4 pictures to test on" in capsys.readouterr().out
    assert {row["limit"] for row in read_rows(tmp_path / "m.csv")} == {4}
    assert "must lie between 1" in sentence(capsys, "evaluate", model, "--limit", 0)
    with pytest.raises(InputError, match="must be 1 or more"):
        pb.discover("birds", limit=0)


def test_a_limit_for_photographs(few, album, tmp_path):
    made = pb.discover("birds", **QUICK)
    done = pb.segment(made, album, tmp_path / "labels", limit=2)
    assert [p.name for p in done.written] == ["0.png", "2.png"]
    assert pb.saliency(album, tmp_path / "maps", patches=9, limit=3).maps == [
        "0.png",
        "1.png",
        "3.png",
    ]
    assert pb.saliency(album, tmp_path / "maps", patches=9).maps == ["2.png", "4.png"]
    kept = dict(foreground="border", features="rgb", size=16)
    assert len(pb.saliency(album, tmp_path / "border", limit=3, **kept).maps) == 3
    with pytest.raises(InputError, match="limit 3, not none"):
        pb.saliency(album, tmp_path / "border", **kept)  # it was fitted to three of them


def test_the_cards_are_what_the_classes_say():
    known = {row["collection"]: row for row in commands.card_rows()}
    assert sorted(known) == collections.names()
    for name, row in known.items():
        cls = collections[name]
        assert (row["needs"], row["what"]) == (cls.needs, cls.summary), name
        assert row["there"] == ("yes" if cls.present() else "no"), name


def test_a_data_set_that_is_there_is_noticed(tmp_path, monkeypatch):
    from painters.cub import write_cub_fixture

    write_cub_fixture(tmp_path / "CUB_200_2011", n=4)
    for root, there in ((tmp_path / "CUB_200_2011", "yes"), (tmp_path / "nowhere", "no")):
        monkeypatch.setenv("PARTBOOK_CUB", str(root))
        (row,) = [row for row in commands.card_rows() if row["collection"] == "cub"]
        assert row["there"] == there


# What is run, and what it may not import. The time itself: `partbook.book measure`.
LIGHT = {
    "import partbook": ("import partbook", ("fastcore", "numpy")),
    "partbook --help": ("from partbook.start import main; main(['--help'])", ()),
    "partbook --version": ("from partbook.start import main; main(['--version'])", ()),
    "partbook data": ("from partbook.start import main; main(['data'])", ()),
}
HEAVY = ("torch", "torchvision", "pandas", "matplotlib", "sklearn", "scipy")


@pytest.mark.parametrize("case", LIGHT)
def test_what_answers_at_once_imports_nothing_slow(case):
    code, more = LIGHT[case]
    script = f"import atexit, sys\nheavy = {(*HEAVY, *more)}\n"
    script += "atexit.register(lambda: print([h for h in heavy if h in sys.modules]))\n" + code
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_list_of_collections_is_the_same_in_both_places(capsys):
    commands.print_cards()
    at_once = capsys.readouterr().out
    assert run("data") == 0
    assert capsys.readouterr().out == at_once


def test_the_commands_are_all_functions_too():
    assert set(COMMANDS) - {"data", "unpack"} <= set(dir(pb))
    with pytest.raises(AttributeError, match="no attribute 'dance'"):
        pb.dance  # noqa: B018
