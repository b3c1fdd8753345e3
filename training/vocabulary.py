"""A tokenizer that knows the captions' words whole and spells others, in the files of the real one (T5, Unigram)."""

from __future__ import annotations

import json
import string
from functools import cache
from typing import Any

from tokenizers import Tokenizer

from ringlight.core.demo_world import words

SPECIAL = ("<pad>", "</s>", "<unk>")
END = SPECIAL.index("</s>")
SPACE = "\u2581"  # begins a word
WORD_SCORE, LETTER_SCORE = -2.0, -10.0
LETTERS = (SPACE, *string.ascii_lowercase, *string.digits, *",.:;!?'\"()-")


@cache
def tokens() -> tuple[str, ...]:
    """All tokens by their ids: the lower case first, then again with a capital where that differs.

    Both cases are there because transformers ignores a tokenizer's normaliser.
    """
    whole = tuple(SPACE + word for word in words() if SPACE + word not in LETTERS)
    lower = (*SPECIAL, *whole, *LETTERS)
    return lower + tuple(_capital(token) for token in lower if _capital(token) != token)


@cache
def meanings() -> tuple[int, ...]:
    """For each token the id of the one whose embedding it has: of lower case, and of a synonym's word."""
    known = words()

    def meaning(token: str) -> str:
        small = token if token in SPECIAL else token.lower()
        return SPACE + known[small[1:]] if small[:1] == SPACE and small[1:] in known else small

    return tuple(tokens().index(meaning(token)) for token in tokens())


def known_words() -> list[int]:
    """The ids of tokens that mean something of their own: words that are no synonyms."""
    return [tokens().index(SPACE + word) for word, meaning in words().items() if word == meaning]


def tokenizer_json() -> dict[str, Any]:
    """The JSON of `tokenizer.json`."""
    scores = [0.0 if t in SPECIAL else LETTER_SCORE if t.lower() in LETTERS else WORD_SCORE for t in tokens()]
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    space = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token, **flags} for i, token in enumerate(SPECIAL)],
        "normalizer": None,
        "pre_tokenizer": space,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, end],
            "pair": [first, end, second, end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [END], "tokens": ["</s>"]}},
        },
        "decoder": space,
        "model": {
            "type": "Unigram",
            "unk_id": SPECIAL.index("<unk>"),
            "vocab": [[token, score] for token, score in zip(tokens(), scores, strict=True)],
            "byte_fallback": False,
        },
    }


@cache
def _tokenizer() -> Tokenizer:
    return Tokenizer.from_str(json.dumps(tokenizer_json()))


@cache
def ids_of(text: str) -> tuple[int, ...]:
    """The ids of a caption's meanings, its end included."""
    return tuple(meanings()[i] for i in _tokenizer().encode(text).ids)


def _capital(token: str) -> str:
    if token in SPECIAL:
        return token
    return SPACE + token[1:].capitalize() if token[0] == SPACE else token.capitalize()
