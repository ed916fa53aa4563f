"""What the role preflight asks a MySQL server of the user's own, by its protocol's first packets."""

import contextlib
import socket
import ssl
import subprocess
import sys
import threading

import pytest

from lab import ROOT

VERSION = b"8.4.6"
CLIENT_SSL = 1 << 11


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate that is its own authority, and names 127.0.0.1 alone."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=server -days 1"
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command.split(), *names, "-keyout", path, "-out", path], check=True, capture_output=True)  # noqa: S603
    return path


@pytest.fixture
def ask(certificate):
    """Return what the program says of a server, and what the server was sent over TLS."""

    def ask(host="127.0.0.1", *arguments, capabilities=CLIENT_SSL, authorities=""):
        # Of the handshake v10: version, number, nonce, NUL, the lower capabilities, and what the program does not read.
        greeting = b"\x0a" + VERSION + b"\0" + bytes(13) + capabilities.to_bytes(2, "little") + bytes(30)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        requests = []

        def serve(server):
            connection, _ = server.accept()
            with connection:
                connection.sendall(len(greeting).to_bytes(3, "little") + b"\0" + greeting)
                if request := connection.recv(36):
                    requests.append(request)
                    with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
                        secure.recv(1)

        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=serve, args=[server])
            thread.start()
            # As tasks/database.yml of the role preflight does it.
            program = (
                f"AUTHORITIES = {authorities!r}\n" + (ROOT / "roles/preflight/files/mysql_greeting.py").read_text()
            )
            command = [sys.executable, "-", host, str(server.getsockname()[1]), *arguments]
            done = subprocess.run(command, input=program, capture_output=True, text=True)  # noqa: S603
            thread.join()
        assert done.stdout == f"{VERSION.decode()}\n"
        assert done.returncode == 0
        # A request for TLS: 32 bytes, the second packet, with that capability; no account's name.
        assert all(r[:4] == b"\x20\0\0\x01" and int.from_bytes(r[4:8], "little") & CLIENT_SSL for r in requests)
        return done.stderr

    return ask


def test_tls_is_not_tried_unless_it_is_asked_for(ask):
    assert ask() == ""


def test_a_server_without_tls(ask):
    assert ask("127.0.0.1", "VERIFY_IDENTITY", capabilities=0) == "TLS: the server has no certificate\n"


def test_an_authority_that_the_host_does_not_trust(ask):
    assert "TLS: [SSL: CERTIFICATE_VERIFY_FAILED]" in ask("127.0.0.1", "VERIFY_IDENTITY")


def test_an_authority_of_the_users_own(ask, certificate):
    assert ask("127.0.0.1", "VERIFY_IDENTITY", authorities=certificate.read_text()) == ""


def test_a_certificate_that_names_another_host(ask, certificate):
    said = ask("localhost", "VERIFY_IDENTITY", authorities=certificate.read_text())
    assert "certificate is not valid for 'localhost'" in said


def test_an_authority_that_is_none(ask):
    assert ask("127.0.0.1", "VERIFY_IDENTITY", authorities="not a certificate").startswith("TLS: ")


def test_a_certificate_that_needs_no_name_but_an_authority(ask, certificate):
    """VERIFY_CA: the authorities that the host trusts do not count."""
    assert ask("localhost", "VERIFY_CA", authorities=certificate.read_text()) == ""
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=other -keyout /dev/null"
    )
    foreign = subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout  # noqa: S603
    assert "TLS: [SSL: CERTIFICATE_VERIFY_FAILED]" in ask("localhost", "VERIFY_CA", authorities=foreign)
