/* A writer of AML, ACPI's byte code: just the terms that describe a board. Source: ACPI specification 6.4, 20
 * (AML) and 6.4 (resources).
 *
 *         aml_scope_begin(a, "\\_SB_");
 *         aml_device_begin(a, "COM1");
 *         aml_name_eisaid(a, "_HID", "PNP0501");
 *         aml_end(a);
 *         aml_end(a);
 *
 * Names are given with all four characters of each segment. Errors (memory, nesting, overlong) are remembered and
 * show in a->failed. */
#pragma once

#include "base/types.h"

#define AML_DEPTH 8

struct aml {
        u8 *data;
        size_t len, cap;
        size_t open[AML_DEPTH]; /* where the length of an open term goes */
        unsigned depth;
        bool failed;
};

void aml_init(struct aml *a);
void aml_free(struct aml *a);

void aml_scope_begin(struct aml *a, const char *path);
void aml_device_begin(struct aml *a, const char *name);
void aml_method_begin(struct aml *a, const char *name, unsigned n_args);
void aml_package_begin(struct aml *a, u8 n_elements);
/* Closes the innermost open term. */
void aml_end(struct aml *a);

void aml_integer(struct aml *a, u64 value);
void aml_string(struct aml *a, const char *s);
/* Name(@name, ...): the value follows as the next term. */
void aml_name(struct aml *a, const char *name);
void aml_name_integer(struct aml *a, const char *name, u64 value);
/* @id like "PNP0A08". */
void aml_name_eisaid(struct aml *a, const char *name, const char *id);
/* Notify(@name, @value), the name as in the method's scope or with its path. */
void aml_notify(struct aml *a, const char *name, u8 value);
/* Return(ArgN) */
void aml_return_arg(struct aml *a, unsigned n);

/* A resource template under construction. */
struct aml_resources {
        u8 data[256];
        size_t len;
};
void aml_res_io(struct aml_resources *res, u16 base, u8 len);
void aml_res_irq(struct aml_resources *res, unsigned irq);
void aml_res_memory32(struct aml_resources *res, u32 base, u32 len);
/* Windows that a bridge passes on. */
void aml_res_bus_window(struct aml_resources *res, u16 first, u16 last);
void aml_res_io_window(struct aml_resources *res, u16 first, u16 last);
void aml_res_memory32_window(struct aml_resources *res, u32 first, u32 last);
void aml_res_memory64_window(struct aml_resources *res, u64 first, u64 last);
/* Name(@name, ResourceTemplate() {...}) */
void aml_name_resources(struct aml *a, const char *name, const struct aml_resources *res);
