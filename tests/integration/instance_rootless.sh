#!/bin/bash
# test: timeout=120
# Containers (or machines) of a user who is not root: run, ps, exec, cp, stop from different commands, which meet in one user namespace.
if [ -z "${STRATA_TEST_USER:-}" ]; then
        . "$(dirname "$0")/run_lib.sh"
        chmod 755 "$TMPDIR"
        busybox_image busybox
        mkdir "$TMPDIR/home" && cp "$TMPDIR/busybox.tar" "$TMPDIR/home/" && chown -R 23456:23456 "$TMPDIR/home"
        # What the user can reach: the build may be in a directory that is root's alone.
        mkdir "$TMPDIR/bin" && cp "$BUILD"/strata{,-supervise,-resolve,-vmm,-init} "$TMPDIR/bin/"
        in_vm && cp -rL "$ASSETS/vmlinuz" "$ASSETS/kernel/lib/modules" "$TMPDIR/home/" && chmod -R a+rX "$TMPDIR/home"
        setpriv --reuid=23456 --regid=23456 --clear-groups test -x "$TMPDIR/bin/strata" || skip_all "users cannot reach $TMPDIR"
        setpriv --reuid=23456 --regid=23456 --clear-groups unshare -U true 2>/dev/null || skip_all "users have no namespaces here"
        cp "$ROOT"/tests/integration/{lib.sh,instance_rootless.sh} "$TMPDIR/bin/"
        dir=$TMPDIR
        STRATA_TEST_USER=1 HOME=$dir/home TMPDIR=$dir/home STRATA=$dir/bin/strata \
                setpriv --reuid=23456 --regid=23456 --clear-groups bash "$dir/bin/instance_rootless.sh"
        exit
fi
. "$(dirname "$0")/lib.sh"
export STRATA_ROOT=$TMPDIR/root
strata() {
        "$STRATA" "$@"
}
strata image import "$TMPDIR/busybox.tar" busybox >/dev/null
[ "${STRATA_ISOLATION:-}" != vm ] || strata kernel import --modules "$(echo "$TMPDIR"/modules/*)" "$TMPDIR/vmlinuz" >/dev/null

is "run" "$(strata run --rm --network none busybox sh -c 'id -u; echo $$')" $'0\n1'
is "its status" "$(strata run --rm --network none busybox sh -c 'exit 4'; echo $?)" 4
strata run -d --name one --network none -v vol:/vol busybox sh -c 'echo here >/vol/file; sleep 1000' >/dev/null
is "ps" "$(strata ps --format '{{.Names}} {{.State}}')" "one running"
for _ in $(seq 400); do
        strata exec one test -e /vol/file && break
        sleep 0.05
done
ok "exec joins it" strata exec one test -e /vol/file
is "cp out" "$(strata cp one:/vol/file - | tar xO)" here
is "lo is up" "$(strata exec one cat /sys/class/net/lo/operstate)" unknown
strata run -d --name two --network none busybox sleep 1000 >/dev/null
is "a second one beside it" "$(strata ps -q | wc -l)" 2
is "exec in both" "$(strata exec one echo 1; strata exec two echo 2)" $'1\n2'
strata stop -t 0 one >/dev/null
is "stop" "$(strata inspect -f '{{.State.Status}} {{.State.ExitCode}}' one)" "exited 137"
strata start one >/dev/null
is "start" "$(strata inspect -f '{{.State.Status}}' one)" running
strata rm -f one two >/dev/null
is "rm" "$(strata ps -aq)" ""
is "volumes stay" "$(strata run --rm --network none -v vol:/vol busybox cat /vol/file)" here
done_testing
