//! The peak performance of this machine: matmul through libtorch, and memory bandwidth. Measured before and
//! after each job, because the clock and load of a processor change within seconds.

use align_kernels::HOST;
use align_kernels::kind_of;
use std::time::Instant;

use align_core::config::Dtype;
use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};

use super::jobs::name;
use super::table::Spread;

/// The fastest matmul path of libtorch for each dtype.
pub(super) struct Probe(Vec<(Dtype, Path)>);

/// A matmul path.
#[derive(Clone, Copy)]
enum Path {
    /// libtorch's own choice.
    Mm,
    /// oneDNN on matrices in its own layout.
    Mkldnn,
    /// libtorch's own choice in fp32, whatever the dtype: the fastest on a processor without 16-bit
    /// instructions.
    Widened,
}

/// The ceilings that a row is compared with.
#[derive(Clone)]
pub(super) struct Ceilings {
    /// Floating-point operations per second.
    products: Vec<(Dtype, f64)>,
    /// Bytes read per second.
    pub(super) bandwidth: f64,
}

/// Side of the square matrices: large enough for the best rate, small enough for a few repetitions.
const SIDE: i64 = 2048;
/// The number of fp32 elements read: far more than any cache has.
const ELEMENTS: i64 = 1 << 27;
/// The time spent on each measurement, and the minimum number of repetitions.
const SECONDS: f64 = 0.5;
const TIMES: usize = 3;

impl Probe {
    /// Selects the faster path, which depends on processor and dtype.
    pub(super) fn choose(dtypes: &[Dtype]) -> Self {
        let best = |dtype: Dtype| {
            let rate = |path: &Path| path.rate(kind_of(dtype)).unwrap_or(0.0);
            // The last of equal ones; fp32 needs no conversion.
            let paths = [Path::Widened, Path::Mkldnn, Path::Mm]
                .into_iter()
                .filter(|path| !matches!(path, Path::Widened) || kind_of(dtype) != Kind::Float);
            paths.max_by(|one, other| rate(one).total_cmp(&rate(other))).expect("at least two paths")
        };
        Self(dtypes.iter().map(|dtype| (*dtype, best(*dtype))).collect())
    }

    pub(super) fn measure(&self) -> Ceilings {
        let rate = |(dtype, path): &(Dtype, Path)| (*dtype, path.rate(kind_of(*dtype)).expect("the path was tried"));
        let products = self.0.iter().map(rate).collect();
        let long = Tensor::ones([ELEMENTS], (Kind::Float, HOST));
        let pass = median_seconds(|| drop(long.sum(Kind::Float)));
        Ceilings { products, bandwidth: 4.0 * ELEMENTS as f64 / pass }
    }

    /// The best of several measurements, and the path.
    pub(super) fn to_json(&self, measured: &[Ceilings]) -> Value {
        let best = |rate: &dyn Fn(&Ceilings) -> f64| measured.iter().map(rate).fold(0.0, f64::max) / 1e9;
        let product = |(dtype, path): &(Dtype, Path)| {
            let rate = best(&|ceilings| ceilings.rate(*dtype));
            (name(*dtype).to_owned(), json!({ "gflops": rate, "path": path.name() }))
        };
        let mut all: Map<String, Value> = self.0.iter().map(product).collect();
        let memory = json!({ "gb_per_second": best(&|ceilings| ceilings.bandwidth), "path": "sum of 512 MiB" });
        all.insert("memory".to_owned(), memory);
        Value::Object(all)
    }

    /// One line per ceiling.
    pub(super) fn describe(&self, measured: &[Ceilings]) -> Vec<String> {
        let spread = |rate: &dyn Fn(&Ceilings) -> f64| Spread::of(&measured.iter().map(rate).collect::<Vec<_>>());
        let product = |(dtype, path): &(Dtype, Path)| {
            let Spread { min, max, .. } = spread(&|ceilings| ceilings.rate(*dtype) / 1e9);
            format!("peak, {}: {min:.0}–{max:.0} GFLOP/s ({})", name(*dtype), path.name())
        };
        let mut lines: Vec<String> = self.0.iter().map(product).collect();
        let Spread { min, max, .. } = spread(&|ceilings| ceilings.bandwidth / 1e9);
        lines.push(format!("memory: {min:.1}–{max:.1} GB/s (sum of 512 MiB), the ceiling for decoding"));
        lines
    }
}

impl Path {
    fn name(self) -> &'static str {
        match self {
            Path::Mm => "mm, 2048³",
            Path::Mkldnn => "mkldnn_linear, 2048³",
            Path::Widened => "mm in fp32, 2048³",
        }
    }

    /// Operations per second; `None` if the build of libtorch or the processor does not support the path.
    fn rate(self, kind: Kind) -> Option<f64> {
        let _no_grad = tch::no_grad_guard();
        let kind = if matches!(self, Path::Widened) { Kind::Float } else { kind };
        let factor = Tensor::ones([SIDE, SIDE], (kind, HOST));
        let seconds = match self {
            Path::Mm | Path::Widened => median_seconds(|| drop(factor.mm(&factor))),
            Path::Mkldnn => {
                let laid_out = factor.f_to_mkldnn(None).ok()?;
                let product = || laid_out.f_mkldnn_linear(&laid_out, None::<Tensor>);
                drop(product().ok()?);
                median_seconds(|| drop(product()))
            }
        };
        Some(2.0 * (SIDE as f64).powi(3) / seconds)
    }
}

impl Ceilings {
    /// The rate of a measured dtype.
    pub(super) fn rate(&self, dtype: Dtype) -> f64 {
        let of_dtype = self.products.iter().find(|(measured, _)| *measured == dtype);
        of_dtype.map(|(_, rate)| *rate).expect("every row's dtype is measured")
    }
}

/// The median time of a few repetitions.
fn median_seconds(mut work: impl FnMut()) -> f64 {
    let (begun, mut times) = (Instant::now(), Vec::new());
    while times.len() < TIMES || begun.elapsed().as_secs_f64() < SECONDS {
        let started = Instant::now();
        work();
        times.push(started.elapsed().as_secs_f64());
    }
    Spread::of(&times).median
}
