#!/usr/bin/python3
"""Stands in for nft on a kernel without nftables: tc drops new SSH connections that the table inet airflow refuses.

As with the real rules, connections that exist go on. Sources in IGNORED are refused, whatever the table says.
"""

import re
import subprocess
import sys
from pathlib import Path

DEVICE = "vec0"
# Gone after a reboot, as tables are.
TABLE, IGNORED = Path("/run/nft-stand-in.table"), Path("/run/nft-stand-in.ignored")
SSH = re.compile(r"\s*(?:meta nfproto ipv4 |ip saddr \{ (?P<sources>.*) \} )?tcp dport 22 accept")


def tc(what, action, *arguments):
    subprocess.run(["tc", what, action, "dev", DEVICE, "ingress", *arguments], check=True)  # noqa: S603, S607


def drop_table():
    if TABLE.exists():
        tc("qdisc", "delete")
        TABLE.unlink()


def load(text):
    """Replace the table. A text that only deletes the table, which is how a first load is undone, has no chain."""
    drop_table()
    table = text.rpartition("delete table inet airflow\n")[2]
    if "chain input" not in table:
        return
    ignored = IGNORED.read_text().split() if IGNORED.exists() else []
    tc("qdisc", "add")
    TABLE.write_text(table)
    ssh = ["flower", "ip_proto", "tcp", "dst_port", "22"]
    for match in filter(None, map(SSH.fullmatch, table.splitlines())):
        for source in (match["sources"] or "0.0.0.0/0").split(", "):
            if source not in ignored:
                tc("filter", "add", "protocol", "ip", "pref", "1", *ssh, "src_ip", source, "action", "pass")
    # The first packet of a connection has SYN without ACK.
    tc("filter", "add", "protocol", "ip", "pref", "2", *ssh, "tcp_flags", "0x02/0x12", "action", "drop")


def main(*arguments):
    match [argument for argument in arguments if argument != "--numeric"]:
        case ["--check", "--file", _]:
            # The real program asks the kernel, too.
            return 0
        case ["--file", path]:
            load(Path(path).read_text())
            return 0
        case ["list", "table", "inet", "airflow"] if TABLE.exists():
            print(TABLE.read_text(), end="")
            return 0
        case ["delete", "table", "inet", "airflow"] if TABLE.exists():
            drop_table()
            return 0
        case ["flush", "ruleset"]:
            drop_table()
            return 0
    print("Error: No such file or directory", file=sys.stderr)
    return 1


sys.exit(main(*sys.argv[1:]))
