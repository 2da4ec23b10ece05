//! Summaries beside Keras' own, and that their columns stay in line.

use proptest::prelude::*;

use super::*;
use crate::test_support::{classes, conv, grey, keras_classifier, norm, resnet9, small_spec};

#[test]
fn a_small_network() {
    let residual = LayerSpec::Residual { layers: vec![conv(8, false), norm()], drop: 0.0 };
    let spec = grey(28, 28, vec![conv(8, true), residual, LayerSpec::GlobalAvgPool, classes()]);
    let expected = "\
Layer (type)                                    Output Shape       Param #  Multiply-Adds
=========================================================================================
input (Input)                                   (None, 28, 28, 1)        0              0
0.conv2d (Conv2D 3x3)                           (None, 28, 28, 8)       80         56,448
1.residual (Add of input and body)              (None, 28, 28, 8)
  1.residual.0.conv2d (Conv2D 3x3)              (None, 28, 28, 8)      576        451,584
  1.residual.1.batch_norm (BatchNormalization)  (None, 28, 28, 8)       32              0
2.global_avg_pool (GlobalAveragePooling2D)      (None, 8)                0              0
3.dense (Dense)                                 (None, 10)              90             80
=========================================================================================
Total params: 778 (3.04 KB)
Trainable params: 762 (2.98 KB)
Non-trainable params: 16 (64.00 B)
Multiply-adds per image: 508,112
";
    assert_eq!(spec.summary().unwrap(), expected);
}

#[test]
fn a_row_of_squeeze_and_excitation_has_its_dense_layers() {
    let layers =
        vec![conv(8, true), LayerSpec::SqueezeExcitation { reduction: 4 }, LayerSpec::GemPool { p: 3.0 }, classes()];
    let text = grey(28, 28, layers).summary().unwrap();
    // 8 · 2 + 2 + 2 · 8 + 8 parameters.
    let row = "1.squeeze_excitation (SqueezeExcitation 4)  (None, 28, 28, 8)       42             32";
    assert!(text.contains(row), "{text}");
    assert!(text.contains("2.gem_pool (GlobalGeMPooling2D 3)"), "{text}");
}

#[test]
fn totals_of_known_networks() {
    let text = keras_classifier().summary().unwrap();
    assert!(text.contains("Total params: 279,406 (1.07 MB)\n"), "{text}");
    assert!(text.contains("Non-trainable params: 0 (0.00 B)\n"), "{text}");
    assert!(text.ends_with("Multiply-adds per image: 2,174,832\n"), "{text}");
    let text = resnet9().summary().unwrap();
    assert!(text.contains("Non-trainable params: 4,480 "), "{text}");
}

#[test]
fn frozen_weights_are_not_trainable() {
    let mut spec = keras_classifier();
    let LayerSpec::Conv2d { frozen, .. } = &mut spec.layers[0] else { panic!("{:?}", spec.layers[0]) };
    *frozen = true;
    let text = spec.summary().unwrap();
    let expected = ["Total params: 279,406 (1.07 MB)\n", "Trainable params: 279,262 ", "Non-trainable params: 144 "];
    assert!(expected.iter().all(|line| text.contains(line)), "{text}");
    assert_eq!(spec.parameters().unwrap(), 279_262);
}

#[test]
fn digits_in_groups() {
    let texts = [0, 12, 999, 1000, 123_456, 1_234_567].map(grouped);
    assert_eq!(texts, ["0", "12", "999", "1,000", "123,456", "1,234,567"]);
}

proptest! {
    #[test]
    fn columns_add_up(spec in small_spec()) {
        let text = spec.summary().unwrap();
        let rows = text.lines().skip(2).take_while(|line| !line.starts_with('='));
        let mut sums = [0usize; 2];
        for row in rows {
            let cells: Vec<_> = row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
            for (sum, cell) in sums.iter_mut().zip(cells.get(2..).unwrap_or_default()) {
                *sum += cell.replace(',', "").parse::<usize>().unwrap();
            }
        }
        prop_assert_eq!(sums[1], spec.multiply_adds().unwrap());
        prop_assert!(text.contains(&format!("Total params: {} (", grouped(sums[0]))), "{}", text);
        let trained = grouped(spec.parameters().unwrap());
        let line = format!("Trainable params: {trained} (");
        prop_assert!(text.contains(&line), "{}", text);
    }
}
