"""What a figure shows is said in words, and the words reach the page."""

import json
from html.parser import HTMLParser

import pytest
from conftest import ROOT

from partbook.book import described, html
from partbook.chapters import alt_complaints, alt_text, draws, notebooks, read_notebook

PNG = dict(output_type="display_data", data={"image/png": "iVBORw0KGgo=\n"}, metadata={})


@pytest.mark.parametrize(
    "source, words",
    [
        ("#| fig-alt: A bird.\nplot()", "A bird."),
        ("#| hide\n#| fig-alt:   'A bird.'\nplot()", "A bird."),
        (
            "#|fig-alt: A bird\n#|    and its\n#|    parts.\n# no more\nplot()",
            "A bird and its parts.",
        ),
        ("#| fig-alt: A bird.\n#| echo: false\nplot()", "A bird."),
        ("#| fig-alt:\nplot()", ""),
        ("plot()  # fig-alt: A bird.", ""),
        ("plot()", ""),
    ],
)
def test_words_are_read(source, words):
    assert alt_text(source) == words


class Alts(HTMLParser):
    "The descriptions of a page's pictures."

    @classmethod
    def of(cls, page):
        parser = cls()
        parser.found = []
        parser.feed(page)
        return parser.found

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.found.append(dict(attrs).get("alt"))


def notebook(folder, *sources):
    "A project of one chapter in which each cell shows a figure."
    (folder / "settings.ini").touch()
    opening = dict(cell_type="markdown", id="a", metadata={}, source="# Toys\n\n> A claim.")
    cells = [
        dict(
            cell_type="code", id=f"c{i}", metadata={}, source=s, outputs=[PNG], execution_count=None
        )
        for i, s in enumerate(sources)
    ]
    path = folder / "nbs" / "10_toys.ipynb"
    path.parent.mkdir()
    text = dict(cells=[opening, *cells], metadata={}, nbformat=4, nbformat_minor=5)
    path.write_text(json.dumps(text))
    return path


def test_words_reach_the_page_and_their_absence_is_named(tmp_path):
    spoken = '#| fig-alt: Two "kites" <&\n#|    a string.\nplot()'
    path = notebook(tmp_path, spoken, "plot(1)")
    before = path.read_bytes()
    page = html(tmp_path / "out", tmp_path)[0].read_text()
    assert Alts.of(page) == [
        'Two "kites" <& a string.',
        "No description has been provided for this image",
    ]
    assert page.count("data:image/png;base64,iVBORw0KGgo=") == 2 and "fig-alt" not in page
    assert path.read_bytes() == before
    (complaint,) = alt_complaints(tmp_path)
    assert complaint.startswith("nbs/10_toys.ipynb: cell c1 shows a figure; say what is on it")


def test_other_outputs_stay():
    nbformat = pytest.importorskip("nbformat")
    v4 = nbformat.v4
    table = v4.new_output("display_data", data={"text/html": "<table/>", "text/plain": "t"})
    cell = v4.new_code_cell("#| fig-alt: A bird.\nx", outputs=[table])
    nb = described(v4.new_notebook(cells=[v4.new_markdown_cell("#| fig-alt: no"), cell]))
    assert nb.cells[0].source == "#| fig-alt: no"
    assert nb.cells[1].outputs[0].data == {"text/html": "<table/>", "text/plain": "t"}
    assert nb.cells[1].source == "x"


@pytest.mark.parametrize(
    "folder", ["experiments", "parts/20_plots", "index", "evaluation/30_results"]
)
def test_chapters_that_are_described_stay_so(folder):
    inside = [p for p in notebooks(ROOT) if p.is_relative_to(ROOT / "nbs" / folder.split("/")[0])]
    inside += [p for p in notebooks(ROOT) if p.with_suffix("") == ROOT / "nbs" / folder]
    chosen = [p for p in inside if folder in p.with_suffix("").as_posix()]
    cells = [cell for p in chosen for cell in read_notebook(p)["cells"] if draws(cell)]
    assert chosen and all(alt_text(cell["source"]) for cell in cells)
