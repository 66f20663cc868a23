//! Plots: one drawing, as SVG inside a page and as pixels for TensorBoard.

mod canvas;
mod curves;

pub use canvas::{Canvas, GREY, INK, Png, failed, svg};
pub use curves::{Legend, Line, Plot, Shape, Steps, short};
