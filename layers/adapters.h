#pragma once
// Adapters: low-rank experts beside the frozen matrices of a dense model.
//
//   y = W x + s B diag(g(x)) A x,   A [R, in], B [out, R]
//
// (LoRA: Hu et al. 2021, arXiv 2106.09685, where g is 1 and s = alpha / R). A recipe names linear maps
// by the section of their layer and their own name, and what stands beside each:
//
//   model:
//     adapters:
//       heads: {type: mola, linears: [attention.q, attention.v], rank: 8, num_experts: 4}
//
// W keeps its name, so that a dense checkpoint fits (train.init_from); B starts at zero, so that the
// first step computes the dense model's function. Parameters: "layers.3.attention.adapters.heads.q...",
// and "adapters.heads..." for what linear maps share. train/build.h freezes all others.
//
// Letters: N tokens, E experts, R ranks of all experts together.

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/support/fields.h"
#include "autograd/support/registry.h"
#include "layers/linear.h"
#include "layers/sublayer.h"

namespace sluice {

/// What the sections of all adapters have in common. A section that derives from RoutingConfig routes.
struct AdapterSettings {
  std::vector<std::string> linears;  // "attention.q": section of the layer, name of the map
  int64_t rank = 8;
  double alpha = 16.0;
  bool rank_stabilised = false;
  double dropout = 0.0;
  double b_std = 0.0;

  virtual ~AdapterSettings() = default;
  /// s of an expert of rank r: alpha / r, or alpha / r^(1/2) where it is stabilised (rsLoRA; Kalajdzievski
  /// 2023, arXiv 2312.03732).
  [[nodiscard]] double scale(int64_t r) const;
  /// How the adapters of sublayer `index` of `count` route; null when they do not.
  [[nodiscard]] virtual const RoutingConfig* routing_of(int64_t /*index*/,
                                                        int64_t /*count*/) const {
    return nullptr;
  }
  /// A rule between the section and the model's number of sublayers: "" or one sentence that starts
  /// with a key of the section.
  [[nodiscard]] virtual std::string check_depth(int64_t /*sublayers*/) const { return {}; }

 protected:
  void linears_field(FieldVisitor& v);
  void rank_field(FieldVisitor& v);
  /// alpha, rank_stabilised, dropout, b_std.
  void scale_fields(FieldVisitor& v);
};

/// An adapter of one linear map.
class Adapter : public LinearAdapter {
 public:
  /// What routes in it; null for none.
  [[nodiscard]] virtual RoutedLayer* routed_layer() { return nullptr; }
  /// Adds the matrix [out, in] that stands for it to `w`, the values of W. Returns "", or a clause that
  /// says why no matrix does ("each token chooses among 4 experts"); `w` is then as it was.
  [[nodiscard]] virtual std::string merge_into(std::span<double> w) const = 0;
};

/// Parameters that the adapters of several linear maps share.
class AdapterPools : public Module {
 public:
  explicit AdapterPools(const Builder& b) : b_(b) {}
  /// The matrix "<path>.<name>" of this shape, made where it is asked for first, by `init` or, for std >
  /// 0, from uniform numbers of that standard deviation. Throws ConfigError for another shape than that.
  [[nodiscard]] Parameter& pool(const std::string& name, const Shape& shape, Init init, double std);

 private:
  Builder b_;
  std::vector<std::pair<std::string, Parameter*>> pools_;
};

/// What an adapter is made for.
struct AdapterSetup {
  int64_t in = 0;
  int64_t out = 0;
  std::string name;    // of the adapter in the recipe, and of the map: "heads.q"
  int64_t stream = 0;  // layer number of its dropout
  /// How it routes and as which of the model's routed layers; null where it does not.
  const RoutingConfig* routing = nullptr;
  int64_t routed_layer = 0;
  AdapterPools* pools = nullptr;
};

/// A line of adapters.def.
struct AdapterEntry {
  std::string_view name;
  std::string_view doc;
  /// The section is an AdapterSettings too.
  std::unique_ptr<Configurable> (*make_config)();
  std::unique_ptr<Adapter> (*make)(const Builder&, const AdapterSetup&, const Configurable&);
};

/// The make_config and make of an adapter `A` with a constructor from (Builder, AdapterSetup, Config).
template <class Config>
[[nodiscard]] std::unique_ptr<Configurable> make_adapter_config() {
  return std::make_unique<Config>();
}
template <class A, class Config>
[[nodiscard]] std::unique_ptr<Adapter> make_adapter(const Builder& b, const AdapterSetup& setup,
                                                    const Configurable& config) {
  return std::make_unique<A>(b, setup, dynamic_cast<const Config&>(config));
}

#define SLUICE_ADAPTER(name) extern const AdapterEntry name##_adapter;
#include "layers/adapters.def"
#undef SLUICE_ADAPTER

[[nodiscard]] const Registry<AdapterEntry>& adapter_registry();
/// For FieldVisitor::tagged_map.
[[nodiscard]] std::span<const Choice> adapter_choices();

/// One adapter of one linear map of a sublayer.
struct AdapterPlace {
  std::string_view entry;   // its name in the recipe
  std::string_view linear;  // "q"
  const Tagged* choice;
  const RoutingConfig* routing;  // null: it does not route
};

/// Those of sublayer `index` of `count`, which `spec` describes, in the recipe's order. Throws ConfigError.
[[nodiscard]] std::vector<AdapterPlace> adapter_places(const TaggedMap& adapters,
                                                       const SublayerSpec& spec, int64_t index,
                                                       int64_t count);
/// The sections of adapters, as of layers that are neither mixer nor feed-forward: key and config.
[[nodiscard]] std::vector<SublayerSpec> adapter_sections(const TaggedMap& adapters);
/// A rule of the model: "" or one sentence that starts with "adapters".
[[nodiscard]] std::string check_adapters(const ModelConfig& model);
/// True for a parameter that an adapter owns or shares, by its name.
[[nodiscard]] bool is_adapter_parameter(std::string_view name);

/// An adapter, where it stands in a model.
struct AdaptedLinear {
  Parameter* weight;  // W [out, in]
  std::string name;   // "heads.q"
  Adapter* adapter;
};

/// Makes the adapters of one sublayer while it is built.
class SublayerAdapters final : public AdapterMaker {
 public:
  /// `path` is the sublayer's, `first_routed` the number of its first adapter among the model's routed
  /// layers.
  SublayerAdapters(std::vector<AdapterPlace> places, std::string path, int64_t first_routed,
                   AdapterPools& pools);
  [[nodiscard]] std::unique_ptr<LinearAdapter> make(const Builder& b, const LinearSpec& spec,
                                                    Parameter& weight) override;
  /// All of them, in the recipe's order. Throws ConfigError, with the names of the sublayer's linear
  /// maps, unless every place has found its map.
  [[nodiscard]] std::vector<AdaptedLinear> finish() const;

 private:
  struct Made {
    AdapterPlace place;
    int64_t routed_layer;
    std::optional<AdaptedLinear> linear;
  };
  [[nodiscard]] std::unique_ptr<Adapter> make_one(const Builder& b, const LinearSpec& spec,
                                                  Parameter& weight, Made& made);
  std::vector<Made> made_;
  std::string path_;
  AdapterPools& pools_;
  std::vector<std::string> seen_;  // names of linear maps
};

}  // namespace sluice
