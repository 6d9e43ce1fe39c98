"""Run the chapters of a profile, one after another, each written whole."""

import contextlib
import copy
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from helpers import artifacts, paths, progress
from helpers.errors import InputError
from helpers.execute import fingerprints, normalise, results
from helpers.execute.parameters import declared

LAST_CELL = """\
from helpers.execute import record
record.finish()"""
# A kernel that is stopped at a busy moment logs its own unfinished tasks.
QUIET = [
    "--log-level=50",
    "--IPKernelApp.exec_lines=import logging;"
    "logging.getLogger('asyncio').setLevel(50)",
]


class ChapterFailed(Exception):
    """A chapter raised something that is not the reader's input."""


def sources() -> dict:
    """Every notebook (nbformat nodes), in file-name order."""
    import nbformat

    return {
        file.stem: nbformat.read(file, as_version=4)
        for file in sorted(paths.NOTEBOOKS.glob("[0-9A-Z]*.ipynb"))
    }


def with_needs(chapter: str, notebooks: dict) -> list[str]:
    """A chapter and, transitively, the chapters whose artifacts it reads."""
    wanted, todo = set(), [chapter]
    while todo:
        name = todo.pop()
        if name not in wanted:
            wanted.add(name)
            todo += notebooks[name].metadata.get("book", {}).get("needs", [])
    return [name for name in notebooks if name in wanted]


def executed_path(profile: str, name: str) -> Path:
    """Where a chapter of a run is."""
    return paths.chapters(profile) / f"{name}.ipynb"


def sidecar_path(executed: Path) -> Path:
    """The record of what varies from run to run, beside a chapter."""
    return executed.with_suffix(".run.json")


def bring_up_to_date(
    name: str, notebook, profile: str, parameters: dict, place: str
) -> bool:
    """Run a chapter unless it is current; True if it ran.

    A current chapter whose prose was edited gets the new prose and keeps
    its outputs. ``place`` is its place in the run, such as ``3/7``.
    """
    path = executed_path(profile, name)
    wanted = fingerprints.fingerprint(notebook, parameters)
    executed = results.read(path)
    if fingerprints.is_current(executed, wanted):
        _refresh_prose(notebook, executed, path, name)
        return False
    _announce(place, name, path)
    _run(name, notebook, profile, parameters, wanted)
    return True


def expected_seconds(executed: Path) -> float | None:
    """How long a chapter took last time, here or where it was published.

    Its stages count even where that run found them made already.
    """
    for file in (executed, paths.PUBLISHED / executed.name):
        with contextlib.suppress(OSError, ValueError, KeyError):
            record = json.loads(sidecar_path(file).read_text())
            stages = [part["seconds"] for part in record["stages"].values()]
            return max(record["seconds"], sum(stages))
    return None


def _announce(place: str, name: str, path: Path) -> None:
    seconds = expected_seconds(path)
    usual = f" (last time {progress.clock(seconds)})" if seconds else ""
    print(f"[{place}] {name}: running{usual}", flush=True)


def _run(name, notebook, profile, parameters, wanted) -> None:
    path = executed_path(profile, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    # Not in the system's temporary folder: that may be small or in memory.
    with tempfile.TemporaryDirectory(dir=paths.artifacts(profile)) as folder:
        executed = _papermill(name, notebook, parameters, Path(folder))
        record = _read_record(Path(folder) / "record.jsonl")
    executed.metadata["book"] = {
        **executed.metadata.get("book", {}),
        "fingerprint": wanted,
        "profile": profile,
        "parameters": parameters,
        "reads": record["reads"],
        "writes": record["writes"],
    }
    executed.cells.append(_provenance_cell(name, executed.metadata["book"]))
    _write_sidecar(path, record, time.monotonic() - start)
    text = normalise.to_text(normalise.normalise(executed, name))
    artifacts.write_text(path, text)


def _papermill(name: str, notebook, parameters: dict, folder: Path):
    """Execute in ``folder``; the executed notebook, or an exception."""
    import nbformat
    import papermill

    source, output = folder / "source.ipynb", folder / f"{name}.ipynb"
    changed = {
        known.name: parameters[known.name]
        for known in declared(notebook).values()
        if known.default != parameters[known.name]
    }
    nbformat.write(_with_last_cell(notebook), source)
    with _environment(folder), _progress_lines(folder, name):
        try:
            papermill.execute_notebook(
                str(source), str(output), changed, kernel_name="python3",
                progress_bar=False, cwd=str(paths.ROOT), config=_config(),
                extra_arguments=QUIET,
            )
        except papermill.PapermillExecutionError as error:
            raise _failure(name, error, output) from None
    return nbformat.read(output, as_version=4)


def _config():
    """Encrypt the talk with the kernel: others may share the node."""
    from traitlets.config import Config

    return Config({"KernelManager": {"transport_encryption": "auto"}})


def _with_last_cell(notebook):
    """A copy with the executor's own cell, which records peak memory."""
    import nbformat

    copied = copy.deepcopy(notebook)
    cell = nbformat.v4.new_code_cell(LAST_CELL)
    cell["id"] = normalise.LAST_CELL
    copied.cells.append(cell)
    return copied


def _failure(name: str, error, output: Path) -> Exception:
    """One sentence for bad input; else where to look."""
    if error.ename == "InputError":
        return InputError(f"{name}: {error.evalue}")
    kept = output.parent.parent / "failed" / output.name
    kept.parent.mkdir(exist_ok=True)
    with contextlib.suppress(OSError):
        os.replace(output, kept)
    return ChapterFailed(
        f"{name} stopped in cell {error.exec_count} with {error.ename}: "
        f"{error.evalue} (the notebook up to there: {artifacts.show(kept)}); "
        "finished chapters are kept"
    )


@contextlib.contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """What the kernel inherits: where to record, and no random hashing."""
    added = {
        "BOOK_RECORD": str(folder / "record.jsonl"),
        "BOOK_PROGRESS": str(folder / "progress.txt"),
        "PYTHONHASHSEED": "0",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    before = {key: os.environ.get(key) for key in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value


@contextlib.contextmanager
def _progress_lines(folder: Path, name: str) -> Iterator[None]:
    """Print the lines that the kernel's long stages append to a file."""
    file, stop = folder / "progress.txt", threading.Event()
    file.touch()

    def follow() -> None:
        with open(file) as stream:
            while not stop.wait(1.0):
                for line in stream:
                    _say(f"      {name}: {line.rstrip()}")

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        if sys.stdout.isatty():
            print("\r\033[K", end="", flush=True)


def _say(line: str) -> None:
    """A progress line: in place on a terminal, one after another in a log."""
    if sys.stdout.isatty():
        print(f"\r\033[K{line}", end="", flush=True)
    else:
        print(line, flush=True)


def _read_record(file: Path) -> dict:
    """What a chapter read, wrote and cost, from the lines it recorded."""
    record = {"reads": {}, "writes": {}, "stages": {}, "kernel": {}}
    for line in file.read_text().splitlines():
        entry = json.loads(line)
        if entry["kind"] == "kernel":
            record["kernel"] = entry["kernel"]
            continue
        record[entry["kind"]][entry["path"]] = entry["digest"]
        if entry["kind"] == "writes":
            record["stages"][entry["path"]] = entry["made"]
    for name in record["writes"]:  # made here and then read: not an input
        record["reads"].pop(name, None)
    return record


def _write_sidecar(path: Path, record: dict, seconds: float) -> None:
    """What varies from run to run, beside the chapter."""
    artifacts.write_json(
        sidecar_path(path),
        {
            "chapter": path.stem,
            "commit": _git("rev-parse", "HEAD"),
            "changed_since_commit": bool(_git("status", "--porcelain")),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(
                "T", "seconds"
            ),
            "seconds": round(seconds, 1),
            "system": platform.platform(),
            "cores": os.cpu_count(),
            **record["kernel"],
            "stages": record["stages"],
        },
    )


def _git(*words: str) -> str:
    try:
        return subprocess.run(
            ["git", *words], cwd=paths.ROOT, capture_output=True, text=True
        ).stdout.strip()
    except OSError:
        return ""


def _provenance_cell(name: str, book: dict):
    """The strip at the foot of a chapter (MyST markdown)."""
    import nbformat

    def listed(values: dict, form: str) -> str:
        return ", ".join(form.format(k, v) for k, v in values.items()) or "-"

    short = {k: v[:12] for k, v in {**book["reads"], **book["writes"]}.items()}
    rows = {
        "profile": f"`{book['profile']}`",
        "parameters": listed(
            {k: v for k, v in book["parameters"].items() if k != "profile"},
            "`{}={}`",
        ),
        "artifacts read": listed(
            {k: short[k] for k in book["reads"]}, "{} `{}`"
        ),
        "artifacts made": listed(
            {k: short[k] for k in book["writes"]}, "{} `{}`"
        ),
        "fingerprint": f"`{book['fingerprint'][:12]}`",
        "the run": f"commit, machine, times and memory: "
        f"{{download}}`{name}.run.json <{name}.run.json>`",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    cell = nbformat.v4.new_markdown_cell(
        "```{dropdown} How this chapter was made\n"
        ":class-container: provenance\n\n"
        f"| what | value |\n|---|---|\n{table}\n```"
    )
    cell["id"] = "provenance"
    return cell


def _refresh_prose(notebook, executed, path: Path, name: str) -> None:
    """Give a current chapter the prose of its source, if that changed."""
    done = [
        cell
        for cell in executed.cells
        if cell.cell_type == "code" and cell.id != "injected-parameters"
    ]
    extra = [
        cell
        for cell in executed.cells
        if cell.id in ("injected-parameters", "provenance")
    ]
    fresh = copy.deepcopy(notebook)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            ran = done.pop(0)
            cell.outputs = ran.outputs
            cell.execution_count = ran.execution_count
    for cell in extra:
        _insert(fresh, cell)
    fresh.metadata = executed.metadata
    text = normalise.to_text(normalise.normalise(fresh, name))
    if text != path.read_text():
        artifacts.write_text(path, text)


def _insert(notebook, cell) -> None:
    """Put an executor's cell where it was: injected ones after parameters."""
    if cell.id == "provenance":
        notebook.cells.append(cell)
        return
    for index, other in enumerate(notebook.cells):
        if "parameters" in other.metadata.get("tags", []):
            notebook.cells.insert(index + 1, cell)
            return
