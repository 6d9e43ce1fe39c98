"""Artifacts: folders written whole or not at all, each with a manifest.

``produce`` makes a folder unless one made the same way is there already;
``require`` opens one that an earlier chapter made and refuses what was
altered or half-written. Artifacts are chained by *content*: an artifact's
key holds the digests of its inputs, so a stage that is run again and gives
the same bytes makes nothing after it stale.
"""

import contextlib
import datetime
import functools
import hashlib
import json
import os
import platform
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from helpers import paths, sources
from helpers.errors import InputError

MANIFEST = "manifest.json"
FORMAT = 1  # raise it when older artifacts can no longer be read
# Their versions can change an artifact's numbers, so they are in its key.
COMPUTE = ("torch", "numpy", "tokenizers", "transformer-lens", "pyarrow")


def produce(
    path: Path,
    make: Callable[[Path], None],
    *,
    parameters: dict,
    inputs: Sequence[Path] = (),
) -> Path:
    """Return the artifact at ``path``, made now unless it is there.

    ``make(folder)`` fills an empty temporary folder, which then gets its
    manifest and replaces ``path`` in one rename. It runs again when the
    parameters, the content of an input artifact, the code of the module
    that defines ``make`` (or of what that imports), or the version of a
    computing library has changed.

    Raises InputError if an input is missing or damaged, or the disk full.
    """
    key = _key(make.__module__, parameters, inputs)
    manifest = read_manifest(path)
    if manifest is None or manifest["key"] != key:
        _make(path, make, key, parameters, inputs)
    else:
        verify(path)
    _record("writes", path)
    return path


def require(path: Path) -> Path:
    """Check an artifact made by an earlier chapter and note its use.

    Raises InputError if it is missing or was altered since it was written.
    """
    if read_manifest(path) is None:
        raise InputError(
            f"{show(path)} is not there; run the chapter that makes it "
            "first (`make execute` runs all of them in order)"
        )
    verify(path)
    _record("reads", path)
    return path


def digest(path: Path) -> str:
    """The digest of an artifact's content (hex, from its manifest)."""
    manifest = read_manifest(path)
    return manifest["digest"] if manifest else ""


def read_manifest(path: Path) -> dict | None:
    """An artifact's manifest, or None where there is no whole artifact."""
    try:
        return json.loads((Path(path) / MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        raise _damaged(path, MANIFEST) from None


def verify(path: Path) -> None:
    """Compare every file with the manifest; InputError on a difference."""
    for name, (size, sha) in read_manifest(path)["files"].items():
        file = Path(path) / name
        if not file.is_file() or file.stat().st_size != size:
            raise _damaged(path, name)
        if _file_sha(str(file), file.stat().st_mtime_ns) != sha:
            raise _damaged(path, name)


def show(path: Path) -> str:
    """A path as a reader sees it: from ``artifacts/`` on."""
    path, root = Path(path), paths.artifacts_root()
    if not path.is_relative_to(root):
        return str(path)
    return (Path("artifacts") / path.relative_to(root)).as_posix()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place on success.

    Works for files and folders; on any error nothing is left behind and
    what stood at ``path`` still does. A full disk is one InputError.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}.partial"
    _remove(temporary)
    try:
        yield temporary
        _swap(temporary, path)
    except OSError as error:
        if error.errno == 28:  # ENOSPC
            free = shutil.disk_usage(path.parent).free / 2**20
            raise InputError(
                f"no disk space left to write {show(path)} ({free:.0f} MiB "
                "free); free some and run again, finished work is kept"
            ) from error
        raise
    finally:
        _remove(temporary)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically, keys sorted, so equal values give equal bytes."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    write_text(path, text + "\n")


def _make(path, make, key, parameters, inputs):
    start = time.perf_counter()
    _clear_partial(path)
    with replacing(path) as folder:
        folder.mkdir()
        make(folder)
        files = {
            str(file.relative_to(folder)): [file.stat().st_size, _sha(file)]
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
        manifest = {
            "key": key,
            "digest": hash_of(files),
            "files": files,
            "parameters": parameters,
            "inputs": {show(i): digest(i) for i in inputs},
            "versions": versions(),
            "made": _circumstances(start),
        }
        write_json(folder / MANIFEST, manifest)


def _key(module: str, parameters: dict, inputs: Sequence[Path]) -> str:
    for path in inputs:
        require(path)
    return hash_of(
        [
            FORMAT,
            parameters,
            [digest(path) for path in inputs],
            sources.closure_hash(module),
            versions(),
        ]
    )


def hash_of(value: object) -> str:
    """sha256 (hex) of a JSON-able value, independent of key order."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, default=str).encode()
    ).hexdigest()


def _circumstances(start: float) -> dict:
    """What varies from run to run, for the record only."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "at": datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
        "machine": platform.machine(),
        "seconds": round(time.perf_counter() - start, 2),
        "peak_memory_mib": round(peak / 1024),
    }


@functools.cache
def versions() -> dict[str, str]:
    """Installed versions of the computing libraries (``COMPUTE``)."""
    found = {}
    for name in COMPUTE:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _record(kind: str, path: Path) -> None:
    """Tell the executor, when there is one, what this chapter used."""
    if record := os.environ.get("BOOK_RECORD"):
        manifest = read_manifest(path)
        line = {
            "kind": kind,
            "path": show(path),
            "digest": manifest["digest"],
            "made": manifest["made"],
        }
        with open(record, "a") as file:
            file.write(json.dumps(line) + "\n")


def _damaged(path: Path, name: str) -> InputError:
    return InputError(
        f"{show(path)} was altered or only half written ({name} does not "
        f"match its manifest); remove that folder and run again"
    )


@functools.lru_cache(maxsize=4096)
def _file_sha(name: str, mtime: int) -> str:
    return _sha(Path(name))


def file_hash(file: Path) -> str:
    """sha256 (hex) of a file; read again only when it has changed."""
    return _file_sha(str(file), file.stat().st_mtime_ns)


def _sha(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _swap(temporary: Path, path: Path) -> None:
    """Put a finished file or folder in place."""
    if path.is_dir():  # a folder that is not empty cannot be renamed over
        old = path.parent / f".{path.name}.{os.getpid()}.old"
        os.replace(path, old)
        os.replace(temporary, path)
        _remove(old)
    else:
        os.replace(temporary, path)


def _clear_partial(path: Path) -> None:
    """Remove what a killed run left beside ``path``."""
    for left in path.parent.glob(f".{path.name}.*"):
        _remove(left)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
