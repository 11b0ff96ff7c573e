/* The default seccomp profile, as a linux.seccomp object: made from two tables and the capabilities that the process gets. */
#include "rights.h"

#include <linux/capability.h>
#include <string.h>

#define CAP_NONE (-1)

static const char *const calls[] = {
#define SYSCALL(name, x86_64, i386, x32)                          #name,
#define MULTIPLEXED(name, x86_64, i386, x32, multiplexer, number) #name,
#include "box/seccomp/syscalls.def"
#undef SYSCALL
#undef MULTIPLEXED
};

static const struct {
        const char *call;
        int capability;
} denied[] = {
#define DENIED(call, capability) { #call, CAP_##capability },
#include "seccomp_denied.def"
#undef DENIED
};

/* Flags of clone(2) that make namespaces; with clone3 they cannot be seen, which is why it "does not exist" (ENOSYS). */
#define NAMESPACE_FLAGS 0x7e020000

static const unsigned long personalities[] = { 0, 8, 0x20000, 0x20008, 0xffffffff };

static bool is_allowed(const char *call, u64 capabilities)
{
        bool listed = false;

        for (size_t i = 0; i < ARRAY_SIZE(denied); i++) {
                if (strcmp(denied[i].call, call) != 0)
                        continue;
                listed = true;
                if (denied[i].capability >= 0 && capabilities & BIT(denied[i].capability))
                        return true;
        }
        return !listed;
}

static void allow_if(json_t *list, const char *call, unsigned index, json_int_t value, json_int_t mask, const char *op)
{
        json_array_append_new(
                list, json_pack("{s:[s], s:s, s:[{s:i, s:I, s:I, s:s}]}", "names", call, "action", "SCMP_ACT_ALLOW",
                              "args", "index", (int)index, "value", value, "valueTwo", mask, "op", op));
}

json_t *seccomp_default_profile(u64 capabilities)
{
        const bool admin = capabilities & BIT(CAP_SYS_ADMIN);
        json_t *names = json_array(), *list = json_array();

        for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
                const bool conditional = strcmp(calls[i], "personality") == 0 || strcmp(calls[i], "socket") == 0 ||
                                         (strcmp(calls[i], "clone") == 0 && !admin);

                if (!conditional && is_allowed(calls[i], capabilities))
                        json_array_append_new(names, json_string(calls[i]));
        }
        json_array_append_new(list, json_pack("{s:o, s:s}", "names", names, "action", "SCMP_ACT_ALLOW"));
        for (size_t i = 0; i < ARRAY_SIZE(personalities); i++)
                allow_if(list, "personality", 0, (json_int_t)personalities[i], 0, "SCMP_CMP_EQ");
        allow_if(list, "socket", 0, 40 /* AF_VSOCK */, 0, "SCMP_CMP_NE");
        if (!admin) {
                allow_if(list, "clone", 0, NAMESPACE_FLAGS, 0, "SCMP_CMP_MASKED_EQ");
                json_array_append_new(list, json_pack("{s:[s], s:s, s:i}", "names", "clone3", "action",
                                                    "SCMP_ACT_ERRNO", "errnoRet", 38 /* ENOSYS */));
        }
        return json_pack("{s:s, s:i, s:[sss], s:o}", "defaultAction", "SCMP_ACT_ERRNO", "defaultErrnoRet", 1,
                "architectures", "SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "syscalls", list);
}
