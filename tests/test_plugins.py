"""A stranger's method, data set and features, from outside of the checkout."""

import os
import re
import shutil
import subprocess
import sys
from textwrap import dedent

import pytest
from conftest import ROOT
from helpers import message, run, sentence

import partbook as pb
from partbook import plugins
from partbook.book import read_notebook
from partbook.core import REGISTRIES, InputError
from partbook.data.sample import collections
from partbook.evaluation.results import read_rows
from partbook.features.extractor import extractors
from partbook.files import read_json
from partbook.methods.method import methods

TEMPLATE = ROOT / "nbs" / "_template_method.ipynb"


@pytest.fixture
def written(tmp_path):
    "A function that writes a plug-in; whatever was registered meanwhile is forgotten afterwards."
    before = [dict(registry._entries) for registry in REGISTRIES]
    modules = set(sys.modules)
    loaded = dict(plugins.LOADED)

    def write(text, name="strange.py"):
        path = tmp_path / name
        path.write_text(dedent(text), encoding="utf-8")
        return path

    yield write
    for registry, entries in zip(REGISTRIES, before):
        new = {n: e for n, e in registry._entries.items() if e.__module__.startswith("partbook.")}
        registry._entries.clear()
        registry._entries.update(new | entries)
    for name in [n for n in set(sys.modules) - modules if n.startswith("strange")]:
        del sys.modules[name]
    plugins.LOADED.clear()
    plugins.LOADED.update(loaded)


def forget():
    "As if this were a new process, in which nobody named a plug-in."
    for registry in REGISTRIES:
        for name in [n for n, e in registry._entries.items() if e.__module__ == "strange"]:
            del registry._entries[name]
    plugins.LOADED.clear()
    sys.modules.pop("strange", None)


def few(monkeypatch, count=12):
    monkeypatch.setattr(collections["birds"], "__len__", lambda self: count)


METHOD = """
    import torch
    from torch import nn
    from partbook.core import generator
    from partbook.methods.method import Trained, TrainSettings, methods

    @methods.register("strange")
    class Strange(Trained):
        def __init__(self, settings, extractor):
            super().__init__(settings)
            self.extractor = extractor
            self.head = nn.Conv2d(extractor.dim, settings.parts, 1)

        def logits(self, images):
            return self.head(self.extractor(images))

        def losses(self, batch, step):
            return {"L": self.part_maps(batch.images).square().mean()}
"""
SHORT = ("--features", "rgb", "--size", 16, "--steps", 2, "--set", "batch_size=2", "--no-baselines")


def commands_of_the_template():
    "The lines that the template tells its reader to type, without the first two."
    text = "\n".join(cell["source"] for cell in read_notebook(TEMPLATE)["cells"])
    (export,) = re.findall(r"^    python (-c .*)$", text, flags=re.M)
    (discover,) = re.findall(r"^    partbook (.*--record results.csv)$", text, flags=re.M)
    return export, discover


@pytest.mark.skipif(os.name == "nt", reason="the template's lines are for a POSIX shell")
def test_a_stranger_adds_a_method_from_the_template(tmp_path, environment):
    "Exactly what the template says: copy it, export it, name it, run it, record a row."
    away = tmp_path / "work"
    away.mkdir()
    shutil.copy(TEMPLATE, away / "my_method.ipynb")
    environment |= {"PYTHONPATH": str(ROOT)}
    export, discover = commands_of_the_template()

    def shell(words):
        command = ["sh", "-c", words]
        done = subprocess.run(
            command, cwd=away, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    shell(f"{sys.executable} {export}")
    assert (away / "my_method.py").is_file()
    small = "--limit 10 --steps 3 --set batch_size=4 --no-baselines"
    said = shell(f"{sys.executable} -m partbook.start {discover} {small}")
    assert "10 pictures to learn from" in said and "L_sure" in said
    (row,) = read_rows(away / "results.csv")
    assert (row["method"], row["limit"], row["settings.mirror"]) == ("mine", 10, 1.0)
    assert row["plugins"].startswith("my_method ") and row["fg_nmi"] > 0


def test_a_model_says_which_plugin_it_needs(written, tmp_path, capsys, monkeypatch):
    few(monkeypatch)
    strange = written(METHOD)
    out = tmp_path / "out"
    assert run("--plugin", strange, "discover", "--method", "strange", *SHORT, "--out", out) == 0
    facts = read_json(out / "model" / "model.json")["facts"]
    assert facts["plugins"]["strange"]["brings"] == {"method": ["strange"]}
    assert str(tmp_path) not in str(facts["plugins"]), "a model remembers names, no folders"
    forget()
    picture = out / "parts.png"
    for words in (["evaluate", out / "model"], ["segment", out, picture, "--out", tmp_path / "o"]):
        said = sentence(capsys, *words)
        assert "'strange' is of the plug-in strange, which you did not name" in said
        assert "strange" not in sys.modules, "a model's word must not run code"
    assert run("evaluate", out / "model", "--protocol", "pixels", "--plugin", strange) == 0
    forget()
    with pytest.raises(InputError, match="--plugin strange"):
        pb.load(out)
    assert pb.load(out, plugins=[strange]).method.registered_name == "strange"


def test_a_strangers_data_set_and_features(written, tmp_path, capsys, monkeypatch):
    strange = written("""
        import torch
        from partbook.core import generator
        from partbook.data.sample import Collection, Sample, collections
        from partbook.features.extractor import Extractor, extractors

        @collections.register("stripes")
        class Stripes(Collection):
            summary = "pictures with a stripe"
            part_names = ("lower", "upper")

            def __init__(self, split, size):
                self.split, self.size = split, size or 32

            @classmethod
            def open(cls, root=None, split="train", size=None, seed=0):
                return cls(split, size)

            def __len__(self):
                return 6

            def __getitem__(self, i):
                image = torch.rand(3, self.size, self.size, generator=generator(i))
                parts = torch.ones(self.size, self.size, dtype=torch.long)
                parts[: self.size // 2] = 2
                return Sample(image, f"stripe {i}", mask=parts > 0, parts=parts)

        @extractors.register("grey")
        class Grey(Extractor):
            dim, stride = 1, 1

            def __init__(self, weights=None, layers=None):
                super().__init__()

            def describe(self, images):
                return images.mean(1, keepdim=True)
    """)
    assert run("data", "--plugin", strange) == 0
    assert "stripes" in capsys.readouterr().out
    words = ["--data", "stripes", "--features", "grey", "--size", 16, "--parts", 2, "--steps", 1]
    table = tmp_path / "rows.csv"
    more = ["--no-baselines", "--out", tmp_path / "out", "--record", table]
    assert run("discover", "--plugin", strange, *words, *more) == 0
    (row,) = read_rows(table)
    assert (row["collection"], row["settings.features"]) == ("stripes", "grey")
    assert row["plugins"].startswith("strange ")
    model = tmp_path / "out" / "model"
    forget()
    assert "feature extractor 'grey' is of the plug-in strange" in sentence(
        capsys, "evaluate", model
    )


def test_the_list_of_collections_needs_a_plugin_for_others(written, capsys):
    assert run("data") == 0
    assert "stripes" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "given", ["nowhere", "numpy.nowhere", "nowhere.py", "", ".", "two words.py"]
)
def test_a_plugin_that_is_not_there(given, capsys):
    assert "--plugin" in sentence(capsys, "--plugin", given, "data")


def test_a_file_given_as_a_name(written, tmp_path, monkeypatch):
    written("x = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    with pytest.raises(InputError, match="for the file here, give --plugin strange.py") as error:
        pb.plugin("strange")
    message(error)


# What a plug-in says, and what is said of it.
BROKEN = {
    "raises": ("x = 1\n1 / 0\n", "ZeroDivisionError: division by zero; .*strange.py, line 2"),
    "syntax": ("class Half:\n", "IndentationError.*line 1"),
    "ends": ("import sys\nsys.exit('bye')\n", "SystemExit: bye"),
    "imports what is not there": ("import nothing_of_that_name\n", "ModuleNotFoundError.*line 1"),
    "registers nothing": ("x = 1\n", "registers nothing"),
    "taken method": (
        METHOD.replace('"strange"', '"kmeans"'),
        "method name 'kmeans' is taken by KMeans of partbook.methods.kmeans",
    ),
    "no method": (
        """
        from partbook.methods.method import methods
        @methods.register("strange")
        class Strange: ...
        """,
        "is no subclass of partbook.methods.method.Method",
    ),
    "no logits": (METHOD.replace("def logits", "def scores"), "does not define logits"),
    "no losses": (METHOD.replace("def losses", "def loss"), r"does not define losses\(self, batch"),
    "fit of one argument": (
        METHOD.replace("Trained)", "Method)")
        .replace("Trained,", "Method, Trained,")
        .replace("def losses(self, batch, step)", "def fit(self, collection)"),
        r"defines fit\(self, collection\), but it is called as fit\(self, collection, device\)",
    ),
    "other settings": (
        METHOD.replace("def __init__", "Settings = dict\n\n        def __init__"),
        "are no dataclass derived from TrainSettings",
    ),
    "features without weights": (
        """
        from partbook.features.extractor import Extractor, extractors
        @extractors.register("strange")
        class Strange(Extractor):
            def describe(self, images): return images
        """,
        r"is made by __init__\(self, weights, layers\)",
    ),
    "a method without an extractor": (
        METHOD.replace("settings, extractor)", "settings)"),
        r"is made by __init__\(self, settings, extractor\)",
    ),
    "a data set without open": (
        """
        from partbook.data.sample import Collection, collections
        @collections.register("strange")
        class Strange(Collection):
            def __len__(self): return 1
            def __getitem__(self, i): return None
        """,
        "the collection 'strange' does not define open",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_plugin_that_cannot_be_used(case, written):
    text, expected = BROKEN[case]
    before = [sorted(registry._entries) for registry in REGISTRIES if registry._complete]
    with pytest.raises(InputError, match=expected) as error:
        pb.plugin(written(text))
    assert message(error).startswith("--plugin ")
    assert "strange" not in sys.modules and "strange" not in plugins.LOADED
    assert "strange" not in methods and "strange" not in collections
    assert before == [sorted(r._entries) for r in REGISTRIES if r._complete][: len(before)]


def test_a_repaired_plugin_is_loaded_again(written):
    with pytest.raises(InputError):
        pb.plugin(written("1 / 0\n"))
    assert pb.plugin(written(METHOD)).brings == {"method": ["strange"]}
    assert pb.plugin(written(METHOD)).brings == {"method": ["strange"]}  # twice does no harm


def test_a_plugin_by_the_name_of_a_module(written, tmp_path, monkeypatch):
    written(METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    loaded = pb.plugin("strange")
    assert loaded.path == (tmp_path / "strange.py").resolve() and len(loaded.version) == 8
    before = loaded.version
    written(METHOD + "\n# another line\n")
    assert loaded.version != before


@pytest.mark.parametrize("name", ["calendar.py", "torch.py"])
def test_a_file_in_the_place_of_another_module(name, written):
    with pytest.raises(InputError, match="is taken by .*; rename the file") as error:
        pb.plugin(written(METHOD, name))
    message(error)


# What a method returns when it runs, and what is said of it.
RETURNED = {
    "no dictionary": ("{", "[", "losses of the method 'strange' gave a list"),
    "a tensor with sides": (".mean()", "", "gave .* for 'L'; give terms"),
    "no gradient": (".mean()", ".mean().detach()", "do not depend on its parameters"),
    "a part too few": ("settings.parts, 1", "settings.parts - 1, 1", "where it should be"),
}


@pytest.mark.parametrize("case", RETURNED)
def test_a_method_that_breaks_its_contract_when_it_runs(case, written, monkeypatch, tmp_path):
    few(monkeypatch)
    old, new, expected = RETURNED[case]
    text = METHOD.replace('{"L": ', "[").replace("mean()}", "mean()]") if old == "{" else METHOD
    strange = written(text if old == "{" else text.replace(old, new))
    options = dict(
        features="rgb", size=16, parts=3, steps=1, set={"batch_size": 2}, baselines=False
    )
    with pytest.raises(InputError, match=expected) as error:
        pb.discover("birds", method="strange", plugins=[strange], say=lambda line: None, **options)
    message(error)


def test_methods_of_the_package_do_not_rehearse(monkeypatch):
    few(monkeypatch)
    monkeypatch.setattr("partbook.run.rehearse", None)
    options = dict(features="rgb", size=16, parts=2, steps=1, baselines=False)
    assert pb.discover("birds", say=lambda line: None, **options).metrics
    assert "rgb" in extractors


def test_a_family_of_a_plugin_is_named_in_what_it_made(written):
    file = written(
        """
        from partbook.core import require
        from partbook.features.extractor import RGB, extractors

        @extractors.family("strange:")
        def made(rest):
            require(rest.isdigit(), "Only numbers.")
            return type("Strange", (RGB,), {"number": int(rest)})
        """
    )
    families = dict(extractors._families)
    try:
        loaded = plugins.plugin(file)
        used = [("feature extractor", "strange:7"), ("feature extractor", "rgb")]
        facts = {"plugins": plugins.made_with(used)}
        assert loaded.brings == {"feature extractor": ["strange:*"]}
        assert extractors["strange:7"].number == 7 and "strange:x" not in extractors
        assert facts["plugins"]["strange"]["brings"] == {"feature extractor": ["strange:7"]}
    finally:
        extractors._families.clear()
        extractors._families.update(families)
    plugins.LOADED.clear()
    with pytest.raises(InputError, match="of the plug-in strange, which you did not name"):
        plugins.refuse_unknown(facts, "feature extractor", "strange:7", "model.json")
    assert "strange:7" not in extractors


def test_a_plugin_that_fails_leaves_no_family_behind(written):
    file = written(
        """
        from partbook.features.extractor import extractors

        @extractors.family("strange:")
        def made(rest):
            return None

        raise RuntimeError("too late")
        """
    )
    with pytest.raises(InputError, match="too late"):
        plugins.plugin(file)
    assert "strange:" not in extractors._families
