#!/bin/bash
# test: timeout=300
# Kernels of machines: imported from files and packages, damaged ones, several at a time, killed ones.
. "$(dirname "$0")/lib.sh"

needs_vmm
[ "${VMM:-strata}" = strata ] || skip_all "only our machines have kernels of this kind"
assets kernel || skip_all "no kernel to import"
for tool in cpio dpkg-deb xz zstd objcopy; do
        command -v $tool >/dev/null || skip_all "$tool is not installed"
done

release=$(cat "$ASSETS/kernel-version")
from=$ASSETS/kernel/lib/modules/$release
export STRATA_ROOT=$TMPDIR/root STRATA_PROGRAMS=$TMPDIR/programs
kernels=$STRATA_ROOT/kernels
mkdir -p "$STRATA_PROGRAMS"
cat >"$STRATA_PROGRAMS/strata-init" <<'END'
#!/a stand-in for the program
END
chmod 755 "$STRATA_PROGRAMS/strata-init"

kernel() {
        "$STRATA" kernel "$@"
}
fails() {
        ! "$@" >"$TMPDIR/out" 2>"$TMPDIR/error"
}
# refused NAME PATTERN COMMAND...: it fails with a sentence that has the pattern, and what was there is there.
refused() {
        local name=$1 pattern=$2 before
        shift 2
        before=$(cat "$kernels"/*/config.json 2>/dev/null | cksum)
        fails "$@" && grep -q "$pattern" "$TMPDIR/error" && [ "$before" = "$(cat "$kernels"/*/config.json 2>/dev/null | cksum)" ] &&
                [ -z "$(find "$kernels" -name '.new-*')" ] && set -- true || set -- false
        ok "$name" "$@" || show "$TMPDIR/error"
}
modules_of() {
        cpio -i --quiet --to-stdout modules <"$kernels/$1/initrd"
}

# --- a file and its modules ------------------------------------------------------------------------------------------------

is "a kernel is imported" "$(kernel import "$ASSETS/vmlinuz" --modules "$from" 2>&1)" default
is "and listed" "$(kernel ls --format '{{.Name}} {{.Release}}')" "default $release"
is "its file is the unpacked one" "$(head -c 4 "$kernels/default/vmlinux" | tail -c 3)" ELF
is "strata-init is the first program" "$(cpio -i --quiet --to-stdout init <"$kernels/default/initrd" | cksum)" "$(cksum <"$STRATA_PROGRAMS/strata-init")"
ok "there is a console for it" sh -c "cpio -tv --quiet <'$kernels/default/initrd' | grep -q '^crw.* 5, *1 .* dev/console'"
# Every module stands behind all that it needs.
ordered() {
        local path name need
        for path in $(modules_of default); do
                name=$(basename "$path" .ko)
                for need in $(sed -n "s,^[^:]*/$name\.ko[^:]*:,,p; s,^[^:]*/${name//_/-}\.ko[^:]*:,,p" "$from/modules.dep"); do
                        need=$(basename "${need%.xz}" .ko)
                        grep -qx "${need//-/_}" "$TMPDIR/seen" || return 1
                done
                echo "$name" >>"$TMPDIR/seen"
        done
        grep -qx virtiofs "$TMPDIR/seen" && grep -qx virtio_net "$TMPDIR/seen" && grep -qx vmw_vsock_virtio_transport "$TMPDIR/seen"
}
: >"$TMPDIR/seen"
ok "modules are in the order in which they can be loaded" ordered

# --- packages, compressed modules -------------------------------------------------------------------------------------------

# tree DIR: a package's tree with the modules that matter; the kernel is a link to save time.
tree() {
        local name path
        mkdir -p "$1/boot" "$1/lib/modules/$release/kernel/deep/er"
        cp -L "$ASSETS/vmlinuz" "$1/boot/vmlinuz-$release"
        cp "$from/modules.builtin" "$1/lib/modules/$release/"
        for path in $(modules_of default); do
                name=$(basename "$path" .ko)
                cp "$(find "$from" -name "$name.ko" -o -name "${name//_/-}.ko" | head -n 1)" "$1/lib/modules/$release/kernel/deep/er/"
        done
}
tree "$TMPDIR/tree"
inside=$TMPDIR/tree/lib/modules/$release/kernel/deep/er
xz -9 -k --check=crc32 "$inside/virtio.ko" "$inside/fuse.ko" && rm "$inside/virtio.ko" "$inside/fuse.ko"
zstd -q --rm "$inside/vsock.ko"
gzip "$inside/virtio_ring.ko"
is "modules may be compressed" "$(kernel import --name packed "$ASSETS/vmlinuz" --modules "$TMPDIR/tree/lib/modules/$release" 2>&1)" packed
ok "and are the same then" cmp "$kernels/default/initrd" "$kernels/packed/initrd"
mkdir -p "$TMPDIR/tree/DEBIAN"
printf 'Package: linux-image-test\nVersion: 1\nArchitecture: amd64\nMaintainer: nobody <n@example.org>\nDescription: a test\n' >"$TMPDIR/tree/DEBIAN/control"
dpkg-deb -Znone -b "$TMPDIR/tree" "$TMPDIR/kernel.deb" >/dev/null
is "a package is imported" "$(kernel import --name deb "$TMPDIR/kernel.deb" 2>&1)" deb
ok "with the modules that are in it" cmp "$kernels/default/initrd" "$kernels/deb/initrd"
is "a command line of one's own" "$(kernel import --name own --append 'console=ttyS0 quiet' "$ASSETS/vmlinuz" --modules "$from" >/dev/null && kernel ls --format '{{.Name}}={{.Append}}' | grep own)" "own=console=ttyS0 quiet"
is "kernels are removed" "$(kernel rm packed deb own 2>&1 | paste -sd' '); $(kernel ls -q)" "packed deb own; default"

# --- what cannot be ---------------------------------------------------------------------------------------------------------

refused "a kernel that is not there" "No such file" kernel import "$TMPDIR/nothing"
refused "a name that is a path" "cannot be a name" kernel import --name ../x "$ASSETS/vmlinuz"
refused "removing what is not there" "there is no kernel" kernel rm nothing
head -c 100000 /dev/urandom >"$TMPDIR/noise"
refused "noise is no kernel" "no Linux kernel" kernel import "$TMPDIR/noise"
head -c 3000000 "$ASSETS/vmlinuz" >"$TMPDIR/short"
refused "a truncated kernel" "truncated" kernel import "$TMPDIR/short" --modules "$from"
cp -L "$ASSETS/vmlinuz" "$TMPDIR/damaged"
dd if="$TMPDIR/noise" of="$TMPDIR/damaged" bs=1 seek=5000000 count=5000 conv=notrunc status=none
refused "a damaged kernel" "damaged\|does not" kernel import "$TMPDIR/damaged" --modules "$from"
cp "$(command -v sleep)" "$TMPDIR/program"
refused "a program" "kernel" kernel import "$TMPDIR/program"

# broken NAME PATTERN COMMANDS: an import with a copy of the modules to which something was done.
broken() {
        rm -rf "$TMPDIR/modules"
        mkdir "$TMPDIR/modules"
        cp "$from/modules.builtin" "$TMPDIR/modules/"
        cp "$inside"/* "$TMPDIR/modules/"
        (cd "$TMPDIR/modules" && eval "$3") >"$TMPDIR/broken" 2>&1
        refused "$1" "$2" kernel import "$ASSETS/vmlinuz" --modules "$TMPDIR/modules"
}
broken "a module that is missing" "virtiofs" 'rm virtiofs.ko'
broken "one that another needs" "needs 'failover'" 'rm failover.ko'
broken "one of another kernel" "for the kernel 6.6.6" "sed -i 's/vermagic=....../vermagic=6.6.6-/' virtio_net.ko"
broken "one that is cut off" "damaged" 'truncate -s 20000 virtio_net.ko'
broken "one that is empty" "too short" ': >virtio_net.ko'
broken "one that is text" "no module" 'head -c 5000 modules.builtin >virtio_net.ko'
broken "one whose compressed data is damaged" "damaged" 'truncate -s 3000 virtio.ko.xz'
broken "modules that need each other" "circles" \
        'objcopy -O binary --only-section=.modinfo --set-section-flags .modinfo=alloc net_failover.ko info; sed -i "s/depends=failover/depends=virtio_net/" info; objcopy --update-section .modinfo=info net_failover.ko'
head -c 200000 "$TMPDIR/kernel.deb" >"$TMPDIR/cut.deb"
refused "a package that is cut off" "package" kernel import "$TMPDIR/cut.deb"
mkdir -p "$TMPDIR/links/boot" "$TMPDIR/links/DEBIAN"
cp "$TMPDIR/tree/DEBIAN/control" "$TMPDIR/links/DEBIAN/"
ln -s /etc/passwd "$TMPDIR/links/boot/vmlinuz-6.1.0"
dpkg-deb -Znone -b "$TMPDIR/links" "$TMPDIR/links.deb" >/dev/null
refused "a package whose kernel is a link" "no kernel" kernel import "$TMPDIR/links.deb"
mkdir -p "$TMPDIR/tree/lib/modules/$release/kernel/twice"
cp "$inside/virtiofs.ko" "$TMPDIR/tree/lib/modules/$release/kernel/twice/"
dpkg-deb -Znone -b "$TMPDIR/tree" "$TMPDIR/twice.deb" >/dev/null
refused "a package with a module twice" "twice" kernel import "$TMPDIR/twice.deb"
mv "$STRATA_PROGRAMS/strata-init" "$STRATA_PROGRAMS/away"
refused "without strata-init" "strata-init" kernel import "$ASSETS/vmlinuz" --modules "$from"
mv "$STRATA_PROGRAMS/away" "$STRATA_PROGRAMS/strata-init"

# --- at the same time, and killed -------------------------------------------------------------------------------------------

for i in 1 2 3; do
        kernel import --name same --append "n=$i" "$ASSETS/vmlinuz" --modules "$from" >"$TMPDIR/same$i" 2>&1 &
done
wait
is "imports at the same time all succeed" "$(cat "$TMPDIR"/same[1-3] | sort -u) $(find "$kernels" -name '.new-*' | wc -l)" "same 0"
ok "and one of them is the kernel" sh -c "'$STRATA' kernel ls --format '{{.Name}} {{.Append}}' | grep -q '^same n=[1-3]$' && cmp '$kernels/same/initrd' '$kernels/default/initrd'"
for i in $(seq 6); do
        kernel import --name victim --append "n=$i" "$ASSETS/vmlinuz" --modules "$from" >/dev/null 2>&1 &
        sleep "0.$(printf %03d $((i * 50)))"
        kill -9 $! 2>/dev/null
        wait $! 2>/dev/null
        if [ -e "$kernels/victim" ]; then
                cmp "$kernels/victim/initrd" "$kernels/default/initrd" && cmp "$kernels/victim/vmlinux" "$kernels/default/vmlinux"
        fi
done >"$TMPDIR/killed" 2>&1
is "an import that was killed leaves a whole kernel or none" "$(cat "$TMPDIR/killed")" ""
kernel import --name victim "$ASSETS/vmlinuz" --modules "$from" >/dev/null
is "the next one takes away what it left" "$(find "$kernels" -name '.new-*')" ""

done_testing
