#pragma once
// Multi-token prediction: layers behind the trunk that predict the tokens after the next.
//
// DeepSeek-V3 (2024, arXiv 2412.19437, section 2.2), after Gloeckle et al. 2024. With h^0 the trunk's
// hidden states before its final norm, depth j = 1 .. D of a document t_0 .. t_{T-1} is
//
//   u_i = M_j [ norm_e(Emb(t_{i+j})) ; norm_h(h^{j-1}_i) ],   h^j = Block_j(u),
//   logits Head(norm_o(h^j_i)) predict t_{i+j+1}
//
// for the tokens i with i + j in the document: predictions never cross into the next. Embedding and
// head are the trunk's. The loss adds coefficient / D times the cross-entropies of all depths. In
// evaluation and decoding the depths are not run, and logits are those of the model without them.
//
// Each cross-entropy is divided by the step's tokens with a loss, as every loss is (the page divides by
// the tokens of the depth itself, which are fewer by j per document). M_j's columns are embedding first,
// as in published checkpoints.

#include <memory>

#include "autograd/support/fields.h"
#include "autograd/support/scheduled.h"
#include "layers/embedding.h"
#include "layers/linear.h"
#include "layers/norm.h"
#include "layers/token_subset.h"

namespace sluice {

/// `model.multi_token_prediction` of a recipe.
struct MultiTokenConfig final : Configurable {
  int64_t num_depths = 1;
  std::string pattern = "AF";
  Scheduled coefficient = 0.1;
  void fields(FieldVisitor& v) override;
};

/// What surrounds the block of one depth. Parameters "<path>.embedding_norm...", "hidden_norm...",
/// "w_projection" [D, 2 D], "output_norm...".
class PredictionDepth final : public Module {
 public:
  PredictionDepth(const Builder& b, const NormConfig& norm, int64_t hidden_size);

  /// The rows that depth j predicts from, of those of depth j - 1 (`whole`): all but the last of each
  /// document.
  [[nodiscard]] static std::shared_ptr<const TokenSubset> rows(const ForwardContext& whole);
  /// values [N] i32 of the whole batch -> [R]: for row i of a document the value of its token i + depth.
  [[nodiscard]] static Tensor shifted(Pool& pool, const Tensor& values, const SequenceLayout& whole,
                                      const SequenceLayout& rows, int64_t depth);
  /// u [R, D] of the shifted tokens [R] and the hidden states [R, D] of the depth before.
  [[nodiscard]] Tensor input(const ForwardContext& context, const Embedding& embedding,
                             const Tensor& tokens, const Tensor& hidden) const;
  /// norm_o(h) [R, D], for the head.
  [[nodiscard]] Tensor output(const ForwardContext& context, const Tensor& hidden) const;

 private:
  Norm* embedding_norm_;
  Norm* hidden_norm_;
  Linear* projection_;
  Norm* output_norm_;
};

}  // namespace sluice
