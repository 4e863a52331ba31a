# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The entry point reset: what is gone, and what stays."""

from __future__ import annotations

from typing import Any

testinfra_hosts = ["model-fetch"]

MADE = [
    "/etc/systemd/system/secondhand-model-watch.path",
    "/etc/systemd/system/secondhand-model-watch.service",
    "/etc/systemd/system/secondhand-model-watch.timer",
    "/opt/secondhand-diffusion",
    "/usr/local/lib/secondhand-diffusion",
    "/var/cache/secondhand-diffusion",
    "/var/lib/secondhand-diffusion",
]


def test_reset_leaves_the_models(host: Any, playbook: Any) -> None:
    # What an interrupted run leaves.
    host.check_output("mkdir -p /var/cache/secondhand-diffusion/git-0123456789abcdef")
    models = host.check_output("find /srv/sd/models /srv/stable-diffusion-webui -type f | sort")
    assert "late.safetensors" in models
    assert [path for path in MADE if not host.file(path).exists] == []
    run = playbook("molecule/model_fetch/reset.yml", "model-fetch")
    assert run.returncode == 0, run.output
    assert [path for path in MADE if host.file(path).exists] == []
    assert host.run("systemctl list-units --all --plain --no-legend 'secondhand-model-watch*'").stdout == ""
    assert host.run("dpkg-query -W -f='${db:Status-Status}' python3-requests").stdout != "installed"
    assert host.run("dpkg-query -W -f='${db:Status-Status}' git-lfs").stdout != "installed"
    assert host.check_output("find /srv/sd/models /srv/stable-diffusion-webui -type f | sort") == models
    again = playbook("molecule/model_fetch/reset.yml", "model-fetch")
    assert again.returncode == 0 and again.changed == 0, again.output
