# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What role watchdog sees of a host, by the script as Ansible hands it to python3."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).resolve().parents[3] / "roles/watchdog/files/look_at_host.py"
# Knows one unit, and for it the process that the test says.
SYSTEMCTL = """#!/bin/sh
case "$*" in
  *MainPID*sd-webui.service) printf 'LoadState=loaded\\nActiveState=active\\nMainPID={pid}\\n' ;;
  *UnitFileState*root.path) printf 'ActiveState=active\\nUnitFileState=enabled\\n' ;;
  *UnitFileState*) printf 'ActiveState=inactive\\nUnitFileState=disabled\\n' ;;
esac
"""


def look(root: Path, pid: int = 0) -> dict[str, Any]:
    """What is seen with all paths below `root`."""
    systemctl = root / "bin/systemctl"
    systemctl.parent.mkdir(parents=True, exist_ok=True)
    systemctl.write_text(SYSTEMCTL.format(pid=pid), encoding="utf-8")
    systemctl.chmod(0o755)
    asked = {
        "engine_file": str(root / "engine.json"),
        "unit": "sd-webui.service",
        "supervisor": "/usr/local/lib/sd-watchdog/supervise.py",
        "proven": str(root / "proven"),
        "tmpfiles": str(root / "tmpfiles.conf"),
        "package": str(root / "lib"),
        "files": [str(root / "{unit}.d/60-watchdog.conf"), str(root / "config.json")],
        "folders": [str(root), str(root / "missing")],
        "starters": ["sd-watchdog-root.path", "sd-watchdog-root.timer"],
    }
    done = subprocess.run(
        [sys.executable, "-B", "-"],
        input=f"{SCRIPT.read_text(encoding='utf-8')}\n\nmain({json.dumps(json.dumps(asked))})",
        env={"PATH": f"{systemctl.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def test_a_bare_host(tmp_path: Path) -> None:
    seen = look(tmp_path)
    assert seen["engine"] is None and not seen["supervised"] and not seen["override_is_ours"]
    assert seen["proven"] == "" and seen["links"] == []
    assert seen["missing_folders"] == [str(tmp_path / "missing")]
    assert set(seen["files"].values()) == {""}


def test_a_host_with_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/profile-override.json").write_text('{"profile": "cpu", "set_by": "watchdog"}', encoding="utf-8")
    engine = {"schema": 1, "unit": "sd-webui.service", "state_dir": str(tmp_path / "state")}
    (tmp_path / "engine.json").write_text(json.dumps(engine), encoding="utf-8")
    (tmp_path / "proven").write_text("abc\n", encoding="utf-8")
    (tmp_path / "tmpfiles.conf").write_text("d /run/x 0755 sd sd -\nL+ /srv/m.prom - - - - /run/x/m.prom\n", "utf-8")
    package = tmp_path / "lib/sd_watchdog"
    (package / "__pycache__").mkdir(parents=True)
    for name in ("judge.py", "__pycache__/judge.pyc", "notes.txt"):
        (package / name).write_text("x", encoding="utf-8")
    (package / "judge.py").chmod(0o644)
    dropin = tmp_path / "sd-webui.service.d/60-watchdog.conf"
    dropin.parent.mkdir()
    dropin.write_text("[Service]\n", encoding="utf-8")
    dropin.chmod(0o600)
    idle = ["-c", "import sys; sys.stdin.read()", "/usr/local/lib/sd-watchdog/supervise.py"]
    with subprocess.Popen([sys.executable, *idle], stdin=subprocess.PIPE) as supervisor:
        seen = look(tmp_path, supervisor.pid)
        supervisor.terminate()
    assert seen["engine"] == engine and seen["supervised"] and seen["override_is_ours"]
    assert (seen["unit_is_there"], seen["state"], seen["proven"]) == (True, "active", "abc")
    assert seen["links"] == ["/srv/m.prom"]
    assert seen["files"] == {
        str(package / "judge.py"): "0644 " + hashlib.sha256(b"x").hexdigest(),
        # Its mode tells that somebody has touched it.
        str(dropin): "0600 " + hashlib.sha256(b"[Service]\n").hexdigest(),
        str(tmp_path / "config.json"): "",
    }
    assert seen["starters"] == {"sd-watchdog-root.path": [True, True], "sd-watchdog-root.timer": [False, False]}


def test_damaged_files_are_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_bytes(b"\xff{")
    assert look(tmp_path)["engine"] is None
