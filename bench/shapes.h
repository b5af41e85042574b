#pragma once
// The sizes of real recipes, by name.

#include <cstdint>

namespace sluice::bench {

/// Rows of a given width, as recipes have them.
struct RowsShape {
  const char* name;
  int64_t rows;
  int64_t cols;
};

inline constexpr RowsShape kHidden[] = {{"tokens_2k_hidden_256", 2048, 256},
                                        {"tokens_4k_hidden_512", 4096, 512}};
inline constexpr RowsShape kFeedForward[] = {{"tokens_2k_ffn_768", 2048, 768},
                                             {"tokens_8k_expert_256", 8192, 256}};
inline constexpr RowsShape kRouter[] = {{"tokens_8k_experts_16", 8192, 16},
                                        {"tokens_8k_experts_128", 8192, 128}};

/// y [M, N] = x [M, K] weight [N, K]^T and its relatives.
struct ProductShape {
  const char* name;
  int64_t M;
  int64_t N;
  int64_t K;
};

inline constexpr ProductShape kProducts[] = {
    {"square_512", 512, 512, 512},         {"square_1024", 1024, 1024, 1024},
    {"ffn_small", 2048, 768, 256},         {"ffn_medium", 4096, 1536, 512},
    {"projection_small", 2048, 256, 256},  {"expert_64_rows", 64, 512, 512},
    {"grad_weight_small", 768, 256, 4096}, {"head_chunk", 512, 4096, 256}};

/// Queries, keys and values: three products of x [M, K] with weights [N, K].
inline constexpr ProductShape kProjections[] = {{"qkv_s", 4096, 128, 128},
                                                {"qkv_m", 4096, 256, 256},
                                                {"qkv_l", 4096, 512, 512},
                                                {"qkv_decode_1", 1, 512, 512}};

/// Decoding: a few tokens against one weight.
inline constexpr ProductShape kDecoding[] = {
    {"decode_1", 1, 2048, 512}, {"decode_4", 4, 2048, 512}, {"decode_8", 8, 2048, 512}};

/// All experts of one layer: E weights [O, I], `rows` tokens times top-k shared out unevenly.
struct ExpertsShape {
  const char* name;
  int64_t E;
  int64_t rows;
  int64_t O;
  int64_t I;
};

inline constexpr ExpertsShape kExperts[] = {{"experts_16_small", 16, 4096, 256, 256},
                                            {"experts_16_medium", 16, 8192, 512, 512},
                                            {"experts_64_fine", 64, 8192, 128, 512},
                                            {"experts_128_few_rows", 128, 2048, 256, 512}};

/// `documents` of `tokens` tokens; H query heads, K key heads of width P.
struct AttentionBenchShape {
  const char* name;
  int64_t documents;
  int64_t tokens;
  int64_t H;
  int64_t K;
  int64_t P;
};

inline constexpr AttentionBenchShape kAttention[] = {{"attention_packed_128", 16, 128, 8, 4, 32},
                                                     {"attention_512", 4, 512, 8, 4, 32},
                                                     {"attention_512_wide", 4, 512, 8, 4, 64},
                                                     {"attention_2k", 1, 2048, 8, 4, 64}};

/// `documents` of `tokens` tokens; H heads of width P, B and C of G groups, N state size.
struct SsdBenchShape {
  const char* name;
  int64_t documents;
  int64_t tokens;
  int64_t H;
  int64_t P;
  int64_t G;
  int64_t N;
};

inline constexpr SsdBenchShape kSsd[] = {{"ssd_512", 8, 512, 8, 64, 1, 64},
                                         {"ssd_512_wide_state", 8, 512, 8, 64, 1, 128},
                                         {"ssd_4k", 1, 4096, 8, 64, 1, 128}};

/// Memories of gated delta rule and linear attention: the same tokens in documents of every length.
struct MemoryBenchShape {
  const char* name;
  int64_t documents;
  int64_t tokens;
  int64_t H;
  int64_t P;  // keys and values
};

inline constexpr MemoryBenchShape kMemories[] = {{"memory_128", 32, 128, 4, 64},
                                                 {"memory_512", 8, 512, 4, 64},
                                                 {"memory_2k", 2, 2048, 4, 64},
                                                 {"memory_4k", 1, 4096, 4, 64},
                                                 {"memory_2k_wide", 2, 2048, 2, 128}};

/// The language-model head.
struct HeadShape {
  const char* name;
  int64_t tokens;
  int64_t V;
  int64_t D;
};

inline constexpr HeadShape kHeads[] = {{"head_4k", 2048, 4096, 256},
                                       {"head_32k", 2048, 32000, 512}};

}  // namespace sluice::bench
