#pragma once
// Files of ready tokens:
//   .bin         raw little-endian u16 or u32, no header (as nanoGPT and llm.c's simplest files)
//   .npy         a one-dimensional NumPy array of u16, u32 or i32 (NumPy format 1.0 to 3.0)
//   .h5, .hdf5   a dataset /tokens of u16, u32 or i32, and optionally /document_offsets (i64 or
//   u64, from 0 to the
//                number of tokens)

#include <cstdint>
#include <string>
#include <vector>

namespace sluice {

struct TokenFile {
  std::vector<int32_t> tokens;
  std::vector<int64_t> document_offsets;  // empty when the format does not say
};

/// `raw_type` ("u16" or "u32") is how a .bin is read. Throws DataError for a damaged file, another
/// format, or an id above 2^31 - 1; whether ids fit a vocabulary is the caller's to check.
[[nodiscard]] TokenFile read_token_file(const std::string& path, const std::string& raw_type);

}  // namespace sluice
