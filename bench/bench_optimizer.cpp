// The optimizer step of the recipes that steps are timed by: gradient norm, clipping, AdamW and the
// gradients back to zero, over all parameters of the model.
//
// Beside it, in turns with it: the triad (a = b + s c, 12 bytes per element counted) and the update
// in place (a = a + s b, 12 bytes) over as much memory as weights, gradients and moments take. A
// step must read or write 28 bytes per parameter; `over_triad` is its time over that of as many bytes
// at the triad's rate, `over_in_place` the same for the update in place, which is what AdamW does to
// memory and has no line to read that it only writes.

#include <chrono>
#include <memory>
#include <numeric>

#include "autograd/kernels/rows.h"
#include "bench/run_benchmarks.h"
#include "optim/clip.h"
#include "train/build.h"
#include "train/recipe.h"

namespace sluice::bench {
namespace {

using Clock = std::chrono::steady_clock;

template <class Body>
double seconds_of(Body&& body) {
  const auto start = Clock::now();
  body();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void fill(Tensor& tensor, float size) {
  float* values = tensor.data<float>();
  parallel_for_ranges(tensor.numel(), kernels::kElementBlock, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      values[i] = size * static_cast<float>(static_cast<int32_t>(i % 97) - 48);
    }
  });
}

/// The parameters of a recipe's model with gradients, and its optimizer; the values mean nothing.
class OptimizerBench {
 public:
  explicit OptimizerBench(const std::string& name) {
    const Recipe recipe =
        load_recipe({{fmt::format("{}/recipes/sizes/{}.yaml", SLUICE_SOURCE_DIR, name)}, {}});
    Pool shapes(Pool::Mode::shapes_only);
    const auto model = build_model(recipe, shapes, load_tokenizer(recipe.data)->vocab_size());
    for (const Parameter* of_model : model->parameters()) {
      parameters_.push_back(std::make_unique<Parameter>());
      Parameter& parameter = *parameters_.back();
      parameter.name = of_model->name;
      parameter.kind = of_model->kind;
      parameter.value =
          Tensor::zeros(pool_, of_model->value.shape(), DType::f32, MemoryKind::parameters);
      parameter.zero_grad(pool_);
      fill(parameter.grad, 1e-4f);
      pointers_.push_back(&parameter);
    }
    optimizer_ = make_optimizer(recipe.optim, pointers_, pool_);
    const auto bytes = static_cast<int64_t>(optimizer_->step_bytes());
    const int64_t in_memory = bytes / 7 * 4;  // value, gradient and two moments, each once
    for (Tensor& array : arrays_) {
      array = Tensor::empty(pool_, {in_memory / 12}, DType::f32);
      fill(array, 1e-4f);
    }
  }

  void measure(benchmark::State& state) {
    double norm = 0.0;
    double step = 0.0;
    double triad_rate = 0.0;
    double in_place_rate = 0.0;
    const double stream_bytes = 12.0 * static_cast<double>(arrays_[0].numel());
    for (auto _ : state) {
      for (Parameter* parameter : pointers_) parameter->grad_is_zero = false;
      triad_rate += stream_bytes / seconds_of([&] { stream(arrays_[1]); });
      const auto start = Clock::now();
      GradientNorm gradient;
      norm += seconds_of([&] { gradient = gradient_norm(pointers_, communicator_); });
      optimizer_->step({.step = 100, .total_steps = 200}, clip_scale(gradient.value, 1.0));
      for (Parameter* parameter : pointers_) parameter->zero_grad(pool_);
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      step += seconds;
      state.SetIterationTime(seconds);
      in_place_rate += stream_bytes / seconds_of([&] { stream(arrays_[0]); });
    }
    const auto count = static_cast<double>(state.iterations());
    const double seconds = step / count;
    const double bytes = optimizer_->step_bytes();
    state.counters["bytes/s"] = bytes / seconds;
    state.counters["triad"] = triad_rate / count;
    state.counters["in_place"] = in_place_rate / count;
    state.counters["over_triad"] = seconds * triad_rate / count / bytes;
    state.counters["over_in_place"] = seconds * in_place_rate / count / bytes;
    state.counters["norm_share"] = norm / step;
  }

 private:
  /// The first array = `source` + s times the third.
  void stream(const Tensor& source) {
    constexpr float kScale = 0.5f;
    float* a = arrays_[0].data<float>();
    const float* b = source.data<float>();
    const float* c = arrays_[2].data<float>();
    parallel_for_ranges(source.numel(), kernels::kElementBlock, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) a[i] = b[i] + kScale * c[i];
    });
  }

  SingleRank communicator_;
  Pool pool_;
  std::vector<std::unique_ptr<Parameter>> parameters_;
  std::vector<Parameter*> pointers_;
  std::unique_ptr<Optimizer> optimizer_;
  std::array<Tensor, 3> arrays_;
};

void add(const std::string& recipe, int64_t steps) {
  const auto made = std::make_shared<std::unique_ptr<OptimizerBench>>();
  for (const int threads : {1, num_processors()}) {
    add_rounds(fmt::format("optimizer_step/{}/threads:{}", recipe, threads), steps,
               [=](benchmark::State& state) {
                 set_num_threads(threads);
                 if (!*made) *made = std::make_unique<OptimizerBench>(recipe);
                 (*made)->measure(state);
               });
    if (num_processors() == 1) break;
  }
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  sluice::bench::add("s_moe", 50);
  sluice::bench::add("m_moe", 10);
  sluice::bench::add("l_moe", 3);
  return sluice::bench::run_benchmarks(argc, argv);
}
