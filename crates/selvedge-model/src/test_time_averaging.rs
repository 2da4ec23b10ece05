//! [`TestTimeAveraging`]: averages a network's logits over several views of an image: itself, its mirror image, shifted
//! copies.
//!
//! Views are made a part of the images at a time, so memory does not grow with their number. They are averaged in the order of
//! [`TestTimeAveraging::views`], whatever the number of threads.

use std::fmt;
use std::ops::Range;

use ndarray::{Array2, Axis, Slice};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::exec::images::Images;
use crate::exec::pass::{Metrics, log_sum_exp};
use crate::network::Network;

/// Images whose views are in memory together.
const PART: usize = 1024;

/// Averages logits over views of an image, as K. Jordan's airbench does (arXiv 2404.00498, section 3.4).
///
/// With `mirror`, an image's logits are the mean of those of the image and of its mirror image, left and right exchanged.
/// With `shift`, half of the weight stays there, and a quarter each goes to two copies, shifted by that many pixels down and to
/// the right, and up and to the left; with `mirror`, each copy is averaged with its own mirror image. Pixels that a shift
/// uncovers are 0. (airbench pads by reflection; here the background is 0.)
///
/// | `mirror` | `shift` | views | weights |
/// |---|---|---|---|
/// | true | 0 | 2 | 1/2 each |
/// | true | n | 6 | 1/4 for the image and its mirror image, 1/8 for the others |
/// | false | n | 3 | 1/2 for the image, 1/4 for the others |
///
/// A recipe writes it as the table `[test_time_averaging]`. Without it nothing is averaged.
///
/// ```
/// use selvedge_model::{BuildOptions, ModelSpec, Network, Precision, TestTimeAveraging, Threads};
/// let spec: ModelSpec = toml::from_str(r#"
///     classes = 3
///     input = { height = 2, width = 2 }
///     layers = [{ layer = "flatten" }, { layer = "dense", units = "classes" }]
/// "#)?;
/// let threads = Threads::new(1)?;
/// let mut network = Network::build(&spec, &BuildOptions { seed: 1, max_batch: 32, precision: Precision::F32, threads })?;
/// let averaging = TestTimeAveraging { mirror: true, shift: 0 };
/// let (image, mirrored) = ([10u8, 20, 30, 40], [20u8, 10, 40, 30]);
/// assert_eq!(averaging.predict(&mut network, &image), averaging.predict(&mut network, &mirrored));
/// assert_ne!(network.predict(&image), network.predict(&mirrored));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TestTimeAveraging {
    /// Whether to average with the mirror image.
    pub mirror: bool,
    /// Pixels by which the two copies are shifted along both axes; 0 for no copies. Of a copy shifted by the size of the image
    /// or more, nothing is left but the background.
    pub shift: usize,
}

impl Default for TestTimeAveraging {
    fn default() -> Self {
        Self { mirror: true, shift: 0 }
    }
}

impl fmt::Display for TestTimeAveraging {
    /// `mirror`, `shift 1` or `mirror + shift 1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self { mirror: true, shift: 0 } => f.write_str("mirror"),
            Self { mirror: true, shift } => write!(f, "mirror + shift {shift}"),
            Self { mirror: false, shift } => write!(f, "shift {shift}"),
        }
    }
}

/// A view of an image, and its weight in the average.
#[derive(Clone, Copy, Debug, PartialEq)]
struct View {
    /// Pixels by which the image is moved down and to the right.
    shift: isize,
    /// Whether it is then mirrored.
    mirrored: bool,
    weight: f32,
}

impl TestTimeAveraging {
    /// The views, the image itself first. The weights add up to 1 and are powers of two, so equal logits keep their bits.
    fn views(self) -> Vec<View> {
        let shift = self.shift.cast_signed();
        let shifts: &[(isize, f32)] = if shift == 0 { &[(0, 1.0)] } else { &[(0, 0.5), (shift, 0.25), (-shift, 0.25)] };
        let sides: &[bool] = if self.mirror { &[false, true] } else { &[false] };
        let share = 1.0 / sides.len() as f32;
        let view = |(shift, weight), mirrored| View { shift, mirrored, weight: weight * share };
        shifts.iter().flat_map(|&shifted| sides.iter().map(move |&mirrored| view(shifted, mirrored))).collect()
    }

    /// Averaged logits `[N, classes]` for any number of images. The bits do not depend on the number of threads.
    ///
    /// # Panics
    /// If the images do not fit the network.
    pub fn logits<'a>(self, network: &mut Network, images: impl Into<Images<'a>>) -> Array2<f32> {
        match images.into() {
            Images::Bytes(bytes) => self.average(network, bytes),
            Images::Floats(floats) => self.average(network, floats),
        }
    }

    /// Probabilities `[N, classes]`: the softmax of the averaged logits.
    ///
    /// # Panics
    /// If the images do not fit the network.
    pub fn predict<'a>(self, network: &mut Network, images: impl Into<Images<'a>>) -> Array2<f32> {
        let mut rows = self.logits(network, images);
        for mut row in rows.rows_mut() {
            let log_sum = log_sum_exp(row.view());
            row.mapv_inplace(|logit| (f64::from(logit) - log_sum).exp() as f32);
        }
        rows
    }

    /// Loss and accuracy on any number of images, by the averaged logits.
    ///
    /// # Panics
    /// If images and labels do not fit the network or each other.
    pub fn evaluate<'a>(self, network: &mut Network, images: impl Into<Images<'a>>, labels: &[u8]) -> Metrics {
        Metrics::of_logits(&self.logits(network, images), labels)
    }

    fn average<T: Copy + Default + Send + Sync>(self, network: &mut Network, images: &[T]) -> Array2<f32>
    where
        for<'a> Images<'a>: From<&'a [T]>,
    {
        let (size, count, threads) = (network.image_len(), network.count(images.into()), network.threads().clone());
        let input = &network.spec().input;
        let (width, pixel) = (input.width * input.channels, input.channels);
        let mut averaged = Array2::zeros((count, network.spec().classes));
        let mut part = vec![T::default(); PART.min(count) * size];
        for range in parts(count) {
            let originals = &images[range.start * size..range.end * size];
            let mut sum = averaged.slice_axis_mut(Axis(0), Slice::from(range));
            for view in self.views() {
                let copies = &mut part[..originals.len()];
                let logits = if view.is_the_image() {
                    network.logits(originals)
                } else {
                    threads.install(|| {
                        let pairs = copies.par_chunks_exact_mut(size).zip(originals.par_chunks_exact(size));
                        pairs.for_each(|(copy, image)| view.draw(image, copy, width, pixel));
                    });
                    network.logits(&*copies)
                };
                sum.scaled_add(view.weight, &logits);
            }
        }
        averaged
    }
}

impl View {
    fn is_the_image(self) -> bool {
        self.shift == 0 && !self.mirrored
    }

    /// Draws the view of an image whose rows have `width` numbers and whose pixels have `pixel`.
    fn draw<T: Copy + Default>(self, image: &[T], view: &mut [T], width: usize, pixel: usize) {
        let pixels = |len: usize| (len / pixel).cast_signed();
        // The place that the view shows at `to`, if the image has it.
        let from = |to: usize, len: isize| {
            usize::try_from(to.cast_signed().saturating_sub(self.shift)).ok().filter(|&from| from.cast_signed() < len)
        };
        let rows = (image.len() / width).cast_signed();
        for (y, row) in view.chunks_exact_mut(width).enumerate() {
            let Some(y) = from(y, rows) else {
                row.fill(T::default());
                continue;
            };
            let original = &image[y * width..][..width];
            for (x, to) in row.chunks_exact_mut(pixel).enumerate() {
                let x = if self.mirrored { width / pixel - 1 - x } else { x };
                match from(x, pixels(width)) {
                    Some(x) => to.copy_from_slice(&original[x * pixel..][..pixel]),
                    None => to.fill(T::default()),
                }
            }
        }
    }
}

/// Ranges of at most [`PART`] images.
fn parts(count: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(PART).map(move |start| start..count.min(start + PART))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weights_are_those_of_airbench() {
        let weights = |mirror, shift| -> Vec<(isize, bool, f32)> {
            let views = TestTimeAveraging { mirror, shift }.views();
            views.into_iter().map(|view| (view.shift, view.mirrored, view.weight)).collect()
        };
        assert_eq!(weights(true, 0), [(0, false, 0.5), (0, true, 0.5)]);
        assert_eq!(weights(false, 2), [(0, false, 0.5), (2, false, 0.25), (-2, false, 0.25)]);
        let (image, copy) = (0.25, 0.125);
        let all = [(0, image), (1, copy), (-1, copy)].map(|(shift, w)| [(shift, false, w), (shift, true, w)]);
        assert_eq!(weights(true, 1), all.concat());
    }

    #[test]
    fn views_move_and_mirror_pixels_of_several_channels() {
        // Two rows of three pixels of two channels.
        let image: Vec<u8> = (1..=12).collect();
        let draw = |shift, mirrored| {
            let mut view = vec![99; image.len()];
            View { shift, mirrored, weight: 1.0 }.draw(&image, &mut view, 6, 2);
            view
        };
        assert_eq!(draw(0, false), image);
        assert_eq!(draw(0, true), [5, 6, 3, 4, 1, 2, 11, 12, 9, 10, 7, 8]);
        assert_eq!(draw(1, false), [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(draw(1, true), [0, 0, 0, 0, 0, 0, 3, 4, 1, 2, 0, 0]);
        assert_eq!(draw(-1, false), [9, 10, 11, 12, 0, 0, 0, 0, 0, 0, 0, 0]);
        for beyond in [3, -3, isize::MAX, isize::MIN + 1] {
            assert_eq!(draw(beyond, false), [0; 12], "{beyond}");
        }
    }

    #[test]
    fn names() {
        let name = |mirror, shift| TestTimeAveraging { mirror, shift }.to_string();
        assert_eq!([name(true, 0), name(true, 1), name(false, 2)], ["mirror", "mirror + shift 1", "shift 2"]);
    }
}
