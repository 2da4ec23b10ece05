//! Networks that several tests use: two real ones, and random ones, possible and impossible.

use proptest::prelude::*;
use selvedge_compute::activation::Activation;

use crate::spec::init::Init;
use crate::spec::layer::LayerSpec;
use crate::spec::options::{Kernel, Padding, Units};
use crate::spec::{InputSpec, ModelSpec};

pub(crate) const RELU: LayerSpec = LayerSpec::Activation(Activation::Relu);

/// Grey images of `height` by `width`, ten classes.
pub(crate) fn grey(height: usize, width: usize, layers: Vec<LayerSpec>) -> ModelSpec {
    ModelSpec { classes: 10, input: InputSpec { height, width, channels: 1, mean: 0.0, std: 1.0 }, layers }
}

pub(crate) fn conv(filters: usize, bias: bool) -> LayerSpec {
    LayerSpec::Conv2d {
        filters,
        kernel: Kernel::from(3),
        stride: 1,
        padding: Padding::Same,
        bias,
        init: Init::default(),
        frozen: false,
    }
}

pub(crate) fn max_pool(size: usize) -> LayerSpec {
    LayerSpec::MaxPool2d { size, stride: None }
}

pub(crate) fn dense(units: usize) -> LayerSpec {
    LayerSpec::Dense { units: Units::Count(units), bias: true, init: Init::default(), frozen: false }
}

pub(crate) fn classes() -> LayerSpec {
    LayerSpec::Dense { units: Units::Classes, bias: true, init: Init::default(), frozen: false }
}

pub(crate) fn norm() -> LayerSpec {
    LayerSpec::BatchNorm { momentum: 0.1, epsilon: 1e-5, scale: true }
}

/// A Keras classifier of Fashion-MNIST: three convolutions, two hidden dense layers.
pub(crate) fn keras_classifier() -> ModelSpec {
    use LayerSpec::{Dropout, Flatten};
    grey(
        28,
        28,
        vec![
            conv(16, true),
            RELU,
            max_pool(2),
            Dropout { rate: 0.3 },
            conv(32, true),
            RELU,
            max_pool(2),
            conv(64, true),
            RELU,
            max_pool(2),
            Dropout { rate: 0.5 },
            Flatten,
            dense(350),
            RELU,
            dense(150),
            RELU,
            Dropout { rate: 0.25 },
            classes(),
        ],
    )
}

/// A residual network of nine layers with weights, 64 to 512 channels.
pub(crate) fn resnet9() -> ModelSpec {
    let block = |filters| [conv(filters, false), norm(), RELU];
    let pair = |filters| LayerSpec::Residual { layers: [block(filters), block(filters)].concat(), drop: 0.0 };
    let mut layers = [block(64), block(128)].concat();
    layers.extend([max_pool(2), pair(128)]);
    layers.extend(block(256));
    layers.push(max_pool(2));
    layers.extend(block(512));
    layers.extend([max_pool(2), pair(512), LayerSpec::GlobalMaxPool]);
    layers.push(LayerSpec::Dense { units: Units::Classes, bias: false, init: Init::default(), frozen: false });
    grey(28, 28, layers)
}

/// Any numbers, mostly of ordinary size.
fn count() -> impl Strategy<Value = usize> + Clone {
    prop_oneof![8 => 1usize..40, 1 => Just(0), 1 => any::<usize>(), 1 => (0..64u32).prop_map(|bits| 1usize << bits)]
}

fn number() -> impl Strategy<Value = f32> {
    prop_oneof![8 => 0.01f32..0.99, 1 => any::<f32>()]
}

fn kernel(size: impl Strategy<Value = usize> + Clone) -> impl Strategy<Value = Kernel> {
    (size.clone(), size).prop_map(|(height, width)| Kernel { height, width })
}

/// Any initial weights.
fn init() -> impl Strategy<Value = Init> {
    use Init::{Dirac, FanInUniform, GlorotUniform, HeNormal, Whitening, Zeros};
    proptest::sample::select(vec![GlorotUniform, HeNormal, FanInUniform, Dirac, Zeros, Whitening])
}

/// Any spec at all: hardly one of them is possible.
pub(crate) fn wild_spec() -> impl Strategy<Value = ModelSpec> {
    let padding = prop_oneof![Just(Padding::Same), Just(Padding::Valid), count().prop_map(Padding::Pixels)];
    let units = prop_oneof![Just(Units::Classes), count().prop_map(Units::Count)];
    let leaf = prop_oneof![
        3 => (count(), kernel(count()), count(), padding, any::<bool>(), init(), any::<bool>())
            .prop_map(|(filters, kernel, stride, padding, bias, init, frozen)| {
                LayerSpec::Conv2d { filters, kernel, stride, padding, bias, init, frozen }
            }),
        2 => (units, any::<bool>(), init(), any::<bool>())
            .prop_map(|(units, bias, init, frozen)| LayerSpec::Dense { units, bias, init, frozen }),
        1 => (count(), proptest::option::of(count())).prop_map(|(size, stride)| LayerSpec::MaxPool2d { size, stride }),
        1 => (count(), proptest::option::of(count())).prop_map(|(size, stride)| LayerSpec::AvgPool2d { size, stride }),
        3 => simple_layer(),
        1 => number().prop_map(|rate| LayerSpec::Dropout { rate }),
        1 => number().prop_map(|p| LayerSpec::GemPool { p }),
        1 => count().prop_map(|reduction| LayerSpec::SqueezeExcitation { reduction }),
        1 => (number(), number(), any::<bool>())
            .prop_map(|(momentum, epsilon, scale)| LayerSpec::BatchNorm { momentum, epsilon, scale }),
    ];
    let layer = leaf.prop_recursive(4, 16, 4, |inner| {
        (proptest::collection::vec(inner, 0..4), number())
            .prop_map(|(layers, drop)| LayerSpec::Residual { layers, drop })
    });
    let input = (count(), count(), count(), number(), number())
        .prop_map(|(height, width, channels, mean, std)| InputSpec { height, width, channels, mean, std });
    (prop_oneof![8 => 2usize..20, 1 => any::<usize>()], input, proptest::collection::vec(layer, 0..8))
        .prop_map(|(classes, input, layers)| ModelSpec { classes, input, layers })
}

fn simple_layer() -> impl Strategy<Value = LayerSpec> {
    use LayerSpec::{Flatten, GlobalAvgMaxPool, GlobalAvgPool, GlobalMaxPool};
    let activations = Activation::ALL.map(LayerSpec::Activation);
    proptest::sample::select([&activations[..], &[Flatten, GlobalAvgPool, GlobalMaxPool, GlobalAvgMaxPool]].concat())
}

/// Small specs that are networks.
pub(crate) fn small_spec() -> impl Strategy<Value = ModelSpec> {
    let padding = prop_oneof![Just(Padding::Same), Just(Padding::Valid), Just(Padding::Pixels(1))];
    let body =
        (1usize..20).prop_map(|filters| vec![conv(filters, true), norm(), LayerSpec::Activation(Activation::Gelu)]);
    let image_layer = prop_oneof![
        (1usize..20, kernel(2usize..4), 1usize..3, padding, any::<bool>(), init(), any::<bool>())
            .prop_filter("whitening is for the first layer", |layer| layer.5 != Init::Whitening)
            .prop_map(|(filters, kernel, stride, padding, bias, init, frozen)| {
                LayerSpec::Conv2d { filters, kernel, stride, padding, bias, init, frozen }
            }),
        (1usize..3, proptest::option::of(1usize..3)).prop_map(|(size, stride)| LayerSpec::MaxPool2d { size, stride }),
        any::<bool>().prop_map(|scale| LayerSpec::BatchNorm { momentum: 0.1, epsilon: 1e-5, scale }),
        Just(RELU),
        (1usize..20).prop_map(|reduction| LayerSpec::SqueezeExcitation { reduction }),
        proptest::sample::select(vec![0.0, 0.3]).prop_map(|drop| LayerSpec::Residual {
            layers: vec![norm(), LayerSpec::Activation(Activation::Silu)],
            drop
        }),
    ];
    use LayerSpec::{Flatten, GemPool, GlobalAvgMaxPool, GlobalAvgPool, GlobalMaxPool};
    let end = vec![Flatten, GlobalAvgPool, GlobalMaxPool, GlobalAvgMaxPool, GemPool { p: 2.5 }];
    let end = proptest::sample::select(end);
    let input = (12usize..17, 12usize..17, prop_oneof![Just(1usize), Just(3), Just(15), Just(17)])
        .prop_map(|(height, width, channels)| InputSpec { height, width, channels, mean: 0.25, std: 0.5 });
    (2usize..20, input, body, proptest::collection::vec(image_layer, 0..3), end, proptest::option::of(1usize..20))
        .prop_map(|(classes_count, input, body, image_layers, end, hidden)| {
            let layers = body.into_iter().chain(image_layers).chain([end]).chain(hidden.map(dense)).chain([classes()]);
            ModelSpec { classes: classes_count, input, layers: layers.collect() }
        })
}
