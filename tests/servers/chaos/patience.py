# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What takes long and is no fault."""

from __future__ import annotations

import time
from typing import Any

from chaos import observe
from chaos.fault import Jobs, difference, fault, picture, settle, until, write_fault

LONG_START, LONG_JOB = 220, 720
LONG_LIMIT = 2400.0


@fault
def slow_start() -> dict[str, Any]:
    """A PC with a slow disk: AUTOMATIC1111/stable-diffusion-webui#14435 tells of 218 seconds."""
    settle()
    before = observe.restarts()
    write_fault(start_seconds=LONG_START)
    begun = time.monotonic()
    observe.run("systemctl", "restart", "--no-block", observe.UNIT)
    until(lambda: observe.status().get("state") == "starting", 30)
    recorder, states = observe.Recorder(), set()
    while observe.status().get("state") != "ready" and time.monotonic() < begun + 2 * LONG_START:
        states.add(observe.status().get("state"))
        time.sleep(0.5)
    ready = round(time.monotonic() - begun, 1)
    recorder.stop()
    return {
        "ready": ready,
        "engines": len(recorder.engines),
        # The last look may have been at the moment of the first answer.
        "states": sorted(str(state) for state in states - {"busy"}),
        "counted": difference(before),
        "picture": picture(),
    }


@fault
def long_job() -> dict[str, Any]:
    """A picture on the processor, with as many steps as it takes."""
    settle()
    before = observe.restarts()
    begun = time.monotonic()
    Jobs().ask(steps=4, width=256, height=256).wait()
    step = (time.monotonic() - begun) / 4
    recorder, states = observe.Recorder(), set()
    begun = time.monotonic()
    # A fifth more: text and picture have taken their share of those four steps.
    jobs = Jobs(LONG_LIMIT).ask(steps=int(1.2 * LONG_JOB / step) + 1, width=256, height=256)
    time.sleep(10)
    while not jobs.done and time.monotonic() < begun + LONG_LIMIT:
        states.add(observe.status().get("state"))
        time.sleep(1)
    seconds = round(time.monotonic() - begun)
    recorder.stop()
    return {
        "seconds": seconds,
        "step": round(step, 2),
        "jobs": jobs.told(),
        "engines": len(recorder.engines),
        "states": sorted(str(state) for state in states - {"ready"}),
        "counted": difference(before),
    }
