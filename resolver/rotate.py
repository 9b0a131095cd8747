"""Turning the order of address records in a rendered reply, so that clients spread over them (RFC 1794).

Rules:
1. Only records that are alike but for their address change places: the same owner octets, type, class, TTL and size.
   Nothing then moves but those records, and every TTL field stays where it is.
2. An owner spelled another way (a name once, pointers to it later) ends the run.
"""

from __future__ import annotations

from typing import Final

from core import rr

_WIDTH: Final = {rr.A: 4, rr.AAAA: 16}  # octets of an address


def turn(body: bytearray, offset: int, ttls: tuple[tuple[int, int], ...], answers: int, step: int) -> None:
    """Rotate the last run of address records of the answer section by `step` places towards the front, in place.

    `body[offset:]` is where the records of a walked reply begin; `ttls` has the place of each one's TTL from there and
    its TTL in seconds, in the order of the records, of which the first `answers` are the answer section. With fewer
    than two records in the run nothing changes.
    """
    last = min(answers, len(ttls)) - 1
    while last > 0:
        place, ttl = ttls[last]
        at = offset + place
        width = _WIDTH.get(body[at - 4] << 8 | body[at - 3])
        if width is not None:
            break
        last -= 1
    else:
        return
    end = at + 6 + width
    start = _end(body, offset + ttls[last - 1][0])
    size = end - start
    head = bytes(body[start : end - width])  # owner, type, class, TTL, RDLENGTH
    first = last
    # A record `size` octets before with the same head has an address of `width` octets, and so RDLENGTH says in both.
    while first and ttls[first - 1] == (place - size, ttl) and body.startswith(head, start - size):
        first -= 1
        place -= size
        start -= size
    if start != (_end(body, offset + ttls[first - 1][0]) if first else offset):
        start += size  # its owner only ends like the others'
    if start + size < end:
        turned = start + step * size % (end - start)
        body[start:end] = body[turned:end] + body[start:turned]


def _end(body: bytearray, at: int) -> int:
    """Where the record with its TTL at `at` ends."""
    return at + 6 + (body[at + 4] << 8 | body[at + 5])
