//! [`ModelSpec::summary`]: the network as a table, with the columns that Keras prints and one for the work.

use std::fmt::Write;

use crate::spec::ModelSpec;
use crate::spec::error::ModelError;
use crate::spec::inference::{LayerShape, NetworkShape};
use crate::spec::layer::LayerSpec;
use crate::spec::shape::Shape;

impl ModelSpec {
    /// The network as a table: each layer with its output shape, parameters and multiply-adds of one image's forward
    /// pass, and the totals. Running statistics of batch norms and frozen weights count as parameters that are not trained, as in
    /// Keras.
    ///
    /// # Errors
    /// If the layers do not fit together (as [`ModelError::Layer`]).
    pub fn summary(&self) -> Result<String, ModelError> {
        let shape = NetworkShape::infer(self)?;
        let mut rows = vec![["Layer (type)", "Output Shape", "Param #", "Multiply-Adds"].map(str::to_owned)];
        rows.push(["input (Input)".to_owned(), tuple(shape.input.logical), "0".to_owned(), "0".to_owned()]);
        add_rows(&mut rows, &self.layers, &shape.layers, &shape, 0);
        let trained = shape.trained_count();
        let fixed = shape.param_count() - trained + shape.buffer_count();
        Ok(table(&rows)
            + &format!(
                "Total params: {} ({})\nTrainable params: {} ({})\nNon-trainable params: {} ({})\n\
                 Multiply-adds per image: {}\n",
                grouped(trained + fixed),
                bytes(trained + fixed),
                grouped(trained),
                bytes(trained),
                grouped(fixed),
                bytes(fixed),
                grouped(shape.multiply_adds())
            ))
    }

    /// The number of trained parameters: weights that are not frozen, biases, gammas and betas.
    ///
    /// # Errors
    /// If the layers do not fit together (as [`ModelError::Layer`]).
    pub fn parameters(&self) -> Result<usize, ModelError> {
        NetworkShape::infer(self).map(|shape| shape.trained_count())
    }

    /// Multiply-adds of one image's forward pass through convolutions and dense layers. A training step takes about
    /// three times as many.
    ///
    /// # Errors
    /// If the layers do not fit together (as [`ModelError::Layer`]).
    pub fn multiply_adds(&self) -> Result<usize, ModelError> {
        NetworkShape::infer(self).map(|shape| shape.multiply_adds())
    }
}

type Row = [String; 4];

fn add_rows(rows: &mut Vec<Row>, specs: &[LayerSpec], layers: &[LayerShape], shape: &NetworkShape, depth: usize) {
    for (spec, layer) in specs.iter().zip(layers) {
        let name = format!("{:indent$}{} ({})", "", layer.name, spec.title(), indent = 2 * depth);
        // A block's own row has no numbers, because its layers follow with theirs: the column adds up to the total.
        let (params, work) = match spec {
            LayerSpec::Residual { .. } => (String::new(), String::new()),
            _ => {
                let params = shape.params[layer.params.clone()].iter().map(|param| param.array.len());
                let buffers = shape.buffers[layer.buffers.clone()].iter().map(|buffer| buffer.len());
                (grouped(params.chain(buffers).sum()), grouped(layer.multiply_adds()))
            }
        };
        rows.push([name, tuple(layer.output.logical), params, work]);
        if let LayerSpec::Residual { layers, .. } = spec {
            add_rows(rows, layers, &layer.body, shape, depth + 1);
        }
    }
}

/// The first two columns to the left, numbers to the right.
fn table(rows: &[Row]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let [name, shape, params, work] = [width(0), width(1), width(2), width(3)];
    let line = name + shape + params + work + 6;
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let [a, b, c, d] = row;
        let row = format!("{a:name$}  {b:shape$}  {c:>params$}  {d:>work$}");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", row.trim_end());
        if index == 0 {
            let _ = writeln!(text, "{}", "=".repeat(line));
        }
    }
    let _ = writeln!(text, "{}", "=".repeat(line));
    text
}

fn tuple(shape: Shape) -> String {
    match shape {
        Shape::Image { height, width, channels } => format!("(None, {height}, {width}, {channels})"),
        Shape::Features(count) => format!("(None, {count})"),
    }
}

/// Digits in groups of three.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The size of that many f32.
fn bytes(count: usize) -> String {
    const UNITS: [&str; 4] = ["B", "KB", "MB", "GB"];
    let mut size = 4.0 * count as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.2} {}", UNITS[unit])
}

#[cfg(test)]
mod tests;
