"""A browser on the site's pages."""

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from lab import ROOT
from support import LAB

SCREENSHOTS = ROOT / ".cache/screenshots"


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
        """Wait until the page shows all of the texts; a failure shows the page's text."""

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
    """A browser that finds the lab's hosts by their names."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    # Root may not use Chromium's sandbox; it opens nothing but the lab.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,900"):
        options.add_argument(argument)
    names = ", ".join(f"MAP {host.name} {host.address}" for host in LAB.hosts.values())
    options.add_argument(f"--host-resolver-rules={names}")
    # Chromium has certificate authorities of its own; other tests check the certificate.
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
