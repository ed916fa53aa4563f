#!/bin/sh
# Mount SRC for a moment, in the mount namespace of this process, and write there as UID:GID, with the option VERS (vers=4.2).
# The file GUARD there says which share it is, and nothing is published without it. MODE is `make`, to create that file, or `look`.
# Needs no package: the kernel mounts NFSv4 by itself when it is given the address.
# Exit codes: 11 the server's name is unknown, 12 it does not answer, 13 it refuses the mount, 14 UID cannot write, 15 there
# are no hard links (with which a file gets its name without replacing another), 16 GUARD says that it is another share.
set -u
src=$1 uid=$2 gid=$3 vers=$4 mode=$5 guard=$6
server=${src%%:*}

address=$({ getent ahostsv4 "$server" || getent ahosts "$server"; } | awk '{ print $1; exit }')
[ -n "$address" ] || exit 11
timeout 30 python3 -c 'import socket, sys; socket.create_connection((sys.argv[1], 2049), 4)' "$address" 2>/dev/null || exit 12
directory=$(mktemp -d)
if ! mount -i -t nfs4 -o "$vers,addr=$address,soft,timeo=50,retrans=2,noexec,nosuid" "$src" "$directory"; then
    rmdir "$directory"
    exit 13
fi
setpriv --reuid "$uid" --regid "$gid" --clear-groups \
    sh -c 'cd "$1" || exit 14
        # Other hosts try at the same time.
        own=$(cat /proc/sys/kernel/random/uuid)
        touch ".airflow-probe-$own" || exit 14
        ln ".airflow-probe-$own" ".airflow-probe-$own-2" || written=15
        rm ".airflow-probe-$own"* || exit 14
        # Whole or not at all, and never over another.
        if [ "$3" = make ] && ! [ -e "$4" ]; then
            printf "%s\n" "$2" >"$4-$own" && chmod 0440 "$4-$own" || exit 14
            # Another host may have been quicker.
            ln "$4-$own" "$4" 2>/dev/null && echo made
            rm -f "$4-$own"
        fi
        if [ -e "$4" ] && [ "$(cat "$4")" != "$2" ]; then cat "$4"; written=16; fi
        exit "${written:-0}"' sh "$directory" "$src" "$mode" "$guard"
written=$?
umount "$directory"
rmdir "$directory"
case $written in 0 | 15 | 16) exit "$written" ;; esac
exit 14
