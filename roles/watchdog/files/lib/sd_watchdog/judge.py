# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hung or busy? What was seen goes in, what to do comes out; no clock, no file, no process.

A health request that fails proves nothing: a generation holds one lock, and queued requests fill the thread pool, so a
server with seventy jobs answers nobody for hours and is well. It is ended only when it also does no work.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from sd_watchdog import model
from sd_watchdog.config import Config
from sd_watchdog.model import FINE, Seen, Verdict

# Reading a checkpoint keeps a disk busy and no core; answering health requests reads a thousandth of this.
WORKING_READ_RATE = 256 * 1024
# An idle server whose memory was swapped out waits for its pages one by one: an old disk brings some hundred a second,
# and a hung program asks for none.
WORKING_FAULT_RATE = 5.0
# What the card does is not known: that counts as nothing only after so many times the usual patience.
UNKNOWN_CARD_PATIENCE = 4
# One failure prints its error several times in a row.
SAME_FAILURE_SECONDS = 2.0
# Out of memory is an answer that a user gets for a picture too large; so many within that time are a state.
OOM_FAILURES, OOM_SECONDS = 3, 600.0
# Memory counts as grown at this multiple of what the idle server needed at first, after this uptime and this long.
GROWN, GROWN_UPTIME, GROWN_SECONDS = 1.25, 1800.0, 60.0
# Without an engine's own word it is idle after so long without work.
QUIET_SECONDS = 30.0
# What an engine said this long ago still holds.
FRESH_SECONDS = 11.0
# Past its usual budget a start goes on as long as it has worked within this time.
START_WORK_SECONDS = 30.0


@dataclass(frozen=True)
class Memory:
    """What the judge remembers of one life of the engine. Times are monotonic seconds."""

    started: float
    candidate: bool = False
    ready: float | None = None
    stopped: float | None = None
    failures: int = 0
    first_failure: float | None = None
    failure_said: str = ""
    last_work: float = 0.0
    last_step: float = 0.0
    activity: model.Activity | None = None
    activity_at: float = -1e9
    lines: int = 0
    cuda_errors: int = 0
    last_cuda_error: float = -1e9
    ooms: tuple[float, ...] = ()
    memory_errors: tuple[float, ...] = ()
    idle_memory: int | None = None
    grown: float | None = None
    xid: str = ""


def begin(now: float, candidate: bool = False) -> Memory:
    """An engine has just been started. A candidate of a switch gets its budget and not a second more."""
    return Memory(started=now, candidate=candidate, last_work=now, last_step=now)


def became_ready(memory: Memory, now: float) -> Memory:
    """It has answered for the first time."""
    return dataclasses.replace(memory, ready=now, last_work=now, last_step=now, failures=0, first_failure=None)


def works(seen: Seen, config: Config) -> bool:
    """Does it compute, read or swap? An unknown processor time counts as work; a guess ends nothing."""
    if seen.cores is None or seen.cores >= config.idle_cores:
        return True
    if seen.read_rate >= WORKING_READ_RATE or seen.fault_rate >= WORKING_FAULT_RATE:
        return True
    return seen.gpu_percent is not None and seen.gpu_percent >= config.idle_gpu_percent


def is_idle(memory: Memory, now: float) -> bool:
    """Would a restart lose nothing? By the engine's own word where it gives one."""
    if memory.ready is None:
        return True
    if memory.activity is not None and memory.failures == 0:
        if memory.activity.job or memory.activity.queue > 0:
            return False
        # Unless it has begun to work since.
        if now - memory.activity_at <= FRESH_SECONDS and memory.last_work <= memory.activity_at:
            return True
    return now - memory.last_work >= QUIET_SECONDS


def judge(memory: Memory, seen: Seen, config: Config, card: bool = False) -> tuple[Memory, Verdict]:
    """What is remembered now, and what to do. `card`: the profile computes on a card."""
    memory = _remember(memory, seen, config)
    for verdict in (
        _stopped(memory, seen, config),
        _starting(memory, seen, config) if memory.ready is None else _hung(memory, seen, config, card),
        _stalled(memory, seen, config) if memory.ready is not None else FINE,
        _poisoned(memory, seen),
        _grown(memory, seen) if memory.ready is not None else FINE,
    ):
        if verdict.action != "none":
            return memory, verdict
    return memory, FINE


def _remember(memory: Memory, seen: Seen, config: Config) -> Memory:
    """The look as changes of the memory."""
    new: dict[str, Any] = {}
    now = seen.now
    new["stopped"] = (memory.stopped if memory.stopped is not None else now) if seen.state == "T" else None
    if works(seen, config) or (memory.ready is None and seen.lines > memory.lines):
        new["last_work"] = now
    new["lines"] = seen.lines
    if seen.healthy is True:
        new.update(failures=0, first_failure=None, failure_said="")
    elif seen.healthy is False:
        new.update(failures=memory.failures + 1, failure_said=seen.health_said)
        new["first_failure"] = memory.first_failure if memory.first_failure is not None else now
    if seen.activity is not None:
        if memory.activity is None or seen.activity.place != memory.activity.place or not seen.activity.job:
            new["last_step"] = now
        new.update(activity=seen.activity, activity_at=now)
    if "cuda_error" in seen.log:
        if now - memory.last_cuda_error >= SAME_FAILURE_SECONDS:
            new["cuda_errors"] = memory.cuda_errors + 1
        new["last_cuda_error"] = now
    new["ooms"] = _failures(memory.ooms, "cuda_oom" in seen.log, now)
    new["memory_errors"] = _failures(memory.memory_errors, "memory_error" in seen.log, now)
    for verdict, said in seen.xids:
        if verdict == "restart":
            # What the driver says of a program that must start anew is what CUDA will say to each job.
            if now - memory.last_cuda_error >= SAME_FAILURE_SECONDS:
                new["cuda_errors"] = memory.cuda_errors + 1
            new["last_cuda_error"] = now
        elif verdict != "ignore":
            new["xid"] = said
    memory = dataclasses.replace(memory, **new)
    return _remember_memory(memory, seen, config)


def _failures(times: tuple[float, ...], again: bool, now: float) -> tuple[float, ...]:
    """The failures of the last minutes, this one included."""
    times = tuple(time for time in times if now - time < OOM_SECONDS)
    if again and (not times or now - times[-1] >= SAME_FAILURE_SECONDS):
        times = (*times, now)
    return times


def _remember_memory(memory: Memory, seen: Seen, config: Config) -> Memory:
    """What an idle server needed at first, and since when it has grown toward the limit."""
    if seen.memory is None or memory.ready is None or not is_idle(memory, seen.now):
        return memory
    if memory.idle_memory is None:
        # Not before the model is loaded, which goes on after the first answer.
        settled = seen.now - memory.ready >= 2 * QUIET_SECONDS and seen.now - memory.last_work >= QUIET_SECONDS
        return dataclasses.replace(memory, idle_memory=seen.memory) if settled else memory
    near = seen.memory_limit is not None and seen.memory >= seen.memory_limit * config.memory_percent / 100
    if not near or seen.memory < memory.idle_memory * GROWN:
        return dataclasses.replace(memory, grown=None)
    return memory if memory.grown is not None else dataclasses.replace(memory, grown=seen.now)


def _stopped(memory: Memory, seen: Seen, config: Config) -> Verdict:
    """A stopped process accepts connections and never answers."""
    if memory.stopped is not None and seen.now - memory.stopped >= config.stopped_seconds:
        return Verdict(
            "end", model.STOPPED, f"its process has been stopped (state T) for {config.stopped_seconds:.0f} s"
        )
    return FINE


def _starting(memory: Memory, seen: Seen, config: Config) -> Verdict:
    """As long as it loads it may take its time."""
    waited, quiet = seen.now - memory.started, seen.now - memory.last_work
    if quiet >= config.start_stall_seconds:
        return Verdict(
            "end", model.STALLED_START, f"it has not answered and done nothing for {quiet:.0f} s of its start"
        )
    if memory.candidate:
        return FINE
    if waited >= config.start_limit_seconds:
        return Verdict("end", model.SLOW_START, f"it has not answered within {waited:.0f} s of its start")
    return FINE


def over_budget(memory: Memory, now: float, start_timeout: float) -> Verdict:
    """Has a start used up what role sd_webui gives it, without working on?"""
    waited = now - memory.started
    if waited >= start_timeout and (memory.candidate or now - memory.last_work >= START_WORK_SECONDS):
        return Verdict("end", model.SLOW_START, f"it has not answered within {waited:.0f} s of its start")
    return FINE


def _hung(memory: Memory, seen: Seen, config: Config, card: bool) -> Verdict:
    """No answer several times in a row, and no work in all that time."""
    if memory.failures < config.health_failures or memory.first_failure is None:
        return FINE
    quiet = seen.now - max(memory.last_work, memory.first_failure - config.health_timeout)
    patience = config.health_failures * config.health_interval
    if card and seen.gpu_percent is None:
        patience *= UNKNOWN_CARD_PATIENCE
    said = f"{memory.failures} health requests in a row had no answer ({memory.failure_said})"
    if quiet >= patience:
        return Verdict("end", model.HUNG, f"{said}, and it has done no work for {quiet:.0f} s")
    unanswered = seen.now - max(memory.first_failure, memory.last_step)
    if unanswered >= config.busy_seconds:
        return Verdict(
            "end", model.HUNG, f"{said}, and though it works, nothing was seen to move for {unanswered:.0f} s"
        )
    return FINE


def _stalled(memory: Memory, seen: Seen, config: Config) -> Verdict:
    """It answers, but its picture does not get on."""
    if memory.activity is None or not memory.activity.job:
        return FINE
    still = seen.now - max(memory.last_step, memory.last_work)
    if still >= config.stall_seconds:
        place = f"step {memory.activity.step} of {memory.activity.steps}"
        return Verdict("end", model.STALLED_JOB, f"its job has been at {place} without any work for {still:.0f} s")
    return FINE


def _poisoned(memory: Memory, seen: Seen) -> Verdict:
    """Alive, and of no use: CUDA's sticky errors end only with the process (A1111#15015, #12582)."""
    if memory.xid:
        return Verdict("end", model.XID, memory.xid)
    if memory.cuda_errors >= 2:
        return Verdict(
            "end", model.CUDA_ERROR, "jobs fail one after the other with a CUDA error that only a new process clears"
        )
    if memory.cuda_errors:
        return Verdict("when_idle", model.CUDA_ERROR, "a CUDA error was seen that only a new process clears")
    for times, reason, words in (
        (memory.ooms, model.CUDA_OOM, "the card's memory runs out"),
        (memory.memory_errors, model.MEMORY_ERROR, "the memory runs out"),
    ):
        if len(times) >= OOM_FAILURES:
            return Verdict("when_idle", reason, f"{words} in {len(times)} jobs within {OOM_SECONDS / 60:.0f} minutes")
    return FINE


def _grown(memory: Memory, seen: Seen) -> Verdict:
    """A leak (A1111#9323, #6850): given back while nobody waits, before the kernel kills in the middle of a job."""
    if memory.idle_memory is None or memory.grown is None or memory.ready is None:
        return FINE
    if seen.now - memory.ready < GROWN_UPTIME or seen.now - memory.grown < GROWN_SECONDS or seen.memory is None:
        return FINE
    used, first = seen.memory / 2**20, memory.idle_memory / 2**20
    return Verdict("when_idle", model.MEMORY_GROWTH, f"the idle server has grown from {first:.0f} to {used:.0f} MiB")
