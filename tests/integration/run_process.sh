#!/bin/bash
# test: timeout=240
# `strata run`: what is asked for is what the process finds; statuses and errors are docker's.
. "$(dirname "$0")/run_lib.sh"
busybox_image busybox 'CMD ["/bin/sh"]'

# --- status and streams ------------------------------------------------------------------------------------------------

run --network none busybox sh -c 'echo out; echo err >&2; exit 7'
is "the command's output is on standard output" "$out" out
is "its errors are on standard error" "$errors" err
is "its status is the status" "$status" 7
run --network none --init busybox sh -c 'kill -9 $$'
is "a signal is 128 + signal" "$status" 137
run --network none busybox /bin/missing
is "127: the command does not exist" "$status" 127
ok "the error names it" has "$errors" missing
run --network none busybox /bin/not-executable
is "126: it cannot be executed" "$status" 126
run --nonsense busybox true
is "125: a wrong option" "$status" 125
ok "the error has a hint" has "$errors" "hint: "
run --pull never nothing-of-that-name true
is "125: no such image" "$status" 125
# An image that says it is another architecture's.
mkdir "$TMPDIR/foreign" && cp "$TMPDIR/busybox.tar" "$TMPDIR/foreign/layer.tar"
printf '{"architecture":"arm64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
        "$(sha256sum <"$TMPDIR/busybox.tar" | cut -d' ' -f1)" >"$TMPDIR/foreign/config.json"
echo '[{"Config":"config.json","RepoTags":["foreign:1"],"Layers":["layer.tar"]}]' >"$TMPDIR/foreign/manifest.json"
tar -C "$TMPDIR/foreign" -c . | strata image load >/dev/null
strata tag busybox 127.0.0.1:1/busybox
run --network none foreign:1 true
ok "another architecture's image: a warning" has "$errors" "is made for linux/arm64, not for linux/amd64"
run --network none --platform linux/arm64 foreign:1 echo asked
is "none where it was asked for" "$out$errors" asked
run --network none --platform linux/amd64 --pull never foreign:1 true
is "--platform: an image for another one is none" "$status" 125
ok "--platform: the error says what it is for" has "$errors" "is made for linux/arm64, not for linux/amd64"
run --network none --platform linux/arm64 127.0.0.1:1/busybox true
ok "--platform: it is pulled then" has "$errors" "pulling '127.0.0.1:1/busybox'"
run --network none --platform amd64 busybox true
ok "--platform: what is none is refused" has "$errors" "is not a platform"
is "nothing was left by all these" "$(strata ps -aq)" ""
is "input reaches the process with -i" "$(echo text | strata run --rm -i --network none busybox cat)" text
is "without -i there is none" "$(echo text | strata run --rm --network none busybox cat)" ""
is "binary data passes unchanged" "$(head -c 300000 "$BUSYBOX" | strata run --rm -i --network none busybox cat | sha256sum)" "$(head -c 300000 "$BUSYBOX" | sha256sum)"
run -a stderr --network none busybox sh -c 'echo out; echo err >&2'
is "-a stderr connects that alone" "$out/$errors" "/err"
is "a short-lived writer's last byte arrives" "$(for i in 1 2 3 4 5; do strata run --rm --network none busybox sh -c 'echo a; echo b'; done | grep -c b)" 5

# --- environment, user, directory --------------------------------------------------------------------------------------

busybox_image app 'ENTRYPOINT ["/bin/echo", "entry"]' 'CMD ["command"]' 'ENV IMAGE=1 BOTH=image' 'WORKDIR /data' 'USER 1000'
run --network none app
is "entrypoint and command of the image" "$out" "entry command"
run --network none app given
is "a given command replaces the image's" "$out" "entry given"
run --network none --entrypoint /bin/pwd app
is "a given entrypoint replaces both; the image's directory" "$out" /data
run --network none --entrypoint '' app id -u
is "no entrypoint; the image's user" "$out" 1000
export FROM_HERE=here
printf '# comment\nFILE=1\nBOTH=file\n' >"$TMPDIR/env"
run --network none --env-file "$TMPDIR/env" -e BOTH=option -e FROM_HERE -e NOT_SET_HERE --entrypoint /bin/env app
ok "-e beats --env-file and the image" has "$out" BOTH=option
ok "--env-file" has "$out" FILE=1
ok "the image's environment" has "$out" IMAGE=1
ok "-e NAME takes our value" has "$out" FROM_HERE=here
ok "and nothing where we have none" bash -c '! grep -q NOT_SET <<<"$1"' _ "$out"
ok "PATH is set" has "$out" PATH=
ok "HOME is the user's" has "$out" HOME=/home/user
run --network none -u user -w /tmp --group-add 3000 busybox sh -c 'id -u; id -g; id -G; pwd'
is "-u by name with its groups, -w, --group-add" "$out" $'1000\n1000\n1000 2000 3000\n/tmp'
run --network none -u 5:6 busybox sh -c 'id -u; id -g'
is "-u by number" "$out" $'5\n6'
run --network none -u nobody-of-that-name busybox true
is "an unknown user is an error" "$status" 125
run --network none -w /made/now busybox pwd
is "a missing directory is made" "$out" /made/now
run --network none -h box --domainname example busybox hostname
is "-h" "$out" box
run --network none --init busybox sh -c 'cat /proc/1/comm; exit 3'
is "--init keeps the status" "$status" 3
ok "and is the first process" test "$out" != sh
run --network none --ulimit nofile=100:200 --ulimit core=0 busybox sh -c 'ulimit -Sn; ulimit -Hn; ulimit -c'
is "--ulimit" "$out" $'100\n200\n0'
run --network none --sysctl kernel.msgmax=4096 busybox cat /proc/sys/kernel/msgmax
is "--sysctl" "$out" 4096
run --network none --oom-score-adj 500 busybox cat /proc/self/oom_score_adj
is "--oom-score-adj" "$out" 500

# --- rights --------------------------------------------------------------------------------------------------------------

caps() {
        run --network none "$@" busybox sh -c 'grep CapEff /proc/self/status'
        echo $((16#${out##*[[:space:]]}))
}
default=$(caps)
is "--cap-drop" "$(($(caps --cap-drop CHOWN) & 1))" 0
is "--cap-add" "$(($(caps --cap-add NET_ADMIN) >> 12 & 1))" 1
is "net_admin is not there otherwise" "$((default >> 12 & 1))" 0
is "--cap-drop ALL --cap-add" "$(caps --cap-drop ALL --cap-add chown)" 1
ok "--privileged has more" test "$(caps --privileged)" -gt "$default"
run --network none busybox sh -c 'grep -E "Seccomp:|NoNewPrivs" /proc/self/status'
if in_vm; then
        differs "what it calls is its own kernel" "a seccomp filter is on"
else
        ok "a seccomp filter is on" has "$out" $'Seccomp:\t2'
fi
run --network none --security-opt seccomp=unconfined --security-opt no-new-privileges busybox sh -c 'grep -E "Seccomp:|NoNewPrivs" /proc/self/status'
ok "seccomp=unconfined" has "$out" $'Seccomp:\t0'
ok "no-new-privileges" has "$out" $'NoNewPrivs:\t1'
if in_vm; then
        differs "its kernel is its own" "/proc/sys is read-only"
        for option in "--device /dev/fuse" "--pid host" "--uts host" "--ipc host" "--network host" "--cgroupns host" \
                "--oom-kill-disable" "--security-opt apparmor=x" "--userns auto"; do
                # shellcheck disable=SC2086 # words
                run $option busybox true
                is "$option is refused" "$status" 125
                ok "with a sentence that says why" has "$errors" "not possible with --isolation vm"
        done
else
        run --network none busybox sh -c 'echo x >/proc/sys/kernel/hostname'
        ok "/proc/sys is read-only" test "$status" != 0
        run --network none --device /dev/fuse:/dev/mine:r busybox sh -c 'test -c /dev/mine && ls /dev'
        ok "--device" has "$out" mine
        strata run -d --name shares --network none busybox sh -c 'echo seen >/dev/shm/file; sleep 1000' >/dev/null
        ok "it runs" eventually strata exec shares test -s /dev/shm/file
        run --network none --ipc container:shares busybox cat /dev/shm/file
        is "--ipc container:NAME shares /dev/shm" "$out" seen
        run --network none --ipc host busybox readlink /proc/self/ns/ipc
        is "--ipc host" "$out" "$(readlink /proc/self/ns/ipc)"
        run --network none --ipc none busybox ls -A /dev/shm
        is "--ipc none has none" "$out" ""
        strata rm -f shares >/dev/null
        run --network none --ipc container:shares busybox true
        is "--ipc of nobody" "$status" 125
        is "--pid host" "$(strata run --rm --network none --pid host busybox readlink /proc/self/ns/pid)" "$(readlink /proc/self/ns/pid)"
        ok "a pid namespace of its own otherwise" test "$(strata run --rm --network none busybox readlink /proc/self/ns/pid)" != "$(readlink /proc/self/ns/pid)"
        is "--uts host" "$(strata run --rm --network none --uts host busybox hostname)" "$(hostname)"
        is "--network host" "$(strata run --rm --network host busybox readlink /proc/self/ns/net)" "$(readlink /proc/self/ns/net)"
fi
run --isolation jail busybox true
is "an unknown wall is an error" "$status" 125
ok "that says what exists" has "$errors" "container, vm"
is "inspect says which wall it is" "$(strata create --name wall --network none busybox >/dev/null; strata inspect -f '{{.HostConfig.Isolation}}' wall)" "$WALL"
strata rm wall >/dev/null
busybox_image labelled 'LABEL io.strata.isolation=vm'
is "an image can ask for a machine" "$(STRATA_ISOLATION='' strata create --name wall labelled true >/dev/null; strata inspect -f '{{.HostConfig.Isolation}}' wall)" vm
is "and who runs it decides" "$(strata create --name other --isolation container labelled true >/dev/null; strata inspect -f '{{.HostConfig.Isolation}}' other)" container
strata rm wall other >/dev/null

# --- limits --------------------------------------------------------------------------------------------------------------

# A machine's memory is its kernel's too, and cannot grow while it runs.
if in_vm; then size=128 other=96 small=96; else size=32 other=48 small=16; fi
strata run -d --name limited --network none -m ${size}m --cpus 0.5 --pids-limit 20 busybox sleep 1000 >/dev/null
is "-m is what inspect says" "$(strata inspect -f '{{.HostConfig.Memory}}' limited)" $((size << 20))
is "--cpus too" "$(strata inspect -f '{{.HostConfig.NanoCpus}}' limited)" 500000000
is "stats has the limit" "$(strata stats --no-stream --format '{{.MemUsage}}' limited | sed 's/.* //')" ${size}MiB
strata update -m ${other}m --memory-swap -1 limited >/dev/null
is "update changes it while it runs" "$(strata stats --no-stream --format '{{.MemUsage}}' limited | sed 's/.* //')" ${other}MiB
processes='for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 0.3 & done; wait; echo all'
is "--pids-limit leaves room below it" "$(strata exec limited sh -c "$processes" 2>&1 </dev/null)" all
strata update --pids-limit 6 limited >/dev/null
ok "update lowers it" has "$(strata exec limited sh -c "$processes" 2>&1 </dev/null)" "can't fork"
strata rm -f limited >/dev/null
run --network none --pids-limit 6 busybox sh -c "echo 90 2>/dev/null >/sys/fs/cgroup/pids.max; $processes"
ok "more processes than that are refused" has "$errors" "can't fork"
run --network none -m ${small}m busybox sh -c 'head -c 200000000 /dev/zero | tail'
is "more memory than that is killed" "$status" 137
strata run --name oom --network none -m ${small}m busybox sh -c 'exec tail /dev/zero' >/dev/null 2>&1
if in_vm; then
        is "the command ended so" "$(strata inspect -f '{{.State.ExitCode}}' oom)" 137
        differs "its kernel killed it, and the host does not hear of it" "and inspect says why"
else
        is "and inspect says why" "$(strata inspect -f '{{.State.OOMKilled}}' oom)" true
fi
strata rm oom >/dev/null

# --- names and files of ids ----------------------------------------------------------------------------------------------

id=$(strata create --name one --network none --cidfile "$TMPDIR/cid" busybox true)
is "--cidfile has the id" "$(cat "$TMPDIR/cid")" "$id"
run --network none --cidfile "$TMPDIR/cid" busybox true
is "it is not overwritten" "$status" 125
run --network none --name one busybox true
is "a name is taken once" "$status" 125
ok "the error says by whom" has "$errors" one
run --network none --name 'bad name' busybox true
is "not every text is a name" "$status" 125
is "an id's beginning is a name" "$(strata inspect -f '{{.Name}}' "${id:0:6}")" /one
ok "names are made up" test -n "$(strata inspect -f '{{.Name}}' "$(strata create --network none busybox)")"
done_testing
