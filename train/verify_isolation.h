#pragma once
// Do packed documents leak into each other? One token of one document is changed, and the logits of
// all others must keep every bit; so must those of its own document before the change (causality).
//
// Letters: N tokens of the packed batch, V vocabulary.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "autograd/support/function_ref.h"
#include "data/batch.h"
#include "train/build.h"

namespace sluice {

/// A token that is replaced.
struct TokenChange {
  int64_t document = 0;
  int64_t position = 0;  // in the document
  int32_t token = 0;     // the new one
};

struct Leak {
  TokenChange change;
  int64_t document = 0;  // where a logit changed that must not
  int64_t position = 0;
  double difference = 0.0;  // largest of that token's logits
};

struct IsolationReport {
  int64_t documents = 0;
  int64_t changes = 0;         // tokens changed, one after the other
  int64_t leaked_tokens = 0;   // tokens of other documents whose logits changed, over all changes
  int64_t acausal_tokens = 0;  // tokens before the change, in its document
  std::optional<Leak> worst;   // of both
  std::vector<TokenChange> mute;  // changes that did not even reach the token's own logits
  [[nodiscard]] bool is_isolated() const {
    return leaked_tokens == 0 && acausal_tokens == 0 && mute.empty();
  }
};

/// Documents of very different lengths, from one token up, in two sequences of `sequence_length`; they
/// are of `domains` domains in turns.
[[nodiscard]] Batch make_isolation_batch(int64_t vocab_size, int64_t sequence_length,
                                         int64_t domains = 1);

/// One change per document, in its middle.
[[nodiscard]] std::vector<TokenChange> make_token_changes(const Batch& batch, int64_t vocab_size);

/// `logits_of` gives [N, V] for a batch, the same for the same batch.
[[nodiscard]] IsolationReport check_isolation(
    const Batch& batch, std::span<const TokenChange> changes,
    FunctionRef<std::vector<double>(const Batch&)> logits_of);

/// What is checked: a model and its balancers.
struct IsolationSubject {
  const Recipe& recipe;
  Pool& pool;
  const Model& model;
  RoutingSession& routing;
  Progress progress;
};

struct IsolationVerdict {
  IsolationReport evaluation;  // must be isolated
  IsolationReport training;    // must be, unless something is declared
  /// Parts of the recipe whose choice of experts in training depends on the whole micro-batch by
  /// design, one sentence each.
  std::vector<std::string> declared;
  [[nodiscard]] bool passes() const {
    return evaluation.is_isolated() && (training.is_isolated() || !declared.empty());
  }
};

/// Both modes on a made-up batch. Balancers are left as they were.
[[nodiscard]] IsolationVerdict verify_isolation(const IsolationSubject& subject);

}  // namespace sluice
