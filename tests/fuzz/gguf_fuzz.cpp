#include "tests/fuzz/read_tensors.h"
#include "tests/fuzz/target.h"
#include "train/interchange/gguf_model.h"

SLUICE_FUZZ_TARGET(gguf) {
  const auto path = fuzz_file(bytes, "model.gguf");
  read_tensors(open_gguf(path).tensors);
  (void)read_gguf_model(path);
}
