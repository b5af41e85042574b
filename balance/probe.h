#pragma once
// What held-out tokens choose: loads and specialisation by domain, co-activation, the logits behind
// the congestion coefficient, and the choices of a few tokens that are kept until the next
// evaluation, to see how many of them flip.
//
//   RoutingProbe probe(model.experts_per_layer(), domains, {.stride = 8});
//   const RoutingWatch watch(session, probe);
//   for each batch: probe.begin_batch(domain); forward
//   probe.reduce(communicator);
//
// Counted tokens only. Letters: E experts, D domains.

#include <optional>
#include <span>
#include <vector>

#include "autograd/core/communicator.h"
#include "autograd/core/state.h"
#include "balance/metrics.h"
#include "layers/routing.h"

namespace sluice {

/// One expert layer's answer to an evaluation.
struct LayerProbe {
  std::vector<std::vector<int64_t>> chosen;  // [D][E]: assignments
  Coactivation together;  // of no experts, and so without counts, where there are more than 1024
  std::vector<double> logit_sum;  // [E], over tokens

  LayerProbe(int64_t domains, int64_t experts);
  /// [E], over all domains.
  [[nodiscard]] std::vector<int64_t> all_chosen() const;
  /// Mean over experts that were chosen of the largest share of their tokens that one other expert
  /// also got; (k - 1) / (E - 1) at least, 1 when experts come in pairs.
  [[nodiscard]] double strongest_pair() const;
  /// congestion_coefficient of the load, with the mean logit as quality.
  [[nodiscard]] std::optional<double> congestion(int64_t tokens) const;
};

/// The choices of the remembered tokens of one rank. Part of a checkpoint.
struct RememberedChoices {
  int64_t step = -1;            // of the evaluation; -1 before the first
  std::vector<uint64_t> token;  // which ones, in order
  /// [layer]: slots per token; 0 for a layer that did not see just these tokens (it is not evaluated,
  /// or works on some tokens only), of which nothing is remembered.
  std::vector<int64_t> width;
  /// Layer after layer, [tokens, width of the layer]: experts, then kNoExpert.
  std::vector<int32_t> expert;

  [[nodiscard]] std::vector<Choices> layers() const;
  void visit_state(StateVisitor& visitor);
};

/// How far the choices of two evaluations agree, one per layer, over all ranks; of no tokens for a layer
/// of which nothing was remembered, empty when there is nothing to compare. Call on every rank.
[[nodiscard]] std::vector<ChoiceOverlap> compare_choices(const RememberedChoices& before,
                                                         const RememberedChoices& after,
                                                         Communicator& communicator);

class RoutingProbe final : public RoutingObserver {
 public:
  /// Of `stride` tokens about one is remembered, picked by the number of its sequence and its place
  /// in it: the same ones at every evaluation, however batches and ranks are cut. 0: none.
  RoutingProbe(std::span<const int64_t> experts_per_layer, int64_t domains, int64_t stride);

  void begin_batch(int64_t domain) { domain_ = domain; }
  void observe(const RoutingObservation& observation) override;
  /// Sums counts and logits over ranks; what is remembered stays with its rank.
  void reduce(Communicator& communicator);

  /// [D]: tokens seen, by the layer that saw most.
  [[nodiscard]] const std::vector<int64_t>& tokens() const { return tokens_; }
  [[nodiscard]] const std::vector<LayerProbe>& layers() const { return layers_; }
  [[nodiscard]] RememberedChoices remembered(int64_t step) const;

 private:
  /// Rows of different lengths.
  struct Rows {
    std::vector<uint64_t> tokens;
    std::vector<int32_t> values;
    std::vector<int64_t> ends;
  };
  void remember(const RoutingObservation& observation);

  int64_t stride_;
  int64_t domain_ = 0;
  std::vector<int64_t> tokens_;                     // [D]
  std::vector<std::vector<int64_t>> layer_tokens_;  // [layer][D]
  std::vector<LayerProbe> layers_;                  // [layer]
  std::vector<Rows> rows_;                          // [layer], one row per remembered token
};

}  // namespace sluice
