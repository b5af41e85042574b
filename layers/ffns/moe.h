#pragma once
// The sparse feed-forward: a router, a balancer, routed experts, and shared experts that always
// run.
//
// Shazeer et al. 2017; fine-grained and shared experts: DeepSeekMoE (Dai et al. 2024); dropless
// segments: MegaBlocks (Gale et al. 2022); capacity and dropping: GShard (Lepikhin et al. 2020),
// Switch (Fedus et al. 2021).
//
//   y_t = sum over chosen e of w_te FFN_e(x_t) + sum over shared FFN_s(x_t)

#include <memory>
#include <optional>

#include "layers/experts.h"
#include "layers/ffns/dense.h"
#include "layers/routed_layer.h"

namespace sluice {

/// Shared experts, computed as one feed-forward of the joint width, which is the same function.
/// `combine: learned` weighs the two sides by c = softmax(x Wc^T + bc), y = c_0 routed + c_1 shared
/// (residual MoE; Rajbhandari et al. 2022, DeepSpeed-MoE). `combine: gated` adds sigmoid(x Ws^T) times
/// the shared experts' output (Qwen2-MoE; Yang et al. 2024, arXiv 2407.10671).
struct SharedExpertsConfig final : Configurable {
  enum class Combine : uint8_t { sum, learned, gated };
  int64_t num_experts = 1;
  int64_t intermediate_size = 256;
  Combine combine = Combine::sum;
  void fields(FieldVisitor& v) override;
};

/// The shared experts "<path>.shared_experts..." of a SharedExpertsConfig; null for null.
[[nodiscard]] std::unique_ptr<DenseFeedForward> make_shared_experts(const Builder& b,
                                                                    int64_t hidden_size,
                                                                    const Configurable* config);

/// What a sparse feed-forward keeps while it decodes.
struct SparseState final : FeedForwardState {
  std::unique_ptr<FeedForwardState> router;  // each may be null
  std::unique_ptr<FeedForwardState> experts;
};

/// Null where neither router nor experts keep anything.
[[nodiscard]] std::unique_ptr<SparseState> make_sparse_state(const RoutedLayer& routed,
                                                             const Experts& experts, Pool& pool,
                                                             DType dtype, int64_t capacity);

/// The passes of the router and of the experts, each with its own part of context.memory, a SparseState
/// or null.
struct SparseContexts {
  ForwardContext router;
  ForwardContext experts;
  explicit SparseContexts(const ForwardContext& context);
};

/// A first part of the run in which every expert layer is dense, one expert that takes all tokens,
/// from which all are then made: expert-diversify of EvoMoE (Nie et al. 2021, arXiv 2112.14397).
struct DiversifyConfig final : Configurable {
  enum class Moments : uint8_t { copy, reset };
  int64_t steps = 100;
  double mask = 0.1;
  double noise = 0.0;
  Moments moments = Moments::copy;
  void fields(FieldVisitor& v) override;
};

/// `model.experts` of a recipe.
struct ExpertsConfig final : RoutingConfig {
  int64_t intermediate_size = 256;
  Tagged form = default_experts();
  std::optional<int64_t> pool_layers = 1;   // all: nullopt
  std::shared_ptr<Configurable> shared;     // SharedExpertsConfig, or null
  std::shared_ptr<Configurable> momentum;   // MomentumConfig, or null
  std::shared_ptr<Configurable> diversify;  // DiversifyConfig, or null
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;

  /// How the experts are spawned; null where they are experts from the start.
  [[nodiscard]] std::shared_ptr<const DiversifyConfig> diversification() const {
    return std::dynamic_pointer_cast<const DiversifyConfig>(diversify);
  }
};

}  // namespace sluice
