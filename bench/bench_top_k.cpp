// The choice of experts from a router's scores, and the scores of the chosen, forward and backward.

#include <memory>

#include "autograd/kernels/reference/top_k.h"
#include "autograd/kernels/top_k.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

struct Problem {
  Problem(const RowsShape& shape, int64_t chosen)
      : rows(shape.rows),
        E(shape.cols),
        k(chosen),
        scores(random_floats(rows * E, 1)),
        grad_scores(scores.size()),
        values(static_cast<size_t>(k * rows)),
        indices(values.size()) {}
  [[nodiscard]] kernels::TopK<float> choice() {
    return {E, k, scores.data(), values.data(), indices.data()};
  }
  [[nodiscard]] kernels::GatherColumnsBackward<float> backward() {
    return {E, k, indices.data(), values.data(), {grad_scores.data(), false}};
  }
  int64_t rows, E, k;
  std::vector<float> scores, grad_scores, values;
  std::vector<int32_t> indices;
};

void add(const RowsShape& shape, int64_t k) {
  const auto p = std::make_shared<Problem>(shape, k);
  const double pass = 4.0 * static_cast<double>(p->rows * p->E);
  const double chosen = 4.0 * static_cast<double>(p->rows * k);  // values, and as many for indices
  const std::string choice = fmt::format("top_k/{}/{}", k, shape.name);
  add_bytes_benchmark(choice, pass + 2 * chosen, [p] { kernels::top_k(p->rows, p->choice()); });
  add_reference_benchmark(choice, pass + 2 * chosen,
                          [p] { kernels::reference::top_k(p->rows, p->choice()); });
  kernels::top_k(p->rows, p->choice());
  add_bytes_benchmark(fmt::format("gather_columns/{}/{}", k, shape.name), 3 * chosen, [p] {
    kernels::gather_columns(p->rows, p->E, p->k, p->indices.data(), p->scores.data(),
                            p->values.data());
  });
  add_bytes_benchmark(fmt::format("gather_columns_backward/{}/{}", k, shape.name),
                      pass + 2 * chosen,
                      [p] { kernels::gather_columns_backward(p->rows, p->backward()); });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const auto& shape : sluice::bench::kRouter) {
    for (const int64_t k : {2, 8}) sluice::bench::add(shape, k);
  }
  return sluice::bench::run_benchmarks(argc, argv);
}
