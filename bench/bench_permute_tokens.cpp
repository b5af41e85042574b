// Dispatch to expert order and combine, for two experts a token.

#include <memory>

#include "autograd/kernels/permute_tokens.h"
#include "autograd/kernels/reference/permute_tokens.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

constexpr int64_t kSlots = 2;

struct Problem {
  Problem(const RowsShape& shape, int64_t num_experts)
      : N(shape.rows),
        D(shape.cols),
        E(num_experts),
        experts(static_cast<size_t>(N * kSlots)),
        offsets(static_cast<size_t>(E + 1)),
        token_of_row(experts.size()),
        slot_of_row(experts.size()),
        row_of_slot(experts.size()),
        x(random_floats(N * D, 1)),
        weight(random_floats(N * kSlots, 2)),
        rows(random_floats(N * kSlots * D, 3)),
        grad_rows(rows.size()),
        grad_weight(weight.size()),
        y(x.size()) {
    for (size_t slot = 0; slot < experts.size(); ++slot) {
      experts[slot] =
          static_cast<int32_t>(uniform_below({.seed = 4}, 0, slot, static_cast<uint64_t>(E)));
    }
    sort();
  }
  void sort() {
    const kernels::Assignments assignments{N, kSlots, E, experts.data()};
    kernels::count_by_expert(assignments, offsets.data());
    kernels::order_by_expert(assignments, offsets.data(),
                             {token_of_row.data(), slot_of_row.data(), row_of_slot.data()});
  }
  [[nodiscard]] int64_t R() const { return N * kSlots; }
  [[nodiscard]] kernels::CombineRows<float> combine() const {
    return {kSlots, row_of_slot.data(), weight.data(), rows.data()};
  }
  [[nodiscard]] kernels::CombineRowsBackward<float> backward() {
    return {x.data(), {grad_rows.data(), false}, {grad_weight.data(), false}};
  }
  int64_t N, D, E;
  std::vector<int32_t> experts, offsets, token_of_row, slot_of_row, row_of_slot;
  std::vector<float> x, weight, rows, grad_rows, grad_weight, y;
};

void add(const RowsShape& shape, int64_t E) {
  const auto p = std::make_shared<Problem>(shape, E);
  const double pass = 4.0 * static_cast<double>(p->N * p->D);
  const std::string what = fmt::format("{}_experts_{}", shape.name, E);
  add_bytes_benchmark("order_by_expert/" + what, 16.0 * static_cast<double>(p->R()), {1},
                      [p] { p->sort(); });
  add_bytes_benchmark("gather_rows/" + what, 2 * kSlots * pass, [p] {
    kernels::gather_rows(p->R(), p->D, p->token_of_row.data(), p->x.data(), p->rows.data());
  });
  add_reference_benchmark("gather_rows/" + what, 2 * kSlots * pass, [p] {
    kernels::reference::gather_rows(p->R(), p->D, p->token_of_row.data(), p->x.data(),
                                    p->rows.data());
  });
  add_bytes_benchmark("combine_rows/" + what, (1 + kSlots) * pass, [p] {
    kernels::combine_rows<float>(p->N, p->D, p->combine(), {p->y.data(), false});
  });
  add_reference_benchmark("combine_rows/" + what, (1 + kSlots) * pass, [p] {
    kernels::reference::combine_rows<float>(p->N, p->D, p->combine(), {p->y.data(), false});
  });
  add_bytes_benchmark("combine_rows_backward/" + what, (1 + 2 * kSlots) * pass, [p] {
    kernels::combine_rows_backward(p->N, p->D, p->combine(), p->backward());
  });
  add_reference_benchmark("combine_rows_backward/" + what, (1 + 2 * kSlots) * pass, [p] {
    kernels::reference::combine_rows_backward(p->N, p->D, p->R(), p->combine(), p->backward());
  });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const auto& shape : sluice::bench::kHidden) {
    for (const int64_t E : {16, 128}) sluice::bench::add(shape, E);
  }
  return sluice::bench::run_benchmarks(argc, argv);
}
