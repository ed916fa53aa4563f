"""The web UI in a real browser, Debian's Chromium. Screenshots go to .cache/screenshots."""

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from lab import ROOT

SCREENSHOTS = ROOT / ".cache/screenshots"


class Browser:
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


def test_nobody_gets_in_with_a_wrong_password(browser):
    browser.open("/")
    browser.find(By.NAME, "username").send_keys("admin")
    browser.find(By.NAME, "password").send_keys("wrong")
    browser.find(By.CSS_SELECTOR, "input[type=submit]").click()
    browser.see("Invalid login")


def test_both_dags_are_there(user):
    user.open("/dags")
    user.see("consumer_dag", "producer_dag")
    user.keep("dags")


def test_the_edge_worker_is_there_and_healthy(user):
    user.open("/plugin/edge_executor")
    user.see("edge1", "edge_queue", "Healthy")
    user.keep("edge-workers")


def test_the_log_of_the_edge_task_has_the_line_that_it_printed(user, outcome):
    run = outcome["producer"]["dag_run_id"]
    user.open(f"/dags/producer_dag/runs/{run.replace('+', '%2B')}/tasks/task_for_edge_worker")
    user.see("Post Execute")
    # Airflow sorts by time, and a printed line can come after the beginning of the group that follows: open them all.
    # In the page itself, which may replace them at any moment.
    user.driver.execute_script("document.querySelectorAll('[data-testid^=summary-]').forEach(group => group.click())")
    user.see(f"task_for_edge_worker wrote {outcome['event']['extra']['path']} on edge1")
    user.keep("edge-task-log")


def test_the_asset_has_a_producing_task_and_a_consuming_dag(user):
    user.open("/assets")
    user.see("nas_filestorage", "1 Dag", "1 Task")
    user.keep("assets")
