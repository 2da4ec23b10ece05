//! Batch normalisation of arrays against its definition.

use ndarray::{Array1, Array4, Axis, Zip};

use super::*;
use crate::nd::norm::{self, BatchStatistics};
use crate::test_support::cpus;

const EPSILON: f32 = 1e-3;

/// The mean over images and pixels.
fn mean(x: &Array4<f64>) -> Array1<f64> {
    [0, 0, 0]
        .iter()
        .fold(x.clone().into_dyn(), |x, &axis| x.mean_axis(Axis(axis)).unwrap())
        .into_dimensionality()
        .unwrap()
}

#[test]
fn matches_reference() {
    let sizes = [(1, 1, 1), (3, 5, 1), (2, 3, 16), (5, 2, 33), (1, 4, 70)];
    for ((height, width, channels), images) in sizes.into_iter().flat_map(|size| [2, 31, 70].map(|n| (size, n))) {
        let dim = (images, height, width, channels);
        let mut x = numbers(images as u64, dim);
        for (c, mut x) in x.axis_iter_mut(Axis(3)).enumerate() {
            x.mapv_inplace(|x| x * (1.0 + c as f32 / 8.0) + c as f32 / 4.0 - 2.0);
        }
        let (dy, gamma, beta) = (numbers(2, dim), numbers(3, channels), numbers(4, channels));
        let (wide_x, wide_dy, count) = (wide(x.view()), wide(dy.view()), (images * height * width) as f64);

        let x_mean = mean(&wide_x);
        let deviations = &wide_x - &x_mean;
        let variance = mean(&deviations.mapv(|x| x * x));
        let rstd = variance.mapv(|variance| 1.0 / (variance + f64::from(EPSILON)).sqrt());
        let normalised = &deviations * &rstd;
        let y = &normalised * &wide(gamma.view()) + wide(beta.view());
        let (dbeta, dgamma) = (mean(&wide_dy) * count, mean(&(&wide_dy * &normalised)) * count);
        let dx = (&wide_dy - &(&dbeta / count) - &normalised * &(&dgamma / count)) * &(wide(gamma.view()) * &rstd);

        for cpu in cpus() {
            let name = named(cpu, dim);
            let got = norm::forward(cpu, x.view(), gamma.view(), beta.view(), EPSILON).unwrap();
            assert_close(&name, &got.y, &y, 2e-5);
            let BatchStatistics { mean, variance: got_variance, rstd: got_rstd, count: got_count } = &got.statistics;
            assert_close(&name, mean, &x_mean, 1e-6);
            assert_close(&name, got_variance, &variance, 1e-5);
            assert_close(&name, got_rstd, &rstd, 1e-5);
            assert_eq!(*got_count as f64, count);
            let gradients = norm::backward(cpu, x.view(), gamma.view(), &got.statistics, dy.view()).unwrap();
            assert_close(&name, &gradients.dx, &dx, 1e-4);
            assert_close(&name, &gradients.dgamma, &dgamma, 2e-4);
            assert_close(&name, &gradients.dbeta, &dbeta, 1e-4);
            let again =
                norm::inference(cpu, x.view(), gamma.view(), beta.view(), mean.view(), got_variance.view(), EPSILON);
            assert_close(&name, &again.unwrap(), &y, 2e-5);
        }
    }
}

#[test]
fn layouts_and_threads_change_nothing() {
    let cpu = *cpus().last().unwrap();
    let (x, gamma, beta) = (numbers(1, (40, 6, 8, 70)), numbers(3, 70), numbers(4, 70));
    let run = |x: &Array4<f32>| {
        let got = norm::forward(cpu, x.view(), gamma.view(), beta.view(), EPSILON).unwrap();
        let gradients = norm::backward(cpu, x.view(), gamma.view(), &got.statistics, x.view()).unwrap();
        (got, gradients)
    };
    let want = on_any_threads("batch normalisation", || run(&x));
    for (name, x) in layouts(&x) {
        assert!(run(&x) == want, "{name}");
    }
    // Statistics of every second channel of a larger array.
    let mut pairs = Array1::zeros(140);
    Zip::from(pairs.exact_chunks_mut(2)).and(&gamma).for_each(|mut pair, &gamma| pair[0] = gamma);
    let strided = pairs.slice(ndarray::s![..;2]);
    assert_eq!(norm::forward(cpu, x.view(), strided, beta.view(), EPSILON).unwrap(), want.0);
}
