#include "autograd/support/hdf5.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <limits>
#include <utility>

#include "autograd/support/error.h"
#include "autograd/support/hdf5_library.h"

namespace sluice::hdf5 {
using namespace detail;

namespace {

/// A new file, open under `descriptor`, -1 when there is none; its name goes with this object. The
/// library opens files by name only, and refuses names that are links. What is not written of such a
/// file takes neither memory nor disk.
struct TemporaryName {
  explicit TemporaryName(int& descriptor) {
    std::error_code error;
    for (const std::filesystem::path& folder :
         {std::filesystem::path("/dev/shm"), std::filesystem::temp_directory_path(error)}) {
      path = (folder / "sluice-outline-XXXXXX").string();
      descriptor = ::mkostemp(path.data(), O_CLOEXEC);
      if (descriptor >= 0) return;
    }
    path.clear();
  }
  ~TemporaryName() {
    if (!path.empty()) ::unlink(path.c_str());
  }
  TemporaryName(const TemporaryName&) = delete;
  TemporaryName& operator=(const TemporaryName&) = delete;

  std::string path;
};

}  // namespace

int64_t DatasetInfo::numel() const { return product(dims); }

struct File::State {
  std::string name;
  RaiseError raise;
  hid_t file = H5I_INVALID_HID;
  int64_t user_block_bytes = 0;
  // Of an outline: the file behind it, and where reserved elements lie in it.
  int outline = -1;
  std::vector<std::pair<int64_t, int64_t>> reserved;  // begin, end

  State(std::string file_name, RaiseError raise_error)
      : name(std::move(file_name)), raise(raise_error) {}
  // The library tells files in memory apart by name; the address is one that no other live file
  // has.
  [[nodiscard]] std::string unique_name() const {
    return fmt::format("{}@{}", name, static_cast<const void*>(this));
  }
  ~State() {
    if (file >= 0) {
      const Library library;
      H5Fclose(file);
    }
    if (outline >= 0) ::close(outline);
  }

  // `where` is a path in the file, or "" for the file itself.
  [[noreturn]] void fail(std::string_view where, std::string_view what) const {
    raise(where.empty() ? fmt::format("{}: {}", name, what)
                        : fmt::format("{}: {} {}", name, where, what));
    throw InternalError("the error function returned");
  }
  void check(bool good, std::string_view where, std::string_view what) const {
    if (!good) fail(where, fmt::format("{}: {}", what, library_reason()));
  }

  [[nodiscard]] Id open_dataset(const std::string& path) const {
    if (!exists(path)) fail(path, "is missing");
    Id dataset(H5Dopen2(file, path.c_str(), H5P_DEFAULT), H5Dclose);
    check(dataset.valid(), path, "cannot be opened");
    return dataset;
  }

  // The library only answers for a path whose parents exist. Even a question can fail: it may have
  // to write first, to make room in its cache.
  [[nodiscard]] bool exists(const std::string& path) const {
    for (size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
      const std::string part = path.substr(0, end);
      const htri_t found = part == "/" ? 1 : H5Lexists(file, part.c_str(), H5P_DEFAULT);
      check(found >= 0, part, "cannot be looked up");
      if (found == 0) return false;
      if (end == std::string::npos) return true;
    }
  }

  [[nodiscard]] std::vector<int64_t> dims_of(const Id& dataset, const std::string& path) const {
    const Id space(H5Dget_space(dataset.get()), H5Sclose);
    const int rank = space.valid() ? H5Sget_simple_extent_ndims(space.get()) : -1;
    check(rank >= 0, path, "has no readable shape");
    std::vector<hsize_t> sizes(static_cast<size_t>(rank));
    H5Sget_simple_extent_dims(space.get(), sizes.data(), nullptr);
    return {sizes.begin(), sizes.end()};
  }

  [[nodiscard]] DatasetInfo info_of(const Id& dataset, const std::string& path) const {
    DatasetInfo info;
    const Id stored(H5Dget_type(dataset.get()), H5Tclose);
    check(stored.valid(), path, "has no readable type");
    if (!element_type(stored.get(), info.type)) {
      fail(path, "holds neither f32, f64, i32, i64, u8, u16, u32 nor u64");
    }
    info.dims = dims_of(dataset, path);
    return info;
  }

  struct Typed {
    Id dataset;
    DatasetInfo info;
  };
  // Opens a dataset that must hold `type`.
  [[nodiscard]] Typed open_typed(const std::string& path, ElementType type) const {
    Id dataset = open_dataset(path);
    DatasetInfo info = info_of(dataset, path);
    if (info.type != type) {
      fail(path, fmt::format("is {}, expected {}", name_of(info.type), name_of(type)));
    }
    return {std::move(dataset), std::move(info)};
  }

  // The library would make the groups on the way itself, but with time stamps.
  void create_groups_above(const std::string& path) const {
    const Id links = link_properties();
    const Id creation(H5Pcreate(H5P_GROUP_CREATE), H5Pclose);
    H5Pset_obj_track_times(creation.get(), false);
    for (size_t end = path.find('/', 1); end != std::string::npos; end = path.find('/', end + 1)) {
      const std::string group = path.substr(0, end);
      if (H5Lexists(file, group.c_str(), H5P_DEFAULT) > 0) continue;
      const Id id(H5Gcreate2(file, group.c_str(), links.get(), creation.get(), H5P_DEFAULT),
                  H5Gclose);
      check(id.valid(), group, "cannot be created");
    }
  }

  [[nodiscard]] Id create(const std::string& path, hid_t type, const Id& space) const {
    return create(path, type, space, dataset_properties());
  }
  [[nodiscard]] Id create(const std::string& path, hid_t type, const Id& space,
                          const Id& creation) const {
    create_groups_above(path);
    const Id links = link_properties();
    Id dataset(
        H5Dcreate2(file, path.c_str(), type, space.get(), links.get(), creation.get(), H5P_DEFAULT),
        H5Dclose);
    check(dataset.valid(), path, "cannot be created");
    return dataset;
  }

  struct Rows {
    Id memory;
    Id stored;
  };
  // Selects the rows that `bytes` bytes cover from `first_row` on.
  [[nodiscard]] Rows select_rows(const Id& dataset, const DatasetInfo& info,
                                 const std::string& path, int64_t first_row, size_t bytes) const {
    if (info.dims.empty()) fail(path, "is a scalar and has no rows");
    const int64_t row_elements = product(std::span<const int64_t>(info.dims).subspan(1));
    const int64_t elements = static_cast<int64_t>(bytes) / size_of(info.type);
    const int64_t rows = row_elements == 0 ? 0 : elements / row_elements;
    if (rows * row_elements != elements || first_row < 0 || first_row + rows > info.dims[0]) {
      fail(path, fmt::format("is [{}]: {} elements from row {} are no range of its rows",
                             fmt::join(info.dims, ", "), elements, first_row));
    }
    std::vector<int64_t> count(info.dims);
    count[0] = rows;
    const auto sizes = to_hsize(count);
    std::vector<hsize_t> start(sizes.size(), 0);
    start[0] = static_cast<hsize_t>(first_row);
    Rows result{make_space(count), Id(H5Dget_space(dataset.get()), H5Sclose)};
    if (elements == 0) {
      H5Sselect_none(result.memory.get());
      H5Sselect_none(result.stored.get());
    } else {
      H5Sselect_hyperslab(result.stored.get(), H5S_SELECT_SET, start.data(), nullptr, sizes.data(),
                          nullptr);
    }
    return result;
  }

  void set_attribute(const std::string& object, const std::string& attribute, hid_t stored,
                     hid_t memory, const void* value) const {
    const Id owner(H5Oopen(file, object.c_str(), H5P_DEFAULT), H5Oclose);
    check(owner.valid(), object, "cannot be opened");
    const Id space(H5Screate(H5S_SCALAR), H5Sclose);
    if (H5Aexists(owner.get(), attribute.c_str()) > 0) H5Adelete(owner.get(), attribute.c_str());
    const Id id(
        H5Acreate2(owner.get(), attribute.c_str(), stored, space.get(), H5P_DEFAULT, H5P_DEFAULT),
        H5Aclose);
    check(id.valid() && H5Awrite(id.get(), memory, value) >= 0, object,
          fmt::format("attribute {} cannot be written", attribute));
  }

  [[nodiscard]] Id open_attribute(const std::string& object, const std::string& attribute) const {
    Id id(H5Aopen_by_name(file, object.c_str(), attribute.c_str(), H5P_DEFAULT, H5P_DEFAULT),
          H5Aclose);
    check(id.valid(), object, fmt::format("has no attribute {}", attribute));
    return id;
  }

  void read_attribute(const std::string& object, const std::string& attribute, H5T_class_t kind,
                      hid_t memory, void* value) const {
    const Id id = open_attribute(object, attribute);
    const Id stored(H5Aget_type(id.get()), H5Tclose);
    const Id space(H5Aget_space(id.get()), H5Sclose);
    const bool fits =
        H5Tget_class(stored.get()) == kind && H5Sget_simple_extent_npoints(space.get()) == 1;
    if (!fits) fail(object, fmt::format("attribute {} has an unexpected type", attribute));
    check(H5Aread(id.get(), memory, value) >= 0, object,
          fmt::format("attribute {} cannot be read", attribute));
  }
};

File::File(std::unique_ptr<State> state) : state_(std::move(state)) {}
File::File(File&&) noexcept = default;
File& File::operator=(File&&) noexcept = default;
File::~File() = default;

File File::create_image(std::string name, RaiseError raise, ImageOptions options) {
  auto state = std::make_unique<State>(std::move(name), raise);
  const Library library;
  const Id access = access_properties();
  H5Pset_fapl_core(access.get(), static_cast<size_t>(options.expected_bytes), false);
  const Id creation = creation_properties(options.user_block_bytes);
  state->user_block_bytes = options.user_block_bytes;
  state->file =
      H5Fcreate(state->unique_name().c_str(), H5F_ACC_TRUNC, creation.get(), access.get());
  state->check(state->file >= 0, "", "cannot create");
  return File(std::move(state));
}

File File::create_outline(std::string name, RaiseError raise, int64_t user_block_bytes) {
  auto state = std::make_unique<State>(std::move(name), raise);
  const TemporaryName temporary(state->outline);
  if (state->outline < 0) state->fail("", "no folder for temporary files takes one");
  const std::string& path = temporary.path;
  const Library library;
  const Id access = access_properties();
  constexpr hsize_t kLarge = 1 << 16;
  constexpr hsize_t kCacheLine = 64;
  H5Pset_alignment(access.get(), kLarge, kCacheLine);
  const Id creation = creation_properties(user_block_bytes);
  state->file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.get(), access.get());
  state->check(state->file >= 0, "", "cannot create");
  return File(std::move(state));
}

File File::create(const std::filesystem::path& path, RaiseError raise, const std::string& name) {
  auto state = std::make_unique<State>(name.empty() ? path.string() : name, raise);
  const Library library;
  const Id access = access_properties();
  const Id creation = creation_properties(0);
  state->file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.get(), access.get());
  state->check(state->file >= 0, "", "cannot create");
  return File(std::move(state));
}

File File::open(const std::filesystem::path& path, RaiseError raise) {
  auto state = std::make_unique<State>(path.string(), raise);
  const Library library;
  const Id access = access_properties();
  if (!std::filesystem::exists(path)) state->fail("", "no such file");
  if (H5Fis_hdf5(state->name.c_str()) <= 0) state->fail("", "not an HDF5 file");
  state->file = H5Fopen(state->name.c_str(), H5F_ACC_RDONLY, access.get());
  state->check(state->file >= 0, "", "cannot open");
  return File(std::move(state));
}

File File::open_image(std::span<const std::byte> image, std::string name, RaiseError raise) {
  auto state = std::make_unique<State>(std::move(name), raise);
  const Library library;
  const Id access = access_properties();
  constexpr size_t kIncrement = size_t{1} << 16;
  H5Pset_fapl_core(access.get(), kIncrement, false);
  // The library copies the image; its signature asks for a writable pointer only for callers that
  // lend the buffer.
  H5Pset_file_image(access.get(), const_cast<std::byte*>(image.data()), image.size());
  state->file = H5Fopen(state->unique_name().c_str(), H5F_ACC_RDONLY, access.get());
  state->check(state->file >= 0, "", "not an HDF5 file");
  return File(std::move(state));
}

bool File::exists(const std::string& path) const {
  const Library library;
  return state_->exists(path);
}

std::vector<std::string> File::children(const std::string& group) const {
  const Library library;
  if (!state_->exists(group)) state_->fail(group, "is missing");
  std::vector<std::string> names;
  hsize_t position = 0;
  const Id id(H5Gopen2(state_->file, group.c_str(), H5P_DEFAULT), H5Gclose);
  state_->check(id.valid(), group, "is not a group");
  const herr_t status = H5Literate(
      id.get(), H5_INDEX_NAME, H5_ITER_INC, &position,
      [](hid_t, const char* name, const H5L_info_t*, void* out) -> herr_t {
        static_cast<std::vector<std::string>*>(out)->emplace_back(name);
        return 0;
      },
      &names);
  state_->check(status >= 0, group, "cannot be listed");
  return names;
}

std::vector<std::string> File::datasets(const std::string& group) const {
  const Library library;
  if (!state_->exists(group)) state_->fail(group, "is missing");
  struct Found {
    std::string prefix;
    std::vector<std::string> paths;
  } found{group == "/" ? "/" : group + "/", {}};
  const herr_t status = H5Ovisit_by_name(
      state_->file, group.c_str(), H5_INDEX_NAME, H5_ITER_INC,
      [](hid_t, const char* name, const H5O_info_t* object, void* out) -> herr_t {
        auto& result = *static_cast<Found*>(out);
        if (object->type == H5O_TYPE_DATASET) result.paths.push_back(result.prefix + name);
        return 0;
      },
      &found, H5P_DEFAULT);
  state_->check(status >= 0, group, "cannot be listed");
  std::sort(found.paths.begin(), found.paths.end());
  return std::move(found.paths);
}

DatasetInfo File::info(const std::string& path) const {
  const Library library;
  const Id dataset = state_->open_dataset(path);
  DatasetInfo info = state_->info_of(dataset, path);
  const std::string fault = extent_fault(dataset, info.dims, size_of(info.type));
  if (!fault.empty()) state_->fail(path, fault);
  return info;
}

bool File::is_text(const std::string& path) const {
  const Library library;
  const Id dataset = state_->open_dataset(path);
  const Id stored(H5Dget_type(dataset.get()), H5Tclose);
  return H5Tget_class(stored.get()) == H5T_STRING;
}

void File::write(const std::string& path, ElementType type, std::span<const int64_t> dims,
                 std::span<const std::byte> bytes) {
  const Library library;
  SLUICE_INTERNAL_CHECK(product(dims) * size_of(type) == static_cast<int64_t>(bytes.size()),
                        "{}: {} bytes for [{}] of {}", path, bytes.size(), fmt::join(dims, ", "),
                        name_of(type));
  const Id dataset = state_->create(path, ids_of(type).file, make_space(dims));
  if (bytes.empty()) return;
  state_->check(H5Dwrite(dataset.get(), ids_of(type).memory, H5S_ALL, H5S_ALL, H5P_DEFAULT,
                         bytes.data()) >= 0,
                path, "cannot be written");
}

void File::read(const std::string& path, ElementType type, std::span<std::byte> bytes) const {
  const Library library;
  const auto [dataset, info] = state_->open_typed(path, type);
  SLUICE_INTERNAL_CHECK(info.numel() * size_of(type) == static_cast<int64_t>(bytes.size()),
                        "{}: {} bytes for [{}] of {}", path, bytes.size(),
                        fmt::join(info.dims, ", "), name_of(type));
  if (bytes.empty()) return;
  state_->check(
      H5Dread(dataset.get(), ids_of(type).memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()) >= 0,
      path, "cannot be read");
}

void File::write_text(const std::string& path, std::string_view text) {
  const Library library;
  const Id type = text_type(text.size());
  const Id dataset = state_->create(path, type.get(), make_space({}));
  const std::string padded = with_padding(text);
  state_->check(
      H5Dwrite(dataset.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, padded.data()) >= 0, path,
      "cannot be written");
}

std::string File::read_text(const std::string& path) const {
  const Library library;
  const Id dataset = state_->open_dataset(path);
  const Id stored(H5Dget_type(dataset.get()), H5Tclose);
  const bool is_fixed_text =
      H5Tget_class(stored.get()) == H5T_STRING && H5Tis_variable_str(stored.get()) == 0;
  if (!is_fixed_text || product(state_->dims_of(dataset, path)) != 1) {
    state_->fail(path, "holds no text");
  }
  std::string text(H5Tget_size(stored.get()), '\0');
  const Id memory = text_type(text.size());
  state_->check(
      H5Dread(dataset.get(), memory.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, text.data()) >= 0, path,
      "cannot be read");
  return without_padding(std::move(text));
}

void File::create_dataset(const std::string& path, ElementType type,
                          std::span<const int64_t> dims) {
  const Library library;
  (void)state_->create(path, ids_of(type).file, make_space(dims));
}

void File::write_rows(const std::string& path, ElementType type, int64_t first_row,
                      std::span<const std::byte> bytes) {
  const Library library;
  const auto [dataset, info] = state_->open_typed(path, type);
  const auto rows = state_->select_rows(dataset, info, path, first_row, bytes.size());
  if (bytes.empty()) return;
  state_->check(H5Dwrite(dataset.get(), ids_of(type).memory, rows.memory.get(), rows.stored.get(),
                         H5P_DEFAULT, bytes.data()) >= 0,
                path, "cannot be written");
}

void File::read_rows(const std::string& path, ElementType type, int64_t first_row,
                     std::span<std::byte> bytes) const {
  const Library library;
  const auto [dataset, info] = state_->open_typed(path, type);
  const auto rows = state_->select_rows(dataset, info, path, first_row, bytes.size());
  if (bytes.empty()) return;
  state_->check(H5Dread(dataset.get(), ids_of(type).memory, rows.memory.get(), rows.stored.get(),
                        H5P_DEFAULT, bytes.data()) >= 0,
                path, "cannot be read");
}

int64_t File::reserve(const std::string& path, ElementType type, std::span<const int64_t> dims) {
  const Library library;
  const Id creation = dataset_properties();
  H5Pset_alloc_time(creation.get(), H5D_ALLOC_TIME_EARLY);
  H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER);
  const Id dataset = state_->create(path, ids_of(type).file, make_space(dims), creation);
  const int64_t bytes = product(dims) * size_of(type);
  if (bytes == 0) return -1;
  const haddr_t offset = H5Dget_offset(dataset.get());
  state_->check(offset != HADDR_UNDEF, path, "has no place");
  const auto begin = static_cast<int64_t>(offset);
  state_->reserved.emplace_back(begin, begin + bytes);
  return begin;
}

int64_t File::finish() {
  close();
  struct stat status {};
  if (::fstat(state_->outline, &status) != 0) state_->fail("", "its outline has no size");
  std::sort(state_->reserved.begin(), state_->reserved.end());
  return status.st_size;
}

void File::copy_to(std::span<std::byte> image) const {
  int64_t at = 0;
  const auto copy_until = [&](int64_t end) {
    while (at < end) {
      const ssize_t got = ::pread(state_->outline, image.data() + at, static_cast<size_t>(end - at),
                                  static_cast<off_t>(at));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) state_->fail("", "its outline cannot be read");
      at += got;
    }
  };
  for (const auto& [begin, end] : state_->reserved) {
    copy_until(begin);
    at = end;
  }
  copy_until(static_cast<int64_t>(image.size()));
}

void File::create_table(const std::string& path, ElementType type, int64_t width, int64_t rows_hint,
                        int64_t fill) {
  const Library library;
  constexpr int64_t kChunkBytes = int64_t{1} << 16;
  const int64_t row_bytes = std::max<int64_t>(width, 1) * size_of(type);
  const int64_t most_rows = std::max<int64_t>(kChunkBytes / row_bytes, 1);
  std::vector<int64_t> chunk = {std::clamp<int64_t>(rows_hint, 1, most_rows)};
  if (width > 0) chunk.push_back(width);
  std::vector<hsize_t> sizes(chunk.size(), 0);
  if (width > 0) sizes[1] = static_cast<hsize_t>(width);
  const std::vector<hsize_t> limits(chunk.size(), H5S_UNLIMITED);
  const Id space(H5Screate_simple(static_cast<int>(sizes.size()), sizes.data(), limits.data()),
                 H5Sclose);
  (void)state_->create(path, ids_of(type).file, space, table_properties(chunk, fill));
}

void File::append_rows(const std::string& path, ElementType type, int64_t width,
                       std::span<const std::byte> bytes) {
  const Library library;
  const auto [dataset, info] = state_->open_typed(path, type);
  const int64_t row_bytes = std::max<int64_t>(width, 1) * size_of(type);
  const auto rows = static_cast<int64_t>(bytes.size()) / row_bytes;
  const size_t rank = width > 0 ? 2 : 1;
  SLUICE_INTERNAL_CHECK(
      info.dims.size() == rank && rows * row_bytes == static_cast<int64_t>(bytes.size()),
      "{}: {} bytes for rows of {}", path, bytes.size(), width);
  if (rows == 0) return;
  std::vector<hsize_t> sizes = to_hsize(info.dims);
  std::vector<hsize_t> count = {static_cast<hsize_t>(rows)};
  std::vector<hsize_t> start = {sizes[0]};
  sizes[0] += count[0];
  if (rank == 2) {
    count.push_back(static_cast<hsize_t>(width));
    start.push_back(0);
    sizes[1] = std::max(sizes[1], count[1]);
  }
  state_->check(H5Dset_extent(dataset.get(), sizes.data()) >= 0, path, "cannot grow");
  const Id memory(H5Screate_simple(static_cast<int>(rank), count.data(), nullptr), H5Sclose);
  const Id stored(H5Dget_space(dataset.get()), H5Sclose);
  H5Sselect_hyperslab(stored.get(), H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr);
  state_->check(H5Dwrite(dataset.get(), ids_of(type).memory, memory.get(), stored.get(),
                         H5P_DEFAULT, bytes.data()) >= 0,
                path, "cannot be written");
}

void File::set_attribute(const std::string& object, const std::string& name, int64_t value) {
  const Library library;
  state_->set_attribute(object, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
}

void File::set_attribute(const std::string& object, const std::string& name, double value) {
  const Library library;
  state_->set_attribute(object, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value);
}

void File::set_attribute(const std::string& object, const std::string& name,
                         std::string_view value) {
  const Library library;
  const Id type = text_type(value.size());
  const std::string padded = with_padding(value);
  state_->set_attribute(object, name, type.get(), type.get(), padded.data());
}

bool File::has_attribute(const std::string& object, const std::string& name) const {
  const Library library;
  return H5Aexists_by_name(state_->file, object.c_str(), name.c_str(), H5P_DEFAULT) > 0;
}

int64_t File::integer_attribute(const std::string& object, const std::string& name) const {
  const Library library;
  int64_t value = 0;
  state_->read_attribute(object, name, H5T_INTEGER, H5T_NATIVE_INT64, &value);
  return value;
}

double File::number_attribute(const std::string& object, const std::string& name) const {
  const Library library;
  double value = 0;
  state_->read_attribute(object, name, H5T_FLOAT, H5T_NATIVE_DOUBLE, &value);
  return value;
}

std::string File::text_attribute(const std::string& object, const std::string& name) const {
  const Library library;
  size_t bytes = 0;
  {
    const Id id = state_->open_attribute(object, name);
    const Id stored(H5Aget_type(id.get()), H5Tclose);
    if (H5Tget_class(stored.get()) != H5T_STRING || H5Tis_variable_str(stored.get()) != 0) {
      state_->fail(object, fmt::format("attribute {} is no text", name));
    }
    bytes = H5Tget_size(stored.get());
  }
  std::string text(bytes, '\0');
  const Id memory = text_type(bytes);
  state_->read_attribute(object, name, H5T_STRING, memory.get(), text.data());
  return without_padding(std::move(text));
}

std::span<const std::byte> File::image() {
  const Library library;
  state_->check(H5Fflush(state_->file, H5F_SCOPE_LOCAL) >= 0, "", "cannot flush");
  const ssize_t bytes = H5Fget_file_image(state_->file, nullptr, 0);
  void* handle = nullptr;
  state_->check(bytes > 0 && H5Fget_vfd_handle(state_->file, H5P_DEFAULT, &handle) >= 0, "",
                "has no image");
  // The core driver hands out the address of its buffer's pointer: the image is lent, not copied.
  // The library counts its size from the end of the user block.
  const auto* buffer = *static_cast<const std::byte* const*>(handle);
  return {buffer, static_cast<size_t>(bytes + state_->user_block_bytes)};
}

void File::close() {
  const Library library;
  const hid_t file = std::exchange(state_->file, H5I_INVALID_HID);
  state_->check(H5Fflush(file, H5F_SCOPE_LOCAL) >= 0 && H5Fclose(file) >= 0, "", "cannot close");
}

}  // namespace sluice::hdf5
