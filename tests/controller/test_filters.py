"""plugins/filter/site.py: what the playbooks shape in Python."""

import hashlib
import importlib.util

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


@pytest.mark.parametrize(("text", "error"), [("", ""), ("A = 1\n", ""), ("A = 1\nPASSWORD = 'x\n", "line 2")])
def test_where_a_text_is_not_python_is_said_without_the_text(site, text, error):
    assert site.python_error(text) == error
