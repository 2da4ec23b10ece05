//! Whitening filters against PyTorch's eigenvectors, and what they do to patches.

use super::*;

static FASHION_MNIST: &[u8] = include_bytes!("../../../tests/fixtures/fashion-mnist-64.bin");

fn input(height: usize, width: usize, channels: usize) -> InputSpec {
    InputSpec { height, width, channels, mean: 0.3, std: 0.35 }
}

/// ```python
/// import torch
/// i = torch.arange(12 * 8 * 7 * 2)
/// x = ((i * i * 7 + i * 31 + i // 5) % 251).double().reshape(12, 8, 7, 2)
/// x = (x / 255 - 0.3) / 0.35
/// patches = x.unfold(1, 2, 1).unfold(2, 3, 1).permute(0, 1, 2, 4, 5, 3).reshape(-1, 12)
/// values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
/// values, vectors = values.flip(0), vectors.flip(1)
/// signs = vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
/// filters = vectors * signs / (values + 5e-4).sqrt()
/// print(values, filters[:, 0].tolist(), filters[:, 1].tolist(), filters[:, 11].tolist())
/// ```
#[test]
fn filters_are_those_of_pytorch() {
    let images: Vec<u8> = (0..12 * 8 * 7 * 2).map(|i: usize| ((i * i * 7 + i * 31 + i / 5) % 251) as u8).collect();
    let floats: Vec<f32> = images.iter().map(|&byte| f32::from(byte) / 255.0).collect();
    let expected = [
        (
            0,
            [
                0.133_535_55,
                0.129_492_08,
                0.143_720_86,
                0.135_627_27,
                0.140_372_77,
                0.146_132_48,
                0.133_504_77,
                0.135_956_24,
                0.139_189_24,
                0.144_610_44,
                0.134_207_8,
                0.149_177_63,
            ],
        ),
        (
            1,
            [
                0.245_650_35,
                0.545_152_1,
                0.210_921_72,
                -0.149_031_72,
                -0.439_053_71,
                -0.216_851_28,
                0.169_555_77,
                0.164_431_37,
                0.483_257_76,
                -0.230_918_6,
                -0.427_290_79,
                -0.279_490_98,
            ],
        ),
        (
            11,
            [
                -0.372_545_64,
                0.388_785_66,
                -0.162_867_26,
                0.085_623_83,
                -0.524_753_52,
                -0.148_956_09,
                -0.451_185_6,
                0.484_901_68,
                -0.290_629_59,
                0.552_080_7,
                -0.250_263_12,
                0.637_759_91,
            ],
        ),
    ];
    let input = input(8, 7, 2);
    for images in [Images::from(&images), Images::from(&floats)] {
        let patches = Patches { images, input: &input, kernel: Kernel::from([2, 3]) };
        assert_eq!((patches.count(), patches.dimensions()), (12 * 7 * 5, 12));
        let filters = patches.filters(24);
        for (output, expected) in expected {
            for (component, expected) in expected.into_iter().enumerate() {
                let found = filters[component * 24 + output];
                assert!((found - expected as f32).abs() < 2e-6, "filter {output}: {found}, not {expected}");
                assert_eq!(filters[component * 24 + 12 + output], -found);
            }
        }
        // Fewer filters are the first of each half.
        let fewer = patches.filters(4);
        for component in 0..12 {
            let [all, few] = [&filters[component * 24..], &fewer[component * 4..]];
            assert_eq!(few[..4], [all[0], all[1], all[12], all[13]]);
        }
    }
}

/// The eigenvalues of these images' patches, over ε, tell how near to 1 the variance comes: λ / (λ + ε).
#[test]
fn whitened_patches_are_uncorrelated_with_a_variance_of_one() {
    let pixels = &FASHION_MNIST[..64 * 28 * 28];
    let input = input(28, 28, 1);
    let patches = Patches { images: Images::from(pixels), input: &input, kernel: Kernel::from(3) };
    let (filters, pairs) = (patches.filters(16), eigenpairs(patches.second_moments(), 9));
    let mut products = [[0.0; 8]; 8];
    for image in pixels.chunks_exact(28 * 28) {
        for (y, x) in (0..26).flat_map(|y| (0..26).map(move |x| (y, x))) {
            let pixel = |tap: usize| {
                (f64::from(image[(y + tap / 3) * 28 + x + tap % 3]) / 255.0 - f64::from(input.mean))
                    / f64::from(input.std)
            };
            let outputs: [f64; 8] = std::array::from_fn(|output| {
                (0..9).map(|tap| pixel(tap) * f64::from(filters[tap * 16 + output])).sum()
            });
            for (sums, a) in products.iter_mut().zip(outputs) {
                sums.iter_mut().zip(outputs).for_each(|(sum, b)| *sum += a * b);
            }
        }
    }
    for (i, j) in (0..8).flat_map(|i| (0..8).map(move |j| (i, j))) {
        let found = products[i][j] / patches.count() as f64;
        let expected = if i == j { pairs[i].value / (pairs[i].value + EPSILON) } else { 0.0 };
        assert!((found - expected).abs() < 1e-5, "{i}, {j}: {found}, not {expected}");
        assert!(i != j || found > 0.95, "the variance of output {i} is {found}");
    }
}

#[test]
fn threads_change_no_bit_and_the_bits_are_those_of_earlier_versions() {
    let images: Vec<u8> = (0..300 * 100u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let input = input(10, 10, 1);
    let patches = Patches { images: Images::from(&images), input: &input, kernel: Kernel::from(3) };
    let filters = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| patches.filters(18))
    };
    let one = filters(1);
    assert_eq!(filters(3), one);
    let bits: Vec<u32> = one[..4].iter().map(|weight| weight.to_bits()).collect();
    assert_eq!(bits, [1_043_235_089, 1_050_520_658, 1_045_571_746, 3_196_084_712]);
}

#[test]
fn images_without_content_give_finite_filters() {
    let input = input(4, 4, 1);
    for byte in [0, 255] {
        let images = [byte; 16];
        let patches = Patches { images: Images::from(&images), input: &input, kernel: Kernel::from(2) };
        assert!(patches.filters(8).iter().all(|weight| weight.is_finite()));
    }
    let patches = Patches { images: Images::from(&[0u8; 16]), input: &input, kernel: Kernel::from(5) };
    assert_eq!(patches.count(), 0);
}
