/* Names of machines, knobs, modes and classes, and the decoder for a mode. */
#include "isa.h"

#define K(knob) (1u << ISA_KNOB_##knob)

static const struct {
        const char *name, *text;
        u32 knobs;
} machines[ISA_MACHINE_COUNT] = {
#define ISA_MACHINE(id, name, knobs, text) [ISA_MACHINE_##id] = { name, text, knobs },
#include "machines.def"
#undef ISA_MACHINE
};

static const struct {
        const char *name, *text;
} knobs[ISA_KNOB_COUNT] = {
#define ISA_KNOB(id, name, text) [ISA_KNOB_##id] = { name, text },
#include "knobs.def"
#undef ISA_KNOB
};

static const char *const class_names[ISA_CLASS_COUNT] = {
        [ISA_CLASS_SAFE] = "safe",
        [ISA_CLASS_PRIVILEGED] = "privileged",
        [ISA_CLASS_CONTROL_SENSITIVE] = "control-sensitive",
        [ISA_CLASS_BEHAVIOUR_SENSITIVE] = "behaviour-sensitive",
};

static const char *const outcome_names[ISA_OUTCOME_COUNT] = {
        [ISA_OUTCOME_RUNS] = "runs",
        [ISA_OUTCOME_FAULTS] = "faults",
        [ISA_OUTCOME_ENTERS] = "enters",
};

static const struct {
        const char *name;
        u8 bits;
        ZydisMachineMode zydis16, zydis32;
} modes[ISA_MODE_COUNT] = {
        [ISA_MODE_REAL] = { "real", 16, ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_MACHINE_MODE_LEGACY_32 },
        [ISA_MODE_VM86] = { "vm86", 16, ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_MACHINE_MODE_REAL_16 },
        [ISA_MODE_PROTECTED] = { "protected", 32, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_MACHINE_MODE_LEGACY_32 },
        [ISA_MODE_COMPAT] = { "compat", 32, ZYDIS_MACHINE_MODE_LONG_COMPAT_16, ZYDIS_MACHINE_MODE_LONG_COMPAT_32 },
        [ISA_MODE_LONG] = { "long", 64, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_MACHINE_MODE_LONG_64 },
};

struct isa_context isa_machine(enum isa_machine_id id, enum isa_mode mode)
{
        return (struct isa_context){ .mode = mode, .cpl = 3, .iopl = 0, .knobs = machines[id].knobs };
}

const char *isa_machine_name(enum isa_machine_id id)
{
        return machines[id].name;
}

const char *isa_machine_text(enum isa_machine_id id)
{
        return machines[id].text;
}

const char *isa_class_name(enum isa_class class)
{
        return class_names[class];
}

const char *isa_mode_name(enum isa_mode mode)
{
        return modes[mode].name;
}

const char *isa_outcome_name(enum isa_outcome outcome)
{
        return outcome_names[outcome];
}

const char *isa_knob_name(enum isa_knob knob)
{
        return knobs[knob].name;
}

const char *isa_knob_text(enum isa_knob knob)
{
        return knobs[knob].text;
}

void isa_decoder_init(ZydisDecoder *decoder, enum isa_mode mode, unsigned bits)
{
        ZydisMachineMode machine_mode;

        if (bits == 0)
                bits = modes[mode].bits;
        machine_mode = bits == 16 ? modes[mode].zydis16 : modes[mode].zydis32;
        ZydisDecoderInit(decoder, machine_mode,
                machine_mode == ZYDIS_MACHINE_MODE_LONG_64 ? ZYDIS_STACK_WIDTH_64
                : bits == 16                               ? ZYDIS_STACK_WIDTH_16
                                                           : ZYDIS_STACK_WIDTH_32);
}
