/* Second opinions for tests of seccomp filters: what a program says to a call, what the profile itself says, and what
 * libseccomp makes of it. */
#pragma once

#include <jansson.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

#include "base/types.h"

/* The verdict of a classic BPF program; UINT32_MAX when it is not valid. *ret_steps (may be NULL): instructions run. */
u32 bpf_verdict(const struct sock_filter *insn, size_t n, const struct seccomp_data *data, unsigned *ret_steps);

/* What the rules at the top of src/box/seccomp/profile.c say about a call, straight from the profile. */
u32 profile_verdict(const json_t *profile, const struct seccomp_data *data);

/* The program that libseccomp exports for an OCI profile, fed as the runtimes that link it do. NULL when it refuses
 * the profile. Free with free(). */
struct sock_filter *libseccomp_program(const json_t *profile, size_t *ret_n);
