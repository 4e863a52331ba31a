"""A made-up PCI bus: the few files of sysfs that tell a graphics card, and an excerpt of the pci.ids of Debian 12."""

from __future__ import annotations

from pathlib import Path


def make_tree(root: Path, nvidia: str | None = None) -> Path:
    """An empty bus below root, as /sys; with the version of the NVIDIA driver that is loaded."""
    (root / "bus/pci/devices").mkdir(parents=True, exist_ok=True)
    if nvidia:
        module = root / "module/nvidia"
        module.mkdir(parents=True)
        (module / "version").write_text(f"{nvidia}\n")
    return root


def add_device(root: Path, address: str, pci_id: str, class_: str = "0x030000", driver: str | None = None) -> Path:
    """Puts a device on the bus, and returns its directory."""
    vendor, _colon, device = pci_id.partition(":")
    # As in sysfs: the bus holds links to where the device really is.
    path = root / "devices/pci0000:00" / address
    path.mkdir(parents=True)
    for name, content in (("class", class_), ("vendor", f"0x{vendor}"), ("device", f"0x{device}")):
        (path / name).write_text(f"{content}\n")
    link = root / "bus/pci/devices" / address
    link.symlink_to(path)
    if driver:
        (root / "bus/pci/drivers" / driver).mkdir(parents=True, exist_ok=True)
        (path / "driver").symlink_to(root / "bus/pci/drivers" / driver)
    return link


PCI_IDS = """\
#
#	List of PCI ID's
#
# Syntax:
# vendor  vendor_name
#	device  device_name				<-- single tab
#		subvendor subdevice  subsystem_name	<-- two tabs

1002  Advanced Micro Devices, Inc. [AMD/ATI]
	67df  Ellesmere [Radeon RX 470/480/570/570X/580/580X/590]
		1002 0b37  Radeon RX 480
10de  NVIDIA Corporation
	0191  G80 [GeForce 8800 GTX]
	0fc6  GK107 [GeForce GTX 650]
	102d  GK210GL [Tesla K80]
	1140  GF117M [GeForce 610M/710M/810M/820M / GT 620M/625M/630M/720M]
		1019 0799  GeForce 820M
	1180  GK104 [GeForce GTX 680]
		3842 118b  GeForce GTX 680 Mac Edition
	1380  GM107 [GeForce GTX 750 Ti]
	1381  GM107 [GeForce GTX 750]
	1b80  GP104 [GeForce GTX 1080]
	1cb2  GP107GL [Quadro P600]
	1cbc  GP107GLM [Quadro P600 Mobile]
	1f0a  TU106 [GeForce GTX 1650]
	21c4  TU116 [GeForce GTX 1660 SUPER]
	2231  GA102GL [RTX A5000]
	2330  GH100[H100 SXM5 80GB]
1a03  ASPEED Technology, Inc.
	2000  ASPEED Graphics Family
4ddc  ILC Data Device Corp
	1380  A card of another vendor with the same number
8086  Intel Corporation
	0152  Xeon E3-1200 v2/3rd Gen Core processor Graphics Controller

# List of known device classes, subclasses and programming interfaces

C 00  Unclassified device
	00  Non-VGA unclassified device
C 03  Display controller
	00  VGA compatible controller
		00  VGA controller
"""
