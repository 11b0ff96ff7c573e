#!/bin/bash
# test: timeout=240
# strata-oci checkpoint and restore: processes go on where they were, with what they had. Needs criu 4.0 or newer in PATH or
# named by $CRIU; Debian 12's is too old, then only the refusals are tested.
. "$(dirname "$0")/oci.bash"
make_bundle
CRIU=${CRIU:-criu}
image=$TMPDIR/image
criu_oci() {
        oci --criu "$CRIU" "$@"
}

# --- refusals ----------------------------------------------------------------------------------------------------------

count='echo 0 >/count; while :; do read -r n </count; echo $((n + 1)) >/count.new; busybox mv /count.new /count; sleep 0.05; done'
sh_config "$count" 'c["root"]["readonly"] = False'
counter() {
        cat "$bundle/rootfs/count"
}
differs_from() {
        [ "$(counter)" != "$1" ]
}
# Whether the counter moves on.
counts() {
        eventually differs_from "$(counter)"
}
# refused NAME TEXT COMMAND...: it fails and says TEXT.
refused() {
        local test=$1 text=$2
        shift 2
        if out=$("$@" 2>&1); then
                out="(it succeeded) $out"
        fi
        ok "$test" grep -qF -- "$text" <<<"$out" || printf '# %s\n' "$out"
}

printf '#!/bin/sh\nexit 1\n' >"$TMPDIR/no-criu"
chmod +x "$TMPDIR/no-criu"
start ref
refused "a missing criu is said" "need the criu program" oci --criu /nonexistent/criu checkpoint --image-path "$image" "$(name ref)"
refused "a program that is no criu is said" "need the criu program" oci --criu "$TMPDIR/no-criu" checkpoint --image-path "$image" "$(name ref)"
refused "restore says it too" "need the criu program" oci --criu /nonexistent/criu restore -b "$bundle" --image-path "$image" "$(name none)"
ok "a refusal leaves no image" test ! -e "$image"
ok "and the container running" counts

# What criu might say: a stand-in that speaks its protocol. $FAKE chooses what it answers.
cat >"$TMPDIR/fake-criu" <<'END'
#!/usr/bin/python3
import os, socket, sys

def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])

def message(*fields):
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out

def fields(data):
    def number():
        nonlocal data
        value = shift = 0
        while True:
            byte, data = data[0], data[1:]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
    while data:
        key = number()
        if key & 7:
            n = number()
            value, data = data[:n], data[n:]
        else:
            value = number()
        yield key >> 3, value

sock = socket.socket(fileno=int(sys.argv[2]))
how = os.environ["FAKE"]
request = list(fields(sock.recv(1 << 20)))
kind = request[0][1]
if kind == 10:
    sock.send(message((1, 10), (2, 1), (10, message((1, 3 if how == "old" else 4), (2, 17)))))
    sys.exit(0)
options = list(fields(request[1][1]))
if how == "garbage":
    sock.send(os.urandom(300))
elif how == "huge":
    sock.send(message((1, kind), (2, 1))[:-1] + b"\xff" * 20)
elif how == "error":
    sock.send(message((1, kind), (2, 0), (7, 22), (9, b"Error (criu/x.c:1): mnt: no mount here\n")))
elif how == "ok":
    with open(os.environ["FAKE_OPTIONS"], "w") as f:
        for number, value in options:
            print(number, value if isinstance(value, int) else value.decode(), file=f)
    sock.send(message((1, 6), (2, 1), (5, message((1, b"pre-dump"), (2, 1)))))
    assert list(fields(sock.recv(1 << 20)))[1] == (3, 1)
    os.kill(next(v for n, v in options if n == 2), 9)
    sock.send(message((1, kind), (2, 1)))
END
chmod +x "$TMPDIR/fake-criu"
export FAKE_OPTIONS=$TMPDIR/options
fake() {
        FAKE=$1 oci --criu "$TMPDIR/fake-criu" "${@:2}" --image-path "$image"
}
refused "a criu that is too old is said" "is too old: 4.0 or newer" fake old checkpoint "$(name ref)"
refused "what criu says is passed on" "criu dump failed: mnt: no mount here" fake error checkpoint "$(name ref)"
refused "an end without an answer is an error" "criu dump failed" fake eof checkpoint "$(name ref)"
refused "an answer that is none too" "criu" fake garbage checkpoint "$(name ref)"
refused "one that is cut off too" "criu" fake huge checkpoint "$(name ref)"
ok "the container goes on" counts
echo '["/dev/null","pipe:[1]","pipe:[2]"]' >"$image/descriptors.json"
refused "so for restore" "criu restore failed: mnt: no mount here" fake error restore -d -b "$bundle" "$(name none)"
is "which leaves nothing" "$(ls "$TMPDIR/state"; find /sys/fs/cgroup -maxdepth 5 -type d -name "$(name none)" 2>/dev/null)" "$(name ref)"
pid=$(oci state "$(name ref)" | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')
ok "a dump ends the container" fake ok checkpoint "$(name ref)" --tcp-established --file-locks
is "criu was told what is wanted" "$(grep -Ex "2 $pid|13 $bundle/rootfs|5 1|8 1|3 1|34 3" "$TMPDIR/options" | sort | tr '\n' ' ')" "13 $bundle/rootfs 2 $pid 34 3 5 1 8 1 "
ok "masked files are the host's" grep -q '^37 mnt\[/proc/.*\]:/dev/null$' "$TMPDIR/options"
ok "and so is what stdio was" grep -q '^37 file\[[0-9a-f]*:[0-9a-f]*\]$' "$TMPDIR/options"
is "and nothing is left" "$(ls "$TMPDIR/state")" ""
rm -rf "$image"
start ref

version=$("$CRIU" --version 2>/dev/null | sed -n 's/^Version: \([0-9]*\)\..*/\1/p')
if [ -z "$version" ]; then
        reason="no criu: name one of 4.0 or newer by \$CRIU"
elif [ "$version" -lt 4 ]; then
        reason="criu is older than 4.0: name a newer one by \$CRIU"
fi
if [ -n "${reason:-}" ]; then
        skip "checkpoint and restore" "$reason"
        done_testing
        exit 0
fi

refused "an absolute --parent-path is refused" "--parent-path" criu_oci checkpoint --image-path "$image" --parent-path /tmp "$(name ref)"
refused "a missing --parent-path too" "--parent-path" criu_oci checkpoint --image-path "$image" --parent-path ../missing "$(name ref)"
refused "an unknown cgroups mode too" "Invalid manage cgroups mode" criu_oci checkpoint --image-path "$image" --manage-cgroups-mode some "$(name ref)"
refused "a page server without a port too" "ADDRESS:PORT" criu_oci checkpoint --image-path "$image" --page-server here "$(name ref)"
refused "a status descriptor that is not open too" "invalid --status-fd" criu_oci checkpoint --image-path "$image" --status-fd 77 "$(name ref)"
refused "a directory without an image is no checkpoint" "no checkpoint here" criu_oci restore -d -b "$bundle" --image-path "$TMPDIR" "$(name none)"
ok "and leaves no container" test ! -e "$TMPDIR/state/$(name none)"
ok "a restore onto a name that is taken is refused" bash -c "! $OCI --root $TMPDIR/state --criu '$CRIU' restore -d -b $bundle --image-path $TMPDIR $(name ref) 2>/dev/null"
oci delete -f "$(name ref)"
rm -rf "$image"

# --- going on --------------------------------------------------------------------------------------------------------

# checkpoint NAME OPTION...
checkpoint() {
        local id=$1
        shift
        criu_oci checkpoint --image-path "$image" --work-path "$TMPDIR/work" "$@" "$(name "$id")" 2>"$TMPDIR/err" || {
                show "$TMPDIR/err"
                grep -a Error "$TMPDIR/work/dump.log" | sed 's/^/# /'
                return 1
        }
}
# restore NAME OPTION...: detached, with stdio of its own.
restore() {
        local id=$1
        shift
        oci_ids+=("$(name "$id")")
        criu_oci restore -d -b "$bundle" --image-path "$image" --work-path "$TMPDIR/work" "$@" "$(name "$id")" </dev/null >"$TMPDIR/$id.restored" 2>"$TMPDIR/err" || {
                show "$TMPDIR/err"
                grep -a Error "$TMPDIR/work/restore.log" | sed 's/^/# /'
                return 1
        }
}
running() {
        oci state "$(name "$1")" | grep -q '"status": "running"'
}

start go
ok "a counter counts" counts
ok "it is checkpointed" checkpoint go
ok "then it is gone" bash -c "! $OCI --root $TMPDIR/state state $(name go) 2>/dev/null"
before=$(counter)
sleep 0.3
is "and does not count" "$(counter)" "$before"
ok "it is restored" restore go --pid-file "$TMPDIR/pid"
ok "it is running" running go
ok "it counts on" counts
ok "from where it was" test "$(counter)" -ge "$before"
is "the pid file names it" "$(cat "$TMPDIR/pid")" "$(oci state "$(name go)" | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')"
is "exec runs in it" "$(oci exec "$(name go)" /bin/cat /proc/1/comm)" sh
ok "it is in its control groups" grep -q "$(name go)" "/proc/$(cat "$TMPDIR/pid")/cgroup"
ok "loopback is up" bash -c "$OCI --root $TMPDIR/state exec $(name go) /bin/busybox ip link show lo | grep -q LOWER_UP"
ok "a second time" checkpoint go
ok "and back" restore go
ok "still counting" counts
rm -rf "$image"
ok "--leave-running leaves it running" checkpoint go --leave-running
ok "it was not stopped" counts
oci delete -f "$(name go)"
ok "a copy has another name" restore copy --manage-cgroups-mode ignore
ok "and counts" counts
oci pause "$(name copy)"
rm -rf "$image"
ok "a paused container can be checkpointed" checkpoint copy
ok "and restored" restore copy
oci delete -f "$(name copy)"
is "no mount is left" "$(grep -c "$TMPDIR" /proc/self/mountinfo)" 0
is "no state is left" "$(ls "$TMPDIR/state")" ""
is "no control group is left" "$(find /sys/fs/cgroup -maxdepth 5 -type d -name "$(name '')*" 2>/dev/null)" ""

# --- what comes from outside ---------------------------------------------------------------------------------------

# Pipes: those of the restoring process take the place of the first ones.
sh_config 'while read -r line; do echo "got $line"; done'
mkfifo "$TMPDIR"/{in,out,in2}
exec 5<>"$TMPDIR/in" 6<>"$TMPDIR/out" 7<>"$TMPDIR/in2"
oci_ids+=("$(name pipes)")
(cd "$bundle" && oci run -d "$(name pipes)" < <(cat <&5) > >(cat >&6) 2>&1)
echo one >&5
read -r -t 10 answer <&6
is "a container talks through pipes" "${answer:-}" "got one"
rm -rf "$image"
ok "it is checkpointed" checkpoint pipes
criu_oci restore -d -b "$bundle" --image-path "$image" --work-path "$TMPDIR/work" "$(name pipes)" < <(cat <&7) > >(cat >&6) 2>&1
is "and restored" $? 0
echo two >&7
answer=
read -r -t 10 answer <&6
is "and talks through the new ones" "$answer" "got two"
oci delete -f "$(name pipes)"
exec 5>&- 6>&- 7>&-

# Files outside of the container: a log, the host's /dev/null.
sh_config 'while :; do echo line; sleep 0.05; done'
start log
rm -rf "$image"
ok "output to a file: checkpointed" checkpoint log
ok "and restored" restore log
size=$(stat -c %s "$TMPDIR/log.out")
grew() {
        [ "$(stat -c %s "$TMPDIR/log.out")" -gt "$size" ]
}
ok "output goes on in that file" eventually grew
is "which has lost nothing" "$(sort -u "$TMPDIR/log.out")" line
oci delete -f "$(name log)"

# Mounts of the host, nested, at a symlink's target; a volume's content is the host's of now.
mkdir -p "$TMPDIR"/{volume,inner} "$bundle/rootfs/real"
ln -sfn /real "$bundle/rootfs/link"
echo first >"$TMPDIR/volume/file"
sh_config "while :; do cat /link/file >/seen; sleep 0.05; done" "c['root']['readonly'] = False
c['mounts'] += [{'destination': '/link', 'type': 'bind', 'source': '$TMPDIR/volume', 'options': ['bind']},
        {'destination': '/real/in/ner', 'type': 'bind', 'source': '$TMPDIR/inner', 'options': ['rbind']}]"
start volume
rm -rf "$image"
ok "volumes: checkpointed" checkpoint volume
rm -rf "$TMPDIR/volume/in"
echo second >"$TMPDIR/volume/file"
ok "and restored, with mount points made again" restore volume
eventually grep -q second "$bundle/rootfs/seen"
is "the volume is there" "$(cat "$bundle/rootfs/seen")" second
is "nothing but the mount point was made in it" "$(cd "$TMPDIR/volume" && find . | sort | tr '\n' ' ')" ". ./file ./in ./in/ner "
oci delete -f "$(name volume)"

# A network namespace by its path.
if ip netns add "strata-test-$$" 2>/dev/null; then
        sh_config 'while :; do sleep 1; done' "[n.update(path='/run/netns/strata-test-$$') for n in l['namespaces'] if n['type'] == 'network']"
        start net
        rm -rf "$image"
        ok "a joined network namespace: checkpointed" checkpoint net
        ok "and restored" restore net
        is "it is the same one" "$(readlink "/proc/$(oci state "$(name net)" | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')/ns/net")" "net:[$(stat -Lc %i "/run/netns/strata-test-$$")]"
        oci delete -f "$(name net)"
        ip netns delete "strata-test-$$"
else
        skip "a joined network namespace" "no ip netns here"
fi

# In the foreground, with the exit status, and hooks.
sh_config 'while [ ! -e /go ]; do sleep 0.05; done; exit 7' "c['root']['readonly'] = False
c['hooks'] = {h: [{'path': '/bin/sh', 'args': ['sh', '-c', 'echo %s >>$TMPDIR/hooks' % h]}] for h in ('createRuntime', 'poststop')}"
start fore
rm -rf "$image" "$TMPDIR/hooks"
ok "hooks: checkpointed" checkpoint fore
is "poststop ran" "$(cat "$TMPDIR/hooks")" poststop
touch "$bundle/rootfs/go"
criu_oci restore -b "$bundle" --image-path "$image" --work-path "$TMPDIR/work" "$(name fore)" </dev/null >/dev/null 2>"$TMPDIR/err"
is "restore in the foreground gives the exit status" $? 7
is "createRuntime and poststop ran" "$(tr '\n' ' ' <"$TMPDIR/hooks")" "poststop createRuntime poststop "
is "and leaves nothing" "$(ls "$TMPDIR/state")" ""

# A hook that fails, a hook that is killed with the runtime: nothing is left.
sh_config "$count" "c['root']['readonly'] = False"
rm -f "$bundle/rootfs/go"
start fail
rm -rf "$image"
checkpoint fail
config "c['hooks'] = {'createRuntime': [{'path': '/bin/false'}]}"
ok "a failing hook ends the restore" bash -c "! $OCI --root $TMPDIR/state --criu '$CRIU' restore -d -b $bundle --image-path $image $(name fail) >/dev/null 2>&1"
is "and leaves no state" "$(ls "$TMPDIR/state")" ""
before=$(counter)
sleep 0.3
is "and no process" "$(counter)" "$before"
is "and no mount" "$(grep -c "$TMPDIR" /proc/self/mountinfo)" 0
undeleted=0
sh_config "$count" "c['root']['readonly'] = False"
for i in $(seq 15); do
        oci_ids+=("$(name "kill$i")")
        "$OCI" --root "$TMPDIR/state" --criu "$CRIU" restore -d -b "$bundle" --image-path "$image" "$(name "kill$i")" </dev/null >/dev/null 2>&1 &
        victim=$!
        sleep "0.$(printf '%03d' $((RANDOM % 300)))"
        kill -9 $victim 2>/dev/null
        wait $victim 2>/dev/null
        oci delete -f "$(name "kill$i")" 2>>"$TMPDIR/errors" || undeleted=$((undeleted + 1))
done 2>/dev/null
is "a runtime killed while it restores: all can be deleted" "$undeleted" 0
[ ! -s "$TMPDIR/errors" ] || show "$TMPDIR/errors"
is "no state is left" "$(ls "$TMPDIR/state")" ""
no_groups() {
        [ -z "$(find /sys/fs/cgroup -maxdepth 5 -type d -name "$(name kill)*" 2>/dev/null)" ]
}
ok "no control group is left" eventually no_groups
is "no mount is left" "$(grep -c "$TMPDIR" /proc/self/mountinfo)" 0
before=$(counter)
sleep 0.3
is "no process is left" "$(counter)" "$before"
done_testing
