"""Which helper modules a piece of code really imports, and their hash.

Only the abstract syntax is hashed, without docstrings: a comment, a
docstring or a blank line makes nothing stale.
"""

import ast
import functools
import hashlib
from pathlib import Path

from helpers.paths import ROOT

# They move and record artifacts, but decide nothing that is in them.
INFRASTRUCTURE = frozenset(
    f"helpers.{name}"
    for name in ("artifacts", "errors", "execute", "paths", "progress",
                 "sources", "pretrained.hub")
)


def closure_hash(module: str) -> str:
    """sha256 over a helper module and every helper module it imports."""
    return hash_modules(closure([module]))


def hash_modules(modules: list[str]) -> str:
    """sha256 (hex) over the syntax of the named helper modules."""
    parts = [f"{name} {_syntax_hash(name)}" for name in sorted(modules)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def closure(modules: list[str]) -> list[str]:
    """The modules and, transitively, the helper modules they import.

    Infrastructure (``INFRASTRUCTURE``) is left out. Imports inside
    functions count: helpers import heavy libraries and each other lazily.
    ``from helpers.pack.a import f`` counts pack/a.py, not pack/__init__.py,
    which only lists what the package offers.
    """
    seen: set[str] = set()
    todo = [name for name in modules if _file(name)]
    while todo:
        name = todo.pop()
        if name in seen or _is_infrastructure(name):
            continue
        seen.add(name)
        todo += imported(ast.parse(_file(name).read_text()), name)
    return sorted(seen)


def imported(tree: ast.AST, module: str = "") -> list[str]:
    """The helper modules that a syntax tree imports, absolute names."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module)
            names = [f"{base}.{alias.name}" for alias in node.names]
            found += names
            if not all(_file(name) for name in names):
                found.append(base)  # something is taken from base itself
    return sorted({name for name in found if _file(name)})


def data_files(code: Path) -> list[Path]:
    """Data (tables, prompts) beside a module that it may read.

    A folder without modules, such as ``prompts/``, is data too.
    """
    beside = [
        inner
        for folder in code.parent.iterdir()
        if folder.is_dir() and not any(folder.glob("*.py"))
        for inner in folder.iterdir()
    ]
    return sorted(
        file
        for file in [*code.parent.iterdir(), *beside]
        if file.is_file() and file.suffix not in (".py", ".pyc")
    )


def _is_infrastructure(name: str) -> bool:
    return any(
        name == known or name.startswith(known + ".")
        for known in INFRASTRUCTURE
    )


def _absolute(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    is_package = _file(module).name == "__init__.py"
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + is_package]
    return ".".join(parts + ([node.module] if node.module else []))


def _file(name: str) -> Path | None:
    """The source file of a helper module, None for anything else."""
    if name.split(".")[0] != "helpers":
        return None
    path = ROOT / Path(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file() and candidate != ROOT / "helpers/__init__.py":
            return candidate
    return None


def _syntax_hash(name: str) -> str:
    file = _file(name)
    content = syntax(file.read_text()).encode()
    content += b"".join(f.read_bytes() for f in data_files(file))
    return hashlib.sha256(content).hexdigest()


@functools.lru_cache(maxsize=512)
def syntax(source: str) -> str:
    """The syntax tree of Python source as text, docstrings left out."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            node.body = body[1:] or [ast.Pass()]
    return ast.dump(tree)


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
