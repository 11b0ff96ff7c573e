#!/bin/bash
# test: timeout=180
# User namespaces of a container's own for a user who is not root: keep-id, nomap, auto, maps; whose files are whose from both sides.
if [ -z "${STRATA_TEST_USER:-}" ]; then
        if [ -z "${STRATA_TEST_MOUNTS:-}" ] && [ "$(id -u)" = 0 ]; then
                STRATA_TEST_MOUNTS=1 exec unshare -m "$0"
        fi
        . "$(dirname "$0")/run_lib.sh"
        command -v fuse-overlayfs >/dev/null || skip_all "fuse-overlayfs is not installed"
        command -v newuidmap >/dev/null || skip_all "uidmap is not installed"
        device_node /dev/fuse 10 229 || skip_all "no /dev/fuse"
        user_place
        # the user's further ids
        echo 'strata-test:x:23456:23456::/:/bin/sh' | cat /etc/passwd - >"$TMPDIR/passwd"
        echo '23456:300000:65536' >"$TMPDIR/subids"
        mount --bind "$TMPDIR/passwd" /etc/passwd
        mount --bind "$TMPDIR/subids" /etc/subuid && mount --bind "$TMPDIR/subids" /etc/subgid || skip_all "no /etc/subuid"
        as_user
        exit
fi
. "$(dirname "$0")/lib.sh"
export STRATA_ROOT=$TMPDIR/root
strata() {
        "$STRATA" "$@"
}
has() {
        [[ $1 == *"$2"* ]] && return
        printf '# got:  %s\n# part: %s\n' "$1" "$2"
        return 1
}
run() {
        strata run --rm --network none "$@" 2>&1
}
words() {
        tr -s ' \n' ' '
}
strata image import "$TMPDIR/busybox.tar" busybox >/dev/null
mkdir "$TMPDIR/dir" && echo mine >"$TMPDIR/dir/mine"

# --- keep-id --------------------------------------------------------------------------------------------------------------------

is "without: root is the user" "$(run -v "$TMPDIR/dir:/dir" busybox stat -c %u:%g /dir/mine)" 0:0
is "keep-id: who I am" "$(run --userns keep-id busybox sh -c 'id -u; id -g' | words)" "23456 23456 "
is "keep-id: my files are mine" "$(run --userns keep-id -v "$TMPDIR/dir:/dir" busybox sh -c 'echo more >>/dir/mine; touch /dir/new; stat -c %u:%g /dir/mine /dir/new' | words)" "23456:23456 23456:23456 "
is "keep-id: from outside, too" "$(stat -c %u:%g "$TMPDIR/dir/new")$(tail -n 1 "$TMPDIR/dir/mine")" 23456:23456more
is "keep-id: files of the image are who the image says" "$(run --userns keep-id busybox stat -c %u:%g /bin/busybox /home/user | words)" "0:0 1000:1000 "
is "keep-id: all ids are there" "$(run --userns keep-id busybox cat /proc/self/uid_map | words)" " 0 1 23456 23456 0 1 23457 23457 42080 "
is "keep-id: --user" "$(run --userns keep-id --user user busybox id -u)" 1000
is "keep-id: others" "$(run --userns keep-id:uid=1000,gid=2000 busybox sh -c 'id -u; id -g; cat /proc/self/gid_map' | words)" "1000 2000 0 1 2000 2000 0 1 2001 2001 63536 "
is "keep-id: I have a name" "$(run --userns keep-id busybox sh -c 'whoami; tail -n 1 /etc/passwd' | words)" "strata-test strata-test:*:23456:23456::/:/bin/sh "
is "keep-id: once" "$(strata create --name twice --network none --userns keep-id busybox grep -c ^strata-test: /etc/passwd >/dev/null
        for _ in 1 2; do strata start -a twice; done; strata rm twice >/dev/null)" $'1\n1'
is "keep-id: with the id that is mine there, at home where I work" "$(run --userns keep-id:uid=3000,gid=2000 -w /tmp busybox grep strata-test /etc/passwd)" \
        "strata-test:*:3000:2000::/tmp:/bin/sh"
is "keep-id: whom the image knows keeps his line" "$(run --userns keep-id:uid=1000,gid=1000 busybox sh -c 'whoami; grep -c strata-test /etc/passwd' | words)" "user 0 "
is "keep-id: a file of one's own is left as it is" "$(echo mine >"$TMPDIR/mine"; run --userns keep-id -v "$TMPDIR/mine:/etc/passwd" busybox cat /etc/passwd)" mine
is "without: nobody is added" "$(run busybox grep -c strata-test /etc/passwd)" 0
strata run -d --name one --network none --userns keep-id -v data:/data --user 0 busybox sleep 1000 >/dev/null
is "a volume is filled, and shared" "$(strata exec one stat -c %u:%g /data/seed)" 0:0
ok "root inside may do what root does" strata exec one sh -c 'touch /new && chown 7:8 /new && echo a >>/bin/not-executable && rm -r /home && mkdir /home && touch /home/x && rm /etc/group && chown 9:9 /data'
is "cp out: as inside" "$(strata cp -a one:/new - | tar -tv --numeric-owner | awk '{ print $2 }')" 7/8
echo in >"$TMPDIR/file" && strata cp "$TMPDIR/file" one:/data/in
is "cp in: root's" "$(strata exec one stat -c %u:%g /data/in)" 0:0
is "diff" "$(strata diff one | sort | tr '\n' ' ')" "A /home/x A /new C /bin C /bin/not-executable C /etc C /etc/passwd C /home D /etc/group "
strata stop -t 0 one >/dev/null
is "stopped: cp out of the root" "$(strata cp -a one:/new - | tar -tv --numeric-owner | awk '{ print $2 }')" 7/8
strata cp "$TMPDIR/file" one:/data/stopped
is "stopped: what was deleted is" "$(strata cp one:/home - | tar -t | words)" "home/ home/x "
strata start one >/dev/null
is "stopped: cp into a volume" "$(strata exec one stat -c %u:%g /data/stopped /data | words)" "0:0 9:9 "
strata commit one changed >/dev/null
is "an image of it" "$(run changed sh -c 'stat -c %u:%g /new; ls -A /home; test -e /etc/group || echo gone' | words)" "7:8 x gone "
is "and again with keep-id" "$(run --userns keep-id changed stat -c %u:%g /new)" 7:8
strata rm -f one >/dev/null

# --- the others -----------------------------------------------------------------------------------------------------------------

is "nomap: I am nobody there" "$(run --userns nomap -v "$TMPDIR/dir:/dir" busybox stat -c %u:%g /dir/mine /bin/busybox | words)" "65534:65534 0:0 "
strata run -d --name one --network none --userns auto busybox sleep 1000 >/dev/null
strata run -d --name two --network none --userns auto:size=2000 busybox sleep 1000 >/dev/null
is "auto: ranges apart" "$(strata exec one cat /proc/self/uid_map | words)$(strata exec two cat /proc/self/gid_map | words)" " 0 1 4096  0 4097 2000 "
strata rm -f one two >/dev/null
is "maps: ids of the user's own namespace" "$(run --userns 0:0:1,5:10:3 busybox cat /proc/self/uid_map | words)" " 0 0 1 5 10 3 "
is "host: as without" "$(run --userns host busybox cat /proc/self/uid_map | words)" "$(run busybox cat /proc/self/uid_map | words)"
ok "more ids than there are: an error says how many" has "$(run --userns 0:0:70000 busybox true)" "a user's ids go from 0 to 65536"
ok "auto, the same" has "$(run --userns auto:size=70000 busybox true)" "no 70000 ids"
ok "idmap: an error says why" has "$(run --userns keep-id -v "$TMPDIR/dir:/x:idmap" busybox true)" "without root the kernel maps no ids of mounts"
for wrong in keep-id: keep-id:x keep-id:uid=x keep-idx nomap:1; do
        ok "'$wrong' is refused" has "$(run --userns "$wrong" busybox true)" "cannot be understood"
done
ok "all is well" strata system check
# A mount that nobody has any more goes a little later.
ok "no helper is left" eventually not pgrep -u 23456 -a fuse-overlayfs
done_testing
