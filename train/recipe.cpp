#include "train/recipe.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <iterator>
#include <limits>

#include "balance/make.h"
#include "balance/method.h"
#include "layers/adapters.h"
#include "layers/routed_layer.h"
#include "layers/router.h"
#include "layers/sublayer.h"
#include "optim/optimizer.h"
#include "train/build.h"
#include "train/distillation.h"
#include "train/domains.h"
#include "train/pruning_schedule.h"
#include "train/trace/trace_config.h"
#include "train/trace/trace_replay.h"
#include "train/transforms/upcycling.h"
#include "train/yaml_reader.h"
#include "train/yaml_writer.h"

namespace sluice {
std::string layers_of_some_tokens(const ModelConfig& model) {
  if (!model.depth.type.empty()) {
    return fmt::format("the groups of model.depth ({}) see some tokens only", model.depth.type);
  }
  if (model.multi_token_prediction != nullptr) {
    return "the layers of model.multi_token_prediction see some tokens only";
  }
  for (const SublayerSpec& sublayer : model.sublayers()) {
    const RoutingConfig* routing = sublayer.routing();
    if (routing == nullptr || routing->share_of_tokens(model) == 1.0) continue;
    return fmt::format("the routers of model.{} see the tokens of their modality only",
                       sublayer.key);
  }
  return {};
}

namespace {

/// What may differ between a run and its resumption: none of it changes what a step computes.
constexpr std::array<std::string_view, 12> kMayChange = {
    "threads",         "train.steps", "train.evaluate.", "train.max_time",
    "train.recompute", "train.trace", "train.trace.",    "train.memory_budget",
    "checkpoint.",     "log.",        "data.cache",      "data.prefetch"};

bool may_change(std::string_view key) {
  // Data may have moved: its fingerprint tells whether it is the same.
  if (key.starts_with("data.") && key.ends_with(".path")) return true;
  return std::any_of(kMayChange.begin(), kMayChange.end(), [&](std::string_view allowed) {
    return allowed.ends_with('.') ? key.starts_with(allowed) : key == allowed;
  });
}

/// What a method other than none asks of a router and this one has not; empty when they go together.
std::string_view unmet_need(const BalancerEntry& method, bool needs_noise,
                            const Configurable& router) {
  const auto* config = dynamic_cast<const RouterConfig*>(&router);
  if (config == nullptr) return {};
  if (config->is_fixed()) return "needs a router whose choice follows from scores";
  if (needs_noise && !config->adds_noise()) return "needs a router with noise";
  if (method.passes_over_router && (config->varies_k() || config->restricts())) {
    return "chooses by itself and would pass over groups, thresholds and null experts";
  }
  if (method.assumes_top_k && config->varies_k()) return "counts on top_k experts for every token";
  return {};
}

/// Refuses a method and a router of which one would not be heard.
std::string check_router(const std::vector<Tagged>& methods, const BalancerSetup& setup,
                         std::string_view section, const Tagged& router) {
  if (router.config == nullptr) return {};
  for (const Tagged& method : methods) {
    if (method.type == none_balancer.name) continue;
    const BalancerEntry& entry = balancer_entry(method.type);
    const bool needs_noise = make_balancer(std::span(&method, 1), setup)->traits().needs_noise;
    const std::string_view need = unmet_need(entry, needs_noise, *router.config);
    if (need.empty()) continue;
    std::vector<std::string_view> allowed;
    for (const Choice& choice : router_choices()) {
      if (unmet_need(entry, needs_noise, *choice.make_config()).empty())
        allowed.push_back(choice.name);
    }
    return fmt::format("balance: {} {}; found model.{}.router {}, allowed {}", method.type, need,
                       section, router.type, fmt::join(allowed, ", "));
  }
  return {};
}

/// Before a run gets to the first step that it records.
std::string check_trace(const Recipe& recipe) {
  if (recipe.train.trace == nullptr && recipe.train.replay == nullptr) return {};
  const std::string partial = layers_of_some_tokens(recipe.model);
  if (!partial.empty()) {
    return fmt::format(
        "train.{}: given, but {}: a trace holds the routes of all tokens in every layer",
        recipe.train.trace != nullptr ? "trace" : "replay", partial);
  }
  const auto* trace = dynamic_cast<const TraceConfig*>(recipe.train.trace.get());
  if (trace == nullptr) return {};
  const int64_t layers = std::ssize(recipe.model.routed_layers());
  for (const int64_t layer : trace->layers) {
    if (layer >= layers) {
      return fmt::format("train.trace.layers: found {}, allowed 0 to {}, the model's expert layers",
                         layer, layers - 1);
    }
  }
  return {};
}

std::string check_balance(const Recipe& recipe) {
  const std::vector<Tagged>& methods = recipe.balance;
  if (!recipe.has_experts()) {
    return methods.empty() ? ""
                           : "balance: given, but no symbol of model.pattern is an expert layer";
  }
  if (methods.empty()) {
    return "balance: not given, but the model has expert layers; name a method, or type: none to "
           "go without";
  }
  try {
    std::vector<SublayerSpec> sublayers = recipe.model.sublayers();
    sublayers.push_back({.key = "depth", .config = recipe.model.depth.config.get()});
    std::ranges::move(adapter_sections(recipe.model.adapters), std::back_inserter(sublayers));
    for (const SublayerSpec& sublayer : sublayers) {
      const RoutingConfig* routing = sublayer.routing();
      if (routing == nullptr) continue;
      const BalancerSetup setup{
          .layer = 0, .experts = routing->num_experts, .top_k = routing->largest_top_k()};
      (void)make_balancer(methods, setup);
      std::string problem = check_router(methods, setup, sublayer.key, routing->router);
      if (!problem.empty()) return problem;
    }
    return {};
  } catch (const ConfigError& error) {
    return error.what();
  }
}

}  // namespace

void EvaluateConfig::fields(FieldVisitor& v) {
  v.optional_duration({"every", "how often the held-out text is evaluated"}, every, "never");
  v.optional_integer({"max_tokens", "most tokens of each domain that are evaluated"}, max_tokens,
                     {.min = 1}, "all");
}

void ConsistencyConfig::fields(FieldVisitor& v) {
  v.scheduled({"coefficient", "weight alpha of the divergence, beside the losses of both passes"},
              coefficient, {.min = 0.0});
}

void TrainConfig::fields(FieldVisitor& v) {
  v.duration({"steps", "length of the run: 600 steps, 5M tokens, 2 epochs"}, steps);
  v.duration({"global_batch", "tokens that one update is computed from"}, global_batch);
  v.optional_duration(
      {"micro_batch",
       "most tokens that are in memory at once; changes speed and memory, and the result only "
       "where "
       "a method looks at a micro-batch as a whole (aux_loss, bip, capacity_factor)"},
      micro_batch, "auto");
  v.enumeration(
      {"recompute",
       "blocks that keep only their input and are computed again in the backward pass, which "
       "changes no result; auto: as few as memory_budget allows"},
      recompute,
      {{"none", Recompute::none},
       {"experts", Recompute::experts},
       {"all", Recompute::all},
       {"auto", std::nullopt}});
  v.text({"memory_budget",
          "most memory of a step's tensors, weights and optimizer included, as 800 MiB or 2 GiB: a "
          "run that plans to need more is refused; none: no bound"},
         memory_budget);
  v.scheduled({"head_z_loss", "weight of the mean squared log-sum-exp of the vocabulary's logits"},
              head_z_loss, {.min = 0});
  v.optional_object(
      {"consistency",
       "two passes over every micro-batch with independent random numbers, and a loss "
       "on how far their predictions are apart (THOR, R-Drop); doubles the work"},
      consistency, [] { return std::make_shared<ConsistencyConfig>(); }, "none");
  v.optional_object(
      {"distillation",
       "learn from the predictions of a trained model too: a loss on how far one's own are from them"},
      distillation, [] { return std::make_shared<DistillationConfig>(); }, "none");
  v.optional_object(
      {"pruning",
       "experts become fewer or narrower while the run goes on, in stages, by the methods of a "
       "transformation"},
      pruning, [] { return std::make_shared<PruningConfig>(); }, "none");
  v.object({"evaluate", "held-out evaluation"}, evaluate);
  v.integer({"max_nonfinite",
             "updates skipped in a row for a NaN or an infinity before the run gives up"},
            max_nonfinite, {.min = 1});
  v.text(
      {"max_time", "longest time of one session, as 90 s, 30 m or 1.5 h; then it saves and stops"},
      max_time);
  v.optional_path({"init_from", "checkpoint, or folder of a run, whose weights a new run starts from"}, init_from,
                  "none");
  v.texts({"freeze", "names of parameters that stay as they are; * stands for any text"}, freeze);
  v.texts({"unfreeze",
           "names of parameters that are trained beside the adapters of a model, whose others stay "
           "as they are"},
          unfreeze);
  v.integers({"freeze_experts",
              "numbers of routed experts that stay as they are in every layer, their router rows and "
              "biases with them"},
             freeze_experts, {.min = 0});
  v.optional_object(
      {"trace", "records which experts each token went to, in the run's folder traces/"}, trace,
      [] { return std::make_shared<TraceConfig>(); }, "none");
  v.optional_object(
      {"replay", "takes the experts that another run recorded, instead of choosing"}, replay,
      [] { return std::make_shared<ReplayConfig>(); }, "none");
}

std::string TrainConfig::check() const {
  if (steps.unit == DurationUnit::percent || steps.count <= 0) {
    return fmt::format("steps: found {}, allowed a positive number of steps, tokens or epochs",
                       steps.to_string());
  }
  if (global_batch.unit != DurationUnit::tokens || global_batch.count < 1) {
    return fmt::format("global_batch: found {}, allowed a number of tokens, as in 8192 tokens",
                       global_batch.to_string());
  }
  if (micro_batch && (micro_batch->unit != DurationUnit::tokens || micro_batch->count < 1)) {
    return fmt::format("micro_batch: found {}, allowed auto or a number of tokens",
                       micro_batch->to_string());
  }
  try {
    (void)max_seconds();
  } catch (const ConfigError& error) {
    return fmt::format("max_time: {}", error.what());
  }
  try {
    if (!budget_bytes() && !recompute) {
      return "recompute: found auto without a memory_budget; give one, as in 2 GiB, or say none, "
             "experts or all";
    }
  } catch (const ConfigError& error) {
    return fmt::format("memory_budget: {}", error.what());
  }
  return {};
}

std::optional<int64_t> TrainConfig::budget_bytes() const {
  if (memory_budget == "none") return std::nullopt;
  return parse_memory(memory_budget);
}

std::optional<double> TrainConfig::max_seconds() const {
  if (max_time == "none") return std::nullopt;
  return parse_wall_time(max_time);
}

std::optional<Scheduled> TrainConfig::consistency_coefficient() const {
  if (consistency == nullptr) return std::nullopt;
  return dynamic_cast<const ConsistencyConfig&>(*consistency).coefficient;
}

Recipe::Recipe() : optim(default_optimizer("adamw")) {}

void Recipe::fields(FieldVisitor& v) {
  v.integer({"seed", "of every random number of the run"}, seed, {.min = 0});
  v.optional_integer({"threads", "processors to use; changes speed, never results"}, threads,
                     {.min = 1, .max = 4096}, "auto");
  v.object({"model", "the architecture"}, model);
  v.tagged_list({"balance", "what keeps the experts evenly loaded: one method or a list"}, balance,
                balance_choices());
  v.object({"data", "text, tokenizer and sequences"}, data);
  v.tagged({"optim", "the optimizer"}, optim, optimizer_choices());
  v.object({"train", "the run"}, train);
  v.optional_object(
      {"upcycle", "a new run starts from a dense checkpoint, whose feed-forwards become experts"},
      upcycle, [] { return std::make_shared<UpcycleConfig>(); }, "none");
  v.object({"checkpoint", "what is saved, and when"}, checkpoint);
  v.object({"log", "what is reported, and where"}, log);
}

bool Recipe::has_experts() const { return !model.routed_layers().empty(); }

std::optional<int64_t> max_context(const ModelConfig& config) {
  std::optional<int64_t> longest = config.learned_positions;
  for (const SublayerSpec& sublayer : config.sublayers()) {
    if (sublayer.mixer == nullptr || sublayer.mixer->longest_document == nullptr) continue;
    if (const auto limit = sublayer.mixer->longest_document(*sublayer.config)) {
      longest = std::min(longest.value_or(*limit), *limit);
    }
  }
  return longest;
}

std::string Recipe::check() const {
  if (std::string problem = check_balance(*this); !problem.empty()) return problem;
  if (std::string problem = check_domains(*this); !problem.empty()) return problem;
  if ((train.trace != nullptr || train.replay != nullptr) && !has_experts()) {
    return fmt::format("train.{}: given, but no symbol of model.pattern is an expert layer",
                       train.trace != nullptr ? "trace" : "replay");
  }
  if (std::string problem = check_trace(*this); !problem.empty()) return problem;
  if (const auto longest = max_context(model); longest && data.sequence_length > *longest) {
    return fmt::format(
        "data.sequence_length: found {}, allowed 1 to {} (model.learned_positions, "
        "model.attention.max_position_embeddings)",
        data.sequence_length, *longest);
  }
  if (train.global_batch.count < static_cast<double>(data.sequence_length)) {
    return fmt::format("train.global_batch: found {}, allowed at least {} (data.sequence_length)",
                       train.global_batch.to_string(), data.sequence_length);
  }
  if (upcycle != nullptr && train.init_from) {
    return "upcycle: given beside train.init_from; a run starts from one of them";
  }
  if (upcycle != nullptr && !has_experts() && model.adapters.empty()) {
    return "upcycle: given, but no symbol of model.pattern is an expert layer";
  }
  if (train.distillation != nullptr && train.consistency != nullptr) {
    return "train.distillation: given beside train.consistency; a step has one of them";
  }
  if (train.distillation != nullptr && model.multi_token_prediction != nullptr) {
    return "train.distillation: given, but model.multi_token_prediction has heads that no teacher is "
           "asked about; allowed none";
  }
  // A length in epochs is known with the data (plan.cpp).
  const DurationUnit unit = train.steps.unit;
  if (unit != DurationUnit::steps && unit != DurationUnit::tokens) return {};
  const RunSizes sizes = derive_sizes(*this, 0);
  if (std::string problem = check_diversify(*this, sizes.steps); !problem.empty()) return problem;
  return check_pruning(*this, sizes);
}

Recipe load_recipe(const RecipeSource& source) {
  Recipe recipe;
  read_or_throw(recipe, load_documents(source));
  return recipe;
}

Recipe parse_recipe(std::string_view text, const std::string& label) {
  Recipe recipe;
  read_or_throw(recipe, parse_yaml(text, label));
  return recipe;
}

std::string resolved_text(Recipe recipe) { return write_yaml(recipe); }

std::vector<FieldDifference> refused_changes(Recipe before, Recipe after) {
  std::vector<FieldDifference> result = differences(before, after);
  std::erase_if(result,
                [](const FieldDifference& difference) { return may_change(difference.key); });
  return result;
}

namespace {

using Unit = std::pair<std::string_view, double>;

/// A positive number and a unit, in units of 1; nullopt for anything else.
std::optional<double> parse_quantity(std::string_view text, std::span<const Unit> units) {
  double count = 0.0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  std::string_view unit(rest, static_cast<size_t>(text.data() + text.size() - rest));
  unit.remove_prefix(std::min(unit.find_first_not_of(' '), unit.size()));
  for (const auto& [name, size] : units) {
    if (error == std::errc() && unit == name && std::isfinite(count) && count > 0.0) {
      return count * size;
    }
  }
  return std::nullopt;
}

}  // namespace

int64_t parse_memory(std::string_view text) {
  static constexpr std::array<Unit, 8> kUnits = {{{"KiB", 0x1p10},
                                                  {"MiB", 0x1p20},
                                                  {"GiB", 0x1p30},
                                                  {"TiB", 0x1p40},
                                                  {"kB", 1e3},
                                                  {"MB", 1e6},
                                                  {"GB", 1e9},
                                                  {"TB", 1e12}}};
  constexpr double kMost = 0x1p60;
  const std::optional<double> bytes = parse_quantity(text, kUnits);
  SLUICE_CHECK(ConfigError, bytes && *bytes < kMost,
               "found \"{}\", allowed none or a size such as 800 MiB or 2 GiB", text);
  return static_cast<int64_t>(*bytes);
}

double parse_wall_time(std::string_view text) {
  static constexpr std::array<Unit, 3> kUnits = {{{"s", 1.0}, {"m", 60.0}, {"h", 3600.0}}};
  const std::optional<double> seconds = parse_quantity(text, kUnits);
  SLUICE_CHECK(ConfigError, seconds.has_value(),
               "found \"{}\", allowed none or a time such as 90 s, 30 m or 1.5 h", text);
  return *seconds;
}

}  // namespace sluice
