//! Optimizers against their definitions, and the list of them.

use selvedge_compute::optim::CHUNK;
use selvedge_model::ParamLayout;

use super::*;

/// A weight across the border of two chunks, then a bias.
fn params() -> Params {
    let len = CHUNK + 64;
    let value = |i: usize| (i % 7) as f32 - 3.0;
    let entry = |name: &str, range: std::ops::Range<usize>, kind| {
        let (name, channels) = (name.to_owned(), range.len());
        ParamEntry { name, range, shape: vec![channels], kind, layout: ParamLayout::Channels(channels) }
    };
    Params {
        values: AlignedVec::from_slice(&(0..len).map(value).collect::<Vec<_>>()),
        grads: AlignedVec::from_slice(&(0..len).map(|i| value(i + 2) / 4.0).collect::<Vec<_>>()),
        entries: vec![
            entry("weight", 0..CHUNK + 32, ParamKind::Weight),
            entry("bias", CHUNK + 32..len, ParamKind::Bias),
        ],
    }
}

fn close(found: f32, expected: f64) -> bool {
    (f64::from(found) - expected).abs() < 1e-5 * expected.abs().max(1.0)
}

#[test]
fn sgd_follows_its_definition_and_decays_weights_only() {
    let mut params = params();
    let (before, grads) = (params.values.clone(), params.grads.clone());
    let spec = OptimizerSpec::Sgd(Sgd { learning_rate: 0.1, momentum: 0.9, nesterov: true, weight_decay: 0.01 });
    let mut optimizer = Optimizer::new(spec, &params, Cpu::detect().unwrap());
    optimizer.step(&mut params, 0.1);
    optimizer.step(&mut params, 0.05);
    for i in 0..before.len() {
        let decay = if i < CHUNK + 32 { 0.01 } else { 0.0 };
        let (mut w, mut b) = (f64::from(before[i]), 0.0);
        for rate in [0.1, 0.05] {
            let g = f64::from(grads[i]) + decay * w;
            b = 0.9 * b + g;
            w -= rate * (g + 0.9 * b);
        }
        assert!(close(params.values[i], w), "element {i}: {}, expected {w}", params.values[i]);
    }
}

#[test]
fn adam_and_adamw_follow_their_definitions() {
    for decoupled in [false, true] {
        let mut params = params();
        let (before, grads) = (params.values.clone(), params.grads.clone());
        let (learning_rate, beta1, beta2, epsilon, weight_decay) = (0.1, 0.9, 0.999, 1e-7, 0.01);
        let spec = if decoupled {
            OptimizerSpec::AdamW(AdamSpec { learning_rate, beta1, beta2, epsilon, weight_decay })
        } else {
            OptimizerSpec::Adam(AdamSpec { learning_rate, beta1, beta2, epsilon, weight_decay })
        };
        let mut optimizer = Optimizer::new(spec, &params, Cpu::detect().unwrap());
        for _ in 0..3 {
            optimizer.step(&mut params, 0.1);
        }
        assert_eq!(optimizer.steps(), 3);
        for i in (0..before.len()).step_by(5) {
            let decay = if i < CHUNK + 32 { 0.01 } else { 0.0 };
            let (mut w, mut m, mut v) = (f64::from(before[i]), 0.0, 0.0);
            for t in 1..=3 {
                let g = f64::from(grads[i]) + if decoupled { 0.0 } else { decay * w };
                m = 0.9 * m + 0.1 * g;
                v = 0.999 * v + 0.001 * g * g;
                let root = (v / (1.0 - 0.999f64.powi(t))).sqrt() + 1e-7;
                w -= 0.1 * (m / (1.0 - 0.9f64.powi(t)) / root + if decoupled { decay * w } else { 0.0 });
            }
            assert!(close(params.values[i], w), "element {i}: {}, expected {w}", params.values[i]);
        }
    }
}

#[test]
fn a_restored_optimizer_continues_with_the_same_bits() {
    let spec = OptimizerSpec::Adam(Adam::COMMON);
    let mut params = params();
    let cpu = Cpu::detect().unwrap();
    let mut optimizer = Optimizer::new(spec, &params, cpu);
    optimizer.step(&mut params, 0.1);
    let mut again = Optimizer::new(spec, &params, cpu);
    let (first, second) = optimizer.moments();
    assert!(!again.restore(1, &first[1..], second));
    assert!(again.restore(optimizer.steps(), first, second));
    let mut copy = params.clone();
    optimizer.step(&mut params, 0.1);
    again.step(&mut copy, 0.1);
    assert_eq!(params.values[..], copy.values[..]);
}

#[test]
fn threads_change_no_bit() {
    for spec in OptimizerSpec::ALL {
        let values = |threads: usize| {
            let mut params = params();
            let mut optimizer = Optimizer::new(spec, &params, Cpu::detect().unwrap());
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| (0..3).for_each(|_| optimizer.step(&mut params, 0.1)));
            params.values.to_vec()
        };
        assert_eq!(values(1), values(3), "{}", spec.name());
    }
}

#[test]
fn groups_have_rates_and_decays_of_their_own() {
    let cpu = Cpu::detect().unwrap();
    let spec = OptimizerSpec::AdamW(AdamW::COMMON);
    // By name: the bias as a run would train it alone at half the rate and with another decay.
    let group = |entry: &ParamEntry| match entry.name.as_str() {
        "bias" => GroupOptions { rate_factor: 0.5, weight_decay: 0.25 },
        _ => spec.group_options(entry),
    };
    let (mut grouped, mut usual, mut other) = (params(), params(), params());
    let mut optimizer = Optimizer::with_groups(spec, &grouped, cpu, group);
    optimizer.step(&mut grouped, 0.1);
    Optimizer::new(spec, &usual, cpu).step(&mut usual, 0.1);
    let options = GroupOptions { rate_factor: 1.0, weight_decay: 0.25 };
    Optimizer::with_groups(spec, &other, cpu, |_| options).step(&mut other, 0.05);
    let (weight, bias) = (0..CHUNK + 32, CHUNK + 32..CHUNK + 64);
    assert_eq!(grouped.values[weight.clone()], usual.values[weight]);
    assert_eq!(grouped.values[bias.clone()], other.values[bias]);
}

#[test]
fn the_list_has_every_optimizer_under_its_name() {
    #[derive(Deserialize)]
    struct Table {
        _optimizer: OptimizerSpec,
    }
    let message = toml::from_str::<Table>("_optimizer = { kind = '' }").err().unwrap().to_string();
    let known: Vec<&str> = message.split('`').skip(1).step_by(2).filter(|name| !name.is_empty()).collect();
    let listed = OptimizerSpec::ALL.map(|spec| spec.name());
    assert!(known.ends_with(&listed), "{known:?} and {listed:?}: {message}");
    for spec in OptimizerSpec::ALL {
        let text = toml::to_string(&spec).unwrap();
        assert!(text.starts_with(&format!("kind = \"{}\"\n", spec.name())), "{text}");
        assert_eq!(toml::from_str::<OptimizerSpec>(&text).unwrap(), spec);
        assert!(spec.check().is_ok() && spec.cost(100).flops > 0);
    }
}
