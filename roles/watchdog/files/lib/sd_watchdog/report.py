# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The supervisor's facts as status.json and as Prometheus metrics. Called every few seconds, so it is plain and small.

Nothing in the facts can make these functions fail: a supervisor does not end over a report.
"""

from __future__ import annotations

import json
import math
import time
from typing import Any, Optional

STATES = ("waiting", "starting", "ready", "busy", "unhealthy", "stopping", "stopped", "maintenance")
# Those in which the web UI answers.
SERVING = ("ready", "busy")
# Who reads status.json takes no more than this.
MAX_STATUS_BYTES = 65536
_MAX_TEXT, _MAX_ITEMS, _MAX_DEPTH = 1000, 100, 6
_RESTARTS = 10
# Lines of evidence for each restart: fewer where they would make the file too large.
_EVIDENCE = (12, 3, 0)
_MIB = 1048576

# Labels and value; name, kind and help of what they are samples of.
_Sample = tuple[dict[str, Any], Optional[float]]
_Family = tuple[str, str, str, list[_Sample]]


def duration(seconds: float) -> str:
    """As people say it: 45 s, 2 min 10 s, 12 min, 3 h 12 min, 2 d 4 h."""
    if not math.isfinite(seconds):
        return "an unknown time"
    whole = max(0, round(seconds))
    if whole < 100:
        return f"{whole} s"
    if whole < 600:
        return _two(whole // 60, "min", whole % 60, "s")
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 1440:
        return _two(minutes // 60, "h", minutes % 60, "min")
    hours = round(minutes / 60)
    return _two(hours // 24, "d", hours % 24, "h")


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large} {large_unit} {small} {small_unit}" if small else f"{large} {large_unit}"


def sentence(words: str) -> str:
    """Words that begin and end as a sentence does."""
    if not words:
        return ""
    words = words[0].upper() + words[1:]
    return words if words.endswith((".", "!", "?", "…")) else f"{words}."


def number(value: Any) -> float | None:
    """A number that can be counted with, or None."""
    try:
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
    except OverflowError:
        return None


# status.json


def render_status(facts: dict[str, Any]) -> str:
    """The facts as JSON, with when they were written: on the wall, and in seconds since the host started."""
    text = ""
    for lines in _EVIDENCE:
        text = json.dumps(_status(facts, lines), ensure_ascii=False, indent=1) + "\n"
        if len(text.encode("utf-8", "replace")) <= MAX_STATUS_BYTES:
            break
    # A lone surrogate, as in a path that is no UTF-8, cannot be written to a file.
    return text.encode("utf-8", "replace").decode("utf-8")


def _status(facts: dict[str, Any], lines: int) -> dict[str, Any]:
    restarts = facts.get("restarts")
    short = [
        {**restart, "evidence": list(restart.get("evidence") or [])[-lines:] if lines else []}
        for restart in (restarts if isinstance(restarts, (list, tuple)) else [])
        if isinstance(restart, dict)
    ][-_RESTARTS:]
    written = {"written": time.time(), "written_boottime": time.clock_gettime(time.CLOCK_BOOTTIME)}
    data: dict[str, Any] = _plain({"schema": 1, **facts, "restarts": short, **written}, 0)
    return data


def _plain(value: Any, depth: int) -> Any:
    """What JSON has words for; long things are cut."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, dict) and depth < _MAX_DEPTH:
        return {str(key)[:_MAX_TEXT]: _plain(item, depth + 1) for key, item in list(value.items())[:_MAX_ITEMS]}
    if isinstance(value, (list, tuple)) and depth < _MAX_DEPTH:
        return [_plain(item, depth + 1) for item in value[:_MAX_ITEMS]]
    return str(value)[:_MAX_TEXT]


# metrics.prom


def render_metrics(facts: dict[str, Any]) -> str:
    """In the text format of Prometheus, for node_exporter's textfile collector. What is not known is left out."""
    state = facts.get("state")
    restarts, xids = _counts(facts, "restarts_total", "reason"), _counts(facts, "xid_total", "xid")
    profile = {"profile": facts.get("profile") or "", "desired": facts.get("desired_profile") or ""}
    maintenance = bool(facts.get("maintenance")) or state == "maintenance"
    problems = facts.get("problems")
    families: list[_Family] = [
        ("up", "gauge", "1 while the web UI's process runs.", _one(facts.get("engine_pid") is not None)),
        ("ready", "gauge", "1 while the web UI answers.", _one(state in SERVING)),
        ("state", "gauge", "1 for the state it is in.", [({"state": one}, float(one == state)) for one in STATES]),
        ("maintenance", "gauge", "1 while the watchdog looks on and does nothing.", _one(maintenance)),
        (
            "problems",
            "gauge",
            "Things that need a person, such as a disk that fills up.",
            _one(len(problems) if isinstance(problems, (list, tuple)) else None),
        ),
        ("probe_seconds", "gauge", "How long the last health request took.", _one(facts.get("probe_seconds"))),
        ("uptime_seconds", "gauge", "How long the web UI's process has been running.", _one(facts.get("uptime"))),
        (
            "ready_seconds",
            "gauge",
            "How long it took from its start to its first answer.",
            _one(facts.get("ready_after")),
        ),
        ("restarts_total", "counter", "Restarts by the watchdog.", restarts),
        ("outage_seconds_total", "counter", "Seconds without an answer.", _one(facts.get("outage_seconds_total"))),
        ("failures", "gauge", "Failures that the backoff counts.", _one(facts.get("failures"))),
        (
            "backoff_seconds",
            "gauge",
            "Seconds until the next start; 0 when none is being waited for.",
            _one(facts.get("next_start_in") or 0),
        ),
        ("profile_info", "gauge", "The active and the desired profile.", [(profile, 1.0)]),
        ("xid_total", "counter", "Errors of the NVIDIA driver since the host was set up.", xids),
        ("reboots_total", "counter", "Reboots by the watchdog.", _one(facts.get("reboots_total"))),
        ("queue", "gauge", "Requests that wait for the running one.", _one(facts.get("queue"))),
        ("memory_bytes", "gauge", "Memory in use by the web UI.", _one(facts.get("memory_mib"), _MIB)),
        ("memory_limit_bytes", "gauge", "Memory that it may use.", _one(facts.get("memory_limit_mib"), _MIB)),
        ("engine_cores", "gauge", "Cores in use by the web UI.", _one(facts.get("cores"))),
        *_gpu(facts.get("gpu")),
        ("updated_timestamp_seconds", "gauge", "When these figures were written.", _one(round(time.time(), 3))),
    ]
    return "".join(f"{line}\n" for family in families for line in _lines(family))


def _gpu(gpu: Any) -> list[_Family]:
    if not isinstance(gpu, dict):
        return []
    utilization, used, total = gpu.get("utilization"), gpu.get("memory_used_mib"), gpu.get("memory_total_mib")
    return [
        ("gpu_answers", "gauge", "1 while nvidia-smi answers.", _one(not gpu.get("said"))),
        ("gpu_utilization_ratio", "gauge", "Share of the time in which the card computes.", _one(utilization, 0.01)),
        ("gpu_memory_bytes", "gauge", "Memory of the card in use.", _one(used, _MIB)),
        ("gpu_memory_total_bytes", "gauge", "Memory of the card.", _one(total, _MIB)),
        ("gpu_temperature_celsius", "gauge", "Temperature of the card.", _one(gpu.get("temperature"))),
    ]


def _one(value: Any, factor: float = 1.0) -> list[_Sample]:
    """A family of a single sample without labels."""
    known = number(value)
    return [] if known is None else [({}, known * factor)]


def _counts(facts: dict[str, Any], key: str, label: str) -> list[_Sample]:
    counts = facts.get(key)
    if not isinstance(counts, dict):
        return []
    return [({label: name}, number(value)) for name, value in sorted(counts.items(), key=lambda pair: str(pair[0]))]


def _lines(family: _Family) -> list[str]:
    """A family without samples is not mentioned at all."""
    name, kind, text, samples = family
    lines = []
    for labels, value in samples:
        if value is not None:
            inner = ",".join(f'{label}="{_escape(str(words))}"' for label, words in labels.items())
            lines.append(f"sd_watchdog_{name}{'{' + inner + '}' if inner else ''} {_figure(value)}")
    return [f"# HELP sd_watchdog_{name} {text}", f"# TYPE sd_watchdog_{name} {kind}", *lines] if lines else []


def _escape(text: str) -> str:
    """A label's value; a line must not end in it."""
    text = text.encode("utf-8", "replace").decode("utf-8")[:_MAX_TEXT]
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", " ")


def _figure(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(round(value, 6))
