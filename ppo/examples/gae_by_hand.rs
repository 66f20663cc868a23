//! Rewards, advantages and returns from a score, token by token: `cargo run --release -p align-ppo --example
//! gae_by_hand`.
#![allow(clippy::print_stdout)] // An example shows what it does.

use align_ppo::gae::{GaeParams, gae};
use align_ppo::masked::{mask, table, whiten};
use align_ppo::rewards::{kl_k1, token_rewards};

fn main() {
    // Two responses of three and two tokens to the same prompt, with the log-probabilities and values of
    // their tokens.
    let lengths = [3, 2];
    let logprobs = table(&[-0.9, -1.2, -0.3, -0.7, -0.5], &lengths); // (B, R)
    let ref_logprobs = table(&[-1.0, -1.1, -0.4, -0.7, -0.6], &lengths);
    let values = table(&[0.5, 0.4, 0.3, 0.5, 0.2], &lengths); // before each token
    let scores = [1.0, -0.5]; // of whole responses, normalised
    let response_mask = mask(&lengths);

    // A reward for every token: the KL penalty, and the score on the last one.
    let kl = kl_k1(&logprobs, &ref_logprobs, &response_mask);
    let rewards = token_rewards(&scores, &kl, &response_mask, 0.04);

    // δ = r + γ·V' − V, A = δ + γ·λ·A', from the last token backwards.
    let credit = gae(&rewards, &values, &response_mask, &GaeParams { gamma: 1.0, gae_lambda: 0.95 });
    let advantages = whiten(&credit.advantages, &response_mask);

    println!("response token   reward    value  advantage  whitened  return");
    for (response, length) in lengths.into_iter().enumerate() {
        for token in 0..length {
            let at = (response, token);
            println!(
                "{response:>8} {token:>5} {:>8.3} {:>8.3} {:>10.3} {:>9.3} {:>7.3}",
                rewards[at], values[at], credit.advantages[at], advantages[at], credit.returns[at]
            );
        }
    }
}
