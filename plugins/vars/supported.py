"""Vars plugin that sets no variable: it refuses a version of ansible-core with which the playbooks are not tested.

Ansible calls vars plugins when it has read the inventory, before it reads a playbook: an old version would stop at a
line that it does not understand, or in the middle of a run. So this file is written in a Python that old versions have.
"""

import re
import sys

from ansible.errors import AnsibleError
from ansible.plugins.vars import BaseVarsPlugin
from ansible.release import __version__

DOCUMENTATION = """
name: supported
short_description: Refuse versions of ansible-core that are not supported
description: [Sets no variable.]
options:
  stage: {description: With the inventory and not for each task., choices: [inventory], default: inventory}
"""

OLDEST, NEWEST = (2, 19), (2, 21)


def refusal(version):
    """Return why a version of ansible-core is refused, or an empty text."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found and OLDEST <= tuple(int(number) for number in found.groups()) <= NEWEST:
        return ""
    oldest, newest, next_one = ("{}.{}".format(*pair) for pair in (OLDEST, NEWEST, (NEWEST[0], NEWEST[1] + 1)))
    return (
        f"This is ansible-core {version}, in {sys.prefix}; these playbooks need ansible-core {oldest} to {newest}. "
        "Use the tools of this checkout: `make .venv/ready && source .venv/bin/activate`. Or install another version, "
        f"with Python 3.11 or newer: `python3 -m pip install 'ansible-core>={oldest},<{next_one}'`."
    )


class VarsModule(BaseVarsPlugin):
    def get_vars(self, loader, path, entities, cache=True):
        why = refusal(__version__)
        if why:
            raise AnsibleError(why)
        return {}
