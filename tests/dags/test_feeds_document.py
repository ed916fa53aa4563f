"""docs/feeds.md: its tables have the fields of the models and their defaults, and its examples are feeds."""

import re
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter
from pydantic_core import PydanticUndefined

from feed.__main__ import main
from feed.column import Column, Options
from feed.model import Feed, Load
from feed.source import Late, Pages, Source

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs/feeds.md").read_text()
# What stands before the names of a model's fields, in the document.
MODELS = {"": Feed, "source.": Source, "source.pages.": Pages, "late.": Late, "load.": Load, "column ": Column}
# From the name and the text of the file; mappings whose own fields are in the tables; what columns have, too.
OTHERS = {"name", "text", "source", "late", "load", *(f"load.{name}" for name in Options.model_fields)}
# What a part of a feed is tried with.
REST = {
    "schedule": "30 6 * * *",
    "timezone": "UTC",
    "source": {"connection": "bank", "path": "/x.csv"},
    "format": "csv",
    "load": {"connection": "warehouse", "table": "rates", "columns": {"id": "int"}},
}


def fields():
    """Return the models' fields by the names that the document gives them."""
    found = {f"{p}{f.alias or name}": f for p, model in MODELS.items() for name, f in model.model_fields.items()}
    return {name: field for name, field in found.items() if name not in OTHERS}


def rows():
    """Return name and default of each row in the document's tables of fields."""
    found = []
    for section in re.split(r"(?m)^## ", DOCUMENT):
        prefix = "column " if section.startswith("Columns") else ""
        for table in re.findall(r"(?m)^\| field \| type \| default \| \|\n\|[-|]+\n((?:\|.*\n)+)", section):
            for line in table.splitlines():
                name, _, default, _ = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
                found.append((prefix + name.strip("`"), default))
    return found


def blocks(language):
    return re.findall(rf"(?ms)^( *)```{language}\n(.*?)^ *```$", DOCUMENT)


def examples():
    return [yaml.safe_load(text) for _, text in blocks("yaml")]


def whole(example):
    """Return an example with the fields that it leaves out."""
    parts = {name: REST[name] | example.get(name, {}) for name in ("source", "load")}
    rest = {name: value for name, value in REST.items() if name != "format" or "parser" not in example}
    return rest | example | parts


def checked(tmp_path, example, *sample):
    path = tmp_path / "feeds" / "example.yml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(example, sort_keys=False))
    return main(["check", str(path), *map(str, sample)])


def test_the_tables_have_each_field_once_and_nothing_else():
    names = [name for name, _ in rows()]
    assert sorted(names) == sorted(fields())


@pytest.mark.parametrize(("name", "default"), rows(), ids=[name for name, _ in rows()])
def test_the_tables_have_the_defaults_of_the_models(name, default):
    field = fields()[name]
    if field.is_required():
        assert default == "required"
    elif found := re.fullmatch("`(.+)`", default):
        read = TypeAdapter(field.rebuild_annotation()).validate_python
        assert read(yaml.safe_load(found[1])) == field.default
    else:
        # What follows from something else is said in words.
        assert default not in ("", "required")
        assert field.default is PydanticUndefined or not field.default


def test_a_whole_feed_and_parts_of_feeds_are_in_the_document():
    complete = [example for example in examples() if example.keys() >= REST.keys()]
    assert complete
    assert len(examples()) >= 10


@pytest.mark.parametrize("example", examples(), ids=[", ".join(example) for example in examples()])
def test_every_example_is_right(tmp_path, capsys, example):
    """A part of a feed is tried with the rest of a small one; a whole feed stands for itself."""
    is_right = checked(tmp_path, example if example.keys() >= REST.keys() else whole(example)) == 0
    assert is_right, capsys.readouterr().out


def test_the_parser_of_the_document_reads_records(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "our_parsers", raising=False)
    ((_, text),) = blocks("python")
    (tmp_path / "our_parsers.py").write_text(text)
    (tmp_path / "sample").write_text("USD=1400\nbroken=\n")
    load = REST["load"] | {"reject_limit": 1, "columns": {"name": "text", "value": "int"}}
    example = whole({"parser": "our_parsers:rows", "load": load})
    try:
        assert checked(tmp_path, example, tmp_path / "sample") == 0
    finally:
        sys.modules.pop("our_parsers", None)
    assert "1 of 2 records would be loaded, 1 rejected" in capsys.readouterr().out
