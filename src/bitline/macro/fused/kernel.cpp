// The fused plan: the machine's loop over passes, row groups and conversions, partial sums in registers and L1 only.
//
// A plain C interface (bitline_*), called through ctypes: the structures of kernel/jobs.h are mirrored in native.py, and ABI
// counts their changes. The body, kernel/body.h, is compiled once for each instruction set; the best one that the processor
// has is taken at run time. Arithmetic is IEEE float32, one rounding an operation (-ffp-contract=off), in the order of the
// reference plan, so that both agree bit for bit.
#include "kernel/jobs.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define BITLINE_X86 1
#include <immintrin.h>
#endif
#if defined(BITLINE_X86) && defined(__linux__)
#define BITLINE_AMX 1
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define INLINE TARGET inline __attribute__((always_inline))

#define ISA portable
#define TARGET
#define LEVEL 0
#include "kernel/body.h"
#undef ISA
#undef TARGET
#undef LEVEL

#ifdef BITLINE_X86
#define ISA avx2
#define TARGET __attribute__((target("avx2,fma,bmi2")))
#define LEVEL 1
#include "kernel/body.h"
#undef ISA
#undef TARGET
#undef LEVEL

#define ISA avx512
#define TARGET __attribute__((target("fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi2,prefer-vector-width=512")))
#define LEVEL 2
#include "kernel/body.h"
#undef ISA
#undef TARGET
#undef LEVEL
#endif

#ifdef BITLINE_AMX
#define ISA amx
#define TARGET                                                                                                          \
    __attribute__((target("fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi2,amx-tile,amx-int8,prefer-vector-width=512")))
#define LEVEL 3
#include "kernel/body.h"
#undef ISA
#undef TARGET
#undef LEVEL
#endif

namespace {

int supported() {
#ifdef BITLINE_X86
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512vnni"))
        return 1;
#ifdef BITLINE_AMX
    unsigned a, b, c, d;
    __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
    constexpr unsigned TILES = 1u << 24 | 1u << 25; // AMX-TILE, AMX-INT8
    if ((d & TILES) == TILES && syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0)
        return 3;
#endif
    return 2;
#else
    return 0;
#endif
}

std::atomic<int> &level() {
    static std::atomic<int> found{supported()};
    return found;
}

} // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int bitline_abi() { return 6; }

EXPORT const char *bitline_cpu() {
    static const char *const names[] = {"portable", "AVX2", "AVX-512 VNNI", "AMX"};
    return names[level()];
}

// Take instruction set `wanted` (0 portable … 3 AMX) or the best there is below it; says which.
EXPORT int bitline_use(int wanted) {
    level() = std::max(0, std::min(wanted, supported()));
    return level();
}

EXPORT void bitline_mac(Job *job) {
    switch (level()) {
#ifdef BITLINE_AMX
    case 3: return amx::mac(*job);
#endif
#ifdef BITLINE_X86
    case 2: return avx512::mac(*job);
    case 1: return avx2::mac(*job);
#endif
    default: return portable::mac(*job);
    }
}

EXPORT int64_t bitline_pack(const Pack *pack) {
    switch (level()) {
#ifdef BITLINE_X86
    case 3:
    case 2: return avx512::pack(*pack);
    case 1: return avx2::pack(*pack);
#endif
    default: return portable::pack(*pack);
    }
}

EXPORT void bitline_numbers(const uint8_t *words, int64_t n, float above, float *into, int64_t threads) {
    switch (level()) {
#ifdef BITLINE_X86
    case 3:
    case 2: return avx512::numbers(words, n, above, into, threads);
    case 1: return avx2::numbers(words, n, above, into, threads);
#endif
    default: return portable::numbers(words, n, above, into, threads);
    }
}

EXPORT void bitline_pass(const Pass *pass) {
    switch (level()) {
#ifdef BITLINE_X86
    case 3:
    case 2: return avx512::pass(*pass);
    case 1: return avx2::pass(*pass);
#endif
    default: return portable::pass(*pass);
    }
}

EXPORT void bitline_unpack(const Pack *pack) {
    switch (level()) {
#ifdef BITLINE_X86
    case 3:
    case 2: return avx512::unpack(*pack);
    case 1: return avx2::unpack(*pack);
#endif
    default: return portable::unpack(*pack);
    }
}
