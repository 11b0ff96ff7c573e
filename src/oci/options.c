#include "options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct option_spec *find(const struct option_spec *table, const char *name, size_t length)
{
        for (; table->name; table++) {
                if (strlen(table->name) == length && strncmp(table->name, name, length) == 0)
                        return table;
                if (length == 1 && table->letter == name[0])
                        return table;
        }
        return NULL;
}

static int append(struct option_list *list, const char *value)
{
        const char **item = reallocarray(list->item, list->n + 2, sizeof(*item));

        if (!item)
                return -ENOMEM;
        item[list->n++] = value;
        item[list->n] = NULL;
        list->item = item;
        return 0;
}

static int store(const struct option_spec *option, const char *value, void *out, struct err **err)
{
        char *member = (char *)out + option->offset, *end;

        switch (option->kind) {
        case OPTION_FLAG:
                *(bool *)member = !value || strcmp(value, "false") != 0;
                return 0;
        case OPTION_STRING:
                *(const char **)member = value;
                return 0;
        case OPTION_LIST:
                return append((struct option_list *)member, value) < 0 ? err_sys(err, ENOMEM, "--%s", option->name) : 0;
        case OPTION_NUMBER:
                errno = 0;
                *(s64 *)member = strtoll(value, &end, 10);
                if (errno || end == value || *end)
                        return err_set(err, ERR_USAGE, EINVAL, "--%s: '%s' is not a number", option->name, value);
                return 0;
        case OPTION_IGNORED:
        case OPTION_END:
                break;
        }
        return 0;
}

/* "-9" and "-" are words. */
static bool is_option(const char *word)
{
        return word[0] == '-' && word[1] && !(word[1] >= '0' && word[1] <= '9');
}

int options_parse(const char *command, const struct option_spec *table, bool in_order, int argc, char **argv, void *out,
        int *ret_first, bool *ret_help, struct err **err)
{
        int words = 0, i;
        char **word = calloc((size_t)argc + 1, sizeof(*word));

        if (!word)
                return err_sys(err, ENOMEM, "reading options");
        for (i = 1; i < argc; i++) {
                const struct option_spec *option;
                const char *name, *value;
                size_t length;
                int r;

                if (!is_option(argv[i])) {
                        if (in_order)
                                break;
                        word[words++] = argv[i];
                        continue;
                }
                if (strcmp(argv[i], "--") == 0) {
                        i++;
                        break;
                }
                name = argv[i] + (argv[i][1] == '-' ? 2 : 1);
                length = strcspn(name, "=");
                value = name[length] ? name + length + 1 : NULL;
                if ((length == 4 && strncmp(name, "help", 4) == 0) || (length == 1 && name[0] == 'h')) {
                        *ret_help = true;
                        free(word);
                        return 0;
                }
                option = find(table, name, length);
                if (!option && argv[i][1] != '-' && (option = find(table, name, 1)) && option->kind != OPTION_FLAG)
                        value = name + 1; /* -u0 */
                if (!option) {
                        r = err_set(err, ERR_USAGE, EINVAL, "'%s' is not an option of '%s'", argv[i], command);
                        free(word);
                        return err_hint(err, r, "see '%s --help'", command);
                }
                if (option->kind != OPTION_FLAG && !value) {
                        if (i + 1 >= argc) {
                                free(word);
                                return err_set(err, ERR_USAGE, EINVAL, "--%s needs a value", option->name);
                        }
                        value = argv[++i];
                }
                r = store(option, value, out, err);
                if (r < 0) {
                        free(word);
                        return r;
                }
        }
        /* Words that stood between options go right before those that came after them. */
        for (int k = words; k-- > 0;)
                argv[--i] = word[k];
        free(word);
        *ret_first = i;
        return 0;
}

void options_print(const struct option_spec *table)
{
        for (; table->name; table++) {
                char left[64];

                snprintf(left, sizeof(left), "--%s%s%s%s", table->name, table->letter ? ", -" : "",
                        table->letter ? (char[]){ table->letter, 0 } : "", table->kind == OPTION_FLAG ? "" : " value");
                printf("   %-34s %s\n", left, table->help);
        }
}
