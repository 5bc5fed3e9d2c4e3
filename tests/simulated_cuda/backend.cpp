// A device that says it is cuda:0 and lies in the host's memory: allocator, generators, device guard and hooks.
#include "backend.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <atomic>

namespace simulated {
namespace {

constexpr size_t kTotalMemory = size_t{16} << 30;

// Bytes in use on the device, and the most since the last reset.
std::atomic<int64_t> bytes_in_use{0}, peak_bytes{0};

void count(int64_t bytes) {
  const int64_t now = bytes_in_use += bytes;
  for (int64_t peak = peak_bytes; now > peak && !peak_bytes.compare_exchange_weak(peak, now);) {
  }
}

// A block of memory: what keeps it alive, and how many bytes of the device it stands for.
struct Block {
  c10::DataPtr memory;
  c10::Storage storage;
  int64_t bytes;

  static void release(void* context) {
    auto* block = static_cast<Block*>(context);
    bytes_in_use -= block->bytes;
    delete block;
  }
};

struct DeviceMemory final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t n) override {
    auto* block = new Block{c10::GetCPUAllocator()->allocate(n), {}, static_cast<int64_t>(n)};
    count(block->bytes);
    return {block->memory.get(), block, &Block::release, kDevice};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t n) const override { default_copy_data(to, from, n); }

  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex) override { peak_bytes = bytes_in_use.load(); }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex) override { return {kTotalMemory / 2, kTotalMemory}; }
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override {
    c10::CachingDeviceAllocator::DeviceStats stats;
    for (auto* stat : {&stats.allocated_bytes[0], &stats.reserved_bytes[0], &stats.active_bytes[0]}) {
      stat->current = bytes_in_use;
      stat->peak = peak_bytes;
    }
    return stats;
  }
};

DeviceMemory device_memory;

c10::Storage same_bytes(const c10::Storage& storage, c10::Device device, c10::Allocator* allocator, int64_t counted) {
  auto* block = new Block{c10::DataPtr(), storage, counted};
  count(counted);
  c10::DataPtr pointer(const_cast<void*>(storage.data()), block, &Block::release, device);
  return c10::Storage(c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(pointer), allocator, true);
}

// Draws a CPU generator's numbers, but belongs to the device.
struct DeviceGenerator final : c10::GeneratorImpl {
  at::Generator cpu = at::detail::createCPUGenerator();

  DeviceGenerator() : GeneratorImpl(kDevice, c10::DispatchKeySet(c10::DispatchKey::CUDA)) {}
  void set_current_seed(uint64_t seed) override { cpu.set_current_seed(seed); }
  uint64_t current_seed() const override { return cpu.current_seed(); }
  uint64_t seed() override { return cpu.unsafeGetGeneratorImpl()->seed(); }
  void set_offset(uint64_t) override {}
  uint64_t get_offset() const override { return 0; }
  void set_state(const c10::TensorImpl& state) override { cpu.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return cpu.unsafeGetGeneratorImpl()->get_state(); }
  DeviceGenerator* clone_impl() const override {
    auto* copy = new DeviceGenerator();
    copy->cpu = cpu.clone();
    return copy;
  }
};

// torch asks these before it looks at any tensor.
struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  int getNumGPUs() const override { return 1; }
  c10::DeviceIndex current_device() const override { return 0; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  void deviceSynchronize(c10::DeviceIndex) const override {}
  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override { return default_generator(); }
  // The first generator that Python makes is the default one, for torch.cuda.default_generators.
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    static std::atomic<bool> is_first{true};
    return is_first.exchange(false) ? default_generator() : at::make_generator<DeviceGenerator>();
  }
};

// There is one device with one stream, and every operation has ended when it returns.
struct Guard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, kDevice); }
  c10::Device getDevice() const override { return kDevice; }
  c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
  c10::Stream getStream(c10::Device) const noexcept override { return stream(); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(); }
  c10::Stream getStreamFromGlobalPool(c10::Device, bool) const override { return stream(); }
  c10::Stream getNewStream(c10::Device, int) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return stream(); }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};

}  // namespace

c10::Allocator* device_allocator() { return &device_memory; }

c10::Storage device_storage(const c10::Storage& storage, bool counted) {
  return same_bytes(storage, kDevice, &device_memory, counted ? static_cast<int64_t>(storage.nbytes()) : 0);
}

c10::Storage host_storage(const c10::Storage& storage) {
  return same_bytes(storage, c10::DeviceType::CPU, c10::GetCPUAllocator(), 0);
}

const at::Generator& default_generator() {
  static auto* generator = new at::Generator(at::make_generator<DeviceGenerator>());  // lives as long as the process
  return *generator;
}

at::Generator cpu_generator(const at::Generator& device_generator) {
  return static_cast<DeviceGenerator*>(device_generator.unsafeGetGeneratorImpl())->cpu;
}

}  // namespace simulated

namespace at {
using simulated::Hooks;
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, Hooks)
}  // namespace at

namespace simulated {
C10_REGISTER_GUARD_IMPL(CUDA, Guard)
}

// Called from Python once the library is loaded.
extern "C" void simulated_cuda_start() { c10::SetAllocator(c10::DeviceType::CUDA, simulated::device_allocator(), 100); }
