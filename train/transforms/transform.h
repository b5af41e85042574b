#pragma once
// `sluice transform`: a smaller model made of a trained one, checkpoint to checkpoint.
//
//   from: runs/moe_small                     # the folder of a run, or a checkpoint
//   method: {type: prune, num_experts: 8, criterion: {type: reap}}
//   calibration: {text: train, tokens: 16384}
//
//   TransformConfig config;
//   read_or_throw(config, load_documents({{"prune.yaml"}, {}}));
//   Transformation transformation(config);
//   const Transformed made = transformation.run(config.method.front(), config.seeds.front());
//
// The new checkpoint is that of a run of its own recipe, which differs from the model's in the numbers
// of its experts, and trains, evaluates, generates and exports as any other.

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "autograd/support/fields.h"
#include "data/dataset.h"
#include "train/checkpoint/store.h"
#include "train/parameter_count.h"
#include "train/transforms/receipt.h"
#include "train/transforms/transforming.h"

namespace sluice {

/// The file of a transformation.
struct TransformConfig final : Configurable {
  enum class Kept : uint8_t { keep, reset };
  std::string from;
  std::vector<Tagged> method;  // one, or those that are compared
  CalibrationConfig calibration;
  std::vector<int64_t> seeds{1};
  std::optional<int64_t> probe_tokens = 16384;  // "all"
  Kept optimizer = Kept::reset;
  Kept step = Kept::reset;
  Kept data = Kept::reset;
  std::optional<int64_t> threads;  // "auto"
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;
};

/// Whether the file is a transformation and no recipe: it has the keys `from` and `method`.
[[nodiscard]] bool is_transform_file(const std::filesystem::path& file);

struct ModelSize {
  int64_t total = 0;   // parameters
  int64_t active = 0;  // that one token uses
  int64_t bytes = 0;   // of all parameters
};

/// transform.json of the new run's folder.
struct TransformReceipt {
  struct Layer {
    std::string path;
    std::vector<int32_t> kept;
    std::vector<double> scores;                 // of all experts before; empty: none
    std::vector<std::vector<int32_t>> members;  // merged into each; empty: none
  };
  std::string from;  // the checkpoint
  std::string method;
  std::string settings;  // of the method, as YAML
  int64_t seed = 0;
  int64_t calibration_tokens = 0;
  ModelSize before;
  ModelSize after;
  std::vector<Layer> layers;
  std::vector<std::string> notes;  // one sentence each
  std::optional<Parity> parity;    // on held-out text; nullopt: none is held out

  [[nodiscard]] std::string to_json() const;
};

struct Transformed {
  Recipe recipe;
  Checkpoint checkpoint;
  TransformReceipt receipt;
};

class Transformation {
 public:
  /// Reads checkpoint and data. Throws ConfigError for a checkpoint that is not there or a model that
  /// cannot be transformed, CheckpointError, DataError.
  explicit Transformation(const TransformConfig& config);
  /// Of a checkpoint that was read already, or never written, whose path stands in messages, and its
  /// recipe's data, which outlive this; config.from is not looked at.
  Transformation(const TransformConfig& config, CheckpointStore::Found source, const Dataset& data);
  Transformation(const Transformation&) = delete;
  Transformation& operator=(const Transformation&) = delete;

  [[nodiscard]] Transformed run(const Tagged& method, int64_t seed);
  [[nodiscard]] const CheckpointStore::Found& source() const { return found_; }
  /// Sentences that a person should read: damaged checkpoints that were passed over.
  [[nodiscard]] const std::vector<std::string>& notes() const { return notes_; }

 private:
  struct Calibrated {
    std::vector<Batch> text;
    std::vector<LayerStatistics> statistics;
  };
  [[nodiscard]] const Calibrated& calibrated(int64_t seed, const CalibrationNeeds& needs);
  [[nodiscard]] StateDict initial_state(const Recipe& recipe) const;
  [[nodiscard]] ModelSize size_of(const TrainedModel& model) const;
  [[nodiscard]] std::optional<Parity> compare(const TrainedModel& after) const;

  TransformConfig config_;
  std::vector<std::string> notes_;
  CheckpointStore::Found found_;
  TrainedModel model_;
  Progress progress_;
  std::vector<ExpertLayer> layers_;
  std::optional<Dataset> own_data_;
  const Dataset& data_;
  std::map<std::pair<int64_t, bool>, Calibrated> calibrated_;  // by seed, with outputs or not
};

/// Starts the run folder `folder` with the checkpoint, its recipe and the receipt. Throws ConfigError
/// when the folder holds a run already, CheckpointError.
void write_transformed(const Transformed& made, const std::filesystem::path& folder);

}  // namespace sluice
