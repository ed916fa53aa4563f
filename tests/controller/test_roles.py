"""Every role's contract: what meta/argument_specs.yml says of a variable is what defaults/main.yml has."""

import pytest
import yaml

from lab import ROOT

TYPES = {"str": str, "path": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict}
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())


def read(role, path):
    return yaml.safe_load((ROOT / "roles" / role / path).read_text()) or {}


def options_of(role):
    return read(role, "meta/argument_specs.yml")["argument_specs"]["main"]["options"]


@pytest.mark.parametrize("role", ROLES)
def test_specs_and_defaults_agree(role):
    """ansible-docsmith compares names and values, too (`make lint`); it does not compare types."""
    options, defaults = options_of(role), read(role, "defaults/main.yml")
    assert {name for name, option in options.items() if not option.get("required")} == set(defaults)
    for name, value in defaults.items():
        assert options[name]["default"] == value, name
        assert type(value) is TYPES[options[name].get("type", "str")] or "{{" in str(value), name


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_has_its_roles_prefix_and_a_description(role):
    for name, option in options_of(role).items():
        assert name.startswith(f"{role}_")
        assert option["description"]
        # Ansible would print its value. The name of a file is none.
        words = ("password", "secret", "fernet", "private_key")
        secret = any(word in name for word in words) and not name.endswith("_file")
        assert option.get("no_log", False) == secret, name


@pytest.mark.parametrize("role", ROLES)
def test_no_role_includes_another(role):
    """Its handlers would come once more, with the conditions of the include, for all hosts that are notified later."""
    for path in (ROOT / "roles" / role).glob("*/*.yml"):
        assert "include_role" not in path.read_text(), f"{path}: import_role, or include_tasks"
