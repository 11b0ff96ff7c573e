#include "dev/vmgenid.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "mmu/memory.h"

struct vmgenid {
        struct device dev;
        struct device_env *env;
        struct irq_line irq;
        u64 gpa;
        u8 id[VMGENID_SIZE];
};

/* The guest may have written there. */
static int publish(struct vmgenid *v, struct err **err)
{
        const int r = guest_memory_write(v->env->memory, v->gpa, v->id, sizeof(v->id));

        return r < 0 ? err_set(err, ERR_INTERNAL, -r, "no memory at the generation ID's place") : 0;
}

static int choose(struct vmgenid *v, struct err **err)
{
        u8 id[VMGENID_SIZE];

        if (getrandom(id, sizeof(id), 0) != (ssize_t)sizeof(id))
                return err_sys(err, errno, "asking for random numbers");
        memcpy(v->id, id, sizeof(id));
        return publish(v, err);
}

int vmgenid_renew(struct vmgenid *v, struct err **err)
{
        const int r = choose(v, err);

        if (r == 0)
                irq_line_pulse(&v->irq);
        return r;
}

/* Also after a sleep it is the same machine. */
static void vmgenid_reset(struct device *dev)
{
        (void)dev;
}

static void vmgenid_save(struct device *dev, struct state_out *out)
{
        const struct vmgenid *v = container_of(dev, struct vmgenid, dev);

        state_put_bytes(out, v->id, sizeof(v->id));
}

/* Moved: the same machine, so the same ID. Whoever makes a copy renews it. */
static int vmgenid_load(struct device *dev, struct state_in *in, u32 version, struct err **err)
{
        struct vmgenid *v = container_of(dev, struct vmgenid, dev);
        u8 id[VMGENID_SIZE];

        (void)version;
        state_get_bytes(in, id, sizeof(id));
        if (state_in_error(in))
                return err_set(err, ERR_BAD_STATE, EINVAL, "the saved generation ID is damaged");
        memcpy(v->id, id, sizeof(id));
        return publish(v, err);
}

static void vmgenid_destroy(struct device *dev)
{
        free(container_of(dev, struct vmgenid, dev));
}

static const struct device_ops vmgenid_ops = {
        .name = "vmgenid",
        .version = 1,
        .reset = vmgenid_reset,
        .save = vmgenid_save,
        .load = vmgenid_load,
        .destroy = vmgenid_destroy,
};

int vmgenid_new(struct device_env *env, u64 gpa, struct vmgenid **ret, struct err **err)
{
        struct vmgenid *v = calloc(1, sizeof(*v));
        int r;

        if (!v)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a generation ID");
        v->dev.ops = &vmgenid_ops;
        v->env = env;
        v->gpa = gpa;
        r = choose(v, err);
        if (r < 0) {
                free(v);
                return r;
        }
        v->irq = env->irq(env, VMGENID_GSI);
        env->add(env, &v->dev);
        *ret = v;
        return 0;
}
