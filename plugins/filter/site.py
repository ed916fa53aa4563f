"""Filters that shape what follows from the inventory, and what roles compare with a host."""

from __future__ import annotations

import ast
import hashlib
import re

CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")


def differing_files(wanted: list[dict], found: list[dict]) -> list[dict]:
    """Return the wanted files that a host does not have as they should be, complete with mode and gid.

    A wanted file is {path, content, mode: "0644", gid: 0} and belongs to root. Found files are those of ansible.builtin.find
    with get_checksum.
    """
    there = {file["path"]: (file["mode"], file["uid"], file["gid"], file.get("checksum")) for file in found}
    complete = [{"mode": "0644", "gid": 0} | dict(file) for file in wanted]
    return [file for file in complete if there.get(file["path"]) != _state(file)]


def _state(file: dict) -> tuple:
    # SHA-1 is what ansible.builtin.find and the module copy compare with.
    digest = hashlib.sha1(file["content"].encode(), usedforsecurity=False).hexdigest()
    return file["mode"], 0, int(file["gid"]), digest


def certificates(texts: list[str]) -> list[str]:
    """Return the certificates in PEM texts, each once, in their order."""
    return list(dict.fromkeys(CERTIFICATE.findall("\n".join(texts))))


def certificate_files(texts: list[str], directory: str) -> list[dict]:
    """Return one file for each certificate in PEM texts: airflow-1.crt, airflow-2.crt, ..."""
    return [
        {"path": f"{directory}/airflow-{number}.crt", "content": f"{text}\n"}
        for number, text in enumerate(certificates(texts), 1)
    ]


def package_alternatives(packages: list[str], known: str) -> list[str]:
    """Return of each item `a | b` the first package that apt knows, or the last when it knows none.

    `known` is what `apt-cache show` printed.
    """
    names = set(re.findall(r"(?m)^Package: (.+)$", known))
    chosen = []
    for item in packages:
        alternatives = item.split(" | ")
        chosen.append(next((name for name in alternatives if name in names), alternatives[-1]))
    return chosen


def host_port(host: str, port: int | str) -> str:
    """Return HOST:PORT as URLs write it: an IPv6 address is in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def python_error(text: str) -> str:
    """Return where a text is not Python ("line 3"), or an empty text. The line itself may hold a password."""
    try:
        ast.parse(text)
    except SyntaxError as error:
        return f"line {error.lineno}"
    return ""


class FilterModule:
    """Filters of the playbooks and roles."""

    def filters(self) -> dict:
        return {
            "certificate_files": certificate_files,
            "certificates": certificates,
            "differing_files": differing_files,
            "host_port": host_port,
            "package_alternatives": package_alternatives,
            "python_error": python_error,
        }
