// A dropless expert layer, forward and backward, under loads from balanced to absurd, with the same
// number of assignments: every expert the same, Zipf (expert e gets a share of 1 / (e + 1)), and all
// tokens to one expert. Done when none takes more than 1.3 times the balanced time.

#include <memory>
#include <string>
#include <vector>

#include "autograd/ops/dispatch_combine.h"
#include "autograd/ops/reduce.h"
#include "bench/random_floats.h"
#include "bench/training.h"
#include "layers/experts/swiglu.h"

namespace sluice::bench {
namespace {

/// N tokens with one expert each, of E experts D -> F -> D.
struct LayerShape {
  const char* name;
  int64_t N;
  int64_t E;
  int64_t D;
  int64_t F;
};

constexpr LayerShape kLayers[] = {{"quickstart", 8192, 8, 128, 128},
                                  {"moe_small", 8192, 16, 384, 256},
                                  {"fine", 8192, 64, 512, 128},
                                  {"one_wide", 4096, 8, 512, 1024}};

enum class Load : uint8_t { balanced, zipf, one_expert };
constexpr std::pair<Load, const char*> kLoads[] = {
    {Load::balanced, "balanced"}, {Load::zipf, "zipf"}, {Load::one_expert, "one_expert"}};

/// Expert of every token. Tokens of an expert lie scattered, as in a text.
std::vector<int32_t> experts_of_tokens(const LayerShape& shape, Load load) {
  std::vector<int32_t> expert(static_cast<size_t>(shape.N), 0);
  if (load == Load::one_expert) return expert;
  std::vector<double> until;
  double sum = 0.0;
  for (int64_t e = 0; e < shape.E; ++e) {
    until.push_back(sum += load == Load::balanced ? 1.0 : 1.0 / static_cast<double>(e + 1));
  }
  for (size_t t = 0; t < expert.size(); ++t) {
    // A stride prime to N deals the quantiles out evenly.
    const double u = static_cast<double>(t * 3571 % expert.size()) + 0.5;
    const double at = u / static_cast<double>(expert.size()) * sum;
    expert[t] =
        static_cast<int32_t>(std::upper_bound(until.begin(), until.end(), at) - until.begin());
  }
  return expert;
}

class Layer {
 public:
  explicit Layer(const LayerShape& shape)
      : experts_(Builder(pool_, DType::f32, 1, init_, 1), {shape.E, shape.D, shape.F}),
        x_(Tensor::of<float>(pool_, {shape.N, shape.D}, random_floats(shape.N * shape.D, 1))),
        weights_(Tensor::of<float>(pool_, {shape.N, 1}, std::vector<float>(shape.N, 0.5F))),
        grad_(Tensor::of<float>(pool_, {shape.N, shape.D}, random_floats(shape.N * shape.D, 2))) {}

  void step(const std::vector<int32_t>& expert, int64_t E) {
    for (Parameter* parameter : experts_.parameters()) parameter->zero_grad(pool_);
    const DispatchPlan plan = make_dispatch_plan(pool_, expert, x_.dim(0), 1, E);
    const SequenceLayout layout = SequenceLayout::single(pool_, 1, 0);
    const ForwardContext context{tape_, layout};
    const Tensor x = tape_.input(x_);
    const Tensor y = experts_.forward(context, x, tape_.input(weights_), plan);
    tape_.backward(std::span(&y, 1), std::span(&grad_, 1));
    tape_.reset();
  }

 private:
  Pool pool_;
  InitConfig init_;
  SwigluExperts experts_;
  Tensor x_;
  Tensor weights_;
  Tensor grad_;
  Tape tape_{pool_};
};

void add(const LayerShape& shape) {
  const auto layer = std::make_shared<std::unique_ptr<Layer>>();
  for (const auto& [load, name] : kLoads) {
    const auto expert = experts_of_tokens(shape, load);
    const auto run = [=](benchmark::State& state) {
      if (!*layer) {
        *layer = std::make_unique<Layer>(shape);
        (*layer)->step(expert, shape.E);
      }
      for (auto _ : state) (*layer)->step(expert, shape.E);
    };
    with_quartiles(benchmark::RegisterBenchmark(
                       fmt::format("uneven_load/{}/{}", shape.name, name).c_str(), run))
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  }
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const auto& shape : sluice::bench::kLayers) sluice::bench::add(shape);
  return sluice::bench::run_in_turns(argc, argv, 2 * sluice::bench::kRepetitions + 1);
}
