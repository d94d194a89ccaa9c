"""The course and its slides: two paths, their goals, and what a browser makes of every deck."""

import base64
import re

import pytest
from bs4 import BeautifulSoup
from conftest import ROOT
from helpers import message

from partbook.chapters import InputError, draws, read_notebook
from partbook.course import exercises_of, read_exercises
from partbook.sheet import find_mathjax
from partbook.teaching import (
    DRAWN,
    WEEKS,
    deck_page,
    find_reveal,
    goals_of,
    goals_table,
    headed,
    path_table,
    read_course,
    slide,
    slides_of,
    week_slides,
    write_slides,
)

LESSONS = [lesson.chapter for lesson in read_course(ROOT)]
BEGIN, END = "<!-- slide -->", "<!-- /slide -->"
MOST = 110  # words on a slide
WEEK = range(1, len(WEEKS) + 1)
PIXEL = base64.b64encode(b"\x89PNG not looked at").decode()


def cells_of(name):
    return read_notebook(ROOT / "nbs" / name)["cells"]


def begins(cell):
    "Whether a slide begins with this cell."
    return "slideshow" in cell["metadata"]


def texts(cells):
    "The words of the slides that hold no picture: all that is not followed by one."
    following = [*cells[1:], dict(cell_type="markdown")]
    return [c["source"] for c, n in zip(cells, following) if begins(c) and n["cell_type"] != "code"]


def picture(text="A wing.", kind="image/png"):
    output = dict(output_type="display_data", data={kind: PIXEL}, metadata={})
    source = f"#| slide\n#| fig-alt: {text}\nplot()"
    return dict(cell_type="code", source=source, outputs=[output], execution_count=None)


def words(source):
    return dict(cell_type="markdown", source=source)


# the marks in the chapters


@pytest.mark.parametrize("name", LESSONS)
def test_marks_stand_alone_and_in_pairs(name):
    for cell in cells_of(name):
        lines = cell["source"].split("\n")
        marks = [line.strip() for line in lines if "slide -->" in line]
        if cell["cell_type"] == "code":
            assert marks == [], cell["id"]
            continue
        assert marks == [BEGIN, END] * (len(marks) // 2), cell["id"]
        assert all(line in (BEGIN, END) for line in lines if "slide -->" in line), cell["id"]
        padded = ["", *lines, ""]
        for before, line, after in zip(padded, lines, padded[2:]):
            assert line not in (BEGIN, END) or before == after == "", cell["id"]


@pytest.mark.parametrize("name", LESSONS)
def test_every_chapter_has_slides_and_each_mark_becomes_one(name):
    cells = cells_of(name)
    marked = sum(c["source"].count(BEGIN) for c in cells)
    drawn = [c for c in cells if c["cell_type"] == "code" and DRAWN.search(c["source"])]
    assert all(draws(c) for c in drawn)
    made = slides_of(cells)
    assert sum(map(begins, made)) == marked + len(drawn) >= 2
    assert sum(c["cell_type"] == "code" for c in made) == len(drawn)
    for text in texts(made):
        assert len(text.split()) <= MOST, text
        assert text.startswith("#") and ".ipynb" not in text and "slide -->" not in text


@pytest.mark.parametrize("name", LESSONS)
def test_no_solution_is_on_a_slide(name):
    cells = cells_of(name)
    shown = "\n".join(c["source"] for c in slides_of(cells))
    assert "Solution" not in shown and "<details>" not in shown and "answer_" not in shown
    for exercise in exercises_of(cells, name):
        for line in exercise.solution.split("\n"):
            assert len(line) <= 20 or line not in shown, line
        own = [c for c in cells if c["id"] in exercise.code]
        assert not any(DRAWN.search(c["source"]) for c in own), exercise.number


@pytest.mark.parametrize("week", WEEK)
def test_a_week_has_a_title_every_claim_and_its_exercises(week):
    nb = week_slides(ROOT, week)
    begun = [c for c in nb["cells"] if begins(c)]
    assert len(begun) >= 12
    assert begun[0]["source"].startswith(f"# Week {week}\n\n## {WEEKS[week - 1]}")
    lessons = [lesson for lesson in read_course(ROOT) if lesson.week == week]
    assert sum("\n\n> " in c["source"] and c["source"][:2] == "# " for c in begun) == len(lessons)
    own = {lesson.chapter for lesson in lessons}
    minutes = sum(e.minutes for e in read_exercises(ROOT) if e.chapter in own)
    said = re.findall(r"(\d+) minutes", begun[-1]["source"])
    assert sum(map(int, said)) == minutes > 0


# the two paths


@pytest.mark.parametrize("name", LESSONS)
def test_every_chapter_says_what_you_will_be_able_to_do(name):
    goals = goals_of(cells_of(name))
    assert goals and all(len(goal) > 20 for goal in goals)
    assert all(goal in goals_table(ROOT) for goal in goals)


def test_goals_are_read_as_a_list_and_as_sentences():
    head = "**What you will be able to do.**"
    assert goals_of([words(f"{head}\n\n* Cut.\n* Paste.\n\nNot this.")]) == ["Cut.", "Paste."]
    assert goals_of([words(f"Before.\n\n{head} Cut. Paste.\n\nNot this.")]) == ["Cut. Paste."]
    assert goals_of([words("Nothing."), dict(cell_type="code", source=head)]) == []


def test_a_day_is_shorter_than_seven_hours_and_a_part_of_the_whole():
    text, minutes = path_table(ROOT, day=True)
    _, whole = path_table(ROOT)
    assert 120 < minutes < 7 * 60 < whole
    day = [lesson.chapter for lesson in read_course(ROOT) if lesson.day]
    assert all(f"({name})" in text for name in day)
    assert text.count(".ipynb)") == len(day)


@pytest.fixture
def course(tmp_path):
    "A book with one chapter; returns what writes its course."
    (tmp_path / "nbs").mkdir()
    (tmp_path / "nbs" / "a.ipynb").write_text("{}")

    def write(*rows):
        lines = ["chapter,week,day", *rows, ""]
        (tmp_path / "nbs" / "course.csv").write_text("\n".join(lines))
        return tmp_path

    return write


def test_a_course_is_read_in_its_order(course):
    lessons = read_course(course("a.ipynb,2,yes", "a.ipynb,1,"))
    assert [(lesson.week, lesson.day) for lesson in lessons] == [(2, True), (1, False)]


@pytest.mark.parametrize("week", ["0", "7", "", "two", "-1", "1.5", "²"])
def test_a_week_that_there_is_not_is_refused(course, week):
    with pytest.raises(InputError, match="there are 6 weeks") as error:
        read_course(course(f"a.ipynb,{week},yes"))
    assert "a.ipynb" in message(error)


def test_a_missing_chapter_is_refused(course):
    with pytest.raises(InputError, match="no chapter b.ipynb") as error:
        read_course(course("a.ipynb,1,yes", "b.ipynb,1,yes"))
    assert "course.csv" in message(error)


# from marks to slides


def test_only_what_is_marked_is_shown_below_its_heading():
    cells = [
        words(f"# Birds\n\n> Wings.\n\n{BEGIN}\n\nOne.\n\n{END}"),
        words(f"## Wings\n\nNo.\n\n{BEGIN}\n\nTwo $x$.\n\n{END}\n\n### Tails\n\nNo."),
        picture(),
        words(f"{BEGIN}\n\n### Legs\n\nThree.\n\n{END}\n\nNo."),
        dict(picture(), source="plot()"),
    ]
    made = slides_of(cells)
    heads = ["## Birds\n\nOne.", "## Wings\n\nTwo $x$.", "## Tails", "### Legs\n\nThree."]
    assert [c["source"] for c in made if begins(c)] == heads
    drawn = [c for c in made if c["cell_type"] == "code"]
    assert [c["outputs"][0]["metadata"]["image/png"]["alt"] for c in drawn] == ["A wing."]
    assert made[made.index(drawn[0]) + 1]["source"] == "<small>A wing.</small>"


def test_a_mark_without_a_picture_or_an_end_shows_nothing():
    undrawn = dict(picture(), outputs=[])
    assert slides_of([undrawn, words(f"{BEGIN}\n\nNever ends."), words("a <!-- slide --> b")]) == []


def test_links_into_the_book_leave_their_words():
    text = "See [maps](../parts/10_maps.ipynb#Here), [it](https://a.b/c.md), $f[x](y)$, [a](b.csv)."
    assert headed(text, "") == "See maps, [it](https://a.b/c.md), $f[x](y)$, a."


def toy_deck(typeset=True):
    cells = slides_of(
        [
            words(f"## Sums & <wings>\n\n{BEGIN}\n\n$$\\sum_k R_k=1<2$$\n\nand $x_i$.\n\n{END}"),
            picture("A 'wing' & a <tail>."),
        ]
    )
    cells = [{"id": f"a{i}"} | c for i, c in enumerate([slide("# Toy"), *cells])]
    about = {"kernelspec": {"name": "python3", "display_name": "python3"}, "title": "Toy"}
    return deck_page(
        {"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5}, typeset
    )


def test_a_deck_holds_equations_and_pictures_with_their_words():
    page = toy_deck()
    assert r"$$\sum_k R_k=1&lt;2$$" in page and "$x_i$" in page
    assert f'src="data:image/png;base64,{PIXEL}"' in page
    (image,) = BeautifulSoup(page, "html.parser").select("img")
    assert image["alt"] == "A 'wing' & a <tail>."
    assert "No description has been provided" not in page
    assert "tex-svg-full.js" in page and "tex-svg-full.js" not in toy_deck(typeset=False)


def test_a_deck_asks_nobody_for_its_scripts():
    page = toy_deck()
    asked = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"([^\"]*)\"", page)
    assert "reveal/dist/reveal.js" in asked
    assert [a for a in asked if re.match(r"(?:https?:)?//", a)] == []
    assert not re.search(r"@import|url\(\s*['\"]?https?:|require\.js|cdnjs", page)


# on the disk


@pytest.fixture
def scripts(tmp_path):
    "What find_reveal takes for reveal.js."
    place = tmp_path / "revealjs"
    (place / "dist").mkdir(parents=True)
    (place / "dist" / "reveal.js").write_text("// slides")
    return place


def test_slides_are_made_anew_and_a_changed_file_stays(tmp_path, scripts):
    out = tmp_path / "out"
    names = write_slides(out, ROOT, scripts)
    assert names == [f"week-{week}.html" for week in WEEK]
    assert (out / "reveal" / "dist" / "reveal.js").is_file()
    notebook = read_notebook(out / "week-1.ipynb")
    assert [c["source"] for c in notebook["cells"]] == [
        c["source"] for c in week_slides(ROOT, 1)["cells"]
    ]
    (out / "week-1.html").write_text("my slides")
    with pytest.raises(InputError, match="changed since") as error:
        write_slides(out, ROOT, scripts)
    assert "week-1.html" in message(error)
    assert (out / "week-1.html").read_text() == "my slides"


def test_a_foreign_file_and_the_book_itself_stay(tmp_path, scripts):
    (tmp_path / "week-2.html").write_text("mine")
    with pytest.raises(InputError, match="was not made by partbook"):
        write_slides(tmp_path, ROOT, scripts)
    assert (tmp_path / "week-2.html").read_text() == "mine"
    assert not (tmp_path / "week-1.html").exists()
    with pytest.raises(InputError, match="belongs to the book itself"):
        write_slides(ROOT / "nbs", ROOT, scripts)


def test_without_reveal_there_is_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"pip install 'partbook\[site\]'"):
        find_reveal(tmp_path)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(InputError, match="reveal.js is not installed"):
        write_slides(tmp_path / "out", ROOT)
    assert not (tmp_path / "out").exists()


# in a browser, where there is one


@pytest.fixture(scope="module")
def decks(tmp_path_factory):
    try:
        find_reveal()
    except InputError:
        pytest.skip("no reveal.js here (pip install 'partbook[site]')")
    if find_mathjax() is None:
        pytest.skip("no MathJax here (pip install 'partbook[site]')")
    out = tmp_path_factory.mktemp("slides")
    write_slides(out, ROOT)
    return out


SEEN = """() => {
    const slide = Reveal.getCurrentSlide();
    const out = {high: 0, wide: 0, images: [], tall: 1e9, letters: 1e9};
    for (const e of slide.querySelectorAll('*')) {
        if (e.closest('mjx-assistive-mml')) continue;
        const box = e.getBoundingClientRect();
        out.high = Math.max(out.high, box.bottom);
        out.wide = Math.max(out.wide, box.right);
    }
    for (const p of slide.querySelectorAll('p, li, td'))
        out.letters = Math.min(out.letters, parseFloat(getComputedStyle(p).fontSize));
    for (const i of slide.querySelectorAll('img')) {
        out.tall = Math.min(out.tall, i.getBoundingClientRect().height);
        if (!i.naturalWidth || !i.alt || i.alt.startsWith('No description')) out.images.push(i.alt);
    }
    const prose = slide.cloneNode(true);
    prose.querySelectorAll('mjx-container, code, pre').forEach(e => e.remove());
    out.text = prose.textContent;
    return out;
}"""


@pytest.mark.parametrize("week", WEEK)
def test_a_deck_in_a_browser(decks, browser, week):
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 720})
    page = context.new_page()
    page.set_default_timeout(180_000)
    wrong = []
    page.on("requestfailed", lambda r: wrong.append(r.url))
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.goto((decks / f"week-{week}.html").as_uri())
    page.wait_for_function("window.Reveal && Reveal.isReady()")
    page.evaluate("() => window.MathJax.startup.promise")
    count = page.evaluate("Reveal.getTotalSlides()")
    assert count == sum(map(begins, week_slides(ROOT, week)["cells"]))
    assert page.locator("mjx-merror, [data-mjx-error]").count() == 0
    assert page.locator("mjx-container").count() > 0
    for number in range(count):
        page.evaluate("n => Reveal.slide(n)", number)
        seen = page.evaluate(SEEN)
        where = (week, number, seen["text"][:60])
        assert seen["high"] <= 720 and seen["wide"] <= 1280, (where, seen["high"], seen["wide"])
        assert seen["letters"] >= 14 and seen["tall"] > 300, (where, seen["letters"])
        assert seen["images"] == [], where
        assert not re.search(r"\$\$|\\tag|\\frac|\\begin|slide -->", seen["text"]), where
    assert wrong == []
    context.close()


def test_without_the_converter_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"nbconvert is not installed.*partbook\[site\]"):
        write_slides(tmp_path / "out", ROOT)
    assert not (tmp_path / "out").exists()
