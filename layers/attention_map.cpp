#include "layers/attention_map.h"

#include <algorithm>
#include <vector>

#include "autograd/ops/causal_attention.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/reshape.h"
#include "autograd/support/error.h"

namespace sluice {
namespace {

/// [H * P, P]: H identities below each other, over H; o [n, H * P] times it is the mean over heads.
Tensor mean_of_heads(Tape& tape, int64_t heads, int64_t width, DType dtype) {
  Tensor mean = tape.zeros({heads * width, width}, dtype);
  if (!mean.has_memory()) return mean;
  dispatch_float(dtype, [&]<class T>() {
    T* values = mean.data<T>();
    for (int64_t row = 0; row < heads * width; ++row) {
      values[row * width + row % width] = static_cast<T>(1.0 / static_cast<double>(heads));
    }
  });
  return mean;
}

/// rows [M, w], w <= P, as the values of every key head: [M, K, P], 0 past w.
Tensor as_values(Tape& tape, const Tensor& rows, int64_t heads, int64_t width) {
  std::vector<Tensor> columns;
  for (int64_t head = 0; head < heads; ++head) {
    columns.push_back(rows);
    if (rows.dim(1) < width) {
      columns.push_back(tape.zeros({rows.dim(0), width - rows.dim(1)}, rows.dtype()));
    }
  }
  const Tensor joined = columns.size() == 1 ? rows : concat_columns(tape, columns);
  return reshape(tape, joined, {rows.dim(0), heads, width});
}

}  // namespace

Tensor attend_rows(const ForwardContext& context, const AttentionMap& map, const Tensor& rows) {
  Tape& tape = context.tape;
  const int64_t tokens = map.q.dim(0);
  const int64_t heads = map.q.dim(1);
  const int64_t width = map.q.dim(2);
  const int64_t keys = map.k.dim(0);
  SLUICE_CHECK(ShapeError, rows.rank() == 2 && rows.dim(0) == keys,
               "attend_rows: rows are {}, expected [{}, W] for keys of shape {}", rows.shape(),
               keys, map.k.shape());
  std::vector<Tensor> parts;
  for (int64_t begin = 0; begin < rows.dim(1); begin += width) {
    const int64_t end = std::min(begin + width, rows.dim(1));
    const bool is_whole = begin == 0 && end == rows.dim(1);
    const Tensor part = is_whole ? rows : slice_columns(tape, rows, begin, end);
    const Tensor values = as_values(tape, part, map.k.dim(1), width);
    Tensor mixed = keys == tokens
                       ? causal_attention(tape, map.q, map.k, values,
                                          {.document_offsets = context.layout.document_offsets,
                                           .scale = map.scale,
                                           .window = map.window,
                                           .windows = map.windows})
                       : cached_attention(tape, map.q, map.k, values,
                                          {keys, map.scale, map.window, map.windows});
    mixed = reshape(tape, mixed, {tokens, heads * width});
    if (heads > 1) {
      mixed = matmul(tape, mixed, mean_of_heads(tape, heads, width, mixed.dtype()));
    }
    parts.push_back(end - begin == width ? mixed : slice_columns(tape, mixed, 0, end - begin));
  }
  return parts.size() == 1 ? parts.front() : concat_columns(tape, parts);
}

}  // namespace sluice
