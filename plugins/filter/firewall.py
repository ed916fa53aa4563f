"""Filters of the role firewall: its rules, and what a first load would cut off. Findings are as in preflight.py.

An open port is {port: 22 or "8000-8010", protocol: tcp, sources: [...]}; no sources means everybody, and a protocol
without ports has no port.
"""

from __future__ import annotations

import ipaddress
import re
import runpy
from pathlib import Path

from ansible.errors import AnsibleFilterError

# A plugin cannot import its neighbour by name.
PREFLIGHT = runpy.run_path(str(Path(__file__).with_name("preflight.py")))
finding, named, unique = (PREFLIGHT[name] for name in ("finding", "named", "unique"))

# Numbers that IANA assigned. A minimal host has no /etc/protocols.
WITH_PORTS = {"tcp": 6, "udp": 17, "dccp": 33, "sctp": 132, "udplite": 136}
WITHOUT_PORTS = {"igmp": 2, "ipip": 4, "ipv6": 41, "gre": 47, "esp": 50, "ah": 51, "ospf": 89, "pim": 103, "vrrp": 112}
WITHOUT_PORTS |= {"icmp": 1, "ipv6-icmp": 58, "l2tp": 115}
NAMES = {number: name for name, number in (WITH_PORTS | WITHOUT_PORTS).items()}
# The rules always admit replies of DHCP.
ALWAYS_OPEN = {("udp", 68), ("udp", 546)}
# Programs of the site listen there for their own host: logs of Celery worker and triggerer, MySQL's X protocol.
SITE_PORTS = ["8793", "8794", "33060"]
EXAMPLE = "[{port: 9100, sources: [192.0.2.0/24]}]"


class InputError(AnsibleFilterError):
    """A value that the firewall cannot use, and the remedy."""

    def __init__(self, what, remedy):
        super().__init__(f"{what} {remedy}")
        self.what, self.remedy = what, remedy


def port_range(value, variable="firewall_ports"):
    """Return the first and the last port of 22 or "8000-8010"."""
    match = re.fullmatch(r"(\d{1,5})(?:\s*-\s*(\d{1,5}))?", str(value).strip())
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last <= 65535:
        remedy = 'Write a number from 1 to 65535, or a range such as "8000-8010".'
        raise InputError(f"{variable} has the port '{value}'.", remedy)
    return first, last


def opening(item):
    """Return protocol, and first and last port, of an open port; both are None for a protocol without ports."""
    if not isinstance(item, dict):
        raise InputError(f"firewall_ports has '{item}'.", f"Write a list such as {EXAMPLE}.")
    variable, port = item.get("variable", "firewall_ports"), item.get("port")
    text = str(item.get("protocol") or "tcp").strip().lower()
    number = int(text) if text.isdecimal() else (WITH_PORTS | WITHOUT_PORTS).get(text)
    if number is None or number > 255:
        names = ", ".join([*WITH_PORTS, *WITHOUT_PORTS])
        remedy = f"Write the number of the protocol, from 0 to 255, or one of these names: {names}."
        raise InputError(f"{variable} has the protocol '{item['protocol']}'.", remedy)
    protocol = NAMES.get(number, str(number))
    if protocol not in WITH_PORTS:
        if port not in (None, ""):
            remedy = f"Remove the port: protocol {protocol} has no ports."
            raise InputError(f"{variable} has the port '{port}' of the protocol '{text}'.", remedy)
        return protocol, None, None
    if port in (None, ""):
        remedy = 'Add the port, such as `port: 9100`, or `port: "1-65535"` for all ports.'
        raise InputError(f"{variable} has the protocol '{text}' without a port.", remedy)
    return protocol, *port_range(port, variable)


def network(source, variable="firewall_ports"):
    """Return the network of a source, or None when the source is a name."""
    # sshd names a link-local address with its interface.
    text = re.sub(r"%[^/]*", "", str(source).strip())
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        if re.fullmatch(r"[A-Za-z0-9_.-]*[A-Za-z][A-Za-z0-9_.-]*", text):
            return None
    remedy = "Write an address, a network such as 192.0.2.0/24, or the name of a host."
    raise InputError(f"{variable} has the source '{source}'.", remedy)


def sources_of(item):
    """Return the sources of an open port, each with its network or None."""
    variable = item.get("variable", "firewall_ports")
    return [(str(source).strip(), network(source, variable)) for source in item.get("sources") or []]


def ssh_ports(connection, sources, port):
    """Return the open ports of SSH; address and port of this run's CONNECTION, which is SSH_CONNECTION, are added."""
    fields = connection.split()
    ports = unique([*fields[3:4], str(port)])
    sources = [*fields[:1], *sources]
    return [{"variable": "firewall_ssh_sources", "port": each, "sources": sources} for each in ports]


def firewall_names(ports):
    """Return the sources of open ports that are names, which have to be resolved."""
    return unique(name for item in ports for name, found in sources_of(item) if found is None)


def firewall_rules(ports, addresses=None):
    """Return nftables rules that accept what open ports say; ADDRESSES has the addresses of each name."""
    rules = []
    for item in ports:
        protocol, first, last = opening(item)
        match = f"meta l4proto {(WITH_PORTS | WITHOUT_PORTS).get(protocol, protocol)}"
        if first:
            match = f"{protocol} dport {first if first == last else f'{first}-{last}'}"
        networks = []
        for name, found in sources_of(item):
            networks += [found] if found else [network(address) for address in (addresses or {})[name]]
        if not networks:
            rules.append(f"{match} accept")
        for family, version in (("ip", 4), ("ip6", 6)):
            # Networks that contain each other would be a conflict in a set of nftables.
            kept = list(ipaddress.collapse_addresses(each for each in networks if each.version == version))
            if any(each.prefixlen == 0 for each in kept):
                rules.append(f"meta nfproto ipv{version} {match} accept")
            elif kept:
                rules.append(f"{family} saddr {{ {', '.join(map(text_of, kept))} }} {match} accept")
    return unique(rules)


def text_of(net):
    return str(net.network_address if net.prefixlen == net.max_prefixlen else net)


# Findings ---------------------------------------------------------------------------------------------------------


def firewall_findings(groups, hostvars):
    """Check the inputs of the role in an inventory: the sources of SSH are said, and all values can be used."""
    site, findings = PREFLIGHT["Site"](groups, hostvars), []
    try:
        hosts = [host for host in site.hosts if PREFLIGHT["boolean"](site.read(host, "firewall_enabled"))]
        for sources, same in site.by_value(hosts, "firewall_ssh_sources"):
            item = {"variable": "firewall_ssh_sources", "sources": listed(sources)}
            findings += problems(same, sources_of, item) if sources else [no_ssh_sources(same)]
        for port, same in site.by_value(hosts, "firewall_ssh_port"):
            findings += problems(same, port_range, port, "firewall_ssh_port")
        for ports, same in site.by_value(hosts, "firewall_ports"):
            for item in listed(ports):
                findings += problems(same, opening, item) or problems(same, sources_of, item)
        for accepted, same in site.by_value(hosts, "firewall_cut_listeners"):
            findings += problems(same, split_accepted, listed(accepted))
    except PREFLIGHT["UnreadableError"] as error:
        findings.append(error.finding)
    return findings


def listed(value):
    return value if isinstance(value, list) else [value]


def problems(hosts, check, *arguments):
    try:
        check(*arguments)
    except InputError as error:
        return [finding(hosts, error.what, error.remedy)]
    return []


def no_ssh_sources(hosts):
    return finding(
        hosts,
        "firewall_ssh_sources is empty: SSH would be admitted from the address of this run alone.",
        "List the networks from which operators connect, such as firewall_ssh_sources: [198.51.100.0/24]. "
        'For everybody, write firewall_ssh_sources: [0.0.0.0/0, "::/0"].',
    )


def listeners(text):
    """Yield protocol, port and programs of what other hosts can reach, from what `ss -H -tulpn` prints."""
    for line in text.splitlines():
        fields = line.split(None, 6)
        if len(fields) < 6 or not fields[4].rpartition(":")[2].isdecimal():
            continue
        address, _, port = fields[4].rpartition(":")
        address, _, interface = address.replace("[", "").replace("]", "").partition("%")
        if interface == "lo" or (address != "*" and is_loopback(address)):
            continue
        programs = unique(re.findall(r'\("([^"]*)",pid=', fields[6] if len(fields) > 6 else ""))
        # For some services, systemd has opened the socket.
        programs = [name for name in programs if name != "systemd"] or programs
        yield fields[0], int(port), programs or ["kernel"]


def is_loopback(address):
    parsed = ipaddress.ip_address(address)
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


def split_accepted(accepted):
    """Return the ranges of ports, and the names of programs, in firewall_cut_listeners."""
    texts = [str(each).strip() for each in accepted]
    ports = [text for text in texts if re.fullmatch(r"[\d -]+", text)]
    return [port_range(text, "firewall_cut_listeners") for text in ports], set(texts)


def cut_listeners(text, ports, accepted=()):
    """Return what listens and is neither in open PORTS nor ACCEPTED, by port or program: {protocol, port, program}."""
    opened = [opening(item) for item in ports]
    ranges, names = split_accepted([*accepted, *SITE_PORTS])
    found = {}
    for protocol, port, programs in listeners(text):
        is_open = (protocol, port) in ALWAYS_OPEN or any(
            protocol == name and first <= port <= last for name, first, last in opened if first
        )
        is_accepted = any(first <= port <= last for first, last in ranges) or not names.isdisjoint(programs)
        if not is_open and not is_accepted:
            # One line for IPv4 and one for IPv6 mean one program.
            found.setdefault((protocol, port), []).extend(programs)
    return [
        {"protocol": protocol, "port": port, "program": ", ".join(unique(programs))}
        for (protocol, port), programs in sorted(found.items())
    ]


def listening_findings(text, host, ports, accepted=()):
    """List what the first load of the rules would cut off on a host; TEXT is what `ss -H -tulpn` printed."""
    try:
        cut = cut_listeners(text, ports, accepted)
    except InputError as error:
        return [finding(host, error.what, error.remedy)]
    if not cut:
        return []
    each = named(f"{item['protocol']} {item['port']} ({item['program']})" for item in cut)
    numbers = named(str(port) for port in unique(item["port"] for item in cut))
    return [
        finding(
            host,
            f"The firewall of {host} is about to be loaded for the first time, and would cut off what listens: {each}.",
            f"Add to firewall_ports what other hosts have to reach, such as {EXAMPLE}. List the rest, by port or by "
            f"program, in firewall_cut_listeners: [{numbers}].",
        )
    ]


class FilterModule:
    def filters(self):
        return {
            function.__name__: function
            for function in (firewall_findings, firewall_names, firewall_rules, listening_findings, ssh_ports)
        }
