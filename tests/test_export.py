"""The package is what the notebooks export, the README what its notebook says; arrows are right."""

import ast
import filecmp
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from partbook.book import readme
from partbook.chapters import (
    FOOT,
    LAYERS,
    MAIN,
    chapter,
    contents,
    dead_links,
    footers,
    from_root,
    in_order,
    notebooks,
    read_notebook,
    read_route,
    route_complaints,
    wrong_arrows,
)
from partbook.reading import figures_of_chapters


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    "A copy of the project in which the package was exported anew."
    copy = tmp_path_factory.mktemp("export")
    for name in ("settings.ini", "setup.py", "README.md"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "nbs", copy / "nbs", ignore=shutil.ignore_patterns(".*"))
    import os

    (copy / "partbook").mkdir()
    shutil.copy(
        ROOT / "partbook" / "__init__.py", copy / "partbook"
    )  # of which nbdev writes the version only
    environment = {
        k: v for k, v in os.environ.items() if k not in ("IN_TEST", "PARTBOOK_SMALL")
    }  # nbdev exports nothing under IN_TEST
    environment |= {"HOME": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()"]
    done = subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return copy


def modules(root: Path) -> set[str]:
    "Python files of the package, relative to it."
    return {p.relative_to(root / "partbook").as_posix() for p in (root / "partbook").rglob("*.py")}


def test_export_has_no_drift(fresh):
    assert modules(fresh) == modules(ROOT), "run: nbdev_export"
    _, different, errors = filecmp.cmpfiles(
        fresh / "partbook", ROOT / "partbook", sorted(modules(ROOT)), shallow=False
    )
    assert not different and not errors, f"run nbdev_export; it changes {different + errors}"


def test_drift_would_be_noticed(fresh, tmp_path):
    shutil.copytree(fresh / "partbook", tmp_path / "partbook")
    path = tmp_path / "partbook" / "core.py"
    path.write_text(path.read_text(encoding="utf-8") + "\n# edited by hand\n", encoding="utf-8")
    assert filecmp.cmpfiles(fresh / "partbook", tmp_path / "partbook", ["core.py"], shallow=False)[
        1
    ] == ["core.py"]


def test_one_notebook_one_module_one_name():
    homes = {}
    for path in notebooks(ROOT):
        where = path.relative_to(ROOT / "nbs")
        module = "" if path.stem == "index" else chapter(path, ROOT).module
        if not module:
            continue
        name = re.sub(r"^\d+_", "", path.stem)
        assert module == ".".join((*where.parts[:-1], name)), (
            f"{where} exports {module}: the folder and the name should agree"
        )
        assert module not in homes, f"{where} and {homes.get(module)} export the same module"
        homes[module] = where
    written = {
        m.removesuffix(".py").replace("/", ".")
        for m in modules(ROOT)
        if Path(m).name not in ("__init__.py", "_modidx.py")
    }
    assert written == set(homes)


def test_arrows_point_one_way():
    assert wrong_arrows(ROOT) == []


def test_every_layer_is_a_folder_or_a_module():
    assert {
        p.name for p in (ROOT / "nbs").iterdir() if p.is_dir() and p.name[0] not in "._"
    } <= set(LAYERS)


def test_contributors_tools_are_imported_late():
    "What only contributors install (nbdev, nbclient, ...) is imported inside functions."
    allowed = {
        "partbook",
        "torch",
        "torchvision",
        "numpy",
        "matplotlib",
        "sklearn",
        "scipy",
        "ipywidgets",
        "IPython",
        "accelerate",
        "fastcore",
        "safetensors",
        "tqdm",
        "PIL",
        "jinja2",
        "markupsafe",
    } | sys.stdlib_module_names
    found = []
    for name in sorted(modules(ROOT)):
        for node in ast.parse((ROOT / "partbook" / name).read_text(encoding="utf-8")).body:
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )
            found += [f"{name}: {n}" for n in names if n.split(".")[0] not in allowed]
    assert not found, found


def test_readme_has_no_drift():
    assert readme(ROOT) == (ROOT / "README.md").read_text(encoding="utf-8"), (
        "run: python -m partbook.book readme"
    )


def test_readme_lists_every_chapter():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [row for row in contents(ROOT).splitlines() if from_root(row) not in text]
    assert not missing, (
        "run: python -m partbook.book run nbs/index.ipynb && python -m partbook.book readme"
    )


@pytest.mark.parametrize("name", ["README.md", "nbs/index.ipynb", "CONTRIBUTING.md"])
def test_links_lead_somewhere(name):
    assert dead_links(ROOT / name) == []


@pytest.mark.parametrize("path", notebooks(ROOT), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_of_chapters_lead_somewhere(path):
    assert dead_links(path) == []


def test_a_link_that_leads_nowhere_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("[a](page.md#top) [b](b.md) `[c](c.md)` ![d](d.png) [e](https://e.org)")
    assert dead_links(page) == ["b.md", "d.png"]


def test_every_chapter_is_on_the_route():
    assert route_complaints(ROOT) == []


def test_the_main_line_starts_with_the_opening_chapter_and_ends_with_tables():
    line = [stop.path for stop in in_order(read_route(ROOT)) if stop.layer == MAIN]
    assert line[0] == "05_parts_in_ten_minutes.ipynb"
    assert line[-1].startswith("experiments/") and 15 <= len(line) <= 25


def test_chapters_end_with_the_links_of_the_route():
    said = {}
    for where in footers(ROOT):
        last = read_notebook(ROOT / "nbs" / where)["cells"][-1]
        said[where] = last["source"] if last["id"] == FOOT else ""
    if not any(said.values()):
        pytest.skip("no chapter has its links yet; run: python -m partbook.book route")
    wrong = [where for where, text in footers(ROOT).items() if said[where] != text]
    assert not wrong, f"run: python -m partbook.book route; it changes {wrong}"


def test_the_book_can_be_measured():
    rows = figures_of_chapters(ROOT)
    assert len({row.what for row in rows}) == len(rows) and all(row.now for row in rows)
