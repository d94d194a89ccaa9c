"""Which pictures are these? An identity survives a move and notices one changed byte."""

import os
import shutil
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from partbook.data.sample import (
    EDGE,
    Collection,
    Kept,
    Sample,
    View,
    collections,
    cropped,
    glimpse,
    identity,
    resized,
    what_differs,
)
from partbook.features.foreground import learn_inside


class Album(Collection):
    "All JPEG files below a folder, with masks beside them and a list."

    def __init__(self, root, split="train", least=0):
        self.root, self.split, self.least = Path(root), split, least

    @classmethod
    def open(cls, root=None, split="train", size=None, seed=0, least=0):
        return cls(root, split, least)

    def files(self):
        return [
            *sorted(self.root.rglob("*.jpg")),
            *sorted(self.root.rglob("*.png")),
            *sorted(self.root.glob("*.json")),
        ]

    def __len__(self):
        return len(sorted(self.root.rglob("*.jpg")))

    def __getitem__(self, i):
        path = sorted(self.root.rglob("*.jpg"))[i]
        return Sample(
            torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255, path.name
        )


def draw(path, seed, size=(40, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)).save(
        path
    )


@pytest.fixture
def album(tmp_path):
    root = tmp_path / "album"
    for i in range(5):
        draw(root / f"p{i}.jpg", i)
        draw(root / "masks" / f"p{i}.png", 100 + i)
    (root / "list.json").write_text('{"weight": 1.25}' + " " * 10 * EDGE + "end")
    return root


def test_a_move_is_not_noticed(album, tmp_path):
    before = identity(Album(album))
    assert (
        before["collection"] == "Album" and before["pictures"] == 5 and before["first"] == "p0.jpg"
    )
    assert (
        before["options"] == {"split": "train", "least": 0}
        and len(before["key"]) == 16
        and int(before["key"], 16) >= 0
    )
    shutil.copytree(album, tmp_path / "a" / "b" / "other name")
    os.utime(tmp_path / "a" / "b" / "other name" / "p0.jpg", (1, 1))
    assert identity(Album(tmp_path / "a" / "b" / "other name")) == before
    (tmp_path / "link").symlink_to(album)
    assert identity(Album(tmp_path / "link")) == before and what_differs(before, before) == ""


def other_photograph(root):
    draw(root / "p3.jpg", 77)


def other_mask(root):
    draw(root / "masks" / "p3.png", 77)


def another_word(root):
    text = (root / "list.json").read_text()
    (root / "list.json").write_text(
        text.replace("1.25", "1.26")
    )  # of the same length, far from both ends


def appended(root):
    with open(root / "p4.jpg", "ab") as file:
        file.write(b"\0")


@pytest.mark.parametrize("change", [other_photograph, other_mask, another_word, appended])
def test_other_bytes_under_the_same_names(album, change):
    before = identity(Album(album))
    change(album)
    after = identity(Album(album))
    assert after["key"] != before["key"] and {k: v for k, v in after.items() if k != "key"} == {
        k: v for k, v in before.items() if k != "key"
    }
    assert what_differs(before, after) == (
        "the photographs differ: their names are the same, but there is something else in the files"
    )


@pytest.mark.parametrize(
    "change, words",
    [
        (
            lambda root: (root / "p0.jpg").rename(root / "a.jpg"),
            "the photographs differ: the first was 'p0.jpg', and is now 'a.jpg'",
        ),
        (
            lambda root: (root / "p1.jpg").rename(root / "q1.jpg"),
            "the photographs differ: the first is 'p0.jpg' as before, but others have other names",
        ),
        (
            lambda root: (root / "p1.jpg").unlink(),
            "the photographs differ: there were 5, and now 4",
        ),
        (
            lambda root: draw(root / "more" / "p1.jpg", 1),
            "the photographs differ: there were 5, and now 6",
        ),
    ],
)
def test_what_differs_is_said(album, change, words):
    before = identity(Album(album))
    change(album)
    assert what_differs(before, identity(Album(album))) == words


def test_options_are_said(album):
    before = identity(Album(album))
    assert (
        what_differs(before, identity(Album(album, least=3)))
        == "the option least was 0, and is now 3"
    )
    assert (
        what_differs(before, identity(Album(album, split="test")))
        == "the option split was 'train', and is now 'test'"
    )
    asked = Album(album)
    asked.chosen = {"min_part": (2, 3)}
    assert (
        what_differs(before, identity(asked)) == "the option min_part was None, and is now [2, 3]"
    )
    birds, cars = (
        identity(collections[n].open(split="val", size=16)) for n in ("birds", "vehicles")
    )
    assert what_differs(birds, cars) == "the collection was 'birds', and is now 'vehicles'"


def test_views_have_the_identity_of_what_they_show(album):
    whole = Album(album)
    key = identity(whole)
    for same in (
        Kept(whole),
        resized(whole, 8),
        cropped(whole),
        Kept(resized(View(whole, indices=range(5)), 16)),
        learn_inside(resized(whole, 16), "robust"),
    ):
        assert identity(same) == key
    some = View(whole, indices=[4, 2, 0])
    assert identity(some)["pictures"] == 3 and identity(some)["key"] != key["key"]
    assert (
        identity(Kept(View(some, indices=[2, 1])))
        == identity(View(whole, indices=[0, 2]))
        != identity(View(whole, indices=[2, 0]))
    )
    assert some.files() == whole.files() and Kept(some).remarks() == whole.remarks() == []


def test_drawn_collections_are_told_by_split_and_seed():
    keys = {}
    for split, seed in (("train", 0), ("val", 0), ("test", 0), ("train", 1)):
        found = identity(collections["birds"].open(split=split, size=16, seed=seed))
        assert found["options"] == {"split": split, "seed": seed}
        keys[split, seed] = found["key"]
    assert len(set(keys.values())) == 4
    assert identity(collections["birds"].open(split="train", size=16))["key"] == keys["train", 0]


class Shades(Collection):
    "A hundred grey pictures of a user's own, without files."

    def __init__(self, brighter=(), noise=False):
        self.brighter, self.noise, self.made = set(brighter), noise, []

    def __len__(self):
        return 100

    def __getitem__(self, i):
        self.made.append(i)
        image = torch.full((3, 8, 8), i / 200)
        image[0, 3, 3] += (i in self.brighter) / 300
        return Sample(image + torch.rand(()) / 10 * self.noise, f"shade {i}")


def test_pictures_without_files_are_looked_at():
    plain = Shades()
    key = identity(plain)["key"]
    assert len(set(plain.made)) == 64 and {0, 99} <= set(plain.made)
    plain.made.clear()
    assert identity(Kept(plain))["key"] == key and not plain.made  # remembered
    assert identity(Shades())["key"] == key != identity(Shades(brighter=[99]))["key"]
    assert (
        identity(Shades(noise=True))["key"] == identity(Shades(noise=True))["key"]
    )  # known by names alone


def test_odd_names(tmp_path):
    folder = tmp_path / "p"
    for name in (b"caf\xe9.jpg", "naïve\n.jpg".encode(), "鳥.jpg".encode()):
        folder.mkdir(exist_ok=True)
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(name * 3)
    whole = identity(Album(folder))
    assert whole["pictures"] == 3
    for spelling in ("NFC", "NFD"):
        (tmp_path / spelling).mkdir()
        (tmp_path / spelling / unicodedata.normalize(spelling, "äöü.jpg")).write_bytes(b"1")
    assert (
        identity(Album(tmp_path / "NFC"))["key"]
        == identity(Album(tmp_path / "NFD"))["key"]
        != whole["key"]
    )


def test_a_file_that_is_gone_is_no_traceback(album):
    class Careless(Album):
        def files(self):
            return [*super().files(), self.root / "gone.jpg", self.root]

    assert glimpse(album / "gone.jpg") == glimpse(album) == b"gone"
    assert identity(Careless(album))["key"] != identity(Album(album))["key"]


def test_a_thousand_files_take_no_time(tmp_path):
    for i in range(1000):
        (tmp_path / f"{i:04d}.jpg").write_bytes(os.urandom(9000))
    files = sorted(tmp_path.iterdir())
    start = time.perf_counter()
    assert (
        len({glimpse(f) for f in files}) == 1000
        and len(glimpse(files[0])) == len("9000 ") + 3 * EDGE
    )
    assert time.perf_counter() - start < 5  # 0.04 s on a quiet machine
