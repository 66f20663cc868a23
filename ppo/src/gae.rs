//! Credit assignment: generalised advantage estimation.

use crate::masked::{self, Mask, Table};

/// The parameters of GAE.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GaeParams {
    /// Discount per token.
    pub gamma: f64,
    /// Weight of longer estimates: 0 relies on the value model, 1 on the rewards.
    pub gae_lambda: f64,
}

/// The result of GAE; 0 outside the mask.
#[derive(Debug, Clone, PartialEq)]
pub struct Credit {
    /// (B, R): how much higher the return is than the value model's estimate. Not whitened.
    pub advantages: Table,
    /// (B, R): advantages + values, the value model's targets.
    pub returns: Table,
}

/// Generalised advantage estimation, backwards over each response:
/// `δ_t = r_t + γ·V_{t+1} − V_t`, `A_t = δ_t + γ·λ·A_{t+1}`, with V = A = 0 after the last token.
///
/// `values[t]` is the value before token t, so that `values[0]` is the value of the prompt. Entries outside
/// the mask are never read.
///
/// # Shapes
/// All (B, R).
///
/// # Panics
/// When shapes differ or a row's mask is not a prefix.
///
/// Source: arXiv 1506.02438, equations 11, 12 and 16.
pub fn gae(rewards: &Table, values: &Table, response_mask: &Mask, params: &GaeParams) -> Credit {
    assert_eq!(rewards.dim(), response_mask.dim(), "rewards and mask must have one shape");
    assert_eq!(values.dim(), response_mask.dim(), "values and mask must have one shape");
    let mut advantages = Table::zeros(rewards.raw_dim());
    let mut returns = Table::zeros(rewards.raw_dim());
    for (row, length) in masked::lengths(response_mask).into_iter().enumerate() {
        let (mut next_value, mut next_advantage) = (0.0, 0.0);
        for at in (0..length).map(|token| (row, token)).rev() {
            let delta = rewards[at] + params.gamma * next_value - values[at];
            next_advantage = delta + params.gamma * params.gae_lambda * next_advantage;
            next_value = values[at];
            advantages[at] = next_advantage;
            returns[at] = next_advantage + next_value;
        }
    }
    Credit { advantages, returns }
}

#[cfg(test)]
mod tests {
    use crate::masked::{mask, table};
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;

    fn close(found: &Table, expected: &Table) {
        assert!((found - expected).iter().all(|difference| difference.abs() < 1e-12), "{found} is not {expected}");
    }

    #[test]
    fn three_tokens_by_hand() {
        let params = GaeParams { gamma: 1.0, gae_lambda: 0.95 };
        let credit = gae(&array![[0.0, 0.0, 1.0]], &array![[0.5, 0.4, 0.3]], &mask(&[3]), &params);
        close(&credit.advantages, &array![[0.43675, 0.565, 0.7]]);
        close(&credit.returns, &array![[0.93675, 0.965, 1.0]]);
    }

    #[test]
    fn columns_after_the_response_change_nothing() {
        let params = GaeParams { gamma: 1.0, gae_lambda: 0.95 };
        let wide = gae(
            &array![[0.0, 0.0, 1.0, 7.0, f64::NAN]],
            &array![[0.5, 0.4, 0.3, 9.0, f64::NAN]],
            &array![[true, true, true, false, false]],
            &params,
        );
        close(&wide.advantages, &array![[0.43675, 0.565, 0.7, 0.0, 0.0]]);
        close(&wide.returns, &array![[0.93675, 0.965, 1.0, 0.0, 0.0]]);
    }

    fn rows() -> impl Strategy<Value = Vec<Vec<(f64, f64)>>> {
        prop::collection::vec(prop::collection::vec((-2.0..2.0f64, -2.0..2.0f64), 0..6), 1..4)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn without_discount_advantage_is_the_reward_to_come_less_the_value(rows in rows()) {
            let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
            let (rewards, values): (Vec<f64>, Vec<f64>) = rows.concat().into_iter().unzip();
            let params = GaeParams { gamma: 1.0, gae_lambda: 1.0 };
            let credit = gae(&table(&rewards, &lengths), &table(&values, &lengths), &mask(&lengths), &params);
            for (row, tokens) in rows.iter().enumerate() {
                for token in 0..tokens.len() {
                    let to_come: f64 = tokens[token..].iter().map(|(reward, _)| reward).sum();
                    prop_assert!((credit.advantages[(row, token)] - (to_come - tokens[token].1)).abs() < 1e-9);
                    prop_assert!((credit.returns[(row, token)] - to_come).abs() < 1e-9);
                }
            }
        }

        #[test]
        fn with_lambda_0_advantage_is_one_step_of_surprise(rows in rows(), gamma in 0.0..1.0f64) {
            let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
            let (rewards, values): (Vec<f64>, Vec<f64>) = rows.concat().into_iter().unzip();
            let params = GaeParams { gamma, gae_lambda: 0.0 };
            let credit = gae(&table(&rewards, &lengths), &table(&values, &lengths), &mask(&lengths), &params);
            for (row, tokens) in rows.iter().enumerate() {
                for (token, (reward, value)) in tokens.iter().enumerate() {
                    let next = tokens.get(token + 1).map_or(0.0, |(_, value)| *value);
                    prop_assert!((credit.advantages[(row, token)] - (reward + gamma * next - value)).abs() < 1e-12);
                }
            }
        }
    }
}
