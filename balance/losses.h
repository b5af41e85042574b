#pragma once
// The auxiliary losses as pure formulas. Counts and load fractions are constants; gradients flow
// through the router's probabilities (or logits) only.
//
// The losses here are linear in the probabilities, so each is one weighted sum over the counted
// tokens of the micro-batch, of which only the weights differ (others: variation.h, entropy.h):
//
//   L = sum over counted t, over i of a[t, i] p[t, i]
//
// Every mean over a micro-batch of T counted tokens carries the weight T / M, M being the counted
// tokens of the global batch: the T cancels, and the micro-batches of a step add up to the loss of
// one large batch.
//
// Letters: N tokens of the micro-batch, E experts, M counted tokens and B sequences of the global
// batch.

#include <cstdint>
#include <span>
#include <vector>

#include "autograd/support/arena.h"
#include "autograd/support/fields.h"
#include "layers/routing.h"

namespace sluice {

/// Whose load a loss weighs the probabilities with.
enum class LoadSource : uint8_t {
  automatic,  // unbiased when the selection was shifted by a bias or a price, else executed
  executed,   // the selection that was made, biases and groups included
  unbiased,   // a plain top-k of the scores, as if no balancer had shifted them; as many experts
              // of a token as the router gives it unshifted
};

/// `selection:` of the losses that take it.
void visit_load_source(FieldVisitor& v, LoadSource& source);

/// Whom a loss counts. A method keeps one, for its memory.
class ChosenExperts {
 public:
  /// The expert of every slot of every token, [N, k], by `source`; kNoExpert where there is none.
  /// Drops for lack of capacity do not show: the loss sees what was wanted. Valid until the next
  /// call, and while `selection` is.
  [[nodiscard]] std::span<const int32_t> of(LoadSource source, const RouterInput& input,
                                            const Selection& selection);

 private:
  std::vector<int32_t> chosen_;  // [N, k]
  Selection unshifted_;          // the router's own choice
};

/// f_i = c_i / sum_j c_j, in double; zeros when there is no assignment. Lives in `scratch`.
[[nodiscard]] std::span<double> load_fractions(ArenaScope& scratch,
                                               std::span<const int64_t> counts);

/// Assignments of the counted tokens in [begin, end) per expert, [E]; `chosen` is [N, k]. Lives in
/// `scratch`.
[[nodiscard]] std::span<int64_t> count_assignments(ArenaScope& scratch,
                                                   std::span<const int32_t> chosen,
                                                   const RouterInput& input, int64_t begin,
                                                   int64_t end);

/// [N], a constant: `factor` for a counted token, 0 for another.
[[nodiscard]] Tensor counted_rows(Tape& tape, const RouterInput& input, double factor);

/// T / M, the share of the global batch's counted tokens that this micro-batch has: the weight of a
/// loss that is a mean over the micro-batch, or no sum over tokens at all.
[[nodiscard]] double share_of_global_batch(const RouterInput& input);

/// The Switch loss, weighed with the tokens of the micro-batch:
///   L = coefficient E sum_i f_i (1 / M) sum over counted t of p_ti
/// `fractions` is f [E]. One element, 1 * coefficient at uniform f when the micro-batch is the
/// global batch. Fedus, Zoph and Shazeer 2021, equations 4 to 6.
[[nodiscard]] Tensor load_balancing_loss(Tape& tape, const RouterInput& input,
                                         std::span<const double> fractions, double coefficient);

/// The same on other scores p [N, E] than the router's probabilities.
[[nodiscard]] Tensor load_balancing_loss(Tape& tape, const RouterInput& input, const Tensor& p,
                                         std::span<const double> fractions, double coefficient);

/// The same per sequence s of T_s counted tokens, averaged over the sequences of the global batch:
///   L = coefficient E / B sum_s sum_i f_i^s (1 / T_s) sum over counted t of s of p_ti
/// with f_i^s from `chosen` [N, k]. A sequence without counted tokens adds nothing. DeepSeek-V2,
/// equations 23 to 25 (there f carries the factor E).
[[nodiscard]] Tensor sequence_balancing_loss(Tape& tape, const RouterInput& input,
                                             std::span<const int32_t> chosen, double coefficient);

/// The router z-loss:
///   L = coefficient (1 / M) sum over counted t of (log sum_i exp z_ti)^2
/// on logits before any bias, those of null experts among them. ST-MoE (Zoph et al. 2022),
/// equation 5.
[[nodiscard]] Tensor z_loss(Tape& tape, const RouterInput& input, double coefficient);

}  // namespace sluice
