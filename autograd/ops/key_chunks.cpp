#include "autograd/ops/key_chunks.h"

#include <algorithm>

#include "autograd/kernels/key_chunks.h"
#include "autograd/ops/attention_common.h"

namespace sluice {
namespace {

constexpr std::string_view kOp = "choose_key_chunks";

/// Has no gradient to check, so it stands in no list of ops.
constexpr OpInfo kInfo{
    kOp, "chosen[n, k] = top-b over earlier chunks c of <sum of q, sum of the keys of c>", nullptr,
    nullptr};

kernels::ChunkChoice choice_of(const Tensor& q, const Tensor& k, const KeyChunkOptions& options) {
  return {q.dim(1),      k.dim(1),       q.dim(2),         options.chunk,
          options.first, options.window, options.per_query};
}

/// Scores of all candidates, and the sums.
KernelCost cost_of(const kernels::ChunkChoice& choice, double queries, double keys,
                   std::initializer_list<Tensor> moved) {
  KernelCost cost = moving(moved);
  cost.flops =
      queries * keys / static_cast<double>(choice.chunk) * static_cast<double>(choice.K * choice.P);
  return cost;
}

}  // namespace

Tensor choose_key_chunks(Tape& tape, const Tensor& q, const Tensor& k,
                         std::span<const int64_t> document_offsets,
                         const KeyChunkOptions& options) {
  check_heads(kOp, q, k, k);
  check_documents(kOp, q, k, document_offsets);
  const auto choice = choice_of(q, k, options);
  Tensor chosen = tape.empty({q.dim(0), k.dim(1), options.per_query}, DType::i32);
  double pairs = 0.0;
  int64_t longest = 0;
  for (size_t d = 0; d + 1 < document_offsets.size(); ++d) {
    const int64_t length = document_offsets[d + 1] - document_offsets[d];
    pairs += static_cast<double>(length) * static_cast<double>(length);
    longest = std::max(longest, length);
  }
  tape.run(kInfo, cost_of(choice, pairs, 1.0, {q, k, chosen}), [&] {
    dispatch_float(q.dtype(), [&]<class T>() {
      ArenaScope scratch(thread_arena());
      const int64_t width = choice.K * choice.P;
      T* sums = scratch.allocate<T>(longest / choice.chunk * width);
      for (size_t d = 0; d + 1 < document_offsets.size(); ++d) {
        const int64_t begin = document_offsets[d];
        const int64_t length = document_offsets[d + 1] - begin;
        kernels::sum_key_chunks<T>(choice, 0, length / choice.chunk, k.data<T>() + begin * width,
                                   sums);
        kernels::choose_key_chunks<T>(
            choice, {.queries = length,
                     .position = 0,
                     .q = q.data<T>() + begin * choice.H * choice.P,
                     .sums = sums,
                     .chosen = chosen.data<int32_t>() + begin * choice.K * choice.per_query});
      }
    });
  });
  return chosen;
}

KeyChunkMemory key_chunk_memory(Pool& pool, DType dtype, int64_t capacity, int64_t key_heads,
                                int64_t head_dim, const KeyChunkOptions& options) {
  return {Tensor::empty(pool, {capacity / options.chunk, key_heads, head_dim}, dtype),
          Tensor::empty(pool, {key_heads, head_dim}, dtype)};
}

Tensor choose_key_chunks(Tape& tape, const Tensor& q, const Tensor& k, int64_t length,
                         KeyChunkMemory& memory, const KeyChunkOptions& options) {
  check_heads(kOp, q, k, k);
  check_cache_length(kOp, q, k, length);
  const auto choice = choice_of(q, k, options);
  const int64_t before = length - q.dim(0);
  check_shape(kOp, "sums", memory.sums, {memory.sums.dim(0), choice.K, choice.P});
  SLUICE_CHECK(ShapeError, length / choice.chunk <= memory.sums.dim(0),
               "{}: memory for {} chunks, {} tokens have {}", kOp, memory.sums.dim(0), length,
               length / choice.chunk);
  Tensor chosen = tape.empty({q.dim(0), choice.K, choice.per_query}, DType::i32);
  tape.run(kInfo,
           cost_of(choice, 2.0 * static_cast<double>(q.dim(0)), static_cast<double>(length),
                   {q, memory.sums, chosen}),
           [&] {
             dispatch_float(q.dtype(), [&]<class T>() {
               kernels::sum_key_chunks<T>(choice, before / choice.chunk, length / choice.chunk,
                                          k.data<T>(), memory.sums.data<T>());
               kernels::choose_key_chunks<T>(choice, {.queries = q.dim(0),
                                                      .position = before,
                                                      .q = q.data<T>(),
                                                      .sums = memory.sums.data<T>(),
                                                      .chosen = chosen.data<int32_t>(),
                                                      .carry = memory.carry.data<T>()});
             });
           });
  return chosen;
}

}  // namespace sluice
