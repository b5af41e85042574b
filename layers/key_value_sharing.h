#pragma once
// Keys and values of the first pass through a group of adaptive depth that its later passes read
// ("recursive KV sharing", Bae et al. 2025, arXiv 2507.10524, section 2.2.2): the queries of the tokens
// that go on see every token of the first pass that is before them, as it was in that pass. Of each
// attention layer of the group one cache is kept, whatever the number of passes.
//
// Letters: M tokens of the first pass, R of this one, H query heads, K key/value heads, P head width.

#include <string>

#include "autograd/ops/causal_attention.h"
#include "layers/block_state.h"
#include "layers/key_value_cache.h"
#include "layers/token_subset.h"

namespace sluice {

/// Where a pass of a group stands (ForwardContext::sharing). It lives as long as the tape's nodes do.
struct KeyValueSharing {
  /// Of the first pass, M tokens.
  const SequenceLayout* first;
  /// Those of them that are here; null in the first pass itself, which makes the keys and values.
  std::shared_ptr<const TokenSubset> here;
};

/// What a mixer of a group shares: names for BlockState::key_values.
class SharedKeyValues {
 public:
  /// `path` is the mixer's own.
  explicit SharedKeyValues(const std::string& path) : keys_(path + ".k"), values_(path + ".v") {}

  /// True in passes that read what the first one made.
  [[nodiscard]] static bool reads(const ForwardContext& context) {
    return context.sharing != nullptr && context.sharing->here != nullptr;
  }
  /// In a first pass keeps k [M, K, P] and v [M, K, P]; elsewhere nothing.
  void keep(const ForwardContext& context, BlockState& state, const Tensor& k,
            const Tensor& v) const;
  /// causal_attention of q [R, H, P] to what the first pass kept -> [R, H, P]; documents and positions
  /// of `options` are replaced by those of the first pass. Costs as much as if the queries of all M
  /// tokens were there.
  [[nodiscard]] Tensor attend(const ForwardContext& context, const BlockState& state,
                              const Tensor& q, CausalAttentionOptions options) const;
  /// The same in decoding, to a cache that holds the M tokens of this piece last; q is turned.
  [[nodiscard]] static Tensor attend_cached(const ForwardContext& context, const Tensor& q,
                                            const KeyValueCache& cache,
                                            const CachedAttentionOptions& options);

 private:
  /// Zeros for the tokens of the first pass that are not here: [M, H, P].
  [[nodiscard]] static Tensor spread(const ForwardContext& context, const Tensor& q);
  [[nodiscard]] static Tensor gather(const ForwardContext& context, const Tensor& mixed);

  std::string keys_;
  std::string values_;
};

}  // namespace sluice
