# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the watchdog makes of the driver's lines in the kernel log, as real machines have written them."""

from __future__ import annotations

from typing import Any

import pytest
from sd_watchdog import xid


def verdict(text: str) -> tuple[int, str]:
    """Number and verdict of a message."""
    found = xid.parse(text)
    assert found is not None
    return found.xid, found.verdict


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NVRM: Xid (PCI:0000:03:00): 79, pid=1234, GPU has fallen off the bus.", (79, "cpu_then_reboot")),
        (
            "[ 1.5] NVRM: Xid (PCI:0000:05:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen",
            (79, "cpu_then_reboot"),
        ),
        ("NVRM: Xid (0000:01:00): 13, 0005 00000000 0000502d 00000104 00000000 00000100", (13, "restart")),
        ("NVRM: Xid (PCI:0000:01:00): 31, pid=9, name=python3, Ch 00000008, intr 10000000. MMU Fault", (31, "restart")),
        ("NVRM: Xid (PCI:0000:01:00): 32, Channel ID 00000005 intr 00008000", (32, "restart")),
        ("NVRM: Xid (PCI:0000:01:00): 43, pid=9, name=python3, Ch 00000008", (43, "ignore")),
        ("NVRM: Xid (PCI:0000:01:00): 45, pid=9, name=python3, Ch 00000010", (45, "ignore")),
        ("NVRM: Xid (PCI:0000:01:00 GPU-I:05): 48, pid=9, An uncorrectable double bit error", (48, "reset")),
        ("NVRM: Xid (PCI:0000:01:00): 62, 0096(1c54) 00000000 00000000", (62, "reset")),
        ("NVRM: Xid (PCI:0000:01:00): 8, Channel 00000001", (8, "restart")),
        ("NVRM: Xid (PCI:0000:01:00): 56, CMDre 00000000", (56, "ignore")),
        ("NVRM: Xid (PCI:0000:01:00): 61, 0c28(20dc) 00000000 00000000", (61, "reset")),
        ("NVRM: Xid (PCI:0000:01:00): 69, Class Error: ChId 0005, Class 0000a097", (69, "restart")),
        ("NVRM: Xid (PCI:0000:01:00): 63, Dynamic Page Retirement: New retired page", (63, "ignore")),
        ("NVRM: Xid (PCI:0000:01:00): 64, Dynamic Page Retirement: Fatal error", (64, "reset")),
        ("NVRM: Xid (PCI:0000:01:00): 12345, something of next year", (12345, "ignore")),
    ],
)
def test_the_table(text: str, expected: tuple[int, str]) -> None:
    assert verdict(text) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("from 0x0 (None) to 0x1 (GPU Reset Required)", "reset"),
        ("from 0x0 (None) to 0x1 (PF FLR)", "reset"),
        ("from 0x0 (None) to 0x2 (Node Reboot Required)", "reboot"),
        ("from 0x0 (None) to 0x2 (OS Reboot)", "reboot"),
        ("from 0x0 (None) to 0x3 (Drain P2P)", "restart"),
        ("from 0x0 (None) to 0x4 (Drain and Reset)", "reset"),
        ("from 0x2 (Node Reboot Required) to 0x0 (None)", "ignore"),
        ("from 0x0 (None) to 0x9 (Replace Fan)", "ignore"),
        ("", "ignore"),
    ],
)
def test_154_names_the_action_itself(words: str, expected: str) -> None:
    assert verdict(f"NVRM: Xid (PCI:0008:01:00): 154, GPU recovery action changed {words}") == (154, expected)


@pytest.mark.parametrize(
    "text",
    [
        "NVRM: GPU 0000:18:00.0: GPU has fallen off the bus.",
        "NVRM: The NVIDIA GPU 0000:18:00.0\n               NVRM: (PCI ID: 10de:26b5) installed in this system has\n"
        "               NVRM: fallen off the bus and is not responding to commands.",
        "[ 12.3] NVRM: fallen off the bus and is not responding to commands.",
    ],
)
def test_a_card_that_is_gone_without_an_xid(text: str) -> None:
    found = xid.parse(text)
    assert found is not None and found.implied and (found.xid, found.verdict) == (79, "cpu_then_reboot")
    assert found.card in ("0000:18:00", "") and "\n" not in found.line


@pytest.mark.parametrize(
    "text",
    [
        "",
        "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  535.261.03",
        "usb 1-1: device has fallen off the bus",
        "NVRM: Xid (PCI:0000:01:00): none",
        "audit: NVRM: Xid",
    ],
)
def test_other_lines(text: str) -> None:
    assert xid.parse(text) is None


def test_what_is_known_of_the_process_and_the_card() -> None:
    found = xid.parse("NVRM: Xid (PCI:0000:03:00): 31, pid=4711, name=python3, Ch 00000008")
    assert found is not None and (found.pid, found.card) == (4711, "0000:03:00")
    unknown = xid.parse("NVRM: Xid (PCI:0000:03:00): 31, pid='<unknown>', name=<unknown>, Ch 00000008")
    assert unknown is not None and unknown.pid is None


def test_a_line_cannot_steer_a_terminal_or_fill_a_file() -> None:
    found = xid.parse("NVRM: Xid (PCI:0000:03:00): 31, name=\x1b[2Jpython\x00, " + "x" * 100000)
    assert found is not None and found.line.isprintable() and len(found.line) <= 300


def test_every_row_has_a_known_verdict_and_says_something() -> None:
    verdicts = {xid.IGNORE, xid.RESTART, xid.RESET, xid.REBOOT, xid.CPU_THEN_REBOOT}
    assert all(row[0] in verdicts and row[1] and row[1].isprintable() for row in xid.TABLE.values())


def new_book() -> dict[str, Any]:
    return {"number": 7, "counts": {}, "xids": []}


def enter(book: dict[str, Any], text: str, boottime: float) -> None:
    found = xid.parse(text)
    assert found is not None
    xid.enter(book, found, boottime, found.verdict, found.said)


def test_one_fault_with_many_lines_is_one_entry() -> None:
    book = new_book()
    for index in range(500):
        enter(book, "NVRM: Xid (PCI:0000:03:00): 13, Graphics Exception", 100 + index / 100)
    assert [(entry["number"], entry["times"]) for entry in book["xids"]] == [(8, 500)]
    assert book["counts"] == {"13": 500}
    enter(book, "NVRM: Xid (PCI:0000:04:00): 13, another card", 105)
    enter(book, "NVRM: Xid (PCI:0000:03:00): 13, again", 111)
    assert [entry["number"] for entry in book["xids"]] == [8, 9, 10]


def test_the_same_loss_in_other_words_is_counted_once() -> None:
    book = new_book()
    enter(book, "NVRM: Xid (PCI:0000:03:00): 79, GPU has fallen off the bus.", 100)
    enter(book, "NVRM: GPU 0000:03:00.0: GPU has fallen off the bus.", 100.1)
    enter(book, "NVRM: fallen off the bus and is not responding to commands.", 130)
    assert book["counts"] == {"79": 1} and len(book["xids"]) == 1
    enter(book, "NVRM: fallen off the bus and is not responding to commands.", 500)
    assert book["counts"] == {"79": 2} and len(book["xids"]) == 2


def test_the_book_does_not_grow() -> None:
    book = new_book()
    for index in range(200):
        enter(book, "NVRM: Xid (PCI:0000:03:00): 31, x", 100.0 * index)
    assert len(book["xids"]) == xid.KEPT and book["xids"][-1]["number"] == 207
