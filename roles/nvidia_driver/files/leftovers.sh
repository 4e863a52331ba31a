#!/usr/bin/env bash
# leftovers.sh KEEP_KEY KERNEL... - removes what DKMS and depmod leave behind when they are gone, and names each thing removed:
# the signing key (KEEP_KEY is yes where the firmware knows it, so that it serves again), and the indexes of kernels of
# which only the headers were here.
set -u
keep_key=$1
shift

if ! dpkg-query --show --showformat='${db:Status-Status}' dkms 2>/dev/null | grep -qx installed; then
  if [[ $keep_key != yes && -e /var/lib/dkms/mok.key ]]; then
    rm -f /var/lib/dkms/mok.key /var/lib/dkms/mok.pub
    echo /var/lib/dkms/mok.key
  fi
  rmdir /var/lib/dkms 2>/dev/null && echo /var/lib/dkms
fi

for kernel in "$@"; do
  folder=/lib/modules/$kernel
  [[ -d $folder && ! -e $folder/kernel && ! -e $folder/build ]] || continue
  find "$folder" -maxdepth 1 -name 'modules.*' -delete
  rmdir "$folder" 2>/dev/null && echo "$folder"
done
(($# == 0)) || rmdir /lib/modules 2>/dev/null
true
