"""What the tests of the graphics cards share: files out of Debian's packages, for any release."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from debian_hosts import apt_sources

HOME_CACHE = pathlib.Path.home() / ".cache/secondhand.diffusion"
CACHE = pathlib.Path(os.environ.get("SECONDHAND_CACHE_DIR", HOME_CACHE)) / "gpu"
# Debian's point releases come every other month.
FRESH = 24 * 3600

APT_CONF = """\
Dir "{root}";
Dir::State "state";
Dir::State::status "{root}/state/status";
Dir::Cache "cache";
Acquire::GzipIndexes "true";
Dir::Etc "etc";
Dir::Etc::sourcelist "sources.list";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "3";
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::IndexTargets::deb::Contents-deb;
{settings}
"""


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """One at a time, in whatever process."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{name}.lock", "w", encoding="ascii") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def apt(root: pathlib.Path, *command: str, cwd: pathlib.Path | None = None) -> None:
    """Runs apt with this release's sources, and none of the machine's state."""
    done = subprocess.run(
        ["apt-get", "-q", *command],
        env={**os.environ, "APT_CONFIG": str(root / "apt.conf")},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, f"apt-get {' '.join(command)}: {done.stdout}{done.stderr}"


def ready(release: str) -> pathlib.Path:
    """A folder in which apt knows the packages of this release, signatures checked as on a host."""
    root = CACHE / "apt" / release
    stamp = root / "updated"
    # The archive alone: an index of security updates outlives its packages when a release goes out of support.
    sources = apt_sources.sources(release, apt_sources.machine_mirror(), signed_by=True).splitlines()[0]
    sources += " contrib non-free\n"
    config = APT_CONF.format(root=root, settings="\n".join(apt_sources.settings()))
    source_file, config_file = root / "etc/sources.list", root / "apt.conf"
    known = source_file.is_file() and source_file.read_text(encoding="utf-8") == sources
    known = known and config_file.is_file() and config_file.read_text(encoding="utf-8") == config
    if known and stamp.is_file() and time.time() - stamp.stat().st_mtime < FRESH:
        return root
    for folder in ("etc/apt.conf.d", "etc/preferences.d", "state/lists/partial", "cache/archives/partial"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "state/status").touch()
    source_file.write_text(sources, encoding="utf-8")
    config_file.write_text(config, encoding="utf-8")
    apt(root, "update", "--error-on=any")
    # A package that has a newer version now is fetched again.
    shutil.rmtree(root / "packages", ignore_errors=True)
    stamp.touch()
    return root


@pytest.fixture(scope="session")
def debian_package() -> Callable[[str, str], pathlib.Path]:
    """Gives the unpacked files of a package of bullseye, bookworm or trixie, from the mirror that this machine uses."""

    def unpacked(release: str, package: str) -> pathlib.Path:
        with locked(f"apt-{release}"):
            root = ready(release)
            folder = root / "packages" / package
            if not folder.is_dir():
                download = root / "download"
                shutil.rmtree(download, ignore_errors=True)
                download.mkdir()
                apt(root, "download", package, cwd=download)
                (archive,) = download.glob("*.deb")
                subprocess.run(["dpkg-deb", "--extract", archive, download / "files"], check=True, timeout=60)
                folder.parent.mkdir(exist_ok=True)
                (download / "files").rename(folder)
            return folder

    return unpacked
