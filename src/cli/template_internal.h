/* What template_parse.c makes and template_run.c walks. */
#pragma once

#include "base/arena.h"
#include "template.h"

#define TEMPLATE_DEPTH_MAX 32 /* of blocks and parentheses in one another */
#define TEMPLATE_ARGS_MAX  16

enum expr_kind {
        EXPR_DOT,      /* what the template or the block around is about */
        EXPR_VARIABLE, /* $name; "$" alone is what the whole template is about */
        EXPR_CONSTANT,
        EXPR_FIELD, /* of args */
        EXPR_CALL,
};

struct expr {
        enum expr_kind kind;
        const char *name; /* of variable and field */
        json_t *constant; /* borrowed from the template's list */
        const struct template_function *function;
        struct expr *args; /* in a list */
        struct expr *next;
};

enum node_kind { NODE_TEXT, NODE_PRINT, NODE_ASSIGN, NODE_IF, NODE_RANGE, NODE_WITH };

struct node {
        enum node_kind kind;
        const char *text;
        struct expr *expr;
        const char *variable[2]; /* ASSIGN: [1]; RANGE: key and value, NULL when not wanted */
        struct node *body, *otherwise;
        struct node *next;
};

struct template
{
        struct arena arena;
        json_t *constants;
        struct node *nodes;
};

struct template_function {
        const char *name;
        unsigned min, max;
        /* A new value, or NULL with @err. */
        json_t *(*call)(json_t *const *args, size_t n, struct err **err);
};
/* NULL when there is none of that name. */
const struct template_function *template_function_find(const char *name, size_t len);
/* "a, b, c" of all of them, into @text. */
void template_function_names(char *text, size_t size);
