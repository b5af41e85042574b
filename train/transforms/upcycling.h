#pragma once
// Upcycling: a dense model becomes a Mixture-of-Experts model that goes on from it (Komatsuzaki et al.
// 2022, arXiv 2212.05055). Every dense feed-forward whose place has an expert layer in the recipe is taken
// apart into neurons (neurons.h), from which a scheme makes the experts; everything else is copied.
//
// Scale. The experts of a layer that share out F neurons in parts of f sum to the dense feed-forward;
// combine weights that sum to g give g f / F of it. The outputs of the routed experts are therefore
// multiplied by
//
//   s = (n / f) / g,   n: neurons of the dense layer that the routed experts hold, each counted once
//   g = scale                    weights that sum to 1 (renormalise, softmax_after)
//   g = scale k / E, scale k / 2 weights as they are, softmax and sigmoid, at logits of zero
//   g = scale k                  weights of 1 (straight_through)
//
// which is G and E G / k for softmax ("Upcycling Large Language Models into Mixture of Experts",
// arXiv 2410.07524). With weights that sum to 1 and a choice of whole sets of parts that is exact; with
// weights as they are it holds on average. `calibrate` measures instead (expert_scale.h). `scale_target`
// says where s goes: `down` (Wd s) and `up_down` (the root of s in Wu and Wd) are exact for SwiGLU; `all`
// (the cube root of s in all three) is the published rule, which is exact for squared ReLU only, since
// silu is not homogeneous.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "autograd/support/fields.h"
#include "autograd/support/registry.h"
#include "train/transforms/neurons.h"

namespace sluice {

class NeuronImportance;
struct UpcycleJob;

/// What a scheme is told of a layer.
struct UpcycledLayer {
  std::string name;              // "layers.1", by which numbers are drawn
  uint64_t seed = 0;             // of the run
  int64_t num_experts;           // E
  int64_t top_k;                 // k, the most of the run
  int64_t expert_width;          // f
  int64_t shared_width;          // of all shared experts together; 0 without
  int64_t dense_width;           // F
  int64_t hidden_size;           // D
  const StateArray& dense_gate;  // [F, D], of the model in `from`
  int64_t num_models = 1;        // that in `from`, and the branches
  int64_t sublayer = 0;          // number of the layer
  /// What neurons do on text; null where a scheme that wants it cannot be given it.
  NeuronImportance* importance = nullptr;
};

class UpcyclingScheme {
 public:
  virtual ~UpcyclingScheme() = default;
  /// Throws ConfigError when the sizes do not go together.
  [[nodiscard]] virtual LayerNeurons choose(const UpcycledLayer& layer) const = 0;
  /// Why the new model is not the dense one, apart from what `scale` can and cannot do: a clause, or "".
  [[nodiscard]] virtual std::string departure(const UpcycledLayer& layer) const = 0;
};

/// Whether a scheme makes experts of several models.
enum class Branches : uint8_t { unused, optional, needed };

/// A line of upcycling.def: a scheme over neurons (`make`), or one that does the whole by itself.
struct UpcyclingEntry {
  std::string_view name;
  std::string_view doc;
  std::unique_ptr<Configurable> (*make_config)();
  std::unique_ptr<UpcyclingScheme> (*make)(const Configurable&);
  Branches branches = Branches::unused;
  /// Overwrites the state of the new run, as upcycle_state does; null where there is `make`.
  std::vector<std::string> (*carry_out)(const Configurable&, const UpcycleJob&,
                                        StateDict&) = nullptr;
};

#define SLUICE_UPCYCLING(name) extern const UpcyclingEntry name##_upcycling;
#include "train/transforms/upcycling.def"
#undef SLUICE_UPCYCLING

[[nodiscard]] const Registry<UpcyclingEntry>& upcycling_registry();
/// For FieldVisitor::tagged.
[[nodiscard]] std::span<const Choice> upcycling_choices();

/// An entry of `upcycle.branches`.
struct BranchConfig final : Configurable {
  std::string from;
  void fields(FieldVisitor& v) override;
};

/// `upcycle` of a recipe.
struct UpcycleConfig final : Configurable {
  enum class ScaleTarget : uint8_t { down, up_down, all };
  enum class RoutedOutput : uint8_t { keep, zero };
  enum class Kept : uint8_t { keep, reset };
  enum class Schedule : uint8_t { as_step, keep, reset };
  std::string from;
  std::vector<std::shared_ptr<Configurable>> branches;  // BranchConfig
  Tagged scheme;
  Tagged router;                // initial, or prompts (router_rows.h)
  std::optional<double> scale;  // "auto"
  std::optional<int64_t> calibrate;
  ScaleTarget scale_target = ScaleTarget::down;
  RoutedOutput routed_output = RoutedOutput::keep;
  Kept optimizer = Kept::reset;
  Kept step = Kept::reset;
  Schedule schedule = Schedule::as_step;
  Kept data = Kept::reset;
  int64_t probe_tokens = 4096;

  UpcycleConfig();
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;
  /// The files of the branches, in order.
  [[nodiscard]] std::vector<std::string> branch_files() const;
};

/// 0, 1, ..., n - 1.
[[nodiscard]] std::vector<int32_t> neurons_in_order(int64_t n);
/// The same in an order that follows from the seed, the layer and `which`.
[[nodiscard]] std::vector<int32_t> shuffled_neurons(const UpcycledLayer& layer, int64_t which);
/// Experts that are the dense feed-forward. Throws as check_whole_experts.
[[nodiscard]] LayerNeurons whole_copies(const UpcycledLayer& layer, std::string_view scheme);
/// Throws ConfigError unless an expert is as wide as the dense feed-forward.
void check_whole_experts(const UpcycledLayer& layer, std::string_view scheme);

}  // namespace sluice
