#pragma once
// A fuzz target: a reader that is handed any bytes at all. It may read them or refuse them with an Error;
// anything else (another exception, an InternalError, what a sanitizer finds, no end) is a bug.
//
//   SLUICE_FUZZ_TARGET(gguf) { (void)open_gguf(fuzz_file(bytes, "model.gguf")); }
//
// libFuzzer makes the bytes up (scripts/fuzz, where SLUICE_FUZZER is defined); the required tests replay
// those in tests/fuzz/corpus.

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "autograd/support/error.h"
#include "tests/support/scratch_folder.h"

namespace sluice::testing {

/// The bytes in a file of this name, in a folder of this process.
inline std::filesystem::path fuzz_file(std::string_view bytes, const char* name) {
  static const ScratchFolder folder;
  std::ofstream(folder / name, std::ios::binary) << bytes;
  return folder / name;
}

/// Lets everything out that is no answer.
inline void expect_answer(void (*read)(std::string_view), std::string_view bytes) {
  try {
    read(bytes);
  } catch (const InternalError&) {
    throw;
  } catch (const Error&) {  // an answer
  }
}

#define SLUICE_FUZZ(name) void fuzz_##name(std::string_view bytes);
#include "tests/fuzz/targets.def"
#undef SLUICE_FUZZ

}  // namespace sluice::testing

#ifdef SLUICE_FUZZER
#define SLUICE_FUZZ_ENTRY(name)                                                       \
  extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {           \
    sluice::testing::expect_answer(sluice::testing::fuzz_##name,                      \
                                   {reinterpret_cast<const char*>(data), size});      \
    return 0;                                                                         \
  }
#else
#define SLUICE_FUZZ_ENTRY(name)
#endif

#define SLUICE_FUZZ_TARGET(name) \
  SLUICE_FUZZ_ENTRY(name)        \
  void sluice::testing::fuzz_##name(std::string_view bytes)
