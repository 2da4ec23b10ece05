//! Why a chain of augmentations is refused.

/// An augmentation that cannot be used, and what to change.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AugmentError {
    /// A parameter outside of its allowed values.
    #[error("augmentation `{op}`: {parameter} = {found} is not allowed, it must be {allowed}")]
    Parameter {
        /// The operation, as recipes name it.
        op: &'static str,
        /// The parameter.
        parameter: &'static str,
        /// Its value.
        found: String,
        /// The allowed values.
        allowed: String,
    },
    /// The operation exchanges height and width, and the images are not square.
    #[error(
        "augmentation `{op}` exchanges height and width and needs square images, \
         but they are {height} by {width}: remove it"
    )]
    NotSquare {
        /// The operation, as recipes name it.
        op: &'static str,
        /// Rows of the images.
        height: usize,
        /// Columns of the images.
        width: usize,
    },
    /// Images without pixels or with too long a side, or a number of classes that does not fit into labels of one byte.
    #[error("cannot augment images with {what} = {found}: it must be from 1 to {largest}")]
    Size {
        /// "height", "width", "channels" or "classes".
        what: &'static str,
        /// Its value.
        found: usize,
        /// The largest allowed value.
        largest: usize,
    },
    /// A mixing operation that is not at the end of the chain, or stands among operations on single images.
    #[error("augmentation `{op}` {problem}")]
    Placement {
        /// The operation, as recipes name it.
        op: &'static str,
        /// What is wrong, and what to do.
        problem: String,
    },
}
