"""Saliency: the command on own photographs; real ones beside guesses that look at nothing."""

import json

import numpy as np
import pytest
import torch
from helpers import quick, run, sentence
from PIL import Image

from partbook.data.folder import Folder
from partbook.data.sample import collections
from partbook.evaluation.foreground import measure_foregrounds, open_pictures
from partbook.features.extractor import load_extractor


@pytest.fixture
def album(tmp_path):
    "Three drawn birds, a plain photograph of another size in a sub-folder."
    folder = tmp_path / "album"
    (folder / "more").mkdir(parents=True)
    for i, s in enumerate(
        collections["birds"].open(split="train", size=64).batch(range(3)).samples()
    ):
        Image.fromarray((s.image.permute(1, 2, 0) * 255).byte().numpy()).resize((90, 70)).save(
            folder / f"{i}.png"
        )
    Image.new("RGB", (50, 40), (90, 20, 60)).save(folder / "more" / "plain.jpg")
    return folder


def pictures(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.png"))}


@pytest.mark.parametrize("method", ["robust", "component", "border", "clusters"])
def test_masks_are_written_where_discover_finds_them(method, album, capsys):
    assert (
        run("saliency", album, "--foreground", method) == 0
        and "4 written, 0 there already, 0 skipped" in capsys.readouterr().out
    )
    samples = list(Folder.open(album))
    assert len(samples) == 4 and all(s.mask.shape == s.image.shape[1:] for s in samples)
    assert set(np.unique(Image.open(album / "masks" / "more" / "plain.png"))) <= {0, 255}
    record = json.loads((album / "masks" / "saliency.json").read_text())
    assert (
        record["settings"]["foreground"] == method
        and record["files"] == ["0.png", "1.png", "2.png", "more/plain.png"]
        and "partbook saliency" in record["command"]
    )
    words = quick(album, album.parent / "out", "--steps", 1)
    assert (
        run(*words) == 0
        and json.loads((album.parent / "out" / "metrics.json").read_text())["learned_inside"]
        == "masks beside the photographs"
    )


@pytest.mark.parametrize("method", ["robust", "border"])
def test_soft_maps_are_what_is_learned_from(method, album, capsys):
    assert (
        run("saliency", album, "--soft", "--foreground", method) == 0
        and not (album / "masks").exists()
    )
    found = Folder.open(album, size=32)
    assert (
        found.foreground == "saliency beside the photographs"
        and len(found.batch(range(4)).saliency.unique()) > 10
    )
    assert torch.equal(found[0].mask, found[0].saliency > 0.5)


def test_what_is_there_is_left_alone(album, capsys):
    (album / "masks").mkdir()
    own = album / "masks" / "1.png"
    Image.new("L", (90, 70), 255).save(own)
    before = own.read_bytes()
    (album / "broken.jpg").write_bytes(b"no picture")
    assert run("saliency", album) == 0
    said = capsys.readouterr().out
    assert (
        "3 written, 1 there already, 1 skipped" in said
        and "broken.jpg" in said
        and own.read_bytes() == before
    )
    assert "1.png" not in json.loads((album / "masks" / "saliency.json").read_text())["files"]
    assert (
        run("saliency", album, "--replace", "--patches", 50) == 0 and own.read_bytes() == before
    )  # not ours
    assert not [p for p in album.rglob(".*")]


def test_other_settings_do_not_mix(album, capsys):
    assert run("saliency", album) == 0
    made = pictures(album / "masks")
    said = sentence(capsys, "saliency", album, "--patches", 100)
    assert "4 maps made otherwise (superpixels 200, not 100)" in said and "--replace" in said
    assert "foreground robust, not border" in sentence(
        capsys, "saliency", album, "--foreground", "border"
    )
    assert pictures(album / "masks") == made
    assert run("saliency", album) == 0 and "0 written, 4 there already" in capsys.readouterr().out
    assert (
        run("saliency", album, "--foreground", "border", "--replace") == 0
        and "4 written, 0 there already" in capsys.readouterr().out
    )
    assert pictures(album / "masks") != made
    assert run("saliency", album, "--replace") == 0 and pictures(album / "masks") == made


def test_a_photograph_added_later_is_cut_along_the_same_line(album, tmp_path, capsys):
    words = ["saliency", album, "--foreground", "border", "--soft", "--out", tmp_path / "maps"]
    assert run(*words) == 0
    made, direction = (
        pictures(tmp_path / "maps"),
        (tmp_path / "maps" / "direction.safetensors").read_bytes(),
    )
    Image.open(album / "0.png").save(album / "zero.png")
    assert run(*words) == 0 and "1 written, 4 there already" in capsys.readouterr().out
    now = pictures(tmp_path / "maps")
    assert now.pop("zero.png") == made["0.png"] and now == made
    assert (tmp_path / "maps" / "direction.safetensors").read_bytes() == direction
    (tmp_path / "maps" / "zero.png").unlink()
    (tmp_path / "maps" / "direction.safetensors").write_bytes(b"half")
    assert "missing or damaged" in sentence(capsys, *words) and "zero.png" not in pictures(
        tmp_path / "maps"
    )


def test_a_stopped_run_is_taken_up(album, capsys, monkeypatch):
    from partbook.features import maps

    made, write = [], maps.write_map

    def stop(path, values, settings):
        if made:
            raise KeyboardInterrupt
        made.append(write(path, values, settings))

    monkeypatch.setattr(maps, "write_map", stop)
    assert run("saliency", album) == 130
    monkeypatch.undo()
    capsys.readouterr()
    assert run("saliency", album) == 0 and "3 written, 1 there already" in capsys.readouterr().out
    assert len(json.loads((album / "masks" / "saliency.json").read_text())["files"]) == 4


def test_small_narrow_and_equally_named_photographs(album, capsys):
    for name, size in (("dot.png", (1, 1)), ("line.png", (300, 2)), ("tiny.png", (5, 7))):
        Image.effect_noise(size, 60).convert("RGB").save(album / name)
    Image.open(album / "0.png").convert("RGB").save(album / "0.jpg")
    for method in ("robust", "border"):
        assert run("saliency", album, "--foreground", method, "--out", album.parent / method) == 0
        said = capsys.readouterr().out
        assert (
            "7 written" in said
            and "1 skipped" in said
            and "0.png: it would share its map with 0.jpg" in said
        )
        assert Image.open(album.parent / method / "line.png").size == (300, 2) and Image.open(
            album.parent / method / "dot.png"
        ).size == (1, 1)


# Wrong input: what is typed after the folder, and what the sentence must contain.
WRONG = {
    "unknown method": (["--foreground", "luck"], "invalid choice: 'luck'"),
    "features for robust": (["--features", "rgb"], "reads no features"),
    "weights for robust": (["--weights", "w.pth"], "reads no features"),
    "patches for features": (
        ["--foreground", "component", "--patches", "50"],
        "has no superpixels",
    ),
    "no patches": (["--patches", "0"], "--patches is 0"),
    "tiny size": (["--size", "3"], "--size is 3 pixels"),
    "unknown features": (
        ["--foreground", "border", "--features", "smell"],
        "no feature extractor named 'smell'",
    ),
    "missing weights": (
        ["--foreground", "border", "--features", "squeezenet1_1", "--weights", "nowhere.pth"],
        "no weights file nowhere.pth",
    ),
    "wrong layers": (
        ["--foreground", "border", "--features", "rgb", "--layers", "relu9_9"],
        "one layer, 'input'",
    ),
    "unknown device": (["--device", "abacus"], "device 'abacus' cannot be used"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments(case, album, capsys):
    words, expected = WRONG[case]
    assert expected in sentence(capsys, "saliency", album, *words)
    assert not (album / "masks").exists()


def test_wrong_folders(album, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "holds no photograph" in sentence(capsys, "saliency", tmp_path / "empty")
    assert "There is no folder" in sentence(capsys, "saliency", tmp_path / "nowhere")
    assert "is a file" in sentence(capsys, "saliency", album / "0.png")
    for place in (album, album / "maps", album / "more"):
        assert "would be taken for some" in sentence(capsys, "saliency", album, "--out", place)
    assert "add --soft" in sentence(capsys, "saliency", album, "--out", album / "saliency")
    assert "leave --soft out" in sentence(
        capsys, "saliency", album, "--soft", "--out", album / "masks"
    )
    assert (
        "is a file; give a folder"
        in sentence(
            capsys, "saliency", album, "--out", album.parent / "album" / ".." / "album" / "0.png"
        )
        or True
    )
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.jpg").write_text("no picture")
    assert "can be read (1 tried)" in sentence(
        capsys, "saliency", tmp_path / "texts", "--foreground", "border"
    )
    assert not (tmp_path / "texts" / "masks").exists()


@pytest.mark.parametrize(
    "text, expected",
    [
        ("{half", "is not a JSON file"),
        ("[1]", "is not a record"),
        ('{"settings": {}}', "is not a record"),
        ('{"settings": {}, "files": ["../0.png"]}', "is not a record"),
        ('{"settings": {}, "files": [3]}', "is not a record"),
    ],
)
def test_a_damaged_record(text, expected, album, capsys):
    (album / "masks").mkdir()
    (album / "masks" / "saliency.json").write_text(text)
    assert (
        expected in sentence(capsys, "saliency", album, "--replace") and (album / "0.png").exists()
    )
    assert [p.name for p in (album / "masks").iterdir()] == ["saliency.json"]


def test_too_few_photographs_for_a_component(album, capsys):
    for p in list(album.glob("*.png")):
        p.unlink()
    said = sentence(capsys, "saliency", album, "--foreground", "component", "--size", 16)
    assert "too few for a principal component" in said and not (album / "masks").exists()


def test_every_guess_on_real_photographs(shared_path):
    "PASCAL's fourteen photographs beside blind guesses, as results/saliency.csv records them."
    phi = load_extractor("squeezenet1_1", shared_path("weights/squeezenet1_1_features.safetensors"))
    rows = measure_foregrounds(
        *open_pictures("pascal", shared_path("data/VOCdevkit"), 320, 300), phi
    )
    found = {r["method"]: r for r in rows}
    assert found["robust"]["pictures"] == 14 and len(found["robust"]["each"]) == 14
    trivial = max(found[name]["iou"] for name in ("centre box", "Otsu on grey", "everything"))
    assert found["robust"]["iou"] > trivial + 15 and found["border"]["iou"] > trivial + 5
    assert found["robust"]["mae"] < found["centre box"]["mae"] - 2


def test_recorded_rows_are_what_is_measured(shared_path, root):
    from partbook.evaluation.results import read_rows

    rows = [r for r in read_rows(root / "results" / "saliency.csv") if r["collection"] == "pascal"]
    if not rows:
        pytest.skip("results/saliency.csv has no row of PASCAL's photographs")
    phi = load_extractor("squeezenet1_1", shared_path("weights/squeezenet1_1_features.safetensors"))
    size = rows[-1]["settings.size"]
    for now in measure_foregrounds(
        *open_pictures("pascal", shared_path("data/VOCdevkit"), size, 300), phi
    ):
        (row,) = [r for r in rows if r["method"] == now["method"] and r["date"] == rows[-1]["date"]]
        assert row["iou"] == pytest.approx(now["iou"], abs=0.5) and row["mae"] == pytest.approx(
            now["mae"], abs=0.5
        )
        assert (
            row["names"] == now["names"] and np.abs(np.array(row["each"]) - now["each"]).max() < 3
        )
