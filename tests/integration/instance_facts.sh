#!/bin/bash
# test: timeout=240
# Supervisors: what a container needs to live, what is true and what is left when processes of ours are killed, logs, init,
# and files that try to lead out of an instance.
. "$(dirname "$0")/run_lib.sh"
busybox_image busybox 'CMD ["/bin/sh"]'

pid_of() {
        strata inspect -f '{{.State.Pid}}' "$1"
}
supervisor_of() {
        awk '$1 == "PPid:" { print $2 }' "/proc/$(pid_of "$1")/status"
}
groups_of() {
        find /sys/fs/cgroup -maxdepth 2 -name "strata-$1" 2>/dev/null
}
veths() {
        ip -o link show type veth | wc -l
}

# --- one idle container ---------------------------------------------------------------------------------------------------

id=$(strata run -d --name idle busybox sleep 1000)
supervisor=$(supervisor_of idle)
is "its parent is the supervisor" "$(cat "/proc/$supervisor/comm")" strata-supervis
rss=$(awk '$1 == "VmRSS:" { print $2 }' "/proc/$supervisor/status")
echo "# resident memory of the supervisor: $rss KiB"
ok "that needs at most 1.5 MiB" test "$rss" -le 1536
is "and is the only process of ours" "$(grep -laz "STRATA_ROOT=$STRATA_ROOT" /proc/[0-9]*/environ 2>/dev/null | xargs -rn1 dirname | while read -r p; do readlink "$p/exe"; done | grep -c "/strata")" 1
is "the host sees none of its mounts" "$(grep -c "$TMPDIR" /proc/self/mountinfo)" 0

# --- the supervisor is killed -----------------------------------------------------------------------------------------------

payload=$(pid_of idle)
kill -9 "$supervisor"
tail --pid="$supervisor" -f /dev/null
is "killed: ps is right at once" "$(strata ps -a --format '{{.Names}} {{.State}}')" "idle exited"
is "status 137" "$(strata inspect -f '{{.State.ExitCode}} {{.State.Pid}}' idle)" "137 0"
ok "the payload is gone" eventually bash -c "! kill -0 $payload 2>/dev/null"
is "so are its groups" "$(groups_of "$id")" ""
ok "and its interface" eventually bash -c "[ \$(ip -o link show type veth | wc -l) = 0 ]"
strata start idle >/dev/null
is "it starts again" "$(state idle)" running
strata rm -f idle >/dev/null

strata run -d --name policy --restart always --network none busybox sleep 1000 >/dev/null
strata run -d --rm --name removed --network none busybox sleep 1000 >/dev/null
supervisors=("$(supervisor_of policy)" "$(supervisor_of removed)")
kill -9 "${supervisors[@]}"
for supervisor in "${supervisors[@]}"; do tail --pid="$supervisor" -f /dev/null; done
strata system check --repair >/dev/null
is "repair: --restart always goes on, --rm is removed" "$(strata ps -a --format '{{.Names}} {{.State}}')" "policy running"
strata rm -f policy >/dev/null

# --- the command is killed --------------------------------------------------------------------------------------------------

strata run --rm --name front --network none busybox sh -c 'echo on; sleep 1.5; echo still; sleep 1000' >/dev/null 2>&1 &
command=$!
ok "a container in the foreground" eventually is_state front running
kill -9 $command
wait $command 2>/dev/null
goes_on() {
        [ "$(strata logs front | tr '\n' ' ')" = "on still " ]
}
ok "its output goes on into the log after the command's death" eventually goes_on
is "and it survives" "$(state front)" running
strata stop -t 0 front >/dev/null
ok "--rm is kept without the command" eventually bash -c "! $STRATA inspect front >/dev/null 2>&1"

# --- output ------------------------------------------------------------------------------------------------------------------

is "no byte is lost to a slow reader" \
        "$(strata run --rm --network none busybox sh -c 'yes 0123456789abcdef | head -c 3000000' | (sleep 1; cat) | md5sum)" \
        "$(yes 0123456789abcdef | head -c 3000000 | md5sum)"
is "input arrives whole" "$(head -c 2000000 /dev/zero | strata run --rm -i --network none busybox wc -c)" 2000000
strata run --name rotated --network none --log-opt max-size=10k --log-opt max-file=3 busybox sh -c 'seq 3000' >/dev/null
files=("$STRATA_ROOT"/instances/*/log*)
is "logs are rotated" "${#files[@]}" 3
is "the newest lines are there, in order" "$(strata logs -n 5 rotated | tr '\n' ' ')" "2996 2997 2998 2999 3000 "
ok "the oldest are not" test "$(strata logs rotated | wc -l)" -lt 3000
strata rm rotated >/dev/null
strata run -d --name follow --network none busybox sh -c 'for i in 1 2 3; do echo $i; sleep 0.3; done' >/dev/null
is "logs -f ends with the container" "$(timeout 20 "$STRATA" logs -f follow | tr '\n' ' ')" "1 2 3 "
strata rm -f follow >/dev/null

# --- init ----------------------------------------------------------------------------------------------------------------------

strata run -d --name init --init --network none busybox sh -c '(sleep 0.2 & exec sleep 0.1) & trap "exit 4" TERM; while :; do sleep 0.1; done' >/dev/null
sleep 0.8
no_orphans() { # a zombie whose parent is not the init is not its to reap
        ! strata exec init ps -o stat,ppid | grep -q '^Z.* 1$'
}
ok "--init reaps what the command leaves behind" eventually no_orphans
strata stop -t 5 init >/dev/null
is "and passes signals on" "$(strata inspect -f '{{.State.ExitCode}}' init)" 4
strata rm init >/dev/null

# --- rights --------------------------------------------------------------------------------------------------------------------

run --network none busybox grep -E '^(Seccomp|NoNewPrivs|CapEff):' /proc/self/status
is "the default filter and capabilities" "${out//$'\t'/ }" $'CapEff: 00000000a80425fb\nNoNewPrivs: 0\nSeccomp: 2'
run --network none busybox unshare -m true
ok "namespaces are not for containers" test "$status" != 0
run --network none --security-opt seccomp=unconfined --cap-add SYS_ADMIN busybox unshare -m true
is "unless that is asked for" "$status" 0
run --network none busybox sh -c 'echo 1 >/proc/sys/kernel/panic'
ok "nor are the host's settings" test "$status" != 0

# --- files ----------------------------------------------------------------------------------------------------------------------

mkdir "$TMPDIR/host" && echo secret >"$TMPDIR/host/file"
strata run -d --name files --network none busybox sh -c "ln -s $TMPDIR/host /out; ln -s ../../../../../../../..$TMPDIR/host /up; mkdir -p $TMPDIR/host; echo inside >$TMPDIR/host/file; sleep 1000" >/dev/null
ok "links are made" eventually strata exec files test -e "$TMPDIR/host/file"
is "cp out of a link stays inside" "$(strata cp files:/out/file - | tar xO)" inside
is "also with .." "$(strata cp files:/up/file - | tar xO)" inside
echo new >"$TMPDIR/new"
strata cp "$TMPDIR/new" files:/out/new >/dev/null 2>&1
ok "cp into a link stays inside" test ! -e "$TMPDIR/host/new"
is "and is there" "$(strata exec files cat "$TMPDIR/host/new")" new
tar -C "$TMPDIR" -cf "$TMPDIR/dots.tar" --transform 's|^new|../../../../../tmp/strata-escaped|' -P new
strata cp - files:/tmp <"$TMPDIR/dots.tar" >/dev/null 2>&1
ok "an archive with .. makes nothing outside" test ! -e /tmp/strata-escaped
strata stop -t 0 files >/dev/null
is "cp from a stopped one" "$(strata cp files:/out/file - | tar xO)" inside
is "nothing stays mounted for it" "$(grep -c "$TMPDIR" /proc/self/mountinfo)" 0
strata rm files >/dev/null

is "volumes are filled from the image once" "$(strata run --rm -v filled:/data --network none busybox sh -c 'cat /data/seed; mv /data/seed /data/mine'; strata run --rm -v filled:/data --network none busybox ls /data)" $'from the image\nmine'
strata run -d --name owner -v filled:/data -v /anonymous --network none busybox sleep 1000 >/dev/null
run --volumes-from owner --network none busybox sh -c 'echo x >/data/x; test -d /anonymous'
is "--volumes-from" "$status $(strata exec owner cat /data/x)" "0 x"
strata rm -fv owner >/dev/null
is "rm -v takes anonymous volumes alone" "$(strata volume ls -q)" filled

strata system check >"$TMPDIR/check" 2>&1
is "nothing is wrong at the end" "$?" 0 || show "$TMPDIR/check"
# --- those who clean up are killed ----------------------------------------------------------------------------------------

mkdir "$TMPDIR/programs"
ln -s "$(realpath "$BUILD")"/strata-* "$TMPDIR/programs/"
cat >"$TMPDIR/programs/strata" <<END
#!/bin/bash
read -r kills <"$TMPDIR/kills"
[ "\$1" = instance-clean ] && [ "\$kills" -gt 0 ] && echo \$((kills - 1)) >"$TMPDIR/kills" && kill -9 \$\$
exec "$STRATA" "\$@"
END
chmod +x "$TMPDIR/programs/strata"
no_groups_of() {
        [ -z "$(find /sys/fs/cgroup -maxdepth 2 -name "strata-$1")" ]
}
ended_with() { # NAME CODE
        [ "$(strata inspect -f '{{.State.Status}} {{.State.ExitCode}}' "$1")" = "exited $2" ]
}
for kills in 1 9; do
        echo $kills >"$TMPDIR/kills"
        id=$(STRATA_PROGRAMS=$TMPDIR/programs strata run -d --name cleaned --network none busybox sh -c 'exit 3')
        ok "$kills of them: the supervisor has tried three times at most" eventually grep -qx $((kills > 3 ? kills - 3 : 0)) "$TMPDIR/kills"
        ok "$kills of them: the container has ended with its status" eventually ended_with cleaned 3
        ok "$kills of them: no group is left" eventually no_groups_of "$id"
        ok "$kills of them: nothing is amiss" strata system check
        strata rm cleaned >/dev/null
done

# --- a rename is killed -----------------------------------------------------------------------------------------------------

id=$(strata create --name first --network none busybox true)
# killed_rename OLD NEW: what it leaves when it has taken the new name.
killed_rename() {
        ln -s "$id" "$STRATA_ROOT/names/$2"
        printf '%s %s' "$1" "$2" >"$STRATA_ROOT/instances/$id/renaming"
}
names_of() {
        find "$STRATA_ROOT/names" -lname "$id" -printf '%f '
}
killed_rename first second
strata rename first third >/dev/null
is "a rename takes away what another left" "$(names_of)" "third "
killed_rename third fourth
strata rm third >/dev/null
is "so does rm" "$(names_of)" ""

done_testing
