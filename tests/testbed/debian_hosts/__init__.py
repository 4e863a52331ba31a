"""Debian hosts for tests, as systemd containers reached over SSH."""
