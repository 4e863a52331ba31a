# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guide's cron script with the same faults, and the table of all of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

REAL, HOST, STAND_IN, CARD = "sd-watchdog", "sd-watchdog-host", "sd-watchdog-a1111", "sd-watchdog-card"
ENGINES = {REAL: "stable_diffusion_cpp", HOST: "stable_diffusion_cpp", STAND_IN: "A1111-like", CARD: "A1111-like"}
# What is said of the fault, the host and the fault there, the guide's host with the same fault.
ROWS = [
    ("killed (SIGKILL), making a picture", REAL, "sigkill", "sd-cron-kill"),
    ("killed (SIGKILL), making a picture", STAND_IN, "sigkill", "sd-cron-kill"),
    ("killed while another `python3` runs", CARD, "xid_45", "sd-cron-kill-other"),
    ("stopped (SIGSTOP)", REAL, "sigstop", "sd-cron-stop"),
    ("stopped (SIGSTOP)", STAND_IN, "sigstop", "sd-cron-stop"),
    ("answers nobody, idle", STAND_IN, "blocked_loop", "sd-cron-block"),
    ("a picture does not get on (30 s configured)", STAND_IN, "hung_job", ""),
    ("CUDA error until it is restarted", STAND_IN, "cuda_error", ""),
    ("CUDA out of memory, three pictures in a row", STAND_IN, "cuda_out_of_memory", ""),
    ("takes all memory", STAND_IN, "memory_hog", ""),
    ("supervisor killed", REAL, "supervisor_killed", ""),
    ("supervisor stopped", REAL, "supervisor_stopped", ""),
    ("port taken: after it is free", REAL, "port_taken", ""),
    ("disk full, killed: after there is room", HOST, "disk_full", ""),
    ("disk read-only, killed: after it is writable", HOST, "read_only", ""),
    ("killed after the clock jumped by a year", HOST, "clock_jump", ""),
    ("the card is lost (Xid 79): on the CPU", CARD, "xid_79", ""),
    ("starts fail with the card's profile, 3 times: on the CPU", CARD, "ladder", ""),
    ("reboot", REAL, "reboot", ""),
]
NO_FAULT = [
    ("60 requests at once, `nvidia-smi` hangs, other `python3` come and go", CARD, "queue_of_sixty"),
    ("nobody is answered for 25 s, but it computes", CARD, "spin"),
    ("`systemctl restart`, `stop`, `start`", REAL, "asked"),
    ("`sd-profile` there and back", CARD, "profile_switch"),
]
GUIDE = {
    "sd-cron-kill": "guide_sigkill",
    "sd-cron-kill-other": "guide_sigkill_other",
    "sd-cron-stop": "guide_sigstop",
    "sd-cron-block": "guide_blocked_loop",
}


@pytest.mark.parametrize(
    ("host", "comes_back"),
    [("sd-cron-kill", True), ("sd-cron-kill-other", False), ("sd-cron-stop", False), ("sd-cron-block", False)],
)
def test_what_the_guides_script_notices(chaos: Any, host: str, comes_back: bool) -> None:
    """The table is fair only where the script does what its author has seen it do."""
    found = chaos(host, GUIDE[host])
    assert found["python"] == ["python3 -u launch.py "]
    if comes_back:
        assert found["ready"] is not None and found["ready"] < 90
    else:
        assert found["ready"] is None and found["starts"] == 0


def seconds(value: float | None) -> str:
    """For a table."""
    return "-" if value is None else f"{value:.1f} s"


def lost(jobs: dict[str, int] | None) -> str:
    """Of the pictures that were being waited for."""
    return "-" if not jobs else f"{jobs['lost']} of {jobs['asked']}"


def by_the_guide(found: dict[str, Any]) -> str:
    """It was watched for 150 s."""
    if "ready" not in found:
        return "failed"
    return "never" if found["ready"] is None else seconds(found["ready"])


def known(chaos: Any, host: str, name: str) -> dict[str, Any]:
    """What became of a fault; nothing where that itself has failed, which another test says."""
    try:
        found: dict[str, Any] = chaos(host, name)
    except Exception as error:
        print(f"{host}, {name}: {error}")
        return {"counted": {}}
    return found


def table(chaos: Any) -> str:
    """In Markdown."""
    lines = [
        "| Fault | Engine | Detected after | Restarted | Ready after | Jobs lost | The guide's script: ready after |",
        "|---|---|---|---|---|---|---|",
    ]
    for words, host, name, guide in ROWS:
        found = known(chaos, host, name)
        cells = [words, ENGINES[host], *(seconds(found.get(key)) for key in ("detected", "restarted", "ready"))]
        cells.append(lost(found.get("jobs")))
        cells.append(by_the_guide(known(chaos, guide, GUIDE[guide])) if guide else "not tried")
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Cron looks once a minute: what the guide's script notices, it notices after 0 to 60 s; watched for 150 s.",
    ]
    lines += ["", "| No fault | Engine | Restarts by the watchdog | Jobs lost |", "|---|---|---|---|"]
    for words, host, name in NO_FAULT:
        found = known(chaos, host, name)
        lines.append(f"| {words} | {ENGINES[host]} | {sum(found['counted'].values())} | {lost(found.get('jobs'))} |")
    starts = known(chaos, HOST, "crash_loop").get("at")
    lines += ["", f"The engine ends at once at each start: starts after {starts} seconds in the first minute."]
    lines += ["", "| Idle | Supervisor | Root part | Memory, at most |", "|---|---|---|---|"]
    for host in (HOST, CARD):
        found = known(chaos, host, "idle")
        cpu = [f"{found.get(key, 0):.2f} % of a core" for key in ("cpu_percent", "root_cpu_percent")]
        lines.append(f"| {ENGINES[host]} | {cpu[0]} | {cpu[1]} | {found.get('peak', 0):.1f} MB |")
    return "\n".join(lines) + "\n"


def test_table(chaos: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Printed and kept, whether the figures are good or not."""
    text = table(chaos)
    (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "chaos.md").write_text(text, encoding="utf-8")
    ends = {f"{host} {name}": known(chaos, host, name).get("finished") for host, name in chaos.futures}
    with capsys.disabled():
        print(f"\n{text}\nSeconds after the beginning: {ends}")
