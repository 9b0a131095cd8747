"""`python -m fuzz.run_atheris TARGET --seconds N`: one target, guided by coverage, until the time is up or it crashes.

Run it with `tests` on PYTHONPATH, from the root of the repository; `make fuzz` does. Exit code 0: nothing found.
"""

from __future__ import annotations

import argparse
import importlib
import random
import resource
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fuzz.targets import Target

PACKAGES: Final = ["core", "resolver", "feeds", "journal"]  # watched for new paths; dnspython is only asked
MAX_INPUT: Final = 8_192  # octets; larger seeds are taken, but nothing is grown beyond
HANGS: Final = 10  # seconds after which a run is a hang
MEMORY: Final = 2_147_483_648  # bytes the process may have: a leak ends it


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--crashes", type=Path, default=Path("build/fuzz"), help="where inputs that crash are kept")
    wanted = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    atheris: Any = importlib.import_module("atheris")  # it is no dependency of the tests
    with atheris.instrument_imports(include=PACKAGES):
        targets = importlib.import_module("fuzz.targets").TARGETS
    if wanted.target not in targets:
        parser.error(f"no target {wanted.target}; there are {', '.join(targets)}")
    wanted.crashes.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-corpus-") as corpus:
        _hunt(atheris, targets[wanted.target], wanted, Path(corpus))


def _hunt(atheris: Any, target: Target, wanted: argparse.Namespace, corpus: Path) -> None:
    for number, seed in enumerate(target.seeds):
        (corpus / str(number)).write_bytes(seed)

    def mutate(data: bytes, most: int, number: int) -> bytes:
        """Every other time by what a message is made of, else as libFuzzer does it."""
        dice = random.Random(number)
        return target.mutant(data, dice, most) if dice.random() < 0.5 else atheris.Mutate(data, most)

    options = [
        f"-max_total_time={wanted.seconds}",
        f"-artifact_prefix={wanted.crashes / wanted.target}-",
        f"-max_len={max(MAX_INPUT, *map(len, target.seeds))}",
        f"-timeout={HANGS}",
        f"-rss_limit_mb={MEMORY >> 20}",
        "-print_final_stats=1",
        "-verbosity=0",
        str(corpus),
    ]
    atheris.Setup([sys.argv[0], *options], target.check, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
