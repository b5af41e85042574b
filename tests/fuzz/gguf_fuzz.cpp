#include "train/interchange/gguf.h"

#include "tests/fuzz/read_tensors.h"
#include "tests/fuzz/target.h"

SLUICE_FUZZ_TARGET(gguf) { read_tensors(open_gguf(fuzz_file(bytes, "model.gguf")).tensors); }
