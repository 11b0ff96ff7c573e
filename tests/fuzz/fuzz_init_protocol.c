/* The protocol of strata-init, from either side: a stream of frames cut by init_frame_next. What must hold: what was parsed lies within
 * its frame, and written again it is parsed to the same. */
#include <errno.h>
#include <string.h>

#include "init/protocol.h"
#include "input.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

static const struct {
        unsigned number;
        const char *fields;
} messages[] = {
#define INIT_MESSAGE(id, number, direction, fields, meaning) { number, fields },
#include "init/messages.def"
#undef INIT_MESSAGE
};

static const char *fields_of(const struct init_message *m)
{
        for (size_t i = 0; i < ARRAY_SIZE(messages); i++)
                if (messages[i].number == m->type)
                        return messages[i].fields;
        abort();
}

static void inside(const u8 *frame, size_t size, const char *text, size_t n)
{
        require((const u8 *)text >= frame && (const u8 *)text + n <= frame + size);
}

static void write_again(const u8 *frame, size_t size, const struct init_message *m, struct init_frame *out)
{
        const char *fields = fields_of(m);

        for (unsigned i = 0; fields[i]; i++) {
                const struct init_value *v = &m->field[i];
                const char *text = v->text;

                switch (fields[i]) {
                case 'u':
                        init_put_u32(out, (u32)v->number);
                        break;
                case 'U':
                        init_put_u64(out, v->number);
                        break;
                case 's':
                        inside(frame, size, text, v->number + 1);
                        require(strlen(text) == v->number);
                        init_put_text(out, text);
                        break;
                case 'l':
                        init_put_u32(out, (u32)v->number);
                        for (u64 j = 0; j < v->number; j++, text = init_next_text(text)) {
                                inside(frame, size, text, strlen(text) + 1);
                                init_put_text(out, text);
                        }
                        break;
                case 'N':
                        init_put_u32(out, (u32)v->number);
                        inside(frame, size, text, v->number * sizeof(u64));
                        for (u64 j = 0; j < v->number; j++)
                                init_put_u64(out, init_number(v, j));
                        break;
                default:
                        inside(frame, size, text, v->number);
                        init_put_bytes(out, text, v->number);
                }
        }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
        static u8 copy[INIT_FRAME_HEADER + INIT_FRAME_MAX];
        size_t size, written;

        while (init_frame_next(data, len, &size) == 1) {
                require(size <= len);
                for (unsigned direction = INIT_TO_GUEST; direction <= INIT_TO_HOST; direction++) {
                        struct init_message m, again;
                        struct init_frame frame;

                        if (init_parse(data, size, (enum init_direction)direction, &m) < 0)
                                continue;
                        init_frame_begin(&frame, copy, sizeof(copy), m.type, m.id);
                        write_again(data, size, &m, &frame);
                        require(init_frame_end(&frame, &written) == 0 && written <= size);
                        require(memcmp(copy + INIT_FRAME_HEADER, data + INIT_FRAME_HEADER, written - INIT_FRAME_HEADER) == 0);
                        require(init_parse(copy, written, (enum init_direction)direction, &again) == 0);
                }
                data += size;
                len -= size;
        }
        return 0;
}
