#pragma once
// Scores that are averages over the tokens before (Nguyen et al. 2025, "Improving Routing in Sparse
// Mixture of Experts with Graph of Tokens", arXiv 2505.00792; the formulas are reconstructed from
// its abstract [R]).
//
//   p'_t = sum over j of S_tj p_j;   top-k of p';   w from p'
//
// S is row-stochastic and causal within documents: a token sees itself and what stands before it.
// Experts still work on the token's own features. Losses see p' and the token's own logits.

#include "layers/attention_map.h"
#include "layers/routers/top_k.h"

namespace sluice {

/// The linear router's keys; weights come from the mixed scores, which have no logits.
struct MixedScoresConfig : TopKRouterConfig {
  bool detach = false;
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;
};

/// A linear router whose scores are mixed by a map that the subclass gives.
class MixedScoresRouter : public TopKRouter {
 public:
  MixedScoresRouter(const Builder& b, const RouterSetup& setup, const MixedScoresConfig& config);
  [[nodiscard]] RouterScores score(const ForwardContext& context, const Tensor& x) const override;
  [[nodiscard]] std::unique_ptr<FeedForwardState> make_state(Pool& pool, DType dtype,
                                                             int64_t capacity) const override;

 protected:
  /// S as an attention, of x [N, D].
  [[nodiscard]] virtual AttentionMap map_of(const ForwardContext& context,
                                            const Tensor& x) const = 0;
  /// Width of the rows that a subclass wants kept in decoding beside the scores; 0 for none.
  [[nodiscard]] virtual int64_t kept_width() const { return 0; }
  /// `rows` [n, kept_width()] of the new tokens -> those of all tokens so far: `rows` themselves in a
  /// pass over whole documents. To be called once per map_of.
  [[nodiscard]] static Tensor with_earlier(const ForwardContext& context, const Tensor& rows);

 private:
  bool has_softmax_scores_;
};

}  // namespace sluice
