"""What the chapter on loading claims, in the corners that its worked examples leave out."""

import sys
import threading
import time

import pytest
import torch
from torch.utils.data import DataLoader

from partbook.core import InputError, require
from partbook.data.loading import Ahead, loaded
from partbook.data.sample import View, batch_indices, collate, collections


@pytest.fixture(scope="module")
def birds():
    return View(collections["birds"].open(split="val", size=32), indices=range(50))


def loading():
    return [t for t in threading.enumerate() if t.name.startswith("loading")]


def same(a, b):
    return a.names == b.names and all(
        torch.equal(getattr(a, f), getattr(b, f)) for f in ("images", "parts", "landmarks")
    )


def test_jumps_ends_and_errors():
    made, lock = [], threading.Lock()

    def note(n):
        with lock:
            made.append(n)
        require(n != 7, "Batch 7 cannot be read.")
        return n

    with Ahead(note, 10, workers=3, depth=2) as ahead:
        assert ahead.get(0) == 0 and ahead.get(5) == 5 and ahead.get(9) == 9
        with pytest.raises(InputError, match="Batch 7 cannot be read"):
            ahead.get(7)
    assert max(made) == 9 and {0, 5, 9} <= set(made) and made.count(9) <= 2
    assert not loading()


def test_numbers_that_cannot_be():
    with pytest.raises(InputError, match="cannot be negative"):
        Ahead(int, 1, workers=-1)
    with pytest.raises(InputError, match="no batch 3; they are numbered from 0 to 2"):
        Ahead(int, 3).get(3)


def test_the_number_of_workers_changes_nothing(birds):
    plain = list(loaded(birds, 16, shuffle=True, seed=3, workers=0))
    for workers in (1, 4):
        beside = loaded(birds, 16, shuffle=True, seed=3, workers=workers)
        assert all(same(a, b) for a, b in zip(plain, beside, strict=True))
    assert plain[0].names != next(loaded(birds, 16, shuffle=True, seed=4)).names
    order = batch_indices(50, 16, True, 3)
    theirs = DataLoader(birds, batch_sampler=order, collate_fn=collate)
    assert all(same(a, b) for a, b in zip(plain, theirs, strict=True))


def test_a_pass_may_be_given_up_from_inside_one_of_its_threads(birds, monkeypatch):
    ready, trouble = threading.Event(), []
    passes = []

    class Careless(View):
        def take(self, indices):
            if 0 not in indices:
                ready.wait()
                passes.clear()
            return super().take(indices)

    monkeypatch.setattr(sys, "unraisablehook", trouble.append)  # what Python cannot raise
    passes.append(loaded(Careless(birds), 5))
    next(passes[0])
    ready.set()
    while passes or loading():
        time.sleep(0.01)
    assert not trouble
