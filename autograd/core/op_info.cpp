#include "autograd/core/op_info.h"

namespace sluice {

Tensor SampleFactory::uniform(const Shape& shape, double low, double high) {
  const uint64_t call = calls_++;
  const RandomKey key{seed_, RandomPurpose::test, 0, call};
  std::vector<double> numbers(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = low + (high - low) * sluice::uniform(key, 0, i);
  }
  return values(shape, numbers);
}

Tensor SampleFactory::values(const Shape& shape, const std::vector<double>& numbers) {
  return dispatch_float(dtype_, [&]<class T>() {
    return Tensor::of<T>(pool_, shape, std::vector<T>(numbers.begin(), numbers.end()));
  });
}

Tensor SampleFactory::integers(const Shape& shape, const std::vector<int32_t>& numbers) {
  return Tensor::of<int32_t>(pool_, shape, numbers);
}

Tensor SampleFactory::random_integers(const Shape& shape, int32_t bound) {
  const uint64_t call = calls_++;
  const RandomKey key{seed_, RandomPurpose::test, 1, call};
  std::vector<int32_t> numbers(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = static_cast<int32_t>(uniform_below(key, 0, i, static_cast<uint64_t>(bound)));
  }
  return integers(shape, numbers);
}

}  // namespace sluice
