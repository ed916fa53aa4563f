"""What follows from an inventory (playbooks/group_vars), and that what an inventory sets is honoured."""

import json
import os
import ssl
import subprocess
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from lab import ROOT

GROUPS = {
    "airflow_main": {"hosts": {"main1": {"ansible_host": "192.0.2.10"}}},
    "airflow_edge": {"hosts": {"edge1": {"ansible_host": "192.0.2.20"}}},
    "airflow_celery": {"children": {"airflow_main": {}}},
    "mysql": {"children": {"airflow_main": {}}},
    "redis": {"children": {"airflow_main": {}}},
    "reverse_proxy": {"children": {"airflow_main": {}}},
}
TWO_CELERY_HOSTS = {"airflow_celery": {"hosts": {"main1": {}, "celery1": {"ansible_host": "2001:db8::30"}}}}
VARIABLES = {"airflow_url": "https://main1.example.com", "nas_mount_src": "nas.example.com:/volume1/airflow"}


@pytest.fixture
def ask(tmp_path):
    """Return a function that evaluates expressions on a host of an inventory, with the defaults of roles in sight."""

    def ask(host, expressions, roles=(), groups=None, **variables):
        inventory = tmp_path / "inventory"
        (inventory / "group_vars").mkdir(parents=True)
        (inventory / "hosts.yml").write_text(yaml.safe_dump(GROUPS | (groups or {})))
        secrets = {"secrets_directory": str(tmp_path / "secrets")}
        (inventory / "group_vars/all.yml").write_text(yaml.safe_dump(VARIABLES | secrets | variables))
        (tmp_path / "secrets").mkdir()
        for name in ("mysql_password", "redis_password", "jwt_secret", "main1.pem", "main1.key", "authority.pem"):
            (tmp_path / "secrets" / name).write_text(f"{name} in a file\n")
        for name in ("group_vars", "host_vars"):
            (tmp_path / name).symlink_to(ROOT / "playbooks" / name)
        # Imported, so that their defaults are seen; their tasks are skipped.
        tasks = [{"ansible.builtin.import_role": {"name": role}, "when": False} for role in roles]
        answer = {"content": "{{ answer | to_json }}", "dest": str(tmp_path / "answer.json"), "mode": "0600"}
        tasks.append({"ansible.builtin.copy": answer, "vars": {"answer": expressions}})
        play = {"hosts": host, "connection": "local", "gather_facts": False, "tasks": tasks}
        (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
        command = ["ansible-playbook", "-i", str(inventory), str(tmp_path / "play.yml")]
        environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)  # noqa: S603
        assert done.returncode == 0, done.stdout
        return json.loads((tmp_path / "answer.json").read_text())

    return ask


def test_services_that_serve_their_own_host_alone_listen_on_loopback_without_tls(ask):
    said = ask(
        "main1",
        {
            "mysql": "{{ mysql_bind_address }}{{ mysql_certificate }}",
            "redis": "{{ redis_bind }}{{ redis_certificate }}",
            "database": "{{ site_database }}",
            "broker": "{{ site_broker.host }}",
        },
        roles=["mysql", "redis"],
    )
    assert said["mysql"] == said["redis"] == said["broker"] == "127.0.0.1"
    assert said["database"] == {
        "host": "127.0.0.1",
        "port": 3306,
        "name": "airflow",
        "username": "airflow",
        "password": "mysql_password in a file",
        "ssl": False,
        "verify_identity": True,
        "authority": "",
    }


def test_services_that_other_hosts_use_listen_everywhere_over_tls(ask):
    said = ask(
        "main1",
        {
            "mysql": "{{ [mysql_bind_address, mysql_certificate | trim, mysql_ca_certificate | trim] }}",
            "redis": "{{ [redis_bind, redis_certificate | trim] }}",
            "database": "{{ [site_database.host, site_database.ssl] }}",
            "clients": "{{ site_celery_addresses }}",
            "ports": "{{ site_open_ports }}",
        },
        roles=["mysql", "redis"],
        groups=TWO_CELERY_HOSTS,
    )
    assert said["mysql"] == ["*", "main1.pem in a file", "authority.pem in a file"]
    assert said["redis"] == ["0.0.0.0 ::", "main1.pem in a file"]
    assert said["database"] == ["192.0.2.10", True]
    assert said["clients"] == ["192.0.2.10", "2001:db8::30"]
    ports = {port["port"]: port["sources"] for port in said["ports"]}
    assert ports == {443: [], 3306: said["clients"], 6379: said["clients"]}


def test_workers_are_hosts_that_only_run_tasks(ask):
    groups = TWO_CELERY_HOSTS | {"airflow_edge": {"hosts": {"edge1": {}, "edge2": {}}}, "nas": {"hosts": {"edge2": {}}}}
    assert ask("main1", "{{ site_workers }}", groups=groups) == ["celery1", "edge1"]


OWN_SERVERS = {"mysql": {"hosts": {}}, "redis": {"hosts": {}}}
OWN = {
    "airflow_database_host": "db.example.com",
    "airflow_database_port": 3307,
    "airflow_database_name": "af",
    "airflow_database_authority": "{{ secrets_directory }}/authority.pem",
    "airflow_broker_host": "redis.example.com",
    "airflow_broker_username": "air/flow",
    "airflow_broker_authority": "{{ secrets_directory }}/main1.pem",
}
# What Airflow on main1 is told.
SETTINGS = {
    "settings": "{{ airflow_celery_role_settings }}",
    # Without TLS, some arguments are omitted.
    "client": "{{ airflow_celery_database_client if __airflow_celery_is_ssl else {} }}",
    "files": "{{ airflow_celery_files | items2dict('path', 'content') }}",
    "trusted": "{{ site_authorities }}",
}
SECRETS = {"airflow_celery_fernet_key": "x", "airflow_celery_api_secret_key": "x", "airflow_base_requirements": "x"}
# As in a task of the role.
SECRETS |= {"role_path": str(ROOT / "roles/airflow_celery")}


@pytest.fixture
def airflow(ask):
    def airflow(host="main1", groups=OWN_SERVERS, **variables):
        return ask(host, SETTINGS, roles=["airflow_base", "airflow_celery"], groups=groups, **SECRETS | variables)

    return airflow


def test_servers_of_the_users_own_are_reached_over_tls(airflow):
    said = airflow(**OWN)
    settings = said["settings"]
    assert settings["celery.broker_url"] == (
        "rediss://air%2Fflow:redis_password%20in%20a%20file@redis.example.com:6379/0?ssl_cert_reqs=required"
    )
    account = "airflow:mysql_password%20in%20a%20file@db.example.com:3307/af"
    assert settings["database.sql_alchemy_conn"] == (
        f"mysql+mysqldb://{account}?ssl_ca=/etc/ssl/certs/ca-certificates.crt&ssl_mode=VERIFY_IDENTITY"
    )
    assert settings["database.sql_alchemy_conn_async"] == f"mysql+aiomysql://{account}"
    # The login before the first change knows the authority before the host trusts it.
    assert said["client"]["ca_cert"] == "/etc/airflow/database_authority.pem"
    assert said["client"]["check_hostname"] is True
    assert said["files"]["/etc/airflow/database_authority.pem"] == "authority.pem in a file\n"
    assert all(f"{name} in a file" in said["trusted"] for name in ("authority.pem", "main1.pem"))


def test_a_certificate_of_the_database_without_the_name_is_accepted_from_one_authority_alone(airflow):
    said = airflow(**OWN, airflow_database_ssl_verify_identity=False)
    url = said["settings"]["database.sql_alchemy_conn"]
    assert url.startswith("mysql+pymysql://airflow:")
    assert url.endswith("?ssl_ca=/etc/airflow/database_authority.pem&ssl_check_hostname=false")
    assert said["client"]["ca_cert"] == "/etc/airflow/database_authority.pem"
    assert said["client"]["check_hostname"] is False
    made = {}
    # The file does not exist on this machine.
    program = said["files"]["/opt/airflow/config/database_ssl.py"].replace(
        'cafile="/etc/airflow/database_authority.pem"', ""
    )
    exec(program, made)  # noqa: S102
    context = made["CONNECT_ARGS_ASYNC"]["ssl"]
    assert (context.check_hostname, context.verify_mode) == (False, ssl.CERT_REQUIRED)


def test_servers_of_the_users_own_without_tls(airflow):
    said = airflow(**OWN | {"airflow_database_ssl": False, "airflow_broker_ssl": False, "airflow_broker_db": 2})
    assert said["settings"]["celery.broker_url"].startswith("redis://air%2Fflow:")
    assert said["settings"]["celery.broker_url"].endswith("@redis.example.com:6379/2")
    assert said["settings"]["database.sql_alchemy_conn"].endswith("@db.example.com:3307/af")
    assert "/etc/airflow/database_authority.pem" not in said["files"]


def test_the_mysql_driver_is_built_with_headers_that_mysqls_repository_does_not_depend_on(ask):
    requirements = {"airflow_base_requirements": str(ROOT / "requirements/main.txt")}
    found = ask("main1", {"packages": "{{ __airflow_base_build_packages }}"}, roles=["airflow_base"], **requirements)
    assert {"libssl-dev", "zlib1g-dev", "libzstd-dev", "pkg-config"} <= set(found["packages"])


def test_the_sites_own_servers_are_reached_as_before(airflow):
    said = airflow(groups=TWO_CELERY_HOSTS)
    assert said["settings"]["celery.broker_url"] == (
        "rediss://:redis_password%20in%20a%20file@192.0.2.10:6379/0?ssl_cert_reqs=required"
    )
    assert said["client"]["ca_cert"] == "/etc/ssl/certs/ca-certificates.crt"
    assert "core.hostname_callable" not in said["settings"]


def test_the_main_server_finds_the_logs_of_another_celery_host(airflow):
    """By the address of the inventory, whatever name the host gives itself."""
    said = airflow("celery1", groups=TWO_CELERY_HOSTS)
    assert said["settings"]["core.hostname_callable"] == "celery_hostname.get"
    made = {}
    exec(said["files"]["/opt/airflow/config/celery_hostname.py"], made)  # noqa: S102
    url = urlsplit(f"http://{made['get']()}:8793/log/")
    assert (url.hostname, url.port) == ("2001:db8::30", 8793)


def test_what_an_inventory_sets_for_all_hosts_replaces_what_the_site_needs(ask):
    variables = {
        "mysql_bind_address": "192.0.2.1",
        "mysql_certificate": "of the user",
        "redis_bind": "192.0.2.2",
        "airflow_main_base_url": "https://airflow.example.com",
        "airflow_celery_mounts": ["/srv/data"],
        "nas_server_path": "/export",
        "reverse_proxy_upstream": "192.0.2.3:80",
        "reverse_proxy_certificate": "of the proxy",
    }
    roles = ["mysql", "redis", "airflow_main", "airflow_celery", "nas_server", "reverse_proxy"]
    expressions = {name: f"{{{{ {name} }}}}" for name in variables}
    assert ask("main1", expressions, roles=roles, groups=TWO_CELERY_HOSTS, **variables) == variables


def test_lists_of_an_inventory_are_added_to_what_the_site_needs(ask):
    kim = {"name": "kim", "hosts": ["%"], "password": "x", "priv": "feeds.*:ALL"}
    site = [{"name": "airflow", "hosts": ["127.0.0.1"], "password": "x", "priv": "airflow.*:ALL"}]
    exports = ROOT / "roles/nas_server/templates/airflow.exports.j2"
    said = ask(
        "main1",
        {
            "users": "{{ __mysql_users | map(attribute='name') }}",
            "exports": f"{{{{ lookup('template', '{exports}') }}}}",
        },
        roles=["mysql", "nas_server"],
        mysql_users=[kim],
        mysql_site_users=site,
        nas_server_clients=["192.0.2.99"],
        nas_server_site_clients=["main1", "edge1"],
    )
    assert said["users"] == ["airflow", "kim"]
    [line] = [line for line in said["exports"].splitlines() if line.startswith("/volume1/airflow ")]
    assert [word.partition("(")[0] for word in line.split()[1:]] == ["main1", "edge1", "192.0.2.99"]


def test_options_of_one_kind_of_host_win_over_those_of_all_hosts_and_these_over_the_roles_own(ask):
    template = ROOT / "roles/airflow_base/templates/airflow.env.j2"
    said = ask(
        "edge1",
        {"environment": f"{{{{ lookup('template', '{template}') }}}}"},
        roles=["airflow_base"],
        airflow_base_jwt_secret="secret",  # noqa: S106
        airflow_base_settings={"core.parallelism": 1, "core.load_examples": True, "edge.job_poll_interval": 7},
        airflow_base_host_settings={"core.parallelism": 2},
        airflow_base_role_settings={"edge.job_poll_interval": 2},
        nas_mount_path="/srv/nas",
    )
    lines = said["environment"].splitlines()
    assert {
        'AIRFLOW__CORE__PARALLELISM="2"',
        'AIRFLOW__CORE__LOAD_EXAMPLES="True"',
        'AIRFLOW__EDGE__JOB_POLL_INTERVAL="7"',
        'NAS_PATH="/srv/nas"',
    } <= set(lines)


def test_the_environment_of_an_inventory_comes_before_what_the_role_sets(ask):
    template = ROOT / "roles/airflow_base/templates/airflow.env.j2"
    said = ask(
        "main1",
        {"environment": f"{{{{ lookup('template', '{template}') }}}}"},
        roles=["airflow_base"],
        groups=TWO_CELERY_HOSTS,
        airflow_base_jwt_secret="secret",  # noqa: S106
        airflow_base_role_settings={"core.execution_api_server_url": "http://127.0.0.1:8080/execution/"},
        airflow_base_environment={"HTTPS_PROXY": "http://proxy:3128", "TEXT": 'a "b" \\c $d', "N": 4, "PATH": "/x"},
    )
    lines = said["environment"].splitlines()
    # As EnvironmentFile= in systemd.exec(5) reads quotes.
    assert {'HTTPS_PROXY="http://proxy:3128"', 'TEXT="a \\"b\\" \\\\c $d"', 'N="4"'} <= set(lines)
    hosts = "localhost,127.0.0.1,::1,main1,celery1,192.0.2.10,2001:db8::30"
    assert {f'NO_PROXY="{hosts}"', f'no_proxy="{hosts}"'} <= set(lines)
    # The last line of a name counts.
    assert [line for line in lines if line.startswith("PATH=")][-1].startswith('PATH="/opt/airflow/venv/bin:')


IPV6 = {
    "airflow_main": {"hosts": {"main1": {"ansible_host": "2001:db8::10"}}},
    "airflow_edge": {"hosts": {"edge1": {"ansible_host": "2001:db8::20"}}},
}


def test_addresses_of_ipv6_are_in_brackets_in_urls(airflow):
    said = airflow(groups=TWO_CELERY_HOSTS | IPV6)
    names = ("celery.broker_url", "database.sql_alchemy_conn", "database.sql_alchemy_conn_async")
    found = {name: urlsplit(said["settings"][name]) for name in names}
    assert {url.hostname for url in found.values()} == {"2001:db8::10"}
    assert [url.port for url in found.values()] == [6379, 3306, 3306]
    assert unquote(found["celery.broker_url"].password) == "redis_password in a file"
    # Not a URL.
    assert said["client"]["login_host"] == "2001:db8::10"


def test_servers_of_the_users_own_may_have_addresses_of_ipv6(airflow):
    own = {"airflow_database_host": "2001:db8::40", "airflow_broker_host": "2001:db8::50"}
    said = airflow(**OWN | own, airflow_database_ssl_verify_identity=False)
    assert urlsplit(said["settings"]["database.sql_alchemy_conn"]).hostname == "2001:db8::40"
    assert urlsplit(said["settings"]["celery.broker_url"]).hostname == "2001:db8::50"


def test_an_api_server_on_ipv6_alone_is_asked_there(ask):
    said = ask("main1", {"url": "{{ __airflow_main_api }}"}, roles=["airflow_main"], airflow_main_api_host="::")
    assert said["url"] == "http://[::1]:8080"


def test_what_hosts_with_addresses_of_ipv6_are_served(ask):
    exports = ROOT / "roles/nas_server/templates/airflow.exports.j2"
    said = ask(
        "main1",
        {
            "certificates": "{{ groups | certificate_hosts(hostvars) }}",
            "exports": f"{{{{ lookup('template', '{exports}') }}}}",
            "path": "{{ nas_server_path }}",
        },
        roles=["nas_server"],
        groups=TWO_CELERY_HOSTS | IPV6,
        airflow_url="https://[2001:db8::10]",
        nas_mount_src="[2001:db8::11]:/srv/filestorage",
    )
    assert said["certificates"] == {"main1": ["DNS:main1", "IP:2001:db8::10"]}
    assert said["path"] == "/srv/filestorage"
    # exports(5): an address is not in brackets there.
    assert " 2001:db8::20(rw," in said["exports"]


def test_nginx_listens_on_ipv6_where_the_host_has_it(ask):
    template = ROOT / "roles/reverse_proxy/templates/airflow.conf.j2"
    said = ask(
        "main1",
        {
            str(exists): f"{{{{ lookup('template', '{template}', template_vars={{'__reverse_proxy_ipv6': "
            f"{{'stat': {{'exists': {exists}}}}}}}) }}}}"
            for exists in (True, False)
        },
        roles=["reverse_proxy"],
    )
    lines = "    listen 443 ssl;\n    listen [::]:443 ssl;\n"
    assert lines in said["True"]
    assert said["False"] == said["True"].replace("    listen [::]:443 ssl;\n", "")
