"""Every chapter of a run in one process, for tests: no kernels, no book.

    python -m tests.one_process PROFILE "name=value ..."

Starting a kernel and importing torch in each of a dozen chapters takes
longer than the smallest run itself. Exits with an error where a cell does,
or where prose quotes a number that no cell reported.
"""

import re
import sys
import time

from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

from helpers.execute import chapters, origin, parameters

QUOTED = re.compile(r"\{glue(?::text|:figure)?\}[` ](\w+)")


def main(profile: str, overrides: str) -> None:
    """Run all chapters; prints the seconds of each."""
    notebooks = chapters.sources()
    values = parameters.resolve(notebooks, profile, overrides)
    is_pretrained = bool(origin.model_of(values))
    told: set[str] = set()
    for name, notebook in notebooks.items():
        start = time.process_time()
        suited = origin.suited(notebook, is_pretrained)
        told |= run(suited, values[name])
        missing = {key for cell in suited.cells
                   if cell.cell_type == "markdown"
                   for key in QUOTED.findall(cell.source)} - told
        # Chapter 02 repeats a table of the next one.
        assert missing <= {"lm_neuron_table"}, f"{name}: {sorted(missing)}"
        print(f"{name}: {time.process_time() - start:.1f} s", flush=True)


def run(notebook, values: dict) -> set[str]:
    """Run a notebook's cells in an empty namespace; what it reported."""
    shell = InteractiveShell.instance()
    shell.reset(new_session=False)
    shell.user_module.__spec__ = None  # processes that are started look at it
    shell.display_pub = publisher = CapturingDisplayPublisher()
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        result = shell.run_cell(cell.source, silent=True)
        if not result.success:
            result.raise_error()
        if "parameters" in cell.metadata.get("tags", []):
            shell.user_ns.update(values)
    return {
        output["metadata"]["scrapbook"]["name"]
        for output in publisher.outputs
        if "scrapbook" in (output["metadata"] or {})
    }


if __name__ == "__main__":
    main(*sys.argv[1:3])
