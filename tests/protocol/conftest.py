"""The office for all tables of this folder, up once."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from internet import Internet
from protocol.office import Office, office

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = {"dig": "bind9-dnsutils", "delv": "bind9-dnsutils", "kdig": "knot-dnsutils", "drill": "ldnsutils"}


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """The office; tests are skipped with the names of the packages where its internet or a client is missing."""
    missing = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    if reason := Internet.why_not() or (missing and f"apt install {' '.join(missing)}"):
        pytest.skip(reason)
    with office(tmp_path_factory.mktemp("office")) as up:
        yield up
        for node in (up.first, up.second):
            node.stop()
            assert node.code == 0, node.output()
            assert "Traceback" not in node.output()
