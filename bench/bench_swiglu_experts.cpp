// SwiGLU experts in one pass, beside the same layer as separate kernels: rows gathered, three products,
// the gate between them (and backward likewise). Both leave the same results; weights' gradients are
// left out, since they are products of their own (bench_grouped_gemm).

#include <memory>

#include "autograd/kernels/grouped_gemm.h"
#include "autograd/kernels/permute_tokens.h"
#include "autograd/kernels/reference/swiglu_experts.h"
#include "autograd/kernels/swiglu.h"
#include "autograd/kernels/swiglu_experts.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

/// E experts of width F share out k rows of each of N tokens of width D.
struct LayerShape {
  const char* name;
  int64_t E, D, F, N, k;
};
constexpr LayerShape kShapes[] = {{"S", 8, 128, 256, 4096, 2},
                                  {"M", 16, 256, 256, 4096, 2},
                                  {"M_128_experts", 128, 256, 256, 4096, 2},
                                  {"L", 32, 512, 512, 4096, 4}};

struct Problem {
  explicit Problem(const LayerShape& s)
      : R(s.N * s.k),
        D(s.D),
        F(s.F),
        x(random_floats(s.N * D, 1)),
        grad_y(random_floats(s.N * D, 2)),
        weight(random_floats(R, 3)),
        w_gate(scaled(random_floats(s.E * F * D, 4))),
        w_up(scaled(random_floats(s.E * F * D, 5))),
        w_down(scaled(random_floats(s.E * F * D, 6))),
        gate(static_cast<size_t>(R * F)),
        up(gate),
        h(gate),
        grad_h(gate),
        grad_gate(gate),
        grad_up(gate),
        rows(static_cast<size_t>(R * D)),
        y(rows),
        grad_rows(rows),
        grad_weight(static_cast<size_t>(R)) {
    for (int64_t e = 0; e <= s.E; ++e) offsets.push_back(static_cast<int32_t>(R * e / s.E));
    for (int64_t r = 0; r < R; ++r) {
      token_of_row.push_back(static_cast<int32_t>(r * 7919 % s.N));
      slot_of_row.push_back(static_cast<int32_t>(r));
    }
    shape = {s.E, D, F, offsets.data(), token_of_row.data()};
  }
  /// Small enough that gates are not saturated.
  static std::vector<float> scaled(std::vector<float> values) {
    for (float& value : values) value *= 0.1F;
    return values;
  }

  void forward() {
    kernels::swiglu_experts<float>(shape, {w_gate.data(), w_up.data(), w_down.data()}, x.data(),
                                   {gate.data(), up.data()}, y.data());
  }
  void forward_apart() {
    kernels::gather_rows<float>(R, D, token_of_row.data(), x.data(), rows.data());
    kernels::grouped_gemm<float>(to_hidden(), rows.data(), w_gate.data(), gate.data());
    kernels::grouped_gemm<float>(to_hidden(), rows.data(), w_up.data(), up.data());
    kernels::swiglu<float>(R, F, {gate.data(), up.data(), F, h.data()});
    kernels::grouped_gemm<float>(from_hidden(), h.data(), w_down.data(), y.data());
  }
  void reference() {
    kernels::reference::swiglu_experts<float>(shape, {w_gate.data(), w_up.data(), w_down.data()},
                                              x.data(), y.data());
  }
  void backward() {
    kernels::swiglu_experts_backward<float>(shape, {w_gate.data(), w_up.data(), w_down.data()},
                                            {.grad_y = grad_y.data(),
                                             .weight = weight.data(),
                                             .slot_of_row = slot_of_row.data(),
                                             .hidden = {gate.data(), up.data()},
                                             .grad_rows = {grad_rows.data(), false},
                                             .grad_weight = {grad_weight.data(), false}},
                                            {grad_gate.data(), grad_up.data(), h.data()});
  }
  void backward_apart() {
    // The rows' gradients, as combine's backward leaves them.
    kernels::gather_rows<float>(R, D, token_of_row.data(), grad_y.data(), rows.data());
    kernels::grouped_gemm_grad_x<float>(from_hidden(), rows.data(), w_down.data(),
                                        {grad_h.data(), false});
    kernels::swiglu_backward<float>(R, F,
                                    {.gate = gate.data(),
                                     .up = up.data(),
                                     .in_stride = F,
                                     .grad_h = grad_h.data(),
                                     .grad_gate = {grad_gate.data(), false},
                                     .grad_up = {grad_up.data(), false}});
    kernels::grouped_gemm_grad_x<float>(to_hidden(), grad_gate.data(), w_gate.data(),
                                        {grad_rows.data(), false});
    kernels::grouped_gemm_grad_x<float>(to_hidden(), grad_up.data(), w_up.data(),
                                        {grad_rows.data(), true});
  }
  [[nodiscard]] kernels::Groups to_hidden() const { return {shape.E, offsets.data(), D, F}; }
  [[nodiscard]] kernels::Groups from_hidden() const { return {shape.E, offsets.data(), F, D}; }

  int64_t R, D, F;
  std::vector<float> x, grad_y, weight, w_gate, w_up, w_down;
  std::vector<float> gate, up, h, grad_h, grad_gate, grad_up;
  std::vector<float> rows, y, grad_rows, grad_weight;
  std::vector<int32_t> offsets, token_of_row, slot_of_row;
  kernels::ExpertsShape shape{};
};

void add(const LayerShape& shape) {
  const auto made = std::make_shared<std::unique_ptr<Problem>>();
  const auto problem = [=]() -> Problem& {
    if (!*made) {
      *made = std::make_unique<Problem>(shape);
      (*made)->forward();
    }
    return **made;
  };
  const double flops = 6.0 * static_cast<double>(shape.N * shape.k) * static_cast<double>(shape.D) *
                       static_cast<double>(shape.F);
  const auto threads = one_and_all_threads();
  const std::string forward = fmt::format("swiglu_experts/forward/{}", shape.name);
  const std::string backward = fmt::format("swiglu_experts/backward/{}", shape.name);
  add_flops_benchmark(forward, flops, threads, [=] { problem().forward(); });
  add_flops_benchmark(forward + "/apart", flops, threads, [=] { problem().forward_apart(); });
  add_flops_benchmark(backward, flops, threads, [=] { problem().backward(); });
  add_flops_benchmark(backward + "/apart", flops, threads, [=] { problem().backward_apart(); });
  if (shape.N * shape.k * shape.D * shape.F <= int64_t{1} << 28) {
    add_flops_benchmark(forward + "/reference", flops, {1}, [=] { problem().reference(); });
  }
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const auto& shape : sluice::bench::kShapes) sluice::bench::add(shape);
  return sluice::bench::run_benchmarks(argc, argv);
}
