#pragma once
// The two kinds of sublayer that a pattern string spells, and the tables that name them.

#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "autograd/support/fields.h"
#include "layers/block_state.h"
#include "layers/module.h"

namespace sluice {

class AttentionSource;
class Router;
struct ModelConfig;

/// What a sequence mixer keeps between decoding steps (a key/value cache, a recurrent state).
class MixerState {
 public:
  virtual ~MixerState() = default;
  /// Tokens seen so far.
  [[nodiscard]] virtual int64_t length() const = 0;
};

/// Mixes along the sequence: attention, state spaces, linear attention.
class Mixer : public Module {
 public:
  /// x [N, D], normalised -> [N, D], to be added to the residual stream. Tokens of different
  /// document pieces of context.layout never see each other. May read and write state.side.
  [[nodiscard]] virtual Tensor forward(const ForwardContext& context, const Tensor& x,
                                       BlockState& state) const = 0;
  /// An empty state for one sequence of at most `capacity` tokens.
  [[nodiscard]] virtual std::unique_ptr<MixerState> make_state(Pool& pool, DType dtype,
                                                               int64_t capacity) const = 0;
  /// x [n, D]: the next n tokens of one sequence, context.layout.positions continuing at
  /// state.length(). Equals the rows of the full forward. Advances the state; never records. May
  /// read and write block.side, as forward.
  [[nodiscard]] virtual Tensor decode(const ForwardContext& context, const Tensor& x,
                                      BlockState& block, MixerState& state) const = 0;
  /// For layers behind it that read its attention; null when it has none.
  [[nodiscard]] virtual AttentionSource* attention_source() { return nullptr; }
};

/// Works on each token alone, dense or sparse; a router may look at others to choose experts.
class FeedForward : public Module {
 public:
  /// x [N, D], normalised -> [N, D], to be added to the residual stream. Auxiliary losses go to
  /// `state`. When decoding, context.memory is what make_state gave.
  [[nodiscard]] virtual Tensor forward(const ForwardContext& context, const Tensor& x,
                                       BlockState& state) const = 0;
  /// Experts per layer and the expert layer's number; {0, ...} for a dense one.
  [[nodiscard]] virtual int64_t num_experts() const { return 0; }
  /// Memory for decoding one sequence of at most `capacity` tokens; null for none.
  [[nodiscard]] virtual std::unique_ptr<FeedForwardState> make_state(Pool& /*pool*/,
                                                                     DType /*dtype*/,
                                                                     int64_t /*capacity*/) const {
    return nullptr;
  }
  /// Its router; null for a dense one.
  [[nodiscard]] virtual const Router* router() const { return nullptr; }
  /// Router::wants_expert_losses and add_expert_losses of its router.
  [[nodiscard]] virtual bool wants_expert_losses(const Progress& /*progress*/) const {
    return false;
  }
  virtual void add_expert_losses(const ForwardContext& /*context*/, int64_t /*expert*/,
                                 const Tensor& /*losses*/) const {}
  /// Once per applied optimizer step: lets a router learn that does not learn by gradients.
  virtual void end_step(RoutingSession& /*session*/, const Progress& /*progress*/) {}
};

/// Where a sublayer stands in the model.
struct SublayerPlace {
  int64_t index;         // among all sublayers
  int64_t expert_layer;  // among layers that route
  /// The last attention layer before it; null for none. Outlives the sublayer's use.
  AttentionSource* attention = nullptr;
  /// The router of the first expert layer; null up to there. Outlives the sublayer's use.
  const Router* first_router = nullptr;
};

/// A line of mixers.def or ffns.def. `section` is the recipe key below `model` that configures it.
struct MixerEntry {
  std::string_view name;
  char symbol;
  std::string_view section;
  std::string_view doc;
  std::unique_ptr<Configurable> (*make_config)();
  /// A rule between the section and the rest of the model: "" or one sentence; null for none.
  std::string (*check)(const ModelConfig&, const Configurable&);
  std::unique_ptr<Mixer> (*make)(const Builder&, const ModelConfig&, const Configurable&,
                                 SublayerPlace);
  bool attends = false;  // has an attention_source()
  /// The longest document it can take under this section, none for any; null: any.
  std::optional<int64_t> (*max_context)(const Configurable&) = nullptr;
};

struct FeedForwardEntry {
  std::string_view name;
  char symbol;
  std::string_view section;
  std::string_view doc;
  bool routes;  // is an expert layer: has a router, wants a balancer
  std::unique_ptr<Configurable> (*make_config)();
  std::string (*check)(const ModelConfig&, const Configurable&);  // as above
  std::unique_ptr<FeedForward> (*make)(const Builder&, const ModelConfig&, const Configurable&,
                                       SublayerPlace);
};

#define SLUICE_MIXER(name) extern const MixerEntry name##_mixer;
#include "layers/mixers.def"
#undef SLUICE_MIXER
#define SLUICE_FEED_FORWARD(name) extern const FeedForwardEntry name##_feed_forward;
#include "layers/ffns.def"
#undef SLUICE_FEED_FORWARD

[[nodiscard]] std::span<const MixerEntry* const> mixer_table();
[[nodiscard]] std::span<const FeedForwardEntry* const> feed_forward_table();

}  // namespace sluice
