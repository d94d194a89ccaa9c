"""`partbook models`: a model is a command and a row it has to agree with."""

import pytest
from helpers import run

import partbook as pb
from partbook import zoo
from partbook.cli import build_parser, request_from
from partbook.core import InputError
from partbook.evaluation.results import read_rows
from partbook.run import load
from partbook.zoo import MODELS, apart, make_model, rows_of_models, verdict


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    words = "--data faces --features rgb --parts 3 --size 16 --limit 12 --protocol census"
    monkeypatch.setitem(MODELS, "tiny", zoo.model("tiny", words, "tiny", "parts_alive"))
    monkeypatch.setenv("PARTBOOK_RESULTS", str(tmp_path / "results"))
    return tmp_path


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_is_a_command(name):
    request = request_from(["discover", *MODELS[name].words])
    assert request.seed == 0 and not request.baselines
    assert build_parser().parse_args(["models", name]).name == name


def test_a_model_made_again_is_the_same(tiny, capsys):
    record = tiny / "results" / "models.csv"
    first = make_model("tiny", tiny / "one", request_from, record)
    (row,) = read_rows(record)
    assert row["model"] == "tiny" and 0 < row["megabytes"] < 1 and row["parts_alive"] == 3
    assert apart(first, row) == pytest.approx(dict.fromkeys(first, 0.0))
    assert run("models", "tiny", "--out", tiny / "two") == 0
    assert "the same as in our row" in capsys.readouterr().out
    assert load(tiny / "two").method.parts == 3
    assert pb.models("tiny", tiny / "three") == pytest.approx(first)
    assert run("models") == 0
    assert "parts_alive 3.0" in capsys.readouterr().out


def test_another_model_is_not_the_same(tiny):
    row = {"fg_nmi": 60.0, "nmi": 40.0, "method": "kmeans"}
    assert "not the same: nmi differs by 5.00" in verdict(apart({"fg_nmi": 59.9, "nmi": 45.0}, row))
    assert verdict(apart({"fg_nmi": 60.5}, row)).startswith("alike")
    assert verdict(apart({"fg_nmi": 60.0 + 1e-5}, row)).startswith("the same")
    assert verdict(apart({"iou": 1.0}, row)) == "there is no row to compare with"


def test_dry_run_writes_nothing(tiny, capsys):
    assert run("models", "tiny", "--out", tiny / "dry", "--dry-run") == 0
    assert "partbook discover --data faces" in capsys.readouterr().out
    assert not (tiny / "dry").exists()


def test_a_model_is_not_written_over(tiny, capsys):
    assert run("models", "tiny", "--out", tiny / "a") == 0
    assert run("models", "tiny", "--out", tiny / "a") == 2
    assert "holds a model already; name another --out" in capsys.readouterr().err


def test_an_unknown_model_is_named(tiny, capsys):
    assert run("models", "cats") == 2
    assert "no model 'cats'; choose one of: birds-kmeans" in capsys.readouterr().err
    with pytest.raises(InputError, match="no model 'cats'"):
        make_model("cats", tiny / "x", request_from)


def test_rows_of_models_are_those_of_the_list():
    assert set(rows_of_models()) <= set(MODELS)
