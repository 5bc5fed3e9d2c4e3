// Runs every operation on tensors of the simulated device by the CPU's kernel, and refuses what CUDA refuses.
#include "backend.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

namespace simulated {
namespace {

using at::Tensor;
using c10::DispatchKey;
using c10::IValue;

// Operations without a deterministic kernel on CUDA, by the list of torch.use_deterministic_algorithms. The newest
// version of torch has one of kthvalue; earlier ones that the project supports have none.
const std::unordered_set<std::string> kNonDeterministic{
    "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "_ctc_loss_backward",
    "_embedding_bag_dense_backward", "_upsample_bilinear2d_aa_backward", "adaptive_max_pool2d_backward",
    "avg_pool3d_backward", "fractional_max_pool2d_backward", "fractional_max_pool3d_backward",
    "grid_sampler_2d_backward", "grid_sampler_3d_backward", "histc", "kthvalue", "max_pool3d_with_indices_backward",
    "max_unpool2d", "max_unpool3d", "median.dim", "nanmedian.dim", "nll_loss2d_backward", "nll_loss2d_forward", "put_",
    "reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward",
    "replication_pad1d_backward", "replication_pad2d_backward", "replication_pad3d_backward",
    "upsample_bicubic2d_backward", "upsample_bilinear2d_backward", "upsample_linear1d_backward",
    "upsample_trilinear3d_backward"};

// Operations that take indices of the CPU, too.
const std::unordered_set<std::string> kIndexing{
    "index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"};

Tensor make_tensor(const Tensor& like, c10::Storage storage, DispatchKey key) {
  auto made = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), like.dtype());
  auto* impl = made.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  impl->_set_conj(like.is_conj());
  impl->_set_neg(like.is_neg());
  if (like.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
  return made;
}

Tensor host_tensor(const Tensor& t) { return make_tensor(t, host_storage(t.storage()), DispatchKey::CPU); }

// Everything above the kernels (autograd, autocast, modes of Python) has seen the operation already.
struct BelowAutograd {
  c10::impl::ExcludeDispatchKeyGuard guard{
      c10::autograd_dispatch_keyset_with_ADInplaceOrView | c10::autocast_dispatch_keyset | c10::python_ks};
};

// While it lives, the CPU's default generator draws the numbers of one of the device's. The kernels of operations such
// as native_dropout know no other.
class DrawnFrom {
 public:
  explicit DrawnFrom(const at::Generator& device_generator)
      : source_(cpu_generator(device_generator)), saved_(default_.get_state()) {
    default_.set_state(source_.get_state());
  }
  ~DrawnFrom() {
    source_.set_state(default_.get_state());
    default_.set_state(saved_);
  }

 private:
  at::Generator default_ = at::detail::getDefaultCPUGenerator(), source_;
  Tensor saved_;
};

// The tensors of one call, each on the device and on the host.
class Translation {
 public:
  Tensor to_host(const Tensor& t) {
    if (!t.defined() || !t.is_cuda()) return t;
    for (auto& [on_device, on_host] : pairs_) {
      if (on_device.is_same(t)) return on_host;
    }
    pairs_.emplace_back(t, host_tensor(t));
    return pairs_.back().second;
  }

  // An argument that is returned is itself, a view of one shares its memory, and anything else is new.
  Tensor to_device(const Tensor& t) {
    if (!t.defined() || !t.device().is_cpu() || !t.has_storage()) return t;
    if (t._is_zerotensor()) return at::zeros(t.sizes(), t.options().device(kDevice));
    for (auto& [on_device, on_host] : pairs_) {
      if (on_host.is_same(t)) return on_device;
      if (on_host.storage().is_alias_of(t.storage())) return make_tensor(t, on_device.storage(), DispatchKey::CUDA);
    }
    return make_tensor(t, device_storage(t.storage(), true), DispatchKey::CUDA);
  }

  // A kernel may give an argument another size, and with it other memory.
  void copy_sizes() {
    for (auto& [on_device, on_host] : pairs_) {
      auto* impl = on_device.unsafeGetTensorImpl();
      if (on_host.storage().data() != on_device.storage().data()) {
        impl->set_storage_keep_dtype(device_storage(on_host.storage(), true));
      }
      if (on_host.sizes() != on_device.sizes() || on_host.strides() != on_device.strides()) {
        impl->set_sizes_and_strides(on_host.sizes(), on_host.strides(), on_host.storage_offset());
      }
    }
  }

 private:
  std::vector<std::pair<Tensor, Tensor>> pairs_;
};

// Applies a function to each tensor in a value, and returns the value with the results in their place.
template <class Function>
IValue map_tensors(const IValue& value, Function function) {
  if (value.isTensor()) return function(value.toTensor());
  if (value.isTensorList()) {
    c10::List<Tensor> mapped;
    for (const Tensor& t : value.toTensorVector()) mapped.push_back(function(t));
    return mapped;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> mapped;
    for (const std::optional<Tensor>& t : value.toOptionalTensorVector()) {
      mapped.push_back(t ? std::optional<Tensor>(function(*t)) : std::nullopt);
    }
    return mapped;
  }
  return value;
}

// Numbers of the CPU may be read, and indices in some operations. All else must be on the device.
void check_device(const Tensor& t, const c10::Argument& argument, const std::string& operation) {
  if (!t.defined() || t.is_cuda()) return;
  const bool is_written = argument.alias_info() && argument.alias_info()->isWrite();
  const bool is_number = t.dim() == 0 && !is_written;
  const bool is_index = argument.name() == "indices" && kIndexing.count(operation);
  TORCH_CHECK(
      t.device().is_cpu() && (is_number || is_index),
      "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and ", t.device(),
      "! (when checking argument ", argument.name(), " of ", operation, ")");
}

void check_deterministic(const c10::FunctionSchema& schema, const std::string& operation, const IValue& first) {
  std::string name = operation;
  if (schema.overload_name().rfind("dim", 0) == 0) name += ".dim";
  const bool sums_floats = operation == "cumsum" && first.isTensor() && !c10::isIntegralType(first.toTensor().scalar_type(), true);
  if (sums_floats || kNonDeterministic.count(name) || kNonDeterministic.count(operation)) {
    at::globalContext().alertNotDeterministic(operation + "_cuda");
  }
}

bool draws_numbers(const c10::OperatorHandle& op) {
  const auto tags = op.getTags();
  return std::find(tags.begin(), tags.end(), at::Tag::nondeterministic_seeded) != tags.end();
}

void run_on_host(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const std::string operation = schema.name().substr(schema.name().find("::") + 2);
  const auto& arguments = schema.arguments();
  const size_t base = stack->size() - arguments.size();
  if (!arguments.empty()) check_deterministic(schema, operation, (*stack)[base]);
  BelowAutograd below;
  Translation translation;
  at::Generator generator = default_generator();
  for (size_t i = 0; i < arguments.size(); i++) {
    IValue& value = (*stack)[base + i];
    value = map_tensors(value, [&](const Tensor& t) {
      check_device(t, arguments[i], operation);
      return translation.to_host(t);
    });
    if (value.isDevice() && value.toDevice().is_cuda()) value = c10::Device(c10::DeviceType::CPU);
    if (value.isGenerator()) {
      generator = value.toGenerator();
      TORCH_CHECK(generator.device().is_cuda(), "Expected a 'cuda' device type for generator but found 'cpu'");
      value = IValue();
    }
  }
  {
    std::optional<DrawnFrom> drawn;
    if (draws_numbers(op)) drawn.emplace(generator);
    op.callBoxed(stack);
  }
  translation.copy_sizes();
  for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); i++) {
    (*stack)[i] = map_tensors((*stack)[i], [&](const Tensor& t) { return translation.to_device(t); });
  }
}

// What has no tensor argument to be told apart by, or is about memory itself, is written out.

const c10::DispatchKeySet kKeys(DispatchKey::CUDA);

Tensor empty(
    c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device>,
    std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return Tensor(at::detail::empty_generic(size, device_allocator(), kKeys, at::dtype_or_default(dtype), format));
}

Tensor empty_strided(
    c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<at::Device>, std::optional<bool>) {
  return Tensor(at::detail::empty_strided_generic(size, stride, device_allocator(), kKeys, at::dtype_or_default(dtype)));
}

// The one operation that takes tensors of both devices.
Tensor& copy_(Tensor& self, const Tensor& source, bool) {
  BelowAutograd below;
  Translation translation;
  translation.to_host(self).copy_(translation.to_host(source));
  return self;
}

Tensor& set_storage_at(
    Tensor& t, c10::Storage storage, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  TORCH_CHECK(storage.device().is_cuda(), "Expected a storage on cuda, but found one on ", storage.device());
  t.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(storage));
  t.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride, offset);
  return t;
}

Tensor& set_storage(Tensor& t, c10::Storage storage) {
  const auto count = static_cast<int64_t>(storage.nbytes() / t.itemsize());
  return set_storage_at(t, std::move(storage), 0, {count}, {1});
}

Tensor& set_tensor(Tensor& t, const Tensor& source) {
  return set_storage_at(t, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}

// 0 is the attention that is written in plain operations. The CPU's fused kernel is not CUDA's.
int64_t choose_attention(
    const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, double, bool, std::optional<double>,
    bool) {
  return 0;
}

}  // namespace
}  // namespace simulated

TORCH_LIBRARY_IMPL(_, CUDA, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&simulated::run_on_host>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", simulated::empty);
  m.impl("empty_strided", simulated::empty_strided);
  m.impl("copy_", simulated::copy_);
  m.impl("set_.source_Storage_storage_offset", simulated::set_storage_at);
  m.impl("set_.source_Storage", simulated::set_storage);
  m.impl("set_.source_Tensor", simulated::set_tensor);
  m.impl("_fused_sdp_choice", simulated::choose_attention);
  // These choose a kernel by the device, and have none for a device without cuDNN.
  m.impl("convolution", torch::CppFunction::makeFromBoxedFunction<&simulated::run_on_host>());
  m.impl("convolution_backward", torch::CppFunction::makeFromBoxedFunction<&simulated::run_on_host>());
}
