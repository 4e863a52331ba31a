"""The programs that tests/bench/download compares, and what one run of a program costs. It runs nothing by itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"aria2c": "aria2", "curl": "curl", "wget": "wget"}
# Seconds between two looks at the memory.
LOOK = 0.05


class BenchError(Exception):
    """One sentence for the person who runs it."""


@dataclass(frozen=True)
class Job:
    """One file, and where it goes to."""

    url: str
    sha256: str
    size: int
    # On the Hugging Face of the stand-ins, which sends everybody on to the storage host.
    endpoint: str
    storage: str
    repository: str
    commit: str
    file: str
    # Empty at the beginning of a first run.
    folder: Path
    connections: int
    # The program `hf`.
    hf: Path

    @property
    def target(self) -> Path:
        """Where the file is in the end."""
        return self.folder / self.file


@dataclass(frozen=True)
class Call:
    command: list[str]
    # Goes to the standard input, as Ansible does it.
    module_arguments: Mapping[str, Any] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def curl(job: Job) -> Call:
    return Call(["curl", "--fail", "--silent", "--show-error", "--output", str(job.target), job.url])


def wget(job: Job) -> Call:
    script = 'wget --no-verbose --output-document="$1" "$2" && echo "$3  $1" | sha256sum --check --quiet'
    return Call(["sh", "-c", script, "sh", str(job.target), job.url, job.sha256])


def aria2c(job: Job) -> Call:
    options = [f"-x{job.connections}", f"-s{job.connections}", f"--checksum=sha-256={job.sha256}"]
    # Its own minimum for a part is 20 MB, which would leave connections unused where files are small.
    options += ["--no-conf", "--quiet", "--min-split-size=1M"]
    return Call(["aria2c", *options, f"--dir={job.folder}", f"--out={job.file}", job.url])


def hf(job: Job) -> Call:
    environment = {
        "HF_ENDPOINT": job.endpoint,
        "HF_HOME": str(job.folder / "hf_home"),
        # Files of the hub come by HTTP then, as with every hub that has no Xet.
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    }
    options = ["--revision", job.commit, "--local-dir", str(job.folder), "--quiet"]
    return Call([str(job.hf), "download", job.repository, job.file, *options], environment=environment)


def module(name: str, job: Job, **options: Any) -> Call:
    """As Ansible runs it on a host, when it has brought it there."""
    # get_url writes below the temporary folder first: the same file system for all.
    arguments = {"dest": str(job.target), "_ansible_remote_tmp": str(job.folder / "tmp"), **options}
    environment = {"PYTHONPATH": str(ROOT / "playbooks/collections")}
    return Call([sys.executable, "-B", "-m", name], arguments, environment)


def get_url(job: Job) -> Call:
    return module("ansible.modules.get_url", job, url=job.url, checksum=f"sha256:{job.sha256}")


def ours(name: str, job: Job, **options: Any) -> Call:
    options = {"connections": job.connections, "index": str(job.folder / "index.sqlite3"), **options}
    return module(f"ansible_collections.secondhand.diffusion.plugins.modules.{name}", job, **options)


def url_download(job: Job) -> Call:
    return ours("url_download", job, url=job.url, sha256=job.sha256)


def huggingface_download(job: Job) -> Call:
    options = {"repository": job.repository, "revision": job.commit, "file": job.file}
    return ours("huggingface_download", job, endpoint=job.endpoint, allowed_hosts=[job.storage], **options)


@dataclass(frozen=True)
class Way:
    """A program that downloads a file."""

    name: str
    call: Callable[[Job], Call]
    # How it knows that the file is the right one.
    check: str = "SHA-256"
    # Whether it is worth while to run it again with the file in its place.
    again: bool = False
    # Which of ours does the same.
    ours: str = "url_download"
    # Whether it takes bytes from the network by read(), which is counted like reading a file. The others use recv(),
    # which is not; strace tells.
    network_by_read: bool = False

    @property
    def program(self) -> str:
        return self.name.split()[0]


WAYS = (
    Way("url_download", url_download, again=True),
    Way("huggingface_download", huggingface_download, again=True, ours="huggingface_download"),
    Way("curl", curl, check="none"),
    Way("wget + sha256sum", wget, network_by_read=True),
    Way("aria2c", aria2c),
    Way("hf download", hf, check="size", again=True, ours="huggingface_download"),
    Way("get_url", get_url, again=True),
)


@dataclass(frozen=True)
class Cost:
    """What one run took, with all processes that it started."""

    seconds: float
    cpu: float
    memory: int
    # What the disk had to deliver: nothing, as long as the memory holds what was just written.
    disk: int
    # What was read from files, wherever it came from. A program that hashes the file after the download reads all of
    # it here; so does ours, but during the download.
    files: int


def spend(way: Way, job: Job, again: bool = False) -> Cost:
    """One run of a program. Raises BenchError when it fails or brings another file."""
    call = way.call(job)
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    kept = {name: value for name, value in kept.items() if not name.startswith("HF_")}
    arguments, log = job.folder / "arguments.json", job.folder / "log.txt"
    (job.folder / "tmp").mkdir(exist_ok=True)
    text = "" if call.module_arguments is None else json.dumps({"ANSIBLE_MODULE_ARGS": call.module_arguments})
    arguments.write_text(text, encoding="utf-8")
    with arguments.open(encoding="utf-8") as given, log.open("w", encoding="utf-8") as output:
        started = time.monotonic()
        process = subprocess.Popen(
            call.command, stdin=given, stdout=output, stderr=output, env={**kept, **call.environment}, cwd=job.folder
        )
        memory = Memory(process.pid)
        # It stays a zombie, so that it can still be asked what it has read.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        seconds = time.monotonic() - started
        read = dict(line.split(": ") for line in Path(f"/proc/{process.pid}/io").read_text("ascii").splitlines())
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    said = log.read_text(encoding="utf-8", errors="replace")
    if process.returncode or not job.target.is_file() or job.target.stat().st_size != job.size:
        print(said[-4000:], file=sys.stderr)
        raise BenchError(f"{way.name} has not brought the file: what it said stands above.")
    from_network = job.size if way.network_by_read and not again else 0
    return Cost(
        seconds=seconds,
        cpu=used.ru_utime + used.ru_stime,
        memory=memory.end(),
        disk=int(read["read_bytes"]),
        files=int(read["rchar"]) - from_network,
    )


class Memory:
    """The most memory that a process and its descendants had at once.

    Each process's own peak is what the kernel has noted, so that little is missed between two looks. The peak that
    wait4() tells would do for none of the small programs, because it begins with the memory of whoever started them.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._most = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(LOOK):
            self._most = max(self._most, sum(peak(pid) for pid in tree(self._pid)))

    def end(self) -> int:
        """Bytes."""
        self._ended.set()
        self._thread.join()
        return self._most


def tree(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    except OSError:
        return
    for child in children:
        yield from tree(int(child))


def peak(pid: int) -> int:
    """Bytes of memory that a process had at most; none of one that has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def look_for_programs(ways: list[Way]) -> None:
    """Raises BenchError."""
    missing = [way.program for way in ways if way.program in PACKAGES and not shutil.which(way.program)]
    if missing:
        names = " ".join(PACKAGES[program] for program in missing)
        raise BenchError(f"There is no {' and no '.join(missing)} here: apt-get install {names}.")
    needed = "import ansible.modules.get_url, requests"
    if subprocess.run([sys.executable, "-B", "-c", needed], check=False, capture_output=True).returncode:
        raise BenchError(f"{sys.executable} has no ansible-core or no requests: run it with a Python that has both.")


def install_hf(folder: Path, package: str) -> Path:
    """The program `hf`, in a virtual environment of its own."""
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package],
    ):
        done = subprocess.run(command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            print(done.stdout[-4000:], file=sys.stderr)
            raise BenchError(
                f"{package} cannot be installed, its output is above: name an hf that is there with --hf,"
                " or leave it out with --only."
            )
    return folder / "bin/hf"
