"""Images of Debian hosts: a root file system from the mirror, then one image for each flavour. Kept between runs."""

from __future__ import annotations

import calendar
import hashlib
import pathlib
import re
import shutil
import tempfile
import time
from collections.abc import Sequence

from . import apt_sources, machine
from .common import TestbedError, attempt, cache_dir, lock, run, say

ROOTFS = pathlib.Path(__file__).resolve().parent.parent / "rootfs"
REPOSITORY = "localhost/secondhand-testbed"
NETWORK = "secondhand-testbed"
KEEP_DAYS = 14

# What a Debian installed from netinst has without desktop and without the "standard system utilities".
PACKAGES = (
    "systemd", "systemd-sysv", "libpam-systemd", "dbus", "udev", "kmod", "init", "apt-utils",
    "iproute2", "iputils-ping", "ifupdown", "netbase", "openssh-server", "ca-certificates",
    "procps", "cron", "less", "nano", "tzdata", "readline-common", "whiptail",
)  # fmt: skip
# Inside a privileged container these would act on the machine itself: its devices and its text consoles.
MASKED = (
    "systemd-udevd.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket",
    "systemd-udev-trigger.service", "systemd-udev-settle.service",
    "getty@.service", "autovt@.service", "serial-getty@.service", "console-getty.service",
)  # fmt: skip
# Where the machine has authorities of its own, the settings with which an administrator makes programs use them
# that bring their own list: pip, Python's requests and Node.js, in logins, under sudo and in services.
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
CA_SETTINGS = {
    "etc/environment": "".join(
        f"{name}={CA_BUNDLE}\n" for name in ("PIP_CERT", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
    ),
    "etc/sudoers.d/certificates": "Defaults env_file=/etc/environment\n",
    "etc/pip.conf": f"[global]\ncert = {CA_BUNDLE}\n",
}
# The installer's first user is in these groups.
GROUPS = "cdrom,floppy,audio,dip,video,plugdev"
INSTALL = (
    "export DEBIAN_FRONTEND=noninteractive; "
    "apt-get -qq install --yes --no-install-recommends {0} >/tmp/log 2>&1 || "
    "{{ apt-get -qq update && apt-get -qq install --yes --no-install-recommends {0}; }} >/tmp/log 2>&1 || "
    "{{ tail -n 5 /tmp/log >&2; exit 1; }}; rm /tmp/log; apt-get clean"
)
FLAVOUR_SCRIPTS = {
    "installer": f"""set -e
echo root:root-secret | chpasswd
useradd --create-home --shell /bin/bash --groups {GROUPS} user
echo user:user-secret | chpasswd
""",
    "managed": f"""set -e
{INSTALL.format("sudo python3 python3-apt")}
useradd --create-home --shell /bin/bash --groups {GROUPS},sudo admin
echo 'admin ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/admin
chmod 0440 /etc/sudoers.d/admin
install -d -m 0700 -o admin -g admin /home/admin/.ssh
cat > /home/admin/.ssh/authorized_keys
chown admin:admin /home/admin/.ssh/authorized_keys
chmod 0600 /home/admin/.ssh/authorized_keys
""",
}


def digest(*parts: object) -> str:
    """A short name for everything that went into an image."""
    return hashlib.sha256("\0".join(str(part) for part in parts).encode()).hexdigest()[:12]


def key_file() -> pathlib.Path:
    """The test bed's own SSH key, made on first use."""
    path = cache_dir() / "ssh" / "id_ed25519"
    with lock("ssh-key"):
        if not path.exists():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "testbed", "-f", str(path)])
    return path


def exists(image: str) -> bool:
    """Whether podman has the image."""
    return attempt(["podman", "image", "exists", image]).returncode == 0


def ensure_network() -> None:
    """One bridge for all hosts, without podman's DNS: hosts use the machine's name servers."""
    with lock("network"):
        if attempt(["podman", "network", "exists", NETWORK]).returncode != 0:
            run(["podman", "network", "create", "--disable-dns", NETWORK])


def machine_files(release: str, mirror: apt_sources.Mirror) -> dict[str, bytes]:
    """The files that let a Debian of its own use what this machine uses: package sources and certificates."""
    files: dict[str, bytes] = {
        "etc/apt/sources.list": apt_sources.sources(release, mirror).encode(),
        "etc/machine-id": b"",
    }
    settings = apt_sources.settings()
    if settings:
        files["etc/apt/apt.conf.d/90mirror"] = ("\n".join(settings) + "\n").encode()
    authorities = machine.certificates()
    for name, content in authorities.items():
        files[f"usr/local/share/ca-certificates/{name}"] = content
    if authorities:
        files.update({name: text.encode() for name, text in CA_SETTINGS.items()})
    return files


def write_files(folder: pathlib.Path, files: dict[str, bytes]) -> None:
    """Write files below a folder, all of it with the modes that a host's root file system has."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o440 if path.parent.name == "sudoers.d" else 0o644)


def tree(folder: pathlib.Path, release: str, mirror: apt_sources.Mirror) -> None:
    """Write the files that turn a minimal Debian into a test host."""
    shutil.copytree(ROOTFS, folder, symlinks=True)
    units = folder / "usr/local/lib/systemd/system"
    for unit in MASKED:
        # Not in /etc, where a role that masks units of its own works.
        (units / unit).symlink_to("/dev/null")
    write_files(folder, machine_files(release, mirror))


def base_recipe(release: str, mirror: apt_sources.Mirror) -> str:
    """Name of the base image: it changes with everything that is in it except the mirror's own progress."""
    static = sorted((str(path.relative_to(ROOTFS)), path.read_bytes()) for path in ROOTFS.rglob("*") if path.is_file())
    return digest(
        release, mirror, PACKAGES, MASKED, sorted(CA_SETTINGS.items()), static, apt_sources.settings(),
        sorted(machine.certificates().items()),
    )  # fmt: skip


def mmdebstrap(
    release: str, packages: Sequence[str], sources: pathlib.Path, folder: pathlib.Path, target: pathlib.Path,
    hooks: Sequence[str],
) -> None:  # fmt: skip
    """Make a root file system with these packages and the files of the folder; hooks are shell, "$1" is its root."""
    command = [
        "mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}",
        # An installed Debian has package lists; a role that refreshes them when they are old works as on a PC.
        "--skip=cleanup/apt/lists",
        *[f"--aptopt={setting.rstrip(';')}" for setting in apt_sources.settings()],
        "--customize-hook=rm -f \"$1\"/etc/apt/apt.conf.d/99mmdebstrap \"$1\"/etc/apt/sources.list.d/*",
        f"--customize-hook=sync-in {folder} /",
        "--customize-hook=chroot \"$1\" update-ca-certificates >/dev/null 2>&1",
        *[f"--customize-hook={hook}" for hook in hooks],
        release, str(target), str(sources),
    ]  # fmt: skip
    run(command, timeout=900, doing=f"making the Debian {release} root file system with mmdebstrap")


def make_tarball(release: str, mirror: apt_sources.Mirror, tarball: pathlib.Path) -> None:
    """Make the root file system of a release from the mirror."""
    partial = tarball.with_name(f"partial-{tarball.name}")
    with tempfile.TemporaryDirectory(prefix="testbed-") as temporary:
        folder = pathlib.Path(temporary) / "tree"
        tree(folder, release, mirror)
        sources = pathlib.Path(temporary) / "sources.list"
        sources.write_text(apt_sources.sources(release, mirror, signed_by=True), encoding="ascii")
        mmdebstrap(release, PACKAGES, sources, folder, partial, ['rm -f "$1"/etc/ssh/ssh_host_*'])
    partial.rename(tarball)


def ensure_base(release: str) -> str:
    """The image with Debian and no accounts."""
    mirror = apt_sources.machine_mirror()
    recipe = base_recipe(release, mirror)
    image = f"{REPOSITORY}/base:{release}-{recipe}"
    tarball = cache_dir() / "rootfs" / f"{release}-{recipe}.tar.zst"
    with lock(f"image-base-{release}"):
        if not exists(image):
            tarball.parent.mkdir(exist_ok=True)
            if not tarball.exists():
                say(f"Making a Debian {release} root file system from {mirror.archive} (about a minute, once).")
                make_tarball(release, mirror, tarball)
                prune(tarball)
            run(["podman", "import", "--quiet", "--change", 'CMD ["/sbin/init"]', str(tarball), image], timeout=300)
    return image


def ensure_flavour(release: str, flavour: str) -> str:
    """The image of a flavour: accounts, and what bootstrapping installs."""
    base = ensure_base(release)
    public = key_file().with_suffix(".pub").read_text(encoding="ascii") if flavour == "managed" else ""
    script = FLAVOUR_SCRIPTS[flavour]
    image = f"{REPOSITORY}/{flavour}:{release}-{digest(base, script, public)}"
    with lock(f"image-{flavour}-{release}"):
        if not exists(image):
            say(f"Making the {flavour} image of Debian {release}.")
            ensure_network()
            build(base, script, public, image)
    return image


def build(base: str, script: str, stdin: str, image: str) -> None:
    """Run a script in a container without systemd and keep the result as an image."""
    name = f"testbed-build-{digest(image)}"
    attempt(["podman", "rm", "--force", "--time", "0", name])
    try:
        run(
            ["podman", "run", "--interactive", "--name", name, *machine.build_flags(), "--network", NETWORK,
             base, "/bin/sh", "-c", script],
            timeout=600, stdin=stdin, doing=f"building the image {image}",
        )  # fmt: skip
        run(["podman", "commit", "--quiet", "--change", 'CMD ["/sbin/init"]', name, image], timeout=300)
    finally:
        attempt(["podman", "rm", "--force", "--time", "0", name])


def prune(fresh: pathlib.Path) -> None:
    """Drop what older recipes left; what a host still uses stays."""
    oldest = time.time() - KEEP_DAYS * 86400
    for path in fresh.parent.glob("*.tar.zst"):
        if path.stat().st_mtime < oldest:
            path.unlink()
    names = "|".join(("base", *FLAVOUR_SCRIPTS))
    for line in run(["podman", "images", "--format", "{{.CreatedAt}}|{{.Repository}}:{{.Tag}}"]).splitlines():
        created, _, image = line.partition("|")
        if re.match(f"{REPOSITORY}/({names}):", image) and seconds(created) < oldest:
            attempt(["podman", "rmi", image])


def seconds(created: str) -> float:
    """podman's time of an image, "2026-11-22 23:10:01 +0000 UTC" with or without a fraction, in seconds."""
    moment = time.strptime(" ".join(created.split(".")[0].split()[:2]), "%Y-%m-%d %H:%M:%S")
    return float(calendar.timegm(moment))


def committed(name: str) -> str:
    """Full name of an image made by `commit`."""
    return name if "/" in name else f"{REPOSITORY}/{name}"


def require(image: str) -> None:
    """Say what to do when an image made by `commit` is not there."""
    if not exists(image):
        raise TestbedError(f"the image {image} does not exist; make it with `testbed commit HOST IMAGE`")
