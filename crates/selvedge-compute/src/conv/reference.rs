//! The naive convolution on logical arrays, against which tests compare the kernels.

use super::Conv2dShape;

/// Calls `f(output index, input index, logical weight index)` for each product of the convolution of one image.
pub(super) fn for_each_product(shape: &Conv2dShape, mut f: impl FnMut(usize, usize, usize)) {
    let Conv2dShape { input, output, kernel, stride, padding } = *shape;
    for y in 0..output.height {
        for x in 0..output.width {
            for ky in 0..kernel[0] {
                for kx in 0..kernel[1] {
                    let (iy, ix) = (
                        (y * stride + ky) as isize - padding[0] as isize,
                        (x * stride + kx) as isize - padding[1] as isize,
                    );
                    if iy < 0 || ix < 0 || iy >= input.height as isize || ix >= input.width as isize {
                        continue;
                    }
                    for ci in 0..input.channels {
                        for co in 0..output.channels {
                            f(
                                (y * output.width + x) * output.channels + co,
                                (iy as usize * input.width + ix as usize) * input.channels + ci,
                                ((ky * kernel[1] + kx) * input.channels + ci) * output.channels + co,
                            );
                        }
                    }
                }
            }
        }
    }
}
