//! Training passes of whole networks: slopes, equal bits, and that networks learn.

mod common;

use common::{Adam, SIZE, build, build_in, bytes, convolutional, gradients, images, precisions, spec, threads};
use ndarray::Array2;
use selvedge_model::{BatchMetrics, Loss, ModelSpec, Network, Precision, Snapshot, StepKey, Targets};

const KEY: StepKey = StepKey { seed: 5, step: 1 };

/// The mean loss of a pass that draws the same dropout masks whatever the weights.
fn loss(network: &mut Network, images: &[u8], labels: &[u8]) -> f64 {
    network
        .forward_backward(images, Targets::Labels(labels), &Loss { label_smoothing: 0.1, class_weights: None }, KEY)
        .loss()
}

/// What a network makes of 75 images: the metrics and gradients of a training pass, the probabilities after it, and the names of
/// its operations.
struct Results {
    metrics: BatchMetrics,
    gradients: Vec<f32>,
    probabilities: Array2<f32>,
    operations: Vec<String>,
}

impl Results {
    fn of(spec: &ModelSpec, precision: Precision) -> Self {
        let (images, labels) = images(75, 6);
        let mut network = build_in(precision, spec, 75, &threads(2));
        let operations = network.operations(75).into_iter().map(|operation| operation.name).collect();
        let metrics = network.forward_backward(&images, Targets::Labels(&labels), &Loss::default(), KEY);
        Self { metrics, gradients: gradients(&mut network), probabilities: network.predict(&images), operations }
    }

    /// Those of a network, and of the same with a layer that does nothing where `layers` has its argument.
    fn fused_and_apart(layers: impl Fn(&str) -> ModelSpec, precision: Precision) -> [Self; 2] {
        ["", r#"{ layer = "dropout", rate = 0.0 },"#].map(|between| Self::of(&layers(between), precision))
    }
}

/// Along a random direction the loss changes as its gradient says. With only smooth layers the central difference is
/// off by a term in h² and by the rounding of the loss, 1e-7, divided by h: steps of 0.03 keep both below 1e-3.
fn central_differences_confirm_the_gradient_of(smooth: &ModelSpec) {
    let channels = smooth.input.channels;
    let (_, labels) = images(40, 3);
    let images = bytes(40 * SIZE * SIZE * channels, 3);
    let mut network = build(smooth, 40, &threads(2));
    loss(&mut network, &images, &labels);
    let gradient = gradients(&mut network);
    let start = network.snapshot();
    for direction in 0..4 {
        let direction: Vec<f32> =
            bytes(gradient.len(), direction).iter().map(|&byte| f32::from(byte) / 127.5 - 1.0).collect();
        let slope: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum();
        let mut loss_at = |h: f32| {
            let params = start.params.iter().zip(&direction).map(|(value, d)| value + h * d).collect();
            network.restore(&Snapshot { params, buffers: start.buffers.clone() });
            loss(&mut network, &images, &labels)
        };
        // Steps of one length, however many parameters there are.
        let h = 0.05 / (gradient.len() as f32).sqrt();
        let difference = (loss_at(h) - loss_at(-h)) / f64::from(2.0 * h);
        assert!(
            (difference - slope).abs() < 1e-3 * slope.abs().max(1.0),
            "{difference}, and the gradient says {slope}"
        );
    }
}

#[test]
fn central_differences_confirm_the_gradient() {
    central_differences_confirm_the_gradient_of(&spec(
        r#"
        { layer = "conv2d", filters = 5, kernel = 3, stride = 2 },
        { layer = "gelu" },
        { layer = "dropout", rate = 0.2 },
        { layer = "residual", layers = [
            { layer = "conv2d", filters = 5, kernel = [2, 3] },
            { layer = "batch_norm" },
            { layer = "silu" },
        ] },
        { layer = "avg_pool2d" },
        { layer = "flatten" },
        { layer = "dropout", rate = 0.3 },
        { layer = "dense", units = "classes" },
        "#,
    ));
}

#[test]
fn central_differences_confirm_the_gradient_of_stochastic_depth_and_pooling() {
    central_differences_confirm_the_gradient_of(&spec(
        r#"
        { layer = "conv2d", filters = 5, kernel = 3, stride = 2 },
        { layer = "mish" },
        { layer = "residual", drop = 0.4, layers = [
            { layer = "conv2d", filters = 5, kernel = [2, 3] },
            { layer = "batch_norm" },
            { layer = "residual", drop = 0.3, layers = [{ layer = "tanh" }] },
        ] },
        { layer = "gem_pool" },
        { layer = "dense", units = "classes" },
        "#,
    ));
}

/// In tiles of four results and of three; the last convolution has more weights than activations, so that its gradient is
/// summed by panels.
const BY_WINOGRAD: &str = r#"
    { layer = "conv2d", filters = 20, kernel = 3 },
    { layer = "avg_pool2d" },
    { layer = "residual", layers = [
        { layer = "conv2d", filters = 20, kernel = 3 },
        { layer = "batch_norm" },
        { layer = "silu" },
    ] },
    { layer = "avg_pool2d" },
    { layer = "conv2d", filters = 96, kernel = 3 },
    { layer = "batch_norm" },
    { layer = "gelu" },
    { layer = "conv2d", filters = 96, kernel = 3 },
    { layer = "silu" },
    { layer = "flatten" },
    { layer = "dense", units = "classes" },
"#;

#[test]
fn central_differences_confirm_the_gradient_by_winograd() {
    let grey = spec(BY_WINOGRAD);
    central_differences_confirm_the_gradient_of(&grey);
    // Sixteen channels of input are padded as they are: the first layer, too.
    let mut many = grey.clone();
    many.input.channels = 16;
    central_differences_confirm_the_gradient_of(&many);
    let threads = threads(1);
    let paths =
        |spec| build(spec, 32, &threads).operations(32).into_iter().filter(|o| o.path.ends_with("winograd")).count();
    assert_eq!([paths(&grey), paths(&many)], [3, 4]);
}

/// Next to the input nothing is repacked for the gradient of weights, so no thread keeps a buffer.
#[test]
fn a_convolution_next_to_the_input_trains_alone() {
    let alone = spec(r#"{ layer = "conv2d", filters = 10, kernel = 3, stride = 2 }, { layer = "global_avg_pool" }"#);
    let (images, labels) = images(40, 3);
    for precision in precisions() {
        let mut network = build_in(precision, &alone, 40, &threads(2));
        assert!(loss(&mut network, &images, &labels).is_finite());
        assert!(gradients(&mut network).iter().any(|&gradient| gradient != 0.0), "in {precision}");
    }
}

/// Dropout that drops nothing keeps a normalisation out of the pass of the layer next to the input.
#[test]
fn a_normalisation_in_the_pass_of_the_first_layer_changes_rounding_alone() {
    let layers = |bias: &str, between: &str, scale: &str, relu: &str| {
        let layers = r#"
            { layer = "conv2d", filters = 40, kernel = 3, bias = BIAS }, BETWEEN
            { layer = "batch_norm", scale = SCALE }, RELU
            { layer = "conv2d", filters = 8, kernel = 3, stride = 2 },
            { layer = "silu" },
            { layer = "global_avg_pool" },
            { layer = "dense", units = "classes" },
        "#;
        let words = [("BIAS", bias), ("BETWEEN", between), ("SCALE", scale), ("RELU", relu)];
        spec(&words.iter().fold(layers.to_owned(), |layers, (word, by)| layers.replace(word, by)))
    };
    let relu = r#"{ layer = "relu" },"#;
    let dropout = r#"{ layer = "dropout", rate = 0.0 },"#;
    let (images, labels) = images(75, 6);
    for precision in precisions() {
        for (bias, scale, relu) in [("false", "true", relu), ("true", "false", relu), ("true", "true", "")] {
            let pass = |between: &str| {
                let spec = layers(bias, between, scale, relu);
                let mut network = build_in(precision, &spec, 75, &threads(2));
                let name = network.operations(75).swap_remove(0).name;
                let metrics = network.forward_backward(&images, Targets::Labels(&labels), &Loss::default(), KEY);
                let running = network.snapshot().buffers;
                (metrics.loss_sum as f32, gradients(&mut network), running, network.predict(&images), name)
            };
            let (taken, apart) = (pass(""), pass(dropout));
            assert!(
                taken.4.starts_with("0.conv2d + batch_norm") && apart.4 == "0.conv2d",
                "{} and {}",
                taken.4,
                apart.4
            );
            // What is not rounded to bf16 between the two layers comes out otherwise, and so may the sign of what is small.
            let tolerance = if precision == Precision::F32 { 2e-5 } else { 3e-2 };
            let close = |what: &str, a: &[f32], b: &[f32]| {
                let largest = b.iter().fold(0.0f32, |largest, b| largest.max(b.abs()));
                for (a, b) in a.iter().zip(b) {
                    assert!((a - b).abs() <= tolerance * largest, "{what}: {a}, not {b}, in {precision}");
                }
            };
            close("the loss", &[taken.0], &[apart.0]);
            close("gradients", &taken.1, &apart.1);
            close("running statistics", &taken.2, &apart.2);
            close("predictions", taken.3.as_slice().unwrap(), apart.3.as_slice().unwrap());
        }
    }
}

/// Dropout that drops nothing keeps the sum at the end of a residual block out of the normalisation before it.
#[test]
fn a_sum_in_the_pass_of_a_normalisation_changes_no_bit() {
    let layers = |between: &str| {
        let layers = r#"
            { layer = "conv2d", filters = 20, kernel = 3 },
            { layer = "gelu" },
            { layer = "residual", layers = [
                { layer = "conv2d", filters = 20, kernel = 3, bias = false },
                { layer = "batch_norm" },
                { layer = "relu" }, BETWEEN
            ] },
            { layer = "residual", layers = [
                { layer = "residual", layers = [
                    { layer = "conv2d", filters = 20, kernel = 1 },
                    { layer = "batch_norm", scale = false }, BETWEEN
                ] },
            ] },
            { layer = "global_avg_pool" },
            { layer = "dense", units = "classes" },
        "#;
        spec(&layers.replace("BETWEEN", between))
    };
    for precision in precisions() {
        let [taken, apart] = Results::fused_and_apart(layers, precision);
        let sums = |results: &Results| results.operations.iter().filter(|name| name.ends_with(" + residual")).count();
        assert_eq!((sums(&taken), sums(&apart)), (2, 0));
        assert!(taken.metrics == apart.metrics, "the metrics in {precision}");
        assert!(taken.gradients == apart.gradients, "the gradients in {precision}");
        assert!(taken.probabilities == apart.probabilities, "the probabilities in {precision}");
    }
}

/// Dropout that drops nothing keeps max pooling out of the normalisation's pass. What is pooled is the same to the bit; the
/// gradients' sums over a batch have another order.
#[test]
fn pooling_in_the_pass_of_a_normalisation_changes_nothing() {
    // 12x12 pixels become 6x6, 3x3 and, with a row and a column that no window covers, 1x1. A kernel of 5x5 next to the input
    // takes no normalisation into its pass.
    let layers = |between: &str| {
        let layers = r#"
            { layer = "conv2d", filters = 5, kernel = 5, bias = false },
            { layer = "batch_norm" },
            { layer = "relu" }, BETWEEN
            { layer = "max_pool2d" },
            { layer = "conv2d", filters = 40, kernel = 3, bias = false },
            { layer = "batch_norm", scale = false }, BETWEEN
            { layer = "max_pool2d" },
            { layer = "conv2d", filters = 32, kernel = 3, bias = false },
            { layer = "batch_norm" },
            { layer = "relu" }, BETWEEN
            { layer = "max_pool2d" },
            { layer = "flatten" },
            { layer = "dense", units = "classes" },
        "#;
        spec(&layers.replace("BETWEEN", between))
    };
    for precision in precisions() {
        let [fused, apart] = Results::fused_and_apart(layers, precision);
        assert_eq!(fused.operations[1], "1.batch_norm + relu + max_pool2d");
        assert_eq!((fused.operations.len(), apart.operations.len()), (7, 13));
        assert!(
            fused.metrics == apart.metrics && fused.probabilities == apart.probabilities,
            "the loss and probabilities in {precision}"
        );
        // A sum that rounds to another bf16 number moves what comes after it by as much.
        let tolerance = if precision == Precision::F32 { 1e-5 } else { 1e-3 };
        let largest = fused.gradients.iter().fold(0.0f32, |largest, gradient| largest.max(gradient.abs()));
        for (a, b) in fused.gradients.iter().zip(&apart.gradients) {
            assert!((a - b).abs() <= tolerance * largest, "a gradient of {a}, not {b}, in {precision}");
        }
    }
}

/// Dropout that drops nothing keeps max pooling out of the pass of a convolution without ReLU. The algorithm, and with it the
/// rounding, may be another for the pass with pooling.
#[test]
fn pooling_in_the_pass_of_a_convolution_changes_rounding_alone() {
    // 12x12 pixels become 6x6, 3x3 and, with a row and a column that no window covers, 1x1.
    let layers = |between: &str| {
        let layers = r#"
            { layer = "conv2d", filters = 5, kernel = 3 }, BETWEEN
            { layer = "max_pool2d" },
            { layer = "batch_norm" },
            { layer = "gelu" },
            { layer = "conv2d", filters = 40, kernel = 3, bias = false }, BETWEEN
            { layer = "max_pool2d" },
            { layer = "dropout", rate = 0.0 },
            { layer = "conv2d", filters = 32, kernel = 3 }, BETWEEN
            { layer = "max_pool2d" },
            { layer = "flatten" },
            { layer = "dense", units = "classes" },
        "#;
        spec(&layers.replace("BETWEEN", between))
    };
    for precision in precisions() {
        let [fused, apart] = Results::fused_and_apart(layers, precision);
        assert_eq!(fused.operations[0], "0.conv2d + max_pool2d");
        assert_eq!(fused.operations[2], "4.conv2d + max_pool2d + dropout");
        assert_eq!((fused.operations.len(), apart.operations.len()), (5, 12));
        let tolerance = if precision == Precision::F32 { 2e-5 } else { 3e-2 };
        let [loss, expected] = [&fused, &apart].map(|results| results.metrics.loss());
        assert!((loss - expected).abs() <= f64::from(tolerance) * expected, "a loss of {loss}, not {expected}");
        let close = |what: &str, a: &[f32], b: &[f32]| {
            let largest = b.iter().fold(0.0f32, |largest, b| largest.max(b.abs()));
            for (a, b) in a.iter().zip(b) {
                assert!((a - b).abs() <= tolerance * largest, "{what}: {a}, not {b}, in {precision}");
            }
        };
        close("gradients", &fused.gradients, &apart.gradients);
        close("predictions", fused.probabilities.as_slice().unwrap(), apart.probabilities.as_slice().unwrap());
    }
}

/// Everything that 20 steps of Adam make: weights, the passes' metrics, and what inference makes of other images.
fn train(
    precision: Precision,
    batch: usize,
    thread_count: usize,
) -> (Vec<u8>, Vec<BatchMetrics>, BatchMetrics, Vec<f32>) {
    let mut network = build_in(precision, &convolutional(), batch, &threads(thread_count));
    let mut adam = Adam::new(&network, 0.003);
    let mut metrics = vec![];
    for step in 0..20 {
        let (images, labels) = images(batch, step);
        let key = StepKey { seed: 11, step };
        metrics.push(network.forward_backward(&images, Targets::Labels(&labels), &Loss::default(), key));
        adam.step(&mut network);
    }
    let (images, labels) = images(batch + 45, 1000);
    let evaluation = network.evaluate(&images, &labels);
    let probabilities = network.predict(&images).into_raw_vec_and_offset().0;
    (network.weights_bytes(), metrics, evaluation, probabilities)
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for (precision, batch) in precisions().into_iter().flat_map(|precision| [(precision, 96), (precision, 600)]) {
        let one = train(precision, batch, 1);
        for threads in [2, 3, 4, 8] {
            let name = format!("batches of {batch} in {precision} on {threads} threads");
            let other = train(precision, batch, threads);
            assert!(one.0 == other.0, "weights after {name}");
            assert_eq!((&one.1, one.2), (&other.1, other.2), "{name}");
            assert!(one.3 == other.3, "probabilities after {name}");
        }
    }
}

/// Layers so large that more threads than blocks cut them: by rows or tiles, with pooling and without, and, of 3x3 pixels, by
/// channels.
#[test]
fn blocks_cut_over_threads_change_no_bit() {
    let large = spec(
        r#"
        { layer = "conv2d", filters = 256, kernel = 3 },
        { layer = "batch_norm" },
        { layer = "relu" },
        { layer = "conv2d", filters = 64, kernel = 3 },
        { layer = "relu" },
        { layer = "conv2d", filters = 64, kernel = 3 },
        { layer = "relu" },
        { layer = "max_pool2d" },
        { layer = "conv2d", filters = 256, kernel = 3, bias = false },
        { layer = "batch_norm" },
        { layer = "relu" },
        { layer = "max_pool2d" },
        { layer = "conv2d", filters = 256, kernel = 3 },
        { layer = "gelu" },
        { layer = "flatten" },
        { layer = "dense", units = "classes" },
        "#,
    );
    more_threads_than_blocks_change_no_bit_of(&large);
}

/// Layers that multiply little, on tensors so large that they are cut, too; the windows of the last pooling leave a row.
#[test]
fn elementwise_layers_cut_over_threads_change_no_bit() {
    more_threads_than_blocks_change_no_bit_of(&spec(
        r#"
        { layer = "conv2d", filters = 256, kernel = 2, padding = "valid", bias = false },
        { layer = "batch_norm" },
        { layer = "relu" },
        { layer = "silu" },
        { layer = "dropout", rate = 0.2 },
        { layer = "residual", layers = [
            { layer = "conv2d", filters = 256, kernel = 1 },
            { layer = "relu" },
            { layer = "batch_norm" },
        ] },
        { layer = "squeeze_excitation" },
        { layer = "residual", drop = 0.3, layers = [{ layer = "tanh" }] },
        { layer = "max_pool2d", stride = 1 },
        { layer = "avg_pool2d", stride = 1 },
        { layer = "conv2d", filters = 256, kernel = 1, bias = false },
        { layer = "batch_norm" },
        { layer = "relu" },
        { layer = "max_pool2d" },
        { layer = "flatten" },
        { layer = "dense", units = "classes" },
        "#,
    ));
}

/// A pass over one block in either precision, on one thread and on several.
#[track_caller]
fn more_threads_than_blocks_change_no_bit_of(spec: &ModelSpec) {
    let (images, labels) = images(20, 4);
    for precision in precisions() {
        let pass = |thread_count: usize| {
            let mut network = build_in(precision, spec, 20, &threads(thread_count));
            let metrics = network.forward_backward(&images, Targets::Labels(&labels), &Loss::default(), KEY);
            (metrics, gradients(&mut network), network.predict(&images))
        };
        let one = pass(1);
        for thread_count in [2, 5, 16] {
            assert!(pass(thread_count) == one, "a pass in {precision} on {thread_count} threads");
        }
    }
}

/// Global poolings that read a whole image of many channels, whose gradient is cut by rows.
#[test]
fn global_pooling_cut_over_threads_changes_no_bit() {
    for pool in ["global_avg_max_pool", "gem_pool"] {
        more_threads_than_blocks_change_no_bit_of(&spec(&format!(
            r#"
            {{ layer = "conv2d", filters = 256, kernel = 3 }},
            {{ layer = "silu" }},
            {{ layer = "{pool}" }},
            {{ layer = "dense", units = "classes" }},
            "#
        )));
    }
}

#[test]
fn neither_planned_memory_nor_earlier_passes_change_a_bit() {
    let pass = |network: &mut Network, count: usize| {
        let (images, labels) = images(count, 1);
        let metrics = network.forward_backward(&images, Targets::Labels(&labels), &Loss::default(), KEY);
        (metrics, gradients(network))
    };
    for precision in precisions() {
        let fresh = pass(&mut build_in(precision, &convolutional(), 37, &threads(2)), 37);
        let mut used = build_in(precision, &convolutional(), 600, &threads(2));
        let start = used.snapshot();
        pass(&mut used, 600);
        pass(&mut used, 3);
        used.predict(&images(100, 2).0);
        used.restore(&start);
        assert!(fresh == pass(&mut used, 37), "in {precision}");
    }
}

/// Training until every image is right, at most `epochs` times over.
fn overfit(precision: Precision, spec: &ModelSpec, images: &[u8], labels: &[u8], epochs: u64) -> f64 {
    let mut network = build_in(precision, spec, labels.len(), &threads(2));
    let mut adam = Adam::new(&network, 0.003);
    for step in 0..epochs {
        network.forward_backward(images, Targets::Labels(labels), &Loss::default(), StepKey { seed: 1, step });
        adam.step(&mut network);
        if step % 10 == 9 && network.evaluate(images, labels).accuracy() == 1.0 {
            return 1.0;
        }
    }
    network.evaluate(images, labels).accuracy()
}

#[test]
fn networks_learn_64_real_images_by_heart() {
    // The first 64 images of the test set, one byte a pixel, followed by their labels.
    let (images, labels) = include_bytes!("fixtures/fashion-mnist-64.bin").split_at(64 * 28 * 28);
    let plain = r#"
        { layer = "conv2d", filters = 8, kernel = 3 }, { layer = "relu" }, { layer = "max_pool2d" },
        { layer = "conv2d", filters = 16, kernel = 3 }, { layer = "relu" }, { layer = "max_pool2d" },
        { layer = "flatten" }, { layer = "dense", units = 64 }, { layer = "relu" },
        { layer = "dense", units = "classes" },
    "#;
    for mut spec in [spec(plain), convolutional()] {
        (spec.input.height, spec.input.width) = (28, 28);
        for precision in precisions() {
            assert_eq!(overfit(precision, &spec, images, labels, 200), 1.0, "in {precision}");
        }
    }
}
