"""Where every artifact of a run lives, as a function of the profile.

Each artifact is a folder (see ``helpers.artifacts``). Nothing else in the
project spells out one of these paths.
"""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
PROFILES = NOTEBOOKS / "profiles"
BOOK = ROOT / "book"
PUBLISHED = BOOK / "chapters"


def artifacts_root() -> Path:
    """The folder of all runs: ``artifacts/``, or $BOOK_ARTIFACTS if set."""
    return Path(os.environ.get("BOOK_ARTIFACTS", ROOT / "artifacts"))


def artifacts(profile: str) -> Path:
    """The folder of one profile's run."""
    return artifacts_root() / profile


def chapters(profile: str) -> Path:
    """Executed chapters of a run."""
    return artifacts(profile) / "chapters"


def build(profile: str) -> Path:
    """Where the book of a run is built; the pages are in ``html/``."""
    return ROOT / "_build" / profile


def results(profile: str) -> Path:
    """The published headline numbers of a profile, one JSON file."""
    return BOOK / "results" / f"{profile}.json"


def corpus(profile: str, name: str) -> Path:
    """A synthetic labelled corpus."""
    return artifacts(profile) / "corpora" / name


def replies() -> Path:
    """What language models were asked and answered, in all profiles."""
    return artifacts_root() / "replies.sqlite"


def natural_text(profile: str) -> Path:
    """Natural text: documents read from the environment or named by user."""
    return artifacts(profile) / "natural_text"


def tokenizer(profile: str) -> Path:
    """The byte-level BPE trained on the mix."""
    return artifacts(profile) / "tokenizer"


def tokens(profile: str) -> Path:
    """Token streams of the mix: training and held-out."""
    return artifacts(profile) / "tokens"


def language_model(profile: str, name: str) -> Path:
    """A trained transformer: ``A``, ``B``, ``four-layer``, ..."""
    return artifacts(profile) / "language_models" / name


def sae(profile: str, name: str) -> Path:
    """A trained sparse autoencoder, such as ``topk-8x``."""
    return artifacts(profile) / "saes" / name


def checkpoints(profile: str, name: str) -> Path:
    """Checkpoints and metrics of an SAE that is not trained to the end."""
    return artifacts(profile) / "checkpoints" / name


def tensorboard(profile: str, name: str) -> Path:
    """The training metrics of an SAE for TensorBoard, where installed."""
    return artifacts(profile) / "tensorboard" / name


def activations(profile: str) -> Path:
    """Activations kept on disk, where that was asked for."""
    return artifacts(profile) / "activations"


def feature_table(profile: str, sae_name: str, corpus_name: str) -> Path:
    """Sparse activations of one SAE on one corpus."""
    return artifacts(profile) / "features" / f"{sae_name}--{corpus_name}"


def quality(profile: str, sae_name: str) -> Path:
    """Quality measurements of one SAE."""
    return artifacts(profile) / "quality" / sae_name


def superposition(profile: str, name: str) -> Path:
    """Trained toy models, or what was made from them."""
    return artifacts(profile) / "superposition" / name
