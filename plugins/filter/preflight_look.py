"""What the role preflight asks a host before the first change (files/look.py), and what is wrong with the answer."""

import json
import re
from urllib.parse import urlsplit

# MB that an installation writes to an empty host. Measured in November 2026: virtualenvs of requirements/ with bytecode
# (edge 296, main 422), the cache of uv (250, 354), Debian's packages, and the disks of the lab's hosts (edge1 626,
# main1 with MySQL 1937, a Celery host 1183, nas1 197).
HOME = {"edge": 350, "celery": 500}
SPACE = {
    "edge": {"/var": 300, "/usr": 50},
    "celery": {"/var": 400, "/usr": 300},
    "mysql": {"/var/lib/mysql": 400, "/usr": 300},
    "nas": {"/var": 150},
    "redis": {"/var": 150},
    "reverse_proxy": {"/var": 150},
}
# MB for a further run: lists of packages, a release of DAG code.
LEAST_SPACE = 300
# A suite of another name, such as unstable, may be pinned. What is newer than this list is not refused.
RELEASES = ("buster", "bullseye", "bookworm", "trixie", "forky")
RELEASES += ("bionic", "focal", "jammy", "noble", "plucky", "questing", "resolute")
# The port at which a Celery worker serves the logs of running tasks.
LOG_PORT = 8793
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


# The question -----------------------------------------------------------------------------------------------------


def host_question(groups, hostvars, host, user, https_port, firewall, apt_source, release, present):
    """Return what look.py has to look at on a host.

    PRESENT are the hosts that take part in this run. The arguments between are values of this host.
    """
    own, groups = hostvars[host], {name: list(hosts) for name, hosts in groups.items()}
    here = {name for name, hosts in groups.items() if host in hosts}
    kind = "celery" if {"airflow_main", "airflow_celery"} & here else "edge" if "airflow_edge" in here else ""
    services = [name for name in ("mysql", "nas", "redis", "reverse_proxy") if name in here]
    uid, gid, home = int(own["site_uid"]), int(own["site_gid"]), own["site_home"]
    space = {name: SPACE[name] for name in services}
    if kind:
        space["airflow"] = {home: HOME[kind]} | SPACE[kind]
    suites = apt_source.get("suites", []) if "mysql" in here else []
    return {
        "components": (["airflow"] if kind else []) + services,
        "user": user,
        "uid": uid,
        "gid": gid,
        "home": home,
        "nas": own["site_nas_path"],
        # As the role nas_server has it by default.
        "export": own.get("nas_server_path") or "/" + own.get("nas_mount_src", "").partition(":/")[2],
        "export_uid": int(own.get("nas_server_uid", uid)),
        "export_gid": int(own.get("nas_server_gid", gid)),
        "has_nfs3": str(own.get("nas_server_vers3", False)).lower() in ("true", "yes", "on", "1"),
        "ports": ports_of(here, own, https_port),
        "connect": connections(groups, hostvars, host, present) if kind else [],
        # Workers do not use these.
        "proxies": [name for name in own.get("airflow_base_environment", {}) if name.lower() in PROXIES],
        "firewall": firewall,
        "index": default_index(),
        "space": space,
        "paths": sorted({path for needs in space.values() for path in needs} | {"/var"}),
        "suites": [suites] if isinstance(suites, str) else list(suites),
        "release": release,
    }


def ports_of(here, own, https_port):
    """Return the ports on which the site listens, each with the variable that sets it and the unit that listens."""
    ports = {}
    if "reverse_proxy" in here:
        ports[https_port] = "reverse_proxy_port", "nginx.service"
    if "airflow_main" in here:
        ports[own["site_api_port"]] = "airflow_main_api_port", "airflow-"
    elif "airflow_celery" in here:
        ports[LOG_PORT] = "", "airflow-"
    if "mysql" in here:
        ports[own["site_mysql_port"]] = "mysql_port", "mysql.service"
    if "redis" in here:
        ports[own["site_redis_port"]] = "redis_port", "redis-server.service"
    if "nas" in here:
        # The kernel listens, which is no unit.
        ports[2049] = "", ""
    return {str(port): list(value) for port, value in ports.items()}


def connections(groups, hostvars, host, present):
    """Return the hosts and ports that a host has to reach, each with the reason."""
    own, main = hostvars[host], groups.get("airflow_main", [])
    celery = groups.get("airflow_celery", [])
    if host in main:
        # A Celery host that is off does not hold up the others.
        others = [other for other in celery if other != host and other in present]
        return [[hostvars[other]["site_address"], LOG_PORT, f"the logs of {other}"] for other in others]
    found = []
    url = urlsplit(str(own.get("airflow_url", "")))
    if url.hostname:
        port = url.port or (80 if url.scheme == "http" else 443)
        found.append([url.hostname, port, f"airflow_url, {own['airflow_url']}"])
    for group in ("mysql", "redis") if host in celery else ():
        servers = [hostvars[server]["site_address"] for server in groups.get(group, []) if server != host]
        reason = f"the group {group}"
        if group == "mysql" and not groups.get(group):
            servers = [own["airflow_database_host"]] if own.get("airflow_database_host") else []
            reason = "airflow_database_host"
        found += [[server, int(own[f"site_{group}_port"]), reason] for server in servers]
    return found


def default_index():
    """Return the package index of pip and uv where none is set, as the pip of this machine knows it."""
    try:
        from pip._internal.models.index import PyPI
    except ImportError:
        return ""
    return PyPI.simple_url


# The answer -------------------------------------------------------------------------------------------------------


def check_ports(seen, question):
    for listener in seen["listeners"]:
        port, program = listener["port"], listener["program"]
        variable, unit = question["ports"][str(port)]
        is_ours = listener["unit"].startswith(unit) if unit else not program
        if not is_ours:
            name = f"{variable} is {port}" if variable else f"The site needs port {port}"
            change = f", or set {variable} to a free port" if variable else ""
            unit = f" ({listener['unit']})" if listener["unit"] else ""
            what = f"{name}, where {program or 'the kernel'}{unit} listens already."
            yield what, f"Stop that program, or use another host{change}."


def check_reverse_proxy(seen, question):
    ports = [port for port, (_, unit) in question["ports"].items() if unit == "nginx.service"]
    for listener in seen["listeners"]:
        is_nginx = str(listener["port"]) in ports and listener["unit"] == "nginx.service"
        if is_nginx and "reverse_proxy" not in seen["marks"]:
            yield (
                f"nginx serves sites of its own there, on port {listener['port']} (reverse_proxy_port): requests for a "
                "name that these sites do not have would get Airflow.",
                "Set reverse_proxy_port to a free port, use another host, or empty the group reverse_proxy and "
                "let that nginx be the reverse proxy (docs/security.md).",
            )


def check_mysql(seen, _):
    if seen.get("mysql"):
        yield (
            f"MySQL has the schemas {', '.join(seen['mysql'])} there, and this project has not installed MySQL: the "
            "server would get another address (mysql_bind_address), port and rules for TLS.",
            "Name another host in the group mysql; or empty the group, and set airflow_database_host to that server.",
        )


def check_redis(seen, _):
    if seen.get("redis"):
        yield (
            f"Redis is in use there ({seen['redis']}), and this project has not installed Redis: the server would get "
            "another address (redis_bind) and a password.",
            "Name another host in the group redis.",
        )


def check_nas(seen, question):
    path, there = question["export"], seen.get("nas", {"owner": "", "exports": []})
    if there["owner"]:
        uid, gid = there["owner"].split(":")
        yield (
            f"nas_server_path is {path}, which has files there and belongs to uid {uid} and gid {gid}.",
            "Export another directory; or, if these files are for the site, give all of them to uid "
            f"{question['export_uid']} and gid {question['export_gid']}.",
        )
    if there["exports"] and "nas" not in seen["marks"] and not question["has_nfs3"]:
        yield (
            f"The host exports {', '.join(there['exports'])} already, and nas_server_vers3 is false: clients that use "
            "NFS 3 would lose these directories.",
            "Set nas_server_vers3 to true, or name another host in the group nas.",
        )


def check_airflow(seen, question):
    if paths := seen.get("airflow"):
        more = f" and {len(paths) - 4} more" if len(paths) > 4 else ""
        yield (
            f"This project has not installed Airflow there, and would use or replace {', '.join(paths[:4])}{more}.",
            "Use another host, or move these files away. airflow_base_home names another directory than "
            f"{question['home']}.",
        )


def check_accounts(seen, question):
    for kind, names in (("uid", seen.get("users", [])), ("gid", seen.get("groups", []))):
        others = [name for name in names if name != question["user"]]
        if others:
            what = "account" if kind == "uid" else "group"
            yield (
                f"airflow_base_{kind} is {question[kind]}, the {kind} of the {what} {', '.join(others)} there, which "
                "could read the site's secrets and files.",
                f"Set airflow_base_{kind} to a number that is free on all hosts and owns the directory on the NAS, or "
                f"give that {what} another number.",
            )


def check_firewall(seen, question):
    if seen["firewalls"]:
        names, ports = " and ".join(seen["firewalls"]), ", ".join(sorted(question["ports"], key=int))
        yield (
            f"firewall_enabled is true, and {names} filters there, too: a connection needs the permission of both.",
            f"Turn {names} off; or set firewall_enabled to false for this host, and open "
            f"{f'the TCP ports {ports}' if ports else 'what the site needs'} in {names} as docs/security.md says.",
        )


def check_disk(seen, question):
    needs = [needs for component, needs in question["space"].items() if component not in seen["marks"]]
    for system in seen["space"]:
        needed = max(LEAST_SPACE, sum(each.get(path, 0) for each in needs for path in system["paths"]))
        if system["free"] < needed:
            paths = ", ".join(system["paths"])
            what = f"The file system of {paths} has {system['free']} MB free, and a run needs {needed} MB."
            yield what, "Free space there, or mount a larger file system."


def check_index(seen, _):
    for kind, url, *_, error in seen["errors"]:
        if kind == "index":
            yield (
                f"The index of Python packages, {url}, does not answer: {error}",
                "Allow the connection; or name a proxy (HTTPS_PROXY) or a mirror (UV_DEFAULT_INDEX and PIP_INDEX_URL) "
                "in airflow_base_install_environment.",
            )
        elif kind == "apt":
            yield (
                f"apt cannot fetch {url}: {error}",
                "Allow the connection, correct the sources in /etc/apt, or set Acquire::http::Proxy in its apt.conf.d.",
            )


def check_network(seen, question):
    """Explain connections that failed. Edge workers connect by themselves, without a proxy."""
    reasons = {(host, port): reason for host, port, reason in question["connect"]}
    for kind, *rest in seen["errors"]:
        if kind == "connect":
            host, port, error = rest
            proxy = ""
            if question["proxies"] and reasons[host, port].startswith("airflow_url"):
                proxy = f" Workers do not use the proxy in {question['proxies'][0]} (airflow_base_environment)."
            yield (
                f"The host cannot connect to TCP port {port} of {host} ({reasons[host, port]}): {error}",
                "Add the name to DNS or /etc/hosts, or correct the address."
                if "name is not known" in error
                else f"Open the port in the firewalls and routers between both, or correct the address.{proxy}",
            )


def check_suite(seen, question):
    # "bookworm-updates" and "bookworm/" are of bookworm, too.
    suites = [suite for suite in question["suites"] if re.split(r"[-/]", suite)[0] in RELEASES]
    wrong = [suite for suite in suites if re.split(r"[-/]", suite)[0] != question["release"]]
    if wrong and question["release"] and "mysql" not in seen["marks"]:
        yield (
            f"mysql_apt_source has the suite {', '.join(wrong)}, and the host runs {question['release']}: packages for "
            "another release may not install, or break with the next update.",
            f"Set suites in mysql_apt_source to {question['release']}.",
        )


CHECKS = {
    "accounts": check_accounts,
    "airflow": check_airflow,
    "disk": check_disk,
    "firewall": check_firewall,
    "index": check_index,
    "mysql": check_mysql,
    "nas": check_nas,
    "network": check_network,
    "ports": check_ports,
    "redis": check_redis,
    "reverse_proxy": check_reverse_proxy,
    "suite": check_suite,
}


def look_findings(result, host, question, accepted=()):
    """Return the findings in the answer of look.py, but for the checks that the host accepts (preflight_accepted)."""
    try:
        seen = json.loads(result["stdout"])
    except (KeyError, ValueError):
        said = (result.get("stderr") or result.get("msg") or "").strip().splitlines() or ["no answer"]
        what = f"/usr/bin/python3 cannot look at the host: {said[-1]}"
        return [{"host": host, "what": what, "remedy": "Run the command by hand to see why."}]
    findings = []
    for name, check in CHECKS.items():
        for what, remedy in check(seen, question) if name not in accepted else ():
            accept = f"To go on all the same: preflight_accepted: [{name}], for this host."
            findings.append({"host": host, "what": what, "remedy": f"{remedy} {accept}"})
    return findings


class FilterModule:
    def filters(self):
        return {"host_question": host_question, "look_findings": look_findings}
