#include "tests/support/tiny_trained.h"

#include <string>

namespace sluice::testing {

Checkpoint tiny_checkpoint(std::string_view changes, int64_t steps) {
  Recipe recipe = tiny_recipe(changes);
  recipe.model.init.std = 0.2;
  SingleRank communicator;
  Run run(recipe, communicator);
  for (int64_t i = 0; i < steps; ++i) (void)run.step();
  const auto evaluation = steps > 0 ? run.evaluate() : std::nullopt;
  return run.checkpoint(evaluation ? std::optional(evaluation->loss.per_token()) : std::nullopt);
}

TrainedModel tiny_trained(std::string_view changes, int64_t steps) {
  return build_trained_model(tiny_checkpoint(changes, steps), "tiny.h5");
}

std::vector<double> logits_of(TrainedModel& trained, const std::vector<int32_t>& tokens) {
  const auto count = static_cast<int64_t>(tokens.size());
  Tape tape(*trained.pool);
  const NoGrad no_grad(tape);
  const SequenceLayout layout = SequenceLayout::single(*trained.pool, count);
  const ForwardContext context{.tape = tape, .layout = layout, .routing = trained.routing.get()};
  trained.routing->begin_evaluation();
  const Tensor hidden =
      trained.model->forward(context, Tensor::of<int32_t>(*trained.pool, {count}, tokens)).hidden;
  const Tensor logits = trained.model->logits(context, hidden);
  trained.routing->end_evaluation();
  return dispatch_float(logits.dtype(), [&]<class T>() {
    const auto values = logits.span<T>();
    return std::vector<double>(values.begin(), values.end());
  });
}

std::vector<double> logits_of(const Checkpoint& checkpoint) {
  TrainedModel trained = build_trained_model(checkpoint, "tiny.h5");
  std::vector<int32_t> tokens;
  for (int32_t t = 0; t < 30; ++t) tokens.push_back(97 + t * t % 24);
  return logits_of(trained, tokens);
}

}  // namespace sluice::testing
