#include "layers/experts.h"

#include "autograd/support/choices.h"

namespace sluice {
namespace {

#define SLUICE_EXPERTS(name) &name##_form,
constexpr const ExpertsEntry* kExperts[] = {
#include "layers/experts.def"
};
#undef SLUICE_EXPERTS

}  // namespace

Tensor RowExperts::forward(const ForwardContext& context, const Tensor& x, const Tensor& weights,
                           const DispatchPlan& plan) const {
  Tape& tape = context.tape;
  const Tensor in = dispatch(tape, before(context, x), plan);
  const Tensor out = rows(context, in, {plan.offsets, plan.token_of_row});
  return after(context, combine(tape, out, weights, plan));
}

Tensor RowExperts::forward(const ForwardContext& context, const Tensor& x,
                           const Tensor& offsets) const {
  return after(context, rows(context, before(context, x), {offsets, {}}));
}

const Registry<ExpertsEntry>& experts_registry() {
  static const Registry<ExpertsEntry> registry("experts", kExperts);
  return registry;
}

std::span<const Choice> experts_choices() {
  static const std::vector<Choice> choices = choices_of<ExpertsEntry>(kExperts);
  return choices;
}

Tagged default_experts() {
  return {std::string(swiglu_form.name), std::shared_ptr<Configurable>(swiglu_form.make_config())};
}

std::unique_ptr<Experts> make_experts(const Builder& b, const ExpertsSetup& setup,
                                      const Tagged& form) {
  return experts_registry().at(form.type).make(b, setup, *form.config);
}

}  // namespace sluice
