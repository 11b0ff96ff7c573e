/* What needs what is read from the modules themselves (their section .modinfo), not from modules.dep: that file is
 * made when a package is installed, and a package that is only unpacked has none. */
#include "kernel_modules.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <lzma.h>
#include <string.h>
#include <sys/stat.h>

#include "base/arena.h"
#include "cpio.h"
#include "image/compress.h"
#include "image/io.h"

enum {
        MODULES_MAX = 32768, /* of a kernel; Debian's largest has 4,000 */
        DEPTH_MAX = 16,      /* of the directories, and of what needs what */
        NAME_LEN_MAX = 63,   /* MODULE_NAME_LEN of the kernel */
};
#define MODULE_MAX (32 * MIB) /* unpacked */
#define ALL_MAX    (96 * MIB) /* of those that are wanted */

static const struct wanted {
        const char *name;
        bool needed;
        const char *why;
} wanted[] = {
        { "virtio_pci", true, "find its devices" },
        { "vmw_vsock_virtio_transport", true, "be talked to" },
        { "virtiofs", true, "have a root directory" },
        { "virtio_net", true, "be on a network" },
        { "virtio_rng", false, NULL },
        { "virtio_balloon", false, NULL },
        { "virtio_blk", false, NULL },
        { "af_packet", false, NULL },
};

/* --- which modules there are -------------------------------------------------------------------------------------- */

enum progress { UNSEEN, BEGUN, WRITTEN };

struct module {
        const char *name; /* with '_' for '-', as the kernel has it */
        const char *path; /* below the directory; NULL: built in */
        enum progress progress;
};

struct modules {
        struct arena arena;
        int dir;
        const char *release;
        struct module *item;
        size_t n, room;
        /* the walk */
        char path[1024];
        unsigned depth;
        /* what is written */
        struct cpio cpio;
        FILE *list;
        u64 bytes;
        unsigned nesting;
};

static bool module_name(const char *file, size_t len, char ret[NAME_LEN_MAX + 1])
{
        if (len == 0 || len > NAME_LEN_MAX)
                return false;
        for (size_t i = 0; i < len; i++) {
                const char c = file[i] == '-' ? '_' : file[i];

                if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_", c) || !c)
                        return false;
                ret[i] = c;
        }
        ret[len] = '\0';
        return true;
}

static int add_module(struct modules *m, const char *file, const char *path, struct err **err)
{
        const char *slash = strrchr(file, '/'), *base = slash ? slash + 1 : file, *end = strstr(base, ".ko");
        char name[NAME_LEN_MAX + 1];
        struct module *item;

        if (!end || !module_name(base, (size_t)(end - base), name))
                return 0; /* another file */
        if (m->n == m->room) {
                item = m->room < MODULES_MAX ? realloc(m->item, (m->room * 2 + 256) * sizeof(*item)) : NULL;
                if (!item)
                        return err_set(err, ERR_TOO_LARGE, E2BIG, "more than %d modules", MODULES_MAX);
                m->item = item;
                m->room = m->room * 2 + 256;
        }
        item = &m->item[m->n];
        *item = (struct module){ .name = arena_strdup(&m->arena, name),
                .path = path ? arena_strdup(&m->arena, path) : NULL };
        if (!item->name || (path && !item->path))
                return err_sys(err, ENOMEM, "looking for modules");
        m->n++;
        return 0;
}

static int visit(void *opaque, int dirfd, const char *name, struct err **err)
{
        struct modules *m = opaque;
        const size_t len = strlen(m->path);
        struct stat st;
        int r = 0;

        if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode)))
                return 0;
        if (m->depth == DEPTH_MAX || len + strlen(name) + 2 > sizeof(m->path))
                return err_set(err, ERR_BAD_IMAGE, ELOOP, "the directories of the modules are too deep");
        sprintf(m->path + len, "%s%s", len ? "/" : "", name);
        if (S_ISREG(st.st_mode)) {
                r = add_module(m, name, m->path, err);
        } else {
                m->depth++;
                r = io_list_dir(dirfd, name, visit, m, err);
                m->depth--;
        }
        m->path[len] = '\0';
        return r;
}

/* A file beside the modules: the path of each as if it were one. */
static int add_built_in(struct modules *m, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        char *rest, *line;
        int r = io_read_file(m->dir, "modules.builtin", MIB, &text, NULL, NULL);

        if (r < 0)
                return 0; /* what is missing will be said */
        for (rest = text; r == 0 && (line = strsep(&rest, "\n"));)
                r = add_module(m, line, NULL, err);
        return r;
}

static int by_name(const void *a, const void *b)
{
        const struct module *x = a, *y = b;
        const int r = strcmp(x->name, y->name);

        /* of two with a name the one that is built in, then the shorter path: of a package's own directories */
        return r ? r : !x->path || !y->path ? !!x->path - !!y->path : strcmp(x->path, y->path);
}

static struct module *find_module(const struct modules *m, const char *name)
{
        size_t low = 0, high = m->n;

        while (low < high) {
                const size_t middle = (low + high) / 2;

                if (strcmp(m->item[middle].name, name) < 0)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low < m->n && strcmp(m->item[low].name, name) == 0 ? &m->item[low] : NULL;
}

/* --- reading one -------------------------------------------------------------------------------------------------- */

struct blob {
        u8 *data;
        size_t len;
};

static void blob_free(struct blob *blob)
{
        free(blob->data);
}

static int unpack_xz(const struct blob *in, struct blob *ret)
{
        u64 memory = 128 * MIB;
        size_t in_at = 0, out_at = 0;
        u8 *out = malloc(MODULE_MAX), *shorter;

        if (!out)
                return -ENOMEM;
        if (lzma_stream_buffer_decode(&memory, 0, NULL, in->data, &in_at, in->len, out, &out_at, MODULE_MAX) !=
                LZMA_OK) {
                free(out);
                return -EBADMSG;
        }
        shorter = realloc(out, out_at + 1);
        *ret = (struct blob){ shorter ? shorter : out, out_at };
        return 0;
}

static int whole(void *opaque, const u8 **ret_data, size_t *ret_len, struct err **err)
{
        struct blob *in = opaque;

        *ret_data = in->data;
        *ret_len = in->len;
        in->len = 0;
        return 0;
}

/* gzip, zstd, or as it is */
static int unpack_other(const struct blob *in, struct blob *ret, struct err **err)
{
        struct blob left = *in;
        _cleanup_(decompressor_freep) struct decompressor *d = NULL;
        u8 *out = malloc(MODULE_MAX), *shorter;
        size_t len = 0;
        int r = out ? decompressor_new(&(struct byte_source){ whole, &left }, &d, err) : -ENOMEM;

        if (r == 0)
                r = decompressor_read(d, out, MODULE_MAX, &len, err);
        if (r == 0 && len == MODULE_MAX)
                r = -EFBIG;
        if (r < 0) {
                free(out);
                return r;
        }
        shorter = realloc(out, len + 1);
        *ret = (struct blob){ shorter ? shorter : out, len };
        return 0;
}

static int read_module(const struct modules *m, const struct module *module, struct blob *ret, struct err **err)
{
        _cleanup_(blob_free) struct blob file = { NULL, 0 };
        char *data = NULL;
        int r = io_read_file(m->dir, module->path, MODULE_MAX, &data, &file.len, err);

        if (r < 0)
                return r;
        file.data = (u8 *)data;
        if (file.len >= 6 && memcmp(file.data,
                                     "\xfd"
                                     "7zXZ",
                                     6) == 0)
                r = unpack_xz(&file, ret);
        else
                r = unpack_other(&file, ret, err);
        return r < 0 && !(err && *err) ? err_set(err, ERR_BAD_IMAGE, -r, "its compressed data is damaged") : r;
}

/* A signature is what the kernel checks before it looks at a module, a quarter of a megabyte of hashing and an RSA
 * operation in all; it takes a module without one as well, and what we load comes from our own initial RAM disk.
 * Source: include/linux/module_signature.h. */
static void drop_signature(struct blob *module)
{
        static const char mark[] = "~Module signature appended~\n";
        enum { INFO = 12, MARK = sizeof(mark) - 1 };
        const u8 *info;
        u64 len;

        if (module->len < INFO + MARK || memcmp(module->data + module->len - MARK, mark, MARK) != 0)
                return;
        info = module->data + module->len - MARK - INFO;
        len = (u64)info[8] << 24 | (u64)info[9] << 16 | (u64)info[10] << 8 | info[11];
        if (len <= module->len - MARK - INFO)
                module->len -= (size_t)len + MARK + INFO;
}

/* --- .modinfo ----------------------------------------------------------------------------------------------------- */

struct section {
        const char *data;
        size_t len;
};

static int bad_module(struct err **err, const char *what)
{
        return err_set(err, ERR_BAD_IMAGE, EBADMSG, "%s", what);
}

static bool inside(const struct blob *file, u64 offset, u64 len)
{
        return offset <= file->len && len <= file->len - offset;
}

/* Section header @i of an ELF file whose table has been checked. */
static Elf64_Shdr header_of(const struct blob *file, const Elf64_Ehdr *elf, unsigned i)
{
        Elf64_Shdr header;

        memcpy(&header, file->data + elf->e_shoff + (u64)i * sizeof(header), sizeof(header));
        return header;
}

static int find_modinfo(const struct blob *file, struct section *ret, struct err **err)
{
        Elf64_Ehdr elf;
        Elf64_Shdr names;

        if (file->len < sizeof(elf))
                return bad_module(err, "it is too short for a module");
        memcpy(&elf, file->data, sizeof(elf));
        if (memcmp(elf.e_ident, ELFMAG, SELFMAG) != 0 || elf.e_ident[EI_CLASS] != ELFCLASS64 ||
                elf.e_ident[EI_DATA] != ELFDATA2LSB || elf.e_type != ET_REL || elf.e_machine != EM_X86_64)
                return bad_module(err, "it is no module for x86-64");
        if (elf.e_shentsize != sizeof(Elf64_Shdr) || elf.e_shstrndx >= elf.e_shnum ||
                !inside(file, elf.e_shoff, (u64)elf.e_shnum * sizeof(Elf64_Shdr)))
                return bad_module(err, "its section headers are damaged");
        names = header_of(file, &elf, elf.e_shstrndx);
        if (!inside(file, names.sh_offset, names.sh_size))
                return bad_module(err, "its section names are damaged");
        for (unsigned i = 0; i < elf.e_shnum; i++) {
                static const char name[] = ".modinfo";
                const Elf64_Shdr header = header_of(file, &elf, i);

                if (header.sh_type != SHT_PROGBITS || header.sh_name > names.sh_size ||
                        names.sh_size - header.sh_name < sizeof(name) ||
                        memcmp(file->data + names.sh_offset + header.sh_name, name, sizeof(name)) != 0)
                        continue;
                if (!inside(file, header.sh_offset, header.sh_size) || header.sh_size == 0 ||
                        file->data[header.sh_offset + header.sh_size - 1] != '\0')
                        return bad_module(err, "its section .modinfo is damaged");
                *ret = (struct section){ (const char *)file->data + header.sh_offset, header.sh_size };
                return 0;
        }
        return bad_module(err, "it has no section .modinfo");
}

/* The value behind "KEY=", which is in the section's texts; "" when it is not there. */
static const char *modinfo(const struct section *info, const char *key)
{
        const size_t len = strlen(key);

        for (const char *p = info->data; p < info->data + info->len; p += strlen(p) + 1)
                if (strncmp(p, key, len) == 0 && p[len] == '=')
                        return p + len + 1;
        return "";
}

static int check_release(const struct modules *m, const struct section *info, struct err **err)
{
        const char *magic = modinfo(info, "vermagic");
        const size_t len = strcspn(magic, " ");

        if (strlen(m->release) == len && memcmp(magic, m->release, len) == 0)
                return 0;
        return err_set(err, ERR_BAD_IMAGE, EINVAL, "it is for the kernel %.*s, not for %s", (int)MIN(len, (size_t)64),
                magic, m->release);
}

/* --- writing them ------------------------------------------------------------------------------------------------- */

static int write_module(struct modules *m, struct module *module, struct err **err);

static int write_what_it_needs(struct modules *m, const char *list, struct err **err)
{
        int r = 0;

        while (r == 0 && *list) {
                const size_t len = strcspn(list, ",");
                char name[NAME_LEN_MAX + 1];
                struct module *other = module_name(list, len, name) ? find_module(m, name) : NULL;

                r = other ? write_module(m, other, err)
                          : err_set(err, ERR_BAD_IMAGE, ENOENT, "it needs '%.*s', which is not there",
                                    (int)MIN(len, (size_t)NAME_LEN_MAX), list);
                list += len + (list[len] == ',');
        }
        return r;
}

static int write_contents(struct modules *m, struct module *module, struct err **err)
{
        _cleanup_(blob_free) struct blob file = { NULL, 0 };
        char path[NAME_LEN_MAX + 16];
        struct section info = { NULL, 0 };
        int r = read_module(m, module, &file, err);

        m->bytes += file.len;
        if (r == 0 && m->bytes > ALL_MAX)
                r = err_set(err, ERR_TOO_LARGE, EFBIG, "the modules have more than %llu MiB", ALL_MAX / MIB);
        if (r == 0)
                r = find_modinfo(&file, &info, err);
        if (r == 0)
                r = check_release(m, &info, err);
        if (r == 0)
                r = write_what_it_needs(m, modinfo(&info, "depends"), err);
        if (r < 0)
                return r;
        drop_signature(&file);
        snprintf(path, sizeof(path), "drivers/%s.ko", module->name);
        cpio_file(&m->cpio, path, 0400, file.data, file.len);
        fprintf(m->list, "/%s\n", path);
        return 0;
}

static int write_module(struct modules *m, struct module *module, struct err **err)
{
        int r;

        if (!module->path || module->progress == WRITTEN)
                return 0;
        if (module->progress == BEGUN || m->nesting == DEPTH_MAX)
                return err_set(err, ERR_BAD_IMAGE, ELOOP,
                        "what the module '%s' needs goes round in circles, or too deep", module->name);
        module->progress = BEGUN;
        m->nesting++;
        r = write_contents(m, module, err);
        m->nesting--;
        module->progress = WRITTEN;
        return r < 0 ? err_wrap(err, r, "the module '%s'", module->name) : 0;
}

static int write_wanted(struct modules *m, struct err **err)
{
        int r = 0;

        for (size_t i = 0; r == 0 && i < ARRAY_SIZE(wanted); i++) {
                struct module *module = find_module(m, wanted[i].name);

                if (module)
                        r = write_module(m, module, err);
                else if (wanted[i].needed)
                        r = err_set(err, ERR_BAD_IMAGE, ENOENT,
                                "the kernel %s has no '%s', neither as a module nor built in: a machine needs it to %s",
                                m->release, wanted[i].name, wanted[i].why);
        }
        return r;
}

static int find_all(struct modules *m, struct err **err)
{
        int r = io_list_dir(m->dir, ".", visit, m, err);

        if (r == 0)
                r = add_built_in(m, err);
        if (m->n)
                qsort(m->item, m->n, sizeof(*m->item), by_name);
        return r;
}

int kernel_modules_write(int dir, const char *release, FILE *out, struct err **err)
{
        struct modules m = { .dir = dir, .release = release, .cpio = { out, 1000 } };
        char *list = NULL;
        size_t list_len = 0;
        int r = 0;

        m.list = open_memstream(&list, &list_len);
        if (!m.list)
                return err_sys(err, ENOMEM, "collecting modules");
        cpio_dir(&m.cpio, "drivers");
        if (dir >= 0) {
                r = find_all(&m, err);
                if (r == 0)
                        r = write_wanted(&m, err);
        }
        if (fclose(m.list) != 0 && r == 0)
                r = err_sys(err, ENOMEM, "collecting modules");
        if (r == 0) {
                cpio_file(&m.cpio, "modules", 0400, list, list_len);
                cpio_end(&m.cpio);
                if (ferror(out))
                        r = err_sys(err, EIO, "writing the modules");
        }
        free(list);
        free(m.item);
        arena_release(&m.arena);
        return r;
}
