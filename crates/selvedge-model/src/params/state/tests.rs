//! Snapshots: what they hold comes back, and those of other networks are refused.

use proptest::prelude::*;

use super::*;
use crate::params::init;
use crate::test_support::{keras_classifier, small_spec};

proptest! {
    #[test]
    fn a_snapshot_restored_is_the_same_snapshot(spec in small_spec()) {
        let shape = NetworkShape::infer(&spec).unwrap();
        // Different numbers everywhere, none of them zero.
        let snapshot = Snapshot {
            params: (0..shape.param_count()).map(|i| 1.0 + i as f32).collect(),
            buffers: (0..shape.buffer_count()).map(|i| 0.5 + i as f32).collect(),
        };
        let mut state = State::zeroed(&shape);
        state.params.values.fill(9.0);
        state.restore(&shape, &snapshot);
        prop_assert_eq!(&state.snapshot(&shape), &snapshot);

        let zeros = state.params.values.iter().filter(|&&value| value == 0.0).count();
        prop_assert_eq!(zeros, state.params.values.len() - snapshot.params.len(), "padded lanes are zero");
        let mut end = 0;
        for entry in &state.params.entries {
            prop_assert_eq!(entry.range.start, end);
            prop_assert!(entry.range.len().is_multiple_of(16) && entry.range.len() >= entry.shape.iter().product());
            end = entry.range.end;
        }
        prop_assert_eq!(end, state.params.grads.len());
    }
}

#[test]
#[should_panic(expected = "the snapshot's parameters and the network's")]
fn a_snapshot_of_another_network_is_refused() {
    let shape = NetworkShape::infer(&keras_classifier()).unwrap();
    let mut snapshot = init::initial(&shape, 1);
    snapshot.params.pop();
    State::zeroed(&shape).restore(&shape, &snapshot);
}
