"""The student's and the teacher's version of the book: complete, valid, and they run."""

import ast
import json

import nbformat
import numpy as np
import pytest
import torch
from conftest import ROOT
from helpers import run, sentence

from partbook.chapters import MAIN, InputError, dead_links, in_order, read_notebook, read_route
from partbook.course import (
    BEGIN,
    END,
    HERE,
    LIST,
    Exercise,
    check,
    chosen,
    deliver,
    exercise_complaints,
    exercises_of,
    is_right,
    lacks,
    misspelled,
    pieces_of,
    prepare,
    read_exercises,
    sealed,
    version,
)

FAST = ["index.ipynb", "02_letters.ipynb", "parts/10_maps.ipynb"]
MAIN_LINE = [stop.path for stop in in_order(read_route(ROOT)) if stop.layer == MAIN]


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
        student = sources(both / "student", name)
        assert sum(s.startswith(HERE) for s in student) == len(own), name
        assert sum("import check\n" in s for s in student) == len(own), name


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
        tests = [m for m in marks if m["locked"]]
        assert all(m["grade"] and not m["solution"] and m["points"] in (1, 2, 3) for m in tests)
        assert len(tests) == len([e for e in read_exercises(ROOT) if e.chapter == name]), name
        assert all(m["solution"] for m in marks if not m["locked"])
        assert all(c["metadata"] for c in cells if c["source"].startswith("**Solution")), name
        words = [m for m in marks if m["cell_type"] == "markdown"]
        assert all(m["grade"] and m["points"] == 0 for m in words)


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


def test_a_teachers_code_is_the_chapters_in_the_same_order(both):
    "So that the teacher's version stands for the chapter where only one of them is run."
    for name in MAIN_LINE:
        cells = read_notebook(ROOT / "nbs" / name)["cells"]
        solving = {i for e in exercises_of(cells, name) for i in e.code}
        before = [
            code([cell], {cell["id"]})[0] if cell["id"] in solving else cell["source"]
            for cell in cells
            if cell["cell_type"] == "code"
        ]
        taught = read_notebook(both / "teacher" / "nbs" / name)["cells"]
        after = [c["source"] for c in taught if c["cell_type"] == "code"]
        after = [s.removeprefix(BEGIN + "\n").removesuffix("\n" + END) for s in after]
        rest = iter(after)
        assert all(source in rest for source in before), name


@pytest.mark.parametrize("version", ["student", "teacher"])
@pytest.mark.parametrize("name", MAIN_LINE)
def test_a_chapter_of_the_main_line_runs(both, kernels, environment, name, version):
    "Small; the teacher's with its checks, the student's with nothing filled in."
    done = kernels.run(both / version / "nbs" / name, environment)
    assert done.returncode == 0, done.stderr[-4000:]


WRONG = (..., None, "", "nothing of the kind", 12345678, -0.123, ("a", 1), [], {}, object())


def changed(value):
    "Another answer of the same kind."
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, tuple | list):
        return [changed(v) for v in value]
    return value + 1


def right(answer, exercise):
    "Whether an answer passes; what is no answer does not."
    try:
        return is_right(answer, exercise.name, sealed(exercise))
    except InputError:
        return False


def test_every_check_passes_on_the_solution_and_fails_on_a_wrong_answer():
    exercises = [e for e in read_exercises(ROOT) if e.answer]
    for exercise in exercises:
        value = ast.literal_eval(exercise.answer)
        assert right(value, exercise), exercise.name
        wrong = [w for w in (*WRONG, changed(value)) if type(w) is not type(value) or w != value]
        assert not any(right(w, exercise) for w in wrong), exercise.name
    assert len(exercises) > 250


def test_every_exercise_has_all_it_needs():
    assert exercise_complaints(ROOT) == []


@pytest.mark.parametrize("name", ["_template.ipynb", "_template_method.ipynb"])
def test_the_templates_show_how(name):
    cells = read_notebook(ROOT / "nbs" / name)["cells"]
    found = exercises_of(cells, name)
    assert len(found) == 2 and misspelled(cells) == []
    assert not any(lacks(exercise) for exercise in found)


def exercise(answer):
    return Exercise("a.ipynb", 1, 1, 5, "", "", "", (), answer)


@pytest.mark.parametrize(
    ("answer", "good", "bad"),
    [
        ("3", [3, 3.0, torch.tensor([3]), np.float32(3), "3", [3]], [4, 2.9, True, float("nan")]),
        ("(0, 2)", [(-0.0, 2), [0, 2.0]], [(2, 0), 0]),
        ("'bc'", ["bc", "cb", "B, C", "c b"], ["bcd", "b", "bb", ""]),
        ("0.31", [0.31, 0.3149, torch.tensor(0.3051)], [0.33, 0.3, 31]),
        ("-1.5", [-1.5, -1.46], [1.5, -1.7]),
        ("True", [True], [False, 1, "yes"]),
        ("'Red  green'", ["red green", " RED green "], ["redgreen", "green red"]),
        ("(2, 0.25)", [(2, 0.25), [2, 0.25], torch.tensor([2, 0.25])], [(0.25, 2), 2, (2,)]),
    ],
)
def test_an_answer_is_compared_as_its_kind_asks(answer, good, bad):
    assert all(right(value, exercise(answer)) for value in good)
    assert not any(right(value, exercise(answer)) for value in bad)


def test_a_seal_does_not_tell_and_belongs_to_one_exercise():
    keys = {sealed(exercise(answer)) for answer in ("1", "2", "12", "'a'")}
    assert len(keys) == 4 and all(len(key) == 18 for key in keys)
    assert sealed(exercise("1")) != sealed(exercise("1")._replace(number=2))
    with pytest.raises(InputError, match="a 1: `open.*` is not a number"):
        sealed(exercise("open('x')"))


def test_a_check_never_stops_a_notebook(capsys):
    key = sealed(exercise("0.31"))
    for answer in (..., {}, 1, 0.31):
        check(answer, "a 1", key)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("no answer yet.") and "cannot be checked" in lines[1]
    assert "not yet" in lines[2] and lines[3].endswith("right.")


ASKED = "1. (★★, 10 minutes) Put it into `answer_1`.{}"
FOLDED = "\n\n   <details><summary>Hint</summary>\n\n   H\n\n   </details>"


def test_an_exercise_is_read_whole():
    cells = [
        dict(cell_type="markdown", id="a", source="## Exercises\n\n" + ASKED.format(FOLDED)),
        dict(cell_type="markdown", id="b", source="**Solution to 1.** It is `answer_1 = 4`."),
    ]
    (found,) = exercises_of(cells, "x/y.ipynb")
    assert found[:4] == ("x/y.ipynb", 1, 2, 10) and found.name == "x/y 1"
    assert (found.hint, found.solution, found.answer) == ("H", "It is `answer_1 = 4`.", "4")
    assert lacks(found) == [] and misspelled(cells) == []
    without = exercises_of([dict(cells[0], source=ASKED.format(""))])[0]
    assert len(lacks(without)) == 3


@pytest.mark.parametrize(
    "line",
    ["1. ★ (two minutes) Q", "1. Q", "**1.** (★, 5 minutes) Q", "★ Q", "(★, 5 minutes) Q"]
    + ["1. (★★★★, 5 minutes) Q", "**Hint.** H", "**Solution.** S", "**Solutions.** 1. S"]
    + ["**Solution to 1 and 2.** S"],
)
def test_any_other_spelling_is_named(line):
    cells = [dict(cell_type="markdown", source=f"## Exercises\n\n{line}")]
    assert misspelled(cells) == [line]


def test_code_below_a_solution_belongs_to_it_until_the_next_text():
    cells = [
        dict(cell_type="markdown", id="a", source="## Exercises\n\n" + ASKED.format("")),
        dict(cell_type="markdown", id="b", source="**Solution to 1.** So: `answer_1 = 1`"),
        dict(cell_type="code", id="c", source="x = 1", outputs=[]),
        dict(cell_type="code", id="d", source="#| export\ny = 2", outputs=[]),
        dict(cell_type="markdown", id="e", source="## Next"),
        dict(cell_type="code", id="f", source="z = 3", outputs=[]),
    ]
    (found,) = exercises_of(cells)
    assert found.code == ("c",)
    stub, asks, *rest = [c["source"] for c in version(cells, False) if c["cell_type"] == "code"]
    assert stub == f"{HERE}\nanswer_1 = ..." and "check(answer_1" in asks
    assert rest == ["#| export\ny = 2", "z = 3"]


def test_numbers_in_code_are_no_exercises():
    text = f"## Exercises\n\n```\n{ASKED}\n1. ★\n```\n\n{ASKED}"
    assert [piece.kind for piece in pieces_of(text)] == ["text", "exercise"]
    assert misspelled([dict(cell_type="markdown", source=text)]) == []


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
