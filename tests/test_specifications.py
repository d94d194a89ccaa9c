"""Tables of the disentangling paper: rows name what exists, commands parse, numbers are printed."""

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from partbook.cli import build_parser, request_of
from partbook.core import InputError
from partbook.evaluation.census import Census
from partbook.evaluation.protocols import protocols
from partbook.evaluation.results import read_rows
from partbook.evaluation.specifications import (
    ABLATIONS,
    LAMBDAS,
    paper_table,
    published_settings,
    specifications,
)
from partbook.evaluation.tables import agreement, beside, commands, printed_number, signs, typed
from partbook.methods.method import methods
from partbook.run import discover, evaluate

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = read_rows(ROOT / "results" / "published.csv")
ROWS = specifications()
TABLES = {number: paper_table(number) for number in (1, 2, 3, 4, 5)}


def printed(number, **wanted):
    "Entries of a table with the paper's numbers."
    entries = [e for e in TABLES[number].entries if not e.trivial]
    entries = [e for e in entries if all(getattr(e, k) == v for k, v in wanted.items())]
    return [(e, printed_number(e, TABLES[number], PUBLISHED)) for e in entries]


def test_every_row_has_its_printed_number():
    counts = {number: len(printed(number)) for number in TABLES}
    assert counts == {1: 12, 2: 5, 3: 10, 4: 12, 5: 21} and len(ROWS) == 60
    assert not any(value is None for number in TABLES for _, value in printed(number))


def test_every_printed_number_has_its_row():
    columns = {(f"disentangling, Table {r.table}", r.printed, r.parts, r.column) for r in ROWS}
    for line in PUBLISHED:
        if str(line["source"]).startswith("disentangling, Table"):
            found = {c for c in line if line[c] is not None} - {"benchmark", "method", "source"}
            for column in found - {"settings.K", "note"}:
                assert (line["source"], line["method"], line["settings.K"], column) in columns


def test_the_full_model_is_the_same_in_two_tables():
    one = {e.parts: value for e, value in printed(1, printed="disentangling")}
    three = {e.parts: value for e, value in printed(3, printed="full model")}
    assert one == three and set(one) == {4, 8}


def test_the_numbers_are_in_the_papers_text(shared_path):
    text = shared_path("papers/disentangling.txt").read_text(encoding="utf-8")
    for number in TABLES:
        for entry, value in printed(number):
            assert re.search(rf"(?m)(^|\s){re.escape(f'{value:.2f}')}($|\s)", text), entry
    for name in ("car", "bus", "horse", "aero", "motor", "cow", "sheep"):
        assert f"VOC-{name}" in text


@pytest.mark.parametrize("where", [{}, {"root": "somewhere", "budget": "paper"}])
def test_commands_parse_and_name_settings_that_exist(where):
    lines = [line for made in TABLES.values() for line in commands(made, seeds=[1], **where)]
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "partbook"
        request = request_of(build_parser().parse_args(words[1:]))
        known = {f.name for f in fields(methods[request.method].Settings)}
        assert set(request.set) <= known and request.seed == 1
        assert all(name in protocols for name in request.protocol)


def test_weights_of_the_appendix_are_settings():
    from partbook.methods import disentangling

    assert LAMBDAS == disentangling.LAMBDAS
    known = {f.name for f in fields(methods["disentangling"].Settings)}
    for row in ROWS:
        if row.method == "disentangling":
            assert set(LAMBDAS) <= set(published_settings(row.weights)) <= known
    assert published_settings("voc-motorbike")["reconstruction"] == 1.0
    assert published_settings("celeba")["background_concentration"] == 1.0
    assert published_settings("cub")["foreground_concentration"] == 0.3
    with pytest.raises(InputError, match="no line 'cats'"):
        published_settings("cats")


def made(entry, seed=0, error=0.0):
    "A made-up row of results."
    command = shlex.join(["partbook", *typed(entry, seed), "--out", "x", "--record", "y.csv"])
    return {"command": command, entry.metric: error}


def test_a_run_belongs_to_one_row():
    third = [e for e, _ in printed(3, parts=8)]
    for entry in third:
        lines = beside(TABLES[3], [made(entry)], PUBLISHED)
        assert list(lines.loc[lines["runs"] > 0, "method"]) == [entry.printed]
    scops = [e for e, _ in printed(1, method="scops", parts=8)]
    lines = beside(TABLES[1], [made(e) for e in scops], PUBLISHED)
    names = ["SCOPS without saliency", "SCOPS with saliency"]
    assert list(lines.loc[lines["runs"] > 0, "method"]) == names


def test_what_was_not_run_is_missing_and_not_zero():
    lines = beside(TABLES[3], [], PUBLISHED)
    assert lines["ours"].isna().all() and (lines["runs"] == 0).all()
    assert agreement(lines) == (None, 0)
    found = signs(lines, "full model")
    assert found["more"].isna().all() and len(found) == 8


def test_signs_are_of_pairs_with_one_seed():
    whole = next(e for e, _ in printed(3, printed="full model", parts=8))
    off = next(e for e, _ in printed(3, printed="without classification loss", parts=8))
    runs = [made(whole, 0, 10.0), made(whole, 1, 30.0), made(off, 1, 29.0), made(off, 2, 500.0)]
    found = signs(beside(TABLES[3], runs, PUBLISHED), "full model").dropna(subset="more")
    (line,) = found.to_dict("records")
    assert line["runs"] == 1 and line["more"] == -1.0
    assert line["method"] == "without classification loss" and line["method"] in ABLATIONS


def test_a_table_that_is_not_there():
    with pytest.raises(InputError, match="no Table 6; choose from 1 to 5"):
        specifications(6)


def test_chosen_protocols_make_one_row(tmp_path):
    table = tmp_path / "rows.csv"
    names = ("unmasked", "census")
    how = {"parts": 3, "steps": 0, "limit": 24, "baselines": False, "set": {"sample": 500}}
    run = discover("faces", protocol=names, out=tmp_path / "run", record=table, **how)
    (row,) = read_rows(table)
    assert {"landmark_error_bare", "landmark_error", "iou", "painted", "parts_alive"} <= set(row)
    assert "fg_nmi" not in row and run.metrics["painted"] == 100
    older = evaluate(run, protocol=["landmark-regression", "co-segmentation"], limit=24)
    both = {name: metrics for found in older.values() for name, metrics in found.items()}
    assert row["landmark_error"] == pytest.approx(both["landmark_error"], rel=1e-4)
    assert row["iou"] == pytest.approx(both["iou"], rel=1e-4)


def test_a_protocol_that_does_not_fit_is_refused_before_the_work():
    with pytest.raises(InputError, match="nonsense"):
        discover("faces", protocol="nonsense")


def test_a_background_that_has_everything_is_named():
    labels = torch.zeros(4, 20, 20, dtype=torch.long)
    labels[:, 0, :2] = torch.tensor([1, 2])  # a sliver of each part
    found = Census(2).update(labels)
    assert found.dead == [] and found.ground == pytest.approx(1 - 2 / 400)
    assert "background" not in str(found)  # what a mask leaves is nobody's fault
    found.own_ground = True
    assert "the background has 100 % of the pixels" in str(found)  # 99.5 %, rounded
    half = Census(2).update(torch.ones(1, 20, 20, dtype=torch.long))
    merged = half.merge(found)
    assert merged.own_ground and not merged.only_ground
    assert merged.ground == pytest.approx(4 * 398 / (5 * 400))
