"""nvidia-smi, played by small programs on the PATH that answer as the real one does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils import _nvidia_smi, _probe
from ansible_collections.secondhand.diffusion.plugins.module_utils._probe import Outcome, Source

Install = Callable[[str], Path]

GTX_750_TI = "0, NVIDIA GeForce GTX 750 Ti, GPU-6ee8e0d0-5a5c, 00000000:01:00.0, 0x138010DE, 1999, 535.261.03, 5.0"
P600 = "1, Quadro P600, GPU-aaaa, 00000000:0A:00.0, 0x1CB210DE, 1998, 535.261.03, 6.1"
QUERY = (
    "--query-gpu=index,name,uuid,pci.bus_id,pci.device_id,memory.total,driver_version,compute_cap "
    "--format=csv,noheader,nounits"
)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts an nvidia-smi with this shell script on the PATH."""

    def install(script: str) -> Path:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        return program

    return install


# As 470.182.03 does (huggingface/candle#733): all or nothing.
REFUSE = "echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2"


def says(text: str, code: int = 0) -> str:
    return f"cat <<'END'\n{text}\nEND\nexit {code}"


def sentence(source: Source) -> str:
    """The problem, which is one sentence: what is wrong, and the next step."""
    text = source["problem"]
    assert text is not None and text.endswith(".") and ": " in text and "\n" not in text
    return text


def test_two_cards(install: Install) -> None:
    install(says(f"{GTX_750_TI}\n{P600}"))
    assert _nvidia_smi.probe(60) == {
        "source": "nvidia_smi",
        "problem": None,
        "driver_version": "535.261.03",
        "gpus": [
            {
                "index": 0,
                "pci_address": "0000:01:00.0",
                "pci_id": "10de:1380",
                "name": "NVIDIA GeForce GTX 750 Ti",
                "uuid": "GPU-6ee8e0d0-5a5c",
                "compute_capability": "5.0",
                "vram_mib": 1999,
                "bound_driver": "nvidia",
            },
            {
                "index": 1,
                "pci_address": "0000:0a:00.0",
                "pci_id": "10de:1cb2",
                "name": "Quadro P600",
                "uuid": "GPU-aaaa",
                "compute_capability": "6.1",
                "vram_mib": 1998,
                "bound_driver": "nvidia",
            },
        ],
    }


def test_what_it_is_asked(install: Install, tmp_path: Path) -> None:
    install(f'echo "$@" >>{tmp_path}/asked\n{says(GTX_750_TI)}')
    assert _nvidia_smi.probe(60)["problem"] is None
    assert (tmp_path / "asked").read_text() == f"{QUERY}\n"


def test_an_old_one_that_does_not_know_the_compute_capability(install: Install) -> None:
    k80 = "0, Tesla K80, GPU-b, 00000000:05:00.0, 0x102D10DE, 11441, 470.256.02"
    install(f'case "$1" in *compute_cap*) {REFUSE};; esac\n{says(k80)}')
    source = _nvidia_smi.probe(60)
    assert (source["problem"], source["driver_version"]) == (None, "470.256.02")
    assert [(gpu["name"], gpu["compute_capability"]) for gpu in source["gpus"]] == [("Tesla K80", None)]


@pytest.mark.parametrize(
    "nothing", ["[N/A]", "[Not Supported]", "[Unknown Error]", "[Insufficient Permissions]", "[GPU requires reset]", ""]
)
def test_a_value_that_is_not_known(install: Install, nothing: str) -> None:
    fields = [nothing, nothing, nothing, "00000000:01:00.0", nothing, nothing, nothing, nothing]
    install(says(", ".join(fields)))
    source = _nvidia_smi.probe(60)
    assert (source["problem"], source["driver_version"]) == (None, None)
    known = [{key: value for key, value in gpu.items() if value is not None} for gpu in source["gpus"]]
    assert known == [{"pci_address": "0000:01:00.0", "bound_driver": "nvidia"}]


def test_a_card_without_an_address_is_left_out(install: Install) -> None:
    install(says(f"{', '.join(['[GPU is lost]'] * 8)}\n{P600}"))
    source = _nvidia_smi.probe(60)
    assert [gpu["pci_address"] for gpu in source["gpus"]] == ["0000:0a:00.0"]
    assert sentence(source).startswith("A card is lost to its driver: ")


def test_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    source = _nvidia_smi.probe(60)
    assert sentence(source) == "There is no nvidia-smi on this host: it comes with NVIDIA's driver."
    assert (source["gpus"], source["driver_version"]) == ([], None)


FAILED = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
    "driver is installed and running.\n"
)
LOST = "Unable to determine the device handle for GPU 0000:03:00.0: GPU is lost.  Reboot the system to recover this GPU"


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (FAILED, 9, "cannot talk to the NVIDIA driver"),
        (
            "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 535.274",
            18,
            "of another version than its library: reboot",
        ),
        ("No devices were found", 6, "finds no card"),
        (LOST, 15, "The card 0000:03:00.0 is lost"),
        ("Unable to determine the device handle for GPU0000:07:00.0: Unknown Error", 255, "The card 0000:07:00.0 is"),
        ("Unable to determine the device handle for GPU0: 0000:0B:00.0: Unknown Error", 255, "The card 0000:0b:00.0"),
        (
            "Failed to initialize NVML: Unknown Error",
            255,
            "exit code 255: run it by hand; it said 'Failed to initialize NVML: Unknown Error'.",
        ),
        ("", 127, "exit code 127: run it by hand; it said 'nothing'."),
        ("", 0, "exit code 0: run it by hand; it said 'nothing'."),
        (
            "<html>, a, b, c, d, e, f, g",
            0,
            "answered what cannot be read ('<html>, a, b, c, d, e, f, g'): run it by hand",
        ),
    ],
)
def test_trouble_by_name(install: Install, text: str, code: int, words: str) -> None:
    install(says(text, code))
    source = _nvidia_smi.probe(60)
    assert words in sentence(source)
    assert source["gpus"] == []


def test_trouble_on_the_error_channel(install: Install) -> None:
    install(says(FAILED, 9).replace("cat ", "cat >&2 "))
    assert "cannot talk to the NVIDIA driver" in sentence(_nvidia_smi.probe(60))


def test_one_card_is_lost_and_the_other_is_not(install: Install) -> None:
    install(says(f"{GTX_750_TI}\n{LOST}", 15))
    source = _nvidia_smi.probe(60)
    assert [gpu["pci_address"] for gpu in source["gpus"]] == ["0000:01:00.0"]
    assert "0000:03:00.0 is lost" in sentence(source)


def test_one_that_is_killed(install: Install) -> None:
    install("kill -SEGV $$")
    assert "exit code -11" in sentence(_nvidia_smi.probe(60))


def test_one_that_cannot_be_started(install: Install) -> None:
    install("").write_bytes(b"\x7fELF of another machine")
    assert "cannot be started (Exec format error)" in sentence(_nvidia_smi.probe(60))


def test_one_that_hangs_and_ignores_requests_to_end(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("trap '' TERM INT HUP QUIT\nwhile :; do sleep 600; done")
    # However long it takes to disappear.
    monkeypatch.setattr(_probe, "_GRACE", 30)
    began = time.monotonic()
    source = _nvidia_smi.probe(0.5)
    assert time.monotonic() - began < 20
    assert sentence(source).startswith("nvidia-smi hung for 0.5 s and was killed: ")
    assert source["gpus"] == []


def test_the_time_is_for_both_questions_together(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def run_disposable(command: Sequence[str], timeout: float) -> Outcome:
        asked.append(timeout)
        # The first one takes its time from the second.
        return _probe.run_disposable(command, timeout if len(asked) == 1 else min(timeout, 0.5))

    monkeypatch.setattr(_nvidia_smi, "run_disposable", run_disposable)
    install(f'case "$1" in *compute_cap*) sleep 1; {REFUSE};; esac\nsleep 600')
    assert "hung" in sentence(_nvidia_smi.probe(60))
    most, rest = asked
    assert most == 60 and rest <= most - 1


def test_one_that_prints_without_end(install: Install) -> None:
    install(f"exec yes '{GTX_750_TI}'")
    source = _nvidia_smi.probe(60)
    assert sentence(source).startswith("nvidia-smi printed more than 1 MiB and was killed: ")
    assert source["gpus"] == []


def test_not_asked_when_nvml_has_hung(install: Install, tmp_path: Path) -> None:
    install(f"touch {tmp_path}/asked")
    assert "NVML does not answer" in sentence(_nvidia_smi.probe(60, skip=True))
    assert not (tmp_path / "asked").exists()


STUCK = """\
Name:\tnvidia-smi
Umask:\t0022
State:\tD (disk sleep)
Tgid:\t4711
SigPnd:\t0000000000000100
ShdPnd:\t0000000000000100
SigBlk:\t0000000000000000
"""


@pytest.mark.parametrize(
    ("status", "asked"),
    [
        (STUCK, False),
        # At work, somebody else's, dead and not yet buried, and gone.
        (STUCK.replace("0000000000000100", "0000000000000000"), True),
        (STUCK.replace("0000000000000100", "0000000000004000"), True),
        (STUCK.replace("nvidia-smi", "dd"), True),
        (STUCK.replace("D (disk sleep)", "Z (zombie)"), True),
        (STUCK[:10], True),
        ("", True),
    ],
)
def test_not_asked_while_an_earlier_one_does_not_die(
    install: Install, tmp_path: Path, status: str, asked: bool
) -> None:
    install(f"touch {tmp_path}/asked\n{says(GTX_750_TI)}")
    process = tmp_path / "proc/4711"
    process.mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 1 kB\n")
    if status:
        (process / "status").write_text(status)
    source = _nvidia_smi.probe(60, proc_path=str(tmp_path / "proc"))
    assert (tmp_path / "asked").exists() is asked
    if not asked:
        assert "(process 4711) still hangs" in sentence(source)
