/* The runtime's own program file, out of reach of containers (CVE-2019-5736; docs/adr/0020). */
#pragma once

#include "base/err.h"

/* From now on /proc/PID/{exe,mem,fd,...} of this process and its children belong to the host's root alone. */
void seal_process(void);
/* Whether the running program is a file that nobody can write through its /proc/PID/exe. */
bool seal_is_cloned(void);
/* Starts this program again, same arguments, from a detached read-only mount of its file or, where that cannot be made,
 * a sealed copy in memory. Returns 0 when it is running so already, or an error. */
int seal_reexec(struct err **err);
