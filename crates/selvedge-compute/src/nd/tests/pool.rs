//! Pooling of arrays against its definition.

use ndarray::{Array4, s};

use super::*;
use crate::nd::pool::{self, Window};
use crate::test_support::cpus;

const CASES: [([usize; 3], Window); 7] = [
    ([1, 1, 1], Window::square(1)),
    ([4, 6, 16], Window::square(2)),
    ([5, 7, 3], Window::square(2)),
    ([7, 5, 20], Window { size: [3, 2], stride: [2, 1] }),
    ([6, 9, 33], Window { size: [2, 4], stride: [3, 2] }),
    ([9, 9, 2], Window { size: [3, 3], stride: [2, 2] }),
    ([7, 3, 17], Window::global([7, 3])),
];

/// Each window's row, column and pixels.
fn windows(height: usize, width: usize, window: Window) -> Vec<([usize; 2], Vec<[usize; 2]>)> {
    let count = |length: usize, d: usize| (length - window.size[d]) / window.stride[d] + 1;
    let mut windows = vec![];
    for (y, x) in (0..count(height, 0)).flat_map(|y| (0..count(width, 1)).map(move |x| (y, x))) {
        let corner = [y * window.stride[0], x * window.stride[1]];
        let pixel = |number: usize| [corner[0] + number / window.size[1], corner[1] + number % window.size[1]];
        windows.push(([y, x], (0..window.size[0] * window.size[1]).map(pixel).collect()));
    }
    windows
}

#[test]
fn matches_reference() {
    for (([height, width, channels], window), images) in
        CASES.into_iter().flat_map(|case| IMAGES.map(|images| (case, images)))
    {
        let x = numbers(images as u64, (images, height, width, channels));
        let windows = windows(height, width, window);
        let [rows, columns] = windows.last().unwrap().0.map(|last| last + 1);
        let dy = numbers(7, (images, rows, columns, channels));
        let [mut largest, mut mean] = [(); 2].map(|()| Array4::<f64>::zeros(dy.dim()));
        let [mut dx_largest, mut dx_mean] = [(); 2].map(|()| Array4::<f64>::zeros(x.dim()));
        let mut indices = Array4::<u16>::zeros(dy.dim());
        for (image, c) in (0..images).flat_map(|image| (0..channels).map(move |c| (image, c))) {
            for ([y, column], pixels) in &windows {
                let to = [image, *y, *column, c];
                let values: Vec<f32> = pixels.iter().map(|&[y, column]| x[[image, y, column, c]]).collect();
                let best = (1..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best });
                (largest[to], indices[to]) = (f64::from(values[best]), best as u16);
                mean[to] = values.iter().map(|&x| f64::from(x)).sum::<f64>() / values.len() as f64;
                let [y, column] = pixels[best];
                dx_largest[[image, y, column, c]] += f64::from(dy[to]);
                for &[y, column] in pixels {
                    dx_mean[[image, y, column, c]] += f64::from(dy[to]) / values.len() as f64;
                }
            }
        }
        let input = [height, width];
        for cpu in cpus() {
            let name = named(cpu, (x.dim(), window));
            let pooled = pool::max_forward(cpu, window, x.view()).unwrap();
            assert_close(&name, &pooled.y, &largest, 0.0);
            assert_eq!(pooled.indices, indices, "{name}");
            let dx = pool::max_backward(cpu, window, input, indices.view(), dy.view()).unwrap();
            assert_close(&name, &dx, &dx_largest, 1e-6);
            assert_close(&name, &pool::average_forward(cpu, window, x.view()).unwrap(), &mean, 1e-6);
            let dx = pool::average_backward(cpu, window, input, dy.view()).unwrap();
            assert_close(&name, &dx, &dx_mean, 1e-6);
        }
    }
}

#[test]
fn layouts_and_threads_change_nothing() {
    let cpu = *cpus().last().unwrap();
    let (window, x) = (Window { size: [3, 2], stride: [2, 1] }, numbers(1, (40, 9, 8, 19)));
    let run = |x: &Array4<f32>| {
        let pooled = pool::max_forward(cpu, window, x.view()).unwrap();
        // dy and the indices, too, lie in another layout.
        let y = pooled.y.slice(s![.., .., .., ..;-1]);
        let indices = pooled.indices.slice(s![.., .., .., ..;-1]);
        let dx = pool::max_backward(cpu, window, [9, 8], indices, y).unwrap();
        let mean = pool::average_forward(cpu, window, x.view()).unwrap();
        let dx_mean = pool::average_backward(cpu, window, [9, 8], y).unwrap();
        (pooled, dx, mean, dx_mean)
    };
    let want = on_any_threads("pooling", || run(&x));
    for (name, x) in layouts(&x) {
        assert!(run(&x) == want, "{name}");
    }
}
