// MoLA, MoE-LoRA with layer-wise allocation (Gao et al. 2024, arXiv 2402.08562): on every linear map a
// few LoRA experts, of which each token uses two, with weights that sum to 1; `allocation` gives later
// layers more of them. Parameters of a map: sum over layers of E r (in + out) + E in.

#include "layers/adapters/routed_low_rank.h"

namespace sluice {

const AdapterEntry mola_adapter = {
    .name = "mola",
    .doc =
        "LoRA experts with a router, another number by depth (MoLA; Gao et al. 2024, arXiv "
        "2402.08562)",
    .make_config = make_adapter_config<LoraExpertsConfig>,
    .make = make_adapter<LoraExperts, LoraExpertsConfig>,
};

}  // namespace sluice
