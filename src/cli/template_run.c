/* Fills templates in. Every value is a reference of its own (json_decref when done). */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "template_internal.h"

#define VARIABLES_MAX 32
#define NO_VALUE      "<no value>" /* as Go prints it */

struct variable {
        const char *name;
        json_t *value; /* owned */
};

struct run {
        FILE *out;
        json_t *dot, *root; /* borrowed */
        struct variable variables[VARIABLES_MAX];
        size_t n_variables;
        struct err **err;
};

#define _cleanup_json_ _cleanup_(json_decrefp)

static int compare_keys(const void *a, const void *b)
{
        return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The keys of @object in order, as Go walks its maps. The caller frees the array, not the keys. */
static const char **sorted_keys(json_t *object)
{
        const char **keys = calloc(json_object_size(object) + 1, sizeof(*keys));
        size_t n = 0;

        if (!keys)
                return NULL;
        for (void *i = json_object_iter(object); i; i = json_object_iter_next(object, i))
                keys[n++] = json_object_iter_key(i);
        qsort(keys, n, sizeof(*keys), compare_keys);
        return keys;
}

/* --- printing ------------------------------------------------------------------------------------------------------ */

static void print_value(json_t *value, FILE *out, bool inside);

static void print_object(json_t *object, FILE *out)
{
        _cleanup_free_ const char **keys = sorted_keys(object);

        fputs("map[", out);
        for (size_t i = 0; keys && keys[i]; i++) {
                fprintf(out, "%s%s:", i ? " " : "", keys[i]);
                print_value(json_object_get(object, keys[i]), out, true);
        }
        fputc(']', out);
}

/* As Go's fmt does: lists as [a b], maps as map[k:v]. */
static void print_value(json_t *value, FILE *out, bool inside)
{
        switch (json_typeof(value)) {
        case JSON_STRING:
                fwrite(json_string_value(value), 1, json_string_length(value), out);
                return;
        case JSON_INTEGER:
                fprintf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
                return;
        case JSON_REAL:
                fprintf(out, "%g", json_real_value(value));
                return;
        case JSON_TRUE:
        case JSON_FALSE:
                fputs(json_is_true(value) ? "true" : "false", out);
                return;
        case JSON_NULL:
                fputs(inside ? "<nil>" : NO_VALUE, out);
                return;
        case JSON_ARRAY:
                fputc('[', out);
                for (size_t i = 0; i < json_array_size(value); i++) {
                        if (i)
                                fputc(' ', out);
                        print_value(json_array_get(value, i), out, true);
                }
                fputc(']', out);
                return;
        case JSON_OBJECT:
                print_object(value, out);
                return;
        }
}

static bool is_true(json_t *value)
{
        switch (json_typeof(value)) {
        case JSON_STRING:
                return json_string_length(value) > 0;
        case JSON_ARRAY:
                return json_array_size(value) > 0;
        case JSON_OBJECT:
                return json_object_size(value) > 0;
        case JSON_INTEGER:
        case JSON_REAL:
                return json_number_value(value) != 0;
        default:
                return json_is_true(value);
        }
}

/* --- functions ----------------------------------------------------------------------------------------------------- */

static json_t *call_json(json_t *const *args, size_t n, struct err **err)
{
        _cleanup_free_ char *text = json_dumps(args[0], JSON_COMPACT | JSON_ENCODE_ANY | JSON_SORT_KEYS);

        return text ? json_string(text) : NULL;
}

static json_t *call_index(json_t *const *args, size_t n, struct err **err)
{
        json_t *value = args[0];

        for (size_t i = 1; i < n; i++) {
                if (json_is_array(value) && json_is_integer(args[i])) {
                        if (json_integer_value(args[i]) < 0 ||
                                (size_t)json_integer_value(args[i]) >= json_array_size(value)) {
                                err_set(err, ERR_USAGE, ERANGE, "the template asks for item %lld of a list of %zu",
                                        (long long)json_integer_value(args[i]), json_array_size(value));
                                return NULL;
                        }
                        value = json_array_get(value, (size_t)json_integer_value(args[i]));
                } else if (json_is_object(value) && json_is_string(args[i])) {
                        value = json_object_get(value, json_string_value(args[i]));
                        if (!value)
                                return json_string("");
                } else {
                        err_set(err, ERR_USAGE, EINVAL, "the template takes an item of what has no such items");
                        return NULL;
                }
        }
        return json_incref(value);
}

static json_t *call_len(json_t *const *args, size_t n, struct err **err)
{
        if (json_is_string(args[0]))
                return json_integer((json_int_t)json_string_length(args[0]));
        return json_integer(
                (json_int_t)(json_is_object(args[0]) ? json_object_size(args[0]) : json_array_size(args[0])));
}

/* The values as texts, one behind the other, @between between them. */
static json_t *concatenate(json_t *const *values, size_t n, const char *between, const char *end)
{
        char *text = NULL;
        size_t size = 0;
        FILE *out = open_memstream(&text, &size);
        json_t *joined;

        if (!out)
                return NULL;
        for (size_t i = 0; i < n; i++) {
                if (i)
                        fputs(between, out);
                print_value(values[i], out, false);
        }
        fputs(end, out);
        joined = fclose(out) == 0 ? json_stringn(text, size) : NULL;
        free(text);
        return joined;
}

static json_t *call_join(json_t *const *args, size_t n, struct err **err)
{
        const char *between = json_string_value(args[1]);
        _cleanup_free_ json_t **items = NULL;
        size_t count = json_array_size(args[0]);

        if (!json_is_array(args[0]) || !between) {
                err_set(err, ERR_USAGE, EINVAL, "the template's join takes a list and a text");
                return NULL;
        }
        items = calloc(count + 1, sizeof(*items));
        for (size_t i = 0; items && i < count; i++)
                items[i] = json_array_get(args[0], i);
        return items ? concatenate(items, count, between, "") : NULL;
}

static json_t *call_print(json_t *const *args, size_t n, struct err **err)
{
        return concatenate(args, n, " ", "");
}

static json_t *call_println(json_t *const *args, size_t n, struct err **err)
{
        return concatenate(args, n, " ", "\n");
}

static json_t *change_case(json_t *value, int (*change)(int c), bool first_only)
{
        _cleanup_json_ json_t *text = concatenate(&value, 1, "", "");
        _cleanup_free_ char *changed = text ? strdup(json_string_value(text)) : NULL;

        for (char *p = changed; p && *p; p++)
                if (!first_only || p == changed || isspace((unsigned char)p[-1]))
                        *p = (char)change((unsigned char)*p);
        return changed ? json_string(changed) : NULL;
}

static json_t *call_upper(json_t *const *args, size_t n, struct err **err)
{
        return change_case(args[0], toupper, false);
}

static json_t *call_lower(json_t *const *args, size_t n, struct err **err)
{
        return change_case(args[0], tolower, false);
}

static json_t *call_title(json_t *const *args, size_t n, struct err **err)
{
        return change_case(args[0], toupper, true);
}

static json_t *call_eq(json_t *const *args, size_t n, struct err **err)
{
        for (size_t i = 1; i < n; i++)
                if (json_equal(args[0], args[i]))
                        return json_true();
        return json_false();
}

static json_t *call_ne(json_t *const *args, size_t n, struct err **err)
{
        return json_boolean(!json_equal(args[0], args[1]));
}

static json_t *call_not(json_t *const *args, size_t n, struct err **err)
{
        return json_boolean(!is_true(args[0]));
}

/* The first that decides, else the last. */
static json_t *first_that_is(json_t *const *args, size_t n, bool wanted)
{
        size_t i = 0;

        while (i + 1 < n && is_true(args[i]) != wanted)
                i++;
        return json_incref(args[i]);
}

static json_t *call_and(json_t *const *args, size_t n, struct err **err)
{
        return first_that_is(args, n, false);
}

static json_t *call_or(json_t *const *args, size_t n, struct err **err)
{
        return first_that_is(args, n, true);
}

static const struct template_function functions[] = {
        { "json", 1, 1, call_json },
        { "index", 2, TEMPLATE_ARGS_MAX, call_index },
        { "len", 1, 1, call_len },
        { "join", 2, 2, call_join },
        { "upper", 1, 1, call_upper },
        { "lower", 1, 1, call_lower },
        { "title", 1, 1, call_title },
        { "print", 1, TEMPLATE_ARGS_MAX, call_print },
        { "println", 0, TEMPLATE_ARGS_MAX, call_println },
        { "eq", 2, TEMPLATE_ARGS_MAX, call_eq },
        { "ne", 2, 2, call_ne },
        { "not", 1, 1, call_not },
        { "and", 1, TEMPLATE_ARGS_MAX, call_and },
        { "or", 1, TEMPLATE_ARGS_MAX, call_or },
};

const struct template_function *template_function_find(const char *name, size_t len)
{
        for (size_t i = 0; i < ARRAY_SIZE(functions); i++)
                if (strlen(functions[i].name) == len && strncmp(functions[i].name, name, len) == 0)
                        return &functions[i];
        return NULL;
}

void template_function_names(char *text, size_t size)
{
        size_t used = 0;

        for (size_t i = 0; i < ARRAY_SIZE(functions) && used < size; i++)
                used += (size_t)snprintf(text + used, size - used, "%s%s", i ? ", " : "", functions[i].name);
}

/* --- evaluation ---------------------------------------------------------------------------------------------------- */

static int evaluate(struct run *run, const struct expr *expr, json_t **ret);

static int no_such_field(struct run *run, json_t *of, const char *name)
{
        _cleanup_free_ const char **keys = json_is_object(of) ? sorted_keys(of) : NULL;
        char known[400] = "";
        size_t used = 0;
        int r;

        if (!keys)
                return err_set(run->err, ERR_USAGE, EINVAL, "the template asks for '.%s' of what has no fields", name);
        for (size_t i = 0; keys[i] && used < sizeof(known); i++)
                used += (size_t)snprintf(known + used, sizeof(known) - used, "%s%s", i ? ", " : "", keys[i]);
        r = err_set(run->err, ERR_USAGE, ENOENT, "the template asks for '.%s', which is not there", name);
        return err_hint(run->err, r, "there is: %s%s", known, used >= sizeof(known) ? "..." : "");
}

static int evaluate_field(struct run *run, const struct expr *expr, json_t **ret)
{
        _cleanup_json_ json_t *of = NULL;
        json_t *value;
        int r = evaluate(run, expr->args, &of);

        if (r < 0)
                return r;
        value = json_object_get(of, expr->name);
        if (!value)
                return no_such_field(run, of, expr->name);
        *ret = json_incref(value);
        return 0;
}

static int evaluate_variable(struct run *run, const struct expr *expr, json_t **ret)
{
        if (!expr->name[0]) {
                *ret = json_incref(run->root);
                return 0;
        }
        for (size_t i = run->n_variables; i-- > 0;)
                if (strcmp(run->variables[i].name, expr->name) == 0) {
                        *ret = json_incref(run->variables[i].value);
                        return 0;
                }
        return err_set(run->err, ERR_USAGE, ENOENT, "the template has no variable '$%s'", expr->name);
}

static int evaluate_call(struct run *run, const struct expr *expr, json_t **ret)
{
        json_t *args[TEMPLATE_ARGS_MAX] = { NULL };
        size_t n = 0;
        int r = 0;

        for (const struct expr *arg = expr->args; r == 0 && arg; arg = arg->next) {
                r = evaluate(run, arg, &args[n]);
                n += r == 0;
        }
        if (r == 0) {
                *ret = expr->function->call(args, n, run->err);
                if (!*ret)
                        r = run->err && *run->err ? -EINVAL : err_sys(run->err, ENOMEM, "filling in a template");
        }
        while (n-- > 0)
                json_decref(args[n]);
        return r;
}

static int evaluate(struct run *run, const struct expr *expr, json_t **ret)
{
        switch (expr->kind) {
        case EXPR_DOT:
                *ret = json_incref(run->dot);
                return 0;
        case EXPR_CONSTANT:
                *ret = json_incref(expr->constant);
                return 0;
        case EXPR_VARIABLE:
                return evaluate_variable(run, expr, ret);
        case EXPR_FIELD:
                return evaluate_field(run, expr, ret);
        case EXPR_CALL:
                return evaluate_call(run, expr, ret);
        }
        return -EINVAL;
}

/* --- nodes --------------------------------------------------------------------------------------------------------- */

static int run_nodes(struct run *run, const struct node *node);

static int set_variable(struct run *run, const char *name, json_t *value)
{
        if (!name)
                return 0;
        if (run->n_variables == VARIABLES_MAX)
                return err_set(
                        run->err, ERR_TOO_LARGE, E2BIG, "the template has more than %d variables", VARIABLES_MAX);
        run->variables[run->n_variables++] = (struct variable){ name, json_incref(value) };
        return 0;
}

static void forget_variables(struct run *run, size_t keep)
{
        while (run->n_variables > keep)
                json_decref(run->variables[--run->n_variables].value);
}

/* @nodes with another dot, and variables of their own. */
static int run_body(
        struct run *run, const struct node *node, const struct node *nodes, json_t *dot, json_t *key, json_t *value)
{
        const size_t keep = run->n_variables;
        json_t *outer = run->dot;
        int r = 0;

        if (key)
                r = set_variable(run, node->variable[0], key);
        if (r == 0 && value)
                r = set_variable(run, node->variable[1], value);
        run->dot = dot;
        if (r == 0)
                r = run_nodes(run, nodes);
        run->dot = outer;
        forget_variables(run, keep);
        return r;
}

static int run_range(struct run *run, const struct node *node, json_t *over)
{
        _cleanup_free_ const char **keys = NULL;
        int r = 0;

        if (!is_true(over))
                return run_body(run, node, node->otherwise, run->dot, NULL, NULL);
        if (json_is_object(over)) {
                keys = sorted_keys(over);
                if (!keys)
                        return err_sys(run->err, ENOMEM, "filling in a template");
                for (size_t i = 0; r == 0 && keys[i]; i++) {
                        _cleanup_json_ json_t *key = json_string(keys[i]);
                        json_t *value = json_object_get(over, keys[i]);

                        r = run_body(run, node, node->body, value, key, value);
                }
                return r;
        }
        if (!json_is_array(over))
                return err_set(run->err, ERR_USAGE, EINVAL, "the template's range is over something that is no list");
        for (size_t i = 0; r == 0 && i < json_array_size(over); i++) {
                _cleanup_json_ json_t *key = json_integer((json_int_t)i);
                json_t *value = json_array_get(over, i);

                r = run_body(run, node, node->body, value, key, value);
        }
        return r;
}

static int run_node(struct run *run, const struct node *node)
{
        _cleanup_json_ json_t *value = NULL;
        bool chosen;
        int r;

        if (node->kind == NODE_TEXT) {
                fputs(node->text, run->out);
                return 0;
        }
        r = evaluate(run, node->expr, &value);
        if (r < 0)
                return r;
        chosen = is_true(value);
        switch (node->kind) {
        case NODE_PRINT:
                print_value(value, run->out, false);
                return 0;
        case NODE_ASSIGN:
                return set_variable(run, node->variable[1], value);
        case NODE_RANGE:
                return run_range(run, node, value);
        case NODE_IF:
        case NODE_WITH:
                return run_body(run, node, chosen ? node->body : node->otherwise,
                        chosen && node->kind == NODE_WITH ? value : run->dot, NULL, NULL);
        case NODE_TEXT:
                break;
        }
        return 0;
}

static int run_nodes(struct run *run, const struct node *node)
{
        int r = 0;

        for (; r == 0 && node; node = node->next)
                r = run_node(run, node);
        return r;
}

int template_run(const struct template *template, json_t *data, FILE *out, struct err **err)
{
        struct run run = { .out = out, .dot = data, .root = data, .err = err };
        int r = run_nodes(&run, template->nodes);

        forget_variables(&run, 0);
        return r;
}
