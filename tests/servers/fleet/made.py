# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of a load: from the engines' own lists of jobs, on a clock that all share, and the clients' answers."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

FOREVER = float("inf")


@dataclass
class Job:
    """On one server: from the moment in which it got it until it was done with it, or dead."""

    server: str
    prompt: str
    name: str
    arrived: float
    begun: float | None = None
    ended: float = FOREVER
    is_done: bool = False


def read_jobs(server: str, text: str) -> list[Job]:
    """The jobs of jobs.jsonl. A process that is followed by another one has ended, with all that it had."""
    jobs: list[Job] = []
    of_process: dict[int, dict[int, Job]] = {}
    for line in text.splitlines():
        event = json.loads(line)
        known = of_process.setdefault(event["pid"], {})
        for pid, others in of_process.items():
            if pid != event["pid"]:
                for job in others.values():
                    job.ended = min(job.ended, event["at"])
        if event["event"] == "arrived":
            job = Job(server, event["prompt"], event["name"], event["at"])
            known[event["job"]] = job
            jobs.append(job)
        elif event["event"] == "begun":
            known[event["job"]].begun = event["at"]
        else:
            known[event["job"]].ended, known[event["job"]].is_done = event["at"], True
    return jobs


@dataclass(frozen=True)
class Second:
    """A job that a server got while it had another one, and a server that could have had it."""

    job: Job
    running: Job
    idle: str


def second_jobs(
    jobs: Iterable[Job],
    servers: Iterable[str],
    away: Mapping[str, list[tuple[float, float]]] | None = None,
    settled: float = 0.0,
) -> list[Second]:
    """Jobs that came to a busy server while another had nothing to do, and had had nothing for `settled` seconds.

    `away` says from when until when a server was not to be had: killed, stopped, drained.
    """
    jobs, found = list(jobs), []
    for job in jobs:
        at = job.arrived
        running = [
            other
            for other in jobs
            if other is not job and other.server == job.server and other.arrived < at < other.ended
        ]
        if not running:
            continue
        for server in servers:
            is_away = any(begin <= at <= end for begin, end in (away or {}).get(server, []))
            is_busy = any(
                other.server == server and other.arrived - settled < at < other.ended + settled for other in jobs
            )
            if server != job.server and not is_away and not is_busy:
                found.append(Second(job, running[0], server))
                break
    return found


def summary(result: Mapping[str, Any], jobs: Iterable[Job]) -> dict[str, Any]:
    """The load as a whole: lost and sent again; seconds that requests waited for a server; by server."""
    jobs = list(jobs)
    by_prompt: dict[str, list[Job]] = {}
    for job in jobs:
        by_prompt.setdefault(job.prompt, []).append(job)
    results = result["results"]
    waits = []
    again = 0
    for answer in results:
        tries = by_prompt.get(answer["prompt"], [])
        again += len(tries) > 1
        if tries:
            waits.append(max(tries[-1].arrived - answer["sent"], 0.0))
    servers = {}
    for server in sorted({job.server for job in jobs}):
        own = [job for job in jobs if job.server == server]
        taken = [answer["answered"] - answer["sent"] for answer in results if answer.get("host") == server]
        servers[server] = {
            "served": len(taken),
            "cut": sum(not job.is_done for job in own),
            "median": statistics.median(taken) if taken else 0.0,
            "longest": max(taken, default=0.0),
        }
    return {
        "requests": len(results),
        "lost": [answer for answer in results if answer["status"] != 200 or "error" in answer],
        "again": again,
        "wait_median": statistics.median(waits) if waits else 0.0,
        "wait_longest": max(waits, default=0.0),
        "seconds": result["ended"] - result["begun"],
        "servers": servers,
    }


def table(told: Mapping[str, Any], what: Mapping[str, str]) -> str:
    """In Markdown; `what` says what happened to each server."""
    lines = ["| Server | What happened | Served | Cut there | Median | Longest |", "|---|---|---:|---:|---:|---:|"]
    for server, row in told["servers"].items():
        figures = f"{row['served']} | {row['cut']} | {row['median']:.1f} s | {row['longest']:.1f} s"
        lines.append(f"| {server} | {what.get(server, '')} | {figures} |")
    counted = f"{told['requests']} pictures in {told['seconds']:.0f} s, {len(told['lost'])} lost"
    waited = f"{told['wait_median']:.1f} s at the median, {told['wait_longest']:.1f} s at most"
    lines += ["", f"{counted}, {told['again']} sent again to another server; they waited for a server {waited}."]
    return "\n".join(lines) + "\n"
