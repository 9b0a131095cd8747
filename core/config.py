"""The configuration as frozen values: every key, its type, its default and its range, one struct a table.

Rules:
1. A default here is the default; `config.toml` repeats it for people and a test holds the two together.
2. `core/config_load.py` makes a `Config` from TOML and the environment; nothing else has to check a value again.
3. `form` in a field's annotation names the check in `core/config_forms.py` that its text must pass.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

MAX_TTL: Final = 604_800  # seconds: a week, the cap RFC 8767 section 4 advises
MAX_MEGABYTES: Final = 1_048_576  # a terabyte: more is a slip of the hand
MAX_DAYS: Final = 3_650  # ten years

Ttl: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_TTL)]
Percent: TypeAlias = Annotated[int, Meta(ge=0, le=100)]
Megabytes: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_MEGABYTES)]
Days: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_DAYS)]
Lasting: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_TTL)]  # seconds
Seconds: TypeAlias = Annotated[float, Meta(ge=0.1, le=3_600.0)]

Endpoint: TypeAlias = Annotated[str, Meta(extra={"form": "endpoint"})]
Network: TypeAlias = Annotated[str, Meta(extra={"form": "network"})]
UpstreamServer: TypeAlias = Annotated[str, Meta(extra={"form": "server"})]
ZoneServer: TypeAlias = Annotated[str, Meta(extra={"form": "zone server"})]
ZoneName: TypeAlias = Annotated[str, Meta(extra={"form": "zone name"})]
Label: TypeAlias = Annotated[str, Meta(extra={"form": "label"})]
User: TypeAlias = Annotated[str, Meta(extra={"form": "user"})]
RedisUrl: TypeAlias = Annotated[str, Meta(extra={"form": "redis url"})]
FeedUrl: TypeAlias = Annotated[str, Meta(extra={"form": "feed url"})]
Ipv4: TypeAlias = Annotated[str, Meta(extra={"form": "ipv4"})]
Ipv6: TypeAlias = Annotated[str, Meta(extra={"form": "ipv6"})]
FileName: TypeAlias = Annotated[str, Meta(extra={"form": "file"})]  # relative to the config file; empty: none
Word: TypeAlias = Annotated[str, Meta(extra={"form": "word"})]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every table: unknown keys are mistakes."""


class Server(_Section, frozen=True):
    listen: tuple[Endpoint, ...] = ("127.0.0.1:5353", "[::1]:5353")
    workers: Annotated[int, Meta(ge=0, le=256)] = 0
    data_dir: Word = "var"
    allow_from: tuple[Network, ...] = (
        "127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10",
        "169.254.0.0/16", "fc00::/7", "fe80::/10",
    )  # fmt: skip
    user: User = ""
    udp_size: Annotated[int, Meta(ge=512, le=4_096)] = 1232
    tcp_connections: Annotated[int, Meta(ge=1, le=100_000)] = 1_000
    tcp_idle: Seconds = 10.0
    identity: Annotated[str, Meta(max_length=255)] = ""
    version: Annotated[str, Meta(max_length=255)] = ""
    cookies: bool = True
    cookie_secret_file: FileName = ""
    any: Literal["minimal", "resolve"] = "minimal"
    rotate: bool = True
    proxy_from: tuple[Network, ...] = ()
    metrics: Annotated[str, Meta(extra={"form": "endpoint or empty"})] = ""


class Cache(_Section, frozen=True):
    max_megabytes: Megabytes = 64
    min_ttl: Ttl = 0
    max_ttl: Ttl = 86_400
    max_negative_ttl: Ttl = 3_600
    serve_stale: Ttl = 86_400
    prefetch: bool = True


class Record(_Section, frozen=True):
    name: ZoneName
    data: Word
    type: Literal["A", "AAAA", "CNAME", "TXT", "MX", "SRV", "PTR"] = "A"
    ttl: Ttl = 300


class Local(_Section, frozen=True):
    special_use: bool = True
    hosts: FileName = ""
    record: tuple[Record, ...] = ()
    block_doh_canary: bool = True
    block_private_relay: bool = False
    designated_resolver: Literal["nodata", "resolve"] = "nodata"
    dns64_prefix: Annotated[str, Meta(extra={"form": "dns64 prefix"})] = ""
    rebind_protection: bool = True
    rebind_allow: tuple[ZoneName, ...] = ()


class Limits(_Section, frozen=True):
    queries_per_second: Annotated[int, Meta(ge=0, le=10_000_000)] = 1_000
    burst: Annotated[int, Meta(ge=1, le=10_000_000)] = 5_000
    exempt: tuple[Network, ...] = ("127.0.0.0/8", "::1/128")
    responses_per_second: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    misses_per_domain: Annotated[int, Meta(ge=0, le=1_000_000)] = 200


class Zone(_Section, frozen=True):
    name: ZoneName
    servers: tuple[ZoneServer, ...]
    dnssec: bool = False


class Upstream(_Section, frozen=True):
    mode: Literal["recursive", "forward"] = "recursive"
    servers: tuple[UpstreamServer, ...] = ()
    root_hints: FileName = ""
    dnssec: bool = True
    trust_anchors: tuple[FileName, ...] = ()
    qname_minimisation: bool = True
    timeout: Annotated[float, Meta(ge=0.1, le=60.0)] = 5.0
    max_outstanding: Annotated[int, Meta(ge=1, le=65_536)] = 4_096
    tls_ca_file: FileName = ""
    query_localhost: bool = False
    zone: tuple[Zone, ...] = ()


class Redis(_Section, frozen=True):
    url: RedisUrl = "embedded"
    password_file: FileName = ""


class Sinkhole(_Section, frozen=True):
    ipv4: Ipv4 = "192.0.2.1"
    ipv6: Ipv6 = "2001:db8::1"
    ttl: Ttl = 30


class Source(_Section, frozen=True):
    name: Label
    url: FeedUrl
    format: Literal["auto", "plain", "hosts", "wildcard", "adblock"] = "auto"
    category: Word = "malware"
    confidence: Percent = 80
    mode: Literal["block", "alert", "off", "allow"] = "block"
    max_megabytes: Megabytes = 256
    max_change: Percent = 50  # percent of the last good snapshot a feed may lose, or ten times that gain
    subdomains: bool = True  # false: its names are listed exactly, not what lies below them


class Feeds(_Section, frozen=True):
    source: tuple[Source, ...] = ()
    timeout: Seconds = 60.0
    keep_generations: Annotated[int, Meta(ge=1, le=16)] = 2


class Journal(_Section, frozen=True):
    queries: Literal["all", "blocked", "none"] = "all"
    keep_days: Days = 30
    keep_blocked_days: Days = 365
    segment_seconds: Seconds = 15.0
    max_rows_per_second: Annotated[int, Meta(ge=1, le=10_000_000)] = 20_000
    max_megabytes: Megabytes = 4_096


class Firewall(_Section, frozen=True):
    name: Label
    kind: Literal["edl", "fortigate", "panos", "tencent", "aws", "crowdsec", "opnsense", "mikrotik", "ipset", "webhook"]
    url: Annotated[str, Meta(extra={"form": "http url or empty"})] = ""
    list: Annotated[str, Meta(extra={"form": "file"})] = "plughole"
    user: Annotated[str, Meta(extra={"form": "file"})] = ""
    secret_file: FileName = ""
    tls_ca_file: FileName = ""
    listen: Annotated[str, Meta(extra={"form": "endpoint or empty"})] = ""
    max_entries: Annotated[int, Meta(ge=1, le=1_000_000)] = 50_000


class Pin(_Section, frozen=True):
    name: Label
    clients: tuple[Network, ...]
    mode: Literal["record", "enforce"] = "record"
    exempt: tuple[Network, ...] = ()


class Egress(_Section, frozen=True):
    mode: Literal["observe", "dry-run", "enforce"] = "observe"
    target: Literal["nftables", "none"] = "nftables"
    learn: Literal["active", "passive", "off"] = "active"
    spare: tuple[Word, ...] = ("ads", "tracking", "adult", "gambling", "social")
    agent: Annotated[str, Meta(extra={"form": "label or empty"})] = ""
    never: tuple[Network, ...] = ()
    shared: tuple[Network, ...] = ()
    trusted: tuple[ZoneName, ...] = ()
    lists: Annotated[str, Meta(extra={"form": "feed url or empty"})] = ""
    factor: Annotated[float, Meta(ge=1.0, le=100.0)] = 2.0
    shortest: Lasting = 600
    longest: Lasting = 86_400
    longest_pair: Lasting = 3_600
    per_minute: Annotated[int, Meta(ge=1, le=100_000)] = 60
    per_domain: Annotated[int, Meta(ge=1, le=100_000)] = 16
    total: Annotated[int, Meta(ge=1, le=131_072)] = 100_000
    share: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.005
    log_group: Annotated[int, Meta(ge=0, le=65_535)] = 5
    flows: bool = True
    pin_socket: FileName = ""
    pin_grace: Lasting = 300
    pin_dies: Literal["open", "closed"] = "open"
    firewall: tuple[Firewall, ...] = ()
    pin: tuple[Pin, ...] = ()


class Config(_Section, frozen=True):
    server: Server = Server()
    cache: Cache = Cache()
    local: Local = Local()
    limits: Limits = Limits()
    upstream: Upstream = Upstream()
    redis: Redis = Redis()
    sinkhole: Sinkhole = Sinkhole()
    feeds: Feeds = Feeds()
    detectors: dict[str, dict[str, Any]] = {}  # tables the detectors themselves read, see detectors/registry.py
    egress: Egress = Egress()
    journal: Journal = Journal()
    base: str = "."  # the folder relative paths start from; set by `load`, not a key of the file
    hosts: bytes | None = None  # what `local.hosts` held when a node read its configuration; no key of the file either

    @property
    def data_dir(self) -> Path:
        """The absolute data folder."""
        return (Path(self.base) / self.server.data_dir).absolute()
