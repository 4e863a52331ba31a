"""The command line of the virtual machines."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from debian_hosts import machine
from debian_hosts.common import TestbedError

from . import images, machines, supervisor


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(prog="vm", description="Debian virtual machines for tests, reached over SSH.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    command("image", "Make the disk that machines start from, where it is not there yet.")
    command("create", "Make a machine, or start it, and wait until it is up.").add_argument("name")
    command("inventory", "Print an INI inventory for ansible -i.").add_argument("names", nargs="+", metavar="NAME")
    command("destroy", "Remove machines.").add_argument("names", nargs="+", metavar="NAME")
    command("list", "List the machines.")
    execute = command("exec", "Run a shell command in a machine as root.")
    execute.add_argument("name")
    execute.add_argument("script", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    command("supervise", "What `create` leaves running behind a machine.").add_argument("name")
    return top


def dispatch(options: argparse.Namespace) -> int:
    """Carry out one command."""
    machine.require_root()
    if options.command == "image":
        print(images.ensure())
    elif options.command == "create":
        machines.create(options.name)
    elif options.command == "inventory":
        sys.stdout.write(machines.inventory(options.names))
    elif options.command == "destroy":
        for name in options.names:
            machines.destroy(name)
    elif options.command == "list":
        sys.stdout.write(machines.table())
    elif options.command == "supervise":
        supervisor.supervise(machines.folder_of(options.name), machines.port_of(options.name))
    elif options.command == "exec":
        return machines.execute(options.name, options.script[options.script[:1] == ["--"] :])
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 with one sentence on stderr, or the status of the command of `exec`."""
    try:
        return dispatch(parser().parse_args(arguments))
    except TestbedError as error:
        print(f"vm: {error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
