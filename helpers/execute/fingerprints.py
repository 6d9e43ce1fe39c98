"""What a chapter depends on, so that nothing unchanged is run again.

A chapter is current while

- its *fingerprint* is the same: its code cells, its parameters, the helper
  modules it imports (transitively), the computing libraries' versions, and
  the files of the project that its metadata names as ``data``;
- the headline numbers are the same that it compares, if its metadata say
  ``compares`` (of this run, and of the other published profiles);
- every artifact it read still has the content it read;
- every artifact it wrote is still there.

Chapters are thus chained through the content of artifacts, not through one
another: a run that reproduces the same bytes makes nothing after it stale.
"""

import ast
from pathlib import Path

from helpers import artifacts, conclusions, paths, sources
from helpers.errors import InputError


def fingerprint(notebook, parameters: dict) -> str:
    """sha256 (hex) of what a chapter is made from, its inputs aside."""
    code = [c.source for c in notebook.cells if c.cell_type == "code"]
    modules = sources.closure(helper_modules(notebook))
    parts = [code, parameters, sources.hash_modules(modules),
             artifacts.versions()]  # fmt: skip
    about = notebook.metadata.get("book", {})
    files = [paths.ROOT / name for name in about.get("data", [])]
    parts += [file.read_text() for file in files if file.exists()]
    if about.get("compares"):
        parts.append(conclusions.gather(parameters["profile"]))
    return artifacts.hash_of(parts)


def helper_modules(notebook) -> list[str]:
    """Helper modules that a notebook's code cells import by name."""
    found = set()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            found.update(sources.imported(ast.parse(cell.source)))
    return sorted(found)


def is_current(executed, wanted: str) -> bool:
    """Whether an executed chapter (or None) need not run again."""
    record = (executed or {}).get("metadata", {}).get("book", {})
    if record.get("fingerprint") != wanted:
        return False
    used = {**record["reads"], **record["writes"]}
    return all(
        _whole(artifact_path(name), digest)
        for name, digest in used.items()
    )


def artifact_path(shown: str) -> Path:
    """The path of an artifact from its name in a chapter's record."""
    return paths.artifacts_root() / Path(shown).relative_to("artifacts")


def _whole(path: Path, digest: str) -> bool:
    """The artifact is there, has this content, and no file was altered."""
    manifest = artifacts.read_manifest(path)
    if manifest is None or manifest["digest"] != digest:
        return False
    for name, (size, _) in manifest["files"].items():
        file = path / name
        if not file.is_file() or file.stat().st_size != size:
            raise InputError(
                f"{artifacts.show(path)} was altered or only half written "
                f"({name} does not match its manifest); remove that folder "
                "and run again"
            )
    return True
