"""What the chapter on dressed figures promises, on figures drawn in its layout."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from painters.deepfashion import _VIEWS, _draw_figure, write_deepfashion_fixture
from PIL import Image

from partbook.core import InputError, generator
from partbook.data.sample import Sample, batches, collections
from partbook.readers.deepfashion import (
    _GROUP_OF,
    _PALETTE,
    COLOURS,
    GROUPS,
    NAMES,
    STATUS,
    DeepFashion,
    _codes,
    _distances,
    fitted,
    labels_of,
    read_parsing,
    segment_name,
    view_of,
    write_deepfashion,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_deepfashion_fixture(tmp_path_factory.mktemp("shop") / "In-shop")


@pytest.fixture(scope="module")
def fashion(root):
    return DeepFashion.open(root, "all")


def test_colours_by_hand():
    small_parsing = _PALETTE.reshape(4, 4, 3)
    assert np.array_equal(labels_of(small_parsing), np.arange(16).reshape(4, 4))
    spoiled = small_parsing.copy()
    spoiled[2, 1] = (0, 0, 3)
    with pytest.raises(
        InputError,
        match=r"a.png: pixel \(1, 2\) has colour \(0, 0, 3\), .*; the nearest is background \(0, "
        r"0, 0\) at a distance of 3",
    ):
        labels_of(spoiled, name="a.png")
    assert labels_of(spoiled, near=3)[2, 1] == 0
    with pytest.raises(InputError, match="allow more than near=2"):
        labels_of(spoiled, near=2)
    noisy = (
        (small_parsing.astype(int) + np.random.default_rng(0).integers(-4, 5, (4, 4, 3)))
        .clip(0, 255)
        .astype(np.uint8)
    )
    assert np.array_equal(labels_of(noisy, near=7), np.arange(16).reshape(4, 4))


def test_mixtures_are_nearest_to_a_third():
    def blended(a: str, b: str, share: float) -> str:
        "The part nearest to a mixture of two parts' colours."
        mixture = (1 - share) * np.array(COLOURS[a]) + share * np.array(COLOURS[b])
        return NAMES[int(_distances(_codes(mixture.round().astype(np.uint8))[None])[0].argmin())]

    edge = [blended("top", "background", s) for s in np.linspace(0, 1, 11)]
    assert {"neckwear", "hair"} <= set(edge) and edge[0] == "top" and edge[-1] == "background"
    between = _distances(_codes(_PALETTE))
    assert np.sort(between, 1)[:, 1].min() == pytest.approx(
        np.sqrt(3) * 9
    )  # hair and neckwear: closer than 16 bytes


def test_the_sum_of_bytes_is_silent():
    sums = _PALETTE.astype(int).sum(1)
    assert len(set(sums)) == 16
    table = np.full(766, 255, dtype=np.uint8)
    table[sums] = np.arange(16)
    assert (
        NAMES[table[0 + 0 + 255]] == "headwear" and table[1] == 255
    )  # blue; and a nearly black pixel becomes "part 255"
    blue = np.zeros((1, 1, 3), dtype=np.uint8) + np.array([0, 0, 255], dtype=np.uint8)
    with pytest.raises(
        InputError,
        match="colour \\(0, 0, 255\\), which is none of the sixteen; the nearest is dress",
    ):
        labels_of(blue)


def test_four_groups():
    assert [NAMES[i] for i in (_GROUP_OF == 0).nonzero()[:, 0]] == [
        "background",
        "bag",
        "eyeglass",
        "belt",
    ]
    assert (
        sum(len(parts) for parts in GROUPS.values()) == 12 and _GROUP_OF[NAMES.index("face")] == 2
    )


def test_to_one_size():
    ones = torch.ones(4, 2, dtype=torch.int64)
    tall = Sample(
        torch.linspace(0, 1, 2).expand(3, 4, 2).contiguous(), "tall", parts=ones, mask=ones > 0
    )
    padded = fitted(tall, 4)
    assert padded.parts.tolist() == [[0, 1, 1, 0]] * 4 and padded.mask.sum() == 8
    assert torch.equal(padded.image[0, 0], torch.tensor([0.0, 0, 1, 1]))  # the border goes on
    assert fitted(tall, 8).parts.sum() == 32 and fitted(tall, 8).size == (8, 8)
    assert fitted(tall, 4, "short").size == (8, 4) and fitted(tall, 4, "stretch").size == (4, 4)
    wide = Sample(torch.zeros(3, 2, 5), "wide", parts=torch.ones(2, 5, dtype=torch.int64))
    assert fitted(wide, 5).parts.sum(1).tolist() == [
        0,
        5,
        5,
        0,
        0,
    ]  # of an odd rest, the larger half lies below


def test_splits_with_and_without_the_three_files(root, fashion, tmp_path):
    train, test = DeepFashion.open(root, "train"), DeepFashion.open(root, "test")
    assert (
        len(train) == 3
        and len(test) == 6
        and {s.name for s in train}.isdisjoint(s.name for s in test)
    )
    assert len(DeepFashion.open(root, "query")) + len(DeepFashion.open(root, "gallery")) == len(
        test
    )
    assert {e.item for e in train.entries if e.status == "train"}.isdisjoint(
        e.item for e in test.entries if e.status != "train"
    )
    shutil.copytree(root, tmp_path / "without")
    for file in (tmp_path / "without" / "Anno" / "segmentation").glob("*.json"):
        file.unlink()
    partition = DeepFashion.open(tmp_path / "without", "all")
    assert set(partition.entries) == set(fashion.entries) and partition.lists.startswith(
        "list_eval_partition"
    )
    assert (
        DeepFashion.present(root)
        and DeepFashion.present(root.parent)
        and not DeepFashion.present(tmp_path / "elsewhere")
    )


def test_labels_come_back(root, fashion, tmp_path):
    four = DeepFashion.open(root, "all", size=128, parts="four")
    fifteen = DeepFashion.open(root, "all", size=128)
    g = generator(0)
    drawn = [_draw_figure(g, 160 if k != 4 else 110, 108 if k != 4 else 150) for k in range(9)]
    by_name = {s.name.split("/")[-1]: s for s in fashion}
    for k, (image, labels) in enumerate(drawn):
        s = by_name[f"{k // 3 + 1:02d}_{_VIEWS[k % 5]}.jpg"]
        assert (
            torch.equal(s.parts, labels)
            and torch.equal(s.mask, labels > 0)
            and (s.image - image).abs().mean() < 0.03
        )
    indexed = tmp_path / "indexed.png"
    Image.fromarray(_PALETTE[drawn[0][1].numpy()]).quantize(16, dither=Image.Dither.NONE).save(
        indexed
    )
    assert torch.equal(read_parsing(indexed), drawn[0][1])
    for s, t in zip(fifteen, four):
        assert (
            torch.equal(t.parts, _GROUP_OF[s.parts])
            and torch.equal(s.mask, s.parts > 0)
            and torch.equal(s.mask, t.mask)
        )
    assert (
        four.part_names == ("hair", "skin", "upper garment", "lower garment")
        and len(fifteen.part_names) == 15
    )


def test_batches_fits_masks_views(root, fashion):
    batch = next(batches(DeepFashion.open(root, "test", size=64), 6))
    assert (
        batch.images.shape == (6, 3, 64, 64)
        and batch.parts.shape == (6, 64, 64)
        and batch.masks.any((1, 2)).all()
    )
    assert DeepFashion.open(root, "train", size=54, fit="short")[0].size == (80, 54)
    assert DeepFashion.open(root, "train", size=54, fit="stretch")[0].size == (54, 54)
    guessed = DeepFashion.open(root, "test", masks="predicted")
    assert guessed.foreground == "predicted masks (supervisedlabels/)" and all(
        s.mask.sum() < (s.parts > 0).sum() for s in guessed
    )
    full = DeepFashion.open(root, "all", views=("full",))
    assert {view_of(s.name) for s in full} == {"full"} and 0 < len(full) < len(fashion)


def damaged(root: Path, name: str, change: Callable[[str], str] | None) -> Path:
    "A fresh copy of the folder with one list changed (or removed)."
    copy = Path(tempfile.mkdtemp()) / "In-shop"
    shutil.copytree(root, copy)
    text = (copy / name).read_text() if change else None
    (copy / name).unlink() if change is None else (copy / name).write_text(change(text))
    return copy


def test_damaged_files(root, fashion):
    coco = "Anno/segmentation/DeepFashion_segmentation_{}.json".format
    for name, change, message in [
        (coco("query"), lambda t: t[:-40], "query.json is not a JSON file"),
        (
            coco("train"),
            lambda t: t.replace("img_highres/", "../"),
            "is not a photograph below img/ or img_highres/",
        ),
        (
            "Eval/list_eval_partition.txt",
            lambda t: t.replace(" query", " val", 1),
            "line 4: 'val' is not train, query or gallery",
        ),
        (
            "Eval/list_eval_partition.txt",
            lambda t: t.replace("10\n", "52712\n", 1),
            "announces 52712 images in line 1, but lists 10",
        ),
        (
            "Anno/segmentation/img_highres/" + fashion.entries[0].path,
            None,
            "lacks 1 of the 9 photographs",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            DeepFashion.open(damaged(root, name, change), "all").counts()


def test_a_lossy_parsing(root, fashion):
    copy = damaged(root, "Anno/list_item_inshop.txt", lambda t: t)
    path = copy / "Anno" / "segmentation" / "img_highres" / segment_name(fashion.entries[0].path)
    lossy = path.with_suffix(".jpg")
    Image.open(path).save(lossy, quality=90)
    Image.open(lossy).save(path)
    lossy.unlink()
    with pytest.raises(
        InputError, match="which is none of the sixteen .* such colours on .* pixels"
    ):
        DeepFashion.open(copy, "all")[0]
    with pytest.raises(InputError, match="which is none of the sixteen"):
        DeepFashion.open(copy, "all", near=7).counts()
    forced = DeepFashion.open(copy, "all", near=200)[0]
    wrong = forced.parts != fashion[0].parts
    assert 0 < wrong.float().mean() < 0.2


NAMES_OF_FIGURES = ("hair", "skin", "top", "pants", "footwear")


def test_writer_reads_back_equal(tmp_path):
    figures = collections["figures"].open(split="train", size=64).take(range(6))
    root = write_deepfashion(tmp_path / "own", figures, NAMES_OF_FIGURES)
    back = DeepFashion.open(root, "all")
    order = sorted(range(6), key=lambda k: k % 3)
    numbers = torch.tensor([0, *(NAMES.index(name) for name in NAMES_OF_FIGURES)])
    for k, t in zip(order, back, strict=True):
        assert torch.equal(numbers[figures[k].parts], t.parts)
        assert torch.equal(figures[k].parts > 0, t.mask)
        assert (figures[k].image - t.image).abs().mean() < 0.03
    assert [e.status for e in back.entries] == [s for s in STATUS for _ in range(2)]
    chosen = write_deepfashion(
        tmp_path / "b", figures, NAMES_OF_FIGURES, ["train"] + ["gallery"] * 5
    )
    assert len(DeepFashion.open(chosen, "gallery")) == 5


def test_writer_refuses(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    figures = collections["figures"].open(split="train", size=64).take([0])
    with pytest.raises(InputError, match="is not empty; give a new folder"):
        write_deepfashion(tmp_path, figures, NAMES_OF_FIGURES)
    with pytest.raises(InputError, match="'shoes' is not among the fifteen parts"):
        write_deepfashion(tmp_path / "new", figures, ("hair", "skin", "top", "pants", "shoes"))
    with pytest.raises(InputError, match="has part 4, but only 2 parts have names"):
        write_deepfashion(tmp_path / "new", figures, ("hair", "skin"))
    with pytest.raises(InputError, match="Sample 'bare' has no part labels"):
        write_deepfashion(tmp_path / "new", [Sample(torch.rand(3, 4, 4), "bare")], ("hair",))
    with pytest.raises(InputError, match="status 'val' is not train, query or gallery"):
        write_deepfashion(tmp_path / "new", figures, NAMES_OF_FIGURES, ["val"])
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
