// The backward pass of instance or batch normalisation and SELU.
// Compiled together with model/networks/kernels.cu, which has the forward pass, `Pack`, `load` and `store`. No value of
// the forward pass is kept but the image and two numbers a channel, from which it is computed again. Sums are float32 over
// some tens of voxels, then float64 in a fixed order: the same bits every time.

// What stands for one group of eight channels.
struct Channels { Pack factor, summand, weight, bias; };

// factors: (images, 2, channels), by which a value becomes the normalised one.
__device__ __forceinline__ Channels channels_of(const float* factors, const float* weight, const float* bias,
                                                int channels, int group) {
  const float* mine = factors + (long long)blockIdx.y * 2 * channels + group * 8;
  Channels out = {load32(mine), load32(mine + channels), load32(weight + group * 8), load32(bias + group * 8)};
  return out;
}

// From a value to its normalised one, and from the gradient after SELU to that before it.
__device__ __forceinline__ void back(Pack& value, Pack& gradient, const Channels& of) {
  const float alpha = 1.6732632423543772f, scale = 1.0507009873554805f;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    value.at[i] = value.at[i] * of.factor.at[i] + of.summand.at[i];
    float before = value.at[i] * of.weight.at[i] + of.bias.at[i];
    gradient.at[i] *= scale * (before > 0 ? 1.0f : alpha * __expf(before));
  }
}

// Sums over the `each` voxels of a block, for every channel: of the gradient before SELU, and of its product with the
// normalised value. image, gradient: (images, voxels, channels); parts: (images, gridDim.x, 2, channels).
// Grid: (blocks, images); 256 threads, each with a pack of channels.
extern "C" __global__ void gradient_parts(const half16* image, const half16* gradient, const float* factors,
                                          const float* weight, const float* bias, float* parts, int voxels,
                                          int channels, int each) {
  __shared__ float shared[2][256 * 8];
  int groups = channels / 8, rows = 256 / groups;
  int group = threadIdx.x % groups, row = threadIdx.x / groups;
  int first = blockIdx.x * each, last = min(first + each, voxels);
  long long start = (long long)blockIdx.y * voxels * channels + group * 8;
  if (row < rows) {
    Channels of = channels_of(factors, weight, bias, channels, group);
    float sums[8] = {}, products[8] = {};
    for (int round = first + row; round < last; round += 2 * rows) {
      Pack values[2] = {}, gradients[2] = {};  // loads of two voxels under way at a time
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        long long voxel = round + n * rows;
        if (voxel < last) values[n] = load(image + start + voxel * channels);
        if (voxel < last) gradients[n] = load(gradient + start + voxel * channels);
      }
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        if (round + n * rows >= last) continue;
        back(values[n], gradients[n], of);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          sums[i] += gradients[n].at[i];
          products[i] += gradients[n].at[i] * values[n].at[i];
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      shared[0][row * channels + group * 8 + i] = sums[i];
      shared[1][row * channels + group * 8 + i] = products[i];
    }
  }
  __syncthreads();
  for (int channel = threadIdx.x; channel < channels; channel += 256) {
    float* out = parts + ((long long)blockIdx.y * gridDim.x + blockIdx.x) * 2 * channels + channel;
    for (int what = 0; what < 2; ++what) {
      float sum = 0;
      for (int r = 0; r < rows; ++r) sum += shared[what][r * channels + channel];
      out[what * channels] = sum;
    }
  }
}

// The sums of all blocks. parts: as above; out: (images, 2, channels). Grid: (channels, images); 128 threads.
extern "C" __global__ void gradient_sums(const float* parts, float* out, int channels, int blocks) {
  __shared__ double shared[2][128];
  int channel = blockIdx.x, thread = threadIdx.x;
  double sum = 0, product = 0;
  for (int block = thread; block < blocks; block += 128) {
    const float* in = parts + ((long long)blockIdx.y * blocks + block) * 2 * channels + channel;
    sum += in[0];
    product += in[channels];
  }
  shared[0][thread] = sum;
  shared[1][thread] = product;
  __syncthreads();
  for (int half = 64; half; half /= 2) {
    if (thread < half) {
      shared[0][thread] += shared[0][thread + half];
      shared[1][thread] += shared[1][thread + half];
    }
    __syncthreads();
  }
  if (thread == 0) {
    float* to = out + (long long)blockIdx.y * 2 * channels + channel;
    to[0] = (float)shared[0][0];
    to[channels] = (float)shared[1][0];
  }
}

// The gradient before the normalisation. sums: of `gradient_sums`; null where the statistics are fixed.
// Grid: (any, images); the number of threads of an image is a multiple of channels / 8.
extern "C" __global__ void gradient_image(const half16* image, const half16* gradient, const float* factors,
                                          const float* weight, const float* bias, const float* sums, half16* out,
                                          int voxels, int channels) {
  int groups = channels / 8, thread = blockIdx.x * blockDim.x + threadIdx.x;
  int group = thread % groups, step = gridDim.x * blockDim.x / groups;
  long long start = (long long)blockIdx.y * voxels * channels + group * 8;
  Channels of = channels_of(factors, weight, bias, channels, group);
  Pack mean = {}, mean_product = {};
  if (sums) {
    const float* mine = sums + (long long)blockIdx.y * 2 * channels + group * 8;
    mean = load32(mine), mean_product = load32(mine + channels);
#pragma unroll
    for (int i = 0; i < 8; ++i) mean.at[i] /= voxels, mean_product.at[i] /= voxels;
  }
  for (int round = thread / groups; round < voxels; round += 2 * step) {
    Pack values[2] = {}, gradients[2] = {};  // loads of two voxels under way at a time
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      long long voxel = (long long)round + n * step;
      if (voxel < voxels) values[n] = load(image + start + voxel * channels);
      if (voxel < voxels) gradients[n] = load(gradient + start + voxel * channels);
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      long long voxel = (long long)round + n * step;
      if (voxel >= voxels) continue;
      back(values[n], gradients[n], of);
#pragma unroll
      for (int i = 0; i < 8; ++i)
        gradients[n].at[i] = of.weight.at[i] * of.factor.at[i] *
                             (gradients[n].at[i] - mean.at[i] - values[n].at[i] * mean_product.at[i]);
      store(out + start + voxel * channels, gradients[n]);
    }
  }
}
