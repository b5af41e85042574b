#include "layers/multi_token.h"

#include "autograd/ops/reshape.h"

namespace sluice {

void MultiTokenConfig::fields(FieldVisitor& v) {
  v.integer({"num_depths", "tokens after the next that are predicted, D"}, num_depths,
            {.min = 1, .max = 16});
  v.text({"pattern", "sublayers of one depth, spelled as model.pattern, without square brackets"},
         pattern);
  v.scheduled({"coefficient", "weight of the mean of their cross-entropies"}, coefficient,
              {.min = 0.0});
}

PredictionDepth::PredictionDepth(const Builder& b, const NormConfig& norm, int64_t hidden_size) {
  embedding_norm_ = &child(std::make_unique<Norm>(b.child("embedding_norm"), norm, hidden_size));
  hidden_norm_ = &child(std::make_unique<Norm>(b.child("hidden_norm"), norm, hidden_size));
  projection_ =
      &child(std::make_unique<Linear>(b, LinearSpec{"projection", 2 * hidden_size, hidden_size}));
  output_norm_ = &child(std::make_unique<Norm>(b.child("output_norm"), norm, hidden_size));
}

std::shared_ptr<const TokenSubset> PredictionDepth::rows(const ForwardContext& whole) {
  std::vector<uint8_t> chosen(static_cast<size_t>(whole.layout.tokens()), 1);
  const std::vector<int64_t>& offsets = whole.layout.document_offsets;
  for (size_t document = 0; document + 1 < offsets.size(); ++document) {
    if (offsets[document + 1] > offsets[document]) {
      chosen[static_cast<size_t>(offsets[document + 1]) - 1] = 0;
    }
  }
  return TokenSubset::of(whole, chosen);
}

Tensor PredictionDepth::shifted(Pool& pool, const Tensor& values, const SequenceLayout& whole,
                                const SequenceLayout& rows, int64_t depth) {
  Tensor result = Tensor::empty(pool, {rows.tokens()}, DType::i32);
  if (!result.has_memory()) return result;
  const auto from = values.span<int32_t>();
  int32_t* to = result.data<int32_t>();
  for (size_t document = 0; document < static_cast<size_t>(rows.documents()); ++document) {
    const int64_t first = whole.document_offsets[document] + depth;
    const int64_t begin = rows.document_offsets[document];
    const int64_t end = rows.document_offsets[document + 1];
    for (int64_t row = begin; row < end; ++row) {
      to[row] = from[static_cast<size_t>(first + row - begin)];
    }
  }
  return result;
}

Tensor PredictionDepth::input(const ForwardContext& context, const Embedding& embedding,
                              const Tensor& tokens, const Tensor& hidden) const {
  const std::array<Tensor, 2> parts{
      embedding_norm_->forward(context, embedding.forward(context, tokens)),
      hidden_norm_->forward(context, hidden)};
  return projection_->forward(context, concat_columns(context.tape, parts));
}

Tensor PredictionDepth::output(const ForwardContext& context, const Tensor& hidden) const {
  return output_norm_->forward(context, hidden);
}

}  // namespace sluice
