#pragma once
// The two kinds of sublayer that a pattern string spells, and the tables that name them.

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/support/fields.h"
#include "layers/block_state.h"
#include "layers/module.h"

namespace sluice {

class AttentionSource;
class Experts;
class RoutedLayer;
class Router;
struct ModelConfig;
struct RoutingConfig;

/// What a sequence mixer keeps between decoding steps (a key/value cache, a recurrent state).
class MixerState {
 public:
  virtual ~MixerState() = default;
  /// Tokens seen so far.
  [[nodiscard]] virtual int64_t length() const = 0;
};

/// What mixers and feed-forwards have in common.
class SublayerBody : public Module {
 public:
  /// What routes in it, in order of their numbers; as many as its section says
  /// (RoutingConfig::num_routed_layers), none where it is no RoutingConfig.
  [[nodiscard]] virtual std::vector<RoutedLayer*> routed_layers() { return {}; }
  /// The parameters that a token uses a part of, stacked by expert [E, ...]: its own, or those of a
  /// pool that it shares.
  [[nodiscard]] virtual std::vector<Parameter*> routed_parameters() const {
    return routed_only(parameters());
  }

  // --- for what learns from the tokens it saw, not by gradients (running statistics) -------------

  /// How many sums over the tokens of a global batch it learns from. A forward pass adds to
  /// RoutingSession::layer_sums where that is not empty.
  [[nodiscard]] virtual int64_t num_sums() const { return 0; }
  /// Once per applied optimizer step, with the sums of the whole global batch.
  virtual void end_step(std::span<const double> /*sums*/, const Progress& /*progress*/) {}

 protected:
  [[nodiscard]] static std::vector<Parameter*> routed_only(std::vector<Parameter*> parameters);
};

/// Mixes along the sequence: attention, state spaces, linear attention.
class Mixer : public SublayerBody {
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
class FeedForward : public SublayerBody {
 public:
  /// x [N, D], normalised -> [N, D], to be added to the residual stream. Auxiliary losses go to
  /// `state`. When decoding, context.memory is what make_state gave.
  [[nodiscard]] virtual Tensor forward(const ForwardContext& context, const Tensor& x,
                                       BlockState& state) const = 0;
  /// Memory for decoding one sequence of at most `capacity` tokens; null for none.
  [[nodiscard]] virtual std::unique_ptr<FeedForwardState> make_state(Pool& /*pool*/,
                                                                     DType /*dtype*/,
                                                                     int64_t /*capacity*/) const {
    return nullptr;
  }
};

/// Experts that several layers share (UniPool 2026, section 9.4 of the method page), while a model is
/// made.
class ExpertPools {
 public:
  /// The pool of an earlier layer of the same section that has fewer than `most` members (nullopt: no
  /// limit), which the caller joins; null when there is none.
  [[nodiscard]] Experts* join(const Configurable& section, std::optional<int64_t> most);
  /// A pool that its first member owns.
  void open(const Configurable& section, Experts& experts);

 private:
  struct OpenPool {
    const Configurable* section;
    Experts* experts;
    int64_t members;
  };
  std::vector<OpenPool> pools_;
};

/// Layers that use the gates of an earlier layer of the same section again (Monet: one router for four
/// layers), while a model is made.
class SharedGates {
 public:
  /// True: the last layer with gates to share is of this section and fewer than `most` layers use them,
  /// of which the caller is one from now on. False: the caller makes gates of its own, which it shares.
  [[nodiscard]] bool join(const Configurable& section, int64_t most);
  /// Nobody joins those of before: other tokens follow.
  void close() { section_ = nullptr; }

 private:
  const Configurable* section_ = nullptr;
  int64_t members_ = 0;
};

/// Where a sublayer stands in the model.
struct SublayerPlace {
  int64_t index;         // among all sublayers
  int64_t routed_layer;  // of its first RoutedLayer, among all of the model
  /// The last attention layer before it; null for none. Outlives the sublayer's use.
  AttentionSource* attention = nullptr;
  /// The router of the first routed layer; null up to there. Outlives the sublayer's use.
  const Router* first_router = nullptr;
  ExpertPools* pools = nullptr;  // null: no layer shares its experts
  SharedGates* gates = nullptr;  // null: no layer shares its gates
};

/// The symbol of a mixer or feed-forward that recipes name among `model.variants` only.
inline constexpr char kNoSymbol = '\0';

/// A line of mixers.def or ffns.def. `section` is the recipe key below `model` that configures it.
struct MixerEntry {
  std::string_view name;
  char symbol;
  std::string_view section;
  std::string_view doc;
  std::unique_ptr<Configurable> (*make_config)();
  /// A rule between the section and the rest of the model: "" or one sentence that starts with a key
  /// of the section; null for none.
  std::string (*check)(const ModelConfig&, const Configurable&);
  std::unique_ptr<Mixer> (*make)(const Builder&, const ModelConfig&, const Configurable&,
                                 SublayerPlace);
  bool attends = false;  // has an attention_source()
  /// The longest document that it can take, in tokens, nullopt for any; null: any.
  std::optional<int64_t> (*longest_document)(const Configurable&) = nullptr;
  /// Its passes in a group of adaptive depth can read the keys and values of the first one
  /// (key_value_sharing.h).
  bool shares_key_values = false;
  bool by_modality = false;  // has parameters for each of model.modalities
  bool normalises = false;   // itself: its block has no norm, forward gets the residual stream
};

struct FeedForwardEntry {
  std::string_view name;
  char symbol;
  std::string_view section;
  std::string_view doc;
  std::unique_ptr<Configurable> (*make_config)();
  std::string (*check)(const ModelConfig&, const Configurable&);  // as above
  std::unique_ptr<FeedForward> (*make)(const Builder&, const ModelConfig&, const Configurable&,
                                       SublayerPlace);
  /// Why, by design, a token depends in training on others of its batch: a sentence without its
  /// subject ("standardises ... together"); empty when it does not.
  std::string_view batch_dependence = {};
  bool by_modality = false;  // as above
  bool normalises = false;   // as above
};

/// What one symbol of a pattern stands for: a mixer or a feed-forward, and its settings.
struct SublayerSpec {
  char symbol = '?';
  const MixerEntry* mixer = nullptr;  // one of both is null
  const FeedForwardEntry* feed_forward = nullptr;
  std::string key;  // of its settings, below `model` ("experts", "variants.W")
  const Configurable* config = nullptr;
  int64_t group = -1;  // number of its group of adaptive depth; -1: none

  /// As the entry's.
  [[nodiscard]] bool by_modality() const {
    return mixer != nullptr ? mixer->by_modality : feed_forward->by_modality;
  }
  [[nodiscard]] bool normalises() const {
    return mixer != nullptr ? mixer->normalises : feed_forward->normalises;
  }
  /// How it routes; null when it does not.
  [[nodiscard]] const RoutingConfig* routing() const;
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
