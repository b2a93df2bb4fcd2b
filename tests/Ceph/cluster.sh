#!/bin/bash
# A Ceph of one node on loopback, everything in memory: what tests need of a real object store and a real distributed
# file system. Says "ready", and ends with its standard input, also when whoever started it was killed.
#   cluster.sh DIRECTORY MON_PORT RGW_PORT KEYS CEPH: KEYS are an access key and a secret, separated by a colon; CEPH
#   is the folder that 'godwit-lab ceph' names
set -euo pipefail
cd "$1"
mon_port=$2 rgw_port=$3 keys=$4 ceph=$5
libraries=$ceph/usr/lib/x86_64-linux-gnu
export PATH=$ceph/usr/bin:$PATH LD_LIBRARY_PATH=$libraries:$libraries/ceph:$ceph/lib/x86_64-linux-gnu
processes=()
end() {
    trap - EXIT
    # What bash has to say about their end is of no use to anybody.
    exec 2>/dev/null
    kill -KILL "${processes[@]}" || true
    wait || true
}
trap end EXIT
trap 'exit 1' INT TERM
run() {
    "$@" >>processes.log 2>&1 </dev/null &
    processes+=($!)
}
# The client in Python takes a second for each word; all of them go through one.
ask() {
    PYTHONHOME=$ceph/usr PYTHONPATH=$ceph/usr/lib/python3/dist-packages \
        python3.11 "$ceph/usr/bin/ceph" -c "$PWD/ceph.conf" --connect-timeout 120 >>processes.log 2>&1
}

id=$(cat /proc/sys/kernel/random/uuid)
cat >ceph.conf <<CONF
[global]
fsid = $id
# From it clients know the cluster's id: who learns it from the monitor may ask before that, and is refused ("wrong
# fsid"). The OSD does not look at it, so it is kept from asking; its place in the map is given to it below.
monmap = $PWD/monmap
osd crush update on start = false
osd class update on start = false
auth cluster required = none
auth service required = none
auth client required = none
public addr = 127.0.0.1
ms bind ipv6 = false
run dir = $PWD
admin socket = $PWD/\$name.asok
log file = $PWD/\$name.log
keyring = /dev/null
erasure code dir = $libraries/ceph/erasure-code
plugin dir = $libraries/ceph
osd class dir = $libraries/rados-classes
mon data = $PWD/mon
mon data avail crit = 0
mon data avail warn = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
mgr initial modules =
osd data = $PWD/osd
osd objectstore = memstore
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
memstore device bytes = 2147483648
mds data = $PWD/mds
rgw data = $PWD/rgw
rgw frontends = beast endpoint=127.0.0.1:$rgw_port
rgw thread pool size = 32
rgw enable usage log = false
rgw gc max objs = 4
rgw usage max shards = 1
rgw data log num shards = 1
rgw md log max shards = 1
rgw lc max objs = 1
rgw reshard num logs = 1
rgw num rados handles = 1
CONF
mkdir mon osd mds rgw
monmaptool --create --addv a "[v1:127.0.0.1:$mon_port]" --fsid "$id" monmap >>processes.log
ceph-mon -c ceph.conf --mkfs -i a --monmap monmap >>processes.log 2>&1
run ceph-mon -c ceph.conf -f -i a
osd=$(cat /proc/sys/kernel/random/uuid)
ask <<COMMANDS
osd new $osd
osd crush add osd.0 1 root=default host=localhost
COMMANDS
ceph-osd -c ceph.conf --mkfs -i 0 --osd-uuid "$osd" >>processes.log 2>&1
run ceph-osd -c ceph.conf -f -i 0
run ceph-mds -c ceph.conf -f -i a
run radosgw -c ceph.conf -f -n client.rgw
ask <<COMMANDS
osd pool create files 4
osd pool create names 4
fs new files names files
COMMANDS
timeout 240 radosgw-admin -c ceph.conf user create --uid=godwit --display-name=godwit \
    --access-key="${keys%%:*}" --secret-key="${keys#*:}" >>processes.log 2>&1
until (: <"/dev/tcp/127.0.0.1/$rgw_port") 2>/dev/null; do
    # One by one: of several it is enough for 'kill' that one is there.
    for process in "${processes[@]}"; do kill -0 "$process"; done
    sleep 0.1
done
echo ready
cat >/dev/null
