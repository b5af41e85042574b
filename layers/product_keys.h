#pragma once
// Retrieval by product keys: the k best of n^2 entries for 2 n comparisons.
//
// Lample et al. 2019 (arXiv 1907.05242, section 3.2). Entry a n + b has the key [C1_a ; C2_b]. With the
// two halves of a query, s1 = C1 q1 and s2 = C2 q2 [n], the k entries of largest s1_a + s2_b are among the
// k^2 sums of the k largest of each half, so the search is exact. Every head has queries and codebooks of
// its own; the entries are one table for all heads.
//
// The paper normalises queries by batch statistics; here each half is divided by its root mean square
// (RMSNorm), so that a token does not depend on its neighbours (ours), or left as it is.
//
// Letters: N tokens, D hidden size, H heads, k entries a head.

#include <vector>

#include "layers/linear.h"

namespace sluice {

struct ProductKeysSpec {
  int64_t hidden_size;
  int64_t num_heads;
  int64_t num_keys;  // n; n^2 entries
  int64_t key_size;  // of one half of a query
  int64_t top_k;
  bool normalise_queries = true;
};

/// What was found, by head and rank: entry [h k + j] is the j-th best of head h.
struct FoundEntries {
  Tensor ids;     // [N, H k] i32
  Tensor scores;  // [N, H k], s1 + s2, on the tape
};

/// Parameters "<path>.w_query" [2 H K, D], "<path>.codebooks" [2 H, n, K] (half 0 and 1 of head 0, then of
/// head 1, ...) and, with normalisation, "<path>.query_norm" [K].
class ProductKeys final : public Module {
 public:
  ProductKeys(const Builder& b, const ProductKeysSpec& spec, double norm_eps);
  /// x [N, D]. Of equal scores the lower number of the first, then of the second half wins.
  [[nodiscard]] FoundEntries find(const ForwardContext& context, const Tensor& x) const;
  /// Weights [N, H k]: softmax of each head's scores.
  [[nodiscard]] Tensor softmax_by_head(const ForwardContext& context, const Tensor& scores) const;

 private:
  ProductKeysSpec spec_;
  double norm_eps_;
  Linear* query_;
  Parameter* codebooks_;
  Parameter* norm_ = nullptr;
};

}  // namespace sluice
