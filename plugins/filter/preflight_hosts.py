"""Findings of the role preflight about hosts, from their answers: {host, what, remedy}, as in preflight.py."""

import re


def finding(host, what, remedy):
    return {"host": host, "what": what, "remedy": remedy}


def system_findings(facts, host):
    """Refuse an operating system that is too old, or unknown."""
    name, release = facts["distribution"], str(facts["distribution_version"])
    oldest = {"Debian": (12, 0), "Ubuntu": (22, 4)}.get(name)
    number = re.match(r"(\d+)(?:\.(\d+))?", release)
    # Debian's testing and unstable have no number.
    version = (int(number[1]), int(number[2] or 0)) if number else (99, 0)
    if facts["service_mgr"] == "systemd" and oldest and version >= oldest:
        return []
    what = f"{host} runs {name} {release} with {facts['service_mgr']}."
    return [finding(host, what, "Use a host with systemd and Debian 12 or newer, or Ubuntu 22.04 or newer.")]


def answer_of(results):
    """Return Python's version, and the difference to the controller's clock: that of the quickest answer."""
    found = [re.search(r"(\d+)\.(\d+) (-?[0-9.]+)", result.get("stdout") or "") for result in results or []]
    found = [match for match in found if match]
    if not found:
        return None, None
    return (int(found[0][1]), int(found[0][2])), min(float(match[3]) for match in found)


def python_findings(results, host, python):
    """Refuse an interpreter that is missing or too old. RESULTS are those of hosts.yml, `raw`."""
    version, _ = answer_of(results)
    if version and version >= (3, 11):
        return []
    found = "Python {}.{}".format(*version) if version else "missing"
    what = f"airflow_base_python is {python}, which is {found} on {host}."
    remedy = "Airflow's providers need Python 3.11 or newer: install one, and set airflow_base_python to its path."
    return [finding(host, what, remedy)]


def clock_findings(results, host, reference_results, reference):
    """Compare the clocks of a host and of the main server."""
    clocks = answer_of(results)[1], answer_of(reference_results)[1]
    if None in clocks or abs(clocks[0] - clocks[1]) <= 5:
        return []
    what = (
        f"The clock of {host} differs from that of {reference} by {clocks[0] - clocks[1]:.1f} s. 5 s are allowed, "
        "because tokens between both are valid for seconds."
    )
    return [finding(host, what, "Run a time service on both (chrony or systemd-timesyncd), and see `timedatectl`.")]


def nas_findings(result, share, guard, main=None):
    """Explain the exit code of try_nas.sh, whose result is RESULT, on a host that knows SHARE.

    SHARE is {host, source, uid, gid, version}; MAIN the main server's attempt: {host, source, stdout}.
    """
    host, source, uid, gid, version = (share[name] for name in ("host", "source", "uid", "gid", "version"))
    server, _, path = source.partition(":/")
    code, stdout, stderr = result.get("rc"), result.get("stdout") or "", " ".join((result.get("stderr") or "").split())
    if code == 0:
        return []
    if code == 16:
        return [another_share(host, source, stdout, guard, main)]
    accepted = said(stdout, "accepts")
    reasons = {
        11: (f"the name {server} is not known there.", "Correct nas_mount_src, or add the name to DNS or /etc/hosts."),
        12: (
            f"{server} does not answer on TCP port {said(stdout, 'port')}.",
            "Start its NFS server, open the firewall between both, or correct nas_mount_src.",
        ),
        13: (
            "the server refuses the mount.",
            f"Export /{path} to {host} over NFS {version}, or correct nas_mount_src.",
        ),
        14: (
            f"uid {uid} (airflow_base_uid) cannot write there.",
            f"On the NAS, give the directory to uid {uid} and gid {gid}, or set airflow_base_uid and airflow_base_gid "
            "to its owner.",
        ),
        15: ("it has no hard links, which publishing a file needs.", "Export a directory of another file system."),
        124: ("it did not answer within 150 s.", "See whether the NAS is overloaded or its export hangs."),
    }
    unknown = f"the attempt ended with code {code}.", "Mount the share by hand to see the error."
    reason, remedy = reasons.get(code, unknown)
    if code == 13 and accepted:
        reason = f"nas_mount_version is {version}, which the server refuses. It accepts {accepted}."
        remedy = f'Set nas_mount_version: "{accepted}", or let the server speak NFS {version}.'
    what = f"nas_mount_src is {source}, and {host} cannot use it: {reason}"
    return [finding(host, f"{what} It said: {stderr}" if stderr else what, remedy)]


def another_share(host, source, stdout, guard, main):
    """A host does not find the mark that the main server has left on the share."""
    mine, others = said(stdout, "identity"), said(main["stdout"], "identity")
    if mine and mine == others:
        identities = f"{guard} is {mine} on both, so one is a copy of the other"
    else:
        identities = " and ".join(
            f"{name} is {identity}" if identity else f"{name} is missing"
            for name, identity in ((f"{guard} of {main['host']}", others), (f"{guard} of {host}", mine))
        )
    what = (
        f"nas_mount_src is {source} on {host} and {main['source']} on {main['host']}, and these are two shares: a file "
        f"that one host writes would be missing on the other. {identities}."
    )
    return finding(
        host, what, f"Correct nas_mount_src of {host} or of {main['host']}: both have to name the same share."
    )


def said(stdout, name):
    """Return what try_nas.sh says of a name, or an empty text."""
    found = re.search(rf"(?m)^{name} (.+)$", stdout)
    return found[1].strip() if found else ""


def database_findings(greeting, host, server, port, is_own, packages="", apt_source=None):
    """GREETING is the result of mysql_greeting.py, PACKAGES what apt-cache says of MySQL and MariaDB.

    IS_OWN: the server is the user's own, at airflow_database_host; otherwise it is the host of the group mysql.
    """
    version, error, answers = greeting["stdout"].strip(), greeting["stderr"].strip(), greeting["rc"] == 0
    variable = "airflow_database_host" if is_own else "The host of the group mysql"
    if is_own and not answers:
        what = f"{variable} is {server}, and {host} gets no MySQL greeting from its port {port}: {error}"
        remedy = "Correct airflow_database_host or airflow_database_port, start the server, or open the firewall."
        return [finding(host, what, remedy)]
    if "mariadb" in version.lower() or re.search(r"mariadb-server:\s+Installed: [0-9]", packages):
        what = (
            f"{variable} is {server}, and MariaDB is there ({version or 'the package mariadb-server'}). Airflow does "
            "not run on MariaDB: its scheduler fails with SQL that only MySQL knows."
        )
        return [finding(host, what, "Use a MySQL server 8.0 or newer, or another host.")]
    if answers:
        return [*version_findings(version, host, variable, server), *tls_findings(error, host, variable, server)]
    if apt_source or re.search(r"mysql-server:\s+Installed: \S+\s+Candidate: [0-9]", packages):
        return []
    what = (
        f"mysql_apt_source is empty, and {server} knows no package mysql-server. Debian has MariaDB instead, on which "
        "Airflow does not run."
    )
    remedy = (
        "Set mysql_apt_source to the vendor's APT repository, as group_vars/mysql.yml of "
        "inventories/production.example does, or run `apt-get update` there."
    )
    return [finding(server, what, remedy)]


def version_findings(version, host, variable, server):
    number = re.match(r"\d+", version)
    if not number or int(number[0]) < 8:
        yield finding(host, f"{variable} is {server}, which runs MySQL {version}.", "Airflow needs MySQL 8.0 or newer.")


def tls_findings(error, host, variable, server):
    if "TLS: " in error:
        what = f"{variable} is {server}, and {host} cannot verify a TLS connection to this server: {error}"
        remedy = (
            f"Give the server a certificate that names {server}; when the host does not trust its authority, set "
            "airflow_database_authority to the authority's file. For a managed database, whose certificate has another "
            "name, set airflow_database_ssl_verify_identity to false. Or set airflow_database_ssl to false: passwords "
            "and data then cross the network unencrypted."
        )
        yield finding(host, what, remedy)


def broker_findings(result, host, server, port, username, password_file):
    """RESULT is that of redis_ping.py, or of a task that was skipped, because there is no file with the password."""
    what = f"airflow_broker_host is {server}, and "
    if result.get("skipped"):
        what += f"{password_file} does not exist, which has the password of the Redis server."
        remedy = (
            "Write the password to this file, or run playbooks/secrets.yml, and give Redis the password in the file."
        )
        return [finding(host, what, remedy)]
    if result["rc"] == 0:
        return []
    # A traceback ends with the error.
    error = (result["stderr"].strip().splitlines() or [f"the attempt ended with code {result['rc']}"])[-1]
    if error.startswith("TLS: "):
        what += f"{host} cannot verify a TLS connection to port {port} of this server: {error}"
        remedy = (
            f"Give the server a certificate that names {server}; when the host does not trust its authority, set "
            "airflow_broker_authority to the authority's file. Or set airflow_broker_ssl to false: the password and "
            "what tasks are told then cross the network unencrypted."
        )
    elif error.startswith("Redis: "):
        account = f"the user {username} (airflow_broker_username)" if username else "the user default"
        what += f"the server does not serve {account} on {host}: {error.removeprefix('Redis: ')}"
        remedy = f"Correct airflow_broker_username, airflow_broker_db or {password_file}, or the user on the server."
    else:
        what += f"{host} gets no answer from its port {port}: {error}"
        names = "airflow_broker_host, airflow_broker_port or airflow_broker_ssl"
        remedy = f"Correct {names}, start the server, or open the firewall."
    return [finding(host, what, remedy)]


class FilterModule:
    def filters(self):
        functions = (
            broker_findings,
            clock_findings,
            database_findings,
            nas_findings,
            python_findings,
            system_findings,
        )
        return {function.__name__: function for function in functions}
