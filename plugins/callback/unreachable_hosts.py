"""Names the hosts that could not be reached, below the recap of a run."""

from ansible import constants
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: unreachable_hosts
type: aggregate
short_description: Names the hosts that could not be reached
description:
  - A run goes on without workers that are off; this callback makes sure that nobody overlooks their names.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "unreachable_hosts"

    def v2_playbook_on_stats(self, stats):
        if stats.dark:
            names = ", ".join(sorted(stats.dark))
            message = f"Hosts that could not be reached: {names}. Run site.yml again when these hosts answer."
            self._display.display(message, color=constants.COLOR_UNREACHABLE)
