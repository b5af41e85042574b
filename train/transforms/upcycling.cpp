#include "train/transforms/upcycling.h"

#include <numeric>

#include "autograd/support/choices.h"
#include "autograd/support/error.h"
#include "autograd/support/rng.h"
#include "train/transforms/router_rows.h"

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
             std::shared_ptr<Configurable>(copy_upcycling.make_config())},
      router(initial_router_rows()) {}

void BranchConfig::fields(FieldVisitor& v) {
  v.path({"from", "checkpoint of the branch, or the folder of its run", true}, from);
}

void UpcycleConfig::fields(FieldVisitor& v) {
  v.path({"from", "checkpoint of the dense model, or the folder of its run", true}, from);
  v.object_list({"branches", "more models, that experts are made of too: branches of the one in from"},
                branches, [] { return std::make_shared<BranchConfig>(); });
  v.tagged({"scheme", "how experts are made of a dense feed-forward"}, scheme, upcycling_choices());
  v.tagged({"router", "rows that the router starts with"}, router, router_row_choices());
  v.optional_number(
      {"scale",
       "factor of the routed experts' outputs; auto: what keeps the model's function, or "
       "its mean, for the router's combine weights"},
      scale, {.min = 0.0, .exclusive_min = true}, "auto");
  v.optional_integer(
      {"calibrate",
       "training tokens on which every layer's routed experts are scaled, in order, so that its "
       "output is as long as the dense feed-forward's (LLaMA-MoE); none: they are not"},
      calibrate, {.min = 1}, "none");
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
  kept({"step", "steps and tokens done: keep or reset"}, step);
  v.enumeration({"schedule",
                 "where schedules (learning rate and others) go on: as_step, like the step; keep, where "
                 "the dense run's stopped; or reset, at their start"},
                schedule,
                {{"as_step", Schedule::as_step},
                 {"keep", Schedule::keep},
                 {"reset", Schedule::reset}});
  kept({"data", "position in the training data: keep or reset"}, data);
  v.integer({"probe_tokens", "held-out tokens on which both models are compared"}, probe_tokens,
            {.min = 1});
}

std::string UpcycleConfig::check() const {
  const Branches use = upcycling_registry().at(scheme.type).branches;
  if (use == Branches::needed && branches.empty()) {
    return fmt::format("branches: not given, but scheme {} makes experts of several models",
                       scheme.type);
  }
  if (use == Branches::unused && !branches.empty()) {
    return fmt::format("branches: given, but scheme {} makes experts of the model in from alone",
                       scheme.type);
  }
  if (!branches.empty() && optimizer == Kept::keep) {
    return "optimizer: found keep with branches, whose moments are not merged; allowed reset";
  }
  if (calibrate && routed_output == RoutedOutput::zero) {
    return "calibrate: given with routed_output: zero, of which no factor makes anything";
  }
  return {};
}

std::vector<std::string> UpcycleConfig::branch_files() const {
  std::vector<std::string> files;
  for (const auto& branch : branches) {
    files.push_back(dynamic_cast<const BranchConfig&>(*branch).from);
  }
  return files;
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

LayerNeurons whole_copies(const UpcycledLayer& layer, std::string_view scheme) {
  check_whole_experts(layer, scheme);
  LayerNeurons plan;
  plan.experts.assign(static_cast<size_t>(layer.num_experts),
                      {neurons_in_order(layer.dense_width), {}});
  return plan;
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
