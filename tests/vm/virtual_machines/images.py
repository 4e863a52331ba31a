"""The disk that machines start from: a Debian 12 with its own kernel, kept between runs."""

from __future__ import annotations

import pathlib
import tempfile

from debian_hosts import apt_sources, hosts, images
from debian_hosts.common import cache_dir, lock, run, say

RELEASE = "bookworm"
# Sparse: it takes what is written to it.
DISK_SIZE = "12G"
# The full kernel, as on a PC: the one for clouds has no nouveau.
KERNEL = ("linux-image-amd64", "initramfs-tools", "zstd")
# What the roles would install. dpkg takes minutes under emulation for what it does here in seconds; installing
# packages is proven on the test bed's hosts.
PREINSTALLED = (
    # the accounts of a managed host
    "sudo", "python3", "python3-apt",
    # role nvidia_driver
    "dkms", "linux-headers-amd64", "gcc", "make", "libc6-dev", "pci.ids", "pciutils", "wget",
    # role base
    "git", "git-lfs", "libgl1", "libglib2.0-0", "python3-venv", "unattended-upgrades", "btop",
)  # fmt: skip
ADDRESS, GATEWAY, NAME_SERVER = "10.0.2.15", "10.0.2.2", "10.0.2.3"
HOSTNAME = "debian"
FILES = {
    "etc/fstab": "/dev/vda / ext4 errors=remount-ro 0 1\n",
    "etc/hostname": f"{HOSTNAME}\n",
    # An initramfs with the drivers of all disks there are takes six thousand processes: ten minutes under emulation.
    "etc/initramfs-tools/conf.d/emulation": "MODULES=list\n",
    "etc/initramfs-tools/modules": "virtio_pci\nvirtio_blk\next4\n",
    "etc/hosts": hosts.HOSTS.format(name=HOSTNAME),
    "etc/network/interfaces": hosts.INTERFACES.format(address=ADDRESS, prefix="24", gateway=GATEWAY),
    "etc/resolv.conf": f"nameserver {NAME_SERVER}\n",
}


def sources(mirror: apt_sources.Mirror, signed_by: bool = False) -> str:
    """The sources that role base writes, so that it need not fetch the package lists again."""
    text = apt_sources.sources(RELEASE, mirror, signed_by)
    return text.replace(" main\n", " main contrib non-free non-free-firmware\n")


def ensure() -> pathlib.Path:
    """The disk, made when what goes into it has changed."""
    mirror = apt_sources.machine_mirror()
    files = {
        **images.machine_files(RELEASE, mirror),
        **{name: text.encode() for name, text in FILES.items()},
        "etc/apt/sources.list": sources(mirror).encode(),
    }
    public = images.key_file().with_suffix(".pub").read_text(encoding="ascii")
    packages = (*images.PACKAGES, *KERNEL, *PREINSTALLED)
    accounts = images.FLAVOUR_SCRIPTS["managed"]
    recipe = images.digest(packages, sorted(files.items()), public, accounts, DISK_SIZE)
    folder = cache_dir() / "vm-images"
    disk = folder / f"{RELEASE}-{recipe}.img"
    with lock("vm-image"):
        if not disk.exists():
            folder.mkdir(exist_ok=True)
            say(f"Making the disk of a Debian {RELEASE} with its own kernel from {mirror.archive} (two minutes, once).")
            make(disk, packages, files, accounts, public)
            for old in set(folder.glob("*.img")) - {disk}:
                old.unlink()
    return disk


def make(disk: pathlib.Path, packages: tuple[str, ...], files: dict[str, bytes], accounts: str, public: str) -> None:
    """Make the root file system here, where the processor is a real one, and put it on a disk."""
    partial = disk.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="vm-", dir=disk.parent) as temporary:
        work = pathlib.Path(temporary)
        images.write_files(work / "tree", files)
        (work / "sources.list").write_text(sources(apt_sources.machine_mirror(), signed_by=True), encoding="ascii")
        (work / "accounts").write_text(accounts, encoding="ascii")
        (work / "key").write_text(public, encoding="ascii")
        hooks = [
            f'chroot "$1" /bin/sh -c "$(cat {work}/accounts)" <{work}/key',
            'chroot "$1" update-initramfs -u >/dev/null',
        ]
        images.mmdebstrap(RELEASE, packages, work / "sources.list", work / "tree", work / "root", hooks)
        run(
            ["mke2fs", "-q", "-t", "ext4", "-d", str(work / "root"), str(partial), DISK_SIZE],
            timeout=300, doing="making the file system of the virtual machines",
        )  # fmt: skip
    partial.rename(disk)
