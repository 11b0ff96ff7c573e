#include "box/oci_read.h"

#include <errno.h>
#include <string.h>

const json_t *oci_member(const json_t *object, const char *key)
{
        const json_t *value = json_object_get(object, key);

        return json_is_null(value) ? NULL : value;
}

bool oci_s64(const json_t *json, s64 *ret)
{
        const double real = json_is_real(json) ? json_real_value(json) : 0;

        if (json_is_integer(json))
                *ret = json_integer_value(json);
        else if (json_is_real(json) && real >= -0x1p53 && real <= 0x1p53 && real == (double)(s64)real)
                *ret = (s64)real;
        else
                return false;
        return true;
}

bool oci_u64(const json_t *json, u64 *ret)
{
        const double real = json_is_real(json) ? json_real_value(json) : 0;
        s64 value;

        if (real >= 0x1p63 && real <= 0x1p64)
                *ret = real >= 0x1p64 ? UINT64_MAX : (u64)real;
        else if (oci_s64(json, &value) && value >= 0)
                *ret = (u64)value;
        else
                return false;
        return true;
}

int oci_read_int(const json_t *object, const char *key, s64 smallest, s64 largest, s64 *ret, struct err **err)
{
        const json_t *value = oci_member(object, key);
        s64 number;

        if (!value)
                return 0;
        if (!oci_s64(value, &number) || number < smallest || number > largest)
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "'%s' must be a whole number from %lld to %lld", key,
                        (long long)smallest, (long long)largest);
        *ret = number;
        return 0;
}

int oci_read_u64(const json_t *object, const char *key, u64 *ret, struct err **err)
{
        const json_t *value = oci_member(object, key);

        if (!value)
                return 0;
        return oci_u64(value, ret)
                       ? 0
                       : err_set(err, ERR_BAD_CONFIG, EINVAL, "'%s' must be a whole number that is not negative", key);
}

int oci_read_bool(const json_t *object, const char *key, bool *ret, struct err **err)
{
        const json_t *value = oci_member(object, key);

        if (!value)
                return 0;
        if (!json_is_boolean(value))
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "'%s' must be true or false", key);
        *ret = json_is_true(value);
        return 0;
}

int oci_read_string(const json_t *object, const char *key, const char **ret, struct err **err)
{
        const json_t *value = oci_member(object, key);

        if (!value)
                return 0;
        if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value))
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "'%s' must be a text", key);
        *ret = json_string_value(value);
        return 0;
}

int oci_read_array(const json_t *object, const char *key, const json_t **ret, struct err **err)
{
        const json_t *value = oci_member(object, key);

        if (!value)
                return 0;
        if (!json_is_array(value))
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "'%s' must be a list", key);
        *ret = value;
        return 0;
}

int oci_read_object(const json_t *object, const char *key, const json_t **ret, struct err **err)
{
        const json_t *value = oci_member(object, key);

        if (!value)
                return 0;
        if (!json_is_object(value))
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "'%s' must be an object", key);
        *ret = value;
        return 0;
}
