"""Log in to a Redis server as Airflow will, and ask whether the server answers. Changes nothing there.

Usage: redis_ping.py HOST PORT [tls]. tasks/broker.yml puts USERNAME, PASSWORD, DB and AUTHORITIES (PEM) before this
program, so that no secret is on a command line. What is wrong is said on standard error, with exit code 1: behind
"TLS: " about the certificate, behind "Redis: " in the words of the server.
"""

import socket
import ssl
import sys

USERNAME, PASSWORD, DB, AUTHORITIES = (globals().get(name) for name in ("USERNAME", "PASSWORD", "DB", "AUTHORITIES"))


def encrypted(connection: socket.socket, host: str) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    if AUTHORITIES:
        context.load_verify_locations(cadata=AUTHORITIES)
    return context.wrap_socket(connection, server_hostname=host)


def ask(connection: socket.socket, *words: str) -> None:
    """Send a command in Redis's protocol, and expect a status: +OK, +PONG."""
    parts = [word.encode() for word in words]
    connection.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts))
    answer = b""
    while not answer.endswith(b"\r\n"):
        if not (received := connection.recv(4096)):
            raise OSError("the server closes the connection")
        answer += received
    if not answer.startswith(b"+"):
        sys.exit(f"Redis: {answer.decode(errors='replace').strip().lstrip('-')}")


def main(host: str, port: str, *options: str) -> None:
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        if options:
            try:
                connection = encrypted(connection, host)
            except (OSError, ValueError) as error:
                sys.exit(f"TLS: {error}")
        ask(connection, "AUTH", *([USERNAME] if USERNAME else []), PASSWORD)
        ask(connection, "SELECT", str(DB))
        ask(connection, "PING")


try:
    main(*sys.argv[1:])
except OSError as error:
    sys.exit(str(error))
