/* Short names for the fixed-width types and the few macros that every module uses. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;

#define KIB (1ULL << 10)
#define MIB (1ULL << 20)
#define GIB (1ULL << 30)

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define BIT(n) (1ULL << (n))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
/* @align must be a power of two. */
#define ALIGN_DOWN(x, align) ((x) & ~((__typeof__(x))(align) - 1))
#define ALIGN_UP(x, align) ALIGN_DOWN((x) + ((__typeof__(x))(align) - 1), (align))

/* The structure of type @type whose member @member is at @ptr. */
#define container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define _printf_(fmt, args) __attribute__((format(printf, fmt, args)))
#define _unused_ __attribute__((unused))
#define _noinline_ __attribute__((noinline))
#define _noreturn_ __attribute__((noreturn))
#define _packed_ __attribute__((packed))

/* Whether a sanitizer is compiled in: gcc says so by macros, clang by features. (gcc tells nobody about UBSan alone.) */
#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || __has_feature(address_sanitizer) || \
        __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer) || __has_feature(undefined_behavior_sanitizer)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* Bits @hi..@lo of @v, both included. */
static inline u64 bits(u64 v, unsigned hi, unsigned lo)
{
        return (v >> lo) & ((hi - lo == 63) ? ~0ULL : (BIT(hi - lo + 1) - 1));
}
