"""Every equation has one home, and the register knows it."""

import csv
import importlib

import pytest
from conftest import ROOT

from partbook.chapters import chapter
from partbook.core import InputError
from partbook.register import Equation, equations, fill_register, names_term, read_register, tags

ROWS = read_register(ROOT)
PAPERS = {
    "SCOPS": range(1, 7),
    "Contrastive": range(1, 6),
    "Disentangling": range(1, 13),
}  # as numbered by the authors
SECTIONS = {
    "3.1",
    "3.2",
    "3.2.1",
    "3.2.2",
    "3.2.4",
    "Algorithm 1",
}  # of the fourth paper, which numbers nothing


def test_every_equation_of_the_papers_is_listed():
    for paper, numbers in PAPERS.items():
        assert {str(n) for n in numbers} <= {row.number for row in ROWS if row.paper == paper}, (
            paper
        )
    assert SECTIONS <= {row.number.rstrip("abcd") for row in ROWS if row.paper == "Alignment"}
    assert len({row[:2] for row in ROWS}) == len(ROWS), "a number is listed twice"
    assert all(row.term for row in ROWS)


def test_register_is_what_the_chapters_quote():
    "Unknown numbers, second homes, equations above nothing raise here; all else is a stale file."
    assert fill_register(ROWS, equations(ROOT)) == ROWS, "run: python -m partbook.book register"


@pytest.mark.parametrize(
    "row", [r for r in ROWS if r.notebook], ids=lambda r: f"{r.paper} {r.number}"
)
def test_home(row):
    path = ROOT / "nbs" / row.notebook
    assert f"\\tag{{{row.paper} " in path.read_text(encoding="utf-8").replace("\\\\", "\\")
    module = importlib.import_module(f"partbook.{chapter(path, ROOT).module}")
    assert row.function in module.__all__
    assert callable(getattr(module, row.function))


def test_some_equations_have_a_home():
    assert any(row[:2] == ("SCOPS", "1") and row.function == "part_centres" for row in ROWS)


def test_register_is_plain_csv():
    with open(ROOT / "nbs" / "register.csv", encoding="utf-8", newline="") as file:
        assert next(csv.reader(file)) == list(Equation._fields)


def test_tags_are_only_read_in_mathematics():
    assert tags("`\\tag{SCOPS 1}` and \\tag{SCOPS 2} and $$x\\tag{SCOPS 3}$$") == [("SCOPS", "3")]


@pytest.mark.parametrize(
    "function, term, fits",
    [
        ("literal_feature_loss", "feature loss", True),
        ("part_centres", "part centre", True),
        ("visual_loss", "visual consistency loss", True),
        ("neighbour_products", "feature loss", False),
        ("map_equivariance", "equivariance loss", False),
        ("literal_loss", "feature loss", False),
    ],
)
def test_a_home_has_the_name_of_its_term(function, term, fits):
    assert names_term(function, term) is fits
    row = Equation("SCOPS", "9", term)
    home = Equation("SCOPS", "9", "", "methods/40_scops.ipynb", function)
    if fits:
        assert fill_register([row], [home])[0].function == function
    else:
        with pytest.raises(InputError, match=f"home at {function}, but the paper calls it"):
            fill_register([row], [home])
