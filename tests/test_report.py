"""The page of a run: what is on it, how large it becomes, whose names are on it and do no harm."""

import base64
import io
import os
import re
import tracemalloc
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import message, noise, quick, run, sentence
from PIL import Image

from partbook.core import InputError
from partbook.data.folder import Folder
from partbook.data.sample import limited
from partbook.evaluation.looks import Look, looked_at, own_shape
from partbook.files import is_ours
from partbook.methods.merged import merge_parts, names_of
from partbook.parts.maps import upsample
from partbook.parts.plots import as_bytes, part_colours
from partbook.report import (
    BUDGET,
    SIDE,
    Example,
    as_findings,
    cut_out,
    jpeg,
    label_layer,
    rating,
    side_for,
    window,
    write_report,
)
from partbook.run import discover, gets_page, load

ODD = ['<img src=x onerror="alert(1)">.png', "a'b\"c&amp;d.png", "</template><script>x.png"]
RIGHT_TO_LEFT = "\u202egnp.exe.png"


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    "Photographs of several shapes and odd names, and one file that is none."
    folder = tmp_path_factory.mktemp("album")
    for seed, name in enumerate(["wide.png", "tall.png", "more/plain.png", RIGHT_TO_LEFT]):
        noise(folder / name, seed, [(24, 48), (60, 20), (32, 32), (30, 40)][seed])
    for seed, name in enumerate(ODD):
        noise(folder / name.replace("/", "∕"), seed + 9)  # a slash that file systems allow
    noise(folder / os.fsdecode(b"caf\xe9.png"))
    (folder / "broken.jpg").write_bytes(b"<b>no picture</b>")
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory, album):
    out = tmp_path_factory.mktemp("out")
    assert run(*quick(album, out, "--no-baselines", size=32, parts=3)) == 0
    return out


@pytest.fixture(scope="module")
def page(out):
    return (out / "report.html").read_text(encoding="utf-8")


class Seen(HTMLParser):
    "The elements of a page with their attributes, as a browser reads them."

    @classmethod
    def on(cls, page):
        parser = cls(convert_charrefs=True)
        parser.found, parser.text = [], []
        parser.feed(page)
        parser.close()
        return parser

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def picture(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def photographs(page):
    "The alt text, the photograph and the layer of each figure of the gallery."
    template = page.partition('<template id="photographs">')[2].partition("</template>")[0]
    images = Seen.on(template).all("img")
    return list(zip(images[::2], images[1::2]))


def test_every_photograph_is_there_in_its_own_shape(page):
    sizes = {}
    for photo, layer in photographs(page):
        shape = picture(photo["src"]).size
        assert shape == picture(layer["src"]).size
        assert shape == (int(photo["width"]), int(photo["height"]))
        sizes[photo["alt"].rpartition(":")[0]] = shape
    assert len(sizes) == 8
    assert sizes["wide.png"] == (48, 24) and sizes["tall.png"] == (20, 60)


def test_nothing_comes_from_elsewhere(page):
    seen = Seen.on(page)
    sources = [a["src"] for a in seen.all("img")]
    assert sources and all(s.startswith("data:image/") for s in sources)
    links = seen.all("a") + seen.all("link")
    assert all(a["href"].startswith(("#", "data:")) for a in links)
    assert "http://" not in page and "https://" not in page
    assert all("alt" in a for a in seen.all("img"))


def test_names_are_shown_and_do_nothing(page):
    seen = Seen.on(page)
    assert len(seen.all("script")) == 1 and len(seen.all("template")) == 1
    assert not [a for _, a in seen.found if any(name.startswith("on") for name in a)]
    alts = " ".join(a["alt"] for a in seen.all("img"))
    for name in ODD:
        assert name.replace("/", "∕") in alts
    assert "caf\\xe9.png" in alts
    assert seen.text.count(RIGHT_TO_LEFT) == 1 and f"<bdi>{RIGHT_TO_LEFT}</bdi>" in page


def test_only_its_own_script_may_run(page):
    import hashlib

    script = re.search("<script>(.*?)</script>", page, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for a in Seen.on(page).all("meta") if "http-equiv" in a)
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_what_was_left_out_and_how_to_make_it_again(page, album):
    text = " ".join(Seen.on(page).text)
    assert "1 file(s) could not be read" in text and "broken.jpg" in text
    assert "partbook discover --data" in text and album.name in text
    for word in ("Settings", "Versions", "features", "torch", "restarts"):
        assert word in text


def test_the_layer_is_the_labels(out, album):
    "What lies over a photograph is what the model says, to the pixel."
    again = load(out)
    photos = Folder.open(album, size=32)
    shown = photographs((out / "report.html").read_text(encoding="utf-8"))
    palette = as_bytes(part_colours(3)[None])[0]
    for i, (_, layer) in enumerate(shown):
        colours = np.asarray(picture(layer["src"]).convert("RGBA"))
        h, w = colours.shape[:2]
        images = photos[i].image[None]
        logits = upsample(again.method.logits(images), (h, w))
        labels = again.method.read_labels(logits)[0].numpy()
        line = (colours[..., :3] == 0).all(-1)
        assert (colours[~line][:, :3] == palette[labels[~line]]).all()
        assert (labels[~line] > 0).all() and (colours[~line][:, 3] == 255).all()


def test_counts_are_those_of_the_run(out, page):
    found = load(out).rows["kmeans, rgb"]
    said = re.search(r"worth ([0-9.]+) equal", " ".join(Seen.on(page).text))[1]
    assert float(said) == round(found["parts_effective"], 1)
    shares = [float(s) for s in re.findall(r'style="width: ([0-9.]+)%"', page)]
    assert len(shares) == 3 and sum(shares) == pytest.approx(100)


def test_examples_are_of_different_photographs(page):
    rows = re.findall('<td class="examples">(.*?)</td>', page, re.S)
    assert len(rows) == 3
    for row in rows:
        alts = [a["alt"] for a in Seen.on(row).all("img")]
        assert len(alts) == len(set(alts)) == 3


def test_the_same_run_writes_the_same_page(out, album, tmp_path):
    photos = Folder.open(album, size=32)
    pages = [
        write_report(load(out), tmp_path / n, photos).read_bytes() for n in ("a.html", "b.html")
    ]
    assert pages[0] == pages[1]


def test_the_command(out, album, tmp_path, capsys):
    words = ["report", out, album, "--out", tmp_path / "page.html", "--limit", 3]
    assert run(*words, "--dry-run") == 0
    assert "page.html (new)" in capsys.readouterr().out and not list(tmp_path.iterdir())
    assert run(*words) == 0
    assert "3 photographs" in capsys.readouterr().out
    text = " ".join(Seen.on((tmp_path / "page.html").read_text(encoding="utf-8")).text)
    assert "3 parts on 3 photographs" in text and "partbook report" in text
    assert run(*words) == 0  # its own page may be written anew
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_refusals(out, album, tmp_path, capsys):
    said = sentence(capsys, "report", out, album, "--out", tmp_path / "page.pdf")
    assert "page.pdf is no page; give it a name that ends in .html" in said
    (tmp_path / "mine.html").write_text("<!doctype html><title>mine</title>")
    said = sentence(capsys, "report", out, album, "--out", tmp_path / "mine.html")
    assert "was not made by partbook" in said
    assert (tmp_path / "mine.html").read_text().endswith("mine</title>")
    assert "There is no folder" in sentence(capsys, "report", out, tmp_path / "absent")
    assert "model" in sentence(capsys, "report", tmp_path, album)
    with pytest.raises(InputError) as found:
        write_report(load(out), tmp_path / "page.html")
    assert "its pictures are not at hand" in message(found)


def test_a_run_is_refused_before_it_begins(album, tmp_path, capsys):
    (tmp_path / "report.html").write_text("my own")
    said = sentence(capsys, *quick(album, tmp_path))
    assert "report.html was not made by partbook" in said
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_page_is_ours_by_its_head(out, tmp_path):
    assert is_ours(out / "report.html")
    (tmp_path / "a.html").write_text("<!doctype html><p>made with partbook")
    assert not is_ours(tmp_path / "a.html")


def test_nothing_half_written_is_left(out, album, tmp_path, monkeypatch):
    import partbook.report

    def broken(seen, collection):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(partbook.report, "table_of", broken)
    with pytest.raises(InputError, match="No space left"):
        write_report(load(out), tmp_path / "page.html", Folder.open(album, size=32))
    assert not list(tmp_path.iterdir())


def test_drawn_pictures_leave_no_page(tmp_path):
    found = discover("birds", parts=3, limit=6, baselines=False, out=tmp_path, say=str)
    assert not (tmp_path / "report.html").exists() and not gets_page(found.study.test)
    page = write_report(found, tmp_path / "birds.html").read_text(encoding="utf-8")
    assert len(photographs(page)) == 6


class Many(Folder):
    "A folder that lends the same few pictures again and again."

    def __init__(self, photos, count):
        self.__dict__.update(vars(photos))
        self.photos, self.names = photos, [f"{n}.png" for n in range(count)]

    def __getitem__(self, i):
        return self.photos[i % len(self.photos)]

    def picture(self, i, at_least=None):
        return self.photos.picture(i % len(self.photos), at_least)

    def files(self):
        return []


def test_memory_does_not_grow(out, album, tmp_path):
    photos, saved = Folder.open(album, size=32), load(out)
    peaks = []
    for count in (40, 40, 240):
        tracemalloc.start()
        write_report(saved, tmp_path / "page.html", Many(photos, count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    size = (tmp_path / "page.html").stat().st_size
    assert size > 5 * 10**5
    assert peaks[2] < peaks[1] + 0.5 * size


def test_many_photographs_keep_to_the_budget():
    assert [side_for(n) for n in (1, 800)] == [SIDE, SIDE]
    assert side_for(1000) < SIDE and side_for(10**9) == 96
    gravel = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    for most in (100_000, 30_000, 9_000, 3_000):
        assert len(base64.b64encode(jpeg(gravel, most))) <= most + 2
    assert 1000 * (BUDGET // 1000) < 40e6


def test_more_than_fit_are_taken_evenly(out, album, tmp_path, monkeypatch):
    import partbook.report

    monkeypatch.setattr(partbook.report, "MOST", 4)
    page = write_report(load(out), tmp_path / "page.html", Folder.open(album, size=32))
    text = page.read_text(encoding="utf-8")
    assert len(photographs(text)) == 4 and "4 of 8 photographs are on this page" in text


def test_layers_of_255_parts_have_no_line():
    labels = torch.arange(256).view(16, 16)
    layer = np.asarray(
        Image.open(io.BytesIO(label_layer(labels, part_colours(255)))).convert("RGBA")
    )
    assert layer[0, 0].tolist()[3] == 0 and (layer[..., 3] == 255).sum() == 255
    expected = as_bytes(part_colours(255)[None])[0]
    assert (layer.reshape(-1, 4)[1:, :3] == expected[1:]).all()


def test_windows_are_square_and_inside():
    g = np.random.default_rng(0)
    for _ in range(200):
        H, W = g.integers(1, 300, 2)
        x0, y0 = g.uniform(0, 0.9, 2)
        x1, y1 = x0 + g.uniform(0.01, 1 - x0), y0 + g.uniform(0.01, 1 - y0)
        left, top, right, bottom = window((x0, y0, x1, y1), (int(H), int(W)))
        assert 0 <= left < right <= W and 0 <= top < bottom <= H
        assert left <= x0 * W + 1 and right >= x1 * W - 1
        fits = max(right - left, bottom - top) < min(H, W)
        assert not fits or abs((right - left) - (bottom - top)) <= 1


def test_cuts_keep_the_colours_inside():
    red = torch.zeros(3, 100, 100)
    red[0] = 1
    piece = np.ones((20, 20), bool)
    cut = cut_out(red, Example(1.0, 0, (0.4, 0.4, 0.6, 0.6), piece), np.array([0, 0, 1.0]))
    middle = cut[cut.shape[0] // 2, cut.shape[1] // 2].tolist()
    assert middle == [255, 0, 0] and np.ptp(cut[2, 2].astype(int)) < 30
    assert (cut == [0, 0, 255]).all(-1).any()


def test_ratings():
    assert rating(0.5, 0.1, 0.1) == 0.5 and rating(1, 0.01, 0.01) == 0.5
    assert rating(1, 0.05, 0.1) < rating(1, 0.1, 0.1) == rating(1, 0.5, 0.5)


def test_names_reach_the_page(out, album, tmp_path):
    named = load(out)
    named.facts["names"] = {"1": "<b>ears</b>", "3": "tail"}
    assert names_of(named.facts, 3) == ["<b>ears</b>", "part 2", "tail"]
    page = write_report(named, tmp_path / "page.html", Folder.open(album, size=32))
    text = page.read_text(encoding="utf-8")
    assert "&lt;b&gt;ears&lt;/b&gt;" in text and "<b>" not in text and "tail" in text


def test_merged_parts_keep_their_colours(out, album, tmp_path):
    merged = load(out)
    merged.method = merge_parts(merged.method, [[1, 2]])
    page = write_report(merged, tmp_path / "page.html", Folder.open(album, size=32))
    text = page.read_text(encoding="utf-8")
    assert "2 parts on 8 photographs" in text
    colours = as_bytes(part_colours(3)[None])[0].tolist()
    for k, of in ((1, 1), (2, 3)):
        assert f".c{k} {{ background: rgb{tuple(colours[of])};" in text


@dataclass
class Finding:
    severity: str
    sentence: str
    next: str = ""


def test_findings(out, album, tmp_path):
    found = [Finding("good", "It holds."), Finding("trouble", "<i>Frame</i>", "--features lite0")]
    record = {"severity": "trouble", "findings": [vars(f) for f in found]}
    assert as_findings(found) == as_findings(record)
    assert as_findings(None) == as_findings("nonsense") == as_findings({}) == []
    page = write_report(
        load(out), tmp_path / "page.html", limited(Folder.open(album, size=32), 2), findings=found
    )
    text = page.read_text(encoding="utf-8")
    assert text.index("&lt;i&gt;Frame") < text.index("It holds.")
    assert "Try --features lite0." in text and 'class="bad"' in text


def test_pictures_are_shown_unsquashed(album):
    photos = Folder.open(album, size=32)
    shapes = {photos[i].name: own_shape(photos, i, 96, True).shape[1:] for i in range(len(photos))}
    assert shapes["wide.png"] == (48, 96) and shapes["tall.png"] == (96, 32)
    found = discover(album, features="rgb", size=32, parts=2, baselines=False, say=str)
    look = next(looked_at(found.method, photos, found.device, 96, [photos.names.index("wide.png")]))
    assert isinstance(look, Look) and look.labels.shape == look.picture.shape[1:] == (24, 48)
    whole = photos.picture(photos.names.index("wide.png"))
    assert torch.equal(look.picture, whole)
    sheet = found.show(8)
    boxes = [ax.get_window_extent() for ax in sheet.axes[:-1]]
    ratios = sorted({round(box.width / box.height, 1) for box in boxes})
    assert ratios[0] == 0.3 and ratios[-1] == 2.0


def test_a_file_that_went_is_shown_as_a_square(album, tmp_path):
    import shutil

    copy = Path(shutil.copytree(album, tmp_path / "copy"))
    photos = Folder.open(copy, size=32)
    (copy / "wide.png").unlink()
    assert own_shape(photos, photos.names.index("wide.png"), 32).shape == (3, 32, 32)
