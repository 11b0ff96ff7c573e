#!/bin/bash
# test: timeout=900
# A Debian root file system on NVMe, no initramfs: dpkg, apt and perl do real work, and what they wrote is on the disk,
# intact, after power-off.
. "$(dirname "$0")/lib.sh"
needs_vmm
assets kernel debian
log=$TMPDIR/console
disk=$TMPDIR/root.img
cp --sparse=always --reflink=auto "$ASSETS/debian.ext4" "$disk"

# What a file holds in the disk after the run, and in the image before it; read without mounting either.
host_file() {
        debugfs -R "cat $1" "$disk" 2>/dev/null
}
pristine_file() {
        debugfs -R "cat $1" "$ASSETS/debian.ext4" 2>/dev/null
}

VM_TIMEOUT=800 vm "$log" --kernel "$ASSETS/vmlinuz" --disk "$disk" --memory 512M --cpus 1 --net none \
        --append "$KERNEL_LINE root=/dev/nvme0n1 rw init=/test"
is "power-off ends with status 0" "$vm_status" 0 || show "$log"
ok "the first process ran from the disk" says "$log" "guest: first process runs"
for step in dpkg-list dpkg-verify apt-install apt-check apt-result perl-words big-file small-files; do
        ok "in the guest: $step" says "$log" "guest: $step ended with status 0"
done
ok "no I/O error was reported" test -z "$(grep -aE 'I/O error|EXT4-fs error|nvme.*(timeout|abort|reset)' "$log")"

fsck_clean() { e2fsck -fn "$disk" >"$TMPDIR/fsck" 2>&1; }
ok "the file system is clean" fsck_clean || show "$TMPDIR/fsck"
is "dpkg listed every package of its database" \
        "$(host_file /root/result/dpkg-list.out | wc -l)" "$(pristine_file /var/lib/dpkg/status | grep -c '^Package:')"
is "the package that apt installed is recorded" \
        "$(host_file /var/lib/dpkg/status | sed -n '/^Package: ed$/,/^$/s/^Status: //p')" "install ok installed"
is "the program it installed ran" "$(host_file /root/result/apt-result.out)" "apt put this here"
is "perl counted the words as the host's perl does" "$(host_file /root/result/perl-words.out)" \
        "$(pristine_file /usr/share/common-licenses/GPL-3 | perl "$ROOT/tests/guests/words.pl")"
is "16 MiB arrived on the disk" "$(host_file /root/result/big | sha256sum)" \
        "$(perl "$ROOT/tests/guests/pattern.pl" | sha256sum)"
is "renamed files are there" "$(for i in 0 1 2 3 4 5 6 7 8 9; do host_file /root/result/small/$i; done)" \
        "$(printf 'file %s\n' 0 1 2 3 4 5 6 7 8 9)"
is "a removed directory is gone" "$(host_file /root/result/gone/new)" ""
done_testing
