/* Floating point and SIMD. Half of the loads stream through memory, half compute in registers and the first-level cache, as
 * real programs do both. No library function whose last bit depends on the CPU model is called: results are compared. */
#include <immintrin.h>
#include <math.h>

#include "loads.h"

static double *doubles(size_t count, uint64_t seed)
{
        double *p = must_alloc(count * sizeof(*p));

        for (size_t i = 0; i < count; i++)
                p[i] = (double)(random_next(&seed) >> 40) / (1 << 24) - 0.5;
        return p;
}

static float *floats(size_t count, uint64_t seed)
{
        float *p = must_alloc(count * sizeof(*p));

        for (size_t i = 0; i < count; i++)
                p[i] = (float)(random_next(&seed) >> 48) / (1 << 16) - 0.5F;
        return p;
}

static uint64_t hash_bytes(const void *data, size_t size)
{
        const unsigned char *p = data;
        uint64_t hash = 0, word;

        for (size_t i = 0; i + sizeof(word) <= size; i += sizeof(word)) {
                memcpy(&word, p + i, sizeof(word));
                hash = mix(hash, word);
        }
        return hash;
}

/* C += A * B, 160 by 160 doubles, the plain three loops. */
static uint64_t matrix(long rounds)
{
        enum { N = 160 };
        double *a = doubles(N * N, 1), *b = doubles(N * N, 2), *c = must_alloc(N * N * sizeof(*c));

        for (long round = 0; round < rounds; round++)
                for (size_t i = 0; i < N; i++)
                        for (size_t k = 0; k < N; k++)
                                for (size_t j = 0; j < N; j++)
                                        c[i * N + j] += a[i * N + k] * b[k * N + j];
        return hash_bytes(c, N * N * sizeof(*c));
}

/* Gravitation of five bodies: scalar multiplications, a square root and a division, little memory. */
static uint64_t bodies(long rounds)
{
        enum { BODIES = 5 };
        double *x = doubles(BODIES * 3, 5), *v = doubles(BODIES * 3, 6);
        const double dt = 0.001;

        for (long round = 0; round < rounds * 1000; round++) {
                for (int i = 0; i < BODIES; i++)
                        for (int j = i + 1; j < BODIES; j++) {
                                double d[3], square = 0.01, force;

                                for (int k = 0; k < 3; k++) {
                                        d[k] = x[i * 3 + k] - x[j * 3 + k];
                                        square += d[k] * d[k];
                                }
                                force = dt / (square * sqrt(square));
                                for (int k = 0; k < 3; k++) {
                                        v[i * 3 + k] -= d[k] * force;
                                        v[j * 3 + k] += d[k] * force;
                                }
                        }
                for (int i = 0; i < BODIES * 3; i++)
                        x[i] += v[i] * dt;
        }
        return hash_bytes(x, BODIES * 3 * sizeof(*x));
}

/* How long points stay bounded: compute-bound, with branches on floating-point comparisons. */
static uint64_t mandelbrot(long rounds)
{
        uint64_t sum = 0;

        for (long round = 0; round < rounds; round++)
                for (int row = 0; row < 48; row++)
                        for (int column = 0; column < 64; column++) {
                                double cr = column / 24.0 - 2.1 + (double)round * 1e-6, ci = row / 24.0 - 1.0, zr = 0,
                                       zi = 0, swap;
                                unsigned n = 0;

                                for (; n < 200 && zr * zr + zi * zi < 4; n++) {
                                        swap = zr * zr - zi * zi + cr;
                                        zi = 2 * zr * zi + ci;
                                        zr = swap;
                                }
                                sum += n;
                        }
        return sum;
}

/* a = r * b + s * c over three arrays of 2 MiB. */
static uint64_t stream(long rounds)
{
        enum { N = 1 << 18 };
        double *a = doubles(N, 7), *b = doubles(N, 8), *c = doubles(N, 9), *swap;

        for (long round = 0; round < rounds; round++) {
                for (size_t i = 0; i < N; i++)
                        a[i] = 0.5 * b[i] + 0.49 * c[i];
                swap = a;
                a = b;
                b = c;
                c = swap;
        }
        return hash_bytes(c, N * sizeof(*c));
}

/* In-place Fourier transform of 4,096 complex doubles, radix 2: strided access. The roots come from a recurrence. */
static uint64_t fourier(long rounds)
{
        enum { LOG = 12, N = 1 << LOG };
        double *re = doubles(N, 10), *im = doubles(N, 11);

        for (long round = 0; round < rounds; round++) {
                /* cos and sin of pi / span; (-1, 0) for span 1, then by the half-angle formulas. */
                double cosine = -1, sine = 0;

                for (size_t span = 1; span < N; span *= 2) {
                        double wr = 1, wi = 0, swap;

                        for (size_t k = 0; k < span; k++) {
                                for (size_t i = k; i < N; i += 2 * span) {
                                        double tr = wr * re[i + span] - wi * im[i + span],
                                               ti = wr * im[i + span] + wi * re[i + span];

                                        re[i + span] = (re[i] - tr) * 0.5;
                                        im[i + span] = (im[i] - ti) * 0.5;
                                        re[i] = (re[i] + tr) * 0.5;
                                        im[i] = (im[i] + ti) * 0.5;
                                }
                                swap = wr * cosine - wi * sine;
                                wi = wr * sine + wi * cosine;
                                wr = swap;
                        }
                        swap = sqrt((1 + cosine) / 2);
                        sine = sqrt((1 - cosine) / 2);
                        cosine = swap;
                }
                for (size_t i = 0; i < N; i++)
                        re[i] += (double)(i & 15) - 7;
        }
        return hash_bytes(re, N * sizeof(*re)) ^ hash_bytes(im, N * sizeof(*im));
}

/* SSE2: two pictures of 256 KiB faded into each other, 16 bytes at a time through 16-bit intermediate values. */
static uint64_t sse_blend(long rounds)
{
        enum { SIZE = 1 << 18 };
        unsigned char *a = must_alloc(SIZE), *b = must_alloc(SIZE);
        const __m128i zero = _mm_setzero_si128();
        uint64_t seed = 13;

        for (size_t i = 0; i < SIZE; i++) {
                a[i] = (unsigned char)random_next(&seed);
                b[i] = (unsigned char)(seed >> 11);
        }
        for (long round = 0; round < rounds; round++) {
                const __m128i alpha = _mm_set1_epi16((short)(round & 255)),
                              beta = _mm_set1_epi16((short)(256 - (round & 255)));

                for (size_t i = 0; i < SIZE; i += 16) {
                        __m128i x = _mm_load_si128((__m128i *)(a + i)), y = _mm_load_si128((__m128i *)(b + i));
                        __m128i low = _mm_add_epi16(_mm_mullo_epi16(_mm_unpacklo_epi8(x, zero), alpha),
                                _mm_mullo_epi16(_mm_unpacklo_epi8(y, zero), beta));
                        __m128i high = _mm_add_epi16(_mm_mullo_epi16(_mm_unpackhi_epi8(x, zero), alpha),
                                _mm_mullo_epi16(_mm_unpackhi_epi8(y, zero), beta));

                        _mm_store_si128(
                                (__m128i *)(a + i), _mm_packus_epi16(_mm_srli_epi16(low, 8), _mm_srli_epi16(high, 8)));
                }
                a[round % SIZE] ^= 0x55;
        }
        return hash_bytes(a, SIZE);
}

/* SSE2: motion search of an 8-row block of 16 pixels, unaligned loads, sums of absolute differences. */
static uint64_t sse_search(long rounds)
{
        enum { WIDTH = 512, HEIGHT = 64 };
        unsigned char *picture = must_alloc(WIDTH * HEIGHT + 64);
        uint64_t seed = 17, sum = 0;

        for (size_t i = 0; i < WIDTH * HEIGHT; i++)
                picture[i] = (unsigned char)(random_next(&seed) >> 57);
        for (long round = 0; round < rounds; round++) {
                const unsigned char *block = picture + (round * 37) % (WIDTH * 16);
                unsigned best = UINT32_MAX;

                for (size_t y = 0; y + 8 <= HEIGHT; y += 2)
                        for (size_t x = 0; x + 16 <= WIDTH; x += 3) {
                                __m128i total = _mm_setzero_si128();
                                unsigned distance;

                                for (size_t row = 0; row < 8; row++) {
                                        const __m128i *p = (const __m128i *)(picture + (y + row) * WIDTH + x);
                                        const __m128i *q = (const __m128i *)(block + row * WIDTH);

                                        total = _mm_add_epi64(
                                                total, _mm_sad_epu8(_mm_loadu_si128(p), _mm_loadu_si128(q)));
                                }
                                distance = (unsigned)_mm_cvtsi128_si32(total) + (unsigned)_mm_extract_epi16(total, 4);
                                best = distance > 0 && distance < best ? distance : best;
                        }
                sum = mix(sum, best);
        }
        return sum;
}

/* AVX2 and FMA: a filter of 16 taps over 64 KiB of floats, unaligned loads. */
__attribute__((target("avx2,fma"))) static uint64_t avx_filter(long rounds)
{
        enum { N = 1 << 14, TAPS = 16 };
        float *in = floats(N + TAPS, 19), *out = must_alloc(N * sizeof(*out)), *taps = floats(TAPS, 20);

        for (long round = 0; round < rounds; round++) {
                for (size_t i = 0; i < N; i += 8) {
                        __m256 sum = _mm256_setzero_ps();

                        for (size_t k = 0; k < TAPS; k++)
                                sum = _mm256_fmadd_ps(_mm256_loadu_ps(in + i + k), _mm256_broadcast_ss(taps + k), sum);
                        _mm256_store_ps(out + i, sum);
                }
                in[round % N] = out[(round * 7) % N] * 0.25F;
        }
        return hash_bytes(out, N * sizeof(*out));
}

/* AVX: y += a * x over two arrays of 2 MiB. */
__attribute__((target("avx"))) static uint64_t avx_axpy(long rounds)
{
        enum { N = 1 << 19 };
        float *x = floats(N, 21), *y = floats(N, 22);

        for (long round = 0; round < rounds; round++) {
                const __m256 a = _mm256_set1_ps(round & 1 ? -0.5F : 0.5F);

                for (size_t i = 0; i < N; i += 8)
                        _mm256_store_ps(
                                y + i, _mm256_add_ps(_mm256_load_ps(y + i), _mm256_mul_ps(a, _mm256_load_ps(x + i))));
        }
        return hash_bytes(y, N * sizeof(*y));
}

/* AVX2: a polynomial of degree 12 in eight doubles at once; nothing but registers. */
__attribute__((target("avx2,fma"))) static uint64_t avx_polynomial(long rounds)
{
        double *c = doubles(13, 23), out[8];
        __m256d x = _mm256_set_pd(0.1, 0.2, 0.3, 0.4), y = _mm256_set_pd(0.15, 0.25, 0.35, 0.45);

        for (long round = 0; round < rounds * 10000; round++) {
                __m256d p = _mm256_set1_pd(c[12]), q = p;

                for (int k = 11; k >= 0; k--) {
                        p = _mm256_fmadd_pd(p, x, _mm256_set1_pd(c[k]));
                        q = _mm256_fmadd_pd(q, y, _mm256_set1_pd(c[k]));
                }
                x = _mm256_mul_pd(p, _mm256_set1_pd(0.9));
                y = _mm256_mul_pd(q, _mm256_set1_pd(0.9));
        }
        _mm256_storeu_pd(out, x);
        _mm256_storeu_pd(out + 4, y);
        return hash_bytes(out, sizeof(out));
}

/* AVX2: newlines and letters counted in 1 MiB of bytes, as text tools do. */
__attribute__((target("avx2,popcnt"))) static uint64_t avx_count(long rounds)
{
        enum { SIZE = 1 << 20 };
        unsigned char *text = must_alloc(SIZE);
        uint64_t seed = 29, sum = 0;

        for (size_t i = 0; i < SIZE; i++)
                text[i] = (unsigned char)(random_next(&seed) >> 57);
        for (long round = 0; round < rounds; round++) {
                const __m256i line = _mm256_set1_epi8('\n'), letter = _mm256_set1_epi8('a' - 1);

                for (size_t i = 0; i < SIZE; i += 32) {
                        __m256i block = _mm256_load_si256((__m256i *)(text + i));
                        unsigned found = (unsigned)_mm256_movemask_epi8(_mm256_cmpeq_epi8(block, line));

                        found ^= (unsigned)_mm256_movemask_epi8(_mm256_cmpgt_epi8(block, letter));
                        sum += (uint64_t)_mm_popcnt_u32(found);
                }
                text[round % SIZE]++;
        }
        return sum;
}

static const struct load loads[] = {
        { "matrix", matrix },
        { "bodies", bodies },
        { "mandelbrot", mandelbrot },
        { "stream", stream },
        { "fourier", fourier },
        { "sse-blend", sse_blend },
        { "sse-search", sse_search },
        { "avx-filter", avx_filter },
        { "avx-axpy", avx_axpy },
        { "avx-polynomial", avx_polynomial },
        { "avx-count", avx_count },
};

LOADS_MAIN(loads)
