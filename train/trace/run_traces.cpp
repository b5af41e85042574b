#include "train/trace/run_traces.h"

#include "autograd/support/error.h"
#include "train/run_log.h"

namespace sluice {
namespace {

/// False while one expert takes all tokens: a step, or an evaluation, then leaves no file.
bool routes(const Run& run) { return run.state().step >= steps_without_routes(run.recipe()); }

}  // namespace

RunTraces::RunTraces(std::filesystem::path folder, const std::shared_ptr<Configurable>& config)
    : folder_(std::move(folder)), config_(std::dynamic_pointer_cast<const TraceConfig>(config)) {}

StepResult RunTraces::step(Run& run, FunctionRef<StepResult()> step) const {
  if (!wants_step(run)) return step();
  TraceWriter trace = begin(run, TraceKind::training, run.state().step + 1);
  const RoutingWatch watch(run.routing(), trace);
  const StepResult result = step();
  if (!result.empty) trace.finish();
  return result;
}

std::optional<Evaluation> RunTraces::evaluate(
    Run& run, FunctionRef<std::optional<Evaluation>()> evaluate) const {
  const int64_t step = run.state().step;
  const bool is_wanted = config_ && config_->held_out && config_->covers(step) && routes(run);
  if (!is_wanted) return evaluate();
  TraceWriter trace = begin(run, TraceKind::held_out, step);
  const RoutingWatch watch(run.routing(), trace);
  std::optional<Evaluation> result = evaluate();
  if (result) trace.finish();
  return result;
}

bool RunTraces::wants_step(const Run& run) const {
  if (!config_ || !config_->every || !routes(run)) return false;
  const Progress before = run.progress();
  const RunSizes& sizes = run.sizes();
  const Progress after = sizes.progress(before.step + 1, before.tokens + sizes.tokens_per_step);
  return config_->covers(after.step) && is_due(*config_->every, before, after);
}

TraceWriter RunTraces::begin(const Run& run, TraceKind kind, int64_t step) const {
  create_folders(real_file_system(), folder_.path(), raise_as<DataError>);
  TraceMeta meta{.kind = kind,
                 .step = step,
                 .vocab_size = run.model().vocab_size(),
                 .experts = run.model().experts_per_layer(),
                 .layers = config_->layers,
                 .domains = run.data().domains};
  if (kind == TraceKind::held_out) {
    meta.tokenizer_kind = run.data().tokenizer->kind();
    meta.tokenizer = run.data().tokenizer->serialize();
  }
  return {folder_.path_of(kind, step), std::move(meta), run.sizes().micro_batch_tokens};
}

}  // namespace sluice
