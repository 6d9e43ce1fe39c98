"""What tokens cost."""

from pathlib import Path
from typing import NamedTuple

import yaml

from helpers.chat.questions import Service
from helpers.errors import InputError, unknown

TABLE = Path(__file__).with_name("prices.yaml")


class Prices(NamedTuple):
    """USD per million tokens."""

    prompt: float
    completion: float

    def cost(self, prompt: float, completion: float) -> float:
        """USD for so many prompt and completion tokens."""
        return (prompt * self.prompt + completion * self.completion) / 1e6


def prices_of(service: Service) -> Prices:
    """The prices given with a service, else those in ``prices.yaml``.

    Raises InputError for a model that has none.
    """
    if service.prices is not None:
        return Prices(*service.prices)
    table = yaml.safe_load(TABLE.read_text())["models"]
    if service.model not in table:
        raise InputError(
            f"{unknown('model in prices.yaml', service.model, table)}; for "
            "another, give prices=(in, out) in USD per million tokens, "
            "(0, 0) for a server of your own"
        )
    return Prices(*table[service.model])
