#pragma once
// The parity receipt: what a transformation of a model changed, measured on held-out text.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "train/evaluate.h"

namespace sluice {

/// A model where its schedules stand.
struct ComparedModel {
  EvaluationParts parts;
  Progress progress;
};

/// Two models on the same tokens, in evaluation.
struct Parity {
  int64_t tokens = 0;             // predicted
  std::string probe;              // fingerprint of the token ids that were read
  double largest_difference = 0;  // max |a - b| over all logits
  double largest_logit = 0;       // max |a|
  double mean_divergence = 0;     // KL(a || b), mean over tokens, nats
  double loss_before = 0;         // nats per token
  double loss_after = 0;

  /// largest_difference over largest_logit.
  [[nodiscard]] double relative_difference() const;
};

/// `before` and `after` on the first held-out tokens of the data, whole batches until there are
/// `probe_tokens`; nullopt when nothing is held out. Both models read tokens of one tokenizer.
/// Throws NumericError, naming the model, when a logit is not finite.
[[nodiscard]] std::optional<Parity> compare_models(const ComparedModel& before,
                                                   const ComparedModel& after, const Dataset& data,
                                                   const EvaluationOptions& options,
                                                   int64_t probe_tokens);

struct UpcyclingReceipt {
  std::string from;  // the dense checkpoint
  std::string scheme;
  std::vector<std::string> notes;  // one sentence each: choices, and why functions differ
  std::optional<Parity> parity;

  /// upcycling.json of the run's folder.
  [[nodiscard]] std::string to_json() const;
};

}  // namespace sluice
