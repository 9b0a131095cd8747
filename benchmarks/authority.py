"""The authoritative server behind every server under test: NSD with one address for every name there is."""

from __future__ import annotations

from contextlib import contextmanager
from string import Template
from typing import TYPE_CHECKING, Final

from benchmarks import probe
from benchmarks.inputs import MISS_ZONE
from benchmarks.server import ServerError, find_program, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NSD_PACKAGE: Final = "nsd"

_START_PATIENCE: Final = 10.0  # seconds
_CONFIG: Final = Template(
    """\
server:
  ip-address: $host@$port
  server-count: 1
  username: ""
  chroot: ""
  zonesdir: "$folder"
  database: ""
  pidfile: "$folder/nsd.pid"
  xfrdfile: "$folder/xfrd.state"
  xfrdir: "$folder"
  zonelistfile: "$folder/zone.list"
  rrl-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: "."
  zonefile: "root.zone"
"""
)
# A wildcard at the root answers for whatever no other owner name encloses; the miss zone gets one of its own.
_ZONE: Final = Template(
    """\
$$TTL 3600
. SOA ns.authority. hostmaster.authority. 1 3600 600 86400 60
. NS ns.authority.
ns.authority. A $host
*. A $address
*.$miss_zone. A $address
"""
)


@contextmanager
def authority(folder: Path, *, core: int) -> Iterator[int]:
    """Run NSD pinned to a core; gives its port once it answers; raises ServerError."""
    program = find_program("nsd")
    if program is None:
        raise ServerError(f"the authoritative server is missing: install the Debian package {NSD_PACKAGE}")
    folder.mkdir()
    port = probe.free_port()
    config = folder / "nsd.conf"
    config.write_text(_CONFIG.substitute(host=probe.HOST, port=port, folder=folder))
    zone = _ZONE.substitute(host=probe.HOST, address=probe.AUTHORITY_ADDRESS, miss_zone=MISS_ZONE)
    (folder / "root.zone").write_text(zone)
    with running([program, "-d", "-c", str(config)], folder=folder, core=core) as nsd:
        if not probe.wait_until(lambda: _answers(port), within=_START_PATIENCE):
            raise ServerError(f"nsd does not answer on port {port}: {nsd.complaint()}")
        yield port


def _answers(port: int) -> bool:
    replies = [probe.ask(port, name) for name in ("www.start.com", f"start.{MISS_ZONE}")]
    return all(reply is not None and reply.answered for reply in replies)
