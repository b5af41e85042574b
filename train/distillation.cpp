#include "train/distillation.h"

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/linear_cross_entropy.h"
#include "autograd/ops/linear_distillation.h"
#include "train/find_checkpoint.h"

namespace sluice {
namespace {

/// The weights of the language-model head: the embedding's where they are tied.
Parameter& head_of(const Model& model) {
  const std::vector<Parameter*> parameters = model.parameters();
  auto found = std::ranges::find(parameters, "head", &Parameter::name);
  if (found == parameters.end()) {
    found = std::ranges::find(parameters, "embedding.weight", &Parameter::name);
  }
  SLUICE_INTERNAL_CHECK(found != parameters.end(), "a model without a head");
  return **found;
}

TrainedModel load_teacher(const std::string& path, Pool& pool) {
  SLUICE_CHECK(ConfigError, std::filesystem::exists(path),
               "train.distillation.teacher: {}: no such file or folder", path);
  return with_context([] { return "train.distillation.teacher"; },
                      [&] {
                        std::vector<std::string> damaged;
                        const auto found = find_checkpoint(path, CheckpointChoice::newest, damaged);
                        SLUICE_CHECK(ConfigError, damaged.empty(),
                                     "{}; name the checkpoint to learn from", damaged.front());
                        return build_trained_model_in(pool, found.checkpoint,
                                                       found.path.string());
                      });
}

double sum_of(const Tensor& losses) {
  if (!losses.has_memory()) return 0.0;
  return dispatch_float(losses.dtype(), [&]<class T>() {
    const auto values = losses.span<T>();
    return std::accumulate(values.begin(), values.end(), 0.0);
  });
}

}  // namespace

void DistillationConfig::fields(FieldVisitor& v) {
  v.path({"teacher", "checkpoint of the model to learn from, or the folder of its run", true},
         teacher);
  v.scheduled({"weight", "weight w of the divergence from the teacher's predictions"}, weight,
              {.min = 0.0});
  v.number(
      {"temperature", "tau, by which both models' logits are divided; the loss is times tau^2"},
      temperature, {.min = 0.0, .exclusive_min = true});
  v.number({"language_model",
            "weight of the language-model loss while the teacher is asked; 0: the teacher alone"},
           language_model, {.min = 0.0});
  v.optional_integer({"stop_step", "from this step on the teacher is not asked any more"},
                     stop_step, {.min = 0}, "never");
}

double DistillationConfig::weight_at(const Progress& progress) const {
  return is_over(progress) ? 0.0 : weight.at(progress);
}

struct Teacher::Parts {
  TrainedModel trained;
  Progress progress = progress_of(trained.recipe, trained.meta);

  [[nodiscard]] Tensor hidden(Tape& tape, const ModelInput& input) {
    const NoGrad no_grad(tape);
    const ExtraForward extra(tape);
    const ForwardContext context{.tape = tape,
                                 .layout = input.layout,
                                 .routing = trained.routing.get(),
                                 .progress = progress};
    trained.routing->begin_evaluation();
    Tensor result = trained.model->forward(context, input.tokens).hidden;
    trained.routing->end_evaluation();
    return result;
  }
};

Teacher::Teacher(const DistillationConfig& config, const Tokenizer* tokenizer, const Model& student,
                 Pool& pool)
    : config_(config), parts_(new Parts{load_teacher(config.teacher, pool)}) {
  const TrainedModel& trained = parts_->trained;
  SLUICE_CHECK(ConfigError,
               tokenizer == nullptr || trained.meta.tokenizer == tokenizer->serialize(),
               "train.distillation.teacher: {} reads tokens of another tokenizer; start from its "
               "weights (train.init_from) or from those of a model transformed from it, which have "
               "its tokenizer",
               config.teacher);
  SLUICE_CHECK(
      ConfigError,
      trained.model->vocab_size() == student.vocab_size() &&
          trained.model->dtype() == student.dtype(),
      "train.distillation.teacher: {} predicts {} tokens in {}, the model {} in {}; allowed "
      "are equal ones",
      config.teacher, trained.model->vocab_size(), trained.recipe.model.dtype, student.vocab_size(),
      student.dtype() == DType::f64 ? "f64" : "f32");
}

Teacher::~Teacher() = default;

int64_t Teacher::num_parameters() const {
  int64_t count = 0;
  for (const Parameter* parameter : parts_->trained.model->parameters()) {
    count += parameter->value.numel();
  }
  return count;
}

Teacher::Loss Teacher::loss(const Model& student, const ForwardContext& context,
                            const ModelInput& input, double head_z_loss) {
  const double weight = config_.weight_at(context.progress);
  if (config_.is_over(context.progress)) {
    return {student.loss(context, input.tokens, input.targets, {.head_z_loss = head_z_loss})};
  }
  Tape& tape = context.tape;
  const BlockState state = student.forward(context, input.tokens);
  // A weight that is 0 for now asks nobody.
  const Tensor taught = weight == 0.0 ? Tensor() : parts_->hidden(tape, input);
  const PhaseScope phase(tape, Phase::embedding_and_loss);
  const auto divisor = static_cast<double>(context.valid_tokens);
  Parameter& head = head_of(student);
  const auto own = linear_cross_entropy(tape, state.hidden, tape.use(head), input.targets,
                                        {divisor, head_z_loss});
  Loss result;
  result.model.total = scale(tape, own.loss, config_.language_model);
  if (weight > 0.0) {
    const TeacherHead teacher{taught, head_of(*parts_->trained.model).value};
    const Tensor divergence =
        scale(tape,
              linear_distillation(tape, state.hidden, tape.use(head), teacher, input.targets,
                                  {config_.temperature, divisor}),
              weight);
    result.divergence = divergence.item();
    result.model.total = add(tape, result.model.total, divergence);
  }
  result.model.language_model = sum_of(own.token_loss) / divisor;
  for (size_t kind = 0; kind < kLossKinds; ++kind) {
    if (!state.losses[kind].defined()) continue;
    result.model.auxiliary[kind] = state.losses[kind].item();
    result.model.total = add(tape, result.model.total, state.losses[kind]);
  }
  return result;
}

double share_of_steps_with_teacher(const DistillationConfig& config, const RunSizes& sizes) {
  if (sizes.steps == 0) return 0.0;
  int64_t asked = 0;
  for (int64_t step = 0; step < sizes.steps; ++step) {
    if (config.weight_at(sizes.progress(step, step * sizes.tokens_per_step)) > 0.0) ++asked;
  }
  return static_cast<double>(asked) / static_cast<double>(sizes.steps);
}

}  // namespace sluice
