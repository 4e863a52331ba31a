# shellcheck shell=bash
# Runs NVIDIA's installer of a driver, and says in one sentence why it failed. Piped to bash:
#   FILE VERSION proprietary|open DISPLAY(True|False)
# The options and the branches they came with are those of github.com/NVIDIA/nvidia-installer.
set -euo pipefail
file=$1 version=$2 kind=$3 display=$4
branch=${version%%.*}
log=/var/log/nvidia-installer.log
options=(--silent --dkms --no-questions --no-x-check --no-nouveau-check)

die() {
  printf '%s\n' "$*" >&2
  exit 1
}

if ((branch >= 555)); then
  options+=("--kernel-module-type=$kind")
elif ((branch >= 515)); then
  if [[ $kind == open ]]; then folder="kernel-open"; else folder="kernel"; fi
  options+=("--kernel-module-build-directory=$folder")
fi
[[ $display == True ]] || options+=(--no-opengl-files)

# It builds for the running kernel, unless that has no headers (a container's, or one that an upgrade has taken away):
# then for the newest that has. DKMS builds the module of the others.
if [[ ! -e /lib/modules/$(uname -r)/build/Makefile ]]; then
  kernel="$(find /lib/modules -mindepth 2 -maxdepth 2 -name build -printf '%h\n' | sort --version-sort | tail -n 1)"
  [[ -n $kernel ]] || die "no kernel has its headers installed; install linux-headers-amd64 and run again."
  options+=("--kernel-name=${kernel##*/}")
fi
# The module cannot be tried while another one holds the card, nor before DKMS has signed it for Secure Boot: the role
# tries it afterwards.
if ((branch >= 550)); then
  options+=(--skip-module-load)
elif [[ -e /sys/module/nvidia ]]; then
  # These installers take the old module out themselves, unless it is in use.
  systemctl stop nvidia-persistenced.service 2>/dev/null || true
fi
if ((branch >= 545)); then
  options+=(--allow-installation-with-running-driver --no-rebuild-initramfs)
fi

# It unpacks itself where it may run programs: /tmp is often mounted noexec.
TMPDIR="$(mktemp -d "$(dirname "$file")/unpack.XXXXXX")"
export TMPDIR
rm -f "$log"
status=0
sh "$file" "${options[@]}" >"$TMPDIR/output" 2>&1 </dev/null || status=$?
if ((status != 0)); then
  # The first line with an error is the reason, the later ones say that there was one.
  reason="$(grep -h -m 1 -o 'ERROR: .*' "$log" "$TMPDIR/output" 2>/dev/null | head -n 1 | cut -c 8-300 || true)"
  [[ -n $reason ]] || reason="$(tail -n 1 "$TMPDIR/output" | cut -c -300)"
  [[ $reason != *"already be loaded"* ]] ||
    die "the running driver is in use, so driver $version cannot take its place; stop what uses the card (fuser -v /dev/nvidia*)," \
      "or run with nvidia_driver_state: absent, reboot and run again."
  die "NVIDIA's installer of driver $version failed with status $status (${reason%.}); read $log there, and try a driver that is" \
    "made for this kernel and this card."
fi
