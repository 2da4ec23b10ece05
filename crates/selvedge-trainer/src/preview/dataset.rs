//! The sheet of a data set: three rows of images per class, as the authors of Fashion-MNIST show theirs.

use super::sheet::{CHARACTER, INK, Image, LINE, Line, SOFT_INK, Sheet};
use super::{MARGIN, PreviewError, check_channels, header, scale_for};
use crate::data::TrainingData;

/// Rows per class, and the most images in a row.
const ROWS: usize = 3;
const COLUMNS: usize = 30;
/// The longer side of an enlarged image in pixels, and the greatest width of a row.
const TARGET: usize = 56;
const MOST_WIDTH: usize = 1680;
/// Pixels between classes.
const GAP: usize = 10;
/// Characters per line beside the images.
const NAME: usize = 14;

/// Draws the first training images of each class.
pub(crate) fn dataset_sheet(name: &str, data: &TrainingData) -> Result<Sheet, PreviewError> {
    let [height, width, channels] = data.image_shape();
    check_channels(channels)?;
    let scale = scale_for(height, width, TARGET);
    let (cell_width, cell_height) = (width * scale, height * scale);
    let columns = (MOST_WIDTH / cell_width).clamp(1, COLUMNS);
    let labels = data.labels();
    let classes: Vec<Class> =
        data.class_names.iter().zip(0..).map(|(name, label)| Class::of(name, label, labels)).collect();

    let (left, row_width) = (MARGIN + (NAME + 1) * CHARACTER, columns * cell_width);
    let sheet_width = left + row_width + MARGIN;
    let title = Line::bold(format!("{name}: the training images"), INK);
    let text = format!(
        "{} images of {width} x {height} pixels in {} classes; the first {} of each class are shown",
        labels.len(),
        classes.len(),
        ROWS * columns
    );
    let header = header(vec![title, Line::new(text, SOFT_INK)], sheet_width);
    let rows_of = |class: &Class| class.images.len().min(ROWS * columns).div_ceil(columns);
    let block = |class: &Class| (rows_of(class) * cell_height).max(class.caption.len() * LINE) + GAP;
    let top = MARGIN + header.len() * LINE + LINE / 2;
    let mut sheet = Sheet::new(sheet_width, top + classes.iter().map(block).sum::<usize>() - GAP + MARGIN)?;
    sheet.text(MARGIN, MARGIN, &header);
    let mut y = top;
    for class in &classes {
        sheet.text(MARGIN, y, &class.caption);
        for (position, &index) in class.images.iter().take(ROWS * columns).enumerate() {
            let pixels = data.image(index);
            let (x, row) = (left + position % columns * cell_width, position / columns);
            sheet.image(x, y + row * cell_height, scale, Image { pixels, width, channels });
        }
        y += block(class);
    }
    Ok(sheet)
}

struct Class {
    caption: Vec<Line>,
    /// The indices of its images.
    images: Vec<usize>,
}

impl Class {
    fn of(name: &str, label: usize, labels: &[u8]) -> Self {
        let images: Vec<usize> = (0..labels.len()).filter(|&i| usize::from(labels[i]) == label).collect();
        let mut caption = Line::bold(name, INK).wrapped(NAME);
        caption.extend(Line::new(format!("class {label}"), SOFT_INK).wrapped(NAME));
        caption.extend(Line::new(format!("{} images", images.len()), SOFT_INK).wrapped(NAME));
        Self { caption, images }
    }
}
