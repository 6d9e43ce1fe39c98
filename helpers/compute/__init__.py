"""What training costs: arithmetic, measurements, and the two together."""

from helpers.compute.costs import Plan, Shape, bill
from helpers.compute.measured import (
    Device,
    devices,
    hours_table,
    memory_table,
    recorded,
    scaling,
    work,
)
from helpers.compute.plans import (
    cards,
    models_table,
    plan_of,
    poster,
    poster_ledger,
    profiles_table,
    shapes,
)

__all__ = [
    "Device", "Plan", "Shape", "bill", "cards", "devices", "hours_table",
    "memory_table", "models_table", "plan_of", "poster", "poster_ledger",
    "profiles_table", "recorded", "scaling", "shapes", "work",
]  # fmt: skip
