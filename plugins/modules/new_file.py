#!/usr/bin/python
"""Ansible module: create a private file, unless there is one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

DOCUMENTATION = """
module: new_file
short_description: Create a private file, unless there is one
description:
  - An existing file stays as it is. Of several runs that create the same file at once, one succeeds, and the others
    find its file. With C(ansible.builtin.copy) the last run would replace a file that the others have read already.
  - The file belongs to the user who runs the module, with mode 0600. Nobody sees it without its whole content.
options:
  path: {type: path, required: true, description: File to create, in an existing directory.}
  content: {type: str, required: true, description: Content of the file.}
"""


def create(path: Path, content: str) -> bool:
    """Create a file and return true, or return false if there is one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new_file.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # Unlike a rename, a link replaces nothing.
        os.link(name, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(name)  # noqa: PTH108
    return True


def main() -> None:
    from ansible.module_utils.basic import AnsibleModule

    options = {
        "path": {"type": "path", "required": True},
        "content": {"type": "str", "required": True, "no_log": True},
    }
    module = AnsibleModule(options, supports_check_mode=True)
    path = Path(module.params["path"])
    try:
        is_new = not path.exists() if module.check_mode else create(path, module.params["content"])
    except OSError as error:
        module.fail_json(msg=f"{path} cannot be created: {error}")
    module.exit_json(changed=is_new)


if __name__ == "__main__":
    main()
