"""The cache of features: never wrong numbers from it, never a run lost to it."""

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from partbook.core import InputError, generator
from partbook.features import cache
from partbook.features.cache import FeatureCache, addresses, read_features, remember, seal
from partbook.features.extractor import Extractor
from partbook.files import HOST
from partbook.weights import save_tensors


class Doubling(Extractor):
    "Twice the colours; counts the pictures it was asked for."

    dim = 3
    stride = 1
    seen = 0

    def describe(self, images):
        self.seen += len(images)
        return images * 2


@pytest.fixture
def pictures():
    return torch.rand(3, 3, 4, 5, generator=generator(0))


def entries(folder):
    return sorted(folder.rglob("*.safetensors"))


def test_the_address_knows_the_shape_and_the_purpose(pictures):
    here = set(addresses(pictures, "x"))
    assert here == set(addresses(pictures.clone(), "x"))
    assert not here & set(addresses(pictures.mT.contiguous(), "x"))
    assert not here & set(addresses(pictures, "y"))


def rewrite(change):
    "A fault: the entry is written anew, with its seal, after `change(tensors)`."

    def fault(path):
        with cache.safe_open(str(path), "pt") as file:
            facts = file.metadata()
        tensors = change(load_file(path))
        save_tensors(tensors, path, facts)

    return fault


def cut(path):
    path.write_bytes(path.read_bytes()[:-30])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def folder_instead(path):
    path.unlink()
    path.mkdir()


def pipe_instead(path):
    path.unlink()
    os.mkfifo(path)


def no_entry(path):
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


FAULTS = {
    "empty": lambda p: p.write_bytes(b""),
    "cut": cut,
    "one bit": flip,
    "text": lambda p: p.write_text("not features"),
    "header only": lambda p: p.write_bytes((2**60).to_bytes(8, "little") + b"{}"),
    "no seal": lambda p: save_file(load_file(p), p),
    "another's": lambda p: p.write_bytes(entries(p.parents[1])[-1].read_bytes()),
    "shape": rewrite(lambda t: {"0": t["0"][:, :2].contiguous()}),
    "turned": rewrite(lambda t: {"0": t["0"].reshape(3, 5, 4)}),
    "dtype": rewrite(lambda t: {"0": t["0"].half()}),
    "integers": rewrite(lambda t: {"0": t["0"].view(torch.int32)}),
    "count": rewrite(lambda t: {"0": t["0"], "1": t["0"].clone()}),
    "names": rewrite(lambda t: {"grid": t["0"]}),
    "NaN": rewrite(lambda t: {"0": t["0"] * float("nan")}),
    "infinite": rewrite(lambda t: {"0": t["0"] / 0}),
    "a pipe": pipe_instead,
    "a lost link": no_entry,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_entry_that_is_not_as_it_was_written_is_made_again(fault, pictures, tmp_path):
    first = remember(Doubling(), tmp_path)
    assert torch.equal(first(pictures), pictures * 2)
    path = entries(tmp_path)[0]
    FAULTS[fault](path)
    again = remember(Doubling(), tmp_path)
    assert torch.equal(again(pictures), pictures * 2) and again.seen == 1
    third = remember(Doubling(), tmp_path)
    assert torch.equal(third(pictures), pictures * 2) and third.seen == 0


def test_what_is_whole_is_read_and_not_written(pictures, tmp_path):
    remember(Doubling(), tmp_path)(pictures)
    before = {p: (p.stat().st_ino, p.read_bytes()) for p in entries(tmp_path)}
    again = remember(Doubling(), tmp_path)
    assert torch.equal(again(pictures), pictures * 2) and again.seen == 0 and len(before) == 3
    assert {p: (p.stat().st_ino, p.read_bytes()) for p in entries(tmp_path)} == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_every_precision_comes_back_as_it_was(dtype, tmp_path):
    kept = [torch.rand(3, 2, 2, generator=generator(1)).to(dtype), torch.ones((), dtype=dtype)]
    FeatureCache(tmp_path).put("ab12", kept)
    found = FeatureCache(tmp_path).find("ab12", torch.device("cpu"))
    assert all(torch.equal(a, b) and a.dtype == dtype for a, b in zip(found, kept, strict=True))
    assert read_features(entries(tmp_path)[0], "ab13") is None
    assert seal("ab12", kept) != seal("ab12", kept[::-1]) != seal("ab13", kept[::-1])


FULL = {
    "OSError": OSError(28, "No space left on device"),
    "safetensors' own": Exception("Error while serializing: I/O error: No space left on device"),
    "read-only": PermissionError(13, "Permission denied"),
}


@pytest.mark.parametrize("error", FULL)
def test_a_full_disk_does_not_cost_the_run(error, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("partbook.weights.safetensors.torch.save_file", raising(FULL[error]))
    full = remember(Doubling(), tmp_path)
    for _ in range(2):
        assert torch.equal(full(pictures), pictures * 2)
    assert full.seen == 3
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"partbook: The cache {tmp_path} takes no more (")
    assert said.endswith("the run goes on without it.") and "\n" not in said
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def raising(error):
    def fails(*words):
        raise error

    return fails


def test_a_disk_that_fills_up_later_is_still_read(pictures, tmp_path, monkeypatch, capsys):
    remember(Doubling(), tmp_path)(pictures[:2])
    monkeypatch.setattr("partbook.weights.safetensors.torch.save_file", raising(FULL["OSError"]))
    full = remember(Doubling(), tmp_path)
    assert torch.equal(full(pictures), pictures * 2) and full.seen == 1
    assert "No space left on device" in capsys.readouterr().err


def test_a_folder_in_the_place_of_an_entry_is_no_traceback(pictures, tmp_path, capsys):
    remember(Doubling(), tmp_path)(pictures)
    folder_instead(entries(tmp_path)[0])
    again = remember(Doubling(), tmp_path)
    assert torch.equal(again(pictures), pictures * 2) and again.seen == 1
    assert capsys.readouterr().err.count("takes no more") == 1


@pytest.mark.parametrize("place", ["", "features"])
def test_a_file_is_no_cache(place, tmp_path):
    (tmp_path / "cache").mkdir()
    path = tmp_path / "cache" / place / "x" if place == "" else tmp_path / "cache" / place
    path.write_text("mine")
    with pytest.raises(InputError, match=f"The cache {path} is a file, not a folder"):
        remember(Doubling(), path if place == "" else tmp_path / "cache")
    assert path.read_text() == "mine"


def test_what_killed_runs_left_is_removed(pictures, tmp_path):
    remember(Doubling(), tmp_path)(pictures)
    place = entries(tmp_path)[0].parent
    dead = place / f".partbook-{HOST}-{2**22 + 1}-x.safetensors"
    alive = place / f".partbook-{HOST}-{os.getppid()}-x.safetensors"
    dead.write_bytes(b"half")
    alive.write_bytes(b"half")
    again = remember(Doubling(), tmp_path)
    assert not dead.exists() and alive.exists()
    assert torch.equal(again(pictures), pictures * 2) and again.seen == 0
