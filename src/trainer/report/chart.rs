//! Charts as SVG within the page: curves, changes from one point to another, intervals, bars.
//!
//! Drawn 400 units wide, which is about what a phone shows, so that their letters stay legible there; wider windows
//! put several side by side. Colours come from the page's style, for day and night. What is not finite is left out.

use super::html::{Html, number};

const WIDTH: f64 = 400.0;
/// Ends of what is drawn, from left to right …
const LEFT: f64 = 52.0;
const RIGHT: f64 = 374.0;
/// … and from top to bottom.
const TOP: f64 = 10.0;
const BOTTOM: f64 = 180.0;
/// Height of a row of a chart of rows.
const ROW: f64 = 26.0;
/// Points of a curve at most: more than that many cannot be told apart, and a long run has tens of thousands.
const MOST_POINTS: usize = 300;

/// Values from one number to another, on a length of the chart.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Axis {
    from: f64,
    to: f64,
    /// Distance of two ticks.
    step: f64,
    /// Ends on the chart.
    ends: [f64; 2],
}

impl Axis {
    /// Covers all values with round ticks, about so many; at least something.
    fn covering(values: impl Iterator<Item = f64>, ticks: f64, ends: [f64; 2]) -> Self {
        let finite = values.filter(|value| value.is_finite());
        let (least, most) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        let (least, most) = if least <= most { (least, most) } else { (0.0, 1.0) };
        let (width, size) = (most - least, most.abs().max(least.abs()));
        // Of one value there is no width: then a tenth of its size.
        let width = match width > size * 1e-6 {
            true => width,
            false if size > 0.0 => size / 10.0,
            false => 0.1,
        };
        let size = 10f64.powf((width / ticks).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * size).into_iter().find(|s| width / s <= ticks);
        let step = step.unwrap_or(width);
        // In whole steps; a hair beyond one, which is the arithmetic's, asks for no other.
        let first = (least / step + 1e-6).floor();
        let last = (most / step - 1e-6).ceil().max(first + 1.0);
        Self { from: first * step, to: last * step, step, ends }
    }

    fn at(&self, value: f64) -> f64 {
        let share = (value - self.from) / (self.to - self.from);
        self.ends[0] + share.clamp(0.0, 1.0) * (self.ends[1] - self.ends[0])
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + '_ {
        let count = ((self.to - self.from) / self.step).round().min(100.0) as usize;
        // Zero, not what is left of it after adding.
        (0..=count).map(|n| (self.from / self.step).round() + n as f64).map(|n| n * self.step)
    }

    /// A tick's label: as many decimals as ticks need to differ, or a power of ten where these are many.
    fn label(&self, value: f64) -> String {
        let decimals = (-self.step.log10()).ceil().clamp(0.0, 12.0) as usize;
        if decimals <= 4 || self.from.abs().max(self.to.abs()) >= 1e-3 {
            return number(value, decimals);
        }
        if value == 0.0 { "0".into() } else { format!("{value:.1e}").replace(".0e", "e").replace('-', "−") }
    }
}

/// A curve by name, with points in the order of x.
pub(super) struct Curve<'a> {
    /// Whether it is drawn thin, behind others.
    pub raw: bool,
    /// The points.
    pub points: &'a [(f64, f64)],
}

fn begin(html: &mut Html, height: f64, label: &str) {
    html.raw("<svg viewBox=\"0 0 ").text(WIDTH).raw(" ").text(height);
    html.raw("\" role=\"img\" aria-label=\"").text(label).raw("\">");
}

/// A coordinate, to a tenth.
fn near(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn line(html: &mut Html, class: &'static str, [x1, y1, x2, y2]: [f64; 4]) {
    html.raw("<line class=\"").raw(class).raw("\" x1=\"").text(near(x1)).raw("\" y1=\"").text(near(y1));
    html.raw("\" x2=\"").text(near(x2)).raw("\" y2=\"").text(near(y2)).raw("\"/>");
}

fn dot(html: &mut Html, class: &'static str, x: f64, y: f64) {
    html.raw("<circle class=\"").raw(class).raw("\" cx=\"").text(near(x)).raw("\" cy=\"").text(near(y));
    html.raw("\" r=\"5\"/>");
}

/// A text whose `anchor` (start, middle or end) is at x.
fn label(html: &mut Html, (class, anchor): (&'static str, &'static str), x: f64, y: f64, text: &str) {
    html.raw("<text class=\"").raw(class).raw("\" text-anchor=\"").raw(anchor).raw("\" x=\"").text(near(x));
    html.raw("\" y=\"").text(near(y)).raw("\">").text(text).raw("</text>");
}

/// Curves over a common x, whose name stands below. The y-axis begins at zero if `from_zero`.
pub(super) fn curves(title: &str, x_name: &str, from_zero: bool, curves: &[Curve<'_>]) -> Html {
    let mut html = Html::default();
    begin(&mut html, 220.0, title);
    let all = || curves.iter().flat_map(|curve| curve.points).filter(|(x, y)| x.is_finite() && y.is_finite());
    let x_axis = Axis::covering(all().map(|p| p.0), 6.0, [LEFT, RIGHT]);
    let (zero, one) = (from_zero.then_some(0.0), curves.iter().all(|c| c.points.is_empty()).then_some(1.0));
    let y_axis = Axis::covering(all().map(|p| p.1).chain(zero).chain(one), 4.0, [BOTTOM, TOP]);
    for tick in y_axis.ticks() {
        line(&mut html, "grid", [LEFT, y_axis.at(tick), RIGHT, y_axis.at(tick)]);
        label(&mut html, ("tick", "end"), LEFT - 6.0, y_axis.at(tick) + 4.0, &y_axis.label(tick));
    }
    for tick in x_axis.ticks() {
        label(&mut html, ("tick", "middle"), x_axis.at(tick), BOTTOM + 16.0, &x_axis.label(tick));
    }
    label(&mut html, ("tick", "middle"), (LEFT + RIGHT) / 2.0, BOTTOM + 34.0, x_name);
    for curve in curves {
        html.raw("<polyline class=\"").raw(if curve.raw { "curve raw" } else { "curve" }).raw("\" points=\"");
        for (x, y) in thinned(curve.points) {
            html.text(near(x_axis.at(x))).raw(",").text(near(y_axis.at(y))).raw(" ");
        }
        html.raw("\"/>");
    }
    html.raw("</svg>");
    html
}

/// At most [`MOST_POINTS`] points: means of neighbours.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let finite: Vec<(f64, f64)> =
        points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    let mean = |part: &[(f64, f64)]| {
        let (x, y) = part.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0, y + p.1));
        (x / part.len() as f64, y / part.len() as f64)
    };
    finite.chunks(finite.len().div_ceil(MOST_POINTS).max(1)).map(mean).collect()
}

/// A moving mean over so many values around each.
pub(super) fn smooth(points: &[(f64, f64)], window: usize) -> Vec<(f64, f64)> {
    let half = window / 2;
    let mean = |(at, point): (usize, &(f64, f64))| {
        let around =
            points.get(at.saturating_sub(half)..(at + half + 1).min(points.len())).unwrap_or_default();
        (point.0, around.iter().map(|p| p.1).sum::<f64>() / around.len().max(1) as f64)
    };
    points.iter().enumerate().map(mean).collect()
}

/// A row of [`rows`].
pub(super) struct Row {
    /// Stands before it.
    pub name: String,
    /// What is drawn.
    pub mark: Mark,
}

/// What is drawn in a row.
pub(super) enum Mark {
    /// From a value before to one after.
    Change([f64; 2]),
    /// A value in its interval.
    Interval(f64, [f64; 2]),
    /// A bar from zero, with a text at its end.
    Bar(f64, String),
}

impl Mark {
    /// Values that the axis must cover.
    fn values(&self) -> Vec<f64> {
        match self {
            Self::Change(values) => values.to_vec(),
            Self::Interval(value, [low, high]) => vec![0.0, *value, *low, *high],
            Self::Bar(value, _) => vec![0.0, *value],
        }
    }

    fn draw(&self, html: &mut Html, axis: &Axis, y: f64) {
        match self {
            Self::Change([before, after]) if before.is_finite() && after.is_finite() => {
                line(html, "change", [axis.at(*before), y, axis.at(*after), y]);
                dot(html, "dot-before", axis.at(*before), y);
                dot(html, "dot-after", axis.at(*after), y);
            }
            Self::Interval(value, [low, high]) if [value, low, high].iter().all(|v| v.is_finite()) => {
                line(html, "span", [axis.at(*low), y, axis.at(*high), y]);
                dot(html, "dot-after", axis.at(*value), y);
            }
            Self::Bar(value, text) if value.is_finite() => {
                let width = axis.at(*value) - axis.at(0.0);
                html.raw("<rect class=\"bar\" x=\"")
                    .text(near(axis.at(0.0)))
                    .raw("\" y=\"")
                    .text(near(y - 7.0));
                html.raw("\" width=\"").text(near(width.max(1.0))).raw("\" height=\"14\"/>");
                label(html, ("", "start"), axis.at(*value) + 6.0, y + 4.0, text);
            }
            _ => {}
        }
    }
}

/// Rows one below the other on one axis; `left` is the width of their names.
pub(super) fn rows(title: &str, left: f64, rows: &[Row]) -> Html {
    let mut html = Html::default();
    let bottom = TOP + rows.len() as f64 * ROW;
    let bars = rows.iter().all(|row| matches!(row.mark, Mark::Bar(..)));
    let intervals = rows.iter().any(|row| matches!(row.mark, Mark::Interval(..)));
    // Behind bars stand their texts.
    let right = if bars { RIGHT - 70.0 } else { RIGHT };
    begin(&mut html, bottom + if bars { 4.0 } else { 26.0 }, title);
    let axis = Axis::covering(rows.iter().flat_map(|row| row.mark.values()), 5.0, [left, right]);
    if !bars {
        for tick in axis.ticks() {
            let class = if intervals && tick == 0.0 { "zero" } else { "grid" };
            line(&mut html, class, [axis.at(tick), TOP, axis.at(tick), bottom]);
            label(&mut html, ("tick", "middle"), axis.at(tick), bottom + 16.0, &axis.label(tick));
        }
    }
    for (number, row) in rows.iter().enumerate() {
        let y = TOP + (number as f64 + 0.5) * ROW;
        label(&mut html, ("", "end"), left - 10.0, y + 4.0, &row.name);
        row.mark.draw(&mut html, &axis, y);
    }
    html.raw("</svg>");
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(values: &[f64]) -> Vec<String> {
        let axis = Axis::covering(values.iter().copied(), 5.0, [0.0, 100.0]);
        axis.ticks().map(|tick| axis.label(tick)).collect()
    }

    #[test]
    fn axes_have_round_ticks_that_cover_everything() {
        assert_eq!(ticks(&[0.0, 9.7]), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(ticks(&[-0.013, 0.021]), ["−0.02", "−0.01", "0.00", "0.01", "0.02", "0.03"]);
        assert_eq!(ticks(&[0.06724, 0.06736]), ["0.06720", "0.06725", "0.06730", "0.06735", "0.06740"]);
        assert_eq!(ticks(&[0.0, 2e-5]), ["0", "5e−6", "1e−5", "1.5e−5", "2e−5"]);
        for values in [&[][..], &[f64::NAN], &[5.0, 5.0], &[0.0], &[1e300, -1e300], &[1e-300]] {
            let axis = Axis::covering(values.iter().copied(), 5.0, [0.0, 100.0]);
            let at: Vec<f64> = axis.ticks().map(|tick| axis.at(tick)).collect();
            assert!(at.len() >= 2 && at.iter().all(|at| (0.0..=100.0).contains(at)), "{values:?}: {axis:?}");
        }
    }

    #[test]
    fn points_are_where_they_belong_and_not_too_many() {
        let points: Vec<(f64, f64)> = (0..10_000).map(|n| (f64::from(n), f64::from(n % 2))).collect();
        assert!(thinned(&points).len() <= MOST_POINTS);
        assert!(thinned(&points).iter().all(|(_, y)| (0.4..0.6).contains(y)));
        let svg =
            curves("t", "x", true, &[Curve { raw: false, points: &[(0.0, 0.0), (10.0, 4.0)] }]).finish();
        assert!(svg.contains("points=\"52,180 374,10 \""), "{svg}");
        let broken =
            curves("t", "x", true, &[Curve { raw: false, points: &[(f64::NAN, 1.0), (1.0, f64::INFINITY)] }]);
        assert!(!broken.finish().contains("NaN"));
    }

    #[test]
    fn a_moving_mean_keeps_what_does_not_change() {
        let flat: Vec<(f64, f64)> = (0..9).map(|n| (f64::from(n), 2.0)).collect();
        assert_eq!(smooth(&flat, 4), flat);
        assert_eq!(smooth(&[(0.0, 0.0), (1.0, 3.0), (2.0, 0.0)], 3)[1], (1.0, 1.0));
    }

    #[test]
    fn rows_show_finite_values_alone() {
        let row = |mark| Row { name: "<64>".into(), mark };
        let marks = [Mark::Change([0.1, 0.2]), Mark::Change([f64::NAN; 2]), Mark::Interval(0.1, [0.0, 0.2])];
        let svg = rows("t", 60.0, &marks.map(row)).finish();
        assert_eq!(svg.matches("<circle").count(), 3, "{svg}");
        assert!(svg.contains("&lt;64&gt;") && !svg.contains("NaN"));
        assert!(rows("t", 60.0, &[]).finish().ends_with("</svg>"));
        let bars = rows("t", 60.0, &[row(Mark::Bar(2.0, "2 s".into()))]).finish();
        assert!(bars.contains("<rect") && bars.contains(">2 s<"));
    }
}
