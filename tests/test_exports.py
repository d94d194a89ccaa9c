"""Parts in other tools' forms: to the pixel, streamed, and never over somebody's work."""

import csv
import gc
import json
import logging
import os
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import message, sentence
from helpers import run as command
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from torchvision.ops import masks_to_boxes

import partbook as pb
from partbook import exporting
from partbook.core import InputError
from partbook.data.pictures import read_pixels
from partbook.evaluation.exports import (
    LOSSLESS,
    Labelled,
    confidences,
    count_labels,
    cut_out,
    measure_parts,
    outlines,
    regions,
    run_lengths,
    safe_name,
    signed_area,
    thinned,
    trace,
)
from partbook.evaluation.segment import logits_of, segment_image
from partbook.exporting import ExportOptions, export, find_photographs, is_untouched
from partbook.features.maps import shrink
from partbook.files import is_marked_png, is_ours
from partbook.parts.maps import upsample
from partbook.readers.coco import CocoParts, decode_runs, expand_runs, fill_polygon

FORMS = ("coco", "labelme", "csv", "crops")


@pytest.fixture(scope="module")
def run():
    quick = dict(features="rgb", parts=4, size=32, limit=8, baselines=False)
    found = pb.discover("birds", say=lambda *_: None, **quick)
    found.facts["names"] = {"1": "left ear", "3": "a/b"}
    return found


def photograph(path, size, seed=0, **more):
    "Soft blobs in several colours."
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (5, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path, **more)
    return path


NAMES = (
    "plain.png",
    "with space.png",
    "\u00e4\u00df \u6f22.png",
    "it's 100%.png",
    "more/deep/x.png",
)


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    "Odd sizes, odd names, a photograph that has to be turned, and a file that is none."
    folder = tmp_path_factory.mktemp("album")
    for i, name in enumerate(NAMES):
        photograph(folder / name, (37 + 8 * i, 53 - 4 * i), i)
    exif = Image.Exif()
    exif[274] = 6  # lies on its side
    photograph(folder / "turned.jpg", (61, 34), 9, exif=exif, quality=95)
    photograph(folder / "large.jpg", (2300, 70), 10)
    return folder


def labels_of(run, path):
    return segment_image(run.method, read_pixels(path)).numpy()


# -- outlines


def filled(polygons, size):
    inside = np.zeros(size, bool)
    for polygon in polygons:
        inside |= fill_polygon(polygon, size)
    return inside


def masks():
    random = np.random.default_rng(0)
    for size in ((1, 1), (1, 9), (9, 1), (2, 2), (3, 3), (17, 23), (40, 31)):
        yield np.ones(size, bool)
        for share in (0.1, 0.3, 0.5, 0.7, 0.95):
            yield random.random(size) < share
    rings = np.add.outer(np.arange(-20, 21) ** 2, np.arange(-20, 21) ** 2) // 30 % 3 == 0
    yield rings


@pytest.mark.parametrize("tolerance", [0, 0.2, LOSSLESS])
def test_an_outline_fills_back_to_the_same_pixels(tolerance):
    for mask in masks():
        assert (filled(outlines(mask, tolerance), mask.shape) == mask).all()


def test_pieces_do_not_overlap_and_add_up():
    for mask in masks():
        parts = regions(mask)
        area = sum(signed_area(r.outer) + sum(map(signed_area, r.holes)) for r in parts)
        assert area == mask.sum()
        assert all(signed_area(r.outer) > 0 for r in parts)
        assert all(signed_area(hole) < 0 for r in parts for hole in r.holes)


def test_every_line_is_closed_along_the_grid_and_turns_at_each_corner():
    for mask in masks():
        for line in trace(mask):
            step = np.roll(line, -1, 0) - line
            assert ((step == 0).sum(1) == 1).all()
            assert ((step != 0) != (np.roll(step, 1, 0) != 0)).all()


def test_cocos_own_filler_gives_the_same_pixels_for_outlines_along_the_grid():
    for mask in masks():
        if mask.any():
            lines = [p.ravel().tolist() for p in outlines(mask, 0)]
            runs = coco_masks.merge(coco_masks.frPyObjects(lines, *mask.shape))
            assert (coco_masks.decode(runs).astype(bool) == mask).all()


def test_a_larger_tolerance_keeps_fewer_corners_and_stays_within_it():
    disc = np.add.outer(np.arange(-50, 51) ** 2, np.arange(-50, 51) ** 2) < 45**2
    counts = [sum(map(len, outlines(disc, t))) for t in (0, LOSSLESS, 1, 3)]
    assert counts == sorted(counts, reverse=True) and counts[-1] >= 3
    rough = filled(outlines(disc, 3), disc.shape)
    off = np.argwhere(rough != disc) - 50
    assert (np.abs(np.hypot(*off.T) - 45) < 4.5).all()


def test_a_line_never_collapses():
    assert len(thinned(trace(np.ones((1, 2), bool))[0], 50.0)) >= 3


def test_nothing_has_no_outline():
    assert outlines(np.zeros((3, 4), bool)) == []


# -- measures


def test_measures_are_those_of_the_masks():
    labels = np.random.default_rng(1).integers(0, 4, (600, 37))
    labels[labels == 2] = 0
    m = measure_parts(labels, 4)
    assert m.areas[1] == m.areas[3] == 0 and np.isnan(m.centres[[1, 3]]).all()
    assert not m.boxes[[1, 3]].any()
    for k in (1, 3):
        mask = labels == k
        rows, columns = np.nonzero(mask)
        left, top, right, bottom = masks_to_boxes(torch.from_numpy(mask)[None])[0].tolist()
        assert m.boxes[k - 1].tolist() == [left, top, right + 1 - left, bottom + 1 - top]
        assert np.allclose(m.centres[k - 1], [columns.mean() + 0.5, rows.mean() + 0.5])
        assert m.areas[k - 1] == mask.sum()


def test_counts_do_not_depend_on_bands(monkeypatch):
    labels = np.random.default_rng(2).integers(0, 6, (53, 41)).astype(np.uint8)
    whole = count_labels(labels, 5)
    monkeypatch.setattr("partbook.evaluation.exports.BAND", 7)
    for one, other in zip(whole, count_labels(labels, 5)):
        assert (one == other).all()


def test_confidence_is_the_mean_over_the_labels_own_pixels():
    maps = torch.rand(3, 6, 5)
    labels = torch.randint(0, 3, (48, 55))  # part 3 is absent
    large = upsample(maps[None], (48, 55))[0]
    found = confidences(labels, maps)
    for k in (1, 2):
        assert abs(found[k - 1] - large[k - 1][labels == k].mean()) < 1e-5
    assert found[2].isnan()


def test_run_lengths_are_those_our_reader_expands():
    for mask in masks():
        runs = run_lengths(mask)
        assert (decode_runs(expand_runs(runs["counts"]), mask.shape) == mask).all()


def test_safe_names_are_names_on_any_disk():
    for name in ("..", ".", "", "a/b\\c:d", "nul", "COM1", "x" * 300, "\u6f22" * 100, "a\tb"):
        safe = safe_name(name)
        assert safe and not set(safe) & set('/\\:*?"<>|\t.') and len(safe.encode()) <= 61
        assert safe.lower() not in ("nul", "com1")


# -- COCO


@pytest.mark.parametrize("outline", [False, True])
def test_our_reader_and_cocos_read_the_export_back_to_the_same_pixels(outline, run, album):
    target = album / "annotations.json"
    done = export(run, album, album, form="coco", outline=outline, whole="bird")
    assert done.photographs == len(NAMES) + 2 and done.written == [target] and is_ours(target)
    coco = CocoParts.open(album, "all")
    assert coco.part_names == ("left ear", "part 2", "a/b", "part 4")
    seen = set()
    for i in range(len(coco)):
        sample = coco[i]
        labels = labels_of(run, album / sample.name)
        assert sample.parts.shape == labels.shape and (sample.parts.numpy() == labels).all()
        assert sample.image.shape[1:] == labels.shape
        seen.add(sample.name)
    assert seen == {*NAMES, "turned.jpg", "large.jpg"}
    theirs = COCO(str(target))
    assert [c["supercategory"] for c in theirs.loadCats(theirs.getCatIds())] == ["bird"] * 4
    for image in theirs.loadImgs(theirs.getImgIds()):
        labels = labels_of(run, album / image["file_name"])
        for a in theirs.loadAnns(theirs.getAnnIds(image["id"])):
            mask = labels == a["category_id"]
            assert (theirs.annToMask(a).astype(bool) == mask).all()
            assert a["area"] == mask.sum() and a["iscrowd"] == 0 and 0 <= a["score"] <= 1
            runs = coco_masks.encode(np.asfortranarray(mask, dtype=np.uint8))
            assert coco_masks.toBbox(runs).tolist() == a["bbox"]
    target.unlink()


def test_a_name_that_is_no_text_survives(run, tmp_path):
    odd = os.fsdecode(b"caf\xe9.png")
    try:
        photograph(tmp_path / "in" / odd, (20, 31))
    except OSError:
        pytest.skip("this disk takes names in UTF-8 only")
    export(run, tmp_path / "in", tmp_path / "in", form="coco")
    record = json.loads((tmp_path / "in" / "annotations.json").read_text())
    assert record["images"][0]["file_name"] == odd
    assert (CocoParts.open(tmp_path / "in", "all")[0].parts.numpy() > 0).all()
    export(run, tmp_path / "in", tmp_path / "out", form="csv")
    assert "caf\\xe9.png" in (tmp_path / "out" / "parts.csv").read_text()


# -- LabelMe


def test_labelmes_own_loader_opens_the_file(run, album, tmp_path):
    labelme = pytest.importorskip("labelme")
    try:
        from labelme._label_file import LabelFile
    except ImportError:
        LabelFile = labelme.LabelFile
    logging.disable()
    done = export(run, album, tmp_path / "out", form="labelme")
    assert len(done.written) == len(NAMES) + 2
    for path in done.written:
        file = LabelFile(str(path))
        photo = (path.parent / file.image_path).resolve()
        labels = labels_of(run, photo)
        again = np.zeros_like(labels)
        for shape in file.shapes:
            assert shape["shape_type"] == "polygon"
            again[fill_polygon(np.array(shape["points"]), labels.shape)] = shape["group_id"]
        assert (again == labels).all()
        assert {s["label"] for s in file.shapes} <= {"left ear", "part 2", "a/b", "part 4"}
    logging.disable(logging.NOTSET)


def test_outlines_that_were_corrected_are_never_written_over(run, album, tmp_path):
    done = export(run, album, tmp_path, form="labelme")
    export(run, album, tmp_path, form="labelme", tolerance=2.0)  # ours still: written anew
    mine = done.written[0]
    assert is_untouched(mine)
    record = json.loads(mine.read_text())
    record["shapes"][0]["points"][0][0] += 5
    record["version"] = "6.3.1"
    mine.write_text(json.dumps(record))
    others = {p: p.read_bytes() for p in done.written}
    with pytest.raises(InputError) as refusal:
        export(run, album, tmp_path, form="labelme")
    assert mine.name in message(refusal)
    assert all(p.read_bytes() == content for p, content in others.items())


# -- table and cut-outs


def test_the_table_has_a_row_for_each_photograph_and_part(run, album, tmp_path):
    done = export(run, album, tmp_path, form="csv")
    with open(tmp_path / "parts.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * done.photographs and is_ours(tmp_path / "parts.csv")
    for row in rows:
        labels = labels_of(run, album / row["photograph"])
        assert labels.shape == (int(row["height"]), int(row["width"]))
        mask = labels == int(row["part"])
        assert int(row["area"]) == mask.sum()
        assert abs(float(row["share"]) - mask.mean()) < 1e-6
        assert (row["x"] == "") == (row["confidence"] == "") == (row["left"] == "")
        assert (row["x"] == "") == (not mask.any())
        if mask.any():
            assert abs(float(row["x"]) - (np.nonzero(mask)[1].mean() + 0.5)) < 0.006
            assert 0 < float(row["confidence"]) <= 1


def test_a_cut_out_is_the_part_and_nothing_else(run, album, tmp_path):
    done = export(run, album, tmp_path, form="crops", margin=0.0)
    folders = {p.relative_to(tmp_path).parts[0] for p in done.written}
    assert folders <= {"1_left ear", "2_part 2", "3_a_b", "4_part 4"}
    for path in done.written:
        assert is_marked_png(path)
    path = next(p for p in done.written if p.stem == "plain")
    k = int(path.parent.name[0])
    labels = labels_of(run, album / "plain.png")
    left, top, width, height = measure_parts(labels, 4).boxes[k - 1]
    cut = np.asarray(Image.open(path))
    assert ((cut[..., 3] > 0) == (labels == k)[top : top + height, left : left + width]).all()
    pixels = read_pixels(album / "plain.png").permute(1, 2, 0).numpy()
    assert (cut[..., :3] == pixels[top : top + height, left : left + width]).all()


def test_cut_outs_have_a_margin_and_a_largest_size(run, album, tmp_path):
    image = np.zeros((100, 200, 3), np.uint8)
    mask = np.zeros((100, 200), bool)
    mask[40:60, 50:90] = True
    box = [50, 40, 40, 20]
    assert cut_out(image, mask, box, 0.5).size == (80, 60)
    assert cut_out(image, mask, box, 9.0).size == (200, 100)
    assert cut_out(image, mask, box, 0, False).mode == "RGB"
    assert max(cut_out(image, mask, box, 0.5, longest=16).size) == 16
    done = export(run, album, tmp_path, form="crops", jpeg=True, longest=16)
    assert all(max(Image.open(p).size) <= 16 and p.suffix == ".jpg" for p in done.written)


# -- what is read, skipped, refused


def test_what_cannot_be_read_is_skipped_with_a_sentence(run, tmp_path):
    photograph(tmp_path / "in" / "a.png", (30, 20))
    (tmp_path / "in" / "note.jpg").write_text("call the vet")
    for form in FORMS:
        done = export(run, tmp_path / "in", tmp_path / form, form=form)
        assert done.photographs == 1 and len(done.skipped) == 1
        assert "note.jpg cannot be read as a picture" in done.skipped[0]


def test_where_nothing_can_be_read_nothing_is_written(run, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "note.jpg").write_text("call the vet")
    for form in FORMS:
        with pytest.raises(InputError, match="None of the 1 files") as refusal:
            export(run, tmp_path / "in", tmp_path / form, form=form)
        message(refusal)
        assert not (tmp_path / form).exists()


def test_foreign_files_stay(run, album, tmp_path):
    for form, name in (("coco", "annotations.json"), ("csv", "parts.csv")):
        (tmp_path / name).write_text("{}")
        with pytest.raises(InputError, match="was not made by partbook"):
            export(run, album, tmp_path, form=form)
        assert (tmp_path / name).read_text() == "{}"
    done = export(run, album, tmp_path / "new", form="coco")
    export(run, album, tmp_path / "new", form="coco")  # ours: made anew
    assert done.written[0].exists()


@pytest.mark.parametrize(
    "how, words",
    [
        ({"form": "voc"}, "choose: coco"),
        ({"form": "csv", "margin": 0.1}, "--margin means nothing"),
        ({"form": "crops", "outline": True}, "--outline means nothing"),
        ({"form": "coco", "tolerance": 1.0}, "add --outline"),
        ({"form": "labelme", "tolerance": -1.0}, "0 or more"),
        ({"form": "labelme", "tolerance": float("nan")}, "0 or more"),
        ({"form": "crops", "margin": -0.1}, "a share from 0"),
        ({"form": "crops", "longest": 3}, "at least 16"),
    ],
)
def test_wishes_that_do_not_fit_are_refused(how, words):
    with pytest.raises(InputError, match=words) as refusal:
        ExportOptions(**how)
    message(refusal)


def test_unknown_options_and_places_are_refused(run, album, tmp_path):
    with pytest.raises(InputError, match="no option"):
        export(run, album, tmp_path, form="csv", colour="red")
    with pytest.raises(InputError, match="There is no image or folder"):
        export(run, tmp_path / "nowhere", tmp_path, form="csv")
    with pytest.raises(InputError, match="holds no image"):
        export(run, tmp_path, tmp_path, form="csv")
    with pytest.raises(InputError, match="gives no background"):
        export(run, album, tmp_path, form="csv", crf="full")


def test_two_photographs_of_one_name_are_refused(tmp_path):
    photograph(tmp_path / "a" / "x.png", (9, 9))
    photograph(tmp_path / "b" / "x.png", (9, 9))
    with pytest.raises(InputError, match="one name") as refusal:
        find_photographs([tmp_path / "a", tmp_path / "b"])
    message(refusal)


def test_two_photographs_that_want_one_file_are_refused(run, tmp_path):
    photograph(tmp_path / "in" / "x.png", (9, 9))
    photograph(tmp_path / "in" / "x.jpg", (9, 9))
    assert export(run, tmp_path / "in", tmp_path / "c", form="csv").photographs == 2
    with pytest.raises(InputError, match="Two results would be called"):
        export(run, tmp_path / "in", tmp_path / "l", form="labelme")


def test_photographs_are_let_go_one_by_one(run, album, tmp_path, monkeypatch):
    alive = weakref.WeakSet()
    most = []

    class Watched(Labelled):
        __hash__ = object.__hash__

        def __post_init__(self):
            super().__post_init__()
            alive.add(self)
            gc.collect()
            most.append(len(alive))

    monkeypatch.setattr(exporting, "Labelled", Watched)
    for form in FORMS:
        export(run, album, tmp_path / form, form=form)
    assert len(most) == 4 * (len(NAMES) + 2) and max(most) <= 2


# -- the command


@pytest.fixture(scope="module")
def saved(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    kept = run.folder
    run.save(folder)
    run.folder = kept
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_the_command_says_what_it_wrote_and_a_dry_run_writes_nothing(
    form, saved, album, tmp_path, capsys
):
    words = ("export", saved, album, "--as", form, "--out", tmp_path / "out", "--limit", 2)
    assert command(*words, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "Nothing was written." in said and not (tmp_path / "out").exists()
    assert command(*words) == 0
    said = capsys.readouterr().out
    assert "on 2 photographs" in said and any((tmp_path / "out").rglob("*.*"))


def test_the_command_complains_in_one_sentence(saved, album, tmp_path, capsys):
    words = ["export", saved, album, "--out", tmp_path / "out"]
    assert "invalid choice" in sentence(capsys, *words, "--as", "voc")
    assert "--jpeg means nothing" in sentence(capsys, *words, "--as", "csv", "--jpeg")
    assert "model" in sentence(capsys, "export", tmp_path, album, "--as", "csv", "--out", "x")


# -- real photographs


def test_real_photographs_are_read_back_to_the_pixel(run, shared_path, tmp_path):
    folder = shared_path("data/photos/cats")
    photos = sorted(Path(folder).glob("*.jpg"))[:3]
    for photo in photos:
        (tmp_path / photo.name).write_bytes(photo.read_bytes())
    export(run, tmp_path, tmp_path, form="coco", outline=True)
    coco = CocoParts.open(tmp_path, "all")
    assert len(coco) == len(photos)
    for i in range(len(coco)):
        labels = labels_of(run, tmp_path / coco[i].name)
        assert (coco[i].parts.numpy() == labels).all()


def test_scores_of_merged_parts_are_those_of_the_merged_method(run, album, tmp_path):
    merged = replace(run, facts=dict(run.facts), folder=None)
    pb.merge(merged, [[0, 1], [2, 4]])
    image = read_pixels(album / "plain.png")
    scores = logits_of(merged.method, [image])[0]
    square = shrink(image, (32, 32))
    expected = merged.method.part_maps(square)[0, 1:]
    assert torch.allclose(exporting.maps_from(merged.method, scores), expected, atol=1e-6)
    export(merged, album, tmp_path, form="csv")
    with open(tmp_path / "parts.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["photograph"] == "plain.png"]
    labels = labels_of(run, album / "plain.png")
    areas = [int(np.isin(labels, members).sum()) for members in ([2, 4], [3])]
    assert [int(row["area"]) for row in rows] == areas
