//! What is drawn on: SVG, or pixels.

use std::sync::Once;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;

use align_core::error::{Error, Result};

/// Of a chart in a page.
const SVG_SIZE: (u32, u32) = (440, 300);
/// Of a chart in TensorBoard, whose frames are so wide: any other picture is fitted into them by leaving out pixels.
const PNG_SIZE: (u32, u32) = (350, 260);
/// Height of a row of text below a chart.
const ROW: u32 = 16;
/// A pixel of a PNG is the mean of so many drawn ones in either direction, so that edges and letters are smooth.
const FINER: u32 = 3;
/// What fonts are called in drawings; a browser takes its own.
pub(super) const SANS: &str = "sans-serif";

/// The colour of what matters.
pub const INK: RGBColor = RGBColor(37, 99, 235);
/// The colour of what it is compared with.
pub const GREY: RGBColor = RGBColor(140, 150, 160);

/// A place to draw a chart.
pub struct Canvas<DB: DrawingBackend> {
    /// Where to draw.
    pub(super) area: DrawingArea<DB, Shift>,
    scale: u32,
}

impl<DB: DrawingBackend> Canvas<DB> {
    /// A length on this canvas.
    pub(super) fn px(&self, length: u32) -> u32 {
        length * self.scale
    }

    /// A chart's frame: caption, margin, room for the labels.
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

/// A picture as a file holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Png {
    /// The file.
    pub bytes: Vec<u8>,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
}

/// What `draw` draws, as an SVG element.
///
/// # Errors
/// What `draw` returns.
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

/// What `draw` draws, as pixels: the chart, and what stands below it on that many rows of text.
pub(super) fn png(
    rows: u32,
    draw: impl FnOnce(&Canvas<BitMapBackend<'_>>, &Canvas<BitMapBackend<'_>>) -> Result<()>,
) -> Result<Png> {
    register_fonts();
    let (width, height) = (PNG_SIZE.0, PNG_SIZE.1 + rows * ROW);
    let (drawn_width, drawn_height) = (width * FINER, height * FINER);
    let mut drawn = vec![0; (3 * drawn_width * drawn_height) as usize];
    {
        let area = BitMapBackend::with_buffer(&mut drawn, (drawn_width, drawn_height)).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let (chart, below) = area.split_vertically(PNG_SIZE.1 * FINER);
        draw(&Canvas { area: chart, scale: FINER }, &Canvas { area: below, scale: FINER })?;
        area.present().map_err(failed)?;
    }
    let pixels = coarser(&drawn, drawn_width as usize);
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::RGB);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_filter(png::FilterType::NoFilter); // large areas of one colour
    encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels)).map_err(failed)?;
    Ok(Png { bytes, width, height })
}

/// Every square of [`FINER`] pixels as one, three bytes each; rows have `width` of the small ones.
fn coarser(drawn: &[u8], width: usize) -> Vec<u8> {
    let finer = FINER as usize;
    let mut pixels = Vec::with_capacity(drawn.len() / (finer * finer));
    for rows in drawn.chunks(3 * width * finer) {
        for left in (0..width).step_by(finer) {
            for colour in 0..3 {
                let places = (0..finer * finer).map(|place| place / finer * width + left + place % finer);
                let sum: usize = places.map(|place| usize::from(rows[3 * place + colour])).sum();
                pixels.push((sum / (finer * finer)) as u8);
            }
        }
    }
    pixels
}

/// Says where letters come from: a font of our own, so that no system needs one.
fn register_fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let registered = register_font(SANS, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
        assert!(registered.is_ok(), "the font is one");
    });
}

/// A plot that cannot be drawn, as an error.
pub fn failed(error: impl std::fmt::Display) -> Error {
    Error::Failed(format!("a plot cannot be drawn: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pixel_is_the_mean_of_a_square() {
        // Two squares of 3 × 3 side by side: black with one white pixel, and grey; only red differs.
        let mut drawn = vec![0; 3 * 6 * 3];
        drawn[3 * 6] = 255;
        for place in 0..9 {
            drawn[3 * (place / 3 * 6 + 3 + place % 3)] = 90;
        }
        assert_eq!(coarser(&drawn, 6), [28, 0, 0, 90, 0, 0]);
    }
}
