"""The sending side: within the budget, a few at a time, each reply kept.

Retries are the client's own (408, 409, 429, 5xx, time-outs and cut
connections, with growing waits or the server's Retry-After up to two
minutes). ``chat.completions.parse`` is not used: on a reply that does not
parse it raises and drops the text and the usage, which were paid for.
"""

import asyncio
import functools
import ipaddress
import json
import os
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx2
import openai

from helpers.chat.prices import prices_of
from helpers.chat.questions import Request, Service
from helpers.chat.store import Store
from helpers.errors import InputError
from helpers.progress import Progress, track

HANDFUL = 5  # requests in a row without an answer before giving up
NO_KEY = "no-key-needed"  # the client sends some key
RETRIED = (408, 409, 429)  # and 5xx: what the client retries
ROUNDING = 1e-9  # USD, that sums of costs may be off by


class Stop(Exception):
    """Why asking cannot go on. ``patient``: wait for what is in flight."""

    def __init__(self, reason: str, patient: bool, advice: str):
        super().__init__(reason)
        self.patient, self.advice = patient, advice


def arguments(service: Service, request: Request) -> dict:
    """What ``chat.completions.create`` is called with.

    ``max_tokens`` and not ``max_completion_tokens``, which fewer
    compatible servers know: one that ignores it could outspend the budget.
    """
    schema = {
        "name": "reply",
        "schema": _strict_schema(request.schema),
        "strict": True,
    }
    return {
        "model": service.model,
        "messages": list(request.messages),
        "response_format": {"type": "json_schema", "json_schema": schema},
        "temperature": service.temperature,
        "max_tokens": service.max_tokens,
        "seed": request.seed,
    }


def size(service: Service, request: Request) -> int:
    """UTF-8 bytes of a request: no token has less than one."""
    text = json.dumps(arguments(service, request), ensure_ascii=False)
    return len(text.encode())


def collect(
    service: Service, waiting: dict[str, Request], store: Store, stored: int
) -> None:
    """Ask what is ``waiting``, by key, and put each reply in the store.

    ``stored`` counts the replies that are there already, for messages.
    Requests that got no answer are left out. Raises InputError, with what
    is stored, if it had to stop before the end.
    """
    base_url = service.base_url or os.environ.get("OPENAI_BASE_URL")
    api_key = _api_key(base_url)
    with track(f"asking {service.model}", len(waiting)) as progress:
        session = Session(service, store, api_key, progress)
        stop = _in_own_loop(session.run(base_url, waiting))
    if stop:
        total = stored + len(waiting)
        raise InputError(
            f"{stop}; {stored + session.kept} of {total} replies are stored, "
            f"{stop.advice}"
        )


class Session:
    """One run through the waiting requests and what it has cost so far."""

    def __init__(
        self, service: Service, store: Store, api_key: str, progress: Progress
    ):
        self.service, self.store = service, store
        self.prices, self.progress = prices_of(service), progress
        self.kept = self.failures = 0
        self.spent = 0.0  # USD
        self._api_key, self._client = api_key, None
        self._reserved: dict[str, float] = {}  # USD, of requests in flight

    async def run(
        self, base_url: str | None, waiting: dict[str, Request]
    ) -> Stop | None:
        """Ask everything; returns why not, if it had to stop."""
        self._client = openai.AsyncOpenAI(
            api_key=self._api_key,
            base_url=base_url,
            max_retries=self.service.retries,
            timeout=self.service.timeout,
            http_client=_Transport(self, trust_env=not _is_local(base_url)),
        )
        running: set[asyncio.Task] = set()
        async with self._client:
            try:
                await self._send_all(waiting, running)
            except Stop as stop:
                if stop.patient and running:
                    await asyncio.wait(running, timeout=self.service.timeout)
                return stop
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)

    def lose(self, size: int) -> None:
        """Count a try that was sent and brought nothing as billed in full.

        Raises Stop if the budget does not allow another.
        """
        self.spent += self.prices.cost(size, self.service.max_tokens)
        self._require(0)

    async def _send_all(self, waiting, running: set) -> None:
        for name, request in waiting.items():
            most = self._at_most(request)
            while running and not (
                len(running) < self.service.concurrency and self._fits(most)
            ):
                await _land(running)
            self._require(most)
            self._reserved[name] = most
            running.add(asyncio.create_task(self._send(name, request)))
        while running:
            await _land(running)

    async def _send(self, name: str, request: Request) -> None:
        failure = raw = None
        try:
            completion = await self._client.chat.completions.create(
                **arguments(self.service, request)
            )
            raw = self._raw(request, completion)
        except (openai.OpenAIError, ValueError) as error:
            failure = error
        finally:
            del self._reserved[name]
        # Not inside the handler: its error may hold what the server said of
        # the key, and would travel along as the context of what is raised.
        if failure is not None:
            self._fail(failure)
        else:
            self._keep(name, raw)

    def _raw(self, request: Request, completion: object) -> dict:
        """A completion as it is kept. ValueError if it is none."""
        try:
            choice = completion.choices[0]
            text = choice.message.content or ""
            refusal = choice.message.refusal or ""
        except (AttributeError, IndexError, TypeError):
            raise ValueError from None
        if usage := completion.usage:
            tokens = usage.prompt_tokens, usage.completion_tokens
        else:  # what it can have been at most
            tokens = size(self.service, request), self.service.max_tokens
        return {
            "text": text,
            "refusal": refusal,
            "finish": choice.finish_reason,
            "model": completion.model,
            "prompt_tokens": tokens[0],
            "completion_tokens": tokens[1],
            "cost": self.prices.cost(*tokens),
        }

    def _keep(self, name: str, raw: dict) -> None:
        self.store.put(name, raw)
        self.kept, self.failures = self.kept + 1, 0
        self.spent += raw["cost"]
        self.progress.update(note=f"{self.spent:.4f} USD")

    def _fail(self, error: Exception) -> None:
        """Leave the request out, or Stop if others would fare no better."""
        self.failures += 1
        self.progress.update(note="no answer")
        said, again = self._say(error), "run again to go on"
        code = getattr(error, "status_code", 500)
        if code < 500 and code not in RETRIED:
            raise Stop(f"the server refused a request ({said})", True, again)
        if self.failures >= HANDFUL:
            raise Stop(
                f"{HANDFUL} requests in a row got no answer ({said})",
                False,
                again,
            )

    def _say(self, error: Exception) -> str:
        """A failure in a few words, in which the key cannot stand."""
        if isinstance(error, openai.AuthenticationError):
            return "401: it wants a valid key in OPENAI_API_KEY"
        if isinstance(error, openai.APIStatusError):
            body = error.body
            said = body.get("message") if isinstance(body, dict) else body
            words = " ".join(str(said or "no reason given").split())
            hidden = words.replace(self._api_key, "[key]")
            return f"{error.status_code}: {hidden[:200]}"
        if isinstance(error, openai.APITimeoutError):
            return f"nothing came within {self.service.timeout:g} s"
        if isinstance(error, openai.APIConnectionError):
            return f"no connection to {self._client.base_url.host}, or cut"
        return "what came is no chat completion; check base_url"

    def _at_most(self, request: Request) -> float:
        """USD that one try can cost."""
        most = size(self.service, request), self.service.max_tokens
        return self.prices.cost(*most)

    def _fits(self, more: float) -> bool:
        total = self.spent + sum(self._reserved.values()) + more
        return total <= self.service.budget + ROUNDING

    def _require(self, more: float) -> None:
        if not self._fits(more):
            raise Stop(
                f"the budget of {self.service.budget:g} USD does not allow "
                f"another request ({self.spent:.6f} USD are spent)",
                True,
                "run again with a higher budget to go on",
            )


class _Transport(openai.DefaultAsyncHttpxClient):
    """Sends each try: bounds its whole time, and counts what is lost."""

    def __init__(self, session: Session, **options):
        super().__init__(**options)
        self._session = session

    async def send(self, request, **options):
        """The response, or what the client retries; see ``Session.lose``.

        httpx's own time-out starts afresh with every byte that arrives.
        """
        try:
            async with asyncio.timeout(self._session.service.timeout):
                return await super().send(request, **options)
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            raise  # nothing was sent
        except httpx2.TransportError:
            self._session.lose(len(request.content))
            raise
        except TimeoutError:
            self._session.lose(len(request.content))
            raise httpx2.ReadTimeout("too slow", request=request) from None


@functools.lru_cache(maxsize=64)
def _strict_schema(schema: type) -> dict:
    """The JSON schema as strict structured outputs want it."""
    return openai.pydantic_function_tool(schema)["function"]["parameters"]


async def _land(running: set[asyncio.Task]) -> None:
    """Wait until one is done; raises what it raised."""
    done, _ = await asyncio.wait(
        running, return_when=asyncio.FIRST_COMPLETED
    )
    for task in done:
        task.result()
    running -= done


def _in_own_loop(coroutine):
    """Run a coroutine in a loop and thread of its own, and wait for it.

    Ctrl-C reaches the main thread alone, so it is handed on as a cancel.
    """
    loop = asyncio.new_event_loop()
    task = loop.create_task(coroutine)
    try:
        with ThreadPoolExecutor(1) as pool:
            try:
                return pool.submit(loop.run_until_complete, task).result()
            except BaseException:
                loop.call_soon_threadsafe(task.cancel)
                raise
    finally:
        loop.close()


def _api_key(base_url: str | None) -> str:
    """The key from the environment; a placeholder for a named server."""
    if found := os.environ.get("OPENAI_API_KEY", "").strip():
        return found
    if base_url:
        return NO_KEY
    raise InputError(
        "there is no key to ask a model with; set OPENAI_API_KEY, or base_url "
        "to a server that needs none (the grammar and a cassette need "
        "neither)"
    )


def _is_local(base_url: str | None) -> bool:
    """Whether a server is on this machine, where no proxy is wanted."""
    host = urlsplit(base_url or "").hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
