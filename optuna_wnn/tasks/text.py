"""Text: predict the next token from the tokens before it, by the bits of their codes."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import Final
from typing import cast

import numpy as np

from optuna_wnn.errors import InputError
from optuna_wnn.tasks.base import PARTS
from optuna_wnn.tasks.base import Codes
from optuna_wnn.tasks.base import Examples
from optuna_wnn.tasks.base import Head
from optuna_wnn.tasks.base import Part
from optuna_wnn.tasks.base import Task
from optuna_wnn.tasks.base import add_codes
from optuna_wnn.tasks.base import chained
from optuna_wnn.tasks.baselines import unigram
from optuna_wnn.tasks.cache import Cache
from optuna_wnn.tasks.cache import open_cache
from optuna_wnn.tasks.checks import file_cuts
from optuna_wnn.tasks.checks import one_of
from optuna_wnn.tasks.checks import read_file
from optuna_wnn.tasks.checks import whole_number
from optuna_wnn.tasks.codes import CODES
from optuna_wnn.tasks.codes import code_tables
from optuna_wnn.tasks.kneser_ney import kneser_ney
from optuna_wnn.tasks.tokenizers import Bytes
from optuna_wnn.tasks.tokenizers import Ids
from optuna_wnn.tasks.tokenizers import Tokenizer
from optuna_wnn.tasks.tokenizers import create_tokenizer


SPLIT: Final = (0.8, 0.1, 0.1)
HEADS: Final = ("bits", "chained_bits", "tokens")
LINES: Final = ("kept", "joined")

_SMALL: Final = 1 << 18  # tokens whose baselines are not worth a file in the cache


def python_docs_task(*, context: Any = 8, split: Any = SPLIT, head: Any = "bits") -> Task:
    """Return the task of the English text that every Python carries: the topics of ``help()``.

    About half a megabyte; it differs a little from one Python version to the next.

    Args:
        context: How many bytes are seen before the one to predict.
        split: Shares of train, validation and test, or how many bytes each has.
        head: ``bits``, each predicted by itself, ``chained_bits``, each after those before it, or
            ``tokens``, a cluster for every byte.

    Raises:
        InputError: If an option is wrong, or this Python was installed without its topics.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise InputError(
            "task.kind: this Python was installed without its documentation topics (the module "
            "pydoc_data); use kind: text with a file of your own"
        ) from error
    ids = Bytes().encode("\n".join(topics.values()))
    parts = _cut("python-docs", "bytes", ids, split)
    return _task("python-docs", "python-docs", "bytes", parts, 256, "id", context, head)


def text_task(
    path: Any,
    *,
    tokenizer: Any = "bytes",
    vocabulary: Any = None,
    lines: Any = "kept",
    code: Any = "id",
    context: Any = 8,
    split: Any = SPLIT,
    first: Any = None,
    head: Any = "bits",
    cache: Any = True,
) -> Task:
    """Return the task of one or several text files.

    Args:
        path: A file of UTF-8 text, a list of files that follow each other, or a file or a list for
            each of ``train``, ``validation`` and ``test``.
        tokenizer: What a token is: ``bytes``, ``words`` (what white space separates, and the ends
            of lines) or ``gpt2``, its byte pairs, which needs the package ``tiktoken``.
        vocabulary: The folder of GPT-2's ``encoder.json`` and ``vocab.bpe``.
        lines: ``kept`` as they are, or ``joined``: those that are not blank, by one space.
        code: The number whose bits stand for a token: its ``id``, the ``gray`` code of it, or its
            rank by ``frequency`` in the training part.
        context: How many tokens are seen before the one to predict.
        split: Shares of train, validation and test, which follow each other, or how many tokens
            each has (0 to validate, where the fitness is on training examples that are left out);
            of no use where each has files of its own.
        first: How many tokens of each part are taken at most, from its start: one number, or one
            for each of ``train``, ``validation`` and ``test``; all by default.
        head: ``bits``, each predicted by itself, ``chained_bits``, each after those before it, or
            ``tokens``, a cluster for every token of the vocabulary.
        cache: Whether the tokens and the baselines of long texts are kept in the user's cache
            folder, or the folder where.

    Raises:
        InputError: If an option is wrong; a file is missing, too short or not UTF-8; or what the
            tokenizer needs is missing.
    """
    kept = open_cache(cache)
    reader, parts, n_tokens = _tokens(kept, path, tokenizer, vocabulary, lines, split, first)
    place = path["train"] if isinstance(path, Mapping) else path
    first_file = place[0] if isinstance(place, list | tuple) else place
    return _task(
        Path(first_file).stem,
        _shown(place),
        reader.unit,
        parts,
        n_tokens,
        code,
        context,
        head,
        kept,
    )


@dataclass(frozen=True, eq=False)
class TextCode:
    """How text becomes the targets of a task, and back.

    Attributes:
        tokenizer: Between text and token ids.
        predicted: Target of every token id, ``int64[V]``: a permutation.
        seen: Code of every *target* as an input, ``int64[V]``.
    """

    tokenizer: Tokenizer
    predicted: Codes
    seen: Codes

    @classmethod
    def of_tokens(cls, tokenizer: Tokenizer, seen: Codes, predicted: Codes) -> TextCode:
        """Return the code where inputs and targets are such codes of token ids."""
        return cls(tokenizer, predicted, seen[np.argsort(predicted)])

    def targets(self, text: str) -> Codes:
        """Return the targets that a text is made of, ``int64[L]``."""
        targets: Codes = self.predicted[self.tokenizer.encode(text)]
        return targets

    def text(self, targets: Codes) -> str:
        """Return the text of targets."""
        return self.tokenizer.decode(np.argsort(self.predicted)[targets])


def text_code(kind: str, options: Mapping[str, Any]) -> TextCode:
    """Return how text becomes the targets of a task, and back.

    Args:
        kind: ``python-docs`` or ``text``.
        options: What the task of this kind was made with; its files are read where the
            vocabulary or the codes come from them.

    Raises:
        InputError: If the task is none of text, or as :func:`text_task`.
    """
    if kind == "python-docs":
        return TextCode.of_tokens(Bytes(), np.arange(256), np.arange(256))
    if kind != "text":
        raise InputError(f"task.kind: {kind} is no text; give the configuration of a text")
    own = {k: v for k, v in options.items() if k != "clusters_per_output"}  # it is of every kind
    bound = inspect.signature(text_task).bind(**own)
    bound.apply_defaults()
    given = bound.arguments
    one_of("code", given["code"], CODES)
    options_of_tokens = (
        given[n] for n in ("path", "tokenizer", "vocabulary", "lines", "split", "first")
    )
    tokenizer, parts, n_tokens = _tokens(open_cache(given["cache"]), *options_of_tokens)
    return TextCode.of_tokens(tokenizer, *code_tables(given["code"], parts["train"], n_tokens))


def _tokens(
    kept: Cache, path: Any, tokenizer: Any, vocabulary: Any, lines: Any, split: Any, first: Any
) -> tuple[Tokenizer, dict[Part, Ids], int]:
    """Return the tokens of each part of a text, of which vocabulary, and its size."""
    one_of("lines", lines, LINES)
    reader = create_tokenizer(tokenizer, vocabulary, kept)
    limits = _limits(first)

    def read(paths: Any) -> Ids:
        several = paths if isinstance(paths, list | tuple) and paths else [paths]
        return np.concatenate([reader.encode(_read_text(file, lines)) for file in several])

    if isinstance(path, Mapping):
        if set(path) != set(PARTS):
            raise InputError(
                f"task.path: {', '.join(map(str, path)) or 'nothing'} is named; name files of "
                f"{', '.join(PARTS)}"
            )
        if not isinstance(split, list | tuple) or tuple(split) != SPLIT:
            raise InputError(
                "task.split: task.path names the files of each part; leave one of the two out"
            )
        parts = {part: read(path[part]) for part in PARTS}
    else:
        parts = _cut(_shown(path), reader.unit, read(path), split)
    parts = {part: ids[: limits.get(part)] for part, ids in parts.items()}
    return reader, *reader.close(parts)


def _task(
    name: str,
    place: str,
    unit: str,
    parts: Mapping[Part, Ids],
    n_tokens: int,
    code: Any,
    context: Any,
    head: Any,
    cache: Cache | None = None,
) -> Task:
    """Return the task of predicting each token of three texts from those before it."""
    context = whole_number("context", context, 1)
    one_of("code", code, CODES)
    one_of("head", head, HEADS)
    for part, ids in parts.items():
        if len(ids) <= context and (len(ids) or part != "validation"):
            raise InputError(
                f"{place}: the {part} part has {len(ids)} of "
                f"{sum(map(len, parts.values()))} {unit}, too few for a context of {context}; "
                "give more text or a smaller task.context"
            )
    seen, predicted = code_tables(code, parts["train"], n_tokens)
    n_bits = max(1, (n_tokens - 1).bit_length())

    def examples(ids: Ids) -> Examples:
        return windows(ids, context, n_bits, seen, predicted)

    task = Task(
        name=name,
        head="bits" if head == "chained_bits" else cast("Head", head),
        n_inputs=n_bits * context,
        n_outputs=n_tokens,
        train=examples(parts["train"]),
        validation=examples(parts["validation"]),
        test=examples(parts["test"]),
        input_groups=(context, n_bits),
        baselines=_baselines(parts["train"], parts["test"], context, n_tokens, cache),
    )
    return chained(task) if head == "chained_bits" else task


def windows(
    ids: Ids,
    context: int,
    n_bits: int,
    seen: Codes | None = None,
    predicted: Codes | None = None,
) -> Examples:
    """Return an example for every token that has ``context`` tokens before it.

    Input ``n_bits * p + b`` is bit ``b`` of the code of the token at position ``p`` of the window:
    the oldest token and the most significant bit come first.

    Args:
        ids: ``int[L]`` tokens, with ``L > context``, or none.
        context: Tokens per window, at least 1.
        n_bits: Bits of a code, at most 64.
        seen: The code of every token in the inputs, ``int64[V]``; the token itself by default.
        predicted: The same of the targets.

    Returns:
        ``L - context`` examples with ``n_bits * context`` input bits.
    """
    before = ids if seen is None else seen[ids]
    target = ids[context:] if predicted is None else predicted[ids[context:]]
    inputs = np.zeros((len(target), -(-n_bits * context // 64)), np.uint64)
    for position in range(context):
        add_codes(inputs, n_bits * position, before[position : position + len(target)], n_bits)
    return Examples(inputs, target.astype(np.int64))


def _baselines(
    train: Ids, test: Ids, context: int, n_tokens: int, cache: Cache | None
) -> dict[str, float]:
    """Return what simple models lose on ``test``, in nats per token, where windows end."""

    def measured() -> np.ndarray[Any, Any]:
        return np.array(
            [
                unigram(train, test[context:], n_tokens),
                *(-np.log(kneser_ney(train, test, n, n_tokens)[context:]).mean() for n in (2, 3)),
            ]
        )

    if cache is None or len(train) + len(test) < _SMALL:
        losses = measured()
    else:
        losses = cache.get("baselines", (train, test, context, n_tokens), measured)
    names = ("unigram", "Kneser-Ney bigram", "Kneser-Ney trigram")
    measured_losses = dict(zip(names, losses.tolist(), strict=True))
    return {"uniform": math.log(n_tokens), **measured_losses}


def _cut(place: str, unit: str, ids: Ids, split: Any) -> dict[Part, Ids]:
    """Return the parts of one text, which follow each other."""
    train, validation, test = np.split(ids, file_cuts(place, unit, len(ids), split))[:3]
    return {"train": train, "validation": validation, "test": test}


def _limits(first: Any) -> dict[str, int]:
    """Return how many tokens of a part are taken, where that is not all."""
    if first is None:
        return {}
    if isinstance(first, str | list | tuple):
        raise InputError(
            f"task.first: {first!r} is neither a whole number nor one for each of some parts; "
            "give 200000, or {train: 200000, validation: 50000}"
        )
    numbers = first if isinstance(first, Mapping) else dict.fromkeys(PARTS, first)
    for part, number in numbers.items():
        one_of("first", part, PARTS)
        whole_number("first" if numbers is not first else f"first.{part}", number, 1)
    return dict(numbers)


def _read_text(path: Any, lines: str) -> str:
    try:
        text = read_file(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: byte {error.start} is not UTF-8; convert the file to UTF-8"
        ) from error
    if lines == "joined":
        return " ".join(line for line in text.split("\n") if line.strip())
    return text


def _shown(path: Any) -> str:
    """Return the name of one file, or of the first of several."""
    if isinstance(path, list | tuple) and path:
        return f"{path[0]}, …" if len(path) > 1 else f"{path[0]}"
    return os.fspath(path) if isinstance(path, os.PathLike) else str(path)
