"""The papers' tables as lists of runs: each number has a run, a key and its printed value."""

from dataclasses import fields
from pathlib import Path

import pytest

from partbook.cli import build_parser, request_of
from partbook.core import InputError
from partbook.evaluation.protocols import protocols
from partbook.evaluation.results import frame, read_rows
from partbook.evaluation.tables import (
    BUDGETS,
    Entry,
    PaperTable,
    agreement,
    as_printed,
    beside,
    by_key,
    key_of,
    printed_number,
    signs,
    tables,
    trivial_entries,
    typed,
)
from partbook.methods.method import methods

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = read_rows(ROOT / "results" / "published.csv")
PAPERS = {"scops": 4, "contrastive": 5, "disentangling": 5, "alignment": 8}
NAMES = [f"{paper}-{n}" for paper, count in PAPERS.items() for n in range(1, count + 1)]


def test_all_tables_of_the_four_papers_are_there():
    assert len(NAMES) == 22
    assert set(NAMES) <= set(tables.names())


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_its_run(name):
    table = tables[name]()
    for entry in table.entries:
        known = {f.name for f in fields(methods[entry.method].Settings)}
        assert set(entry.change) | set(entry.paper_change) <= known, entry
        assert all(protocol in protocols for protocol in entry.protocol)
        places = [("somewhere", b) for b in BUDGETS[entry.paper_only :]]
        places += [(None, b) for b in BUDGETS] if entry.twin else []
        for root, budget in places:
            words = typed(entry, 1, root, budget)
            request = request_of(build_parser().parse_args(words))
            parts = entry.paper.get("parts", entry.parts) if budget == "paper" else entry.parts
            assert (request.method, request.parts, request.seed) == (entry.method, parts, 1)


@pytest.mark.parametrize("name", NAMES)
def test_every_number_is_printed(name):
    table = tables[name]()
    own = [e for e in table.entries if not e.trivial]
    missing = [e for e in own if printed_number(e, table, PUBLISHED) is None]
    assert missing == [] and len(own) > 0


def test_columns_of_contrastive_are_those_of_the_text(shared_path):
    text = shared_path("papers/contrastive.txt").read_text(encoding="utf-8")
    for n in (3, 4, 5):
        table = tables[f"contrastive-{n}"]()
        for entry in table.entries:
            if not entry.trivial:
                assert f"{printed_number(entry, table, PUBLISHED):.1f}" in text


ENTRY = Entry("A", "error", "landmark_error", "kmeans", 4, "celeba", "faces")


@pytest.mark.parametrize(
    "more",
    [
        "--out a",
        "--record b.csv --cache c",
        "--device cuda",
        "--root somewhere --workers 3",
        "--resume",
        "--checkpoint-every 7",
    ],
)
def test_what_does_not_change_the_numbers_does_not_change_the_key(more):
    one = "partbook discover --method scops --data faces --parts 8 --seed 0 --set semantic=0"
    assert key_of(f"{one} {more}") == key_of(one)


@pytest.mark.parametrize(
    "other",
    [
        "partbook discover --method scops --data faces --parts 8 --seed 1 --set semantic=0",
        "partbook discover --method scops --data birds --parts 8 --seed 0 --set semantic=0",
        "partbook discover --method scops --data faces --parts 8 --seed 0 --set semantic=1",
        "partbook discover --method scops --data faces --parts 8 --seed 0",
        "partbook discover --method scops --data faces --parts 8 --seed 0 --set semantic=0 "
        "--option aligned=True",
        "partbook evaluate --method scops --data faces --parts 8 --seed 0 --set semantic=0",
    ],
)
def test_what_changes_the_numbers_changes_the_key(other):
    one = "partbook discover --method scops --data faces --parts 8 --seed 0 --set semantic=0"
    assert key_of(other) != key_of(one)


def test_what_is_usual_may_be_left_out():
    said = "partbook discover --data birds --seed 0 --method kmeans --parts 4"
    assert key_of("partbook discover --parts 4") == key_of(said)
    plugged = "partbook --plugin my.py discover --parts 4"
    assert key_of(plugged) == key_of(plugged.replace("in my", "in=my")) == key_of(said)
    assert key_of("partbook discover --parts=4 --set=zoom=(1,2)") == key_of(
        "discover --set zoom='(1, 2)' --parts 4"
    )


def made(seed, value, entry=ENTRY):
    return {"command": " ".join(["partbook", *typed(entry, seed)]), entry.metric: value}


def test_ours_are_means_over_the_seeds_that_were_asked_for():
    table = PaperTable("made up", "made up", (ENTRY,))
    printed = [{"source": "made up", "method": "A", "settings.K": 4, "error": 7.0}]
    rows = [made(0, 2.0), made(1, 4.0), made(2, 9.0), made(3, 100.0)]
    (line,) = beside(table, rows, printed).to_dict("records")
    assert (line["paper"], line["runs"], line["ours"]) == (7.0, 3, 5.0)
    assert line["ours_std"] == pytest.approx((13.0) ** 0.5)
    (line,) = beside(table, rows, printed, seeds=[3]).to_dict("records")
    assert (line["runs"], line["ours"], line["ours_std"]) == (1, 100.0, None)
    assert "100.0, one run (7.0)" in as_printed(beside(table, rows, printed, [3])).to_string()


def test_the_newer_row_counts():
    assert by_key([made(0, 1.0), made(0, 2.0)])[key_of(typed(ENTRY))]["landmark_error"] == 2.0


def test_one_twin_for_three_columns_is_one_line_with_the_mean_of_the_papers():
    three = [
        Entry("A", c, "landmark_error", "kmeans", 4, "cub", "birds", {"categories": str(n)})
        for n, c in enumerate(("one", "two", "three"), 1)
    ]
    printed = [{"source": "s", "method": "A", "one": 1.0, "two": 2.0, "three": 6.0}]
    table = PaperTable("s", "s", tuple(three))
    (line,) = beside(table, [made(0, 5.0, three[0])], printed).to_dict("records")
    assert (line["paper"], line["ours"], line["column"]) == (3.0, 5.0, "landmark_error")
    real = beside(table, [], printed, root="cub")
    assert real["paper"].tolist() == [1.0, 2.0, 6.0] and real["runs"].tolist() == [0, 0, 0]


def test_an_order_that_is_the_papers_and_one_that_is_its_reverse():
    lines = [
        {"column": c, "metric": c, "paper": p, "ours": o}
        for c, ours in (("a", (1, 2, 3)), ("b", (3, 2, 1)))
        for p, o in zip((10, 20, 30), ours)
    ]
    assert agreement(frame(lines[:3])) == (1.0, 3)
    assert agreement(frame(lines[3:])) == (-1.0, 3)
    assert agreement(frame(lines)) == (0.0, 6)  # the mean of two columns
    assert agreement(frame([])) == (None, 0)


def test_signs_are_taken_seed_by_seed():
    whole = {"method": "full", "registered": "m", "column": "c", "metric": "c"}
    whole |= {"settings.parts": 4, "paper": 10.0, "each": {0: 1.0, 1: 30.0}}
    less = {**whole, "method": "without", "paper": 12.0, "each": {1: 29.0, 2: 500.0}}
    rival = {**less, "method": "rival", "registered": "other"}
    found = signs(frame([whole, less, rival]), "full")
    (line,) = found.to_dict("records")
    assert (line["method"], line["runs"], line["more"], line["paper"]) == ("without", 1, -1.0, 2.0)
    assert line["same"] is False


def test_baselines_that_learn_nothing_are_added_once():
    found = trivial_entries([ENTRY, ENTRY])
    assert [e.printed for e in found] == ["colours only (k-means)", "places only (k-means)"]
    assert all(e.trivial and e.method == "kmeans" and e.metric == ENTRY.metric for e in found)


def test_a_twin_that_is_not_there_is_said():
    alone = Entry("A", "error", "iou", "kmeans", 4, "pascal")
    with pytest.raises(InputError, match="no drawn collection stands for pascal"):
        typed(alone)
    with pytest.raises(InputError, match="no budget 'huge'"):
        typed(ENTRY, budget="huge")


def test_a_baseline_of_colours_stays_one_on_photographs():
    colours, places = trivial_entries([ENTRY])
    for root, budget in ((None, "quick"), ("x", "quick"), ("x", "paper")):
        assert "rgb" in typed(colours, 0, root, budget)
        assert "position" in typed(places, 0, root, budget)


def test_rows_of_one_table_are_different_runs_on_photographs():
    for name in ("contrastive-3", "contrastive-2", "scops-1"):
        table = tables[name]()
        own = {}
        for e in table.entries:
            own.setdefault(key_of(typed(e, 0, "x", "paper")), set()).add((e.method, str(e.change)))
        assert all(len(found) == 1 for found in own.values()), name
    third = tables["contrastive-3"]().entries
    assert len({key_of(typed(e, 0, "x", "paper")) for e in third}) == 5
    with pytest.raises(InputError, match="needs --budget paper"):
        typed(third[0], 0, "x", "quick")
    lines = beside(tables["contrastive-3"](), [], PUBLISHED, root="x")
    assert len(lines) == 10 and lines["runs"].sum() == 0
