"""What the role preflight asks a Redis server of the user's own, in Redis's protocol."""

import contextlib
import re
import socket
import ssl
import subprocess
import sys
import threading

import pytest

from lab import ROOT

PASSWORD = "p\u00e4ss \"word'"  # noqa: S105


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
    """Return what the program says of a server, and the commands that the server was sent."""

    def ask(*arguments, host="127.0.0.1", tls=False, answers=None, username="", password=PASSWORD, authorities=""):
        commands = []

        def talk(connection):
            while received := connection.recv(4096):
                words = re.findall(rb"\$\d+\r\n(.*?)\r\n", received)
                # The lengths are those of the bytes.
                assert [int(size) for size in re.findall(rb"\$(\d+)\r\n", received)] == [len(word) for word in words]
                if not words:
                    # The beginning of TLS.
                    return
                commands.append([word.decode() for word in words])
                connection.sendall((answers or {}).get(commands[-1][0], "+OK").encode() + b"\r\n")

        def serve(server):
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                if tls:
                    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                    context.load_cert_chain(certificate)
                    connection = context.wrap_socket(connection, server_side=True)
                talk(connection)

        # As tasks/broker.yml does it.
        program = f"USERNAME, PASSWORD, DB = {username!r}, {password!r}, 3\nAUTHORITIES = {authorities!r}\n"
        program += (ROOT / "roles/preflight/files/redis_ping.py").read_text()
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=serve, args=[server])
            thread.start()
            command = [sys.executable, "-", host, str(server.getsockname()[1]), *arguments]
            done = subprocess.run(command, input=program, capture_output=True, text=True)  # noqa: S603
            thread.join()
        assert done.stdout == ""
        assert done.returncode == (1 if done.stderr else 0)
        return done.stderr, commands

    return ask


def test_a_server_that_answers(ask):
    said, commands = ask()
    assert (said, commands) == ("", [["AUTH", PASSWORD], ["SELECT", "3"], ["PING"]])
    said, commands = ask(username="airflow", password="x")  # noqa: S106
    assert (said, commands[0]) == ("", ["AUTH", "airflow", "x"])


def test_a_server_that_refuses(ask):
    assert ask(answers={"AUTH": "-WRONGPASS invalid"})[0] == "Redis: WRONGPASS invalid\n"
    assert ask(answers={"SELECT": "-ERR DB index is out of range"})[0] == "Redis: ERR DB index is out of range\n"
    assert ask(answers={"PING": "-NOPERM this user"})[0] == "Redis: NOPERM this user\n"


def test_a_server_with_tls(ask, certificate):
    trusted = certificate.read_text()
    said, commands = ask("tls", tls=True, authorities=trusted)
    assert (said, len(commands)) == ("", 3)
    assert "TLS: [SSL: CERTIFICATE_VERIFY_FAILED]" in ask("tls", tls=True)[0]
    said, commands = ask("tls", tls=True, host="localhost", authorities=trusted)
    assert "certificate is not valid for 'localhost'" in said
    # No password goes to a server that is not trusted.
    assert commands == []


def test_a_server_where_tls_is_not_as_expected(ask, certificate):
    assert ask("tls", authorities=certificate.read_text())[0].startswith("TLS: ")
    # Redis closes the connection.
    assert ask(tls=True)[0].strip() in ("the server closes the connection", "[Errno 104] Connection reset by peer")


def test_nothing_listens():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    program = ROOT / "roles/preflight/files/redis_ping.py"
    done = subprocess.run([sys.executable, program, "127.0.0.1", port], capture_output=True, text=True)  # noqa: S603
    assert "Connection refused" in done.stderr
