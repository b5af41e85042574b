#include "train/transforms/receipt.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "autograd/ops/reshape.h"
#include "data/fingerprint.h"
#include "train/model_input.h"
#include "train/transforms/parity_json.h"

namespace sluice {
namespace {

/// Rows of logits that are made at a time.
constexpr int64_t kRowsAtATime = 256;

/// The hidden states of a batch, and their logits row by row.
class Reading {
 public:
  /// `which` names the model in messages.
  Reading(const ComparedModel& compared, const Batch& batch, std::string_view which)
      : parts_(compared.parts),
        which_(which),
        tape_(parts_.pool),
        no_grad_(tape_),
        input_(make_model_input(parts_.pool, batch)),
        context_{.tape = tape_,
                 .layout = input_.layout,
                 .routing = &parts_.routing,
                 .progress = compared.progress},
        hidden_(parts_.model.forward(context_, input_.tokens).hidden) {}

  /// [end - begin, V]
  [[nodiscard]] std::vector<double> logits(int64_t begin, int64_t end) {
    const Tensor logits = parts_.model.logits(context_, slice_rows(tape_, hidden_, begin, end));
    std::vector<double> result;
    dispatch_float(logits.dtype(), [&]<class T>() {
      const auto values = logits.span<T>();
      result.assign(values.begin(), values.end());
    });
    const auto is_finite = [](double value) { return std::isfinite(value); };
    SLUICE_CHECK(NumericError, std::ranges::all_of(result, is_finite),
                 "the model {} gives a logit that is no finite number on held-out text", which_);
    return result;
  }
  [[nodiscard]] std::span<const int32_t> targets() const { return input_.targets.span<int32_t>(); }

 private:
  const EvaluationParts& parts_;
  std::string_view which_;
  Tape tape_;
  NoGrad no_grad_;
  ModelInput input_;
  ForwardContext context_;
  Tensor hidden_;
};

double log_sum_exp(std::span<const double> row) {
  const double largest = *std::ranges::max_element(row);
  double sum = 0.0;
  for (const double value : row) sum += std::exp(value - largest);
  return largest + std::log(sum);
}

/// Adds one token; sums take the place of means.
void add_token(std::span<const double> a, std::span<const double> b, int32_t target, Parity& sums) {
  const double norm_a = log_sum_exp(a);
  const double norm_b = log_sum_exp(b);
  double divergence = 0.0;
  for (size_t v = 0; v < a.size(); ++v) {
    sums.largest_difference = std::max(sums.largest_difference, std::abs(a[v] - b[v]));
    sums.largest_logit = std::max(sums.largest_logit, std::abs(a[v]));
    divergence += std::exp(a[v] - norm_a) * ((a[v] - norm_a) - (b[v] - norm_b));
  }
  if (target == kIgnoredTarget) return;
  sums.tokens += 1;
  sums.mean_divergence += divergence;
  sums.loss_before += norm_a - a[static_cast<size_t>(target)];
  sums.loss_after += norm_b - b[static_cast<size_t>(target)];
}

void add_batch(Reading& before, Reading& after, Parity& sums) {
  const std::span<const int32_t> targets = before.targets();
  const auto count = std::ssize(targets);
  for (int64_t begin = 0; begin < count; begin += kRowsAtATime) {
    const int64_t end = std::min(begin + kRowsAtATime, count);
    const std::vector<double> a = before.logits(begin, end);
    const std::vector<double> b = after.logits(begin, end);
    const size_t width = a.size() / static_cast<size_t>(end - begin);
    for (int64_t row = begin; row < end; ++row) {
      const size_t first = static_cast<size_t>(row - begin) * width;
      add_token(std::span(a).subspan(first, width), std::span(b).subspan(first, width),
                targets[static_cast<size_t>(row)], sums);
    }
  }
}

}  // namespace

double Parity::relative_difference() const {
  return largest_logit > 0.0 ? largest_difference / largest_logit : largest_difference;
}

std::optional<Parity> compare_models(const ComparedModel& before, const ComparedModel& after,
                                     const Dataset& data, const EvaluationOptions& options,
                                     int64_t probe_tokens) {
  Parity parity;
  Fingerprint probe;
  EvaluationPass pass(data, options);
  before.parts.routing.begin_evaluation();
  after.parts.routing.begin_evaluation();
  while (parity.tokens < probe_tokens) {
    const auto item = pass.next();
    if (!item) break;
    Reading a(before, item->batch, "before");
    Reading b(after, item->batch, "after");
    add_batch(a, b, parity);
    probe.add(item->batch.tokens);
  }
  before.parts.routing.end_evaluation();
  after.parts.routing.end_evaluation();
  if (parity.tokens == 0) return std::nullopt;
  parity.probe = probe.hex();
  const auto tokens = static_cast<double>(parity.tokens);
  parity.mean_divergence /= tokens;
  parity.loss_before /= tokens;
  parity.loss_after /= tokens;
  return parity;
}

nlohmann::ordered_json json_of(const Parity& parity) {
  return {{"tokens", parity.tokens},
          {"probe", parity.probe},
          {"largest_difference", parity.largest_difference},
          {"largest_logit", parity.largest_logit},
          {"relative_difference", parity.relative_difference()},
          {"mean_divergence", parity.mean_divergence},
          {"loss_before", parity.loss_before},
          {"loss_after", parity.loss_after}};
}

std::string UpcyclingReceipt::to_json() const {
  nlohmann::ordered_json json = {{"from", from}, {"scheme", scheme}, {"notes", notes}};
  if (parity) json["parity"] = json_of(*parity);
  return json.dump(2) + "\n";
}

}  // namespace sluice
