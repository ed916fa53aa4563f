"""The environment that an inventory gives to Airflow's units and tasks: airflow_base_environment."""

import re
import runpy
from pathlib import Path
from urllib.parse import urlsplit

# A plugin cannot import its neighbour by name.
PREFLIGHT = runpy.run_path(str(Path(__file__).with_name("preflight.py")))
finding = PREFLIGHT["finding"]

PROXIES = ("http_proxy", "https_proxy", "all_proxy")
# Options with the URLs that workers and tasks open on the main server.
URLS = ("core.execution_api_server_url", "edge.api_url")
# What the roles set themselves, with the variable that it follows from.
OWN = {
    "AIRFLOW_CONFIG": "",
    "AIRFLOW_HOME": "airflow_base_home",
    "FORWARDED_ALLOW_IPS": "airflow_main_proxy_addresses",
    "NAS_GUARD": "",
    "NAS_PATH": "nas_mount_path",
    "NAS_WATCH": "airflow_celery_mounts or airflow_edge_mounts",
    "PATH": "",
    "REQUESTS_CA_BUNDLE": "airflow_base_ca_certificate",
}


def unit_environment(environment, settings, peers):
    """Return the environment with which units and tasks start.

    With a proxy, NO_PROXY gets the hosts of the site that are asked over HTTP: this host, the main server, PEERS. A
    task's client would ask the proxy for the main server, whereas the edge worker's client knows no proxy.
    """
    environment = {name: str(value) for name, value in environment.items()}
    if not proxies(environment):
        return environment
    given = ",".join(value for name, value in environment.items() if name.lower() == "no_proxy")
    main = [urlsplit(str(settings.get(option, ""))).hostname for option in URLS]
    direct = [*(entry.strip() for entry in given.split(",")), "localhost", "127.0.0.1", "::1", *main, *peers]
    text = ",".join(dict.fromkeys(filter(None, direct)))
    # Programs differ in which of both they read.
    return environment | {"NO_PROXY": text, "no_proxy": text}


def proxies(environment):
    return [name for name in environment if name.lower() in PROXIES]


def environment_findings(groups, hostvars):
    """Check the names and values of airflow_base_environment."""
    site = PREFLIGHT["Site"](groups, hostvars)
    try:
        values = site.by_value(site.airflow_hosts, "airflow_base_environment", {})
    except PREFLIGHT["UnreadableError"] as error:
        return [error.finding]
    findings = []
    for value, hosts in values:
        if not isinstance(value, dict):
            what = f"airflow_base_environment is '{value}', and has to be a mapping."
            findings.append(finding(hosts, what, "Write airflow_base_environment: {TZ: Asia/Seoul}, for example."))
            continue
        for name, text in value.items():
            problem = problem_of_name(str(name)) or problem_of_value(text)
            if problem:
                what, remedy = problem
                findings.append(finding(hosts, f"airflow_base_environment has {name}, {what}", remedy))
    return findings


def problem_of_name(name):
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        return "which is no name of a variable.", "Use letters, digits and underscores, no digit first: HTTPS_PROXY."
    if name.startswith("AIRFLOW__"):
        section, _, option = name.removeprefix("AIRFLOW__").lower().partition("__")
        remedy = f"Write {section}.{option} into airflow_base_settings, or into the settings of one kind of host."
        return "which is an option of Airflow.", remedy
    if name in OWN:
        remedy = f"Remove {name}, and set {OWN[name]} instead." if OWN[name] else f"Remove {name}."
        return "which the roles set.", remedy
    return None


def problem_of_value(value):
    # The value may hold a password, so the message does not show it.
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return "whose value is no text.", 'Put the value in quotes: "true", "1".'
    if re.search(r"[\x00-\x1f\x7f]", str(value)):
        return "whose value has a line break or another control character.", "Write the value in one line."
    return None


class FilterModule:
    def filters(self):
        return {
            "environment_findings": environment_findings,
            "unit_environment": unit_environment,
        }
