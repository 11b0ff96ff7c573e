#include <errno.h>
#include "internal.h"
int image_get(struct image_store *store, const char *name, const struct image_pull_options *options, struct image **ret,
              struct err **err)
{
        return err_set(err, ERR_UNSUPPORTED, ENOSYS, "pulling");
}
int image_push(struct image_store *store, const char *name, const struct image_push_options *options, char **ret_digest,
               struct err **err)
{
        return err_set(err, ERR_UNSUPPORTED, ENOSYS, "pushing");
}
int image_login(const char *registry, const char *user, const char *password, const struct image_pull_options *options,
                struct err **err)
{
        return err_set(err, ERR_UNSUPPORTED, ENOSYS, "login");
}
int image_logout(const char *registry, struct err **err)
{
        return err_set(err, ERR_UNSUPPORTED, ENOSYS, "logout");
}
