#!/usr/bin/python
"""Ansible module: put directories of DAG code together into one archive, or say why not."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

DOCUMENTATION = """
module: dag_tree
short_description: Put directories of DAG code together
description:
  - Archives directories of DAG code, and this project's modules, as one directory. Symbolic links are followed.
  - Refuses a path that two directories have, and a module that has the name of one of this project's.
  - Each C(feeds/NAME.yml) gets a C(feeds/NAME.py) beside it.
  - Version control, bytecode and caches are left out. C(.airflowignore) counts for its own directory alone.
options:
  sources: {type: list, elements: path, required: true, description: Directories of DAG code.}
  modules: {type: path, required: true, description: Directory of this project's modules.}
  stub: {type: path, required: true, description: The file that makes the DAGs of a feed.}
  archives: {type: path, required: true, description: Directory of archives, each named after its digest.}
  options: {type: list, elements: str, required: true, description: Options of GNU tar, which hosts use as well.}
"""

IGNORE = ".airflowignore"
# What is not DAG code; tar leaves out further directories of version control.
LEFT_OUT = {".git", ".gitignore", ".gitattributes", ".gitmodules", ".svn", ".hg", "__pycache__"}
LEFT_OUT |= {".pytest_cache", ".ruff_cache", ".mypy_cache"}
VARIABLE = "airflow_dags_src"
DAY = 24 * 60 * 60


class Refused(Exception):
    """Sources that cannot be one release; the message says what to change, and where."""


def contents(source: Path, stub: Path) -> dict[str, Path]:
    """Return the files of a source, each by its path in the release."""
    if not source.is_dir():
        raise Refused(
            f"{VARIABLE}: {source} is not a directory on this machine: correct the path, or check the repository out"
        )
    found: dict[str, Path] = {}

    def walk(directory: Path, above: tuple[Path, ...]) -> None:
        if (real := directory.resolve()) in above:
            raise Refused(f"{directory} is a link to a directory above it: remove the link")
        for path in sorted(directory.iterdir()):
            if path.name in LEFT_OUT or path.suffix == ".pyc":
                continue
            if path.is_dir():
                walk(path, (*above, real))
            elif path.is_file():
                found[path.relative_to(source).as_posix()] = path
            else:
                raise Refused(f"{path} is a broken link, or no regular file: remove it")

    walk(source, ())
    for name in [
        name for name in found if re.match(r"feeds/(?!\.)(?!.*/\.)", name) and name.endswith((".yml", ".yaml"))
    ]:
        if not re.fullmatch(r"feeds/[^/]+\.yml", name):
            raise Refused(f"{name}: a feed's file ends in .yml, and is in {source}/feeds itself: rename it")
        made = str(PurePosixPath(name).with_suffix(".py"))
        if made in found:
            raise Refused(f"{found[made]} would be replaced by the file that makes the DAGs of {name}: rename one")
        found[made] = stub
    return found


def put_together(sources: dict[Path, dict[str, Path]], modules: dict[str, Path]) -> dict[str, Path]:
    """Return the files of the release by their paths; without .airflowignore.

    :raises Refused: two sources have the same path, or one has a module that is named like one of this project's.
    """
    release: dict[str, Path] = {}
    directories: dict[str, Path] = {}
    own: dict[str, Path] = {}
    for name, path in modules.items():
        if module := _module(name):
            own.setdefault(module, path)
    problems = []
    for files in sources.values():
        here: dict[str, Path] = {}
        for name, path in files.items():
            if PurePosixPath(name).name == IGNORE:
                continue
            parents = [str(parent) for parent in PurePosixPath(name).parents][:-1]
            other = release.get(name) or directories.get(name) or next(filter(None, map(release.get, parents)), None)
            if other and other != path:
                problems.append(f"{path} and {other} would have the same place")
            elif (module := _module(name)) in own:
                problems.append(f"{path} would hide this project's module {module} ({own[module]})")
            elif not other:
                here[name] = path
        release |= here
        for name, path in here.items():
            directories |= {str(parent): path for parent in list(PurePosixPath(name).parents)[:-1]}
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise Refused(f"{'; '.join(problems[:10])}{more}: rename or remove one of each, or take it out of {VARIABLE}")
    return release | {name: path for name, path in modules.items() if PurePosixPath(name).name != IGNORE}


def _module(name: str) -> str | None:
    """Return the name of the top-level module or package that a path belongs to, or None."""
    first, *rest = PurePosixPath(name).parts
    return first if rest else first.partition(".")[0] if first.endswith((".py", ".so")) else None


def ignored(sources: dict[Path, dict[str, Path]]) -> Iterator[str]:
    """Yield a pattern for each file and directory that the .airflowignore of its own source leave out."""
    directories = [{str(p) for name in files for p in PurePosixPath(name).parents} for files in sources.values()]
    for number, files in enumerate(sources.values()):
        others = set().union(*directories[:number], *directories[number + 1 :])
        tree: dict[str, list[str]] = {}
        for name in sorted(directories[number] - {"."}) + sorted(files):
            tree.setdefault(str(PurePosixPath(name).parent), []).append(name)
        yield from _ignored(".", [], False, files, tree, others)


def _ignored(
    directory: str, rules: list, all_of_it: bool, files: dict[str, Path], tree: dict[str, list[str]], others: set[str]
) -> Iterator[str]:
    if (at := str(PurePosixPath(directory, IGNORE))) in files:
        rules = rules + _rules(files[at].read_text(), directory)
    for name in tree.get(directory, []):
        if name == at:
            continue
        is_out = all_of_it or _matches(rules, name, name in tree)
        # A directory that another source has, too, is not left out as a whole.
        if is_out and not (name in tree and name in others):
            yield f"/{_escaped(name)}{'/' if name in tree else ''}"
        elif name in tree:
            yield from _ignored(name, rules, is_out, files, tree, others)


def _rules(text: str, directory: str) -> list[tuple]:
    """Read an .airflowignore as Airflow does (airflow._shared.module_loading.file_discovery)."""
    from pathspec.patterns.gitwildmatch import GitWildMatchPattern

    rules = []
    for line in text.split("\n"):
        pattern = re.sub(r"\s*#.*", "", line)
        if pattern and pattern.strip() != "/":
            relative_to = directory if "/" in pattern.rstrip("/") else None
            rules.append((GitWildMatchPattern(pattern), relative_to, pattern.rstrip().endswith("/")))
    return rules


def _matches(rules: list[tuple], name: str, is_directory: bool) -> bool:
    matched = False
    for pattern, relative_to, is_for_directories in rules:
        if is_for_directories and not is_directory:
            continue
        path = PurePosixPath(name)
        path = str(path.relative_to(relative_to)) if relative_to else path.name
        if pattern.include is not None and pattern.match_file(f"{path}/" if is_directory else path) is not None:
            matched = pattern.include
    return matched


def _escaped(name: str) -> str:
    # Airflow takes what follows a # for a comment, wherever it is.
    return re.sub(r"([*?\[\]\\ ])", r"\\\1", name).replace("#", "?")


def build(sources: list[Path], modules: Path, stub: Path, dest: Path) -> None:
    """Make the directory of a release.

    :raises Refused: says what somebody has to change.
    """
    if not sources:
        raise Refused(f"{VARIABLE} is empty: write at least one directory")
    if twice := [str(source) for source in sources if sources.count(source) > 1]:
        raise Refused(f"{VARIABLE} has {twice[0]} more than once: remove one")
    found = {source: contents(source, stub) for source in sources}
    own = contents(modules, stub)
    release = put_together(found, own)
    if len(found) == 1:
        [files] = found.values()
        release |= {name: path for name, path in files.items() if name.endswith(f"/{IGNORE}")}
        text = files[IGNORE].read_text() if IGNORE in files else ""
    else:
        text = "# From the .airflowignore of each source, for the files of that source.\n" + "\n".join(ignored(found))
    if dest.exists():
        shutil.rmtree(dest)
    dest.mkdir(parents=True)
    for name, path in release.items():
        (dest / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, dest / name)
    (dest / IGNORE).write_text(f"{text.rstrip()}\n{own[IGNORE].read_text()}".lstrip())


def gnu_tar(path_of: Callable[[str], str | None], run: Callable[[list[str]], str]) -> str:
    """Return the path of GNU tar: hosts compare digests, and other programs write other bytes.

    :raises Refused: there is none; says how to install one.
    """
    found = []
    for name in ("tar", "gtar"):
        if path := path_of(name):
            version = (run([path, "--version"]).splitlines() or [""])[0]
            if "GNU tar" in version:
                return path
            found.append(f"{path} is {version or 'something else'}")
    there = "; ".join(found) or "there is no tar"
    raise Refused(
        f"This machine has no GNU tar, which archives DAG code ({there}): install it, on macOS with `brew install "
        "gnu-tar`, on Linux as the package tar"
    )


def keep(archive: Path, directory: Path) -> tuple[Path, str]:
    """Move an archive to a directory of archives; return its path there, named after its digest, and the digest.

    A run with other sources has another archive. What is older than a day is removed.
    """
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    for old in directory.iterdir():
        # Another run may remove the same.
        with contextlib.suppress(FileNotFoundError):
            if old.stat().st_mtime < time.time() - DAY:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
    # Whole and at once: another run may be copying an archive of the same name.
    return archive.rename(directory / f"{digest}.tar"), digest


def main() -> None:
    from ansible.module_utils.basic import AnsibleModule

    one = {"type": "path", "required": True}
    several = {"type": "list", "required": True}
    module = AnsibleModule(
        {
            "sources": {"elements": "path", **several},
            "modules": one,
            "stub": one,
            "archives": one,
            "options": {"elements": "str", **several},
        }
    )

    modules, stub, archives = (Path(module.params[name]) for name in ("modules", "stub", "archives"))
    try:
        tar = gnu_tar(module.get_bin_path, lambda command: module.run_command(command)[1])
        archives.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=archives) as directory:
            tree, archive = Path(directory, "tree"), Path(directory, "archive")
            build([Path(source) for source in module.params["sources"]], modules, stub, tree)
            command = [tar, *module.params["options"], "--file", str(archive), "--directory", str(tree), "."]
            module.run_command(command, check_rc=True)
            path, digest = keep(archive, archives)
    except ImportError as error:
        msg = (
            f"{sys.executable} has no {error.name}, which .airflowignore is read with: {sys.executable} -m pip install "
        )
        module.fail_json(msg=f"{msg}{error.name}")
    except (Refused, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    # Whether a host has to change, the digest says.
    module.exit_json(changed=False, path=str(path), digest=digest)


if __name__ == "__main__":
    os.umask(0o022)
    main()
