"""What the role preflight finds in an inventory and on the controller, as findings: {host, what, remedy}.

Most filters get `groups` and `hostvars`. A variable whose template fails when it is read is a finding, too.
"""

import functools
import re
import shlex
import textwrap
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from ansible.errors import AnsibleError, AnsibleFilterError
from jinja2 import Undefined, UndefinedError

ROOT = Path(__file__).resolve().parents[2]
AIRFLOW_GROUPS = ("airflow_main", "airflow_celery", "airflow_edge")
SITE_GROUPS = (*AIRFLOW_GROUPS, "mysql", "redis", "nas", "reverse_proxy")
EXAMPLE_URL = "https://main1.example.com"

# The roles' argument_specs accept a text in the place of a list.
LISTS = (
    "airflow_celery_mounts",
    "airflow_dags_src",
    "airflow_database_clients",
    "airflow_edge_mounts",
    "airflow_edge_queues",
    "airflow_main_components",
    "airflow_main_proxy_addresses",
    "certificates_names",
    "firewall_cut_listeners",
    "firewall_ssh_sources",
    "nas_mount_options",
    "preflight_accepted",
    "reverse_proxy_user_sources",
    "reverse_proxy_worker_sources",
)
# Files on this machine, which lookups read while the playbooks run.
FILES = ("airflow_base_requirements", "airflow_broker_authority", "airflow_database_authority", "api_authority")
SETTINGS = ("airflow_base_settings", "airflow_celery_settings", "airflow_main_settings", "airflow_edge_settings")


class UnreadableError(Exception):
    """A variable whose template fails."""

    def __init__(self, host, name, error):
        super().__init__(name)
        what = f"{name} cannot be evaluated: {error}"
        self.finding = finding(host, what, f"Correct {name}, or define the variables that its template needs.")


class Site:
    """The inventory: its groups, and the variables of its hosts."""

    def __init__(self, groups, hostvars):
        self.groups = {group: list(groups.get(group, [])) for group in SITE_GROUPS}
        self.main, self.celery, self.edge = (self.groups[group] for group in AIRFLOW_GROUPS)
        self.proxies = self.groups["reverse_proxy"]
        self.airflow_hosts = unique(self.main + self.celery + self.edge)
        self.hosts = unique(host for hosts in self.groups.values() for host in hosts)
        # The host that serves the UI.
        self.front = next(iter(self.proxies + self.main), None)
        self._variables = {host: hostvars[host] for host in self.hosts}

    def has(self, host, name):
        return name in self._variables[host]

    def read(self, host, name, default=None):
        """Return a variable of a host, or else the default that its role has."""
        try:
            if self.has(host, name):
                return plain(self._variables[host][name])
        except (AnsibleError, UndefinedError) as error:
            raise UnreadableError(host, name, error) from error
        return role_defaults().get(name) if default is None else default

    def by_value(self, hosts, name, default=None):
        """Return the values of a variable, each with the hosts that have it."""
        values = []
        for host in hosts:
            value = self.read(host, name, default)
            same = [names for other, names in values if other == value]
            if same:
                same[0].append(host)
            else:
                values.append((value, [host]))
        return values


@functools.cache
def role_defaults():
    defaults = {}
    for path in ROOT.glob("roles/*/defaults/main.yml"):
        defaults |= yaml.safe_load(path.read_text()) or {}
    # The site's inputs have no role, so their defaults are in the spec alone.
    specs = yaml.safe_load((ROOT / "roles/preflight/meta/argument_specs.yml").read_text())["argument_specs"]
    for name, option in specs["main"]["options"].items():
        defaults[name] = option.get("default")
    return defaults


def value_of(hostvars, host, name):
    """Return a variable of a host, or else the default that its role has: no role restates the default of another."""
    if name not in hostvars[host] and name not in role_defaults():
        raise AnsibleFilterError(f"value_of: no role has a default for {name}, and {host} does not set it")
    return hostvars[host].get(name, role_defaults().get(name))


def finding(hosts, what, remedy):
    """Return a finding. What many hosts share is one finding, which names the first host."""
    hosts = [hosts] if isinstance(hosts, str) else list(hosts)
    more = f" and {len(hosts) - 1} more" if len(hosts) > 1 else ""
    return {"host": f"{hosts[0]}{more}", "what": what, "remedy": remedy}


def unique(items):
    kept = []
    for item in items:
        if item not in kept:
            kept.append(item)
    return kept


def plain(value):
    """Evaluate a value with everything in it."""
    if isinstance(value, Undefined):
        str(value)  # Raises UndefinedError, which names what is undefined.
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def boolean(value):
    """Read a boolean as Ansible does: `-e x=false` is a text."""
    return str(value).lower() in ("true", "yes", "on", "1", "y", "t")


def named(names):
    return ", ".join(names) or "empty"


# Checks of the inventory ------------------------------------------------------------------------------------------


def check_groups(site):
    needs = {
        "airflow_main": "Name the main server there, and no other host.",
        "airflow_edge": "Name a host there that runs the tasks of edge_queue.",
        "airflow_celery": (
            "Name a host there that runs the tasks of the default queue. For the main server, write "
            "`airflow_celery: {children: {airflow_main: }}`."
        ),
    }
    for group, remedy in needs.items():
        hosts, is_single = site.groups[group], group == "airflow_main"
        if not hosts or (is_single and len(hosts) > 1):
            number = "exactly one host" if is_single else "at least one host"
            yield finding("site", f"The group {group} is {named(hosts)}; it needs {number}.", remedy)


def check_names(site):
    if "localhost" in site.hosts:
        what = "A host of the site is named localhost, which means this machine (playbooks/host_vars/localhost.yml)."
        yield finding("localhost", what, "Give the host another name, with ansible_connection: local.")


def check_edge_hosts(site):
    both = [host for host in site.edge if host in site.main + site.celery]
    if both:
        what = f"{named(both)} is in airflow_edge and in airflow_main or airflow_celery; both need /opt/airflow."
        yield finding(both, what, "Give the edge worker a host of its own.")


def check_edge_names(site):
    names = {host: str(site.read(host, "airflow_edge_hostname", host)) for host in site.edge}
    for name in unique(names.values()):
        hosts = [host for host in names if names[host] == name]
        if len(hosts) > 1:
            yield finding(
                hosts,
                f"airflow_edge_hostname is '{name}' on {named(hosts)}: the API refuses a second worker of that name.",
                "Give each edge host a name of its own, or remove airflow_edge_hostname to use the inventory's names.",
            )
        # edge_worker.worker_name is VARCHAR(64).
        if len(name) > 64:
            what = f"airflow_edge_hostname is '{name}': {len(name)} characters are too long."
            yield finding(hosts, what, "Give the edge worker a name of at most 64 characters.")


def check_reverse_proxy(site):
    # The reverse proxy reaches the API server over plain HTTP.
    if site.proxies and site.proxies != site.main:
        yield finding(
            "site",
            f"The group reverse_proxy is {named(site.proxies)}; it takes the main server, {named(site.main)}, alone.",
            "Name the main server there, or empty the group when you have a reverse proxy of your own.",
        )
    host = site.read(site.front, "airflow_main_api_host", "127.0.0.1") if site.proxies else "127.0.0.1"
    # On ::, uvicorn accepts IPv6 alone.
    if host not in ("127.0.0.1", "localhost", "0.0.0.0"):  # noqa: S104
        yield finding(
            site.front,
            f"airflow_main_api_host is {host}, but the reverse proxy connects to 127.0.0.1.",
            "Remove airflow_main_api_host, or empty the group reverse_proxy when you have a reverse proxy of your own.",
        )


def check_airflow_url(site):
    port = int(site.read(site.proxies[0], "reverse_proxy_port")) if site.proxies else 443
    example = EXAMPLE_URL if port == 443 else f"{EXAMPLE_URL}:{port}"
    may_be_plain = boolean(site.read(site.front, "api_plain_http")) if site.front else False
    for url, hosts in site.by_value(site.airflow_hosts, "airflow_url", ""):
        what = f"airflow_url is '{url}'"
        if not url:
            remedy = f"Set airflow_url to the address of the main server, as users open it: {example}"
            yield finding(hosts, "airflow_url is not set.", remedy)
        elif "/edge_worker" in str(url):
            remedy = f"Write the part in front of /edge_worker: {str(url).partition('/edge_worker')[0]}"
            yield finding(hosts, f"{what}, the address of the edge API, which follows from airflow_url.", remedy)
        elif not is_url(url):
            what = f"{what}; it has to be http(s)://host[:port][/path], without a slash at the end."
            yield finding(hosts, what, f"Write the address of the main server, as users open it: {example}")
        elif site.proxies and not is_at_root_of_https(url, port):
            yield finding(
                hosts,
                f"{what}, but {site.proxies[0]} serves HTTPS, on port {port}, at the root of its name.",
                f"Write {example}, or empty the group reverse_proxy when you have a reverse proxy of your own.",
            )
        elif not url.startswith("https:") and not may_be_plain:
            yield finding(
                hosts,
                f"{what}: tokens, connections and their passwords would cross the network unencrypted.",
                "Give your reverse proxy a certificate and write https://, or, where nobody else can listen, set "
                "api_plain_http to true.",
            )


def is_url(url):
    if not re.fullmatch(r"https?://[^/@?#\s]+(/[^/?#\s]+)*", str(url)):
        return False
    try:
        return bool(urlsplit(url).hostname) and urlsplit(url).port != 0
    except ValueError:
        return False


def is_at_root_of_https(url, port):
    parts = urlsplit(url)
    return parts.scheme == "https" and (parts.port or 443) == port and not parts.path


def check_nas(site):
    for source, hosts in site.by_value(site.airflow_hosts, "nas_mount_src", ""):
        if not re.fullmatch(r"[^:/]+:/.+|\[[0-9A-Fa-f:]+\]:/.+", str(source)):
            what = f"nas_mount_src is '{source}'; it has to be a share, as server:/path."
            yield finding(hosts, what, "Write nas.example.com:/volume1/airflow, for example.")
    paths = site.by_value(site.airflow_hosts, "site_nas_path")
    if len(paths) > 1:
        each = " and ".join(f"{path} on {named(hosts)}" for path, hosts in paths)
        what = f"nas_mount_path is {each}: tasks on different hosts give each other paths."
        yield finding("site", what, "Set nas_mount_path to the same directory for all hosts.")


def check_nas_version(site):
    servers = site.groups["nas"]
    for version, hosts in site.by_value(site.airflow_hosts, "nas_mount_version"):
        if str(version) not in ("4.2", "4.1", "4.0", "3"):
            what = f"nas_mount_version is '{version}'."
            yield finding(hosts, what, 'Write the version that the NAS speaks: "4.2", "4.1", "4.0" or "3".')
        if str(version) != "3":
            continue
        for server in servers:
            what = f"nas_mount_version is 3, but {server}, of the group nas, "
            if not boolean(site.read(server, "nas_server_vers3")):
                what += "serves NFS 4 only (nas_server_vers3 is false)."
            elif boolean(site.read(server, "firewall_enabled")):
                what += "has a firewall that opens port 2049 only, and NFS 3 needs further ports."
            else:
                continue
            yield finding(hosts, what, f"Remove nas_mount_version: {server} serves NFS 4.2.")
    refused = {}
    for host in site.airflow_hosts:
        version, options = str(site.read(host, "nas_mount_version")), site.read(host, "nas_mount_options")
        for option in options if isinstance(options, list) else ():
            # The filter mount_options refuses the same, where the role runs without these checks.
            found = re.fullmatch(r"(?:nfs)?vers=(.+)", str(option))
            if found and found[1] != version:
                refused.setdefault((option, found[1], version), []).append(host)
    for (option, wanted, version), hosts in refused.items():
        what = f"nas_mount_options has {option}, but nas_mount_version is {version}."
        yield finding(hosts, what, f'Remove {option} from nas_mount_options, and set nas_mount_version: "{wanted}".')


def check_mounts(site):
    for name, group in (("airflow_celery_mounts", site.celery), ("airflow_edge_mounts", site.edge)):
        for host in group:
            path, mounts = site.read(host, "site_nas_path"), site.read(host, name)
            if site.has(host, name) and isinstance(mounts, list) and mounts and path not in mounts:
                what = f"{name} is {named(mounts)}, without the NAS at {path}: tasks could not write there."
                yield finding(host, what, f"Add {path} to {name}, or remove the variable.")


def check_lists(site):
    for name in LISTS:
        for value, hosts in site.by_value([host for host in site.hosts if site.has(host, name)], name):
            if isinstance(value, str):
                remedy = f"""Write {name}: [{value}], on a command line -e '{{"{name}": ["{value}"]}}'"""
                yield finding(hosts, f"{name} is the text '{value}', and has to be a list.", remedy)


def check_files(site):
    for name in FILES:
        for value, hosts in site.by_value([host for host in site.airflow_hosts if site.has(host, name)], name):
            path = Path(str(value or "")).expanduser()
            # The site's own authority is created later. Ansible looks for a relative path in several directories.
            is_own = path == Path(str(site.read(hosts[0], "secrets_directory", ""))).expanduser() / "authority.pem"
            if path.is_absolute() and not is_own and not path.is_file():
                what = f"{name} is '{value}', which is not a file on this machine."
                yield finding(hosts, what, f"Write the file there, or correct {name}.")


def check_settings(site):
    for name in SETTINGS:
        for value, hosts in site.by_value(site.airflow_hosts, name, {}):
            if not isinstance(value, dict):
                what = f"{name} is '{value}', and has to be a mapping."
                yield finding(hosts, what, f"Write {name}: {{core.parallelism: 32}}, for example.")
                continue
            wrong = [str(option) for option in value if not re.fullmatch(r"[a-z0-9_]+\.[a-z0-9_]+", str(option))]
            if wrong:
                what = f"{name} has {named(wrong)}, without the section."
                yield finding(hosts, what, "Write section.option: core.parallelism, for example.")


def check_celery_settings(site):
    for host in site.celery:
        main, celery, base = (site.read(host, f"airflow_{kind}_settings", {}) for kind in ("main", "celery", "base"))
        if host in site.main or not all(isinstance(settings, dict) for settings in (main, celery, base)):
            continue
        if lost := [option for option in main if option not in celery and option not in base]:
            what = f"airflow_main_settings has {named(lost)}, and is for the main server alone."
            remedy = "Write these options into airflow_celery_settings, or move them to group_vars/airflow_main.yml."
            yield finding(host, what, remedy)


def check_components(site):
    for components, hosts in site.by_value(site.main, "airflow_main_components", []):
        if "celery-worker" in components:
            yield finding(
                hosts,
                "airflow_main_components has celery-worker, but the group airflow_celery says where workers run.",
                "Remove celery-worker from airflow_main_components, and name the host in the group airflow_celery.",
            )


CHECKS = (
    check_groups,
    check_names,
    check_edge_hosts,
    check_edge_names,
    check_reverse_proxy,
    check_airflow_url,
    check_nas,
    check_nas_version,
    check_mounts,
    check_lists,
    check_files,
    check_settings,
    check_celery_settings,
    check_components,
)


def inventory_findings(groups, hostvars, renamed=None, refused=None):
    """Check groups and variables.

    RENAMED maps old names to new ones, or to what to do instead; REFUSED maps names to reasons.
    """
    site, findings = Site(groups, hostvars), []
    names = (
        functools.partial(check_renamed, renamed=renamed or {}),
        functools.partial(check_refused, refused=refused or {}),
    )
    for check in (*names, *CHECKS):
        try:
            # One by one: what a check has found before it fails is kept.
            for found in check(site):
                findings.append(found)
        except UnreadableError as error:
            findings.append(error.finding)
    return unique(findings)


def check_renamed(site, renamed):
    for old, new in renamed.items():
        hosts = [host for host in site.hosts if site.has(host, old)]
        if hosts and old == "airflow_edge_api_url":
            # The name is new, and the value, too.
            url = str(site.read(hosts[0], old)).partition("/edge_worker")[0]
            yield finding(hosts, f"{old} is now {new}, without /edge_worker/v1/rpcapi.", f"Write {new}: {url}")
        elif hosts and re.fullmatch(r"\w+", new):
            yield finding(hosts, f"{old} is now {new}.", f"Rename {old} to {new} in your inventory.")
        elif hosts:
            yield finding(hosts, f"{old} is not supported any more.", new)


def check_refused(site, refused):
    for name, reason in refused.items():
        hosts = [host for host in site.hosts if site.has(host, name)]
        if hosts:
            yield finding(hosts, f"{name} cannot be set: {reason}", f"Remove {name} from your inventory.")


# Checks of the secrets --------------------------------------------------------------------------------------------


def secrets_findings(groups, hostvars, sources, checkout):
    """Refuse secrets that an inventory plugin reads, and secrets that were left behind where they used to be."""
    site = Site(groups, hostvars)
    if not site.main:
        return []
    try:
        value = site.read(site.main[0], "secrets_directory", "")
        directories = [site.read(host, "inventory_dir", "") for host in site.hosts]
    except UnreadableError as error:
        return [error.finding]
    if not value:
        remedy = "Set secrets_directory to a directory of this machine, as inventories/production.example does."
        return [finding(site.main, "secrets_directory is not set.", remedy)]
    secrets = Path(value).resolve()
    sources = [Path(source) for source in sources if Path(source).exists()]
    directories = [Path(directory) for directory in directories if directory]
    directories += [source if source.is_dir() else source.parent for source in sources]
    for directory in unique(path.resolve() for path in directories):
        usual = Path(checkout).resolve() / "secrets" / directory.name
        is_inside = secrets.is_relative_to(directory) and ".lab" not in secrets.relative_to(directory).parts
        if is_inside and not usual.is_relative_to(directory):
            return [secrets_in_an_inventory(secrets, directory, usual)]
        old = directory / "secrets"
        if old != secrets and (old / "fernet_key").exists() and not (secrets / "fernet_key").exists():
            what = f"secrets_directory is {secrets}, which has no fernet_key; the secrets of this site are in {old}."
            remedy = f"Move the secrets; no playbook can create them again:\n    {move(old, secrets)}"
            return [finding("site", what, remedy)]
    return []


def secrets_in_an_inventory(secrets, directory, usual):
    what = (
        f"secrets_directory is {secrets}, in the inventory directory {directory}, where Ansible reads every file: "
        "secrets would become the names of hosts."
    )
    line = f"secrets_directory: {usual}"
    if directory.parent.parent / "secrets" / directory.name == usual:
        line = 'secrets_directory: "{{ inventory_dir | dirname | dirname }}/secrets/{{ inventory_dir | basename }}"'
    begin = f"Move the secrets:\n    {move(secrets, usual)}\nand set" if secrets.exists() else "Set"
    return finding("site", what, f"{begin} this in group_vars/all.yml of the inventory:\n    {line}")


def move(old, new):
    if new.exists():
        return f"mv -n {shlex.quote(str(old))}/* {shlex.quote(str(new))}/"
    return f"mkdir -p {shlex.quote(str(new.parent))} && mv {shlex.quote(str(old))} {shlex.quote(str(new))}"


def rotation_findings(previous, sources):
    """Refuse to go on after an interrupted rotation, which leaves files NAME.previous."""
    files = sorted(Path(path) for path in previous)
    if not files:
        return []
    what = (
        f"rotate-secrets.yml was interrupted: there is {named(file.name for file in files)} in {files[0].parent}. "
        "This run would give new secrets to some hosts only."
    )
    options = " ".join(f"-i {shlex.quote(source)}" for source in sources)
    names = ",".join(file.stem for file in files)
    command = f"ansible-playbook {options} playbooks/rotate-secrets.yml -e rotate={names}"
    return [finding("site", what, f"Complete the rotation:\n    {command}")]


def fernet_key_findings(installed, host, secrets_directory, keys):
    """Refuse a Fernet key that cannot decrypt what is in the database."""
    if not installed or installed in keys:
        return []
    return [
        finding(
            host,
            f"{secrets_directory}/fernet_key is not the key with which {host} encrypts connections and variables: "
            "nobody could read them again.",
            "Restore the secrets with which the site was installed, or this key: it is AIRFLOW__CORE__FERNET_KEY in "
            f"/etc/airflow/airflow.env of {host}. If no connection or variable has to be kept, remove that line.",
        )
    ]


# A certificate of the user's own ----------------------------------------------------------------------------------


def certificate_findings(groups, hostvars, certificate=None, key=None):
    """Check api_certificate and api_private_key, from which community.crypto has read CERTIFICATE and KEY."""
    site = Site(groups, hostvars)
    try:
        return list(check_certificate(site, certificate or {}, key or {}))
    except UnreadableError as error:
        return [error.finding]


def check_certificate(site, certificate, key):
    # Not the role's default, which is the certificate that the playbooks make.
    paths = {name: site.read(site.front, name, "") for name in ("api_certificate", "api_private_key") if site.proxies}
    path, key_path = paths.get("api_certificate"), paths.get("api_private_key")
    if not path:
        return
    for name, read in (("api_certificate", certificate), ("api_private_key", key)):
        if not Path(paths[name]).is_file():
            yield finding(
                site.front,
                f"{name} is '{paths[name]}', which is not a file on this machine.",
                "Name the certificate, followed by its intermediate ones, in api_certificate, and its key in "
                "api_private_key. Without both variables the playbooks create a certificate.",
            )
        elif "public_key" not in read:
            what = f"{name} is '{paths[name]}', which cannot be read: {read.get('msg', 'it is no PEM file')}"
            yield finding(site.front, what, "Name a file in PEM format, a key without a passphrase.")
    if "public_key" not in certificate:
        return
    if key.get("public_key", certificate["public_key"]) != certificate["public_key"]:
        what = f"api_private_key is '{key_path}', which is not the key of api_certificate, '{path}'."
        yield finding(site.front, what, "Name the key with which the certificate was requested.")
    if certificate["expired"]:
        what = f"api_certificate is '{path}', which expired at {certificate['not_after']} (UTC)."
        yield finding(site.front, what, "Renew the certificate.")
    names = certificate.get("subject_alt_name") or []
    for url, hosts in site.by_value(site.airflow_hosts, "airflow_url", ""):
        name = urlsplit(url).hostname if is_url(url) else None
        accepted = {f"dns:{name}", f"dns:*.{str(name).partition('.')[2]}", f"ip:{name}"}
        if name and not accepted & {each.lower() for each in names}:
            what = f"airflow_url is '{url}', but api_certificate, '{path}', is for {', '.join(names) or 'no name'}."
            remedy = f"Write one of these names into airflow_url, or get a certificate for {name}."
            yield finding(hosts, what, remedy)


# The report -------------------------------------------------------------------------------------------------------


def collected_findings(hostvars):
    """Return the findings of the controller and of all hosts, each once."""
    hosts = unique(["localhost", *hostvars])
    return unique(plain(found) for host in hosts for found in hostvars[host].get("__preflight_findings", []))


def findings_table(findings, width=112):
    """Return findings as a table. Lines that begin with four spaces are commands, which are not wrapped."""
    header = {"host": "host", "what": "what is wrong", "remedy": "what to do"}
    first = min(max(len(found["host"]) for found in [header, *findings]), 24)
    second = (width - first) * 9 // 20
    widths = (first, second, width - first - second - 6)

    def row(found):
        cells = [wrapped(found[name], size) for name, size in zip(header, widths, strict=True)]
        for number in range(max(map(len, cells))):
            texts = [cell[number] if number < len(cell) else "" for cell in cells]
            yield " | ".join(f"{text:{size}}" for text, size in zip(texts, widths, strict=True)).rstrip()

    lines = [*row(header), "-|-".join("-" * size for size in widths)]
    for found in findings:
        lines += [*row(found), ""]
    return "\n".join(lines[:-1])


def wrapped(text, width):
    lines = []
    for line in text.split("\n"):
        is_command = line.startswith("    ")
        lines += [line] if is_command else textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False)
    return lines


class FilterModule:
    def filters(self):
        return {
            function.__name__: function
            for function in (
                certificate_findings,
                collected_findings,
                fernet_key_findings,
                findings_table,
                inventory_findings,
                rotation_findings,
                secrets_findings,
                value_of,
            )
        }
