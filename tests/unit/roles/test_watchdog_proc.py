# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the supervisor reads of the kernel: of real processes, and of files as other kernels have them."""

from __future__ import annotations

import contextlib
import os
import pathlib
import pwd
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from sd_watchdog import proc
from sd_watchdog.proc import Cgroup, Proc

REAL = Proc()
UNIT = "/system.slice/sd-webui.service"


@contextlib.contextmanager
def process(*command: str) -> Iterator[int]:
    """A child that lives as long as the test looks at it."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as child:
        try:
            yield child.pid
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def soon(what: Callable[[], bool]) -> bool:
    """Does it become true?"""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.01)
    return False


def write(root: pathlib.Path, **files: str) -> Proc:
    """A /proc with these files; two underscores stand for a slash."""
    for name, text in files.items():
        path = root / "proc" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return Proc(root)


def test_the_state_of_a_process_that_lives_is_stopped_and_ends() -> None:
    with process("sleep", "600") as pid:
        assert soon(lambda: REAL.state(pid) == "S")
        os.kill(pid, signal.SIGSTOP)
        assert soon(lambda: REAL.state(pid) == "T")
        os.kill(pid, signal.SIGCONT)
        assert soon(lambda: REAL.state(pid) == "S")
        os.kill(pid, signal.SIGKILL)
        # Nobody has asked for its exit status yet: it is a zombie.
        assert soon(lambda: b") Z " in (REAL.read(f"{pid}/stat") or b""))
        assert REAL.state(pid) is None
    assert REAL.state(pid) is None


def test_a_name_that_looks_like_more_fields(tmp_path: pathlib.Path) -> None:
    fields = " ".join(["7", "100", *["0"] * 8, "250", "50", *["0"] * 30])
    made_up = write(tmp_path, **{"200__stat": f"200 (x) Z 1 (y) T {fields}\n"})
    assert made_up.state(200) == "T"
    assert made_up.cpu_seconds(200) == 300 / os.sysconf("SC_CLK_TCK")
    assert made_up.descendants(7) == [200]


@pytest.mark.parametrize("text", ["", "200", "200 (x", "200 (x)", "200 (x) R"])
def test_a_stat_that_ends_early(text: str, tmp_path: pathlib.Path) -> None:
    made_up = write(tmp_path, **{"200__stat": text})
    assert made_up.state(200) in (None, "R")
    assert made_up.cpu_seconds(200) == 0
    assert made_up.descendants(1) == []


def test_work_is_seen() -> None:
    with process(sys.executable, "-c", "while True: pass") as pid:
        assert soon(lambda: REAL.cpu_seconds(pid) > 0.05)
    with process("sleep", "600") as pid:
        assert soon(lambda: REAL.state(pid) == "S")
        before = REAL.cpu_seconds(pid)
        time.sleep(0.1)
        assert REAL.cpu_seconds(pid) == before


def test_memory_and_what_has_been_read() -> None:
    assert 1 << 20 < REAL.rss(os.getpid()) < 1 << 33
    before = REAL.read_bytes(os.getpid())
    pathlib.Path(__file__).read_bytes()
    assert REAL.read_bytes(os.getpid()) - before >= pathlib.Path(__file__).stat().st_size


def test_pages_that_it_waited_for(tmp_path: pathlib.Path) -> None:
    assert write(tmp_path, **{"200__stat": "200 (x) S 1 2 3 4 5 6 70 80 90 100 11 12\n"}).major_faults(200) == 90
    before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    found = REAL.major_faults(os.getpid())
    assert before <= found <= resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def test_a_process_that_is_gone() -> None:
    with process("true") as pid:
        pass
    assert (REAL.state(pid), REAL.cpu_seconds(pid), REAL.rss(pid), REAL.read_bytes(pid)) == (None, 0, 0, 0)
    assert REAL.major_faults(pid) == 0 and REAL.descendants(pid) == []


def test_children_and_their_children() -> None:
    with process("sh", "-c", "sh -c 'sleep 611 & sleep 612 & wait' & sleep 613; true") as pid:

        def told() -> set[bytes]:
            return {(REAL.read(f"{one}/cmdline") or b"").replace(b"\0", b" ").strip() for one in REAL.descendants(pid)}

        # A child is a copy of its shell at first.
        assert soon(lambda: {b"sleep 611", b"sleep 612", b"sleep 613"} < told())
        assert len(REAL.descendants(pid)) == 4
        assert pid not in REAL.descendants(pid)


def test_parents_that_go_round_in_circles(tmp_path: pathlib.Path) -> None:
    made_up = write(tmp_path, **{"5__stat": "5 (a) S 6 0\n", "6__stat": "6 (b) S 5 0\n"})
    assert made_up.descendants(5) == [5, 6]


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_who_listens(address: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
        try:
            listener.bind((address, 0))
        except OSError:
            pytest.skip(f"this host has no {address}")
        port = listener.getsockname()[1]
        assert REAL.listener_uid(port) is None
        listener.listen()
        assert REAL.listener_uid(port) == REAL.listener_uid(port, address) == os.getuid()
        asked = "::1" if ":" in address else "127.0.0.1"
        assert REAL.listener_uid(port, asked) == os.getuid()
    assert REAL.listener_uid(port) is None


HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def row(local: str, state: str, uid: int) -> str:
    return (
        f"   0: {local} {'0' * (len(local) - 5)}:0000 {state} 00000000:00000000 00:00000000 00000000 {uid:5} 0 7 1 0\n"
    )


def test_another_users_listener_is_told_first(tmp_path: pathlib.Path) -> None:
    own, port = os.getuid(), 0x1EB4
    made_up = write(
        tmp_path,
        net__tcp=HEAD
        + row("0100007F:1EB4", "0A", own)
        + row("0501A8C0:1EB4", "0A", 4033)
        + row("0100007F:1EB5", "01", 4044)
        + row("0100007F:1EB6", "0A", 4055),
        net__tcp6=HEAD
        + row("00000000000000000000000001000000:1EB7", "0A", 4066)
        + row("0000000000000000FFFF00000100007F:1EB8", "0A", 4077)
        + row("00000000000000000000000000000000:1EB9", "0A", 4088),
    )
    assert made_up.listener_uid(port) == 4033
    # A proxy on the PC's own address is no stranger on the loopback one.
    assert made_up.listener_uid(port, "127.0.0.1") == own
    assert made_up.listener_uid(port, "192.168.1.5") == 4033
    assert made_up.listener_uid(port, "10.0.0.1") is None
    # A connection is no listener.
    assert made_up.listener_uid(0x1EB5) is None
    assert made_up.listener_uid(0x1EB6, "localhost") == 4055
    assert made_up.listener_uid(0x1EB7, "::1") == 4066
    assert made_up.listener_uid(0x1EB8, "127.0.0.1") == 4077
    assert made_up.listener_uid(0x1EB9, "127.0.0.1") == made_up.listener_uid(0x1EB9, "::1") == 4088


def test_a_host_without_ipv6_and_one_without_anything(tmp_path: pathlib.Path) -> None:
    assert write(tmp_path, net__tcp=HEAD + row("00000000:1EB4", "0A", 7)).listener_uid(7860) == 7
    assert Proc(tmp_path / "nothing").listener_uid(7860) is None


def test_the_boot() -> None:
    assert len(REAL.boot_id()) == 36
    before = REAL.boottime()
    assert before <= REAL.boottime() <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_a_made_up_boot(tmp_path: pathlib.Path) -> None:
    made_up = write(
        tmp_path,
        uptime="350735.47 234388.90\n",
        sys__kernel__random__boot_id="6f32dd21-2ac6-4b0e-9a0c-5a3ff7e5d3a1\n",
        meminfo="MemTotal:  16314156 kB\nMemFree:  268924 kB\nMemAvailable:  9342332 kB\nHugePages_Total: 0\n",
    )
    assert made_up.boottime() == 350735.47
    assert made_up.boot_id() == "6f32dd21-2ac6-4b0e-9a0c-5a3ff7e5d3a1"
    assert made_up.meminfo() == {"total": 16314156 * 1024, "available": 9342332 * 1024}
    assert (Proc(tmp_path / "nothing").boot_id(), Proc(tmp_path / "nothing").boottime()) == ("", 0)


def test_memory_of_this_host() -> None:
    found = REAL.meminfo()
    assert 0 < found["available"] <= found["total"]


# Cgroups. The lines are those of Debian 12 (unified), of Debian 11 with systemd.unified_cgroup_hierarchy=0, of a
# systemd in hybrid mode, and of containers on both.

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
OTHER_MOUNTS = (
    "22 28 0:20 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw\n"
    "28 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,discard,errors=remount-ro\n"
    "odd line\n"
)
V1_MOUNTS = (
    "31 25 0:27 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:8 - tmpfs tmpfs ro,size=4096k,nr_inodes=1024,mode=755\n"
    "34 31 0:30 / /sys/fs/cgroup/systemd rw,relatime shared:10 - cgroup cgroup rw,xattr,name=systemd\n"
    "36 31 0:32 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:14 - cgroup cgroup rw,cpu,cpuacct\n"
    "41 31 0:37 / /sys/fs/cgroup/memory rw,relatime shared:19 - cgroup cgroup rw,memory\n"
)
HYBRID_MOUNT = "33 31 0:29 / /sys/fs/cgroup/unified rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw\n"
V2_STAT = "anon 1200000000\nfile 900000000\ninactive_anon 5\ninactive_file 700000000\nactive_file 200000000\n"
V1_STAT = (
    "cache 900000000\nrss 1200000000\ninactive_file 1\nhierarchical_memory_limit 12\ntotal_inactive_file 700000000\n"
    "total_active_file 200000000\n"
)
V2_FILES = {
    "cpu.stat": "usage_usec 41500000\nuser_usec 40000000\nsystem_usec 1500000\n",
    "memory.current": "2100000000\n",
    "memory.stat": V2_STAT,
    "memory.max": "14000000000\n",
    "memory.events": "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n",
}
V1_MEMORY = {
    "memory.usage_in_bytes": "2100000000\n",
    "memory.stat": V1_STAT,
    "memory.limit_in_bytes": "14000000000\n",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
}


class Host:
    """Made-up hierarchies, and a process in them."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root

    def group(self, path: str, files: dict[str, str]) -> None:
        folder = self.root / path.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="ascii")

    def of(self, cgroup: str, mountinfo: str) -> Cgroup:
        return Cgroup(write(self.root, **{"300__cgroup": cgroup, "self__mountinfo": OTHER_MOUNTS + mountinfo}), 300)


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Host:
    return Host(tmp_path)


def figures(group: Cgroup) -> tuple[object, ...]:
    return (group.cpu_seconds(), group.memory(), group.limit(), group.oom_kills())


FULL = (41.5, 1200000000, 14000000000, 2)
NOTHING = (None, None, None, None)


def test_the_unified_hierarchy(host: Host) -> None:
    host.group(f"/sys/fs/cgroup{UNIT}", V2_FILES)
    assert figures(host.of(f"0::{UNIT}\n", V2_MOUNT)) == FULL


def test_no_limit(host: Host) -> None:
    host.group(f"/sys/fs/cgroup{UNIT}", {**V2_FILES, "memory.max": "max\n"})
    assert host.of(f"0::{UNIT}\n", V2_MOUNT).limit() is None
    # What a v1 kernel says without one.
    host.group(f"/sys/fs/cgroup/memory{UNIT}", {**V1_MEMORY, "memory.limit_in_bytes": "9223372036854771712\n"})
    assert host.of(f"5:memory:{UNIT}\n1:name=systemd:{UNIT}\n", V1_MOUNTS).limit() is None


def test_the_mount_that_systemd_lays_over_the_real_one(host: Host) -> None:
    """ProtectControlGroups= makes a second mount of the same, read-only."""
    host.group(f"/sys/fs/cgroup{UNIT}", V2_FILES)
    again = "419 393 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup2 rw,nsdelegate\n"
    assert figures(host.of(f"0::{UNIT}\n", V2_MOUNT + again)) == FULL


def test_separate_hierarchies(host: Host) -> None:
    host.group(f"/sys/fs/cgroup/cpu,cpuacct{UNIT}", {"cpuacct.usage": "41500000000\n"})
    host.group(f"/sys/fs/cgroup/memory{UNIT}", V1_MEMORY)
    lines = f"11:cpuset:/\n7:memory:{UNIT}\n4:cpu,cpuacct:{UNIT}\n1:name=systemd:{UNIT}\n"
    assert figures(host.of(lines, V1_MOUNTS)) == FULL


def test_a_mixture(host: Host) -> None:
    """In hybrid mode the unified hierarchy has processor times for all, and the memory is in one of its own."""
    host.group(f"/sys/fs/cgroup/unified{UNIT}", {"cpu.stat": V2_FILES["cpu.stat"], "cgroup.events": "populated 1\n"})
    host.group(f"/sys/fs/cgroup/memory{UNIT}", V1_MEMORY)
    lines = f"7:memory:{UNIT}\n4:cpu,cpuacct:/\n1:name=systemd:{UNIT}\n0::{UNIT}\n"
    assert figures(host.of(lines, V1_MOUNTS + HYBRID_MOUNT)) == FULL


@pytest.mark.parametrize("wider", ["/", "/system.slice"])
def test_a_controller_that_is_not_switched_on_for_the_unit(wider: str, host: Host) -> None:
    """The process is then in a group further up, whose figures are those of other services as well."""
    for folder in (f"/sys/fs/cgroup/cpu,cpuacct{wider}", f"/sys/fs/cgroup/memory{wider}"):
        host.group(folder, {"cpuacct.usage": "7\n", **V1_MEMORY})
    lines = f"7:memory:{wider}\n4:cpu,cpuacct:{wider}\n1:name=systemd:{UNIT}\n"
    assert figures(host.of(lines, V1_MOUNTS)) == NOTHING


def test_a_slice_whose_name_only_begins_like_the_units_is_another_one(host: Host) -> None:
    host.group("/sys/fs/cgroup/memory/system", V1_MEMORY)
    assert host.of(f"7:memory:/system\n1:name=systemd:{UNIT}\n", V1_MOUNTS).memory() == 1200000000


def test_a_container_with_a_namespace_of_its_own(host: Host) -> None:
    """Paths and mounts both begin at the container's group."""
    host.group(f"/sys/fs/cgroup{UNIT}", V2_FILES)
    assert figures(host.of(f"0::{UNIT}\n", V2_MOUNT)) == FULL


def test_a_container_without_one(host: Host) -> None:
    """The mount begins at the container's group, the paths at the host's root."""
    inside = "/docker/3fc1e5a7"
    host.group(f"/sys/fs/cgroup/memory{UNIT}", V1_MEMORY)
    mounts = (
        f"981 980 0:30 {inside} /sys/fs/cgroup/systemd ro,nosuid master:11 - cgroup cgroup rw,xattr,name=systemd\n"
        f"990 980 0:37 {inside} /sys/fs/cgroup/memory ro,nosuid,nodev,noexec master:19 - cgroup cgroup rw,memory\n"
    )
    lines = f"7:memory:{inside}{UNIT}\n1:name=systemd:{inside}{UNIT}\n"
    assert figures(host.of(lines, mounts)) == (None, *FULL[1:])


def test_a_group_that_cannot_be_seen_from_here(host: Host) -> None:
    host.group("/sys/fs/other", V2_FILES)
    host.group("/sys/fs/cgroup", V2_FILES)
    for path in ("/../other", "/..", f"{UNIT}/elsewhere", "/"):
        assert figures(host.of(f"0::{path}\n", V2_MOUNT)) == NOTHING, path


def test_a_mount_with_a_blank_in_its_name(host: Host) -> None:
    host.group(f"/srv/my groups{UNIT}", V2_FILES)
    mount = V2_MOUNT.replace("/sys/fs/cgroup", "/srv/my\\040groups")
    assert figures(host.of(f"0::{UNIT}\n", mount)) == FULL


@pytest.mark.parametrize("missing", list(V2_FILES))
def test_a_kernel_without_one_of_the_files(missing: str, host: Host) -> None:
    host.group(f"/sys/fs/cgroup{UNIT}", {name: text for name, text in V2_FILES.items() if name != missing})
    found = figures(host.of(f"0::{UNIT}\n", V2_MOUNT))
    what = {"cpu.stat": 0, "memory.current": 1, "memory.max": 2, "memory.events": 3}.get(missing)
    expected: list[object] = list(FULL)
    if what is None:
        expected[1] = 2100000000
    else:
        expected[what] = None
    assert found == tuple(expected)


def test_an_old_kernel_that_does_not_count(host: Host) -> None:
    """memory.oom_control has the count since Linux 4.13."""
    host.group(f"/sys/fs/cgroup/memory{UNIT}", {"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\n"})
    assert host.of(f"7:memory:{UNIT}\n1:name=systemd:{UNIT}\n", V1_MOUNTS).oom_kills() is None


def test_a_group_that_goes_away(host: Host) -> None:
    host.group(f"/sys/fs/cgroup{UNIT}", V2_FILES)
    group = host.of(f"0::{UNIT}\n", V2_MOUNT)
    for path in (host.root / f"sys/fs/cgroup{UNIT}").iterdir():
        path.unlink()
    assert figures(group) == NOTHING


def test_nothing_at_all(tmp_path: pathlib.Path) -> None:
    assert figures(Cgroup(Proc(tmp_path), 1)) == NOTHING


def test_this_process() -> None:
    """Whatever this host has: figures that can be, or none."""
    group = Cgroup(REAL, os.getpid())
    before = group.cpu_seconds()
    used = group.memory()
    assert used is None or 1 << 16 < used < REAL.meminfo()["total"]
    assert before is None or before <= (group.cpu_seconds() or 0)


def test_free_space(tmp_path: pathlib.Path) -> None:
    before = proc.free_mib(tmp_path)
    told = subprocess.run(["df", "-BM", "--output=avail", tmp_path], capture_output=True, text=True, check=True)
    after = proc.free_mib(tmp_path)
    assert before is not None and after is not None
    # Others may write or remove much in the meantime.
    assert min(before, after) - 200 < int(told.stdout.split()[1].rstrip("M")) < max(before, after) + 200
    assert proc.free_mib(tmp_path / "nothing") is None


def test_what_can_be_written(tmp_path: pathlib.Path) -> None:
    assert proc.writable_problem(tmp_path) == ""
    assert proc.writable_problem(tmp_path / "nothing") == "No such file or directory"
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_is_read_only() -> None:
    found = [
        line.split()[1]
        for line in pathlib.Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
        if "ro" in line.split()[3].split(",") and os.path.isdir(line.split()[1]) and "\\" not in line
    ]
    if not found:
        pytest.skip("this host has none")
    assert proc.writable_problem(pathlib.Path(found[0])) == "read-only"


def test_a_folder_of_somebody_else(tmp_path: pathlib.Path) -> None:
    if os.getuid() != 0:
        assert proc.writable_problem(pathlib.Path("/etc")) == "not writable for this user"
        return
    # The module by its text: nobody may be unable to read this clone.
    program = pathlib.Path(proc.__file__).read_text(encoding="utf-8") + "\nprint(writable_problem('/etc'))\n"
    said = subprocess.run(
        ["/usr/bin/python3", "-"],
        input=program,
        user=pwd.getpwnam("nobody").pw_uid,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.stdout == "not writable for this user\n", said.stderr
