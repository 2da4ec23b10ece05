//! The sheet of a recipe: each row shows an image, then the image as training sees it in each of the first epochs, with what
//! was drawn. The loader is that of training, so pixels, partners and shares are those of the run.

use selvedge_augment::{Augmentation, Batch, DrawnStep};

use super::sheet::{ACCENT, CHARACTER, INK, Image, LINE, Line, PALE_INK, SOFT_INK, Sheet};
use super::{MARGIN, PreviewError, check_channels, header, scale_for};
use crate::data::TrainingData;
use crate::loader::Loader;
use crate::recipe::Recipe;
use crate::setup::Images;

/// Rows: one image of each class, more if there are few classes.
const ROWS: usize = 10;
/// Columns: the first epochs of training.
const EPOCHS: u64 = 6;
/// The longer side of an enlarged image in pixels.
const TARGET: usize = 140;
/// The least characters per column: most names of operations fit.
const LEAST_CHARACTERS: usize = 20;
const GAP: usize = 18;

/// An image and the text below it.
struct Cell {
    /// Empty if there is no image to show.
    pixels: Vec<u8>,
    lines: Vec<Line>,
}

/// Draws some images before and after the recipe's augmentation.
pub(crate) fn recipe_sheet(recipe: &Recipe, images: Images) -> Result<Sheet, PreviewError> {
    let Images { data, partition, augmenter, offline, .. } = images;
    let [height, width, channels] = data.image_shape();
    check_channels(channels)?;
    let originals = offline.as_ref().map_or(data.labels().len(), |offline| offline.originals);
    let shown = choose(&data, partition.train.iter().copied().filter(|&index| (index as usize) < originals));

    let mut titles = vec!["image".to_owned()];
    let mut columns: Vec<Vec<Cell>> = vec![shown.iter().map(|&index| original(&data, index)).collect()];
    for copy in 1..=offline.as_ref().map_or(0, |offline| offline.copies().min(EPOCHS as usize)) {
        titles.push(format!("copy {copy}"));
        let of = |&index: &u32| {
            let steps = offline.iter().flat_map(|offline| offline.steps(data.image(index as usize), index, copy));
            let position = copy * originals + index as usize;
            let mut lines = describe_steps(steps);
            if partition.validation.binary_search(&(position as u32)).is_ok() {
                lines.push(Line::new("held out for validation", SOFT_INK));
            }
            Cell { pixels: data.image(position).to_vec(), lines }
        };
        columns.push(shown.iter().map(of).collect());
    }
    // Without augmentation all epochs are alike.
    let epochs = if augmenter.ops().is_empty() { 1 } else { EPOCHS };
    let mut lines =
        vec![Line::bold(format!("recipe {} on {}, seed {}", recipe.name, recipe.dataset, recipe.seed), INK)];
    if let Some(copies) = &recipe.offline_copies {
        lines.push(Line::new(format!("copies made once: {}", describe_chain(&copies.augmentation)), SOFT_INK));
    }
    let chain = describe_chain(augmenter.ops());
    lines.push(Line::new(format!("augmentation in every epoch: {chain}"), SOFT_INK));
    let explanation = "below each image: what was drawn for it, and its label if images are mixed";
    lines.push(Line::new(explanation, SOFT_INK));
    let mut loader = Loader::new(recipe, &data, &partition.train, augmenter);
    for epoch in 0..epochs {
        titles.push(format!("epoch {}", epoch + 1));
        loader.begin_epoch(epoch);
        columns.push(seen(&loader, &data, &shown, originals as u32));
    }
    layout(lines, &titles, columns, [height, width, channels])
}

/// "horizontal_flip (p 0.5), blur (p 0.5)"
fn describe_chain(ops: &[Augmentation]) -> String {
    match ops {
        [] => "none".to_owned(),
        ops => ops.iter().map(|op| format!("{} (p {})", op.name(), op.probability())).collect::<Vec<_>>().join(", "),
    }
}

/// Some images of every class, ordered by class.
fn choose(data: &TrainingData, candidates: impl Iterator<Item = u32>) -> Vec<u32> {
    let classes = data.class_names.len();
    let each = (ROWS / classes).max(1);
    let mut chosen: Vec<Vec<u32>> = vec![Vec::new(); classes];
    for index in candidates {
        let of_class = &mut chosen[usize::from(data.labels()[index as usize])];
        if of_class.len() < each {
            of_class.push(index);
        }
    }
    chosen.into_iter().flatten().take(ROWS).collect()
}

/// An image as it is in the data set, with its class and number.
fn original(data: &TrainingData, index: u32) -> Cell {
    let name = &data.class_names[usize::from(data.labels()[index as usize])];
    let lines = vec![Line::bold(name, INK), Line::new(format!("image {index}"), SOFT_INK)];
    Cell { pixels: data.image(index as usize).to_vec(), lines }
}

/// The images as training sees them in the loader's epoch.
fn seen(loader: &Loader<'_>, data: &TrainingData, shown: &[u32], originals: u32) -> Vec<Cell> {
    let places: Vec<Option<(usize, usize)>> = shown.iter().map(|&index| loader.find(index)).collect();
    let absent = || Cell { pixels: Vec::new(), lines: vec![Line::new("left out of this epoch", PALE_INK)] };
    let mut cells: Vec<Cell> = shown.iter().map(|_| absent()).collect();
    let mut numbers: Vec<usize> = places.iter().flatten().map(|&(number, _)| number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut batch = Batch::new();
    for number in numbers {
        let mut trace = loader.fill_traced(number, &mut batch);
        for (cell, place) in cells.iter_mut().zip(&places) {
            let Some(position) = place.filter(|place| place.0 == number).map(|place| place.1) else { continue };
            let mut lines = describe_steps(std::mem::take(&mut trace.steps[position]));
            if !trace.mixes.is_empty() {
                lines.retain(|line| line.text != UNCHANGED);
            }
            for mix in &trace.mixes {
                let partner = loader.indices(number)[mix.partners[position] as usize];
                let with = match partner / originals {
                    0 => format!("with image {partner}"),
                    copy => format!("with copy {copy} of image {}", partner % originals),
                };
                lines.extend([Line::bold(mix.op, ACCENT), Line::new(&*mix.parameters, INK), Line::new(with, INK)]);
            }
            if let Some(soft) = &batch.soft {
                let classes = data.class_names.len();
                lines.extend(describe_label(&soft[position * classes..][..classes], &data.class_names));
            }
            let len = data.image(0).len();
            *cell = Cell { pixels: batch.images[position * len..][..len].to_vec(), lines };
        }
    }
    cells
}

const UNCHANGED: &str = "unchanged";

fn describe_steps(steps: impl IntoIterator<Item = DrawnStep>) -> Vec<Line> {
    let both = |step: DrawnStep| [Line::bold(step.op, ACCENT), Line::new(step.parameters, INK)];
    let lines: Vec<Line> = steps.into_iter().flat_map(both).collect();
    if lines.is_empty() { vec![Line::new(UNCHANGED, PALE_INK)] } else { lines }
}

/// The classes with at least half a per cent of a mixed label, the largest share first.
fn describe_label(shares: &[f32], names: &[String]) -> Vec<Line> {
    let mut classes: Vec<(f32, &String)> =
        shares.iter().copied().zip(names).filter(|(share, _)| *share >= 0.005).collect();
    classes.sort_by(|a, b| b.0.total_cmp(&a.0));
    classes.iter().map(|(share, name)| Line::new(format!("{:.0} % {name}", 100.0 * share), SOFT_INK)).collect()
}

/// Draws the cells of all columns on a sheet. The longest text of a row decides its height.
fn layout(
    header_lines: Vec<Line>,
    titles: &[String],
    columns: Vec<Vec<Cell>>,
    [height, width, channels]: [usize; 3],
) -> Result<Sheet, PreviewError> {
    let scale = scale_for(height, width, TARGET);
    let cell_width = (width * scale).max(LEAST_CHARACTERS * CHARACTER);
    let characters = cell_width / CHARACTER;
    let columns: Vec<Vec<Cell>> = columns
        .into_iter()
        .map(|column| {
            let wrap = |cell: Cell| Cell {
                lines: cell.lines.into_iter().flat_map(|line| line.wrapped(characters)).collect(),
                ..cell
            };
            column.into_iter().map(wrap).collect()
        })
        .collect();
    let left = |column: usize| MARGIN + column * (cell_width + GAP);
    let sheet_width = left(columns.len()) - GAP + MARGIN;
    let header = header(header_lines, sheet_width);

    let top = MARGIN + header.len() * LINE + GAP;
    let rows = columns.first().map_or(0, Vec::len);
    let text_height = |row: usize| columns.iter().map(|column| column[row].lines.len()).max().unwrap_or(0) * LINE;
    let row_height = |row: usize| GAP + height * scale + LINE / 4 + text_height(row) + GAP / 2;
    let below_titles = top + LINE + LINE / 4;
    let sheet_height = below_titles + (0..rows).map(row_height).sum::<usize>() + MARGIN / 2;
    let mut sheet = Sheet::new(sheet_width, sheet_height)?;
    sheet.text(MARGIN, MARGIN, &header);
    for (column, title) in titles.iter().enumerate() {
        sheet.text(left(column), top, &[Line::bold(title, SOFT_INK)]);
    }
    let mut y = below_titles;
    for row in 0..rows {
        sheet.rule(y);
        for (column, cells) in columns.iter().enumerate() {
            let Cell { pixels, lines } = &cells[row];
            sheet.image(left(column), y + GAP, scale, Image { pixels, width, channels });
            sheet.text(left(column), y + GAP + height * scale + LINE / 4, lines);
        }
        y += row_height(row);
    }
    Ok(sheet)
}
