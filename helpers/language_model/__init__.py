"""The specimens: small transformers, trained here and read everywhere.

``transformer`` holds the fast forward pass and loss, ``training`` the loop,
``models`` what is saved, loaded and made as a control, ``evaluation`` the
held-out losses. Code whose artifacts should not depend on all of them
imports from the one it needs.
"""

from helpers.language_model.evaluation import (
    ablation_losses,
    document_losses,
    hooked_predictor,
    losses_by_class,
    predictor,
    random_span_losses,
    table_of_losses,
)
from helpers.language_model.models import (
    CONTROLS,
    hook_point,
    load_language_model,
    load_weights,
    make_control,
    written,
)
from helpers.language_model.training import (
    load_learning,
    make_language_model,
)
from helpers.language_model.transformer import (
    Architecture,
    initial_weights,
    loss,
    token_losses,
)

__all__ = [
    "CONTROLS",
    "Architecture",
    "ablation_losses",
    "document_losses",
    "hook_point",
    "hooked_predictor",
    "initial_weights",
    "load_language_model",
    "load_learning",
    "load_weights",
    "loss",
    "losses_by_class",
    "make_control",
    "make_language_model",
    "predictor",
    "random_span_losses",
    "table_of_losses",
    "token_losses",
    "written",
]
