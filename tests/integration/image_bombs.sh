#!/bin/bash
# test: timeout=240
# Archives that are small on the wire and large when unpacked, on a disk that is too small for them: imported, pulled, loaded,
# added by a build. Each ends with an error that says what is the matter, and leaves nothing.
if [ -z "${STRATA_TEST_MNTNS:-}" ] && [ "$(id -u)" = 0 ]; then
        export STRATA_TEST_MNTNS=1
        exec unshare -m "$0" "$@"
fi
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/image_lib.sh"
[ "$(id -u)" = 0 ] || skip_all "needs root to mount a small disk"
needs zstd
quiet() { "$@" >"$TMPDIR/out" 2>&1 || { show "$TMPDIR/out"; return 1; }; }

# Of which 128 MiB stay free: there is room for about 170.
disk=$TMPDIR/disk
mkdir "$disk"
mount -t tmpfs -o size=300m tmpfs "$disk" 2>/dev/null || skip_all "cannot mount a tmpfs"
export STRATA_IMAGE_ROOT=$disk/store
used() { df --output=used "$disk" | tail -n 1; }

# bomb SIZE: a tar of one file of SIZE zeros, which are there (no sparse file).
bomb() {
        /usr/bin/python3 - "$1" <<'END'
import sys, tarfile
header = tarfile.TarInfo("zeros")
header.size = int(sys.argv[1])
sys.stdout.buffer.write(header.tobuf(tarfile.GNU_FORMAT))
for _ in range(header.size >> 20):
    sys.stdout.buffer.write(bytes(1 << 20))
sys.stdout.buffer.write(bytes(1024))
END
}
bomb $((500 << 20)) | zstd -q -1 >"$TMPDIR/bomb.tar.zst"
zstd -qdc "$TMPDIR/bomb.tar.zst" | gzip -1 >"$TMPDIR/bomb.tar.gz"
# An archive that is whole, and then 200 MiB of nothing.
{
        tar -C "$ROOT" -cf - Makefile
        head -c 200m /dev/zero
} | zstd -q -1 >"$TMPDIR/tail.tar.zst"
tar -C "$ROOT" -cf "$TMPDIR/small.tar" Makefile
image import "$TMPDIR/small.tar" small:1 >/dev/null
before=$(used)

# refused NAME WORDS COMMAND...: with status 125 and those words; the store is whole, and as large as before.
refused() {
        local name=$1 words=$2 now
        shift 2
        "$@" >"$TMPDIR/out" 2>&1
        is "$name: is refused" $? 125
        ok "$name: and says why" grep -q "$words" "$TMPDIR/out" || show "$TMPDIR/out"
        ok "$name: the store is whole" quiet image check
        image prune >/dev/null
        now=$(used)
        ok "$name: and nothing is left" test $((now - before)) -lt 3000 || echo "# $before KiB before, $now after"
}

for kind in gz zst; do
        refused "import of a .$kind bomb" "the disk is nearly full" image import "$TMPDIR/bomb.tar.$kind" bomb:1
done
refused "import of a bomb behind the archive's end" "what follows the archive's end" image import "$TMPDIR/tail.tar.zst" bomb:1

# The same from a registry and from an archive: made in a store that has the room.
image import --root "$TMPDIR/layout" "$TMPDIR/bomb.tar.gz" app:1 >/dev/null
quiet image save --root "$TMPDIR/layout" -o "$TMPDIR/saved.tar" app:1
fake_registry --layout "$TMPDIR/layout"
refused "pull of a bomb" "the disk is nearly full" image pull "localhost:$registry_port/app:1"
stop_registries
refused "load of a bomb" "the disk is nearly full" image load -i "$TMPDIR/saved.tar"
zstd -q -1 -c <(bomb $((500 << 20))) >"$TMPDIR/flat.tar.zst" # here the archive of the images itself is the bomb
refused "load of a compressed bomb" "the disk is nearly full" image load -i "$TMPDIR/flat.tar.zst"

mkdir "$TMPDIR/context" && cp "$TMPDIR/bomb.tar.gz" "$TMPDIR/context"
printf 'FROM small:1\nADD bomb.tar.gz /\n' >"$TMPDIR/context/Dockerfile"
refused "ADD of a bomb" "the disk is nearly full" image build -t bomb:1 "$TMPDIR/context"

# A file that says it is enormous and is all hole costs nothing, and is what it says.
truncate -s 100G "$TMPDIR/hole" && tar -C "$TMPDIR" --sparse -cf "$TMPDIR/hole.tar" hole
ok "a sparse file of 100 GiB is no bomb" quiet image import "$TMPDIR/hole.tar" hole:1
is "and has its size" "$(stat -c %s "$(layer_dir hole:1)/hole")" $((100 << 30))
truncate -s 300G "$TMPDIR/hole" && tar -C "$TMPDIR" --sparse -cf "$TMPDIR/hole.tar" hole
refused "one of 300 GiB" "'hole' has 322122547200 bytes" image import "$TMPDIR/hole.tar" hole:2
umount "$disk"
done_testing
