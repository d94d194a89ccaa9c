"Hostile outputs, numbers, tables and annotations."

import inspect
import json
import os
import random
import re
import sqlite3
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hostile_files import VALUES, _json_damage, tree, zipped
from hostile_judge import Answer, Case, kind
from hostile_kit import DEVICES, QUICK, TRAIN, Kit, device, drawn, encoded, photographs, put, run
from PIL import Image

from partbook.data.folder import Folder
from partbook.data.sample import collections
from partbook.evaluation.results import append_row, read_rows
from partbook.methods.method import methods

# ----------------------------------------------------------------------------------------- outputs

COMMANDS = ("discover", "segment", "saliency", "evaluate", "unpack")


def command(name: str, ph: Path, out: Any, kit: Kit) -> list:
    "A command that reads the photographs and writes to `out`."
    out = f"--out={out if isinstance(out, str) else os.fspath(out)}"
    return {
        "discover": ["discover", "--data", ph, *QUICK, out],
        "segment": ["segment", kit.model, ph, out],
        "saliency": ["saliency", ph, "--size", 32, "--patches", 8, out],
        "evaluate": ["evaluate", kit.model, "--root", ph, out],
        "unpack": ["unpack", ph.parent / "a.zip", out],
    }[name]


def _written(name: str, out: Path) -> Callable[[Answer], str]:
    "A check that all a command writes is there and can be read."

    def check(answer: Answer) -> str:
        if name == "evaluate":
            return "" if "protocols" in json.loads(out.read_text()) else "no metrics in the file"
        if name == "unpack":
            return "" if (out / "a.txt").read_bytes() == b"1" else "not what the archive holds"
        pictures = [p for p in out.rglob("*.png")]
        for path in pictures:
            with Image.open(path) as image:
                image.load()
        expected = {"discover": 1, "segment": 6, "saliency": 3}[name]
        if len(pictures) < expected:
            return f"{len(pictures)} pictures, not {expected}"
        if name == "discover":
            json.loads((out / "metrics.json").read_text())
        return ""

    return check


USERS = {  # what a user may have in the folder, by the names that results have
    "parts.png": encoded(drawn(9)[0]),
    "metrics.json": b'{"mine": 1}',
    "log.csv": b"name,age\nme,7\n",
    "model/model.json": b'{"mine": 1}',
    "model/model.safetensors": b"mine",
    "p0.png": encoded(drawn(8)[0]),
    "p1_overlay.png": encoded(drawn(7)[0]),
    "saliency.json": b"[1, 2]",
    "a.txt": b"mine",
    "direction.safetensors": b"mine",
    "validation.csv": b"a;b\n1;2\n",
    "p2.png": encoded(drawn(6)[0]),
}


def _own_files(i: int, rng, folder: Path, kit: Kit) -> Case:
    "The folder holds files of the user's by the names of results: they stay."
    name = COMMANDS[i % 5]
    ph = photographs(folder / "ph")
    chosen = list(USERS)[i // 5 % len(USERS)] if i < 60 else str(rng.choice(list(USERS)))
    target = folder / "o" / chosen
    put(target, USERS[chosen])
    out = target if name == "evaluate" else folder / "o"
    check = _written(name, out)
    keeps = (f"o/{chosen}",)
    label = f"{name}, user's {chosen}"
    return Case(label, command(name, ph, out, kit), check=check, writes=("o",), keeps=keeps)


def _among(i: int, rng, folder: Path, kit: Kit) -> Case:
    "Results among the photographs: refused, or never taken for photographs."
    name = COMMANDS[i % 4]
    ph = photographs(folder / "ph", ending=("png", "jpg")[i // 4 % 2])
    link = folder / "link"
    link.symlink_to("ph")
    out = (ph, ph / "o", ph / "a" / "b", link, link / "o", ph / ".." / "ph")[i // 8 % 6]
    out = out / "r.json" if name == "evaluate" else out
    photos = tuple(f"ph/{p.name}" for p in ph.iterdir())

    def check(answer: Answer) -> str:
        count = len(Folder.open(ph))
        return "" if count == 3 else f"afterwards the folder has {count} photographs, not 3"

    label = f"{name} into {os.path.relpath(out, folder)}"
    return Case(label, command(name, ph, out, kit), check=check, writes=("ph",), keeps=photos)


PLACES = (  # (--out, what must come of it)
    ("f", "refused"),
    ("f/x", "refused"),
    ("n" * 300, "refused"),
    ("d/" * 3000, "refused"),
    ("", "refused"),
    ("  ", "refused"),
    ("~/res", "right"),
    ("~nosuchuser/x", "refused"),
    ("a\0b", "refused"),
    ("pipe", "refused"),
    ("null", "refused"),
    ("loop", "refused"),
    ("full/x", "refused"),
    ("full", "refused"),
    (os.fsdecode(b"caf\xe9"), "right"),
    ("-x", "right"),
    ("🦜 ü", "right"),
    ("a/b/c/d", "right"),
    ("with space", "right"),
    ("x/", "right"),
    ("a\nb", "either"),
    ("lost", "either"),
    ("./x/../y", "right"),
    ("$HOME", "right"),
    ("~", "either"),
    ("n" * 250, "either"),
)


def _placed(i: int, rng, folder: Path, kit: Kit) -> Case:
    "Places that cannot be written to, and odd ones that can."
    name = COMMANDS[(i + i // len(PLACES)) % 5]
    ph = photographs(folder / "ph")
    put(folder / "f", "a file of the user's")
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    (folder / "lost").symlink_to("nowhere")
    (folder / "home").mkdir()
    device(folder, "null")
    device(folder, "full")
    put(folder / "a.zip", zipped({"a.txt": b"1"}))
    text, must = PLACES[i % len(PLACES)]
    if name == "evaluate" and text in ("f", "x/", "~", "lost"):
        must = "either"
    home = str(folder / "home")
    real = folder / text.replace("~", home, 1) if text.startswith("~") else folder / text
    top = os.path.normpath(os.path.relpath(real, folder)).split("/")[0] if must != "refused" else ""
    writes = {"refused": (), "either": (top, "nowhere")}.get(must, (top,))
    writes = (*writes, "x") if text == "./x/../y" else writes  # made on the way
    check = _written(name, real) if must == "right" else lambda answer: ""
    label = f"{name} into {text[:24]!r}"
    return Case(label, command(name, ph, text, kit), must=must, check=check, writes=writes)


def _closed(i: int, rng, folder: Path, kit: Kit) -> Case:
    "Folders that a normal user may not write to or enter."
    name = COMMANDS[i % 5]
    ph = photographs(folder / "ph")
    put(folder / "a.zip", zipped({"a.txt": b"1"}))
    (folder / "shut" / "o").mkdir(parents=True)
    out = folder / "shut" / ("o" if i // 5 % 2 else "o/x")
    (folder / "shut" / "o").chmod((0o555, 0)[i // 10 % 2])
    (folder / "shut").chmod((0o555, 0)[i // 5 % 2])
    case = Case(f"{name} into a closed folder", command(name, ph, out, kit), must="refused")
    case.nobody = True
    return case


def _full(i: int, rng, folder: Path, kit: Kit) -> Case:
    "The disk is full: one sentence, nothing half-written, nothing of before lost."
    name = (*COMMANDS, "train", "record", "cache")[i % 8]
    ph = photographs(folder / "ph")
    put(folder / "a.zip", zipped({"a.txt": b"1" * 10_000}))
    words = command(name, ph, folder / "o", kit) if name in COMMANDS else []
    room = (0, 100, 512, 2048)[i // 8 % 4]
    if name == "train":
        words, room = (
            ["discover", "--data", ph, *TRAIN, "--out", folder / "o"],
            (512, 9000)[i // 8 % 2],
        )
    elif name == "record":
        append_row(folder / "r.csv", {"a": 1.0})
        words = ["evaluate", kit.model, "--root", ph, "--record", folder / "r.csv"]
        room = min(room, 512)
    elif name == "cache":
        words = [*command("discover", ph, folder / "o", kit), "--cache", folder / "c"]
    before = (folder / "r.csv").read_bytes() if name == "record" else b""

    def check(answer: Answer) -> str:
        return "" if not before else "a row is said to be there that did not fit"

    writes = ("o", "c") if name != "evaluate" else ("o",)
    must = "either" if name == "unpack" or room > 1000 else "refused"
    label = f"{name}, {room} bytes of room"
    return Case(label, words, must=must, check=check, writes=writes, room=room)


OUTPUTS = (_own_files, _placed, _among, _own_files, _placed, _closed, _among, _placed, _full)


@kind("outputs", 130)
def outputs(index: int, rng, folder: Path, kit: Kit) -> Case:
    put(folder / "a.zip", zipped({"a.txt": b"1"}))
    kit.model  # noqa: B018 - made before the case starts
    make = OUTPUTS[index % len(OUTPUTS)]
    before = sum(OUTPUTS[k % len(OUTPUTS)] is make for k in range(index))
    return make(before, rng, folder, kit)


# ----------------------------------------------------------------------------------------- numbers

NUMBERS = (
    "-1",
    "0",
    "1",
    "2",
    "5",
    "1e3",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "",
    " ",
    "x",
    "٣",
    "３",
    "²",
    "0x10",
    "1_0",
    "+3",
    "007",
    "9" * 30,
    "-" + "9" * 30,
    str(2**31),
    str(2**63),
    str(2**64),
    str(2**70),
    "100000",
    "1,5",
    "None",
    "True",
    "1e999",
    "9" * 5000,
    "½",
    "3 ",
    "--3",
    "[1]",
    "()",
    "{}",
    "1/2",
    "2**3",
    "__import__('os')",
    "é",
    "\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace"),
    "-0",
    "16",
    "255",
    "256",
    "1000000000",
)


def _whole(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _setting(out: Path, name: str, value: Any) -> Callable[[Answer], str]:
    def check(answer: Answer) -> str:
        found = json.loads((out / "metrics.json").read_text())["settings"][name]
        return "" if found == value else f"{name} became {found!r}"

    return check


def _discovers(i: int, rng, folder: Path, kit: Kit) -> Case:
    "--seed, --size, --parts and --steps of a method without training."
    option = ("--seed", "--size", "--parts", "--steps")[i % 4]
    text = NUMBERS[7 * i % len(NUMBERS)]
    number = _whole(text)
    if option == "--steps" and number is not None and number > 300:
        text, number = "3", 3  # one may ask for as many as one likes
    words = ["discover", "--data", kit.photos, "--features", "rgb", "--no-baselines"]
    given = {"--size": 16, "--parts": 3, "--steps": 1}
    given.pop(option, None)
    words += [w for pair in given.items() for w in pair]
    words += [f"{option}={text}", "--out", folder / "o"]
    must = "refused" if number is None or number < 0 else "either"
    small = {"--seed": 2**31, "--size": 257, "--parts": 6, "--steps": 300}[option]
    least = {"--seed": 0, "--size": 16, "--parts": 2, "--steps": 0}[option]
    must = "right" if number is not None and least <= number < small else must
    check = _setting(folder / "o", option[2:], number)
    limit = 2.0 if number is not None and number > 1000 and option == "--size" else None
    return Case(f"{option}={text[:30]}", words, must=must, check=check, writes=("o",), limit=limit)


def _trains(i: int, rng, folder: Path, kit: Kit) -> Case:
    "--checkpoint-every, --workers and --eval-every of a method that trains."
    option = ("--checkpoint-every", "--workers", "--eval-every")[i % 3]
    text = NUMBERS[5 * i % len(NUMBERS)]
    number = _whole(text)
    words = ["discover", "--data", kit.photos, *TRAIN, f"{option}={text}", "--out", folder / "o"]
    must = "refused" if number is None or number < 0 or option == "--eval-every" else "either"
    must = "right" if option == "--eval-every" and number == 0 else must
    must = "refused" if option == "--checkpoint-every" and number == 0 else must

    def check(answer: Answer) -> str:
        name = "model/model.safetensors"
        same = (folder / "o" / name).read_bytes() == (kit.whole / name).read_bytes()
        return "" if same else f"{option} changes the result"

    limit = 4.0 if number is not None and number > 500 and option == "--workers" else None
    label = f"{option}={text[:30]}"
    return Case(label, words, must=must, check=check, writes=("o",), limit=limit)


SLOW = ("steps", "batch_size", "restarts", "iterations", "sample", "cluster", "parts", "size")


def _sets(i: int, rng, folder: Path, kit: Kit) -> Case:
    "--set of any setting of two methods."
    name = ("kmeans", "contrastive")[i % 2]
    known = [f.name for f in fields(methods[name].Settings) if f.name not in SLOW]
    setting = known[i // 2 % len(known)]
    text = str(rng.choice(NUMBERS))
    words = ["discover", "--data", kit.photos, *(TRAIN if i % 2 else QUICK)]
    words = [*words, "--set", f"{setting}={text}", "--out", folder / "o"]
    odd = text in ("nan", "inf", "-inf", "1e999")
    typed = {f.name: f for f in fields(methods[name].Settings)}[setting].type

    def check(answer: Answer) -> str:
        found = json.loads((folder / "o" / "metrics.json").read_text())["settings"][setting]
        finite = not isinstance(found, float) or np.isfinite(found)
        return "" if finite else f"{setting} became {found}"

    must = "refused" if odd and typed in (int, float) else "either"
    label = f"{name}, --set {setting}={text[:30]}"
    return Case(label, words, must=must, check=check, writes=("o",), limit=3.0)


def _looks(i: int, rng, folder: Path, kit: Kit) -> Case:
    "--size and --patches of saliency."
    option, least = (("--size", 16), ("--patches", 4))[i % 2]
    text = NUMBERS[11 * i % len(NUMBERS)]
    number = _whole(text)
    other = ["--patches", 8] if option == "--size" else ["--size", 32]
    words = ["saliency", kit.photos, *other, f"{option}={text}", "--out", folder / "o"]
    must = "refused" if number is None or number < least else "either"

    def check(answer: Answer) -> str:
        names = [f"p{k}.png" for k in range(3)]
        sizes = {Image.open(folder / "o" / n).size for n in names}
        return "" if sizes == {(48, 40)} else f"maps of sizes {sizes}"

    limit = 3.0 if number is not None and number > 999 else None
    label = f"saliency {option}={text[:30]}"
    return Case(label, words, must=must, check=check, writes=("o",), limit=limit)


def _options(i: int, rng, folder: Path, kit: Kit) -> Case:
    "--option of any reader."
    name = ("cub", "celeba", "coco-parts", "aflw", "deepfashion", "pascal", "vehiclepart")[i % 7]
    cls = collections[name]
    own = ("root", "split", "size", "seed")
    known = [k for k in inspect.signature(cls.open).parameters if k not in own] or ["none"]
    option, text = str(rng.choice(known)), str(rng.choice(NUMBERS))
    words = ["data", name, "--root", kit.fixture(name), "--option", f"{option}={text}"]
    return Case(f"{name} --option {option}={text[:30]}", words, limit=3.0)


WORDS = (
    ("--device", "cuda:99"),
    ("--device", ""),
    ("--device", "é"),
    ("--device", "meta"),
    ("--precision", "fp8"),
    ("--foreground", "x"),
    ("--foreground", ""),
    ("--method", ""),
    ("--method", "../kmeans"),
    ("--features", ""),
    ("--features", "é"),
    ("--layers", ","),
    ("--layers", "a,b"),
    ("--option", "="),
    ("--option", "masks"),
    ("--set", "="),
    ("--option", "masks=2"),
    ("--set", "parts=3=4"),
    ("--set", "é=1"),
    ("--data", "\x1b[31m"),
    ("--root", "x"),
    ("--weights", ""),
    ("--cache", ""),
    ("--record", ""),
    ("--seed", "1\n2"),
)


def _words(i: int, rng, folder: Path, kit: Kit) -> Case:
    option, text = WORDS[i % len(WORDS)]
    words = ["discover", "--data", kit.photos, *QUICK, f"{option}={text}", "--out", folder / "o"]
    return Case(f"{option}={text!r}", words, must="refused")


NUMBER_CASES = (
    _discovers,
    _trains,
    _discovers,
    _sets,
    _looks,
    _discovers,
    _options,
    _discovers,
    _words,
)


@kind("numbers", 190)
def numbers(index: int, rng, folder: Path, kit: Kit) -> Case:
    kit.photos, kit.whole  # noqa: B018 - made before the case starts
    make = NUMBER_CASES[index % len(NUMBER_CASES)]
    before = sum(NUMBER_CASES[k % len(NUMBER_CASES)] is make for k in range(index))
    return make(before, rng, folder, kit)


# ------------------------------------------------------------------------------------------ tables


def _csv_damage(raw: bytes, i: int, rng) -> tuple[str, bytes, str]:
    "(label, content, what must come of a further row) of a results file with two rows."
    text = raw.decode()
    head, first, second = text.splitlines()
    deep = f"{head},x\n" + f'{first},"{"[" * 100_000}"\n'
    return (
        ("as it was", raw, "right"),
        ("BOM", b"\xef\xbb\xbf" + raw, "either"),
        ("CRLF", raw.replace(b"\n", b"\r\n"), "right"),
        ("half a line", raw[:-20], "either"),
        ("no last line end", raw[:-1], "right"),
        ("semicolons", raw.replace(b",", b";"), "either"),
        (
            "spreadsheet",
            b"\xef\xbb\xbf" + raw.replace(b",", b";").replace(b"\n", b"\r\n"),
            "either",
        ),
        ("binary", rng.integers(0, 256, 999).astype(np.uint8).tobytes(), "refused"),
        ("empty", b"", "either"),
        ("only a header", f"{head}\n".encode(), "right"),
        ("wide field", f'{head}\n"{"x" * 200_000}",{first}\n'.encode(), "refused"),
        ("open quote", f'{head}\n"{first}\n'.encode(), "refused"),
        ("zero byte", raw.replace(b"0", b"\0", 1), "either"),
        ("twice", b"a,a\n1,2\n", "refused"),
        ("unnamed", b"a,\n1,2\n", "either"),
        ("Latin-1", b"caf\xe9,b\n1,2\n", "refused"),
        ("UTF-16", text.encode("utf-16"), "refused"),
        ("own", b"name,age\nme,7\n", "either"),
        ("blank lines", f"{head}\n\n{first}\n\n".encode(), "either"),
        ("long number", f"{head},x\n{first},{'9' * 5000}\n".encode(), "either"),
        ("infinite", f"{head},x\n{first},1e999\n".encode(), "either"),
        ("deep", deep.encode(), "either"),
        ("one field more", f"{head}\n{first},1\n".encode(), "refused"),
        ("text", b"Dear diary\n", "either"),
        ("web page", b"<html>\n<p>a, b</p>\n", "refused"),
        ("a picture", encoded(drawn(0)[0]), "refused"),
    )[i % 26]


def _lines_of(path: Path) -> list[list[str]]:
    import csv

    csv.field_size_limit(2**30)
    with open(path, encoding="utf-8-sig", newline="") as file:
        return [row for row in csv.reader(file) if row]


def _records(i: int, rng, folder: Path, kit: Kit) -> Case:
    "A further row for a table that something happened to: what was there stays."
    path = folder / "r.csv"
    for k in range(2):
        append_row(path, {"method": "m", "a": k + 0.5}, {"parts": 3}, seed=k, command="c")
    label, content, must = _csv_damage(path.read_bytes(), i, rng)
    put(path, content)
    before = _lines_of(path) if must == "right" else None

    def check(answer: Answer) -> str:
        after = _lines_of(path)
        if before is None:
            return "" if content.split(b"\n")[-1][:30] in path.read_bytes() else "rows are lost"
        if len(after) != len(before) + 1:
            return f"{len(after) - 1} rows, not {len(before)}"
        for old, new in zip(before[1:], after[1:], strict=False):
            found = dict(zip(after[0], new, strict=True))
            if any(found[k] != v for k, v in zip(before[0], old, strict=True)):
                return "an older row is another"
        return ""

    words = ["evaluate", kit.model, "--root", kit.photos, "--record", path]
    call = None if i % 3 == 0 else (lambda: append_row(path, {"method": "m", "a": 2.5}))
    words = words if i % 3 == 0 else None
    label = f"record: {label}"
    return Case(label, words, call, must=must, check=check, writes=("r.csv",), clean=True)


RECORDS = (
    "full",
    "zero",
    "d",
    "",
    "n" * 300,
    "f/x.csv",
    "pipe",
    "~nosuchuser/r.csv",
    "loop",
    "~/r.csv",
    "a/b/r.csv",
    os.fsdecode(b"caf\xe9.csv"),
    "p.png",
    "m.json",
    "null",
)


def _record_places(i: int, rng, folder: Path, kit: Kit) -> Case:
    text = RECORDS[i % len(RECORDS)]
    (folder / "d").mkdir()
    put(folder / "f", "a,b\n1,2\n")
    put(folder / "p.png", encoded(drawn(0)[0]))
    put(folder / "m.json", '{"a": 1}')
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    for name in DEVICES:
        device(folder, name)
    right = text in ("~/r.csv", "a/b/r.csv") or "caf" in text
    words = ["evaluate", kit.model, "--root", kit.photos, f"--record={text}"]
    if i // len(RECORDS) % 2:
        words = [
            "discover",
            "--data",
            kit.photos,
            *QUICK,
            "--out",
            folder / "o",
            f"--record={text}",
        ]
    real = folder / text.replace("~", "home")

    def check(answer: Answer) -> str:
        return "" if len(read_rows(real)) == 1 else "no row"

    writes = ("home", "a", text, "o") if right else ("o",) if "discover" in words else ()
    must = "right" if right else "refused"
    label = f"{words[0]} --record {text[:24]!r}"
    return Case(label, words, must=must, check=check, writes=writes, limit=4.0)


def _maps(folder: Path) -> dict[str, bytes]:
    return {k: v for k, v in tree(folder).items() if k.endswith(".png")}


def _saliency_records(i: int, rng, folder: Path, kit: Kit) -> Case:
    "The record beside maps, or the direction they came from, is damaged; one map lacks."
    ph = photographs(folder / "ph")
    method = ("robust", "component")[i % 2]
    words = ["saliency", ph, "--foreground", method, "--size", 32, "--out", folder / "o"]
    words += ["--patches", 8] if method == "robust" else ["--features", "rgb"]
    assert run(*words) == 0
    expected = _maps(folder / "o")
    put(folder / "o" / "user.png", encoded(drawn(3)[0]))
    path = folder / "o" / "saliency.json"
    record = json.loads(path.read_text())
    if i % 5 == 1 and method == "component":
        direction = folder / "o" / "direction.safetensors"
        label = "direction damaged"
        direction.write_bytes(direction.read_bytes()[: 50 + i])
    elif i % 3 == 0:
        label, content, _ = _json_damage(path.read_text(), i // 3)
        put(path, content)
    else:
        place = ("settings", "files", "command", "versions")[i % 4]
        value = [
            *VALUES,
            ["../../../canary/user.png"],
            [str(kit.folder.parent / "canary" / "user.png")],
            [1],
            ["user.txt"],
            {"size": "x"},
        ][int(rng.integers(len(VALUES) + 5))]
        label = f"{place} = {value!r}"[:50]
        put(path, json.dumps(record | {place: value}))
    (folder / "o" / "p1.png").unlink()
    words += ["--replace"] if i // 2 % 2 else []

    def check(answer: Answer) -> str:
        found = _maps(folder / "o")
        return (
            "" if all(found.get(k) == v for k, v in expected.items()) else "other maps than before"
        )

    keeps = ("o/user.png",)
    return Case(f"saliency.json: {label}", words, check=check, writes=("o",), keeps=keeps)


def _caches(i: int, rng, folder: Path, kit: Kit) -> Case:
    "What is kept in a cache is damaged: it is made again, and the result is the same."
    cache = folder / "c"
    words = ["discover", "--data", kit.photos, *QUICK, "--cache", cache]
    os.environ.pop("PARTBOOK_CACHE", None)
    assert run(*words, "--out", folder / "first") == 0
    os.environ.pop("PARTBOOK_CACHE", None)
    entries = sorted(p for p in cache.rglob("*") if p.is_file())
    entry = entries[int(rng.integers(len(entries)))]
    how = ("cut", "empty", "text", "folder", "other shape", "pickle", "pipe", "link", "NaN")[i % 9]
    content = entry.read_bytes()
    entry.unlink()
    if how == "folder":
        entry.mkdir()
    elif how == "pipe":
        os.mkfifo(entry)
    elif how == "link":
        entry.symlink_to(device(folder, "zero"))
    elif entry.suffix == ".npy" and how in ("other shape", "NaN", "pickle"):
        values = {
            "other shape": np.zeros((3, 5), np.uint8),
            "NaN": np.full((40, 48), np.nan),
            "pickle": np.array([{"a": 1}], dtype=object),
        }[how]
        np.save(entry, values, allow_pickle=True)
    elif how in ("other shape", "NaN"):
        from safetensors.torch import load, save_file

        tensors = load(content)
        save_file(
            {
                k: v.flatten()[:1].clone() if how[0] == "o" else v * torch.nan
                for k, v in tensors.items()
            },
            entry,
        )
    else:
        entry.write_bytes({"cut": content[: len(content) // 2], "empty": b""}.get(how, b"text"))
    name = "model/model.safetensors"
    first = (folder / "first" / name).read_bytes()

    def check(answer: Answer) -> str:
        same = (folder / "o" / name).read_bytes() == first
        return "" if same else "the result is another than without the damage"

    limit = 4.0 if how in ("pipe", "link") else None
    words += ["--out", folder / "o"]
    label = f"cache: {entry.suffix} {how}"
    return Case(label, words, check=check, writes=("o", "c"), limit=limit)


TABLES = (
    _records,
    _records,
    _record_places,
    _saliency_records,
    _records,
    _caches,
    _record_places,
    _saliency_records,
)


@kind("tables", 110)
def tables(index: int, rng, folder: Path, kit: Kit) -> Case:
    kit.photos, kit.model  # noqa: B018 - made before the case starts
    make = TABLES[index % len(TABLES)]
    before = sum(TABLES[k % len(TABLES)] is make for k in range(index))
    return make(before, rng, folder, kit)


# ------------------------------------------------------------------------------------- annotations

FIELD = (
    "nan",
    "inf",
    "-1",
    "0",
    "word",
    "1" * 30,
    "../../x",
    "é",
    "1e308",
    "-0.0",
    "1.5",
    "\t",
    "01",
)


def _text_damage(raw: bytes, rng) -> tuple[str, bytes, str]:
    "(label, content, what must come of it) of a list."
    lines = raw.decode("utf-8", "replace").splitlines()
    at = int(rng.integers(len(lines)))
    words = lines[at].split()
    how = int(rng.integers(15))
    if how == 0:
        return "BOM", b"\xef\xbb\xbf" + raw, "right"
    if how == 1:
        return "CRLF", raw.replace(b"\n", b"\r\n"), "right"
    if how == 2:
        return "blank at the end", raw + b"\n\n", "right"
    if how in (3, 4, 5, 6) and words:
        place, value = int(rng.integers(len(words))), str(rng.choice(FIELD))
        words[place] = value
        lines[at] = " ".join(words)
        label = f"line {at + 1}, field {place + 1} = {value[:12]!r}"
    elif how == 7:
        label = f"line {at + 1} gone"
        lines.pop(at)
    elif how == 8:
        label = f"line {at + 1} twice"
        lines.insert(at, lines[at])
    elif how == 9:
        label = f"line {at + 1} cut"
        lines[at] = lines[at][: len(lines[at]) // 2]
    elif how == 10:
        return "cut", raw[: int(len(raw) * rng.random())], "either"
    elif how == 11:
        return "UTF-16", raw.decode("utf-8", "replace").encode("utf-16"), "either"
    elif how == 12:
        return "binary", rng.integers(0, 256, 300).astype(np.uint8).tobytes(), "either"
    elif how == 13:
        return "empty", b"", "either"
    else:
        label = f"line {at + 1} very long"
        lines[at] += " 1" * 200_000
    return label, ("\n".join(lines) + "\n").encode(), "either"


def _places(value: Any, path: tuple = ()) -> list[tuple]:
    "The places in a nest of lists and dictionaries."
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    found = [path] if path else []
    for key, below in list(inner)[:6]:
        found += _places(below, (*path, key))
    return found


def _nested_damage(raw: bytes, rng) -> tuple[str, bytes, str]:
    "The same of a JSON file."
    if rng.random() < 0.3:
        label, content, must = _json_damage(raw.decode(), int(rng.integers(20)))
        return label, content, "right" if must == "right" else "either"
    record = json.loads(raw)
    places = _places(record)
    place = places[int(rng.integers(len(places)))]
    value = VALUES[int(rng.integers(len(VALUES)))]
    inner = record
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return f"{'.'.join(map(str, place))} = {value!r}"[:60], json.dumps(record).encode(), "either"


def _xml_damage(raw: bytes, rng) -> tuple[str, bytes, str]:
    text = raw.decode()
    laughs = "".join(
        f'<!ENTITY a{k} "{f"&a{k - 1};" * 10 if k else "ha" * 10}">' for k in range(10)
    )
    head = f"<!DOCTYPE x [{laughs}]>"
    outside = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///proc/self/cmdline">]>'
    numbers = list(re.finditer(r">([0-9.]+)<", text))
    one = numbers[int(rng.integers(len(numbers)))]
    tags = list(re.finditer(r"<(\w+)>", text))
    tag = tags[int(rng.integers(len(tags)))][1]
    value = str(rng.choice(FIELD))
    return (
        ("laughs", (head + text.replace(one[1], "&a9;", 1)).encode(), "either"),
        ("outside", (outside + text.replace(one[1], "&a;", 1)).encode(), "either"),
        ("cut", raw[: int(len(raw) * rng.random())], "either"),
        ("empty", b"", "either"),
        ("BOM", b"\xef\xbb\xbf" + raw, "right"),
        ("CRLF", raw.replace(b"\n", b"\r\n"), "right"),
        (f"no {tag}", re.sub(f"</?{tag}>", "", text).encode(), "either"),
        (f"{tag} renamed", text.replace(f"{tag}>", "x>").encode(), "either"),
        (f"{one[1]} = {value[:9]!r}", text.replace(f">{one[1]}<", f">{value}<").encode(), "either"),
        ("deep", (b"<a>" * 50_000), "either"),
        (f"{one[1]} empty", text.replace(f">{one[1]}<", "><").encode(), "either"),
    )[int(rng.integers(11))]


def _binary_damage(raw: bytes, rng) -> tuple[str, bytes, str]:
    "The same of a file of bytes: MATLAB's, a database, a picture."
    how = int(rng.integers(6))
    if how == 0:
        return "cut", raw[: int(len(raw) * rng.random())], "either"
    if how == 1:
        damaged = bytearray(raw)
        for place in rng.integers(0, len(raw), int(rng.integers(1, 20))):
            damaged[place] ^= 1 << int(rng.integers(8))
        return "bits flipped", bytes(damaged), "either"
    if how == 2:
        damaged = bytearray(raw)
        for place in rng.integers(0, min(len(raw), 300), 8):
            damaged[place] = int(rng.integers(256))
        return "head damaged", bytes(damaged), "either"
    if how == 3:
        return (
            "MATLAB 7.3 head",
            b"MATLAB 7.3 MAT-file" + bytes(493) + b"\x89HDF\r\n\x1a\n",
            "either",
        )
    return (("empty", b"", "either"), ("text", b"hello\n" * 50, "either"))[how - 4]


def _database_damage(path: Path, rng) -> str:
    "Change a row or a table of AFLW's database; what was done."
    with sqlite3.connect(path) as base:
        tables = [r[0] for r in base.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        table = tables[int(rng.integers(len(tables)))]
        columns = [r[1] for r in base.execute(f"PRAGMA table_info({table})")]
        column = columns[int(rng.integers(len(columns)))]
        how = int(rng.integers(4))
        if how == 0:
            base.execute(f"DROP TABLE {table}")
            return f"no table {table}"
        if how == 1:
            base.execute(f"DELETE FROM {table}")
            return f"no rows in {table}"
        value = (None, "word", -1, 1e308, "nan", b"\xff", "../../x", 2**62)[int(rng.integers(8))]
        once = f"WHERE rowid = (SELECT min(rowid) FROM {table})" if how == 2 else ""
        try:
            base.execute(f"UPDATE {table} SET {column} = ? {once}", (value,))
        except sqlite3.Error as error:
            return f"unchanged ({error})"
        return f"{table}.{column} = {value!r}"


def _matlab_damage(path: Path, rng) -> str:
    "Write a MATLAB file anew with one variable changed; what was done."
    import scipy.io

    found = {k: v for k, v in scipy.io.loadmat(path).items() if not k.startswith("__")}
    name = sorted(found)[int(rng.integers(len(found)))]
    value = found[name]
    kinds = ("renamed", "empty", "text", "number", "transposed", "NaN", "cell", "nothing")
    how = kinds[int(rng.integers(len(kinds)))]
    changed = {
        "empty": np.zeros((0, 0)),
        "text": "text",
        "number": 1.5,
        "transposed": value.T,
        "NaN": np.full(np.shape(value), np.nan),
        "cell": np.array([[value]], dtype=object),
    }
    if how == "renamed":
        found[name + "x"] = found.pop(name)
    elif how == "nothing":
        found = {"x": 1}
    else:
        found[name] = changed[how]
    scipy.io.savemat(path, found)
    return f"{name} {how}"


def _samples(name: str, root: Path, options: dict) -> list:
    found = collections[name].open(root, "all", size=None, **options)
    found.counts()
    return [found[k] for k in range(min(3, len(found)))]


def _equal(one: Any, two: Any) -> bool:
    if (one.name, one.category) != (two.name, two.category):
        return False
    for field_name in ("image", "mask", "parts", "landmarks", "visible", "box"):
        a, b = getattr(one, field_name, None), getattr(two, field_name, None)
        if (a is None) != (b is None) or a is not None and not torch.equal(a, b):
            return False
    return True


DAMAGES = {".txt": _text_damage, ".json": _nested_damage, ".xml": _xml_damage}
READERS = (
    ("cub", {}),
    ("celeba", {}),
    ("coco-parts", {}),
    ("aflw", {"source": "sqlite"}),
    ("deepfashion", {}),
    ("pascal", {}),
    ("vehiclepart", {}),
    ("aflw", {"source": "aflw-19"}),
    ("aflw", {"source": "recrop"}),
)


@kind("annotations", 130)
def annotations(index: int, rng, folder: Path, kit: Kit) -> Case:
    name, options = READERS[index % len(READERS)]
    below = "recrop" if options.get("source") == "recrop" else ""
    root = kit.fixture(name)
    original = _samples(name, root / below, options)
    chosen = kit.copy(root / below, folder / "data")
    files = sorted(p for p in chosen.rglob("*") if p.is_file())
    suffixes = sorted({p.suffix.lower() for p in files})
    suffix = suffixes[int(rng.integers(len(suffixes)))]
    path = random.Random(int(rng.integers(2**31))).choice(
        [p for p in files if p.suffix.lower() == suffix]
    )
    must, i = "either", index // len(READERS)
    if i % 8 == 7:
        label = ("gone", "a folder", "a pipe", "a loop")[i // 8 % 4]
        path.unlink()
        if label == "a folder":
            path.mkdir()
        elif label == "a pipe":
            os.mkfifo(path)
        elif label == "a loop":
            path.symlink_to(path.name)
    elif suffix == ".sqlite" and rng.random() < 0.7:
        label = _database_damage(path, rng)
    elif suffix == ".mat" and rng.random() < 0.6:
        label = _matlab_damage(path, rng)
    else:
        label, content, must = DAMAGES.get(suffix, _binary_damage)(path.read_bytes(), rng)
        put(path, content)

    def check(answer: Answer) -> str:
        for sample in answer.value:
            for value in (sample.landmarks, sample.box, sample.image):
                if value is not None and not bool(torch.isfinite(value).all()):
                    return f"{sample.name} has numbers that are not finite"
        if must == "right":
            pairs = list(zip(answer.value, original, strict=False))
            same = len(answer.value) == len(original) and all(_equal(a, b) for a, b in pairs)
            return "" if same else "other samples than from the undamaged files"
        return ""

    place = path.relative_to(chosen).as_posix()
    label = f"{name} {options.get('source', '')} {place}: {label}"
    limit = 4.0 if label.endswith(("pipe", "loop")) else None
    if index % 4 == 3 and not options:
        return Case(label, ["data", name, "--root", chosen], must=must, limit=limit)
    call = lambda: _samples(name, chosen, options)  # noqa: E731
    return Case(label, call=call, must=must, check=check, limit=limit)
