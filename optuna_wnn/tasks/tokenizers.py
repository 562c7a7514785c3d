"""Tokenizers: a text as a row of token ids: its bytes, its words, or GPT-2's byte pairs."""

from __future__ import annotations

import json
import re
from abc import ABC
from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.errors import InputError
from optuna_wnn.tasks.base import Part
from optuna_wnn.tasks.cache import Cache
from optuna_wnn.tasks.checks import read_file


Ids = NDArray[np.integer[Any]]
UNKNOWN: Final = "<unk>"
TOKENIZERS: Final = ("bytes", "words", "gpt2")

_END: Final = "<|endoftext|>"  # has an id, but is no text
_SMALL: Final = 1 << 20  # characters that are not worth a file in the cache
# What GPT-2 cuts a text into before it looks for pairs (A. Radford et al., "Language Models are
# Unsupervised Multitask Learners", 2019), as tiktoken spells it.
_PIECES: Final = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


class Tokenizer(ABC):
    """Turns texts into ids; all texts of a task go through one of them."""

    unit: str  # what messages call its tokens

    @abstractmethod
    def encode(self, text: str) -> Ids:
        """Return the ids of a text's tokens, ``int[L]``."""

    @abstractmethod
    def decode(self, ids: Ids) -> str:
        """Return the text of ids of the vocabulary, once it is closed."""

    @abstractmethod
    def close(self, parts: Mapping[Part, Ids]) -> tuple[dict[Part, Ids], int]:
        """Return the ids of all parts and the size ``V`` of the vocabulary that they are of.

        Args:
            parts: What :meth:`encode` returned, cut into the parts of a task.
        """


class Bytes(Tokenizer):
    """The bytes of UTF-8."""

    unit = "bytes"

    def encode(self, text: str) -> Ids:
        """Return the bytes of a text."""
        return np.frombuffer(text.encode(), np.uint8)

    def decode(self, ids: Ids) -> str:
        """Return the text of bytes; what is not UTF-8 is replaced."""
        return ids.astype(np.uint8).tobytes().decode(errors="replace")

    def close(self, parts: Mapping[Part, Ids]) -> tuple[dict[Part, Ids], int]:
        """Return the bytes as they are; the vocabulary is that of all bytes."""
        return dict(parts), 256


class Words(Tokenizer):
    """What white space separates, and the ends of lines.

    The vocabulary has the words of the training part and ``<unk>``, which is any other, in the
    order of their characters: so the ids say nothing of how often a word is, or where.
    """

    unit = "words"

    def __init__(self) -> None:
        self._seen: dict[str, int] = {UNKNOWN: 0}
        self._words: list[str] = []  # of the vocabulary, once it is closed

    def encode(self, text: str) -> Ids:
        """Return the words of a text, numbered as they come; once closed, by the vocabulary."""
        seen, words = self._seen, re.findall(r"\n|\S+", text)
        if self._words:
            return np.array([seen.get(word, seen[UNKNOWN]) for word in words], np.uint32)
        return np.array([seen.setdefault(word, len(seen)) for word in words], np.uint32)

    def decode(self, ids: Ids) -> str:
        """Return words with a space between them, but at the ends of lines."""
        return " ".join(self._words[i] for i in ids.tolist()).replace(" \n ", "\n")

    def close(self, parts: Mapping[Part, Ids]) -> tuple[dict[Part, Ids], int]:
        """Return ids of the vocabulary; what is not in the training part is ``<unk>``."""
        known = np.zeros(len(self._seen), bool)
        known[0] = True
        known[parts["train"]] = True
        words = sorted(word for word, i in self._seen.items() if known[i])
        ids = np.full(len(self._seen), words.index(UNKNOWN), np.uint32)
        ids[[self._seen[word] for word in words]] = np.arange(len(words), dtype=np.uint32)
        self._words, self._seen = words, {word: i for i, word in enumerate(words)}
        return {part: ids[seen] for part, seen in parts.items()}, len(words)


class GPT2(Tokenizer):
    """GPT-2's byte pairs, read from its own vocabulary files; nothing is downloaded.

    Args:
        folder: Where ``encoder.json`` and ``vocab.bpe`` lie.
        cache: Where the ids of long texts are kept.

    Raises:
        InputError: If the files are missing or no such vocabulary.
    """

    unit = "tokens"

    def __init__(self, folder: Any, cache: Cache) -> None:
        self._files = _vocabulary_files(folder)
        self._cache = cache
        names, merges = self._files
        self._ranks, self._special = _byte_pairs(folder, names, merges)
        self.n_tokens = len(self._ranks) + len(self._special)

    def encode(self, text: str) -> Ids:
        """Return the ids of a text's byte pairs.

        Raises:
            InputError: If tiktoken is not installed, and the text is not in the cache.
        """
        if len(text) < _SMALL:
            return self._encoded(text)
        sources = (text.encode(), *self._files)
        return self._cache.get("gpt2", sources, lambda: self._encoded(text))

    def decode(self, ids: Ids) -> str:
        """Return the text of byte pairs; what is not UTF-8 is replaced."""
        text: str = self._encoding.decode(ids.tolist())
        return text

    def close(self, parts: Mapping[Part, Ids]) -> tuple[dict[Part, Ids], int]:
        """Return the ids as they are, and the size of the vocabulary in the files."""
        return dict(parts), self.n_tokens

    def _encoded(self, text: str) -> Ids:
        kind = np.uint16 if self.n_tokens <= 1 << 16 else np.uint32
        return np.array(self._encoding.encode_ordinary(text), kind)

    @cached_property
    def _encoding(self) -> Any:
        try:
            import tiktoken
        except ImportError as error:
            raise InputError(
                "task.tokenizer: gpt2 needs the package tiktoken; install it with "
                "pip install 'optuna-wnn[tokenizers]'"
            ) from error
        return tiktoken.Encoding(
            "gpt2",
            pat_str=_PIECES,
            mergeable_ranks=self._ranks,
            special_tokens=self._special,
        )


def _vocabulary_files(folder: Any) -> tuple[bytes, bytes]:
    """Return the content of ``encoder.json`` and of ``vocab.bpe``."""
    if folder is None:
        raise InputError(
            "task.vocabulary: gpt2 needs the folder of GPT-2's encoder.json and vocab.bpe; "
            "name it (nothing is downloaded)"
        )
    try:
        place = Path(folder)
    except TypeError as error:
        raise InputError(f"task.vocabulary: {folder!r} is not the path of a folder") from error
    names, merges = (
        read_file(place / name, "vocabulary") for name in ("encoder.json", "vocab.bpe")
    )
    return names, merges


def _byte_pairs(
    folder: Any, names: bytes, merges: bytes
) -> tuple[dict[bytes, int], dict[str, int]]:
    """Return GPT-2's tokens with their ids, and those that no text contains.

    Every byte is a token, in the files spelt as a printable character; every line of
    ``vocab.bpe`` makes one of two others. tiktoken takes an id as the rank of its merge, so both
    files have to number tokens alike.
    """
    printable = [b for b in range(256) if chr(b).isprintable() and b != ord(" ")]
    others = [b for b in range(256) if b not in printable]
    spelt = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
    wrong = InputError(
        f"{folder}: encoder.json and vocab.bpe are not the two files of one vocabulary; "
        "correct task.vocabulary"
    )
    try:
        ranks = {bytes([b]): i for i, b in enumerate(printable + others)}
        for line in merges.decode().split("\n")[1:]:
            if line:
                token = bytes(spelt[c] for c in "".join(line.split(" ")))
                ranks.setdefault(token, len(ranks))
        listed = dict(json.loads(names))
        special = {_END: listed.pop(_END)} if _END in listed else {}
        ids = {bytes(spelt[c] for c in token): i for token, i in listed.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise wrong from error
    if ids != ranks or list(special.values()) not in ([], [len(ranks)]):
        raise wrong
    return ranks, special


def create_tokenizer(name: Any, vocabulary: Any, cache: Cache) -> Tokenizer:
    """Return a tokenizer by its name.

    Args:
        name: One of ``TOKENIZERS``.
        vocabulary: The folder of GPT-2's files; ``None`` for the others.
        cache: Where the ids of long texts are kept.

    Raises:
        InputError: If there is no such tokenizer, or its vocabulary is missing or not needed.
    """
    if name not in TOKENIZERS:
        raise InputError(f"task.tokenizer: {name!r} is not one of {', '.join(TOKENIZERS)}")
    if name == "gpt2":
        return GPT2(vocabulary, cache)
    if vocabulary is not None:
        raise InputError(f"task.vocabulary: {name} have none in files; leave it out")
    return Bytes() if name == "bytes" else Words()
