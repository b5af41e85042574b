#pragma once
// The loss on text that was never trained on. Dropless, without noise, and without any change of
// state: evaluating or not, a run goes on with the same bits.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "autograd/core/communicator.h"
#include "balance/probe.h"
#include "data/evaluation.h"
#include "layers/model.h"
#include "layers/routing_session.h"
#include "train/metrics/metric.h"

namespace sluice {

/// Sums over predicted tokens, and what follows from them.
struct TextLoss {
  double nats = 0.0;
  int64_t tokens = 0;  // predicted
  int64_t bytes = 0;   // of text that the predicted tokens stand for

  void add(const TextLoss& other);
  [[nodiscard]] double per_token() const;  // nats; NaN for no token
  [[nodiscard]] double perplexity() const;
  [[nodiscard]] double bits_per_byte() const;  // NaN for no byte
};

struct DomainLoss {
  std::string domain;
  TextLoss loss;
};

struct Evaluation {
  TextLoss loss;                    // of all domains together, each with its tokens
  std::vector<DomainLoss> domains;  // those with tokens, in the order of the recipe
  std::vector<LayerLoad> loads;     // one per expert layer, of all evaluated tokens
  std::vector<LayerProbe> probes;   // one per expert layer, by domain as above
  RememberedChoices choices;        // of this rank
  /// Against the evaluation before, one per expert layer; empty when there is none.
  std::vector<ChoiceOverlap> overlaps;

  /// eval/loss, eval/perplexity, eval/bits_per_byte, eval/loss/<domain>, ...; of routing what
  /// metrics.def says.
  void add_to(Record& record) const;
  /// [D]: predicted tokens of each domain.
  [[nodiscard]] std::vector<int64_t> domain_tokens() const;
};

/// Tokens whose choices are kept to see which flip until the next evaluation: about so many, spread
/// over the whole of the held-out text. A megabyte of state at 24 layers and top-8.
inline constexpr int64_t kRememberedTokens = 1024;

struct EvaluationParts {
  Pool& pool;
  const Model& model;
  RoutingSession& routing;
  Communicator& communicator;
};

/// One pass over the held-out documents, or over its first `max_batches` batches. `progress` is
/// where the model stands: scheduled numbers (top-k, temperature) have their value there. nullopt
/// when there is no held-out text with a token to predict.
[[nodiscard]] std::optional<Evaluation> evaluate(const EvaluationParts& parts, const Dataset& data,
                                                 const EvaluationOptions& options,
                                                 const Progress& progress,
                                                 std::optional<int64_t> max_batches = {});

/// Cross-entropy in nats of every token of `batch`, 0 where there is no loss. [N]
[[nodiscard]] std::vector<double> token_losses(const EvaluationParts& parts, const Batch& batch,
                                               const Progress& progress);

}  // namespace sluice
