//! Plots as SVG inside a page.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

const SIZE: (u32, u32) = (440, 300);
pub(super) const INK: RGBColor = RGBColor(37, 99, 235);
pub(super) const GREY: RGBColor = RGBColor(140, 150, 160);

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What `draw` draws.
pub(super) fn svg(draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        draw(&area)?;
        area.present().map_err(failed)?;
    }
    Ok(text)
}

/// A plot's frame: caption, margin, room for the labels.
pub(super) fn frame<'a, 'b>(area: &'a Area<'b>, caption: &str) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut chart = ChartBuilder::on(area);
    chart.caption(caption, ("sans-serif", 15)).margin(8).x_label_area_size(34).y_label_area_size(48);
    chart
}

pub(super) fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("a plot cannot be drawn: {error}")
}
