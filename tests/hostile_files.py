"Hostile archives, weights, model folders and checkpoints."

import io
import json
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hostile_judge import Answer, Case, kind
from hostile_kit import TRAIN, Kit, device, put, run
from PIL import Image
from safetensors.torch import load_file, save, save_file

from partbook.weights import load_into, load_tensors

# ---------------------------------------------------------------------------------------- archives

Files = dict[str, bytes]


def _files(rng, top: str = "data") -> Files:
    "A few files as a data set has them."
    noise = rng.integers(0, 256, 20_000).astype(np.uint8).tobytes()
    return {
        f"{top}/a.txt": b"a\n",
        f"{top}/images/b.jpg": noise,
        f"{top}/images/c.jpg": noise[::-1],
        f"{top}/empty.txt": b"",
    }


def zipped(files: Files, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files: Files, mode: str = "w", form: int = tarfile.PAX_FORMAT, odd=()) -> bytes:
    "A tar; `odd` holds further headers, with their contents or None."
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=form) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info, content in odd:
            archive.addfile(info, None if content is None else io.BytesIO(content))
    return buffer.getvalue()


def _patched(content: bytes, local: int, central: int, value: int, size: str = "<H") -> bytes:
    "A zip whose headers all have one field changed."
    damaged = bytearray(content)
    for signature, place in ((b"PK\3\4", local), (b"PK\1\2", central)):
        at = content.find(signature)
        while at >= 0:
            struct.pack_into(size, damaged, at + place, value)
            at = content.find(signature, at + 4)
    return bytes(damaged)


def _entry(name: str, sort: bytes, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = sort
    info.linkname = link
    info.size = size
    return info


def _good_archives(rng, canary: Path) -> list[tuple]:
    "(label, name, content): whole archives of a kind that is read."
    f = _files(rng)
    odd = {"data/ein Bild.jpg": b"1", "data/Ünïcode/🦜.jpg": b"2", f"data/{'n' * 200}.jpg": b"3"}
    deep = {"/".join(f"d{k}" for k in range(40)) + "/x.txt": b"deep"}
    two = {"data/a.txt": b"1", "data/A.TXT": b"2"}
    many = {f"data/{k % 50}/{k}.txt": b"" for k in range(3000)}
    return [
        ("zip", "a.zip", zipped(f), f),
        ("stored zip", "a.zip", zipped(f, zipfile.ZIP_STORED), f),
        ("bzip2 zip", "a.zip", zipped(f, zipfile.ZIP_BZIP2), f),
        ("LZMA zip", "a.zip", zipped(f, zipfile.ZIP_LZMA), f),
        ("tar", "a.tar", tarred(f), f),
        ("tar.gz", "a.tar.gz", tarred(f, "w:gz"), f),
        ("tgz", "a.tgz", tarred(f, "w:gz"), f),
        ("tar.bz2", "a.tar.bz2", tarred(f, "w:bz2"), f),
        ("tar.xz", "a.tar.xz", tarred(f, "w:xz"), f),
        ("old tar", "a.tar", tarred(f, form=tarfile.USTAR_FORMAT), f),
        ("GNU tar", "a.tar", tarred(odd, form=tarfile.GNU_FORMAT), odd),
        ("tar called zip", "a.zip", tarred(f), f),
        ("zip called tar", "a.tar", zipped(f), f),
        ("odd names", "a.zip", zipped(odd), odd),
        ("deep", "a.tar", tarred(deep), deep),
        ("names of other case", "a.zip", zipped(two), two),
        ("many files", "a.zip", zipped(many), many),
        ("self-extracting", "a.zip", b"#!/bin/sh\n" * 9 + zipped(f), f),
        ("./ before names", "a.tar", tarred({f"./{k}": v for k, v in f.items()}), f),
    ]


OUT = r"^(?!.*damaged)"  # a whole archive is not called damaged


def _strange_archives(rng, canary: Path) -> list[tuple]:
    "(label, name, content, what the refusal has to say): nothing of them may be unpacked."
    f = _files(rng)
    whole = zipped(f)
    return [
        ("password", "a.zip", _patched(whole, 6, 8, 1), OUT + ".*password"),
        ("deflate64", "a.zip", _patched(whole, 8, 10, 9), OUT),
        ("PPMd", "a.zip", _patched(whole, 8, 10, 98), OUT),
        ("method 77", "a.zip", _patched(whole, 8, 10, 77), OUT),
        ("7z", "img.7z.001", b"7z\xbc\xaf\x27\x1c" + bytes(200), OUT + ".*(7z|7-zip)"),
        ("RAR", "a.rar", b"Rar!\x1a\x07\x01\0" + bytes(99), "rar"),
        ("web page", "a.zip", b"<!DOCTYPE html><html>Virus scan warning</html>", "web page|html"),
        ("text", "a.zip", b"Quota exceeded\nTry again later\n" * 3, ""),
        ("long text", "a.tar", b"line\n" * 9000, ""),
        ("empty file", "a.zip", b"", "empty|0 bytes"),
        ("picture", "a.zip", b"\x89PNG\r\n\x1a\n" + bytes(300), ""),
        ("one file in gzip", "a.gz", __import__("gzip").compress(b"text" * 99), ""),
        ("part of a split zip", "a.z01", whole[: len(whole) // 2], ""),
        ("second half", "a.zip.002", whole[len(whole) // 2 :], ""),
        ("no entries", "a.zip", zipped({}), "empty"),
        ("no entries", "a.tar", tarred({}), ""),
        ("only folders", "a.zip", zipped({"d/": b""}), ""),
        ("pickle", "a.tar", pickle.dumps([1] * 999), ""),
        ("claims 1 TB", "a.zip", _patched(zipped({"a": b"1" * 99}), 22, 24, 2**32 - 2, "<I"), ""),
        (
            "tar claims 1 TB",
            "a.tar",
            tarred({}, odd=[(_entry("a", tarfile.REGTYPE), b"")])[:124]
            + b"10000000000\0"
            + bytes(2000),
            "",
        ),
        ("LFS pointer", "a.tar.gz", b"version https://git-lfs.github.com/spec/v1\n", ""),
    ]


def _escaping_archives(rng, canary: Path) -> list[tuple]:
    "(label, name, content): entries that point elsewhere, or are no files."
    names = (
        "../x.txt",
        "data/../../x.txt",
        f"{canary}/x.txt",
        f"/{canary}/y.txt",
        "C:/x.txt",
        "..\\..\\x.txt",
        "..",
        "data/../../../../canary/user.txt",
        f"//{canary}/z",
        "./../x",
        "C:x.txt",
        "\\\\host\\x",
    )
    found = []
    for name in names:
        files = {**_files(rng), name: b"out"}
        found += [
            (f"zip {name[-20:]!r}", "a.zip", zipped(files)),
            (f"tar {name[-20:]!r}", "a.tar", tarred(files)),
        ]
    links = {
        "link out": [(_entry("l", tarfile.SYMTYPE, "../../.."), None)],
        "link to the canary": [
            (_entry("l", tarfile.SYMTYPE, str(canary)), None),
            (_entry("l/x.txt", tarfile.REGTYPE, size=1), b"x"),
        ],
        "hard link": [(_entry("h", tarfile.LNKTYPE, str(canary / "user.txt")), None)],
        "pipe": [(_entry("p", tarfile.FIFOTYPE), None)],
        "device": [(_entry("d", tarfile.CHRTYPE), None)],
        "link inside": [(_entry("l", tarfile.SYMTYPE, "data/a.txt"), None)],
        "twice": [(_entry("data/a.txt", tarfile.REGTYPE, size=1), b"x")],
        "file and folder": [(_entry("data/a.txt/b", tarfile.REGTYPE, size=1), b"x")],
    }
    found += [(f"tar {k}", "a.tar", tarred(_files(rng), odd=v)) for k, v in links.items()]
    info = zipfile.ZipInfo("data/l")
    info.external_attr = 0o120777 << 16
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        buffer = io.BytesIO(zipped(_files(rng)))
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr(info, "../../../canary/user.txt")
        found.append(("zip link", "a.zip", buffer.getvalue()))
        buffer = io.BytesIO(zipped(_files(rng)))
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr("data/a.txt", b"again")
        found.append(("zip twice", "a.zip", buffer.getvalue()))
    return found


def tree(folder: Path) -> Files:
    "All files below a folder."
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def _unpacks(out: Path, expected: Files) -> Callable[[Answer], str]:
    def check(answer: Answer) -> str:
        found = tree(out)
        if sorted(found) != sorted(expected):
            odd = sorted({*found} ^ {*expected})
            return f"{len(found)} files, not {len(expected)}; {odd[:1]}"
        wrong = [k for k in expected if found[k] != expected[k]]
        return f"the content of {wrong[0]} is another" if wrong else ""

    return check


def _bomb(rng, i: int) -> tuple[str, str, bytes]:
    "Much from little."
    if i % 3 == 0:
        return "zip of 600 MB of zeros", "a.zip", _zeros(600)
    if i % 3 == 1:
        return "tar.gz of 600 MB of zeros", "a.tar.gz", _zeros_tar(600)
    content = zipped({"a": bytes(2**20)})
    at = content.index(b"PK\1\2")
    end = content.index(b"PK\5\6")
    record = content[at:end]
    count = 700
    tail = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, len(record) * count, at, 0)
    names = b"".join(record[:46] + b"%c" % (33 + k % 90) + record[47:] for k in range(count))
    return "700 entries on one content", "a.zip", content[:at] + names + tail


_ZEROS: dict[tuple, bytes] = {}


def _zeros(megabytes: int) -> bytes:
    if ("zip", megabytes) not in _ZEROS:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            with archive.open("zeros.bin", "w") as file:
                for _ in range(megabytes):
                    file.write(bytes(2**20))
        _ZEROS["zip", megabytes] = buffer.getvalue()
    return _ZEROS["zip", megabytes]


def _zeros_tar(megabytes: int) -> bytes:
    if ("tar", megabytes) not in _ZEROS:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
            info = _entry("zeros.bin", tarfile.REGTYPE, size=megabytes * 2**20)
            archive.addfile(info, open("/dev/zero", "rb"))
        _ZEROS["tar", megabytes] = buffer.getvalue()
    return _ZEROS["tar", megabytes]


def _good(i: int, rng, folder: Path, kit: Kit) -> Case:
    choices = _good_archives(rng, folder)
    label, name, content, expected = choices[i % len(choices)]
    words = ["unpack", put(folder / name, content), "--out", folder / "o"]
    check = _unpacks(folder / "o", expected)
    return Case(label, words, must="right", check=check, writes=("o",))


def _strange(i: int, rng, folder: Path, kit: Kit) -> Case:
    choices = _strange_archives(rng, folder)
    label, name, content, says = choices[i % len(choices)]
    words = ["unpack", put(folder / name, content), "--out", folder / "o"]
    must = "either" if label in ("only folders", "claims 1 TB") else "refused"
    content_of = _unpacks(folder / "o", {"a": b"1" * 99} if must == "either" else {})
    check = content_of if label == "claims 1 TB" else lambda answer: ""
    return Case(label, words, must=must, check=check, says=says, writes=("o",), clean=True)


def _escaping(i: int, rng, folder: Path, kit: Kit) -> Case:
    choices = _escaping_archives(rng, kit.folder.parent / "canary")
    label, name, content = choices[i % len(choices)]
    words = ["unpack", put(folder / name, content), "--out", folder / "o"]
    return Case(label, words, must="refused", writes=("o",), clean=True)


def _cut(i: int, rng, folder: Path, kit: Kit) -> Case:
    "Not all of an archive, or with flipped bits: refused, unless all of it is right."
    files = _files(rng)
    name = ("a.zip", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.tar")[i % 5]
    content = (
        zipped(files) if name == "a.zip" else tarred(files, f"w:{name[6:]}" if name[6:] else "w")
    )
    if i // 5 % 2 == 0 or name == "a.tar":  # a plain tar has no checksum of its contents
        content = content[: int(len(content) * rng.uniform(0.02, 0.75))]
        must, label = "refused", f"{name}, cut"
    else:
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), int(rng.integers(1, 9))):
            damaged[place] ^= 1 << int(rng.integers(8))
        content, must, label = bytes(damaged), "either", f"{name}, bits flipped"

    def check(answer: Answer) -> str:
        found = sorted(tree(folder / "o").values())
        return "" if found == sorted(files.values()) else "damaged contents are unpacked"

    words = ["unpack", put(folder / name, content), "--out", folder / "o"]
    return Case(label, words, must=must, check=check, writes=("o",), clean=True)


def _two(i: int, rng, folder: Path, kit: Kit) -> Case:
    "Two archives at once, or one into a folder that holds something."
    one, two = {"VOC/a/1.jpg": b"1"}, {"VOC/b/2.jpg": b"2"}
    differs, same = {"VOC/a/1.jpg": b"other"}, {"VOC/a/1.jpg": b"1", "VOC/c.txt": b"c"}
    what = (
        "merge",
        "differ",
        "agree",
        "second damaged",
        "second is text",
        "merge into",
        "would overwrite",
        "same twice",
        "file where a folder is",
        "second missing",
    )[i % 10]
    put(folder / "one.tar", tarred(one))
    second = {
        "merge": tarred(two),
        "differ": tarred(differs),
        "agree": tarred(same),
        "second damaged": tarred(two, "w:gz")[:60],
        "second is text": b"text\n" * 99,
        "same twice": tarred(one),
    }.get(what, tarred(two))
    put(folder / "two.tar", second) if what != "second missing" else None
    words = ["unpack", folder / "one.tar", folder / "two.tar", "--out", folder / "o"]
    all_of_it, must = one | two, "either"
    keeps: tuple[str, ...] = ()
    if what == "agree":
        all_of_it = one | same
    elif what == "same twice":
        all_of_it = one
    elif what in ("differ", "second damaged", "second is text", "second missing"):
        must = "refused"
    elif what in ("merge into", "would overwrite", "file where a folder is"):
        put(folder / "o" / "VOC" / "user.txt", "mine")
        keeps = ("o/VOC/user.txt",)
        all_of_it = one | {"VOC/user.txt": b"mine"}
        words.pop(2)
        if what != "merge into":
            must = "refused"
            inside = "VOC/user.txt" if what == "would overwrite" else "VOC/user.txt/x"
            put(folder / "one.tar", tarred({**one, inside: b"not mine"}))
    check = _unpacks(folder / "o", all_of_it)
    return Case(
        f"two: {what}", words, must=must, check=check, writes=("o",), keeps=keeps, clean=True
    )


def _no_archive(i: int, rng, folder: Path, kit: Kit) -> Case:
    (folder / "d.zip").mkdir()
    os.mkfifo(folder / "p.zip")
    put(folder / "f", "file")
    good = put(folder / "a.zip", zipped({"a.txt": b"1"}))
    (folder / "lost.zip").symlink_to("nowhere")
    pairs = (
        ("d.zip", "o"),
        ("p.zip", "o"),
        ("lost.zip", "o"),
        ("", "o"),
        (device(folder, "zero"), "o"),
        ("n" * 300, "o"),
        (good, "f"),
        (good, "f/x"),
        (good, ""),
        (good, "n" * 300),
        ("nowhere.zip", "o"),
        ("~nosuchuser/a.zip", "o"),
        (good, device(folder, "null")),
        (good, "p.zip"),
    )
    archive, out = pairs[i % len(pairs)]
    label = f"{Path(archive).name[:20]!r} to {Path(out).name[:20]!r}"
    return Case(label, ["unpack", archive, "--out", out], must="refused", limit=4.0)


def _bombs(i: int, rng, folder: Path, kit: Kit) -> Case:
    label, name, content = _bomb(rng, i)
    words = ["unpack", put(folder / name, content), "--out", folder / "o"]
    return Case(label, words, must="refused", writes=("o",), clean=True)


ARCHIVES = (
    _good,
    _strange,
    _escaping,
    _cut,
    _strange,
    _escaping,
    _two,
    _cut,
    _escaping,
    _good,
    _no_archive,
    _strange,
    _escaping,
    _cut,
    _two,
)


@kind("archives", 150)
def archives(index: int, rng, folder: Path, kit: Kit) -> Case:
    if index in (40, 80, 120):
        return _bombs(index // 40 - 1, rng, folder, kit)
    make = ARCHIVES[index % len(ARCHIVES)]
    before = sum(ARCHIVES[k % len(ARCHIVES)] is make for k in range(index))
    return make(before, rng, folder, kit)


# ----------------------------------------------------------------------------------------- weights


def network() -> torch.nn.Module:
    "A small network, whose weights are put into files."
    torch.manual_seed(0)
    layers = OrderedDict(
        a=torch.nn.Linear(3, 4), b=torch.nn.BatchNorm1d(4), c=torch.nn.Linear(4, 2)
    )
    return torch.nn.Sequential(layers)


def _saved(content: Any, **how) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)
    return buffer.getvalue()


def _good_weights(state: dict) -> list[tuple]:
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    double = {k: v.double() if v.is_floating_point() else v for k, v in state.items()}
    strided = {k: v.repeat_interleave(2, 0)[::2] if v.ndim else v for k, v in state.items()}
    no_count = {k: v for k, v in state.items() if "num_batches" not in k}
    return [
        ("plain.pth", _saved(state)),
        ("old.pth", _saved(state, _use_new_zipfile_serialization=False)),
        ("plain.pt", _saved(OrderedDict(state))),
        ("wrapped.pth", _saved({"state_dict": state, "epoch": 3})),
        ("model.pth", _saved({"model": state})),
        ("LOUD.PTH", _saved(state)),
        ("parallel.pth", _saved({f"module.{k}": v for k, v in state.items()})),
        ("half.pth", _saved(half)),
        ("double.pth", _saved(double)),
        ("strided.pth", _saved(strided)),
        ("old counters.pth", _saved(no_count)),
        ("plain.safetensors", save(state)),
        ("half.safetensors", save(half)),
        ("Loud.SafeTensors", save(state)),
        ("noted.safetensors", save(state, {"made by": "somebody"})),
        (
            "parameters.pth",
            _saved(
                {k: torch.nn.Parameter(v) if v.is_floating_point() else v for k, v in state.items()}
            ),
        ),
        ("deflated.pth", _deflated(_saved(state))),
    ]


def _deflated(content: bytes) -> bytes:
    "The same zip, compressed."
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return zipped({n: archive.read(n) for n in archive.namelist()})


def _odd_tensors(state: dict) -> list[tuple]:
    "Files that are whole and hold no weights of this network."
    w = state["a.weight"]

    def other(value, name="a.weight"):
        return _saved({**state, name: value})

    few = {k: v for k, v in state.items() if k != "c.bias"}
    return [
        ("missing", ".pth", _saved(few)),
        ("extra", ".pth", _saved({**state, "d": w})),
        ("shape", ".pth", other(w.T)),
        ("scalar", ".pth", other(torch.tensor(1.0))),
        ("no elements", ".pth", other(w[:0])),
        ("integers", ".pth", other(w.to(torch.int8))),
        ("booleans", ".pth", other(w > 0)),
        ("complex", ".pth", other(w.to(torch.complex64))),
        ("NaN", ".pth", other(w * torch.nan)),
        ("infinite", ".pth", other(w / 0)),
        ("float8", ".pth", other(w.to(torch.float8_e4m3fn))),
        ("float8 e5m2", ".pth", other(w.to(torch.float8_e5m2))),
        ("sparse", ".pth", other(w.to_sparse())),
        ("CSR", ".pth", other(_quietly(w.to_sparse_csr))),
        ("meta", ".pth", other(w.to("meta"))),
        ("quantised", ".pth", other(_quietly(torch.quantize_per_tensor, w, 0.1, 0, torch.qint8))),
        ("text", ".pth", other("text")),
        ("none", ".pth", other(None)),
        ("a list", ".pth", _saved(list(state.values()))),
        ("a tensor", ".pth", _saved(w)),
        ("a number", ".pth", _saved(3)),
        ("nothing", ".pth", _saved({})),
        ("numbers as names", ".pth", _saved(dict(enumerate(state.values())))),
        ("nested", ".pth", _saved({"state_dict": {"model": state}})),
        ("network", ".pth", _saved(network())),
        ("array", ".pth", other(w.numpy())),
        ("float8", ".safetensors", save({**state, "a.weight": w.to(torch.float8_e4m3fn)})),
        ("missing", ".safetensors", save(few)),
        ("NaN", ".safetensors", save({**state, "a.weight": w * torch.nan})),
        ("shape", ".safetensors", save({**state, "a.weight": w.T.contiguous()})),
        ("integers", ".safetensors", save({**state, "a.weight": w.to(torch.int32)})),
        ("booleans", ".safetensors", save({**state, "a.weight": w > 0})),
        ("complex", ".safetensors", save({**state, "a.weight": w.to(torch.complex64)})),
        ("float counter", ".pth", other(torch.tensor(0.5), "b.num_batches_tracked")),
        ("conjugate", ".pth", other(torch.conj(w.to(torch.complex64)))),
    ]


def _quietly(call: Callable, *words):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*words)


def _pickles(canary: Path) -> list[tuple[str, bytes]]:
    "Pickles that would touch a file of the canary's, and some that would eat memory or never end."
    target = str(canary / "RAN")
    shell = f"touch {target}"
    s = b"X" + struct.pack("<I", len(shell)) + shell.encode()
    short = shell.encode()

    def with_(module: bytes, name: bytes, argument: bytes = s) -> bytes:
        return b"\x80\x02c" + module + b"\n" + name + b"\n" + argument + b"\x85R."

    class Reduces:
        def __reduce__(self):
            return os.system, (shell,)

    class Builds:
        def __reduce__(self):
            return OrderedDict, (), None, None, iter([("a", Reduces())])

    nested = b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b"."
    laughs = (
        b"\x80\x02]q\0"
        + b"".join(b"]q%c" % (k + 1) + b"(" + b"h%c" % k * 10 + b"e" for k in range(30))
        + b"."
    )
    return [
        ("os.system", with_(b"os", b"system")),
        ("posix.system", with_(b"posix", b"system")),
        ("eval", with_(b"builtins", b"eval", b"V__import__('os').system('" + short + b"')\n")),
        ("exec", with_(b"builtins", b"exec", b"Vopen('" + target.encode() + b"','w')\n")),
        ("subprocess", with_(b"subprocess", b"getoutput")),
        ("runpy", with_(b"runpy", b"run_path")),
        ("open", with_(b"builtins", b"open")),
        ("STACK_GLOBAL", b"\x80\x04\x8c\x02os\x8c\x06system\x93" + s + b"\x85R."),
        ("INST", b"(S'" + short + b"'\nios\nsystem\n."),
        ("OBJ", b"\x80\x02(cos\nsystem\n" + s + b"o."),
        ("NEWOBJ", b"\x80\x02cos\nsystem\n" + s + b"\x85\x81."),
        ("NEWOBJ_EX", b"\x80\x04cos\nsystem\n" + s + b"\x85}\x92."),
        ("dotted", b"\x80\x04\x8c\x05torch\x8c\x0eserialization.os.system\x93" + s + b"\x85R."),
        ("torch.load", with_(b"torch", b"load")),
        ("hub", with_(b"torch.hub", b"load")),
        ("numpy", with_(b"numpy.testing._private.utils", b"runstring")),
        ("pip", with_(b"pip", b"main")),
        ("pty", with_(b"pty", b"spawn")),
        ("reduce", pickle.dumps(Reduces(), 2)),
        ("items", pickle.dumps(Builds(), 2)),
        ("extension", b"\x80\x02\x82\x01."),
        ("persistent", b"Pos.system\n."),
        (
            "BUILD",
            b"\x80\x02ccollections\nOrderedDict\n)R}X\x01\0\0\0a"
            + b"cos\nsystem\n"
            + s
            + b"\x85Rsb.",
        ),
        ("nested", nested),
        ("laughs", laughs),
        ("text", b"hello\n"),
        ("empty", b""),
        ("claims much", b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x."),
        ("claims more", b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"."),
        ("long", b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"."),
        ("memo", b"\x80\x02r" + struct.pack("<I", 2**32 - 1) + b"."),
        ("stop", b"."),
        ("array", b"\x80\x02cnumpy\nzeros\nJ" + struct.pack("<i", 2**31 - 1) + b"\x85R."),
        (
            "bytearray",
            b"\x80\x02cbuiltins\nbytearray\nJ" + struct.pack("<i", 2**31 - 1) + b"\x85R.",
        ),
    ]


def _contained(content: bytes, how: int) -> tuple[str, bytes]:
    "A pickle as a file of PyTorch's: raw, in a zip, in a tar, after the old header."
    if how == 0:
        return "raw", content
    if how == 1:
        files = {
            "archive/data.pkl": content,
            "archive/version": b"3\n",
            "archive/byteorder": b"little",
        }
        return "zip", zipped(files, zipfile.ZIP_STORED)
    if how == 2:
        return "tar", tarred({"pickle": content, "storages": content, "tensors": content})
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    return "old", head + pickle.dumps({"little_endian": True}, 2) + content


def _header(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


def _bad_safetensors(state: dict) -> list[tuple[str, bytes]]:
    whole = save(state)

    def one(**how) -> bytes:
        entry = {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 48]} | how
        return _header(json.dumps({"a.weight": entry}).encode()) + bytes(48)

    return [
        ("length of 2**63", _header(b"{}", 2**63)),
        ("length of 2**40", _header(b"{}", 2**40)),
        ("length beyond", _header(b"{}", 3000)),
        ("no JSON", _header(b"nothing") + bytes(48)),
        ("nested", _header(b"[" * 100_000 + b"]" * 100_000)),
        ("a list", _header(b"[]")),
        ("nothing", _header(b"{}")),
        ("offsets beyond", one(data_offsets=[0, 4800])),
        ("offsets turned", one(data_offsets=[48, 0])),
        ("negative", one(data_offsets=[-1, 47])),
        ("no such type", one(dtype="F31")),
        ("huge shape", one(shape=[2**40, 2**40])),
        ("negative shape", one(shape=[-4, -3])),
        ("shape of text", one(shape=["4", "3"])),
        ("other size", one(shape=[5, 3])),
        ("no shape", one(shape=None)),
        ("cut", whole[:-5]),
        ("cut head", whole[:30]),
        ("short", whole[:5]),
        ("a tail", whole + b"x"),
        ("notes of numbers", _header(b'{"__metadata__":{"a":1}}')),
        ("Latin-1", _header(b'{"\xe9":1}')),
        (
            "twice",
            _header(
                b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
            )
            + bytes(4),
        ),
        ("a pickle", pickle.dumps({"a": 1})),
        ("a PyTorch file", _saved(state)),
    ]


def _damaged_weights(state: dict, rng) -> list[tuple[str, str, bytes]]:
    whole, noise = _saved(state), rng.integers(0, 256, 3000).astype(np.uint8).tobytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        parts = {n: archive.read(n) for n in archive.namelist()}
    lacking = {k: v for k, v in parts.items() if not k.endswith("data/0")}
    short = {k: v[:4] if k.endswith("data/0") else v for k, v in parts.items()}
    stored = zipfile.ZIP_STORED
    found = [
        ("cut", ".pth", whole[: int(len(whole) * rng.uniform(0.1, 0.9))]),
        ("noise", ".pth", noise),
        ("noise", ".safetensors", noise),
        ("noise", ".pt", b"PK\3\4" + noise),
        ("web page", ".pth", b"<!DOCTYPE html><html></html>"),
        ("empty", ".pth", b""),
        (
            "LFS pointer",
            ".pth",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n",
        ),
        ("LFS pointer", ".safetensors", b"version https://git-lfs.github.com/spec/v1\n"),
        ("text", ".pt", b"a,b,c\n1,2,3\n"),
        ("a part lacks", ".pth", zipped(lacking, stored)),
        ("a part is short", ".pth", zipped(short, stored)),
        ("another zip", ".pth", zipped({"a": b"1"})),
        ("ending", ".bin", whole),
        ("ending", "", whole),
        ("ending", ".npz", whole),
        ("empty", ".safetensors", b""),
        ("tar", ".pth", tarred({"a": b"1"})),
        ("JSON", ".safetensors", b'{"a": 1}'),
        ("picture", ".pth", b"\x89PNG\r\n\x1a\n" + noise),
    ]
    return found


def _read_into(path: Path) -> dict[str, torch.Tensor]:
    net = torch.nn.Sequential(OrderedDict((k, m) for k, m in network().named_children()))
    for value in net.state_dict().values():
        value.zero_()
    return load_into(net, load_tensors(path), path).state_dict()


def _same_weights(answer: Answer) -> str:
    expected = network().state_dict()
    for name, value in expected.items():
        found = answer.value[name]
        if value.is_floating_point() and not torch.allclose(found, value, atol=2e-3):
            return f"{name} is not what the file holds"
    return ""


def _weights_bomb() -> bytes:
    "A deflated PyTorch file of about a megabyte that holds 1.2 GB of zeros."
    if "weights" not in _ZEROS:
        whole = _saved({"a.weight": torch.zeros(1)})
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            parts = {n: archive.read(n) for n in archive.namelist()}
        size = 300 * 2**20
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, content in parts.items():
                if name.endswith("data.pkl"):  # the number of elements, twice: of storage and shape
                    content = content.replace(b"K\x01tq", b"J" + struct.pack("<i", size) + b"tq")
                    content = content.replace(
                        b"K\x01\x85q", b"J" + struct.pack("<i", size) + b"\x85q"
                    )
                if not name.endswith("data/0"):
                    archive.writestr(name, content)
                    continue
                with archive.open(name, "w") as file:
                    for _ in range(4 * size // 2**20):
                        file.write(bytes(2**20))
        _ZEROS["weights"] = buffer.getvalue()
    return _ZEROS["weights"]


def _no_file(i: int, folder: Path) -> tuple[str, Path]:
    (folder / "d.pth").mkdir()
    os.mkfifo(folder / "p.pth")
    (folder / "zero.pth").symlink_to(device(folder, "zero"))
    (folder / "loop.pth").symlink_to("loop.pth")
    (folder / "full.safetensors").symlink_to(device(folder, "full"))
    names = (
        "d.pth",
        "p.pth",
        "zero.pth",
        "loop.pth",
        "full.safetensors",
        "nowhere.pth",
        "",
        "n" * 300 + ".pth",
        os.fsdecode(b"caf\xe9.pth"),
        "d.pth/x.pth",
    )
    return f"path {names[i % len(names)][:20]!r}", folder / names[i % len(names)]


@kind("weights", 130)
def weights(index: int, rng, folder: Path, kit: Kit) -> Case:
    state, i = network().state_dict(), index // 8
    sort = index % 8
    must, limit = "refused", None
    if sort == 0:
        choices = _good_weights(state)
        name, content = choices[i % len(choices)]
        must = "either" if name.startswith("deflated") else "right"
    elif sort in (1, 5):
        choices = _odd_tensors(state)
        label, ending, content = choices[(2 * i + (sort == 5)) % len(choices)]
        name = label + ending
        must = "either" if label in ("no elements", "float counter") else must
    elif sort in (2, 3, 6):
        choices = _pickles(kit.folder.parent / "canary")
        label, content = choices[(3 * i + (2, 3, 6).index(sort)) % len(choices)]
        how, content = _contained(content, int(rng.integers(4)))
        name = f"{label}, {how}.pth"
        limit = 4.0 if label in ("laughs", "nested", "array", "bytearray", "memo", "long") else None
    elif sort == 4:
        label, content = _bad_safetensors(state)[i % 25]
        name = label.replace("*", "") + ".safetensors"
        must = "either" if label == "notes of numbers" else must
    else:
        choices = _damaged_weights(state, rng)
        label, ending, content = choices[i % len(choices)]
        name = label + ending
    if index in (31, 95):
        name, content, limit = "1.2 GB of zeros.pth", _weights_bomb(), 6.0
    path = put(folder / name, content)
    if index % 24 in (15, 23):
        name, path = _no_file(index // 12, folder)
        must, limit = "refused", 4.0
    if must == "refused" and index % 3 == 0 and "zeros" not in name:
        words = ["discover", "--data", kit.photos, "--weights", path, "--out", "o"]
        return Case(name, words, must=must, limit=limit)
    return Case(name, call=partial(_read_into, path), must=must, check=_same_weights, limit=limit)


# ----------------------------------------------------------------------------------- model folders

VALUES = [
    None,
    "",
    "x",
    -1,
    0,
    1.5,
    float("inf"),
    float("nan"),
    [],
    {},
    [1],
    {"a": 1},
    True,
    10**30,
    "../../x",
    [["x"]],
    "é\n",
    2**63,
    "0",
    "None",
    20.5,
]


def _fields(record: dict, path: tuple = ()) -> list[tuple]:
    "The places of all values in a JSON object."
    found = []
    for key, value in record.items():
        found.append((*path, key))
        if isinstance(value, dict):
            found += _fields(value, (*path, key))
    return found


def _set(record: dict, path: tuple, value: Any, gone: bool = False) -> dict:
    copy = json.loads(json.dumps(record))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    if gone:
        inner.pop(path[-1])
    else:
        inner[path[-1]] = value
    return copy


def _json_damage(text: str, i: int) -> tuple[str, bytes, str]:
    "(label, content, what must come of it) of a whole JSON file."
    deep = '{"a":' * 100_000 + "1" + "}" * 100_000
    raw = text.encode()
    return (
        ("BOM", b"\xef\xbb\xbf" + raw, "right"),
        ("CRLF", raw.replace(b"\n", b"\r\n"), "right"),
        ("UTF-16", text.encode("utf-16"), "refused"),
        ("empty", b"", "refused"),
        ("cut", raw[: len(raw) // 2], "refused"),
        ("a list", b"[" + raw + b"]", "refused"),
        ("null", b"null", "refused"),
        ("text", b"hello", "refused"),
        ("number", b"3", "refused"),
        ("nested", deep.encode(), "refused"),
        ("binary", bytes(range(256)), "refused"),
        ("long number", b'{"format": ' + b"1" * 5000 + b"}", "refused"),
        ("web page", b"<html>", "refused"),
        ("NUL", raw + b"\0", "refused"),
        ("twice", raw + raw, "refused"),
        ("Latin-1", b'{"\xe9": 1}', "refused"),
        ("one line", json.dumps(json.loads(text)).encode(), "right"),
        ("a lone surrogate", b'"\\ud800"', "refused"),
        ("nested list", b"[" * 100_000, "refused"),
        ("extra", b'{"zzz": 1, ' + raw[1:], "either"),
    )[i % 20]


def _labels(kit: Kit) -> dict[str, np.ndarray]:
    out = kit.folder / "labels"
    if not out.exists():
        assert run("segment", kit.model, kit.photos, "--out", out) == 0
    return {p.name: np.asarray(Image.open(p)) for p in out.glob("*.png")}


def _labelled(out: Path, kit: Kit) -> Callable[[Answer], str]:
    expected = _labels(kit)

    def check(answer: Answer) -> str:
        for name, values in expected.items():
            if not np.array_equal(np.asarray(Image.open(out / name)), values):
                return f"{name} is labelled otherwise than by the undamaged model"
        return ""

    return check


def _tensor_damage(path: Path, i: int, rng) -> str:
    "Damage a file of tensors in place; what was done."
    whole = path.read_bytes()
    tensors = load_file(path)
    name = sorted(k for k, v in tensors.items() if v.is_floating_point())[0]
    value = tensors[name]
    changed = {
        "NaN": value * torch.nan,
        "infinite": value / 0,
        "flat": value.flatten() if value.ndim > 1 else value[None],
        "integers": value.long(),
        "empty": value[:0] if value.ndim else value[None][:0],
        "float8": value.to(torch.float8_e4m3fn),
    }
    what = (*changed, "cut", "noise", "gone", "text", "renamed", "folder", "pipe", "extra")[i % 14]
    path.unlink()
    if what in changed:
        save_file({**tensors, name: changed[what]}, path)
    elif what == "cut":
        path.write_bytes(whole[: int(len(whole) * rng.uniform(0.1, 0.95))])
    elif what == "noise":
        path.write_bytes(rng.integers(0, 256, 999).astype(np.uint8).tobytes())
    elif what == "text":
        path.write_text("tensors")
    elif what == "renamed":
        save_file({("other" if k == name else k): v for k, v in tensors.items()}, path)
    elif what == "extra":
        save_file({**tensors, "other": value.clone()}, path)
    elif what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    return f"{name} {what}"


@kind("models", 110)
def models(index: int, rng, folder: Path, kit: Kit) -> Case:
    model = kit.copy(kit.model, folder / "m")
    path = model / "model.json"
    record = json.loads(path.read_text())
    words = ["segment", model, kit.photos, "--out", folder / "o"]
    check, must, limit = _labelled(folder / "o", kit), "either", None
    if index % 5 < 3:
        fields = [f for f in _fields(record) if f[0] != "versions" or len(f) == 1]
        i = index // 5 * 3 + index % 5
        place = fields[i % len(fields)]
        value = VALUES[int(rng.integers(len(VALUES)))]
        gone = i // len(fields) % 4 == 3
        if place[0] in ("format", "method") or place == ("settings",):
            must = "refused"
        if place[-1] in ("size", "seed", "parts") and not gone:
            must = "refused" if value not in (0, True, None, 2**63, 10**30) else "either"
            limit = 3.0
        label = f"{'.'.join(place)} {'missing' if gone else '= ' + repr(value)[:30]}"
        changed = _set(record, place, value, gone)
        put(path, json.dumps(changed))
        facts = changed.get("facts")
        known = not isinstance(facts, dict) or "collection" in facts  # else birds are drawn: slow
        if gone and place[0] == "settings":  # an older version wrote it: the default is taken
            check = lambda answer: ""  # noqa: E731
        if known and (place[0] == "facts" or index % 10 == 0):
            words = ["evaluate", model, "--root", kit.photos]
            check = lambda answer: "" if "parts_alive" in answer.out else "no metrics"  # noqa: E731
    elif index % 5 == 3:
        label, content, must = _json_damage(path.read_text(), index // 5)
        put(path, content)
    else:
        label = _tensor_damage(model / "model.safetensors", index // 5, rng)
        must = "refused"
    limit = 4.0 if "pipe" in label else limit
    return Case(f"model: {label}", words, must=must, check=check, writes=("o",), limit=limit)


# ------------------------------------------------------------------------------------- checkpoints


def _equal_to_whole(out: Path, kit: Kit, rows: int) -> Callable[[Answer], str]:
    "A check that training went on as if nothing had been; of the log, its last rows."

    def check(answer: Answer) -> str:
        name = "model/model.safetensors"
        if (out / name).read_bytes() != (kit.whole / name).read_bytes():
            return "the model is another than that of the undisturbed run"
        found = (out / "log.csv").read_text().splitlines()[-rows:]
        if found != (kit.whole / "log.csv").read_text().splitlines()[-rows:]:
            return "the log is another than that of the undisturbed run"
        return ""

    return check


def _state_damage(path: Path, i: int, kit: Kit) -> str:
    "Change what a checkpoint's tensors say; what was done."
    tensors = load_file(path)
    moments = sorted(k for k in tensors if k.startswith("optimiser."))
    first = next(k for k in moments if not k.endswith(".step"))
    what = (
        "no optimiser",
        "a moment lacks",
        "NaN moment",
        "moment of another shape",
        "no step",
        "steps of another run",
        "later state",
        "infinite moment",
        "unknown parameter",
        "a step of NaN",
    )[i % 10]
    if what == "no optimiser":
        tensors = {k: v for k, v in tensors.items() if k not in moments}
    elif what == "a moment lacks":
        tensors.pop(first)
    elif what in ("NaN moment", "infinite moment"):
        tensors[first] = (
            tensors[first] * torch.nan if what[0] == "N" else tensors[first] + torch.inf
        )
    elif what == "moment of another shape":
        tensors[first] = tensors[first].flatten()[:1].clone()
    elif what == "no step":
        tensors = {k: v for k, v in tensors.items() if not k.endswith(".step")}
    elif what in ("steps of another run", "a step of NaN"):
        tensors |= {
            k: v * torch.nan if "NaN" in what else v + 7
            for k, v in tensors.items()
            if k.endswith(".step") and k in moments
        }
    elif what == "later state":
        tensors = load_file(next((kit.whole / "checkpoint").glob("*.safetensors")))
    else:
        tensors["optimiser.9999.exp_avg"] = tensors[first].clone()
    save_file(tensors, path)
    return what


def _log_damage(path: Path, i: int) -> tuple[str, str]:
    "Change log.csv as an accident or a spreadsheet would; what was done and what must come of it."
    raw = path.read_bytes()
    changed = (
        (
            "saved by a spreadsheet",
            b"\xef\xbb\xbf" + raw.replace(b",", b";").replace(b"\n", b"\r\n"),
        ),
        ("BOM", b"\xef\xbb\xbf" + raw),
        ("CRLF", raw.replace(b"\n", b"\r\n")),
        ("half a line", raw[:-9]),
        ("binary", bytes(range(256))),
        ("empty", b""),
        ("NaN", raw.replace(b"0.", b"nan", 1)),
        ("words", raw.replace(b"\n0,", b"\nzero,")),
        ("own", b"name,age\nme,7\n"),
        ("UTF-16", raw.decode().encode("utf-16")),
        ("only a header", raw.split(b"\n")[0] + b"\n"),
        ("wide", b"x" * 500_000),
        ("Latin-1", raw.replace(b"step", b"st\xe9p")),
        ("quotes", raw.replace(b"step", b'"step')),
        (
            "rows turned",
            b"\n".join([raw.split(b"\n")[0], *reversed(raw.split(b"\n")[1:-1])]) + b"\n",
        ),
        ("steps missing", b"\n".join([raw.split(b"\n")[0], *raw.split(b"\n")[2:]])),
    )
    label, content = changed[i % 16]
    path.write_bytes(content)
    return f"log.csv: {label}", "either"


@kind("checkpoints", 80)
def checkpoints(index: int, rng, folder: Path, kit: Kit) -> Case:
    kit.whole  # noqa: B018 - made before the case starts
    out = kit.copy(kit.half, folder / "o")
    path = out / "checkpoint" / "checkpoint.json"
    record = json.loads(path.read_text())
    state = out / "checkpoint" / record["state"]
    must, i = "either", index // 4
    if index % 4 == 0:
        fields = _fields(record)
        place = fields[i % len(fields)]
        value = VALUES[int(rng.integers(len(VALUES)))]
        label = f"{'.'.join(place)} = {value!r}"[:60]
        inner = record
        for key in place:
            inner = inner[key]
        vital = place[0] in ("step", "state", "settings") and value != inner  # True is 1.0
        must = "refused" if vital else must
        put(path, json.dumps(_set(record, place, value)))
    elif index % 4 == 1:
        if i % 3 == 0:
            label, must = _log_damage(out / "log.csv", i // 3)
        elif i % 3 == 1:
            label, content, must = _json_damage(path.read_text(), i // 3)
            put(path, content)
        else:
            label, value, must = (
                ("step 1.0", {"step": 2.0}, "either"),
                ("step beyond", {"step": 10**9}, "refused"),
                ("another step", {"step": 3}, "refused"),
                ("step 0", {"step": 0}, "refused"),
                ("state outside", {"state": "../../x.safetensors"}, "refused"),
                ("state of a model", {"state": "../model.safetensors"}, "refused"),
                ("more pictures", {"pictures": 9}, "either"),
            )[i // 3 % 7]
            put(folder / "x.safetensors", state.read_bytes())
            put(path, json.dumps(record | value))
    elif index % 4 == 2:
        label, must = _state_damage(state, i, kit), "refused"
    else:
        label, must = _tensor_damage(state, i, rng), "refused"
        must = "either" if "extra" in label else must
    words = ["discover", "--data", kit.photos, *TRAIN, "--out", out, "--resume"]
    check = _equal_to_whole(out, kit, 2 if "log.csv" in label else 5)
    keeps = ("o/log.csv",) if label == "log.csv: own" else ()
    limit = 4.0 if "pipe" in label else None
    label = f"checkpoint: {label}"
    return Case(label, words, must=must, check=check, writes=("o",), keeps=keeps, limit=limit)
