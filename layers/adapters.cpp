#include "layers/adapters.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cmath>

#include "autograd/support/choices.h"
#include "autograd/support/rng.h"
#include "layers/adapters/low_rank.h"
#include "layers/depth.h"
#include "layers/model.h"
#include "layers/routed_layer.h"

namespace sluice {
namespace {

#define SLUICE_ADAPTER(name) &name##_adapter,
constexpr const AdapterEntry* kAdapters[] = {
#include "layers/adapters.def"
};
#undef SLUICE_ADAPTER

/// The component of a path below which an adapter's parameters stand.
constexpr std::string_view kRoom = "adapters";
/// Layer numbers of adapters' dropout streams; sublayers and the embedding have smaller ones.
constexpr int64_t kFirstStream = int64_t{1} << 21;
constexpr uint64_t kStreams = uint64_t{1} << 20;

/// "attention.q" in its two halves; nullopt for another form.
std::optional<std::pair<std::string_view, std::string_view>> split(std::string_view target) {
  const size_t dot = target.find('.');
  if (dot == std::string_view::npos || dot == 0 || dot + 1 == target.size()) return std::nullopt;
  return std::pair(target.substr(0, dot), target.substr(dot + 1));
}

std::string_view section_of(const SublayerSpec& spec) {
  return spec.mixer != nullptr ? spec.mixer->section : spec.feed_forward->section;
}

const AdapterSettings& settings_of(const Tagged& choice) {
  return dynamic_cast<const AdapterSettings&>(*choice.config);
}

/// Several adapters of one linear map, each of what the one before gives.
class AdapterChain final : public LinearAdapter {
 public:
  explicit AdapterChain(std::vector<std::unique_ptr<Adapter>> adapters) {
    for (auto& adapter : adapters) adapters_.push_back(&child(std::move(adapter)));
  }
  [[nodiscard]] Tensor apply(const ForwardContext& context, const Tensor& x,
                             const Tensor& y) const override {
    Tensor result = y;
    for (const Adapter* adapter : adapters_) result = adapter->apply(context, x, result);
    return result;
  }

 private:
  std::vector<const Adapter*> adapters_;
};

std::string check_entry(const std::string& name, const Tagged& choice,
                        std::span<const SublayerSpec> sublayers) {
  const bool is_word = !name.empty() && std::ranges::all_of(name, [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '_';
  });
  if (!is_word) {
    return fmt::format("adapters: found the name \"{}\", allowed letters, digits and _", name);
  }
  const AdapterSettings& settings = settings_of(choice);
  if (settings.linears.empty()) {
    return fmt::format("adapters.{}.linears: not given; name linear maps, as in [attention.q]",
                       name);
  }
  std::vector<std::string_view> sections;
  for (const SublayerSpec& spec : sublayers) {
    if (std::ranges::find(sections, section_of(spec)) == sections.end()) {
      sections.push_back(section_of(spec));
    }
  }
  for (auto target = settings.linears.begin(); target != settings.linears.end(); ++target) {
    const auto halves = split(*target);
    if (!halves || std::ranges::find(sections, halves->first) == sections.end()) {
      return fmt::format(
          "adapters.{}.linears: found \"{}\", allowed a layer of the pattern and one of its linear "
          "maps, as in attention.q; layers: {}",
          name, *target, fmt::join(sections, ", "));
    }
    if (std::find(settings.linears.begin(), target, *target) != target) {
      return fmt::format("adapters.{}.linears: found \"{}\" twice", name, *target);
    }
  }
  if (std::string problem = settings.check_depth(std::ssize(sublayers)); !problem.empty()) {
    return fmt::format("adapters.{}.{}", name, problem);
  }
  const auto* routing = dynamic_cast<const RoutingConfig*>(choice.config.get());
  if (routing == nullptr) return {};
  const auto* router = dynamic_cast<const RouterConfig*>(routing->router.config.get());
  if (routing->reads_attention() || (router != nullptr && router->num_domains() > 0)) {
    return fmt::format(
        "adapters.{}.router: found type {}, which reads {}; allowed a router that reads the "
        "adapter's own input",
        name, routing->router.type,
        routing->reads_attention() ? "the attention of an earlier layer"
                                   : "the domains of documents");
  }
  return {};
}

}  // namespace

const Registry<AdapterEntry>& adapter_registry() {
  static const Registry<AdapterEntry> registry("adapter", kAdapters);
  return registry;
}

std::span<const Choice> adapter_choices() {
  static const std::vector<Choice> choices = choices_of<AdapterEntry>(kAdapters);
  return choices;
}

double AdapterSettings::scale(int64_t r) const {
  const auto ranks = static_cast<double>(r);
  return alpha / (rank_stabilised ? std::sqrt(ranks) : ranks);
}

void AdapterSettings::linears_field(FieldVisitor& v) {
  v.texts({"linears",
           "linear maps that carry one each: section of the layer and name of the map, as in "
           "attention.q, feed_forward.up, mamba2.out"},
          linears);
}

void AdapterSettings::rank_field(FieldVisitor& v) {
  v.integer({"rank", "rank r of one expert"}, rank, {.min = 1});
}

void AdapterSettings::scale_fields(FieldVisitor& v) {
  v.number({"alpha", "what is added is multiplied by alpha / rank"}, alpha,
           {.min = 0.0, .exclusive_min = true});
  v.boolean({"rank_stabilised", "by alpha over the square root of the rank instead (rsLoRA)"},
            rank_stabilised);
  v.number({"dropout", "probability of zeroing an element of what A reads, in training"}, dropout,
           {.min = 0.0, .max = 0.99});
  v.number({"b_std",
            "standard deviation of B's initial values; 0 starts with the function of the model "
            "without adapters"},
           b_std, {.min = 0.0});
}

Parameter& AdapterPools::pool(const std::string& name, const Shape& shape, Init init, double std) {
  const auto found = std::ranges::find(pools_, name, &std::pair<std::string, Parameter*>::first);
  if (found == pools_.end()) {
    Parameter& made = parameter(b_, name, shape, ParameterKind::matrix, init);
    made.stays_f32 = true;
    fill_b(b_, made, std);
    pools_.emplace_back(name, &made);
    return made;
  }
  SLUICE_CHECK(ConfigError, found->second->value.shape() == shape,
               "model.adapters: {} is {} for one layer and {} for another; give layers of other "
               "widths adapters of their own",
               name, found->second->value.shape(), shape);
  return *found->second;
}

std::vector<AdapterPlace> adapter_places(const TaggedMap& adapters, const SublayerSpec& spec,
                                         int64_t index, int64_t count) {
  std::vector<AdapterPlace> places;
  for (const auto& [name, choice] : adapters) {
    const AdapterSettings& settings = settings_of(choice);
    for (const std::string& target : settings.linears) {
      const auto halves = split(target);
      if (!halves || halves->first != section_of(spec)) continue;
      places.push_back({name, halves->second, &choice, settings.routing_of(index, count)});
    }
  }
  return places;
}

std::vector<SublayerSpec> adapter_sections(const TaggedMap& adapters) {
  std::vector<SublayerSpec> sections;
  for (const auto& [name, choice] : adapters) {
    sections.push_back({.key = fmt::format("adapters.{}", name), .config = choice.config.get()});
  }
  return sections;
}

std::string check_adapters(const ModelConfig& model) {
  if (model.adapters.empty()) return {};
  const std::vector<SublayerSpec> sublayers = model.sublayers();
  for (const auto& [name, choice] : model.adapters) {
    std::string problem = check_entry(name, choice, sublayers);
    if (!problem.empty()) return problem;
  }
  const DepthEntry* depth = depth_registry().find(model.depth.type);
  const bool shares = depth != nullptr && depth->shares_key_values != nullptr &&
                      depth->shares_key_values(*model.depth.config);
  if (!shares) return {};
  for (const SublayerSpec& sublayer : sublayers) {
    if (sublayer.group < 0 || sublayer.mixer == nullptr) continue;
    // Later passes leave out the maps of keys and values, and what routes there.
    for (const AdapterPlace& place : adapter_places(model.adapters, sublayer, 0, 1)) {
      if (place.routing == nullptr) continue;
      return fmt::format(
          "adapters.{}: found type {}, which routes, on {} in a group whose passes share keys and "
          "values; allowed depth.key_values: own, or an adapter that does not route",
          place.entry, place.choice->type, section_of(sublayer));
    }
  }
  return {};
}

bool is_adapter_parameter(std::string_view name) {
  static const std::string inner = fmt::format(".{}.", kRoom);
  static const std::string outer = fmt::format("{}.", kRoom);
  return name.starts_with(outer) || name.find(inner) != std::string_view::npos;
}

SublayerAdapters::SublayerAdapters(std::vector<AdapterPlace> places, std::string path,
                                   int64_t first_routed, AdapterPools& pools)
    : path_(std::move(path)), pools_(pools) {
  for (const AdapterPlace& place : places) {
    made_.push_back({place, first_routed, std::nullopt});
    if (place.routing != nullptr) ++first_routed;
  }
}

std::unique_ptr<LinearAdapter> SublayerAdapters::make(const Builder& b, const LinearSpec& spec,
                                                      Parameter& weight) {
  // Its own maps stand one level below the sublayer; deeper ones belong to routers and adapters.
  const std::string& path = b.path();
  const size_t below = path_.size() + 1;
  if (!path.starts_with(path_ + ".") || path.find('.', below) != std::string::npos) return nullptr;
  seen_.push_back(spec.name);
  std::vector<std::unique_ptr<Adapter>> adapters;
  for (Made& made : made_) {
    if (made.place.linear != spec.name) continue;
    SLUICE_CHECK(ConfigError, !made.linear,
                 "model.adapters.{}: {} has two linear maps {}; allowed one of a name of its own",
                 made.place.entry, path_, spec.name);
    adapters.push_back(make_one(b, spec, weight, made));
  }
  if (adapters.size() > 1) return std::make_unique<AdapterChain>(std::move(adapters));
  if (adapters.empty()) return nullptr;
  return std::move(adapters.front());
}

std::unique_ptr<Adapter> SublayerAdapters::make_one(const Builder& b, const LinearSpec& spec,
                                                    Parameter& weight, Made& made) {
  const std::string own = fmt::format("{}.{}.{}", kRoom, made.place.entry, spec.name);
  const std::string path = b.child(own).path();
  AdapterSetup setup{
      .in = spec.in,
      .out = spec.out,
      .name = fmt::format("{}.{}", made.place.entry, spec.name),
      .stream = kFirstStream + static_cast<int64_t>(hash_name(path.data(), path.size()) % kStreams),
      .routing = made.place.routing,
      .routed_layer = made.routed_layer,
      .pools = &pools_};
  const AdapterEntry& entry = adapter_registry().at(made.place.choice->type);
  auto adapter = entry.make(b.child(own), setup, *made.place.choice->config);
  SLUICE_INTERNAL_CHECK((adapter->routed_layer() != nullptr) == (setup.routing != nullptr),
                        "adapter {} routes, or its section, but not both", path);
  made.linear = AdaptedLinear{&weight, setup.name, adapter.get()};
  return adapter;
}

std::vector<AdaptedLinear> SublayerAdapters::finish() const {
  std::vector<AdaptedLinear> result;
  for (const Made& made : made_) {
    SLUICE_CHECK(ConfigError, made.linear.has_value(),
                 "model.adapters.{}.linears: {} has no linear map {}; allowed {}", made.place.entry,
                 path_, made.place.linear, fmt::join(seen_, ", "));
    result.push_back(*made.linear);
  }
  return result;
}

}  // namespace sluice
