#include "balance/variation.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numbers>
#include <vector>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/reduce.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/softmax.h"
#include "autograd/support/error.h"
#include "autograd/support/parallel.h"
#include "balance/losses.h"

namespace sluice {
namespace {

constexpr int64_t kTokenBlock = 512;
/// Added to the squared mean before dividing (the authors' code).
constexpr double kMeanEpsilon = 1e-10;
/// Added to the sum of the chosen scores: a token without an expert has gates of 0.
constexpr double kGateEpsilon = 1e-20;
/// A threshold that every logit is above, small enough to be squared without harm.
constexpr double kNoThreshold = -1e15;

/// 1 / x for positive x.
Tensor reciprocal(Tape& tape, const Tensor& x) {
  return exp(tape, scale(tape, log(tape, x), -1.0));
}

/// [N, E], a constant: 1 for the chosen experts of a counted token.
Tensor chosen_mask(Tape& tape, const RouterInput& input, const Selection& selection) {
  const Tensor& scores = input.router.scores;
  Tensor mask = tape.zeros(scores.shape(), scores.dtype());
  if (!mask.has_memory()) return mask;
  const int64_t k = selection.top_k;
  dispatch_float(mask.dtype(), [&]<class T>() {
    parallel_for_ranges(mask.dim(0), kTokenBlock, [&](int64_t begin, int64_t end) {
      for (int64_t slot = begin * k; slot < end * k; ++slot) {
        const int32_t expert = selection.expert[static_cast<size_t>(slot)];
        if (expert == kNoExpert || input.layout.counted[static_cast<size_t>(slot / k)] == 0) {
          continue;
        }
        mask.data<T>()[slot / k * mask.dim(1) + expert] = T{1};
      }
    });
  });
  return mask;
}

/// theta [N, E] of smooth_load.
Tensor thresholds(Tape& tape, const Tensor& noisy, int64_t top_k) {
  Tensor theta = tape.empty(noisy.shape(), noisy.dtype());
  if (!theta.has_memory()) return theta;
  const int64_t experts = noisy.dim(1);
  dispatch_float(noisy.dtype(), [&]<class T>() {
    parallel_for_ranges(noisy.dim(0), kTokenBlock, [&](int64_t begin, int64_t end) {
      ArenaScope scratch(thread_arena());
      const std::span<T> ranked(scratch.allocate<T>(experts), static_cast<size_t>(experts));
      for (int64_t t = begin; t < end; ++t) {
        const T* z = noisy.data<T>() + t * experts;
        std::transform(z, z + experts, ranked.begin(), [](T value) {
          return std::isnan(value) ? -std::numeric_limits<T>::infinity() : value;
        });
        std::partial_sort(ranked.begin(), ranked.begin() + std::min(top_k + 1, experts),
                          ranked.end(), std::greater<>());
        const T outside = ranked[static_cast<size_t>(top_k - 1)];
        const T inside = top_k < experts ? ranked[static_cast<size_t>(top_k)] : T(kNoThreshold);
        T* row = theta.data<T>() + t * experts;
        for (int64_t e = 0; e < experts; ++e) row[e] = z[e] > inside ? inside : outside;
      }
    });
  });
  return theta;
}

}  // namespace

void visit_variance(FieldVisitor& v, Variance& variance) {
  v.enumeration({"variance",
                 "unbiased: divided by the number of experts - 1, as the authors' code; "
                 "population: by their number"},
                variance, {{"unbiased", Variance::unbiased}, {"population", Variance::population}});
}

Tensor squared_variation(Tape& tape, const Tensor& v, Variance variance) {
  const int64_t experts = v.dim(0);
  const int64_t divisor =
      variance == Variance::population ? experts : std::max<int64_t>(1, experts - 1);
  const Tensor row = reshape(tape, v, {1, experts});
  const Tensor average = reshape(tape, mean(tape, v), {1});
  const Tensor ones = add_constant(tape, tape.zeros({1, experts}, v.dtype()), 1.0);
  const Tensor deviation = sub(tape, row, mul_rows(tape, ones, average));
  const Tensor variation =
      scale(tape, sum(tape, square(tape, deviation)), 1.0 / static_cast<double>(divisor));
  const Tensor squared_mean = add_constant(tape, square(tape, mean(tape, v)), kMeanEpsilon);
  return mul(tape, variation, reciprocal(tape, squared_mean));
}

Tensor importance(Tape& tape, const RouterInput& input, const Selection& selection, Importance of) {
  if (of == Importance::probabilities) {
    return sum_rows(tape,
                    mul_rows(tape, input.router.probabilities, counted_rows(tape, input, 1.0)));
  }
  Tensor gates = mul(tape, input.router.scores, chosen_mask(tape, input, selection));
  if (selection.top_k > 1) gates = normalise_rows(tape, gates, kGateEpsilon);
  return sum_rows(tape, gates);
}

Tensor smooth_load(Tape& tape, const RouterInput& input) {
  const RouterScores& router = input.router;
  SLUICE_INTERNAL_CHECK(router.noise_scale.defined() && router.clean_logits.defined(),
                        "a smooth load of logits without noise");
  const Tensor theta = thresholds(tape, router.logits, input.top_k);
  const Tensor margin =
      mul(tape, sub(tape, router.clean_logits, theta), reciprocal(tape, router.noise_scale));
  const Tensor probability = add_constant(
      tape, scale(tape, erf(tape, scale(tape, margin, 1.0 / std::numbers::sqrt2)), 0.5), 0.5);
  return sum_rows(tape, mul_rows(tape, probability, counted_rows(tape, input, 1.0)));
}

}  // namespace sluice
