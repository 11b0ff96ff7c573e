/* Dockerfiles and .dockerignore files: whatever is taken can be expanded and carried out as far as that needs no files. */
#include <string.h>

#include "image/change.h"
#include "image/dockerfile.h"
#include "image/dockerignore.h"
#include "input.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

static const char *lookup(void *opaque, const char *name, size_t len)
{
        return len & 1 ? "a 'value' \\" : NULL;
}

static void use(const struct docker_instruction *i)
{
        json_t *config = json_object();
        char *text = NULL;

        docker_flag(i, "from");
        if (docker_expand(i->text, lookup, NULL, &text, NULL) == 0)
                change_apply(config, i->keyword, text, NULL);
        free(text);
        json_decref(config);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
        char *text = strndup((const char *)data, len);
        struct dockerignore *ignore = NULL;
        struct dockerfile file;

        require(text);
        if (dockerfile_parse(text, &file, NULL) == 0) {
                for (size_t s = 0; s < file.n_stages; s++)
                        for (size_t i = 0; i < file.stages[s].n; i++)
                                use(&file.stages[s].instructions[i]);
                dockerfile_clear(&file);
        }
        if (dockerignore_parse(text, &ignore, NULL) == 0)
                dockerignore_matches(ignore, "some/path/to a/file.log");
        dockerignore_free(ignore);
        free(text);
        return 0;
}
