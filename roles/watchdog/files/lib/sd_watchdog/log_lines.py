# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the engine's own output says about its health: a few known sentences, and its last lines as evidence.

Pure: bytes in, events out. A line is only a hint, because users' words reach the log as well; what follows from it is
decided elsewhere, together with what else is seen.
"""

from __future__ import annotations

import re
from collections import deque
from typing import NamedTuple

PARTIAL_BYTES = 8192
TAIL_LINES = 30
LINE_CHARACTERS = 300

# The numbers are issues of AUTOMATIC1111/stable-diffusion-webui where no other project is named.
_KINDS = (
    # Needs no new process, only less to do, unless it never gets better (3280, 3227, 12809). torch.cuda's and, from 2.5
    # on, torch's OutOfMemoryError; ggml's own words (ggml-org/ggml, src/ggml-cuda).
    ("cuda_oom", (rb"CUDA out of memory", rb"HIP out of memory", rb"OutOfMemoryError", rb"CUDA error: out of memory",
                  rb"cudaMalloc failed: out of memory", rb"CUDNN_STATUS_ALLOC_FAILED", rb"CUBLAS_STATUS_ALLOC_FAILED")),
    # Sticky: every later call of the process fails as well (1, 1766, 4378, 6790, 12582, 14554, 15015, and
    # continue-revolution/sd-webui-animatediff 174: it has to be closed). The texts are those of cudaGetErrorString.
    ("cuda_error", (rb"an illegal memory access was encountered", rb"unspecified launch failure",
                    rb"device-side assert triggered", rb"misaligned address",
                    rb"an illegal instruction was encountered", rb"operation not supported on global/shared address",
                    rb"invalid program counter", rb"hardware stack error", rb"uncorrectable ECC error",
                    rb"the launch timed out and was terminated",
                    rb"CUBLAS_STATUS_(?:EXECUTION_FAILED|INTERNAL_ERROR)",
                    rb"CUDNN_STATUS_(?:EXECUTION_FAILED|INTERNAL_ERROR)",
                    rb"CUDA-capable device(?:\(s\) is/are|s are) busy or unavailable",
                    rb"no CUDA-capable device is detected", rb"No CUDA GPUs are available",
                    rb"CUDA error: (?:unknown|initialization) error", rb"GPU is lost", rb"GPU has fallen off the bus")),
    # PyTorch's c10/core/impl/alloc_cpu.cpp (5020, 10559: nothing is made any more until a restart), numpy, C++.
    ("memory_error", (rb"DefaultCPUAllocator: (?:can't allocate|not enough) memory", rb"std::bad_alloc",
                      rb"^(?:[\w.]+\.)?_?(?:Array)?MemoryError\b", rb"Cannot allocate memory",
                      rb"ggml_aligned_malloc: insufficient memory", rb"failed to allocate .{0,40}buffer of size")),
    # Python's errno 98, uvicorn's words, Gradio's search for a port (16543, 8941, 6626).
    ("port_in_use", (rb"[Aa]ddress already in use", rb"Cannot find empty port", rb"OSError: All ports from \d+ to",
                     rb"OSError: Port \d+ is in use")),
    ("disk_full", (rb"No space left on device", rb"Disk quota exceeded")),
    ("read_only", (rb"Read-only file system",)),
)  # fmt: skip
_ANY = re.compile(b"|".join(b"(?P<%s>%s)" % (kind.encode(), b"|".join(patterns)) for kind, patterns in _KINDS))
# Said by torch.cuda.is_available() where the card cannot be used, also by an engine that goes on with the processor.
_HARMLESS = b"Warning: CUDA initialization"
_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[ -/]*[@-~]")


class LogEvent(NamedTuple):
    """A line that means something, cut to what matters of it."""

    kind: str
    line: str


class LogWatch:
    """Reads the output as it comes; a line feed at its end judges the last words."""

    def __init__(self) -> None:
        self._partial = b""
        self._tail: deque[bytes] = deque(maxlen=TAIL_LINES)
        # A progress bar that writes over itself: only its last state is one of the last lines.
        self._overwritten = b""

    def feed(self, data: bytes) -> list[LogEvent]:
        """The events of the lines that these bytes complete."""
        events: list[LogEvent] = []
        lines = (self._partial + data).split(b"\n")
        for line in lines[:-1]:
            self._take(line, events)
            if self._overwritten:
                self._tail.append(self._overwritten)
                self._overwritten = b""
        drawn, carriage_return, self._partial = lines[-1].rpartition(b"\r")
        if carriage_return:
            self._take(drawn, events)
        if len(self._partial) > PARTIAL_BYTES:
            self._take(self._partial, events)
            self._partial = b""
        return events

    def tail(self, n: int) -> list[str]:
        """The last lines, the newest last."""
        last = [*self._tail, *(line for line in (self._overwritten, self._partial) if line.strip())]
        return [_text(line[: 4 * LINE_CHARACTERS]) for line in last[-n:]] if n > 0 else []

    def _take(self, line: bytes, events: list[LogEvent]) -> None:
        """Judge what one line of the screen has shown, one drawing after the other."""
        for drawing in line.split(b"\r"):
            if not drawing.strip():
                continue
            found = _ANY.search(drawing)
            if found and _HARMLESS not in drawing:
                start = max(0, found.start() - LINE_CHARACTERS // 3)
                events.append(LogEvent(str(found.lastgroup), _text(drawing[start : start + 4 * LINE_CHARACTERS])))
            self._overwritten = drawing[: 4 * LINE_CHARACTERS]


def _text(line: bytes) -> str:
    """For people: no colours, nothing that moves a cursor."""
    text = _ESCAPES.sub(b"", line).decode("utf-8", "replace").replace("\t", " ")
    return "".join(character for character in text if character.isprintable()).strip()[:LINE_CHARACTERS]
