"""Natural text with no download: the documentation that came with Python.

The packages that ``requirements.lock`` names carry tens of megabytes of
docstrings and source. They are read here with ``ast``, in parallel, and
only as much as asked for. Nothing heavy is imported in this module: its
functions also run in freshly started worker processes.
"""

import ast
import inspect
import multiprocessing
import os
import re
import textwrap
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from pathlib import Path

from helpers.errors import InputError
from helpers.paths import ROOT
from helpers.text.documents import Document, order_key

LOCK = ROOT / "requirements.lock"
MIN_PROSE = 200  # characters of a docstring worth reading
CODE_SIZE = (200, 4000)  # characters of a function worth reading
MAX_FILE = 500_000  # bytes; larger files are generated tables
BATCH = 32  # files handed to a worker at a time
# Test suites and other projects' copies say little in their own voice.
SKIPPED = re.compile(
    r"(^|/)(_?tests?|testing|_?vendor(ed)?|_vendored_packages|externals?"
    r"|third_party|extern|conftest\.py|test_[^/]*|[^/]*_test\.py"
    r"|__pycache__)(/|$)"
)

File = tuple[str, str, str]  # absolute path, attribution, name in the package


def normalise(name: str) -> str:
    """A distribution's name in the form that PEP 503 compares."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked_names(lock: Path) -> set[str]:
    """Names of the distributions in a lock file, normalised.

    Raises InputError if the file is missing or names none.
    """
    try:
        lines = lock.read_text(encoding="utf-8").splitlines()
    except OSError:
        raise InputError(
            f"{lock.name} is not there, so it is not known whose "
            "documentation to read; restore it or name a text source"
        ) from None
    found = [re.match(r"\s*([A-Za-z0-9][\w.-]*)\s*(==|@)", x) for x in lines]
    names = {normalise(match[1]) for match in found if match}
    if not names:
        raise InputError(f"{lock.name} names no distribution (name==version)")
    return names


def locked_distributions(
    lock: Path, search: list[str] | None = None
) -> dict[str, metadata.Distribution]:
    """Installed distributions that the lock names: {"name version": it}.

    ``search`` replaces ``sys.path`` as the folders to look in; of two
    copies the first is meant, as in an import.
    """
    names = locked_names(lock)
    where = {} if search is None else {"path": search}
    first: dict[str, metadata.Distribution] = {}
    for distribution in metadata.distributions(**where):
        name = normalise(distribution.metadata["Name"] or "")
        if name in names:
            first.setdefault(name, distribution)
    # "+cpu" and "+cu130" are builds of the same text.
    found = {
        f"{name} {distribution.version.split('+')[0]}": distribution
        for name, distribution in sorted(first.items())
    }
    if not found:
        raise InputError(
            f"none of the distributions that {lock.name} names is installed "
            "here; run `make setup`"
        )
    return found


def python_files(
    distributions: dict[str, metadata.Distribution], seed: int
) -> list[File]:
    """The distributions' modules, in an order that depends on the seed.

    Any first part of it is a fair sample of all files.
    """
    found = {}
    for name, distribution in distributions.items():
        for file in distribution.files or ():
            inside = str(file)
            if inside.endswith(".py") and not SKIPPED.search(inside):
                path = str(distribution.locate_file(file))
                found[f"{name}: {inside}"] = (path, inside)
    order = sorted(found, key=lambda name: order_key(seed, found[name][1]))
    return [(found[name][0], name, found[name][1]) for name in order]


def read_environment(
    seed: int,
    lock: Path | None = None,
    search: list[str] | None = None,
    workers: int | None = None,
) -> Iterator[Document]:
    """Documents of the environment, file after file, in seeded order."""
    files = python_files(locked_distributions(lock or LOCK, search), seed)
    workers = workers or max(2, len(os.sched_getaffinity(0)))
    batches = [files[i : i + BATCH] for i in range(0, len(files), BATCH)]
    if len(batches) == 1:
        yield from read_files(batches[0])
        return
    # Not a fork: the process may already run torch's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            for documents in pool.map(read_files, batches):
                yield from documents
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def read_files(files: list[File]) -> list[Document]:
    """Documents of some files; one that does not parse gives none."""
    found = []
    for path, source, unit in files:
        try:
            if os.path.getsize(path) > MAX_FILE:
                continue
            text = Path(path).read_text(encoding="utf-8")
            prose, code = parse(text)
        except (OSError, SyntaxError, ValueError, RecursionError):
            continue
        found += [Document(text, "prose", source, unit) for text in prose]
        found += [Document(text, "code", source, unit) for text in code]
    return found


def parse(source: str) -> tuple[list[str], list[str]]:
    """A module's docstrings and its functions without them.

    Both are cleaned and filtered by ``MIN_PROSE``, ``CODE_SIZE`` and, for
    docstrings, ``reads_as_text``. Raises SyntaxError as ``ast`` does.
    """
    with warnings.catch_warnings():  # of invalid escapes in others' code
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    lines = source.splitlines(keepends=True)
    prose = [p for node in _documented(tree) if (p := _prose(node))]
    code = [c for node in _functions(tree) if (c := _code(node, lines))]
    return prose, code


def reads_as_text(text: str) -> bool:
    """Whether a docstring is mostly words, not a table, code or drawing.

    At least 70% of its characters that are not spaces are letters.
    """
    solid = "".join(text.split())
    return sum(map(str.isalpha, solid)) >= 0.7 * len(solid)


def _documented(tree: ast.Module) -> Iterator[ast.AST]:
    """The module, its classes and functions; bodies of functions are not
    searched for more."""
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            todo += reversed(_definitions(node))


def _functions(tree: ast.Module) -> Iterator[ast.AST]:
    return (n for n in _documented(tree)
            if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def _definitions(node: ast.AST) -> list[ast.AST]:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return [child for child in node.body if isinstance(child, kinds)]


def _prose(node: ast.AST) -> str | None:
    text = ast.get_docstring(node, clean=False)
    if text is None or len(text) <= MIN_PROSE:
        return None
    text = inspect.cleandoc(text).strip()
    return text if len(text) > MIN_PROSE and reads_as_text(text) else None


def _code(node: ast.AST, lines: list[str]) -> str | None:
    """A function's source, decorators included, docstring left out."""
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    kept = lines[first - 1 : node.end_lineno]
    if ast.get_docstring(node, clean=False) is not None:
        said = node.body[0]
        if len(node.body) == 1 or said.lineno == node.lineno:
            return None  # nothing else in it, or all on one line
        del kept[said.lineno - first : said.end_lineno - first + 1]
    text = textwrap.dedent("".join(kept)).strip()
    return text if CODE_SIZE[0] <= len(text) <= CODE_SIZE[1] else None
