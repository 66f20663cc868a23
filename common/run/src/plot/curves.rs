//! Curves and bars. An HTML page has the legends below, where names are escaped.

use plotters::prelude::*;

use super::canvas::{Canvas, GREY, INK, Png, SANS, failed, png, svg};
use align_core::error::Result;

/// The colours of a plot's lines, in order.
const COLOURS: [RGBColor; 5] =
    [INK, RGBColor(217, 119, 6), RGBColor(22, 163, 74), RGBColor(147, 51, 234), RGBColor(219, 39, 119)];
/// The colour of secondary text.
const MUTED: RGBColor = RGBColor(92, 102, 112);
/// Lines with more points than this are thinned.
const POINTS: usize = 400;
/// Up to this many points are marked with dots.
const DOTS: usize = 20;
/// The fraction of a group's width that its bars fill.
const BARS: f64 = 0.8;

/// A named series of points.
pub struct Line {
    /// The name.
    pub name: String,
    /// The points, in the order in which they are joined; a non-finite y is a gap.
    pub points: Vec<(f64, f64)>,
}

/// The steps of a run.
pub struct Steps {
    /// The last one.
    pub last: f64,
    /// The last step of the value warm-up, if there is one.
    pub warmup: Option<f64>,
}

/// The type of a plot.
#[derive(Default)]
pub enum Shape {
    /// Points, joined.
    #[default]
    Lines,
    /// Bars from 0, at x = 1, 2, …, with these labels. The bars of several lines are grouped.
    Bars(Vec<String>),
}

/// A plot of some lines.
#[derive(Default)]
pub struct Plot {
    /// The caption.
    pub caption: String,
    /// The label of the x axis.
    pub x: &'static str,
    /// The label of the y axis; may be empty if the caption is clear.
    pub y: &'static str,
    /// The range of x; by default that of the points.
    pub range: Option<(f64, f64)>,
    /// The type of plot.
    pub shape: Shape,
    /// The lines. Those without a finite number are left out.
    pub lines: Vec<Line>,
    /// The background is shaded from the left up to this x.
    pub marked: Option<f64>,
    /// Whether the last point of each line is drawn larger, as the end of a path.
    pub ends: bool,
    /// A note below the plot.
    pub note: String,
}

/// The legend of a line.
pub struct Legend<'a> {
    /// The line's name.
    pub name: &'a str,
    /// Its last number, if x is ordered in time.
    pub last: Option<f64>,
    /// Its colour.
    pub colour: RGBColor,
}

type Range = (f64, f64);

impl Plot {
    /// Lines over all steps.
    pub fn over_steps(caption: &str, lines: Vec<Line>, steps: &Steps) -> Self {
        let range = Some((0.0, steps.last.max(1.0)));
        Self { caption: caption.to_owned(), x: "step", range, lines, marked: steps.warmup, ..Self::default() }
    }

    /// Whether any of the lines has at least two points.
    pub fn has_curve(&self) -> bool {
        self.lines.iter().any(|line| line.points.iter().filter(|(_, y)| y.is_finite()).count() > 1)
    }

    /// The plot as an SVG element, without legend and note; `None` if there is nothing to draw.
    ///
    /// # Errors
    /// [`align_core::error::Error::Failed`] when it cannot be drawn.
    pub fn svg(&self) -> Result<Option<String>> {
        self.ranges().map(|(x, y)| svg(|canvas| self.draw(canvas, x, y))).transpose()
    }

    /// The plot as a PNG, with legend and note; `None` if there is nothing to draw.
    ///
    /// # Errors
    /// As [`Plot::svg`].
    pub fn png(&self) -> Result<Option<Png>> {
        let draw = |(x, y)| {
            png(1 + u32::from(!self.note.is_empty()), |canvas, below| {
                self.draw(canvas, x, y)?;
                self.draw_below(below)
            })
        };
        self.ranges().map(draw).transpose()
    }

    /// The legend of each line.
    pub fn legend(&self) -> impl Iterator<Item = Legend<'_>> {
        self.visible().map(|(line, colour)| {
            let last = line.points.iter().rev().map(|(_, y)| *y).find(|y| y.is_finite() && self.range.is_some());
            Legend { name: &line.name, last, colour }
        })
    }

    /// The lines that have a finite number, with their colours.
    fn visible(&self) -> impl Iterator<Item = (&Line, RGBColor)> {
        let has_number = |line: &&Line| line.points.iter().any(|(_, y)| y.is_finite());
        self.lines.iter().filter(has_number).zip(COLOURS.into_iter().cycle())
    }

    /// The ranges of x and y.
    fn ranges(&self) -> Option<(Range, Range)> {
        let points = || self.lines.iter().flat_map(|line| &line.points).filter(|(_, y)| y.is_finite());
        let (x, y) = (points().map(|(x, _)| *x), points().map(|(_, y)| *y));
        match &self.shape {
            Shape::Lines => {
                let (x, y) = (span(x)?, span(y)?);
                Some((self.range.unwrap_or(x), y))
            }
            Shape::Bars(labels) => {
                points().next()?;
                let (low, high) = span(y.chain([0.0]))?;
                let y = (if points().all(|(_, y)| *y >= 0.0) { 0.0 } else { low }, high);
                Some(((0.5, labels.len() as f64 + 0.5), y))
            }
        }
    }

    /// Draws the chart.
    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>, x: Range, y: Range) -> Result<()> {
        let mut frame = canvas.frame(&self.caption);
        if !self.y.is_empty() {
            frame.y_label_area_size(canvas.px(56));
        }
        let mut chart = frame.build_cartesian_2d(x.0..x.1, y.0..y.1).map_err(failed)?;
        if let Some(until) = self.marked {
            let marked = Rectangle::new([(x.0, y.0), (until.min(x.1), y.1)], GREY.mix(0.15).filled());
            chart.draw_series([marked]).map_err(failed)?;
        }
        let mut mesh = chart.configure_mesh();
        mesh.light_line_style(TRANSPARENT)
            .bold_line_style(GREY.mix(0.25).stroke_width(canvas.px(1)))
            .axis_style(BLACK.stroke_width(canvas.px(1)))
            .label_style((SANS, canvas.px(12)))
            .set_all_tick_mark_size(canvas.px(5))
            .x_labels(6)
            .y_labels(6)
            .x_desc(self.x)
            .y_desc(self.y)
            .y_label_formatter(&|y| short(*y));
        match &self.shape {
            Shape::Lines => mesh.x_label_formatter(&|x| short(*x)).draw().map_err(failed)?,
            Shape::Bars(labels) => {
                let label = |x: &f64| {
                    let group = ((x - x.round()).abs() < 1e-6).then_some(x.round() as usize);
                    let group = group.and_then(|group| labels.get(group.checked_sub(1)?));
                    group.cloned().unwrap_or_default()
                };
                mesh.disable_x_mesh().x_labels(labels.len() + 1).x_label_formatter(&label).draw().map_err(failed)?;
            }
        }
        match &self.shape {
            Shape::Lines => self.draw_lines(canvas, &mut chart),
            Shape::Bars(_) => self.draw_bars(canvas, &mut chart, x),
        }
    }

    fn draw_lines<DB: DrawingBackend>(&self, canvas: &Canvas<DB>, chart: &mut Chart<'_, DB>) -> Result<()> {
        let count: usize =
            self.visible().map(|(line, _)| line.points.iter().filter(|(_, y)| y.is_finite()).count()).sum();
        let dots = count <= DOTS * self.visible().count();
        for (line, colour) in self.visible() {
            let thinned = thin(&line.points);
            for piece in thinned.split(|(_, y)| !y.is_finite()).filter(|piece| !piece.is_empty()) {
                let path = PathElement::new(piece.to_vec(), colour.stroke_width(canvas.px(2)));
                chart.draw_series([path]).map_err(failed)?;
            }
            let finite = || thinned.iter().copied().filter(|(_, y)| y.is_finite());
            let dot = |point, size| Circle::new(point, canvas.px(size), colour.filled());
            chart.draw_series(finite().filter(|_| dots).map(|point| dot(point, 3))).map_err(failed)?;
            let end = finite().next_back().filter(|_| self.ends);
            chart.draw_series(end.map(|point| dot(point, 6))).map_err(failed)?;
        }
        Ok(())
    }

    fn draw_bars<DB: DrawingBackend>(&self, canvas: &Canvas<DB>, chart: &mut Chart<'_, DB>, x: Range) -> Result<()> {
        let width = BARS / self.visible().count() as f64;
        for (index, (line, colour)) in self.visible().enumerate() {
            let bars = line.points.iter().filter(|(_, y)| y.is_finite()).map(|(x, y)| {
                let left = x - BARS / 2.0 + width * index as f64;
                Rectangle::new([(left, 0.0), (left + width, *y)], colour.filled())
            });
            chart.draw_series(bars).map_err(failed)?;
        }
        let zero = PathElement::new([(x.0, 0.0), (x.1, 0.0)], BLACK.stroke_width(canvas.px(1)));
        chart.draw_series([zero]).map_err(failed).map(drop)
    }

    /// Draws legend and note, which a page has in HTML.
    fn draw_below<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> Result<()> {
        let px = |length: u32| canvas.px(length) as i32;
        let font = |colour: RGBColor| (SANS, canvas.px(12)).into_font().color(&colour);
        let write = |text: &str, colour, x, y| canvas.area.draw_text(text, &font(colour), (x, y)).map_err(failed);
        let mut x = px(16);
        let width = |text: &str| -> Result<i32> {
            Ok(canvas.area.estimate_text_size(text, &font(BLACK)).map_err(failed)?.0 as i32)
        };
        for Legend { name, last, colour } in self.legend() {
            let square = Rectangle::new([(x, px(1)), (x + px(9), px(10))], colour.filled());
            canvas.area.draw(&square).map_err(failed)?;
            write(name, BLACK, x + px(14), 0)?;
            x += px(18) + width(name)?;
            let last = last.map_or_else(String::new, short);
            write(&last, MUTED, x, 0)?;
            x += px(16) + width(&last)?;
        }
        write(&self.note, MUTED, px(16), px(16))
    }
}

type Chart<'a, DB> = plotters::chart::ChartContext<
    'a,
    DB,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

/// The range of the values with a small margin; `None` without finite numbers. It is never so narrow that
/// axis labels would be equal.
fn span(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
    let (width, size) = (high - low, low.abs().max(high.abs()));
    let room = if width > 1e-6 * size { 0.05 * width } else { (0.1 * size).max(1e-9) };
    (width >= 0.0 && width.is_finite() && (high + room).is_finite()).then_some((low - room, high + room))
}

/// A number with about three digits.
pub fn short(number: f64) -> String {
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

/// At most about [`POINTS`] points: the minimum and maximum of each interval, so that no peak is lost.
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
    fn thinning_keeps_peaks_and_gaps() {
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
    fn extreme_values_are_drawn_or_left_out() {
        let plot = |ys: &[f64]| {
            let points = ys.iter().enumerate().map(|(x, y)| (x as f64, *y)).collect();
            let lines = vec![Line { name: "a".to_owned(), points }];
            Plot::over_steps("a", lines, &Steps { last: 2.0, warmup: Some(1.0) })
        };
        for ys in [&[][..], &[f64::NAN, f64::INFINITY], &[f64::MAX, f64::MIN]] {
            assert_eq!((plot(ys).svg().unwrap(), plot(ys).png().unwrap()), (None, None), "{ys:?}");
        }
        for ys in [&[0.0][..], &[5.0; 3], &[1.0, 1.0 + f64::EPSILON], &[1e300, 2e300], &[1.0, f64::NAN, 1e-300]] {
            let drawn = plot(ys).svg().unwrap().unwrap();
            assert!(drawn.starts_with("<svg") && !drawn.contains("NaN"), "{ys:?}");
            plot(ys).png().unwrap().unwrap();
        }
        let bars = |ys: &[f64]| Plot { shape: Shape::Bars(vec!["1".to_owned(); ys.len()]), ..plot(ys) };
        assert_eq!((bars(&[]).png().unwrap(), bars(&[f64::NAN]).svg().unwrap()), (None, None));
        for ys in [&[0.0][..], &[1.0, f64::NAN, -1.0], &[1e300; 2], &[-1e-300]] {
            assert!(!bars(ys).svg().unwrap().unwrap().contains("NaN"), "{ys:?}");
            bars(ys).png().unwrap().unwrap();
        }
        assert_eq!(plot(&[1.0, f64::NAN]).legend().next().unwrap().last, Some(1.0));
    }
}
