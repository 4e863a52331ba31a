# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input: one sentence with the next step, the running server untouched, nothing half-installed, a re-run heals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

testinfra_hosts = ["sd-webui"]

UPDATE = "playbooks/update.yml"
GOOD = "sd-webui"
POOR = "sd-poor"
# Where the poor host is rich enough to get past the check that is not meant.
RICH = {"_sd_webui_engine_minimum_memory_mib": 1024}


def state(host: Any) -> tuple[str, str, str]:
    """The running release, its process and everything that is configured."""
    return (
        host.check_output("readlink -f /opt/sd-webui/current"),
        host.check_output("systemctl show --property=MainPID --value sd-webui"),
        host.check_output("cat /etc/sd-webui/* | sha256sum; ls /opt/sd-webui/releases"),
    )


@pytest.fixture
def untouched(host: Any) -> Iterator[None]:
    """The server runs on, the very same process with the very same files."""
    before = state(host)
    yield
    assert state(host) == before


@pytest.mark.usefixtures("untouched")
def test_all_that_is_wrong_is_said_at_once(playbook: Any) -> None:
    """One run, one sentence for each of the settings that cannot work."""
    wrong = {
        "sd_webui_profile": "gpu_full",
        "sd_webui_version": "9.9",
        "sd_webui_address": "0.0.0.0",
        # As an INI inventory gives them: text.
        "sd_webui_allow_unauthenticated": "false",
        "sd_webui_port": "80",
        "sd_webui_data_dir": "/home/sd",
        "sd_webui_user": "admin",
        "sd_webui_model_users": ["nobody-of-that-name"],
        "sd_webui_checkpoint": "../shadow",
        "sd_webui_checkpoint_url": "http://127.0.0.1/x",
        "sd_webui_checkpoint_sha256": "",
    }
    run = playbook(UPDATE, GOOD, **wrong)
    assert run.returncode != 0
    for sentence in (
        'no profile "gpu_full"; set sd_webui_profile to auto or cpu.',
        'no pinned version "9.9"; set sd_webui_version to',
        "consent with sd_webui_allow_unauthenticated: true.",
        "choose one from 1024 to 65535.",
        '"../shadow" is not the name of a checkpoint file',
        "set sd_webui_checkpoint_sha256.",
        '"/home/sd" cannot hold the models',
        'sd_webui_user "admin" is a person\'s account',
        'there is no user "nobody-of-that-name"',
    ):
        assert sentence in run.message
    assert run.message.count(f"{GOOD}: ") == 9


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"sd_webui_engine": "dalle"}, 'no engine "dalle"; set sd_webui_engine to one of'),
        (
            {"sd_webui_checkpoint": "other.safetensors"},
            "there is no checkpoint /srv/sd/models/checkpoint/other.safetensors",
        ),
        ({"sd_webui_version": "previous"}, "there is no earlier release to go back to"),
        (
            {"sd_webui_release_archive": "/nowhere.tar.gz", "sd_webui_release_archive_sha256": "0" * 64},
            "the release archive /nowhere.tar.gz could not be deployed",
        ),
    ],
)
def test_refused_before_anything_is_touched(playbook: Any, variables: dict[str, Any], sentence: str) -> None:
    run = playbook(UPDATE, GOOD, **variables)
    assert run.returncode != 0
    assert sentence in run.message
    assert GOOD in run.message


@pytest.mark.usefixtures("untouched")
def test_port_in_use_names_its_owner(host: Any, playbook: Any) -> None:
    host.check_output("systemd-run --quiet --unit=stranger python3 -m http.server 7999 --bind 127.0.0.1")
    host.check_output("timeout 300 sh -c 'until ss -Hltn sport = :7999 | grep -q .; do sleep 0.2; done'")
    try:
        run = playbook(UPDATE, GOOD, sd_webui_port=7999)
    finally:
        host.check_output("systemctl stop stranger")
    assert run.returncode != 0
    assert "port 7999 is taken by python3" in run.message
    assert "stranger.service" in run.message
    assert "set another sd_webui_port" in run.message


def test_settings_that_do_not_start_are_taken_back(host: Any, playbook: Any) -> None:
    """An argument that the engine does not know: the server comes back with what worked, and a re-run heals."""
    release, _, files = state(host)
    run = playbook(UPDATE, GOOD, sd_webui_extra_args=["--no-such-argument"], sd_webui_start_timeout=20)
    assert run.returncode != 0
    assert "runs on" in run.message and "--no-such-argument" in run.message
    assert state(host)[0] == release and state(host)[2] == files
    assert host.run("python3 -Es /opt/sd-webui/libexec/check_running.py").rc == 0
    again = playbook(UPDATE, GOOD)
    assert again.returncode == 0 and again.changed == 0, again.output


def test_an_interrupted_switch_is_finished_by_the_next_run(host: Any, playbook: Any) -> None:
    """The new settings are on the disk, and the connection is lost before the restart."""
    host.check_output('sed -i \'s/"extra_args": \\[\\]/"extra_args": ["--verbose"]/\' /etc/sd-webui/settings.json')
    run = playbook(UPDATE, GOOD, sd_webui_extra_args=["--verbose"])
    assert run.returncode == 0, run.output
    pid = host.check_output("systemctl show --property=MainPID --value sd-webui")
    assert "--verbose" in host.check_output(f"tr '\\0' ' ' < /proc/{pid}/cmdline")
    back = playbook(UPDATE, GOOD)
    assert back.returncode == 0 and back.changed > 0, back.output
    assert host.run("ls /etc/sd-webui /etc/systemd/system | grep '~'").stdout == ""


def test_too_little_memory(playbook: Any) -> None:
    run = playbook(UPDATE, POOR)
    assert run.returncode != 0
    assert "MiB of memory are too little for the engine stable_diffusion_cpp, which needs" in run.message


@pytest.mark.usefixtures("nothing_left_on_poor_host")
class TestPoorHost:
    """A host that can build nothing: what it cannot do is said, and nothing is left behind."""

    def test_wrong_checksum_of_a_source(self, playbook: Any) -> None:
        sources = {"node": {"sha256": "0" * 64}}
        run = playbook(UPDATE, POOR, sd_webui_sources=sources, sd_webui_build_min_free_mib=0, **RICH)
        assert run.returncode != 0
        assert "is not the pinned file (its SHA-256 is not 0000" in run.message
        assert "correct sd_webui_sources.node" in run.message

    def test_no_network(self, playbook: Any) -> None:
        sources = {"server": {"url": "http://no-such-host.invalid/source.tar.gz"}}
        run = playbook(UPDATE, POOR, sd_webui_sources=sources, sd_webui_build_min_free_mib=0, **RICH)
        assert run.returncode != 0
        assert "http://no-such-host.invalid/source.tar.gz could not be fetched" in run.message
        assert "check this host's network" in run.message

    def test_small_disk(self, playbook: Any) -> None:
        run = playbook(UPDATE, POOR, sd_webui_build_min_free_mib=10_000_000, **RICH)
        assert run.returncode != 0
        assert "MiB are free in /var/cache and the build wants" in run.message

    def test_disk_fills_up_during_the_build(self, playbook: Any) -> None:
        run = playbook(UPDATE, POOR, sd_webui_build_min_free_mib=0, **RICH)
        assert run.returncode != 0
        assert "filled up during the build, which was taken away again" in run.message
