"""libunbound's event API and the libevent base it runs on, through cffi without a compiler (ABI mode).

Rules:
1. A base and its contexts belong to one thread; contexts are deleted before the base they run on.
2. libunbound calls back from inside `EventBase.run` and also from inside `Context.resolve` (answers it holds) and
   `Context.delete` (questions it still has), so a callback only takes note; nothing asks from within one.
3. libunbound's log is one a process and goes nowhere, except that opening a context returns what it complained about.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import cffi

from core.errors import Unavailable
from core.rr import CLASS_IN, A

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES: Final = "install libunbound8 and libevent-2.1-7 (Debian, Ubuntu: apt install libunbound8 libevent-2.1-7)"
UNBOUND: Final = "libunbound.so.8"
LIBEVENT: Final = "libevent-2.1.so.7"  # the one Debian's libunbound is built with; another would not share its structs

SECURE: Final = 2  # `sec` of a callback
BOGUS: Final = 1
TRIAL: Final = 0  # the number of the question a context is opened with; its callback means nothing

_IGNORE_ENVIRONMENT: Final = 0x02  # EVENT_BASE_FLAG_IGNORE_ENV: no variable may turn epoll off
_NONBLOCK: Final = 0x02  # EVLOOP_NONBLOCK
_READ: Final = 0x02  # EV_READ
_MAX_COMPLAINT: Final = 400  # characters of libunbound's log in an error

# `mydata` is a void * in unbound-event.h; as the integer it is passed like one, and costs no object a question.
_DECLARATIONS: Final = """
    struct event_base; struct event_config; struct event; struct ub_ctx; struct FILE;
    struct event_config *event_config_new(void);
    void event_config_free(struct event_config *);
    int event_config_set_flag(struct event_config *, int flag);
    struct event_base *event_base_new_with_config(const struct event_config *);
    void event_base_free(struct event_base *);
    int event_base_loop(struct event_base *, int flags);
    struct event *event_new(struct event_base *, int fd, short events, void (*)(int, short, void *), void *);
    int event_add(struct event *, const void *timeout);
    void event_free(struct event *);

    typedef void ub_callback(uintptr_t mydata, int rcode, void *packet, int length, int sec, char *why, int limited);
    struct ub_ctx *ub_ctx_create_event(struct event_base *);
    void ub_ctx_delete(struct ub_ctx *);
    int ub_ctx_config(struct ub_ctx *, const char *file);
    int ub_ctx_debugout(struct ub_ctx *, void *out);
    int ub_resolve_event(struct ub_ctx *, const char *name, int type, int class, uintptr_t mydata,
                         ub_callback *, int *id);
    const char *ub_strerror(int);
    const char *ub_version(void);

    struct FILE *fdopen(int fd, const char *mode);
    int fclose(struct FILE *);
"""


class Library(NamedTuple):
    """The loaded libraries: cffi's own object, libunbound, libevent and the C library."""

    ffi: Any
    ub: Any
    event: Any
    c: Any


def load() -> Library:
    """Load both libraries; raises Unavailable naming the packages that bring them."""
    ffi = cffi.FFI()
    ffi.cdef(_DECLARATIONS)
    try:
        return Library(ffi, ffi.dlopen(UNBOUND), ffi.dlopen(LIBEVENT), ffi.dlopen(None))
    except OSError as error:
        raise Unavailable(f"recursion and DNSSEC need libunbound: {error}; {PACKAGES}") from None


class EventBase:
    """A libevent base over epoll; `descriptor` is readable when a socket of it is.

    Its timers do not show on the descriptor (libevent disarms its timerfd on every pass that does not block, tried with
    2.1.12), so the owner also runs it by the clock.
    """

    def __init__(self, library: Library) -> None:
        self._event = library.event
        config = self._event.event_config_new()
        self._event.event_config_set_flag(config, _IGNORE_ENVIRONMENT)
        self.pointer = self._event.event_base_new_with_config(config)
        self._event.event_config_free(config)
        if not self.pointer:
            raise Unavailable("libevent could not make an event base: out of memory or file descriptors")
        try:
            self.descriptor = _epoll_descriptor(library, self.pointer)
        except BaseException:
            self.free()
            raise

    def run(self) -> None:
        """Handle what is ready, due timers included, without waiting."""
        self._event.event_base_loop(self.pointer, _NONBLOCK)

    def free(self) -> None:
        """Give the base and its descriptor back."""
        self._event.event_base_free(self.pointer)


class Context:
    """One libunbound context; `callback` is a cffi function that must live until `delete` returns."""

    def __init__(self, library: Library, base: EventBase, *, conf: str, callback: Any) -> None:
        self._ffi, self._ub = library.ffi, library.ub
        self._callback = callback
        self._pointer = self._ub.ub_ctx_create_event(base.pointer)
        if not self._pointer:
            raise Unavailable("libunbound could not make a context: out of memory")
        try:
            self._configure(library, conf)
        except BaseException:
            self.delete()
            raise

    def resolve(self, name: bytes, qtype: int, *, qclass: int, number: int) -> str:
        """Ask for the presentation name; the callback gets `number`. Returns "" or the reason nothing was asked."""
        code = self._ub.ub_resolve_event(self._pointer, name, qtype, qclass, number, self._callback, self._ffi.NULL)
        return "" if code == 0 else _error_text(self._ffi, self._ub, code)

    def delete(self) -> None:
        """Give the context back; the callback is called for every question it still held."""
        self._ub.ub_ctx_delete(self._pointer)

    def _resolve(self, name: bytes, qtype: int, *, qclass: int, number: int) -> int:
        code: int = self._ub.ub_resolve_event(
            self._pointer, name, qtype, qclass, number, self._callback, self._ffi.NULL
        )
        return code

    def _configure(self, library: Library, conf: str) -> None:
        self._ub.ub_ctx_debugout(self._pointer, self._ffi.NULL)
        log = os.memfd_create("libunbound-log")
        try:
            with _file_of(conf) as path, _logging_to(library, self._pointer, log):
                code = self._ub.ub_ctx_config(self._pointer, path)
                # Answered at once from a built-in zone; files are read for it, so a mistake is told here and now.
                code = code or self._resolve(b"plughole.invalid.", A, qclass=CLASS_IN, number=TRIAL)
            if code != 0:
                raise Unavailable(f"libunbound refused its configuration: {self._complaint(log, code)}")
        finally:
            os.close(log)

    def _complaint(self, log: int, code: int) -> str:
        lines = os.pread(log, _MAX_COMPLAINT, 0).decode("utf-8", "replace").splitlines()
        said = [line.rpartition("error: ")[2] for line in lines if "error: " in line]
        return "; ".join(said) or _error_text(self._ffi, self._ub, code)


def _error_text(ffi: Any, ub: Any, code: int) -> str:
    text: bytes = ffi.string(ub.ub_strerror(code))
    return text.decode("ascii", "replace")


@contextmanager
def _file_of(text: str) -> Iterator[bytes]:
    """A path at which `text` can be read, of a file without a name on any disk."""
    descriptor = os.memfd_create("unbound.conf")
    try:
        with os.fdopen(os.dup(descriptor), "w", encoding="utf-8") as file:
            file.write(text)
        yield b"/proc/self/fd/%d" % descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _logging_to(library: Library, context: Any, descriptor: int) -> Iterator[None]:
    stream = library.c.fdopen(os.dup(descriptor), b"w")
    library.ub.ub_ctx_debugout(context, stream)
    try:
        yield
    finally:
        library.ub.ub_ctx_debugout(context, library.ffi.NULL)
        library.c.fclose(stream)


def _epoll_descriptor(library: Library, base: Any) -> int:
    """Return the descriptor of the base's epoll, which libevent keeps to itself.

    A pipe of ours is watched by the base; the kernel tells which epoll instance watches that pipe.
    """
    reading, writing = os.pipe()
    callback = library.ffi.callback("void(int, short, void *)", lambda *_: None)
    probe = library.event.event_new(base, reading, _READ, callback, library.ffi.NULL)
    try:
        library.event.event_add(probe, library.ffi.NULL)
        return _epoll_watching(reading)
    finally:
        library.event.event_free(probe)
        os.close(reading)
        os.close(writing)


def _epoll_watching(target: int) -> int:
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if str(entry.readlink()) == "anon_inode:[eventpoll]" and target in _watched(int(entry.name)):
                return int(entry.name)
        except OSError:
            continue  # closed by another thread since it was listed
    raise Unavailable("libevent's epoll descriptor was not found: /proc must be mounted and libevent must use epoll")


def _watched(descriptor: int) -> set[int]:
    """Return the descriptors an epoll instance watches: the `tfd:` lines of proc(5)'s fdinfo."""
    rows = Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii").splitlines()
    return {int(row.split()[1]) for row in rows if row.startswith("tfd:")}
