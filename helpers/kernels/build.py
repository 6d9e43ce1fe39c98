"""Compiles the CPU's kernels once and keeps them in the user's cache.

The file's name is a hash of everything that decides its content, so that
another machine, compiler or version of the source gets its own; its last
bytes are a digest, so that a damaged file is made again, never loaded.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = ["-std=c++17", "-O3", "-march=native", "-fno-math-errno"]
FLAGS += ["-fopenmp", "-fPIC"]
WIDE = ["-mprefer-vector-width=512"]  # x86: also where gcc would use 256
DIGEST = 32  # bytes of SHA-256


def load() -> ctypes.CDLL:
    """The library, compiled if the cache has none that is whole.

    OSError (no compiler, a library that cannot be loaded) or
    subprocess.SubprocessError (a compiler that fails) if there is no way.
    """
    compiler = find_compiler()
    path = cache_folder() / f"kernels-{_key(compiler)}.so"
    if not _is_whole(path):
        _compile(compiler, path)
    return ctypes.CDLL(str(path))


def find_compiler() -> str:
    """``$CXX`` if set, else the system's; OSError if there is none."""
    named = os.environ.get("CXX")
    for name in [named] if named else ["g++", "c++", "clang++"]:
        if found := shutil.which(name):
            return found
    raise FileNotFoundError("no C++ compiler was found (g++ or clang++)")


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME`` or ``~/.cache``, our part of it."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "opening-language-models"


def _flags() -> list[str]:
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return FLAGS + (WIDE if x86 else [])


def _key(compiler: str) -> str:
    version = _run([compiler, "--version"])
    parts = [SOURCE.read_text(), compiler, version, *_flags(), _cpu()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _cpu() -> str:
    """What decides the instructions that ``-march=native`` allows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = ("flags", "Features", "model name", "CPU part")
    found = [line for line in lines if line.startswith(named)]
    return "\n".join(sorted(set(found))) + platform.processor()


def _is_whole(path: Path) -> bool:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    return _digest(content[:-DIGEST]) == content[-DIGEST:]


def _compile(compiler: str, path: Path) -> None:
    """Write the library in one move: others may be compiling it too.

    Linked without an OpenMP library of its own where that works, so that
    it uses the one torch has loaded, and torch's pool of threads.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made, linked = f"{folder}/kernels.o", Path(folder) / "kernels.so"
        _run([compiler, *_flags(), "-c", str(SOURCE), "-o", made])
        _run([compiler, "-shared", made, "-o", str(linked)])
        try:
            ctypes.CDLL(str(linked), os.RTLD_NOW)
        except OSError:
            linked.unlink()
            _run([compiler, "-shared", "-fopenmp", made, "-o", str(linked)])
        content, signed = linked.read_bytes(), Path(folder) / "signed.so"
        signed.write_bytes(content + _digest(content))  # linked is in use
        os.replace(signed, path)


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=300
    )
    return done.stdout


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
