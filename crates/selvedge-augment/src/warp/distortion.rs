//! Optical and grid distortion.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use crate::canvas::Canvas;
use crate::check::Check;
use crate::error::AugmentError;
use crate::operation::{Operation, Transform};
use crate::parameter::{Limit, Padding};
use crate::resample::{Border, Interpolation};
use crate::shape::ImageShape;
use crate::stream::Stream;
use crate::vectors::GROUP;

/// Distorts the image like a lens: barrel or pincushion.
///
/// Source: Albumentations `OpticalDistortion(distort_limit=(-0.05, 0.05), mode="camera", p=0.5)`, which draws the
/// coefficient uniformly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OpticalDistortion {
    /// The coefficient: `[low, high]`, or a number x for `[-x, x]`; from -2 to 2. Usual values are up to 0.05 for the
    /// camera and 0.3 for the fisheye.
    pub distort_limit: Limit,
    /// The model of the lens.
    pub mode: OpticalModel,
    /// How the image is continued beyond its edges.
    pub padding: Padding,
    /// The value of zero padding, from 0 to 255.
    pub fill: u8,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// The models of [`OpticalDistortion`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpticalModel {
    /// OpenCV's camera model with both radial coefficients k: the distance r from the centre, in units of the sides,
    /// becomes r (1 + k r² + k r⁴).
    #[default]
    Camera,
    /// The distance r from the centre, in units of the largest, becomes r (1 + k r²).
    Fisheye,
}

/// The coefficient of the lens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OpticalDrawn(pub f32);

/// The largest number of cells along a side of [`GridDistortion`].
pub const MAX_GRID_STEPS: usize = 31;

/// Stretches and compresses the columns and the rows of a grid of cells.
///
/// Source: Albumentations `GridDistortion(num_steps=5, distort_limit=(-0.3, 0.3), normalized=True, p=0.5)`: the width
/// of each column, and likewise the height of each row, is multiplied by 1 + a number drawn uniformly. If a side is not
/// a multiple of `num_steps`, one more, smaller cell follows at the end. It always extends to the edge; Albumentations
/// leaves out some pixels if the remainder has fewer than half as many pixels as there are cells.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GridDistortion {
    /// Cells along each side, from 1 to 31 and to the smaller side of the image.
    pub num_steps: usize,
    /// The relative growth of a cell: `[low, high]`, or a number x for `[-x, x]`; from -1 to 1.
    pub distort_limit: Limit,
    /// Whether the cells are scaled so that together they have the size of the image.
    pub normalized: bool,
    /// How the image is continued beyond its edges, which only cells that are not normalized reach.
    pub padding: Padding,
    /// The value of zero padding, from 0 to 255.
    pub fill: u8,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// The factors of the sizes of the cells: `num_steps`, and one for the smaller cell at the end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GridDrawn {
    /// Widths of the columns.
    pub x: [f32; MAX_GRID_STEPS + 1],
    /// Heights of the rows.
    pub y: [f32; MAX_GRID_STEPS + 1],
}

impl Default for OpticalDistortion {
    fn default() -> Self {
        OpticalDistortion {
            distort_limit: Limit::around(0.05),
            mode: OpticalModel::Camera,
            padding: Padding::Zero,
            fill: 0,
            p: 0.5,
        }
    }
}

impl Default for GridDistortion {
    fn default() -> Self {
        GridDistortion {
            num_steps: 5,
            distort_limit: Limit::around(0.3),
            normalized: true,
            padding: Padding::Zero,
            fill: 0,
            p: 0.5,
        }
    }
}

impl Display for OpticalDrawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "k {:.3}", self.0)
    }
}

impl Display for GridDrawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, factors: &[f32]| {
            factors.iter().take_while(|factor| **factor > 0.0).try_for_each(|factor| write!(f, " {factor:.2}"))
        };
        f.write_str("columns")?;
        list(f, &self.x)?;
        f.write_str(", rows")?;
        list(f, &self.y)
    }
}

impl Operation for OpticalDistortion {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, _: ImageShape) -> Result<(), AugmentError> {
        check.span("distort_limit", self.distort_limit.0, -2.0..=2.0)
    }
}

impl Transform for OpticalDistortion {
    type Drawn = OpticalDrawn;

    fn draw(&self, rng: &mut Stream, _: ImageShape) -> OpticalDrawn {
        OpticalDrawn(self.distort_limit.0.draw(rng))
    }

    fn apply(&self, &OpticalDrawn(k): &OpticalDrawn, canvas: &mut Canvas) {
        let ImageShape { height, width, .. } = canvas.shape();
        let (width, height) = (width as f32, height as f32);
        let border = Border { padding: self.padding, fill: self.fill };
        match self.mode {
            // OpenCV puts the centre of the new camera's image at (side - 1) / 2; Albumentations gives side / 2 for the
            // old.
            OpticalModel::Camera => canvas.warp(
                border,
                Interpolation::Bilinear,
                #[inline(always)]
                move |row, first, xs, ys| {
                    let v = (row as f32 - (height - 1.0) / 2.0) / height;
                    for (i, (x, y)) in xs.iter_mut().zip(ys).enumerate() {
                        let u = ((first + i) as i32 as f32 - (width - 1.0) / 2.0) / width;
                        let square = u * u + v * v;
                        let factor = 1.0 + (k * square + k) * square;
                        *x = u * factor * width + width / 2.0;
                        *y = v * factor * height + height / 2.0;
                    }
                },
            ),
            OpticalModel::Fisheye => {
                let (middle_x, middle_y) = (width / 2.0, height / 2.0);
                let strength = k / (middle_x * middle_x + middle_y * middle_y);
                canvas.warp(
                    border,
                    Interpolation::Bilinear,
                    #[inline(always)]
                    move |row, first, xs, ys| {
                        let v = row as f32 - middle_y;
                        for (i, (x, y)) in xs.iter_mut().zip(ys).enumerate() {
                            let u = (first + i) as i32 as f32 - middle_x;
                            let factor = 1.0 + strength * (u * u + v * v);
                            *x = u * factor + middle_x;
                            *y = v * factor + middle_y;
                        }
                    },
                );
            }
        }
    }
}

impl Operation for GridDistortion {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, shape: ImageShape) -> Result<(), AugmentError> {
        check.number("num_steps", self.num_steps, 1..=MAX_GRID_STEPS.min(shape.height).min(shape.width))?;
        check.span("distort_limit", self.distort_limit.0, -1.0..=1.0)
    }
}

impl Transform for GridDistortion {
    type Drawn = GridDrawn;

    fn draw(&self, rng: &mut Stream, _: ImageShape) -> GridDrawn {
        let mut factors = || {
            let mut factors = [0.0; MAX_GRID_STEPS + 1];
            factors[..=self.num_steps].fill_with(|| 1.0 + self.distort_limit.0.draw(rng));
            factors
        };
        GridDrawn { x: factors(), y: factors() }
    }

    fn apply(&self, drawn: &GridDrawn, canvas: &mut Canvas) {
        let ImageShape { height, width, .. } = canvas.shape();
        // All rows have the same column positions, and all columns the same row positions.
        let mut positions = std::mem::take(&mut canvas.scratch_mut().positions);
        let groups = width.next_multiple_of(GROUP);
        positions.resize(groups + height, 0.0);
        let (columns, rows) = positions.split_at_mut(groups);
        self.positions(&drawn.x[..=self.num_steps], &mut columns[..width]);
        self.positions(&drawn.y[..=self.num_steps], rows);
        let border = Border { padding: self.padding, fill: self.fill };
        let (columns, rows) = (&*columns, &*rows);
        canvas.warp(
            border,
            Interpolation::Bilinear,
            #[inline(always)]
            move |row, column, xs, ys| {
                xs.copy_from_slice(&columns[column..][..GROUP]);
                ys.fill(rows[row]);
            },
        );
        canvas.scratch_mut().positions = positions;
    }
}

impl GridDistortion {
    /// The position that each column (or row) of the result shows: cells follow one another, and the first and last
    /// pixels of each are at its ends.
    fn positions(&self, factors: &[f32], positions: &mut [f32]) {
        let len = positions.len();
        let cell = len / self.num_steps;
        let rest = len - self.num_steps * cell;
        let scale = if self.normalized {
            let (last, whole) = (factors[self.num_steps], &factors[..self.num_steps]);
            let sum = whole.iter().sum::<f32>() + last * rest as f32 / cell as f32;
            len as f32 / cell as f32 / sum
        } else {
            1.0
        };
        let mut start = 0.0;
        for (index, &factor) in factors.iter().enumerate() {
            let is_last = index == self.num_steps;
            // Normalizing shortens the last cell; without it the cell is as long as the others and clipped.
            let share = if is_last && self.normalized { rest as f32 / cell as f32 } else { 1.0 };
            let end = start + cell as f32 * factor * share * scale;
            let covered = if is_last { index * cell..len } else { index * cell..(index + 1) * cell };
            let steps = covered.len().saturating_sub(1).max(1) as f32;
            for (step, position) in positions[covered].iter_mut().enumerate() {
                *position = start + (end - start) * (step as f32 / steps);
            }
            start = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::EpochKey;

    const SHAPE: ImageShape = ImageShape { height: 28, width: 28, channels: 1 };

    fn drawn(grid: &GridDistortion, sample: u32) -> GridDrawn {
        grid.draw(&mut Stream::for_sample(EpochKey { seed: 0, epoch: 0 }, sample).fork(0), SHAPE)
    }

    #[test]
    fn normalized_cells_fill_the_image_and_never_run_backwards() {
        let grid = GridDistortion::default();
        for sample in 0..200 {
            let factors = drawn(&grid, sample);
            for len in [5, 9, 28, 31] {
                let mut positions = vec![0.0; len];
                grid.positions(&factors.x[..=5], &mut positions);
                assert_eq!(positions[0], 0.0);
                assert!(positions.windows(2).all(|pair| pair[0] <= pair[1] + 1e-4), "{positions:?}");
                assert!(positions[len - 1] <= len as f32 + 1e-3, "{positions:?}");
            }
        }
    }

    #[test]
    fn factors_are_uniform_in_the_limit() {
        let grid = GridDistortion::default();
        let (mut mean, mut square) = (0.0, 0.0);
        for sample in 0..5000 {
            for factor in &drawn(&grid, sample).y[..=5] {
                assert!((0.7..=1.3).contains(factor));
                mean += f64::from(factor - 1.0) / 30_000.0;
                square += f64::from(factor - 1.0).powi(2) / 30_000.0;
            }
        }
        assert!(mean.abs() < 0.005 && (square - 0.03).abs() < 0.001, "{mean} {square}");
    }

    #[test]
    fn more_cells_than_pixels_are_refused() {
        let grid = GridDistortion { num_steps: 9, ..GridDistortion::default() };
        let shape = ImageShape { height: 8, width: 28, channels: 1 };
        let message = grid.validate(shape).unwrap_err().to_string();
        assert!(message.contains("num_steps = 9") && message.contains("from 1 to 8"), "{message}");
    }
}
