#pragma once
// What routers did, in more detail than a number per metric: the records of routing.jsonl.
//
//   {"kind":"load","step":S,"tokens":T,"load":[[n per expert] per expert layer]}
//   {"kind":"experts","step":S,"gradient_share":[[..] per layer],"update_ratio":[[..] per layer]}
//   {"kind":"probe","step":S,"tokens":N,"top_k":k,"chosen":[[n_i] per layer],
//    "coactivation":[[[n_ij]] per layer],
//    "domains":{"prose":{"tokens":n,"chosen":[[n_i] per layer]}, ..}}
//   {"kind":"alarm","step":S,"name":"..","layer":L or null,"value":v,"threshold":t,"advice":".."}

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace sluice {

/// [layer][E]
using CountsPerLayer = std::vector<std::vector<int64_t>>;

struct LoadRecord {
  int64_t step = 0;
  int64_t tokens = 0;   // training tokens consumed
  CountsPerLayer load;  // assignments since the load record before, or since the run began
};

/// One step's gradient and update, per stack of routed experts (optim/expert_updates.h).
struct ExpertsRecord {
  int64_t step = 0;
  std::vector<std::vector<double>> gradient_share;  // [stack][E]
  std::vector<std::vector<double>> update_ratio;    // [stack][E]
};

/// What held-out tokens chose.
struct ProbeRecord {
  struct Domain {
    std::string name;
    int64_t tokens = 0;
    CountsPerLayer chosen;
  };
  int64_t step = 0;
  int64_t tokens = 0;  // held-out tokens
  int64_t top_k = 0;
  CountsPerLayer chosen;  // over all domains
  /// [layer][E * E]: tokens that chose both, and on the diagonal tokens that chose the expert. Empty
  /// when this record has none, and empty for a layer that has too many experts for it.
  std::optional<CountsPerLayer> coactivation;
  std::vector<Domain> domains;
};

/// An alarm that went off.
struct AlarmRecord {
  int64_t step = 0;
  std::string name;
  std::optional<int64_t> layer;  // expert layer; nullopt for one of the whole model
  double value = 0.0;
  double threshold = 0.0;
  std::string advice;
};

using RoutingRecord = std::variant<LoadRecord, ExpertsRecord, ProbeRecord, AlarmRecord>;

}  // namespace sluice
