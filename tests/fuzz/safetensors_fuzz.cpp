#include "train/interchange/safetensors.h"

#include "tests/fuzz/read_tensors.h"
#include "tests/fuzz/target.h"

SLUICE_FUZZ_TARGET(safetensors) {
  read_tensors(open_safetensors(fuzz_file(bytes, "model.safetensors")));
}
