"""Secrets, users and certificates are renewed while the site works."""

import contextlib
import json
import subprocess
import threading

import pytest

from support import LAB
from support.attack import SECRETS, claims, play, secrets, status, token
from support.pipeline import Airflow, run_pipeline, until

# The API tells users in pages, of at most 100; two are enough to see that all pages are asked for.
SETTINGS = {"airflow_main_settings": {"api.maximum_page_limit": 2}}
ROTATED = ["admin_password", "api_secret_key", "fernet_key", "jwt_secret", "mysql_password", "redis_password"]


@pytest.fixture(scope="module")
def vaulted(tmp_path_factory):
    """The secrets' values, which are in ansible-vault when the plays are run."""
    values = secrets()
    password = tmp_path_factory.mktemp("vault") / "password"
    password.write_text("of-the-vault\n")

    def vault(action):
        # What the plays have made meanwhile is not encrypted.
        is_vaulted = action == "decrypt"
        files = [path for name in values if (path := SECRETS / name).read_text().startswith("$ANSIBLE") == is_vaulted]
        subprocess.run(["ansible-vault", action, *files], check=True, capture_output=True)  # noqa: S603, S607

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(password))
        vault("encrypt")
        yield values
        vault("decrypt")


@pytest.fixture(scope="module")
def rotated(airflow, vaulted):
    """Renew every secret, and declare users, while the pipeline runs again and again."""
    before = vaulted
    connection = {"connection_id": "before_rotation", "conn_type": "http", "password": "its-password"}
    with contextlib.suppress(RuntimeError):
        airflow.call("DELETE", "/api/v2/connections/before_rotation")
    airflow.call("POST", "/api/v2/connections", connection)
    users = [
        {"username": "ops", "email": "ops@example.com", "roles": ["Op"]},
        {"username": "audit", "email": "audit@example.com"},
    ]
    airflow.unpause("consumer_dag")
    airflow.unpause("producer_dag")
    runs = []
    playing = threading.Event()

    def trigger():
        while not playing.wait(15):
            with contextlib.suppress(OSError, RuntimeError):
                runs.append(airflow.call("POST", "/api/v2/dags/producer_dag/dagRuns", {"logical_date": None}))

    thread = threading.Thread(target=trigger)
    thread.start()
    try:
        play("rotate-secrets.yml", "-e", json.dumps({"airflow_main_users": users, **SETTINGS}))
    finally:
        playing.set()
        thread.join()
    # The administrator's password is a new one, too.
    return {"before": before, "runs": runs, "users": users, "airflow": Airflow()}


def test_every_secret_is_renewed(rotated):
    after = secrets()
    for name in (*ROTATED, "jwt_private_key"):
        assert after[name] != rotated["before"][name], f"{name} is what it was"
    assert not list(SECRETS.glob("*.previous"))


def test_no_task_fails_while_secrets_are_renewed(rotated):
    assert rotated["runs"]
    for run in rotated["runs"]:
        assert rotated["airflow"].follow(run)["state"] == "success", run["dag_run_id"]
        for name in ("task_for_celery_worker", "task_for_edge_worker"):
            assert rotated["airflow"].task(run, name)["try_number"] == 1


def test_the_pipeline_runs_with_the_new_secrets(rotated):
    assert run_pipeline(rotated["airflow"])["consumer"]["state"] == "success"


def test_connections_are_encrypted_with_the_new_key_and_read(rotated, main1):
    assert "its-password" in main1.check_output("airflow connections get before_rotation -o json")


def test_what_was_secret_opens_nothing(rotated, main1, edge1):
    before = rotated["before"]
    airflow = rotated["airflow"]
    with pytest.raises(RuntimeError, match="401"):
        Airflow("admin", before["admin_password"])
    made = token(claims("api", method="worker/edge1"), before["jwt_secret"])
    assert status(airflow, "PATCH", "/edge_worker/v1/worker/edge1", made, {"state": "unknown-to-it"}) == 403
    assert "WRONGPASS" in main1.run(f"REDISCLI_AUTH={before['redis_password']} redis-cli ping").stderr
    login = f"MYSQL_PWD={before['mysql_password']} mysql --protocol tcp --user airflow --execute 'SELECT 1'"
    assert "Access denied" in main1.run(login).stderr
    for host in (main1, edge1):
        content = host.file("/etc/airflow/airflow.env").content_string
        assert not [name for name, value in before.items() if name in ROTATED and value in content]


@pytest.mark.parametrize(
    ("username", "may"),
    [("ops", {"see": 200, "trigger": 200, "connections": 200}), ("audit", {"see": 200, "trigger": 403})],
)
def test_users_may_what_their_roles_allow(rotated, username, may):
    user = Airflow(username, secrets()[f"user_{username}"])
    bearer = f"Bearer {user.token}"
    got = {
        "see": status(user, "GET", "/api/v2/dags/producer_dag", bearer),
        "trigger": status(user, "POST", "/api/v2/dags/producer_dag/dagRuns", bearer, {"logical_date": None}),
        "connections": status(user, "GET", "/api/v2/connections", bearer),
    }
    assert got == {"connections": 403, **may}
    assert status(user, "GET", "/auth/fab/v1/users", bearer) == 403


def test_users_are_kept_in_step(rotated):
    admin = rotated["airflow"]
    users = [{**rotated["users"][0], "roles": ["Viewer"]}, {**rotated["users"][1], "state": "absent"}]
    variables = json.dumps({"airflow_main_users": users, **SETTINGS})
    arguments = ("airflow.yml", "--limit", "localhost,airflow_main", "-e", variables)
    play(*arguments)
    roles = {
        user["username"]: [role["name"] for role in user["roles"]]
        for offset in (0, 2)
        for user in admin.call("GET", f"/auth/fab/v1/users?offset={offset}")["users"]
    }
    assert roles == {"admin": ["Admin"], "ops": ["Viewer"]}
    assert "changed=0" in play(*arguments)


def test_the_administrator_gets_another_name(rotated):
    def call_it(name, former):
        users = [{"username": former, "email": f"{former}@example.com", "state": "absent"}]
        admin = {"airflow_main_admin_username": name, "airflow_main_admin_email": f"{name}@example.com"}
        for playbook in ("secrets.yml", "airflow.yml"):
            variables = json.dumps({"airflow_main_users": users, **admin, **SETTINGS})
            said = play(playbook, "--limit", "localhost,airflow_main", "-e", variables)
        return said

    call_it("boss", "admin")
    try:
        users = Airflow("boss", secrets()["admin_password"]).call("GET", "/auth/fab/v1/users?limit=2")
        assert "admin" not in {user["username"] for user in users["users"]}
        assert "changed=0" in call_it("boss", "admin")
    finally:
        call_it("admin", "boss")


def test_a_certificate_is_renewed_while_workers_work(rotated, main1, edge1):
    serial = "openssl x509 -noout -serial -in /etc/ssl/certs/airflow-api.pem"
    before = main1.check_output(serial)
    failures, looking = [], threading.Event()

    def look():
        while not looking.wait(0.2):
            try:
                # With its authority, by its name.
                assert status(rotated["airflow"], "GET", "/edge_worker/v1/health", "") == 200
            except (OSError, AssertionError) as error:
                failures.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        play("certificates.yml", "-e", "certificates_renew_days=400")
        play("services.yml", "--limit", "localhost,reverse_proxy")
    finally:
        looking.set()
        thread.join()
    assert main1.check_output(serial) != before
    assert failures == []
    assert edge1.service("airflow-edge-worker.service").is_running


def test_a_password_that_the_database_refuses_stops_nothing(rotated, main1):
    """That of a database which somebody else keeps, say."""
    arguments = ("airflow.yml", "--limit", "localhost,airflow_main")
    show = "systemctl show --property=ActiveEnterTimestamp 'airflow-*.service'"
    before = main1.check_output(show)
    variables = {"airflow_celery_database": {"host": "127.0.0.1", "password": "another"}, **SETTINGS}
    with pytest.raises(RuntimeError, match=r"(?s)does not let.*Access denied"):
        play(*arguments, "-e", json.dumps(variables))
    assert main1.check_output(show) == before
    play(*arguments, "-e", json.dumps(SETTINGS))


def test_a_rotation_and_an_installation_go_on_without_an_edge_that_is_off(rotated, edge1):
    before = secrets("jwt_secret")["jwt_secret"]
    LAB.as_root("cut", "edge1")
    try:
        said = [play("rotate-secrets.yml", "-e", json.dumps({"rotate": "jwt_secret", **SETTINGS}), code=4)]
        assert secrets("jwt_secret")["jwt_secret"] != before
        assert not list(SECRETS.glob("*.previous"))
        made = token(claims("api", method="worker/edge1"), before)
        body = {"state": "unknown-to-it"}
        assert status(rotated["airflow"], "PATCH", "/edge_worker/v1/worker/edge1", made, body) == 403
        said.append(play("site.yml", "-e", json.dumps(SETTINGS), directory=".", code=4))
    finally:
        LAB.as_root("up", "edge1")
    assert all("Hosts that could not be reached: edge1." in output for output in said)
    assert before in edge1.file("/etc/airflow/airflow.env").content_string
    until(lambda: "403" in edge1.check_output("journalctl --boot --unit airflow-edge-worker --output cat"))
    play("site.yml", "--limit", "edge1,localhost", "-e", json.dumps(SETTINGS), directory=".")
    # The account is another since it had another name.
    airflow = Airflow()
    until(lambda: airflow.worker("edge1")["state"] == "idle")
    assert run_pipeline(airflow)["consumer"]["state"] == "success"


def test_logins_are_limited(rotated):
    """The last one here, for others would have to wait."""
    # The account is another since it had another name.
    session = Airflow()
    tries = [
        status(session, "POST", "/auth/token", "", {"username": "admin", "password": "a guess"}) for _ in range(30)
    ]
    assert 429 in tries
    assert tries.index(429) <= 15
    # Who is logged in goes on.
    assert session.call("GET", "/api/v2/dags")["total_entries"] > 0
