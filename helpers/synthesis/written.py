"""Corpora written by a language model, behind any OpenAI-compatible server.

The result is that of the grammar: matched sets of documents whose label,
factors and character spans are known, only here a model is asked for them
and every claim is verified (``verify.py``). What is asked stands in
``prompts/CORPUS.md``: labels, factors and the lists from which each group
draws its own brief. Groups are asked in rounds: what a round rejects goes
to the quarantine and is asked again in the next. Replies are stored, so a
run that was stopped continues, and a finished one is replayed from its
store without a request.
"""

import dataclasses
import hashlib
import random
from collections import Counter
from pathlib import Path

import pydantic
import yaml

from helpers import chat
from helpers.errors import InputError, unknown
from helpers.synthesis import verify

CORPORA = ("sentiment", "subjects", "languages", "syntax", "context")
PROMPTS = Path(__file__).with_name("prompts")


@dataclasses.dataclass(frozen=True)
class Written:
    """How a corpus is to be written by a language model.

    ``store`` is the SQLite file that keeps replies, or a cassette (.jsonl)
    that replays them without asking anything. ``attempts`` is how often a
    group is asked for before it is given up.
    """

    corpus: str
    service: chat.Service
    store: Path
    attempts: int = 3


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of it: nothing that was asked for is left out of account.

    ``rows`` are the documents of complete sets (keys text, label, group,
    factors, spans), groups numbered as asked. ``quarantine`` has one entry
    for each reply not used: group, attempt, reason, detail, reply.
    ``account`` counts groups, requests, reasons, tokens and USD.
    """

    rows: list[dict]
    quarantine: list[dict]
    account: dict


class Prompt(pydantic.BaseModel, extra="forbid", frozen=True):
    """A prompt file: what is asked of the model and what it must return.

    ``labels`` and ``factors`` map names to what the model is told of them;
    a factor in ``only`` is asked of those labels alone. ``carried_by`` is
    the factor whose span also carries the label ("text": the whole of the
    document), ``same`` one whose words all documents share, ``scripts`` the
    script of a label's letters, ``longest`` a document's characters.
    ``briefs`` maps names to lists: a group's brief has one value of each,
    and a value that is itself such a mapping is drawn from in turn.
    """

    version: int
    corpus: str
    label: str
    labels: dict[str, str]
    factors: dict[str, str]
    carried_by: str
    longest: int
    briefs: dict[str, list]
    only: dict[str, list[str]] = {}
    same: str = ""
    scripts: dict[str, str] = {}
    system: str
    user: str

    def asked(self, label: str) -> list[str]:
        """The factors to be marked in a document of this label."""
        return [f for f in self.factors if label in self.only.get(f, [label])]


def write(spec: Written, groups: int, seed: int = 0) -> Result:
    """Have ``groups`` matched sets written, verify them and account for them.

    The result depends on the replies alone, not on the order they came in.
    Raises InputError for a corpus that cannot be asked for, for a mistake
    in its prompt file, or where the budget ends.
    """
    prompt = load_prompt(spec.corpus)
    _check_counts(spec, groups)
    store = _open(spec.store)
    paid = 0.0  # USD, now: the budget is that of all rounds together

    def ask(requests: dict[int, chat.Request]) -> list[chat.Reply]:
        nonlocal paid
        left = max(spec.service.budget - paid, 0.0)
        service = dataclasses.replace(spec.service, budget=left)
        replies = chat.ask(service, list(requests.values()), store)
        paid += sum(reply.cost for reply in replies if not reply.stored)
        return replies

    accepted, quarantine, replies = _rounds(spec, prompt, groups, seed, ask)
    rows = [row | {"group": g} for g in sorted(accepted) for row in accepted[g]]
    reasons = Counter(entry["reason"] for entry in quarantine)
    account = {
        "corpus": spec.corpus,
        "prompt": prompt.version,
        "model": spec.service.model,
        "groups": groups,
        "complete": len(accepted),
        "incomplete": groups - len(accepted),
        "reasons": dict(sorted(reasons.items())),
        "requests": len(replies),
        "prompt_tokens": sum(r.prompt_tokens for r in replies),
        "completion_tokens": sum(r.completion_tokens for r in replies),
        "estimated_usd": _estimated(spec, prompt, groups, seed),
        "cost_usd": sum(r.cost for r in replies),
    }
    return Result(rows, quarantine, account)


def estimate(spec: Written, groups: int, seed: int = 0) -> chat.Estimate:
    """What ``write`` would still ask and cost; sends nothing.

    ``expected`` holds if each group that lacks a reply needs one more,
    ``at_most`` if it needs all the attempts it has left.
    """
    prompt = load_prompt(spec.corpus)
    _check_counts(spec, groups)
    return _estimate(spec, prompt, groups, seed, _open(spec.store))


def first_round(corpus: str, groups: int, seed: int = 0) -> list[chat.Request]:
    """What is asked first: one request for each group."""
    prompt = load_prompt(corpus)
    return [_request(prompt, group, 0, seed) for group in range(groups)]


def load_prompt(corpus: str) -> Prompt:
    """The prompt file of a corpus, checked; InputError on a mistake."""
    if corpus == "formats":
        raise InputError(
            "the corpus 'formats' cannot be written by a language model, "
            "which cannot draw random characters; its grammar writes it"
        )
    if corpus not in CORPORA:
        raise unknown("corpus to be written", corpus, CORPORA)
    path = PROMPTS / f"{corpus}.md"
    try:
        _, head, body = path.read_text("utf-8").split("---\n", 2)
        system, user = body.split("# System\n", 1)[1].split("# User\n", 1)
        texts = {"system": system.strip(), "user": user.strip()}
        prompt = Prompt(**yaml.safe_load(head), **texts)
        messages(prompt, 0)
    except KeyError as error:
        raise InputError(f"{path.name}: nothing fills {{{error.args[0]}}}; the "
                         "user part takes the names under briefs") from None
    except (ValueError, yaml.YAMLError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path.name} is no prompt file: {reason}") from None
    return prompt


def draw_brief(prompt: Prompt, group: int, seed: int = 0) -> dict[str, str]:
    """What is asked of a group: one value of each list, by (seed, group)."""
    rng = random.Random(_hash(seed, prompt.corpus, group))
    return _draw(rng, prompt.briefs)


def messages(prompt: Prompt, group: int, seed: int = 0) -> tuple[dict, ...]:
    """The system and the user message for one group."""
    shared = (PROMPTS / "shared.md").read_text("utf-8").strip().format(
        labels=_listed(prompt.labels),
        factors=_listed({
            name: prompt.factors[name] + _only(prompt, name)
            for name in prompt.factors
        }),
        longest=prompt.longest,
    )
    system = prompt.system.format(shared=shared)
    user = prompt.user.format(**draw_brief(prompt, group, seed))
    return (
        {"role": "system", "content": system},
        {"role": "user", "content": user},
    )


def _rounds(spec: Written, prompt: Prompt, groups: int, seed: int, ask):
    """({group: rows}, quarantine, replies) of as many rounds as it takes.

    ``ask`` takes {group: request} and returns the replies in that order.
    """
    accepted: dict[int, list[dict]] = {}
    quarantine: list[dict] = []
    replies: list[chat.Reply] = []
    for attempt in range(spec.attempts):
        todo = [g for g in range(groups) if g not in accepted]
        requests = {g: _request(prompt, g, attempt, seed) for g in todo}
        answers = dict(zip(todo, ask(requests), strict=True))
        replies += answers.values()
        good, rejected = _judge(prompt, answers, accepted, seed)
        accepted |= good
        quarantine += [
            {"group": group, "attempt": attempt, "reason": error.reason,
             "detail": error.detail, "reply": answers[group].text}
            for group, error in sorted(rejected.items())
        ]
    return accepted, quarantine, replies


def _judge(prompt, answers: dict, accepted: dict, seed: int) -> tuple:
    """Of one round: ({group: rows}, {group: Rejected}), in group order."""
    good: dict[int, list[dict]] = {}
    rejected: dict[int, verify.Rejected] = {}
    for group, reply in answers.items():
        try:
            good[group] = _rows(prompt, reply, draw_brief(prompt, group, seed))
        except verify.Rejected as error:
            rejected[group] = error
    for find in (_exact_repeats, _near_repeats):
        repeats = find(accepted, good)
        rejected |= repeats
        good = {g: rows for g, rows in good.items() if g not in repeats}
    return good, rejected


def _rows(prompt: Prompt, reply: chat.Reply, brief: dict) -> list[dict]:
    if reply.problem:
        raise verify.Rejected(reply.problem, "no set in the reply")
    return verify.check(prompt, brief, reply.parsed)


def _exact_repeats(accepted: dict, found: dict) -> dict:
    """Sets with a document that an earlier set has under the same label."""
    seen = {key for rows in accepted.values() for key in _keys(rows)}
    repeats: dict[int, verify.Rejected] = {}
    for group, rows in found.items():
        if common := _keys(rows) & seen:
            detail = ": ".join(min(common))
            repeats[group] = verify.Rejected("duplicate", detail)
        else:
            seen |= _keys(rows)
    return repeats


def _keys(rows: list[dict]) -> set[tuple[str, str]]:
    return {(row["label"], verify.normalise(row["text"])) for row in rows}


def _near_repeats(accepted: dict, found: dict) -> dict:
    """Sets with a document that is nearly an earlier one of its label.

    A set counts as earlier even if another of its labels rules it out.
    """
    repeats: dict[int, verify.Rejected] = {}
    if not found:
        return repeats
    from helpers.text.duplicates import first_of_near_duplicates

    sets = {**accepted, **found}
    for column in zip(*sets.values(), strict=True):
        first = first_of_near_duplicates([row["text"] for row in column])
        for group, row, new in zip(sets, column, first, strict=True):
            if not new:
                detail = f"{row['label']}: {row['text']}"
                repeats[group] = verify.Rejected("near duplicate", detail)
    return repeats


def _request(prompt: Prompt, group: int, attempt: int, seed: int):
    return chat.Request(
        messages=messages(prompt, group, seed),
        schema=verify.MatchedSet,
        seed=_hash(seed, prompt.corpus, group, attempt),
    )


def _estimate(spec, prompt, groups, seed, store) -> chat.Estimate:
    """Replay what the store has; what it lacks counts as asked in vain."""
    found, lacking = [], []
    first: dict[int, chat.Request] = {}

    def ask(requests: dict[int, chat.Request]) -> list[chat.Reply]:
        replies = []
        for group, request in requests.items():
            key = chat.key(spec.service, request)
            if store.get(key):
                found.append(request)
                replies += chat.ask(spec.service, [request], store)
            else:
                lacking.append(request)
                first.setdefault(group, request)
                replies.append(
                    chat.Reply(key, None, "failed", "", 0, 0, 0.0, False)
                )
        return replies

    _rounds(spec, prompt, groups, seed, ask)
    most = chat.estimate(spec.service, lacking, store).at_most
    expected = chat.estimate(spec.service, [*found, *first.values()], store)
    return dataclasses.replace(expected, at_most=most)


def _estimated(spec, prompt, groups, seed) -> dict[str, float]:
    """USD that all of it was estimated to cost before any reply was there.

    Not what is left to ask: a replay must give the same account.
    """
    empty: dict = {}  # of a store, an estimate needs but ``get``
    whole = _estimate(spec, prompt, groups, seed, empty)
    return {"expected": whole.expected, "at_most": whole.at_most}


def _open(path: Path) -> chat.Store | chat.Cassette:
    replayed = Path(path).suffix == ".jsonl"
    return chat.Cassette(path) if replayed else chat.Store(path)


def _check_counts(spec: Written, groups: int) -> None:
    for name, value in (("groups", groups), ("attempts", spec.attempts)):
        if value < 1:
            raise InputError(f"{name} is {value}; at least 1 is needed")


def _draw(rng: random.Random, choices: dict) -> dict[str, str]:
    found: dict = {}
    for name, values in choices.items():
        value = values
        if isinstance(values, list):
            value = values[int(rng.random() * len(values))]
        if isinstance(value, dict):
            found |= _draw(rng, value)
        else:
            found[name] = str(value)
    return found


def _listed(described: dict[str, str]) -> str:
    return "\n".join(f"- {name}: {what}" for name, what in described.items())


def _only(prompt: Prompt, factor: str) -> str:
    labels = prompt.only.get(factor)
    return f" (only in: {', '.join(labels)})" if labels else ""


def _hash(*parts: object) -> int:
    """31 bits that depend on every part: a seed that any server takes."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4]) >> 1
