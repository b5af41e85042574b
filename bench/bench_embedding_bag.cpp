// Several rows of a large table per token: their sum, their products with the token, and the table's
// gradient, with ids spread evenly as product keys spread them.

#include <memory>

#include "autograd/kernels/embedding_bag.h"
#include "autograd/kernels/reference/embedding_bag.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

constexpr int64_t kEntries = 64;  // of a token: 4 heads of 16
constexpr int64_t kTable = 16384;

struct Problem {
  explicit Problem(const RowsShape& shape)
      : N(shape.rows / 8),
        D(shape.cols),
        ids(static_cast<size_t>(N * kEntries)),
        table(random_floats(kTable * D, 1)),
        weight(random_floats(N * kEntries, 2)),
        x(random_floats(N * D, 3)),
        y(x.size()),
        z(weight.size()),
        grad_table(table.size()) {
    for (size_t i = 0; i < ids.size(); ++i) {
      ids[i] = static_cast<int32_t>(uniform_below({.seed = 3}, 0, i, kTable));
    }
  }
  [[nodiscard]] kernels::BagTableGradient<float> gradient() {
    return {kTable, kEntries, ids.data(), weight.data(), x.data(), {grad_table.data(), true}};
  }
  int64_t N, D;
  std::vector<int32_t> ids;
  std::vector<float> table, weight, x, y, z, grad_table;
};

void add(const RowsShape& shape) {
  const auto p = std::make_shared<Problem>(shape);
  const double rows = 4.0 * static_cast<double>(p->N * kEntries * p->D);
  const std::string what(shape.name);
  add_bytes_benchmark("embedding_bag/sum/" + what, rows, [p] {
    kernels::bag_sum<float>(p->N, p->D,
                            {kEntries, p->ids.data(), p->weight.data(), p->table.data()},
                            {p->y.data(), false});
  });
  add_bytes_benchmark("embedding_bag/dots/" + what, rows, [p] {
    kernels::bag_dots<float>(p->N, p->D, {kEntries, p->ids.data(), p->x.data(), p->table.data()},
                             {p->z.data(), false});
  });
  add_bytes_benchmark("embedding_bag/table_gradient/" + what, 2 * rows,
                      [p] { kernels::bag_table_gradient<float>(p->N, p->D, p->gradient()); });
  add_reference_benchmark("embedding_bag/table_gradient/" + what, 2 * rows, [p] {
    kernels::reference::bag_table_gradient<float>(p->N, p->D, p->gradient());
  });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  sluice::bench::add(sluice::bench::kHidden[0]);
  return sluice::bench::run_benchmarks(argc, argv);
}
