"""What a plan says reaches a firewall in its own words and comes back the same."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.enforcer import Lease, Target
from egress.plan import Destination, Hold
from egress.translate import BRIEFEST, destination, lease, target

four, six = st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)
destinations = st.one_of(*(st.builds(Destination, each, st.just(b"") | each) for each in (four, six)))


@given(destinations)
def test_there_and_back(to: Destination) -> None:
    told = target(to)
    assert destination(told) == to
    assert ipaddress.ip_address(told.address).packed == to.address
    assert bool(told.client) == bool(to.client)


def test_a_lease_ends_with_its_hold() -> None:
    hold = Hold(Destination(bytes((91, 66, 0, 80)), bytes((10, 0, 0, 11))), 1_000.0)
    assert lease(hold, 400.0) == Lease(Target("91.66.0.80", "10.0.0.11"), 600.0)
    assert lease(hold, 1_000.0).seconds == lease(hold, 2_000.0).seconds == BRIEFEST


@pytest.mark.parametrize("octets", [b"", b"abc", bytes(5)])
def test_what_is_no_address_is_refused(octets: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        target(Destination(octets))
    with pytest.raises(ValueError, match=r".+"):
        destination(Target("91.66.0.x"))
