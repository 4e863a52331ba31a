"""The module as Ansible runs it, on made-up PCI buses, with programs in the place of the driver's."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ansible
import pytest
import yaml
from ansible_collections.secondhand.diffusion.plugins.modules import gpu_fp16_info
from pci_tree import PCI_IDS, add_device, make_tree

ROOT = Path(__file__).resolve().parents[4]
COLLECTIONS = ROOT / "playbooks" / "collections"
MODULE = "ansible_collections.secondhand.diffusion.plugins.modules.gpu_fp16_info"

Run = Callable[..., dict[str, Any]]


def call(
    options: dict[str, Any],
    environment: dict[str, str] | None = None,
    check: bool = False,
    path: str | None = None,
    python: str = sys.executable,
    user: int | None = None,
) -> dict[str, Any]:
    arguments = {"ANSIBLE_MODULE_ARGS": {**options, "_ansible_check_mode": check, "_ansible_remote_tmp": "/tmp"}}
    done = subprocess.run(
        [python, "-B", "-m", MODULE],
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
        user=user,
        env={
            **os.environ,
            "PYTHONPATH": path or os.pathsep.join([str(COLLECTIONS), *sys.path]),
            **(environment or {}),
        },
    )
    assert done.stdout, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (1 if answer.get("failed") else 0), done.stderr
    return answer


class Machine:
    """A computer with a bus, and with no driver at first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sys = make_tree(path / "sys")
        self.pci_ids = path / "pci.ids"
        self.pci_ids.write_text(PCI_IDS)
        # Where the programs and Python modules of its driver go; the library of a real one is hidden by a broken one.
        self.driver = path / "driver"
        self.driver.mkdir()
        (self.driver / "libnvidia-ml.so.1").write_text("")

    def add(self, address: str, pci_id: str, **more: Any) -> None:
        add_device(self.sys, address, pci_id, **more)

    def load(self, version: str) -> None:
        make_tree(self.sys, nvidia=version)

    def install_smi(self, script: str) -> None:
        program = self.driver / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def install_pynvml(self, init: str) -> None:
        """A pynvml that does this when it is initialised."""
        (self.driver / "pynvml.py").write_text(
            f"import time\n\n\nclass NVMLError(Exception):\n    value = 999\n\n\ndef nvmlInit():\n    {init}\n"
        )

    def run(self, check: bool = False, **options: Any) -> dict[str, Any]:
        defaults = {"sysfs_path": str(self.sys), "pci_ids_path": str(self.pci_ids), "debian_release": "12"}
        environment = {
            "PATH": f"{self.driver}:/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join([str(self.driver), str(COLLECTIONS), *sys.path]),
            "LD_LIBRARY_PATH": str(self.driver),
        }
        answer = call({**defaults, **options}, environment, check)
        assert answer.get("changed", False) is False
        # Whoever reads the plan alone sees every reason.
        told = (answer.get("plan") or {}).get("reasons", []) + (answer.get("plan") or {}).get("problems", [])
        told = [sentence.lower() for sentence in told]
        assert all(reason.lower() in told for reason in answer.get("reasons", []))
        for sentence in [*answer.get("reasons", []), *(answer.get("plan") or {}).get("problems", [])]:
            assert sentence.endswith(".") and "\n" not in sentence, sentence
        for source in answer.get("sources", []):
            # What is wrong, and the next step.
            assert source["problem"] is None or (source["problem"].endswith(".") and ": " in source["problem"])
        return answer


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def decided(answer: dict[str, Any]) -> tuple[str, str, int | None]:
    return answer["device"], answer["profile"], answer["gpu_index"]


def smi(*lines: str, code: int = 0) -> str:
    return "cat <<'END'\n" + "\n".join(lines) + f"\nEND\nexit {code}"


SMI_750_TI = "0, NVIDIA GeForce GTX 750 Ti, GPU-6ee8, 00000000:01:00.0, 0x138010DE, 1999, 535.261.03, 5.0"


# Cards without a driver, as on a host fresh from the installer


def test_no_card(machine: Machine) -> None:
    answer = machine.run()
    assert answer["gpus"] == answer["other_gpus"] == []
    assert decided(answer) == ("cpu", "cpu", None)
    assert answer["reasons"] == ["There is no NVIDIA card, so the CPU."]
    assert [source["source"] for source in answer["sources"]] == ["nvml", "nvidia_smi", "pci"]
    assert answer["plan"]["driver"]["wanted"] is False
    assert answer["plan"]["problems"] == []
    assert answer["host"]["memory_mib"] > 0


def test_gtx_750_ti(machine: Machine) -> None:
    machine.add("0000:01:00.0", "10de:1380")
    answer = machine.run()
    (gpu,) = answer["gpus"]
    assert (gpu["name"], gpu["chip"], gpu["architecture"]) == ("GeForce GTX 750 Ti", "GM107", "Maxwell")
    assert (gpu["pci_id"], gpu["compute_capability"], gpu["vram_mib"]) == ("10de:1380", "5.0", None)
    assert (gpu["fp16"]["storage"], gpu["fp16"]["arithmetic"]) == (True, False)
    assert (gpu["driver"]["last_branch"], gpu["driver"]["open_module"]) == (580, "unsupported")
    # The memory is not known yet: a card provisionally, with the smallest of its profiles.
    assert decided(answer) == ("gpu", "gpu_lowvram", 0)
    assert (answer["plan"]["ready"], answer["plan"]["profile_now"]) == (False, "cpu")
    assert (answer["plan"]["driver"]["source"], answer["plan"]["driver"]["branch"]) == ("debian", 535)


@pytest.mark.parametrize(("pci_id", "class_"), [("10de:1cb2", "0x030000"), ("10de:1cbc", "0x030200")])
def test_quadro_p600_of_a_desktop_and_of_a_laptop(machine: Machine, pci_id: str, class_: str) -> None:
    machine.add("0000:00:02.0", "8086:0152")
    machine.add("0000:01:00.0", pci_id, class_=class_)
    answer = machine.run()
    (gpu,) = answer["gpus"]
    assert (gpu["chip"], gpu["compute_capability"], gpu["fp16"]["rate_vs_fp32"]) == ("GP107", "6.1", 1 / 64)
    assert decided(answer) == ("gpu", "gpu_lowvram", 0)
    assert answer["other_gpus"] == [
        {
            "pci_address": "0000:00:02.0",
            "pci_id": "8086:0152",
            "name": "Xeon E3-1200 v2/3rd Gen Core processor Graphics Controller",
        }
    ]
    assert any(reason.startswith("The Intel card at 0000:00:02.0 (Xeon") for reason in answer["reasons"])


def test_gtx_1660_super_computes_wrongly(machine: Machine) -> None:
    machine.add("0000:01:00.0", "10de:21c4")
    (gpu,) = machine.run()["gpus"]
    assert (gpu["chip"], gpu["compute_capability"], gpu["fp16"]["known_broken"]) == ("TU116", "7.5", True)


def test_k80_is_too_old_unless_insisted_on(machine: Machine) -> None:
    # One board, two chips.
    machine.add("0000:05:00.0", "10de:102d", class_="0x030200")
    machine.add("0000:06:00.0", "10de:102d", class_="0x030200")
    answer = machine.run()
    assert decided(answer) == ("cpu", "cpu", None)
    assert [gpu["compute_capability"] for gpu in answer["gpus"]] == ["3.7", "3.7"]
    assert any("Kepler" in reason for reason in answer["reasons"])
    assert decided(machine.run(overrides={"device": "gpu"})) == ("gpu", "gpu_lowvram", 0)
    assert decided(machine.run(overrides={"device": "gpu", "gpu": "0000:06:00.0"})) == ("gpu", "gpu_lowvram", 1)


@pytest.mark.parametrize(
    ("pci_id", "words"),
    [
        ("1002:67df", "The AMD card at 0000:0a:00.0 (Ellesmere [Radeon RX 470/480/570/570X/580/580X/590]) is not used"),
        ("8086:0152", "The Intel card at 0000:0a:00.0 (Xeon E3-1200 v2/3rd Gen Core processor Graphics Controller) is"),
        ("1a03:2000", "The card at 0000:0a:00.0 (ASPEED Graphics Family) is not used"),
        ("1234:1111", "The card at 0000:0a:00.0 (1234:1111) is not used"),
    ],
)
def test_cards_of_others_are_named_and_not_used(machine: Machine, pci_id: str, words: str) -> None:
    machine.add("0000:0a:00.0", pci_id)
    answer = machine.run()
    assert decided(answer) == ("cpu", "cpu", None)
    assert answer["gpus"] == []
    assert [other["pci_id"] for other in answer["other_gpus"]] == [pci_id]
    assert words in " ".join(answer["reasons"])


def test_a_card_that_belongs_to_a_virtual_machine(machine: Machine) -> None:
    machine.add("0000:01:00.0", "10de:1b80", driver="vfio-pci")
    answer = machine.run()
    assert decided(answer) == ("cpu", "cpu", None)
    assert "vfio-pci" in " ".join(answer["reasons"])


def test_the_other_of_two_cards_belongs_to_a_virtual_machine(machine: Machine) -> None:
    machine.add("0000:01:00.0", "10de:1b80", driver="vfio-pci")
    machine.add("0000:02:00.0", "10de:1380")
    # The driver will count only the one that it gets.
    assert decided(machine.run()) == ("gpu", "gpu_lowvram", 0)


def test_a_card_that_nouveau_has(machine: Machine) -> None:
    machine.add("0000:01:00.0", "10de:1380", driver="nouveau")
    answer = machine.run()
    assert decided(answer) == ("gpu", "gpu_lowvram", 0)
    assert answer["gpus"][0]["bound_driver"] == "nouveau"
    assert any("nouveau" in reason for reason in answer["reasons"])
    assert answer["plan"]["ready"] is False


def test_an_unknown_chip_is_not_guessed(machine: Machine) -> None:
    machine.add("0000:01:00.0", "10de:fffe")
    answer = machine.run()
    assert answer["gpus"][0]["fp16"]["reason"] == "unknown chip 10de:fffe, not in the table"
    assert decided(answer) == ("cpu", "cpu", None)
    assert any("unknown chip 10de:fffe" in reason for reason in answer["reasons"])


def test_no_pci_ids(machine: Machine) -> None:
    machine.add("0000:01:00.0", "10de:1380")
    machine.pci_ids.unlink()
    answer = machine.run()
    assert decided(answer) == ("cpu", "cpu", None)
    assert any("the chip of 10de:1380 cannot be looked up" in reason for reason in answer["reasons"])
    assert f"There is no {machine.pci_ids} to name the chips: install the package pci.ids." in answer["reasons"]


def test_no_pci_ids_is_no_trouble_without_a_card_or_with_a_driver(machine: Machine) -> None:
    machine.pci_ids.unlink()
    assert machine.run()["reasons"] == ["There is no NVIDIA card, so the CPU."]
    machine.add("0000:01:00.0", "10de:1380", driver="nvidia")
    machine.install_smi(smi(SMI_750_TI))
    answer = machine.run()
    assert decided(answer) == ("gpu", "gpu_lowvram", 0)
    assert not any("pci.ids" in reason for reason in answer["reasons"])


def test_no_sysfs(machine: Machine, tmp_path: Path) -> None:
    answer = machine.run(sysfs_path=str(tmp_path / "nowhere"))
    assert decided(answer) == ("cpu", "cpu", None)
    assert any("nowhere/bus/pci/devices: this host has no PCI bus" in reason for reason in answer["reasons"])


def test_a_device_that_cannot_be_read(machine: Machine) -> None:
    machine.add("0000:01:00.0", "10de:1380")
    vendor = machine.sys / "bus/pci/devices/0000:01:00.0/vendor"
    vendor.unlink()
    # Its own memory cannot be read from the start by anyone, not even root.
    vendor.symlink_to("/proc/self/mem")
    answer = machine.run()
    assert decided(answer) == ("cpu", "cpu", None)
    assert any("0000:01:00.0" in reason and "cannot be read" in reason for reason in answer["reasons"])


# With a driver


def test_driver_and_bus_are_one_card(machine: Machine) -> None:
    machine.load("535.261.03")
    machine.add("0000:01:00.0", "10de:1380", driver="nvidia")
    machine.install_smi(smi(SMI_750_TI))
    answer = machine.run()
    (gpu,) = answer["gpus"]
    assert (gpu["name"], gpu["vram_mib"], gpu["source"]) == ("NVIDIA GeForce GTX 750 Ti", 1999, "nvidia_smi")
    assert (gpu["uuid"], gpu["driver_version"]) == ("GPU-6ee8", "535.261.03")
    told = {key: gpu["from"][key] for key in ("vram_mib", "bound_driver", "chip", "fp16")}
    assert told == {"vram_mib": "nvidia_smi", "bound_driver": "nvidia_smi", "chip": "pci_ids", "fp16": "table"}
    assert decided(answer) == ("gpu", "gpu_lowvram", 0)
    assert (answer["plan"]["ready"], answer["plan"]["profile_now"]) == (True, "gpu_lowvram")


@pytest.mark.parametrize("source", ["nvidia_smi", "pci"])
def test_each_source_alone(machine: Machine, source: str) -> None:
    machine.load("535.261.03")
    machine.add("0000:01:00.0", "10de:1380", driver="nvidia")
    machine.install_smi(smi(SMI_750_TI))
    answer = machine.run(sources=[source])
    assert answer["sources"] == [{"source": source, "problem": None}]
    (gpu,) = answer["gpus"]
    assert (gpu["source"], gpu["chip"], gpu["driver_version"]) == (source, "GM107", "535.261.03")
    assert decided(answer) == ("gpu", "gpu_lowvram", 0)


def test_of_two_cards_the_one_with_more_memory(machine: Machine) -> None:
    machine.add("0000:01:00.0", "10de:1380", driver="nvidia")
    machine.add("0000:0a:00.0", "10de:1b80", driver="nvidia")
    machine.install_smi(
        smi(SMI_750_TI, "1, NVIDIA GeForce GTX 1080, GPU-b, 00000000:0A:00.0, 0x1B8010DE, 8192, 535.261.03, 6.1")
    )
    assert decided(machine.run()) == ("gpu", "gpu_full", 1)
    for wish in ("0", "GPU-6ee8", "0000:01:00.0"):
        assert decided(machine.run(overrides={"gpu": wish})) == ("gpu", "gpu_lowvram", 0)


def test_a_card_with_too_little_memory(machine: Machine) -> None:
    machine.install_smi(smi(SMI_750_TI.replace("1999", "1000")))
    answer = machine.run()
    assert decided(answer) == ("cpu", "cpu", None)
    assert any("1000 MiB" in reason for reason in answer["reasons"])


def test_a_driver_that_does_not_talk_is_a_reason(machine: Machine) -> None:
    machine.load("535.261.03")
    machine.add("0000:01:00.0", "10de:1380", driver="nvidia")
    machine.install_smi(smi("Failed to initialize NVML: Driver/library version mismatch", code=18))
    answer = machine.run(sources=["nvidia_smi", "pci"])
    assert decided(answer) == ("gpu", "gpu_lowvram", 0)
    assert answer["plan"]["ready"] is False
    assert any("of another version than its library" in reason for reason in answer["reasons"])
    assert answer["gpus"][0]["driver_version"] == "535.261.03"


def test_nvidia_smi_hangs_and_the_bus_still_tells(machine: Machine) -> None:
    machine.add("0000:01:00.0", "10de:1380", driver="nvidia")
    machine.install_smi("trap '' TERM INT HUP\nwhile :; do sleep 600; done")
    began = time.monotonic()
    answer = machine.run(timeout=0.5, sources=["nvidia_smi", "pci"])
    assert time.monotonic() - began < 30
    assert decided(answer) == ("gpu", "gpu_lowvram", 0)
    assert any("nvidia-smi hung" in reason for reason in answer["reasons"])


def test_what_hangs_for_nvml_is_not_asked_of_nvidia_smi(machine: Machine) -> None:
    machine.add("0000:01:00.0", "10de:1380", driver="nvidia")
    machine.install_pynvml("time.sleep(600)")
    machine.install_smi(f"touch {machine.path}/asked")
    began = time.monotonic()
    answer = machine.run(timeout=1)
    assert time.monotonic() - began < 30
    assert not (machine.path / "asked").exists()
    problems = {source["source"]: source["problem"] for source in answer["sources"]}
    assert "did not answer" in problems["nvml"]
    assert "was not asked, because NVML does not answer" in problems["nvidia_smi"]
    assert decided(answer) == ("gpu", "gpu_lowvram", 0)


def test_nothing_could_look(machine: Machine) -> None:
    answer = machine.run(sources=["nvidia_smi"])
    assert decided(answer) == ("cpu", "cpu", None)
    assert "There is no nvidia-smi on this host: it comes with NVIDIA's driver." in answer["reasons"]


# Wishes


def test_wishes_reach_the_plan(machine: Machine) -> None:
    machine.add("0000:01:00.0", "10de:1380")
    answer = machine.run(
        debian_release="11",
        engine={"name": "automatic1111", "torch": "2.1.2", "profiles": ["cpu", "gpu_lowvram"], "minimum_memory_mib": 1},
        overrides={"driver_source": "runfile", "driver_version": "530.30.02"},
    )
    plan = answer["plan"]
    assert (plan["driver"]["source"], plan["driver"]["version"], plan["driver"]["cuda"]) == (
        "runfile",
        "530.30.02",
        "12.1",
    )
    assert (plan["torch"]["version"], plan["torch"]["cuda"], plan["minimum_memory_mib"]) == ("2.1.2", "cu121", 1)
    assert (answer["debian_release"], plan["problems"]) == ("11", [])


def test_a_wish_that_cannot_be_granted_does_not_fail_the_look(machine: Machine) -> None:
    machine.add("0000:01:00.0", "10de:1380")
    answer = machine.run(overrides={"gpu": "7"})
    assert decided(answer) == ("cpu", "cpu", None)
    assert answer["plan"]["problems"] and answer["reasons"]
    answer = machine.run(overrides={"driver_branch": "590"})
    assert any("590" in problem for problem in answer["plan"]["problems"])


def test_the_cpu_on_request(machine: Machine) -> None:
    machine.add("0000:01:00.0", "10de:1380")
    machine.add("0000:00:02.0", "8086:0152")
    machine.pci_ids.unlink()
    answer = machine.run(overrides={"device": "cpu"})
    assert decided(answer) == ("cpu", "cpu", None)
    assert len(answer["gpus"]) == 1
    # All else is of no interest then.
    assert answer["reasons"] == answer["plan"]["reasons"] == ["The CPU was asked for."]


def test_empty_paths_and_release_are_the_defaults(machine: Machine) -> None:
    machine.add("0000:01:00.0", "10de:1380")
    answer = machine.run(pci_ids_path="", debian_release="")
    assert [gpu["pci_id"] for gpu in answer["gpus"]] == ["10de:1380"]
    assert answer["debian_release"] == machine.run(debian_release=None)["debian_release"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"timeout": 0}, "timeout is 0: give a number above 0."),
        ({"timeout": "nan"}, "timeout is nan: give a number above 0."),
        ({"probe_timeout": -1}, "probe_timeout is -1: give a number above 0."),
        ({"sources": []}, "sources is empty: name at least one of nvml, nvidia_smi and pci."),
        ({"sources": ["lspci"]}, "value of sources must be one or more of: nvml, nvidia_smi, pci"),
        ({"overrides": {"device": "tpu"}}, "value of device must be one of: auto, cpu, gpu"),
        ({"overrides": {"colour": "red"}}, "Unsupported parameters"),
        ({"engine": {"torch": "2.1.2"}}, "missing required arguments: name"),
    ],
)
def test_bad_input(machine: Machine, options: dict[str, Any], words: str) -> None:
    answer = machine.run(**options)
    assert answer["failed"] is True
    assert words in answer["msg"]


# PyTorch


def test_an_interpreter_that_is_not_there(machine: Machine) -> None:
    machine.add("0000:01:00.0", "10de:1380")
    probe = machine.run(probe_python="/nonexistent/python")["torch_probe"]
    assert probe["ran"] is False
    assert "/nonexistent/python" in probe["problem"]


def test_an_interpreter_without_pytorch(machine: Machine) -> None:
    machine.add("0000:01:00.0", "10de:1380")
    empty = machine.path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", empty], check=True)
    probe = machine.run(probe_python=str(empty / "bin/python"))["torch_probe"]
    assert probe["ran"] is False and "PyTorch" in probe["problem"]


def test_without_an_interpreter_there_is_no_probe(machine: Machine) -> None:
    assert "torch_probe" not in machine.run()


# As every module


def test_check_mode_and_a_second_run_answer_the_same(machine: Machine) -> None:
    machine.add("0000:01:00.0", "10de:1380", driver="nvidia")
    machine.install_smi(smi(SMI_750_TI))
    first = machine.run()
    assert machine.run() == first
    assert machine.run(check=True) == first


def documented(entries: dict[str, Any], name: str) -> set[str]:
    return set(entries[name]["contains"])


def test_all_that_is_returned_is_documented(machine: Machine) -> None:
    machine.add("0000:01:00.0", "10de:1380", driver="nvidia")
    machine.add("0000:0a:00.0", "1002:67df")
    machine.install_smi(smi(SMI_750_TI))
    answer = machine.run()
    entries = yaml.safe_load(gpu_fp16_info.RETURN)
    assert set(answer) - {"changed", "invocation"} == set(entries) - {"torch_probe"}
    (gpu,) = answer["gpus"]
    of_a_gpu = entries["gpus"]["contains"]
    assert set(gpu) == set(of_a_gpu)
    for name in ("fp16", "driver", "torch"):
        assert set(gpu[name]) == documented(of_a_gpu, name)
    assert set(answer["plan"]) == documented(entries, "plan")
    for name in ("driver", "torch"):
        assert set(answer["plan"][name]) == documented(entries["plan"]["contains"], name)
    assert set(answer["host"]) == documented(entries, "host")
    assert set(answer["sources"][0]) == documented(entries, "sources")
    assert set(answer["other_gpus"][0]) == set(entries["other_gpus"]["sample"][0])
    probe = machine.run(probe_python="/nonexistent/python")["torch_probe"]
    assert set(probe) == documented(entries, "torch_probe")


@pytest.fixture
def readable() -> Iterator[Path]:
    """What the module imports, where every user may read it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        path = Path(name)
        source = Path(ansible.__file__).parent
        (path / "ansible").mkdir()
        # As Ansible itself packs a module: of its own package only this part.
        (path / "ansible/__init__.py").write_text("")
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source / "module_utils", path / "ansible/module_utils", ignore=ignore)
        shutil.copytree(ROOT / "plugins", path / "ansible_collections/secondhand/diffusion/plugins", ignore=ignore)
        machine = Machine(path)
        machine.add("0000:01:00.0", "10de:1380")
        machine.add("0000:00:02.0", "8086:0152")
        path.chmod(0o755)
        yield path


def used_by_children() -> float:
    """Seconds of the processor."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_an_ordinary_user_gets_the_same_answer_within_half_a_second(readable: Path) -> None:
    options = {"sysfs_path": str(readable / "sys"), "pci_ids_path": str(readable / "pci.ids"), "debian_release": "12"}
    environment = {"PATH": f"{readable}/driver:/usr/bin:/bin", "LD_LIBRARY_PATH": str(readable / "driver")}
    # The user nobody, when root runs the tests.
    user = 65534 if os.geteuid() == 0 else None
    python = os.path.realpath(sys.executable)
    # What every module begins with.
    basic = {**os.environ, "PYTHONPATH": str(readable)}
    begun = used_by_children()
    subprocess.run([python, "-B", "-c", "import ansible.module_utils.basic"], check=True, cwd="/", env=basic)
    before = used_by_children()
    answer = call(options, environment, path=str(readable), python=python, user=user)
    after = used_by_children()
    assert decided(answer) == ("gpu", "gpu_lowvram", 0)
    assert answer["gpus"][0]["chip"] == "GM107"
    # The processor's time: the clock's depends on what else the computer does, and the module waits for nothing.
    # On a slow one half a second is what it is beside that beginning, which needs a tenth of a second elsewhere.
    assert after - before < max(0.5, 5 * (before - begun))
