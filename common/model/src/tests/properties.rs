//! What must not change a number: packing, prefix sharing, the cache, recomputation, chunks.

use align_kernels::HOST;
use proptest::prelude::*;
use tch::{Kind, Tensor};

use super::*;
use crate::{CausalLm, Dropout, Forward, Over, ScalarModel};
use align_kernels::batch::FlatBatch;

/// Batches of other shapes round differently.
const SHAPES: f64 = 1e-5;

/// A random forest of segments: (tokens, parent among those before it).
fn forest() -> impl Strategy<Value = Vec<(Vec<i64>, Option<usize>)>> {
    let segment = (prop::collection::vec(2..313i64, 0..9), any::<prop::sample::Index>(), any::<bool>());
    prop::collection::vec(segment, 1..9).prop_map(|segments| {
        let parent = |at: usize, index: prop::sample::Index, has: bool| (has && at > 0).then(|| index.index(at));
        segments.into_iter().enumerate().map(|(at, (tokens, index, has))| (tokens, parent(at, index, has))).collect()
    })
}

fn batch_of(forest: &[(Vec<i64>, Option<usize>)]) -> FlatBatch {
    let mut batch = FlatBatch::new();
    for (tokens, parent) in forest {
        batch.push(tokens, *parent);
    }
    batch
}

/// The whole sequence that ends in a segment.
fn path(batch: &FlatBatch, segment: usize) -> Vec<i64> {
    let mut chain: Vec<usize> = batch.ancestors(segment).collect();
    chain.reverse();
    chain.push(segment);
    chain.into_iter().flat_map(|at| batch.tokens()[batch.segments()[at].range.clone()].to_vec()).collect()
}

fn grads(model: &CausalLm) -> Vec<Tensor> {
    model.parameters().iter().map(|parameter| parameter.tensor.grad().copy()).collect()
}

fn clear(model: &CausalLm) {
    for parameter in model.parameters() {
        parameter.tensor.shallow_clone().zero_grad();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn every_segment_equals_its_sequence_alone(forest in forest(), which in 0..NEWER.len()) {
        let model = CausalLm::load(&tiny(NEWER[which]), &frozen(Kind::Float)).unwrap();
        let batch = batch_of(&forest);
        prop_assume!(!batch.is_empty());
        let hidden = model.hidden(&batch, None);
        for (index, segment) in batch.segments().iter().enumerate().filter(|(_, segment)| !segment.range.is_empty()) {
            let mut alone = FlatBatch::new();
            alone.push(&path(&batch, index), None);
            let length = segment.range.len() as i64;
            let expected = model.hidden(&alone, None).narrow(0, alone.len() as i64 - length, length);
            let found = hidden.narrow(0, segment.range.start as i64, length);
            prop_assert!(distance(&found, &expected) < SHAPES, "{} segment {index}", NEWER[which]);
        }
    }

    #[test]
    fn sharing_a_prefix_leaves_the_gradients(prompt in prop::collection::vec(2..313i64, 1..9), answers in prop::collection::vec(prop::collection::vec(2..313i64, 1..6), 1..4)) {
        let model = CausalLm::load(&tiny("qwen2_sliding"), &trainable()).unwrap();
        let (mut shared, mut separate) = (FlatBatch::new(), FlatBatch::new());
        let (mut shared_rows, mut separate_rows, mut targets) = (Vec::new(), Vec::new(), Vec::<i64>::new());
        let parent = shared.push(&prompt, None);
        for answer in &answers {
            // The last prompt token predicts the first answer token of every answer; here the rest are
            // enough.
            shared_rows.extend((shared.len()..shared.len() + answer.len()).map(|row| row as i64));
            shared.push(answer, Some(parent));
            let whole = [prompt.clone(), answer.clone()].concat();
            separate_rows.extend((separate.len() + prompt.len()..separate.len() + whole.len()).map(|row| row as i64));
            separate.push(&whole, None);
            targets.extend(answer.iter().rev());
        }
        let targets = Tensor::from_slice(&targets);
        let run = |batch: &FlatBatch, rows: &[i64]| {
            clear(&model);
            let forward = model.forward_train(batch, Some(&Tensor::from_slice(rows)), None);
            let stats = model.backward(forward, &targets, &Over::full(), &mut |_, logprobs| logprobs.full_like(-1.0));
            (stats.logprobs, grads(&model))
        };
        let (one, other) = (run(&shared, &shared_rows), run(&separate, &separate_rows));
        prop_assert!(distance(&one.0, &other.0) < SHAPES);
        for (one, other) in one.1.iter().zip(&other.1) {
            prop_assert!(distance(one, other) < 1e-4 * other.abs().max().double_value(&[]).max(1.0));
        }
    }
}

/// Documents of `length` tokens, from a formula.
fn documents(count: usize, length: usize) -> Vec<Vec<i64>> {
    (0..count).map(|document| (0..length).map(|at| ((document * 37 + at * 11) % 311 + 2) as i64).collect()).collect()
}

#[test]
fn blocks_of_many_documents_equal_each_alone() {
    for name in ["qwen2_tied_gqa", "qwen2_sliding"] {
        let model = CausalLm::load(&tiny(name), &frozen(Kind::Float)).unwrap();
        let mut documents = documents(9, 70);
        documents.insert(4, (0..300).map(|at| at % 310 + 2).collect());
        let mut batch = FlatBatch::new();
        for document in &documents {
            batch.push(document, None);
        }
        let answers: Vec<usize> = (0..3).map(|shift| batch.push(&documents[shift][..30], Some(4))).collect();
        let hidden = model.hidden(&batch, None);
        for segment in (0..documents.len()).chain(answers) {
            let mut alone = FlatBatch::new();
            alone.push(&path(&batch, segment), None);
            let range = batch.segments()[segment].range.clone();
            let length = range.len() as i64;
            let expected = model.hidden(&alone, None).narrow(0, alone.len() as i64 - length, length);
            let found = distance(&hidden.narrow(0, range.start as i64, length), &expected);
            assert!(found < 2e-5, "{name} segment {segment}: {found}");
        }
    }
}

#[test]
fn changing_one_document_leaves_the_others_bit_for_bit() {
    let model = CausalLm::load(&tiny("qwen3_tied_gqa"), &frozen(Kind::Float)).unwrap();
    let logits = |first: &[i64]| {
        let mut batch = FlatBatch::new();
        batch.push(first, None);
        batch.push(&[9, 8, 7, 6, 5], None);
        model.head().logits(&model.hidden(&batch, None)).narrow(0, first.len() as i64, 5)
    };
    assert!(logits(&[3, 4, 5]).equal(&logits(&[3, 100, 200])));
}

#[test]
fn cached_logits_equal_uncached_ones() {
    for name in NEWER.into_iter().chain(["qwen1_plain"]) {
        let model = CausalLm::load(&tiny(name), &frozen(Kind::Float)).unwrap();
        let sequences = [documents(1, 30).remove(0), documents(2, 26).remove(1), documents(3, 12).remove(2)];
        let (mut prompts, mut cache) = (FlatBatch::new(), model.backbone.cache(3));
        let lengths = [21, 17, 3];
        for (sequence, &length) in sequences.iter().zip(&lengths) {
            prompts.push(&sequence[..length], None);
        }
        let (_, prefilled) = model.backbone.prefill(&prompts, &Tensor::from_slice(&[0i64]));
        for segment in prompts.segments() {
            cache.push(&prefilled, &segment.range);
        }
        for step in 0..9 {
            let tokens: Vec<i64> = (0..3).map(|row| sequences[row][lengths[row] + step]).collect();
            let cached = model.head().logits(&model.backbone.decode(&mut cache, &tokens, &lengths));
            for row in 0..3 {
                let mut whole = FlatBatch::new();
                whole.push(&sequences[row][..=lengths[row] + step], None);
                let expected = model.head().logits(&model.hidden(&whole, None).narrow(0, whole.len() as i64 - 1, 1));
                let found = distance(&cached.narrow(0, row as i64, 1), &expected);
                assert!(found < SHAPES, "{name} row {row} step {step}: {found}");
            }
        }
        cache.swap_remove(0);
        assert_eq!(cache.lengths(), [12, 26]);
        let cached = model.head().logits(&model.backbone.decode(&mut cache, &[5, 6], &[3, 17]));
        let mut whole = FlatBatch::new();
        whole.push(&[&sequences[2][..12], &[5]].concat(), None);
        let expected = model.head().logits(&model.hidden(&whole, None).narrow(0, 12, 1));
        assert!(distance(&cached.narrow(0, 0, 1), &expected) < SHAPES, "{name} after a row left");
    }
}

#[test]
fn extrapolated_generation_freezes_the_factor_of_the_prompt() {
    let mut model = CausalLm::load(&tiny("qwen1_ntk_logn"), &frozen(Kind::Float)).unwrap();
    model.extrapolate();
    // Beyond seq_length = 16 but within its double, α stays 3: cached and whole passes agree.
    let sequence = documents(1, 30).remove(0);
    let (mut prompt, mut cache) = (FlatBatch::new(), model.backbone.cache(1));
    prompt.push(&sequence[..20], None);
    let (_, prefilled) = model.backbone.prefill(&prompt, &Tensor::from_slice(&[0i64]));
    cache.push(&prefilled, &(0..20));
    for at in 20..30 {
        let cached = model.head().logits(&model.backbone.decode(&mut cache, &[sequence[at]], &[20]));
        let mut whole = FlatBatch::new();
        whole.push(&sequence[..=at], None);
        let expected = model.head().logits(&model.hidden(&whole, None).narrow(0, at as i64, 1));
        assert!(distance(&cached, &expected) < SHAPES, "position {at}");
    }
}

/// One backward pass over documents with this recomputation and dropout; the gradients.
fn gradients_with(recompute_layers: bool, dropout: Option<Dropout>) -> Vec<Tensor> {
    let options = crate::ModelOptions { recompute_layers, ..trainable() };
    let model = CausalLm::load(&tiny("qwen3_tied_gqa"), &options).unwrap();
    for documents in [documents(3, 20), documents(2, 9)] {
        let mut batch = FlatBatch::new();
        for document in &documents {
            batch.push(document, None);
        }
        let forward = model.forward_train(&batch, None, dropout);
        let targets = Tensor::from_slice(batch.tokens());
        model.backward(forward, &targets, &Over::full(), &mut |_, logprobs| logprobs.full_like(-0.01));
    }
    grads(&model)
}

#[test]
fn recomputed_layers_give_the_same_gradients() {
    let _generator = align_kernels::seeded(0);
    let dropout = Some(Dropout { p: 0.1, key: 42 });
    for dropout in [None, dropout] {
        for (kept, recomputed) in gradients_with(false, dropout).iter().zip(&gradients_with(true, dropout)) {
            assert!(kept.equal(recomputed));
        }
    }
    // In the same test, since libtorch's generator is one for the process: masks are a function of the key
    // alone.
    let gradient = |key| gradients_with(false, Some(Dropout { p: 0.1, key })).swap_remove(3);
    assert!(gradient(1).equal(&gradient(1)));
    assert!(!gradient(1).equal(&gradient(2)));
}

#[test]
fn the_analytic_head_gradient_equals_autograd() {
    let model = CausalLm::load(&tiny("qwen2_untied_mqa"), &trainable()).unwrap();
    let head = &model.parameters().last().unwrap().tensor;
    let hidden =
        Tensor::from_slice(&(0..6 * 48).map(|at| ((at * 7919 % 1000) as f32) / 500.0 - 1.0).collect::<Vec<_>>());
    let hidden = hidden.view([6, 48]).set_requires_grad(true);
    let targets = Tensor::from_slice(&[3i64, 300, 5, 7, 7, 100]);
    let nucleus: Vec<Vec<i64>> =
        vec![vec![3, 4], vec![300], vec![1, 2, 5], vec![7, 8, 9, 10], (0..313).collect(), vec![99, 100]];
    let weights = Tensor::from_slice(&[0.5f32, -1.0, 2.0, 0.25, 1.0, -0.5]);
    for over in
        [Over::full(), Over { temperature: 0.7, nucleus: None }, Over { temperature: 1.3, nucleus: Some(&nucleus) }]
    {
        // The same by autograd over whole rows.
        let mut logits = hidden.linear::<&Tensor>(head, None) / over.temperature;
        if let Some(nucleus) = over.nucleus {
            let mask = Tensor::full([6, 313], f64::NEG_INFINITY, (Kind::Float, HOST));
            for (row, kept) in nucleus.iter().enumerate() {
                let _ = mask.get(row as i64).index_fill_(0, &Tensor::from_slice(kept), 0.0);
            }
            logits += mask;
        }
        let all = logits.log_softmax(-1, Kind::Float);
        let logprobs = all.gather(1, &targets.unsqueeze(1), false).squeeze_dim(1);
        let expected = Tensor::run_backward(&[(&logprobs * &weights).sum(Kind::Float)], &[&hidden, head], false, false);
        let entropy = -(all.exp() * all.nan_to_num(0.0, 0.0, 0.0)).sum_dim_intlist(-1, false, Kind::Float);

        let mut head = head.shallow_clone();
        head.zero_grad();
        let (stats, grad) = model.head().gradient(&hidden, &targets, &over, &mut |rows, logprobs| {
            assert_eq!(logprobs.size(), [rows.len() as i64]);
            weights.narrow(0, rows.start as i64, rows.len() as i64)
        });
        assert!(distance(&stats.logprobs, &logprobs.detach()) < 1e-5);
        assert!(distance(&stats.entropy, &entropy.detach()) < 1e-5);
        assert!(distance(&grad, &expected[0]) < 1e-5);
        assert!(distance(&head.grad(), &expected[1]) < 1e-5);
        let again = model.logprobs(&hidden, &targets, &over);
        assert!(again.logprobs.equal(&stats.logprobs), "with and without a gradient, the same bits");
    }
}

/// Asked for at some places, one of them twice, hidden states and gradients are those of all places.
#[test]
fn some_places_are_computed_as_all_are() {
    let mut batch = FlatBatch::new();
    let prompt = batch.push(&[3, 1, 4, 1, 5], None);
    batch.push(&[9, 2, 6], Some(prompt));
    batch.push(&[5, 3, 5, 8, 9, 7], Some(prompt));
    let places = Tensor::from_slice(&[4i64, 6, 4, 13, 9]);
    let weights = Tensor::from_slice(&[1.0f32, -2.0, 0.5, 3.0, -1.5]);
    for name in NEWER {
        for recompute_layers in [false, true] {
            let options = ModelOptions { recompute_layers, ..trainable() };
            let model = ScalarModel::load(&tiny(name), &options, 1).unwrap();
            let learned = |forward: Forward, read: Option<&Tensor>| {
                model.parameters().iter().for_each(|parameter| drop(parameter.tensor.grad().zero_()));
                let all = forward.hidden.shallow_clone();
                let hidden = read.map_or_else(|| all.shallow_clone(), |read| all.index_select(0, read));
                model.backward(forward, &(model.scalars(&hidden) * &weights).sum(Kind::Float));
                let grads = model.parameters().iter().map(|parameter| parameter.tensor.grad().copy());
                (hidden.detach(), grads.collect::<Vec<_>>())
            };
            let (all, all_grads) = learned(model.forward_train(&batch, None, None), Some(&places));
            let (some, some_grads) = learned(model.forward_train(&batch, Some(&places), None), None);
            assert!(distance(&some, &all) < 1e-5, "{name}");
            for ((one, other), parameter) in some_grads.iter().zip(&all_grads).zip(model.parameters()) {
                let largest = other.abs().max().double_value(&[]);
                assert!(distance(one, other) <= 1e-5 * largest.max(1e-3), "{name} {}", parameter.name);
            }
            let frozen = model.hidden_at(&batch, &places, None);
            assert!(frozen.equal(&some), "{name}: with and without a gradient, the same bits");
        }
    }
}
