/* Go's templates as far as people write them behind --format: "{{.ID}}\t{{json .Names}}".
 *
 *   {{.A.B}}  {{$x.A}}  {{(index .List 0).A}}     fields
 *   {{f X Y}}  {{X | f}}                          functions: `template_function_names` says which
 *   {{if X}} {{else if Y}} {{else}} {{end}}  {{range X}} {{range $k, $v := X}}  {{with X}}  {{$x := X}}
 *   {{- X -}}  {{/ * comment * /}}                white space cut away; nothing
 *
 * Anything else is an error when the template is read. A field that is not there is an error when it is evaluated,
 * so that a misspelt name is noticed. One thread at a time. */
#pragma once

#include <jansson.h>
#include <stdio.h>

#include "base/err.h"

struct template;

int template_parse(const char *text, struct template **ret, struct err **err);
/* Writes @template, filled in from @data, to @out. What was written before an error stays written. */
int template_run(const struct template *template, json_t *data, FILE *out, struct err **err);
/* NULL is fine. Returns NULL. */
struct template *template_free(struct template *template);
static inline void template_freep(struct template **template)
{
        template_free(*template);
}
