#include "firmware.h"

#include <errno.h>
#include <string.h>

/* In the BIOS segment, behind the ACPI tables. */
#define BIOS_SEGMENT 0xf000u
#define STUB_IRET    0xff53u /* where every PC BIOS has an IRET */
#define STUB_MASTER  0xff60u
#define STUB_SLAVE   0xff70u
#define STUB_RESET   0xff80u
#define RESET_VECTOR 0xfff0u

static const struct {
        u16 offset;
        u8 len;
        u8 code[24];
} stubs[] = {
        { STUB_IRET, 1, { 0xcf } },
        /* push ax; mov al, 0x20; out 0x20, al; pop ax; iret */
        { STUB_MASTER, 7, { 0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf } },
        /* push ax; mov al, 0x20; out 0xa0, al; out 0x20, al; pop ax; iret */
        { STUB_SLAVE, 9, { 0x50, 0xb0, 0x20, 0xe6, 0xa0, 0xe6, 0x20, 0x58, 0xcf } },
        /* mov al, 6; mov dx, 0xcf9; out dx, al; hlt; jmp $-1: a CPU that gets to the reset vector resets the machine */
        { STUB_RESET, 9, { 0xb0, 0x06, 0xba, 0xf9, 0x0c, 0xee, 0xf4, 0xeb, 0xfd } },
        /* jmp 0xf000:STUB_RESET */
        { RESET_VECTOR, 5, { 0xea, STUB_RESET & 0xff, STUB_RESET >> 8, 0x00, 0xf0 } },
};

static u16 handler_of(unsigned vector)
{
        if (vector >= 0x08 && vector < 0x10)
                return STUB_MASTER;
        if (vector >= 0x70 && vector < 0x78)
                return STUB_SLAVE;
        return STUB_IRET;
}

/* Port writes in the order in which a BIOS does them. Source: Intel 8259A datasheet (initialisation), 8254
 * datasheet (modes). */
static const struct {
        u16 port;
        u8 value;
} writes[] = {
        { 0x20, 0x11 }, { 0x21, 0x08 }, { 0x21, 0x04 },
        { 0x21, 0x01 }, /* master: vectors 08h, slave on IRQ 2, 8086 mode */
        { 0xa0, 0x11 }, { 0xa1, 0x70 }, { 0xa1, 0x02 }, { 0xa1, 0x01 }, /* slave: vectors 70h */
        { 0x21, 0xfa }, { 0xa1, 0xff },                                 /* timer and slave are let through */
        { 0x43, 0x34 }, { 0x40, 0x00 }, { 0x40, 0x00 },                 /* channel 0: mode 2, divisor 65536 */
};

int firmware_leave_pc(struct vm *vm, struct err **err)
{
        u32 vectors[256];
        int r = 0;

        for (unsigned i = 0; i < ARRAY_SIZE(vectors); i++)
                vectors[i] = BIOS_SEGMENT << 16 | handler_of(i);
        for (size_t i = 0; i < ARRAY_SIZE(stubs) && r == 0; i++)
                r = guest_memory_write(vm->memory, BIOS_SEGMENT * 16 + stubs[i].offset, stubs[i].code, stubs[i].len);
        if (r == 0)
                r = guest_memory_write(vm->memory, 0, vectors, sizeof(vectors));
        if (r < 0)
                return err_set(err, ERR_INTERNAL, -r, "no memory at the BIOS's place");
        for (size_t i = 0; i < ARRAY_SIZE(writes); i++)
                io_write(&vm->ports, writes[i].port, writes[i].value, 1);
        return 0;
}
