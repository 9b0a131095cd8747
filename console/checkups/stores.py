"""What the node keeps and where: disk, Redis, the feeds' last good copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from console.checkups.host import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from console.checkups.host import Host
    from core.config import Config

MEGABYTE: Final = 1_000_000  # octets
MIN_INODES: Final = 1_000
DAY: Final = 86_400.0  # seconds
STALE: Final = 2 * DAY  # lists of malicious names change daily


def disk(host: Host) -> Iterator[Finding]:
    """There is room for the journal."""
    folder = host.config.data_dir
    there = next(path for path in (folder, *folder.parents) if path.exists())
    found, wanted = host.system.disk(there), host.config.journal.max_megabytes
    free = found.free // MEGABYTE
    if found.read_only:
        cure = f"mount it writable, or change `[server] data_dir` ({there} is in the way)"
        yield Finding("disk", "fail", f"the file system of {there} is read-only", cure)
    if free < wanted:
        cure = "free space, or lower `[journal] max_megabytes`"
        yield Finding("disk", "warn", f"{free} MB free at {there}, the journal may take {wanted} MB", cure)
    else:
        yield Finding("disk", "ok", f"{free} MB free at {there}")
    if found.inodes is not None and found.inodes < MIN_INODES:
        cure = "remove files from that file system: `df -i` shows it"
        yield Finding("disk", "fail", f"{found.inodes} inodes free at {there}", cure)


def parts(host: Host) -> Iterator[Finding]:
    """The programs and files the configuration names are there."""
    from console.serve import notes

    found = list(notes(host.config))
    for text in found:
        soft = text.startswith(("feed ", "no feed"))
        cure = "correct `[[feeds.source]]`" if soft else "install what the line names"
        yield Finding("parts", "warn" if soft else "fail", text, cure)
    if not found:
        yield Finding("parts", "ok", "libraries, Redis and the feeds' files are there")


def feeds(host: Host) -> Iterator[Finding]:
    """Each feed has a good copy younger than two days; a local file is as old as its owner leaves it."""
    from feeds import snapshot

    for source in host.config.feeds.source:
        if source.mode == "off":
            continue
        state = snapshot.load_state(host.config.data_dir / "feeds" / source.name)
        if state is None:
            seen = f"{source.name} was never fetched: its names are not blocked"
            yield Finding("feeds", "warn", seen, f"plughole feeds update --feed {source.name}")
            continue
        age = host.system.now() - max(state.fetched, state.checked)
        if age > STALE and not source.url.startswith("file:"):
            seen = f"{source.name}: the last good copy is {age / DAY:.1f} days old"
            cure = f"plughole feeds update --feed {source.name}; is plughole-feeds.timer active?"
            yield Finding("feeds", "warn", seen, cure)
        else:
            yield Finding("feeds", "ok", f"{source.name}: {state.names:,} names, {max(age, 0.0) / DAY:.1f} days old")


def redis(host: Host) -> Iterator[Finding]:
    """Redis answers, and keeps what it is given."""
    from redis.exceptions import RedisError

    from core.errors import Unavailable

    try:
        client = host.system.redis(host.config)
        if client is None:
            yield Finding("redis", "ok", "embedded, starts with the node")
            return
        try:
            yield from _settings(host.config, client)
        finally:
            client.close()
    except (RedisError, OSError, Unavailable) as error:
        cure = "start it (`systemctl start redis-server`), or correct `[redis] url` and `password_file`"
        yield Finding("redis", "fail", f"does not answer: {error}", cure)


def _settings(config: Config, client: Any) -> Iterator[Finding]:
    from redis.exceptions import ResponseError

    version = client.info("server").get("redis_version", "of unknown version")
    yield Finding("redis", "ok", f"answers, version {version}")
    try:
        settings = {key: client.config_get(key).get(key) for key in ("maxmemory-policy", "appendonly")}
    except ResponseError:  # services that are rented out forbid CONFIG
        yield Finding("redis", "warn", "its settings may not be read", "make sure that maxmemory-policy is noeviction")
        return
    if settings["maxmemory-policy"] != "noeviction":
        seen = f"maxmemory-policy is {settings['maxmemory-policy']}: it may forget names"
        cure = "redis-cli config set maxmemory-policy noeviction && redis-cli config rewrite"
        yield Finding("redis", "fail", seen, cure)
    if config.redis.url == "embedded" and settings["appendonly"] != "yes":
        cure = "restart plughole, which starts it with appendonly"
        yield Finding("redis", "fail", "the embedded server does not write to disk", cure)
