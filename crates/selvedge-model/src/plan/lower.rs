//! From layers to operations: [`lower`] turns a specification into a [`Plan`].
//!
//! Fusion: a convolution or dense layer takes a ReLU after it, then a max pooling whose windows do not overlap, with the ReLU or
//! without, then a dropout. A batch normalisation takes the activation after it, and then a max pooling of this kind (after ReLU
//! or no activation) or the sum at the end of a residual block. A normalisation without pooling is folded into the first
//! convolution before it, if that reads patches of 3x3 pixels ([`selvedge_compute::conv::first_layer::batch_norm`]). `Flatten` is
//! not an operation: a dense layer after it is the convolution whose kernel is the whole image.

use selvedge_compute::activation::Activation;
use selvedge_compute::aligned::ALIGNMENT;
use selvedge_compute::conv::{Conv2dShape, ConvPlan, Fusion, MAX_WINDOW, Source, TensorType};
use selvedge_compute::pool::Pool2dShape;
use selvedge_compute::{BlockShape, Precision};

use crate::plan::{BatchNorm, Conv, ConvNorm, Dropout, FusedPool, Norm, NormPool, Op, Plan, Value, ValueId};
use crate::spec::ModelSpec;
use crate::spec::inference::{LayerShape, NetworkShape};
use crate::spec::layer::LayerSpec;

/// The plan of a specification and its shapes.
pub(crate) fn lower(spec: &ModelSpec, shape: &NetworkShape, precision: Precision) -> Plan {
    let mut lowering = Lowering { plan: Plan::default(), precision, fused_dropouts: 0 };
    let input = lowering.value(shape.input.block, None);
    lowering.plan.input = input;
    let first = spec.layers.iter().find(|layer| !matches!(layer, LayerSpec::Flatten));
    let x = match first {
        Some(LayerSpec::Conv2d { .. } | LayerSpec::Dense { .. }) => input,
        _ if precision == Precision::F32 => input,
        _ => {
            let y = lowering.value(shape.input.block, None);
            lowering.plan.ops.push(Op::Round { x: input, y });
            lowering.plan.names.push("input".to_owned());
            y
        }
    };
    let mut logits = lowering.layers(&spec.layers, &shape.layers, x);
    if precision == Precision::Bf16 && !matches!(lowering.plan.ops.last(), Some(Op::Conv(_))) {
        let x = logits;
        logits = lowering.value(lowering.plan.values[x].shape, None);
        lowering.plan.ops.push(Op::Widen { x, y: logits });
        lowering.plan.names.push("logits".to_owned());
    }
    let mut plan = lowering.plan;
    plan.logits = logits;
    // The input's pixels, unless they are patches, and the logits are f32 in either precision.
    for id in [input, logits] {
        plan.values[id].element = size_of::<f32>();
    }
    if let Some(Op::Conv(conv)) = plan.ops.last_mut() {
        conv.plan = conv.plan.with_f32_output();
    }
    if let Some(layer) = plan.patches() {
        let TensorType { shape, precision } = layer.input();
        (plan.values[input].shape, plan.values[input].element) = (shape, precision.bytes());
    }
    plan.place();
    plan
}

struct Lowering {
    plan: Plan,
    precision: Precision,
    fused_dropouts: usize,
}

impl Lowering {
    /// Bytes of an element of activations and gradients.
    fn element(&self) -> usize {
        match self.precision {
            Precision::F32 => size_of::<f32>(),
            Precision::Bf16 => size_of::<u16>(),
        }
    }

    fn value(&mut self, shape: BlockShape, same_as: Option<ValueId>) -> ValueId {
        let element = self.element();
        self.plan.values.push(Value { shape, element, grad_element: element, same_as, data: 0..0, grad: 0..0 });
        self.plan.values.len() - 1
    }

    /// Lowers `layers` on `x` and returns the value that the last one makes.
    fn layers(&mut self, layers: &[LayerSpec], shapes: &[LayerShape], mut x: ValueId) -> ValueId {
        let mut index = 0;
        while index < layers.len() {
            let first = index;
            let (input, params) = (shapes[index].input.block, shapes[index].params.clone());
            let after = &layers[index + 1..];
            match &layers[index] {
                LayerSpec::Conv2d { bias, frozen, .. } | LayerSpec::Dense { bias, frozen, .. } => {
                    let shape =
                        shapes[index].conv.expect("shape inference gives a convolution or dense layer its shape");
                    if x == self.plan.input
                        && let Some(activation) = folded_norm(&shape, after)
                    {
                        let norm = self.norm(&layers[index + 1], &shapes[index + 1], activation);
                        let bias = bias.then_some(params.start + 1);
                        x = self.conv_norm(shape, [params.start, norm], bias, x);
                        index += 1 + usize::from(activation.is_some());
                        self.plan.names.push(name_of(&shapes[first..=index]));
                        index += 1;
                        continue;
                    }
                    let fused = Fused::of(after, &shape.output);
                    x = self.conv(shape, params.start, bias.then_some(params.start + 1), fused, x);
                    index += fused.layers();
                    if *frozen && let Some(Op::Conv(conv)) = self.plan.ops.last_mut() {
                        conv.plan = conv.plan.with_frozen_weights();
                    }
                }
                LayerSpec::Flatten => {}
                LayerSpec::Activation(kind) => {
                    let y = self.value(input, None);
                    self.plan.ops.push(Op::Activate { kind: *kind, x, y });
                    x = y;
                }
                LayerSpec::MaxPool2d { size, stride } => x = self.max_pool(window(input, *size, *stride), x),
                LayerSpec::AvgPool2d { size, stride } => x = self.avg_pool(window(input, *size, *stride), x),
                LayerSpec::GlobalMaxPool => x = self.max_pool(Pool2dShape::global(input), x),
                LayerSpec::GlobalAvgPool => x = self.avg_pool(Pool2dShape::global(input), x),
                LayerSpec::GlobalAvgMaxPool => {
                    let y = self.value(Pool2dShape::global(input).output(), None);
                    self.plan.ops.push(Op::AvgMaxPool { x, y, indices: 0..0 });
                    x = y;
                }
                LayerSpec::GemPool { p } => {
                    let y = self.value(Pool2dShape::global(input).output(), None);
                    self.plan.ops.push(Op::GemPool { p: *p, x, y });
                    x = y;
                }
                LayerSpec::SqueezeExcitation { .. } => x = self.squeeze_excitation(&shapes[index], x),
                LayerSpec::Dropout { rate } => {
                    let dropout = Dropout { rate: *rate, key: self.dropout_key() };
                    let y = self.value(input, None);
                    self.plan.ops.push(Op::Dropout { dropout, x, y });
                    x = y;
                }
                LayerSpec::BatchNorm { .. } => {
                    let activation = after.first().and_then(activation);
                    let norm = self.norm(&layers[index], &shapes[index], activation);
                    index += usize::from(activation.is_some());
                    let pool = match (activation, layers.get(index + 1)) {
                        (None | Some(Activation::Relu), Some(next)) => {
                            apart(next, &input).map(|window| Pool2dShape::new(input, window, window))
                        }
                        _ => None,
                    };
                    let y = self.value(pool.map_or(input, |pool| pool.output()), None);
                    index += usize::from(pool.is_some());
                    let pool = pool.map(|shape| NormPool { shape, indices: 0..0, kept: 0..0 });
                    self.plan.ops.push(Op::Norm(BatchNorm { norm, pool, shortcut: None, x, y, partial: 0..0 }));
                    x = y;
                }
                LayerSpec::Residual { layers, drop } => x = self.residual(layers, *drop, &shapes[index], x),
            }
            self.plan.names.resize(self.plan.ops.len(), name_of(&shapes[first..=index]));
            index += 1;
        }
        x
    }

    /// The number of the normalisation that a layer is.
    fn norm(&mut self, layer: &LayerSpec, shape: &LayerShape, activation: Option<Activation>) -> usize {
        let LayerSpec::BatchNorm { momentum, epsilon, scale } = *layer else {
            unreachable!("{layer:?} is not a batch norm")
        };
        self.plan.norms.push(Norm {
            shape: shape.input.block,
            momentum,
            epsilon,
            activation,
            scale: scale.then_some(shape.params.start),
            shift: shape.params.end - 1,
            mean: shape.buffers.start,
        });
        self.plan.norms.len() - 1
    }

    /// The layer next to the input, of these weights and bias, with normalisation `norm`.
    fn conv_norm(
        &mut self,
        shape: Conv2dShape,
        [weight, norm]: [usize; 2],
        bias: Option<usize>,
        x: ValueId,
    ) -> ValueId {
        let y = self.value(shape.output, None);
        let relu = self.plan.norms[norm].activation == Some(Activation::Relu);
        let fusion = Fusion { batch_norm: true, relu, pool: None };
        let plan = ConvPlan::new(shape, fusion, Source::Network, self.precision);
        self.plan.ops.push(Op::ConvNorm(Box::new(ConvNorm { plan, weight, bias, norm, x, y, partial: 0..0 })));
        y
    }

    fn conv(&mut self, shape: Conv2dShape, weight: usize, bias: Option<usize>, fused: Fused, x: ValueId) -> ValueId {
        let plan = ConvPlan::new(shape, fused.fusion(), self.source(x), self.precision);
        let mut pack = |bytes: usize| {
            let start = self.plan.packed_bytes;
            self.plan.packed_bytes = (start + bytes).next_multiple_of(ALIGNMENT);
            start..start + bytes
        };
        let (packed, transposed) = (pack(plan.packed_bytes()), pack(plan.transposed_bytes()));
        let full = self.value(shape.output, None);
        let dropout = fused.dropout.map(|rate| {
            self.fused_dropouts += 1;
            Dropout { rate, key: self.dropout_key() }
        });
        let pool = fused.window.map(|_| FusedPool { indices: 0..0, full, dropout });
        let y = if pool.is_some() { self.value(plan.output().shape, None) } else { full };
        let repacked = [0..0, 0..0];
        self.plan.ops.push(Op::Conv(Box::new(Conv { plan, weight, bias, pool, x, y, packed, transposed, repacked })));
        y
    }

    /// Whether a value is the network's input, or has its content.
    fn source(&self, x: ValueId) -> Source {
        if self.plan.values[x].same_as.unwrap_or(x) == self.plan.input { Source::Network } else { Source::Layer }
    }

    /// The number of a dropout among the operations, if each were one of its own: fusing it changes no mask.
    fn dropout_key(&self) -> u32 {
        (self.plan.ops.len() + self.fused_dropouts) as u32
    }

    fn max_pool(&mut self, shape: Pool2dShape, x: ValueId) -> ValueId {
        let y = self.value(shape.output(), None);
        self.plan.ops.push(Op::MaxPool { shape, x, y, indices: 0..0 });
        y
    }

    fn avg_pool(&mut self, shape: Pool2dShape, x: ValueId) -> ValueId {
        let y = self.value(shape.output(), None);
        self.plan.ops.push(Op::AvgPool { shape, x, y });
        y
    }

    /// Another value with the content of `x`, and a gradient of its own.
    fn branch(&mut self, x: ValueId) -> ValueId {
        let Value { shape, same_as, .. } = self.plan.values[x];
        self.value(shape, Some(same_as.unwrap_or(x)))
    }

    fn squeeze_excitation(&mut self, layer: &LayerShape, x: ValueId) -> ValueId {
        let shape = self.plan.values[x].shape;
        let [squeezed, gated] = [self.branch(x), self.branch(x)];
        self.plan.ops.push(Op::Fork { x, body: squeezed, other: gated });
        let mut z = self.avg_pool(Pool2dShape::global(shape), squeezed);
        self.plan.names.resize(self.plan.ops.len(), layer.name.clone());
        for (dense, relu) in layer.body.iter().zip([true, false]) {
            let conv = dense.conv.expect("shape inference gives a dense layer its shape");
            let fused = Fused { relu, window: None, dropout: None };
            z = self.conv(conv, dense.params.start, Some(dense.params.start + 1), fused, z);
            self.plan.names.push(dense.name.clone());
        }
        let y = self.value(shape, None);
        self.plan.ops.push(Op::Gate { x: gated, z, y });
        y
    }

    fn residual(&mut self, layers: &[LayerSpec], drop: f32, block: &LayerShape, x: ValueId) -> ValueId {
        let shape = self.plan.values[x].shape;
        let body = self.branch(x);
        let fork = self.plan.ops.len();
        self.plan.ops.push(Op::Fork { x, body, other: 0 });
        self.plan.names.push(block.name.clone());
        let end = self.layers(layers, &block.body, body);
        let y = match (self.plan.ops.last_mut(), self.plan.names.last_mut()) {
            // Its gradient is that of the sum.
            (Some(Op::Norm(BatchNorm { pool: None, shortcut: shortcut @ None, y, .. })), Some(name))
                if *y == end && drop == 0.0 =>
            {
                *shortcut = Some(x);
                name.push_str(" + residual");
                end
            }
            _ => {
                let y = self.value(shape, None);
                let drop = (drop > 0.0).then(|| Dropout { rate: drop, key: self.dropout_key() });
                self.plan.ops.push(Op::Add { shortcut: x, body: end, y, drop });
                y
            }
        };
        if let Op::Fork { other, .. } = &mut self.plan.ops[fork] {
            *other = y;
        }
        y
    }
}

/// The first layer's name, and the kinds of those that are computed with it.
fn name_of(layers: &[LayerShape]) -> String {
    let kind = |layer: &LayerShape| layer.name.rsplit('.').next().unwrap_or_default().to_owned();
    let first = layers.first().map(|layer| layer.name.clone());
    let after = layers.iter().skip(1).map(kind);
    first.into_iter().chain(after).collect::<Vec<_>>().join(" + ")
}

/// The layers after a convolution that are fused into it.
#[derive(Clone, Copy)]
struct Fused {
    relu: bool,
    /// Height and width of the pooling window.
    window: Option<[usize; 2]>,
    /// The rate of a dropout after the pooling.
    dropout: Option<f32>,
}

impl Fused {
    fn of(after: &[LayerSpec], result: &BlockShape) -> Self {
        let relu = after.first().and_then(activation) == Some(Activation::Relu);
        let after = &after[usize::from(relu)..];
        let window = after.first().and_then(|layer| apart(layer, result));
        let dropout = match after.get(1) {
            Some(LayerSpec::Dropout { rate }) if window.is_some() => Some(*rate),
            _ => None,
        };
        Self { relu, window, dropout }
    }

    /// What of it belongs to the convolution's plan.
    fn fusion(self) -> Fusion {
        Fusion { batch_norm: false, relu: self.relu, pool: self.window }
    }

    /// How many layers these are.
    fn layers(self) -> usize {
        usize::from(self.relu) + usize::from(self.window.is_some()) + usize::from(self.dropout.is_some())
    }
}

/// The activation, or none, after a batch norm that is folded into the layer next to the input: if there is such a batch norm, and
/// no pooling that it takes into its own pass.
fn folded_norm(shape: &Conv2dShape, after: &[LayerSpec]) -> Option<Option<Activation>> {
    let [LayerSpec::BatchNorm { .. }, after @ ..] = after else { return None };
    let activation = after.first().and_then(activation);
    let next = after.get(usize::from(activation.is_some()));
    let pooled = next.is_some_and(|next| apart(next, &shape.output).is_some());
    let relu_or_none = matches!(activation, None | Some(Activation::Relu));
    (ConvPlan::folds_batch_norm(shape, Source::Network) && relu_or_none && !pooled).then_some(activation)
}

/// The window of a max pooling that the operation before it can take, whose result has this shape: windows of a few pixels
/// that follow each other without a gap.
fn apart(layer: &LayerSpec, result: &BlockShape) -> Option<[usize; 2]> {
    match layer {
        LayerSpec::MaxPool2d { size, stride }
            if stride.unwrap_or(*size) == *size
                && size * size <= MAX_WINDOW
                && *size <= result.height.min(result.width) =>
        {
            Some([*size; 2])
        }
        _ => None,
    }
}

fn activation(layer: &LayerSpec) -> Option<Activation> {
    match layer {
        LayerSpec::Activation(kind) => Some(*kind),
        _ => None,
    }
}

fn window(shape: BlockShape, size: usize, stride: Option<usize>) -> Pool2dShape {
    Pool2dShape::new(shape, [size; 2], [stride.unwrap_or(size); 2])
}
