#!/bin/bash
# test: timeout=240
# A container's life by commands: create, start, logs, exec, pause, stop, kill, restart, wait, rename, rm, policies, health.
. "$(dirname "$0")/run_lib.sh"
busybox_image busybox 'CMD ["/bin/sh"]'

# --- states --------------------------------------------------------------------------------------------------------------

id=$(strata create --name life --network none busybox sh -c 'trap "echo bye; exit 5" TERM; echo started; while :; do sleep 0.1; done')
is "create prints the id" "$(strata ps -aq --no-trunc)" "$id"
is "created" "$(state life)" created
is "ps shows what runs only" "$(strata ps -q)" ""
is "start prints the name" "$(strata start life)" life
is "running" "$(state life)" running
eventually bash -c "$STRATA logs life | grep -q started"
is "ps" "$(strata ps --format '{{.Names}} {{.Image}} {{.State}}')" "life busybox running"
is "exec" "$(strata exec life sh -c 'echo in; exit 0')" in
strata exec life sh -c 'exit 9'
is "exec's status" $? 9
strata exec life /bin/missing 2>/dev/null
is "exec 127" $? 127
is "exec -i -e -w -u" "$(echo text | strata exec -i -e A=1 -w /tmp -u 1000 life sh -c 'cat; echo $A; pwd; id -u')" $'text\n1\n/tmp\n1000'
strata exec -d life touch /tmp/detached
ok "exec -d" eventually strata exec life test -e /tmp/detached
is "pause" "$(strata pause life; state life)" $'life\npaused'
ok "exec in a paused one is an error" bash -c "! $STRATA exec life true 2>/dev/null"
is "unpause" "$(strata unpause life; state life)" $'life\nrunning'
ok "top lists its processes" has "$(strata top life)" "trap"
is "rename" "$(strata rename life living; strata ps --format '{{.Names}}')" living
try rm living
is "a running one is not removed" "$status" 1
ok "the hint says how" has "$errors" hint
strata wait living >"$TMPDIR/wait" &
waiter=$!
is "stop prints the name" "$(strata stop living)" living
wait $waiter
is "stop sends TERM, and the status is its own" "$(strata inspect -f '{{.State.ExitCode}}' living)" 5
is "wait printed it" "$(cat "$TMPDIR/wait")" 5
is "exited" "$(state living)" exited
is "logs have everything" "$(strata logs living | tr '\n' ' ')" "started bye "
ok "ps -a says how it ended" has "$(strata ps -a --format '{{.Status}}')" "Exited (5)"
strata start living >/dev/null
is "it can be started again" "$(state living)" running
is "restart" "$(strata restart -t 0 living; state living)" $'living\nrunning'
is "kill" "$(strata kill living)" living
eventually is_state living exited
is "by KILL" "$(strata inspect -f '{{.State.ExitCode}}' living)" 137
try kill living
is "what does not run is not killed" "$status" 1
is "rm" "$(strata rm living)" living
is "nothing is there" "$(strata ps -aq)" ""
try rm living
is "rm of nothing is an error" "$status" 1
try rm -f living
is "rm -f is content" "$status" 0
strata run -d --name stubborn --network none busybox sh -c 'trap "" TERM; while :; do sleep 0.1; done' >/dev/null
strata stop -t 0 stubborn >/dev/null
is "stop -t kills" "$(strata inspect -f '{{.State.ExitCode}}' stubborn)" 137
strata run -d --name hup --stop-signal HUP --network none busybox sh -c 'trap "exit 3" HUP; echo ready; while :; do sleep 0.1; done' >/dev/null
eventually is_ready hup
strata stop hup >/dev/null
is "--stop-signal" "$(strata inspect -f '{{.State.ExitCode}}' hup)" 3
strata start hup >/dev/null
strata stop -s KILL hup >/dev/null
is "stop --signal" "$(strata inspect -f '{{.State.ExitCode}}' hup)" 137
strata start hup >/dev/null
is "restart --signal" "$(strata restart --signal SIGKILL hup; state hup)" $'hup\nrunning'
try stop --signal NONSENSE hup
ok "stop --signal: the error names it" has "$errors" NONSENSE
strata stop -t 0 hup >/dev/null
strata rm stubborn hup >/dev/null

# --- several at once, errors in between ------------------------------------------------------------------------------------

for n in aa bb cc; do strata create --name $n --network none busybox sleep 1000 >/dev/null; done
strata start aa bb cc >/dev/null
try stop -t 0 aa missing bb
is "what can be done is done" "$out" $'aa\nbb'
is "and the status says that something was not" "$status" 1
ok "the error names it" has "$errors" missing
is "several are removed" "$(strata rm -f aa bb cc | tr '\n' ' ')" "aa bb cc "

# --- logs --------------------------------------------------------------------------------------------------------------------

strata run --name log --network none busybox sh -c 'echo one; echo two >&2; sleep 1.1; echo three; printf four' >/dev/null 2>&1
is "logs" "$(strata logs log 2>/dev/null | tr '\n' ' ')" "one three four"
is "standard error apart" "$(strata logs log 2>&1 >/dev/null)" two
is "--tail" "$(strata logs -n 2 log 2>&1)" $'three\nfour'
ok "-t" has "$(strata logs -t log 2>/dev/null | head -n 1)" "Z one"
middle=$(strata logs -t log 2>/dev/null | sed -n 's/ three//p')
is "--since" "$(strata logs --since "$middle" log 2>/dev/null)" $'three\nfour'
is "--until" "$(strata logs --until "${middle%.*}Z" log 2>/dev/null | head -n 1)" one
# Docker's statuses: 125 only where nothing was run.
for words in "logs missing" "inspect missing" "stop missing" "rm missing" "wait missing" "top missing" "port missing" "exec missing true" "attach missing" \
        "cp missing:/etc ." "stats --no-stream missing" "rename missing other" "diff missing" "commit missing" "export missing" "start -a missing" \
        "container inspect missing" "network inspect missing" "volume inspect missing" "image inspect missing" "tag missing other"; do
        # shellcheck disable=SC2086 # words
        try $words
        is "$words: status" "$status" 1
        ok "$words: says what is missing" has "$errors" missing
done
run --network container:missing busybox true
is "what keeps something from being run is another status" "$status" 125
strata run -d --name follow --network none busybox sh -c 'for i in 1 2 3; do echo $i; sleep 0.2; done' >/dev/null
is "-f until it ends" "$(timeout 20 "$STRATA" logs -f follow | tr '\n' ' ')" "1 2 3 "
strata run --name none --log-driver none --network none busybox echo x >/dev/null
ok "--log-driver none keeps nothing" test -z "$(strata logs none 2>/dev/null)"
strata run --name rotated --log-opt max-size=20k --log-opt max-file=2 --network none busybox seq 20000 >/dev/null
last=$(strata logs rotated | tail -n 1)
is "rotation keeps the newest" "$last" 20000
ok "and not all" test "$(strata logs rotated | wc -l)" -lt 20000
strata rm log follow none rotated >/dev/null

# --- --rm, -d, attach, signals ---------------------------------------------------------------------------------------------------

id=$(strata run -d --rm --name gone --network none busybox sleep 1000)
is "-d prints the id" "${#id}" 64
strata kill gone >/dev/null
ok "--rm with -d removes" eventually bash -c "[ -z \"\$($STRATA ps -aq)\" ]"
strata run -d -i --name echo --network none busybox cat >/dev/null
is "attach: input and output" "$(echo hello | timeout 20 "$STRATA" attach echo)" hello
eventually is_state echo exited
is "the end of input ended it" "$(state echo)" exited
is "start -ai" "$(echo again | timeout 20 "$STRATA" start -ai echo)" again
strata rm echo >/dev/null
: >"$TMPDIR/ready"
"$STRATA" run --rm --name signalled --network none busybox sh -c 'trap "exit 33" USR1; echo ready; while :; do sleep 0.1; done' >"$TMPDIR/ready" &
client=$!
eventually grep -q ready "$TMPDIR/ready"
kill -USR1 $client
wait $client
is "signals are passed on" $? 33
strata run -d --rm --name kills --network none busybox sh -c 'trap "exit 4" INT; echo ready; while :; do sleep 0.1; done' >/dev/null
eventually is_ready kills
"$STRATA" wait kills >"$TMPDIR/wait" &
waiter=$!
is_connected() { # PID: to the supervisor
        find "/proc/$1/fd" -lname 'socket:*' | grep -q .
}
eventually is_connected $waiter
strata kill -s SIGINT kills >/dev/null
wait $waiter
is "kill -s" "$(cat "$TMPDIR/wait")" 4

# --- policies and health -----------------------------------------------------------------------------------------------------------

strata run -d --name retry --restart on-failure:2 --network none busybox sh -c 'echo x; exit 1' >/dev/null
ok "on-failure:N tries N times" eventually bash -c "[ \"\$($STRATA inspect -f '{{.RestartCount}} {{.State.Status}}' retry)\" = '2 exited' ]"
is "each wrote its log" "$(strata logs retry | wc -l)" 3
restarting() { [[ $(strata ps -a --filter name=retry-later --format '{{.State}} {{.Status}}') == "restarting Restarting (7) "*" ago" ]]; }
strata run -d --name retry-later --restart always --network none busybox sh -c 'exit 7' >/dev/null
ok "ps shows that it waits for its next start" eventually restarting
is "ps --filter status=restarting" "$(strata ps -q --filter status=restarting | wc -l)" 1
strata rm -f retry-later >/dev/null
strata run -d --name always --restart always --network none busybox sh -c 'exit 0' >/dev/null
ok "always starts again" eventually bash -c "[ \$($STRATA inspect -f '{{.RestartCount}}' always) -ge 1 ]"
strata stop -t 0 always >/dev/null
is "stop ends that" "$(state always)" exited
strata update --restart no always >/dev/null
is "update changes the policy" "$(strata inspect -f '{{.HostConfig.RestartPolicy.Name}}' always)" no
strata run -d --name early --health-cmd true --health-interval 1h --health-start-period 1h --health-start-interval 100ms \
        --network none busybox sleep 1000 >/dev/null
ok "--health-start-interval" eventually bash -c "[ \$($STRATA inspect -f '{{.State.Health.Status}}' early) = healthy ]"
strata rm -f early >/dev/null
strata run -d --name healthy --health-cmd 'test -e /tmp/well' --health-interval 200ms --health-retries 1 --network none busybox sleep 1000 >/dev/null
ok "unhealthy" eventually bash -c "[ \$($STRATA inspect -f '{{.State.Health.Status}}' healthy) = unhealthy ]"
strata exec healthy touch /tmp/well
ok "healthy" eventually bash -c "[ \$($STRATA inspect -f '{{.State.Health.Status}}' healthy) = healthy ]"
ok "ps says so" has "$(strata ps --format '{{.Status}}')" "(healthy)"
is "ps can be asked for it" "$(strata ps --filter health=healthy --format '{{.Names}}')" healthy
strata rm -f retry always healthy >/dev/null

# --- events ------------------------------------------------------------------------------------------------------------------------------

strata run --rm --name told --network none busybox true
told=$(strata events --since 1m --until 0s --filter container=told --format '{{.Action}}' | tr '\n' ' ')
ok "events: create, start, die, destroy" has "$told" "create"
ok "in this order" has "$told" "start die destroy"
done_testing
