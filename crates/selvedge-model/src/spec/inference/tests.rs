//! Shapes of layers by their sentences, their errors, and properties of random specifications.

use proptest::prelude::*;

use super::*;
use crate::spec::options::Units;
use crate::test_support::{
    RELU, classes, conv, dense, grey, keras_classifier, max_pool, norm, resnet9, small_spec, wild_spec,
};

fn refusal(spec: &ModelSpec) -> String {
    NetworkShape::infer(spec).unwrap_err().to_string()
}

#[track_caller]
fn assert_refused(layers: Vec<LayerSpec>, parts: &[&str]) {
    let message = refusal(&grey(28, 28, layers));
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn the_keras_classifier() {
    let shape = NetworkShape::infer(&keras_classifier()).unwrap();
    assert_eq!(shape.param_count(), 279_406);
    assert_eq!(shape.multiply_adds(), 2_174_832);
    assert_eq!(shape.input.block, BlockShape::input(28, 28, 1));
    assert_eq!(shape.layers[8].output.logical, Shape::Image { height: 7, width: 7, channels: 64 });
    assert_eq!(shape.layers[11].output.logical, Shape::Features(576));
    assert_eq!(shape.layers[11].output.block, BlockShape::new(3, 3, 64));
    let names: Vec<_> = shape.param_arrays().map(|array| array.name.as_str()).collect();
    assert_eq!(names[..3], ["0.conv2d.weight", "0.conv2d.bias", "4.conv2d.weight"]);
    assert_eq!(shape.params[6].array.name, "12.dense.weight");
    assert_eq!(shape.params[6].array.shape, [576, 350]);
}

#[test]
fn squeeze_and_excitation_has_two_dense_layers() {
    let layers = |reduction| {
        vec![conv(40, true), LayerSpec::SqueezeExcitation { reduction }, LayerSpec::GlobalAvgPool, classes()]
    };
    let shapes = |reduction| {
        let shape = NetworkShape::infer(&grey(28, 28, layers(reduction))).unwrap();
        assert_eq!(shape.layers[1].output, shape.layers[1].input);
        let params = shape.params[shape.layers[1].params.clone()].iter();
        params.map(|param| (param.array.name.clone(), param.array.shape.clone())).collect::<Vec<_>>()
    };
    let expected = [
        ("1.squeeze_excitation.fc1.weight".to_owned(), vec![40, 2]),
        ("1.squeeze_excitation.fc1.bias".to_owned(), vec![2]),
        ("1.squeeze_excitation.fc2.weight".to_owned(), vec![2, 40]),
        ("1.squeeze_excitation.fc2.bias".to_owned(), vec![40]),
    ];
    assert_eq!(shapes(16), expected);
    assert_eq!(shapes(1000)[0].1, [40, 1], "at least one unit");
}

#[test]
fn the_residual_network() {
    let shape = NetworkShape::infer(&resnet9()).unwrap();
    // The same sum layer by layer: pixels · 9 · in · out.
    let expected = 784 * 9 * (64 + 64 * 128)
        + 196 * 9 * (2 * 128 * 128 + 128 * 256)
        + 49 * 9 * 256 * 512
        + 9 * 9 * 2 * 512 * 512
        + 512 * 10;
    assert_eq!(shape.multiply_adds(), expected);
    assert_eq!(shape.multiply_adds() / 1_000_000, 274);
    let block = &shape.layers[7];
    assert_eq!(block.name, "7.residual");
    assert_eq!(block.body[0].name, "7.residual.0.conv2d");
    let names: Vec<_> = shape.params[block.params.clone()].iter().map(|param| param.array.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "7.residual.0.conv2d.weight",
            "7.residual.1.batch_norm.scale",
            "7.residual.1.batch_norm.shift",
            "7.residual.3.conv2d.weight",
            "7.residual.4.batch_norm.scale",
            "7.residual.4.batch_norm.shift",
        ]
    );
    assert_eq!(shape.buffers[block.buffers.clone()][1].name, "7.residual.1.batch_norm.running_var");
}

#[test]
fn the_input_is_unpadded_only_for_layers_that_read_it_so() {
    let stride = |first, channels| {
        let mut spec = grey(8, 8, vec![first, LayerSpec::Flatten, classes()]);
        spec.input.channels = channels;
        NetworkShape::infer(&spec).unwrap().input.block.channel_stride
    };
    assert_eq!(stride(conv(4, true), 3), 3);
    assert_eq!(stride(LayerSpec::Flatten, 3), 3);
    assert_eq!(stride(conv(4, true), 15), 15);
    assert_eq!(stride(conv(4, true), 17), 32);
    assert_eq!(stride(RELU, 3), 16);
    assert_eq!(stride(max_pool(2), 1), 16);
}

#[test]
fn options_out_of_range_are_refused() {
    let conv2d = |filters, kernel: [usize; 2], stride, padding| LayerSpec::Conv2d {
        filters,
        kernel: Kernel::from(kernel),
        stride,
        padding,
        bias: true,
        init: Init::default(),
        frozen: false,
    };
    let same = Padding::Same;
    assert_refused(vec![conv2d(0, [3, 3], 1, same)], &["layer 0.conv2d", "an image of 28x28x1", "filters = 0"]);
    assert_refused(vec![conv2d(1, [0, 3], 1, same)], &["kernel height = 0"]);
    assert_refused(vec![conv2d(1, [3, 0], 1, same)], &["kernel width = 0"]);
    assert_refused(vec![conv2d(1, [3, 3], 0, same)], &["stride = 0"]);
    assert_refused(vec![conv2d(1, [31, 3], 1, Padding::Pixels(1))], &["31x3", "30x30", "more padding"]);
    assert_refused(vec![conv2d(1, [29, 29], 1, Padding::Valid)], &["29x29", "28x28"]);
    assert_refused(vec![conv2d(1, [3, 2], 1, Padding::Pixels(2))], &["padding = 2", "3x2", "smaller than the kernel"]);
    assert_refused(vec![conv(4, true), max_pool(29)], &["layer 1.max_pool2d", "28x28x4", "29x29"]);
    assert_refused(vec![max_pool(0)], &["size = 0"]);
    assert_refused(vec![LayerSpec::AvgPool2d { size: 2, stride: Some(0) }], &["0.avg_pool2d", "stride = 0"]);
    assert_refused(vec![LayerSpec::Flatten, dense(0)], &["layer 1.dense", "784 features", "units = 0"]);
    for rate in [-0.1, 1.0, f32::NAN] {
        assert_refused(vec![LayerSpec::Dropout { rate }], &["rate = ", "from 0 to below 1"]);
    }
    for drop in [-0.1, 1.0, f32::NAN] {
        assert_refused(vec![LayerSpec::Residual { layers: vec![RELU], drop }], &["drop = ", "from 0 to below 1"]);
    }
    for p in [0.9, 6.1, f32::NAN] {
        assert_refused(vec![LayerSpec::GemPool { p }], &["0.gem_pool", "p = ", "from 1 to 6"]);
    }
    assert_refused(vec![LayerSpec::SqueezeExcitation { reduction: 0 }], &["reduction = 0"]);
    for momentum in [0.0, 1.1, f32::NAN] {
        let layer = LayerSpec::BatchNorm { momentum, epsilon: 1e-5, scale: true };
        assert_refused(vec![layer], &["momentum = ", "above 0, at most 1"]);
    }
    for epsilon in [0.0, -1.0, f32::INFINITY, f32::NAN] {
        let layer = LayerSpec::BatchNorm { momentum: 0.1, epsilon, scale: true };
        assert_refused(vec![layer], &["epsilon = ", "finite number above 0"]);
    }
}

#[test]
fn layers_that_do_not_fit_together_are_refused() {
    assert_refused(vec![conv(4, true), dense(5)], &["layer 1.dense", "28x28x4", "takes features", "flatten"]);
    assert_refused(vec![LayerSpec::Flatten, conv(4, true)], &["layer 1.conv2d", "784 features", "takes an image"]);
    assert_refused(vec![LayerSpec::Flatten, max_pool(2)], &["layer 1.max_pool2d", "takes an image"]);
    assert_refused(vec![LayerSpec::GlobalAvgPool, LayerSpec::GlobalMaxPool], &["1.global_max_pool", "takes an image"]);
    assert_refused(vec![LayerSpec::Flatten, norm()], &["1.batch_norm", "cannot follow flatten directly"]);
    for layer in
        [LayerSpec::GlobalAvgMaxPool, LayerSpec::GemPool { p: 3.0 }, LayerSpec::SqueezeExcitation { reduction: 1 }]
    {
        assert_refused(vec![LayerSpec::Flatten, layer], &["784 features", "takes an image"]);
    }
    let residual = |layers| LayerSpec::Residual { layers, drop: 0.0 };
    assert_refused(vec![residual(vec![])], &["layer 0.residual", "no layers"]);
    assert_refused(
        vec![conv(4, true), residual(vec![conv(5, true)])],
        &["layer 1.residual", "an image of 28x28x4", "the body gives an image of 28x28x5"],
    );
    assert_refused(vec![conv(4, true), residual(vec![norm(), dense(3)])], &["layer 1.residual.1.dense"]);
    assert_refused(vec![LayerSpec::Flatten, residual(vec![dense(784)])], &["1.residual", "a dense layer between"]);
    assert_refused(vec![], &["no layers"]);
    let last = ["last layer, 1.dense", "gives 9 features", "10 classes need 10"];
    assert_refused(vec![LayerSpec::Flatten, dense(9)], &last);
    assert_refused(vec![conv(10, true)], &["0.conv2d", "gives an image of 28x28x10"]);
    // The right number of features, but not one in a channel each.
    assert!(refusal(&grey(2, 5, vec![LayerSpec::Flatten])).contains("end with"));
}

#[test]
fn initial_weights_that_a_layer_cannot_have_are_refused() {
    let conv2d = |filters, kernel: usize, init| LayerSpec::Conv2d {
        filters,
        kernel: Kernel::from(kernel),
        stride: 1,
        padding: Padding::Same,
        bias: true,
        init,
        frozen: true,
    };
    let whitening = |filters, kernel| conv2d(filters, kernel, Init::Whitening);
    let accepted = |first| grey(28, 28, vec![first, LayerSpec::Flatten, classes()]);
    assert!(NetworkShape::infer(&accepted(whitening(18, 3))).is_ok());
    let parts = ["layer 0.conv2d", "filters = 20", "even", "at most 18", "9 numbers of a 3x3 patch of 1 channel"];
    assert_refused(vec![whitening(20, 3)], &parts);
    assert_refused(vec![whitening(7, 3)], &["filters = 7", "an even number, at most 18"]);
    assert_refused(vec![whitening(10, 2)], &["at most 8", "2x2 patch"]);
    assert_refused(vec![whitening(10, 17)], &["init = \"whitening\" is not allowed", "at most 256"]);
    assert!(NetworkShape::infer(&accepted(whitening(512, 16))).is_ok());
    let place = ["init = \"whitening\" is not allowed", "first layer"];
    for layers in [vec![RELU, whitening(4, 3)], vec![LayerSpec::Residual { layers: vec![whitening(2, 3)], drop: 0.0 }]]
    {
        assert_refused(layers, &place);
    }
    let mut colour = accepted(whitening(54, 3));
    colour.input.channels = 3;
    assert!(NetworkShape::infer(&colour).is_ok());
    for init in [Init::Dirac, Init::Whitening] {
        let dense = LayerSpec::Dense { units: Units::Classes, bias: true, init, frozen: false };
        assert_refused(vec![LayerSpec::Flatten, dense], &["layer 1.dense", init.name(), "for conv2d"]);
    }
}

#[test]
fn deep_nesting_and_enormous_sizes_are_refused() {
    let nested = |depth| (0..depth).fold(RELU, |inner, _| LayerSpec::Residual { layers: vec![inner], drop: 0.0 });
    let network = |depth| grey(4, 4, vec![nested(depth), LayerSpec::Flatten, classes()]);
    assert!(NetworkShape::infer(&network(MAX_DEPTH)).is_ok());
    assert!(refusal(&network(MAX_DEPTH + 1)).contains("nested more than 16 deep"));

    for filters in [1 << 20, 1 << 28, 1 << 63, usize::MAX] {
        assert_refused(vec![conv(filters, true)], &["more than 67108864 numbers", "more than 268435456 numbers"]);
    }
    assert_refused(vec![LayerSpec::Flatten, dense(usize::MAX)], &["more than"]);
    // Each layer is possible, all of them together are not: weights first, then tensors.
    let small = [max_pool(14), conv(4096, true), conv(4096, true), conv(4096, true)];
    assert_refused(small.into(), &["layer 3.conv2d", "more than"]);
    assert_refused(vec![RELU; 6000], &["layer 5349.relu", "more than"]);
    let mut spec = keras_classifier();
    spec.input.height = usize::MAX;
    assert!(refusal(&spec).contains("at most 67,108,864 numbers"));
}

#[test]
fn impossible_inputs_and_class_counts_are_refused() {
    let message = |change: &dyn Fn(&mut ModelSpec)| {
        let mut spec = keras_classifier();
        change(&mut spec);
        refusal(&spec)
    };
    assert_eq!(message(&|spec| spec.input.width = 0), "input: width = 0 is not allowed: at least 1");
    assert!(message(&|spec| spec.input.mean = f32::NAN).contains("mean = NaN"));
    for std in [0.0, -1.0, f32::INFINITY, f32::NAN] {
        assert!(message(&|spec| spec.input.std = std).contains("a finite number above 0"));
    }
    for classes in [0, 1, 257] {
        let message = message(&|spec| spec.classes = classes);
        assert_eq!(message, format!("classes = {classes} is not allowed: from 2 to 256"));
    }
}

#[test]
fn a_network_may_end_in_global_pooling() {
    let spec = grey(28, 28, vec![conv(10, true), LayerSpec::GlobalAvgPool]);
    assert_eq!(NetworkShape::infer(&spec).unwrap().layers[1].output.block, BlockShape::new(1, 1, 10));
}

/// How many windows of `kernel` fit at multiples of `stride`, counted one by one.
fn windows(length: usize, kernel: usize, stride: usize, padding: usize) -> usize {
    (0..).map(|i| i * stride).take_while(|start| start + kernel <= length + 2 * padding).count()
}

proptest! {
    #[test]
    fn any_spec_is_accepted_or_refused_in_words(spec in wild_spec()) {
        match NetworkShape::infer(&spec) {
            Ok(shape) => prop_assert!(shape.params.iter().map(|p| p.array.layout.stored_len()).sum::<usize>() <= MAX_PARAMETERS),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn small_networks_are_consistent(spec in small_spec()) {
        let shape = NetworkShape::infer(&spec).unwrap();
        prop_assert_eq!(shape.layers.len(), spec.layers.len());
        let mut current = shape.input;
        for layer in &shape.layers {
            prop_assert_eq!(layer.input, current);
            if let Some(conv) = &layer.conv {
                prop_assert_eq!(conv.input, layer.input.block);
                prop_assert_eq!(conv.output, layer.output.block);
            }
            current = layer.output;
        }
        prop_assert_eq!(current.logical, Shape::Features(spec.classes));
    }

    #[test]
    fn convolution_and_pooling_give_one_pixel_a_window(
        size in 1usize..20, kernel in 1usize..8, stride in 1usize..4, pixels in 0usize..4,
    ) {
        let input = BlockShape::new(size, size, 1);
        let explicit = conv2d(input, 1, Kernel::from(kernel), stride, Padding::Pixels(pixels));
        let expected = windows(size, kernel, stride, pixels);
        match explicit {
            Ok(conv) => prop_assert_eq!(conv.output.height, expected),
            Err(LayerProblem::Padding { .. }) => prop_assert!(pixels >= kernel),
            Err(_) => prop_assert_eq!(expected, 0),
        }
        let same = conv2d(input, 1, Kernel::from(kernel), stride, Padding::Same).unwrap();
        prop_assert_eq!(same.output.height, size.div_ceil(stride));
        match pool(input, kernel, stride) {
            Ok(output) => prop_assert_eq!(output.block.width, windows(size, kernel, stride, 0)),
            Err(_) => prop_assert!(kernel > size),
        }
    }
}

#[test]
fn units_of_classes_follow_the_number_of_classes() {
    let dense = LayerSpec::Dense { units: Units::Classes, bias: false, init: Init::default(), frozen: false };
    let mut spec = grey(4, 4, vec![LayerSpec::Flatten, dense]);
    for classes in [2, 10, 256] {
        spec.classes = classes;
        assert_eq!(NetworkShape::infer(&spec).unwrap().param_count(), 16 * classes);
    }
}
