"""Look-alikes of the organisation's own names and of names the operator lists.

Rules:
1. Looked for are the same glyphs in other letters, slips of one letter, the name beside a lure or another word,
   the same label below another suffix, and the whole name in front of somebody else's domain.
2. Names of the organisation, listed names and what the operator ignores are never flagged, nor is what lies below.
3. A domain is judged once and remembered; judging costs a few look-ups a letter however many names are protected.
4. A name that does not exist harms nobody: only what is answered is told, once a day and client.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from core.finding import Confidence, Evidence, Finding
from core.names import Name, from_text, labels, registered_domain, to_text
from detectors.bounded import Bounded, Said
from detectors.confusables import ACE, glyphs, latin, readable, skeleton
from detectors.typos import NUMBER, STRONG, Neighbourhood

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from detectors.sight import Sight

DAY: Final = 86_400.0  # seconds
MAX_CLEAN: Final = 65_536  # domains judged harmless
MAX_SUSPECT: Final = 4_096  # domains judged otherwise, with the verdict
MAX_SAID: Final = 16_384  # (client, domain) pairs
MAX_NAMES: Final = 5_000  # protected; about 1.5 kB each
MIN_ANY: Final = 4  # letters; shorter labels resemble too many others
MIN_TYPO: Final = 5  # letters; likewise for one letter of difference
MIN_SURE: Final = 7  # letters from which a common slip below the same suffix is rarely chance
MIN_LONG: Final = 8  # letters from which any letter of difference, or any word joined, is worth a note
MIN_LURE: Final = 6  # letters from which the name beside a lure is rarely chance
_LOOPBACK: Final = 127  # first octet of what block lists answer
_ANSWERED: Final = (0, -1)  # NOERROR, not known
# What a thief of passwords or payments writes beside the name...
_LURES: Final = frozenset(
    b"""login logon signin signon sign-in log-in account accounts secure security verify verification verified validate
    authenticate auth sso mfa otp 2fa password passwd pass reset unlock confirm support helpdesk servicedesk update
    updates billing invoice invoices payroll refund wallet netbanking webmail owa outlook office365 o365 sharepoint
    onedrive myaccount alert alerts notice recovery recover restore token id-check vpn citrix remote""".decode().split()
)
# ... and what owners write as often.
_COMMON: Final = frozenset(
    b"""app apps bank banking benefits bonus business careers cdn client clients cloud connect corp customer customers
    docs document documents download downloads email extranet files gateway global group help home hr id info intranet
    jobs mail mobile my net news official online pay payment payments portal rewards service services share shop
    signup static store team tech user users web access identity bill members member""".decode().split()
)


class LookalikeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of `lookalike`. Names in text; of each the registered domain counts."""

    mode: Literal["block", "alert", "off"] = "alert"
    own: tuple[str, ...] = ()  # domains of the organisation
    watch: Annotated[tuple[str, ...], Meta(max_length=MAX_NAMES)] = ()  # others worth protecting: banks, suppliers
    ignore: tuple[str, ...] = ()  # domains that look alike and are fine


class Likeness(msgspec.Struct, frozen=True):
    """Why a domain looks like a protected one."""

    target: str  # the protected domain
    how: str
    score: float
    confidence: Confidence


class Lookalike:
    """A Watch for look-alikes. Raises BadName from its constructor for a name that is none."""

    name = "lookalike"

    def __init__(self, settings: LookalikeSettings) -> None:
        protected = [] if settings.mode == "off" else _registered(settings.own + settings.watch)
        self._exempt = {*protected, *_registered(settings.ignore)}
        self._targets: dict[str, Name] = {}  # label as read: the domain; the first listed wins
        for domain in protected:
            text = readable(labels(domain)[0])
            if text is not None and len(text) >= MIN_ANY:
                self._targets.setdefault(text, domain)
        self._skeletons = {skeleton(text): text for text in self._targets}
        self._accentless = {latin(text): text for text in self._targets}
        self._near = Neighbourhood(text for text in self._targets if len(text) >= MIN_TYPO)
        self._joined = {joined: text for text, domain in self._targets.items() for joined in _joined(text, domain)}
        self._lengths = sorted({len(text) for text in self._targets if len(text) >= MIN_TYPO})
        self._wires: dict[int, dict[bytes, Name]] = {}  # by length: the domain less its root, to be found inside names
        for domain in self._targets.values():
            self._wires.setdefault(len(domain) - 1, {})[domain[:-1]] = domain
        self._reach = min(self._wires, default=256)
        self._clean: set[Name] = set()
        self._suspect: Bounded[Name, Likeness] = Bounded(MAX_SUSPECT)
        self._said: Said[tuple[bytes, Name]] = Said(MAX_SAID, every=DAY)

    def see(self, sight: Sight) -> Sequence[Finding]:
        """Return a finding for a domain, or a name in front of one, that looks like a protected one."""
        domain = sight.domain
        if domain in self._clean and len(sight.qname) - len(domain) < self._reach:
            return ()
        if not self._targets or sight.blocked or sight.rcode not in _ANSWERED or domain in self._exempt:
            return ()
        found = self._judged(domain) or self._inside(sight)
        if found is None or not self._said.due((sight.client, domain), sight.at):
            return ()
        return (self._finding(sight, found),)

    def tick(self, now: float) -> Sequence[Finding]:
        """Nothing is due by the clock."""
        del now
        return ()

    def counters(self) -> Mapping[str, int]:
        """Return how many names are protected, how many look alike, and what was forgotten."""
        return {
            "protected": len(self._targets),
            "suspects": len(self._suspect),
            "dropped": self._suspect.dropped + self._said.dropped,
        }

    def dump(self) -> dict[str, Any]:
        """Return what was told within the last day."""
        return {"said": [[client, domain, at] for (client, domain), at in self._said.dump()]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `dump` returned."""
        self._said.load([((client, domain), at) for client, domain, at in state.get("said", ())])

    def judge(self, domain: Name) -> Likeness | None:
        """Return what protected name a registered domain looks like, and how; None for none."""
        parts = labels(domain)
        if len(parts) < 2 or domain in self._exempt or (text := readable(parts[0])) is None or len(text) < MIN_ANY:
            return None
        suffix = domain[len(parts[0]) + 1 :]
        return self._same(text, parts[0]) or self._slipped(latin(text), suffix) or self._beside(latin(text))

    def _judged(self, domain: Name) -> Likeness | None:
        if domain in self._clean:
            return None
        found = self._suspect.get(domain)
        if found is not None:
            return found
        found = self.judge(domain)
        if found is not None:
            self._suspect.put(domain, found)
            return found
        if len(self._clean) >= MAX_CLEAN:
            self._clean.clear()
        self._clean.add(domain)
        return None

    def _same(self, text: str, label: bytes) -> Likeness | None:
        """Find the same label below another suffix, in other letters, or with other accents."""
        if text in self._targets:
            return self._like(text, "the same name below another suffix", 0.3, Confidence.LOW)
        target = self._skeletons.get(skeleton(text))
        if target is not None:
            if label.startswith(ACE) and glyphs(text) != text:
                return self._like(target, f"{text!r} is written with letters of another script", 1.0, Confidence.HIGH)
            sure = len(target) >= MIN_LURE
            words = f"{text!r} is written with signs that look alike"
            return self._like(target, words, 0.8, Confidence.MEDIUM if sure else Confidence.LOW)
        target = self._accentless.get(latin(text))
        if target is None:
            return None
        return self._like(target, f"{text!r} differs by accents only", 0.7, Confidence.MEDIUM)

    def _slipped(self, text: str, suffix: Name) -> Likeness | None:
        """Find one slip of a letter, or a dot left out."""
        if text in self._joined:
            return self._like(self._joined[text], "a dot left out", 0.7, Confidence.MEDIUM)
        best: Likeness | None = None
        for target, kind in self._near.near(text):
            same_suffix = self._targets[target].endswith(suffix)
            sure = kind in STRONG and len(target) >= MIN_SURE and same_suffix
            score = 0.7 if sure else 0.4 if kind in STRONG else 0.3
            far = kind == NUMBER or (kind not in STRONG and len(target) < MIN_LONG)
            if not far and (best is None or score > best.score):
                best = self._like(target, kind, score, Confidence.MEDIUM if sure else Confidence.LOW)
        return best

    def _beside(self, text: str) -> Likeness | None:
        """Find a protected label beside other words: `example-login`, `secureexample`, `portal-examp1e`."""
        tokens = text.split("-")
        if len(tokens) > 1:
            for at, token in enumerate(tokens):
                target = self._skeletons.get(skeleton(token)) if len(token) >= MIN_TYPO - 1 else None
                if target is not None and len(target) >= MIN_TYPO:
                    return self._with(target, tokens[:at] + tokens[at + 1 :])
        for length in self._lengths:
            if length + 1 < len(text):
                head, tail = self._skeletons.get(skeleton(text[:length])), self._skeletons.get(skeleton(text[-length:]))
                if head is not None and (length >= MIN_LONG or _word(text[length:]) in _LURES | _COMMON):
                    return self._with(head, [text[length:]])
                if tail is not None and (length >= MIN_LONG or _word(text[:-length]) in _LURES | _COMMON):
                    return self._with(tail, [text[:-length]])
        return None

    def _with(self, target: str, others: list[str]) -> Likeness:
        lures = [other for other in others if _word(other) in _LURES]
        if lures:
            sure = len(target) >= MIN_LURE
            words = f"the name beside the lure {lures[0]!r}"
            return self._like(target, words, 0.6, Confidence.MEDIUM if sure else Confidence.LOW)
        return self._like(target, f"the name beside {'-'.join(others)!r}", 0.3, Confidence.LOW)

    def _inside(self, sight: Sight) -> Likeness | None:
        """Find a whole protected name in front of the domain, answered by an address that is no block list's."""
        name, end = sight.qname, len(sight.qname) - len(sight.domain)
        if end < self._reach or not sight.addresses or sight.addresses[0][0] == _LOOPBACK:
            return None
        at = 0
        while end - at >= self._reach:
            for length, wires in self._wires.items():
                found = wires.get(name[at : at + length]) if at + length <= end else None
                if found is not None:
                    words = f"the whole name in front of {to_text(sight.domain)}"
                    return Likeness(to_text(found), words, 0.4, Confidence.LOW)
            at += name[at] + 1
        return None

    def _like(self, text: str, how: str, score: float, confidence: Confidence) -> Likeness:
        return Likeness(to_text(self._targets[text]), how, score, confidence)

    def _finding(self, sight: Sight, found: Likeness) -> Finding:
        name = to_text(sight.domain)
        return Finding(
            detector=self.name,
            client=str(ip_address(sight.client)),
            domain=name,
            score=found.score,
            confidence=found.confidence,
            reason=f"{name} looks like {found.target}: {found.how}",
            evidence=(Evidence("likeness", found.score, 0.3),),
        )


def _registered(names: Iterable[str]) -> list[Name]:
    return [registered_domain(from_text(name)) for name in names]


def _word(part: str) -> str:
    return part.strip("-0123456789")


def _joined(text: str, domain: Name) -> tuple[str, ...]:
    """Return what the name becomes when a dot is left out: `wwwexample`, `examplecom`."""
    if len(text) < MIN_TYPO:
        return ()
    return (f"www{text}", f"www-{text}", text + to_text(domain[len(labels(domain)[0]) + 1 :]).replace(".", ""))
