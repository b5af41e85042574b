#include "train/interchange/output_stream.h"

#include <fcntl.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "autograd/support/error.h"
#include "train/interchange/tensor_files.h"

namespace sluice {

OutputStream::OutputStream(FileSystem& files, std::filesystem::path path)
    : files_(files),
      path_(std::move(path)),
      descriptor_(files.open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL)) {
  check(descriptor_ >= 0, "create");
}

OutputStream::~OutputStream() {
  if (descriptor_ >= 0) (void)files_.close(descriptor_);
}

void OutputStream::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = files_.write(descriptor_, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    check(count > 0, "write");
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
}

void OutputStream::finish() {
  check(files_.sync(descriptor_) == 0, "sync");
  check(files_.close(std::exchange(descriptor_, -1)) == 0, "close");
}

void OutputStream::check(bool is_done, const char* what) const {
  SLUICE_CHECK(CheckpointError, is_done, "{}: cannot {}: {}", path_.string(), what,
               std::generic_category().message(errno));
}

void write_tensor(OutputStream& file, const TensorToWrite& tensor) {
  const auto numel = checked_numel(tensor.dims);
  SLUICE_INTERNAL_CHECK(numel.has_value(), "{} has too many elements", tensor.name);
  std::vector<float> values(static_cast<size_t>(*numel));
  tensor.fill(values);
  if (tensor.type == StoredType::f32) {
    file.write(std::as_bytes(std::span<const float>(values)));
    return;
  }
  const auto beyond = first_beyond_range(tensor.type, values);
  SLUICE_CHECK(CheckpointError, !beyond, "{} holds {}, which {} cannot ({}); export as bf16 or f32",
               tensor.name, *beyond, name_of(tensor.type),
               tensor.type == StoredType::f16 ? "up to 65504" : "finite numbers below 8321040");
  std::vector<std::byte> stored(static_cast<size_t>(stored_bytes(tensor.type, *numel)));
  encode(tensor.type, values, stored);
  file.write(stored);
}

}  // namespace sluice
