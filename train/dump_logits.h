#pragma once
// The logits of ready tokens, as a file: what other programs compare themselves with.
//
//   /logits            [N, V] f32   row i predicts the token after tokens[i] in its document
//   /tokens            [N] i32
//   /document_offsets  [D + 1] i64  from 0 to N
//   attributes of "/": checkpoint, step
//
// The file is itself a token file (data/token_file.h).

#include <filesystem>
#include <string>

#include "data/token_file.h"
#include "train/build.h"

namespace sluice {

struct DumpLogitsOptions {
  std::filesystem::path output;  // replaced whole, or not at all
  std::string tokens_name;       // of the tokens' file, for messages
  std::string checkpoint_name;   // for the attribute
};

/// Runs each document by itself, as evaluation does; tokens without offsets are one document. At
/// most one document's activations and a block of logits are in memory. Throws DataError when there
/// is no token, a token is outside the vocabulary, a document is longer than the model can read, or
/// the file cannot be written.
void dump_logits(TrainedModel& trained, const TokenFile& tokens, const DumpLogitsOptions& options);

}  // namespace sluice
