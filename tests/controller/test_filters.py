"""plugins/filter/site.py: what the playbooks shape in Python."""

import hashlib
import importlib.util
import json
from urllib.parse import unquote, urlsplit

import pytest

from lab import ROOT


@pytest.fixture(scope="module")
def site():
    spec = importlib.util.spec_from_file_location("site_filters", ROOT / "plugins/filter/site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found(path, content, **changes):
    checksum = hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()
    return {"path": path, "mode": "0644", "uid": 0, "gid": 0, "checksum": checksum} | changes


@pytest.mark.parametrize(
    "there",
    [
        [],
        [found("/a", "other")],
        [found("/a", "text", mode="0666")],
        [found("/a", "text", uid=1000)],
        [found("/a", "text", gid=1000)],
        [found("/b", "text")],
    ],
)
def test_a_file_that_differs_is_written(site, there):
    assert site.differing_files([{"path": "/a", "content": "text"}], there) == [
        {"path": "/a", "content": "text", "mode": "0644", "gid": 0}
    ]


def test_a_file_that_is_as_it_should_be_is_not_written(site):
    wanted = [{"path": "/a", "content": "text"}, {"path": "/b", "content": "secret", "mode": "0640", "gid": "50000"}]
    assert site.differing_files(wanted, [found("/a", "text"), found("/b", "secret", mode="0640", gid=50000)]) == []


def test_each_certificate_has_a_file_of_its_own(site):
    first, second = (f"-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----" for name in ("a", "b"))
    files = site.certificate_files([f"# Company\n{first}\n{second}\n", "", first], "/certificates")
    assert files == [
        {"path": "/certificates/airflow-1.crt", "content": f"{first}\n"},
        {"path": "/certificates/airflow-2.crt", "content": f"{second}\n"},
    ]


def test_the_first_known_alternative_is_installed_or_the_last(site):
    known = "Package: default-libmysqlclient-dev\nVersion: 1\n\nPackage: gcc\n"
    packages = ["libmysqlclient-dev | default-libmysqlclient-dev", "gcc", "x | y"]
    assert site.package_alternatives(packages, known) == ["default-libmysqlclient-dev", "gcc", "y"]


@pytest.mark.parametrize(
    ("host", "text"), [("db1", "db1:1"), ("192.0.2.1", "192.0.2.1:1"), ("2001:db8::1", "[2001:db8::1]:1")]
)
def test_an_ipv6_address_is_in_brackets(site, host, text):
    assert site.host_port(host, 1) == text
    assert site.url_host(host) == text.removesuffix(":1")


def test_an_account_may_have_any_character(site):
    account = site.url_account("a/b", "p@:/?#%[] \u00e4")
    url = urlsplit(f"rediss://{account}@host:1/0")
    assert (url.hostname, unquote(url.username), unquote(url.password)) == ("host", "a/b", "p@:/?#%[] \u00e4")
    assert site.url_account("", "x") == ":x"


SITE = {
    "main": "192.0.2.10",
    "airflow": ["192.0.2.10", "192.0.2.20"],
    "clients": ["192.0.2.10"],
    "is_private": False,
    "ports": {"api": 8080, "mysql": 3306, "redis": 6380},
}


@pytest.mark.parametrize(
    ("groups", "variables", "ports"),
    [
        ({"airflow_edge": ["host"]}, {}, []),
        ({"nas": ["host"]}, {}, [(2049, ["192.0.2.10", "192.0.2.20"])]),
        ({"reverse_proxy": ["host"]}, {}, [(443, [])]),
        ({"reverse_proxy": ["host"]}, {"reverse_proxy_port": 8443, "reverse_proxy_user_sources": ["a"]}, [(8443, [])]),
        (
            {"reverse_proxy": ["host"]},
            {"reverse_proxy_user_sources": ["a"], "reverse_proxy_worker_sources": ["b"]},
            [(443, ["a", "b"])],
        ),
        ({"airflow_main": ["host"]}, {"airflow_main_proxy_addresses": ["127.0.0.1"]}, []),
        ({"airflow_main": ["host"]}, {"airflow_main_proxy_addresses": ["127.0.0.1", "p"]}, [(8080, ["p"])]),
        ({"mysql": ["host"], "redis": ["host"]}, {}, [(3306, ["192.0.2.10"]), (6380, ["192.0.2.10"])]),
        ({"airflow_celery": ["host"]}, {}, [(8793, ["192.0.2.10"])]),
        ({"airflow_celery": ["host"], "airflow_main": ["host"]}, {}, []),
    ],
)
def test_a_host_opens_the_ports_of_its_groups(site, groups, variables, ports):
    assert [(port["port"], port["sources"]) for port in site.site_ports(SITE, "host", groups, variables)] == ports


def test_a_private_database_opens_no_port(site):
    assert site.site_ports(SITE | {"is_private": True}, "host", {"mysql": ["host"], "redis": ["host"]}, {}) == []


def test_certificates_are_for_the_proxy_and_for_services_that_hosts_share(site):
    hostvars = {
        "main1": {
            "site_address": "192.0.2.10",
            "site_is_private": True,
            "certificates_names": ["airflow", "2001:db8::1"],
        },
        "db1": {"site_address": "db1", "site_is_private": False},
        "edge1": {"airflow_url": "https://main1.example.com:8443/team"},
        "celery1": {"airflow_url": "https://main1.internal"},
    }
    groups = {"reverse_proxy": ["main1"], "redis": ["main1"], "mysql": ["db1"], "airflow_edge": ["edge1"]}
    groups["airflow_celery"] = ["celery1"]
    names = ["DNS:main1", "IP:192.0.2.10", "DNS:airflow", "IP:2001:db8::1", "DNS:main1.example.com"]
    names.append("DNS:main1.internal")
    assert site.certificate_hosts(groups, hostvars) == {"main1": names, "db1": ["DNS:db1"]}


def test_a_previous_signing_key_stays_trusted_as_long_as_it_is_told(site):
    lines = "BEGIN PUBLIC KEY", "MCowBQYDK2VwAyEA1kOL3EQMO0M4YwuFglBiE+xeTid6by0tBucISjbunR4=", "END PUBLIC KEY"
    public = f"-----{lines[0]}-----\n{lines[1]}\n-----{lines[2]}-----\n"
    first = site.trusted_keys(public, "")
    [key] = json.loads(first)["keys"]
    # RFC 8037.
    assert (key["kty"], key["crv"], key["x"]) == ("OKP", "Ed25519", "1kOL3EQMO0M4YwuFglBiE-xeTid6by0tBucISjbunR4")
    assert site.trusted_keys(public, first) == first
    known = json.dumps({"keys": [{"kid": "previous"}, {"kid": "older"}]})
    assert [key["kid"] for key in json.loads(site.trusted_keys(public, known))["keys"]] == [key["kid"], "previous"]
    assert len(json.loads(site.trusted_keys(public, known, 0))["keys"]) == 1


OWN = ["hard", "nconnect=4", "noexec", "noatime", "nofail"]


@pytest.mark.parametrize(
    ("given", "version", "options"),
    [
        ([], "4.2", ["vers=4.2", *OWN]),
        (["rsize=65536"], 4.1, ["vers=4.1", *OWN, "rsize=65536"]),
        (["ro", "soft", "nconnect=8"], 3, ["vers=3", "soft", "nconnect=8", "noexec", "noatime", "nofail", "ro"]),
        (["exec,relatime"], "4.2", ["vers=4.2", "hard", "nconnect=4", "exec", "relatime", "nofail"]),
        # Only where somebody asks for more connections.
        ([], 4.0, ["vers=4.0", "hard", "noexec", "noatime", "nofail"]),
        (["nconnect=2"], "4.0", ["vers=4.0", "hard", "noexec", "noatime", "nofail", "nconnect=2"]),
        # The whole list of an old inventory.
        (["vers=4.2", *OWN], "4.2", ["vers=4.2", *OWN]),
        (["rw", "ro"], "4.2", ["vers=4.2", *OWN, "ro"]),
    ],
)
def test_mount_options_are_added_or_replace_those_of_the_same_name(site, given, version, options):
    assert site.mount_options(OWN, given, version) == options


@pytest.mark.parametrize("option", ["vers=4.1", "nfsvers=3", "minorversion=1"])
def test_mount_options_do_not_set_another_version(site, option):
    with pytest.raises(ValueError, match=f"nas_mount_options has {option}, but nas_mount_version is 4.2. Remove"):
        site.mount_options(OWN, [option], "4.2")
