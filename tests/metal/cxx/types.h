// The types that Metal, CUDA and the runtime share, without a header of the system.
#pragma once

typedef __INT8_TYPE__ int8_t;
typedef __UINT8_TYPE__ uint8_t, uchar;
typedef __INT16_TYPE__ int16_t;
typedef __UINT16_TYPE__ uint16_t, ushort;
typedef __INT32_TYPE__ int32_t;
typedef __UINT32_TYPE__ uint32_t, uint;
typedef __INT64_TYPE__ int64_t;
typedef __UINT64_TYPE__ uint64_t, ulong;
typedef __SIZE_TYPE__ size_t;
typedef __PTRDIFF_TYPE__ ptrdiff_t;

struct uint2 {
  uint x, y;
};
struct uint3 {
  uint x, y, z;
};
