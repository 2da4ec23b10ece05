//! The closed list of operations, as recipes write them, and the choices among them.
//!
//! One table gives each operation its name and its kind. The choices stand here too, since the list holds them and they
//! hold operations of the list.

use serde::{Deserialize, Serialize};

use crate::canvas::Canvas;
use crate::check::Check;
use crate::error::AugmentError;
use crate::geometric::{
    AlternatingFlip, HorizontalFlip, RandomCrop, RandomRotate90, Translate, Transpose, VerticalFlip,
};
use crate::masking::{Cutout, GridMask, RandomErasing};
use crate::mixing::{CutMix, FMix, MixUp, Unmixed, run as mix};
use crate::operation::{DrawnStep, Named, Operation, Policy, run};
use crate::parameter::Whole;
use crate::photometric::{
    AutoContrast, Blur, Brightness, Contrast, Equalize, Gamma, GaussianBlur, GaussianNoise, Invert, Posterize,
    Sharpness, Solarize,
};
use crate::policy::{RandAugment, TrivialAugment};
use crate::shape::ImageShape;
use crate::stream::Stream;
use crate::trace::DrawnMix;
use crate::warp::{
    Affine, ElasticTransform, GridDistortion, OpticalDistortion, RandomResizedCrop, Rotate, ShearX, ShearY,
};

/// Makes the enum of all operations, which serde reads and writes under their names, and the functions that match on
/// it. Each line of the table is a type, its name, and other names that recipes may use for it.
macro_rules! operations {
    (
        $(#[$meta:meta])*
        pub enum $list:ident {
            on_image { $($image:ident = $image_name:literal $(| $image_alias:literal)*,)* }
            policy { $($policy:ident = $policy_name:literal $(| $policy_alias:literal)*,)* }
            on_batch { $($batch:ident = $batch_name:literal $(| $batch_alias:literal)*,)* }
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "op")]
        pub enum $list {
            $(
                #[doc = concat!("`", $image_name, "`, see [`", stringify!($image), "`].")]
                #[serde(rename = $image_name $(, alias = $image_alias)*)]
                $image($image),
            )*
            $(
                #[doc = concat!("`", $policy_name, "`, see [`", stringify!($policy), "`].")]
                #[serde(rename = $policy_name $(, alias = $policy_alias)*)]
                $policy($policy),
            )*
            $(
                #[doc = concat!("`", $batch_name, "`, see [`", stringify!($batch), "`].")]
                #[serde(rename = $batch_name $(, alias = $batch_alias)*)]
                $batch($batch),
            )*
        }

        $(impl Named for $image { const NAME: &'static str = $image_name; })*
        $(impl Named for $policy { const NAME: &'static str = $policy_name; })*
        $(impl Named for $batch { const NAME: &'static str = $batch_name; })*

        impl $list {
            /// The names of all operations in recipes, other spellings left out.
            pub const NAMES: &'static [&'static str] =
                &[$($image_name,)* $($policy_name,)* $($batch_name,)*];

            /// The name in recipes.
            pub fn name(&self) -> &'static str {
                match self {
                    $($list::$image(_) => $image_name,)*
                    $($list::$policy(_) => $policy_name,)*
                    $($list::$batch(_) => $batch_name,)*
                }
            }

            /// The probability that the operation is carried out, from 0 to 1.
            pub fn probability(&self) -> f32 {
                match self {
                    $($list::$image(op) => op.probability(),)*
                    $($list::$policy(op) => op.probability(),)*
                    $($list::$batch(op) => op.probability(),)*
                }
            }

            /// Whether this mixes the images of a batch: a mixing operation, or a choice among mixing operations.
            pub fn is_mixing(&self) -> bool {
                match self {
                    $($list::$batch(_) => true,)*
                    $list::OneOf(choice) => choice.is_mixing(),
                    _ => false,
                }
            }

            /// Checks the parameters for images of a shape.
            ///
            /// # Errors
            /// A parameter that is not allowed, or a shape that the operation cannot take.
            pub fn validate(&self, shape: ImageShape) -> Result<(), AugmentError> {
                match self {
                    $($list::$image(op) => op.validate(shape),)*
                    $($list::$policy(op) => op.validate(shape),)*
                    $($list::$batch(op) => op.validate(shape),)*
                }
            }

            /// Draws from the stream and changes the image; `forced` skips the draw of the probability. Operations
            /// that mix batches do nothing.
            pub(crate) fn run(
                &self,
                forced: bool,
                rng: &mut Stream,
                canvas: &mut Canvas,
                record: &mut Option<&mut Vec<DrawnStep>>,
            ) {
                match self {
                    $($list::$image(op) => run(op, forced, rng, canvas, record),)*
                    $($list::$policy(op) => if forced || rng.chance(op.probability()) {
                        op.run(rng, canvas, record);
                    })*
                    $($list::$batch(_) => {})*
                }
            }

            /// Draws from the stream and mixes the batch; returns whether it did. Operations on one image do nothing.
            pub(crate) fn run_on_batch(
                &self,
                forced: bool,
                rng: &mut Stream,
                batch: &mut Unmixed<'_>,
                record: &mut Option<&mut Vec<DrawnMix>>,
            ) -> bool {
                match self {
                    $($list::$batch(op) => mix(op, forced, rng, batch, record),)*
                    $list::OneOf(choice) if forced || rng.chance(choice.p) => {
                        let chosen = choice.choose(rng);
                        choice.ops[chosen].run_on_batch(true, &mut rng.fork(chosen), batch, record)
                    }
                    _ => false,
                }
            }
        }
    };
}

operations! {
    /// One operation of a chain.
    ///
    /// A recipe writes the name as `op`, then the parameters. Every parameter has a default, except the `ops` of a
    /// choice.
    ///
    /// ```
    /// use selvedge_augment::Augmentation;
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Recipe {
    ///     augment: Vec<Augmentation>,
    /// }
    /// let recipe: Recipe = toml::from_str(
    ///     r#"augment = [
    ///         { op = "alternating_flip" },
    ///         { op = "translate", max = 2, padding = "reflect" },
    ///         { op = "random_erasing", p = 0.5, area = [0.02, 0.4], ratio = [0.3, 3.3] },
    ///     ]"#,
    /// )?;
    /// assert_eq!(recipe.augment.len(), 3);
    /// # Ok::<(), toml::de::Error>(())
    /// ```
    pub enum Augmentation {
        on_image {
            HorizontalFlip = "horizontal_flip",
            AlternatingFlip = "alternating_flip",
            VerticalFlip = "vertical_flip",
            RandomRotate90 = "random_rotate90" | "random_rotate_90",
            Transpose = "transpose",
            Translate = "translate" | "shift",
            RandomCrop = "random_crop",
            Rotate = "rotate",
            ShearX = "shear_x",
            ShearY = "shear_y",
            Affine = "affine",
            RandomResizedCrop = "random_resized_crop",
            OpticalDistortion = "optical_distortion",
            GridDistortion = "grid_distortion",
            ElasticTransform = "elastic_transform" | "elastic",
            Blur = "blur",
            GaussianBlur = "gaussian_blur",
            GaussianNoise = "gaussian_noise" | "gauss_noise",
            Brightness = "brightness",
            Contrast = "contrast",
            Gamma = "gamma",
            Invert = "invert",
            Sharpness = "sharpness",
            Posterize = "posterize",
            Solarize = "solarize",
            AutoContrast = "auto_contrast" | "autocontrast",
            Equalize = "equalize",
            Cutout = "cutout",
            RandomErasing = "random_erasing",
            GridMask = "grid_mask" | "gridmask",
        }
        policy {
            OneOf = "one_of",
            SomeOf = "some_of",
            Sequential = "sequential" | "random_apply",
            RandAugment = "rand_augment" | "randaugment",
            TrivialAugment = "trivial_augment" | "trivialaugment",
        }
        on_batch {
            MixUp = "mixup",
            CutMix = "cutmix",
            FMix = "fmix",
        }
    }
}

/// Checks a whole chain: every operation, and that mixing operations come last.
///
/// # Errors
/// The first operation that cannot be used, and why.
pub(crate) fn validate_chain(ops: &[Augmentation], shape: ImageShape) -> Result<(), AugmentError> {
    let on_images = ops.iter().rposition(|op| !op.is_mixing()).map_or(0, |last| last + 1);
    if let Some(misplaced) = ops[..on_images].iter().find(|op| op.is_mixing()) {
        let later = ops[on_images - 1].name();
        let problem = format!("mixes whole batches but comes before `{later}`: move it to the end of the chain");
        return Err(AugmentError::Placement { op: misplaced.name(), problem });
    }
    ops.iter().try_for_each(|op| op.validate(shape))
}

/// Applies one of the operations, chosen with its `p` as its weight.
///
/// Source: Albumentations `OneOf(transforms, p=0.5)`: the chosen operation is always carried out, since its own `p` is
/// its weight in the choice. Either all operations act on one image, or all mix batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneOf {
    /// The operations, at least one.
    pub ops: Vec<Augmentation>,
    /// The probability that one is carried out, from 0 to 1; 0.5 by default.
    #[serde(default = "half")]
    pub p: f32,
}

/// Applies `n` of the operations, each with its own probability, in the order of the list.
///
/// Source: Albumentations `SomeOf(transforms, n, replace=False, p=1)`: every choice of `n` is equally probable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SomeOf {
    /// The operations, from 1 to 64.
    pub ops: Vec<Augmentation>,
    /// How many, one number or `[low, high]`, from 0 to the number of operations; 1 by default.
    #[serde(default = "one")]
    pub n: Whole,
    /// The probability that any is carried out, from 0 to 1; 1 by default.
    #[serde(default = "always")]
    pub p: f32,
}

/// Applies all operations, each with its own probability, or none of them; recipes may also write `random_apply`.
///
/// Source: Albumentations `Sequential(transforms, p=0.5)`, torchvision `RandomApply(transforms, p=0.5)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sequential {
    /// The operations, at least one.
    pub ops: Vec<Augmentation>,
    /// The probability that they are carried out, from 0 to 1; 0.5 by default.
    #[serde(default = "half")]
    pub p: f32,
}

fn half() -> f32 {
    0.5
}

fn always() -> f32 {
    1.0
}

fn one() -> Whole {
    Whole::exactly(1)
}

/// Checks the operations of a choice: at least one, all valid, none that mixes batches.
fn check_ops(check: Check, ops: &[Augmentation], shape: ImageShape) -> Result<(), AugmentError> {
    if ops.is_empty() {
        return Err(check.refuse("ops", "[]", "at least one operation"));
    }
    if let Some(mixing) = ops.iter().find(|op| op.is_mixing()) {
        let problem = format!(
            "mixes the images of a batch and cannot stand inside `{}` with operations on one image: \
             move it to the end of the chain",
            check.op
        );
        return Err(AugmentError::Placement { op: mixing.name(), problem });
    }
    ops.iter().try_for_each(|op| op.validate(shape))
}

impl OneOf {
    /// Whether this is a choice among mixing operations.
    fn is_mixing(&self) -> bool {
        !self.ops.is_empty() && self.ops.iter().all(Augmentation::is_mixing)
    }

    /// Draws the index of an operation, by weight.
    fn choose(&self, rng: &mut Stream) -> usize {
        let total: f32 = self.ops.iter().map(Augmentation::probability).sum();
        let mut left = rng.unit() * total;
        for (index, op) in self.ops.iter().enumerate() {
            left -= op.probability();
            if left < 0.0 {
                return index;
            }
        }
        // Rounding can leave `left` at 0 or above: the draw then belongs to the last operation with a weight.
        self.ops.iter().rposition(|op| op.probability() > 0.0).unwrap_or(0)
    }
}

impl Operation for OneOf {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, shape: ImageShape) -> Result<(), AugmentError> {
        if self.is_mixing() {
            self.ops.iter().try_for_each(|op| op.validate(shape))?;
        } else {
            check_ops(check, &self.ops, shape)?;
        }
        if self.ops.iter().all(|op| op.probability() == 0.0) {
            let allowed = "at least one operation whose p, its weight, is above 0";
            return Err(check.refuse("ops", "all with p = 0", allowed));
        }
        Ok(())
    }
}

impl Policy for OneOf {
    fn run(&self, rng: &mut Stream, canvas: &mut Canvas, record: &mut Option<&mut Vec<DrawnStep>>) {
        let chosen = self.choose(rng);
        self.ops[chosen].run(true, &mut rng.fork(chosen), canvas, record);
    }
}

impl Operation for SomeOf {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, shape: ImageShape) -> Result<(), AugmentError> {
        check_ops(check, &self.ops, shape)?;
        check.number("number of ops", self.ops.len(), 1..=64)?;
        check.span("n", self.n.0, 0..=self.ops.len() as u16)
    }
}

impl Policy for SomeOf {
    fn run(&self, rng: &mut Stream, canvas: &mut Canvas, record: &mut Option<&mut Vec<DrawnStep>>) {
        let mut needed = usize::from(self.n.draw(rng));
        // Selection sampling: each operation is taken with the probability needed / left.
        for (index, op) in self.ops.iter().enumerate() {
            let left = self.ops.len() - index;
            if rng.below(left) < needed {
                needed -= 1;
                op.run(false, &mut rng.fork(index), canvas, record);
            }
        }
    }
}

impl Operation for Sequential {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, shape: ImageShape) -> Result<(), AugmentError> {
        check_ops(check, &self.ops, shape)
    }
}

impl Policy for Sequential {
    fn run(&self, rng: &mut Stream, canvas: &mut Canvas, record: &mut Option<&mut Vec<DrawnStep>>) {
        for (index, op) in self.ops.iter().enumerate() {
            op.run(false, &mut rng.fork(index), canvas, record);
        }
    }
}

#[cfg(test)]
mod tests;
