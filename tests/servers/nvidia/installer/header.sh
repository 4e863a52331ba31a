#!/bin/sh
# Stands in for the self-extracting part of NVIDIA's installers: checks itself, unpacks itself and runs what it holds.
label='@LABEL@'
program='@PROGRAM@'
lines=@LINES@
checksum='@CHECKSUM@'

payload() { tail -n "+$((lines + 1))" "$0"; }

check() {
    if [ "$(payload | cksum)" != "$checksum" ]; then
        echo "Error in MD5 checksums: $(payload | cksum | cut -d' ' -f1) is different from ${checksum%% *}" >&2
        exit 1
    fi
}

case $1 in
    --info)
        echo "  Identification    : $label"
        exit 0
        ;;
    --check)
        check
        echo "check sums and CRC are OK"
        exit 0
        ;;
    --extract-only | -x)
        folder="$(basename "$0" .run)"
        mkdir "$folder" && payload | tar -xz -C "$folder"
        exit
        ;;
esac

check
folder="$(mktemp -d "${TMPDIR:-/tmp}/selfgz.XXXXXX")" || exit 1
trap 'rm -rf "$folder"' EXIT
echo "Verifying archive integrity... OK"
echo "Uncompressing $label"
payload | tar -xz -C "$folder" || exit 1
(cd "$folder" && "./$program" "$@")
exit
