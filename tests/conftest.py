"""Fixtures every test may ask for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from internet import Internet

if TYPE_CHECKING:
    from collections.abc import Iterator

# A machine that stands still for a moment is no mistake of the code. CI judges a change by the same examples each time;
# elsewhere they are new ones every time, which is how more is found.
settings.register_profile(
    "plughole", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("plughole")


@pytest.fixture(scope="session")
def internet() -> Iterator[Internet]:
    """The small internet, up for the whole run; tests that need it are skipped with the reason where it cannot be."""
    if reason := Internet.why_not():
        pytest.skip(reason)
    with Internet() as up:
        yield up
