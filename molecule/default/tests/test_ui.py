"""The web UI in a real browser. Screenshots go to .cache/screenshots."""

from selenium.webdriver.common.by import By


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
