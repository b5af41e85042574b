#include "train/transforms/calibration.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "data/evaluation.h"
#include "data/loader.h"
#include "train/evaluate.h"
#include "train/model_input.h"
#include "train/transforms/expert_neurons.h"

namespace sluice {
namespace {

std::vector<double> as_doubles(const Tensor& tensor) {
  return dispatch_float(tensor.dtype(), [&]<class T>() {
    const auto values = tensor.span<T>();
    return std::vector<double>(values.begin(), values.end());
  });
}

void add_to(std::vector<double>& sums, const std::vector<double>& values) {
  for (size_t i = 0; i < sums.size(); ++i) sums[i] += values[i];
}

/// Slots that have an expert and a counted token, in expert order.
struct ChosenSlots {
  std::vector<int32_t> slots;
  std::vector<int32_t> offsets;  // [E + 1]

  ChosenSlots(const Selection& selection, std::span<const uint8_t> counted) {
    const auto k = static_cast<size_t>(selection.top_k);
    offsets.push_back(0);
    for (int64_t e = 0; e < selection.experts; ++e) {
      for (size_t slot = 0; slot < selection.expert.size(); ++slot) {
        if (selection.expert[slot] == e && counted[slot / k] != 0) {
          slots.push_back(static_cast<int32_t>(slot));
        }
      }
      offsets.push_back(static_cast<int32_t>(slots.size()));
    }
  }
};

/// The outputs of one layer's experts, computed outside the model from what they read.
class ExpertOutputs {
 public:
  ExpertOutputs(const TrainedModel& trained, const ExpertLayer& layer) : pool_(*trained.pool) {
    const ModelConfig& model = trained.recipe.model;
    const Builder b(pool_, trained.model->dtype(), 0, model.init, 1);
    experts_ = make_experts(
        b.child(layer.path).child("experts"),
        {layer.config->num_experts, model.hidden_size, layer.config->intermediate_size},
        layer.config->form);
    for (Parameter* own : experts_->parameters()) {
      for (const Parameter* given : trained.model->parameters()) {
        if (given->name == own->name) own->value = given->value;
      }
    }
  }

  /// Rows of `x` by token, for every slot in expert order: [slots, D] and their outputs.
  [[nodiscard]] std::vector<double> of(const Tensor& x, const ChosenSlots& chosen,
                                       int64_t top_k) const {
    const auto rows = std::ssize(chosen.slots);
    if (rows == 0) return {};
    const Tensor input = Tensor::empty(pool_, {rows, x.dim(1)}, x.dtype());
    dispatch_float(x.dtype(), [&]<class T>() {
      const auto from = x.span<T>();
      const int64_t width = x.dim(1);
      Tensor gathered = input;
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t token = chosen.slots[static_cast<size_t>(row)] / top_k;
        std::copy_n(from.begin() + token * width, width, gathered.data<T>() + row * width);
      }
    });
    Tape tape(pool_);
    const NoGrad no_grad(tape);
    const SequenceLayout layout = SequenceLayout::single(pool_, rows);
    const ForwardContext context{.tape = tape, .layout = layout};
    const Tensor offsets = Tensor::of<int32_t>(pool_, {std::ssize(chosen.offsets)}, chosen.offsets);
    return as_doubles(experts_->forward(context, input, offsets));
  }

 private:
  Pool& pool_;
  std::unique_ptr<Experts> experts_;
};

class Calibration final : public RoutingObserver {
 public:
  Calibration(const TrainedModel& trained, std::span<const ExpertLayer> layers,
              const CalibrationNeeds& needs)
      : layers_(layers) {
    for (const ExpertLayer& layer : layers) {
      statistics_.emplace_back(layer.config->num_experts);
      if (needs.outputs) outputs_.emplace_back(trained, layer);
    }
  }

  void observe(const RoutingObservation& seen) override {
    const auto layer = std::ranges::find(layers_, seen.layer, &ExpertLayer::routed);
    if (layer == layers_.end()) return;
    const auto index = static_cast<size_t>(layer - layers_.begin());
    LayerStatistics found(layer->config->num_experts);
    add_choices(seen, found);
    if (!outputs_.empty()) add_outputs(seen, outputs_[index], found);
    statistics_[index].add(found);
  }

  [[nodiscard]] std::vector<LayerStatistics> take() { return std::move(statistics_); }

 private:
  static void add_choices(const RoutingObservation& seen, LayerStatistics& found) {
    const Selection& selection = seen.selection;
    const std::vector<double> weights = as_doubles(seen.weights);
    const std::vector<double> logits = as_doubles(seen.router.logits);
    const auto experts = static_cast<size_t>(found.experts);
    const auto k = static_cast<size_t>(selection.top_k);
    found.top_k = selection.top_k;
    for (size_t token = 0; token < static_cast<size_t>(selection.tokens); ++token) {
      if (seen.layout.counted[token] == 0) continue;
      ++found.tokens;
      const auto row = logits.begin() + static_cast<std::ptrdiff_t>(token * experts);
      found.logits.insert(found.logits.end(), row, row + static_cast<std::ptrdiff_t>(experts));
      for (size_t slot = token * k; slot < (token + 1) * k; ++slot) {
        if (selection.expert[slot] == kNoExpert) continue;
        const auto e = static_cast<size_t>(selection.expert[slot]);
        found.chosen[e] += 1.0;
        found.weights[e] += weights[slot];
      }
    }
  }

  static void add_outputs(const RoutingObservation& seen, const ExpertOutputs& experts,
                          LayerStatistics& found) {
    SLUICE_INTERNAL_CHECK(seen.experts_read != nullptr && seen.residual != nullptr,
                          "a layer that does not tell what its experts read");
    const Tensor& stream = *seen.residual;
    const int64_t top_k = seen.selection.top_k;
    const ChosenSlots chosen(seen.selection, seen.layout.counted);
    const std::vector<double> y = experts.of(*seen.experts_read, chosen, top_k);
    const std::vector<double> weights = as_doubles(seen.weights);
    const std::vector<double> residual = as_doubles(stream);
    const auto width = static_cast<size_t>(stream.dim(1));
    const auto output_of = [&](size_t row) { return std::span(y).subspan(row * width, width); };
    std::vector<double> routed(residual.size());  // r, [N, D]
    for (size_t row = 0; row < chosen.slots.size(); ++row) {
      const auto slot = static_cast<size_t>(chosen.slots[row]);
      const size_t first = slot / static_cast<size_t>(top_k) * width;
      for (size_t d = 0; d < width; ++d) routed[first + d] += weights[slot] * output_of(row)[d];
    }
    std::vector<double> turned(static_cast<size_t>(seen.selection.tokens));
    for (size_t token = 0; token < turned.size(); ++token) {
      turned[token] = turn_of(std::span(residual).subspan(token * width, width),
                              std::span(routed).subspan(token * width, width));
    }
    for (size_t e = 0; e < static_cast<size_t>(found.experts); ++e) {
      for (auto row = static_cast<size_t>(chosen.offsets[e]);
           row < static_cast<size_t>(chosen.offsets[e + 1]); ++row) {
        const auto slot = static_cast<size_t>(chosen.slots[row]);
        const double size = weights[slot] * std::sqrt(dot(output_of(row), output_of(row)));
        found.outputs[e] += size;
        found.moved[e] += turned[slot / static_cast<size_t>(top_k)] * size;
      }
    }
  }

  std::span<const ExpertLayer> layers_;
  std::vector<LayerStatistics> statistics_;
  std::vector<ExpertOutputs> outputs_;
};

}  // namespace

void CalibrationConfig::fields(FieldVisitor& v) {
  v.enumeration({"text", "whose text the experts are watched on: train or held_out"}, text,
                {{"train", Text::train}, {"held_out", Text::held_out}});
  v.integer({"tokens", "how many tokens of it, in whole batches"}, tokens, {.min = 1});
}

std::vector<Batch> calibration_text(const CalibrationConfig& config, uint64_t seed,
                                    const Recipe& recipe, const Dataset& data) {
  SingleRank communicator;
  const RunSizes sizes = derive_sizes(recipe, data.num_train_tokens());
  std::vector<Batch> text;
  int64_t tokens = 0;
  const auto add = [&](Batch batch) {
    tokens += batch.num_tokens();
    text.push_back(std::move(batch));
  };
  if (config.text == CalibrationConfig::Text::held_out) {
    EvaluationPass pass(data, evaluation_options(recipe, sizes, communicator));
    while (tokens < config.tokens) {
      auto item = pass.next();
      if (!item) break;
      add(std::move(item->batch));
    }
    SLUICE_CHECK(
        ConfigError, tokens > 0,
        "calibration.text: held_out, but the recipe of the model holds nothing out; allowed "
        "train");
    return text;
  }
  LoaderOptions options = loader_options(recipe, sizes, communicator);
  options.packing.seed = seed;
  options.prefetch = 0;
  options.sequences_per_batch =
      std::max<int64_t>(1, sizes.micro_batch_tokens / sizes.sequence_length);
  Loader loader(data, options);
  while (tokens < config.tokens) add(loader.next());
  return text;
}

LayerStatistics::LayerStatistics(int64_t num_experts)
    : experts(num_experts),
      chosen(static_cast<size_t>(num_experts)),
      weights(static_cast<size_t>(num_experts)),
      outputs(static_cast<size_t>(num_experts)),
      moved(static_cast<size_t>(num_experts)) {}

void LayerStatistics::add(const LayerStatistics& other) {
  SLUICE_INTERNAL_CHECK(experts == other.experts, "statistics of {} and of {} experts", experts,
                        other.experts);
  top_k = std::max(top_k, other.top_k);
  tokens += other.tokens;
  add_to(chosen, other.chosen);
  add_to(weights, other.weights);
  add_to(outputs, other.outputs);
  add_to(moved, other.moved);
  logits.insert(logits.end(), other.logits.begin(), other.logits.end());
}

double turn_of(std::span<const double> residual, std::span<const double> added) {
  std::vector<double> after(residual.begin(), residual.end());
  for (size_t d = 0; d < after.size(); ++d) after[d] += added[d];
  return std::max(0.0, 1.0 - cosine(residual, after));
}

std::vector<double> LayerStatistics::logits_of(int64_t e) const {
  std::vector<double> column;
  for (auto at = static_cast<size_t>(e); at < logits.size(); at += static_cast<size_t>(experts)) {
    column.push_back(logits[at]);
  }
  return column;
}

void check_outputs(std::span<const ExpertLayer> layers, const CalibrationNeeds& needs) {
  if (!needs.outputs) return;
  for (const ExpertLayer& layer : layers) {
    const std::string& form = layer.config->form.type;
    SLUICE_CHECK(
        ConfigError, form != gru_form.name && form != heterogeneous_form.name,
        "the experts of {} are of form {}, whose outputs depend on earlier tokens; allowed "
        "is a method that needs no outputs",
        layer.path, form);
  }
}

std::vector<LayerStatistics> calibrate(TrainedModel& trained, std::span<const ExpertLayer> layers,
                                       std::span<const Batch> text, const Progress& progress,
                                       const CalibrationNeeds& needs) {
  check_outputs(layers, needs);
  Calibration calibration(trained, layers, needs);
  const RoutingWatch watch(*trained.routing, calibration);
  SingleRank communicator;
  trained.routing->begin_evaluation();
  for (const Batch& batch : text) {
    (void)token_losses({*trained.pool, *trained.model, *trained.routing, communicator}, batch,
                       progress);
  }
  trained.routing->end_evaluation();
  return calibration.take();
}

}  // namespace sluice
