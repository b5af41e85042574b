#pragma once
// What the attention ops share: checks of their operands, segments of documents, the cost by pairs.

#include <algorithm>
#include <initializer_list>
#include <span>
#include <string_view>

#include "autograd/kernels/causal_attention.h"
#include "autograd/ops/common.h"

namespace sluice {

/// q [N, H, P], k [M, K, P], v [M, K, V], H a multiple of K.
inline void check_heads(std::string_view op, const Tensor& q, const Tensor& k, const Tensor& v) {
  check_rank(op, "q", q, 3, "[N, H, P]");
  check_rank(op, "k", k, 3, "[N, K, P]");
  check_rank(op, "v", v, 3, "[N, K, V]");
  check_same_dtype(op, {"q", q}, {"k", k});
  check_same_dtype(op, {"k", k}, {"v", v});
  check_shape(op, "v", v, {k.dim(0), k.dim(1), v.dim(2)});
  SLUICE_CHECK(ShapeError, q.dim(2) == k.dim(2),
               "{}: q is {} but k is {}; head widths {} and {} differ", op, q.shape(), k.shape(),
               q.dim(2), k.dim(2));
  SLUICE_CHECK(ShapeError, k.dim(1) > 0 && q.dim(1) % k.dim(1) == 0,
               "{}: q has {} heads, k has {}; expected a multiple", op, q.dim(1), k.dim(1));
}

/// As many keys as queries, and documents that hold them all.
inline void check_documents(std::string_view op, const Tensor& q, const Tensor& k,
                            std::span<const int64_t> documents) {
  SLUICE_CHECK(ShapeError, q.dim(0) == k.dim(0), "{}: q is {} but k is {}; tokens differ", op,
               q.shape(), k.shape());
  const int64_t end = documents.empty() ? 0 : documents.back();
  SLUICE_CHECK(ShapeError, end == q.dim(0), "{}: documents end at token {}, q has {} tokens", op,
               end, q.dim(0));
}

/// As many keys as queries, and segments [S + 1] i32 that hold them all, in order.
inline void check_segments(std::string_view op, const Tensor& q, const Tensor& k,
                           const Tensor& offsets) {
  SLUICE_CHECK(ShapeError, q.dim(0) == k.dim(0), "{}: q is {} but k is {}; tokens differ", op,
               q.shape(), k.shape());
  check_dtype(op, "segments", offsets, DType::i32);
  check_rank(op, "segments", offsets, 1, "[S + 1]");
  if (!offsets.has_memory()) return;
  const auto all = offsets.span<int32_t>();
  SLUICE_CHECK(ShapeError,
               !all.empty() && all.front() == 0 && all.back() == q.dim(0) &&
                   std::is_sorted(all.begin(), all.end()),
               "{}: segments must rise from 0 to {}, the tokens of q", op, q.dim(0));
}

/// `length` rows of a cache, the last of them those of the queries.
inline void check_cache_length(std::string_view op, const Tensor& q, const Tensor& k,
                               int64_t length) {
  SLUICE_CHECK(ShapeError, q.dim(0) <= length && length <= k.dim(0),
               "{}: {} queries and a cache of {} rows cannot have {} filled", op, q.dim(0),
               k.dim(0), length);
}

/// One segment per document piece that has tokens.
inline std::span<const kernels::AttentionSegment> segments_of(ArenaScope& scratch,
                                                              std::span<const int64_t> offsets) {
  const size_t documents = offsets.empty() ? 0 : offsets.size() - 1;
  auto* segments = scratch.allocate<kernels::AttentionSegment>(static_cast<int64_t>(documents));
  size_t count = 0;
  for (size_t d = 0; d < documents; ++d) {
    if (offsets[d] < offsets[d + 1]) {
      segments[count++] = {offsets[d], offsets[d + 1], offsets[d], offsets[d + 1]};
    }
  }
  return {segments, count};
}

/// The same of offsets [S + 1] i32 read on the host; one segment where only shapes are known.
inline std::span<const kernels::AttentionSegment> segments_of(ArenaScope& scratch,
                                                              const Tensor& offsets, int64_t rows) {
  const int64_t count = offsets.has_memory() ? offsets.dim(0) : 2;
  auto* all = scratch.allocate<int64_t>(count);
  if (offsets.has_memory()) {
    std::ranges::copy(offsets.span<int32_t>(), all);
  } else {
    all[0] = 0;
    all[1] = rows;
  }
  return segments_of(scratch, {all, static_cast<size_t>(count)});
}

/// Allowed pairs of a query and a key, over all heads: what the products are counted by. With chunks
/// as many as there can be, so that shapes alone tell.
inline double allowed_pairs(const kernels::AttentionShape& shape,
                            std::span<const kernels::AttentionSegment> segments) {
  double pairs = 0.0;
  const auto* chunks = shape.chunks;
  const int64_t beside =
      chunks == nullptr ? 0 : chunks->chunk * (chunks->first + chunks->per_query);
  for (int64_t head = 0; head < shape.K; ++head) {
    // A window that does not end is no longer than any document.
    const int64_t window = std::min(shape.window_of(head), kernels::kNoWindow - beside) + beside;
    for (const auto& segment : segments) {
      for (int64_t key = segment.k_end - segment.k_begin, query = segment.q_end - segment.q_begin;
           query > 0; --query, --key) {
        pairs += static_cast<double>(std::min(key, window));
      }
    }
    if (shape.windows == nullptr) return pairs * static_cast<double>(shape.H);
  }
  return pairs * static_cast<double>(shape.H / shape.K);
}

/// `times`: how often the two products, with the keys and with the values, are done.
inline KernelCost cost_of_pairs(const kernels::AttentionShape& shape, double pairs, int times,
                                std::initializer_list<Tensor> moved) {
  KernelCost cost = moving(moved);
  cost.flops = 2.0 * times * pairs * static_cast<double>(shape.P + shape.value_width());
  return cost;
}

}  // namespace sluice
