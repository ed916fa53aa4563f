"""The file for needrestart, which is Perl: which units are restarted after an upgrade of a library."""

import subprocess

import pytest

from docs.variables import ROOT

FILE = ROOT / "roles/airflow_base/files/needrestart.conf"
# As needrestart 3.6 reads the file, and as it asks for a unit.
PROGRAM = """
use strict; use warnings;
our %nrconf = (override_rc => {qr(^dbus) => 0});
my ($file, $unit) = @ARGV;
eval do { local(@ARGV, $/) = $file; <> };
die $@ if $@;
my $restart = 1;
foreach my $re (keys %{$nrconf{override_rc}}) {
    next unless ($unit =~ /$re/);
    $restart = $nrconf{override_rc}->{$re};
    last;
}
print $restart;
"""


@pytest.mark.parametrize(
    ("unit", "restart"),
    [
        ("airflow-edge-worker.service", "0"),
        ("airflow-celery-worker.service", "0"),
        ("airflow-scheduler.service", "0"),
        # What needrestart knew before.
        ("dbus.service", "0"),
        # Running tasks outlive the restarts of these.
        ("mysql.service", "1"),
        ("redis-server.service", "1"),
        ("nginx.service", "1"),
    ],
)
def test_needrestart_leaves_airflows_units_alone(unit, restart):
    command = ["perl", "-e", PROGRAM, str(FILE), unit]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    assert (done.stdout, done.stderr) == (restart, "")
