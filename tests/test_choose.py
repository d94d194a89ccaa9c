"Asking pictures how many parts they have: the rule, the command, and what it refuses."

import json

import pytest
import torch

import partbook as pb
from partbook.cli import main
from partbook.core import InputError, generator
from partbook.data.sample import collections
from partbook.evaluation.how_many import (
    USUAL,
    Bag,
    agreed_on,
    all_tables,
    bag_of,
    decide,
    drawn_heaps,
    found_again,
    how_many,
    table_of,
)
from partbook.features.extractor import load_extractor
from partbook.parts.plots import write_picture
from partbook.run import Request


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    "Twelve drawn birds as a folder of pictures."
    folder = tmp_path_factory.mktemp("album") / "birds ü"
    folder.mkdir()
    drawn = collections["birds"].open(split="train", size=64)
    for i in range(12):
        write_picture(folder / f"{i}.png", drawn[i].image)
    return folder


OWN = ["--features", "rgb", "--foreground", "none", "--size", "32", "--device", "cpu"]


def row(K, again, agreed):
    return {"K": K, "found_again": again, "agreed_on": agreed}


def test_the_number_that_halves_agree_on():
    rows = [row(2, 2.0, 1.9), row(3, 3.0, 2.8), row(4, 2.0, 2.9), row(5, 1.0, 3.0)]
    choice = decide(rows)
    assert (choice.parts, choice.told) == (3, True)
    assert "of 3 parts 3.0 are found again" in choice.sentence


@pytest.mark.parametrize(
    "rows", [[row(2, 0.4, 1.1), row(3, 0.2, 1.2)], [row(2, 1.0, 1.5), row(9, 4.4, 4.0)]]
)
def test_pictures_that_do_not_tell(rows):
    choice = decide(rows, usual=7)
    assert (choice.parts, choice.told) == (7, False)
    assert "do not tell" in choice.sentence and "going on with 7" in choice.sentence


def test_more_at_the_end_of_the_range():
    choice = decide([row(2, 2.0, 2.0), row(3, 3.0, 3.0)])
    assert (choice.parts, choice.told) == (USUAL, False)
    assert "--most 9" in choice.sentence


def test_a_part_is_found_from_three_quarters_on():
    at = torch.tensor([[75, 25], [0, 100]])  # the first overlaps by 75 of 100
    below = torch.tensor([[74, 26], [0, 100]])
    assert found_again(at) == 2 and found_again(below) == 1
    assert found_again(torch.tensor([[0, 9], [9, 0]])) == 2  # whatever the numbers are


def test_agreed_on_is_symmetric_and_bounded():
    table = torch.randint(0, 50, (5, 5), generator=generator(0))
    assert agreed_on(table) == pytest.approx(agreed_on(table.T))
    assert 1 <= agreed_on(table) <= 5


def test_tables_of_every_pair():
    labels = torch.randint(0, 4, (3, 60), generator=generator(0))
    found = all_tables(labels, 4)
    for t, (i, j) in zip(found, ((0, 1), (0, 2), (1, 2)), strict=True):
        assert torch.equal(t, table_of(labels[i], labels[j], 4))


def test_halves_are_halves_of_pictures():
    bag = drawn_heaps(3, count=300)
    first, second = bag.halves(generator(0))
    assert torch.equal(first, ~second)
    assert not set(bag.picture[first].tolist()) & set(bag.picture[second].tolist())


@pytest.mark.parametrize("method", ["kmeans", "dff"])
def test_heaps_are_counted_and_the_answer_repeats(method):
    bag = drawn_heaps(3, count=600)
    one, two = (how_many(bag, range(2, 6), method, halvings=2) for _ in range(2))
    assert one == two and one.divided_by == method
    assert abs(one.parts - 3) <= 1 and one.told


def test_a_cloud_does_not_tell():
    choice = how_many(drawn_heaps(1, count=600), range(2, 5), halvings=2)
    assert not choice.told and choice.parts == USUAL


def test_other_methods_are_answered_by_kmeans():
    choice = how_many(drawn_heaps(2, count=400), [2, 3], "scops", halvings=1)
    assert choice.divided_by == "kmeans"


@pytest.mark.parametrize("candidates", [[], [1, 2], [3, 2], [2, 61]])
def test_wrong_candidates(candidates):
    with pytest.raises(InputError, match="numbers? of parts to try"):
        how_many(drawn_heaps(2, count=100), candidates)


def test_too_few_pictures():
    with pytest.raises(InputError, match="at least 4"):
        how_many(Bag(torch.randn(30, 3), torch.arange(30) // 10), [2, 3])


def test_the_bag_is_bounded():
    birds = collections["birds"].open(split="train", size=32)
    bag = bag_of(load_extractor("rgb"), birds, most=100, pictures=8)
    assert len(bag) <= 100 and len(bag.picture.unique()) <= 8


def test_the_command(album, tmp_path, capsys):
    out = tmp_path / "out"
    record = tmp_path / "rows.csv"
    words = ["choose", str(album), *OWN, "--least", "2", "--most", "3", "--out", str(out)]
    assert main([*words, "--dry-run"]) == 0 and not out.exists()
    assert main([*words, "--record", str(record)]) == 0
    names = {path.name for path in out.iterdir()}
    assert {"choose.png", "choose.json", "parts_2.png", "parts_3.png"} <= names
    about = json.loads((out / "choose.json").read_text(encoding="utf-8"))
    assert [r["K"] for r in about["rows"]] == [2, 3] and about["sentence"]
    assert about["sentence"] in capsys.readouterr().out
    assert "birds" in record.read_text(encoding="utf-8")


def test_nothing_of_yours_is_written_over(album, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "parts_3.png").write_bytes(b"mine")
    assert main(["choose", str(album), *OWN, "--most", "3", "--out", str(out)]) == 2
    assert "parts_3.png" in capsys.readouterr().err
    assert (out / "parts_3.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--least", "5", "--most", "4"], "must rise"),
        (["--method", "nothing"], "nothing"),
        (["--size", "3"], "size"),
    ],
)
def test_wrong_words(album, tmp_path, capsys, words, sentence):
    assert main(["choose", str(album), *OWN, "--out", str(tmp_path / "o"), *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_discover_lets_the_pictures_tell(album, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["discover", "--data", str(album), *OWN, "--parts", "auto", "--steps", "1"]
    assert main([*words, "--no-baselines", "--out", str(out)]) == 0
    about = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert about["settings"]["parts"] == about["choice"]["parts"]
    assert len(about["choice"]["rows"]) == 9
    assert about["choice"]["sentence"] in capsys.readouterr().out


def test_no_number_of_parts(capsys):
    with pytest.raises(SystemExit):
        main(["discover", "--parts", "seven"])
    assert "no number of parts, and not auto" in capsys.readouterr().err
    with pytest.raises(InputError, match="--parts is seven"):
        Request.of("birds", parts="seven")


def test_in_python(album):
    asked = {"features": "rgb", "foreground": "none", "size": 32, "device": "cpu"}
    choice = pb.choose(album, least=2, most=3, say=lambda _: None, **asked)
    assert choice.parts >= 2 and len(choice.rows) == 2
