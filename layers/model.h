#pragma once
// The model that a pattern string spells: embedding, sublayers, final norm, head.
//
// Each symbol of the pattern (pattern.h) is one residual sublayer x <- x + F(norm(x)): A attention,
// F dense feed-forward, E experts, ...; mixers.def and ffns.def list them all, and a recipe may add
// letters for layers with other settings (`variants`).
//
// Letters: N tokens, D hidden size, V vocabulary.

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "layers/adapters.h"
#include "layers/context.h"
#include "layers/embedding.h"
#include "layers/modalities.h"
#include "layers/multi_token.h"
#include "layers/norm.h"
#include "layers/sublayer.h"

namespace sluice {

/// The `model` section of a recipe. The sections of mixers and feed-forwards ("attention",
/// "experts", ...) are those of the symbols that the pattern uses; a section for a symbol that it
/// does not use is an unknown key.
struct ModelConfig final : Configurable {
  std::string pattern = "(AE)x6";
  int64_t hidden_size = 256;
  /// "auto": that of the tokenizer.
  std::optional<int64_t> vocab_size;
  bool tie_embeddings = true;
  /// f32 trains; f64 is for checks.
  std::string dtype = "f32";
  /// Learned position embeddings (GPT-2): how many; none for rotary positions.
  std::optional<int64_t> learned_positions;
  /// Probability of zeroing an element of each sublayer's output and of the embedding, in training.
  double dropout = 0.0;
  /// Letters that this recipe adds to those of the tables.
  TaggedMap variants;
  /// Low-rank experts beside named linear maps (adapters.h).
  TaggedMap adapters;
  /// How tokens go through the groups in square brackets (depth.h); no type without such groups.
  Tagged depth;
  /// ModalitiesConfig (modalities.h), or null.
  std::shared_ptr<Configurable> modalities;
  /// The modality of all tokens of each domain, or kByTokenId; empty: every token goes by its id. No
  /// field: the data's sources say it.
  std::vector<int32_t> domain_modalities;
  /// MultiTokenConfig (multi_token.h), or null.
  std::shared_ptr<Configurable> multi_token_prediction;
  NormConfig norm;
  InitConfig init;

  ModelConfig();
  /// Copies share the sections, which are not changed after a recipe was read.
  ModelConfig(const ModelConfig&) = default;
  ModelConfig& operator=(const ModelConfig&) = default;
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;
  /// The section of a mixer or feed-forward, typed.
  [[nodiscard]] const Configurable& section(std::string_view key) const;
  [[nodiscard]] Configurable& section(std::string_view key);
  /// One symbol per sublayer. Throws ConfigError.
  [[nodiscard]] std::string expanded_pattern() const;
  /// What each of them stands for. Throws ConfigError.
  [[nodiscard]] std::vector<SublayerSpec> sublayers() const;
  /// The same of one depth of multi-token prediction; empty without. Throws ConfigError.
  [[nodiscard]] std::vector<SublayerSpec> prediction_sublayers() const;
  [[nodiscard]] std::shared_ptr<const MultiTokenConfig> multi_token() const;
  [[nodiscard]] std::shared_ptr<const ModalitiesConfig> told_modalities() const;
  /// What its linear maps carry, in the recipe's order; `index` is its number among all sublayers, those
  /// of multi-token prediction behind the others. Throws ConfigError.
  [[nodiscard]] std::vector<AdapterPlace> adapters_of(const SublayerSpec& sublayer,
                                                      int64_t index) const;
  /// How each routed layer of the model routes, in order; empty for a dense model. Throws
  /// ConfigError.
  [[nodiscard]] std::vector<const RoutingConfig*> routed_layers() const;
  /// Visits every section, used or not (the schema).
  bool all_sections = false;

 private:
  [[nodiscard]] std::shared_ptr<Configurable> find_section(std::string_view key) const;
  [[nodiscard]] std::vector<SublayerSpec> sublayers_of(const std::string& expanded) const;
  /// Those of one sublayer and its adapters.
  void add_routed_layers(const SublayerSpec& sublayer, int64_t index,
                         std::vector<const RoutingConfig*>& layers) const;
  std::vector<std::pair<std::string, std::shared_ptr<Configurable>>> sections_;
};

/// What the layers keep of one sequence while it is decoded.
struct DecodeState {
  /// Of each sublayer, once for every pass through it.
  struct Kept {
    std::unique_ptr<MixerState> mixer;               // null: that of the first pass
    std::unique_ptr<FeedForwardState> feed_forward;  // null where nothing is kept
  };
  std::vector<std::vector<Kept>> sublayers;  // [sublayer, visit]
  int64_t length = 0;
};

class Depth;

class Model : public Module {
 public:
  /// `config.vocab_size` must be set.
  Model(Pool& pool, const ModelConfig& config, uint64_t seed);
  ~Model() override;

  /// tokens [N] i32 -> final normalised hidden states [N, D], with the auxiliary losses of all
  /// layers.
  [[nodiscard]] BlockState forward(const ForwardContext& caller, const Tensor& tokens) const;

  /// Shown what goes into a sublayer of the trunk, and with the number behind the last one what comes
  /// out: the residual stream [N, D], and what the sublayer makes its input of it, off the tape
  /// (undefined behind the last). Gives the stream to go on with.
  using StreamHook =
      FunctionRef<Tensor(int64_t sublayer, const Tensor& stream, const Tensor& input)>;
  /// forward(), without recomputation, through `hook`.
  [[nodiscard]] BlockState forward(const ForwardContext& caller, const Tensor& tokens,
                                   StreamHook hook) const;
  /// Cross-entropy, over context.valid_tokens, of hidden states that forward() gave; targets as in
  /// loss(). One element, on the tape.
  [[nodiscard]] Tensor loss_of(const ForwardContext& context, const Tensor& hidden,
                               const Tensor& targets) const;

  struct LossOptions {
    /// Weighs the mean squared log-sum-exp of the vocabulary logits, included in `total` only.
    double head_z_loss = 0.0;
    /// Weighs, in a batch of two passes over its text, the symmetric divergence of what they
    /// predict (linear_consistency.h).
    double consistency = 0.0;
  };
  struct Loss {
    Tensor total;  // one element, on the tape: language-model loss + auxiliary losses +
                   // consistency, each over context.valid_tokens
    double language_model = 0.0;  // its share of the global batch's mean loss, in nats
    std::array<double, kLossKinds> auxiliary{};
    double consistency = 0.0;  // weighted, as it stands in `total`
  };
  /// Forward and mean cross-entropy; targets [N] i32, -100 where there is no loss.
  [[nodiscard]] Loss loss(const ForwardContext& context, const Tensor& tokens,
                          const Tensor& targets, const LossOptions& options) const;
  [[nodiscard]] Loss loss(const ForwardContext& context, const Tensor& tokens,
                          const Tensor& targets) const {
    return loss(context, tokens, targets, {});
  }
  /// Cross-entropy of every token in nats, 0 where there is no loss (evaluation). [N], the model's
  /// dtype.
  [[nodiscard]] Tensor token_losses(const ForwardContext& context, const Tensor& tokens,
                                    const Tensor& targets) const;
  /// Logits [n, V] for rows `hidden` [n, D] of forward().
  [[nodiscard]] Tensor logits(const ForwardContext& context, const Tensor& hidden) const;

  /// True when a router wants the loss of every expert on the tokens of this step.
  [[nodiscard]] bool wants_expert_losses(const Progress& progress) const;
  /// Hands the routers the losses [N] of a micro-batch of which every routed layer sent all tokens
  /// to `expert`.
  void add_expert_losses(const ForwardContext& context, int64_t expert, const Tensor& losses) const;

  /// Once per applied optimizer step, after the balancers' own: what changes by other means than
  /// gradients (routers by clustering).
  void end_step(RoutingSession& session, const Progress& progress);

  [[nodiscard]] DecodeState start_decoding(Pool& pool, int64_t capacity) const;
  /// Hidden states [n, D] of the next n tokens of one sequence.
  [[nodiscard]] Tensor decode(const ForwardContext& caller, const Tensor& tokens,
                              DecodeState& state) const;

  /// The expanded pattern.
  [[nodiscard]] const std::string& pattern() const { return pattern_; }
  /// Experts of each routed layer, in order.
  [[nodiscard]] std::vector<int64_t> experts_per_layer() const;
  /// The parameters that routed layer `layer` chooses among, stacked by expert [E, ...]: those of the
  /// sublayer in which it routes.
  [[nodiscard]] std::vector<Parameter*> routed_parameters(int64_t layer) const;
  /// The adapters of all linear maps, in order of the layers.
  [[nodiscard]] const std::vector<AdaptedLinear>& adapted_linears() const { return adapted_; }
  [[nodiscard]] DType dtype() const { return dtype_; }
  [[nodiscard]] int64_t vocab_size() const { return vocab_size_; }

 private:
  struct Sublayer;
  /// One sublayer, or those of a group of adaptive depth.
  struct Block {
    int64_t begin;  // sublayers [begin, end)
    int64_t end;
    Depth* depth = nullptr;  // null for a single sublayer
    int64_t visits = 1;
    int64_t first_routed = 0;   // number of the first routed layer of its sublayers
    int64_t routed_layers = 0;  // of its sublayers, in one visit
    AttentionSource* attention_before = nullptr;
  };
  using SublayerPass =
      FunctionRef<BlockState(const ForwardContext&, int64_t sublayer, int64_t visit, BlockState)>;
  /// Depth j of multi-token prediction: its surroundings, and blocks_[first_block, end_block).
  struct Prediction {
    PredictionDepth* depth;
    size_t first_block;
    size_t end_block;
  };
  /// What one depth of multi-token prediction makes of a batch.
  struct Predicted {
    Tensor hidden;  // [R, D], normalised for the head
    std::shared_ptr<const TokenSubset> rows;
  };
  struct Pass {
    BlockState state;
    std::vector<Predicted> predicted;  // by depth; in training only
  };
  [[nodiscard]] Pass pass(const ForwardContext& caller, const Tensor& tokens) const;
  [[nodiscard]] std::vector<Predicted> predict_further(const ForwardContext& context,
                                                       const Tensor& tokens,
                                                       BlockState& trunk) const;
  [[nodiscard]] Tensor multi_token_loss(const ForwardContext& context,
                                        std::span<const Predicted> predicted,
                                        const Tensor& targets) const;
  /// The pass `caller` with the ids and modalities of its tokens.
  [[nodiscard]] ForwardContext with_tokens(const ForwardContext& caller,
                                           const Tensor& tokens) const;
  /// The modality of each token of `context`, which has their ids: [N].
  void tell_modalities(const ForwardContext& context, std::span<int32_t> modalities) const;
  void add_blocks(const Builder& b, const ModelConfig& config, std::span<const SublayerSpec> specs,
                  SublayerPlace& place);
  void add_routed_layers(SublayerBody& body, SublayerPlace& place);
  [[nodiscard]] bool belongs_to_adapter(const Parameter& parameter) const;
  void add_routed_adapters(std::span<const AdaptedLinear> adapters, SublayerPlace& place);
  void add_sublayer(const Builder& b, const ModelConfig& config, const SublayerSpec& spec,
                    SublayerPlace& place);
  void start_group(const Builder& b, const ModelConfig& config, SublayerPlace& place);
  void end_group(SublayerPlace& place);
  /// `state` through `blocks`, each sublayer by `pass`.
  [[nodiscard]] BlockState walk(std::span<const Block> blocks, const ForwardContext& context,
                                BlockState state, SublayerPass pass) const;
  [[nodiscard]] BlockState run_blocks(std::span<const Block> blocks, const ForwardContext& context,
                                      BlockState state) const;
  [[nodiscard]] std::span<const Block> trunk() const {
    return std::span(blocks_).first(trunk_blocks_);
  }
  [[nodiscard]] BlockState run_sublayer(const ForwardContext& context, const Sublayer& sublayer,
                                        BlockState state) const;
  [[nodiscard]] BlockState run_block(const ForwardContext& context, const Sublayer& sublayer,
                                     BlockState state) const;
  [[nodiscard]] Tensor maybe_dropout(const ForwardContext& context, const Tensor& x,
                                     int64_t stream) const;
  [[nodiscard]] Tensor embed(const ForwardContext& context, const Tensor& tokens) const;

  std::string pattern_;
  DType dtype_;
  int64_t vocab_size_;
  double dropout_;
  std::shared_ptr<const ModalitiesConfig> modalities_;  // null where none are told apart
  std::vector<int32_t> domain_modalities_;
  Embedding* embedding_;
  Parameter* positions_ = nullptr;  // [P, D]
  std::vector<Sublayer*> sublayers_;
  std::vector<Block> blocks_;  // of the trunk, then of multi-token prediction
  size_t trunk_blocks_ = 0;
  std::vector<Prediction> predictions_;
  std::shared_ptr<const MultiTokenConfig> multi_token_;
  struct RoutedPlace {
    RoutedLayer* layer;
    const SublayerBody* owner;  // null where an adapter routes
    const Adapter* adapter;     // null where a sublayer does
    int64_t shift;              // ForwardContext::routed_shift of its pass
  };
  std::vector<RoutedPlace> routed_;
  AdapterPools* adapter_pools_;
  std::vector<AdaptedLinear> adapted_;
  Norm* final_norm_;
  Parameter* head_;  // [V, D]; the embedding's when tied
};

}  // namespace sluice
