#!/bin/bash
# test: timeout=120
# What is printed: ps, its filters and formats, inspect, stats, system; help and hints of every command.
. "$(dirname "$0")/run_lib.sh"
busybox_image busybox 'CMD ["/bin/sh"]'

# --- help ------------------------------------------------------------------------------------------------------------------

ok "strata --help lists run" has "$(strata --help)" "strata run"
bad=
for command in run create start ps exec logs attach stop restart kill rm cp inspect stats top pause unpause commit wait rename \
        update diff port events export "network create" "network ls" "network inspect" "network rm" "network prune" \
        "network connect" "network disconnect" "volume create" "volume ls" "volume inspect" "volume rm" "volume prune" \
        "system check" "system prune" "system df" "container ls" "container prune"; do
        # shellcheck disable=SC2086 # words
        [[ $(strata $command --help) == "usage: strata "* ]] || bad="$bad, $command"
        # shellcheck disable=SC2086
        strata $command --no-such-option >/dev/null 2>"$TMPDIR/errors"
        grep -q '^hint: ' "$TMPDIR/errors" || bad="$bad, $command (no hint)"
done
is "every command explains itself and its wrong options" "$bad" ""
try rum
ok "a wrong command has a hint" has "$errors" "strata run"
try pull
ok "docker's other words are known" has "$errors" "strata image pull"

# --- ps ---------------------------------------------------------------------------------------------------------------------

strata create --name first --network none -l tier=web -l env=test busybox sleep 1 >/dev/null
strata run -d --name second --network none -l tier=db -v data:/data busybox sleep 1000 >/dev/null
strata run --name third --network none busybox sh -c 'exit 3'
names() { strata ps --format '{{.Names}}' "$@" | tr '\n' ' '; }
is "what runs" "$(names)" "second "
is "-a: newest first" "$(names -a)" "third second first "
is "-l" "$(names -l)" "third "
is "-n" "$(names -n 2)" "third second "
is "-q" "$(strata ps -q)" "$(strata inspect -f '{{.Id}}' second | cut -c1-12)"
is "-q --no-trunc" "$(strata ps -q --no-trunc)" "$(strata inspect -f '{{.Id}}' second)"
is "name=" "$(names -a -f name=ir)" "third first "
is "label=" "$(names -a -f label=tier)" "second first "
is "label=key=value" "$(names -a -f label=tier=web)" "first "
is "two labels" "$(names -a -f label=tier -f label=env=test)" "first "
is "status=" "$(names -f status=exited -f status=created)" "third first "
is "exited=" "$(names -a -f exited=3)" "third "
is "id=" "$(names -a -f "id=$(strata inspect -f '{{.Id}}' first | cut -c1-8)")" "first "
is "ancestor=" "$(names -f ancestor=busybox)" "second "
is "volume=" "$(names -a -f volume=data)" "second "
is "network=" "$(names -f network=none)" "second "
is "before=" "$(names -a -f before=second)" "first "
is "since=" "$(names -a -f since=second)" "third "
try ps -f colour=red
is "an unknown filter is an error" "$status" 124
header=$(strata ps -a | head -n 1)
is "the table's head is docker's" "$(tr -s ' ' <<<"$header")" "CONTAINER ID IMAGE COMMAND CREATED STATUS PORTS NAMES"
ok "-s has sizes" has "$(strata ps -as)" "(virtual "
is "--format json is an object a line" "$(strata ps -a --format json | /usr/bin/python3 -c 'import json, sys; print(*[json.loads(l)["Names"] for l in sys.stdin])')" "third second first"
is "--format table" "$(strata ps --format 'table {{.Names}}\t{{.State}}' | tr -s ' ')" $'NAMES STATE\nsecond running'
is "the command" "$(strata ps --format '{{.Command}}')" '"sleep 1000"'
try ps --format '{{.Colour}}'
ok "an unknown field is an error that lists the fields" has "$errors" "RunningFor"

# --- inspect -------------------------------------------------------------------------------------------------------------------

field() { strata inspect -f "$1" second; }
is "one field" "$(field '{{.State.Status}}')" running
is "a list" "$(field '{{range .Mounts}}{{.Type}}:{{.Name}}:{{.Destination}}{{end}}')" volume:data:/data
is "json" "$(field '{{json .Config.Cmd}}')" '["sleep","1000"]'
is "labels" "$(field '{{index .Config.Labels "tier"}}')" db
ok "the process" test -d "/proc/$(field '{{.State.Pid}}')"
is "a JSON array" "$(strata inspect first second | /usr/bin/python3 -c 'import json, sys; print(*[c["Name"] for c in json.load(sys.stdin)])')" "/first /second"
ok "images" has "$(strata inspect busybox)" manifest
is "networks" "$(strata inspect -f '{{.Driver}}' bridge)" bridge
is "volumes" "$(strata inspect -f '{{.Name}}' data)" data
try inspect --type image first
is "--type" "$status" 1
try inspect first missing
ok "what is found is printed, what is not is an error" test "$status" = 1 -a "${out:0:1}" = "["

# --- stats, top, port ------------------------------------------------------------------------------------------------------------

ok "stats in a pipe ends" has "$(timeout 20 "$STRATA" stats)" second
is "of one" "$(strata stats --no-stream --format '{{.Name}} {{.PIDs}}' second)" "second 1"
is "top" "$(strata top second | tail -n 1 | awk '{print $NF}')" 1000
try top first
ok "top of what does not run" test "$status" != 0

# --- the whole host ---------------------------------------------------------------------------------------------------------------

is "system df" "$(strata system df --format '{{.Type}} {{.TotalCount}} {{.Active}}' | head -n 2)" $'Images 1 1\nContainers 3 1'
ok "system check finds nothing" strata system check
ok "a question without an answer is a no" bash -c "$STRATA system prune </dev/null 2>/dev/null; [ \$($STRATA ps -aq | wc -l) = 3 ]"
strata create --name kept --label keep=yes --network none busybox >/dev/null
strata create --name dropped --network none busybox >/dev/null
strata volume create --label keep=yes kept >/dev/null
strata volume create dropped >/dev/null
strata network create --label keep=yes kept >/dev/null
strata network create dropped >/dev/null
of_both() { # what is left of the two in a list
        grep -xe kept -e dropped | tr '\n' ' '
}
strata container prune -f --filter until=1h --filter 'label!=keep' >/dev/null
is "prune --filter until: what is newer stays" "$(strata ps -a --format '{{.Names}}' | sort | of_both)" "dropped kept "
strata container prune -f --filter 'label!=keep' >/dev/null
is "container prune --filter label" "$(strata ps -a --format '{{.Names}}' | of_both)" "kept "
strata volume prune -af --filter 'label!=keep=yes' >/dev/null
is "volume prune --filter" "$(strata volume ls -q | of_both)" "kept "
strata network prune -f --filter label=keep >/dev/null
is "network prune --filter" "$(strata network ls --format '{{.Name}}' | of_both)" "dropped "
strata system prune -f --volumes --filter label=keep=no >/dev/null
is "system prune --filter" "$(strata ps -a --format '{{.Names}}' | of_both)" "kept "
try container prune -f --filter until=soon
is "a wrong time is an error" "$status" 124
try volume prune -f --filter size=3
is "a wrong key is an error" "$status" 124
strata volume rm -f kept >/dev/null
ok "container prune" has "$(strata container prune -f)" reclaimed
is "leaves what runs" "$(names -a)" "second "
# --- images, in docker's words ---------------------------------------------------------------------------------------------------

strata tag busybox other:1
tar -c --files-from /dev/null | strata import -c 'LABEL color=red' - empty:2 >/dev/null
is "images" "$(strata images --format '{{.Repository}}:{{.Tag}}' | sort | tr '\n' ' ')" "busybox:latest empty:2 other:1 "
is "images NAME" "$(strata images --format '{{.Tag}}' busybox)" latest
is "images --filter reference" "$(strata images -f reference='o*' --format '{{.Repository}}')" other
is "images --filter label" "$(strata images -f label=color=red --format '{{.Repository}}')" empty
is "images --filter since" "$(strata images -q -f before=empty:2 | sort -u | wc -l)" 1
is "images: the head" "$(strata images | head -n 1 | tr -s ' ')" "REPOSITORY TAG IMAGE ID CREATED SIZE"
ok "images: a wrong field is an error" bash -c '! "$1" images --format "{{.Nope}}" 2>/dev/null' _ "$STRATA"
is "image inspect -f" "$(strata image inspect -f '{{index .RepoTags 0}} {{.Config.Labels.color}} {{.Config.Cmd}}' empty:2)" "empty:2 red []"
is "history" "$(strata history --format '{{.ID}} {{.CreatedBy}}' empty:2)" "$(strata images -q empty) strata image import"
try rmi nope empty:2
is "rmi: the others go" "$status $(strata image list -q empty)" "1 "
try rmi -f nope
is "rmi -f: missing ones are fine" "$status" 0
is "info -f" "$(strata info -f '{{.OSType}} {{.NCPU}} {{.RootDir}}')" "linux $(getconf _NPROCESSORS_ONLN) $STRATA_ROOT"
ok "info" has "$(strata info)" "Kernel: $(uname -r)"
is "network remove, volume list" "$(strata network create gone >/dev/null && strata network remove gone && strata volume list | head -n 1 | tr -s ' ')" $'gone\nDRIVER VOLUME NAME'
ok "image prune -f" has "$(strata image prune -f)" freed

strata rm -f second >/dev/null
strata system prune -af --volumes >/dev/null
is "system prune -a leaves nothing" "$(strata image ls -q)" ""
done_testing
