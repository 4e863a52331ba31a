"""The command line of the test bed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from . import hosts, machine
from .common import FLAVOURS, RELEASES, TestbedError


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(prog="testbed", description="Debian hosts for tests, reached over SSH.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    command("setup", "Install the Debian packages the test bed needs.")
    create = command("create", "Make a host, or start it, and print how to reach it as JSON.")
    create.add_argument("name")
    create.add_argument("--release", choices=RELEASES)
    create.add_argument("--flavour", choices=FLAVOURS)
    create.add_argument("--image", help="start from the state kept by `commit`")
    create.add_argument("--mount", action="append", default=[], metavar="SOURCE:PATH[:ro]")
    create.add_argument("--tmpfs", action="append", default=[], metavar="PATH:SIZE")
    create.add_argument("--publish", action="append", default=[], metavar="HOSTPORT:PORT")
    inventory = command("inventory", "Print an INI inventory for ansible -i.")
    inventory.add_argument("names", nargs="+", metavar="NAME")
    for name, text in (
        ("wait", "Wait until a host has started and answers on SSH."),
        ("restart", "Restart a host as a reboot does."),
    ):
        command(name, text).add_argument("name")
    destroy = command("destroy", "Remove hosts.")
    destroy.add_argument("names", nargs="*", metavar="NAME")
    destroy.add_argument("--all", action="store_true", help="all hosts of this cache directory")
    command("list", "List the hosts.")
    execute = command("exec", "Run a command in a host as root, not over SSH.")
    execute.add_argument("name")
    execute.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    commit = command("commit", "Keep the state of a host as an image for `create --image`.")
    commit.add_argument("name")
    commit.add_argument("image")
    return top


def dispatch(options: argparse.Namespace) -> int:
    """Carry out one command."""
    machine.require_root()
    if options.command == "setup":
        machine.setup()
        return 0
    machine.require_packages()
    if options.command == "create":
        asked = [options.release, options.flavour, options.image, options.mount, options.tmpfs, options.publish]
        settings = hosts.settle(*asked) if any(asked) else None
        print(json.dumps(hosts.create(options.name, settings)))
    elif options.command == "inventory":
        sys.stdout.write(hosts.inventory(options.names))
    elif options.command == "wait":
        hosts.wait(options.name)
    elif options.command == "restart":
        hosts.restart(options.name)
    elif options.command == "destroy":
        if not options.names and not options.all:
            raise TestbedError("destroy needs the names of hosts, or --all")
        for name in options.names or hosts.names():
            hosts.destroy(name)
    elif options.command == "list":
        sys.stdout.write(hosts.table())
    elif options.command == "commit":
        print(hosts.commit(options.name, options.image))
    elif options.command == "exec":
        argv = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
        if not argv:
            raise TestbedError("exec needs a command, as in `testbed exec NAME -- systemctl status`")
        return hosts.execute(options.name, argv)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 with one sentence on stderr, or the status of the command of `exec`."""
    try:
        return dispatch(parser().parse_args(arguments))
    except TestbedError as error:
        print(f"testbed: {error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
