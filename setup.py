"""Compiles the hot modules with mypyc when PLUGHOLE_COMPILE=1; without it everything stays plain Python.

The modules are ordinary typed Python and run as they are; docs/decisions/0005 has what compiling them buys.
"""

import os

from setuptools import setup

HOT = (
    "core/cut.py",
    "core/names.py",
    "core/suffix_rules.py",
    "core/wire.py",
    "detectors/acquaintance.py",
    "detectors/bounded.py",
    "detectors/carried.py",
    "detectors/dga_features.py",
    "detectors/leak.py",
    "detectors/leak_accounts.py",
    "detectors/leak_budgets.py",
    "detectors/leak_code.py",
    "detectors/leak_crude.py",
    "detectors/leak_peers.py",
    "detectors/leak_state.py",
    "detectors/leak_sums.py",
    "detectors/recurrence.py",
    "detectors/tunnel_c2.py",
    "detectors/tunnel_codec.py",
    "detectors/tunnel_pair.py",
    "detectors/tunnel_tools.py",
    "resolver/answers.py",
    "resolver/blocking.py",
    "resolver/clients.py",
    "resolver/judge.py",
    "resolver/latency.py",
    "resolver/limits.py",
    "resolver/manners.py",
    "resolver/metering.py",
    "resolver/mmsg.py",
    "resolver/outbox.py",
    "resolver/pipeline.py",
    "resolver/policy.py",
    "resolver/rebind.py",
    "resolver/render.py",
    "resolver/replies.py",
    "resolver/rotate.py",
    "resolver/sinkhole.py",
    "resolver/subjects.py",
    "resolver/telling.py",
    "resolver/udp.py",
    "resolver/upstream/__init__.py",
    "resolver/upstream/datagrams.py",
    "resolver/upstream/echo.py",
    "resolver/upstream/forward.py",
    "resolver/upstream/health.py",
    "resolver/upstream/transactions.py",
    "resolver/waiting.py",
)

if os.environ.get("PLUGHOLE_COMPILE") == "1":
    from mypyc.build import mypycify

    setup(ext_modules=mypycify([*HOT], opt_level="3"))
else:
    setup()
