#include "autograd/ops/reshape.h"

#include "autograd/kernels/elementwise.h"
#include "autograd/ops/common.h"

namespace sluice {
namespace {

using ManyOp = std::function<Tensor(Tape&, std::span<const Tensor>)>;

OpSample sample(std::string label, std::vector<Tensor> inputs, ManyOp op) {
  std::vector<bool> differentiable(inputs.size(), true);
  return {
      .label = std::move(label),
      .inputs = std::move(inputs),
      .differentiable = std::move(differentiable),
      .apply = [op = std::move(op)](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
        return {op(tape, in)};
      }};
}

/// A [rows, cols] part of a larger tensor: element (row, col) lies at offset + row * stride + col.
struct Block {
  int64_t rows;
  int64_t cols;
  int64_t offset;
  int64_t stride;
};

/// Rows begin .. begin + count - 1 of a tensor of shape [N, ...].
Block row_block(const Shape& shape, int64_t begin, int64_t count) {
  int64_t width = 1;
  for (const int64_t size : shape.dims().subspan(1)) width *= size;
  return {count, width, begin * width, width};
}

/// Columns begin .. begin + count - 1 of a tensor of shape [N, D].
Block column_block(const Shape& shape, int64_t begin, int64_t count) {
  return {shape[0], count, begin, shape[1]};
}

/// part = the block of `whole`
template <class T>
void take(const T* whole, const Block& block, const kernels::Gradient<T>& part) {
  kernels::put_strided<T>(
      block.rows, block.cols,
      {.x = whole + block.offset, .x_stride = block.stride, .y = part, .y_stride = block.cols});
}

/// the block of `whole` = part
template <class T>
void place(const T* part, const Block& block, const kernels::Gradient<T>& whole) {
  kernels::put_strided<T>(
      block.rows, block.cols,
      {.x = part, .x_stride = block.cols, .y = whole.from(block.offset), .y_stride = block.stride});
}

Tensor slice(Tape& tape, const OpInfo& op, const Tensor& x, const Shape& shape,
             const Block& block) {
  Tensor y = tape.empty(shape, x.dtype());
  tape.run(op, moving({y, y}), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      take<T>(x.data<T>(), block, {.data = y.data<T>(), .accumulate = false});
    });
  });
  tape.record(op, {x}, {&y}, {}, [block](Backward& b) {
    const Tensor grad_y = b.grad(0);
    Tensor grad_x = b.target_zeroed(0);
    b.run(moving({grad_y, grad_y}), [&] {
      dispatch_float(grad_y.dtype(), [&]<class T>() {
        place<T>(grad_y.data<T>(), block, {.data = grad_x.data<T>(), .accumulate = true});
      });
    });
  });
  return y;
}

using BlockOf = Block (*)(const Shape& whole, int64_t begin, int64_t count);

/// Joins parts along dimension `axis`, where part i is the block that `block_of` gives.
Tensor concat(Tape& tape, const OpInfo& op, std::span<const Tensor> parts, const Shape& shape,
              int axis, BlockOf block_of) {
  Tensor y = tape.empty(shape, parts[0].dtype());
  tape.run(op, moving({y, y}), [&] {
    dispatch_float(y.dtype(), [&]<class T>() {
      int64_t begin = 0;
      for (const Tensor& part : parts) {
        place<T>(part.data<T>(), block_of(shape, begin, part.dim(axis)),
                 {.data = y.data<T>(), .accumulate = false});
        begin += part.dim(axis);
      }
    });
  });
  if (!tape.recording()) return y;
  // Constant parts have no shape on the tape.
  ArenaScope scratch(thread_arena());
  const std::span<int64_t> own(scratch.allocate<int64_t>(std::ssize(parts)), parts.size());
  for (size_t i = 0; i < parts.size(); ++i) own[i] = parts[i].dim(axis);
  const std::span<const int64_t> sizes = tape.keep(own);
  Tensor* output = &y;
  tape.record(op, parts, {&output, 1}, {}, [sizes, block_of](Backward& b) {
    const Tensor grad_y = b.grad(0);
    int64_t begin = 0;
    for (int i = 0; i < static_cast<int>(sizes.size()); ++i) {
      const int64_t size = sizes[static_cast<size_t>(i)];
      const Block block = block_of(grad_y.shape(), begin, size);
      begin += size;
      if (!b.needs(i)) continue;
      GradTarget target = b.target(i);
      b.run(moving({target.tensor, target.tensor}), [&] {
        dispatch_float(grad_y.dtype(),
                       [&]<class T>() { take<T>(grad_y.data<T>(), block, gradient<T>(target)); });
      });
    }
  });
  return y;
}

void check_range(std::string_view op, const Tensor& x, int64_t size, int64_t begin, int64_t end) {
  check_floating(op, "x", x);
  SLUICE_CHECK(ShapeError, 0 <= begin && begin <= end && end <= size,
               "{}: begin {} and end {} of x {}, allowed 0 <= begin <= end <= {}", op, begin, end,
               x.shape(), size);
}

/// All parts have the dtype of the first, and its shape but for dimension `axis`.
void check_parts(std::string_view op, std::span<const Tensor> parts, int min_rank, int axis) {
  SLUICE_CHECK(ShapeError, !parts.empty(), "{}: nothing to join", op);
  for (const Tensor& part : parts) {
    check_same_dtype(op, {"the first part", parts[0]}, {"a part", part});
    check_min_rank(op, "a part", part, min_rank);
    bool fits = part.rank() == parts[0].rank();
    for (int i = 0; fits && i < part.rank(); ++i) {
      fits = i == axis || part.dim(i) == parts[0].dim(i);
    }
    SLUICE_CHECK(ShapeError, fits, "{}: the first part is {} but another is {}", op,
                 parts[0].shape(), part.shape());
  }
}

/// The shape of the parts joined along `axis`.
Shape joined(std::span<const Tensor> parts, int axis) {
  int64_t size = 0;
  for (const Tensor& part : parts) size += part.dim(axis);
  return parts[0].shape().resized(axis, size);
}

Tensor rows_1_to_3(Tape& tape, std::span<const Tensor> in) { return slice_rows(tape, in[0], 1, 3); }
Tensor columns_1_to_3(Tape& tape, std::span<const Tensor> in) {
  return slice_columns(tape, in[0], 1, 3);
}

}  // namespace

const OpInfo& reshape_info() {
  static constexpr OpInfo kInfo{"reshape", "y = x, in another shape",
                                [](SampleFactory& make) -> std::vector<OpSample> {
                                  return {sample("[4, 3] to [2, 6]", {make.uniform({4, 3})},
                                                 [](Tape& tape, std::span<const Tensor> in) {
                                                   return reshape(tape, in[0], {2, 6});
                                                 })};
                                },
                                [](SampleFactory& make) -> std::vector<OpSample> {
                                  return {sample("other count", {make.uniform({4, 3})},
                                                 [](Tape& tape, std::span<const Tensor> in) {
                                                   return reshape(tape, in[0], {2, 5});
                                                 })};
                                }};
  return kInfo;
}

Tensor reshape(Tape& tape, const Tensor& x, const Shape& shape) {
  Tensor y = x.reshaped(shape);
  tape.record(reshape_info(), {x}, {&y}, {}, [](Backward& b) { b.pass(0, b.grad(0)); });
  return y;
}

const OpInfo& slice_rows_info() {
  static constexpr OpInfo kInfo{
      "slice_rows", "y[n, ...] = x[begin + n, ...]",
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {sample("[5, 2, 3]", {make.uniform({5, 2, 3})}, rows_1_to_3),
                sample("[3]", {make.uniform({3})}, rows_1_to_3)};
      },
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {sample("too few rows", {make.uniform({2, 4})}, rows_1_to_3),
                sample("a scalar", {make.uniform({})}, rows_1_to_3)};
      }};
  return kInfo;
}

Tensor slice_rows(Tape& tape, const Tensor& x, int64_t begin, int64_t end) {
  check_min_rank("slice_rows", "x", x, 1);
  check_range("slice_rows", x, x.dim(0), begin, end);
  return slice(tape, slice_rows_info(), x, x.shape().resized(0, end - begin),
               row_block(x.shape(), begin, end - begin));
}

const OpInfo& slice_columns_info() {
  static constexpr OpInfo kInfo{
      "slice_columns", "y[n, d] = x[n, begin + d]",
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {sample("[3, 5]", {make.uniform({3, 5})}, columns_1_to_3)};
      },
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {sample("too few columns", {make.uniform({4, 2})}, columns_1_to_3),
                sample("a vector", {make.uniform({5})}, columns_1_to_3)};
      }};
  return kInfo;
}

Tensor slice_columns(Tape& tape, const Tensor& x, int64_t begin, int64_t end) {
  check_rank("slice_columns", "x", x, 2, "[N, D]");
  check_range("slice_columns", x, x.dim(1), begin, end);
  return slice(tape, slice_columns_info(), x, {x.dim(0), end - begin},
               column_block(x.shape(), begin, end - begin));
}

const OpInfo& concat_rows_info() {
  static constexpr OpInfo kInfo{
      "concat_rows", "y = [parts[0]; parts[1]; ...]",
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {sample("three", {make.uniform({2, 3}), make.uniform({0, 3}), make.uniform({4, 3})},
                       concat_rows),
                sample("one", {make.uniform({2, 3, 2})}, concat_rows)};
      },
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {sample("unequal widths", {make.uniform({2, 3}), make.uniform({2, 4})}, concat_rows),
                sample("nothing", {}, concat_rows)};
      }};
  return kInfo;
}

Tensor concat_rows(Tape& tape, std::span<const Tensor> parts) {
  check_parts("concat_rows", parts, 1, 0);
  return concat(tape, concat_rows_info(), parts, joined(parts, 0), 0, row_block);
}

const OpInfo& concat_columns_info() {
  static constexpr OpInfo kInfo{
      "concat_columns", "y = [parts[0], parts[1], ...]",
      [](SampleFactory& make) -> std::vector<OpSample> {
        OpSample constants = sample("two constants of four",
                                    {make.uniform({2, 2}), make.uniform({2, 3}),
                                     make.uniform({2, 1}), make.uniform({2, 2})},
                                    concat_columns);
        constants.differentiable = {false, true, false, true};
        return {sample("three", {make.uniform({2, 3}), make.uniform({2, 0}), make.uniform({2, 4})},
                       concat_columns),
                std::move(constants)};
      },
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {
            sample("unequal rows", {make.uniform({2, 3}), make.uniform({3, 3})}, concat_columns),
            sample("cubes", {make.uniform({2, 3, 2}), make.uniform({2, 3, 2})}, concat_columns)};
      }};
  return kInfo;
}

Tensor concat_columns(Tape& tape, std::span<const Tensor> parts) {
  check_parts("concat_columns", parts, 2, 1);
  check_rank("concat_columns", "a part", parts[0], 2, "[N, D]");
  return concat(tape, concat_columns_info(), parts, joined(parts, 1), 1, column_block);
}

const OpInfo& stop_gradient_info() {
  static constexpr OpInfo kInfo{
      "stop_gradient", "y = x, and no gradient passes",
      [](SampleFactory& make) -> std::vector<OpSample> {
        OpSample constant = sample(
            "[2, 3]", {make.uniform({2, 3})},
            [](Tape& tape, std::span<const Tensor> in) { return stop_gradient(tape, in[0]); });
        // Against differences the gradient would be one; here it is none on purpose.
        constant.differentiable = {false};
        return {constant};
      },
      nullptr};
  return kInfo;
}

Tensor stop_gradient(Tape&, const Tensor& x) { return x.detached(); }

}  // namespace sluice
