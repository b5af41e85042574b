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
//
// which is G and E G / k for softmax ("Upcycling Large Language Models into Mixture of Experts",
// arXiv 2410.07524). With weights that sum to 1 and a choice of whole sets of parts that is exact; with
// weights as they are it holds on average. `scale_target` says where s goes: `down` (Wd s) and `up_down`
// (the root of s in Wu and Wd) are exact for SwiGLU; `all` (the cube root of s in all three) is the
// published rule, which is exact for squared ReLU only, since silu is not homogeneous.

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
  const StateArray& dense_gate;  // [F, D]
};

class UpcyclingScheme {
 public:
  virtual ~UpcyclingScheme() = default;
  /// Throws ConfigError when the sizes do not go together.
  [[nodiscard]] virtual LayerNeurons choose(const UpcycledLayer& layer) const = 0;
  /// Why the new model is not the dense one, apart from what `scale` can and cannot do: a clause, or "".
  [[nodiscard]] virtual std::string departure(const UpcycledLayer& layer) const = 0;
};

/// A line of upcycling.def.
struct UpcyclingEntry {
  std::string_view name;
  std::string_view doc;
  std::unique_ptr<Configurable> (*make_config)();
  std::unique_ptr<UpcyclingScheme> (*make)(const Configurable&);
};

#define SLUICE_UPCYCLING(name) extern const UpcyclingEntry name##_upcycling;
#include "train/transforms/upcycling.def"
#undef SLUICE_UPCYCLING

[[nodiscard]] const Registry<UpcyclingEntry>& upcycling_registry();
/// For FieldVisitor::tagged.
[[nodiscard]] std::span<const Choice> upcycling_choices();

/// `upcycle` of a recipe.
struct UpcycleConfig final : Configurable {
  enum class ScaleTarget : uint8_t { down, up_down, all };
  enum class RoutedOutput : uint8_t { keep, zero };
  enum class Kept : uint8_t { keep, reset };
  std::string from;
  Tagged scheme;
  std::optional<double> scale;  // "auto"
  ScaleTarget scale_target = ScaleTarget::down;
  RoutedOutput routed_output = RoutedOutput::keep;
  Kept optimizer = Kept::reset;
  Kept step = Kept::reset;
  Kept data = Kept::reset;
  int64_t probe_tokens = 4096;

  UpcycleConfig();
  void fields(FieldVisitor& v) override;
};

/// 0, 1, ..., n - 1.
[[nodiscard]] std::vector<int32_t> neurons_in_order(int64_t n);
/// The same in an order that follows from the seed, the layer and `which`.
[[nodiscard]] std::vector<int32_t> shuffled_neurons(const UpcycledLayer& layer, int64_t which);
/// Throws ConfigError unless an expert is as wide as the dense feed-forward.
void check_whole_experts(const UpcycledLayer& layer, std::string_view scheme);

}  // namespace sluice
