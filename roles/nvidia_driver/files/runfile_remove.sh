# shellcheck shell=bash
# Removes what NVIDIA's installers have put here, and prints each thing that went. Piped to bash: CUDA_RECORD
set -euo pipefail
shopt -s nullglob
record=$1

owned() { dpkg-query --search "$1" >/dev/null 2>&1; }

gone() {
  local path
  for path in "$@"; do
    [[ -e $path || -L $path ]] || continue
    ! owned "$path" || continue
    rm -rf "$path"
    printf '%s\n' "$path"
  done
}

versions=()
[[ ! -r /var/lib/nvidia/log ]] || versions+=("$(head -n 1 /var/lib/nvidia/log)")
if [[ -x /usr/bin/nvidia-uninstall ]] && ! owned /usr/bin/nvidia-uninstall; then
  # Its exit status says nothing: it is 0 even after a failure.
  /usr/bin/nvidia-uninstall --silent </dev/null >/dev/null 2>&1 || true
  [[ -e /usr/bin/nvidia-uninstall ]] || printf '%s\n' /usr/bin/nvidia-uninstall
fi

# What it has left, by the version that it had installed: no file of a package and of no other driver.
for version in "${versions[@]}"; do
  if command -v dkms >/dev/null && [[ -n $(dkms status -m nvidia -v "$version" 2>/dev/null) ]]; then
    dkms remove -m nvidia -v "$version" --all >/dev/null 2>&1 || true
    printf 'nvidia/%s of DKMS\n' "$version"
  fi
  gone "/usr/src/nvidia-$version" "/var/lib/dkms/nvidia/$version" /usr/lib/x86_64-linux-gnu/*.so."$version"
  rmdir --ignore-fail-on-non-empty /var/lib/dkms/nvidia 2>/dev/null || true
  gone /usr/bin/nvidia-{bug-report.sh,debugdump,installer,modprobe,persistenced,settings,sleep.sh,smi,uninstall,xconfig}
  gone /var/lib/nvidia
done
gone /var/log/nvidia-installer.log /var/log/nvidia-uninstall.log {/etc,/usr/lib}/modprobe.d/nvidia-installer-disable-nouveau.conf

if [[ -r $record ]]; then
  path="$(cat "$record")"
  # Only what the record names, and only where CUDA goes.
  if [[ $path == /usr/local/cuda-[0-9]* ]]; then
    gone "$path" "/etc/ld.so.conf.d/cuda-$(basename "$path" | sed 's/^cuda-//; s/\./-/').conf" /var/log/cuda-installer.log
    [[ ! -L /usr/local/cuda || -e /usr/local/cuda ]] || gone /usr/local/cuda
  fi
  gone "$record"
fi
ldconfig
