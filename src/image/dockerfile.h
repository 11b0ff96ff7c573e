/* Dockerfiles (Dockerfile reference, docs.docker.com/reference/dockerfile): text to stages of instructions. Nothing is
 * expanded or run here. */
#pragma once

#include "internal.h"

#define DOCKERFILE_MAX              (4 * MIB)
#define DOCKERFILE_INSTRUCTIONS_MAX 10000U

struct docker_heredoc {
        char *name;
        char *content;
        bool expand; /* the name was not quoted */
};

struct docker_instruction {
        char *keyword;  /* in capitals */
        json_t *flags;  /* ["name=value", ...], without the dashes */
        char *text;     /* what follows, lines joined; heredocs' markers still in it */
        char *original; /* as written, for histories and errors */
        struct docker_heredoc *heredocs;
        size_t n_heredocs;
        unsigned line;
};

struct docker_stage {
        char *base;     /* as written, to be expanded */
        char *name;     /* "" without AS */
        char *platform; /* --platform, "" without */
        struct docker_instruction *instructions;
        size_t n;
        unsigned line;
};

struct dockerfile {
        struct docker_instruction *args; /* ARGs before the first FROM */
        size_t n_args;
        struct docker_stage *stages;
        size_t n_stages;
        char escape; /* '\\' or '`' */
};

/* ERR_USAGE with the line of what is wrong. */
int dockerfile_parse(const char *text, struct dockerfile *ret, struct err **err);
void dockerfile_clear(struct dockerfile *file);
/* One instruction (of ONBUILD). */
int dockerfile_parse_line(const char *line, struct docker_instruction *ret, struct err **err);
void docker_instruction_clear(struct docker_instruction *instruction);

/* The value of --@name, NULL without; "" for a flag without a value. */
const char *docker_flag(const struct docker_instruction *instruction, const char *name);

/* $name, ${name}, ${name:-word}, ${name:+word}; not in single quotes, not behind a backslash. What is put in is protected from being split
 * or unquoted again (change_words). @lookup gives a variable's value or NULL. The caller's string. */
int docker_expand(const char *text, const char *(*lookup)(void *opaque, const char *name, size_t len), void *opaque,
        char **ret, struct err **err);
