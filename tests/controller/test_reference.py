"""docs/variables.md has every public variable, and no playbook, inventory or document disagrees with it."""

import re

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from jinja2 import TemplateAssertionError, nodes
from jinja2.nativetypes import NativeEnvironment

from docs.variables import PAGE, ROOT, options_of, reference, roles, specs

ROLES = roles()
OPTIONS = {name: option for role in ROLES for name, option in options_of(role).items()}
PLAYBOOKS = sorted([ROOT / "site.yml", *(ROOT / "playbooks").rglob("*.yml")])
INVENTORIES = sorted(
    path
    for pattern in ("inventories/**/*.yml", "molecule/*/inventory/**/*.yml", "molecule/*/vars/**/*.yml")
    for path in ROOT.glob(pattern)
    if "production" not in path.parts and "secrets" not in path.parts
)
DOCUMENTS = [ROOT / "README.md", ROOT / "README.ko.md", *sorted((ROOT / "docs").glob("*.md"))]
READMES = sorted((ROOT / "roles").glob("*/README.md"))
# A name with the prefix of a role or of the site's inputs. A file, a path and a module are none.
PREFIXES = "|".join(sorted((f"{role}_" for role in ROLES if role != "preflight"), key=len, reverse=True))
LIKE_A_VARIABLE = re.compile(
    r"(?<![\w/-])(?<!community\.mysql\.)"
    rf"(?:{PREFIXES}|api_|jwt_|certificates_|airflow_(?:broker|database)_|airflow_url|secrets_directory)\w*"
    r"(?!\w|\.(?:py|sh|md|ya?ml|j2|service)\b)"
)
# Secrets' files, and Airflow's own options.
OTHER_NAMES = {"mysql_password", "api_secret_key", "jwt_private_key", "jwt_secret"}
OTHER_NAMES |= {"api_auth", "api_url", "jwt_private_key_path"}
# What Ansible and Jinja define.
MAGIC = {"dict", "group_names", "groups", "hostvars", "inventory_dir", "inventory_file", "inventory_hostname"}
MAGIC |= {"item", "lookup", "now", "omit", "playbook_dir", "query", "range", "role_path", "undef", "vars"}
ENVIRONMENT = NativeEnvironment()
# Jinja reads a regular expression as Python reads a string.
pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence")
# Keys whose strings are expressions without braces.
EXPRESSIONS = {"when", "that", "until", "changed_when", "failed_when"}


def test_the_page_is_what_the_specs_say():
    page = reference()
    assert PAGE.read_text() == page, "run `make docs`"
    for name in OPTIONS:
        assert f'<a id="{name}"></a>' in page


def test_no_two_roles_have_the_same_variable():
    names = [name for role in ROLES for name in options_of(role)]
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)


@pytest.mark.parametrize(
    "path", [*PLAYBOOKS, *INVENTORIES, *DOCUMENTS, *READMES], ids=lambda path: str(path.relative_to(ROOT))
)
def test_names_with_a_roles_prefix_are_in_the_reference(path):
    found = set(LIKE_A_VARIABLE.findall(path.read_text())) - OTHER_NAMES
    assert found <= set(OPTIONS), f"{', '.join(sorted(found - set(OPTIONS)))}: not in docs/variables.md"


@pytest.mark.parametrize("path", INVENTORIES, ids=lambda path: str(path.relative_to(ROOT)))
def test_variables_of_inventories_are_in_the_reference(path):
    """Those that are commented out, too."""
    if "group_vars" not in path.parts and "host_vars" not in path.parts:
        return
    names = set(re.findall(r"^(?:# )?([a-z]\w+):(?: |$)", path.read_text(), re.MULTILINE))
    unknown = {name for name in names if not name.startswith(("ansible_", "lab_"))} - set(OPTIONS)
    assert not unknown, f"{', '.join(sorted(unknown))}: not in docs/variables.md"


def strings_of(data, key=""):
    """Yield every string of a playbook as Jinja, its keys' expressions, too."""
    if isinstance(data, dict):
        for name, value in data.items():
            yield from strings_of(value, name)
    elif isinstance(data, list):
        for value in data:
            yield from strings_of(value, key)
    elif isinstance(data, str):
        yield "{{" + data + "}}" if key in EXPRESSIONS else data


def names_made(data):
    """Yield the names that plays and tasks give to values, with the values that are written there."""
    if isinstance(data, dict):
        for name, value in data.items():
            if name in ("vars", "ansible.builtin.set_fact"):
                yield from value.items()
            elif name in ("register", "loop_var", "index_var"):
                yield value, None
            yield from names_made(value)
    elif isinstance(data, list):
        for value in data:
            yield from names_made(value)


def parse_all(path):
    return [ENVIRONMENT.parse(text) for text in strings_of(yaml.safe_load(path.read_text()))]


def names_used(tree, aliases):
    """Return the names that an expression does not set itself, and those that it reads of hostvars."""
    names = list(tree.find_all(nodes.Name))
    used = {node.name for node in names if node.ctx == "load"} - {node.name for node in names if node.ctx != "load"}
    for node in tree.find_all(nodes.Getattr):
        of = node.node.node if isinstance(node.node, nodes.Getitem) else node.node
        if isinstance(of, nodes.Name) and (of.name in aliases or (of.name == "hostvars" and of is not node.node)):
            used.add(node.attr)
    return used


def test_variables_of_playbooks_are_in_the_reference():
    """Whatever its name: a variable that no play sets comes from the inventory, and has to be documented."""
    made = dict(pair for path in PLAYBOOKS for pair in names_made(yaml.safe_load(path.read_text())))
    for path in (ROOT / "playbooks").glob("group_vars/**/*.yml"):
        made |= yaml.safe_load(path.read_text())
    aliases = {name for name, value in made.items() if re.fullmatch(r"\{\{ hostvars\[.*\] \}\}", str(value))}
    unknown = {}
    for path in PLAYBOOKS:
        used = {name for tree in parse_all(path) for name in names_used(tree, aliases)}
        for name in used - MAGIC - set(made) - set(OPTIONS):
            if not name.startswith(("ansible_", "lab_")):
                unknown.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert not unknown, "not in docs/variables.md"


def default_of(name):
    """Return a variable's default; one with Jinja is what it is where nothing is set."""
    value = OPTIONS[name].get("default")
    try:
        return ENVIRONMENT.from_string(value).render() if isinstance(value, str) and "{{" in value else value
    except TemplateAssertionError:
        # A filter of Ansible's.
        return value


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_playbooks_restate_no_other_default(path):
    for tree in parse_all(path):
        for node in tree.find_all(nodes.Filter):
            if node.name not in ("default", "d") or not node.args:
                continue
            name = getattr(node.node, "attr", getattr(node.node, "name", None))
            if name not in OPTIONS or OPTIONS[name].get("required"):
                continue
            try:
                restated = node.args[0].as_const()
            except nodes.Impossible:
                continue
            assert restated == default_of(name), (
                f"{name} has the default {default_of(name)!r}, here it has {restated!r}"
            )


def uses_of(role, blocks):
    """Yield (entry point, variables) of each use of a role in YAML that its README shows."""
    for play in blocks:
        common = play.get("vars", {})
        for use in play.get("roles", []):
            variables = {
                name: value for name, value in use.items() if name not in ("role", "name", "vars", "when", "tags")
            }
            if use.get("role", use.get("name")) == role:
                yield "main", {**common, **variables, **use.get("vars", {})}
        for task in [play, *play.get("tasks", [])]:
            use = task.get("ansible.builtin.import_role", task.get("ansible.builtin.include_role", {}))
            if use.get("name") == role:
                yield use.get("tasks_from", "main").removesuffix(".yml"), {**common, **task.get("vars", {})}


@pytest.mark.parametrize("role", ROLES)
def test_the_example_in_each_readme_passes_the_roles_spec(role):
    text = (ROOT / "roles" / role / "README.md").read_text()
    assert f"docs/variables.md#{role})" in text
    blocks = [block for found in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) for block in yaml.safe_load(found)]
    uses = list(uses_of(role, blocks))
    assert uses, "README.md shows no use of the role"
    for entry, variables in uses:
        spec = specs(role)[entry].get("options", {})
        # A variable of another role that this one enters has the type that the other says.
        others = {
            name: {**OPTIONS[name], "required": False} for name in variables if name in OPTIONS and name not in spec
        }
        # A default that is a template has its type when Ansible has filled it in.
        known = {
            name: {key: value for key, value in option.items() if key != "default" or "{{" not in str(value)}
            for name, option in {**others, **spec}.items()
        }
        result = ArgumentSpecValidator(known).validate(variables)
        assert not result.error_messages, f"{entry}: {result.error_messages}"


def test_a_wrong_example_is_refused():
    spec = options_of("firewall")
    for wrong in ({"firewall_enabeld": True}, {"firewall_ssh_port": "ssh"}, {"firewall_ports": [{"prot": 80}]}):
        assert ArgumentSpecValidator(spec).validate(wrong).error_messages, wrong
