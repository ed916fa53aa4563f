"""The rules of the role firewall, on this machine's kernel: that of the lab has no nftables for IP.

Three network namespaces: a host with the rules, its controller, and a stranger.
"""

import json
import os
import subprocess

import pytest

from lab import ROOT

SUDO = [] if os.geteuid() == 0 else ["sudo"]
HOST, CONTROLLER, STRANGER = "10.113.255.1", "10.113.255.2", "10.113.255.3"
PORTS = [22, 443, 2049, 3306, 8080]
# Listens on every port, and prints one line when it does.
LISTEN = f"""
import socket, time
sockets = [socket.create_server(("{HOST}", port)) for port in {PORTS}]
print("ready", flush=True)
time.sleep(600)
"""
# Tries every port: which opened, and how long it took to know.
TRY = f"""
import json, socket, time
begin, opened = time.monotonic(), []
for port in {PORTS}:
    with socket.socket() as client:
        client.settimeout(5)
        if client.connect_ex(("{HOST}", port)) == 0:
            opened.append(port)
print(json.dumps([opened, time.monotonic() - begin]))
"""


def run(*command):
    return subprocess.run([*SUDO, *command], check=True, capture_output=True, text=True).stdout  # noqa: S603


@pytest.fixture(scope="module")
def names():
    """Three namespaces on one bridge, which is in the first."""
    host, controller, stranger = names = [f"airflow-fw-{os.getpid()}-{number}" for number in range(3)]
    for name in names:
        run("ip", "netns", "add", name)
    run("ip", "-n", host, "link", "add", "bridge", "type", "bridge")
    run("ip", "-n", host, "address", "add", f"{HOST}/24", "dev", "bridge")
    run("ip", "-n", host, "link", "set", "bridge", "up")
    run("ip", "-n", host, "link", "set", "lo", "up")
    for number, (name, address) in enumerate([(controller, CONTROLLER), (stranger, STRANGER)]):
        run("ip", "-n", host, "link", "add", f"to{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "-n", host, "link", "set", f"to{number}", "master", "bridge", "up")
        run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", name, "link", "set", "eth0", "up")
    listener = subprocess.Popen(  # noqa: S603
        [*SUDO, "ip", "netns", "exec", host, "python3", "-c", LISTEN], stdout=subprocess.PIPE, text=True
    )
    assert listener.stdout.readline() == "ready\n"
    yield names
    if SUDO:
        run("kill", str(listener.pid))
    listener.kill()
    listener.wait()
    for name in names:
        run("ip", "netns", "delete", name)


def rules(path, **variables):
    """Write what the role would, for a host that Ansible reaches from CONTROLLER."""
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars": {
            "firewall_ssh_port": 22,
            "firewall_ssh_sources": [],
            "firewall_ports": [],
            "firewall_site_ports": [],
            "__firewall_connection": {"stdout": f"{CONTROLLER} 40000 {HOST} 22"},
            "__firewall_addresses": {"results": []},
            **variables,
        },
        "tasks": [
            {"ansible.builtin.include_vars": str(ROOT / "roles/firewall/vars/main.yml")},
            {
                "ansible.builtin.template": {
                    "src": str(ROOT / "roles/firewall/templates/airflow.nft.j2"),
                    "dest": str(path),
                }
            },
        ],
    }
    playbook = path.with_suffix(".json")
    playbook.write_text(json.dumps([play]))
    command = ["ansible-playbook", "--inventory", "localhost,", "--connection", "local", str(playbook)]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603
    return path


def load(namespace, file):
    """As on a small host, which has no /etc/protocols."""
    hide = "[ ! -e /etc/protocols ] || mount --bind /dev/null /etc/protocols"
    run("unshare", "--mount", "sh", "-c", f"{hide}; exec ip netns exec {namespace} nft --file {file}")


def opened(namespace):
    ports, seconds = json.loads(run("ip", "netns", "exec", namespace, "python3", "-c", TRY))
    assert seconds < 2, "what is refused is dropped"
    return ports


@pytest.mark.parametrize(
    ("variables", "controller", "stranger"),
    [
        ({}, [22], []),
        ({"firewall_site_ports": [{"port": 443}]}, [22, 443], [443]),
        ({"firewall_site_ports": [{"port": 3306, "sources": [STRANGER, "fd00::/8"]}]}, [22], [3306]),
        (
            {"firewall_ssh_sources": ["10.113.255.0/24"], "firewall_ports": [{"port": 8080, "sources": []}]},
            [22, 8080],
            [22, 8080],
        ),
        (
            {
                "firewall_site_ports": [{"port": 2049, "sources": ["a-name"]}],
                "__firewall_addresses": {"results": [{"ansible_facts": {"getent_ahosts": {STRANGER: []}}}]},
            },
            [22],
            [2049],
        ),
        # The range has 3306, and 2049 is open over UDP alone. Sources may contain each other.
        ({"firewall_ports": [{"port": "3000-4000"}, {"port": 2049, "protocol": "udp"}]}, [22, 3306], [3306]),
        ({"firewall_ssh_sources": ["10.113.255.0/24", STRANGER, "0.0.0.0/0", "::/0"]}, [22], [22]),
    ],
)
def test_what_the_rules_admit(names, tmp_path, variables, controller, stranger):
    load(names[0], rules(tmp_path / "airflow.nft", **variables))
    assert opened(names[1]) == controller
    assert opened(names[2]) == stranger
    # The host itself, and what goes out.
    assert opened(names[0]) == PORTS


def test_rules_of_other_protocols_and_of_ipv6_load(names, tmp_path):
    """Also from what nft lists: with that, a load is undone."""
    host, addresses = names[0], ["192.0.2.0/24", "192.0.2.7", "2001:db8::/32"]
    protocols = [{"protocol": "gre", "sources": addresses}, {"protocol": "47"}, {"protocol": 50}]
    ports = [{"protocol": "sctp", "port": "5000-5010", "sources": addresses}, {"protocol": "17", "port": 51820}]
    load(host, rules(tmp_path / "airflow.nft", firewall_ports=protocols + ports))
    listed = run("ip", "netns", "exec", host, "nft", "--numeric", "list", "table", "inet", "airflow")
    for rule in (
        "ip saddr 192.0.2.0/24 meta l4proto 47 accept",
        "ip6 saddr 2001:db8::/32 meta l4proto 47 accept",
        "ip saddr 192.0.2.0/24 sctp dport 5000-5010 accept",
        "udp dport 51820 accept",
        "meta l4proto 50 accept",
    ):
        assert rule in listed.replace("{ ", "").replace(" }", ""), listed
    saved = tmp_path / "saved.nft"
    saved.write_text(f"table inet airflow\ndelete table inet airflow\n{listed}")
    load(host, saved)
    assert run("ip", "netns", "exec", host, "nft", "--numeric", "list", "table", "inet", "airflow") == listed


def test_other_tables_are_left_alone(names, tmp_path):
    """And loading twice is loading once."""
    host = names[0]
    run("ip", "netns", "exec", host, "nft", "add table inet yours")
    file = rules(tmp_path / "airflow.nft")
    for _ in range(2):
        load(host, file)
    assert "table inet yours" in run("ip", "netns", "exec", host, "nft", "list tables")
    assert run("ip", "netns", "exec", host, "nft", "list table inet airflow").count("tcp dport 22") == 1
