#include "boot.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "elf_image.h"

size_t boot_map_build(u64 ram_size, struct boot_map_entry map[BOOT_MAP_MAX])
{
        const u64 low = MIN(ram_size, PCI_HOLE_START);
        size_t n = 0;

        map[n++] = (struct boot_map_entry){ 0, 0x9fc00, BOOT_MAP_RAM };
        map[n++] = (struct boot_map_entry){ 0x9fc00, MIB - 0x9fc00, BOOT_MAP_RESERVED };
        map[n++] = (struct boot_map_entry){ MIB, low - MIB, BOOT_MAP_RAM };
        /* Linux uses ECAM only where the memory map agrees that it is not free. */
        map[n++] = (struct boot_map_entry){ 0xe0000000, 0x10000000, BOOT_MAP_RESERVED };
        if (ram_size > low)
                map[n++] = (struct boot_map_entry){ PCI_HOLE_END, ram_size - low, BOOT_MAP_RAM };
        return n;
}

int boot_file_read(const char *path, const char *what, u64 max, struct boot_file *ret, struct err **err)
{
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        struct stat st;
        size_t len, done = 0;
        u8 *data;

        if (fd < 0)
                return err_sys(err, errno, "opening the %s '%s'", what, path);
        if (fstat(fd, &st) < 0)
                return err_sys(err, errno, "looking at the %s '%s'", what, path);
        if (!S_ISREG(st.st_mode))
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "the %s '%s' is not a regular file", what, path);
        if (st.st_size == 0)
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "the %s '%s' is empty", what, path);
        if ((u64)st.st_size > max)
                return err_hint(err,
                        err_set(err, ERR_TOO_LARGE, EFBIG, "the %s '%s' has %llu MiB, but at most %llu MiB fit", what,
                                path, (unsigned long long)(ALIGN_UP((u64)st.st_size, MIB) / MIB),
                                (unsigned long long)(max / MIB)),
                        "give the machine more memory with --memory, or check that this is the right file");
        len = (size_t)st.st_size;
        data = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (data == MAP_FAILED)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory to read the %s '%s'", what, path);
        madvise(data, len, MADV_HUGEPAGE); /* 13,000 faults less for a kernel of 50 MiB */
        while (done < len) {
                ssize_t n = read(fd, data + done, len - done);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0) {
                        int errnum = n < 0 ? errno : EIO;

                        munmap(data, len);
                        return err_sys(err, errnum, "reading the %s '%s'", what, path);
                }
                done += (size_t)n;
        }
        *ret = (struct boot_file){ data, len };
        return 0;
}

void boot_file_free(struct boot_file *file)
{
        if (file->data)
                munmap(file->data, file->len);
        *file = (struct boot_file){ 0 };
}

static int no_room(struct boot_load *load, const char *what, u64 size, struct err **err)
{
        int r = err_set(err, ERR_TOO_LARGE, ENOMEM,
                "the %s needs %llu MiB and does not fit into %llu MiB of guest memory", what,
                (unsigned long long)(ALIGN_UP(size, MIB) / MIB), (unsigned long long)(load->memory->ram_size / MIB));

        return err_hint(err, r, "give the machine more with --memory");
}

static bool is_zero_page(const u8 *page)
{
        return page[0] == 0 && memcmp(page, page + 1, PAGE_SIZE - 1) == 0;
}

/* A fifth of a vmlinux are zeros (its .bss is in the file): pages of them stay what fresh guest memory is, and cost the host nothing. */
static void copy_but_zeros(u8 *to, const u8 *from, u64 len)
{
        while (len >= PAGE_SIZE) {
                if (!is_zero_page(from))
                        memcpy(to, from, PAGE_SIZE);
                to += PAGE_SIZE;
                from += PAGE_SIZE;
                len -= PAGE_SIZE;
        }
        memcpy(to, from, len);
}

/* Whether a segment before this one wrote to the same memory. */
static bool overlaps_another(const struct elf_image *image, size_t index)
{
        const struct elf_segment *s = &image->segments[index];

        for (size_t i = 0; i < index; i++) {
                const struct elf_segment *before = &image->segments[i];

                if (before->paddr < s->paddr + s->file_size && s->paddr < before->paddr + before->file_size)
                        return true;
        }
        return false;
}

int boot_load_segments(
        struct boot_load *load, const void *elf, const struct elf_image *image, u64 lowest, struct err **err)
{
        if (image->load_start < lowest)
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "the kernel wants to be loaded at 0x%llx, below 0x%llx",
                        (unsigned long long)image->load_start, (unsigned long long)lowest);
        if (!guest_memory_is_ram(load->memory, image->load_start, image->load_end - image->load_start))
                return no_room(load, "kernel", image->load_end, err);
        for (size_t i = 0; i < image->n_segments; i++) {
                const struct elf_segment *s = &image->segments[i];
                u8 *hva = guest_memory_hva(load->memory, s->paddr, s->memory_size);

                if (!hva)
                        return no_room(load, "kernel", image->load_end, err);
                /* Fresh guest memory is zero, but segments may overlap each other's tails. */
                if (overlaps_another(image, i))
                        memcpy(hva, (const u8 *)elf + s->offset, s->file_size);
                else
                        copy_but_zeros(hva, (const u8 *)elf + s->offset, s->file_size);
        }
        return 0;
}

int boot_place_initrd(struct boot_load *load, u64 floor, u64 limit, u64 *ret, struct err **err)
{
        const u64 top = MIN(MIN(load->memory->ram_size, PCI_HOLE_START), limit);
        u64 base;
        int r;

        *ret = 0;
        if (load->initrd.len == 0)
                return 0;
        if (load->initrd.len > top)
                return no_room(load, "initrd", load->initrd.len, err);
        base = ALIGN_DOWN(top - load->initrd.len, PAGE_SIZE);
        if (base < floor)
                return no_room(load, "kernel with its initrd", floor + load->initrd.len, err);
        r = boot_write(load, base, load->initrd.data, load->initrd.len, err);
        if (r < 0)
                return r;
        *ret = base;
        return 0;
}

int boot_write(struct boot_load *load, u64 gpa, const void *src, size_t len, struct err **err)
{
        int r = guest_memory_write(load->memory, gpa, src, len);

        if (r < 0)
                return err_set(
                        err, ERR_TOO_LARGE, -r, "guest memory ends before 0x%llx", (unsigned long long)(gpa + len));
        return 0;
}

int boot_write_cmdline(struct boot_load *load, size_t max, struct err **err)
{
        const char *append = load->config->append ? load->config->append : "";
        const size_t len = strlen(append);

        if (len > max)
                return err_set(err, ERR_TOO_LARGE, E2BIG,
                        "the kernel command line has %zu characters, the kernel takes %zu", len, max);
        return boot_write(load, BOOT_CMDLINE, append, len + 1, err);
}

static int unknown_kernel(struct err **err)
{
        int r = err_set(err, ERR_BAD_IMAGE, EINVAL, "this is not a kernel that can be booted");

        return err_hint(err, r, "expected is a bzImage, an ELF vmlinux, a PVH kernel or a multiboot 1 kernel for x86");
}

static int load_elf_kernel(struct boot_load *load, const void *elf, size_t len, enum vm_boot protocol, struct err **err)
{
        load->protocol = protocol == VM_BOOT_PVH ? VM_BOOT_PVH : VM_BOOT_LINUX64;
        if (protocol == VM_BOOT_PVH)
                return boot_pvh(load, elf, len, err);
        return boot_linux64(load, elf, len, err);
}

static int load_kernel(struct boot_load *load, struct err **err)
{
        const enum kernel_kind kind = kernel_image_kind(load->kernel.data, load->kernel.len);
        enum vm_boot protocol = load->config->protocol;
        _cleanup_free_ void *unpacked = NULL;
        size_t unpacked_len;
        struct elf_image image;
        int r;

        switch (kind) {
        case KERNEL_BZIMAGE:
                if (protocol == VM_BOOT_MULTIBOOT)
                        break;
                r = kernel_image_unpack(load->kernel.data, load->kernel.len, &unpacked, &unpacked_len, err);
                if (r < 0)
                        return r;
                return load_elf_kernel(load, unpacked, unpacked_len, protocol, err);
        case KERNEL_ELF64:
                if (protocol == VM_BOOT_MULTIBOOT)
                        break;
                r = elf_image_parse(load->kernel.data, load->kernel.len, &image, err);
                if (r < 0)
                        return r;
                if (protocol == VM_BOOT_AUTO && !image.has_pvh_entry && !image.upper_half)
                        return unknown_kernel(err); /* any program */
                if (protocol == VM_BOOT_AUTO && image.has_pvh_entry)
                        protocol = VM_BOOT_PVH;
                return load_elf_kernel(load, load->kernel.data, load->kernel.len, protocol, err);
        case KERNEL_MULTIBOOT:
                if (protocol != VM_BOOT_AUTO && protocol != VM_BOOT_MULTIBOOT)
                        break;
                load->protocol = VM_BOOT_MULTIBOOT;
                return boot_multiboot(load, err);
        case KERNEL_UNKNOWN:
                return unknown_kernel(err);
        }
        r = err_set(err, ERR_UNSUPPORTED, EINVAL, "this file cannot be booted by that protocol");
        return err_hint(err, r, "leave out --boot to let the file decide");
}

int boot_load(const struct boot_config *config, struct guest_memory *memory, struct cpu_state *bsp,
        enum vm_boot *ret_protocol, struct err **err)
{
        struct boot_load load = { .config = config, .memory = memory, .bsp = bsp };
        int r;

        load.n_map = boot_map_build(memory->ram_size, load.map);
        r = boot_file_read(config->kernel_path, "kernel", KERNEL_UNPACKED_MAX, &load.kernel, err);
        if (r == 0 && config->initrd_path)
                r = boot_file_read(config->initrd_path, "initrd", memory->ram_size, &load.initrd, err);
        if (r == 0) {
                r = load_kernel(&load, err);
                if (r < 0)
                        r = err_wrap(err, r, "loading the kernel '%s'", config->kernel_path);
        }
        boot_file_free(&load.kernel);
        boot_file_free(&load.initrd);
        if (r == 0)
                *ret_protocol = load.protocol;
        return r;
}
