#include "tests/support/tiny_model.h"

#include <cmath>
#include <cstring>

namespace sluice::testing_support {
namespace {

class NoBalance final : public Balancer {
 public:
  [[nodiscard]] BalancerTraits traits() const override { return {}; }
};

}  // namespace

ModelConfig tiny_config(const std::string& pattern, const std::string& dtype) {
  ModelConfig config;
  config.pattern = pattern;
  config.hidden_size = 32;
  config.vocab_size = 64;
  config.dtype = dtype;
  config.init.std = 0.2;
  attention_of(config).num_heads = 4;
  attention_of(config).num_kv_heads = 2;
  attention_of(config).max_position_embeddings = 256;
  dense_of(config).intermediate_size = 48;
  experts_of(config).num_experts = 4;
  experts_of(config).top_k = 2.0;
  experts_of(config).intermediate_size = 24;
  return config;
}

TinyBatch tiny_batch(Pool& pool, const std::vector<std::vector<int64_t>>& sequences, int64_t vocab,
                     uint64_t first_sample) {
  TinyBatch batch;
  SequenceLayout& layout = batch.layout;
  layout.sequence_offsets = {0};
  layout.document_offsets = {0};
  std::vector<int32_t> positions;
  std::vector<int32_t> tokens;
  std::vector<int32_t> targets;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const uint64_t sample = first_sample + s;
    const RandomKey key{11, RandomPurpose::test, 3, sample};
    uint64_t index = 0;
    for (const int64_t length : sequences[s]) {
      for (int64_t i = 0; i < length; ++i) {
        tokens.push_back(
            static_cast<int32_t>(uniform_below(key, 0, index++, static_cast<uint64_t>(vocab))));
        positions.push_back(static_cast<int32_t>(i));
        const bool last = i + 1 == length;
        targets.push_back(last ? -100
                               : static_cast<int32_t>(
                                     uniform_below(key, 0, index, static_cast<uint64_t>(vocab))));
        layout.counted.push_back(last ? 0 : 1);
      }
      layout.document_offsets.push_back(static_cast<int64_t>(tokens.size()));
      layout.document_domains.push_back(0);
    }
    layout.sequence_offsets.push_back(static_cast<int64_t>(tokens.size()));
    layout.global_samples.push_back(sample);
  }
  const auto n = static_cast<int64_t>(tokens.size());
  layout.positions = Tensor::of<int32_t>(pool, {n}, positions);
  batch.tokens = Tensor::of<int32_t>(pool, {n}, tokens);
  batch.targets = Tensor::of<int32_t>(pool, {n}, targets);
  return batch;
}

RoutingSession plain_session(const Model& model) {
  std::vector<std::unique_ptr<Balancer>> balancers;
  for (size_t i = 0; i < model.experts_per_layer().size(); ++i)
    balancers.push_back(std::make_unique<NoBalance>());
  return RoutingSession(std::move(balancers));
}

ForwardContext training_context(Tape& tape, const TinyBatch& batch, RoutingSession& session,
                                Recompute recompute) {
  session.begin_step(1);
  session.begin_micro_batch(0);
  ForwardContext context{tape, batch.layout};
  context.routing = &session;
  context.training = true;
  context.recompute = recompute;
  context.valid_tokens = batch.layout.counted_tokens();
  context.global_sequences = batch.layout.sequences();
  return context;
}

void zero_grads(const Model& model, Pool& pool) {
  for (Parameter* parameter : model.parameters()) parameter->zero_grad(pool);
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.raw().data(), b.raw().data(), a.raw().size()) == 0;
}

double element(const Tensor& x, int64_t i) {
  return dispatch_float(x.dtype(), [&]<class T>() { return static_cast<double>(x.data<T>()[i]); });
}

double relative_distance(const Tensor& a, const Tensor& b) {
  double difference = 0.0;
  double size = 0.0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    difference += std::pow(element(a, i) - element(b, i), 2);
    size += std::pow(element(b, i), 2);
  }
  return std::sqrt(difference) / std::max(std::sqrt(size), 1e-300);
}

}  // namespace sluice::testing_support
