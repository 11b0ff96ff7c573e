#!/bin/bash
# test: timeout=180
# strata-oci: what a configuration asks for is what the container's process finds.
. "$(dirname "$0")/oci.bash"
make_bundle

# --- life ------------------------------------------------------------------------------------------------------------

sh_config 'echo out; echo err >&2; exit 7'
run
is "run passes on output" "$out" $'out\nerr'
is "run passes on the exit status" "$status" 7
sh_config 'kill -9 $$' 'l["namespaces"] = [n for n in l["namespaces"] if n["type"] != "pid"]'
run
is "a process killed by a signal gives 128 + signal" "$status" 137
ok "nothing is left in the state directory" test -z "$(ls "$TMPDIR/state")"
ok "no control group is left" test -z "$(find /sys/fs/cgroup -maxdepth 4 -name "$(name run)*" 2>/dev/null)"

sh_config 'sleep 1000'
start life
is "a detached container is running" "$(oci state "$(name life)" | grep '"status"')" '  "status": "running",'
ok "the same name cannot be taken twice" bash -c "! (cd $bundle && $OCI --root $TMPDIR/state run $(name life) 2>/dev/null)"
is "exec runs in it" "$(oci exec "$(name life)" /bin/readlink /proc/self/ns/pid)" "$(readlink "/proc/$(oci state "$(name life)" | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')/ns/pid")"
oci exec "$(name life)" /bin/sh -c 'exit 5'
is "exec passes on the exit status" $? 5
oci exec "$(name life)" /nonexistent 2>/dev/null
is "exec of what does not exist is 255" $? 255
oci pause "$(name life)"
is "pause" "$(oci state "$(name life)" | grep -c '"paused"')" 1
oci resume "$(name life)"
is "resume" "$(oci state "$(name life)" | grep -c '"running"')" 1
ok "a running container is not deleted" bash -c "! $OCI --root $TMPDIR/state delete $(name life) 2>/dev/null"
oci kill "$(name life)" KILL
stopped() {
        [ "$(oci state "$(name "$1")" | grep -c '"stopped"')" = 1 ]
}
ok "killed, it is stopped" eventually stopped life
ok "then it is deleted" oci delete "$(name life)"

sh_config 'echo started'
oci_ids+=("$(name created)")
(cd "$bundle" && oci create "$(name created)" </dev/null >"$TMPDIR/created.out" 2>&1)
is "create starts nothing" "$(cat "$TMPDIR/created.out")" ""
is "created is a state" "$(oci state "$(name created)" | grep -c '"created"[^:]')" 1
oci start "$(name created)"
eventually grep -q started "$TMPDIR/created.out"
is "start starts it" "$(cat "$TMPDIR/created.out")" started
ok "a second start is refused" bash -c "! $OCI --root $TMPDIR/state start $(name created) 2>/dev/null"

oci_ids+=("$(name term)")
(cd "$bundle" && oci create "$(name term)" </dev/null >/dev/null 2>&1)
oci kill "$(name term)" TERM
ok "a created container ends by SIGTERM" eventually stopped term
oci delete "$(name term)"
chmod 755 "$TMPDIR" "$bundle" # containers of other users must reach their root
config 'l["namespaces"] += [{"type": "time"}, {"type": "user"}]; m = [{"containerID": 0, "hostID": 100000, "size": 65536}]; l["uidMappings"] = m; l["gidMappings"] = m; l["timeOffsets"] = {"monotonic": {"secs": 7000, "nanosecs": 5}}; p["args"] = ["/bin/grep", "monotonic", "/proc/self/timens_offsets"]'
run
is "a time namespace inside of a user namespace" "$(tr -s ' ' <<<"$out")" "monotonic 7000 5"

if ip netns add "strata-test-$$" 2>/dev/null; then
        config "l['namespaces'] = [n for n in l['namespaces'] if n['type'] != 'network'] + [{'type': 'network', 'path': '/run/netns/strata-test-$$'}, {'type': 'user'}]; m = [{'containerID': 0, 'hostID': 100000, 'size': 65536}]; l['uidMappings'] = m; l['gidMappings'] = m; p['args'] = ['/bin/readlink', '/proc/self/ns/net']"
        run
        is "a joined network namespace need not belong to the user namespace" "$out" "net:[$(stat -Lc %i "/run/netns/strata-test-$$")]"
        ip netns delete "strata-test-$$"
else
        skip "a joined network namespace need not belong to the user namespace" "no ip netns here"
fi

config 'p["args"] = ["/bin/missing"]'
out=$(cd "$bundle" && oci create "$(name run)" 2>&1)
ok "create says that the program is missing" grep -q "/bin/missing" <<<"$out"
ok "and leaves nothing" test ! -e "$TMPDIR/state/$(name run)"

config 'p["args"] = ["/bin/sleep", "1000"]; l["namespaces"] = [n for n in l["namespaces"] if n["type"] != "mount"]; l["maskedPaths"] = []; l["readonlyPaths"] = []; c["mounts"] = []; c["root"]["readonly"] = False'
echo inside >"$bundle/rootfs/here"
start nomount
is "without a mount namespace exec sees the container's root" "$(oci exec "$(name nomount)" /bin/cat /here)" inside
oci delete -f "$(name nomount)"
rm -f "$bundle/rootfs/here"

# --- the process ------------------------------------------------------------------------------------------------------

sh_config 'id -u; id -g; id -G; umask; pwd; echo $A $HOME' 'p["user"] = {"uid": 1000, "gid": 1001, "umask": 0o27, "additionalGids": [5, 6]}; p["cwd"] = "/tmp"; p["env"].append("A=1")'
run
is "user, groups, umask, cwd, environment, HOME from passwd" "$out" $'1000\n1001\n1001 5 6\n0027\n/tmp\n1 /home/user'
sh_config 'grep -E "^(Cap|NoNew)" /proc/self/status' 'p["capabilities"] = {"bounding": ["CAP_KILL", "CAP_CHOWN"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]}'
run
is "capabilities and no_new_privs" "$(tr -d '\t' <<<"$out")" $'CapInh:0000000000000000\nCapPrm:0000000000000020\nCapEff:0000000000000020\nCapBnd:0000000000000021\nCapAmb:0000000000000000\nNoNewPrivs:1'
sh_config 'grep -E "^Cap(Inh|Prm|Amb)" /proc/self/status' 'p["user"]["uid"] = 1000; s = ["CAP_KILL"]; p["capabilities"] = {"bounding": s, "effective": s, "permitted": s, "inheritable": s, "ambient": s}'
run
is "ambient capabilities survive another user" "$(tr -d '\t' <<<"$out")" $'CapInh:0000000000000020\nCapPrm:0000000000000020\nCapAmb:0000000000000020'
filter="l['seccomp'] = {'defaultAction': 'SCMP_ACT_ALLOW', 'architectures': ['SCMP_ARCH_X86_64'], 'syscalls':
        [{'names': ['getcwd', 'chdir', 'mkdir', 'mkdirat'], 'action': 'SCMP_ACT_ERRNO', 'errnoRet': 77}]}"
for nnp in True False; do # the filter is loaded at different moments
        sh_config '/bin/readlink /proc/self/cwd; mkdir /tmp/x 2>&1; grep Seccomp: /proc/self/status' "$filter; p['cwd'] = '/tmp'; p['noNewPrivileges'] = $nnp"
        run
        is "a seccomp filter, also of what a start takes (no_new_privs $nnp)" "$(tr '\t' ' ' <<<"$out")" $'/tmp\nmkdir: can\'t create directory \'/tmp/x\': File descriptor in bad state\nSeccomp: 2'
done
sh_config 'ulimit -n; ulimit -c; cat /proc/self/oom_score_adj' 'p["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]; p["oomScoreAdj"] = 100'
run
is "rlimits and oom score" "$out" $'77\n0\n100'
sh_config 'hostname; cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_forward' 'c["hostname"] = "box"; l["sysctl"] = {"kernel.shm_rmid_forced": "1", "net.ipv4.ip_forward": "1"}'
run
is "hostname and sysctls" "$out" $'box\n1\n1'
sh_config 'cat /proc/1/comm; set -- /proc/[0-9]*; echo $#; grep -c : /proc/net/dev'
run
is "pid and network namespaces are its own" "$out" $'sh\n1\n1'
sh_config 'cat /proc/self/timens_offsets' 'l["namespaces"].append({"type": "time"}); l["timeOffsets"] = {"monotonic": {"secs": 1000}, "boottime": {"secs": 2000, "nanosecs": 5}}'
if [ -e /proc/self/ns/time ]; then
        run
        is "time namespace" "$(tr -s ' ' <<<"$out")" $'monotonic 1000 0\nboottime 2000 5'
else
        skip "time namespace" "this kernel has none"
fi
sh_config 'exec 5>/dev/null; ls /proc/self/fd | wc -l' 'pass'
exec 7</etc/hostname
run
exec 7<&-
is "no descriptor of the caller gets in" "$out" 5

# --- the file system -----------------------------------------------------------------------------------------------------

sh_config 'touch /x 2>&1; ls /dev; readlink /dev/ptmx; readlink /dev/fd; stat -c "%t:%T" /dev/null'
run
is "read-only root, /dev" "$out" $'touch: /x: Read-only file system\ncore\nfd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\npts/ptmx\n/proc/self/fd\n1:3'
mkdir -p "$TMPDIR/src/sub"
echo inside >"$TMPDIR/src/file"
sh_config 'cat /mnt/a/b/file; touch /mnt/a/b/x 2>&1; cat /mnt/one' "c['mounts'] += [{'destination': '/tmp', 'type': 'tmpfs', 'source': 'x'}, {'destination': '/mnt/a/b', 'type': 'bind', 'source': '$TMPDIR/src', 'options': ['rbind', 'rro']}, {'destination': '/mnt/one', 'source': '$TMPDIR/src/file', 'options': ['bind']}]; c['root']['readonly'] = True"
run
is "bind mounts, their targets made" "$out" $'inside\ntouch: /mnt/a/b/x: Read-only file system\ninside'
sh_config 'cat /proc/kcore 2>/dev/null | head -c 1 | wc -c; ls /proc/acpi 2>/dev/null | wc -l; echo 1 2>&1 >/proc/sys/kernel/panic; mount -o remount,rw /proc/sys 2>&1 | wc -l' 'pass'
run
is "masked and read-only paths" "$out" "$(printf '0\n0\n%s\n1' "/bin/sh: can't create /proc/sys/kernel/panic: Read-only file system")"
sh_config 'cat /etc/passwd | wc -l; echo x >/etc/new; cat /etc/new' "c['mounts'].append({'destination': '/etc', 'type': 'tmpfs', 'source': 'tmpfs', 'options': ['tmpcopyup']})"
run
is "a tmpfs that starts with what it covers" "$out" $'2\nx'
sh_config 'touch /tmp/new/x /tmp/old/x; stat -c %a /tmp/new /tmp/old' "p['user']['uid'] = 1000; c['mounts'] += [{'destination': '/tmp/' + d, 'type': 'tmpfs', 'source': 'tmpfs', 'options': ['tmpcopyup']} for d in ('new', 'old')]"
mkdir -p "$bundle/rootfs/tmp/old"
chmod 777 "$bundle/rootfs/tmp/old"
run
is "a tmpfs is for everybody, or as the directory it covers" "$out" $'1777\n777'
ok "which stays as it was" test ! -e "$bundle/rootfs/etc/new"
sh_config 'cat /proc/self/uid_map | tr -s " "; id -u; touch /tmp/x; stat -c %u /tmp/x; echo x >/dev/null && echo null' \
        "l['namespaces'].append({'type': 'user'}); m = [{'containerID': 0, 'hostID': 100000, 'size': 65536}]; l['uidMappings'] = m; l['gidMappings'] = m; c['mounts'].append({'destination': '/tmp', 'type': 'tmpfs', 'source': 'x'})"
run
is "user namespace" "$out" $' 0 100000 65536\n0\n0\nnull'
sh_config 'stat -c %u /mnt/file' "m = [{'containerID': 0, 'hostID': 1000, 'size': 1}]; c['mounts'].append({'destination': '/mnt', 'type': 'bind', 'source': '$TMPDIR/src', 'options': ['bind'], 'uidMappings': m, 'gidMappings': m})"
run
if grep -q 'mount_setattr' <<<"$out"; then
        skip "id-mapped mounts" "this file system has none"
else
        is "id-mapped mounts" "$out" 1000
fi

# --- hooks --------------------------------------------------------------------------------------------------------------

hooks="import json; h = lambda n: [{'path': '/bin/sh', 'args': ['sh', '-c', 'cat >$TMPDIR/hook.' + n + '; echo ' + n + ' >>$TMPDIR/hooks']}]
c['hooks'] = {n: h(n) for n in ('prestart', 'createRuntime', 'createContainer', 'poststart', 'poststop')}"
sh_config 'true' "$hooks"
rm -f "$TMPDIR/hooks"
run
is "hooks run in order" "$(tr '\n' ' ' <"$TMPDIR/hooks")" "prestart createRuntime createContainer poststart poststop "
ok "and get the state" /usr/bin/python3 -c "import json, sys
for hook, status in (('prestart', 'created'), ('createRuntime', 'creating'), ('createContainer', 'creating'), ('poststart', 'running'), ('poststop', 'stopped')):
    s = json.load(open('$TMPDIR/hook.' + hook))
    assert (s['status'], s['bundle']) == (status, '$bundle') and (s['pid'] > 0 or status == 'stopped'), (hook, s)"
sh_config 'echo ran' "c['hooks'] = {'createRuntime': [{'path': '/bin/false'}]}"
run
ok "a failing hook ends it" test "$status" -ne 0 -a "${out/ran/}" = "$out"
ok "with nothing left" test ! -e "$TMPDIR/state/$(name run)"
sh_config 'true' "c['hooks'] = {'createRuntime': [{'path': '/bin/sleep', 'args': ['sleep', '100'], 'timeout': 1}]}"
run
says "a hook that takes too long is ended" "longer than 1 s"

# --- terminal -------------------------------------------------------------------------------------------------------------

sh_config 'test -t 0 && test -t 1 && readlink /proc/self/fd/0 && stat -c %F /dev/console' 'p["terminal"] = True'
out=$(cd "$bundle" && /usr/bin/python3 -c 'import pty, sys; sys.exit(pty.spawn(sys.argv[1:]))' "$OCI" --root "$TMPDIR/state" run "$(name run)" </dev/null | tr -d '\r')
is "a terminal is relayed" "$out" $'/dev/pts/0\ncharacter special file'
config 'p["args"] = ["/bin/true"]; p["terminal"] = True'
ok "a detached terminal needs a socket" bash -c "! (cd $bundle && $OCI --root $TMPDIR/state create $(name run) 2>/dev/null)"

done_testing
