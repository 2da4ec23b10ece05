//! Convolutions and dense layers of arrays against their definition.

use ndarray::{Array1, Array4, ArrayView2, Axis, s};

use super::*;
use crate::nd::conv::{self, Options, Padding};
use crate::nd::dense;
use crate::test_support::cpus;

/// Input height, width and channels; kernel and filters; options.
type Case = ([usize; 3], ([usize; 2], usize), Options);

const fn options(stride: usize, padding: Padding) -> Options {
    Options { stride, padding }
}

const CASES: [Case; 15] = [
    // Next to the input: channels that are not padded.
    ([8, 8, 1], ([3, 3], 16), Options::SAME),
    ([7, 9, 3], ([3, 3], 20), Options::SAME),
    ([9, 6, 3], ([5, 3], 7), options(2, Padding::Same)),
    ([5, 5, 4], ([2, 4], 1), Options::SAME),
    // Winograd's algorithm: tiles of 4 results and of 3, whole and cut off; weights larger than the activations.
    ([8, 8, 16], ([3, 3], 32), Options::SAME),
    ([7, 10, 5], ([3, 3], 17), options(1, Padding::Zeros([1, 1]))),
    ([9, 9, 33], ([3, 3], 16), Options::VALID),
    ([6, 6, 64], ([3, 3], 70), options(1, Padding::Zeros([2, 0]))),
    ([3, 3, 130], ([3, 3], 100), Options::SAME),
    // What no other algorithm is for.
    ([6, 7, 16], ([3, 3], 16), options(2, Padding::Zeros([1, 1]))),
    ([7, 5, 20], ([1, 1], 33), options(3, Padding::Same)),
    ([6, 6, 18], ([4, 4], 16), Options::SAME),
    ([4, 5, 6], ([4, 5], 3), Options::VALID),
    ([2, 3, 9], ([2, 2], 5), options(1, Padding::Zeros([3, 2]))),
    ([2, 2, 150], ([2, 2], 90), Options::SAME),
];

/// Output size, and zeros before the image, in one direction.
fn extent(length: usize, kernel: usize, stride: usize, padding: Option<usize>) -> [usize; 2] {
    match padding {
        Some(padding) => [(length + 2 * padding - kernel) / stride + 1, padding],
        None => {
            let out = length.div_ceil(stride);
            [out, ((out - 1) * stride + kernel).saturating_sub(length) / 2]
        }
    }
}

/// y without a bias, and the gradients of x and of the weights.
fn reference(
    options: Options,
    x: &Array4<f64>,
    weights: &Array4<f64>,
    dy: impl Fn(usize, usize) -> Array4<f64>,
) -> [Array4<f64>; 4] {
    let ((images, height, width, _), (kh, kw, _, filters)) = (x.dim(), weights.dim());
    let padding = |d: usize| match options.padding {
        Padding::Same => None,
        Padding::Zeros(padding) => Some(padding[d]),
    };
    let [rows, above] = extent(height, kh, options.stride, padding(0));
    let [columns, left] = extent(width, kw, options.stride, padding(1));
    let mut y = Array4::zeros((images, rows, columns, filters));
    let (dy, mut dx, mut dw) = (dy(rows, columns), Array4::zeros(x.dim()), Array4::zeros(weights.dim()));
    for (oy, ox) in (0..rows).flat_map(|oy| (0..columns).map(move |ox| (oy, ox))) {
        for (ky, kx) in (0..kh).flat_map(|ky| (0..kw).map(move |kx| (ky, kx))) {
            let (iy, ix) = (oy * options.stride + ky, ox * options.stride + kx);
            if iy < above || iy >= height + above || ix < left || ix >= width + left {
                continue;
            }
            let (iy, ix) = (iy - above, ix - left);
            let (x, dy) = (x.slice(s![.., iy, ix, ..]), dy.slice(s![.., oy, ox, ..]));
            let weights = weights.slice(s![ky, kx, .., ..]);
            let mut y = y.slice_mut(s![.., oy, ox, ..]);
            y += &x.dot(&weights);
            let mut dw = dw.slice_mut(s![ky, kx, .., ..]);
            dw += &x.t().dot(&dy);
            let mut dx = dx.slice_mut(s![.., iy, ix, ..]);
            dx += &dy.dot(&weights.t());
        }
    }
    [y, dx, dw, dy]
}

#[test]
fn matches_reference() {
    for (([height, width, channels], (kernel, filters), options), images) in
        CASES.into_iter().flat_map(|case| [1, 31, 70].map(|images| (case, images)))
    {
        let x = numbers(images as u64, (images, height, width, channels));
        let weights = numbers(2, (kernel[0], kernel[1], channels, filters));
        let bias = numbers(3, filters);
        let dy = |rows, columns| wide(numbers(4, (images, rows, columns, filters)).view());
        let [y, dx, dw, dy] = reference(options, &wide(x.view()), &wide(weights.view()), dy);
        let db = dy.sum_axis(Axis(0)).sum_axis(Axis(0)).sum_axis(Axis(0));
        let (y, dy) = (y + wide(bias.view()), dy.mapv(|dy| dy as f32));
        // Winograd's sums are of numbers some times as large as the results.
        let of_sum = |terms: usize| 2e-5 * (terms as f64).sqrt().max(4.0);
        let per_pixel = of_sum(kernel[0] * kernel[1] * channels.max(filters));
        let per_weight = of_sum(dy.len() / filters);
        for cpu in cpus() {
            let name = named(cpu, (x.dim(), kernel, filters, options));
            let got = conv::forward(cpu, options, x.view(), weights.view(), Some(bias.view())).unwrap();
            assert_close(&format!("y, {name}"), &got, &y, per_pixel);
            let got = conv::backward(cpu, options, x.view(), weights.view(), dy.view()).unwrap();
            assert_close(&format!("dx, {name}"), &got.dx, &dx, per_pixel);
            assert_close(&format!("dweights, {name}"), &got.dweights, &dw, per_weight);
            assert_close(&format!("dbias, {name}"), &got.dbias, &db, per_weight);
            let alone = conv::backward_weights(cpu, options, x.view(), kernel, dy.view()).unwrap();
            assert!((alone.dweights, alone.dbias) == (got.dweights, got.dbias), "{name}");
        }
    }
}

/// On any number of threads, with every algorithm, whether the weights' gradient is summed by blocks or by panels.
#[test]
fn layouts_and_threads_change_nothing() {
    let cpu = *cpus().last().unwrap();
    for ([height, width, channels], (kernel, filters), options) in CASES {
        for images in [3, 40] {
            let x = numbers(1, (images, height, width, channels));
            let weights = numbers(2, (kernel[0], kernel[1], channels, filters));
            let run = |x: &Array4<f32>, weights: &Array4<f32>| {
                let y = conv::forward(cpu, options, x.view(), weights.view(), None).unwrap();
                let gradients = conv::backward(cpu, options, x.view(), weights.view(), y.view()).unwrap();
                (y, gradients)
            };
            let name = format!("{:?}, {kernel:?}, {filters}", x.dim());
            let want = on_any_threads(&name, || run(&x, &weights));
            for ((layout, x), (_, weights)) in layouts(&x).into_iter().zip(layouts(&weights).into_iter().rev()) {
                assert!(run(&x, &weights) == want, "{name}, {layout}");
            }
        }
    }
}

/// PyTorch's layouts of images and of weights, as they are passed.
#[test]
fn nchw_and_oihw_are_permuted_views() {
    let cpu = *cpus().last().unwrap();
    let (x, weights) = (numbers(1, (2, 3, 6, 5)), numbers(2, (8, 3, 3, 3)));
    let y = conv::forward(
        cpu,
        Options::VALID,
        x.view().permuted_axes([0, 2, 3, 1]),
        weights.view().permuted_axes([2, 3, 1, 0]),
        None,
    )
    .unwrap();
    let at = |n: usize, y: usize, column: usize, out: usize| {
        let taps = x.slice(s![n, .., y..y + 3, column..column + 3]);
        (&taps * &weights.slice(s![out, .., .., ..])).sum()
    };
    for ((n, row, column, out), &y) in y.indexed_iter() {
        assert!((y - at(n, row, column, out)).abs() < 1e-4);
    }
}

#[test]
fn a_dense_layer_is_a_product_of_matrices() {
    for (inputs, outputs, images) in [(1, 1, 1), (7, 5, 3), (16, 10, 32), (100, 33, 70), (300, 64, 40)] {
        let (x, weights, bias) = (numbers(1, (images, inputs)), numbers(2, (inputs, outputs)), numbers(3, outputs));
        let dy = numbers(4, (images, outputs));
        let product = |a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>| wide(a).dot(&wide(b));
        let run = |cpu| {
            let y = dense::forward(cpu, x.view(), weights.view(), Some(bias.view())).unwrap();
            (y, dense::backward(cpu, x.view(), weights.view(), dy.view()).unwrap())
        };
        for cpu in cpus() {
            let name = named(cpu, (images, inputs, outputs));
            let (y, gradients) = on_any_threads(&name, || run(cpu));
            assert_close(&name, &y, &(product(x.view(), weights.view()) + wide(bias.view())), 2e-5);
            assert_close(&name, &gradients.dx, &product(dy.view(), weights.t()), 2e-5);
            assert_close(&name, &gradients.dweights, &product(x.t(), dy.view()), 2e-5);
            assert_close(&name, &gradients.dbias, &wide(dy.view()).sum_axis(Axis(0)), 2e-5);
            // PyTorch's `[out, in]`, and a part of a larger array.
            let transposed = weights.t().as_standard_layout().into_owned();
            let mut wider = numbers(5, (2 * images, inputs + 3));
            wider.slice_mut(s![..;2, 1..inputs + 1]).assign(&x);
            let part = wider.slice(s![..;2, 1..inputs + 1]);
            assert!(dense::forward(cpu, part, transposed.t(), Some(bias.view())).unwrap() == y, "{name}");
        }
    }
}

#[test]
fn no_images_have_no_gradient() {
    let cpu = *cpus().last().unwrap();
    for channels in [3, 16] {
        let (x, weights) = (Array4::zeros((0, 8, 8, channels)), numbers(1, (3, 3, channels, 16)));
        let y = conv::forward(cpu, Options::SAME, x.view(), weights.view(), None).unwrap();
        assert_eq!(y.dim(), (0, 8, 8, 16));
        let gradients = conv::backward(cpu, Options::SAME, x.view(), weights.view(), y.view()).unwrap();
        assert_eq!((gradients.dx, gradients.dbias), (x, Array1::zeros(16)));
        assert_eq!(gradients.dweights, Array4::<f32>::zeros((3, 3, channels, 16)));
    }
}
