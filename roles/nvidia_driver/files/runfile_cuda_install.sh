# shellcheck shell=bash
# Runs the CUDA Toolkit's installer, and says in one sentence why it failed. Piped to bash: FILE VERSION RECORD
set -euo pipefail
file=$1 version=$2 record=$3
log=/var/log/cuda-installer.log

die() {
  printf '%s\n' "$*" >&2
  exit 1
}

TMPDIR="$(mktemp -d "$(dirname "$file")/unpack.XXXXXX")"
export TMPDIR
mkdir -p "$(dirname "$record")"
printf '/usr/local/cuda-%s\n' "$version" >"$record"
status=0
# Debian's compiler is newer than the one that NVIDIA has tried, which --override accepts.
sh "$file" --silent --toolkit --override "--tmpdir=$TMPDIR" >"$TMPDIR/output" 2>&1 </dev/null || status=$?
if ((status != 0)) || [[ ! -e /usr/local/cuda-$version/version.json ]]; then
  reason="$(grep -h -m 1 -o '\[ERROR\]: .*' "$log" 2>/dev/null | cut -c 10-300 || true)"
  [[ -n $reason ]] || reason="$(tail -n 1 "$TMPDIR/output" | cut -c -300)"
  die "the installer of the CUDA toolkit $version failed with status $status (${reason%.}); read $log there, or leave" \
    "nvidia_driver_cuda_toolkit off, as PyTorch brings its own CUDA."
fi
