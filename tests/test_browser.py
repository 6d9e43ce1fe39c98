"""The audit must find what is wrong, or its silence says nothing."""

import pytest

from tests import browser

PAGE = "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>" \
    "<title>t</title><link rel='icon' href='data:,'></head><body>{}</body>" \
    "</html>"
DRAWN = "<div id='altair-viz-1'><svg width='50' height='50'>" \
    "<g class='mark-group role-axis-label'><text y='20' fill='{}'>0.5</text>" \
    "</g><g class='mark-rect'><path d='M0,0h9v9h-9Z'/></g></svg></div>"
BAD = {
    "script": ("<script src='https://cdn.example.org/vega.js'></script>",
               "asks for https://cdn.example.org/vega.js"),
    "font": ("<style>@font-face {font-family: f; src: "
             "url(https://fonts.example.org/f.woff)} p {font-family: f}"
             "</style><p>text</p>", "asks for https://fonts.example.org"),
    "console": ("<script>throw new Error('broken')</script>", "broken"),
    "wide": ("<main><div class='too-wide' style='width: 900px'>x</div></main>",
             "wider than the window (<div class=\"too-wide\">)"),
    "image": ("<img src='missing.png'>", "missing.png does not load"),
    "status": ("<img src='missing.png' style='display: none'>", "404 for"),
    "glue": ("<p>The loss is {glue:text}`loss`.</p>", "{glue:"),
    "traceback": ("<p>Traceback (most recent call last)</p>", "Traceback"),
    "warning": ("<p>WARNING: something</p>", "raw text 'WARNING'"),
    "undrawn": ("<div id='altair-viz-1'></div>", "is not drawn"),
    "empty": ("<div id='altair-viz-1'><svg></svg></div>", "is empty"),
    "faint": (DRAWN.format("#eeeeee"), "can hardly be read"),
    "formula": ("<mjx-container><mjx-merror>Undefined control sequence"
                "</mjx-merror></mjx-container>", "a formula is wrong"),
    "theme": ("<script>document.documentElement.dataset.theme = 'dark'"
              "</script>", "the page is dark where light was asked for"),
}
GOOD = {
    "scrolls": "<main><div style='overflow-x: auto'><div style='width: 900px'>"
               "x</div></div></main>",
    "code": "<pre>WARNING {glue:text}</pre>",
    "chart": DRAWN.format("black"),
    "link": "<a href='https://example.org'>a link is no request</a>",
}


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    """What the audit says of all pages, good and bad, by page."""
    browser.require()
    folder = tmp_path_factory.mktemp("pages")
    bodies = {name: body for name, (body, _) in BAD.items()} | GOOD
    for name, body in bodies.items():
        (folder / f"{name}.html").write_text(PAGE.format(body))
    patience, browser.PATIENCE = browser.PATIENCE, 1.0
    try:
        return browser.audit(folder, width=400)
    finally:
        browser.PATIENCE = patience


@pytest.mark.parametrize("name", BAD)
def test_audit_finds(problems, name):
    said = [p for p in problems if p.startswith(f"{name}.html: ")]
    assert any(BAD[name][1] in problem for problem in said), said


@pytest.mark.parametrize("name", GOOD)
def test_audit_accepts(problems, name):
    assert [p for p in problems if p.startswith(f"{name}.html: ")] == []


def test_a_folder_without_pages_is_a_problem(tmp_path):
    browser.require()
    assert "no pages" in browser.audit(tmp_path)[0]


def test_without_chromium_tests_skip_here_and_fail_in_ci(monkeypatch):
    monkeypatch.setattr(browser, "available", lambda: False)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception):
        browser.require()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception):
        browser.require()
