#!/bin/sh
# Mount SRC for a moment by NFS VERSION, in the mount namespace of this process, and write there as UID:GID. What STEP adds:
#   leave        leave a file behind, a mark, with which another host proves that it sees the same share
#   look MARK    look for that mark; without a name, for none
#   remove MARK  remove the mark, and write nothing else
#   make MARK    remove the mark, and make the file GUARD, which has the share's identity and without which nothing is published
# Prints `mark NAME`, `identity TEXT` (none without GUARD), `made`, or with code 12 `port N`, with code 13 `accepts VERSION`.
# Needs no package: the kernel mounts NFS by itself when it is given the address.
# Exit codes: 11 the server's name is unknown, 12 it does not answer, 13 it refuses the mount, 14 UID cannot write, 15 there
# are no hard links (with which a file gets its name without replacing another), 16 MARK is not there: it is another share.
set -u
src=$1 uid=$2 gid=$3 version=$4 guard=$5 step=$6 mark=${7:-}
server=${src%%:/*}
server=${server#\[} server=${server%\]}

answers() {
    timeout 30 python3 -c 'import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 4)' "$address" "$1" 2>/dev/null
}

mount_by() {
    type=nfs4 options=
    # Without locks, which would need rpc.statd(8) here.
    [ "$1" != 3 ] || type=nfs options=,nolock,proto=tcp,mountproto=tcp
    mount -i -t "$type" -o "vers=$1,addr=$address,soft,timeo=50,retrans=2,noexec,nosuid$options" "$src" "$directory"
}

address=$({ getent ahostsv4 "$server" || getent ahosts "$server"; } | awk '{ print $1; exit }')
[ -n "$address" ] || exit 11
ports=2049
# NFS 3 asks rpcbind for the port of mountd.
[ "$version" != 3 ] || ports="2049 111"
for port in $ports; do
    answers "$port" || { echo "port $port"; exit 12; }
done
directory=$(mktemp -d)
if ! mount_by "$version"; then
    for other in 4.2 4.1 4.0 3; do
        [ "$other" != "$version" ] || continue
        [ "$other" != 3 ] || answers 111 || continue
        if mount_by "$other" 2>/dev/null; then
            echo "accepts $other"
            umount "$directory"
            break
        fi
    done
    rmdir "$directory"
    exit 13
fi
setpriv --reuid "$uid" --regid "$gid" --clear-groups \
    sh -c 'guard=$2 step=$3 mark=$4 written=0
        cd "$1" || exit 14
        # Other hosts try at the same time.
        own=.airflow-probe-$(cat /proc/sys/kernel/random/uuid)
        case $step in
            remove | make) rm -f "$mark" || exit 14 ;;
            *)
                touch "$own" || exit 14
                ln "$own" "$own-2" || written=15
                rm -f "$own-2" || exit 14
                if [ "$step $written" = "leave 0" ]; then
                    echo "mark $own"
                    # Of attempts that were interrupted.
                    find . -maxdepth 1 -name ".airflow-probe-*" -mmin +60 -delete
                else
                    rm "$own" || exit 14
                fi
                ;;
        esac
        if [ "$step" = make ] && ! [ -e "$guard" ]; then
            # Whole or not at all, and never over another: somebody else may have been quicker.
            cat /proc/sys/kernel/random/uuid >"$own" && chmod 0440 "$own" || exit 14
            ln "$own" "$guard" 2>/dev/null && echo made
            rm -f "$own"
        fi
        echo "identity $(head -c 100 "$guard" 2>/dev/null | head -n 1)"
        if [ "$step" = look ] && [ -n "$mark" ] && ! [ -e "$mark" ]; then exit 16; fi
        exit "$written"' sh "$directory" "$guard" "$step" "$mark"
written=$?
umount "$directory"
rmdir "$directory"
case $written in 0 | 15 | 16) exit "$written" ;; esac
exit 14
