#pragma once
// Matrix product: the one seam through which every dense product of the project goes.
//
//   C[M, N] = alpha * op(A)[M, K] * op(B)[K, N] + beta * C
//
//   gemm<float>({M, N, K}, {x, K}, {weight, K, true}, {y, N});      // y = x * weight^T, weight is
//   [N, K]
//
// Matrices are row-major; a stride is the distance between the starts of two rows, in elements. C
// must not overlap A or B.
//
// Order of the sum. Every element of C is the same chain of fused multiply-adds over k = 0, 1, 2,
// ... wherever it lies: not the tile, nor M, N, the strides, the transpositions or the thread
// decide it. (Long K is cut into blocks by K alone; each block is a chain that starts at 0, scaled
// by alpha and added to C.) Hence a row of C depends on its own row of A only, bit for bit: a
// token's values do not depend on its neighbours, a batch of one equals a row of a large batch, and
// all the functions below agree.
//
// Back end: our own packed kernel (gemm_micro.h), because no library promises that order, and
// because Eigen's product on the same machine is slower (bench/results) with AVX2 or AVX-512. Built
// for plain x86-64 ours takes 1.03 to 1.21 times Eigen's time (bench_gemm, one thread, 512^3 to 4096
// x 1536 x 512); it stays there too, for that order. gemm_eigen.h keeps Eigen behind the same
// signature as the measured baseline and as a check; bench/gemm_dnnl.h does so with oneDNN, for
// benchmarks only.

#include <cstdint>
#include <span>

#include "autograd/kernels/stored.h"

namespace sluice::kernels {

/// C is [M, N], the sum runs over K. Any of them may be 0; K = 0 leaves C = beta * C.
struct GemmSize {
  int64_t M;
  int64_t N;
  int64_t K;
};

/// An operand as it lies in memory: [rows, cols] of op(X) when not transposed, [cols, rows] when
/// transposed. With an index, row i of the matrix in memory is row index[i] of data: rows are
/// gathered while they are packed. Elements stored in bf16 are widened then: the product is that of the
/// widened matrix, bit for bit.
template <class T>
struct GemmOperand {
  Stored<T> data;
  int64_t stride;
  bool transposed = false;
  const int32_t* index = nullptr;
};

/// Where the product goes. With beta = 0, C is written without being read (it may hold anything).
template <class T>
struct GemmResult {
  T* data;
  int64_t stride;
  T alpha = 1;
  T beta = 0;
};

/// The product, in parallel over tiles of C. Serial when called from inside a parallel loop.
template <class T>
void gemm(GemmSize size, GemmOperand<T> a, GemmOperand<T> b, GemmResult<T> c);

/// The same product, bit for bit, on the calling thread: for loops that are parallel over many
/// products.
template <class T>
void gemm_serial(GemmSize size, GemmOperand<T> a, GemmOperand<T> b, GemmResult<T> c);

/// One of several products that share an operand: op(B) [K, n] of its own where they share A, op(A)
/// [n, K] where they share B; the result goes to c.
template <class T>
struct JointProduct {
  int64_t n;
  GemmOperand<T> operand;
  GemmResult<T> c;
};

/// C_i[M, n_i] = alpha_i * op(A) * op(B_i) + beta_i * C_i for all i, as one pool of work that packs
/// op(A) once for all (queries, keys and values of one x), while the right operands together stay in
/// cache; each the same bits as gemm().
template <class T>
void gemm_joint_columns(int64_t M, int64_t K, GemmOperand<T> a,
                        std::span<const JointProduct<T>> products);

/// C_i[n_i, N] = alpha_i * op(A_i) * op(B) + beta_i * C_i for all i, with op(B) packed once for all
/// (the gradients of several weights of one x); each the same bits as gemm().
template <class T>
void gemm_joint_rows(int64_t N, int64_t K, std::span<const JointProduct<T>> products,
                     GemmOperand<T> b);

/// op(A) [M, K] times op(B) [K, N].
template <class T>
struct GemmTerm {
  int64_t K;
  GemmOperand<T> a;
  GemmOperand<T> b;
};

/// C = alpha * sum_i op(A_i) * op(B_i) + beta * C, with a part of C in cache for all terms (the
/// gradient of an x that several weights read); the same bits as one gemm() per term, in order, of
/// which all but the first add.
template <class T>
void gemm_sum(int64_t M, int64_t N, std::span<const GemmTerm<T>> terms, GemmResult<T> c);

/// Elements of a packed op(B) [K, N].
template <class T>
[[nodiscard]] int64_t packed_size(int64_t N, int64_t K);

/// Packs op(B) once for many products with gemm_packed (a weight that serves many micro-batches).
/// `packed` holds packed_size<T>(N, K) elements, 64-byte aligned for speed.
template <class T>
void pack(int64_t N, int64_t K, GemmOperand<T> b, T* packed);

/// gemm() with op(B) packed beforehand; the same bits.
template <class T>
void gemm_packed(GemmSize size, GemmOperand<T> a, const T* packed_b, GemmResult<T> c);

}  // namespace sluice::kernels
