#pragma once
// Low-rank experts that a router chooses for each token: what mola, flex_rank, lora_mixer and smora have
// in common.
//
//   y = W x + s sum over chosen e of g_e B_e A_e x
//
// Every adapted linear map has a router and balancers of its own, as every routed layer has.

#include <memory>

#include "layers/adapters/low_rank.h"
#include "layers/routed_layer.h"

namespace sluice {

class RoutedLowRank : public LowRankAdapter {
 public:
  /// `ranks` of each expert. With `scales`, one for each expert, `scale` is what all have beside them.
  /// Throws ConfigError for a router that remembers earlier tokens.
  RoutedLowRank(const Builder& b, const AdapterSetup& setup, const AdapterSettings& settings,
                std::vector<int64_t> ranks, double scale, std::vector<double> scales = {});
  [[nodiscard]] RoutedLayer* routed_layer() override { return &routed_; }
  [[nodiscard]] std::vector<LoraExpert> experts() const override {
    return factors_.experts(lora_scale(), scales_);
  }

 protected:
  [[nodiscard]] FactorTensors factors(Tape& tape) const override { return factors_.tensors(tape); }
  [[nodiscard]] Tensor gates(const ForwardContext& context, const Tensor& x,
                             const FactorTensors& factors) const override;
  [[nodiscard]] Merging merging() const override;
  /// From the combine weights [N, E], zero for experts that were not chosen, to the gates of the
  /// experts [N, E]; may add losses to context.block.
  [[nodiscard]] virtual Tensor expert_gates(const ForwardContext& /*context*/,
                                            const Route& /*route*/, const Tensor& weights) const {
    return weights;
  }

 private:
  RoutedLayer& routed_;
  const Factors& factors_;
  std::vector<double> scales_;
  double sole_weight_ = 0.0;  // of a single expert; 0 where it varies
};

/// The section of experts of one rank each, some of which every token uses.
struct LoraExpertsConfig : RoutingConfig, AdapterSettings {
  /// Experts of parts of the model that follow each other, of equally many layers; empty: num_experts
  /// everywhere.
  std::vector<int64_t> allocation;

  LoraExpertsConfig();
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;
  [[nodiscard]] const RoutingConfig* routing_of(int64_t index, int64_t count) const override;
  [[nodiscard]] std::string check_depth(int64_t sublayers) const override;

 private:
  /// One for each part; they stay where they are, since models are made from them.
  std::vector<std::shared_ptr<RoutingConfig>> parts_;
};

/// RoutedLowRank of such a section: experts of rank r, times alpha / r.
class LoraExperts : public RoutedLowRank {
 public:
  LoraExperts(const Builder& b, const AdapterSetup& setup, const LoraExpertsConfig& config)
      : RoutedLowRank(
            b, setup, config,
            std::vector<int64_t>(static_cast<size_t>(setup.routing->num_experts), config.rank),
            config.scale(config.rank)) {}
};

}  // namespace sluice
