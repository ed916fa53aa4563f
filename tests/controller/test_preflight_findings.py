"""The checks of the role preflight, without Ansible: what they find in an inventory, on the controller and on hosts."""

import runpy

import pytest
import yaml

from docs.variables import ROOT, options_of, roles

VARIABLES = yaml.safe_load((ROOT / "roles/preflight/vars/main.yml").read_text())
PLUGINS = [
    runpy.run_path(str(ROOT / f"plugins/filter/{name}.py"))
    for name in ("preflight", "preflight_external", "preflight_hosts", "preflight_limit")
]
FILTERS = {name: function for plugin in PLUGINS for name, function in plugin["FilterModule"]().filters().items()}
FILES, LISTS, SETTINGS = (PLUGINS[0][name] for name in ("FILES", "LISTS", "SETTINGS"))

GROUPS = {group: ["main1"] for group in ("airflow_main", "airflow_celery", "mysql", "redis", "reverse_proxy")}
GROUPS |= {"airflow_edge": ["edge1", "edge2"], "nas": []}
COMMON = {
    "airflow_url": "https://main1",
    "nas_mount_src": "nas1:/srv",
    "secrets_directory": "/nowhere/secrets",
    "firewall_ssh_sources": ["198.51.100.0/24"],
    "reverse_proxy_port": 443,
    "site_nas_path": "/opt/airflow/filestorage",
}
OWN = {"airflow_database_host": "db.example.com", "airflow_broker_host": "redis.example.com"}


def hostvars(common=None, **hosts):
    names = {host for group in GROUPS.values() for host in group} | set(hosts)
    return {name: COMMON | (common or {}) | hosts.get(name, {}) for name in names}


def inventory(common=None, groups=None, tables=False, **hosts):
    """Return what is found in a good inventory, after these changes."""
    arguments = (VARIABLES["__preflight_renamed"], VARIABLES["__preflight_refused"]) if tables else ()
    return FILTERS["inventory_findings"](GROUPS | (groups or {}), hostvars(common, **hosts), *arguments)


def the_only(findings):
    assert len(findings) == 1, findings
    return findings[0]


def test_a_good_inventory():
    assert inventory(tables=True) == []


@pytest.mark.parametrize("group", ["airflow_main", "airflow_edge", "airflow_celery"])
def test_an_empty_group(group):
    groups = {group: [], "reverse_proxy": []}
    assert f"The group {group} is empty" in the_only(inventory(groups=groups))["what"]


def test_two_main_servers():
    groups = {"airflow_main": ["main1", "main2"], "reverse_proxy": []}
    assert the_only(inventory(groups=groups, main2={}))["what"].startswith("The group airflow_main is main1, main2;")


def test_a_host_that_is_main_and_edge():
    found = the_only(inventory(groups={"airflow_edge": ["main1"]}))
    assert found["what"].startswith("main1 is in airflow_edge and in airflow_main or airflow_celery")


def test_names_of_edge_workers():
    same = the_only(inventory(edge1={"airflow_edge_hostname": "w"}, edge2={"airflow_edge_hostname": "w"}))
    assert "airflow_edge_hostname is 'w' on edge1, edge2" in same["what"]
    assert same["host"] == "edge1 and 1 more"
    # By default the worker has the name of its host.
    assert "'edge2' on edge1, edge2" in the_only(inventory(edge1={"airflow_edge_hostname": "edge2"}))["what"]
    long = the_only(inventory(edge1={"airflow_edge_hostname": "w" * 65}))
    assert f"'{'w' * 65}': 65 characters are too long" in long["what"]
    assert inventory(edge1={"airflow_edge_hostname": "w" * 64}) == []


def test_a_reverse_proxy_elsewhere():
    groups = {"reverse_proxy": ["edge1"]}
    assert the_only(inventory(groups=groups))["what"].startswith("The group reverse_proxy is edge1; it takes the main")


def test_an_api_host_that_the_reverse_proxy_does_not_ask():
    assert "airflow_main_api_host is 192.0.2.1" in the_only(inventory({"airflow_main_api_host": "192.0.2.1"}))["what"]
    assert inventory({"airflow_main_api_host": "192.0.2.1"}, groups={"reverse_proxy": []}) == []


@pytest.mark.parametrize(
    ("url", "says", "remedy"),
    [
        ("", "airflow_url is not set", "https://main1.example.com"),
        ("https://main1/", "without a slash at the end", "https://main1.example.com"),
        ("main1", "it has to be http(s)://host", "https://main1.example.com"),
        ("ftp://main1", "it has to be http(s)://host", "https://main1.example.com"),
        ("https://main1:port", "it has to be http(s)://host", "https://main1.example.com"),
        ("https://main1/edge_worker/v1/rpcapi", "the address of the edge API", "/edge_worker: https://main1"),
        ("https://main1:444/edge_worker/v1", "the address of the edge API", "/edge_worker: https://main1:444"),
        ("http://main1", "but main1 serves HTTPS, on port 443", "Write https://main1.example.com, or empty the group"),
        ("https://main1:8443", "but main1 serves HTTPS, on port 443", "Write https://main1.example.com, or empty"),
        ("https://main1/airflow", "at the root of its name", "Write https://main1.example.com, or empty the group"),
    ],
)
def test_an_address_that_cannot_be_right(url, says, remedy):
    found = the_only(inventory({"airflow_url": url}))
    assert says in found["what"]
    assert f"'{url}'" in found["what"] or not url
    assert remedy in found["remedy"]
    # All three hosts have it, and it is said once.
    assert found["host"] == "main1 and 2 more"


def test_an_address_of_one_host():
    found = the_only(inventory(edge2={"airflow_url": "https://198.51.100.1/"}))
    assert found["host"] == "edge2"


def test_a_reverse_proxy_at_another_port():
    assert inventory({"airflow_url": "https://main1:8443", "reverse_proxy_port": 8443}) == []
    found = the_only(inventory({"reverse_proxy_port": 8443}))
    assert "Write https://main1.example.com:8443, or" in found["remedy"]


def test_a_reverse_proxy_of_the_users_own():
    own = {"reverse_proxy": []}
    assert inventory({"airflow_url": "https://proxy.example.com:444/airflow"}, groups=own) == []
    found = the_only(inventory({"airflow_url": "http://proxy:8080"}, groups=own))
    assert "would cross the network unencrypted" in found["what"]
    assert "set api_plain_http to true" in found["remedy"]
    assert inventory({"airflow_url": "http://proxy:8080", "api_plain_http": True}, groups=own) == []
    # As `-e` gives it.
    assert inventory({"airflow_url": "http://proxy:8080", "api_plain_http": "false"}, groups=own) != []


def test_one_nas_for_all():
    # Whether this is the same share is tried on the hosts.
    assert inventory(edge2={"nas_mount_src": "192.0.2.5:/srv"}) == []
    assert "it has to be a share, as server:/path" in the_only(inventory({"nas_mount_src": "/srv"}))["what"]
    assert (
        "nas_mount_path is /opt/airflow/filestorage on main1, edge1 and /srv/nas on edge2"
        in the_only(inventory(edge2={"site_nas_path": "/srv/nas"}))["what"]
    )


@pytest.mark.parametrize(
    "name", ["airflow_edge_queues", "airflow_celery_mounts", "airflow_dags_src", "certificates_names"]
)
def test_a_text_in_the_place_of_a_list(name):
    found = the_only(inventory({name: "a"}))
    assert found["what"] == f"{name} is the text 'a', and has to be a list."
    assert f'Write {name}: [a], on a command line -e \'{{"{name}": ["a"]}}\'' in found["remedy"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_on_this_machine(name, tmp_path):
    path = tmp_path / "file.pem"
    found = the_only(inventory({name: str(path)}, groups={"mysql": [], "redis": []}, main1=OWN))
    assert found["what"] == f"{name} is '{path}', which is not a file on this machine."
    path.touch()
    # A relative path depends on where Ansible looks; the site's own authority is created later.
    for value in (str(path), "", "requirements/main.txt", "/nowhere/secrets/authority.pem"):
        assert inventory({name: value}, groups={"mysql": [], "redis": []}, main1=OWN) == []


@pytest.mark.parametrize("kind", ["base", "celery", "main", "edge"])
def test_settings_without_a_section(kind):
    name = f"airflow_{kind}_settings"
    assert the_only(inventory({name: {"parallelism": 3}}))["what"] == f"{name} has parallelism, without the section."
    assert "has to be a mapping" in the_only(inventory({name: "core.parallelism=3"}))["what"]


def test_a_celery_worker_among_the_components():
    found = the_only(inventory(main1={"airflow_main_components": ["api-server", "celery-worker"]}))
    assert "the group airflow_celery says where" in found["what"]


def external(common=None, groups=None, **hosts):
    return FILTERS["external_findings"](GROUPS | (groups or {}), hostvars(common, **hosts))


SERVICES = [("mysql", "airflow_database"), ("redis", "airflow_broker")]


@pytest.mark.parametrize(("group", "prefix"), SERVICES)
def test_a_service_has_one_server(group, prefix):
    assert external() == []
    none = the_only(external(groups={group: []}))
    assert none["what"] == f"Both the group {group} and {prefix}_host are empty."
    assert external({f"{prefix}_host": "server"}, groups={group: []}) == []
    two = the_only(external(groups={group: ["main1", "edge1"]}))
    assert two["what"] == f"The group {group} is main1, edge1; it takes one host at most."


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("airflow_database_host", "db"),
        ("airflow_database_name", "other"),
        ("airflow_database_ssl_verify_identity", False),
        ("airflow_broker_host", "broker"),
        ("airflow_broker_username", "other"),
        ("airflow_broker_authority", "/other.pem"),
    ],
)
def test_an_input_of_a_server_that_is_not_used_is_refused(name, value):
    group = "mysql" if "database" in name else "redis"
    found = the_only(external({name: value}))
    assert found["what"].startswith(f"{name} is '{value}', but Airflow uses the")
    assert found["what"].endswith(f"on main1, of the group {group}.")


def test_inputs_as_they_are_by_default_and_those_of_every_server_are_accepted():
    assert external({"airflow_database_ssl": "true", "airflow_broker_db": 0, "airflow_database_clients": ["a"]}) == []


def test_hosts_that_would_not_find_each_others_tasks():
    own = {"redis": [], "airflow_celery": ["main1", "celery1"]}
    common = {"airflow_broker_host": "broker"}
    # A host may reach the server by an address of its own.
    assert external(common, own, celery1={"airflow_broker_host": "192.0.2.1"}) == []
    found = the_only(external(common, own, celery1={"airflow_broker_db": 1}))
    assert found["what"] == "airflow_broker_db is '0' on main1 and '1' on celery1."
    assert (
        "airflow_broker_port is '6379/0'"
        in the_only(external(common | {"airflow_broker_port": "6379/0"}, own, celery1={}))["what"]
    )


def test_a_certificate_without_the_name_needs_its_authority():
    own, common = {"mysql": []}, {"airflow_database_host": "db", "airflow_database_ssl_verify_identity": False}
    found = the_only(external(common, own))
    assert found["what"].startswith(
        "airflow_database_ssl_verify_identity is 'False', and airflow_database_authority is empty"
    )
    assert external(common | {"airflow_database_authority": "/a.pem"}, own) == []
    assert external(common | {"airflow_database_ssl": False}, own) == []


@pytest.mark.parametrize("old", VARIABLES["__preflight_renamed"])
def test_an_old_name(old):
    new = VARIABLES["__preflight_renamed"][old]
    found = the_only(inventory({old: "https://main1:444/edge_worker/v1/rpcapi"}, tables=True))
    assert found["what"].startswith((f"{old} is now {new}", f"{old} is not supported any more"))
    assert new.removeprefix("Remove the variable. ") in f"{found['what']} {found['remedy']}"
    assert found["host"] == "main1 and 2 more"
    if old == "airflow_edge_api_url":
        assert found["remedy"] == "Write airflow_url: https://main1:444"


@pytest.mark.parametrize("name", VARIABLES["__preflight_refused"])
def test_a_name_that_cannot_be_set(name):
    found = the_only(inventory(edge1={name: "x"}, tables=True))
    assert found["what"] == f"{name} cannot be set: {VARIABLES['__preflight_refused'][name]}"
    assert found["host"] == "edge1"


def test_names_are_those_of_the_roles():
    names = {name for role in roles() for name in options_of(role)}
    renamed = VARIABLES["__preflight_renamed"]
    assert not names & set(renamed)
    assert {new for new in renamed.values() if " " not in new} <= names
    assert set(VARIABLES["__preflight_refused"]) <= names
    assert set(LISTS) | set(SETTINGS) <= names


def test_ten_names_at_most_are_refused():
    """Whatever else an inventory sets is honoured."""
    assert len(VARIABLES["__preflight_refused"]) <= 10


# Secrets


def place(tmp_path, secrets, sources=None, fernet_key=""):
    """Return what is found for an inventory in tmp_path/inventories/production."""
    directory = tmp_path / "inventories/production"
    directory.mkdir(parents=True)
    if fernet_key:
        (tmp_path / fernet_key).parent.mkdir(parents=True)
        (tmp_path / fernet_key).touch()
    variables = hostvars({"secrets_directory": str(tmp_path / secrets), "inventory_dir": str(directory)})
    return FILTERS["secrets_findings"](GROUPS, variables, sources or [str(directory)], str(tmp_path))


def test_secrets_in_an_inventory(tmp_path):
    old, new = tmp_path / "inventories/production/secrets", tmp_path / "secrets/production"
    place_of_key = "inventories/production/secrets/fernet_key"
    found = the_only(place(tmp_path, "inventories/production/secrets", fernet_key=place_of_key))
    assert f"secrets_directory is {old}, in the inventory directory" in found["what"]
    assert f"\n    mkdir -p {new.parent} && mv {old} {new}\n" in found["remedy"]
    line = 'secrets_directory: "{{ inventory_dir | dirname | dirname }}/secrets/{{ inventory_dir | basename }}"'
    assert found["remedy"].endswith(f"\n    {line}")


def test_an_inventory_elsewhere(tmp_path):
    """The line that is to be set names the directory, for it does not follow from that of the inventory."""
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    variables = hostvars({"secrets_directory": str(directory / "secrets"), "inventory_dir": str(directory)})
    found = the_only(FILTERS["secrets_findings"](GROUPS, variables, [], str(tmp_path / "checkout")))
    # There are none yet that would have to be moved.
    line = f"secrets_directory: {tmp_path}/checkout/secrets/elsewhere"
    assert found["remedy"] == f"Set this in group_vars/all.yml of the inventory:\n    {line}"


def test_secrets_in_another_source(tmp_path):
    """A directory that has no hosts, and a link to it."""
    (tmp_path / "more").mkdir()
    (tmp_path / "link").symlink_to("more")
    assert "in the inventory directory" in the_only(place(tmp_path, "link/s", sources=[str(tmp_path / "more")]))["what"]


def test_secrets_that_were_left_behind(tmp_path):
    old = "inventories/production/secrets"
    found = the_only(place(tmp_path, "secrets/production", fernet_key=f"{old}/fernet_key"))
    assert found["what"].startswith(f"secrets_directory is {tmp_path}/secrets/production, which has no fernet_key")
    assert "no playbook can create them again" in found["remedy"]
    assert f"    mkdir -p {tmp_path}/secrets && mv {tmp_path / old} {tmp_path}/secrets/production" in found["remedy"]


def test_a_directory_that_is_there_already_is_not_moved_into(tmp_path):
    (tmp_path / "secrets/production").mkdir(parents=True)
    found = the_only(place(tmp_path, "secrets/production", fernet_key="inventories/production/secrets/fernet_key"))
    assert f"mv -n {tmp_path}/inventories/production/secrets/* {tmp_path}/secrets/production/" in found["remedy"]


def test_secrets_at_their_place(tmp_path):
    assert place(tmp_path, "secrets/production", fernet_key="secrets/production/fernet_key") == []


def test_secrets_of_the_lab(tmp_path):
    assert place(tmp_path, "inventories/production/.lab/demo/secrets") == []


def test_secrets_without_a_place():
    found = FILTERS["secrets_findings"](GROUPS, hostvars({"secrets_directory": ""}), [], "/")
    assert the_only(found)["what"] == "secrets_directory is not set."


def test_a_rotation_that_was_interrupted():
    files = ["/s/redis_password.previous", "/s/jwt_secret.previous"]
    found = the_only(FILTERS["rotation_findings"](files, ["/i/my hosts.yml"]))
    assert "there is jwt_secret.previous, redis_password.previous in /s" in found["what"]
    command = "ansible-playbook -i '/i/my hosts.yml' playbooks/rotate-secrets.yml -e rotate=jwt_secret,redis_password"
    assert found["remedy"].endswith(f"\n    {command}")
    assert FILTERS["rotation_findings"]([], []) == []


def test_a_fernet_key_that_cannot_read_what_is_there():
    found = the_only(FILTERS["fernet_key_findings"]("kkk", "main1", "/s", ["ooo", "ppp"]))
    assert found["what"].startswith("/s/fernet_key is not the key with which main1 encrypts")
    assert "kkk" not in str(found)
    assert FILTERS["fernet_key_findings"]("ooo", "main1", "/s", ["ooo"]) == []
    # Before the first installation.
    assert FILTERS["fernet_key_findings"]("", "main1", "/s", []) == []


# Certificates


def certificate(path, key_path, common=None, **changes):
    read = {"public_key": "P", "expired": False, "not_after": "20260101", "subject_alt_name": ["DNS:main1"]} | changes
    variables = hostvars({"api_certificate": str(path), "api_private_key": str(key_path)} | (common or {}))
    return FILTERS["certificate_findings"](GROUPS, variables, certificate=read, key={"public_key": "P"})


def test_a_certificate_of_the_users_own(tmp_path):
    path = tmp_path / "own.pem"
    path.touch()
    assert certificate(path, path) == []
    assert certificate("", "") == []
    assert f"api_private_key is '{path}.old', which is not a file" in the_only(certificate(path, f"{path}.old"))["what"]
    assert "which is not the key of api_certificate" in the_only(certificate(path, path, public_key="Q"))["what"]
    assert "which expired at 20260101 (UTC)" in the_only(certificate(path, path, expired=True))["what"]
    other = the_only(certificate(path, path, subject_alt_name=["DNS:*.example.com"]))
    assert f"airflow_url is 'https://main1', but api_certificate, '{path}', is for DNS:*.example.com" in other["what"]
    assert (
        certificate(path, path, {"airflow_url": "https://a.example.com"}, subject_alt_name=["DNS:*.Example.com"]) == []
    )
    assert certificate(path, path, {"airflow_url": "https://192.0.2.1"}, subject_alt_name=["IP:192.0.2.1"]) == []


def test_a_certificate_that_cannot_be_read(tmp_path):
    path = tmp_path / "own.pem"
    path.touch()
    variables = hostvars({"api_certificate": str(path), "api_private_key": str(path)})
    read = {"failed": True, "msg": "unable to load certificate"}
    findings = FILTERS["certificate_findings"](GROUPS, variables, certificate=read, key={"public_key": "P"})
    assert (
        the_only(findings)["what"] == f"api_certificate is '{path}', which cannot be read: unable to load certificate"
    )


# Hosts


@pytest.mark.parametrize(
    ("name", "release", "init", "is_good"),
    [
        ("Debian", "12.5", "systemd", True),
        ("Debian", "n/a", "systemd", True),
        ("Debian", "11.11", "systemd", False),
        ("Ubuntu", "22.04", "systemd", True),
        ("Ubuntu", "20.04", "systemd", False),
        ("Rocky", "9.4", "systemd", False),
        ("Debian", "12.5", "openrc", False),
    ],
)
def test_operating_systems(name, release, init, is_good):
    facts = {"distribution": name, "distribution_version": release, "service_mgr": init}
    findings = FILTERS["system_findings"](facts, "edge1")
    assert (findings == []) == is_good
    assert is_good or findings[0]["what"] == f"edge1 runs {name} {release} with {init}."


def answers(*texts):
    return [{"rc": 0, "stdout": f"{text}\r\n"} for text in texts]


def test_the_version_of_python():
    assert FILTERS["python_findings"](answers("3.11 0.1"), "edge1", "/python") == []
    old = the_only(FILTERS["python_findings"](answers("3.9 0.1"), "edge1", "/python"))
    assert old["what"] == "airflow_base_python is /python, which is Python 3.9 on edge1."
    missing = the_only(FILTERS["python_findings"]([{"rc": 127, "stdout": ""}], "edge1", "/python"))
    assert missing["what"] == "airflow_base_python is /python, which is missing on edge1."


@pytest.mark.parametrize("version", ["4.2", 4.2, 4.1, 4.0, "4.0", 3, "3"])
def test_versions_of_nfs_as_yaml_reads_them(version):
    assert inventory({"nas_mount_version": version}) == []


@pytest.mark.parametrize("version", [4, "4.3", "v4.1", 2, ""])
def test_a_version_that_nfs_does_not_have(version):
    found = the_only(inventory({"nas_mount_version": version}))
    assert f"nas_mount_version is '{version}'." in found["what"]
    assert '"4.2", "4.1", "4.0" or "3"' in found["remedy"]


def test_a_version_among_the_mount_options():
    options = {"nas_mount_options": ["vers=4.1", "ro"]}
    found = the_only(inventory(options))
    assert found["host"] == "main1 and 2 more"
    assert found["what"] == "nas_mount_options has vers=4.1, but nas_mount_version is 4.2."
    assert found["remedy"] == 'Remove vers=4.1 from nas_mount_options, and set nas_mount_version: "4.1".'
    # The whole list of an old inventory, with the version that is the default.
    assert inventory({"nas_mount_options": ["vers=4.2", "hard", "nconnect=4"]}) == []
    assert inventory({**options, "nas_mount_version": 4.1}) == []


def test_nfs_3_from_the_nas_of_the_site():
    def found(**nas):
        return inventory({"nas_mount_version": 3}, groups={"nas": ["nas1"]}, nas1=nas)

    assert "nas1, of the group nas, serves NFS 4 only" in the_only(found())["what"]
    with_firewall = the_only(found(nas_server_vers3=True))
    assert "has a firewall that opens port 2049 only" in with_firewall["what"]
    assert with_firewall["remedy"] == "Remove nas_mount_version: nas1 serves NFS 4.2."
    assert found(nas_server_vers3=True, firewall_enabled=False) == []


def test_the_clock():
    """The quickest answer counts: the others took long."""
    assert FILTERS["clock_findings"](answers("3.11 9.0", "3.11 0.2"), "edge1", answers("3.13 0.1"), "main1") == []
    found = the_only(FILTERS["clock_findings"](answers("3.11 30.2", "3.11 31"), "edge1", answers("3.13 0.2"), "main1"))
    assert found["what"].startswith("The clock of edge1 differs from that of main1 by 30.0 s.")
    assert FILTERS["clock_findings"](answers("3.11 -30"), "edge1", answers("3.13 0.2"), "main1") != []
    # The main server is left out by --limit.
    assert FILTERS["clock_findings"](answers("3.11 30"), "edge1", [], "main1") == []


SHARE = {"host": "edge1", "source": "nas1:/srv", "uid": 50000, "gid": 50001, "version": "4.2"}


@pytest.mark.parametrize(
    ("code", "stdout", "says", "remedy"),
    [
        (11, "", "the name nas1 is not known there", "DNS"),
        (12, "port 2049", "nas1 does not answer on TCP port 2049", "firewall"),
        (13, "", "the server refuses the mount", "Export /srv to edge1 over NFS 4.2"),
        (
            13,
            "accepts 4.1",
            "nas_mount_version is 4.2, which the server refuses. It accepts 4.1.",
            'Set nas_mount_version: "4.1"',
        ),
        (14, "", "uid 50000 (airflow_base_uid) cannot write there", "airflow_base_gid"),
        (15, "", "no hard links", "another file system"),
        (124, "", "did not answer within 150 s", "overloaded"),
        (1, "", "ended with code 1", "by hand"),
    ],
)
def test_the_nas(code, stdout, says, remedy):
    result = {"rc": code, "stdout": stdout, "stderr": "mount:\n   it failed"}
    found = the_only(FILTERS["nas_findings"](result, SHARE, guard=".guard"))
    assert "nas_mount_src is nas1:/srv, and edge1 cannot use it: " in found["what"]
    assert says in found["what"]
    assert found["what"].endswith("It said: mount: it failed")
    assert remedy in found["remedy"]


@pytest.mark.parametrize(
    ("main", "edge", "says"),
    [
        ("identity a-1", "identity b-2", ".guard of main1 is a-1 and .guard of edge1 is b-2."),
        ("identity nas1:/srv", "identity ", ".guard of main1 is nas1:/srv and .guard of edge1 is missing."),
        ("identity", "identity", ".guard of main1 is missing and .guard of edge1 is missing."),
        ("identity a-1", "identity a-1", ".guard is a-1 on both, so one is a copy of the other."),
    ],
)
def test_two_shares(main, edge, says):
    reference = {"host": "main1", "source": "192.0.2.5:/srv", "stdout": f"mark .airflow-probe-1\n{main}"}
    result = {"rc": 16, "stdout": edge, "stderr": ""}
    found = the_only(FILTERS["nas_findings"](result, SHARE, guard=".guard", main=reference))
    assert "nas_mount_src is nas1:/srv on edge1 and 192.0.2.5:/srv on main1, and these are two shares" in found["what"]
    assert found["what"].endswith(says)
    assert "Correct nas_mount_src of edge1 or of main1" in found["remedy"]


def test_a_nas_that_can_be_used():
    assert FILTERS["nas_findings"]({"rc": 0}, SHARE, guard="") == []


def database(version="", code=0, error="", is_own=True, **packages):
    greeting = {"rc": code, "stdout": version, "stderr": error}
    return FILTERS["database_findings"](greeting, "main1", "db", 3306, is_own, **packages)


MISSING = "mysql-server:\n  Installed: (none)\n  Candidate: (none)\n"
OFFERED = "mysql-server:\n  Installed: (none)\n  Candidate: 8.0.36\n"
MARIADB = "mariadb-server:\n  Installed: 1:10.11\n"


def test_the_database_server():
    assert database("8.4.6") == []
    silent = the_only(database(code=3, error="refused"))
    assert silent["what"] == "airflow_database_host is db, and main1 gets no MySQL greeting from its port 3306: refused"
    assert "MariaDB is there (5.5.5-10.11.6-MariaDB)" in the_only(database("5.5.5-10.11.6-MariaDB"))["what"]
    assert the_only(database("5.7.44"))["what"] == "airflow_database_host is db, which runs MySQL 5.7.44."
    tls = the_only(database("8.4.6", error="TLS: wrong name"))
    assert "cannot verify a TLS connection to this server: TLS: wrong name" in tls["what"]


def broker(code=0, error="", username="", **result):
    result = result or {"rc": code, "stderr": error}
    return FILTERS["broker_findings"](result, "main1", "redis.example.com", 6380, username, "/s/redis_password")


def test_the_broker():
    assert broker() == []
    missing = the_only(broker(skipped=True))
    assert "/s/redis_password does not exist" in missing["what"]
    assert "run playbooks/secrets.yml, and give Redis" in missing["remedy"]
    silent = the_only(broker(1, "[Errno 111] Connection refused\n"))
    assert silent["what"].endswith("main1 gets no answer from its port 6380: [Errno 111] Connection refused")
    assert "airflow_broker_port" in silent["remedy"]
    refused = the_only(broker(1, "Redis: WRONGPASS invalid username-password pair", "kim"))
    assert "does not serve the user kim (airflow_broker_username) on main1: WRONGPASS" in refused["what"]
    assert "the user default on main1" in the_only(broker(1, "Redis: NOPERM"))["what"]
    untrusted = the_only(broker(1, "TLS: CERTIFICATE_VERIFY_FAILED"))
    assert "cannot verify a TLS connection to port 6380" in untrusted["what"]
    assert "airflow_broker_authority" in untrusted["remedy"]
    crashed = the_only(broker(1, "Traceback\n  File\nValueError: what happened"))
    assert crashed["what"].endswith("ValueError: what happened")


def test_the_database_server_of_the_site():
    assert database(code=3, is_own=False, packages=OFFERED) == []
    assert database(code=3, is_own=False, packages=MISSING, apt_source={"uris": "x"}) == []
    missing = the_only(database(code=3, is_own=False, packages=MISSING))
    assert missing["what"].startswith("mysql_apt_source is empty, and db knows no package mysql-server")
    assert "the package mariadb-server" in the_only(database(code=3, is_own=False, packages=MARIADB))["what"]
    assert the_only(database("5.7.44", is_own=False))["what"].startswith(
        "The host of the group mysql is db, which runs"
    )


# The report


def test_findings_of_all_hosts_are_collected_once():
    one, two = ({"host": "site", "what": what, "remedy": ""} for what in "ab")
    variables = {"main1": {"__preflight_findings": [one]}, "edge1": {"__preflight_findings": [one, two]}, "nas1": {}}
    assert FILTERS["collected_findings"](variables | {"localhost": {}}) == [one, two]


def test_the_table_can_be_read_and_commands_can_be_copied():
    command = f"    mv {'/a' * 60} {'/b' * 60}"
    findings = [
        {"host": "edge1", "what": "wrong " * 30, "remedy": f"Do this:\n{command}\nand that."},
        {"host": "site", "what": "x", "remedy": "y"},
    ]
    lines = FILTERS["findings_table"](findings).splitlines()
    assert lines[0].split() == ["host", "|", "what", "is", "wrong", "|", "what", "to", "do"]
    assert any(line.endswith(f"| {command}") for line in lines)
    assert all(len(line) <= 112 for line in lines if command not in line)
    assert not any(line.endswith(" ") for line in lines)
    assert lines[-1].split() == ["site", "|", "x", "|", "y"]


def test_a_value_or_its_roles_default():
    value_of = FILTERS["value_of"]
    assert value_of({"main1": {"mysql_port": 3307}}, "main1", "mysql_port") == 3307
    assert value_of({"main1": {}}, "main1", "mysql_port") == 3306


def test_a_host_named_localhost():
    groups = {"airflow_edge": ["localhost"]}
    assert the_only(inventory(groups=groups, localhost={}))["what"].startswith("A host of the site is named localhost")


def test_workers_that_would_not_wait_for_the_nas():
    found = the_only(inventory({"airflow_edge_mounts": ["/srv/data"]}, groups={"airflow_edge": ["edge1"]}))
    assert found["what"].startswith("airflow_edge_mounts is /srv/data, without the NAS at /opt/airflow/filestorage")
    assert inventory({"airflow_edge_mounts": []}) == []
    assert inventory({"airflow_celery_mounts": ["/srv/data", "/opt/airflow/filestorage"]}) == []


def test_options_of_the_main_server_on_a_celery_host():
    groups = {"airflow_celery": ["main1", "celery1"]}
    settings = {"airflow_main_settings": {"core.parallelism": 32}}
    found = the_only(inventory(settings, groups=groups, celery1={}))
    assert (found["host"], found["what"]) == (
        "celery1",
        "airflow_main_settings has core.parallelism, and is for the main server alone.",
    )
    settings["airflow_celery_settings"] = {"core.parallelism": 16}
    assert inventory(settings, groups=groups, celery1={}) == []


@pytest.mark.parametrize(
    ("limit", "right"),
    [
        ("edge1", "edge1,localhost"),
        ("edge*,main1", "'edge*,main1,localhost'"),
        ("2001:db8::1", "2001:db8::1,localhost"),
        ("@site.retry", "@site.retry,localhost"),
        # Added to these patterns, localhost would not be kept.
        ("!main1", "edge1,edge2,localhost"),
        ("airflow_edge:&berlin", "edge1,edge2,localhost"),
    ],
)
def test_a_limit_with_this_machine(limit, right):
    found = the_only(FILTERS["limit_findings"](limit, ["edge1", "edge2"]))
    assert found["remedy"] == f"Run the playbook with\n    --limit {right}"


def test_limits_that_are_fine():
    assert FILTERS["limit_findings"]("", ["main1"]) == []
    assert FILTERS["limit_findings"]("", ["main1"], allowed=False) == []
    assert FILTERS["limit_findings"]("edge1,localhost", ["localhost", "edge1"]) == []


def test_a_limit_where_none_is_allowed():
    found = the_only(FILTERS["limit_findings"]("edge1,localhost", ["localhost", "edge1"], allowed=False))
    assert found["what"].startswith("--limit is edge1,localhost; every host needs the new secrets")
