# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `sd-watchdog status` and `sd-watchdog history` show: the state, why, and what to do next, on one screen.

Pure. The facts come from the web UI's user: whatever stands in them, this shows something sensible.
"""

from __future__ import annotations

import re
import textwrap
import time
from dataclasses import dataclass, field
from typing import Any

from sd_watchdog.report import SERVING, duration, number, sentence
from sd_watchdog.untrusted import clean

SERVES, DOES_NOT_SERVE, STOPPED = 0, 1, 3
# As many restarts as fit on a screen; history shows the others.
RESTARTS = 5
_INDENT, _LABEL = "  ", 11
_ERROR = re.compile(r"error|exception|killed|failed|cannot|memory", re.IGNORECASE)
# A progress bar of tqdm's.
_PROGRESS = re.compile(r"\d%\|")

_STATES = {
    "waiting": "is down",
    "starting": "is starting",
    "ready": "is ready",
    "busy": "is ready and at work",
    "unhealthy": "does not answer",
    "stopping": "is being ended",
    "stopped": "has been stopped",
    "maintenance": "is in maintenance",
}
# What the supervisor says when the state says it all.
_NO_NEWS = ("", "it answers", "it makes a picture")
# What a person can do about the cause of a fault; {unit} is the service.
# What a person can do about the cause of a fault: words, and perhaps a command; {unit} is the service.
_Step = tuple[str, str]
_LOG = "sudo journalctl -u {unit} -n 100"
_LESS = "Make smaller pictures, choose a smaller model, or give the host more swap (base_swap_size_mb)."
_ADVICE: dict[str, _Step] = {
    "config": ("Correct its settings in the inventory and run site.yml. The whole log:", _LOG),
    "port_taken": ("End the program that has the port, or set another sd_webui_port and run site.yml.", ""),
    "disk_full": ("Remove pictures or models that nobody needs; it starts by itself then. The disks:", "df -h"),
    "read_only": (
        "It starts by itself once the disk can be written. What the disk has reported:",
        "sudo dmesg | tail -50",
    ),
    "oom": (_LESS, ""),
    "memory_error": (_LESS, ""),
    "cuda_oom": ("Make smaller pictures, or take a profile that needs less of the card:", "sudo sd-profile list"),
    "xid": ("Look at the card's power, heat and seat. What its driver has reported:", "sudo journalctl -k -g Xid"),
}
_OTHER_ADVICE = ("What was seen stands in: sd-watchdog history. The whole log:", _LOG)
# By the words of blockers.py.
_OBSTACLES = (("is taken by", "port_taken"), ("cannot be written", "read_only"), (" is full", "disk_full"))


@dataclass(frozen=True)
class View:
    """Everything that is shown."""

    facts: dict[str, Any]
    # Does the supervisor live and report?
    alive: bool
    # Seconds since it has reported; None: never.
    silent: float | None
    unit: str
    # systemd's ActiveState, or not-found; empty where it cannot be asked.
    unit_state: str = ""
    # The override of the profile, and the maintenance that is on.
    override: dict[str, Any] = field(default_factory=dict)
    maintenance: dict[str, Any] | None = None
    # Seconds since it has answered for the last time, while it does not.
    outage: float | None = None
    # The wall clock.
    now: float = 0.0
    # Why there is nothing to show, if so.
    problem: str = ""


def exit_status(view: View) -> int:
    """For scripts: it serves, it does not, or it was stopped."""
    state = view.facts.get("state")
    if view.alive:
        running = view.facts.get("engine_pid") is not None and view.facts.get("ready_after") is not None
        serving = state in SERVING or (state == "maintenance" and running)
        return SERVES if serving else STOPPED if state == "stopped" else DOES_NOT_SERVE
    if view.unit_state == "inactive" or (not view.unit_state and state == "stopped"):
        return STOPPED
    return DOES_NOT_SERVE


def screen(view: View, width: int) -> str:
    """The whole of it."""
    width = max(60, min(width, 120))
    lines = _wrapped(_headline(view), width, "")
    said = _text(view.facts, "said", 400)
    if view.alive and said not in _NO_NEWS and not (view.maintenance and exit_status(view) == SERVES):
        lines += _wrapped(sentence(said), width, _INDENT)
    rows = _rows(view)
    if rows:
        lines.append("")
    for label, words in rows:
        lines += _wrapped(words, width, _INDENT + " " * _LABEL, f"{_INDENT}{label:<{_LABEL}}")
    problems = [sentence(clean(one, 300)) for one in _list(view.facts, "problems")] if view.alive else []
    if any(problems):
        lines += ["", "Problems"]
        for problem in problems[:5]:
            lines += _wrapped(problem, width, f"{_INDENT}  ", f"{_INDENT}- ")
    lines += _last_restarts(view, width)
    steps = _next_steps(view)
    if steps:
        lines += ["", "Next step"]
        for words, command in steps:
            lines += _wrapped(words, width, _INDENT)
            # In a line of its own, whole, so that it can be copied.
            lines += [f"{_INDENT}  {command}"] if command else []
    return "\n".join(lines) + "\n"


def _headline(view: View) -> str:
    """The state in a sentence."""
    host = _text(view.facts, "host", 60)
    subject = f"The web UI on {host}" if host else "The web UI"
    if view.alive:
        state = _text(view.facts, "state", 20)
        since = number(view.facts.get("since"))
        words = f"{subject} {_STATES.get(state, 'is in a state that this command does not know')}"
        if state == "maintenance" and exit_status(view) == SERVES:
            words = f"{subject} answers, and is in maintenance"
        if view.outage is not None and exit_status(view) == DOES_NOT_SERVE:
            return f"{words}; the last answer is {duration(view.outage)} ago."
        known = since is not None and view.now - since >= 0
        return f"{words}, for {duration(view.now - (since or 0))}." if known else f"{words}."
    if view.unit_state == "not-found":
        return f"There is no {view.unit} on this host."
    if exit_status(view) == STOPPED:
        return f"{subject} has been stopped."
    if view.unit_state == "failed":
        return f"{subject} has failed, and systemd does not start it again."
    if view.unit_state in ("activating", "reloading"):
        return f"{subject} is being started."
    if view.unit_state == "deactivating":
        return f"{subject} is being stopped."
    if view.silent is None:
        return f"The watchdog has not reported anything since this host started ({view.problem or 'no report'})."
    return f"The watchdog of the web UI is not running; it reported {duration(view.silent)} ago for the last time."


def _rows(view: View) -> list[tuple[str, str]]:
    """What is known, one thing a line."""
    if not view.facts:
        return []
    rows = [("Web UI", _web_ui(view)), ("Profile", _profile(view))]
    if view.maintenance is not None:
        rows.append(("Watchdog", maintenance_words(view.maintenance, view.now)))
    if view.alive:
        rows += [("Work", _work(view.facts)), ("Memory", _memory(view.facts)), ("Card", _card(view.facts))]
    rows.append(("So far", _totals(view.facts)))
    return [(label, words) for label, words in rows if words]


def _web_ui(view: View) -> str:
    facts = view.facts
    engine, release, address = (_text(facts, key, 60) for key in ("engine", "release", "address"))
    port, uptime, took = number(facts.get("port")), number(facts.get("uptime")), number(facts.get("ready_after"))
    probe = number(facts.get("probe_seconds"))
    name = release if engine in release else " ".join(word for word in (engine, release) if word)
    words = [name] if name else []
    if address and port is not None:
        host = f"[{address}]" if ":" in address else address
        words.append(f"on {host}:{port:.0f}")
    if view.alive and uptime is not None:
        words.append(f"up for {duration(uptime)}" + (f" (started in {duration(took)})" if took is not None else ""))
    if view.alive and probe is not None and facts.get("state") in SERVING:
        words.append(f"answers in {max(probe, 0.001):.3f} s" if probe < 1 else f"answers in {probe:.1f} s")
    return ", ".join(words)


def _profile(view: View) -> str:
    active, desired = _text(view.facts, "profile", 40), _text(view.facts, "desired_profile", 40)
    if not active or active == desired:
        return active
    words = f"{active} instead of {desired}" if desired else active
    own = view.override if view.override.get("profile") == active else {}
    expires, by = number(own.get("expires")), clean(own.get("set_by"), 40)
    if expires is not None:
        words += f" until {moment(expires, view.now)}"
    if by:
        words += f", set by {'the watchdog' if by == 'watchdog' else by}"
    reason = clean(own.get("reason"), 300) or _text(view.facts, "profile_reason", 300)
    return f"{words}: {reason}" if reason else words


def _work(facts: dict[str, Any]) -> str:
    job, queue = _text(facts, "job", 80), number(facts.get("queue"))
    step, steps, cores = (number(facts.get(key)) for key in ("step", "steps", "cores"))
    words = []
    if job:
        words.append(f"{job}, step {step:.0f} of {steps:.0f}" if step is not None and steps else job)
    elif queue is not None:
        words.append("no picture is being made")
    if queue:
        words.append(f"{queue:.0f} {'request waits' if queue == 1 else 'requests wait'}")
    if cores is not None:
        words.append(f"{cores:.1f} cores in use")
    return "; ".join(words)


def _memory(facts: dict[str, Any]) -> str:
    used, limit = number(facts.get("memory_mib")), number(facts.get("memory_limit_mib"))
    if used is None:
        return ""
    return f"{_size(used)} of {_size(limit)} ({100 * used / limit:.0f} %)" if limit else _size(used)


def _card(facts: dict[str, Any]) -> str:
    gpu = facts.get("gpu")
    if not isinstance(gpu, dict):
        return ""
    if gpu.get("said"):
        return clean(gpu.get("said"), 200)
    busy, used, total, heat = (
        number(gpu.get(key)) for key in ("utilization", "memory_used_mib", "memory_total_mib", "temperature")
    )
    words = [f"{busy:.0f} % busy"] if busy is not None else []
    if used is not None:
        words.append(f"{_size(used)} of {_size(total)} in use" if total else f"{_size(used)} in use")
    if heat is not None:
        words.append(f"{heat:.0f} °C")
    return ", ".join(words)


def _totals(facts: dict[str, Any]) -> str:
    restarts, xids = _counts(facts, "restarts_total"), _counts(facts, "xid_total")
    number_of = sum(restarts.values())
    words = [_times(number_of, "restart") if number_of else "no restart"]
    away, reboots = number(facts.get("outage_seconds_total")), number(facts.get("reboots_total"))
    if away:
        words.append(f"{duration(away)} without an answer")
    if reboots:
        words.append(_times(int(reboots), "reboot"))
    words += [f"Xid {xid} {'once' if count == 1 else f'{count} times'}" for xid, count in sorted(xids.items())]
    return ", ".join(words)


# Restarts


def _last_restarts(view: View, width: int) -> list[str]:
    restarts = [one for one in _list(view.facts, "restarts") if isinstance(one, dict)]
    if not restarts:
        return []
    lines = ["", "Last restarts"]
    newest, shown = restarts[-1], restarts[: -RESTARTS - 1 : -1]
    column = max(len(_when(restart, view.now)) for restart in shown)
    for restart in shown:
        begin = f"{_INDENT}{_when(restart, view.now):<{column}}  "
        lines.append(_cut(f"{begin}{_outcome(restart, restart is newest and not _is_up(view))}", width))
        told = _telling(restart)
        if told:
            lines.append(_cut(f"{' ' * len(begin)}{told}", width))
    return lines


def _is_up(view: View) -> bool:
    return exit_status(view) == SERVES


def _when(restart: dict[str, Any], now: float) -> str:
    wall = number(restart.get("wall"))
    return moment(wall, now) if wall is not None else "?"


def _outcome(restart: dict[str, Any], is_down: bool) -> str:
    """Reason, what was seen, and how it ended."""
    reason, said = clean(restart.get("reason"), 40).replace("_", " "), clean(restart.get("said"), 400)
    after = number(restart.get("ready_after"))
    back = f", back after {duration(after)}" if after is not None else ", not back yet" if is_down else ""
    return f"{reason}{back}: {said}" if said else f"{reason}{back}"


def _telling(restart: dict[str, Any]) -> str:
    """The line of evidence that says the most: an error in the log, another line of it, or else the first."""
    lines = [clean(line, 300) for line in _list(restart, "evidence")]
    log = [line for line in lines if line.startswith("log: ") and not _PROGRESS.search(line)]
    errors = [line for line in log if _ERROR.search(line)]
    return (errors or log)[-1] if log else next((line for line in lines if line), "")


def history(restarts: list[Any], now: float, width: int) -> str:
    """Every restart that is remembered, the newest first, with all that was seen."""
    width = max(60, min(width, 160))
    lines: list[str] = []
    for restart in reversed([one for one in restarts if isinstance(one, dict)]):
        lines += _wrapped(f"{_when(restart, now)}  {_outcome(restart, False)}", width, _INDENT, "")
        for line in _list(restart, "evidence"):
            lines += _wrapped(clean(line, 400), width, f"{_INDENT}  ", f"{_INDENT}- ")
    return "\n".join(lines) + "\n" if lines else "The watchdog has not restarted the web UI so far.\n"


# What to do


def _next_steps(view: View) -> list[_Step]:
    """What a person can do, the most urgent first; nothing when all is well."""
    unit, state = view.unit, view.facts.get("state")
    if not view.alive:
        return _without_supervisor(view)
    steps: list[_Step] = []
    if view.maintenance is not None:
        steps.append(("When the work is done:", "sudo sd-watchdog maintenance off"))
    elif state == "stopped":
        steps.append(("Start it:", f"sudo systemctl start {unit}"))
    elif state == "waiting":
        obstacle = _obstacle(_text(view.facts, "said", 400))
        if obstacle:
            steps.append(_ADVICE[obstacle])
        elif number(view.facts.get("next_start_in")) is not None:
            steps += [
                _cause(view),
                ("It tries again by itself; to have it tried now:", f"sudo systemctl restart {unit}"),
            ]
    elif state == "unhealthy":
        steps.append(("None yet: as soon as it neither answers nor works, it is restarted.", ""))
    return steps + _about_the_card(view)


def _without_supervisor(view: View) -> list[_Step]:
    unit = view.unit
    if view.unit_state == "not-found":
        return [("Run site.yml for this host: its role sd_webui installs the web UI.", "")]
    if exit_status(view) == STOPPED:
        return [("Start it:", f"sudo systemctl start {unit}")]
    if view.unit_state == "failed":
        return [_cause(view), ("Then:", f"sudo systemctl restart {unit}")]
    if view.unit_state in ("activating", "deactivating", "reloading"):
        return [("Look again in a minute.", "")]
    return [("See what runs:", f"systemctl status {unit}"), ("Start both anew:", f"sudo systemctl restart {unit}")]


def _obstacle(said: str) -> str:
    """What is in the way of a start."""
    return next((reason for words, reason in _OBSTACLES if words in said), "")


def _cause(view: View) -> _Step:
    """What to do about the last fault."""
    restarts = [one for one in _list(view.facts, "restarts") if isinstance(one, dict)]
    reason = restarts[-1].get("reason") if restarts else ""
    words, command = _ADVICE.get(clean(reason, 40), _OTHER_ADVICE)
    return words, command.format(unit=view.unit)


def _about_the_card(view: View) -> list[_Step]:
    """A card that is not used although it should be."""
    rung, desired = view.facts.get("rung"), _text(view.facts, "desired_profile", 40)
    gpu = view.facts.get("gpu")
    if rung == "driver_reload":
        words = "None yet: while no picture is being made, the card's driver is loaded anew. If that does not help:"
        return [(words, "sudo systemctl reboot")]
    if rung == "reboot":
        return [
            ("Look at the card's power, heat and seat, and restart the host:", "sudo systemctl reboot"),
            (f"Then go back to {desired}:", "sudo sd-profile clear"),
        ]
    if rung in ("profile", "cpu"):
        return [(f"None: a day of health brings it back toward {desired}. To try it now:", "sudo sd-profile clear")]
    if isinstance(gpu, dict) and gpu.get("said"):
        return [("Try nvidia-smi; if it hangs, only a restart of the host helps:", "sudo systemctl reboot")]
    return []


# Words


def maintenance_words(maintenance: dict[str, Any], now: float) -> str:
    """Until when, by whom and why."""
    left, by, reason = (
        number(maintenance.get("left")),
        clean(maintenance.get("by"), 40),
        clean(maintenance.get("reason")),
    )
    until = (
        "until it is switched off" if left is None else f"for {duration(left)} more, until {moment(now + left, now)}"
    )
    words = f"restarts nothing {until}"
    if by:
        words += f", asked for by {by}"
    return f"{words}: {reason}" if reason else words


def moment(wall: float, now: float) -> str:
    """A point in time in this host's zone: the time if it is of today, the date if it is of another year."""
    try:
        then, today = time.localtime(wall), time.localtime(now)
        if then.tm_year != today.tm_year:
            return time.strftime("%Y-%m-%d", then)
        return time.strftime("%H:%M" if then.tm_yday == today.tm_yday else "%b %d %H:%M", then)
    except (ValueError, OverflowError, OSError):
        return "?"


def _size(mib: float) -> str:
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"


def _times(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _text(facts: dict[str, Any], key: str, most: int) -> str:
    return clean(facts.get(key), most)


def _list(facts: dict[str, Any], key: str) -> list[Any]:
    value = facts.get(key)
    return value if isinstance(value, list) else []


def _counts(facts: dict[str, Any], key: str) -> dict[str, int]:
    value = facts.get(key)
    counts = {clean(name, 20): number(count) for name, count in value.items()} if isinstance(value, dict) else {}
    return {name: int(count) for name, count in counts.items() if count}


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else f"{line[: width - 1].rstrip()}…"


def _wrapped(words: str, width: int, indent: str, first: str | None = None) -> list[str]:
    return textwrap.wrap(
        words,
        width,
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_on_hyphens=False,
    )
