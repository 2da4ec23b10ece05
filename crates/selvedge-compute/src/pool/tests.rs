//! Pooling against plain f64 loops on every instruction set, for windows that overlap, touch or leave gaps.

use half::bf16;

use super::*;
use crate::BLOCK;
use crate::test_support::{Numbers, assert_close, central_difference, cpus, wide};

/// Height, width and channels, size and stride of the windows.
type Case = ([usize; 3], [usize; 2], [usize; 2]);

const SHAPES: [Case; 9] = [
    ([2, 2, 1], [2, 2], [2, 2]),
    ([7, 5, 16], [2, 2], [2, 2]),
    ([6, 9, 17], [3, 3], [2, 2]),
    ([5, 5, 3], [2, 3], [3, 1]),
    ([4, 7, 33], [1, 1], [2, 3]),
    ([8, 8, 5], [2, 2], [3, 3]),
    ([5, 4, 16], [5, 4], [1, 1]),
    ([3, 6, 20], [3, 2], [1, 1]),
    ([20, 17, 2], [20, 17], [1, 1]),
];

fn shapes() -> impl Iterator<Item = Pool2dShape> {
    let padded =
        SHAPES.iter().map(|&([h, w, c], size, stride)| Pool2dShape::new(BlockShape::new(h, w, c), size, stride));
    // A network's input has no padding.
    padded.chain([1, 3].map(|c| Pool2dShape::new(BlockShape::input(5, 6, c), [2, 2], [2, 2])))
}

/// Calls `f` with every output element and the input elements of its window, in order.
fn windows(shape: &Pool2dShape, mut f: impl FnMut(usize, &[usize])) {
    let (input, output) = (shape.input(), shape.output());
    for y in 0..output.height {
        for x in 0..output.width {
            for lane in 0..BLOCK * input.channel_stride {
                let mut window = vec![];
                for wy in 0..shape.size[0] {
                    for wx in 0..shape.size[1] {
                        window.push(input.offset(y * shape.stride[0] + wy, x * shape.stride[1] + wx) + lane);
                    }
                }
                f(output.offset(y, x) + lane, &window);
            }
        }
    }
}

fn reference_max(shape: &Pool2dShape, x: &[f64]) -> (Vec<f64>, Vec<u16>) {
    let (mut y, mut indices) = (vec![0.0; shape.output().len()], vec![0; shape.output().len()]);
    windows(shape, |to, window| {
        let best = (1..window.len()).fold(0, |best, k| if x[window[k]] > x[window[best]] { k } else { best });
        y[to] = x[window[best]];
        indices[to] = best as u16;
    });
    (y, indices)
}

fn reference_average(shape: &Pool2dShape, x: &[f64]) -> Vec<f64> {
    let mut y = vec![0.0; shape.output().len()];
    windows(shape, |to, window| y[to] = window.iter().map(|&i| x[i]).sum::<f64>() / window.len() as f64);
    y
}

/// Runs `f` for the rows of `out` in two chunks, as two threads would.
fn in_chunks<T>(out: &mut [T], shape: &BlockShape, mut f: impl FnMut(Range<usize>, &mut [T])) {
    let half = shape.height / 2;
    let (upper, lower) = out.split_at_mut(half * shape.row());
    f(half..shape.height, lower);
    f(0..half, upper);
}

fn matches_reference<E: Element>() {
    for (cpu, shape) in cpus().into_iter().flat_map(|cpu| shapes().map(move |shape| (cpu, shape))) {
        let name = format!("{shape:?} on {}", cpu.isa());
        let (input, output) = (shape.input(), shape.output());
        let mut numbers = Numbers::new(input.len() as u64);
        let mut x = numbers.block::<E>(&input);
        // Few different values, so that pixels of a window tie.
        for x in &mut x {
            *x = E::from_f32((x.to_f32() * 2.0).round());
        }
        let dy = numbers.block::<E>(&output);
        let zero = E::from_f32(0.0);
        let (mut y, mut indices, mut dx) = (vec![zero; output.len()], vec![9; output.len()], vec![zero; input.len()]);

        let (want, want_indices) = reference_max(&shape, &wide(&x));
        max_forward(cpu, &shape, 0..output.height, &x, &mut y, Some(&mut indices));
        assert_eq!(wide(&y), want, "{name}");
        assert_eq!(indices, want_indices, "{name}");
        y.fill(zero);
        in_chunks(&mut y, &output, |rows, y| max_forward(cpu, &shape, rows, &x, y, None));
        assert_eq!(wide(&y), want, "{name} in chunks, without indices");

        let mut want = vec![0.0; input.len()];
        windows(&shape, |from, window| want[window[usize::from(want_indices[from])]] += f64::from(dy[from].to_f32()));
        in_chunks(&mut dx, &input, |rows, dx| max_backward(cpu, &shape, rows, &dy, &indices, dx));
        assert_close(&format!("max backward, {name}"), &dx, &want, 1e-6);

        in_chunks(&mut y, &output, |rows, y| average_forward(cpu, &shape, rows, &x, y));
        assert_close(&format!("average, {name}"), &y, &reference_average(&shape, &wide(&x)), 1e-6);
        let mut want = vec![0.0; input.len()];
        windows(&shape, |from, window| {
            for &i in window {
                want[i] += f64::from(dy[from].to_f32()) / window.len() as f64;
            }
        });
        in_chunks(&mut dx, &input, |rows, dx| average_backward(cpu, &shape, rows, &dy, dx));
        assert_close(&format!("average backward, {name}"), &dx, &want, 1e-6);
    }
}

#[test]
fn f32_matches_reference() {
    matches_reference::<f32>();
}

#[test]
fn bf16_matches_reference() {
    matches_reference::<bf16>();
}

#[test]
fn gradients_are_central_differences() {
    let shape = Pool2dShape::new(BlockShape::new(5, 4, 3), [3, 2], [2, 1]);
    let mut numbers = Numbers::new(5);
    let (x, dy) = (numbers.block::<f32>(&shape.input()), numbers.block::<f32>(&shape.output()));
    let weighted = |y: &[f64]| -> f64 { y.iter().zip(&dy).map(|(y, &dy)| y * f64::from(dy)).sum() };
    for cpu in cpus() {
        let (mut y, mut indices) = (vec![0.0; dy.len()], vec![0; dy.len()]);
        let (mut dmax, mut daverage) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        max_forward(cpu, &shape, 0..2, &x, &mut y, Some(&mut indices));
        max_backward(cpu, &shape, 0..5, &dy, &indices, &mut dmax);
        average_backward(cpu, &shape, 0..5, &dy, &mut daverage);
        for i in (0..x.len()).step_by(211).filter(|i| i % 16 < 3) {
            let mut x = wide(&x);
            let want = central_difference(&mut x, i, |x| weighted(&reference_max(&shape, x).0));
            assert_close("max", &[dmax[i]], &[want], 1e-5);
            let want = central_difference(&mut x, i, |x| weighted(&reference_average(&shape, x)));
            assert_close("average", &[daverage[i]], &[want], 1e-5);
        }
    }
}

#[test]
fn nan_and_infinities() {
    let shape = Pool2dShape::global(BlockShape::new(2, 2, 16));
    for cpu in cpus() {
        for (window, want, argmax) in [
            ([1.0, f32::NAN, 2.0, 3.0], f32::NAN, 1),
            ([f32::NAN, 9.0, 2.0, 3.0], f32::NAN, 0),
            ([1.0, 2.0, 3.0, f32::NAN], f32::NAN, 3),
            ([f32::NEG_INFINITY; 4], f32::NEG_INFINITY, 0),
            ([f32::MAX, f32::INFINITY, f32::INFINITY, 0.0], f32::INFINITY, 1),
        ] {
            let x: Vec<f32> = window.iter().flat_map(|&v| [v; 512]).collect();
            let (mut y, mut indices) = ([0.0; 512], [7; 512]);
            max_forward(cpu, &shape, 0..1, &x, &mut y, Some(&mut indices));
            assert!(y.iter().all(|y| y.total_cmp(&want).is_eq()), "{window:?} on {}: {}", cpu.isa(), y[0]);
            assert_eq!(indices, [argmax; 512], "{window:?} on {}", cpu.isa());
        }
    }
}

#[test]
#[should_panic(expected = "a window of 3x2 does not fit into an image of 2x5")]
fn windows_must_fit() {
    Pool2dShape::new(BlockShape::new(2, 5, 1), [3, 2], [1, 1]);
}

#[test]
#[should_panic(expected = "y has 512 elements and its rows 0..2 1024")]
fn slices_must_fit() {
    let shape = Pool2dShape::new(BlockShape::new(4, 2, 1), [2, 2], [2, 2]);
    max_forward(cpus()[0], &shape, 0..2, &[0.0f32; 8 * 512], &mut [0.0; 512], None);
}
