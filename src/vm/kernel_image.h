/* Kernel files: what kind a file is, and the vmlinux inside a bzImage.
 *
 * The machine never lets a guest decompress itself under an emulating engine: the payload is unpacked here, on the
 * host. Everything works on a buffer that the caller read or mapped; the bytes are not trusted. Stateless, any
 * thread. */
#pragma once

#include "base/err.h"

/* What a kernel file is, by its first bytes. */
enum kernel_kind {
        KERNEL_UNKNOWN,
        KERNEL_BZIMAGE,   /* "HdrS" at 0x202 */
        KERNEL_ELF64,     /* x86-64 vmlinux or another PVH kernel */
        KERNEL_MULTIBOOT, /* multiboot 1 header in the first 8 KiB, ELF32 or with load addresses */
};

enum kernel_kind kernel_image_kind(const void *data, size_t len);

/* No unpacked kernel is larger; protects the host from a decompression bomb. */
#define KERNEL_UNPACKED_MAX (512 * MIB)

/* Unpacks the ELF vmlinux of a bzImage: gzip, lz4 (legacy frames), zstd, xz (with the x86 filter), lzma, bzip2
 * not. The caller frees *ret_elf. Fails with ERR_BAD_IMAGE on foreign, truncated or damaged input. */
int kernel_image_unpack(const void *data, size_t len, void **ret_elf, size_t *ret_len, struct err **err);

/* The setup header of a bzImage, bytes 0x1f1 up to its own end, as boot_params wants it. Source:
 * Documentation/arch/x86/boot.rst. */
#define SETUP_HEADER_OFFSET 0x1f1
#define SETUP_HEADER_MAX    (0x290 - SETUP_HEADER_OFFSET)
int kernel_image_setup_header(const void *data, size_t len, u8 ret_header[SETUP_HEADER_MAX], struct err **err);
