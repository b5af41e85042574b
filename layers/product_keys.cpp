#include "layers/product_keys.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/softmax.h"
#include "autograd/ops/top_k.h"
#include "autograd/support/parallel.h"

namespace sluice {
namespace {

constexpr int64_t kTokenBlock = 16;

/// Where the k best sums of two lists of k candidates come from.
struct BestPairs {
  Tensor first;   // [N, k] i32: number in codebook 1
  Tensor second;  // [N, k] i32: in codebook 2
};

/// Of every token the k largest first[i] + second[j]; candidates stand best first.
BestPairs best_pairs(Pool& pool, const TopKResult& first, const TopKResult& second, int64_t k) {
  const int64_t tokens = first.indices.dim(0);
  BestPairs best{Tensor::empty(pool, {tokens, k}, DType::i32),
                 Tensor::empty(pool, {tokens, k}, DType::i32)};
  if (!best.first.has_memory()) return best;
  struct Pair {
    double sum;
    int32_t a;
    int32_t b;
  };
  dispatch_float(first.values.dtype(), [&]<class T>() {
    parallel_for_ranges(tokens, kTokenBlock, [&](int64_t begin, int64_t end) {
      ArenaScope scratch(thread_arena());
      // The pair of ranks (i, j) has (i + 1)(j + 1) - 1 pairs above it: few can be among the best.
      Pair* pairs = scratch.allocate<Pair>(k * k);
      for (int64_t n = begin; n < end; ++n) {
        int64_t count = 0;
        for (int64_t i = 0; i < k; ++i) {
          for (int64_t j = 0; (i + 1) * (j + 1) <= k; ++j) {
            const double sum = static_cast<double>(first.values.data<T>()[n * k + i]) +
                               static_cast<double>(second.values.data<T>()[n * k + j]);
            // Not a number ranks last, so that the order is one.
            pairs[count++] = {std::isnan(sum) ? -std::numeric_limits<double>::infinity() : sum,
                              first.indices.data<int32_t>()[n * k + i],
                              second.indices.data<int32_t>()[n * k + j]};
          }
        }
        std::sort(pairs, pairs + count, [](const Pair& x, const Pair& y) {
          if (x.sum != y.sum) return x.sum > y.sum;
          return x.a != y.a ? x.a < y.a : x.b < y.b;
        });
        for (int64_t j = 0; j < k; ++j) {
          best.first.data<int32_t>()[n * k + j] = pairs[j].a;
          best.second.data<int32_t>()[n * k + j] = pairs[j].b;
        }
      }
    });
  });
  return best;
}

}  // namespace

ProductKeys::ProductKeys(const Builder& b, const ProductKeysSpec& spec, double norm_eps)
    : spec_(spec), norm_eps_(norm_eps) {
  query_ = &child(std::make_unique<Linear>(
      b, LinearSpec{"query", spec.hidden_size, 2 * spec.num_heads * spec.key_size}));
  codebooks_ = &parameter(b, "codebooks", {2 * spec.num_heads, spec.num_keys, spec.key_size},
                          ParameterKind::matrix);
  codebooks_->stays_f32 = true;
  if (spec.normalise_queries) {
    norm_ = &parameter(b, "query_norm", {spec.key_size}, ParameterKind::norm, Init::ones());
  }
}

FoundEntries ProductKeys::find(const ForwardContext& context, const Tensor& x) const {
  Tape& tape = context.tape;
  const int64_t tokens = x.dim(0);
  const int64_t halves = 2 * spec_.num_heads;
  const int64_t k = spec_.top_k;
  Tensor queries = query_->forward(context, x);
  if (norm_ != nullptr) {
    queries = reshape(tape, queries, {tokens * halves, spec_.key_size});
    queries = rms_norm(tape, queries, tape.use(*norm_), norm_eps_);
    queries = reshape(tape, queries, {tokens, halves * spec_.key_size});
  }
  const Tensor codebooks =
      reshape(tape, tape.use(*codebooks_), {halves * spec_.num_keys, spec_.key_size});
  const auto scores_of = [&](int64_t half) {
    const Tensor query =
        slice_columns(tape, queries, half * spec_.key_size, (half + 1) * spec_.key_size);
    return linear(tape, query,
                  slice_rows(tape, codebooks, half * spec_.num_keys, (half + 1) * spec_.num_keys));
  };
  FoundEntries found{Tensor::empty(tape.pool(), {tokens, spec_.num_heads * k}, DType::i32), {}};
  std::vector<Tensor> scores;
  for (int64_t head = 0; head < spec_.num_heads; ++head) {
    const Tensor first = scores_of(2 * head);
    const Tensor second = scores_of(2 * head + 1);
    BestPairs best;
    {
      const NoGrad no_grad(tape);
      best = best_pairs(tape.pool(), top_k(tape, first, k), top_k(tape, second, k), k);
    }
    scores.push_back(
        add(tape, gather_last(tape, first, best.first), gather_last(tape, second, best.second)));
    if (!found.ids.has_memory()) continue;
    for (int64_t n = 0; n < tokens; ++n) {
      for (int64_t j = 0; j < k; ++j) {
        found.ids.data<int32_t>()[(n * spec_.num_heads + head) * k + j] =
            best.first.data<int32_t>()[n * k + j] * static_cast<int32_t>(spec_.num_keys) +
            best.second.data<int32_t>()[n * k + j];
      }
    }
  }
  found.scores = concat_columns(tape, scores);
  return found;
}

Tensor ProductKeys::softmax_by_head(const ForwardContext& context, const Tensor& scores) const {
  Tape& tape = context.tape;
  const int64_t rows = scores.dim(0) * spec_.num_heads;
  return reshape(tape, softmax(tape, reshape(tape, scores, {rows, spec_.top_k})), scores.shape());
}

}  // namespace sluice
