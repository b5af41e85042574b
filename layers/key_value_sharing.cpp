#include "layers/key_value_sharing.h"

#include "autograd/ops/elementwise.h"
#include "autograd/ops/reshape.h"

namespace sluice {

void SharedKeyValues::keep(const ForwardContext& context, BlockState& state, const Tensor& k,
                           const Tensor& v) const {
  if (context.sharing == nullptr || reads(context)) return;
  state.key_values[keys_] = k;
  state.key_values[values_] = v;
}

Tensor SharedKeyValues::spread(const ForwardContext& context, const Tensor& q) {
  Tape& tape = context.tape;
  const KeyValueSharing& sharing = *context.sharing;
  const int64_t width = q.dim(1) * q.dim(2);
  const Tensor ones = add_constant(tape, tape.zeros({sharing.first->tokens(), 1}, q.dtype()), 1.0);
  const Tensor rows =
      sharing.here->scatter(tape, reshape(tape, q, {q.dim(0), width}), ones);  // [M, H P]
  return reshape(tape, rows, {rows.dim(0), q.dim(1), q.dim(2)});
}

Tensor SharedKeyValues::gather(const ForwardContext& context, const Tensor& mixed) {
  Tape& tape = context.tape;
  const int64_t width = mixed.dim(1) * mixed.dim(2);
  const Tensor rows =
      context.sharing->here->gather(tape, reshape(tape, mixed, {mixed.dim(0), width}));
  return reshape(tape, rows, {rows.dim(0), mixed.dim(1), mixed.dim(2)});
}

Tensor SharedKeyValues::attend(const ForwardContext& context, const BlockState& state,
                               const Tensor& q, CausalAttentionOptions options) const {
  const SequenceLayout& first = *context.sharing->first;
  options.document_offsets = first.document_offsets;
  if (options.rope.positions.defined()) options.rope.positions = first.positions;
  const Tensor mixed =
      causal_attention(context.tape, spread(context, q), state.key_values.at(keys_),
                       state.key_values.at(values_), options);
  return gather(context, mixed);
}

Tensor SharedKeyValues::attend_cached(const ForwardContext& context, const Tensor& q,
                                      const KeyValueCache& cache,
                                      const CachedAttentionOptions& options) {
  return gather(context, cached_attention(context.tape, spread(context, q), cache.keys.rows(),
                                          cache.values.rows(), options));
}

}  // namespace sluice
