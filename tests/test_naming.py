"""Names and mergers: exact to the pixel, followed everywhere, taken back, refused in a sentence."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import message, sentence
from helpers import run as command
from PIL import Image

import partbook as pb
from partbook.core import InputError
from partbook.data.sample import View, collections
from partbook.evaluation.census import census
from partbook.evaluation.protocols import object_view
from partbook.evaluation.segment import segment_image
from partbook.methods.background import Clusters, Inside
from partbook.methods.merged import (
    LONGEST_NAME,
    Merged,
    colours_of,
    composed,
    merge_parts,
    merged_scores,
    names_after,
    names_before,
    names_of,
    new_numbers,
)
from partbook.methods.method import methods
from partbook.naming import dead_after, read_groups, read_names
from partbook.parts.plots import part_colours, read_palette_png, write_picture

QUICK = dict(features="rgb", parts=5, size=32, limit=8, baselines=False)


def quiet(*_):
    pass


@pytest.fixture(scope="module")
def learned():
    return pb.discover("birds", say=quiet, **QUICK)


@pytest.fixture
def run(learned):
    "A run of its own for each test, in memory."
    return replace(learned, facts=dict(learned.facts), dead=list(learned.dead), folder=None)


@pytest.fixture
def saved(run, tmp_path):
    run.save(tmp_path / "run")
    run.folder = None
    return tmp_path / "run"


@pytest.fixture(scope="module")
def birds():
    return collections["birds"].open(split="test", size=96)


@pytest.fixture(scope="module")
def three(learned, birds):
    "A method without background, one with a learned one, and one with a channel of its own."
    kmeans = learned.method
    few = View(birds, indices=range(4))
    guess = Clusters.fitted(few, kmeans.extractor, count=6)
    Scops = methods["scops"]
    torch.manual_seed(0)
    scops = Scops.build(Scops.Settings(parts=5, size=32), "random").eval()
    return {"kmeans": kmeans, "inside": Inside(kmeans, guess), "scops": scops}


GROUPS = ([[2, 4]], [[1, 2], [3, 5]], [[0, 3]], [[0, 1, 5], [2, 3]])


# -- pixels


def union(labels, K, groups):
    "The labels after a merger, by definition: pixel by pixel from the groups."
    after = torch.tensor(new_numbers(K, groups))
    found = torch.full_like(labels, -1)
    for k in range(K + 1):
        found[labels == k] = after[k].to(labels.dtype)
    return found


@pytest.mark.parametrize("name", ["kmeans", "inside", "scops"])
@pytest.mark.parametrize("groups", GROUPS)
def test_a_merged_part_has_exactly_the_pixels_of_its_members(name, groups, three, birds):
    method = three[name]
    merged = merge_parts(method, groups)
    batch = birds.batch(range(3))
    for size in (None, (61, 83)):
        masks = batch.masks if size is None else None
        before = method.labels(batch.images, masks, size=size)
        assert torch.equal(merged.labels(batch.images, masks, size=size), union(before, 5, groups))
    image = (birds[0].image * 255).round().byte()
    assert torch.equal(
        segment_image(merged, image).long(), union(segment_image(method, image).long(), 5, groups)
    )
    if method.has_background:
        refined = segment_image(method, image, crf="full").long()
        assert torch.equal(
            segment_image(merged, image, crf="full").long(), union(refined, 5, groups)
        )


@pytest.mark.parametrize("name", ["kmeans", "inside", "scops"])
@pytest.mark.parametrize("groups", GROUPS)
def test_scores_have_the_channels_that_the_method_promises(name, groups, three, birds):
    method = three[name]
    merged = merge_parts(method, groups)
    scores = merged.logits(birds.batch(range(2)).images)
    K = max(new_numbers(5, groups))
    assert merged.parts == K
    assert scores.shape[1] == K + merged.has_background and scores.isfinite().all()
    maps = merged.part_maps(birds.batch(range(2)).images)
    assert torch.allclose(maps.sum(1), torch.ones_like(maps[:, 0]), atol=1e-5)
    labels = merged.read_labels(scores)
    assert int(labels.max()) <= K and int(labels.min()) >= 1 - merged.has_background
    assert int(merged.read_labels(scores, background=False).min()) >= 1
    assert merged.shares(scores).shape == scores.shape


def test_a_background_from_a_merger_can_be_refined(three, birds):
    image = (birds[0].image * 255).round().byte()
    with pytest.raises(InputError, match="gives no background"):
        segment_image(three["kmeans"], image, crf="full")
    merged = merge_parts(three["kmeans"], [[0, 2]])
    refined = segment_image(merged, image, crf="full")
    assert set(refined.unique().tolist()) <= {0, 1, 2, 3, 4}


def test_merging_again_composes_and_never_nests(three, birds):
    images = birds.batch(range(2)).images
    once = merge_parts(three["inside"], [[2, 4]])
    twice = merge_parts(once, [[1, 4], [0, 3]])
    assert twice.inner is three["inside"]
    assert torch.equal(twice.labels(images), union(once.labels(images), 4, [[1, 4], [0, 3]]))
    assert twice.after == composed(new_numbers(5, [[2, 4]]), new_numbers(4, [[1, 4], [0, 3]]))


def test_the_largest_score_wins_and_passes_its_gradient():
    scores = torch.randn(2, 6, 3, 4, requires_grad=True)
    channels = torch.tensor([0, 1, 1, 2, 0, 2])
    found = merged_scores(scores, channels)
    literal = torch.stack([scores[:, channels == k].amax(1) for k in range(3)], 1)
    assert torch.equal(found, literal)
    weights = torch.randn_like(found)
    one, other = (torch.autograd.grad((f * weights).sum(), scores)[0] for f in (found, literal))
    assert torch.allclose(one, other)


def test_a_merged_method_is_counted_by_its_new_parts(three, birds):
    merged = merge_parts(three["kmeans"], [[1, 2, 3]])
    found = census(merged, object_view(View(birds, indices=range(4)), 32), torch.device("cpu"))
    assert all(1 <= k <= 3 for k in found.dead)


# -- numbers and names


def test_new_numbers_follow_the_first_member():
    assert new_numbers(4, [[4, 1]]) == [0, 1, 2, 3, 1]
    assert new_numbers(4, [[3, 0]]) == [0, 1, 2, 0, 3]
    assert new_numbers(2, [[0, 2]]) == [0, 1, 0]


@pytest.mark.parametrize(
    "groups, words",
    [
        ([], "nothing to merge"),
        ("34", "nothing to merge"),
        ([3, 4], "no group"),
        ([[3]], "no group"),
        (["34"], "no group"),
        ([[3, 3]], "named twice"),
        ([[1, 2], [2, 3]], "named twice"),
        ([[1, 6]], "no part 6"),
        ([[-1, 2]], "no part -1"),
        ([[True, 2]], "no part True"),
        ([[1.0, 2]], "no part 1.0"),
        ([[0, 1, 2, 3, 4, 5]], "no part is left"),
    ],
)
def test_groups_that_do_not_fit_are_refused(groups, words, run):
    with pytest.raises(InputError, match=words) as refusal:
        pb.merge(run, groups)
    message(refusal)
    assert run.method.parts == 5 and "merged" not in run.facts


@pytest.mark.parametrize(
    "names, words",
    [
        ({0: "x"}, "no part 0"),
        ({6: "x"}, "no part 6"),
        ({"1": "x"}, "no part '1'"),
        ({1: ""}, "is empty"),
        ({1: "  "}, "is empty"),
        ({1: 7}, "give a text"),
        ({1: "two\nlines"}, "line break"),
        ({1: "x" * (LONGEST_NAME + 1)}, "letters"),
        ({1: "ear", 2: "Ear"}, "both be called"),
        ({1: "part 2"}, "both be called"),
        ({1: "background"}, "0[+]1"),
        (["ear"], "by number"),
    ],
)
def test_names_that_cannot_be_are_refused(names, words, run):
    with pytest.raises(InputError, match=words) as refusal:
        pb.name(run, names)
    message(refusal)
    assert "names" not in run.facts


def test_names_add_up_and_can_be_taken_away(run):
    pb.name(run, {1: "ear", 2: " tail "})
    pb.name(run, {2: "fluke", 3: "part 3"})
    assert run.facts["names"] == {"1": "ear", "2": "fluke"}
    assert names_of(run.facts, 5) == ["ear", "fluke", "part 3", "part 4", "part 5"]
    pb.name(run, {3: "ear"}, clear=True)
    assert run.facts["names"] == {"3": "ear"}
    pb.name(run, clear=True)
    assert "names" not in run.facts


@pytest.mark.parametrize("names", [None, [], "ear", {"1": 7}, {"1": ""}, {"9": "x"}, {1: "x"}])
def test_odd_names_in_a_record_are_no_names(names):
    assert names_of({"names": names}, 2) == ["part 1", "part 2"]


def test_names_follow_a_merger_and_come_back(run):
    pb.name(run, {2: "left", 4: "right", 5: "tail"})
    pb.merge(run, [[2, 4]])
    assert names_of(run.facts, 4) == ["part 1", "left", "part 3", "tail"]
    pb.name(run, {1: "head", 2: "wings"})
    pb.merge(run, [[0, 4]])
    assert names_of(run.facts, 3) == ["head", "wings", "part 3"]
    pb.merge(run, undo=True)
    assert names_of(run.facts, 4) == ["head", "wings", "part 3", "tail"]
    pb.merge(run, undo=True)
    assert names_of(run.facts, 5) == ["head", "left", "part 3", "right", "tail"]
    assert not isinstance(run.method, Merged) and "merged" not in run.facts
    with pytest.raises(InputError, match="no merger to take back"):
        pb.merge(run, undo=True)


def test_names_that_go_with_the_background_return_on_undo():
    after = new_numbers(3, [[0, 2]])
    assert names_after({"2": "sky", "3": "leg"}, after) == {"2": "leg"}
    kept = {"2": "sky", "3": "leg"}
    assert names_before({"2": "foot"}, after, kept) == {"2": "sky", "3": "foot"}


def test_a_merged_part_is_dead_only_with_all_its_members():
    after = new_numbers(5, [[2, 4], [3, 5]])
    assert dead_after([2, 4, 5], after) == [2]
    assert dead_after([], after) == []


def test_colours_are_kept(three):
    merged = merge_parts(three["kmeans"], [[2, 4]])
    assert np.array_equal(colours_of(merged), part_colours(5)[[0, 1, 2, 3, 5]])
    assert np.array_equal(colours_of(three["kmeans"]), part_colours(5))


# -- in the folder


def test_a_folder_keeps_names_and_mergers_and_its_tensors(saved, birds):
    images = birds.batch(range(2)).images
    before = pb.load(saved).parts(images)
    tensors = (saved / "model" / "model.safetensors").read_bytes()
    record = json.loads((saved / "model" / "model.json").read_text())
    pb.name(saved, {2: "wing", 5: "tail"})
    pb.merge(saved / "model", [[2, 4]])  # the model folder is as good as the run's
    again = pb.load(saved)
    assert torch.equal(again.parts(images), union(before, 5, [[2, 4]]))
    assert names_of(again.facts, 4) == ["part 1", "wing", "part 3", "tail"]
    new = json.loads((saved / "model" / "model.json").read_text())
    assert new["tensors"] == record["tensors"] and new["settings"] == record["settings"]
    assert (saved / "model" / "model.safetensors").read_bytes() == tensors
    pb.merge(saved, undo=True)
    pb.name(saved, clear=True)
    assert json.loads((saved / "model" / "model.json").read_text()) == record
    assert torch.equal(pb.load(saved).parts(images), before)


def test_a_merged_run_is_saved_and_loaded_whole(run, tmp_path, birds):
    images = birds.batch(range(2)).images
    pb.name(pb.merge(run, [[0, 1], [2, 3]]), {1: "wing"})
    run.save(tmp_path / "again")
    again = pb.load(tmp_path / "again")
    assert torch.equal(again.parts(images), run.parts(images))
    assert again.method.has_background and names_of(again.facts, 3)[0] == "wing"
    assert pb.merge(again, undo=True).method.parts == 5


def test_the_sheet_gets_a_new_legend_and_nothing_else(saved):
    sheet = saved / "parts.png"
    before = np.asarray(Image.open(sheet).convert("RGB"), int)
    pb.name(saved, {1: "wing"})
    after = np.asarray(Image.open(sheet).convert("RGB"), int)
    assert after.shape == before.shape
    assert (after[-30:] != before[-30:]).any()
    assert np.abs(after[:-30] - before[:-30]).mean() < 2  # 256 colours, chosen anew
    pb.name(saved, clear=True)
    assert np.abs(np.asarray(Image.open(sheet).convert("RGB"), int) - before).mean() < 2


def test_a_sheet_whose_photographs_are_gone_is_taken_away(tmp_path, capsys):
    for i in range(4):
        pixels = np.random.default_rng(i).random((3, 40, 50))
        write_picture(tmp_path / "photos" / f"{i}.png", pixels.transpose(1, 2, 0))
    options = {**QUICK, "foreground": "none", "limit": None}
    run = pb.discover(tmp_path / "photos", out=str(tmp_path / "out"), say=quiet, **options)
    sheet = tmp_path / "out" / "parts.png"
    before = sheet.read_bytes()
    pb.merge(tmp_path / "out", [[1, 2]])
    assert sheet.exists() and sheet.read_bytes() != before and run.facts["root"]
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    assert command("merge", tmp_path / "out", "1+2") == 0
    assert "photographs are not at hand" in capsys.readouterr().out
    assert not sheet.exists() and pb.load(tmp_path / "out").method.parts == 3


def test_nothing_changes_where_the_folder_cannot_be_written(run, tmp_path):
    run.save(tmp_path / "run")
    (tmp_path / "run" / "model" / "model.json").write_text("{}")  # somebody else's now
    with pytest.raises(InputError, match="not made by partbook"):
        pb.merge(run, [[1, 2]])
    with pytest.raises(InputError, match="not made by partbook"):
        pb.name(run, {1: "wing"})
    assert run.method.parts == 5 and not {"names", "merged"} & set(run.facts)


@pytest.mark.parametrize(
    "labels",
    [
        None,
        3,
        [],
        [0],
        [0, 1],
        [1, 1, 2, 3, 4, 5],
        [0, 1, 2, 9, 4, 5],
        [0, 1, 1, 1, 1.0, 1],
        [0] * 6,
    ],
)
def test_a_damaged_merger_is_refused_in_one_sentence(labels, saved, capsys):
    path = saved / "model" / "model.json"
    record = json.loads(path.read_text())
    record["wrapped"] = [{"wrapper": "merged", "labels": labels}]
    path.write_text(json.dumps(record))
    assert "merged" in sentence(capsys, "name", saved)


def test_a_damaged_history_is_refused_in_one_sentence(saved, capsys):
    pb.merge(saved, [[1, 2]])
    path = saved / "model" / "model.json"
    record = json.loads(path.read_text())
    for damaged in (3, [3], [{}], []):
        record["facts"]["merged"] = damaged
        path.write_text(json.dumps(record))
        assert "discover` again" in sentence(capsys, "merge", saved, "1+2")


# -- what they reach


def test_labels_say_names_and_colours(saved, birds, tmp_path):
    write_picture(tmp_path / "in" / "a.png", birds[0].image)
    pb.name(pb.merge(saved, [[1, 3]]), {1: "wing", 4: "\u00e4hre"})
    pb.segment(saved, tmp_path / "in", tmp_path / "out")
    legend = json.loads((tmp_path / "out" / "parts.json").read_text())
    named = {p["number"]: p["name"] for p in legend["parts"]}
    assert named == {1: "wing", 2: "part 2", 3: "part 3", 4: "\u00e4hre"}
    with Image.open(tmp_path / "out" / "a.png") as picture:
        assert json.loads(picture.text["Parts"])["4"] == "\u00e4hre"
        palette = np.array(picture.getpalette()[:15]).reshape(5, 3)
    colours = [tuple(bytes.fromhex(p["colour"][1:])) for p in legend["parts"]]
    assert [tuple(row) for row in palette[1:].tolist()] == colours
    assert int(read_palette_png(tmp_path / "out" / "a.png").max()) <= 4
    pb.segment(saved, tmp_path / "in", tmp_path / "out")  # made anew


def test_a_foreign_legend_stays(saved, birds, tmp_path):
    write_picture(tmp_path / "in" / "a.jpg", birds[0].image)
    (tmp_path / "in" / "parts.json").write_text("{}")
    with pytest.raises(InputError, match="parts.json was not made by partbook"):
        pb.segment(saved, tmp_path / "in", tmp_path / "in")


# -- the commands


def test_commands_name_merge_and_undo(saved, capsys):
    assert command("name", saved, "1=ear", "3=left eye") == 0
    assert capsys.readouterr().out.split("\n")[0].split() == ["1", "ear"]
    assert command("merge", saved, "1+3", "0+5") == 0
    said = capsys.readouterr().out
    assert "0  background" in said and "1  ear" in said and "left eye" not in said
    assert command("merge", saved, "--undo") == 0
    assert "left eye" in capsys.readouterr().out
    assert command("name", saved, "--clear") == 0
    assert "ear" not in capsys.readouterr().out


def test_a_dry_run_and_a_list_change_nothing(saved, capsys):
    files = [saved / "model" / "model.json", saved / "metrics.json", saved / "parts.png"]
    before = [f.read_bytes() for f in files]
    for words in (("name", saved), ("merge", saved)):
        assert command(*words) == 0
    for words in (("name", saved, "1=ear"), ("merge", saved, "1+2")):
        assert command(*words, "--dry-run") == 0
        assert "Nothing was written" in capsys.readouterr().out
    assert [f.read_bytes() for f in files] == before


@pytest.mark.parametrize(
    "words, said",
    [
        (("name", "ears"), "PART=NAME"),
        (("name", "=ears"), "PART=NAME"),
        (("name", "x=ears"), "PART=NAME"),
        (("name", "1="), "is empty"),
        (("name", "1=a", "1=b"), "named twice"),
        (("name", "99999999=a"), "PART=NAME"),
        (("merge", "3"), "such as 3+4"),
        (("merge", "3+"), "such as 3+4"),
        (("merge", "3+x"), "such as 3+4"),
        (("merge", "1+2", "--undo"), "not both"),
        (("merge", "--undo"), "no merger"),
    ],
)
def test_commands_complain_in_one_sentence(words, said, saved, capsys):
    name, *rest = words
    assert said in sentence(capsys, name, saved, *rest)


def test_words_are_read_as_they_are_typed():
    assert read_names(["1=a=b", "02= x "]) == {1: "a=b", 2: " x "}
    assert read_groups(["3+4", "0+10+2"]) == [[3, 4], [0, 10, 2]]
