#include "autograd/ops/embedding.h"

#include "autograd/kernels/embedding.h"
#include "autograd/ops/common.h"

namespace sluice {
namespace {

OpSample sample(std::string label, const Tensor& weight, const Tensor& ids) {
  return {.label = std::move(label),
          .inputs = {weight, ids},
          .differentiable = {true, false},
          .apply = [](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {embedding(tape, in[0], in[1])};
          }};
}

void check_ids(const Tensor& ids, int64_t V) {
  if (!ids.has_memory()) return;
  const auto all = ids.span<int32_t>();
  for (size_t n = 0; n < all.size(); ++n) {
    SLUICE_CHECK(ShapeError, all[n] >= 0 && all[n] < V,
                 "embedding: token {} has id {}, allowed 0 to {} (rows of weight)", n, all[n],
                 V - 1);
  }
}

}  // namespace

const OpInfo& embedding_info() {
  static constexpr OpInfo kInfo{
      "embedding", "y[n, d] = weight[ids[n], d]",
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {
            sample("repeated ids", make.uniform({6, 5}), make.integers({7}, {3, 0, 3, 5, 0, 3, 1})),
            sample("[100, 3]", make.uniform({100, 3}), make.random_integers({50}, 100)),
            sample("no tokens", make.uniform({6, 5}), make.integers({0}, {}))};
      },
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {sample("id too large", make.uniform({6, 5}), make.integers({2}, {0, 6})),
                sample("negative id", make.uniform({6, 5}), make.integers({2}, {0, -1})),
                sample("ids in a matrix", make.uniform({6, 5}), make.integers({1, 2}, {0, 1})),
                sample("weight a vector", make.uniform({6}), make.integers({1}, {0}))};
      }};
  return kInfo;
}

Tensor embedding(Tape& tape, const Tensor& weight, const Tensor& ids) {
  const bool narrow = weight.dtype() == DType::bf16;
  if (!narrow) check_floating("embedding", "weight", weight);
  SLUICE_CHECK(
      DTypeError, !narrow || !tape.requires_grad(weight),
      "embedding: weight is bf16, which is for inference only; a gradient needs it in f32");
  check_dtype("embedding", "ids", ids, DType::i32);
  check_rank("embedding", "weight", weight, 2, "[V, D]");
  check_rank("embedding", "ids", ids, 1, "[N]");
  check_ids(ids, weight.dim(0));
  const int64_t D = weight.dim(1);
  const DType dtype = narrow ? DType::f32 : weight.dtype();
  Tensor y = tape.empty({ids.numel(), D}, dtype);
  tape.run(embedding_info(), moving({ids, y, y}), [&] {
    dispatch_float(dtype, [&]<class T>() {
      kernels::embedding<T>(ids.numel(), D, ids.data<int32_t>(), stored<T>(weight), y.data<T>());
    });
  });
  tape.record(embedding_info(), {weight}, {&y}, {ids}, [](Backward& b) {
    const Tensor grad_y = b.grad(0);
    GradTarget grad_weight = b.target(0);
    const Shape& table = grad_weight.tensor.shape();
    b.run(moving({b.saved(0), grad_y, grad_weight.fresh ? grad_weight.tensor : grad_y}), [&] {
      dispatch_float(grad_y.dtype(), [&]<class T>() {
        kernels::embedding_backward<T>(grad_y.dim(0), table[1],
                                       {.V = table[0],
                                        .id = b.saved(0).data<int32_t>(),
                                        .grad_y = grad_y.data<T>(),
                                        .grad_weight = gradient<T>(grad_weight)});
      });
    });
  });
  return y;
}

}  // namespace sluice
