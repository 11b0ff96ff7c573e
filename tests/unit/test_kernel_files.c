/* Kernels of machines: the store, strata-init in the initial RAM disk, modules and what they need, damaged files.
 * The kernels are small ones made here; tests/integration/kernel.sh has Debian's. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "image_util.h"
#include "instance/internal.h"
#include "instance/kernel.h"
#include "instance/kernel_modules.h"

#define RELEASE "6.9.9-test"

struct fixture {
        struct temp_dir dir;
        struct instance_host *host;
        char programs[300], image[300], modules[300];
};

static void write_file(const char *dir, const char *name, const void *data, size_t len)
{
        char path[400];
        FILE *f;

        snprintf(path, sizeof(path), "%s/%s", dir, name);
        f = fopen(path, "we");
        assert_non_null(f);
        assert_int_equal(fwrite(data, 1, len, f), len);
        fclose(f);
}

static void set_init(const struct fixture *f, const char *text)
{
        write_file(f->programs, "strata-init", text, strlen(text));
}

/* --- small ELF files ---------------------------------------------------------------------------------------------- */

static size_t make_vmlinux(u8 *out, const char *banner)
{
        const size_t size = 8192, at = sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr);
        const Elf64_Ehdr elf = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
                .e_type = ET_EXEC,
                .e_machine = EM_X86_64,
                .e_entry = 0x1000000,
                .e_phoff = sizeof(Elf64_Ehdr),
                .e_phentsize = sizeof(Elf64_Phdr),
                .e_phnum = 1 };
        const Elf64_Phdr load = { .p_type = PT_LOAD,
                .p_vaddr = 0xffffffff81000000,
                .p_paddr = 0x1000000,
                .p_filesz = size,
                .p_memsz = size };

        memset(out, 0, size);
        memcpy(out, &elf, sizeof(elf));
        memcpy(out + sizeof(elf), &load, sizeof(load));
        memcpy(out + at, banner, strlen(banner));
        return size;
}

/* A module with nothing in it but what it says of itself. */
static size_t make_module(u8 *out, const char *depends)
{
        static const char names[] = "\0.modinfo\0.shstrtab";
        const size_t info_at = sizeof(Elf64_Ehdr);
        const int info_len =
                sprintf((char *)out + info_at, "license=GPL%cdepends=%s%cvermagic=" RELEASE " SMP", 0, depends, 0) + 1;
        const size_t names_at = info_at + (size_t)info_len, table_at = ALIGN_UP(names_at + sizeof(names), 8);
        const Elf64_Shdr table[] = { { .sh_type = SHT_NULL },
                { .sh_name = 1, .sh_type = SHT_PROGBITS, .sh_offset = info_at, .sh_size = (size_t)info_len },
                { .sh_name = 10, .sh_type = SHT_STRTAB, .sh_offset = names_at, .sh_size = sizeof(names) } };
        const Elf64_Ehdr elf = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
                .e_type = ET_REL,
                .e_machine = EM_X86_64,
                .e_shoff = table_at,
                .e_shentsize = sizeof(Elf64_Shdr),
                .e_shnum = ARRAY_SIZE(table),
                .e_shstrndx = 2 };

        memcpy(out, &elf, sizeof(elf));
        memcpy(out + names_at, names, sizeof(names));
        memcpy(out + table_at, table, sizeof(table));
        return table_at + sizeof(table);
}

static void add_module(const char *dir, const char *file, const char *depends)
{
        u8 data[4096] = { 0 };

        write_file(dir, file, data, make_module(data, depends));
}

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));
        u8 kernel[8192];

        f->dir = temp_dir_new();
        snprintf(f->programs, sizeof(f->programs), "%s/programs", f->dir.path);
        snprintf(f->modules, sizeof(f->modules), "%s/modules", f->dir.path);
        snprintf(f->image, sizeof(f->image), "%s/vmlinux", f->dir.path);
        assert_int_equal(mkdir(f->programs, 0755), 0);
        assert_int_equal(mkdir(f->modules, 0755), 0);
        make_vmlinux(kernel, "Linux version %s (a format, which is none)");
        snprintf((char *)kernel + 4000, 100, "Linux version " RELEASE " (gcc) #1 SMP");
        write_file(f->dir.path, "vmlinux", kernel, sizeof(kernel));
        set_init(f, "the first program");
        setenv("STRATA_IMAGE_ROOT", "", 1);
        setenv("STRATA_PROGRAMS", f->programs, 1);
        assert_int_equal(instance_host_open(&(struct instance_host_options){ .root = f->dir.path }, &f->host, NULL), 0);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;

        instance_host_close(f->host);
        temp_dir_remove(&f->dir);
        free(f);
        return 0;
}

/* The four that there must be, "net" needing two more, one of them through the other. */
static void add_modules(const struct fixture *f)
{
        add_module(f->modules, "virtio_pci.ko", "");
        add_module(f->modules, "vmw_vsock_virtio_transport.ko", "");
        add_module(f->modules, "virtiofs.ko", "virtio_pci");
        add_module(f->modules, "virtio_net.ko", "one-thing,virtio_pci");
        add_module(f->modules, "one-thing.ko", "another_thing");
        add_module(f->modules, "another-thing.ko", "");
        add_module(f->modules, "not_wanted.ko", "virtio_net");
}

static bool holds(const char *path, const char *text)
{
        _cleanup_free_ char *data = NULL;
        size_t len = 0;

        assert_int_equal(io_read_file(AT_FDCWD, path, MIB, &data, &len, NULL), 0);
        return memmem(data, len, text, strlen(text)) != NULL;
}

static int import(const struct fixture *f, const char *name, struct err **err)
{
        return kernel_import(
                f->host, &(struct kernel_import){ .name = name, .file = f->image, .modules = f->modules }, err);
}

/* --- the store ---------------------------------------------------------------------------------------------------- */

static void a_kernel_that_was_imported_is_got(void **state)
{
        struct fixture *f = *state;
        _cleanup_(kernel_freep) struct kernel *kernel = NULL;

        add_modules(f);
        assert_int_equal(import(f, "k", NULL), 0);
        assert_int_equal(kernel_get(f->host, "k", NULL, NULL, &kernel, NULL), 0);
        assert_string_equal(kernel->release, RELEASE);
        assert_true(holds(kernel->image, "\177ELF"));
        assert_true(holds(kernel->initrd, "the first program"));
        assert_true(holds(kernel->initrd,
                "/drivers/virtio_pci.ko\n/drivers/vmw_vsock_virtio_transport.ko\n/drivers/virtiofs.ko\n"
                "/drivers/another_thing.ko\n/drivers/one_thing.ko\n/drivers/virtio_net.ko\n"));
        assert_false(holds(kernel->initrd, "not_wanted"));
}

static void another_strata_init_makes_another_disk(void **state)
{
        struct fixture *f = *state;
        _cleanup_(kernel_freep) struct kernel *before = NULL, *after = NULL;

        add_modules(f);
        assert_int_equal(import(f, "k", NULL), 0);
        assert_int_equal(kernel_get(f->host, "k", NULL, NULL, &before, NULL), 0);
        set_init(f, "a newer first program");
        assert_int_equal(kernel_get(f->host, "k", NULL, NULL, &after, NULL), 0);
        assert_true(holds(after->initrd, "a newer first program"));
        assert_false(holds(after->initrd, "the first program"));
        assert_true(holds(after->initrd, "/drivers/virtio_net.ko\n"));
        assert_string_equal(before->created, after->created);
}

static int count(void *opaque, const struct kernel *kernel)
{
        ++*(unsigned *)opaque;
        return 0;
}

static void what_is_not_there_is_an_error(void **state)
{
        struct fixture *f = *state;
        struct kernel *kernel = NULL;
        struct err *err = NULL;
        unsigned n = 0;

        assert_int_equal(kernel_get(f->host, "nothing", NULL, NULL, &kernel, &err), -ENOENT);
        assert_int_equal(err_get_id(err), ERR_NOT_FOUND);
        err = err_free(err);
        assert_int_equal(kernel_remove(f->host, "nothing", &err), -ENOENT);
        err = err_free(err);
        assert_true(kernel_get(f->host, "../x", NULL, NULL, &kernel, &err) < 0);
        err = err_free(err);
        assert_int_equal(kernel_list(f->host, count, &n, NULL), 0);
        assert_int_equal(n, 0);
}

static void the_release_is_a_name(void **state)
{
        static const char *const wrong[] = { "Linux version ../../x (", "Linux version  (", "Linux version 6.1",
                "Linux version 6.1/2 (",
                "Linux version 6.1.0-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa (" };
        struct fixture *f = *state;
        u8 data[8192];

        add_modules(f);
        for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
                struct err *err = NULL;

                write_file(f->dir.path, "vmlinux", data, make_vmlinux(data, wrong[i]));
                assert_int_equal(import(f, "k", &err), -EINVAL);
                assert_int_equal(err_get_id(err), ERR_BAD_IMAGE);
                err_free(err);
        }
}

/* --- modules ------------------------------------------------------------------------------------------------------ */

static int write_modules(const struct fixture *f, struct err **err)
{
        _cleanup_close_ int dir = open(f->modules, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        _cleanup_free_ char *text = NULL;
        size_t len = 0;
        FILE *out = open_memstream(&text, &len);
        int r = kernel_modules_write(dir, RELEASE, out, err);

        fclose(out);
        return r;
}

static void what_is_built_in_needs_no_file(void **state)
{
        static const char list[] = "kernel/drivers/virtio/virtio_pci.ko\nkernel/a/one-thing.ko\n";
        struct fixture *f = *state;

        char path[400];

        add_modules(f);
        write_file(f->modules, "modules.builtin", list, strlen(list));
        snprintf(path, sizeof(path), "%s/one-thing.ko", f->modules);
        unlink(path);
        snprintf(path, sizeof(path), "%s/virtio_pci.ko", f->modules);
        unlink(path);
        assert_int_equal(write_modules(f, NULL), 0);
}

static void a_long_chain_ends(void **state)
{
        struct fixture *f = *state;
        struct err *err = NULL;
        char file[32], needs[32];

        add_modules(f);
        for (unsigned i = 0; i < 100; i++) {
                snprintf(file, sizeof(file), "m%u.ko", i);
                snprintf(needs, sizeof(needs), "m%u", i + 1);
                add_module(f->modules, file, needs);
        }
        add_module(f->modules, "virtiofs.ko", "m0");
        assert_int_equal(write_modules(f, &err), -ELOOP);
        err_free(err);
}

/* Each byte, and each length: an error or none, but nothing else. */
static void damaged_modules_harm_nobody(void **state)
{
        struct fixture *f = *state;
        u8 data[4096] = { 0 };
        const size_t len = make_module(data, "virtio_pci");
        unsigned refused = 0;

        add_modules(f);
        for (size_t i = 0; i < len; i++) {
                const u8 before = data[i];
                struct err *err = NULL;

                for (unsigned v = 0; v < 3; v++) {
                        data[i] = (u8)(v == 0 ? ~before : v == 1 ? 0 : 0xff);
                        write_file(f->modules, "virtiofs.ko", data, len);
                        refused += write_modules(f, &err) < 0;
                        err = err_free(err);
                }
                data[i] = before;
                write_file(f->modules, "virtiofs.ko", data, i);
                assert_true(write_modules(f, &err) < 0);
                err_free(err);
        }
        assert_true(refused > 100);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(a_kernel_that_was_imported_is_got),
                TEST(another_strata_init_makes_another_disk),
                TEST(what_is_not_there_is_an_error),
                TEST(the_release_is_a_name),
                TEST(what_is_built_in_needs_no_file),
                TEST(a_long_chain_ends),
                TEST(damaged_modules_harm_nobody),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
