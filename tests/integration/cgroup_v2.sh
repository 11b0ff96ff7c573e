#!/bin/bash
# test: timeout=600
# cgroups of version 2 alone, which not every host has: the cgroup tests and strata-oci in a machine of our own.
. "$(dirname "$0")/lib.sh"
needs_vmm
for program in tests/unit/test_cgroup_host strata-oci; do
        [ -x "$BUILD/$program" ] || skip_all "$program is not built"
done
assets kernel busybox
log=$TMPDIR/console
tree=$TMPDIR/tree

# --- what the guest gets beside busybox -----------------------------------------------------------------------------

mkdir -p "$tree"/{tests,bundle/rootfs/{bin,proc,sys,dev}}
cp "$BUILD/tests/unit/test_cgroup_host" "$BUILD/strata-oci" "$tree/tests"
# The programs' libraries, at their own paths.
ldd "$tree/tests/test_cgroup_host" "$tree/tests/strata-oci" 2>/dev/null | grep -o '/[^ ]*' | grep '\.so' | sort -u | while read -r library; do
        mkdir -p "$tree$(dirname "$library")"
        cp -L "$library" "$tree$library"
done
cp "$(command -v busybox)" "$tree/bundle/rootfs/bin"
for applet in sh cat sleep grep; do
        ln -s busybox "$tree/bundle/rootfs/bin/$applet"
done

# config RESOURCES COMMAND: a bundle's config.json.
config() {
        cat <<END
{"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["/bin/sh", "-c", "$2"], "env": ["PATH=/bin"]},
 "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}, {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}],
 "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}], "resources": $1}}
END
}

limits='{"memory": {"limit": 67108864, "swap": 67108864, "reservation": 33554432}, "pids": {"limit": 20}, "cpu": {"shares": 1024, "quota": 50000, "burst": 1000, "cpus": "0"},
 "unified": {"memory.high": "60000000"}, "devices": [{"allow": false}]}'
# shellcheck disable=SC2016 # for the shell in the container
show_files='cd /sys/fs/cgroup && for f in memory.max memory.low memory.high pids.max cpu.weight cpu.max cpu.max.burst cpuset.cpus; do echo inside $f $(cat $f); done; echo inside group $(cat /proc/self/cgroup)'
config "$limits" "$show_files" >"$tree/bundle/limits.json"
config "$limits" "exec sleep 1000" >"$tree/bundle/sleep.json"

cat >"$tree/run.sh" <<'END'
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo "v2: controllers $(cat /sys/fs/cgroup/cgroup.controllers)"
CMOCKA_MESSAGE_OUTPUT=TAP /tests/test_cgroup_host
echo "v2: unit tests ended with $?"
oci="/tests/strata-oci --root /tmp/oci"
cd /bundle
cp limits.json config.json
$oci run --no-pivot limits
echo "v2: run ended with $?"
cp sleep.json config.json
$oci create --no-pivot sleeper </dev/null >/dev/null && $oci start sleeper
group=/sys/fs/cgroup/sleeper
[ -d $group ] || group=$(find /sys/fs/cgroup -type d -name sleeper)
$oci pause sleeper
echo "v2: frozen $(cat $group/cgroup.freeze)" $($oci state sleeper | grep -o paused)
$oci resume sleeper
echo "v2: thawed $(cat $group/cgroup.freeze)" $($oci state sleeper | grep -o running)
$oci update --memory 134217728 --memory-swap 134217728 --pids-limit 7 sleeper
echo "v2: updated $(cat $group/memory.max) $(cat $group/pids.max)"
$oci events --stats sleeper | grep -q '"limit": *134217728' && echo "v2: stats know the limit"
$oci delete --force sleeper
echo "v2: deleted $?"
echo "v2: groups left: $(find /sys/fs/cgroup -mindepth 1 -type d | wc -l)"
END

(cd "$tree" && find . | cpio --quiet -o -H newc -R 0:0) >"$TMPDIR/extra.cpio"
cat "$ASSETS/busybox.cpio" "$TMPDIR/extra.cpio" >"$TMPDIR/guest.cpio"

# --- the machine ----------------------------------------------------------------------------------------------------

VM_TIMEOUT=540
vm "$log" --kernel "$ASSETS/vmlinuz" --initrd "$TMPDIR/guest.cpio" --memory 512M --cpus 2 --net none --append "$KERNEL_LINE quiet"
is "the machine powers off" "$vm_status" 0 || show "$log"
is "the unit tests pass on version 2" "$(line_after "$log" 'v2: unit tests ended with ')" 0 || show "$log"
is "a container with limits runs" "$(line_after "$log" 'v2: run ended with ')" 0 || show "$log"
while read -r file wanted; do
        is "inside, $file is as asked" "$(line_after "$log" "inside $file ")" "$wanted"
done <<'END'
memory.max 67108864
memory.low 33554432
memory.high 59998208
pids.max 20
cpu.weight 100
cpu.max 50000 100000
cpu.max.burst 1000
cpuset.cpus 0
group 0::/
END
is "pause freezes the group" "$(line_after "$log" 'v2: frozen ')" "1 paused"
is "resume thaws it" "$(line_after "$log" 'v2: thawed ')" "0 running"
is "update changes a running container's limits" "$(line_after "$log" 'v2: updated ')" "134217728 7"
ok "events --stats reports them" says "$log" "v2: stats know the limit"
is "delete succeeds" "$(line_after "$log" 'v2: deleted ')" 0
is "no group is left" "$(line_after "$log" 'v2: groups left: ')" 0
done_testing
