#pragma once
// Adaptive depth: which tokens go through a group of sublayers, and how often. A pattern writes such
// a group in square brackets, "AF[AF]AF"; `model.depth` says how its tokens are chosen.
//
// Letters: N tokens, D hidden size.

#include <memory>
#include <span>
#include <string_view>

#include "autograd/support/fields.h"
#include "autograd/support/function_ref.h"
#include "autograd/support/registry.h"
#include "layers/block_state.h"
#include "layers/module.h"
#include "layers/sublayer.h"

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

}  // namespace sluice
