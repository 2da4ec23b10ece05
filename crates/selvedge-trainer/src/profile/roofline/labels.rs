//! [`Labels`]: places labels beside their points, so that no label covers a point or another label.

/// A rectangle of the picture, in pixels from its upper left corner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Area {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

impl Area {
    /// The square around a point.
    pub(super) fn around([x, y]: [f64; 2], radius: f64) -> Self {
        Self { left: x - radius, top: y - radius, right: x + radius, bottom: y + radius }
    }

    /// The number of pixels that both cover.
    fn overlap(&self, other: &Self) -> f64 {
        let width = self.right.min(other.right) - self.left.max(other.left);
        let height = self.bottom.min(other.bottom) - self.top.max(other.top);
        width.max(0.0) * height.max(0.0)
    }

    fn contains(&self, other: &Self) -> bool {
        self.left <= other.left && self.top <= other.top && self.right >= other.right && self.bottom >= other.bottom
    }
}

/// The position of a label.
#[derive(Clone, Copy, Debug)]
pub(super) struct Label {
    /// The start of its baseline.
    pub(super) baseline: [f64; 2],
    /// Whether it is so far from its point that a line should lead to it, and where that line ends.
    pub(super) is_far: bool,
    pub(super) nearest: [f64; 2],
}

/// The occupied areas of the plot.
#[derive(Debug)]
pub(super) struct Labels {
    plot: Area,
    taken: Vec<Area>,
}

/// The approximate width of a text in a sans-serif font.
pub(super) fn width(text: &str, font_size: f64) -> f64 {
    0.56 * font_size * text.chars().count() as f64
}

impl Labels {
    pub(super) fn new(plot: Area) -> Self {
        Self { plot, taken: Vec::new() }
    }

    /// Keeps labels out of an area.
    pub(super) fn occupy(&mut self, area: Area) {
        self.taken.push(area);
    }

    /// Keeps labels off a line or text that starts at a point and rises by an angle in degrees. `radius` is half its thickness,
    /// `above` the distance of its middle above the line.
    pub(super) fn occupy_slope(&mut self, [x, y]: [f64; 2], length: f64, angle: f64, [radius, above]: [f64; 2]) {
        let (sin, cos) = angle.to_radians().sin_cos();
        let squares = (length / radius).ceil() as usize;
        for square in 0..=squares {
            let along = radius * square as f64;
            let centre = [x + along * cos - above * sin, y - along * sin - above * cos];
            self.taken.push(Area::around(centre, radius));
        }
    }

    /// Places a text of that width beside a point: the nearest free place, or else the one that covers least.
    pub(super) fn place(&mut self, point: [f64; 2], width: f64, font_size: f64) -> Label {
        const DIRECTIONS: usize = 16;
        let height = 0.8 * font_size;
        let mut best: Option<(f64, Label, Area)> = None;
        'search: for ring in 0..7 {
            let distance = 8.0 + 8.0 * f64::from(ring);
            for direction in 0..DIRECTIONS {
                // Starts at the upper right.
                let angle = std::f64::consts::TAU * (direction as f64 / DIRECTIONS as f64) - 0.6;
                let (sin, cos) = angle.sin_cos();
                let centre = [point[0] + (distance + width / 2.0) * cos, point[1] + (distance + height / 2.0) * sin];
                let area = Area {
                    left: centre[0] - width / 2.0 - 1.0,
                    top: centre[1] - height / 2.0 - 1.0,
                    right: centre[0] + width / 2.0 + 1.0,
                    bottom: centre[1] + height / 2.0 + 1.0,
                };
                if !self.plot.contains(&area) {
                    continue;
                }
                let covered: f64 = self.taken.iter().map(|taken| taken.overlap(&area)).sum();
                let label = Label {
                    baseline: [area.left + 1.0, area.bottom - 1.0],
                    is_far: ring > 0,
                    nearest: [point[0].clamp(area.left, area.right), point[1].clamp(area.top, area.bottom)],
                };
                if best.as_ref().is_none_or(|(least, ..)| covered < *least) {
                    best = Some((covered, label, area));
                }
                if covered == 0.0 {
                    break 'search;
                }
            }
        }
        match best {
            Some((_, label, area)) => {
                self.taken.push(area);
                label
            }
            // The plot is smaller than the label.
            None => Label { baseline: point, is_far: false, nearest: point },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLOT: Area = Area { left: 0.0, top: 0.0, right: 400.0, bottom: 300.0 };

    #[test]
    fn labels_of_crowded_points_cover_nothing() {
        let mut labels = Labels::new(PLOT);
        let points: Vec<[f64; 2]> =
            (0..24).map(|i| [200.0 + f64::from(i % 6) * 9.0, 150.0 + f64::from(i / 6) * 9.0]).collect();
        points.iter().for_each(|&point| labels.occupy(Area::around(point, 5.0)));
        let before = labels.taken.len();
        for &point in &points {
            labels.place(point, 12.0, 11.0);
        }
        let placed = &labels.taken[before..];
        assert_eq!(placed.len(), points.len());
        for (i, area) in placed.iter().enumerate() {
            assert!(PLOT.contains(area), "{area:?}");
            let others = labels.taken.iter().enumerate().filter(|(j, _)| *j != before + i);
            assert!(others.clone().all(|(_, other)| area.overlap(other) == 0.0), "label {i}");
        }
    }

    #[test]
    fn the_first_label_is_close_and_has_no_line() {
        let label = Labels::new(PLOT).place([200.0, 150.0], 12.0, 11.0);
        assert!(!label.is_far && label.baseline[0] > 200.0 && label.baseline[0] < 215.0, "{label:?}");
    }

    #[test]
    fn labels_of_corners_stay_inside() {
        let mut labels = Labels::new(PLOT);
        labels.place([399.0, 1.0], 12.0, 11.0);
        assert!(PLOT.contains(&labels.taken[0]), "{:?}", labels.taken[0]);
    }
}
