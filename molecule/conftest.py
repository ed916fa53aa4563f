"""Fixtures and hooks of all scenarios, from molecule/support/."""

from support.browser import browser, user
from support.feeds import fetch, loaded, put, query
from support.hosts import edge1, edge2, limit, main1, nas1, out1, pytest_runtest_makereport
from support.site import airflow, dags_of_the_tests, outcome, sync
