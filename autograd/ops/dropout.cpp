#include "autograd/ops/dropout.h"

#include <array>

#include "autograd/kernels/dropout.h"
#include "autograd/ops/common.h"

namespace sluice {
namespace {

// Two sequences, three and two rows, for the samples.
constexpr std::array<int64_t, 3> kSampleOffsets{0, 3, 5};
constexpr std::array<uint64_t, 2> kSampleStreams{11, 4};
constexpr RowStreams kStreams{{5, RandomPurpose::test, 1, 2}, kSampleOffsets, kSampleStreams};

kernels::RowStreams raw(const RowStreams& streams) {
  return {.key = streams.key,
          .sequences = static_cast<int64_t>(streams.samples.size()),
          .sequence_offsets = streams.sequence_offsets.data(),
          .samples = streams.samples.data()};
}

void check_streams(std::string_view op, const Shape& x, const RowStreams& streams) {
  SLUICE_CHECK(ShapeError, x.rank() == 2, "{}: x is {}, expected [N, D]", op, x);
  SLUICE_CHECK(ShapeError, streams.sequence_offsets.size() == streams.samples.size() + 1,
               "{}: {} sequence offsets for {} sequences, expected {}", op,
               streams.sequence_offsets.size(), streams.samples.size(), streams.samples.size() + 1);
  SLUICE_CHECK(ShapeError, streams.sequence_offsets.back() == x[0],
               "{}: x is {} but the sequences hold {} tokens", op, x,
               streams.sequence_offsets.back());
}

OpSample sample(std::string label, const Tensor& x,
                std::function<Tensor(Tape&, const Tensor&)> op) {
  return {
      .label = std::move(label),
      .inputs = {x},
      .differentiable = {true},
      .apply = [op = std::move(op)](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
        return {op(tape, in[0])};
      }};
}

/// A random factor per element whose backward is the same map.
template <class Kernel>
Tensor multiply(Tape& tape, const OpInfo& op, const Tensor& x, Kernel kernel) {
  Tensor y = tape.empty(x.shape(), x.dtype());
  tape.run(op, moving({x, y}), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      kernel.template operator()<T>(x.dim(1), x.data<T>(),
                                    kernels::Gradient<T>{y.data<T>(), false});
    });
  });
  tape.record(op, {x}, {&y}, {}, [kernel](Backward& b) {
    const Tensor grad_y = b.grad(0);
    GradTarget grad_x = b.target(0);
    b.run(moving({grad_y, grad_x.tensor}), [&] {
      dispatch_float(grad_y.dtype(), [&]<class T>() {
        kernel.template operator()<T>(grad_y.dim(1), grad_y.data<T>(), gradient<T>(grad_x));
      });
    });
  });
  return y;
}

}  // namespace

const OpInfo& dropout_info() {
  static constexpr OpInfo kInfo{"dropout", "y[n, d] = x[n, d] keep[n, d] / (1 - probability)",
                                [](SampleFactory& make) -> std::vector<OpSample> {
                                  const auto half = [](Tape& tape, const Tensor& x) {
                                    return dropout(tape, x, 0.5, kStreams);
                                  };
                                  const auto none = [](Tape& tape, const Tensor& x) {
                                    return dropout(tape, x, 0.0, kStreams);
                                  };
                                  return {sample("[5, 7], half", make.uniform({5, 7}), half),
                                          sample("[5, 8], none", make.uniform({5, 8}), none)};
                                },
                                [](SampleFactory& make) -> std::vector<OpSample> {
                                  const auto op = [](Tape& tape, const Tensor& x) {
                                    return dropout(tape, x, 0.5, kStreams);
                                  };
                                  return {sample("other rows", make.uniform({6, 7}), op),
                                          sample("a vector", make.uniform({5}), op)};
                                }};
  return kInfo;
}

Tensor dropout(Tape& tape, const Tensor& x, double probability, const RowStreams& streams) {
  check_floating("dropout", "x", x);
  check_streams("dropout", x.shape(), streams);
  SLUICE_CHECK(ConfigError, probability >= 0.0 && probability < 1.0,
               "dropout: probability is {}, allowed 0 to below 1", probability);
  return multiply(
      tape, dropout_info(), x,
      [streams, probability]<class T>(int64_t cols, const T* from, const kernels::Gradient<T>& to) {
        kernels::dropout<T>(cols, raw(streams), probability, from, to);
      });
}

const OpInfo& jitter_info() {
  static constexpr OpInfo kInfo{
      "jitter", "y[n, d] = x[n, d] u[n, d], u uniform in [1 - epsilon, 1 + epsilon)",
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {sample("[5, 7]", make.uniform({5, 7}),
                       [](Tape& tape, const Tensor& x) { return jitter(tape, x, 0.1, kStreams); })};
      },
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {sample("other rows", make.uniform({6, 7}),
                       [](Tape& tape, const Tensor& x) { return jitter(tape, x, 0.1, kStreams); })};
      }};
  return kInfo;
}

Tensor jitter(Tape& tape, const Tensor& x, double epsilon, const RowStreams& streams) {
  check_floating("jitter", "x", x);
  check_streams("jitter", x.shape(), streams);
  return multiply(
      tape, jitter_info(), x,
      [streams, epsilon]<class T>(int64_t cols, const T* from, const kernels::Gradient<T>& to) {
        kernels::jitter<T>(cols, raw(streams), epsilon, from, to);
      });
}

const OpInfo& normal_noise_info() {
  static constexpr OpInfo kInfo{
      "normal_noise", "y[n, d] standard normal",
      [](SampleFactory& make) -> std::vector<OpSample> {
        // The noise is a constant; x only gives the shape.
        return {{.label = "[5, 3]",
                 .inputs = {make.uniform({5, 3})},
                 .differentiable = {false},
                 .apply = [](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
                   return {normal_noise(tape, in[0].shape(), in[0].dtype(), kStreams)};
                 }}};
      },
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {sample("other rows", make.uniform({6, 3}), [](Tape& tape, const Tensor& x) {
          return normal_noise(tape, x.shape(), x.dtype(), kStreams);
        })};
      }};
  return kInfo;
}

Tensor normal_noise(Tape& tape, const Shape& shape, DType dtype, const RowStreams& streams) {
  check_streams("normal_noise", shape, streams);
  Tensor y = tape.empty(shape, dtype);
  tape.run(normal_noise_info(), moving({y}), [&] {
    dispatch_float(
        dtype, [&]<class T>() { kernels::normal_noise<T>(shape[1], raw(streams), y.data<T>()); });
  });
  return y;
}

}  // namespace sluice
