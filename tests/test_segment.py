"""Labels at a photograph's own size: what is read, written and refused, what large ones cost."""

import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import message
from PIL import Image

from partbook.core import InputError, generator
from partbook.evaluation import segment
from partbook.evaluation.large import alone, example_model, large_photograph, literal_labels
from partbook.evaluation.segment import gather, segment_files, segment_image, targets
from partbook.files import is_ours
from partbook.methods.method import load_method
from partbook.parts.plots import overlay, read_palette_png, write_picture


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    example_model(folder)
    return folder


@pytest.fixture(scope="module")
def method(model):
    return load_method(model)[0]


def photograph(path, size=(48, 40), seed=0):
    "Soft blobs, as a photograph has them."
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def names(found):
    return [relative.as_posix() for _, relative in found.pairs]


# -- what is gathered


def test_folders_keep_their_structure_and_files_their_names(tmp_path):
    for name in ("album/b.jpg", "album/more/a.webp", "album/B2.PNG", "alone.jpg"):
        photograph(tmp_path / name)
    (tmp_path / "album" / "notes.txt").write_text("no picture")
    found = gather([tmp_path / "album", str(tmp_path / "alone.jpg")])
    assert names(found) == ["B2.PNG", "b.jpg", "more/a.webp", "alone.jpg"]
    assert found.pairs[2][0] == tmp_path / "album" / "more" / "a.webp" and not found.remarks
    assert targets(Path("more/a.webp"), Path("o")) == (
        Path("o/more/a.png"),
        Path("o/more/a_overlay.png"),
    )
    assert targets(Path("a.b.tar.jpg")) == (Path("a.b.tar.png"), Path("a.b.tar_overlay.png"))


COMPOSED = "\u00e4.jpg"
DECOMPOSED = unicodedata.normalize("NFD", "\u00e4") + ".png"


@pytest.mark.parametrize(
    "one, other, result",
    [
        ("a.jpg", "a.png", "a.png"),
        ("a.JPG", "a.jpg", "a.png"),
        ("Bird.jpg", "bIRD.webp", "bIRD.png"),
        (COMPOSED, DECOMPOSED, ".png"),
        ("x.jpg", "x_overlay.jpg", "x_overlay.png"),
        ("X.jpg", "x_OVERLAY.png", ".png"),
        ("m/s.jpg", "m/S.tif", "m/"),
    ],
)
def test_two_photographs_that_want_one_result_are_refused(one, other, result, tmp_path):
    for name in (one, other):
        photograph(tmp_path / name)
    for inputs in (
        [tmp_path],
        [tmp_path / one, tmp_path / other],
        [tmp_path / other, tmp_path / one],
    ):
        with pytest.raises(
            InputError, match="would both be written to .*segment them one at a time"
        ) as error:
            gather(inputs)
    with pytest.raises(InputError) as error:
        gather([tmp_path])
    assert result in message(error)


def test_the_same_photograph_named_twice_is_one(tmp_path):
    photograph(tmp_path / "album" / "a.jpg")
    photograph(tmp_path / "album" / "more" / "a.jpg")
    twice = [
        tmp_path / "album",
        tmp_path / "album" / "a.jpg",
        tmp_path / "album" / ".." / "album" / "a.jpg",
    ]
    assert names(gather(twice)) == ["a.jpg", "more/a.jpg"]


def test_own_results_among_the_photographs_are_left_out(method, tmp_path):
    for i in range(3):
        photograph(tmp_path / f"p{i}.jpg", seed=i)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    segment_files(method, gather([tmp_path]).pairs, tmp_path)
    assert len(list(tmp_path.iterdir())) == 9
    results = {p.name: p.read_bytes() for p in tmp_path.glob("*.png")}
    found = gather([tmp_path])
    assert names(found) == ["p0.jpg", "p1.jpg", "p2.jpg"]
    everything = gather(sorted(tmp_path.iterdir()))  # ph/* in a shell
    assert (
        sorted(names(everything)) == ["p0.jpg", "p1.jpg", "p2.jpg"] and len(everything.remarks) == 6
    )
    segment_files(method, found.pairs, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before | results  # bit by bit


def test_a_result_that_is_named_is_labelled_and_said(method, tmp_path):
    sheet = write_picture(
        tmp_path / "parts.png", torch.rand(3, 20, 20), made_by="partbook discover"
    )
    found = gather([sheet])
    assert (
        names(found) == ["parts.png"]
        and "labelled all the same, since you named it" in found.remarks[0]
    )
    with pytest.raises(InputError, match="holds no image"):
        gather([tmp_path])


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda p: None, "There is no image or folder"),
        (lambda p: p.mkdir(), "holds no image"),
        (lambda p: os.mkfifo(p), "is a pipe or a device, not a photograph"),
        (lambda p: p.symlink_to("/dev/zero"), "is a pipe or a device, not a photograph"),
        (lambda p: p.symlink_to(p), "cannot be looked at|There is no image"),
    ],
)
def test_what_is_no_photograph(make, sentence, tmp_path):
    make(tmp_path / "a.jpg")
    with pytest.raises(InputError, match=sentence) as error:
        gather([tmp_path / "a.jpg"])
    message(error)


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "is empty"),
        ("a\0b", "zero byte"),
        ("x" * 300 + ".jpg", "cannot be looked at"),
        ("~nobody-at-all/a.jpg", "home"),
    ],
)
def test_what_is_no_path(text, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        gather([text])
    message(error)


def test_names_of_every_length_and_of_no_encoding(method, tmp_path):
    long, longer = (
        "l" * 243 + ".jpg",
        "m" * 251 + ".jpg",
    )  # labels of the second fit, its overlay does not
    odd = os.fsdecode(b"caf\xe9.jpg")
    for name in (long, longer, odd):
        photograph(tmp_path / "ph" / name)
    found = gather([tmp_path / "ph"])
    assert len(found.pairs) == 2 and "names would be too long; rename it" in found.skipped[0]
    done = segment_files(method, found.pairs, tmp_path / "out")
    assert len(done.written) == 2 and not done.skipped
    assert os.path.exists(os.fsencode(tmp_path / "out") + b"/caf\xe9_overlay.png")
    (tmp_path / "ph" / odd).write_bytes(b"no picture")
    (why,) = segment_files(method, gather([tmp_path / "ph" / odd]).pairs, tmp_path / "out").skipped
    assert "caf\\xe9.jpg cannot be read as a picture" in why and why.encode("utf-8")


# -- one photograph


def shared_photographs(shared_path):
    folder = shared_path("data/photos")
    return [p for kind in sorted(folder.iterdir()) for p in sorted(kind.glob("*.jpg"))[:6]]


def test_labels_are_those_of_the_whole_photograph_in_fractions(method, shared_path):
    for path in shared_photographs(shared_path):
        image = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
        expected = literal_labels(method, image.contiguous() / 255)
        found = segment_image(method, image)
        assert found.dtype == torch.uint8 and found.shape == expected.shape
        assert (found == expected).float().mean() > 0.995, path
        assert torch.equal(segment_image(method, image / 255), found)


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 300), (5, 2300), (2100, 3), (2049, 64), (40, 2048), (257, 90)]
)
def test_labels_of_every_shape(size, method):
    image = torch.randint(0, 256, (3, *size), generator=generator(0), dtype=torch.uint8)
    found = segment_image(method, image)
    assert (found == literal_labels(method, image / 255)).float().mean() > 0.995


def test_a_crf_needs_a_background_and_a_name(method):
    with pytest.raises(InputError, match="--crf: the method 'kmeans' gives no background"):
        segment_files(method, [], "out", crf="full")
    with pytest.raises(InputError, match="There is no CRF 'fancy'"):
        segment_files(method, [], "out", crf="fancy")


# -- all of them


def test_files_hold_what_the_functions_give(method, tmp_path):
    path = photograph(tmp_path / "a.png", (70, 50))
    done = segment_files(method, gather([path]).pairs, tmp_path / "out")
    assert done.written == [tmp_path / "out" / "a.png"]
    image = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
    labels = segment_image(method, image)
    assert torch.equal(read_palette_png(done.written[0]), labels.long())
    drawn = np.asarray(Image.open(tmp_path / "out" / "a_overlay.png"))
    assert np.array_equal(drawn, overlay(image, labels))
    literal = (overlay(image / 255, labels) * 255).round()
    assert np.abs(drawn - literal).max() <= 1 and all(
        is_ours(p) for p in (tmp_path / "out").iterdir()
    )


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
    ],
)
def test_one_photograph_too_large_does_not_end_the_run(error, method, tmp_path, monkeypatch):
    for i in range(3):
        photograph(tmp_path / "ph" / f"p{i}.png", seed=i)
    pairs = gather([tmp_path / "ph"]).pairs
    segment_files(method, pairs, tmp_path / "calm")
    read = segment.read_pixels

    def fail(path, *rest):
        if path.name == "p1.png":
            raise error
        return read(path, *rest)

    monkeypatch.setattr(segment, "read_pixels", fail)
    done = segment_files(method, pairs, tmp_path / "out")
    (why,) = done.skipped
    assert "p1.png cannot be read as a picture: it is too large for this machine's memory" in why
    assert [p.name for p in done.written] == ["p0.png", "p2.png"]
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "calm" / path.name).read_bytes()


def test_another_error_is_not_taken_for_a_full_memory(method, tmp_path, monkeypatch):
    def fail(path):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(segment, "read_pixels", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        segment_files(method, gather([photograph(tmp_path / "a.jpg")]).pairs, tmp_path / "out")


def test_broken_photographs_are_said_in_order(method, tmp_path):
    whole = photograph(tmp_path / "a.jpg", (90, 80))
    (tmp_path / "b.jpg").write_bytes(whole.read_bytes()[:300])
    (tmp_path / "c.png").write_text("no picture")
    (tmp_path / "d.gif").write_bytes(b"")
    shutil.copy(whole, tmp_path / "e.png")  # a JPEG by another name
    done = segment_files(method, gather([tmp_path]).pairs, tmp_path / "out")
    assert [p.name for p in done.written] == ["a.png", "e.png"]
    assert [Path(s.split(" cannot")[0]).name for s in done.skipped] == ["b.jpg", "c.png", "d.gif"]
    assert done.written[0].read_bytes() == done.written[1].read_bytes()


def test_photographs_are_turned_upright(method, tmp_path):
    picture = Image.open(photograph(tmp_path / "a.png", (60, 30)))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    done = segment_files(method, gather([tmp_path / "turned.png"]).pairs, tmp_path / "out")
    assert Image.open(done.written[0]).size == (30, 60)


# -- what it costs


def test_six_million_pixels_take_less_than_thirty_bytes_each(tmp_path):
    example_model(tmp_path / "model")
    large_photograph(tmp_path / "small.jpg", 0.05)
    H, W = large_photograph(tmp_path / "large.jpg", 6.0)
    measured = alone("ours", tmp_path)
    assert measured["bytes"] / (H * W) < 30 and measured["seconds"] > 0
    assert Image.open(tmp_path / "ours" / "large_overlay.png").size == (W, H)


def test_the_recorded_row_says_what_is_claimed(root):
    from partbook.evaluation.results import read_rows

    every = read_rows(root / "results" / "photographs.csv")
    rows = [row for row in every if row["benchmark"] == "one large photograph"]
    assert rows and all(
        r["bytes_a_pixel_ours"] < 30 < 100 < r["bytes_a_pixel_literal"] for r in rows
    )
    assert all(r["agreement"] > 99.5 and r["largest_step"] <= 1 and r["ratio"] > 2 for r in rows)
    assert rows[-1]["height"] * rows[-1]["width"] == 24_000_000


def test_a_photograph_that_vanishes_meanwhile_is_skipped(method, tmp_path):
    for i in range(2):
        photograph(tmp_path / f"p{i}.jpg", seed=i)
    pairs = gather([tmp_path]).pairs
    (tmp_path / "p0.jpg").unlink()
    done = segment_files(method, pairs, tmp_path / "out")
    assert [p.name for p in done.written] == ["p1.png"] and "no such file" in done.skipped[0]
