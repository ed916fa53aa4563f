"""The network of a lab: a namespace with a bridge, which a veth pair connects to this machine."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path

from .machine import ROOT, die, restore_sysctls, run, set_sysctls


class Network:
    """A /24 for each lab; .1 is this machine, which routes and masquerades for the hosts."""

    def __init__(self, lab: str) -> None:
        self.lab = lab
        number = {"demo": 0, "test": 1}.get(lab, 2 + zlib.crc32(lab.encode()) % 250)
        self.prefix = f"10.113.{number}"
        # The namespace and the nftables table have the same name.
        self.namespace = f"airflow-{lab}"
        # The lab's number, not its name: an interface name has 15 bytes at most.
        self.veth = f"aflab{number}"
        # Names the checkout to which the network belongs.
        self.owner = Path(f"/run/{self.namespace}.owner")

    def address(self, number: int) -> str:
        return f"{self.prefix}.{number}"

    def mac(self, number: int) -> str:
        """Return a hardware address that stays the same: other hosts remember the old one for most of a minute."""
        return ":".join(["02", "00", *(f"{int(byte):02x}" for byte in self.address(number).split("."))])

    def is_up(self) -> bool:
        return Path(f"/run/netns/{self.namespace}").exists()

    def make(self, taps: Iterable[str]) -> None:
        """Make the namespace with a tap for each host, unless it exists."""
        if self.is_up():
            owner = self.owner.read_text().strip() if self.owner.exists() else "an unknown checkout"
            if owner != str(ROOT):
                die(
                    f"lab {self.lab!r} already belongs to {owner}: "
                    "`make clean` there, or choose another name with LAB=NAME"
                )
        else:
            self._add(taps)
        set_sysctls()

    def _add(self, taps: Iterable[str]) -> None:
        if Path("/sys/class/net", self.veth).exists():
            die(
                f"the network {self.prefix}.0/24 of lab {self.lab!r} is that of another lab: "
                "choose another name with LAB=NAME"
            )
        self.owner.write_text(f"{ROOT}\n")
        run("ip", "netns", "add", self.namespace)
        run("ip", "link", "add", self.veth, "type", "veth", "peer", "name", "uplink", "netns", self.namespace)
        run("ip", "address", "add", f"{self.address(1)}/24", "dev", self.veth)
        run("ip", "link", "set", self.veth, "up")
        inside = ("ip", "-n", self.namespace)
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "link", "add", "bridge", "type", "bridge")
        for link in ("uplink", "bridge"):
            run(*inside, "link", "set", link, "up")
        run(*inside, "link", "set", "uplink", "master", "bridge")
        for tap in taps:
            run(*inside, "tuntap", "add", tap, "mode", "tap")
            run(*inside, "link", "set", tap, "master", "bridge")
            run(*inside, "link", "set", tap, "up")
        rules = f"""
            table ip {self.namespace} {{
                chain postrouting {{
                    type nat hook postrouting priority srcnat;
                    ip saddr {self.prefix}.0/24 ip daddr != {self.prefix}.0/24 masquerade
                }}
            }}
        """
        run("nft", "-f", "-", input=rules)

    def remove(self) -> None:
        """Remove the namespace and the rules, if they belong to this checkout."""
        if not self.is_up() or not self.owner.exists() or self.owner.read_text().strip() != str(ROOT):
            return
        run("nft", "delete", "table", "ip", self.namespace, check=False)
        run("ip", "link", "delete", self.veth, check=False)
        run("ip", "netns", "delete", self.namespace)
        self.owner.unlink()
        if not list(Path("/run").glob("airflow-*.owner")):
            restore_sysctls()
