#!/bin/bash
# test: fast timeout=120
# The systemd driver asks for the right scope. systemd is played by a script in busctl's place that makes the group in the named v1 hierarchy;
# what systemd itself makes of such calls was seen with systemd 252 on full v2 (docs/adr/0030).
. "$(dirname "$0")/lib.sh"
oci=$BUILD/strata-oci
named=/sys/fs/cgroup/systemd
[ "$(id -u)" = 0 ] || skip_all "not root"
[ -x "$oci" ] || skip_all "strata-oci is not built"
[ -w "$named/cgroup.procs" ] || skip_all "no v1 hierarchy name=systemd that may be written"
[ ! -d /run/systemd/system ] || skip_all "a real systemd runs here"

slice=strata-test-$$.slice
mkdir -p "$TMPDIR"/{fake,bundle/rootfs/{bin,proc}}
cp "$(command -v busybox)" "$TMPDIR/bundle/rootfs/bin/sleep"
cat >"$TMPDIR/fake/busctl" <<END
#!/bin/bash
echo "\$*" >>"$TMPDIR/calls"
group=$named/$slice/\$8
case \$6 in
StartTransientUnit)
        [ ! -e "$TMPDIR/refuse" ] || { echo "Call failed: refused by the test" >&2; exit 1; }
        mkdir -p "\$group"
        while [ "\$1" != PIDs ]; do shift; done
        echo "\$4" >"\$group/cgroup.procs"
        ;;
esac
END
chmod +x "$TMPDIR/fake/busctl"

# oci ARGUMENT...: strata-oci on a host where systemd seems to run, which is seen in no other namespace.
oci() {
        # shellcheck disable=SC2016 # for the inner shell
        unshare -m sh -c 'mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && PATH='"$TMPDIR/fake"':$PATH exec "$@"' sh "$oci" --root "$TMPDIR/oci" "$@"
}

config() {
        cat >"$TMPDIR/bundle/config.json" <<END
{"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["/bin/sleep", "1000"], "env": []},
 "annotations": {$2}, "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
 "linux": {"cgroupsPath": "$1", "namespaces": [{"type": "pid"}, {"type": "mount"}],
  "resources": {"memory": {"limit": 67108864}, "pids": {"limit": 20}, "cpu": {"shares": 512, "quota": 12345}}}}
END
}

asked() {
        grep -qF -- "$1" "$TMPDIR/calls" && return
        sed 's/^/# /' "$TMPDIR/calls"
        return 1
}

config "$slice:pre:box" '"org.systemd.property.TimeoutStopSec": "uint64 7", "org.systemd.property.CollectMode": "'"'failed'"'"'
cd "$TMPDIR/bundle" || exit 1
create() {
        oci --systemd-cgroup create box </dev/null >/dev/null
}
ok "create succeeds" create
ok "a scope is asked for by its name" asked 'StartTransientUnit ssa(sv)a(sa(sv)) pre-box.scope fail'
ok "it goes into the slice" asked "Slice s $slice"
ok "systemd leaves its inside alone" asked "Delegate b true"
ok "memory is a property" asked "MemoryLimit t 67108864"
ok "pids are a property" asked "TasksMax t 20"
ok "shares are a property" asked "CPUShares t 512"
ok "a quota is rounded up to whole percents" asked "CPUQuotaPerSecUSec t 130000"
ok "times of annotations are microseconds" asked "TimeoutStopUSec t 7000000"
ok "texts of annotations are texts" asked "CollectMode s failed"
is "other hierarchies have the group at the same path" "$(cat "/sys/fs/cgroup/pids/$slice/pre-box.scope/pids.max" 2>&1)" 20
ok "the container's process is in the scope" grep -q "name=systemd:/$slice/pre-box.scope" "/proc/$("$oci" --root "$TMPDIR/oci" state box | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')/cgroup"
ok "update succeeds" oci update --pids-limit 9 box
ok "update changes the property" asked "SetUnitProperties sba(sv) pre-box.scope true 1 TasksMax t 9"
ok "delete succeeds" oci delete --force box
ok "delete stops the unit" asked "StopUnit ss pre-box.scope replace"
is "no group is left" "$(find /sys/fs/cgroup -name pre-box.scope)" ""

fails_with() {
        local text=$1
        shift
        ! "$@" </dev/null >"$TMPDIR/out" 2>&1 && grep -qF -- "$text" "$TMPDIR/out" && return
        show "$TMPDIR/out"
        return 1
}
touch "$TMPDIR/refuse"
ok "systemd's own words reach the user" fails_with "refused by the test" oci --systemd-cgroup create box
is "a refused container leaves no group" "$(find /sys/fs/cgroup -name pre-box.scope)" ""
rm "$TMPDIR/refuse"
config "/not/for/systemd" ""
ok "another kind of path is refused" fails_with 'to be of format "slice:prefix:name"' oci --systemd-cgroup create box
config "$slice:../x:box" ""
ok "a name that is a path is refused" fails_with "does not name a slice and a scope" oci --systemd-cgroup create box
config "$slice:pre:box" '"org.systemd.property.What": "nonsense"'
ok "a value without a type is refused" fails_with "no value that we can hand to systemd" oci --systemd-cgroup create box
ok "without systemd the driver says so" fails_with "systemd not running" "$oci" --root "$TMPDIR/oci" --systemd-cgroup create box
find /sys/fs/cgroup -depth -name "$slice" -exec rmdir {} \;
done_testing
