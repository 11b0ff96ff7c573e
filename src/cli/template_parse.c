/* Reads templates. A cursor goes through the text once; inside of {{ }} by recursive descent:
 *
 *   pipeline = command { "|" command }        the value before a bar is the last argument behind it
 *   command  = function operand... | operand
 *   operand  = ("." | "$name" | constant | "(" pipeline ")") { "." field }
 *
 * A block ({{if}}, {{range}}, {{with}}) is a node with lists of nodes in it. */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "template_internal.h"

struct parser {
        struct template *template;
        const char *start;
        const char *p;
        unsigned depth;
        bool trim; /* the last action ended with -}} */
        struct err **err;
};

static int parse_pipeline(struct parser *parser, struct expr **ret);

static int failed(struct parser *parser, const char *what)
{
        const size_t left = strlen(parser->p);
        int r = err_set(parser->err, ERR_USAGE, EINVAL, "the template is wrong at character %zu ('%.*s%s'): %s",
                (size_t)(parser->p - parser->start) + 1, (int)MIN(left, (size_t)20), parser->p, left > 20 ? "..." : "",
                what);

        return err_hint(parser->err, r, "as in '{{.ID}} {{json .Names}}'");
}

static int no_memory(struct parser *parser)
{
        return err_sys(parser->err, ENOMEM, "reading a template");
}

static void skip_space(struct parser *parser)
{
        while (isspace((unsigned char)*parser->p))
                parser->p++;
}

static bool is_name(char c)
{
        return isalnum((unsigned char)c) || c == '_';
}

static size_t name_length(const char *p)
{
        size_t n = 0;

        while (is_name(p[n]))
                n++;
        return n;
}

static char *copy(struct parser *parser, const char *text, size_t len)
{
        return arena_printf(&parser->template->arena, "%.*s", (int)len, text);
}

static int new_expr(struct parser *parser, enum expr_kind kind, struct expr **ret)
{
        struct expr *expr = arena_new(&parser->template->arena, struct expr, 1);

        if (!expr)
                return no_memory(parser);
        expr->kind = kind;
        *ret = expr;
        return 0;
}

/* --- expressions --------------------------------------------------------------------------------------------------- */

static int new_constant(struct parser *parser, json_t *value, struct expr **ret)
{
        int r;

        if (!value || json_array_append_new(parser->template->constants, value) < 0)
                return no_memory(parser);
        r = new_expr(parser, EXPR_CONSTANT, ret);
        if (r == 0)
                (*ret)->constant = value;
        return r;
}

/* "text" with \n, \t, \" and \\ in it, or `text` as it is. */
static int parse_string(struct parser *parser, struct expr **ret)
{
        const char quote = *parser->p++;
        char *text = copy(parser, parser->p, strlen(parser->p));
        size_t n = 0;

        if (!text)
                return no_memory(parser);
        for (; *parser->p && *parser->p != quote; parser->p++) {
                text[n] = *parser->p;
                if (quote == '"' && *parser->p == '\\' && parser->p[1]) {
                        parser->p++;
                        text[n] = *parser->p == 'n' ? '\n' : *parser->p == 't' ? '\t' : *parser->p;
                }
                n++;
        }
        if (!*parser->p)
                return failed(parser, "a text does not end");
        parser->p++;
        return new_constant(parser, json_stringn(text, n), ret);
}

static int parse_number(struct parser *parser, struct expr **ret)
{
        char *end;
        const double real = strtod(parser->p, &end);
        const char *start = parser->p;
        const size_t len = (size_t)(end - start);

        parser->p = end;
        if (memchr(start, '.', len) || memchr(start, 'e', len))
                return new_constant(parser, json_real(real), ret);
        return new_constant(parser, json_integer(strtoll(start, NULL, 10)), ret);
}

static int parse_parentheses(struct parser *parser, struct expr **ret)
{
        int r;

        parser->p++;
        if (++parser->depth > TEMPLATE_DEPTH_MAX)
                return failed(parser, "too many parentheses in one another");
        r = parse_pipeline(parser, ret);
        if (r < 0)
                return r;
        parser->depth--;
        if (*parser->p != ')')
                return failed(parser, "')' is missing");
        parser->p++;
        return 0;
}

static int parse_variable(struct parser *parser, struct expr **ret)
{
        const size_t len = name_length(++parser->p);
        int r = new_expr(parser, EXPR_VARIABLE, ret);

        if (r < 0)
                return r;
        (*ret)->name = copy(parser, parser->p, len);
        parser->p += len;
        return (*ret)->name ? 0 : no_memory(parser);
}

/* true, false, nil and functions without arguments do not take operands: a name here is a constant. */
static int parse_word(struct parser *parser, struct expr **ret)
{
        static const char *const words[] = { "true", "false", "nil" };
        const size_t len = name_length(parser->p);
        size_t i = 0;

        while (i < ARRAY_SIZE(words) && (strlen(words[i]) != len || strncmp(words[i], parser->p, len) != 0))
                i++;
        if (i == ARRAY_SIZE(words))
                return failed(parser, len ? "a field begins with a dot, a variable with $" : "a value is missing");
        parser->p += len;
        return new_constant(parser, i == 2 ? json_null() : json_boolean(i == 0), ret);
}

static int parse_fields(struct parser *parser, struct expr **expr)
{
        while (*parser->p == '.' && is_name(parser->p[1])) {
                const size_t len = name_length(parser->p + 1);
                struct expr *field = NULL;
                int r = new_expr(parser, EXPR_FIELD, &field);

                if (r < 0)
                        return r;
                field->name = copy(parser, parser->p + 1, len);
                if (!field->name)
                        return no_memory(parser);
                field->args = *expr;
                *expr = field;
                parser->p += 1 + len;
        }
        return 0;
}

static int parse_operand(struct parser *parser, struct expr **ret)
{
        const char c = *parser->p;
        int r;

        if (c == '.') {
                r = new_expr(parser, EXPR_DOT, ret);
                if (!is_name(parser->p[1]))
                        parser->p++;
        } else if (c == '$') {
                r = parse_variable(parser, ret);
        } else if (c == '(') {
                r = parse_parentheses(parser, ret);
        } else if (c == '"' || c == '`') {
                r = parse_string(parser, ret);
        } else if (isdigit((unsigned char)c) || (c == '-' && isdigit((unsigned char)parser->p[1]))) {
                r = parse_number(parser, ret);
        } else {
                r = parse_word(parser, ret);
        }
        return r < 0 ? r : parse_fields(parser, ret);
}

static bool at_operand(const char *p)
{
        return *p && !strchr("|)}", *p) && !(p[0] == '-' && p[1] == '}') && !(p[0] == ':' && p[1] == '=');
}

static int no_function(struct parser *parser, size_t len)
{
        char known[256];
        int r = err_set(
                parser->err, ERR_USAGE, EINVAL, "the template calls '%.*s', which is no function", (int)len, parser->p);

        template_function_names(known, sizeof(known));
        return err_hint(parser->err, r, "there is: %s; fields begin with a dot", known);
}

/* A function and what it is called with; @piped, unless NULL, is its last argument. */
static int parse_call(struct parser *parser, struct expr *piped, struct expr **ret)
{
        const size_t len = name_length(parser->p);
        const struct template_function *function = template_function_find(parser->p, len);
        struct expr **end;
        unsigned n = piped != NULL;
        int r;

        if (!function)
                return no_function(parser, len);
        r = new_expr(parser, EXPR_CALL, ret);
        if (r < 0)
                return r;
        (*ret)->function = function;
        end = &(*ret)->args;
        parser->p += len;
        for (skip_space(parser); at_operand(parser->p); skip_space(parser)) {
                r = parse_operand(parser, end);
                if (r < 0)
                        return r;
                end = &(*end)->next;
                n++;
        }
        *end = piped;
        if (n < function->min || n > function->max)
                return failed(parser, "the function before this takes another number of values");
        return 0;
}

static bool is_constant_word(const char *p)
{
        const size_t len = name_length(p);

        return (len == 4 && strncmp(p, "true", 4) == 0) || (len == 5 && strncmp(p, "false", 5) == 0) ||
               (len == 3 && strncmp(p, "nil", 3) == 0);
}

static int parse_pipeline(struct parser *parser, struct expr **ret)
{
        struct expr *value = NULL;
        int r;

        for (;;) {
                skip_space(parser);
                if (isalpha((unsigned char)*parser->p) && !is_constant_word(parser->p))
                        r = parse_call(parser, value, &value);
                else if (value)
                        return failed(parser, "behind a bar stands a function");
                else
                        r = parse_operand(parser, &value);
                if (r < 0)
                        return r;
                skip_space(parser);
                if (*parser->p != '|')
                        break;
                parser->p++;
        }
        *ret = value;
        return 0;
}

/* --- actions ------------------------------------------------------------------------------------------------------- */

static int parse_list(struct parser *parser, struct node **ret, const char **ret_end);

static int close_action(struct parser *parser)
{
        skip_space(parser);
        parser->trim = parser->p[0] == '-' && parser->p[1] == '}';
        parser->p += parser->trim;
        if (parser->p[0] != '}' || parser->p[1] != '}')
                return failed(parser, "'}}' should be here");
        parser->p += 2;
        return 0;
}

static bool take_word(struct parser *parser, const char *word)
{
        const size_t len = strlen(word);

        if (strncmp(parser->p, word, len) != 0 || is_name(parser->p[len]))
                return false;
        parser->p += len;
        skip_space(parser);
        return true;
}

/* "$k, $v :=" or "$v :=" when it stands here. */
static int parse_declaration(struct parser *parser, bool two, const char *variable[2])
{
        const char *p = parser->p;
        const char *name[2] = { NULL, NULL };
        size_t n = 0;

        while (*p == '$' && n < 1u + two) {
                const size_t len = name_length(++p);

                name[n] = copy(parser, p, len);
                if (!name[n++])
                        return no_memory(parser);
                for (p += len; isspace((unsigned char)*p) || *p == ','; p++)
                        ;
        }
        if (n == 0 || ((p[0] != ':' || p[1] != '=') && (p[0] != '=' || two)))
                return 0;
        parser->p = p + 1 + (*p == ':');
        variable[1] = name[n - 1];
        variable[0] = n == 2 ? name[0] : NULL;
        return 1;
}

/* What stands between {{if}}, {{range}} or {{with}} and its {{end}}. */
static int parse_block(struct parser *parser, struct node *node)
{
        const char *end = NULL;
        int r;

        if (++parser->depth > TEMPLATE_DEPTH_MAX)
                return failed(parser, "too many blocks in one another");
        if (node->kind == NODE_RANGE) {
                r = parse_declaration(parser, true, node->variable);
                if (r < 0)
                        return r;
        }
        r = parse_pipeline(parser, &node->expr);
        if (r == 0)
                r = close_action(parser);
        if (r == 0)
                r = parse_list(parser, &node->body, &end);
        if (r == 0 && !end)
                return failed(parser, "'{{end}}' is missing");
        if (r == 0 && strcmp(end, "else") == 0) {
                if (take_word(parser, "if")) {
                        /* {{else if}} is an {{if}} in the {{else}}, and shares its {{end}}. */
                        node->otherwise = arena_new(&parser->template->arena, struct node, 1);
                        if (!node->otherwise)
                                return no_memory(parser);
                        node->otherwise->kind = NODE_IF;
                        r = parse_block(parser, node->otherwise);
                        parser->depth--;
                        return r;
                }
                r = close_action(parser);
                if (r == 0)
                        r = parse_list(parser, &node->otherwise, &end);
                if (r == 0 && (!end || strcmp(end, "end") != 0))
                        return failed(parser, "'{{end}}' is missing");
        }
        parser->depth--;
        return r < 0 ? r : close_action(parser);
}

static int parse_action(struct parser *parser, struct node *node)
{
        static const struct {
                const char *word;
                enum node_kind kind;
        } blocks[] = { { "if", NODE_IF }, { "range", NODE_RANGE }, { "with", NODE_WITH } };
        int r;

        for (size_t i = 0; i < ARRAY_SIZE(blocks); i++)
                if (take_word(parser, blocks[i].word)) {
                        node->kind = blocks[i].kind;
                        return parse_block(parser, node);
                }
        node->kind = NODE_PRINT;
        r = parse_declaration(parser, false, node->variable);
        if (r > 0)
                node->kind = NODE_ASSIGN;
        if (r >= 0)
                r = parse_pipeline(parser, &node->expr);
        return r < 0 ? r : close_action(parser);
}

static int parse_comment(struct parser *parser)
{
        const char *end = strstr(parser->p, "*/");

        if (!end)
                return failed(parser, "a comment does not end");
        parser->p = end + 2;
        return close_action(parser);
}

/* The text up to the next action, without the space that {{- and -}} cut away. */
static int parse_text(struct parser *parser, struct node *node)
{
        const char *start = parser->p, *end = strstr(start, "{{");

        if (!end)
                end = start + strlen(start);
        parser->p = end;
        while (parser->trim && start < end && isspace((unsigned char)*start))
                start++;
        if (end[0] && end[2] == '-' && isspace((unsigned char)end[3]))
                while (end > start && isspace((unsigned char)end[-1]))
                        end--;
        parser->trim = false;
        node->kind = NODE_TEXT;
        node->text = copy(parser, start, (size_t)(end - start));
        return node->text ? 0 : no_memory(parser);
}

/* Nodes until {{end}} or {{else}}, which is *@ret_end, or the end of the text. */
static int parse_list(struct parser *parser, struct node **ret, const char **ret_end)
{
        struct node **tail = ret;
        int r;

        *ret_end = NULL;
        while (*parser->p) {
                struct node *node = arena_new(&parser->template->arena, struct node, 1);

                if (!node)
                        return no_memory(parser);
                *tail = node;
                tail = &node->next;
                if (strncmp(parser->p, "{{", 2) != 0) {
                        r = parse_text(parser, node);
                        if (r < 0)
                                return r;
                        continue;
                }
                parser->p += 2;
                if (*parser->p == '-' && isspace((unsigned char)parser->p[1]))
                        parser->p++;
                skip_space(parser);
                node->kind = NODE_TEXT;
                node->text = "";
                if (take_word(parser, "end"))
                        *ret_end = "end";
                else if (take_word(parser, "else"))
                        *ret_end = "else";
                if (*ret_end)
                        return 0;
                r = strncmp(parser->p, "/*", 2) == 0 ? parse_comment(parser) : parse_action(parser, node);
                if (r < 0)
                        return r;
        }
        return 0;
}

int template_parse(const char *text, struct template **ret, struct err **err)
{
        struct template *template = calloc(1, sizeof(*template));
        struct parser parser = { .template = template, .start = text, .p = text, .err = err };
        const char *end;
        int r;

        if (!template || !(template->constants = json_array())) {
                free(template);
                return err_sys(err, ENOMEM, "reading a template");
        }
        r = parse_list(&parser, &template->nodes, &end);
        if (r == 0 && end)
                r = failed(&parser, "'{{end}}' or '{{else}}' without a block");
        if (r < 0) {
                template_free(template);
                return r;
        }
        *ret = template;
        return 0;
}

struct template *template_free(struct template *template)
{
        if (!template)
                return NULL;
        json_decref(template->constants);
        arena_release(&template->arena);
        free(template);
        return NULL;
}
