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

#include "layers/context.h"
#include "layers/embedding.h"
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
  /// How each routed layer of the model routes, in order; empty for a dense model. Throws
  /// ConfigError.
  [[nodiscard]] std::vector<const RoutingConfig*> routed_layers() const;
  /// Visits every section, used or not (the schema).
  bool all_sections = false;

 private:
  [[nodiscard]] std::shared_ptr<Configurable> find_section(std::string_view key) const;
  std::vector<std::pair<std::string, std::shared_ptr<Configurable>>> sections_;
};

/// What the layers keep of one sequence while it is decoded.
struct DecodeState {
  std::vector<std::unique_ptr<MixerState>> mixers;  // key/value caches, recurrent states
  std::vector<std::unique_ptr<FeedForwardState>> feed_forwards;  // null where nothing is kept
  int64_t length = 0;
};

class Model : public Module {
 public:
  /// `config.vocab_size` must be set.
  Model(Pool& pool, const ModelConfig& config, uint64_t seed);
  ~Model() override;

  /// tokens [N] i32 -> final normalised hidden states [N, D], with the auxiliary losses of all
  /// layers.
  [[nodiscard]] BlockState forward(const ForwardContext& caller, const Tensor& tokens) const;

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
  [[nodiscard]] DType dtype() const { return dtype_; }
  [[nodiscard]] int64_t vocab_size() const { return vocab_size_; }

 private:
  struct Sublayer;
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
  Embedding* embedding_;
  Parameter* positions_ = nullptr;  // [P, D]
  std::vector<Sublayer*> sublayers_;
  struct RoutedPlace {
    RoutedLayer* layer;
    const Sublayer* sublayer;
  };
  std::vector<RoutedPlace> routed_;
  Norm* final_norm_;
  Parameter* head_;  // [V, D]; the embedding's when tied
};

}  // namespace sluice
