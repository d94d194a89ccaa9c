"""Two chapters in JupyterLab, as a reader meets them: every cell runs, every equation is typeset, every slider is there."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from conftest import ROOT

from partbook.chapters import chapter, notebooks, read_notebook

BROWSER = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
CHAPTERS = [
    p
    for p in notebooks(ROOT)
    if p.stem != "index" and chapter(p, ROOT).module in ("drawn.birds", "evaluation.overlap")
]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SETTINGS = {  # of JupyterLab: nothing fetched, every cell in the page
    "apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "notebook-extension/tracker": {"windowingMode": "none"},
}

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium here (apt-get install chromium)"
)
playwright = pytest.importorskip(
    "playwright.sync_api", reason="no playwright here (pip install playwright)"
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "JupyterLab on a copy of nbs/, with throwaway folders for everything it would write at home; yields its address and the copy."
    work = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "nbs", work / "book" / "nbs", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(ROOT / "settings.ini", work / "book")
    for name, value in SETTINGS.items():
        path = work / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "HOME": "home",
        "MPLCONFIGDIR": "mpl",
    }
    environment = {
        **os.environ,
        **{k: str(work / v) for k, v in folders.items()},
        "PARTBOOK_SMALL": "1",
    }
    environment.pop("IN_TEST", None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        "--IdentityProvider.token=",
        "--allow-root",
        f"--ServerApp.root_dir={work / 'book' / 'nbs'}",
    ]
    with open(work / "log", "w") as log:
        server = subprocess.Popen(
            command, cwd=work, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=2)
                break
            except OSError:
                assert server.poll() is None, (work / "log").read_text()[-2000:]
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}", work / "book" / "nbs"
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=BROWSER, headless=True, args=FLAGS)
        yield chromium
        chromium.close()


def test_the_chapters_are_there():
    assert len(CHAPTERS) == 2


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_reads_well(path, lab, browser):
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(60_000)
    page.goto(f"{lab[0]}/lab/tree/{path.relative_to(ROOT / 'nbs').as_posix()}?reset")
    page.wait_for_function(
        "() => /\\| Idle\\s*$/.test(document.querySelector('#jp-main-statusbar')?.innerText.split('\\n').find(t => t.includes('|')) || '')"
    )
    cells = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    page.wait_for_function(
        "() => { const p = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(e => e.innerText.trim());"
        " return p.length > 0 && p.every(t => /^\\[\\d+\\]:$/.test(t)); }"
    )
    assert cells.count() > 5
    errors = page.locator(
        '[data-mime-type="application/vnd.jupyter.stderr"], [data-mime-type="application/vnd.jupyter.error"]'
    )
    assert errors.count() == 0, errors.first.inner_text()[:2000]
    prose = "".join(
        cell["source"] for cell in read_notebook(path)["cells"] if cell["cell_type"] == "markdown"
    )
    assert page.locator("mjx-container").count() > 0 or "$" not in prose
    assert page.locator("mjx-merror").count() == 0
    move_a_slider(page)
    page.close()


def test_a_broken_chapter_would_be_noticed(lab, browser):
    "The signs that the test above looks for do appear: an equation that cannot be typeset, something on stderr."
    page = browser.new_page()
    nb = {
        "cells": [
            {
                "cell_type": "markdown",
                "id": "a",
                "metadata": {},
                "source": "$$\\frac{1}$$ and $$\\undefinedmacro$$",
            },
            {
                "cell_type": "code",
                "id": "b",
                "metadata": {},
                "source": "import sys",
                "execution_count": None,
                "outputs": [{"output_type": "stream", "name": "stderr", "text": "careful"}],
            },
        ],
        "metadata": {
            "kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (lab[1] / "broken.ipynb").write_text(json.dumps(nb))
    page.goto(f"{lab[0]}/lab/tree/broken.ipynb?reset")
    page.wait_for_selector("mjx-merror", timeout=60_000, state="attached")
    page.wait_for_selector('[data-mime-type="application/vnd.jupyter.stderr"]', timeout=60_000)
    page.close()


def move_a_slider(page):
    "Move the chapter's first slider by keyboard: its number changes and nothing goes to stderr."
    handle = page.locator(".noUi-handle").first
    handle.wait_for(timeout=15_000)
    handle.scroll_into_view_if_needed()
    before = handle.get_attribute("aria-valuetext")
    handle.focus()
    page.keyboard.press("ArrowRight")
    if handle.get_attribute("aria-valuetext") == before:
        page.keyboard.press("ArrowLeft")
    page.wait_for_function(
        "([e, old]) => e.getAttribute('aria-valuetext') !== old",
        arg=[handle.element_handle(), before],
    )
    page.wait_for_function(
        "() => /\\| Idle/.test(document.querySelector('#jp-main-statusbar').innerText)"
    )
    page.wait_for_timeout(500)
    assert (
        page.locator(
            '[data-mime-type="application/vnd.jupyter.stderr"], [data-mime-type="application/vnd.jupyter.error"]'
        ).count()
        == 0
    )
