//! TensorBoard event files: scalars, text, histograms and images, and truncation to a step.
//!
//! The records come from `tensorboard-rs`. Its writer is not used: it names files by the second, so that two
//! writers in one folder overwrite each other, starts a thread, and panics on I/O errors.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use protobuf::{Message, RepeatedField};
use tensorboard_proto::event::Event;
use tensorboard_proto::summary::{Summary, Summary_Image, Summary_Value, SummaryMetadata, SummaryMetadata_PluginData};
use tensorboard_proto::tensor::TensorProto;
use tensorboard_proto::tensor_shape::{TensorShapeProto, TensorShapeProto_Dim};
use tensorboard_proto::types::DataType;
use tensorboard_rs::masked_crc32c::masked_crc32c;
use tensorboard_rs::record_writer::RecordWriter;
use tensorboard_rs::summary::{histogram_raw, scalar};

use super::Metrics;
use crate::plot::Png;
use align_core::atomic_files::write_atomic;
use align_core::error::{Error, Result};

const PREFIX: &str = "events.out.tfevents.";

/// The event file of this process.
#[derive(Debug)]
pub struct TensorBoard {
    path: PathBuf,
    file: File,
}

/// A histogram: `counts[i]` values are in (`limits[i − 1]`, `limits[i]`].
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// Number of values.
    pub num: f64,
    /// Their sum.
    pub sum: f64,
    /// The sum of their squares.
    pub sum_squares: f64,
    /// Upper edges of the buckets.
    pub limits: Vec<f64>,
    /// Values per bucket.
    pub counts: Vec<f64>,
}

impl Histogram {
    /// A histogram of the finite `values` in 30 buckets of equal width; `None` without any.
    pub fn of(values: &[f64]) -> Option<Self> {
        const BUCKETS: usize = 30;
        let values: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        let min = values.iter().copied().reduce(f64::min)?;
        let max = values.iter().copied().reduce(f64::max)?;
        let width = (max - min) / BUCKETS as f64;
        let mut counts = vec![0.0; BUCKETS];
        for value in &values {
            // The smallest value belongs to the first bucket, although that excludes its lower edge.
            let above = if width > 0.0 { ((value - min) / width).ceil() as usize } else { 1 };
            counts[above.clamp(1, BUCKETS) - 1] += 1.0;
        }
        // Buckets need a positive width even if all values are equal.
        let width = if width > 0.0 { width } else { 1e-9_f64.max(max.abs() * 1e-9) };
        Some(Self {
            min,
            max,
            num: values.len() as f64,
            sum: values.iter().sum(),
            sum_squares: values.iter().map(|value| value * value).sum(),
            limits: (1..=BUCKETS).map(|bucket| min + width * bucket as f64).collect(),
            counts,
        })
    }
}

impl TensorBoard {
    /// Starts a new event file in `folder`, beside those of earlier processes.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be created.
    pub fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let seconds = wall_time() as u64;
        let mut number = 0;
        let (path, file) = loop {
            let path = folder.join(format!("{PREFIX}{seconds:010}.align.{}.{number}", std::process::id()));
            match OpenOptions::new().append(true).create_new(true).open(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                file => break (path.clone(), file.map_err(Error::io(&path))?),
            }
        };
        let mut board = Self { path, file };
        let mut event = Event::new();
        event.set_file_version("brain.Event:2".to_owned());
        board.write(event, 0)?;
        Ok(board)
    }

    /// Writes all scalars of a step.
    ///
    /// # Errors
    /// [`Error::Io`] when they cannot be written.
    pub fn scalars(&mut self, step: u64, metrics: &Metrics) -> Result<()> {
        let mut summary = Summary::new();
        for (name, value) in metrics.iter() {
            summary.mut_value().extend(scalar(name, value as f32).take_value());
        }
        self.summary(summary, step)
    }

    /// Writes a histogram under `tag`.
    ///
    /// # Errors
    /// As [`TensorBoard::scalars`].
    pub fn histogram(&mut self, step: u64, tag: &str, histogram: &Histogram) -> Result<()> {
        let Histogram { min, max, num, sum, sum_squares, limits, counts } = histogram;
        self.summary(histogram_raw(tag, *min, *max, *num, *sum, *sum_squares, limits, counts), step)
    }

    /// Writes a text under `tag`; TensorBoard renders it as Markdown.
    ///
    /// # Errors
    /// As [`TensorBoard::scalars`].
    pub fn text(&mut self, step: u64, tag: &str, text: &str) -> Result<()> {
        let mut plugin = SummaryMetadata_PluginData::new();
        plugin.set_plugin_name("text".to_owned());
        let mut metadata = SummaryMetadata::new();
        metadata.set_plugin_data(plugin);
        let mut shape = TensorShapeProto::new();
        let mut one = TensorShapeProto_Dim::new();
        one.set_size(1);
        shape.mut_dim().push(one);
        let mut tensor = TensorProto::new();
        tensor.set_dtype(DataType::DT_STRING);
        tensor.set_tensor_shape(shape);
        tensor.mut_string_val().push(text.as_bytes().to_vec());
        let mut value = Summary_Value::new();
        value.set_tag(tag.to_owned());
        value.set_metadata(metadata);
        value.set_tensor(tensor);
        let mut summary = Summary::new();
        summary.set_value(RepeatedField::from_vec(vec![value]));
        self.summary(summary, step)
    }

    /// Writes an image under `tag`.
    ///
    /// # Errors
    /// As [`TensorBoard::scalars`].
    pub fn image(&mut self, step: u64, tag: &str, png: &Png) -> Result<()> {
        const RGB: i32 = 3; // Summary.Image.colorspace
        let mut image = Summary_Image::new();
        image.set_width(i32::try_from(png.width).unwrap_or(i32::MAX));
        image.set_height(i32::try_from(png.height).unwrap_or(i32::MAX));
        image.set_colorspace(RGB);
        image.set_encoded_image_string(png.bytes.clone());
        let mut value = Summary_Value::new();
        value.set_tag(tag.to_owned());
        value.set_image(image);
        let mut summary = Summary::new();
        summary.set_value(RepeatedField::from_vec(vec![value]));
        self.summary(summary, step)
    }

    fn summary(&mut self, summary: Summary, step: u64) -> Result<()> {
        let mut event = Event::new();
        event.set_summary(summary);
        self.write(event, step)
    }

    fn write(&mut self, mut event: Event, step: u64) -> Result<()> {
        event.set_wall_time(wall_time());
        event.set_step(i64::try_from(step).unwrap_or(i64::MAX));
        let record = record(&event);
        self.file.write_all(&record).map_err(Error::io(&self.path))
    }
}

/// The kind of a value in an event.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shown<'a> {
    /// A scalar, by name.
    Scalar(&'a str),
    /// A text, a histogram or an image.
    Picture,
}

/// Rewrites every event file in `folder` with the values for which `keep` returns true. A partial last record
/// of a killed process is removed.
///
/// # Errors
/// [`Error::Io`] when a file cannot be read or written.
pub(crate) fn retain(folder: &Path, keep: &dyn Fn(u64, Shown<'_>) -> bool) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX)) {
            continue;
        }
        let bytes = fs::read(&path).map_err(Error::io(&path))?;
        let mut kept = Vec::with_capacity(bytes.len());
        let mut has_values = false;
        for mut event in events(&bytes) {
            if event.has_summary() {
                let step = u64::try_from(event.get_step()).unwrap_or(0);
                let values = event.mut_summary().take_value().into_vec();
                let values: Vec<_> = values.into_iter().filter(|value| keep(step, shown(value))).collect();
                if values.is_empty() {
                    continue;
                }
                has_values = true;
                event.mut_summary().set_value(RepeatedField::from_vec(values));
            }
            kept.extend(record(&event));
        }
        if !has_values {
            fs::remove_file(&path).map_err(Error::io(&path))?;
        } else if kept != bytes {
            write_atomic(&path, &kept)?;
        }
    }
    Ok(())
}

fn shown(value: &Summary_Value) -> Shown<'_> {
    if value.has_simple_value() { Shown::Scalar(value.get_tag()) } else { Shown::Picture }
}

/// The undamaged events at the beginning of a file.
fn events(mut bytes: &[u8]) -> Vec<Event> {
    let mut found = Vec::new();
    while let Some((event, rest)) = first_event(bytes) {
        found.push(event);
        bytes = rest;
    }
    found
}

/// Parses the first record: its length (u64), the length's checksum, the data and the data's checksum (u32
/// each), little-endian.
fn first_event(bytes: &[u8]) -> Option<(Event, &[u8])> {
    let (header, rest) = bytes.split_at_checked(12)?;
    let (length, length_crc) = header.split_at(8);
    if masked_crc32c(length).to_le_bytes() != *length_crc {
        return None;
    }
    let length = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
    let (data, rest) = rest.split_at_checked(length)?;
    let (crc, rest) = rest.split_at_checked(4)?;
    if masked_crc32c(data).to_le_bytes() != *crc {
        return None;
    }
    Some((Event::parse_from_bytes(data).ok()?, rest))
}

/// An event as one record, to be written with a single call.
fn record(event: &Event) -> Vec<u8> {
    let data = event.write_to_bytes().expect("all fields are set");
    let mut writer = Vec::with_capacity(data.len() + 16);
    RecordWriter::new(&mut writer).write(&data).expect("writing to memory cannot fail");
    writer
}

/// Seconds since the Unix epoch.
fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

/// Every value of every file in `folder` as (step, tag, value as text).
#[cfg(test)]
pub(crate) fn event_values(folder: &Path) -> Vec<(i64, String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        for event in events(&fs::read(entry.unwrap().path()).unwrap()) {
            for value in event.get_summary().get_value() {
                found.push((event.get_step(), value.get_tag().to_owned(), format!("{value:?}")));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_writers_in_one_second_have_separate_files() {
        let folder = tempfile::tempdir().unwrap();
        let mut boards = [TensorBoard::create(folder.path()).unwrap(), TensorBoard::create(folder.path()).unwrap()];
        for (number, board) in boards.iter_mut().enumerate() {
            board.scalars(1, &[(format!("x{number}"), 0.5)].into_iter().collect()).unwrap();
        }
        let tags: Vec<String> = event_values(folder.path()).into_iter().map(|(_, tag, _)| tag).collect();
        assert_eq!(tags.len(), 2, "{tags:?}");
    }

    #[test]
    fn truncation_to_a_step_wherever_the_file_ends() {
        let folder = tempfile::tempdir().unwrap();
        let mut board = TensorBoard::create(folder.path()).unwrap();
        for step in 1..=3 {
            board.scalars(step, &[("a", 1.0), ("eval/b", f64::NAN)].into_iter().collect()).unwrap();
        }
        let path = board.path.clone();
        let whole = fs::read(&path).unwrap();
        let lengths: Vec<usize> = (0..=whole.len()).step_by(7).chain([whole.len()]).collect();
        for length in lengths {
            fs::write(&path, &whole[..length]).unwrap();
            retain(folder.path(), &|step, shown| step <= 2 && !(step == 2 && matches!(shown, Shown::Scalar("eval/b"))))
                .unwrap();
            let found: Vec<(i64, String)> =
                event_values(folder.path()).into_iter().map(|(step, tag, _)| (step, tag)).collect();
            let all = [(1, "a"), (1, "eval/b"), (2, "a")].map(|(step, tag)| (step, tag.to_owned()));
            assert!(all.starts_with(&found), "{length}: {found:?}");
            if length == whole.len() {
                assert_eq!(found.len(), 3);
            }
        }
        retain(folder.path(), &|_, _| false).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_histogram_by_hand() {
        let histogram = Histogram::of(&[0.0, 30.0, 29.5, f64::NAN, 0.5, 1.5]).unwrap();
        assert_eq!((histogram.min, histogram.max, histogram.num, histogram.sum), (0.0, 30.0, 5.0, 61.5));
        assert_eq!((histogram.counts[0], histogram.counts[1], histogram.counts[29]), (2.0, 1.0, 2.0));
        assert_eq!((histogram.limits[0], histogram.limits[29]), (1.0, 30.0));
        assert_eq!(Histogram::of(&[f64::NAN]), None);
        let equal = Histogram::of(&[2.0; 3]).unwrap();
        assert_eq!(equal.counts.iter().sum::<f64>(), 3.0);
        assert!(equal.limits.is_sorted());
    }
}
