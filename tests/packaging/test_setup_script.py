"""`packaging/setup.sh` as a user without root meets it: what it prints, when it goes on, when it does nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

ROOT = Path(__file__).parents[2]
TOOLS: Final = ("cat", "chmod", "cp", "dirname", "find", "grep", "mkdir", "rm", "sh", "touch")
PYTHON: Final = """#!/bin/sh
# Stands in for Python: a file of its name in $ABSENT says what cannot be imported or loaded.
echo "python $*" >>"$LOG"
case "$*" in
*ensurepip*) [ ! -e "$ABSENT/ensurepip" ] ;;
*ctypes*) [ ! -e "$ABSENT/libunbound" ] ;;
*platform.machine*) [ ! -e "$ABSENT/wheel" ] ;;
*"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python && echo "$PWD/.venv" >.venv/bin/activate ;;
*Python.h*) [ ! -e "$ABSENT/headers" ] ;;
*--no-build-isolation*) echo "compile=$PLUGHOLE_COMPILE" >>"$LOG" && cp "$0" .venv/bin/plughole ;;
esac
"""


class Machine:
    """A checkout with nothing but the script, on a PATH with nothing but what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "checkout"
        self.absent = folder / "absent"
        self._bin = folder / "bin"
        self._log = folder / "log"
        for made in (self.checkout / "packaging", self.absent, self._bin):
            made.mkdir(parents=True)
        shutil.copy(ROOT / "packaging" / "setup.sh", self.checkout / "packaging")
        for name in ("requirements-dev.txt", "pyproject.toml", "setup.py"):
            (self.checkout / name).touch()
        for name in ("console", "core", "detectors", "egress", "feeds", "journal", "resolver"):
            (self.checkout / name).mkdir()
            (self.checkout / name / "__init__.py").touch()
        for tool in TOOLS:
            (self._bin / tool).symlink_to(shutil.which(tool) or "/bin/false")
        self.command("id", "#!/bin/sh\necho 1000\n")
        self.command("apt-get", '#!/bin/sh\necho "apt-get $*" >>"$LOG"\n')
        self.command("python3", PYTHON)

    def command(self, name: str, script: str) -> None:
        (self._bin / name).write_text(script, encoding="utf-8")
        (self._bin / name).chmod(0o755)

    def setup(self, *words: str) -> tuple[int, list[str], list[str]]:
        """Return the exit code, the lines printed and the commands that were called."""
        self._log.write_text("", encoding="utf-8")
        environ = {"PATH": str(self._bin), "LOG": str(self._log), "ABSENT": str(self.absent)}
        ran = subprocess.run(
            ["packaging/setup.sh", *words], cwd=self.checkout, env=environ, capture_output=True, text=True, timeout=120
        )
        assert ran.stdout == ""
        return ran.returncode, ran.stderr.splitlines(), self._log.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    if not any(word in Path("/etc/os-release").read_text(encoding="utf-8") for word in ("debian", "ubuntu")):
        pytest.skip("the script names packages on Debian and Ubuntu only")
    if any(os.access(f"/usr/sbin/{name}", os.X_OK) for name in ("redis-server", "valkey-server")):
        pytest.skip("a redis-server in /usr/sbin hides what is tested")
    return Machine(tmp_path)


def test_without_root_one_line_installs_what_is_missing(machine: Machine) -> None:
    for name in ("ensurepip", "libunbound", "wheel"):
        (machine.absent / name).touch()
    code, printed, called = machine.setup()
    commands = [line for line in printed if line.startswith("sudo apt-get")]
    assert len(commands) == 1
    assert commands[0].split()[4:7] == ["python3-venv", "libunbound8", "redis-server"]
    assert "setup: python3-venv is needed to go on" in printed
    assert code == 1
    assert not [line for line in called if line.startswith("apt-get")]
    assert not (machine.checkout / ".venv").exists()


def test_without_libunbound_it_says_what_does_not_work_and_goes_on(machine: Machine) -> None:
    (machine.absent / "libunbound").touch()
    code, printed, _ = machine.setup()
    assert code == 0
    assert any(line.startswith("setup:   libunbound8: no recursion") for line in printed)
    assert (machine.checkout / ".venv" / "bin" / "plughole").exists()


def test_the_wheel_serves_where_no_redis_is_installed(machine: Machine) -> None:
    assert not [line for line in machine.setup()[1] if "redis-server" in line]


def test_a_second_run_does_nothing_until_a_lock_changes(machine: Machine) -> None:
    assert any("--require-hashes" in line for line in machine.setup()[2])
    assert not any("pip" in line.split() for line in machine.setup()[2])
    stamp = (machine.checkout / ".venv" / ".setup-done").stat().st_mtime
    os.utime(machine.checkout / "requirements-dev.txt", (stamp + 2, stamp + 2))
    called = machine.setup()[2]
    assert any("--require-hashes" in line for line in called)
    assert not any("venv --clear" in line for line in called)


def test_a_changed_source_is_installed_again_and_nothing_else(machine: Machine) -> None:
    machine.setup()
    stamp = (machine.checkout / ".venv" / ".installed").stat().st_mtime
    os.utime(machine.checkout / "core" / "__init__.py", (stamp + 2, stamp + 2))
    called = machine.setup()[2]
    assert any("--no-build-isolation" in line for line in called)
    assert not any("--require-hashes" in line for line in called)


def test_the_tests_do_not_install_plughole(machine: Machine) -> None:
    assert not any("--no-build-isolation" in line for line in machine.setup("test")[2])


@pytest.mark.parametrize(("compiler", "headers", "compiled"), [(True, True, "1"), (True, False, ""), (False, True, "")])
def test_hot_modules_are_compiled_where_that_can_be_done(
    machine: Machine, *, compiler: bool, headers: bool, compiled: str
) -> None:
    if compiler:
        machine.command("cc", "#!/bin/sh\n")
    if not headers:
        (machine.absent / "headers").touch()
    assert f"compile={compiled}" in machine.setup()[2]


def test_a_checkout_that_was_moved_gets_a_new_environment(machine: Machine) -> None:
    machine.setup()
    machine.checkout = machine.checkout.rename(machine.checkout.with_name("moved"))
    assert any("venv --clear" in line for line in machine.setup()[2])


def test_the_tests_want_more(machine: Machine) -> None:
    machine.setup()
    printed = machine.setup("test")[1]
    assert not any("nsd" in line or "dnsutils" in line for line in machine.setup()[1])
    for package in ("bind9-dnsutils", "knot-dnsutils", "ldnsutils"):
        assert any(f"{package}: tests that ask" in line for line in printed)


def test_no_service_of_a_package_installed_starts_with_the_machine() -> None:
    script = (ROOT / "packaging" / "setup.sh").read_text(encoding="utf-8")
    [disabled] = [line for line in script.splitlines() if "for service in" in line]
    for package in ("nsd", "pdns-recursor", "redis-server", "unbound"):
        assert f"want {package} " in script
        assert package in disabled.replace(";", " ").split()
