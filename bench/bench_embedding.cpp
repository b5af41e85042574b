// Embedding look-up and its sorted gradient, with ids as frequent as words are.

#include <cmath>
#include <memory>

#include "autograd/kernels/embedding.h"
#include "autograd/kernels/reference/embedding.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

struct Problem {
  Problem(const RowsShape& shape, int64_t vocabulary)
      : N(shape.rows),
        D(shape.cols),
        V(vocabulary),
        ids(static_cast<size_t>(N)),
        weight(random_floats(V * D, 1)),
        grad_y(random_floats(N * D, 2)),
        y(grad_y.size()),
        grad_weight(weight.size()) {
    // V^u with u uniform: the r-th id has a share of about 1 / (r ln V), as in Zipf's law.
    for (size_t n = 0; n < ids.size(); ++n) {
      ids[n] =
          static_cast<int32_t>(std::pow(static_cast<double>(V), uniform({.seed = 3}, 0, n))) - 1;
    }
  }
  [[nodiscard]] kernels::EmbeddingBackward<float> backward() {
    return {V, ids.data(), grad_y.data(), {grad_weight.data(), true}};
  }
  int64_t N, D, V;
  std::vector<int32_t> ids;
  std::vector<float> weight, grad_y, y, grad_weight;
};

void add(const RowsShape& shape, int64_t V) {
  const auto p = std::make_shared<Problem>(shape, V);
  const double pass = 4.0 * static_cast<double>(p->N * p->D);
  const std::string what = fmt::format("{}_vocabulary_{}", shape.name, V);
  add_bytes_benchmark("embedding/forward/" + what, 2 * pass, [p] {
    kernels::embedding(p->N, p->D, p->ids.data(), p->weight.data(), p->y.data());
  });
  add_bytes_benchmark("embedding/backward/" + what, 3 * pass,
                      [p] { kernels::embedding_backward(p->N, p->D, p->backward()); });
  add_reference_benchmark("embedding/backward/" + what, 3 * pass, [p] {
    kernels::reference::embedding_backward(p->N, p->D, p->backward());
  });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  sluice::bench::add(sluice::bench::kHidden[0], 4096);
  sluice::bench::add(sluice::bench::kHidden[1], 32000);
  return sluice::bench::run_benchmarks(argc, argv);
}
