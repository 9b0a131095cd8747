"""What agents say of themselves in Redis, for `plughole status` and for whoever waits for their answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from console import show
from core.errors import Unavailable

if TYPE_CHECKING:
    from redis import Redis

    from core.config import Config
    from egress.orders import Heartbeat

FORGOTTEN: Final = 7 * 86_400.0  # seconds after which an agent that says nothing is not told of any more


def beats(client: Redis) -> list[tuple[Heartbeat, float]]:
    """Return each agent's last heartbeat and its age in seconds by Redis' clock, in order of names."""
    from egress.link import beat
    from egress.orders import AGENTS

    redis: Any = client
    found = [beat(value) for value in redis.hgetall(AGENTS).values()]
    now = clock(client)
    return sorted(((each, now - each.at) for each in found if each), key=lambda pair: pair[0].name)


def clock(client: Redis) -> float:
    """Return Redis' own time, in Unix seconds."""
    redis: Any = client
    seconds, micros = redis.time()
    return float(seconds) + float(micros) / 1e6


def told(config: Config) -> list[dict[str, Any]]:
    """Return each agent as `plughole status --json` prints it; none when Redis does not answer."""
    from redis.exceptions import RedisError

    from feeds.redis import connect

    try:
        client = connect(config)
        try:
            return [_row(each, age) for each, age in beats(client) if age <= FORGOTTEN]
        finally:
            client.close()
    except (Unavailable, RedisError, OSError):
        return []


def troubles(agents: list[dict[str, Any]]) -> list[str]:
    """Return a sentence for each agent that is silent, and for each part of one that does not do as told."""
    from egress.agent import FRESH

    found = []
    for agent in agents:
        silent = agent["seconds_since_heartbeat"]
        if silent > FRESH:
            found.append(f"egress: agent {agent['agent']} has said nothing for {show.span(silent)}")
            continue
        found += [f"egress: agent {agent['agent']}, {part}: {why}" for part, why in agent["firewalls"].items() if why]
    return found


def _row(beat: Heartbeat, age: float) -> dict[str, Any]:
    return {
        "agent": beat.name,
        "mode": beat.mode,
        "panic": beat.panic,
        "seconds_since_heartbeat": round(max(age, 0.0), 1),
        "started": beat.started,
        "rows": beat.rows,
        "blocked": beat.blocked,
        "refused": beat.refused,
        "attempts": beat.attempts,
        "firewalls": beat.firewalls,
        "change": beat.transaction or None,
    }
