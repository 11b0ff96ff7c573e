#include "snapshot_files.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "snapshot_dir.h"

#define STATE_FORMAT 1
#define INFO_SECTION "snapshot"
#define INFO_VERSION 2
/* CPUs and devices are tens of kilobytes; RAM is not in it. */
#define STATE_FILE_MAX (256 * MIB)

static const char magic[8] = "STRATAVM";

/* All numbers are little-endian. */
struct header {
        char magic[8];
        u32 format;
        u32 crc; /* zlib's, of the sections */
        u64 len; /* of the sections */
};

static void header_fill(struct header *h, const void *sections, size_t len)
{
        *h = (struct header){ .format = htole32(STATE_FORMAT), .crc = htole32((u32)crc32_z(0, sections, len)), .len = htole64(len) };
        memcpy(h->magic, magic, sizeof(magic));
}

static int header_check(const u8 *data, size_t len, struct err **err)
{
        struct header h;

        if (len < sizeof(h) || memcmp(data, magic, sizeof(magic)) != 0)
                return err_set(err, ERR_BAD_STATE, EINVAL, "it is not the state of a snapshot");
        memcpy(&h, data, sizeof(h));
        if (le32toh(h.format) != STATE_FORMAT)
                return err_set(err, ERR_BAD_STATE, EINVAL, "it has format %u, and only %d is understood", le32toh(h.format), STATE_FORMAT);
        if (le64toh(h.len) != len - sizeof(h) || le32toh(h.crc) != (u32)crc32_z(0, data + sizeof(h), len - sizeof(h)))
                return err_set(err, ERR_BAD_STATE, EINVAL, "it is damaged: length or check sum is wrong");
        return 0;
}

/* ---- struct snapshot_info ---- */

void snapshot_info_save(const struct snapshot_info *info, struct state_out *out)
{
        state_out_section_begin(out, INFO_SECTION, INFO_VERSION);
        state_put_bytes(out, info->engine, sizeof(info->engine));
        state_put_u64(out, info->id);
        state_put_u64(out, info->ram_size);
        state_put_u32(out, info->n_cpus);
        state_put_u64(out, info->tsc_hz);
        state_put_u32(out, info->n_layers);
        state_put_u32(out, (u32)info->map.n_runs);
        for (size_t i = 0; i < info->map.n_runs; i++) {
                state_put_u64(out, info->map.runs[i].first);
                state_put_u64(out, info->map.runs[i].n);
                state_put_u8(out, info->map.runs[i].layer);
        }
        state_out_section_end(out);
}

static int info_load(struct state_in *in, struct snapshot_info *ret, struct err **err)
{
        struct snapshot_info info = { 0 };
        u32 n_runs;

        state_get_bytes(in, info.engine, sizeof(info.engine));
        info.id = state_get_u64(in);
        info.ram_size = state_get_u64(in);
        info.n_cpus = state_get_u32(in);
        info.tsc_hz = state_get_u64(in);
        info.n_layers = state_get_u32(in);
        n_runs = state_get_u32(in);
        if (state_in_error(in) || info.engine[SNAPSHOT_ENGINE_MAX - 1] || !info.ram_size || info.ram_size % 4096 || info.ram_size > BIT(48) || !info.n_cpus || !info.tsc_hz ||
            !info.n_layers || info.n_layers > SNAPSHOT_LAYERS_MAX || !n_runs || n_runs > SNAPSHOT_RUNS_MAX)
                return err_set(err, ERR_BAD_STATE, EINVAL, "it says impossible things about the machine");
        info.map.runs = calloc(n_runs, sizeof(*info.map.runs));
        if (!info.map.runs)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the map of a snapshot");
        info.map.n_runs = n_runs;
        for (u32 i = 0; i < n_runs; i++) {
                struct snapshot_run *run = &info.map.runs[i];

                run->first = state_get_u64(in);
                run->n = state_get_u64(in);
                run->layer = state_get_u8(in);
        }
        if (state_in_error(in) || state_in_left(in) || !snapshot_map_is_sound(&info.map, info.ram_size >> 12, info.n_layers)) {
                snapshot_map_free(&info.map);
                return err_set(err, ERR_BAD_STATE, EINVAL, "its map of the machine's memory is impossible");
        }
        *ret = info;
        return 0;
}

/* ---- the state's bytes ---- */

int snapshot_state_write(int fd, const struct state_out *out, struct err **err)
{
        struct header h;
        int r;

        if (out->len > STATE_FILE_MAX - sizeof(h))
                return err_set(err, ERR_TOO_LARGE, EFBIG, "the machine's state is too large for a snapshot");
        header_fill(&h, out->data, out->len);
        r = io_write_all(fd, &h, sizeof(h));
        if (r == 0)
                r = io_write_all(fd, out->data, out->len);
        return r < 0 ? err_sys(err, -r, "writing the snapshot's state") : 0;
}

int snapshot_state_parse(u8 *data, size_t len, struct snapshot_state *ret, struct err **err)
{
        struct snapshot_state state = { .data = data };
        char name[STATE_NAME_MAX];
        struct state_in in;
        u32 version;
        int r = header_check(data, len, err);

        if (r == 0) {
                state_in_init(&in, data + sizeof(struct header), len - sizeof(struct header));
                r = state_in_section_next(&in, name, &version, err);
        }
        if (r == 0 || (r > 0 && (strcmp(name, INFO_SECTION) != 0 || version != INFO_VERSION)))
                r = err_set(err, ERR_BAD_STATE, EINVAL, "it does not begin as a snapshot's does, or is of another version");
        if (r > 0)
                r = info_load(&in, &state.info, err);
        if (r < 0) {
                free(data);
                return r;
        }
        state.machine = in.data + in.section_end;
        state.machine_len = in.len - in.section_end;
        *ret = state;
        return 0;
}

void snapshot_state_free(struct snapshot_state *state)
{
        snapshot_map_free(&state->info.map);
        free(state->data);
        *state = (struct snapshot_state){ 0 };
}

/* ---- reading ---- */

static int open_regular(int directory, const char *name, u64 *ret_size, struct err **err)
{
        _cleanup_close_ int fd = openat(directory, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0)
                return err_sys(err, errno, "opening its file '%s'", name);
        if (!S_ISREG(st.st_mode))
                return err_set(err, ERR_BAD_STATE, EINVAL, "its '%s' is not a file", name);
        *ret_size = (u64)st.st_size;
        return TAKE_FD(fd);
}

static int read_state(int directory, struct snapshot_state *ret, struct err **err)
{
        u64 size = 0;
        _cleanup_close_ int fd = open_regular(directory, SNAPSHOT_STATE, &size, err);
        u8 *data;
        size_t len = 0;

        if (fd < 0)
                return fd;
        if (size > STATE_FILE_MAX)
                return err_set(err, ERR_BAD_STATE, EFBIG, "its state is larger than any machine's");
        data = malloc(size + 1);
        if (!data)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a snapshot's state");
        while (len < size) {
                const ssize_t n = read(fd, data + len, size - len);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        break;
                len += (size_t)n;
        }
        return snapshot_state_parse(data, len, ret, err);
}

static int open_parts(struct snapshot *s, struct err **err)
{
        int r = read_state(s->directory, &s->state, err);

        for (unsigned i = 0; r == 0 && i < s->state.info.n_layers; i++) {
                char name[SNAPSHOT_NAME_SIZE];
                u64 size = 0;

                snapshot_layer_name(i, name);
                s->layers[i] = open_regular(s->directory, name, &size, err);
                if (s->layers[i] < 0)
                        r = s->layers[i];
                else if (size != s->state.info.ram_size)
                        r = err_set(err, ERR_BAD_STATE, EINVAL, "its file '%s' is not as large as the machine's memory", name);
        }
        return r;
}

int snapshot_open(const char *path, struct snapshot **ret, struct err **err)
{
        _cleanup_(snapshot_closep) struct snapshot *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a snapshot");
        for (unsigned i = 0; i < SNAPSHOT_LAYERS_MAX; i++)
                s->layers[i] = -1;
        s->code = -1;
        s->directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (s->directory < 0)
                return err_sys(err, errno, "opening the snapshot '%s'", path);
        r = open_parts(s, err);
        if (r < 0)
                return err_wrap(err, r, "the snapshot '%s' cannot be used", path);
        s->code = openat(s->directory, SNAPSHOT_CODE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        *ret = TAKE_PTR(s);
        return 0;
}

struct snapshot *snapshot_close(struct snapshot *s)
{
        if (!s)
                return NULL;
        snapshot_state_free(&s->state);
        for (unsigned i = 0; i < SNAPSHOT_LAYERS_MAX; i++)
                if (s->layers[i] >= 0)
                        close(s->layers[i]);
        if (s->code >= 0)
                close(s->code);
        if (s->directory >= 0)
                close(s->directory);
        free(s);
        return NULL;
}

bool snapshot_is_at(int directory)
{
        char start[sizeof(magic)];
        u64 size;
        _cleanup_close_ int fd = open_regular(directory, SNAPSHOT_STATE, &size, NULL);

        return fd >= 0 && read(fd, start, sizeof(start)) == (ssize_t)sizeof(start) && memcmp(start, magic, sizeof(magic)) == 0;
}
