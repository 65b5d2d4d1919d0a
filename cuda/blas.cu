// cuBLASLt by dlopen: handles, one plan per shape, and the call.
//   plan     its matrices are column-major, ours row-major: it is asked for c^T = op(b)^T op(a)^T, which moves nothing
//   grid     the library's
//   traffic  the library's; sums over parts of K pass through the workspace
//   limits   f32 f64, bf16 with a bf16 or f32 result; what its heuristics know an algorithm for
//   ceiling  on an H100 570 to 670 TFLOP/s at 16384 x 768..4608 x 768..1536 in bf16
#include <cublasLt.h>
#include <dlfcn.h>

#include <map>
#include <tuple>

#include "cuda/blas.h"
#include "cuda/launch.cuh"
#include "tensor/tensor.h"

namespace taper::cuda {
namespace {

constexpr size_t workspace_bytes = size_t(32) << 20;

struct Library {  // the functions used, by name
  void* file = nullptr;
  template <class F>
  void find(F& f, const char* name) {
    f = reinterpret_cast<F>(dlsym(file, name));
    if (!f) file = nullptr;  // an older library: do without
  }
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtGetVersion) version;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulDescCreate) product_create;
  decltype(&cublasLtMatmulDescSetAttribute) product_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulAlgoGetHeuristic) algorithms;
  decltype(&cublasLtMatmulAlgoConfigGetAttribute) algorithm_get;

  Library() {
    for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12", "/usr/local/cuda/lib64/libcublasLt.so.13",
                             "/usr/local/cuda/lib64/libcublasLt.so.12", "libcublasLt.so"})
      if (!file) file = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (file) find(create, "cublasLtCreate");
    if (file) find(version, "cublasLtGetVersion");
    if (file) find(matmul, "cublasLtMatmul");
    if (file) find(product_create, "cublasLtMatmulDescCreate");
    if (file) find(product_set, "cublasLtMatmulDescSetAttribute");
    if (file) find(layout_create, "cublasLtMatrixLayoutCreate");
    if (file) find(preference_create, "cublasLtMatmulPreferenceCreate");
    if (file) find(preference_set, "cublasLtMatmulPreferenceSetAttribute");
    if (file) find(preference_destroy, "cublasLtMatmulPreferenceDestroy");
    if (file) find(algorithms, "cublasLtMatmulAlgoGetHeuristic");
    if (file) find(algorithm_get, "cublasLtMatmulAlgoConfigGetAttribute");
  }
};

const Library& library() {
  static const Library l;
  return l;
}

void blas_check(cublasStatus_t status, std::source_location at = std::source_location::current()) {
  if (status != CUBLAS_STATUS_SUCCESS) raise("cublasLt: status " + std::to_string(int(status)), at);
}

cudaDataType_t type_of(Dtype t) { return t == Dtype::f64 ? CUDA_R_64F : t == Dtype::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

struct Plan {
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t first = nullptr, second = nullptr, result = nullptr;  // b, a, c, each as its transpose
  cublasLtMatmulAlgo_t algorithm = {};
  bool found = false;
};

uint32_t alignment_of(const Product& p) {  // of all addresses, in bytes, up to 256
  const uintptr_t bits = reinterpret_cast<uintptr_t>(p.a) | reinterpret_cast<uintptr_t>(p.b) |
                         reinterpret_cast<uintptr_t>(p.c) | reinterpret_cast<uintptr_t>(p.added) | 256;
  return uint32_t(bits & (~bits + 1));
}

class Blas {  // of one device; kept to the end of the process
 public:
  explicit Blas(Device& device) : workspace_(device, {int64_t(workspace_bytes / 4)}, Dtype::f32) {
    blas_check(library().create(&handle_));
  }

  const Plan& plan(const Product& p) {
    const Key key{p.M, p.N, p.K, p.transpose_a, p.transpose_b, p.added != nullptr, p.operands, p.result, alignment_of(p)};
    const auto at = plans_.find(key);
    return at != plans_.end() ? at->second : plans_[key] = make(p);
  }

  void multiply(const Product& p) {
    const Plan& plan = this->plan(p);
    const double one_f64 = 1, beta_f64 = p.added ? 1 : 0;
    const float one_f32 = 1, beta_f32 = p.added ? 1 : 0;
    const bool f64 = p.operands == Dtype::f64;
    const void *one = f64 ? static_cast<const void*>(&one_f64) : &one_f32,
               *beta = f64 ? static_cast<const void*>(&beta_f64) : &beta_f32;
    blas_check(library().matmul(handle_, plan.product, one, p.b, plan.first, p.a, plan.second, beta,
                                p.added ? p.added : p.c, plan.result, p.c, plan.result, &plan.algorithm, workspace_.data<void>(), workspace_bytes, p.stream));
  }

 private:
  using Key = std::tuple<int64_t, int64_t, int64_t, bool, bool, bool, Dtype, Dtype, uint32_t>;

  Plan make(const Product& p) const {
    const Library& l = library();
    Plan plan;
    const bool f64 = p.operands == Dtype::f64;
    blas_check(
        l.product_create(&plan.product, f64 ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F, f64 ? CUDA_R_64F : CUDA_R_32F));
    const cublasOperation_t first = p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                            second = p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    blas_check(l.product_set(plan.product, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first));
    blas_check(l.product_set(plan.product, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second));
    auto layout = [&](cublasLtMatrixLayout_t& made, Dtype t, int64_t outer,
                      int64_t inner) {  // of a row-major [outer,inner]
      blas_check(l.layout_create(&made, type_of(t), uint64_t(inner), uint64_t(outer), inner));
    };
    layout(plan.first, p.operands, p.transpose_b ? p.N : p.K, p.transpose_b ? p.K : p.N);
    layout(plan.second, p.operands, p.transpose_a ? p.K : p.M, p.transpose_a ? p.M : p.K);
    layout(plan.result, p.result, p.M, p.N);

    cublasLtMatmulPreference_t preference;
    blas_check(l.preference_create(&preference));
    auto prefer = [&](cublasLtMatmulPreferenceAttributes_t what, auto value) {
      blas_check(l.preference_set(preference, what, &value, sizeof value));
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t(workspace_bytes));
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
           uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));  // in order, not in place
    for (auto what : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      prefer(what, alignment_of(p));
    cublasLtMatmulHeuristicResult_t candidates[16];
    int count = 0;
    const cublasStatus_t status = l.algorithms(handle_, plan.product, plan.first, plan.second, plan.result, plan.result,
                                               preference, 16, candidates, &count);
    l.preference_destroy(preference);
    if (status != CUBLAS_STATUS_SUCCESS) count = 0;  // it knows none
    for (int i = 0; i < count && !plan.found; ++i) {
      uint32_t scheme = 0;
      size_t written = 0;
      blas_check(l.algorithm_get(&candidates[i].algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme, sizeof scheme,
                                 &written));
      plan.found = candidates[i].state == CUBLAS_STATUS_SUCCESS && candidates[i].workspaceSize <= workspace_bytes &&
                   (scheme == CUBLASLT_REDUCTION_SCHEME_NONE || scheme == CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
      plan.algorithm = candidates[i].algo;
    }
    return plan;
  }

  cublasLtHandle_t handle_ = nullptr;
  Tensor workspace_;
  std::map<Key, Plan> plans_;
};

Blas& blas_of(Device& device) {
  static auto& all = *new std::map<Device*, Blas>;  // the driver may be gone before static storage is
  return all.try_emplace(&device, device).first->second;
}

}  // namespace

bool blas_takes(Device& device, const Product& p) { return library().file && blas_of(device).plan(p).found; }

void blas_matmul(Device& device, const Product& p) { blas_of(device).multiply(p); }

std::string blas_version() {
  if (!library().file) return "";
  const size_t v = library().version();  // 130002, from 12.0 on
  return "cuBLASLt " + std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." + std::to_string(v % 100);
}

}  // namespace taper::cuda
