"""Appearance transfer: exact on a method that is known, and clear where it cannot be."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from helpers import message, noise, sentence
from helpers import run as command
from PIL import Image

import partbook as pb
from partbook.core import InputError, generator
from partbook.data.pictures import lab
from partbook.data.sample import Collection, Sample
from partbook.evaluation import transfer as tr
from partbook.evaluation.protocols import default_protocols, protocols
from partbook.evaluation.results import read_rows
from partbook.files import TEMPORARY, is_marked_png
from partbook.methods.merged import merge_parts
from partbook.methods.method import Method, Settings, methods
from partbook.transferring import MOST, parts_named, to_transfer, transfer, unsqueezed

K = 3


class Plain(Method):
    "Parts are told by their blue (0, .25, ...); red and green are their looks."

    has_background = True
    by_part = True

    def __init__(self, parts=K, size=16):
        super().__init__(Settings(parts=parts, size=size))
        self.registered_name = "plain"

    def logits(self, images):
        levels = torch.arange(self.parts + 1) / 4
        return -100 * (images[:, 2:] - levels[:, None, None]).square()

    def appearance(self, images):
        return tr.mean_colours(images, self.shape(images), self.parts).nan_to_num(0.5)

    def shape(self, images):
        return self.logits(images).argmax(1)

    def render(self, appearance, shape):
        return torch.cat([tr.fill(appearance, shape)[:, :2], shape[:, None] / 4], 1)


class Whole(Plain):
    "One appearance for a picture: a vector."

    by_part = False

    def appearance(self, images):
        return images[:, :2].mean((2, 3))

    def render(self, appearance, shape):
        flat = appearance[..., None, None].expand(-1, -1, *shape.shape[1:])
        return torch.cat([flat, shape[:, None] / 4], 1)


class Pictures(Collection):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return Sample(self.images[i], f"picture {i}")


def stripes(count=8, S=16, seed=0):
    looks = torch.rand(count, K + 1, 2, generator=generator(seed))
    place = (torch.arange(S) + 2 * torch.arange(count)[:, None]) % S
    labels = (place * (K + 1) // S)[:, None].expand(count, S, S)
    blue = (torch.arange(K + 1) / 4).expand(count, K + 1)[..., None]
    return tr.fill(torch.cat([looks, blue], 2), labels), looks, labels


# -- the measures


def test_a_method_that_is_exact_is_measured_as_exact():
    images, _, _ = stripes()
    found = tr.measure_transfer(Plain(), Pictures(images), pairs=50, together=7)
    own = found["plain"]
    assert own["part_iou"] == own["union_iou"] == own["nearer"] == 100
    assert own["swap_nearer"] == own["swap_less"] == 100 and own["swap_leak"] == 0
    assert own["colour_error"] < 1e-3
    copied = found["copy the shape"]
    assert copied["part_iou"] == 100 and copied["nearer"] == copied["swap_less"] == 0
    assert math.isnan(copied["swap_leak"])
    assert found["fill with mean colours"]["nearer"] == 100
    assert found["its own appearance"]["part_iou"] == 100
    assert found["paste the appearance"]["part_iou"] < 60


def test_the_measures_are_those_of_a_loop_over_pairs_and_parts():
    random = generator(3)
    images = torch.rand(6, 3, 10, 10, generator=random)
    method = Plain()
    view = Pictures(images)
    found = tr.measure_transfer(method, view, pairs=9, seed=4, trivial=True)
    ious, unions, told = [], [], []
    colours = lab(images)
    for a, s in tr.drawn_pairs(6, 9, 4).tolist():
        pasted = images[a]  # every part takes the other's
        la, ls, lt = (method.labels(x[None])[0] for x in (images[a], images[s], pasted))
        row = [math.nan] * K
        for k in range(1, K + 1):
            either = (lt == k) | (ls == k)
            if either.any():
                row[k - 1] = float(((lt == k) & (ls == k)).sum() / either.sum())
            if (la == k).any() and (ls == k).any():
                now, want, was = (
                    colours[i][:, where == k].mean(1) for i, where in ((a, ls), (a, la), (s, ls))
                )
                if (want - was).norm() >= tr.NOTICED:
                    told.append(float((now - want).norm() < (now - was).norm()))
        ious.append(row)
        unions.append(float(((lt > 0) & (ls > 0)).sum() / ((lt > 0) | (ls > 0)).sum()))
    pasted = found["paste the appearance"]
    assert pasted["part_iou"] == pytest.approx(100 * np.nanmean(np.nanmean(ious, 0)), abs=1e-3)
    assert pasted["union_iou"] == pytest.approx(100 * np.mean(unions), abs=1e-3)
    assert pasted["nearer"] == pytest.approx(100 * np.mean(told), abs=1e-3)


def test_batches_and_seeds_do_what_they_should():
    images, _, _ = stripes()
    images = (images + 0.1 * torch.rand(images.shape, generator=generator(1))).clamp(0, 1)
    view = Pictures(images)
    one, many = (
        tr.measure_transfer(Plain(), view, pairs=20, together=n, trivial=False)["plain"]
        for n in (20, 3)
    )
    assert one == pytest.approx(many, abs=1e-4)
    pairs = tr.drawn_pairs(8, 500, 0)
    assert torch.equal(pairs, tr.drawn_pairs(8, 500, 0))
    assert not torch.equal(pairs, tr.drawn_pairs(8, 500, 1))
    assert (pairs[:, 0] != pairs[:, 1]).all() and set(pairs.flatten().tolist()) == set(range(8))


def test_the_part_that_is_swapped_is_on_both_pictures():
    images, _, labels = stripes()
    pair = tr.Pair(images[:4], images[4:], labels[:4].where(labels[:4] != 2, 0), labels[4:])
    drawn = torch.stack(
        [tr.swapped_part(pair, torch.rand(4, K, generator=generator(i))) for i in range(30)]
    )
    assert set(drawn.unique().tolist()) == {1, 3}


def test_a_leak_is_seen():
    class Leaky(Plain):
        def render(self, appearance, shape):
            mean = appearance.mean(1, keepdim=True)
            return super().render(0.5 * appearance + 0.5 * mean, shape)

    images, _, _ = stripes()
    found = tr.measure_transfer(Leaky(), Pictures(images), pairs=40, trivial=False)["plain"]
    assert 10 < found["swap_leak"] < 60 and found["swap_less"] > 60
    assert found["part_iou"] == 100


# -- swapping


def test_one_part_takes_the_looks_and_the_others_stay():
    images, looks, labels = stripes()
    for k in range(K + 1):
        painted = tr.transferred(Plain(), images[:4], images[4:], [k])
        colours = tr.mean_colours(painted, labels[4:], K)[..., :2]
        expected = looks[4:].clone()
        expected[:, k] = looks[:4, k]
        assert torch.allclose(colours, expected, atol=1e-6)


def test_a_merged_part_has_the_looks_of_all_its_members():
    images, looks, labels = stripes()
    merged = merge_parts(Plain(), [[1, 3]])
    assert tr.members(merged).tolist() == [0, 1, 2, 1]
    painted = tr.transferred(merged, images[:4], images[4:], [1])
    colours = tr.mean_colours(painted, labels[4:], K)[..., :2]
    assert torch.allclose(colours[:, [1, 3]], looks[:4][:, [1, 3]], atol=1e-6)
    assert torch.allclose(colours[:, [0, 2]], looks[4:][:, [0, 2]], atol=1e-6)
    assert tr.measure_transfer(merged, Pictures(images), 20)["plain"]["part_iou"] == 100


def test_a_method_with_one_appearance_for_a_picture_is_measured_whole_and_not_by_part():
    images, _, labels = stripes()
    found = tr.measure_transfer(Whole(), Pictures(images), pairs=20, trivial=False)["plain"]
    assert found["part_iou"] == 100 and "swap_less" not in found
    with pytest.raises(InputError) as error:
        tr.transferred(Whole(), images[:1], images[1:2], [2])
    assert "one appearance for a whole picture" in message(error)
    assert tr.draw_swap(Whole(), images[0], images[1], None) is not None


@pytest.mark.parametrize("part", [-1, K + 1, True, 1.5, "2"])
def test_a_part_that_is_none_is_refused(part):
    with pytest.raises(InputError) as error:
        tr.chosen_parts(Plain(), [part])
    assert f"the parts are 1 to {K}" in message(error)


def test_the_grid_has_every_pair_once_however_it_is_cut():
    images, _, _ = stripes()
    rows = torch.stack(list(tr.transfer_rows(Plain(), images[:3], images[3:], together=2)))
    assert rows.shape[:2] == (3, 5)
    for i in range(3):
        alone = tr.transferred(Plain(), images[i].expand(5, -1, -1, -1), images[3:])
        assert torch.allclose(rows[i], alone, atol=1e-6)
    page = tr.tiled(tr.transfer_cells(rows, images[:3], images[3:]), cell=16, gap=2)
    assert page.shape == (4 * 18 + 2, 6 * 18 + 2, 3) and (page[2:18, 2:18] == 255).all()
    corner = page[20:36, 20:36]
    assert np.abs(corner / 255 - rows[0, 0].permute(1, 2, 0).numpy()).max() < 0.003


def test_the_widget_draws_what_its_menus_say():
    images, _, _ = stripes(3)
    box = tr.swap_widget(Plain(), images)
    menus, picture = box.children
    first = picture.value
    menus.children[2].value = 0
    assert picture.value != first and bytes(picture.value[:4]) == b"\x89PNG"
    assert tr.swap_widget(Whole(), images).children[0].children[2].value is None


# -- what cannot be


def test_a_method_without_a_decoder_says_which_methods_have_one():
    kmeans = methods["kmeans"].build(methods["kmeans"].Settings(features="rgb", size=16, parts=2))
    images, _, _ = stripes()
    for ask in (
        lambda: tr.transferred(kmeans, images[:1], images[:1]),
        lambda: protocols["transfer"]().evaluate(kmeans, None, Pictures(images)),
    ):
        with pytest.raises(InputError) as error:
            ask()
        assert "no decoder" in message(error) and "uld" in message(error)


def test_one_picture_makes_no_pair():
    with pytest.raises(InputError) as error:
        tr.measure_transfer(Plain(), Pictures(stripes(1)[0]))
    assert "two pictures" in message(error)


def test_parts_go_by_number_or_name():
    names = ["head", "part 2", "Left wing"]
    assert parts_named(["left WING", 2, "0", "background"], names) == [3, 2, 0, 0]
    for wrong in ("4", "tail", "", "-1", "99999"):
        with pytest.raises(InputError) as error:
            parts_named([wrong], names)
        assert "1 head" in message(error)


def test_a_painted_square_gets_the_photographs_proportions():
    square = torch.rand(3, 32, 32)
    assert unsqueezed(square, torch.zeros(3, 50, 100)).shape == (3, 32, 64)
    assert unsqueezed(square, torch.zeros(3, 90, 60)).shape == (3, 48, 32)
    assert unsqueezed(square, torch.zeros(3, 70, 70)) is square


# -- the command


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    "A painter that has hardly learned."
    folder = tmp_path_factory.mktemp("model") / "m"
    quick = dict(parts=3, steps=2, batch_size=2, size=32, limit=6, baselines=False)
    pb.discover("birds", "uld", out=str(folder), say=lambda *_: None, **quick)
    return folder


ODD = ("with space.png", "\u00e4\u00df \u6f22.png", "it's 100%.png", "deep/x.png", "-o.png")


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    folder = tmp_path_factory.mktemp("album")
    for i, name in enumerate(ODD):
        noise(folder / name, i, (40 + 8 * i, 32))
    return folder


def test_it_runs_with_no_photograph_at_hand(model, tmp_path, capsys):
    assert command("transfer", model, "--out", tmp_path / "o", "--limit", 2, "--overlay") == 0
    assert "4 pictures" in capsys.readouterr().out
    found = sorted((tmp_path / "o").rglob("*.png"))
    assert len(found) == 5 and all(map(is_marked_png, found))
    assert Image.open(tmp_path / "o" / "grid.png").size == (3 * 132 + 4, 4 * 132 + 4)


def test_photographs_of_any_name(model, album, tmp_path):
    out = tmp_path / "out \u00e9"
    done = transfer(model, out, appearance=[album / ODD[0]], shape=album, device="cpu")
    assert len(done.pictures) == len(ODD) and not done.skipped
    assert all(path.is_file() and path.is_relative_to(out) for path in done.pictures)
    sizes = {Image.open(path).size for path in done.pictures}
    assert (16, 20) in sizes  # 32 wide and 40 tall


def test_a_name_that_is_no_text(model, album, tmp_path):
    odd = os.fsencode(tmp_path) + b"/caf\xe9.png"
    shutil.copy(album / ODD[0], odd)
    done = transfer(model, tmp_path / "o", appearance=[os.fsdecode(odd)], limit=1, device="cpu")
    assert len(done.pictures) == 1 and done.pictures[0].is_file()


def test_what_cannot_be_read_is_skipped_and_an_empty_side_is_an_error(model, album, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    good = album / ODD[0]
    how = dict(appearance=[good], device="cpu")
    done = transfer(model, tmp_path / "o", shape=[broken, good], **how)
    assert len(done.pictures) == 1 and "broken.png" in done.skipped[0]
    with pytest.raises(InputError) as error:
        transfer(model, tmp_path / "none", shape=[broken], **how)
    assert "broken.png" in message(error) and not (tmp_path / "none").exists()


def test_a_dry_run_says_all_and_writes_nothing(model, album, tmp_path, capsys):
    words = ["transfer", model, "--shape", album, "--limit", 2, "--out", tmp_path / "o"]
    assert command(*words, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "grid.png (new)" in said and "Nothing was written" in said
    assert not (tmp_path / "o").exists()


def test_nobodys_file_is_overwritten_and_ours_is_made_anew(model, album, tmp_path, capsys):
    out = tmp_path / "o"
    words = ["transfer", model, "--appearance", album / ODD[0], "--limit", 1, "--out", out]
    assert command(*words) == 0 and command(*words) == 0
    victim = next(path for path in out.rglob("*.png") if path.name != "grid.png")
    noise(victim, 5)
    before = victim.read_bytes()
    assert "was not made by partbook" in sentence(capsys, *words)
    assert victim.read_bytes() == before


def test_a_photograph_is_not_written_over(model, album, tmp_path, capsys):
    out = tmp_path / "o"
    photograph = noise(out / "grid.png", 1)
    before = photograph.read_bytes()
    words = ["transfer", model, "--shape", photograph, "--limit", 1, "--out", out]
    assert "written over" in sentence(capsys, *words)
    assert photograph.read_bytes() == before


def test_bad_words_are_one_sentence(model, album, tmp_path, capsys):
    out = ["--out", tmp_path / "o"]
    start = ["transfer", model, *out]
    assert "there is no such part" in sentence(capsys, *start, "--part", 9)
    assert "no photograph or folder" in sentence(capsys, *start, "--shape", tmp_path / "no.jpg")
    (tmp_path / "empty").mkdir()
    assert "holds no photograph" in sentence(capsys, *start, "--shape", tmp_path / "empty")
    assert "neither a collection" in sentence(capsys, *start, "--data", "no-such")
    assert "model folder" in sentence(capsys, "transfer", tmp_path / "empty", *out)
    assert "required: --out" in sentence(capsys, "transfer", model)
    assert not (tmp_path / "o").exists()


def test_too_many_photographs_are_refused(model, tmp_path):
    run = pb.load(model, "cpu")
    small = Image.new("RGB", (8, 8))
    for i in range(MOST + 1):
        small.save(tmp_path / f"{i}.png")
    with pytest.raises(InputError) as error:
        to_transfer(run, tmp_path / "o", shape=tmp_path)
    assert f"at most {MOST}" in message(error) and "--limit" in message(error)
    assert len(to_transfer(run, tmp_path / "o", shape=tmp_path, limit=3).shape.files) == 3


def test_models_that_cannot_paint_say_so(tmp_path, album, capsys):
    quick = ["--parts", 2, "--size", 16, "--limit", 4, "--no-baselines", "--out", tmp_path / "m"]
    assert command("discover", "--features", "rgb", *quick) == 0
    said = sentence(capsys, "transfer", tmp_path / "m", "--out", tmp_path / "o")
    assert "'kmeans' has no decoder" in said and "uld" in said
    more = ["--method", "uld", "--set", "reconstruction=0", "--steps", 1, "--batch-size", 2]
    shutil.rmtree(tmp_path / "m")
    assert command("discover", *more, *quick) == 0
    said = sentence(capsys, "transfer", tmp_path / "m", "--out", tmp_path / "o")
    assert "without a painter" in said and not (tmp_path / "o").exists()


WHOLE = """
    from dataclasses import dataclass
    import torch
    from partbook.methods.method import Method, Settings, methods

    @methods.register("flat")
    class Flat(Method):
        Settings = Settings
        has_background = True
        by_part = False

        def __init__(self, settings, extractor):
            super().__init__(settings)
            self.register_buffer("seen", torch.zeros(1))

        def logits(self, images):
            levels = torch.linspace(0, 1, self.parts + 1)[:, None, None]
            return -(images[:, :1] - levels).square()

        def fit(self, collection, device="cpu"):
            return self

        def appearance(self, images):
            return images.mean((2, 3))

        def shape(self, images):
            return self.part_maps(images)

        def render(self, appearance, shape):
            return appearance[..., None, None] * shape[:, 1:2]
"""


def test_a_plugins_method_in_another_process(tmp_path, album):
    plugin = tmp_path / "flat.py"
    plugin.write_text(textwrap.dedent(WHOLE))
    base = [sys.executable, "-m", "partbook.cli", "--plugin", str(plugin)]

    def partbook(*words):
        words = [*base, *map(str, words)]
        return subprocess.run(words, capture_output=True, text=True, timeout=120)

    quick = ["--parts", 2, "--size", 16, "--limit", 4, "--no-baselines"]
    assert partbook("discover", "--method", "flat", *quick, "--out", tmp_path / "m").returncode == 0
    words = ["transfer", tmp_path / "m", "--shape", album, "--limit", 2, "--out", tmp_path / "o"]
    done = partbook(*words)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "o").rglob("*.png"))) == 5
    refused = partbook(*words, "--part", 1)
    assert refused.returncode == 2 and "one appearance for a whole picture" in refused.stderr


def test_killed_in_the_middle_nothing_is_half_written(model, album, tmp_path):
    out = tmp_path / "o"
    words = ["transfer", str(model), "--shape", str(album), "--out", str(out)]
    code = (
        "import sys, os, signal\n"
        "from partbook import transferring as t\n"
        "from partbook.cli import main\n"
        "kept = t.write_picture\n"
        "count = []\n"
        "def write(path, *more):\n"
        "    count.append(path)\n"
        "    if len(count) == 4:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return kept(path, *more)\n"
        "t.write_picture = write\n"
        "main(sys.argv[1:])\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, *words], timeout=120)
    assert killed.returncode == -signal.SIGKILL
    whole = list(out.rglob("*.png"))
    assert len(whole) == 3 and all(Image.open(path).load() for path in whole)
    assert command(*words) == 0 and (out / "grid.png").is_file()
    left = [path for path in out.rglob("*") if TEMPORARY.match(path.name) or ".lock" in path.name]
    assert not left


# -- the protocol


def test_the_protocol_is_asked_for_by_name_and_gives_a_row(model, tmp_path, monkeypatch):
    monkeypatch.setattr(tr.AppearanceTransfer, "pairs", 6)
    table = tmp_path / "transfer.csv"
    words = ["evaluate", model, "--protocol", "transfer", "--limit", 5, "--record", table]
    assert command(*words, "--out", tmp_path / "t.json") == 0
    (row,) = read_rows(table)
    assert row["protocol"] == "transfer" and row["pairs"] == 6 and row["method"] == "uld"
    for name in ("part_iou", "union_iou", "nearer", "swap_less", "part_iou_own", "nearer_pasted"):
        assert 0 <= row[name] <= 100, name
    assert "nearer_own" not in row
    kept = json.loads((tmp_path / "t.json").read_text())["protocols"]["transfer"]
    assert kept["part_iou"] == pytest.approx(row["part_iou"])
    assert "transfer" not in default_protocols(Pictures(stripes()[0]))


def test_on_photographs(shared_path, model, tmp_path):
    folder = shared_path("data/photos")
    done = transfer(model, tmp_path / "o", shape=folder, limit=2, device="cpu")
    assert done.pictures and done.grid.is_file()
