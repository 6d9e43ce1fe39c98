"""Vega from the book's own files, on the pages that hold a chart.

The HTML that Altair writes asks a CDN for each library unless
``VEGA_DEBUG`` records that the very version is loaded already. One bundle
per site defines the libraries, and a line per page records the versions that
the page's charts were written with. The charts stay as Altair wrote them.
"""

import json
import os
import re
from pathlib import Path

from sphinx.util import logging

logger = logging.getLogger(__name__)
BUNDLE = "vega-bundle.js"
# In Altair's HTML: maybeLoadScript("vega-lite", "6.4.1")
WANTED = re.compile(r'maybeLoadScript\("([a-z-]+)", "([0-9.]+)"\)')


def versions(html: str) -> dict[str, set[str]]:
    """The library versions that the charts of a page ask for, by library."""
    found: dict[str, set[str]] = {}
    for library, version in WANTED.findall(html):
        found.setdefault(library, set()).add(version)
    return found


def record(wanted: dict[str, set[str]]) -> str:
    """The script that tells Altair's HTML that these are loaded."""
    known = {
        f"{library.replace('-', '')}_version": min(found)
        for library, found in sorted(wanted.items())
    }
    return f"var VEGA_DEBUG = {json.dumps(known)};"


def bundle(vegalite: str) -> str:
    """Vega, Vega-Lite and Vega-Embed as one script; KeyError if unknown.

    The version is one such as ``6.4.1``. The function around the bundle
    keeps its several thousand names out of the page.
    """
    import vl_convert

    minor = ".".join(vegalite.split(".")[:2])
    if minor not in vl_convert.get_vegalite_versions():
        raise KeyError(vegalite)
    script = vl_convert.javascript_bundle(vl_version=minor)
    return f"(function(){{{script}}})();"


def add_scripts(app, pagename, templatename, context, doctree) -> None:
    """Serve the bundle on a page that holds a chart."""
    wanted = versions(context.get("body", ""))
    if not wanted or app.builder.format != "html":
        return
    for library, found in wanted.items():
        if len(found) > 1:
            logger.warning(
                "charts written with different versions of %s (%s); run "
                "the chapter again", library, ", ".join(sorted(found)),
                location=pagename, type="book", subtype="vega",
            )
    if write_bundle(Path(app.outdir), min(wanted["vega-lite"]), pagename):
        # after the libraries of the theme (500), before the charts' own
        app.add_js_file(None, body=record(wanted), priority=600)
        app.add_js_file(BUNDLE, priority=601)


def write_bundle(outdir: Path, vegalite: str, pagename: str) -> bool:
    """Write the bundle unless it is there; False if there is none."""
    path = outdir / "_static" / BUNDLE
    stamp = f"// vega-lite {vegalite}\n"
    if path.is_file() and path.open().readline() == stamp:
        return True
    try:
        script = bundle(vegalite)
    except KeyError:
        logger.warning(
            "vl-convert has no Vega-Lite %s, which the charts were written "
            "with", vegalite, location=pagename, type="book", subtype="vega",
        )
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.partial")
    temporary.write_text(stamp + script)
    os.replace(temporary, path)
    return True


def setup(app):
    """Register with Sphinx."""
    app.connect("html-page-context", add_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
