// The mean of a document's tokens so far.

#include <memory>

#include "autograd/kernels/reference/running_mean.h"
#include "autograd/kernels/running_mean.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

void add(const RowsShape& shape) {
  struct Problem {
    int64_t D;
    std::vector<int64_t> documents;
    std::vector<float> x, y;
  };
  const auto p = std::make_shared<Problem>();
  p->D = shape.cols;
  for (int64_t begin = 0; begin <= shape.rows; begin += 256) p->documents.push_back(begin);
  p->x = random_floats(shape.rows * shape.cols, 1);
  p->y.resize(p->x.size());
  const double bytes = 8.0 * static_cast<double>(p->x.size());
  const std::string what(shape.name);
  add_bytes_benchmark(
      "running_mean/forward/" + what, bytes,
      [p] { kernels::running_mean<float>(p->D, p->documents, p->x.data(), p->y.data()); },
      [p] {
        kernels::reference::running_mean<float>(p->D, p->documents, p->x.data(), p->y.data());
      });
  add_bytes_benchmark("running_mean/backward/" + what, bytes, [p] {
    kernels::running_mean_backward<float>(p->D, p->documents, p->x.data(), {p->y.data(), false});
  });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  sluice::bench::add(sluice::bench::kHidden[0]);
  return sluice::bench::run_benchmarks(argc, argv);
}
