"""What a chapter accepts, read from its parameters cell, and its checks.

A line of the cell tagged ``parameters`` declares one parameter:

    tokens: int = 12_000_000  # training tokens [1000, 1e12]
    source: str = "environment"  # where text comes from {environment, folder}

Square brackets give a closed range, braces the choices; both are optional.
"""

import ast
import dataclasses
import re
from pathlib import Path

import yaml

from helpers import paths
from helpers.errors import InputError, unknown

TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list}
NUMBER = r"-?[\d_.]+(?:e[+-]?\d+)?"
RANGE = re.compile(rf"\[({NUMBER}), ({NUMBER})\]\s*$")
CHOICES = re.compile(r"\{([^}]*)\}\s*$")


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell."""

    name: str
    type: type
    default: object
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    def check(self, value: object) -> object:
        """The value in this parameter's type, or InputError."""
        value = _coerce(value, self.type)
        if value is None:
            raise InputError(
                f"{self.name} must be {_a(self.type)}: {self.help}"
            )
        if self.low is not None and not self.low <= value <= self.high:
            raise InputError(
                f"{self.name}={value} is out of range; accepted are values "
                f"from {self.low:g} to {self.high:g}, the nearest is "
                f"{self.type(min(max(value, self.low), self.high))}"
            )
        if self.choices and value not in self.choices:
            raise unknown(f"{self.name}", value, self.choices)
        return value


def declared(notebook) -> dict[str, Parameter]:
    """The parameters of a notebook (an nbformat node), in order."""
    source = "\n".join(
        cell.source
        for cell in notebook.cells
        if "parameters" in cell.metadata.get("tags", [])
    )
    lines = source.splitlines()
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign):
            comment = lines[node.end_lineno - 1][node.end_col_offset :]
            found[node.target.id] = _parameter(node, comment.strip(" #"))
    return found


def resolve(notebooks: dict, profile: str, overrides: str) -> dict[str, dict]:
    """Checked parameter values of every chapter.

    ``notebooks`` maps chapter names to nbformat nodes; ``overrides`` is a
    line such as ``"seed=1 03-language-model:tokens=1000"``. Later wins:
    the notebook's default, the profile's ``common``, the profile's chapter,
    the overrides. Raises InputError for anything unknown or out of range.
    """
    accepted = {name: declared(nb) for name, nb in notebooks.items()}
    values = {
        name: {p.name: p.default for p in known.values()}
        for name, known in accepted.items()
    }
    layers = _profile_layers(profile, accepted)
    for chapter, name, value in layers + _overrides(overrides, accepted):
        for target in [chapter] if chapter else accepted:
            if name in accepted[target]:
                checked = accepted[target][name].check(value)
                values[target][name] = checked
    for chapter, known in accepted.items():
        if "profile" in known:
            values[chapter]["profile"] = profile
    return values


def profiles() -> list[str]:
    """The profiles there are."""
    return sorted(file.stem for file in paths.PROFILES.glob("*.yaml"))


def _profile_layers(profile: str, accepted: dict) -> list[tuple]:
    """(chapter or None, name, value) of a profile file, common first."""
    file = paths.PROFILES / f"{profile}.yaml"
    if not re.fullmatch(r"[\w-]+", profile) or not file.is_file():
        raise unknown("profile", profile, profiles())
    content = _read_yaml(file)
    common = content.pop("common", None) or {}
    layers = [(None, name, value) for name, value in common.items()]
    for chapter, settings in content.items():
        if chapter not in accepted:
            raise unknown(f"chapter in {file.name}", chapter, accepted)
        layers += [(chapter, n, v) for n, v in (settings or {}).items()]
    for chapter, name, _ in layers:
        _check_name(name, chapter, accepted)
    return layers


def _read_yaml(file: Path) -> dict:
    try:
        return yaml.safe_load(file.read_text()) or {}
    except yaml.YAMLError as error:
        line = getattr(error, "problem_mark", None)
        where = f" (line {line.line + 1})" if line else ""
        raise InputError(f"{file.name} is not valid YAML{where}") from error


def _overrides(text: str, accepted: dict) -> list[tuple]:
    """Parse ``name=value`` and ``chapter:name=value`` words."""
    layers = []
    for word in text.split():
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise InputError(
                f"cannot read PARAMS word {word!r}; write name=value or "
                "chapter:name=value, words separated by spaces"
            )
        chapter, colon, name = name.rpartition(":")
        chapter = match_chapter(chapter, accepted) if colon else None
        _check_name(name, chapter, accepted)
        layers.append((chapter, name, yaml.safe_load(value or "''")))
    return layers


def match_chapter(text: str, chapters) -> str:
    """A chapter by its name or number (``05`` or ``5``)."""
    for name in chapters:
        number = name.split("-")[0]
        if text in (name, number, number.lstrip("0")):
            return name
    raise unknown("chapter", text, chapters)


def _check_name(name: str, chapter: str | None, accepted: dict) -> None:
    among = [chapter] if chapter else accepted
    known = sorted({n for c in among for n in accepted[c]} - {"profile"})
    if name not in known:
        where = f" of {chapter}" if chapter else ""
        raise unknown(f"parameter{where}", name, known)


def _parameter(node: ast.AnnAssign, comment: str) -> Parameter:
    kind = TYPES[node.annotation.id]
    default = kind(ast.literal_eval(node.value))
    low = high = None
    choices: tuple[str, ...] = ()
    if found := RANGE.search(comment):
        low, high = float(found[1]), float(found[2])
    elif found := CHOICES.search(comment):
        choices = tuple(word.strip() for word in found[1].split(","))
    text = RANGE.sub("", CHOICES.sub("", comment)).strip()
    return Parameter(node.target.id, kind, default, text, low, high, choices)


def _coerce(value: object, kind: type) -> object:
    """``value`` as ``kind`` where nothing is lost, else None."""
    if kind in (int, float) and not isinstance(value, bool):
        try:  # YAML 1.1 reads 1e6 as a string
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return None
        if kind is float:
            return number
        return int(number) if number == int(number) else None
    if kind is list and isinstance(value, str):
        value = [yaml.safe_load(part) for part in value.split(",")]
    return value if isinstance(value, kind) else None


def _a(kind: type) -> str:
    return {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        list: "a list such as 1,2,3",
    }[kind]
