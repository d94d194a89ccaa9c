"""MATLAB's files that promise too much: one sentence, little memory, and never a dead program."""

import os
import resource
import struct
import zlib

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from helpers import message

from partbook.core import InputError
from partbook.data.matlab import read_variables

HEAD = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
CELLS, STRUCTURE, OBJECT, TEXT, DOUBLE, FUNCTION = 1, 2, 3, 4, 6, 16


def element(kind: int, content: bytes, size: int | None = None) -> bytes:
    size = len(content) if size is None else size
    return struct.pack("<2L", kind, size) + content + bytes(-len(content) % 8)


def matrix(kind, shape, content=b"", name=b"x", size=None) -> bytes:
    "A variable; `size` is what its tag says, the truth if None."
    about = element(6, struct.pack("<2L", kind, 0)) + element(5, np.array(shape, "<i4").tobytes())
    return element(14, about + element(1, name) + content, size)


def chain(depth: int, size: int | None = None) -> bytes:
    "Lists in lists: all tags and headers first, so that a deep one is made quickly."
    inner = matrix(DOUBLE, [1, 1], element(9, bytes(8)), b"")
    layer = len(matrix(CELLS, [1, 1], b"", b"")) - 8
    links = []
    for i in range(depth):
        below = len(inner) + (depth - 1 - i) * (layer + 8)
        links.append(matrix(CELLS, [1, 1], b"", b"", layer + below if size is None else size))
    links[0] = matrix(CELLS, [1, 1], b"", b"x", struct.unpack("<L", links[0][4:8])[0] + 8)
    return b"".join(links) + inner


def packed(content: bytes) -> bytes:
    squeezed = zlib.compress(content)
    return struct.pack("<2L", 15, len(squeezed)) + squeezed


def zeros(megabytes: int) -> bytes:
    stream = zlib.compressobj(1)
    squeezed = b"".join(stream.compress(bytes(2**20)) for _ in range(megabytes)) + stream.flush()
    return struct.pack("<2L", 15, len(squeezed)) + squeezed


def field_names(*names: str) -> bytes:
    padded = b"".join(name.encode().ljust(8) for name in names)
    return element(5, struct.pack("<l", 8)) + element(1, padded)


HUGE = 10**9
HOSTILE = {
    "deep": (chain(100_000), "nested more than 100 deep"),
    "deep and packed": (packed(chain(100_000)), "nested more than 100 deep"),
    "deep behind small sizes": (chain(100_000, 48), "an element ends too early"),
    "deep behind large sizes": (chain(100_000, 2**31), "an element ends too early"),
    "a function": (matrix(FUNCTION, [1, 1], matrix(TEXT, [0, 0])), "claims|holds a function"),
    "unknown numbers": (matrix(DOUBLE, [1, 1], element(99, bytes(8))), r"unknown kind \(99\)"),
    "no lengths": (matrix(DOUBLE, [], element(9, bytes(8))), "claims other elements"),
    "one length": (matrix(DOUBLE, [1], element(9, bytes(8))), "claims other elements"),
    "a length below zero": (matrix(CELLS, [-1, -1], matrix(TEXT, [0, 0])), "claims other elements"),
    "an object": (matrix(OBJECT, [1, 1], element(1, b"inline")), "holds a function or an object"),
    "cells": (matrix(CELLS, [HUGE, 1]), "claims other elements than it holds"),
    "cells in cells": (matrix(CELLS, [1, 1], matrix(CELLS, [HUGE, HUGE])), "claims other elements"),
    "blank text": (matrix(TEXT, [1, HUGE], element(16, b"")), f"claims {HUGE} numbers"),
    "text": (matrix(TEXT, [HUGE, HUGE], element(16, b"abc")), f"claims {HUGE**2} numbers"),
    "numbers": (matrix(DOUBLE, [HUGE, 3], element(9, bytes(24))), f"claims {3 * HUGE} numbers"),
    "no fields": (matrix(STRUCTURE, [HUGE, 1], field_names()), f"claims {HUGE} numbers"),
    "fields": (matrix(STRUCTURE, [HUGE, 1], field_names("a", "b")), "claims other elements"),
    "zeros": (zeros(1000), "holds more than 256 MB"),
    "zeros, twice": (zeros(100) * 3, "holds more than 256 MB"),
    "a cut stream": (packed(matrix(TEXT, [1, 1], element(16, b"a")))[:-9], "incomplete|early"),
    "a short element": (
        element(14, struct.pack("<2L", 9 << 16 | 6, 0) * 3),
        "short element is too",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_promises_too_much_ends_in_a_sentence(name, tmp_path):
    content, expected = HOSTILE[name]
    path = tmp_path / "a.mat"
    path.write_bytes(HEAD + content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=expected) as error:
        read_variables(path, ["x"])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700_000  # kB
    assert message(error).startswith(f"{path} cannot be read as a MATLAB file (")


def test_version_four_may_claim_much_too(tmp_path):
    for kind, rows in ((0, 2**31 - 1), (10, 2**30), (1, 2**31 - 1)):
        path = tmp_path / "a.mat"
        path.write_bytes(struct.pack("<5l", kind, rows, 2**30, 0, 2) + b"x\0" + bytes(64))
        with pytest.raises(InputError) as error:
            read_variables(path, ["x"])
        message(error)


def test_lists_as_deep_as_people_make_them_are_read(tmp_path):
    value = np.arange(6).reshape(2, 3)
    for _ in range(30):
        outer = np.empty((1, 1), dtype=object)
        outer[0, 0] = value
        value = outer
    for compressed in (False, True):
        scipy.io.savemat(tmp_path / "a.mat", {"x": value}, do_compression=compressed)
        found = read_variables(tmp_path / "a.mat", ["x"])["x"]
        for _ in range(30):
            found = found[0, 0]
        assert found.tolist() == [[0, 1, 2], [3, 4, 5]]


VALUES = {
    "empty": np.zeros((0, 0)),
    "complex": np.array([[1 + 2j, 3]]),
    "single": np.ones((2, 3, 4), "f4"),
    "bytes": np.arange(9, dtype="i1").reshape(3, 3),
    "large": np.array([[2**60]], "u8"),
    "truth": np.array([[True, False]]),
    "text": np.array(["Größe"]),
}


@pytest.mark.parametrize("compressed", [False, True])
def test_plain_values_come_back_as_they_were(compressed, tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, VALUES | {"unasked": np.ones((100, 100))}, do_compression=compressed)
    found = read_variables(path, list(VALUES))
    for name, value in VALUES.items():
        assert np.array_equal(found[name], value) and found[name].shape == value.shape
    assert found["single"].dtype == np.float32 and list(found) == list(VALUES)


def test_structures_come_back_as_they_were(tmp_path):
    kinds = [("class", "O"), ("mask", "O")]
    mask = np.random.default_rng(0).random((50, 60)) > 0.5
    objects = np.array([("horse", mask), ("cow", mask[:3])], dtype=kinds)
    scipy.io.savemat(tmp_path / "a.mat", {"x": {"objects": objects, "none": {}}})
    found = read_variables(tmp_path / "a.mat", ["x"])["x"][0, 0]["objects"]
    assert found.shape == (1, 2) and found[0, 1]["class"].item() == "cow"
    assert found[0, 0]["mask"].sum() == mask.sum() and found[0, 1]["mask"].shape == (3, 60)


def test_a_sparse_matrix_is_called_one(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"x": scipy.sparse.eye_array(5, format="csc"), "y": 1})
    with pytest.raises(InputError, match="holds a sparse matrix, not a plain one") as error:
        read_variables(tmp_path / "a.mat", ["x"])
    message(error)
    assert read_variables(tmp_path / "a.mat", ["y"])["y"].tolist() == [[1]]


@pytest.mark.parametrize("name", ["pipe.mat", "folder.mat", os.fsdecode(b"caf\xe9.mat"), "x" * 300])
def test_what_is_no_file_is_no_matlab_file(name, tmp_path):
    if name == "pipe.mat":
        os.mkfifo(tmp_path / name)
    if name == "folder.mat":
        (tmp_path / name).mkdir()
    if "caf" in name:
        (tmp_path / name).write_bytes(b"\xff")
    with pytest.raises(InputError) as error:
        read_variables(tmp_path / name, ["x"])
    message(error).encode("ascii")


@pytest.mark.parametrize("compressed", [False, True])
def test_any_bytes_end_in_a_sentence_or_in_arrays(compressed, tmp_path):
    path = tmp_path / "a.mat"
    cells = np.array([np.arange(3), "a", np.eye(2)], dtype=object)
    value = {"cells": cells, "text": "bird", "fields": {"a": 1, "b": {"c": np.eye(4)}}}
    scipy.io.savemat(path, {"x": value}, do_compression=compressed)
    whole = path.read_bytes()
    noise = np.random.default_rng(1)
    for _ in range(600):
        content = bytearray(whole)
        for _ in range(int(noise.integers(1, 4))):
            value = noise.choice([0, 1, 2, 3, 4, 5, 9, 14, 15, 255, noise.integers(256)])
            content[int(noise.integers(120, len(content)))] = int(value)
        path.write_bytes(content)
        try:
            read_variables(path, ["x"])
        except InputError as error:
            assert "\n" not in str(error)
