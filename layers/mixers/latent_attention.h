#pragma once
// Multi-head latent attention: keys and values of all heads come from one narrow latent a token.
//
// DeepSeek-V2 (2024), section 2.1 and appendix C; DeepSeek-V3 (2024), section 2.1.1. For a token x:
//
//   c = RMSNorm(W_kv_a x)[:rc],  kR = RoPE((W_kv_a x)[rc:])       one latent, one rotated key
//   [qC_h | qR_h] = W_q_b RMSNorm(W_q_a x), or W_q x;  qR_h <- RoPE(qR_h)
//   [kC_h | v_h] = W_kv_b c
//   S_h = (qC_h . kC_h + qR_h . kR) (dn + dr)^(-1/2) mscale^2,  o_h = softmax(S_h) v_h
//   y = W_o [o_1 | ... | o_H]
//
// Passes over whole documents make keys and values of all heads. Decoding never does: it keeps c and
// kR alone, rc + dr numbers a token, and takes W_kv_b's halves UK_h, UV_h to the queries and outputs:
//
//   S_h = ((qC_h UK_h) . c + qR_h . kR) ...,  o_h = UV_h (sum_j P_j c_j)
//
// With yarn the angles' cosines are left as they are and the scores are scaled instead, mscale = 0.1
// mscale_all_dim ln(factor) + 1.
//
// Letters: N tokens, D hidden size, H heads, dn | dr widths of a key's two parts, dv of a value, rc
// of the latent, rq of the query latent.

#include <memory>
#include <optional>
#include <string>

#include "autograd/support/fields.h"

namespace sluice {

/// `model.latent_attention` of a recipe; the keys are those of DeepSeek's checkpoint configs.
struct LatentAttentionConfig final : Configurable {
  int64_t num_heads = 8;
  std::optional<int64_t> q_lora_rank;  // none: queries straight from x
  int64_t kv_lora_rank = 128;
  int64_t qk_nope_head_dim = 32;
  int64_t qk_rope_head_dim = 16;
  int64_t v_head_dim = 32;
  double rope_theta = 10000.0;
  std::shared_ptr<Configurable> rope_scaling;  // RopeScalingConfig, or null
  double mscale_all_dim = 1.0;
  int64_t max_position_embeddings = 8192;
  double norm_eps = 1e-6;
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;

  /// What the dot products are multiplied by.
  [[nodiscard]] double score_scale() const;
};

}  // namespace sluice
