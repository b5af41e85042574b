// Tokens that read slots and slots that are written from tokens, chunk by chunk, forward and backward.

#include <memory>

#include "autograd/kernels/reference/slot_attention.h"
#include "autograd/kernels/slot_attention.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

using kernels::SlotBackward;
using kernels::SlotForward;
using kernels::SlotRange;
using kernels::SlotShape;

constexpr int64_t kChunk = 64;
constexpr int64_t kHeadWidth = 64;

using Forward = void (*)(const SlotShape&, std::span<const SlotRange>, const SlotForward<float>&);
using Backward = void (*)(const SlotShape&, std::span<const SlotRange>, const SlotBackward<float>&);

struct Problem {
  Problem(const RowsShape& rows, bool read)
      : shape{64, rows.cols / kHeadWidth, kHeadWidth, kHeadWidth, 0.125},
        token(random_floats(rows.rows * rows.cols, 1)),
        slot(random_floats(rows.rows / kChunk * shape.S * rows.cols, 2)),
        v(random_floats(std::ssize(read ? slot : token), 3)),
        grad_out(random_floats(std::ssize(read ? token : slot), 4)),
        out(grad_out.size()),
        grad_token(token.size()),
        grad_slot(slot.size()),
        grad_v(v.size()),
        product_flops(2.0 * static_cast<double>(rows.rows * shape.S * rows.cols)) {
    for (int64_t t = 0; t < rows.rows; t += kChunk) ranges.push_back({t, t + kChunk});
  }
  [[nodiscard]] SlotForward<float> forward() {
    return {token.data(), slot.data(), v.data(), out.data()};
  }
  [[nodiscard]] SlotBackward<float> backward() {
    return {token.data(),    slot.data(),       v.data(),         out.data(),
            grad_out.data(), grad_token.data(), grad_slot.data(), grad_v.data()};
  }
  SlotShape shape;
  std::vector<SlotRange> ranges;
  std::vector<float> token, slot, v, grad_out, out, grad_token, grad_slot, grad_v;
  double product_flops;  // of one product over the pairs of tokens and slots
};

struct Way {
  const char* name;
  bool read;
  Forward forward;
  Forward reference;
  Backward backward;
};

void add(const RowsShape& rows, const Way& way) {
  const auto p = std::make_shared<Problem>(rows, way.read);
  const std::string forward = fmt::format("{}/forward/{}", way.name, rows.name);
  add_flops_benchmark(forward, 2 * p->product_flops, one_and_all_threads(),
                      [p, way] { way.forward(p->shape, p->ranges, p->forward()); });
  add_flops_benchmark(forward + "/reference", 2 * p->product_flops, {1},
                      [p, way] { way.reference(p->shape, p->ranges, p->forward()); });
  add_flops_benchmark(fmt::format("{}/backward/{}", way.name, rows.name), 5 * p->product_flops,
                      one_and_all_threads(),
                      [p, way] { way.backward(p->shape, p->ranges, p->backward()); });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  using namespace sluice;
  const bench::Way ways[] = {
      {"read_slots", true, kernels::read_slots<float>, kernels::reference::read_slots<float>,
       kernels::read_slots_backward<float>},
      {"write_slots", false, kernels::write_slots<float>, kernels::reference::write_slots<float>,
       kernels::write_slots_backward<float>}};
  for (const auto& rows : bench::kHidden) {
    for (const auto& way : ways) bench::add(rows, way);
  }
  return bench::run_benchmarks(argc, argv);
}
