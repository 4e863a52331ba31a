"""Debian virtual machines for tests: a kernel of their own, real reboots."""
