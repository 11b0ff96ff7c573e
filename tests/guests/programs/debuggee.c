/* What gdb looks at: see gdb.script. */
#include <stdio.h>

volatile int watched, other;
volatile unsigned long sum;

__attribute__((noinline)) static int twice(int n)
{
        other = n;
        return 2 * n;
}

__attribute__((noinline)) static void count(int n)
{
        for (int i = 0; i < n; i++)
                sum = sum * 31 + (unsigned long)i;
}

int main(void)
{
        for (int i = 0; i < 10; i++)
                watched += twice(i);
        count(100);
        printf("program: %d %lu\n", watched, sum);
        return 0;
}
