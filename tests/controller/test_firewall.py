"""plugins/filter/firewall.py: rules, what a first load would cut off, and findings about the firewall's inputs."""

import runpy

import pytest

from docs.variables import ROOT

PLUGIN = runpy.run_path(str(ROOT / "plugins/filter/firewall.py"))
InputError, rules_of, names_of = PLUGIN["InputError"], PLUGIN["firewall_rules"], PLUGIN["firewall_names"]
ssh_ports, listening_findings = PLUGIN["ssh_ports"], PLUGIN["listening_findings"]


@pytest.mark.parametrize(
    ("port", "rules"),
    [
        ({"port": 443}, ["tcp dport 443 accept"]),
        ({"port": "443", "protocol": "6"}, ["tcp dport 443 accept"]),
        ({"port": "8000-8010", "protocol": "udp"}, ["udp dport 8000-8010 accept"]),
        ({"port": 5000, "protocol": "SCTP"}, ["sctp dport 5000 accept"]),
        ({"protocol": "gre"}, ["meta l4proto 47 accept"]),
        ({"protocol": 47, "port": ""}, ["meta l4proto 47 accept"]),
        ({"protocol": "200"}, ["meta l4proto 200 accept"]),
        ({"port": 22, "sources": ["192.0.2.7"]}, ["ip saddr { 192.0.2.7 } tcp dport 22 accept"]),
        # One source is in another, one has bits behind its prefix.
        (
            {"port": 22, "sources": ["192.0.2.7", "192.0.2.0/24", "198.51.100.9/25"]},
            ["ip saddr { 192.0.2.0/24, 198.51.100.0/25 } tcp dport 22 accept"],
        ),
        (
            {"protocol": "gre", "sources": ["2001:db8::/32", "192.0.2.7", "fe80::1%eth0"]},
            [
                "ip saddr { 192.0.2.7 } meta l4proto 47 accept",
                "ip6 saddr { 2001:db8::/32, fe80::1 } meta l4proto 47 accept",
            ],
        ),
        (
            {"port": 22, "sources": ["0.0.0.0/0", "::/0", "192.0.2.7"]},
            ["meta nfproto ipv4 tcp dport 22 accept", "meta nfproto ipv6 tcp dport 22 accept"],
        ),
        ({"port": 22, "sources": ["db1"]}, ["ip saddr { 192.0.2.8 } tcp dport 22 accept"]),
    ],
)
def test_rules(port, rules):
    assert rules_of([port], {"db1": ["192.0.2.8"]}) == rules


@pytest.mark.parametrize(
    ("port", "says"),
    [
        ({"port": 0}, "firewall_ports has the port '0'. Write a number from 1 to 65535"),
        ({"port": 65536}, "port '65536'"),
        ({"port": "8010-8000"}, "port '8010-8000'"),
        ({"port": "http"}, "port 'http'"),
        ({"port": "80,443"}, "port '80,443'"),
        ({"port": 80, "protocol": "tpc"}, "protocol 'tpc'. Write the number of the protocol"),
        ({"protocol": "256"}, "protocol '256'"),
        ({"protocol": "gre", "port": 80}, "port '80' of the protocol 'gre'. Remove the port"),
        ({"protocol": "udp"}, "protocol 'udp' without a port. Add the port"),
        ({}, "protocol 'tcp' without a port"),
        ({"port": 80, "sources": ["192.0.2.0/33"]}, "source '192.0.2.0/33'. Write an address, a network"),
        ({"port": 80, "sources": ["192.0.2.300"]}, "source '192.0.2.300'"),
        ({"port": 80, "sources": ["a b"]}, "source 'a b'"),
        (80, "firewall_ports has '80'. Write a list such as [{port: 9100"),
    ],
)
def test_a_value_that_the_firewall_cannot_use_is_named(port, says):
    with pytest.raises(InputError) as error:
        rules_of([port])
    assert says in str(error.value)


def test_names_are_told_from_addresses():
    sources = ["db1", "192.0.2.0/24", "fd00::1", "db-2.example.com", "1.example"]
    assert names_of([{"port": 1, "sources": sources}, {"port": 2, "sources": ["db1"]}, {"port": 3}]) == [
        "db1",
        "db-2.example.com",
        "1.example",
    ]


def test_the_address_and_the_port_of_the_run_are_admitted():
    ports = ssh_ports("192.0.2.9 40000 192.0.2.1 2222", ["198.51.100.0/24"], 22)
    assert [(port["port"], port["sources"]) for port in ports] == [
        ("2222", ["192.0.2.9", "198.51.100.0/24"]),
        ("22", ["192.0.2.9", "198.51.100.0/24"]),
    ]
    assert rules_of(ssh_ports("198.51.100.7 40000 192.0.2.1 22", ["198.51.100.0/24"], 22)) == [
        "ip saddr { 198.51.100.0/24 } tcp dport 22 accept"
    ], "rules differ from one operator to the next"
    # Of a local connection.
    assert rules_of(ssh_ports("", ["198.51.100.0/24"], 22)) == ["ip saddr { 198.51.100.0/24 } tcp dport 22 accept"]


LISTENING = """\
udp   UNCONN 0 0 0.0.0.0:68  0.0.0.0:*    users:(("dhclient",pid=1,fd=7))
udp   UNCONN 0 0 127.0.0.1:323  0.0.0.0:*    users:(("chronyd",pid=2,fd=5))
udp   UNCONN 0 0 127.0.0.53%lo:53  0.0.0.0:*    users:(("systemd-resolve",pid=3,fd=13))
udp   UNCONN 0 0 0.0.0.0:51820     0.0.0.0:*
udp   UNCONN 0 0 0.0.0.0:111  0.0.0.0:*    users:(("rpcbind",pid=9,fd=5),("systemd",pid=1,fd=86))
udp   UNCONN 0 0 [::]:111  [::]:*    users:(("rpcbind",pid=9,fd=7),("systemd",pid=1,fd=88))
udp   UNCONN 0 0 [fe80::5054:ff:fe12:34]%ens3:546 [::]:*    users:(("systemd-network",pid=4,fd=18))
tcp   LISTEN 0 128 0.0.0.0:22  0.0.0.0:*    users:(("sshd",pid=5,fd=3))
tcp   LISTEN 0 128 [::]:22  [::]:*    users:(("sshd",pid=5,fd=4))
tcp   LISTEN 0 100 [::1]:25  [::]:*    users:(("master",pid=6,fd=14))
tcp   LISTEN 0 100 [::ffff:127.0.0.1]:8081  *:*    users:(("java",pid=6,fd=15))
tcp   LISTEN 0 4096 *:9100  *:*    users:(("node_exporter",pid=7,fd=3))
tcp   LISTEN 0 511 192.0.2.1:8005  0.0.0.0:*    users:(("nginx",pid=8,fd=6),("nginx",pid=10,fd=6))
tcp   LISTEN 0 511 *:8793  *:*    users:(("gunicorn",pid=8,fd=6))
"""
OPEN = [{"port": 22}, {"port": "8000-8010"}, {"protocol": "gre"}]


def test_what_a_first_load_would_cut_off_is_listed():
    [found] = listening_findings(LISTENING, "edge1", OPEN)
    assert found["host"] == "edge1"
    assert found["what"].endswith(
        "would cut off what listens: tcp 9100 (node_exporter), udp 111 (rpcbind), udp 51820 (kernel)."
    )
    assert "firewall_cut_listeners: [9100, 111, 51820]" in found["remedy"]


@pytest.mark.parametrize(
    ("ports", "accepted", "says"),
    [
        ([{"port": 9100}, {"port": 51820, "protocol": "udp"}, {"port": 111, "protocol": "udp"}], [], None),
        ([], ["rpcbind", 9100, "51000-52000"], None),
        ([], ["1-65535"], None),
        # Over the other protocol.
        ([{"port": 9100, "protocol": "udp"}], ["rpcbind", "kernel"], "tcp 9100 (node_exporter)."),
        ([{"port": 8006}], ["rpcbind", "kernel", "node_exporter", "0"], "firewall_cut_listeners has the port '0'."),
    ],
)
def test_what_is_open_or_may_be_cut_off_is_not_listed(ports, accepted, says):
    found = listening_findings(LISTENING, "edge1", OPEN + ports, accepted)
    assert [item["what"].endswith(says) for item in found] == ([True] if says else [])


GROUPS = {"airflow_main": ["main1"], "airflow_edge": ["edge1", "edge2"]}


def inventory(common=None, **hosts):
    hostvars = {
        host: {"firewall_ssh_sources": ["198.51.100.0/24"]} | (common or {}) | hosts.get(host, {})
        for host in ("main1", "edge1", "edge2")
    }
    return PLUGIN["firewall_findings"](GROUPS, hostvars)


def test_the_sources_of_ssh_have_to_be_said():
    assert inventory() == []
    [found] = inventory({"firewall_ssh_sources": []})
    assert found["host"] == "main1 and 2 more"
    assert found["what"].startswith("firewall_ssh_sources is empty")
    assert 'firewall_ssh_sources: [0.0.0.0/0, "::/0"]' in found["remedy"]
    # Not set at all, by a host.
    [found] = PLUGIN["firewall_findings"]({"airflow_main": ["main1"]}, {"main1": {}})
    assert found["what"].startswith("firewall_ssh_sources is empty")


def test_without_the_firewall_nothing_has_to_be_said():
    assert inventory({"firewall_ssh_sources": [], "firewall_enabled": False}) == []
    [found] = inventory({"firewall_ssh_sources": []}, main1={"firewall_enabled": "false"})
    assert found["host"] == "edge1 and 1 more"


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"firewall_ssh_sources": ["192.0.2.0/33"]}, "firewall_ssh_sources has the source '192.0.2.0/33'."),
        ({"firewall_ssh_port": 70000}, "firewall_ssh_port has the port '70000'."),
        ({"firewall_ports": [{"port": "80-"}]}, "firewall_ports has the port '80-'."),
        ({"firewall_ports": [{"port": 80, "sources": ["1.2.3"]}]}, "firewall_ports has the source '1.2.3'."),
        ({"firewall_ports": 80}, "firewall_ports has '80'."),
        ({"firewall_cut_listeners": ["9100-1"]}, "firewall_cut_listeners has the port '9100-1'."),
    ],
)
def test_inputs_that_cannot_be_used(variables, says):
    [found] = inventory(edge2=variables)
    assert (found["host"], found["what"]) == ("edge2", says)
    assert found["remedy"]
