"""Filters for values that follow from the inventory, and for files and packages that roles compare with a host."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import re
from urllib.parse import quote, urlsplit

AIRFLOW_GROUPS = ("airflow_main", "airflow_celery", "airflow_edge")
CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")


def differing_files(wanted: list[dict], found: list[dict]) -> list[dict]:
    """Return the wanted files that are missing or different on a host, complete with mode and gid.

    A wanted file is {path, content, mode: "0644", gid: 0} and belongs to root. Found files are what
    ansible.builtin.find returns with get_checksum.
    """
    there = {file["path"]: (file["mode"], file["uid"], file["gid"], file.get("checksum")) for file in found}
    complete = [{"mode": "0644", "gid": 0} | dict(file) for file in wanted]
    return [file for file in complete if there.get(file["path"]) != _state(file)]


def _state(file: dict) -> tuple:
    # SHA-1 is what ansible.builtin.find and the module copy compare with.
    digest = hashlib.sha1(file["content"].encode(), usedforsecurity=False).hexdigest()
    return file["mode"], 0, int(file["gid"]), digest


def certificates(texts: list[str]) -> list[str]:
    """Return the certificates in PEM texts, each once, in their order."""
    return list(dict.fromkeys(CERTIFICATE.findall("\n".join(texts))))


def certificate_files(texts: list[str], directory: str) -> list[dict]:
    """Return one file for each certificate in PEM texts: airflow-1.crt, airflow-2.crt, ..."""
    return [
        {"path": f"{directory}/airflow-{number}.crt", "content": f"{text}\n"}
        for number, text in enumerate(certificates(texts), 1)
    ]


def package_alternatives(packages: list[str], known: str) -> list[str]:
    """Return of each item `a | b` the first package that apt knows, or the last when it knows none.

    `known` is what `apt-cache show` printed.
    """
    names = set(re.findall(r"(?m)^Package: (.+)$", known))
    chosen = []
    for item in packages:
        alternatives = item.split(" | ")
        chosen.append(next((name for name in alternatives if name in names), alternatives[-1]))
    return chosen


# Mount options that exclude each other, by the name that is theirs together.
OPPOSITES = {
    "fg": "bg",
    "minorversion": "vers",
    "nfsvers": "vers",
    "relatime": "atime",
    "ro": "rw",
    "soft": "hard",
    "softerr": "hard",
    "strictatime": "atime",
    "sync": "async",
}


def mount_options(own: list[str], given: list[str], version: str | float) -> list[str]:
    """Return the options of an NFS mount: a given option replaces one of the same name, or the opposite.

    `own` are the options of the role nas_mount, without the version.
    """
    # Some kernels ignore nconnect with NFS 4.0, and others do not.
    kept = [option for option in own if str(version) != "4.0" or _name_of(option) != "nconnect"]
    given = [option for text in given for option in str(text).split(",") if option]
    options = {"vers": f"vers={version}"}
    for option in kept + given:
        if _name_of(option) == "vers" and option.partition("=")[2] != str(version):
            raise ValueError(
                f"nas_mount_options has {option}, but nas_mount_version is {version}. Remove {option}, and set "
                "nas_mount_version to the version that the NAS speaks."
            )
        options[_name_of(option)] = option
    return list(options.values())


def _name_of(option: str) -> str:
    """Return what an option is about: `hard` of `soft`, `exec` of `noexec`, `nconnect` of `nconnect=4`."""
    name = option.partition("=")[0].removeprefix("no")
    return OPPOSITES.get(name, name)


def url_host(host: str) -> str:
    """Return a host as URLs write it: an IPv6 address is in brackets."""
    return f"[{host}]" if ":" in host else host


def host_port(host: str, port: int | str) -> str:
    """Return HOST:PORT as URLs write it."""
    return f"{url_host(host)}:{port}"


def url_account(username: str, password: str) -> str:
    """Return USERNAME:PASSWORD as URLs write it: every other character than a letter or a digit is encoded."""
    return ":".join(quote(str(text), safe="") for text in (username, password))


def site_ports(site: dict, host: str, groups: dict, variables: dict) -> list[dict]:
    """Return the ports of a host that the site needs, as the role firewall takes them: port and sources.

    `site` has what follows from the inventory (playbooks/group_vars), `variables` are the host's own. No sources means
    everybody.
    """

    def is_in(group: str) -> bool:
        return host in groups.get(group, [])

    ports = []
    if is_in("reverse_proxy"):
        users, workers = (variables.get(f"reverse_proxy_{kind}_sources", []) for kind in ("user", "worker"))
        # Both lists, unless one of them means everybody.
        sources = [*users, *workers] if users and workers else []
        ports.append({"port": variables.get("reverse_proxy_port", 443), "sources": sources})
    # The user's own reverse proxy on another host.
    proxies = [name for name in variables.get("airflow_main_proxy_addresses", []) if name not in ("127.0.0.1", "::1")]
    if is_in("airflow_main") and proxies:
        ports.append({"port": site["ports"]["api"], "sources": proxies})
    if not site["is_private"]:
        services = [group for group in ("mysql", "redis") if is_in(group)]
        ports += [{"port": site["ports"][group], "sources": site["clients"]} for group in services]
    if is_in("airflow_celery") and not is_in("airflow_main"):
        # The main server asks other Celery hosts for the logs of running tasks.
        ports.append({"port": 8793, "sources": [site["main"]]})
    if is_in("nas"):
        ports.append({"port": 2049, "sources": site["airflow"]})
    return ports


def certificate_hosts(groups: dict, hostvars: dict) -> dict[str, list[str]]:
    """Return the hosts that need a certificate, each with its subject alternative names.

    These are the reverse proxy, and database and broker where other hosts use them.
    """
    proxies = groups.get("reverse_proxy", [])
    shared = [host for group in ("mysql", "redis") for host in groups.get(group, [])]
    users = [host for group in AIRFLOW_GROUPS for host in groups.get(group, [])]
    urls = {urlsplit(hostvars[host]["airflow_url"]).hostname for host in users}
    hosts = {}
    for host in [*proxies, *(host for host in shared if not hostvars[host]["site_is_private"])]:
        names = [host, hostvars[host]["site_address"]]
        if host in proxies:
            names += [*hostvars[host].get("certificates_names", []), *sorted(urls)]
        hosts[host] = list(dict.fromkeys(map(_alternative_name, names)))
    return hosts


def _alternative_name(name: str) -> str:
    try:
        # As a certificate has the address: of IPv6 there are several spellings.
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"


def trusted_keys(public_key: str, known: str, previous: int | str = 1) -> str:
    """Return a JSON Web Key Set of an Ed25519 key in PEM and of the keys that were known before it.

    `known` is the text of the current set, or empty; as many of its other keys stay as `previous` says.
    """
    # RFC 8037. In DER, the key is behind 12 bytes.
    raw = base64.b64decode("".join(public_key.strip().splitlines()[1:-1]))[12:]
    x = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    kid = hashlib.sha256(x.encode()).hexdigest()[:16]
    key = {"alg": "EdDSA", "crv": "Ed25519", "kid": kid, "kty": "OKP", "use": "sig", "x": x}
    others = [other for other in json.loads(known)["keys"] if other["kid"] != kid] if known else []
    return json.dumps({"keys": [key, *others][: 1 + int(previous)]}, indent=4, sort_keys=True)


class FilterModule:
    """Filters of the playbooks and roles."""

    def filters(self) -> dict:
        return {
            "certificate_files": certificate_files,
            "certificate_hosts": certificate_hosts,
            "certificates": certificates,
            "differing_files": differing_files,
            "host_port": host_port,
            "mount_options": mount_options,
            "package_alternatives": package_alternatives,
            "site_ports": site_ports,
            "trusted_keys": trusted_keys,
            "url_account": url_account,
            "url_host": url_host,
        }
