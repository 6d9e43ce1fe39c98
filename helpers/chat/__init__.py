"""Structured questions to an OpenAI-compatible model, asked once and kept.

``ask`` sends what no store has an answer to, within a budget, and keeps
every reply that was paid for the moment it arrives; a rerun asks only what
is left. A ``Cassette`` replays an exported store without key or network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from helpers.chat.prices import prices_of
from helpers.chat.questions import Request, Service, key
from helpers.chat.store import Cassette, Store

__all__ = [
    "Cassette", "Estimate", "Reply", "Request", "Service", "Store",
    "ask", "estimate", "key",
]
BYTES_PER_TOKEN = 4  # about, for English; only the expected cost uses it


@dataclass(frozen=True)
class Reply:
    """What came of one request.

    ``problem`` is "" if ``parsed`` holds an instance of the schema; else
    "refusal", "invalid" (no JSON, or not of the schema), "cut off" (by the
    token limit or a content filter) or "failed" (no answer after every
    retry; not kept, so the next ``ask`` tries it again). ``cost`` is USD,
    paid when it was asked; ``stored`` says that nothing was paid now.
    """

    key: str
    parsed: object | None
    problem: str
    text: str  # as it came: content or refusal
    prompt_tokens: int
    completion_tokens: int
    cost: float
    stored: bool


@dataclass(frozen=True)
class Estimate:
    """What ``ask`` would send; ``stored`` and ``to_ask`` count each once.

    ``expected`` takes four bytes for a prompt token and, for a completion,
    the mean of the stored ones (half of ``max_tokens`` if there is none).
    ``at_most`` bounds the cost, in USD, as long as no try is lost: a service
    may bill a try that times out or is cut, and it is tried again.
    """

    requests: int
    stored: int
    to_ask: int
    expected: float
    at_most: float


def estimate(
    service: Service, requests: Sequence[Request], store: Store | Cassette
) -> Estimate:
    """The cost of ``ask`` with the same arguments; sends nothing.

    Raises InputError if something is to be asked of a model without price.
    """
    names = [key(service, request) for request in requests]
    found, waiting = _divide(names, requests, store)
    if not waiting:
        return Estimate(len(names), len(found), 0, 0.0, 0.0)
    from helpers.chat import client

    prices = prices_of(service)
    sizes = [client.size(service, r) for r in waiting.values()]
    known = [raw["completion_tokens"] for raw in found.values()]
    completion = mean(known) if known else service.max_tokens / 2
    prompts = sum(sizes) / BYTES_PER_TOKEN
    return Estimate(
        len(names),
        len(found),
        len(waiting),
        prices.cost(prompts, completion * len(waiting)),
        prices.cost(sum(sizes), service.max_tokens * len(waiting)),
    )


def ask(
    service: Service, requests: Sequence[Request], store: Store | Cassette
) -> list[Reply]:
    """One reply for each request, in their order.

    Only what the store lacks is sent, equal requests once, at most
    ``service.concurrency`` at a time; each reply is committed as it
    arrives. Works where an event loop is running already, as in Jupyter.

    Raises InputError, in one sentence, when the budget, a missing key or
    price, the server or a cassette's gap stops it; what came is stored.
    """
    names = [key(service, request) for request in requests]
    found, waiting = _divide(names, requests, store)
    if waiting:
        if isinstance(store, Cassette):
            first = names.index(next(iter(waiting)))
            raise store.lacks(first + 1, len(names))
        from helpers.chat import client  # imports openai, which is slow

        client.collect(service, waiting, store, len(found))
    replies = []
    for name, request in zip(names, requests, strict=True):
        raw = found.get(name) or store.get(name)
        replies.append(_reply(name, request, raw, name in found))
        if raw:
            found[name] = raw  # a repetition costs nothing more
    return replies


def _divide(names, requests, store) -> tuple[dict, dict]:
    """Distinct requests by key: stored replies, and what is to be asked."""
    distinct = dict(zip(names, requests, strict=True))
    found = {name: store.get(name) for name in distinct}
    waiting = {name: distinct[name] for name in found if not found[name]}
    return {name: raw for name, raw in found.items() if raw}, waiting


def _reply(name: str, request: Request, raw: dict | None, stored) -> Reply:
    if raw is None:
        return Reply(name, None, "failed", "", 0, 0, 0.0, False)
    parsed, problem = _read(request, raw)
    return Reply(
        name,
        parsed,
        problem,
        raw["refusal"] or raw["text"],
        raw["prompt_tokens"],
        raw["completion_tokens"],
        raw["cost"],
        stored,
    )


def _read(request: Request, raw: dict) -> tuple[object | None, str]:
    """The parsed reply and its problem, from what the server sent."""
    if raw["refusal"]:
        return None, "refusal"
    if raw["finish"] in ("length", "content_filter"):
        return None, "cut off"
    try:
        return request.schema.model_validate_json(raw["text"]), ""
    except ValueError:  # pydantic's error is one, and so is bad Unicode
        return None, "invalid"
