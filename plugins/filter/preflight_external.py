"""What the role preflight finds in the inputs of a database and a broker of the user's own, as findings."""

import runpy
from pathlib import Path

# A plugin cannot import its neighbour by name.
PREFLIGHT = runpy.run_path(str(Path(__file__).with_name("preflight.py")))
boolean, finding, named, unique = (PREFLIGHT[name] for name in ("boolean", "finding", "named", "unique"))

# Of each service: its group, the program, and the prefix of its inputs.
SERVICES = (("mysql", "MySQL", "airflow_database"), ("redis", "Redis", "airflow_broker"))
# Also for the site's own servers.
SHARED = {"airflow_database_clients"}


def external_findings(groups, hostvars):
    """Check that each service has one server, and that no input is set for a server that is not used."""
    site, findings = PREFLIGHT["Site"](groups, hostvars), []
    try:
        for group, program, prefix in SERVICES:
            findings += check_servers(site, group, program, prefix)
            findings += check_unused(site, group, program, prefix)
            findings += check_values(site, group, prefix)
        findings += check_verification(site)
    except PREFLIGHT["UnreadableError"] as error:
        findings.append(error.finding)
    return findings


def check_servers(site, group, program, prefix):
    servers = site.groups[group]
    if len(servers) > 1:
        what = f"The group {group} is {named(servers)}; it takes one host at most."
        yield finding("site", what, f"Name one host in the group {group}.")
    if not servers and site.main and not site.read(site.main[0], f"{prefix}_host", ""):
        yield finding(
            "site",
            f"Both the group {group} and {prefix}_host are empty.",
            f"Name one host in the group {group} to have {program} installed there, or set {prefix}_host to the name "
            f"of your {program} server.",
        )


def check_unused(site, group, program, prefix):
    """What an inventory sets is honoured, or refused by name."""
    servers, defaults = site.groups[group], PREFLIGHT["role_defaults"]()
    names = [name for name in defaults if name.startswith(f"{prefix}_") and name not in SHARED]
    for name in names if servers else ():
        for value, hosts in site.by_value(site.airflow_hosts, name):
            if str(value).lower() != str(defaults[name]).lower():
                what = (
                    f"{name} is '{value}', but Airflow uses the {program} server on {servers[0]}, of the group {group}."
                )
                own = f"a {program} server of your own ({prefix}_host)"
                remedy = f"Remove {name}, which is for {own}, or empty the group {group}."
                yield finding(hosts, what, remedy)


def check_values(site, group, prefix):
    hosts = [] if site.groups[group] else unique(site.main + site.celery)
    # The main server and the Celery workers have to use the same data.
    for name in (f"{prefix}_name", f"{prefix}_db"):
        values = site.by_value(hosts, name) if name in PREFLIGHT["role_defaults"]() else []
        if len(values) > 1:
            each = " and ".join(f"'{value}' on {named(hosts)}" for value, hosts in values)
            yield finding("site", f"{name} is {each}.", f"Set {name} to the same value for all hosts.")
    for value, found in site.by_value(hosts, f"{prefix}_port"):
        if not str(value).isdecimal() or not 0 < int(value) < 65536:
            yield finding(found, f"{prefix}_port is '{value}'.", "Write the TCP port of the server, a number.")


def check_verification(site):
    hosts = [] if site.groups["mysql"] else unique(site.main + site.celery)
    name = "airflow_database_ssl_verify_identity"
    for verify, found in site.by_value(hosts, name):
        if boolean(verify) or not boolean(site.read(found[0], "airflow_database_ssl")):
            continue
        lacking = [host for host in found if not site.read(host, "airflow_database_authority", "")]
        if lacking:
            yield finding(
                lacking,
                f"{name} is '{verify}', and airflow_database_authority is empty: anybody with a certificate of any "
                "authority that the host trusts could pass for the database server.",
                "Download the certificate of the authority that signs for your server, and name the file in "
                "airflow_database_authority.",
            )


class FilterModule:
    def filters(self):
        return {"external_findings": external_findings}
