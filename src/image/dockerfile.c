/* The parser: logical lines (continued, without comments), then keyword, flags, text and heredocs. */
#include "dockerfile.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define KEYWORD_MAX      16
#define HEREDOCS_MAX     16
#define EXPAND_DEPTH_MAX 20

static int bad(struct err **err, unsigned line, const char *why)
{
        return err_set(err, ERR_USAGE, EINVAL, "Dockerfile line %u: %s", line, why);
}

static int no_memory(struct err **err)
{
        return err_sys(err, ENOMEM, "reading a Dockerfile");
}

/* Which instructions there are, and which may have heredocs. */
static const struct {
        const char *keyword;
        bool heredocs;
} keywords[] = {
        { "ADD", true },
        { "ARG", false },
        { "CMD", false },
        { "COPY", true },
        { "ENTRYPOINT", false },
        { "ENV", false },
        { "EXPOSE", false },
        { "FROM", false },
        { "HEALTHCHECK", false },
        { "LABEL", false },
        { "MAINTAINER", false },
        { "ONBUILD", false },
        { "RUN", true },
        { "SHELL", false },
        { "STOPSIGNAL", false },
        { "USER", false },
        { "VOLUME", false },
        { "WORKDIR", false },
};

void docker_instruction_clear(struct docker_instruction *i)
{
        for (size_t n = 0; n < i->n_heredocs; n++) {
                free(i->heredocs[n].name);
                free(i->heredocs[n].content);
        }
        free(i->heredocs);
        free(i->keyword);
        free(i->text);
        free(i->original);
        json_decref(i->flags);
        *i = (struct docker_instruction){ 0 };
}

static void clear_instructions(struct docker_instruction *list, size_t n)
{
        for (size_t i = 0; i < n; i++)
                docker_instruction_clear(&list[i]);
        free(list);
}

void dockerfile_clear(struct dockerfile *file)
{
        for (size_t i = 0; i < file->n_stages; i++) {
                free(file->stages[i].base);
                free(file->stages[i].name);
                free(file->stages[i].platform);
                clear_instructions(file->stages[i].instructions, file->stages[i].n);
        }
        free(file->stages);
        clear_instructions(file->args, file->n_args);
        *file = (struct dockerfile){ 0 };
}

const char *docker_flag(const struct docker_instruction *instruction, const char *name)
{
        const size_t len = strlen(name);

        for (size_t i = 0; i < json_array_size(instruction->flags); i++) {
                const char *flag = json_string_value(json_array_get(instruction->flags, i));

                if (strncmp(flag, name, len) == 0 && (flag[len] == '=' || !flag[len]))
                        return flag[len] ? flag + len + 1 : "";
        }
        return NULL;
}

/* --- lines --------------------------------------------------------------------------------------------------------------------- */

struct lines {
        const char *p;
        unsigned line; /* of p */
        char escape;
};

/* The next physical line without its end; false behind the last. */
static bool next_line(struct lines *in, const char **ret, size_t *ret_len)
{
        const size_t len = strcspn(in->p, "\n");

        if (!*in->p)
                return false;
        *ret = in->p;
        *ret_len = len > 0 && in->p[len - 1] == '\r' ? len - 1 : len;
        in->p += len + (in->p[len] == '\n');
        in->line++;
        return true;
}

static size_t blanks(const char *p, size_t len)
{
        size_t n = 0;

        while (n < len && (p[n] == ' ' || p[n] == '\t'))
                n++;
        return n;
}

struct text {
        char *p;
        size_t len, cap;
        bool failed;
};

static void text_add(struct text *t, const char *p, size_t len)
{
        if (t->failed)
                return;
        if (t->len + len + 1 > t->cap) {
                const size_t cap = MAX(2 * t->cap, t->len + len + 64);
                char *grown = realloc(t->p, cap);

                if (!grown) {
                        t->failed = true;
                        return;
                }
                t->p = grown;
                t->cap = cap;
        }
        memcpy(t->p + t->len, p, len);
        t->len += len;
        t->p[t->len] = '\0';
}

static void text_clear(struct text *t)
{
        free(t->p);
}

/* A logical line: continued ones joined; comments and empty lines in between are left out. 0 at the end. */
static int next_logical(struct lines *in, struct text *ret, unsigned *ret_line, struct err **err)
{
        const char *line;
        size_t len;
        bool more = false;

        while (next_line(in, &line, &len)) {
                const size_t indent = blanks(line, len);
                size_t end = len;

                if (indent == len || line[indent] == '#')
                        continue;
                if (!more) {
                        *ret_line = in->line;
                        line += indent;
                        end -= indent;
                }
                while (end > 0 && (line[end - 1] == ' ' || line[end - 1] == '\t'))
                        end--;
                more = end > 0 && line[end - 1] == in->escape;
                text_add(ret, line, end - more);
                if (!more)
                        break;
        }
        if (ret->failed)
                return no_memory(err);
        return ret->len > 0;
}

/* "# escape=`" and others before anything else. */
static void read_directives(struct lines *in)
{
        struct lines ahead = *in;
        const char *line;
        size_t len;
        char name[32], value[32];

        while (next_line(&ahead, &line, &len)) {
                char copy[128];

                snprintf(copy, sizeof(copy), "%.*s", (int)MIN(len, sizeof(copy) - 1), line);
                if (sscanf(copy, " # %31[a-zA-Z] = %31s", name, value) != 2)
                        return;
                if (strcasecmp(name, "escape") == 0 && (value[0] == '`' || value[0] == '\\') && !value[1])
                        in->escape = value[0];
        }
}

/* --- heredocs --------------------------------------------------------------------------------------------------------------------- */

static int add_heredoc(struct docker_instruction *i, const char *name, size_t len, bool expand, struct err **err)
{
        struct docker_heredoc *grown = reallocarray(i->heredocs, i->n_heredocs + 1, sizeof(*grown));

        if (!grown)
                return no_memory(err);
        i->heredocs = grown;
        grown[i->n_heredocs] = (struct docker_heredoc){ .name = strndup(name, len), .expand = expand };
        return grown[i->n_heredocs++].name ? 0 : no_memory(err);
}

static int read_content(struct lines *in, struct docker_heredoc *doc, bool strip, unsigned line, struct err **err)
{
        _cleanup_(text_clear) struct text content = { 0 };
        const char *p;
        size_t len;

        while (next_line(in, &p, &len)) {
                if (strip)
                        while (len > 0 && *p == '\t') {
                                p++;
                                len--;
                        }
                if (len == strlen(doc->name) && memcmp(p, doc->name, len) == 0) {
                        doc->content = content.p ? TAKE_PTR(content.p) : strdup("");
                        return doc->content ? 0 : no_memory(err);
                }
                text_add(&content, p, len);
                text_add(&content, "\n", 1);
                if (content.failed)
                        return no_memory(err);
        }
        return bad(err, line, "a heredoc has no end");
}

/* <<NAME, <<-NAME, <<"NAME", <<'NAME' in the text; the contents are the lines that follow. */
static int read_heredocs(struct lines *in, struct docker_instruction *i, struct err **err)
{
        char quote = 0;
        int r = 0;

        for (const char *p = i->text; r == 0 && *p; p++) {
                const char *name;
                bool strip, quoted;
                size_t len;

                if (quote ? *p == quote : (*p == '"' || *p == '\''))
                        quote = quote ? 0 : *p;
                if (quote || p[0] != '<' || p[1] != '<' || p[2] == '<' ||
                        (p > i->text && (p[-1] == '<' || isalnum((unsigned char)p[-1]))))
                        continue;
                strip = p[2] == '-';
                name = p + 2 + strip;
                quoted = *name == '"' || *name == '\'';
                name += quoted;
                for (len = 0;
                        isalnum((unsigned char)name[len]) || name[len] == '_' || name[len] == '.' || name[len] == '-';
                        len++)
                        ;
                if (len == 0 || (quoted && name[len] != name[-1]))
                        continue;
                if (i->n_heredocs == HEREDOCS_MAX)
                        return bad(err, i->line, "too many heredocs");
                r = add_heredoc(i, name, len, !quoted, err);
                if (r == 0)
                        r = read_content(in, &i->heredocs[i->n_heredocs - 1], strip, i->line, err);
                p = name + len - 1 + quoted;
        }
        return r;
}

/* --- instructions ------------------------------------------------------------------------------------------------------------------- */

/* "--name=value" words in front. @lookup by docker_flag. */
static int take_flags(struct docker_instruction *i, const char **text, struct err **err)
{
        const char *p = *text;

        while (strncmp(p, "--", 2) == 0 && isalpha((unsigned char)p[2])) {
                const size_t len = strcspn(p, " \t");

                if (json_array_append_new(i->flags, json_stringn(p + 2, len - 2)) < 0)
                        return bad(err, i->line, "an option is not UTF-8");
                p += len;
                p += blanks(p, strlen(p));
        }
        *text = p;
        return 0;
}

static int parse_instruction(
        const char *line, unsigned number, struct lines *in, struct docker_instruction *ret, struct err **err)
{
        struct docker_instruction i = { .line = number, .flags = json_array(), .original = strdup(line) };
        const size_t len = strcspn(line, " \t");
        const char *rest = line + len;
        char keyword[KEYWORD_MAX + 1] = "";
        bool known = false, heredocs = false;
        int r = 0;

        for (size_t n = 0; n < len && n < KEYWORD_MAX; n++) {
                keyword[n] = (char)toupper((unsigned char)line[n]);
                keyword[n + 1] = '\0';
        }
        for (size_t n = 0; n < ARRAY_SIZE(keywords); n++)
                if (len <= KEYWORD_MAX && strcmp(keywords[n].keyword, keyword) == 0) {
                        known = true;
                        heredocs = keywords[n].heredocs;
                }
        rest += blanks(rest, strlen(rest));
        if (!known)
                r = err_set(err, ERR_USAGE, EINVAL, "Dockerfile line %u: unknown instruction '%.*s'", number,
                        (int)MIN(len, 40U), line);
        else if (!*rest)
                r = err_set(err, ERR_USAGE, EINVAL, "Dockerfile line %u: %s needs an argument", number, keyword);
        /* HEALTHCHECK's options and those of an ONBUILD's instruction are for whoever carries it out. */
        if (r == 0 && strcmp(keyword, "HEALTHCHECK") != 0)
                r = take_flags(&i, &rest, err);
        i.keyword = strdup(keyword);
        i.text = strdup(rest);
        if (r == 0 && (!i.keyword || !i.text || !i.flags || !i.original))
                r = no_memory(err);
        if (r == 0 && heredocs && in)
                r = read_heredocs(in, &i, err);
        if (r < 0) {
                docker_instruction_clear(&i);
                return r;
        }
        *ret = i;
        return 0;
}

int dockerfile_parse_line(const char *line, struct docker_instruction *ret, struct err **err)
{
        return parse_instruction(line, 0, NULL, ret, err);
}

/* FROM image [AS name] */
static int add_stage(struct dockerfile *file, const struct docker_instruction *from, struct err **err)
{
        struct docker_stage *grown = reallocarray(file->stages, file->n_stages + 1, sizeof(*grown)),
                            stage = { .line = from->line };
        char *copy = strdup(from->text), *rest = copy, *word, *words[4] = { NULL };
        const char *platform = docker_flag(from, "platform");
        size_t n = 0;
        int r = 0;

        if (grown)
                file->stages = grown;
        while (copy && (word = strsep(&rest, " \t")))
                if (*word && n < ARRAY_SIZE(words))
                        words[n++] = word;
        if (!grown || !copy)
                r = no_memory(err);
        else if (n != 1 && !(n == 3 && strcasecmp(words[1], "AS") == 0))
                r = bad(err, from->line, "FROM takes an image, and AS and a name");
        if (r == 0) {
                stage.base = strdup(words[0]);
                stage.name = strdup(n == 3 ? words[2] : "");
                stage.platform = strdup(platform ? platform : "");
                grown[file->n_stages++] = stage;
                if (!stage.base || !stage.name || !stage.platform)
                        r = no_memory(err);
        }
        free(copy);
        return r;
}

static int add_instruction(struct docker_instruction **list, size_t *n, struct docker_instruction *i, struct err **err)
{
        struct docker_instruction *grown = reallocarray(*list, *n + 1, sizeof(*grown));

        if (!grown)
                return no_memory(err);
        *list = grown;
        grown[(*n)++] = *i;
        *i = (struct docker_instruction){ 0 };
        return 0;
}

static int place_instruction(struct dockerfile *file, struct docker_instruction *i, struct err **err)
{
        struct docker_stage *stage = file->n_stages > 0 ? &file->stages[file->n_stages - 1] : NULL;

        if (strcmp(i->keyword, "FROM") == 0)
                return add_stage(file, i, err);
        if (stage)
                return add_instruction(&stage->instructions, &stage->n, i, err);
        if (strcmp(i->keyword, "ARG") == 0)
                return add_instruction(&file->args, &file->n_args, i, err);
        return bad(err, i->line, "only ARG may stand before the first FROM");
}

int dockerfile_parse(const char *text, struct dockerfile *ret, struct err **err)
{
        _cleanup_(dockerfile_clear) struct dockerfile file = { 0 };
        struct lines in = { .p = text, .escape = '\\' };
        unsigned count = 0;
        int r;

        read_directives(&in);
        file.escape = in.escape;
        for (;;) {
                _cleanup_(text_clear) struct text line = { 0 };
                _cleanup_(docker_instruction_clear) struct docker_instruction i = { 0 };
                unsigned number = 0;

                r = next_logical(&in, &line, &number, err);
                if (r <= 0)
                        break;
                if (++count > DOCKERFILE_INSTRUCTIONS_MAX)
                        return bad(err, number, "too many instructions");
                r = parse_instruction(line.p, number, &in, &i, err);
                if (r == 0)
                        r = place_instruction(&file, &i, err);
                if (r < 0)
                        return r;
        }
        if (r < 0)
                return r;
        if (file.n_stages == 0)
                return err_set(err, ERR_USAGE, EINVAL, "the Dockerfile has no FROM");
        *ret = file;
        file = (struct dockerfile){ 0 };
        return 0;
}

/* --- expansion ------------------------------------------------------------------------------------------------------------------------ */

struct expansion {
        const char *(*lookup)(void *opaque, const char *name, size_t len);
        void *opaque;
        struct text out;
};

/* So that change_words gives back exactly this. */
static void add_protected(struct text *out, const char *value, bool in_quotes)
{
        for (; *value; value++) {
                if (strchr(in_quotes ? "\"\\" : " \t'\"\\", *value))
                        text_add(out, "\\", 1);
                text_add(out, value, 1);
        }
}

static int expand(struct expansion *x, const char *p, size_t len, bool in_quotes, unsigned depth, struct err **err);

/* At '$': takes the variable, returns how many bytes of @p it was. */
static ssize_t expand_variable(
        struct expansion *x, const char *p, size_t len, bool in_quotes, unsigned depth, struct err **err)
{
        const bool braces = len > 1 && p[1] == '{';
        const char *name = p + 1 + braces, *value;
        size_t n = 0, word, end;
        unsigned open = 1;
        char kind;
        int r = 0;

        while (name + n < p + len && (isalnum((unsigned char)name[n]) || name[n] == '_') &&
                !(n == 0 && isdigit((unsigned char)name[0])))
                n++;
        if (n == 0) {
                if (braces)
                        return err_set(err, ERR_USAGE, EINVAL, "'%.40s' is not a variable", p);
                text_add(&x->out, "\\$", 2);
                return 1;
        }
        value = x->lookup(x->opaque, name, n);
        if (!braces) {
                add_protected(&x->out, value ? value : "", in_quotes);
                return (ssize_t)(1 + n);
        }
        end = 2 + n;
        if (end < len && p[end] == '}') {
                add_protected(&x->out, value ? value : "", in_quotes);
                return (ssize_t)(end + 1);
        }
        /* ":-word" and ":+word"; without the colon an empty value counts as one */
        if (end + 1 < len && p[end] == ':' && (p[end + 1] == '-' || p[end + 1] == '+')) {
                if (value && !*value)
                        value = NULL;
                end++;
        }
        kind = end < len ? p[end] : '\0';
        if (kind != '-' && kind != '+')
                return err_set(
                        err, ERR_USAGE, EINVAL, "'%.40s': only ${name}, ${name:-word} and ${name:+word} are known", p);
        word = ++end;
        for (; end < len; end++) {
                if (p[end] == '{')
                        open++;
                else if (p[end] == '}' && --open == 0)
                        break;
        }
        if (end >= len)
                return err_set(err, ERR_USAGE, EINVAL, "'%.40s' has no end", p);
        if (kind == '-' && value)
                add_protected(&x->out, value, in_quotes);
        else if ((kind == '-') == !value)
                r = expand(x, p + word, end - word, in_quotes, depth + 1, err);
        return r < 0 ? r : (ssize_t)(end + 1);
}

static int expand(struct expansion *x, const char *p, size_t len, bool in_quotes, unsigned depth, struct err **err)
{
        char quote = in_quotes ? '"' : 0;

        if (depth > EXPAND_DEPTH_MAX)
                return err_set(err, ERR_USAGE, EINVAL, "variables are nested too deeply");
        for (size_t i = 0; i < len;) {
                if (p[i] == '\\' && quote != '\'' && i + 1 < len) {
                        text_add(&x->out, p + i, 2);
                        i += 2;
                        continue;
                }
                if (p[i] == '$' && quote != '\'') {
                        const ssize_t n = expand_variable(x, p + i, len - i, quote == '"', depth, err);

                        if (n < 0)
                                return (int)n;
                        i += (size_t)n;
                        continue;
                }
                if (quote ? p[i] == quote && !(in_quotes && quote == '"') : p[i] == '"' || p[i] == '\'')
                        quote = quote ? 0 : p[i];
                text_add(&x->out, p + i++, 1);
        }
        return 0;
}

int docker_expand(const char *text, const char *(*lookup)(void *opaque, const char *name, size_t len), void *opaque,
        char **ret, struct err **err)
{
        struct expansion x = { lookup, opaque, { 0 } };
        int r = expand(&x, text, strlen(text), false, 0, err);

        text_add(&x.out, "", 0);
        if (r == 0 && x.out.failed)
                r = no_memory(err);
        if (r == 0)
                *ret = TAKE_PTR(x.out.p);
        text_clear(&x.out);
        return r;
}
