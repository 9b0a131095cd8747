"""A small disk for one folder, in a mount namespace of this thread and of what it starts."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLONE_NEWNS: Final = 0x00020000  # linux/sched.h
_PIECE: Final = 4_096  # octets, a page of a tmpfs


def why_not() -> str | None:
    """Return why there can be none here, or None."""
    if os.geteuid():
        return "a full disk is made with a tmpfs, which only root may mount"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        return "this machine allows no mount namespaces"
    return None


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """Put a file system of this size on a folder; nobody but this thread and those it starts sees it."""
    libc = ctypes.CDLL(None, use_errno=True)
    here = Path.cwd()
    home = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY)
    try:
        if libc.unshare(_CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), "no mount namespace")
        try:
            _run("mount", "--make-rprivate", "/")
            _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "none", str(folder))
            yield
            _run("umount", "-l", str(folder))
        finally:
            libc.setns(home, _CLONE_NEWNS)
            os.chdir(here)  # which setns moves to the root
    finally:
        os.close(home)


def fill(folder: Path) -> Path:
    """Write one file until nothing more fits, and return it."""
    path = folder / "ballast"
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(_PIECE))
    return path


def _run(*args: str) -> None:
    found = subprocess.run(args, capture_output=True, text=True)
    if found.returncode:
        raise OSError(f"{' '.join(args)}: {found.stderr.strip()}")
