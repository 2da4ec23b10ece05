//! Plans, with every fusion, against the naive convolution in f64, in f32 on every instruction set.

use super::*;
use crate::aligned::{AlignedVec, bytes, bytes_mut};
use crate::pool::Pool2dShape;

/// The passes of a plan on one block, on one thread.
struct Passes {
    plan: ConvPlan,
    y: AlignedVec<f32>,
    indices: AlignedVec<u16>,
    dx: AlignedVec<f32>,
    dweights: AlignedVec<f32>,
    dbias: AlignedVec<f32>,
}

impl Passes {
    /// Runs the passes on the tensors of `case`; with fused pooling, on as much of dY as the pooled shape takes.
    fn run(cpu: Cpu, plan: ConvPlan, case: &Case, bias: &[f32]) -> Self {
        let (shape, output, panels) = (*plan.shape(), plan.output().shape, case.panels());
        let [x, mut dy] = [&case.x[..], &case.dy[..output.len()]].map(AlignedVec::from_slice);
        let mut packed = AlignedVec::<u8>::zeroed(plan.packed_bytes());
        plan.pack_all(cpu, &panels, &mut packed);
        let mut transposed = AlignedVec::<u8>::zeroed(plan.transposed_bytes());
        plan.transpose_all(cpu, &panels, &mut transposed);
        let mut passes = Self {
            plan,
            y: AlignedVec::zeroed(output.len()),
            indices: AlignedVec::zeroed(output.len()),
            dx: AlignedVec::zeroed(if plan.has_input_gradient() { shape.input.len() } else { 0 }),
            dweights: AlignedVec::zeroed(shape.weights_len()),
            dbias: AlignedVec::zeroed(shape.output.channel_stride),
        };
        let args = ForwardArgs {
            weights: &panels,
            packed: &packed,
            bias: Some(bias),
            training: plan.fusion().pool.map(|_| Training { indices: &mut passes.indices, dropout: None }),
            ..ForwardArgs::of_block(bytes(&x))
        };
        plan.forward(cpu, args, bytes_mut(&mut passes.y));
        let mut full = AlignedVec::<f32>::zeroed(shape.output.len());
        let [mut x_to, mut dy_to] = plan.repacked_bytes().map(AlignedVec::<u8>::zeroed);
        let way = plan.weight_gradient();
        let args = BackwardArgs {
            x: bytes(&x),
            y: bytes(&passes.y),
            dy: bytes_mut(&mut dy),
            indices: &passes.indices,
            scale: 1.0,
            full: bytes_mut(&mut full),
            transposed: &transposed,
            dx: bytes_mut(&mut passes.dx),
            repacked: [&mut x_to, &mut dy_to],
            chunks: 1,
            elementwise_chunks: 1,
        };
        let weights = (way == WeightGradient::PerGroup).then_some(&mut passes.dweights[..]);
        let sums = WeightSums { weights, bias: Some(&mut passes.dbias), accumulate: Accumulate::Overwrite };
        plan.backward(cpu, args, sums);
        if way == WeightGradient::PerPanel {
            let operands = if plan.keeps_operands() { [bytes(&x), bytes(&dy)] } else { [&x_to[..], &dy_to[..]] };
            let operands = operands.map(Blocks::one);
            plan.backward_weights_of_panels(cpu, operands, 0..shape.panels(), &mut passes.dweights);
        }
        passes
    }

    /// The gradient of the convolution's own result, from dY and what the forward pass kept.
    fn result_gradient(&self, case: &Case) -> Vec<f32> {
        let (shape, fusion) = (self.plan.shape(), self.plan.fusion());
        let Some(window) = fusion.pool else {
            let active = self.y.iter().map(|&y| !fusion.relu || y > 0.0);
            return case.dy.iter().zip(active).map(|(&dy, active)| if active { dy } else { 0.0 }).collect();
        };
        let pooled = Pool2dShape::new(shape.output, window, window).output();
        let mut full = vec![0.0; shape.output.len()];
        for (at, (&dy, &index)) in case.dy.iter().zip(&self.indices[..]).enumerate() {
            if index != NO_ARGMAX {
                let (pixel, lane) = (at / pooled.pixel(), at % pooled.pixel());
                let (row, column) = (usize::from(index) / window[1], usize::from(index) % window[1]);
                let (y, x) = (pixel / pooled.width * window[0] + row, pixel % pooled.width * window[1] + column);
                full[shape.output.offset(y, x) + lane] = dy;
            }
        }
        full
    }
}

fn check(cpu: Cpu, plan: ConvPlan, case: &Case) {
    let (shape, output) = (*plan.shape(), plan.output().shape);
    let mut bias = vec![0.0; shape.output.channel_stride];
    bias[..shape.output.channels].iter_mut().enumerate().for_each(|(c, bias)| *bias = c as f32 * 0.05 - 0.4);
    let passes = Passes::run(cpu, plan, case, &bias);
    let name = format!("{} {shape:?} {:?}", plan.name(cpu), plan.fusion());
    let dresult = passes.result_gradient(case);
    let (mut dweights, mut dbias) = (vec![0.0; case.weights.len()], vec![0.0; shape.output.channels]);
    for image in 0..BLOCK {
        let (x, dy) = (case.image(&shape.input, &case.x, 0, image), case.image(&shape.output, &dresult, 0, image));
        dy.iter().enumerate().for_each(|(o, dy)| dbias[o % shape.output.channels] += dy);
        let mut sums: Vec<f64> = (0..dy.len()).map(|o| f64::from(bias[o % shape.output.channels])).collect();
        let mut dx = vec![0.0; x.len()];
        for_each_product(&shape, |o, i, w| {
            sums[o] += x[i] * f64::from(case.weights[w]);
            dx[i] += dy[o] * f64::from(case.weights[w]);
            dweights[w] += x[i] * dy[o];
        });
        if !passes.dx.is_empty() {
            for (got, want) in case.image(&shape.input, &passes.dx, 0, image).iter().zip(dx) {
                assert_close(&format!("dx of {name}"), *got as f32, want, 16 * shape.taps() * shape.output.channels);
            }
        }
        let fused = |o: usize| if plan.fusion().relu { sums[o].max(0.0) } else { sums[o] };
        let [height, width] = plan.fusion().pool.unwrap_or([1, 1]);
        for (at, got) in case.image(&output, &passes.y, 0, image).into_iter().enumerate() {
            let (pixel, channel) = (at / output.channels, at % output.channels);
            let corner = (pixel / output.width * height, pixel % output.width * width);
            let window =
                (0..height * width).map(|w| (corner.0 + w / width) * shape.output.width + corner.1 + w % width);
            let values: Vec<f64> = window.map(|pixel| fused(pixel * shape.output.channels + channel)).collect();
            let want = values.iter().copied().fold(f64::MIN, f64::max);
            assert_close(&format!("y of {name}"), got as f32, want, 16 * shape.panel_len());
            if plan.fusion().pool.is_some() {
                let index = passes.indices[output.offset(corner.0 / height, corner.1 / width)
                    + output.channel(channel)
                    + image * output.plane()];
                // Near ties may be decided otherwise, but what has the index has the value.
                let value = if index == NO_ARGMAX { 0.0 } else { values[usize::from(index)] };
                assert!(index != NO_ARGMAX || plan.fusion().relu, "no argmax in {name}");
                assert_close(&format!("y at the argmax of {name}"), value as f32, want, 16 * shape.panel_len());
            }
        }
    }
    let terms = 16 * BLOCK * shape.output.height * shape.output.width;
    let mut got = vec![0.0; dweights.len()];
    pack::from_panels(&shape, &passes.dweights, &mut got);
    if plan.algorithm().to_string() == "winograd" {
        // Winograd's error is bounded by the size of all results, not by that of each.
        let got: Vec<f64> = got.into_iter().map(f64::from).collect();
        winograd_passes::assert_accurate(&format!("dweights of {name}"), &got, &dweights);
    } else {
        for (got, want) in got.iter().zip(&dweights) {
            assert_close(&format!("dweights of {name}"), *got, *want, terms);
        }
    }
    for (got, want) in passes.dbias.iter().zip(&dbias) {
        assert_close(&format!("dbias of {name}"), *got, *want, terms);
    }
}

/// With the gradient of the bias beside it.
#[test]
fn frozen_weights_change_no_other_bit() {
    for (i, shape) in shapes().into_iter().enumerate() {
        let case = Case::new(shape, 1, 200 + i as u64);
        let padded = shape.input.channel_stride.is_multiple_of(PANEL);
        let source = if padded { Source::Layer } else { Source::Network };
        let holds = |window: &[usize; 2]| window[0] <= shape.output.height && window[1] <= shape.output.width;
        let pooled = [[2, 2]].into_iter().filter(holds).map(|window| (true, Some(window)));
        for (relu, pool) in [(false, None), (true, None)].into_iter().chain(pooled) {
            let plan = ConvPlan::new(shape, Fusion { batch_norm: false, relu, pool }, source, Precision::F32);
            let frozen_plan = plan.with_frozen_weights();
            assert!(frozen_plan.scratch_bytes() <= plan.scratch_bytes());
            let bias = vec![0.1; shape.output.channel_stride];
            for cpu in cpus() {
                let [trained, frozen] = [plan, frozen_plan].map(|plan| Passes::run(cpu, plan, &case, &bias));
                assert_eq!((&trained.y[..], &trained.dx[..]), (&frozen.y[..], &frozen.dx[..]), "{plan:?}");
                assert_eq!(trained.dbias[..], frozen.dbias[..], "{plan:?}");
                let expected = if plan.takes_fused_gradient() {
                    trained.dweights.to_vec()
                } else {
                    vec![0.0; shape.weights_len()]
                };
                assert_eq!(frozen.dweights[..], expected, "{plan:?}");
            }
            // The passes of the weights cost something, and nothing else is left out.
            let [trained, frozen] = [plan, frozen_plan].map(|plan| plan.cost(BLOCK));
            assert_eq!(trained.forward, frozen.forward);
            assert_eq!(trained.backward.flops > frozen.backward.flops, !plan.takes_fused_gradient(), "{plan:?}");
        }
    }
}

#[test]
fn every_plan_equals_the_reference() {
    let larger = [(12, 12, 16, 32), (14, 14, 1, 16), (7, 7, 32, 16), (10, 6, 1, 20)];
    let larger = larger.map(|(height, width, input, filters)| {
        let input =
            if input == 1 { BlockShape::input(height, width, 1) } else { BlockShape::new(height, width, input) };
        Conv2dShape::same(input, filters, [3, 3], 1)
    });
    for (i, shape) in shapes().into_iter().chain(larger).enumerate() {
        let case = Case::new(shape, 1, 100 + i as u64);
        let padded = shape.input.channel_stride.is_multiple_of(PANEL);
        let source = if padded { Source::Layer } else { Source::Network };
        let holds = |window: &[usize; 2]| window[0] <= shape.output.height && window[1] <= shape.output.width;
        let pooled = [[2, 2], [3, 3]].into_iter().filter(holds);
        let pooled = pooled.flat_map(|window| [(true, Some(window)), (false, Some(window))]);
        for (relu, pool) in [(false, None), (true, None)].into_iter().chain(pooled) {
            let plan = ConvPlan::new(shape, Fusion { batch_norm: false, relu, pool }, source, Precision::F32);
            cpus().into_iter().for_each(|cpu| check(cpu, plan, &case));
        }
    }
}
