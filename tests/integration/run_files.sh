#!/bin/bash
# test: timeout=240
# Files of containers: volumes, binds, tmpfs, read-only roots, cp by docker's rules, diff, commit, export.
. "$(dirname "$0")/run_lib.sh"
busybox_image busybox 'CMD ["/bin/sh"]'
host=$TMPDIR/host
mkdir -p "$host/dir" && echo hello >"$host/file" && echo in >"$host/dir/inner"

# --- mounts --------------------------------------------------------------------------------------------------------------

run --network none -v "$host:/h" busybox sh -c 'cat /h/file; echo new >/h/written'
is "-v of a directory" "$out/$(cat "$host/written")" hello/new
run --network none -v "$host:/h:ro" busybox sh -c 'echo x >/h/file'
ok "-v :ro" test "$status" != 0
run --network none -v "$host/file:/f" busybox cat /f
is "-v of a file" "$out" hello
run --network none -v "$host/made:/m" busybox true
ok "-v makes the directory" test -d "$host/made"
run --network none --mount "type=bind,src=$host/missing,dst=/m" busybox true
is "--mount does not" "$status" 125
ok "nothing was made" test ! -e "$host/missing"
run --network none --mount "type=bind,src=$host/dir,dst=/d,readonly" busybox sh -c 'cat /d/inner; echo x >/d/x'
ok "--mount type=bind,readonly" test "$out" = in -a "$status" != 0
run --network none --tmpfs /t:size=1m,mode=700 busybox sh -c 'stat -c %a /t; grep " /t " /proc/mounts'
ok "--tmpfs" has "$out" tmpfs
is "its mode" "${out%%$'\n'*}" 700
ok "its size" has "$out" size=1024k
run --network none --mount type=tmpfs,dst=/t,tmpfs-size=2m busybox grep ' /t ' /proc/mounts
ok "--mount type=tmpfs" has "$out" size=2048k
run --network none --shm-size 2m busybox grep ' /dev/shm ' /proc/mounts
ok "--shm-size" has "$out" size=2048k
run --network none --read-only --tmpfs /tmp busybox sh -c 'touch /tmp/x && touch /x'
ok "--read-only" has "$errors" "Read-only"
run --network none busybox sh -c 'echo x >/etc/new && cat /etc/new'
is "otherwise it can be written" "$out" x

# --- volumes -------------------------------------------------------------------------------------------------------------

is "volume create" "$(strata volume create --label a=b vol)" vol
run --network none -v vol:/v busybox sh -c 'echo kept >/v/f'
run --network none -v vol:/v busybox cat /v/f
is "a volume outlives its containers" "$out" kept
run --network none -v filled:/data busybox cat /data/seed
is "an empty one gets what the image has there" "$out" "from the image"
run --network none -v vol:/data busybox ls /data
is "another keeps what it has" "$out" f
run --network none -v fresh:/data:nocopy busybox ls /data
is "nocopy" "$out" ""
is "volume ls" "$(strata volume ls -q | sort | tr '\n' ' ')" "filled fresh vol "
is "volume ls --filter" "$(strata volume ls -q --filter label=a)" vol
is "volume inspect" "$(strata volume inspect -f '{{.Name}} {{.Driver}} {{index .Labels "a"}}' vol)" "vol local b"
strata create --name user --network none -v vol:/v busybox >/dev/null
try volume rm vol
ok "a volume in use is not removed" test "$status" = 1
strata rm user >/dev/null
is "volume rm" "$(strata volume rm vol filled fresh | wc -l)" 3
strata run --rm --network none -v /anonymous busybox true
is "anonymous volumes go with --rm" "$(strata volume ls -q)" ""
strata create --name holder --network none -v /anonymous busybox >/dev/null
strata rm -v holder >/dev/null
is "and with rm -v" "$(strata volume ls -q)" ""
strata create --name holder --network none -v /anonymous busybox >/dev/null
strata rm holder >/dev/null
is "otherwise they stay" "$(strata volume ls -q | wc -l)" 1
ok "until volume prune" has "$(strata volume prune -f)" reclaimed
is "which removes them" "$(strata volume ls -q)" ""
strata run -d --name giver --network none -v "$host:/given" busybox sleep 1000 >/dev/null
run --network none --volumes-from giver:ro busybox sh -c 'cat /given/file; echo x >/given/x'
ok "--volumes-from" test "$out" = hello -a "$status" != 0
strata rm -f giver >/dev/null

# --- cp --------------------------------------------------------------------------------------------------------------------

strata run -d --name box --network none busybox sleep 1000 >/dev/null
in_box() { strata exec box "$@"; }
cd "$TMPDIR" || exit 1

strata cp "$host/file" box:/tmp/renamed
is "in: a file under a new name" "$(in_box cat /tmp/renamed)" hello
strata cp "$host/file" box:/tmp
is "in: into a directory" "$(in_box cat /tmp/file)" hello
in_box chmod 700 /tmp/file
strata cp "$host/dir/inner" box:/tmp/file
is "in: over a file" "$(in_box cat /tmp/file)" in
try cp "$host/file" box:/tmp/nowhere/
ok "in: a missing directory is an error" has "$errors" nowhere
strata cp "$host/dir" box:/tmp/newdir
is "in: a directory under a new name" "$(in_box cat /tmp/newdir/inner)" in
strata cp "$host/dir" box:/tmp/newdir
is "in: a directory into one" "$(in_box cat /tmp/newdir/dir/inner)" in
echo more >"$host/dir/more"
strata cp "$host/dir/." box:/tmp/newdir
is "in: /. is the content" "$(in_box cat /tmp/newdir/more)" more
try cp "$host/dir" box:/tmp/file
ok "in: a directory does not replace a file" test "$status" != 0
tar -C "$host" -cf - dir | strata cp - box:/home
is "in: an archive from standard input" "$(in_box cat /home/dir/inner)" in
is "in: files belong to root" "$(in_box stat -c %u /tmp/file)" 0
chown 1234 "$host/file"
strata cp -a "$host/file" box:/tmp/owned
is "in: -a keeps the owner" "$(in_box stat -c %u /tmp/owned)" 1234
in_box ln -s /tmp/newdir /tmp/link
strata cp "$host/file" box:/tmp/link
is "in: a link to a directory is one" "$(in_box cat /tmp/newdir/file)" hello

strata cp box:/data/seed "$TMPDIR/seed"
is "out: a file under a new name" "$(cat "$TMPDIR/seed")" "from the image"
mkdir out && strata cp box:/data/seed out
is "out: into a directory" "$(cat out/seed)" "from the image"
try cp box:/data/seed "$TMPDIR/nowhere/"
ok "out: a missing directory is an error" has "$errors" nowhere
strata cp box:/data data
is "out: a directory under a new name" "$(cat data/seed)" "from the image"
strata cp box:/data data
is "out: a directory into one" "$(cat data/data/seed)" "from the image"
strata cp box:/tmp/newdir/. data
is "out: /. is the content" "$(cat data/more)" more
try cp box:/data "$host/file"
ok "out: a directory does not replace a file" test "$status" != 0
is "out: an archive" "$(strata cp box:/data - | tar -tf - | sort | head -n 1)" data/
in_box sh -c 'ln -s /etc/passwd /tmp/absolute; ln -s ../../../../../../../etc/passwd /tmp/relative'
strata cp box:/tmp/absolute link
is "out: a link is a link" "$(readlink link)" /etc/passwd
strata cp -L box:/tmp/absolute followed
ok "out: -L follows it in the container" grep -q /home/user followed
strata cp -L box:/tmp/relative followed
ok "and never out of it" grep -q /home/user followed
mkdir around && strata cp box:/data/.. around
ok "out: .. is no name, and leads nowhere here" test -e around/bin/busybox -a ! -e bin
try cp box:/missing .
ok "out: what is not there" has "$errors" missing
try cp box:/a box:/b
is "both in containers is an error" "$status" 124
is "nothing is left of the copies" "$(find . -name '.strata-cp*')" ""

strata run -d --name volumes --network none -v "$host:/h:ro" -v cpvol:/v busybox sleep 1000 >/dev/null
strata cp "$host/dir/inner" volumes:/v/copied
is "in: into a volume" "$(strata exec volumes cat /v/copied)" in
is "out: of a volume" "$(strata cp volumes:/v/copied - | tar -xO)" in
is "out: of a directory of the host" "$(strata cp volumes:/h/file - | tar -xO)" hello
try cp "$host/dir/inner" volumes:/h/new
ok "in: not into what is read-only" test "$status" != 0 -a ! -e "$host/new"
strata rm -fv volumes >/dev/null
strata volume rm cpvol >/dev/null

# What a container hands out may be hostile: a link, and a file below it.
mkdir evil && ln -s "$TMPDIR/out" evil/way
tar -C evil -cf evil.tar way && mkdir -p evil2/way && echo bad >evil2/way/planted && tar -C evil2 -rf evil.tar way/planted
strata cp - box:/tmp <evil.tar 2>/dev/null
ok "an archive does not lead out of the container" test ! -e out/planted

strata stop -t 0 box >/dev/null
strata cp box:/tmp/renamed stopped
is "a stopped one gives files too" "$(cat stopped)" hello
strata cp "$host/file" box:/tmp/stopped
strata start box >/dev/null
mkdir "$TMPDIR/bound"
strata create --name volumes -v kept:/data -v "$TMPDIR/bound:/some/bound" -v "$host:/host:ro" busybox true >/dev/null
is "stopped: its volumes are there" "$(strata cp volumes:/data/seed - | tar -xOf -)" "from the image"
strata cp "$host/file" volumes:/data/put
ok "and are written to" test -e "$STRATA_ROOT/volumes/kept/_data/put"
strata cp "$host/file" volumes:/some/bound/put
ok "so are directories of the host" test -e "$TMPDIR/bound/put"
try cp "$host/file" volumes:/host/put
ok "but what is read-only" test "$status" != 0 -a ! -e "$host/put"
ok "no mount is left of it" bash -c '! grep -q "$1" /proc/mounts' _ "$STRATA_ROOT"
strata rm volumes >/dev/null
is "and takes them" "$(in_box cat /tmp/stopped)" hello

# --- diff, commit, export ----------------------------------------------------------------------------------------------------

strata run --name changed --network none busybox sh -c 'echo x >/etc/added; rm /data/seed; echo y >>/etc/passwd' >/dev/null
is "diff" "$(strata diff changed | sort | tr '\n' ' ')" "A /etc/added C /data C /etc C /etc/passwd D /data/seed "
id=$(strata commit -m message -a author -c 'CMD ["cat", "/etc/added"]' changed committed:1)
run --network none committed:1
is "commit makes an image" "$out" x
is "it prints the image's id" "$(strata image inspect committed:1 | sed -n 's/.*"Id": "\(.*\)",/\1/p')" "$id"
is "export has the container's files" "$(strata export changed | tar -xOf - etc/added)" x
strata export -o "$TMPDIR/export.tar" changed
ok "export -o" bash -c "tar -tf $TMPDIR/export.tar | grep -q ^etc/added"
done_testing
