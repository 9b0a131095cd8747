"""DNS cookies of the server's side (RFC 7873) in the form nodes can share (RFC 9018), and the file of their secrets.

Rules:
1. The first secret makes cookies, every secret is accepted. A cookie by another than the first is renewed, so that
   clients have moved on before an old secret goes.
2. A cookie says only that its sender receives what is sent to its address: it is no access right.
3. A secret appears in no error and no log.
"""

from __future__ import annotations

import os
import secrets
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, flock
from hmac import compare_digest
from struct import Struct
from typing import TYPE_CHECKING, Final

from siphash24 import siphash24

from core.errors import BadConfig, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

CLIENT: Final = 8  # octets of a client cookie, RFC 7873 section 4.1
SERVER_MIN: Final = 8  # octets of a server cookie, RFC 7873 section 4.2
SERVER_MAX: Final = 32
SECRET: Final = 16  # octets, the key of SipHash-2-4
MAX_SECRETS: Final = 3  # in use, the one before, and the one that other nodes already know (RFC 9018 section 5)
MAX_AGE: Final = 3_600  # seconds a cookie is good, RFC 9018 section 4.3
RENEW_AGE: Final = 1_800  # seconds after which a good cookie is replaced, RFC 9018 section 4.3
MAX_AHEAD: Final = 300  # seconds a cookie may be dated in the future, RFC 9018 section 4.3
ROTATE_AGE: Final = 86_400.0  # seconds a secret of our own makes cookies
MAX_FILE: Final = 4_096  # octets of a secret file

_OURS: Final = 24  # octets of an option with a server cookie of version 1: client cookie, 4, timestamp, hash
_VERSION: Final = b"\x01\x00\x00\x00"  # version 1 and three reserved octets, RFC 9018 section 4
_STAMP: Final = Struct("!I")
_CURE: Final = "a secret is 32 hexadecimal digits on a line of its own"


def well_formed(option: bytes) -> bool:
    """True when the option may stand in a query: a client cookie alone or with a server cookie (RFC 7873 section 4)."""
    size = len(option)
    return size == CLIENT or CLIENT + SERVER_MIN <= size <= CLIENT + SERVER_MAX


class Cookies:
    """Makes and checks server cookies. `secrets`: 16 octets each; the first makes new ones, all are accepted."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        """Raises ValueError without a secret, or for one of another size."""
        if not secrets or any(len(secret) != SECRET for secret in secrets):
            raise ValueError(f"cookies need one secret of {SECRET} octets or more")
        self._secrets = tuple(secrets)

    def reply(self, sent: bytes, address: bytes, now: float) -> tuple[bytes, bool]:
        """Return the option data for the reply, and whether the server cookie sent was good.

        `sent` is a well-formed option, `address` the client's, of 4 or 16 octets. A good cookie goes back as it came
        until it is half an hour old (RFC 9018 section 4.3); in every other case the reply carries a new one.
        """
        stamp = int(now) & 0xFFFF_FFFF
        if len(sent) == _OURS and sent[CLIENT] == 1:
            age = stamp - _STAMP.unpack_from(sent, 12)[0] & 0xFFFF_FFFF  # serial arithmetic, RFC 1982
            if age <= MAX_AGE or age >= 2**32 - MAX_AHEAD:
                made, theirs = sent[:16] + address, sent[16:]
                for secret in self._secrets:
                    if compare_digest(siphash24(made, key=secret).digest(), theirs):
                        stale = RENEW_AGE < age <= MAX_AGE or secret is not self._secrets[0] or sent[8:12] != _VERSION
                        return (self._new(sent, address, stamp) if stale else sent), True
        return self._new(sent, address, stamp), False

    def _new(self, sent: bytes, address: bytes, stamp: int) -> bytes:
        head = sent[:CLIENT] + _VERSION + _STAMP.pack(stamp)
        digest: bytes = siphash24(head + address, key=self._secrets[0]).digest()
        return head + digest


def load(path: Path) -> tuple[bytes, ...]:
    """Return the secrets of a file: one to three lines of 32 hexadecimal digits, `#` begins a comment.

    Raises BadConfig naming file, line and cure.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise BadConfig([f"{path}: cannot be read: {error.strerror}"]) from None
    if len(data) > MAX_FILE:
        raise BadConfig([f"{path}: longer than {MAX_FILE} octets; {_CURE}"])
    found: list[bytes] = []
    for number, line in enumerate(data.splitlines(), 1):
        text = line.partition(b"#")[0].strip()
        if not text:
            continue
        if len(found) == MAX_SECRETS:
            raise BadConfig([f"{path}, line {number}: a secret too many; {MAX_SECRETS} at most are in use together"])
        found.append(_secret(text, f"{path}, line {number}"))
    if not found:
        raise BadConfig([f"{path}: holds no secret; {_CURE}"])
    return tuple(found)


def keep(path: Path, now: float, max_age: float = ROTATE_AGE) -> tuple[bytes, ...]:
    """Return the secrets of a file of our own: made when missing, rotated when older than `max_age` seconds.

    After a rotation the first line is new and the one before stands second. The file's time is that of its newest
    secret by the caller's clock; one dated further ahead than `max_age` (the clock went back) is rotated too. Several
    processes may call this at once. Raises BadConfig as `load` does, Unavailable when the file cannot be written.
    """
    try:
        with _locked(path.parent):
            try:
                age = now - path.stat().st_mtime
            except FileNotFoundError:
                old: tuple[bytes, ...] = ()
            else:
                old = load(path)
                if abs(age) <= max_age:
                    return old
            fresh = (bytes.fromhex(secrets.token_hex(SECRET)), *old[:1])
            _write(path, fresh, now)
            return fresh
    except OSError as error:
        raise Unavailable(f"{path}: cookie secrets cannot be kept there: {error.strerror}") from None


def _secret(text: bytes, where: str) -> bytes:
    """One line's secret; what stands there instead may be a damaged secret, so it is not shown."""
    try:
        secret = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        secret = b""
    if len(text) != 2 * SECRET or len(secret) != SECRET:
        raise BadConfig([f"{where}: not a cookie secret; {_CURE}"]) from None
    return secret


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder is ours alone inside: its own descriptor is locked, which leaves no lock file behind."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flock(descriptor, LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, found: Sequence[bytes], now: float) -> None:
    """Put a file of mode 0600, dated `now`, in place of the old one; at every moment one of them is there, whole."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.unlink(missing_ok=True)  # of a process of this number that died
    text = "# DNS cookie secrets (RFC 9018): the first makes cookies, the second is still accepted.\n"
    text += "".join(f"{secret.hex()}\n" for secret in found)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.utime(draft, (now, now))
        draft.replace(path)
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()
