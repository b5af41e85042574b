#include "train/transforms/upcycling.h"

#include <numeric>

#include "autograd/support/choices.h"
#include "autograd/support/error.h"
#include "autograd/support/rng.h"

namespace sluice {
namespace {

#define SLUICE_UPCYCLING(name) &name##_upcycling,
constexpr const UpcyclingEntry* kSchemes[] = {
#include "train/transforms/upcycling.def"
};
#undef SLUICE_UPCYCLING

// Initial values are drawn with layer 0 of the purpose; these never meet them.
constexpr uint32_t kOrderStream = 19;

}  // namespace

const Registry<UpcyclingEntry>& upcycling_registry() {
  static const Registry<UpcyclingEntry> registry("scheme", kSchemes);
  return registry;
}

std::span<const Choice> upcycling_choices() {
  static const std::vector<Choice> choices = choices_of<UpcyclingEntry>(kSchemes);
  return choices;
}

UpcycleConfig::UpcycleConfig()
    : scheme{std::string(copy_upcycling.name),
             std::shared_ptr<Configurable>(copy_upcycling.make_config())} {}

void UpcycleConfig::fields(FieldVisitor& v) {
  v.path({"from", "checkpoint of the dense model, or the folder of its run", true}, from);
  v.tagged({"scheme", "how experts are made of a dense feed-forward"}, scheme, upcycling_choices());
  v.optional_number(
      {"scale",
       "factor of the routed experts' outputs; auto: what keeps the model's function, or "
       "its mean, for the router's combine weights"},
      scale, {.min = 0.0, .exclusive_min = true}, "auto");
  v.enumeration(
      {"scale_target",
       "where the factor goes: down (w_down), up_down (its root in w_up and w_down), both "
       "exact; all (its cube root in all three), as published, not exact for SwiGLU"},
      scale_target,
      {{"down", ScaleTarget::down}, {"up_down", ScaleTarget::up_down}, {"all", ScaleTarget::all}});
  v.enumeration(
      {"routed_output",
       "keep, or zero: w_down of the routed experts starts at 0, for a shared expert that is "
       "the whole dense feed-forward"},
      routed_output, {{"keep", RoutedOutput::keep}, {"zero", RoutedOutput::zero}});
  const auto kept = [&v](FieldInfo info, Kept& value) {
    v.enumeration(info, value, {{"keep", Kept::keep}, {"reset", Kept::reset}});
  };
  kept({"optimizer", "moments of the dense run: keep (mapped like the weights) or reset"},
       optimizer);
  kept({"step", "steps and tokens done, by which schedules go: keep or reset"}, step);
  kept({"data", "position in the training data: keep or reset"}, data);
  v.integer({"probe_tokens", "held-out tokens on which both models are compared"}, probe_tokens,
            {.min = 1});
}

std::vector<int32_t> neurons_in_order(int64_t n) {
  std::vector<int32_t> neurons(static_cast<size_t>(n));
  std::iota(neurons.begin(), neurons.end(), 0);
  return neurons;
}

std::vector<int32_t> shuffled_neurons(const UpcycledLayer& layer, int64_t which) {
  std::vector<int32_t> neurons = neurons_in_order(layer.dense_width);
  const RandomKey key{layer.seed, RandomPurpose::init, kOrderStream, static_cast<uint64_t>(which)};
  const uint64_t sample = hash_name(layer.name.data(), layer.name.size());
  for (size_t i = neurons.size(); i > 1; --i) {
    std::swap(neurons[i - 1], neurons[uniform_below(key, sample, i, i)]);
  }
  return neurons;
}

void check_whole_experts(const UpcycledLayer& layer, std::string_view scheme) {
  SLUICE_CHECK(
      ConfigError, layer.expert_width == layer.dense_width,
      "upcycle.scheme {}: model.experts.intermediate_size is {}, the dense feed-forward of {} "
      "is {} wide; experts of this scheme are as wide (virtual_groups and split make narrower "
      "ones)",
      scheme, layer.expert_width, layer.name, layer.dense_width);
}

}  // namespace sluice
