# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Going back to the release before, without a playbook, and what a playbook makes of it afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HOST = Path(__file__).resolve().parents[3] / "roles/sd_webui/files/host"
ROLE = HOST.parents[1]


class Host:
    """A made-up host whose update from engine-1 to engine-2 left both."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.base = root / "opt/sd-webui"
        self.left = root / "var/lib/sd-webui/rolled-back-from"
        self.contract = root / "etc/sd-webui/engine.json"
        for folder in ("etc/sd-webui", "var/lib/sd-webui", "opt/sd-webui/releases"):
            (root / folder).mkdir(parents=True)
        for number in ("1", "2"):
            self.release(f"engine-{number}", number)
        self.link("current", "engine-2")
        self.link("previous", "engine-1")
        (root / "etc/sd-webui/profile").write_text("cpu\n", encoding="utf-8")
        known = {
            "schema": 1,
            "engine": "engine",
            "release": "engine-2",
            "version": "2",
            "port": 7860,
            "auth_file": None,
        }
        self.contract.write_text(json.dumps(known, indent=4, sort_keys=True) + "\n", encoding="utf-8")

    def release(self, name: str, version: str, engine: str = "engine", profiles: tuple[str, ...] = ("cpu",)) -> None:
        """An installed release."""
        folder = self.base / "releases" / name
        folder.mkdir()
        recipe = {
            "schema": 1,
            "id": name,
            "engine": engine,
            "version": version,
            "profiles": {profile: {"arguments": [], "environment": {}} for profile in profiles},
            "paths": {"health": f"/health{version}", "readiness": "/ready", "progress": None, "txt2img": "/t"},
            "minimum_memory_mib": 100,
        }
        (folder / "release.json").write_text(json.dumps(recipe), encoding="utf-8")
        (folder / "build.json").write_text(json.dumps({"engine": engine}), encoding="utf-8")

    def link(self, name: str, release: str) -> None:
        """A link as the role makes it."""
        (self.base / name).unlink(missing_ok=True)
        (self.base / name).symlink_to(self.base / "releases" / release)

    def links(self) -> tuple[str, str, str]:
        """Current, previous, and what was left."""
        current, previous = (os.readlink(self.base / name).rpartition("/")[2] for name in ("current", "previous"))
        return current, previous, self.left.read_text(encoding="utf-8").strip() if self.left.exists() else ""

    def run(self) -> subprocess.CompletedProcess[str]:
        """Roll back."""
        return subprocess.run(
            [sys.executable, "-BEs", str(HOST / "roll_back.py")],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            env={"PATH": os.environ["PATH"], "SD_WEBUI_ROOT": str(self.root), "SD_WEBUI_RELEASE": "/nonexistent"},
        )


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def decision(host: Host, wanted: str, rollback: bool = False) -> str:
    """The release that site.yml would run: the role's own expression."""
    jinja2 = pytest.importorskip("jinja2")
    yaml = pytest.importorskip("yaml")
    tasks = yaml.safe_load((ROLE / "tasks/release.yml").read_text(encoding="utf-8"))
    (task,) = (task for task in tasks if task["name"] == "Decide which release shall run")
    current, previous, left = host.links()
    environment = jinja2.Environment(autoescape=False)
    environment.filters["bool"] = bool
    text = environment.from_string(task["ansible.builtin.set_fact"]["__sd_webui_target_id"]).render(
        __sd_webui_current_id=current,
        __sd_webui_previous_id=previous,
        __sd_webui_rolled_back_from=left,
        _sd_webui_rollback=rollback,
        _sd_webui_release_id=wanted,
    )
    return str(text).strip()


def test_the_release_before_is_current_again(host: Host) -> None:
    done = host.run()
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.count("\n") == 1
    assert done.stdout.startswith("engine-1 is the current release again, in place of engine-2; to try that one again")
    assert host.links() == ("engine-1", "engine-2", "engine-2")
    told = json.loads(host.contract.read_text(encoding="utf-8"))
    assert (told["release"], told["version"], told["health_path"], told["port"]) == ("engine-1", "1", "/health1", 7860)
    assert told["profiles"] == ["cpu"] and told["activity_path"] is None
    assert not list(host.root.rglob("*.part")) and host.contract.stat().st_mode & 0o777 == 0o644
    # As the role's template writes it, so that the next run changes nothing there.
    assert host.contract.read_text(encoding="utf-8") == json.dumps(told, indent=4, sort_keys=True) + "\n"


def test_site_yml_stays_with_it_until_there_is_another_one(host: Host) -> None:
    host.run()
    assert decision(host, "engine-2") == "engine-1"
    assert decision(host, "engine-2", rollback=True) == "engine-1"
    assert decision(host, "engine-3") == "engine-3"
    host.left.unlink()
    assert decision(host, "engine-2") == "engine-2"


def test_there_is_no_second_step_back(host: Host) -> None:
    host.run()
    again = host.run()
    assert again.returncode == 1 and "engine-1 already is what engine-2 was rolled back to" in again.stderr
    assert host.links() == ("engine-1", "engine-2", "engine-2")


def test_an_update_after_it_can_be_left_again(host: Host) -> None:
    host.run()
    host.release("engine-3", "3")
    host.link("previous", "engine-1")
    host.link("current", "engine-3")
    host.left.unlink()
    assert host.run().returncode == 0 and host.links() == ("engine-1", "engine-3", "engine-3")


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [(["left"], "engine-2"), (["left", "current"], "engine-1"), (["left", "current", "previous"], "engine-1")],
)
def test_a_power_cut_between_the_steps(host: Host, steps: list[str], wanted: str) -> None:
    host.left.write_text("engine-2\n", encoding="utf-8")
    if "current" in steps:
        host.link("current", "engine-1")
    if "previous" in steps:
        host.link("previous", "engine-2")
    assert decision(host, "engine-2") == wanted
    done = host.run()
    assert (done.returncode == 0) is (steps == ["left"])
    assert host.links()[0] == "engine-1"


def test_a_current_release_that_is_gone_is_left_too(host: Host) -> None:
    (host.base / "releases/engine-2").rename(host.base / "lost")
    assert host.run().returncode == 0 and host.links() == ("engine-1", "engine-2", "engine-2")


def no_previous(host: Host) -> None:
    (host.base / "previous").unlink()


def dangling_previous(host: Host) -> None:
    host.link("previous", "engine-0")


def same_previous(host: Host) -> None:
    host.link("previous", "engine-2")


def no_current(host: Host) -> None:
    (host.base / "current").unlink()
    (host.base / "current").mkdir()


def other_engine(host: Host) -> None:
    host.release("other-1", "1", engine="other")
    host.link("previous", "other-1")


def no_recipe(host: Host) -> None:
    (host.base / "releases/engine-1/release.json").unlink()


def odd_recipe(host: Host) -> None:
    (host.base / "releases/engine-1/release.json").write_text('{"profiles": {"cpu": {}}}', encoding="utf-8")


def no_contract(host: Host) -> None:
    host.contract.unlink()


def other_profile(host: Host) -> None:
    (host.root / "etc/sd-webui/profile").write_text("gpu_full\n", encoding="utf-8")


def a_switch(host: Host) -> None:
    dropin = host.root / "run/systemd/system/sd-webui.service.d/50-candidate.conf"
    dropin.parent.mkdir(parents=True)
    dropin.touch()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (no_previous, "there is no earlier release"),
        (dangling_previous, "there is no earlier release"),
        (same_previous, "there is no earlier release"),
        (no_current, "is no link to a release"),
        (other_engine, "other-1 is of the engine other, and this host is set up for engine"),
        (no_recipe, "release.json cannot be read"),
        (odd_recipe, "run site.yml for this host again"),
        (no_contract, "engine.json cannot be read"),
        (other_profile, "engine-1 has no profile gpu_full"),
        (a_switch, "a playbook is trying another release right now"),
    ],
)
def test_refused_and_nothing_changed(host: Host, make: Any, said: str) -> None:
    make(host)

    def state() -> dict[str, str]:
        return {
            str(path): os.readlink(path) if path.is_symlink() else (path.read_text() if path.is_file() else "")
            for path in host.root.rglob("*")
        }

    before = state()
    done = host.run()
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.startswith("error: ")
    assert said in done.stderr and done.stderr.count("\n") == 1
    assert state() == before


def test_only_root_may(host: Host) -> None:
    code = "import os, sys; os.geteuid = lambda: 1000; import roll_back; sys.exit(roll_back.main())"
    done = subprocess.run(
        [sys.executable, "-Bc", code],
        check=False,
        capture_output=True,
        text=True,
        cwd=HOST,
        timeout=60,
        env={"PATH": os.environ["PATH"], "SD_WEBUI_ROOT": str(host.root)},
    )
    assert done.returncode == 1 and "run it with sudo" in done.stderr and host.links()[0] == "engine-2"


# sd-profile, as the watchdog uses it


def sd_profile(host: Host, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run sd-profile where systemctl would be noticed."""
    command = host.root / "bin/systemctl"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\necho "$@" >>{host.root}/systemctl.log\n', encoding="utf-8")
    command.chmod(0o755)
    return subprocess.run(
        [sys.executable, "-BEs", str(HOST / "sd_profile.py"), *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": f"{command.parent}:{os.environ['PATH']}", "SD_WEBUI_ROOT": str(host.root)},
    )


@pytest.fixture
def card_host(host: Host) -> Host:
    """Its release also knows a profile for a card, which is the desired one."""
    host.release("engine-9", "9", profiles=("gpu_full", "cpu"))
    host.link("current", "engine-9")
    (host.root / "etc/sd-webui/profile").write_text("gpu_full\n", encoding="utf-8")
    return host


def test_a_profile_for_the_next_start(card_host: Host) -> None:
    done = sd_profile(card_host, "cpu", "--no-restart", "--by=watchdog", "--for=168h", "--reason=three CUDA errors")
    assert done.returncode == 0, done.stderr
    assert "active:   cpu" in done.stdout and "by watchdog: three CUDA errors" in done.stdout
    override = json.loads((card_host.root / "var/lib/sd-webui/profile-override.json").read_text(encoding="utf-8"))
    assert override["set_by"] == "watchdog" and override["profile"] == "cpu"
    done = sd_profile(card_host, "clear", "--no-restart")
    assert done.returncode == 0 and "active:   gpu_full" in done.stdout
    assert not (card_host.root / "systemctl.log").exists()


def test_an_expired_profile_without_a_restart(card_host: Host) -> None:
    override = card_host.root / "var/lib/sd-webui/profile-override.json"
    override.write_text('{"profile": "cpu", "expires": 1}', encoding="utf-8")
    assert sd_profile(card_host, "expire", "--no-restart").returncode == 0
    assert not override.exists() and not (card_host.root / "systemctl.log").exists()


def test_a_person_is_named_as_before(card_host: Host) -> None:
    assert sd_profile(card_host, "gpu_full").returncode == 0
    override = json.loads((card_host.root / "var/lib/sd-webui/profile-override.json").read_text(encoding="utf-8"))
    assert override["set_by"] == "sd-profile"


@pytest.mark.parametrize("name", ["", "Two Words", "x" * 33, "a\nb", "-x"])
def test_a_name_is_a_word(card_host: Host, name: str) -> None:
    done = sd_profile(card_host, "cpu", f"--by={name}")
    assert done.returncode == 2 and "is not a name" in done.stderr
