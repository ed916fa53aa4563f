"""Certificates of the user's own, then a reverse proxy: nginx on out1, as docs/security.md describes it."""

import json
import re
import ssl

import pytest
import yaml

from lab import ROOT
from support import LAB, STATE, address
from support.attack import play
from support.pipeline import Airflow, run_pipeline, until

CHECK = "certificate-check-nginx.service"


def make_certificate(host, name, days=9):
    """Make a certificate by nobody's authority, /etc/ssl/NAME.pem, and its key, .key; return both as PEM texts."""
    files = (f"/etc/ssl/{name}.pem", f"/etc/ssl/{name}.key")
    host.check_output(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days %s -subj /CN=%s"
        " -addext subjectAltName=DNS:%s,DNS:%s.lab.test -out %s -keyout %s", str(days), name, name, name, *files
    )  # fmt: skip
    return [host.check_output(f"cat {file}") + "\n" for file in files]


def served():
    return ssl.get_server_certificate((address("main1"), 443))


def test_a_certificate_of_your_own(main1, tmp_path):
    certificate, key = make_certificate(main1, "main1")
    files = {"api_certificate": tmp_path / "main1.pem", "api_private_key": tmp_path / "main1.key"}
    for path, text in zip(files.values(), (certificate, key), strict=True):
        path.write_text(text)
    # A site of somebody's own, at the place of the distribution's welcome page.
    main1.check_output("echo 'server { listen 127.0.0.1:8099; return 204; }' >/etc/nginx/sites-enabled/default")
    variables = files | {"api_authority": files["api_certificate"], "reverse_proxy_hsts_max_age": 600}
    play("../site.yml", "-e", json.dumps(variables, default=str))
    assert served() == certificate
    main1.check_output("rm /etc/nginx/sites-enabled/default")
    session = until(lambda: Airflow(authority=files["api_certificate"]), 60)
    with session.opener.open(f"{session.url}/api/v2/version") as answer:
        assert answer.headers["Strict-Transport-Security"] == "max-age=600"
    assert run_pipeline(session)["consumer"]["state"] == "success"


def test_a_certificate_that_ends_soon_is_a_failed_unit(main1):
    """The one of the test above ends in 9 days: site.yml does not fail, and the host says so."""
    assert until(lambda: CHECK in main1.check_output("systemctl --failed --no-legend --plain"), 30)
    assert main1.run("systemctl is-system-running").stdout.strip() == "degraded"
    said = main1.check_output(f"journalctl --unit {CHECK} --priority err --output cat --no-pager")
    assert re.search(r"(?m)^/etc/ssl/certs/airflow-api\.pem ends at .+ GMT\. Run site\.yml", said), said


def test_a_certificate_that_another_program_keeps(main1):
    """An ACME client, say: it renews the files, and has nginx read them again."""
    variables = {
        "api_certificate": "",
        "reverse_proxy_certificate_file": "/etc/ssl/main1.pem",
        "reverse_proxy_private_key_file": "/etc/ssl/main1.key",
    }
    play("services.yml", "-e", json.dumps(variables))
    before = served()
    # The check follows the variable: this file still has the certificate that ends in 9 days.
    assert main1.run(f"systemctl restart {CHECK}").rc != 0
    certificate, _ = make_certificate(main1, "main1", days=90)
    main1.check_output("systemctl reload nginx.service")
    until(lambda: served() == certificate, 20)
    assert served() != before
    main1.check_output(f"systemctl restart {CHECK}")
    assert CHECK not in main1.check_output("systemctl --failed --no-legend --plain")


@pytest.fixture(scope="module")
def inventory():
    """The lab's inventory, without a reverse proxy of ours."""
    groups = yaml.safe_load((ROOT / "inventories/lab/hosts.yml").read_text())
    del groups["reverse_proxy"]
    # As deep as the one it replaces: the lab's variables find their files from there.
    path = STATE / "hosts.yml"
    path.write_text(yaml.safe_dump(groups))
    (STATE / "group_vars").unlink(missing_ok=True)
    (STATE / "group_vars").symlink_to(ROOT / "inventories/lab/group_vars")
    return path


@pytest.fixture(scope="module")
def proxy(out1, main1):
    """The server of docs/security.md, with a certificate of its own."""
    LAB.as_root("up", "out1")
    out1.check_output("apt-get update --quiet && apt-get install --yes --quiet --no-install-recommends nginx")
    path = STATE / "out1.pem"
    path.write_text(make_certificate(out1, "out1")[0])
    [example] = re.findall(r"(?s)```nginx\n(.*?)```", (ROOT / "docs/security.md").read_text())
    example = example.replace("airflow.example.com", "out1").replace("192.0.2.10", address("main1"))
    example = example.replace("/etc/ssl/airflow.", "/etc/ssl/out1.")
    out1.check_output("printf %s > /etc/nginx/conf.d/airflow.conf", example)
    out1.check_output("nginx -t && systemctl restart nginx.service")
    return path


@pytest.fixture(scope="module", params=["", "/team/airflow"])
def airflow(request, inventory, proxy):
    """A session with the site behind the proxy, at the root of its name or below a path."""
    url = f"https://out1{request.param}"
    variables = {
        "airflow_url": url,
        "airflow_main_api_host": address("main1"),
        "airflow_main_proxy_addresses": [address("out1")],
        "api_authority": str(proxy),
    }
    arguments = ["-i", str(inventory), "-e", json.dumps(variables)]
    play("../site.yml", *arguments)
    said = play("../site.yml", *arguments)
    assert re.findall(r"changed=(\d+)", said) == ["0"] * len(re.findall("changed=", said))
    return until(lambda: Airflow(url=url, authority=proxy), 60)


def test_the_pipeline_runs(airflow):
    assert run_pipeline(airflow)["consumer"]["state"] == "success"


def test_the_edge_worker_uses_it(airflow, edge1, out1):
    path = airflow.url.removeprefix("https://out1")
    log = out1.check_output("cat /var/log/nginx/access.log")
    assert re.search(rf'(?m)^{address("edge1")} .*"(GET|POST|PATCH) {path}/edge_worker/v1/.* 200 ', log)
    assert re.search(rf'(?m)^{address("edge1")} .*"PATCH {path}/execution/.* 204 ', log)
    assert "https://out1" in edge1.check_output("grep EDGE__API_URL /etc/airflow/airflow.env")


def test_it_takes_large_values(airflow):
    value = "x" * (5 << 20)
    airflow.call("POST", "/api/v2/variables", {"key": "large", "value": value})
    assert airflow.call("GET", "/api/v2/variables/large")["value"] == value
    airflow.call("DELETE", "/api/v2/variables/large")


def test_the_ui_logs_in_and_shows_the_worker(airflow, user):
    user.open("/plugin/edge_executor")
    user.see("edge1", "edge_queue", "Healthy")
    assert user.driver.current_url.startswith(f"{airflow.url}/")
