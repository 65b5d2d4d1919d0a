// HOST_DEVICE: the one macro; marks inline functions that a CUDA kernel may call too.
#pragma once

#ifdef __CUDACC__
#define HOST_DEVICE __host__ __device__
#else
#define HOST_DEVICE
#endif
