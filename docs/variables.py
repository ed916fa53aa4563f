"""Write docs/variables.md, the reference of every public variable, from the roles' specs.

The schema of meta/argument_specs.yml has no keys for two facts, so descriptions say them: "Unit: seconds." gives the
unit; "Set by the playbooks." or "Set by the role that enters." begins the description of a variable that an inventory
does not set.
"""

import argparse
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/variables.md"
# Where an inventory sets a role's variables. The order is that of the page.
GROUPS = {
    "preflight": "all",
    "airflow_base": "all",
    "airflow_main": "airflow_main",
    "airflow_celery": "airflow_celery",
    "airflow_edge": "airflow_edge",
    "airflow_dags": "all",
    "nas_mount": "all",
    "nas_server": "nas",
    "mysql": "mysql",
    "redis": "redis",
    "reverse_proxy": "reverse_proxy",
    "certificate_check": "all",
    "firewall": "all",
    "security_updates": "all",
}
EXCEPTIONS = {"airflow_database_clients": "mysql", "rotate": "command line (-e)"}
SET_BY_OTHERS = re.compile(r"^Set by the (playbooks|role that enters)\. ?")
UNIT = re.compile(r"\s*\bUnit: ([^.]+)\.")
HEAD = """<!-- Written by docs/variables.py from roles/*/meta/argument_specs.yml: edit those, then run `make docs`. -->

# Variables

Every variable that you can set, with the inventory group where it belongs: `all` is `group_vars/all.yml`, `mysql` is
`group_vars/mysql.yml`. A single host may have another value in `host_vars/`. A variable that is *set by others*, by
the playbooks or by a role, follows from the inventory or from the secrets; you need it only when you use a role by
itself. **Required** means that there is no default.
"""
TABLE = "| Variable | Type | Default | Unit | Where | Meaning |\n|---|---|---|---|---|---|"


def specs(role, root=ROOT):
    """Return the entry points of a role, by name."""
    return yaml.safe_load((root / "roles" / role / "meta/argument_specs.yml").read_text())["argument_specs"]


def options_of(role, root=ROOT):
    """Return a role's own options, of all entry points: each once, and without the site's inputs."""
    options = {}
    for entry in specs(role, root).values():
        for name, option in entry.get("options", {}).items():
            options.setdefault(name, option)
    if role != "preflight":
        site = options_of("preflight", root)
        options = {name: option for name, option in options.items() if name not in site}
    return options


def roles(root=ROOT):
    found = {path.parent.parent.name for path in root.glob("roles/*/meta/argument_specs.yml")}
    if unknown := found - set(GROUPS):
        sys.exit(
            f"docs/variables.py does not know where the variables of {', '.join(sorted(unknown))} belong: add to GROUPS"
        )
    return [role for role in GROUPS if role in found]


def text_of(description):
    return " ".join(description if isinstance(description, list) else [description or ""]).strip()


def is_set_by_others(option):
    return bool(SET_BY_OTHERS.match(text_of(option.get("description"))))


def unit_of(option):
    found = UNIT.search(text_of(option.get("description")))
    return found[1] if found else ""


def markdown(text):
    """Translate Ansible's markup; a name of ours becomes a link."""
    text = re.sub(r"\bO\(([a-z_]+)\)", r"[`\1`](#\1)", text)
    text = re.sub(r"\b[CMV]\(([^)]*)\)", r"`\1`", text)
    return re.sub(r"\bU\(([^)]*)\)", r"<\1>", text)


def type_of(option):
    elements = option.get("elements")
    return option.get("type", "str") + (f" of {elements}" if elements else "")


def default_of(option):
    if option.get("required"):
        return "**required**"
    if "default" not in option:
        return ""
    value = option["default"]
    if isinstance(value, str) and value:
        return f"`{value}`"
    return (
        "`"
        + yaml.safe_dump(value, default_flow_style=True, width=10000, sort_keys=False).removesuffix("...\n").strip()
        + "`"
    )


def rows(name, option, where, anchor=True):
    """Yield the row of an option, then those of its suboptions."""
    meaning = SET_BY_OTHERS.sub("", UNIT.sub("", text_of(option.get("description")))).strip()
    if choices := option.get("choices"):
        meaning += f" One of {', '.join(f'`{choice}`' for choice in choices)}."
    link = f'<a id="{name}"></a>' if anchor else ""
    cells = [f"{link}`{name}`", type_of(option), default_of(option), unit_of(option), where, markdown(meaning)]
    yield "| " + " | ".join(cell.replace("\n", " ").replace("|", "\\|") for cell in cells) + " |"
    for key, suboption in option.get("options", {}).items():
        yield from rows(f"{name}{'[]' if option.get('type') == 'list' else ''}.{key}", suboption, "", anchor=False)


def section(role, root=ROOT):
    entries = specs(role, root)
    first = entries.get("main") or next(iter(entries.values()))
    title = '<a id="preflight"></a>\n\n## The site' if role == "preflight" else f"## {role}"
    lines = ["", title, "", markdown(first["short_description"]).rstrip(".") + ".", "", TABLE]
    options = options_of(role, root)
    for name in sorted(options, key=lambda name: is_set_by_others(options[name])):
        by_others = is_set_by_others(options[name])
        lines += rows(name, options[name], "*set by others*" if by_others else EXCEPTIONS.get(name, GROUPS[role]))
    return lines


def reference(root=ROOT):
    return HEAD + "\n".join(line for role in roles(root) for line in section(role, root)) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail when the page is stale; write nothing")
    arguments = parser.parse_args()
    text = reference()
    if not arguments.check:
        PAGE.write_text(text)
    elif not PAGE.exists() or PAGE.read_text() != text:
        sys.exit("docs/variables.md is stale: run `make docs`")


if __name__ == "__main__":
    main()
