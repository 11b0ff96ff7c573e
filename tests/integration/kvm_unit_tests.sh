#!/bin/bash
# test: timeout=1800
# kvm-unit-tests, built outside this tree: KVM_UNIT_TESTS names a directory with x86_64/x86/*.flat and i386/x86/*.flat.
# By hand: kvm_unit_tests.sh [NAME...] runs only those; KUT_LOGS=DIR keeps every console log; KUT_TIER=ci leaves out "more".
. "$(dirname "$0")/lib.sh"
[ -n "${KVM_UNIT_TESTS:-}" ] || skip_all "KVM_UNIT_TESTS is not set (Debian has no package of kvm-unit-tests)"
needs_vmm
logs=${KUT_LOGS:-$TMPDIR}
mkdir -p "$logs"

# What upstream's runner hands to a test as its environment: the host kernel's version, and that known errata of real
# machines are none of ours.
environment=$TMPDIR/environment
IFS=.- read -r version patchlevel sublevel _ < <(uname -r)
cat >"$environment" <<END
KERNEL_VERSION_STRING=$(uname -r)
KERNEL_VERSION=$version
KERNEL_PATCHLEVEL=$patchlevel
KERNEL_SUBLEVEL=${sublevel%%[!0-9]*}
KERNEL_EXTRAVERSION=
ERRATA_FORCE=y
END

# passed STATUS LOG: a test's exit(0) arrives as status 1, see --debug-exit; its own summary must agree.
passed() {
        [ "$1" = 1 ] && ! grep -qE '^FAIL:|^SUMMARY: .* unexpected failure' < <(tr -d '\r' <"$2")
}

wanted=" $* "
while read -r tier arch name file cpus cpu arguments; do
        case $tier in '' | '#'*) continue ;; esac
        [ "$tier" = ci ] || [ "${KUT_TIER:-}" != ci ] || continue
        case $wanted in "  " | *" $name "*) ;; *) continue ;; esac
        flat=$KVM_UNIT_TESTS/$arch/x86/$file
        log=$logs/$arch-$name.log
        if [ ! -f "$flat" ]; then
                skip "$arch $name" "no $flat"
                continue
        fi
        append=()
        [ -z "$arguments" ] || append=(--append "$arguments")
        VM_TIMEOUT=${KUT_TIMEOUT:-300} QEMU_MACHINE=pc QEMU_CPU=$cpu vm "$log" --kernel "$flat" --initrd "$environment" "${append[@]}" \
                --cpus "$cpus" --memory 128M --net none --debug-exit --console stdio
        if [ "$vm_status" = 155 ]; then # exit(77): the test found nothing to test
                skip "$arch $name" "$(tr -d '\r' <"$log" | grep -E '^(SKIP|SUMMARY)|skip' | tail -n 1)"
                continue
        fi
        ok "$arch $name" passed "$vm_status" "$log" && continue
        echo "# status $vm_status"
        tail -n 12 "$log" | tr -d '\r' | awk '{ print "# | " $0 }'
done <"$ROOT/tests/integration/kvm-unit-tests.list"
done_testing
