#!/bin/sh
# Lists every file of the host with its kind, mode, owner and size: snapshot.sh RESULT. What programs keep for themselves -
# indexes, logs, caches, the package database, backups of the account files - is left out.
find / -xdev \( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var/tmp -o -path /root/.ansible \
    -o -path /var/lib/apt -o -path /var/lib/dpkg -o -path /var/lib/ucf -o -path /var/cache -o -path /var/log -o -path /var/lib/systemd \
    -o -path '/home/*' -o -name __pycache__ -o -path '/etc/*-' -o -path /etc/group -o -path /etc/gshadow \) -prune \
    -o -type d -printf '%p %y %m %u %g\n' -o -printf '%p %y %m %u %g %s\n' | sort >"$1"
{
    cat /etc/passwd /etc/group
    dpkg-query --show --showformat='${binary:Package} ${db:Status-Abbrev}\n' | grep ii
} >>"$1"
