"""airflow_base_environment: what is refused, and what units and tasks get."""

import re
import runpy

import pytest

from docs.variables import ROOT

PLUGIN = runpy.run_path(str(ROOT / "plugins/filter/environment.py"))
FILTERS = PLUGIN["FilterModule"]().filters()
GROUPS = {"airflow_main": ["main1"], "airflow_celery": ["main1"], "airflow_edge": ["edge1"]}
SETTINGS = {"edge.api_url": "https://main1.example.com/edge_worker/v1/rpcapi", "core.parallelism": 4}
PROXY = {"HTTPS_PROXY": "http://user:secret@proxy:3128"}


def findings(environment, **hosts):
    hostvars = {host: {"airflow_base_environment": environment} | hosts.get(host, {}) for host in ("main1", "edge1")}
    return FILTERS["environment_findings"](GROUPS, hostvars)


def the_only(found):
    assert len(found) == 1, found
    return found[0]


def names_in_templates():
    """Names that the roles set in the units' environment, but for Airflow's options."""
    text = "".join(path.read_text() for path in (ROOT / "roles").glob("airflow_*/templates/*.j2"))
    names = re.findall(r'^([A-Z_]+)="', text, re.MULTILINE) + re.findall(r"^Environment=(\w+)=", text, re.MULTILINE)
    return {name for name in names if not name.startswith("AIRFLOW__")}


def test_a_good_environment():
    assert findings({}) == []
    assert findings(PROXY | {"NO_PROXY": ".example.com", "_x1": 'a "b" $c \\', "WORKERS": 4, "EMPTY": ""}) == []
    # Connections and variables of Airflow are no options.
    assert findings({"AIRFLOW_CONN_FTP": "ftp://x", "AIRFLOW_VAR_KEY": "value"}) == []


@pytest.mark.parametrize("name", ["9X", "A-B", "A B", "", "A.B", "Ä"])
def test_a_name_that_is_none(name):
    found = the_only(findings({name: "x"}))
    assert found["what"] == f"airflow_base_environment has {name}, which is no name of a variable."
    assert found["host"] == "main1 and 1 more"


def test_an_option_of_airflow():
    found = the_only(findings({"AIRFLOW__CORE__PARALLELISM": "4"}))
    assert "AIRFLOW__CORE__PARALLELISM, which is an option of Airflow" in found["what"]
    assert "Write core.parallelism into airflow_base_settings" in found["remedy"]


def test_what_the_roles_set_is_refused_by_name():
    assert set(PLUGIN["OWN"]) == names_in_templates()
    for name, variable in PLUGIN["OWN"].items():
        found = the_only(findings({name: "x"}))
        assert found["what"] == f"airflow_base_environment has {name}, which the roles set."
        assert found["remedy"] == (f"Remove {name}, and set {variable} instead." if variable else f"Remove {name}.")


@pytest.mark.parametrize("value", ["secret\nPATH=/tmp", "secret\r", "secret\0"])
def test_a_value_with_a_line_break_is_refused_and_not_shown(value):
    found = the_only(findings({"TOKEN": value}))
    assert "TOKEN, whose value has a line break" in found["what"]
    assert "secret" not in str(found)


@pytest.mark.parametrize("value", [True, None, ["x"], {"x": 1}])
def test_a_value_that_is_no_text(value):
    assert "X, whose value is no text" in the_only(findings({"X": value}))["what"]


def test_an_environment_that_is_no_mapping():
    found = the_only(findings({}, edge1={"airflow_base_environment": "HTTPS_PROXY=http://proxy"}))
    assert found["host"] == "edge1"
    assert found["what"].endswith("'HTTPS_PROXY=http://proxy', and has to be a mapping.")


def test_without_a_proxy_nothing_is_added():
    assert FILTERS["unit_environment"]({"TZ": "Asia/Seoul", "N": 4}, SETTINGS, ["celery1"]) == {
        "TZ": "Asia/Seoul",
        "N": "4",
    }
    assert FILTERS["unit_environment"]({"NO_PROXY": "x"}, SETTINGS, []) == {"NO_PROXY": "x"}


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_with_a_proxy_the_hosts_of_the_site_are_asked_directly(name):
    said = FILTERS["unit_environment"]({name: "http://proxy:3128"}, SETTINGS, [])
    assert said == {
        name: "http://proxy:3128",
        "NO_PROXY": "localhost,127.0.0.1,::1,main1.example.com",
        "no_proxy": "localhost,127.0.0.1,::1,main1.example.com",
    }


def test_exceptions_of_the_inventory_stay():
    settings = SETTINGS | {"core.execution_api_server_url": "http://[2001:db8::10]:8080/execution/"}
    given = PROXY | {"NO_PROXY": ".example.com, 10.0.0.0/8", "no_proxy": "other"}
    said = FILTERS["unit_environment"](given, settings, ["celery1", "192.0.2.30", "celery1"])
    assert said["NO_PROXY"] == said["no_proxy"]
    assert said["NO_PROXY"] == (
        ".example.com,10.0.0.0/8,other,localhost,127.0.0.1,::1,2001:db8::10,main1.example.com,celery1,192.0.2.30"
    )
