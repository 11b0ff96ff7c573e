/* What dev/pci promises to guests and to device authors. */
#include "fake_pci.h"

/* ---- a device with one BAR of each kind and four vectors ---- */

struct toy {
        struct pci_device pci;
        u64 mapped[PCI_BARS];
        u64 last_written;
};

static u64 toy_read(void *opaque, u64 offset, unsigned size)
{
        (void)opaque;
        (void)size;
        return 0x40 + offset;
}

static void toy_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        struct toy *toy = opaque;

        (void)offset;
        (void)size;
        toy->last_written = value;
}

static void toy_bar_mapped(struct pci_device *pci, unsigned bar, u64 address)
{
        container_of(pci, struct toy, pci)->mapped[bar] = address;
}

static void toy_reset(struct device *dev)
{
        pci_device_reset(container_of(dev, struct pci_device, dev));
}

static void toy_save(struct device *dev, struct state_out *out)
{
        pci_device_save(container_of(dev, struct pci_device, dev), out);
}

static int toy_load(struct device *dev, struct state_in *in, u32 version, struct err **err)
{
        struct pci_device *pci = container_of(dev, struct pci_device, dev);
        struct pci_state state;
        int r = pci_state_read(pci, in, &state, err);

        (void)version;
        if (r == 0)
                pci_state_apply(pci, &state);
        return r;
}

static void toy_destroy(struct device *dev)
{
        struct toy *toy = container_of(dev, struct toy, pci.dev);

        pci_device_release(&toy->pci);
        free(toy);
}

static const struct io_ops toy_io = { .read = toy_read, .write = toy_write };
static const struct pci_device_ops toy_pci_ops = { .bar_mapped = toy_bar_mapped };
static const struct device_ops toy_ops = {
        .name = "toy", .version = 1, .reset = toy_reset, .save = toy_save, .load = toy_load, .destroy = toy_destroy,
};

enum { BAR_MEM32 = 0, BAR_MEM64 = 1, BAR_IO = 3, BAR_MSIX = 4 };
enum { VECTORS = 4 };

static struct toy *toy_new(struct fake_machine *m)
{
        const struct pci_id id = {
                .vendor = 0x1234, .device = 0x5678, .subsystem_vendor = 0x9abc, .subsystem = 0xdef0, .revision = 7,
                .class_code = 0x0180ff, .intx = true,
        };
        struct toy *toy = calloc(1, sizeof(*toy));

        assert_non_null(toy);
        assert_int_equal(pci_device_init(&toy->pci, m->bus, &id, &toy_ops, &toy_pci_ops, NULL), 0);
        assert_int_equal(pci_bar_add(&toy->pci, BAR_MEM32, PCI_BAR_MEM32, 0x2000, &toy_io, toy, "m32", NULL), 0);
        assert_int_equal(pci_bar_add(&toy->pci, BAR_MEM64, PCI_BAR_MEM64, 0x10000, &toy_io, toy, "m64", NULL), 0);
        assert_int_equal(pci_bar_add(&toy->pci, BAR_IO, PCI_BAR_IO, 0x20, &toy_io, toy, "io", NULL), 0);
        assert_int_equal(pci_msix_init(&toy->pci, BAR_MSIX, VECTORS, NULL), 0);
        m->f.env.add(&m->f.env, &toy->pci.dev);
        return toy;
}

struct fixture {
        struct fake_machine *m;
        struct toy *a, *b; /* slots 1 and 2 */
};

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));

        assert_non_null(f);
        f->m = fake_machine_new();
        f->a = toy_new(f->m);
        f->b = toy_new(f->m);
        assert_int_equal(pci_assign_resources(f->m->bus, NULL), 0);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;

        fake_machine_free(f->m);
        free(f);
        return 0;
}

/* ---- configuration space ---- */

static void config_ports_show_identity(void **state)
{
        struct fake_machine *m = ((struct fixture *)*state)->m;

        assert_int_equal(cfg_read(m, 0, PCI_CLASS_DEVICE, 2), 0x0600);
        assert_int_equal(cfg_read(m, 1, PCI_VENDOR_ID, 4), 0x56781234);
        assert_int_equal(cfg_read(m, 1, PCI_REVISION_ID, 4), 0x0180ff07);
        assert_int_equal(cfg_read(m, 1, PCI_SUBSYSTEM_VENDOR_ID, 4), 0xdef09abc);
        assert_int_equal(cfg_read(m, 1, PCI_HEADER_TYPE, 1), 0);
        assert_int_equal(cfg_read(m, 1, PCI_INTERRUPT_PIN, 1), 1);
        assert_int_equal(cfg_read(m, 1, PCI_STATUS, 2) & PCI_STATUS_CAPABILITIES, PCI_STATUS_CAPABILITIES);
}

static void config_of_missing_functions_reads_as_ones(void **state)
{
        struct fake_machine *m = ((struct fixture *)*state)->m;

        assert_int_equal(cfg_read(m, 9, PCI_VENDOR_ID, 4), 0xffffffff);
        fake_out(&m->f, PCI_CONFIG_ADDRESS, 4, 0x80000000U | 1 << 11 | 1 << 8); /* function 1 */
        assert_int_equal(fake_in(&m->f, PCI_CONFIG_DATA, 4), 0xffffffff);
        fake_out(&m->f, PCI_CONFIG_ADDRESS, 4, 0x80010000U | 1 << 11); /* bus 1 */
        assert_int_equal(fake_in(&m->f, PCI_CONFIG_DATA, 4), 0xffffffff);
        fake_out(&m->f, PCI_CONFIG_ADDRESS, 4, 1 << 11); /* enable bit off */
        assert_int_equal(fake_in(&m->f, PCI_CONFIG_DATA, 2), 0xffff);
        /* No extended configuration space, no second bus. */
        assert_int_equal(mmio_read(m, ecam(1, 0x100), 4), 0xffffffff);
        assert_int_equal(mmio_read(m, PCI_ECAM_BASE + (1ULL << 20), 4), 0xffffffff);
}

static void config_address_takes_doublewords_only(void **state)
{
        struct fake_machine *m = ((struct fixture *)*state)->m;

        fake_out(&m->f, PCI_CONFIG_ADDRESS, 4, 0x80000804U);
        fake_out(&m->f, PCI_CONFIG_ADDRESS + 3, 1, 0x01);
        fake_out(&m->f, PCI_CONFIG_ADDRESS, 2, 0xffff);
        assert_int_equal(fake_in(&m->f, PCI_CONFIG_ADDRESS, 4), 0x80000804U);
}

static void ecam_and_ports_reach_the_same_space(void **state)
{
        struct fake_machine *m = ((struct fixture *)*state)->m;

        for (unsigned offset = 0; offset < PCI_CONFIG_SIZE; offset += 4)
                assert_int_equal(mmio_read(m, ecam(1, offset), 4), cfg_read(m, 1, offset, 4));
        mmio_write(m, ecam(1, PCI_INTERRUPT_LINE), 1, 0x5a);
        assert_int_equal(cfg_read(m, 1, PCI_INTERRUPT_LINE, 1), 0x5a);
        assert_int_equal(mmio_read(m, ecam(1, 0), 8), 0x56781234 | (u64)cfg_read(m, 1, 4, 4) << 32);
}

static void read_only_bits_stay(void **state)
{
        struct fake_machine *m = ((struct fixture *)*state)->m;
        u32 before[16];

        for (unsigned i = 0; i < 16; i++)
                before[i] = cfg_read(m, 1, 4 * i, 4);
        for (unsigned i = 0; i < 16; i++) {
                if (4 * i >= PCI_BAR0 && 4 * i < PCI_BAR0 + 24)
                        continue;
                cfg_write(m, 1, 4 * i, 4, ~before[i]);
        }
        assert_int_equal(cfg_read(m, 1, PCI_VENDOR_ID, 4), before[0]);
        assert_int_equal(cfg_read(m, 1, PCI_STATUS, 2), before[1] >> 16);
        assert_int_equal(cfg_read(m, 1, PCI_REVISION_ID, 4), before[2]);
        assert_int_equal(cfg_read(m, 1, PCI_SUBSYSTEM_VENDOR_ID, 4), before[11]);
        assert_int_equal(cfg_read(m, 1, PCI_ROM_ADDRESS, 4), 0);
        assert_int_equal(cfg_read(m, 1, PCI_CAPABILITY_LIST, 1), before[13] & 0xff);
}

static void reset_control_port_asks_for_reset(void **state)
{
        struct fake_machine *m = ((struct fixture *)*state)->m;

        fake_out(&m->f, PCI_RESET_CONTROL, 1, 0x02);
        assert_int_equal(m->f.stop, MACHINE_RUNNING);
        fake_out(&m->f, PCI_RESET_CONTROL, 1, 0x06);
        assert_int_equal(m->f.stop, MACHINE_RESET);
}

/* ---- BARs ---- */

static void bars_report_their_size(void **state)
{
        struct fake_machine *m = ((struct fixture *)*state)->m;

        cfg_write(m, 1, PCI_COMMAND, 2, 0);
        for (unsigned i = 0; i < PCI_BARS; i++)
                cfg_write(m, 1, PCI_BAR0 + 4 * i, 4, 0xffffffff);
        assert_int_equal(cfg_read(m, 1, PCI_BAR0 + 0, 4), 0xffffe000);
        assert_int_equal(cfg_read(m, 1, PCI_BAR0 + 4, 4), 0xffff000c);
        assert_int_equal(cfg_read(m, 1, PCI_BAR0 + 8, 4), 0xffffffff);
        assert_int_equal(cfg_read(m, 1, PCI_BAR0 + 12, 4), 0x0000ffe1);
        assert_int_equal(cfg_read(m, 1, PCI_BAR0 + 16, 4), 0xfffff000);
        assert_int_equal(cfg_read(m, 1, PCI_BAR0 + 20, 4), 0);
}

static void bars_are_assigned_decoded_and_answer(void **state)
{
        struct fixture *f = *state;
        u64 io, value;

        for (unsigned slot = 1; slot <= 2; slot++) {
                const u64 m32 = bar_at(f->m, slot, BAR_MEM32), m64 = bar_at(f->m, slot, BAR_MEM64);

                assert_int_equal(cfg_read(f->m, slot, PCI_COMMAND, 2), PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
                assert_in_range(m32, PCI_WINDOW32_BASE, PCI_WINDOW32_BASE + PCI_WINDOW32_SIZE - 0x2000);
                assert_in_range(m64, PCI_WINDOW32_BASE, PCI_WINDOW32_BASE + PCI_WINDOW32_SIZE - 0x10000);
                assert_int_equal(m32 % 0x2000, 0);
                assert_int_equal(m64 % 0x10000, 0);
                assert_int_equal(mmio_read(f->m, m32 + 8, 1), 0x48);
                assert_int_equal(mmio_read(f->m, m64 + 9, 1), 0x49);
                io = bar_at(f->m, slot, BAR_IO);
                assert_true(io_read(&f->m->f.ports, io + 3, 1, &value));
                assert_int_equal(value, 0x43);
                assert_in_range(io, PCI_WINDOW_IO_BASE, 0xffe0);
        }
        mmio_write(f->m, bar_at(f->m, 2, BAR_MEM32), 4, 77);
        assert_int_equal(f->b->last_written, 77);
        assert_int_equal(f->a->last_written, 0);
}

static void bar_moves_where_the_guest_puts_it(void **state)
{
        struct fixture *f = *state;
        const u64 old = bar_at(f->m, 1, BAR_MEM64), new = 0x5000000000ULL;

        cfg_write(f->m, 1, PCI_BAR0 + 4, 4, (u32)new);
        cfg_write(f->m, 1, PCI_BAR0 + 8, 4, (u32)(new >> 32));
        assert_int_equal(f->a->mapped[BAR_MEM64], new);
        assert_int_equal(mmio_read(f->m, new + 5, 1), 0x45);
        assert_int_equal(mmio_read(f->m, old + 5, 1), 0xff);
}

static void bar_without_decoding_is_silent(void **state)
{
        struct fixture *f = *state;
        const u64 at = bar_at(f->m, 1, BAR_MEM32);
        u64 value;

        cfg_write(f->m, 1, PCI_COMMAND, 2, PCI_COMMAND_IO);
        assert_int_equal(mmio_read(f->m, at, 1), 0xff);
        assert_int_equal(f->a->mapped[BAR_MEM32], PCI_UNMAPPED);
        assert_true(io_read(&f->m->f.ports, bar_at(f->m, 1, BAR_IO), 1, &value));
        cfg_write(f->m, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
        assert_int_equal(mmio_read(f->m, at, 1), 0x40);
        assert_false(io_read(&f->m->f.ports, bar_at(f->m, 1, BAR_IO), 1, &value));
}

static void bar_is_not_mapped_over_ram_ecam_or_the_end(void **state)
{
        static const u64 places[] = { 0, 0x100000, FAKE_RAM - 0x10000, PCI_ECAM_BASE, 0xffffffffffff0000ULL };
        struct fixture *f = *state;

        for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
                cfg_write(f->m, 1, PCI_BAR0 + 4, 4, (u32)places[i]);
                cfg_write(f->m, 1, PCI_BAR0 + 8, 4, (u32)(places[i] >> 32));
                assert_int_equal(f->a->mapped[BAR_MEM64], PCI_UNMAPPED);
        }
        assert_int_equal(mmio_read(f->m, ecam(0, PCI_CLASS_DEVICE), 2), 0x0600);
        cfg_write(f->m, 1, PCI_BAR0 + 4 * BAR_IO, 4, 0);
        assert_int_equal(f->a->mapped[BAR_IO], PCI_UNMAPPED);
}

static void bar_over_another_device_waits_until_it_is_gone(void **state)
{
        struct fixture *f = *state;
        const u64 b_at = bar_at(f->m, 2, BAR_MEM32);

        cfg_write(f->m, 1, PCI_BAR0, 4, (u32)b_at);
        assert_int_equal(f->a->mapped[BAR_MEM32], PCI_UNMAPPED);
        mmio_write(f->m, b_at, 4, 5);
        assert_int_equal(f->b->last_written, 5);
        cfg_write(f->m, 2, PCI_COMMAND, 2, 0);
        assert_int_equal(f->a->mapped[BAR_MEM32], b_at);
        mmio_write(f->m, b_at, 4, 6);
        assert_int_equal(f->a->last_written, 6);
        assert_int_equal(f->b->last_written, 5);
}

static void bars_may_swap_places(void **state)
{
        struct fixture *f = *state;
        const u64 a_at = bar_at(f->m, 1, BAR_MEM32), b_at = bar_at(f->m, 2, BAR_MEM32);

        cfg_write(f->m, 1, PCI_BAR0, 4, (u32)b_at);
        cfg_write(f->m, 2, PCI_BAR0, 4, (u32)a_at);
        assert_int_equal(f->a->mapped[BAR_MEM32], b_at);
        assert_int_equal(f->b->mapped[BAR_MEM32], a_at);
}

static void resources_that_do_not_fit_are_an_error(void **state)
{
        struct fixture *f = *state;
        const struct pci_id id = { .vendor = 1, .device = 1 };
        struct err *err = NULL;
        struct pci_device pci;

        assert_int_equal(pci_device_init(&pci, f->m->bus, &id, &toy_ops, NULL, NULL), 0);
        assert_int_equal(pci_bar_add(&pci, 0, PCI_BAR_MEM32, 1 << 30, &toy_io, NULL, "big", NULL), 0);
        assert_true(pci_assign_resources(f->m->bus, &err) < 0);
        assert_int_equal(err_get_id(err), ERR_TOO_LARGE);
        err_free(err);
        pci_device_release(&pci);
}

static void large_64_bit_bar_goes_above_4_gib(void **state)
{
        struct fixture *f = *state;
        const struct pci_id id = { .vendor = 1, .device = 1 };
        struct pci_device pci;

        assert_int_equal(pci_device_init(&pci, f->m->bus, &id, &toy_ops, NULL, NULL), 0);
        assert_int_equal(pci_bar_add(&pci, 0, PCI_BAR_MEM64, 1 << 30, &toy_io, NULL, "big", NULL), 0);
        assert_int_equal(pci_assign_resources(f->m->bus, NULL), 0);
        assert_int_equal(bar_at(f->m, pci.slot, 0), PCI_WINDOW64_BASE);
        pci_device_release(&pci);
}

static void bus_with_32_devices_is_full(void **state)
{
        struct fixture *f = *state;
        const struct pci_id id = { .vendor = 1, .device = 1 };
        struct pci_device more[PCI_SLOTS];
        struct err *err = NULL;

        for (unsigned i = 3; i < PCI_SLOTS; i++)
                assert_int_equal(pci_device_init(&more[i], f->m->bus, &id, &toy_ops, NULL, NULL), 0);
        assert_true(pci_device_init(&more[0], f->m->bus, &id, &toy_ops, NULL, &err) < 0);
        assert_int_equal(err_get_id(err), ERR_TOO_LARGE);
        err_free(err);
        for (unsigned i = 3; i < PCI_SLOTS; i++)
                pci_device_release(&more[i]);
}

static void malformed_bars_are_refused(void **state)
{
        struct fixture *f = *state;
        const struct pci_id id = { .vendor = 1, .device = 1 };
        struct pci_device pci;

        assert_int_equal(pci_device_init(&pci, f->m->bus, &id, &toy_ops, NULL, NULL), 0);
        assert_true(pci_bar_add(&pci, 0, PCI_BAR_MEM32, 3000, &toy_io, NULL, "x", NULL) < 0);
        assert_true(pci_bar_add(&pci, 0, PCI_BAR_MEM32, 8, &toy_io, NULL, "x", NULL) < 0);
        assert_true(pci_bar_add(&pci, 5, PCI_BAR_MEM64, 4096, &toy_io, NULL, "x", NULL) < 0);
        assert_int_equal(pci_bar_add(&pci, 2, PCI_BAR_MEM64, 4096, &toy_io, NULL, "x", NULL), 0);
        assert_true(pci_bar_add(&pci, 3, PCI_BAR_MEM32, 4096, &toy_io, NULL, "x", NULL) < 0);
        assert_true(pci_bar_add(&pci, 1, PCI_BAR_MEM64, 4096, &toy_io, NULL, "x", NULL) < 0);
        pci_device_release(&pci);
}

/* ---- interrupts ---- */

static void intx_goes_to_the_swizzled_gsi(void **state)
{
        struct fixture *f = *state;

        assert_int_equal(pci_intx_gsi(1, 1), 17);
        assert_int_equal(cfg_read(f->m, 1, PCI_INTERRUPT_LINE, 1), 17);
        pci_intx_set(&f->a->pci, true);
        pci_intx_set(&f->b->pci, true);
        assert_int_equal(f->m->f.line[17], 1);
        assert_int_equal(f->m->f.line[18], 1);
        assert_int_equal(cfg_read(f->m, 1, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, PCI_STATUS_INTERRUPT);
        pci_intx_set(&f->a->pci, false);
        assert_int_equal(f->m->f.line[17], 0);
        assert_int_equal(cfg_read(f->m, 1, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, 0);
}

static void intx_disable_bit_holds_the_line_low(void **state)
{
        struct fixture *f = *state;

        cfg_write(f->m, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE);
        pci_intx_set(&f->a->pci, true);
        assert_int_equal(f->m->f.line[17], 0);
        assert_int_equal(cfg_read(f->m, 1, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, PCI_STATUS_INTERRUPT);
        cfg_write(f->m, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
        assert_int_equal(f->m->f.line[17], 1);
}

/* Vector @n sends message @n to 0xfee00000 and is not masked. */
static void vector_set_up(struct fixture *f, unsigned n)
{
        const u64 entry = bar_at(f->m, 1, BAR_MSIX) + 16 * n;

        mmio_write(f->m, entry, 4, 0xfee00000);
        mmio_write(f->m, entry + 4, 4, 0);
        mmio_write(f->m, entry + 8, 4, n);
        mmio_write(f->m, entry + 12, 4, 0);
}

static void msix_control(struct fixture *f, u16 control)
{
        cfg_write(f->m, 1, find_cap(f->m, 1, PCI_CAP_ID_MSIX, 0) + 2, 2, control);
}

static u64 pba(struct fixture *f)
{
        return mmio_read(f->m, bar_at(f->m, 1, BAR_MSIX) + 0x800, 8);
}

enum { MSIX_ENABLE = 0x8000, MSIX_MASK_ALL = 0x4000 };

static int setup_msix(void **state)
{
        struct fixture *f;

        setup(state);
        f = *state;
        cfg_write(f->m, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
        for (unsigned i = 0; i < VECTORS; i++)
                vector_set_up(f, i);
        msix_control(f, MSIX_ENABLE);
        return 0;
}

static void msix_capability_tells_table_and_pba(void **state)
{
        struct fixture *f = *state;
        const unsigned cap = find_cap(f->m, 1, PCI_CAP_ID_MSIX, 0);

        assert_int_not_equal(cap, 0);
        assert_int_equal(cfg_read(f->m, 1, cap + 2, 2), VECTORS - 1);
        assert_int_equal(cfg_read(f->m, 1, cap + 4, 4), BAR_MSIX);
        assert_int_equal(cfg_read(f->m, 1, cap + 8, 4), 0x800 | BAR_MSIX);
        /* Vectors are masked at first. */
        assert_int_equal(mmio_read(f->m, bar_at(f->m, 1, BAR_MSIX) + 12, 4), 1);
}

static void msix_sends_the_guest_s_message(void **state)
{
        struct fixture *f = *state;

        pci_msix_send(&f->a->pci, 2);
        assert_int_equal(f->m->msis[2], 1);
        assert_int_equal(f->m->last_msi_address, 0xfee00000);
        pci_msix_send(&f->a->pci, VECTORS);
        pci_msix_send(&f->a->pci, 0xffff);
        assert_int_equal(f->m->msis[0] + f->m->msis[1] + f->m->msis[2] + f->m->msis[3], 1);
}

static void msix_masked_vector_pends_until_unmasked(void **state)
{
        struct fixture *f = *state;
        const u64 control = bar_at(f->m, 1, BAR_MSIX) + 16 + 12;

        mmio_write(f->m, control, 4, 1);
        pci_msix_send(&f->a->pci, 1);
        pci_msix_send(&f->a->pci, 1);
        assert_int_equal(f->m->msis[1], 0);
        assert_int_equal(pba(f), 2);
        mmio_write(f->m, control, 4, 0);
        assert_int_equal(f->m->msis[1], 1);
        assert_int_equal(pba(f), 0);
}

static void msix_function_mask_and_bus_master_hold_messages_back(void **state)
{
        struct fixture *f = *state;

        msix_control(f, MSIX_ENABLE | MSIX_MASK_ALL);
        pci_msix_send(&f->a->pci, 0);
        cfg_write(f->m, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
        msix_control(f, MSIX_ENABLE);
        assert_int_equal(f->m->msis[0], 0);
        assert_int_equal(pba(f), 1);
        cfg_write(f->m, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
        assert_int_equal(f->m->msis[0], 1);
}

static void msix_enabled_silences_intx(void **state)
{
        struct fixture *f = *state;

        pci_intx_set(&f->a->pci, true);
        assert_int_equal(f->m->f.line[17], 0);
        msix_control(f, 0);
        assert_int_equal(f->m->f.line[17], 1);
        pci_msix_send(&f->a->pci, 0);
        assert_int_equal(f->m->msis[0], 0);
}

static void msix_table_ignores_odd_accesses(void **state)
{
        struct fixture *f = *state;
        const u64 table = bar_at(f->m, 1, BAR_MSIX);

        mmio_write(f->m, table + 8, 1, 0x77);
        mmio_write(f->m, table + 9, 4, 0x77777777);
        mmio_write(f->m, table + 16 * VECTORS, 4, 0x77);
        mmio_write(f->m, table + 0x800, 8, ~0ULL);
        assert_int_equal(mmio_read(f->m, table + 8, 4), 0);
        assert_int_equal(mmio_read(f->m, table + 16 * VECTORS, 4), 0);
        assert_int_equal(pba(f), 0);
        mmio_write(f->m, table, 8, 0x1fee00000ULL);
        assert_int_equal(mmio_read(f->m, table, 8), 0x1fee00000ULL);
        assert_int_equal(mmio_read(f->m, table + 4, 2), 1);
}

/* ---- reset, saved state, hostility ---- */

static void reset_goes_back_to_assigned_resources(void **state)
{
        struct fixture *f = *state;
        const u64 at = bar_at(f->m, 1, BAR_MEM32);

        cfg_write(f->m, 1, PCI_BAR0, 4, 0xd0000000);
        cfg_write(f->m, 1, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
        msix_control(f, MSIX_ENABLE);
        pci_intx_set(&f->a->pci, true);
        toy_reset(&f->a->pci.dev);
        assert_int_equal(bar_at(f->m, 1, BAR_MEM32), at);
        assert_int_equal(f->a->mapped[BAR_MEM32], at);
        assert_int_equal(cfg_read(f->m, 1, PCI_COMMAND, 2), PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
        assert_false(pci_msix_enabled(&f->a->pci));
        assert_int_equal(f->m->f.line[17], 0);
        assert_int_equal(mmio_read(f->m, bar_at(f->m, 1, BAR_MSIX) + 12, 4), 1);
}

static void saved_state_comes_back(void **state)
{
        struct fixture *f = *state;
        struct state_out out;

        cfg_write(f->m, 1, PCI_BAR0, 4, 0xd0000000);
        mmio_write(f->m, bar_at(f->m, 1, BAR_MSIX) + 12, 4, 1);
        pci_msix_send(&f->a->pci, 0);
        fake_save(&f->a->pci.dev, &out);

        toy_reset(&f->a->pci.dev);
        assert_int_equal(fake_load(&f->a->pci.dev, &out, NULL), 0);
        assert_int_equal(f->a->mapped[BAR_MEM32], 0xd0000000);
        assert_int_equal(pba(f), 1);
        mmio_write(f->m, bar_at(f->m, 1, BAR_MSIX) + 12, 4, 0);
        assert_int_equal(f->m->msis[0], 1);
        state_out_free(&out);
}

static void damaged_state_changes_nothing(void **state)
{
        struct fixture *f = *state;

        fake_check_state(&f->m->f, &f->a->pci.dev);
        fake_check_state(&f->m->f, fake_env_device(&f->m->f, "pci-host"));
}

static void state_of_another_device_is_refused(void **state)
{
        struct fixture *f = *state;
        struct state_out out;
        struct err *err = NULL;

        fake_save(&f->a->pci.dev, &out);
        /* Behind the section header: the device id. */
        out.data[STATE_NAME_MAX + 8 + PCI_DEVICE_ID] ^= 1;
        assert_true(fake_load(&f->a->pci.dev, &out, &err) < 0);
        assert_int_equal(err_get_id(err), ERR_BAD_STATE);
        err_free(err);
        state_out_free(&out);
}

/* Random configuration writes and accesses everywhere: no crash (sanitizers watch), and the bus still works after a reset. */
static void hammering_leaves_the_bus_usable(void **state)
{
        struct fixture *f = *state;
        u64 x = 88172645463325252ULL, value;

        for (int i = 0; i < 20000; i++) {
                x ^= x << 13, x ^= x >> 7, x ^= x << 17;
                if (i % 4 == 0)
                        io_write(&f->m->f.ports, 0xcf8 + (x & 7), x >> 8, 1U << (x >> 60 & 3));
                else if (i % 4 == 1)
                        mmio_write(f->m, ecam((x >> 8) % 4, (x >> 16) & 0xff), 1U << (x & 3), x >> 24);
                else if (i % 4 == 2)
                        mmio_write(f->m, f->a->pci.bars[x % 6].mapped + (x >> 40 & 0xfff), 1U << (x & 3), x >> 20);
                else
                        io_read(&f->m->f.env.memory->mmio, f->b->pci.bars[x % 6].mapped + (x >> 40 & 0xfff), 1U << (x & 3), &value);
        }
        toy_reset(&f->a->pci.dev);
        toy_reset(&f->b->pci.dev);
        assert_int_equal(mmio_read(f->m, bar_at(f->m, 1, BAR_MEM32) + 8, 1), 0x48);
        assert_int_equal(mmio_read(f->m, bar_at(f->m, 2, BAR_MEM64) + 8, 1), 0x48);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_MSIX(name) cmocka_unit_test_setup_teardown(name, setup_msix, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(config_ports_show_identity),
                TEST(config_of_missing_functions_reads_as_ones),
                TEST(config_address_takes_doublewords_only),
                TEST(ecam_and_ports_reach_the_same_space),
                TEST(read_only_bits_stay),
                TEST(reset_control_port_asks_for_reset),
                TEST(bars_report_their_size),
                TEST(bars_are_assigned_decoded_and_answer),
                TEST(bar_moves_where_the_guest_puts_it),
                TEST(bar_without_decoding_is_silent),
                TEST(bar_is_not_mapped_over_ram_ecam_or_the_end),
                TEST(bar_over_another_device_waits_until_it_is_gone),
                TEST(bars_may_swap_places),
                TEST(resources_that_do_not_fit_are_an_error),
                TEST(large_64_bit_bar_goes_above_4_gib),
                TEST(bus_with_32_devices_is_full),
                TEST(malformed_bars_are_refused),
                TEST(intx_goes_to_the_swizzled_gsi),
                TEST(intx_disable_bit_holds_the_line_low),
                TEST(msix_capability_tells_table_and_pba),
                TEST_MSIX(msix_sends_the_guest_s_message),
                TEST_MSIX(msix_masked_vector_pends_until_unmasked),
                TEST_MSIX(msix_function_mask_and_bus_master_hold_messages_back),
                TEST_MSIX(msix_enabled_silences_intx),
                TEST_MSIX(msix_table_ignores_odd_accesses),
                TEST(reset_goes_back_to_assigned_resources),
                TEST_MSIX(saved_state_comes_back),
                TEST_MSIX(damaged_state_changes_nothing),
                TEST(state_of_another_device_is_refused),
                TEST(hammering_leaves_the_bus_usable),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
