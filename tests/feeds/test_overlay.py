"""Overrides in a real Redis: written, numbered, announced, expired, audited, and waited for."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import BadName, Unavailable
from core.names import from_text
from core.verdict import Action
from feeds import overlay as overlay_module
from feeds.overlay import CHANNEL, Overlay, Override

EVIL = from_text("evil.example")
BLOCK = Override(EVIL, Action.SINKHOLE, reason="seen beaconing", by="ana", created=10.0)


def allow(client: str = "192.0.2.7", expires: float = 0.0) -> Override:
    return Override(EVIL, Action.PASSTHRU, client=client, expires=expires, reason="false alarm", by="ben", created=11.0)


def test_put_replaces_and_forget_deletes(client: redis.Redis) -> None:
    overlay = Overlay(client)
    assert overlay.seq() == 0
    assert [overlay.put(BLOCK), overlay.put(allow()), overlay.put(allow(expires=99.0))] == [1, 2, 3]
    assert overlay.all(20.0) == [BLOCK, allow(expires=99.0)]
    assert overlay.forget(EVIL, "192.0.2.7", by="ana", now=21.0) == 4
    assert overlay.all(22.0) == [BLOCK]
    assert overlay.forget(EVIL, now=23.0) == 5
    assert overlay.forget(EVIL, now=24.0) is None
    assert (overlay.all(25.0), overlay.seq()) == ([], 5)


def test_forget_without_a_client_takes_all_of_them_and_an_empty_one_only_the_general(client: redis.Redis) -> None:
    overlay = Overlay(client)
    overlay.put(BLOCK)
    overlay.put(allow())
    overlay.forget(EVIL, "", now=1.0)
    assert overlay.all(1.0) == [allow()]
    overlay.put(BLOCK)
    overlay.forget(EVIL, now=1.0)
    assert overlay.all(1.0) == []


def test_expired_overrides_lapse_and_are_pruned(client: redis.Redis) -> None:
    overlay = Overlay(client)
    overlay.put(allow(expires=50.0))
    assert overlay.all(49.0)
    assert overlay.all(50.0) == []
    assert (overlay.prune(49.0), overlay.prune(50.0), overlay.prune(51.0)) == (0, 1, 0)
    assert client.hlen("overlay") == 0


def test_every_change_is_announced_with_its_number_after_it_is_there(client: Any) -> None:
    overlay = Overlay(client)
    listener = client.pubsub(ignore_subscribe_messages=True)
    listener.subscribe(CHANNEL)
    listener.get_message(timeout=20)  # that it is subscribed
    overlay.put(BLOCK)
    heard = listener.get_message(timeout=20)
    assert heard is not None
    assert int(heard["data"]) == 1
    listener.close()


def test_the_audit_trail_tells_who_did_what_and_why(client: redis.Redis) -> None:
    overlay = Overlay(client)
    overlay.put(BLOCK)
    overlay.forget(EVIL, by="ben", now=30.0)
    forgot, put = overlay.audit()
    assert (put.what, put.name, put.action, put.by, put.reason, put.at) == (
        "put", "evil.example", "SINKHOLE", "ana", "seen beaconing", 10.0,
    )  # fmt: skip
    assert (forgot.what, forgot.by, forgot.at) == ("forget", "ben", 30.0)
    assert overlay.audit(1) == [forgot]


def test_there_is_a_cap(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay_module, "MAX_OVERRIDES", 1)
    overlay = Overlay(client)
    overlay.put(BLOCK)
    overlay.put(BLOCK)
    with pytest.raises(BadName, match="put such lists into a feed"):
        overlay.put(allow())
    with pytest.raises(BadName, match="shorten"):
        overlay.put(Override(EVIL, Action.SINKHOLE, reason="x" * 513))


def test_nodes_confirm_a_change(client: redis.Redis) -> None:
    overlay = Overlay(client)
    number = overlay.put(BLOCK)
    overlay.heartbeat("one", {"applied_seq": number}, ttl=30, now=1.0)
    overlay.heartbeat("two", {"applied_seq": number - 1, "generation": 4}, ttl=30, now=1.0)
    assert overlay.wait_applied(number, 0.05) == ["two"]
    assert overlay.nodes()["two"] == {"applied_seq": "0", "generation": "4"}
    catch_up = threading.Timer(0.05, overlay.heartbeat, ("two", {"applied_seq": number}), {"ttl": 30, "now": 2.0})
    catch_up.start()
    assert overlay.wait_applied(number, 20) == []
    catch_up.join()


def test_a_node_that_is_silent_is_not_waited_for(client: redis.Redis) -> None:
    overlay = Overlay(client)
    overlay.heartbeat("gone", {"applied_seq": 0}, ttl=0.001, now=1.0)
    assert overlay.wait_applied(1, 5) == []


def test_a_foreign_value_is_one_clear_error(client: redis.Redis) -> None:
    client.hset("overlay", "x", "not msgpack")
    with pytest.raises(Unavailable, match="delete it"):
        Overlay(client).all(1.0)


@settings(deadline=None)
@given(
    st.builds(
        Override, st.binary(min_size=1, max_size=30), st.sampled_from(Action), st.text(max_size=5), st.text(max_size=5),
        st.floats(0, 1e12), st.text(max_size=20), st.text(max_size=5), st.floats(0, 1e12),
    )
)  # fmt: skip
def test_any_override_survives_its_packing(override: Override) -> None:
    assert overlay_module._decode(overlay_module._encode(override)) == override


def test_workers_need_no_redis_client_to_know_overrides() -> None:
    code = "import sys, feeds.overlay, feeds.index; sys.exit('redis' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
