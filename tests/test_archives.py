"""Archives as people have them: what each is called, what is unpacked, what is not touched."""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import message

from partbook.core import InputError
from partbook.data import archives
from partbook.data.archives import entries, read_size, safe_place, unpack, unpack_all
from partbook.files import HOST

FILES = {"img/a.jpg": b"x" * 3000, "img/b.jpg": b"y" * 3000, "list.txt": b"a.jpg 1\nb.jpg 2\n"}
DEAD = 2**22 + 1  # no process has this number


def zipped(path: Path, files=FILES, method=zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, files=FILES, mode="w", **options) -> Path:
    with tarfile.open(path, mode, **options) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def patched(path: Path, local: int, central: int, change) -> Path:
    "Change each header of a .zip: `change(bytes, place)`."
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", local), (b"PK\1\2", central)):
        at = content.find(signature)
        while at >= 0:
            change(content, at + offset)
            at = content.find(signature, at + 4)
    path.write_bytes(content)
    return path


def with_method(path: Path, number: int) -> Path:
    def change(content, at):
        content[at : at + 2] = struct.pack("<H", number)

    return patched(zipped(path), 8, 10, change)


def with_flag(path: Path, flag: int, files=FILES) -> Path:
    def change(content, at):
        value = struct.unpack("<H", content[at : at + 2])[0]
        content[at : at + 2] = struct.pack("<H", value | flag)

    return patched(zipped(path, files), 6, 8, change)


def tree(folder: Path) -> dict[str, str]:
    "Files below a folder and the beginnings of their hashes."
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            found[os.fsencode(path.relative_to(folder)).decode("latin-1")] = digest
    return found


def hashes(files=FILES) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest()[:16] for name, content in files.items()}


def refusal(archives_, into, **options) -> str:
    "The one sentence of a refusal, after which nothing is where it was not before."
    before = tree(into)
    was_there = into.exists()
    with pytest.raises(InputError) as error:
        unpack_all(archives_, into, **options)
    assert tree(into) == before and into.exists() == was_there
    if was_there:
        assert not [p for p in into.iterdir() if p.name.startswith(".partbook")]
    return message(error)


CAUSES = {  # file: how to make it, what is said of it
    "password.zip": (lambda p: with_flag(p, 1), "is protected by a password"),
    "strong.zip": (lambda p: with_flag(p, 0x41), "is protected by a password"),
    "aes.zip": (lambda p: with_method(p, 99), "is protected by a password"),
    "nine.zip": (lambda p: with_method(p, 9), "compressed by deflate64"),
    "zstd.zip": (lambda p: with_method(p, 93), "compressed by zstandard"),
    "ppmd.zip": (lambda p: with_method(p, 98), "compressed by PPMd"),
    "odd.zip": (lambda p: with_method(p, 77), "compressed by method 77"),
    "img.7z": (lambda p: p.write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(90)), "is a 7z archive"),
    "img.7z.001": (lambda p: p.write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(90)), "several pieces"),
    "img.7z.002": (lambda p: p.write_bytes(bytes(range(1, 250))), "several pieces"),
    "renamed.zip": (lambda p: p.write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(90)), "is a 7z archive"),
    "old.rar": (lambda p: p.write_bytes(b"Rar!\x1a\x07\x01\x00" + bytes(90)), "is a rar archive"),
    "voc.zip.001": (lambda p: p.write_bytes(zipped(p).read_bytes()[:200]), "several pieces"),
    "voc.z01": (lambda p: p.write_bytes(b"PK\7\x08" + zipped(p).read_bytes()[:90]), "several piec"),
    "cub.tgz.aa": (lambda p: p.write_bytes(tarred(p, mode="w:gz").read_bytes()[:90]), "several"),
    "part.tar.zst": (lambda p: p.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(90)), "is a zstd archive"),
    "page.zip": (lambda p: p.write_bytes(b"\n<!DOCTYPE html><html>"), "is a web page"),
    "page.tgz": (lambda p: p.write_bytes(b"<html><title>Google Drive"), "is a web page"),
    "xhtml.zip": (lambda p: p.write_bytes(b'<?xml version="1.0"?><html xmlns='), "is a web page"),
    "lfs.zip": (lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid"), "LFS"),
    "empty.zip": (lambda p: p.write_bytes(b""), "is empty (0 bytes)"),
    "zeros.tar": (lambda p: p.write_bytes(bytes(10240)), "empty .tar, or a download"),
    "none.tgz": (lambda p: tarred(p, {}, mode="w:gz"), "is empty"),
    "none.zip": (lambda p: zipped(p, {}), "is empty"),
    "words.zip": (lambda p: p.write_text("Zugriff verweigert: Schlüssel"), "is a text"),
    "error.zip": (lambda p: p.write_text('{"message": "Not Found"}'), "is a text"),
    "photo.zip": (lambda p: p.write_bytes(b"\xff\xd8\xff\xe0" + bytes(90)), "is a JPEG file"),
    "one.gz": (lambda p: p.write_bytes(gzip.compress(b"landmarks")), "run gunzip"),
    "one.xz": (lambda p: p.write_bytes(lzma.compress(b"landmarks")), "run unxz"),
    "one.bz2": (lambda p: p.write_bytes(bz2.compress(b"landmarks" * 200)), "run bunzip2"),
}


@pytest.mark.parametrize("name", CAUSES)
def test_each_cause_is_called_what_it_is(name, tmp_path):
    make, expected = CAUSES[name]
    make(tmp_path / name)
    said = refusal([tmp_path / name], tmp_path / "new" / "deep")
    assert expected in said and "damaged" not in said and str(tmp_path / name) in said
    assert len(said) < 420


@pytest.mark.parametrize("name", ["last.zip", "voc.zip"])
def test_the_last_piece_of_a_split_zip_is_known_by_its_number(name, tmp_path):
    content = bytearray(zipped(tmp_path / name).read_bytes())
    content[content.rfind(b"PK\5\6") + 4] = 3
    (tmp_path / name).write_bytes(content[50:])
    said = refusal([tmp_path / name], tmp_path / "new")
    assert "one of several pieces" in said and f"zip -s 0 {name}" in said


def damaged_crc(path):
    content = zipped(path, method=zipfile.ZIP_STORED).read_bytes()
    path.write_bytes(content.replace(b"xxxxx", b"xxzxx", 1))


def cut(make, count):
    return lambda path: path.write_bytes(make(path).read_bytes()[:count])


NOISE = {"img/a.bin": np.random.default_rng(0).bytes(9000)}
DAMAGES = {
    "crc.zip": (damaged_crc, "Bad CRC-32 for file 'img/a.jpg'"),
    "cut.zip": (cut(zipped, 120), "it ends too early, after 120 bytes"),
    "cut.tar": (cut(tarred, 2000), "it ends too early, after 2000 bytes"),
    "cut.tgz": (cut(lambda p: tarred(p, mode="w:gz"), 100), "it ends too early, after 100 bytes"),
    "cut.xz": (cut(lambda p: tarred(p, NOISE, mode="w:xz"), 5000), "it ends too early, after 5000"),
    "cut.bz2": (cut(lambda p: tarred(p, NOISE, mode="w:bz2"), 5000), "it ends too early, after 5"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_only_what_is_damaged_is_to_be_fetched_again(name, tmp_path):
    make, expected = DAMAGES[name]
    make(tmp_path / name)
    said = refusal([tmp_path / name], tmp_path / "new")
    assert "is damaged" in said and "fetch it again" in said and expected in said


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2"])
def test_a_flipped_byte_is_noticed_wherever_it_is(mode, tmp_path):
    whole = tarred(tmp_path / "a", NOISE, mode=mode).read_bytes()
    for at in range(700, len(whole) - 8, 1501):
        (tmp_path / "b").write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        assert "is damaged" in refusal([tmp_path / "b"], tmp_path / "new")


FORMS = {
    "a.zip": zipped,
    "stored.zip": lambda p: zipped(p, method=zipfile.ZIP_STORED),
    "lzma.zip": lambda p: zipped(p, method=zipfile.ZIP_LZMA),
    "a.tar": tarred,
    "a.tgz": lambda p: tarred(p, mode="w:gz"),
    "a.tar.bz2": lambda p: tarred(p, mode="w:bz2"),
    "a.tar.xz": lambda p: tarred(p, mode="w:xz"),
    "gnu.tar": lambda p: tarred(p, format=tarfile.GNU_FORMAT),
    "ustar.tar": lambda p: tarred(p, format=tarfile.USTAR_FORMAT),
    "whole.zip.001": zipped,
    "no_ending": lambda p: tarred(p, mode="w:gz"),
}


@pytest.mark.parametrize("name", FORMS)
def test_each_form_gives_the_bytes_back(name, tmp_path):
    FORMS[name](tmp_path / name)
    found = unpack(tmp_path / name, tmp_path / "new")
    assert found == [tmp_path / "new" / "img", tmp_path / "new" / "list.txt"]
    assert tree(tmp_path / "new") == hashes()


def test_a_program_that_unpacks_itself_is_a_zip(tmp_path):
    (tmp_path / "a.exe").write_bytes(b"MZ\x90\x00" + bytes(range(256)) * 4)
    with zipfile.ZipFile(tmp_path / "a.exe", "a") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    unpack(tmp_path / "a.exe", tmp_path / "new")
    assert tree(tmp_path / "new") == hashes()


WINDOWS = [["img\\a.jpg"], ["img\\deep\\a.jpg", "img\\b.jpg"], ["img\\", "img\\a.jpg"]]


@pytest.mark.parametrize("names", WINDOWS)
def test_backslashes_of_windows_are_folders(names, tmp_path):
    zipped(tmp_path / "a.zip", {name: b"" if name[-1] == "\\" else b"1" for name in names})
    unpack(tmp_path / "a.zip", tmp_path / "new")
    expected = {n.replace("\\", "/"): b"1" for n in names if n[-1] != "\\"}
    assert tree(tmp_path / "new") == hashes(expected)


OUT = ["../x", "a/../../x", "/etc/x", "C:/x", "C:x", "..", "a/.."]
OUT += ["a\\..\\..\\x", "\\\\host\\x", "\\x"]


@pytest.mark.parametrize("name", OUT)
@pytest.mark.parametrize("make", [zipped, tarred])
def test_nothing_leaves_its_folder(name, make, tmp_path):
    make(tmp_path / "a", {"fine.txt": b"1", name: b"2"})
    said = refusal([tmp_path / "a"], tmp_path / "deep" / "new")
    assert "points out of the folder" in said and not (tmp_path / "deep").exists()


@pytest.mark.parametrize(
    "kind, word",
    [
        (tarfile.SYMTYPE, "link"),
        (tarfile.LNKTYPE, "link"),
        (tarfile.FIFOTYPE, "device"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (b"Z", "device"),
    ],
)
def test_links_and_devices_are_refused(kind, word, tmp_path):
    tarred(tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        info = tarfile.TarInfo("odd")
        info.type = kind
        info.linkname = "list.txt"
        archive.addfile(info)
    assert f"holds a {word} ('odd')" in refusal([tmp_path / "a.tar"], tmp_path / "new")


def test_a_link_in_a_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("img")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc")
    assert "holds a link ('img')" in refusal([tmp_path / "a.zip"], tmp_path / "new")


def not_utf8(path: Path, content: bytes, flag: int, system: int) -> Path:
    "A .zip with one file called `content`, whatever these bytes are."
    stand_in = b"Q" * len(content)
    raw = bytearray(zipped(path, {stand_in.decode(): b"1"}).read_bytes())
    raw = raw.replace(stand_in, content)
    raw[raw.find(b"PK\1\2") + 5] = system
    for signature, offset in ((b"PK\3\4", 7), (b"PK\1\2", 9)):
        raw[raw.find(signature) + offset] |= flag
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    "content, flag, system, expected",
    [
        (b"caf\xe9.jpg", 0, 3, b"caf\xe9.jpg"),  # Unix: the bytes as they are
        (b"caf\xe9.jpg", 8, 3, b"caf\xe9.jpg"),  # the flag lies
        (b"caf\xc3\xa9.jpg", 0, 3, "café.jpg".encode()),  # macOS sets no flag
        (b"caf\xc3\xa9.jpg", 8, 3, "café.jpg".encode()),
        (b"caf\x82.jpg", 0, 0, "café.jpg".encode()),  # DOS
        (b"\xff\xfe/\x80.jpg", 8, 3, b"\xff\xfe/\x80.jpg"),
    ],
)
def test_names_of_a_zip_in_any_letters(content, flag, system, expected, tmp_path):
    not_utf8(tmp_path / "a.zip", content, flag, system)
    unpack(tmp_path / "a.zip", tmp_path / "new")
    assert tree(tmp_path / "new") == hashes({expected.decode("latin-1"): b"1"})


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", [b"caf\xe9.jpg", b"\xff\xfe.jpg", b"a\nb.jpg"])
def test_names_of_a_tar_in_any_letters(form, name, tmp_path):
    tarred(tmp_path / "a.tar", {os.fsdecode(name): b"1"}, format=form)
    unpack(tmp_path / "a.tar", tmp_path / "new")
    assert tree(tmp_path / "new") == hashes({name.decode("latin-1"): b"1"})


def test_odd_letters_in_a_refusal_can_be_printed(tmp_path):
    tarred(tmp_path / "a.tar", {"../caf\udce9\n.jpg": b"1"})
    said = refusal([tmp_path / "a.tar"], tmp_path / "new")
    said.encode("ascii")
    assert "caf" in said


def halves(tmp_path, make=tarred):
    one = make(tmp_path / "trainval", {"VOC/list": b"same", "VOC/J/1.jpg": b"cat"})
    two = make(tmp_path / "test", {"VOC/list": b"same", "VOC/J/2.jpg": b"dog", "VOC/T/2.txt": b"d"})
    both = {"VOC/list": b"same", "VOC/J/1.jpg": b"cat", "VOC/J/2.jpg": b"dog", "VOC/T/2.txt": b"d"}
    return one, two, hashes(both)


@pytest.mark.parametrize("make", [tarred, zipped])
def test_archives_that_share_a_folder_merge(make, tmp_path):
    one, two, both = halves(tmp_path, make)
    into = tmp_path / "new"
    assert unpack_all([one, two], into) == [into / "VOC"] and tree(into) == both
    assert unpack_all([two, one, one], into) == [into / "VOC"]  # again: nothing differs
    assert tree(into) == both and len(list(into.iterdir())) == 1


def test_a_second_call_merges_into_the_first(tmp_path):
    one, two, both = halves(tmp_path)
    into = tmp_path / "new"
    unpack(one, into)
    (into / "VOC" / "mine.txt").write_text("my own")
    number = (into / "VOC" / "list").stat().st_ino
    assert unpack(two, into) == [into / "VOC"]
    assert tree(into) == both | hashes({"VOC/mine.txt": b"my own"})
    assert (into / "VOC" / "list").stat().st_ino == number  # the same file, not a copy


def test_files_that_differ_are_named_and_nothing_is_unpacked(tmp_path):
    one, two, _ = halves(tmp_path)
    other = tarred(tmp_path / "other", {"new.txt": b"1", "VOC/list": b"diff"})
    longer = tarred(tmp_path / "longer", {"new.txt": b"1", "VOC/list": b"same and more"})
    for last in (other, longer):
        said = refusal([one, two, last], tmp_path / "new")
        assert f"{one} and {last} both hold 'VOC/list', and the two differ" in said
        assert "remove" not in said
    unpack(one, tmp_path / "new")
    for last in (other, longer):
        said = refusal([two, last], tmp_path / "new")
        assert "VOC/list" in said and "differ" in said and "remove" not in said
        said = refusal([last], tmp_path / "new")
        assert f"{tmp_path}/new/VOC/list exists already and nothing is overwritten" in said
        assert "remove" not in said


def test_one_bad_archive_leaves_none(tmp_path):
    one, two, _ = halves(tmp_path)
    for name in ("crc.zip", "cut.tgz"):
        DAMAGES[name][0](tmp_path / name)
        assert name in refusal([one, tmp_path / name, two], tmp_path / "new")
    assert "no archive" in refusal([one, two, tmp_path / "missing.zip"], tmp_path / "new")


@pytest.mark.parametrize("files", [{"a": b"1", "a/b": b"2"}, {"a/b": b"2", "a": b"1"}])
def test_a_file_is_no_folder(files, tmp_path):
    said = refusal([zipped(tmp_path / "a.zip", files)], tmp_path / "new")
    assert "needs 'a" in said and "both as a file and as a folder" in said
    zipped(tmp_path / "folder.zip", {"a/b": b"1"})
    zipped(tmp_path / "file.zip", {"a": b"1"})
    refusal([tmp_path / "folder.zip", tmp_path / "file.zip"], tmp_path / "new")
    unpack(tmp_path / "file.zip", tmp_path / "here")
    assert "a is a file or a link" in refusal([tmp_path / "folder.zip"], tmp_path / "here")


def test_a_link_in_the_way_is_not_followed(tmp_path):
    one, _, _ = halves(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "VOC").symlink_to(elsewhere)
    assert "a file or a link where a folder should go" in refusal([one], tmp_path / "new")
    assert not list(elsewhere.iterdir())
    (tmp_path / "new" / "VOC").unlink()
    (tmp_path / "new" / "VOC").symlink_to(tmp_path / "nowhere")
    refusal([one], tmp_path / "new")
    assert not (tmp_path / "nowhere").exists()


def test_a_file_made_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    one, two, both = halves(tmp_path)
    into = tmp_path / "new"
    write_all = archives._write_all

    def meanwhile(*words):
        found = write_all(*words)
        (into / "VOC").mkdir()
        (into / "VOC" / "list").write_bytes(content)
        return found

    monkeypatch.setattr(archives, "_write_all", meanwhile)
    content = b"mine"
    with pytest.raises(InputError, match="was made while the archive was being unpacked"):
        unpack_all([one, two], into)
    assert tree(into) == hashes({"VOC/list": b"mine"})
    shutil.rmtree(into)
    content = b"same"
    unpack_all([one, two], into)
    assert tree(into) == both


def test_a_rename_that_fails_is_taken_back(tmp_path, monkeypatch):
    archive = zipped(tmp_path / "a.zip", {"a": b"1", "b": b"2", "c": b"3"})
    rename = Path.rename

    def fails(self, target):
        if self.name == "c":
            raise OSError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    assert "Permission denied" in refusal([archive], tmp_path / "new")


def zeros(path: Path, megabytes: int, form: str) -> Path:
    "An archive of one file of zeros, and ten small files."

    class Zeros(io.RawIOBase):
        def read(self, count=-1):
            return bytes(count)

    if form == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            with archive.open("zeros", "w") as file:
                for _ in range(megabytes):
                    file.write(bytes(10**6))
        return path
    with tarfile.open(path, "w:" + form) as archive:
        info = tarfile.TarInfo("zeros")
        info.size = megabytes * 10**6
        archive.addfile(info, Zeros())
    return path


@pytest.mark.parametrize("form", ["zip", "gz", "bz2"])
def test_a_bomb_is_refused_unless_allowed(form, tmp_path):
    bomb = zeros(tmp_path / "bomb", 120, form)
    assert bomb.stat().st_size < 2**18
    said = refusal([bomb], tmp_path / "new")
    assert "unpacks to at least 120 MB, over 200 times its own size" in said and "--largest" in said
    said = refusal([bomb], tmp_path / "new", largest=10**8)
    assert "more than the 100 MB allowed" in said
    unpack(bomb, tmp_path / "new", largest=read_size("130MB"))
    assert (tmp_path / "new" / "zeros").stat().st_size == 120 * 10**6


def test_masks_that_compress_well_are_no_bomb(tmp_path):
    noise = np.random.default_rng(0)
    masks = {f"{i}.png": bytes(60_000) + noise.bytes(1000) for i in range(50)}
    zipped(tmp_path / "masks.zip", masks)
    assert sum(map(len, masks.values())) > 45 * (tmp_path / "masks.zip").stat().st_size
    unpack(tmp_path / "masks.zip", tmp_path / "new")
    assert tree(tmp_path / "new") == hashes(masks)
    unpack(zeros(tmp_path / "small", 99, "gz"), tmp_path / "also")  # below 100 MB: any ratio


def test_the_bound_is_on_all_archives_together(tmp_path):
    one = zipped(tmp_path / "1.zip", {"1": bytes(600)})
    two = zipped(tmp_path / "2.zip", {"2": bytes(600)})
    assert "1.2 kB in all" in refusal([one, two], tmp_path / "new", largest=1000)
    assert len(unpack_all([one, two], tmp_path / "new", largest=1200)) == 2


@pytest.mark.parametrize("make", [zipped, lambda p, f: tarred(p, f, mode="w:gz")])
def test_the_number_of_files_is_bound(make, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "ENTRIES", 50)
    archive = make(tmp_path / "a", {str(i): b"" for i in range(51)})
    assert "--largest" in refusal([archive], tmp_path / "new")
    assert len(unpack(archive, tmp_path / "new", largest=1000)) == 51


def header_bomb(path: Path, kind: bytes, megabytes: int) -> Path:
    "A .tar.gz whose first header announces a name of that length."
    with gzip.open(path, "wb", compresslevel=1) as file:
        info = tarfile.TarInfo("long")
        info.type = kind
        info.size = megabytes * 2**20
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(megabytes):
            file.write(b"x" * 2**20)
        file.write(tarfile.TarInfo("a").tobuf())
    return path


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_header_is_not_read_into_memory_without_end(kind, tmp_path):
    bomb = header_bomb(tmp_path / "a.tgz", kind, 200)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "megabytes that belong to none of its files" in refusal([bomb], tmp_path / "new")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # kB


def test_a_negative_size_ends_in_a_sentence(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a")
        info.pax_headers = {"size": "-512"}
        archive.addfile(info)
    assert "negative size" in refusal([tmp_path / "a.tar"], tmp_path / "new")


def test_a_sparse_file_is_as_large_as_it_says(tmp_path):
    for form in ("gnu", "pax"):
        with open(tmp_path / "s", "wb") as file:
            file.truncate(10**6)
            file.seek(500_000)
            file.write(b"x")
        words = ["tar", "-S", "--format", form, "-cf", f"{form}.tar", "s"]
        if subprocess.run(words, cwd=tmp_path).returncode:
            pytest.skip("this tar makes no sparse archives")
        assert entries(tmp_path / f"{form}.tar").__next__().size == 10**6
        unpack(tmp_path / f"{form}.tar", tmp_path / form)
        assert tree(tmp_path / form) == {"s": tree(tmp_path)["s"]}
        with open(tmp_path / "s", "wb") as file:
            file.truncate(10**9)
        subprocess.run(words, cwd=tmp_path, check=True)
        assert "200 times its own size" in refusal([tmp_path / f"{form}.tar"], tmp_path / "new")


def test_room_is_asked_for_before_anything_is_written(tmp_path, monkeypatch):
    archive = zipped(tmp_path / "a.zip", {"a": bytes(5000), "b": bytes(5000)})
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda p: usage._replace(free=8000))
    said = refusal([archive], tmp_path / "new")
    assert "needs 10.0 kB" in said and "8.0 kB are free" in said
    assert "The archives need 20.0 kB" in refusal([archive, archive], tmp_path / "new")


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*words):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    said = refusal([zipped(tmp_path / "a.zip")], tmp_path / "new")
    assert "No space left on device" in said and "damaged" not in said


def test_what_is_no_file_is_no_archive(tmp_path):
    os.mkfifo(tmp_path / "pipe.zip")
    assert "is a pipe or a device" in refusal([tmp_path / "pipe.zip"], tmp_path / "new")
    assert "is a pipe or a device" in refusal(["/dev/zero"], tmp_path / "new")
    assert "is a folder" in refusal([tmp_path], tmp_path / "new")
    assert "is empty" in refusal([""], tmp_path / "new")
    (tmp_path / "file").touch()
    archive = zipped(tmp_path / "a.zip")
    with pytest.raises(InputError, match="file is a file; give a folder"):
        unpack(archive, tmp_path / "file")
    with pytest.raises(InputError, match="folder to unpack into is empty"):
        unpack(archive, "")


def test_the_home_folder_is_where_the_tilde_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    zipped(tmp_path / "a.zip")
    assert unpack("~/a.zip", "~/new") == [tmp_path / "new" / "img", tmp_path / "new" / "list.txt"]


@pytest.mark.parametrize("name", ["x" * 300, "/".join("abc" for _ in range(101)), "d/" * 1000])
def test_names_no_disk_takes_end_in_a_sentence(name, tmp_path):
    for make in (zipped, tarred):
        refusal([make(tmp_path / "a", {name + "f": b"1"})], tmp_path / "new")


def test_what_the_dead_left_is_swept(tmp_path):
    into = tmp_path / "new"
    dead = into / f".partbook-{HOST}-{DEAD}-abc"
    (dead / "img").mkdir(parents=True)
    (dead / "img" / "a.jpg").write_bytes(b"half")
    alive = into / f".partbook-{HOST}-{os.getppid()}-abc"
    alive.mkdir()
    unpack(zipped(tmp_path / "a.zip"), into)
    assert not dead.exists() and alive.is_dir() and tree(into) == hashes()


KILLED = """
import sys, time
from partbook.data import archives
rename = archives.Path.rename
def slow(self, target):
    time.sleep(.03)
    return rename(self, target)
archives.Path.rename = slow
copy = archives.shutil.copyfileobj
def slowly(*words):
    time.sleep(.01)
    return copy(*words)
archives.shutil.copyfileobj = slowly
print("go", flush=True)
archives.unpack_all(sys.argv[2:], sys.argv[1])
"""


def test_a_killed_call_is_made_good_by_the_next(tmp_path, environment):
    pairs = [(i, j) for i in range(6) for j in range(4)]
    one = zipped(tmp_path / "1.zip", {f"top{i}/{j}": bytes([i, j]) for i, j in pairs})
    two = tarred(tmp_path / "2.tar", {f"top{i}/x{j}": bytes([i, j]) for i, j in pairs})
    unpack_all([one, two], tmp_path / "whole")
    root = str(Path(archives.__file__).parents[2])
    words = [sys.executable, "-c", KILLED, str(tmp_path / "new"), str(one), str(two)]
    seen = set()
    for delay in (0.05, 0.3, 0.75):
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
        process = subprocess.Popen(words, env=environment | {"PYTHONPATH": root}, stdout=-1)
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        left = [p.name for p in (tmp_path / "new").glob("*")]
        seen |= {"hidden" if name.startswith(".partbook-") else "moved" for name in left}
        assert all(name.startswith((f".partbook-{HOST}-{process.pid}-", "top")) for name in left)
        unpack_all([one, two], tmp_path / "new")
        assert tree(tmp_path / "new") == tree(tmp_path / "whole")
        assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [f"top{i}" for i in range(6)]
    assert "hidden" in seen


@pytest.mark.parametrize("seed", range(3))
def test_any_bytes_end_in_a_sentence_or_in_the_right_files(seed, tmp_path):
    noise = np.random.default_rng(seed)
    makers = [zipped, tarred, lambda p: tarred(p, mode="w:gz"), lambda p: tarred(p, mode="w:xz")]
    for i in range(60):
        content = bytearray(makers[i % 4](tmp_path / "a").read_bytes())
        for _ in range(int(noise.integers(1, 6))):
            content[int(noise.integers(len(content)))] = int(noise.integers(256))
        (tmp_path / "a").write_bytes(content)
        into = tmp_path / f"new{i}"
        try:
            unpack(tmp_path / "a", into)
        except InputError as error:
            assert "\n" not in str(error) and not into.exists()
        assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("new")) == ["a"]
        shutil.rmtree(into, ignore_errors=True)


def test_sizes_are_read_as_people_write_them():
    given = ["500MB", "1.5T", "20 GB", "7", "0.5k", "2GiB", "10 bytes"]
    assert [read_size(t) for t in given] == [5e8, 15e11, 2e10, 7, 500, 2e9, 10]
    for text in ("", "much", "-5", "1e9", "5 parsec", "1.2.3", "9" * 40):
        with pytest.raises(InputError, match="is not a size"):
            read_size(text)


def test_a_name_with_a_colon_is_a_name():
    assert str(safe_place("shot-10:30.jpg", Path("a"))) == "shot-10:30.jpg"
