// Attention of a Mixture-of-Transformers (Liang et al. 2024, arXiv 2411.04996): queries, keys, values,
// output and norms have parameters for each modality, the attention itself is one over all tokens of a
// document, under one mask.
//
// Order: norm (pre), project by modality, QK-norm by modality, back to one sequence, rotate, attend,
// output projection by modality, norm (post). The published code has the norm behind the output
// projection; `norm` says which there are. Equal copies are attention.h exactly but for the place of
// the norms.
//
// Letters: N tokens, D hidden size, H query heads, K key/value heads, P head width, R modalities.

#include "autograd/ops/grouped_matmul.h"
#include "autograd/ops/reshape.h"
#include "layers/mixers/attention.h"
#include "layers/modalities.h"
#include "layers/model.h"

namespace sluice {
namespace {

/// `model.untied_attention`, or a variant of this type.
struct UntiedAttentionConfig final : AttentionConfig {
  UntiedNorms norm = UntiedNorms::pre;
  void fields(FieldVisitor& v) override {
    AttentionConfig::fields(v);
    visit_untied_norms(v, norm);
  }
  [[nodiscard]] std::string check() const override {
    if (bias != "none") {
      return fmt::format("bias: found {}, allowed none: untied projections have no bias", bias);
    }
    return AttentionConfig::check();
  }
};

/// Parameters, each stacked by modality: "<path>.w_q" [R, H P, D], "w_k" and "w_v" [R, K P, D], "w_o"
/// [R, D, H P], "q_norm" and "k_norm" [R, P] or of the full width, "pre_norm" and "post_norm" [R, D].
class UntiedHeads final : public AttentionHeads {
 public:
  UntiedHeads(const Builder& b, const ModelConfig& model, const UntiedAttentionConfig& config)
      : AttentionHeads(WithoutParameters{}, b, model, config),
        modalities_(num_modalities(model)),
        full_norm_(config.qk_norm == "full"),
        norms_(child(std::make_unique<UntiedBlockNorms>(b, model, config.norm))) {
    const int64_t d = model.hidden_size;
    const auto map = [&](const LinearSpec& spec) {
      return &child(std::make_unique<UntiedLinear>(b, spec, modalities_));
    };
    q_ = map({"q", d, heads() * head_dim()});
    k_ = map({"k", d, kv_heads() * head_dim()});
    v_ = map({"v", d, kv_heads() * head_dim()});
    o_ = map({"o", heads() * head_dim(), d, false, Init::residual()});
    if (config.qk_norm == "none") return;
    const auto norm = [&](const char* name, int64_t heads) {
      const int64_t size = full_norm_ ? heads * head_dim() : head_dim();
      return &child(std::make_unique<UntiedNorm>(b, UntiedNorm::Spec{name, size, model.norm.eps},
                                                 modalities_));
    };
    q_norm_ = norm("q_norm", heads());
    k_norm_ = norm("k_norm", kv_heads());
  }

  /// Of the residual stream x [N, D].
  [[nodiscard]] Projections project(const ForwardContext& context, const Tensor& x,
                                    bool turns) const override {
    Tape& tape = context.tape;
    const ModalityRows rows(context, modalities_);
    const Tensor in = norms_.before(tape, rows.gather(tape, x), rows);
    const auto projected = [&](const UntiedLinear& map, const UntiedNorm* norm, int64_t heads) {
      Tensor y = map.forward(tape, in, rows);
      if (norm != nullptr && full_norm_) y = norm->forward(tape, y, rows);
      if (norm != nullptr && !full_norm_) {
        y = norm->forward(tape, split_heads(context, y, heads), rows);
        y = reshape(tape, y, {y.dim(0), heads * head_dim()});
      }
      return split_heads(context, rows.scatter(tape, y), heads);
    };
    return {turned(context, projected(*q_, q_norm_, heads()), turns),
            turned(context, projected(*k_, k_norm_, kv_heads()), turns),
            projected(*v_, nullptr, kv_heads())};
  }

  [[nodiscard]] Tensor output(const ForwardContext& context, const Tensor& mixed) const override {
    Tape& tape = context.tape;
    const ModalityRows rows(context, modalities_);
    const Tensor in = reshape(tape, mixed, {mixed.dim(0), heads() * head_dim()});
    const Tensor y = o_->forward(tape, rows.gather(tape, in), rows);
    return rows.scatter(tape, norms_.behind(tape, y, rows));
  }

 private:
  int64_t modalities_;
  bool full_norm_;
  const UntiedBlockNorms& norms_;
  UntiedLinear* q_;
  UntiedLinear* k_;
  UntiedLinear* v_;
  UntiedLinear* o_;
  UntiedNorm* q_norm_ = nullptr;
  UntiedNorm* k_norm_ = nullptr;
};

std::string check_untied_attention(const ModelConfig& model, const Configurable& section) {
  const std::string problem = check_head_width(model, section);
  return problem.empty() ? check_untied_norms(model) : problem;
}

}  // namespace

const MixerEntry untied_attention_mixer = {
    .name = "untied_attention",
    .symbol = kNoSymbol,
    .section = "untied_attention",
    .doc = "attention with parameters for each modality (Mixture-of-Transformers 2024)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<UntiedAttentionConfig>();
    },
    .check = check_untied_attention,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& config,
               SublayerPlace) -> std::unique_ptr<Mixer> {
      const auto& settings = dynamic_cast<const UntiedAttentionConfig&>(config);
      const Builder own = b.child("untied_attention");
      return make_attention(own, std::make_unique<UntiedHeads>(own, model, settings), settings);
    },
    .attends = true,
    .longest_document = longest_rotated_document,
    .by_modality = true,
    .normalises = true,
};

}  // namespace sluice
