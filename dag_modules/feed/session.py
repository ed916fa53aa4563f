"""Requests with what a connection keeps: its login or key, and its TLS settings; nothing of it gets into a message."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlencode, urlsplit, urlunsplit

import requests
from airflow.providers.http.hooks.http import HttpHook
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.log import mask_secret
from requests.auth import AuthBase
from requests.exceptions import RequestException
from requests.utils import default_headers
from urllib3.exceptions import HTTPError

from feed.resume import Broken
from feed.source import Source

# Of a connection's extra, what auth: oauth2 is about; the rest is for HttpHook, or is sent as headers.
OAUTH2 = ("token_url", "scope", "audience", "token_auth")
# Seconds before its end in which a token is not used any more.
LEEWAY = 30
# An answer with a token is not larger.
TOKEN = 1 << 16
# Headers whose content is a secret, by their names.
SECRET = re.compile("auth|cookie|key|secret|token", re.IGNORECASE)


class Session:
    """A session with a connection's service, whose address is `base`.

    :raises AirflowFailException: the connection lacks what the feed needs; another attempt would not help.
    """

    def __init__(self, source: Source, connection):
        self.name, self.base = source.connection, _base(connection)
        self.secrets: set[str] = set()
        self.session = HttpHook("GET", http_conn_id=self.name).get_conn(
            # The file as it is: a position in what a server compresses on the way means nothing.
            headers={**source.headers, "Accept-Encoding": "identity"}
        )
        for name in OAUTH2:
            self.session.headers.pop(name, None)
        self.session.hooks["response"].append(_without_content)
        self._set_tls()
        for name, value in self.session.headers.items():
            if SECRET.search(name):
                self.hide(value)
        parts = urlsplit(connection.host or "")
        if parts.username and not connection.login:
            self.session.auth = (unquote(parts.username), unquote(parts.password or ""))
        for password in filter(None, (connection.password, parts.password)):
            self.hide(password)
        own = self.session.headers.keys() - default_headers().keys()
        self.key = ""
        match (source.auth or "").partition(":"):
            case ("bearer", _, _):
                self.session.auth = Key("Authorization", f"Bearer {self._password(connection)}")
            case ("header", _, name):
                self.session.auth = Key(name, self._password(connection))
                own.add(name)
            case ("query", _, name):
                self.session.auth = Key("", "")
                self.key, self.session.params = name, {name: self._password(connection)}
            case ("oauth2", _, _):
                self.session.auth = OAuth2(self, connection, self._password(connection))
        _keep_at_home(self.session, own)

    def close(self) -> None:
        self.session.close()

    def get(self, url: str, headers: dict[str, str], timeout: tuple[int, int]) -> requests.Response:
        # Said for the request: REQUESTS_CA_BUNDLE and the environment's proxies outrank what only the session says.
        own = {"verify": self.session.verify, "proxies": self.session.proxies}
        return self.session.get(url, headers=headers, stream=True, timeout=timeout, **own)

    @contextmanager
    def errors(self, url: str) -> Iterator[None]:
        """Say what requests says, without secrets: its messages have the whole address."""
        try:
            yield
        except (requests.ConnectionError, requests.Timeout, HTTPError) as error:
            raise Broken(self.discreet(str(error))) from None
        except RequestException as error:
            raise OSError(f"{url}: {self.discreet(str(error))}") from None

    def refused(self, message: str) -> AirflowFailException:
        """Return what to raise when the service refuses the login: no other attempt, for it may lock an account."""
        return AirflowFailException(
            f"{message}. The service refuses what the connection {self.name} has: correct its login and password (and"
            " source.auth), then clear the task. It is not asked again by itself, so that no account is locked"
        )

    def hide(self, secret: str) -> None:
        """Keep a secret out of messages, in each form in which it can be in an address; not one that any text has."""
        self.secrets |= {form for form in (secret, secret.strip(), quote(secret), quote_plus(secret)) if len(form) > 3}
        for form in self.secrets:
            mask_secret(form)

    def discreet(self, text: str) -> str:
        for secret in sorted(self.secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    def without_key(self, url: str) -> str:
        """Return an address without the parameter that is the key: a service may have put it into a link."""
        parts = urlsplit(url)
        if not self.key or self.key not in dict(parse_qsl(parts.query, keep_blank_values=True)):
            return url
        query = [(name, text) for name, text in parse_qsl(parts.query, keep_blank_values=True) if name != self.key]
        return urlunsplit(parts._replace(query=urlencode(query)))

    def _password(self, connection) -> str:
        password = (connection.password or "").strip()
        if not password:
            raise AirflowFailException(
                f"source.auth: the connection {self.name} has no password: write the key or token there"
            )
        if not password.isprintable():
            raise AirflowFailException(f"source.auth: the password of {self.name} has a line's end inside: correct it")
        return password

    def _set_tls(self) -> None:
        """Take the connection's own TLS settings as they are meant: the form of the UI makes texts of them."""
        session, words = self.session, {"true": True, "false": False}
        for name in ("verify", "trust_env"):
            value = getattr(session, name)
            if isinstance(value, str):
                setattr(session, name, words.get(value.lower(), value))
        if isinstance(session.cert, list):
            session.cert = tuple(session.cert)
        certificates = session.cert if isinstance(session.cert, tuple) else [session.cert]
        for name, path in [("verify", session.verify), *(("cert", path) for path in certificates)]:
            if isinstance(path, str) and not Path(path).exists():
                raise AirflowFailException(
                    f"source.connection: {self.name}: {name} in its extra is {path}, which is not on this host"
                )


class Key(AuthBase):
    """A key in a header. It keeps requests from looking for a login in ~/.netrc, too."""

    def __init__(self, name: str, value: str):
        self.name, self.value = name, value

    def __call__(self, request):
        if self.name:
            request.headers[self.name] = self.value
        return request


class OAuth2(AuthBase):
    """A token for the connection's client id and secret (OAuth 2.0 client credentials), renewed before its end."""

    def __init__(self, session: Session, connection, secret: str):
        extra = connection.extra_dejson
        self.session, self.client, self.secret = session, connection.login, secret
        self.url, self.in_body = extra.get("token_url"), extra.get("token_auth") == "body"
        self.form = {name: extra[name] for name in ("scope", "audience") if extra.get(name)}
        self.token, self.end = "", 0.0
        if not (self.client and self.url):
            raise AirflowFailException(
                f"source.auth: oauth2: the connection {session.name} needs the client id as its login, the client"
                ' secret as its password, and in its extra {"token_url": "https://..."}'
            )

    def __call__(self, request):
        if time.time() > self.end:
            self._renew()
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request

    def _renew(self) -> None:
        form = {"grant_type": "client_credentials", **self.form}
        form |= {"client_id": self.client, "client_secret": self.secret} if self.in_body else {}
        login = Key("", "") if self.in_body else (self.client, self.secret)
        tls = {name: getattr(self.session.session, name) for name in ("verify", "cert", "proxies")}
        with self.session.errors(self.url), requests.Session() as session:
            session.trust_env = self.session.session.trust_env
            answer = session.post(
                self.url, form, auth=login, timeout=(10, 60), allow_redirects=False, stream=True, **tls
            )
            content = answer.raw.read(TOKEN, decode_content=True).decode(errors="replace")
            said = self.session.discreet(content[:200])
        if answer.status_code in (400, 401):
            raise self.session.refused(f"{self.url}: {answer.status_code} {answer.reason}: {said}")
        try:
            token = json.loads(content)
            self.token, lasts = token["access_token"], float(token.get("expires_in") or 300)
        except (ValueError, KeyError, TypeError):
            raise OSError(f"{self.url} gives no token: {answer.status_code} {answer.reason}") from None
        self.session.hide(self.token)
        self.end = time.time() + max(lasts - LEEWAY, 1)


def _base(connection) -> str:
    """Return a connection's address, without a slash at its end."""
    host = (connection.host or "").strip()
    parts = urlsplit(host if "://" in host else f"{connection.schema or 'http'}://{host}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise AirflowFailException(
            f"source.connection: {connection.conn_id} has the host {parts.hostname!r} and the schema {parts.scheme!r}:"
            " write a name such as www.example.com, and http or https"
        )
    netloc = parts.netloc.rpartition("@")[2]
    if connection.port and not parts.port:
        netloc += f":{connection.port}"
    return f"{parts.scheme}://{netloc}{parts.path.rstrip('/')}"


def _without_content(answer: requests.Response, **_: object) -> None:
    """Leave out the content of a redirect: requests reads all of it into memory before it goes on."""
    if answer.is_redirect:
        answer.close()


def _keep_at_home(session: requests.Session, own: set[str]) -> None:
    """Let a session keep the headers of the connection and the feed to itself when it is sent to another host.

    requests does so with Authorization alone, and these may be keys, too.
    """
    rebuild_auth = session.rebuild_auth

    def rebuild(request, answer):
        rebuild_auth(request, answer)
        if session.should_strip_auth(answer.request.url, request.url):
            for name in own:
                request.headers.pop(name, None)

    session.rebuild_auth = rebuild
