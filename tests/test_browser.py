"""The main line in JupyterLab, as a reader meets it.

Every cell runs, every equation is typeset, the widgets are shown and move, no label is cut, no bar
is red, no line of code runs off the edge.
"""

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

from partbook.chapters import MAIN, in_order, read_notebook, read_route

BROWSER = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
CHAPTERS = [stop.path for stop in in_order(read_route(ROOT)) if stop.layer == MAIN]
STILL = "experiments/"  # chapters of tables and curves, with nothing to move
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
    "JupyterLab on a copy of nbs/, at home in throwaway folders; yields its address and the copy."
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
        "--LabApp.expose_app_in_browser=True",
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


def test_the_chapters_are_there():
    assert len(CHAPTERS) > 10


NOTEBOOK = "window.jupyterapp.shell.currentWidget"
PANEL = ".jp-NotebookPanel:not(.lm-mod-hidden)"
WRONG = (
    '[data-mime-type="application/vnd.jupyter.stderr"], '
    '[data-mime-type="application/vnd.jupyter.error"]'
)
CONTROLS = ".noUi-handle, .widget-dropdown select, .widget-toggle-button"
IDLE = f"() => {NOTEBOOK}.sessionContext.session?.kernel?.status === 'idle'"
RAN = f"""() => {{
    const cells = [...{NOTEBOOK}.content.widgets].filter(c => c.model.type === 'code');
    const full = cells.filter(c => c.model.sharedModel.getSource().trim());
    return full.length > 0 && full.every(c => c.model.executionCount !== null);
}}"""
CUT = """panel => [
        ...panel.querySelectorAll('.widget-label, .widget-readout, .widget-toggle-button')
    ]
    .filter(e => e.offsetParent && e.scrollWidth > e.clientWidth + 1)
    .map(e => `${e.innerText} (${e.scrollWidth} of ${e.clientWidth} px)`)"""
WIDE = """panel => [...panel.querySelectorAll('.jp-CodeCell .jp-InputArea .cm-scroller')]
    .filter(e => e.offsetParent && e.scrollWidth > e.clientWidth + 1)
    .map(e => e.innerText.slice(0, 80))"""
FAINT = """panel => {
    const grey = text => {
        const c = text.match(/[\\d.]+/g).map(Number);
        return c.length > 3 && c[3] === 0 ? null : (c[0] + c[1] + c[2]) / 3;
    };
    const ground = e => grey(getComputedStyle(e).backgroundColor) ?? ground(e.parentElement);
    return [...panel.querySelectorAll('.widget-label, .widget-readout')]
        .filter(e => e.offsetParent && e.innerText.trim())
        .filter(e => Math.abs(grey(getComputedStyle(e).color) - ground(e)) < 90)
        .map(e => e.innerText);
}"""
PICTURE = """async output => {
    const load = async image => {  // the bytes: a picture drawn again has a new address
        const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
        return Array.from(bytes).reduce((h, b) => (h * 31 + b) % 4294967291, 7);
    };
    try {
        const pictures = await Promise.all([...output.querySelectorAll('img')].map(load));
        const drawn = [...output.querySelectorAll('canvas')].map(c => c.toDataURL());
        const words = [...output.querySelectorAll('.jp-OutputArea .jp-OutputArea-output, table')];
        return JSON.stringify([pictures, drawn, words.map(w => w.innerText)]);
    } catch {
        return null;  // a picture went while it was read
    }
}"""


def seen(page, widget, besides=None):
    "What a widget shows; waits for something else than `besides`. None where nothing else comes."
    until = time.monotonic() + 30  # it takes one second; a busy machine may take more
    while time.monotonic() < until:
        found = widget.evaluate(PICTURE)
        if found not in (None, besides):
            return found
        page.wait_for_timeout(100)
    return None


def opened(lab, browser, path):
    "A page with the chapter, at a usual width, its kernel ready."
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(120_000)
    page.goto(f"{lab[0]}/lab/tree/{path}?reset")
    page.wait_for_selector(f"{PANEL} .jp-CodeCell")
    page.wait_for_function(IDLE)
    return page


@pytest.mark.parametrize("path", CHAPTERS)
def test_reads_well(path, lab, browser):
    page = opened(lab, browser, path)
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    page.wait_for_function(RAN, timeout=300_000)  # a busy machine needs its time
    page.wait_for_function(IDLE)
    errors = page.locator(WRONG)
    assert errors.count() == 0, errors.first.inner_text()[:2000]
    cells = read_notebook(ROOT / "nbs" / path)["cells"]
    prose = "".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")
    assert page.locator("mjx-container").count() > 0 or "$" not in prose
    assert page.locator("mjx-merror").count() == 0
    assert page.locator(f"{PANEL} .jp-OutputArea [class*=danger]").count() == 0, "a bar is red"
    widgets = page.locator(f"{PANEL} .jp-CodeCell > .jp-Cell-outputWrapper").filter(
        has=page.locator(CONTROLS)
    )
    assert widgets.count() > 0 or path.startswith(STILL), "no widget is shown"
    for n in range(widgets.count()):
        move(page, widgets.nth(n))
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        dress(page, theme)
        panel = page.locator(PANEL)
        assert panel.evaluate(CUT) == [], "a label is cut"
        assert panel.evaluate(FAINT) == [], f"a label cannot be read in {theme}"
        assert panel.evaluate(WIDE) == [], "code runs off the right edge"
    page.close()


def dress(page, theme):
    "Change the colours of JupyterLab, and wait for them."
    change = "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})"
    page.evaluate(change, theme)
    page.wait_for_function("name => document.body.dataset.jpThemeName === name", arg=theme)


def move(page, widget):
    "Move the first control of a widget by keyboard: its picture changes, and nothing goes wrong."
    control = widget.locator(CONTROLS).first
    control.scroll_into_view_if_needed()
    page.wait_for_function(IDLE)
    before = seen(page, widget)
    control.focus()
    kind = control.evaluate("e => e.tagName + ' ' + e.className")
    if "noUi" in kind:
        value = control.get_attribute("aria-valuetext")
        for key in ("ArrowRight", "ArrowLeft"):
            page.keyboard.press(key)
            if control.get_attribute("aria-valuetext") != value:
                break
    elif kind.startswith("SELECT"):
        chosen = control.evaluate("e => e.selectedIndex")
        control.select_option(index=chosen + (1 if chosen == 0 else -1))
    else:
        widget.locator(".widget-toggle-button:not(.mod-active)").first.click()
    assert seen(page, widget, before), f"the picture does not change with {kind}"
    page.wait_for_function(IDLE)
    assert page.locator(WRONG).count() == 0


BROKEN = [
    "import sys\n\nprint('careful', file=sys.stderr)",
    "import ipywidgets as widgets\n\n"
    "label = widgets.IntSlider(description='a description that nobody has room for')\n"
    "bar = widgets.IntProgress(value=3, bar_style='danger')\n"
    "widgets.VBox([label, bar])",
    f"wide = '{'x' * 300}'",
]


def test_a_broken_chapter_would_be_noticed(lab, browser):
    "The signs that the test above looks for do appear."
    code = dict(cell_type="code", metadata={}, execution_count=None, outputs=[])
    cells = [code | dict(id=f"c{n}", source=source) for n, source in enumerate(BROKEN)]
    text = "$$\\frac{1}$$ and $$\\undefinedmacro$$"
    cells.append(dict(cell_type="markdown", id="a", metadata={}, source=text))
    kernel = {"name": "python3", "display_name": "python3", "language": "python"}
    nb = dict(cells=cells, metadata={"kernelspec": kernel}, nbformat=4, nbformat_minor=5)
    (lab[1] / "broken.ipynb").write_text(json.dumps(nb))
    page = opened(lab, browser, "broken.ipynb")
    page.wait_for_selector("mjx-merror", state="attached")
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    page.wait_for_function(RAN)
    page.wait_for_selector(WRONG)
    page.wait_for_selector(CONTROLS)
    panel = page.locator(PANEL)
    assert "nobody has room" in panel.evaluate(CUT)[0]
    assert len(panel.evaluate(WIDE)) == 1
    assert page.locator(f"{PANEL} .jp-OutputArea [class*=danger]").count() > 0
    page.close()
