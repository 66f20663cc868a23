//! The figure of a comparison: for each model a stacked bar of wins, ties and losses against the baseline,
//! wins at the bottom.

use std::sync::Once;

use align_core::error::{Error, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::compare::{Comparison, Outcome};

/// The font name in drawings; a browser substitutes its own.
const SANS: &str = "sans-serif";
const WIN: RGBColor = RGBColor(37, 99, 235);
const TIE: RGBColor = RGBColor(203, 213, 225);
const LOSS: RGBColor = RGBColor(148, 84, 84);
/// The width of the vertical axis, and that of a bar with the space around it.
const WIDTHS: (u32, u32) = (70, 84);
const HEIGHT: u32 = 330;
/// A PNG has this many pixels per pixel of the SVG in each direction.
const PNG_SCALE: u32 = 3;

/// The size of the figure at scale 1. It grows with the number of models.
pub fn size(comparison: &Comparison) -> (u32, u32) {
    let bars = bars(comparison).len().max(1) as u32;
    (WIDTHS.0 + (bars * WIDTHS.1).max(300) + 90, HEIGHT)
}

/// The figure as an SVG element.
///
/// # Errors
/// Those of drawing.
pub fn svg(comparison: &Comparison) -> Result<String> {
    register_fonts();
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size(comparison)).into_drawing_area();
        draw(comparison, &area, 1)?;
        area.present().map_err(failed)?;
    }
    Ok(text)
}

/// The figure as a PNG file.
///
/// # Errors
/// Those of drawing.
pub fn png(comparison: &Comparison) -> Result<Vec<u8>> {
    register_fonts();
    let (width, height) = size(comparison);
    let (width, height) = (width * PNG_SCALE, height * PNG_SCALE);
    let mut pixels = vec![0; (3 * width * height) as usize];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
        draw(comparison, &area, PNG_SCALE)?;
        area.present().map_err(failed)?;
    }
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::RGB);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels)).map_err(failed)?;
    Ok(bytes)
}

fn bars(comparison: &Comparison) -> Vec<(&str, Outcome)> {
    let models = comparison.models.iter();
    models.filter_map(|model| Some((model.model.as_str(), model.outcome?))).collect()
}

/// Draws the figure; lengths are in pixels times `scale`.
///
/// # Errors
/// Those of drawing.
pub fn draw<DB: DrawingBackend>(comparison: &Comparison, area: &DrawingArea<DB, Shift>, scale: u32) -> Result<()> {
    area.fill(&WHITE).map_err(failed)?;
    let bars = bars(comparison);
    let px = |length: u32| length * scale;
    let text = |size: u32, colour: RGBColor| (SANS, px(size)).into_font().color(&colour);
    let mut chart = ChartBuilder::on(area)
        .caption(format!("against {}", comparison.baseline), (SANS, px(15)))
        .margin(px(8))
        .margin_right(px(90))
        .x_label_area_size(px(34))
        .y_label_area_size(px(48))
        .build_cartesian_2d(-0.5..bars.len().max(1) as f64 - 0.5, 0.0..100.0)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .light_line_style(WHITE)
        .y_desc("% of verdicts")
        .y_label_formatter(&|share: &f64| format!("{share:.0}"))
        .label_style((SANS, px(11)))
        .draw()
        .map_err(failed)?;
    let centered = |size: u32, colour: RGBColor| text(size, colour).pos(Pos::new(HPos::Center, VPos::Center));
    for (at, (model, outcome)) in bars.iter().enumerate() {
        let center = at as f64;
        let mut bottom = 0.0;
        for (share, colour, ink) in [(outcome.win, WIN, WHITE), (outcome.tie, TIE, BLACK), (outcome.loss, LOSS, WHITE)]
        {
            let (from, to) = (bottom, bottom + 100.0 * share);
            let bar = Rectangle::new([(center - 0.34, from), (center + 0.34, to)], colour.filled());
            chart.draw_series([bar]).map_err(failed)?;
            // A number needs some height.
            if share >= 0.06 {
                let number = Text::new(format!("{:.0}", 100.0 * share), (center, (from + to) / 2.0), centered(11, ink));
                chart.draw_series([number]).map_err(failed)?;
            }
            bottom = to;
        }
        let below = text(11, BLACK).pos(Pos::new(HPos::Center, VPos::Top));
        let name = EmptyElement::at((center, 0.0)) + Text::new(shortened(model), (0, px(6) as i32), below);
        chart.plotting_area().draw(&name).map_err(failed)?;
    }
    legend(area, scale)
}

/// A name that fits below its bar.
fn shortened(name: &str) -> String {
    const LONGEST: usize = 14;
    if name.chars().count() <= LONGEST {
        return name.to_owned();
    }
    name.chars().take(LONGEST - 1).chain(['…']).collect()
}

/// The three colours, in the order of the bars, at the right.
fn legend<DB: DrawingBackend>(area: &DrawingArea<DB, Shift>, scale: u32) -> Result<()> {
    let px = |length: u32| (length * scale) as i32;
    let (width, _) = area.dim_in_pixel();
    let left = width as i32 - px(82);
    let style = (SANS, px(12)).into_font().color(&BLACK).pos(Pos::new(HPos::Left, VPos::Center));
    for (row, (name, colour)) in [("loss", LOSS), ("tie", TIE), ("win", WIN)].into_iter().enumerate() {
        let top = px(60 + 20 * row as u32);
        let square = Rectangle::new([(left, top), (left + px(12), top + px(12))], colour.filled());
        area.draw(&square).map_err(failed)?;
        area.draw(&Text::new(name, (left + px(18), top + px(6)), style.clone())).map_err(failed)?;
    }
    Ok(())
}

/// Registers the embedded font, so that none needs to be installed.
fn register_fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let registered = register_font(SANS, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
        assert!(registered.is_ok(), "the embedded font is valid");
    });
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Failed(format!("the figure cannot be drawn: {error}"))
}

#[cfg(test)]
mod tests {
    use align_statistics::bootstrap::Draws;
    use align_statistics::comparison_models::OrderEffect;

    use super::*;
    use crate::compare::{Annotators, Counting, Options, compare};
    use crate::fixtures::{item, labels, ranked};

    fn comparison() -> Comparison {
        let items = ["a", "b", "c", "d"].map(|id| item(id, &["base", "new <b>"], &["x", "y"]));
        let verdicts = [("a", [2, 1]), ("b", [2, 1]), ("c", [1, 1]), ("d", [1, 2])];
        let judgments = verdicts.map(|(id, ranks)| ranked(id, "ann", &ranks));
        let options = Options {
            baseline: "base".to_owned(),
            annotators: Annotators::People,
            counting: Counting::Each,
            order_effect: OrderEffect::None,
            draws: Draws { count: 10, seed: 0 },
        };
        compare(&labels(items.into(), judgments.into()), &options).unwrap()
    }

    /// The top and height of the rectangles of a colour, without the legend's.
    fn bars(svg: &str, colour: &str) -> Vec<(f64, f64)> {
        let number = |line: &str, key: &str| -> f64 {
            let text = line.split_once(&format!(" {key}=\"")).unwrap().1;
            text.split_once('"').unwrap().0.parse().unwrap()
        };
        let rectangles = svg.lines().filter(|line| line.starts_with("<rect") && line.contains(colour));
        let all = rectangles.map(|line| (number(line, "y"), number(line, "height")));
        all.filter(|&(_, height)| height > 12.0).collect()
    }

    #[test]
    fn wins_are_at_the_bottom() {
        let svg = svg(&comparison()).unwrap();
        let [win, tie, loss] = ["#2563EB", "#CBD5E1", "#945454"].map(|colour| bars(&svg, colour)[0]);
        assert!(win.0 > tie.0 && tie.0 > loss.0, "{win:?} {tie:?} {loss:?}");
        // 50, 25 and 25 %.
        assert!((win.1 - 2.0 * tie.1).abs() <= 2.0 && (tie.1 - loss.1).abs() <= 2.0, "{win:?} {tie:?} {loss:?}");
        assert!(svg.contains("new &lt;b&gt;") && !svg.contains("<b>"));
    }

    #[test]
    fn a_png_has_three_times_the_size() {
        let comparison = comparison();
        let bytes = png(&comparison).unwrap();
        let (info, _) = png::Decoder::new(bytes.as_slice()).read_info().unwrap();
        let (width, height) = size(&comparison);
        assert_eq!((info.width, info.height), (3 * width, 3 * height));
    }
}
