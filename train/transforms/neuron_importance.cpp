#include "train/transforms/neuron_importance.h"

#include <cmath>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/swiglu.h"
#include "autograd/support/parallel.h"
#include "train/find_checkpoint.h"
#include "train/model_input.h"

namespace sluice {
namespace {

constexpr int64_t kTokensAtATime = 2048;
constexpr int64_t kNeuronsAtATime = 64;

/// A dense feed-forward, and what one pass shows of it.
struct DenseLayer {
  int64_t sublayer;
  Tensor gate;  // [F, D]
  Tensor up;    // [F, D]
  Tensor down;  // [D, F]
  Tensor input = {};                   // [N, D]
  std::unique_ptr<Parameter> added = {};  // [N, D] zeros, added to its output
  std::vector<std::vector<double>> sums = {};  // [domain][F]
};

std::vector<DenseLayer> dense_layers(const TrainedModel& trained, size_t domains) {
  std::vector<DenseLayer> layers;
  const std::vector<SublayerSpec> specs = trained.recipe.model.sublayers();
  for (size_t i = 0; i < specs.size(); ++i) {
    const auto* dense = dynamic_cast<const DenseConfig*>(specs[i].config);
    if (dense == nullptr || dense->activation != "swiglu" || dense->bias) continue;
    const auto matrix = [&](std::string_view name) {
      const std::string path = fmt::format("layers.{}.feed_forward.{}", i, name);
      return parameters_matching(path, *trained.model).at(0)->value;
    };
    layers.push_back({static_cast<int64_t>(i), matrix("w_gate"), matrix("w_up"), matrix("w_down")});
    layers.back().sums.assign(domains,
                              std::vector<double>(static_cast<size_t>(dense->intermediate_size)));
  }
  return layers;
}

/// Adds |h_i dL/dh_i| of every token to the sums of its domain.
void add_tokens(Pool& pool, DenseLayer& layer, std::span<const int32_t> domain_of_token) {
  Tape tape(pool);
  const NoGrad no_grad(tape);
  layer.added->materialise_grad();
  const Tensor h =
      swiglu(tape, linear(tape, layer.input, layer.gate), linear(tape, layer.input, layer.up));
  const Tensor grad_h = matmul(tape, layer.added->grad, layer.down);  // [N, F]
  const int64_t F = h.dim(1);
  dispatch_float(h.dtype(), [&]<class T>() {
    const T* values = h.data<T>();
    const T* grads = grad_h.data<T>();
    parallel_for_ranges(F, kNeuronsAtATime, [&](int64_t begin, int64_t end) {
      for (size_t n = 0; n < domain_of_token.size(); ++n) {
        std::vector<double>& sums = layer.sums[static_cast<size_t>(domain_of_token[n])];
        for (int64_t i = begin; i < end; ++i) {
          const int64_t at = static_cast<int64_t>(n) * F + i;
          sums[static_cast<size_t>(i)] +=
              std::abs(static_cast<double>(values[at]) * static_cast<double>(grads[at]));
        }
      }
    });
  });
}

std::vector<int32_t> domains_of_tokens(const Batch& batch) {
  std::vector<int32_t> domains = batch.document_of_token();
  for (int32_t& domain : domains) domain = batch.document_domain[static_cast<size_t>(domain)];
  return domains;
}

/// The forward and backward pass of one batch through `model`, and what it shows of the layers.
void run_batch(const TrainedModel& trained, const Batch& batch, std::vector<DenseLayer>& layers) {
  Pool& pool = *trained.pool;
  const ModelInput input = make_model_input(pool, batch);
  Tape tape(pool);
  const ForwardContext context{.tape = tape,
                               .layout = input.layout,
                               .routing = trained.routing.get(),
                               .progress = progress_of(trained.recipe, trained.meta),
                               .valid_tokens = batch.valid_targets()};
  const int64_t D = trained.recipe.model.hidden_size;
  for (DenseLayer& layer : layers) {
    layer.added = std::make_unique<Parameter>();
    layer.added->value = Tensor::zeros(pool, {batch.num_tokens(), D}, trained.model->dtype());
    layer.added->zero_grad(pool);
  }
  const auto hook = [&](int64_t sublayer, const Tensor& stream, const Tensor& own_input) {
    Tensor result = stream;
    for (DenseLayer& layer : layers) {
      if (layer.sublayer == sublayer) layer.input = own_input;
      // What comes out of a layer is added to the stream: gradients of both are the same.
      if (layer.sublayer + 1 == sublayer) result = add(tape, result, tape.use(*layer.added));
    }
    return result;
  };
  const BlockState state = trained.model->forward(context, input.tokens, hook);
  tape.backward(trained.model->loss_of(context, state.hidden, input.targets));
  const std::vector<int32_t> domains = domains_of_tokens(batch);
  for (DenseLayer& layer : layers) {
    add_tokens(pool, layer, domains);
    layer.input = {};
    layer.added.reset();
  }
}

}  // namespace

const std::vector<std::vector<double>>& NeuronImportance::of(int64_t sublayer, int64_t tokens) {
  if (measured_ < tokens) measure(tokens);
  const auto found = importance_.find(sublayer);
  SLUICE_CHECK(ConfigError, found != importance_.end(),
               "upcycle.scheme: sublayer {} is no dense feed-forward with SwiGLU, whose neurons could "
               "be measured",
               sublayer);
  return found->second;
}

void NeuronImportance::measure(int64_t tokens) {
  TrainedModel& trained = job_.before;
  // The model's own gradients are not wanted.
  for (Parameter* parameter : trained.model->parameters()) parameter->trainable = false;
  const size_t domains = job_.data.domains.size();
  std::vector<DenseLayer> layers = dense_layers(trained, domains);
  std::vector<int64_t> counts(domains);
  Loader loader(job_.data, job_.training);
  trained.routing->begin_evaluation();
  for (measured_ = 0; measured_ < tokens;) {
    for (const Batch& part : split_into_micro_batches(loader.next(), kTokensAtATime)) {
      measured_ += part.num_tokens();
      if (part.valid_targets() == 0) continue;
      run_batch(trained, part, layers);
      for (const int32_t domain : domains_of_tokens(part)) ++counts[static_cast<size_t>(domain)];
    }
  }
  trained.routing->end_evaluation();
  importance_.clear();
  for (DenseLayer& layer : layers) {
    auto& result = importance_[layer.sublayer];
    for (size_t domain = 0; domain < domains; ++domain) {
      if (counts[domain] == 0) continue;
      for (double& sum : layer.sums[domain]) sum /= static_cast<double>(counts[domain]);
      result.push_back(std::move(layer.sums[domain]));
    }
  }
}

}  // namespace sluice
