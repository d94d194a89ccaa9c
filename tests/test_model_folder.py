"""The folder of a model: impossible settings, edited records, mixed files, a machine that stops."""

import hashlib
import json
import math
import os
import resource
import shutil
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import message, run, sentence
from safetensors.torch import load_file, save_file

from partbook.core import InputError
from partbook.data.sample import collections, identity
from partbook.files import is_ours
from partbook.methods.kmeans import KMeans, KMeansSettings
from partbook.methods.method import (
    HIGHEST,
    WHOLE,
    Settings,
    TrainSettings,
    check_model_place,
    fits,
    in_words,
    load_method,
    methods,
    save_method,
    seal_of,
)

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def kmeans(seed=0, parts=3):
    method = KMeans.build(KMeansSettings(parts=parts, features="rgb", size=16, seed=seed))
    method.centres = torch.rand(method.centres.shape, generator=torch.Generator().manual_seed(seed))
    return method


def maps(folder):
    return load_method(folder)[0].part_maps(IMAGES)


def tree(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(Path(folder).rglob("*"))
        if p.is_file()
    }


@pytest.fixture
def model(tmp_path):
    return save_method(kmeans(), tmp_path / "model", {"collection": "birds"})


# ---------------------------------------------------------------- settings

NUMBERS = {
    int: ["three", 1.5, True, None, 2**70, [1], {}, math.nan, ""],
    float: ["much", math.nan, math.inf, -math.inf, 10**400, True, None, [1.0], {}],
    bool: [1, 0, "yes", None, [True]],
    str: [1, True, ["a"], {}, 1.5],
}


@pytest.mark.parametrize("name", ["kmeans", "contrastive", "scops", "dff", "uld"])
def test_every_field_of_every_method_is_checked(name):
    kind, counted = methods[name].Settings, 0
    for f in fields(kind):
        for value in NUMBERS.get(
            f.type, ["nonsense" if f.type != str | None else 5, 5, [None], (math.nan,), {}, [[1]]]
        ):
            if fits(value, f.type) or isinstance(value, list) and fits(tuple(value), f.type):
                continue
            with pytest.raises(InputError) as error:
                kind(**{f.name: value})
            said = message(error)
            assert (
                said.startswith(f"The setting {f.name} is ")
                and "; it must be " in said
                and len(said) < 300
            )
            counted += 1
    assert counted > 4 * len(fields(kind))


@pytest.mark.parametrize(
    "given, words",
    [
        (
            {"seed": 2**63},
            "The setting seed is 9223372036854775808; it must be at most 9223372036854775807.",
        ),
        ({"size": 100_000}, "The setting size is 100000; it must be at most 4096."),
        ({"batch_size": 2**16 + 1}, "it must be at most 65536."),
        ({"steps": WHOLE + 1}, "it must be at most 1000000000."),
        ({"size": 10**5000}, "it must be at most 4096."),
        ({"lr": math.nan}, "The setting lr is nan; it must be a finite number."),
        (
            {"layers": ["a", 5]},
            "The setting layers is ('a', 5); it must be a list, any number times text, or None.",
        ),
        ({"optimiser": "\udce9\n"}, "There is no optimiser"),
    ],
)
def test_values_out_of_range(given, words):
    with pytest.raises(InputError) as error:
        TrainSettings(**given)
    assert words in message(error)


def test_what_is_meant_is_taken():
    s = TrainSettings(
        parts=np.int64(4), lr=np.float32(0.5), grad_clip=2, layers=["a", "b"], seed=HIGHEST["seed"]
    )
    assert (
        (s.parts, s.lr, s.grad_clip, s.layers) == (4, 0.5, 2, ("a", "b"))
        and type(s.parts) is int
        and type(s.lr) is float
    )
    assert (
        KMeans.build(
            KMeansSettings(seed=HIGHEST["seed"], features="rgb", size=16, parts=2)
        ).settings.seed
        == 2**63 - 1
    )
    assert methods["uld"].Settings(reconstruction=[1, 2.0]).reconstruction == (1, 2.0) and methods[
        "uld"
    ].Settings(reconstruction=3).reconstruction == (3,)
    assert methods["contrastive"].Settings(
        network_weights=Path("a") / "b"
    ).network_weights == os.path.join("a", "b")
    assert (
        in_words(tuple[float, float]) == "a list, 2 times a finite number"
        and in_words(int) == "a whole number"
    )


def test_settings_of_ones_own_are_checked_too():
    @dataclass
    class Own(Settings):
        hunger: tuple[int, ...] = (1,)
        name: str | None = None

    assert Own(hunger=[2, 3]).hunger == (2, 3)
    for wrong in ({"hunger": (1.5,)}, {"hunger": 3}, {"name": 4}, {"parts": 1}):
        with pytest.raises(InputError):
            Own(**wrong)


@pytest.mark.parametrize(
    "words, said",
    [
        (["--seed", 2**70], "seed is 1180591620717411303424; it must be at most"),
        (["--size", 100_000], "size is 100000; it must be at most 4096"),
        (["--set", "batch_size=inf"], "expected a value of type int"),
        (["--set", "lr=1e400"], "lr is inf; it must be a finite number"),
        (["--set", "lr=nan"], "expected a value of type float"),
        (
            ["--set", "zoom=(1e400,2)"],
            "zoom is (inf, 2); it must be a list, 2 times a finite number",
        ),
        (["--set", "zoom=(1,2,3)"], "zoom is (1, 2, 3); it must be a list, 2 times"),
        (["--set", "steps=" + "9" * 40], "it must be at most 1000000000"),
        (["--steps", 10**12], "it must be at most 1000000000"),
        (["--lr", "nan"], "The setting lr is nan; it must be a finite number"),
        (["--grad-clip", "0"], "lr and grad_clip must be positive, not 0.002 and 0.0"),
        (["--batch-size", "1"], "it needs a batch of at least 2"),
        (["--weight-decay", "-1"], "weight_decay and power must not be negative, found -1.0"),
        (["--backbone-lr-scale", "x"], "argument --backbone-lr-scale: invalid float value: 'x'"),
        (["--method", "kmeans", "--lr", "1"], "--lr means nothing to the method 'kmeans'"),
        (["--set", "rate=1"], "the method 'contrastive' has no such setting"),  # an old name
        (["--every", "5"], "unrecognized arguments: --every 5"),  # an old name
        (["--validate", "5"], "unrecognized arguments: --validate 5"),  # an old name
        (
            ["--method", "dff", "--set", "restarts=1000000000"],
            "restarts is 1000000000; it must be at most 10000",
        ),
    ],
)
def test_numbers_on_the_command_line(words, said, tmp_path, capsys):
    assert said in sentence(
        capsys, "discover", "--method", "contrastive", "--out", tmp_path / "out", *words
    )
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- edited records


def settings_of(**changes):
    return lambda record: {**record, "settings": {**record["settings"], **changes}}


def record_with(**changes):
    return lambda record: {**record, **changes}


EDITS = {
    "method a list": (record_with(method=["kmeans"]), "method is ['kmeans']; it must be text"),
    "method null": (record_with(method=None), "method is None; it must be text"),
    "method odd": (record_with(method="\n"), "no method named"),
    "features a list": (
        settings_of(features=["rgb"]),
        "The setting features is ('rgb',); it must be text",
    ),
    "features unknown": (settings_of(features="smell"), "no feature extractor named 'smell'"),
    "facts a list": (record_with(facts=[1]), "facts is [1]; it must be an object"),
    "facts text": (record_with(facts="birds"), "facts is 'birds'; it must be an object"),
    "options a list": (record_with(facts={"options": [1]}), "options is [1]; it must be an object"),
    "collection a number": (
        record_with(facts={"collection": 7}),
        "collection is 7; it must be text",
    ),
    "settings a list": (record_with(settings=[1]), "settings is [1]; it must be an object"),
    "seed half": (settings_of(seed=1.5), "The setting seed is 1.5; it must be a whole number"),
    "seed true": (settings_of(seed=True), "The setting seed is True; it must be a whole number"),
    "parts in words": (
        settings_of(parts="three"),
        "The setting parts is 'three'; it must be a whole number",
    ),
    "parts null": (settings_of(parts=None), "The setting parts is None"),
    "size infinite": (
        settings_of(size=math.inf),
        "The setting size is inf; it must be a whole number",
    ),
    "size huge": (settings_of(size=10**9), "it must be at most 4096"),
    "sample nan": (settings_of(sample=math.nan), "The setting sample is nan"),
    "unknown": (settings_of(mood=1, **{"\udce9": 2}), "the setting ['mood'] is not one of"),
    "old name": (
        settings_of(batch=32),  # an old name
        "the setting ['batch'] is not one of ['batch_size', 'features', 'layers',",
    ),
    "layers numbers": (settings_of(layers=[1, 2]), "The setting layers is (1, 2)"),
    "layers of another": (settings_of(layers=["relu5_4"]), "one layer, 'input'"),
    "format true": (
        record_with(format=True),
        "has format True; this version of partbook reads format 1",
    ),
    "format a list": (record_with(format=[1]), "has format [1]"),
    "seal of another": (
        record_with(tensors={"bytes": 1, "hash": "0"}),
        "the two are of different models",
    ),
    "seal a number": (record_with(tensors=5), "tensors is 5; it must be an object"),
    "other parts": (settings_of(parts=5), "another network"),
}


@pytest.mark.parametrize("kind", EDITS)
def test_an_edited_record_is_refused_by_name(model, kind):
    change, words = EDITS[kind]
    path = model / "model.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    before = tree(model)
    with pytest.raises(InputError) as error:
        load_method(model)
    said = str(error.value)
    assert words in said and "\n" not in said and ("model.json" in said or "safetensors" in said)
    assert tree(model) == before


@pytest.mark.parametrize(
    "content, words",
    [
        ("[" * 100_000, "nested too deep"),
        ('{"settings": ' * 100_000, "nested too deep"),
        ("", "is not a JSON file"),
        ("null", "lacks one of the fields"),
        (b"\xff\xfe{}", "is not a JSON file in UTF-8"),
        ('{"format": 1e400, "method": 1, "settings": 2}', "has format inf"),
        ("1" * 5000, "is not a JSON file"),
    ],
)
def test_what_is_no_record(model, content, words):
    (model / "model.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        load_method(model)
    assert words in message(error)


def test_a_record_with_a_byte_order_mark_or_of_an_older_version_is_read(model):
    before, path = maps(model), model / "model.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert torch.equal(maps(model), before)
    record = json.loads(path.read_text(encoding="utf-8-sig"))
    del record["tensors"], record["facts"]
    path.write_text(json.dumps(record))
    assert torch.equal(maps(model), before)


@pytest.mark.parametrize("place", ["", "a\0b", "x" * 300, "/dev/null", "nowhere"])
def test_what_is_no_folder(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        load_method(place)
    assert message(error)


def test_a_home_is_understood(model, monkeypatch):
    monkeypatch.setenv("HOME", str(model.parent))
    assert torch.equal(maps("~/model"), maps(model))


def test_pipes_and_folders_in_a_model_folder(model):
    (model / "model.safetensors").unlink()
    os.mkfifo(model / "model.safetensors")
    with pytest.raises(InputError):
        load_method(model)
    (model / "model.json").unlink()
    os.mkfifo(model / "model.json")
    with pytest.raises(InputError, match="has no model.json"):
        load_method(model)


# ---------------------------------------------------------------- two files that belong together


def test_the_tensors_of_another_run_are_noticed(model, tmp_path):
    other = save_method(kmeans(seed=1), tmp_path / "other")
    shutil.copy(other / "model.safetensors", model)
    with pytest.raises(
        InputError,
        match=(
            "model.safetensors is not the file that model.json was written with, "
            "so the two are of different models"
        ),
    ):
        load_method(model)
    shutil.copy(other / "model.json", model)
    assert torch.equal(maps(model), maps(other))


def test_a_record_says_what_it_holds(model):
    record = json.loads((model / "model.json").read_text())
    assert (
        record["tensors"] == seal_of(model / "model.safetensors")
        and record["tensors"]["bytes"] == (model / "model.safetensors").stat().st_size
    )
    assert is_ours(model / "model.json") and is_ours(model / "model.safetensors")
    known = identity(collections["birds"].open(split="val", size=16))
    save_method(kmeans(), model, {"collection": "birds", "identity": known})
    assert load_method(model)[1]["facts"]["identity"] == known and torch.equal(
        maps(model), kmeans().eval().part_maps(IMAGES)
    )


class Killed(BaseException):
    "The machine stops."


@pytest.mark.parametrize("moment", range(1, 9))
def test_a_stop_at_any_moment_leaves_one_model_or_none(tmp_path, monkeypatch, moment):
    old, new = kmeans(seed=1), kmeans(seed=2)
    folder, count = save_method(old, tmp_path / "model"), 0

    def dying(act):
        def maybe(*arguments, **options):
            nonlocal count
            count += 1
            if count == moment:
                raise Killed
            return act(*arguments, **options)

        return maybe

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", dying(os.replace))
        patched.setattr(Path, "unlink", dying(Path.unlink))
        try:
            save_method(new, folder)
        except Killed:
            pass
    try:
        found = maps(folder)
    except InputError as error:
        assert "has no model.json" in str(error) and "interrupted" in str(error)
    else:
        assert torch.equal(found, old.eval().part_maps(IMAGES)) or torch.equal(
            found, new.eval().part_maps(IMAGES)
        )
    assert torch.equal(
        maps(save_method(new, folder)), new.eval().part_maps(IMAGES)
    )  # and the next run writes it


def test_a_full_disk_leaves_the_old_model(model):
    before, found = tree(model), maps(model)
    big = kmeans(seed=3)
    big.register_buffer("ballast", torch.zeros(10_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(InputError) as error:
            save_method(big, model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "model.safetensors cannot be written" in message(error)
    assert (
        tree(model) == before
        and torch.equal(maps(model), found)
        and sorted(p.name for p in model.iterdir()) == ["model.json", "model.safetensors"]
    )


@pytest.mark.parametrize(
    "name, content",
    [
        ("model.json", '{"my": "notes"}'),
        ("model.json", "not JSON"),
        ("model.json", '{"versions": ["partbook"]}'),
        ("model.safetensors", "somebody's weights"),
        ("model.safetensors", None),
        ("model.json", 0),
    ],
)
def test_files_of_ones_own_are_not_replaced(tmp_path, name, content):
    path = tmp_path / "model" / name
    path.parent.mkdir()
    if content == 0:
        path.mkdir()
    elif content is None:
        save_file({"a": torch.ones(3)}, path)
    else:
        path.write_text(content)
    before = tree(tmp_path)
    for act in (check_model_place, lambda place: save_method(kmeans(), place)):
        with pytest.raises(InputError) as error:
            act(tmp_path / "model")
        assert f"{name} is there already and was not written by partbook" in message(error)
    assert tree(tmp_path) == before and sorted(p.name for p in path.parent.iterdir()) == [name]


def test_a_model_of_an_older_version_is_replaced(tmp_path):
    "Its tensors have no mark, but the record beside them does."
    folder = save_method(kmeans(seed=1), tmp_path / "model")
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")
    record = json.loads((folder / "model.json").read_text())
    del record["tensors"]
    (folder / "model.json").write_text(json.dumps(record))
    assert not is_ours(folder / "model.safetensors")
    assert torch.equal(
        maps(save_method(kmeans(seed=2), folder)), kmeans(seed=2).eval().part_maps(IMAGES)
    )


def test_the_command_says_it_in_one_sentence(model, tmp_path, capsys):
    path = model / "model.json"
    path.write_text(json.dumps(settings_of(seed=1.5)(json.loads(path.read_text()))))
    assert "model.json: The setting seed is 1.5" in sentence(capsys, "evaluate", model)
    assert run("data", "birds") == 0
