#include "balance/losses.h"

#include <algorithm>
#include <numeric>

#include "autograd/kernels/top_k.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/reduce.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/softmax.h"
#include "autograd/support/error.h"
#include "autograd/support/parallel.h"

namespace sluice {
namespace {

constexpr int64_t kTokenBlock = 512;

double tokens_of_global_batch(const RouterInput& input) {
  SLUICE_INTERNAL_CHECK(input.valid_tokens > 0, "a global batch of {} tokens with a loss",
                        input.valid_tokens);
  return static_cast<double>(input.valid_tokens);
}

/// A constant of `shape` whose row t is fill(t, row), in parallel; untouched for shapes only.
template <class Fill>
Tensor constant_rows(Tape& tape, const Shape& shape, DType dtype, Fill&& fill) {
  Tensor rows = tape.empty(shape, dtype);
  if (!rows.has_memory()) return rows;
  const int64_t count = shape[0];
  const int64_t width = count == 0 ? 0 : rows.numel() / count;
  dispatch_float(dtype, [&]<class T>() {
    T* values = rows.data<T>();
    parallel_for_ranges(count, kTokenBlock, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) fill(t, std::span(values + t * width, width));
    });
  });
  return rows;
}

/// Leaves every token as many of its chosen experts as `own` gives it, the router's unshifted
/// choice: fewer than top_k for routers with a threshold or with null experts.
void keep_as_many(const Selection& own, int64_t k, std::vector<int32_t>& chosen) {
  parallel_for_ranges(own.tokens, kTokenBlock, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const auto slots = own.expert.begin() + t * own.top_k;
      const int64_t given = own.top_k - std::count(slots, slots + own.top_k, kNoExpert);
      std::fill(chosen.begin() + t * k + std::min(given, k), chosen.begin() + (t + 1) * k,
                kNoExpert);
    }
  });
}

/// sum over t, i of weights[t, i] p[t, i], one element.
Tensor weighted_sum(Tape& tape, const Tensor& p, const Tensor& weights) {
  return sum(tape, mul(tape, p, weights));
}

}  // namespace

void visit_load_source(FieldVisitor& v, LoadSource& source) {
  v.enumeration({"selection",
                 "load that the loss sees: of the executed selection, or of the scores without "
                 "biases and groups"},
                source,
                {{"auto", LoadSource::automatic},
                 {"executed", LoadSource::executed},
                 {"unbiased", LoadSource::unbiased}});
}

std::span<const int32_t> ChosenExperts::of(LoadSource source, const RouterInput& input,
                                           const Selection& selection) {
  const Tensor& scores = input.router.scores;
  const bool is_executed =
      source == LoadSource::executed || (source == LoadSource::automatic && !selection.shifted);
  if (is_executed || !scores.has_memory()) return selection.expert;
  chosen_.resize(static_cast<size_t>(scores.dim(0) * input.top_k));
  dispatch_float(scores.dtype(), [&]<class T>() {
    kernels::top_k<T>(scores.dim(0), {.E = scores.dim(1),
                                      .k = input.top_k,
                                      .scores = scores.data<T>(),
                                      .values = nullptr,
                                      .indices = chosen_.data()});
  });
  input.choose({}, unshifted_);
  keep_as_many(unshifted_, input.top_k, chosen_);
  return chosen_;
}

std::span<double> load_fractions(ArenaScope& scratch, std::span<const int64_t> counts) {
  const int64_t total = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  const std::span<double> fractions(scratch.allocate<double>(std::ssize(counts)), counts.size());
  std::ranges::fill(fractions, 0.0);
  if (total == 0) return fractions;
  for (size_t e = 0; e < counts.size(); ++e) {
    fractions[e] = static_cast<double>(counts[e]) / static_cast<double>(total);
  }
  return fractions;
}

std::span<int64_t> count_assignments(ArenaScope& scratch, std::span<const int32_t> chosen,
                                     const RouterInput& input, int64_t begin, int64_t end) {
  const int64_t experts = input.router.probabilities.dim(1);
  const std::span<int64_t> counts(scratch.allocate<int64_t>(experts), static_cast<size_t>(experts));
  std::ranges::fill(counts, 0);
  // A selection may hold more slots per token than top_k.
  const size_t slots = chosen.size() / std::max<size_t>(1, input.layout.counted.size());
  for (int64_t t = begin; t < end; ++t) {
    if (input.layout.counted[static_cast<size_t>(t)] == 0) continue;
    for (const int32_t expert : chosen.subspan(static_cast<size_t>(t) * slots, slots)) {
      if (expert != kNoExpert) ++counts[static_cast<size_t>(expert)];
    }
  }
  return counts;
}

Tensor counted_rows(Tape& tape, const RouterInput& input, double factor) {
  const Tensor& logits = input.router.logits;
  const auto& counted = input.layout.counted;
  return constant_rows(tape, {logits.dim(0)}, logits.dtype(),
                       [&]<class T>(int64_t t, std::span<T> value) {
                         const bool counts = counted[static_cast<size_t>(t)] != 0;
                         value[0] = counts ? static_cast<T>(factor) : T{0};
                       });
}

double share_of_global_batch(const RouterInput& input) {
  return static_cast<double>(input.layout.counted_tokens()) / tokens_of_global_batch(input);
}

Tensor load_balancing_loss(Tape& tape, const RouterInput& input, std::span<const double> fractions,
                           double coefficient) {
  return load_balancing_loss(tape, input, input.router.probabilities, fractions, coefficient);
}

Tensor load_balancing_loss(Tape& tape, const RouterInput& input, const Tensor& p,
                           std::span<const double> fractions, double coefficient) {
  const auto& counted = input.layout.counted;
  const double factor =
      coefficient * static_cast<double>(fractions.size()) / tokens_of_global_batch(input);
  const Tensor weights =
      constant_rows(tape, p.shape(), p.dtype(), [&]<class T>(int64_t t, std::span<T> row) {
        const double of_token = counted[static_cast<size_t>(t)] != 0 ? factor : 0.0;
        for (size_t e = 0; e < row.size(); ++e) row[e] = static_cast<T>(of_token * fractions[e]);
      });
  return weighted_sum(tape, p, weights);
}

Tensor sequence_balancing_loss(Tape& tape, const RouterInput& input,
                               std::span<const int32_t> chosen, double coefficient) {
  const Tensor& p = input.router.probabilities;
  const SequenceLayout& layout = input.layout;
  SLUICE_INTERNAL_CHECK(input.global_sequences > 0, "a global batch of {} sequences",
                        input.global_sequences);
  const double factor =
      coefficient * static_cast<double>(p.dim(1)) / static_cast<double>(input.global_sequences);
  Tensor weights = tape.zeros(p.shape(), p.dtype());
  if (!weights.has_memory()) return weighted_sum(tape, p, weights);
  parallel_for(layout.sequences(), [&](int64_t sequence) {
    const int64_t begin = layout.sequence_offsets[static_cast<size_t>(sequence)];
    const int64_t end = layout.sequence_offsets[static_cast<size_t>(sequence) + 1];
    const int64_t tokens =
        std::accumulate(layout.counted.begin() + begin, layout.counted.begin() + end, int64_t{0});
    if (tokens == 0) return;
    ArenaScope scratch(thread_arena());
    const std::span<const double> fractions =
        load_fractions(scratch, count_assignments(scratch, chosen, input, begin, end));
    const double of_token = factor / static_cast<double>(tokens);
    dispatch_float(p.dtype(), [&]<class T>() {
      for (int64_t t = begin; t < end; ++t) {
        if (layout.counted[static_cast<size_t>(t)] == 0) continue;
        T* row = weights.data<T>() + t * p.dim(1);
        for (size_t e = 0; e < fractions.size(); ++e) {
          row[e] = static_cast<T>(of_token * fractions[e]);
        }
      }
    });
  });
  return weighted_sum(tape, p, weights);
}

Tensor z_loss(Tape& tape, const RouterInput& input, double coefficient) {
  Tensor logits = input.router.logits;
  if (input.router.null_logits.defined()) {
    const Tensor all[] = {logits, input.router.null_logits};
    logits = concat_columns(tape, all);
  }
  const Tensor squares = square(tape, logsumexp(tape, logits));
  return weighted_sum(tape, squares,
                      counted_rows(tape, input, coefficient / tokens_of_global_batch(input)));
}

}  // namespace sluice
