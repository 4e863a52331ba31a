# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the web UI is doing, for the person at the terminal; and the few things a person tells the watchdog."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sd_watchdog import config, paths, report, screen, store, untrusted
from sd_watchdog.proc import Proc

DEFAULT_UNIT = "sd-webui.service"
# The supervisor writes each 5 s; one that has not for this long is none.
SILENT_SECONDS = 60.0
_UNITS = {"m": 60, "h": 3600, "d": 86400}
# As long as the supervisor takes it.
MOST_STATE_BYTES = 1 << 20
LONGEST_MAINTENANCE = 30 * 86400


class CommandError(Exception):
    """It cannot be done; the message is one sentence."""


def seconds(text: str) -> float:
    """Of a duration such as 90m, 2h or 1d."""
    match = re.fullmatch(r"(\d{1,6})([mhd])", text)
    found = int(match.group(1)) * _UNITS[match.group(2)] if match else 0
    if not 0 < found <= LONGEST_MAINTENANCE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration of up to 30 days; write 90m, 2h or 1d")
    return float(found)


# What is known


def known_engine() -> tuple[str, str]:
    """The unit, and the folder of the override; as far as role sd_webui has said so."""
    try:
        engine = config.load_engine(config.load_config())
    except config.ConfigError:
        return DEFAULT_UNIT, ""
    return engine.unit, engine.state_dir


def read(path: Path, most: int = untrusted.MOST_BYTES) -> tuple[dict[str, Any], str]:
    """An object that another user wrote, or nothing and why."""
    try:
        return untrusted.read_object(path, most=most), ""
    except FileNotFoundError:
        return {}, f"there is no {path}"
    except untrusted.Refused as error:
        return {}, f"{path}: {error}"


def unit_state(unit: str) -> str:
    """systemd's word for it; empty where it cannot be asked."""
    try:
        shown = subprocess.run(
            ["systemctl", "show", "--property=LoadState", "--property=ActiveState", "--", unit],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=10,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    values = dict(line.partition("=")[::2] for line in shown.splitlines())
    if values.get("LoadState") == "not-found":
        return "not-found"
    return values.get("ActiveState", "")


def current_maintenance(proc: Proc) -> dict[str, Any] | None:
    """The maintenance that is on, with the seconds that are left of it."""
    found, _problem = read(paths.MAINTENANCE)
    if not found or found.get("boot_id") != proc.boot_id():
        return None
    until = report.number(found.get("until_boottime"))
    left = None if until is None else until - proc.boottime()
    return None if left is not None and left <= 0 else {**found, "left": left}


def lives(proc: Proc, pid: int) -> bool:
    """Is there such a process? Where /proc shows a user only the own ones, a signal tells."""
    if proc.state(pid) is not None:
        return True
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    # Ended, and nobody has asked for its status yet.
    return False


def look() -> screen.View:
    """Everything that status shows."""
    proc = Proc()
    unit, state_dir = known_engine()
    facts, problem = read(paths.STATUS)
    written, pid = report.number(facts.get("written_boottime")), report.number(facts.get("supervisor_pid"))
    silent = None if written is None else proc.boottime() - written
    reports = silent is not None and -SILENT_SECONDS <= silent <= SILENT_SECONDS
    alive = reports and pid is not None and 1 < pid < 2**31 and lives(proc, int(pid))
    state, _problem = read(paths.STATE_FILE, MOST_STATE_BYTES)
    outage = report.number(state.get("outage")) if state.get("boot_id") == proc.boot_id() else None
    override, _problem = read(paths.BASE / state_dir.lstrip("/") / "profile-override.json") if state_dir else ({}, "")
    return screen.View(
        facts=facts,
        alive=alive,
        silent=None if silent is None else max(0.0, silent),
        unit=unit,
        unit_state="" if alive else unit_state(unit),
        override=override,
        maintenance=current_maintenance(proc),
        outage=None if outage is None else max(0.0, proc.boottime() - outage),
        now=time.time(),
        problem=problem,
    )


def width() -> int:
    """Of the terminal, or what fits anywhere."""
    return shutil.get_terminal_size((80, 24)).columns


# What the command does


def show_status(arguments: argparse.Namespace) -> int:
    """The screen, or all of it as JSON."""
    view = look()
    if arguments.json:
        data = {
            **view.facts,
            "alive": view.alive,
            "unit_state": view.unit_state or None,
            "maintenance": view.maintenance,
            "exit_status": screen.exit_status(view),
        }
        print(json.dumps(data, indent=1))
    else:
        print(screen.screen(view, width()), end="")
    return screen.exit_status(view)


def show_history(_arguments: argparse.Namespace) -> int:
    """All restarts that the supervisor remembers."""
    state, problem = read(paths.STATE_FILE, MOST_STATE_BYTES)
    restarts = state.get("history")
    if not isinstance(restarts, list):
        status, _problem = read(paths.STATUS)
        restarts = status.get("restarts")
    if not isinstance(restarts, list):
        raise CommandError(f"nothing is known about restarts ({problem or 'no list'}); is the web UI running?")
    print(screen.history(restarts, time.time(), width()), end="")
    return 0


def show_metrics(_arguments: argparse.Namespace) -> int:
    """What Prometheus reads; of a dead supervisor it says that nothing runs."""
    view = look()
    if not view.facts:
        raise CommandError(f"nothing is known ({view.problem}); is the web UI running?")
    facts = view.facts
    if not view.alive:
        gone = ("engine_pid", "probe_seconds", "uptime", "ready_after", "queue", "cores", "memory_mib", "gpu")
        facts = {**facts, **dict.fromkeys(gone), "state": "stopped", "next_start_in": None}
    print(report.render_metrics({**facts, "maintenance": view.maintenance}), end="")
    return 0


def maintenance(arguments: argparse.Namespace) -> int:
    """Switch it on or off, or say how it is."""
    proc, now = Proc(), time.time()
    current = current_maintenance(proc)
    if arguments.action == "status":
        print(f"The watchdog {screen.maintenance_words(current, now)}." if current else "There is no maintenance.")
        return 0
    only_root(f"sd-watchdog maintenance {arguments.action}")
    if arguments.action == "off":
        try:
            paths.MAINTENANCE.unlink(missing_ok=True)
        except OSError as error:
            raise CommandError(f"{paths.MAINTENANCE} cannot be removed ({error.strerror}); remove it by hand") from None
        print("Maintenance is over: the watchdog acts again." if current else "There was no maintenance.")
        return 0
    length = None if arguments.no_end else arguments.length
    content: dict[str, Any] = {
        "schema": 1,
        "until_boottime": None if length is None else proc.boottime() + length,
        "boot_id": proc.boot_id(),
        "until": "it is switched off"
        if length is None
        else time.strftime("%Y-%m-%d %H:%M", time.localtime(now + length)),
        "reason": untrusted.clean(arguments.reason),
        "by": untrusted.clean(os.environ.get("SUDO_USER") or "root", 40),
    }
    try:
        store.write(paths.MAINTENANCE, content)
    except FileNotFoundError:
        raise CommandError(f"there is no {paths.ROOT_STATE}; run site.yml for this host again") from None
    except OSError as error:
        raise CommandError(f"{paths.MAINTENANCE} cannot be written ({error.strerror})") from None
    print(f"The watchdog {screen.maintenance_words({**content, 'left': length}, now)}.")
    print("It ends earlier with: sudo sd-watchdog maintenance off, or when the host is restarted.")
    return 0


def test_alert(_arguments: argparse.Namespace) -> int:
    """Send one, by each way that is set, and say what came of it."""
    only_root("sd-watchdog test-alert")
    # Not before they are needed: status would wait for them.
    from sd_watchdog import alert_policy, alert_send

    try:
        settings = config.load_object(paths.ALERTS_CONFIG)
    except config.ConfigError as error:
        raise CommandError(str(error).rstrip(".")) from None
    channels = alert_send.channels(settings)
    if not channels:
        raise CommandError(
            "no alerts are set up; set watchdog_ntfy_url, watchdog_webhook_url or watchdog_mail_to and run site.yml"
        )
    host = socket.gethostname()
    event = alert_policy.Event(
        event="test",
        key="test",
        title="test alert",
        text=f"Alerts of the watchdog on {host} arrive. Nothing is wrong.",
        host=host,
        wall=time.time(),
    )
    failed = 0
    for channel in channels:
        try:
            remark = channel.send(event)
            print(remark or f"{channel.name}: sent.")
            failed += bool(remark)
        except alert_send.SendError as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


def only_root(what: str) -> None:
    """What changes something, or reads a token."""
    if os.geteuid() != 0:
        raise CommandError(f"only root may do that; run: sudo {what}")


def parse(words: list[str]) -> argparse.Namespace:
    """The command line; without words it is status."""
    parser = argparse.ArgumentParser(
        prog="sd-watchdog",
        description=(__doc__ or "").partition("\n")[0],
        epilog="Exit status of status: 0 the web UI answers, 1 it does not, 3 it was stopped.",
    )
    commands = parser.add_subparsers(metavar="COMMAND")
    parser.set_defaults(run=show_status, json=False)
    status = commands.add_parser("status", help="how the web UI is doing, and what to do next")
    status.add_argument("--json", action="store_true", help="for programs")
    status.set_defaults(run=show_status)
    commands.add_parser("history", help="the last restarts with what was seen").set_defaults(run=show_history)
    commands.add_parser("metrics", help="the figures for Prometheus").set_defaults(run=show_metrics)
    keep = commands.add_parser("maintenance", help="let the watchdog look on for a while, without any restart")
    keep.add_argument("action", choices=["on", "off", "status"])
    length = keep.add_mutually_exclusive_group()
    length.add_argument(
        "--for", dest="length", type=seconds, default=7200.0, metavar="TIME", help="90m, 2h or 1d; 2h unless said"
    )
    length.add_argument("--no-end", action="store_true", help="until it is switched off or the host is restarted")
    keep.add_argument("--reason", default="", help="said by status")
    keep.set_defaults(run=maintenance)
    commands.add_parser("test-alert", help="send an alert by each way that is set up").set_defaults(run=test_alert)
    return parser.parse_args(words)


def main() -> int:
    """Run the command."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that knows no ° shows a question mark.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    arguments = parse(sys.argv[1:])
    try:
        status = int(arguments.run(arguments))
        sys.stdout.flush()
    except CommandError as error:
        print(f"error: {error}.", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever reads it has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


if __name__ == "__main__":
    sys.exit(main())
