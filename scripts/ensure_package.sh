#!/bin/sh
# Install a Debian package unless one of the programs (names, or patterns of paths) is there:
#
#   scripts/ensure_package.sh chromium chromium chromium-browser google-chrome
#
# Looks only, and says nothing, where there is nothing to do. When it cannot install it says why in one line on stdout,
# and its exit status is 1; what apt-get says goes to stderr.
set -u
package=$1
shift

is_here() {
    for program in "$@"; do
        command -v "$program" >/dev/null && return
    done
    return 1
}

install() {
    # Somebody else may be installing something: wait for them. But not long for a network that is not there.
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::http::Timeout=30 \
        install -qq -y --no-install-recommends "$package" </dev/null >&2
}

# shellcheck disable=SC2068 # patterns become paths
is_here $@ && exit
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "$package: not here, and only root can install it, with apt-get"
    exit 1
fi
printf '\n=== Installing %s\n' "$package" >&2
if ! install; then # the lists of packages may be old, or not there at all
    apt-get -o Acquire::http::Timeout=30 update -qq </dev/null >&2
    install
fi
# shellcheck disable=SC2068
is_here $@ && exit
echo "$package: could not be installed, the reason is above"
exit 1
