/* The last step of a container's first process: a program of a few hundred bytes that executes the payload and is
 * nothing else.
 *
 * Why: a payload of "#!/proc/self/exe", or a file whose ELF interpreter is /proc/self/exe, makes the kernel run the
 * program that calls execve *inside* the container, from where /proc/PID/exe leads to its file on the host
 * (CVE-2019-5736). So the program that calls execve is this one, in a sealed memfd: what the container reaches through
 * it is a copy that nobody can write. It costs one execve of a file of one page, against a second start of the whole
 * runtime (docs/adr/0020).
 *
 * argv: PATH of the payload, SOCKET (decimal), then the payload's own argv. On failure it writes what sync.c reads as
 * SYNC_EXEC_FAILED and exits as a shell would: 127 not found, 126 otherwise.
 * Freestanding: no C library, no writable data, no relocation. */

enum { SYS_write_ = 1, SYS_fcntl_ = 72, SYS_execve_ = 59, SYS_exit_group_ = 231 };
enum { F_SETFD_ = 2, FD_CLOEXEC_ = 1, ENOENT_ = 2 };
enum { TEXT_MAX_ = 256 };
enum { SYNC_EXEC_FAILED_ = 8 }; /* enum sync_type; tests/unit/test_box_handover.c holds them together */

static long call(long nr, long a, long b, long c)
{
        long r;

        __asm__ volatile("syscall" : "=a"(r) : "a"(nr), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
        return r;
}

__attribute__((noreturn, used)) void handover_main(long *stack);
void handover_main(long *stack)
{
        const long argc = stack[0];
        char **argv = (char **)(stack + 1);
        char **envp = argv + argc + 1;
        struct {
                int type, value;
                unsigned id;
                char text[TEXT_MAX_];
        } message;
        int sock = 0, n = 0;

        if (argc < 3)
                call(SYS_exit_group_, 125, 0, 0);
        for (const char *p = argv[1]; *p; p++)
                sock = sock * 10 + (*p - '0');
        call(SYS_fcntl_, sock, F_SETFD_, FD_CLOEXEC_);
        message.type = SYNC_EXEC_FAILED_;
        message.id = 0;
        for (; n < TEXT_MAX_ - 1 && argv[0][n]; n++)
                message.text[n] = argv[0][n];
        message.text[n] = 0;
        message.value = (int)-call(SYS_execve_, (long)argv[0], (long)(argv + 2), (long)envp);
        call(SYS_write_, sock, (long)&message, 3 * sizeof(int) + n + 1);
        call(SYS_exit_group_, message.value == ENOENT_ ? 127 : 126, 0, 0);
        __builtin_unreachable();
}

__asm__(".globl _start\n"
        "_start:\n"
        "        xor %ebp, %ebp\n"
        "        mov %rsp, %rdi\n"
        "        and $-16, %rsp\n"
        "        call handover_main\n");
