#include "terminal.h"

#include <signal.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#define CTRL_A 1

/* A process has one terminal, and a signal handler cannot be given an argument: the one place with file-scope state. */
static struct {
        struct termios saved;
        volatile sig_atomic_t is_raw;
        bool have_saved;
} terminal;

bool terminal_raw(void)
{
        struct termios t;

        if (!isatty(STDIN_FILENO))
                return false;
        const pid_t foreground = tcgetpgrp(STDIN_FILENO);

        /* In the background; SIGCONT tells when that changes. A terminal that does not control us has no foreground for us (-1). */
        if (foreground >= 0 && foreground != getpgrp())
                return true;
        if (!terminal.have_saved && tcgetattr(STDIN_FILENO, &terminal.saved) < 0)
                return false;
        terminal.have_saved = true;
        t = terminal.saved;
        cfmakeraw(&t);
        t.c_oflag |= OPOST; /* our own messages end lines with \n only; the guest's \r\n is not hurt by it */
        t.c_cc[VMIN] = 1;
        t.c_cc[VTIME] = 0;
        if (tcsetattr(STDIN_FILENO, TCSANOW, &t) == 0)
                terminal.is_raw = 1;
        return true;
}

void terminal_restore(void)
{
        if (terminal.is_raw)
                tcsetattr(STDIN_FILENO, TCSANOW, &terminal.saved);
        terminal.is_raw = 0;
}

static void on_crash(int sig)
{
        terminal_restore();
        raise(sig); /* SA_RESETHAND: the default action now */
}

void terminal_catch_crashes(void)
{
        static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGSYS };
        struct sigaction action = { .sa_handler = on_crash, .sa_flags = (int)SA_RESETHAND };

        for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
                sigaction(signals[i], &action, NULL);
}

/* ---- keys ---- */

static const struct {
        char key;
        enum terminal_key what;
} keys_table[] = {
        { 'x', KEY_QUIT },
        { 'h', KEY_HELP },
        { '?', KEY_HELP },
        { 'b', KEY_BREAK },
        { 'c', KEY_CPUS },
        { 's', KEY_STATS },
};

const char terminal_help[] = "\n"
                             "Ctrl-A X       end the machine\n"
                             "Ctrl-A C       print the CPUs' states\n"
                             "Ctrl-A S       print counters\n"
                             "Ctrl-A B       send a break\n"
                             "Ctrl-A Ctrl-A  send Ctrl-A\n"
                             "Ctrl-A H       this help\n";

static enum terminal_key key_find(u8 c)
{
        if (c >= 'A' && c <= 'Z')
                c = (u8)(c + 'a' - 'A');
        for (size_t i = 0; i < ARRAY_SIZE(keys_table); i++)
                if (keys_table[i].key == (char)c)
                        return keys_table[i].what;
        return KEY_NONE;
}

size_t terminal_filter(
        struct terminal_keys *keys, const u8 *in, size_t n, u8 *out, size_t *ret_n, enum terminal_key *ret_key)
{
        size_t used = 0, done = 0;

        *ret_key = KEY_NONE;
        while (used < n && *ret_key == KEY_NONE) {
                const u8 c = in[used++];

                if (!keys->escaped && c == CTRL_A) {
                        keys->escaped = true;
                } else if (keys->escaped && c != CTRL_A) {
                        *ret_key = key_find(c); /* an unknown key after Ctrl-A is dropped with it */
                        keys->escaped = false;
                } else {
                        out[done++] = c;
                        keys->escaped = false;
                }
        }
        *ret_n = done;
        return used;
}
