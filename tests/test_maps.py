"""Maps of a folder: what is planned, what is written, whose a map is, what a killed run leaves."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import message
from PIL import Image

from partbook import files
from partbook.core import InputError, generator
from partbook.data.folder import Folder
from partbook.features import maps
from partbook.features.maps import (
    DIRECTION,
    RECORD,
    MapOptions,
    map_estimate,
    map_of,
    map_record,
    map_settings,
    number_of,
    plan_maps,
    settings_number,
    shrink,
    write_maps,
)
from partbook.files import HOST, is_marked_png, is_ours, read_json
from partbook.weights import save_tensors

SMALL = dict(size=24)


def photograph(path, seed=0, size=(40, 30)):
    "A bright blob on dark ground."
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(20, 60, (size[1], size[0], 3), dtype=np.uint8)
    h, w = size[1] // 4, size[0] // 4
    pixels[h : 3 * h, w + seed : 3 * w + seed] = (230, 200 - 20 * seed, 40)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def album(tmp_path):
    for i in range(4):
        photograph(tmp_path / "album" / f"p{i}.png", i)
    return tmp_path / "album"


def content(folder):
    "All files of a folder but what says when and by which command."
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    record = json.loads(found.pop(RECORD)) if RECORD in found else None
    return found, record and (record["settings"], record["files"])


def make(album, out=None, **options):
    return write_maps(plan_maps(album, MapOptions(**{**SMALL, **options}), out), command="c")


# -- the plan


def test_a_plan_writes_nothing_and_says_everything(album):
    (album / "broken.jpg").write_bytes(b"no picture")
    photograph(album / "more" / "x.jpg")
    photograph(album / "p1.jpg")
    photograph(album / "masks" / "p2.png")
    plan = plan_maps(album, MapOptions(**SMALL))
    wanted = ["broken.png", "p0.png", "p1.png", "p3.png", "more/x.png"]
    assert sorted(plan.wanted) == sorted(wanted) and plan.there == ["p2.png"]
    assert sorted(plan.reads) == sorted(album / n for n in plan.wanted.values())
    assert set(plan.writes) == {album / "masks" / n for n in [*wanted, RECORD]}
    assert len(plan.skipped) == 1 and "would share its map with p1.jpg; rename" in plan.skipped[0]
    assert [p.name for p in (album / "masks").iterdir()] == ["p2.png"]
    done = write_maps(plan)
    assert sorted(done.maps) == sorted(set(wanted) - {"broken.png"}) and len(done.skipped) == 2
    assert all(p.exists() and is_ours(p) for p in plan.writes if p.name != "broken.png")


def test_features_leave_their_direction_in_the_plan(album):
    plan = plan_maps(album, MapOptions("border", features="rgb", **SMALL))
    assert album / "masks" / DIRECTION in plan.writes
    write_maps(plan)
    assert is_ours(album / "masks" / DIRECTION)
    photograph(album / "late.png", 2)
    again = plan_maps(album, MapOptions("border", features="rgb", **SMALL))
    assert [p.name for p in again.writes] == ["late.png", RECORD]


def test_masks_show_the_bright_blob(album):
    make(album, size=64)
    for i, sample in enumerate(Folder.open(album)):
        truth = torch.zeros(30, 40, dtype=torch.bool)
        truth[7:21, 10 + i : 30 + i] = True
        union = (sample.mask | truth).sum()
        assert (sample.mask & truth).sum() / union > 0.8, (i, float(union))


def test_files_hold_what_the_functions_give(album):
    for soft in (False, True):
        settings = map_settings(MapOptions(soft=soft, **SMALL))
        make(album, soft=soft)
        estimate = map_estimate(settings, None, album)
        image = torch.from_numpy(np.array(Image.open(album / "p1.png"))).permute(2, 0, 1)
        expected = map_of(estimate, image / 255, 24)
        expected = (expected * 255).round().byte() if soft else 255 * (expected > 0.5).byte()
        written = Image.open(album / ("saliency" if soft else "masks") / "p1.png")
        assert written.mode == "L" and np.array_equal(np.asarray(written), expected)


@pytest.mark.parametrize("shape", [(1, 1), (700, 3), (5, 900), (256, 256), (513, 257)])
@pytest.mark.parametrize("size", [(16, 16), (300, 40)])
def test_bands_shrink_as_the_whole_does(shape, size):
    image = torch.randint(0, 256, (3, *shape), generator=generator(0), dtype=torch.uint8)
    options = dict(mode="bilinear", antialias=True, align_corners=False)
    whole = torch.nn.functional.interpolate(image[None] / 255, size, **options).clamp(0, 1)
    assert torch.allclose(shrink(image, size), whole, atol=1e-6)
    assert torch.allclose(shrink(image / 255, size, rows=64), whole, atol=1e-6)


# -- whose a map is


def test_a_mask_corrected_by_hand_is_never_written_over(album):
    make(album)
    corrected = album / "masks" / "p1.png"
    Image.open(corrected).rotate(180).save(corrected)
    before = corrected.read_bytes()
    plan = plan_maps(album, MapOptions(replace=True, patches=50, **SMALL))
    assert list(plan.wanted) == ["p0.png", "p2.png", "p3.png"]
    assert "p1.png: it was changed since it was made, so it stays" in plan.skipped[0]
    write_maps(plan)
    assert corrected.read_bytes() == before
    assert read_json(album / "masks" / RECORD)["files"] == ["p0.png", "p2.png", "p3.png"]


def test_the_record_is_mended_where_files_came_or_went(album):
    make(album)
    record = album / "masks" / RECORD
    whole = content(album / "masks")
    value = json.loads(record.read_text())
    (album / "masks" / "p0.png").unlink()
    record.write_text(json.dumps(value | {"files": ["p0.png", "p3.png", "never.png"]}))
    assert make(album).maps == ["p0.png"] and content(album / "masks") == whole
    record.write_text(json.dumps(value | {"files": ["p3.png"]}))
    plan = plan_maps(album, MapOptions(**SMALL))
    assert not plan.wanted and plan.writes == [record]
    write_maps(plan)
    assert content(album / "masks") == whole


def test_maps_of_photographs_that_are_gone_go_when_all_are_made_anew(album):
    make(album)
    (album / "p3.png").unlink()
    make(album, replace=True, patches=50)
    assert sorted(p.name for p in (album / "masks").iterdir()) == [
        "p0.png",
        "p1.png",
        "p2.png",
        RECORD,
    ]


def test_a_record_without_its_maps_counts_for_nothing(album):
    make(album)
    for path in (album / "masks").glob("*.png"):
        path.unlink()
    assert len(make(album, patches=50).maps) == 4
    assert read_json(album / "masks" / RECORD)["settings"]["superpixels"] == 50


def test_a_map_that_appears_meanwhile_stays(album):
    plan = plan_maps(album, MapOptions(**SMALL))
    own = photograph(album / "masks" / "p2.png")
    before = own.read_bytes()
    done = write_maps(plan)
    assert done.maps == ["p0.png", "p1.png", "p3.png"] and own.read_bytes() == before
    assert "p2.png has appeared meanwhile, so it stays" in done.skipped[0]


@pytest.mark.parametrize(
    "settings, files",
    [
        ([], []),
        ({"foreground": {"deep": [1]}}, []),
        ({"foreground": [[1]]}, []),
        ({}, {"p0.png": 1}),
        ({}, ["/etc/passwd.png"]),
        ({}, ["a/../../p0.png"]),
        ({}, ["p0.jpg"]),
        ({}, ["p0\0.png"]),
        ({}, [["p0.png"]]),
        ({}, None),
    ],
)
def test_a_record_of_the_wrong_shape_is_one_sentence(settings, files, album):
    record = album / "masks" / RECORD
    record.parent.mkdir()
    record.write_text(json.dumps({"settings": settings, "files": files}))
    for replace in (False, True):
        with pytest.raises(
            InputError, match="is not a record of `partbook saliency`; move it"
        ) as error:
            make(album, replace=replace)
        message(error)
    assert [p.name for p in record.parent.iterdir()] == [RECORD]


@pytest.mark.parametrize(
    "change",
    [
        {"foreground": "border"},
        {"superpixels": "200"},
        {"size": [24]},
        {"soft": None},
        {"mood": "x" * 10**5},
        {"new\nline": "a\nb"},
        {"size": 24.5},
        {"superpixels": float("nan")},
    ],
)
def test_a_record_with_other_values_is_one_sentence(change, album):
    make(album)
    path = album / "masks" / RECORD
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"settings": record["settings"] | change}))
    with pytest.raises(InputError, match="holds 4 maps made otherwise") as error:
        make(album)
    assert len(message(error)) < 1000
    made = make(album, replace=True)
    assert len(made.maps) == 4 and read_json(path)["settings"] == record["settings"]


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("[" * 100_000, "nested too deep"),
        ("{", "is not a JSON file"),
        ("\ufeff[]", "is not a record"),
        ('{"a": ' * 50_000, "nested too deep"),
        ("", "is not a JSON file"),
    ],
)
def test_a_record_that_is_no_json(text, sentence, album):
    (album / "masks").mkdir()
    (album / "masks" / RECORD).write_text(text)
    with pytest.raises(InputError, match=sentence) as error:
        make(album, replace=True)
    message(error)


def test_a_record_cannot_reach_a_file_that_is_not_ours(album):
    make(album)
    path = album / "masks" / RECORD
    record = json.loads(path.read_text())
    (album / "masks" / "more").symlink_to(album)
    photographs = {p.name: p.read_bytes() for p in album.glob("*.png")}
    path.write_text(
        json.dumps(record | {"files": ["more/p0.png", "more/p1.png", *record["files"]]})
    )
    make(album, replace=True, patches=50)
    assert {p.name: p.read_bytes() for p in album.glob("*.png")} == photographs


# -- the fitted line


def line(C=3, **other):
    "What a direction is kept as."
    how = torch.tensor([0.0, 0.0, 1.0])
    return {"mean": torch.zeros(C), "axis": torch.zeros(C), "how": how} | other


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: p.unlink(),
        lambda p: p.write_bytes(b"half"),
        lambda p: p.write_bytes(p.read_bytes()[:-3]),
        lambda p: save_tensors(line(C=5), p),
        lambda p: save_tensors(line(mean=torch.full((3,), torch.nan)), p),
        lambda p: save_tensors(line(how=torch.tensor([0.0, 0.0, 0.0])), p),
        lambda p: save_tensors(line(how=torch.tensor([0.0, torch.nan, 1.0])), p),
        lambda p: save_tensors({"mean": torch.zeros(3)}, p),
    ],
)
def test_a_damaged_direction_is_one_sentence(damage, album):
    words = dict(foreground="border", features="rgb")
    make(album, **words)
    photograph(album / "late.png", 1)
    whole = (album / "masks" / DIRECTION).read_bytes()
    damage(album / "masks" / DIRECTION)
    with pytest.raises(InputError, match="missing or damaged, so no map can be added") as error:
        make(album, **words)
    message(error)
    assert not (album / "masks" / "late.png").exists()
    (album / "late.png").unlink()
    make(album, replace=True, **words)
    assert (album / "masks" / DIRECTION).read_bytes() == whole


def test_clusters_are_kept_as_a_direction_is(album):
    words = dict(foreground="clusters", features="rgb")
    make(album, **words)
    made = {p.name: p.read_bytes() for p in (album / "masks").glob("p*.png")}
    photograph(album / "late.png", 1)
    kept = (album / "masks" / DIRECTION).read_bytes()
    make(album, **words)
    assert (album / "masks" / "late.png").exists()
    assert (album / "masks" / DIRECTION).read_bytes() == kept
    assert {p.name: p.read_bytes() for p in (album / "masks").glob("p*.png")} == made


def test_a_pipe_for_a_direction_is_refused_twice(album):
    words = dict(foreground="border", features="rgb")
    make(album, **words)
    photograph(album / "late.png", 1)
    path = album / "masks" / DIRECTION
    path.unlink()
    os.mkfifo(path)
    for replace in (False, True):
        with pytest.raises(InputError, match="missing or damaged|pipe or a device") as error:
            make(album, replace=replace, **words)
        message(error)
    assert path.is_fifo()


# -- odd names, large photographs


def test_names_that_are_no_utf8(album):
    for name in (b"\xff.jpg", b"caf\xe9.png", b"more/\xe4\xff.webp"):
        photograph(album / os.fsdecode(name), 1)
    done = make(album)
    assert len(done.maps) == 7 and not done.skipped
    assert len(read_json(album / "masks" / RECORD)["files"]) == 7
    assert os.path.exists(os.fsencode(album) + b"/masks/more/\xe4\xff.png")
    again = plan_maps(album, MapOptions(**SMALL))
    assert not again.wanted and not again.writes and len(again.listed) == 7
    (album / os.fsdecode(b"br\xfck.jpg")).write_bytes(b"no picture")
    (why,) = make(album).skipped
    assert "br\\xfck.jpg" in why and why.encode("utf-8")


def test_a_photograph_too_large_for_memory_is_skipped(album, monkeypatch):
    calm = album.parent / "calm"
    make(album, calm)
    read = maps.read_pixels

    def fail(path):
        if path.name == "p2.png":
            raise RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
            )
        return read(path)

    monkeypatch.setattr(maps, "read_pixels", fail)
    done = make(album)
    assert (
        done.maps == ["p0.png", "p1.png", "p3.png"]
        and "too large for this machine" in done.skipped[0]
    )
    for name in done.maps:
        assert (album / "masks" / name).read_bytes() == (calm / name).read_bytes()
    monkeypatch.undo()
    make(album)
    assert content(album / "masks") == content(calm)


def test_a_map_of_six_million_pixels_takes_few_bytes_for_each(tmp_path):
    from partbook.evaluation.large import highest_memory

    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("memory cannot be asked here")
    photograph(tmp_path / "warm" / "a.jpg")
    make(tmp_path / "warm", soft=True, size=100)
    photograph(tmp_path / "large" / "a.jpg", size=(3000, 2000))
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = highest_memory()
    make(tmp_path / "large", soft=True, size=100)
    assert (highest_memory() - before) / 6e6 < 30


# -- killed, and run again


class Killed(BaseException):
    "What SIGKILL would do: nothing after it happens."


def killed_after(count, monkeypatch):
    "Let `count` steps that touch files happen, then none; whether the end was reached."
    left = [count]

    def limited(step):
        def once(*args, **words):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return step(*args, **words)

        return once

    monkeypatch.setattr(maps, "write_map", limited(maps.write_map))
    monkeypatch.setattr(maps, "write_json", limited(maps.write_json))
    monkeypatch.setattr(maps, "write_direction", limited(maps.write_direction))
    monkeypatch.setattr(Path, "unlink", limited(Path.unlink))


CASES = {
    "new, from colours": ([], dict()),
    "new, from features": ([], dict(foreground="border", features="rgb")),
    "anew, otherwise": ([dict(foreground="border", features="rgb")], dict(replace=True)),
    "anew, the same way": ([dict()], dict(replace=True)),
    "anew, with features": (
        [dict(foreground="component", features="rgb")],
        dict(foreground="border", features="rgb", replace=True),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_killed_anywhere_and_run_again_gives_the_same_maps(case, album):
    first, last = CASES[case]
    calm = album.parent / "calm"
    for words in (*first, last):
        make(album, calm, **words)
    expected, stages = content(calm), 0
    own = (album / "p0.png").read_bytes()
    while True:
        out = album.parent / f"killed{stages}"
        for words in first:
            make(album, out, **words)
        with pytest.MonkeyPatch.context() as patch:
            killed_after(stages, patch)
            try:
                make(album, out, **last)
                reached = True
            except Killed:
                reached = False
        check_record(out)
        make(album, out, **last)
        assert content(out) == expected, (case, stages)
        check_record(out)
        if reached:
            break
        stages += 1
    assert stages >= 6 and (album / "p0.png").read_bytes() == own


def check_record(out):
    "The record lists nothing that is not there, and what it does not list can be told to be ours."
    if not (out / RECORD).exists():
        assert not list(out.glob("*.png"))
        return
    record = read_json(out / RECORD)
    there = {p.name for p in out.glob("*.png")}
    assert set(record["files"]) <= there
    assert all(number_of(out / n) == settings_number(record["settings"]) for n in there)


def test_half_a_run_without_replace_is_taken_up_by_its_settings(album):
    with pytest.MonkeyPatch.context() as patch:
        killed_after(6, patch)  # the record and two maps, and tidying after each
        with pytest.raises(Killed):
            make(album)
    assert read_json(album / "masks" / RECORD)["files"] == []
    with pytest.raises(InputError, match="holds 2 maps made otherwise"):
        make(album, patches=50)
    assert make(album).maps == ["p2.png", "p3.png"]
    assert len(map_record(album / "masks", map_settings(MapOptions(**SMALL)))["ours"]) == 4
    assert all(is_marked_png(p) for p in (album / "masks").glob("*.png"))


def test_an_interrupt_leaves_a_true_record(album, monkeypatch):
    made, write = [], maps.write_map

    def stop(*words):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(write(*words))

    monkeypatch.setattr(maps, "write_map", stop)
    with pytest.raises(KeyboardInterrupt):
        make(album)
    assert read_json(album / "masks" / RECORD)["files"] == ["p0.png", "p1.png"]
    assert not list(album.rglob(".*"))


def test_a_half_written_file_of_a_dead_process_is_no_map(album):
    make(album)
    whole = content(album / "masks")
    left = album / "masks" / f".partbook-{HOST}-{2**22 + 1}-x.png"
    left.write_bytes((album / "masks" / "p1.png").read_bytes()[:200])
    (album / "masks" / "p1.png").unlink()
    files._SWEPT.clear()  # as in a new process
    assert make(album).maps == ["p1.png"]
    assert content(album / "masks") == whole and not left.exists()
