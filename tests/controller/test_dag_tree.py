"""Directories of DAG code that become one release."""

import os
import time

import pytest

from dag_tree import DAY, Refused, build, gnu_tar, keep

OURS = {"nas.py": "our nas", "feed/__init__.py": "our feed", ".airflowignore": "/nas.py\n/feed/\n"}


@pytest.fixture
def release(tmp_path):
    """Make a release of sources, each the texts of its files by path; return those of the release."""
    stub, dest = tmp_path / "stub.py", tmp_path / "dest"
    stub.write_text("stub")

    def write(name, files):
        (tmp_path / name).mkdir(exist_ok=True)
        for path, text in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(text)
        return tmp_path / name

    def release(*sources):
        directories = [write(f"source{number}", files) for number, files in enumerate(sources, 1)]
        build(directories, write("ours", OURS), stub, dest)
        return {str(path.relative_to(dest)): path.read_text() for path in dest.rglob("*") if path.is_file()}

    return release


def test_ours_are_beside_theirs_and_what_was_there_before_is_gone(release, tmp_path):
    release({"old.py": "old"})
    (tmp_path / "source1/old.py").unlink()
    found = release({"a_dag.py": "a", "lib/x.py": "x"}, {"b_dag.py": "b", "lib/y.py": "y"})
    ours = {"nas.py": "our nas", "feed/__init__.py": "our feed"}
    assert found.pop(".airflowignore").endswith("/nas.py\n/feed/\n")
    assert found == {"a_dag.py": "a", "b_dag.py": "b", "lib/x.py": "x", "lib/y.py": "y"} | ours


def test_each_feed_gets_its_stub(release):
    found = release({"feeds/rates.yml": "-"}, {"feeds/other.yml": "-", "feeds/.hidden.yaml": "-"})
    assert found["feeds/rates.py"] == found["feeds/other.py"] == "stub"
    assert "feeds/.hidden.py" not in found


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([{"x.py": "1"}, {"x.py": "2"}], "{0}/source2/x.py and {0}/source1/x.py would have the same place"),
        ([{"lib/x.py": "1"}, {"lib": "2"}], "{0}/source2/lib and {0}/source1/lib/x.py would have the same place"),
        ([{"lib": "1"}, {"lib/x.py": "2"}], "{0}/source2/lib/x.py and {0}/source1/lib would have the same place"),
        ([{"feeds/x.yml": "1"}, {"feeds/x.yml": "2"}], "{0}/source2/feeds/x.yml and {0}/source1/feeds/x.yml would"),
        ([{"feeds/x.yml": "1", "feeds/x.py": "2"}], "{0}/source1/feeds/x.py would be replaced by the file that makes"),
        ([{"nas.py": "1"}], "{0}/source1/nas.py would hide this project's module nas ({0}/ours/nas.py)"),
        ([{"nas/x.py": "1"}], "{0}/source1/nas/x.py would hide this project's module nas ({0}/ours/nas.py)"),
        ([{"feed.py": "1"}], "{0}/source1/feed.py would hide this project's module feed ({0}/ours/feed/__init__.py)"),
        ([{"feed/extra.py": "1"}], "{0}/source1/feed/extra.py would hide this project's module feed"),
        ([{"feeds/x.yaml": "1"}], "feeds/x.yaml: a feed's file ends in .yml, and is in {0}/source1/feeds itself"),
        ([{"feeds/bank/x.yml": "1"}], "feeds/bank/x.yml: a feed's file ends in .yml, and is in {0}/source1/feeds"),
        ([], "airflow_dags_src is empty: write at least one directory"),
    ],
)
def test_what_cannot_be_one_release_is_refused_with_both_places(release, tmp_path, sources, message):
    with pytest.raises(Refused) as refused:
        release(*sources)
    assert message.format(tmp_path) in str(refused.value)
    assert not (tmp_path / "dest").exists()


def test_a_directory_that_is_not_there_or_there_twice_is_refused_by_name(tmp_path):
    with pytest.raises(Refused, match=rf"airflow_dags_src: {tmp_path}/none is not a directory on this machine"):
        build([tmp_path / "none"], tmp_path, tmp_path, tmp_path / "dest")
    with pytest.raises(Refused, match=r"airflow_dags_src has .* more than once"):
        build([tmp_path, tmp_path], tmp_path, tmp_path, tmp_path / "dest")


def test_version_control_and_bytecode_stay_where_they_are(release):
    left_out = [".git/config", "sub/.git", ".gitignore", "__pycache__/x.pyc", "x.pyc", ".ruff_cache/x"]
    found = release(dict.fromkeys([*left_out, "sub/x.py"], ""), dict.fromkeys([".git", ".gitignore"], ""))
    assert set(found) == {"sub/x.py", "nas.py", "feed/__init__.py", ".airflowignore"}


def test_links_are_followed_and_those_that_lead_nowhere_are_refused(release, tmp_path):
    release({"lib/x.py": "x"})
    (tmp_path / "source1/linked").symlink_to("lib")
    (tmp_path / "source1/y.py").symlink_to("lib/x.py")
    found = release({})
    assert found["linked/x.py"] == found["y.py"] == "x"
    assert not (tmp_path / "dest/y.py").is_symlink()
    (tmp_path / "source1/lib/back").symlink_to("..")
    with pytest.raises(Refused, match="back is a link to a directory above it"):
        release({})
    (tmp_path / "source1/lib/back").unlink()
    (tmp_path / "source1/gone.py").symlink_to("nothing")
    with pytest.raises(Refused, match=r"gone\.py is a broken link"):
        release({})


def test_a_program_stays_one(release, tmp_path):
    release({"run.sh": "#!/bin/sh"})
    (tmp_path / "source1/run.sh").chmod(0o755)
    release({})
    assert os.access(tmp_path / "dest/run.sh", os.X_OK)


GNU, BSD = "tar (GNU tar) 1.34\nCopyright", "bsdtar 3.5.3 - libarchive 3.7.4\n"


@pytest.mark.parametrize(
    ("programs", "chosen"),
    [({"tar": GNU}, "/bin/tar"), ({"tar": BSD, "gtar": GNU}, "/bin/gtar"), ({"gtar": GNU}, "/bin/gtar")],
)
def test_gnu_tar_is_found_under_both_of_its_names(programs, chosen):
    versions = {f"/bin/{name}": version for name, version in programs.items()}
    assert gnu_tar(lambda name: f"/bin/{name}" if name in programs else None, lambda c: versions[c[0]]) == chosen


@pytest.mark.parametrize(
    ("programs", "there"),
    [
        ({"tar": BSD}, "/bin/tar is bsdtar 3.5.3 - libarchive 3.7.4"),
        # Some programs know no --version.
        ({"tar": ""}, "/bin/tar is something else"),
        ({}, "there is no tar"),
    ],
)
def test_a_machine_without_gnu_tar_is_refused_with_the_remedy(programs, there):
    with pytest.raises(Refused) as refused:
        gnu_tar(lambda name: f"/bin/{name}" if name in programs else None, lambda c: programs[c[0][5:]])
    assert f"no GNU tar, which archives DAG code ({there}): install it, on macOS with `brew" in str(refused.value)


def test_archives_are_named_after_their_content_and_kept_for_a_day(tmp_path):
    archives = tmp_path / "archives"
    (archives / "of an interrupted run").mkdir(parents=True)
    for name, age in (("yesterday.tar", DAY + 9), ("today.tar", DAY - 99), ("of an interrupted run", DAY + 9)):
        (archives / name).touch()
        os.utime(archives / name, (time.time() - age,) * 2)
    for _ in range(2):
        (tmp_path / "archive").write_text("a")
        path, digest = keep(tmp_path / "archive", archives)
        assert path.read_text() == "a"
        assert path.name == f"{digest}.tar"
        assert sorted(each.name for each in archives.iterdir()) == sorted(["today.tar", path.name])
