#!/bin/sh
# Make or re-make a swap file: make_swap.sh PATH MEGABYTES. Nothing but a whole file ever bears the final name.
set -eu
path=$1 size=$2
new="$path.new"
rm -f "$new"
umask 077
: >"$new"
# On btrfs a swap file must not be copied on write; other file systems do not know the attribute.
chattr +C "$new" 2>/dev/null || true
# Written, not reserved: the kernel refuses a swap file with holes.
if ! dd if=/dev/zero of="$new" bs=1M count="$size" conv=fsync status=none; then
    rm -f "$new"
    exit 1
fi
mkswap --label secondhand "$new" >/dev/null
if grep --quiet "^$path " /proc/swaps; then
    swapoff "$path"
fi
mv "$new" "$path"
