#include "train/transforms/expert_change.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <set>

#include "autograd/support/error.h"
#include "train/build.h"

namespace sluice {
namespace {

/// Elements of an array seen as [outer, size, inner], `picked` of the middle axis.
StateArray take_along(const StateArray& array, size_t axis, std::span<const int32_t> picked) {
  StateArray result{array.type, array.dims, {}};
  result.dims[axis] = std::ssize(picked);
  const auto product = [](auto begin, auto end) {
    return static_cast<size_t>(std::accumulate(begin, end, int64_t{1}, std::multiplies<>()));
  };
  const auto at = array.dims.begin() + static_cast<std::ptrdiff_t>(axis);
  const size_t outer = product(array.dims.begin(), at);
  const auto size = static_cast<size_t>(array.dims[axis]);
  const size_t inner = array.bytes.size() / (outer * size);
  result.bytes.reserve(outer * picked.size() * inner);
  for (size_t o = 0; o < outer; ++o) {
    for (const int32_t i : picked) {
      const auto first = array.bytes.begin() +
                         static_cast<std::ptrdiff_t>((o * size + static_cast<size_t>(i)) * inner);
      result.bytes.insert(result.bytes.end(), first, first + static_cast<std::ptrdiff_t>(inner));
    }
  }
  return result;
}

/// How an array of one shape becomes one of another.
struct Cut {
  bool is_possible = false;    // the shapes are equal but for one axis of experts at most
  std::optional<size_t> axis;  // that one
};

Cut cut_between(std::span<const int64_t> from, std::span<const int64_t> to, int64_t experts,
                int64_t kept) {
  if (from.size() != to.size()) return {};
  Cut cut{.is_possible = true};
  for (size_t i = 0; i < to.size(); ++i) {
    if (from[i] == to[i]) continue;
    if (cut.axis || from[i] != experts || to[i] != kept) return {};
    cut.axis = i;
  }
  return cut;
}

/// The array cut to the kept experts along the one axis in which both shapes differ; nullopt when there
/// is no such axis of `experts`.
std::optional<StateArray> cut(const StateArray& array, std::span<const int64_t> dims,
                              int64_t experts, std::span<const int32_t> kept) {
  const Cut how = cut_between(array.dims, dims, experts, std::ssize(kept));
  if (!how.is_possible) return std::nullopt;
  return how.axis ? take_along(array, *how.axis, kept) : array;
}

/// Of SwiGLU experts: w_gate and w_up are [E, F, D], w_down is [E, D, F].
bool is_expert_matrix(std::string_view parameter, size_t& neuron_axis) {
  const std::string_view name = parameter.substr(parameter.rfind('.') + 1);
  neuron_axis = name == "w_down" ? 2 : 1;
  return parameter.find(".experts.") != parameter.npos &&
         (name == "w_gate" || name == "w_up" || name == "w_down");
}

/// Of every expert the neurons that it keeps.
StateArray take_neurons(const StateArray& array, size_t axis,
                        const std::vector<std::vector<int32_t>>& neurons) {
  StateArray result{array.type, array.dims, {}};
  result.dims[axis] = std::ssize(neurons.front());
  const size_t size = array.bytes.size() / neurons.size();
  for (size_t e = 0; e < neurons.size(); ++e) {
    const auto first = array.bytes.begin() + static_cast<std::ptrdiff_t>(e * size);
    const StateArray expert{array.type,
                            {array.dims.begin() + 1, array.dims.end()},
                            {first, first + static_cast<std::ptrdiff_t>(size)}};
    const StateArray taken = take_along(expert, axis - 1, neurons[e]);
    result.bytes.insert(result.bytes.end(), taken.bytes.begin(), taken.bytes.end());
  }
  return result;
}

/// The layer whose parameters the name is one of.
std::optional<size_t> layer_of(std::span<const ExpertLayer> layers, std::string_view parameter) {
  for (size_t i = 0; i < layers.size(); ++i) {
    if (parameter.starts_with(layers[i].path + ".")) return i;
  }
  return std::nullopt;
}

std::optional<size_t> layer_of_balancer(std::span<const ExpertLayer> layers,
                                        std::string_view path) {
  for (size_t i = 0; i < layers.size(); ++i) {
    if (path.starts_with(fmt::format("balance/{}/", layers[i].routed))) return i;
  }
  return std::nullopt;
}

/// "balance/<layer>/<method>" of the path of an array: what is carried over whole or not at all.
std::string_view balancer_of(std::string_view path) {
  size_t end = 0;
  for (int part = 0; part < 3 && end != path.npos; ++part) end = path.find('/', end + 1);
  return path.substr(0, std::min(end, path.rfind('/')));
}

class StateChange {
 public:
  StateChange(const StateDict& before, std::span<const ExpertLayer> layers,
              std::span<const ExpertChange> changes, StateDict& after,
              std::vector<std::string>& notes)
      : before_(before), layers_(layers), changes_(changes), after_(after), notes_(notes) {}

  void change_model() {
    for (auto& [path, array] : after_) {
      if (!path.starts_with("model/")) continue;
      const auto found = before_.find(path);
      SLUICE_CHECK(CheckpointError, found != before_.end(), "/{} is missing", path);
      const std::string_view parameter = std::string_view(path).substr(6);
      auto changed = changed_array(found->second, array.dims, parameter);
      SLUICE_CHECK(
          ConfigError, changed.has_value(),
          "method: /{} is [{}] and would be [{}]: it does not run over the experts alone, so "
          "this router cannot be cut",
          path, fmt::join(found->second.dims, ", "), fmt::join(array.dims, ", "));
      array = std::move(*changed);
    }
    for (size_t i = 0; i < layers_.size(); ++i) {
      if (changes_[i].weights) write_neurons(*changes_[i].weights, layers_[i].path, after_);
      if (!changes_[i].router_rows.empty()) write_router_rows(i);
    }
  }

  void change_balancers() {
    std::set<std::string, std::less<>> lost;
    for (const auto& [path, array] : after_) {
      if (path.starts_with("balance/") && !changed_balance(path, array)) {
        lost.emplace(balancer_of(path));
        note("balance: what does not run over the experts alone starts anew");
      }
    }
    for (auto& [path, array] : after_) {
      if (!path.starts_with("balance/") || lost.contains(balancer_of(path))) continue;
      array = *changed_balance(path, array);
    }
  }

  void change_moments() {
    bool any = false;
    for (auto& [path, array] : after_) {
      if (!path.starts_with("optim/")) continue;
      const auto found = before_.find(path);
      if (found == before_.end()) {
        note("optimizer: moments that the checkpoint does not hold start at 0");
        continue;
      }
      any = true;
      const size_t slash = std::max<size_t>(path.rfind('/'), 6);
      const std::string_view parameter = std::string_view(path).substr(6, slash - 6);
      const auto layer = layer_of(layers_, parameter);
      size_t axis = 0;
      if (layer && changes_[*layer].weights && is_expert_matrix(parameter, axis)) {
        note("optimizer: moments of merged experts start at zero");
        continue;
      }
      auto changed = changed_array(found->second, array.dims, parameter);
      if (changed) {
        array = std::move(*changed);
      } else {
        note("optimizer: moments that do not have their parameter's shape start anew");
      }
    }
    SLUICE_CHECK(ConfigError, any,
                 "optimizer: found keep, but the checkpoint holds no moments of its recipe's "
                 "optimizer; allowed reset");
  }

  void copy(std::initializer_list<std::string_view> paths) {
    for (const std::string_view path : paths) {
      const auto from = before_.find(path);
      const auto to = after_.find(path);
      if (from != before_.end() && to != after_.end()) to->second = from->second;
    }
  }

 private:
  void note(std::string_view sentence) {
    if (std::ranges::find(notes_, sentence) == notes_.end()) notes_.emplace_back(sentence);
  }

  /// What an array of a balancer becomes; what there was none of before stays as it is.
  [[nodiscard]] std::optional<StateArray> changed_balance(const std::string& path,
                                                          const StateArray& anew) const {
    const auto found = before_.find(path);
    if (found == before_.end()) return anew;
    const auto layer = layer_of_balancer(layers_, path);
    if (layer) {
      return cut(found->second, anew.dims, layers_[*layer].config->num_experts,
                 changes_[*layer].kept);
    }
    return found->second.dims == anew.dims ? std::optional(found->second) : std::nullopt;
  }

  /// An array that has the shape of `parameter`, or goes with it.
  [[nodiscard]] std::optional<StateArray> changed_array(const StateArray& array,
                                                        std::span<const int64_t> dims,
                                                        std::string_view parameter) const {
    const auto layer = layer_of(layers_, parameter);
    if (!layer) {
      return std::ranges::equal(array.dims, dims) ? std::optional(array) : std::nullopt;
    }
    const ExpertChange& change = changes_[*layer];
    const int64_t experts = layers_[*layer].config->num_experts;
    size_t axis = 0;
    if (is_expert_matrix(parameter, axis) && (change.weights || !change.neurons.empty()) &&
        array.dims.size() == 3) {
      StateArray taken = take_along(array, 0, change.kept);
      return change.neurons.empty() ? std::optional(std::move(taken))
                                    : std::optional(take_neurons(taken, axis, change.neurons));
    }
    return cut(array, dims, experts, change.kept);
  }

  void write_router_rows(size_t i) {
    const auto found = after_.find(fmt::format("model/{}.router.weight", layers_[i].path));
    SLUICE_INTERNAL_CHECK(
        found != after_.end() && found->second.numel() == std::ssize(changes_[i].router_rows),
        "{} numbers for the router rows of {}", changes_[i].router_rows.size(), layers_[i].path);
    StateArray& array = found->second;
    if (array.type == ElementType::f32) {
      std::ranges::transform(changes_[i].router_rows, reinterpret_cast<float*>(array.bytes.data()),
                             [](double value) { return static_cast<float>(value); });
    } else {
      std::ranges::copy(changes_[i].router_rows, reinterpret_cast<double*>(array.bytes.data()));
    }
  }

  const StateDict& before_;
  std::span<const ExpertLayer> layers_;
  std::span<const ExpertChange> changes_;
  StateDict& after_;
  std::vector<std::string>& notes_;
};

int64_t width_after(const ExpertChange& change, const ExpertsConfig& config) {
  if (change.weights) return change.weights->width;
  return change.neurons.empty() ? config.intermediate_size : std::ssize(change.neurons.front());
}

class ShapeVisitor final : public StateVisitor {
 public:
  [[nodiscard]] StateShapes take() { return std::move(shapes_); }

 protected:
  void visit(const StateField& field) override {
    if (field.resize == nullptr) shapes_[field.path].assign(field.dims.begin(), field.dims.end());
  }

 private:
  StateShapes shapes_;
};

}  // namespace

Recipe changed_recipe(const std::string& recipe, std::span<const ExpertLayer> layers,
                      std::span<const ExpertChange> changes) {
  Recipe after = parse_recipe(recipe, "the recipe of the model");
  std::vector<const Configurable*> done;
  for (size_t i = 0; i < layers.size(); ++i) {
    ExpertsConfig& experts = experts_section(after.model, layers[i].section);
    const int64_t count = std::ssize(changes[i].kept);
    const int64_t width = width_after(changes[i], *layers[i].config);
    const bool is_again = std::ranges::find(done, &experts) != done.end();
    SLUICE_CHECK(
        ConfigError,
        !is_again || (experts.num_experts == count && experts.intermediate_size == width),
        "method: {} would have {} experts of width {}, another layer of the same section of "
        "the recipe {} of width {}; allowed are equal numbers",
        layers[i].path, count, width, experts.num_experts, experts.intermediate_size);
    done.push_back(&experts);
    experts.num_experts = count;
    experts.intermediate_size = width;
    experts.top_k = static_cast<double>(layers[i].top_k);
    experts.diversify = nullptr;
  }
  after.upcycle = nullptr;
  after.train.init_from = std::nullopt;
  after.train.distillation = nullptr;
  after.train.pruning = nullptr;
  after.train.trace = nullptr;
  after.train.replay = nullptr;
  // Reading it back applies every rule of a recipe to the new numbers.
  return parse_recipe(resolved_text(after), "the transformed model's recipe");
}

void change_state(const StateDict& before, std::span<const ExpertLayer> layers,
                  std::span<const ExpertChange> changes, const KeptState& kept, StateDict& after,
                  std::vector<std::string>& notes) {
  StateChange change(before, layers, changes, after, notes);
  change.change_model();
  change.change_balancers();
  if (kept.optimizer) change.change_moments();
  if (kept.step) change.copy({"run/step", "run/tokens"});
  if (kept.data) change.copy({"data/loader"});
}

StateShapes shapes_of(const Recipe& recipe) {
  constexpr int64_t kAnySize = 256;
  Pool pool(Pool::Mode::shapes_only);
  const auto model = build_model(recipe, pool, recipe.model.vocab_size.value_or(kAnySize));
  const auto routing = build_routing(recipe);
  ShapeVisitor shapes;
  visit_model(*model, *routing, shapes);
  return shapes.take();
}

void check_shapes(const StateShapes& before, const StateShapes& after,
                  std::span<const ExpertLayer> layers, std::span<const ExpertSizes> sizes) {
  for (const auto& [path, dims] : after) {
    const auto found = before.find(path);
    SLUICE_INTERNAL_CHECK(found != before.end(), "/{} is not there before", path);
    const bool is_model = path.starts_with("model/");
    const std::string_view parameter = std::string_view(path).substr(is_model ? 6 : 0);
    const auto layer = is_model ? layer_of(layers, parameter) : layer_of_balancer(layers, path);
    size_t neuron_axis = 0;
    const bool is_matrix = layer && is_expert_matrix(parameter, neuron_axis) && dims.size() == 3;
    const Cut how = cut_between(found->second, dims, layer ? layers[*layer].config->num_experts : 0,
                                layer ? sizes[*layer].experts : 0);
    SLUICE_CHECK(ConfigError, how.is_possible || is_matrix,
                 "/{} is [{}] and would be [{}]: it does not run over the experts alone, so this "
                 "{} cannot be cut",
                 path, fmt::join(found->second, ", "), fmt::join(dims, ", "),
                 is_model ? "router" : "balancing method");
  }
}

}  // namespace sluice
