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

#![expect(clippy::approx_constant, reason = "some of PyTorch's numbers happen to be near a constant")]

use ndarray::array;

use super::*;
use crate::nd::conv::{Options, Padding};
use crate::nd::loss::Targets;
use crate::nd::pool::Window;
use crate::nd::{conv, dense, loss, norm, pool};
use crate::test_support::cpus;

/// The `numbers` above.
fn like_pytorch<D: Dimension>(shape: impl ShapeBuilder<Dim = D>) -> Array<f32, D> {
    let mut count = 0..;
    Array::from_shape_simple_fn(shape, || (count.next().unwrap() * 37 % 101) as f32 / 50.0 - 1.0)
}

/// Panics unless the elements in their order are PyTorch's.
#[track_caller]
fn same<D: Dimension>(cpu: Cpu, got: &Array<f32, D>, want: &Array1<f64>) {
    assert_close(cpu.isa().name(), &got.flatten().into_owned(), want, 1e-5);
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

/// ```python
/// x, w, b = numbers(2, 4, 3, 2), numbers(3, 3, 2, 3), numbers(3)
/// y = F.conv2d(nchw(x), w.permute(3, 2, 0, 1), b, 1, 1); y.backward(nchw(numbers(2, 4, 3, 3)))    # stride 2 likewise
/// for t in (nhwc(y), x.grad, w.grad, b.grad): print(t.flatten().tolist())
/// ```
#[test]
fn convolution() {
    let y = of([
        -0.5364, 1.4328, 0.17, -2.442, 0.35, 0.0312, -1.1496, 0.0872, 2.0108, 0.468, -1.0908, 0.1784, 1.4948, 0.0988,
        0.036, -1.3012, 1.1924, -1.8892, -1.272, 0.0748, -1.4468, -0.6968, -1.2088, 1.2688, -1.2848, -2.1476, 2.0396,
        -0.744, -1.028, 0.708, -1.1692, -0.6864, -0.7692, -1.036, -0.1536, 1.254, -2.2232, 1.0572, 0.2572, -1.52,
        -0.3972, 1.6952, -0.6844, -0.4796, 1.2604, 0.5376, 0.5416, 0.99, -2.3832, 2.3424, -1.2948, -1.68, 0.0332,
        1.9484, -0.758, -0.838, 1.9908, -0.4944, -0.46, 1.0288, -1.2596, 1.1776, -1.8796, -1.3076, -0.038, -0.8288,
        -0.0168, -0.9608, 1.61, -1.508, -1.6576, 1.95,
    ]);
    let dx = of([
        -1.6772, -0.1292, -1.3404, 1.5436, -0.3652, 2.3496, 0.4592, -1.7544, -0.56, -2.5324, -2.9892, -2.7052, -1.7324,
        1.1228, 1.4732, 2.0136, 3.3004, 0.0884, 0.8316, 2.068, 1.5904, -1.548, -0.3264, -0.5088, -0.8308, -0.31,
        0.2064, 0.9436, -1.25, -0.3704, -1.4392, -1.3152, -3.0524, -0.266, 1.2016, -0.6612, 2.9948, 3.7032, 3.142,
        -0.1236, 1.4312, 0.1528, -1.5764, -2.1752, -1.8252, -0.1212, -1.9204, 0.5464,
    ]);
    let dw = of([
        2.2748, -0.084, -1.1096, -0.3244, -1.8084, 1.0304, -0.2604, -1.1936, 0.6608, 1.1344, 0.968, 1.0036, -0.5304,
        0.0724, 0.352, 0.2252, 1.7028, -1.2232, 1.5108, 1.636, -0.7032, 0.5936, -0.2964, 0.4296, 2.0856, 1.902,
        -1.9984, 0.3276, -1.3788, -0.136, -0.7892, -1.0784, -0.7212, -0.5192, 0.762, 1.1948, -1.3544, -0.8884, -0.7456,
        1.182, -1.1536, 0.268, -1.2256, 1.9168, 1.4636, 0.4592, 0.692, -1.58, -1.5144, 1.4688, 1.0584, 0.9024, -0.4108,
        -1.4412,
    ]);
    let db = of([-1.12, 0.48, 0.06]);
    let y_strided = of([
        -0.5364, 1.4328, 0.17, -1.1496, 0.0872, 2.0108, -1.272, 0.0748, -1.4468, -1.2848, -2.1476, 2.0396, -2.2232,
        1.0572, 0.2572, -0.6844, -0.4796, 1.2604, -0.758, -0.838, 1.9908, -1.2596, 1.1776, -1.8796,
    ]);
    let dx_strided = of([
        -0.3944, -0.5504, -1.154, 0.7952, -0.3984, -0.4344, 0.874, -0.9756, -0.1136, -1.27, -0.9116, 0.7512, -0.4024,
        -0.3184, 0.3248, 0.734, -0.5276, -0.7276, -0.464, -0.38, -0.8156, 0.6844, 0.9792, 0.7792, -0.5316, -0.6116,
        0.1876, -0.9432, -0.5356, -0.4956, 0.5996, 1.3664, 0.8324, 0.8284, 0.3088, 0.5076, -0.5396, -0.3796, -0.9192,
        0.4904, 0.83, 0.706, 0.7032, 0.8632, 0.5492, -1.0308, -0.4392, -0.5632,
    ]);
    let dw_strided = of([
        -0.168, -0.1056, -0.8916, -0.168, 0.5856, 0.4908, 0.392, 1.042, -1.1764, 0.5, -1.144, 1.0096, -0.436, 0.5556,
        0.618, 0.076, -0.8268, -0.0732, 0.256, -0.9928, 0.8692, 0.472, 1.0096, -0.9172, 0.756, -0.4084, -1.4112,
        -0.616, 0.7016, 1.7768, 0.124, 0.6124, -0.7576, 0.556, 0.2452, -0.8332, -0.872, 0.8408, 0.776, 0.152, -0.4292,
        -0.2024, 0.604, -0.4952, 0.2236, 0.04, 1.4228, 0.1392, -0.92, -0.7424, 0.0412, 0.32, -0.3016, 0.7736,
    ]);
    let db_strided = of([-2.4, 1.5, -0.66]);

    let (x, weights, bias) = (like_pytorch((2, 4, 3, 2)), like_pytorch((3, 3, 2, 3)), like_pytorch(3));
    let cases = [
        (1, [&y, &dx, &dw, &db], (2, 4, 3, 3)),
        (2, [&y_strided, &dx_strided, &dw_strided, &db_strided], (2, 2, 2, 3)),
    ];
    for (cpu, (stride, [y, dx, dw, db], dim)) in cpus().into_iter().flat_map(|cpu| cases.map(|case| (cpu, case))) {
        let options = Options { stride, padding: Padding::Zeros([1, 1]) };
        let got = conv::forward(cpu, options, x.view(), weights.view(), Some(bias.view())).unwrap();
        same(cpu, &got, y);
        let got = conv::backward(cpu, options, x.view(), weights.view(), like_pytorch(dim).view()).unwrap();
        same(cpu, &got.dx, dx);
        same(cpu, &got.dweights, dw);
        same(cpu, &got.dbias, db);
    }
}

/// ```python
/// x, w, b = numbers(3, 7), numbers(7, 5), numbers(5); y = x @ w + b; y.backward(numbers(3, 5))
/// for t in (y, x.grad, w.grad, b.grad): print(t.flatten().tolist())
/// ```
#[test]
fn dense() {
    let y = of([
        -1.0556, -0.7024, 0.6204, 0.0444, -0.8144, 0.318, -0.736, 1.4824, -0.5008, -0.464, -1.0556, -0.9312, 0.688,
        -0.1168, -0.6792,
    ]);
    let dx = of([
        1.9416, -1.1368, -0.5792, -0.668, -0.1104, 1.4168, -0.0456, -1.1368, 1.7764, 1.5384, -0.7196, -0.9576, -0.9128,
        0.2228, -0.5792, 1.5384, 1.8784, -1.1752, -0.8352, -0.8992, 0.1276,
    ]);
    let dw = of([
        0.8436, 0.8716, -0.3124, 0.5236, 0.5516, 0.8584, -0.4604, -0.0016, 0.9824, -0.3364, -0.5004, -0.5804, 0.0264,
        -0.3364, -0.4164, 0.8476, 0.5116, -0.2284, 0.6476, 0.3116, -0.5112, 0.3916, -0.2004, -0.6712, 0.2316, -0.4964,
        -0.9404, 0.1104, -0.2124, -0.6564, 0.8516, 0.1516, -0.1444, 0.7716, 0.0716,
    ]);
    let db = of([0.02, -1.8, 0.42, 0.62, -1.2]);

    let (x, weights, bias) = (like_pytorch((3, 7)), like_pytorch((7, 5)), like_pytorch(5));
    for cpu in cpus() {
        same(cpu, &dense::forward(cpu, x.view(), weights.view(), Some(bias.view())).unwrap(), &y);
        let got = dense::backward(cpu, x.view(), weights.view(), like_pytorch((3, 5)).view()).unwrap();
        same(cpu, &got.dx, &dx);
        same(cpu, &got.dweights, &dw);
        same(cpu, &got.dbias, &db);
    }
}
