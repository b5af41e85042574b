#pragma once
// Modalities: tokens of several kinds (text, images, speech) in one sequence, and parameters of which
// each kind has a copy of its own ("untied").
//
// Every token has a modality m in 0 .. R - 1. Nothing chooses: a token uses the copy of its modality, so
// R copies cost what one costs. `model.modalities` names them and says which token ids are of which; a
// source of the data may say that all of its tokens are of one (data.sources.modality). The model sets
// ForwardContext::modalities where a pass starts, so that training, evaluation and decoding know them
// alike.
//
// Letters: N tokens, D hidden size, R modalities.

#include <string>
#include <vector>

#include "autograd/ops/dispatch_combine.h"
#include "autograd/support/fields.h"
#include "layers/linear.h"

namespace sluice {

struct ModelConfig;

/// `model.modalities` of a recipe.
struct ModalitiesConfig final : Configurable {
  std::vector<std::string> names;     // R of them, in order of their numbers
  std::vector<int64_t> first_tokens;  // [R], or empty
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;
  /// By its id alone; the first modality where first_tokens is empty.
  [[nodiscard]] int32_t of_token(int32_t id) const;
};

/// Domain of which not all tokens are of one modality: they go by their ids.
inline constexpr int32_t kByTokenId = -1;

/// R of a model; 0 where it tells none apart.
[[nodiscard]] int64_t num_modalities(const ModelConfig& model);

/// The tokens of a pass in order of their modalities, those of one in token order, and back. A copy of
/// rows is one gather; so is its gradient.
struct ModalityRows {
  Tensor ids;      // [N] i32: the modality of each token
  Tensor offsets;  // [R + 1] i32: rows of modality m are offsets[m] .. offsets[m + 1] - 1

  /// Throws InternalError when the pass knows no modalities.
  ModalityRows(const ForwardContext& context, int64_t modalities);
  /// x [N, D] by token -> by row.
  [[nodiscard]] Tensor gather(Tape& tape, const Tensor& x) const { return dispatch(tape, x, to_); }
  /// rows [N, D] -> by token.
  [[nodiscard]] Tensor scatter(Tape& tape, const Tensor& rows) const {
    return dispatch(tape, rows, back_);
  }

 private:
  DispatchPlan to_;
  DispatchPlan back_;
};

/// y[r, out] = sum_in x[r, in] w[m(r), out, in] of rows in order of their modalities. Parameter
/// "<path>.w_<name>" [R, out, in]; without a bias.
class UntiedLinear final : public Module {
 public:
  UntiedLinear(const Builder& b, const LinearSpec& spec, int64_t modalities);
  /// x [N, in] -> [N, out], both by row.
  [[nodiscard]] Tensor forward(Tape& tape, const Tensor& x, const ModalityRows& rows) const;

 private:
  Parameter& weight_;
};

/// RMSNorm with a weight for each modality, of rows in order of their modalities. Parameter
/// "<path>.<name>" [R, size].
class UntiedNorm final : public Module {
 public:
  struct Spec {
    std::string name;
    int64_t size;
    double eps;
  };
  UntiedNorm(const Builder& b, const Spec& spec, int64_t modalities);
  /// x [N, ..., size] by row.
  [[nodiscard]] Tensor forward(Tape& tape, const Tensor& x, const ModalityRows& rows) const;

 private:
  double eps_;
  Parameter& weight_;
};

/// The norms round a layer whose parameters are untied: before its projections, behind them, or both
/// (Liang et al. 2024, arXiv 2411.04996, whose code has them behind).
enum class UntiedNorms : uint8_t { pre, post, both };
void visit_untied_norms(FieldVisitor& v, UntiedNorms& norms);

/// Norms of D numbers "<path>.pre_norm" and "<path>.post_norm"; one that is not asked for leaves its
/// input as it is.
class UntiedBlockNorms final : public Module {
 public:
  UntiedBlockNorms(const Builder& b, const ModelConfig& model, UntiedNorms norms);
  [[nodiscard]] Tensor before(Tape& tape, const Tensor& x, const ModalityRows& rows) const;
  [[nodiscard]] Tensor behind(Tape& tape, const Tensor& y, const ModalityRows& rows) const;

 private:
  UntiedNorm* pre_ = nullptr;
  UntiedNorm* post_ = nullptr;
};
/// For the `check` of an entry with UntiedBlockNorms: they are RMSNorms.
[[nodiscard]] std::string check_untied_norms(const ModelConfig& model);

/// A linear map without a bias that is tied (Linear) or untied.
class ModalityLinear final : public Module {
 public:
  /// `modalities`: 0 for tied.
  ModalityLinear(const Builder& b, const LinearSpec& spec, int64_t modalities);
  /// x [N, in] by token -> [N, out] by token; `rows` is not null where the map is untied.
  [[nodiscard]] Tensor forward(const ForwardContext& context, const Tensor& x,
                               const ModalityRows* rows) const;

 private:
  Linear* tied_ = nullptr;
  UntiedLinear* untied_ = nullptr;
};

}  // namespace sluice
