"""The book's configuration, its extensions, and a small book built whole.

The small book has the real prose pages, one executed chapter with everything
a chapter may hold, and stubs in place of the others, so that nothing
here waits for a run.
"""

import functools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from tests import browser

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
EXTENSIONS = BOOK / "_ext"
CHAPTER = "03-language-model"  # which the sample stands in for
PAGE = f"book/chapters/{CHAPTER}.html"


@pytest.fixture
def extension(monkeypatch):
    """Import one of the book's extensions by name."""
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    return __import__


@functools.cache
def config() -> dict:
    return yaml.safe_load((ROOT / "_config.yml").read_text())


def toc_pages() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    chapters = [c["file"] for p in toc["parts"] for c in p["chapters"]]
    return [toc["root"], *chapters]


# --- configuration -------------------------------------------------------


def test_nothing_is_executed_and_only_listed_pages_are_built():
    assert config()["execute"]["execute_notebooks"] == "off"
    assert config()["only_build_toc_files"] is True
    assert {".*", "**/.*"} <= set(config()["exclude_patterns"])
    assert config()["copyright"]


def test_nothing_of_strangers_is_on_the_pages():
    extensions = config()["sphinx"]["config"]["extensions"]
    assert "sphinx_thebe" not in extensions
    assert set(config()["sphinx"]["local_extensions"]) <= set(extensions)
    assert "http" not in (ROOT / "_config.yml").read_text()
    assert not (ROOT / "_static").exists()


def test_toc_lists_the_prose_pages_that_exist():
    prose = {page for page in toc_pages() if "/chapters/" not in page}
    assert prose == {f"book/{file.stem}" for file in BOOK.glob("*.md")}


def test_toc_lists_the_notebooks_that_exist():
    listed = [Path(p).name for p in toc_pages() if "/chapters/" in p]
    found = {file.stem for file in (ROOT / "notebooks").glob("*.ipynb")}
    assert listed == sorted(found)


def test_the_profiles_described_are_those_that_exist():
    text = (BOOK / "how-to-read.md").read_text()
    described = re.findall(r"^\| `([\w-]+)` \|", text, flags=re.M)
    found = (ROOT / "notebooks" / "profiles").glob("*.yaml")
    assert sorted(described) == sorted(file.stem for file in found)


def test_every_citation_has_an_entry():
    bib = (BOOK / "references.bib").read_text()
    known = re.findall(r"^@\w+\{([^,]+),", bib, flags=re.M)
    assert len(known) == len(set(known))
    files = [*BOOK.glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    for file in files:
        for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", file.read_text()):
            missing = {key.strip() for key in keys.split(",")} - set(known)
            assert not missing, f"{file.name} cites {missing}"


def test_every_entry_says_who_what_and_when():
    bib = (BOOK / "references.bib").read_text()
    for entry in re.split(r"^@", bib, flags=re.M)[1:]:
        for field in ("author", "title", "year"):
            assert re.search(rf"^\s+{field} = ", entry, flags=re.M), entry


# --- extensions ----------------------------------------------------------


def test_vega_records_exactly_what_altair_asks_for(extension):
    """The condition by which Altair's script decides not to load."""
    import altair as alt

    from helpers.charts import theme  # noqa: F401

    book_vega = extension("book_vega")
    html = alt.Chart().mark_point()._repr_mimebundle_()["text/html"]
    asked = book_vega.versions(html)
    assert set(asked) == {"vega", "vega-lite", "vega-embed"}
    script = book_vega.record(asked)
    recorded = json.loads(script.removeprefix("var VEGA_DEBUG = ").rstrip(";"))
    for library, version in book_vega.WANTED.findall(html):
        key = f"{library.replace('-', '')}_version"
        assert recorded[key] == version
    assert len(recorded) == 3


def test_vega_bundle_of_an_unknown_version_is_a_warning(
    extension, tmp_path, monkeypatch
):
    book_vega, said = extension("book_vega"), []
    monkeypatch.setattr(
        book_vega.logger, "warning", lambda m, *a, **k: said.append(m % a)
    )
    assert not book_vega.write_bundle(tmp_path, "99.1.0", "page")
    assert "no Vega-Lite 99.1.0" in said[0]
    assert not list(tmp_path.rglob("*.js"))


@pytest.mark.parametrize(
    "docname, number",
    [
        ("book/chapters/04-sae-training", 4),
        ("book/chapters/12-x", 12),
        ("book/index", None),
        ("2024-notes/index", None),
    ],
)
def test_chapter_number_is_that_of_the_file(extension, docname, number):
    assert extension("book_numbers").chapter_number(docname) == number


def test_mathjax_files_are_where_they_are_looked_for(extension):
    book_mathjax = extension("book_mathjax")
    for pattern in book_mathjax.USED:
        assert list(book_mathjax.source().glob(pattern)), pattern


RESULTS = {
    "chapters": {
        "03-x": {
            "numbers": {
                "x_loss": {
                    "value": 2.98123,
                    "shown": "2.98",
                    "relative_tolerance": 0.05,
                }
            }
        }
    }
}


def build_with_results(folder: Path, text: str) -> tuple[int, str, str]:
    """Exit code, warnings and text of a one-page book with {result}."""
    (folder / "results").mkdir()
    (folder / "results" / "laptop.json").write_text(json.dumps(RESULTS))
    (folder / "conf.py").write_text(
        f"import sys; sys.path.insert(0, {str(EXTENSIONS)!r})\n"
        "extensions = ['myst_parser', 'book_results']\n"
        "book_results = 'results'\n"
    )
    (folder / "index.md").write_text(f"# Page\n\n{text}\n")
    command = ["sphinx", "-M", "text", str(folder), str(folder / "out"), "-W"]
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True
    )
    page = folder / "out" / "text" / "index.txt"
    text = page.read_text() if page.is_file() else ""
    return done.returncode, done.stderr, text


def test_result_prints_the_number_as_it_was_shown(tmp_path):
    role = "The loss is {result}`laptop/03-x/x_loss` nats."
    code, said, text = build_with_results(tmp_path, role)
    assert (code, said) == (0, "")
    assert "The loss is 2.98 nats." in text


@pytest.mark.parametrize(
    "name, why",
    [
        ("laptop/03-x/y_loss", "'y_loss' is not in laptop.json"),
        ("laptop/04-x/x_loss", "'04-x' is not in laptop.json"),
        ("gpu/03-x/x_loss", "no results are published for 'gpu'"),
        ("03-x/x_loss", "is not of the form profile/chapter/name"),
    ],
)
def test_a_missing_result_fails_the_build(tmp_path, name, why):
    code, said, _ = build_with_results(tmp_path, f"{{result}}`{name}`")
    assert code != 0 and why in said


# --- house style ---------------------------------------------------------


def test_theme_takes_text_colours_from_the_page():
    from helpers.charts import theme

    def colours(value, key=""):
        if isinstance(value, dict):
            for name, inner in value.items():
                yield from colours(inner, name)
        elif key.endswith(("Color", "color")):
            yield key, value

    inked = {"labelColor", "titleColor", "domainColor", "tickColor",
             "gridColor", "subtitleColor"}
    found = list(colours(theme.config()))
    assert inked <= {key for key, _ in found}
    assert all(v == "currentColor" for key, v in found if key in inked)


def test_theme_is_on_and_text_is_large_enough():
    import altair as alt

    from helpers.charts import theme

    html = alt.Chart().mark_point()._repr_mimebundle_()["text/html"]
    assert '"renderer": "svg"' in html and '"actions": false' in html
    assert json.dumps(theme.COLOURS) in html
    sizes = re.findall(r'"\w*[fF]ontSize": (\d+)', html)
    assert sizes and min(map(int, sizes)) >= 12


def test_colours_stand_out_from_light_and_dark_pages():
    """Contrast (WCAG) at least 1.9; yellow, last of all, only on dark."""
    from helpers.charts import theme

    def light(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [
            p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4
            for p in parts
        ]
        return sum(
            w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True)
        )

    def contrast(a, b):
        low, high = sorted((light(a), light(b)))
        return (high + 0.05) / (low + 0.05)

    for colour in theme.COLOURS:
        assert contrast(colour, "#121212") >= 1.9
    for colour in theme.COLOURS[:-1]:
        assert contrast(colour, "#ffffff") >= 1.9
    assert len(set(theme.COLOURS)) == len(theme.COLOURS) == 7


# --- a small book --------------------------------------------------------

SAMPLE = [
    ("markdown", """\
# Sample

```{admonition} What you will learn
- one thing
```

A {term}`deflection` in $\\mathbb{R}^m$ {cite}`bricken2023monosemanticity`:

$$
\\hat{\\boldsymbol{x}} = W_d\\,\\mathrm{ReLU}(W_e(\\boldsymbol{x} -
\\boldsymbol{b})) + \\boldsymbol{b},\\quad
L_0 = \\mathbb{E}\\lVert\\boldsymbol{f}\\rVert_0,
\\quad \\text{and much more, so that it is wider than a telephone}
$$"""),
    ("code", """\
import altair as alt
import pandas as pd
from IPython.display import HTML
from helpers import report
from helpers.charts import theme"""),
    ("markdown", "## Chart\n\nThe loss is {glue:text}`sample_loss` nats; see "
                 "{numref}`fig-sample`."),
    ("code", """\
report.number("sample_loss", 2.98123)
rows = [{"x": i % 7 - 3, "y": i % 5, "c": "abcdefg"[i % 7]} for i in range(70)]
size = alt.param(value=60, bind=alt.binding_range(min=9, max=99, name="size "))
chart = alt.Chart(pd.DataFrame(rows), title="Points").mark_point(size=size)
chart = chart.encode(x="x", y="y", color="c", tooltip="c").add_params(size)
report.figure("fig_sample", chart.add_params(alt.selection_interval()))"""),
    ("markdown", '```{glue:figure} fig_sample\n:name: "fig-sample"\n'
                 "What to see.\n```"),
    ("code", """\
pd.DataFrame([range(12)] * 3, columns=[f"a long name {i}" for i in range(12)])
"""),
    ("code", """\
HTML('<div class="feature-cards"><section class="feature-card"><header>Feature '
     '12 <small>fires on Arabic</small></header><dl><dt>density</dt><dd>0.1%'
     '</dd></dl><ol><li class="tokens" dir="auto"><span class="tok">من </span>'
     '<span class="tok peak" style="--a: 0.9">الكتاب</span></li><li '
     'class="tokens" dir="auto"><span class="tok" style="--a: 0.4">a</span>'
     '<span class="tok"> word</span></li></ol></section></div>')"""),
    ("code", 'alt.Chart(pd.DataFrame(rows)).mark_bar().encode(\n    '
             'x="x:O", y="count()", facet=alt.Facet("c", columns=3)\n'
             ').properties(width=180, height=80)'),
    ("markdown", """\
```{dropdown} How this chapter was made
:class-container: provenance

| what | value |
|---|---|
| profile | `laptop` |
| parameters | `seed=0`, `train_tokens=3000000`, `expansion=8`, `rate=0.001` |
| artifacts read | artifacts/laptop/language_models/A `0123456789ab` |
```"""),
]


def sample_chapter() -> nbformat.NotebookNode:
    """The sample, executed as the executor does it."""
    from nbclient import NotebookClient

    make = {
        "markdown": nbformat.v4.new_markdown_cell,
        "code": nbformat.v4.new_code_cell,
    }
    cells = [make[kind](source) for kind, source in SAMPLE]
    notebook = nbformat.v4.new_notebook(cells=cells)
    place = {"metadata": {"path": str(ROOT)}}
    NotebookClient(notebook, resources=place).execute()
    return notebook


@pytest.fixture(scope="session")
def small_book(tmp_path_factory) -> Path:
    """The HTML of the small book, built by the command of DESIGN."""
    root = tmp_path_factory.mktemp("book")
    shutil.copytree(BOOK, root / "book", ignore=shutil.ignore_patterns(
        "chapters", "__pycache__"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, root)
    for page in toc_pages():
        if "/chapters/" in page:
            stub = [nbformat.v4.new_markdown_cell(f"# {Path(page).name}")]
            notebook = nbformat.v4.new_notebook(cells=stub)
            if page.endswith(CHAPTER):
                notebook = sample_chapter()
            (root / page).parent.mkdir(exist_ok=True)
            nbformat.write(notebook, root / f"{page}.ipynb")
    command = [Path(sys.executable).with_name("jupyter-book"), "build",
               root, "-W", "-n", "--keep-going"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return root / "_build" / "html"


def test_small_book_glues_numbers_and_numbers_figures(small_book):
    html = (small_book / PAGE).read_text()
    text = re.sub(r"<[^>]+>", "", html)
    assert "The loss is 2.98 nats; see Figure 3.1." in text
    assert '<span class="section-number">3.1. </span>Chart' in html


def test_pages_name_no_other_host(small_book):
    """Links may lead away; scripts, styles and pictures may not."""
    tags = r"<(?:script|link|img|iframe|source)\b[^>]*"
    for page in small_book.rglob("*.html"):
        for tag in re.findall(tags, page.read_text()):
            assert not re.search(r"(?:src|href)=\"(?:https?:)?//", tag), tag


def test_vega_and_mathjax_are_only_where_they_are_needed(small_book):
    chart, plain = (
        (small_book / page).read_text() for page in (PAGE, "book/log.html")
    )
    assert chart.count("vega-bundle.js") == 1
    assert "tex-chtml.js" in chart
    assert "vega-bundle.js" not in plain
    assert len(list(small_book.rglob("vega-bundle.js"))) == 1
    mathjax = small_book / "_static" / "mathjax"
    size = sum(f.stat().st_size for f in mathjax.rglob("*") if f.is_file())
    assert size < 3e6


def test_vega_bundle_keeps_to_itself(small_book):
    """What charts call is defined; all else stays inside a function."""
    script = (small_book / "_static" / "vega-bundle.js").read_text()
    comment, _, code = script.partition("\n")
    assert comment.startswith("// vega-lite 6.")
    assert code.startswith("(function(){") and code.endswith("})();")
    assert "window.vegaEmbed=" in code and "</script" not in code


def test_index_leads_to_the_title_page(small_book):
    html = (small_book / "index.html").read_text()
    assert 'content="0; url=book/index.html"' in html


def test_every_page_works_from_a_folder_on_a_phone_at_night(small_book):
    browser.require()
    assert browser.audit(small_book, 400, dark=True, scheme="file") == []


@pytest.mark.parametrize("width, dark", [(1300, False), (400, True)])
def test_a_chapter_works_from_a_server(small_book, width, dark):
    browser.require()
    pages = ["index.html", PAGE]
    assert browser.audit(small_book, width, dark, pages=pages) == []


def test_chart_text_has_the_colour_of_the_page(small_book):
    """In both modes, and when the reader switches on an open page."""
    browser.require()
    look = (
        "const t = document.querySelector('.role-axis-label text');"
        "return [getComputedStyle(t).fill, getComputedStyle("
        "document.querySelector('article')).color]"
    )
    with browser.served(small_book) as base, browser.browser() as driver:
        driver.get(f"{base}/{PAGE}")
        browser.settle(driver)
        light = driver.execute_script(look)
        driver.execute_script(
            "document.documentElement.dataset.theme = 'dark'"
        )
        dark = driver.execute_script(look)
    assert light[0] == light[1] and dark[0] == dark[1]
    assert light[0] != dark[0]


def test_brush_and_slider_answer_without_a_kernel(small_book):
    """A drag over the chart selects; moving the slider redraws the points."""
    browser.require()
    from selenium.webdriver.common.action_chains import ActionChains

    size = (
        "return document.querySelector('.mark-symbol path').getAttribute('d')"
    )
    brush = "return document.querySelectorAll('[class*=brush]').length"
    with browser.served(small_book) as base, browser.browser() as driver:
        driver.get(f"{base}/{PAGE}")
        browser.settle(driver)
        before = driver.execute_script(size)
        driver.execute_script(
            "const s = document.querySelector('.vega-bindings input');"
            "s.value = 99; s.dispatchEvent(new Event('input'))"
        )
        after = _changes(driver, size, before)
        svg = driver.find_element("css selector", "figure .vega-embed svg")
        drag = ActionChains(driver).move_to_element(svg).click_and_hold()
        drag.move_by_offset(80, 40).release().perform()
        drawn = driver.execute_script(brush)
    assert after != before
    assert drawn > 0


def _changes(driver, script: str, before):
    """The value of a script once it differs, or the old one after 2 s."""
    from selenium.common.exceptions import TimeoutException
    from selenium.webdriver.support.ui import WebDriverWait

    try:
        WebDriverWait(driver, 2).until(
            lambda d: d.execute_script(script) != before
        )
    except TimeoutException:
        return before
    return driver.execute_script(script)
