//! [`OperationShape`]: what an operation is measured on, as `--shape` writes it.

use std::fmt;

use selvedge_compute::BlockShape;
use selvedge_compute::activation::Activation;
use selvedge_compute::conv::Conv2dShape;
use selvedge_compute::pool::Pool2dShape;
use selvedge_model::IsolatedOperation;

use super::{OperationKind, ProfileError};

/// The most numbers an image, a layer's weights or an optimizer may have here: 256 MiB of f32.
const MOST: usize = 1 << 26;

/// What an operation is measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationShape {
    /// `14x14x64-128k3`: height, width and channels of the input, outputs, and the side of the kernel, 3 if it is left
    /// out. Dense layers have no kernel.
    Layer {
        /// Height, width and channels.
        input: [usize; 3],
        /// Filters or units.
        outputs: usize,
        /// Side of a convolution's kernel.
        kernel: usize,
    },
    /// `14x14x64`: height, width and channels.
    Image([usize; 3]),
    /// `279406`: classes or parameters.
    Count(usize),
}

impl OperationShape {
    /// Reads the shape of an operation.
    ///
    /// ```
    /// use selvedge_trainer::profile::{OperationKind, OperationShape};
    /// let shape = OperationShape::parse(OperationKind::Conv, "14x14x64-128")?;
    /// assert_eq!(shape, OperationShape::Layer { input: [14, 14, 64], outputs: 128, kernel: 3 });
    /// assert!(OperationShape::parse(OperationKind::Pool, "14x14").is_err());
    /// # Ok::<(), selvedge_trainer::profile::ProfileError>(())
    /// ```
    ///
    /// # Errors
    /// [`ProfileError::Shape`], with how a shape of this operation is written.
    pub fn parse(operation: OperationKind, text: &str) -> Result<Self, ProfileError> {
        let fail = |problem: String| {
            let expected = operation.shape_form();
            ProfileError::Shape { asked: text.to_owned(), operation, problem, expected }
        };
        let number = |part: &str| match part.parse::<usize>() {
            Ok(number) if (1..=MOST).contains(&number) => Ok(number),
            _ => Err(fail(format!("{part:?} is no number from 1 to {MOST}"))),
        };
        let image = |part: &str| -> Result<[usize; 3], ProfileError> {
            let sides: Vec<usize> = part.split('x').map(number).collect::<Result<_, _>>()?;
            sides.try_into().map_err(|sides: Vec<usize>| fail(format!("{} numbers around `x`, not 3", sides.len())))
        };
        let shape = match operation {
            OperationKind::Conv | OperationKind::Dense => {
                let (input, outputs) = text.split_once('-').ok_or_else(|| fail("no `-` before the outputs".into()))?;
                let (outputs, kernel) = match outputs.split_once('k') {
                    Some(_) if operation == OperationKind::Dense => {
                        return Err(fail("a dense layer has no kernel".into()));
                    }
                    Some((outputs, kernel)) => (outputs, number(kernel)?),
                    None => (outputs, 3),
                };
                Self::Layer { input: image(input)?, outputs: number(outputs)?, kernel }
            }
            OperationKind::Loss | OperationKind::Sgd | OperationKind::Adam => Self::Count(number(text)?),
            _ => Self::Image(image(text)?),
        };
        match shape.problem(operation) {
            None => Ok(shape),
            Some(problem) => Err(fail(problem)),
        }
    }

    /// Numbers of the larger of an image's input and output, padded channels included; in floating point, which never
    /// overflows.
    pub(super) fn numbers_of_an_image(&self, operation: OperationKind) -> f64 {
        match *self {
            Self::Layer { input: [h, w, c], outputs, .. } => {
                let pixels = h as f64 * w as f64;
                let pixels_behind = if operation == OperationKind::Dense { 1.0 } else { pixels };
                (pixels * padded(c)).max(pixels_behind * padded(outputs))
            }
            Self::Image([h, w, c]) => h as f64 * w as f64 * padded(c),
            Self::Count(count) => padded(count),
        }
    }

    /// What cannot be computed on.
    fn problem(&self, operation: OperationKind) -> Option<String> {
        let weights = match *self {
            Self::Layer { input: [h, w, c], outputs, kernel } => {
                let [rows, columns] = if operation == OperationKind::Dense { [h, w] } else { [kernel, kernel] };
                rows as f64 * columns as f64 * padded(c) * padded(outputs)
            }
            _ => 0.0,
        };
        let numbers = self.numbers_of_an_image(operation).max(weights);
        match (self, operation) {
            _ if numbers > MOST as f64 => Some(format!("it has more than {MOST} numbers")),
            (Self::Image([h, w, _]), OperationKind::Pool | OperationKind::AveragePool | OperationKind::NormPool)
                if *h < 2 || *w < 2 =>
            {
                Some("a window of 2x2 does not fit into it".to_owned())
            }
            (Self::Count(classes), OperationKind::Loss) if !(2..=256).contains(classes) => {
                Some("there are from 2 to 256 classes".to_owned())
            }
            (Self::Layer { input: [_, _, channels], .. } | Self::Image([_, _, channels]), OperationKind::Input)
                if *channels > 15 =>
            {
                Some("a network's input has at most 15 channels".to_owned())
            }
            _ => None,
        }
    }

    /// The operation on this shape, which was read for it. A single channel is a network's input, others come from a
    /// layer, which pads them.
    pub(super) fn operation(&self, kind: OperationKind) -> IsolatedOperation {
        let (height, width, channels) = match *self {
            Self::Layer { input: [h, w, c], .. } | Self::Image([h, w, c]) => (h, w, c),
            Self::Count(count) => (1, 1, count),
        };
        let shape = match (channels, self) {
            (1, Self::Layer { .. }) => BlockShape::input(height, width, channels),
            _ => BlockShape::new(height, width, channels),
        };
        let (outputs, kernel) = match *self {
            Self::Layer { outputs, kernel, .. } => (outputs, kernel),
            _ => (1, 1),
        };
        match kind {
            OperationKind::Conv => IsolatedOperation::Conv(Conv2dShape::same(shape, outputs, [kernel; 2], 1)),
            OperationKind::Dense => IsolatedOperation::Conv(Conv2dShape::dense(shape, outputs)),
            OperationKind::Pool => IsolatedOperation::MaxPool(pairs(shape)),
            OperationKind::AveragePool => IsolatedOperation::AveragePool(pairs(shape)),
            OperationKind::Relu => IsolatedOperation::Activation(Activation::Relu, shape),
            OperationKind::Gelu => IsolatedOperation::Activation(Activation::Gelu, shape),
            OperationKind::Silu => IsolatedOperation::Activation(Activation::Silu, shape),
            OperationKind::Norm => IsolatedOperation::Norm(shape),
            OperationKind::NormPool => IsolatedOperation::NormMaxPool(pairs(shape)),
            OperationKind::Dropout => IsolatedOperation::Dropout(shape),
            OperationKind::Add => IsolatedOperation::Add(shape),
            OperationKind::Input => IsolatedOperation::Input(BlockShape::input(height, width, channels)),
            OperationKind::Loss => IsolatedOperation::CrossEntropy(channels),
            OperationKind::Sgd => IsolatedOperation::Sgd(channels),
            OperationKind::Adam => IsolatedOperation::Adam(channels),
        }
    }
}

/// Pooling of two by two pixels.
fn pairs(shape: BlockShape) -> Pool2dShape {
    Pool2dShape::new(shape, [2, 2], [2, 2])
}

/// Channels as they are stored, next to enough.
fn padded(channels: usize) -> f64 {
    channels as f64 + 15.0 - ((channels - 1) % 16) as f64
}

impl fmt::Display for OperationShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Layer { input: [h, w, c], outputs, kernel: 3 } => format!("{h}x{w}x{c}-{outputs}"),
            Self::Layer { input: [h, w, c], outputs, kernel } => format!("{h}x{w}x{c}-{outputs}k{kernel}"),
            Self::Image([h, w, c]) => format!("{h}x{w}x{c}"),
            Self::Count(count) => count.to_string(),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_read_back_as_they_are_written() {
        for (operation, text) in [
            (OperationKind::Conv, "28x28x1-16"),
            (OperationKind::Conv, "7x9x256-256k5"),
            (OperationKind::Dense, "1x1x350-150"),
            (OperationKind::Pool, "14x14x64"),
            (OperationKind::Adam, "279406"),
            (OperationKind::Loss, "10"),
        ] {
            assert_eq!(OperationShape::parse(operation, text).unwrap().to_string(), text);
        }
        let shape = OperationShape::parse(OperationKind::Conv, "28x28x1-16k3").unwrap();
        assert_eq!(shape.to_string(), "28x28x1-16");
    }

    #[test]
    fn what_is_no_shape_is_refused_with_the_form() {
        for (operation, text, problem) in [
            (OperationKind::Conv, "14x14x64", "no `-`"),
            (OperationKind::Conv, "14x14-64", "2 numbers"),
            (OperationKind::Conv, "0x14x64-64", "\"0\" is no number"),
            (OperationKind::Conv, "14x14x64-64kk", "\"k\" is no number"),
            (OperationKind::Conv, "99999x99999x64-64", "more than"),
            (OperationKind::Dense, "1x1x64-64k3", "no kernel"),
            (OperationKind::Dense, "1x1x67108864-67108864", "more than"),
            (OperationKind::Pool, "1x14x64", "2x2 does not fit"),
            (OperationKind::Loss, "1", "2 to 256"),
            (OperationKind::Input, "28x28x16", "15 channels"),
            (OperationKind::Sgd, "many", "\"many\""),
        ] {
            let message = OperationShape::parse(operation, text).unwrap_err().to_string();
            assert!(message.contains(problem) && message.contains("expected"), "{message}");
            assert!(message.contains(operation.name()), "{message}");
        }
    }
}
