"""Connections to the lab's hosts, a session with Airflow's API, and journals when a test fails."""

import contextlib
import os
import shutil
import signal
import subprocess
from datetime import UTC, datetime

import pytest
import testinfra
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from lab import HOSTS, ROOT, SSH_CONFIG, address, pid_of, ssh
from pipeline import Airflow, run_pipeline, until

SCREENSHOTS = ROOT / ".cache/screenshots"


def connect(name):
    return testinfra.get_host(f"ssh://{name}", ssh_config=str(SSH_CONFIG))


@pytest.fixture(autouse=True)
def _limit():
    """What hangs fails its test, and does not hold up the others."""

    def give_up(*_):
        raise TimeoutError("no end after half an hour: a host, the database or the NAS does not answer")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(1800)
    yield
    signal.alarm(0)


@pytest.fixture(scope="session")
def nas1():
    return connect("nas1")


@pytest.fixture(scope="session")
def main1():
    return connect("main1")


@pytest.fixture(scope="session")
def edge1():
    return connect("edge1")


@pytest.fixture(scope="session")
def edge2():
    return connect("edge2")


@pytest.fixture(scope="session")
def out1():
    return connect("out1")


@pytest.fixture(scope="session")
def sync():
    """Put the DAG code of a directory on every host."""

    def sync(source):
        command = ["ansible-playbook", "playbooks/dags.yml", "-e", f"airflow_dags_src={source}"]
        environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)  # noqa: S603

    return sync


@pytest.fixture(scope="session")
def dags_of_the_tests(request, sync, tmp_path_factory):
    """The project's DAG code with that of the scenarios whose tests run, on every host until all tests have ended."""
    directory = tmp_path_factory.mktemp("site") / "dags"
    for source in (ROOT / "dags", *{item.path.parents[1] / "dags" for item in request.session.items}):
        if source.is_dir():
            shutil.copytree(source, directory, dirs_exist_ok=True)
    sync(directory)
    yield
    sync(ROOT / "dags")


@pytest.fixture(scope="session")
def airflow():
    """A session with the API, which may have been rebooted just now."""

    def log_in():
        with contextlib.suppress(OSError, RuntimeError):
            return Airflow()

    try:
        return until(log_in, 180)
    except TimeoutError:
        return Airflow()  # It says why.


@pytest.fixture(scope="session")
def outcome(airflow):
    """One run of the pipeline, from the trigger of producer_dag to the end of consumer_dag."""
    return run_pipeline(airflow)


@pytest.fixture(scope="session")
def query(main1):
    """Ask the team's database; rows of strings."""

    def query(statement):
        answer = main1.check_output("mysql --batch --skip-column-names warehouse --execute %s", statement)
        return [tuple(line.split("\t")) for line in answer.splitlines()]

    return query


@pytest.fixture(scope="session")
def put(out1):
    """Put a day's CSV on the service."""

    def put(day, text):
        out1.check_output(f"printf %s > /srv/outside/www/{day:%Y%m%d}.csv", text)

    return put


@pytest.fixture(scope="session")
def fetch(airflow):
    """Fetch a day's file of a feed, and return the ended run.

    Its logical date has to be of that day in the feed's zone, and not in the future: the day's first second in UTC is.
    """

    def fetch(feed, day, wait=True, at="00:00:01+00:00"):
        logical = f"{datetime.fromisoformat(f'{day}T{at}').astimezone(UTC):%Y-%m-%dT%H:%M:%S}"
        body = {"logical_date": f"{logical}Z", "dag_run_id": f"{day}_{datetime.now(UTC).timestamp()}"}
        try:
            run = airflow.call("POST", f"/api/v2/dags/{feed}_fetch/dagRuns", body)
        except RuntimeError as error:
            # A logical date has one run: it is repeated.
            if ": 409 " not in str(error):
                raise
            listed = airflow.call("GET", f"/api/v2/dags/{feed}_fetch/dagRuns?logical_date_gte={logical}Z")
            [run] = [run for run in listed["dag_runs"] if run["logical_date"].startswith(logical)]
            airflow.call("POST", f"/api/v2/dags/{feed}_fetch/dagRuns/{run['dag_run_id']}/clear", {"dry_run": False})
            run["state"] = "queued"
        return airflow.follow(run) if wait else run

    return fetch


@pytest.fixture(scope="session")
def loaded(airflow, query):
    """Wait until the ledger has so many lines for a feed's day, and return them."""

    # An attempt that fails is repeated after two minutes.
    def loaded(feed, day, lines=1, seconds=300):
        statement = (
            "SELECT SUBSTRING_INDEX(path, '/', -1), state, records, rows_loaded, rows_rejected FROM feed_files"
            f" WHERE feed = '{feed}' AND day = '{day}' ORDER BY fetched_at"
        )
        until(lambda: "feed_files" in str(query("SHOW TABLES")), seconds)
        with contextlib.suppress(TimeoutError):
            until(lambda: len(query(statement)) >= lines, seconds)
        found = query(statement)
        assert len(found) >= lines, f"{found} after {seconds} s; the last loads: {airflow.states(f'{feed}_load')}"
        return found

    return loaded


class Browser:
    """Debian's Chromium, on the pages of a site."""

    def __init__(self, driver, url):
        self.driver = driver
        self.url = url

    def open(self, path):
        self.driver.get(self.url + path)

    def find(self, how, what, seconds=60):
        return WebDriverWait(self.driver, seconds).until(lambda driver: driver.find_element(how, what))

    def see(self, *texts, seconds=60):
        """Wait until the page shows all of the texts; a failure shows what it does show."""

        def shows(driver):
            return all(text in driver.find_element(By.TAG_NAME, "body").text for text in texts)

        try:
            WebDriverWait(self.driver, seconds, ignored_exceptions=[Exception]).until(shows)
        except Exception as error:
            page = self.driver.find_element(By.TAG_NAME, "body").text
            raise AssertionError(f"{self.driver.current_url} does not show {texts}, but: {page[:2000]}") from error

    def keep(self, name):
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(SCREENSHOTS / f"{name}.png")


@pytest.fixture(scope="module")
def browser(airflow):
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    # Root may not use Chromium's sandbox; it opens nothing but the lab.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,900"):
        options.add_argument(argument)
    names = ", ".join(f"MAP {name} {address(name)}" for name in HOSTS)
    options.add_argument(f"--host-resolver-rules={names}")
    # It has authorities of its own; the other tests check the certificate.
    options.accept_insecure_certs = True
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    yield Browser(driver, airflow.url)
    driver.quit()


@pytest.fixture(scope="module")
def user(browser, airflow):
    """A browser in which the administrator has logged in."""
    browser.open("/")
    browser.find(By.NAME, "username").send_keys("admin")
    browser.find(By.NAME, "password").send_keys(airflow.password)
    browser.find(By.CSS_SELECTOR, "input[type=submit]").click()
    browser.see("Dags", "Assets")
    return browser


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Append to the report of a failed test what the hosts' journals say."""
    report = yield
    if report.failed:
        units = "--unit 'airflow-*' --unit mysql --unit redis-server --unit nfs-server --unit '*.mount'"
        command = f"systemctl --failed --no-legend --plain; journalctl --no-pager --lines 60 --output short {units}"
        for name in filter(pid_of, HOSTS):
            report.sections.append((f"journal of {name}", ssh(name, command).stdout))
    return report
