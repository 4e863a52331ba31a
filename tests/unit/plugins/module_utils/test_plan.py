"""The plan: from what was found and what is wanted to what gets installed, for the cards that people own."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils import _plan

Gpu = dict[str, Any]


def card(name: str, chip: str | None, vram: int | None, address: str = "0000:01:00.0", **others: Any) -> Gpu:
    """A card as gpu_fp16_info lists it, its driver running unless said otherwise."""
    gpu: Gpu = {
        "index": 0,
        "name": name,
        "uuid": f"GPU-{address}",
        "pci_address": address,
        "pci_id": "10de:ffff",
        "chip": chip,
        "compute_capability": None,
        "vram_mib": vram,
        "driver_version": "535.261.03",
        "bound_driver": "nvidia",
        "source": "nvml",
        "fp16": {"reason": "unknown chip 10de:ffff, not in the table"},
    }
    return {**gpu, **others}


def cold(gpu: Gpu, driver: str = "none") -> Gpu:
    """The same card before its driver is installed: the PCI bus tells no memory."""
    return {**gpu, "vram_mib": None, "driver_version": None, "bound_driver": driver, "source": "pci", "uuid": None}


GTX_750_TI = card("GeForce GTX 750 Ti", "GM107", 1999)
P600 = card("Quadro P600", "GP107", 4040)
GTX_1660_SUPER = card("GeForce GTX 1660 SUPER", "TU116", 5918)
RTX_3060 = card("GeForce RTX 3060", "GA106", 12044)
K80 = card("Tesla K80", "GK210", 11441)
GTX_480 = card("GeForce GTX 480", "GF100", 1536)
RTX_5070 = card("GeForce RTX 5070", "GB205", 12227)
UNKNOWN = card("Whatever", None, 8000)


def plan(
    gpus: list[Gpu], release: str = "12", engine: dict[str, Any] | None = None, **overrides: Any
) -> dict[str, Any]:
    return _plan.make_plan(gpus, release, engine, overrides)


@pytest.mark.parametrize(
    ("gpu", "profile"),
    [
        (GTX_750_TI, "gpu_lowvram"),
        (card("GeForce GTX 1060 3GB", "GP106", 3019), "gpu_lowvram"),
        (P600, "gpu_medvram"),
        # Computes in FP32: 6 GB are like 3.
        (GTX_1660_SUPER, "gpu_medvram"),
        (card("GeForce GTX 1650", "TU117", 3911), "gpu_lowvram"),
        (card("GeForce GTX 1070", "GP104", 8112), "gpu_full"),
        (RTX_3060, "gpu_full"),
    ],
)
def test_profile_follows_the_memory(gpu: Gpu, profile: str) -> None:
    found = plan([gpu])
    assert (found["device"], found["profile"], found["profile_now"]) == ("gpu", profile, profile)
    assert found["problems"] == [] and found["ready"]


def test_a_card_without_its_driver_is_planned_and_serves_later() -> None:
    found = plan([cold(GTX_750_TI, "nouveau")])
    assert (found["device"], found["profile"], found["ready"], found["profile_now"]) == (
        "gpu",
        "gpu_lowvram",
        False,
        "cpu",
    )
    assert any("nouveau" in reason for reason in found["reasons"])
    # The CUDA build already, so that the reboot never means a re-installation.
    assert found["torch"] == {"version": "2.1.2", "cuda": "cu121", "xformers": "0.0.23.post1"}


def test_a_card_whose_driver_does_not_answer_is_not_ready() -> None:
    found = plan([{**GTX_750_TI, "source": "pci", "vram_mib": None}])
    assert not found["ready"] and found["profile_now"] == "cpu"


@pytest.mark.parametrize(
    ("gpu", "release", "branch", "flavour", "cuda"),
    [
        (GTX_750_TI, "11", 470, "nvidia", "cu118"),
        (GTX_750_TI, "12", 535, "nvidia", "cu121"),
        (GTX_750_TI, "13", 550, "nvidia", "cu121"),
        (P600, "13", 550, "nvidia", "cu121"),
        (RTX_3060, "12", 535, "nvidia", "cu121"),
    ],
)
def test_debian_drivers_and_the_pytorch_they_can_run(
    gpu: Gpu, release: str, branch: int, flavour: str, cuda: str
) -> None:
    found = plan([gpu], release)
    driver = found["driver"]
    assert (driver["source"], driver["branch"], driver["flavour"]) == ("debian", branch, flavour)
    assert driver["kernel_module"] == "proprietary"
    assert found["torch"]["cuda"] == cuda and found["problems"] == []


def test_debian_11_says_why_an_older_build() -> None:
    reasons = plan([GTX_750_TI], "11")["reasons"]
    assert any("Not 2.1.2+cu121, as that needs driver 525 or newer and this is 470" in reason for reason in reasons)


def test_the_guides_own_way_on_debian_11() -> None:
    found = plan([GTX_750_TI], "11", driver_source="runfile", driver_version="530.30.02")
    assert found["problems"] == []
    assert (found["driver"]["branch"], found["driver"]["version"], found["driver"]["cuda"]) == (
        530,
        "530.30.02",
        "12.1",
    )
    assert found["torch"]["cuda"] == "cu121"


def test_nvidias_repository_stops_at_the_last_branch_of_the_card() -> None:
    assert plan([GTX_750_TI], driver_source="nvidia_repo")["driver"]["branch"] == 580
    assert plan([RTX_3060], driver_source="nvidia_repo")["driver"]["branch"] > 580


@pytest.mark.parametrize(
    ("gpu", "release", "overrides", "says"),
    [
        (GTX_750_TI, "12", {"driver_branch": "590"}, "driver branch 590 does not know GeForce GTX 750 Ti"),
        (GTX_750_TI, "12", {"driver_branch": "590"}, "the nearest possible choice is debian with branch 535"),
        (GTX_750_TI, "12", {"driver_branch": "580"}, "Debian 12 has no driver branch 580 (it has 535"),
        (GTX_750_TI, "12", {"driver_branch": "newest"}, "is not a number such as 535 and not auto"),
        (GTX_750_TI, "12", {"kernel_module": "open"}, "the open kernel module does not know GeForce GTX 750 Ti"),
        (GTX_750_TI, "12", {"driver_source": "runfile"}, "needs a driver installer; name its file or URL"),
        (
            GTX_750_TI,
            "12",
            {"driver_source": "runfile", "driver_version": "590.48.01"},
            "the installer's 590.48.01 does not know GeForce GTX 750 Ti",
        ),
        (
            GTX_750_TI,
            "12",
            {"driver_source": "runfile", "driver_version": "530.30.02", "driver_branch": "535"},
            "branch 535 was asked for and the installer holds 530.30.02",
        ),
        (K80, "13", {"device": "gpu"}, "Debian 13 (branch 550"),
        (RTX_5070, "12", {}, "has no driver for GeForce RTX 5070"),
        (RTX_5070, "12", {"driver_source": "nvidia_repo", "kernel_module": "proprietary"}, "open kernel module only"),
        (GTX_480, "12", {"device": "gpu"}, "a GPU was asked for, but it cannot be used"),
        (GTX_750_TI, "12", {"gpu": "7"}, "there is no NVIDIA card 7 (there is: 0000:01:00.0 (GeForce GTX 750 Ti))"),
    ],
)
def test_what_cannot_be_is_refused_with_the_next_step(
    gpu: Gpu, release: str, overrides: dict[str, Any], says: str
) -> None:
    problems = plan([gpu], release, **overrides)["problems"]
    assert any(says in problem for problem in problems), problems


def test_a_pytorch_without_kernels_or_driver_is_refused() -> None:
    classic = {"name": "classic", "torch": "2.1.2", "profiles": ["cpu", "gpu_lowvram"]}
    problems = plan([RTX_5070], driver_source="nvidia_repo", engine=classic)["problems"]
    assert any("no build of PyTorch 2.1.2 has kernels for GeForce RTX 5070" in problem for problem in problems)
    modern = plan([GTX_750_TI], "11", engine={"name": "modern", "torch": "2.8.0"})
    assert "driver 470 cannot run any build of PyTorch 2.8.0 that has kernels" in modern["problems"][0]
    assert "they need branch 525 or newer" in modern["problems"][0]
    assert "is not in the table" in plan([GTX_750_TI], engine={"torch": "9.9.9"})["problems"][0]


def test_an_engine_without_pytorch_gets_none() -> None:
    found = plan([GTX_750_TI], engine={"name": "stable_diffusion_cpp", "profiles": ["cpu"], "minimum_memory_mib": 3584})
    assert found["torch"] is None and found["minimum_memory_mib"] == 3584
    assert (found["device"], found["profile"]) == ("gpu", "cpu")
    assert any("has no profile gpu_lowvram, so cpu" in reason for reason in found["reasons"])


def test_a_new_card_gets_the_newest_pytorch_that_runs_on_it() -> None:
    found = plan([RTX_5070], driver_source="nvidia_repo")
    assert found["problems"] == [] and found["driver"]["kernel_module"] == "open"
    # xformers and kernels of 2.1.2 end before this card.
    assert found["torch"]["version"] != "2.1.2"


def test_kepler_is_for_the_cpu_unless_somebody_insists() -> None:
    found = plan([K80], "12")
    assert found["device"] == "cpu" and found["driver"]["wanted"] is False and found["problems"] == []
    assert any("older than Maxwell 1" in reason for reason in found["reasons"])
    insisted = plan([K80], "12", device="gpu")
    assert insisted["driver"]["flavour"] == "nvidia-tesla-470" and insisted["device"] == "gpu"
    assert any("Against advice" in reason for reason in insisted["reasons"])


@pytest.mark.parametrize(
    ("gpus", "says"),
    [
        ([], "There is no NVIDIA card"),
        ([GTX_480], "GeForce GTX 480"),
        ([UNKNOWN], "Whatever at 0000:01:00.0 cannot be judged: unknown chip 10de:ffff, not in the table."),
        ([card("GeForce GT 1030", "GP108", 1024)], "less than the 2 GB"),
        ([card("GeForce GTX 1080", "GP104", None, bound_driver="vfio-pci", source="pci")], "virtual machine"),
    ],
)
def test_everything_else_is_for_the_cpu(gpus: list[Gpu], says: str) -> None:
    found = plan(gpus)
    assert (found["device"], found["profile"], found["gpu_index"], found["ready"]) == ("cpu", "cpu", None, True)
    assert found["driver"]["wanted"] is False and found["torch"]["cuda"] == "cpu"
    assert any(says in reason for reason in found["reasons"]), found["reasons"]


def test_a_chip_that_only_the_driver_knows_is_placed_by_its_capability() -> None:
    found = plan([{**UNKNOWN, "compute_capability": "8.6"}])
    assert found["device"] == "gpu" and found["torch"]["cuda"] == "cu121"


def test_of_two_cards_the_one_with_more_memory() -> None:
    second = {**P600, "index": 1, "pci_address": "0000:02:00.0", "uuid": "GPU-2"}
    found = plan([GTX_750_TI, second])
    assert (found["gpu_index"], found["pci_address"]) == (1, "0000:02:00.0")
    for wish in ("0", "gpu-0000:01:00.0", "01:00.0", "0000:01:00.0", "00000000:01:00.0"):
        assert plan([GTX_750_TI, second], gpu=wish)["gpu_index"] == 0
    nameless = {**second, "uuid": None, "index": None}
    assert plan([nameless], gpu="none")["problems"] != []


def test_a_few_mib_do_not_make_an_older_card_the_better_one() -> None:
    super_1660 = card("GeForce GTX 1660 SUPER", "TU116", 5944)
    rtx_2060 = card("GeForce RTX 2060", "TU106", 5934, "0000:02:00.0")
    assert plan([super_1660, rtx_2060])["gpu_name"] == "GeForce RTX 2060"
    m40 = card("Tesla M40 24GB", "GM200", 22945)
    assert plan([m40, {**RTX_3060, "pci_address": "0000:02:00.0"}])["gpu_name"] == "GeForce RTX 3060"


def test_of_two_cards_without_drivers_the_newer_for_now() -> None:
    found = plan([cold(GTX_750_TI), {**cold(P600), "pci_address": "0000:02:00.0"}])
    assert found["gpu_name"] == "Quadro P600"
    assert any("the newest was taken, until the memory of all is known" in reason for reason in found["reasons"])


def test_insisting_on_a_card_does_not_take_the_worse_one() -> None:
    gtx_1060 = card("GeForce GTX 1060 6GB", "GP106", 6078, "0000:02:00.0")
    assert plan([K80, gtx_1060], device="gpu")["gpu_name"] == "GeForce GTX 1060 6GB"
    assert plan([K80, gtx_1060], device="gpu", gpu="0000:01:00.0")["gpu_name"] == "Tesla K80"


def test_a_driver_that_is_too_old_for_the_build_is_not_ready() -> None:
    found = plan([{**GTX_750_TI, "driver_version": "470.256.02"}])
    assert (found["torch"]["cuda"], found["ready"], found["profile_now"]) == ("cu121", False, "cpu")
    assert any("470.256.02, is too old for cu121" in reason for reason in found["reasons"])


def test_a_card_that_fell_off_the_bus_is_not_ready() -> None:
    found = plan([{**GTX_750_TI, "source": "nvidia_smi", "vram_mib": None}])
    assert not found["ready"] and found["profile_now"] == "cpu"


def test_a_wish_for_the_device_is_told_apart_from_one_for_the_driver() -> None:
    assert plan([GTX_750_TI], gpu="7")["device_problems"] == plan([GTX_750_TI], gpu="7")["problems"]
    assert plan([GTX_750_TI], driver_branch="590")["device_problems"] == []


def test_a_refused_driver_brings_no_second_complaint() -> None:
    assert len(plan([card("GeForce RTX 4060", "AD107", 8188)], driver_branch="470")["problems"]) == 1


def test_other_systems_are_told_so() -> None:
    assert "this is not Debian 11, 12 or 13" in plan([GTX_750_TI], release="22")["problems"][0]


def test_an_installer_of_another_name() -> None:
    for version in ("latest", "v530.30"):
        problems = plan([GTX_750_TI], driver_source="runfile", driver_version=version)["problems"]
        assert f"the installer's version {version} is not one such as 535.183.01" in problems[0]


def test_the_cpu_can_be_asked_for() -> None:
    found = plan([RTX_3060], device="cpu")
    assert found["device"] == "cpu" and found["reasons"][0] == "The CPU was asked for." and found["problems"] == []


def test_a_profile_can_be_asked_for() -> None:
    assert plan([GTX_750_TI], profile="gpu_medvram")["profile"] == "gpu_medvram"
    assert "no card can be used" in plan([], profile="gpu_full")["problems"][0]
    engine = {"name": "e", "torch": "2.1.2", "profiles": ["cpu", "gpu_lowvram"]}
    assert plan([RTX_3060], engine=engine)["profile"] == "gpu_lowvram"
