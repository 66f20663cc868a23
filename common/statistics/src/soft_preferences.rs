//! The win rate of soft preferences.

/// The win rate over preferences.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoftWinRate {
    /// The mean preference.
    pub win_rate: f64,
    /// Its standard error: the standard deviation (with n − 1) / √n; NaN for a single preference.
    pub standard_error: f64,
    /// Preferences above ½.
    pub wins: u64,
    /// Preferences of exactly ½.
    pub draws: u64,
    /// How many there are.
    pub count: u64,
}

/// The win rate of probabilities from 0 to 1 that a response is better than the baseline's; `None` without
/// any.
///
/// Source: X. Li et al., AlpacaEval (2023).
pub fn soft_win_rate(preferences: &[f64]) -> Option<SoftWinRate> {
    let count = preferences.len() as f64;
    if preferences.is_empty() {
        return None;
    }
    let mean = preferences.iter().sum::<f64>() / count;
    let squares: f64 = preferences.iter().map(|preference| (preference - mean).powi(2)).sum();
    let of = |is: &dyn Fn(f64) -> bool| preferences.iter().filter(|&&preference| is(preference)).count() as u64;
    Some(SoftWinRate {
        win_rate: mean,
        standard_error: (squares / (count - 1.0)).sqrt() / count.sqrt(),
        wins: of(&|preference| preference > 0.5),
        draws: of(&|preference| preference == 0.5),
        count: preferences.len() as u64,
    })
}
