"""The book's own style sheet and icon, from ``book/_static``.

They are not in a top-level ``_static``: Jupyter Book puts every script it
finds in that folder on every page.
"""

from html import escape
from pathlib import Path

STATIC = Path(__file__).resolve().parent.parent / "_static"
# Where the title page is not index.html itself. Unlike the one that Jupyter
# Book would write it names the icon, which browsers ask the server for
# otherwise, and has a link for those who do not follow.
FRONT = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="refresh" content="0; url={page}">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<link rel="icon" href="{icon}">
</head>
<body><p><a href="{page}">{title}</a></p></body>
</html>
"""


def add_static(app, config) -> None:
    """Let Sphinx copy the folder of the style sheet."""
    config.html_static_path.append(str(STATIC))


def write_front(app, exception) -> None:
    """Write an index.html that leads to the title page."""
    root = app.config.root_doc
    if exception or app.builder.format != "html" or root == "index":
        return
    icon = Path(app.config.html_favicon or "favicon.svg").name
    text = FRONT.format(
        page=f"{root}.html",
        title=escape(app.config.html_title or ""),
        icon=f"_static/{icon}",
    )
    (Path(app.outdir) / "index.html").write_text(text)


def setup(app):
    """Register with Sphinx."""
    app.connect("config-inited", add_static)
    app.connect("build-finished", write_front, priority=100)
    app.add_css_file("book.css", priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
