/* Reading members of the runtime spec's JSON, which strangers write. A member that is absent or null leaves *ret as it
 * was; one of the wrong type or out of range is an error that names it. Callers put the place in front with err_wrap:
 * "linux.seccomp: syscalls[3]: 'errnoRet' must be a whole number from 0 to 4095". */
#pragma once

#include <jansson.h>

#include "base/err.h"

/* The whole number that @json is; false when it is none or does not fit. Numbers above the range of s64 come as reals,
 * and 18446744073709551615, which is how Go writes "no limit", as 2^64. */
bool oci_u64(const json_t *json, u64 *ret);
bool oci_s64(const json_t *json, s64 *ret);

/* The member, or NULL when it is absent or null. Any @object, NULL and other types included. */
const json_t *oci_member(const json_t *object, const char *key);

int oci_read_int(const json_t *object, const char *key, s64 smallest, s64 largest, s64 *ret, struct err **err);
/* The whole range of u64; what exceeds s64 can reach us as a JSON real. */
int oci_read_u64(const json_t *object, const char *key, u64 *ret, struct err **err);
int oci_read_bool(const json_t *object, const char *key, bool *ret, struct err **err);
/* Borrowed from @object, without embedded NULs. */
int oci_read_string(const json_t *object, const char *key, const char **ret, struct err **err);
/* Borrowed. json_array_size and json_object_foreach are fine with the NULL of an absent one. */
int oci_read_array(const json_t *object, const char *key, const json_t **ret, struct err **err);
int oci_read_object(const json_t *object, const char *key, const json_t **ret, struct err **err);
