"""The command line: `python -m lab COMMAND [host ...]`."""

from __future__ import annotations

import argparse
import os

import lab

from . import HOSTS, SITE, Lab
from .machine import die, require_rights

COMMANDS = ["up", "stop", "cut", "snapshot", "restore", "destroy", "status"]


def main() -> None:
    summary = "\n".join(f"  {name:10} {getattr(Lab, name).__doc__.splitlines()[0]}" for name in COMMANDS)
    parser = argparse.ArgumentParser(
        prog="python -m lab",
        description=lab.__doc__,
        epilog=f"commands:\n{summary}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("hosts", nargs="*", metavar="host", help=f"default: $LAB_HOSTS, or {', '.join(SITE)}")
    parser.add_argument("--of", metavar="LAB", help="restore: take the snapshot of this lab; default: $LAB")
    arguments = parser.parse_args()
    if arguments.of and arguments.command != "restore":
        parser.error("--of belongs to restore")
    for host in arguments.hosts:
        if host not in HOSTS:
            die(f"there is no host {host!r}; there are {', '.join(HOSTS)}")
    if arguments.command != "status":
        require_rights()
    # `stop` leaves nothing running, and `status` leaves nothing out, whatever a scenario boots.
    every = arguments.command in ("stop", "status")
    hosts = arguments.hosts or (list(HOSTS) if every else os.environ.get("LAB_HOSTS", "").split() or SITE)
    getattr(Lab(), arguments.command)(hosts, **({"of": arguments.of} if arguments.of else {}))


if __name__ == "__main__":
    main()
