#pragma once
// A workspace: W slots of the hidden size, that every token of a document reads and that every complete
// chunk of Q tokens writes (Hydra proposal, section 6.4 of the method page; what it leaves open is
// reconstructed [R]).
//
// The slots m_0 [W, D] that a document starts with are learned; after its chunk c they are m_{c + 1}. A
// token of chunk c reads m_c, which chunks before its own have written, so that nothing looks ahead:
//
//   read:   y_t = sigmoid(w x_t + b - 4) Wo sum_s softmax_s(q_t . k_s / P^(1/2)) v_s,
//           q = Wq x,  [k; v] = [Wk; Wv] RMSNorm(m_c),  head by head
//   write:  u_s = sum_t A_ts v'_t / sum_t A_ts,  A_t = softmax_s(q'_s . k'_t / P^(1/2)),
//           q' = Wq' RMSNorm(m_c),  [k'; v'] = [Wk'; Wv'] x,  over the tokens t of chunk c
//           m_{c + 1} = m_c + f (u - m_c),  f = sigmoid(F [RMSNorm(m_c); u] + b_f)
//
// The write is one iteration of slot attention (Locatello et al. 2020, algorithm 1): slots compete for
// tokens. Ours: f takes the place of its GRU and MLP, and keeps a slot between where it started and
// the values that it took; heads; one RMSNorm for both. The cost per token is that of attention to W keys, whatever the length, and so is
// what decoding keeps: the slots and the keys and values of a chunk.
//
// Letters: N tokens, D hidden size, W slots, H heads of width P = D / H, Q tokens of a chunk.

#include "layers/output_gate.h"
#include "layers/row_cache.h"
#include "layers/sublayer.h"

namespace sluice {

/// `model.workspace` of a recipe.
struct WorkspaceConfig final : Configurable {
  WorkspaceConfig() { gate.output_gate = true; }
  int64_t num_slots = 64;
  int64_t num_heads = 4;
  int64_t chunk_size = 64;
  OutputGateConfig gate;
  void fields(FieldVisitor& v) override;
};

/// What decoding keeps of one sequence.
class WorkspaceState final : public MixerState {
 public:
  WorkspaceState(Pool& pool, const Tensor& slots_, int64_t chunk)
      : slots(slots_.clone(pool)),
        keys(pool, {chunk, slots_.dim(1)}, slots_.dtype()),
        values(pool, {chunk, slots_.dim(1)}, slots_.dtype()) {}
  [[nodiscard]] int64_t length() const override { return tokens; }

  Tensor slots;     // [W, D]
  RowCache keys;    // [Q, D], of the chunk that is not complete yet
  RowCache values;  // [Q, D]
  int64_t tokens = 0;
};

}  // namespace sluice
