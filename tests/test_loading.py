"""Loading ahead, cached pictures, cached features: the same samples, and nothing stale."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from painters.cub import write_cub_fixture
from PIL import Image
from torch.utils.data import DataLoader

from partbook.core import InputError
from partbook.data.loading import Ahead, loaded
from partbook.data.pictures import UnreadablePicture, read_image
from partbook.data.sample import Kept, View, batch_indices, collate, collections
from partbook.data.scratch import MEMORY, thinner
from partbook.evaluation.protocols import object_view
from partbook.features.cache import FeatureCache, remember
from partbook.features.extractor import load_extractor
from partbook.readers.cub import CUB

FIELDS = ("images", "masks", "parts", "landmarks", "visible", "boxes", "categories")


def same(a, b):
    def equal(x, y):
        return x is y is None or torch.equal(x, y)

    return a.names == b.names and all(equal(getattr(a, f), getattr(b, f)) for f in FIELDS)


@pytest.fixture(scope="module")
def cub(tmp_path_factory):
    return object_view(
        CUB.open(write_cub_fixture(tmp_path_factory.mktemp("cub") / "CUB_200_2011", n=12), "all"),
        24,
    )


@pytest.fixture(params=["birds", "cub"])
def collection(request):
    if request.param == "cub":
        return request.getfixturevalue("cub")
    return View(collections["birds"].open(split="val", size=24), indices=range(12))


def test_workers_and_processes_give_the_same_samples(collection):
    plain = list(loaded(collection, 5, shuffle=True, seed=1, workers=0))
    assert sorted(n for b in plain for n in b.names) == sorted(s.name for s in collection)
    lists = batch_indices(len(collection), 5, True, 1)
    others = [loaded(collection, 5, shuffle=True, seed=1, workers=w) for w in (1, 3)]
    others += [
        DataLoader(collection, batch_sampler=lists, collate_fn=collate, num_workers=w)
        for w in (0, 2)
    ]
    others += [loaded(Kept(collection), 5, shuffle=True, seed=1, workers=3)]
    for other in others:
        assert all(same(a, b) for a, b in zip(plain, other, strict=True))


def test_kept_counts_its_memory_once(cub):
    kept = Kept(cub)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: kept.take([i % len(cub)]), range(96)))
    tensors = [v for s in cub for v in vars(s).values() if isinstance(v, torch.Tensor)]
    assert kept.shelf.budget == MEMORY * 2**20 - sum(thinner(v).nbytes for v in tensors)


def test_closing_waits_for_the_threads(cub):
    before = set(threading.enumerate())
    with Ahead(lambda n: cub.batch([n]), len(cub), workers=3) as ahead:
        ahead.get(0)
    assert set(threading.enumerate()) == before


def test_a_pass_that_is_left_stops_its_threads(cub, monkeypatch):
    "It does not wait for them: they end with the batch they are at, and begin no other."
    begun, gate, batch = [], threading.Event(), type(cub).batch

    def slow(self, indices):
        begun.append(indices)
        return batch(self, indices) if 0 in indices or gate.wait(60) else None

    monkeypatch.setattr(type(cub), "batch", slow)
    before, stream = set(threading.enumerate()), loaded(cub, 2, workers=3)
    next(stream)
    while len(begun) < 4:  # the first batch, and one that each thread is at
        threading.Event().wait(0.01)
    threads = set(threading.enumerate()) - before
    stream.close()
    gate.set()
    for thread in threads:
        thread.join(60)
    assert len(threads) == 3 and not any(t.is_alive() for t in threads)
    assert sorted(i for indices in begun for i in indices) == list(range(8)) and len(cub) > 8


def test_an_error_arrives_where_the_batch_is_asked_for(cub):
    def make(n):
        if n == 2:
            raise InputError("Batch 2 is broken.")
        return n

    with Ahead(make, 9, workers=2) as ahead:
        assert [ahead.get(0), ahead.get(1)] == [0, 1]
        with pytest.raises(InputError, match="Batch 2"):
            ahead.get(2)
        assert ahead.get(3) == 3


def test_the_picture_cache_follows_the_content(tmp_path, monkeypatch):
    monkeypatch.setenv("PARTBOOK_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.png"
    Image.fromarray(np.full((4, 5, 3), 10, np.uint8)).save(path)
    stamp = path.stat()
    first = read_image(path)
    Image.fromarray(np.full((4, 5, 3), 20, np.uint8)).save(path)
    os.utime(path, (stamp.st_atime, stamp.st_mtime))  # as old and as long as before
    assert first.unique().tolist() == [pytest.approx(10 / 255)] and read_image(
        path
    ).unique().tolist() == [pytest.approx(20 / 255)]
    path.write_bytes(b"no picture")
    with pytest.raises(UnreadablePicture, match="a.png"):
        read_image(path)
    with pytest.raises(UnreadablePicture, match="missing.png"):
        read_image(tmp_path / "missing.png")
    assert len(list(tmp_path.rglob("*.npy"))) == 2


def test_a_cache_that_cannot_be_written_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PARTBOOK_CACHE", str(tmp_path / "file"))
    Image.new("RGB", (3, 3)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="cannot be written"):
        read_image(tmp_path / "a.png")


def test_deep_greys_keep_their_depth_in_the_cache(tmp_path, monkeypatch):
    Image.fromarray((np.arange(16, dtype=np.uint16) * 4001).reshape(4, 4)).save(
        tmp_path / "deep.png"
    )
    plain = read_image(tmp_path / "deep.png")
    monkeypatch.setenv("PARTBOOK_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        assert torch.equal(read_image(tmp_path / "deep.png"), plain)


def test_features_of_other_weights_layers_and_precisions_are_other_features(tmp_path):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = {}
    for name, options in {"a": {}, "b": {"seed": 1}, "c": {"layers": ("fire4",)}}.items():
        phi = load_extractor("squeezenet1_1", "random", **options)
        found[name] = torch.cat([phi(image[None]) for image in images])
        assert torch.equal(remember(phi, tmp_path)(images), found[name])  # each by itself
    assert len(list(tmp_path.rglob("*.safetensors"))) == 6 and not torch.equal(
        found["a"], found["b"]
    )
    phi = remember(load_extractor("squeezenet1_1", "random"), tmp_path)
    with torch.autocast("cpu", torch.bfloat16):
        phi(images)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 8


def test_the_feature_budget_is_obeyed():
    cache = FeatureCache(mebibytes=1)
    for i in range(5):
        cache.put(str(i), [torch.zeros(100, 1000)])  # 0.38 MiB each
    assert len(cache.shelf.kept) == 2 and cache.shelf.budget >= 0
