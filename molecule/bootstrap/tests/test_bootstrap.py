# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host fresh from the installer can be managed with a key afterwards, and bad input gets one sentence."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

HOST = "boot-fresh"
BOOTSTRAP, LOOK, PRESEED = "playbooks/bootstrap.yml", "molecule/bootstrap/look.yml", "playbooks/preseed.yml"
SECRETS = ("user-secret", "root-secret")


def words(run: Any) -> str:
    """What a playbook said, whatever way its lines are folded."""
    return " ".join(run.output.split())


def look(playbook: Any, command: str) -> str:
    """What a command prints on the host, reached with the key and sudo alone."""
    run = playbook(LOOK, HOST, command=command)
    assert run.returncode == 0, run.output
    return words(run)


def test_the_host_can_be_managed_with_the_key(playbook: Any) -> None:
    sudoers, keys = "/etc/sudoers.d/secondhand-diffusion-user", "/home/user/.ssh/authorized_keys"
    seen = look(playbook, f"visudo -c >/dev/null && stat -c %A.%U {sudoers} && stat -c %A.%U {keys}")
    assert "root: -r--r-----.root | -rw-------.user" in seen


def test_another_admin_user_and_a_password_for_sudo(playbook: Any) -> None:
    variables = {"bootstrap_admin_user": "keeper", "bootstrap_passwordless_sudo": False}
    run = playbook(BOOTSTRAP, HOST, "-vvv", **variables)
    assert run.returncode == 0, run.output
    assert [secret for secret in SECRETS if secret in run.output] == []
    assert playbook(BOOTSTRAP, HOST, **variables).changed == 0
    seen = look(playbook, "id -nG keeper; ls /etc/sudoers.d; getent passwd keeper")
    assert "root: keeper sudo |" in seen
    assert "secondhand-diffusion-keeper" not in seen
    assert "/home/keeper:/bin/bash" in seen


def test_a_key_with_options_of_its_own_is_left_alone(playbook: Any) -> None:
    look(playbook, "sed -i 's/^/from=\"0.0.0.0\\/0\" /' /home/user/.ssh/authorized_keys")
    assert playbook(BOOTSTRAP, HOST).changed == 0


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"bootstrap_ssh_key": "/nowhere.pub"}, "There is no public SSH key for boot-fresh at /nowhere.pub: make one"),
        ({"bootstrap_ssh_key": "ssh-ed25519"}, "is not one public SSH key: give the line of a .pub file, or its path."),
        ({"bootstrap_admin_user": "root"}, "is root for boot-fresh: name an ordinary user in lower case."),
        ({"bootstrap_become_method": "magic"}, "is magic for boot-fresh: set it to auto, su, sudo or none."),
        (
            {"bootstrap_become_method": "su", "ansible_become_pass": "wrong"},
            "Root was not reached on boot-fresh with su: give roots password with --ask-become-pass",
        ),
    ],
)
def test_bad_input(playbook: Any, variables: dict[str, str], sentence: str) -> None:
    run = playbook(BOOTSTRAP, HOST, **variables)
    assert run.returncode != 0
    # YAML doubles some quotes.
    assert sentence in words(run).replace("'", "")


def test_preseed_is_accepted_by_debconf(playbook: Any, tmp_path: Path) -> None:
    hashed = "$6$saltsalt$" + "x" * 86
    variables = {"preseed_disk": "/dev/sda", "preseed_password_hash": hashed, "preseed_directory": str(tmp_path)}
    key = {"preseed_ssh_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEexample someone"}
    run = playbook(PRESEED, HOST, **variables, **key)
    assert run.returncode == 0, run.output
    answers = tmp_path / f"{HOST}.cfg"
    assert answers.stat().st_mode & 0o777 == 0o600
    done = subprocess.run(
        ["debconf-set-selections", "--checkonly", str(answers)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    text = answers.read_text()
    assert f"d-i passwd/user-password-crypted password {hashed}\n" in text
    assert "d-i netcfg/get_hostname string boot-fresh\n" in text
    assert "d-i partman-auto/disk string /dev/sda\n" in text
    assert "tasksel tasksel/first multiselect standard, ssh-server\n" in text
    assert "AAAAC3NzaC1lZDI1NTE5AAAAIEexample someone' >/target/home/user/.ssh/authorized_keys" in text
    assert playbook(PRESEED, HOST, **variables, **key).changed == 0
    # The command that runs at the end of the installation is one that a shell can read.
    late = text.split("preseed/late_command string ")[1].splitlines()[0]
    assert subprocess.run(["sh", "-n", "-c", late], check=False).returncode == 0


def test_preseed_refuses_a_password_in_clear_and_does_not_repeat_it(playbook: Any, tmp_path: Path) -> None:
    variables = {"preseed_disk": "/dev/sda", "preseed_directory": str(tmp_path)}
    run = playbook(PRESEED, HOST, preseed_password_hash="in-clear", **variables)
    assert "is not the hash of a password: make one with openssl passwd -6." in words(run).replace("'", "")
    assert "in-clear" not in words(run)
    assert list(tmp_path.iterdir()) == []
