// Random factors: dropout, jitter of a router's input, normal noise. Documents of 512 tokens.

#include <memory>

#include "autograd/kernels/dropout.h"
#include "autograd/kernels/reference/dropout.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

constexpr int64_t kDocument = 512;

struct Problem {
  explicit Problem(const RowsShape& shape)
      : cols(shape.cols), x(random_floats(shape.rows * cols, 1)), y(x.size()) {
    for (int64_t start = 0; start < shape.rows; start += kDocument) {
      offsets.push_back(start);
      samples.push_back(samples.size());
    }
    offsets.push_back(shape.rows);
  }
  [[nodiscard]] kernels::RowStreams streams() const {
    return {{.seed = 7}, static_cast<int64_t>(samples.size()), offsets.data(), samples.data()};
  }
  int64_t cols;
  std::vector<int64_t> offsets;
  std::vector<uint64_t> samples;
  std::vector<float> x, y;
};

void add(const RowsShape& shape) {
  const auto p = std::make_shared<Problem>(shape);
  const double pass = 4.0 * static_cast<double>(p->x.size());
  const std::string dropout = fmt::format("dropout/dropout/{}", shape.name);
  add_bytes_benchmark(dropout, 2 * pass, [p] {
    kernels::dropout<float>(p->cols, p->streams(), 0.1, p->x.data(), {p->y.data(), false});
  });
  add_reference_benchmark(dropout, 2 * pass, [p] {
    kernels::reference::dropout<float>(p->cols, p->streams(), 0.1, p->x.data(),
                                       {p->y.data(), false});
  });
  add_bytes_benchmark(fmt::format("dropout/jitter/{}", shape.name), 2 * pass, [p] {
    kernels::jitter<float>(p->cols, p->streams(), 0.01, p->x.data(), {p->y.data(), false});
  });
  add_bytes_benchmark(fmt::format("dropout/normal_noise/{}", shape.name), pass,
                      [p] { kernels::normal_noise<float>(p->cols, p->streams(), p->y.data()); });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  sluice::bench::add(sluice::bench::kHidden[0]);
  sluice::bench::add(sluice::bench::kRouter[0]);
  return sluice::bench::run_benchmarks(argc, argv);
}
