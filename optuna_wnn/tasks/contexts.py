"""Which inputs of a text task are the bits of which token before the target."""

from __future__ import annotations

from collections.abc import Sequence

from optuna_wnn.errors import InputError
from optuna_wnn.tasks.base import Task
from optuna_wnn.tasks.given import n_context


# A token by its position before the target, or that and how many of its leading bits are seen.
Token = int | Sequence[int]


def context_inputs(task: Task, contexts: Sequence[Sequence[Token]]) -> tuple[tuple[int, ...], ...]:
    """Return the inputs of every cluster that are some tokens, and the target's bits so far.

    A cluster of bit ``k`` gets the bits of its tokens and, under ``chained_bits``, the target's
    bits before ``k``. Where that is nothing, it gets the first bit of the last token.

    Args:
        task: Of text: its inputs are the codes of the tokens before the target.
        contexts: For each cluster of an output the positions of its tokens before the target: 1
            is the last token, 2 the one before it; or position and number of leading bits.

    Returns:
        Ascending inputs for each of the ``K`` clusters.

    Raises:
        InputError: If the task is another, or the contexts are not made for it.
    """
    n_tokens, width = task.input_groups
    n_bits, first = task.n_head_outputs, n_context(task)
    of_text = task.head in ("bits", "chained_bits")
    if not of_text or width != n_bits or n_tokens * width != first:
        raise InputError(
            f"space.start_contexts: the inputs of task {task.name} (head {task.head}) are not the "
            "codes of tokens whose bits it predicts; leave it out"
        )
    if len(contexts) != task.clusters_per_output:
        raise InputError(
            f"space.start_contexts: {len(contexts)} lists of tokens for "
            f"{task.clusters_per_output} clusters per output (task.clusters_per_output); give one "
            "for each"
        )
    seen = [[_with_bits(token, width) for token in tokens] for tokens in contexts]
    for i, tokens in enumerate(seen):
        positions = [position for position, _ in tokens]
        if len(set(positions)) < len(positions) or not set(positions) <= {*range(1, n_tokens + 1)}:
            raise InputError(
                f"space.start_contexts.{i}: {list(positions)} are not distinct positions from 1 "
                f"(the last token) to {n_tokens} (task.context)"
            )
        for position, n in tokens:
            if not 1 <= n <= width:
                raise InputError(
                    f"space.start_contexts.{i}: {n} leading bits of token {position}; a token has "
                    f"{width}"
                )
    inputs = [
        [
            (n_tokens - position) * width + bit
            for position, n in sorted(tokens, reverse=True)
            for bit in range(n)
        ]
        for tokens in seen
    ]
    before = [
        list(range(first, first + k)) if task.head == "chained_bits" else [] for k in range(n_bits)
    ]
    nothing = [(n_tokens - 1) * width]
    return tuple(tuple(its + bits or nothing) for bits in before for its in inputs)


def _with_bits(token: Token, width: int) -> tuple[int, int]:
    """Return the position of a token, and how many of its bits are seen."""
    if isinstance(token, int):
        return token, width
    position, n_bits = token
    return position, n_bits
