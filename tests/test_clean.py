"""Saved notebooks carry nothing of one machine or one run; nor does any other file."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from partbook.book import CLASS_LINES, FOLDED, HOMES, LINES, cleanliness, serving
from partbook.chapters import notebooks, read_notebook

EVERY = notebooks(ROOT) + sorted((ROOT / "nbs").glob("_template*.ipynb"))


@pytest.mark.parametrize("path", EVERY, ids=lambda p: p.relative_to(ROOT / "nbs").as_posix())
def test_notebook_is_clean(path):
    assert cleanliness(path) == []


@pytest.mark.parametrize(
    "kind, lines, complaints",
    [("code", LINES, 0), ("code", LINES + 1, 1), ("markdown", 10 * LINES, 0)],
)
def test_a_cell_too_long_to_be_read_is_noticed(kind, lines, complaints):
    nb = read_notebook(ROOT / "nbs" / "_template.ipynb")
    nb["cells"][-1] = dict(cell_type=kind, id="deadbeef", metadata={}, source="x = 1\n" * lines)
    found = cleanliness(nb)
    assert len(found) == complaints and all(
        f"cell deadbeef: {lines} lines of code" in complaint for complaint in found
    )


@pytest.mark.parametrize("more, complaints", [("", 0), ("    y = 1\n", 1), ("def f(): ...\n", 1)])
def test_a_class_alone_may_be_longer(more, complaints):
    nb = read_notebook(ROOT / "nbs" / "_template.ipynb")
    body = "    x = 1\n" * (CLASS_LINES - 2)
    source = f"#| export\nclass Kite:\n{body}{more}"
    if more.startswith("def"):  # two things in one cell are not one class
        source = source.replace("    x = 1\n", "", 10)
    nb["cells"][-1] = dict(cell_type="code", id="deadbeef", metadata={}, source=source)
    assert len(cleanliness(nb)) == complaints


@pytest.mark.parametrize(
    "source, metadata, complaints",
    [
        ("#| hide\n1", FOLDED, 0),
        ("#| fold\n1", FOLDED, 0),
        ("#| hide\n1", {}, 0),
        ("#| hide\n1", {**FOLDED, "tags": []}, 2),
        ("#| hide\n1", {"jupyter": {"outputs_hidden": True}}, 1),
        ("#| hide\n1", {"jupyter": {"source_hidden": False}}, 1),
        ("#| export\nX = 1", FOLDED, 1),
        ("print(1)", FOLDED, 1),
    ],
)
def test_only_what_serves_may_be_folded(source, metadata, complaints):
    nb = read_notebook(ROOT / "nbs" / "_template.ipynb")
    cell = dict(cell_type="code", id="deadbeef", metadata=metadata, source=source)
    nb["cells"].insert(2, cell)
    assert len(cleanliness(nb)) == complaints


def test_nbdev_clean_leaves_folds_alone(tmp_path, environment):
    shutil.copy(ROOT / "settings.ini", tmp_path)
    (tmp_path / "nbs").mkdir()
    path = tmp_path / "nbs" / "10_template.ipynb"
    nb = read_notebook(ROOT / "nbs" / "_template.ipynb")
    folded = serving(nb["cells"])
    for cell in nb["cells"]:
        cell["metadata"] = FOLDED if cell["id"] in folded else {"scrolled": True}
    path.write_text(json.dumps(nb), encoding="utf-8")
    code = "from nbdev.clean import nbdev_clean; nbdev_clean()"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    after = read_notebook(path)["cells"]
    assert folded
    for cell in after:
        assert cell["metadata"] == (FOLDED if cell["id"] in folded else {})


def test_nbdev_clean_changes_nothing(tmp_path, environment):
    shutil.copy(ROOT / "settings.ini", tmp_path)
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs", ignore=shutil.ignore_patterns(".*"))
    subprocess.run(
        [sys.executable, "-c", "from nbdev.clean import nbdev_clean; nbdev_clean()"],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
    )
    changed = [
        p.name
        for p in EVERY
        if (tmp_path / p.relative_to(ROOT)).read_text(encoding="utf-8")
        != p.read_text(encoding="utf-8")
    ]
    assert not changed, f"run: python -m partbook.book run on {', '.join(changed)}"


def project_files():
    "What would be committed: git's list, or without git every file not hidden or built."
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0 and listed.stdout:
        return [ROOT / name for name in listed.stdout.split("\0") if name]
    hidden = re.compile(
        r"(^|/)(\.(?!ci|git(ignore|attributes)$)|build|dist|__pycache__|[^/]*\.egg-info|partbook-out)"
    )
    return [
        p
        for p in ROOT.rglob("*")
        if p.is_file() and not hidden.search(p.relative_to(ROOT).as_posix())
    ]


def test_no_file_names_a_home_folder():
    found = []
    for path in project_files():
        if path.suffix in (".png", ".safetensors", ".ipynb") or not path.is_file():
            continue  # notebooks are checked above, cell by cell
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if re.search(HOMES, line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert not found, "\n".join(found)


def test_no_large_file():
    large = [
        f"{p.relative_to(ROOT)}: {p.stat().st_size // 1024} KB"
        for p in project_files()
        if p.is_file() and p.stat().st_size > 2 * 2**20
    ]
    assert not large, large
