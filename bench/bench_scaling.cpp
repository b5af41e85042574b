// How the step of a Mixture-of-Experts model grows, every point in turns with the point that it is
// compared with. The benchmark's time is that of the whole step.
//
// scaling/experts:E   size M with E experts of the same width, top-2, 4096 tokens a step, in turns with
//                     the same model of 8 (for E = 8 two runs of it: what chance makes of the ratio).
//                     forward_backward_over_8 is the ratio without the optimizer, step_over_8 with it.
//                     over_roofline is forward and backward over
//
//                       useful FLOP / (FLOP/s of the best library's 1024^3 product)
//                         + (bytes of all weights + bytes of their gradients) / (bytes/s of the triad)
//
//                     that is: every weight comes from memory once, every gradient goes there once, and
//                     nothing of it overlaps with arithmetic. over_roofline_two_reads counts the weights
//                     twice, since forward and backward each need them and caches do not hold them.
// scaling/tokens:N    size M with N tokens a step, in turns with 4096: tokens/s and their ratio.
// scaling/threads/SIZE:N   one model on one thread and on N in turns: speedup, and own_gemm_speedup, that
//                     of our 1024^3 product between the same steps: what the machine gives.

#include <memory>

#include "autograd/support/parallel.h"
#include "bench/step_bench.h"

namespace sluice::bench {
namespace {

constexpr const char* kModel = "sizes/m_moe";
constexpr int64_t kFewestExperts = 8;
constexpr int64_t kTokens = 4096;

/// A point of a curve and what it is compared with.
struct Compared {
  RecipeBench base;
  RecipeBench point;
};

/// Made when a benchmark first runs and gone when the next one does: 256 experts hold several GiB.
Compared& compared(const std::string& base, const std::string& point) {
  static std::string made;
  static std::unique_ptr<Compared> current;
  if (made != point) {
    current.reset();
    current.reset(new Compared{RecipeBench(kModel, {base}), RecipeBench(kModel, {point})});
    made = point;
  }
  return *current;
}

/// Seconds of the model in the header; the weights are read `reads` times.
double roofline(const StepSample& step, const Plan& plan, double reads) {
  const double bytes = 4.0 * static_cast<double>(plan.parameters.total) * (reads + 1.0);
  return step.flops / step.gemm.best() + bytes / step.triad;
}

std::string experts_of(int64_t count) { return fmt::format("model.experts.num_experts={}", count); }

std::string tokens_of(int64_t count) { return fmt::format("train.global_batch={} tokens", count); }

/// Steps of both in turns: add(base, point, figures) after each.
template <class Add>
void measure_compared(benchmark::State& state, Compared& models, Add&& add) {
  StepWithMachine step;
  Figures figures;
  for (auto _ : state) {
    const StepSample base = step(models.base);
    const StepSample point = step(models.point);
    state.SetIterationTime(point.seconds);
    add(base, point, figures);
  }
  figures.report(state);
}

void measure_experts(benchmark::State& state, int64_t experts) {
  Compared& models = compared(experts_of(kFewestExperts), experts_of(experts));
  measure_compared(
      state, models, [&](const StepSample& base, const StepSample& point, Figures& figures) {
        const double seconds = point.forward_backward();
        figures.add("forward_backward_ms", 1e3 * seconds);
        figures.add("forward_backward_over_8", seconds / base.forward_backward());
        figures.add("step_over_8", point.seconds / base.seconds);
        const double floor = roofline(point, models.point.plan(), 1.0);
        figures.add("roofline_ms", 1e3 * floor);
        figures.add("over_roofline", seconds / floor);
        figures.add("over_roofline_two_reads", seconds / roofline(point, models.point.plan(), 2.0));
        figures.add("optimizer_share", point.optimizer_seconds / point.seconds);
        figures.add("routing_share", point.routing_seconds / point.seconds);
      });
}

void measure_tokens(benchmark::State& state, int64_t tokens) {
  Compared& models = compared(tokens_of(kTokens), tokens_of(tokens));
  measure_compared(state, models,
                   [](const StepSample& base, const StepSample& point, Figures& figures) {
                     const double rate = point.tokens / point.seconds;
                     figures.add("tokens/s", rate);
                     figures.add("tokens/s_over_4096", rate / (base.tokens / base.seconds));
                     figures.add("of_peak", point.of_peak());
                     figures.add("optimizer_share", point.optimizer_seconds / point.seconds);
                   });
}

RecipeBench& model_of(const std::string& recipe) {
  static std::string made;
  static std::unique_ptr<RecipeBench> current;
  if (made != recipe) {
    current.reset();
    current = std::make_unique<RecipeBench>(recipe);
    made = recipe;
  }
  return *current;
}

void measure_threads(benchmark::State& state, const std::string& recipe, int threads) {
  RecipeBench& model = model_of(recipe);
  StepWithMachine step;
  Figures figures;
  const auto step_on = [&](int count) {
    set_num_threads(count);
    step.forget();
    return step(model);
  };
  for (auto _ : state) {
    const StepSample one = step_on(1);
    const StepSample many = step_on(threads);
    state.SetIterationTime(many.seconds);
    figures.add("one_thread_ms", 1e3 * one.seconds);
    figures.add("speedup", one.seconds / many.seconds);
    figures.add("own_gemm_speedup", many.gemm.of("own") / one.gemm.of("own"));
    figures.add("one_thread_of_peak", one.of_peak());
    figures.add("of_peak", many.of_peak());
  }
  set_num_threads(num_processors());
  figures.report(state);
}

/// 2, 4, 8, ... and all processors.
std::vector<int> thread_counts() {
  std::vector<int> counts;
  for (int threads = 2; threads < num_processors(); threads *= 2) counts.push_back(threads);
  if (num_processors() > 1) counts.push_back(num_processors());
  return counts;
}

void add_all() {
  for (const int64_t experts : {8, 16, 32, 64, 128, 256}) {
    add_rounds(fmt::format("scaling/experts:{}", experts), 1,
               [=](benchmark::State& state) { measure_experts(state, experts); });
  }
  for (const int64_t tokens : {512, 1024, 2048, 4096, 8192, 16384}) {
    add_rounds(fmt::format("scaling/tokens:{}", tokens), tokens < kTokens ? 2 : 1,
               [=](benchmark::State& state) { measure_tokens(state, tokens); });
  }
  for (const char* recipe : {"s_moe", "m_moe", "l_dense", "l_moe"}) {
    for (const int threads : thread_counts()) {
      add_rounds(fmt::format("scaling/threads/{}:{}", recipe, threads), 1,
                 [=](benchmark::State& state) {
                   measure_threads(state, fmt::format("sizes/{}", recipe), threads);
                 });
    }
  }
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  sluice::bench::add_all();
  return sluice::bench::run_benchmarks(argc, argv);
}
