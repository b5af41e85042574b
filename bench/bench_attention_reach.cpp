// Attention to a part of what came before, in turns with attention to all of it: a window, a window
// for each key head, the chunks that suit a query (with the choice of them). One document of 2048 and
// of 8192 tokens, 8 query heads on 4 key heads of width 64. over_full is the ratio of the times:
// tiles that nobody sees are skipped, so it falls with the length.

#include <functional>
#include <memory>

#include "autograd/kernels/causal_attention.h"
#include "autograd/kernels/key_chunks.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

constexpr int64_t kHeads = 8;
constexpr int64_t kKeyHeads = 4;
constexpr int64_t kWidth = 64;
/// Two spans of local heads, one of middle range, one that sees everything.
constexpr int64_t kWindows[kKeyHeads] = {64, 256, 1024, kernels::kNoWindow};
constexpr kernels::ChunkChoice kChoice{kHeads, kKeyHeads, kWidth, 64, 1, 128, 4};

struct Problem {
  explicit Problem(int64_t tokens_)
      : tokens(tokens_),
        segments{{0, tokens_, 0, tokens_}},
        q(random_floats(tokens * kHeads * kWidth, 1)),
        k(random_floats(tokens * kKeyHeads * kWidth, 2)),
        v(random_floats(tokens * kKeyHeads * kWidth, 3)),
        grad_o(random_floats(tokens * kHeads * kWidth, 4)),
        o(q.size()),
        lse(static_cast<size_t>(tokens * kHeads)),
        grad_q(q.size()),
        grad_k(k.size()),
        grad_v(v.size()),
        sums(static_cast<size_t>(tokens / kChoice.chunk * kKeyHeads * kWidth)),
        chosen(static_cast<size_t>(tokens * kKeyHeads * kChoice.per_query)),
        chunks{kChoice.chunk, kChoice.first, kChoice.per_query, chosen.data()} {
    choose();
  }

  void choose() {
    kernels::sum_key_chunks<float>(kChoice, 0, tokens / kChoice.chunk, k.data(), sums.data());
    kernels::choose_key_chunks<float>(kChoice, {.queries = tokens,
                                                .position = 0,
                                                .q = q.data(),
                                                .sums = sums.data(),
                                                .chosen = chosen.data()});
  }
  void forward(const kernels::AttentionShape& shape) {
    kernels::causal_attention<float>(shape, segments,
                                     {q.data(), k.data(), v.data(), o.data(), lse.data()});
  }
  /// Behind a forward of the same shape.
  void backward(const kernels::AttentionShape& shape) {
    kernels::causal_attention_backward<float>(shape, segments,
                                              {q.data(),
                                               k.data(),
                                               v.data(),
                                               o.data(),
                                               lse.data(),
                                               grad_o.data(),
                                               {grad_q.data(), false},
                                               {grad_k.data(), false},
                                               {grad_v.data(), false}});
  }

  int64_t tokens;
  std::vector<kernels::AttentionSegment> segments;
  std::vector<float> q, k, v, grad_o, o, lse, grad_q, grad_k, grad_v, sums;
  std::vector<int32_t> chosen;
  kernels::KeyChunks chunks;
};

void add(int64_t tokens) {
  const auto p = std::make_shared<Problem>(tokens);
  const kernels::AttentionShape full{kHeads, kKeyHeads, kWidth, 1.0 / kWidth};
  kernels::AttentionShape window = full;
  window.window = 512;
  kernels::AttentionShape windows = full;
  windows.windows = kWindows;
  kernels::AttentionShape sparse = full;
  sparse.window = kChoice.window;
  sparse.chunks = &p->chunks;
  const auto add_one = [&](const std::string& what, const kernels::AttentionShape& shape,
                           bool chooses) {
    add_turns_benchmark(fmt::format("attention_reach/forward/{}/{}", what, tokens),
                        one_and_all_threads(),
                        [p, shape, chooses] {
                          if (chooses) p->choose();
                          p->forward(shape);
                        },
                        {"full", [p, full] { p->forward(full); }});
    add_turns_benchmark(fmt::format("attention_reach/both/{}/{}", what, tokens),
                        one_and_all_threads(),
                        [p, shape, chooses] {
                          if (chooses) p->choose();
                          p->forward(shape);
                          p->backward(shape);
                        },
                        {"full", [p, full] {
                           p->forward(full);
                           p->backward(full);
                         }});
  };
  add_one("window_512", window, false);
  add_one("windows_64_256_1024_all", windows, false);
  add_one("chunks", sparse, true);
  add_one("chunks_given", sparse, false);
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const int64_t tokens : {2048, 8192}) sluice::bench::add(tokens);
  return sluice::bench::run_benchmarks(argc, argv);
}
