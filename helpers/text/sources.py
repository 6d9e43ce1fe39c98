"""Sources of natural text, all chosen by one string.

``"environment"``; the path of a file or folder; or ``"dataset:NAME"`` with
an optional ``":CONFIG"``.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from helpers.artifacts import hash_of
from helpers.errors import InputError, unknown
from helpers.paths import ROOT
from helpers.text import environment
from helpers.text.documents import Document, order_key

DATASET = "dataset:"
KINDS = (".txt", ".jsonl", ".parquet")


def read(source: str, field: str, seed: int) -> Iterator[Document]:
    """Documents of a source, one after the other.

    Raises InputError, possibly half way, for what cannot be read.
    """
    if source == "environment":
        return environment.read_environment(seed)
    if source.startswith(DATASET):
        return _read_dataset(source, field)
    return _read_files(_files(source), field, seed)


def fingerprint(source: str, field: str) -> list[str]:
    """What decides a source's documents, for an artifact's parameters.

    Versions of the packages, or the content of the files; of a data set no
    more than its name. Raises InputError if there is no such source.
    """
    if source == "environment":
        named = environment.locked_distributions(environment.LOCK)
        return [source, hash_of(list(named))]
    if source.startswith(DATASET):
        return [source, field]
    content = [[name, _sha(path)] for name, path in _files(source)]
    return ["files", field, hash_of(content)]


def _files(source: str) -> list[tuple[str, Path]]:
    """(name, path) of a file, or of every readable file under a folder."""
    root = Path(source).expanduser()
    if not root.exists():  # a notebook's working folder is not the reader's
        root = ROOT / root
    if not root.exists():
        raise InputError(
            f"there is no file or folder {source!r} to read text from; "
            "a text source is a path, 'environment' or 'dataset:NAME'"
        )
    if root.is_file():
        if root.suffix not in KINDS:
            raise unknown("kind of text file", root.name, KINDS)
        return [(root.name, root)]
    found = [p for p in root.rglob("*") if p.suffix in KINDS and p.is_file()]
    if not found:
        raise InputError(f"the folder {source!r} holds no {_listed()} file")
    return sorted((str(p.relative_to(root)), p) for p in found)


def _read_files(files, field: str, seed: int) -> Iterator[Document]:
    """Documents of each file, files in seeded order."""
    for name, path in sorted(files, key=lambda f: order_key(seed, f[0])):
        if path.suffix == ".txt":
            texts = _texts(name, path, alone=len(files) == 1)
        elif path.suffix == ".jsonl":
            texts = _lines(name, path, field)
        else:
            texts = _column(name, path, field)
        for number, text in enumerate(texts, 1):
            yield Document(text, "prose", f"{name}: {number}", name)


def _texts(name: str, path: Path, alone: bool) -> Iterator[str]:
    """Documents between blank lines. A file without blank lines is one
    document, or one a line where it is the only file."""
    with _reading(name):
        whole = path.read_text(encoding="utf-8-sig")
    parts = re.split(r"\n\s*\n", whole.strip())
    if len(parts) == 1 and alone:
        parts = whole.splitlines()
    yield from (part.strip() for part in parts)


def _lines(name: str, path: Path, field: str) -> Iterator[str]:
    with _reading(name), path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                row = _parse(line, name, number)
                yield _value(row, field, name, number)


def _parse(line: str, name: str, number: int) -> dict:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(
            f"{name}, line {number}, is not valid JSON ({error}); each line "
            "must be one JSON object"
        ) from None
    if not isinstance(row, dict):
        raise InputError(
            f"{name}, line {number}, is not a JSON object with fields"
        )
    return row


def _column(name: str, path: Path, field: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with _reading(name), pq.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if field not in columns:
                raise unknown(f"column of {name}", field, columns)
            for batch in file.iter_batches(columns=[field]):
                for row in batch.to_pylist():
                    number += 1
                    yield _value(row, field, name, number)
    except pa.ArrowException as error:
        raise InputError(
            f"{name} cannot be read as parquet ({_first_line(error)})"
        ) from None


def _read_dataset(source: str, field: str) -> Iterator[Document]:
    """Rows of a data set's train split, streamed."""
    from helpers.pretrained import rows

    name, _, config = source.removeprefix(DATASET).partition(":")
    try:
        found = rows.stream(name, config or None)
        for number, row in enumerate(found, 1):
            text = _value(row, field, name, number)
            place = f"{name}: {number}"
            yield Document(text, "prose", place, place)
    except (InputError, GeneratorExit):
        raise
    except Exception as error:  # the hub's client has dozens of its own
        raise InputError(
            f"the data set {name!r} cannot be read "
            f"({_first_line(error)}); without a network, name a local file "
            "or folder, or 'environment'"
        ) from None


def _value(row: dict, field: str, name: str, number: int) -> str:
    """The text in one field of a row; blank where it is null."""
    if field not in row:
        raise unknown(f"field of {name}, row {number},", field, row)
    value = row[field]
    if not isinstance(value, str | None):
        raise InputError(
            f"the field {field!r} of {name}, row {number}, holds no text but "
            f"a value of type {type(value).__name__}"
        )
    return (value or "").strip()


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Tell what went wrong with a file in one sentence."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} is not UTF-8 text (byte {error.start}); convert it "
            "first, for example with iconv"
        ) from None
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror})") from None


def _sha(path: Path) -> str:
    with _reading(path.name), open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")


def _listed() -> str:
    return ", ".join(KINDS[:-1]) + " or " + KINDS[-1]
