"A thousand photographs: what is made once, what memory holds, what a second call does."

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from partbook import core
from partbook.core import generator, progress, time_left, with_lines
from partbook.data import folder as album
from partbook.data import scratch
from partbook.data.folder import Folder
from partbook.data.pictures import UnreadablePicture
from partbook.data.sample import Collection, Kept, Sample, View, collections
from partbook.data.scratch import Scratch, Shelf, scratch_folder, thicker, thinner
from partbook.evaluation import segment as chapter
from partbook.evaluation.large import example_model
from partbook.evaluation.segment import (
    gather,
    grouped,
    model_seal,
    seal_in,
    segment_files,
    unfinished,
)
from partbook.features.cache import FeatureCache, remember, remembers
from partbook.features.extractor import load_extractor
from partbook.methods.method import load_method, methods, save_method
from partbook.parts.plots import read_palette_png, write_palette_png
from partbook.photographs import segment
from partbook.run import discover, load


def photograph(path, size=(48, 40), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


# -- the shelf


VALUES = {
    "photograph": torch.arange(256).float().div(255),
    "halves": torch.tensor([0.5, 0.25]),
    "out of range": torch.tensor([-1.0, 2.0, 256 / 255, 1e30]),
    "no numbers": torch.tensor([float("nan"), float("inf")]),
    "labels": torch.tensor([[0, 255]]),
    "large labels": torch.tensor([0, 256, -1]),
    "mask": torch.tensor([True, False]),
    "bytes": torch.tensor([7, 255], dtype=torch.uint8),
    "half precision": torch.tensor([0.5, 1.0], dtype=torch.bfloat16),
    "number": torch.tensor(3.25),
    "nothing": torch.zeros(0, 4),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("memory", [0, 1])
def test_everything_comes_back_as_it_was(name, memory, monkeypatch):
    monkeypatch.setattr(scratch, "MEMORY", memory)
    value = VALUES[name]
    shelf = Shelf()
    shelf.put("a", [value, thinner(value)])
    plain, content = shelf.get("a")
    assert plain.dtype == value.dtype and torch.equal(plain, value) or name == "no numbers"
    bits = [v.reshape(-1).view(torch.uint8) for v in (plain, value)]
    assert torch.equal(*bits) and plain.shape == value.shape
    back = thicker(content, value.dtype)
    assert back.dtype == value.dtype and torch.equal(
        torch.nan_to_num(back), torch.nan_to_num(value)
    )
    assert (content.dtype == torch.uint8) == (name in ("photograph", "labels", "bytes", "nothing"))
    assert ("a" in shelf.kept) == bool(memory or not value.nbytes)


def test_a_full_disk_is_no_error(monkeypatch):
    monkeypatch.setattr(scratch, "MEMORY", 0)
    shelf = Shelf()
    shelf.put(0, [torch.ones(9)])
    shelf.scratch.most = shelf.scratch.end
    shelf.put(1, [torch.ones(9)])
    assert shelf.get(1) is None and 1 not in shelf and torch.equal(shelf.get(0)[0], torch.ones(9))
    monkeypatch.setattr(scratch.tempfile, "TemporaryFile", lambda **_: open("/no/where/at/all"))
    assert Scratch().put(b"x") is None


def test_passing_files_lie_where_one_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert scratch_folder() == tmp_path
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    assert scratch_folder().is_dir()


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_a_killed_process_leaves_no_file(tmp_path):
    code = (
        "import torch, time\nfrom partbook.data import scratch\nscratch.MEMORY = 0\n"
        "s = scratch.Shelf(); s.put(0, [torch.ones(1 << 20)]); print('there', flush=True)\n"
        "time.sleep(60)"
    )
    free = os.statvfs(tmp_path).f_bavail
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert child.stdout.readline() == b"there\n" and free > 0
    assert os.listdir(tmp_path) == []  # while it runs
    child.kill()
    child.wait()
    assert os.listdir(tmp_path) == []


class Drawn(Collection):
    "Six pictures, four of them bytes; counts how often one is made."

    def __init__(self):
        self.made = []

    def __len__(self):
        return 6

    def __getitem__(self, i):
        self.made.append(i)
        image = torch.rand(3, 8, 8, generator=generator(i))
        image = (image * 255).round() / 255 if i < 4 else image
        return Sample(image, f"n{i}", mask=image[0] > 0.5, parts=(image[0] * 4).long(), category=i)


@pytest.mark.parametrize("memory", [0, 64])
def test_kept_samples_are_exact_in_memory_and_on_disk(memory, monkeypatch):
    monkeypatch.setattr(scratch, "MEMORY", memory)
    pictures = Drawn()
    kept = Kept(pictures)
    for _ in range(2):
        for s, t in zip(kept.take(range(6)), Drawn().take(range(6)), strict=True):
            for name, value in vars(t).items():
                found = getattr(s, name)
                same = torch.equal(found, value) if torch.is_tensor(value) else found == value
                assert same and type(found) is type(value), name
                assert not torch.is_tensor(value) or found.dtype == value.dtype
    assert sorted(pictures.made) == list(range(6))
    assert len(kept.shelf.places) == (6 if not memory else 0)
    assert [s.name for s in kept.take([3, 3, 0])] == ["n3", "n3", "n0"]


# -- features once


def test_features_beyond_memory_are_exact(monkeypatch):
    monkeypatch.setattr(scratch, "MEMORY", 0)
    plain = load_extractor("squeezenet1_1", "random")
    phi = remember(load_extractor("squeezenet1_1", "random"))
    images = torch.rand(3, 3, 32, 32, generator=generator(0))
    calls = []
    compute = remembers(phi).compute
    remembers(phi).compute = lambda some: calls.append(len(some)) or compute(some)
    for _ in range(2):
        by_itself = torch.cat([plain(image[None]) for image in images])
        assert torch.equal(phi(images), by_itself)
    assert calls == [1, 1, 1] and remembers(plain) is None
    assert len(remembers(phi).cache.shelf.places) == 3


def test_a_folder_of_features_needs_no_passing_file(tmp_path):
    assert FeatureCache(tmp_path).shelf.scratch is None
    assert FeatureCache().shelf.scratch is not None


class Counted(Collection):
    "Birds that count how often they are loaded."

    def __init__(self, masks, count=12):
        birds = collections["birds"].open(split="train", size=32)
        self.birds = Kept(View(birds, indices=range(count)))
        self.masks = masks
        self.loads = 0

    def __len__(self):
        return len(self.birds)

    def __getitem__(self, i):
        self.loads += 1
        s = self.birds[i]
        return s if self.masks else Sample(s.image, s.name)


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("room", [None, 0])
def test_kmeans_loads_a_picture_once_and_finds_the_same_centres(masks, room, tmp_path):
    KMeans = methods["kmeans"]
    settings = dict(parts=4, features="equivariant", size=32, steps=40, batch_size=5, seed=1)

    def fitted(memory):
        pictures = Counted(masks)
        method = KMeans.build(KMeans.Settings(**settings))
        once = remember(method.extractor, memory)
        return method.fit(pictures), pictures, once

    first, pictures, once = fitted(tmp_path)  # as with --cache
    method = KMeans.build(KMeans.Settings(**settings))
    remember(method.extractor, mebibytes=room)
    other = Counted(masks)
    method.fit(other)
    assert torch.equal(first.centres, method.centres) and torch.equal(first.spread, method.spread)
    few = 12 + 12 + 5 * 5  # a sample, a first look, what was on its way
    assert pictures.loads <= few and (other.loads <= few) == (room is None)
    usual = KMeans.build(KMeans.Settings(**settings)).fit(Counted(masks))
    assert torch.allclose(usual.centres, method.centres, atol=1e-4)


def test_a_run_on_photographs_remembers_and_a_drawn_one_does_not(tmp_path):
    for i in range(6):
        photograph(tmp_path / "ph" / f"{i}.jpg", (64, 64), seed=i)
    options = dict(parts=2, size=32, features="equivariant", baselines=False, device="cpu")
    options["say"] = lambda sentence: None
    options["set"] = {"steps": 2}
    run = discover(str(tmp_path / "ph"), foreground="none", **options)
    assert remembers(run.method.extractor) is not None
    run = discover("birds", limit=6, **options)
    assert remembers(run.method.extractor) is None


# -- decoding by two threads


def test_photographs_are_read_in_order_by_several_threads(tmp_path, monkeypatch):
    for i in range(12):
        photograph(tmp_path / f"{i}.png", (20 + i, 30), seed=i)
    (tmp_path / "5.png").write_text("no picture")
    read = album.read_image

    def slow(path, *rest, **options):
        time.sleep(0.02 * (int(path.stem) % 3))
        return read(path, *rest, **options)

    monkeypatch.setattr(album, "read_image", slow)
    photos = Folder.open(tmp_path, size=16)
    assert photos.names == [f"{i}.png" for i in range(12) if i != 5]
    assert [name for name, _ in photos.skipped] == ["5.png"]
    monkeypatch.setattr(scratch, "MEMORY", 0)
    again = Folder.open(tmp_path, size=16)
    assert len(again._images.places) == 11 and not again._images.kept
    assert all(torch.equal(s.image, t.image) for s, t in zip(photos, again, strict=True))


# -- labels for what lacks some


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    example_model(folder)
    return folder


@pytest.fixture(scope="module")
def method(model):
    return load_method(model)[0]


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("batch, pixels, workers", [(1, 1, 0), (3, 2**25, 1), (8, 5000, 2)])
def test_groups_and_threads_change_no_pixel(batch, pixels, workers, method, tmp_path, monkeypatch):
    for i in range(7):
        photograph(tmp_path / "ph" / f"{i}.png", (30 + 9 * i, 40), seed=i)
    pairs = gather([tmp_path / "ph"]).pairs
    calm = [segment_files(method, [pair], tmp_path / "calm", workers=0) for pair in pairs]
    monkeypatch.setattr(chapter, "BATCH", batch)
    monkeypatch.setattr(chapter, "PIXELS", pixels)
    groups = grouped(pairs)
    assert [pair for group in groups for pair in group] == pairs
    assert max(map(len, groups)) <= batch
    done = segment_files(method, pairs, tmp_path / "out", workers=workers)
    assert [p.name for p in done.written] == [p.name for one in calm for p in one.written]
    assert contents(tmp_path / "out") == contents(tmp_path / "calm")


def test_a_group_is_closed_before_it_is_too_large(tmp_path, monkeypatch):
    pairs = []
    for i, size in enumerate([(10, 10), (10, 10), (30, 10), (5, 5), (100, 100), (10, 10)]):
        pairs.append((photograph(tmp_path / f"{i}.png", size), Path(f"{i}.png")))
    monkeypatch.setattr(chapter, "PIXELS", 320)
    assert [len(group) for group in grouped(pairs)] == [2, 1, 1, 1, 1]
    assert grouped([]) == [] and grouped([(tmp_path / "gone.png", Path("g.png"))]) != []


def test_a_second_call_does_what_is_missing(model, method, tmp_path):
    for i in range(4):
        photograph(tmp_path / "ph" / f"{i}.jpg", seed=i)
    out = tmp_path / "out"
    assert len(segment(model, tmp_path / "ph", out).written) == 4
    before = contents(out)
    stamps = {p: p.stat().st_mtime_ns for p in out.iterdir()}
    photograph(tmp_path / "ph" / "4.jpg", seed=4)  # new
    photograph(tmp_path / "ph" / "1.jpg", (50, 44), seed=9)  # changed
    (out / "2.png").unlink()
    (out / "3_overlay.png").unlink()
    done = segment(model, tmp_path / "ph", out)
    assert [p.name for p in done.written] == ["1.png", "2.png", "3.png", "4.png"]
    assert [p.name for p in done.kept] == ["0.png"]
    assert (out / "0.png").stat().st_mtime_ns == stamps[out / "0.png"]
    after = contents(out)
    assert all(after[n] == before[n] for n in before if not n.startswith("1"))
    assert after["1.png"] != before["1.png"]
    done = segment(model, tmp_path / "ph", out)
    assert not done.written and not done.skipped and len(done.kept) == 5
    assert len(segment(model, tmp_path / "ph", out, again=True).written) == 5
    assert contents(out) == after


def test_another_model_or_another_crf_labels_anew(method, model, tmp_path):
    pairs = [(photograph(tmp_path / "a.jpg"), Path("a.jpg"))]
    segment_files(method, pairs, tmp_path / "out")
    assert unfinished(method, pairs, tmp_path / "out") == []
    assert unfinished(load(model).method, pairs, tmp_path / "out") == []  # read again
    assert model_seal(method) != model_seal(method, "full")
    other = load_method(model)[0]
    other.centres[0, 0] += 1e-6
    assert unfinished(other, pairs, tmp_path / "out") == pairs
    save_method(method, tmp_path / "copy", {"names": {"1": "wing"}})
    assert unfinished(load(tmp_path / "copy").method, pairs, tmp_path / "out") == []


def test_labels_of_others_are_no_labels_of_ours(method, tmp_path):
    labels = torch.zeros(4, 4, dtype=torch.uint8)
    path = write_palette_png(tmp_path / "a.png", labels, 2)
    assert seal_in(path) == "" == seal_in(tmp_path / "gone.png")
    path = write_palette_png(tmp_path / "a.png", labels, 2, about="seal 1 2")
    assert seal_in(path) == "seal 1 2" and torch.equal(read_palette_png(path), labels.long())
    Image.open(path).save(tmp_path / "b.png")
    assert seal_in(tmp_path / "b.png") == ""
    path.write_bytes(path.read_bytes()[:60])
    assert seal_in(path) == ""


def test_a_result_of_somebody_else_is_not_written_over(model, tmp_path):
    photograph(tmp_path / "ph" / "a.jpg")
    photograph(tmp_path / "out" / "a.png")
    mine = (tmp_path / "out" / "a.png").read_bytes()
    with pytest.raises(core.InputError, match="was not made by partbook"):
        segment(model, tmp_path / "ph", tmp_path / "out")
    assert (tmp_path / "out" / "a.png").read_bytes() == mine


def test_a_run_that_stops_goes_on(model, method, tmp_path, monkeypatch):
    for i in range(9):
        photograph(tmp_path / "ph" / f"{i}.jpg", seed=i)
    segment(model, tmp_path / "ph", tmp_path / "calm")
    monkeypatch.setattr(chapter, "BATCH", 1)
    write = chapter.write_palette_png
    count = []

    def stop(*given):
        count.append(1)
        if len(count) > 4:
            raise KeyboardInterrupt
        return write(*given)

    monkeypatch.setattr(chapter, "write_palette_png", stop)
    with pytest.raises(KeyboardInterrupt):
        segment(model, tmp_path / "ph", tmp_path / "out")
    monkeypatch.setattr(chapter, "write_palette_png", write)
    done = segment(model, tmp_path / "ph", tmp_path / "out")
    assert len(done.kept) == 4 and len(done.written) == 5
    assert contents(tmp_path / "out") == contents(tmp_path / "calm")


def test_a_group_that_is_too_large_is_tried_one_by_one(method, tmp_path, monkeypatch):
    pairs = [(photograph(tmp_path / f"{i}.jpg", seed=i), Path(f"{i}.jpg")) for i in range(4)]
    scores = chapter.logits_of

    def tight(method, images, device):
        if len(images) > 1:
            raise MemoryError
        return scores(method, images, device)

    monkeypatch.setattr(chapter, "logits_of", tight)
    assert len(segment_files(method, pairs, tmp_path / "out").written) == 4


def test_an_unreadable_photograph_has_no_pixels(tmp_path):
    (tmp_path / "a.jpg").write_text("no")
    assert chapter.pixels_of(tmp_path / "a.jpg") == 0
    with pytest.raises(UnreadablePicture):
        chapter.read_pixels(tmp_path / "a.jpg")


# -- time left


@pytest.mark.parametrize(
    "done, total, seconds, words",
    [
        (200, 1000, 45.0, "about 3 minutes left"),
        (1, 2, 59.0, "less than a minute left"),
        (1, 2, 61.0, "about 1 minute left"),
        (1, 101, 60.0, "about 2 hours left"),
        (1, 90, 60.0, "about 89 minutes left"),
    ],
)
def test_time_left_in_words(done, total, seconds, words):
    assert time_left(done, total, seconds) == words


def test_a_log_gets_a_line_now_and_then():
    now = [0.0]
    lines = []

    def items(seconds, count):
        for i in range(count):
            now[0] += seconds
            yield i

    def run(seconds, count, total):
        lines.clear()
        now[0] = 0
        with_lines_given = with_lines(
            items(seconds, count), "at", total, lambda: now[0], lines.append
        )
        assert list(with_lines_given) == list(range(count))
        return list(lines)

    assert run(1.0, 19, 19) == []  # a short job is silent
    assert run(0.1, 10_000, 10_000)[0] == "at: 200 of 10000, about 16 minutes left"
    assert len(run(0.1, 10_000, 10_000)) == 17
    assert run(30.0, 3, None) == ["at: 1", "at: 3"]
    assert run(30.0, 3, 3)[-1] == "at: 1 of 3, about 1 minute left"


def test_tests_and_small_runs_are_silent(monkeypatch, capsys):
    monkeypatch.setattr(core, "FIRST", -1.0)
    assert list(progress([1, 2], "counting")) == [1, 2]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(core, "nobody_watches", lambda: True)
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    assert list(progress([1, 2, 3], "counting")) == [1, 2, 3]
    assert capsys.readouterr().err.startswith("counting: 1 of 3, ")
    monkeypatch.setenv("PARTBOOK_SMALL", "1")
    assert list(progress([1, 2], "counting")) == [1, 2]
    assert capsys.readouterr().err == ""
