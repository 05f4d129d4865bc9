// Which of the variants that are built this processor runs best.
#pragma once

#ifdef ECM_HAVE_AVX512
#define ECM_IF_AVX512(value) value
#else
#define ECM_IF_AVX512(value) nullptr
#endif
#ifdef ECM_HAVE_AVX2
#define ECM_IF_AVX2(value) value
#else
#define ECM_IF_AVX2(value) nullptr
#endif

namespace ecm {

enum InstructionSet : int { kBaseline = 0, kAvx2 = 1, kAvx512 = 2 };

inline InstructionSet best_instruction_set() {
#ifdef ECM_HAVE_AVX512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
        return kAvx512;
#endif
#ifdef ECM_HAVE_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kAvx2;
#endif
    return kBaseline;
}

// The table of this processor; those that are not built are null.
template <typename Table>
const Table& table_of(const Table* baseline, const Table* avx2, const Table* avx512) {
    const Table* const tables[] = {baseline, avx2, avx512};
    return *tables[best_instruction_set()];
}

}  // namespace ecm
