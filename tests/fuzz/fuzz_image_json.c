/* Manifests, indexes, configurations, references and instructions made by strangers. What is taken stays within its limits. */
#include <string.h>

#include "image/internal.h"
#include "input.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

static void parse_manifest(const char *text, size_t len)
{
        struct platform platform;
        struct manifest manifest;
        struct descriptor chosen;

        if (manifest_parse(text, len, "", &manifest, NULL) == 0) {
                require(manifest.n_layers <= MANIFEST_LAYERS_MAX && digest_valid(manifest.config.digest.text));
                for (size_t i = 0; i < manifest.n_layers; i++)
                        require(digest_valid(manifest.layers[i].digest.text));
                manifest_clear(&manifest);
        }
        require(platform_parse("linux/amd64", &platform, NULL) == 0);
        if (manifest_is_index(text, len, "") && index_choose(text, len, &platform, &chosen, NULL) == 0)
                require(digest_valid(chosen.digest.text));
}

static void parse_config(const char *text, size_t len)
{
        struct config_file file;

        if (config_file_parse(text, len, &file, NULL) < 0)
                return;
        for (const char *const *s = file.config.env; *s; s++)
                require(strlen(*s) <= len);
        for (size_t i = 0; i < file.n_diff_ids; i++)
                require(digest_valid(file.diff_ids[i].text));
        config_file_clear(&file);
}

/* A name that is taken is taken again in its full form, and means the same. */
static void parse_reference(const char *text)
{
        struct reference reference, again;
        char full[REFERENCE_TEXT_MAX], full_again[REFERENCE_TEXT_MAX];

        if (reference_parse(text, &reference, NULL) < 0)
                return;
        reference_format(&reference, full);
        require(reference_parse(full, &again, NULL) == 0);
        reference_format(&again, full_again);
        require(strcmp(full, full_again) == 0 && !strstr(reference.repository, ".."));
}

static void apply_change(const char *line)
{
        json_t *file = json_pack("{s:{}}", "config");

        config_change(file, line, NULL);
        json_decref(file);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
        char *text;

        if (len < 1)
                return 0;
        text = strndup((const char *)data + 1, len - 1);
        require(text);
        switch (data[0] & 3) {
        case 0:
                parse_manifest((const char *)data + 1, len - 1);
                break;
        case 1:
                parse_config((const char *)data + 1, len - 1);
                break;
        case 2:
                parse_reference(text);
                break;
        default:
                apply_change(text);
                break;
        }
        free(text);
        return 0;
}
