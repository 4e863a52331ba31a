# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""reset.yml: what is gone, and what stays."""

from __future__ import annotations

from typing import Any

testinfra_hosts = ["sd-a1111"]

TARGET = "sd-a1111"
KEPT = ["/srv/sd/models/checkpoint/tiny.safetensors", "/srv/sd/webui/config.json", "/srv/sd/webui/styles.csv"]


def test_reset_keeps_models_pictures_and_settings(host: Any, playbook: Any) -> None:
    pictures = host.check_output("find /srv/sd/outputs -name '*.png'").splitlines()
    assert pictures
    run = playbook("playbooks/reset.yml", TARGET)
    assert run.returncode == 0, run.output
    for path in [*KEPT, *pictures]:
        assert host.file(path).exists, path
    for path in (
        "/opt/sd-webui",
        "/etc/sd-webui",
        "/var/lib/sd-webui",
        "/etc/systemd/system/sd-webui.service",
        "/usr/local/bin/sd-profile",
        "/srv/sd/webui/cache",
    ):
        assert not host.file(path).exists, path
    assert host.run("systemctl is-active sd-webui").stdout.strip() == "inactive"
    assert host.run("getent passwd sd").rc != 0
    assert host.run("dpkg-query -W -f='${db:Status-Status}' git").stdout != "installed"
