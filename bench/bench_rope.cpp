// Rotary position embedding in both layouts, forward and backward.

#include <memory>

#include "autograd/kernels/reference/rope.h"
#include "autograd/kernels/rope.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

constexpr int64_t kPositions = 512;
constexpr int64_t kHeadWidth = 32;

struct Problem {
  Problem(const RowsShape& shape, kernels::RopeLayout rope_layout)
      : N(shape.rows),
        H(shape.cols / kHeadWidth),
        layout(rope_layout),
        cos(static_cast<size_t>(kPositions * kHeadWidth / 2)),
        sin(cos.size()),
        x(random_floats(N * shape.cols, 1)),
        y(x.size()) {
    kernels::rope_table(kernels::rope_frequencies({.rotary_dim = kHeadWidth}), kPositions,
                        cos.data(), sin.data());
    for (int64_t n = 0; n < N; ++n) position.push_back(static_cast<int32_t>(n % kPositions));
  }
  [[nodiscard]] kernels::Rope<float> rotation() const {
    return {H, kHeadWidth, kHeadWidth / 2, layout, position.data(), cos.data(), sin.data()};
  }
  int64_t N, H;
  kernels::RopeLayout layout;
  std::vector<int32_t> position;
  std::vector<float> cos, sin, x, y;
};

void add(const RowsShape& shape, const char* layout_name, kernels::RopeLayout layout) {
  const auto p = std::make_shared<Problem>(shape, layout);
  const double bytes = 2 * 4.0 * static_cast<double>(p->x.size());
  const std::string forward = fmt::format("rope/forward/{}/{}", layout_name, shape.name);
  add_bytes_benchmark(forward, bytes,
                      [p] { kernels::rope(p->N, p->rotation(), p->x.data(), p->y.data()); });
  add_reference_benchmark(forward, bytes, [p] {
    kernels::reference::rope(p->N, p->rotation(), p->x.data(), p->y.data());
  });
  add_bytes_benchmark(fmt::format("rope/backward/{}/{}", layout_name, shape.name), bytes, [p] {
    kernels::rope_backward<float>(p->N, p->rotation(), p->x.data(), {p->y.data(), false});
  });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  using sluice::kernels::RopeLayout;
  for (const auto& shape : sluice::bench::kHidden) {
    sluice::bench::add(shape, "half_split", RopeLayout::half_split);
    sluice::bench::add(shape, "interleaved", RopeLayout::interleaved);
  }
  return sluice::bench::run_benchmarks(argc, argv);
}
