# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines as engines really print them, however they arrive."""

from __future__ import annotations

import pytest
from sd_watchdog import log_lines
from sd_watchdog.log_lines import LogEvent, LogWatch

KNOWN = [
    ("cuda_error", "RuntimeError: CUDA error: an illegal memory access was encountered"),
    ("cuda_error", "    RuntimeError: CUDA error: unspecified launch failure"),
    ("cuda_error", "RuntimeError: CUDA error: device-side assert triggered"),
    ("cuda_error", "RuntimeError: CUDA error: misaligned address"),
    ("cuda_error", "RuntimeError: CUDA error: an illegal instruction was encountered"),
    ("cuda_error", "RuntimeError: CUDA error: the launch timed out and was terminated"),
    ("cuda_error", "RuntimeError: CUDA error: unknown error"),
    ("cuda_error", "RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa)`"),
    ("cuda_error", "RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ("cuda_error", "RuntimeError: CUDA error: all CUDA-capable devices are busy or unavailable"),
    ("cuda_error", "RuntimeError: CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
    ("cuda_error", "RuntimeError: CUDA error: no CUDA-capable device is detected"),
    ("cuda_error", "RuntimeError: No CUDA GPUs are available"),
    ("cuda_error", "Unable to determine the device handle for GPU 0000:01:00.0: GPU is lost.  Reboot the system"),
    ("cuda_error", "RuntimeError: CUDA error: uncorrectable ECC error encountered"),
    ("cuda_error", "CUDA error: an illegal memory access was encountered"),
    (
        "cuda_oom",
        "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 512.00 MiB (GPU 0; 5.93 GiB total)",
    ),
    ("cuda_oom", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity"),
    ("cuda_oom", "RuntimeError: CUDA error: out of memory"),
    (
        "cuda_oom",
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 3.2 MiB on device 0: cudaMalloc failed: out of memory",
    ),
    ("cuda_oom", "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ("memory_error", "MemoryError"),
    ("memory_error", "MemoryError: bad allocation"),
    (
        "memory_error",
        "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 4.00 GiB for an array with shape (1,)",
    ),
    (
        "memory_error",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:75] err == 0. DefaultCPUAllocator: can't allocate memory: you "
        "tried to allocate 16777216 bytes. Error code 12 (Cannot allocate memory)",
    ),
    ("memory_error", "terminate called after throwing an instance of 'std::bad_alloc'"),
    ("memory_error", "OSError: [Errno 12] Cannot allocate memory"),
    (
        "port_in_use",
        "ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 7860): address already in use",
    ),
    ("port_in_use", "OSError: [Errno 98] Address already in use"),
    ("port_in_use", "OSError: Cannot find empty port in range: 7860-7860. You can specify a different port"),
    ("port_in_use", "OSError: All ports from 7860 to 7959 are in use. Please close a port."),
    ("port_in_use", "OSError: Port 7860 is in use. If a gradio.Blocks is running on the port, you can close() it"),
    ("disk_full", "OSError: [Errno 28] No space left on device: '/srv/sd/outputs/txt2img-images'"),
    ("read_only", "OSError: [Errno 30] Read-only file system: '/srv/sd/webui/config.json'"),
]
HARMLESS = [
    "Loading weights [6ce0161689] from /srv/sd/models/Stable-diffusion/v1-5-pruned-emaonly.safetensors",
    "Model loaded in 6.9s (0.5s create model, 4.5s load weights).",
    " 35%|███▌      | 7/20 [02:34<04:46, 22.04s/it]",
    "Total progress: 100%|██████████| 20/20 [07:21<00:00, 22.07s/it]",
    "Running on local URL:  http://127.0.0.1:7860",
    "Warning: caught exception 'Found no NVIDIA driver on your system.', memory monitor disabled",
    "/venv/torch/cuda/__init__.py:141: UserWarning: CUDA initialization: Unexpected error from cudaGetDeviceCount(). "
    "Did you run some cuda functions before calling NumCudaDevices() that might have already set an error? Error 100: "
    "no CUDA-capable device is detected (Triggered internally at ../c10/cuda/CUDAFunctions.cpp:108.)",
    "/venv/torch/cuda/__init__.py:107: UserWarning: CUDA initialization: CUDA unknown error - this may be due to an "
    "incorrectly set up environment, e.g. changing env variable CUDA_VISIBLE_DEVICES after program start.",
    "[INFO ] ggml_extend.hpp:1702 - vae compute buffer size: 1664.00 MB(RAM)",
    "login refused for '192.168.1.5'",
]


@pytest.mark.parametrize(("kind", "text"), KNOWN, ids=[text[:60] for _kind, text in KNOWN])
def test_a_line_that_means_something(kind: str, text: str) -> None:
    found = LogWatch().feed(text.encode() + b"\n")
    assert [event.kind for event in found] == [kind]
    assert found[0].line in text


@pytest.mark.parametrize("text", HARMLESS)
def test_a_line_that_means_nothing(text: str) -> None:
    assert LogWatch().feed(text.encode() + b"\n") == []


def test_each_kind_has_a_line_above() -> None:
    kinds = {kind for kind, _patterns in log_lines._KINDS}
    assert kinds == {kind for kind, _text in KNOWN}


def test_however_the_output_is_cut() -> None:
    output = "".join(f"{text}\n" for _kind, text in KNOWN).encode() + "".join(f"{text}\r" for text in HARMLESS).encode()
    expected = LogWatch().feed(output)
    assert [event.kind for event in expected] == [kind for kind, _text in KNOWN]
    for size in (1, 2, 3, 7, 100, 4096):
        watch = LogWatch()
        found: list[LogEvent] = []
        for start in range(0, len(output), size):
            found += watch.feed(output[start : start + size])
        assert found == expected, size


def test_the_last_line_without_an_end_counts_once_it_has_one() -> None:
    watch = LogWatch()
    assert watch.feed(b"MemoryError") == []
    assert watch.tail(1) == ["MemoryError"]
    assert watch.feed(b"\n") == [LogEvent("memory_error", "MemoryError")]


def test_the_last_lines() -> None:
    watch = LogWatch()
    for number in range(100):
        watch.feed(f"line {number}\r\n".encode())
    assert watch.tail(3) == ["line 97", "line 98", "line 99"]
    assert len(watch.tail(1000)) == log_lines.TAIL_LINES
    assert watch.tail(0) == []


def test_of_a_progress_bar_only_its_last_state() -> None:
    watch = LogWatch()
    watch.feed(b"before\n")
    for step in range(50):
        watch.feed(f"\r{step * 2:3}%|".encode())
    assert watch.tail(5) == ["before", "96%|", "98%|"]
    watch.feed(b"\n\n\nafter\n")
    assert watch.tail(5) == ["before", "98%|", "after"]


def test_an_error_in_the_middle_of_a_progress_bar() -> None:
    """Both go to the same place: the line begins with what the bar has left."""
    watch = LogWatch()
    found = watch.feed(b"\r 35%|###   | 7/20RuntimeError: CUDA error: misaligned address\n")
    assert [event.kind for event in found] == ["cuda_error"]


def test_lines_are_short_and_hold_nothing_that_moves_a_cursor() -> None:
    watch = LogWatch()
    found = watch.feed(
        b"\x1b[31m\x07" + b"x" * 5000 + b"MemoryErr CUDA out of memory\t\x1b[0m\xff\x00" + b"y" * 900 + b"\n"
    )
    assert len(found) == 1 and "CUDA out of memory" in found[0].line
    for text in [found[0].line, *watch.tail(5)]:
        assert text.isprintable() and len(text) <= log_lines.LINE_CHARACTERS


def test_a_line_without_end_is_not_kept() -> None:
    watch = LogWatch()
    for _ in range(100):
        watch.feed(b"x" * 4000)
    assert len(watch._partial) <= log_lines.PARTIAL_BYTES
    assert watch.feed(b"\nMemoryError\n") == [LogEvent("memory_error", "MemoryError")]


def test_any_bytes_at_all() -> None:
    watch = LogWatch()
    watch.feed(bytes(range(256)) * 50)
    watch.feed(b"")
    assert all(line.isprintable() for line in watch.tail(30))
