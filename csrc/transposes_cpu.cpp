// Tiles of 16 bytes x 16 bytes are transposed in registers, by 16-byte vectors that every processor of the last twenty
// years has, so there is one variant. Four tiles below each other make whole cache lines of the copy; they are written
// at once, and the lines that they read are used up by the next tiles to the right.
#include "transposes.h"

#include <cstddef>
#include <cstring>
#include <utility>

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define ECM_SHUFFLES 1
#endif
#endif

namespace ecm {
namespace {

constexpr size_t kVectorBytes = 16;
constexpr int64_t kLineBytes = 64;

template <typename T>
void transpose_items(const T* from, int64_t from_stride, T* to, int64_t to_stride, int64_t rows, int64_t cols) {
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t col = 0; col < cols; ++col) to[col * to_stride + row] = from[row * from_stride + col];
}

#ifdef ECM_SHUFFLES
// Items of `a` and `b` in turn, from their first halves (half 0) or their second.
template <typename Vector, size_t N, size_t half, size_t... I>
Vector interleave(Vector a, Vector b, std::index_sequence<I...>) {
    return __builtin_shufflevector(a, b, ((I % 2) * N + half * (N / 2) + I / 2)...);
}

template <typename T>
void transpose_tile(const T* from, int64_t from_stride, T* to, int64_t to_stride) {
    typedef T Vector __attribute__((vector_size(kVectorBytes)));
    constexpr size_t N = kVectorBytes / sizeof(T);
    using Items = std::make_index_sequence<N>;
    Vector row[N], next[N];
    for (size_t i = 0; i < N; ++i) std::memcpy(&row[i], from + i * from_stride, kVectorBytes);
    // To interleave row i with row i + N/2 turns the index of an item, the bits of its row before those of its column,
    // by one bit. After log2(N) times rows and columns have changed places.
    for (size_t turns = 1; turns < N; turns *= 2) {
        for (size_t i = 0; i < N / 2; ++i) {
            next[2 * i] = interleave<Vector, N, 0>(row[i], row[i + N / 2], Items{});
            next[2 * i + 1] = interleave<Vector, N, 1>(row[i], row[i + N / 2], Items{});
        }
        for (size_t i = 0; i < N; ++i) row[i] = next[i];
    }
    for (size_t i = 0; i < N; ++i) std::memcpy(to + i * to_stride, &row[i], kVectorBytes);
}
#else
template <typename T>
void transpose_tile(const T* from, int64_t from_stride, T* to, int64_t to_stride) {
    constexpr int64_t N = kVectorBytes / sizeof(T);
    transpose_items(from, from_stride, to, to_stride, N, N);
}
#endif

template <typename T>
void transpose(const Transpose& job) {
    constexpr int64_t N = kVectorBytes / sizeof(T), line = kLineBytes / sizeof(T);
    const T* from = static_cast<const T*>(job.from);
    T* to = static_cast<T*>(job.to);
    const int64_t rows = job.rows - job.rows % line, cols = job.cols - job.cols % N;
    for (int64_t row = 0; row < rows; row += line)
        for (int64_t col = 0; col < cols; col += N)
            for (int64_t part = row; part < row + line; part += N)
                transpose_tile(from + part * job.from_stride + col, job.from_stride, to + col * job.to_stride + part,
                               job.to_stride);
    transpose_items(from + cols, job.from_stride, to + cols * job.to_stride, job.to_stride, rows, job.cols - cols);
    transpose_items(from + rows * job.from_stride, job.from_stride, to + rows, job.to_stride, job.rows - rows, job.cols);
}

}  // namespace

void transpose_cpu(const Transpose& job) {
    if (job.rows == 0 || job.cols == 0) return;
    switch (job.item_size) {
        case 1: return transpose<uint8_t>(job);
        case 2: return transpose<uint16_t>(job);
        case 4: return transpose<uint32_t>(job);
        case 8: return transpose<uint64_t>(job);
    }
}

}  // namespace ecm
