"""Documents: links resolve, commands exist, and README.ko.md is in step with README.md."""

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Without directories whose name begins with a dot: labs, virtualenvs and caches.
DOCUMENTS = sorted({*ROOT.glob("*.md"), *ROOT.glob("[!.]*/**/*.md")})
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
README, KOREAN = ROOT / "README.md", ROOT / "README.ko.md"


@cache
def prose(path):
    """Return a document without its code blocks."""
    return re.sub(r"(?ms)^ *```.*?^ *```$", "", path.read_text())


def headings(path):
    return re.findall(r"(?m)^(#+) +(.+)$", prose(path))


def links(path):
    """Return the targets of links; code spans have none."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(path)))


def spans(path):
    return re.findall(r"`([^`\n]+)`", prose(path))


def commands(path):
    """Return the lines of a document's shell blocks, without comments."""
    blocks = re.findall(r"(?ms)^ *```sh\n(.*?)^ *```$", path.read_text())
    return [
        line
        for text in blocks
        for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.split("\n"))
        if line
    ]


def anchors(path):
    """Return the anchors that a Markdown viewer makes of headings, and those that are written out."""
    found = []
    for _, title in headings(path):
        title = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        number = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other) is not None for other in found)
        found.append(f"{slug}-{number}" if number else slug)
    return {*found, *re.findall(r'<a id="([^"]+)"', path.read_text())}


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_every_relative_link_leads_to_a_file_and_to_an_anchor_of_it(path):
    for link in links(path):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / unquote(name) if name else path
        assert target.exists(), f"{link}: there is no such file"
        assert not anchor or unquote(anchor) in anchors(target), f"{link}: there is no such heading"


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_every_command_names_what_there_is(path):
    text = "\n".join(commands(path) + spans(path))
    targets = re.findall(r"(?m)^([a-z./][\w./-]*):(?!=)", (ROOT / "Makefile").read_text())
    assert set(re.findall(r"(?m)^make ([a-z./][\w./-]*)", text)) - set(targets) == set(), "no such target of make"
    for name in re.findall(r"(?:^|(?<=\s))(playbooks/[\w-]+\.yml|site\.yml)", text):
        assert (ROOT / name).exists(), f"there is no {name}"
    for name in re.findall(r"molecule test -s ([a-z_]+)", text):
        assert (ROOT / "molecule" / name / "molecule.yml").exists(), f"there is no scenario {name}"


def test_development_names_every_scenario():
    named = set(spans(ROOT / "docs/development.md"))
    assert {path.parent.name for path in ROOT.glob("molecule/*/molecule.yml")} - named == set()


def test_the_korean_readme_is_in_step():
    assert [level for level, _ in headings(KOREAN)] == [level for level, _ in headings(README)]
    assert commands(KOREAN) == commands(README)
    # In a sentence the order of words differs.
    assert sorted(spans(KOREAN)) == sorted(spans(README))
    assert [link for link in links(KOREAN) if link != "README.md"] == [
        link for link in links(README) if link != "README.ko.md"
    ]
