// Adding experts to a model that has some (MoExtend, Zhong et al. 2024, arXiv 2408.03511). `from` is a
// model of experts; layers of which the recipe has more get the difference:
//
//   clone: most_used   new expert j is a copy of the j-th most used expert on the recipe's held-out text,
//          a number    or of that expert
//
// with its router row, bias, and what balancers keep of it. Form `templates` gets new coefficients
// instead, orthonormal to those that are there (MixtureGrowth, arXiv 2311.04251). A clone ties with the
// expert it is of, so that for tokens which choose it the k-th expert drops out: router `extended` with
// `masked` keeps the function until the clones have been trained. Train them alone with `train.freeze`
// and `train.freeze_experts`.
//
// One branch may be given: the same model after its routers were trained for a while on the new text, the
// paper's probe. Usage is then that model's, and the layers are ranked by how much theirs moved: the
// standard deviation over experts of the change of their share (the released probe takes the layers that
// moved least, a slip). The paper extends the upper half; a recipe says which by giving them another
// letter (model.variants).

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <optional>

#include "autograd/core/dtype.h"
#include "autograd/support/error.h"
#include "autograd/support/rng.h"
#include "balance/load.h"
#include "layers/routers/extended.h"
#include "train/find_checkpoint.h"
#include "train/transforms/gather_slices.h"
#include "train/transforms/router_rows.h"
#include "train/transforms/upcycle.h"
#include "train/transforms/upcycling.h"

namespace sluice {
namespace {

// Initial values are drawn with layer 0 of the purpose; these never meet them.
constexpr uint32_t kCoefficientStream = 22;

struct ExtendConfig final : Configurable {
  std::optional<int64_t> clone;  // most_used
  void fields(FieldVisitor& v) override {
    v.optional_integer({"clone", "the expert that new ones are copies of"}, clone, {.min = 0},
                       "most_used");
  }
};

/// A routed layer of both models.
struct GrownLayer {
  int64_t sublayer;
  int64_t routed_layer;
  int64_t before;  // experts
  int64_t after;
  std::string masked = {};  // how long its router passes over what is new: "20 steps"; empty: it does not
  std::vector<int64_t> source = {};  // [after]: the expert that each is a copy of
};

/// Each expert's share of the assignments of each routed layer.
using Usage = std::vector<std::vector<double>>;

Usage usage_of(const TrainedModel& trained, const UpcycleJob& job) {
  SingleRank communicator;
  const auto evaluation =
      evaluate({*trained.pool, *trained.model, *trained.routing, communicator}, job.data,
               job.evaluation, progress_of(trained.recipe, trained.meta));
  SLUICE_CHECK(ConfigError, evaluation.has_value(),
               "upcycle.scheme extend: data.held_out has no text, on which the most used experts "
               "could be found; give some, or clone: a number");
  Usage usage;
  for (const LayerLoad& load : evaluation->loads) {
    const auto total = static_cast<double>(
        std::max<int64_t>(1, std::reduce(load.counts.begin(), load.counts.end())));
    auto& shares = usage.emplace_back();
    for (const int64_t count : load.counts) shares.push_back(static_cast<double>(count) / total);
  }
  return usage;
}

double standard_deviation(const std::vector<double>& a, const std::vector<double>& b) {
  const auto n = static_cast<double>(a.size());
  double mean = 0.0;
  double squares = 0.0;
  for (size_t e = 0; e < a.size(); ++e) mean += (b[e] - a[e]) / n;
  for (size_t e = 0; e < a.size(); ++e) squares += std::pow(b[e] - a[e] - mean, 2) / n;
  return std::sqrt(squares);
}

/// Overwrites rows `first` .. of [E, M] by random ones that are orthonormal to all before.
void orthonormal_rows(StateArray& array, int64_t first, const std::string& path, uint64_t seed) {
  const auto M = static_cast<size_t>(array.dims[1]);
  const RandomKey key{seed, RandomPurpose::init, kCoefficientStream};
  const uint64_t sample = hash_name(path.data(), path.size());
  dispatch_float(array.type == ElementType::f64 ? DType::f64 : DType::f32, [&]<class T>() {
    T* values = reinterpret_cast<T*>(array.bytes.data());
    std::vector<std::vector<double>> basis;
    for (int64_t e = 0; e < array.dims[0]; ++e) {
      std::vector<double> row(M);
      for (size_t t = 0; t < M; ++t) {
        const auto at = static_cast<size_t>(e) * M + t;
        row[t] = e < first ? static_cast<double>(values[at]) : normal(key, sample, at);
      }
      const std::vector<double> own = row;
      // Twice, as once leaves the rounding of nearly parallel rows; trained rows are no basis yet.
      for (int round = 0; round < 2; ++round) {
        for (const std::vector<double>& other : basis) {
          const double product = std::inner_product(row.begin(), row.end(), other.begin(), 0.0);
          for (size_t t = 0; t < M; ++t) row[t] -= product * other[t];
        }
      }
      const double length = std::sqrt(std::inner_product(row.begin(), row.end(), row.begin(), 0.0));
      if (length <= 1e-6) continue;  // depends on those before
      for (double& value : row) value /= length;
      if (e >= first) {
        std::ranges::transform(row, values + static_cast<size_t>(e) * M,
                               [](double value) { return static_cast<T>(value); });
      }
      basis.push_back(std::move(row));
    }
  });
}

class Extension {
 public:
  Extension(const ExtendConfig& config, const UpcycleJob& job, StateDict& state)
      : config_(config), job_(job), state_(state) {}

  std::vector<std::string> run() {
    find_layers();
    choose_sources();
    for (auto& [path, array] : state_) {
      const bool optimizer = path.starts_with("optim/");
      if (!optimizer && !path.starts_with("model/") && !path.starts_with("balance/")) continue;
      if (optimizer && job_.config().optimizer == UpcycleConfig::Kept::reset) continue;
      grow(path, array);
    }
    std::vector<RouterPlace> places;
    for (const GrownLayer& layer : layers_) {
      const int64_t added = layer.after - layer.before;
      if (added > 0) places.push_back({layer.sublayer, layer.before, added, added});
    }
    for (std::string& note : set_router_rows(job_, places, state_)) notes_.push_back(std::move(note));
    report();
    keep_position(job_, state_, notes_);
    return std::move(notes_);
  }

 private:
  void find_layers() {
    constexpr std::array<std::string_view, 6> kMayDiffer = {"pattern", "experts", "variants",
                                                            "init",    "dropout", "vocab_size"};
    const ModelConfig& before = job_.before.recipe.model;
    const ModelConfig& after = job_.recipe.model;
    check_same_model(job_.before.recipe, job_.recipe, "upcycle.from", job_.config().from, kMayDiffer);
    SLUICE_CHECK(ConfigError, job_.branches.size() <= 1,
                 "upcycle.branches: found {} with scheme extend, allowed one: the model after its "
                 "routers were trained on the new text",
                 job_.branches.size());
    const std::vector<SublayerSpec> old_layers = before.sublayers();
    const std::vector<SublayerSpec> new_layers = after.sublayers();
    SLUICE_CHECK(ConfigError, old_layers.size() == new_layers.size(),
                 "model.pattern: {} has {} sublayers, {} ({}) has {}", after.pattern,
                 new_layers.size(), job_.config().from, before.pattern, old_layers.size());
    int64_t routed = 0;
    int64_t added = 0;
    for (size_t i = 0; i < new_layers.size(); ++i) {
      const auto* from = dynamic_cast<const ExpertsConfig*>(old_layers[i].config);
      const auto* to = dynamic_cast<const ExpertsConfig*>(new_layers[i].config);
      SLUICE_CHECK(ConfigError, (from == nullptr) == (to == nullptr),
                   "upcycle.scheme extend: sublayer {} is a layer of experts in one of {} and {} only",
                   i, before.pattern, after.pattern);
      const int64_t own_number = routed;
      if (const RoutingConfig* routing = new_layers[i].routing()) {
        routed += routing->num_routed_layers(after);
      }
      if (from == nullptr) continue;
      check_alike(*from, *to, new_layers[i].key);
      layers_.push_back({static_cast<int64_t>(i), own_number, from->num_experts, to->num_experts,
                         masked_in(*to, to->num_experts - from->num_experts)});
      added += to->num_experts - from->num_experts;
    }
    SLUICE_CHECK(ConfigError, added > 0,
                 "upcycle.scheme extend: no layer has more experts than in {}; raise "
                 "model.experts.num_experts",
                 job_.config().from);
  }

  [[nodiscard]] std::string masked_in(const ExpertsConfig& layer, int64_t added) const {
    const auto* router = dynamic_cast<const ExtendedConfig*>(layer.router.config.get());
    if (router == nullptr || router->num_new < added) return "";
    const bool goes_on = job_.config().step == UpcycleConfig::Kept::keep;
    const Progress start = goes_on ? progress_of(job_.before.recipe, job_.before.meta) : Progress{};
    return router->masks(start) ? router->masked->to_string() : "";
  }

  void check_alike(const ExpertsConfig& from, const ExpertsConfig& to, const std::string& key) const {
    SLUICE_CHECK(ConfigError, to.num_experts >= from.num_experts,
                 "model.{}.num_experts: found {}, allowed at least {}, those of {}", key,
                 to.num_experts, from.num_experts, job_.config().from);
    SLUICE_CHECK(ConfigError,
                 to.intermediate_size == from.intermediate_size && to.form.type == from.form.type,
                 "model.{}: experts of form {} and width {} are there, {} and {} here; make them alike",
                 key, from.form.type, from.intermediate_size, to.form.type, to.intermediate_size);
    SLUICE_CHECK(ConfigError, !config_.clone || *config_.clone < from.num_experts,
                 "upcycle.scheme.clone: found {}, allowed 0 to {} or most_used",
                 config_.clone.value_or(0), from.num_experts - 1);
  }

  void choose_sources() {
    std::optional<Usage> usage;
    if (!config_.clone || !job_.branches.empty()) usage = usage_of(job_.before, job_);
    if (!job_.branches.empty()) {
      const TrainedModel probe =
          build_trained_model(job_.branches[0], job_.config().branch_files()[0]);
      check_same_model(probe.recipe, job_.before.recipe, "upcycle.branches.0.from",
                       job_.config().branch_files()[0], std::array<std::string_view, 1>{"init"});
      const Usage moved = usage_of(probe, job_);
      for (const GrownLayer& layer : layers_) {
        const auto i = static_cast<size_t>(layer.routed_layer);
        notes_.push_back(fmt::format("layers.{}: usage moved by {:.4f} in the probe", layer.sublayer,
                                     standard_deviation((*usage)[i], moved[i])));
      }
      usage = moved;
    }
    for (GrownLayer& layer : layers_) {
      std::vector<int64_t> order(static_cast<size_t>(layer.before));
      std::iota(order.begin(), order.end(), 0);
      layer.source = order;
      if (!config_.clone) {
        const std::vector<double>& shares = (*usage)[static_cast<size_t>(layer.routed_layer)];
        std::ranges::stable_sort(order, [&](int64_t a, int64_t b) {
          return shares[static_cast<size_t>(a)] > shares[static_cast<size_t>(b)];
        });
      }
      for (int64_t j = 0; j < layer.after - layer.before; ++j) {
        layer.source.push_back(config_.clone ? *config_.clone
                                             : order[static_cast<size_t>(j % layer.before)]);
      }
    }
  }

  [[nodiscard]] const GrownLayer* layer_of(std::string_view path) const {
    for (const GrownLayer& layer : layers_) {
      for (const std::string_view room : {"model", "optim"}) {
        if (path.starts_with(fmt::format("{}/layers.{}.", room, layer.sublayer))) return &layer;
      }
      if (path.starts_with(fmt::format("balance/{}/", layer.routed_layer))) return &layer;
    }
    return nullptr;
  }

  void grow(const std::string& path, StateArray& array) {
    const auto found = job_.from.state.find(path);
    const GrownLayer* layer = layer_of(path);
    const bool is_model = path.starts_with("model/");
    const bool is_moment = path.starts_with("optim/");
    if (is_moment) ++moments_;
    if (found == job_.from.state.end()) {
      // What a router has now and had not: a calibration, a bias.
      SLUICE_CHECK(CheckpointError, !is_model || layer != nullptr, "{}: /{} is missing",
                   job_.config().from, path);
      return;
    }
    const StateArray& from = found->second;
    const bool fits = layer == nullptr ? from.dims == array.dims
                                       : can_resize_experts(from.dims, array.dims, layer->before,
                                                            layer->after);
    if (from.type != array.type || !fits) {
      // A balancer of another kind starts anew.
      SLUICE_CHECK(CheckpointError, !is_model, "{}: /{} does not fit the recipe's model",
                   job_.config().from, path);
      return;
    }
    if (is_moment) ++kept_moments_;
    array = layer == nullptr ? from : resize_experts(from, array.dims, layer->before, layer->source);
    const bool coefficients = is_model && path.find(".experts.a_") != std::string::npos;
    if (coefficients && layer->after > layer->before) {
      orthonormal_rows(array, layer->before, path, static_cast<uint64_t>(job_.recipe.seed));
    }
  }

  void report() {
    for (const GrownLayer& layer : layers_) {
      for (int64_t e = layer.before; e < layer.after; ++e) {
        notes_.push_back(fmt::format("layers.{}: expert {} from expert {}", layer.sublayer, e,
                                     layer.source[static_cast<size_t>(e)]));
      }
    }
    const auto is_grown = [](const GrownLayer& layer) { return layer.after > layer.before; };
    const auto first = std::ranges::find_if(layers_, is_grown);
    const bool all_masked = std::ranges::all_of(layers_, [&](const GrownLayer& layer) {
      return !is_grown(layer) || !layer.masked.empty();
    });
    notes_.push_back(
        all_masked
            ? fmt::format("new experts are masked for the first {} of the run", first->masked)
            : "a new expert that is chosen beside the one it was copied from takes another one's "
              "place, unless router extended masks it");
    notes_.push_back(job_.config().optimizer == UpcycleConfig::Kept::keep
                         ? kept_moments(job_.config(), kept_moments_, moments_)
                         : "optimizer: reset");
  }

  const ExtendConfig& config_;
  const UpcycleJob& job_;
  StateDict& state_;
  std::vector<GrownLayer> layers_;
  std::vector<std::string> notes_;
  int64_t moments_ = 0;  // arrays of the optimizer, and those that were there
  int64_t kept_moments_ = 0;
};

}  // namespace

const UpcyclingEntry extend_upcycling = {
    .name = "extend",
    .doc = "more experts for a model that has some, copies of the most used (MoExtend, arXiv "
           "2408.03511)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<ExtendConfig>();
    },
    .make = nullptr,
    .branches = Branches::optional,
    .carry_out = [](const Configurable& config, const UpcycleJob& job, StateDict& state) {
      return Extension(dynamic_cast<const ExtendConfig&>(config), job, state).run();
    },
};

}  // namespace sluice
