// The gate of MixER (Nzoyem et al. 2025, "Towards Foundational Models for Dynamical System
// Reconstruction: Hierarchical Meta-Learning via Mixture of Experts", arXiv 2502.05335;
// ddrous/MixER): one expert per domain of the training data, found by K-means and least squares
// instead of gradients.
//
//   xi_j [C]: context of domain j, learned; experts read x + P xi_j, P [D, C] of every expert layer
//   g(xi) = softmax(W^T [xi; 1]), W [C + 1, E] constant for autodiff
//   an expert runs where g_i > max g - 1e-6, with weight 1
//
// Update of W, every `update_gate_every` steps, without gradients:
//
//   1. the loss of every expert in every domain, on the step's tokens
//   2. K-means with E clusters on the contexts (cluster_domains.h), from the centroids of the last
//      time, at first U(-1e-3, 1e-3); with an empty cluster, or without convergence, W stays and the
//      centroids are forgotten
//   3. per cluster the median loss of each expert
//   4. clusters in order take their best expert that is still free
//   5. Y [J, E] one-hot, W = least squares of [xi + N(0, noise^2); 1] W = Y
//
// The paper mixes whole models over environments. Ours: there is one gate for the whole model, that
// of the first expert layer, and expert i of all layers together is model i, so that its loss takes
// one forward pass of the step's tokens with every expert layer sent to i. An environment is a
// domain. Contexts reach the experts through P. Of several experts within 1e-6 the lowest runs. A
// domain without a token in the step has no part in the medians; where a whole cluster has none, W
// stays and the centroids are kept. Least squares give the W of smallest norm where J <= C.
//
// W and the centroids are frozen parameters "weight" and "centroids", saved with the weights. A
// forgotten centroid is a fresh draw, keyed by the step: nothing else needs to be kept.

#include <algorithm>
#include <cmath>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/matmul.h"
#include "autograd/support/rng.h"
#include "layers/router.h"
#include "layers/routers/choose.h"
#include "layers/routers/cluster_domains.h"
#include "layers/routers/least_squares.h"
#include "layers/routers/unit_rows.h"

namespace sluice {
namespace {

/// Gates this far below the best count as equal to it.
constexpr double kSameGate = 1e-6;
/// Half the range that centroids start in.
constexpr double kCentroidStart = 1e-3;

struct MixerConfig final : RouterConfig {
  int64_t domains = 8;
  int64_t context_size = 8;
  int64_t update_gate_every = 20;
  int64_t max_kmeans = 20;
  double tolerance = 1e-4;
  double noise = 1e-4;
  int64_t seed = 0;

  void fields(FieldVisitor& v) override {
    v.integer({"domains", "domains of data.sources J; at least num_experts"}, domains, {.min = 1});
    v.integer({"context_size", "width C of a domain's context"}, context_size, {.min = 1});
    v.integer({"update_gate_every",
               "steps from one update to the next; each takes a forward pass per expert"},
              update_gate_every, {.min = 1});
    v.integer({"max_kmeans", "most iterations of K-means in an update"}, max_kmeans, {.min = 1});
    v.number({"tolerance", "K-means has converged when no coordinate moves by more"}, tolerance,
             {.min = 0.0});
    v.number({"noise", "standard deviation of what is added to contexts before the fit"}, noise,
             {.min = 0.0});
    v.integer({"seed", "number of the noise and of the first centroids"}, seed, {.min = 0});
  }
  [[nodiscard]] std::string check_against(int64_t num_experts, int64_t top_k) const override {
    if (top_k != 1) {
      return fmt::format("top_k: found {}, allowed 1 (router mixer takes one expert)", top_k);
    }
    if (num_experts > domains) {
      return fmt::format(
          "num_experts: found {}, allowed 1 to {} (router.domains): router mixer gives every "
          "expert a domain of its own",
          num_experts, domains);
    }
    return {};
  }
  [[nodiscard]] bool is_fixed() const override { return true; }
  [[nodiscard]] int64_t num_domains() const override { return domains; }
};

std::vector<double> values_of(const Parameter& parameter) {
  return dispatch_float(parameter.value.dtype(), [&]<class T>() {
    const auto values = parameter.value.span<T>();
    return std::vector<double>(values.begin(), values.end());
  });
}

void set_values(Parameter& parameter, std::span<const double> values) {
  dispatch_float(parameter.value.dtype(), [&]<class T>() {
    std::ranges::transform(values, parameter.value.data<T>(),
                           [](double value) { return static_cast<T>(value); });
  });
}

bool all_finite(std::span<const double> values) {
  return std::ranges::all_of(values, [](double value) { return std::isfinite(value); });
}

/// What all layers share: contexts, W and centroids, and the update of the last two.
class DomainGate final : public Module {
 public:
  DomainGate(const Builder& b, int64_t experts, const MixerConfig& config)
      : contexts_(parameter(b, "contexts", {config.domains, config.context_size},
                            ParameterKind::embedding)),
        weight_(parameter(b, "weight", {config.context_size + 1, experts}, ParameterKind::router)),
        centroids_(parameter(b, "centroids", {experts, config.context_size}, ParameterKind::router,
                             Init::zeros())),
        experts_(experts),
        config_(config) {
    contexts_.stays_f32 = true;  // logits() and the update compute with them
    weight_.trainable = false;
    centroids_.trainable = false;
    if (centroids_.value.has_memory()) forget_centroids(0);
  }

  [[nodiscard]] Parameter& contexts() const { return contexts_; }

  /// [J, E]: W^T [xi; 1] of every domain.
  [[nodiscard]] std::vector<double> logits() const {
    const std::vector<double> contexts = values_of(contexts_);
    const std::vector<double> weight = values_of(weight_);
    const auto width = static_cast<size_t>(config_.context_size);
    const auto experts = static_cast<size_t>(experts_);
    std::vector<double> result(static_cast<size_t>(config_.domains) * experts);
    for (size_t i = 0; i < result.size(); ++i) {
      const size_t j = i / experts;
      const size_t e = i % experts;
      result[i] = weight[width * experts + e];
      for (size_t d = 0; d < width; ++d) {
        result[i] += contexts[j * width + d] * weight[d * experts + e];
      }
    }
    return result;
  }

  [[nodiscard]] bool is_due(const Progress& progress) const {
    return (progress.step + 1) % config_.update_gate_every == 0;
  }

  /// `sums`: [J, E] losses, then [J] tokens.
  void update(std::span<const double> sums, const Progress& progress) {
    if (!contexts_.value.has_memory()) return;  // shapes only
    const std::vector<double> contexts = values_of(contexts_);
    if (!all_finite(sums) || !all_finite(contexts)) return;
    const auto clusters =
        cluster_domains(contexts, config_.context_size, values_of(centroids_),
                        {.max_iterations = config_.max_kmeans, .tolerance = config_.tolerance});
    if (!clusters) {
      forget_centroids(progress.step + 1);
      return;
    }
    set_values(centroids_, clusters->centroids);
    const auto medians = median_losses(clusters->cluster_of, means_of(sums), experts_);
    if (!medians) return;
    const std::vector<int32_t> expert_of = take_experts(*medians, experts_);
    std::vector<double> target(static_cast<size_t>(config_.domains * experts_), 0.0);
    for (int64_t j = 0; j < config_.domains; ++j) {
      const auto cluster = static_cast<size_t>(clusters->cluster_of[static_cast<size_t>(j)]);
      target[static_cast<size_t>(j * experts_ + expert_of[cluster])] = 1.0;
    }
    const std::vector<double> weight = least_squares(inputs(contexts, progress), config_.domains,
                                                     config_.context_size + 1, target, experts_);
    if (all_finite(weight)) set_values(weight_, weight);
  }

 private:
  [[nodiscard]] DomainLosses means_of(std::span<const double> sums) const {
    DomainLosses result;
    for (int64_t j = 0; j < config_.domains; ++j) {
      const double tokens = sums[static_cast<size_t>(config_.domains * experts_ + j)];
      result.is_known.push_back(tokens > 0.0 ? 1 : 0);
      for (int64_t e = 0; e < experts_; ++e) {
        const double sum = sums[static_cast<size_t>(j * experts_ + e)];
        result.mean.push_back(tokens > 0.0 ? sum / tokens : 0.0);
      }
    }
    return result;
  }

  /// [J, C + 1]: [xi + noise; 1].
  [[nodiscard]] std::vector<double> inputs(std::span<const double> contexts,
                                           const Progress& progress) const {
    const RandomKey key{static_cast<uint64_t>(config_.seed), RandomPurpose::router_noise, 0,
                        static_cast<uint64_t>(progress.step)};
    std::vector<double> result;
    for (size_t i = 0; i < contexts.size(); ++i) {
      result.push_back(contexts[i] + config_.noise * normal(key, 0, i));
      if ((i + 1) % static_cast<size_t>(config_.context_size) == 0) result.push_back(1.0);
    }
    return result;
  }

  void forget_centroids(int64_t step) {
    const RandomKey key{static_cast<uint64_t>(config_.seed), RandomPurpose::router_choice, 0,
                        static_cast<uint64_t>(step)};
    std::vector<double> start(static_cast<size_t>(experts_ * config_.context_size));
    for (size_t i = 0; i < start.size(); ++i) {
      start[i] = kCentroidStart * (2.0 * uniform(key, 0, i) - 1.0);
    }
    set_values(centroids_, start);
  }

  Parameter& contexts_;   // xi [J, C]
  Parameter& weight_;     // W [C + 1, E]
  Parameter& centroids_;  // [E, C]: where the next K-means starts
  int64_t experts_;
  MixerConfig config_;
};

/// [N]: domain of every token.
std::vector<int32_t> domain_of_token(const SequenceLayout& layout, int64_t domains) {
  std::vector<int32_t> result;
  for (int64_t g = 0; g < layout.documents(); ++g) {
    const auto i = static_cast<size_t>(g);
    const int32_t domain = layout.document_domains[i];
    SLUICE_INTERNAL_CHECK(domain >= 0 && domain < domains, "mixer router: domain {} of {}", domain,
                          domains);
    result.insert(result.end(),
                  static_cast<size_t>(layout.document_offsets[i + 1] - layout.document_offsets[i]),
                  domain);
  }
  return result;
}

class MixerRouter final : public Router {
 public:
  MixerRouter(const Builder& b, const RouterSetup& setup, const MixerConfig& config)
      : domains_(config.domains),
        experts_(setup.num_experts),
        is_first_(setup.first == nullptr),
        gate_(is_first_ ? child(std::make_unique<DomainGate>(b, experts_, config))
                        : dynamic_cast<const MixerRouter&>(*setup.first).gate_),
        projection_(parameter(b, "projection", {setup.hidden_size, config.context_size},
                              ParameterKind::matrix)) {}

  RouterScores score(const ForwardContext& context, const Tensor& x) const override {
    Tensor logits = context.tape.zeros({x.dim(0), experts_}, x.dtype());
    Tensor gates = context.tape.zeros({x.dim(0), experts_}, x.dtype());
    if (!logits.has_memory()) return {logits, gates, gates};
    const std::vector<double> of_domain = gate_.logits();
    const std::vector<double> softmax_of_domain = softmax_rows(of_domain);
    const std::vector<int32_t> domain = domain_of_token(context.layout, domains_);
    dispatch_float(x.dtype(), [&]<class T>() {
      for (int64_t i = 0; i < logits.numel(); ++i) {
        const auto from = static_cast<size_t>(domain[static_cast<size_t>(i / experts_)] * experts_ +
                                              i % experts_);
        logits.data<T>()[i] = static_cast<T>(of_domain[from]);
        gates.data<T>()[i] = static_cast<T>(softmax_of_domain[from]);
      }
    });
    return {logits, gates, gates};
  }

  void choose(const ForwardContext& /*context*/, const RouterScores& scores,
              std::span<const double> /*shift*/, int64_t top_k,
              Selection& selection) const override {
    choose_top_k(scores.scores, {}, top_k, selection, [](std::span<double> gates) {
      const double best = *std::ranges::max_element(gates);
      for (double& gate : gates) {
        if (gate > best - kSameGate) gate = best;
      }
    });
  }

  Tensor combine_weights(const ForwardContext& context, const RouterScores& scores,
                         const Selection& selection) const override {
    return filled(context.tape, {selection.tokens, selection.top_k}, scores.scores.dtype(), 1.0);
  }

  Tensor expert_input(const ForwardContext& context, const Tensor& x) const override {
    Tape& tape = context.tape;
    const Tensor of_domain =
        linear(tape, tape.use(gate_.contexts()), tape.use(projection_));  // [J, D]
    const Tensor domain =
        Tensor::of<int32_t>(tape.pool(), {x.dim(0)}, domain_of_token(context.layout, domains_));
    return add(tape, x, embedding(tape, of_domain, domain));
  }

  [[nodiscard]] int64_t num_sums() const override {
    return is_first_ ? domains_ * (experts_ + 1) : 0;
  }
  [[nodiscard]] bool wants_expert_losses(const Progress& progress) const override {
    return is_first_ && gate_.is_due(progress);
  }

  void add_expert_losses(const ForwardContext& context, int64_t expert, const Tensor& losses,
                         std::span<double> sums) const override {
    const std::vector<int32_t> domain = domain_of_token(context.layout, domains_);
    dispatch_float(losses.dtype(), [&]<class T>() {
      for (size_t t = 0; t < domain.size(); ++t) {
        if (context.layout.counted[t] == 0) continue;
        sums[static_cast<size_t>(domain[t] * experts_ + expert)] +=
            static_cast<double>(losses.data<T>()[t]);
        // The tokens are the same for every expert.
        if (expert == 0) sums[static_cast<size_t>(domains_ * experts_ + domain[t])] += 1.0;
      }
    });
  }

  void end_step(std::span<const double> sums, const Progress& progress) override {
    if (wants_expert_losses(progress)) gate_.update(sums, progress);
  }

 private:
  [[nodiscard]] std::vector<double> softmax_rows(std::vector<double> values) const {
    const auto width = static_cast<size_t>(experts_);
    for (size_t begin = 0; begin < values.size(); begin += width) {
      const std::span<double> row = std::span(values).subspan(begin, width);
      const double greatest = *std::ranges::max_element(row);
      double sum = 0.0;
      for (double& value : row) sum += value = std::exp(value - greatest);
      for (double& value : row) value /= sum;
    }
    return values;
  }

  int64_t domains_;
  int64_t experts_;
  bool is_first_;
  DomainGate& gate_;       // of the first expert layer
  Parameter& projection_;  // P [D, C]
};

}  // namespace

const RouterEntry mixer_router = {
    .name = "mixer",
    .doc =
        "an expert per domain of the data, by K-means and least squares (MixER, arXiv 2502.05335)",
    .make_config = make_router_config<MixerConfig>,
    .make = make_router<MixerRouter, MixerConfig>,
};

}  // namespace sluice
