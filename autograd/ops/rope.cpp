#include "autograd/ops/rope.h"

#include "autograd/ops/common.h"

namespace sluice {
namespace {

OpSample sample(SampleFactory& make, std::string label, const Shape& x, const Tensor& positions,
                RopeConfig config, RopeLayout layout) {
  const RopeTable table = rope_table(make.pool(), make.dtype(), config, 20);
  return {.label = std::move(label),
          .inputs = {make.uniform(x), positions},
          .differentiable = {true, false},
          .apply = [table, layout](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {rope(tape, in[0], in[1], table, layout)};
          }};
}

std::vector<OpSample> samples(SampleFactory& make) {
  const Tensor positions = make.integers({5}, {0, 1, 7, 0, 19});
  const RopeConfig yarn{
      .rotary_dim = 8, .scaling = RopeScaling::yarn, .factor = 4.0, .original_max_positions = 64};
  return {
      sample(make, "half-split", {5, 2, 8}, positions, {.rotary_dim = 8}, RopeLayout::half_split),
      sample(make, "interleaved", {5, 2, 8}, positions, {.rotary_dim = 8}, RopeLayout::interleaved),
      sample(make, "partial half-split", {5, 1, 7}, positions, {.rotary_dim = 4},
             RopeLayout::half_split),
      sample(make, "partial interleaved", {5, 1, 7}, positions, {.rotary_dim = 4},
             RopeLayout::interleaved),
      sample(make, "yarn", {5, 2, 8}, positions, yarn, RopeLayout::half_split)};
}

std::vector<OpSample> misuses(SampleFactory& make) {
  const RopeConfig eight{.rotary_dim = 8};
  const Tensor two = make.integers({2}, {0, 1});
  const auto layout = RopeLayout::half_split;
  return {sample(make, "head narrower than the rotation", {2, 2, 6}, two, eight, layout),
          sample(make, "positions too few", {3, 2, 8}, two, eight, layout),
          sample(make, "position past the table", {2, 2, 8}, make.integers({2}, {0, 20}), eight,
                 layout),
          sample(make, "negative position", {2, 2, 8}, make.integers({2}, {0, -1}), eight, layout),
          sample(make, "no heads", {2, 8}, two, eight, layout)};
}

void check_positions(std::string_view op, const Tensor& positions, int64_t limit) {
  if (!positions.has_memory()) return;
  const auto all = positions.span<int32_t>();
  for (size_t n = 0; n < all.size(); ++n) {
    SLUICE_CHECK(ShapeError, all[n] >= 0 && all[n] < limit,
                 "{}: token {} is at position {}, allowed 0 to {} (the table's length)", op, n,
                 all[n], limit - 1);
  }
}

}  // namespace

RopeTable rope_table(Pool& pool, DType dtype, const RopeConfig& config, int64_t positions) {
  const kernels::RopeFrequencies frequencies = kernels::rope_frequencies(config);
  const Shape shape{positions, static_cast<int64_t>(frequencies.omega.size())};
  // Constants of the model, which live as long as its weights.
  RopeTable table{Tensor::empty(pool, shape, dtype, MemoryKind::parameters),
                  Tensor::empty(pool, shape, dtype, MemoryKind::parameters)};
  if (!table.cos.has_memory()) return table;
  dispatch_float(dtype, [&]<class T>() {
    kernels::rope_table<T>(frequencies, positions, table.cos.data<T>(), table.sin.data<T>());
  });
  return table;
}

const OpInfo& rope_info() {
  static constexpr OpInfo kInfo{
      "rope",
      "y[n, h, a] = x[n, h, a] cos - x[n, h, b] sin, y[n, h, b] = x[n, h, b] cos + x[n, h, a] sin",
      samples, misuses};
  return kInfo;
}

void check_rope(std::string_view op, const Tensor& x, const Tensor& positions,
                const RopeTable& table, int64_t first) {
  check_same_dtype(op, {"x", x}, {"table", table.cos});
  check_dtype(op, "positions", positions, DType::i32);
  check_rank(op, "x", x, 3, "[N, H, P]");
  check_shape(op, "positions", positions, {x.dim(0)});
  SLUICE_CHECK(ShapeError, first + 2 * table.cos.dim(1) <= x.dim(2),
               "{}: x is {} but the table rotates {} elements of each head, from {} on", op,
               x.shape(), 2 * table.cos.dim(1), first);
  check_positions(op, positions, table.cos.dim(0));
}

Tensor rope(Tape& tape, const Tensor& x, const Tensor& positions, const RopeTable& table,
            RopeLayout layout) {
  check_rope("rope", x, positions, table);
  Tensor y = tape.empty(x.shape(), x.dtype());
  tape.run(rope_info(), moving({x, y}), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      kernels::rope<T>(x.dim(0), rope_view<T>(x, layout, positions, table.cos, table.sin),
                       x.data<T>(), y.data<T>());
    });
  });
  tape.record(rope_info(), {x}, {&y}, {positions, table.cos, table.sin}, [layout](Backward& b) {
    const Tensor grad_y = b.grad(0);
    GradTarget grad_x = b.target(0);
    b.run(moving({grad_y, grad_x.tensor}), [&] {
      dispatch_float(grad_y.dtype(), [&]<class T>() {
        kernels::rope_backward<T>(grad_y.dim(0),
                                  rope_view<T>(grad_y, layout, b.saved(0), b.saved(1), b.saved(2)),
                                  grad_y.data<T>(), gradient<T>(grad_x));
      });
    });
  });
  return y;
}

}  // namespace sluice
