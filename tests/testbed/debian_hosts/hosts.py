"""The life of a host: create, wait, restart, commit, destroy."""

from __future__ import annotations

import json
import pathlib
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from . import images, machine, proof
from .common import FLAVOURS, RELEASES, TestbedError, attempt, cache_dir, lock, run, say

PREFIX = "testbed-"
LABEL = "secondhand.testbed"
STARTUP = 90
STOP = 60
FIRST_ADDRESS = 10
INTERFACES = """\
# This file describes the network interfaces available on your system
# and how to activate them. For more information, see interfaces(5).

source /etc/network/interfaces.d/*

# The loopback network interface
auto lo
iface lo inet loopback

# The primary network interface
allow-hotplug eth0
iface eth0 inet static
\taddress {address}/{prefix}
\tgateway {gateway}
"""
HOSTS = """\
127.0.0.1\tlocalhost
127.0.1.1\t{name}

# The following lines are desirable for IPv6 capable hosts
::1     localhost ip6-localhost ip6-loopback
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
"""
SSH_OPTIONS = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o IdentitiesOnly=yes"


class Settings(NamedTuple):
    """What a host was asked to be."""

    release: str
    flavour: str
    image: str
    mounts: tuple[str, ...]
    tmpfs: tuple[str, ...]
    publish: tuple[str, ...]


class Subnet(NamedTuple):
    """The bridge's network."""

    network: str
    prefix: str
    gateway: str


def container(name: str) -> str:
    """podman's name of a host."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?", name):
        raise TestbedError(f"{name!r} is no host name; use small letters, digits and hyphens")
    return PREFIX + name


def labels(name: str) -> dict[str, str] | None:
    """What is known of a host, or None when it does not exist."""
    done = attempt(["podman", "container", "inspect", "--format", "{{json .Config.Labels}}", container(name)])
    if done.returncode != 0:
        return None
    found: dict[str, str] = json.loads(done.stdout) or {}
    if found.get(LABEL) != str(cache_dir()):
        raise TestbedError(f"a host named {name} belongs to another cache directory; choose another name")
    return found


def known(name: str) -> dict[str, str]:
    """Like labels(), of a host that has to exist."""
    found = labels(name)
    if found is None:
        raise TestbedError(f"there is no host named {name}; make it with `testbed create {name}`")
    return found


def names() -> list[str]:
    """Hosts of this cache directory, running or not."""
    out = run(
        ["podman", "ps", "--all", "--filter", f"label={LABEL}={cache_dir()}", "--format", "{{.Names}}"]
    )  # fmt: skip
    return sorted(line[len(PREFIX) :] for line in out.split() if line.startswith(PREFIX))


def is_running(name: str) -> bool:
    """Whether the host is switched on."""
    done = attempt(["podman", "container", "inspect", "--format", "{{.State.Running}}", container(name)])
    return done.stdout.strip() == "true"


def connection(name: str) -> dict[str, Any]:
    """How to reach a host, as `create` prints it."""
    found = known(name)
    facts: dict[str, Any] = {
        "name": name,
        "address": found["secondhand.address"],
        "port": 22,
        "release": found["secondhand.release"],
        "flavour": found["secondhand.flavour"],
        "image": found["secondhand.image"],
    }
    if facts["flavour"] == "managed":
        return {**facts, "user": "admin", "key": str(images.key_file())}
    # Nobody has put this key into an installer host: it is what a test may bring along.
    return {
        **facts, "user": "user", "password": "user-secret", "root_password": "root-secret",
        "key": str(images.key_file()),
    }  # fmt: skip


def inventory(wanted: Sequence[str]) -> str:
    """An INI inventory for ansible -i."""
    lines = ["[testbed]"]
    for name in wanted:
        facts = connection(name)
        values = {"ansible_host": facts["address"], "ansible_user": facts["user"]}
        if "password" in facts:
            values["ansible_password"] = facts["password"]
            values["ansible_become_method"] = "su"
            values["ansible_become_password"] = facts["root_password"]
        else:
            values["ansible_ssh_private_key_file"] = facts["key"]
        values["ansible_ssh_common_args"] = f"'{SSH_OPTIONS}'"
        lines.append(" ".join([name, *(f"{key}={value}" for key, value in values.items())]))
    return "\n".join(lines) + "\n"


def subnet() -> Subnet:
    """The network podman chose for the bridge."""
    # Through the whole document: the template names of its fields changed between versions.
    document = json.loads(run(["podman", "network", "inspect", images.NETWORK]))[0]
    entry = document.get("subnets") or [document["plugins"][0]["ipam"]["ranges"][0][0]]
    address, _, prefix = entry[0]["subnet"].partition("/")
    return Subnet(address, prefix, entry[0]["gateway"])


def next_address(net: Subnet) -> str:
    """A free address, never the one just given back: a kept SSH connection to a former host must not meet a new one."""
    # All hosts, of other cache directories too.
    form = '{{index .Labels "secondhand.address"}}'
    used = set(run(["podman", "ps", "--all", "--filter", f"label={LABEL}", "--format", form]).split())
    stem = net.network.rsplit(".", 1)[0]
    counter = pathlib.Path("/run/lock/secondhand-testbed/last-address")
    last = int(counter.read_text(encoding="ascii")) if counter.exists() else FIRST_ADDRESS - 1
    candidates = [*range(last + 1, 255), *range(FIRST_ADDRESS, last + 1)]
    for number in candidates:
        address = f"{stem}.{number}"
        if address not in used and address != net.gateway:
            counter.write_text(str(number), encoding="ascii")
            return address
    raise TestbedError("all addresses of the test network are taken; destroy some hosts with `testbed destroy`")


def image_labels(image: str) -> dict[str, str]:
    """Labels of an image made by commit()."""
    found: dict[str, str] = json.loads(run(["podman", "image", "inspect", "--format", "{{json .Labels}}", image])) or {}
    return found


def settle(
    release: str | None, flavour: str | None, image: str | None,
    mounts: Sequence[str], tmpfs: Sequence[str], publish: Sequence[str],
) -> Settings:  # fmt: skip
    """Fill in what was not said: from the image when there is one, else Debian 12 as after bootstrapping."""
    full = ""
    if image:
        full = images.committed(image)
        images.require(full)
        origin = image_labels(full)
        release = release or origin.get("secondhand.release")
        flavour = flavour or origin.get("secondhand.flavour")
    volumes = []
    for mount in mounts:
        source, separator, rest = mount.partition(":")
        if not separator or not rest.startswith("/"):
            raise TestbedError(f"the mount {mount!r} is not SOURCE:/PATH or SOURCE:/PATH:ro")
        if not pathlib.Path(source).exists():
            raise TestbedError(f"the mount {mount!r} names {source}, which does not exist on this machine")
        volumes.append(f"{pathlib.Path(source).resolve()}:{rest}")
    for value in tmpfs:
        if not re.fullmatch(r"/[^:]*:[0-9]+[kKmMgG]?", value):
            raise TestbedError(f"the tmpfs {value!r} is not /PATH:SIZE such as /srv:2g")
    settings = Settings(
        release or RELEASES[0], flavour or FLAVOURS[0], full, tuple(volumes), tuple(tmpfs), tuple(publish)
    )
    if settings.release not in RELEASES or settings.flavour not in FLAVOURS:
        raise TestbedError(f"there are the releases {', '.join(RELEASES)} and the flavours {', '.join(FLAVOURS)}")
    return settings


def create(name: str, asked: Settings | None) -> dict[str, Any]:
    """Make a host, or start the one there is; asking for nothing in particular means an existing host as it is."""
    container(name)
    with lock(f"host-{name}"):
        found = labels(name)
        if found is None:
            make(name, asked or settle(None, None, None, (), (), ()))
        elif asked is not None and found.get("secondhand.settings") != json.dumps(asked):
            raise TestbedError(f"the host {name} exists with other settings; first run `testbed destroy {name}`")
        if not is_running(name):
            run(["podman", "start", container(name)], doing=f"starting {name}")
        # A host that does not come up stays, so that one can look inside.
        wait(name)
    return connection(name)


def make(name: str, settings: Settings) -> None:
    """Make a host that is still switched off; half a host is removed."""
    image = settings.image or images.ensure_flavour(settings.release, settings.flavour)
    proof.ensure(settings.release)
    images.ensure_network()
    try:
        # Numbering and making are one step, or two hosts made at a time get the same address.
        with lock("address"):
            net = subnet()
            address = next_address(net)
            podman_create(name, settings, image, address)
        prepare(name, net, address, image)
    except BaseException:
        attempt(["podman", "rm", "--force", "--time", "0", container(name)])
        raise


def mac(address: str) -> str:
    """A locally administered number for the card with this address."""
    return "02:42:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def podman_create(name: str, settings: Settings, image: str, address: str) -> None:
    """Make the container without starting it."""
    flags = [f"--volume={mount}" for mount in settings.mounts]
    for value in settings.tmpfs:
        path, _, size = value.rpartition(":")
        flags.append(f"--tmpfs={path}:rw,exec,mode=0755,size={size}")
    flags += [f"--publish={ports}" for ports in settings.publish]
    known_as = {
        LABEL: str(cache_dir()),
        "secondhand.address": address,
        "secondhand.release": settings.release,
        "secondhand.flavour": settings.flavour,
        "secondhand.image": image,
        "secondhand.settings": json.dumps(settings),
    }
    flags += [f"--label={key}={value}" for key, value in known_as.items()]
    command = [
        "podman", "create", "--name", container(name), "--hostname", name, "--network", images.NETWORK,
        # The host's own /etc/hosts can be edited; one that podman mounts cannot be replaced.
        # A card keeps its number, or the machine looks for the one it knew before the restart for up to a minute.
        "--ip", address, "--mac-address", mac(address), "--no-hosts",
        *machine.container_flags(), *flags, image, *machine.init_command(),
    ]  # fmt: skip
    run(command, doing=f"making the container of {name}")


def prepare(name: str, net: Subnet, address: str, image: str) -> None:
    """Write what differs from host to host: keys, names and addresses."""
    root = pathlib.Path(run(["podman", "mount", container(name)]).strip())
    try:
        run(["ssh-keygen", "-A", "-f", str(root)])
        machine_id = root / "etc/machine-id"
        if machine_id.read_text(encoding="ascii").strip() in ("", "uninitialized"):
            machine_id.write_text(secrets.token_hex(16) + "\n", encoding="ascii")
        (root / "etc/hosts").write_text(HOSTS.format(name=name), encoding="ascii")
        interfaces = root / "etc/network/interfaces"
        former = image_labels(image).get("secondhand.address")
        if former:
            # A host made from another host's image keeps what was done to the file; only the address is its own.
            text = interfaces.read_text(encoding="utf-8").replace(f"{former}/", f"{address}/")
        else:
            text = INTERFACES.format(address=address, prefix=net.prefix, gateway=net.gateway)
        interfaces.write_text(text, encoding="utf-8")
    finally:
        run(["podman", "unmount", container(name)])


def wait(name: str, timeout: float = STARTUP) -> None:
    """Wait until systemd has started everything and sshd answers."""
    address = known(name)["secondhand.address"]
    deadline = time.monotonic() + timeout
    state = ""
    while time.monotonic() < deadline:
        if not is_running(name):
            raise TestbedError(f"the host {name} is switched off; start it with `testbed restart {name}`")
        state = proof.state(container(name))
        if state in ("running", "degraded") and ssh_answers(address):
            if state == "degraded":
                failed = attempt(["podman", "exec", container(name), "systemctl", "list-units", "--failed", "--plain",
                                  "--no-legend"]).stdout  # fmt: skip
                say(f"{name} is degraded: {', '.join(line.split()[0] for line in failed.splitlines())} failed.")
            return
        time.sleep(0.2)
    raise TestbedError(
        f"{name} did not come up within {timeout:.0f} s (systemd says {state or 'nothing'}); "
        f"look inside with `testbed exec {name} -- journalctl --boot`"
    )


def ssh_answers(address: str) -> bool:
    """Whether sshd greets."""
    try:
        with socket.create_connection((address, 22), timeout=2) as connected:
            connected.settimeout(5)
            return connected.recv(4) == b"SSH-"
    except OSError:
        return False


def restart(name: str) -> None:
    """Reboot: a clean shutdown that gets one minute, a start, and the wait for both systemd and SSH."""
    known(name)
    with lock(f"host-{name}"):
        run(["podman", "stop", "--time", str(STOP), container(name)], timeout=STOP + 30, doing=f"stopping {name}")
        run(["podman", "start", container(name)], doing=f"starting {name}")
        wait(name)


def destroy(name: str) -> None:
    """Remove a host; one that is not there is fine."""
    with lock(f"host-{name}"):
        if labels(name) is not None:
            run(["podman", "rm", "--force", "--time", "0", "--volumes", container(name)], timeout=120)


def commit(name: str, image: str) -> str:
    """Keep the state of a host's disk as an image."""
    known(name)
    full = images.committed(image)
    with lock(f"host-{name}"):
        attempt(["podman", "exec", container(name), "sync"])
        run(["podman", "commit", "--quiet", container(name), full], timeout=900, doing=f"keeping {name} as {image}")
    return full


def execute(name: str, command: Sequence[str]) -> int:
    """Run a command inside as root, not over SSH."""
    known(name)
    flags = ["--interactive"] + (["--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else [])
    return subprocess.run(["podman", "exec", *flags, container(name), *command], check=False).returncode


def table() -> str:
    """All hosts, for a person."""
    rows = [["NAME", "RELEASE", "FLAVOUR", "ADDRESS", "STATE"]]
    for name in names():
        facts = connection(name)
        rows.append([name, facts["release"], facts["flavour"], facts["address"], "on" if is_running(name) else "off"])
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows) + "\n"
