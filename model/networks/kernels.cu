// What a U-Net computes between its convolutions, in float16 (compiled with BFLOAT16: in bfloat16) on channels-last
// images. Each value is read and written once. No header is included, so NVRTC compiles this file wherever torch runs. A thread reads a pack at a time: eight
// channels of one voxel. So the number of channels is a multiple of 8, and so is the pitch: the channels in memory from
// one voxel's row to the next. Sums are float32 over a few hundred voxels, then merged in float64 in a fixed order: the
// same bits every time.

typedef unsigned short half16;  // the 16 bits of a float16, or of a bfloat16
struct Pack { float at[8]; };

__device__ __forceinline__ Pack load(const half16* place) {
  uint4 bits = *reinterpret_cast<const uint4*>(place);
  unsigned int words[4] = {bits.x, bits.y, bits.z, bits.w};
  Pack out;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    half16 one = (half16)(words[i / 2] >> (i % 2 * 16));
#ifdef BFLOAT16
    out.at[i] = __uint_as_float((unsigned int)one << 16);
#else
    asm("cvt.f32.f16 %0, %1;" : "=f"(out.at[i]) : "h"(one));
#endif
  }
  return out;
}

__device__ __forceinline__ void store(half16* place, Pack values) {
  unsigned int words[4] = {0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    half16 one;
#ifdef BFLOAT16
    unsigned int bits = __float_as_uint(values.at[i]);  // to the nearest, ties to even; NaN stays NaN
    one = values.at[i] == values.at[i] ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fff;
#else
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(one) : "f"(values.at[i]));
#endif
    words[i / 2] |= (unsigned int)one << (i % 2 * 16);
  }
  *reinterpret_cast<uint4*>(place) = make_uint4(words[0], words[1], words[2], words[3]);
}

__device__ __forceinline__ Pack load32(const float* place) {
  Pack out;
#pragma unroll
  for (int i = 0; i < 8; ++i) out.at[i] = place[i];
  return out;
}

// Merge two sets of values, each given by its count, mean and sum of squares about the mean (Chan et al. 1983).
template <typename T>
__device__ __forceinline__ void merge(T& count, T& mean, T& squares, T other_count, T other_mean, T other_squares) {
  T total = count + other_count;
  if (other_count == 0) return;
  T off = other_mean - mean;
  mean += off * (other_count / total);
  squares += other_squares + off * off * (count * (other_count / total));
  count = total;
}

__device__ __forceinline__ void add(float* sums, float* squares, const Pack& value, const Pack& shift) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    float off = value.at[i] - shift.at[i];
    sums[i] += off;
    squares[i] += off * off;
  }
}

// Mean, sum of squares about it, and number of voxels of every channel over the `each` voxels of a block, or over those
// of them that are body. image: (images, voxels, channels); inside: (images, voxels), 1 in the body, 0 outside; null: all
// voxels count. parts: (images, gridDim.x, 3, channels).
// Grid: (blocks, images); 256 threads, each with a pack of channels.
extern "C" __global__ void moments(const half16* image, const unsigned char* inside, float* parts, int voxels,
                                   int channels, int each) {
  __shared__ float shared[2][256 * 8];
  __shared__ int counts[256];
  int groups = channels / 8, rows = 256 / groups;
  int group = threadIdx.x % groups, row = threadIdx.x / groups;
  int first = blockIdx.x * each, last = min(first + each, voxels);
  const half16* here = image + (long long)blockIdx.y * voxels * channels + group * 8;
  float sums[8] = {}, squares[8] = {};
  Pack shift = {};
  int count = 0;
  if (inside && row < rows) {
    const unsigned char* mask = inside + (long long)blockIdx.y * voxels;
    for (int start = first + row; start < last; start += 4 * rows) {
      Pack four[4];  // four loads under way at a time
      bool counts_too[4];
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        int voxel = start + n * rows;
        counts_too[n] = voxel < last && mask[voxel];
        if (counts_too[n]) four[n] = load(here + (long long)voxel * channels);
      }
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        if (!counts_too[n]) continue;
        if (!count) shift = four[n];
        add(sums, squares, four[n], shift);
        ++count;
      }
    }
  } else if (row < rows && first + row < last) {
    shift = load(here + (long long)(first + row) * channels);
    int voxel = first + row;
    for (; voxel + 3 * rows < last; voxel += 4 * rows, count += 4) {
      Pack four[4];  // four loads under way at a time
#pragma unroll
      for (int n = 0; n < 4; ++n) four[n] = load(here + (long long)(voxel + n * rows) * channels);
#pragma unroll
      for (int n = 0; n < 4; ++n) add(sums, squares, four[n], shift);
    }
    for (; voxel < last; voxel += rows, ++count) add(sums, squares, load(here + (long long)voxel * channels), shift);
  }
  if (row < rows) {
    if (group == 0) counts[row] = count;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float mean = count ? sums[i] / count : 0.0f;
      shared[0][row * channels + group * 8 + i] = shift.at[i] + mean;
      shared[1][row * channels + group * 8 + i] = squares[i] - sums[i] * mean;
    }
  }
  __syncthreads();
  for (int channel = threadIdx.x; channel < channels; channel += 256) {
    float count = 0, mean = 0, squares = 0;
    for (int r = 0; r < rows; ++r) {
      float row_count = counts[r];
      merge(count, mean, squares, row_count, shared[0][r * channels + channel], shared[1][r * channels + channel]);
    }
    float* out = parts + ((long long)blockIdx.y * gridDim.x + blockIdx.x) * 3 * channels + channel;
    out[0] = mean;
    out[channels] = squares;
    out[2 * channels] = count;
  }
}

// Instance normalisation as a factor and a summand of every channel, from what `moments` found.
// parts: as there; out: (images, 2, channels). weight, bias: of the normalisation.
// Grid: (channels, images); 128 threads.
extern "C" __global__ void factors(const float* parts, const float* weight, const float* bias, float* out, int channels,
                                   int blocks, double eps) {
  __shared__ double shared[3][128];
  int channel = blockIdx.x, thread = threadIdx.x;
  double count = 0, mean = 0, squares = 0;
  for (int block = thread; block < blocks; block += 128) {
    const float* in = parts + ((long long)blockIdx.y * blocks + block) * 3 * channels + channel;
    merge(count, mean, squares, (double)in[2 * channels], (double)in[0], (double)in[channels]);
  }
  shared[0][thread] = count;
  shared[1][thread] = mean;
  shared[2][thread] = squares;
  __syncthreads();
  for (int half = 64; half; half /= 2) {
    if (thread < half)
      merge(shared[0][thread], shared[1][thread], shared[2][thread], shared[0][thread + half], shared[1][thread + half],
           shared[2][thread + half]);
    __syncthreads();
  }
  if (thread == 0) {
    double factor = weight[channel] / sqrt(shared[2][0] / shared[0][0] + eps);
    float* to = out + (long long)blockIdx.y * 2 * channels + channel;
    to[0] = (float)factor;
    to[channels] = (float)(bias[channel] - shared[1][0] * factor);
  }
}

// SELU (Klambauer et al. 2017). NaN stays NaN.
struct Selu {
  __device__ __forceinline__ float operator()(float x) const {
    const float alpha = 1.6732632423543772f, scale = 1.0507009873554805f;
    return scale * (x > 0 ? x : alpha * (__expf(x) - 1));
  }
};

// LeakyReLU; with a slope of 1 the value itself. NaN stays NaN.
struct Leaky {
  float slope;
  __device__ __forceinline__ float operator()(float x) const { return x > 0 ? x : slope * x; }
};

// Normalisation, then the activation, in float32.
template <typename Activation>
__device__ __forceinline__ Pack activated(Pack value, const Pack& factor, const Pack& summand, Activation activation) {
#pragma unroll
  for (int i = 0; i < 8; ++i) value.at[i] = activation(value.at[i] * factor.at[i] + summand.at[i]);
  return value;
}

// Normalise image (images, voxels, channels) into out, whose rows are `pitch` channels apart; out may be the image.
// Grid: (any, images); the number of threads of an image is a multiple of channels / 8.
extern "C" __global__ void normalise(const half16* image, const float* factors, half16* out, int voxels, int channels,
                                     int pitch) {
  int groups = channels / 8, thread = blockIdx.x * blockDim.x + threadIdx.x;
  int group = thread % groups, step = gridDim.x * blockDim.x / groups;
  const float* mine = factors + (long long)blockIdx.y * 2 * channels + group * 8;
  Pack factor = load32(mine), summand = load32(mine + channels);
  const half16* from = image + (long long)blockIdx.y * voxels * channels + group * 8;
  half16* to = out + (long long)blockIdx.y * voxels * pitch + group * 8;
  int voxel = thread / groups;
  for (; voxel + step < voxels; voxel += 2 * step) {  // two loads under way at a time
    Pack one = load(from + (long long)voxel * channels), other = load(from + (long long)(voxel + step) * channels);
    store(to + (long long)voxel * pitch, activated(one, factor, summand, Selu()));
    store(to + (long long)(voxel + step) * pitch, activated(other, factor, summand, Selu()));
  }
  if (voxel < voxels)
    store(to + (long long)voxel * pitch, activated(load(from + (long long)voxel * channels), factor, summand, Selu()));
}

// LeakyReLU of the normalised image, or of its sum with another image, written to out, which may be either image.
// image, other, out: (images, voxels, channels). other: null for no sum; other_factors: its normalisation, null for none.
// Grid: (any, images); the number of threads of an image is a multiple of channels / 8.
extern "C" __global__ void leaky(const half16* image, const float* factors, const half16* other,
                                 const float* other_factors, half16* out, int voxels, int channels, double slope) {
  int groups = channels / 8, thread = blockIdx.x * blockDim.x + threadIdx.x;
  int group = thread % groups, step = gridDim.x * blockDim.x / groups;
  long long image_of_block = (long long)blockIdx.y * 2 * channels + group * 8;
  Pack factor = load32(factors + image_of_block), summand = load32(factors + image_of_block + channels);
  Pack other_factor = {}, other_summand = {};
  if (other_factors) {
    other_factor = load32(other_factors + image_of_block);
    other_summand = load32(other_factors + image_of_block + channels);
  }
  Leaky activation = {(float)slope}, none = {1.0f};
  long long first = (long long)blockIdx.y * voxels * channels + group * 8;
  for (int round = thread / groups; round < voxels; round += 2 * step) {
    Pack values[2] = {}, others[2] = {};  // loads of two voxels under way at a time
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      int voxel = round + n * step;
      if (voxel < voxels) values[n] = load(image + first + (long long)voxel * channels);
      if (voxel < voxels && other) others[n] = load(other + first + (long long)voxel * channels);
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      int voxel = round + n * step;
      Pack value = activated(values[n], factor, summand, none);
      Pack more = other_factors ? activated(others[n], other_factor, other_summand, none) : others[n];
#pragma unroll
      for (int i = 0; i < 8; ++i) value.at[i] = activation(value.at[i] + more.at[i]);
      if (voxel < voxels) store(out + first + (long long)voxel * channels, value);
    }
  }
}

__device__ __forceinline__ float product(const Pack& one, const Pack& other) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) sum += one.at[i] * other.at[i];
  return sum;
}

// Normalisation and activation, then a 1x1x1 convolution to `classes`, 1 or 2, of the `outputs` of a network.
// weight: (classes, channels); out: (images, outputs, voxels) float32, at the first of these classes.
// channels / 8 is a power of two, at most 32.
template <typename Activation>
__device__ __forceinline__ void classified(const half16* image, const float* factors, const float* weight,
                                           const float* bias, float* out, int voxels, int channels, int classes,
                                           int outputs, Activation activation) {
  int groups = channels / 8, thread = blockIdx.x * blockDim.x + threadIdx.x;
  int group = thread % groups, step = gridDim.x * blockDim.x / groups;
  const float* mine = factors + (long long)blockIdx.y * 2 * channels + group * 8;
  Pack factor = load32(mine), summand = load32(mine + channels);
  Pack weights[2] = {load32(weight + group * 8), load32(weight + (classes - 1) * channels + group * 8)};
  float biases[2] = {bias[0], bias[classes - 1]};
  const half16* from = image + (long long)blockIdx.y * voxels * channels + group * 8;
  float* to = out + (long long)blockIdx.y * outputs * voxels;
  int rounds = (voxels + 2 * step - 1) / (2 * step);  // every thread of a warp takes part in every round
  for (int round = 0; round < rounds; ++round) {
    Pack values[2] = {};  // two loads under way at a time
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      int voxel = thread / groups + (2 * round + n) * step;
      if (voxel < voxels) values[n] = load(from + (long long)voxel * channels);
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      int voxel = thread / groups + (2 * round + n) * step;
      Pack value = activated(values[n], factor, summand, activation);
      float own = product(value, weights[0]), other = product(value, weights[1]);
      if (groups > 1) {  // even threads add up the first class, odd ones the second
        float passed_on = group % 2 ? own : other;
        own = (group % 2 ? other : own) + __shfl_xor_sync(0xffffffffu, passed_on, 1);
        for (int half = groups / 2; half > 1; half /= 2) own += __shfl_xor_sync(0xffffffffu, own, half);
      }
      if (voxel < voxels && group < 2 && group < classes) to[(long long)group * voxels + voxel] = own + biases[group];
      if (voxel < voxels && groups == 1 && classes == 2) to[(long long)voxels + voxel] = other + biases[1];
    }
  }
}

// `classified` after SELU. Grid: (any, images); the number of threads of an image is a multiple of 32.
extern "C" __global__ void classify(const half16* image, const float* factors, const float* weight, const float* bias,
                                    float* out, int voxels, int channels, int classes, int outputs) {
  classified(image, factors, weight, bias, out, voxels, channels, classes, outputs, Selu());
}

// `classified` after LeakyReLU.
extern "C" __global__ void classify_leaky(const half16* image, const float* factors, const float* weight,
                                          const float* bias, float* out, int voxels, int channels, int classes,
                                          int outputs, double slope) {
  Leaky activation = {(float)slope};
  classified(image, factors, weight, bias, out, voxels, channels, classes, outputs, activation);
}

// Maxima of 2 x 2 x 2 voxels; NaN stays NaN. image: (images, x, y, z), rows `pitch` channels apart;
// out: (images, x / 2, y / 2, z / 2, channels). Grid: (any, images).
extern "C" __global__ void pool(const half16* image, half16* out, int x, int y, int z, int channels, int pitch) {
  int groups = channels / 8, total = (x / 2) * (y / 2) * (z / 2) * groups;
  const half16* from = image + (long long)blockIdx.y * x * y * z * pitch;
  half16* to = out + (long long)blockIdx.y * total * 8;
  for (int index = blockIdx.x * blockDim.x + threadIdx.x; index < total; index += gridDim.x * blockDim.x) {
    int group = index % groups, voxel = index / groups;
    int k = voxel % (z / 2), j = voxel / (z / 2) % (y / 2), i = voxel / (z / 2) / (y / 2);
    Pack largest;
#pragma unroll
    for (int corner = 0; corner < 8; ++corner) {
      long long row = ((long long)(2 * i + corner / 4) * y + 2 * j + corner / 2 % 2) * z + 2 * k + corner % 2;
      Pack value = load(from + row * pitch + group * 8);
#pragma unroll
      for (int n = 0; n < 8; ++n)
        if (corner == 0 || value.at[n] > largest.at[n] || value.at[n] != value.at[n]) largest.at[n] = value.at[n];
    }
    store(to + (long long)index * 8, largest);
  }
}

// Means of a x b x c voxels. image: (images, x, y, z, channels), of edges that a, b and c divide;
// out: (images, x / a, y / b, z / c, channels). Grid: (any, images).
extern "C" __global__ void average(const half16* image, half16* out, int x, int y, int z, int a, int b, int c,
                                   int channels) {
  int groups = channels / 8, total = (x / a) * (y / b) * (z / c) * groups;
  const half16* from = image + (long long)blockIdx.y * x * y * z * channels;
  half16* to = out + (long long)blockIdx.y * total * 8;
  for (int index = blockIdx.x * blockDim.x + threadIdx.x; index < total; index += gridDim.x * blockDim.x) {
    int group = index % groups, voxel = index / groups;
    int k = voxel % (z / c), j = voxel / (z / c) % (y / b), i = voxel / (z / c) / (y / b);
    Pack sum = {};
    for (int corner = 0; corner < a * b * c; ++corner) {
      long long row = ((long long)(a * i + corner / (b * c)) * y + b * j + corner / c % b) * z + c * k + corner % c;
      Pack value = load(from + row * channels + group * 8);
#pragma unroll
      for (int n = 0; n < 8; ++n) sum.at[n] += value.at[n];
    }
#pragma unroll
    for (int n = 0; n < 8; ++n) sum.at[n] /= a * b * c;
    store(to + (long long)index * 8, sum);
  }
}

// Raise the resolution: the values of every voxel and channel become its a x b x c neighbouring voxels.
// image: (images, x, y, z, a, b, c, channels); out: (images, a x, b y, c z), rows `pitch` channels apart.
// A thread writes the c neighbours along z. Grid: (any, images).
extern "C" __global__ void depth_to_space(const half16* image, half16* out, int x, int y, int z, int a, int b, int c,
                                          int channels, int pitch) {
  int groups = channels / 8, total = x * y * z * a * b * groups;
  const half16* from = image + (long long)blockIdx.y * total * c * 8;
  half16* to = out + (long long)blockIdx.y * x * y * z * a * b * c * pitch;
  for (int index = blockIdx.x * blockDim.x + threadIdx.x; index < total; index += gridDim.x * blockDim.x) {
    int group = index % groups, run = index / groups;
    int k = run % z, line = run / z, j = line % (b * y), i = line / (b * y);
    long long below = ((((long long)(i / a) * y + j / b) * z + k) * a * b + i % a * b + j % b) * c;
    const uint4* source = reinterpret_cast<const uint4*>(from) + below * groups + group;
    uint4* target = reinterpret_cast<uint4*>(to + (long long)run * c * pitch) + group;
    int n = 0;
    for (; n + 1 < c; n += 2) {  // two loads under way at a time
      uint4 one = source[n * groups], other = source[(n + 1) * groups];
      target[(long long)n * pitch / 8] = one;
      target[(long long)(n + 1) * pitch / 8] = other;
    }
    if (n < c) target[(long long)n * pitch / 8] = source[n * groups];
  }
}
