# Sourced by the oci_*.sh tests: a busybox bundle, its configuration, our runtime with a state directory of its own.
# shellcheck shell=bash

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

OCI=$BUILD/strata-oci
bundle=$TMPDIR/bundle
oci_ids=()

[ -x "$OCI" ] || skip_all "$OCI is not built"
[ "$(id -u)" = 0 ] || skip_all "needs root"
busybox=$(command -v busybox) || skip_all "busybox is not installed"
unshare -m true 2>/dev/null || skip_all "this host refuses mount namespaces"

oci() {
        "$OCI" --root "$TMPDIR/state" "$@"
}

# Containers are named with this test's own number, so that nothing of another is met.
name() {
        echo "strata-test-$$-$1"
}

make_bundle() {
        local applet
        mkdir -p "$bundle"/rootfs/{bin,proc,sys,dev,tmp,etc,root}
        cp "$busybox" "$bundle/rootfs/bin/busybox"
        for applet in sh cat echo ls id sleep true false mount umount readlink test mkdir ln rm touch stat hostname env kill head dd grep ps wc tr chmod cp pwd; do
                ln -sf busybox "$bundle/rootfs/bin/$applet"
        done
        printf 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n' >"$bundle/rootfs/etc/passwd"
}

# config PYTHON: writes config.json: the usual one, changed by statements about c (the document), p (process), l (linux).
config() {
        (cd "$bundle" && rm -f config.json && "$OCI" spec && /usr/bin/python3 - "$1" <<'END'
import json, sys
c = json.load(open("config.json"))
p, l = c["process"], c["linux"]
p["terminal"] = False
exec(sys.argv[1])
json.dump(c, open("config.json", "w"))
END
        )
}

# sh_config SCRIPT [PYTHON]: a container that runs a shell script.
sh_config() {
        SCRIPT=$1 config "import os; p['args'] = ['/bin/sh', '-c', os.environ['SCRIPT']]
${2:-}"
}

# Runs the bundle to its end: output in $out (with errors), exit status in $status.
run() {
        out=$(cd "$bundle" && oci run "$(name run)" </dev/null 2>&1)
        status=$?
}

# says NAME TEXT: the last run failed and said so.
says() {
        ok "$1" test "$status" -ne 0 -a "${out/"$2"/}" != "$out" && return
        printf '# status %s, output: %s\n' "$status" "$out"
}

# Starts the bundle in the background under a name of its own.
start() {
        oci_ids+=("$(name "$1")")
        (cd "$bundle" && oci run -d "$(name "$1")" </dev/null >"$TMPDIR/$1.out" 2>&1)
}

cleanup() {
        local id
        for id in "${oci_ids[@]}" "$(name run)"; do
                oci delete -f "$id" >/dev/null 2>&1
        done
}
trap cleanup EXIT
