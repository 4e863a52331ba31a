#!/usr/bin/env bash
# Says as JSON what the preflight has to know, in one go. Changes nothing.
# Read from standard input: bash -s PORT SERVICE-USER [PERSON...]
set -uo pipefail
port=$1 user=$2
shift 2

pids=$(ss -Hltnp "sport = :$port" | grep -o 'pid=[0-9]*' | cut -d= -f2 | sort -u | paste -sd,)
listeners=""
if [[ -n $pids ]]; then
  while read -r line; do
    listeners+="${listeners:+,}\"$line\""
  done < <(ps -o unit=,pid=,comm= -p "$pids" | tr -s ' ' | tr -cd '[:alnum:]._@ \n-')
fi

strangers=""
for person in "$@"; do
  getent passwd "$person" >/dev/null || strangers+="${strangers:+,}\"$person\""
done

printf '{"listeners": [%s], "uid": %s, "unknown": [%s], "cpu": "%s"}\n' "$listeners" \
  "$(getent passwd "$user" | cut -d: -f3 | grep . || echo -1)" "$strangers" \
  "$(grep -m 1 '^flags' /proc/cpuinfo | cut -d: -f2)"
