#!/bin/bash
# test: timeout=240
# User namespaces of a container's own (--userns): ids inside are others outside, and nothing on disk changes its owner for it.
. "$(dirname "$0")/run_lib.sh"
busybox_image busybox 'CMD ["/bin/sh"]'

owner() { stat -c %u:%g "$1"; } # of a file of the host
host_uid() { # NAME: what root of the container is on the host
        awk '/^Uid:/ { print $2 }' "/proc/$(strata inspect -f '{{.State.Pid}}' "$1")/status"
}
volume() { echo "$STRATA_ROOT/volumes/$1/_data"; }

mkdir "$TMPDIR/dir"
touch "$TMPDIR/dir/mine"
chown 1000:1000 "$TMPDIR/dir/mine"
run --userns auto busybox true
[[ $errors != *"no id-mapped mounts"* ]] || skip_all "$errors"

# --- from both sides -----------------------------------------------------------------------------------------------------------

strata run -d --name one --userns auto -v data:/data -v "$TMPDIR/dir:/mapped:idmap" -v "$TMPDIR/dir:/plain" \
        --mount "type=bind,src=$TMPDIR/dir,dst=/words,idmap" busybox sleep 1000 >/dev/null
strata run -d --name two --userns auto busybox sleep 1000 >/dev/null
uid=$(host_uid one)
is "root inside" "$(strata exec one id -u)" 0
ok "is somebody else outside" test "$uid" -ge 1879048192
ok "and in another container yet somebody else" test "$(host_uid two)" -ge $((uid + 65536))
is "a whole range is mapped" "$(strata exec one cat /proc/self/uid_map | tr -s ' ')" " 0 $uid 65536"
is "files of the image are root's" "$(strata exec one stat -c %u:%g /bin/busybox /etc /data/seed | tr '\n' ' ')" "0:0 0:0 0:0 "
is "and of who the image says" "$(strata exec one stat -c %u:%g /home/user)" 1000:1000
ok "root can change them" strata exec one sh -c 'echo a >>/bin/not-executable && chown 1000:2000 /bin/not-executable && touch /new'
is "without a trace of the host's ids" "$(find "$STRATA_ROOT/images" "$STRATA_ROOT/volumes" -uid +60000 -o -gid +60000 | wc -l)" 0
ok "files of /etc are the container's to change" strata exec one sh -c 'echo 10.1.2.3 more >>/etc/hosts'
is "a volume is shifted: inside" "$(strata exec one sh -c 'touch /data/n; chown 7:8 /data/n; stat -c %u:%g /data/n')" 7:8
is "a volume is shifted: outside" "$(owner "$(volume data)/n") $(owner "$(volume data)/seed")" "7:8 0:0"
is "idmap: inside" "$(strata exec one stat -c %u:%g /mapped/mine)" 1000:1000
is "idmap by --mount" "$(strata exec one stat -c %u:%g /words/mine)" 1000:1000
ok "idmap: root writes" strata exec one touch /mapped/theirs
is "idmap: outside" "$(owner "$TMPDIR/dir/theirs") $(owner "$TMPDIR/dir/mine")" "0:0 1000:1000"
is "without it: nobody's" "$(strata exec one stat -c %u:%g /plain/mine)" 65534:65534
# shellcheck disable=SC2016 # for the inner shell
ok "which root cannot write to" bash -c '! "$1" exec one touch /plain/no 2>/dev/null' _ "$STRATA"

# --- rights ---------------------------------------------------------------------------------------------------------------------

gateway=$(strata inspect -f '{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}' one)
ok "its network namespace is its own: ping" has "$(strata exec one ping -c 1 -W 2 "$gateway")" "1 packets received"
run --userns auto --user user -p 8099:80 busybox sh -c 'id -u; id -g; cat /proc/self/gid_map'
ok "a user of the image" has "$out" 1000
run --userns auto busybox sh -c 'echo again >/dev/stdout'
is "stdout can be opened again" "$out" again
run --userns auto --cap-add SYS_ADMIN --security-opt seccomp=unconfined busybox sh -c 'mount -t tmpfs t /tmp && mknod /tmp/d b 8 0'
ok "capabilities are those of its namespace: no devices" test "$status" != 0
run --userns auto --read-only busybox touch /x
ok "--read-only" test "$status" != 0
run -t --userns auto busybox tty
ok "a terminal" has "$out" /dev/pts/0
run --userns auto --network container:two busybox ip -4 -o addr show eth0
ok "another's network" has "$out" inet

# --- copies ---------------------------------------------------------------------------------------------------------------------

echo hello >"$TMPDIR/file"
chown 1234:1235 "$TMPDIR/file"
strata cp "$TMPDIR/file" one:/data/copied
strata cp -a "$TMPDIR/file" one:/data/kept
is "cp in: root's" "$(strata exec one stat -c %u:%g /data/copied)" 0:0
is "cp -a in: whose it was" "$(strata exec one stat -c %u:%g /data/kept)" 1234:1235
strata cp -a one:/data/kept "$TMPDIR/back"
is "cp -a out" "$(owner "$TMPDIR/back")" 1234:1235
is "export has the container's ids" "$(strata export one | tar -tvf - --numeric-owner bin/not-executable | awk '{ print $2 }')" 1000/2000
strata commit one changed >/dev/null
run changed stat -c %u:%g /bin/not-executable
is "an image of it has them, too" "$out" 1000:2000
strata restart -t 0 one >/dev/null
is "kept over a restart" "$(strata exec one stat -c %u:%g /bin/not-executable) $(host_uid one)" "1000:2000 $uid"

# --- maps by hand ----------------------------------------------------------------------------------------------------------------

run --userns 0:300000:10,1000:400000:5 busybox sh -c 'tr -s " " </proc/self/uid_map'
is "UID:HOST:N, several" "$out" $' 0 300000 10\n 1000 400000 5'
run --userns auto:size=70000 busybox sh -c 'tr -s " " </proc/self/uid_map'
ok "auto:size=N" has "$out" " 70000"
run --userns host busybox cat /proc/self/uid_map
ok "host" has "$out" 4294967295
for wrong in 0 0:1 0:1:0 1:1:1 0:5:1,0:9:1 0:5:2,7:6:1 0:4294967290:100 auto:5 x '0:1:1,' -1:2:3; do
        run --userns "$wrong" busybox true
        is "'$wrong' is refused" "$status" 125
done
run --userns auto --network host busybox true
ok "--network host excludes it" has "$errors" "--network host"
run --userns auto --privileged busybox true
ok "--privileged excludes it" has "$errors" "--privileged"
run -v "$TMPDIR/dir:/x:idmap" busybox true
ok "idmap needs it" has "$errors" "user namespace"
run --userns auto -v /proc:/x:idmap busybox true
ok "a file system without: the error names the mount" has "$errors" "/x"

strata rm -f one two >/dev/null
strata volume rm data >/dev/null
is "nobody's directory changed its owner" "$(owner "$TMPDIR/dir") $(owner "$TMPDIR/dir/mine")" "0:0 1000:1000"
ok "nothing is left" strata system check
done_testing
