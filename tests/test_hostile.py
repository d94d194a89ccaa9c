"A small draw of the hostile inputs of tests/hostile.py, and whether its judge sees what is wrong."

import time
from pathlib import Path

import pytest
from hostile import hostile, shares
from hostile_judge import KINDS, Case, judged

from partbook.core import InputError


def test_a_draw_of_all_kinds():
    "Some sixty inputs: one sentence or a right result for each."
    tallies = hostile(60, seed=11, stride=13)
    assert set(tallies) == set(KINDS) and sum(t.inputs for t in tallies.values()) >= 55
    failures = [line for t in tallies.values() for line in t.failures]
    assert not failures, "\n".join(failures)


def test_a_thousand_inputs_hold_forty_of_each_kind():
    found = shares(1000, list(KINDS))
    assert sum(found.values()) >= 1000 and min(found.values()) >= 40


def refuse(text: str):
    raise InputError(text)


def fail():
    raise ValueError("a number")


@pytest.fixture
def place(tmp_path):
    "A folder of a case's own, with a file of the user's, inside a folder that is watched."
    (tmp_path / "here" / "case").mkdir(parents=True)
    (tmp_path / "here" / "case" / "user.txt").write_text("mine")
    (tmp_path / "canary").mkdir()
    return tmp_path / "here" / "case"


WRONG = {  # what a reader does, and what the judge has to say
    "traceback": (lambda f: Case("", call=fail), "ValueError"),
    "two lines": (lambda f: Case("", call=lambda: refuse("one.\ntwo.")), "2 lines"),
    "another reason": (
        lambda f: Case("", call=lambda: refuse("no."), says="mask"),
        "what is wrong",
    ),
    "accepted": (lambda f: Case("", call=lambda: 1, must="refused"), "accepted"),
    "refused": (lambda f: Case("", call=lambda: refuse("no."), must="right"), "though it can"),
    "wrong value": (
        lambda f: Case("", call=lambda: 1, check=lambda a: f"{a.value}, not 2"),
        "not 2",
    ),
    "made": (lambda f: Case("", call=lambda: (f / "x").touch()), "made 'x'"),
    "changed": (lambda f: Case("", call=lambda: (f / "user.txt").write_text("")), "changed 'user"),
    "removed": (lambda f: Case("", call=lambda: (f / "user.txt").unlink()), "removed 'user.txt'"),
    "kept": (
        lambda f: Case(
            "", call=lambda: (f / "user.txt").unlink(), writes=(".",), keeps=("user.txt",)
        ),
        "removed",
    ),
    "escaped": (lambda f: Case("", call=lambda: (f / "../../canary/x").touch()), "ESCAPED"),
    "temporary": (
        lambda f: Case("", writes=(".",), call=lambda: (f / ".partbook-00000000-1-x").touch()),
        "behind",
    ),
    "memory": (lambda f: Case("", call=lambda: len(b"x" * 1_300_000_000)), "GB of memory"),
    "memory apart": (lambda f: Case("", call=lambda: len(b"x" * 1_300_000_000), limit=3), "GB"),
    "status": (lambda f: Case("", words=["--nonsense"], must="right"), "refused"),
}


@pytest.mark.parametrize("make, said", WRONG.values(), ids=list(WRONG))
def test_the_judge_sees(place, make, said):
    _, wrong = judged(make(place), place, place.parents[1])
    assert said in "; ".join(wrong)


def test_the_judge_is_content(place):
    def write():
        (place / "o").mkdir()
        (place / "o" / "x").touch()

    for case in (
        Case("", call=write, writes=("o",)),
        Case("", call=lambda: refuse("no.")),
        Case("", words=["data", Path("nowhere")], must="refused"),
    ):
        assert judged(case, place, place.parents[1])[1] == []


def test_what_does_not_end_is_stopped(place, monkeypatch):
    import hostile_judge

    monkeypatch.setattr(hostile_judge, "SECONDS", 0.3)
    _, wrong = judged(Case("", call=lambda: time.sleep(9)), place, place.parents[1])
    assert "still running" in wrong[0]
