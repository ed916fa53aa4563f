# Arguments: rules to load, file that restores the table as it is now, seconds until that happens.
# The file belongs to who takes it first: the timer, which loads it, or the confirmation, which removes it.
set -eu
PATH=$PATH:/usr/sbin:/sbin
rules=$1 undo=$2 seconds=$3 unit=nftables-airflow-undo
{
    echo 'table inet airflow'
    echo 'delete table inet airflow'
    # Before the first load there is none. Numbers, because a minimal host has no /etc/protocols.
    nft --numeric list table inet airflow 2>/dev/null || true
} >"$undo"
systemd-run --quiet --collect --unit="$unit" --on-active="$seconds" --timer-property=AccuracySec=1s \
    /bin/sh -c "mv '$undo' '$undo.taken' && $(command -v nft) --file '$undo.taken'"
if ! nft --file "$rules"; then
    rm "$undo"
    systemctl stop "$unit.timer"
    exit 1
fi
