"""Weights files as people have them: what is read, what is refused, and that nothing runs."""

import io
import os
import pickle
import struct
import tarfile
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import message
from torch import nn

from partbook.core import InputError
from partbook.files import is_ours, looks_like, stand_in, write_atomic
from partbook.weights import (
    draw_weights,
    load_into,
    load_tensors,
    save_tensors,
    zip_directory,
)

STATE = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 2, 1)).state_dict()


def refusal(path, **options) -> str:
    with pytest.raises(InputError) as error:
        load_tensors(path, **options)
    said = message(error)
    assert len(said.replace(str(path), "")) < 300 and "Traceback" not in said
    return said


def torch_bytes(content, **options) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def safe_bytes(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def repacked(path, content: bytes, method=zipfile.ZIP_DEFLATED):
    "A file of torch.save whose records are packed again."
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(path, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))


def tar_bytes(mode="w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return stream.getvalue()


def zip_bytes(name="photo.txt") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, b"1")
    return stream.getvalue()


def script_bytes() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in ("m/data.pkl", "m/constants.pkl", "m/code/m.py"):
            archive.writestr(name, b"1")
    return stream.getvalue()


PAGE = b"<!DOCTYPE html><html>Google Drive can't scan this file for viruses"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 5\n"
CAUSES = {
    "page.pth": (PAGE, "is a web page, not a weights file"),
    "page.safetensors": (b"\n\n<html>404", "is a web page, not a weights file"),
    "lfs.pth": (POINTER, "is a pointer of Git LFS, not a weights file"),
    "lfs.safetensors": (POINTER, "is a pointer of Git LFS"),
    "empty.pth": (b"", "is empty (0 bytes)"),
    "empty.safetensors": (b"", "is empty (0 bytes)"),
    "zeros.pt": (bytes(4096), "begins with zeros"),
    "packed.pth": (b"\x1f\x8b\x08" + bytes(90), "is a gzip archive, not a weights file; unpack"),
    "packed.pt": (b"7z\xbc\xaf\x27\x1c" + bytes(90), "is a 7z archive"),
    "tar.pth": (tar_bytes(), "is a tar archive"),
    "tar.safetensors": (tar_bytes(), "is a tar archive"),
    "tgz.pth": (tar_bytes("w:gz"), "is a gzip archive"),
    "zip.pth": (zip_bytes(), "is a .zip without PyTorch's data.pkl"),
    "inner.pth": (zip_bytes("vgg.pth"), "is a .zip without PyTorch's data.pkl"),
    "script.pt": (script_bytes(), "is a TorchScript program"),
    "torch.safetensors": (torch_bytes(STATE), "give it the ending .pth"),
    "safe.pth": (safetensors.torch.save(STATE), "give it the ending .safetensors"),
    "cut.pth": (torch_bytes(STATE)[:-300], "is not a complete PyTorch weights file"),
    "cut.safetensors": (safetensors.torch.save(STATE)[:-9], "is not a complete safetensors file"),
    "odd.safetensors": (b"\x08" + bytes(7) + b"{" + b"x" * 90, "is not a complete safetensors"),
    "huge.safetensors": ((2**62).to_bytes(8, "little") + b"{}" * 50, "is not a complete safetens"),
    "list.pth": (torch_bytes([torch.zeros(2)]), "holds a list, not named tensors"),
    "none.safetensors": (safetensors.torch.save({}), "holds no tensors at all"),
    "number.pth": (torch_bytes({"a": 3}), "holds a int under 'a' where a tensor"),
    "names.pth": (torch_bytes({7: torch.zeros(1)}), "holds a Tensor under 7 where a tensor"),
    "twice.pth": (torch_bytes({"a": torch.zeros(1), "module.a": torch.ones(1)}), "a tensor twice"),
    "long.pth": (torch_bytes({"x" * 10**5: 3}), "holds a int under 'xxxx"),
    "keras.h5": (b"", "does not end in .safetensors, .pth or .pt"),
}


@pytest.mark.parametrize("name", CAUSES)
def test_each_cause_is_called_what_it_is(name, tmp_path):
    content, expected = CAUSES[name]
    (tmp_path / name).write_bytes(content)
    said = refusal(tmp_path / name)
    assert expected in said and str(tmp_path / name) in said
    assert "leave the weights out" not in said


def test_the_way_out_is_named_where_there_is_one(tmp_path):
    (tmp_path / "a.pth").write_bytes(torch_bytes(STATE)[:-300])
    otherwise = "leave the weights out to use the default ones"
    assert refusal(tmp_path / "a.pth", otherwise=otherwise).endswith(f"again, or {otherwise}.")
    said = refusal(tmp_path / "gone.pth", otherwise=otherwise)
    assert said.endswith(f"gone.pth; check the path, or {otherwise}.")
    assert refusal(tmp_path / "gone.pth").endswith("gone.pth; check the path.")


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.999])
def test_ones_own_checkpoint_is_not_to_be_fetched(keep, tmp_path):
    path = tmp_path / "model.safetensors"
    save_tensors({"a": torch.rand(50, 50)}, path)
    assert is_ours(path)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    said = refusal(path)
    assert "partbook wrote it, so take an earlier checkpoint or run the same command again" in said
    assert "fetch" not in said and "not a complete safetensors file" in said


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyTorch means to drop quantised tensors
    QUANTISED = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    ROWS = torch.eye(2).to_sparse_csr()

ODD = {
    "float8_e4m3": torch.ones(2).to(torch.float8_e4m3fn),
    "float8_e5m2": torch.ones(2).to(torch.float8_e5m2),
    "sparse": torch.eye(2).to_sparse(),
    "sparse_csr": ROWS,
    "meta": torch.empty(2, device="meta"),
    "complex": torch.ones(2, dtype=torch.complex64),
    "quantised": QUANTISED,
    "uint16": torch.ones(2, dtype=torch.uint16),
}


@pytest.mark.parametrize("kind", ODD)
def test_tensors_that_are_not_plain_are_named(kind, tmp_path):
    torch.save({"0.weight": ODD[kind]}, tmp_path / "a.pth")
    said = refusal(tmp_path / "a.pth")
    assert "under '0.weight'; convert it to plain numbers" in said
    layer = nn.Linear(2, 1, bias=False)
    with pytest.raises(InputError) as error:
        load_into(layer, {"weight": ODD[kind]}, "a.pth")
    assert "for 'weight' where this network needs torch.float32" in message(error)


@pytest.mark.parametrize("kind", ["float8_e4m3", "float8_e5m2", "complex", "uint16"])
def test_safetensors_holds_some_of_them_too(kind, tmp_path):
    safetensors.torch.save_file({"w": ODD[kind]}, tmp_path / "a.safetensors")
    assert str(ODD[kind].dtype) in refusal(tmp_path / "a.safetensors")


PLAIN = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", PLAIN)
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_plain_numbers_arrive_in_any_precision(dtype, ending, tmp_path):
    state = {k: v.to(dtype) for k, v in STATE.items()}
    path = tmp_path / f"a.{ending}"
    torch.save(state, path) if ending == "pth" else safetensors.torch.save_file(state, path)
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 2, 1))
    load_into(net, load_tensors(path), path)
    assert all(torch.equal(v, state[k].float()) for k, v in net.state_dict().items())


@pytest.mark.parametrize("value", [1e300, -1e39, float("inf"), float("nan")])
def test_numbers_too_large_for_the_network_are_not_finite(value):
    weight = torch.full((1, 2), value, dtype=torch.float64)
    with pytest.raises(InputError, match="not finite in 'weight'"):
        load_into(nn.Linear(2, 1, bias=False), {"weight": weight}, "a.pth")


def peak(path) -> int:
    "Bytes that Python held at most while a file was refused."
    tracemalloc.start()
    try:
        refusal(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_file_that_grows_is_refused_before_it_is_read(tmp_path, monkeypatch):
    repacked(tmp_path / "a.pth", torch_bytes({"a": torch.zeros(3 * 10**7)}))
    assert (tmp_path / "a.pth").stat().st_size < 200_000
    monkeypatch.setattr(torch, "load", None)  # not to be called
    assert peak(tmp_path / "a.pth") < 2**20
    assert "was packed again" in refusal(tmp_path / "a.pth")


def test_records_that_lie_on_each_other_are_counted(tmp_path, monkeypatch):
    content = bytearray(torch_bytes({"a": torch.rand(100)}))
    at = content.rfind(b"PK\1\2")
    while at >= 0:
        content[at + 24 : at + 28] = struct.pack("<L", 10**8)
        at = content.rfind(b"PK\1\2", 0, at)
    (tmp_path / "a.pth").write_bytes(content)
    monkeypatch.setattr(torch, "load", None)
    assert "was packed again" in refusal(tmp_path / "a.pth")


def test_a_packed_file_that_hardly_grows_is_read(tmp_path):
    for name, method in {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}.items():
        repacked(tmp_path / f"{name}.pth", torch_bytes(STATE), method)
        found = load_tensors(tmp_path / f"{name}.pth")
        assert all(torch.equal(found[k], STATE[k]) for k in STATE)


def test_long_lists_of_names_are_refused_before_they_are_read(tmp_path):
    header = b'{"__metadata__":{"a":"' + b"x" * 2**23 + b'"}}'
    (tmp_path / "a.safetensors").write_bytes(safe_bytes(header))
    assert "has a header of 8388" in refusal(tmp_path / "a.safetensors")
    zeros = torch.zeros(1)
    (tmp_path / "a.pth").write_bytes(torch_bytes({f"{i:099}": zeros for i in range(50_000)}))
    assert "names its tensors in" in refusal(tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "b.pth", "w") as archive:
        for i in range(80_000):
            archive.writestr(f"archive/data/{i}", b"")
    assert "lists 80000 records" in refusal(tmp_path / "b.pth")


def test_a_tensor_larger_than_its_file_takes_no_memory(tmp_path):
    torch.save({"weight": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "a.pth")
    tensors = load_tensors(tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"shape \(1000000, 1000000\) for 'weight'"):
        load_into(nn.Linear(2, 1, bias=False), tensors, "a.pth")


class Malice:
    "Runs a function of its author's when it is unpickled."

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare", "bare4", "repacked", "tar"])
def test_nothing_in_a_file_runs(form, tmp_path):
    malice = {"a": Malice(tmp_path / "attacked")}
    path = tmp_path / "a.pth"
    if form in ("zip", "legacy"):
        path.write_bytes(torch_bytes(malice, _use_new_zipfile_serialization=form == "zip"))
    elif form == "repacked":
        repacked(path, torch_bytes(malice))
    elif form == "tar":
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name in ("sys_info", "pickle", "storages", "tensors"):
                content = pickle.dumps(malice, protocol=2)
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        path.write_bytes(stream.getvalue())
    else:
        path.write_bytes(pickle.dumps(malice, protocol=4 if form == "bare4" else 2))
    refusal(path)
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("maker", ["torch", "legacy", "safetensors"])
def test_any_bytes_end_in_a_sentence_or_in_tensors(maker, tmp_path):
    path = tmp_path / ("a.safetensors" if maker == "safetensors" else "a.pth")
    whole = safetensors.torch.save(STATE)
    if maker != "safetensors":
        whole = torch_bytes(STATE, _use_new_zipfile_serialization=maker == "torch")
    noise = np.random.default_rng(0)
    for _ in range(80):
        content = bytearray(whole)
        for _ in range(int(noise.integers(1, 5))):
            content[int(noise.integers(len(content)))] = int(noise.integers(256))
        path.write_bytes(content)
        net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 2, 1))
        try:
            load_into(net, load_tensors(path), path)
        except InputError as error:
            assert "\n" not in str(error)


def test_what_is_no_file_is_no_weights_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    assert "is a pipe or a device" in refusal(tmp_path / "pipe.pth")
    (tmp_path / "folder.pth").mkdir()
    assert "is a folder" in refusal(tmp_path / "folder.pth")
    assert "is empty" in refusal("")
    assert "cannot be looked at" in refusal(tmp_path / ("x" * 300 + ".pth"))
    assert r"caf\xe9.pth" in refusal(tmp_path / os.fsdecode(b"caf\xe9.pth"))


def test_weights_are_written_marked_and_whole(tmp_path):
    path = write_atomic(tmp_path / "a.safetensors", lambda p: save_tensors(STATE, p))
    assert is_ours(path) and all(torch.equal(load_tensors(path)[k], STATE[k]) for k in STATE)
    save_tensors(STATE, path, {"recipe": "{}"})
    with safetensors.safe_open(str(path), "pt") as file:
        assert file.metadata() == {"recipe": "{}"}


FAILURES = [Exception("I/O error: No space left"), RuntimeError("shared"), OSError(28, "x")]


@pytest.mark.parametrize("error", FAILURES)
def test_every_failure_to_write_is_an_error_of_the_disk(error, tmp_path, monkeypatch):
    def fails(*words):
        raise error

    path = write_atomic(tmp_path / "a.safetensors", lambda p: save_tensors(STATE, p))
    before = path.read_bytes()
    monkeypatch.setattr(safetensors.torch, "save_file", fails)
    with pytest.raises(OSError):
        save_tensors(STATE, path)
    with pytest.raises(InputError, match="a.safetensors cannot be written"):
        write_atomic(path, lambda p: save_tensors(STATE, p))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize(
    "head, kind",
    [
        (b"", "nothing"),
        (bytes(1024), "zeros"),
        (b"PK\3\4", "zip"),
        (b"BZh9", "bzip2"),
        (tar_bytes()[:1024], "tar"),
        ("Größe: 5\n".encode(), "text"),
        ("é".encode() * 511 + b"\xc3", "text"),
        (b"\xef\xbb\xbf<!doctype HTML>", "page"),
        (b"<?xml version='1.0'?><Error>", "text"),
        (b"\x80\x02\x8a\nl\xfc", "unknown"),
        (b"\xff\xfea\0b\0", "unknown"),
        (b"%PDF-1.4", "PDF"),
    ],
)
def test_first_bytes_tell_what_a_file_is(head, kind):
    assert looks_like(head) == kind


def test_a_stand_in_is_told_from_a_file(tmp_path):
    (tmp_path / "a").write_bytes(torch_bytes(STATE))
    assert stand_in(tmp_path / "a", "a weights file") == "zip"
    assert zip_directory(tmp_path / "a").entries == len(zipfile.ZipFile(tmp_path / "a").namelist())
    assert zip_directory(__file__) is None


def test_a_folder_that_is_not_there_is_an_error_of_the_disk(tmp_path):
    with pytest.raises(OSError):
        save_tensors(STATE, tmp_path / "no folder" / "mine.safetensors")


def test_drawn_weights_leave_the_global_stream_alone():
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
    before = torch.get_rng_state()
    draw_weights(net, 0)
    assert torch.equal(before, torch.get_rng_state())
    assert not net[0].bias.any() and torch.equal(net[1].weight, torch.ones(5))
