"""What training costs: arithmetic, measurements, and the two together."""

from helpers.compute.costs import Plan, Shape, bill
from helpers.compute.measured import (
    Device,
    devices,
    hours_table,
    ledgers,
    memory_table,
    missing,
    readable,
    recorded,
    runs_table,
    scaling,
    shown,
    work,
    work_table,
)
from helpers.compute.plans import (
    cards,
    expansion_that_fills,
    find_card,
    models_table,
    operations,
    plan_of,
    poster,
    poster_ledger,
    profiles_table,
    shapes,
)

__all__ = [
    "Device", "Plan", "Shape", "bill", "cards", "devices",
    "expansion_that_fills", "find_card", "hours_table", "ledgers",
    "memory_table", "missing", "models_table", "operations", "plan_of",
    "poster", "poster_ledger", "profiles_table", "readable", "recorded",
    "runs_table", "scaling", "shapes", "shown", "work", "work_table",
]  # fmt: skip
