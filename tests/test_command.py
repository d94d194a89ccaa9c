"""The `partbook` command: whole runs on tiny collections, one clear sentence for wrong input."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from helpers import noise, quick, run, sentence
from PIL import Image

from partbook import core
from partbook.evaluation.results import read_rows


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    "Three photographs, one of them in a sub-folder."
    folder = tmp_path_factory.mktemp("album")
    for i, name in enumerate(("a.png", "b.jpg", "more/c.webp")):
        noise(folder / name, i, (40 + i, 32))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory, album):
    "The folder of a model fitted to the album's colours."
    out = tmp_path_factory.mktemp("fitted")
    assert run(*quick(album, out, "--steps", 1, "--foreground", "none", parts=3)) == 0
    return out / "model"


def test_discover_on_a_folder(album, model, capsys):
    out = model.parent
    record = json.loads((out / "metrics.json").read_text())
    assert (
        record["settings"]["parts"] == 3
        and record["seed"] == 0
        and record["versions"]["torch"] == torch.__version__
    )
    assert record["collection"] == "folder" and record["seconds"] > 0 and "fg_nmi" not in record
    assert sorted(p.name for p in out.iterdir()) == [
        "metrics.json",
        "model",
        "parts.png",
        "report.html",
    ]
    assert not [p for p in out.rglob(".*")]  # nothing half-written is left


def test_segment_keeps_sizes_and_folders(album, model, tmp_path):
    assert run("segment", model, album, "--out", tmp_path) == 0
    for name, size in (("a", (32, 40)), ("b", (32, 41)), ("more/c", (32, 42))):
        labels = Image.open(tmp_path / f"{name}.png")
        assert labels.size == size and labels.mode == "P" and set(np.unique(labels)) <= {0, 1, 2, 3}
        assert Image.open(tmp_path / f"{name}_overlay.png").size == size


def test_same_seed_same_result(album, tmp_path):
    for name in "xy":
        assert run(*quick(album, tmp_path / name, "--seed", 4)) == 0
    one, two = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in "xy")
    assert one == two


def test_bad_files_are_named_skipped_and_counted(album, model, tmp_path, capsys):
    folder = tmp_path / "mixed"
    shutil.copytree(album, folder)
    (folder / "broken.jpg").write_bytes((album / "b.jpg").read_bytes()[:200])
    (folder / "text.png").write_text("not a picture")
    assert run(*quick(folder, tmp_path / "out")) == 0
    said = capsys.readouterr().out
    assert "broken.jpg" in said and "text.png" in said and "2 files skipped, 3 read" in said
    assert run("segment", model, folder, "--out", tmp_path / "labels") == 0
    said = capsys.readouterr().out
    assert "broken.jpg" in said and "3 images segmented, 2 skipped" in said


def test_record_appends_a_row(tmp_path, capsys, monkeypatch):
    from partbook.data.sample import collections

    monkeypatch.setattr(collections["birds"], "__len__", lambda self: 12)
    words = [
        "discover",
        "--features",
        "position",
        "--steps",
        1,
        "--no-baselines",
        "--out",
        tmp_path / "out",
        "--record",
        tmp_path / "rows.csv",
    ]
    assert run(*words) == 0
    assert "landmark_error" in capsys.readouterr().out
    (row,) = read_rows(tmp_path / "rows.csv")
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (
        row["fg_nmi"] == record["fg_nmi"]
        and row["settings.features"] == "position"
        and "discover" in row["command"]
    )
    assert {"fg_nmi", "fg_ari", "nmi", "ari", "purity", "landmark_error"} <= set(record)


def test_cub_layout(tmp_path, capsys):
    from painters.cub import write_cub_fixture

    write_cub_fixture(tmp_path / "CUB_200_2011", n=8)
    assert (
        run(*quick("cub", tmp_path / "o", "--root", tmp_path, "--steps", 1, size=24, parts=3)) == 0
    )
    said = capsys.readouterr().out
    assert "inside the true box" in said and "true throat alone" in said
    assert run("data", "cub", "--root", tmp_path) == 0
    assert "visible" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["discover", "--help"],
        ["segment", "--help"],
        ["data", "--help"],
        ["saliency", "--help"],
        ["--version"],
    ],
)
def test_help(words, capsys):
    assert run(*words) == 0
    assert "partbook" in capsys.readouterr().out


# Wrong arguments: what is typed, and what the sentence must contain.
WRONG = {
    "no command": ([], "COMMAND"),
    "unknown command": (["dance"], "invalid choice"),
    "one part": (["discover", "--parts", "1"], "number of parts K is 1; at least 2"),
    "too many parts": (["discover", "--parts", "300"], "at most 255"),
    "parts in words": (["discover", "--parts", "many"], "many is no number of parts, and not auto"),
    "tiny size": (["discover", "--size", "4"], "size is 4 pixels; at least 16"),
    "negative seed": (["discover", "--seed", "-1"], "seed is -1; it must not be negative"),
    "negative steps": (["discover", "--steps", "-3"], "steps must be 0 or more"),
    "unknown method": (["discover", "--method", "magic"], "no method named 'magic'; choose one of"),
    "unknown features": (
        ["discover", "--features", "smell"],
        "no feature extractor named 'smell'; choose one of",
    ),
    "unknown data": (["discover", "--data", "dragons"], "'dragons' is neither a collection"),
    "folder without root": (["discover", "--data", "folder"], "--data folder needs --root"),
    "cub without root": (["discover", "--data", "cub"], "CUB_200_2011"),
    "unknown device": (["discover", "--device", "abacus"], "device 'abacus' cannot be used"),
    "layers of rgb": (
        ["discover", "--features", "rgb", "--layers", "relu5_4"],
        "one layer, 'input'",
    ),
    "weights of rgb": (["discover", "--features", "rgb", "--weights", "w.pth"], "has no weights"),
    "missing weights": (
        ["discover", "--features", "squeezenet1_1", "--weights", "nowhere.safetensors"],
        "no weights file nowhere.safetensors",
    ),
    "unknown layer": (
        ["discover", "--features", "vgg19", "--weights", "random", "--layers", "relu9_9"],
        "relu9_9",
    ),
    "data unknown": (["data", "unicorns"], "'unicorns' is neither a collection"),
    "data root alone": (["data", "--root", "."], "--root and --option go with a collection's name"),
    "unknown option": (["data", "birds", "--option", "colour=red"], "has no such option; it has: "),
    "option without value": (
        ["discover", "--data", "cub", "--root", ".", "--option", "min_visible"],
        "must be NAME=VALUE",
    ),
    "option of another kind": (
        ["data", "cub", "--root", ".", "--option", "min_visible=many"],
        "expected a value of type int",
    ),
    "foreground unknown": (["discover", "--foreground", "guess"], "invalid choice: 'guess'"),
    "evaluate no model": (["evaluate", "nowhere"], "nowhere is not a model folder"),
    "segment without out": (["segment", "m", "i.png"], "--out"),
    "segment no model": (
        ["segment", "nowhere", "i.png", "--out", "o"],
        "nowhere is not a model folder",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments(case, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PARTBOOK_CUB", raising=False)
    words, expected = WRONG[case]
    assert expected in sentence(capsys, *words)
    assert not list(tmp_path.iterdir())  # nothing was written


def test_evaluate_measures_what_discover_measured(tmp_path, capsys, monkeypatch):
    from partbook.data.sample import collections

    monkeypatch.setattr(collections["birds"], "__len__", lambda self: 12)
    assert (
        run(
            "discover",
            "--features",
            "position",
            "--steps",
            1,
            "--no-baselines",
            "--out",
            tmp_path / "out",
        )
        == 0
    )
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    words = ["evaluate", tmp_path / "out" / "model"]
    capsys.readouterr()
    assert (
        run(
            *words,
            "--protocol",
            "pixels",
            "--protocol",
            "landmark-overlap",
            "--out",
            tmp_path / "m.json",
            "--record",
            tmp_path / "rows.csv",
        )
        == 0
    )
    found = json.loads((tmp_path / "m.json").read_text())["protocols"]
    assert found["pixels"] == {k: record[k] for k in found["pixels"]} and list(found) == [
        "pixels",
        "landmark-overlap",
    ]
    rows = read_rows(tmp_path / "rows.csv")
    assert [r["protocol"] for r in rows] == list(found) and rows[1]["fg_nmi"] == found[
        "landmark-overlap"
    ]["fg_nmi"] != rows[0]["fg_nmi"]
    said = capsys.readouterr().out
    assert said.index("pixels: Choudhury") < said.index("landmark-overlap: Choudhury")
    assert "no protocol named 'taste'" in sentence(capsys, *words, "--protocol", "taste")
    assert run(*words) == 0 and "pixels: " in capsys.readouterr().out


def test_a_protocol_that_does_not_fit(album, model, capsys):
    assert "needs parts annotations" in sentence(
        capsys, "evaluate", model, "--data", album, "--protocol", "pixels"
    )
    assert (
        run("evaluate", model, "--data", album) == 0 and "parts_alive" in capsys.readouterr().out
    )  # what needs no annotation


def test_options_choose_the_pictures(tmp_path, capsys):
    from painters.cub import write_cub_fixture

    write_cub_fixture(tmp_path / "CUB_200_2011", n=8)
    counted = {}
    for least in (0, 11):
        assert run("data", "cub", "--root", tmp_path, "--option", f"min_visible={least}") == 0
        counted[least] = [
            int(line.split()[-1])
            for line in capsys.readouterr().out.splitlines()
            if " images " in line
        ][0]
    assert 0 < counted[11] < counted[0] == 8
    chosen = ["--root", tmp_path, "--option", "categories=1", "--steps", 0, "--no-baselines"]
    assert run(*quick("cub", tmp_path / "o", *chosen)) == 0
    record = json.loads((tmp_path / "o" / "metrics.json").read_text())
    assert record["options"] == {"categories": [1]}
    assert (
        run("evaluate", tmp_path / "o" / "model", "--root", tmp_path, "--out", tmp_path / "m.json")
        == 0
    )  # the same birds, unasked
    again = json.loads((tmp_path / "m.json").read_text())
    assert (
        again["options"] == {"categories": [1]}
        and again["protocols"]["landmark-overlap"]["fg_nmi"] == record["fg_nmi"]
    )
    assert (
        run(
            "evaluate",
            tmp_path / "o" / "model",
            "--root",
            tmp_path,
            "--option",
            "categories=(1,2,3)",
            "--out",
            tmp_path / "m.json",
        )
        == 0
    )
    assert json.loads((tmp_path / "m.json").read_text())["options"] == {"categories": [1, 2, 3]}


def test_the_cache_is_read_and_changes_nothing(album, tmp_path, monkeypatch):
    from partbook.features.extractor import extractors

    monkeypatch.setenv("PARTBOOK_CACHE", "")  # set by the command, taken back afterwards
    words = ["discover", "--data", album, "--size", 16, "--parts", 2, "--steps", 1]
    words += ["--features", "equivariant", "--foreground", "none"]
    assert run(*words, "--out", tmp_path / "plain") == 0
    assert run(*words, "--cache", tmp_path / "cache", "--out", tmp_path / "first") == 0
    assert (
        len(list(tmp_path.glob("cache/features/*/*.safetensors"))) == 9
    )  # self-check: two windows
    monkeypatch.setattr(extractors["equivariant"], "describe", None)  # not to be called again
    monkeypatch.setattr("partbook.data.pictures.decode", None)
    assert run(*words, "--cache", tmp_path / "cache", "--out", tmp_path / "again") == 0
    models = [
        (tmp_path / name / "model" / "model.safetensors").read_bytes()
        for name in ("plain", "first", "again")
    ]
    assert models[1] == models[2] and len(models[0]) == len(models[1])


def test_learning_inside_a_guessed_foreground(album, tmp_path, capsys):
    for how in ("border", "component", "robust"):
        words = quick(album, tmp_path / how, "--steps", 1, "--foreground", how)
        assert run(*words) == 0
    record = json.loads((tmp_path / "border" / "metrics.json").read_text())
    assert record["learned_inside"] == "features unlike the border's" != record["foreground"]
    record = json.loads((tmp_path / "robust" / "metrics.json").read_text())
    assert (
        "robust background detection" in record["learned_inside"]
        and record["foreground"] == "the whole picture"
    )
    assert "learning inside: robust background detection" in capsys.readouterr().out


def test_a_guess_takes_the_place_of_true_masks_in_learning_only(tmp_path, capsys, monkeypatch):
    from partbook.data.sample import collections
    from partbook.methods.kmeans import KMeans

    monkeypatch.setattr(collections["birds"], "__len__", lambda self: 12)
    monkeypatch.setenv("PARTBOOK_CACHE", "")
    found = {}
    for how in (None, "given", "none", "robust", "border"):
        chosen = [] if how is None else ["--foreground", how]
        words = [
            "discover",
            *chosen,
            "--size",
            32,
            "--parts",
            3,
            "--steps",
            1,
            "--no-baselines",
            "--cache",
            tmp_path / "cache",
            "--out",
            tmp_path / str(how),
        ]
        assert run(*words) == 0
        found[how] = json.loads((tmp_path / str(how) / "metrics.json").read_text())
    assert (
        found[None]["learned_inside"]
        == found["given"]["learned_inside"]
        == "true masks"
        == found["robust"]["foreground"]
    )
    assert found["none"]["learned_inside"] == "the whole picture"
    assert (
        len({found[how]["fg_nmi"] for how in ("given", "none", "robust", "border")}) == 4
    )  # each learned something else
    assert "learned inside: features unlike the border's" in capsys.readouterr().out
    assert len(list((tmp_path / "cache" / "saliency").rglob("*.npy"))) == 24  # train and test
    monkeypatch.setattr("partbook.features.foreground.saliency", None)  # maps come from the cache
    monkeypatch.setattr(KMeans, "foreground", "robust")  # a method whose paper did so
    assert run("discover", *words[1:-1][words[1:-1].index("--size") :], tmp_path / "own") == 0
    assert (
        json.loads((tmp_path / "own" / "metrics.json").read_text())["fg_nmi"]
        == found["robust"]["fg_nmi"]
    )


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/partbook-was-here",)


def weights_file(kind, folder):
    path = folder / f"{kind}.pth"
    if kind == "corrupt":
        path.write_bytes(b"PK\x03\x04" + os.urandom(500))
    elif kind == "truncated":
        path = path.with_suffix(".safetensors")
        path.write_bytes((1000).to_bytes(8, "little") + b'{"a":')
    elif kind == "malicious":
        torch.save({"x": Evil()}, path)
    elif kind == "other network":
        torch.save({"conv.weight": torch.zeros(3)}, path)
    elif kind == "wrong shape":
        from partbook.features.equivariant import Descriptor

        torch.save(
            {k: torch.zeros(2, *v.shape) for k, v in Descriptor().state_dict().items()}, path
        )
    elif kind == "no tensors":
        torch.save({}, path)
    return path


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("corrupt", "not a complete"),
        ("truncated", "not a complete"),
        ("malicious", "more than tensors"),
        ("other network", "another network"),
        ("wrong shape", "another network"),
        ("no tensors", "no tensors"),
    ],
)
def test_wrong_weights(kind, expected, capsys, tmp_path):
    path = weights_file(kind, tmp_path)
    said = sentence(capsys, "discover", "--weights", path, "--out", tmp_path / "out")
    assert expected in said and path.name in said
    assert not os.path.exists("/tmp/partbook-was-here")


def test_wrong_folders(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty holds no photograph" in sentence(
        capsys, "discover", "--data", tmp_path / "empty", "--out", tmp_path / "o"
    )
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.jpg").write_text("no picture")
    assert "can be read (1 tried)" in sentence(
        capsys,
        "discover",
        "--data",
        tmp_path / "texts",
        "--features",
        "rgb",
        "--out",
        tmp_path / "o",
    )
    said = sentence(
        capsys, "discover", "--data", "cub", "--root", tmp_path / "empty", "--out", tmp_path / "o"
    )
    assert "CUB" in said
    assert "leave --root out" in sentence(
        capsys,
        "discover",
        "--data",
        tmp_path / "empty",
        "--root",
        tmp_path,
        "--out",
        tmp_path / "o",
    )


def test_more_parts_than_pixels(capsys, tmp_path):
    noise(tmp_path / "photos" / "one.png")
    words = [
        "discover",
        "--data",
        tmp_path / "photos",
        "--size",
        16,
        "--parts",
        20,
        "--features",
        "equivariant",
        "--foreground",
        "none",
        "--out",
        tmp_path / "o",
    ]
    assert "K is 20 but there are only 16 foreground descriptors" in sentence(capsys, *words)
    Image.new("RGB", (40, 40), "grey").save(tmp_path / "photos" / "one.png")
    assert "only 1 distinct descriptors" in sentence(
        capsys, *words[:3], "--features", "rgb", "--size", 16, "--parts", 3, "--out", tmp_path / "o"
    )


def test_out_that_cannot_be_written(album, capsys, tmp_path, monkeypatch):
    words = quick(album, "here")[:-1]
    (tmp_path / "file").write_text("in the way")
    assert "is a file; give a folder" in sentence(capsys, *words, tmp_path / "file")
    assert "cannot be written" in sentence(capsys, *words, tmp_path / "file" / "below")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(core.os, "replace", full)
    assert "No space left on device" in sentence(capsys, *words, tmp_path / "full")
    assert not list((tmp_path / "full").iterdir())


@pytest.mark.skipif(
    os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0,
    reason="root may write everywhere",
)
def test_read_only_out(album, capsys, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    said = sentence(capsys, *quick(album, tmp_path / "locked"))
    assert "cannot be written (Permission denied)" in said


def damage(model, kind):
    path = model / "model.json"
    record = json.loads(path.read_text())
    if kind == "no json":
        path.unlink()
    elif kind == "not json":
        path.write_text("{half")
    elif kind == "no fields":
        path.write_text("{}")
    elif kind == "other format":
        path.write_text(json.dumps({**record, "format": 99}))
    elif kind == "other method":
        path.write_text(json.dumps({**record, "method": "oracle"}))
    elif kind == "unknown setting":
        path.write_text(json.dumps({**record, "settings": {**record["settings"], "mood": 1}}))
    elif kind == "wrong setting":
        path.write_text(
            json.dumps({**record, "settings": {**record["settings"], "parts": "three"}})
        )
    elif kind == "no tensors":
        (model / "model.safetensors").unlink()
    elif kind == "half tensors":
        tensors = model / "model.safetensors"
        tensors.write_bytes(tensors.read_bytes()[:50])
    elif kind == "other parts":
        path.write_text(json.dumps({**record, "settings": {**record["settings"], "parts": 5}}))


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("no json", "has no model.json"),
        ("not json", "is not a JSON file"),
        ("no fields", "lacks one of the fields"),
        ("other format", "reads format"),
        ("other method", "no method named 'oracle'"),
        ("unknown setting", "mood"),
        ("wrong setting", "parts"),
        ("no tensors", "model.safetensors"),
        ("half tensors", "not a complete safetensors file"),
        ("other parts", "another network"),
    ],
)
def test_wrong_model_folder(kind, expected, model, album, capsys, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    damage(copy, kind)
    assert expected in sentence(capsys, "segment", copy, album / "a.png", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_images(model, album, capsys, tmp_path):
    out = tmp_path / "out"
    assert "no image or folder" in sentence(
        capsys, "segment", model, tmp_path / "gone.jpg", "--out", out
    )
    (tmp_path / "empty").mkdir()
    assert "holds no image" in sentence(capsys, "segment", model, tmp_path / "empty", "--out", out)
    (tmp_path / "text.jpg").write_text("no picture")
    assert "None of the 1 files could be read" in sentence(
        capsys, "segment", model, tmp_path / "text.jpg", "--out", out
    )
    noise(tmp_path / "a.jpg")
    assert "would both be written" in sentence(
        capsys, "segment", model, album / "a.png", tmp_path / "a.jpg", "--out", out
    )
    assert not out.exists() or not list(out.rglob("*.png"))


def test_real_birds(shared_path, tmp_path):
    "Photographs and ImageNet features: well above what colours and positions reach."
    root, weights = (
        shared_path("data/CUB_200_2011"),
        shared_path("weights/squeezenet1_1_features.safetensors"),
    )
    words = [
        "discover",
        "--method",
        "kmeans",
        "--data",
        "cub",
        "--root",
        root,
        "--features",
        "squeezenet1_1",
        "--weights",
        weights,
    ]
    assert (
        run(*words, "--parts", 8, "--size", 192, "--steps", 0, "--no-baselines", "--out", tmp_path)
        == 0
    )
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record["fg_nmi"] > 22 and record["fg_ari"] > 10 and record["landmark_error"] < 22
    assert record["foreground"] == "inside the true box"


def test_a_crf_lets_labels_follow_the_photograph(album, model, tmp_path, capsys):
    words = [
        "--data",
        album,
        "--method",
        "dff",
        "--features",
        "rgb",
        "--size",
        32,
        "--parts",
        2,
        "--set",
        "iterations=10",
        "--no-baselines",
    ]
    assert run("discover", *words, "--out", tmp_path / "d") == 0
    record = json.loads((tmp_path / "d" / "metrics.json").read_text())
    assert len(record["dead_parts"]) == 2 - record["parts_alive"]
    found = {}
    for name, crf in {
        "plain": [],
        "full": ["--crf", "full"],
        "position": ["--crf", "position"],
    }.items():
        assert run("segment", tmp_path / "d" / "model", album, "--out", tmp_path / name, *crf) == 0
        files = sorted(
            p for p in (tmp_path / name).rglob("*.png") if not p.stem.endswith("_overlay")
        )
        found[name] = [np.asarray(Image.open(p)) for p in files]
    assert all(a.shape == b.shape for a, b in zip(found["plain"], found["full"]))
    assert any(not (a == b).all() for a, b in zip(found["plain"], found["full"])) and any(
        not (a == b).all() for a, b in zip(found["full"], found["position"])
    )
    assert "gives no background to refine against" in sentence(
        capsys, "segment", model, album, "--crf", "full", "--out", tmp_path / "no"
    )
