"""Every break of lab/breaks/ names a host and checks that exist, and `make prove` selects breaks as it says."""

import re

import pytest

from lab import HOSTS, ROOT
from lab.prove import CHECKS, choose, themes

BREAKS = choose("all")
TESTS = re.findall(r"(?m)^def (test_\w+)", "".join((ROOT / path).read_text() for path in CHECKS))


@pytest.mark.parametrize("item", BREAKS, ids=[item["name"] for item in BREAKS])
def test_a_break_can_be_looked_for(item):
    assert item["host"] in HOSTS
    re.compile(f".*(?:{item['says']}).*")
    assert [name for name in TESTS if item.get("first", "") in name]


def test_no_break_is_there_twice():
    assert len({item["name"] for item in BREAKS}) == len(BREAKS)


def test_one_break_of_each_theme_is_done_unless_others_are_asked_for():
    assert choose("") == [breaks[0] for breaks in themes().values()]
    assert 6 <= len(choose("")) <= 9
    assert choose("redis has no PASSWORD|of this name there is none") == [themes()["redis"][0]]
    assert choose("of this name there is none") == []
