# Sourced by the tests of `strata run` and its relatives: a root of the test's own, an image of busybox, a network namespace
# in which bridges and ports are nobody else's. The same tests are run for each wall (run_*_vm.sh): strata takes it from
# STRATA_ISOLATION. What cannot be the same says so by `differs`.
# shellcheck shell=bash

if [ -z "${STRATA_TEST_NETNS:-}" ] && [ "$(id -u)" = 0 ]; then
        export STRATA_TEST_NETNS=1
        # GUESTS: what the test will ask `assets` for. Packages come from a network that is out of reach afterwards; what went wrong is said then.
        # shellcheck disable=SC2086 # several words
        [ -z "${GUESTS:-}" ] || "${BASH_SOURCE[0]%/*}/../../scripts/guest-assets" --dir "${ASSETS:-${BASH_SOURCE[0]%/*}/../../build/assets}" $GUESTS >&2 || true
        exec unshare -n "$0" "$@"
fi

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

export STRATA_ROOT=$TMPDIR/root
unset STRATA_IMAGE_ROOT STRATA_NET_ROOT XDG_RUNTIME_DIR
[ "$(id -u)" = 0 ] || skip_all "not root"
[ -x "$STRATA" ] || skip_all "$STRATA is not built"
BUSYBOX=$(command -v busybox) || skip_all "busybox is not installed"
ip link set lo up

strata() {
        "$STRATA" "$@"
}

WALL=${STRATA_ISOLATION:-container}
in_vm() {
        [ "$WALL" = vm ]
}
! in_vm || EVENTUALLY=60 # machines boot meanwhile

# differs REASON NAME...: promises that a machine does not make.
differs() {
        local reason=$1 name
        shift
        for name in "$@"; do skip "$name" "not with --isolation vm: $reason"; done
}

# Machines need a kernel: the one that all guests of the tests have.
if in_vm; then
        [ -s "$ASSETS/vmlinuz" ] || skip_all "there is no kernel in $ASSETS (scripts/guest-assets kernel)"
        strata kernel import --modules "$(echo "$ASSETS"/kernel/lib/modules/*)" "$ASSETS/vmlinuz" >/dev/null ||
                skip_all "no kernel could be imported"
fi

# Everything that was made goes, also after a failure.
clean_up() {
        local ids
        ids=$(strata ps -aq 2>/dev/null)
        # shellcheck disable=SC2086 # words
        [ -z "$ids" ] || strata rm -fv $ids >/dev/null 2>&1
        strata network prune -f >/dev/null 2>&1
}
trap clean_up EXIT

# busybox_image NAME [CHANGE...]: imports an image of busybox's commands.
busybox_image() {
        local name=$1 d=$TMPDIR/busybox program changes=()
        shift
        if [ ! -e "$d" ]; then
                make_busybox "$d"
                mkdir "$d/data"
                echo 'extra:x:2000:user' >>"$d/etc/group"
                chown -R 1000:1000 "$d/home/user"
                echo 'from the image' >"$d/data/seed"
                echo 'no program' >"$d/bin/not-executable"
        fi
        for program in "$@"; do
                changes+=(-c "$program")
        done
        tar -C "$d" -cf "$TMPDIR/busybox.tar" .
        strata image import "${changes[@]}" "$TMPDIR/busybox.tar" "$name" >/dev/null
}

# run OPTION... IMAGE...: `strata run --rm`; what it said in out and errors, its status in status.
run() {
        out=$(strata run --rm "$@" 2>"$TMPDIR/errors" </dev/null)
        status=$?
        # shellcheck disable=SC2034 # for the caller
        errors=$(cat "$TMPDIR/errors")
}

# try COMMAND...: the same of any command.
try() {
        out=$(strata "$@" 2>"$TMPDIR/errors" </dev/null)
        # shellcheck disable=SC2034 # for the caller
        status=$?
        # shellcheck disable=SC2034 # for the caller
        errors=$(cat "$TMPDIR/errors")
}

# user_place PROGRAM...: a home for the user 23456, with the image busybox.tar and copies of our programs: the build may be in a directory
# that is root's alone.
user_place() {
        local program
        chmod 755 "$TMPDIR"
        busybox_image busybox
        mkdir "$TMPDIR/home" "$TMPDIR/bin" && cp "$TMPDIR/busybox.tar" "$TMPDIR/home/" && chown -R 23456:23456 "$TMPDIR/home"
        for program in strata{,-supervise,-resolve} "$@"; do cp "$BUILD/$program" "$TMPDIR/bin/"; done
        setpriv --reuid=23456 --regid=23456 --clear-groups test -x "$TMPDIR/bin/strata" || skip_all "users cannot reach $TMPDIR"
        setpriv --reuid=23456 --regid=23456 --clear-groups unshare -U true 2>/dev/null || skip_all "users have no namespaces here"
}

# as_user FILE...: this test again as that user, STRATA_TEST_USER set, with those beside it that belong to it.
as_user() {
        local dir=$TMPDIR file
        for file in lib.sh "${0##*/}" "$@"; do cp "$ROOT/tests/integration/$file" "$dir/bin/"; done
        STRATA_TEST_USER=1 HOME=$dir/home TMPDIR=$dir/home STRATA=$dir/bin/strata \
                setpriv --reuid=23456 --regid=23456 --clear-groups bash "$dir/bin/${0##*/}"
}

# device_node PATH MAJOR MINOR: everybody's, in this mount namespace.
device_node() {
        mkdir -p "$TMPDIR/nodes" "${1%/*}" && { mountpoint -q "$TMPDIR/nodes" || mount -t tmpfs none "$TMPDIR/nodes"; } &&
                mknod -m 666 "$TMPDIR/nodes/$3" c "$2" "$3" && touch "$1" && mount --bind "$TMPDIR/nodes/$3" "$1"
}

# has TEXT PART
has() {
        [[ $1 == *"$2"* ]] && return
        printf '# got:  %s\n# part: %s\n' "$1" "$2"
        return 1
}

# state NAME: running, exited, ...
state() {
        strata inspect -f '{{.State.Status}}' "$1"
}

is_ready() { # NAME: it said so
        [ "$(strata logs "$1")" = ready ]
}
is_state() {
        [ "$(state "$1" 2>/dev/null)" = "$2" ]
}
