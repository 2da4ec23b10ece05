//! The operations on arrays against PyTorch 2.15.0 in float64. Each test shows what made its numbers, after
//!
//! ```python
//! import torch, torch.nn.functional as F
//! torch.set_default_dtype(torch.float64)
//! def numbers(*shape):
//!     count = torch.Size(shape).numel()
//!     return (torch.arange(count) * 37 % 101 / 50 - 1).reshape(shape).requires_grad_()
//! def nchw(x): return x.permute(0, 3, 1, 2)
//! def nhwc(y): return y.permute(0, 2, 3, 1)
//! ```

use ndarray::array;

use super::*;
use crate::nd::loss::Targets;
use crate::nd::pool::Window;
use crate::nd::{loss, norm, pool};
use crate::test_support::cpus;

/// The `numbers` above.
fn like_pytorch<D: Dimension>(shape: impl ShapeBuilder<Dim = D>) -> Array<f32, D> {
    let mut count = 0..;
    Array::from_shape_simple_fn(shape, || (count.next().unwrap() * 37 % 101) as f32 / 50.0 - 1.0)
}

/// Panics unless the elements in their order are PyTorch's.
#[track_caller]
fn same<D: Dimension>(cpu: Cpu, got: &Array<f32, D>, want: &Array1<f64>) {
    assert_close(cpu.isa().name(), &got.flatten().into_owned(), want, 2e-6);
}

/// ```python
/// x = numbers(2, 4, 3, 2)
/// y = F.max_pool2d(nchw(x), (3, 2), (1, 1)); y.backward(nchw(numbers(2, 2, 2, 2)))    # F.avg_pool2d likewise
/// print(nhwc(y).flatten().tolist(), x.grad.flatten().tolist())
/// ```
#[test]
fn pooling() {
    let largest = of([0.88, 0.54, 0.88, 0.68, 0.88, 0.94, 0.88, 0.4, 1.0, 0.8, 0.86, 0.8, 1.0, 0.52, 0.86, 0.66]);
    let dx_largest = of([
        0.0, 0.0, 0.0, 0.0, 0.0, -0.8, 0.0, 0.0, -1.18, 0.0, 0.0, 0.0, 0.0, -0.26, 0.0, 0.0, 0.0, 0.0, 0.0, 0.68, 0.0,
        0.14, 0.0, 0.0, 0.0, 0.0, 0.0, -1.34, 0.0, 0.0, 0.68, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -0.4, 0.0, 0.0, 0.0,
        0.0, 0.54, 0.0, 0.0, 0.0, 0.0,
    ]);
    let mean = of([
        -0.1966667, -0.13, 0.2733333, -0.3333333, -0.1333333, 0.27, 0.0, -0.27, 0.3933333, -0.2133333, 0.19, -0.08,
        0.12, -0.15, 0.2533333, -0.3533333,
    ]);
    let dx_mean = of([
        -0.1666667, -0.0433333, -0.0866667, -0.1766667, 0.08, -0.1333333, -0.1766667, 0.07, -0.1966667, -0.04, -0.02,
        -0.11, -0.1766667, 0.07, -0.1966667, -0.04, -0.02, -0.11, -0.01, 0.1133333, -0.11, 0.1366667, -0.1, 0.0233333,
        0.1466667, -0.0666667, 0.2033333, -0.2233333, 0.0566667, -0.1566667, 0.1133333, 0.0233333, 0.0466667,
        -0.1333333, -0.0666667, -0.1566667, 0.1133333, 0.0233333, 0.0466667, -0.1333333, -0.0666667, -0.1566667,
        -0.0333333, 0.09, -0.1566667, 0.09, -0.1233333, 0.0,
    ]);

    let (x, dy, window) =
        (like_pytorch((2, 4, 3, 2)), like_pytorch((2, 2, 2, 2)), Window { size: [3, 2], stride: [1, 1] });
    for cpu in cpus() {
        let pooled = pool::max_forward(cpu, window, x.view()).unwrap();
        same(cpu, &pooled.y, &largest);
        let dx = pool::max_backward(cpu, window, [4, 3], pooled.indices.view(), dy.view()).unwrap();
        same(cpu, &dx, &dx_largest);
        same(cpu, &pool::average_forward(cpu, window, x.view()).unwrap(), &mean);
        same(cpu, &pool::average_backward(cpu, window, [4, 3], dy.view()).unwrap(), &dx_mean);
    }
}

/// ```python
/// x, gamma, beta, mean, variance = numbers(2, 4, 3, 2), numbers(2), numbers(2), torch.zeros(2), torch.ones(2)
/// y = F.batch_norm(nchw(x), mean, variance, gamma, beta, True, .1, 1e-3); y.backward(nchw(numbers(2, 4, 3, 2).square()))
/// z = F.batch_norm(nchw(x), mean, variance, gamma, beta, False, .1, 1e-3)
/// for t in (nhwc(y), x.grad, gamma.grad, beta.grad, mean, variance, nhwc(z)): print(t.flatten().tolist())
/// ```
#[test]
fn batch_normalisation() {
    let y = of([
        0.7043744, -0.1750178, -1.7485988, 0.0708234, -0.8535951, -0.6029637, 0.0414086, -0.3571225, -2.4115645,
        -0.1112812, -1.5165608, 0.13456, -0.6215571, -0.5392271, 0.2734467, -0.2933858, -2.1795265, -0.0475446,
        -1.2845228, -0.7213317, -0.3895191, -0.4754905, 0.5054847, -0.2296492, -1.9474885, 0.016192, -1.0524848,
        -0.6575951, -0.1574811, -0.4117538, -2.6104542, -0.1659126, -1.7154505, 0.0799286, -0.8204468, -0.5938585,
        0.0745569, -0.3480172, -2.3784162, -0.102176, -1.4834125, 0.1436652, -0.5884088, -0.5301218, 0.3065949,
        -0.2842806, -2.1463782, -0.0384394,
    ]);
    let dx = of([
        -1.0940981, 0.1272617, 0.2385942, -0.1114649, 0.5936451, -0.090537, -0.017908, 0.1329179, -0.6475942,
        0.0908643, 0.4234597, -0.2166979, 0.5279095, -0.0071096, -0.3342446, 0.1475098, -0.2770984, 0.0366206,
        0.5433544, -0.2928207, 0.3972033, 0.0584716, -0.7155519, 0.1442554, 0.0284268, -0.0354693, 0.5982786,
        -0.1762503, 0.2015264, 0.1062065, -1.0168734, 0.1231547, 0.2689814, -0.1254055, 0.5882321, -0.0775261,
        -0.0591212, 0.1360951, -0.5906885, 0.0842078, 0.4445653, -0.233188, 0.513215, 0.0033518, -0.3847393, 0.1481375,
        -0.2294741, 0.0274147,
    ]);
    let dgamma = of([0.3373457, -1.2190456]);
    let dbeta = of([8.732, 7.9328]);
    let running_mean = of([0.0028333, -0.0073333]);
    let running_variance = of([0.9378814, 0.9339293]);
    let z = of([
        0.0349596, -0.192059, -1.4924529, -0.0468553, -0.9351538, -0.444821, -0.3778546, -0.2996173, -1.9052671,
        -0.1544136, -1.347968, -0.0092099, -0.7906688, -0.4071756, -0.2333697, -0.2619719, -1.7607821, -0.1167682,
        -1.203483, -0.5147339, -0.6461838, -0.3695302, -0.0888847, -0.2243265, -1.6162972, -0.0791228, -1.058998,
        -0.4770885, -0.5016989, -0.3318848, -2.0291114, -0.1866811, -1.4718122, -0.0414774, -0.9145131, -0.4394431,
        -0.3572139, -0.2942394, -1.8846264, -0.1490357, -1.3273272, -0.003832, -0.7700281, -0.4017977, -0.2127289,
        -0.256594, -1.7401414, -0.1113903,
    ]);

    let (x, gamma, beta) = (like_pytorch((2, 4, 3, 2)), like_pytorch(2), like_pytorch(2));
    let dy = x.mapv(|x| x * x);
    for cpu in cpus() {
        let got = norm::forward(cpu, x.view(), gamma.view(), beta.view(), 1e-3).unwrap();
        same(cpu, &got.y, &y);
        let gradients = norm::backward(cpu, x.view(), gamma.view(), &got.statistics, dy.view()).unwrap();
        same(cpu, &gradients.dx, &dx);
        same(cpu, &gradients.dgamma, &dgamma);
        same(cpu, &gradients.dbeta, &dbeta);
        let (mut mean, mut variance) = (Array1::zeros(2), Array1::ones(2));
        norm::update_running(&got.statistics, 0.1, mean.view_mut(), variance.view_mut()).unwrap();
        same(cpu, &mean, &running_mean);
        same(cpu, &variance, &running_variance);
        let inferred = norm::inference(cpu, x.view(), gamma.view(), beta.view(), mean.view(), variance.view(), 1e-3);
        same(cpu, &inferred.unwrap(), &z);
    }
}

/// ```python
/// z = numbers(3, 5); loss = F.cross_entropy(z, torch.tensor([0, 4, 2]), label_smoothing=.1); loss.backward()
/// print(loss.item(), z.grad.flatten().tolist()); z.grad = None
/// loss = F.cross_entropy(z, numbers(3, 5).square().detach()); loss.backward()
/// print(loss.item(), z.grad.flatten().tolist(), F.softmax(z, 1).flatten().tolist())
/// ```
#[test]
fn cross_entropy() {
    let dlogits = of([
        -0.2770903, 0.0553235, 0.1232606, 0.029458, 0.0690482, 0.0907484, 0.0204184, 0.0501018, 0.1123164, -0.2735849,
        0.0907484, 0.0204184, -0.2498982, 0.1123164, 0.0264151,
    ]);
    let dlogits_soft = of([
        -0.2759079, 0.0978267, 0.1754669, -0.1431937, 0.1458081, 0.0189148, -0.0718862, 0.0943102, -0.0467719,
        0.005433, 0.1444511, -0.2436568, 0.0933006, 0.1262977, -0.1203926,
    ]);
    let probabilities = of([
        0.0887291, 0.1859704, 0.3897819, 0.1083739, 0.2271447, 0.2922452, 0.0812551, 0.1703054, 0.3569491, 0.0992452,
        0.2922452, 0.0812551, 0.1703054, 0.3569491, 0.0992452,
    ]);

    let (logits, labels) = (like_pytorch((3, 5)), array![0, 4, 2]);
    let soft = logits.mapv(|x| x * x);
    for cpu in cpus() {
        let loss = loss::cross_entropy(cpu, logits.view(), Targets::Labels(labels.view()), 0.1).unwrap();
        assert!((loss.mean - 2.1270973).abs() < 1e-6);
        same(cpu, &loss.dlogits, &dlogits);
        let loss = loss::cross_entropy(cpu, logits.view(), Targets::Soft(soft.view()), 0.0).unwrap();
        assert!((loss.mean - 3.6171591).abs() < 1e-6);
        same(cpu, &loss.dlogits, &dlogits_soft);
        same(cpu, &loss::softmax(cpu, logits.view()).unwrap(), &probabilities);
    }
}
