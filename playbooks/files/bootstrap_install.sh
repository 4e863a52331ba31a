# shellcheck shell=sh
# Sent to a host that has no python3 yet: installs what is missing of python3, python3-apt and sudo.
# With CHECK=yes it only says what is missing.
set -e
# su keeps the path of the user who called it, which lacks what dpkg needs.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
DEBIAN_FRONTEND=noninteractive
export PATH DEBIAN_FRONTEND
set --
for package in python3 python3-apt sudo; do
    dpkg-query --show --showformat='${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || set -- "$@" "$package"
done
[ "$#" -gt 0 ] || exit 0
if [ "$CHECK" != yes ]; then
    # The disc of the installer is no longer in the drive.
    sed -i 's/^deb cdrom:/# &/' /etc/apt/sources.list 2>/dev/null || true
    apt-get -qq update
    apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install --yes --no-install-recommends "$@" >/dev/null
fi
echo "bootstrap: missing $*"
