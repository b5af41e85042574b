// SlimMoE (Li et al. 2025, "SlimMoE: Structured Compression of Large MoE Models via Expert Slimming and
// Distillation", arXiv 2506.18349): all experts and the router stay, every expert keeps its f' best
// neurons. The published path is several such steps, each followed by training with the first model as
// the teacher.
//
//   s_i = mean over the calibration text's sequences of | sum over its tokens of h_i dL/dh_i |
//
// h_i the neuron's activation in the expert. The sum over tokens is sum over d of w_down[d, i]
// dL/dw_down[d, i], so gradients of the weights are enough. Known from the abstract and a digest; the
// score, and that its absolute value is taken by sequence and not by token, are ours [R].

#include <algorithm>
#include <cmath>
#include <numeric>

#include "train/model_input.h"
#include "train/transforms/transforming.h"

namespace sluice {
namespace {

struct SlimConfig final : Configurable {
  int64_t intermediate_size = 128;
  void fields(FieldVisitor& v) override {
    v.integer({"intermediate_size", "neurons that every routed expert keeps", true},
              intermediate_size, {.min = 1});
  }
};

/// While it lives, gradients are wanted of the given parameters only.
class OnlyTrainable {
 public:
  OnlyTrainable(std::span<Parameter* const> all, std::span<Parameter* const> wanted) {
    for (Parameter* parameter : all) {
      before_.emplace_back(parameter, parameter->trainable);
      parameter->trainable = std::ranges::find(wanted, parameter) != wanted.end();
    }
  }
  ~OnlyTrainable() {
    for (const auto& [parameter, trainable] : before_) parameter->trainable = trainable;
  }
  OnlyTrainable(const OnlyTrainable&) = delete;
  OnlyTrainable& operator=(const OnlyTrainable&) = delete;

 private:
  std::vector<std::pair<Parameter*, bool>> before_;
};

/// Adds |sum over d of w_down[e, d, i] dL/dw_down[e, d, i]| to scores [E, F].
void add_importance(Parameter& down, std::vector<double>& scores) {
  down.materialise_grad();
  const auto hidden = static_cast<size_t>(down.value.dim(1));
  const auto width = static_cast<size_t>(down.value.dim(2));
  dispatch_float(down.value.dtype(), [&]<class T>() {
    const auto values = down.value.span<T>();
    const auto gradient = down.grad.span<T>();
    for (size_t n = 0; n < scores.size(); ++n) {
      const size_t first = n / width * hidden * width + n % width;
      double sum = 0.0;
      for (size_t d = 0; d < hidden; ++d) {
        const size_t at = first + d * width;
        sum += static_cast<double>(values[at]) * static_cast<double>(gradient[at]);
      }
      scores[n] += std::abs(sum);
    }
  });
}

class Slim final : public Transform {
 public:
  explicit Slim(const SlimConfig& config) : config_(config) {}

  [[nodiscard]] std::string label() const override {
    return fmt::format("slim {}", config_.intermediate_size);
  }

  void check(std::span<const ExpertLayer> layers) const override {
    check_swiglu(layers, slim_transform.name);
    for (const ExpertLayer& layer : layers) {
      SLUICE_CHECK(
          ConfigError, config_.intermediate_size <= layer.config->intermediate_size,
          "method.intermediate_size: found {}, allowed 1 to {} (model.{}.intermediate_size "
          "of the model)",
          config_.intermediate_size, layer.config->intermediate_size, layer.section);
    }
  }
  [[nodiscard]] ExpertSizes sizes(const ExpertSizes& before) const override {
    return {before.experts, config_.intermediate_size};
  }

  [[nodiscard]] std::vector<ExpertChange> change(const TransformInput& input) const override {
    const std::vector<std::vector<double>> scores = neuron_scores(input);
    std::vector<ExpertChange> changes;
    for (size_t i = 0; i < input.layers.size(); ++i) {
      const ExpertsConfig& experts = *input.layers[i].config;
      ExpertChange change;
      change.kept.resize(static_cast<size_t>(experts.num_experts));
      std::iota(change.kept.begin(), change.kept.end(), 0);
      const auto width = static_cast<size_t>(experts.intermediate_size);
      for (size_t e = 0; e < change.kept.size(); ++e) {
        change.neurons.push_back(best_experts(std::span(scores[i]).subspan(e * width, width),
                                              config_.intermediate_size));
      }
      changes.push_back(std::move(change));
    }
    return changes;
  }

 private:
  /// [layer][E, F]
  [[nodiscard]] static std::vector<std::vector<double>> neuron_scores(const TransformInput& input) {
    std::vector<Parameter*> downs;
    std::vector<std::vector<double>> scores;
    const std::vector<Parameter*> all = input.model.model->parameters();
    for (const ExpertLayer& layer : input.layers) {
      const auto found = std::ranges::find(all, layer.path + ".experts.w_down", &Parameter::name);
      SLUICE_INTERNAL_CHECK(found != all.end(), "{} has no w_down", layer.path);
      downs.push_back(*found);
      const Tensor& value = (*found)->value;
      scores.emplace_back(static_cast<size_t>(value.dim(0) * value.dim(2)));
    }
    const OnlyTrainable only(all, downs);
    input.model.routing->begin_evaluation();
    for (const Batch& batch : input.text) {
      for (int64_t s = 0; s < batch.num_sequences(); ++s) {
        const Batch sequence = batch.slice_sequences(s, s + 1);
        if (sequence.valid_targets() == 0) continue;
        for (Parameter* down : downs) down->zero_grad(*input.model.pool);
        differentiate(input, sequence);
        for (size_t i = 0; i < downs.size(); ++i) add_importance(*downs[i], scores[i]);
      }
    }
    input.model.routing->end_evaluation();
    return scores;
  }

  static void differentiate(const TransformInput& input, const Batch& sequence) {
    Tape tape(*input.model.pool);
    const ModelInput read = make_model_input(*input.model.pool, sequence);
    const ForwardContext context{.tape = tape,
                                 .layout = read.layout,
                                 .routing = input.model.routing.get(),
                                 .progress = input.progress,
                                 .valid_tokens = sequence.valid_targets()};
    tape.backward(input.model.model->loss(context, read.tokens, read.targets).total);
  }

  SlimConfig config_;
};

}  // namespace

const TransformEntry slim_transform = {
    .name = "slim",
    .doc =
        "all experts stay, each with its most important neurons (SlimMoE 2025, arXiv 2506.18349)",
    .make_config = make_transform_config<SlimConfig>,
    .make = make_transform<Slim, SlimConfig>,
};

}  // namespace sluice
