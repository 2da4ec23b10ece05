//! [`Report::table`]: the report as text.

use std::fmt::Write;

use selvedge_model::Operands;

use super::{Bandwidths, Bound, Figure, Limits, Peaks, RecipeProfile, Report};

impl Report {
    /// The report as aligned text.
    pub fn table(&self) -> String {
        let threads = if self.threads == 1 { "thread" } else { "threads" };
        let mut text = format!("{}, {}, {} {threads}\n\n", self.cpu, self.isa, self.threads);
        text += &peaks(&self.peaks);
        if !self.operations.is_empty() {
            text.push('\n');
            text += &operations(self);
        }
        if let Some(recipe) = &self.recipe {
            text.push('\n');
            text += &steps(recipe);
        }
        text
    }
}

fn peaks(peaks: &Peaks) -> String {
    let columns: &[&Limits] = match peaks.all_threads.threads {
        1 => &[&peaks.one_thread],
        _ => &[&peaks.one_thread, &peaks.all_threads],
    };
    let mut rows = vec![vec!["peak".to_owned()]];
    rows[0].extend(columns.iter().map(|limits| match limits.threads {
        1 => "1 thread".to_owned(),
        count => format!("{count} threads"),
    }));
    let mut row = |name: &str, unit: &str, value: &dyn Fn(&Limits) -> Option<f64>| {
        let cell =
            |limits: &&Limits| value(limits).map_or("-".to_owned(), |value| format!("{} {unit}", billions(value)));
        rows.push(std::iter::once(name.to_owned()).chain(columns.iter().map(cell)).collect());
    };
    row("f32 multiply-adds in registers", "GFLOP/s", &|limits| Some(limits.f32_flops));
    row("bf16 products in tiles", "GFLOP/s", &|limits| limits.bf16_flops);
    type Place = (&'static str, fn(&Bandwidths) -> f64);
    let places: [Place; 3] = [("L1", |b| b.l1), ("L2", |b| b.l2), ("beyond", |b| b.beyond)];
    for (name, of) in places {
        row(&format!("{name} read"), "GB/s", &|limits| Some(of(&limits.read)));
        row(&format!("{name} copy"), "GB/s", &|limits| Some(of(&limits.copy)));
    }
    let (l1, l2) = (peaks.l1_bytes >> 10, peaks.l2_bytes >> 10);
    align(&rows, &[false]) + &format!("L1 has {l1} KiB, L2 {l2} KiB a core; a copy counts bytes read and written.\n")
}

fn operations(report: &Report) -> String {
    let header = [
        "operation",
        "shape",
        "batch",
        "pass",
        "type",
        "path",
        "time",
        "GFLOP/s",
        "nominal",
        "GB/s",
        "FLOP/B",
        "bound",
        "share",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for row in &report.operations {
        let figure = &row.figure;
        rows.push(vec![
            row.operation.clone(),
            row.shape.clone(),
            if row.batch == 0 { "-".to_owned() } else { row.batch.to_string() },
            row.pass.clone(),
            row.precision.clone(),
            row.path.clone(),
            time(figure.seconds),
            billions(figure.flops_per_second),
            billions(figure.nominal_flops_per_second),
            billions(figure.bytes_per_second),
            number(figure.intensity),
            bound(figure.bound).to_owned(),
            percent(figure.share),
        ]);
    }
    let mut text = align(&rows, &[false, false, true, false, false, false]);
    let relu = Some(Operands::Relu.name());
    if report.operations.iter().any(|row| row.operands.as_deref() == relu) {
        text += "Half of the operands of convolutions and dense layers are zero, as after a ReLU.\n";
    }
    text
}

fn steps(recipe: &RecipeProfile) -> String {
    let RecipeProfile { recipe: name, precision, batch, threads, step, .. } = recipe;
    let mut text = format!(
        "recipe {name}, {precision}, batch {batch}: a step takes {} on {threads} {}, {:.0} images/s\n\n",
        time(step.step),
        if *threads == 1 { "thread" } else { "threads" },
        recipe.images_per_second,
    );
    let header =
        ["layer", "input", "output", "path", "forward", "GFLOP/s", "share", "backward", "GFLOP/s", "share", "of step"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let of_step = |seconds: f64| percent(seconds / step.step);
    let shape = |[h, w, c]: [usize; 3]| format!("{h}x{w}x{c}");
    for layer in &recipe.layers {
        let cells = |figure: &Figure| match figure.bytes {
            // The operation has no work in this direction.
            0 => [time(figure.seconds), "-".to_owned(), "-".to_owned()],
            _ => [time(figure.seconds), billions(figure.flops_per_second), percent(figure.share)],
        };
        let mut row = vec![layer.name.clone(), shape(layer.input), shape(layer.output), layer.path.clone()];
        row.extend(cells(&layer.forward).into_iter().chain(cells(&layer.backward)));
        row.push(of_step(layer.forward.seconds + layer.backward.seconds));
        rows.push(row);
    }
    text += &align(&rows, &[false, false, false, false]);
    text.push('\n');
    let parts = [
        ("layers, forward", step.forward),
        ("layers, backward", step.backward),
        ("pixels to input", step.input),
        ("loss", step.loss),
        ("weight packing", step.packing),
        ("gradient sums", step.gradient_sums),
        ("augmentation", step.augmentation),
        ("update", step.update),
        ("left over (waiting)", step.left_over),
        ("step", step.step),
    ];
    let mut rows = vec![["part of a step", "time", "of step"].map(str::to_owned).to_vec()];
    rows.extend(parts.map(|(name, seconds)| vec![name.to_owned(), time(seconds), of_step(seconds)]));
    text += &align(&rows, &[false]);
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "Times are those of all threads, summed and divided by {threads}; averages of {} steps. A step \
         without\naugmentation takes {} less.",
        recipe.steps,
        time(step.exposed_augmentation),
    );
    text
}

/// Aligns columns: to the left if `to_the_right` says false, else, and beyond its end, to the right.
fn align(rows: &[Vec<String>], to_the_right: &[bool]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            let _ = match to_the_right.get(column).copied().unwrap_or(true) {
                true => write!(line, "{gap}{cell:>width$}"),
                false => write!(line, "{gap}{cell:width$}"),
            };
        }
        text += line.trim_end();
        text.push('\n');
        if number == 0 {
            text += &"=".repeat(widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1));
            text.push('\n');
        }
    }
    text
}

/// A duration in a unit that suits it.
pub(super) fn time(seconds: f64) -> String {
    match seconds.abs() {
        s if s >= 1.0 => format!("{seconds:.2} s "),
        s if s >= 1e-3 => format!("{:.2} ms", seconds * 1e3),
        s if s >= 1e-6 => format!("{:.1} µs", seconds * 1e6),
        _ => format!("{:.0} ns", seconds * 1e9),
    }
}

/// In billions, with about three digits.
pub(super) fn billions(value: f64) -> String {
    number(value / 1e9)
}

fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn bound(bound: Bound) -> &'static str {
    match bound {
        Bound::Compute => "compute",
        Bound::L1 => "L1",
        Bound::L2 => "L2",
        Bound::Beyond => "beyond",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_aligned_to_the_left_and_numbers_to_the_right() {
        let rows = [vec!["name", "time"], vec!["a", "1.00 ms"], vec!["longer", "10.00 ms"]];
        let rows = rows.map(|row| row.into_iter().map(str::to_owned).collect());
        let expected = "name        time\n================\na        1.00 ms\nlonger  10.00 ms\n";
        assert_eq!(align(&rows, &[false]), expected);
    }

    #[test]
    fn units_suit_the_numbers() {
        assert_eq!([2.5, 2.5e-3, 2.5e-6, 2.5e-8].map(time), ["2.50 s ", "2.50 ms", "2.5 µs", "25 ns"]);
        assert_eq!([3.4e12, 42.0e9, 1.5e9].map(billions), ["3400", "42.0", "1.50"]);
        assert_eq!(percent(0.4567), "45.7 %");
    }
}
