#include "vm_files.h"

#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vm/multiboot.h"

static void append(struct vm_file *file, const void *p, size_t n)
{
        memcpy(file->data + file->len, p, n);
        file->len += n;
}

void vm_file_elf64(struct vm_file *file, u64 paddr, const void *code, size_t code_len, u32 pvh_entry)
{
        const struct {
                Elf64_Nhdr header;
                char name[4];
                u32 entry;
        } note = { { 4, 4, 18 }, "Xen", pvh_entry };
        Elf64_Ehdr h = { .e_type = ET_EXEC,
                .e_machine = EM_X86_64,
                .e_version = 1,
                .e_entry = paddr,
                .e_phoff = sizeof(h),
                .e_ehsize = sizeof(h),
                .e_phentsize = sizeof(Elf64_Phdr),
                .e_phnum = pvh_entry ? 2 : 1 };
        const u64 data = sizeof(h) + 2 * sizeof(Elf64_Phdr);
        const Elf64_Phdr ph[2] = {
                { .p_type = PT_LOAD,
                        .p_offset = data,
                        .p_vaddr = 0xffffffff80000000ULL + paddr,
                        .p_paddr = paddr,
                        .p_filesz = code_len,
                        .p_memsz = code_len + 4096 },
                { .p_type = PT_NOTE, .p_offset = data + code_len, .p_filesz = sizeof(note), .p_memsz = sizeof(note) },
        };

        memcpy(h.e_ident, ELFMAG, SELFMAG);
        h.e_ident[EI_CLASS] = ELFCLASS64;
        h.e_ident[EI_DATA] = ELFDATA2LSB;
        file->len = 0;
        append(file, &h, sizeof(h));
        append(file, ph, sizeof(ph));
        append(file, code, code_len);
        append(file, &note, sizeof(note));
}

void vm_file_bzimage(struct vm_file *file, const void *payload, size_t len, u32 size)
{
        u8 setup[1024] = { 0 };
        const u32 payload_offset = 16, payload_len = (u32)len + (size ? 4 : 0), initrd_max = 0x7fffffff,
                  cmdline_max = 2047;
        const u8 stub[16] = { 0 };

        setup[0x1f1] = 1; /* one more sector */
        setup[0x1fe] = 0x55;
        setup[0x1ff] = 0xaa;
        setup[0x200] = 0xeb;
        setup[0x201] = 0x66;
        memcpy(setup + 0x202, "HdrS", 4);
        setup[0x206] = 0x0f;
        setup[0x207] = 0x02;
        memcpy(setup + 0x22c, &initrd_max, 4);
        memcpy(setup + 0x238, &cmdline_max, 4);
        memcpy(setup + 0x248, &payload_offset, 4);
        memcpy(setup + 0x24c, &payload_len, 4);
        file->len = 0;
        append(file, setup, sizeof(setup));
        append(file, stub, sizeof(stub));
        append(file, payload, len);
        if (size)
                append(file, &size, 4);
}

void vm_file_multiboot(struct vm_file *file, u32 load_address, const void *code, size_t code_len)
{
        struct multiboot_header h = {
                .magic = MULTIBOOT_HEADER_MAGIC,
                .flags = MULTIBOOT_LOAD_ADDRESSES,
                .header_addr = load_address,
                .load_addr = load_address,
                .load_end_addr = load_address + (u32)(sizeof(h) + code_len),
                .bss_end_addr = load_address + (u32)(sizeof(h) + code_len) + 4096,
                .entry_addr = load_address + (u32)sizeof(h),
        };

        h.checksum = -(h.magic + h.flags);
        file->len = 0;
        append(file, &h, sizeof(h));
        append(file, code, code_len);
}

void vm_file_write(const struct vm_file *file, char ret_path[64])
{
        int fd;

        strcpy(ret_path, "/tmp/strata-test-XXXXXX");
        fd = mkstemp(ret_path);
        if (fd < 0 || write(fd, file->data, file->len) != (ssize_t)file->len)
                abort();
        close(fd);
}
