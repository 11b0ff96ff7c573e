#!/bin/bash
# test: timeout=300
# The classes behind known container escapes: each attack is tried, and does not work.
. "$(dirname "$0")/oci.bash"
make_bundle

# A copy of the runtime stands for the host's program: what happens to it can be seen and harms nobody.
cp "$OCI" "$TMPDIR/strata-oci"
OCI=$TMPDIR/strata-oci
sum=$(sha256sum <"$OCI")
outside=$TMPDIR/outside
mkdir "$outside"
root_can_trace='s = ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"]; p["capabilities"] = {"bounding": s, "effective": s, "permitted": s}; c["root"]["readonly"] = False; p["noNewPrivileges"] = False'

# --- the runtime's program (CVE-2019-5736) ----------------------------------------------------------------------------

# Whatever process shows the runtime's file: hold it, and write to it as soon as nothing executes it any more (ETXTBSY until then).
# Ends when /stop is there.
# shellcheck disable=SC2016 # for the container's shell
hunter='while [ ! -e /stop ]; do for p in /proc/[0-9]*; do exe=$(readlink $p/exe 2>/dev/null); case $exe in *strata-oci*) echo seen >>/seen; (exec 9<$p/exe && for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do echo X >>/proc/self/fd/9 && readlink /proc/self/fd/9 >>/written && break; sleep 0.01; done) 2>/dev/null;; esac; done; done'
sh_config "$hunter" "$root_can_trace"
start hunter
for _ in $(seq 30); do
        oci exec "$(name hunter)" /bin/true
done
is "a container with CAP_SYS_PTRACE cannot write the runtime during exec" "$(cat "$bundle/rootfs/written" 2>/dev/null)" ""
is "the runtime's file is what it was" "$(sha256sum <"$OCI")" "$sum"

# exec of a program that makes the kernel run the caller again, inside.
printf '#!/proc/self/exe\n' >"$bundle/rootfs/bin/again"
chmod 755 "$bundle/rootfs/bin/again"
for _ in $(seq 10); do
        oci exec "$(name hunter)" /bin/again >/dev/null 2>&1
        oci exec "$(name hunter)" /proc/self/exe >/dev/null 2>&1
done
touch "$bundle/rootfs/stop"
is "nor by #!/proc/self/exe" "$(cat "$bundle/rootfs/written" 2>/dev/null)" ""
is "the runtime's file is still what it was" "$(sha256sum <"$OCI")" "$sum"
oci delete -f "$(name hunter)"
rm -f "$bundle"/rootfs/{stop,seen,written}

sh_config "$hunter" "l['namespaces'].append({'type': 'user'}); m = [{'containerID': 0, 'hostID': 0, 'size': 65536}]; l['uidMappings'] = m; l['gidMappings'] = m; $root_can_trace"
start hunter
for _ in $(seq 20); do
        oci exec "$(name hunter)" /bin/true
        oci exec "$(name hunter)" /bin/again >/dev/null 2>&1
done
touch "$bundle/rootfs/stop"
is "in a user namespace that maps root to root the runtime cannot be written" "$(cat "$bundle/rootfs/written" 2>/dev/null)$(sha256sum <"$OCI")" "$sum"
oci delete -f "$(name hunter)"
rm -f "$bundle"/rootfs/{stop,seen,written}

# The first process itself: what it is before the payload must not be the host's file either.
config "p['args'] = ['/bin/again']; $root_can_trace"
run
config "p['args'] = ['/proc/self/exe', 'list']; $root_can_trace"
run
ok "a payload of /proc/self/exe is not the runtime" test "${out/BUNDLE/}" = "$out"
is "and changes nothing" "$(sha256sum <"$OCI")" "$sum"

# --- descriptors and the working directory (CVE-2024-21626) --------------------------------------------------------------

# shellcheck disable=SC2016
for fd in $(seq 3 24); do
        sh_config 'pwd; ls -d ../../../../*/run 2>/dev/null; ls -a ..' "p['cwd'] = '/proc/self/fd/$fd'"
        run
        [ "$status" -eq 0 ] && echo "fd $fd: $out" >>"$TMPDIR/entered"
done
is "no descriptor of the runtime can be the working directory" "$(cat "$TMPDIR/entered" 2>/dev/null)" ""
sh_config 'sleep 1000' 'c["root"]["readonly"] = False'
start cwd
for fd in $(seq 3 24); do
        out=$(oci exec --cwd "/proc/self/fd/$fd" "$(name cwd)" /bin/ls / 2>/dev/null) && echo "$fd $out" >>"$TMPDIR/entered"
done
is "nor with exec" "$(cat "$TMPDIR/entered" 2>/dev/null)" ""
# shellcheck disable=SC2016
is "exec leaks no descriptor" "$(oci exec "$(name cwd)" /bin/sh -c 'for f in 3 4 5 6 7 8 9 10 11 12; do readlink /proc/self/fd/$f; done' 7</etc/passwd | grep -v /proc/)" ""
for fd in $(seq 3 24); do
        ln -sfn "/proc/self/fd/$fd" "$bundle/rootfs/link"
        out=$(oci exec --cwd /link "$(name cwd)" /bin/ls / 2>/dev/null) && echo "link $fd $out" >>"$TMPDIR/entered"
done
is "nor by a symlink" "$(grep ^link "$TMPDIR/entered" 2>/dev/null)" ""
oci delete -f "$(name cwd)"
# What waits for its start can be looked at for long.
oci_ids+=("$(name created)")
(cd "$bundle" && oci create "$(name created)" </dev/null >"$TMPDIR/created.out" 2>&1)
pid=$(oci state "$(name created)" | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')
is "a created container holds nothing of the host's open" "$(for f in $(seq 3 100); do readlink "/proc/$pid/fd/$f"; done | grep -Ev '^(/proc|/memfd:payload \(deleted\)|socket:.*)$')" ""
oci delete -f "$(name created)"

# --- what paths of the image lead to (CVE-2021-30465, CVE-2025-31133, CVE-2025-52565) ----------------------------------------

ln -sfn "$outside" "$bundle/rootfs/absolute"
ln -sfn "../../../../../../../..$outside" "$bundle/rootfs/dotted"
sh_config 'true' "c['mounts'] += [{'destination': d, 'type': 'tmpfs', 'source': 'x'} for d in ('/absolute/one', '/dotted/two', '/absolute/../dotted/three')]"
run
is "a mount target through symlinks stays inside" "$(ls -A "$outside")" ""
ok "where it was made instead" test -d "$bundle/rootfs$outside/one"
first=${outside#/}
rm -rf "${bundle:?}/rootfs/${first%%/*}"
mkdir -p "$bundle/rootfs/tmp"

# The race: the target is a directory and a symlink in turns.
mkdir -p "$bundle/rootfs/race"
ln -sfn "$outside" "$bundle/rootfs/race.link"
/usr/bin/python3 - "$bundle/rootfs/race" "$bundle/rootfs/race.link" <<'END' &
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
a, b = (x.encode() for x in sys.argv[1:])
parent = os.getppid()
while os.getppid() == parent and os.path.lexists(b):
    for _ in range(1000):
        libc.syscall(316, -100, a, -100, b, 2)  # renameat2, RENAME_EXCHANGE
END
racer=$!
sh_config 'true' "c['root']['readonly'] = False; c['mounts'] += [{'destination': '/race/dir%d' % i, 'type': 'tmpfs', 'source': 'x'} for i in range(8)]"
for _ in $(seq 25); do
        run
        [ -z "$(ls -A "$outside")" ] || break
done
kill $racer 2>/dev/null
wait $racer 2>/dev/null
is "nor does a race lead out of the root" "$(ls -A "$outside"; grep -c "$outside" /proc/self/mountinfo)" "0"
rm -rf "$bundle"/rootfs/race*

no_dev='c["mounts"] = [m for m in c["mounts"] if not m["destination"].startswith("/dev")]; c["root"]["readonly"] = False'
echo secret >"$bundle/rootfs/secret"
echo target >"$bundle/rootfs/target"
mkdir -p "$bundle/rootfs/dev"
rm -rf "$bundle"/rootfs/dev/*
ln -s /target "$bundle/rootfs/dev/null"
sh_config 'cat /secret; echo changed 2>/dev/null >/secret; cat /target' "$no_dev; l['maskedPaths'] = ['/secret']"
run
is "a /dev/null of the image is not what masks" "$out" target
rm -rf "$bundle"/rootfs/dev/*
ln -s /target "$bundle/rootfs/dev/console"
mkdir -p "$bundle/rootfs/dev/pts"
sh_config 'grep -c target /proc/self/mountinfo; cat /target' "$no_dev; p['terminal'] = True; c['mounts'].append({'destination': '/dev/pts', 'type': 'devpts', 'source': 'devpts', 'options': ['newinstance', 'ptmxmode=0666']})"
out=$(cd "$bundle" && timeout 20 /usr/bin/python3 -c 'import pty, sys; sys.exit(pty.spawn(sys.argv[1:]))' "$OCI" --root "$TMPDIR/state" run "$(name run)" </dev/null | tr -d '\r')
is "a /dev/console of the image is no mount target" "$out" $'0\ntarget'
rm -rf "$bundle"/rootfs/dev/*

# --- procfs (CVE-2019-16884, CVE-2019-19921, CVE-2025-52881) ---------------------------------------------------------------------

sh_config 'true' "c['mounts'].append({'destination': '/proc/sys/kernel', 'type': 'tmpfs', 'source': 'x'})"
run
says "nothing is mounted inside /proc" "inside /proc"
mv "$bundle/rootfs/proc" "$bundle/rootfs/proc.real"
ln -s /proc.real "$bundle/rootfs/proc"
sh_config 'true' ''
run
says "a /proc that is a symlink is refused" "ordinary directory"
rm "$bundle/rootfs/proc"
mv "$bundle/rootfs/proc.real" "$bundle/rootfs/proc"
# The container's /proc is a tmpfs with files of the right names: writes must reach the kernel all the same.
mkdir -p "$TMPDIR/fake/sys/net/ipv4" "$TMPDIR/fake/self" "$TMPDIR/fake/thread-self/attr"
touch "$TMPDIR/fake/sys/net/ipv4/ip_forward" "$TMPDIR/fake/self/oom_score_adj"
sh_config 'cat /real/sys/net/ipv4/ip_forward; cat /real/self/oom_score_adj' \
        "c['mounts'] = [{'destination': '/proc', 'type': 'bind', 'source': '$TMPDIR/fake', 'options': ['bind']}, {'destination': '/real', 'type': 'proc', 'source': 'proc'}]; c['root']['readonly'] = False; l['maskedPaths'] = []; l['readonlyPaths'] = []; l['sysctl'] = {'net.ipv4.ip_forward': '1'}; p['oomScoreAdj'] = 7"
run
is "a faked /proc receives no write" "$out$(cat "$TMPDIR/fake/sys/net/ipv4/ip_forward" "$TMPDIR/fake/self/oom_score_adj")" $'1\n7'
ok "a sysctl cannot leave its directory" bash -c "cd $bundle && /usr/bin/python3 -c 'import json; c = json.load(open(\"config.json\")); c[\"linux\"][\"sysctl\"] = {\"net/../kernel/core_pattern\": \"x\"}; json.dump(c, open(\"config.json\", \"w\"))' && ! $OCI --root $TMPDIR/state run $(name run) 2>/dev/null"

# A second, whole procfs among the host's mounts, which stay there without pivot_root, must not allow a new one without the masks.
mkdir "$TMPDIR/proc"
config "p['args'] = ['/bin/busybox', 'unshare', '-mrpf', '/bin/busybox', 'sh', '-c', 'mount -t proc none /proc && echo mounted']; s = ['CAP_SETFCAP']; p['capabilities'] = {'bounding': s, 'effective': s, 'permitted': s}"
out=$(cd "$bundle" && unshare -m sh -c "mount -t proc proc '$TMPDIR/proc'; exec $OCI --root $TMPDIR/state run --no-pivot $(name run)" </dev/null 2>&1)
is "without pivot_root no bare /proc can be mounted" "$(grep -c 'ermission denied\|not permitted' <<<"$out") $(grep -c mounted <<<"$out")" "1 0"

# --- capabilities and control groups (CVE-2022-27650, CVE-2022-0492) ---------------------------------------------------------------

sh_config 'sleep 1000'
start caps
out=$(oci exec --user -1 "$(name caps)" /bin/id 2>&1; oci exec --user 4294967295 "$(name caps)" /bin/id 2>&1; oci exec --user 1:4294967296 "$(name caps)" /bin/id 2>&1)
is "a user that is no number is nobody, not root" "$(grep -c 'uid=' <<<"$out")" 0
is "exec --cap adds nothing inheritable" "$(oci exec --cap CAP_NET_ADMIN "$(name caps)" /bin/grep CapInh /proc/self/status | tr -d '\t')" "CapInh:0000000000000000"
if [ -d "/sys/fs/cgroup/pids/$(name caps)" ] && mkdir "/sys/fs/cgroup/pids/$(name caps)/sub"; then
        is "exec --cgroup for one controller stays in the container's other groups" \
                "$(oci exec --cgroup pids:sub "$(name caps)" /bin/cat /proc/self/cgroup | grep -v '^[0-9]*:name=\|@shared$' | grep -vc "$(name caps)") $(oci exec --cgroup pids:sub "$(name caps)" /bin/grep -c "pids.*$(name caps)/sub" /proc/self/cgroup)" "0 1"
else
        skip "exec --cgroup for one controller stays in the container's other groups" "no pids hierarchy of version 1 at its usual place"
fi
oci delete -f "$(name caps)"
# shellcheck disable=SC2016
sh_config 'mkdir /tmp/c; for o in memory rdma cpu none,name=x; do mount -t cgroup -o $o c /tmp/c 2>/dev/null && echo mounted $o; done; find() { ls -d /sys/fs/cgroup/release_agent /sys/fs/cgroup/*/release_agent 2>/dev/null; }; for f in $(find); do echo /x 2>/dev/null >$f && echo wrote $f; done' \
        "c['mounts'].append({'destination': '/tmp', 'type': 'tmpfs', 'source': 'x'}); l['namespaces'] += [{'type': 'user'}]; m = [{'containerID': 0, 'hostID': 100000, 'size': 65536}]; l['uidMappings'] = m; l['gidMappings'] = m; s = ['CAP_SYS_ADMIN']; p['capabilities'] = {'bounding': s, 'effective': s, 'permitted': s}"
chmod 755 "$TMPDIR" "$bundle"
run
is "root of a user namespace reaches no release_agent" "$out" ""
# shellcheck disable=SC2016
sh_config 'for f in /sys/fs/cgroup/release_agent /sys/fs/cgroup/*/release_agent; do [ -e $f ] && echo $f; done' \
        "[m.update(options=['rw']) for m in c['mounts'] if m['type'] == 'cgroup']"
run
is "nor does a writable mount of its control groups show one" "$out" ""

done_testing
