//! Charts: one drawing, as SVG for HTML pages and as PNG for TensorBoard.

mod canvas;
mod curves;

pub use canvas::{Canvas, GREY, INK, Png, failed, svg};
pub use curves::{Legend, Line, Plot, Shape, Steps, short};
