#!/bin/bash
# test: fast timeout=60
# The floors of src/ are kept, and the program that checks them notices every way of breaking them.
. "$(dirname "$0")/lib.sh"

tree=$(mktemp -d)
mkdir -p "$tree"/{base,isa,mmu,cpu/interp,dev/virtio,vm}

# includes FILE TEXT: check-floors' output for a tree where FILE consists of TEXT.
checked() {
        printf '%s\n' "$2" >"$tree/$1"
        "$ROOT/scripts/check-floors" "$tree"
        local status=$?
        rm "$tree/$1"
        return $status
}

accepts() {
        checked "$1" "$2"
}

rejects() {
        ! checked "$1" "$2" >/dev/null
}

ok "no module of src/ includes upwards" "$ROOT/scripts/check-floors"
ok "a lower floor may be included" accepts vm/machine.c '#include "cpu/cpu.h"'
ok "the module's own files may be included by path" accepts cpu/interp/exec.c '#include "cpu/cpu.h"'
ok "the module's own files may be included by name" accepts cpu/interp/exec.c '#include "ops.h"'
ok "system headers are nobody's module" accepts base/log.c '#include <cpu/cpu.h>'
ok "an include in a comment line is none" accepts base/log.c '/* as in #include "vm/vm.h" */'
ok "a higher floor is refused" rejects mmu/tlb.c '#include "vm/vm.h"'
ok "another module on the same floor is refused" rejects cpu/interp/exec.c '#include "dev/dev.h"'
ok "the way round through .. is refused" rejects cpu/interp/exec.c '#include "../../dev/dev.h"'
ok "unusual spacing does not hide an include" rejects dev/virtio/blk.c '  #  include "cpu/cpu.h"'
ok "headers and tables are looked at too" rejects base/log.def '#include "isa/isa.h"'
ok "another module's internal.h is refused" rejects vm/machine.c '#include "cpu/internal.h"'
mkdir "$tree/kitchen"
ok "a module without a floor is refused" rejects kitchen/sink.c '#include "base/log.h"'
rm -rf "$tree"
done_testing
