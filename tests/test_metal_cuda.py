"""The CUDA text of a kernel runs under the shim too, and NVIDIA's compiler takes it."""

from __future__ import annotations

import numpy as np
import pytest


mx = pytest.importorskip("mlx.core", exc_type=ImportError)

import metal  # noqa: E402
from metal import cuda  # noqa: E402
from metal import launch  # noqa: E402


pytestmark = pytest.mark.skipif(metal.missing() is not None, reason=str(metal.missing()))
needs_nvrtc = pytest.mark.skipif(cuda.missing() is not None, reason=str(cuda.missing()))

VALUES = np.random.default_rng(1).integers(0, 1000, 100).astype(np.uint32)
# Sums of 32 values each by way of a warp, of shared memory, and of an atomic.
SOURCE = """
__shared__ uint32_t part[WIDTH];
const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
const uint32_t value = i < SIZE ? given[i] : 0u;
uint32_t sum = value;
for (int step = 16; step > 0; step >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, step);
part[threadIdx.x] = value;
__syncthreads();
if (threadIdx.x == 0u) {
  uint32_t again = 0u;
  for (uint32_t j = 0u; j < WIDTH; j++) again += part[j];
  sums[2u * blockIdx.x] = sum;
  sums[2u * blockIdx.x + 1u] = again;
}
if (i < SIZE) atomicAdd(total, value);
"""


def run(source: str, size: int = 100) -> tuple[list[int], list[int]]:
    sums, total = launch(
        source,
        {"given": VALUES[:size]},
        [("sums", (8,), mx.uint32), ("total", (1,), mx.uint32)],
        grid=(size, 1, 1),
        template=[("SIZE", size), ("WIDTH", 32)],
        init_value=0,
    )
    return sums.tolist(), total.tolist()


@pytest.mark.parametrize("sanitizer", [None, "address", "thread"])
def test_the_cuda_text_runs(sanitizer: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if metal.missing(sanitizer):
        pytest.skip(str(metal.missing(sanitizer)))
    metal.install(monkeypatch, api="cuda", sanitizer=sanitizer)
    rows = [int(row.sum()) for row in np.split(VALUES, [32, 64, 96])]
    assert run(SOURCE) == ([row for row in rows for _ in range(2)], [sum(rows)])


@pytest.mark.parametrize(
    ("found_by", "says", "piece", "instead"),
    [
        ("thread", "data race", "__syncthreads();", ""),
        ("thread", "data race", "atomicAdd(total, value)", "total[0] += value"),
        ("address", "heap-buffer-overflow", "i < SIZE ? given[i] : 0u", "given[i]"),
        (None, "without all of its lanes", "0xffffffffu", "0xffffu"),
        (None, "divergent", "__syncthreads();", "if (i < 9u) __syncthreads();"),
        (
            None,
            "divergent",
            "const uint32_t value",
            "if (i >= SIZE) return;\nconst uint32_t value",
        ),
    ],
)
def test_a_planted_fault_is_found(
    found_by: str | None, says: str, piece: str, instead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among them what is no fault on Metal: threads past the edge of the grid run too."""
    if metal.missing(found_by):
        pytest.skip(str(metal.missing(found_by)))
    metal.install(monkeypatch, api="cuda", sanitizer=found_by)
    assert piece in SOURCE
    with pytest.raises(metal.Fault, match=says):
        run(SOURCE.replace(piece, instead))


@needs_nvrtc
@pytest.mark.parametrize("architecture", cuda.ARCHITECTURES)
def test_the_compiler_of_nvidia_takes_the_text(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = metal.install(monkeypatch, api="cuda", schedules=1)
    run(SOURCE)
    assert cuda.complaints(shim.launches[0].text, architecture) == []


@needs_nvrtc
@pytest.mark.parametrize(
    ("piece", "instead", "says"),
    [
        ("atomicAdd(total, value)", "atomicAdd((short*)total, (short)value)", "no instance"),
        ("sum += __shfl_xor_sync(0xffffffffu, sum, step)", "sum += simd_sum(sum)", "undefined"),
        ("const uint32_t value", "const device uint32_t value", "undefined"),
    ],
)
def test_the_compiler_of_nvidia_refuses_what_is_wrong(
    piece: str, instead: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert piece in SOURCE
    metal.install(monkeypatch, api="cuda")
    kernel = mx.fast.cuda_kernel(
        name="test",
        input_names=["given"],
        output_names=["sums", "total"],
        source=SOURCE.replace(piece, instead),
    )
    text = cuda.text(
        kernel.settings,
        [mx.array(VALUES)],
        {"output_dtypes": [mx.uint32, mx.uint32], "template": [("SIZE", 100), ("WIDTH", 32)]},
    )
    found = cuda.complaints(text, "sm_90a")
    assert any(says in line for line in found), found
