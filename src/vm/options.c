#include "options.h"

#include <errno.h>
#include <limits.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "dev/virtio/fs.h"
#include "dev/virtio/vsock.h"

#define DEFAULT_MEMORY (512 * MIB)

enum how_often { ONCE, MANY };

typedef int parse_fn(struct vmm_options *o, const char *arg, struct err **err);

/* One word of a list and what it stands for. */
struct word {
        const char *text;
        int value;
};

static int find_word(const struct word *words, size_t n, const char *text)
{
        for (size_t i = 0; i < n; i++)
                if (strcmp(words[i].text, text) == 0)
                        return words[i].value;
        return -1;
}

int options_parse_size(const char *text, u64 unit, u64 *ret)
{
        u64 value = 0;
        const char *p = text;

        if (*p < '0' || *p > '9')
                return -EINVAL;
        for (; *p >= '0' && *p <= '9'; p++)
                if (__builtin_mul_overflow(value, 10u, &value) ||
                        __builtin_add_overflow(value, (u64)(*p - '0'), &value))
                        return -ERANGE;
        switch (*p) {
        case '\0':
                break;
        case 'k':
        case 'K':
                unit = KIB;
                p++;
                break;
        case 'm':
        case 'M':
                unit = MIB;
                p++;
                break;
        case 'g':
        case 'G':
                unit = GIB;
                p++;
                break;
        default:
                return -EINVAL;
        }
        if (*p != '\0')
                return -EINVAL;
        if (__builtin_mul_overflow(value, unit, &value))
                return -ERANGE;
        *ret = value;
        return 0;
}

/* A plain decimal number, nothing else. */
static int parse_number(const char *text, u64 *ret)
{
        size_t len = strlen(text);

        if (len == 0 || strspn(text, "0123456789") != len)
                return -EINVAL;
        return options_parse_size(text, 1, ret);
}

/* The number of a descriptor that is none of the standard streams. */
static int parse_fd(const char *text, int *ret)
{
        u64 fd = 0;

        if (parse_number(text, &fd) < 0 || fd <= 2 || fd > INT_MAX)
                return -EINVAL;
        *ret = (int)fd;
        return 0;
}

/* ---- one function an option ---- */

static int parse_kernel(struct vmm_options *o, const char *arg, struct err **err)
{
        o->vm.kernel = arg;
        return *arg ? 0 : err_set(err, ERR_USAGE, EINVAL, "--kernel needs a file name");
}

static int parse_initrd(struct vmm_options *o, const char *arg, struct err **err)
{
        o->vm.initrd = arg;
        return *arg ? 0 : err_set(err, ERR_USAGE, EINVAL, "--initrd needs a file name");
}

static int parse_append(struct vmm_options *o, const char *arg, struct err **err)
{
        o->vm.append = arg;
        return 0;
}

static int parse_boot(struct vmm_options *o, const char *arg, struct err **err)
{
        static const struct word words[] = {
                { "auto", VM_BOOT_AUTO },
                { "linux64", VM_BOOT_LINUX64 },
                { "pvh", VM_BOOT_PVH },
                { "multiboot", VM_BOOT_MULTIBOOT },
        };
        int v = find_word(words, ARRAY_SIZE(words), arg);

        if (v < 0)
                return err_hint(err, err_set(err, ERR_USAGE, EINVAL, "unknown boot protocol '%s'", arg),
                        "protocols are auto, linux64, pvh and multiboot");
        o->vm.boot = (enum vm_boot)v;
        return 0;
}

static int parse_restore(struct vmm_options *o, const char *arg, struct err **err)
{
        o->vm.restore = arg;
        return *arg ? 0 : err_set(err, ERR_USAGE, EINVAL, "--restore needs the name of a directory");
}

static int parse_working_set(struct vmm_options *o, const char *arg, struct err **err)
{
        o->vm.working_set = arg;
        return *arg ? 0 : err_set(err, ERR_USAGE, EINVAL, "--working-set needs a file name");
}

static int parse_restore_translations(struct vmm_options *o, const char *arg, struct err **err)
{
        (void)arg;
        (void)err;
        o->vm.restore_code = true;
        return 0;
}

static int parse_memory(struct vmm_options *o, const char *arg, struct err **err)
{
        u64 size = 0;
        int r = options_parse_size(arg, MIB, &size);

        if (r == -EINVAL)
                return err_hint(err, err_set(err, ERR_USAGE, EINVAL, "'%s' is not an amount of memory", arg),
                        "write --memory 512M or --memory 2G");
        if (r < 0 || size > VM_MEMORY_MAX)
                return err_set(err, ERR_USAGE, EINVAL, "--memory %s is more than the %llu GiB that a machine can have",
                        arg, (unsigned long long)(VM_MEMORY_MAX / GIB));
        if (size < VM_MEMORY_MIN)
                return err_set(err, ERR_USAGE, EINVAL, "--memory %s is less than the %llu MiB that a machine needs",
                        arg, (unsigned long long)(VM_MEMORY_MIN / MIB));
        if (size % PAGE_SIZE)
                return err_set(err, ERR_USAGE, EINVAL, "--memory %s is not a multiple of 4K", arg);
        o->vm.memory = size;
        return 0;
}

static int parse_cpus(struct vmm_options *o, const char *arg, struct err **err)
{
        u64 n = 0;

        if (parse_number(arg, &n) < 0 || n < 1 || n > VM_CPUS_MAX)
                return err_set(err, ERR_USAGE, EINVAL, "--cpus %s is not a number from 1 to %d", arg, VM_CPUS_MAX);
        o->vm.n_cpus = (unsigned)n;
        return 0;
}

static int parse_engine(struct vmm_options *o, const char *arg, struct err **err)
{
        o->vm.engine = arg; /* the registry knows the names */
        return 0;
}

static int parse_shadow(struct vmm_options *o, const char *arg, struct err **err)
{
        static const char *const names[] = { [SHADOW_AUTO] = "auto", [SHADOW_NEVER] = "never", [SHADOW_ALWAYS] = "always" };

        for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
                if (strcmp(arg, names[i]) == 0) {
                        o->vm.shadow = (enum shadow_policy)i;
                        return 0;
                }
        }
        return err_set(err, ERR_USAGE, EINVAL, "--shadow is auto, never or always, not '%s'", arg);
}

static int parse_check(struct vmm_options *o, const char *arg, struct err **err)
{
        if (strcmp(arg, "interp") != 0)
                return err_set(err, ERR_USAGE, EINVAL, "'%s' is no engine to check another against: interp is", arg);
        o->vm.check = true;
        return 0;
}

/* Takes ",bus=..." out of @spec, which the block layer parses on. */
static int take_bus(char *spec, enum vm_disk_bus *ret, struct err **err)
{
        static const struct word words[] = { { "nvme", VM_DISK_NVME }, { "virtio", VM_DISK_VIRTIO } };
        char *p = spec, word[16];
        size_t len;
        int v;

        while ((p = strstr(p, ",bus=")) && p > spec && p[-1] == ',')
                p++; /* a doubled comma belongs to the name */
        if (!p)
                return 0;
        len = strcspn(p + 5, ",");
        snprintf(word, sizeof(word), "%.*s", (int)MIN(len, sizeof(word) - 1), p + 5);
        v = find_word(words, ARRAY_SIZE(words), word);
        if (v < 0)
                return err_hint(err,
                        err_set(err, ERR_USAGE, EINVAL, "unknown disk bus '%.*s'", (int)MIN(len, (size_t)64), p + 5),
                        "buses are nvme and virtio");
        memmove(p, p + 5 + len, strlen(p + 5 + len) + 1);
        *ret = (enum vm_disk_bus)v;
        return 0;
}

static int parse_disk(struct vmm_options *o, const char *arg, struct err **err)
{
        struct vm_disk_config *disk;

        if (o->vm.n_disks == VM_DISKS_MAX)
                return err_set(err, ERR_USAGE, EINVAL, "more than %d disks", VM_DISKS_MAX);
        disk = &o->vm.disks[o->vm.n_disks];
        o->disk_specs[o->vm.n_disks] = strdup(arg);
        if (!o->disk_specs[o->vm.n_disks])
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the command line");
        *disk = (struct vm_disk_config){ .spec = o->disk_specs[o->vm.n_disks], .bus = VM_DISK_NVME };
        o->vm.n_disks++;
        return take_bus(o->disk_specs[o->vm.n_disks - 1], &disk->bus, err);
}

/* One "name=value" of a list, or a word alone (a flag). */
struct key {
        const char *name;
        const char **ret_value; /* or: */
        bool *ret_flag;
        bool needed;
};

/* Cuts the first item off @list: up to a comma that is not doubled; doubled ones become one. */
static char *next_item(char **list)
{
        char *item = *list, *from = item, *to = item;

        if (!item)
                return NULL;
        for (; *from && (*from != ',' || from[1] == ','); from++) {
                if (*from == ',')
                        from++;
                *to++ = *from;
        }
        *list = *from ? from + 1 : NULL;
        *to = '\0';
        return item;
}

static int parse_item(char *item, const struct key *keys, size_t n, const char *option, struct err **err)
{
        char *value = strchr(item, '=');

        if (value)
                *value++ = '\0';
        for (size_t i = 0; i < n; i++) {
                if (strcmp(keys[i].name, item) != 0 || !value != !keys[i].ret_value)
                        continue;
                if (keys[i].ret_flag)
                        *keys[i].ret_flag = true;
                else if (*value && !*keys[i].ret_value)
                        *keys[i].ret_value = value;
                else
                        return err_set(err, ERR_USAGE, EINVAL, "--%s: '%s' is empty or given twice", option, item);
                return 0;
        }
        return err_set(err, ERR_USAGE, EINVAL, "--%s: unknown word '%s%s'", option, item, value ? "=" : "");
}

/* "a=1,b=2,flag" into what @keys point to: parts of *@ret_copy, which the caller frees. */
static int parse_keys(const char *arg, const struct key *keys, size_t n, const char *option, char **ret_copy, struct err **err)
{
        char *list, *item;

        *ret_copy = list = strdup(arg);
        if (!list)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the command line");
        while ((item = next_item(&list))) {
                int r = parse_item(item, keys, n, option, err);

                if (r < 0)
                        return err_hint(err, r, "strata vm run --help shows the words of --%s", option);
        }
        for (size_t i = 0; i < n; i++)
                if (keys[i].needed && !*keys[i].ret_value)
                        return err_hint(err, err_set(err, ERR_USAGE, EINVAL, "--%s lacks %s=", option, keys[i].name),
                                "strata vm run --help shows the words of --%s", option);
        return 0;
}

/* Six bytes in hexadecimal digits; of a single interface, not of a group of them. */
static int parse_mac(const char *text, u8 ret[6])
{
        unsigned byte[6];
        int end = 0;

        if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &byte[0], &byte[1], &byte[2], &byte[3], &byte[4], &byte[5], &end) != 6 ||
                text[end] || end != 17 || byte[0] & 1)
                return -EINVAL;
        for (unsigned i = 0; i < 6; i++)
                ret[i] = (u8)byte[i];
        return 0;
}

static int parse_net(struct vmm_options *o, const char *arg, struct err **err)
{
        struct vm_net_config net = { .fd = -1 };
        const char *fd_text = NULL, *mac_text = NULL;
        bool none = false, user = false;
        const struct key keys[] = {
                { .name = "none", .ret_flag = &none },
                { .name = "user", .ret_flag = &user },
                { .name = "tap", .ret_value = &net.tap },
                { .name = "fd", .ret_value = &fd_text },
                { .name = "mac", .ret_value = &mac_text },
        };
        u64 fd = 0;
        int r;

        if (o->vm.n_nets == VM_NETS_MAX)
                return err_set(err, ERR_USAGE, EINVAL, "more than %d network devices", VM_NETS_MAX);
        r = parse_keys(arg, keys, ARRAY_SIZE(keys), "net", &o->net_specs[o->vm.n_nets], err);
        if (r < 0)
                return r;
        if (none + user + !!net.tap + !!fd_text != 1 || (none && mac_text))
                return err_hint(err, err_set(err, ERR_USAGE, EINVAL, "unknown network '%s'", arg),
                        "write --net none, --net user, --net tap=NAME or --net fd=N,mac=ADDRESS");
        if (fd_text && (parse_number(fd_text, &fd) < 0 || fd < 3 || fd > INT_MAX))
                return err_set(err, ERR_USAGE, EINVAL, "--net fd=%s is not a descriptor from 3 on", fd_text);
        if (mac_text && parse_mac(mac_text, net.mac) < 0)
                return err_set(err, ERR_USAGE, EINVAL, "--net mac=%s is not the address of one interface", mac_text);
        if (none) {
                free(TAKE_PTR(o->net_specs[o->vm.n_nets]));
                return 0;
        }
        net.how = user ? VM_NET_USER : net.tap ? VM_NET_TAP : VM_NET_FD;
        net.fd = fd_text ? (int)fd : -1;
        o->vm.nets[o->vm.n_nets++] = net;
        return 0;
}

static int parse_vsock(struct vmm_options *o, const char *arg, struct err **err)
{
        const char *cid_text = NULL;
        const struct key keys[] = {
                { .name = "cid", .ret_value = &cid_text, .needed = true },
                { .name = "socket", .ret_value = &o->vm.vsock_socket, .needed = true },
        };
        u64 cid = 0;
        int r;

        if (o->vsock_spec)
                return 0; /* the caller says that it is given twice */
        r = parse_keys(arg, keys, ARRAY_SIZE(keys), "vsock", &o->vsock_spec, err);
        if (r < 0)
                return r;
        if (parse_number(cid_text, &cid) < 0 || cid < VSOCK_CID_MIN || cid > VSOCK_CID_MAX)
                return err_set(err, ERR_USAGE, EINVAL, "--vsock cid=%s is not a number from %u to %u", cid_text, VSOCK_CID_MIN,
                        VSOCK_CID_MAX);
        o->vm.vsock_cid = (u32)cid;
        return 0;
}

static int parse_agent(struct vmm_options *o, const char *arg, struct err **err)
{
        const char *ready = NULL;
        const struct key keys[] = {
                { .name = "socket", .ret_value = &o->vm.agent.socket, .needed = true },
                { .name = "script", .ret_value = &o->vm.agent.script, .needed = true },
                { .name = "ready", .ret_value = &ready },
        };
        int r;

        if (o->agent_spec)
                return 0; /* the caller says that it is given twice */
        r = parse_keys(arg, keys, ARRAY_SIZE(keys), "agent", &o->agent_spec, err);
        if (r < 0)
                return r;
        o->vm.agent.ready_fd = -1;
        if (ready && parse_fd(ready, &o->vm.agent.ready_fd) < 0)
                return err_set(err, ERR_USAGE, EINVAL, "--agent ready=%s is not the number of a descriptor above 2", ready);
        for (int i = 0; i < (int)INIT_STREAMS; i++)
                o->vm.agent.streams[i] = i;
        return 0;
}

static int parse_share(struct vmm_options *o, const char *arg, struct err **err)
{
        struct vm_share_config *share = &o->vm.shares[o->vm.n_shares];
        const struct key keys[] = {
                { .name = "tag", .ret_value = &share->tag, .needed = true },
                { .name = "path", .ret_value = &share->path, .needed = true },
                { .name = "ro", .ret_flag = &share->read_only },
                { .name = "private", .ret_flag = &share->is_private },
        };
        int r;

        if (o->vm.n_shares == VM_SHARES_MAX)
                return err_set(err, ERR_USAGE, EINVAL, "more than %d shared directories", VM_SHARES_MAX);
        r = parse_keys(arg, keys, ARRAY_SIZE(keys), "share", &o->share_specs[o->vm.n_shares], err);
        if (r < 0)
                return r;
        if (strlen(share->tag) > VIRTIO_FS_TAG_MAX)
                return err_set(err, ERR_USAGE, EINVAL, "--share tag=%s is longer than %u bytes", share->tag, VIRTIO_FS_TAG_MAX);
        for (size_t i = 0; i < o->vm.n_shares; i++)
                if (strcmp(o->vm.shares[i].tag, share->tag) == 0)
                        return err_set(err, ERR_USAGE, EINVAL, "--share tag=%s is given twice", share->tag);
        o->vm.n_shares++;
        return 0;
}

static int parse_balloon(struct vmm_options *o, const char *arg, struct err **err)
{
        o->vm.balloon = true;
        return 0;
}

static int parse_control(struct vmm_options *o, const char *arg, struct err **err)
{
        o->vm.control_socket = arg;
        return *arg ? 0 : err_set(err, ERR_USAGE, EINVAL, "--control needs a socket's path");
}

static int parse_console(struct vmm_options *o, const char *arg, struct err **err)
{
        static const struct word words[] = { { "stdio", VM_CONSOLE_STDIO }, { "none", VM_CONSOLE_NONE } };
        int v = find_word(words, ARRAY_SIZE(words), arg);

        if (*arg == '\0')
                return err_set(err, ERR_USAGE, EINVAL, "--console needs stdio, none or a file name");
        o->vm.console = v < 0 ? VM_CONSOLE_FILE : (enum vm_console)v;
        o->vm.console_file = arg;
        return 0;
}

static int parse_console_virtio(struct vmm_options *o, const char *arg, struct err **err)
{
        o->vm.console_virtio = true;
        return 0;
}

static int parse_debug_exit(struct vmm_options *o, const char *arg, struct err **err)
{
        o->vm.debug_exit = true;
        return 0;
}

static int parse_stats(struct vmm_options *o, const char *arg, struct err **err)
{
        o->stats = arg;
        return *arg ? 0 : err_set(err, ERR_USAGE, EINVAL, "--stats needs a file name or '-'");
}

static int parse_trace(struct vmm_options *o, const char *arg, struct err **err)
{
        o->trace = arg;
        return 0;
}

static int parse_trace_file(struct vmm_options *o, const char *arg, struct err **err)
{
        o->trace_file = arg;
        return *arg ? 0 : err_set(err, ERR_USAGE, EINVAL, "--trace-file needs a file name");
}

static int parse_gdb(struct vmm_options *o, const char *arg, struct err **err)
{
        u64 port = 0;

        if (parse_number(arg, &port) < 0 || port < 1 || port > 65535)
                return err_set(err, ERR_USAGE, EINVAL, "--gdb %s is not a port from 1 to 65535", arg);
        o->gdb_port = (u16)port;
        return 0;
}

static int parse_jail(struct vmm_options *o, const char *arg, struct err **err)
{
        static const struct word words[] = { { "auto", JAIL_AUTO }, { "none", JAIL_NONE }, { "required", JAIL_REQUIRED } };
        const int v = find_word(words, ARRAY_SIZE(words), arg);

        o->jail = (enum jail_mode)v;
        return v < 0 ? err_set(err, ERR_USAGE, EINVAL, "--jail is auto, required or none, not '%s'", arg) : 0;
}

static int parse_wait(struct vmm_options *o, const char *arg, struct err **err)
{
        return parse_fd(arg, &o->vm.wait_fd) == 0 ? 0
                                                  : err_set(err, ERR_USAGE, EINVAL, "--wait %s is not the number of a descriptor above 2", arg);
}

static int parse_help(struct vmm_options *o, const char *arg, struct err **err)
{
        o->help = true;
        return 0;
}

/* ---- the table ---- */

struct option {
        const char *name, *argument;
        enum how_often how_often;
        parse_fn *parse;
        const char *help;
};

static const struct option options[] = {
#define OPTION(name, argument, how_often, parse, help) { name, argument, how_often, parse, help },
#include "options.def"
#undef OPTION
};

static const struct option *find_option(const char *name, size_t len)
{
        for (size_t i = 0; i < ARRAY_SIZE(options); i++)
                if (strlen(options[i].name) == len && memcmp(options[i].name, name, len) == 0)
                        return &options[i];
        return NULL;
}

static int unknown_option(const char *word, struct err **err)
{
        int r = word[0] == '-' ? err_set(err, ERR_USAGE, EINVAL, "unknown option '%s'", word)
                               : err_set(err, ERR_USAGE, EINVAL, "'%s' is not an option", word);

        return err_hint(err, r, "strata vm run --help lists all options");
}

/* "--name VALUE" or "--name=VALUE" at argv[*i]; advances *i over what it used. */
static int parse_one(struct vmm_options *o, int argc, char *const argv[], int *i, u64 *seen, struct err **err)
{
        const char *word = argv[*i], *name, *value = NULL, *equals;
        const struct option *option;
        size_t len;
        int r;

        if (strcmp(word, "-h") == 0)
                word = "--help";
        if (strncmp(word, "--", 2) != 0)
                return unknown_option(word, err);
        name = word + 2;
        equals = strchr(name, '=');
        len = equals ? (size_t)(equals - name) : strlen(name);
        option = find_option(name, len);
        if (!option)
                return unknown_option(word, err);
        if (!option->argument && equals)
                return err_set(err, ERR_USAGE, EINVAL, "option '--%s' takes no value", option->name);
        if (option->argument && equals)
                value = equals + 1;
        else if (option->argument) {
                if (*i + 1 >= argc)
                        return err_hint(err,
                                err_set(err, ERR_USAGE, EINVAL, "option '--%s' lacks its value", option->name),
                                "write --%s %s", option->name, option->argument);
                value = argv[++*i];
        }
        r = option->parse(o, value, err);
        if (r < 0)
                return r;
        if (option->how_often == ONCE && (*seen & BIT(option - options)))
                return err_set(err, ERR_USAGE, EINVAL, "option '--%s' is given twice", option->name);
        *seen |= BIT(option - options);
        return 0;
}

static int check(const struct vmm_options *o, struct err **err)
{
        if (o->help)
                return 0;
        if (o->trace && strcmp(o->trace, "help") == 0)
                return 0;
        if (!o->vm.kernel && !o->vm.restore)
                return err_hint(err, err_set(err, ERR_USAGE, EINVAL, "there is no kernel to boot"),
                        "name one with --kernel FILE; strata vm run --help shows examples");
        if (o->trace_file && !o->trace)
                return err_set(err, ERR_USAGE, EINVAL, "--trace-file without --trace");
        if (o->vm.agent.socket && o->vm.console == VM_CONSOLE_STDIO)
                return err_set(err, ERR_USAGE, EINVAL, "--console stdio with --agent: the streams are the main process's");
        return 0;
}

int options_parse(int argc, char *const argv[], struct vmm_options *ret, struct err **err)
{
        u64 seen = 0;
        int r;

        *ret = (struct vmm_options){ .vm = { .engine = "auto" } };
        for (int i = 0; i < argc; i++) {
                r = parse_one(ret, argc, argv, &i, &seen, err);
                if (r < 0)
                        return r;
        }
        /* The streams are the main process's. */
        if (ret->vm.agent.socket && !ret->vm.console_file)
                ret->vm.console = VM_CONSOLE_NONE;
        ret->vm.start_paused = ret->gdb_port != 0;
        if (!ret->vm.restore) {
                ret->vm.memory = ret->vm.memory ? ret->vm.memory : DEFAULT_MEMORY;
                ret->vm.n_cpus = ret->vm.n_cpus ? ret->vm.n_cpus : 1;
        }
        return check(ret, err);
}

void options_free(struct vmm_options *o)
{
        for (size_t i = 0; i < VM_DISKS_MAX; i++)
                free(o->disk_specs[i]);
        for (size_t i = 0; i < VM_SHARES_MAX; i++)
                free(o->share_specs[i]);
        for (size_t i = 0; i < VM_NETS_MAX; i++)
                free(o->net_specs[i]);
        free(o->vsock_spec);
        free(o->agent_spec);
        *o = (struct vmm_options){ 0 };
}

static void print_option(const struct option *option, FILE *out)
{
        char left[48];
        const char *p = option->help;

        snprintf(left, sizeof(left), "--%s%s%s", option->name, option->argument ? " " : "",
                option->argument ? option->argument : "");
        fprintf(out, "  %-24s ", left);
        for (; *p; p++) {
                fputc(*p, out);
                if (*p == '\n')
                        fprintf(out, "%27s", "");
        }
        fputc('\n', out);
}

void options_print_help(FILE *out)
{
        fputs("Usage: strata vm run --kernel FILE [OPTION]...\n\n"
              "Runs a virtual machine in the foreground until its guest powers off or reboots.\n\n"
              "Options:\n",
                out);
        for (size_t i = 0; i < ARRAY_SIZE(options); i++)
                print_option(&options[i], out);
        fputs("\nExamples:\n"
              "  A kernel and an initramfs, on this terminal:\n"
              "    strata vm run --kernel /boot/vmlinuz --initrd initrd.img --append console=ttyS0\n"
              "  A root file system on an NVMe disk, two CPUs, user-mode network:\n"
              "    strata vm run --kernel vmlinuz --disk root.img --append 'console=ttyS0 root=/dev/nvme0n1' \\\n"
              "        --memory 1G --cpus 2 --net user\n"
              "  A test kernel of kvm-unit-tests:\n"
              "    strata vm run --kernel apic.flat --debug-exit\n"
              "  Debugging: gdb vmlinux -ex 'target remote :1234'\n"
              "    strata vm run --kernel vmlinuz --append 'console=ttyS0 nokaslr' --gdb 1234\n"
              "\nOn a terminal: Ctrl-A X ends the machine, Ctrl-A H shows the other keys.\n"
              "Signals: SIGTERM, SIGINT and SIGHUP end it, SIGQUIT prints its CPUs, SIGUSR1 its counters.\n"
              "Exit status: 0 power-off or reboot, (V << 1) | 1 debug exit, 124 bad usage, 125 failure of the VMM,\n"
              "126 crash of the guest (triple fault).\n",
                out);
}
