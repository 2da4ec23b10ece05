//! The roofline plot (Williams, Waterman and Patterson, 2009) of a report, as SVG.
//!
//! Every measurement is a point on logarithmic axes: operations per byte moved to the right, operations per second upwards.
//! The roofs are the machine's limits: horizontal for arithmetic, sloping for the bandwidth of each cache and of what lies
//! beyond. The distance of a point to its roof is the possible gain.

mod labels;

use std::fmt::Write;

use labels::{Area, Labels};

use super::{Figure, Level, Report};

const WIDTH: f64 = 1180.0;
const HEIGHT: f64 = 700.0;
/// The area of the plot.
const PLOT: Area = Area { left: 78.0, top: 62.0, right: 838.0, bottom: 634.0 };
/// The left edge of the list of operations, and the distance of its lines.
const LIST: (f64, f64) = (866.0, 19.0);
/// The most characters of a line of the list.
const LIST_LETTERS: usize = 42;

const F32: &str = "#1d5fad";
const BF16: &str = "#c2410c";
const MEMORY: &str = "#52616b";
const INK: &str = "#1a1a1a";

/// A measurement in the plot.
struct Point<'a> {
    /// The number in the list.
    number: usize,
    pass: &'a str,
    is_bf16: bool,
    figure: &'a Figure,
}

/// Plots a report's operations, or its recipe's layers if it has none, on a white background, which stays readable in dark
/// pages.
pub fn draw(report: &Report) -> String {
    let (names, points) = points(report);
    let axes = Axes::of(report, &points);
    let mut svg = Svg::default();
    svg.header(report, &axes);
    let mut labels = Labels::new(PLOT);
    svg.roofs(report, &axes, &mut labels);
    svg.points(&points, &axes, &mut labels);
    svg.list(&names, &points);
    svg.text + "</svg>\n"
}

/// The lines of the list, and the points.
fn points(report: &Report) -> (Vec<String>, Vec<Point<'_>>) {
    let mut names: Vec<String> = Vec::new();
    let mut points = Vec::new();
    for row in &report.operations {
        let name = format!("{} {}", row.operation, row.shape);
        let number = names.iter().position(|known| *known == name).unwrap_or_else(|| {
            names.push(name);
            names.len() - 1
        });
        points.push(Point { number, pass: &row.pass, is_bf16: row.precision == "bf16", figure: &row.figure });
    }
    if let (true, Some(recipe)) = (report.operations.is_empty(), &report.recipe) {
        for (number, layer) in recipe.layers.iter().enumerate() {
            names.push(layer.name.clone());
            for (pass, figure) in [("forward", &layer.forward), ("backward", &layer.backward)] {
                points.push(Point { number, pass, is_bf16: layer.precision == "bf16", figure });
            }
        }
    }
    // Logarithmic axes have no place for zeros.
    points.retain(|point| point.figure.intensity > 0.0 && point.figure.flops_per_second > 0.0);
    (names, points)
}

/// The ranges of the axes, as powers of ten.
struct Axes {
    x: [f64; 2],
    y: [f64; 2],
}

impl Axes {
    fn of(report: &Report, points: &[Point<'_>]) -> Self {
        let limits = &report.peaks.all_threads;
        let range = |values: &mut dyn Iterator<Item = f64>, least: [f64; 2]| {
            values.map(f64::log10).fold(least.map(f64::log10), |[low, high], x| [low.min(x), high.max(x)])
        };
        let x = range(&mut points.iter().map(|point| point.figure.intensity), [0.1, 100.0]);
        let peak = limits.bf16_flops.unwrap_or(limits.f32_flops).max(limits.f32_flops);
        let y = range(&mut points.iter().map(|point| point.figure.flops_per_second), [peak / 1e3, peak]);
        Self { x: [x[0] - 0.15, x[1] + 0.15], y: [y[0] - 0.15, y[1] + 0.25] }
    }

    fn x(&self, intensity: f64) -> f64 {
        let [low, high] = self.x;
        PLOT.left + (intensity.log10() - low) / (high - low) * (PLOT.right - PLOT.left)
    }

    fn y(&self, flops: f64) -> f64 {
        let [low, high] = self.y;
        PLOT.bottom - (flops.log10() - low) / (high - low) * (PLOT.bottom - PLOT.top)
    }

    /// The slope of a line of constant bandwidth, in degrees.
    fn slope(&self) -> f64 {
        let across = (PLOT.right - PLOT.left) / (self.x[1] - self.x[0]);
        let up = (PLOT.bottom - PLOT.top) / (self.y[1] - self.y[0]);
        up.atan2(across).to_degrees()
    }
}

/// The picture so far.
#[derive(Default)]
struct Svg {
    text: String,
}

impl Svg {
    fn push(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{line}");
    }

    fn words(&mut self, x: f64, y: f64, attributes: &str, words: &str) {
        self.push(format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{}</text>", escaped(words)));
    }

    fn line(&mut self, from: [f64; 2], to: [f64; 2], attributes: &str) {
        let ([x1, y1], [x2, y2]) = (from, to);
        self.push(format_args!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" {attributes}/>"));
    }

    /// Background, title, frame, grid and axes.
    fn header(&mut self, report: &Report, axes: &Axes) {
        let Area { left, top, right, bottom } = PLOT;
        self.push(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
             viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"13\" fill=\"{INK}\">"
        ));
        self.push(format_args!("<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>"));
        let threads = if report.threads == 1 { "thread" } else { "threads" };
        let machine = format!("{}, {}, {} {threads}", report.cpu, report.isa, report.threads);
        let title = match &report.recipe {
            Some(recipe) if report.operations.is_empty() => {
                format!("Roofline of the layers of recipe {}", recipe.recipe)
            }
            _ => "Roofline of the operations".to_owned(),
        };
        self.words(left, 28.0, "font-size=\"18\" font-weight=\"bold\"", &title);
        self.words(left, 48.0, "fill=\"#444444\"", &machine);
        for power in axes.x[0].ceil() as i32..=axes.x[1].floor() as i32 {
            let x = axes.x(10f64.powi(power));
            self.line([x, top], [x, bottom], "stroke=\"#e4e7ea\"");
            self.words(x, bottom + 19.0, "text-anchor=\"middle\"", &power_of_ten(power));
        }
        for power in axes.y[0].ceil() as i32..=axes.y[1].floor() as i32 {
            let y = axes.y(10f64.powi(power));
            self.line([left, y], [right, y], "stroke=\"#e4e7ea\"");
            self.words(left - 8.0, y + 4.5, "text-anchor=\"end\"", &power_of_ten(power - 9));
        }
        let (width, height) = (right - left, bottom - top);
        self.push(format_args!(
            "<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"#8a949b\"/>"
        ));
        let middle = (left + right) / 2.0;
        self.words(middle, bottom + 44.0, "text-anchor=\"middle\" font-size=\"14\"", "operations per byte moved");
        let (x, y) = (24.0, (top + bottom) / 2.0);
        let turned = format!("text-anchor=\"middle\" font-size=\"14\" transform=\"rotate(-90 {x} {y})\"");
        self.words(x, y, &turned, "GFLOP/s");
    }

    fn roofs(&mut self, report: &Report, axes: &Axes, labels: &mut Labels) {
        let limits = &report.peaks.all_threads;
        let peak = limits.f32_flops.max(limits.bf16_flops.unwrap_or(0.0));
        let [first, last] = axes.x.map(|power| 10f64.powf(power));
        let slope = axes.slope();
        for (level, name) in [(Level::L1, "L1"), (Level::L2, "L2"), (Level::Beyond, "beyond L2")] {
            let bandwidth = limits.bandwidth(level);
            // The line runs from the edge of the plot to the highest roof.
            let from = first.max(10f64.powf(axes.y[0]) / bandwidth);
            let to = last.min(peak / bandwidth);
            if from >= to {
                continue;
            }
            let ends = [from, to].map(|x| [axes.x(x), axes.y(bandwidth * x)]);
            self.line(ends[0], ends[1], &format!("stroke=\"{MEMORY}\" stroke-width=\"1.6\" stroke-dasharray=\"6 4\""));
            let words = format!("{name} {} GB/s", super::table::billions(bandwidth));
            // The words end at the roof, where there are fewer points than at the other end.
            let length = labels::width(&words, 12.0);
            let (sin, cos) = slope.to_radians().sin_cos();
            let along = length + 16.0;
            let [x, y] = [ends[1][0] - along * cos - 6.0 * sin, ends[1][1] + along * sin - 6.0 * cos];
            let turned = format!("fill=\"{MEMORY}\" font-size=\"12\" transform=\"rotate(-{slope:.1} {x:.1} {y:.1})\"");
            self.words(x, y, &turned, &words);
            labels.occupy_slope([x, y], length, slope, [6.0, 4.0]);
            let whole = (ends[1][0] - ends[0][0]).hypot(ends[1][1] - ends[0][1]);
            labels.occupy_slope(ends[0], whole, slope, [2.0, 0.0]);
        }
        let arithmetic = [("f32", Some(limits.f32_flops), F32), ("bf16", limits.bf16_flops, BF16)];
        for (name, flops, colour) in arithmetic {
            let Some(flops) = flops else { continue };
            let y = axes.y(flops);
            let from = axes.x(first.max(flops / limits.bandwidth(Level::L1)));
            self.line([from, y], [PLOT.right, y], &format!("stroke=\"{colour}\" stroke-width=\"2\""));
            let words = format!("{name} peak {} GFLOP/s", super::table::billions(flops));
            let attributes = format!("fill=\"{colour}\" font-weight=\"bold\" text-anchor=\"end\"");
            self.words(PLOT.right - 8.0, y - 7.0, &attributes, &words);
            let width = labels::width(&words, 14.0);
            let right = PLOT.right - 8.0;
            labels.occupy(Area { left: right - width, top: y - 20.0, right, bottom: y - 3.0 });
        }
    }

    fn points(&mut self, points: &[Point<'_>], axes: &Axes, labels: &mut Labels) {
        let places: Vec<[f64; 2]> = points
            .iter()
            .map(|point| [axes.x(point.figure.intensity), axes.y(point.figure.flops_per_second)])
            .collect();
        places.iter().for_each(|&place| labels.occupy(Area::around(place, 6.0)));
        for (point, &place) in points.iter().zip(&places) {
            let number = (point.number + 1).to_string();
            let label = labels.place(place, labels::width(&number, 11.0), 11.0);
            if label.is_far {
                self.line(place, label.nearest, "stroke=\"#9aa3a9\" stroke-width=\"0.8\"");
            }
            let [x, y] = label.baseline;
            self.words(x, y, "font-size=\"11\"", &number);
        }
        // Drawn over the lines to the labels.
        for (point, &place) in points.iter().zip(&places) {
            self.marker(place, point.pass, if point.is_bf16 { BF16 } else { F32 });
        }
    }

    fn marker(&mut self, [x, y]: [f64; 2], pass: &str, colour: &str) {
        let style = format!("fill=\"{colour}\" fill-opacity=\"0.75\" stroke=\"#ffffff\" stroke-width=\"0.8\"");
        let polygon = |corners: &[[f64; 2]]| {
            let corners: Vec<String> = corners.iter().map(|[dx, dy]| format!("{:.1},{:.1}", x + dx, y + dy)).collect();
            format!("<polygon points=\"{}\" {style}/>", corners.join(" "))
        };
        let shape = match pass {
            "backward_data" => polygon(&[[-4.5, -4.5], [4.5, -4.5], [4.5, 4.5], [-4.5, 4.5]]),
            "backward_weights" => polygon(&[[0.0, -6.0], [5.5, 4.5], [-5.5, 4.5]]),
            "backward" => polygon(&[[0.0, -6.0], [6.0, 0.0], [0.0, 6.0], [-6.0, 0.0]]),
            "update" => polygon(&[[-5.5, -4.5], [5.5, -4.5], [0.0, 6.0]]),
            _ => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" {style}/>"),
        };
        self.push(format_args!("{shape}"));
    }

    /// The legend: what numbers, shapes and colours mean.
    fn list(&mut self, names: &[String], points: &[Point<'_>]) {
        let (x, step) = LIST;
        let keys: Vec<&str> = ["forward", "backward_data", "backward_weights", "backward", "update"]
            .into_iter()
            .filter(|pass| points.iter().any(|point| point.pass == *pass))
            .collect();
        let types = [("f32", F32, false), ("bf16", BF16, true)];
        let types = types.into_iter().filter(|(_, _, is_bf16)| points.iter().any(|point| point.is_bf16 == *is_bf16));
        let types: Vec<(&str, &str, bool)> = types.collect();
        let mut y = PLOT.top + 6.0;
        for pass in &keys {
            self.marker([x + 6.0, y - 4.0], pass, "#3b444b");
            self.words(x + 20.0, y, "", &pass.replace('_', " "));
            y += step;
        }
        for (name, colour, _) in types {
            self.push(format_args!(
                "<rect x=\"{x}\" y=\"{:.1}\" width=\"12\" height=\"10\" fill=\"{colour}\"/>",
                y - 9.0
            ));
            self.words(x + 20.0, y, "", name);
            y += step;
        }
        y += step / 2.0;
        let step = step.min((HEIGHT - 14.0 - y) / names.len().max(1) as f64);
        let size = (step * 0.8).clamp(5.0, 12.5);
        for (index, name) in names.iter().enumerate() {
            let attributes = format!("font-size=\"{size:.1}\" text-anchor=\"end\" fill=\"#444444\"");
            self.words(x + 16.0, y, &attributes, &(index + 1).to_string());
            let shortened: String = match name.chars().count() {
                count if count > LIST_LETTERS => name.chars().take(LIST_LETTERS - 1).chain(['…']).collect(),
                _ => name.clone(),
            };
            self.words(x + 24.0, y, &format!("font-size=\"{size:.1}\""), &shortened);
            y += step;
        }
    }
}

/// 10 to that power in digits.
fn power_of_ten(power: i32) -> String {
    match power {
        0.. => format!("1{}", "0".repeat(power as usize)),
        _ => format!("0.{}1", "0".repeat((-power - 1) as usize)),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_written_out() {
        assert_eq!([-2, -1, 0, 3].map(power_of_ten), ["0.01", "0.1", "1", "1000"]);
    }

    #[test]
    fn names_cannot_break_the_markup() {
        assert_eq!(escaped("a<b> & \"c\""), "a&lt;b&gt; &amp; &quot;c&quot;");
    }
}
