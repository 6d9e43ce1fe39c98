"""Text: natural documents, the tokenizer, and token streams of the mix.

``make_natural_text`` reads documents (from the documentation installed with
the environment, from files, or from a Hugging Face data set),
``make_tokenizer`` trains a byte-level BPE on them and on the synthetic
corpora, ``make_tokens`` turns all of it into token streams.
"""

from helpers.text.natural import load_documents, make_natural_text
from helpers.text.tokenizer import (
    END_OF_TEXT,
    as_hugging_face,
    load_tokenizer,
    make_tokenizer,
)
from helpers.text.tokens import Tokens, load_tokens, make_tokens, text_classes

__all__ = [
    "END_OF_TEXT",
    "Tokens",
    "as_hugging_face",
    "load_documents",
    "load_tokenizer",
    "load_tokens",
    "make_natural_text",
    "make_tokenizer",
    "make_tokens",
    "text_classes",
]
