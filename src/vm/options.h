/* The command line of strata-vmm, from options.def. Values are checked here as far as that needs no look at the
 * host. */
#pragma once

#include "jail.h"
#include "vm.h"

struct vmm_options {
        struct vm_config vm; /* strings belong to argv or to these: */
        char *disk_specs[VM_DISKS_MAX];
        char *share_specs[VM_SHARES_MAX];
        char *net_specs[VM_NETS_MAX];
        char *vsock_spec;
        char *agent_spec;
        const char *stats; /* NULL: none */
        const char *trace, *trace_file;
        u16 gdb_port; /* 0: none */
        enum jail_mode jail;
        bool help;
};

/* @argv without the program's and sub-command's names. Fails with ERR_USAGE. Free with options_free also after
 * failure. */
int options_parse(int argc, char *const argv[], struct vmm_options *ret, struct err **err);
void options_free(struct vmm_options *options);
void options_print_help(FILE *out);

/* "512M" to bytes: digits and an optional suffix K, M or G (either case); @unit is what no suffix means. */
int options_parse_size(const char *text, u64 unit, u64 *ret);
