"""Make an executed notebook depend on its content alone.

Two runs on one machine must give the same bytes. Papermill and nbclient
write times and random cell ids, Altair a random div id, live widgets their
state: all of it is removed or numbered here.
"""

import json
import re

ALTAIR_ID = re.compile(r"altair-viz-[0-9a-f]{32}")
WIDGET = "application/vnd.jupyter.widget-view+json"
LAST_CELL = "record-of-the-run"  # the executor's own cell, removed here


def normalise(notebook, chapter: str):
    """The notebook (an nbformat node, changed in place), cleaned."""
    notebook.cells = [
        cell for cell in notebook.cells if cell.get("id") != LAST_CELL
    ]
    _clean_metadata(notebook)
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell["id"] = "injected-parameters"
            cell.metadata = {"tags": ["injected-parameters", "hide-input"]}
        cell.metadata = {
            key: value
            for key, value in cell.metadata.items()
            if key in ("tags", "editable", "slideshow")
            and value not in ([], {})
        }
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if not _is_widget(o)]
    return _renumber(notebook, chapter)


def to_text(notebook) -> str:
    """The notebook as it is written to disk."""
    return (
        json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False)
        + "\n"
    )


def _clean_metadata(notebook) -> None:
    kept = ("kernelspec", "language_info", "book")
    notebook.metadata = {
        key: value for key, value in notebook.metadata.items() if key in kept
    }


def _is_widget(output) -> bool:
    return WIDGET in output.get("data", {})


def _renumber(notebook, chapter: str):
    """Number Altair's random div ids in order of appearance."""
    import nbformat

    names: dict[str, str] = {}

    def number(match: re.Match) -> str:
        name = f"altair-viz-{chapter}-{len(names) + 1}"
        return names.setdefault(match[0], name)

    text = ALTAIR_ID.sub(number, json.dumps(notebook, ensure_ascii=False))
    return nbformat.from_dict(json.loads(text))
