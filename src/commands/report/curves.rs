//! Curves: numbers over steps, or over each other. Their legends stand below them in HTML, where names are escaped.

use anyhow::Result;
use plotters::prelude::*;
use serde_json::{Value, json};

use crate::commands::plots::{GREY, INK, failed, frame, svg};

/// Colours of the lines of a plot, in their order.
const COLOURS: [RGBColor; 5] =
    [INK, RGBColor(217, 119, 6), RGBColor(22, 163, 74), RGBColor(147, 51, 234), RGBColor(219, 39, 119)];
/// More points than this are thinned: a plot has no more room for them.
const POINTS: usize = 400;
/// Up to this many points are marked with dots.
const DOTS: usize = 20;

/// A line of a plot.
pub(super) struct Line {
    pub(super) name: String,
    /// In the order in which they are joined; a y that is not a number is a gap.
    pub(super) points: Vec<(f64, f64)>,
}

/// The steps of a run.
pub(super) struct Steps {
    pub(super) last: f64,
    /// The last step of the value warm-up, where there is one.
    pub(super) warmup: Option<f64>,
}

/// A plot of some lines.
#[derive(Default)]
pub(super) struct Plot<'a> {
    pub(super) caption: &'a str,
    /// What x is.
    pub(super) x: &'a str,
    /// What x runs over; what the points need unless given.
    pub(super) range: Option<(f64, f64)>,
    pub(super) lines: Vec<Line>,
    /// x is marked from the left up to here.
    pub(super) marked: Option<f64>,
    /// The last point of each line is drawn larger: where the way over the plot ends.
    pub(super) ends: bool,
    /// Said below it.
    pub(super) note: String,
}

impl<'a> Plot<'a> {
    /// Lines over all steps.
    pub(super) fn over_steps(caption: &'a str, lines: Vec<Line>, steps: &Steps) -> Self {
        let range = Some((0.0, steps.last.max(1.0)));
        Self { caption, x: "step", range, lines, marked: steps.warmup, ..Self::default() }
    }

    /// Whether any of the lines has two points to join.
    pub(super) fn has_a_way(&self) -> bool {
        self.lines.iter().any(|line| line.points.iter().filter(|(_, y)| y.is_finite()).count() > 1)
    }

    /// The plot and its legend for the template; `None` where there is no number to draw.
    pub(super) fn draw(mut self) -> Result<Option<Value>> {
        self.lines.retain(|line| line.points.iter().any(|(_, y)| y.is_finite()));
        let points = || self.lines.iter().flat_map(|line| &line.points).filter(|(_, y)| y.is_finite());
        let (Some(x), Some(y)) = (span(points().map(|(x, _)| *x)), span(points().map(|(_, y)| *y))) else {
            return Ok(None);
        };
        let x = self.range.unwrap_or(x);
        let dots = points().count() <= DOTS * self.lines.len();
        let picture = svg(|area| {
            let mut chart = frame(area, self.caption).build_cartesian_2d(x.0..x.1, y.0..y.1).map_err(failed)?;
            if let Some(until) = self.marked {
                let marked = Rectangle::new([(x.0, y.0), (until.min(x.1), y.1)], GREY.mix(0.15).filled());
                chart.draw_series([marked]).map_err(failed)?;
            }
            chart
                .configure_mesh()
                .light_line_style(TRANSPARENT)
                .bold_line_style(GREY.mix(0.2))
                .x_labels(6)
                .y_labels(6)
                .x_desc(self.x)
                .x_label_formatter(&|x| short(*x))
                .y_label_formatter(&|y| short(*y))
                .draw()
                .map_err(failed)?;
            for (line, colour) in self.lines.iter().zip(COLOURS.iter().cycle()) {
                let thinned = thin(&line.points);
                for piece in thinned.split(|(_, y)| !y.is_finite()).filter(|piece| !piece.is_empty()) {
                    let path = PathElement::new(piece.to_vec(), colour.stroke_width(2));
                    chart.draw_series([path]).map_err(failed)?;
                }
                let seen = || thinned.iter().copied().filter(|(_, y)| y.is_finite());
                let all = seen().filter(|_| dots).map(|point| Circle::new(point, 3, colour.filled()));
                chart.draw_series(all).map_err(failed)?;
                let end = seen().next_back().filter(|_| self.ends).map(|point| Circle::new(point, 6, colour.filled()));
                chart.draw_series(end).map_err(failed)?;
            }
            Ok(())
        })?;
        let legend = |(line, colour): (&Line, &RGBColor)| {
            let last = line.points.iter().rev().map(|(_, y)| *y).find(|y| y.is_finite() && self.range.is_some());
            let RGBColor(red, green, blue) = colour;
            json!({ "name": line.name, "last": last.map(short), "colour": format!("rgb({red},{green},{blue})") })
        };
        let legend: Vec<Value> = self.lines.iter().zip(COLOURS.iter().cycle()).map(legend).collect();
        Ok(Some(json!({ "svg": picture, "legend": legend, "note": self.note })))
    }
}

/// From a little below the least to a little above the largest; `None` without numbers. Never so narrow that labels along it would
/// not differ.
fn span(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
    let (width, size) = (high - low, low.abs().max(high.abs()));
    let room = if width > 1e-6 * size { 0.05 * width } else { (0.1 * size).max(1e-9) };
    (width >= 0.0 && width.is_finite() && (high + room).is_finite()).then_some((low - room, high + room))
}

/// A number with three digits or so.
pub(super) fn short(number: f64) -> String {
    let size = number.abs();
    if size > 1e-12 && !(1e-3..1e6).contains(&size) {
        return format!("{number:.1e}");
    }
    let decimals = if size >= 100.0 {
        0
    } else if size >= 1.0 {
        2
    } else {
        4
    };
    let text = format!("{number:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// At most about [`POINTS`] points: of each stretch the lowest and the highest, so that no peak is lost.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= POINTS {
        return points.to_vec();
    }
    let extremes = |stretch: &[(f64, f64)]| {
        let finite = || stretch.iter().enumerate().filter(|(_, (_, y))| y.is_finite());
        let lowest = finite().min_by(|(_, a), (_, b)| a.1.total_cmp(&b.1)).map(|(index, _)| index);
        let highest = finite().max_by(|(_, a), (_, b)| a.1.total_cmp(&b.1)).map(|(index, _)| index);
        match (lowest, highest) {
            (Some(lowest), Some(highest)) if lowest == highest => vec![stretch[lowest]],
            (Some(lowest), Some(highest)) => vec![stretch[lowest.min(highest)], stretch[lowest.max(highest)]],
            _ => stretch[..1].to_vec(), // a gap
        }
    };
    points.chunks(points.len().div_ceil(POINTS / 2)).flat_map(extremes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (number, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (-5.6e-17, "0"),
            (1.0, "1"),
            (1.5, "1.5"),
            (-2.347, "-2.35"),
            (0.25, "0.25"),
            (0.012, "0.012"),
            (1234.5, "1234"),
            (100.0, "100"),
            (3e-6, "3.0e-6"),
            (2e7, "2.0e7"),
        ] {
            assert_eq!(short(number), text);
        }
    }

    #[test]
    fn peaks_and_gaps_outlast_thinning() {
        let mut points: Vec<(f64, f64)> = (0..10_000).map(|x| (f64::from(x), 1.0)).collect();
        points[4321].1 = 9.0;
        points[4322].1 = -9.0;
        points[7000..7100].iter_mut().for_each(|point| point.1 = f64::NAN);
        let thinned = thin(&points);
        assert!(thinned.len() <= POINTS && thinned.iter().any(|(_, y)| y.is_nan()));
        assert!(thinned.contains(&(4321.0, 9.0)) && thinned.contains(&(4322.0, -9.0)));
        assert!(thinned.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(thin(&points[..400]).len(), 400);
    }

    #[test]
    fn what_is_hard_to_draw_is_drawn_or_left_out() {
        let plot = |ys: &[f64]| {
            let points = ys.iter().enumerate().map(|(x, y)| (x as f64, *y)).collect();
            let lines = vec![Line { name: "a".to_owned(), points }];
            Plot::over_steps("a", lines, &Steps { last: 2.0, warmup: Some(1.0) }).draw().unwrap()
        };
        assert!(plot(&[]).is_none() && plot(&[f64::NAN, f64::INFINITY]).is_none());
        assert!(plot(&[f64::MAX, f64::MIN]).is_none());
        for ys in [&[0.0][..], &[5.0; 3], &[1.0, 1.0 + f64::EPSILON], &[1e300, 2e300], &[1.0, f64::NAN, 1e-300]] {
            let drawn = plot(ys).unwrap();
            assert!(drawn["svg"].as_str().unwrap().starts_with("<svg"), "{ys:?}");
            assert!(!drawn["svg"].as_str().unwrap().contains("NaN"), "{ys:?}");
        }
        assert_eq!(plot(&[1.0, f64::NAN]).unwrap()["legend"][0]["last"], "1");
    }
}
