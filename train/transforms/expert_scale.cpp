#include "train/transforms/expert_scale.h"

#include <fmt/ranges.h>

#include <cmath>

#include "train/find_checkpoint.h"
#include "train/model_input.h"
#include "train/transforms/upcycling.h"

namespace sluice {
namespace {

constexpr int64_t kTokensAtATime = 2048;

/// The first training tokens, cut small.
std::vector<Batch> calibration_text(const UpcycleJob& job) {
  const int64_t wanted = *job.config().calibrate;
  Loader loader(job.data, job.training);
  std::vector<Batch> text;
  for (int64_t tokens = 0; tokens < wanted;) {
    for (Batch& part : split_into_micro_batches(loader.next(), kTokensAtATime)) {
      if (tokens >= wanted) break;
      tokens += part.num_tokens();
      text.push_back(std::move(part));
    }
  }
  return text;
}

/// Sum over tokens of |b - a|, rows [N, D].
double sum_of_lengths(const Tensor& a, const Tensor& b) {
  return dispatch_float(a.dtype(), [&]<class T>() {
    const int64_t D = a.dim(1);
    double sum = 0.0;
    for (int64_t n = 0; n < a.dim(0); ++n) {
      double squares = 0.0;
      for (int64_t i = n * D; i < (n + 1) * D; ++i) {
        squares += std::pow(static_cast<double>(b.data<T>()[i]) - static_cast<double>(a.data<T>()[i]),
                            2);
      }
      sum += std::sqrt(squares);
    }
    return sum;
  });
}

/// Sum over the text's tokens of the length of what the sublayer adds to the stream.
double output_length(const EvaluationParts& parts, std::span<const Batch> text, int64_t sublayer,
                     const Progress& progress) {
  double sum = 0.0;
  parts.routing.begin_evaluation();
  for (const Batch& batch : text) {
    const ModelInput input = make_model_input(parts.pool, batch);
    Tape tape(parts.pool);
    const NoGrad no_grad(tape);
    const ForwardContext context{.tape = tape,
                                 .layout = input.layout,
                                 .routing = &parts.routing,
                                 .progress = progress};
    Tensor before;
    const auto hook = [&](int64_t at, const Tensor& stream, const Tensor&) {
      if (at == sublayer) before = stream;
      if (at == sublayer + 1) sum += sum_of_lengths(before, stream);
      return stream;
    };
    (void)parts.model.forward(context, input.tokens, hook);
  }
  parts.routing.end_evaluation();
  return sum;
}

void scale_parameter(Parameter& parameter, double factor) {
  dispatch_float(parameter.value.dtype(), [&]<class T>() {
    for (T& value : parameter.value.span<T>()) {
      value = static_cast<T>(factor * static_cast<double>(value));
    }
  });
}

}  // namespace

std::vector<std::string> fit_expert_scale(const UpcycleJob& job, const EvaluationParts& after,
                                          const Progress& progress) {
  const std::vector<Batch> text = calibration_text(job);
  const EvaluationParts before{*job.before.pool, *job.before.model, *job.before.routing,
                               after.communicator};
  const Progress at_before = progress_of(job.before.recipe, job.before.meta);
  std::vector<double> factors;
  for (const LayerPair& pair :
       layer_pairs(job.before.recipe.model, job.recipe.model, job.config().from)) {
    SLUICE_CHECK(ConfigError, pair.experts.shared == nullptr,
                 "upcycle.calibrate: given, but {} has shared experts, which no factor on the routed "
                 "ones makes as long as the dense feed-forward; allowed none",
                 pair.name);
    const double wanted = output_length(before, text, pair.sublayer, at_before);
    const double found = output_length(after, text, pair.sublayer, progress);
    SLUICE_CHECK(ConfigError, wanted > 0.0 && found > 0.0,
                 "upcycle.calibrate: the output of {} is 0 on the {} calibration tokens", pair.name,
                 *job.config().calibrate);
    factors.push_back(wanted / found);
    const auto down =
        parameters_matching(fmt::format("{}.experts.w_down", pair.name), after.model);
    scale_parameter(*down.at(0), factors.back());
  }
  return {fmt::format("routed experts calibrated by {:.3f}", fmt::join(factors, ", "))};
}

}  // namespace sluice
