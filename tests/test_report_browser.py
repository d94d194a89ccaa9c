"""The page of a run in a browser, from a file: it reads, turns, and says nothing on the console."""

import shutil

import pytest
from helpers import noise, quick, run
from test_browser import BROWSER

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium here (apt-get install chromium)"
)
playwright = pytest.importorskip(
    "playwright.sync_api", reason="no playwright here (pip install playwright)"
)
COUNT = 30
EVIL = "<img src=x onerror=document.title='evil'>.png"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for n in range(COUNT - 1):
        noise(folder / f"{'long' * 30 * (n == 0)}{n}.png", n, [(40, 60), (60, 40)][n % 2])
    noise(folder / EVIL)
    out = tmp_path_factory.mktemp("out")
    assert run(*quick(folder, out, "--no-baselines", size=32, parts=3)) == 0
    alone = tmp_path_factory.mktemp("alone") / "page.html"
    shutil.copy(out / "report.html", alone)
    shutil.rmtree(out)
    return alone


@pytest.fixture(params=[(1400, "light"), (390, "dark")], ids=["wide", "narrow"])
def page(request, browser, page_file):
    "The page in a window; at the end nothing may have been said or asked for."
    width, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda r: asked.append(r.url[:80]))
    page.goto(page_file.as_uri())
    yield page
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [page_file.as_uri()]
    page.close()


def shown(page):
    return page.locator("#shown figure")


def loaded(page):
    page.wait_for_function(
        "() => [...document.querySelectorAll('#shown img')].every(i => i.complete)"
    )
    return page.evaluate("[...document.images].every(i => i.naturalWidth > 0)")


CONTRAST = """() => {
    const light = text => {
        const [r, g, b] = text.match(/[\\d.]+/g).map(v => v / 255);
        const f = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b);
    };
    const clear = c => /, 0\\)$/.test(c);
    const ground = e => {
        const c = getComputedStyle(e).backgroundColor;
        return clear(c) ? ground(e.parentElement) : light(c);
    };
    const words = e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    return [...document.querySelectorAll('main *')]
        .filter(e => e.offsetParent && words(e) && !e.disabled)
        .filter(e => {
            const [a, b] = [light(getComputedStyle(e).color), ground(e)];
            return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
        })
        .map(e => e.innerText.slice(0, 40));
}"""


def test_it_reads(page):
    assert page.title() == f"3 parts on {COUNT} photographs"
    assert loaded(page)
    for opened in page.locator("summary").all():
        opened.click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate("[...document.images].every(i => i.hasAttribute('alt'))")
    for figure in shown(page).all()[:4]:
        photo = figure.locator(".photo")
        ratio = photo.evaluate(
            "i => (i.clientWidth / i.clientHeight) / (i.naturalWidth / i.naturalHeight)"
        )
        assert abs(ratio - 1) < 0.05


def test_pages_turn(page):
    assert shown(page).count() == 24 and page.inner_text("#where") == f"1 to 24 of {COUNT}"
    assert page.locator("#back").is_disabled()
    first = shown(page).first.inner_text()
    page.click("#next")
    assert shown(page).count() == COUNT - 24 and page.locator("#next").is_disabled()
    assert page.inner_text("#where") == f"25 to {COUNT} of {COUNT}" and loaded(page)
    page.click("#back")
    assert shown(page).first.inner_text() == first


def test_a_click_takes_the_parts_away_and_brings_them_back(page):
    figure = shown(page).first
    layer, photo = figure.locator(".layer"), figure.locator(".photo")
    page.keyboard.press("Tab")  # the keyboard does what the mouse does
    figure.locator("button").focus()
    for both in ((False, True), (True, False), (True, True)):
        page.keyboard.press("Enter")
        assert (layer.is_visible(), photo.is_visible()) == both
    figure.locator("button").click()
    assert not layer.is_visible()
    page.check("input[value=parts]")
    assert not shown(page).nth(5).locator(".photo").is_visible()


def test_one_part_alone(page):
    page.locator("[data-show='2']").click()
    count = int(page.inner_text("[data-show='2']").split()[0])
    assert page.inner_text("#where").endswith(f"of {count}")
    page.wait_for_selector("#shown canvas")
    colours = page.evaluate("""() => {
        const canvas = document.querySelector('#shown canvas');
        const p = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        const found = new Set();
        for (let i = 0; i < p.length; i += 4)
            if (p[i + 3]) found.add([p[i], p[i + 1], p[i + 2]].join());
        return [...found];
    }""")
    own = page.evaluate("getComputedStyle(document.querySelector('.dot.c2')).backgroundColor")
    assert [f"rgb({c.replace(',', ', ')})" for c in colours] == [own]
    page.select_option("#which", "-2")
    rest = COUNT - count
    assert page.inner_text("#where") == ("no photograph" if not rest else f"1 to {rest} of {rest}")


def test_names_do_nothing(page):
    page.click("#next")
    page.wait_for_timeout(200)
    assert page.title() == f"3 parts on {COUNT} photographs"
    assert page.locator("img[src=x]").count() == 0
    page.click("#back")
    names = [f.inner_text().strip() for f in shown(page).all()]
    page.click("#next")
    names += [f.inner_text().strip() for f in shown(page).all()]
    assert EVIL in names


def test_without_javascript_the_rest_is_there(browser, page_file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.locator(".pair img").count() == 24 and page.locator(".examples img").count() == 9
    assert "needs JavaScript" in page.inner_text("noscript")
    context.close()
