"""What the role preflight finds in --limit, as findings: {host, what, remedy}, as in preflight.py."""

import shlex

from ansible.inventory.manager import split_host_pattern


def limit_findings(limit, hosts, allowed=True):
    """Refuse a limit that leaves out localhost, or any limit. HOSTS are those that match LIMIT."""
    if limit and not allowed:
        what = f"--limit is {limit}; every host needs the new secrets, because the old secrets are revoked at the end."
        return [{"host": "site", "what": what, "remedy": "Run the playbook without --limit."}]
    if not limit or "localhost" in hosts:
        return []
    what = (
        f"--limit is {limit}, which leaves out this machine (localhost). The checks of the inventory, the secrets and "
        "the certificates need this machine."
    )
    remedy = f"Run the playbook with\n    --limit {shlex.quote(','.join([*patterns(limit, hosts), 'localhost']))}"
    return [{"host": "site", "what": what, "remedy": remedy}]


def patterns(limit, hosts):
    """Return the patterns of a limit, or the names of HOSTS where localhost cannot be added to the patterns."""
    found = split_host_pattern(limit)
    return hosts if any(pattern.startswith(("!", "&")) for pattern in found) else found


class FilterModule:
    def filters(self):
        return {"limit_findings": limit_findings}
