"""Puts the repository on the path: `benchmarks` is no installed package."""

import sys
from pathlib import Path

_REPOSITORY = str(Path(__file__).resolve().parents[2])

if _REPOSITORY not in sys.path:
    sys.path.insert(0, _REPOSITORY)
