#!/bin/bash
# test: timeout=600
# Snapshots of machines with volumes: clones have them again, and their open files as far as these are still there.
# shellcheck disable=SC2016 # commands of the machine, and of eval
export STRATA_ISOLATION=vm
. "$(dirname "$0")/run_lib.sh"

busybox_image box
mkdir -p "$TMPDIR/dir/sub" "$TMPDIR/readonly"
echo host >"$TMPDIR/dir/sub/replaced"
echo host >"$TMPDIR/dir/sub/renamed"
echo secret >"$TMPDIR/outside"
echo readable >"$TMPDIR/readonly/file"
echo one >"$TMPDIR/single"

# inside NAME COMMAND
inside() {
        strata exec "$1" sh -c "$2" </dev/null
}
# The process that is saved has files open: 3 to append in the volume, 4 to read there, 5, 6 and 7 in the directory, 8 a removed one. A line in
# /dev/shm/ask makes it do that and write the answer.
program='
exec 3>>/vol/log 4</vol/data 5</dir/sub/replaced 6</dir/sub/renamed 7</dir/sub/removed 8</dir/sub/nameless 9</single
rm /dir/sub/nameless
cd /dir/sub
echo ready >/dev/shm/answer
i=0
while :; do
        if [ -e /dev/shm/ask ]; then
                (. /dev/shm/ask) >/dev/shm/answer.new 2>&1
                rm /dev/shm/ask
                mv /dev/shm/answer.new /dev/shm/answer
        fi
        sleep 0.05
done'
# asked NAME COMMAND: what the process that was saved answers
asked() {
        inside "$1" "rm -f /dev/shm/answer; echo '$2' >/dev/shm/ask.new; mv /dev/shm/ask.new /dev/shm/ask"
        eventually inside "$1" 'test -e /dev/shm/answer'
        inside "$1" 'cat /dev/shm/answer'
}

strata volume create vol >/dev/null
vol=$(strata volume inspect -f '{{.Mountpoint}}' vol)
printf 'first\nsecond\n' >"$vol/data"
touch "$TMPDIR/dir/sub/removed" "$TMPDIR/dir/sub/nameless"
strata run -d --name one -v vol:/vol -v "$TMPDIR/dir:/dir" -v "$TMPDIR/readonly:/readonly:ro" --mount "type=bind,src=$TMPDIR/single,dst=/single" \
        -v /anonymous --tmpfs /tmp box sh -c "$program" >/dev/null
ok "a machine with volumes runs" eventually inside one 'grep -q ready /dev/shm/answer'
is "its process reads and writes them" "$(asked one 'read -r a <&4; echo $a; echo one >&3')" first
inside one 'echo kept >/anonymous/file; echo mine >/tmp/file'
ok "it is saved" eval 'strata snapshot one warm >/dev/null'

# --- clones -----------------------------------------------------------------------------------------------------------

mv "$TMPDIR/dir/sub/renamed" "$TMPDIR/dir/sub/elsewhere"
echo another >"$TMPDIR/dir/sub/new" && mv "$TMPDIR/dir/sub/new" "$TMPDIR/dir/sub/replaced"
rm "$TMPDIR/dir/sub/removed" && ln -s ../../outside "$TMPDIR/dir/sub/removed"
ok "a clone runs" eval 'strata clone --name two warm >/dev/null'
is "an open file is read on where it was" "$(asked two 'read -r a <&4; echo $a')" second
is "in both machines" "$(asked one 'read -r a <&4; echo $a')" second
asked two 'echo two >&3' >/dev/null
is "an open file is written on, in the same volume" "$(cat "$vol/log")" $'one\ntwo'
is "and the other one sees it" "$(inside one 'sleep 1.5; cat /vol/log')" $'one\ntwo'
is "where it stood is there" "$(asked two 'pwd; cat elsewhere')" $'/dir/sub\nhost'
ok "a file that was replaced is not taken for the one that was open" has "$(asked two 'cat <&5')" "Stale file handle"
ok "one that was removed is gone, and a link in its place leads nowhere" has "$(asked two 'cat <&7')" "Stale file handle"
ok "one that had no name is lost" has "$(asked two 'cat <&8')" "Stale file handle"
is "by name there is the new one" "$(inside two 'sleep 1.5; cat /dir/sub/replaced')" another
is "which is not the machine's that was saved" "$(asked one 'cat <&5')" host
is "a bind mount of a file" "$(asked two 'read -r a <&9; echo $a')" one
is "a read-only one is still" "$(inside two 'cat /readonly/file; touch /readonly/no 2>&1')" $'readable\ntouch: /readonly/no: Read-only file system'
is "anonymous volumes and tmpfs" "$(inside two 'cat /anonymous/file /tmp/file')" $'kept\nmine'
is "inspect names them" "$(strata inspect -f '{{range .Mounts}}{{.Destination}} {{end}}' two)" "$(strata inspect -f '{{range .Mounts}}{{.Destination}} {{end}}' one)"
ok "rm -v of a clone leaves a volume that another machine has" eval 'strata rm -fv two >/dev/null && [ "$(inside one "cat /anonymous/file")" = kept ]'

# --- others in their place --------------------------------------------------------------------------------------------

cp -a "$vol" "$TMPDIR/copy"
echo copied >>"$TMPDIR/copy/log"
ok "a clone with another directory in place of a volume" eval 'strata clone --name three -v "$TMPDIR/copy:/vol" -v "$TMPDIR/dir:/dir:ro" warm >/dev/null'
is "open files are those of the same name there" "$(asked three 'read -r a <&4; echo $a; echo three >&3; echo done')" $'second\ndone'
is "it appends to its own" "$(tail -n 1 "$vol/log") $(tr '\n' ' ' <"$TMPDIR/copy/log")" "two one two copied three "
ok "what is given read-only is" has "$(inside three 'touch /dir/no 2>&1')" "Read-only file system"
strata rm -f three >/dev/null
try clone -v "$TMPDIR/copy:/nowhere" warm
ok "no mount can be added" has "$errors" "has nothing mounted at '/nowhere'"
try clone -v "$TMPDIR/copy:/tmp" warm
ok "a tmpfs is the machine's" has "$errors" "goes on as it was saved"
try clone --mount "type=bind,src=$TMPDIR/missing,dst=/vol" warm
ok "a directory that is missing: an error names it" has "$errors" "$TMPDIR/missing"
is "nothing is left of clones that failed" "$(strata ps -aq | wc -l)" 1
strata volume create other >/dev/null
ok "a clone with an empty volume" eval 'strata clone --name four --mount type=volume,src=other,dst=/vol,volume-nocopy warm >/dev/null'
# Not at once: what the guest has read before, it knows for a second.
ok "what was open is lost" has "$(asked four 'sleep 1.5; cat <&4')" "Stale file handle"
is "and it is a volume like any other" "$(inside four 'sleep 1.5; echo new >/vol/file; cat /vol/file')" new
strata rm -f four >/dev/null

# --- restore ----------------------------------------------------------------------------------------------------------

strata rm -f one >/dev/null
is "the machine itself is restored" "$(strata restore warm)" one
is "with its volumes" "$(asked one 'read -r a <&4; echo $a; echo again >&3; echo done')" $'second\ndone'
is "it writes where it wrote" "$(tail -n 1 "$vol/log")" again
strata rm -fv one >/dev/null
rm -r "$TMPDIR/dir" && ln -s "$TMPDIR/readonly" "$TMPDIR/dir"
ok "a directory that is a link now" eval 'strata restore warm >/dev/null'
ok "has nothing of what was open" has "$(asked one 'cat <&6')" "Stale file handle"
strata rm -fv one >/dev/null
rm "$TMPDIR/dir"
ok "a volume that was removed is made again, and empty" eval 'strata volume rm vol >/dev/null && strata restore warm >/dev/null && [ -z "$(ls "$vol")" ]'
ok "what was open in it is lost" has "$(asked one 'echo again >&3')" "Stale file handle"
strata rm -fv one >/dev/null
strata snapshot rm warm >/dev/null
ok "nothing is left over" eval 'strata system check >/dev/null'
done_testing
