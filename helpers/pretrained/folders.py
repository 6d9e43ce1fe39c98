"""Where a language model's files are: a folder, the cache, a hub."""

import json
from collections.abc import Iterator
from pathlib import Path

from helpers import artifacts
from helpers.errors import InputError
from helpers.paths import ROOT
from helpers.pretrained import hub
from helpers.pretrained.names import official
from helpers.progress import track

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
TEXTS = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    "vocab.json", "merges.txt", "special_tokens_map.json",
    "added_tokens.json",
)  # fmt: skip
PATTERNS = (
    CONFIG, INDEX, "model*.safetensors", "generation_config.json", *TEXTS
)  # fmt: skip


def find(name: str) -> Path:
    """The folder of a model's files, downloaded if it is not there yet."""
    if (local := local_folder(name)) is not None:
        return local
    name = official(name)
    found = hub.snapshot(name)
    if found is not None and is_complete(found):
        return found
    wanted = hub.listing(name, PATTERNS)
    check_listed(wanted)
    with track(f"downloading {name}", wanted.size) as bar:
        return hub.download(wanted, bar.update)


def local_folder(name: str) -> Path | None:
    """The folder that a name is the path of, or None.

    Raises InputError for a path that holds no whole model.
    """
    path = Path(name).expanduser()
    if not path.is_absolute() and not path.exists():
        path = ROOT / path  # a notebook's working folder is not the reader's
    if not path.is_dir():
        if name.startswith(("/", ".", "~")):
            raise InputError(f"there is no folder {name} to load a model from")
        return None
    missing = next(iter(_missing(path)), None)
    if missing:
        raise InputError(
            f"the folder {name} holds no whole model: it lacks {missing}; it "
            "must be as save_pretrained of transformers writes it"
        )
    return path


def is_complete(folder: Path) -> bool:
    """Whether a folder holds a config, all weights and a tokenizer."""
    return not any(_missing(folder))


def _missing(folder: Path) -> Iterator[str]:
    if not (folder / CONFIG).is_file():
        yield CONFIG
    if (folder / INDEX).is_file():
        parts = json.loads((folder / INDEX).read_text())["weight_map"]
        shards = sorted(set(parts.values()))
        yield from (s for s in shards if not (folder / s).is_file())
    elif not (folder / "model.safetensors").is_file():
        yield "model.safetensors"
    names = ("tokenizer.json", "tokenizer.model", "vocab.json")
    if not any((folder / name).is_file() for name in names):
        yield "tokenizer.json"


def check_listed(wanted: hub.Listing) -> None:
    """Raise InputError if a repository holds no model for us."""
    paths = [file.path for file in wanted.files]
    weights = any(path.endswith(".safetensors") for path in paths)
    if CONFIG not in paths or not weights:
        raise InputError(
            f"{wanted.name} holds no {CONFIG} and model*.safetensors; give "
            "the name of a causal language model saved by transformers"
        )


def content(folder: Path) -> list[list[str]]:
    """[name, hash] of the files of a model that decide its numbers.

    In the cache a file is named after its hash; elsewhere it is read.
    """
    names = [CONFIG, INDEX, *TEXTS]
    files = [folder / name for name in names if (folder / name).is_file()]
    files += sorted(folder.glob("model*.safetensors"))
    return [[file.name, _hash(file)] for file in files]


def absolute(source: str) -> str:
    """A path from the root on, wherever the notebook runs; else a name."""
    found = local_folder(source)
    return source if found is None else str(found.resolve())


def _hash(file: Path) -> str:
    if file.is_symlink() and file.resolve().parent.name == "blobs":
        return file.resolve().name
    return artifacts.file_hash(file)
