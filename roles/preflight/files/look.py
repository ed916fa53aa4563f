"""Print as JSON what a host has and reaches, before anything changes.

The argument is the JSON of host_question in plugins/filter/preflight_look.py. Needs Python 3.10 and root; a command
that the host lacks has an empty answer.
"""

import configparser
import contextlib
import grp
import json
import os
import pwd
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

ROOT = Path("/")
# Files that show that this project has installed a component; for Airflow, those of two versions.
MARKS = {
    "airflow": ["etc/airflow/files", "etc/systemd/system/airflow.target"],
    "mysql": ["etc/mysql/mysql.conf.d/zz-airflow.cnf"],
    "nas": ["etc/exports.d/airflow.exports"],
    "redis": ["etc/redis/airflow.conf"],
    "reverse_proxy": ["etc/nginx/conf.d/airflow.conf"],
}
# For one connection, and for all, which are tried side by side.
SECONDS, SECONDS_IN_ALL = 5, 20


def run(*command):
    """Return what a command prints, or nothing."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(  # noqa: S603 - commands are ours
            command, env=environment, capture_output=True, text=True, timeout=SECONDS_IN_ALL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def read(path):
    try:
        return (ROOT / path).read_text(errors="replace")
    except OSError:
        return ""


def entries(path):
    return sorted(path.iterdir()) if path.is_dir() else []


# Ports, firewalls, disks, accounts --------------------------------------------------------------------------------


def listeners(text):
    """Return the listening TCP sockets in the output of `ss -Hltnp`. A socket of the kernel has no program."""
    found = []
    for line in text.splitlines():
        owner = re.search(r'\(\("([^"]+)",pid=(\d+)', line)
        program, unit = (owner[1], unit_of(owner[2])) if owner else ("", "")
        found.append({"port": int(line.split()[3].rpartition(":")[2]), "program": program, "unit": unit})
    return found


def unit_of(pid):
    """Return the systemd unit of a process."""
    units = re.findall(r"/([^/\n]+\.(?:service|scope|socket))", read(f"proc/{pid}/cgroup"))
    return units[-1] if units else ""


def closed_by(nft, iptables):
    """Return the rule sets, other than this project's own, that refuse what they do not name.

    NFT is the output of `nft list ruleset`, IPTABLES that of `iptables -S INPUT`. A rule that refuses some addresses
    only, as fail2ban's do, does not count.
    """
    first = r'(?:counter packets \d+ bytes \d+ |log prefix "[^"]*" )*'
    refusal = re.compile(rf"policy drop|^\s*{first}(?:drop|reject(?: with [\w -]+)?)$", re.MULTILINE)
    found = []
    for table, chains in re.findall(r"^table (\w+ \S+) \{\n(.*?)^\}", nft, re.MULTILINE | re.DOTALL):
        inputs = [text for text in re.split(r"^\t\}\n", chains, flags=re.MULTILINE) if "hook input" in text]
        if table != "inet airflow" and any(refusal.search(text) for text in inputs):
            found.append(f"the nftables table {table}")
    if not found and re.search(r"^-P INPUT DROP$|^-A INPUT -j (?:DROP|REJECT)", iptables, re.MULTILINE):
        found.append("iptables")
    return found


def firewalls():
    found = run("systemctl", "is-active", "ufw.service", "firewalld.service").split()
    states = dict(zip(("ufw", "firewalld"), found))  # noqa: B905 - no systemd, no answer
    # Ubuntu's ufw.service is active also while ufw is off.
    if not re.search(r"(?m)^ENABLED=yes", read("etc/ufw/ufw.conf")):
        states.pop("ufw", None)
    active = [name for name, state in states.items() if state == "active"]
    return active or closed_by(run("nft", "list", "ruleset"), run("iptables", "-S", "INPUT"))


def space(paths):
    """Return the free MB of each file system, with the paths that are or will be there."""
    found = {}
    for path in map(Path, paths):
        there = next(place for place in (path, *path.parents) if place.exists())
        state = os.statvfs(there)
        system = found.setdefault(there.stat().st_dev, {"free": state.f_bavail * state.f_frsize >> 20, "paths": []})
        system["paths"].append(str(path))
    return list(found.values())


def names_of(number, path, by_number):
    """Return the names that have a uid or gid, in a file like /etc/passwd and elsewhere."""
    lines = [line.split(":") for line in read(path).splitlines()]
    names = {line[0] for line in lines if len(line) > 2 and line[2] == str(number)}
    with contextlib.suppress(KeyError):
        names.add(by_number(number)[0])
    return sorted(names)


# Services that the host has of its own ----------------------------------------------------------------------------


def marks():
    return [name for name, paths in MARKS.items() if any((ROOT / path).exists() for path in paths)]


def airflow_there(home, nas):
    """Return what somebody else's Airflow has in the places of this one. Parts of an interrupted run are ours."""
    places = [ROOT / path for path in ("etc/airflow/airflow.cfg", "etc/airflow/airflow.env", "usr/local/sbin/airflow")]
    found = [path for path in places if path.exists() or path.is_symlink()]
    found += sorted((ROOT / "etc/systemd/system").glob("airflow*.service"))
    links = {"dags": f"{home}/dags-releases/", "venv": f"{home}/venvs/"}
    own = {"dags-releases", "venvs", "lost+found", os.path.relpath(nas, home).split("/")[0]}
    for path in entries(Path(home)):
        if path.name in links:
            is_own = path.is_symlink() and str(path.readlink()).startswith(links[path.name])
        else:
            is_own = path.name in own or (path.is_dir() and not entries(path))
        if not is_own:
            found.append(path)
    return list(map(str, found))


def schemas():
    """Return the schemas of a MySQL server, which are directories."""
    options = [read(path) for path in sorted((ROOT / "etc/mysql").rglob("*.cnf"))]
    set_to = re.findall(r"(?m)^\s*datadir\s*=\s*(\S+)", "\n".join(options))
    own = {"mysql", "performance_schema", "sys", "lost+found"}
    names = [path.name for path in entries(Path(set_to[-1]) if set_to else ROOT / "var/lib/mysql") if path.is_dir()]
    return [name for name in names if name not in own and not name.startswith("#")]


def redis_use(port):
    """Return how a Redis server is used; nothing, when nobody uses the server, or there is none."""
    if not port:
        # The dump of an empty database has about 100 bytes.
        files = [path for path in (ROOT / "var/lib/redis").rglob("*") if path.is_file() and path.stat().st_size > 512]
        return f"data in {files[0].parent}" if files else ""
    try:
        with socket.create_connection(("127.0.0.1", port), SECONDS) as connection:
            connection.sendall(b"INFO clients\r\nINFO keyspace\r\nQUIT\r\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode(errors="replace")
    except OSError as error:
        return f"no answer on port {port}: {error.strerror or error}"
    clients = re.search(r"connected_clients:(\d+)", answer)
    if not clients:
        return f"with a password or a certificate on port {port}"
    keys = sum(map(int, re.findall(r"(?m)^db\d+:keys=(\d+)", answer)))
    # One client is this program.
    others = int(clients[1]) - 1
    return f"{keys} keys, {others} clients" if keys or others else ""


def exported(texts):
    """Return the directories in the texts of files like /etc/exports."""
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return sorted({line.split()[0].strip('"') for line in lines if line and not line.startswith("#")})


def nas_there(path, uid, gid):
    """Return the owner of a directory that this project would take from somebody, and what others export."""
    own = ROOT / MARKS["nas"][0]
    others = [ROOT / "etc/exports", *sorted((ROOT / "etc/exports.d").glob("*.exports"))]
    owner, directory = "", Path(path)
    if path not in exported([read(own)]) and any(entry.name != "lost+found" for entry in entries(directory)):
        state = directory.stat()
        owner = "" if (state.st_uid, state.st_gid) == (uid, gid) else f"{state.st_uid}:{state.st_gid}"
    return {"owner": owner, "exports": exported(read(file) for file in others if file != own)}


# The network ------------------------------------------------------------------------------------------------------


def unreachable(host, port):
    """Say why a host cannot be connected to. A host that refuses is there: its program may come later."""
    try:
        addresses = [info[4] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except socket.gaierror as error:
        return f"the name is not known ({error.strerror})"
    reasons = []
    for address in addresses:
        try:
            socket.create_connection(address[:2], SECONDS).close()
        except ConnectionRefusedError:
            return ""
        except OSError as error:
            reasons.append(f"{address[0]}: {error.strerror or error}")
        else:
            return ""
    return ", ".join(reasons)


def index_of_pip(default):
    """Return the package index that pip is set to; nothing, when pip is to use none."""
    parser = configparser.RawConfigParser(strict=False)
    files = ["etc/pip.conf", "root/.pip/pip.conf", "root/.config/pip/pip.conf", os.environ.get("PIP_CONFIG_FILE")]
    # The last file wins.
    with contextlib.suppress(configparser.Error):
        parser.read(ROOT / path for path in files if path)
    if parser.has_option("global", "no-index"):
        return ""
    return os.environ.get("PIP_INDEX_URL") or parser.get("global", "index-url", fallback=default)


def index_of_uv(default):
    """Return the package index that uv is set to."""
    texts = [read("root/.config/uv/uv.toml"), read("etc/uv/uv.toml")]
    urls = [re.search(r'(?m)^\s*(?:index-)?url\s*=\s*"([^"]+)"', text) for text in texts]
    in_file = next((found[1] for found in urls if found), default)
    return os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL") or in_file


def without_password(url):
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def index_error(url):
    """Say why a package index does not answer. A password, which pip and uv may have, is not tried."""
    context = ssl.create_default_context()
    if not (ROOT / "etc/ssl/certs/ca-certificates.crt").exists():
        # The installation brings ca-certificates; until then no certificate can be verified. Nothing secret is sent.
        context = ssl._create_unverified_context()  # noqa: S323
    try:
        urllib.request.urlopen(f"{url.rstrip('/')}/uv/", timeout=SECONDS, context=context).close()  # noqa: S310
    except urllib.error.HTTPError as error:
        return "" if error.code in (401, 403) else f"HTTP status {error.code}"
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return ""


def apt_uris():
    """Return the file at the top of the package lists, of each server that apt is set to."""
    uris = re.findall(r"'(https?://[^']+/InRelease)'", run("apt-get", "update", "--print-uris"))
    return list({urlsplit(uri).netloc: uri for uri in uris}.values())


def apt_error(uri):
    """Fetch a file as apt does, with its proxies and passwords, and say why that fails."""
    options = ["-o", f"Acquire::http::Timeout={SECONDS}", "-o", "Acquire::Retries=0"]
    with tempfile.TemporaryDirectory() as directory:
        command = ["/usr/lib/apt/apt-helper", *options, "download-file", uri, f"{directory}/file"]
        done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - commands are ours
    said = re.search(r"(?m)^E: (?:Failed to fetch \S+ +)?(.*)", done.stderr)
    return (said[1] if said else "apt-helper failed") if done.returncode else ""


def side_by_side(calls):
    """Return what each call says is wrong."""
    results = dict.fromkeys(calls, f"no answer within {SECONDS_IN_ALL} s")

    def call(key):
        results[key] = calls[key]()

    threads = [threading.Thread(target=call, args=[key], daemon=True) for key in calls]
    for thread in threads:
        thread.start()
    end = time.monotonic() + SECONDS_IN_ALL
    for thread in threads:
        thread.join(max(0, end - time.monotonic()))
    return dict(results)


def look(question):
    components, installed = question["components"], marks()
    missing = [component for component in components if component not in installed]
    sockets = listeners(run("ss", "-Hltnp"))
    seen = {
        "marks": installed,
        "listeners": [item for item in sockets if str(item["port"]) in question["ports"]],
        "firewalls": firewalls() if question["firewall"] else [],
        "space": space(question["paths"]),
    }
    if "airflow" in components:
        seen["users"] = names_of(question["uid"], "etc/passwd", pwd.getpwuid)
        seen["groups"] = names_of(question["gid"], "etc/group", grp.getgrgid)
    if "airflow" in missing:
        seen["airflow"] = airflow_there(question["home"], question["nas"])
    if "mysql" in missing:
        seen["mysql"] = schemas()
    if "redis" in missing:
        seen["redis"] = redis_use(next((item["port"] for item in sockets if item["unit"] == "redis-server.service"), 0))
    if "nas" in components:
        seen["nas"] = nas_there(question["export"], question["export_uid"], question["export_gid"])

    calls = {("connect", host, port): partial(unreachable, host, port) for host, port, _ in question["connect"]}
    if "airflow" in missing:
        urls = map(without_password, (index_of_pip(question["index"]), index_of_uv(question["index"])))
        calls |= {("index", url): partial(index_error, url) for url in urls if url}
    if missing:
        calls |= {("apt", without_password(uri)): partial(apt_error, uri) for uri in apt_uris()}
    seen["errors"] = [[*call, error] for call, error in side_by_side(calls).items() if error]
    return seen


if __name__ == "__main__":
    print(json.dumps(look(json.loads(sys.argv[1]))), flush=True)
    # A call that hangs must not keep this program.
    os._exit(0)
