//! From bytes to the numbers that a network takes, for networks that do not do it themselves.

use serde::{Deserialize, Serialize};

use crate::check::Check;
use crate::error::AugmentError;

/// Turns bytes into numbers: (v / `max_pixel_value` - mean) / std, for each channel.
///
/// Source: Albumentations `Normalize(mean, std, max_pixel_value=255)`, torchvision `Normalize` after conversion to
/// floating point. It cannot stand in a chain, since its result is not an image of bytes. Networks of `selvedge-model`
/// normalize their input themselves.
///
/// ```
/// use selvedge_augment::Normalize;
///
/// let normalize = Normalize { mean: vec![0.5], std: vec![0.25], ..Normalize::default() };
/// normalize.validate(1)?;
/// let mut numbers = [0.0; 2];
/// normalize.apply(&[0, 255], &mut numbers);
/// assert_eq!(numbers, [-2.0, 2.0]);
/// # Ok::<(), selvedge_augment::AugmentError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Normalize {
    /// The mean as a share of `max_pixel_value`: one number for all channels, or one for each.
    pub mean: Vec<f32>,
    /// The standard deviation as a share of `max_pixel_value`, above 0: one number for all channels, or one for each.
    pub std: Vec<f32>,
    /// The value that becomes 1 before mean and standard deviation are applied, above 0.
    pub max_pixel_value: f32,
}

impl Default for Normalize {
    fn default() -> Self {
        Normalize { mean: vec![0.0], std: vec![1.0], max_pixel_value: 255.0 }
    }
}

impl Normalize {
    /// Checks the parameters for images with this number of channels.
    ///
    /// # Errors
    /// [`AugmentError::Parameter`] if the number of means or deviations does not fit the channels, or a value is out of
    /// range.
    pub fn validate(&self, channels: usize) -> Result<(), AugmentError> {
        let check = Check { op: "normalize" };
        for (name, values) in [("mean", &self.mean), ("std", &self.std)] {
            if values.len() != 1 && values.len() != channels {
                let allowed = format!("one number, or one for each of the {channels} channels");
                return Err(check.refuse(name, format_args!("{} numbers", values.len()), allowed));
            }
        }
        self.mean.iter().try_for_each(|&mean| check.number("mean", mean, -1e6..=1e6))?;
        self.std.iter().try_for_each(|&std| check.number("std", std, 1e-6..=1e6))?;
        check.number("max_pixel_value", self.max_pixel_value, 1e-6..=1e6)
    }

    /// Writes the numbers for images, `[.., channels]`.
    ///
    /// # Panics
    /// If `numbers` is not as long as `images`.
    pub fn apply(&self, images: &[u8], numbers: &mut [f32]) {
        assert_eq!(images.len(), numbers.len(), "one number for each byte is needed");
        let channels = self.mean.len().max(self.std.len());
        for channel in 0..channels {
            // A single mean or deviation holds for all channels.
            let mean = self.mean[channel % self.mean.len()];
            let std = self.std[channel % self.std.len()];
            let (factor, offset) = (1.0 / (self.max_pixel_value * std), -mean / std);
            if channels == 1 {
                numbers.iter_mut().zip(images).for_each(|(to, v)| *to = f32::from(*v) * factor + offset);
            } else {
                let values = images.iter().skip(channel).step_by(channels);
                let numbers = numbers.iter_mut().skip(channel).step_by(channels);
                numbers.zip(values).for_each(|(to, v)| *to = f32::from(*v) * factor + offset);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_channel_has_its_own_mean_and_deviation() {
        let normalize = Normalize { mean: vec![0.0, 1.0], std: vec![0.5], ..Normalize::default() };
        normalize.validate(2).unwrap();
        let mut numbers = [0.0; 4];
        normalize.apply(&[0, 0, 255, 255], &mut numbers);
        assert_eq!(numbers, [0.0, -2.0, 2.0, 0.0]);
    }

    #[test]
    fn a_deviation_of_zero_and_missing_channels_are_refused() {
        let wrong = Normalize { std: vec![0.0], ..Normalize::default() };
        assert!(wrong.validate(1).unwrap_err().to_string().contains("std = 0"));
        let wrong = Normalize { mean: vec![0.1, 0.2], ..Normalize::default() };
        assert!(wrong.validate(3).unwrap_err().to_string().contains("each of the 3 channels"));
    }
}
