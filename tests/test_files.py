"""Paths as people type them, and files that are written whole, marked and held by one run."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import message
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from partbook import files
from partbook.core import InputError
from partbook.files import (
    append_text,
    as_path,
    is_ours,
    kind_of,
    left_behind,
    only_run,
    read_json,
    read_text,
    regular_file,
    shown,
    sweep,
    temporary_prefix,
    write_atomic,
    write_json,
    write_text,
)

NOBODY = 2**22 + 7  # above the largest number that Linux gives a process


def tree(folder: Path) -> str:
    "A hash of all names and contents below a folder."
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(os.fsencode(path.relative_to(folder)))
        found.update(path.read_bytes() if path.is_file() else b"/")
    return found.hexdigest()


@pytest.mark.parametrize("typed", ["", " ", "\t", "\n"])
def test_an_empty_path_is_not_the_working_folder(typed):
    with pytest.raises(InputError) as refusal:
        as_path(typed, "--root")
    assert message(refusal).startswith("--root is empty")


def test_home_is_found(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert as_path("~/res") == Path("/somewhere/res")
    assert as_path("~") == Path("/somewhere")
    assert as_path("a~b/~c") == Path("a~b/~c")
    with pytest.raises(InputError, match="no such user"):
        as_path("~nobody-of-that-name/x")
    with pytest.raises(InputError, match="zero byte"):
        as_path("a\0b")


def test_names_of_any_bytes_can_be_printed():
    names = [b"caf\xe9", b"br\xfcck", b"\xff\xfe.jpg", "ä".encode(), b"a\nb"]
    printed = [shown(os.fsdecode(name)) for name in names]
    assert printed == [r"caf\xe9", r"br\xfcck", r"\xff\xfe.jpg", "ä", r"a\nb"]
    assert shown("\ud83d") == r"\ud83d"  # half a letter, from a JSON file
    assert all(text.encode("utf-8", "strict") for text in printed)


def test_what_is_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "astray").symlink_to(tmp_path / "gone")
    assert kind_of(tmp_path / "pipe") == "other"
    assert kind_of("/dev/null") == "other"
    assert kind_of(tmp_path / "astray") == kind_of(tmp_path / "loop") == "nothing"
    for bad in (tmp_path / ("x" * 300), "a\0b"):
        with pytest.raises(InputError):
            kind_of(bad)
    for bad, word in (
        (tmp_path / "pipe", "pipe"),
        ("/dev/zero", "device"),
        (tmp_path, "folder"),
        (tmp_path / "no", "no file"),
    ):
        with pytest.raises(InputError, match=word):
            regular_file(bad)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter everywhere")
def test_a_closed_folder_is_a_sentence(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(InputError, match="cannot be looked at"):
        kind_of(tmp_path / "closed" / "x")


def test_text_with_and_without_a_mark(tmp_path):
    for i, start in enumerate((b"", b"\xef\xbb\xbf")):
        path = tmp_path / str(i)
        path.write_bytes(start + '{"ä": 1}'.encode())
        assert read_text(path) == '{"ä": 1}'
        assert read_json(path) == {"ä": 1}
    path.write_bytes('{"ä": 1}'.encode("latin-1"))
    with pytest.raises(InputError, match="not a JSON file in UTF-8"):
        read_json(path)
    for text in ("[" * 10**5, '{"a":' * 10**5):
        path.write_text(text)
        with pytest.raises(InputError):
            read_json(path)


def test_odd_names_survive_a_record(tmp_path):
    odd = [os.fsdecode(b"caf\xe9"), "ä", "\U0001f426", 'a"\\b']
    path = write_json(tmp_path / "a.json", {name: name for name in odd})
    assert read_json(path) == {name: name for name in odd}
    path.read_bytes().decode("utf-8", "strict")
    assert "\U0001f426" in path.read_text()  # letters stay letters


def test_nothing_half_written_stays(tmp_path, monkeypatch):
    write_text(tmp_path / "a.txt", "old")
    before = tree(tmp_path)

    def fails(path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left"):
        write_atomic(tmp_path / "a.txt", fails)
    monkeypatch.setattr(
        files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(30, "Read-only file system"))
    )
    with pytest.raises(InputError, match="Read-only"):
        write_text(tmp_path / "b.txt", "new")
    assert tree(tmp_path) == before


def test_an_append_is_all_or_nothing(tmp_path):
    path = tmp_path / "log.csv"
    append_text(path, "step,L\n")
    code = (
        "import resource,sys; from partbook.files import append_text; "
        "resource.setrlimit(resource.RLIMIT_FSIZE,(100,100)); append_text(sys.argv[1], 'x'*500)"
    )
    found = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert (
        found.stderr.splitlines()[-1].startswith("partbook.core.InputError")
        and "cannot be written" in found.stderr
    )
    assert path.read_text() == "step,L\n"


def test_what_the_dead_left_is_swept(tmp_path):
    here = temporary_prefix()
    dead = here.replace(f"-{os.getpid()}-", f"-{NOBODY}-")
    elsewhere = dead.replace(files.HOST, "00000000" if files.HOST != "00000000" else "11111111")
    living = here.replace(f"-{os.getpid()}-", f"-{os.getppid()}-")
    names = {
        dead + "a.png": True,
        dead + "b": True,
        elsewhere + "c.png": False,
        living + "d.png": False,
        ".partbook-x": False,
        "parts.png": False,
    }
    assert {name: left_behind(name) for name in names} == names
    for name in names:
        (tmp_path / name).write_text("x")
    (tmp_path / "deep" / (dead + "folder")).mkdir(parents=True)
    (tmp_path / "deep" / (dead + "folder") / "x").write_text("x")
    assert len(sweep(tmp_path)) == 2
    assert len(sweep(tmp_path, below=True)) == 1
    left = sorted(p.name for p in tmp_path.rglob("*"))
    assert left == sorted([*(n for n, gone in names.items() if not gone), "deep"])


def test_ours_and_yours(tmp_path):
    import torch
    from safetensors.torch import save_file

    mark = PngInfo()
    mark.add_text("Software", "partbook 0.1.0")
    other = PngInfo()
    other.add_text("Software", "gimp")
    picture = Image.new("P", (8, 8))
    picture.save(tmp_path / "ours.png", pnginfo=mark)
    picture.save(tmp_path / "other.png", pnginfo=other)
    picture.save(tmp_path / "plain.png")
    picture.convert("RGB").save(tmp_path / "photo.jpg")
    write_json(tmp_path / "ours.json", {"versions": {"partbook": "0.1"}})
    for name, text in {
        "list": "[]",
        "half": "{",
        "own": '{"versions": {"node": 1}}',
        "odd": '{"versions": 3}',
    }.items():
        (tmp_path / f"{name}.json").write_text(text)
    (tmp_path / "ours.csv").write_text("nmi,versions.partbook\n1,2\n")
    (tmp_path / "oursteps.csv").write_text("step,L,gradient\n0,1,2\n")
    (tmp_path / "own.csv").write_text("day,km\n1,2\n")
    (tmp_path / "sheet.csv").write_text("step;L\n0;1\n")
    save_file(
        {"a": torch.zeros(3)}, tmp_path / "ours.safetensors", metadata={"made by": "partbook"}
    )
    save_file({"a": torch.zeros(3)}, tmp_path / "own.safetensors")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    assert {p.stem for p in tmp_path.iterdir() if is_ours(p)} == {"ours", "oursteps"}
    assert sum(is_ours(p) for p in tmp_path.iterdir()) == 5


HOLD = (
    "import sys, time\n"
    "from partbook.files import only_run\n"
    "with only_run(sys.argv[1], 'partbook first'):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(60)\n"
)


def test_a_killed_run_gives_its_folder_back(tmp_path):
    folder = tmp_path / "run"
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert first.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=f"process {first.pid}: partbook first"):
        with only_run(folder):
            pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.stdout.close()
    with only_run(folder, "second"):
        assert "second" in (folder / files.LOCK).read_text()
    assert not list(folder.iterdir())


def test_many_runs_one_folder(tmp_path):
    "Of processes that ask at once, one at a time gets the folder, even if its lock is removed."
    code = (
        "import sys, os\n"
        "from partbook.core import InputError\n"
        "from partbook.files import only_run\n"
        "won = 0\n"
        "for _ in range(200):\n"
        "    try:\n"
        "        with only_run(sys.argv[1]):\n"
        "            os.open(sys.argv[1] + '/busy', os.O_CREAT | os.O_EXCL)\n"
        "            os.unlink(sys.argv[1] + '/busy')\n"
        "            won += 1\n"
        "    except InputError:\n"
        "        pass\n"
        "print(won)"
    )
    tmp_path.joinpath("keep").touch()
    start = time.monotonic()
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    said = [run.communicate() for run in runs]
    assert not [errors for _, errors in said if errors]
    assert sum(int(won) for won, _ in said) > 100
    assert sorted(p.name for p in tmp_path.iterdir()) == ["keep"] and time.monotonic() - start < 60


def test_json_numbers_are_plain(tmp_path):
    path = write_json(tmp_path / "a.json", {"path": Path("x"), "pair": (1, 2)})
    assert json.loads(path.read_text()) == {"path": "x", "pair": [1, 2]}


def test_only_files_are_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    (tmp_path / "astray.json").symlink_to(tmp_path / "gone")
    for name in ("pipe", "folder", "loop", "astray"):
        path = tmp_path / f"{name}.json"
        before = os.lstat(path)
        with pytest.raises(InputError):
            write_json(path, {})
        assert os.lstat(path) == before
