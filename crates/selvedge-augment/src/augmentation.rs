//! The closed list of operations, as a recipe writes them.

use serde::{Deserialize, Serialize};

use crate::geometric::{
    AlternatingFlip, HorizontalFlip, RandomCrop, RandomRotate90, Translate, Transpose, VerticalFlip,
};
use crate::masking::{Cutout, GridMask, RandomErasing};
use crate::mixing::{BatchTransform, CutMix, FMix, MixUp, Unmixed, run as mix};
use crate::photometric::{
    AutoContrast, Blur, Brightness, Contrast, Equalize, Gamma, GaussianBlur, GaussianNoise, Invert, Posterize,
    Sharpness, Solarize,
};
use crate::policy::{OneOf, Policy, RandAugment, Sequential, SomeOf, TrivialAugment};
use crate::transform::{DrawnStep, Transform, run};
use crate::warp::{
    Affine, ElasticTransform, GridDistortion, OpticalDistortion, RandomResizedCrop, Rotate, ShearX, ShearY,
};
use crate::{AugmentError, Canvas, DrawnMix, ImageShape, Stream};

/// One operation of a chain.
///
/// A recipe writes the name as `op` and then the parameters; every parameter has a default.
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Augmentation {
    /// See [`HorizontalFlip`].
    HorizontalFlip(HorizontalFlip),
    /// See [`AlternatingFlip`].
    AlternatingFlip(AlternatingFlip),
    /// See [`VerticalFlip`].
    VerticalFlip(VerticalFlip),
    /// See [`RandomRotate90`].
    #[serde(rename = "random_rotate90", alias = "random_rotate_90")]
    RandomRotate90(RandomRotate90),
    /// See [`Transpose`].
    Transpose(Transpose),
    /// See [`Translate`].
    #[serde(alias = "shift")]
    Translate(Translate),
    /// See [`RandomCrop`].
    RandomCrop(RandomCrop),
    /// See [`Rotate`].
    Rotate(Rotate),
    /// See [`Shear`](crate::warp::Shear).
    ShearX(ShearX),
    /// See [`Shear`](crate::warp::Shear).
    ShearY(ShearY),
    /// See [`Affine`].
    Affine(Affine),
    /// See [`RandomResizedCrop`].
    RandomResizedCrop(RandomResizedCrop),
    /// See [`OpticalDistortion`].
    OpticalDistortion(OpticalDistortion),
    /// See [`GridDistortion`].
    GridDistortion(GridDistortion),
    /// See [`ElasticTransform`].
    #[serde(alias = "elastic")]
    ElasticTransform(ElasticTransform),
    /// See [`Blur`].
    Blur(Blur),
    /// See [`GaussianBlur`].
    GaussianBlur(GaussianBlur),
    /// See [`GaussianNoise`].
    #[serde(alias = "gauss_noise")]
    GaussianNoise(GaussianNoise),
    /// See [`Brightness`].
    Brightness(Brightness),
    /// See [`Contrast`].
    Contrast(Contrast),
    /// See [`Gamma`].
    Gamma(Gamma),
    /// See [`Invert`].
    Invert(Invert),
    /// See [`Sharpness`].
    Sharpness(Sharpness),
    /// See [`Posterize`].
    Posterize(Posterize),
    /// See [`Solarize`].
    Solarize(Solarize),
    /// See [`AutoContrast`].
    #[serde(alias = "autocontrast")]
    AutoContrast(AutoContrast),
    /// See [`Equalize`].
    Equalize(Equalize),
    /// See [`Cutout`].
    Cutout(Cutout),
    /// See [`RandomErasing`].
    RandomErasing(RandomErasing),
    /// See [`GridMask`].
    #[serde(alias = "gridmask")]
    GridMask(GridMask),
    /// See [`OneOf`].
    OneOf(OneOf),
    /// See [`SomeOf`].
    SomeOf(SomeOf),
    /// See [`Sequential`].
    #[serde(alias = "random_apply")]
    Sequential(Sequential),
    /// See [`RandAugment`].
    #[serde(alias = "randaugment")]
    RandAugment(RandAugment),
    /// See [`TrivialAugment`].
    #[serde(alias = "trivialaugment")]
    TrivialAugment(TrivialAugment),
    /// See [`MixUp`].
    #[serde(rename = "mixup")]
    MixUp(MixUp),
    /// See [`CutMix`].
    #[serde(rename = "cutmix")]
    CutMix(CutMix),
    /// See [`FMix`].
    #[serde(rename = "fmix")]
    FMix(FMix),
}

/// Evaluates an expression with the value of a variant: one for operations on an image, one for
/// policies, one for operations on a batch.
macro_rules! with_value {
    ($augmentation:expr, $transform:ident => $on_image:expr, $policy:ident => $on_policy:expr, $mixing:ident => $on_batch:expr $(,)?) => {
        match $augmentation {
            Augmentation::HorizontalFlip($transform) => $on_image,
            Augmentation::AlternatingFlip($transform) => $on_image,
            Augmentation::VerticalFlip($transform) => $on_image,
            Augmentation::RandomRotate90($transform) => $on_image,
            Augmentation::Transpose($transform) => $on_image,
            Augmentation::Translate($transform) => $on_image,
            Augmentation::RandomCrop($transform) => $on_image,
            Augmentation::Rotate($transform) => $on_image,
            Augmentation::ShearX($transform) => $on_image,
            Augmentation::ShearY($transform) => $on_image,
            Augmentation::Affine($transform) => $on_image,
            Augmentation::RandomResizedCrop($transform) => $on_image,
            Augmentation::OpticalDistortion($transform) => $on_image,
            Augmentation::GridDistortion($transform) => $on_image,
            Augmentation::ElasticTransform($transform) => $on_image,
            Augmentation::Blur($transform) => $on_image,
            Augmentation::GaussianBlur($transform) => $on_image,
            Augmentation::GaussianNoise($transform) => $on_image,
            Augmentation::Brightness($transform) => $on_image,
            Augmentation::Contrast($transform) => $on_image,
            Augmentation::Gamma($transform) => $on_image,
            Augmentation::Invert($transform) => $on_image,
            Augmentation::Sharpness($transform) => $on_image,
            Augmentation::Posterize($transform) => $on_image,
            Augmentation::Solarize($transform) => $on_image,
            Augmentation::AutoContrast($transform) => $on_image,
            Augmentation::Equalize($transform) => $on_image,
            Augmentation::Cutout($transform) => $on_image,
            Augmentation::RandomErasing($transform) => $on_image,
            Augmentation::GridMask($transform) => $on_image,
            Augmentation::OneOf($policy) => $on_policy,
            Augmentation::SomeOf($policy) => $on_policy,
            Augmentation::Sequential($policy) => $on_policy,
            Augmentation::RandAugment($policy) => $on_policy,
            Augmentation::TrivialAugment($policy) => $on_policy,
            Augmentation::MixUp($mixing) => $on_batch,
            Augmentation::CutMix($mixing) => $on_batch,
            Augmentation::FMix($mixing) => $on_batch,
        }
    };
}

impl Augmentation {
    /// The name in recipes.
    pub fn name(&self) -> &'static str {
        fn of_transform<T: Transform>(_: &T) -> &'static str {
            T::NAME
        }
        fn of_policy<T: Policy>(_: &T) -> &'static str {
            T::NAME
        }
        fn of_mixing<T: BatchTransform>(_: &T) -> &'static str {
            T::NAME
        }
        with_value!(self, t => of_transform(t), p => of_policy(p), m => of_mixing(m))
    }

    /// How probable it is that anything is done.
    pub fn probability(&self) -> f32 {
        with_value!(self, t => t.probability(), p => p.probability(), m => m.probability())
    }

    /// Whether this mixes the images of a batch: one of the mixing operations, or a choice among them.
    pub fn is_mixing(&self) -> bool {
        match self {
            Augmentation::MixUp(_) | Augmentation::CutMix(_) | Augmentation::FMix(_) => true,
            Augmentation::OneOf(choice) => !choice.ops.is_empty() && choice.ops.iter().all(Augmentation::is_mixing),
            _ => false,
        }
    }

    /// Refuses parameters outside of their range, and shapes that the operation cannot take.
    pub fn validate(&self, shape: ImageShape) -> Result<(), AugmentError> {
        match self {
            Augmentation::OneOf(choice) if self.is_mixing() => {
                choice.ops.iter().try_for_each(|op| op.validate(shape))?;
                choice.check_weights()
            }
            _ => with_value!(self, t => t.validate(shape), p => p.validate(shape), m => m.validate(shape)),
        }
    }

    /// Draws from the stream and changes the image; `forced` leaves the probability out. Operations
    /// that mix batches do nothing.
    pub(crate) fn run(
        &self,
        forced: bool,
        rng: &mut Stream,
        canvas: &mut Canvas,
        record: &mut Option<&mut Vec<DrawnStep>>,
    ) {
        with_value!(
            self,
            transform => run(transform, forced, rng, canvas, record),
            policy => if forced || rng.chance(policy.probability()) {
                policy.run(rng, canvas, record);
            },
            _mixing => {},
        );
    }

    /// Draws from the stream and mixes the batch, and tells whether it did; operations on one image do
    /// nothing.
    pub(crate) fn run_on_batch(
        &self,
        forced: bool,
        rng: &mut Stream,
        batch: &mut Unmixed<'_>,
        record: &mut Option<&mut Vec<DrawnMix>>,
    ) -> bool {
        match self {
            Augmentation::MixUp(mixing) => mix(mixing, forced, rng, batch, record),
            Augmentation::CutMix(mixing) => mix(mixing, forced, rng, batch, record),
            Augmentation::FMix(mixing) => mix(mixing, forced, rng, batch, record),
            Augmentation::OneOf(choice) if forced || rng.chance(choice.p) => {
                let chosen = choice.choose(rng);
                choice.ops[chosen].run_on_batch(true, &mut rng.fork(chosen), batch, record)
            }
            _ => false,
        }
    }

    /// Checks a whole chain: every operation, and that those that mix batches stand at its end.
    pub(crate) fn validate_chain(ops: &[Augmentation], shape: ImageShape) -> Result<(), AugmentError> {
        let on_images = ops.iter().rposition(|op| !op.is_mixing()).map_or(0, |last| last + 1);
        if let Some(misplaced) = ops[..on_images].iter().find(|op| op.is_mixing()) {
            let behind = ops[on_images - 1].name();
            let problem = format!("mixes whole batches and stands before `{behind}`: move it to the end of the chain");
            return Err(AugmentError::Placement { op: misplaced.name(), problem });
        }
        ops.iter().try_for_each(|op| op.validate(shape))
    }
}

#[cfg(test)]
mod tests;
