#include "train/checkpoint/checkpoint.h"

#include <cstring>
#include <span>
#include <string>

#include "tests/fuzz/target.h"
#include "train/checkpoint/user_block.h"

/// The bytes as they are, and behind a first block that vouches for them: its sums guard against
/// accidents alone.
SLUICE_FUZZ_TARGET(checkpoint) {
  expect_answer([](std::string_view file) { (void)read_checkpoint(fuzz_file(file, "raw.h5")); },
                bytes);
  if (bytes.size() <= kUserBlockBytes) return;
  std::string vouched(bytes);
  const UserBlock block =
      make_user_block(std::as_bytes(std::span(vouched).subspan(kUserBlockBytes)));
  std::memcpy(vouched.data(), block.data(), block.size());
  const auto path = fuzz_file(vouched, "vouched.h5");
  (void)read_checkpoint_summary(path);
  (void)read_checkpoint(path);
}
