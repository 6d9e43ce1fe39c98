"""Where SAELens says that published SAEs are."""

import functools
import importlib.util
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import yaml

from helpers.errors import InputError

# The files of an SAE in its folder, by the name of SAELens' conversion.
FORMATS = {
    "sae_lens": ("cfg.json", "sae_weights.safetensors"),
    "gemma_2": ("params.npz",),
    "gemma_3": ("config.json", "params.safetensors"),
}


@dataclass(frozen=True)
class Place:
    """Where an SAE's files are."""

    repository: str
    folder: str
    format: str

    @property
    def paths(self) -> tuple[str, ...]:
        """The files, by their paths in the repository."""
        return tuple(f"{self.folder}/{n}" for n in FORMATS[self.format])


def locate(release: str, sae_id: str) -> Place:
    """Where SAELens says that an SAE is; InputError if it does not."""
    known = _directory()
    if release not in known:
        if "/" in release:
            return Place(release, sae_id, "sae_lens")
        close = ", ".join(get_close_matches(release, known, n=4, cutoff=0))
        raise InputError(
            f"SAELens knows no release {release!r}; the nearest are {close}"
        )
    found = known[release]
    ids = {sae["id"]: str(sae["path"]) for sae in found["saes"]}
    if sae_id not in ids:
        close = get_close_matches(sae_id, ids, n=4, cutoff=0)
        raise InputError(
            f"the release {release} has no SAE {sae_id!r}; the nearest are "
            f"{', '.join(close)}"
        )
    kind = found.get("conversion_func") or "sae_lens"
    if kind not in FORMATS:
        raise InputError(
            f"the release {release} has the format {kind!r}, which is not "
            f"read here; accepted: {', '.join(FORMATS)}"
        )
    return Place(found["repo_id"], ids[sae_id], kind)


def release_ids(release: str) -> list[str]:
    """The SAEs of a release that SAELens knows."""
    return [sae["id"] for sae in _directory()[release]["saes"]]


@functools.cache
def _directory() -> dict:
    """SAELens' table of releases, without the seconds that importing all of
    SAELens takes."""
    package = importlib.util.find_spec("sae_lens")
    file = Path(package.origin).with_name("pretrained_saes.yaml")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(file.read_text(), loader)
