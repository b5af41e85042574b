#include "train/transforms/upcycle.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "layers/ffns/dense.h"
#include "layers/ffns/moe.h"
#include "layers/routers/top_k.h"
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

/// Whether the model's function depends on a key that both models must agree on.
bool must_agree(std::string_view key) {
  constexpr std::array<std::string_view, 10> kMayDiffer = {
      "model.pattern", "model.experts",    "model.feed_forward", "model.variants",
      "model.init",    "model.vocab_size", "model.dropout",      "model.multi_token_prediction",
      "model.dtype",   "model.adapters"};
  return key.starts_with("model.") &&
         std::ranges::none_of(kMayDiffer,
                              [&](std::string_view prefix) { return key.starts_with(prefix); });
}

void check_same_model(Recipe dense, Recipe recipe, const std::string& from) {
  std::string problems;
  for (const FieldDifference& difference : differences(dense, recipe)) {
    if (!must_agree(difference.key)) continue;
    problems += fmt::format("\n  {}: {} there, {} here", difference.key, difference.before,
                            difference.after);
  }
  SLUICE_CHECK(ConfigError, problems.empty(),
               "upcycle.from: {} is another model than the recipe's; make them alike:{}", from,
               problems);
}

/// A layer of experts and the dense layer that it comes from.
struct LayerPair {
  std::string name;  // "layers.1"
  const ExpertsConfig& experts;
  const DenseConfig& dense;
};

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
        ConfigError, experts->form.type == "swiglu",
        "upcycle: model.experts.form is {}, allowed swiglu: the dense feed-forward's own form",
        experts->form.type);
    pairs.push_back({fmt::format("layers.{}", i), *experts, *ffn});
  }
  return pairs;
}

int64_t width_of_shared(const ExpertsConfig& experts) {
  const auto* shared = dynamic_cast<const SharedExpertsConfig*>(experts.shared.get());
  return shared == nullptr ? 0 : shared->num_experts * shared->intermediate_size;
}

class Upcycling {
 public:
  Upcycling(const Checkpoint& dense, const Recipe& recipe, StateDict& state)
      : dense_(dense),
        recipe_(recipe),
        config_(dynamic_cast<const UpcycleConfig&>(*recipe.upcycle)),
        scheme_(upcycling_registry().at(config_.scheme.type).make(*config_.scheme.config)),
        state_(state) {}

  std::vector<std::string> run() {
    const Recipe before =
        with_context([&] { return config_.from; },
                     [&] { return parse_recipe(dense_.meta.recipe, "its recipe"); });
    check_same_model(before, recipe_, config_.from);
    const std::vector<LayerPair> pairs = layer_pairs(before.model, recipe_.model, config_.from);
    const bool has_adapters =
        std::ranges::any_of(state_, [](const auto& entry) { return is_adapter(entry.first); });
    SLUICE_CHECK(ConfigError, !pairs.empty() || has_adapters,
                 "upcycle: the pattern {} has no layer of experts (E), nor has the model adapters",
                 recipe_.model.pattern);
    for (const LayerPair& pair : pairs) make_experts(pair);
    for (auto& [path, array] : state_) {
      if (!path.starts_with("model/") || made_.contains(path)) continue;
      // What a layer of experts has beside a norm the dense layer has not: router, shared experts.
      // Nor has it adapters.
      const bool is_new = !dense_.state.contains(path) &&
                          (is_adapter(path) || std::ranges::any_of(pairs, [&](const auto& pair) {
                             return path.starts_with(fmt::format("model/{}.", pair.name));
                           }));
      if (!is_new) array = dense_array(path, array.dims, array.type);
    }
    keep_optimizer();
    keep(config_.step, "step", {"run/step", "run/tokens"});
    keep(config_.data, "data", {"data/loader"});
    return std::move(notes_);
  }

 private:
  using Kept = UpcycleConfig::Kept;

  const StateArray& dense_array(const std::string& path, std::span<const int64_t> dims,
                                ElementType type) const {
    const auto found = dense_.state.find(path);
    SLUICE_CHECK(CheckpointError, found != dense_.state.end(), "{}: /{} is missing", config_.from,
                 path);
    SLUICE_CHECK(
        CheckpointError, std::ranges::equal(found->second.dims, dims) && found->second.type == type,
        "{}: /{} is {} {}, the recipe's model expects {} {}", config_.from, path,
        name_of(found->second.type), fmt_dims(found->second.dims), name_of(type), fmt_dims(dims));
    return found->second;
  }
  static std::string fmt_dims(std::span<const int64_t> dims) {
    return fmt::format("[{}]", fmt::join(dims, ", "));
  }

  void note(std::string sentence) {
    if (std::ranges::find(notes_, sentence) == notes_.end()) notes_.push_back(std::move(sentence));
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
    const auto matrix_of_dense = [&](Matrix matrix, std::string_view name) -> const StateArray& {
      const std::array<int64_t, 2> dims = matrix == Matrix::down
                                              ? std::array<int64_t, 2>{hidden, width}
                                              : std::array<int64_t, 2>{width, hidden};
      return dense_array(dense_path("model", pair, name), dims, type);
    };
    const UpcycledLayer layer{.name = pair.name,
                              .seed = static_cast<uint64_t>(recipe_.seed),
                              .num_experts = pair.experts.num_experts,
                              .top_k = pair.experts.largest_top_k(),
                              .expert_width = pair.experts.intermediate_size,
                              .shared_width = width_of_shared(pair.experts),
                              .dense_width = width,
                              .hidden_size = hidden,
                              .dense_gate = matrix_of_dense(Matrix::gate, "w_gate")};
    LayerNeurons plan = scheme_->choose(layer);
    choose_shared(layer, plan);
    const double parts =
        static_cast<double>(plan.distinct()) / static_cast<double>(layer.expert_width);
    const double scale =
        config_.scale ? *config_.scale
                      : upcycling_scale(pair.experts.router, layer.num_experts, layer.top_k, parts);
    report(layer, pair, scale);
    const NeuronShape shape{hidden, width};
    for (const auto& [matrix, name] : kMatrices) {
      const StateArray& from = matrix_of_dense(matrix, name);
      const std::string path = experts_path(pair, name);
      const ExpertMatrix kind{matrix, path, scale_of(matrix, scale)};
      fill_experts(plan, shape, kind, layer.seed, from, state_.at(path));
      made_.emplace(path, MadeMatrix{dense_path("optim", pair, name), kind, shape, plan});
      if (!plan.shared.source.empty()) {
        fill_shared(plan, shape, kind, from, state_.at(shared_path(pair, name)));
      }
    }
    reuse_router_rows(plan, pair);
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

  std::optional<std::string> weights_of(const LayerPair& pair) const {
    const auto* router = dynamic_cast<const TopKRouterConfig*>(pair.experts.router.config.get());
    if (router == nullptr) return std::nullopt;
    return router->weights;
  }

  void report(const UpcycledLayer& layer, const LayerPair& pair, double scale) {
    note(fmt::format(
        "{} experts of width {} from a dense feed-forward of width {} by {}; outputs times "
        "{:g}",
        layer.num_experts, layer.expert_width, layer.dense_width, config_.scheme.type, scale));
    const bool zero = config_.routed_output == UpcycleConfig::RoutedOutput::zero;
    const bool whole = layer.shared_width == layer.dense_width;
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
    if (weights_of(pair) == "as_is") {
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
    } else if (layer.shared_width > 0 && config_.scheme.type != split_upcycling.name) {
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
    for (auto& [path, array] : state_) {
      if (!path.starts_with("optim/")) continue;
      const size_t slash = path.rfind('/');
      const std::string parameter = "model/" + path.substr(6, slash > 6 ? slash - 6 : 0);
      if (const auto made = made_.find(parameter); made != made_.end()) {
        const auto found = dense_.state.find(made->second.moments + path.substr(slash));
        if (found == dense_.state.end() || array.numel() != state_.at(parameter).numel()) continue;
        fill_expert_moments(made->second.plan, made->second.shape, made->second.matrix,
                            found->second, array);
        continue;
      }
      const auto found = dense_.state.find(path);
      if (found == dense_.state.end() || found->second.dims != array.dims) continue;
      array = found->second;
    }
    note("optimizer: moments kept");
  }

  void keep(Kept kept, std::string_view what, std::initializer_list<std::string_view> paths) {
    if (kept == Kept::reset) return note(fmt::format("{}: reset", what));
    for (const std::string_view path : paths) {
      const auto own = state_.find(path);
      if (own == state_.end()) continue;
      own->second = dense_array(own->first, own->second.dims, own->second.type);
    }
    note(fmt::format("{}: kept", what));
  }

  struct MadeMatrix {
    std::string moments;  // "optim/layers.1.feed_forward.w_gate"
    ExpertMatrix matrix;
    NeuronShape shape;
    LayerNeurons plan;
  };

  const Checkpoint& dense_;
  const Recipe& recipe_;
  const UpcycleConfig& config_;
  std::unique_ptr<UpcyclingScheme> scheme_;
  StateDict& state_;
  std::map<std::string, MadeMatrix> made_;  // routed experts, by their path
  std::vector<std::string> notes_;
};

}  // namespace

double upcycling_scale(const Tagged& router, int64_t num_experts, int64_t top_k, double parts) {
  const auto* config = dynamic_cast<const TopKRouterConfig*>(router.config.get());
  SLUICE_CHECK(
      ConfigError, config != nullptr,
      "upcycle.scale: found auto, but what combine weights of router {} sum to is not known "
      "beforehand; give a number",
      router.type);
  double sum = 1.0;
  if (config->weights == "as_is") {
    sum = static_cast<double>(top_k) *
          (config->scores == "softmax" ? 1.0 / static_cast<double>(num_experts) : 0.5);
  }
  return parts / (config->scale * sum);
}

std::vector<std::string> upcycle_state(const Checkpoint& dense, const Recipe& recipe,
                                       StateDict& state) {
  return Upcycling(dense, recipe, state).run();
}

}  // namespace sluice
