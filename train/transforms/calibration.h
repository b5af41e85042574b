#pragma once
// What the experts of a trained model do on some text: the numbers that pruning and merging go by.
//
//   const std::vector<Batch> text = calibration_text(config, seed, trained.recipe, data);
//   const auto layers = expert_layers(trained.recipe, progress, "runs/a");
//   std::vector<LayerStatistics> seen = calibrate(trained, layers, text, progress, {.outputs = true});

#include <cstdint>
#include <span>
#include <vector>

#include "autograd/support/fields.h"
#include "data/batch.h"
#include "data/dataset.h"
#include "train/build.h"
#include "train/transforms/expert_layers.h"

namespace sluice {

/// `calibration` of a transformation.
struct CalibrationConfig final : Configurable {
  enum class Text : uint8_t { train, held_out };
  Text text = Text::train;
  int64_t tokens = 16384;
  void fields(FieldVisitor& v) override;
};

/// Whole batches of the recipe's text until there are enough tokens: of the training text in an order
/// of the seed, or the first ones of the held-out text. Throws ConfigError when nothing is held out.
[[nodiscard]] std::vector<Batch> calibration_text(const CalibrationConfig& config, uint64_t seed,
                                                  const Recipe& recipe, const Dataset& data);

/// Sums over the counted tokens T of a calibration text, of one layer. Letters: E experts, k per token;
/// g_te the combine weight, E_e(x) the output of expert e before it, h the residual stream that the
/// layer adds to, r_t the sum of the token's weighted routed outputs.
struct LayerStatistics {
  int64_t experts = 0;
  int64_t top_k = 0;
  int64_t tokens = 0;
  std::vector<double> chosen;   // [E]: n_e, tokens that chose e
  std::vector<double> weights;  // [E]: sum of g_te
  std::vector<double> outputs;  // [E]: sum of g_te ||E_e(x_t)||
  std::vector<double> moved;    // [E]: sum of max(0, 1 - cos(h_t, h_t + r_t)) g_te ||E_e(x_t)||
  std::vector<double> logits;   // [T, E]

  LayerStatistics() = default;
  explicit LayerStatistics(int64_t num_experts);
  /// Of other tokens of the same layer, which come behind these.
  void add(const LayerStatistics& other);
  /// [T]: the logits of expert e.
  [[nodiscard]] std::vector<double> logits_of(int64_t e) const;
  friend bool operator==(const LayerStatistics&, const LayerStatistics&) = default;
};

/// max(0, 1 - cos(h, h + r)): how far what is added turns a residual stream.
[[nodiscard]] double turn_of(std::span<const double> residual, std::span<const double> added);

struct CalibrationNeeds {
  bool outputs = false;  // the experts' outputs, at the cost of computing them twice
};

/// Throws ConfigError when outputs are needed of experts whose outputs depend on earlier tokens.
void check_outputs(std::span<const ExpertLayer> layers, const CalibrationNeeds& needs);

/// The statistics of every layer, in evaluation. Changes nothing of the model or its balancers.
/// Throws ConfigError as check_outputs.
[[nodiscard]] std::vector<LayerStatistics> calibrate(TrainedModel& trained,
                                                     std::span<const ExpertLayer> layers,
                                                     std::span<const Batch> text,
                                                     const Progress& progress,
                                                     const CalibrationNeeds& needs);

}  // namespace sluice
