"""Numbers and figures that the prose of a chapter quotes.

``number`` and ``figure`` store a value in the notebook's outputs the way
myst-nb's ``{glue:text}`` and ``{glue:figure}`` expect it, so that no number
in the prose is typed by hand. A headline number also carries the tolerance
within which a run on another machine must reproduce it.
"""

import math

PREFIX = "application/papermill.record/"


def number(
    name: str, value: float, spec: str = ".2f", *, rel: float = 0.05,
    missing: str = "",
) -> None:  # fmt: skip
    """Store a headline number as ``name`` for the prose and the results.

    ``spec`` is how the prose shows it; ``rel`` the relative difference from
    the published value that another machine may show. Raises ValueError for
    a number that is not finite: a chapter must not print one unawares. Where
    a number may be undefined (an interval of too few), ``missing`` are the
    words for it.
    """
    value = float(value)
    if missing and not math.isfinite(value):
        text(name, missing)
        return
    if not math.isfinite(value):
        raise ValueError(f"headline number {name!r} is {value}")
    headline = {"value": value, "relative_tolerance": rel}
    _store(name, format(value, spec), headline=headline)


def text(name: str, value: str) -> None:
    """Store a piece of text (a token, a feature's name) for the prose."""
    _store(name, str(value))


def figure(name: str, chart) -> None:
    """Store an Altair chart for a ``{glue:figure}`` with its caption."""
    data, metadata = chart._repr_mimebundle_(), {}
    if isinstance(data, tuple):
        data, metadata = data
    _display({PREFIX + k: v for k, v in data.items()}, name, metadata)


def table(name: str, frame) -> None:
    """Store a pandas table for a ``{glue}``, also on another page."""
    bundle = {"text/html": frame.to_html(), "text/plain": repr(frame)}
    _display({PREFIX + k: v for k, v in bundle.items()}, name, {})


def _store(name: str, shown: str, **extra) -> None:
    _display({PREFIX + "text/plain": repr(shown)}, name, extra)


def _display(bundle: dict, name: str, metadata: dict) -> None:
    from IPython.display import display

    scrap = {"name": name, "mime_prefix": PREFIX}
    display(bundle, raw=True, metadata={"scrapbook": scrap, **metadata})
