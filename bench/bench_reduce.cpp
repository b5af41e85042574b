// Sums: of everything (clipping's norm), along rows and along columns, and rows divided by their sum.

#include <memory>

#include "autograd/kernels/reduce.h"
#include "autograd/kernels/reference/reduce.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

struct Problem {
  explicit Problem(const RowsShape& shape)
      : rows(shape.rows),
        cols(shape.cols),
        x(random_floats(rows * cols, 1)),
        grad_y(random_floats(rows * cols, 2)),
        y(x.size()),
        grad_x(x.size()),
        row_sums(static_cast<size_t>(rows), 1.0F),
        column_sums(static_cast<size_t>(cols)) {}
  [[nodiscard]] int64_t n() const { return rows * cols; }
  [[nodiscard]] kernels::NormaliseRows<float> normalise() {
    return {x.data(), 1e3, y.data(), row_sums.data()};
  }
  [[nodiscard]] kernels::NormaliseRowsBackward<float> normalise_backward() {
    return {y.data(), row_sums.data(), grad_y.data(), {grad_x.data(), false}};
  }
  int64_t rows, cols;
  std::vector<float> x, grad_y, y, grad_x, row_sums, column_sums;
};

void add_sums(const RowsShape& shape, const std::shared_ptr<Problem>& p, double pass) {
  const std::string squares = fmt::format("reduce/sum_of_squares/{}", shape.name);
  const std::string along_rows = fmt::format("reduce/sum_columns/{}", shape.name);
  const std::string along_columns = fmt::format("reduce/sum_rows/{}", shape.name);
  add_bytes_benchmark(squares, pass, [p] {
    benchmark::DoNotOptimize(kernels::sum_of_squares(p->n(), p->x.data()));
  });
  add_reference_benchmark(squares, pass, [p] {
    benchmark::DoNotOptimize(kernels::reference::sum_of_squares(p->n(), p->x.data()));
  });
  add_bytes_benchmark(fmt::format("reduce/sum/{}", shape.name), pass,
                      [p] { benchmark::DoNotOptimize(kernels::sum(p->n(), p->x.data())); });
  add_bytes_benchmark(along_rows, pass, [p] {
    kernels::sum_columns(p->rows, p->cols, p->x.data(), p->row_sums.data());
  });
  add_reference_benchmark(along_rows, pass, [p] {
    kernels::reference::sum_columns(p->rows, p->cols, p->x.data(), p->row_sums.data());
  });
  add_bytes_benchmark(along_columns, pass, [p] {
    kernels::sum_rows<float>(p->rows, p->cols, p->x.data(), {p->column_sums.data(), false});
  });
  add_reference_benchmark(along_columns, pass, [p] {
    kernels::reference::sum_rows<float>(p->rows, p->cols, p->x.data(),
                                        {p->column_sums.data(), false});
  });
}

void add_normalise(const RowsShape& shape, const std::shared_ptr<Problem>& p, double pass) {
  const std::string forward = fmt::format("reduce/normalise_rows/{}", shape.name);
  const std::string backward = fmt::format("reduce/normalise_rows_backward/{}", shape.name);
  add_bytes_benchmark(forward, 2 * pass,
                      [p] { kernels::normalise_rows(p->rows, p->cols, p->normalise()); });
  add_reference_benchmark(forward, 2 * pass, [p] {
    kernels::reference::normalise_rows(p->rows, p->cols, p->normalise());
  });
  add_bytes_benchmark(backward, 3 * pass, [p] {
    kernels::normalise_rows_backward(p->rows, p->cols, p->normalise_backward());
  });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  namespace bench = sluice::bench;
  for (const auto& shape : {bench::kHidden[0], bench::kHidden[1], bench::kRouter[0]}) {
    const auto problem = std::make_shared<bench::Problem>(shape);
    const double pass = 4.0 * static_cast<double>(problem->n());
    bench::add_sums(shape, problem, pass);
    bench::add_normalise(shape, problem, pass);
  }
  return bench::run_benchmarks(argc, argv);
}
