#include "train/transforms/averaging.h"

#include "autograd/core/dtype.h"
#include "autograd/support/error.h"

namespace sluice {

StateArray average(std::span<const StateArray* const> arrays) {
  StateArray result = *arrays[0];
  for (const StateArray* array : arrays) {
    SLUICE_INTERNAL_CHECK(array->type == result.type && array->dims == result.dims,
                          "averaging arrays of {} and {} elements", result.numel(),
                          array->numel());
  }
  dispatch_float(result.type == ElementType::f64 ? DType::f64 : DType::f32, [&]<class T>() {
    T* out = reinterpret_cast<T*>(result.bytes.data());
    const auto size = result.values<T>().size();
    for (size_t i = 0; i < size; ++i) {
      auto mean = static_cast<double>(out[i]);
      // As a running mean: equal numbers leave it as it is, where a sum would be rounded.
      for (size_t m = 1; m < arrays.size(); ++m) {
        const auto value = static_cast<double>(arrays[m]->values<T>()[i]);
        if (value != mean) mean += (value - mean) / static_cast<double>(m + 1);
      }
      out[i] = static_cast<T>(mean);
    }
  });
  return result;
}

}  // namespace sluice
