# What a host is, as lines of key=value, for playbooks/report.yml. It needs neither Python nor root, and it writes nothing.
# Given in the environment: DATA_DIR, ENGINE_FILE, and ROOT, below which a test keeps the files of another machine.
# shellcheck shell=sh source=/etc/os-release

cpu_value() { sed -n "s/^$1[[:space:]]*:[[:space:]]*//p" "$ROOT/proc/cpuinfo" | head -n 1; }
memory_mib() { awk -v key="$1:" '$1 == key { print int($2 / 1024) }' "$ROOT/proc/meminfo"; }
has_flag() {
  case " $(cpu_value flags) " in
    *" $1 "*) echo yes ;;
    *) echo no ;;
  esac
}

# The name of a card from the list that pciutils brings, and its numbers where there is no list.
card_name() {
  [ -r "$ROOT/usr/share/misc/pci.ids" ] || { echo "($1:$2)"; return; }
  awk -v vendor="$1" -v device="$2" '
    /^#/ { next }
    /^[0-9a-f]/ { inside = ($1 == vendor) }
    inside && /^\t[0-9a-f]/ && $1 == device { sub(/^\t[0-9a-f]+ +/, ""); print; found = 1; exit }
    END { if (!found) print "(" vendor ":" device ")" }
  ' "$ROOT/usr/share/misc/pci.ids" | sed 's/.*\[\(.*\)\].*/\1/'
}

vendor_name() {
  case "$1" in
    10de) echo NVIDIA ;;
    1002) echo AMD ;;
    8086) echo Intel ;;
    102b) echo Matrox ;;
    1a03) echo ASPEED ;;
    1013 | 1234 | 15ad | 1af4 | 1b36 | 80ee) echo virtual ;;
    *) echo "vendor $1" ;;
  esac
}

echo "system=$(. "$ROOT/etc/os-release" && echo "$NAME")"
echo "release=$(. "$ROOT/etc/os-release" && echo "${VERSION_ID:-}")"
echo "point_release=$(cat "$ROOT/etc/debian_version" 2>/dev/null)"
echo "architecture=$(uname -m)"
if command -v python3 >/dev/null; then echo "python=yes"; else echo "python=no"; fi
echo "cpu=$(cpu_value 'model name')"
echo "threads=$(grep -c '^processor' "$ROOT/proc/cpuinfo")"
echo "cores=$(lscpu -p=core,socket 2>/dev/null | grep -v '^#' | sort -u | wc -l)"
echo "avx=$(has_flag avx)"
echo "avx2=$(has_flag avx2)"
echo "f16c=$(has_flag f16c)"
echo "memory_mib=$(memory_mib MemTotal)"
echo "swap_mib=$(memory_mib SwapTotal)"

# Before the installation the data directory does not exist; the volume that will hold it does.
volume="$DATA_DIR"
while [ ! -d "$volume" ] && [ "$volume" != / ]; do volume="$(dirname "$volume")"; done
echo "disk_free_mib=$(df -Pm "$volume" | awk 'NR == 2 { print $4 }')"
echo "disk_mount=$(df -Pm "$volume" | awk 'NR == 2 { print $6 }')"

# Class 03 is the display controllers. The bus shows a card that has no driver.
for device in "$ROOT"/sys/bus/pci/devices/*; do
  case "$(cat "$device/class" 2>/dev/null)" in
    0x03*)
      vendor="$(sed 's/^0x//' "$device/vendor")"
      model="$(sed 's/^0x//' "$device/device")"
      driver="$(basename "$(readlink "$device/driver" || echo none)")"
      echo "gpu=$(vendor_name "$vendor") $(card_name "$vendor" "$model"), driver $driver"
      ;;
  esac
done

if [ -r "$ENGINE_FILE" ]; then
  echo "engine_file=$(tr -d '\n' <"$ENGINE_FILE")"
elif [ -e "$ENGINE_FILE" ]; then
  echo "engine_file=unreadable"
fi
if [ -r "$ROOT/etc/sd-webui/profile" ]; then
  echo "profile=$(head -n 1 "$ROOT/etc/sd-webui/profile")"
fi

# What sd-profile or the watchdog has laid over it, while that is in force.
override="$ROOT/var/lib/sd-webui/profile-override.json"
first_value() { tr -d '\n' <"$override" | grep -o "\"$1\": *[^,}]*" | head -n 1 | sed 's/^[^:]*: *//; s/"//g; s/[.].*//'; }
if [ -r "$override" ]; then
  case "$(first_value expires)" in
    '' | *[!0-9]*) echo "override=$(first_value profile)" ;;
    *) [ "$(first_value expires)" -le "$(date +%s)" ] || echo "override=$(first_value profile)" ;;
  esac
fi

if [ -r "$ROOT/etc/sd-gateway/gateway.json" ]; then
  echo "gateway_file=$(tr -d '\n' <"$ROOT/etc/sd-gateway/gateway.json")"
  echo "gateway_unit=$(systemctl is-active sd-gateway.service 2>/dev/null)"
fi

# One word of the watchdog's own, when it is not older than its supervisor would let it become.
status="$ROOT/run/sd-watchdog/status.json"
if [ -n "$(find "$status" -mmin -2 2>/dev/null)" ]; then
  echo "watchdog=$(sed -n 's/^ *"state": *"\([a-z]*\)".*/\1/p' "$status" | head -n 1)"
elif [ -e "$ROOT/usr/local/lib/sd-watchdog" ]; then
  echo "watchdog=silent"
fi
