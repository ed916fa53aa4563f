"""In a release of several sources, the .airflowignore of each leave out what they leave out in their source alone."""

import os
from pathlib import Path

import pytest
from airflow.utils.file import find_path_from_directory

import dag_tree

ROOT = Path(__file__).resolve().parents[2]
NAMES = [
    "a_dag.py",
    "b_dag.py",
    "tests/a_test.py",
    "lib/tests/x.py",
    "lib/a_dag.py",
    "lib/deep/er/z.py",
    "odd [n]ame.py",
]


def write(directory, files):
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory


def found(directory):
    return {str(Path(path).relative_to(directory)) for path in find_path_from_directory(directory, ".airflowignore")}


@pytest.mark.parametrize(
    "ignore",
    [
        {},
        {".airflowignore": "tests/\n"},
        {".airflowignore": "# all but one\n*\n!a_dag.py\n"},
        {".airflowignore": "*_dag.py\n!/lib/*_dag.py # those"},
        {".airflowignore": "lib"},
        {".airflowignore": "lib/**/z.py\n/\n\n"},
        {".airflowignore": "odd*"},
        {".airflowignore": "*.py\n", "lib/.airflowignore": "!a_dag.py\n!z.py\n"},
        {"lib/.airflowignore": "/tests/\ndeep/er\n"},
        {"lib/.airflowignore": "*"},
        {".airflowignore": "deep/\n", "lib/.airflowignore": "!deep/\n"},
    ],
)
def test_the_ignored_of_one_source_are_no_others(tmp_path, ignore):
    first = write(tmp_path / "first", dict.fromkeys(NAMES, "") | ignore)
    other = {f"{Path(name).parent}/other_{Path(name).name}": "" for name in NAMES} | {"lib/only/tests/a_dag.py": ""}
    other = write(tmp_path / "other", other | {".airflowignore": "only/\n"})
    dest = tmp_path / "dest"
    stub = ROOT / "roles/airflow_dags/files/feed.py"
    dag_tree.build([first, other], ROOT / "dag_modules", stub, dest)
    assert found(dest) == found(first) | found(other)
    assert {"nas.py", "feed/__init__.py"} <= {os.path.relpath(path, dest) for path in dest.rglob("*.py")}


def test_a_single_source_keeps_its_files(tmp_path):
    """Regular expressions, for instance, where a site has set dag_ignore_file_syntax."""
    first = write(tmp_path / "first", {"a.py": "", ".airflowignore": "^b.*$", "lib/.airflowignore": "c"})
    dag_tree.build([first], ROOT / "dag_modules", ROOT / "roles/airflow_dags/files/feed.py", tmp_path / "dest")
    assert (tmp_path / "dest/.airflowignore").read_text().startswith("^b.*$\n# Modules without DAGs")
    assert (tmp_path / "dest/lib/.airflowignore").read_text() == "c"
