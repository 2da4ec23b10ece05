//! Averages against their definitions in f64.

use selvedge_compute::{Precision, Threads};
use selvedge_model::{BuildOptions, ModelSpec};

use super::*;

fn network() -> Network {
    let spec: ModelSpec = toml::from_str(
        "classes = 3\ninput = { height = 4, width = 4 }\nlayers = [{ layer = 'conv2d', filters = 2, kernel = 3 }, \
         { layer = 'batch_norm' }, { layer = 'flatten' }, { layer = 'dense', units = 'classes' }]",
    )
    .unwrap();
    let threads = Threads::new(1).unwrap();
    Network::build(&spec, &BuildOptions { seed: 1, max_batch: 32, precision: Precision::F32, threads }).unwrap()
}

/// What the optimizer and the pass of step `t` do to number `i` of the weights, or of the statistics.
fn change(t: u64, i: usize) -> f32 {
    ((t as usize * 7 + i * 3) % 11) as f32 / 8.0 - 0.5
}

fn take_step(network: &mut Network, t: u64) {
    network.params_mut().values.iter_mut().enumerate().for_each(|(i, w)| *w += change(t, i));
    network.statistics_mut().iter_mut().enumerate().for_each(|(i, w)| *w += change(t, i));
}

/// Takes 12 steps of 3 epochs and compares weights and average with those of `expected`, which gets the initial number and its
/// index and returns both.
#[track_caller]
fn assert_averages(spec: AveragingSpec, expected: impl Fn(f64, usize) -> [f64; 2]) {
    let mut network = network();
    let initial = (network.params().values.clone(), network.statistics().to_vec());
    let mut averaging = Averaging::new(spec, 3, 4, &network);
    for t in 1..=12 {
        take_step(&mut network, t);
        averaging.update(&mut network, t);
    }
    let close = |found: f32, expected: f64| (f64::from(found) - expected).abs() < 1e-5;
    let found = [(&initial.0[..], &network.params().values[..], &averaging.weights[..])];
    let statistics = [(&initial.1[..], network.statistics(), &averaging.statistics[..])];
    for (initial, now, average) in found.into_iter().chain(statistics) {
        for i in 0..initial.len() {
            let [own, mean] = expected(f64::from(initial[i]), i);
            assert!(close(now[i], own) && close(average[i], mean), "{i}: {} {own}, {} {mean}", now[i], average[i]);
        }
    }
}

#[test]
fn lookahead_pulls_the_weights_back_to_the_average() {
    let spec = AveragingSpec::Lookahead { every: 5, decay: 0.95 };
    assert_averages(spec, |initial, i| {
        let (mut w, mut average) = (initial, initial);
        for t in 1..=12 {
            w += f64::from(change(t, i));
            if t % 5 == 0 {
                let d = 0.95f64.powi(5) * (t as f64 / 12.0).powi(3);
                average = d * average + (1.0 - d) * w;
                w = average;
            }
        }
        [w, average]
    });
}

#[test]
fn an_exponential_average_warms_up() {
    let spec = AveragingSpec::Ema { decay: 0.6, start: 0.25, every: 1, statistics_batches: 0 };
    assert_averages(spec, |initial, i| {
        let (mut w, mut average, mut n) = (initial, 0.0, 0);
        for t in 1..=12 {
            w += f64::from(change(t, i));
            if t >= 3 {
                let d = if n == 0 { 0.0 } else { 0.6f64.min((1.0 + f64::from(n)) / (10.0 + f64::from(n))) };
                average = d * average + (1.0 - d) * w;
                n += 1;
            }
        }
        [w, average]
    });
}

#[test]
fn the_stochastic_weight_average_is_a_mean() {
    // Epochs have 4 steps: without `every`, those after steps 8 and 12.
    for (every, steps) in [(None, vec![8, 12]), (Some(3), vec![6, 9, 12])] {
        let spec = AveragingSpec::Swa { start: 0.5, every, statistics_batches: 0 };
        assert_averages(spec, |initial, i| {
            let after = |t: u64| initial + (1..=t).map(|t| f64::from(change(t, i))).sum::<f64>();
            [after(12), steps.iter().map(|&t| after(t)).sum::<f64>() / steps.len() as f64]
        });
    }
}

#[test]
fn network_and_average_trade_places_once_there_is_one() {
    let mut network = network();
    let spec = AveragingSpec::Swa { start: 0.5, every: None, statistics_batches: 7 };
    let mut averaging = Averaging::new(spec, 3, 4, &network);
    assert_eq!(averaging.statistics_batches(), 7);
    for t in 1..=8 {
        assert!(!averaging.swap(&mut network), "before step {t}");
        take_step(&mut network, t);
        averaging.update(&mut network, t);
    }
    take_step(&mut network, 9);
    let (own, average) = (network.snapshot(), averaging.weights.clone());
    assert!(averaging.swap(&mut network));
    assert_eq!(network.params().values[..], average[..]);
    assert!(averaging.swap(&mut network));
    assert_eq!((network.snapshot(), &averaging.weights[..]), (own, &average[..]));
}

#[test]
fn an_average_that_begins_after_the_end_is_refused() {
    let refused = |spec: AveragingSpec, epochs| {
        let refusal = spec.check().and_then(|()| spec.check_length(epochs, 4)).unwrap_err();
        format!("{}: {}", refusal.key, refusal.problem)
    };
    let swa = |start, every| AveragingSpec::Swa { start, every, statistics_batches: 0 };
    assert!(swa(0.75, None).check_length(4, 4).is_ok() && swa(0.999, None).check_length(1, 4).is_ok());
    assert!(swa(0.8, Some(5)).check_length(2, 4).is_err() && swa(0.6, Some(5)).check_length(2, 4).is_ok());
    let message = refused(swa(0.8, Some(5)), 2);
    assert!(
        message.starts_with("averaging.start: 0.8 is not possible") && message.ends_with("at most 0.625"),
        "{message}"
    );
    let message = refused(AveragingSpec::Lookahead { every: 9, decay: 0.95 }, 2);
    assert!(message.starts_with("averaging.every: 9 is not possible: from 1 to the 8 steps"), "{message}");
    let message = refused(swa(1.0, None), 2);
    assert!(message.starts_with("averaging.start: 1 is not possible") && message.contains("below 1"), "{message}");
    assert!(refused(swa(0.5, Some(0)), 2).contains("averaging.every: 0"));
    assert!(refused(AveragingSpec::Lookahead { every: 5, decay: 1.0 }, 2).contains("averaging.decay"));
}
