# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong inside a web UI; the stand-in of AUTOMATIC1111's does it on request."""

from __future__ import annotations

import time
from typing import Any

from chaos import observe
from chaos.fault import Jobs, Observed, difference, fault, picture, settle, until, write_fault


@fault
def blocked_loop() -> dict[str, Any]:
    """Nobody is answered, and nothing is computed."""
    settle()
    seen = Observed()
    write_fault(block=True)
    return seen.recovered()


@fault
def hung_job() -> dict[str, Any]:
    """A picture that does not get on while the page answers."""
    settle()
    write_fault(hang_at_step=2)
    time.sleep(0.5)
    jobs = Jobs()
    seen = Observed(jobs)
    jobs.ask(steps=10)
    return seen.recovered()


@fault
def cuda_error() -> dict[str, Any]:
    """Each picture fails until the process is another one."""
    settle()
    write_fault(cuda_error=True)
    time.sleep(0.5)
    jobs = Jobs()
    seen = Observed(jobs)
    jobs.ask()
    return {**seen.recovered(), "picture": picture()}


@fault
def cuda_out_of_memory() -> dict[str, Any]:
    """One picture that is too large is the user's affair; a card that stays full is not."""
    settle()
    before, engine = observe.restarts(), observe.engine()
    write_fault(cuda_oom=3)
    time.sleep(0.5)
    jobs = Jobs().ask().wait()
    time.sleep(2.5)
    jobs.ask().wait()
    time.sleep(2.5)
    same = observe.engine() == engine and difference(before) == {}
    seen = Observed(jobs)
    jobs.ask()
    return {**seen.recovered(), "same": same, "picture": picture()}


@fault
def memory_hog() -> dict[str, Any]:
    """Memory is taken until the kernel ends it; the supervisor lives on and knows why."""
    settle()
    seen = Observed()
    write_fault(eat_mib_a_second=400)
    return seen.recovered()


@fault
def spin() -> dict[str, Any]:
    """Nobody is answered for 25 seconds, but it computes: busy, not dead."""
    settle()
    before, engine, failed = observe.restarts(), observe.engine(), 0
    write_fault(spin_seconds=25)
    unhealthy: dict[str, Any] = {}
    until_time = time.monotonic() + 24
    while time.monotonic() < until_time:
        failed += observe.ask(observe.engine_file()["health_path"], timeout=2)[0] != 200
        said = observe.status()
        # On a busy machine the last look may come when it answers again.
        if said.get("state") == "unhealthy":
            unhealthy = said
        time.sleep(0.5)
    answered = until(lambda: observe.ask(observe.engine_file()["health_path"], timeout=2)[0] == 200, 20)
    same = observe.engine() == engine
    return {"same": same, "counted": difference(before), "failed": failed, "answered": answered, "unhealthy": unhealthy}
