"""The kernels' text, for Metal and for CUDA, and what MLX makes of it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from typing import Final
from typing import Literal
from typing import get_args

from optuna_wnn.evaluators.cells import CellKind
from optuna_wnn.evaluators.informed import PIECE
from optuna_wnn.evaluators.informed import SAMPLED
from optuna_wnn.evaluators.loss import LOG_BITS
from optuna_wnn.evaluators.loss import NAT
from optuna_wnn.evaluators.loss import SCORE_LIMIT
from optuna_wnn.evaluators.loss import SCORE_STEPS


Api = Literal["metal", "cuda"]
Launchable = Callable[..., list[Any]]

REMEDY: Final = (
    "it takes an Apple GPU, or an NVIDIA GPU with its driver and pip install 'optuna-wnn[cuda13]'"
)

THREADS: Final = 256  # of a threadgroup, where threads do not wait for each other
LANES: Final = 32  # threads of a threadgroup that keeps examples in order: bits of a word
BUCKETS: Final = 2 * LANES  # by which its threads find those that address the same cell
EACH: Final = 4  # examples that a thread reads
READ_CHUNK: Final = THREADS * EACH
WRITE_CHUNK: Final = 16 * THREADS  # examples that a threadgroup counts

# What the columns of the tables that the host sends mean; kernels know them by these names.
PARAMS: Final = (
    "neurons", "clusters", "chunks", "chooses", "train_stride", "train_flags", "read",
    "read_first", "read_stride", "read_flags", "flag_first", "blocked", "leaves_one", "kind",
    "levels", "packed", "down", "up", "sampled", "threshold_low", "threshold_high",
)  # fmt: skip
NEURON: Final = (
    "cluster", "plan_first", "plan_size", "last_slot", "table_size", "cells_low", "cells_high",
    "slots_low", "slots_high", "key_low", "key_high",
)  # fmt: skip
CLUSTER: Final = ("neuron_first", "neurons", "flags", "votes", "chosen_first", "chosen_size")
JUDGE: Final = (
    "clusters", "examples", "softmax", "offset", "last", "decides", "factor_low", "factor_high",
)  # fmt: skip
CANDIDATE: Final = (
    "cluster", "related", "flags", "votes", "member_first", "members", "divisor_low",
    "divisor_high",
)  # fmt: skip
KINDS: Final = {kind: number for number, kind in enumerate(get_args(CellKind))}


@dataclass(frozen=True)
class KernelSource:
    """One kernel: its files, and the arrays that it is given.

    Attributes:
        name: What it is called.
        headers: Files of functions that it calls, besides those that all share.
        body: The file with its body.
        inputs: Its arrays.
        outputs: What it fills; all of them start at 0.
    """

    name: str
    headers: tuple[str, ...]
    body: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def header(self, api: Api) -> str:
        """Return the text in front of the kernel."""
        return "".join([_text(f"{api}.h"), _columns(), *map(_text, ("common.h", *self.headers))])

    def source(self) -> str:
        """Return the kernel's body: the same for all."""
        return _text(self.body)


_WRITE_INPUTS = ("train", "flags", "neurons", "clusters", "plan", "chosen", "own_block", "params")
_READ_INPUTS = (
    "train", "examples", "flags", "neurons", "clusters", "plan", "own_block", "params", "cells",
    "slots", "votes",
)  # fmt: skip
_ASK_INPUTS = (*_READ_INPUTS, "rows", "pieces")
# Clusters are not told: candidates say what of them is needed.
_JUDGE_INPUTS = (
    *(name for name in _READ_INPUTS if name != "clusters"),
    *("candidates", "members", "judging", "base", "losses", "exps", "board", "decided"),
)

KERNELS: Final = tuple(
    KernelSource(*row)
    for row in (
        ("wnn_write_states", (), "write_states.inc", _WRITE_INPUTS, ("cells", "slots")),
        ("wnn_write_counts", (), "write_counts.inc", _WRITE_INPUTS, ("cells", "slots")),
        (
            "wnn_read_states",
            ("read_states.h", "read.h"),
            "read.inc",
            _READ_INPUTS,
            ("sums", "scores"),
        ),
        (
            "wnn_read_counts",
            ("read_counts.h", "read.h"),
            "read.inc",
            _READ_INPUTS,
            ("sums", "scores"),
        ),
        ("wnn_ask_states", ("read_states.h",), "ask.inc", _ASK_INPUTS, ("sums",)),
        ("wnn_ask_counts", ("read_counts.h",), "ask.inc", _ASK_INPUTS, ("sums",)),
        (
            "wnn_judge_states",
            ("read_states.h", "read.h", "judge.h"),
            "judge.inc",
            _JUDGE_INPUTS,
            ("totals",),
        ),
        (
            "wnn_judge_counts",
            ("read_counts.h", "read.h", "judge.h"),
            "judge.inc",
            _JUDGE_INPUTS,
            ("totals",),
        ),
    )
)


def _text(name: str) -> str:
    return (files("optuna_wnn.evaluators") / "kernels" / name).read_text(encoding="ascii")


def _columns() -> str:
    """Return the names that the host and the kernels share, as macros."""
    names = {
        "THREADS": THREADS,
        "LANES": LANES,
        "BUCKETS": BUCKETS,
        "EACH": EACH,
        "READ_CHUNK": READ_CHUNK,
        "WRITE_CHUNK": WRITE_CHUNK,
        "N_SIZE": len(NEURON),
        "C_SIZE": len(CLUSTER),
        "A_SIZE": len(CANDIDATE),
        "PIECE": PIECE,
        "SAMPLED": SAMPLED,
        "SCORE_LIMIT": SCORE_LIMIT,
        "PER_STEP": NAT // SCORE_STEPS,
        "LOG_BITS": LOG_BITS,
    }
    names |= {f"KIND_{kind.upper()}": number for kind, number in KINDS.items()}
    for letter, columns in (
        *(("P", PARAMS), ("N", NEURON), ("C", CLUSTER)),
        *(("J", JUDGE), ("A", CANDIDATE)),
    ):
        names |= {f"{letter}_{column.upper()}": i for i, column in enumerate(columns)}
    return "".join(f"#define {name} {number}u\n" for name, number in names.items())


def api() -> Api | None:
    """Return how MLX reaches this machine's GPU, or ``None`` if it finds none.

    Raises:
        ImportError: If MLX is not installed, or a library that it needs is missing.
    """
    import mlx.core as mx

    if mx.metal.is_available():
        return "metal"
    if hasattr(mx, "cuda") and mx.cuda.is_available():
        return "cuda"
    return None


def make_kernel(
    api: Api,
    name: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    source: str,
    header: str,
) -> Launchable:
    """Return what launches a kernel; the only place that hands text to MLX."""
    import mlx.core as mx

    make: Any = mx.fast.metal_kernel if api == "metal" else mx.fast.cuda_kernel
    made: Launchable = make(
        name=name,
        input_names=list(inputs),
        output_names=list(outputs),
        source=source,
        header=header,
    )
    return made


def make_kernels(api: Api) -> dict[str, Launchable]:
    """Return every kernel by its name; what launches one takes its arrays by their names."""
    return {kernel.name: _taking_names(api, kernel) for kernel in KERNELS}


def _taking_names(api: Api, kernel: KernelSource) -> Launchable:
    made = make_kernel(
        api, kernel.name, kernel.inputs, kernel.outputs, kernel.source(), kernel.header(api)
    )

    def launch(arrays: Mapping[str, Any], **call: Any) -> list[Any]:
        return made(inputs=[arrays[name] for name in kernel.inputs], **call)

    return launch
