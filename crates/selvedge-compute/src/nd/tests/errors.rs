//! Arguments that do not fit each other: errors that say what was expected and what was found.

use ndarray::{Array1, Array2, Array4, Axis};

use super::*;
use crate::activation::Activation;
use crate::nd::conv::{Options, Padding};
use crate::nd::loss::Targets;
use crate::nd::pool::Window;
use crate::nd::{ArrayError, BlockTensor, activation, conv, dense, dropout, loss, norm, pool};
use crate::test_support::cpus;

/// Panics unless the error's text has all of `parts`.
#[track_caller]
fn assert_says<T: std::fmt::Debug>(result: Result<T, ArrayError>, parts: &[&str]) {
    let text = result.expect_err("the arguments do not fit").to_string();
    assert!(parts.iter().all(|part| text.contains(part)), "{text:?} lacks one of {parts:?}");
}

#[test]
fn convolutions() {
    let (cpu, x) = (cpus()[0], Array4::<f32>::zeros((2, 5, 4, 3)));
    let (weights, bias) = (Array4::<f32>::zeros((3, 3, 3, 8)), Array1::<f32>::zeros(7));
    // PyTorch's order.
    let oihw = Array4::<f32>::zeros((8, 3, 5, 5));
    assert_says(
        conv::forward(cpu, Options::SAME, x.view(), oihw.view(), None),
        &["nd::conv::forward", "weights has shape [8, 3, 5, 5]", "[kh, kw, in, out]"],
    );
    let fewer = Array4::<f32>::zeros((3, 3, 2, 8));
    assert_says(
        conv::backward(cpu, Options::SAME, x.view(), fewer.view(), x.view()),
        &["nd::conv::backward", "weights has shape [3, 3, 2, 8], expected [3, 3, 3, 8]", "permuted_axes([2, 3, 1, 0])"],
    );
    assert_says(
        conv::forward(cpu, Options::SAME, x.view(), weights.view(), Some(bias.view())),
        &["bias has shape [7], expected [8]", "a number for each output"],
    );
    assert_says(
        conv::backward(cpu, Options::VALID, x.view(), weights.view(), Array4::zeros((2, 5, 4, 8)).view()),
        &["dy has shape [2, 5, 4, 8], expected [2, 3, 2, 8]"],
    );
    assert_says(
        conv::backward_weights(cpu, Options::VALID, x.view(), [3, 3], Array4::zeros((1, 3, 2, 8)).view()),
        &["nd::conv::backward_weights", "dy has shape [1, 3, 2, 8], expected [2, 3, 2, 8]"],
    );
    let large = Array4::<f32>::zeros((3, 7, 3, 8));
    let options = Options { stride: 1, padding: Padding::Zeros([0, 1]) };
    assert_says(
        conv::forward(cpu, options, x.view(), large.view(), None),
        &["a kernel of 3x7 pixels", "an image of 5x4 pixels and [0, 1] rows and columns of padding"],
    );
    for (stride, padding) in
        [(0, Padding::Same), (1, Padding::Zeros([usize::MAX, 0])), (1, Padding::Zeros([0, usize::MAX / 2]))]
    {
        let options = Options { stride, padding };
        let result = conv::forward(cpu, options, x.view(), weights.view(), None);
        assert!(matches!(result, Err(ArrayError::Window { .. })), "{options:?}: {result:?}");
    }
    let options = Options { stride: 1, padding: Padding::Zeros([1 << 40, 1 << 40]) };
    assert_says(
        conv::forward(cpu, options, x.view(), weights.view(), None),
        &["nd::conv::forward", "would not fit into the address space"],
    );
    let number = Array1::<f32>::zeros(1);
    let huge = number.broadcast((1 << 29, 1 << 29, 3, 1)).unwrap();
    assert_says(
        conv::forward(cpu, Options::SAME, x.view(), huge, None),
        &["weights of shape [536870912, 536870912, 3, 1] would not fit"],
    );
    for dim in [(2, 0, 4, 3), (2, 5, 0, 3), (2, 5, 4, 0)] {
        let empty = Array4::<f32>::zeros(dim);
        let weights = Array4::zeros((3, 3, dim.3, 8));
        assert_says(
            conv::forward(cpu, Options::SAME, empty.view(), weights.view(), None),
            &["x has shape", "rows, columns and channels must be at least 1"],
        );
    }
    let empty = Array4::<f32>::zeros((3, 3, 3, 0));
    assert_says(
        conv::forward(cpu, Options::SAME, x.view(), empty.view(), None),
        &["weights has shape [3, 3, 3, 0]", "outputs must be at least 1"],
    );
    let nothing = Array4::<f32>::zeros((2, 5, 4, 0));
    assert_says(
        conv::backward_weights(cpu, Options::SAME, x.view(), [3, 3], nothing.view()),
        &["dy has shape [2, 5, 4, 0]"],
    );
}

#[test]
fn dense_layers() {
    let (cpu, x) = (cpus()[0], Array2::<f32>::zeros((2, 5)));
    let (weights, bias) = (Array2::<f32>::zeros((5, 3)), Array1::<f32>::zeros(5));
    assert_says(
        dense::forward(cpu, x.view(), weights.t(), None),
        &["nd::dense::forward", "weights has shape [3, 5], expected [5, 5]", "[in, out]"],
    );
    assert_says(
        dense::forward(cpu, x.view(), weights.view(), Some(bias.view())),
        &["bias has shape [5], expected [3]"],
    );
    assert_says(
        dense::backward(cpu, x.view(), weights.view(), x.view()),
        &["nd::dense::backward", "dy has shape [2, 5], expected [2, 3]"],
    );
    let none = Array2::<f32>::zeros((2, 0));
    assert_says(
        dense::forward(cpu, none.view(), Array2::zeros((0, 3)).view(), None),
        &["weights has shape [0, 3]", "inputs and outputs must be at least 1"],
    );
}

#[test]
fn windows() {
    let (cpu, x) = (cpus()[0], Array4::<f32>::zeros((2, 5, 4, 3)));
    let wide = Window { size: [2, 5], stride: [1, 1] };
    assert_says(
        pool::max_forward(cpu, wide, x.view()),
        &["nd::pool::max_forward", "a window of 2x5 pixels", "an image of 5x4 pixels", "at most the image's"],
    );
    for window in [Window { size: [0, 1], stride: [1, 1] }, Window { size: [1, 1], stride: [1, 0] }, wide] {
        assert!(matches!(pool::average_forward(cpu, window, x.view()), Err(ArrayError::Window { .. })));
        assert!(matches!(pool::average_backward(cpu, window, [5, 4], x.view()), Err(ArrayError::Window { .. })));
    }
    assert_says(
        pool::average_backward(cpu, Window::square(2), [5, 4], x.view()),
        &["dy has shape [2, 5, 4, 3], expected [2, 2, 2, 3]"],
    );
    let (dy, indices) = (Array4::zeros((2, 2, 2, 3)), Array4::zeros((2, 2, 2, 4)));
    assert_says(
        pool::max_backward(cpu, Window::square(2), [5, 4], indices.view(), dy.view()),
        &["indices has shape [2, 2, 2, 4], expected [2, 2, 2, 3]", "the shape of dy"],
    );
    let large = Array4::<f32>::zeros((1, 257, 256, 1));
    assert_says(
        pool::max_forward(cpu, Window::global([257, 256]), large.view()),
        &["a window of 257x256 pixels has more than 65536"],
    );
    for dim in [(2, 0, 4, 3), (2, 5, 0, 3), (2, 5, 4, 0)] {
        let empty = Array4::<f32>::zeros(dim);
        assert_says(
            pool::max_forward(cpu, Window::square(1), empty.view()),
            &["rows, columns and channels must be at least 1"],
        );
    }
    let none = Array4::<f32>::zeros((0, 5, 4, 3));
    assert_eq!(pool::max_forward(cpu, Window::square(2), none.view()).unwrap().y.dim(), (0, 2, 2, 3));
}

#[test]
fn normalisation() {
    let (cpu, x) = (cpus()[0], Array4::<f32>::zeros((2, 5, 4, 3)));
    let (three, four) = (Array1::<f32>::ones(3), Array1::<f32>::ones(4));
    assert_says(
        norm::forward(cpu, x.view(), three.view(), four.view(), 1e-5),
        &["nd::norm::forward", "beta has shape [4], expected [3]", "a number for each channel of x"],
    );
    assert_says(
        norm::forward(cpu, x.view(), three.view(), three.view(), -1.0),
        &["epsilon is -1, expected a finite number of at least 0"],
    );
    assert_says(
        norm::forward(cpu, Array4::zeros((0, 5, 4, 3)).view(), three.view(), three.view(), 1e-5),
        &["x has shape [0, 5, 4, 3]", "every axis must be at least 1"],
    );
    assert_says(
        norm::inference(cpu, x.view(), three.view(), three.view(), four.view(), three.view(), 1e-5),
        &["nd::norm::inference", "mean has shape [4]"],
    );
    let mut statistics = norm::forward(cpu, x.view(), three.view(), three.view(), 1e-5).unwrap().statistics;
    let dy = Array4::<f32>::zeros((2, 5, 3, 3));
    assert_says(
        norm::backward(cpu, x.view(), three.view(), &statistics, dy.view()),
        &["dy has shape [2, 5, 3, 3], expected [2, 5, 4, 3]"],
    );
    let one_image = x.slice(s![..1, .., .., ..]);
    assert_says(
        norm::backward(cpu, one_image, three.view(), &statistics, one_image),
        &["statistics.count has shape [40], expected [20]"],
    );
    let mut running = [Array1::zeros(3), Array1::ones(4)];
    let [mean, variance] = &mut running;
    assert_says(
        norm::update_running(&statistics, 0.1, mean.view_mut(), variance.view_mut()),
        &["nd::norm::update_running", "variance has shape [4], expected [3]"],
    );
    statistics.rstd = four;
    assert_says(
        norm::backward(cpu, x.view(), three.view(), &statistics, x.view()),
        &["statistics.rstd has shape [4], expected [3]"],
    );
}

#[test]
fn losses() {
    let (cpu, logits) = (cpus()[0], Array2::<f32>::zeros((3, 4)));
    let labels = Array1::from_vec(vec![0, 3, 4]);
    assert_says(
        loss::cross_entropy(cpu, logits.view(), Targets::Labels(labels.view()), 0.0),
        &["nd::loss::cross_entropy", "image 2 has label 4, expected one below the 4 classes"],
    );
    assert_says(
        loss::cross_entropy(cpu, logits.view(), Targets::Labels(labels.slice(s![..2])), 0.0),
        &["labels has shape [2], expected [3]", "a label for each image"],
    );
    assert_says(
        loss::cross_entropy(cpu, logits.view(), Targets::Soft(logits.t()), 0.0),
        &["targets has shape [4, 3], expected [3, 4]"],
    );
    for smoothing in [-0.1, 1.5, f32::NAN] {
        let result = loss::cross_entropy(cpu, logits.view(), Targets::Soft(logits.view()), smoothing);
        assert_says(result, &["smoothing is", "expected a number between 0 and 1"]);
    }
    for empty in [Array2::<f32>::zeros((0, 4)), Array2::zeros((3, 0))] {
        let result = loss::cross_entropy(cpu, empty.view(), Targets::Soft(empty.view()), 0.0);
        assert_says(result, &["images and classes must be at least 1"]);
    }
    assert_says(loss::softmax(cpu, Array2::zeros((3, 0)).view()), &["nd::loss::softmax", "classes must be at least 1"]);
    assert_eq!(loss::softmax(cpu, Array2::zeros((0, 3)).view()).unwrap().dim(), (0, 3));
}

#[test]
fn elementwise() {
    let (cpu, x) = (cpus()[0], Array4::<f32>::zeros((2, 5, 4, 3)));
    assert_says(
        activation::backward(cpu, Activation::Relu, x.view(), x.view().permuted_axes([0, 2, 1, 3])),
        &["nd::activation::backward", "dy has shape [2, 4, 5, 3], expected [2, 5, 4, 3]"],
    );
    for rate in [-0.5, 1.0, f32::NAN] {
        assert_says(dropout::apply(cpu, x.view(), rate, 1), &["nd::dropout::apply", "rate is", "below 1"]);
    }
}

#[test]
fn blocks() {
    let x = Array4::<f32>::zeros((2, 5, 4, 3));
    let blocks = BlockTensor::from_array(x.view()).unwrap();
    assert_says(
        blocks.copy_to(Array4::zeros((2, 5, 4, 4)).view_mut()),
        &["BlockTensor::copy_to", "has shape [2, 5, 4, 4], expected [2, 5, 4, 3]"],
    );
    // A view that says one number again and again may be larger than memory.
    let one = Array1::<f32>::zeros(1);
    let huge = one.broadcast((1 << 20, 1 << 20, 1 << 21, 1)).unwrap();
    assert_says(BlockTensor::from_array(huge), &["BlockTensor::from_array", "would not fit into the address space"]);
    let bytes = Array1::<u8>::zeros(1);
    let huge = bytes.broadcast((1 << 20, 1 << 20, 1 << 22, 1)).unwrap();
    assert_says(BlockTensor::<f32>::from_bytes(cpus()[0], huge, 1.0, 0.0), &["BlockTensor::from_bytes"]);
    let repeated = numbers(1, 3).insert_axis(Axis(0));
    let repeated = repeated.broadcast((40, 2, 2, 3)).unwrap();
    assert_eq!(BlockTensor::from_array(repeated).unwrap().to_array(), repeated);
}
