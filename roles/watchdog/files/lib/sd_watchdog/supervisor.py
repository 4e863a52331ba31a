# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One life of the engine: wait for the moment to start it, start it, watch it, and say how it ended.

The supervisor lives exactly as long as its engine. When the engine ends, or has to be ended, it writes down why and
ends too; systemd clears what is left, prepares the next start as for any other, and starts it again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any

from sd_watchdog import blockers, judge, ladder, model, notify, outbox, paths, profiles, store
from sd_watchdog.config import Config, ConfigError, Engine, load_config, load_engine
from sd_watchdog.engine_process import CRASHES, EngineProcess, describe
from sd_watchdog.facts import Facts
from sd_watchdog.look import Look
from sd_watchdog.model import Verdict
from sd_watchdog.proc import Proc
from sd_watchdog.root_request import RootRequest

# The loop looks so often: at a start, and while all is well (a child that ends wakes it at once).
STARTING_TICK, READY_TICK = 0.25, 1.0
# A manual start finds out within this time that something is in its way; an automatic one waits.
BLOCKED_SECONDS = 10.0
# What systemd has once shown to this unit as read-only stays so for it; the next life sees the disks as they are then.
RENEW_SECONDS = 30.0
# So long it stays when a file of the role's cannot be read.
CONFIG_SECONDS = 15.0
# Grace for an engine that is asked to end: for one that works, and for one that no longer answers.
GRACE, HUNG_GRACE = 15.0, 3.0
# An engine that ends by itself with status 0 after this long has been asked to (A1111: every deliberate exit is 0).
ASKED_AFTER = 60.0
# systemd is told that a start takes longer than so much from now on.
EXTENSION = 30.0
# A disk that is busy with a download may take so long to keep a file, and the loop stands still meanwhile.
SLOW_DISK = 120.0
# Health is added up, and the disk is looked at, so often; the state goes to the disk less often than that.
ROUND_SECONDS, SAVE_SECONDS = 10.0, 600.0
# What the root part has refused is asked for again after this long.
REFUSED_SECONDS = 600.0

EXIT_FINE, EXIT_FAULT, EXIT_CONFIG = 0, 1, 78


class StopAsked(Exception):
    """systemd wants the end: a person stops or restarts the service, or the host goes down."""


class Renew(Exception):
    """Only a new life sees whether what was in the way still is."""


class Blocked(Exception):
    """The engine cannot even be started; a reason and a sentence."""

    def __init__(self, reason: str, said: str) -> None:
        super().__init__(said)
        self.reason, self.said = reason, said


class Supervisor:
    """One life."""

    def __init__(self) -> None:
        """Read what the role wrote and what is remembered; raises ConfigError."""
        self.config: Config = load_config()
        self.engine: Engine = load_engine(self.config)
        self._config_mtime = _mtime()
        self.candidate = os.environ.get("SD_WEBUI_CANDIDATE") == "yes"
        self.proc = Proc()
        self.boot_id = self.proc.boot_id()
        self.state = ladder.load(store.read(paths.STATE_FILE, max_bytes=1 << 20))
        self.profiles = profiles.look(self.engine)
        self.facts = Facts(self)
        self.process: EngineProcess | None = None
        self.look: Look | None = None
        self.memory = judge.begin(time.monotonic())
        self.ready_at: float | None = None
        self.next_start: float | None = None
        self.pending: Verdict = model.FINE
        self.warned: dict[str, str] = {}
        self._notified = -1e9
        self._saved = time.monotonic()
        self._round = time.monotonic()
        self._unhealthy = False
        # What the root part is asked for while the server runs.
        self._request: RootRequest | None = None
        self._step = ladder.NOTHING
        self._changed: Verdict | None = None
        self._not_before = -1e9
        self._maintenance_said = False

    # --- what systemd and people are told

    def say(self, sentence: str) -> None:
        """To the journal and to systemctl status."""
        if self.process is not None:
            self.process.end_line()
        _print(f"watchdog: {sentence}")
        notify.status(sentence)

    def save(self) -> None:
        """Keep the state; a disk that is full or read-only takes nothing, and the server runs on."""
        if self.candidate:
            return
        self._saved = time.monotonic()
        # systemd moves the watchdog's end with it, until it hears of the loop again.
        notify.extend(SLOW_DISK)
        with contextlib.suppress(OSError):
            store.write(paths.STATE_FILE, vars(self.state))
        self._notified = -1e9

    def post(self, event: str, key: str, title: str, text: str, seconds: float | None = None) -> None:
        """Tell people, if they wish to be told."""
        if self.config.alerts and not self.candidate and not self.facts.maintenance():
            notify.extend(SLOW_DISK)
            outbox.post(event, key, title, text, self.config.host, seconds)
            self._notified = -1e9

    # --- the loop's one place to wait

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than until something happens; raises StopAsked."""
        self._beat()
        found = signal.sigtimedwait({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}, max(0.0, seconds))
        if found is not None and found.si_signo != signal.SIGCHLD:
            raise StopAsked

    def _beat(self) -> None:
        """Tell systemd that the loop goes round."""
        now = time.monotonic()
        if now - self._notified < 1.0:
            return
        self._notified = now
        # Not while the engine's log is stuck: that would be half a supervisor.
        if self.process is None or self.process.relays or self.process.ended() is not None:
            notify.watchdog()
        if self.ready_at is None:
            notify.extend(EXTENSION)

    def run(self) -> int:
        """Live; returns the exit status."""
        self._enter()
        try:
            self._wait_for_the_moment()
            self._start()
            verdict = self._watch()
        except StopAsked:
            return self._stop()
        except Blocked as blocked:
            return self._refuse(blocked)
        except Renew:
            self.state.running = ""
            self.save()
            return EXIT_FAULT
        return self._finish(verdict)

    # --- before the start

    def _enter(self) -> None:
        """Find out what happened since the last life."""
        if self.candidate:
            return
        if ladder.enter_boot(self.state, self.boot_id):
            self.say("the host has been started again since")
        boottime = self.proc.boottime()
        if self.state.running:
            # The last supervisor has not said good-bye: it was killed, or systemd's own watchdog ended it.
            said = "the supervisor itself ended without a word: it was killed, or stopped for too long"
            self._note(model.SUPERVISOR, said, False)
            self.say(said)
            self.post("outage", model.SUPERVISOR, "The web UI has failed", said)
        self.state.running = f"{os.getpid()}"
        if self.state.automatic and self.state.ended is not None:
            self.next_start = time.monotonic() + ladder.wait_before_start(self.state, self.config, boottime)
        self.save()
        self.facts.write("waiting", "it is about to start")

    def _wait_for_the_moment(self) -> None:
        """The backoff, what the ladder asks for, and whatever is in the way."""
        if not self.candidate:
            self._climb()
            while self.next_start is not None and time.monotonic() < self.next_start:
                left = self.next_start - time.monotonic()
                self.facts.write("waiting", f"{self.state.failures} faults in a row; the next start is in {left:.0f} s")
                self.pause(min(left, 1.0))
            self.next_start = None
        self._wait_for_blockers()

    def _climb(self) -> None:
        """Take the next rung of the ladder, if it is time for it."""
        self.profiles = profiles.look(self.engine)
        step = ladder.step_before_start(
            self.state,
            self.config,
            profile=self.profiles.active,
            desired=self.profiles.desired,
            profiles=self.engine.profiles,
            release=self.engine.release,
        )
        if not step.action:
            return
        self.facts.write("waiting", f"{_step_words(step)}: {step.reason}")
        self.say(f"{_step_words(step)}: {step.reason}")
        answer = self._ask_root(step)
        if answer.get("ok"):
            ladder.note_step(self.state, step)
            self.post("rung", step.action, _step_words(step), step.reason)
        else:
            self.say(f"that was not done: {answer.get('said', 'no answer')}")
            # Not at every start again.
            self.state.on_rung = 0
            if step.action == "roll_back":
                self.state.good_release = ""
        self.save()
        self.profiles = profiles.look(self.engine)
        if step.action == "roll_back":
            with contextlib.suppress(ConfigError):
                self.engine = load_engine(self.config)

    def _ask_root(self, step: ladder.Step, **values: Any) -> dict[str, Any]:
        """Ask and wait; systemd hears from the loop meanwhile."""
        if step.profile:
            values["profile"] = step.profile
        try:
            request = RootRequest(step.action, step.reason, time.monotonic(), **values)
        except OSError as error:
            return {"ok": False, "said": f"the request cannot be written ({error})"}
        while True:
            answer = request.answer(time.monotonic())
            if answer is not None:
                return answer
            self.pause(0.2)

    def _wait_for_blockers(self) -> None:
        """A start that cannot work is not made: an automatic one waits, a person's fails with a sentence."""
        begun, told = time.monotonic(), ""
        asked = begun
        while True:
            blocker = blockers.find(self.engine)
            if blocker is not None and self.state.stuck and time.monotonic() - asked >= REFUSED_SECONDS:
                # The port is that of the last engine: nothing else will ever end this.
                asked = time.monotonic()
                self._climb()
            if blocker is None:
                self.state.stuck = False
                if told:
                    self.say("nothing is in the way any more")
                return
            said = blocker.said
            if blocker.reason == model.PORT_TAKEN and not told.startswith(said):
                step = ladder.Step("name_port_owner", "", said)
                answer = self._ask_root(step, port=self.engine.port)
                owner = (answer.get("data") or {}).get("owner") if answer.get("ok") else None
                said = f"{said}: {owner}" if owner else said
            elif told.startswith(said):
                said = told
            if said != told:
                told = said
                self.say(f"{said}; the start waits until that has ended")
                self.post("outage", blocker.reason, "The web UI cannot start", said)
                if not self.candidate and self.state.outage is None:
                    self.state.outage, self.state.outage_wall = self.proc.boottime(), time.time()
                    self.state.outage_reason = blocker.reason
            if time.monotonic() - begun >= BLOCKED_SECONDS and (self.candidate or not self.state.automatic):
                raise Blocked(blocker.reason, said)
            self.facts.write("waiting", said)
            if blocker.reason == model.READ_ONLY and time.monotonic() - begun >= RENEW_SECONDS:
                raise Renew
            self.pause(1.0)

    # --- the start

    def _start(self) -> None:
        """Start the engine and wait until it answers."""
        self.profiles = profiles.look(self.engine)
        now = time.monotonic()
        self.memory = judge.begin(now, self.candidate)
        try:
            self.process = EngineProcess(self.engine.start_command)
        except OSError as error:
            raise Blocked(model.CONFIG, f"{self.engine.start_command[0]} cannot be executed ({error})") from error
        self.look = Look(self.config, self.engine, self.process, self.profiles.active.startswith("gpu_"))
        self.look.xid_number = self.state.xid_number
        self.facts.write("starting", "it loads")

    # --- the watch

    def _watch(self) -> Verdict:
        """Until the engine ends or has to be ended."""
        process, look = self.process, self.look
        if process is None or look is None:
            return Verdict("end", model.CONFIG, "it was not started")
        while True:
            now = time.monotonic()
            if process.ended() is not None:
                return self._how_it_ended(process, look)
            if self.ready_at is None and look.is_ready():
                self._become_ready(now)
            seen = look.look(now)
            card = self.profiles.active.startswith("gpu_")
            self.memory, verdict = judge.judge(self.memory, seen, self.config, card)
            if self.ready_at is None and verdict.action == "none":
                verdict = judge.over_budget(self.memory, now, self.engine.start_timeout)
            for repair in look.new_repairs:
                ladder.demand(self.state, repair)
            look.new_repairs.clear()
            self.state.xid_number = max(self.state.xid_number, look.xid_number)
            if verdict.action == "none":
                self.pending = verdict
            elif self._may_act(verdict, now):
                return verdict
            self._go_round(now)
            idle = self._while_idle(now)
            if idle is not None:
                return idle
            self._report(now)
            look.ask(now)
            self.pause(STARTING_TICK if self.ready_at is None else READY_TICK)

    def _become_ready(self, now: float) -> None:
        """It answers for the first time."""
        self.ready_at = now
        self.memory = judge.became_ready(self.memory, now)
        notify.ready()
        took = now - self.memory.started
        if self.candidate:
            ladder.enter_boot(self.state, self.boot_id)
            ladder.note_ready(self.state, self.proc.boottime())
        else:
            why = self.state.outage_reason
            waited = ladder.note_ready(self.state, self.proc.boottime())
            if waited is not None and why not in model.PLANNED:
                said = f"it answers again after {waited:.0f} s"
                self.post("recovered", why, "The web UI is back", said, waited)
        # What proves itself in a switch has done so; from here on it is watched like any other.
        self.candidate = False
        os.environ.pop("SD_WEBUI_CANDIDATE", None)
        self.state.running = f"{os.getpid()}"
        self.save()
        self.say(f"{self.engine.release} answers with profile {self.profiles.active}, {took:.1f} s after its start")

    def _may_act(self, verdict: Verdict, now: float) -> bool:
        """Is the engine ended now? Not in maintenance, and not in the middle of a picture when that can wait."""
        if self.facts.maintenance():
            if not self._maintenance_said:
                self._maintenance_said = True
                self.say(f"maintenance: nothing is done, though {verdict.said}")
            return False
        if verdict.urgent or judge.is_idle(self.memory, now):
            return True
        if self.pending.reason != verdict.reason:
            self.pending = verdict
            self.say(f"{verdict.said}; it is started anew as soon as it makes no picture")
        return False

    def _go_round(self, now: float) -> None:
        """What needs no hurry: health adds up, settings and disks are looked at."""
        if now - self._round < ROUND_SECONDS:
            return
        seconds, self._round = now - self._round, now
        if self.ready_at is not None:
            # Once more: systemd may have taken nothing in that moment, and would then end a start that never ends.
            notify.ready()
        self._read_config_again()
        self.profiles = profiles.look(self.engine)
        if self.ready_at is not None and self.memory.failures == 0:
            ladder.note_health(self.state, self.config, seconds, now - self.ready_at, self.engine.release)
        found = {blocker.reason: blocker.said for blocker in blockers.warnings(self.engine, self.config)}
        for reason, said in found.items():
            if reason not in self.warned:
                self.say(said)
                self.post("warning", reason, "The web UI needs help", said)
        self.warned = found
        if now - self._saved >= SAVE_SECONDS:
            self.save()

    def _read_config_again(self) -> None:
        """Settings that the role has changed need no restart; damaged ones change nothing."""
        mtime = _mtime()
        if mtime != self._config_mtime:
            self._config_mtime = mtime
            with contextlib.suppress(ConfigError):
                self.config = load_config()
                if self.look is not None:
                    self.look.config = self.config
                self.say("has read its settings again")

    def _while_idle(self, now: float) -> Verdict | None:
        """Repair the card, or take one rung back up, while nobody waits for a picture."""
        if self.ready_at is None or self.facts.maintenance():
            return None
        if self._request is not None:
            self._idle_answer(now)
        if self._request is not None or now < self._not_before or not judge.is_idle(self.memory, now):
            return None
        if self._changed is not None:
            return self._changed
        step = ladder.step_while_idle(
            self.state,
            self.config,
            profile=self.profiles.active,
            desired=self.profiles.desired,
            profiles=self.engine.profiles,
            override_is_ours=self.profiles.is_ours,
        )
        if not step.action:
            return None
        self.say(f"{_step_words(step)}: {step.reason}")
        values = {"profile": step.profile} if step.action == "profile" else {}
        try:
            self._request = RootRequest(step.action, step.reason, now, **values)
        except OSError as error:
            self.say(f"the request cannot be written ({error})")
            self._put_off(step.action, now, False)
            return None
        self._step = step
        return None

    def _idle_answer(self, now: float) -> None:
        """What the root part has made of the request. A picture may have been begun meanwhile."""
        answer = self._request.answer(now) if self._request is not None else None
        if answer is None:
            return
        step, self._request = self._step, None
        if not answer.get("ok"):
            self.say(f"that was not done: {answer.get('said', 'no answer')}")
            self._put_off(step.action, now, bool((answer.get("data") or {}).get("tried")))
            return
        self.post("reboot" if step.action == "reboot" else "rung", step.action, _step_words(step), step.reason)
        ladder.note_step(self.state, step, up=step.action in ("profile", "clear_profile"))
        self.save()
        self.say(f"done: {answer.get('said', '')}")
        if step.action in ("profile", "clear_profile"):
            self._changed = Verdict("end", model.STEP_UP, step.reason)

    def _put_off(self, action: str, now: float, tried: bool) -> None:
        """What was refused is asked for again later; a reload that has not helped is not tried twice."""
        self._not_before = now + REFUSED_SECONDS
        if action == "reload_driver" and tried:
            self.state.reloaded = True
            self.state.repair = "reboot"
        self.save()

    def _report(self, now: float) -> None:
        """For people and machines."""
        if self.facts.maintenance():
            self.facts.write("maintenance", "the watchdog does nothing until that has ended", now)
        elif self._maintenance_said:
            self._maintenance_said = False
        if self.facts.maintenance():
            return
        if self.ready_at is None:
            self.facts.write("starting", f"it has been loading for {now - self.memory.started:.0f} s", now)
        elif self.memory.failures:
            works = "works on" if now - self.memory.last_work < judge.QUIET_SECONDS else "does nothing"
            said = f"{self.memory.failures} health requests had no answer ({self.memory.failure_said}), and it {works}"
            self.facts.write("unhealthy", said, now)
        elif self.pending.reason:
            self.facts.write("busy", f"{self.pending.said}; it is started anew when it makes no picture", now)
        elif self._makes_a_picture(now):
            self.facts.write("busy", "it makes a picture", now)
        else:
            self.facts.write("ready", "it answers", now)

    def _makes_a_picture(self, now: float) -> bool:
        """By the engine's own word, else by its work."""
        activity = self.memory.activity
        if activity is not None:
            return activity.job or activity.queue > 0
        cores = self.look.cores if self.look is not None else None
        return cores is not None and cores >= self.config.idle_cores

    # --- the end

    def _how_it_ended(self, process: EngineProcess, look: Look) -> Verdict:
        """The engine has ended by itself: why, as far as can be known."""
        process.drain_log(1.0)
        status = process.ended() or 0
        kinds = look.recent_kinds(time.monotonic())
        words = describe(status)
        uptime = time.monotonic() - self.ready_at if self.ready_at is not None else 0.0
        if look.oom_killed():
            return Verdict("end", model.OOM, f"the kernel has killed it for lack of memory; it {words}")
        if status == EXIT_CONFIG:
            return Verdict("end", model.CONFIG, f"it cannot start with these settings: {_last(process)}")
        if "port_in_use" in kinds:
            return Verdict(
                "end", model.PORT_TAKEN, f"port {self.engine.port} was taken when it came to listen; it {words}"
            )
        blocker = blockers.find(self.engine)
        if blocker is not None and blocker.reason in (model.DISK_FULL, model.READ_ONLY):
            return Verdict("end", blocker.reason, f"{blocker.said}; it {words}")
        if "cuda_error" in kinds or self.memory.cuda_errors:
            return Verdict("end", model.CUDA_ERROR, f"it {words} after a CUDA error")
        if "cuda_oom" in kinds:
            return Verdict("end", model.CUDA_OOM, f"it {words} after the card's memory ran out")
        if "memory_error" in kinds:
            return Verdict("end", model.MEMORY_ERROR, f"it {words} after the memory ran out")
        if -status in CRASHES:
            return Verdict("end", model.CRASHED, f"it {words}")
        if status < 0:
            return Verdict("end", model.KILLED, f"it {words}, sent by somebody else")
        if status == 0 and uptime >= ASKED_AFTER:
            return Verdict("end", model.ASKED, "it was asked to end from its own page or API")
        return Verdict("end", model.EXITED, f"it {words}: {_last(process)}")

    def _finish(self, verdict: Verdict) -> int:
        """End what still lives, write down why, and leave the rest to systemd."""
        ended = self.process is not None and self.process.ended() is not None
        # A start by a person, or by a playbook that tries a release, is waited for: it fails with its sentence.
        waited_for = self.ready_at is None and (self.candidate or not self.state.automatic)
        if ended and not waited_for and self.facts.maintenance():
            try:
                self._wait_out_maintenance(verdict)
            except StopAsked:
                return self._stop()
            verdict = Verdict("end", model.ASKED, "maintenance has ended")
        evidence = self._evidence(verdict)
        planned = verdict.reason in model.PLANNED
        self.say(f"{verdict.reason}: {verdict.said}")
        for line in evidence:
            _print(f"watchdog:   evidence: {line}")
        # First written down, then done: whoever kills us meanwhile has not made it forgotten.
        self._note(verdict.reason, verdict.said, self.ready_at is not None, evidence)
        if not planned:
            self.post("outage", verdict.reason, "The web UI has failed", verdict.said)
        self.facts.write("stopping", verdict.said)
        if self.process is not None and self.process.ended() is None:
            grace = GRACE if planned or verdict.action == "when_idle" else HUNG_GRACE
            grace = 0.0 if verdict.reason == model.STOPPED else grace
            if not self.process.end(grace, self._beat):
                self.state.stuck = not self.candidate
                self.say("it cannot even be killed: it hangs in the kernel; only a restart of the host may end it")
        self.state.running = ""
        self.save()
        if signal.sigtimedwait({signal.SIGTERM, signal.SIGINT}, 0) is not None:
            # Somebody stops the service while it ends.
            return self._stop()
        self.facts.write("waiting", f"{verdict.said}; it is started again")
        return EXIT_FINE if planned else EXIT_FAULT

    def _refuse(self, blocked: Blocked) -> int:
        """Not even started."""
        _print(f"error: {blocked.said}.", 2)
        self._note(blocked.reason, blocked.said, False)
        self.state.running = ""
        self.save()
        self.facts.write("waiting", blocked.said)
        return EXIT_FAULT

    def _wait_out_maintenance(self, verdict: Verdict) -> None:
        """It has ended while somebody works on it: it is theirs until they are done."""
        self.say(f"maintenance: {verdict.said}; it is started again when that has ended")
        while self.facts.maintenance():
            self.facts.write("maintenance", f"{verdict.said}; it is started again when maintenance ends")
            self.pause(1.0)

    def _note(self, reason: str, said: str, ready: bool, evidence: list[str] | None = None) -> None:
        """Write the end into the state; a candidate's is its own affair."""
        if self.candidate:
            return
        ladder.note_end(
            self.state,
            reason,
            said,
            self.proc.boottime(),
            time.time(),
            ready=ready,
            release=self.engine.release,
            evidence=evidence,
        )
        self.save()

    def _evidence(self, verdict: Verdict) -> list[str]:
        """What it was concluded from."""
        found = []
        look, process = self.look, self.process
        if look is not None:
            cores = "unknown" if look.cores is None else f"{look.cores:.2f}"
            state = self.proc.state(process.pid) if process is not None else None
            found.append(f"process state {state or 'gone'}, {cores} cores at work, profile {self.profiles.active}")
            if look.memory is not None and look.memory_limit:
                found.append(f"memory {look.memory / 2**20:.0f} of {look.memory_limit / 2**20:.0f} MiB")
            if look.answer is not None and self.memory.failures:
                found.append(f"{look.answer.path}: {look.answer.said} after {look.answer.seconds:.1f} s")
            if look.gpu is not None:
                found.append(f"card: {look.gpu.said or f'{look.gpu.utilization} % busy'}")
        if process is not None and verdict.reason not in model.PLANNED:
            found += [f"log: {line}" for line in process.tail(3)]
        return found

    def _stop(self) -> int:
        """A person, or the end of the host's day."""
        notify.stopping()
        self.facts.write("stopping", "systemd has asked for its end")
        if self.process is not None:
            self.process.end(GRACE, self._beat)
        if not self.candidate:
            ladder.note_stop(self.state)
            self.state.running = ""
            self.save()
        self.facts.write("stopped", "it was stopped")
        return EXIT_FINE


def _print(line: str, descriptor: int = 1) -> None:
    """A line for the journal, past Python's buffers: one that is gone loses the line and not the supervisor."""
    with contextlib.suppress(OSError):
        os.write(descriptor, f"{line}\n".encode("utf-8", "replace"))


def _step_words(step: ladder.Step) -> str:
    """What is about to be done."""
    return {
        "profile": f"changes to profile {step.profile}",
        "clear_profile": f"goes back to profile {step.profile}",
        "roll_back": "goes back to the last release that was good",
        "reload_driver": "reloads the driver of the card",
        "reboot": "starts the host anew",
    }.get(step.action, step.action)


def _last(process: EngineProcess) -> str:
    """The last thing that it said."""
    return (process.tail(1) or ["it has said nothing"])[-1]


def _mtime() -> float:
    """When the settings were written."""
    try:
        return paths.CONFIG.stat().st_mtime
    except OSError:
        return 0.0


def main() -> int:
    """Supervise; the exit status."""
    # Waited for in pause(), and given back to the engine before it starts.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
    try:
        supervisor = Supervisor()
    except ConfigError as error:
        _print(f"error: {error}", 2)
        if os.environ.get("SD_WEBUI_CANDIDATE") != "yes":
            # systemd starts it again after a second, for ever, and only a playbook changes such a file.
            signal.sigtimedwait({signal.SIGTERM, signal.SIGINT}, CONFIG_SECONDS)
        return EXIT_CONFIG
    return supervisor.run()
