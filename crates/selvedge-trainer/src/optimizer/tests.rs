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
        ParamEntry { name, range, shape: vec![channels], kind, frozen: false, layout: ParamLayout::Channels(channels) }
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

/// Whatever the gradient says: a network's passes leave that of a frozen parameter zero.
#[test]
fn frozen_parameters_keep_their_bits() {
    for spec in OptimizerSpec::ALL {
        let mut params = params();
        params.entries[0].frozen = true;
        let before = params.values.clone();
        let mut optimizer = Optimizer::new(spec, &params, Cpu::detect().unwrap());
        (0..3).for_each(|_| optimizer.step(&mut params, 0.1));
        assert_eq!(params.values[..CHUNK + 32], before[..CHUNK + 32], "{}", spec.name());
        assert_ne!(params.values[CHUNK + 32..], before[CHUNK + 32..], "{}", spec.name());
    }
}

#[test]
fn threads_change_no_bit() {
    for spec in OptimizerSpec::ALL {
        let values = |threads: usize| {
            let mut params = match spec {
                OptimizerSpec::Muon(_) => convolution(),
                _ => params(),
            };
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

/// Two steps on the weights of a convolution, against the loop of `airbench94_muon.py` in f64. The weights are
/// `[1, 2, 3, 4]` here and `[4, 3, 1, 2]` in PyTorch; `orthogonalise` stands beside the test of `newton_schulz.rs`.
///
/// ```python
/// f = torch.arange(24, dtype=torch.float64)
/// for normalise in (True, False):
///     w = ((f * 5 % 13 - 6) / 8).reshape(1, 2, 3, 4).permute(3, 2, 0, 1).contiguous()
///     buf = torch.zeros_like(w)
///     for t, lr in enumerate((0.2, 0.1)):
///         g = ((f * (7 + 2 * t) % 11 - 5) / 4).reshape(1, 2, 3, 4).permute(3, 2, 0, 1).contiguous()
///         buf.mul_(0.6).add_(g)
///         u = g.add(buf, alpha=0.6)
///         if normalise: w.mul_(len(w) ** 0.5 / w.norm())
///         else: w.mul_(1 - lr * 0.1)
///         w.add_(orthogonalise(u.reshape(len(u), -1), 3).view(w.shape), alpha=-lr)
///     print([round(v, 7) for v in w.permute(2, 3, 1, 0).flatten().tolist()])
/// ```
#[test]
fn muon_trains_convolutions_as_airbench_does() {
    let normalised = [
        -0.446_313_9,
        -0.182_112,
        0.423_697_7,
        -0.571_906_7,
        0.145_794_5,
        0.804_973_5,
        -0.343_712,
        0.313_508_3,
        -0.426_532_4,
        0.000_710_1,
        0.609_725_7,
        -0.148_930_8,
        0.118_943_6,
        -0.665_368_6,
        -0.244_864_8,
        0.389_452_7,
        -0.362_791_3,
        -0.064_646_5,
        0.623_471_7,
        -0.157_276_9,
        0.247_577_1,
        -0.497_236_2,
        0.183_056_8,
        0.493_748,
    ];
    let decayed = [
        -0.527_912_2,
        -0.194_231_8,
        0.475_932_9,
        -0.620_969_2,
        0.158_320_8,
        0.880_559,
        -0.368_104_3,
        0.352_648,
        -0.493_968_8,
        0.001_160_2,
        0.673_845,
        -0.190_66,
        0.146_026_6,
        -0.743_628_4,
        -0.255_111_8,
        0.442_742_4,
        -0.415_671_1,
        -0.048_720_9,
        0.701_736_2,
        -0.184_856_2,
        0.288_736_1,
        -0.562_962_3,
        0.180_311_9,
        0.558_926_5,
    ];
    for (normalise, expected) in [(true, normalised), (false, decayed)] {
        let mut params = convolution();
        let weight_decay = if normalise { 0.0 } else { 0.1 };
        let spec = OptimizerSpec::Muon(Muon { learning_rate: 0.2, weight_decay, normalise, ..Muon::COMMON });
        let mut optimizer = Optimizer::new(spec, &params, Cpu::detect().unwrap());
        for (t, rate) in [0.2, 0.1].into_iter().enumerate() {
            (0..24).for_each(|i| params.grads[i] = ((i * (7 + 2 * t) % 11) as f32 - 5.0) / 4.0);
            optimizer.step(&mut params, rate);
        }
        for (found, expected) in params.values[..24].iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 2e-6, "normalise {normalise}: {found}, expected {expected}");
        }
        assert_eq!(params.values[24..32], [0.0; 8], "padding");
    }
}

/// The weights of a convolution, `[1, 2, 3, 4]`, and a bias.
fn convolution() -> Params {
    let mut values = [0.0; 48];
    (0..24).for_each(|i| values[i] = ((i * 5 % 13) as f32 - 6.0) / 8.0);
    let entry = |name: &str, range, shape: &[usize], kind, count| ParamEntry {
        name: name.to_owned(),
        range,
        shape: shape.to_vec(),
        kind,
        frozen: false,
        layout: ParamLayout::Channels(count),
    };
    Params {
        values: AlignedVec::from_slice(&values),
        grads: AlignedVec::from_slice(&[0.5; 48]),
        entries: vec![
            entry("0.conv2d.weight", 0..32, &[1, 2, 3, 4], ParamKind::Weight, 24),
            entry("0.conv2d.bias", 32..48, &[16], ParamKind::Bias, 16),
        ],
    }
}

#[test]
fn muon_trains_all_else_by_nesterov_sgd_at_its_own_rate() {
    let rest = MuonRest { learning_rate: 0.02, momentum: 0.9, weight_decay: 0.01 };
    let muon = OptimizerSpec::Muon(Muon { learning_rate: 0.5, rest, ..Muon::COMMON });
    let sgd = OptimizerSpec::Sgd(Sgd { learning_rate: 0.02, momentum: 0.9, nesterov: true, weight_decay: 0.01 });
    let train = |spec: OptimizerSpec| {
        let mut params = params();
        let mut optimizer = Optimizer::new(spec, &params, Cpu::detect().unwrap());
        // The schedule is at its peak, then at half of it.
        [1.0, 0.5].into_iter().for_each(|factor| optimizer.step(&mut params, factor * spec.learning_rate()));
        params.values.to_vec()
    };
    assert_eq!(train(muon), train(sgd));
}

#[test]
fn muon_leaves_a_weight_without_a_learning_rate_alone() {
    let mut params = convolution();
    let before = params.values.clone();
    let spec = OptimizerSpec::Muon(Muon::COMMON);
    let group = |entry: &ParamEntry| GroupOptions {
        rate_factor: if entry.kind == ParamKind::Weight { 0.0 } else { 1.0 },
        ..spec.group_options(entry)
    };
    let mut optimizer = Optimizer::with_groups(spec, &params, Cpu::detect().unwrap(), group);
    optimizer.step(&mut params, 0.1);
    assert_eq!(params.values[..32], before[..32]);
    assert_ne!(params.values[32..], before[32..]);
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
        assert!(spec.check().is_ok() && spec.cost(&params().entries).flops > 0);
    }
}
