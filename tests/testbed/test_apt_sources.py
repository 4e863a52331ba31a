"""The machine's own mirror is found in every form in which Debian writes its sources."""

from __future__ import annotations

import pathlib

from debian_hosts import apt_sources
from debian_hosts.apt_sources import Mirror

DEB822 = """\
# A comment
Types: deb deb-src
URIs: http://ftp.example.org/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://security.example.org/debian-security
Suites: bookworm-security
Components: main
"""
ONE_LINE = """\
deb cdrom:[Debian GNU/Linux 12]/ bookworm main
# deb http://old.example.org/debian bookworm main
deb-src http://src.example.org/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] http://ftp.example.org/debian bookworm main non-free-firmware
deb http://security.example.org/debian-security bookworm-security main
"""
EXAMPLE = Mirror("http://ftp.example.org/debian", "http://security.example.org/debian-security")


def test_deb822() -> None:
    assert apt_sources.choose(apt_sources.parse_deb822(DEB822)) == EXAMPLE


def test_deb822_continued_lines_and_disabled_stanzas() -> None:
    text = "Enabled: no\n" + DEB822.replace("ftp.", "off.") + "\n" + DEB822.replace("URIs: ", "URIs:\n ")
    assert apt_sources.choose(apt_sources.parse_deb822(text)).archive == EXAMPLE.archive


def test_one_line_format_without_cdrom_comments_and_source_packages() -> None:
    assert apt_sources.choose(apt_sources.parse_list(ONE_LINE)) == EXAMPLE


def test_old_name_of_the_security_suite() -> None:
    entries = apt_sources.parse_list("deb http://security.example.org/debian-security buster/updates main\n")
    assert apt_sources.choose(entries).security == EXAMPLE.security


def test_third_parties_are_not_debian() -> None:
    text = "deb https://deb.example.org/tool bookworm main\ndeb https://example.org/linux/debian bookworm stable\n"
    assert apt_sources.choose(apt_sources.parse_list(text)) == Mirror(apt_sources.ARCHIVE, apt_sources.SECURITY)


def test_list_of_mirrors_in_a_file(tmp_path: pathlib.Path) -> None:
    mirrors = tmp_path / "mirrors"
    mirrors.mkdir()
    (mirrors / "debian.list").write_text("# best first\nhttps://ftp.example.org/debian\n", encoding="ascii")
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources").write_text(
        f"Types: deb\nURIs: mirror+file:{mirrors}/debian.list\nSuites: trixie\nComponents: main\n", encoding="ascii"
    )
    assert apt_sources.machine_mirror(tmp_path).archive == "https://ftp.example.org/debian"


def test_sources_of_another_release() -> None:
    assert apt_sources.sources("bullseye", EXAMPLE).splitlines() == [
        "deb http://ftp.example.org/debian bullseye main",
        "deb http://security.example.org/debian-security bullseye-security main",
        "deb http://ftp.example.org/debian bullseye-updates main",
    ]
