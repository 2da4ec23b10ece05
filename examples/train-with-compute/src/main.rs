//! Trains a small network on the kernels of selvedge-compute, in a loop of its own, and compares its losses with PyTorch's.

use ndarray::{Array, Array1, ShapeBuilder};
use selvedge_compute::activation::Activation::Relu;
use selvedge_compute::nd::conv::{self, Options};
use selvedge_compute::nd::loss::{Targets, cross_entropy};
use selvedge_compute::nd::{activation, dense, norm, pool};
use selvedge_compute::{Cpu, Threads};

/// What reference.py prints.
const PYTORCH: [f64; 8] = [2.333657, 2.106353, 1.93486, 1.767581, 1.634439, 1.515263, 1.419957, 1.346794];

fn numbers<D: ndarray::Dimension>(seed: usize, scale: f32, shape: impl ShapeBuilder<Dim = D>) -> Array<f32, D> {
    let mut n = seed..;
    Array::from_shape_simple_fn(shape, || ((n.next().unwrap() * 7919 % 2001) as f32 / 1000.0 - 1.0) * scale)
}

fn train() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (cpu, window) = (Cpu::detect()?, pool::Window::square(2));
    let (x, labels) = (numbers(1, 1.0, (64, 12, 12, 1)), Array1::from_shape_fn(64, |n| (n * 7 % 10) as u8));
    let (mut w1, mut b1) = (numbers(2, 0.3, (3, 3, 1, 8)), Array1::zeros(8));
    let (mut w2, mut b2) = (numbers(3, 0.1, (3, 3, 8, 16)), Array1::zeros(16));
    let (mut gamma, mut beta) = (Array1::ones(16), Array1::zeros(16));
    let (mut w3, mut b3) = (numbers(4, 0.1, (144, 10)), Array1::zeros(10));
    for (step, expected) in PYTORCH.into_iter().enumerate() {
        let y1 = conv::forward(cpu, Options::SAME, x.view(), w1.view(), Some(b1.view()))?;
        let p1 = pool::max_forward(cpu, window, activation::forward(cpu, Relu, y1.view()).view())?;
        let y2 = conv::forward(cpu, Options::SAME, p1.y.view(), w2.view(), Some(b2.view()))?;
        let n2 = norm::forward(cpu, y2.view(), gamma.view(), beta.view(), 1e-5)?;
        let p2 = pool::max_forward(cpu, window, activation::forward(cpu, Relu, n2.y.view()).view())?;
        let flat = p2.y.to_shape((64, 144))?;
        let logits = dense::forward(cpu, flat.view(), w3.view(), Some(b3.view()))?;
        let loss = cross_entropy(cpu, logits.view(), Targets::Labels(labels.view()), 0.0)?;
        println!("step {step}: loss {:.6}, PyTorch's {expected:.6}, {} of 64 right", loss.mean, loss.correct);
        if (loss.mean - expected).abs() > 1e-4 * expected {
            return Err("the losses differ".into());
        }
        let g3 = dense::backward(cpu, flat.view(), w3.view(), loss.dlogits.view())?;
        let dp2 = g3.dx.to_shape(p2.y.dim())?;
        let da2 = pool::max_backward(cpu, window, [6, 6], p2.indices.view(), dp2.view())?;
        let dn2 = activation::backward(cpu, Relu, n2.y.view(), da2.view())?;
        let gn = norm::backward(cpu, y2.view(), gamma.view(), &n2.statistics, dn2.view())?;
        let g2 = conv::backward(cpu, Options::SAME, p1.y.view(), w2.view(), gn.dx.view())?;
        let da1 = pool::max_backward(cpu, window, [12, 12], p1.indices.view(), g2.dx.view())?;
        let dy1 = activation::backward(cpu, Relu, y1.view(), da1.view())?;
        let g1 = conv::backward_weights(cpu, Options::SAME, x.view(), [3, 3], dy1.view())?;
        [(&mut w1, &g1.dweights), (&mut w2, &g2.dweights)].map(|(w, gradient)| w.scaled_add(-0.1, gradient));
        let vectors = [(&mut b1, &g1.dbias), (&mut b2, &g2.dbias), (&mut b3, &g3.dbias)];
        vectors.map(|(b, gradient)| b.scaled_add(-0.1, gradient));
        [(&mut gamma, &gn.dgamma), (&mut beta, &gn.dbeta)].map(|(p, gradient)| p.scaled_add(-0.1, gradient));
        w3.scaled_add(-0.1, &g3.dweights);
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    Threads::new(Threads::available())?.install(train)
}
