"""Every role's contract: what meta/argument_specs.yml says of a variable is what defaults/main.yml has."""

import re

import pytest
import yaml

from docs.variables import ROOT, options_of, specs, unit_of

TYPES = {"str": str, "path": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict}
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
# Inputs of the site, which belong to no other role and have no role's prefix.
SITE_INPUTS = set(specs("preflight")["main"]["options"])
# Numbers that count nothing.
NUMBERS = re.compile(r"_(db|port|uid|gid)$")
# A key of vars or set_fact, a register or loop_var, a name of Jinja's.
PRIVATE_MADE = re.compile(
    r"(?:^\s*(?:- )?|[{,] ?)(__\w+):|(?:register|loop_var): (__\w+)|\{%-? (?:set|for) (__\w+)", re.MULTILINE
)


def defaults_of(role):
    path = ROOT / "roles" / role / "defaults/main.yml"
    return (yaml.safe_load(path.read_text()) if path.exists() else {}) or {}


def files_of(role):
    """Return what Ansible reads of a role, but for what describes its own variables."""
    paths = (ROOT / "roles" / role).rglob("*")
    return [path for path in paths if path.is_file() and path.parent.name != "meta" and path.suffix in {".yml", ".j2"}]


@pytest.mark.parametrize("role", ROLES)
def test_specs_and_defaults_agree(role):
    options, defaults = options_of(role), defaults_of(role)
    optional = {name for name, option in options.items() if not option.get("required")}
    # The site's inputs belong to no role: their defaults are in the spec alone.
    assert optional - SITE_INPUTS == set(defaults)
    for name, value in defaults.items():
        assert options[name]["default"] == value, name
        assert type(value) is TYPES[options[name].get("type", "str")] or "{{" in str(value), name


@pytest.mark.parametrize("role", ROLES)
def test_entry_points_agree_and_have_their_tasks(role):
    options = options_of(role)
    for entry, spec in specs(role).items():
        assert spec["short_description"], entry
        assert (ROOT / "roles" / role / "tasks" / f"{entry}.yml").exists(), entry
        for name, option in spec.get("options", {}).items():
            assert option == options.get(name, option), (
                f"{entry}: {name} differs from another entry point's; use a YAML anchor"
            )


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_has_its_roles_prefix_and_a_description(role):
    for name, option in options_of(role).items():
        assert name.startswith(f"{role}_") or (role == "preflight" and name in SITE_INPUTS), name
        assert option["description"]
        # Ansible would print its value. The name of a file is none.
        words = ("password", "secret", "fernet", "private_key")
        is_file = name.endswith("_file") or option.get("type") == "path"
        secret = any(word in name for word in words) and not is_file
        assert option.get("no_log", False) == secret, name


@pytest.mark.parametrize("role", ROLES)
def test_every_number_has_a_unit(role):
    for name, option in options_of(role).items():
        if option.get("type") in ("int", "float") and not NUMBERS.search(name):
            assert unit_of(option), f"{name}: end its description with 'Unit: seconds.', or whatever it counts"


@pytest.mark.parametrize("role", ROLES)
def test_no_role_includes_another(role):
    """Its handlers would come once more, with the conditions of the include, for all hosts that are notified later."""
    for path in (ROOT / "roles" / role).glob("*/*.yml"):
        assert "include_role" not in path.read_text(), f"{path}: import_role, or include_tasks"


@pytest.mark.parametrize("role", ROLES)
def test_private_variables_are_the_roles_own(role):
    texts = {path: path.read_text() for path in files_of(role)}
    made = {name for text in texts.values() for names in PRIVATE_MADE.findall(text) for name in names if name}
    for path, text in texts.items():
        found = {name for name in re.findall(r"\b__\w+", text) if not name.endswith("__")} - made
        assert not found, f"{path.relative_to(ROOT)} reads {', '.join(sorted(found))}, which this role does not set"


@pytest.mark.parametrize("role", ROLES)
def test_no_role_restates_anothers_default(role):
    others = {
        name
        for other in ROLES
        if other != role
        for name, option in options_of(other).items()
        if not option.get("required")
    }
    for path in files_of(role):
        found = others.intersection(re.findall(r"\b(\w+)\s*\|\s*default\(", path.read_text()))
        assert not found, f"{path.relative_to(ROOT)} has a default of its own for {', '.join(sorted(found))}"
