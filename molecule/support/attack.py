"""Secrets, forged tokens and requests for tests that attack the lab; playbooks for tests that change it."""

import base64
import contextlib
import hmac
import json
import re
import subprocess
import time

from lab import ROOT
from support import LAB
from support.pipeline import Connection

SECRETS = LAB.secrets


def secrets(*names):
    """Return the secrets' values by name; of a PEM key its second line, as its first line is in every key."""
    paths = [path for path in SECRETS.iterdir() if path.suffix not in (".pem", ".json")]
    texts = {path.name: path.read_text().strip() for path in paths if not names or path.name in names}
    return {name: text.splitlines()[1] if text.startswith("-----") else text for name, text in texts.items()}


def play(playbook, *arguments, directory="playbooks", code=0):
    """Run a playbook that has to succeed, or to end with another exit code, and return its output."""
    command = ["ansible-playbook", f"{directory}/{playbook}", *arguments]
    environment = LAB.environment | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)  # noqa: S603
    (ROOT / ".cache").mkdir(exist_ok=True)
    (ROOT / ".cache/play.log").write_text(done.stdout)
    if done.returncode != code:
        found = re.search(r"(?s)fatal: .{0,2000}", done.stdout)
        raise RuntimeError(f"exit code {done.returncode}: {found[0] if found else done.stdout[-2000:]}")
    return done.stdout


def token(claims, key, algorithm="HS512", **header):
    """Make a JWT, signed with a shared secret or with none."""
    parts = [json.dumps(part).encode() for part in ({"alg": algorithm, "typ": "JWT", **header}, claims)]
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = hmac.digest(key.encode(), signed, "sha512") if algorithm == "HS512" else b""
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def claims(audience, begin=0, seconds=60, **others):
    now = int(time.time()) + begin
    return {"sub": "1", "aud": audience, "iat": now, "nbf": now, "exp": now + seconds, **others}


def status(airflow, method, path, authorization, body=None):
    """Return the HTTP status of main1's answer to a request of a client that trusts main1's authority."""
    connection = Connection("main1", timeout=30, context=airflow.tls)
    headers = {"Authorization": authorization, "Content-Type": "application/json"}
    with contextlib.closing(connection):
        connection.request(method, path, body and json.dumps(body), headers)
        return connection.getresponse().status


def sign(directory, name, *, ca=None, names="DNS:main1", days=1):
    """Make a certificate with openssl, self-signed or signed by the site's authority."""
    key, request, certificate = (str(directory / f"{name}.{kind}") for kind in ("key", "csr", "pem"))

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)  # noqa: S603, S607

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl(
        "req", *curve, "-keyout", key, "-out", request, "-subj", f"/CN={name}", "-addext", f"subjectAltName={names}"
    )
    by = ["-CA", str(ca.with_suffix(".pem")), "-CAkey", str(ca.with_suffix(".key"))] if ca else ["-signkey", key]
    openssl("x509", "-req", "-in", request, "-out", certificate, "-days", str(days), "-copy_extensions", "copyall", *by)
    return certificate, key
