// What a token costs in training as documents grow: Mamba-2 against attention, forward, loss and
// backward of 8192 tokens a step, in documents of 512 to 8192 tokens. Every round takes the three
// steps of a row in turns.
//
// sequence_length/layer:T, sequence_length/model:T   (models: sequence_models.h)
//   mamba2_us, attention_us    microseconds a token
//   mamba2_over_1024           Mamba-2 at T over Mamba-2 at 1024: 1 is linear in the length
//   attention_over_mamba2      above 1 Mamba-2 is the faster
//
//   build/release/bench/bench_sequence_length --benchmark_filter=layer

#include <fmt/format.h>

#include "bench/figures.h"
#include "bench/run_benchmarks.h"
#include "bench/sequence_models.h"

namespace sluice::bench {
namespace {

constexpr int64_t kTokens = 8192;
constexpr int64_t kBase = 1024;
constexpr int64_t kRounds = 1;

/// Mamba-2, once more for the base length, and attention.
struct Compared {
  Compared(const std::string& mamba, const std::string& attention_, int64_t vocab_size)
      : base(mamba, vocab_size), mamba2(mamba, vocab_size), attention(attention_, vocab_size) {}
  SequenceModel base;
  SequenceModel mamba2;
  SequenceModel attention;
};

Compared& compared(bool whole_model) {
  static std::unique_ptr<Compared> layer;
  static std::unique_ptr<Compared> model;
  auto& made = whole_model ? model : layer;
  if (made == nullptr) {
    made = whole_model ? std::make_unique<Compared>("Mx8", "(AF)x6", 4096)
                       : std::make_unique<Compared>("M", "A", 256);
  }
  return *made;
}

void measure(benchmark::State& state, bool whole_model, int64_t length) {
  Compared& models = compared(whole_model);
  Figures figures;
  const auto step = [&](SequenceModel& model, int64_t tokens) {
    return 1e6 * model.step(kTokens, tokens) / static_cast<double>(kTokens);
  };
  // Gradients and the pool's sizes are made by a first step.
  (void)step(models.base, kBase);
  (void)step(models.mamba2, length);
  (void)step(models.attention, length);
  for (auto _ : state) {
    const double base = step(models.base, kBase);
    const double mamba2 = step(models.mamba2, length);
    const double attention = step(models.attention, length);
    state.SetIterationTime(1e-6 * mamba2 * static_cast<double>(kTokens));
    figures.add("mamba2_us", mamba2);
    figures.add("attention_us", attention);
    figures.add("mamba2_over_1024", mamba2 / base);
    figures.add("attention_over_mamba2", attention / mamba2);
  }
  figures.report(state);
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const bool whole_model : {false, true}) {
    for (const int64_t length : {512, 1024, 2048, 4096, 8192}) {
      sluice::bench::add_rounds(
          fmt::format("sequence_length/{}:{}", whole_model ? "model" : "layer", length),
          sluice::bench::kRounds,
          [=](benchmark::State& state) { sluice::bench::measure(state, whole_model, length); });
    }
  }
  return sluice::bench::run_benchmarks(argc, argv);
}
