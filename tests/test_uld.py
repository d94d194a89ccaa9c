"""Unsupervised landmarks on the command line: a short run, interrupted too, and absurd settings."""

import json

import pytest

from partbook.cli import main
from partbook.weights import load_tensors

TINY = [
    "--method",
    "uld",
    "--size",
    "32",
    "--parts",
    "3",
    "--set",
    "batch_size=4",
    "--seed",
    "3",
    "--device",
    "cpu",
    "--no-baselines",
    "--checkpoint-every",
    "2",
]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setenv("PARTBOOK_SMALL", "1")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    "A folder of a few drawn faces: the collection is a folder of photographs to the command."
    from partbook.data.sample import collections
    from partbook.parts.plots import write_picture

    folder = tmp_path_factory.mktemp("faces")
    for s in collections["faces"].open(split="train", size=32).take(range(6)):
        write_picture(folder / f"{s.name.replace(' ', '-').replace('/', '-')}.png", s.image)
    return folder


@pytest.fixture(scope="module")
def whole(faces, tmp_path_factory):
    "The folder of a run that nobody disturbed."
    with pytest.MonkeyPatch.context() as m:
        m.setenv("PARTBOOK_SMALL", "1")
        out = tmp_path_factory.mktemp("whole")
        assert (
            main(["discover", *TINY, "--data", str(faces), "--steps", "6", "--out", str(out)]) == 0
        )
    return out


def test_it_trains_and_segments(whole, faces, tmp_path):
    record = json.loads((whole / "model" / "model.json").read_text())
    assert record["method"] == "uld" and record["settings"]["reconstruction"] == [
        1920.0,
        19200.0,
        192000.0,
    ]
    assert (
        main(["segment", str(whole / "model"), str(faces), "--out", str(tmp_path / "parts")]) == 0
    )
    assert len(list((tmp_path / "parts").glob("*_overlay.png"))) == 6


def test_an_interrupted_run_ends_in_the_same_weights(whole, faces, tmp_path, monkeypatch):
    import partbook.training.fit as training

    advance, count = training.Run.advance, iter(range(100))

    def stop(self, number):
        if next(count) == 5:
            raise KeyboardInterrupt
        return advance(self, number)

    run = ["discover", *TINY, "--data", str(faces), "--steps", "6", "--out", str(tmp_path)]
    monkeypatch.setattr(training.Run, "advance", stop)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        raise SystemExit(main(run))
    monkeypatch.setattr(training.Run, "advance", advance)
    assert not (tmp_path / "model").exists() and main([*run, "--resume"]) == 0
    ours, theirs = (load_tensors(p / "model" / "model.safetensors") for p in (tmp_path, whole))
    assert ours.keys() == theirs.keys() and all(ours[k].equal(theirs[k]) for k in ours)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("separation_form=far", "choose distance or overlap"),
        ("concentration_form=sharp", "choose variance or entropy"),
        ("equivariance_form=none", "choose centres or expected"),
        ("warp=bent", "choose affine or spline"),
        ("separation=-1", "none may be negative"),
        ("bandwidth=0", "must be positive"),
        ("zoom=(0,1)", "two positive numbers"),
        ("shapren=1", "has no such setting"),
    ],
)
def test_settings_that_make_no_sense(faces, tmp_path, capsys, setting, sentence):
    assert (
        main(
            [
                "discover",
                *TINY,
                "--data",
                str(faces),
                "--steps",
                "2",
                "--set",
                setting,
                "--out",
                str(tmp_path / "out"),
            ]
        )
        != 0
    )
    captured = capsys.readouterr()
    assert sentence in captured.err + captured.out


def test_without_a_painter(faces, tmp_path):
    assert (
        main(
            [
                "discover",
                *TINY,
                "--data",
                str(faces),
                "--steps",
                "2",
                "--set",
                "reconstruction=0",
                "--set",
                "warp=spline",
                "--out",
                str(tmp_path),
            ]
        )
        == 0
    )
    assert not [
        k for k in load_tensors(tmp_path / "model" / "model.safetensors") if k.startswith("painter")
    ]
