//! Attention on the CPU where the gemm of this crate is used: runs of queries by runs of keys, a head at a
//! time, forward and backward. The backward pass computes probabilities again (Dao et al. 2022,
//! "FlashAttention", [arXiv 2205.14135](https://arxiv.org/abs/2205.14135), appendix B.4), so that the forward
//! pass saves its output alone:
//!
//! P = softmax(scale·QKᵀ + mask), O = PV; ∂V = Pᵀ∂O, ∂P = ∂O·Vᵀ, ∂S = P∘(∂P − rowsum(∂O∘O)), ∂Q = scale·∂S·K,
//! ∂K = scale·∂Sᵀ·Q

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::gemm::{self, Element, MatMut, MatRef, Size, Write};
use super::matmul::gemm_for;
use super::simd::{multiply_add, simd_dispatch};
use super::slices::as_f32_slice;
use super::softmax::{exponentials, multiply};
use super::threads;
use crate::attention::{Heads, Plan, ranges};

/// The number of scores that are computed together, and the minimum number of their rows.
const SCORES: usize = 1 << 18;
const ROWS: usize = 32;

/// A run of queries and what it sees.
struct Run<'a> {
    /// Tokens.
    queries: Range<usize>,
    keys: Vec<Range<usize>>,
    /// Added to scores (n, m); unless given, the keys are the queries' own, and each sees those up to itself.
    mask: Option<&'a [f32]>,
}

/// The attention of a layer.
pub(super) struct Attention<'a> {
    /// Runs that see each other's keys form a tree.
    trees: Vec<Vec<Run<'a>>>,
    scale: f64,
    /// E, the width of a head.
    width: usize,
    /// What matmul inputs are rounded to.
    dtype: Element,
}

/// (T, H, E) fp32 in memory, with the strides of tokens and heads.
#[derive(Clone, Copy)]
struct HeadMatrices {
    start: *mut f32,
    token: usize,
    head: usize,
    width: usize,
}

#[expect(unsafe_code, reason = "threads write to heads and runs of their own")]
// SAFETY: what is shared is read; what is written belongs to one head of one tree, which one thread works on.
unsafe impl Sync for HeadMatrices {}

impl HeadMatrices {
    fn of(tensor: &Tensor) -> Self {
        let (_, _, width) = tensor.size3().expect("heads are (T, H, E)");
        let strides = tensor.stride();
        let is_read = tensor.kind() == Kind::Float && tensor.device() == Device::Cpu && strides[2] == 1;
        assert!(is_read, "expected fp32 on the CPU, with contiguous heads");
        let start = tensor.data_ptr().cast();
        Self { start, token: strides[0] as usize, head: strides[1] as usize, width: width as usize }
    }

    fn at(&self, token: usize, head: usize) -> *mut f32 {
        self.start.wrapping_add(token * self.token + head * self.head)
    }

    /// The matrix (tokens, E) from this token on.
    fn rows(&self, token: usize, head: usize) -> MatRef {
        MatRef { start: self.at(token, head).cast_const().cast(), element: Element::F32, strides: [self.token, 1] }
    }

    /// The same matrix, transposed.
    fn transposed(&self, token: usize, head: usize) -> MatRef {
        MatRef { strides: [1, self.token], ..self.rows(token, head) }
    }

    fn output(&self, token: usize, head: usize, write: Write) -> MatMut {
        MatMut { start: self.at(token, head), stride: self.token, write }
    }

    #[expect(unsafe_code, reason = "tch gives no slice of a head")]
    fn row(&self, token: usize, head: usize) -> &[f32] {
        // SAFETY: callers ask for tokens and heads that there are, of tensors that outlive this.
        unsafe { std::slice::from_raw_parts(self.at(token, head), self.width) }
    }
}

/// The heads.
struct Inputs {
    queries: HeadMatrices,
    keys: HeadMatrices,
    values: HeadMatrices,
    groups: usize,
}

impl Inputs {
    fn of(heads: &Heads) -> Self {
        let (queries, keys, values) = (&heads.queries, &heads.keys, &heads.values);
        let groups = (queries.size()[1] / keys.size()[1]) as usize;
        let [queries, keys, values] = [queries, keys, values].map(HeadMatrices::of);
        Self { queries, keys, values, groups }
    }
}

impl Run<'_> {
    /// Rows of queries that are computed together, and the keys that any of them sees.
    fn parts(&self) -> impl Iterator<Item = (Range<usize>, Vec<Range<usize>>)> {
        let all: usize = self.keys.iter().map(Range::len).sum();
        let rows = (SCORES / all.max(1)).max(ROWS);
        self.queries.clone().step_by(rows).map(move |first| {
            let part = first..(first + rows).min(self.queries.end);
            let keys = match self.mask {
                Some(_) => self.keys.clone(),
                None => std::iter::once(self.queries.start..part.end).collect(),
            };
            (part, keys)
        })
    }
}

impl<'a> Attention<'a> {
    /// That of a plan, where this processor has the kernels.
    pub(super) fn of(plan: &'a Plan, heads: &Heads, window: Option<i64>) -> Option<Self> {
        let dtype = gemm_for(plan.matmul)?;
        let (queries, keys) = (ranges(&plan.query_sizes), ranges(&plan.key_sizes));
        let mask = plan.mask_index(window);
        let mut trees: Vec<Vec<Run<'_>>> = Vec::new();
        for (call, queries) in plan.calls.iter().zip(queries) {
            let mut seen: Vec<Range<usize>> = Vec::new();
            for run in call.keys.iter().map(|&run| keys[run].clone()) {
                match seen.last_mut() {
                    Some(last) if last.end == run.start => last.end = run.end,
                    _ => seen.push(run),
                }
            }
            let sees_others = seen != [queries.clone()];
            let run = Run { queries, keys: seen, mask: call.masks[mask].as_ref().map(as_f32_slice) };
            match trees.last_mut() {
                Some(tree) if sees_others => tree.push(run),
                _ => trees.push(vec![run]),
            }
        }
        let width = heads.queries.size()[2] as usize;
        Some(Self { trees, scale: plan.scale, width, dtype })
    }

    /// → (T, H, E).
    pub(super) fn forward(&self, heads: &Heads) -> Tensor {
        let output = Tensor::empty(heads.queries.size(), (Kind::Float, Device::Cpu));
        let (inputs, out) = (Inputs::of(heads), HeadMatrices::of(&output));
        self.each(heads, |runs, head| {
            let mut scores = Vec::new();
            for run in runs {
                for (rows, keys) in run.parts() {
                    self.probabilities(&inputs, head, run, &rows, &keys, &mut scores);
                    let values = |token: usize| inputs.values.rows(token, head / inputs.groups);
                    self.weighted_values(&scores, &keys, &rows, values, out, head);
                }
            }
        });
        output
    }

    /// The gradients of the heads, given attention's output (T, H, E) and its gradient.
    pub(super) fn backward(&self, heads: &Heads, output: &Tensor, grad: &Tensor) -> Heads {
        let (tokens, count, width) = heads.queries.size3().expect("queries are (T, H, E)");
        let kv_heads = heads.keys.size()[1];
        let queries = Tensor::empty([tokens, count, width], (Kind::Float, Device::Cpu));
        // Of each head of queries, then summed over those that share keys.
        let (keys, values) = (queries.zeros_like(), queries.zeros_like());
        let grad = grad.view([tokens, count, width]);
        let (inputs, output, grad) =
            (Inputs::of(heads), HeadMatrices::of(&output.view_as(&queries)), HeadMatrices::of(&grad));
        let [to_queries, to_keys, to_values] = [&queries, &keys, &values].map(HeadMatrices::of);
        self.each(heads, |runs, head| {
            let (mut scores, mut score_grads) = (Vec::new(), Vec::new());
            let shared = head / inputs.groups;
            for run in runs {
                for (rows, keys) in run.parts() {
                    let width = self.probabilities(&inputs, head, run, &rows, &keys, &mut scores);
                    score_grads.resize(scores.len(), 0.0);
                    let values = |token| inputs.values.transposed(token, shared);
                    self.scores_from_keys(&mut score_grads, &rows, &keys, grad.rows(rows.start, head), values);
                    self.accumulate_into_keys(&scores, &keys, &rows, grad.rows(rows.start, head), to_values, head);
                    for (row, (scores, score_grads)) in
                        scores.chunks_exact(width).zip(score_grads.chunks_exact_mut(width)).enumerate()
                    {
                        let token = rows.start + row;
                        let row_dot = dot(grad.row(token, head), output.row(token, head));
                        softmax_backward(score_grads, scores, row_dot, self.scale as f32);
                    }
                    self.weighted_values(
                        &score_grads,
                        &keys,
                        &rows,
                        |token| inputs.keys.rows(token, shared),
                        to_queries,
                        head,
                    );
                    self.accumulate_into_keys(
                        &score_grads,
                        &keys,
                        &rows,
                        inputs.queries.rows(rows.start, head),
                        to_keys,
                        head,
                    );
                }
            }
        });
        let shared = |grad: Tensor| match count / kv_heads {
            1 => grad,
            groups => {
                grad.view([tokens, kv_heads, groups, width]).sum_dim_intlist([2i64].as_slice(), false, Kind::Float)
            }
        };
        Heads { queries, keys: shared(keys), values: shared(values) }
    }

    /// Calls `work` with the runs of each tree and each head of queries, on all threads.
    fn each(&self, heads: &Heads, work: impl Fn(&[Run<'_>], usize) + Sync) {
        let count = heads.queries.size()[1] as usize;
        let items = self.trees.iter().flat_map(|tree| (0..count).map(move |head| (tree, head)));
        let pairs = |run: &Run<'_>| run.queries.len() * run.keys.iter().map(Range::len).sum::<usize>();
        let scores = count * self.trees.iter().flatten().map(pairs).sum::<usize>();
        threads::parallel_for(items.collect(), scores, |(tree, head): (&Vec<Run<'_>>, usize)| work(tree, head));
    }

    /// P (rows, keys) of one head; returns how many keys there are.
    fn probabilities(
        &self,
        inputs: &Inputs,
        head: usize,
        run: &Run<'_>,
        rows: &Range<usize>,
        keys: &[Range<usize>],
        scores: &mut Vec<f32>,
    ) -> usize {
        let width = keys.iter().map(Range::len).sum();
        scores.resize(rows.len() * width, 0.0);
        let transposed = |token| inputs.keys.transposed(token, head / inputs.groups);
        self.scores_from_keys(scores, rows, keys, inputs.queries.rows(rows.start, head), transposed);
        for (row, scores) in scores.chunks_exact_mut(width).enumerate() {
            let at = rows.start + row - run.queries.start;
            match run.mask {
                Some(mask) => {
                    scaled(scores, self.scale as f32, &mask[at * width..][..width]);
                    probabilities(scores);
                }
                None => {
                    let (seen, rest) = scores.split_at_mut(at + 1);
                    multiply(seen, self.scale as f32);
                    probabilities(seen);
                    rest.fill(0.0);
                }
            }
        }
        width
    }

    /// out (rows, keys) = a (rows, E) · b (E, keys), where `of` gives b for the first token of a range of
    /// keys.
    fn scores_from_keys(
        &self,
        out: &mut [f32],
        rows: &Range<usize>,
        keys: &[Range<usize>],
        a: MatRef,
        of: impl Fn(usize) -> MatRef,
    ) {
        let stride = out.len() / rows.len();
        for (column, range) in columns(keys) {
            let place = MatMut { start: out[column..].as_mut_ptr(), stride, write: Write::Set };
            self.gemm(Size { m: rows.len(), k: self.width, n: range.len() }, place, a, of(range.start));
        }
    }

    /// out (rows, E) = `weights` (rows, keys) · b (keys, E), where `of` gives b for the first token of a
    /// range of keys.
    fn weighted_values(
        &self,
        weights: &[f32],
        keys: &[Range<usize>],
        rows: &Range<usize>,
        of: impl Fn(usize) -> MatRef,
        out: HeadMatrices,
        head: usize,
    ) {
        for (column, range) in columns(keys) {
            let a = mat_ref(&weights[column..], [weights.len() / rows.len(), 1]);
            let size = Size { m: rows.len(), k: range.len(), n: self.width };
            self.gemm(
                size,
                out.output(rows.start, head, if column > 0 { Write::Add } else { Write::Set }),
                a,
                of(range.start),
            );
        }
    }

    /// out (keys, E) += `weights` (rows, keys)ᵀ · b (rows, E).
    fn accumulate_into_keys(
        &self,
        weights: &[f32],
        keys: &[Range<usize>],
        rows: &Range<usize>,
        b: MatRef,
        out: HeadMatrices,
        head: usize,
    ) {
        for (column, range) in columns(keys) {
            let a = mat_ref(&weights[column..], [1, weights.len() / rows.len()]);
            let size = Size { m: range.len(), k: rows.len(), n: self.width };
            self.gemm(size, out.output(range.start, head, Write::Add), a, b);
        }
    }

    #[expect(unsafe_code, reason = "kernels work on pointers")]
    fn gemm(&self, size: Size, out: MatMut, a: MatRef, b: MatRef) {
        // SAFETY: the matrices are within tensors and buffers that outlive this call; no other thread uses
        // the output.
        unsafe { gemm::multiply(self.dtype, size, out, a, b) }
    }
}

/// Ranges of keys, each with the column at which its scores begin.
fn columns(keys: &[Range<usize>]) -> impl Iterator<Item = (usize, &Range<usize>)> {
    keys.iter().scan(0, |next, range| {
        let column = *next;
        *next += range.len();
        Some((column, range))
    })
}

fn mat_ref(matrix: &[f32], strides: [usize; 2]) -> MatRef {
    MatRef { start: matrix.as_ptr().cast(), element: Element::F32, strides }
}

/// Scores → probabilities.
fn probabilities(scores: &mut [f32]) {
    let sum = exponentials(scores);
    multiply(scores, (1.0 / sum) as f32);
}

simd_dispatch! {
    /// scores·scale + mask.
    fn scaled(scores: &mut [f32], scale: f32, mask: &[f32]) = scaled_by;
}

#[inline(always)]
fn scaled_by<const FMA: bool>(scores: &mut [f32], scale: f32, mask: &[f32]) {
    for (score, mask) in scores.iter_mut().zip(mask) {
        *score = multiply_add::<FMA>(*score, scale, *mask);
    }
}

simd_dispatch! {
    /// ∂P → scale·∂S: P∘(∂P − row_dot)·scale.
    fn softmax_backward(score_grads: &mut [f32], probabilities: &[f32], row_dot: f32, scale: f32) = softmax_backward_by;
}

#[inline(always)]
fn softmax_backward_by<const FMA: bool>(score_grads: &mut [f32], probabilities: &[f32], row_dot: f32, scale: f32) {
    for (grad, probability) in score_grads.iter_mut().zip(probabilities) {
        *grad = probability * (*grad - row_dot) * scale;
    }
}

fn dot(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definitions, in double precision: all scores of every head at once.
    fn expected(heads: &Heads, mask: &Tensor, scale: f64) -> Tensor {
        let groups = heads.queries.size()[1] / heads.keys.size()[1];
        let double = |tensor: &Tensor| tensor.to_kind(Kind::Double).transpose(0, 1);
        let [keys, values] =
            [&heads.keys, &heads.values].map(|shared| double(shared).repeat_interleave_self_int(groups, 0, None));
        let scores = double(&heads.queries).matmul(&keys.transpose(1, 2)) * scale + mask;
        scores.softmax(-1, Kind::Double).matmul(&values).transpose(0, 1)
    }

    #[test]
    fn attention_and_its_gradients_are_those_of_autograd_in_double_precision() {
        if !gemm::has(Element::F32) {
            return;
        }
        let _generator = crate::seeded(5);
        // A long run and, in a tree of its own, a branch that sees a part of its root.
        let (tokens, long, root) = (760, 700, 40);
        let random = |count: i64| Tensor::randn([tokens, count, 16], (Kind::Float, Device::Cpu));
        let heads = Heads { queries: random(4), keys: random(2), values: random(2) };
        let branch = long + root..tokens as usize;
        let whole = Tensor::full([tokens, tokens], f64::NEG_INFINITY, (Kind::Double, Device::Cpu));
        for (from, to) in [(0, long), (long, long + root), (branch.start, branch.end)] {
            for row in from..to {
                let _ = whole.get(row as i64).narrow(0, from as i64, (row - from + 1) as i64).zero_();
            }
        }
        for row in branch.clone() {
            let _ = whole.get(row as i64).narrow(0, long as i64, 25).zero_();
        }
        let seen = Tensor::cat(&[whole.narrow(1, long as i64, 25), whole.narrow(1, branch.start as i64, 20)], 1);
        let mask = seen.narrow(0, branch.start as i64, 20).to_kind(Kind::Float).contiguous();
        let own =
            |range: Range<usize>| Run { queries: range.clone(), keys: std::iter::once(range).collect(), mask: None };
        let attention = Attention {
            trees: vec![
                vec![own(0..long)],
                vec![
                    own(long..long + root),
                    Run {
                        queries: branch.clone(),
                        keys: vec![long..long + 25, branch],
                        mask: Some(crate::cpu::slices::as_f32_slice(&mask)),
                    },
                ],
            ],
            scale: 0.3,
            width: 16,
            dtype: Element::F32,
        };
        let leaf = |tensor: &Tensor| tensor.to_kind(Kind::Double).set_requires_grad(true);
        let leaves = Heads { queries: leaf(&heads.queries), keys: leaf(&heads.keys), values: leaf(&heads.values) };
        let right = expected(&leaves, &whole, 0.3);
        let grad = random(4);
        (&right * grad.to_kind(Kind::Double)).sum(Kind::Double).backward();

        let output = attention.forward(&heads);
        let grads = attention.backward(&heads, &output.flatten(1, -1), &grad.flatten(1, -1));
        let close = |found: &Tensor, right: &Tensor, what: &str| {
            let difference = (found.to_kind(Kind::Double) - right).abs().max().double_value(&[]);
            assert!(difference < 2e-5, "{what}: {difference:e}");
        };
        close(&output, &right, "output");
        close(&grads.queries, &leaves.queries.grad(), "queries");
        close(&grads.keys, &leaves.keys.grad(), "keys");
        close(&grads.values, &leaves.values.grad(), "values");
    }
}
