#pragma once
// Experts: a function per expert, applied to the tokens that were sent to it.

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "autograd/ops/dispatch_combine.h"
#include "autograd/support/fields.h"
#include "autograd/support/registry.h"
#include "layers/context.h"
#include "layers/module.h"

namespace sluice {

/// Letters: R rows (assignments), E experts, D hidden size, F expert width.
class Experts : public Module {
 public:
  /// The experts' outputs for each token, combined: sum over the token's slots j that have a row of
  /// weights[n, j] times the expert's output; x [N, D], weights [N, k] -> [N, D].
  [[nodiscard]] virtual Tensor forward(const ForwardContext& context, const Tensor& x,
                                       const Tensor& weights, const DispatchPlan& plan) const = 0;
  /// The same for tokens that stand in expert order already, one expert each, with weight 1: expert e
  /// has the tokens offsets[e] .. offsets[e + 1] - 1 of the layout, possibly none; x [N, D] -> [N, D].
  [[nodiscard]] virtual Tensor forward(const ForwardContext& context, const Tensor& x,
                                       const Tensor& offsets) const = 0;
  /// What the experts keep of one sequence while it is decoded, for ForwardContext::memory of these calls;
  /// null when a token's outputs are its own.
  [[nodiscard]] virtual std::unique_ptr<FeedForwardState> make_state(Pool& /*pool*/,
                                                                     DType /*dtype*/) const {
    return nullptr;
  }
  /// [E, F, D]: input weights of every neuron, whose pre-activation says whether it is active; null
  /// when the experts have no such thing.
  [[nodiscard]] virtual const Parameter* neuron_weights() const { return nullptr; }
};

/// Rows in expert order.
struct ExpertRows {
  Tensor offsets;       // [E + 1] i32: expert e has rows offsets[e] .. offsets[e + 1] - 1
  Tensor token_of_row;  // [R] i32, ascending within an expert; undefined: row r is token r
};

/// Experts as y = after(sum over slots of weight * rows(before(x))): what each token is turned into
/// once, what each expert makes of its rows, what is done once with the sum. `after` is linear and
/// without bias.
class RowExperts : public Experts {
 public:
  [[nodiscard]] Tensor forward(const ForwardContext& context, const Tensor& x,
                               const Tensor& weights, const DispatchPlan& plan) const final;
  [[nodiscard]] Tensor forward(const ForwardContext& context, const Tensor& x,
                               const Tensor& offsets) const final;

 protected:
  /// x [N, D] -> [N, I]
  [[nodiscard]] virtual Tensor before(const ForwardContext& /*context*/, const Tensor& x) const {
    return x;
  }
  /// x [R, I] in expert order -> [R, O]
  [[nodiscard]] virtual Tensor rows(const ForwardContext& context, const Tensor& x,
                                    const ExpertRows& rows) const = 0;
  /// y [N, O] -> [N, D]
  [[nodiscard]] virtual Tensor after(const ForwardContext& /*context*/, const Tensor& y) const {
    return y;
  }
};

/// How many experts of which size.
struct ExpertsSetup {
  int64_t num_experts;
  int64_t hidden_size;
  int64_t intermediate_size;
};

/// A line of experts.def: what one expert is.
struct ExpertsEntry {
  std::string_view name;
  std::string_view doc;
  std::unique_ptr<Configurable> (*make_config)();
  std::unique_ptr<Experts> (*make)(const Builder&, const ExpertsSetup&, const Configurable&);
  bool mixes_kinds = false;  // not every expert can stand in for every other
};

#define SLUICE_EXPERTS(name) extern const ExpertsEntry name##_form;
#include "layers/experts.def"
#undef SLUICE_EXPERTS

[[nodiscard]] const Registry<ExpertsEntry>& experts_registry();
/// For FieldVisitor::tagged.
[[nodiscard]] std::span<const Choice> experts_choices();
/// `experts.form` of a recipe where it names none: swiglu.
[[nodiscard]] Tagged default_experts();
[[nodiscard]] std::unique_ptr<Experts> make_experts(const Builder& b, const ExpertsSetup& setup,
                                                    const Tagged& form);

}  // namespace sluice
