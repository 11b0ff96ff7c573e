#include "options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define LEFT_COLUMN  30
#define NAME_MAX_LEN 40

int cli_words_add(struct cli_words *words, const char *word, struct err **err)
{
        const char **grown = reallocarray(words->item, words->n + 2, sizeof(*grown));

        if (!grown)
                return err_sys(err, ENOMEM, "reading the options");
        words->item = grown;
        grown[words->n++] = word;
        grown[words->n] = NULL;
        return 0;
}

void cli_words_clear(struct cli_words *words)
{
        free(words->item);
        *words = (struct cli_words){ 0 };
}

/* --- help ---------------------------------------------------------------------------------------------------------- */

static void print_group(const struct cli_option_group *group)
{
        if (!group->title)
                return;
        printf("\n%s:\n", group->title);
        for (const struct cli_option *o = group->options; o->name; o++) {
                char left[64];

                if (o->kind == CLI_REFUSED || o->kind == CLI_IGNORED)
                        continue;
                snprintf(left, sizeof(left), "%c%c%s--%s%s%s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ',
                        o->letter ? ", " : "  ", o->name, o->value ? " " : "", o->value ? o->value : "");
                if (strlen(left) > LEFT_COLUMN)
                        printf("  %s\n  %-*s %s\n", left, LEFT_COLUMN, "", o->help);
                else
                        printf("  %-*s %s\n", LEFT_COLUMN, left, o->help);
        }
}

static void print_help(const struct cli_usage *usage)
{
        static const struct cli_option none[] = { { 0 } };
        static const struct cli_option_group bare = { "options", none, 0 };

        printf("usage: %s %s\n\n%s\n", usage->command, usage->arguments, usage->summary);
        for (const struct cli_option_group *group = usage->groups; group && group->options; group++)
                print_group(group);
        if (!usage->groups || !usage->groups->options)
                print_group(&bare);
        printf("  %-*s %s\n", LEFT_COLUMN, "    --help", "print this");
}

/* --- errors -------------------------------------------------------------------------------------------------------- */

unsigned cli_distance(const char *a, size_t n, const char *b)
{
        unsigned row[NAME_MAX_LEN + 1];
        const size_t m = strlen(b);

        if (n > NAME_MAX_LEN || m > NAME_MAX_LEN)
                return NAME_MAX_LEN;
        for (size_t j = 0; j <= m; j++)
                row[j] = (unsigned)j;
        for (size_t i = 1; i <= n; i++) {
                unsigned diagonal = row[0];

                row[0] = (unsigned)i;
                for (size_t j = 1; j <= m; j++) {
                        const unsigned replaced = diagonal + (a[i - 1] != b[j - 1]);

                        diagonal = row[j];
                        row[j] = MIN(replaced, 1 + MIN(row[j], row[j - 1]));
                }
        }
        return row[m];
}

/* The name that was probably meant: one that begins so, else the nearest. */
static const char *nearest(const struct cli_usage *usage, const char *name, size_t len)
{
        const char *best = NULL;
        unsigned best_distance = CLI_NEAR + 1;

        for (const struct cli_option_group *group = usage->groups; group && group->options; group++)
                for (const struct cli_option *o = group->options; o->name; o++) {
                        const bool begins = len >= 3 && strncmp(o->name, name, len) == 0;
                        const unsigned d = begins ? 0 : cli_distance(name, len, o->name);

                        if (o->kind == CLI_REFUSED || (d >= best_distance) || (len <= CLI_NEAR && !begins))
                                continue;
                        best = o->name;
                        best_distance = d;
                }
        return best;
}

static int unknown_option(
        const struct cli_usage *usage, const char *word, const char *name, size_t len, struct err **err)
{
        const char *meant = nearest(usage, name, len);
        int r = err_set(err, ERR_USAGE, EINVAL, "'%s' has no option '%s'", usage->command, word);

        if (meant)
                return err_hint(err, r, "did you mean --%s? See '%s --help'", meant, usage->command);
        return err_hint(err, r, "see '%s --help'", usage->command);
}

static int wrong_number_of_words(const struct cli_usage *usage, bool few, struct err **err)
{
        int r = err_set(err, ERR_USAGE, EINVAL, "'%s': too %s arguments", usage->command, few ? "few" : "many");

        return err_hint(err, r, "usage: %s %s", usage->command, usage->arguments);
}

/* --- reading ------------------------------------------------------------------------------------------------------- */

struct found {
        const struct cli_option *option;
        void *member;
};

static bool find_option(
        const struct cli_usage *usage, const char *name, size_t len, char letter, void *target, struct found *ret)
{
        for (const struct cli_option_group *group = usage->groups; group && group->options; group++)
                for (const struct cli_option *o = group->options; o->name; o++)
                        if (letter ? o->letter == letter : strlen(o->name) == len && strncmp(o->name, name, len) == 0) {
                                *ret = (struct found){ o,
                                        o->target ? o->target : (char *)target + group->base + o->offset };
                                return true;
                        }
        return false;
}

static int store_flag(const struct cli_option *option, bool *member, const char *text, struct err **err)
{
        static const struct {
                const char *text;
                bool value;
        } words[] = { { "true", true }, { "1", true }, { "false", false }, { "0", false } };

        for (size_t i = 0; text && i < ARRAY_SIZE(words); i++)
                if (strcmp(words[i].text, text) == 0) {
                        *member = words[i].value;
                        return 0;
                }
        if (text)
                return err_set(err, ERR_USAGE, EINVAL, "--%s is true or false, not '%s'", option->name, text);
        *member = true;
        return 0;
}

static int store(const struct found *found, const char *text, struct err **err)
{
        const struct cli_option *option = found->option;
        int r;

        switch (option->kind) {
        case CLI_FLAG:
                return store_flag(option, found->member, text, err);
        case CLI_TEXT:
                *(const char **)found->member = text;
                return 0;
        case CLI_LIST:
                return cli_words_add(found->member, text, err);
        case CLI_VALUE:
                r = option->parse(found->member, text, err);
                return r < 0 ? err_wrap(err, r, "--%s", option->name) : 0;
        case CLI_REFUSED:
                r = err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "--%s is not supported", option->name);
                return err_hint(err, r, "%s", option->help);
        case CLI_IGNORED:
                return 0;
        }
        return 0;
}

struct reader {
        const struct cli_usage *usage;
        char **argv;
        int argc;
        int next; /* the word after the one that is looked at */
        void *target;
};

/* The value of an option is behind it in the same word (@inside) or the next word. */
static int take_value(struct reader *reader, const struct found *found, const char *inside, struct err **err)
{
        if (!inside && found->option->value) {
                if (reader->next >= reader->argc)
                        return err_set(err, ERR_USAGE, EINVAL, "--%s needs a value: %s", found->option->name,
                                found->option->value);
                inside = reader->argv[reader->next++];
        }
        return store(found, inside, err);
}

static int take_long(struct reader *reader, const char *word, struct err **err)
{
        const char *name = word + 2;
        const size_t len = strcspn(name, "=");
        struct found found;

        if (!find_option(reader->usage, name, len, 0, reader->target, &found))
                return unknown_option(reader->usage, word, name, len, err);
        return take_value(reader, &found, name[len] ? name + len + 1 : NULL, err);
}

/* Letters until one of them takes a value. */
static int take_letters(struct reader *reader, const char *word, struct err **err)
{
        for (const char *p = word + 1; *p; p++) {
                struct found found;
                int r;

                if (!find_option(reader->usage, NULL, 0, *p, reader->target, &found))
                        return unknown_option(reader->usage, word, word + 1, strcspn(word + 1, "="), err);
                if (found.option->value)
                        return take_value(reader, &found, p[1] ? p + 1 + (p[1] == '=') : NULL, err);
                r = store(&found, NULL, err);
                if (r < 0)
                        return r;
        }
        return 0;
}

static bool is_help(const struct cli_usage *usage, const char *word)
{
        struct found found;

        return strcmp(word, "--help") == 0 ||
               (strcmp(word, "-h") == 0 && !find_option(usage, NULL, 0, 'h', NULL, &found));
}

int cli_options_parse(
        const struct cli_usage *usage, int argc, char **argv, void *target, int *ret_first, struct err **err)
{
        struct reader reader = { .usage = usage, .argv = argv, .argc = argc, .next = 1, .target = target };
        _cleanup_free_ char **words = calloc((size_t)argc + 1, sizeof(*words));
        int n = 0, r;

        if (!words)
                return err_sys(err, ENOMEM, "reading the options");
        while (reader.next < argc) {
                char *word = argv[reader.next++];

                if (word[0] != '-' || !word[1]) {
                        words[n++] = word;
                        if (usage->in_order)
                                break;
                        continue;
                }
                if (strcmp(word, "--") == 0)
                        break;
                if (is_help(usage, word)) {
                        print_help(usage);
                        return 1;
                }
                r = word[1] == '-' ? take_long(&reader, word, err) : take_letters(&reader, word, err);
                if (r < 0)
                        return r;
        }
        /* Words from between the options go right before what came after the last option. */
        for (int i = n; i-- > 0;)
                argv[--reader.next] = words[i];
        n = argc - reader.next;
        if (n < usage->min || (usage->max >= 0 && n > usage->max))
                return wrong_number_of_words(usage, n < usage->min, err);
        *ret_first = reader.next;
        return 0;
}
