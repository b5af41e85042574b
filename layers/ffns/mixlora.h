#pragma once
// MixLoRA (Li et al. 2024, arXiv 2404.15159): experts that share the frozen feed-forward of a dense model,
// each with LoRAs of its own on gate, up and down.
//
//   h_e = silu((Wg + Dg_e) x) * ((Wu + Du_e) x),   y = sum over chosen e of g_e (Wd + Dd_e) h_e
//   D_e = s B_e A_e
//
// Wg x and Wu x are computed once per token and read by all its experts; since Wd is the same for all, it
// is applied once to sum g_e h_e. The dense matrices keep their names ("feed_forward.w_gate"), so that a
// dense checkpoint fits; everything else is named "feed_forward.adapters...". With B = 0 every expert is
// the dense feed-forward, and so is y where the weights sum to 1.
//
// `ranks` gives every expert a rank of its own; 0 is the dense feed-forward itself. With it this is
// FlexMoRE's layer (Pirchert et al. 2026, arXiv 2602.08818): a public expert and others of mixed ranks.

#include <cstdint>
#include <vector>

#include "layers/adapters.h"
#include "layers/routed_layer.h"

namespace sluice {

/// The section of a layer mixlora.
struct MixLoraConfig final : RoutingConfig, AdapterSettings {
  int64_t intermediate_size = 768;
  std::vector<int64_t> ranks;  // of each expert; empty: rank

  MixLoraConfig();
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;
  /// The rank of each.
  [[nodiscard]] std::vector<int64_t> ranks_of_experts() const;
};

}  // namespace sluice
