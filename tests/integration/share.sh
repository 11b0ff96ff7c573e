#!/bin/bash
# test: timeout=400
# Shared directories (virtio-fs) with Linux's driver: random operations compared with a tmpfs, many files with few descriptors,
# ownership and modes, what must not go through (links, devices, read-only), changes by the host.
. "$(dirname "$0")/lib.sh"
export ENGINE=${ENGINE:-translate} # this is about the device; the guest has much to do
needs_vmm
[ "${VMM:-strata}" = strata ] || skip_all "QEMU needs a file server of its own"
assets devices
log=$TMPDIR/console
share=$TMPDIR/share

mkdir -p "$share/work" "$share/readonly" "$share/host" "$share/race"
echo secret >"$TMPDIR/outside"
chmod 600 "$TMPDIR/outside"
ln -s ../outside "$share/host/link"
ln -s / "$share/host/root"
echo "from the host" >"$share/host/file"
mkfifo "$share/host/fifo"
echo "stays" >"$share/readonly/file"

seed=${SHARE_SEED:-$RANDOM}
echo "# SHARE_SEED=$seed"
guest_running "$ASSETS/devices.cpio" '
mkdir /mnt /ro /model
mount -t virtiofs work /mnt && echo "mounted: work"
mount -t virtiofs readonly /ro && echo "mounted: readonly"
mount -t tmpfs none /model
i=0
while [ $i -lt 3 ]; do
        mkdir /mnt/work/$i /model/$i
        files check /mnt/work/$i /model/$i $(('"$seed"' + i)) 1500 && echo "model: agrees"
        i=$((i + 1))
done
files many /mnt/work 1200
files race /mnt/race 5
echo "link: $(cat /mnt/host/link 2>&1)"
echo "root: $(ls /mnt/host/root/etc/hostname 2>&1)"
echo "file: $(cat /mnt/host/file)"
echo "device: $(mknod /mnt/work/device b 8 0 2>&1)"
echo "fifo: $(echo through >/mnt/host/fifo & cat /mnt/host/fifo)"
echo "ro: $(echo x 2>&1 >/ro/new; rm /ro/file 2>&1; cat /ro/file)"
mkdir -p /etc
printf "%s\n" root:x:0:0::/:/bin/sh someone:x:1234:1234::/:/bin/sh >/etc/passwd
mkdir -m 777 /mnt/work/open
su someone -c "umask 027; echo mine >/mnt/work/open/file; mkdir /mnt/work/open/dir"
echo "denied: $(su someone -c "cat /mnt/work/private" 2>&1; echo p >/mnt/work/private; chmod 600 /mnt/work/private; su someone -c "cat /mnt/work/private" 2>&1)"
cp /bin/busybox /mnt/work/busybox
chmod 4755 /mnt/work/busybox
echo "run: $(/mnt/work/busybox echo a program runs from there)"
dd if=/dev/urandom of=/mnt/work/big bs=64k count=100 2>/dev/null
echo "big: $(sha256sum </mnt/work/big | cut -c1-64)"
sync
# The host changes a file that the guest has read.
echo "before: $(cat /mnt/host/file)"
echo "guest: waiting"
while [ ! -e /mnt/host/changed ]; do sleep 1; done
echo "after: $(cat /mnt/host/file)"
umount /mnt && umount /ro && echo "unmounted"
' "$TMPDIR/initrd"

change_file() {
        local i
        for ((i = 0; i < 400; i++)); do
                if grep -qF "guest: waiting" "$log" 2>/dev/null; then
                        echo "changed by the host" >"$share/host/file"
                        touch "$share/host/changed"
                        return
                fi
                sleep 1
        done
}
change_file &
changer=$!
# So few descriptors that most files are opened again and again.
(ulimit -n 1100 && VM_TIMEOUT=600 vm "$log" --kernel "$ASSETS/vmlinuz" --initrd "$TMPDIR/initrd" --memory 256M --append "$KERNEL_LINE quiet" \
        --share "tag=work,path=$share" --share "tag=readonly,path=$share/readonly,ro"; exit "$vm_status")
vm_status=$?
kill $changer 2>/dev/null
wait $changer

is "power-off ends with status 0" "$vm_status" 0 || show "$log"
ok "both shares are mounted" test "$(grep -ac '^mounted: ' "$log")" = 2 || show "$log"
is "4,500 random operations agree with a tmpfs" "$(grep -ac '^model: agrees' "$log")" 3 || show "$log"
is "1,200 files with 64 descriptors" "$(line_after "$log" 'many: ')" "1200 files, 0 bad"
is "a directory that is a link every other moment" "$(line_after "$log" 'race: ')" walked
ok "nothing was made outside by it" test ! -e /etc/marker
ok "a link goes to the guest's own files, which has none there" says "$log" "link: cat: can't open"
ok "a link to / is the guest's /" says "$log" "root: ls: /mnt/host/root/etc/hostname: No such file"
is "the guest reads the host's file" "$(line_after "$log" 'file: ')" "from the host"
is "what is outside is as it was" "$(cat "$TMPDIR/outside")$(stat -c %a "$TMPDIR/outside")" secret600
ok "no device is made" test ! -e "$share/work/device" -a -n "$(line_after "$log" 'device: mknod: ')"
is "a fifo is the guest's own" "$(line_after "$log" 'fifo: ')" through
ok "a read-only share says so" says "$log" "Read-only file system"
is "and is as it was" "$(ls "$share/readonly")$(cat "$share/readonly/file")" filestays
if [ "$(id -u)" = 0 ]; then
        is "files belong to who made them" "$(stat -c %u:%a "$share/work/open/file" "$share/work/open/dir" | tr '\n' ' ')" "1234:640 1234:750 "
        is "modes are as the guest set them" "$(stat -c %a "$share/work/busybox")" 4755
        ok "the guest's users have their rights and no more" test "$(grep -ac 'Permission denied' "$log")" -ge 1
else
        skip "ownership" "not root"
fi
is "a program runs from a share" "$(line_after "$log" 'run: ')" "a program runs from there"
is "6 MiB arrive as they were" "$(line_after "$log" 'big: ')" "$(sha256sum <"$share/work/big" | cut -c1-64)"
is "the guest sees what the host changes: before" "$(line_after "$log" 'before: ')" "from the host"
is "the guest sees what the host changes: after" "$(line_after "$log" 'after: ')" "changed by the host"
ok "shares are unmounted" says "$log" unmounted

# What cannot be is said before anything starts.
refused() {
        "$STRATA" vm run --kernel "$ASSETS/vmlinuz" "$@" >"$TMPDIR/refused" 2>&1
        echo "$? $(head -n 1 "$TMPDIR/refused")"
}
is "a directory that does not exist" "$(refused --share "tag=a,path=$TMPDIR/none")" \
        "125 strata-vmm: sharing '$TMPDIR/none': opening the directory '$TMPDIR/none': No such file or directory"
is "a share without a tag" "$(refused --share "path=$share")" "124 strata-vmm: --share lacks tag="
is "two shares of one name" "$(refused --share "tag=a,path=/" --share "tag=a,path=/")" "124 strata-vmm: --share tag=a is given twice"
is "an unknown word" "$(refused --share "tag=a,path=/,rw")" "124 strata-vmm: --share: unknown word 'rw'"
done_testing
