"""The site: what is prepared for it, and its pages in a browser without a network."""

import json
import os
import re
import subprocess
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from conftest import ROOT
from helpers import run, sentence

from partbook.chapters import InputError, alt_text, draws, leads_away, links_in, read_notebook
from partbook.course import chosen, exercises_of
from partbook.register import read_register
from partbook.sheet import find_mathjax, sheet_lines, sheet_page, write_sheet
from partbook.site import (
    build,
    deliver,
    dropdown,
    jupyter_book,
    page_cells,
    page_text,
    relinked,
    source_of_site,
    tags_of,
    unfolding,
    units,
    unlinked,
)

ONLY = [
    "00_notation.ipynb",
    "05_parts_in_ten_minutes.ipynb",
    "parts/10_maps.ipynb",
    "methods/40_scops.ipynb",
    "methods/80_disentangling.ipynb",
    "evaluation/40_protocols.ipynb",
]
NO_BOOK = "no Jupyter Book here (pip install 'partbook[site]')"
NO_MATHJAX = "no MathJax here (pip install 'partbook[site]')"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    "What the whole site is made from, and its pages."
    place = tmp_path_factory.mktemp("source")
    return place, source_of_site(ROOT, place)


def test_every_chapter_has_a_page_and_a_place_in_the_contents(source):
    place, pages = source
    toc = json.loads((place / "_toc.yml").read_text())
    files = [row["file"] for part in toc["parts"] for row in part["chapters"]]
    assert toc["parts"][0]["caption"] == "Main line"
    assert files[0] == "05_parts_in_ten_minutes" and len(files) == len(set(files))
    assert sorted(f"{name}.html" for name in ["index", *files]) == sorted(pages)
    assert len(pages) == len(chosen(ROOT)) + 2  # the sheet of equations, CONTRIBUTING.md
    assert all(list(place.glob(name + ".*")) for name in files)


def test_no_link_of_the_source_leads_nowhere(source):
    place, _ = source
    count = 0
    for path in [*place.rglob("*.ipynb"), *place.rglob("*.md")]:
        texts = [path.read_text()]
        if path.suffix == ".ipynb":
            cells = read_notebook(path)["cells"]
            texts = [c["source"] for c in cells if c["cell_type"] == "markdown"]
            outs = [o for c in cells for o in c.get("outputs", [])]
            texts += ["".join(o.get("data", {}).get("text/markdown", "")) for o in outs]
        links = [link for text in texts for link in links_in(text)]
        count += len(links)
        for link in links:
            assert (path.parent / link.partition("#")[0]).exists(), (path.name, link)
    assert count > 500


def test_nothing_for_the_machine_is_left_and_nothing_for_the_reader_is_lost(source):
    place, _ = source
    for name in chosen(ROOT):
        before = read_notebook(ROOT / "nbs" / name)["cells"]
        after = read_notebook(place / name)["cells"]
        code = [c for c in after if c["cell_type"] == "code"]
        assert len(code) == sum(c["cell_type"] == "code" for c in before)
        assert not any(c["source"].startswith("#|") for c in code), name
        shown = [c for c in code if "remove-cell" not in c["metadata"].get("tags", [])]
        assert sum(map(draws, before)) == sum(map(draws, shown)), name
        described = [c["metadata"]["mystnb"]["image"]["alt"] for c in shown if draws(c)]
        assert described == [alt_text(c["source"]).replace('"', "'") for c in before if draws(c)]
        texts = "\n".join(c["source"] for c in after if c["cell_type"] == "markdown")
        solved = sum(bool(e.solution) for e in exercises_of(before))
        assert "<details>" not in texts, name
        formulas = re.findall(r"\$\$.*?\$\$", texts, flags=re.S)
        assert not any("\\\\" in f and r"\tag" in f for f in formulas), name
        assert texts.count("{dropdown} Solution") >= min(solved, 1), name


@pytest.mark.parametrize(
    "cell, tag",
    [
        ("#| hide\nx = 1", "remove-cell"),
        ("#| default_exp a.b", "remove-cell"),
        ("#| export\nimport os\nfrom sys import path", "hide-input"),
        ("#| export\ndef f(): ...", None),
        ("assert f() == 1\nassert g()", "hide-input"),
        ("x = f()\nprint(x)\nassert x", None),
        ("with pytest.raises(ValueError):\n    f()", "hide-input"),
        ("#| fold\ng()", "hide-input"),
        ("widgets.interact(f)", "hide-input"),
        ("%matplotlib inline\nx = 1", None),
    ],
)
def test_each_cell_gets_its_tag(cell, tag):
    assert tags_of(dict(cell_type="code", source=cell)) == ([tag] if tag else [])


def test_a_hidden_cell_that_draws_shows_its_picture_only():
    drawn = [dict(output_type="display_data", data={"image/png": "x"}, metadata={})]
    cell = dict(cell_type="code", source="#| hide\nplot()", outputs=drawn)
    assert tags_of(cell) == ["remove-input"]


def test_boxes_keep_their_place_in_a_list_and_their_code():
    text = "1. A?\n\n   <details><summary>Hint</summary>Use `f`.\n\n   $x$</details>\n2. B?"
    boxed = unfolding(text)
    assert "   `````{dropdown} Hint\n   Use `f`.\n\n   $x$\n   `````" in boxed
    assert boxed.endswith("\n2. B?") and dropdown("T", "a\n\nb", "  ").split("\n")[2] == ""
    cells = [dict(cell_type="markdown", source="**Solution to 1.** So:\n\n```\nx\n```")]
    (unit,) = units(cells)
    assert page_text(unit) == "`````{dropdown} Solution to 1\nSo:\n\n```\nx\n```\n`````"


def test_code_of_a_solution_is_folded_with_its_output():
    cells = [
        dict(cell_type="markdown", source="**Solution to 1.** So:", id="a"),
        dict(cell_type="code", source="f()", outputs=[], id="b"),
    ]
    assert page_cells(cells)[1]["metadata"]["tags"] == ["hide-cell"]


def test_links_move_with_the_files():
    here = ROOT / "nbs" / "parts" / "10_maps.ipynb"
    assert relinked("../../LICENSE", ROOT, here, set()) == "../project/LICENSE"
    assert relinked("../register.csv", ROOT, here, set()) == "../register.csv"
    assert relinked("20_plots.ipynb#Two-Words", ROOT, here, set()) == "20_plots.ipynb#two-words"
    text = "[a [b]](20_plots.ipynb), ![c](20_plots.ipynb), `[d](20_plots.ipynb)`"
    left = unlinked(text, here.parent, ROOT / "nbs", set())
    assert left == "a [b], ![c](20_plots.ipynb), `[d](20_plots.ipynb)`"


def test_without_jupyter_book_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'partbook\[site\]'"):
        jupyter_book()


def test_jupyter_book_answers_however_it_is_installed(tmp_path, monkeypatch):
    "A package in this environment is called through its function, with nothing lost on the way."
    package = tmp_path / "jupyter_book" / "cli"
    package.mkdir(parents=True)
    (tmp_path / "jupyter_book" / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "main.py").write_text("import sys\n\ndef main():\n    print(sys.argv[1:])\n")
    monkeypatch.syspath_prepend(tmp_path)
    command = [*jupyter_book(), "build", "a b"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.stdout == "['build', 'a b']\n", done.stderr


def test_the_command_refuses_before_it_works(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert run("site", tmp_path / "out", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "index.html (new)" in said and "Nothing was written" in said
    assert not (tmp_path / "out").exists()
    (tmp_path / "index.html").write_text("my page")
    for words, said in [
        ([tmp_path], "was not made by partbook"),
        (["nbs"], "belongs to the book itself"),
        ([tmp_path / "out", "--only", "ghost.ipynb"], "no chapter ghost.ipynb"),
        ([tmp_path / "out", "--mathjax", "ghost.js"], "is not a file"),
        ([tmp_path / "out", "--mathjax", "setup.py"], "is not MathJax"),
        ([tmp_path / "out", "--book", tmp_path], "not inside a checkout"),
    ]:
        assert said in sentence(capsys, "site", *words)
    assert (tmp_path / "index.html").read_text() == "my page"


def test_the_sheet_has_every_equation_of_the_register():
    rows = read_register(ROOT)
    lines = sheet_lines(ROOT)
    assert len(rows) >= 36 and [r for line in lines for r in line.rows] != []
    assert sorted(r for line in lines for r in line.rows) == sorted(rows)
    page = sheet_page(ROOT)
    for line in lines:
        assert line.formula and "\\tag" not in line.formula
        for row in line.rows:
            assert f"<code>{row.function}</code>" in page
    written = " ".join(
        "".join(c["source"]) for n in {r.notebook for r in rows} for c in cells_of(n)
    )
    assert all(line.formula in written for line in lines)
    assert "MathJax is not installed here" in page and "<script" not in page


def cells_of(name):
    return read_notebook(ROOT / "nbs" / name)["cells"]


def test_a_sheet_is_made_anew_and_other_pages_stay(tmp_path):
    (tmp_path / "mine.html").write_text("<p>mine")
    with pytest.raises(InputError, match="was not made by partbook"):
        write_sheet(tmp_path / "mine.html", ROOT)
    out = write_sheet(tmp_path / "sheet.html", ROOT)
    assert write_sheet(out, ROOT) == out and out.stat().st_size > 10_000


# in a browser, where there is one


@pytest.fixture(scope="module")
def mathjax():
    found = find_mathjax()
    if found is None:
        pytest.skip(NO_MATHJAX)
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory, mathjax):
    "A site of a few chapters; or a whole one that was made before, named by PARTBOOK_SITE."
    if made := os.environ.get("PARTBOOK_SITE"):
        pages = [p.relative_to(made).as_posix() for p in sorted(Path(made).rglob("*.html"))]
        others = ("search.html", "genindex.html", "_static/")
        return Path(made), [page for page in pages if not page.startswith(others)]
    try:
        jupyter_book()
    except InputError:
        pytest.skip(NO_BOOK)
    place = tmp_path_factory.mktemp("site").resolve()
    (place / "source").mkdir()
    pages = source_of_site(ROOT, place / "source", mathjax, ONLY)
    deliver(build(place / "source", place), place / "out")
    return place / "out", pages


@pytest.fixture(scope="module")
def visited(site, browser):
    "What a browser sees on every page: text, links, failed requests, errors, equations."
    out, pages = site
    context = browser.new_context(offline=True, viewport={"width": 1400, "height": 900})
    found = {}
    for name in pages:
        page = context.new_page()
        wrong = []
        page.on("requestfailed", lambda r, wrong=wrong: wrong.append(r.url))
        page.on("request", lambda r, wrong=wrong: wrong.append(r.url) if away(r.url) else None)
        page.on("pageerror", lambda e, wrong=wrong: wrong.append(str(e)))
        page.goto((out / name).as_uri())
        page.wait_for_load_state("load")
        page.evaluate("() => window.MathJax?.startup?.promise")
        links = page.eval_on_selector_all("a[href]", "all => all.map(a => a.getAttribute('href'))")
        body = page.evaluate(PROSE)
        maths = page.locator("mjx-container").count()
        broken = page.locator("mjx-merror, [data-mjx-error]").count()
        bare = page.eval_on_selector_all("article img", "all => all.filter(i => !i.alt).length")
        empty = page.eval_on_selector_all(
            "article img", "all => all.filter(i => i.complete && !i.naturalWidth).length"
        )
        found[name] = dict(
            links=links, text=body, maths=maths, broken=broken, wrong=wrong, bare=bare, empty=empty
        )
        page.close()
    yield found
    context.close()


PROSE = """() => {
    const article = document.querySelector('article').cloneNode(true);
    article.querySelectorAll('pre, code, mjx-container').forEach(e => e.remove());
    return article.textContent;
}"""


def away(url):
    return not url.startswith(("file:", "data:", "blob:"))


def test_no_request_fails_and_none_leaves_the_folder(visited):
    assert {name: seen["wrong"] for name, seen in visited.items() if seen["wrong"]} == {}


def test_every_equation_is_typeset(visited):
    for name, seen in visited.items():
        assert seen["broken"] == 0, name
        assert not re.search(r"\$\$|\\tag|\\frac|\{dropdown\}|```", seen["text"]), name
    assert visited["equations.html"]["maths"] >= 36
    assert sum(seen["maths"] for seen in visited.values()) > 150


def test_every_relative_link_leads_to_a_file(site, visited):
    out, _ = site
    count = 0
    for name, seen in visited.items():
        for link in seen["links"]:
            address, place = urldefrag(link)
            if leads_away(link) and not link.startswith("#"):
                continue
            target = (
                (out / name).parent / unquote(address.partition("?")[0]) if address else out / name
            )
            assert target.is_file(), (name, link)
            if place and target.suffix == ".html":
                count += 1
                text = target.read_text(encoding="utf-8")
                assert f'id="{unquote(place)}"' in text, (name, link)
    assert count > 50


def test_pictures_are_there_and_described(visited):
    assert {
        name: (s["bare"], s["empty"]) for name, s in visited.items() if s["bare"] + s["empty"]
    } == {}


@pytest.mark.parametrize("word", ["equivariance", "finger", "saliency"])
def test_search_finds_a_word(site, browser, word):
    out, _ = site
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto((out / "search.html").as_uri() + f"?q={word}")
    page.wait_for_selector("#search-results li a", timeout=20_000)
    assert page.locator("#search-results li a").count() > 0
    context.close()


@pytest.mark.parametrize("width", [390, 1400])
def test_no_page_is_wider_than_the_window(site, browser, width):
    out, pages = site
    context = browser.new_context(offline=True, viewport={"width": width, "height": 900})
    wide = {}
    for name in pages:
        page = context.new_page()
        page.goto((out / name).as_uri())
        page.evaluate("() => window.MathJax?.startup?.promise")
        found = page.evaluate("document.documentElement.scrollWidth")
        if found > width + 1:
            wide[name] = found
        page.close()
    context.close()
    assert wide == {}


def test_paper_shows_what_is_folded(site, browser):
    out, _ = site
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto((out / "parts" / "10_maps.html").as_uri())
    folded = "document.querySelectorAll('article details:not([open])').length"
    before = page.evaluate(folded)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    during = page.evaluate(folded)
    page.emulate_media(media="print")
    menus = page.locator(".bd-sidebar-primary").first.is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert before > 0 and during == 0 and not menus
    assert page.evaluate(folded) == before
    context.close()


def test_the_sheet_prints_on_a_few_pages(browser, mathjax, tmp_path):
    out = write_sheet(tmp_path / "equations.html", ROOT, mathjax)
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto(out.as_uri())
    page.evaluate("() => window.MathJax.startup.promise")
    assert page.locator("mjx-container[display=true]").count() == len(sheet_lines(ROOT))
    assert page.locator("mjx-merror, [data-mjx-error]").count() == 0
    pages = len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4")))
    assert 2 <= pages <= 4
    context.close()
