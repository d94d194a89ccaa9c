"""The student's and the teacher's version of the book: complete, valid, and they run."""

import json
import subprocess
import sys

import nbformat
import pytest
from conftest import ROOT
from helpers import run, sentence

from partbook.chapters import InputError, dead_links, read_notebook
from partbook.course import (
    BEGIN,
    END,
    HERE,
    LIST,
    Pieces,
    chosen,
    deliver,
    exercises_of,
    lacks,
    numbered,
    prepare,
    read_exercises,
    version,
)

FAST = ["index.ipynb", "02_letters.ipynb", "parts/10_maps.ipynb"]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    "The whole book in both versions."
    place = tmp_path_factory.mktemp("course")
    for name in ("student", "teacher"):
        prepare(ROOT, place / name, teacher=name == "teacher")
    return place


def sources(folder, name):
    return [cell["source"] for cell in read_notebook(folder / "nbs" / name)["cells"]]


def code(cells, names):
    "The lines of some code cells, without marks and directives."
    found = [c["source"] for c in cells if c.get("id") in names]
    return ["\n".join(x for x in s.split("\n") if not x.startswith("#|")).strip() for s in found]


def test_every_exercise_has_one_place_to_answer(both):
    exercises = read_exercises(ROOT)
    assert len(exercises) > 200
    for name in chosen(ROOT):
        own = [e for e in exercises if e.chapter == name]
        assert sources(both / "student", name).count(HERE) == len(own), name


def test_no_solution_is_left_and_none_is_lost(both):
    solved = 0
    for name in chosen(ROOT):
        cells = read_notebook(ROOT / "nbs" / name)["cells"]
        student = sources(both / "student", name)
        teacher = sources(both / "teacher", name)
        for exercise in exercises_of(cells, name):
            for text in code(cells, exercise.code):
                solved += 1
                assert f"{BEGIN}\n{text}\n{END}" in teacher, (name, exercise.number)
                assert text not in student, (name, exercise.number)
            words = [line for line in exercise.solution.split("\n") if len(line) > 20]
            for line in words:
                assert any(line in source for source in teacher), (name, line)
                assert not any(line in source for source in student), (name, line)
            solved += bool(words)
        own = name == "43_course.ipynb"  # which talks about the marks
        assert own or not any(BEGIN in source for source in student), name
    assert solved > 250


def test_nbgrader_knows_every_answer(both):
    "All that it needs to take a solution out: a name of its own for each cell, and what it is."
    for name in chosen(ROOT):
        cells = read_notebook(both / "teacher" / "nbs" / name)["cells"]
        marks = [c["metadata"]["nbgrader"] for c in cells if c["metadata"]]
        assert len({m["grade_id"] for m in marks}) == len(marks)
        assert all(m["solution"] and not m["locked"] for m in marks)
        assert all(c["metadata"] for c in cells if c["source"].startswith("**Solution")), name
        words = [m for m in marks if m["cell_type"] == "markdown"]
        assert all(m["grade"] and m["points"] in range(4) for m in words)


def test_nothing_else_is_lost(both):
    for name in FAST:
        cells = read_notebook(ROOT / "nbs" / name)["cells"]
        solutions = {i for e in exercises_of(cells, name) for i in e.code}
        kept = [c["source"] for c in cells if c["cell_type"] == "code" and c["id"] not in solutions]
        student = [s for s in sources(both / "student", name) if s in kept]
        assert student == kept


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_the_notebooks_are_valid_and_their_links_lead_somewhere(both, name):
    for chapter in chosen(ROOT):
        path = both / name / "nbs" / chapter
        nbformat.validate(nbformat.read(path, as_version=4))
        assert dead_links(path) == [], chapter


@pytest.mark.parametrize("name", ["student", "teacher"])
@pytest.mark.parametrize("chapter", ["02_letters.ipynb", "parts/10_maps.ipynb"])
def test_a_short_chapter_runs(both, environment, name, chapter):
    script = (
        "import nbformat, sys; from nbclient import NotebookClient;"
        "nb = nbformat.read(sys.argv[1], 4); NotebookClient(nb, timeout=300).execute()"
    )
    path = both / name / "nbs" / chapter
    environment = environment | {"PARTBOOK_SMALL": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        cwd=path.parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


SPELLINGS = {
    "1. (★, 5 minutes) Q <details><summary>Hint</summary>H</details>": (1, 5, "H"),
    "1. ★★ (ten minutes) Q **Hint:** H": (2, 10, "H"),
    "1. (two stars, fifteen minutes) Q *Hint:* H": (2, 15, "H"),
    "**1.** ★★★ 20 minutes. Q *Hint: H*": (3, 20, "H"),
    "★ (two minutes) Q": (1, 2, ""),
    "1. Q": (0, 0, ""),
}


@pytest.mark.parametrize("written", SPELLINGS)
def test_every_spelling_is_read(written):
    cells = [dict(cell_type="markdown", id="a", source=f"## Exercises\n\n{written}")]
    (exercise,) = exercises_of(cells)
    assert (exercise.stars, exercise.minutes, exercise.hint) == SPELLINGS[written]
    assert "a solution" in lacks(exercise)


ANSWERS = {
    "**Solutions.** *1.* One is 1. *2.* Two.": ["One is 1.", "Two."],
    "**Solution to 2.** Two.\n\n**Solution to 1.** One.": ["One.", "Two."],
    "**Solution to 1 and 2.** Both.": ["Both.", "Both."],
    "<details><summary>Solutions</summary>\n\n1. One.\n2. Two.\n</details>": ["One.", "Two."],
    "**Solution to 1.** One. **Solution to 2.** Two.": ["One.", "Two."],
    "<details><summary>Solutions</summary>\n\n**Solutions.** 1. One. 2. Two.\n\n</details>": [
        "One.",
        "Two.",
    ],
}


@pytest.mark.parametrize("written", ANSWERS)
def test_solutions_find_their_exercises(written):
    asked = "## Exercises\n\n1. ★ (one minute) A?\n2. ★ (one minute) B?"
    text = f"{asked}\n\n{written}\n\n## End\n\nText."
    cells = [dict(cell_type="markdown", id="a", source=text)]
    assert [e.solution for e in exercises_of(cells)] == ANSWERS[written]
    left = json.dumps(version(cells, teacher=False))
    assert "One" not in left and "Both" not in left and "## End" in left and "B?" in left


def test_code_below_a_solution_belongs_to_it_until_the_next_text():
    cells = [
        dict(cell_type="markdown", id="a", source="## Exercise\n\n★ (one minute) A?"),
        dict(cell_type="markdown", id="b", source="**Solution.** So:"),
        dict(cell_type="code", id="c", source="x = 1", outputs=[]),
        dict(cell_type="code", id="d", source="#| export\ny = 2", outputs=[]),
        dict(cell_type="markdown", id="e", source="## Next"),
        dict(cell_type="code", id="f", source="z = 3", outputs=[]),
    ]
    (exercise,) = exercises_of(cells)
    assert exercise.code == ("c",)
    assert [c["source"] for c in version(cells, False) if c["cell_type"] == "code"] == [
        HERE,
        "#| export\ny = 2",
        "z = 3",
    ]


def test_numbers_in_code_and_outside_of_exercises_are_no_exercises():
    text = "1. ★ no section\n\n## Exercises\n\n```\n1. ★ code\n```\n\n**Hints.** *1.* H"
    kinds = [piece.kind for piece in Pieces().of(text)]
    assert kinds == ["text", "text", "hint"]
    assert numbered("In 1.5 of 3. cases") == {3: "cases"}


def test_a_changed_or_foreign_file_stays(tmp_path):
    tree, out = tmp_path / "tree", tmp_path / "out"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "a.txt").write_text("one")
    (out / "deep").mkdir(parents=True)
    (out / "deep" / "a.txt").write_text("mine")
    with pytest.raises(InputError, match="was not made by partbook"):
        deliver(tree, out)
    assert [p.name for p in out.rglob("*.*")] == ["a.txt"]
    (out / "deep" / "a.txt").unlink()
    assert deliver(tree, out) == ["deep/a.txt"]
    (out / "deep" / "a.txt").write_text("my answer")
    with pytest.raises(InputError, match="changed since"):
        deliver(tree, out)
    assert (out / "deep" / "a.txt").read_text() == "my answer"


def test_a_list_that_climbs_out_of_its_folder_deletes_nothing(tmp_path):
    tree, out = tmp_path / "tree", tmp_path / "out"
    tree.mkdir()
    out.mkdir()
    (tmp_path / "precious").write_text("x")
    deliver(tree, out)
    record = json.loads((out / LIST).read_text())
    record["files"] = {"../precious": "0", str(tmp_path / "precious"): "0"}
    (out / LIST).write_text(json.dumps(record))
    deliver(tree, out)
    assert (tmp_path / "precious").read_text() == "x"
    (out / LIST).write_text('{"files": [1]}')
    with pytest.raises(InputError, match="not a list of what was made"):
        deliver(tree, out)


def test_the_command_says_what_it_would_do_and_does_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    out = tmp_path / "für Ada"
    assert run("student", out, "--main-line", "--dry-run") == 0
    assert "Nothing was written" in capsys.readouterr().out and not out.exists()
    assert run("student", out, "--main-line", "--clear-outputs") == 0
    assert "exercises: open" in capsys.readouterr().out
    path = out / "nbs" / "methods" / "40_scops.ipynb"
    assert dead_links(path) == [] and not (out / "nbs" / "30_cli.ipynb").exists()
    assert not any(c.get("outputs") for c in read_notebook(path)["cells"])
    path.write_text(path.read_text() + " ")
    assert "changed since" in sentence(capsys, "student", out, "--main-line")


@pytest.mark.parametrize("words", [["nbs"], ["nbs/course"], ["."], ["setup.py"]])
def test_the_book_itself_is_no_place_for_results(words, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    sentence(capsys, "teacher", *words)


def test_outside_a_checkout_there_is_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "not inside a checkout" in sentence(capsys, "student", "out")
