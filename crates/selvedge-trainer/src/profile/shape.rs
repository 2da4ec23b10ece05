//! [`OperationShape`]: the shape that an operation is measured on, as `--shape` writes it.

use std::fmt;

use selvedge_compute::BlockShape;
use selvedge_compute::conv::Conv2dShape;
use selvedge_compute::pool::Pool2dShape;

/// The most numbers that an image, a layer's weights or an optimizer may have here: 256 MiB of f32.
const MOST: usize = 1 << 26;

/// How the shapes of an operation are written, and what they may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShapeForm {
    /// `14x14x64-128k5`: height, width and channels of the input, filters, and the side of the kernel, 3 if left out.
    Convolution,
    /// `1x1x350-150`: height, width and channels of the input, units.
    Dense,
    /// `14x14x64`: height, width and channels.
    Image,
    /// The same, for pooling with windows of 2x2.
    Pooled,
    /// The same, for the pixels of images.
    Pixels,
    /// `10`: a number of classes.
    Classes,
    /// `279406`: a number of parameters.
    Parameters,
}

impl ShapeForm {
    /// How such a shape is written.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Convolution => {
                "HEIGHTxWIDTHxCHANNELS-FILTERS, with kK appended for a kernel of KxK other than 3x3: 14x14x64-128k5"
            }
            Self::Dense => "HEIGHTxWIDTHxCHANNELS-UNITS, such as 1x1x350-150",
            Self::Image | Self::Pooled | Self::Pixels => "HEIGHTxWIDTHxCHANNELS, such as 14x14x64",
            Self::Classes => "a number of classes, such as 10",
            Self::Parameters => "a number of parameters, such as 279406",
        }
    }

    /// Whether a shape is that of one image of a batch.
    pub(super) fn has_batch(self) -> bool {
        self != Self::Parameters
    }

    /// Whether the operation multiplies activations by weights.
    pub(super) fn multiplies(self) -> bool {
        matches!(self, Self::Convolution | Self::Dense)
    }

    fn is_count(self) -> bool {
        matches!(self, Self::Classes | Self::Parameters)
    }
}

/// The shape that an operation is measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationShape {
    form: ShapeForm,
    /// Height, width and channels. Classes and parameters are the channels of a single pixel.
    input: [usize; 3],
    /// Filters or units, 1 for operations without.
    outputs: usize,
    /// Side of a convolution's kernel, 1 for other operations.
    kernel: usize,
}

impl OperationShape {
    /// Reads a shape; an error says what is wrong with it.
    pub(super) fn parse(form: ShapeForm, text: &str) -> Result<Self, String> {
        let number = |part: &str| match part.parse::<usize>() {
            Ok(number) if (1..=MOST).contains(&number) => Ok(number),
            _ => Err(format!("{part:?} is not a number from 1 to {MOST}")),
        };
        let image = |part: &str| -> Result<[usize; 3], String> {
            let sides: Vec<usize> = part.split('x').map(number).collect::<Result<_, _>>()?;
            sides.try_into().map_err(|sides: Vec<usize>| format!("it has {} numbers around `x`, not 3", sides.len()))
        };
        let shape = if form.multiplies() {
            let (input, outputs) = text.split_once('-').ok_or("it has no `-` before the outputs")?;
            let (outputs, kernel) = match (outputs.split_once('k'), form) {
                (Some((outputs, kernel)), ShapeForm::Convolution) => (outputs, number(kernel)?),
                (Some(_), _) => return Err("a dense layer has no kernel".to_owned()),
                (None, ShapeForm::Convolution) => (outputs, 3),
                (None, _) => (outputs, 1),
            };
            Self { form, input: image(input)?, outputs: number(outputs)?, kernel }
        } else {
            let input = if form.is_count() { [1, 1, number(text)?] } else { image(text)? };
            Self { form, input, outputs: 1, kernel: 1 }
        };
        shape.problem().map_or(Ok(shape), Err)
    }

    /// Numbers of the larger of an image's input and output, padded channels included; in floating point, which does not
    /// overflow.
    pub(super) fn numbers_of_an_image(&self) -> f64 {
        let [height, width, channels] = self.input;
        let pixels = height as f64 * width as f64;
        let outputs = match self.form {
            ShapeForm::Convolution => pixels * padded(self.outputs),
            ShapeForm::Dense => padded(self.outputs),
            _ => 0.0,
        };
        outputs.max(pixels * padded(channels))
    }

    /// Why the operation cannot be computed on this shape.
    fn problem(&self) -> Option<String> {
        let [height, width, channels] = self.input;
        let weights = padded(channels) * padded(self.outputs);
        let weights = match self.form {
            ShapeForm::Convolution => self.kernel as f64 * self.kernel as f64 * weights,
            ShapeForm::Dense => height as f64 * width as f64 * weights,
            _ => 0.0,
        };
        match self.form {
            _ if self.numbers_of_an_image().max(weights) > MOST as f64 => {
                Some(format!("it has more than {MOST} numbers"))
            }
            ShapeForm::Pooled if height < 2 || width < 2 => Some("it is smaller than a window of 2x2".to_owned()),
            ShapeForm::Classes if !(2..=256).contains(&channels) => Some("there can be 2 to 256 classes".to_owned()),
            ShapeForm::Pixels if channels > 15 => Some("a network's input has at most 15 channels".to_owned()),
            _ => None,
        }
    }

    /// The classes, parameters or channels.
    pub(super) fn count(&self) -> usize {
        self.input[2]
    }

    /// A block of the input. A single channel that weights multiply is a network's input, which is not padded.
    pub(super) fn block(&self) -> BlockShape {
        let [height, width, channels] = self.input;
        if self.form == ShapeForm::Pixels || (self.form.multiplies() && channels == 1) {
            BlockShape::input(height, width, channels)
        } else {
            BlockShape::new(height, width, channels)
        }
    }

    /// The convolution of this shape; a dense layer is one whose kernel covers the image.
    pub(super) fn conv(&self) -> Conv2dShape {
        match self.form {
            ShapeForm::Dense => Conv2dShape::dense(self.block(), self.outputs),
            _ => Conv2dShape::same(self.block(), self.outputs, [self.kernel; 2], 1),
        }
    }

    /// Pooling of 2x2 pixels of this shape.
    pub(super) fn pool(&self) -> Pool2dShape {
        Pool2dShape::new(self.block(), [2, 2], [2, 2])
    }
}

/// Channels with their padding, to within what matters for limits.
fn padded(channels: usize) -> f64 {
    channels as f64 + 15.0 - ((channels - 1) % 16) as f64
}

impl fmt::Display for OperationShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { form, input: [height, width, channels], outputs, kernel } = *self;
        let text = match form {
            ShapeForm::Convolution if kernel != 3 => format!("{height}x{width}x{channels}-{outputs}k{kernel}"),
            ShapeForm::Convolution | ShapeForm::Dense => format!("{height}x{width}x{channels}-{outputs}"),
            ShapeForm::Image | ShapeForm::Pooled | ShapeForm::Pixels => format!("{height}x{width}x{channels}"),
            ShapeForm::Classes | ShapeForm::Parameters => channels.to_string(),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_read_back_as_they_are_written() {
        for (form, text) in [
            (ShapeForm::Convolution, "28x28x1-16"),
            (ShapeForm::Convolution, "7x9x256-256k5"),
            (ShapeForm::Dense, "1x1x350-150"),
            (ShapeForm::Pooled, "14x14x64"),
            (ShapeForm::Parameters, "279406"),
            (ShapeForm::Classes, "10"),
        ] {
            assert_eq!(OperationShape::parse(form, text).unwrap().to_string(), text);
        }
        let shape = OperationShape::parse(ShapeForm::Convolution, "28x28x1-16k3").unwrap();
        assert_eq!(shape.to_string(), "28x28x1-16");
    }

    #[test]
    fn a_shape_that_is_none_is_refused() {
        for (form, text, problem) in [
            (ShapeForm::Convolution, "14x14x64", "no `-`"),
            (ShapeForm::Convolution, "14x14-64", "2 numbers"),
            (ShapeForm::Convolution, "0x14x64-64", "\"0\" is not a number"),
            (ShapeForm::Convolution, "14x14x64-64kk", "\"k\" is not a number"),
            (ShapeForm::Convolution, "99999x99999x64-64", "more than"),
            (ShapeForm::Dense, "1x1x64-64k3", "no kernel"),
            (ShapeForm::Dense, "1x1x67108864-67108864", "more than"),
            (ShapeForm::Pooled, "1x14x64", "smaller than a window of 2x2"),
            (ShapeForm::Classes, "1", "2 to 256"),
            (ShapeForm::Pixels, "28x28x16", "15 channels"),
            (ShapeForm::Parameters, "many", "\"many\""),
        ] {
            let message = OperationShape::parse(form, text).unwrap_err();
            assert!(message.contains(problem), "{message}");
        }
    }
}
