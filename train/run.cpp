#include "train/run.h"

#include <algorithm>
#include <cmath>

#include "train/distillation.h"
#include "train/find_checkpoint.h"
#include "train/format.h"
#include "train/plan.h"
#include "train/pruning_schedule.h"
#include "train/transforms/expert_scale.h"
#include "train/transforms/transform.h"
#include "train/transforms/upcycle.h"
#include "train/transforms/upcycling.h"

namespace sluice {
namespace {

StepOptions with_teacher(StepOptions options, const Recipe& recipe, const Tokenizer& tokenizer,
                         const Model& model, Pool& pool) {
  const auto* config = dynamic_cast<const DistillationConfig*>(recipe.train.distillation.get());
  if (config != nullptr) {
    options.teacher = std::make_shared<Teacher>(*config, &tokenizer, model, pool);
  }
  return options;
}

std::shared_ptr<const Tokenizer> tokenizer_of(const Checkpoint& checkpoint) {
  return deserialize_tokenizer(checkpoint.meta.tokenizer_kind, checkpoint.meta.tokenizer);
}

}  // namespace

Run::Run(Recipe recipe, Communicator& communicator, std::shared_ptr<const Tokenizer> tokenizer,
         int64_t stages)
    : recipe_(std::move(recipe)),
      pruned_stages_(stages),
      current_(pruned_recipe(recipe_, stages)),
      communicator_(communicator),
      data_(load_dataset(recipe_.data, static_cast<uint64_t>(recipe_.seed), std::move(tokenizer))),
      sizes_(run_sizes(recipe_, data_.tokenizer->vocab_size(), data_.num_train_tokens())),
      pool_(std::make_unique<Pool>()),
      model_(build_model(current_, *pool_, data_.tokenizer->vocab_size())),
      routing_(build_routing(current_)),
      optimizer_(build_optimizer(current_, *model_, *pool_)),
      loader_(data_, loader_options(recipe_, sizes_, communicator)),
      state_(model_->experts_per_layer(), recipe_.log.dead_after),
      step_options_(
          with_teacher(step_options(recipe_, sizes_), recipe_, *data_.tokenizer, *model_, *pool_)),
      step_(std::in_place, step_parts(), step_options_) {
  if (const auto* config = dynamic_cast<const ReplayConfig*>(recipe_.train.replay.get())) {
    replay_.emplace(*config, model_->experts_per_layer());
  }
}

Run::Run(Recipe recipe, Communicator& communicator)
    : Run(recipe, communicator, initial_checkpoint(recipe)) {}

// Weights mean nothing under another tokenizer: a run that starts from some takes theirs.
Run::Run(Recipe recipe, Communicator& communicator, const std::optional<Checkpoint>& initial)
    : Run(std::move(recipe), communicator, initial ? tokenizer_of(*initial) : nullptr, 0) {
  if (initial && recipe_.upcycle != nullptr) {
    upcycle(*initial);
  } else if (initial) {
    load_weights(*initial, *recipe_.train.init_from, *model_);
  }
  check_replay();
}

Run::Run(Recipe recipe, Communicator& communicator, const Checkpoint& checkpoint,
         const std::string& source)
    : Run(recipe, communicator, tokenizer_of(checkpoint),
          pruned_stages(checkpoint.state, recipe, source)) {
  LoadVisitor load(checkpoint.state, source, {.wanted = [&](std::string_view path) {
                     return checkpoint.state.contains(path) || !RunState::may_be_missing(path);
                   }});
  visit_state(load);
  load.finish();
  schedule_offset_ = checkpoint.meta.schedule;
  check_replay();
}

void Run::upcycle(const Checkpoint& from) {
  const auto& config = dynamic_cast<const UpcycleConfig&>(*recipe_.upcycle);
  SLUICE_CHECK(
      ConfigError, config.step == UpcycleConfig::Kept::reset || from.meta.step < sizes_.steps,
      "upcycle.step: found keep, but {} has done {} and the run has {} (train.steps): nothing "
      "is left to train; allowed reset, or a longer run",
      config.from, counted(from.meta.step, "step"), counted(sizes_.steps, "step"));
  const std::vector<Checkpoint> branches = branch_checkpoints(recipe_, from);
  TrainedModel before = build_trained_model(from, config.from);
  const UpcycleJob job{.from = from,
                       .branches = branches,
                       .recipe = recipe_,
                       .before = before,
                       .data = data_,
                       .training = loader_options(recipe_, sizes_, communicator_),
                       .evaluation = evaluation_options(recipe_, sizes_, communicator_)};
  SaveVisitor save;
  visit_state(save);
  StateDict state = save.take();
  upcycling_.emplace();
  upcycling_->notes = upcycle_state(job, state);
  LoadVisitor load(state, config.from);
  visit_state(load);
  load.finish();
  schedule_offset_ = schedule_offset(job);
  upcycling_->from = config.from;
  upcycling_->scheme = config.scheme.type;
  if (config.calibrate) {
    for (std::string& sentence : fit_expert_scale(job, evaluation_parts(), schedule())) {
      upcycling_->notes.push_back(std::move(sentence));
    }
  }
  upcycling_->parity =
      compare_models({{*before.pool, *before.model, *before.routing, communicator_},
                      progress_of(before.recipe, before.meta)},
                     {evaluation_parts(), schedule()}, data_, job.evaluation, config.probe_tokens);
}

/// Hours into a run is late to learn that a step was never recorded.
void Run::check_replay() const {
  if (!replay_) return;
  // What was not routed was not recorded.
  const int64_t unrouted = steps_without_routes(recipe_) - schedule_offset_.steps;
  const int64_t before = std::max(state_.step, unrouted);
  replay_->check_steps(before + 1, sizes_.steps);
}

bool Run::pruning_is_due() const {
  const PruningConfig* config = pruning_of(recipe_);
  return config != nullptr && pruned_stages_ < config->num_stages() &&
         state_.step >= config->stage(pruned_stages_).step;
}

TransformReceipt Run::prune() {
  SLUICE_INTERNAL_CHECK(pruning_is_due(), "no stage of train.pruning is due at step {}",
                        state_.step);
  const PruningConfig& config = *pruning_of(recipe_);
  const PruningStage& stage = config.stage(pruned_stages_);
  const std::string name = fmt::format("the run after step {}", state_.step);
  TransformConfig change;
  change.calibration.tokens = config.calibration_tokens;
  change.probe_tokens = config.probe_tokens;
  change.optimizer = TransformConfig::Kept::keep;
  change.step = TransformConfig::Kept::keep;
  // Other text at every stage, and by `random` other experts.
  const Transformed made =
      with_context([] { return "train.pruning"; },
                   [&] {
                     return Transformation(change, {name, checkpoint(std::nullopt)}, data_)
                         .run(stage.method, recipe_.seed + stage.step);
                   });
  ++pruned_stages_;
  rebuild(pruned_recipe(recipe_, pruned_stages_));
  LoadVisitor load(made.checkpoint.state, name, {.wanted = [](std::string_view path) {
                     return path.starts_with("model/") || path.starts_with("optim/") ||
                            path.starts_with("balance/");
                   }});
  visit_learned(load);
  load.finish();
  return made.receipt;
}

/// Everything that holds experts, in the sizes of `current` and with its initial values.
void Run::rebuild(Recipe current) {
  const CostMeter meter = step_->meter();
  // Who refers to others goes first.
  step_.reset();
  optimizer_.reset();
  routing_.reset();
  model_.reset();
  pool_->trim();
  current_ = std::move(current);
  model_ = build_model(current_, *pool_, data_.tokenizer->vocab_size());
  routing_ = build_routing(current_);
  optimizer_ = build_optimizer(current_, *model_, *pool_);
  step_.emplace(step_parts(), step_options_);
  step_->meter() = meter;
  state_.change_experts(model_->experts_per_layer(), recipe_.log.dead_after);
}

StepResult Run::step(const StepWatch& watch) {
  while (pruning_is_due()) (void)prune();
  return with_context([&] { return fmt::format("step {}", state_.step + 1); },
                      [&] {
                        const bool replays =
                            replay_ && schedule().step >= steps_without_routes(recipe_);
                        const auto source = replays ? replay_->open(state_.step + 1) : nullptr;
                        const RouteSourceScope decisions(*routing_, source.get());
                        const StepResult result = step_->run(loader_.next(), schedule(), watch);
                        state_.step += 1;
                        state_.tokens += result.tokens;
                        state_.skipped += result.applied ? 0 : 1;
                        if (!result.empty) {
                          state_.skipped_in_row = result.applied ? 0 : state_.skipped_in_row + 1;
                        }
                        if (result.applied) state_.add_load(routing_->loads());
                        return result;
                      });
}

std::optional<Evaluation> Run::evaluate() {
  auto result = sluice::evaluate(evaluation_parts(), data_,
                                 evaluation_options(recipe_, sizes_, communicator_), schedule());
  if (!result) return result;
  result->choices.step = state_.step;
  if (result->loss.per_token() < state_.best_eval_loss) {
    state_.best_eval_loss = result->loss.per_token();
    state_.best_eval_step = state_.step;
  }
  result->overlaps = compare_choices(state_.choices, result->choices, communicator_);
  state_.choices = result->choices;
  return result;
}

void Run::check_forward() {
  constexpr int64_t kBatches = 2;
  const auto result =
      sluice::evaluate(evaluation_parts(), data_,
                       evaluation_options(recipe_, sizes_, communicator_), schedule(), kBatches);
  SLUICE_CHECK(NumericError, !result || std::isfinite(result->loss.nats),
               "the validation pass before step {} gave the loss {}", state_.step + 1,
               result->loss.per_token());
}

void Run::visit_learned(StateVisitor& visitor) {
  visit_model(*model_, *routing_, visitor);
  const StateScope scope(visitor, "optim");
  optimizer_->visit_state(visitor);
}

void Run::visit_state(StateVisitor& visitor) {
  visit_learned(visitor);
  if (recipe_.train.pruning != nullptr) visitor.integer(kPrunedStages, pruned_stages_);
  {
    const StateScope scope(visitor, "data");
    const std::vector<int64_t> before = loader_.state().to_words();
    std::vector<int64_t> words = before;
    visitor.list("loader", words);
    // A visitor that loads has changed the copy.
    if (words != before) loader_.restore(LoaderState::from_words(words));
  }
  const StateScope scope(visitor, "run");
  state_.visit_state(visitor);
}

CheckpointMeta Run::checkpoint_meta(std::optional<double> eval_loss) const {
  return {.step = state_.step,
          .tokens = state_.tokens,
          .schedule = schedule_offset_,
          .train_tokens = sizes_.train_tokens,
          .eval_loss = eval_loss,
          .recipe = resolved_text(recipe_),
          .tokenizer_kind = std::string(data_.tokenizer->kind()),
          .tokenizer = data_.tokenizer->serialize(),
          .build = build_fingerprint()};
}

Checkpoint Run::checkpoint(std::optional<double> eval_loss) {
  SaveVisitor save;
  visit_state(save);
  return {.meta = checkpoint_meta(eval_loss), .state = save.take()};
}

}  // namespace sluice
