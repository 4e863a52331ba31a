"""The driver that the hardware table leads to, against what Debian's own nvidia-detect says of every card it knows."""

from __future__ import annotations

import pathlib
import re
import subprocess
from collections.abc import Callable

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils import _gpu_catalog as catalog
from ansible_collections.secondhand.diffusion.plugins.module_utils import _plan

RELEASES = {"11": "bullseye", "12": "bookworm", "13": "trixie"}
NEWEST = "13"

# Cards of which the table says something else than nvidia-detect, and why. Its lists are made from the products that a
# driver's README names; the table goes by the chip, as the driver itself does.
_LEFT_OUT = "the README of 535 and newer leaves this product out, though not its chip; that of 470 has it"
DIFFERENT = {
    "10de:137d": f"GeForce 940A (GM108): {_LEFT_OUT}",
    "10de:1bb3": f"Tesla P4 (GP104): {_LEFT_OUT}",
    "10de:1df5": f"Tesla V100 SXM2 16GB (GV100): {_LEFT_OUT}",
    "10de:1f09": f"GeForce GTX 1660 SUPER (TU106): {_LEFT_OUT}",
}
_BETWEEN = "its last is 367; the lists know 340 and then 390"
DIFFERENT_LAST_BRANCH = {
    **DIFFERENT,
    "10de:0fef": f"GRID K340: {_BETWEEN}",
    "10de:0ff2": f"GRID K1: {_BETWEEN}",
    "10de:11bf": f"GRID K2: {_BETWEEN}",
}
# Old cards in the lists that no pci.ids names: without a name there is no chip, and without a chip no row.
NAMELESS = {"10de:0046", "10de:00f0", "10de:014c", "10de:017d"}
# Cards that an older pci.ids names wrongly, in which release.
MISNAMED = {"10de:2321": ("11", "an H100 (GH100), called GA103")}

Names = Callable[[str], dict[str, str]]


class NvidiaDetect:
    """The nvidia-detect of a release: its lists, and its script, run for real."""

    def __init__(self, release: str, files: pathlib.Path, folder: pathlib.Path) -> None:
        self.lists: dict[str, set[str]] = {}
        for path in (files / "usr/share/nvidia").glob("*.ids"):
            for line in path.read_text(encoding="ascii").split():
                self.lists.setdefault(f"{line[:4]}:{line[4:]}".lower(), set()).add(path.name)
        version = folder / "debian_version"
        version.write_text(f"{release}.1\n", encoding="ascii")
        text = (files / "usr/bin/nvidia-detect").read_text(encoding="utf-8")
        for theirs, ours in (("/usr/share/nvidia", files / "usr/share/nvidia"), ("/etc/debian_version", version)):
            assert theirs in text
            text = text.replace(theirs, str(ours))
        self.script = folder / "nvidia-detect"
        self.script.write_text(text, encoding="utf-8")
        self.said: dict[frozenset[str], str] = {}

    def says(self, pci_id: str) -> str:
        """The script looks at nothing but which of its lists have the id, so it runs once for each set of lists."""
        having = frozenset(self.lists.get(pci_id, ()))
        if having not in self.said:
            command = ["bash", str(self.script), pci_id.removeprefix("10de:")]
            # It exits 1 where there is no package for the card.
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
            assert done.returncode in (0, 1) and not done.stderr, f"{pci_id}: {done.stdout}{done.stderr}"
            assert f"[{pci_id}]" in done.stdout and "Internal error" not in done.stdout, done.stdout
            self.said[having] = done.stdout
        return self.said[having]

    def package(self, pci_id: str) -> str | None:
        """The package that it recommends."""
        match = re.search(r"recommended to install the\n\s+(\S+)\npackage", self.says(pci_id))
        return match[1] if match else None

    def last_branch(self, pci_id: str) -> int | None:
        """The last branch, where that is no longer in Debian."""
        match = re.search(r"only supported by the (?:Tesla )?(\d+)", self.says(pci_id))
        return int(match[1]) if match else None


@pytest.fixture(scope="session")
def detectors(
    debian_package: Callable[[str, str], pathlib.Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, NvidiaDetect]:
    found = {
        release: NvidiaDetect(release, debian_package(codename, "nvidia-detect"), tmp_path_factory.mktemp(codename))
        for release, codename in RELEASES.items()
    }
    assert all(len(detector.lists) > 1000 for detector in found.values())
    return found


@pytest.fixture(scope="session")
def cards(detectors: dict[str, NvidiaDetect]) -> list[str]:
    """Every PCI id that the nvidia-detect of any release knows."""
    return sorted({pci_id for detector in detectors.values() for pci_id in detector.lists})


def chosen(release: str, pci_id: str, name: str) -> str | None:
    """The package of the newest driver in this release that drives the card."""
    row = catalog.row_of_device(pci_id, name)
    fitting = (driver for driver in _plan.offered("debian", release, {}) if row and _plan.runs_card(driver.branch, row))
    driver = next(fitting, None)
    return f"{driver.flavour}-driver" if driver else None


@pytest.mark.parametrize("release", RELEASES)
def test_the_driver_is_the_one_that_nvidia_detect_recommends(
    release: str, cards: list[str], detectors: dict[str, NvidiaDetect], pci_names: Names
) -> None:
    detector, names = detectors[release], pci_names(NEWEST)
    different = {}
    for pci_id in cards:
        choice, theirs = chosen(release, pci_id, names.get(pci_id, "")), detector.package(pci_id)
        if pci_id not in detector.lists:
            # A product newer than the lists. Its chip may well be in the driver, which then is the newest one.
            assert theirs is None and choice in (None, "nvidia-driver"), f"{pci_id} {names.get(pci_id)}: {choice}"
        elif choice != theirs:
            different[pci_id] = f"{names.get(pci_id)}: {choice}, and nvidia-detect says {theirs}"
    # The newest driver of Debian 11 is 470.
    expected = DIFFERENT if release != "11" else {}
    assert {pci_id: text for pci_id, text in different.items() if pci_id not in expected} == {}
    assert set(expected) - set(different) == set()


def test_the_last_branch_is_the_one_that_nvidia_detect_names(
    cards: list[str], detectors: dict[str, NvidiaDetect], pci_names: Names
) -> None:
    """Of the cards that Debian 13 no longer drives, from TNT to Kepler, and of those that it does."""
    detector, names = detectors[NEWEST], pci_names(NEWEST)
    different, older = {}, 0
    for pci_id in cards:
        row = catalog.row_of_device(pci_id, names.get(pci_id, ""))
        theirs = detector.last_branch(pci_id)
        older += theirs is not None
        if theirs is not None or detector.package(pci_id) is None:
            agrees = row is not None and row.last_branch == theirs
        else:
            agrees = row is not None and (row.last_branch is None or row.last_branch >= 550)
        if not agrees:
            different[pci_id] = f"{names.get(pci_id)}: {row and row.last_branch}, and nvidia-detect says {theirs}"
    assert older > 600
    expected = NAMELESS | set(DIFFERENT_LAST_BRANCH)
    assert {pci_id: text for pci_id, text in different.items() if pci_id not in expected} == {}
    assert expected - set(different) == set()
    assert {pci_id for pci_id in NAMELESS if any(pci_id in pci_names(release) for release in RELEASES)} == set()


@pytest.mark.parametrize("release", RELEASES)
def test_an_older_pci_ids_leads_to_the_same_driver_or_to_an_unknown_chip(
    release: str, cards: list[str], pci_names: Names
) -> None:
    own, newest = pci_names(release), pci_names(NEWEST)
    different = {}
    for pci_id in cards:
        choice = chosen(release, pci_id, own.get(pci_id, ""))
        if choice != chosen(release, pci_id, newest.get(pci_id, "")) and (pci_id in own or choice is not None):
            different[pci_id] = f"{own.get(pci_id)}, later {newest.get(pci_id)}: {choice}"
    expected = {pci_id for pci_id, (where, _) in MISNAMED.items() if where == release}
    assert {pci_id: text for pci_id, text in different.items() if pci_id not in expected} == {}
    assert expected - set(different) == set()


@pytest.mark.parametrize("release", RELEASES)
def test_the_open_module_is_never_offered_to_a_card_that_debian_withholds_it_from(
    release: str, detectors: dict[str, NvidiaDetect], pci_names: Names
) -> None:
    names = pci_names(NEWEST)
    for pci_id, lists in detectors[release].lists.items():
        row = catalog.row_of_device(pci_id, names.get(pci_id, ""))
        if "nvidia-open.ids" in lists:
            assert row is not None and row.open_module in ("supported", "required"), f"{pci_id} {names.get(pci_id)}"
        if row is not None and row.last_branch is not None:
            assert row.open_module == "unsupported" and "nvidia-open.ids" not in lists, f"{pci_id} {names.get(pci_id)}"


@pytest.mark.parametrize("release", RELEASES)
def test_the_drivers_are_those_in_debian(release: str, driver_packages: Callable[[str], dict[str, int]]) -> None:
    ours = {f"{driver.flavour}-driver": driver.branch for driver in catalog.DEBIAN_DRIVERS[release]}
    assert ours == driver_packages(release)
