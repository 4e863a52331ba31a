"""A stand-in for PyTorch with a card: what the probe uses of it, and the errors that the real one raises.

The environment variable TORCH_MACHINE names a JSON file: the build (version, cuda, arch_list), the cards, and in
"events" what goes wrong where. The texts of errors are those of PyTorch 2.1 and 2.7. Nothing is computed: a tensor is
only its largest value, and a computation in FP16 is off by the card's "error", or gives NaN.
"""

from __future__ import annotations

import json
import math
import os
import time
from types import SimpleNamespace
from typing import Any

with open(os.environ["TORCH_MACHINE"], encoding="utf-8") as _stream:
    MACHINE: dict[str, Any] = json.load(_stream)


def happen(where: str) -> None:
    """Whatever is to go wrong here: a hang, a crash by a signal, the end of the process, or an error with this text."""
    event = MACHINE["events"].get(where)
    if event == "hang":
        with open(os.environ["TORCH_MACHINE"] + ".hangs", "w", encoding="ascii"):
            pass
        while True:
            time.sleep(600)
    if event == "exit":
        os.write(2, b"libcudart: giving up\n")
        os._exit(3)
    if isinstance(event, int):
        os.kill(os.getpid(), event)
    if event is not None:
        raise (ImportError if where == "import" else RuntimeError)(event)


# Libraries print where they should not.
print('{"step": "none of mine"}', flush=True)
happen("import")

__version__ = MACHINE["version"]
version = SimpleNamespace(cuda=MACHINE["cuda"])
float16, float32 = "float16", "float32"
backends = SimpleNamespace(
    cuda=SimpleNamespace(matmul=SimpleNamespace(allow_tf32=True)),
    cudnn=SimpleNamespace(allow_tf32=True, benchmark=False),
)


class Tensor:
    """As much of a tensor as the probe looks at."""

    def __init__(self, value: float, dtype: str = float32, is_cuda: bool = False) -> None:
        self.value, self.dtype, self.is_cuda = value, dtype, is_cuda

    def to(self, where: str) -> Tensor:
        if where in (float16, float32):
            return Tensor(self.value, where, self.is_cuda)
        assert where == "cuda:0" and _state.card is not None
        happen("memory")
        return Tensor(self.value, self.dtype, True)

    def _like(self, value: float) -> Tensor:
        happen("kernel")
        return Tensor(value, self.dtype, self.is_cuda)

    def __truediv__(self, other: Tensor | int) -> Tensor:
        return self._like(self.value / (other.value if isinstance(other, Tensor) else other))

    def __sub__(self, other: Tensor) -> Tensor:
        return self._like(self.value - other.value)

    def abs(self) -> Tensor:
        return self._like(abs(self.value))

    def max(self) -> Tensor:
        return self

    def all(self) -> Tensor:
        return self

    def item(self) -> float:
        return self.value


def randn(*size: int) -> Tensor:
    return Tensor(4.0)


def manual_seed(seed: int) -> None:
    """The numbers are always the same."""


def isfinite(numbers: Tensor) -> Tensor:
    return Tensor(1.0 if math.isfinite(numbers.value) else 0.0)


def computed(what: str, inputs: tuple[Tensor, ...]) -> Tensor:
    """The result of a computation on the card."""
    happen(what)
    assert all(tensor.is_cuda and tensor.dtype == inputs[0].dtype for tensor in inputs)
    # Else a newer card would compute in TF32 what is compared as FP32.
    assert not backends.cuda.matmul.allow_tf32 and not backends.cudnn.allow_tf32
    card = _state.card
    _state.clock += card["seconds"][inputs[0].dtype]
    if inputs[0].dtype == float32:
        return Tensor(128.0, float32, True)
    if what in card["nan"] and not (backends.cudnn.benchmark and card["benchmark_helps"]):
        return Tensor(math.nan, float16, True)
    return Tensor(128.0 * (1 + card["error"]), float16, True)


def matmul(left: Tensor, right: Tensor) -> Tensor:
    return computed("matmul", (left, right))


class no_grad:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *args: object) -> None:
        pass


def _init() -> None:
    if version.cuda is None:
        raise AssertionError("Torch not compiled with CUDA enabled")
    happen("init")
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    for index, card in enumerate(MACHINE["cards"]):
        # CUDA's own order is the fastest first; that of the bus, with its numbers, has to be asked for.
        by_index = wanted == str(index) and os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
        if wanted in (None, card["uuid"]) or by_index:
            _state.card = card
            return
    raise RuntimeError("No CUDA GPUs are available")


def _properties(index: int) -> SimpleNamespace:
    assert index == 0 and _state.card is not None
    return SimpleNamespace(**_state.card["properties"])


_state = SimpleNamespace(card=None, clock=0.0)
# Nothing but the card takes time, and that is the same on every machine.
vars(time)["perf_counter"] = lambda: _state.clock
_C = SimpleNamespace(_cuda_getArchFlags=lambda: MACHINE["arch_list"])
cuda = SimpleNamespace(init=_init, get_device_properties=_properties, synchronize=lambda: happen("synchronize"))
