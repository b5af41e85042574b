#include "train/transforms/upcycle.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "layers/mixers/attention_mixture.h"
#include "layers/routers/top_k.h"
#include "train/find_checkpoint.h"
#include "train/pruning_schedule.h"
#include "train/transforms/attention_experts.h"
#include "train/transforms/averaging.h"
#include "train/transforms/neuron_importance.h"
#include "train/transforms/router_rows.h"
#include "train/transforms/upcycling.h"

namespace sluice {
namespace {

struct MatrixName {
  Matrix matrix;
  std::string_view name;
};
constexpr std::array<MatrixName, 3> kMatrices = {
    {{Matrix::gate, "w_gate"}, {Matrix::up, "w_up"}, {Matrix::down, "w_down"}}};

/// The path in a checkpoint of a parameter that an adapter owns.
bool is_adapter(std::string_view path) {
  constexpr std::string_view kRoom = "model/";
  return path.starts_with(kRoom) && is_adapter_parameter(path.substr(kRoom.size()));
}

/// What an upcycled model may have otherwise than the model that it comes from.
constexpr std::array<std::string_view, 10> kMayDiffer = {
    "pattern",    "experts", "feed_forward",           "variants", "init",
    "vocab_size", "dropout", "multi_token_prediction", "dtype",    "adapters"};

/// The same where attention becomes experts too: attention_pairs compares the heads.
constexpr std::array<std::string_view, 12> kMayDifferBesideAttention = {"pattern",
                                                                        "experts",
                                                                        "feed_forward",
                                                                        "variants",
                                                                        "init",
                                                                        "vocab_size",
                                                                        "dropout",
                                                                        "dtype",
                                                                        "multi_token_prediction",
                                                                        "attention.",
                                                                        "attention_mixture.",
                                                                        "adapters"};

bool keeps_schedule(const UpcycleConfig& config) {
  using Schedule = UpcycleConfig::Schedule;
  return config.schedule == Schedule::as_step ? config.step == UpcycleConfig::Kept::keep
                                              : config.schedule == Schedule::keep;
}

int64_t width_of_shared(const ExpertsConfig& experts) {
  const auto* shared = dynamic_cast<const SharedExpertsConfig*>(experts.shared.get());
  return shared == nullptr ? 0 : shared->num_experts * shared->intermediate_size;
}

/// Whether combine weights are scores that nothing normalises.
bool weights_are_scores(const TopKRouterConfig& router, int64_t top_k) {
  const bool sigmoid_alone =
      router.scores == "sigmoid" && router.weights == "renormalise" && top_k == 1;
  return router.weights == "as_is" || sigmoid_alone;
}

/// Of the combine weights of a token before the router's scale: at logits of zero where it is not known.
double sum_of_weights(const TopKRouterConfig& router, int64_t num_experts, int64_t top_k) {
  const auto k = static_cast<double>(top_k);
  if (router.weights == "straight_through") return k;
  if (!weights_are_scores(router, top_k)) return 1.0;
  return router.scores == "softmax" ? k / static_cast<double>(num_experts) : k / 2.0;
}

class Upcycling {
 public:
  Upcycling(const UpcycleJob& job, StateDict& state)
      : job_(job),
        recipe_(job.recipe),
        config_(job.config()),
        scheme_(upcycling_registry().at(config_.scheme.type).make(*config_.scheme.config)),
        importance_(job),
        files_(config_.branch_files()),
        state_(state) {
    files_.insert(files_.begin(), config_.from);
    models_.push_back(&job.from);
    for (const Checkpoint& branch : job.branches) models_.push_back(&branch);
  }

  std::vector<std::string> run() {
    const Recipe& before = job_.before.recipe;
    const std::vector<SublayerSpec> from = before.model.sublayers();
    const std::vector<SublayerSpec> to = recipe_.model.sublayers();
    const std::vector<LayerPair> pairs = layer_pairs(before.model, recipe_.model, config_.from);
    const std::vector<AttentionPair> attention = attention_pairs(from, to);
    if (attention.empty()) {
      check_same_model(before, recipe_, "upcycle.from", config_.from, kMayDiffer);
    } else {
      check_same_model(before, recipe_, "upcycle.from", config_.from, kMayDifferBesideAttention);
    }
    constexpr std::array<std::string_view, 2> kOfTraining = {"init", "dropout"};
    check_branches_alike(job_, before, kOfTraining);
    const bool has_adapters =
        std::ranges::any_of(state_, [](const auto& entry) { return is_adapter(entry.first); });
    SLUICE_CHECK(ConfigError, !pairs.empty() || !attention.empty() || has_adapters,
                 "upcycle: the pattern {} has no layer of experts (E), nor has the model adapters",
                 recipe_.model.pattern);
    for (const LayerPair& pair : pairs) make_experts(pair);
    for (const AttentionPair& pair : attention) make_attention(pair);
    for (auto& [path, array] : state_) {
      if (!path.starts_with("model/") || made_.contains(path)) continue;
      // What a new layer has beside a norm the old one has not: routers, shared experts, adapters,
      // predictions further ahead.
      const auto belongs_to = [&](const auto& pair) {
        return path.starts_with(fmt::format("model/{}.", pair.name));
      };
      const bool is_new =
          !job_.from.state.contains(path) &&
          (is_adapter(path) || path.starts_with("model/multi_token.") ||
           std::ranges::any_of(pairs, belongs_to) || std::ranges::any_of(attention, belongs_to));
      if (!is_new) array = mean_over_models(path, array);
    }
    for (std::string& sentence : set_router_rows(job_, places_, state_)) note(std::move(sentence));
    if (models_.size() > 1) {
      note(fmt::format(
          "not the function of any one model: what is no expert is the mean of {} models",
          models_.size()));
    }
    keep_optimizer();
    keep_position(job_, state_, notes_);
    return std::move(notes_);
  }

 private:
  using Kept = UpcycleConfig::Kept;

  [[nodiscard]] StateArray mean_over_models(const std::string& path, const StateArray& like) const {
    std::vector<const StateArray*> arrays;
    for (size_t m = 0; m < models_.size(); ++m) {
      arrays.push_back(&array_of(*models_[m], files_[m], path, like.dims, like.type));
    }
    return arrays.size() == 1 ? *arrays[0] : average(arrays);
  }

  void note(std::string sentence) {
    if (std::ranges::find(notes_, sentence) == notes_.end()) notes_.push_back(std::move(sentence));
  }

  void make_attention(const AttentionPair& pair) {
    make_attention_experts(pair, models_, files_, state_);
    const auto& config = dynamic_cast<const AttentionMixtureConfig&>(*pair.mixture.config);
    note(
        fmt::format("{} attention experts of each attention, {}", config.num_experts,
                    config.share_keys ? "keys and values shared" : "keys and values of their own"));
    if (config_.optimizer == Kept::keep) note("attention experts start without moments");
    const std::string own = fmt::format("model/{}.attention_mixture.", pair.name);
    for (const auto& [path, array] : state_) {
      if (path.starts_with(own)) made_.try_emplace(path);
    }
  }

  static std::string experts_path(const LayerPair& pair, std::string_view matrix) {
    return fmt::format("model/{}.experts.{}", pair.name, matrix);
  }
  static std::string shared_path(const LayerPair& pair, std::string_view matrix) {
    return fmt::format("model/{}.shared_experts.{}", pair.name, matrix);
  }
  static std::string dense_path(std::string_view room, const LayerPair& pair,
                                std::string_view matrix) {
    return fmt::format("{}/{}.feed_forward.{}", room, pair.name, matrix);
  }

  void make_experts(const LayerPair& pair) {
    const int64_t width = pair.dense.intermediate_size;
    const int64_t hidden = recipe_.model.hidden_size;
    const auto type = state_.at(experts_path(pair, "w_gate")).type;
    const auto matrix_of = [&](size_t model, Matrix matrix, std::string_view name) {
      const std::array<int64_t, 2> dims = matrix == Matrix::down
                                              ? std::array<int64_t, 2>{hidden, width}
                                              : std::array<int64_t, 2>{width, hidden};
      return &array_of(*models_[model], files_[model], dense_path("model", pair, name), dims, type);
    };
    const UpcycledLayer layer{.name = pair.name,
                              .seed = static_cast<uint64_t>(recipe_.seed),
                              .num_experts = pair.experts.num_experts,
                              .top_k = pair.experts.largest_top_k(),
                              .expert_width = pair.experts.intermediate_size,
                              .shared_width = width_of_shared(pair.experts),
                              .dense_width = width,
                              .hidden_size = hidden,
                              .dense_gate = *matrix_of(0, Matrix::gate, "w_gate"),
                              .num_models = std::ssize(models_),
                              .sublayer = pair.sublayer,
                              .importance = &importance_};
    LayerNeurons plan = scheme_->choose(layer);
    choose_shared(layer, plan);
    const double parts = plan.distinct() / static_cast<double>(layer.expert_width);
    const double scale =
        config_.scale ? *config_.scale
                      : upcycling_scale(pair.experts.router, layer.num_experts, layer.top_k, parts);
    report(layer, plan, pair, scale);
    const NeuronShape shape{hidden, width};
    for (const auto& [matrix, name] : kMatrices) {
      std::vector<const StateArray*> from;
      for (size_t model = 0; model < models_.size(); ++model) {
        from.push_back(matrix_of(model, matrix, name));
      }
      const std::string path = experts_path(pair, name);
      const ExpertMatrix kind{matrix, path, scale_of(matrix, scale)};
      fill_experts(plan, shape, kind, layer.seed, from, state_.at(path));
      made_.emplace(path, MadeMatrix{dense_path("optim", pair, name), kind, shape, plan});
      if (!plan.shared.source.empty()) {
        fill_shared(plan, shape, kind, from, state_.at(shared_path(pair, name)));
      }
    }
    reuse_router_rows(plan, pair);
    const int64_t rows = plan.router_row.empty() ? layer.num_experts
                                                 : *std::ranges::max_element(plan.router_row) + 1;
    places_.push_back({pair.sublayer, 0, layer.num_experts, rows});
  }

  /// Shared experts that the scheme says nothing of.
  void choose_shared(const UpcycledLayer& layer, LayerNeurons& plan) {
    if (layer.shared_width == 0 || !plan.shared.source.empty()) return;
    if (layer.shared_width == layer.dense_width) {
      plan.shared.source = neurons_in_order(layer.dense_width);
    }
  }

  [[nodiscard]] double scale_of(Matrix matrix, double scale) const {
    const bool zero = config_.routed_output == UpcycleConfig::RoutedOutput::zero;
    if (zero && matrix == Matrix::down) return 0.0;
    switch (config_.scale_target) {
      case UpcycleConfig::ScaleTarget::down:
        return matrix == Matrix::down ? scale : 1.0;
      case UpcycleConfig::ScaleTarget::up_down:
        return matrix == Matrix::gate ? 1.0 : std::sqrt(scale);
      case UpcycleConfig::ScaleTarget::all:
        return std::cbrt(scale);
    }
    return 1.0;
  }

  static bool has_free_weights(const LayerPair& pair) {
    const auto* router = dynamic_cast<const TopKRouterConfig*>(pair.experts.router.config.get());
    return router != nullptr && weights_are_scores(*router, pair.experts.largest_top_k());
  }

  void report(const UpcycledLayer& layer, const LayerNeurons& plan, const LayerPair& pair,
              double scale) {
    note(fmt::format(
        "{} experts of width {} from a dense feed-forward of width {} by {}; outputs times "
        "{:g}",
        layer.num_experts, layer.expert_width, layer.dense_width, config_.scheme.type, scale));
    const bool zero = config_.routed_output == UpcycleConfig::RoutedOutput::zero;
    const bool whole = layer.shared_width == layer.dense_width;
    if (pair.experts.form.type == ternary_form.name && !zero) {
      note("not the dense function: experts compute with weights of three levels");
    }
    if (zero) {
      if (!whole)
        note(
            "not the dense function: routed experts start at zero, and no shared expert is "
            "the whole dense feed-forward");
      return;
    }
    if (const std::string why = scheme_->departure(layer); !why.empty()) {
      note("not the dense function: " + why);
    }
    if (has_free_weights(pair)) {
      note(
          "the dense function on average only: combine weights are the router's scores as they "
          "are");
    }
    if (config_.scale_target == UpcycleConfig::ScaleTarget::all && scale != 1.0) {
      note(
          "not the dense function: the cube root of the scale in all matrices is not exact for "
          "SwiGLU "
          "(scale_target: down or up_down is)");
    }
    if (layer.shared_width > 0 && whole) {
      note(
          "not the dense function: routed experts add to shared ones that are the dense "
          "feed-forward "
          "(routed_output: zero starts them at nothing)");
    } else if (layer.shared_width > 0 && plan.shared.source.empty()) {
      note(fmt::format(
          "not the dense function: shared experts of width {} keep their initial values",
          layer.shared_width));
    }
  }

  void reuse_router_rows(const LayerNeurons& plan, const LayerPair& pair) {
    if (plan.router_row.empty()) return;
    const auto found = state_.find(fmt::format("model/{}.router.weight", pair.name));
    SLUICE_CHECK(
        ConfigError, found != state_.end(),
        "upcycle.scheme {}: router {} has no row per expert that a group could share; allowed "
        "top_k and what derives from it",
        config_.scheme.type, pair.experts.router.type);
    const StateArray before = found->second;
    const size_t row = before.bytes.size() / plan.router_row.size();
    for (size_t e = 0; e < plan.router_row.size(); ++e) {
      std::copy_n(before.bytes.begin() +
                      static_cast<std::ptrdiff_t>(static_cast<size_t>(plan.router_row[e]) * row),
                  row, found->second.bytes.begin() + static_cast<std::ptrdiff_t>(e * row));
    }
  }

  void keep_optimizer() {
    if (config_.optimizer == Kept::reset) return note("optimizer: reset");
    int64_t arrays = 0;
    int64_t kept = 0;
    for (auto& [path, array] : state_) {
      if (!path.starts_with("optim/")) continue;
      ++arrays;
      const size_t slash = path.rfind('/');
      const std::string parameter = "model/" + path.substr(6, slash > 6 ? slash - 6 : 0);
      if (const auto made = made_.find(parameter); made != made_.end()) {
        const auto found = job_.from.state.find(made->second.moments + path.substr(slash));
        if (found == job_.from.state.end() || array.numel() != state_.at(parameter).numel())
          continue;
        fill_expert_moments(made->second.plan, made->second.shape, made->second.matrix,
                            found->second, array);
        ++kept;
        continue;
      }
      const auto found = job_.from.state.find(path);
      if (found == job_.from.state.end() || found->second.dims != array.dims) continue;
      array = found->second;
      ++kept;
    }
    note(kept_moments(config_, kept, arrays));
  }

  struct MadeMatrix {
    std::string moments;  // "optim/layers.1.feed_forward.w_gate"
    ExpertMatrix matrix;
    NeuronShape shape;
    LayerNeurons plan;
  };

  const UpcycleJob& job_;
  const Recipe& recipe_;
  const UpcycleConfig& config_;
  std::unique_ptr<UpcyclingScheme> scheme_;
  NeuronImportance importance_;
  std::vector<std::string> files_;         // of models_
  std::vector<const Checkpoint*> models_;  // that of upcycle.from, and the branches
  std::vector<RouterPlace> places_;
  StateDict& state_;
  std::map<std::string, MadeMatrix> made_;  // routed experts and attention experts, by their path
  std::vector<std::string> notes_;
};

}  // namespace

std::string kept_moments(const UpcycleConfig& config, int64_t kept, int64_t arrays) {
  SLUICE_CHECK(ConfigError, kept > 0 || arrays == 0,
               "upcycle.optimizer: found keep, but {} holds no moments of this optimizer; allowed "
               "reset",
               config.from);
  if (kept == arrays) return "optimizer: moments kept";
  return fmt::format("optimizer: {} of {} arrays of moments kept; what is new starts at 0", kept,
                     arrays);
}

double upcycling_scale(const Tagged& router, int64_t num_experts, int64_t top_k, double parts) {
  const auto* config = dynamic_cast<const TopKRouterConfig*>(router.config.get());
  SLUICE_CHECK(
      ConfigError, config != nullptr,
      "upcycle.scale: found auto, but what combine weights of router {} sum to is not known "
      "beforehand; give a number",
      router.type);
  return parts / (config->scale * sum_of_weights(*config, num_experts, top_k));
}

const UpcycleConfig& UpcycleJob::config() const {
  return dynamic_cast<const UpcycleConfig&>(*recipe.upcycle);
}

std::vector<std::string> upcycle_state(const UpcycleJob& job, StateDict& state) {
  const Tagged& scheme = job.config().scheme;
  const UpcyclingEntry& entry = upcycling_registry().at(scheme.type);
  if (entry.carry_out != nullptr) return entry.carry_out(*scheme.config, job, state);
  return Upcycling(job, state).run();
}

std::vector<Checkpoint> branch_checkpoints(const Recipe& recipe, const Checkpoint& from) {
  const auto& config = dynamic_cast<const UpcycleConfig&>(*recipe.upcycle);
  const std::vector<std::string> files = config.branch_files();
  std::vector<Checkpoint> branches;
  for (size_t i = 0; i < files.size(); ++i) {
    const std::string key = fmt::format("upcycle.branches.{}.from", i);
    branches.push_back(named_checkpoint(key, files[i], recipe));
    const CheckpointMeta& meta = branches.back().meta;
    SLUICE_CHECK(
        ConfigError,
        meta.tokenizer_kind == from.meta.tokenizer_kind && meta.tokenizer == from.meta.tokenizer,
        "{}: {} reads text by another tokenizer than {} (upcycle.from); models of one "
        "vocabulary are needed",
        key, files[i], config.from);
  }
  return branches;
}

void check_same_model(Recipe there, Recipe here, std::string_view key, const std::string& name,
                      std::span<const std::string_view> may_differ) {
  constexpr std::string_view kModel = "model.";
  std::string problems;
  for (const FieldDifference& difference : differences(there, here)) {
    if (!difference.key.starts_with(kModel)) continue;
    const std::string_view below = std::string_view(difference.key).substr(kModel.size());
    const auto matches = [&](std::string_view prefix) { return below.starts_with(prefix); };
    if (std::ranges::any_of(may_differ, matches)) continue;
    problems += fmt::format("\n  {}: {} there, {} here", difference.key, difference.before,
                            difference.after);
  }
  SLUICE_CHECK(ConfigError, problems.empty(),
               "{}: {} is another model than the recipe's; make them alike:{}", key, name,
               problems);
}

std::vector<Recipe> branch_recipes(const UpcycleJob& job) {
  const std::vector<std::string> files = job.config().branch_files();
  std::vector<Recipe> recipes;
  for (size_t i = 0; i < files.size(); ++i) {
    recipes.push_back(checkpoint_recipe(job.branches[i], files[i]));
  }
  return recipes;
}

void check_branches_alike(const UpcycleJob& job, const Recipe& recipe,
                          std::span<const std::string_view> may_differ) {
  const std::vector<std::string> files = job.config().branch_files();
  const std::vector<Recipe> branches = branch_recipes(job);
  for (size_t i = 0; i < branches.size(); ++i) {
    check_same_model(branches[i], recipe, fmt::format("upcycle.branches.{}.from", i), files[i],
                     may_differ);
  }
}

void check_branches_share(const UpcycleJob& job, const std::string& path, const StateArray& wanted,
                          std::string_view advice) {
  const std::vector<std::string> files = job.config().branch_files();
  for (size_t i = 0; i < files.size(); ++i) {
    const StateArray& found = array_of(job.branches[i], files[i], path, wanted.dims, wanted.type);
    SLUICE_CHECK(CheckpointError, found == wanted, "{}: /{} is not that of {}, bit for bit; {}",
                 files[i], path, job.config().from, advice);
  }
}

std::vector<LayerPair> layer_pairs(const ModelConfig& dense, const ModelConfig& model,
                                   const std::string& from) {
  const std::vector<SublayerSpec> before = dense.sublayers();
  const std::vector<SublayerSpec> after = model.sublayers();
  SLUICE_CHECK(ConfigError, before.size() == after.size(),
               "model.pattern: {} has {} sublayers, {} ({}) has {}", model.pattern, after.size(),
               from, dense.pattern, before.size());
  std::vector<LayerPair> pairs;
  for (size_t i = 0; i < after.size(); ++i) {
    const auto* experts = dynamic_cast<const ExpertsConfig*>(after[i].config);
    if (experts == nullptr) continue;
    const auto* ffn = dynamic_cast<const DenseConfig*>(before[i].config);
    SLUICE_CHECK(
        ConfigError, ffn != nullptr && ffn->activation == "swiglu" && !ffn->bias,
        "upcycle.from: sublayer {} of {} ({}) is no dense feed-forward with SwiGLU and without "
        "bias, of which the recipe's experts could be made",
        i, from, dense.pattern);
    SLUICE_CHECK(
        ConfigError,
        experts->form.type == swiglu_form.name || experts->form.type == ternary_form.name,
        "upcycle: model.experts.form is {}, allowed swiglu, the dense feed-forward's own form, and "
        "ternary",
        experts->form.type);
    pairs.push_back({static_cast<int64_t>(i), fmt::format("layers.{}", i), *experts, *ffn});
  }
  return pairs;
}

const StateArray& array_of(const Checkpoint& checkpoint, const std::string& file,
                           const std::string& path, std::span<const int64_t> dims,
                           ElementType type) {
  const auto found = checkpoint.state.find(path);
  SLUICE_CHECK(CheckpointError, found != checkpoint.state.end(), "{}: /{} is missing", file, path);
  const StateArray& array = found->second;
  const auto sizes = [](std::span<const int64_t> of) {
    return fmt::format("[{}]", fmt::join(of, ", "));
  };
  SLUICE_CHECK(CheckpointError, std::ranges::equal(array.dims, dims) && array.type == type,
               "{}: /{} is {} {}, the recipe's model expects {} {}", file, path,
               name_of(array.type), sizes(array.dims), name_of(type), sizes(dims));
  return array;
}

ScheduleOffset schedule_offset(const UpcycleJob& job) {
  const CheckpointMeta& from = job.from.meta;
  const bool keeps_step = job.config().step == UpcycleConfig::Kept::keep;
  const ScheduleOffset own = keeps_step ? ScheduleOffset{from.step, from.tokens} : ScheduleOffset{};
  if (!keeps_schedule(job.config())) return {-own.steps, -own.tokens};
  return {from.step + from.schedule.steps - own.steps,
          from.tokens + from.schedule.tokens - own.tokens};
}

void keep_position(const UpcycleJob& job, StateDict& state, std::vector<std::string>& notes) {
  const UpcycleConfig& config = job.config();
  const auto keep = [&](UpcycleConfig::Kept kept, std::string_view what,
                        std::initializer_list<std::string_view> paths) {
    const bool is_kept = kept == UpcycleConfig::Kept::keep;
    notes.push_back(fmt::format("{}: {}", what, is_kept ? "kept" : "reset"));
    if (!is_kept) return;
    for (const std::string_view path : paths) {
      const auto own = state.find(path);
      if (own == state.end()) continue;
      own->second = array_of(job.from, config.from, own->first, own->second.dims, own->second.type);
    }
  };
  keep(config.step, "step", {"run/step", "run/tokens"});
  const ScheduleOffset offset = schedule_offset(job);
  const bool keeps_step = config.step == UpcycleConfig::Kept::keep;
  notes.push_back(fmt::format("schedules: {} at step {}",
                              keeps_schedule(config) ? "kept, they go on" : "reset, they begin",
                              offset.steps + (keeps_step ? job.from.meta.step : 0)));
  keep(config.data, "data", {"data/loader"});
}

}  // namespace sluice
