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
    ablation_signs,
    belongs,
    beside,
    commands,
    order_agreement,
    printed_number,
    published_settings,
    specifications,
)
from partbook.methods.method import methods
from partbook.run import discover, evaluate

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = read_rows(ROOT / "results" / "published.csv")
ROWS = specifications()


def there(rows):
    "Rows of methods that are registered."
    return [row for row in rows if row.method in methods]


def test_every_row_has_its_printed_number():
    missing = [row for row in ROWS if printed_number(row, PUBLISHED) is None]
    assert missing == [] and len(ROWS) == 60
    assert [len(specifications(n)) for n in (1, 2, 3, 4, 5)] == [12, 5, 10, 12, 21]


def test_every_printed_number_has_its_row():
    columns = {(r.source, r.printed, r.parts, r.column) for r in ROWS}
    for line in PUBLISHED:
        if str(line["source"]).startswith("disentangling, Table"):
            found = {c for c in line if line[c] is not None} - {"benchmark", "method", "source"}
            for column in found - {"settings.K", "note"}:
                assert (line["source"], line["method"], line["settings.K"], column) in columns


def test_the_full_model_is_the_same_in_two_tables():
    one = {r.parts: printed_number(r, PUBLISHED) for r in specifications(1)[-2:]}
    three = {r.parts: printed_number(r, PUBLISHED) for r in specifications(3)[-2:]}
    assert one == three and set(one) == {4, 8}


def test_the_numbers_are_in_the_papers_text(shared_path):
    text = shared_path("papers/disentangling.txt").read_text(encoding="utf-8")
    for row in ROWS:
        number = printed_number(row, PUBLISHED)
        assert re.search(rf"(?m)(^|\s){re.escape(f'{number:.2f}')}($|\s)", text), row
    for name in ("car", "bus", "horse", "aero", "motor", "cow", "sheep"):
        assert f"VOC-{name}" in text


@pytest.mark.parametrize("root", [None, "somewhere"])
def test_commands_parse_and_name_settings_that_exist(root):
    for line in commands(there(ROWS), seeds=[1], root=root):
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


def made(method="disentangling", parts=8, seed=0, **more):
    settings = {f"settings.{name}": 1.0 for name in LAMBDAS}
    return {"method": method, "collection": "faces", "settings.parts": parts, "seed": seed} | (
        settings | more
    )


def test_a_run_belongs_to_one_row():
    runs = [made(**{f"settings.{name}": 0.0}) for name in LAMBDAS] + [made()]
    third = [row for row in specifications(3) if row.parts == 8]
    assert [sum(belongs(run, row, "faces") for row in third) for run in runs] == [1] * 5
    two_off = made(**{f"settings.{name}": 0.0 for name in LAMBDAS[:2]})
    assert not any(belongs(two_off, row, "faces") for row in third)
    scops = [made("scops", **{"settings.saliency": s}) for s in ("none", "hard")]
    first = [r.printed for run in scops for r in specifications(1) if belongs(run, r, "faces")]
    assert first == ["SCOPS without saliency", "SCOPS with saliency"]


def test_what_was_not_run_is_missing_and_not_zero():
    lines = beside(specifications(1), [], PUBLISHED)
    assert lines["ours"].isna().all() and (lines["runs"] == 0).all()
    assert order_agreement(lines) == (None, 0)
    assert ablation_signs([])["more"].isna().all() and len(ablation_signs([])) == 4


def test_signs_are_of_pairs_with_one_seed():
    runs = [made(seed=s, landmark_error=e) for s, e in ((0, 10.0), (1, 30.0))]
    off = {"settings.classification": 0.0}
    runs += [made(seed=s, landmark_error=e, **off) for s, e in ((1, 29.0), (2, 500.0))]
    signs = ablation_signs(runs).set_index("method")
    line = signs.loc["without classification loss"]
    assert line["runs"] == 1 and line["more"] == -1.0 and list(signs.index) == list(ABLATIONS)[:4]


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
