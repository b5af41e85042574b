// NormRouter: scores that do not grow with the logits (UniPool 2026, arXiv 2605.06665).
//
//   z = x W^T,   u = z / |z|,   s = ReLU(u) gamma c0,   top-k of s,   w = s
//
// gamma is learned, 1 at first; the weights are not normalised. The constant c0 makes the k chosen
// weights of a random token a vector of length 1:
//
//   c0 = E[ 1 / |top-k(ReLU(n / |n|))| ],   n ~ N(0, I_E)
//
// estimated from 32768 samples (the reference: 100000) at the largest k of the run. A sample
// without a positive entry has no finite value and is left out, where the reference returns
// infinity for few experts; for these (E = 8, k = 1) the mean is dominated by rare samples and
// `constant: median` is the steadier estimate [R].
//
// |z| is (|z|^2 + 1e-16)^(1/2), the page's |z| + 1e-8 in a form with a derivative at 0. A chosen
// expert with u <= 0 has weight 0 and no gradient. Probabilities for losses are s over their row
// sum.

#include <algorithm>
#include <cmath>
#include <functional>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/softmax.h"
#include "autograd/ops/top_k.h"
#include "autograd/support/parallel.h"
#include "layers/router.h"
#include "layers/routers/choose.h"
#include "layers/routers/unit_rows.h"

namespace sluice {
namespace {

constexpr double kRowSumEpsilon = 1e-20;
constexpr int64_t kSamples = 32768;
constexpr int64_t kSampleBlock = 256;
constexpr uint64_t kSampleSeed = 42;

enum class Constant : uint8_t { mean, median };

struct NormRouterConfig final : RouterConfig {
  Constant constant = Constant::mean;

  void fields(FieldVisitor& v) override {
    v.enumeration({"constant",
                   "c0 over random directions: their mean, or for few experts the "
                   "median"},
                  constant, {{"mean", Constant::mean}, {"median", Constant::median}});
  }
  [[nodiscard]] std::string check_against(int64_t /*num_experts*/,
                                          int64_t /*top_k*/) const override {
    return {};
  }
};

/// |n| / |top-k(ReLU(n))| of sample `index`; 0 when no entry is positive.
double inverse_length(std::span<double> n, int64_t top_k, int64_t index) {
  const RandomKey key{kSampleSeed, RandomPurpose::init, 0, 0};
  double squares = 0.0;
  for (size_t e = 0; e < n.size(); ++e) {
    n[e] = normal(key, static_cast<uint64_t>(index), e);
    squares += n[e] * n[e];
  }
  const auto best = n.begin() + top_k;
  std::partial_sort(n.begin(), best, n.end(), std::greater<>());
  double chosen = 0.0;
  for (auto it = n.begin(); it != best; ++it) chosen += std::pow(std::max(*it, 0.0), 2);
  return chosen > 0.0 ? std::sqrt(squares / chosen) : 0.0;
}

/// c0 of E experts and k chosen.
double norm_constant(Constant kind, int64_t experts, int64_t top_k) {
  std::vector<double> samples(static_cast<size_t>(kSamples));
  parallel_for_ranges(kSamples, kSampleBlock, [&](int64_t begin, int64_t end) {
    ArenaScope scratch(thread_arena());
    const std::span<double> n(scratch.allocate<double>(experts), static_cast<size_t>(experts));
    for (int64_t i = begin; i < end; ++i) {
      samples[static_cast<size_t>(i)] = inverse_length(n, top_k, i);
    }
  });
  std::erase(samples, 0.0);
  SLUICE_INTERNAL_CHECK(!samples.empty(), "no random direction of {} experts is positive", experts);
  if (kind == Constant::median) {
    const auto middle = samples.begin() + static_cast<int64_t>(samples.size() / 2);
    std::nth_element(samples.begin(), middle, samples.end());
    return *middle;
  }
  double sum = 0.0;
  for (const double sample : samples) sum += sample;
  return sum / static_cast<double>(samples.size());
}

/// 1 where x > 0, else 0: a constant of x's shape.
Tensor positive_mask(Tape& tape, const Tensor& x) {
  Tensor mask = tape.empty(x.shape(), x.dtype());
  if (!x.has_memory()) return mask;
  dispatch_float(x.dtype(), [&]<class T>() {
    const auto values = x.span<T>();
    std::transform(values.begin(), values.end(), mask.span<T>().begin(),
                   [](T value) { return value > T{0} ? T{1} : T{0}; });
  });
  return mask;
}

class NormRouter final : public Router {
 public:
  NormRouter(const Builder& b, const RouterSetup& setup, const NormRouterConfig& config)
      : weight_(
            parameter(b, "weight", {setup.num_experts, setup.hidden_size}, ParameterKind::router)),
        gain_(parameter(b, "gain", {1}, ParameterKind::norm, Init::ones())),
        constant_(b.pool().shapes_only()
                      ? 1.0
                      : norm_constant(config.constant, setup.num_experts, setup.top_k)) {}

  RouterScores score(const ForwardContext& context, const Tensor& x) const override {
    Tape& tape = context.tape;
    const Tensor z = linear(tape, x, tape.use(weight_));
    const Tensor unit = unit_rows(tape, z);
    const Tensor positive = mul(tape, unit, positive_mask(tape, unit));
    // gamma for every token: a column of ones times a 1 x 1 matrix.
    const int64_t tokens = x.dim(0);
    const Tensor gain = matmul(tape, filled(tape, {tokens, 1}, z.dtype(), constant_),
                               reshape(tape, tape.use(gain_), {1, 1}));
    const Tensor scores = mul_rows(tape, positive, reshape(tape, gain, {tokens}));
    return {z, scores, normalise_rows(tape, scores, kRowSumEpsilon)};
  }

  void choose(const ForwardContext& /*context*/, const RouterScores& scores,
              std::span<const double> shift, int64_t top_k, Selection& selection) const override {
    choose_top_k(scores.scores, shift, top_k, selection);
  }

  Tensor combine_weights(const ForwardContext& context, const RouterScores& scores,
                         const Selection& selection) const override {
    return gather_last(context.tape, scores.scores, expert_index(context.tape.pool(), selection));
  }

 private:
  Parameter& weight_;  // [E, D]
  Parameter& gain_;    // [1]: gamma
  double constant_;    // c0
};

}  // namespace

const RouterEntry norm_router_router = {
    .name = "norm_router",
    .doc =
        "ReLU of normalised logits, scaled by one learned number (UniPool 2026, arXiv "
        "2605.06665)",
    .make_config = make_router_config<NormRouterConfig>,
    .make = make_router<NormRouter, NormRouterConfig>,
};

}  // namespace sluice
