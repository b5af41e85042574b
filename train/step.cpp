#include "train/step.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <optional>

#include "optim/clip.h"
#include "train/distillation.h"
#include "train/spawn_experts.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// A NaN's sign is an accident of the processor; messages leave it out.
double unsigned_nan(double value) { return std::isnan(value) ? std::abs(value) : value; }

/// Sends every token to the same expert, in every layer.
class OneExpert final : public RouteSource {
 public:
  explicit OneExpert(int64_t expert) : expert_(static_cast<int32_t>(expert)) {}
  [[nodiscard]] bool choose(const RouteRequest& request, Selection& selection) override {
    selection.tokens = request.layout.tokens();
    selection.experts = request.experts;
    selection.top_k = 1;
    selection.expert.assign(static_cast<size_t>(selection.tokens), expert_);
    return true;
  }

 private:
  int32_t expert_;
};

}  // namespace

TrainingStep::TrainingStep(const StepParts& parts, StepOptions options)
    : parts_(parts),
      options_(std::move(options)),
      parameters_(parts.model.parameters()),
      frozen_(parameters_, options_.freeze_experts),
      tape_(parts.pool, &meter_) {}

StepResult TrainingStep::run(const Batch& batch, const Progress& progress, const StepWatch& watch) {
  StepResult result = run_update(batch, progress, watch);
  // Forward passes go by the number of the step, so this does too, whether or not there was an
  // update.
  if (options_.diversify != nullptr && progress.step + 1 == options_.diversify->steps) {
    spawn_experts(parameters_, parts_.optimizer, *options_.diversify, options_.seed);
  }
  return result;
}

StepResult TrainingStep::run_update(const Batch& batch, const Progress& progress,
                                    const StepWatch& watch) {
  const auto start = Clock::now();
  const GlobalCounts counts = count(batch);
  StepResult result{.learning_rate = parts_.optimizer.learning_rate(progress),
                    .tokens = counts.tokens,
                    .valid_tokens = counts.valid_tokens};
  if (counts.valid_tokens == 0) {
    result.empty = true;
    result.problem =
        fmt::format("none of the {} tokens of the global batch has a loss", counts.tokens);
    return result;
  }
  for (Parameter* parameter : parameters_) parameter->zero_grad(parts_.pool);
  if (options_.consistency) result.consistency = 0.0;
  if (options_.teacher != nullptr) result.distillation = 0.0;

  split_into_micro_batches(batch, std::max<int64_t>(1, options_.micro_batch_tokens / passes()),
                           micro_batches_);
  result.micro_batches = static_cast<int64_t>(micro_batches_.size());
  parts_.routing.begin_step(result.micro_batches, parts_.communicator.size());
  parts_.routing.share_running_loads(parts_.communicator);
  save_routing();
  if (parts_.routing.needs_counting_pass()) run_counting_pass(counts, progress);
  if (watch.routers) {
    watch_micro_batches(counts, progress, result);
  } else {
    run_micro_batches(counts, progress, result);
  }
  if (parts_.model.wants_expert_losses(progress)) measure_experts(counts, progress);
  input_.release_tensors();
  sum_over_ranks(result);
  update(progress, watch, result);
  if (!result.applied) restore_routing();
  result.seconds = seconds_since(start);
  return result;
}

TrainingStep::GlobalCounts TrainingStep::count(const Batch& batch) const {
  std::array<int64_t, 3> counts = {batch.num_tokens(), batch.valid_targets(),
                                   batch.num_sequences()};
  parts_.communicator.sum(std::span<int64_t>(counts));
  return {counts[0], counts[1], counts[2]};
}

ForwardContext TrainingStep::context_for(const SequenceLayout& layout, const GlobalCounts& counts,
                                         const Progress& progress) {
  return {.tape = tape_,
          .layout = layout,
          .routing = &parts_.routing,
          .training = true,
          .recompute = options_.recompute,
          .seed = options_.seed,
          .progress = progress,
          .valid_tokens = passes() * counts.valid_tokens,
          .global_sequences = passes() * counts.sequences};
}

const ModelInput& TrainingStep::input_of(const Batch& micro_batch, int64_t passes) {
  make_model_input(parts_.pool, micro_batch, passes, input_);
  return input_;
}

/// Balancers may learn while they route; a skipped update takes that back.
void TrainingStep::save_routing() {
  const PhaseTimer timer(clock(), Phase::balancing, Direction::forward);
  routing_before_.begin_saving();
  parts_.routing.visit_state(routing_before_);
}

void TrainingStep::restore_routing() {
  routing_before_.begin_restoring();
  parts_.routing.visit_state(routing_before_);
  routing_before_.finish_restoring();
}

void TrainingStep::run_counting_pass(const GlobalCounts& counts, const Progress& progress) {
  // Whatever no kernel accounts for.
  const PhaseTimer timer(clock(), Phase::balancing, Direction::extra);
  const NoGrad no_grad(tape_);
  const ExtraForward extra(tape_);
  parts_.routing.begin_counting();
  for (size_t i = 0; i < micro_batches_.size(); ++i) {
    parts_.routing.begin_micro_batch(static_cast<int64_t>(i));
    const ModelInput& input = input_of(micro_batches_[i], passes());
    (void)parts_.model.forward(context_for(input.layout, counts, progress), input.tokens);
  }
  parts_.routing.end_counting(parts_.communicator);
}

void TrainingStep::measure_experts(const GlobalCounts& counts, const Progress& progress) {
  const PhaseTimer timer(clock(), Phase::routing, Direction::extra);
  const NoGrad no_grad(tape_);
  const ExtraForward extra(tape_);
  const int64_t experts = parts_.model.experts_per_layer().front();
  for (const Batch& micro_batch : micro_batches_) {
    const ModelInput& input = input_of(micro_batch, 1);
    ForwardContext context = context_for(input.layout, counts, progress);
    context.training = false;
    for (int64_t expert = 0; expert < experts; ++expert) {
      OneExpert everywhere(expert);
      Tensor losses;
      {
        const TrialScope trial(parts_.routing, everywhere);
        losses = parts_.model.token_losses(context, input.tokens, input.targets);
      }
      if (losses.has_memory()) parts_.model.add_expert_losses(context, expert, losses);
    }
  }
}

void TrainingStep::watch_micro_batches(const GlobalCounts& counts, const Progress& progress,
                                       StepResult& result) {
  RouterMonitor monitor(parts_.routing.layers());
  {
    const RoutingWatch watching(parts_.routing, monitor);
    run_micro_batches(counts, progress, result);
  }
  monitor.reduce(parts_.communicator);
  result.routers = monitor.layers();
}

void TrainingStep::note_saved_memory() {
  SavedMemory memory = tape_.saved_memory();
  if (memory.bytes() > saved_memory_.bytes()) saved_memory_ = std::move(memory);
}

void TrainingStep::run_micro_batches(const GlobalCounts& counts, const Progress& progress,
                                     StepResult& result) {
  saved_memory_ = {};
  const Model::LossOptions options{
      .head_z_loss = options_.head_z_loss.at(progress),
      .consistency = options_.consistency ? options_.consistency->at(progress) : 0.0};
  for (size_t i = 0; i < micro_batches_.size(); ++i) {
    parts_.routing.begin_micro_batch(static_cast<int64_t>(i));
    const ModelInput& input = input_of(micro_batches_[i], passes());
    const ForwardContext context = context_for(input.layout, counts, progress);
    const Tensor loss = loss_of(context, input, options, result);
    if (parts_.pool.shapes_only()) note_saved_memory();
    tape_.backward(loss);
    tape_.reset();
  }
}

Tensor TrainingStep::loss_of(const ForwardContext& context, const ModelInput& input,
                             const Model::LossOptions& options, StepResult& result) {
  Model::Loss loss;
  if (options_.teacher != nullptr) {
    Teacher::Loss taught =
        options_.teacher->loss(parts_.model, context, input, options.head_z_loss);
    *result.distillation += taught.divergence;
    loss = std::move(taught.model);
  } else {
    loss = parts_.model.loss(context, input.tokens, input.targets, options);
  }
  result.loss += loss.language_model;
  for (size_t kind = 0; kind < kLossKinds; ++kind) {
    result.auxiliary[kind] += loss.auxiliary[kind];
  }
  if (result.consistency) *result.consistency += loss.consistency;
  return loss.total;
}

void TrainingStep::sum_over_ranks(StepResult& result) {
  Communicator& communicator = parts_.communicator;
  {
    const PhaseTimer timer(clock(), Phase::balancing, Direction::forward);
    parts_.routing.finish_loads(communicator);
  }
  if (communicator.size() == 1) return;
  communicator.sum(std::span<double>(&result.loss, 1));
  communicator.sum(std::span<double>(result.auxiliary));
  if (result.consistency) communicator.sum(std::span<double>(&*result.consistency, 1));
  if (result.distillation) communicator.sum(std::span<double>(&*result.distillation, 1));
  for (Parameter* parameter : parameters_) {
    if (!parameter->trainable || parameter->placement != Placement::replicated) continue;
    parameter->materialise_grad();
    dispatch_float(parameter->grad.dtype(),
                   [&]<class T>() { communicator.sum(parameter->grad.span<T>()); });
  }
}

void TrainingStep::apply(const Progress& progress, const StepWatch& watch, double norm,
                         StepResult& result) {
  std::optional<ExpertUpdateWatch> watching;
  if (watch.experts) watching.emplace(parameters_, parts_.pool);
  {
    const PhaseTimer timer(clock(), Phase::optimizer, Direction::forward, "optimizer_step",
                           {.bytes = parts_.optimizer.step_bytes()});
    frozen_.save();
    parts_.optimizer.step(progress, clip_scale(norm, parts_.optimizer.clip_norm()));
    frozen_.restore();
  }
  if (watching) result.experts = watching->finish();
  {
    const PhaseTimer learning(clock(), Phase::balancing, Direction::forward);
    parts_.routing.end_step(progress);
  }
  const PhaseTimer learning(clock(), Phase::routing, Direction::forward);
  parts_.model.end_step(parts_.routing, progress);
}

GradientNorm TrainingStep::measure_gradient() {
  const double bytes = std::accumulate(
      parameters_.begin(), parameters_.end(), 0.0, [](double sum, const Parameter* parameter) {
        return parameter->trainable && !parameter->grad_is_zero
                   ? sum + static_cast<double>(parameter->grad.bytes())
                   : sum;
      });
  const PhaseTimer timer(clock(), Phase::optimizer, Direction::forward, "gradient_norm",
                         {.bytes = bytes});
  return gradient_norm(parameters_, parts_.communicator);
}

void TrainingStep::update(const Progress& progress, const StepWatch& watch, StepResult& result) {
  const PhaseTimer timer(clock(), Phase::optimizer, Direction::forward);
  frozen_.clear_gradients();
  const GradientNorm norm = measure_gradient();
  result.grad_norm = norm.value;
  double total = result.loss + result.consistency.value_or(0.0) + result.distillation.value_or(0.0);
  for (const double auxiliary : result.auxiliary) total += auxiliary;
  result.applied = std::isfinite(total) && std::isfinite(norm.value);
  if (result.applied) {
    apply(progress, watch, norm.value, result);
  } else {
    result.problem =
        fmt::format("loss {}, gradient norm {}", unsigned_nan(total), unsigned_nan(norm.value));
    if (norm.first_non_finite != nullptr) {
      result.problem += ", first in " + norm.first_non_finite->name;
    }
  }
}

}  // namespace sluice
