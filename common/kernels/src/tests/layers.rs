//! Matmuls, norms, gates, rotation.

use super::*;
use crate::rotary::Rotation;

#[test]
fn matmuls() {
    // (m, k, n): a vector, odd sizes, more than a panel of the kernels.
    for (m, k, n) in [(1, 64, 5), (7, 33, 130), (150, 800, 210)] {
        on_every_backend(|case| {
            let dtype = case.precision.matmul;
            let scale = (k as f64).sqrt();
            let (a, b) = (case.random(&[m, k]) / scale, case.random(&[k, n]));
            let (a_transposed, b_transposed) = (a.tr().contiguous(), b.tr().contiguous());
            for (a, b) in [(&a, &b), (&a_transposed.tr(), &b), (&a, &b_transposed.tr())] {
                let expected = case.exact(a).mm(&case.exact(b));
                case.assert_close("matmul", &case.ops.matmul(dtype, a, b), &expected);
                let inputs = [case.ops.matmul_input(a, dtype), case.ops.matmul_input(b, dtype)];
                let mut out = Tensor::full([m, n], 3.0, (Kind::Float, HOST));
                case.ops.matmul_out(dtype, &mut out, &inputs[0], &inputs[1]);
                case.assert_close("matmul_out", &out, &expected);
                case.ops.addmm(dtype, &mut out, a, b);
                case.assert_close("addmm", &out, &(expected * 2.0));
            }
        });
    }
}

#[test]
fn linear_layers_of_many_and_of_few_rows() {
    for rows in [1, 3, 48, 200] {
        on_every_backend(|case| {
            let (x, weight, bias) = (case.random(&[rows, 64]) / 8.0, case.random(&[90, 64]), case.random(&[90]));
            for bias in [None, Some(&bias)] {
                let product = case.exact(&x).mm(&case.exact(&weight).tr());
                let expected = bias.map_or(product.shallow_clone(), |bias| &product + case.exact(bias));
                case.assert_close("linear", &case.ops.linear(case.precision, &x, &weight, bias), &expected);
                let few = case.ops.linear_few_rows(case.precision, &x, &weight, bias);
                case.assert_close("linear_few_rows", &few, &expected);
            }
        });
    }
}

#[test]
fn few_rows_do_not_depend_on_the_rows_beside_them_where_the_cpu_has_kernels() {
    let _generator = seeded(3);
    let precision = Cpu.precision(Kind::Float);
    let (x, weight) = (Tensor::randn([8, 64], (Kind::Float, HOST)), Tensor::randn([90, 64], (Kind::Float, HOST)));
    let together = Cpu.linear_few_rows(precision, &x, &weight, None);
    for row in 0..8 {
        let alone = Cpu.linear_few_rows(precision, &x.narrow(0, row, 1), &weight, None);
        assert!(alone.equal(&together.narrow(0, row, 1)) || !cfg!(target_arch = "x86_64"));
    }
}

/// Row by row in memory, and transposed, which the CPU's kernels leave to the reference.
fn both_layouts(size: [i64; 2], check: impl Fn(&Case, &dyn Fn() -> Tensor)) {
    on_every_backend(|case| {
        check(case, &|| case.random(&size));
        check(case, &|| case.random(&[size[1], size[0]]).tr());
    });
}

#[test]
fn norms() {
    both_layouts([150, 40], |case, new| {
        let (x, grad, weight) = (new(), new(), Tensor::randn([40], (Kind::Float, HOST)));
        let (exact, exact_weight) = (leaf(&x), leaf(&weight));
        let y = exact.rms_norm([40], Some(&exact_weight), 1e-6);
        backward(&y, &grad);
        let found = case.ops.rms_norm(&x, &weight, 1e-6, case.precision.activations);
        case.assert_close("rms_norm", &found, &y);
        // The residual stream and its gradient are fp32.
        let (mut input, mut total) = (Tensor::ones([150, 40], (Kind::Float, HOST)), weight.ones_like());
        let grads = NormGrads { input: &mut input, weight: &mut total };
        case.ops.rms_norm_backward(&x, &weight, 1e-6, &grad, grads);
        case.assert_close("rms_norm_backward", &(input - 1.0), &exact.grad());
        case.assert_close("rms_norm_backward of the weight", &((total - 1.0) / 10.0), &(exact_weight.grad() / 10.0));
    });
}

#[test]
fn gates() {
    both_layouts([500, 70], |case, new| {
        let (gate, up, grad) = (new() * 8.0, new(), new());
        let (exact_gate, exact_up) = (leaf(&gate), leaf(&up));
        let y = exact_gate.silu() * &exact_up;
        backward(&y, &grad);
        case.assert_close("swiglu", &case.ops.swiglu(&gate, &up), &y);
        let (gate_grad, up_grad) = case.ops.swiglu_backward(gate, up, &grad);
        case.assert_close("swiglu_backward, gate", &gate_grad, &exact_gate.grad());
        case.assert_close("swiglu_backward, up", &up_grad, &exact_up.grad());
    });
}

#[test]
fn rotation() {
    on_every_backend(|case| {
        let (heads, grad) = (case.random(&[130, 3, 8]), case.random(&[130, 3, 8]));
        let angles = Tensor::randn([130, 4], (Kind::Float, HOST));
        let rotation = Rotation::new(&angles, 1.5, None, case.precision.activations, HOST);
        // (a, b) → (a·cos − b·sin, b·cos + a·sin), by the definition.
        let x = leaf(&heads);
        let (cos, sin) = (rotation.cos.narrow(2, 0, 4), rotation.sin.narrow(2, 4, 4));
        let [cos, sin] = [cos, sin].map(|part| part.to_kind(Kind::Double));
        let (a, b) = (x.narrow(2, 0, 4), x.narrow(2, 4, 4));
        let y = Tensor::cat(&[&a * &cos - &b * &sin, &b * &cos + &a * &sin], -1);
        backward(&y, &grad);
        case.assert_close("rotate", &case.ops.rotate(heads, &rotation), &y);
        case.assert_close("rotate_backward", &case.ops.rotate_backward(grad, &rotation), &x.grad());
        let expected = (angles.to_kind(Kind::Double).cos() * 1.5).unsqueeze(1);
        case.assert_close("cosines", &rotation.cos.narrow(2, 0, 4), &expected);
    });
}
