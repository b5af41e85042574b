// Element by element: sums and products of two arrays, functions of one variable, broadcasts of a row
// and of a column.

#include <memory>
#include <utility>

#include "autograd/kernels/elementwise.h"
#include "autograd/kernels/reference/elementwise.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

using kernels::UnaryFunction;

constexpr std::pair<UnaryFunction, const char*> kFunctions[] = {
    {UnaryFunction::exp, "exp"},
    {UnaryFunction::log, "log"},
    {UnaryFunction::sqrt, "sqrt"},
    {UnaryFunction::square, "square"},
    {UnaryFunction::sigmoid, "sigmoid"},
    {UnaryFunction::tanh, "tanh"},
    {UnaryFunction::erf, "erf"},
    {UnaryFunction::softplus, "softplus"},
    {UnaryFunction::silu, "silu"},
    {UnaryFunction::relu, "relu"},
    {UnaryFunction::relu_squared, "relu_squared"}};

struct Problem {
  explicit Problem(const RowsShape& shape)
      : rows(shape.rows),
        cols(shape.cols),
        a(random_floats(rows * cols, 1)),
        b(random_floats(rows * cols, 2)),
        positive(a.size()),
        y(a.size()),
        grad_x(a.size()),
        row(random_floats(cols, 3)),
        column(random_floats(rows, 4)),
        grad_column(column.size()) {
    for (size_t i = 0; i < a.size(); ++i) positive[i] = 1.5F + a[i];
  }
  [[nodiscard]] int64_t n() const { return rows * cols; }
  [[nodiscard]] kernels::MulRowsBackward<float> mul_rows_backward() {
    return {a.data(), column.data(), b.data(), {grad_x.data(), false}, {grad_column.data(), false}};
  }
  int64_t rows, cols;
  std::vector<float> a, b, positive, y, grad_x, row, column, grad_column;
};

void add_arithmetic(const std::string& shape, const std::shared_ptr<Problem>& p, double pass) {
  add_bytes_benchmark("elementwise/add/" + shape, 3 * pass,
                      [p] { kernels::add(p->n(), p->a.data(), p->b.data(), p->y.data()); });
  add_bytes_benchmark("elementwise/mul/" + shape, 3 * pass,
                      [p] { kernels::mul(p->n(), p->a.data(), p->b.data(), p->y.data()); });
  add_bytes_benchmark("elementwise/add_scaled/" + shape, 3 * pass, [p] {
    kernels::add_scaled(p->n(), p->a.data(), 0.5F, p->b.data(), p->y.data());
  });
  add_bytes_benchmark("elementwise/put_scaled_accumulating/" + shape, 3 * pass, [p] {
    kernels::put_scaled<float>(p->n(), 1e-9F, p->a.data(), {p->y.data(), true});
  });
  add_bytes_benchmark("elementwise/add_bias/" + shape, 2 * pass, [p] {
    kernels::add_bias(p->rows, p->cols, p->a.data(), p->row.data(), p->y.data());
  });
  add_bytes_benchmark("elementwise/mul_rows/" + shape, 2 * pass, [p] {
    kernels::mul_rows(p->rows, p->cols, p->a.data(), p->column.data(), p->y.data());
  });
  add_bytes_benchmark("elementwise/mul_rows_backward/" + shape, 3 * pass, [p] {
    kernels::mul_rows_backward(p->rows, p->cols, p->mul_rows_backward());
  });
}

void add_functions(const std::string& shape, const std::shared_ptr<Problem>& p, double pass) {
  for (const auto& [function, name] : kFunctions) {
    add_bytes_benchmark(
        fmt::format("elementwise/{}/forward/{}", name, shape), 2 * pass,
        [p, f = function] { kernels::unary(f, p->n(), p->positive.data(), p->y.data()); });
    add_bytes_benchmark(fmt::format("elementwise/{}/backward/{}", name, shape), 3 * pass,
                        [p, f = function] {
                          kernels::unary_backward<float>(f, p->n(), p->positive.data(), p->b.data(),
                                                         {p->grad_x.data(), false});
                        });
  }
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  namespace bench = sluice::bench;
  for (const auto& shape : bench::kHidden) {
    const auto problem = std::make_shared<bench::Problem>(shape);
    const double pass = 4.0 * static_cast<double>(problem->n());
    bench::add_arithmetic(shape.name, problem, pass);
    if (&shape == &bench::kHidden[0]) bench::add_functions(shape.name, problem, pass);
  }
  return bench::run_benchmarks(argc, argv);
}
