"""Policy: the rules of `decide` as properties, and the views overrides make."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.names import from_text, suffixes
from core.verdict import Action, Cause
from feeds.index import Match
from feeds.overlay import Override
from resolver.policy import NO_RULING, Policy, address_key, decide, key_text, verdict

BLOCK = Match("list", "malware", 80, Action.SINKHOLE)
ALERT = Match("noisy", "adware", 30, Action.ALERT)
ALLOW = Match("friends", "", 100, Action.PASSTHRU)
EXACT = Match("exact", "malware", 80, Action.SINKHOLE, exact=True, below=False)
BELOW = Match("below", "malware", 80, Action.SINKHOLE, exact=False, below=True)

matches = st.lists(
    st.one_of(st.none(), st.lists(st.sampled_from([BLOCK, ALERT, ALLOW, EXACT, BELOW]), min_size=1).map(tuple)),
    min_size=1,
    max_size=5,
)


@given(matches)
def test_the_longest_name_that_applies_wins(found: list[tuple[Match, ...] | None]) -> None:
    ruling = decide((), found)
    speaking = [
        (depth, match)
        for depth, each in enumerate(found)
        for match in each or ()
        if (match.below if depth else match.exact)
    ]
    if not speaking:
        assert ruling is NO_RULING
        return
    assert ruling.depth == min(depth for depth, _ in speaking)
    assert ruling.action in {match.action for depth, match in speaking if depth == ruling.depth}


@given(matches)
def test_allow_beats_block_beats_alert_at_equal_length(found: list[tuple[Match, ...] | None]) -> None:
    ruling = decide((), found)
    here = {match.action for match in (found[ruling.depth] or ()) if (match.below if ruling.depth else match.exact)}
    for action in (Action.PASSTHRU, Action.SINKHOLE, Action.ALERT):
        if action in here:
            assert ruling.action is action
            return


@given(matches, st.integers(0, 4), st.sampled_from([Action.PASSTHRU, Action.SINKHOLE, Action.DROP]))
def test_an_override_beats_every_feed(found: list[tuple[Match, ...] | None], depth: int, action: Action) -> None:
    overrides: list[Override | None] = [None] * 5
    overrides[depth] = Override(b"\x01x\x00", action)
    ruling = decide(overrides, found)
    assert (ruling.action, ruling.cause, ruling.depth) == (action, Cause.OVERRIDE, depth)


@given(matches)
def test_every_match_that_applies_is_a_reason_and_the_first_one_decided(
    found: list[tuple[Match, ...] | None],
) -> None:
    keys = suffixes(from_text("e.d.c.b.a"))[: len(found)]
    ruling = decide((), found)
    written = verdict(ruling, keys)
    applying = sum((match.below if depth else match.exact) for depth, each in enumerate(found) for match in each or ())
    assert len(written.reasons) == applying
    if written.reasons:
        assert written.reasons[0].action is ruling.action
        assert written.reasons[0].indicator == key_text(keys[ruling.depth])


def policy(*overrides: Override) -> Policy:
    made = Policy(cache_bytes=1_000_000)
    made.use_index(None)
    made.use_overrides(overrides, 1_000.0)
    return made


NAME = from_text("x.example")


def test_clients_without_overrides_of_their_own_share_the_default_view() -> None:
    made = policy(Override(NAME, Action.SINKHOLE, client="10.0.0.0/24"))
    assert made.view_of(bytes((10, 0, 1, 1))) is made.default
    first, second = made.view_of(bytes((10, 0, 0, 1))), made.view_of(bytes((10, 0, 0, 2)))
    assert first is second
    assert first is not made.default


def test_the_narrower_scope_wins_at_equal_length() -> None:
    made = policy(
        Override(NAME, Action.SINKHOLE),
        Override(NAME, Action.PASSTHRU, client="10.0.0.0/24"),
        Override(NAME, Action.DROP, client="10.0.0.7"),
    )
    actions = [
        made.rule([NAME], made.view_of(bytes(address))).action
        for address in ((10, 9, 9, 9), (10, 0, 0, 1), (10, 0, 0, 7))
    ]
    assert actions == [Action.SINKHOLE, Action.PASSTHRU, Action.DROP]


def test_a_parents_override_reaches_the_names_below() -> None:
    made = policy(Override(NAME, Action.SINKHOLE))
    assert made.rule(suffixes(from_text("a.b.x.example")), made.default).action is Action.SINKHOLE
    assert made.rule(suffixes(from_text("ax.example")), made.default).action is Action.NONE


def test_overrides_expire_and_the_epoch_moves() -> None:
    made = policy(Override(NAME, Action.SINKHOLE, expires=1_060.0))
    before = made.epoch
    assert not made.tick(1_059.0)
    assert made.tick(1_060.0)
    assert made.epoch > before
    assert made.rule([NAME], made.default).action is Action.NONE


def test_an_ipv6_client_of_a_network() -> None:
    made = policy(Override(NAME, Action.SINKHOLE, client="2001:db8::/32"))
    inside = bytes.fromhex("20010db8000000000000000000000001")
    assert made.rule([NAME], made.view_of(inside)).action is Action.SINKHOLE
    assert made.view_of(bytes(16)) is made.default


def test_address_keys_are_no_names() -> None:
    assert key_text(address_key(bytes((192, 0, 2, 7)))) == "192.0.2.7"
    assert key_text(address_key(bytes(15) + b"\x01")) == "::1"
    assert key_text(b"\x00") == "."


def test_the_root_is_judged_like_any_name() -> None:
    assert policy().rule([], policy().default) is NO_RULING
