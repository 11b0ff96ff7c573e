/* What the parts of `image build` share. */
#pragma once

#include "dockerfile.h"
#include "dockerignore.h"
#include "make.h"
#include "tree.h"
#include "user.h"

struct build {
        struct image_store *store;
        struct lease *lease;
        const struct image_build_options *options;
        struct dockerfile file;
        struct dockerignore *ignore;
        int context;        /* directory; -1: none */
        json_t *given_args; /* --build-arg */
        struct stage *stages;
        size_t step, n_steps;
};

/* A stage that is being built or is done. */
struct stage {
        struct build *build;
        const struct docker_stage *source;
        struct new_image image; /* .config is NULL before it is begun */
        json_t *args;           /* ARGs of this stage: name -> value */
        bool cmd_set;
};

/* A mounted root file system of a stage or image: a detached mount, reached by its descriptor. */
struct build_root {
        struct build *build;
        struct lease_name dir; /* in the lease's directory: upper, work, target */
        int mount;
        int upper; /* -1 when read-only */
};

#define BUILD_ROOT_EMPTY                 \
        {                                \
                .mount = -1, .upper = -1 \
        }

/* Fills in context, file and ignore. */
int build_read_inputs(struct build *build, struct err **err);

/* What the clean @path names in the tree @root; links on the way, and a last one, are followed inside it. -errno. */
int build_open_source(int root, const char *path, int flags);
/* The same for a clean path @path that came as @word; what .dockerignore leaves out is not there. @path of a directory has no links
 * afterwards. O_PATH. */
int build_open_wanted(int root, const struct dockerignore *ignore, const char *word, char path[TAR_PATH_MAX + 1], int *ret,
        struct err **err);
/* A digest of the file or directory @path of the context: names, kinds, modes and contents. */
int build_hash_source(struct stage *stage, const char *path, struct digest *ret, struct err **err);
/* @config is a configuration file: its diff ids are mounted. */
int build_root_open(struct build *build, const json_t *config, bool writable, struct build_root *ret, struct err **err);
/* The context's directory @path (clean, without links), which is @fd, without what .dockerignore leaves out; what is written to it
 * is gone with it. */
int build_root_of_context(
        struct build *build, const char *path, int fd, bool writable, struct build_root *ret, struct err **err);
void build_root_close(struct build_root *root);
/* The changes as a layer. */
int build_root_commit(struct build_root *root, struct descriptor *ret, struct digest *ret_diff_id, struct err **err);

/* What --from names: a stage that is done, or an image. The caller's reference. */
int build_find_source(
        struct build *build, const struct stage *stage, const char *name, json_t **ret_config, struct err **err);

/* COPY and ADD. @key is what goes into the cache's key: digests of all that is copied. */
struct build_copy;
int build_copy_prepare(struct stage *stage, const struct docker_instruction *instruction, const char *text,
        struct build_copy **ret, struct digest *ret_key, struct err **err);
int build_copy_run(struct build_copy *copy, struct build_root *root, struct err **err);
struct build_copy *build_copy_free(struct build_copy *copy);
static inline void build_copy_freep(struct build_copy **copy)
{
        build_copy_free(*copy);
}

/* RUN: @env are the process's variables. */
int build_run(struct stage *stage, const struct docker_instruction *instruction, const json_t *command,
        const json_t *env, struct build_root *root, struct err **err);
/* Which part of the cache's key comes from what is mounted: equal as long as the sources of its binds are. */
int build_run_sources(
        struct stage *stage, const struct docker_instruction *instruction, struct digest *ret, struct err **err);
/* The command of a RUN: a JSON list, a heredoc, or a line for the shell. */
json_t *build_run_command(const struct stage *stage, const struct docker_instruction *instruction);
