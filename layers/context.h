#pragma once
// What a forward pass is given besides its input: mode, randomness, layout, progress.

#include <span>

#include "autograd/core/tape.h"
#include "autograd/support/rng.h"
#include "autograd/support/scheduled.h"
#include "layers/routing_session.h"
#include "layers/sequence_layout.h"

namespace sluice {

struct AttentionMap;
struct BlockState;
struct KeyValueSharing;

/// What a feed-forward keeps of earlier tokens between decoding steps, for a router that looks back.
class FeedForwardState {
 public:
  virtual ~FeedForwardState() = default;
};

/// Which blocks are computed twice to save memory.
enum class Recompute : uint8_t { none, experts, all };

struct ForwardContext {
  Tape& tape;
  const SequenceLayout& layout;
  /// Balancers, loads and recorded selections; a model without experts may leave it null.
  RoutingSession* routing = nullptr;
  bool training = false;
  Recompute recompute = Recompute::none;
  uint64_t seed = 0;
  Progress progress;
  /// Tokens with a loss, and sequences, in the global batch; every loss is divided by the first.
  int64_t valid_tokens = 1;
  int64_t global_sequences = 1;
  /// [N]: the token ids, for routers that go by them. The model sets it where its forward pass
  /// starts; empty when only shapes are wanted. The caller's tokens own the memory.
  std::span<const int32_t> token_ids = {};
  /// [N]: the tokens' modalities, for layers with parameters for each. The model sets it with the
  /// token ids; empty where it tells none apart (model.modalities), or only shapes are wanted.
  std::span<const int32_t> modalities = {};
  /// For routers that read it: the attention of the last attention layer before this one. Set by the
  /// expert layer.
  const AttentionMap* attention = nullptr;
  /// When decoding: what this layer kept of the sequence's earlier tokens, to be brought up to date
  /// by the pass; null in passes over whole documents and for layers that keep nothing.
  FeedForwardState* memory = nullptr;
  /// What is added to the numbers of routed layers: another for every pass through a group that is
  /// applied several times (depth.h).
  int64_t routed_shift = 0;
  /// In a group whose passes share keys and values; null elsewhere (key_value_sharing.h).
  const KeyValueSharing* sharing = nullptr;
  /// The state of the sublayer at work, where what routes inside its linear maps leaves its losses
  /// (adapters.h). The model sets it.
  BlockState* block = nullptr;

  /// The same pass on another tape (recomputation).
  [[nodiscard]] ForwardContext on(Tape& other) const {
    return with(other, layout, token_ids, modalities);
  }
  /// The same pass over other tokens. Layout, ids and modalities must live as long as the pass, a
  /// backward included.
  [[nodiscard]] ForwardContext over(const SequenceLayout& other, std::span<const int32_t> ids,
                                    std::span<const int32_t> their_modalities) const {
    return with(tape, other, ids, their_modalities);
  }
  /// The same pass with the ids of its tokens, [N] i32.
  [[nodiscard]] ForwardContext with_tokens(const Tensor& tokens) const {
    ForwardContext result = *this;
    if (tokens.has_memory()) result.token_ids = tokens.span<int32_t>();
    return result;
  }
  /// Key of a layer's random numbers; the sample is the sequence's global number.
  [[nodiscard]] RandomKey random_key(RandomPurpose purpose, int64_t layer) const {
    return {seed, purpose, static_cast<uint32_t>(layer), static_cast<uint64_t>(progress.step)};
  }

 private:
  [[nodiscard]] ForwardContext with(Tape& tape_, const SequenceLayout& layout_,
                                    std::span<const int32_t> ids,
                                    std::span<const int32_t> modalities_) const {
    return {tape_,    layout_,      routing,          training, recompute,   seed,
            progress, valid_tokens, global_sequences, ids,      modalities_, attention,
            memory,   routed_shift, sharing,          block};
  }
};

}  // namespace sluice
