//! Weights that are non-finite: results computed with them are non-finite too, or wrong where nothing shows
//! it.

use std::path::Path;

use tch::Kind;

use super::Parameter;
use align_core::error::{Error, Result};

/// Refuses a model with a NaN or an infinity among its weights; `dir` is the folder it was loaded from.
///
/// # Errors
/// [`Error::Failed`] with the first tensor that has one.
pub fn require_finite(dir: &Path, parameters: &[Parameter]) -> Result<()> {
    let _no_grad = tch::no_grad_guard();
    // Finite fp32 numbers never add up to more than fp64 holds, and nothing makes a NaN or an infinity finite
    // again.
    let is_finite = |parameter: &&Parameter| parameter.tensor.sum(Kind::Double).double_value(&[]).is_finite();
    let mut damaged = parameters.iter().filter(|parameter| !is_finite(parameter));
    let Some(first) = damaged.next() else { return Ok(()) };
    let numbers = first.tensor.numel() as i64;
    let wrong = numbers - first.tensor.isfinite().sum(Kind::Int64).int64_value(&[]);
    let others = match damaged.count() {
        0 => String::new(),
        count => format!(", and so are some of {count} other tensors"),
    };
    let (dir, name) = (dir.display(), &first.name);
    Err(Error::Failed(format!(
        "{dir}: {wrong} of {numbers} numbers of {name} are NaN or infinite{others}, expected none; the file is damaged, or the run that wrote it diverged"
    )))
}

#[cfg(test)]
mod tests {
    use tch::Tensor;

    use align_kernels::HOST;

    use super::*;
    use crate::ModelOptions;

    fn said(tensors: &[Tensor]) -> Option<String> {
        let options = ModelOptions { device: HOST, compute: Kind::Float, trainable: true, recompute_layers: false };
        let named = tensors.iter().enumerate();
        let parameters: Vec<Parameter> =
            named.map(|(index, tensor)| Parameter::new(&format!("t{index}"), tensor, Kind::Float, &options)).collect();
        require_finite(Path::new("folder"), &parameters).err().map(|error| error.to_string())
    }

    #[test]
    fn one_number_that_is_none_is_found_and_large_ones_are_not_taken_for_it() {
        let large = Tensor::full([1000], f64::from(f32::MAX), (Kind::Float, HOST));
        assert_eq!(said(&[large.shallow_clone(), -&large]), None);
        for (wrong, count) in [(vec![f32::NAN], 1), (vec![f32::INFINITY, f32::NEG_INFINITY], 2)] {
            let mut numbers = vec![1.0; 7];
            numbers.extend(&wrong);
            let bad = Tensor::from_slice(&numbers);
            let message = said(&[large.shallow_clone(), bad.shallow_clone()]).unwrap();
            assert!(
                message.starts_with(&format!(
                    "folder: {count} of {} numbers of t1 are NaN or infinite, expected",
                    7 + count
                ))
            );
            assert!(
                said(&[bad.shallow_clone(), large.shallow_clone(), bad]).unwrap().contains("some of 1 other tensors")
            );
        }
    }
}
