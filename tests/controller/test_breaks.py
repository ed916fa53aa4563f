"""What lab/breaks.yml says can be looked for, and is in the checks that `make prove` runs."""

import re

import pytest
import yaml

from lab import HOSTS, ROOT
from prove import CHECKS

BREAKS = yaml.safe_load((ROOT / "lab/breaks.yml").read_text())
TESTS = re.findall(r"(?m)^def (test_\w+)", "".join((ROOT / path).read_text() for path in CHECKS))


@pytest.mark.parametrize("item", BREAKS, ids=[item["name"] for item in BREAKS])
def test_a_break_can_be_looked_for(item):
    assert item["host"] in HOSTS
    re.compile(f".*(?:{item['says']}).*")
    assert [name for name in TESTS if item.get("first", "") in name]


def test_no_break_is_there_twice():
    assert len({item["name"] for item in BREAKS}) == len(BREAKS)
