"""The servers Plughole is measured against: how each is told to forward, to block the list and to use one thread.

Common to all: loopback only, forward everything to the authority, no DNSSEC validation, no query log, caches large
enough for the hit load, files in a private folder, the user who runs the benchmark.
"""

from __future__ import annotations

import getpass
import shutil
import subprocess
from dataclasses import dataclass, field
from string import Template
from typing import TYPE_CHECKING, Final, Protocol

from benchmarks.probe import HOST
from benchmarks.server import find_program

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Site:
    """Where a server runs: a folder of its own, its port, the authority's port and the folder of the lists."""

    folder: Path
    port: int
    authority: int
    lists: Path


class Contestant(Protocol):
    """A server that can be measured."""

    @property
    def name(self) -> str:
        """The name of its row."""

    @property
    def list_form(self) -> str:
        """Which of `inputs.LIST_FORMS` it reads."""

    @property
    def loads(self) -> tuple[str, ...]:
        """The loads it is put under, in order."""

    @property
    def settle(self) -> float:
        """How long after a load its CPU still counts for that load, in seconds."""

    def missing(self) -> str | None:
        """Return what to install when the server is not there."""

    def version(self) -> str:
        """Return the version that would be measured."""

    def command(self, site: Site) -> list[str]:
        """Write the server's files into its folder and return the command that runs it in the foreground."""

    def counters(self, site: Site) -> Mapping[str, float]:
        """Return the server's own counters of rows written and dropped, by name."""


LOADS: Final = ("hit", "miss", "blocked")


@dataclass(frozen=True)
class Peer:
    """A server from a Debian package; every text is a template over the site's values."""

    name: str
    package: str
    program: str
    arguments: tuple[str, ...]
    config: str
    extra: Mapping[str, str] = field(default_factory=dict)
    list_form: str = "plain"
    loads: tuple[str, ...] = LOADS
    settle: float = 0.2

    def missing(self) -> str | None:
        """Return the Debian package to install when the program is not there."""
        return None if find_program(self.program) else self.package

    def version(self) -> str:
        """Return the version of the Debian package; `unknown` where dpkg does not know it."""
        return package_version(self.package)

    def command(self, site: Site) -> list[str]:
        """Write the configuration and return the command."""
        values = {
            "folder": str(site.folder), "host": HOST, "port": str(site.port), "authority": str(site.authority),
            "list": str(site.lists / self.list_form), "user": getpass.getuser(),
        }  # fmt: skip
        for name, text in {f"{self.program}.conf": self.config, **self.extra}.items():
            (site.folder / name).write_text(Template(text).substitute(values))
        return [find_program(self.program) or self.program, *(Template(a).substitute(values) for a in self.arguments)]

    def counters(self, site: Site) -> Mapping[str, float]:
        """Peers write no log here, so there is nothing to count."""
        del site
        return {}


def package_version(package: str) -> str:
    """Return the installed version of a Debian package; `unknown` where there is none."""
    if shutil.which("dpkg-query") is None:
        return "unknown"
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


UNBOUND: Final = Peer(
    name="unbound",
    package="unbound",
    program="unbound",
    arguments=("-d", "-c", "$folder/unbound.conf"),
    list_form="unbound",
    config="""\
server:
  interface: $host@$port
  num-threads: 1
  username: ""
  chroot: ""
  directory: "$folder"
  pidfile: ""
  use-syslog: no
  logfile: "$folder/unbound.log"
  verbosity: 0
  module-config: "iterator"
  do-not-query-localhost: no
  msg-cache-size: 64m
  rrset-cache-size: 128m
  outgoing-range: 4096
  num-queries-per-thread: 2048
include: "$list"
forward-zone:
  name: "."
  forward-addr: $host@$authority
remote-control:
  control-enable: no
""",
)

DNSDIST: Final = Peer(
    name="dnsdist",
    package="dnsdist",
    program="dnsdist",
    arguments=("--supervised", "--disable-syslog", "-C", "$folder/dnsdist.conf"),
    list_form="plain",
    config="""\
setLocal("$host:$port")
setSecurityPollSuffix("")
newServer({address="$host:$authority", checkInterval=60})
getPool(""):setCache(newPacketCache(200000))
local listed = newSuffixMatchNode()
for name in io.lines("$list") do listed:add(newDNSName(name)) end
addAction(SuffixMatchNodeRule(listed), RCodeAction(DNSRCode.NXDOMAIN))
""",
)

DNSMASQ: Final = Peer(
    name="dnsmasq",
    package="dnsmasq-base",
    program="dnsmasq",
    arguments=("--keep-in-foreground", "--conf-file=$folder/dnsmasq.conf"),
    list_form="dnsmasq",
    config="""\
port=$port
listen-address=$host
bind-interfaces
user=$user
pid-file=
no-resolv
no-hosts
cache-size=20000
dns-forward-max=2048
server=$host#$authority
conf-file=$list
""",
)

KRESD: Final = Peer(
    name="kresd",
    package="knot-resolver",
    program="kresd",
    arguments=("-n", "-c", "$folder/kresd.conf", "$folder"),
    list_form="rpz",
    config="""\
net.listen('$host', $port, { kind = 'dns' })
trust_anchors.remove('.')
cache.size = 200 * MB
policy.add(policy.rpz(policy.DENY, '$list', false))
policy.add(policy.all(policy.FORWARD({'$host@$authority'})))
""",
)

PDNS: Final = Peer(
    name="pdns-recursor",
    package="pdns-recursor",
    program="pdns_recursor",
    arguments=("--config-dir=$folder", "--socket-dir=$folder", "--daemon=no"),
    list_form="rpz",
    config="",
    extra={
        "recursor.conf": """\
local-address=$host
local-port=$port
threads=1
pdns-distributes-queries=no
dnssec=off
quiet=yes
loglevel=3
disable-syslog=yes
write-pid=no
security-poll-suffix=
max-mthreads=2048
forward-zones-recurse=.=$host:$authority
dont-query=
lua-config-file=$folder/policy.lua
""",
        "policy.lua": """\
rpzFile("$list", {policyName="bench", defpol=Policy.NXDOMAIN})
""",
    },
)

NAMED: Final = Peer(
    name="named",
    package="bind9",
    program="named",
    arguments=("-f", "-n", "1", "-c", "$folder/named.conf"),
    list_form="rpz",
    config="""\
options {
  directory "$folder";
  listen-on port $port { $host; };
  listen-on-v6 { none; };
  pid-file none;
  session-keyfile none;
  lock-file none;
  recursion yes;
  recursive-clients 10000;
  dnssec-validation no;
  max-cache-size 256m;
  forwarders { $host port $authority; };
  forward only;
  response-policy { zone "rpz.bench"; } qname-wait-recurse no;
};
controls { };
logging { category default { null; }; };
zone "rpz.bench" { type primary; file "$list"; allow-query { none; }; };
""",
)

PEERS: Final = (UNBOUND, DNSDIST, DNSMASQ, KRESD, PDNS, NAMED)
