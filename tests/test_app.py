"""The web page, as a person with a folder of photographs uses it.

Find, watch, name, merge, save; nothing leaves this machine, nothing is cut, nothing is written
before Save.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from helpers import FLAGS
from PIL import Image

from partbook.core import InputError

BROWSER = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
PHOTOGRAPHS = 8
CUT = """() => [...document.querySelectorAll('button, label span, input, select, img, h1, h3, p')]
    .filter(e => e.offsetParent && e.getBoundingClientRect().width > 0)
    .filter(e => {
        const box = e.getBoundingClientRect();
        return box.right > window.innerWidth + 1 || box.left < -1 ||
            (/BUTTON|INPUT/.test(e.tagName) && e.scrollWidth > e.clientWidth + 1);
    })
    .map(e => `${e.tagName} ${e.innerText || e.alt || e.value}`)"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Drawn birds as JPEGs, some of them in a folder of their own."
    from partbook.data.sample import collections
    from partbook.parts.plots import as_bytes

    root = tmp_path_factory.mktemp("app") / "zoo <b>"
    drawn = collections["birds"].open(split="train", size=96).batch(range(PHOTOGRAPHS))
    for i, image in enumerate(drawn.images):
        path = root / "may" / f"bird{i}.jpg" if i % 2 else root / f"bird{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(as_bytes(image)).save(path, quality=92)
    return root


@pytest.fixture(scope="module")
def page(folder, tmp_path_factory):
    "The command as a person starts it; its address, the place for results, the process."
    pytest.importorskip("gradio", reason="no gradio here (pip install 'gradio>=6')")
    if BROWSER is None:
        pytest.skip("no chromium here (apt-get install chromium)")
    place = tmp_path_factory.mktemp("results")
    out = place / "partbook-out"
    command = [sys.executable, "-m", "partbook.start", "app", str(folder), "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    environment.pop("IN_TEST", None)
    log = open(place / "log", "w+")
    process = subprocess.Popen(
        command, cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
    )
    try:
        for _ in range(600):
            found = re.search(r"http://127\.0\.0\.1:\d+", (place / "log").read_text())
            if found:
                break
            assert process.poll() is None, (place / "log").read_text()[-2000:]
            time.sleep(0.5)
        yield found.group(), out, process, place / "log"
    finally:
        process.kill()
        process.wait()
        log.close()


@pytest.fixture(scope="module")
def tab(page):
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no playwright here (pip install playwright)"
    )
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=BROWSER, headless=True, args=FLAGS)
        tab = chromium.new_page(viewport={"width": 1400, "height": 1000})
        tab.set_default_timeout(240_000)
        tab.asked = []
        tab.wrong = []
        tab.on("request", lambda request: tab.asked.append(request.url))
        tab.on(
            "console",
            lambda m: tab.wrong.append(f"{m.text} {m.location}") if m.type == "error" else None,
        )
        tab.on("pageerror", lambda error: tab.wrong.append(str(error)))
        tab.goto(page[0])
        yield tab
        chromium.close()


def button(tab, name):
    return tab.get_by_role("button", name=name, exact=True)


def status(tab, pattern):
    "Wait until the status says something."
    tab.locator(".pb-status span", has_text=re.compile(pattern)).wait_for()


def tick(tab, name):
    tab.get_by_role("checkbox", name=name, exact=True).check()


def test_parts_are_found_named_merged_and_saved(page, tab):
    _, out, _, _ = page
    assert "zoo <b>" in tab.locator("h1").inner_text()
    button(tab, "Find parts").click()
    status(tab, "Features of")  # the page moves while it learns
    tab.locator(".pb-sheet img").first.wait_for()
    status(tab, f"6 parts on {PHOTOGRAPHS} photographs")
    assert tab.locator(".pb-sheet img").count() == 2 * PHOTOGRAPHS
    fields = tab.locator(".pb-part input, .pb-part textarea")
    fields.first.wait_for()
    assert [f.is_visible() for f in fields.all()].count(True) == 6

    fields.first.fill("head <i>")
    fields.first.press("Enter")
    status(tab, "Part 1: head <i>")
    assert tab.locator(".pb-legend span").first.inner_text().strip() == "head <i>"

    tick(tab, "part 3")
    tick(tab, "part 4")
    button(tab, "Merge").click()
    status(tab, "^5 parts$")
    tab.wait_for_function("document.querySelectorAll('.pb-legend span').length === 5")
    tick(tab, "part 2")
    button(tab, "Merge").click()
    status(tab, "is no group of parts")
    button(tab, "Take back").click()
    status(tab, "^6 parts again$")
    tab.wait_for_function("document.querySelectorAll('.pb-legend span').length === 6")

    assert not out.exists()
    button(tab, "Save").click()
    status(tab, "Open .*report.html")
    assert {p.name for p in out.iterdir()} >= {"metrics.json", "model", "parts.png", "report.html"}
    tab.get_by_label("what to save").click()
    tab.get_by_role("option", name="a table of parts (CSV)").click()
    button(tab, "Save").click()
    status(tab, "parts on 8 photographs")
    assert "head <i>" in (out / "csv" / "parts.csv").read_text()


def test_a_reload_shows_the_same_parts(tab):
    assert tab.wrong == []
    tab.reload()
    tab.wait_for_function("document.querySelectorAll('.pb-legend span').length === 6")
    assert tab.locator(".pb-part input, .pb-part textarea").first.input_value() == "head <i>"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_is_cut(tab, width, scheme):
    tab.set_viewport_size({"width": width, "height": 1000})
    tab.emulate_media(color_scheme=scheme)
    tab.reload()
    tab.wait_for_function("document.querySelectorAll('.pb-legend span').length === 6")
    tab.wait_for_timeout(300)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(CUT) == []
    pictures = os.environ.get("PARTBOOK_SCREENSHOTS")
    if pictures:
        tab.screenshot(path=f"{pictures}/app_{width}_{scheme}.png", full_page=True)


def test_nothing_leaves_this_machine_and_nothing_is_red(page, tab):
    elsewhere = [u for u in tab.asked if not u.startswith((page[0], "data:", "blob:"))]
    assert elsewhere == []
    stopped = ("AbortError", "Connection errored out")  # a reload stops what was loading
    left = [w for w in tab.wrong if not any(word in w for word in stopped)]
    assert left == []


@pytest.mark.parametrize("path", ["/etc/passwd", str(ROOT / "settings.ini")])
def test_no_other_file_is_served(page, tab, path):
    answer = tab.request.get(f"{page[0]}/gradio_api/file={path}")
    assert answer.status in (403, 404)


def test_another_machine_could_not_reach_it(page):
    port = int(page[0].rsplit(":", 1)[1])
    table = open("/proc/net/tcp").read() if os.path.exists("/proc/net/tcp") else ""
    listening = [line.split()[1] for line in table.splitlines()[1:] if line.split()[3] == "0A"]
    ours = [place for place in listening if int(place.split(":")[1], 16) == port]
    assert all(place.startswith("0100007F:") for place in ours)


def test_ctrl_c_ends_it(page):
    _, _, process, log = page
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert "The page is closed." in log.read_text()


def test_a_dry_run_opens_no_page(folder, tmp_path, capsys):
    from partbook.cli import main

    assert main(["app", str(folder), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "1 folder in it" in said
    assert "Nothing was written." in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["nowhere"], "There is no folder nowhere"),
        ([".", "--out", "file"], "--out file is a file"),
        (["empty"], "There is no photograph in empty"),
    ],
)
def test_wrong_words_get_a_sentence(words, sentence, tmp_path, monkeypatch, capsys):
    from partbook.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    assert main(["app", *words, "--dry-run"]) == 2
    assert sentence in capsys.readouterr().err


def test_a_folder_that_is_not_in_the_list_is_refused(folder, tmp_path):
    from partbook.app import Counter

    desk = Counter(folder, tmp_path / "out")
    words = ("colours only", "none: parts of whole pictures", 3, False)
    for wrong in ("..", "/etc", str(folder.parent), "may/.."):
        steps = list(desk.find(wrong, *words))
        assert "not in the list" in steps[-1][0]
    with pytest.raises(InputError, match="find them first"):
        desk.session.done()
    assert "pb-wrong" in list(desk.save("model"))[-1]
    assert not (tmp_path / "out").exists()
