"""The Debian mirror this machine is configured with, turned into the sources of a wanted release."""

from __future__ import annotations

import pathlib
import re
import shlex
import urllib.parse
from typing import NamedTuple

from .common import attempt

ARCHIVE = "http://deb.debian.org/debian"
SECURITY = "http://deb.debian.org/debian-security"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SUITES = {
    "stretch", "buster", "bullseye", "bookworm", "trixie", "forky", "duke", "sid",
    "oldoldstable", "oldstable", "stable", "testing", "unstable",
}  # fmt: skip


class Mirror(NamedTuple):
    """Base addresses of the Debian archive and of its security updates."""

    archive: str
    security: str


class Entry(NamedTuple):
    """One address with one suite, as both formats of apt sources can say it."""

    uri: str
    suite: str
    components: list[str]


def parse_list(text: str) -> list[Entry]:
    """Read the one-line format: deb [options] uri suite component..."""
    entries = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[[^\]]*\]\s*)?(\S+)\s+(\S+)\s+([^#]+)", line)
        if match:
            entries.append(Entry(match.group(1), match.group(2), match.group(3).split()))
    return entries


def parse_deb822(text: str) -> list[Entry]:
    """Read the deb822 format: stanzas of Types, URIs, Suites and Components."""
    entries = []
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1].isspace():
                fields[name] = f"{fields.get(name, '')} {line.strip()}"
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                entries.append(Entry(uri, suite, fields.get("components", "").split()))
    return entries


def usable(uri: str) -> str | None:
    """The address as a test host can use it, or None: it has neither this machine's files nor its CD drive."""
    if uri.startswith("mirror+file:"):
        # Debian's cloud images keep their mirrors in a file, one a line, best first.
        try:
            lines = pathlib.Path(uri[len("mirror+file:") :]).read_text(encoding="utf-8").splitlines()
        except OSError:
            return None
        uri = next((line.split()[0] for line in lines if line.strip() and not line.startswith("#")), "")
    parts = urllib.parse.urlsplit(uri)
    # Third parties name their suites after Debian's releases too; Debian's own archives have its name in the path.
    if parts.scheme in ("http", "https") and "debian" in parts.path:
        return uri.rstrip("/")
    return None


def choose(entries: list[Entry]) -> Mirror:
    """Pick the archive and the security archive out of all sources."""
    archive = security = ""
    for entry in entries:
        uri = usable(entry.uri)
        if uri is None or "main" not in entry.components:
            continue
        if entry.suite.endswith("-security") or entry.suite.endswith("/updates"):
            security = security or uri
        elif entry.suite in SUITES:
            archive = archive or uri
    return Mirror(archive or ARCHIVE, security or SECURITY)


def machine_mirror(etc: pathlib.Path = pathlib.Path("/etc/apt")) -> Mirror:
    """Read every source file of this machine."""
    entries: list[Entry] = []
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        if path.is_file() and path.suffix in (".list", ".sources"):
            text = path.read_text(encoding="utf-8", errors="replace")
            entries += parse_list(text) if path.suffix == ".list" else parse_deb822(text)
    return choose(entries)


def sources(release: str, mirror: Mirror, signed_by: bool = False) -> str:
    """Sources of a release, as the Debian installer writes them without non-free firmware."""
    option = f"[signed-by={KEYRING}] " if signed_by else ""
    lines = [
        f"deb {option}{mirror.archive} {release} main",
        f"deb {option}{mirror.security} {release}-security main",
        f"deb {option}{mirror.archive} {release}-updates main",
    ]
    return "\n".join(lines) + "\n"


def settings() -> list[str]:
    """Settings of apt without which this machine's mirror cannot be used: its proxies and stale-mirror switches."""
    dump = attempt(["apt-config", "dump"]).stdout
    wanted = re.compile(r"Acquire::(https?::Proxy(::\S+)?|Check-Valid-Until) ", re.IGNORECASE)
    found = []
    for line in dump.splitlines():
        if wanted.match(line) and not line.endswith('"";'):
            name, value = shlex.split(line.rstrip(";"))
            found.append(f'{name} "{value}";')
    return found
