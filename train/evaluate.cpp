#include "train/evaluate.h"

#include <cmath>
#include <limits>
#include <numbers>

#include "balance/load.h"
#include "train/model_input.h"

namespace sluice {
namespace {

double quotient(double numerator, int64_t denominator) {
  return denominator > 0 ? numerator / static_cast<double>(denominator)
                         : std::numeric_limits<double>::quiet_NaN();
}

TextLoss loss_of(const EvaluationParts& parts, const EvaluationBatch& item,
                 const Progress& progress) {
  TextLoss loss{.tokens = item.batch.valid_targets(), .bytes = item.target_bytes};
  for (const double nats : token_losses(parts, item.batch, progress)) loss.nats += nats;
  return loss;
}

void sum_over_ranks(std::vector<TextLoss>& domains, Communicator& communicator) {
  std::vector<double> nats;
  std::vector<int64_t> counts;
  for (const TextLoss& domain : domains) {
    nats.push_back(domain.nats);
    counts.insert(counts.end(), {domain.tokens, domain.bytes});
  }
  communicator.sum(std::span<double>(nats));
  communicator.sum(std::span<int64_t>(counts));
  for (size_t i = 0; i < domains.size(); ++i) {
    domains[i] = {nats[i], counts[2 * i], counts[2 * i + 1]};
  }
}

}  // namespace

void TextLoss::add(const TextLoss& other) {
  nats += other.nats;
  tokens += other.tokens;
  bytes += other.bytes;
}
double TextLoss::per_token() const { return quotient(nats, tokens); }
double TextLoss::perplexity() const { return std::exp(per_token()); }
double TextLoss::bits_per_byte() const { return quotient(nats / std::numbers::ln2, bytes); }

void Evaluation::add_to(Record& record) const {
  record.add(metrics::eval_loss, loss.per_token());
  record.add(metrics::eval_perplexity, loss.perplexity());
  record.add(metrics::eval_bits_per_byte, loss.bits_per_byte());
  for (const DomainLoss& domain : domains) {
    const auto name = [&](const Metric& metric) {
      return fmt::format("{}/{}", metric.name, domain.domain);
    };
    record.add(name(metrics::eval_loss), domain.loss.per_token());
    record.add(name(metrics::eval_bits_per_byte), domain.loss.bits_per_byte());
  }
  if (loads.empty()) return;
  std::vector<LoadStatistics> layers;
  for (const LayerLoad& load : loads) layers.push_back(load_statistics(load));
  record.add(metrics::eval_max_violation, mean_of(layers).max_vio);
}

std::vector<double> token_losses(const EvaluationParts& parts, const Batch& batch,
                                 const Progress& progress) {
  Tape tape(parts.pool);
  const NoGrad no_grad(tape);
  const ModelInput input = make_model_input(parts.pool, batch);
  const ForwardContext context{
      .tape = tape, .layout = input.layout, .routing = &parts.routing, .progress = progress};
  const Tensor losses = parts.model.token_losses(context, input.tokens, input.targets);
  return dispatch_float(losses.dtype(), [&]<class T>() {
    const auto values = losses.span<T>();
    return std::vector<double>(values.begin(), values.end());
  });
}

std::optional<Evaluation> evaluate(const EvaluationParts& parts, const Dataset& data,
                                   const EvaluationOptions& options, const Progress& progress,
                                   std::optional<int64_t> max_batches) {
  if (data.held_out.empty()) return std::nullopt;
  std::vector<TextLoss> domains(data.domains.size());
  EvaluationPass pass(data, options);
  parts.routing.begin_evaluation();
  for (int64_t done = 0; !max_batches || done < *max_batches; ++done) {
    const auto item = pass.next();
    if (!item) break;
    domains[static_cast<size_t>(item->domain)].add(loss_of(parts, *item, progress));
  }
  sum_over_ranks(domains, parts.communicator);
  parts.routing.reduce_eval_loads(parts.communicator);
  parts.routing.end_evaluation();

  Evaluation result{.loads = parts.routing.eval_loads()};
  for (size_t i = 0; i < domains.size(); ++i) {
    if (domains[i].tokens == 0) continue;
    result.loss.add(domains[i]);
    result.domains.push_back({data.domains[i], domains[i]});
  }
  if (result.domains.empty()) return std::nullopt;
  return result;
}

}  // namespace sluice
