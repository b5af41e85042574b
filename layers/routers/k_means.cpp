// The online K-means router ("Routers Learn the Geometry of Their Experts", arXiv 2605.12476; the
// details of the update are ours [R]).
//
//   score = cos(x, mu_e);  top-k;  w = softmax over the chosen cosines, or 1 / k
//   step:  mu_e <- lambda mu_e + (1 - lambda) mean of x / |x| over the tokens sent to e
//
// The centroids mu [E, D] are state and not learned: a frozen parameter "centroids", saved with the
// weights, random directions of length 1 at first. Tokens with a loss of the whole global batch
// move them, once per applied step; an expert without tokens keeps its place. Balance comes from
// centroids that follow their members; no loss is needed. x gets a gradient through the weights,
// mu does not.

#include <algorithm>
#include <cmath>

#include "autograd/ops/matmul.h"
#include "autograd/ops/softmax.h"
#include "autograd/ops/top_k.h"
#include "autograd/support/parallel.h"
#include "layers/router.h"
#include "layers/routers/choose.h"
#include "layers/routers/unit_rows.h"

namespace sluice {
namespace {

constexpr int64_t kTokenBlock = 256;
constexpr int64_t kColumnBlock = 64;

enum class Weights : uint8_t { softmax, uniform };
enum class Features : uint8_t { unit, raw };

struct KMeansConfig final : RouterConfig {
  Scheduled decay = 0.99;
  Weights weights = Weights::softmax;
  Features features = Features::unit;

  void fields(FieldVisitor& v) override {
    v.scheduled({"decay", "lambda: how much of a centroid stays at each step"}, decay,
                {.min = 0.0, .max = 1.0});
    v.enumeration({"weights", "softmax: over the chosen cosines; uniform: 1 / k"}, weights,
                  {{"softmax", Weights::softmax}, {"uniform", Weights::uniform}});
    v.enumeration({"features", "what centroids average: unit, x / |x|; raw, x"}, features,
                  {{"unit", Features::unit}, {"raw", Features::raw}});
  }
  [[nodiscard]] std::string check_against(int64_t /*num_experts*/,
                                          int64_t /*top_k*/) const override {
    return {};
  }
};

/// 1 / |row|, 0 for a row of zeros.
template <class T>
double inverse_norm(const T* row, int64_t width) {
  double squares = 0.0;
  for (int64_t d = 0; d < width; ++d) {
    squares += static_cast<double>(row[d]) * static_cast<double>(row[d]);
  }
  return squares > 0.0 ? 1.0 / std::sqrt(squares) : 0.0;
}

class KMeansRouter final : public Router {
 public:
  KMeansRouter(const Builder& b, const RouterSetup& setup, const KMeansConfig& config)
      : centroids_(parameter(b, "centroids", {setup.num_experts, setup.hidden_size},
                             ParameterKind::router)),
        experts_(setup.num_experts),
        width_(setup.hidden_size),
        config_(config) {
    centroids_.trainable = false;
    if (!centroids_.value.has_memory()) return;
    dispatch_float(centroids_.value.dtype(), [&]<class T>() {
      T* rows = centroids_.value.data<T>();
      for (int64_t e = 0; e < experts_; ++e) {
        const double inverse = inverse_norm(rows + e * width_, width_);
        for (int64_t i = e * width_; i < (e + 1) * width_; ++i) {
          rows[i] = static_cast<T>(static_cast<double>(rows[i]) * inverse);
        }
      }
    });
  }

  RouterScores score(const ForwardContext& context, const Tensor& x) const override {
    Tape& tape = context.tape;
    const Tensor directions = unit_rows(tape, centroids_.value.detached());
    const Tensor cosines = linear(tape, unit_rows(tape, x), directions);
    return {cosines, cosines, softmax(tape, cosines)};
  }

  void choose(const ForwardContext& /*context*/, const RouterScores& scores,
              std::span<const double> shift, int64_t top_k, Selection& selection) const override {
    choose_top_k(scores.scores, shift, top_k, selection);
  }

  Tensor combine_weights(const ForwardContext& context, const RouterScores& scores,
                         const Selection& selection) const override {
    Tape& tape = context.tape;
    if (config_.weights == Weights::uniform) {
      return filled(tape, {selection.tokens, selection.top_k}, scores.scores.dtype(),
                    1.0 / static_cast<double>(selection.top_k));
    }
    return softmax(tape, gather_last(tape, scores.logits, expert_index(tape.pool(), selection)));
  }

  /// [E, D] sums of features, then [E] numbers of tokens.
  [[nodiscard]] int64_t num_sums() const override { return experts_ * (width_ + 1); }

  void add_sums(const ForwardContext& context, const Tensor& x, const Selection& selection,
                std::span<double> sums) const override {
    const std::vector<int64_t>& load = selection.load;
    for (int64_t e = 0; e < experts_; ++e) {
      sums[static_cast<size_t>(experts_ * width_ + e)] +=
          static_cast<double>(load[static_cast<size_t>(e)]);
    }
    dispatch_float(x.dtype(), [&]<class T>() {
      const T* rows = x.data<T>();
      std::vector<double> factor(static_cast<size_t>(selection.tokens));
      parallel_for_ranges(selection.tokens, kTokenBlock, [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
          const bool counts = context.layout.counted[static_cast<size_t>(t)] != 0;
          const bool unit = config_.features == Features::unit;
          factor[static_cast<size_t>(t)] =
              !counts ? 0.0 : (unit ? inverse_norm(rows + t * width_, width_) : 1.0);
        }
      });
      // Columns in parallel, tokens in order: the same sums on any number of threads.
      parallel_for_ranges(width_, kColumnBlock, [&](int64_t begin, int64_t end) {
        for (int64_t slot = 0; slot < selection.tokens * selection.top_k; ++slot) {
          const int64_t t = slot / selection.top_k;
          const int32_t e = selection.expert[static_cast<size_t>(slot)];
          const double of_token = factor[static_cast<size_t>(t)];
          if (e == kNoExpert || of_token == 0.0) continue;
          double* sum = sums.data() + e * width_;
          for (int64_t d = begin; d < end; ++d) {
            sum[d] += of_token * static_cast<double>(rows[t * width_ + d]);
          }
        }
      });
    });
  }

  void end_step(std::span<const double> sums, const Progress& progress) override {
    const bool finite =
        std::all_of(sums.begin(), sums.end(), [](double sum) { return std::isfinite(sum); });
    if (!finite) return;
    const double decay = config_.decay.at(progress);
    dispatch_float(centroids_.value.dtype(), [&]<class T>() {
      T* rows = centroids_.value.data<T>();
      for (int64_t e = 0; e < experts_; ++e) {
        const double tokens = sums[static_cast<size_t>(experts_ * width_ + e)];
        if (tokens == 0.0) continue;
        for (int64_t i = e * width_; i < (e + 1) * width_; ++i) {
          const double mean = sums[static_cast<size_t>(i)] / tokens;
          rows[i] = static_cast<T>(std::lerp(mean, static_cast<double>(rows[i]), decay));
        }
      }
    });
  }

 private:
  Parameter& centroids_;  // mu [E, D]
  int64_t experts_;
  int64_t width_;
  KMeansConfig config_;
};

}  // namespace

const RouterEntry k_means_router = {
    .name = "k_means",
    .doc = "cosine to centroids that follow the tokens sent to them (arXiv 2605.12476)",
    .make_config = make_router_config<KMeansConfig>,
    .make = make_router<KMeansRouter, KMeansConfig>,
};

}  // namespace sluice
