"""Says of one name how much it looks made by a domain generation algorithm: boosted trees over features of a label.

Rules:
1. A score is the log-odds of the trees, natural logarithm: above 0 speaks for DGA among equally many of both, and
   benign names lie around -4. It orders names; what it means for precision is said by `rarity` and `confidence`.
2. `confidence` holds for the prevalence written in the model. A level that the evaluation cannot show is not given.
3. Most names fall through a sieve of the first trees when only those that alone are worth MEDIUM matter.
"""

from __future__ import annotations

import base64
import zlib
from bisect import bisect_right
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import msgspec

from core.finding import Confidence
from core.names import Name, from_text
from detectors.dga_features import (
    CORPORA,
    FEATURES,
    STRIDE,
    TRIGRAMS,
    Tables,
    ending_of,
    features,
    split,
    word_lengths,
)
from detectors.dga_suffixes import DYNAMIC, dynamic_suffixes
from detectors.dga_trees import Tree, compiled, sieve

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from collections.abc import Set as AbstractSet

FORMAT: Final = 1  # of the file; another one is refused
SIEVE: Final = 55  # trees; nine in ten benign names fall through them
LOWEST: Final = -20.0  # score of a name that holds nothing to judge: the root, a single label, the reverse tree
_REVERSE: Final[Name] = b"\x04arpa\x00"


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A file the model was made from."""

    file: str
    sha256: str
    what: str


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """What scores mean, from benign names that resolve and took no part in training."""

    names: int
    prevalence: float  # share of generated names among those asked, for which the levels hold
    shares: list[float]  # of benign names at or above the score of the same place in `scores`
    scores: list[float]  # ascending
    low: float  # thresholds; null: cannot be shown
    medium: float | None
    high: float | None


class DgaFile(msgspec.Struct, frozen=True, kw_only=True):
    """The model as it is shipped."""

    format: int
    sources: list[Source]
    families: list[str]  # all families the trees met
    recipe: dict[str, Any]
    figures: dict[str, Any]  # of models that did not meet the family they were measured with
    calibration: Calibration
    trigrams: str  # octets of CORPORA + 1 tables of TRIGRAMS, deflated, base 85
    words: dict[str, float]
    suffixes: dict[str, tuple[float, float]]
    tlds: dict[str, tuple[float, float]]
    unknown: tuple[float, float]
    trees: list[Tree]


class DgaModel:
    """A loaded model. Scoring one name takes about 30 microseconds and keeps no state."""

    def __init__(self, file: DgaFile, dynamic: AbstractSet[Name] = DYNAMIC) -> None:
        if file.format != FORMAT:
            raise ValueError(f"DGA model of format {file.format} (this version reads {FORMAT})")
        self.calibration = file.calibration
        self.families = frozenset(file.families)
        self._tables = _tables(file)
        self._dynamic = dynamic
        self._vote = compiled(file.trees, len(FEATURES))
        medium = file.calibration.medium
        self._sieve = None if medium is None else sieve(file.trees, len(FEATURES), bound=medium, first=SIEVE)

    def score(self, name: Name) -> float:
        """Return the log-odds that the label of `label_of` is generated; LOWEST when there is nothing to judge."""
        label, suffix = split(name, self._dynamic)
        return self._vote(*features(self._tables, label, suffix)) if _judged(label, suffix) else LOWEST

    def telling(self, label: bytes, suffix: Name) -> float | None:
        """Return the score of a label right under its effective suffix when it may be MEDIUM alone, else mostly None.

        That takes two thirds of the work.
        """
        if self._sieve is None or not _judged(label, suffix):
            return None
        found = features(self._tables, label, suffix)
        return self._vote(*found) if self._sieve(*found) > 0 else None

    def label_of(self, name: Name) -> str:
        """Return what is scored: the label right under the public or dynamic-DNS suffix, "" for the root."""
        return split(name, self._dynamic)[0].decode("ascii", "backslashreplace")

    def rarity(self, score: float) -> float:
        """Return the share of benign names that score as high, never below one in those looked at."""
        calibration = self.calibration
        at = bisect_right(calibration.scores, score)
        return calibration.shares[at - 1] if at else 1.0

    def confidence(self, score: float) -> Confidence | None:
        """Return what one name alone is worth at the prevalence of the calibration; None: nothing."""
        calibration = self.calibration
        if calibration.high is not None and score >= calibration.high:
            return Confidence.HIGH
        if calibration.medium is not None and score >= calibration.medium:
            return Confidence.MEDIUM
        return Confidence.LOW if score >= calibration.low else None


def _judged(label: bytes, suffix: Name) -> bool:
    return len(label) > 0 and len(suffix) > 1 and not suffix.endswith(_REVERSE)


def load_model(dynamic: Iterable[str] = ()) -> DgaModel:
    """Return the shipped model; `dynamic` are an operator's dynamic-DNS domains beside those shipped.

    Raises BadName when one of them is no name.
    """
    return DgaModel(load_file(), dynamic_suffixes(dynamic))


def load_file() -> DgaFile:
    """Return the shipped file with its sources and figures."""
    return decode(model_octets())


def model_octets() -> bytes:
    """Return the shipped file as it lies there."""
    return (files("detectors") / "models" / "dga.json").read_bytes()


def decode(octets: bytes) -> DgaFile:
    """Return what a model file says; raises msgspec.ValidationError for what is none."""
    return msgspec.json.decode(octets, type=DgaFile)


def packed_trigrams(rows: Sequence[bytes]) -> str:
    """Return tables of one octet a trigram as text for the file."""
    return base64.b85encode(zlib.compress(b"".join(rows), 9)).decode("ascii")


def _tables(file: DgaFile) -> Tables:
    octets = zlib.decompress(base64.b85decode(file.trigrams))
    if len(octets) != (CORPORA + 1) * TRIGRAMS:
        raise ValueError(f"trigram tables of {len(octets)} octets ({(CORPORA + 1) * TRIGRAMS} expected)")
    wide = bytearray(TRIGRAMS * (CORPORA + 1) * STRIDE // 8)
    step = (CORPORA + 1) * STRIDE // 8
    for row in range(CORPORA + 1):
        wide[row * STRIDE // 8 :: step] = octets[row * TRIGRAMS : (row + 1) * TRIGRAMS]
    words = {word.encode("ascii"): worth for word, worth in file.words.items()}
    tlds = {from_text(text): fact for text, fact in file.tlds.items()}
    suffixes = ((from_text(text), fact) for text, fact in file.suffixes.items())
    return Tables(
        trigrams=[int.from_bytes(wide[at : at + step], "little") for at in range(0, len(wide), step)],
        words=words,
        lengths=word_lengths(words),
        endings={name: ending_of(name, fact, tlds, file.unknown) for name, fact in suffixes},
        tlds=tlds,
        unknown=file.unknown,
    )
