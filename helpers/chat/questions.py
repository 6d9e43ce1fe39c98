"""What is asked of whom, and the key a reply is kept under."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from helpers import artifacts
from helpers.errors import InputError

if TYPE_CHECKING:
    import pydantic


@dataclass(frozen=True)
class Request:
    """One question: chat messages, and what the reply must parse as.

    Each message is {"role": ..., "content": ...}. ``seed`` is the sampling
    seed that is sent; another seed is another request.
    """

    messages: tuple[dict, ...]
    schema: type[pydantic.BaseModel]
    seed: int = 0


@dataclass(frozen=True)
class Service:
    """A model behind an OpenAI-compatible server, and how it may be used.

    Raises InputError for a number out of its range.
    """

    model: str
    base_url: str | None = None  # None: the client's default
    temperature: float = 1.0
    max_tokens: int = 2000  # of a reply
    concurrency: int = 8  # requests in flight at once
    retries: int = 6
    timeout: float = 60.0  # seconds per try
    budget: float = 1.0  # USD, a hard limit for what one ``ask`` may spend
    # USD per million prompt and completion tokens; None: prices.yaml
    prices: tuple[float, float] | None = None

    def __post_init__(self):
        for name, low in (
            ("temperature", 0),
            ("max_tokens", 1),
            ("concurrency", 1),
            ("retries", 0),
            ("timeout", 0.001),
            ("budget", 0),
        ):
            value = getattr(self, name)
            if not value >= low:  # also refuses nan
                raise InputError(f"{name} is {value}; it is at least {low}")
        if self.prices and not min(self.prices) >= 0:
            raise InputError(f"prices are {self.prices}; none is below 0")


def key(service: Service, request: Request) -> str:
    """sha256 (hex) of all that decides a reply.

    Model, messages, JSON schema, temperature, max_tokens and seed; neither
    the server's address nor the API key.
    """
    return artifacts.hash_of(
        {
            "model": service.model,
            "messages": request.messages,
            "schema": _schema_text(request.schema),
            "temperature": float(service.temperature),
            "max_tokens": service.max_tokens,
            "seed": request.seed,
        }
    )


@functools.lru_cache(maxsize=64)
def _schema_text(schema: type[pydantic.BaseModel]) -> str:
    """The JSON schema as text: the order of its fields counts."""
    return json.dumps(schema.model_json_schema())
