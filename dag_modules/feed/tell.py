"""Tell somebody of a late, failed or partly rejected feed: by mail or a webhook, through an Airflow connection.

A DAG's callback runs in the DAG processor, on the main server: an edge host reaches nothing but that server. It sees no
exception of a task, so each task leaves the reason behind.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from urllib.parse import quote

from feed.model import Feed

# The XCom in which a task says why it fails, and how long that may be.
REASON, LENGTH = "feed_reason", 2000
# Seconds that a webhook or a mail server may take.
PATIENCE = 10


@contextmanager
def reason_kept(feed: Feed, ti) -> Iterator[None]:
    """Keep the reason why a task fails, without secrets, where the DAG's callback finds it."""
    from airflow.sdk.exceptions import AirflowSkipException
    from airflow.sdk.log import redact

    try:
        yield
    except AirflowSkipException:
        raise
    except Exception as error:
        if feed.tell:
            # The error counts, whatever becomes of the note.
            with suppress(Exception):
                ti.xcom_push(REASON, redact(str(error))[:LENGTH])
        raise


def on_failure(feed: Feed):
    """Return the callback of a feed's DAG for a run that fails; None when nobody is to be told."""
    return partial(_run_failed, feed) if feed.tell else None


def tell_rejected(feed: Feed, result: dict) -> None:
    """Tell that records of a file that was loaded are bad. Raises nothing."""
    if feed.tell and result["rows_rejected"]:
        where = f"feed = '{feed.name}' AND path = '{result['path']}'"
        _send(
            feed.tell,
            f"Feed {feed.name}: {result['rows_rejected']} records are rejected",
            f"{result['rows_rejected']} of {result['records']} records of {result['path']} are rejected.\n"
            f"SELECT feed_row, reason, record FROM feed_rejects WHERE {where};",
        )


def _run_failed(feed: Feed, context: dict) -> None:
    from airflow.sdk.configuration import conf

    dag, run_id = context["dag"], context["run_id"]
    reasons = [reason for task_id in dag.task_ids if (reason := _reason(dag.dag_id, task_id, run_id))]
    base = conf.get("api", "base_url", fallback="") or ""
    page = f"{base.rstrip('/')}/dags/{dag.dag_id}/runs/{quote(run_id, safe='')}"
    text = "\n".join(reasons) or "The log of the task has the reason."
    _send(feed.tell, f"Feed {feed.name}: {dag.dag_id} failed", f"{text}\nRun {run_id}\n{page}")


def _reason(dag_id: str, task_id: str, run_id: str) -> str | None:
    from airflow.sdk.execution_time.xcom import XCom

    # Without a reason somebody is told, too.
    with suppress(Exception):
        return XCom.get_one(key=REASON, dag_id=dag_id, task_id=task_id, run_id=run_id)
    return None


def _send(name: str, subject: str, text: str) -> None:
    """Send through a connection; what goes wrong is printed, without addresses, and nothing is raised."""
    try:
        from airflow.sdk import BaseHook

        connection = BaseHook.get_connection(name)
        send = {"smtp": _mail, "http": _post}.get(connection.conn_type)
        if not send:
            print(f"tell: the connection {name} has the type {connection.conn_type}: make it smtp or http")
            return
        send(connection, subject, text)
        print(f"tell: {subject}: sent through the connection {name}")
    except Exception as error:
        # Its text may have the address, and a webhook's address is a secret.
        reason = str(error) if isinstance(error, Refused) else type(error).__name__
        print(f"tell: {subject}: not sent through the connection {name}: {reason}")


class Refused(Exception):
    """A message cannot be sent; the text has no secrets."""


def _mail(connection, subject: str, text: str) -> None:
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    extra = connection.extra_dejson
    if not (extra.get("to") and extra.get("from_email")):
        raise Refused('its extra lacks "from_email" or "to": add them, such as {"to": "ops@example.com"}')
    with SmtpHook(smtp_conn_id=connection.conn_id) as hook:
        hook.send_email_smtp(to=extra["to"], subject=subject, html_content=f"<pre>{html.escape(text)}</pre>")


def _post(connection, subject: str, text: str) -> None:
    from airflow.providers.http.hooks.http import HttpHook

    hook = HttpHook("POST", connection.conn_id)
    # The session and not hook.run(), which writes addresses and answers into the log.
    session = hook.get_conn()
    # Without a login, the password is the secret end of the address: Airflow masks passwords.
    url = hook.url_from_endpoint(None if connection.login else connection.password)
    own = {"verify": session.verify, "proxies": session.proxies}
    with session, session.post(url, json={"text": f"{subject}\n{text}"}, timeout=PATIENCE, **own) as answer:
        if not answer.ok:
            raise Refused(f"it answers {answer.status_code}")
