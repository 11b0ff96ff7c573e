#!/bin/bash
# test: timeout=300
# Debian's podman with our runtime: it builds, runs, executes, limits, pauses, stops and removes as its users expect.
. "$(dirname "$0")/podman.bash"
cd "$TMPDIR" || exit # conmon leaves a file "oom" where it stands when a container had too little memory

make_busybox "$TMPDIR/rootfs"
tar -C "$TMPDIR/rootfs" -cf "$TMPDIR/rootfs.tar" .
quiet pod import "$TMPDIR/rootfs.tar" base:1 || skip_all "podman does not work here"
cgroup_before=$(find /sys/fs/cgroup -type d -name '*libpod*' 2>/dev/null | wc -l)

# --- run
pod_run --rm base:1 true
[ "$status" = 0 ] || {
        # Whether it is ours is what Debian's own runtime tells.
        show "$TMPDIR/errors"
        OCI=$(command -v crun || command -v runc)
        pod_run --rm base:1 true
        [ "$status" = 0 ] || skip_all "podman runs nothing here, with $OCI neither"
        ok "run: a container" false
        done_testing
        exit
}
pod_run --rm -e A=b -w /tmp --hostname box --user user base:1 sh -c 'echo $A $(pwd) $(hostname) $(id -u):$(id -g) $HOME; echo bad >&2; exit 7'
is "run: variables, directory, host name, user" "$out" "b /tmp box 1000:1000 /home/user"
is "run: stderr is stderr" "$errors" bad
is "run: the exit status" "$status" 7
is "run -i: standard input arrives" "$(echo text | pod run "${pod_limits[@]}" --network none -i --rm base:1 cat)" text
is "run -t: a terminal of the size asked for" \
        "$(script -qec "stty rows 31 cols 91; podman --root $TMPDIR/pod --runroot $TMPDIR/podrun --tmpdir $TMPDIR/podtmp --storage-driver overlay \
        --cgroup-manager cgroupfs --events-backend none --network-config-dir $TMPDIR/podnet --runtime $OCI run ${pod_limits[*]} --network none \
        --rm -it base:1 sh -c 'sleep 0.5; tty; stty size'" /dev/null </dev/null | tr -d '\r' | grep -oE '(/dev/)?[0-9a-z/]+( 91)?$' | tr '\n' ' ')" "/dev/pts/0 31 91 "
pod_run --rm base:1 nothing-there
is "run: a program that is missing is 127" "$status" 127
pod_run --rm base:1 /etc/passwd
is "run: a file that is no program is 126" "$status" 126

mkdir -p "$TMPDIR/volume" && echo from the host >"$TMPDIR/volume/file"
pod_run --rm --read-only -v "$TMPDIR/volume:/volume:ro" --tmpfs /fresh:size=1m --mount type=bind,src="$TMPDIR/volume",dst=/writable base:1 \
        sh -c 'cat /volume/file; for d in / /volume /fresh /writable; do touch $d/new 2>/dev/null && echo $d; done'
is "run: read-only root and volume, tmpfs, bind" "$(tr '\n' ' ' <<<"$out")" "from the host /fresh /writable "
pod_run --rm base:1 grep -E '^(NoNewPrivs|Seccomp|CapEff|CapAmb):' /proc/self/status
ok "run: podman's seccomp profile is on" has "$out" $'Seccomp:\t2'
pod_run --rm --security-opt no-new-privileges --cap-drop all --cap-add net_raw base:1 grep -E '^(NoNewPrivs|CapEff):' /proc/self/status
is "run: capabilities and no-new-privileges" "$(tr -d '\t\n' <<<"$out")" CapEff:0000000000002000NoNewPrivs:1
pod_run --rm base:1 sh -c 'mount -t tmpfs none /tmp; echo x >/proc/sys/kernel/hostname; ls -l /proc/keys | cut -c1'
ok "run: no mounts" has "$errors" "mount: permission denied"
ok "run: read-only paths" has "$errors" "/proc/sys/kernel/hostname: Read-only file system"
is "run: masked paths" "$out" c
pod_run --rm --uidmap 0:100000:65536 --gidmap 0:100000:65536 base:1 sh -c 'cat /proc/self/uid_map; id -u; stat -c %u /bin'
is "run --uidmap: a user namespace" "$(tr -s ' \n' ' ' <<<"$out")" " 0 100000 65536 0 0 "
pod_run --rm --pid host --ipc host --uts host base:1 sh -c 'for n in pid ipc uts; do readlink /proc/self/ns/$n; done'
is "run: the host's namespaces where they are asked for" "$out" "$(readlink /proc/self/ns/pid /proc/self/ns/ipc /proc/self/ns/uts)"
pod_run --rm --sysctl kernel.msgmax=5000 --device /dev/null:/dev/nothing --shm-size 1m base:1 \
        sh -c 'cat /proc/sys/kernel/msgmax; ls -l /dev/nothing | cut -c1; df /dev/shm | tail -n 1 | tr -s " " | cut -d" " -f2; ulimit -n'
is "run: sysctl, device, /dev/shm, ulimit" "$(tr '\n' ' ' <<<"$out")" "5000 c 1024 1024 "

# --- limits
v1=/sys/fs/cgroup
if [ -d $v1/memory ]; then
        pod_run --rm -m 32m --memory-reservation 16m --pids-limit 50 --cpus 0.5 --cpu-shares 300 base:1 sh -c "
                cat $v1/memory/memory.limit_in_bytes $v1/memory/memory.soft_limit_in_bytes $v1/pids/pids.max $v1/cpu/cpu.cfs_quota_us $v1/cpu/cpu.shares"
        is "limits: memory, processes, processors" "$(tr '\n' ' ' <<<"$out")" "33554432 16777216 50 50000 300 "
else
        pod_run --rm -m 32m --pids-limit 50 --cpus 0.5 base:1 sh -c "cat $v1/memory.max $v1/pids.max $v1/cpu.max"
        is "limits: memory, processes, processors" "$(tr '\n' ' ' <<<"$out")" "33554432 50 50000 100000 "
fi
pod_run --name fat -m 16m --memory-swap 16m base:1 tail -c 60m /dev/zero
is "limits: more memory is not to be had" "$status" 137
pod rm -f fat >/dev/null 2>&1

# --- a container's life
pod_run -d --name life base:1 sh -c 'trap "echo asked to go; exit 3" TERM; echo begun; while :; do sleep 0.1; done'
is "run -d: ends with 0" "$status" 0
is "inspect: it runs with our runtime" "$(pod inspect -f '{{.State.Status}} {{.OCIRuntime}}' life)" "running $OCI"
is "exec: status" "$(pod exec life sh -c 'exit 9' 2>/dev/null; echo $?)" 9
is "exec: variables, directory, user" "$(pod exec -e C=d -w /tmp -u 1000 life sh -c 'echo $C $(pwd) $(id -u)')" "d /tmp 1000"
is "exec -i: standard input" "$(echo in | pod exec -i life cat)" in
is "exec: in the container's namespaces" "$(pod exec life readlink /proc/self/ns/pid)" "$(pod exec life readlink /proc/1/ns/pid)"
ok "top: its processes" has "$(pod top life args 2>&1)" "sh -c trap"
ok "stats: its use" has "$(pod stats --no-stream --format '{{.Name}} {{.PIDs}}' life 2>&1)" "life "
ticks() { pod exec life true >/dev/null 2>&1; }
quiet pod pause life
is "pause: is paused" "$(pod inspect -f '{{.State.Status}}' life)" paused
ok "pause: nothing can be executed" test "$(ticks; echo $?)" != 0
quiet pod unpause life
is "unpause: runs again" "$(pod inspect -f '{{.State.Status}}' life)" running
ok "unpause: and executes" ticks
pod cp "$TMPDIR/volume/file" life:/tmp/copied && is "cp: into it" "$(pod exec life cat /tmp/copied)" "from the host"
ok "commit: its files become an image" quiet pod commit life committed:1
pod_run --rm committed:1 cat /tmp/copied
is "commit: with what was copied" "$out" "from the host"
ok "stop" quiet pod stop -t 5 life
is "stop: the signal was SIGTERM" "$(pod logs life 2>&1 | tr '\n' ' ')" "begun asked to go "
is "stop: the program's own status" "$(pod inspect -f '{{.State.ExitCode}}' life)" 3
ok "start: again" quiet pod start life
ok "kill: a signal of choice" quiet pod kill -s KILL life
is "wait: killed is 137" "$(pod wait life)" 137
ok "rm" quiet pod rm life
pod_run -d --name stubborn --init base:1 sleep 1000
if [ "$status" = 0 ]; then
        is "--init: something else is the first process" "$(pod exec stubborn sh -c 'readlink /proc/1/exe' | grep -c busybox)" 0
        pod rm -f -t 0 stubborn >/dev/null 2>&1
else
        skip "--init" "podman has no init program here"
fi

# --- pods share namespaces
if quiet pod create --name hold "${pod_limits[@]}" --network none base:1 sleep 1000 && quiet pod start hold; then
        pod_run --rm --pid container:hold --ipc container:hold base:1 sh -c 'readlink /proc/self/ns/ipc; ps | grep -c "[s]leep 1000"'
        is "another container's namespaces" "$out" "$(pod exec hold readlink /proc/self/ns/ipc)"$'\n1'
        pod rm -f -t 0 hold >/dev/null 2>&1
fi

# --- network
if out=$(pod run "${pod_limits[@]}" -d --name web -p 127.0.0.1:8099:80 base:1 sh -c 'echo reply >/tmp/index.html; exec httpd -f -p 80 -h /tmp' 2>&1); then
        is "network: a container has an address on the bridge" "$(pod exec web sh -c 'ip -o -4 addr show eth0 | wc -l')" 1
        replies() {
                [ "$(curl -sm 10 http://127.0.0.1:8099/index.html)" = reply ]
        }
        ok "network: a published port" eventually replies
        pod rm -f -t 0 web >/dev/null 2>&1
else
        skip "network: a bridge" "podman has no bridges here: ${out##*$'\n'}"
fi

# --- build
mkdir "$TMPDIR/context" && echo context >"$TMPDIR/context/file"
cat >"$TMPDIR/context/Dockerfile" <<'END'
FROM base:1
WORKDIR /work
COPY file copied
RUN cat copied > made && id -u >> made
USER user
RUN id -u > /tmp/user
CMD ["cat", "/work/made", "/tmp/user"]
END
ok "build: RUN by our runtime" quiet pod build "${pod_limits[@]}" --network none --isolation oci -t built:1 "$TMPDIR/context"
pod_run --rm built:1
is "build: what RUN made" "$(tr '\n' ' ' <<<"$out")" "context 0 1000 "
printf 'FROM base:1\nRUN exit 5\n' >"$TMPDIR/context/Dockerfile"
pod build "${pod_limits[@]}" --network none --isolation oci "$TMPDIR/context" >"$TMPDIR/out" 2>&1
is "build: RUN that fails ends it" $? 5

pod rm -af -t 0 >/dev/null 2>&1
is "no container of ours is left" "$("$OCI" list -q | wc -l)" 0
is "no control group is left" "$(find /sys/fs/cgroup -type d -name '*libpod*' 2>/dev/null | wc -l)" "$cgroup_before"
ok "no process is left" test -z "$(pgrep -f "conmon.*$TMPDIR")"
done_testing
