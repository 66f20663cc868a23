//! The surfaces for drawing: SVG and PNG.

use std::sync::Once;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;

use align_core::error::{Error, Result};

/// The size of a chart in an HTML page.
const SVG_SIZE: (u32, u32) = (440, 300);
/// The size of a chart in TensorBoard. It is the width of its frames: images of other sizes are resampled by
/// dropping pixels.
const PNG_SIZE: (u32, u32) = (350, 260);
/// The height of a row of text below a chart.
const ROW: u32 = 16;
/// The supersampling factor in each direction for PNG, which smooths edges and letters.
const SUPERSAMPLING: u32 = 3;
/// The font name in drawings; a browser substitutes its own.
pub(super) const SANS: &str = "sans-serif";

/// The main colour.
pub const INK: RGBColor = RGBColor(37, 99, 235);
/// The colour of references.
pub const GREY: RGBColor = RGBColor(140, 150, 160);

/// A surface for a chart.
pub struct Canvas<DB: DrawingBackend> {
    /// The drawing area.
    pub(super) area: DrawingArea<DB, Shift>,
    scale: u32,
}

impl<DB: DrawingBackend> Canvas<DB> {
    /// A length in pixels, scaled for this canvas.
    pub(super) fn px(&self, length: u32) -> u32 {
        length * self.scale
    }

    /// A chart's frame: caption, margins, space for the labels.
    pub fn frame(&self, caption: &str) -> ChartBuilder<'_, '_, DB> {
        let mut chart = ChartBuilder::on(&self.area);
        chart
            .caption(caption, (SANS, self.px(15)))
            .margin(self.px(8))
            .x_label_area_size(self.px(34))
            .y_label_area_size(self.px(48));
        chart
    }
}

/// An encoded PNG image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Png {
    /// The contents of the file.
    pub bytes: Vec<u8>,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
}

/// Draws an SVG element.
///
/// # Errors
/// Those of `draw`.
pub fn svg(draw: impl FnOnce(&Canvas<SVGBackend<'_>>) -> Result<()>) -> Result<String> {
    register_fonts();
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SVG_SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        draw(&Canvas { area: area.clone(), scale: 1 })?;
        area.present().map_err(failed)?;
    }
    Ok(text)
}

/// Draws a PNG: the chart, and `rows` rows of text below it.
pub(super) fn png(
    rows: u32,
    draw: impl FnOnce(&Canvas<BitMapBackend<'_>>, &Canvas<BitMapBackend<'_>>) -> Result<()>,
) -> Result<Png> {
    register_fonts();
    let (width, height) = (PNG_SIZE.0, PNG_SIZE.1 + rows * ROW);
    let (drawn_width, drawn_height) = (width * SUPERSAMPLING, height * SUPERSAMPLING);
    let mut drawn = vec![0; (3 * drawn_width * drawn_height) as usize];
    {
        let area = BitMapBackend::with_buffer(&mut drawn, (drawn_width, drawn_height)).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let (chart, below) = area.split_vertically(PNG_SIZE.1 * SUPERSAMPLING);
        draw(&Canvas { area: chart, scale: SUPERSAMPLING }, &Canvas { area: below, scale: SUPERSAMPLING })?;
        area.present().map_err(failed)?;
    }
    let pixels = downsampled(&drawn, drawn_width as usize);
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::RGB);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_filter(png::FilterType::NoFilter); // large areas of one colour
    encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels)).map_err(failed)?;
    Ok(Png { bytes, width, height })
}

/// Averages every square of [`SUPERSAMPLING`] pixels to one, of three bytes. `width` is that of the input.
fn downsampled(drawn: &[u8], width: usize) -> Vec<u8> {
    let factor = SUPERSAMPLING as usize;
    let mut pixels = Vec::with_capacity(drawn.len() / (factor * factor));
    for rows in drawn.chunks(3 * width * factor) {
        for left in (0..width).step_by(factor) {
            for colour in 0..3 {
                let offsets = (0..factor * factor).map(|index| index / factor * width + left + index % factor);
                let sum: usize = offsets.map(|offset| usize::from(rows[3 * offset + colour])).sum();
                pixels.push((sum / (factor * factor)) as u8);
            }
        }
    }
    pixels
}

/// Registers the embedded font, so that none needs to be installed.
fn register_fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let registered = register_font(SANS, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
        assert!(registered.is_ok(), "the embedded font is valid");
    });
}

/// The error for a chart that cannot be drawn.
pub fn failed(error: impl std::fmt::Display) -> Error {
    Error::Failed(format!("a plot cannot be drawn: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pixel_is_the_mean_of_a_square() {
        // Two adjacent squares of 3 × 3: black with one white pixel, and grey; only red differs.
        let mut drawn = vec![0; 3 * 6 * 3];
        drawn[3 * 6] = 255;
        for index in 0..9 {
            drawn[3 * (index / 3 * 6 + 3 + index % 3)] = 90;
        }
        assert_eq!(downsampled(&drawn, 6), [28, 0, 0, 90, 0, 0]);
    }
}
