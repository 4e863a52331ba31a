# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Lets PyTorch compute in FP16 on a card, and prints what came out. Private to this collection: not an interface.

``_torch_probe`` gives this text to the interpreter that has PyTorch, so it imports nothing of the collection. The whole
result so far is printed as a line of JSON before each step: when one hangs or crashes, the last line says which.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any, Callable

# What is timed is repeated as often.
REPEATS = 5


class Report:
    """The result so far, as lines on the standard output, onto which nothing else may print."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {"fp16_matmul": {"ran": False}, "fp16_convolution": {"ran": False}}
        self.stream = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def step(self, name: str) -> None:
        self.values["step"] = name
        self.write()

    def write(self) -> None:
        self.stream.write(json.dumps(self.values) + "\n")
        self.stream.flush()


def compare(torch: Any, compute: Callable[..., Any], single: list[Any], half: list[Any]) -> dict[str, Any]:
    """One computation in FP16 against the same numbers in FP32."""
    expected = compute(*single)
    got = compute(*half).to(torch.float32)
    finite = all(bool(torch.isfinite(numbers).all().item()) for numbers in (expected, got))
    error = ((got - expected).abs().max() / expected.abs().max()).item() if finite else None
    return {"ran": True, "finite": finite, "max_error": error}


def seconds(torch: Any, compute: Callable[..., Any], inputs: list[Any]) -> float:
    """How long the repeats take; the first run, in which libraries choose and load their kernels, does not count."""

    def wait() -> None:
        if inputs[0].is_cuda:
            torch.cuda.synchronize()

    compute(*inputs)
    wait()
    began = time.perf_counter()
    for __repeat in range(REPEATS):
        compute(*inputs)
    wait()
    return time.perf_counter() - began


def measure(torch: Any, report: Report, device: str) -> None:
    """A matrix product and a convolution, both of a size that Stable Diffusion has; together they take under 200 MB."""
    functional = importlib.import_module("torch.nn.functional")
    torch.manual_seed(1)
    computations: dict[str, tuple[Callable[..., Any], list[Any]]] = {
        "matmul": (torch.matmul, [torch.randn(1024, 1024), torch.randn(1024, 1024)]),
        # With exactly this size a GTX 16xx gives NaN (huggingface/diffusers#1556).
        "convolution": (
            lambda image, kernel: functional.conv2d(image, kernel, padding=1),
            [torch.randn(2, 640, 64, 64), torch.randn(640, 640, 3, 3) / 64],
        ),
    }
    # FP32 is to be FP32: not TF32, which newer cards take for it.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    times = {"single": 0.0, "half": 0.0}
    for name, (compute, numbers) in computations.items():
        report.step(f"the FP16 {name}")
        half = [number.to(device).to(torch.float16) for number in numbers]
        single = [number.to(torch.float32) for number in half]
        found = compare(torch, compute, single, half)
        if not found["finite"] and name == "convolution":
            # The web UI switches this on for a GTX 16xx (AUTOMATIC1111/stable-diffusion-webui#4407).
            torch.backends.cudnn.benchmark = True
            found["finite_with_cudnn_benchmark"] = compare(torch, compute, single, half)["finite"]
        report.values[f"fp16_{name}"] = found
        report.step(f"the timing of the {name}")
        times["single"] += seconds(torch, compute, single)
        times["half"] += seconds(torch, compute, half)
    report.values["fp16_speedup"] = round(times["single"] / times["half"], 2)


def ask(report: Report) -> None:
    """Everything, until something fails."""
    report.step("the import")
    torch = importlib.import_module("torch")
    report.values["torch_version"] = str(torch.__version__)
    report.values["cuda"] = torch.version.cuda
    if torch.version.cuda is None:
        return
    # torch.cuda.get_arch_list() tells it only where a card is found.
    report.values["arch_list"] = str(torch._C._cuda_getArchFlags() or "").split()
    report.step("the start of CUDA")
    torch.cuda.init()
    properties = torch.cuda.get_device_properties(0)
    report.values["device_name"] = properties.name
    report.values["compute_capability"] = f"{properties.major}.{properties.minor}"
    report.values["vram_mib"] = properties.total_memory // (1024 * 1024)
    with torch.no_grad():
        measure(torch, report, "cuda:0")
    report.values["done"] = True


def main() -> None:
    if len(sys.argv) > 1:
        # Numbered as nvidia-smi and NVML number the cards, when it is a number.
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        os.environ["CUDA_VISIBLE_DEVICES"] = sys.argv[1]
    report = Report()
    try:
        ask(report)
    except ModuleNotFoundError as exc:
        report.values["missing"] = exc.name
        report.values["error"] = str(exc)
    except Exception as exc:
        report.values["error"] = str(exc) or type(exc).__name__
    report.write()


if __name__ == "__main__":
    main()
