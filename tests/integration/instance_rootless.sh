#!/bin/bash
# test: timeout=120
# Containers (or machines) of a user who is not root: run, ps, exec, cp, stop from different commands, which meet in one user namespace.
if [ -z "${STRATA_TEST_USER:-}" ]; then
        . "$(dirname "$0")/run_lib.sh"
        user_place strata-vmm strata-init
        in_vm && cp -rL "$ASSETS/vmlinuz" "$ASSETS/kernel/lib/modules" "$TMPDIR/home/" && chmod -R a+rX "$TMPDIR/home"
        as_user
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
ok "exec joins it" eventually strata exec one test -e /vol/file
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
