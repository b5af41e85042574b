#include "train/verify_isolation.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <iterator>
#include <limits>

#include "balance/make.h"
#include "layers/adapters.h"
#include "layers/depth.h"
#include "layers/routed_layer.h"
#include "train/domains.h"
#include "train/model_input.h"

namespace sluice {
namespace {

/// Long enough to cross the blocks of the attention kernel, short enough for a large vocabulary.
constexpr int64_t kProbeLength = 160;
/// Lengths of documents, over and over: single tokens, and neighbours of the kernels' block sizes.
constexpr std::array<int64_t, 7> kLengths = {1, 7, 33, 2, 65, 16, 5};

/// Puts the balancers back as they were.
class StateGuard {
 public:
  explicit StateGuard(RoutingSession& routing) : routing_(routing) {
    SaveVisitor save;
    routing_.visit_state(save);
    state_ = save.take();
  }
  void restore() {
    LoadVisitor load(state_, "verify isolation");
    routing_.visit_state(load);
    load.finish();
  }

 private:
  RoutingSession& routing_;
  StateDict state_;
};

std::vector<double> run(const IsolationSubject& subject, const Batch& batch, bool training) {
  Tape tape(subject.pool);
  const NoGrad no_grad(tape);
  const ModelInput input = make_model_input(subject.pool, batch);
  const ForwardContext context{.tape = tape,
                               .layout = input.layout,
                               .routing = &subject.routing,
                               .training = training,
                               .seed = static_cast<uint64_t>(subject.recipe.seed),
                               .progress = subject.progress,
                               .valid_tokens = batch.valid_targets(),
                               .global_sequences = batch.num_sequences()};
  const Tensor hidden = subject.model.forward(context, input.tokens).hidden;
  const Tensor logits = subject.model.logits(context, hidden);
  return dispatch_float(logits.dtype(), [&]<class T>() {
    const auto values = logits.span<T>();
    return std::vector<double>(values.begin(), values.end());
  });
}

std::vector<double> evaluation_logits(const IsolationSubject& subject, const Batch& batch) {
  subject.routing.begin_evaluation();
  std::vector<double> logits = run(subject, batch, /*training=*/false);
  subject.routing.end_evaluation();
  return logits;
}

/// As one micro-batch that is a whole step. Some methods learn while they route.
std::vector<double> training_logits(const IsolationSubject& subject, const Batch& batch) {
  StateGuard guard(subject.routing);
  subject.routing.begin_step(1);
  subject.routing.begin_micro_batch(0);
  std::vector<double> logits = run(subject, batch, /*training=*/true);
  guard.restore();
  return logits;
}

/// Largest difference between two rows; 0 only for equal bits.
double difference(std::span<const double> a, std::span<const double> b) {
  double largest = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::bit_cast<uint64_t>(a[i]) == std::bit_cast<uint64_t>(b[i])) continue;
    // Zeros of two signs, and NaN, differ as well.
    const double distance = std::abs(a[i] - b[i]);
    largest = std::max({largest, std::isnan(distance) ? INFINITY : distance,
                        std::numeric_limits<double>::denorm_min()});
  }
  return largest;
}

/// Compares the rows of every token before and after one change.
class Comparison {
 public:
  Comparison(const Batch& batch, const TokenChange& change, IsolationReport& report)
      : batch_(batch), change_(change), report_(report) {}

  void compare(std::span<const double> before, std::span<const double> after) {
    SLUICE_INTERNAL_CHECK(before.size() == after.size(), "{} logits became {}", before.size(),
                          after.size());
    const size_t width = before.size() / static_cast<size_t>(batch_.num_tokens());
    for (int64_t document = 0; document < batch_.num_documents(); ++document) {
      const int64_t begin = batch_.document_offsets[static_cast<size_t>(document)];
      const int64_t end = batch_.document_offsets[static_cast<size_t>(document) + 1];
      for (int64_t token = begin; token < end; ++token) {
        const size_t at = static_cast<size_t>(token) * width;
        note(document, token - begin,
             difference(before.subspan(at, width), after.subspan(at, width)));
      }
    }
  }

 private:
  void note(int64_t document, int64_t position, double difference) {
    if (document == change_.document && position >= change_.position) {
      if (position == change_.position && difference == 0.0) report_.mute.push_back(change_);
      return;
    }
    if (difference == 0.0) return;
    (document == change_.document ? report_.acausal_tokens : report_.leaked_tokens) += 1;
    if (!report_.worst || difference > report_.worst->difference) {
      report_.worst = Leak{change_, document, position, difference};
    }
  }

  const Batch& batch_;
  const TokenChange& change_;
  IsolationReport& report_;
};

std::vector<std::string> declared_dependences(const Recipe& recipe) {
  std::vector<std::string> declared;
  const auto declare = [&](std::string sentence) {
    if (std::ranges::find(declared, sentence) == declared.end()) {
      declared.push_back(std::move(sentence));
    }
  };
  const std::string& depth = recipe.model.depth.type;
  if (!depth.empty() && depth_registry().at(depth).looks_ahead) {
    declare(fmt::format("model.depth: {} chooses tokens of a whole document together, in training",
                        depth));
  }
  std::vector<SublayerSpec> sublayers = recipe.model.sublayers();
  std::ranges::move(adapter_sections(recipe.model.adapters), std::back_inserter(sublayers));
  for (const SublayerSpec& sublayer : sublayers) {
    if (sublayer.feed_forward != nullptr && !sublayer.feed_forward->batch_dependence.empty()) {
      declare(fmt::format("model.{}: {} {}, in training", sublayer.key, sublayer.feed_forward->name,
                          sublayer.feed_forward->batch_dependence));
    }
    const RoutingConfig* routing = sublayer.routing();
    if (routing == nullptr) continue;
    const auto* router = dynamic_cast<const RouterConfig*>(routing->router.config.get());
    if (router != nullptr && router->looks_ahead()) {
      declare(fmt::format(
          "model.{}.router: {} chooses experts for a whole document together, in training",
          sublayer.key, routing->router.type));
    }
    const BalancerSetup setup{
        .layer = 0, .experts = routing->num_experts, .top_k = routing->largest_top_k()};
    for (const Tagged& method : recipe.balance) {
      if (!make_balancer(std::span(&method, 1), setup)->traits().batch_dependent) continue;
      declare(
          fmt::format("balance: {} chooses experts for a whole micro-batch together, in training",
                      method.type));
    }
    if (const auto& factor = routing->capacity_factor) {
      const std::string value = factor->is_constant()
                                    ? fmt::format("{}", factor->constant())
                                    : fmt::format("a {} schedule", factor->type());
      declare(
          fmt::format("model.{}.capacity_factor: {} drops what exceeds an expert's share of "
                      "the micro-batch, in training",
                      sublayer.key, value));
    }
  }
  return declared;
}

}  // namespace

Batch make_isolation_batch(int64_t vocab_size, int64_t sequence_length, int64_t domains) {
  const RandomKey key{.purpose = RandomPurpose::test};
  Batch batch;
  size_t next = 0;
  for (uint64_t sequence = 0; sequence < 2; ++sequence) {
    int64_t room = sequence_length;
    while (room > 0) {
      const int64_t length = std::min(room, kLengths[next++ % kLengths.size()]);
      for (int64_t i = 0; i < length; ++i) {
        const auto index = static_cast<uint64_t>(batch.num_tokens());
        batch.tokens.push_back(
            static_cast<int32_t>(uniform_below(key, 0, index, static_cast<uint64_t>(vocab_size))));
        batch.targets.push_back(batch.tokens.back());  // only counts; nothing learns from it
        batch.positions.push_back(static_cast<int32_t>(i));
      }
      batch.document_offsets.push_back(batch.num_tokens());
      batch.document_domain.push_back(static_cast<int32_t>(batch.num_documents() % domains));
      room -= length;
    }
    batch.end_sequence(sequence);
  }
  return batch;
}

std::vector<TokenChange> make_token_changes(const Batch& batch, int64_t vocab_size) {
  std::vector<TokenChange> changes;
  for (int64_t document = 0; document < batch.num_documents(); ++document) {
    const int64_t begin = batch.document_offsets[static_cast<size_t>(document)];
    const int64_t end = batch.document_offsets[static_cast<size_t>(document) + 1];
    const int64_t position = (end - begin) / 2;
    const int64_t old = batch.tokens[static_cast<size_t>(begin + position)];
    changes.push_back({document, position, static_cast<int32_t>((old + 1) % vocab_size)});
  }
  return changes;
}

IsolationReport check_isolation(const Batch& batch, std::span<const TokenChange> changes,
                                FunctionRef<std::vector<double>(const Batch&)> logits_of) {
  IsolationReport report{.documents = batch.num_documents(), .changes = std::ssize(changes)};
  const std::vector<double> before = logits_of(batch);
  for (const TokenChange& change : changes) {
    Batch changed = batch;
    const int64_t begin = batch.document_offsets[static_cast<size_t>(change.document)];
    changed.tokens[static_cast<size_t>(begin + change.position)] = change.token;
    Comparison(batch, change, report).compare(before, logits_of(changed));
  }
  return report;
}

IsolationVerdict verify_isolation(const IsolationSubject& subject) {
  const int64_t vocabulary = subject.model.vocab_size();
  const int64_t domains = std::ssize(training_domains(subject.recipe.data));
  const Batch batch = make_isolation_batch(
      vocabulary, std::min(kProbeLength, subject.recipe.data.sequence_length), domains);
  const std::vector<TokenChange> changes = make_token_changes(batch, vocabulary);
  return {
      .evaluation = check_isolation(
          batch, changes, [&](const Batch& probe) { return evaluation_logits(subject, probe); }),
      .training = check_isolation(
          batch, changes, [&](const Batch& probe) { return training_logits(subject, probe); }),
      .declared = declared_dependences(subject.recipe)};
}

}  // namespace sluice
