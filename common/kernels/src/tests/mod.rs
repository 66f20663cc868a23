//! Every operation on every backend, against float64: values, and the gradients that autograd gives there.

mod attention;
mod heads;
mod layers;

use tch::{Kind, Tensor};

use crate::backend::Reference;
use crate::cpu::Cpu;
use crate::norm::NormGrads;
use crate::ops::Ops;
use crate::precision::Precision;
use crate::{HOST, seeded};

/// The backends of this machine.
const BACKENDS: [&(dyn Ops + 'static); 2] = [&Cpu, &Reference];

/// What matmul inputs are rounded to, and how far a result may be from float64, as a part of its largest
/// entry. In bfloat16 the inputs are rounded before float64 sees them; what is left is the rounding of
/// results, to 8 bits.
const DTYPES: [(Kind, f64); 2] = [(Kind::Float, 2e-6), (Kind::BFloat16, 1.2e-2)];

/// Runs a check on every backend and dtype, from the same random numbers.
fn on_every_backend(check: impl Fn(&Case)) {
    for ops in BACKENDS {
        for (matmul, tolerance) in DTYPES {
            let _generator = seeded(7);
            check(&Case { ops, precision: ops.precision(matmul), tolerance });
        }
    }
}

/// A backend and the dtypes it computes in.
struct Case {
    ops: &'static dyn Ops,
    precision: Precision,
    tolerance: f64,
}

impl Case {
    /// Random activations, of a size, as a model holds them.
    fn random(&self, size: &[i64]) -> Tensor {
        Tensor::randn(size, (Kind::Float, HOST)).to_kind(self.precision.matmul).to_kind(self.precision.activations)
    }

    /// An input of a matmul in float64, rounded as the backend rounds it.
    fn exact(&self, tensor: &Tensor) -> Tensor {
        tensor.detach().to_kind(self.precision.matmul).to_kind(Kind::Double)
    }

    fn assert_close(&self, what: &str, found: &Tensor, expected: &Tensor) {
        assert_eq!(found.size(), expected.size(), "{what} on {}", self.ops.name());
        let expected = expected.detach();
        let differs_by = (found.to_kind(Kind::Double) - &expected).abs().max().double_value(&[]);
        let limit = self.tolerance * expected.abs().max().double_value(&[]).max(1.0);
        assert!(differs_by <= limit, "{what} on {} in {:?}: {differs_by:e}", self.ops.name(), self.precision.matmul);
    }
}

/// A leaf in float64.
fn leaf(tensor: &Tensor) -> Tensor {
    tensor.detach().to_kind(Kind::Double).copy().set_requires_grad(true)
}

/// Goes backward from `output` with ∂L/∂output = `grad`, in float64.
fn backward(output: &Tensor, grad: &Tensor) {
    (output * grad.detach().to_kind(Kind::Double)).sum(Kind::Double).backward();
}
