//! Random erasing covers a rectangle of random area and aspect ratio.

use serde::{Deserialize, Serialize};

use super::{Region, cover};
use crate::canvas::Canvas;
use crate::check::Check;
use crate::error::AugmentError;
use crate::operation::{Operation, Transform};
use crate::parameter::{Fill, Span};
use crate::shape::ImageShape;
use crate::stream::Stream;

/// Covers a rectangle with an area drawn uniformly from `area` and an aspect ratio drawn log-uniformly from `ratio`.
///
/// Source: Zhong et al., "Random erasing data augmentation", arXiv 1708.04896; drawn as by torchvision's
/// `RandomErasing(p, scale, ratio, value)`, with its defaults: up to ten tries to find a rectangle that is smaller than
/// the image along both axes. If none is found, nothing is covered.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomErasing {
    /// The covered share of the image, from 0 to 1. Recipes may also write `scale`.
    #[serde(alias = "scale")]
    pub area: Span<f32>,
    /// Height divided by width, from 0.01 to 100.
    pub ratio: Span<f32>,
    /// The fill of the rectangle. Recipes may also write `value`.
    #[serde(alias = "value")]
    pub fill: Fill,
    /// The probability, from 0 to 1.
    pub p: f32,
}

impl Default for RandomErasing {
    fn default() -> Self {
        RandomErasing {
            area: Span { low: 0.02, high: 0.33 },
            ratio: Span { low: 0.3, high: 3.3 },
            fill: Fill::Value(0),
            p: 0.5,
        }
    }
}

impl Operation for RandomErasing {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, _: ImageShape) -> Result<(), AugmentError> {
        check.span("area", self.area, 0.0..=1.0)?;
        check.span("ratio", self.ratio, 0.01..=100.0)
    }
}

impl Transform for RandomErasing {
    type Drawn = Region;

    fn draw(&self, rng: &mut Stream, shape: ImageShape) -> Region {
        for _ in 0..10 {
            let area = shape.pixels() as f32 * self.area.draw(rng);
            let ratio = self.ratio.draw_logarithmic(rng);
            let height = (area * ratio).sqrt().round_ties_even() as usize;
            let width = (area / ratio).sqrt().round_ties_even() as usize;
            if height < shape.height && width < shape.width {
                let top = rng.below(shape.height - height + 1);
                let left = rng.below(shape.width - width + 1);
                return Region::filled(top, left, height, width, self.fill, rng);
            }
        }
        Region { top: 0, left: 0, height: 0, width: 0, noise: None }
    }

    fn apply(&self, drawn: &Region, canvas: &mut Canvas) {
        cover(canvas, drawn, self.fill);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameter::NamedFill;
    use crate::stream::EpochKey;

    const SHAPE: ImageShape = ImageShape { height: 28, width: 28, channels: 1 };

    #[test]
    fn area_and_ratio_have_the_stated_distribution() {
        let erasing = RandomErasing { area: [0.02, 0.4].into(), ..RandomErasing::default() };
        let (mut areas, mut logarithms, mut count) = (0.0, 0.0, 0.0);
        for sample in 0..20_000 {
            let mut stream = Stream::for_sample(EpochKey { seed: 1, epoch: 0 }, sample).fork(0);
            let region = erasing.draw(&mut stream, SHAPE);
            assert!(region.top + region.height <= 28 && region.left + region.width <= 28);
            assert!(region.height < 28 && region.width < 28);
            areas += (region.height * region.width) as f64 / 784.0;
            logarithms += (region.height as f64 / region.width as f64).ln();
            count += 1.0;
        }
        // Large rectangles of extreme ratio are drawn again, hence a mean slightly below the middle, 0.21; the mean
        // logarithm of the ratio is (ln 0.3 + ln 3.3) / 2 = -0.005.
        assert!((0.195..0.21).contains(&(areas / count)), "{}", areas / count);
        assert!((logarithms / count).abs() < 0.03, "{}", logarithms / count);
    }

    #[test]
    fn a_rectangle_that_never_fits_covers_nothing() {
        let erasing = RandomErasing { area: [1.0, 1.0].into(), ..RandomErasing::default() };
        let mut stream = Stream::for_sample(EpochKey { seed: 1, epoch: 0 }, 0);
        let region = erasing.draw(&mut stream, SHAPE);
        assert_eq!((region.height, region.width), (0, 0));
    }

    #[test]
    fn fills_are_random_bytes_or_the_mean_of_each_channel() {
        let shape = ImageShape { height: 8, width: 8, channels: 2 };
        let region = Region { top: 0, left: 0, height: 8, width: 4, noise: Some(3) };
        let mut canvas = Canvas::new(shape);
        let image: Vec<u8> = [10, 100].repeat(64);
        canvas.load(&image);
        let mean = RandomErasing { fill: Fill::Named(NamedFill::Mean), ..RandomErasing::default() };
        mean.apply(&region, &mut canvas);
        assert_eq!(canvas.image(), image);
        let random = RandomErasing { fill: Fill::Named(NamedFill::Random), ..RandomErasing::default() };
        random.apply(&region, &mut canvas);
        let changed = canvas.image().iter().zip(&image).filter(|(a, b)| a != b).count();
        assert!((56..=64).contains(&changed), "{changed}");
        assert!(canvas.image().chunks_exact(16).all(|row| row[8..] == image[8..16]));
    }

    #[test]
    fn recipes_write_it_as_python_does() {
        let text = "p = 0.5\narea = [0.02, 0.4]\nratio = [0.3, 3.3]\nfill = \"random\"";
        let erasing: RandomErasing = toml::from_str(text).unwrap();
        assert_eq!(erasing.fill, Fill::Named(NamedFill::Random));
        assert_eq!(erasing.area, [0.02, 0.4].into());
        let wrong = RandomErasing { area: [0.4, 0.02].into(), ..erasing };
        let message = wrong.validate(SHAPE).unwrap_err().to_string();
        assert!(message.contains("area = [0.4, 0.02]") && message.contains("from 0 to 1"), "{message}");
    }
}
