"""Train the SAEs that a YAML file lists in one pass, in one process or many.

``python -m helpers.train FILE.yaml``, or the same under ``torchrun``. The
artifacts are those the chapters make with the same settings, so a chapter
finds them ready. Exit status: 0 all are there, 2 bad input, 75 stopped by
SIGTERM or SIGINT with a checkpoint to go on from.
"""

import argparse
import os
import re
import signal
import sys
import typing
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml
from torch import distributed

from helpers import artifacts, paths, ranks, train
from helpers.errors import InputError, unknown
from helpers.execute.parameters import Parameter
from helpers.sae.architectures import ARCHITECTURES, SHORT
from helpers.train.inputs import check_tokens
from helpers.train.stage import DEFAULTS

STOPPED = 75  # EX_TEMPFAIL of sysexits.h: the same command again goes on
KEYS = ("profile", "model", "common", "saes", "checkpoint_every", "cache")


class Numbers(yaml.SafeLoader):
    """YAML whose numbers may be written 1e-3, as in version 1.2."""


Numbers.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def main(words: list[str] | None = None) -> int:
    """Train what the file lists and is not there yet; the exit status."""
    parser = argparse.ArgumentParser(prog="helpers.train")
    parser.add_argument("file", type=Path, help="YAML: what to train")
    file = parser.parse_args(words).file
    first = os.environ.get("RANK", "0") == "0"
    if not first:
        _be_silent()
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        with _ranks():
            make(read(file))
        return 0
    except InputError as error:
        _report(error, first)
        return 2
    except KeyboardInterrupt:
        if first:
            print("stopped; the same command goes on from here",
                  file=sys.stderr)  # fmt: skip
        return STOPPED
    finally:
        signal.signal(signal.SIGTERM, before)


def read(file: Path) -> dict:
    """A checked list: profile, model, saes {name: settings as in make_saes},
    how {checkpoint_every, cache: where the file says}.

    InputError for YAML that is none, and for a key, setting, architecture,
    profile or model that is not known.
    """
    content = _load(file)
    for key in content:
        if key not in KEYS:
            raise unknown(f"key in {file.name}", key, KEYS)
    for key in ("profile", "model", "saes"):
        if not content.get(key):
            raise InputError(f"{file.name} names no {key}; it needs profile, "
                             "model and saes")  # fmt: skip
    root = paths.artifacts_root()
    profile, model = str(content["profile"]), str(content["model"])
    _exists("profile", profile, root)
    _exists("language model", model, paths.language_model(profile, "x").parent)
    common = _mapping(content.get("common"), "common")
    saes = _mapping(content["saes"], "saes")
    saes = {
        name: _settings(name, {**common, **_mapping(own, f"SAE {name}")})
        for name, own in saes.items()
    }
    kinds = {"checkpoint_every": float, "cache": bool}
    how = {k: _typed(k, kinds[k], content[k]) for k in kinds if k in content}
    return {"profile": profile, "model": model, "saes": saes, "how": how}


def make(wanted: dict) -> None:
    """Train the SAEs of a list as ``read`` returns it, all in one pass."""
    profile = wanted["profile"]
    model = paths.language_model(profile, wanted["model"])
    tokens = paths.tokens(profile)
    check_tokens(model, tokens)
    made = train.make_saes(
        profile, wanted["saes"], model, tokens, **wanted["how"]
    )
    if ranks.index() == 0:
        for path in made.values():
            print(artifacts.show(path), flush=True)


def _load(file: Path) -> dict:
    """The mapping in a YAML file."""
    try:
        content = yaml.load(file.read_text(), Numbers)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise InputError(f"{file.name} is not valid YAML{where}") from None
    return _mapping(content, file.name)


def _mapping(value: object, what: str) -> dict:
    if not isinstance(value or {}, dict):
        raise InputError(f"{what} must be lines of `name: value`")
    return value or {}


def _exists(kind: str, name: str, folder: Path) -> None:
    """InputError, with the nearest, if a folder holds none of that name."""
    if not (folder / name / ".").is_dir():
        found = sorted(path.name for path in folder.glob("[!.]*/"))
        raise InputError(f"{unknown(kind, name, found)}; make execute "
                         "makes more of them")  # fmt: skip


def _settings(name: str, given: dict) -> dict:
    """The settings of one SAE in their types; InputError for a bad one."""
    if not re.fullmatch(r"\w[\w.-]*", str(name)):
        raise InputError(f"{name!r} cannot name an SAE; letters, digits, "
                         "dots and hyphens can")  # fmt: skip
    kinds = _kinds()
    for key in given:
        if key not in kinds:
            raise unknown(f"setting of SAE {name}", key, kinds)
    architectures = [*ARCHITECTURES, *SHORT]
    if (chosen := given.get("architecture", "topk")) not in architectures:
        raise unknown("SAE architecture", chosen, architectures)
    return {
        key: _typed(f"{key} of SAE {name}", kinds[key], value)
        for key, value in given.items()
    }


def _kinds() -> dict[str, type]:
    """The type of each setting, as ``make_saes`` and ``Settings`` say."""
    own = {name: type(value) for name, value in DEFAULTS.items()}
    return own | {"data_seed": int} | train.Settings.__annotations__


def _typed(name: str, kind: type, value: object) -> object:
    """``value`` as ``kind``, so that 2 and 2.0 name one artifact."""
    if kind in (int, float, str, bool):
        return Parameter(name, kind, None, f"{value!r} is not").check(value)
    if typing.get_origin(kind) is not tuple:
        return _mapping(value, name)
    if not isinstance(value, list):
        raise InputError(f"{name} must be a list such as [0.1, 0.2]")
    return tuple(_typed(f"each {name}", float, part) for part in value)


@contextmanager
def _ranks() -> Iterator[None]:
    """Under torchrun: this process is one of many, each with its device."""
    if not distributed.is_torchelastic_launched():
        yield
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _be_silent() -> None:
    """Leave progress and warnings to rank 0."""
    os.environ["BOOK_PROGRESS"] = os.devnull
    warnings.simplefilter("ignore")


def _stop(*_) -> None:
    """Stop once: Slurm and torchrun both send the signal to each rank."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _report(error: InputError, first: bool) -> None:
    """Say it, or have torchrun say it where only this rank may know it."""
    if first:
        print(f"error: {error}", file=sys.stderr)
    elif "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing import errors

        errors.get_error_handler().record_exception(error)


if __name__ == "__main__":
    sys.exit(main())
