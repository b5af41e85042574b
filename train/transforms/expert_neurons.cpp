#include "train/transforms/expert_neurons.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "autograd/kernels/gemm.h"
#include "autograd/support/error.h"
#include "autograd/support/parallel.h"
#include "train/transforms/linear_assignment.h"

namespace sluice {
namespace {

constexpr std::array<const char*, 3> kParts = {"w_gate", "w_up", "w_down"};
constexpr size_t kDown = 2;

std::string path_of(const std::string& layer, size_t part) {
  return fmt::format("model/{}.experts.{}", layer, kParts[part]);
}

template <class F>
void with_element_type(ElementType type, F&& body) {
  SLUICE_CHECK(CheckpointError, type == ElementType::f32 || type == ElementType::f64,
               "experts of type {}, allowed f32 and f64", name_of(type));
  if (type == ElementType::f32) {
    body.template operator()<float>();
  } else {
    body.template operator()<double>();
  }
}

/// Calls body(place in the array, place in the neurons) for every element of one of the matrices.
template <class Body>
void for_each_element(const ExpertNeurons& shape, size_t part, Body&& body) {
  const int64_t d_size = shape.hidden;
  parallel_for(shape.experts, [&](int64_t e) {
    for (int64_t i = 0; i < shape.width; ++i) {
      const int64_t neuron =
          (e * shape.width + i) * shape.neuron_size() + static_cast<int64_t>(part) * d_size;
      for (int64_t d = 0; d < d_size; ++d) {
        const int64_t element =
            part == kDown ? (e * d_size + d) * shape.width + i : (e * shape.width + i) * d_size + d;
        body(static_cast<size_t>(element), static_cast<size_t>(neuron + d));
      }
    }
  });
}

std::vector<int64_t> dims_of(const ExpertNeurons& shape, size_t part) {
  if (part == kDown) return {shape.experts, shape.hidden, shape.width};
  return {shape.experts, shape.width, shape.hidden};
}

}  // namespace

ExpertNeurons read_neurons(const StateDict& state, const std::string& layer) {
  ExpertNeurons experts;
  for (size_t part = 0; part < kParts.size(); ++part) {
    const std::string path = path_of(layer, part);
    const auto found = state.find(path);
    SLUICE_CHECK(CheckpointError, found != state.end() && found->second.dims.size() == 3,
                 "/{} is no stack of matrices of SwiGLU experts", path);
    const StateArray& array = found->second;
    if (part == 0) {
      experts.experts = array.dims[0];
      experts.width = array.dims[1];
      experts.hidden = array.dims[2];
      experts = experts.like(experts.experts, experts.width);
    }
    SLUICE_CHECK(CheckpointError, array.dims == dims_of(experts, part),
                 "/{} is [{}], its layer expects [{}]", path, fmt::join(array.dims, ", "),
                 fmt::join(dims_of(experts, part), ", "));
    with_element_type(array.type, [&]<class T>() {
      const auto values = array.values<T>();
      for_each_element(experts, part, [&](size_t element, size_t place) {
        experts.values[place] = static_cast<double>(values[element]);
      });
    });
  }
  return experts;
}

void write_neurons(const ExpertNeurons& experts, const std::string& layer, StateDict& state) {
  for (size_t part = 0; part < kParts.size(); ++part) {
    StateArray& array = state.at(path_of(layer, part));
    SLUICE_INTERNAL_CHECK(array.dims == dims_of(experts, part), "{}: {} neurons of {} experts",
                          path_of(layer, part), experts.width, experts.experts);
    with_element_type(array.type, [&]<class T>() {
      T* values = reinterpret_cast<T*>(array.bytes.data());
      for_each_element(experts, part, [&](size_t element, size_t place) {
        values[element] = static_cast<T>(experts.values[place]);
      });
    });
  }
}

double dot(std::span<const double> a, std::span<const double> b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

double cosine(std::span<const double> a, std::span<const double> b) {
  const double lengths = std::sqrt(dot(a, a) * dot(b, b));
  return lengths > 0.0 ? dot(a, b) / lengths : 0.0;
}

std::vector<double> inner_products(std::span<const double> a, std::span<const double> b,
                                   int64_t size) {
  const int64_t n = std::ssize(a) / size;
  const int64_t m = std::ssize(b) / size;
  std::vector<double> products(static_cast<size_t>(n * m));
  kernels::gemm<double>({n, m, size}, {a.data(), size}, {b.data(), size, true},
                        {products.data(), m});
  return products;
}

std::vector<int32_t> align(std::span<const double> reference, std::span<const double> other,
                           int64_t neuron_size) {
  return assign_rows(inner_products(reference, other, neuron_size),
                     std::ssize(reference) / neuron_size);
}

void merge_experts(const ExpertNeurons& experts, std::span<const int32_t> members,
                   std::span<const double> shares, bool aligned, std::span<double> merged) {
  const std::span<const double> first = experts.expert(members[0]);
  if (members.size() == 1) {
    std::ranges::copy(first, merged.begin());
    return;
  }
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  const auto size = static_cast<size_t>(experts.neuron_size());
  std::ranges::fill(merged, 0.0);
  for (size_t m = 0; m < members.size(); ++m) {
    const double share = sum > 0.0 ? shares[m] / sum : 1.0 / static_cast<double>(members.size());
    const std::span<const double> member = experts.expert(members[m]);
    std::vector<int32_t> order(static_cast<size_t>(experts.width));
    std::iota(order.begin(), order.end(), 0);
    if (aligned && m > 0) order = align(first, member, experts.neuron_size());
    for (size_t i = 0; i < order.size(); ++i) {
      const size_t from = static_cast<size_t>(order[i]) * size;
      for (size_t d = 0; d < size; ++d) merged[i * size + d] += share * member[from + d];
    }
  }
}

}  // namespace sluice
