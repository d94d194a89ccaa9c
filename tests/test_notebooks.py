"""Every chapter runs top to bottom at small size, in an interpreter of its own, as by `nbdev_test`;
those of the main line in test_course.py, in the teacher's version."""

import json

import pytest
from conftest import ROOT

from partbook.chapters import MAIN, chapter, notebooks, read_notebook, read_route

CHAPTERS = notebooks(ROOT)
ELSEWHERE = {stop.path for stop in read_route(ROOT) if stop.layer == MAIN}  # in test_course.py
ALONE = [p for p in CHAPTERS if p.relative_to(ROOT / "nbs").as_posix() not in ELSEWHERE]
TEMPLATE = ROOT / "nbs" / "_template.ipynb"
TEMPLATES = [TEMPLATE, ROOT / "nbs" / "_template_method.ipynb"]


def test_there_are_chapters():
    assert len(CHAPTERS) >= 5, "hardly any notebook was found: is nbs/ where it should be?"


@pytest.mark.parametrize("path", ALONE, ids=lambda p: p.relative_to(ROOT / "nbs").as_posix())
def test_runs(path, kernels, environment):
    done = kernels.run(path, environment)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.stem)
def test_template_runs(path, kernels, environment):
    done = kernels.run(path, environment)
    assert done.returncode == 0, done.stderr[-4000:]


def test_a_failing_notebook_is_noticed(tmp_path, kernels, environment):
    nb = read_notebook(TEMPLATE)
    nb["cells"][-1] = dict(
        cell_type="code",
        id="deadbeef",
        metadata={},
        source="assert 1 == 2",
        execution_count=None,
        outputs=[],
    )
    path = tmp_path / "10_broken.ipynb"
    path.write_text(json.dumps(nb), encoding="utf-8")
    done = kernels.run(path, environment)
    assert done.returncode == 1 and "AssertionError" in done.stderr


def test_a_cell_for_gpus_is_left_out(tmp_path, kernels, environment):
    nb = read_notebook(TEMPLATE)
    nb["cells"][-1] = dict(
        cell_type="code",
        id="deadbeef",
        metadata={},
        source="#| gpu\nassert 1 == 2",
        execution_count=None,
        outputs=[],
    )
    path = tmp_path / "10_gpu.ipynb"
    path.write_text(json.dumps(nb), encoding="utf-8")
    done = kernels.run(path, environment)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize(
    "path", [p for p in CHAPTERS if p.stem != "index"] + TEMPLATES, ids=lambda p: p.stem
)
def test_opens_with_title_and_claim(path):
    assert len(chapter(path, ROOT).claim) > 10


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.stem)
def test_template_has_the_anatomy(path):
    text = "\n".join(cell["source"] for cell in read_notebook(path)["cells"])
    for part in (
        "What you will be able to do",
        "In the paper's words",
        "| symbol | shape |",
        "\\tag{",
        "#| export",
        "## Exercises",
        "**Solution",
        "## References",
    ):
        assert part in text, part
