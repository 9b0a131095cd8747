"""All targets by name, each with its seeds: what hypothesis and atheris drive alike."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from fuzz import on_files, on_kernel, on_node, on_tcp, on_wire, seeds
from fuzz.damage import MOST, STEP, damage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SLOW: Final = 1.0  # seconds of processor time that no input may take
TRIES: Final = 3
MAX_STEPS: Final = 12  # pieces of damage done to a seed


class Target(NamedTuple):
    """`run` takes any bytes; `lead` is how many octets of them are switches before the message itself."""

    run: Callable[[bytes], None]
    seeds: Sequence[bytes]
    lead: int = 0

    def check(self, data: bytes) -> None:
        """Run; raises what crosses the target, and AssertionError when it takes more than SLOW again and again.

        Once it may: the collector, and a machine that stands still, are charged to whoever runs then.
        """
        least = float("inf")
        for _ in range(TRIES):
            before = time.process_time()
            self.run(data)
            least = min(least, time.process_time() - before)
            if least < SLOW:
                return
        raise AssertionError(f"{least:.1f} s of processor time for {len(data)} octets")

    def damaged(self, data: bytes, script: bytes) -> bytes:
        """Return the input with damage done to what follows its switches."""
        return data[: self.lead] + damage(data[self.lead :], script)

    def mutant(self, data: bytes, dice: random.Random, most: int = MOST) -> bytes:
        """Return a random relative of `data` of at most so many octets."""
        return self.damaged(data, dice.randbytes(STEP * dice.randint(1, MAX_STEPS)))[:most]


SWITCHES: Final = tuple(bytes((octet,)) for octet in (0, 1, 16, 4, 32, 2, 8, 20, 17, 36, 48))

TARGETS: Final = {
    "query": Target(on_wire.query, seeds.queries()),
    "edns": Target(on_wire.edns, seeds.edns()),
    "reply": Target(on_wire.reply, seeds.replies()),
    "echo": Target(on_wire.echo, (*seeds.queries(), *seeds.replies())),
    "pipeline": Target(on_node.pipeline, seeds.spread(seeds.queries(), SWITCHES), 1),
    "upstream": Target(on_node.upstream, seeds.spread(seeds.replies(), SWITCHES), 1),
    "tcp": Target(on_tcp.tcp, (*seeds.streams(), *seeds.proxied()), 1),
    "server": Target(on_tcp.server, seeds.streams(), 1),
    "proxy": Target(on_node.proxy, seeds.proxies()),
    "cookies": Target(on_node.cookies, (b"\x00" * 45, bytes(range(61)))),
    "feed": Target(on_files.feed, seeds.feeds(), 1),
    "index": Target(on_files.index, (b"\x00", *(b"\x80" + one for one in seeds.metadata())), 1),
    "state": Target(on_files.state, seeds.states()),
    "said": Target(on_files.said, seeds.said()),
    "config": Target(on_files.config, seeds.TOML),
    "hosts": Target(on_files.hosts, seeds.LISTS),
    "secrets": Target(on_files.secrets, seeds.SECRETS),
    "names": Target(on_files.names, seeds.NAMES),
    "nflog": Target(on_kernel.nflog, on_kernel.logged()),
    "conntrack": Target(on_kernel.conntrack, on_kernel.connections()),
    "agents": Target(on_kernel.agents, on_kernel.seen()),
}
