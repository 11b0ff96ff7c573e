/* Prints its machine's name and 32 random bytes, a line each time, without a pause. Built static. */
#include <stdio.h>
#include <sys/random.h>
#include <sys/utsname.h>
#include <unistd.h>

int main(void)
{
        for (;;) {
                unsigned char random[32];
                struct utsname system;
                char line[256];
                int n;

                if (uname(&system) < 0 || getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
                        return 1;
                n = snprintf(line, sizeof(line), "%.64s ", system.nodename);
                for (size_t i = 0; i < sizeof(random); i++)
                        n += snprintf(line + n, sizeof(line) - (size_t)n, "%02x", random[i]);
                line[n++] = '\n';
                if (write(1, line, (size_t)n) != n)
                        return 1;
        }
}
