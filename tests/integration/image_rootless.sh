#!/bin/bash
# test: timeout=200
# Users: stores without root's powers, overlays in a user namespace, owners with and without further ids.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/image_lib.sh"
[ "$(id -u)" = 0 ] || skip_all "needs root to become somebody else"
needs setpriv unshare
unshare -Urm true 2>/dev/null || skip_all "user namespaces are forbidden here"
quiet() { "$@" >"$TMPDIR/out" 2>&1 || { show "$TMPDIR/out"; return 1; }; }

for name in image_unpack image_store; do
        program=$BUILD/tests/unit/test_$name
        if [ -x "$program" ]; then
                ok "$name: every unit test in a user namespace" quiet unshare -Urm "$program"
        else
                skip "$name: every unit test in a user namespace" "$program is not built"
        fi
done

make_rootfs "$TMPDIR/rootfs"
tar -C "$TMPDIR/rootfs" --numeric-owner -cf "$TMPDIR/rootfs.tar" .
# A place that every user reaches, and a copy of the command there.
place=$(mktemp -d /var/tmp/strata-user-XXXXXX)
trap 'rm -rf "$place"; stop_registries' EXIT
chmod 755 "$place"
cp "$STRATA" "$place/strata"
cp "$TMPDIR/rootfs.tar" "$place/"
chmod 644 "$place/rootfs.tar"

# as UID COMMAND...: as that user, with a home of its own.
as() {
        local uid=$1
        shift
        mkdir -p "$place/$uid" && chown "$uid:$uid" "$place/$uid"
        setpriv --reuid "$uid" --regid "$uid" --clear-groups env -i PATH="$PATH" HOME="$place/$uid" "$@"
}

ok "one id: import" quiet as 54321 "$place/strata" image import "$place/rootfs.tar" app:1
ok "one id: every file is the user's" test -z "$(find "$place/54321" ! -uid 54321)"
ok "one id: the store is whole" quiet as 54321 "$place/strata" image check
is "one id: the content is right" "$(sha256sum <"$(find "$place/54321" -path '*diff/usr/lib/random')")" "$(sha256sum <"$TMPDIR/rootfs/usr/lib/random")"

if command -v newuidmap >/dev/null && command -v useradd >/dev/null && useradd -M -U -u 54322 -d "$place/54322" strata-test-image 2>/dev/null; then
        ok "further ids: import" quiet as 54322 "$place/strata" image import "$place/rootfs.tar" app:1
        is "further ids: another owner stays another" "$(stat -c %u "$(find "$place/54322" -path '*diff/tmp')")" \
                "$(($(sed -n 's/^strata-test-image:\([0-9]*\):.*/\1/p' /etc/subuid) + 999))"
        ok "further ids: rm" quiet as 54322 "$place/strata" image rm app:1
        is "further ids: nothing is left" "$(find "$place/54322" -path '*/layers/*' | wc -l)" 0
        userdel strata-test-image 2>/dev/null
else
        skip "further ids" "needs newuidmap and useradd"
fi
done_testing
