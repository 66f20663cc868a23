//! Newton's method for concave log-likelihoods of a few parameters.

/// A point, with the function's value, gradient and negative Hessian there.
pub(crate) struct Local {
    /// The log-likelihood.
    pub(crate) value: f64,
    /// (P) Its gradient.
    pub(crate) gradient: Vec<f64>,
    /// (P, P) The negative of its Hessian, positive definite.
    pub(crate) curvature: Vec<f64>,
}

/// The maximum number of Newton steps. Separable data under a small ridge needs some dozens.
const MAX_STEPS: usize = 200;
/// Newton's decrement, relative to the function, at which one more step reaches the maximum. Below it,
/// differences of the function are mostly rounding.
const TOLERANCE: f64 = 1e-13;

/// The maximum of a concave function from `start`, by Newton's method with halved steps where the full one
/// overshoots. Returns the point and the function there; `None` if it was not found.
pub(crate) fn maximize(start: Vec<f64>, evaluate: impl Fn(&[f64]) -> Local) -> Option<(Vec<f64>, Local)> {
    let mut point = start;
    let mut local = evaluate(&point);
    for _ in 0..MAX_STEPS {
        let step = solve(&local.curvature, &local.gradient)?;
        let decrement: f64 = step.iter().zip(&local.gradient).map(|(step, gradient)| step * gradient).sum();
        if decrement <= TOLERANCE * (1.0 + local.value.abs()) {
            let point = moved(&point, &step, 1.0);
            let local = evaluate(&point);
            return Some((point, local));
        }
        let mut scale = 1.0;
        loop {
            let next = moved(&point, &step, scale);
            let there = evaluate(&next);
            if there.value >= local.value + 1e-4 * scale * decrement {
                (point, local) = (next, there);
                break;
            }
            scale /= 2.0;
            if scale < 1e-9 {
                return None;
            }
        }
    }
    None
}

fn moved(point: &[f64], step: &[f64], scale: f64) -> Vec<f64> {
    point.iter().zip(step).map(|(at, step)| at + scale * step).collect()
}

/// The lower triangle L of a positive definite matrix A = L Lᵀ; `None` if it is not positive definite.
fn cholesky(matrix: &[f64], size: usize) -> Option<Vec<f64>> {
    let mut lower = vec![0.0; size * size];
    for row in 0..size {
        for column in 0..=row {
            let dot: f64 = (0..column).map(|k| lower[row * size + k] * lower[column * size + k]).sum();
            let rest = matrix[row * size + column] - dot;
            if row == column {
                if rest.is_nan() || rest <= 0.0 {
                    return None;
                }
                lower[row * size + row] = rest.sqrt();
            } else {
                lower[row * size + column] = rest / lower[column * size + column];
            }
        }
    }
    Some(lower)
}

/// The solution of A x = b for a positive definite A.
pub(crate) fn solve(matrix: &[f64], right: &[f64]) -> Option<Vec<f64>> {
    let size = right.len();
    let lower = cholesky(matrix, size)?;
    let mut solution = right.to_vec();
    for row in 0..size {
        let known: f64 = (0..row).map(|k| lower[row * size + k] * solution[k]).sum();
        solution[row] = (solution[row] - known) / lower[row * size + row];
    }
    for row in (0..size).rev() {
        let known: f64 = (row + 1..size).map(|k| lower[k * size + row] * solution[k]).sum();
        solution[row] = (solution[row] - known) / lower[row * size + row];
    }
    Some(solution)
}
