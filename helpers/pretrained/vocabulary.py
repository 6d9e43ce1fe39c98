"""Any model's tokenizer, with the beginning of a sequence as token 0.

In this book token 0 is <|endoftext|>: it stands before every document,
fills rows, and is left out of every activation and measurement. A
pretrained model has that token elsewhere (50256 in GPT-2, 2 in Gemma), so
it changes places with the model's token 0, here and in the embedding (see
``models``). Nothing else of the model or of the book need know.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from helpers import artifacts, paths
from helpers.errors import InputError
from helpers.pretrained.folders import (
    CONFIG,
    TEXTS,
    absolute,
    content,
    find,
)
from helpers.text.tokenizer import END_OF_TEXT, FILE

UNLIKELY = -1e6  # logarithm of a piece's probability


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer whose token 0 begins a sequence."""

    tokenizer: object  # tokenizers.Tokenizer; it adds no special tokens
    bos: int  # the number of that token in the model's own tokenizer
    size: int  # numbers of tokens go from 0 to size - 1

    @property
    def digest(self) -> str:
        """sha256 of which token has which number."""
        return digest(self.tokenizer)


def digest(tokenizer) -> str:
    """sha256 of which token of a ``tokenizers.Tokenizer`` has which number."""
    known = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def check_tokenizer(model: Path, tokenizer) -> None:
    """Raise InputError if the artifact of a pretrained model names another
    tokenizer than this ``tokenizers.Tokenizer``."""
    config = json.loads((artifacts.require(model) / CONFIG).read_text())
    if "tokenizer" in config and config["tokenizer"] != digest(tokenizer):
        raise InputError(
            f"the tokenizer is not that of {artifacts.show(model)} "
            f"({config['pretrained']['name']}); make it with "
            "vocabulary.make_tokenizer from the same model"
        )


def make_tokenizer(profile: str, source: str) -> Path:
    """The tokenizer of a pretrained model (its name on the hub or the path
    of its folder) as the one of a run."""
    folder = find(source)

    def make(target: Path) -> None:
        load_vocabulary(folder).tokenizer.save(str(target / FILE))

    return artifacts.produce(
        paths.tokenizer(profile),
        make,
        parameters={
            "source": absolute(source),
            "files": [f for f in content(folder) if f[0] in TEXTS],
        },
    )


def load_vocabulary(folder: Path) -> Vocabulary:
    """The tokenizer in a model's folder, any that transformers can load.

    Raises InputError if there is none, or none with a token that begins or
    ends a sequence.
    """
    from tokenizers import Tokenizer

    found = load_original(folder)
    bos = found.bos_token_id
    if bos is None:
        bos = found.eos_token_id
    if bos is None:
        raise InputError(
            f"the tokenizer of {folder} has no token that begins or ends a "
            "sequence; name one as bos_token in its tokenizer_config.json"
        )
    content = json.loads(found.backend_tokenizer.to_str())
    swapped = Tokenizer.from_str(json.dumps(renumbered(content, bos)))
    size = 1 + max(swapped.get_vocab().values())
    return Vocabulary(swapped, bos, size)


def load_original(folder: Path):
    """The same as transformers loads it: ``PreTrainedTokenizerFast``."""
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        found.backend_tokenizer  # noqa: B018  (slow ones have none)
    except (OSError, ValueError, AttributeError, ImportError, KeyError,
            TypeError) as error:  # fmt: skip
        raise InputError(
            f"{folder} holds no tokenizer that can be read (no "
            "tokenizer.json?); save the model's with "
            "AutoTokenizer.save_pretrained there"
        ) from error
    return found


def renumbered(content: dict, bos: int) -> dict:
    """A tokenizer.json in which token ``bos`` and token 0 change places.

    It is called <|endoftext|> from then on, is the only special token that
    text can spell, and nothing is added to a text.
    """
    swap, names = {0: bos, bos: 0}, _names(content, bos)
    added = [
        token | {"id": swap.get(token["id"], token["id"]),
                 "content": names.get(token["content"], token["content"])}
        for token in content["added_tokens"]
    ]  # fmt: skip
    kept = [t for t in added if t["id"] == 0 or not t["special"]]
    model = content["model"]
    last = max([len(model["vocab"]) - 1, bos, *map(_number, kept)])
    own = {t["content"]: t["id"] for t in added if t["id"] <= last}
    if isinstance(model["vocab"], dict):
        model["vocab"] = {
            names.get(token, token): swap.get(number, number)
            for token, number in model["vocab"].items()
        } | own  # in the vocabulary they keep their numbers
    else:
        model["vocab"] = _pieces(model["vocab"], bos, names, own)
        model["unk_id"] = swap.get(model["unk_id"], model["unk_id"])
    content["added_tokens"] = sorted(kept, key=_number)
    return content | {
        "post_processor": None, "truncation": None, "padding": None,
    }  # fmt: skip


def _pieces(listed: list, bos: int, names: dict, own: dict) -> list:
    """A unigram model's [token, score] in the order of their numbers, those
    of added tokens so low that text never takes them."""
    pieces = [[names.get(token, token), score] for token, score in listed]
    known = {token for token, _ in pieces}
    extra = sorted((n, token) for token, n in own.items() if token not in known)
    pieces += [[token, UNLIKELY] for _, token in extra]
    if pieces[0][0] != END_OF_TEXT:
        pieces[0], pieces[bos] = pieces[bos], pieces[0]
    return pieces


def _number(token: dict) -> int:
    return token["id"]


def _names(content: dict, bos: int) -> dict[str, str]:
    """Old to new: ``bos`` becomes <|endoftext|>, a token that had that name
    gets the one of ``bos``."""
    vocabulary = content["model"]["vocab"]
    known = {t["id"]: t["content"] for t in content["added_tokens"]}
    if isinstance(vocabulary, dict):
        known |= {number: token for token, number in vocabulary.items()}
    else:
        known |= {n: token for n, (token, _) in enumerate(vocabulary)}
    return {END_OF_TEXT: known[bos]} | {known[bos]: END_OF_TEXT}
