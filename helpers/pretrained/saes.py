"""Published SAEs, each bound to its model and its hook point.

SAELens knows where they are and reads their formats; the files come through
``hub``, so that what is in the cache needs no network. An SAE applied
elsewhere than where it was trained runs without an error and means nothing,
so ``check`` comes first.
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from helpers.errors import InputError
from helpers.pretrained import hub
from helpers.pretrained.models import Pretrained, first_line, same_model
from helpers.pretrained.releases import FORMATS, Place, locate
from helpers.progress import track
from helpers.sae.base import SAE
from helpers.sae.interchange import from_sae_lens

OPTIONAL = "/config.json"  # without it SAELens goes by the name
CENTER = "center_writing_weights"


@dataclasses.dataclass(frozen=True)
class PublishedSAE:
    """An SAE and what it was trained on."""

    release: str
    sae_id: str
    sae: SAE  # for inference: no gradients
    model_name: str
    center_writing_weights: bool  # how that model must be loaded

    @property
    def hook_point(self) -> str:
        """Where it reads."""
        return self.sae.hook_point

    def check(self, pretrained: Pretrained, hook_point: str = "") -> None:
        """Raise InputError unless it belongs to this model, loaded this way
        (and to ``hook_point``, if one is given)."""
        from helpers.activations import width

        name = str(pretrained.name)
        self._check_model(name)
        pretrained.check_hook_point(hook_point or self.hook_point)
        self.check_names(name, pretrained.center_writing_weights, hook_point)
        found = width(pretrained.model, self.hook_point)
        if found != self.sae.d_in:
            raise InputError(
                f"{self.name} reads {self.sae.d_in} numbers a token, "
                f"{name} has {found} at {self.hook_point}"
            )

    def check_names(
        self, model: str, center_writing_weights: bool, hook_point: str = ""
    ) -> None:
        """The same by names alone, without the model: of what was trained
        on another one, at another place, or of one loaded otherwise."""
        self._check_model(model)
        if hook_point:
            self.sae.check_hook_point(hook_point)
        if self.center_writing_weights != center_writing_weights:
            raise InputError(
                f"{self.name} needs {model} loaded with "
                f"{CENTER}={self.center_writing_weights}, not "
                f"{center_writing_weights}"
            )

    @property
    def name(self) -> str:
        """As it is spoken of."""
        return f"the SAE {self.release}/{self.sae_id}"

    def _check_model(self, model: str) -> None:
        if not same_model(self.model_name, model):
            raise InputError(
                f"{self.name} was trained on {self.model_name} and means "
                f"nothing on {model}; load that model (a folder must carry "
                "its name)"
            )


def load_sae(release: str, sae_id: str) -> PublishedSAE:
    """An SAE by SAELens' names for its release and itself.

    ``release`` may also be a repository in SAELens' format, ``sae_id`` the
    folder in it. What is not in the cache is downloaded. Raises InputError
    for a name that SAELens does not know (naming the nearest), a format
    that is not read here, or files that cannot be had.
    """
    from sae_lens import SAE as Theirs

    place = locate(release, sae_id)
    folder = _find(place)
    with _local(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it speaks of what check() checks
        try:
            found = Theirs.from_pretrained(
                release, sae_id, device="cpu", converter=_converter(place)
            )
        except (ValueError, KeyError, OSError, RuntimeError) as error:
            raise InputError(
                f"the files of {release}/{sae_id} in {folder} cannot be read "
                f"({first_line(error)}); `make fetch` finds damaged ones"
            ) from error
    details = found.cfg.metadata
    return PublishedSAE(
        release, sae_id, from_sae_lens(found), details.model_name,
        _is_centred(details.model_from_pretrained_kwargs or {}, release),
    )  # fmt: skip


def _find(place: Place) -> Path:
    """The snapshot that holds the files, downloaded if need be."""
    found = hub.snapshot(place.repository)
    needed = [p for p in place.paths if not p.endswith(OPTIONAL)]
    if found and all((found / path).exists() for path in needed):
        return found
    wanted = hub.listing(place.repository, place.paths)
    if place.paths[-1] not in [file.path for file in wanted.files]:
        raise InputError(
            f"{place.repository} has no {place.paths[-1]}; an SAE is a "
            f"folder with {' and '.join(FORMATS[place.format])}"
        )
    with track(f"downloading {place.folder}", wanted.size) as bar:
        return hub.download(wanted, bar.update)


def _is_centred(processing: dict, release: str) -> bool:
    other = sorted(set(processing) - {CENTER})
    if other:
        raise InputError(
            f"the SAEs of {release} need their model loaded with "
            f"{', '.join(other)}, which is not supported"
        )
    return bool(processing.get(CENTER, False))


def _converter(place: Place):
    """SAELens' reader of a format, which takes the shape from the weights."""
    from sae_lens.loading.pretrained_sae_loaders import (
        NAMED_PRETRAINED_SAE_LOADERS,
    )

    def read(**how):
        found = NAMED_PRETRAINED_SAE_LOADERS[place.format](**how)
        shape = found[1]["W_enc"].shape
        found[0]["d_in"], found[0]["d_sae"] = shape
        return found

    return read


@contextlib.contextmanager
def _local(folder: Path) -> Iterator[None]:
    """SAELens reads from a folder what it would ask the hub for."""
    from huggingface_hub.errors import EntryNotFoundError
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from safetensors import safe_open

    def local(repo_id, filename, subfolder="", **_):
        path = folder / subfolder / filename
        if not path.exists():
            raise EntryNotFoundError(str(path))
        return str(path)

    def shapes(repo_id, filename):
        with safe_open(folder / filename, "pt") as file:
            return {n: file.get_slice(n).get_shape() for n in file.keys()}

    with mock.patch.multiple(
        loaders, hf_hub_download=local, get_safetensors_tensor_shapes=shapes
    ):
        yield
