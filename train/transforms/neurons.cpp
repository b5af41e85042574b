#include "train/transforms/neurons.h"

#include <algorithm>
#include <cmath>

#include "autograd/core/dtype.h"
#include "autograd/support/error.h"
#include "autograd/support/parallel.h"
#include "autograd/support/rng.h"

namespace sluice {
namespace {

// Initial values are drawn with layer 0 of the purpose; these never meet them.
constexpr uint32_t kRedrawnStream = 16;
constexpr uint32_t kNoiseStream = 17;
constexpr uint32_t kNoisePlaceStream = 18;
constexpr uint32_t kMaskStream = 20;

/// Element (neuron, d) of a matrix of `width` neurons lies here.
struct Places {
  Matrix matrix;
  int64_t width;
  int64_t hidden_size;
  [[nodiscard]] int64_t of(int64_t neuron, int64_t d) const {
    return matrix == Matrix::down ? d * width + neuron : neuron * hidden_size + d;
  }
};

/// body.operator()<T>() for the type of the array's elements; values<T>() refuses what is no float.
template <class Body>
void dispatch_element(ElementType type, Body&& body) {
  dispatch_float(type == ElementType::f64 ? DType::f64 : DType::f32, body);
}

template <class T>
std::span<T> mutable_values(StateArray& array) {
  const std::span<const T> values = array.values<T>();  // checks the type
  return {const_cast<T*>(values.data()), values.size()};
}

/// The same matrix of several models, by neuron.
template <class T>
class Dense {
 public:
  Dense(DenseMatrices matrices, Places places) : places_(places) {
    for (const StateArray* matrix : matrices) models_.push_back(matrix->values<T>());
  }
  [[nodiscard]] double at(int64_t neuron, int64_t d) const {
    const auto model = static_cast<size_t>(neuron / places_.width);
    const int64_t place = places_.of(neuron % places_.width, d);
    return static_cast<double>(models_[model][static_cast<size_t>(place)]);
  }
  [[nodiscard]] const Places& places() const { return places_; }

 private:
  Places places_;
  std::vector<std::span<const T>> models_;
};

/// Mean and (n - 1) standard deviation of the neurons that are drawn anew.
struct Spread {
  double mean = 0.0;
  double deviation = 0.0;
};
template <class T>
Spread spread_of(const NeuronChoice& choice, const Dense<T>& dense) {
  Spread spread;
  int64_t count = 0;
  const auto for_each = [&](auto&& body) {
    for (size_t j = 0; j < choice.source.size(); ++j) {
      if (choice.redrawn[j] == 0) continue;
      for (int64_t d = 0; d < dense.places().hidden_size; ++d) body(dense.at(choice.source[j], d));
    }
  };
  for_each([&](double value) {
    spread.mean += value;
    ++count;
  });
  if (count == 0) return {};
  spread.mean /= static_cast<double>(count);
  double squares = 0.0;
  for_each([&](double value) { squares += std::pow(value - spread.mean, 2); });
  spread.deviation = std::sqrt(squares / static_cast<double>(std::max<int64_t>(1, count - 1)));
  return spread;
}

/// value(neuron, d, dense element) for every element of one feed-forward at `to`.
template <class T, class Value>
void fill(const NeuronChoice& choice, const Dense<T>& dense, T* to, Value&& value) {
  const auto width = static_cast<int64_t>(choice.source.size());
  const Places places{dense.places().matrix, width, dense.places().hidden_size};
  for (int64_t j = 0; j < width; ++j) {
    const int64_t source = choice.source[static_cast<size_t>(j)];
    for (int64_t d = 0; d < places.hidden_size; ++d) {
      to[places.of(j, d)] = static_cast<T>(value(j, d, dense.at(source, d)));
    }
  }
}

void check_size(const StateArray& array, int64_t expected, const std::string& name) {
  SLUICE_INTERNAL_CHECK(array.numel() == expected, "{}: {} elements, expected {}", name,
                        array.numel(), expected);
}

bool is_redrawn(const NeuronChoice& choice, int64_t neuron) {
  return !choice.redrawn.empty() && choice.redrawn[static_cast<size_t>(neuron)] != 0;
}

/// body(expert, its part of `values`), in parallel.
template <class T, class Body>
void for_each_expert(const LayerNeurons& plan, const NeuronShape& shape, std::span<T> values,
                     Body&& body) {
  const auto width = static_cast<int64_t>(plan.experts.at(0).source.size());
  parallel_for(std::ssize(plan.experts),
               [&](int64_t e) { body(e, values.data() + e * width * shape.hidden_size); });
}

}  // namespace

double LayerNeurons::distinct() const {
  std::vector<int32_t> all;
  for (const NeuronChoice& expert : experts) {
    all.insert(all.end(), expert.source.begin(), expert.source.end());
  }
  std::ranges::sort(all);
  return static_cast<double>(std::unique(all.begin(), all.end()) - all.begin()) /
         static_cast<double>(routed_models);
}

void fill_experts(const LayerNeurons& plan, const NeuronShape& shape, const ExpertMatrix& matrix,
                  uint64_t seed, DenseMatrices dense, StateArray& experts) {
  const auto width = static_cast<int64_t>(plan.experts.at(0).source.size());
  const int64_t size = width * shape.hidden_size;
  for (const StateArray* model : dense) {
    check_size(*model, shape.dense_width * shape.hidden_size, matrix.name);
  }
  check_size(experts, std::ssize(plan.experts) * size, matrix.name);
  const Places from{matrix.matrix, shape.dense_width, shape.hidden_size};
  const uint64_t sample = hash_name(matrix.name.data(), matrix.name.size());
  const RandomKey redrawn{seed, RandomPurpose::init, kRedrawnStream};
  const RandomKey noise{seed, RandomPurpose::init, kNoiseStream};
  const RandomKey noise_place{seed, RandomPurpose::init, kNoisePlaceStream};
  const RandomKey mask{seed, RandomPurpose::init, kMaskStream};
  dispatch_element(experts.type, [&]<class T>() {
    const Dense<T> in(dense, from);
    for_each_expert(plan, shape, mutable_values<T>(experts), [&](int64_t e, T* to) {
      const NeuronChoice& choice = plan.experts[static_cast<size_t>(e)];
      const Spread spread = choice.redrawn.empty() ? Spread{} : spread_of<T>(choice, in);
      fill<T>(choice, in, to, [&](int64_t neuron, int64_t d, double value) {
        const auto index = static_cast<uint64_t>(e * size + neuron * shape.hidden_size + d);
        if (is_redrawn(choice, neuron)) {
          value = spread.mean + spread.deviation * normal(redrawn, sample, index);
        }
        if (plan.noise > 0.0 && uniform(noise_place, sample, index) < plan.noise_share) {
          value += plan.noise * normal(noise, sample, index);
        }
        if (plan.masked_share > 0.0 && uniform(mask, sample, index) < plan.masked_share) return 0.0;
        return matrix.scale * value;
      });
    });
  });
}

void fill_shared(const LayerNeurons& plan, const NeuronShape& shape, const ExpertMatrix& matrix,
                 DenseMatrices dense, StateArray& shared) {
  check_size(shared, std::ssize(plan.shared.source) * shape.hidden_size, matrix.name);
  const Places from{matrix.matrix, shape.dense_width, shape.hidden_size};
  dispatch_element(shared.type, [&]<class T>() {
    fill<T>(plan.shared, Dense<T>(dense, from), mutable_values<T>(shared).data(),
            [](int64_t, int64_t, double value) { return value; });
  });
}

void fill_expert_moments(const LayerNeurons& plan, const NeuronShape& shape,
                         const ExpertMatrix& matrix, const StateArray& dense, StateArray& experts) {
  const Places from{matrix.matrix, shape.dense_width, shape.hidden_size};
  dispatch_element(dense.type, [&]<class T>() {
    const StateArray* const only[] = {&dense};
    const Dense<T> in(only, from);
    for_each_expert(plan, shape, mutable_values<T>(experts), [&](int64_t e, T* to) {
      const NeuronChoice& choice = plan.experts[static_cast<size_t>(e)];
      fill<T>(choice, in, to, [&](int64_t neuron, int64_t, double value) {
        return is_redrawn(choice, neuron) ? 0.0 : value;
      });
    });
  });
}

}  // namespace sluice
