"""`plughole serve` runs the node; `plughole check` says what is wrong with its configuration and what it lacks."""

from __future__ import annotations

import shutil
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import click
import msgspec

from console import show
from console.params import configured, examples, load_config
from core.errors import BadConfig, PlugholeError
from core.rr import Rcode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from core.config import Config

SAMPLE: Final = "sample.txt"  # the list that comes with plughole
SAMPLE_NAME: Final = "c2.evil.example"  # a name of it
OTHER_NAME: Final = "example.com"
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_DNS_PORT: Final = 53


@click.command(
    short_help="Run the resolver.", epilog=examples("plughole serve", "plughole serve -c /etc/plughole/config.toml")
)
@configured
def serve(config: Config) -> int:
    """Run the resolver, with the hub and the private Redis, until Ctrl-C or SIGTERM. SIGHUP reads FILE again."""
    from console import logging
    from resolver import daemon

    logging.set_up()
    path: Path | None = click.get_current_context().params["path"]
    return daemon.serve(_with_files(config), ready=_announce, reread=lambda: _with_files(load_config(path)))


@click.command(
    short_help="List every mistake in the configuration.",
    epilog=examples("plughole check", "plughole check -c /etc/plughole/config.toml && systemctl reload plughole"),
)
@configured
def check(config: Config) -> None:
    """List every mistake in the configuration with its place, or say that it is fine and what is missing around it."""
    _with_files(config)
    show.line("config is fine")
    for text in notes(config):
        show.line(f"note: {text}")


def _with_files(config: Config) -> Config:
    """Return the configuration with the hosts file it names; raises BadConfig when that or another file is none.

    Workers are forked with it, so that one that starts later does not depend on what the file holds by then.
    """
    from resolver.cookies import load
    from resolver.hosts import parse_hosts, read_hosts

    mistakes: list[str] = []
    base, hosts = Path(config.base), None
    try:
        if config.local.hosts:
            hosts = read_hosts(base / config.local.hosts)
            parse_hosts(hosts, str(base / config.local.hosts))
    except BadConfig as error:
        mistakes += error.mistakes
    try:
        if config.server.cookie_secret_file:
            load(base / config.server.cookie_secret_file)
    except BadConfig as error:
        mistakes += error.mistakes
    if mistakes:
        raise BadConfig(mistakes)
    return msgspec.structs.replace(config, hosts=hosts)


def notes(config: Config) -> Iterator[str]:
    """Yield one line for each part that will not work here although the configuration is right."""
    yield from _library_note(config)
    if config.redis.url == "embedded":
        yield from _redis_note()
    for source in config.feeds.source:
        path = Path(config.base) / unquote(urlsplit(source.url).path)
        if source.mode != "off" and urlsplit(source.url).scheme == "file" and not path.is_file():
            yield f"feed {source.name}: there is no file {path}; its names are not blocked until there is"
    if not config.feeds.source:
        yield "no feed is configured: nothing is blocked but what `plughole block` names"


def _library_note(config: Config) -> Iterator[str]:
    from resolver.upstream.libunbound import load

    try:
        load()
    except PlugholeError as error:
        cure = "" if _forwards(config) else '; until then only upstream.mode = "forward" with dnssec = false works'
        yield f"{error}{cure}"


def _forwards(config: Config) -> bool:
    return config.upstream.mode == "forward" and not config.upstream.dnssec


def _redis_note() -> Iterator[str]:
    from feeds.redis import find_server

    try:
        find_server()
    except PlugholeError as error:
        yield str(error)


def _announce(config: Config) -> None:
    """Say what listens, what does not work, and three lines to try."""
    show.line(f"plughole answers on {', '.join(config.server.listen)} (UDP and TCP); Ctrl-C stops it")
    for text in notes(config):
        show.line(f"note: {text}")
    show.line("Try in another terminal:")
    for text in trials(config):
        show.line(f"  {text}")
    sys.stdout.flush()
    _look_outside(config)


def _look_outside(config: Config) -> None:
    """Ask our own node for the name servers of the root, and say so when nobody out there answers."""
    from struct import pack

    from core.endpoints import parse_endpoint

    endpoint = parse_endpoint(config.server.listen[0])
    query = pack("!6H", 1, 0x0100, 1, 0, 0, 0) + b"\x00" + pack("!2H", 2, 1)
    with socket.socket(socket.AF_INET6 if endpoint.is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(config.upstream.timeout + 2.0)
        try:
            sock.connect((_ANY.get(endpoint.address, endpoint.address), endpoint.port))
            sock.send(query)
            failed = sock.recv(4_096)[3] & 0xF == Rcode.SERVFAIL
        except OSError:
            failed = True
    if failed:
        whom = "the root servers" if config.upstream.mode == "recursive" else ", ".join(config.upstream.servers)
        show.line(
            f"note: no answer from {whom}: listed names go to the sinkhole all the same, every other name gets "
            "SERVFAIL until this machine has a way out on port 53"
        )
        sys.stdout.flush()


def trials(config: Config) -> list[str]:
    """Return three command lines that show what the node does."""
    from core.endpoints import parse_endpoint

    listen = config.server.listen
    endpoint = parse_endpoint(listen[0] if listen else "127.0.0.1:53")
    port = "" if endpoint.port == _DNS_PORT else f" -p {endpoint.port}"
    dig = f"dig @{_ANY.get(endpoint.address, endpoint.address)}{port}"
    first = SAMPLE_NAME if _has_sample(config) else "localhost"
    return [f"{dig} {first}", f"{dig} {OTHER_NAME}", f"{_command()} log --since 10m"]


def _has_sample(config: Config) -> bool:
    return any(
        Path(urlsplit(source.url).path).name == SAMPLE for source in config.feeds.source if source.mode == "block"
    )


def _command() -> str:
    """Return how this very program is called again: by name when that finds it, else by path."""
    given = Path(sys.argv[0])
    return "plughole" if shutil.which("plughole") or given.name != "plughole" else str(given)
