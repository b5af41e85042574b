#include "train/evaluate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "autograd/support/parallel.h"
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

/// What expert layers did, each metric for the model and, where layers differ, for every layer.
void add_routing(const Evaluation& evaluation, Record& record) {
  MetricAccumulator model;
  MetricAccumulator layers;
  const auto add = [&](const Metric& metric, double value, size_t layer) {
    model.add(metric, value);
    layers.add(metric, value, 1.0, std::to_string(layer));
  };
  const std::vector<int64_t> tokens = evaluation.domain_tokens();
  for (size_t layer = 0; layer < evaluation.loads.size(); ++layer) {
    const LoadStatistics load = load_statistics(evaluation.loads[layer]);
    if (load.effective_experts == 0.0) continue;  // nothing was routed
    const LayerProbe& probe = evaluation.probes[layer];
    add(metrics::eval_max_violation, load.max_vio, layer);
    add(metrics::eval_experts_per_token, load.experts_per_token, layer);
    if (evaluation.loads[layer].top_k > 1 && probe.together.experts() > 0) {
      add(metrics::eval_coactivation, probe.strongest_pair(), layer);
    }
    if (const auto gamma = probe.congestion(evaluation.loss.tokens)) {
      add(metrics::eval_congestion, *gamma, layer);
    }
    if (!evaluation.overlaps.empty() && evaluation.overlaps[layer].tokens > 0) {
      add(metrics::eval_flipped_tokens, evaluation.overlaps[layer].changed_share(), layer);
      add(metrics::eval_fluctuation, evaluation.overlaps[layer].fluctuation(), layer);
    }
    if (tokens.size() < 2) continue;  // one domain cannot be told from another
    const SpecialisationSummary domains = summarise_specialisation(probe.chosen, tokens);
    model.add(metrics::eval_specialisation, domains.mean_peak);
    for (size_t i = 0; i < tokens.size(); ++i) {
      layers.add(metrics::eval_specialisation, domains.peak[i], 1.0, evaluation.domains[i].domain);
    }
    add(metrics::eval_specialised_experts, static_cast<double>(domains.specialised_experts), layer);
    add(metrics::eval_domain_information, domains.information, layer);
  }
  model.reduce_into(record);
  layers.reduce_into(record);
}

/// Of how many held-out tokens one is remembered.
int64_t stride_of(const Dataset& data, const EvaluationOptions& options) {
  int64_t tokens = 0;
  for (const DomainSize& size : data.held_out_sizes()) {
    tokens += std::min(size.tokens, options.max_tokens.value_or(size.tokens));
  }
  return std::max<int64_t>(1, ceil_div(tokens, kRememberedTokens));
}

/// The probe's layers without the domains that had no token.
std::vector<LayerProbe> without_empty_domains(const std::vector<LayerProbe>& layers,
                                              const std::vector<TextLoss>& domains) {
  std::vector<LayerProbe> result = layers;
  for (LayerProbe& layer : result) {
    for (size_t i = domains.size(); i-- > 0;) {
      if (domains[i].tokens == 0) layer.chosen.erase(layer.chosen.begin() + std::ptrdiff_t(i));
    }
  }
  return result;
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
  if (!loads.empty()) add_routing(*this, record);
}

std::vector<int64_t> Evaluation::domain_tokens() const {
  std::vector<int64_t> tokens;
  for (const DomainLoss& domain : domains) tokens.push_back(domain.loss.tokens);
  return tokens;
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
  RoutingProbe probe(parts.model.experts_per_layer(), std::ssize(domains),
                     stride_of(data, options));
  const RoutingWatch watch(parts.routing, probe);
  parts.routing.begin_evaluation();
  for (int64_t done = 0; !max_batches || done < *max_batches; ++done) {
    const auto item = pass.next();
    if (!item) break;
    probe.begin_batch(item->domain);
    domains[static_cast<size_t>(item->domain)].add(loss_of(parts, *item, progress));
  }
  sum_over_ranks(domains, parts.communicator);
  parts.routing.reduce_eval_loads(parts.communicator);
  parts.routing.end_evaluation();
  probe.reduce(parts.communicator);

  Evaluation result{.loads = parts.routing.eval_loads(),
                    .probes = without_empty_domains(probe.layers(), domains),
                    .choices = probe.remembered(progress.step)};
  for (size_t i = 0; i < domains.size(); ++i) {
    if (domains[i].tokens == 0) continue;
    result.loss.add(domains[i]);
    result.domains.push_back({data.domains[i], domains[i]});
  }
  if (result.domains.empty()) return std::nullopt;
  return result;
}

}  // namespace sluice
