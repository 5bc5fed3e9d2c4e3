// The parts of the simulated device that the operations need: its name, its memory and its random numbers.
#pragma once

#include <ATen/core/Generator.h>
#include <c10/core/Device.h>
#include <c10/core/Storage.h>

namespace simulated {

inline const c10::Device kDevice(c10::DeviceType::CUDA, 0);

// The same bytes as a storage of another device. The new storage keeps the old one alive.
// Memory that a CPU kernel allocated is counted as the device's until it is freed, if `counted`.
c10::Storage device_storage(const c10::Storage& storage, bool counted);
c10::Storage host_storage(const c10::Storage& storage);

c10::Allocator* device_allocator();
const at::Generator& default_generator();

// The CPU generator inside a generator of the device, which has its state.
at::Generator cpu_generator(const at::Generator& device_generator);

}  // namespace simulated
