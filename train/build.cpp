#include "train/build.h"

#include <fnmatch.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "autograd/support/parallel.h"
#include "balance/make.h"
#include "layers/ffns/moe.h"
#include "train/domains.h"
#include "train/find_checkpoint.h"
#include "train/format.h"
#include "train/pruning_schedule.h"
#include "train/transforms/upcycling.h"

namespace sluice {
namespace {

/// Largest micro-batch that `auto` chooses: long enough for the matrix products to run at full
/// speed, short enough for the activations of a small model to stay in a few gigabytes.
constexpr int64_t kAutoMicroBatchTokens = 8192;
constexpr std::string_view kModelRoom = "model/";

int64_t derive_steps(const Recipe& recipe, const RunSizes& sizes) {
  const Duration& length = recipe.train.steps;
  const auto per_step = static_cast<double>(sizes.tokens_per_step);
  switch (length.unit) {
    case DurationUnit::steps:
      return static_cast<int64_t>(std::ceil(length.count));
    case DurationUnit::tokens:
      return static_cast<int64_t>(std::ceil(length.count / per_step));
    default:
      SLUICE_CHECK(ConfigError, sizes.train_tokens > 0,
                   "train.steps: found {}, but the length of the data is not known here",
                   length.to_string());
      return static_cast<int64_t>(
          std::ceil(length.count * static_cast<double>(sizes.train_tokens) / per_step));
  }
}

void choose_micro_batch(const Recipe& recipe, RunSizes& sizes) {
  if (recipe.train.micro_batch) {
    sizes.micro_batch_tokens = static_cast<int64_t>(recipe.train.micro_batch->count);
    return;
  }
  const int64_t parts = ceil_div(sizes.tokens_per_step, kAutoMicroBatchTokens);
  sizes.micro_batch_tokens = ceil_div(sizes.sequences_per_step, parts) * sizes.sequence_length;
  sizes.choices.push_back(
      fmt::format("train.micro_batch: {} tokens, the global batch in {} of at most {}",
                  sizes.micro_batch_tokens, counted(parts, "equal part"), kAutoMicroBatchTokens));
}

void freeze(const std::vector<std::string>& patterns, const Model& model) {
  for (const std::string& pattern : patterns) {
    const std::vector<Parameter*> matching = parameters_matching(pattern, model);
    SLUICE_CHECK(ConfigError, !matching.empty(),
                 "train.freeze: \"{}\" matches no parameter of the model", pattern);
    for (Parameter* parameter : matching) parameter->trainable = false;
  }
}

/// A model with adapters trains them and what train.unfreeze names.
void freeze_base(const Recipe& recipe, const Model& model) {
  const std::vector<Parameter*> parameters = model.parameters();
  const auto is_of_adapter = [](const Parameter* parameter) {
    return is_adapter_parameter(parameter->name);
  };
  const bool has_adapters = std::ranges::any_of(parameters, is_of_adapter);
  SLUICE_CHECK(
      ConfigError, has_adapters || recipe.train.unfreeze.empty(),
      "train.unfreeze: given, but the model has no adapters, beside which alone the others "
      "are frozen");
  if (!has_adapters) return;
  std::set<const Parameter*> trained;
  for (const std::string& pattern : recipe.train.unfreeze) {
    const std::vector<Parameter*> matching = parameters_matching(pattern, model);
    SLUICE_CHECK(ConfigError, !matching.empty(),
                 "train.unfreeze: \"{}\" matches no parameter of the model", pattern);
    trained.insert(matching.begin(), matching.end());
  }
  for (Parameter* parameter : parameters) {
    if (!is_of_adapter(parameter) && !trained.contains(parameter)) parameter->trainable = false;
  }
}

}  // namespace

Progress RunSizes::progress(int64_t step, int64_t tokens, ScheduleOffset offset) const {
  const auto passes = [&](int64_t count) {
    return train_tokens > 0 ? static_cast<double>(count) / static_cast<double>(train_tokens) : 0.0;
  };
  const int64_t total_tokens = steps * tokens_per_step + offset.tokens;
  return {.step = step + offset.steps,
          .tokens = tokens + offset.tokens,
          .epochs = passes(tokens + offset.tokens),
          .total_steps = steps + offset.steps,
          .total_tokens = total_tokens,
          .total_epochs = passes(total_tokens)};
}

RunSizes derive_sizes(const Recipe& recipe, int64_t train_tokens) {
  RunSizes sizes;
  sizes.train_tokens = train_tokens;
  sizes.sequence_length = recipe.data.sequence_length;
  sizes.recompute = recipe.train.recompute.value_or(Recompute::none);
  const auto asked = static_cast<int64_t>(recipe.train.global_batch.count);
  sizes.sequences_per_step = asked / sizes.sequence_length;
  sizes.tokens_per_step = sizes.sequences_per_step * sizes.sequence_length;
  if (sizes.tokens_per_step != asked) {
    sizes.choices.push_back(fmt::format("train.global_batch: {} tokens, {} whole sequences of {}",
                                        sizes.tokens_per_step, sizes.sequences_per_step,
                                        sizes.sequence_length));
  }
  sizes.steps = derive_steps(recipe, sizes);
  if (recipe.train.steps.unit != DurationUnit::steps) {
    sizes.choices.push_back(
        fmt::format("train.steps: {} steps make {}", sizes.steps, recipe.train.steps.to_string()));
  }
  choose_micro_batch(recipe, sizes);
  return sizes;
}

std::unique_ptr<Model> build_model(const Recipe& recipe, Pool& pool, int64_t tokenizer_vocab_size) {
  ModelConfig config = recipe.model;
  if (!config.vocab_size) config.vocab_size = tokenizer_vocab_size;
  SLUICE_CHECK(ConfigError, *config.vocab_size >= tokenizer_vocab_size,
               "model.vocab_size: found {}, allowed auto or at least {} (the tokenizer's)",
               *config.vocab_size, tokenizer_vocab_size);
  config.domain_modalities = domain_modalities(recipe);
  auto model = std::make_unique<Model>(pool, config, static_cast<uint64_t>(recipe.seed));
  freeze_base(recipe, *model);
  freeze(recipe.train.freeze, *model);
  return model;
}

double initial_logit_std(const ModelConfig& model) {
  return model.init.std * std::sqrt(static_cast<double>(model.hidden_size));
}

std::vector<Parameter*> parameters_matching(const std::string& pattern, const Model& model) {
  std::vector<Parameter*> matching = model.parameters();
  std::erase_if(matching, [&](const Parameter* parameter) {
    return fnmatch(pattern.c_str(), parameter->name.c_str(), 0) != 0;
  });
  return matching;
}

std::unique_ptr<RoutingSession> build_routing(const Recipe& recipe) {
  const std::vector<const RoutingConfig*> layers = recipe.model.routed_layers();
  std::vector<std::unique_ptr<Balancer>> balancers;
  for (const RoutingConfig* layer : layers) {
    const BalancerSetup setup{.layer = static_cast<int64_t>(balancers.size()),
                              .experts = layer->num_experts,
                              .top_k = layer->largest_top_k(),
                              .layers = static_cast<int64_t>(layers.size()),
                              .seed = static_cast<uint64_t>(recipe.seed),
                              .initial_logit_std = initial_logit_std(recipe.model)};
    balancers.push_back(make_balancer(recipe.balance, setup));
  }
  return std::make_unique<RoutingSession>(std::move(balancers));
}

std::unique_ptr<Optimizer> build_optimizer(const Recipe& recipe, const Model& model, Pool& pool) {
  const std::vector<Parameter*> parameters = model.parameters();
  return make_optimizer(recipe.optim, parameters, pool);
}

std::shared_ptr<const DiversifyConfig> diversification(const Recipe& recipe) {
  for (const RoutingConfig* layer : recipe.model.routed_layers()) {
    const auto* experts = dynamic_cast<const ExpertsConfig*>(layer);
    if (experts != nullptr && experts->diversification()) return experts->diversification();
  }
  return nullptr;
}

int64_t steps_without_routes(const Recipe& recipe) {
  const auto diversify = diversification(recipe);
  return diversify == nullptr ? 0 : diversify->steps;
}

std::string check_diversify(const Recipe& recipe, int64_t steps) {
  const int64_t dense = steps_without_routes(recipe);
  if (dense == 0 || dense < steps) return {};
  return fmt::format(
      "model.experts.diversify.steps: found {}, allowed less than {}, the steps of the run "
      "(train.steps), which would end without experts",
      dense, steps);
}

StepOptions step_options(const Recipe& recipe, const RunSizes& sizes) {
  return {.micro_batch_tokens = sizes.micro_batch_tokens,
          .recompute = recipe.train.recompute.value_or(sizes.recompute),
          .head_z_loss = recipe.train.head_z_loss,
          .seed = static_cast<uint64_t>(recipe.seed),
          .consistency = recipe.train.consistency_coefficient(),
          .diversify = diversification(recipe),
          .freeze_experts = recipe.train.freeze_experts};
}

LoaderOptions loader_options(const Recipe& recipe, const RunSizes& sizes,
                             const Communicator& communicator) {
  return {.packing = {.sequence_length = sizes.sequence_length,
                      .seed = static_cast<uint64_t>(recipe.seed),
                      .shuffle = recipe.data.shuffle,
                      .cross_document_loss = recipe.data.cross_document_loss},
          .sequences_per_batch = sizes.sequences_per_step,
          .sequences_per_draw = recipe.data.sequences_per_draw,
          .prefetch = recipe.data.prefetch,
          .rank = communicator.rank(),
          .num_ranks = communicator.size()};
}

EvaluationOptions evaluation_options(const Recipe& recipe, const RunSizes& sizes,
                                     const Communicator& communicator) {
  const int64_t sequences = std::max<int64_t>(1, sizes.micro_batch_tokens / sizes.sequence_length);
  return {.sequence_length = sizes.sequence_length,
          .sequences_per_batch = sequences * communicator.size(),
          .max_tokens = recipe.train.evaluate.max_tokens,
          .rank = communicator.rank(),
          .num_ranks = communicator.size()};
}

void use_threads(const Recipe& recipe) {
  set_num_threads(static_cast<int>(recipe.threads.value_or(num_processors())));
}

void visit_parameters(const Model& model, StateVisitor& visitor) {
  for (Parameter* parameter : model.parameters()) visitor.tensor(parameter->name, parameter->value);
}

void visit_model(const Model& model, RoutingSession& routing, StateVisitor& visitor) {
  {
    const StateScope scope(visitor, "model");
    visit_parameters(model, visitor);
  }
  const StateScope scope(visitor, "balance");
  routing.visit_state(visitor);
}

Checkpoint named_checkpoint(std::string_view key, const std::string& file, const Recipe& recipe) {
  SLUICE_CHECK(ConfigError, std::filesystem::exists(file), "{}: {}: no such file", key, file);
  std::vector<std::string> damaged;
  Checkpoint checkpoint = find_checkpoint(file, CheckpointChoice::newest, damaged).checkpoint;
  SLUICE_CHECK(ConfigError, damaged.empty(), "{}: {}; name the checkpoint to start from", key,
               damaged.front());
  // The run takes the checkpoint's tokenizer: weights mean nothing under another one.
  const std::string& named = recipe.data.tokenizer.type;
  SLUICE_CHECK(
      ConfigError, named == "file" || named == checkpoint.meta.tokenizer_kind,
      "{}: {} was trained with tokenizer {}, data.tokenizer is {}; name the checkpoint's own", key,
      file, checkpoint.meta.tokenizer_kind, named);
  return checkpoint;
}

std::optional<Checkpoint> initial_checkpoint(const Recipe& recipe) {
  const auto* upcycle = dynamic_cast<const UpcycleConfig*>(recipe.upcycle.get());
  if (upcycle != nullptr) return named_checkpoint("upcycle.from", upcycle->from, recipe);
  if (!recipe.train.init_from) return std::nullopt;
  return named_checkpoint("train.init_from", *recipe.train.init_from, recipe);
}

void load_weights(const Checkpoint& checkpoint, const std::string& source, const Model& model) {
  LoadVisitor load(checkpoint.state, source, {.wanted = [&](std::string_view path) {
                     if (!path.starts_with(kModelRoom)) return false;
                     const bool is_new = is_adapter_parameter(path.substr(kModelRoom.size()));
                     return !is_new || checkpoint.state.contains(path);
                   }});
  {
    const StateScope scope(load, "model");
    visit_parameters(model, load);
  }
  load.finish();
}

TrainedModel build_trained_model_in(Pool& pool, const Checkpoint& checkpoint,
                                    const std::string& source) {
  TrainedModel trained;
  trained.recipe = checkpoint_recipe(checkpoint, source);
  trained.meta = checkpoint.meta;
  trained.meta.recipe = resolved_text(trained.recipe);
  trained.tokenizer =
      deserialize_tokenizer(checkpoint.meta.tokenizer_kind, checkpoint.meta.tokenizer);
  trained.model = build_model(trained.recipe, pool, trained.tokenizer->vocab_size());
  trained.routing = build_routing(trained.recipe);
  if (pool.shapes_only()) return trained;
  LoadVisitor load(checkpoint.state, source, {.wanted = [](std::string_view path) {
                     return path.starts_with("model/") || path.starts_with("balance/");
                   }});
  visit_model(*trained.model, *trained.routing, load);
  load.finish();
  return trained;
}

TrainedModel build_trained_model(const Checkpoint& checkpoint, const std::string& source,
                                 WeightStorage weights) {
  auto pool = std::make_unique<Pool>();
  TrainedModel trained = build_trained_model_in(*pool, checkpoint, source);
  trained.pool = std::move(pool);
  if (weights == WeightStorage::bf16) {
    for (Parameter* parameter : trained.model->parameters()) {
      parameter->store_in_bf16(*trained.pool);
      trained.pool->trim();
    }
  }
  return trained;
}

}  // namespace sluice
