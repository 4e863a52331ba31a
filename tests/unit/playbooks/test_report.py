"""playbooks/report.yml as a person runs it, on machines made of files: old, foreign and good."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from webui import serve

ROOT = Path(__file__).resolve().parents[3]
PCI_IDS = """\
# A comment
1002  Advanced Micro Devices, Inc. [AMD/ATI]
\t1380  Not the card
10de  NVIDIA Corporation
\t1380  GM107 [GeForce GTX 750 Ti]
\t\t1043 84bb  A subsystem
\t1cb2  GP107GL[Quadro P600]
8086  Intel Corporation
\t0102  2nd Generation Core Processor Family Integrated Graphics Controller
"""


def machine(
    root: Path, memory_kib: int, flags: str, system: str, version: str, cards: dict[str, tuple[str, str, str]]
) -> Path:
    files = {
        "proc/cpuinfo": "".join(
            f"processor\t: {thread}\nmodel name\t: Intel(R) Core(TM) i5-2300 CPU @ 2.80GHz\n"
            f"flags\t\t: fpu {flags} sse\n\n"
            for thread in range(4)
        ),
        "proc/meminfo": f"MemTotal:       {memory_kib} kB\nMemFree:        1 kB\nSwapTotal:      4194304 kB\n",
        "etc/os-release": f'NAME="{system}"\nVERSION_ID="{version}"\n',
        "etc/debian_version": f"{version}.11\n",
        "usr/share/misc/pci.ids": PCI_IDS,
    }
    for slot, (kind, vendor, device) in cards.items():
        for name, value in (("class", kind), ("vendor", vendor), ("device", device)):
            files[f"sys/bus/pci/devices/{slot}/{name}"] = f"{value}\n"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def report(
    tmp_path: Path,
    hosts: dict[str, dict[str, Any]],
    check: bool = False,
    gateways: dict[str, dict[str, Any]] | None = None,
) -> tuple[list[str], str]:
    inventory = tmp_path / "inventory.json"
    every = {"ansible_connection": "local", "sd_webui_data_dir": "/srv/sd", "base_min_free_gb": 0}
    groups: dict[str, Any] = {"sd_servers": {"hosts": hosts, "vars": every}}
    if gateways is not None:
        groups["sd_gateway"] = {"hosts": gateways, "vars": every}
    inventory.write_text(json.dumps(groups))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ansible", "playbook", "-i", inventory, ROOT / "playbooks/report.yml"),
            *(["--check"] if check else []),
        ],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = re.search(r'"msg": (\[.*?\n    \])', done.stdout, re.DOTALL)
    assert said, done.stdout
    lines: list[str] = json.loads(said[1])
    return lines, done.stdout


def rows(lines: list[str]) -> list[str]:
    """The rows of all tables, each in one line: what was broken to keep to the width is put together, cell by cell."""
    found: list[list[str]] = []
    starts: list[int] = []
    inside = False
    for text in lines:
        if text.startswith("HOST "):
            starts, inside = [place.start() for place in re.finditer(r"(?:^|(?<=  ))\S", text)], False
        elif text.startswith("---"):
            inside = True
        elif inside and text:
            cells = [text[one:two].strip() for one, two in itertools.pairwise([*starts, None])]
            if text.startswith(" "):
                found[-1] = [f"{one} {two}".strip() for one, two in zip(found[-1], cells)]
            else:
                found.append(cells)
    return ["  ".join(cells).rstrip() for cells in found]


def line(lines: list[str], *words: str) -> str:
    found = [text for text in rows(lines) if all(word in text for word in words)]
    assert len(found) == 1, (words, rows(lines))
    return found[0]


@pytest.fixture
def hosts(tmp_path: Path) -> dict[str, dict[str, Any]]:
    cards = {
        "0000:00:02.0": ("0x030000", "0x8086", "0x0102"),
        "0000:01:00.0": ("0x030000", "0x10de", "0x1380"),
        "0000:01:00.1": ("0x040300", "0x10de", "0x0fbc"),
        "0000:02:00.0": ("0x030200", "0x10de", "0xffff"),
    }
    return {
        "old-pc": {
            "report_root": str(machine(tmp_path / "old", 3 * 1024**2, "", "Debian GNU/Linux", "12", cards)),
            "report_engine_file": str(tmp_path / "none.json"),
        },
        "foreign": {
            "report_root": str(machine(tmp_path / "foreign", 32 * 1024**2, "avx avx2 f16c", "Ubuntu", "24.04", {})),
            "report_engine_file": str(tmp_path / "none.json"),
        },
        "good": {
            "report_root": str(machine(tmp_path / "good", 8 * 1024**2, "avx", "Debian GNU/Linux", "13", {})),
            "report_engine_file": str(tmp_path / "engine.json"),
        },
    }


def test_what_it_says(tmp_path: Path, hosts: dict[str, dict[str, Any]]) -> None:
    with serve() as server:
        (tmp_path / "engine.json").write_text(
            json.dumps(
                {
                    "schema": 1,
                    "engine": "stable_diffusion_cpp",
                    "version": "0.4.7",
                    "release": "r1",
                    "profiles": ["cpu"],
                    "address": "0.0.0.0",
                    "port": server.server_address[1],
                    "readiness_path": "/sdapi/v1/options",
                },
                indent=2,
            )
        )
        lines, output = report(
            # The first of them, in whose name the report is made.
            tmp_path,
            {"gone": {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9}, **hosts},
        )
        checked, _output = report(tmp_path, hosts, check=True)
        # The disk of the machine that tests may fill up meanwhile.
        free = re.compile(r"[\d.]+ GiB on")
        told = [free.sub("", text) for text in rows(lines) if "gone" not in text][:3]
        assert told == [free.sub("", text) for text in rows(checked)[:3]]
        # What debug puts around a line makes 120 columns of it.
        assert max(map(len, lines)) <= 108
        assert server.requests[0]["path"] == "/sdapi/v1/options"

    old = line(lines, "old-pc", "Core i5-2300")
    assert "Debian 12.11" in old and "(4 threads)" in old and "3.0 GiB" in old and "4.0 GiB" in old
    assert old.count("  no") == 3
    # All three graphics controllers, and not the card's sound device.
    assert "NVIDIA GeForce GTX 750 Ti, driver none" in old
    assert "NVIDIA (10de:ffff)" in old and "Intel 2nd Generation" in old and "0fbc" not in old
    # The card, its FP16 and last driver and PyTorch, and the plan with its reasons.
    card = line(lines, "old-pc", "GeForce GTX 750 Ti", "GM107")
    assert "stores only" in card and re.search(r" 580 +2\.14$", card)
    assert re.search(r"10de:ffff +\? +\? +\? +unknown +none +\? +\?$", line(lines, "old-pc", "10de:ffff", "unknown  "))
    plan = line(lines, "old-pc", "once its driver runs  ")
    assert re.search(r"gpu_lowvram +535 \(debian\) +2\.1\.2\+cu121 ", plan)
    assert line(lines, "unknown chip 10de:ffff, not in the table")
    assert "There is no NVIDIA card, so the CPU." in line(lines, "good", "2.1.2+cpu")
    refused = line(lines, "old-pc", "stable_diffusion_cpp")
    assert " no " in refused and "3.0 GiB of RAM are less than the 3.5 GiB it needs" in refused
    assert "not Debian 11, 12 or 13" in line(lines, "foreign", "stable_diffusion_cpp")
    assert " yes " in line(lines, "good", "automatic1111", "7.0 GiB needed")
    verdict = line(lines, "good", "stable_diffusion_cpp", "GiB needed")
    assert " yes " in verdict and "small models only" in verdict and "no AVX2" in verdict
    # Engine, release, profile (no file tells it), gateway, weight, watchdog, state.
    assert re.search(r"stable_diffusion_cpp 0.4.7  r1  \?  itself    none  answers$", line(lines, "good", "r1"))
    assert "not reached" in line(lines, "gone", "reached")
    assert "Connection refused" in line(lines, "gone", "?")
    assert not re.search(r"changed=[1-9]|failed=[1-9]", output)


def test_a_server_that_is_down(tmp_path: Path, hosts: dict[str, dict[str, Any]]) -> None:
    with serve() as server:
        port = server.server_address[1]
    engine = {"engine": "e", "unit": "sd-webui.service", "address": "127.0.0.1", "port": port, "readiness_path": "/"}
    (tmp_path / "engine.json").write_text(json.dumps(engine))
    status = Path(hosts["good"]["report_root"]) / "run/sd-watchdog/status.json"
    status.parent.mkdir(parents=True)
    status.write_text(json.dumps({"schema": 1, "state": "waiting", "said": "\x1b[2J"}, indent=1))
    # What it wrote last is no news for ever.
    (tmp_path / "late/usr/local/lib/sd-watchdog").mkdir(parents=True)
    shutil.copytree(hosts["good"]["report_root"], tmp_path / "late", dirs_exist_ok=True)
    os.utime(tmp_path / "late/run/sd-watchdog/status.json", (0, 0))
    late = {**hosts["good"], "report_root": str(tmp_path / "late")}
    lines, _output = report(tmp_path, {"good": hosts["good"], "late": late})
    found = line(lines, "good", "systemctl")
    assert "does not answer: systemctl status sd-webui.service" in found and "  waiting  " in found
    assert "  silent  " in line(lines, "late", "systemctl")


def test_a_fleet(tmp_path: Path, hosts: dict[str, dict[str, Any]]) -> None:
    gateway = {
        "schema": 1,
        "url": "https://192.168.1.19/",
        "certificate": "self-signed",
        "unit": "sd-gateway.service",
        "servers": [{"name": "good", "address": "192.168.1.20", "port": 7860, "engine": "e", "weight": 256}],
    }
    root = machine(tmp_path / "door", 1 * 1024**2, "", "Debian GNU/Linux", "12", {})
    (root / "etc/sd-gateway").mkdir()
    (root / "etc/sd-gateway/gateway.json").write_text(json.dumps(gateway, indent=2))
    engine: dict[str, Any] = {
        "engine": "automatic1111",
        "version": "1.10.1",
        "release": "automatic1111-1.10.1-1a2b3c4d",
    }
    engine |= {"address": "127.0.0.1", "port": 9, "readiness_path": "/", "unit": "sd-webui.service"}
    (tmp_path / "engine.json").write_text(json.dumps(engine))
    state = Path(hosts["good"]["report_root"])
    for name in ("etc/sd-webui", "var/lib/sd-webui"):
        (state / name).mkdir(parents=True)
    (state / "etc/sd-webui/profile").write_text("gpu_medvram\n")
    servers = {name: hosts[name] for name in ("good", "old-pc")}
    for name, expires in (("held", None), ("past", 1.5)):
        shutil.copytree(state, tmp_path / name)
        override = {"schema": 1, "profile": "cpu", "reason": "r", "expires": expires, "set_by": ""}
        override["over"] = {"profile": "gpu_full"}
        (tmp_path / name / "var/lib/sd-webui/profile-override.json").write_text(json.dumps(override, indent=2))
        servers[name] = {**hosts["good"], "report_root": str(tmp_path / name)}
    lines, _output = report(tmp_path, servers, gateways={"door": {"report_root": str(root)}})
    served = line(lines, "good", "1a2b3c4d")
    assert "automatic1111 1.10.1  1.10.1-1a2b3c4d  gpu_medvram  door  256  none" in served
    # Until when somebody wanted another profile.
    assert "  cpu, for now  door  " in line(lines, "held", "1a2b3c4d")
    assert "  gpu_medvram  door  " in line(lines, "past", "1a2b3c4d")
    # It is in front of all, and knows one of them so far.
    assert line(lines, "door", "192.168.1.19").startswith(
        "door  https://192.168.1.19/  signed by itself  good  does not run"
    )
    # A gateway alone is asked for no card and no engine.
    assert not [text for text in rows(lines) if text.startswith("door") and "stable_diffusion_cpp" in text]
    assert max(map(len, lines)) <= 108
