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
#include <string>

#include "autograd/support/fields.h"
#include "autograd/support/scheduled.h"
#include "layers/active_experts.h"

namespace sluice {

/// Shared experts, computed as one feed-forward of the joint width, which is the same function.
struct SharedExpertsConfig final : Configurable {
  int64_t num_experts = 1;
  int64_t intermediate_size = 256;
  void fields(FieldVisitor& v) override;
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
struct ExpertsConfig final : Configurable {
  int64_t num_experts = 16;
  Scheduled top_k = 2.0;
  int64_t intermediate_size = 256;
  std::shared_ptr<Configurable> shared;  // SharedExpertsConfig, or null
  Tagged router;
  std::optional<Scheduled> capacity_factor;
  std::string drop_policy = "position";
  std::shared_ptr<Configurable> momentum;   // MomentumConfig, or null
  std::shared_ptr<Configurable> diversify;  // DiversifyConfig, or null
  ExpertsConfig();
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;

  /// Experts per token at this point of the run: the scheduled number, rounded, at least 1.
  [[nodiscard]] int64_t top_k_at(const Progress& progress) const;
  /// How many experts a token uses in training under the router's own choice, and after
  /// `with_capacity` how many of them have room for it.
  [[nodiscard]] ActiveExperts active_experts(const ActiveExpertsQuery& query) const;
  [[nodiscard]] ActiveExperts with_capacity(const ActiveExpertsQuery& query,
                                            const ActiveExperts& chosen) const;
  /// The most that any point of any run has.
  [[nodiscard]] int64_t largest_top_k() const;
  /// How the experts are spawned; null where they are experts from the start.
  [[nodiscard]] std::shared_ptr<const DiversifyConfig> diversification() const {
    return std::dynamic_pointer_cast<const DiversifyConfig>(diversify);
  }

 private:
  [[nodiscard]] int64_t rounded_top_k(double k) const;
};

}  // namespace sluice
