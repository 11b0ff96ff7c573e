# Sourced by the tests that have podman as their peer: one of the test's own, with our runtime, in a network namespace in which
# its bridges and ports are nobody else's.
# shellcheck shell=bash

if [ -z "${STRATA_TEST_NETNS:-}" ] && [ "$(id -u)" = 0 ]; then
        export STRATA_TEST_NETNS=1
        exec unshare -n "$0" "$@"
fi

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

OCI=$BUILD/strata-oci
[ "$(id -u)" = 0 ] || skip_all "needs root"
[ -x "$OCI" ] || skip_all "$OCI is not built"
command -v podman >/dev/null || skip_all "podman is not installed"
BUSYBOX=$(command -v busybox) || skip_all "busybox is not installed"
ip link set lo up

pod() {
        podman --root "$TMPDIR/pod" --runroot "$TMPDIR/podrun" --tmpdir "$TMPDIR/podtmp" --storage-driver overlay --cgroup-manager cgroupfs \
                --events-backend none --network-config-dir "$TMPDIR/podnet" --runtime "$OCI" "$@"
}

# Root here may not raise limits; podman's defaults do.
pod_limits=(--ulimit nofile=1024:1024 --ulimit nproc=1024:1024)

# pod_run OPTION... IMAGE...: `podman run`; what it said in out and errors, its status in status.
pod_run() {
        out=$(pod run "${pod_limits[@]}" --network none "$@" 2>"$TMPDIR/errors" </dev/null)
        status=$?
        # shellcheck disable=SC2034 # for the caller
        errors=$(cat "$TMPDIR/errors")
}

pod_clean_up() {
        pod pod rm -af >/dev/null 2>&1
        pod rm -af -t 0 >/dev/null 2>&1
        umount "$TMPDIR/pod/overlay" 2>/dev/null
}
trap pod_clean_up EXIT

quiet() {
        "$@" >"$TMPDIR/out" 2>&1 || {
                show "$TMPDIR/out"
                return 1
        }
}

# has TEXT PART
has() {
        [[ $1 == *"$2"* ]] && return
        printf '# got:  %s\n# part: %s\n' "$1" "$2"
        return 1
}
