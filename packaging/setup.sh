#!/bin/sh
# Make this checkout runnable: system packages where something is missing, then the virtual environment in .venv.
#
#   packaging/setup.sh        what `make run` needs
#   packaging/setup.sh test   also what the tests need
#
# As root on Debian or Ubuntu missing packages are installed, and their services are neither started nor enabled. Without
# root the one command that installs them is printed, with what does not work until then. Safe to run again: without
# changes it takes a fraction of a second.

set -eu

cd "$(dirname "$0")/.."
for_tests=${1:-}
venv=.venv
stamp=$venv/.setup-done
installed=$venv/.installed
PATH=$PATH:/usr/sbin:/sbin # where nsd and ip live, absent from the PATH of many users

say() { printf 'setup: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 1
}
has() { command -v "$1" >/dev/null 2>&1; }

# Python 3.11 or later

find_python() {
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if has "$candidate" && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

has_venv() { "$python" -c 'import ensurepip, venv' 2>/dev/null; }
has_library() { "$python" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$1" 2>/dev/null; }
has_libunbound() { has_library libunbound.so.8 && has_library libevent-2.1.so.7; }
has_headers() {
    "$python" -c '
import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))'
}
has_redis() { has redis-server || has valkey-server || { [ "$(id -u)" != 0 ] && has_wheel_server; }; }
has_wheel_server() { # the Valkey server that requirements-dev.txt brings on this platform
    "$python" -c '
import platform, sys
sys.exit(not (sys.platform == "linux" and platform.machine() == "x86_64" and sys.version_info < (3, 14)))'
}

# System packages: `missing` names them, `without` says what each is for

missing=
without=
want() { # PACKAGE, what does not work without it
    missing="$missing $1"
    without="$without
setup:   $1: $2"
}

look_for_packages() {
    missing=
    without=
    python=$(find_python)
    if [ -z "$python" ]; then
        python=false # every question to it is answered no
        want python3 "nothing runs (Python 3.11 or later)"
    fi
    has_venv || want python3-venv "the virtual environment cannot be made"
    has_libunbound || want libunbound8 "no recursion and no DNSSEC; only forwarding, with dnssec = false"
    has_redis || want redis-server "no embedded Redis; set [redis] url to one that runs"
    [ -e /etc/ssl/certs/ca-certificates.crt ] || want ca-certificates "feeds from https:// are refused"
    [ "$for_tests" = test ] || return 0
    has nsd || want nsd "tests against a real authoritative server are skipped"
    has ip || want iproute2 "tests with networks of their own are skipped"
    has cc || want gcc "the hot modules are not tested compiled"
    has_headers || want python3-dev "the hot modules are not tested compiled"
    has nft || want nftables "tests against a real firewall are skipped"
    has ipset || want ipset "tests with a real ipset are skipped"
    has sysctl || want procps "tests with routers of their own are skipped"
    has iodine || want iodine "tests with real iodine tunnels are skipped"
    has dns2tcpc || want dns2tcp "tests with real dns2tcp tunnels are skipped"
    has tcpdump || want tcpdump "tests with real tunnels are skipped"
    has dig || want bind9-dnsutils "tests that ask as people do are skipped"
    has kdig || want knot-dnsutils "tests that ask with kdig are skipped"
    has drill || want ldnsutils "tests that ask with drill are skipped"
    has unbound || want unbound "answers are not compared with Unbound's"
    has pdns_recursor || want pdns-recursor "answers are not compared with PowerDNS Recursor's"
}

is_debian() { has apt-get && grep -qsE '^ID(_LIKE)?=.*(debian|ubuntu)' /etc/os-release; }

policy=/usr/sbin/policy-rc.d # Debian asks it before it starts a service; exit code 101 is "no"

forbid_services() {
    [ ! -e $policy ] || return 0 # the machine has a rule of its own
    trap 'rm -f $policy' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
    forbidden=yes
}

permit_services() {
    [ -n "$forbidden" ] || return 0
    rm -f $policy
    trap - EXIT HUP INT TERM
}

keep_disabled() { # or they would take their ports when the machine starts next
    for service in dns2tcp iodine nftables nsd pdns-recursor redis-server unbound; do
        case "$missing " in
        *" $service "*) ! has systemctl || systemctl --quiet disable $service >/dev/null 2>&1 || true ;;
        esac
    done
}

install_packages() {
    say "installing$missing"
    forbidden=
    forbid_services
    apt-get -qq update >/dev/null || say "apt-get update failed; going on with the package lists at hand"
    # shellcheck disable=SC2086  # one word a package
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends $missing >/dev/null ||
        say "apt-get could not install all of them"
    keep_disabled
    permit_services
}

look_for_packages
if [ -n "$missing" ] && is_debian && [ "$(id -u)" = 0 ]; then
    install_packages
    look_for_packages
fi
if [ -n "$missing" ] && is_debian; then
    say "system packages are missing. To install them:"
    echo "sudo apt-get install --no-install-recommends$missing" >&2
    say "until then:$without"
elif [ -n "$missing" ]; then
    say "this system lacks what Debian calls$missing; install it by its name here. Until then:$without"
fi
[ "$python" != false ] || fail "Python 3.11 or later is needed: Debian 12, Ubuntu 24.04 or newer have it"
has_venv || fail "python3-venv is needed to go on"

# The virtual environment

is_fresh() { # made from these very files, in this folder, by a Python that is still there
    [ -e $stamp ] && [ "$(cat $stamp)" = "$PWD" ] && $venv/bin/python -c '' 2>/dev/null &&
        [ -z "$(find requirements-dev.txt packaging/setup.sh -newer $stamp)" ]
}

pip() { $venv/bin/python -m pip -qq --disable-pip-version-check "$@" >&2; }

if ! is_fresh; then
    say "making $venv with $("$python" --version) (a few hundred megabytes, once)"
    rm -f $stamp $installed
    if [ ! -x $venv/bin/python ] || ! $venv/bin/python -m pip --version >/dev/null 2>&1 ||
        ! grep -qsF "$PWD/$venv" $venv/bin/activate; then
        "$python" -m venv --clear $venv
    fi
    pip install --require-hashes -r requirements-dev.txt ||
        fail "pip could not install requirements-dev.txt; is a package index within reach?"
    echo "$PWD" >$stamp
fi

# Plughole itself. The tests run from the checkout and do not need it

is_installed() { # from these very sources
    [ -x $venv/bin/plughole ] && [ -e $installed ] &&
        [ -z "$(find setup.py pyproject.toml $stamp console core detectors egress feeds journal resolver \
            \( -name '*.py' -o -name '*.toml' -o -name '*.txt' -o -name .setup-done \) -newer $installed)" ]
}

if [ "$for_tests" = test ] || is_installed; then exit 0; fi
rm -rf build/lib* build/bdist* # else modules that are gone would be installed again
if has cc && has_headers; then # half a minute of patience buys a third of the CPU time of a miss
    say "compiling the hot modules"
    PLUGHOLE_COMPILE=1 pip install --no-deps --no-build-isolation --force-reinstall . ||
        fail "the hot modules do not compile; without a compiler (\`cc\`) they run as plain Python"
else
    pip install --no-deps --no-build-isolation --force-reinstall .
fi
touch $installed
say "done: $venv/bin/plughole"
