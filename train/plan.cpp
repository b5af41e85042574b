#include "train/plan.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "autograd/support/parallel.h"
#include "data/tokenizers/sentencepiece.h"
#include "layers/routed_layer.h"
#include "train/distillation.h"
#include "train/format.h"
#include "train/pruning_schedule.h"

namespace sluice {
namespace {

/// A global batch of full sequences, each one document: the most attention a batch can cost.
Batch full_batch(const RunSizes& sizes) {
  Batch batch;
  for (int64_t s = 0; s < sizes.sequences_per_step; ++s) {
    const size_t start = batch.tokens.size();
    const size_t end = start + static_cast<size_t>(sizes.sequence_length);
    batch.tokens.resize(end, 0);
    batch.targets.resize(end, 0);
    batch.positions.resize(end);
    std::iota(batch.positions.begin() + static_cast<int64_t>(start), batch.positions.end(), 0);
    batch.document_offsets.push_back(static_cast<int64_t>(end));
    batch.document_domain.push_back(0);
    batch.end_sequence(static_cast<uint64_t>(s));
  }
  return batch;
}

/// Moments of the run that the average is taken over.
constexpr int64_t kMoments = 33;

/// The image of a checkpoint, but for what is the same for any model: recipe, loader, run.
int64_t checkpoint_bytes(const Model& model, RoutingSession& routing, Optimizer& optimizer) {
  CountVisitor count;
  {
    const StateScope scope(count, "model");
    visit_parameters(model, count);
  }
  {
    const StateScope scope(count, "optim");
    optimizer.visit_state(count);
  }
  const StateScope scope(count, "balance");
  routing.visit_state(count);
  return count.total().bytes;
}

/// Evenly spread over the steps, the first and the last among them.
std::vector<int64_t> moments(int64_t steps) {
  const int64_t count = std::clamp<int64_t>(steps, 1, kMoments);
  std::vector<int64_t> result;
  for (int64_t i = 0; i < count; ++i) {
    result.push_back(count == 1 ? 0 : (steps - 1) * i / (count - 1));
  }
  return result;
}

/// What one expert of a routed layer is and costs, the mean where they are of several kinds.
struct ExpertCost {
  int64_t parameters = 0;
  /// Of one more expert for a token, forward and backward: two per weight, forward, for the input's
  /// gradient and for a trainable weight's.
  double flops_per_token = 0.0;
};

ExpertCost expert_cost(const Model& model, int64_t layer, int64_t experts) {
  ExpertCost cost;
  for (const Parameter* parameter : model.routed_parameters(layer)) {
    const int64_t of_expert = parameter->value.numel() / std::max(experts, parameter->value.dim(0));
    cost.parameters += of_expert;
    cost.flops_per_token += (parameter->trainable ? 6.0 : 4.0) * static_cast<double>(of_expert);
  }
  return cost;
}

/// Experts whose work the run on shapes counted: fewer than k where slots stay empty.
double experts_per_token(const LayerLoad& load) {
  const int64_t chosen = std::accumulate(load.counts.begin(), load.counts.end(), int64_t{0});
  return static_cast<double>(chosen) / static_cast<double>(std::max<int64_t>(load.tokens, 1));
}

void add(ActiveExperts& sum, const ActiveExperts& more) {
  sum.known = std::max(sum.known, more.known);
  sum.expected += more.expected;
  sum.least += more.least;
  sum.greatest += more.greatest;
}

ActiveExperts divided(const ActiveExperts& sum, double count) {
  return {sum.known, sum.expected / count, sum.least / count, sum.greatest / count};
}

PlannedActivity mean_of(const std::vector<PlannedActivity>& activities) {
  PlannedActivity sum;
  for (const PlannedActivity& activity : activities) {
    add(sum.experts, activity.experts);
    sum.active_parameters += activity.active_parameters;
    sum.flops_per_token += activity.flops_per_token;
  }
  const auto count = static_cast<double>(activities.size());
  sum.experts = divided(sum.experts, count);
  sum.active_parameters /= count;
  sum.flops_per_token /= count;
  return sum;
}

class ActivityPlanner {
 public:
  /// After a run on shapes, whose loads `routing` still has.
  ActivityPlanner(const Recipe& recipe, const Plan& plan, const Model& model,
                  RoutingSession& routing)
      : model_(recipe.model),
        layers_(recipe.model.routed_layers()),
        plan_(plan),
        routing_(routing),
        logit_std_(initial_logit_std(recipe.model)) {
    for (int64_t layer = 0; layer < std::ssize(layers_); ++layer) {
      costs_.push_back(expert_cost(model, layer, layers_[static_cast<size_t>(layer)]->num_experts));
      measured_.push_back(experts_per_token(routing.loads()[static_cast<size_t>(layer)]));
    }
  }

  /// At every one of moments().
  [[nodiscard]] std::vector<PlannedActivity> plan() const {
    std::vector<PlannedActivity> result;
    for (const int64_t step : moments(plan_.sizes.steps)) result.push_back(at(step));
    return result;
  }

 private:
  [[nodiscard]] ActiveExperts experts_at(int64_t step, int64_t layer) const {
    const RoutingConfig& config = *layers_[static_cast<size_t>(layer)];
    const Progress progress = plan_.sizes.progress(step, step * plan_.sizes.tokens_per_step);
    const ActiveExpertsQuery query{.num_experts = config.num_experts,
                                   .top_k = config.top_k_at(progress),
                                   .progress = progress,
                                   .initial_logit_std = logit_std_};
    return config.with_capacity(
        query, routing_.balancer(layer).active_experts(query, config.active_experts(query)));
  }

  [[nodiscard]] PlannedActivity at(int64_t step) const {
    ActiveExperts sum;
    const ParameterCount& count = plan_.parameters;
    auto parameters = static_cast<double>(count.total - count.experts - count.other_modalities);
    double flops = plan_.flops_per_token();
    for (int64_t layer = 0; layer < std::ssize(layers_); ++layer) {
      const ActiveExperts experts = experts_at(step, layer);
      const ExpertCost& cost = costs_[static_cast<size_t>(layer)];
      add(sum, experts);
      const double expected =
          experts.expected * layers_[static_cast<size_t>(layer)]->share_of_tokens(model_);
      parameters += expected * static_cast<double>(cost.parameters);
      flops += (expected - measured_[static_cast<size_t>(layer)]) * cost.flops_per_token;
    }
    return {.step = step,
            .experts = divided(sum, static_cast<double>(layers_.size())),
            .active_parameters = parameters,
            .flops_per_token = flops};
  }

  const ModelConfig& model_;
  std::vector<const RoutingConfig*> layers_;
  const Plan& plan_;
  RoutingSession& routing_;
  double logit_std_;
  std::vector<ExpertCost> costs_;  // [layer]
  std::vector<double> measured_;   // [layer]
};

/// The moment at which a token has most slots.
int64_t step_of_largest_top_k(const std::vector<const RoutingConfig*>& layers,
                              const RunSizes& sizes) {
  const std::vector<int64_t> steps = moments(sizes.steps);
  return *std::ranges::max_element(steps, {}, [&](int64_t step) {
    int64_t slots = 0;
    for (const RoutingConfig* layer : layers) {
      slots += layer->top_k_at(sizes.progress(step, step * sizes.tokens_per_step));
    }
    return slots;
  });
}

}  // namespace

double Plan::flops_per_token(Phase phase) const {
  const double flops =
      cost.at(phase, Direction::forward).flops + cost.at(phase, Direction::backward).flops;
  return flops / static_cast<double>(tokens);
}

double Plan::flops_per_token() const { return cost.useful_flops() / static_cast<double>(tokens); }

double Plan::mean_flops_per_token() const {
  const double own = activity ? activity->mean.flops_per_token : flops_per_token();
  return teacher ? own + teacher->share_of_steps * teacher->flops_per_token : own;
}

int64_t planned_vocab_size(const Recipe& recipe) {
  if (const auto* config =
          dynamic_cast<const SentencePieceConfig*>(recipe.data.tokenizer.config.get())) {
    return config->vocab_size;  // training fills it or fails
  }
  return load_tokenizer(recipe.data)->vocab_size();
}

namespace {

/// The teacher of the recipe as it is when it is asked; null where no step asks one.
std::shared_ptr<Teacher> planned_teacher(const Recipe& recipe, const Model& model, Pool& pool,
                                         Plan& plan) {
  const auto* given = dynamic_cast<const DistillationConfig*>(recipe.train.distillation.get());
  const double share = given == nullptr ? 0.0 : share_of_steps_with_teacher(*given, plan.sizes);
  if (share == 0.0) return nullptr;
  DistillationConfig always = *given;
  always.weight = 1.0;
  always.stop_step.reset();
  auto teacher = std::make_shared<Teacher>(always, nullptr, model, pool);
  plan.teacher = PlannedTeacher{.checkpoint = given->teacher,
                                .parameters = teacher->num_parameters(),
                                .share_of_steps = share};
  return teacher;
}

struct Planned {
  Plan plan;                                // without an activity
  std::vector<PlannedActivity> activities;  // at moments(); empty without routed experts
};

/// What a run of `sizes` costs with the experts that the recipe begins with.
Planned plan_model(const Recipe& recipe, int64_t vocab_size, RunSizes sizes) {
  Planned planned;
  Plan& plan = planned.plan;
  Pool pool(Pool::Mode::shapes_only);
  SingleRank communicator;
  const auto model = build_model(recipe, pool, vocab_size);
  const auto routing = build_routing(recipe);
  const auto optimizer = build_optimizer(recipe, *model, pool);
  plan.sizes = std::move(sizes);
  plan.parameters = count_parameters(recipe, *model);
  plan.checkpoint_bytes = checkpoint_bytes(*model, *routing, *optimizer);
  const StepParts parts{pool, *model, *routing, *optimizer, communicator};
  StepOptions options = step_options(recipe, plan.sizes);
  const Batch batch = full_batch(plan.sizes);
  plan.tokens = batch.num_tokens();
  // Of the run's two parts, the longer and dearer one: with all experts.
  const int64_t first = steps_without_routes(recipe);
  const auto run_at = [&](TrainingStep& step, int64_t step_number) {
    step.meter().reset();
    pool.reset_peak();
    (void)step.run(batch, plan.sizes.progress(step_number, step_number * plan.tokens));
    plan.peak = pool.peak();
    plan.saved = step.saved_memory();
  };
  std::optional<TrainingStep> step;
  step.emplace(parts, options);
  // The first step makes gradients and moments; the second is like all that follow.
  run_at(*step, first);
  run_at(*step, first);
  plan.cost = step->meter();
  if (routing->layers() > 0) {
    planned.activities = ActivityPlanner(recipe, plan, *model, *routing).plan();
  }
  options.teacher = planned_teacher(recipe, *model, pool, plan);
  if (options.teacher != nullptr) {
    step.emplace(parts, options);
    run_at(*step, first);
    plan.teacher->flops_per_token =
        (step->meter().total().flops - plan.cost.total().flops) / static_cast<double>(plan.tokens);
  }
  const std::vector<const RoutingConfig*> layers = recipe.model.routed_layers();
  if (!std::ranges::all_of(layers, [](const auto* layer) { return layer->top_k.is_constant(); })) {
    run_at(*step, step_of_largest_top_k(layers, plan.sizes));
  }
  return planned;
}

/// What `sizes` cost.
Plan plan_of(const Recipe& recipe, int64_t vocab_size, const RunSizes& sizes) {
  // The recipe alone does not tell the length of a run in epochs.
  for (const std::string& problem :
       {check_diversify(recipe, sizes.steps), check_pruning(recipe, sizes)}) {
    SLUICE_CHECK(ConfigError, problem.empty(), "{}", problem);
  }
  auto [plan, activities] = plan_model(recipe, vocab_size, sizes);
  const PruningConfig* pruning = pruning_of(recipe);
  for (int64_t i = 0; pruning != nullptr && i < pruning->num_stages(); ++i) {
    const int64_t step = pruning->stage(i).step;
    const Planned after = plan_model(pruned_recipe(recipe, i + 1), vocab_size, sizes);
    plan.stages.push_back({step, after.plan.parameters});
    for (size_t m = 0; m < activities.size(); ++m) {
      if (activities[m].step >= step) activities[m] = after.activities[m];
    }
  }
  if (!activities.empty()) {
    plan.activity = PlannedActivities{.start = activities.front(),
                                      .middle = activities[(activities.size() - 1) / 2],
                                      .end = activities.back(),
                                      .mean = mean_of(activities)};
  }
  return plan;
}

/// From the one that costs no time to the one that keeps least.
std::vector<Recompute> recompute_options(const Recipe& recipe) {
  if (recipe.train.recompute) return {*recipe.train.recompute};
  if (!recipe.has_experts()) return {Recompute::none, Recompute::all};
  return {Recompute::none, Recompute::experts, Recompute::all};
}

std::string_view name_of(Recompute recompute) {
  switch (recompute) {
    case Recompute::none:
      return "none";
    case Recompute::experts:
      return "experts";
    case Recompute::all:
      break;
  }
  return "all";
}

/// In whole MiB, rounded up: a budget that a recipe can name.
std::string in_mebibytes(int64_t bytes) {
  return fmt::format("{} MiB", ceil_div(bytes, int64_t{1} << 20));
}

Plan plan_within(int64_t budget, const Recipe& recipe, int64_t vocab_size, const RunSizes& sizes) {
  std::vector<std::string> too_large;  // "none takes 120 MiB"
  int64_t least = 0;
  for (const Recompute recompute : recompute_options(recipe)) {
    RunSizes tried = sizes;
    tried.recompute = recompute;
    Plan plan = plan_of(recipe, vocab_size, tried);
    least = plan.peak.total();
    if (least > budget) {
      too_large.push_back(fmt::format("{} takes {}", name_of(recompute), in_mebibytes(least)));
      continue;
    }
    if (!recipe.train.recompute) {
      plan.sizes.choices.push_back(
          fmt::format("train.recompute: {}, {} of tensors within train.memory_budget: {}{}{}",
                      name_of(recompute), in_mebibytes(least), recipe.train.memory_budget,
                      too_large.empty() ? "" : "; ", fmt::join(too_large, ", ")));
    }
    return plan;
  }
  const bool may_recompute = recipe.train.recompute && *recipe.train.recompute != Recompute::all;
  throw ConfigError(fmt::format(
      "train.memory_budget: found {}, allowed at least {} for the tensors of a step with "
      "train.recompute: {}; raise it, {}or give a smaller train.micro_batch (now {} tokens)",
      recipe.train.memory_budget, in_mebibytes(least),
      recipe.train.recompute ? name_of(*recipe.train.recompute) : "all",
      may_recompute ? "say train.recompute: auto, " : "", with_commas(sizes.micro_batch_tokens)));
}

}  // namespace

Plan make_plan(const Recipe& recipe, int64_t vocab_size, int64_t train_tokens) {
  const RunSizes sizes = derive_sizes(recipe, train_tokens);
  const auto budget = recipe.train.budget_bytes();
  return budget ? plan_within(*budget, recipe, vocab_size, sizes)
                : plan_of(recipe, vocab_size, sizes);
}

RunSizes run_sizes(const Recipe& recipe, int64_t vocab_size, int64_t train_tokens) {
  return recipe.train.budget_bytes() ? make_plan(recipe, vocab_size, train_tokens).sizes
                                     : derive_sizes(recipe, train_tokens);
}

}  // namespace sluice
