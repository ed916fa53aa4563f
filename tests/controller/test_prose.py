"""Names of plays, tasks and handlers say verb, noun, object: who reads a log has not read the task before."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    path
    for pattern in (
        "site.yml",
        "playbooks/**/*.yml",
        "roles/*/tasks/**/*.yml",
        "roles/*/handlers/**/*.yml",
        "molecule/**/*.yml",
        "lab/*.yml",
    )
    for path in ROOT.glob(pattern)
    if "group_vars" not in path.parts
)
TASK_LISTS = ("tasks", "pre_tasks", "post_tasks", "handlers", "block", "rescue", "always")
# Pronouns that stand for a noun; "that" after a noun, "this host", "one host" and "a certificate and its key" are none.
PRONOUN = re.compile(
    r"\b(?:"
    r"it|itself|they|them|theirs|those|these|ones|ours|yours|others"
    r"|who|whose|whom|whoever|what|whatever"
    r"|(?:this|that|which|both)(?=$|[,.;:)])|this(?= (?:is|was|has|does)\b)"
    r"|one(?=$|[,.;:)]| (?:that|which|of|in|on|with|to|for|from|before|after|beside|is|was)\b)"
    r"|of before|from before"
    r")\b"
    # The object itself: "Sign its certificate", "Check that their names fit".
    r"|(?:^|(?<=\| ))\w+ (?:that )?(?:its|their)\b",
    re.IGNORECASE,
)
SHARE = 0.03


def names_in(data):
    """Yield the names of plays and tasks, in their order; of other lists, nothing."""
    for item in data if isinstance(data, list) else []:
        if not isinstance(item, dict):
            continue
        is_task = any("." in key or key in ("hosts", *TASK_LISTS) for key in item)
        if is_task and "name" in item:
            yield str(item["name"])
        for key in TASK_LISTS:
            yield from names_in(item.get(key))


def names_of(path):
    return list(names_in(yaml.safe_load(path.read_text())))


def pronoun_in(name):
    """Return the first pronoun in a name; what Jinja puts there is a noun."""
    found = PRONOUN.search(re.sub(r"\{\{.*?\}\}", "noun", name))
    return found and found[0]


def test_names_have_no_pronoun_for_a_noun():
    names = [(path.relative_to(ROOT), name) for path in FILES for name in names_of(path)]
    found = [f"{path}: {name}" for path, name in names if pronoun_in(name)]
    assert len(names) > 100, "names are not found any more"
    assert len(found) <= SHARE * len(names), "\n".join([f"{len(found)} of {len(names)} names have a pronoun:", *found])


def test_names_in_subordinate_files_begin_with_the_file():
    """A log says where a task is from; ansible-lint calls this name[prefix]."""
    paths = [path for path in FILES if "roles" in path.parts and "tasks" in path.parts and path.name != "main.yml"]
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in paths
        for name in names_of(path)
        if not re.match(rf"{re.escape(path.stem)} \| [A-Z]", name)
    ]
    assert not found, "\n".join(
        ["without their file's name before them, as in 'users | Create the administrator':", *found]
    )


@pytest.mark.parametrize(
    ("name", "pronoun"),
    [
        ("Give it the new one, too", "it"),
        ("Remove those of before", "those"),
        ("Check that each has one", "one"),
        ("Check which", "which"),
        ("Refuse what the site does not need", "what"),
        ("Trust others of ours no more", "others"),
        ("keys | Sign its certificate", "Sign its"),
        ("Install the certificate and its key", None),
        ("Stop units that no longer belong on this host", None),
        ("Remove CA certificates that are no longer configured", None),
        ("Check that this host is one host of the inventory", None),
        ("users | Create {{ item }}", None),
        ("Item | Itemise the sites", None),
    ],
)
def test_pronouns_are_told_from_other_words(name, pronoun):
    assert pronoun_in(name) == pronoun
