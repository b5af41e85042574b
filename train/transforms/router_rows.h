#pragma once
// `upcycle.router`: the rows that a router starts with.
//
// From prompts, as mergekit's MoE script does: the row of an expert in a layer is what the model of
// `upcycle.from` makes of texts that the expert is meant for, less what it makes of texts that it is not
// meant for, scaled to length 1 (divided by at least 1e-8):
//
//   hidden, hidden_last   the state of the last token, mean over prompts
//   hidden_avg            the mean over tokens, mean over prompts
//   cheap_embed           the sum of the token embeddings, mean over prompts: one row for all layers
//   random                N(0, 1), not scaled
//   uniform_random        U(-1, 1) / D^(1/2), not scaled
//
// The state is what the router will read (`capture: router_input`), or, as in mergekit, the residual
// stream before the block: before the mixer in front of the layer, or before the layer where there is
// none (`block_input`). Documents of a file, with hidden_avg, make FlexOlmo's rows, with the model's own
// states in the place of its document embedder [R].
//
// n entries of `experts` give the E experts their rows in runs of E / n: one each, or one for each model
// of which several experts are made.

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "autograd/support/fields.h"
#include "train/transforms/upcycle.h"

namespace sluice {

/// The rows that the model starts with: `{type: initial}`.
[[nodiscard]] Tagged initial_router_rows();
/// For FieldVisitor::tagged: initial, prompts.
[[nodiscard]] std::span<const Choice> router_row_choices();

/// A layer of experts whose router has rows to be set: those of experts first .. first + count - 1, of
/// which runs of count / rows share a row.
struct RouterPlace {
  int64_t sublayer;
  int64_t first;
  int64_t count;
  int64_t rows;
};

/// Overwrites rows of "model/layers.<sublayer>.router.weight" [E, D] in `state` where the recipe asks for
/// it, and returns what is to be said of it: rows of length 0, layers whose rows have a condition number
/// above 5. Throws ConfigError when the entries do not divide the experts, or a router has no such rows;
/// DataError for a file without text.
std::vector<std::string> set_router_rows(const UpcycleJob& job, std::span<const RouterPlace> places,
                                         StateDict& state);

/// sigma_max / sigma_min of rows [n, D]; infinity where they are linearly dependent.
[[nodiscard]] double condition_number(std::span<const double> rows, int64_t n);

}  // namespace sluice
