#include "autograd/kernels/gru_scan.h"

#include <algorithm>
#include <numeric>

#include "autograd/kernels/gemm.h"
#include "autograd/kernels/grouped_gemm.h"
#include "autograd/kernels/vector_math.h"
#include "autograd/support/arena.h"
#include "autograd/support/parallel.h"

namespace sluice::kernels {
namespace {

/// Segments that go side by side: enough rows for a product to be fast, few enough for many blocks.
constexpr int64_t kSegmentBlock = 16;

/// Segments of one expert, longest first.
struct Block {
  int64_t expert;
  int64_t count;
  const int64_t* segment;  // [count]: their numbers
};

/// The blocks of all experts; they live as long as `scratch`.
class Blocks {
 public:
  Blocks(ArenaScope& scratch, int64_t E, const int32_t* expert_offsets,
         std::span<const int64_t> segments)
      : segments_(segments) {
    const int64_t count = std::max<int64_t>(std::ssize(segments) - 1, 0);
    int64_t* order = scratch.allocate<int64_t>(count);
    blocks_ = scratch.allocate<Block>(count);
    int64_t next = 0;
    for (int64_t e = 0; e < E; ++e) {
      const int64_t first = next;
      while (next < count && begin(next) < expert_offsets[e + 1]) ++next;
      std::iota(order + first, order + next, first);
      std::sort(order + first, order + next, [&](int64_t a, int64_t b) {
        return length(a) != length(b) ? length(a) > length(b) : a < b;
      });
      for (int64_t at = first; at < next; at += kSegmentBlock) {
        blocks_[count_++] = {e, std::min(kSegmentBlock, next - at), order + at};
      }
    }
  }
  [[nodiscard]] int64_t begin(int64_t segment) const {
    return segments_[static_cast<size_t>(segment)];
  }
  [[nodiscard]] int64_t length(int64_t segment) const {
    return begin(segment + 1) - begin(segment);
  }
  /// How many segments of the block have a token t.
  [[nodiscard]] int64_t active(const Block& block, int64_t t) const {
    int64_t count = block.count;
    while (count > 0 && length(block.segment[count - 1]) <= t) --count;
    return count;
  }
  [[nodiscard]] int64_t longest(const Block& block) const { return length(block.segment[0]); }

  /// body(block), in parallel.
  template <class Body>
  void for_each(Body&& body) const {
    parallel_for(count_, [&](int64_t i) { body(blocks_[i]); });
  }

  /// Each expert's matrix op(B) [K, N] packed, that of expert e at e * size; for experts with segments.
  template <class T>
  [[nodiscard]] const T* pack_weights(ArenaScope& scratch, int64_t E, GemmSize size,
                                      const T* weight, bool transposed) const {
    const int64_t packed = packed_size<T>(size.N, size.K);
    T* result = scratch.allocate<T>(E * packed);
    const int64_t stride = transposed ? size.K : size.N;
    parallel_for(count_, [&](int64_t i) {
      const int64_t e = blocks_[i].expert;
      if (i > 0 && blocks_[i - 1].expert == e) return;
      pack<T>(size.N, size.K, {weight + e * size.N * size.K, stride, transposed},
              result + e * packed);
    });
    return result;
  }

 private:
  std::span<const int64_t> segments_;
  Block* blocks_;
  int64_t count_ = 0;
};

template <class T>
[[nodiscard]] Vec<T> tanh_of(Vec<T> x) {
  const Vec<T> one = broadcast(T{1});
  const Vec<T> twice = sigmoid(x + x);
  return twice + twice - one;
}

/// One row: a [3 P] and z = W h [3 P] to h', from h.
template <class T>
void step(int64_t P, const T* a, const T* z, const T* bias, const T* h, T* next, T* gates) {
  for_each_vector<T>(P, [&](int64_t i, int64_t count) {
    const auto at = [&](const T* x, int64_t part) { return load_first(x + part * P + i, count); };
    const Vec<T> r = sigmoid(at(a, 0) + at(bias, 0) + at(z, 0));
    const Vec<T> u = sigmoid(at(a, 1) + at(bias, 1) + at(z, 1));
    const Vec<T> s = at(z, 2) + at(bias, 3);
    const Vec<T> c = tanh_of(at(a, 2) + at(bias, 2) + r * s);
    const Vec<T> one = broadcast(T{1});
    store_first(next + i, (one - u) * c + u * at(h, 0), count);
    if (gates == nullptr) return;
    store_first(gates + i, r, count);
    store_first(gates + P + i, u, count);
    store_first(gates + 2 * P + i, c, count);
    store_first(gates + 3 * P + i, s, count);
  });
}

/// What one row's backward reads and leaves.
template <class T>
struct RowGradient {
  const T* gates;      // [4 P]
  const T* before;     // [P]: h
  const T* grad_h;     // [P]
  T* carry;            // [P]: in: from the row behind; out: l u
  T* products;         // [3 P]: dr, du, ds
  T* candidate;        // [P]: dc
  Gradient<T> grad_a;  // [3 P]
};

template <class T>
void step_backward(int64_t P, const RowGradient<T>& row) {
  for_each_vector<T>(P, [&](int64_t i, int64_t count) {
    const auto at = [&](const T* x, int64_t part) { return load_first(x + part * P + i, count); };
    const Vec<T> one = broadcast(T{1});
    const Vec<T> r = at(row.gates, 0);
    const Vec<T> u = at(row.gates, 1);
    const Vec<T> c = at(row.gates, 2);
    const Vec<T> l = at(row.grad_h, 0) + at(row.carry, 0);
    const Vec<T> du = l * (at(row.before, 0) - c) * u * (one - u);
    const Vec<T> dc = l * (one - u) * (one - c * c);
    const Vec<T> dr = dc * at(row.gates, 3) * r * (one - r);
    store_first(row.carry + i, l * u, count);
    store_first(row.products + i, dr, count);
    store_first(row.products + P + i, du, count);
    store_first(row.products + 2 * P + i, dc * r, count);
    store_first(row.candidate + i, dc, count);
    if (!row.grad_a) return;
    put_gradient(row.grad_a, i, count, dr);
    put_gradient(row.grad_a, P + i, count, du);
    put_gradient(row.grad_a, 2 * P + i, count, dc);
  });
}

/// grad_bias[e] (+)= the sums over the rows of e, in order.
template <class T>
void bias_gradient(const GruShape& s, const int32_t* expert_offsets, const T* products,
                   const T* candidate, const Gradient<T>& grad_bias) {
  const int64_t P = s.P;
  parallel_for(s.E, [&](int64_t e) {
    ArenaScope scratch(thread_arena());
    double* sums = scratch.allocate<double>(4 * P);
    std::fill_n(sums, 4 * P, 0.0);
    for (int64_t row = expert_offsets[e]; row < expert_offsets[e + 1]; ++row) {
      const T* product = products + row * 3 * P;
      for (int64_t i = 0; i < 2 * P; ++i) sums[i] += static_cast<double>(product[i]);
      for (int64_t i = 0; i < P; ++i) {
        sums[2 * P + i] += static_cast<double>(candidate[row * P + i]);
        sums[3 * P + i] += static_cast<double>(product[2 * P + i]);
      }
    }
    put_gradient(grad_bias.from(e * 4 * P), 4 * P,
                 [&](int64_t i) { return static_cast<T>(sums[i]); });
  });
}

}  // namespace

template <class T>
void gru_scan(const GruShape& s, std::span<const int64_t> segments, const GruScan<T>& args) {
  const int64_t P = s.P;
  const GruInputs<T>& in = args.in;
  ArenaScope scratch(thread_arena());
  const Blocks blocks(scratch, s.E, in.expert_offsets, segments);
  const GemmSize size{kSegmentBlock, 3 * P, P};
  const T* packed = blocks.pack_weights<T>(scratch, s.E, size, in.weight, true);
  blocks.for_each([&](const Block& block) {
    ArenaScope own(thread_arena());
    T* h = own.allocate<T>(block.count * P);
    T* z = own.allocate<T>(block.count * 3 * P);
    const int64_t e = block.expert;
    std::fill_n(h, block.count * P, T{0});
    for (int64_t m = 0; m < block.count; ++m) {
      const bool enters = blocks.begin(block.segment[m]) == in.expert_offsets[e];
      if (args.initial != nullptr && enters) std::copy_n(args.initial + e * P, P, h + m * P);
    }
    for (int64_t t = 0; t < blocks.longest(block); ++t) {
      const int64_t active = blocks.active(block, t);
      gemm_packed<T>({active, 3 * P, P}, {h, P}, packed + e * packed_size<T>(3 * P, P), {z, 3 * P});
      for (int64_t m = 0; m < active; ++m) {
        const int64_t row = blocks.begin(block.segment[m]) + t;
        T* next = args.h + row * P;
        step<T>(P, in.a + row * 3 * P, z + m * 3 * P, in.bias + e * 4 * P, h + m * P, next,
                args.gates == nullptr ? nullptr : args.gates + row * 4 * P);
        std::copy_n(next, P, h + m * P);
      }
    }
    for (int64_t m = 0; m < block.count; ++m) {
      const bool leaves = blocks.begin(block.segment[m] + 1) == in.expert_offsets[e + 1];
      if (args.last != nullptr && leaves) std::copy_n(h + m * P, P, args.last + e * P);
    }
  });
}

template <class T>
void gru_scan_backward(const GruShape& s, std::span<const int64_t> segments,
                       const GruScanBackward<T>& args) {
  const int64_t P = s.P;
  const GruInputs<T>& in = args.in;
  const int64_t rows = in.expert_offsets[s.E];
  T* products = args.workspace;         // [R, 3 P]
  T* before = products + rows * 3 * P;  // [R, P]
  T* candidate = before + rows * P;     // [R, P]
  ArenaScope scratch(thread_arena());
  const Blocks blocks(scratch, s.E, in.expert_offsets, segments);
  const GemmSize size{kSegmentBlock, P, 3 * P};
  const T* packed = blocks.pack_weights<T>(scratch, s.E, size, in.weight, false);
  blocks.for_each([&](const Block& block) {
    ArenaScope own(thread_arena());
    T* carry = own.allocate<T>(block.count * P);
    T* z = own.allocate<T>(block.count * 3 * P);
    std::fill_n(carry, block.count * P, T{0});
    for (int64_t t = blocks.longest(block) - 1; t >= 0; --t) {
      const int64_t active = blocks.active(block, t);
      for (int64_t m = 0; m < active; ++m) {
        const int64_t row = blocks.begin(block.segment[m]) + t;
        if (t == 0) {
          std::fill_n(before + row * P, P, T{0});
        } else {
          std::copy_n(args.h + (row - 1) * P, P, before + row * P);
        }
        step_backward<T>(P, {.gates = args.gates + row * 4 * P,
                             .before = before + row * P,
                             .grad_h = args.grad_h + row * P,
                             .carry = carry + m * P,
                             .products = z + m * 3 * P,
                             .candidate = candidate + row * P,
                             .grad_a = args.grad_a ? args.grad_a.from(row * 3 * P) : args.grad_a});
        std::copy_n(z + m * 3 * P, 3 * P, products + row * 3 * P);
      }
      gemm_packed<T>({active, P, 3 * P}, {z, 3 * P},
                     packed + block.expert * packed_size<T>(P, 3 * P), {carry, P, T{1}, T{1}});
    }
  });
  if (args.grad_weight) {
    grouped_gemm_grad_weight<T>({s.E, in.expert_offsets, P, 3 * P}, {products}, {before},
                                args.grad_weight);
  }
  if (args.grad_bias) {
    bias_gradient<T>(s, in.expert_offsets, products, candidate, args.grad_bias);
  }
}

#define SLUICE_INSTANTIATE(T)                                                           \
  template void gru_scan(const GruShape&, std::span<const int64_t>, const GruScan<T>&); \
  template void gru_scan_backward(const GruShape&, std::span<const int64_t>,            \
                                  const GruScanBackward<T>&);
SLUICE_INSTANTIATE(float)
SLUICE_INSTANTIATE(double)
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
