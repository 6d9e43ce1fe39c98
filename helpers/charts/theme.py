"""The house style of every chart; importing this module switches it on.

Charts are drawn as SVG on a transparent ground, with text, axes and grid in
``currentColor``: they take the colour of the page around them, so one chart
serves the light and the dark page. Text is in the page's font, 12 px or
more; colours are Okabe and Ito's, which colour-blind readers can tell
apart. There is no action menu, for its links leave the page.
"""

import altair as alt

WIDTH = 600  # px of a chart's plotting area; the book's column has ~690
HEIGHT = 260  # px

# Okabe and Ito (2008) without black, which a dark page would swallow.
BLUE = "#0072B2"
VERMILLION = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
ORANGE = "#E69F00"
SKY = "#56B4E9"
YELLOW = "#F0E442"  # last: it is faint on a light page
COLOURS = [BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, YELLOW]
GREY = "#888888"  # context: baselines, chance, everything else

INK = "currentColor"  # whatever colour the text of the page has
# The page's font by name: Vega measures labels on a canvas, which knows
# nothing of "inherit", and legends would overlap.
FONT = (
    "-apple-system, BlinkMacSystemFont, 'Segoe UI', 'Helvetica Neue', "
    "Arial, sans-serif"
)
EMBED = {"renderer": "svg", "actions": False}


def config() -> dict:
    """The Vega-Lite configuration of the house style."""
    return {
        "background": "transparent",
        "font": FONT,
        "view": {
            "continuousWidth": WIDTH,
            "continuousHeight": HEIGHT,
            "discreteWidth": WIDTH,
            "discreteHeight": HEIGHT,
            "stroke": None,
        },
        "axis": _axis(),
        "axisX": {"grid": False},
        "legend": _legend(),
        "header": _header(),
        "title": _title(),
        "range": {
            "category": COLOURS,
            "ordinal": {"scheme": "viridis"},
            "ramp": {"scheme": "viridis"},
            "heatmap": {"scheme": "viridis"},
            "diverging": {"scheme": "purpleorange"},
        },
        **_marks(),
    }


def _axis() -> dict:
    return {
        "labelColor": INK,
        "titleColor": INK,
        "domainColor": INK,
        "tickColor": INK,
        "gridColor": INK,
        "gridOpacity": 0.15,
        "domainOpacity": 0.6,
        "tickOpacity": 0.6,
        "labelFontSize": 12,
        "titleFontSize": 13,
        "titleFontWeight": "normal",
        "labelLimit": 220,
        "labelSeparation": 6,  # px; of two that are closer one is left out
        "titlePadding": 8,
    }


def _legend() -> dict:
    return {
        "labelColor": INK,
        "titleColor": INK,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelLimit": 260,
        "orient": "top",  # the side would make the chart wider than a page
        "direction": "horizontal",
        "symbolStrokeWidth": 2,
        "symbolOpacity": 1,  # pale marks would be lost on a dark page
    }


def _header() -> dict:
    return {
        "labelColor": INK,
        "titleColor": INK,
        "labelFontSize": 13,
        "titleFontSize": 13,
        "labelAnchor": "start",
        "titleAnchor": "start",
        "titleFontWeight": "normal",
    }


def _title() -> dict:
    return {
        "color": INK,
        "subtitleColor": INK,
        "anchor": "start",
        "frame": "group",
        "fontSize": 14,
        "fontWeight": "bold",
        "subtitleFontSize": 12,
        "offset": 10,
    }


def _marks() -> dict:
    return {
        "mark": {"color": BLUE},
        "bar": {"color": BLUE},
        "line": {"strokeWidth": 2},
        "point": {"size": 50, "filled": True},
        "rule": {"color": INK, "opacity": 0.7},
        "text": {"color": INK, "fontSize": 12},
        "boxplot": {"median": {"color": INK}},
    }


@alt.theme.register("book", enable=True)
def _book() -> alt.theme.ThemeConfig:
    return {"config": config()}


# Altair's own renderer, so that the notebooks hold ordinary Altair HTML.
alt.renderers.enable("default", embed_options=EMBED)
