#pragma once
// Training with a teacher: beside the language-model loss, how far the model's predictions are from
// those of a trained one (Hinton, Vinyals and Dean 2015, arXiv 1503.02531; KL(teacher || student) as in
// DeepSpeed-MoE's mixture of students, which stops it some way into the run).
//
//   L = a L_lm + w tau^2 mean over tokens of KL(softmax(z_teacher / tau) || softmax(z / tau)) + auxiliary

#include <memory>
#include <optional>
#include <string>

#include "autograd/support/fields.h"
#include "autograd/support/scheduled.h"
#include "data/tokenizer.h"
#include "layers/model.h"
#include "train/build.h"
#include "train/model_input.h"

namespace sluice {

/// `train.distillation`
struct DistillationConfig final : Configurable {
  std::string teacher;
  Scheduled weight = 1.0;
  double temperature = 1.0;
  double language_model = 1.0;
  std::optional<int64_t> stop_step;  // "never"
  void fields(FieldVisitor& v) override;

  /// w at this point of the run: 0 from stop_step on.
  [[nodiscard]] double weight_at(const Progress& progress) const;
  /// Whether the teacher is not asked any more.
  [[nodiscard]] bool is_over(const Progress& progress) const {
    return stop_step && progress.step >= *stop_step;
  }
};

/// A trained model that only predicts; its state never changes.
class Teacher {
 public:
  /// Its weights lie in `pool`, the student's; on one for shapes only they have no values. `tokenizer` is
  /// the student's, null where nobody knows it. Throws ConfigError when the checkpoint is not there or its
  /// model does not read the same tokens in the same dtype, CheckpointError.
  Teacher(const DistillationConfig& config, const Tokenizer* tokenizer, const Model& student,
          Pool& pool);
  ~Teacher();
  Teacher(const Teacher&) = delete;
  Teacher& operator=(const Teacher&) = delete;

  [[nodiscard]] int64_t num_parameters() const;

  struct Loss {
    Model::Loss model;        // total includes the divergence
    double divergence = 0.0;  // weighted, as it stands in the total
  };
  /// Model::loss with the divergence beside it; without it where its weight is 0 at this point. The
  /// teacher's forward pass counts as an extra one.
  [[nodiscard]] Loss loss(const Model& student, const ForwardContext& context,
                          const ModelInput& input, double head_z_loss);

 private:
  struct Parts;
  DistillationConfig config_;
  std::unique_ptr<Parts> parts_;
};

/// The part of a run's steps in which its teacher is asked.
[[nodiscard]] double share_of_steps_with_teacher(const DistillationConfig& config,
                                                 const RunSizes& sizes);

}  // namespace sluice
