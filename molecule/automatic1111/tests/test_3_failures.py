# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Updates that work, updates that do not, and everything that can be wrong with their sources."""

from __future__ import annotations

from typing import Any

import pytest

testinfra_hosts = ["sd-a1111"]

UPDATE = "playbooks/update.yml"
TARGET = "sd-a1111"
POOR = "sd-a1111-poor"
NEW = {"scenario_release": "webui_v2", "scenario_extension": "greeting_v2"}


def version(webui: Any) -> str:
    """Of the web UI that makes the pictures, and of its extension."""
    return f"{webui.generate()[1]['version']} with {webui.get('/secondhand-test/hello')['version']}"


class TestUpdate:
    """One after the other: forward, two broken ones, back."""

    def test_update(self, host: Any, webui: Any, playbook: Any) -> None:
        """Settings, styles and the person's own extensions stay; what has left the inventory is let go."""
        old, login = webui.release, webui.login
        own = "/srv/sd/webui/extensions/my-own/scripts"
        host.check_output(f"install -d {own}; echo 'print(\"my own extension\", flush=True)' > {own}/mine.py")
        assert webui.ask("/sdapi/v1/options", json={"jpeg_quality": 44}).status_code == 200
        run = playbook(UPDATE, TARGET, **NEW)
        assert run.returncode == 0, run.output
        assert webui.login == login and login[1] not in run.output
        assert version(webui) == "v1.10.2 with 2.0"
        assert webui.release != old
        assert host.check_output("basename $(readlink -f /opt/sd-webui/previous)") == old
        options = webui.get("/sdapi/v1/options")
        # A value of the test before that is no longer asked for, but stays; a flag and a disabled extension do not.
        assert (options["jpeg_quality"], options["eta_noise_seed_delta"]) == (44, 31337)
        assert "--api-log" not in webui.arguments and options["disabled_extensions"] == []
        assert "my own extension" in host.check_output(f"journalctl --quiet -u sd-webui _PID={webui.pid}")

    @pytest.mark.parametrize(
        ("broken", "seconds", "said"),
        [
            ("webui_silent", 12, "broken on purpose: it never answers"),
            # What the API answers; the server prints a traceback for each request, as upstream does.
            ("webui_no_model", 60, "'NoneType' object has no attribute 'lowvram'"),
        ],
    )
    def test_broken_update_is_taken_back(
        self, host: Any, webui: Any, playbook: Any, broken: str, seconds: int, said: str
    ) -> None:
        """The old release answers again, and the message holds what the new one said last."""
        old = webui.release
        run = playbook(
            UPDATE, TARGET, scenario_release=broken, scenario_extension="greeting", sd_webui_start_timeout=seconds
        )
        assert run.returncode != 0
        assert f"the release {old} runs on" in run.message
        assert said in run.message
        assert webui.release == old
        assert version(webui) == "v1.10.2 with 2.0"
        assert not host.file("/run/systemd/system/sd-webui.service.d").exists
        assert "runs on" in run.message and "journalctl -u sd-webui" in run.message

    def test_back_to_the_previous_one(self, webui: Any, playbook: Any) -> None:
        """With its extension's version; and it stays there."""
        run = playbook(UPDATE, TARGET, sd_webui_version="previous", **NEW)
        assert run.returncode == 0, run.output
        assert version(webui) == "v1.10.1 with 1.0"
        assert webui.get("/sdapi/v1/options")["jpeg_quality"] == 44
        held = playbook(UPDATE, TARGET, **NEW)
        assert held.returncode == 0 and held.changed == 0, held.output
        assert "it was rolled back from" in held.output


@pytest.mark.usefixtures("untouched")
def test_a_repository_that_is_gone(host: Any, playbook: Any) -> None:
    """No prompt that nobody answers. The other ways to fail: tests/unit/roles/test_sd_webui_build.py."""
    run = playbook(UPDATE, TARGET, sd_webui_git_mirror="{{ scenario_server }}/private", scenario_release="absent")
    assert run.returncode != 0
    for sentence in (TARGET, "asks for a login", "removed or made private", "set sd_webui_sources.webui.repository"):
        assert sentence in run.message


@pytest.mark.usefixtures("nothing_left_on_poor_host")
class TestPoorHost:
    """A host without a release: what cannot be installed is said, and nothing is left behind.

    A wrong hash, a moved tag, no network: tests/unit/roles/test_sd_webui_build.py, with the same scripts.
    """

    def test_disk_fills_up_during_the_build(self, playbook: Any) -> None:
        run = playbook(UPDATE, POOR)
        assert run.returncode != 0
        assert "the disk of /var/cache filled up" in run.message
