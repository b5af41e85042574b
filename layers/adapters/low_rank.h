#pragma once
// What all adapters are: factors of low rank, and gates between them (adapters.h).
//
// All ranks of all experts are computed for every token and multiplied by their gates, zero for experts
// that were not chosen: two plain products of R = E r rows each, and E / k times the multiplications of
// the chosen experts alone. That suits the few dozen ranks of an adapter, not many experts of high rank.
//
// Letters: N tokens, E experts, r ranks of one expert, R ranks of all.

#include <span>
#include <string>
#include <vector>

#include "layers/adapters.h"

namespace sluice {

/// A [R, in] and B^T [R, out].
struct FactorTensors {
  Tensor a;
  Tensor b;
};

/// One LoRA among the factors of an adapter: rows first .. first + rank of A and of B^T, times `scale`.
struct LoraExpert {
  const Parameter* a;  // [..., in]
  const Parameter* b;  // [..., out]
  int64_t first;
  int64_t rank;
  double scale;  // s, without what a router or a mixture weighs it by
};

/// What the factors of E experts are made from.
struct FactorSpec {
  int64_t in;
  int64_t out;
  std::vector<int64_t> ranks;  // of each expert, from 0
  double b_std = 0.0;
  /// Experts, of which a token uses some; else one matrix that it always uses, of a single expert.
  bool routed = false;
};

/// The factors of E experts. A starts with U(-in^(-1/2), in^(-1/2)) as published (Kaiming's uniform
/// values with slope 5^(1/2)), B with zeros or, for b_std > 0, uniform numbers of that standard
/// deviation. Parameters "<path>.w_a" [E, r, in] and "w_b" [E, r, out], without E where nothing is
/// routed; for ranks that differ "w_a.<e>" [1, r_e, in] and "w_b.<e>" for each expert.
class Factors : public Module {
 public:
  Factors(const Builder& b, const FactorSpec& spec);
  [[nodiscard]] FactorTensors tensors(Tape& tape) const;
  [[nodiscard]] int64_t num_experts() const { return static_cast<int64_t>(ranks_.size()); }
  /// R
  [[nodiscard]] int64_t total() const { return total_; }
  [[nodiscard]] std::span<const int64_t> ranks() const { return ranks_; }
  /// Those of rank above 0, in order, times `scale` and scales[e] where there are such.
  [[nodiscard]] std::vector<LoraExpert> experts(double scale,
                                                std::span<const double> scales = {}) const;
  /// Gates of experts [N, E] -> gates of ranks [N, R], those of expert e times scales[e], or 1 where
  /// `scales` is empty.
  [[nodiscard]] Tensor spread(Tape& tape, const Tensor& gates,
                              std::span<const double> scales = {}) const;

 private:
  [[nodiscard]] Tensor joined(Tape& tape, std::span<Parameter* const> parts, int64_t width) const;
  int64_t in_;
  int64_t out_;
  std::vector<int64_t> ranks_;
  int64_t total_ = 0;
  std::vector<Parameter*> a_;  // one, or one for each expert with ranks
  std::vector<Parameter*> b_;
};

/// Sets B's initial values.
void fill_b(const Builder& b, Parameter& parameter, double std);

/// y + s (g * (A x)) B^T; a subclass says what factors and gates are.
class LowRankAdapter : public Adapter {
 public:
  LowRankAdapter(const Builder& b, const AdapterSetup& setup, const AdapterSettings& settings,
                 double scale);
  [[nodiscard]] Tensor apply(const ForwardContext& context, const Tensor& x,
                             const Tensor& y) const final;
  [[nodiscard]] std::string merge_into(std::span<double> w) const final;
  /// The LoRAs that it is made of, in order; empty where it is not made of such.
  [[nodiscard]] virtual std::vector<LoraExpert> experts() const { return {}; }

 protected:
  [[nodiscard]] double lora_scale() const { return scale_; }
  [[nodiscard]] virtual FactorTensors factors(Tape& tape) const = 0;
  /// [N, R], or undefined where all are 1; x [N, in] as the Linear reads it.
  [[nodiscard]] virtual Tensor gates(const ForwardContext& /*context*/, const Tensor& /*x*/,
                                     const FactorTensors& /*factors*/) const {
    return {};
  }
  /// Whether the gates are the same for all tokens: then `factor`, what all of them are.
  struct Merging {
    double factor = 1.0;
    std::string why_not;  // a clause; empty when they are
  };
  [[nodiscard]] virtual Merging merging() const { return {}; }

 private:
  Pool& pool_;
  int64_t in_;
  int64_t out_;
  double scale_;
  double dropout_;
  int64_t stream_;
};

/// x, with elements zeroed in training.
[[nodiscard]] Tensor adapter_dropout(const ForwardContext& context, const Tensor& x,
                                     double probability, int64_t stream);

}  // namespace sluice
