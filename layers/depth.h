#pragma once
// Adaptive depth: which tokens go through a group of sublayers, and how often. A pattern writes such
// a group in square brackets, "AF[AF]AF"; `model.depth` says how its tokens are chosen.
//
// Letters: N tokens, D hidden size.

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "autograd/support/fields.h"
#include "autograd/support/function_ref.h"
#include "autograd/support/registry.h"
#include "layers/block_state.h"
#include "layers/module.h"
#include "layers/sublayer.h"
#include "layers/token_subset.h"

namespace sluice {

/// Runs the sublayers of the group on the tokens of a pass, residual connections included. `visit`
/// counts the passes of one forward from 0: each has routed layers and decoding states of its own. In
/// training every visit must be made, be it of no tokens, so that every routed layer is heard of.
using DepthBody = FunctionRef<BlockState(const ForwardContext&, BlockState, int64_t visit)>;

class Depth : public SublayerBody {
 public:
  /// state.hidden [N, D], not normalised -> the same with the group's work for the tokens that were
  /// chosen; the others keep their bits. In training a choice may look at the whole document; in
  /// evaluation and decoding it depends on the token itself only. Side tensors of `state` are not
  /// seen inside the group, nor those of the group outside.
  [[nodiscard]] virtual BlockState forward(const ForwardContext& context, BlockState state,
                                           DepthBody body) const = 0;
  /// Later passes read the keys and values of the first (RecursionPasses).
  [[nodiscard]] virtual bool shares_key_values() const { return false; }
};

/// A line of depths.def.
struct DepthEntry {
  std::string_view name;
  std::string_view doc;
  std::unique_ptr<Configurable> (*make_config)();
  /// In training the choice looks at later tokens of the document.
  bool looks_ahead;
  /// How often a token may go through the group.
  int64_t (*visits)(const Configurable&);
  std::unique_ptr<Depth> (*make)(const Builder&, int64_t hidden_size, const Configurable&,
                                 const SublayerPlace&);
  /// Depth::shares_key_values() of what it makes; null: never.
  bool (*shares_key_values)(const Configurable&) = nullptr;
};

#define SLUICE_DEPTH(name) extern const DepthEntry name##_depth;
#include "layers/depths.def"
#undef SLUICE_DEPTH

[[nodiscard]] const Registry<DepthEntry>& depth_registry();
/// For FieldVisitor::tagged, after "none".
[[nodiscard]] std::span<const Choice> depth_choices();

// --- for the methods --------------------------------------------------------------------------------

/// For each document the `counts` tokens of largest value among those with `eligible` [N] set (all
/// when empty): 1 in the result [N]. Ties: the earlier token. `count_of` gives a document's count for
/// its length. Without memory (shapes only) the first tokens.
[[nodiscard]] std::vector<uint8_t> choose_largest(const SequenceLayout& layout,
                                                  const Tensor& values,
                                                  std::span<const uint8_t> eligible,
                                                  FunctionRef<int64_t(int64_t length)> count_of);
/// Tokens with a value above 0 among the eligible: 1 in the result [N].
[[nodiscard]] std::vector<uint8_t> choose_positive(const Tensor& values,
                                                   std::span<const uint8_t> eligible);
/// coefficient / context.valid_tokens * sum over counted and eligible tokens of the cross-entropy of
/// sigmoid(logits) [N, 1] with `chosen` [N]: teaches logits what a choice with the whole document in
/// sight was. Added to the state's losses.
void add_choice_loss(const ForwardContext& context, double coefficient, const Tensor& logits,
                     std::span<const uint8_t> chosen, std::span<const uint8_t> eligible,
                     BlockState& state);
/// `state`'s losses with the rows of a subset; no side tensors.
[[nodiscard]] BlockState state_of(Tensor hidden, const BlockState& state);

/// Whose keys and values the passes of a recursion attend to: those of the pass's own tokens, or what
/// the first pass made of all of its tokens.
enum class RecursionKeyValues : uint8_t { own, shared };
/// The key `key_values` of a section.
void key_values_field(FieldVisitor& v, RecursionKeyValues& key_values);

/// The passes of one forward through a group, in order. Each is over some tokens of the one before.
class RecursionPasses {
 public:
  /// `whole` lives as long as this.
  RecursionPasses(const ForwardContext& whole, RecursionKeyValues key_values)
      : whole_(whole), key_values_(key_values) {}
  /// `state` [R, D] through the group: the tokens `chosen` [N] of the whole, which are `subset`.
  [[nodiscard]] BlockState run(DepthBody body, const std::shared_ptr<const TokenSubset>& subset,
                               std::span<const uint8_t> chosen, BlockState state);

 private:
  const ForwardContext& whole_;
  RecursionKeyValues key_values_;
  int64_t visit_ = 0;
  std::shared_ptr<const TokenSubset> first_;
  std::vector<uint8_t> chosen_first_;  // [N]
  SideTensors made_;                   // keys and values
};

}  // namespace sluice
