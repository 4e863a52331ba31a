# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the supervisor writes for people and machines: status.json and Prometheus metrics."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sd_watchdog import report

LIB = Path(__file__).resolve().parents[3] / "roles/watchdog/files/lib"

FACTS: dict[str, Any] = {
    "schema": 1,
    "host": "closet",
    "unit": "sd-webui.service",
    "engine": "automatic1111",
    "release": "automatic1111-1.10.1",
    "state": "busy",
    "since": 1795438656.8,
    "said": "it makes a picture",
    "profile": "cpu",
    "desired_profile": "gpu_full",
    "supervisor_pid": 100,
    "engine_pid": 101,
    "uptime": 11534.2,
    "ready_after": 42.0,
    "queue": 3,
    "job": "txt2img",
    "step": 12,
    "steps": 20,
    "cores": 1.93,
    "memory_mib": 6600,
    "memory_limit_mib": 7372,
    "probe_seconds": 0.0214,
    "gpu": {"utilization": 98.0, "memory_used_mib": 3400, "temperature": 71.0, "said": ""},
    "restarts_total": {"killed": 8, "oom": 4},
    "restarts": [{"wall": 1.5, "reason": "killed", "said": "by signal 9", "evidence": ["log: x"], "ready_after": 42.3}],
    "failures": 2,
    "next_start_in": None,
    "rung": "cpu",
    "outage_seconds_total": 200.25,
    "xid_total": {"79": 1, "31": 12},
    "reboots_total": 1,
    "maintenance": None,
    "problems": ["812 MiB are free"],
}

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parse_metrics(text: str) -> tuple[Samples, dict[str, str]]:
    """As strictly as Prometheus: each family once, HELP and TYPE before its samples, nothing else in the file."""
    samples: Samples = {}
    types: dict[str, str] = {}
    described: set[str] = set()
    family = ""
    assert text.endswith("\n") and "\r" not in text
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            family = line.split(" ")[2]
            assert family not in described and len(line.split(" ", 3)[3]) > 5
            described.add(family)
        elif line.startswith("# TYPE "):
            _hash, _type, name, kind = line.split(" ")
            assert name == family and name not in types and kind in ("gauge", "counter")
            types[name] = kind
        else:
            match = re.fullmatch(r"([a-z_]+)(?:\{(.*)\})? (\S+)", line)
            assert match is not None, line
            name, inner, figure = match.groups()
            assert name == family and name in types, line
            labels = re.findall(r'([a-z_]+)="((?:[^"\\]|\\["\\n])*)"', inner or "")
            assert ",".join(f'{label}="{value}"' for label, value in labels) == (inner or ""), line
            key = (name, tuple((label, unescape(value)) for label, value in labels))
            assert key not in samples, line
            assert math.isfinite(float(figure))
            samples[key] = float(figure)
    assert set(types) == described == {name for name, _labels in samples}
    assert all(name.endswith("_total") == (kind == "counter") or "memory_total" in name for name, kind in types.items())
    return samples, types


def unescape(value: str) -> str:
    return re.sub(r"\\(.)", lambda match: {"n": "\n"}.get(match.group(1), match.group(1)), value)


def plain(samples: Samples) -> dict[str, float]:
    """Those without labels, by their short name."""
    return {name[len("sd_watchdog_") :]: value for (name, labels), value in samples.items() if not labels}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "0 s"),
        (0.4, "0 s"),
        (45.4, "45 s"),
        (99.4, "99 s"),
        (120, "2 min"),
        (130, "2 min 10 s"),
        (599.6, "10 min"),
        (720, "12 min"),
        (3590, "1 h"),
        (11534, "3 h 12 min"),
        (86399, "1 d"),
        (86400 * 2 + 3600 * 4, "2 d 4 h"),
        (math.nan, "an unknown time"),
        (math.inf, "an unknown time"),
    ],
)
def test_durations_are_those_that_people_say(seconds: float, words: str) -> None:
    assert report.duration(seconds) == words


def test_status_is_the_facts_and_when_they_were_written() -> None:
    data = json.loads(report.render_status(FACTS))
    assert {key: data[key] for key in FACTS} == FACTS
    assert data["written"] > 1e9
    assert 0 < data["written_boottime"] < 1e9


@pytest.mark.parametrize(
    "odd",
    [
        {"cores": math.nan, "probe_seconds": -math.inf, "queue": "many", "said": "\udcff\x00", "gpu": "broken"},
        {"restarts": "none", "restarts_total": [1], "xid_total": None, "problems": 5, "host": object()},
        {
            "restarts": [None, 3, {"evidence": None}],
            "gpu": {"utilization": None},
            5: {"a": {"b": {"c": {"d": {"e": 1}}}}},
        },
        {"restarts_total": {None: 1, "x": "y", 3: math.nan}, "profile": None, "since": 10**400, "queue": 10**400},
    ],
)
def test_nothing_in_the_facts_ends_the_supervisor(odd: dict[Any, Any]) -> None:
    for facts in (odd, {**FACTS, **odd}):
        json.loads(report.render_status(facts), parse_constant=lambda name: pytest.fail(name))
        report.render_status(facts).encode("utf-8")
        parse_metrics(report.render_metrics(facts))


def test_a_long_story_still_fits_the_readers() -> None:
    restarts = [{"reason": f"r{number}", "said": "ü" * 5000, "evidence": ["ä" * 5000] * 50} for number in range(40)]
    text = report.render_status({**FACTS, "restarts": restarts, "problems": ["p" * 5000] * 5})
    assert len(text.encode()) <= report.MAX_STATUS_BYTES
    data = json.loads(text)
    assert [restart["reason"] for restart in data["restarts"]] == [f"r{number}" for number in range(30, 40)]
    assert data["profile"] == "cpu"


def test_metrics() -> None:
    samples, types = parse_metrics(report.render_metrics(FACTS))
    figures = plain(samples)
    stamp = figures.pop("updated_timestamp_seconds")
    assert stamp > 1e9
    assert figures == {
        "up": 1,
        "ready": 1,
        "maintenance": 0,
        "problems": 1,
        "probe_seconds": 0.0214,
        "uptime_seconds": 11534.2,
        "ready_seconds": 42,
        "outage_seconds_total": 200.25,
        "failures": 2,
        "backoff_seconds": 0,
        "reboots_total": 1,
        "queue": 3,
        "memory_bytes": 6600 * 2**20,
        "memory_limit_bytes": 7372 * 2**20,
        "engine_cores": 1.93,
        "gpu_answers": 1,
        "gpu_utilization_ratio": 0.98,
        "gpu_memory_bytes": 3400 * 2**20,
        "gpu_temperature_celsius": 71,
    }
    assert samples["sd_watchdog_restarts_total", (("reason", "killed"),)] == 8
    assert samples["sd_watchdog_xid_total", (("xid", "31"),)] == 12
    assert samples["sd_watchdog_profile_info", (("profile", "cpu"), ("desired", "gpu_full"))] == 1
    states = {labels[0][1]: value for (name, labels), value in samples.items() if name == "sd_watchdog_state"}
    assert set(states) == set(report.STATES)
    assert [state for state, value in states.items() if value] == ["busy"]
    assert types["sd_watchdog_restarts_total"] == "counter"


def test_metrics_while_it_waits() -> None:
    facts = {**FACTS, "state": "waiting", "engine_pid": None, "next_start_in": 64.5, "gpu": None, "cores": None}
    samples, _types = parse_metrics(report.render_metrics(facts))
    figures = plain(samples)
    assert (figures["up"], figures["ready"], figures["backoff_seconds"]) == (0, 0, 64.5)
    # What is not known is left out: 0 would be a figure.
    assert not {"engine_cores", "gpu_utilization_ratio", "gpu_answers"} & set(figures)


def test_a_card_that_does_not_answer() -> None:
    gpu = {"utilization": None, "memory_used_mib": None, "temperature": None, "said": "nvidia-smi hangs"}
    figures = plain(parse_metrics(report.render_metrics({**FACTS, "gpu": gpu}))[0])
    assert figures["gpu_answers"] == 0
    assert "gpu_temperature_celsius" not in figures


def test_labels_cannot_break_a_line() -> None:
    name = 'a"b\\c\nd\re\ud800'
    samples, _types = parse_metrics(report.render_metrics({"restarts_total": {name: 1}, "profile": name}))
    assert samples["sd_watchdog_restarts_total", (("reason", 'a"b\\c\nd e?'),)] == 1


def test_a_supervisor_that_writes_them_imports_little() -> None:
    code = "import sys; from sd_watchdog import report; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["ssl", "urllib.request", "subprocess", "email", "asyncio", "http.client", "socket", "argparse"]
    done = subprocess.run(
        [sys.executable, "-BEs", "-c", f"import sys; sys.path.insert(0, {str(LIB)!r}); {code}", *heavy],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]"
