"""Questions to a model: the real client against a real, scripted server."""

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import traceback

import pydantic
import pytest

from helpers import paths
from helpers.chat import Cassette, Request, Service, Store, ask, estimate, key
from helpers.chat.prices import prices_of
from helpers.errors import InputError
from tests.chat_server import (
    ChatServer,
    cut,
    drip,
    hang,
    page,
    raw,
    refusal,
    reply,
    status,
)

SECRET = "sk-secret-0123456789"
FREE = Service("test-model", prices=(0, 0), timeout=5, retries=2)


class Note(pydantic.BaseModel):
    """A short text."""

    text: str
    mood: str = "plain"


def request(number: int | str, schema=Note) -> Request:
    return Request(({"role": "user", "content": str(number)},), schema)


def requests(count: int) -> list[Request]:
    return [request(number) for number in range(count)]


def echo(body: dict, attempt: int):
    return reply({"text": body["messages"][-1]["content"], "mood": "calm"})


def script(*actions):
    """One action per attempt; the last one stays."""
    return lambda body, attempt: actions[min(attempt, len(actions)) - 1]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No key, and a proxy that nobody answers at."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "replies.sqlite")


def at(server: ChatServer, service: Service = FREE, **changes) -> Service:
    return dataclasses.replace(service, base_url=server.url, **changes)


def one(answer, store, **changes):
    """The reply to one request, and the server."""
    with ChatServer(answer) as server:
        [found] = ask(at(server, **changes), [request("x")], store)
    return found, server


def test_success_in_order_kept_and_not_asked_again(store):
    slow_first = [0.2, 0.0, 0.1]

    def answer(body, attempt):
        number = int(body["messages"][-1]["content"])
        return reply({"text": str(number)}, after=slow_first[number])

    with ChatServer(answer) as server:
        service = at(server, prices=(1, 2))
        first = ask(service, requests(3), store)
        again = ask(service, requests(3), store)
    assert [r.parsed.text for r in first] == ["0", "1", "2"]
    assert [r.key for r in first] == [key(service, q) for q in requests(3)]
    assert not any(r.stored or r.problem for r in first)
    assert again == [dataclasses.replace(r, stored=True) for r in first]
    assert len(server.requests) == len(store) == 3
    tokens = first[0].prompt_tokens, first[0].completion_tokens
    assert first[0].cost == (tokens[0] + 2 * tokens[1]) / 1e6 > 0


def test_what_is_sent(store):
    class Pair(pydantic.BaseModel):
        one: Note
        two: Note | None = None

    with ChatServer(script(reply({"one": {"text": "a"}, "two": None}))) as s:
        service = at(s, temperature=0.5, max_tokens=7)
        asked = dataclasses.replace(request("x", Pair), seed=3)
        [found] = ask(service, [asked], store)
    body = s.requests[0].body
    assert found.parsed == Pair(one=Note(text="a"))
    assert (body["model"], body["seed"]) == ("test-model", 3)
    assert (body["temperature"], body["max_tokens"]) == (0.5, 7)
    assert body["messages"] == [{"role": "user", "content": "x"}]
    form = body["response_format"]["json_schema"]
    assert form["strict"] and form["schema"]["required"] == ["one", "two"]
    assert form["schema"]["$defs"]["Note"]["additionalProperties"] is False
    assert s.requests[0].authorization == "Bearer no-key-needed"


def test_retry_after_is_honoured(store):
    wait = status(429, headers={"retry-after": "1.2"})
    found, server = one(script(wait, reply({"text": "x"})), store)
    assert found.parsed.text == "x"
    early, late = [seen.time for seen in server.requests]
    assert late - early >= 1.2  # the client's own first wait is 0.5 s


@pytest.mark.parametrize(
    "first", [status(500), hang(), drip(), cut()],
    ids=["500", "timeout", "trickle", "cut"],
)
def test_a_bad_try_is_retried(store, first):
    found, server = one(script(first, reply({"text": "x"})), store,
                        timeout=0.5)
    assert found.parsed.text == "x"
    early, late = server.requests
    assert (early.attempt, late.attempt) == (1, 2)
    assert late.time - early.time < 5  # not when the trickle ends


@pytest.mark.parametrize(
    ("action", "problem", "text"),
    [
        (refusal("I would rather not"), "refusal", "I would rather not"),
        (reply("Sure! Here it is"), "invalid", "Sure! Here it is"),
        (reply('{"mood": "calm"}'), "invalid", '{"mood": "calm"}'),
        (reply("\ud800"), "invalid", "\ud800"),
        (reply('{"text": "a"', finish="length"), "cut off", '{"text": "a"'),
        (reply("", finish="content_filter"), "cut off", ""),
    ],
)
def test_a_reply_with_a_problem_is_paid_once(store, action, problem, text):
    with ChatServer(lambda body, attempt: action) as server:
        service = at(server, prices=(1, 1))
        [first] = ask(service, [request("x")], store)
        [again] = ask(service, [request("x")], store)
    assert (first.problem, first.text) == (problem, text)
    assert first.parsed is None and first.cost > 0 and not first.stored
    assert again == dataclasses.replace(first, stored=True)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "action", [status(503), page("<p>hello</p>"), raw({"choices": []})]
)
def test_no_answer_is_failed_and_not_kept(store, action):
    def answer(body, attempt):
        last = body["messages"][-1]["content"] == "1"
        return action if last else echo(body, attempt)

    with ChatServer(answer) as server:
        service = at(server, retries=0)
        good, bad = ask(service, requests(2), store)
        assert (good.problem, bad.problem, bad.cost) == ("", "failed", 0)
        server.answer = echo
        assert [r.problem for r in ask(service, requests(2), store)] == ["",
                                                                         ""]
    assert [seen.user for seen in server.requests[2:]] == ["1"]


def test_without_usage_the_most_is_counted(store):
    choice = {"message": {"content": '{"text": "x"}'}, "finish_reason": "stop"}
    found, _ = one(script(raw({"choices": [choice]})), store,
                   prices=(0, 1e6), budget=2000, max_tokens=2000)
    assert (found.parsed.text, found.cost) == ("x", 2000)


def test_a_server_that_is_down_stops_everything(store):
    with ChatServer(echo) as server:
        service = at(server, retries=0)
        ask(service, requests(2), store)
    with pytest.raises(InputError, match="5 requests in a row got no answer "
                       r"\(no connection to 127.0.0.1, or cut\); 2 of 30 "
                       "replies are stored, run again to go on$"):
        ask(service, requests(30), store)


def test_failures_between_answers_do_not_stop(store):
    def answer(body, attempt):
        odd = int(body["messages"][-1]["content"]) % 2
        return status(500) if odd else echo(body, attempt)

    with ChatServer(answer) as server:
        service = at(server, retries=0, concurrency=1)
        found = ask(service, requests(20), store)
    assert [r.problem for r in found] == ["", "failed"] * 10


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (401, "401: it wants a valid key in OPENAI_API_KEY"),
        (403, "403: the key [key] has no rights"),
        (404, "404: the key [key] has no rights"),
        (400, "400: the key [key] has no rights"),
    ],
)
def test_what_no_retry_mends_stops_at_once(
    store, monkeypatch, tmp_path, capfd, code, said
):
    """And the key stays out of all that is said and written."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)

    def answer(body, attempt):
        if body["messages"][-1]["content"] in "012":
            return echo(body, attempt)
        return status(code, f"the key {SECRET} has no rights")

    with ChatServer(answer) as server:
        service = at(server, concurrency=1)
        with pytest.raises(InputError) as caught:
            ask(service, requests(9), store)
    assert len(server.requests) == 4
    assert str(caught.value) == (
        f"the server refused a request ({said}); 3 of 9 replies are stored, "
        "run again to go on"
    )
    assert server.requests[0].authorization == f"Bearer {SECRET}"
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown + "".join(capfd.readouterr())
    assert caught.value.__context__ is caught.value.__cause__ is None
    store.export(tmp_path / "cassette.jsonl")
    for file in tmp_path.iterdir():
        assert SECRET.encode() not in file.read_bytes(), file


def test_in_flight_replies_are_kept_when_another_is_refused(store):
    def answer(body, attempt):
        if body["messages"][-1]["content"] == "0":
            return status(404, "unknown model")
        return reply({"text": "late"}, after=0.4)

    with ChatServer(answer) as server:
        with pytest.raises(InputError, match="unknown model.*; 3 of 9"):
            ask(at(server, concurrency=4), requests(9), store)
    assert len(server.requests) == 4 and len(store) == 3


def test_no_more_in_flight_than_asked_for(store):
    with ChatServer(lambda *_: reply({"text": "x"}, after=0.05)) as server:
        ask(at(server, concurrency=3), requests(20), store)
    assert server.most_at_once == 3


def test_equal_requests_are_asked_once(store):
    with ChatServer(echo) as server:
        service = at(server, prices=(1, 1))
        asked = [request(number) for number in (0, 1, 0, 0)]
        before = estimate(service, asked, store)
        found = ask(service, asked, store)
    assert (before.requests, before.stored, before.to_ask) == (4, 0, 2)
    assert [r.parsed.text for r in found] == ["0", "1", "0", "0"]
    assert [r.stored for r in found] == [False, False, True, True]
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "changes",
    [{"model": "other"}, {"temperature": 0.9}, {"max_tokens": 9}],
)
def test_key_has_what_decides_the_reply(changes):
    changed = dataclasses.replace(FREE, **changes)
    assert key(changed, request("x")) != key(FREE, request("x"))


def test_key_leaves_out_the_server_and_its_handling():
    handled = dataclasses.replace(
        FREE, base_url="http://a", temperature=1, concurrency=1, budget=9.0
    )
    assert key(handled, request("x")) == key(FREE, request("x"))


def test_key_has_messages_seed_and_schema_with_its_order():
    fields = {"text": (str, ""), "mood": (str, "")}
    one = pydantic.create_model("Note", **fields)
    two = pydantic.create_model("Note", **dict(reversed(fields.items())))
    seeded = dataclasses.replace(request("x"), seed=1)
    asked = [request("x"), request("y"), seeded, request("x", one),
             request("x", two)]
    assert len({key(FREE, q) for q in asked}) == len(asked)


# 1000 USD per million completion tokens: 0.1 USD for at most 100 tokens.
DEAR = dataclasses.replace(FREE, prices=(0, 1000), max_tokens=100)


def test_the_budget_is_never_exceeded_and_raising_it_goes_on(store):
    half = reply({"text": "x"}, usage=(9, 50), after=0.02)  # 0.05 USD
    with ChatServer(lambda *_: half) as server:
        low = at(server, DEAR, budget=0.32)
        with pytest.raises(InputError) as caught:
            ask(low, requests(12), store)
        assert str(caught.value) == (
            "the budget of 0.32 USD does not allow another request "
            "(0.250000 USD are spent); 5 of 12 replies are stored, run again "
            "with a higher budget to go on"
        )
        assert len(store) == len(server.requests) == 5
        assert server.most_at_once <= 3
        high = dataclasses.replace(low, budget=1.0)
        found = ask(high, requests(12), store)
    assert sum(r.stored for r in found) == 5
    assert sum(r.cost for r in found) == pytest.approx(12 * 0.05)
    assert [seen.attempt for seen in server.requests] == [1] * 12


def test_a_tight_budget_waits_for_what_is_in_flight(store):
    cheap = reply({"text": "x"}, usage=(9, 10), after=0.02)  # 0.01 USD
    with ChatServer(lambda *_: cheap) as server:
        found = ask(at(server, DEAR, budget=0.25), requests(12), store)
    assert not any(r.problem for r in found)
    assert server.most_at_once == 2


def test_a_lost_try_counts_as_billed(store):
    """A service may bill what it sent, though it never arrived."""
    with ChatServer(lambda *_: hang()) as server:
        service = at(server, DEAR, budget=0.25, timeout=0.2, retries=6)
        with pytest.raises(InputError, match="0.200000 USD are spent"):
            ask(service, [request("x")], store)
    assert len(server.requests) == 2


def test_nothing_is_sent_that_does_not_fit(store):
    with ChatServer(echo) as server:
        with pytest.raises(InputError, match="does not allow.*0 of 3 replies"):
            ask(at(server, DEAR, budget=0.09), requests(3), store)
    assert server.requests == []


def test_estimate_bounds_what_is_accounted(store):
    """Even if every byte is a token and every reply as long as it may be."""

    def answer(body, attempt):
        size = len(body["messages"][-1]["content"].encode())
        return reply({"text": "x"}, usage=(size, body["max_tokens"]))

    asked = [request("é" * 3000), request("\n\"" * 1000), request("x")]
    with ChatServer(answer) as server:
        service = at(server, prices=(5, 7), max_tokens=50)
        before = estimate(service, asked, store)
        assert before.to_ask == 3 and before.expected < before.at_most
        most = [estimate(service, [q], store).at_most for q in asked]
        exact = dataclasses.replace(service, budget=before.at_most)
        costs = [r.cost for r in ask(exact, asked, store)]
        after = estimate(service, [*asked, request("new")], store)
    assert all(0 < c <= m for c, m in zip(costs, most, strict=True))
    assert sum(costs) <= before.at_most < 2 * sum(costs)
    assert (after.stored, after.to_ask) == (3, 1)
    assert after.expected > 50 * 7 / 1e6  # now that replies are known


def test_a_model_without_a_price(store):
    service = Service("gpt-4o-mimi", base_url="http://127.0.0.1:9/v1")
    for does in (estimate, ask):
        with pytest.raises(InputError, match=r"mean 'gpt-4o-mini'\?.*"
                           r"give prices=\(in, out\)"):
            does(service, requests(1), store)
    assert prices_of(Service("gpt-4o-mini")).cost(1e6, 1e6) == 0.75


def test_without_a_key_or_a_server(store):
    service = dataclasses.replace(FREE, base_url=None)
    with pytest.raises(InputError, match="set OPENAI_API_KEY, or base_url"):
        ask(service, requests(1), store)
    with ChatServer(echo) as server:
        ask(at(server), requests(1), store)
    assert ask(service, requests(1), store)[0].stored


@pytest.mark.parametrize(
    "changes",
    [{"concurrency": 0}, {"budget": float("nan")}, {"prices": (1, -1)},
     {"max_tokens": 0}, {"timeout": 0}],
)
def test_a_service_out_of_range(changes):
    with pytest.raises(InputError, match=next(iter(changes))):
        dataclasses.replace(FREE, **changes)


ASKER = """
import sys
from pathlib import Path
from tests.test_chat import FREE, Store, ask, dataclasses, requests
service = dataclasses.replace(FREE, base_url=sys.argv[1], concurrency=2,
                              timeout=60)
ask(service, requests(12), Store(Path(sys.argv[2])))
"""


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_where_it_was(store, way):
    def answer(body, attempt):
        return echo(body, attempt) if len(server.requests) <= 6 else hang()

    with ChatServer(answer) as server:
        run = subprocess.Popen(
            [sys.executable, "-c", ASKER, server.url, str(store.path)],
            cwd=paths.ROOT, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        # Two are in flight at once: at the eighth, six have been kept.
        wait_until(lambda: len(server.requests) == 8, run)
        run.send_signal(way)
        said = run.communicate(timeout=10)[1]
        assert run.returncode != 0
        assert ("KeyboardInterrupt" in said) == (way == signal.SIGINT)
        before = {seen.user for seen in server.requests[:6]}
        assert len(store) == 6
        server.answer = echo
        found = ask(at(server), requests(12), store)
    after = [seen.user for seen in server.requests[8:]]
    assert len(after) == 6 and before.isdisjoint(after)
    assert [r.parsed.text for r in found] == [str(n) for n in range(12)]


def wait_until(holds, run: subprocess.Popen, seconds: float = 25.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert run.poll() is None, run.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.01)


def test_inside_a_running_event_loop(store):
    async def cell():
        return ask(at(server), requests(3), store)

    with ChatServer(echo) as server:
        found = asyncio.run(cell())
    assert [r.parsed.text for r in found] == ["0", "1", "2"]


def test_cassette_replays_without_key_or_server(store, tmp_path):
    with ChatServer(echo) as server:
        live = ask(at(server), requests(3), store)
    path = store.export(tmp_path / "notes.jsonl")
    elsewhere = dataclasses.replace(FREE, base_url=None, prices=None)
    cassette = Cassette(path)
    assert len(cassette) == 3
    replayed = ask(elsewhere, requests(3), cassette)
    assert replayed == [dataclasses.replace(r, stored=True) for r in live]
    assert estimate(elsewhere, requests(3), cassette).to_ask == 0
    with pytest.raises(InputError, match="the cassette notes.jsonl has no "
                       "reply to request 4 of 5"):
        ask(elsewhere, requests(5), cassette)


def test_equal_replies_give_equal_cassettes(tmp_path):
    written = []
    with ChatServer(echo) as server:
        for name, asked in (("a", requests(6)), ("b", requests(6)[::-1])):
            kept = Store(tmp_path / name)
            ask(at(server, concurrency=1), asked, kept)
            written.append(kept.export(tmp_path / f"{name}.jsonl"))
    one, two = [path.read_bytes() for path in written]
    assert one == two
    keys = [json.loads(line)["key"] for line in one.splitlines()]
    assert keys == sorted(keys) and len(keys) == 6


def test_files_that_are_none(tmp_path):
    text = tmp_path / "text"
    text.write_text("neither one nor the other\n" * 50)
    with pytest.raises(InputError, match="the store text cannot be used"):
        Store(text)
    with pytest.raises(InputError, match="line 1 of the cassette text"):
        Cassette(text)
    with pytest.raises(InputError, match="there is no cassette"):
        Cassette(tmp_path / "gone")


def test_a_full_disk_is_one_sentence(store):
    store._database.execute("PRAGMA max_page_count = 3")
    with ChatServer(lambda *_: reply({"text": "x" * 9000})) as server:
        with pytest.raises(InputError, match="disk is full"):
            ask(at(server), requests(3), store)


def test_importing_it_imports_no_client():
    code = ("import sys, helpers.chat; "
            "sys.exit('openai' in sys.modules or 'pydantic' in sys.modules)")
    subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, check=True)
