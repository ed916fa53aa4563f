"""What the tests of all scenarios share. They look at one lab, the one that $LAB names."""

from lab import Lab

LAB = Lab()
STATE, NETWORK, address = LAB.state, LAB.network.prefix, LAB.address
