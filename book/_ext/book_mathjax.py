"""MathJax from the book's own files, and only the files that it uses.

The package ``sphinx-mathjax-offline`` carries all of MathJax (15 MB) and
copies all of it; here it is only the place that the files come from.
"""

from importlib.util import find_spec
from pathlib import Path

PACKAGE = "sphinx-mathjax-offline"  # it is named with hyphens, so no import
SCRIPT = "mathjax/tex-chtml.js"
# The script, its fonts, and the TeX extensions that it loads when a formula
# needs one (\boldsymbol, \cancel, ...).
USED = (
    "tex-chtml.js",
    "output/chtml/fonts/woff-v2/*.woff",
    "input/tex/extensions/*.js",
)


def source() -> Path:
    """The folder of MathJax inside the installed package."""
    return Path(find_spec(PACKAGE).origin).parent / "static" / "mathjax"


def use_local(app, config) -> None:
    """Point Sphinx at the local script, and switch off MathJax's menu.

    The menu offers parts (speech, exploring) that would have to be fetched.
    """
    config.mathjax_path = SCRIPT
    settings = config.mathjax3_config or {}
    settings.setdefault("options", {})["enableMenu"] = False
    config.mathjax3_config = settings


def copy_used(app, exception) -> None:
    """Copy what is used beside the pages, if any page holds a formula."""
    has_formula = app.env and any(
        app.env.get_domain("math").data["has_equations"].values()
    )
    if exception or app.builder.format != "html" or not has_formula:
        return
    target = Path(app.outdir) / "_static" / "mathjax"
    for pattern in USED:
        for file in sorted(source().glob(pattern)):
            copy = target / file.relative_to(source())
            if not copy.is_file():
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(file.read_bytes())


def setup(app):
    """Register with Sphinx."""
    app.connect("config-inited", use_local)
    app.connect("build-finished", copy_used)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
