"""Print what a MySQL server says of its version when a client connects; no password needed.

Usage: mysql_greeting.py HOST PORT. Exit code 3: nothing answers there.
"""

import socket
import sys

try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as connection:
        # Packet header (4 bytes), protocol version (1), then the version up to a NUL: the protocol's handshake v10.
        greeting = connection.recv(256)
except OSError as error:
    print(error, file=sys.stderr)
    sys.exit(3)
if greeting[4:5] == b"\xff":
    print(greeting[7:].decode(errors="replace"), file=sys.stderr)
    sys.exit(3)
print(greeting[5:].split(b"\0", 1)[0].decode(errors="replace"))
