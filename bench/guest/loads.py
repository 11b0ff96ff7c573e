"""What bench/guest/run measures: each load is one shell command, run in /tmp (a tmpfs), with its rounds in the variable N.

Rounds are chosen so that QEMU's TCG needs about two seconds; those of floating point and SIMD so that the host itself needs 0.1 to 0.4 s, which
is four to twenty seconds of TCG's: with less the start of the program would be what is measured. What a load prints depends on all of its work: the outputs of
all peers must be equal. `needs` names the input that is made before, untimed; data never comes from a disk.
"""

import dataclasses

# name -> command that writes /tmp/NAME
INPUTS = {
    "text": "gen text 1500000",
    "table": "gen table 40000",
    "sql": "gen sql 4000",
    "records": "gen records 1000000",
    "text.gz": "gen text 1500000 | gzip -6",
}


@dataclasses.dataclass(frozen=True)
class Load:
    name: str
    rounds: int
    command: str
    needs: tuple = ()
    simd: bool = False  # counts as floating point or SIMD
    cpus: int = 1


def os_load(name, rounds, cpus=1):
    return Load(name, rounds, f"os {name} $N", cpus=cpus)


def cpu_load(name, rounds):
    return Load(name, rounds, f"cpu {name} $N")


def fp_load(name, rounds):
    return Load(name, rounds, f"fp {name} $N", simd=True)


def repeated(command):
    """For commands whose work is that of one file: as often as wanted."""
    return f"i=0; while [ $i -lt $N ]; do {command}; i=$((i+1)); done"


def twice(command):
    """The command in two processes at once."""
    # The halves must not write the same file.
    return f"({command.replace('/tmp/o', '/tmp/o2')}) >/tmp/second & {command}; wait $!; cat /tmp/second"


SHELL_LOOP = (
    "i=0; s=0; while [ $i -lt $N ]; do case $i in *7) s=$((s+i)) ;; *) s=$((s^i)) ;; esac; i=$((i+1)); done; echo $s"
)
AWK_PROGRAM = "{ n[$2]++; s[$2] += $3 } END { for (w in n) if (n[w] > 60) print w, n[w], s[w] }"
COMPILE = "gcc -O2 -c -o /tmp/o /bench/os.c && cat /tmp/o"

LOADS = (
    # the kernel's work
    os_load("null-syscall", 1_200_000),
    os_load("byte-io", 350_000),
    os_load("pipe-bulk", 100),
    os_load("ping-pong", 5200),
    os_load("switches", 1100),
    os_load("socket-server", 4900),
    os_load("fork", 650),
    os_load("fork-exec", 31),
    os_load("page-faults", 39),
    os_load("copy-on-write", 150),
    os_load("map-unmap", 2100),
    os_load("signals", 3800),
    os_load("small-files", 4600),
    os_load("threads", 3800),
    # programs
    Load("shell-loop", 32_000, SHELL_LOOP),
    Load("busybox-shell-loop", 37_000, f"busybox sh -c '{SHELL_LOOP}'"),
    Load("shell-commands", 8, repeated("x=$(echo $i | tr 0-9 a-j | sed s/a/x/); [ -n $x ] && expr $i % 13")),
    Load(
        "busybox-byte-dd", 310_000, "busybox dd if=/dev/zero of=/tmp/bytes bs=1 count=$N 2>/dev/null; wc -c </tmp/bytes"
    ),
    Load("sort", 3, repeated("sort -k2,2 -k3n table | tail -n 100"), ("table",)),
    Load("busybox-sort", 1, repeated("busybox sort -k2,2 table | busybox tail -n 100"), ("table",)),
    Load(
        "awk",
        5,
        repeated(
            f"mawk '{AWK_PROGRAM}' table | sort"
        ),
        ("table",),
    ),
    Load(
        "busybox-awk",
        1,
        repeated(
            f"busybox awk '{AWK_PROGRAM}' table | sort"
        ),
        ("table",),
    ),
    Load("grep", 5, repeated("grep -c 'qui.*ster[a-n]' text; grep -o 'ha[a-z]*ne' text | sort -u | wc -l"), ("text",)),
    Load("gzip", 2, repeated("gzip -6 -n -c <text"), ("text",)),
    Load("gunzip", 4, repeated("gzip -dc text.gz | cksum"), ("text.gz",)),
    Load("bzip2", 3, repeated("bzip2 -c <records"), ("records",)),
    Load("xz", 1, repeated("xz -2 -c <records"), ("records",)),
    Load("busybox-sha256", 31, repeated("busybox sha256sum <text"), ("text",)),
    Load("openssl-sha256", 7, repeated("openssl dgst -sha256 <text"), ("text",)),
    Load(
        "openssl-aes",
        3,
        repeated("openssl enc -aes-128-cbc -K 00112233445566778899aabbccddeeff -iv 00 <text 2>/dev/null | tail -c 64"),
        ("text",),
    ),
    Load("python", 15, "python3 -S /bench/micro.py $N"),
    Load("perl", 7, "perl /bench/micro.pl $N"),
    Load("sqlite", 1, repeated("rm -f db; sqlite3 db <sql"), ("sql",)),
    Load("compile", 1, repeated(COMPILE)),
    # integer computation
    cpu_load("calls", 1300),
    cpu_load("hash-table", 1300),
    cpu_load("list-walk", 3500),
    cpu_load("sort-numbers", 40),
    cpu_load("bytecode", 49),
    cpu_load("copying", 350),
    # floating point and SIMD
    fp_load("matrix", 50),
    fp_load("bodies", 2550),
    fp_load("mandelbrot", 260),
    fp_load("stream", 500),
    fp_load("fourier", 1620),
    fp_load("sse-blend", 4200),
    fp_load("sse-search", 4800),
    fp_load("avx-filter", 4600),
    fp_load("avx-axpy", 510),
    fp_load("avx-polynomial", 1100),
    fp_load("avx-count", 5200),
    # two CPUs
    Load("2-ping-pong", 17_000, "os ping-pong $N", cpus=2),
    Load("2-atomics", 26_000_000, "os two-atomics $N", cpus=2),
    Load("2-mutexes", 9_400_000, "os two-mutexes $N", cpus=2),
    Load("2-unmaps", 1900, "os two-unmaps $N", cpus=2),
    Load("2-fork-exec", 29, twice("os fork-exec $N"), cpus=2),
    Load("2-gzip", 1, twice(repeated("gzip -6 -n -c <text | cksum")), ("text",), cpus=2),
    Load("2-python", 3, twice("python3 -S /bench/micro.py $N"), cpus=2),
    Load("2-compile", 1, twice(repeated(COMPILE + " | cksum")), cpus=2),
)
