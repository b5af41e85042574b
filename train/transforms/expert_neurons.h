#pragma once
// The routed experts of a layer as neurons: neuron i of expert e is row i of w_gate, row i of w_up and
// column i of w_down, one behind the other. A sum over neurons does not know their order, so experts are
// compared, aligned and merged neuron by neuron.
//
//   ExpertNeurons experts = read_neurons(state, "layers.1");
//   const std::vector<int32_t> order = align(experts.expert(0), experts.expert(3), experts.neuron_size());

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "autograd/core/state.h"

namespace sluice {

/// Letters: E experts, F neurons each, D hidden size.
struct ExpertNeurons {
  int64_t experts = 0;
  int64_t width = 0;
  int64_t hidden = 0;
  std::vector<double> values;  // [E, F, 3 D]

  [[nodiscard]] int64_t neuron_size() const { return 3 * hidden; }
  /// [F, 3 D]
  [[nodiscard]] std::span<double> expert(int64_t e) {
    return std::span(values).subspan(static_cast<size_t>(e) * expert_size(), expert_size());
  }
  [[nodiscard]] std::span<const double> expert(int64_t e) const {
    return std::span(values).subspan(static_cast<size_t>(e) * expert_size(), expert_size());
  }
  [[nodiscard]] size_t expert_size() const { return static_cast<size_t>(width * neuron_size()); }
  /// As many experts as asked for, of as many neurons, all zero.
  [[nodiscard]] ExpertNeurons like(int64_t num_experts, int64_t num_neurons) const {
    return {num_experts, num_neurons, hidden,
            std::vector<double>(static_cast<size_t>(num_experts * num_neurons * neuron_size()))};
  }
};

/// Of "model/<layer>.experts.w_gate", "w_up" and "w_down"; writing an expert that was read gives its
/// bits back. Throws CheckpointError when they are missing or do not go together.
[[nodiscard]] ExpertNeurons read_neurons(const StateDict& state, const std::string& layer);
/// Overwrites the three arrays, which have the experts' sizes.
void write_neurons(const ExpertNeurons& experts, const std::string& layer, StateDict& state);

/// order[i]: the neuron of `other` that stands for neuron i of `reference`, [F, size] each, so that the
/// sum of their inner products is as large as it can be (M-SMoE's cost, solved exactly).
[[nodiscard]] std::vector<int32_t> align(std::span<const double> reference,
                                         std::span<const double> other, int64_t neuron_size);
/// sum over i of share[i] expert(members[i]) / sum of the shares, every member aligned to the first one
/// when `aligned`; into `merged`, [F, 3 D]. A single member is copied. Equal shares where all are 0.
void merge_experts(const ExpertNeurons& experts, std::span<const int32_t> members,
                   std::span<const double> shares, bool aligned, std::span<double> merged);

/// Inner products of the rows of a [n, size] and of b [m, size]: [n, m].
[[nodiscard]] std::vector<double> inner_products(std::span<const double> a,
                                                 std::span<const double> b, int64_t size);
[[nodiscard]] double dot(std::span<const double> a, std::span<const double> b);
/// Of two vectors; 0 where one has no length.
[[nodiscard]] double cosine(std::span<const double> a, std::span<const double> b);

}  // namespace sluice
