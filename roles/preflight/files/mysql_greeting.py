"""Print what a MySQL server says of its version when a client connects; no password needed.

Usage: mysql_greeting.py HOST PORT [MODE]. Exit code 3: nothing answers there. With a mode it goes on to TLS: as
VERIFY_IDENTITY it trusts the host's authorities and those in AUTHORITIES (PEM), which tasks/database.yml puts before
this program; as VERIFY_CA it trusts AUTHORITIES alone, whatever name the certificate has. What is wrong with that is
said on standard error, behind "TLS: ".
"""

import socket
import ssl
import struct
import sys

# Of the protocol's handshake v10: https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase.html
CLIENT_PROTOCOL_41, CLIENT_SSL, CLIENT_SECURE_CONNECTION = 1 << 9, 1 << 11, 1 << 15


def try_tls(connection: socket.socket, host: str, mode: str, capabilities: int) -> None:
    if not capabilities & CLIENT_SSL:
        raise OSError("the server has no certificate")
    authorities = globals().get("AUTHORITIES")
    if mode == "VERIFY_CA":
        context = ssl.create_default_context(cadata=authorities)
        context.check_hostname = False
    else:
        context = ssl.create_default_context()
        if authorities:
            context.load_verify_locations(cadata=authorities)
    flags = CLIENT_PROTOCOL_41 | CLIENT_SSL | CLIENT_SECURE_CONNECTION
    request = struct.pack("<IIB23x", flags, 1 << 24, 45)
    connection.sendall(struct.pack("<I", len(request) | 1 << 24) + request)
    context.wrap_socket(connection, server_hostname=host).close()


try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as connection:
        # Packet header (4 bytes), protocol version (1), then the version up to a NUL.
        greeting = connection.recv(256)
        version, _, rest = greeting[5:].partition(b"\0")
        if greeting[4:5] == b"\x0a" and sys.argv[3:]:
            try:
                # Behind the connection's number (4), a nonce (8) and a NUL.
                try_tls(connection, sys.argv[1], sys.argv[3], int.from_bytes(rest[13:15], "little"))
            except (OSError, ValueError) as error:
                print(f"TLS: {error}", file=sys.stderr)
except OSError as error:
    print(error, file=sys.stderr)
    sys.exit(3)
if greeting[4:5] == b"\xff":
    print(greeting[7:].decode(errors="replace"), file=sys.stderr)
    sys.exit(3)
print(version.decode(errors="replace"))
